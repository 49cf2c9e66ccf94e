"""A bare stand-in for Apple: reads every request's head and body, answers 200 with its `apns-id`, and does nothing else.

HTTP/2 by hand (RFC 9113), as far as well-behaved clients need it: h2 would cost more than the clients under measurement.
Its key and certificate stand in `both.pem`, where it is started.
"""

import asyncio
import ssl
from typing import cast

import uvloop
from hpack import Decoder
from hyperframe.frame import PingFrame, SettingsFrame, WindowUpdateFrame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
END_STREAM, PADDED, PRIORITY = 0x1, 0x8, 0x20
WINDOW = 2**30
STREAMS_MAX = 1000


class Wire(asyncio.Protocol):
    def __init__(self) -> None:
        self.rest = b""
        self.decoder = Decoder()
        self.ids: dict[int, bytes] = {}
        self.read = 0  # body bytes since the window was last given back

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        settings = {SettingsFrame.MAX_CONCURRENT_STREAMS: STREAMS_MAX, SettingsFrame.INITIAL_WINDOW_SIZE: WINDOW}
        window = WindowUpdateFrame(0, window_increment=WINDOW)
        self.transport.write(SettingsFrame(0, settings=settings).serialize() + window.serialize())

    def data_received(self, data: bytes) -> None:
        data = (self.rest + data).removeprefix(PREFACE)
        out = bytearray()
        at = 0
        while len(data) - at >= 9:
            end = at + 9 + int.from_bytes(data[at : at + 3])
            if end > len(data):
                break
            stream_id = int.from_bytes(data[at + 5 : at + 9]) & 0x7FFF_FFFF
            out += self.frame(data[at + 3], data[at + 4], stream_id, data[at + 9 : end])
            at = end
        self.rest = data[at:]
        if self.read > WINDOW // 2:
            out += WindowUpdateFrame(0, window_increment=self.read).serialize()
            self.read = 0
        self.transport.write(bytes(out))

    def frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
        if kind == HEADERS:
            assert not flags & (PADDED | PRIORITY)
            head = dict(self.decoder.decode(payload, raw=True))
            self.ids[stream_id] = bytes(head[b"apns-id"])
        elif kind == DATA:
            self.read += len(payload)
        elif kind == SETTINGS and not flags:
            return SettingsFrame(0, flags=["ACK"]).serialize()
        elif kind == PING and not flags:
            return PingFrame(0, payload, flags=["ACK"]).serialize()
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            # `:status: 200` of the static table, and a field that enters no table.
            apns_id = self.ids.pop(stream_id)
            block = b"\x88\x00\x07apns-id" + bytes([len(apns_id)]) + apns_id
            return len(block).to_bytes(3) + b"\x01\x05" + stream_id.to_bytes(4) + block
        return b""


async def main() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("both.pem")
    context.set_alpn_protocols(["h2"])
    server = await asyncio.get_running_loop().create_server(Wire, "127.0.0.1", 0, ssl=context)
    print(f"Ready: http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
