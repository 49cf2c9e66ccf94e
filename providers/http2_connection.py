"""One HTTP/2 connection as a client sees it: requests in, answers out, and for each one left over whether it was processed.

RFC 9113. Streams above the last one that a server's GOAWAY names, and refused streams, go back to whoever gave them. The
connection decides nothing about where they go next.
"""

import asyncio
import ssl
from typing import Protocol, cast

from providers.contract import Outcome
from providers.http import Reason, Refusal, Response, TransportError
from providers.http2_exchange import Exchange, Habits, Limits
from providers.http2_frames import (
    REFUSED_STREAM,
    Answered,
    Carried,
    Changed,
    Event,
    Frames,
    FramesBroken,
    Goaway,
    Pong,
    Reset,
    StreamsUsedUp,
    Widened,
)
from providers.http2_headers import Head
from providers.http2_tls import about_certificate, certificate_refused

__all__ = ["Connection", "Home"]

HEADER_LIST_BYTES_MAX = 16_384  # of an answer
UPLOAD_BYTES_MIN = 16_384  # a larger body starts with this much of a window
PING = b"relay-up"


class Home(Protocol):
    """Whoever holds a connection."""

    def changed(self) -> None:
        """There may be room for more, or less."""

    def give_back(self, exchanges: list[Exchange]) -> None:
        """These were certainly not processed; oldest first."""

    def useless(self) -> None:
        """Its first answer was one after which it takes nothing more."""

    def refused(self, against_us: Outcome) -> None:
        """The server said good-bye, and what it has against us: the next connection would hear the same."""

    def lost(self, connection: "Connection") -> None:
        """It is closed, and everything on it has ended."""


