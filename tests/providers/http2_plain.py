"""A plain HTTP/2 client: it says whatever a test wants, and shows each event."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any, Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, RemoteSettingsChanged


class PlainClient:
    """One connection to an emulator by TLS, whose authority is `ca` (PEM)."""

    def __init__(self, url: str, *, ca: str, certificate: Path | None = None) -> None:
        self.host, _, port = url.removeprefix("https://").rpartition(":")
        self.port = int(port)
        self.ca = ca
        self.certificate = certificate
        self.h2 = H2Connection(H2Configuration(header_encoding="utf-8", validate_outbound_headers=False))
        self.goaway: ConnectionTerminated | None = None

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context(cadata=self.ca)
        context.set_alpn_protocols(["h2"])
        if self.certificate is not None:
            context.load_cert_chain(self.certificate)
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port, ssl=context)
        self.h2.initiate_connection()
        self.writer.write(self.h2.data_to_send())
        while not await self.hear(RemoteSettingsChanged):
            pass
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    @property
    def streams_max(self) -> int:
        return self.h2.remote_settings.max_concurrent_streams

    async def hear(self, *wanted: type) -> list[Any]:
        """The next events of these kinds, maybe none. Raises ConnectionResetError at the end."""
        async with asyncio.timeout(10):
            data = await self.reader.read(65_536)
        if not data:
            raise ConnectionResetError
        events = self.h2.receive_data(data)
        for event in events:
            if isinstance(event, ConnectionTerminated):
                self.goaway = event
            if isinstance(event, DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
        self.writer.write(self.h2.data_to_send())
        return [event for event in events if isinstance(event, wanted)]

    def tell(
        self, headers: list[tuple[str, str]], body: bytes = b"", *, path: str, method: str = "POST", ended: bool = True
    ) -> int:
        """Sends a request, or only its beginning. Gives the stream."""
        stream_id = self.h2.get_next_available_stream_id()
        authority = f"{self.host}:{self.port}"
        pseudo = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path)]
        self.h2.send_headers(stream_id, [*pseudo, *headers], end_stream=ended and not body)
        if body:
            self.h2.send_data(stream_id, body, end_stream=ended)
        self.writer.write(self.h2.data_to_send())
        return stream_id
