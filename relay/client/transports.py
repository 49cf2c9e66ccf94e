"""What a way to the relay is, and the one by plain calls: polls, and what the other ways do beside their connection.

The core sees frames, whichever way it is: a call's answer is put into the words of one, `welcome` for the handshake, `ack`
for an ack, `hb` for a heartbeat, pages for a sync, `nothing` for one that brought none.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

import aiohttp

from relay.client import http, wire
from relay.client.http import Problem, Unreachable
from relay.client.steps import Fetch, Reading
from relay.client.wire import Frame
from relay.clock import Clock

SUBPROTOCOL = "relay.v1.json"
OPEN_S = 15.0
FRAME_BYTES_MAX = 8 * 1024 * 1024
CURSOR_STATUS = frozenset({409, 410})
JUDGED = frozenset({401, 403})  # of the token, or of the device
Token = Callable[[], str]  # the newest: an older one that is used beside it would end them all
_Asked = tuple[str | None, tuple[str, ...], tuple[str, ...]]  # cursor, shared cursors, timelines to open
_CALLS = {"hello": ("PUT", "/v1/device"), "ack": ("POST", "/v1/device/ack"), "hb": ("POST", "/v1/device/heartbeat")}
_ANSWERS = {
    "hello": ("welcome", {"verdict", "session", "epoch", "cursors", "head", "missing"}),
    "ack": ("ack", {"acked"}),
    "hb": ("hb", {"head"}),
}  # and what is in any of the relay's


class Way(StrEnum):
    """How to reach the relay, the best first."""

    WEBSOCKET = "websocket"
    SSE = "sse"
    LONG_POLL = "long-poll"
    POLL = "poll"


WAYS = tuple(Way)


class Gone(Exception):  # noqa: N818 - an outcome
    """The connection has ended, or could not be opened."""

    def __init__(self, code: int | None = None, retry_after_s: float | None = None, *, unfit: bool = False) -> None:
        """`unfit`: this way does not work here, another one may."""
        super().__init__(code)
        self.code = code
        self.retry_after_s = retry_after_s
        self.unfit = unfit


class Transport(Protocol):
    """An open way. `receive` raises Gone at its end; the other methods never fail, what goes wrong is received."""

    reading: Reading
    proved: bool  # whether it is known to work once the relay has said welcome

    async def say(self, frame: Mapping[str, Any], *, aside: bool) -> None: ...

    async def fetch(self, wanted: Fetch) -> None: ...

    async def send(self, key: str, message: Mapping[str, Any]) -> dict[str, Any] | None:
        """Sends a message of the device's own; None: it must go by a call. Raises Problem, Unreachable."""
        ...

    async def receive(self) -> Frame: ...

    async def close(self) -> None: ...


def params_of(cursor: str | None, shared: Sequence[str], opened: Sequence[str]) -> list[tuple[str, str]]:
    """Where the client stands, as sync and the stream are asked for what follows."""
    more = [("shared", one) for one in shared] + [("open", one) for one in opened]
    return ([("cursor", cursor)] if cursor else []) + more


