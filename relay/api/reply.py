"""An answer that is whole before its first byte goes out: a few headers, and a body.

aiohttp's `Response` can also compress, set cookies, send in chunks and be changed by signals. That made it a quarter of what
a request cost that had nothing else to do.
"""

from collections.abc import Mapping
from typing import cast

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion10, HttpVersion11, StreamWriter

BODILESS = frozenset({204, 304})  # RFC 9110: no body, and no word of its length


class Reply(web.StreamResponse):
    """Says nothing of the software that made it (safety SEC-17)."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        super().__init__(status=status, headers=headers)
        self.body = body
        self._stays: bool | None = None  # whether the connection does; None: as the caller wants
        self._out: StreamWriter | None = None

    @property
    def prepared(self) -> bool:
        return self._out is not None

    @property
    def keep_alive(self) -> bool | None:
        return self._stays

    def force_close(self) -> None:
        self._stays = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        if self._out is not None:
            return self._out
        out = self._out = cast(StreamWriter, request.writer)  # aiohttp makes no other
        headers, version = self.headers, request.version
        if self._stays is None:
            self._stays = request.keep_alive
        if self.status in BODILESS:
            self.body = b""
        else:
            headers[hdrs.CONTENT_LENGTH] = str(len(self.body))
            if request.method == hdrs.METH_HEAD:
                self.body = b""
        headers[hdrs.DATE] = rfc822_formatted_time()
        if not self._stays:
            if version == HttpVersion11:
                headers[hdrs.CONNECTION] = "close"
        elif version == HttpVersion10:
            headers[hdrs.CONNECTION] = "keep-alive"
        await out.write_headers(f"HTTP/{version.major}.{version.minor} {self.status} {self.reason}", headers)
        return out

    async def write_eof(self, data: bytes = b"") -> None:
        assert self._out is not None
        if self.body:
            await self._out.write_eof(self.body)
        else:
            self._out.set_eof()
            await self._out.drain()  # else who asks and never reads would fill our memory
