"""Polls that find nothing: which device asks again what it was told nothing has changed about (protocol 8.3).

What a device is answered follows from its question and from its data version alone. So a question that was answered with
"not modified" need not be worked out again while the version is the same. The question and the version it was asked at are
remembered; the version as it is now never is: it is read after the question has come, so that what was committed before is
seen, whoever committed it. Questions that come together share one reading.
"""

from collections import OrderedDict

from relay.model import DeviceKey
from relay.store.gathered import Gathered, Reads
from relay.store.versions import Version, versions_of

REMEMBERED_MAX = 50_000  # devices
PATIENCE_S = 0.02  # under load; by 64 connections it saves a poll about a tenth of what it costs


# A poll of the inbox alone that does not wait: its target and its entity tag as they were sent, letter by letter.
Question = tuple[str, str]


class Unchanged:
    """Questions with the answer "not modified", by device."""

    def __init__(self, engine: Reads) -> None:
        self._known: OrderedDict[DeviceKey, tuple[Question, Version]] = OrderedDict()
        self._now: Gathered[DeviceKey, Version] = Gathered(
            engine, lambda conn, _, devices: versions_of(conn, devices), patience_s=PATIENCE_S
        )

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
        return version if await self._now.get(device) == version else None
