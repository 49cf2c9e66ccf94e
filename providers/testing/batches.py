"""What every adapter does with many pushes at once."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.contract import Verdict
from providers.http import Reason, Request, Response, TransportError
from providers.testing.samples import Samples, some
from providers.testing.scripted import always, count, each


class Batches(Samples):
    """Many at once."""

    def test_a_batch_carries_each_token_once_and_the_content_of_one(self) -> None:
        self._batches()
        provider = self.unused()
        pushes = self.batch(self.tokens(3))
        request = provider.encode_many(pushes, "c1")
        assert [count(request, push.token) for push in pushes] == [1, 1, 1]
        assert count(request, "Telltale body") == (3 if self.content_per_token else 1)
        assert request == provider.encode_many(pushes, "c1")
        counted = [
            len(one.body) if one.payload_bytes is None else one.payload_bytes
            for one in (request, provider.encode(pushes[0], "c1"))
        ]
        assert counted[0] == counted[1]  # tokens do not count

    @some
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
        scripted = self.scripted_many(tokens, always(good))
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
            if count(call, mark)
        ]
        assert sorted(told) == sorted((str(push.title), push.token) for push in pushes)
        assert all(len(self._named(call, tokens)) <= self.provider.capabilities.batch_max for call in calls)

    def test_more_than_fit_into_one_call_make_several(self) -> None:
        self._batches()
        most = self.provider.capabilities.batch_max
        good = self.sample(Verdict.ACCEPTED)
        assert good is not None
        tokens = self.tokens(2 * most + 1)
        scripted = self.scripted_many(tokens, always(good))
        outcomes = asyncio.run(self.made(scripted).send_many(self.batch(tokens)))
        assert [one.verdict for one in outcomes] == [Verdict.ACCEPTED] * len(tokens)
        calls = [request for request in scripted.requests if self._named(request, tokens)]
        assert len(calls) <= 3
        assert sum(any(count(call, token) for call in calls) for token in tokens) == len(tokens)

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

    def test_two_pushes_to_one_token_both_hear_what_became_of_it(self) -> None:
        self._batches()
        good, alone = self.sample(Verdict.ACCEPTED), self.sample(Verdict.TOKEN_DEAD)
        assert good is not None
        assert self.one_dead is not None, "say `one_dead`"
        dead, among = self.one_dead
        other = next(token for token in self.tokens(2) if token != dead)

        def answer(request: Request) -> Response:
            if not count(request, dead):
                return good
            return among if count(request, other) else alone or among

        scripted = self.scripted_many([dead, other], answer)
        outcomes = asyncio.run(self.made(scripted).send_many(self.batch([dead, other, dead, other])))
        wanted = [Verdict.TOKEN_DEAD, Verdict.ACCEPTED] * 2
        assert [one.verdict for one in outcomes] == wanted
        assert [
            one.verdict for one in self.unused().decode_many(among, self.batch([dead, other, dead, other]))
        ] == wanted

    def test_a_batch_that_is_called_dead_as_a_whole_is_asked_about_one_by_one(self) -> None:
        self._batches()
        dead, good = self.sample(Verdict.TOKEN_DEAD), self.sample(Verdict.ACCEPTED)
        if dead is None or good is None:
            pytest.skip("This vendor's answer never calls a token dead.")
        tokens = self.tokens(3)
        found = self.unused().decode_many(dead, self.batch(tokens))
        if {one.verdict for one in found} != {Verdict.TOKEN_DEAD} or {
            one.vendor_code for one in found
        } <= self.provider.each_dead:
            pytest.skip("This vendor calls tokens dead one by one.")
        scripted = self.scripted_many(tokens, lambda request: dead if count(request, tokens[1]) else good)
        outcomes = asyncio.run(self.made(scripted).send_many(self.batch(tokens)))
        assert [one.verdict for one in outcomes] == [Verdict.ACCEPTED, Verdict.TOKEN_DEAD, Verdict.ACCEPTED]
        many = self.tokens(min(64, self.provider.capabilities.batch_max))
        one = many[-1]
        scripted = self.scripted_many(many, lambda request: dead if count(request, one) else good)
        outcomes = asyncio.run(self.made(scripted).send_many(self.batch(many)))
        assert [outcome.verdict for outcome in outcomes[:-1]] == [Verdict.ACCEPTED] * (len(many) - 1)
        assert outcomes[-1].verdict is Verdict.TOKEN_DEAD
        assert len(scripted.requests) <= 4 * len(many).bit_length(), "sought by halves"

    @some
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
            outcomes = asyncio.run(self.made(self.scripted_many(tokens, each(*script))).send_many(pushes))
            assert [one.verdict for one in outcomes] == [verdict] * 3
