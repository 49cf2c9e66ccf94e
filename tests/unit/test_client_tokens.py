"""Which token a client's calls are made with."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from stopped_clock import SetClock

from relay.client.cache import Cache
from relay.client.http import Answer
from relay.client.tokens import TokenKeeper

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


async def test_a_token_is_proved_once_the_relay_has_answered_its_handshake(keeper: TokenKeeper) -> None:
    await keeper.take(renew=False)
    assert keeper.proved != keeper.current
    await keeper.keep({"token": "ann's second"})
    assert keeper.proved == keeper.current
    await keeper.take(renew=True)
    assert keeper.proved != keeper.current
