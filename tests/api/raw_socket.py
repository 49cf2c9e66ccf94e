"""A WebSocket client that can say what no proper one would: frames byte by byte (RFC 6455 5.2)."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from running_relay import ORIGIN

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
WITHIN_S = 20
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Protocol": "relay.v1.json",
}


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    """One frame; `reserved` are the bits RSV1 (4), RSV2 (2) and RSV3 (1)."""
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    bit, size = (0x80 if masked else 0), len(payload)
    if size < 126:
        head = struct.pack("!BB", first, bit | size)
    elif size < 65_536:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if not masked:
        return head + payload
    mask = b"\x0f\xf0\x55\xaa"
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


@dataclass
class Line:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def say(self, *frames: bytes) -> None:
        self.writer.writelines(frames)

    def tell(self, **content: Any) -> None:
        self.say(frame(TEXT, json.dumps(content).encode()))

    async def hear(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload. Raises IncompleteReadError when the connection has gone."""
        async with asyncio.timeout(WITHIN_S):
            first, second = await self.reader.readexactly(2)
            assert first & 0x80, "the relay does not fragment"
            assert not first & 0x70, "nothing was negotiated"
            assert not second & 0x80, "a server masks nothing"
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0x0F, await self.reader.readexactly(size)

    async def hear_of(self, type_: str) -> dict[str, Any]:
        """The next message of this type; others are passed over."""
        while True:
            opcode, payload = await self.hear()
            assert opcode == TEXT, (opcode, payload)
            said = json.loads(payload)
            if said["type"] == type_:
                return dict(said)

    async def closed(self) -> int | None:
        """The code that the relay closes with; None if it just hangs up. Then nothing more may come."""
        code: int | None = None
        try:
            while True:
                opcode, payload = await self.hear()
                if opcode == CLOSE:
                    (code,) = struct.unpack("!H", payload[:2])
                    self.say(frame(CLOSE, payload[:2]))
        except (asyncio.IncompleteReadError, ConnectionError):
            return code


async def _upgrade(
    port: int, token: str | None, extra: str, limit: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """A connection, and the head of what answers its upgrade."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
    who = f"Authorization: Bearer {token}\r\n" if token else f"Origin: {ORIGIN}\r\n"
    writer.write(
        (
            "GET /v1/device/ws HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
            f"Sec-WebSocket-Protocol: relay.v1.json\r\n{who}{extra}\r\n"
        ).encode()
    )
    return reader, writer, await reader.readuntil(b"\r\n\r\n")


@asynccontextmanager
async def dialled(
    port: int,
    token: str | None,
    *,
    hello: dict[str, Any] | None = None,
    extra: str = "",
    limit: int = 2**16,
    patient: bool = False,
) -> AsyncIterator[Line]:
    """A connection after its upgrade; with `hello`, also after its welcome. `patient`: 429 means to try again."""
    reader, writer, head = await _upgrade(port, token, extra, limit)
    async with asyncio.timeout(30 if patient else None):
        while patient and head.startswith(b"HTTP/1.1 429 "):
            writer.close()
            reader, writer, head = await _upgrade(port, token, extra, limit)
    try:
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert b"sec-websocket-extensions" not in head.lower()
        line = Line(reader, writer)
        if hello is not None:
            line.tell(type="hello", ref="hello", store={"id": "s"}, **hello)
            await line.hear_of("welcome")
        yield line
    finally:
        writer.close()
