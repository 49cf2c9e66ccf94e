"""An event loop in virtual time (safety SIM-1): its clock jumps to the next timer, and a seed decides who goes first.

Tasks, timeouts, queues and locks on it are asyncio's own. Callbacks belong to the node in whose context they were made, so
a node can be paused: its callbacks wait while the world goes on (SIM-3).
"""

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

NODE: ContextVar[str | None] = ContextVar("node", default=None)
"""Whose callback runs: a node's name, or None for the world outside."""

CANCELLED_MIN = 100  # cancelled timers are swept out when there are so many, and they are half of all


class Deadlock(Exception):
    """Nothing is ready and nothing is scheduled: whoever waits, waits for ever."""


class VirtualLoop(asyncio.BaseEventLoop):
    """`order` permutes callbacks that are ready together; without it they run first come, first served."""

    _scheduled: list[Any]
    _timer_cancelled_count: int

    def __init__(self, order: random.Random | None = None) -> None:
        super().__init__()
        self._now_s = 0.0
        self._order = order
        self._paused: dict[str, list[asyncio.Handle]] = {}
        self._count = itertools.count()
        self._numbers: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()

    def time(self) -> float:
        return self._now_s

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if self._order is not None:
            when += self._order.random() * 1e-6  # what falls due together, falls due in any order
        return super().call_at(when, callback, *args, context=context)

    def create_task(self, *args: Any, **more: Any) -> "asyncio.Task[Any]":  # type: ignore[override]
        task: asyncio.Task[Any] = super().create_task(*args, **more)
        self._numbers[task] = next(self._count)
        return task

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        """The simulation has no threads: it is done at once."""
        done: asyncio.Future[Any] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whoever waits for it is told
            done.set_exception(error)
        return done

    # --- pausing a node ---

    def pause(self, node: str) -> None:
        self._paused.setdefault(node, [])

    def resume(self, node: str) -> None:
        self._ready.extend(self._paused.pop(node, ()))  # type: ignore[attr-defined]

    # --- the wheel ---

    def _run_once(self) -> None:
        self._sweep()
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            while scheduled and scheduled[0]._cancelled:
                self._pop()
            if not scheduled:
                raise Deadlock
            self._now_s = max(self._now_s, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self._now_s:
            handle = self._pop()
            if not handle._cancelled:
                ready.append(handle)
        batch = list(ready)
        ready.clear()
        if self._order is not None and len(batch) > 1:
            self._by_age(batch)
            self._order.shuffle(batch)
        for handle in batch:
            if handle._cancelled:
                continue
            if self._paused and (node := handle._context.get(NODE)) in self._paused:
                self._paused[node].append(handle)
                continue
            handle._run()

    def _by_age(self, batch: list[asyncio.Handle]) -> None:
        """Puts tasks in the order they were made in: asyncio keeps those of a group in a set, which has them by their addresses,
        so that what ran before in this process would decide who is cancelled first."""
        places = [(at, number) for at, handle in enumerate(batch) if (number := self._number(handle)) is not None]
        by_age = sorted(places, key=lambda place: place[1])
        for (at, _), handle in zip(places, [batch[at] for at, _ in by_age], strict=True):
            batch[at] = handle

    def _number(self, handle: asyncio.Handle) -> int | None:
        task = getattr(handle._callback, "__self__", None)
        return self._numbers.get(task) if isinstance(task, asyncio.Task) else None

    def _pop(self) -> asyncio.TimerHandle:
        handle: asyncio.TimerHandle = heapq.heappop(self._scheduled)
        handle._scheduled = False  # type: ignore[attr-defined]
        if handle.cancelled():
            self._timer_cancelled_count -= 1
        return handle

    def _sweep(self) -> None:
        if self._timer_cancelled_count < max(CANCELLED_MIN, len(self._scheduled) // 2):
            return
        kept = []
        for handle in self._scheduled:
            if handle._cancelled:
                handle._scheduled = False
            else:
                kept.append(handle)
        heapq.heapify(kept)
        self._scheduled = kept
        self._timer_cancelled_count = 0

    def _process_events(self, event_list: Any) -> None:
        """There are none: nothing in here has a file descriptor."""

    def _write_to_self(self) -> None:
        """There is no other thread to be woken by."""


async def sleep(seconds: float) -> None:
    """Virtual seconds."""
    await asyncio.sleep(seconds)  # noqa: TID251


def now_s() -> float:
    return asyncio.get_running_loop().time()


def run(main: Callable[[], Coroutine[Any, Any, T]], *, order: random.Random | None = None) -> T:
    """Runs `main` to its end in virtual time. Raises Deadlock."""
    loop = VirtualLoop(order)
    try:
        return loop.run_until_complete(main())
    finally:
        _end(loop)


def _end(loop: VirtualLoop) -> None:
    for name in list(loop._paused):
        loop.resume(name)
    left = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