class HttpWay:
    """Everything by calls of its own: the poll, the long poll, and what the other ways do beside their connection."""

    reading = Reading.PULLED
    proved = True

    def __init__(self, session: aiohttp.ClientSession, url: str, token: Token, clock: Clock) -> None:
        self._session, self._url, self._token, self._clock = session, url, token, clock
        self._came: asyncio.Queue[Frame | Gone] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_turn = asyncio.Lock()  # words reach the relay in the order in which they were said
        self._pull: asyncio.Task[None] | None = None
        self._told_heads: dict[str, int] = {}
        self._etag: tuple[_Asked, str] | None = None  # of the last answer that was caught up, and what it was about

    async def say(self, frame: Mapping[str, Any], *, aside: bool) -> None:
        if frame["type"] in _CALLS:
            self._later(self._said(frame))

    async def fetch(self, wanted: Fetch) -> None:
        if self._pull is not None:
            self._pull.cancel()  # a new question takes the place of one that still waits
        self._pull = self._later(self._fetched((wanted.cursor, wanted.shared, wanted.open), wanted.wait_s))

    async def send(self, key: str, message: Mapping[str, Any]) -> dict[str, Any] | None:
        return None

    async def receive(self) -> Frame:
        came = await self._came.get()
        if isinstance(came, Gone):
            raise came
        return came

    async def close(self) -> None:
        """Lets the last words be heard, and ends what waits."""
        if self._pull is not None:
            self._pull.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=2)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _later(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _said(self, frame: Mapping[str, Any]) -> None:
        kind = frame["type"]
        method, path = _CALLS[kind]
        body = {name: value for name, value in frame.items() if name not in {"type", "ref"} and value is not None}
        ref = {"ref": frame.get("ref")}
        async with self._in_turn:
            try:
                type_, least = _ANSWERS[kind]
                answer = (await self._call(method, path, body=body)).having(*least)
                self._came.put_nowait({"type": type_, **ref, **answer})
            except Problem as problem:
                self._refused(problem, ref)
            except Unreachable:
                self._came.put_nowait(Gone())

    async def _fetched(self, asked: _Asked, wait_s: float) -> None:
        cursor, shared, opened = asked
        params = params_of(cursor, shared, opened) + ([("wait", str(int(wait_s)))] if wait_s else [])
        known, etag = self._etag or (None, "")
        headers = {"If-None-Match": etag} if known == (cursor, tuple(sorted(shared)), opened) else {}
        began_ms = self._clock.monotonic_ms()
        try:
            answer = await self._call(
                "GET", "/v1/device/sync", params=params, headers=headers, timeout_s=wait_s + http.CALL_S
            )
            if answer.status == 304:
                self._nothing(wait_s, began_ms, {})
                return
            pages, rest = wire.pages(answer.body)
        except Problem as problem:
            self._refused(problem, {})
            return
        except (Unreachable, *http.UNREADABLE):
            self._came.put_nowait(Gone())
            return
        brought = [page for page in pages if page.to_seq > page.from_seq or page.caught_up]
        for page in brought:
            self._came.put_nowait(page)
        if "ETag" in answer.headers:
            cursors = [page.cursor for page in pages]
            self._etag = ((cursors[0], tuple(sorted(one for one in cursors[1:] if one)), ()), answer.headers["ETag"])
        if rest.get("resync") or rest.get("refused"):
            self._came.put_nowait({"type": "follow"} | {name: rest.get(name) or [] for name in ("resync", "refused")})
        if rest.get("shared"):
            self._heads(rest["shared"])
        if all(page.to_seq == page.from_seq for page in pages):
            self._nothing(wait_s, began_ms, rest)

    def _heads(self, listed: Sequence[Mapping[str, Any]]) -> None:
        """Each head is told once."""
        new = [one for one in listed if one["head"] > self._told_heads.get(one["conversation"], -1)]
        self._told_heads.update({one["conversation"]: one["head"] for one in new})
        if new:
            self._came.put_nowait({"type": "heads", "shared": new})

    def _nothing(self, asked_s: float, began_ms: int, rest: Mapping[str, Any]) -> None:
        waited = {"asked_s": asked_s, "waited_s": (self._clock.monotonic_ms() - began_ms) / 1000}
        pause = {"next_poll_s": rest["next_poll_s"]} if "next_poll_s" in rest else {}
        self._came.put_nowait({"type": "nothing", **waited, **pause})

    def _refused(self, problem: Problem, ref: Mapping[str, Any]) -> None:
        if problem.status in CURSOR_STATUS and "resync" in problem.body:
            self._came.put_nowait({"type": "resync_required", "resync": problem.body["resync"]})
        elif problem.code == "state_conflict":
            self._came.put_nowait(Gone(4001))
        elif not problem.of_the_relay:  # what stands before it decides nothing: not of these words, nor for good
            code = None if problem.status in JUDGED else problem.status
            self._came.put_nowait(Gone(code, problem.retry_after_s, unfit=not problem.retryable))
        elif problem.status in JUDGED or (problem.retryable and not ref):
            self._came.put_nowait(Gone(problem.status, problem.retry_after_s))
        else:
            frame = {"type": "error", "code": problem.code, "detail": problem.detail, **ref}
            if problem.retry_after_s is not None:
                frame["retry_after_ms"] = int(problem.retry_after_s * 1000)
            self._came.put_nowait(frame)

    async def _call(self, method: str, path: str, **more: Any) -> http.Answer:
        return await http.call(self._session, method, self._url + path, credential=self._token(), **more)


class Ladder:
    """Which way to take: down a step when one does not work, up again after a while. Pure."""

    FAILURES_MAX = 2
    STAY_MS = 600_000

    def __init__(self, ways: tuple[Way, ...] = WAYS) -> None:
        self._ways = ways
        self._at = 0
        self._failures = 0
        self._since_ms = 0

    def way(self, now_ms: int) -> Way:
        """The way for the next connection."""
        if self._at > 0 and now_ms - self._since_ms >= self.STAY_MS:
            self._at, self._failures = 0, 0
        return self._ways[self._at]

    def failed(self, now_ms: int) -> None:
        """It could not be opened, or brought no welcome, though something was there to be asked."""
        self._failures += 1
        if self._failures >= self.FAILURES_MAX or self._at > 0:
            self._at = (self._at + 1) % len(self._ways)
            self._failures, self._since_ms = 0, now_ms

    def worked(self) -> None:
        self._failures = 0
