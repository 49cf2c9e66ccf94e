"""Connections: the limits that hold before there is a request, and for what is sent, and what a peer is told that never
gets that far."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy

from relay.api import files
from relay.api.frames import Frames
from relay.errors import CODES, RETRYABLE

HEAD_S: Final = 10.0
SPARE_HEAD_S: Final = 1.0  # while descriptors are short
NEW_S: Final = 5.0  # who has come no longer ago and has asked nothing is about to
UNREAD_S: Final = 60.0  # how long what is sent may wait for a peer that takes nothing; then it is cut off (RFC 5482)
LINGER_S: Final = 2.0  # how long the rest of a refused body is read and dropped before the connection is cut

# For web.AppRunner: what aiohttp's parser keeps by itself (safety B002 to B006, B009, B011). Bodies are never inflated.
PARSER: Final[dict[str, Any]] = {
    "max_line_size": 8190,
    "max_field_size": 8190,
    "max_headers": 64,
    "auto_decompress": False,
    "lingering_time": LINGER_S,
}

COMPILED: Final = HttpRequestParser is not HttpRequestParserPy

Way = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
WAYS: Final[web.AppKey[Mapping[str, Way]]] = web.AppKey("WAYS")
"""Where an application keeps who answers, by method and path as they come ("GET /v1/device/sync"). It must find them
without this, too."""


class Runner(web.AppRunner):
    """An AppRunner with the limits of PARSER, whose connections have 10 s for a request's head, and which answers what
    is not HTTP in our words and without naming its software. Raises RuntimeError if aiohttp lacks its compiled parser.
    """

    def __init__(self, app: web.Application, **kwargs: Any) -> None:
        if not COMPILED:
            raise RuntimeError("aiohttp runs without its compiled parser, which is the strict one; reinstall it.")
        super().__init__(app, **PARSER | kwargs)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            _short_ways(self.app[WAYS], made.request_handler) if WAYS in self.app else made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,  # noqa: SLF001
        )


def _short_ways(ways: Mapping[str, Way], others: Way) -> Way:
    """Requests for exactly these go straight there; the rest, `others` finds in aiohttp's manner, which is dearer."""

    def found(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        return ways.get(f"{request.method} {request.raw_path.partition('?')[0]}", others)(request)

    return found


def is_spare(request: web.BaseRequest) -> bool:
    """Whether it came by a connection for which there is no descriptor: it may be answered, and is then closed."""
    return getattr(request.protocol, "spare", False) is True


def about_to_ask(server: web.Server) -> int:
    """How many have just connected, and their first request has still to arrive."""
    return sum(isinstance(one, _Connection) and one.about_to_ask for one in server.connections)


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    """One connection. aiohttp by itself would wait for a request's head for as long as the peer cares to send it."""

    __slots__ = ("_head_begun", "_head_timer", "spare")

    def __init__(self, manager: web.Server, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_begun = False
        self.spare = False  # it has a descriptor of the reserve: it may ask once, and is turned away

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux has it; it counts for what is closed and not yet sent, too
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_S * 1000))
        beyond = peer.fileno() - files.most()
        self.spare = beyond >= 0
        if beyond >= files.RESERVE - files.UNHEARD:
            self.force_close()
        else:
            self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._await_no_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages or self._busy():
            if self._head_timer is not None:
                self._await_no_head()
        elif data:
            self._head_begun = True
            if self._head_timer is None:
                self._await_head()

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        super().set_parser(Frames(parser), data_received_cb)  # type: ignore[arg-type]  # it is used as one

    @property
    def about_to_ask(self) -> bool:
        timer = self._head_timer
        return timer is not None and self._request_count == 0 and timer.when() - self._loop.time() > HEAD_S - NEW_S

    def _busy(self) -> bool:
        """Whether a whole request is here. Between requests, and only then, aiohttp has a waiter for the next."""
        return bool(self._messages) or self._upgraded or (self._waiter is None and self._request_count > 0)

    def _await_head(self) -> None:
        self._head_timer = self._loop.call_later(SPARE_HEAD_S if self.spare else HEAD_S, self._head_is_late)

    def _await_no_head(self) -> None:
        self._head_begun = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._busy() or self.transport is None:
            return
        if self._head_begun:  # else nothing was asked, so nothing is answered
            self.transport.write(_TOO_SLOW)
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What did not even reach the application: not HTTP, mostly."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        if request.writer.output_size > 0:
            raise ConnectionError("The answer has begun already.")
        answer = _Nameless(status=400, body=_NOT_HTTP, content_type="application/problem+json")
        answer.force_close()
        return answer


class _Nameless(web.Response):
    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.pop(hdrs.SERVER, None)


def _bare_problem(code: str, detail: str) -> bytes:
    """A problem for a peer that has no request yet, so no request id either."""
    status, title = CODES[code]
    return json.dumps(
        {
            "type": f"urn:problem:relay:{code}",
            "title": title,
            "status": status,
            "detail": detail,
            "code": code,
            "retryable": code in RETRYABLE,
        }
    ).encode()


_NOT_HTTP = _bare_problem("malformed_http", "This is not a request in HTTP/1.1 that only one reading fits.")
_SLOW = _bare_problem("request_timeout", "The head of the request took too long to arrive.")
_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/problem+json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(_SLOW)
) + _SLOW
