"""What every adapter makes of an answer, or of none."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.contract import Outcome, Verdict
from providers.http import Reason, Request, Response, TransportError
from providers.testing.samples import Samples, fuzz
from providers.testing.scripted import Scripted, always, each, run


def _echoing(value: Any, echo: str) -> Any:
    """`value` with every text under it replaced, except the words that make up its form."""
    if isinstance(value, dict):
        return {key: item if key == "@type" else _echoing(item, echo) for key, item in value.items()}
    if isinstance(value, list):
        return [_echoing(item, echo) for item in value]
    return f"projects/{echo}" if isinstance(value, str) else value


class Answers(Samples):
    """Answers, and what goes wrong on the way."""

    def test_each_sample_means_what_its_author_says(self) -> None:
        provider = self.unused()
        for name, (response, verdict) in self.answers.items():
            assert provider.decode(response).verdict is verdict, name

    def test_the_samples_cover_what_matters(self) -> None:
        wanted = {Verdict.ACCEPTED, Verdict.RETRY}
        if self.provider.capabilities.tells_dead:
            wanted.add(Verdict.TOKEN_DEAD)
        assert wanted <= {verdict for _, verdict in self.answers.values()}

    @fuzz
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
                shown = repr(run(self.made(self.scripted(always(answer))).send(self.push())))
                assert self.token not in shown
                assert "Telltale" not in shown

    def test_a_lost_answer_is_a_retry_that_owns_up(self) -> None:
        for sent in (True, False):
            for reason in Reason:

                def broken(_: Request, reason: Reason = reason, sent: bool = sent) -> Response:
                    raise TransportError(reason, sent=sent)

                outcome = run(self.made(self.scripted(broken)).send(self.push()))
                assert (outcome.verdict, outcome.maybe_sent) == (Verdict.RETRY, sent)

    def test_a_failed_login_sends_nothing(self) -> None:
        if self.login is None:
            pytest.skip("This vendor needs no login.")

        def broken(_: Request) -> Response:
            raise TransportError(Reason.RESET, sent=True)

        scripted = Scripted(broken)
        outcome = run(self.made(scripted).send(self.push()))
        assert (outcome.verdict, outcome.maybe_sent) == (Verdict.RETRY, False)
        assert not any(self.carries_token(request) for request in scripted.requests)
        for status, verdict in ((503, Verdict.RETRY), (429, Verdict.RETRY), (400, Verdict.MISCONFIGURED)):
            refusing = Scripted(always(Response(status=status, body=b"<html>")))
            assert run(self.made(refusing).send(self.push())).verdict is verdict

    def test_a_stale_credential_is_renewed_once_and_only_once(self) -> None:
        stale, good = self.sample(Verdict.REAUTH), self.sample(Verdict.ACCEPTED)
        if self.login is None or stale is None or good is None:
            pytest.skip("This vendor's credential does not go stale.")
        for script, verdict in (([stale, good], Verdict.ACCEPTED), ([stale, stale, good], Verdict.MISCONFIGURED)):
            scripted = self.scripted(each(*script))
            assert run(self.made(scripted).send(self.push())).verdict is verdict
            assert sum(self.is_login(request) for request in scripted.requests) == 2
            assert len(scripted.requests) == 4

    def test_reauth_never_leaves(self) -> None:
        for response, _ in self.answers.values():
            outcome = run(self.made(self.scripted(always(response))).send(self.push()))
            assert outcome.verdict is not Verdict.REAUTH

    def test_twenty_sends_at_once_ask_for_one_credential(self) -> None:
        if self.login is None:
            pytest.skip("This vendor needs no login.")
        good = self.sample(Verdict.ACCEPTED)
        assert good is not None

        async def twenty(scripted: Scripted) -> list[Outcome]:
            provider = self.made(scripted)
            return await asyncio.gather(*(provider.send(self.push(id=f"m-{n}")) for n in range(20)))

        scripted = self.scripted(always(good))
        assert {outcome.verdict for outcome in asyncio.run(twenty(scripted))} == {Verdict.ACCEPTED}
        assert sum(self.is_login(request) for request in scripted.requests) == 1

        down = Scripted(always(Response(status=503)))
        assert {outcome.verdict for outcome in asyncio.run(twenty(down))} == {Verdict.RETRY}
        assert len(down.requests) == 1
