"""Warnings that anybody outside can cause, as often as they like: the first is told as it comes, the next ones together."""

import asyncio
from collections.abc import Callable, Hashable
from contextvars import Context
from typing import Any

TOGETHER_S = 10.0


class Repeats:
    """One event's lines. Of each kind at most one in `together_s`; its `count` says how many it stands for, its other fields
    are the last one's. Kinds must be few: what a caller makes up is none."""

    def __init__(self, warn: Callable[..., object], event: str, *, together_s: float = TOGETHER_S) -> None:
        self._warn = warn
        self._event = event
        self._together_s = together_s
        self._held: dict[Hashable, tuple[int, dict[str, Any]]] = {}  # those told lately, and what came since

    def tell(self, kind: Hashable, **fields: Any) -> None:
        """Must be called where a loop runs."""
        if (held := self._held.get(kind)) is not None:
            self._held[kind] = held[0] + 1, fields
        else:
            self._warn(self._event, **fields)
            self._wait(kind)

    def _wait(self, kind: Hashable) -> None:
        self._held[kind] = 0, {}
        loop = asyncio.get_running_loop()
        loop.call_later(self._together_s, self._over, kind, context=Context())  # the line is nobody's own any more

    def _over(self, kind: Hashable) -> None:
        count, fields = self._held.pop(kind)
        if count:
            self._warn(self._event, **fields, count=count)
            self._wait(kind)
