"""Which token a client's calls are made with."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import aiohttp
import pytest
from stopped_clock import SetClock

from relay.client.cache import Cache
from relay.client.http import Answer
from relay.client.tokens import TokenKeeper
from relay.client.transports import Gone

T = TypeVar("T")


async def _at_once(what: Callable[[], T]) -> T:
    return what()


async def _no_call(*_: str) -> Answer:
    raise AssertionError("nothing is asked of the relay")


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[TokenKeeper]:
    """The app gives ann's token, and bob's when it is asked again."""
    given = iter(["ann's", "bob's"])

    async def source() -> str:
        return next(given)

    cache = Cache(tmp_path / "a.db", rng=random.Random(1), now_ms=0)
    yield TokenKeeper(source, cache, _at_once, _no_call, asyncio.create_task, SetClock())
    cache.close()


async def test_a_connection_goes_on_with_the_successors_of_its_token(keeper: TokenKeeper) -> None:
    await keeper.take(renew=False)
    token = keeper.newest()
    assert token() == "ann's"
    await keeper.keep({"token": "ann's second"})
    assert token() == keeper.current == "ann's second"


async def test_its_last_words_are_not_said_with_the_token_of_who_signed_in_meanwhile(keeper: TokenKeeper) -> None:
    await keeper.take(renew=False)
    await keeper.keep({"token": "ann's second"})
    token = keeper.newest()
    await keeper.take(renew=True)
    assert keeper.current == "bob's"
    assert token() == "ann's second"
    assert keeper.newest()() == "bob's"


@pytest.mark.parametrize("error", [aiohttp.ServerDisconnectedError(), KeyError("token"), RuntimeError("ann's secret")])
async def test_whatever_the_apps_function_raises_there_is_no_token_for_now(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Its backend answers with a 500, say: the client comes back later, and does not stand still for ever."""

    async def source() -> str:
        raise error

    cache = Cache(tmp_path / "a.db", rng=random.Random(1), now_ms=0)
    with pytest.raises(Gone):
        await TokenKeeper(source, cache, _at_once, _no_call, asyncio.create_task, SetClock()).take(renew=False)
    assert type(error).__name__ in caplog.text
    assert "secret" not in caplog.text
    cache.close()
    with pytest.raises(Gone):
        await TokenKeeper("ann's", cache, _at_once, _no_call, asyncio.create_task, SetClock()).take(renew=False)


async def test_a_token_is_proved_once_the_relay_has_answered_its_handshake(keeper: TokenKeeper) -> None:
    await keeper.take(renew=False)
    assert keeper.proved != keeper.current
    await keeper.keep({"token": "ann's second"})
    assert keeper.proved == keeper.current
    await keeper.take(renew=True)
    assert keeper.proved != keeper.current


@pytest.mark.parametrize(
    "said", [None, "soon", {"token": 5}, {"renew_at": "soon"}, {"renew_at": 5}, {"token": ["ann's"]}]
)
async def test_a_welcome_that_says_nothing_readable_of_the_next_token_leaves_the_one_that_is(
    keeper: TokenKeeper, said: object
) -> None:
    await keeper.take(renew=False)
    await keeper.keep(said)
    assert keeper.current == keeper.proved == "ann's"


@pytest.mark.parametrize("body", ['{"status": "ok"}', '{"token": 5}', '{"renew_at": "soon"}', "[]", "[" * 100_000])
async def test_a_renewal_that_something_before_the_relay_has_answered_is_asked_for_again(
    tmp_path: Path, body: str
) -> None:
    answers = [body, '{"token": "ann\'s second"}']

    async def call(*_: str) -> Answer:
        return Answer(200, answers.pop(0).encode())

    cache, clock = Cache(tmp_path / "a.db", rng=random.Random(1), now_ms=0), SetClock()
    keeper = TokenKeeper("ann's", cache, _at_once, call, asyncio.create_task, clock)
    await keeper.take(renew=False)
    await keeper.keep({"token": None, "renew_at": "1970-01-01T00:00:00Z"})
    for _ in range(20):
        await clock.sleep(0)
    assert (answers, keeper.current) == ([], "ann's second")
    cache.close()


@pytest.mark.parametrize("answer", [{"token": "ann's second"}, {"renew_at": "2030-01-01T00:00:00Z"}])
async def test_a_successor_that_comes_when_the_app_has_brought_another_token_is_not_that_ones(
    tmp_path: Path, answer: dict[str, str]
) -> None:
    given = iter(["ann's", "bob's"])
    asked, came = asyncio.Event(), asyncio.Event()

    async def source() -> str:
        return next(given)

    async def slow(*_: str) -> Answer:
        asked.set()
        await came.wait()
        return Answer(200, json.dumps(answer).encode())

    cache, clock = Cache(tmp_path / "a.db", rng=random.Random(1), now_ms=0), SetClock()
    keeper = TokenKeeper(source, cache, _at_once, slow, asyncio.create_task, clock)
    await keeper.take(renew=False)
    await keeper.keep({"renew_at": "1970-01-01T00:00:00Z"})
    await asyncio.wait_for(asked.wait(), 5)
    await keeper.take(renew=True)
    came.set()
    for _ in range(5):
        await clock.sleep(0)
    assert keeper.current == "bob's" == cache.token_after("bob's")
    assert keeper.proved == "ann's"
    cache.close()


