"""Time as an argument: the only module that reads a clock.

Instants are integer milliseconds UTC; durations of the event loop are seconds. Every timer of the relay goes through
`Clock`, so a whole relay can run in virtual time.
"""

import asyncio
import time
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Protocol

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - only ever printed, with a Z
STEP_MS_MAX = 60_000  # a larger jump of the wall clock is not believed at once (safety FLT-26)
STEP_LASTS_MS = 15 * 60_000  # ... but after it has lasted this long
READING_MS_MAX = 1_000  # a reading of the store's clock that took longer is not used


class Clock(Protocol):
    """What the core knows of time."""

    def now_ms(self) -> int:
        """Wall-clock time, UTC, guarded against steps: for rows, expiry, knocks."""
        ...

    def monotonic_ms(self) -> int:
        """Time that never steps, from an arbitrary origin: for leases and durations in memory."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class GuardedWall:
    """A wall clock that does not follow a step of more than a minute until it has lasted 15 minutes.

    Until then it goes on from the last trusted time at the monotonic clock's pace.
    """

    def __init__(self) -> None:
        self._trusted_ms: int | None = None
        self._at_ms = 0
        self._stepped_at_ms: int | None = None
        self._step_ms = 0

    def read(self, *, wall_ms: int, monotonic_ms: int) -> int:
        if self._trusted_ms is None:
            self._trusted_ms, self._at_ms = wall_ms, monotonic_ms
            return wall_ms
        expected_ms = self._trusted_ms + (monotonic_ms - self._at_ms)
        step_ms = wall_ms - expected_ms
        if abs(step_ms) > STEP_MS_MAX:
            if self._stepped_at_ms is None or abs(step_ms - self._step_ms) > STEP_MS_MAX:  # another jump lasts anew
                self._stepped_at_ms, self._step_ms = monotonic_ms, step_ms
            if monotonic_ms - self._stepped_at_ms < STEP_LASTS_MS:
                return expected_ms
        self._stepped_at_ms = None
        self._trusted_ms, self._at_ms = wall_ms, monotonic_ms
        return wall_ms

    @property
    def stepped(self) -> bool:
        """Whether the wall clock is at present not believed."""
        return self._stepped_at_ms is not None

    @property
    def step_ms(self) -> int | None:
        """By how much it has jumped, while that is not believed."""
        return self._step_ms if self.stepped else None


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        self.wall = GuardedWall()

    @property
    def step_ms(self) -> int | None:
        return self.wall.step_ms

    def now_ms(self) -> int:
        return self.wall.read(wall_ms=time.time_ns() // 1_000_000, monotonic_ms=self.monotonic_ms())

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # noqa: TID251 - the one place


class StoreClock:
    """The clock of a store that several relays share, so that a deadline in a row means the same to each of them.

    It is read now and then and goes on at the pace of our monotonic clock; a step of it is believed no sooner than one
    of our own would be (protocol §6.7). Until the first reading it is our own.
    """

    def __init__(self, own: Clock) -> None:
        self._own = own
        self._wall: GuardedWall | None = None
        self._theirs_ms = 0
        self._at_ms = 0

    @property
    def step_ms(self) -> int | None:
        return None if self._wall is None else self._wall.step_ms

    def now_ms(self) -> int:
        if self._wall is None:
            return self._own.now_ms()
        at_ms = self._own.monotonic_ms()
        return self._wall.read(wall_ms=self._theirs_ms + at_ms - self._at_ms, monotonic_ms=at_ms)

    def monotonic_ms(self) -> int:
        return self._own.monotonic_ms()

    async def sleep(self, seconds: float) -> None:
        await self._own.sleep(seconds)

    def follow(self, theirs_ms: int, *, asked_ms: int) -> None:
        """Takes a reading that was asked for at `asked_ms` (monotonic) and has just come; a slow one says too little."""
        at_ms = self._own.monotonic_ms()
        if self._wall is not None and at_ms - asked_ms > READING_MS_MAX:
            return
        self._wall = self._wall or GuardedWall()
        self._theirs_ms, self._at_ms = theirs_ms, (asked_ms + at_ms) // 2


@lru_cache(maxsize=64)  # what one transaction writes has one time
def rfc3339(ms: int) -> str:
    """`2026-05-03T09:12:44.018Z`."""
    second, rest = divmod(ms, 1000)
    return f"{_to_the_second(second)}.{rest:03}Z"


@lru_cache(maxsize=4096)  # a page's messages share their seconds
def _to_the_second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds")


def from_rfc3339(text: str) -> int:
    """Milliseconds of an instant with a zone. Raises ValueError."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("no zone")
    return int(at.timestamp() * 1000)
