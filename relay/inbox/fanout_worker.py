"""The worker that takes fan-out jobs step by step. The rows are the queue, and each step is a transaction of its own."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from relay.clock import Clock
from relay.errors import Problem
from relay.inbox.fanout import StepBroke
from relay.waiting import first_of

log = structlog.get_logger("relay.fanout")

POLL_S = 1.0
CAREFUL_MS = 600_000


class FanoutWorker:
    """One node's; others may work at other jobs."""

    def __init__(
        self,
        step: Callable[[], Awaitable[bool]],
        clock: Clock,
        *,
        begin: Callable[[], Awaitable[None]] | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        """`begin` comes before each step of the first minutes: what ends the process again and again does so there."""
        self._step = step
        self._begin = begin
        self._clock = clock
        self._poll_s = poll_s
        self._woken = asyncio.Event()
        self._careful_ms = 0

    def nudge(self, due_ms: int) -> None:
        """A hint that something is due then; the poll finds it all the same."""
        if due_ms <= self._clock.now_ms():
            self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Works until asked to stop, then ends the step that it is at."""
        self._careful_ms = self._clock.monotonic_ms() + CAREFUL_MS
        while not stop.is_set():
            self._woken.clear()
            if not await self._busy():
                await first_of(stop, self._woken, within_s=self._poll_s)

    async def _busy(self) -> bool:
        try:
            if self._begin is not None and self._clock.monotonic_ms() < self._careful_ms:
                await self._begin()
            return await self._step()
        except Problem as problem:  # the store is away: come again
            log.warning("fanout.store_unavailable", code=problem.code)
            return False
        except StepBroke as broke:  # one job that cannot be done must not end the worker for all others
            log.exception("fanout.broke", app=broke.job.app_id, message_id=broke.job.message_id)
            return True
