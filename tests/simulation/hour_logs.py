"""Somebody who fetches the message log of each hour as soon as it is closed (I44, protocol §13).

What stands in it is compared with the rows by SQL of our own, then and at the end of the run: an accept that comes into an
hour whose log was given out would be in none. Nor has a log anything of another app (I45).
"""

import asyncio
import gzip
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from relay.cli.logs import Wrong, check
from relay.message_logs import HOUR_MS, MessageLogs, start_of

from .client import Broken
from .clocks import START_MS, NodeClock
from .loop import sleep
from .node import LOGS_KEPT_MS

if TYPE_CHECKING:
    from .world import World

LOOK_S = 60.0
_ACCEPTED = "SELECT message_id FROM message WHERE app_id = ? AND accepted_ms >= ? AND accepted_ms < ?"
_OTHERS = "SELECT 1 FROM message WHERE message_id = ? AND app_id <> ?"

Hour = tuple[str, str]  # an app's
T = TypeVar("T")


class Hereafter(NodeClock):
    """A clock by which the present hour is closed."""

    def now_ms(self) -> int:
        return super().now_ms() + 2 * HOUR_MS


class HourLogs:
    """The logs of all apps, on a disk that outlives its nodes."""

    def __init__(self, world: "World", folder: Path) -> None:
        self.world = world
        self.folder = folder / "relay"
        self._hereafter = folder / "hereafter"
        self._given: dict[Hour, list[str]] = {}  # messages, as each log that was fetched has them

    async def run(self) -> None:
        """Until the end of the run."""
        while True:
            await sleep(LOOK_S)
            if self.world.node is not None and self.world.node.up:
                await self._fetch(self.world.node.logs)

    async def converged(self) -> None:
        """At the end all hours count as closed, and every accept is in the log of its hour. Raises Broken."""
        node = self.world.node
        assert node is not None
        for hour in self._given:
            self._compare(hour)
        self._given.clear()
        await self._fetch(MessageLogs(node.engine, Hereafter(self.world.wall), self._hereafter, keep_ms=LOGS_KEPT_MS))
        for backend in self.world.backends:
            logged = {id_ for (app_id, _), ids in self._given.items() if app_id == backend.app_id for id_ in ids}
            for (id_,) in self.world.store.raw.execute(_ACCEPTED, (backend.app_id, 0, 1 << 60)):
                if id_ not in logged:
                    raise Broken(f"I44: {id_} was accepted, and is in the log of no hour")

    async def _fetch(self, logs: MessageLogs) -> None:
        """Whatever is closed and was not fetched yet. Who is refused, or whose node dies, comes again."""
        for backend in self.world.backends:
            for one in await self._asked(logs.hours(backend.app_id)) or ():
                start_ms = start_of(one.name)
                assert start_ms is not None
                if start_ms + HOUR_MS <= START_MS:
                    break
                hour = backend.app_id, one.name
                if hour in self._given:
                    continue
                path = await self._asked(logs.log(*hour))
                if path is not None:
                    self._given[hour] = _messages(path)
                    self._compare(hour)
                    if one.empty and self._given[hour]:
                        raise Broken(
                            f"I44: the log of {one.name} was said to be empty, and has messages of {backend.app_id}"
                        )

    async def _asked(self, what: Coroutine[Any, Any, T]) -> T | None:
        """What the node answers; None: it refuses, or dies."""
        assert self.world.node is not None
        task = self.world.node.spawn(what, name="log")
        await asyncio.wait([task])
        return None if task.cancelled() or task.exception() is not None else task.result()

    def _compare(self, hour: Hour) -> None:
        app_id, text = hour
        given = self._given[hour]
        start_ms = start_of(text)
        assert start_ms is not None
        found = self.world.store.raw.execute(_ACCEPTED, (app_id, start_ms, start_ms + HOUR_MS))
        rows = {id_ for (id_,) in found}
        if len(set(given)) < len(given):
            raise Broken(f"I44: the log of {text} has a message of {app_id} more than once")
        if missing := sorted(rows - set(given)):
            raise Broken(f"I44: {missing[0]} of {app_id} was accepted in {text}, whose log does not have it")
        for id_ in sorted(
            set(given) - rows
        ):  # by now it may be gone, or have been sent again since the store was set back
            if self.world.store.raw.execute(_OTHERS, (id_, app_id)).fetchone():
                raise Broken(f"I45: {id_} is another app's, and is in the log of {text} of {app_id}")


def _messages(path: Path) -> list[str]:
    """The ids in a log, which its last line must fit. Raises Broken."""
    try:
        trailer = check(path)
    except Wrong as wrong:
        raise Broken(f"I44: the log {path.name} {wrong}") from wrong
    *lines, _ = map(json.loads, gzip.decompress(path.read_bytes()).splitlines())
    ids = [line["id"] for line in lines if line["kind"] == "message"]
    ends = (ids[0], ids[-1]) if ids else (None, None)
    if (trailer["messages"], trailer["first"], trailer["last"]) != (len(ids), *ends):
        raise Broken(f"I44: the log {path.name} has {len(ids)} messages, and ends with {trailer}")
    return ids