@pytest.mark.parametrize("handshake_first", [True, False])
async def test_of_two_successors_of_one_token_the_first_is_kept(tmp_path: Path, handshake_first: bool) -> None:
    """A handshake and a renewal may each be handed one. Ten minutes after the first use of one, the other ends both."""
    asked, came = asyncio.Event(), asyncio.Event()

    async def slow(*_: str) -> Answer:
        asked.set()
        await came.wait()
        return Answer(200, json.dumps({"token": "by renewal"}).encode())

    async def settle() -> None:
        for _ in range(5):
            await clock.sleep(0)

    cache, clock = Cache(tmp_path / "a.db", rng=random.Random(1), now_ms=0), SetClock()
    keeper = TokenKeeper("ann's", cache, _at_once, slow, asyncio.create_task, clock)
    await keeper.take(renew=False)
    await keeper.keep({"renew_at": "1970-01-01T00:00:00Z"})
    await asyncio.wait_for(asked.wait(), 5)
    await keeper.take(renew=False)  # another connection
    if not handshake_first:
        came.set()
        await settle()
    await keeper.keep({"token": "by handshake"})
    came.set()
    await settle()
    kept = "by handshake" if handshake_first else "by renewal"
    assert keeper.current == kept == cache.token_after("ann's")
    cache.close()


async def test_of_two_successors_that_come_at_the_same_moment_the_first_is_kept(tmp_path: Path) -> None:
    """Neither may take the other's place while that is being written."""
    cache, clock = Cache(tmp_path / "a.db", rng=random.Random(1), now_ms=0), SetClock()

    async def in_its_turn(what: Callable[[], T]) -> T:
        await clock.sleep(0)
        return what()

    keeper = TokenKeeper("ann's", cache, in_its_turn, _no_call, asyncio.create_task, clock)
    await keeper.take(renew=False)
    await asyncio.gather(keeper.keep({"token": "first"}), keeper.keep({"token": "second"}))
    assert keeper.current == keeper.proved == cache.token_after("ann's") == "first"
    cache.close()


async def test_the_successor_that_another_process_has_kept_first_is_used_here_as_well(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "a.db", rng=random.Random(1), now_ms=0)
    here, there = (TokenKeeper("ann's", cache, _at_once, _no_call, asyncio.create_task, SetClock()) for _ in range(2))
    for keeper in (here, there):
        await keeper.take(renew=False)
    await there.keep({"token": "first"})
    await here.keep({"token": "second"})
    assert here.current == there.current == cache.token_after("ann's") == "first"
    cache.close()


async def test_a_successor_that_is_written_while_the_app_brings_another_token_is_not_used(tmp_path: Path) -> None:
    given = iter(["ann's", "bob's"])
    writing, written = asyncio.Event(), asyncio.Event()

    async def source() -> str:
        return next(given)

    async def slowly(what: Callable[[], T]) -> T:
        done = what()
        if cache.token_after("ann's") == "ann's second" and not writing.is_set():
            writing.set()
            await written.wait()
        return done

    cache = Cache(tmp_path / "a.db", rng=random.Random(1), now_ms=0)
    keeper = TokenKeeper(source, cache, slowly, _no_call, asyncio.create_task, SetClock())
    await keeper.take(renew=False)
    keeping = asyncio.create_task(keeper.keep({"token": "ann's second"}))
    await asyncio.wait_for(writing.wait(), 5)
    await keeper.take(renew=True)
    written.set()
    await keeping
    assert keeper.current == "bob's"
    cache.close()


async def test_a_token_that_is_refused_and_has_no_other_is_said_in_the_log_and_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`messages()` has nothing to give then, and would be silent about it for ever."""
    cache = Cache(tmp_path / "a.db", rng=random.Random(1), now_ms=0)
    keeper = TokenKeeper("ann's", cache, _at_once, _no_call, asyncio.create_task, SetClock())
    await keeper.take(renew=False)
    await keeper.keep({"token": "ann's second"})
    cache.put_token("ann's", "ann's third", after="ann's second")  # as another process of the app may have done
    await keeper.take(renew=True)
    assert caplog.text == "", "there is another one to try"
    await keeper.take(renew=True)
    assert "The relay refuses the token" in caplog.text
    assert "third" not in caplog.text
    cache.close()


async def test_a_connection_that_ends_with_the_token_it_began_with_says_nothing_of_its_successor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A socket that stands for a month is closed when its token is over; the successor came long before."""
    cache = Cache(tmp_path / "a.db", rng=random.Random(1), now_ms=0)
    keeper = TokenKeeper("ann's", cache, _at_once, _no_call, asyncio.create_task, SetClock())
    await keeper.take(renew=False)
    await keeper.keep({"token": "ann's second"})
    await keeper.take(renew=True)
    assert keeper.current == "ann's second"
    assert caplog.text == ""
    await keeper.take(renew=True)
    assert "The relay refuses the token" in caplog.text
    cache.close()