class Connection(asyncio.Protocol):
    """Made by `loop.create_connection`; `ready` is done when the server's settings are here, or it failed before."""

    def __init__(self, home: Home, limits: Limits, habits: Habits) -> None:
        self._loop = asyncio.get_running_loop()
        self._home = home
        self._limits = limits
        self._habits = habits
        self._frames = Frames(header_list_bytes_max=HEADER_LIST_BYTES_MAX)
        self._streams: dict[int, Exchange] = {}
        self._streams_max = limits.streams_max  # lower for a while after the server refused a stream
        self._held: dict[int, Exchange] = {}  # their bodies wait for a window
        self._transport: asyncio.Transport | None = None
        self._flushing = False
        self._paused = False
        self._pong: asyncio.TimerHandle | None = None  # set while we ask whether the other side is there
        self._timer: asyncio.TimerHandle | None = None
        self._pin: str | None = None
        self._born_s = self._heard_s = self._used_s = self._pinned_s = self._loop.time()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.answered = 0  # requests
        self.proved = False  # by an answer after which it went on
        self._cramped_s: float | None = None  # since when it may have one stream at most
        self.draining = False  # takes nothing new, ends what it has
        self.closed = False

    # What its home asks.

    @property
    def load(self) -> int:
        return len(self._streams)

    @property
    def promising(self) -> bool:
        """It may get room by itself: it is being asked whether it is there, or has not yet answered its first request.

        APNs opens with one stream and raises the limit once a token has proved good (sheet §3).
        """
        return self._pong is not None or (not self.answered and bool(self._streams))

    @property
    def stalled(self) -> bool:
        """The server has all but closed it for long: some never widen such a connection again (sheet §10.3)."""
        return self._cramped_s is not None and self._loop.time() - self._cramped_s > self._limits.cramped_s

    def takes(self, pin: str | None) -> bool:
        """Whether the connection is bound to this value of the pinned header, or may change to it."""
        if self._pin is None or self._pin == pin:
            return True
        return self._loop.time() - self._pinned_s >= self._habits.pin_s

    def room(self, exchange: Exchange) -> bool:
        """Whether it may start now: a stream is free, and a window for its body. May ask the other side first."""
        body_bytes = len(exchange.body)
        if (
            self.draining
            or self._paused
            or self._pong is not None
            or not (self.ready.done() and self.takes(exchange.pin))
        ):
            return False
        if self._loop.time() - self._heard_s > self._limits.quiet_s:
            self._probe()
            return False
        streams_max = min(self._frames.peer_streams_max, self._streams_max)
        if len(self._streams) >= streams_max:
            return False
        if not body_bytes:
            return True
        # A body that only trickles should not begin: it would count as sent. But nothing widens an unused window.
        window = self._frames.window
        enough = window >= min(body_bytes, UPLOAD_BYTES_MIN) or (window > 0 and not self._streams)
        return enough and self._frames.peer_window > 0

    def start(self, exchange: Exchange) -> None:
        """Sends a request for which there is room."""
        try:
            stream_id = self._frames.request(exchange.block, with_body=bool(exchange.body))
        except StreamsUsedUp:
            self.drain()
            self._home.give_back([exchange])
            return
        exchange.connection = self
        exchange.stream_id = stream_id
        if exchange.pin != self._pin:
            self._pin, self._pinned_s = exchange.pin, self._loop.time()
        exchange.sent = True
        self._streams[stream_id] = exchange
        self._used_s = self._loop.time()
        if exchange.body:
            self._upload(exchange)
        self._flush_soon()

    def abandon(self, exchange: Exchange) -> None:
        """Nobody waits for its answer any more."""
        if self._streams.pop(exchange.stream_id, None) is None:
            return
        self._reset(exchange)
        if self._loop.time() - self._heard_s > self._limits.pong_s and not self.closed:
            self._probe()  # it was silent for long: is it there at all?
        self._settled()

    def drain(self) -> None:
        """Takes no new requests; closes when the last has its answer."""
        self.draining = True
        self._settled()

    def close(self) -> None:
        """Ends it now. What has no answer yet fails."""
        self._break(Reason.RESET)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._flush()
        self._tick()

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        self._heard_s = self._loop.time()
        try:
            for event in self._frames.receive(data):
                self._handle(event)
        except FramesBroken:
            self._break(Reason.GARBAGE)
            return
        self._flush_soon()
        self._settled()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()
        self._home.changed()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self.ready.done():
            self.ready.set_exception(self._why_not(exc))
            self.ready.exception()  # whoever waited may be gone
        elif not self.answered and self._habits.certified and about_certificate(exc):
            # TLS 1.3: the handshake is over before the server has looked at our certificate.
            self._end_all(self._why_not(exc))
        self._break(Reason.RESET)
        self._home.lost(self)

    def _why_not(self, exc: Exception | None) -> Exception:
        if self._habits.certified and about_certificate(exc):
            return certificate_refused()
        return TransportError(Reason.TLS_FAILED if isinstance(exc, ssl.SSLError) else Reason.RESET, sent=False)

    # What the server says.

    def _handle(self, event: Event) -> None:
        match event:
            case Answered(stream_id, fields, ended) if stream_id in self._streams:
                self._head(self._streams[stream_id], fields)
                if ended:
                    self._answer(self._streams[stream_id], ended=True)
            case Carried(stream_id, data, ended) if stream_id in self._streams:
                exchange = self._streams[stream_id]
                exchange.answer += data
                if ended or len(exchange.answer) > exchange.answer_bytes_max:
                    self._answer(exchange, ended=ended)
            case Changed():
                if not self.ready.done():
                    self.ready.set_result(None)
                if self._frames.peer_streams_max > 1:
                    self._cramped_s = None
                elif self._cramped_s is None:
                    self._cramped_s = self._loop.time()
                self._upload_held()
            case Widened():
                self._upload_held()
            case Reset(stream_id, code) if stream_id in self._streams:
                exchange = self._streams.pop(stream_id)
                self._held.pop(stream_id, None)
                if code == REFUSED_STREAM:
                    self._streams_max = max(1, len(self._streams))
                    exchange.taken_back()
                    self._home.give_back([exchange])
                else:
                    exchange.fail(TransportError(Reason.RESET, sent=True))
            case Pong(data) if data == PING and self._pong is not None:
                self._pong.cancel()
                self._pong = None
            case Goaway():
                self._goaway(event)

    def _head(self, exchange: Exchange, fields: Head) -> None:
        """The head of an answer. An interim one (1xx), and fields that come after a body, say nothing to us."""
        status = next((value for name, value in fields if name == b":status"), b"")
        if exchange.status or (status.startswith(b"1") and len(status) == 3):
            return
        exchange.status = int(status) if len(status) == 3 and status.isdigit() else 0
        for name, value in fields:
            if not name.startswith(b":"):
                exchange.answer_headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def _goaway(self, goaway: Goaway) -> None:
        self.draining = True
        over = [stream_id for stream_id in self._streams if stream_id > goaway.last_stream_id]
        exchanges = [self._streams.pop(stream_id) for stream_id in sorted(over)]
        for stream_id in over:
            self._held.pop(stream_id, None)
        against_us = self._habits.refusal(goaway.debug)
        for exchange in exchanges:
            exchange.taken_back()
            if against_us is not None:
                exchange.fail(Refusal(against_us))
        if against_us is not None:
            self._home.refused(against_us)
        self._home.give_back([exchange for exchange in exchanges if not exchange.future.done()])

    def _answer(self, exchange: Exchange, *, ended: bool) -> None:
        del self._streams[exchange.stream_id]
        if not ended or exchange.unsent:
            self._reset(exchange)
        truncated = len(exchange.answer) > exchange.answer_bytes_max
        self.answered += 1
        self._streams_max = min(self._streams_max + 1, self._limits.streams_max)
        if not 200 <= exchange.status <= 999:
            exchange.fail(TransportError(Reason.GARBAGE, sent=True))
            return
        response = Response(
            status=exchange.status,
            headers=exchange.answer_headers,
            body=bytes(exchange.answer[: exchange.answer_bytes_max]),
            truncated=truncated,
        )
        if self._habits.spent(response):
            self.draining = True
            if not self.proved:
                self._home.useless()
        else:
            self.proved = True
        exchange.end(response)

    # What goes out.

    def _upload(self, exchange: Exchange) -> None:
        stream_id = exchange.stream_id
        while exchange.unsent:
            window = self._frames.room(stream_id)
            if window <= 0:
                self._held[stream_id] = exchange
                return
            piece, exchange.unsent = exchange.unsent[:window], exchange.unsent[window:]
            self._frames.upload(stream_id, bytes(piece), ended=not exchange.unsent)
        self._held.pop(stream_id, None)

    def _upload_held(self) -> None:
        for exchange in list(self._held.values()):
            self._upload(exchange)

    def _reset(self, exchange: Exchange) -> None:
        self._held.pop(exchange.stream_id, None)
        self._frames.reset(exchange.stream_id)
        self._flush_soon()

    def _probe(self) -> None:
        if self._pong is None and not self.closed:
            self._frames.ping(PING)
            self._pong = self._loop.call_later(self._limits.pong_s, self._break, Reason.TIMEOUT)
            self._flush_soon()

    def _flush_soon(self) -> None:
        """Once for all that is said in this turn of the loop: fewer TLS records and system calls."""
        if not self._flushing and not self.closed:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._transport is not None and not self.closed and (data := self._frames.take()):
            self._transport.write(data)

    # Its end.

    def _settled(self) -> None:
        if self.draining and not self._streams and not self.closed:
            self._break(Reason.RESET)
        self._home.changed()

    def _tick(self) -> None:
        """Keeps an idle connection up, and lets go of a useless or an old one."""
        now_s, limits = self._loop.time(), self._limits
        if now_s >= self._born_s + limits.age_s or (not self._streams and now_s >= self._used_s + limits.idle_s):
            self.drain()
        elif now_s >= self._heard_s + limits.ping_s:
            self._probe()
        if self.closed or self.draining:
            return
        heard_s = self._heard_s if self._pong is None else now_s
        used_s = now_s if self._streams else self._used_s
        next_s = min(self._born_s + limits.age_s, heard_s + limits.ping_s, used_s + limits.idle_s)
        self._timer = self._loop.call_at(next_s, self._tick)

    def _break(self, reason: Reason) -> None:
        """Says good-bye and closes; whoever has no answer is told that there may have been one."""
        if self.closed:
            return
        self._frames.goodbye()
        self._flush()
        self.closed = self.draining = True
        for timer in (self._pong, self._timer):
            if timer is not None:
                timer.cancel()
        self._pong = None
        self._end_all(TransportError(reason, sent=True))
        if self._transport is not None:
            if reason is Reason.TIMEOUT:
                self._transport.abort()  # nobody is there to take a good-bye
            else:
                self._transport.close()

    def _end_all(self, error: Exception) -> None:
        for exchange in self._streams.values():
            exchange.fail(error)
        self._streams.clear()
        self._held.clear()
