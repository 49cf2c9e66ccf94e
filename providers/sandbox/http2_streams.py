"""Each stream of HTTP/2 as a connection of its own for what speaks HTTP/1: a request, its answer, the end.

So do reverse proxies, and so whatever a server checks and answers by HTTP/1.1 it does by HTTP/2 as well.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from providers.sandbox.http2_server import Call, OnCall

OURS = frozenset({"content-length", "host"})  # of a request: said anew
OF_HTTP1 = frozenset({"connection", "keep-alive", "transfer-encoding"})  # of an answer (RFC 9113, 8.2.2)


def answered_by(connection: Callable[[], asyncio.Protocol]) -> OnCall:
    """Hands each call to a new server's side of a connection. It answers one request of HTTP/1.0, and then closes."""

    def on_call(call: Call) -> None:
        protocol = connection()
        protocol.connection_made(StreamTransport(call, protocol))
        protocol.data_received(_written(call))

    return on_call


class StreamTransport(asyncio.Transport):
    """What is written until it is closed is the stream's answer. To abort it resets the connection below, like a TCP one."""

    def __init__(self, call: Call, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._call = call
        self._protocol = protocol
        self._said = bytearray()
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Of the connection below, but for its socket: that is not this stream's alone."""
        below = self._call.wire.transport
        return default if below is None or name == "socket" else below.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._said += data

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._ends():
            _answer(self._call, bytes(self._said))

    def abort(self) -> None:
        if self._ends():
            self._call.reset()

    def goodbye(self) -> None:
        """GOAWAY: this request was not worked on, nor is any later one."""
        if self._ends():
            self._call.goodbye()

    def _ends(self) -> bool:
        if self._closing:
            return False
        self._closing = True
        asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)
        return True


def _written(call: Call) -> bytes:
    """By HTTP/1.0, as that knows no chunks: the answer's end is the connection's."""
    lines = [f"{call.header(':method')} {call.header(':path')} HTTP/1.0"]
    lines += [f"{name}: {value}" for name, value in call.headers if not name.startswith(":") and name not in OURS]
    lines += [f"host: {call.header(':authority') or call.header('host') or ''}", f"content-length: {len(call.body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + call.body


def _answer(call: Call, said: bytes) -> None:
    head, _, body = said.partition(b"\r\n\r\n")
    if not head:
        call.answer(502)  # it died of the request
        return
    first, *lines = head.decode().split("\r\n")
    fields = [line.partition(": ") for line in lines]
    headers = [(name.lower(), value) for name, _, value in fields if name.lower() not in OF_HTTP1]
    call.answer(int(first.split(" ", 2)[1]), body, headers)
