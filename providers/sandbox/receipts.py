"""What emulated vendors report later of what they took, and how they bring it: a call to the relay that nobody waits for.

A vendor that has receipts gives its form (`providers.sandbox.receipt_forms`): what the account has to be set up with, and the
call for one event, by the vendor's sheet.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import aiohttp

from providers.sandbox.checks import Json

AFTER_S = 0.5  # vendors collect for about a second (sheet meizu §7)
CALL_S = 5.0
CALLS_MAX = 1000  # under way at once; what is beyond is not told


class Event(StrEnum):
    DELIVERED = "delivered"
    CLICKED = "clicked"
    UNINSTALLED = "uninstalled"  # the app is gone, which the vendor finds out too late to say so at once
    CAPPED = "capped"  # the device had its share of the day
    BLOCKED = "blocked"  # it had so much that it gets nothing for a while


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One event, of one message on one phone. `name` is the vendor's of the message, `nonce` fresh for each call."""

    event: Event
    target: str
    name: str
    message: Json
    at_ms: int
    nonce: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """What an operator has entered at the vendor: where receipts go, and by which name and secret they are signed."""

    url: str
    user: str | None = None
    secret: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    url: str
    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Form(Protocol):
    """A vendor's receipts."""

    def settings(self, url: str) -> Json:
        """The account's table `receipts`, for a relay that takes them at `url`."""
        ...

    def console(self, url: str) -> Console | None:
        """What has to be entered at the vendor for that; None: nothing, each message says where."""
        ...

    def post(self, told: Told, console: Console | None) -> Post | None:
        """The call; None if nobody asked for this one, or the vendor has no such receipt."""
        ...


class Reporter:
    """Makes the calls, each once, until the sandbox is `stopping`; counts what became of them in `outcomes`."""

    def __init__(self, outcomes: Counter[str], stopping: asyncio.Event) -> None:
        self._outcomes = outcomes
        self._stopping = stopping
        self._calls: set[asyncio.Task[None]] = set()

    def bring(self, post: Post) -> None:
        """In a moment, in the background."""
        if len(self._calls) < CALLS_MAX:
            task = asyncio.get_running_loop().create_task(self._bring(post), name="sandbox-receipt")
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    async def aclose(self) -> None:
        """Whoever has not been told yet never is."""
        calls = list(self._calls)
        for task in calls:
            task.cancel()
        for task in calls:
            with suppress(asyncio.CancelledError):
                await task

    async def _bring(self, post: Post) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(AFTER_S):
                await self._stopping.wait()
                return
        headers = {"Content-Type": post.content_type, **post.headers}
        try:
            timeout = aiohttp.ClientTimeout(total=CALL_S)
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.post(post.url, data=post.body, headers=headers, allow_redirects=False) as answer,
            ):
                self._outcomes[f"receipt:{answer.status}"] += 1
        except (aiohttp.ClientError, TimeoutError, ValueError):
            self._outcomes["receipt:unreachable"] += 1
