"""What every adapter that speaks HTTP has to keep to, as a pytest class: fill in the samples, inherit the tests.

Needs pytest and hypothesis. Nothing outside of tests imports this.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from providers.contract import Outcome, ProviderConfig, Push, Transport, Verdict, slimmer
from providers.http import HttpProvider, Reason, Request, Response, TransportError
from providers.loading import SettingsInvalid, configured

__all__ = ["NOW_S", "ProviderContract", "Scripted"]

NOW_S = 1_764_000_000.0

_fuzz = settings(
    deadline=None,
    database=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
_some = settings(parent=_fuzz, max_examples=25)


class Scripted:
    """A transport that answers from a script and remembers what it was asked."""

    def __init__(self, answer: Callable[[Request], Response]) -> None:
        self.answer = answer
        self.requests: list[Request] = []

    async def __call__(self, request: Request, /) -> Response:
        self.requests.append(request)
        await asyncio.sleep(0)  # noqa: TID251 - lets rivals run, passes no time
        return self.answer(request)


def _run(work: Coroutine[Any, Any, Outcome]) -> Outcome:
    return asyncio.run(work)


def _always(response: Response) -> Callable[[Request], Response]:
    return lambda _: response


def _each(*responses: Response) -> Callable[[Request], Response]:
    left = iter(responses)
    return lambda _: next(left)


def _secrets_of(config: Any) -> list[str]:
    """Every SecretStr in the settings, however deep."""
    if isinstance(config, SecretStr):
        return [config.get_secret_value()]
    if isinstance(config, Mapping):
        return [secret for value in config.values() for secret in _secrets_of(value)]
    if isinstance(config, list | tuple):
        return [secret for value in config for secret in _secrets_of(value)]
    fields = getattr(type(config), "model_fields", None)
    if isinstance(fields, dict):
        return [secret for name in fields for secret in _secrets_of(getattr(config, name))]
    return []


class ProviderContract:
    """Inherit as `TestAcme`, and say: provider, settings, token, login (if it logs in), answers."""

    provider: ClassVar[type[HttpProvider]]
    settings: ClassVar[Mapping[str, Any]]
    token: ClassVar[str]
    login: ClassVar[Response | None] = None
    answers: ClassVar[Mapping[str, tuple[Response, Verdict]]]
    one_dead: ClassVar[tuple[str, Response] | None] = (
        None  # a vendor with batches: a token, and the answer that names it
    )
    content_per_token: ClassVar[bool] = False  # its batches say the content again for each token
    dead_statuses: ClassVar[frozenset[int]] = frozenset()  # vendors whose bare status means dead

    idle: ClassVar[HttpProvider]  # filled in here
    checked: ClassVar[ProviderConfig]  # and here

    # What the tests are made of.

    @property
    def config(self) -> ProviderConfig:
        """Read once for all tests: it never changes, and looking at a private key takes a while."""
        cls = type(self)
        if "checked" not in vars(cls):
            cls.checked = configured(self.provider, self.settings)
        return cls.checked

    def made(self, transport: Transport) -> HttpProvider:
        return self.provider(self.config, transport=transport, now=lambda: NOW_S)

    def unused(self) -> HttpProvider:
        """One for encoding and decoding, which are pure: so the same for all tests."""
        cls = type(self)
        if "idle" not in vars(cls):
            cls.idle = self.made(Scripted(_always(Response(status=500))))
        return cls.idle

    def push(self, **fields: Any) -> Push:
        return Push(
            **{"id": "m-0001", "token": self.token, "title": "Telltale title", "body": "Telltale body", **fields}
        )

    def is_login(self, request: Request) -> bool:
        return self.login is not None and not self.carries_token(request)

    def carries_token(self, request: Request) -> int:
        """How often the token stands in the request, however written."""
        return _count(request, self.token)

    def scripted(self, answer: Callable[[Request], Response]) -> Scripted:
        """Logins get the sample login, pushes get `answer`."""
        return Scripted(lambda request: self.login if self.login and self.is_login(request) else answer(request))

    def sample(self, verdict: Verdict) -> Response | None:
        return next((response for response, said in self.answers.values() if said is verdict), None)

    # Settings.

    def test_unknown_settings_are_refused(self) -> None:
        with pytest.raises(SettingsInvalid):
            configured(self.provider, {**self.settings, "surprise": 1})
        with pytest.raises(ValidationError):
            self.provider.Config.model_validate({**self.settings, "surprise": 1})

    def test_settings_never_change(self) -> None:
        config = self.config
        with pytest.raises(ValidationError):
            setattr(config, next(iter(type(config).model_fields)), "other")

    def test_secrets_never_show(self) -> None:
        config = self.config
        provider = self.unused()
        request = provider.encode(self.push(), "s3cr3t-credential")
        shown = "\n".join([repr(config), str(config), repr(provider), repr(vars(provider)), repr(request)])
        for secret in (*_secrets_of(config), "s3cr3t-credential", self.token, "Telltale"):
            assert secret not in shown

    def test_a_mistake_in_a_secret_does_not_show_it(self) -> None:
        for key, field in self.provider.Config.model_fields.items():
            if field.annotation in (SecretStr, SecretStr | None) and key in self.settings:
                with pytest.raises(SettingsInvalid) as caught:
                    configured(self.provider, {**self.settings, key: ["s3cr3t-mistake"]})
                assert "s3cr3t-mistake" not in f"{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"

    # Requests.

    def test_encoding_is_pure(self) -> None:
        push = self.push(data={"k": "v"}, badge=3, collapse_key="c", click="https://app.example/x")
        provider = self.unused()
        first, second = provider.encode(push, "c1"), provider.encode(push, "c1")
        assert first == second
        assert (first.body, dict(first.headers)) == (second.body, dict(second.headers))

    def test_a_request_is_https_and_carries_the_token_once(self) -> None:
        request = self.unused().encode(self.push(), "c1")
        assert request.url.startswith("https://")
        assert self.carries_token(request) == 1

    def test_every_kind_of_push_is_encoded(self) -> None:
        provider = self.unused()
        full = self.push(
            image="https://app.example/i.png",
            data={"from": "x", "google.x": "y", "relay": "z", "title": "t", "é": "\ud800"},
            badge=0,
            sound="s.caf",
            channel="chat",
            thread="t",
            click="OPEN",
            mutable=True,
            title_loc_key="T",
            title_loc_args=("a", "\ud800"),
            body_loc_key="B",
            collapse_key="é" * 200,
            relay={"v": 1, "ids": ["a"]},
        )
        for push in (full, replace(full, urgent=False, ttl_s=0), self.push(title=None, body=None), self.push(title="")):
            assert provider.encode(push, "c1").body

    def test_line_breaks_reach_no_head(self) -> None:
        for text in ("a\r\nx-evil: 1", "a\nb", "a\rb", "a\x00b", "a b", "é", "\ud800"):
            scripted = self.scripted(_always(Response(status=500)))
            push = self.push(id=text, token=text, collapse_key=text, channel=text, thread=text, sound=text, click=text)
            _run(self.made(scripted).send(push))
            for request in scripted.requests:
                head = [request.url, *request.headers, *request.headers.values()]
                assert all(part.isascii() and part.isprintable() for part in head)

    def test_an_oversized_push_is_noticed_before_it_is_sent(self) -> None:
        scripted = self.scripted(_always(Response(status=500)))
        much = "x" * (self.provider.capabilities.payload_bytes_max + 1)
        push = self.push(body=much, data={"much": much})  # some vendors take a cut body
        assert _run(self.made(scripted).send(push)).verdict is Verdict.TOO_LARGE
        assert all(self.is_login(request) for request in scripted.requests)

    def test_ids_are_cut_before_the_message_is(self) -> None:
        push = self.push(relay={"v": 1, "ids": ["i" * 64] * self.provider.capabilities.payload_bytes_max})
        assert slimmer(push) is not None
        scripted = self.scripted(_always(next(iter(self.answers.values()))[0]))
        assert _run(self.made(scripted).send(push)).verdict is not Verdict.TOO_LARGE

    def test_the_idempotency_key_follows_the_id(self) -> None:
        if not self.provider.capabilities.idempotent:
            pytest.skip("This vendor does not recognise repeats.")
        provider = self.unused()
        one, two = provider.encode(self.push(id="id-one"), "c1"), provider.encode(self.push(id="id-two"), "c1")
        assert "id-one" in f"{one.url}{dict(one.headers)}{one.body!r}"
        assert (one.url, dict(one.headers), one.body) != (two.url, dict(two.headers), two.body)

    def test_an_unknown_kind_of_address_is_refused(self) -> None:
        scripted = self.scripted(_always(Response(status=500)))
        assert _run(self.made(scripted).send(self.push(kind="pigeon"))).verdict is Verdict.REFUSED
        assert not scripted.requests

    # Answers.

    def test_each_sample_means_what_its_author_says(self) -> None:
        provider = self.unused()
        for name, (response, verdict) in self.answers.items():
            assert provider.decode(response).verdict is verdict, name

    def test_the_samples_cover_what_matters(self) -> None:
        wanted = {Verdict.ACCEPTED, Verdict.RETRY}
        if self.provider.capabilities.tells_dead:
            wanted.add(Verdict.TOKEN_DEAD)
        assert wanted <= {verdict for _, verdict in self.answers.values()}

    @_fuzz
    @given(
        status=st.integers(100, 599) | st.sampled_from([200, 400, 401, 403, 404, 410, 413, 429, 500, 503]),
        headers=st.dictionaries(st.sampled_from(["retry-after", "content-type", "x"]), st.text(max_size=40)),
        body=st.binary(max_size=200)
        | st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["error", "details", "status", "code", "name", "id"]), inner, max_size=4
                )
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    )
    def test_no_answer_raises_or_kills_a_token_by_accident(
        self, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        outcome = self.unused().decode(Response(status=status, headers=headers, body=body))
        if status not in self.dead_statuses:
            assert outcome.verdict is not Verdict.TOKEN_DEAD
        if status >= 500:
            assert outcome.verdict is Verdict.RETRY
        assert outcome.retry_after_s is None or 1 <= outcome.retry_after_s <= 3600

    def test_a_fault_of_the_vendor_is_a_retry_whatever_it_says(self) -> None:
        provider = self.unused()
        for response, _ in self.answers.values():
            for status in (500, 501, 502, 503, 504, 520, 599):
                outcome = provider.decode(replace(response, status=status))
                assert outcome.verdict is Verdict.RETRY

    def test_a_strange_body_is_no_obstacle(self) -> None:
        provider = self.unused()
        strange = (b"", b"[" * 60_000, b'{"a":' * 20_000, b"\xff\xfe", b"null", b'"x"', b"1e999", b"NaN", b"9" * 5000)
        for body in (*strange, *(response.body[:-1] for response, _ in self.answers.values())):
            for status in (200, 400, 401, 404, 429, 503):
                assert provider.decode(Response(status=status, body=body)).verdict is not Verdict.TOKEN_DEAD or (
                    status in self.dead_statuses
                )

    def test_nothing_private_appears_in_an_outcome(self) -> None:
        for response, _ in self.answers.values():
            echo = Response(
                status=response.status,
                headers={**response.headers, "x-echo": self.token},
                body=json.dumps(_echoing(response.json(), self.token)).encode(),
            )
            for answer in (response, echo):
                shown = repr(_run(self.made(self.scripted(_always(answer))).send(self.push())))
                assert self.token not in shown
                assert "Telltale" not in shown

    # Going wrong on the way.

    def test_a_lost_answer_is_a_retry_that_owns_up(self) -> None:
        for sent in (True, False):
            for reason in Reason:

                def broken(_: Request, reason: Reason = reason, sent: bool = sent) -> Response:
                    raise TransportError(reason, sent=sent)

                outcome = _run(self.made(self.scripted(broken)).send(self.push()))
                assert (outcome.verdict, outcome.maybe_sent) == (Verdict.RETRY, sent)

    def test_a_failed_login_sends_nothing(self) -> None:
        if self.login is None:
            pytest.skip("This vendor needs no login.")

        def broken(_: Request) -> Response:
            raise TransportError(Reason.RESET, sent=True)

        scripted = Scripted(broken)
        outcome = _run(self.made(scripted).send(self.push()))
        assert (outcome.verdict, outcome.maybe_sent) == (Verdict.RETRY, False)
        assert not any(self.carries_token(request) for request in scripted.requests)
        for status, verdict in ((503, Verdict.RETRY), (429, Verdict.RETRY), (400, Verdict.MISCONFIGURED)):
            refusing = Scripted(_always(Response(status=status, body=b"<html>")))
            assert _run(self.made(refusing).send(self.push())).verdict is verdict

    def test_a_stale_credential_is_renewed_once_and_only_once(self) -> None:
        stale, good = self.sample(Verdict.REAUTH), self.sample(Verdict.ACCEPTED)
        if self.login is None or stale is None or good is None:
            pytest.skip("This vendor's credential does not go stale.")
        for script, verdict in (([stale, good], Verdict.ACCEPTED), ([stale, stale, good], Verdict.MISCONFIGURED)):
            scripted = self.scripted(_each(*script))
            assert _run(self.made(scripted).send(self.push())).verdict is verdict
            assert sum(self.is_login(request) for request in scripted.requests) == 2
            assert len(scripted.requests) == 4

    def test_reauth_never_leaves(self) -> None:
        for response, _ in self.answers.values():
            outcome = _run(self.made(self.scripted(_always(response))).send(self.push()))
            assert outcome.verdict is not Verdict.REAUTH

    def test_twenty_sends_at_once_ask_for_one_credential(self) -> None:
        if self.login is None:
            pytest.skip("This vendor needs no login.")
        good = self.sample(Verdict.ACCEPTED)
        assert good is not None

        async def twenty(scripted: Scripted) -> list[Outcome]:
            provider = self.made(scripted)
            return await asyncio.gather(*(provider.send(self.push(id=f"m-{n}")) for n in range(20)))

        scripted = self.scripted(_always(good))
        assert {outcome.verdict for outcome in asyncio.run(twenty(scripted))} == {Verdict.ACCEPTED}
        assert sum(self.is_login(request) for request in scripted.requests) == 1

        down = Scripted(_always(Response(status=503)))
        assert {outcome.verdict for outcome in asyncio.run(twenty(down))} == {Verdict.RETRY}
        assert len(down.requests) == 1

    # Many at once.

    def batch(self, tokens: list[str], **fields: Any) -> list[Push]:
        return [self.push(token=token, **fields) for token in tokens]

    def tokens(self, count: int) -> list[str]:
        """Different ones in the vendor's form: the sample, with a number in the place of its end."""
        return [f"{self.token[: -len(str(count))]}{n:0{len(str(count))}d}" for n in range(count)]

    def _batches(self) -> None:
        if self.provider.capabilities.batch_max == 1:
            pytest.skip("This vendor takes one token a call.")

    def test_a_batch_carries_each_token_once_and_the_content_of_one(self) -> None:
        self._batches()
        provider = self.unused()
        pushes = self.batch(self.tokens(3))
        request = provider.encode_many(pushes, "c1")
        assert [_count(request, push.token) for push in pushes] == [1, 1, 1]
        assert _count(request, "Telltale body") == (3 if self.content_per_token else 1)
        assert request == provider.encode_many(pushes, "c1")
        counted = [
            len(one.body) if one.payload_bytes is None else one.payload_bytes
            for one in (request, provider.encode(pushes[0], "c1"))
        ]
        assert counted[0] == counted[1]  # tokens do not count

    @_some
    @given(
        contents=st.lists(st.sampled_from(["a", "b", "c"]), max_size=12),
        picks=st.lists(st.integers(0, 5), min_size=12, max_size=12),
    )
    def test_many_pushes_get_their_own_outcomes_whatever_is_among_them(
        self, contents: list[str], picks: list[int]
    ) -> None:
        good = self.sample(Verdict.ACCEPTED)
        assert good is not None
        tokens = self.tokens(6)
        scripted = self.scripted_many(tokens, _always(good))
        pushes = [self.push(title=f"<{what}>", token=tokens[pick]) for what, pick in zip(contents, picks, strict=False)]
        odd = self.push(kind="pigeon")
        outcomes = asyncio.run(self.made(scripted).send_many([odd, *pushes]))
        assert [one.verdict for one in outcomes] == [Verdict.REFUSED, *[Verdict.ACCEPTED] * len(pushes)]
        calls = [request for request in scripted.requests if self._named(request, tokens)]
        told = [
            (mark, token)
            for call in calls
            for token in self._named(call, tokens)
            for mark in {f"<{what}>" for what in "abc"}
            if _count(call, mark)
        ]
        assert sorted(told) == sorted((str(push.title), push.token) for push in pushes)
        assert all(len(self._named(call, tokens)) <= self.provider.capabilities.batch_max for call in calls)

    def scripted_many(self, tokens: list[str], answer: Callable[[Request], Response]) -> Scripted:
        return Scripted(
            lambda request: answer(request) if self.login is None or self._named(request, tokens) else self.login
        )

    def _named(self, request: Request, tokens: list[str]) -> list[str]:
        text = "\n".join([request.url, *request.headers.values(), request.body.decode("utf-8", "replace")])
        return [token for token in tokens if token in text or quote(token, safe="") in text]

    def test_more_than_fit_into_one_call_make_several(self) -> None:
        self._batches()
        most = self.provider.capabilities.batch_max
        good = self.sample(Verdict.ACCEPTED)
        assert good is not None
        tokens = self.tokens(2 * most + 1)
        scripted = self.scripted_many(tokens, _always(good))
        outcomes = asyncio.run(self.made(scripted).send_many(self.batch(tokens)))
        assert [one.verdict for one in outcomes] == [Verdict.ACCEPTED] * len(tokens)
        calls = [request for request in scripted.requests if self._named(request, tokens)]
        assert len(calls) <= 3
        assert sum(any(_count(call, token) for call in calls) for token in tokens) == len(tokens)

    def test_one_and_a_batch_of_one_mean_the_same(self) -> None:
        provider = self.unused()
        for response, _ in self.answers.values():
            assert provider.decode_many(response, [self.push()]) == [provider.decode(response)]

    def test_a_dead_token_takes_no_other_with_it(self) -> None:
        self._batches()
        assert self.one_dead is not None, "say `one_dead`"
        dead, response = self.one_dead
        others = [token for token in self.tokens(3) if token != dead]
        for place in range(len(others) + 1):
            tokens = [*others[:place], dead, *others[place:]]
            verdicts = [one.verdict for one in self.unused().decode_many(response, self.batch(tokens))]
            wanted = [Verdict.TOKEN_DEAD if token == dead else Verdict.ACCEPTED for token in tokens]
            assert verdicts == wanted

    def test_a_batch_that_is_called_dead_as_a_whole_is_asked_about_one_by_one(self) -> None:
        self._batches()
        dead, good = self.sample(Verdict.TOKEN_DEAD), self.sample(Verdict.ACCEPTED)
        if dead is None or good is None:
            pytest.skip("This vendor's answer never calls a token dead.")
        tokens = self.tokens(3)
        if {one.verdict for one in self.unused().decode_many(dead, self.batch(tokens))} != {Verdict.TOKEN_DEAD}:
            pytest.skip("This vendor calls tokens dead by name alone.")
        scripted = self.scripted_many(tokens, lambda request: dead if _count(request, tokens[1]) else good)
        outcomes = asyncio.run(self.made(scripted).send_many(self.batch(tokens)))
        assert [one.verdict for one in outcomes] == [Verdict.ACCEPTED, Verdict.TOKEN_DEAD, Verdict.ACCEPTED]
        many = self.tokens(min(64, self.provider.capabilities.batch_max))
        one = many[-1]
        scripted = self.scripted_many(many, lambda request: dead if _count(request, one) else good)
        outcomes = asyncio.run(self.made(scripted).send_many(self.batch(many)))
        assert [outcome.verdict for outcome in outcomes[:-1]] == [Verdict.ACCEPTED] * (len(many) - 1)
        assert outcomes[-1].verdict is Verdict.TOKEN_DEAD
        assert len(scripted.requests) <= 4 * len(many).bit_length(), "sought by halves"

    @_some
    @given(status=st.sampled_from([200, 400, 401, 403, 404, 429, 500, 503]), body=st.binary(max_size=100))
    def test_no_answer_to_a_batch_raises_or_kills_a_token_by_accident(self, status: int, body: bytes) -> None:
        self._batches()
        for answer in (body, *(response.body for response, _ in self.answers.values())):
            outcomes = self.unused().decode_many(Response(status=status, body=answer), self.batch(self.tokens(3)))
            assert len(outcomes) == 3
            if status >= 500:
                assert {one.verdict for one in outcomes} == {Verdict.RETRY}
            if answer is body and status not in self.dead_statuses:
                assert Verdict.TOKEN_DEAD not in {one.verdict for one in outcomes}

    def test_a_batch_that_got_lost_or_met_a_stale_credential_fares_as_one_push(self) -> None:
        self._batches()
        tokens = self.tokens(3)
        pushes = self.batch(tokens)

        def broken(_: Request) -> Response:
            raise TransportError(Reason.RESET, sent=True)

        outcomes = asyncio.run(self.made(self.scripted_many(tokens, broken)).send_many(pushes))
        assert [(one.verdict, one.maybe_sent) for one in outcomes] == [(Verdict.RETRY, True)] * 3
        stale, good = self.sample(Verdict.REAUTH), self.sample(Verdict.ACCEPTED)
        if stale is None or good is None:
            return
        for script, verdict in (([stale, good], Verdict.ACCEPTED), ([stale, stale], Verdict.MISCONFIGURED)):
            outcomes = asyncio.run(self.made(self.scripted_many(tokens, _each(*script))).send_many(pushes))
            assert [one.verdict for one in outcomes] == [verdict] * 3


def _count(request: Request, text: str) -> int:
    """How often the text stands in the request, however written."""
    forms = {text, quote(text, safe=""), quote_plus(text), json.dumps(text)[1:-1]}
    whole = "\n".join([request.url, *request.headers.values(), request.body.decode("utf-8", "replace")])
    return max(whole.count(form) for form in forms)


def _echoing(value: Any, echo: str) -> Any:
    """`value` with every text under it replaced, except the words that make up its form."""
    if isinstance(value, dict):
        return {key: item if key == "@type" else _echoing(item, echo) for key, item in value.items()}
    if isinstance(value, list):
        return [_echoing(item, echo) for item in value]
    return f"projects/{echo}" if isinstance(value, str) else value
