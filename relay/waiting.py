"""Waiting for a word or for a while, whichever comes first. By the loop's time, which tests and the simulation make their own."""

import asyncio
from contextlib import suppress


async def pause(seconds: float, until: asyncio.Event) -> bool:
    """Waits so long, or until the event is set; gives whether it is."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await until.wait()
    return until.is_set()


async def first_of(*events: asyncio.Event, within_s: float | None = None) -> None:
    """Waits until one of these events is set, at most so long."""
    waits = [asyncio.ensure_future(one.wait()) for one in events]
    try:
        await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waits:
            one.cancel()
