"""Polls that find nothing: which device asks again what it was told nothing has changed about (protocol 8.3).

What a device is answered follows from its question and from its data version alone. So a question that was answered with
"not modified" need not be worked out again while the version is the same. The question and the version it was asked at are
remembered; the version as it is now never is: it is read after the question has come, so that what was committed before is
seen, whoever committed it. Questions that come together share one reading.
"""

import asyncio
from collections import OrderedDict
from typing import NamedTuple

from relay.model import DeviceKey
from relay.store.engine import Engine
from relay.store.versions import Version, versions_of

REMEMBERED_MAX = 50_000  # devices
TOGETHER_MAX = 256  # devices in one reading


class Question(NamedTuple):
    """A poll of the inbox alone: the cursor and the entity tag as they were sent."""

    cursor: str
    etag: str


class Unchanged:
    """Questions with the answer "not modified", by device."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: OrderedDict[DeviceKey, tuple[Question, Version]] = OrderedDict()
        self._asked: list[tuple[DeviceKey, asyncio.Future[Version | None]]] = []
        self._looking: asyncio.Task[None] | None = None

    def answered(self, device: DeviceKey, question: Question, version: Version) -> None:
        """At this version, the answer to this question was that nothing has changed."""
        self._known[device] = question, version
        self._known.move_to_end(device)
        if len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)

    async def holds(self, device: DeviceKey, question: Question) -> Version | None:
        """The version, if the answer to this question is known and still the same; None: it must be worked out.

        Raises what a reading of the store raises.
        """
        known = self._known.get(device)
        if known is None or known[0] != question:
            return None
        version = known[1]
        return version if await self._now(device) == version else None

    def _now(self, device: DeviceKey) -> "asyncio.Future[Version | None]":
        future: asyncio.Future[Version | None] = asyncio.get_running_loop().create_future()
        self._asked.append((device, future))
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        return future

    async def _look(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked[:TOGETHER_MAX], self._asked[TOGETHER_MAX:]
                await self._tell(asked)
        finally:
            self._looking = None

    async def _tell(self, asked: "list[tuple[DeviceKey, asyncio.Future[Version | None]]]") -> None:
        devices = {device for device, _ in asked}
        try:
            versions = await self._engine.read(lambda conn, _: versions_of(conn, devices))
        except Exception as error:  # noqa: BLE001 - it is the answer of everyone who asked
            for _, future in asked:
                if not future.done():
                    future.set_exception(error)
            return
        for device, future in asked:
            if not future.done():
                future.set_result(versions.get(device))
