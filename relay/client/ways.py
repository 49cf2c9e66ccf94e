"""The ways with a connection that lasts, WebSocket and server-sent events, and the choice among all four."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from relay.client import http, wire
from relay.client.http import Problem, Unreachable
from relay.client.steps import Fetch, Reading
from relay.client.transports import (
    FRAME_BYTES_MAX,
    JUDGED,
    OPEN_S,
    SUBPROTOCOL,
    Gone,
    HttpWay,
    Token,
    Transport,
    Way,
    params_of,
)
from relay.clock import Clock

STREAM_SILENT_S = 75.0  # the relay says something every 25 s
NO_STREAM = frozenset({404, 405, 406})  # a relay, or something before it, that has no such door
ABNORMAL = 1006  # of a socket that ended without a close frame
SENT_BYTES_MAX = 60_000  # the relay reads frames of 64 KiB


@dataclass(slots=True)
class Pace:
    """How many sends may go as frames: the relay closes who says more than 20 frames a second, and acks are some."""

    PER_S = 5.0
    BURST = 10.0

    _left: float = BURST
    _at_ms: int = 0

    def take(self, now_ms: int) -> bool:
        self._left = min(self.BURST, self._left + (now_ms - self._at_ms) / 1000 * self.PER_S)
        self._at_ms = now_ms
        if self._left < 1:
            return False
        self._left -= 1
        return True


class SocketWay(HttpWay):
    """The WebSocket (protocol 9.1)."""

    reading = Reading.PUSHED

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        token: Token,
        clock: Clock,
        socket: aiohttp.ClientWebSocketResponse,
    ) -> None:
        super().__init__(session, url, token, clock)
        self._socket = socket
        self._asked: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._asks = itertools.count(1)
        self._pace = Pace()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, session: aiohttp.ClientSession, url: str, token: Token, clock: Clock) -> "SocketWay":
        """Raises Gone."""
        try:
            async with asyncio.timeout(OPEN_S):
                socket = await session.ws_connect(
                    url + "/v1/device/ws",
                    protocols=[SUBPROTOCOL],
                    headers={"Authorization": f"Bearer {token()}"},
                    max_msg_size=FRAME_BYTES_MAX,
                    autoping=True,
                )
        except aiohttp.WSServerHandshakeError as error:
            headers = error.headers if error.headers is not None else {}
            if error.status in JUDGED and not headers.get("Content-Type", "").startswith(http.PROBLEM):
                raise Gone(unfit=True) from error  # a proxy that lets no sockets through says nothing of the device
            unfit = error.status not in {401, 403, 429, 502, 503, 504}
            raise Gone(error.status, http.retry_after_s(headers), unfit=unfit) from error
        except aiohttp.ClientConnectorError as error:
            raise Gone from error  # nobody is there: another way would not be better
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Gone(unfit=True) from error
        return cls(session, url, token, clock, socket)

    async def say(self, frame: Mapping[str, Any], *, aside: bool) -> None:
        data = msgspec.json.encode(frame)
        if aside or len(data) > SENT_BYTES_MAX:  # a call is only refused, where a frame would end the connection
            await super().say(frame, aside=True)
            return
        with suppress(ConnectionError, aiohttp.ClientError, RuntimeError):  # `receive` tells of it
            await self._socket.send_str(data.decode())

    async def send(self, key: str, message: Mapping[str, Any]) -> dict[str, Any] | None:
        """By a frame, if it fits one and the relay takes so many at the moment."""
        ref = f"send-{next(self._asks)}"
        data = msgspec.json.encode({"type": "send", "ref": ref, "key": key, "message": message})
        if self._reader.done() or len(data) > SENT_BYTES_MAX or not self._pace.take(self._clock.monotonic_ms()):
            return None
        answered: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[ref] = answered
        try:
            async with asyncio.timeout(http.CALL_S):
                await self._socket.send_str(data.decode())
                await asyncio.wait((answered,))
        except (TimeoutError, ConnectionError, aiohttp.ClientError, RuntimeError) as error:
            raise Unreachable(f"send: {type(error).__name__}") from error
        finally:
            del self._asked[ref]
            answered.cancel()
        if answered.cancelled():
            raise Unreachable("send: the connection ended")
        answer = answered.result()
        if answer["type"] == "error":
            raise Problem(answer.get("status", 503), answer)
        return answer

    async def close(self) -> None:
        with suppress(Exception):
            async with asyncio.timeout(3):
                await self._socket.close()
        self._reader.cancel()
        await super().close()

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                try:
                    frame = wire.frame(message.data.encode())
                except http.UNREADABLE:
                    break  # not the relay's words: something between us makes up answers
                asked = None if isinstance(frame, wire.Page) else self._asked.get(str(frame.get("ref")))
                if asked is None or isinstance(frame, wire.Page):
                    self._came.put_nowait(frame)
                elif not asked.done():
                    asked.set_result(frame)
        for asked in self._asked.values():
            asked.cancel()
        code = self._socket.close_code
        self._came.put_nowait(Gone(code, unfit=code in {None, ABNORMAL}))


class StreamWay(HttpWay):
    """Server-sent events (protocol 9.3): the stream begins with the first fetch, words go by calls of their own."""

    reading = Reading.STREAMED

    def __init__(self, session: aiohttp.ClientSession, url: str, token: Token, clock: Clock) -> None:
        super().__init__(session, url, token, clock)
        self.proved = False  # until something has come on the stream: the welcome came by a call
        self._stream: asyncio.Task[None] | None = None

    async def fetch(self, wanted: Fetch) -> None:
        if self._stream is not None and not wanted.anew:
            await super().fetch(wanted)
            return
        await self._end()
        self._stream = asyncio.create_task(self._streamed(wanted))

    async def close(self) -> None:
        await self._end()
        await super().close()

    async def _end(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            await asyncio.gather(self._stream, return_exceptions=True)

    async def _streamed(self, wanted: Fetch) -> None:
        headers = {"Authorization": f"Bearer {self._token()}", "Accept": "text/event-stream"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=OPEN_S, sock_read=STREAM_SILENT_S)
        params = params_of(wanted.cursor, wanted.shared, wanted.open)
        url = self._url + "/v1/device/stream"
        try:
            async with self._session.get(url, params=params, headers=headers, timeout=timeout) as answer:
                if answer.status != 200 or answer.content_type != "text/event-stream":
                    problem = http.problem_of(answer.status, answer.headers, await answer.read())
                    if answer.status in NO_STREAM or answer.status == 200:
                        raise Gone(unfit=True)
                    self._refused(problem, {})
                    return
                async for kind, data in events_of(answer.content):
                    self.proved = True
                    self._event(kind, data)
        except Gone as gone:
            self._came.put_nowait(gone)
            return
        except TimeoutError:
            self._came.put_nowait(Gone(unfit=not self.proved))  # what keeps all of it back lets nothing through
            return
        except (aiohttp.ClientError, OSError, *http.UNREADABLE):
            pass
        self._came.put_nowait(Gone())

    def _event(self, kind: str, data: bytes) -> None:
        if kind == "batch":
            self._came.put_nowait(wire.page(data))
        else:
            self._came.put_nowait({"type": kind} | msgspec.json.decode(data, type=dict[str, Any]))


async def events_of(lines: aiohttp.StreamReader) -> AsyncIterator[tuple[str, bytes]]:
    """(event, data) of a server-sent event stream (WHATWG HTML, "Server-sent events"); comments and ids are left out."""
    kind, data = "message", bytearray()
    async for chunk in long_lines(lines):
        line = chunk.rstrip(b"\r\n")
        if not line:
            if data:
                yield kind, bytes(data[:-1])
            kind, data = "message", bytearray()
            continue
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            kind = value.decode()
        elif name == b"data":
            data += value + b"\n"


async def long_lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length up to FRAME_BYTES_MAX. Raises ValueError for a longer one."""
    rest = bytearray()
    async for piece in stream.iter_any():
        rest += piece
        while (end := rest.find(b"\n")) >= 0:
            yield bytes(rest[: end + 1])
            del rest[: end + 1]
        if len(rest) > FRAME_BYTES_MAX:
            raise ValueError("a line without an end")


async def open_way(way: Way, session: aiohttp.ClientSession, url: str, token: Token, clock: Clock) -> Transport:
    """Raises Gone."""
    match way:
        case Way.WEBSOCKET:
            return await SocketWay.open(session, url, token, clock)
        case Way.SSE:
            return StreamWay(session, url, token, clock)
        case Way.LONG_POLL | Way.POLL:
            return HttpWay(session, url, token, clock)
