"""Heartbeats in, changes out: rows change on a transition only, and every transition is a transaction of the inbox room."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from relay.clock import Clock
from relay.errors import Conflict, Problem
from relay.model import GATEWAY, Device, DeviceKey, Facts
from relay.presence.leases import LeaseBook
from relay.presence.rules import Beat, Offer, Pace, herd_ms, negotiate
from relay.waiting import pause

log = structlog.get_logger("relay.presence")

SWEEP_S = 1.0
SWEPT_TOGETHER = 1000  # leases ended at once: well below what the store's queue takes
OUTAGE_MS = 5_000  # a sweep that comes this late, or fails this long, was our absence and not the devices'


class Transitions(Protocol):
    """What presence asks of the inbox room."""

    async def went(self, device: DeviceKey, session: int, *, linger_ms: int, tell: bool) -> bool: ...

    async def said(self, device: DeviceKey, session: int, facts: Facts) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """The configured heartbeat."""

    interval_s: int = 30
    factor: float = 2.5
    linger_ms: int = 5_000
    linger_restart_ms: int = 30_000
    handshakes_per_s: float = 500  # that the door lets in


class PresenceService:
    """The leases of this node's devices."""

    def __init__(self, transitions: Transitions, clock: Clock, rhythm: Rhythm) -> None:
        self._transitions = transitions
        self._clock = clock
        self._rhythm = rhythm
        self.book = LeaseBook()
        self.pace = Pace(rhythm.interval_s)
        self._away = False  # the store
        self._unsaid: Counter[str] = Counter()  # ends that the store could not be told since the last sweep, by why

    def beat(self, offer: Offer | None = None, *, of: DeviceKey | None = None) -> Beat:
        """The interval for a client that offers this, or has offered it when it shook hands."""
        if offer is None and of is not None and (lease := self.book.get(of)) is not None:
            offer = lease.offer
        low, high, prefer = offer or (10, 600, self._rhythm.interval_s)
        return negotiate(
            min_s=low, max_s=high, prefer_s=prefer, factor=self._rhythm.factor, at_least_s=self.pace.at_least_s
        )

    def resume(self, devices: Iterable[Device], *, lease_s: float | None = None) -> None:
        """After a start: everyone who was online gets a full lease from now; who had just gone, time to come back; and all of
        them as much more as a herd of so many needs."""
        full_ms = int((lease_s or self.beat().lease_s) * 1000)
        devices = list(devices)
        more_ms = self._herd_ms(devices)
        for device in devices:
            self.book.grant(
                device.key,
                session=device.session,
                now_ms=self._clock.monotonic_ms(),
                length_ms=full_ms if device.online else self._rhythm.linger_restart_ms,
                more_ms=more_ms,
                facts=Facts(bool(device.background), device.open_conversation) if device.online else _LINGERING,
            )

    def take_over(self, devices: Iterable[Device]) -> None:
        """Of a node that has died: whoever does not come to another within the time after a restart is offline. What this
        node has heard of that session, or of a newer one, itself stands."""
        now_ms = self._clock.monotonic_ms()
        devices = list(devices)
        more_ms = self._herd_ms(devices)
        for device in devices:
            lease = self.book.get(device.key)
            if lease is None or lease.session < device.session:
                self.book.grant(
                    device.key,
                    session=device.session,
                    now_ms=now_ms,
                    length_ms=self._rhythm.linger_restart_ms,
                    more_ms=more_ms,
                    facts=_LINGERING,
                )

    def _herd_ms(self, devices: Iterable[Device]) -> int:
        own = sum(device.node_id != GATEWAY for device in devices)  # a gateway's shake no hands
        return herd_ms(own, per_s=self._rhythm.handshakes_per_s)

    def connected(
        self, device: DeviceKey, session: int, beat: Beat, facts: Facts, *, offer: Offer | None = None
    ) -> None:
        """A handshake has made this session the device's."""
        now_ms, length_ms = self._clock.monotonic_ms(), int(beat.lease_s * 1000)
        self.book.grant(device, session=session, now_ms=now_ms, length_ms=length_ms, facts=facts, offer=offer)

    def renew(self, device: DeviceKey, session: int) -> bool:
        """Something was heard on the session's connection: no row, no wait. False: no row says that it is online, so a heartbeat
        has to."""
        lease = self.book.renew(device, session, self._clock.monotonic_ms())
        return lease is not None and lease.facts is not _LINGERING

    async def heartbeat(self, device: DeviceKey, session: int, facts: Facts, beat: Beat | None = None) -> None:
        """A heartbeat. Only what changes a row costs a transaction. Raises Conflict for a session that was replaced."""
        lease = self.book.get(device)
        if lease is not None and session < lease.session:
            raise Conflict("A newer session of this device has taken over.")
        if lease is not None and lease.session == session and lease.facts == facts:
            if beat is not None:
                lease.length_ms = int(beat.lease_s * 1000)
            self.renew(device, session)
            return
        if not await self._transitions.said(device, session, facts):
            raise Conflict("A newer session of this device has taken over.")
        self.connected(device, session, beat or self.beat(), facts)

    async def closed(self, device: DeviceKey, session: int, *, goodbye: bool, restart: bool = False) -> None:
        """The connection ended. Without a goodbye the device lingers: it may be back at once."""
        self.book.drop(device, session)
        linger_ms = 0 if goodbye else self._rhythm.linger_restart_ms if restart else self._rhythm.linger_ms
        try:
            changed = await self._transitions.went(device, session, linger_ms=linger_ms, tell=goodbye)
        except Problem as problem:  # the sweep will say it: nobody may stay online for want of a word
            self._unsaid[problem.code] += 1
            changed = True
        else:
            changed = changed and not goodbye
        if changed and not restart:  # after the linger it is announced as offline, unless it came back
            self.book.grant(
                device, session=session, now_ms=self._clock.monotonic_ms(), length_ms=linger_ms, facts=_LINGERING
            )

    def store_away(self) -> None:
        """Nothing could be written: nobody goes offline meanwhile."""
        self._away = True

    def store_back(self, outage_ms: int) -> None:
        """Every lease goes on from where it stood."""
        self._away = False
        self.book.extend_all(outage_ms)

    async def run(self, stop: asyncio.Event) -> None:
        """Once a second: leases that are over end, together."""
        last_ms, swept_s = self._clock.monotonic_ms(), 0.0
        while not stop.is_set():
            await pause(SWEEP_S, stop)
            now_ms = self._clock.monotonic_ms()
            if now_ms - last_ms > OUTAGE_MS:  # we slept; the devices could not be heard
                self.book.extend_all(now_ms - last_ms)
            elif not stop.is_set():
                self.pace.looked((now_ms - last_ms) / 1000 - SWEEP_S - swept_s)
            last_ms = now_ms
            await self.sweep()
            swept_s = (self._clock.monotonic_ms() - now_ms) / 1000

    async def sweep(self) -> None:
        if not self._away:
            await self._end_overdue()
        for code, count in self._unsaid.items():  # a whole network may have gone in that second: one line tells of all
            log.warning("presence.store_unavailable", code=code, count=count)
        self._unsaid.clear()

    async def _end_overdue(self) -> None:
        now_ms = self._clock.monotonic_ms()
        over = self.book.overdue(now_ms)
        for at in range(0, len(over), SWEPT_TOGETHER):  # a whole network's phones may fall silent in one second
            await self._end(over[at : at + SWEPT_TOGETHER], now_ms)

    async def _end(self, over: list[tuple[DeviceKey, int]], now_ms: int) -> None:
        answers = await asyncio.gather(*(self._over(*lease) for lease in over), return_exceptions=True)
        for (device, session), answer in zip(over, answers, strict=True):
            if isinstance(answer, Problem):
                # Nobody goes offline while the store could not have been told. They get what the outage took.
                length_ms = int(self.beat().lease_s * 1000)
                self.book.grant(device, session=session, now_ms=now_ms, length_ms=length_ms)
                self._unsaid[answer.code] += 1
            elif isinstance(answer, BaseException):
                raise answer

    def _over(self, device: DeviceKey, session: int) -> Awaitable[bool]:
        return self._transitions.went(device, session, linger_ms=0, tell=True)


_LINGERING = object()
