"""An HTTP/2 server (RFC 9113) as vendors' front ends behave: stream limits that move, streams that are refused, goodbyes.

What a request means is for whoever is handed its `Call`.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame

from providers.sandbox.resets import reset

CLOSE_S = 2.0  # for answers under way, when the server ends
CONNECTIONS_WAITING_MAX = 128  # to be accepted, as aiohttp has it

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
        self.too_long = False  # `body` is then no more than its beginning

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

    def goodbye(self, debug: bytes = b"") -> None:
        """GOAWAY before this request: it was not worked on, nor is any later one."""
        self.wire.turn_away(self, debug)


OnCall = Callable[[Call], Awaitable[None] | None]


class Wire(asyncio.Protocol):
    """One connection. `memory` is for whoever answers: what a vendor remembers of a connection."""

    def __init__(self, server: "Http2Server") -> None:
        self.memory: object = None
        self.pending: set[int] = set()  # streams that are worked on
        self.streams_max = 0
        self.transport: asyncio.Transport | None = None
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._h2 = H2Connection(CONFIGURATION)
        self._calls: dict[int, Call] = {}  # not yet whole
        self._unsent: dict[int, memoryview] = {}  # bodies of answers, as far as they wait for a window
        self._taken_max = 0  # the newest stream that was handed over
        self._last_stream_id: int | None = None  # after a goodbye, later ones are not looked at
        self._flushing = False

    @property
    def certificate(self) -> bytes | None:
        """The client's, in DER, if it showed one and this sandbox's authority made it."""
        tls = None if self.transport is None else self.transport.get_extra_info("ssl_object")
        return None if tls is None else cast("bytes | None", tls.getpeercert(binary_form=True))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._server.opened(self)
        self.streams_max = self._server.streams_first(self)
        self._h2.local_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = self.streams_max
        self._h2.local_settings.acknowledge()
        self._h2.initiate_connection()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.transport = None
        self._server.lost(self)

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._h2.receive_data(data):
                self._handle(event)
        except H2Error:
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
                    room = self._server.request_bytes_max - len(call.body)
                    call.too_long = call.too_long or len(data) > room
                    call.body += data[:room]
            case StreamEnded(stream_id=int(stream_id)) if stream_id in self._calls:
                self.pending.add(stream_id)
                self._taken_max = max(self._taken_max, stream_id)
                self._server.take(self._calls.pop(stream_id))
            case StreamReset(stream_id=int(stream_id)):
                self._calls.pop(stream_id, None)
                self._unsent.pop(stream_id, None)
                self.pending.discard(stream_id)
                self._perhaps_close()
            case WindowUpdated() | RemoteSettingsChanged():
                for stream_id in list(self._unsent):
                    self._send_on(stream_id)

    def answer(self, call: Call, status: int, body: bytes, headers: Headers) -> None:
        if call.stream_id not in self.pending:
            return  # the client has lost interest, or the connection is gone
        self.pending.discard(call.stream_id)
        try:
            self._h2.send_headers(call.stream_id, [(":status", str(status)), *headers], end_stream=not body)
        except H2Error:
            return
        if body:
            self._unsent[call.stream_id] = memoryview(body)
            self._send_on(call.stream_id)
        self._flush_soon()
        self._perhaps_close()

    def _send_on(self, stream_id: int) -> None:
        """As much of an answer's body as the client has opened a window for."""
        body = self._unsent.pop(stream_id)
        try:
            while body:
                size = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
                if size <= 0:
                    self._unsent[stream_id] = body
                    return
                self._h2.send_data(stream_id, body[:size], end_stream=size >= len(body))
                body = body[size:]
        except H2Error:
            return
        self._perhaps_close()

    def refuse(self, call: Call) -> None:
        if call.stream_id in self.pending:
            self.pending.discard(call.stream_id)
            with suppress(H2Error):  # the client may have said goodbye itself
                self._h2.reset_stream(call.stream_id, ErrorCodes.REFUSED_STREAM)
            self._flush_soon()

    def turn_away(self, call: Call, debug: bytes) -> None:
        """GOAWAY because of this call. If a later one has been taken meanwhile, only this one is refused beside it: what
        a GOAWAY leaves out was never worked on (RFC 9113, 6.8)."""
        if call.stream_id < self._taken_max:
            self.refuse(call)
            self.goaway(debug, last_stream_id=self._taken_max)
        else:
            self.pending.discard(call.stream_id)
            self.goaway(debug, last_stream_id=call.stream_id - 1)

    def allow(self, streams_max: int) -> None:
        """Moves MAX_CONCURRENT_STREAMS, up or down."""
        if streams_max != self.streams_max:
            self.streams_max = streams_max
            self._h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: streams_max})
            self._flush_soon()

    def goaway(self, debug: bytes = b"", *, last_stream_id: int | None = None) -> None:
        """Says goodbye; what came before gets its answer, then the connection closes.

        Not by h2, which would say nothing more after it.
        """
        self._flush()
        last = self._h2.highest_inbound_stream_id if last_stream_id is None else max(last_stream_id, 0)
        self._last_stream_id = last if self._last_stream_id is None else min(last, self._last_stream_id)
        for stream_id in [one for one in self._calls if one > self._last_stream_id]:
            del self._calls[stream_id]
        self.pending = {one for one in self.pending if one <= self._last_stream_id}
        if self.transport is not None:
            frame = GoAwayFrame(0, last_stream_id=self._last_stream_id, error_code=0, additional_data=debug)
            self.transport.write(frame.serialize())
        self._perhaps_close()

    def reset(self) -> None:
        self._flush()
        if self.transport is not None:
            reset(self.transport)

    def close(self) -> None:
        self._flush()
        if self.transport is not None:
            self.transport.close()

    def _perhaps_close(self) -> None:
        if self._last_stream_id is not None and not self.pending and not self._calls and not self._unsent:
            self._loop.call_soon(self.close)  # after what is being written now

    def _flush_soon(self) -> None:
        """Once for all that is said in this turn of the loop: fewer TLS records and system calls."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self.transport is not None and (data := self._h2.data_to_send()):
            self.transport.write(data)


class Http2Server:
    """A listener, and who takes its calls. A call that takes time is a task of this server.

    `streams_first`: how many requests a client may have under way when it has just connected; `request_bytes_max`: what is
    kept of a request's body.
    """

    def __init__(self, on_call: OnCall, *, streams_first: Callable[[Wire], int], request_bytes_max: int) -> None:
        self.wires: set[Wire] = set()
        self.port = 0
        self.streams_first = streams_first
        self.request_bytes_max = request_bytes_max
        self._on_call = on_call
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._emptied: asyncio.Future[None] | None = None  # done when the last connection is gone

    async def open(
        self, host: str, port: int, tls: ssl.SSLContext, *, others: Callable[[], asyncio.Protocol] | None = None
    ) -> None:
        """Listens. With `others`, who does not ask for h2 by ALPN (RFC 7301) has one of these. Raises OSError."""
        made: Callable[[], asyncio.Protocol] = partial(Wire, self)
        if others is not None:
            made = partial(_Negotiated, made, others)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(made, host or None, port, ssl=tls, backlog=CONNECTIONS_WAITING_MAX)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listens no more and says goodbye; what is under way has CLOSE_S for its answer. `others` are not looked at."""
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        for wire in list(self.wires):
            wire.goaway()
        if self.wires:
            self._emptied = asyncio.get_running_loop().create_future()
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._emptied
            self._emptied = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for wire in list(self.wires):
            wire.reset()

    def opened(self, wire: Wire) -> None:
        self.wires.add(wire)

    def lost(self, wire: Wire) -> None:
        self.wires.discard(wire)
        if not self.wires and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def take(self, call: Call) -> None:
        work = self._on_call(call)
        if work is not None:
            task: asyncio.Task[None] = asyncio.ensure_future(_whole(work))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


class _Negotiated(asyncio.Protocol):
    """A connection until it is known, by its TLS, which protocol is to be spoken."""

    def __init__(self, http2: Callable[[], asyncio.Protocol], others: Callable[[], asyncio.Protocol]) -> None:
        self._http2 = http2
        self._others = others

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        protocol = self._http2() if chosen == "h2" else self._others()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


async def _whole(work: Awaitable[None]) -> None:
    await work
