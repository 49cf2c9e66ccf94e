"""One event stream of a device, the one-way sibling of the socket (protocol 9.3).

It sends what `page()` reads, from where it has come to. The client acks by POST, which opens the window anew; who does
not read for 20 s is cut off, and so is who acks nothing for a minute although the window is full.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import msgspec
import structlog

from relay.errors import Conflict, Problem, Unauthenticated
from relay.inbox.batch import Batch
from relay.inbox.cursor import INBOX
from relay.inbox.reading import Reading
from relay.model import DeviceKey, Facts
from relay.realtime import protocol
from relay.realtime.hub import Credential, Hub
from relay.realtime.service import DeviceService
from relay.realtime.window import Window

log = structlog.get_logger("relay.realtime")

PAGE_MAX = 200
LOOK_S = 5.0  # how long a client that has gone may go unnoticed while there is nothing to write
_encode = msgspec.json.Encoder().encode


def event(name: str, data: bytes, *, last: str = "") -> bytes:
    """One event as it goes out (WHATWG HTML, server-sent events); `data` is JSON on one line, `last` a closing line."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n" + last.encode() + b"\n"


class Outlet(Protocol):
    """An answer that goes on."""

    async def write(self, data: bytes) -> None:
        """Waits until the client takes more. Raises ConnectionError."""
        ...


class Stream:
    """An event stream from its first page to its end."""

    def __init__(
        self,
        out: Outlet,
        device: DeviceKey,
        service: DeviceService,
        hub: Hub,
        *,
        first: Reading,
        credential: Credential,
        gone: Callable[[], bool],
        cut: Callable[[], None],
    ) -> None:
        self.device = device
        self.session = first.snap.device.session
        self.credential = credential
        self._out = out
        self._service = service
        self._hub = hub
        self._gone = gone
        self._cut = cut
        self._epoch = first.snap.epoch8.hex()
        self._facts = Facts(bool(first.snap.device.background), first.snap.device.open_conversation)
        assert first.batch is not None
        self._first: Batch | None = first.batch
        self._sent_seq = first.batch.from_seq
        self._head_seq = first.batch.head_seq
        self._told_caught_up = False
        self._window = Window(entries=service.window.entries, bytes_=service.window.bytes)
        self._changed = asyncio.Event()
        self._look = True
        self._beat_due = False
        self._drain_ms: int | None = None
        self._over = False
        self._restart = False

    async def run(self) -> None:
        """Serves until the client, the session, its credential or the relay goes. Raises nothing of these."""
        try:
            with self._hub.connected(self), suppress(ConnectionError, TimeoutError):
                await self._heard()
                while not self._over and not self._gone():
                    self._changed.clear()
                    await self._say_what_is_due()
                    if not self._over:
                        with suppress(TimeoutError):
                            async with asyncio.timeout(LOOK_S):
                                await self._changed.wait()
        finally:
            if not self._hub.of_device(self.device):  # it may have reconnected before this end was noticed
                await self._service.presence.closed(self.device, self.session, goodbye=False, restart=self._restart)

    async def _say_what_is_due(self) -> None:
        if self._drain_ms is not None:
            reconnect_ms, self._drain_ms = self._drain_ms, None
            data = _encode({"reconnect_ms": reconnect_ms, "resume_hint": self._sent_seq})
            await self._write(event("drain", data, last=f"retry: {reconnect_ms}\n"))
        if self._look:
            self._look = False
            await self._send_what_is_new()
        if self._beat_due and not self._over:
            self._beat_due = False
            await self._heard()
            beat = self._service.beat_answer(self._head_seq, self._service.presence.beat(of=self.device), behind=False)
            await self._write(event("hb", _encode(beat)))

    async def _heard(self) -> None:
        """An open stream is contact; a lease that had run out meanwhile begins again."""
        presence = self._service.presence
        if presence.renew(self.device, self.session):
            return
        try:
            await presence.heartbeat(self.device, self.session, self._facts)
        except Conflict:
            self._over = True
        except Problem as problem:  # the store is away; the next beat tries again
            log.info("realtime.beat_put_off", code=problem.code)

    async def _send_what_is_new(self) -> None:
        try:
            while not self._over and await self._send_page():
                pass
        except Unauthenticated:
            self._over = True
        except Problem as problem:
            if problem.status != 503:
                raise
            # The store is away. The stream stays; the poll of heads has us look again.

    async def _send_page(self) -> bool:
        """Sends the next page if the window allows and there is one; gives whether there may be more."""
        room = await self._room()
        if room is None:
            return False
        batch, self._first = self._first, None
        first = batch is not None
        if batch is None:
            reading = await self._service.inbox.read_after(
                self.device, self._sent_seq, limit=min(PAGE_MAX, room[0]), bytes_max=room[1]
            )
            if reading.snap.device.session != self.session:
                self._over = True
                return False
            if reading.snap.epoch8.hex() != self._epoch:
                await self._resync()
                return False
            batch = reading.batch
            assert batch is not None
        self._head_seq = batch.head_seq
        if batch.to_seq == self._sent_seq and (self._told_caught_up or not batch.caught_up):
            return first
        self._sent_seq = batch.to_seq
        self._window.sent(INBOX, batch.to_seq, entries=batch.entries, size=len(batch.json))
        self._told_caught_up = self._told_caught_up or batch.caught_up
        data = b'{"caught_up":' + _encode(batch.caught_up) + b"," + batch.json[1:]
        await self._write(event("batch", data, last=f"id: {batch.cursor}\n"))
        return batch.more or first  # the first was read before the hub knew of us

    async def _room(self) -> tuple[int, int] | None:
        """What may go now. An ack may have come to another node, which tells nobody here: so a full window looks itself."""
        if self._window.room is None:
            reading = await self._service.inbox.read_after(self.device, self._sent_seq, limit=1, bytes_max=1)
            self._window.acked(INBOX, reading.snap.device.acked_seq)
        return self._window.room

    async def _resync(self) -> None:
        data = await self._service.inbox.reset(self.device, reason="epoch")
        await self._write(resync_event(data))
        self._over = True

    async def _write(self, data: bytes) -> None:
        """Writes; a client that does not read for 20 s is cut off, and served later."""
        try:
            async with asyncio.timeout(protocol.WRITE_S):
                await self._out.write(data)
        except TimeoutError:
            log.info("realtime.slow", app=self.device.app_id, device=self.device.device_id)
            self._cut()
            raise

    # --- what the hub says ---

    def look(self) -> None:
        self._look = True
        self._changed.set()

    def look_at(self, timeline: str) -> None:
        """A stream follows no shared timelines."""

    def acked(self, seq: int) -> None:
        self._window.acked(INBOX, seq)
        self.look()

    def ping(self) -> None:
        if self._window.stalled(self._service.clock.monotonic_ms()):
            log.info("realtime.slow", app=self.device.app_id, device=self.device.device_id)
            self._end()
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


def resync_event(data: dict[str, Any]) -> bytes:
    """What a client whose cursor is no good stores and goes on from; it has no `id:`, for nothing came with it."""
    return event("resync_required", _encode({"resync": data}))
