"""An HTTP/2 server that does what a test tells it, frame by frame: the other side of `Http2Transport`.

Whatever it says of streams it keeps to: `processed` counts, by the header `x-id`, the requests that it worked on.
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, PingAckReceived, PingReceived, RequestReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame


@dataclass
class Asked:
    """One request, as it came."""

    stream_id: int
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)
    reset: bool = False

    @property
    def id(self) -> str:
        return self.headers.get("x-id", "")


class Wire(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, server: "Scripted") -> None:
        self.server = server
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.asked: dict[int, Asked] = {}
        self.order: list[Asked] = []
        self.pings = 0
        self.pongs = 0
        self.deaf = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.wires.append(self)
        self.h2.initiate_connection()
        self.h2.update_settings(self.server.settings)
        self.flush()
        self.server.happened.set()

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            return
        for event in self.h2.receive_data(data):
            match event:
                case RequestReceived(stream_id=int(stream_id), headers=headers):
                    self.asked[stream_id] = asked = Asked(stream_id, dict(headers))
                    self.order.append(asked)
                    self.server.open_max = max(self.server.open_max, len(self.asked))
                case DataReceived(stream_id=int(stream_id), data=body, flow_controlled_length=length):
                    self.asked[stream_id].body += body
                    if self.server.generous and length:
                        self.h2.acknowledge_received_data(length, stream_id)
                case StreamEnded(stream_id=int(stream_id)) if stream_id in self.asked:
                    self.server.behave(self, self.asked[stream_id])
                case StreamReset(stream_id=int(stream_id)) if stream_id in self.asked:
                    self.asked.pop(stream_id).reset = True
                case PingReceived():
                    self.pings += 1
                case PingAckReceived():
                    self.pongs += 1
        self.flush()
        self.server.happened.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.gone += 1
        self.server.happened.set()

    def flush(self) -> None:
        if not self.transport.is_closing() and not self.server.mute:
            self.transport.write(self.h2.data_to_send())

    # What a script may do.

    def answer(self, asked: Asked, *, status: int | str = 200, body: bytes = b"", **headers: str) -> None:
        """Works on a request, and says so."""
        self.server.processed[asked.id] += 1
        self.asked.pop(asked.stream_id, None)
        if asked.reset:
            return
        fields = [(":status", str(status)), *((name.replace("_", "-"), value) for name, value in headers.items())]
        self.h2.send_headers(asked.stream_id, fields, end_stream=not body)
        if body:
            self.h2.send_data(asked.stream_id, body, end_stream=True)
        self.flush()

    def goaway(self, last: int | None = None, *, code: int = 0, debug: bytes = b"") -> None:
        """Not by h2, which would say nothing more after it."""
        self.flush()
        last = self.h2.highest_inbound_stream_id if last is None else last
        self.transport.write(GoAwayFrame(0, last_stream_id=last, error_code=code, additional_data=debug).serialize())

    def refuse(self, asked: Asked, code: ErrorCodes = ErrorCodes.REFUSED_STREAM) -> None:
        self.asked.pop(asked.stream_id, None)
        self.h2.reset_stream(asked.stream_id, code)
        self.flush()

    def set(self, **settings: int) -> None:
        self.h2.update_settings({SettingCodes[name.upper()]: value for name, value in settings.items()})
        self.flush()

    def widen(self, length: int, stream_id: int | None = None) -> None:
        self.h2.increment_flow_control_window(length, stream_id)
        self.flush()

    async def round_trip(self) -> None:
        """When it is over, the client has seen all that was said before, and done what it does at once."""
        pongs = self.pongs
        self.h2.ping(b"are you?")
        self.flush()
        await self.server.until(lambda: self.pongs > pongs)

    def drop(self) -> None:
        self.transport.abort()

    def close(self) -> None:
        self.transport.close()


Behave = Callable[[Wire, Asked], None]


def obliging(wire: Wire, asked: Asked) -> None:
    wire.answer(asked, body=asked.id.encode())


@dataclass
class Scripted:
    """A listener on loopback. `behave` is called with each whole request."""

    behave: Behave = obliging
    settings: dict[int, int] = field(default_factory=dict)
    generous: bool = True  # gives back the window for what it has read
    mute: bool = False  # accepts and says nothing
    port: int = 0
    scheme: str = "http"
    wires: list[Wire] = field(default_factory=list)
    processed: Counter[str] = field(default_factory=Counter)
    open_max: int = 0
    gone: int = 0
    happened: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}"

    @property
    def all_asked(self) -> list[Asked]:
        return [asked for wire in self.wires for asked in wire.order]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.happened.clear()
                await self.happened.wait()


@asynccontextmanager
async def serving(server: Scripted | None = None, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Scripted]:
    server = server or Scripted()
    listener = await asyncio.get_running_loop().create_server(lambda: Wire(server), "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    server.scheme = "https" if tls else "http"
    try:
        yield server
    finally:
        listener.close()
        for wire in server.wires:
            wire.transport.abort()
        await listener.wait_closed()
