"""An answer that is whole before its first byte goes out: a few headers, and a body.

aiohttp's `Response` can also compress, set cookies, send in chunks and be changed by signals. That made it a quarter of what
a request cost that had nothing else to do. Its headers are lines here, and no map that is printed in the end.
"""

from collections.abc import Mapping
from functools import lru_cache

from aiohttp import ClientConnectionResetError, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion, HttpVersion10, HttpVersion11

BODILESS = frozenset({204, 304})  # RFC 9110: no body, and no word of its length


class Reply(web.StreamResponse):
    """Says nothing of the software that made it (safety SEC-17). `add` adds a header; of the base's own none is sent."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        super().__init__(status=status)
        self.body = body
        self._lines = [f"{name}: {value}" for name, value in headers.items()]
        self._stays: bool | None = None  # whether the connection does; None: as the caller wants
        self._request: web.BaseRequest | None = None

    @property
    def prepared(self) -> bool:
        return self._request is not None

    @property
    def keep_alive(self) -> bool | None:
        return self._stays

    def force_close(self) -> None:
        self._stays = False

    def add(self, name: str, value: str) -> None:
        self._lines.append(f"{name}: {value}")

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        self._request = request
        if self._stays is None:
            self._stays = request.keep_alive
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Raises ValueError where a header would not stay one line: rather no answer than two; ConnectionError."""
        assert self._request is not None
        out, transport = self._request.writer, self._request.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError("The caller is gone.")
        written = self._printed(self._request)
        out.output_size += len(written)
        transport.write(written)
        if transport.get_write_buffer_size():
            await out.drain()  # else who asks and never reads would fill our memory

    def _printed(self, request: web.BaseRequest) -> bytes:
        version, status, body = request.version, self._status, self.body
        lines = [_first_line(version, status), *self._lines, f"Date: {rfc822_formatted_time()}"]
        if status in BODILESS:
            body = b""
        else:
            lines.append(f"Content-Length: {len(body)}")
            if request.method == hdrs.METH_HEAD:
                body = b""
        if not self._stays:
            if version == HttpVersion11:
                lines.append("Connection: close")
        elif version is not HttpVersion11 and version == HttpVersion10:
            lines.append("Connection: keep-alive")
        lines.append("\r\n")
        head = "\r\n".join(lines)
        if not head.count("\n") == head.count("\r") == len(lines):
            raise ValueError("A header has a line break.")
        return head.encode() + body


@lru_cache
def _first_line(version: HttpVersion, status: int) -> str:
    return f"HTTP/{version.major}.{version.minor} {status} {web.StreamResponse(status=status).reason}"
