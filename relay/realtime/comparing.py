"""Comparing a device's store with its inbox (protocol 8.7): how often, how many at a time, and how it is printed."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from relay.clock import Clock, from_rfc3339, rfc3339
from relay.errors import FieldError, Invalid, Throttled, Unavailable, not_an_instant
from relay.inbox.comparing import Compared, Comparison, Range
from relay.inbox.handshake import Welcome
from relay.inbox.service import InboxService
from relay.model import DeviceKey
from relay.realtime.protocol import DigestBody, VerifyBody
from relay.realtime.rate import Rate, Unlimited
from relay.store.upgrades import VERIFIED

CLOCKS_APART_MS = 60_000
COMPARED_AT_ONCE, COMPARED_NEXT = 2, 16  # more are sent away


@dataclass(slots=True, kw_only=True)
class Comparer:
    """Compares caches, few at a time: a comparison reads a whole inbox, and pages go first."""

    inbox: InboxService
    clock: Clock
    begun: Rate = field(default_factory=Unlimited)  # how often a device may begin to compare
    rounds: Rate = field(default_factory=Unlimited)  # how many rounds all its comparisons may have
    _comparing: int = 0
    _at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(COMPARED_AT_ONCE))

    @property
    def waiting(self) -> tuple[int, int]:
        """Devices that are compared or wait for it, and how many may."""
        return self._comparing, COMPARED_AT_ONCE + COMPARED_NEXT

    async def verify(self, device: DeviceKey, body: VerifyBody) -> dict[str, Any]:
        """One round. Raises CursorRefused, Malformed (invalid_cursor), Invalid, Throttled, Unavailable."""
        cursor = self.inbox.reader.unseal(body.cursor, device)
        as_of_ms = None if body.as_of is None else _as_of_ms(body.as_of, self.clock.now_ms())
        if body.ranges and body.ranges[-1].to > cursor.seq:
            pointer = f"/ranges/{len(body.ranges) - 1}/to"
            raise Invalid(
                "There is nothing to compare beyond the cursor.",
                errors=(FieldError(pointer, "out_of_range", "must be at most the cursor's number"),),
            )
        upgrade = None
        if body.purpose == "upgrade":
            upgrade = await self.inbox.upgrades.to_prove(device, body.upgrade)
        free = upgrade is not None and upgrade.verify_state not in VERIFIED
        rate = self.rounds if body.as_of is not None or free else self.begun
        if not rate.take(device, self.clock.monotonic_ms()):
            raise Throttled(
                "This device has been compared often enough; what it lacks comes by sync.", retry_after_s=600
            )
        ranges = [Range(one.from_, one.to, one.n, int(one.fp, 16)) for one in body.ranges]
        compared = await self.compare(device, ranges, cursor=cursor, as_of_ms=as_of_ms)
        state = None
        if upgrade is not None:
            state = await self.inbox.upgrades.prove(device, upgrade.upgrade_id, compared, mended=body.mended)
        if body.extra:
            await self.inbox.upgrades.note_extra(device, body.extra)
        return _printed(compared) | {"state": state}

    async def digest(self, device: DeviceKey, digest: DigestBody, welcome: Welcome) -> str:
        """Whether the client has everything up to its cursor, by its own sums; `differs` too if there is no time to look."""
        upto = welcome.head_seq - welcome.missing
        whole = Range(0, max(1, upto), digest.n, int(digest.fp, 16))
        try:
            return "same" if (await self.compare(device, [whole], upto=upto)).same else "differs"
        except Unavailable:
            return "differs"

    async def compare(self, device: DeviceKey, ranges: Sequence[Range], **where: Any) -> Comparison:
        """As `InboxReader.compare`, in its turn. Raises Unavailable where too many wait."""
        if self._comparing >= COMPARED_AT_ONCE + COMPARED_NEXT:
            raise Unavailable("Too many devices are being compared; sync goes on.", retry_after_s=5)
        self._comparing += 1
        try:
            async with self._at_once:
                return await self.inbox.reader.compare(device, ranges, **where)
        finally:
            self._comparing -= 1


def _as_of_ms(text: str, now_ms: int) -> int:
    try:
        as_of_ms = from_rfc3339(text)
    except (ValueError, OverflowError):
        raise not_an_instant("/as_of") from None
    if not 0 <= as_of_ms <= now_ms + CLOCKS_APART_MS:
        raise Invalid(
            "`as_of` is what an earlier answer said.",
            errors=(FieldError("/as_of", "out_of_range", "leave it out of the first round, then repeat the answer's"),),
        )
    return as_of_ms


def _printed(compared: Comparison) -> dict[str, Any]:
    return {
        "timeline": "inbox",
        "as_of": rfc3339(compared.as_of_ms),
        "floor": compared.base_seq,
        "ranges": [_printed_range(one) for one in compared.ranges],
    }


def _printed_range(one: Compared) -> dict[str, Any]:
    head = {"from": one.range.low, "to": one.range.high}
    if one.same:
        return head | {"result": "same"}
    if one.items is None:
        return head | {"result": "split"}
    return head | {"result": "items", "items": [list(item) for item in one.items]}
