"""A thread that sees when the event loop stands still, and says where (safety FLT-30).

Whatever blocks the loop blocks everything: no answer, no heartbeat, no push. The loop cannot say so itself while it lasts.
What the devices did not get a chance to say meanwhile is given back to them by presence, which knows when it slept.
"""

import asyncio
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import structlog

from relay.clock import Clock
from relay.waiting import pause

log = structlog.get_logger("relay.watchdog")

BEAT_S = 0.25
BLOCKED_MS = 1_000
NOT_READY_MS = 5_000  # so long without a turn, and for as long after it
LOOKS_MS = (BLOCKED_MS, NOT_READY_MS, 30_000)  # when the stack is logged
FRAMES_MAX = 30


class Heart:
    """When the loop last had its turn. Pure; `beat` is the loop's, `look` the watching thread's."""

    def __init__(self, now_ms: int) -> None:
        self._beat_ms = now_ms
        self._looked_ms = now_ms
        self._seen = 0  # of LOOKS_MS, in the present standstill
        self._well_ms = now_ms  # from then on

    def beat(self, now_ms: int) -> int:
        """A turn of the loop; gives how long it had stood still, or 0 for less than a second."""
        blocked_ms = now_ms - self._beat_ms
        if blocked_ms >= NOT_READY_MS:
            self._well_ms = now_ms + NOT_READY_MS
        self._beat_ms, self._seen = now_ms, 0
        return blocked_ms if blocked_ms >= BLOCKED_MS else 0

    def look(self, now_ms: int) -> int:
        """How long it has stood still, if that has become worth telling since the last look; else 0."""
        slept_ms, self._looked_ms = now_ms - self._looked_ms, now_ms
        blocked_ms = now_ms - self._beat_ms
        if slept_ms >= BLOCKED_MS:
            return 0  # the whole process was stopped, this thread with it
        if self._seen < len(LOOKS_MS) and blocked_ms >= LOOKS_MS[self._seen]:
            self._seen += 1
            return blocked_ms
        return 0

    def well(self, now_ms: int) -> bool:
        """Whether the loop has its turns, and has had them for a while."""
        return now_ms - self._beat_ms < NOT_READY_MS and now_ms >= self._well_ms


class Watchdog:
    """`run` it in the loop that it is to watch."""

    def __init__(self, clock: Clock, *, blocked: Callable[[], None]) -> None:
        """`blocked` is called in the loop after each standstill of more than a second."""
        self._clock = clock
        self._blocked = blocked
        self._heart = Heart(clock.monotonic_ms())
        self._ended = threading.Event()

    def well(self) -> bool:
        return self._heart.well(self._clock.monotonic_ms())

    async def run(self, stop: asyncio.Event) -> None:
        self._heart = Heart(self._clock.monotonic_ms())
        args = (self._heart, threading.get_ident())
        watching = threading.Thread(target=self._watch, args=args, name="watchdog", daemon=True)
        watching.start()
        try:
            while not stop.is_set():
                await pause(BEAT_S, stop)
                if blocked_ms := self._heart.beat(self._clock.monotonic_ms()):
                    self._blocked()
                    log.warning("loop.resumed", lag_ms=blocked_ms)
        finally:
            self._ended.set()

    def _watch(self, heart: Heart, loop_thread: int) -> None:
        while not self._ended.wait(BEAT_S):
            if blocked_ms := heart.look(self._clock.monotonic_ms()):
                log.error("loop.blocked", lag_ms=blocked_ms, stack=stack(sys._current_frames().get(loop_thread)))  # noqa: SLF001


def stack(frame: FrameType | None) -> str:
    """Where this frame is and who called it, innermost first: places in the code, and no values."""
    places: list[str] = []
    while frame is not None and len(places) < FRAMES_MAX:
        code = frame.f_code
        places.append(f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return " < ".join(places)
