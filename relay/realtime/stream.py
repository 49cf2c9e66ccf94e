"""One event stream of a device, the one-way sibling of the socket (protocol 9.3).

What is new goes out by a pump, as on a socket. The client acks by POST, which opens the window anew; who does not read for
20 s is cut off, and so is who acks nothing for a minute although the window is full.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog

from relay.errors import Conflict, Problem, Unauthenticated
from relay.inbox.batch import Batch
from relay.inbox.page import Snapshot
from relay.inbox.shared import Wanted
from relay.model import DeviceKey, Facts, TimelineKey
from relay.realtime.events import EventWriter, Outlet
from relay.realtime.hub import Credential, Hub
from relay.realtime.pump import Pump
from relay.realtime.service import DeviceService
from relay.realtime.window import Window
from relay.store.scope import of_app

log = structlog.get_logger("relay.realtime")

LOOK_S = 5.0  # how long a client that has gone may go unnoticed while there is nothing to write


class Stream:
    """An event stream from its first page to its end."""

    def __init__(
        self,
        out: Outlet,
        device: DeviceKey,
        service: DeviceService,
        hub: Hub,
        *,
        snap: Snapshot,
        at: Batch,
        wanted: Wanted,
        credential: Credential,
        gone: Callable[[], bool],
        cut: Callable[[], None],
    ) -> None:
        """`at` begins where the client stands; `wanted` are the shared timelines that it follows."""
        self.device = device
        self.session = snap.device.session
        self.credential = credential
        self._service = service
        self._hub = hub
        self._gone = gone
        self._facts = Facts(bool(snap.device.background), snap.device.open_conversation)
        self._wanted = wanted
        self._writer = EventWriter(out, device, cut=cut, ended=self._end)
        self._pump = Pump(
            self._writer,
            device,
            service,
            session=self.session,
            epoch=snap.epoch8.hex(),
            sent_seq=at.from_seq,
            head_seq=at.head_seq,
            window=Window(entries=service.window.entries, bytes_=service.window.bytes),
            spawn=self._spawn,
            full=lambda: hub.shut(self),
        )
        self._group: asyncio.TaskGroup | None = None
        self._changed = asyncio.Event()
        self._beat_due = False
        self._drain_ms: int | None = None
        self._over = False
        self._restart = False

    async def run(self) -> None:
        """Serves until the client, the session, its credential or the relay goes. Raises nothing of these."""
        try:
            with self._hub.connected(self), self._hub.following(self) as follow:
                async with asyncio.TaskGroup() as group:
                    self._group = group
                    if self._hub.draining:  # it began while this one was let in: nobody else closes it any more
                        self.restart()
                    await self._heard()
                    followed = await self._follow(follow) if self._wanted else []
                    self._pump.look()  # first of all: an id begins with the inbox's cursor
                    for name in followed:
                        self.look_at(name)
                    while not self._over and not self._gone():
                        self._changed.clear()
                        await self._say_what_is_due()
                        if not self._over:
                            with suppress(TimeoutError):
                                async with asyncio.timeout(LOOK_S):
                                    await self._changed.wait()
                    self._pump.stop()
        except* (ConnectionError, Unauthenticated):
            log.debug("stream.gone")  # the client hung up, or was signed out, while we were at it
        finally:
            self._group = None
            if not self._hub.of_device(self.device):  # it may have reconnected before this end was noticed
                await self._service.presence.closed(self.device, self.session, goodbye=False, restart=self._restart)

    async def _follow(self, follow: Callable[[TimelineKey], None]) -> list[str]:
        """Begins to follow what the client wants; gives the names."""
        try:
            added, answer = await self._pump.follow(self._wanted)
        except Problem as problem:
            if problem.status != 503:
                raise
            self._end()  # the store is away; the client comes again
            return []
        for name in added:
            follow(TimelineKey(self.device.app_id, name))
        await self._writer.send({"type": "follow", **answer})
        return added

    async def _say_what_is_due(self) -> None:
        if self._drain_ms is not None:
            reconnect_ms, self._drain_ms = self._drain_ms, None
            await self._writer.send({"type": "drain", "reconnect_ms": reconnect_ms, "resume_hint": self._pump.sent_seq})
        self._pump.look_for_acks()
        if self._beat_due and not self._over:
            self._beat_due = False
            await self._heard()
            beat = self._service.presence.beat(of=self.device)
            await self._writer.send(
                {"type": "hb", **self._service.beat_answer(self._pump.head_seq, beat, to_sync=False)}
            )
            self._pump.go_on()

    async def _heard(self) -> None:
        """An open stream is contact; a lease that had run out meanwhile begins again, and who lingered is back."""
        presence = self._service.presence
        if presence.renew(self.device, self.session):
            return
        try:
            await presence.heartbeat(self.device, self.session, self._facts)
        except Conflict:
            self._end()
        except Problem as problem:  # the store is away; the next beat tries again
            log.info("realtime.beat_put_off", code=problem.code)

    def _spawn(self, what: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None] | None:
        if self._group is not None and not self._over:
            try:
                with of_app(self.device.app_id):  # whoever has something to tell
                    return self._group.create_task(what, name=name)
            except RuntimeError:  # the group ends because something in it failed, or has ended
                log.debug("stream.ending")
        what.close()
        return None

    # --- what the hub says ---

    def look(self, head_seq: int | None = None) -> None:
        self._pump.look(head_seq)

    def look_at(self, timeline: str) -> None:
        self._pump.look_at(timeline)

    def withdrawn(self, message_ids: Sequence[str]) -> None:
        self._pump.withdrawn(message_ids)

    def acked(self, upto: Mapping[str, int]) -> None:
        self._pump.acked(upto)

    def still_shut(self) -> bool:
        if not self._pump.stalled(self._service.clock.monotonic_ms()):
            return self._pump.shut
        log.info("realtime.slow", app=self.device.app_id, user=self.device.user_id, device=self.device.device_id)
        self._end()
        return False

    def ping(self) -> None:
        self._beat_due = True
        self._changed.set()

    def drain(self, reconnect_ms: int) -> None:
        self._restart = True
        self._drain_ms = reconnect_ms
        self._changed.set()

    def restart(self) -> None:
        self._restart = True
        self._end()

    def degraded(self) -> None:
        """Nothing is said: what there is comes when the store is back."""

    def replaced(self) -> None:
        self._end()

    def expelled(self) -> None:
        self._end()

    def _end(self) -> None:
        self._over = True
        self._changed.set()
