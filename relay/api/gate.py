"""Who is still let in while the relay stops, and when the last request has been answered."""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Final

from aiohttp import web

from relay.api.files import FILES
from relay.errors import Unavailable

# What is told to the end: that a message has arrived, or is not to be sent after all; and how the relay does.
ALWAYS: Final = frozenset(
    {
        ("POST", "/v1/device/ack"),
        ("GET", "/healthz"),
        ("HEAD", "/healthz"),
        ("GET", "/readyz"),
        ("HEAD", "/readyz"),
        ("GET", "/metrics"),
    }
)
HEALTH: Final = frozenset({"/healthz", "/readyz"})  # asked by whoever restarts a relay that does not answer
CANCEL: Final = ("DELETE", "/v1/messages/")

# What must always be heard, and what has bounds of its own: not counted among the requests in handlers.
UNBOUNDED: Final = frozenset({"/v1/device/ws", "/v1/device/stream", "/healthz", "/readyz", "/v1/device/ack"})
SYNC: Final = "/v1/device/sync"  # long-polls are counted where they wait


class Lane(StrEnum):
    """What requests are counted among: as many of each at once, so that a flood of one does not drive out the other."""

    HANDLERS = "handlers"
    SYNCS = "syncs"


class Gate:
    """Open, until the relay is asked to stop (safety OPS-1, OPS-2); to at most `handlers_max` requests of a lane at once.

    `refused` is told of each that is one too many.

    `leave`: all is served, but each answer is its connection's last. So a caller with requests on the way sees its
    connection closed between two of them, and does not write the next into a connection that is just being cut.
    `shut`: requests on connections that are left get 503 `draining`.
    """

    def __init__(self, handlers_max: int = 512, *, refused: Callable[[str], None] = lambda lane: None) -> None:
        self.handlers_max = handlers_max
        self.taken = dict.fromkeys(Lane, 0)
        self._refused = refused
        self._leaving = False
        self._shut = False
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def leave(self) -> None:
        self._leaving = True

    def shut(self) -> None:
        self._leaving = self._shut = True

    @property
    def busy(self) -> int:
        """Requests under way."""
        return self._busy

    async def idle(self) -> None:
        """Returns when no request is under way; a device's socket is one."""
        await self._idle.wait()

    @property
    def leaving(self) -> bool:
        """Whether each answer is its connection's last."""
        return self._leaving

    def enter(self, request: web.Request, *, spare: bool = False) -> Lane | None:
        """Counts a request, until `left` is told what this gives. Raises Unavailable for one that may not come in.

        `spare`: it has come by a connection for which there is no descriptor.
        """
        if self._shut and not _always(request):
            raise Unavailable("The relay is shutting down.", code="draining", retry_after_s=5)
        if spare and not _always(request):
            self._refused(FILES)
            raise Unavailable("The relay has all the connections it can take.", retry_after_s=5)
        lane = _lane(request)
        if lane is not None:
            if self.taken[lane] >= self.handlers_max:
                self._refused(lane)
                raise Unavailable("Too many requests at once.", retry_after_s=1)
            self.taken[lane] += 1
        if not self._busy:
            self._idle.clear()
        self._busy += 1
        return lane

    def left(self, lane: Lane | None) -> None:
        """A request that had come in is answered."""
        if lane is not None:
            self.taken[lane] -= 1
        self._busy -= 1
        if not self._busy:
            self._idle.set()


async def stop_listening(site: web.BaseSite, server: web.Server) -> None:
    """Nobody new comes in; but who stands in the kernel's queue has connected, and may have sent, so is let in.

    By itself the kernel would reset them.
    """
    listening = site._server  # noqa: SLF001 - aiohttp shows the addresses only
    assert listening is not None
    doors = [socket.socket(fileno=os.dup(one.fileno())) for one in listening.sockets]  # type: ignore[attr-defined]
    await site.stop()
    last: list[socket.socket] = []
    for door in doors:
        door.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                last.append(door.accept()[0])
        door.close()
    loop = asyncio.get_running_loop()
    for one in last:
        one.setblocking(False)
        with suppress(OSError):  # gone meanwhile
            await loop.connect_accepted_socket(server, one)


def _lane(request: web.Request) -> Lane | None:
    """What the request is counted among; None: nothing."""
    path, _, query = request.raw_path.partition("?")
    if path[:1] != "/" or "%" in path or "#" in path:  # written otherwise: with the host as well (RFC 9112, 3.2.2), say
        path = request.path
    if path == SYNC:
        return None if ("wait" in query or "%" in query) and _waits(request) else Lane.SYNCS
    return None if path in UNBOUNDED or _cancels(request) else Lane.HANDLERS


def _waits(request: web.Request) -> bool:
    try:
        return float(request.query.get("wait", 0)) > 0
    except ValueError:
        return False


def _always(request: web.Request) -> bool:
    return (request.method, request.path) in ALWAYS or _cancels(request)


def _cancels(request: web.Request) -> bool:
    method, prefix = CANCEL
    return request.method == method and request.path.startswith(prefix)
