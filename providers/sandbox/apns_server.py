"""An HTTP/2 server as Apple's front end behaves: few streams at first, limits that move, goodbyes with a reason.

Source: vendor sheet `apns` §3 (connections). What a request means is for whoever is handed its `Call`.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import cast

import msgspec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import H2Error
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame

REQUEST_BYTES_MAX = 64 * 1024
RESET_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST, not FIN
OPEN_STREAMS = 1000  # what Apple's servers used to allow
FIRST_STREAMS = 1  # until a provider token has proved good

# Whatever a client says is looked at; what we answer is ours.
CONFIGURATION = H2Configuration(
    client_side=False, header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
)

Headers = list[tuple[str, str]]


class Call:
    """One request, whole. Answer it once, in whichever way."""

    __slots__ = ("body", "headers", "stream_id", "too_long", "wire")

    def __init__(self, wire: "Wire", stream_id: int, headers: Headers) -> None:
        self.wire = wire
        self.stream_id = stream_id
        self.headers = headers
        self.body = bytearray()
        self.too_long = False

    def header(self, name: str) -> str | None:
        return next((value for given, value in self.headers if given == name), None)

    def answer(self, status: int, body: bytes = b"", headers: Headers | None = None) -> None:
        self.wire.answer(self, status, body, headers or [])

    def refuse(self) -> None:
        """REFUSED_STREAM: it was not worked on."""
        self.wire.refuse(self)

    def reset(self) -> None:
        """The whole connection ends without a word, so that the client sees ECONNRESET."""
        self.wire.reset()

    def goodbye(self, reason: str) -> None:
        """GOAWAY before this request: it was not worked on, nor any later one."""
        self.wire.pending.discard(self.stream_id)
        self.wire.goaway(reason, last_stream_id=self.stream_id - 1)


OnCall = Callable[[Call], Awaitable[None] | None]


class Wire(asyncio.Protocol):
    """One connection. `memory` is for whoever answers: what Apple remembers of a connection."""

    def __init__(self, server: "ApnsServer") -> None:
        self.memory: object = None
        self.pending: set[int] = set()  # streams that are worked on
        self.streams_max = FIRST_STREAMS
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._h2 = H2Connection(CONFIGURATION)
        self._calls: dict[int, Call] = {}  # not yet whole
        self._last_stream_id: int | None = None  # after a goodbye, later ones are not looked at
        self._transport: asyncio.Transport | None = None
        self._flushing = False

    @property
    def certificate(self) -> bytes | None:
        """The client's, in DER, if it showed one and this sandbox's authority made it."""
        tls = None if self._transport is None else self._transport.get_extra_info("ssl_object")
        return None if tls is None else cast("bytes | None", tls.getpeercert(binary_form=True))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.wires.add(self)
        if self.certificate is not None:
            self.streams_max = OPEN_STREAMS  # sheet §2.2: at once
        self._h2.local_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = self.streams_max
        self._h2.local_settings.acknowledge()
        self._h2.initiate_connection()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self._server.wires.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._h2.receive_data(data):
                self._handle(event)
        except H2Error:
            self._flush()
            self.close()
            return
        self._flush_soon()

    def _handle(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id=int(stream_id), headers=headers):
                if self._last_stream_id is None or stream_id <= self._last_stream_id:
                    given = [(str(name), str(value)) for name, value in headers or ()]
                    self._calls[stream_id] = Call(self, stream_id, given)
            case DataReceived(stream_id=int(stream_id), data=data, flow_controlled_length=length):
                if length:
                    self._h2.acknowledge_received_data(length, stream_id)
                call = self._calls.get(stream_id)
                if call is not None and data:
                    call.too_long = call.too_long or len(call.body) + len(data) > REQUEST_BYTES_MAX
                    if not call.too_long:
                        call.body += data
            case StreamEnded(stream_id=int(stream_id)) if stream_id in self._calls:
                self.pending.add(stream_id)
                self._server.take(self._calls.pop(stream_id))
            case StreamReset(stream_id=int(stream_id)):
                self._calls.pop(stream_id, None)
                self.pending.discard(stream_id)

    def answer(self, call: Call, status: int, body: bytes, headers: Headers) -> None:
        if call.stream_id not in self.pending:
            return  # the client has lost interest, or the connection is gone
        self.pending.discard(call.stream_id)
        try:
            self._h2.send_headers(call.stream_id, [(":status", str(status)), *headers], end_stream=not body)
            if body:  # a few bytes: no client's window is smaller
                self._h2.send_data(call.stream_id, body, end_stream=True)
        except H2Error:
            return
        self._flush_soon()
        self._perhaps_close()

    def refuse(self, call: Call) -> None:
        self.pending.discard(call.stream_id)
        self._h2.reset_stream(call.stream_id, ErrorCodes.REFUSED_STREAM)
        self._flush_soon()

    def allow(self, streams_max: int) -> None:
        """Moves MAX_CONCURRENT_STREAMS, up or down."""
        if streams_max != self.streams_max:
            self.streams_max = streams_max
            self._h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: streams_max})
            self._flush_soon()

    def goaway(self, reason: str | None, *, last_stream_id: int | None = None) -> None:
        """Says goodbye; what came before gets its answer, then the connection closes.

        Not by h2, which would say nothing more after it.
        """
        self._flush()
        last = self._h2.highest_inbound_stream_id if last_stream_id is None else max(last_stream_id, 0)
        self._last_stream_id = last if self._last_stream_id is None else min(last, self._last_stream_id)
        for stream_id in [one for one in self._calls if one > self._last_stream_id]:
            del self._calls[stream_id]
        self.pending = {one for one in self.pending if one <= self._last_stream_id}
        debug = b"" if reason is None else msgspec.json.encode({"reason": reason})
        if self._transport is not None:
            frame = GoAwayFrame(0, last_stream_id=self._last_stream_id, error_code=0, additional_data=debug)
            self._transport.write(frame.serialize())
        self._perhaps_close()

    def reset(self) -> None:
        self._flush()
        if self._transport is None:
            return
        connection = self._transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_ONCE)
        self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _perhaps_close(self) -> None:
        if self._last_stream_id is not None and not self.pending and not self._calls:
            self._loop.call_soon(self.close)  # after what is being written now

    def _flush_soon(self) -> None:
        """Once for all that is said in this turn of the loop: fewer TLS records and system calls."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._transport is not None and (data := self._h2.data_to_send()):
            self._transport.write(data)


class ApnsServer:
    """A listener, and who takes its calls. A call that takes time is a task of this server."""

    def __init__(self, on_call: OnCall) -> None:
        self.wires: set[Wire] = set()
        self.port = 0
        self._on_call = on_call
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int, tls: ssl.SSLContext) -> None:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Wire(self), host or None, port, ssl=tls)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for wire in list(self.wires):
            wire.reset()
        if self._listener is not None:
            await self._listener.wait_closed()
            self._listener = None

    def take(self, call: Call) -> None:
        work = self._on_call(call)
        if work is not None:
            task: asyncio.Task[None] = asyncio.ensure_future(_whole(work))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _whole(work: Awaitable[None]) -> None:
    await work
