"""What goes out on one event stream (WHATWG HTML, server-sent events; protocol 9.3)."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import structlog

from relay.inbox.batch import Batch
from relay.inbox.cursor import INBOX
from relay.model import DeviceKey
from relay.realtime import protocol
from relay.realtime.protocol import Close

log = structlog.get_logger("relay.realtime")

SEPARATOR = ","  # of the cursors in an id; no cursor has one
_encode = msgspec.json.Encoder().encode


class Outlet(Protocol):
    """An answer that goes on."""

    async def write(self, data: bytes) -> None:
        """Waits until the client takes more. Raises ConnectionError."""
        ...


def event(name: str, data: bytes, *, last: str = "") -> bytes:
    """One event as it goes out; `data` is JSON on one line, `last` a closing line."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n" + last.encode() + b"\n"


def resync_event(data: dict[str, Any]) -> bytes:
    """What a client whose cursor is no good stores and goes on from; it has no `id:`, for nothing came with it."""
    return event("resync_required", _encode({"resync": data}))


class EventWriter:
    """Writes to one client, as `FrameWriter` does to a socket's: a frame's type is the event's name.

    The id of a batch is the cursors of everything that was sent, the inbox's first: a browser that reconnects by itself says
    the last id alone, and is to go on in all timelines. An event that moves none of them has no id.
    """

    def __init__(self, out: Outlet, device: DeviceKey, *, cut: Callable[[], None], ended: Callable[[], None]) -> None:
        self.closed = False
        self._out = out
        self._device = device
        self._cut = cut
        self._ended = ended
        self._cursors: dict[str, str] = {}

    async def send(self, frame: dict[str, Any]) -> None:
        name = frame["type"]
        if name == "resync_required" and "timeline" in frame:
            self._cursors[frame["timeline"]] = frame["resync"]["cursor"]
        data = _encode({key: value for key, value in frame.items() if key != "type"})
        await self._write(event(name, data, last=f"retry: {frame['reconnect_ms']}\n" if name == "drain" else ""))

    async def batch(self, batch: Batch, *, extra: dict[str, Any]) -> None:
        """Sends a batch, whose JSON is made already, with `extra` beside it."""
        self._cursors[batch.timeline] = batch.cursor
        data = _encode(extra)[:-1] + b"," + batch.json[1:]
        await self._write(event("batch", data, last=self._id()))

    def _id(self) -> str:
        if INBOX not in self._cursors:
            return ""
        rest = [cursor for name, cursor in self._cursors.items() if name != INBOX]
        return f"id: {SEPARATOR.join([self._cursors[INBOX], *rest])}\n"

    async def close(self, code: Close) -> None:
        """The stream ends; an event stream cannot say why."""
        self.closed = True
        self._ended()

    async def _write(self, data: bytes) -> None:
        """Writes; a client that does not read for 20 s is cut off, and served later. Raises ConnectionError."""
        if self.closed:
            return
        try:
            async with asyncio.timeout(protocol.WRITE_S):
                await self._out.write(data)
        except TimeoutError:
            log.info("realtime.slow", app=self._device.app_id, user=self._device.user_id, device=self._device.device_id)
            await self.close(Close.SLOW)
            self._cut()
