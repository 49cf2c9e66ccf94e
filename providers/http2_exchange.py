"""What an HTTP/2 connection is given: its limits, its vendor's habits, and requests on their way to an answer."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from providers.contract import Outcome
from providers.http import Reason, Response, TransportError

__all__ = ["Exchange", "Habits", "Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds, and how much at a time."""

    connect_s: float = 5.0  # name, TCP, TLS and the server's settings together
    total_s: float = 10.0  # a request, with its wait for a connection
    answer_bytes_max: int = 64 * 1024
    connections_max: int = 4  # to one origin
    streams_max: int = 100  # of one connection, if the server would have more
    quiet_s: float = 60.0  # after such a silence, ask whether the other side is there before giving it a request
    pong_s: float = 3.0  # for the answer to that
    ping_s: float = 3600.0  # silence after which an idle connection is kept up by a ping
    cramped_s: float = 60.0  # with one stream at most, while requests wait: then another connection takes its place
    idle_s: float = 6 * 3600.0  # without a request: close
    age_s: float = 12 * 3600.0  # then the name is resolved anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """What a vendor does with its connections."""

    spent: Callable[[Response], bool] = lambda _: False  # after this answer the connection takes no new request
    refusal: Callable[[bytes], Outcome | None] = lambda _: None  # what GOAWAY's debug data says against us, if anything
    pinned: str | None = None  # a header whose value may change on one connection only every `pin_s`
    pin_s: float = 0.0
    certified: bool = False  # we show a certificate: an alert about certificates means ours


class Carrier(Protocol):
    """A connection, for those who only want to leave it."""

    def abandon(self, exchange: "Exchange") -> None: ...


class Exchange:
    """A request on its way to its answer: its header fields as they are written, and its body."""

    __slots__ = (
        "answer",
        "answer_bytes_max",
        "answer_headers",
        "block",
        "body",
        "connection",
        "future",
        "pin",
        "resends",
        "sent",
        "status",
        "stream_id",
        "unsent",
    )

    def __init__(
        self,
        block: bytes,
        body: bytes,
        *,
        pin: str | None,
        answer_bytes_max: int,
        future: "asyncio.Future[Response]",
    ) -> None:
        self.block = block
        self.body = body
        self.pin = pin
        self.answer_bytes_max = answer_bytes_max
        self.future = future
        self.resends = 0
        self.taken_back()

    def taken_back(self) -> None:
        """As if it had never been sent: the server has said so."""
        self.connection: Carrier | None = None
        self.stream_id = 0
        self.unsent = memoryview(self.body)
        self.sent = False  # whether the other side may have seen it
        self.status = 0
        self.answer_headers: dict[str, str] = {}
        self.answer = bytearray()

    def end(self, response: Response) -> None:
        if not self.future.done():
            self.future.set_result(response)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def expire(self) -> None:
        self.fail(TransportError(Reason.TIMEOUT, sent=self.sent))
