"""Waiting ends with the word or with the while, and leaves nothing behind."""

import asyncio

import pytest

from relay.waiting import first_of, pause


async def test_a_pause_ends_when_its_time_is_over_and_says_that_nothing_was_said() -> None:
    assert not await pause(0, asyncio.Event())


async def test_a_pause_ends_with_the_word() -> None:
    word = asyncio.Event()
    waiting = asyncio.create_task(pause(60, word))
    await asyncio.sleep(0)  # noqa: TID251 - it waits
    word.set()
    assert await waiting


@pytest.mark.parametrize("place", [0, 1])
async def test_the_first_of_several_words_ends_the_waiting(place: int) -> None:
    words = [asyncio.Event(), asyncio.Event()]
    before = asyncio.all_tasks()
    waiting = asyncio.create_task(first_of(*words))
    while len(asyncio.all_tasks() - before) <= len(words):
        await asyncio.sleep(0)  # noqa: TID251 - until it waits for both
    words[place].set()
    await waiting
    await asyncio.sleep(0)  # noqa: TID251 - what was cancelled ends
    assert asyncio.all_tasks() == before


async def test_without_a_word_the_waiting_ends_in_time() -> None:
    before = asyncio.all_tasks()
    await first_of(asyncio.Event(), within_s=0)
    await asyncio.sleep(0)  # noqa: TID251
    assert asyncio.all_tasks() == before
