"""The network between the world and a node: requests that get lost, come twice or late, and sockets that break or go deaf.

Nothing of the node runs in a caller's context, nor the other way round: a paused node leaves its callers waiting.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

from aiohttp import WSMessage, WSMsgType

from .draws import Stream
from .faults import Faults
from .loop import now_s, sleep
from .offered import Offered

T = TypeVar("T")
REQUEST_S = 30.0
BUFFER_FRAMES = 64  # what a socket's buffers hold before its writer has to wait


class Lost(Exception):
    """No answer came."""


class Net:
    """Requests to nodes."""

    def __init__(self, faults: Faults, draws: Stream) -> None:
        self._faults = faults
        self._draws = draws

    def delay_s(self) -> float:
        if self._faults.strikes("slow_network"):
            return self._draws.between(0.5, 20)
        return self._draws.between(0.005, 0.08)

    async def call(
        self, spawn: Callable[[Coroutine[Any, Any, T]], "asyncio.Task[T]"], ask: Callable[[], Coroutine[Any, Any, T]]
    ) -> T:
        """Carries a request there and its answer back. Raises Lost, or what the node answered."""
        await sleep(self.delay_s())
        if self._faults.strikes("request_lost"):
            await sleep(self._draws.between(1, REQUEST_S))
            raise Lost
        if self._faults.strikes("request_twice"):
            spawn(ask())
        task = spawn(ask())
        done, _ = await asyncio.wait([task], timeout=REQUEST_S)
        if not done or task.cancelled():
            raise Lost
        if self._faults.strikes("answer_lost"):
            task.exception()
            await sleep(self._draws.between(1, REQUEST_S))
            raise Lost
        await sleep(self.delay_s())
        return task.result()


class Link:
    """A connection: two directions, each in order. `deaf`: nothing arrives any more, and nobody is told; `deaf_way`: in
    this direction. `slow`: its client takes a frame now and then, and nothing between them keeps the others."""

    def __init__(self, net: Net, faults: Faults, outside: Context) -> None:
        self._net = net
        self._faults = faults
        self._outside = outside
        self.down: deque[bytes] = deque()  # frames at the client, not yet read
        self.down_event = asyncio.Event()
        self.socket = ServerSocket(self)
        self.offered = Offered()
        self.deaf = False
        self.deaf_way: str | None = None
        self.slow: Stream | None = None
        self.broken = False
        self.close_code: int | None = None
        self._times = {"up": 0.0, "down": 0.0}

    def _carry(self, way: str, deliver: Callable[..., None], *args: Any) -> None:
        at = max(now_s() + self._net.delay_s(), self._times[way])
        self._times[way] = at
        asyncio.get_running_loop().call_at(at + 1e-5, self._arrive, way, deliver, args, context=self._outside)
        self._times[way] = at + 1e-5

    def _arrive(self, way: str, deliver: Callable[..., None], args: tuple[Any, ...]) -> None:
        if not self.deaf and way != self.deaf_way and not self.broken:
            deliver(*args)

    def go_deaf(self, way: str) -> None:
        """In this direction too, if it has been in the other one. None is ever heard again: a connection has no holes."""
        if self.deaf_way not in {None, way}:
            self.deaf = True
        self.deaf_way = way

    # --- the client's end ---

    def client_send(self, data: bytes) -> None:
        if self.broken:
            raise Lost
        if self._faults.strikes("socket_reset"):
            self.reset()
            raise Lost
        self._carry("up", self.socket.arrived, WSMessage(WSMsgType.TEXT, data, None))

    async def client_receive(self, timeout_s: float) -> bytes | None:
        """The next frame; None: nothing came in time. Raises Lost when the connection is over."""
        if self.slow is not None:
            await sleep(self.slow.between(1, 40))
        if not self.down:
            if self.broken or self.close_code is not None:
                raise Lost
            self.down_event.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self.down_event.wait()
            except TimeoutError:
                return None
        if self.down:
            data = self.down.popleft()
            self.socket.drained.set()
            return data
        raise Lost

    def client_close(self) -> None:
        if not self.broken:
            self._carry("up", self.socket.arrived, WSMessage(WSMsgType.CLOSE, None, None))

    def reset(self) -> None:
        """The connection is gone, and both ends learn of it (unless it had gone deaf)."""
        self.broken = True
        self.down_event.set()
        if not self.deaf and self.deaf_way != "up":
            self.socket.arrived(WSMessage(WSMsgType.ERROR, None, None))

    def node_ended(self) -> None:
        """The node's end of the connection is gone."""
        self.socket.closed = True
        self._carry("down", self.client_got_close, 1006)

    # --- what arrives at the client ---

    def client_got(self, data: bytes) -> None:
        self.down.append(data)
        self.down_event.set()

    def client_got_ping(self) -> None:
        self._carry("up", self.socket.arrived, WSMessage(WSMsgType.PONG, b"", None))

    def client_got_close(self, code: int) -> None:
        self.close_code = code
        self.down_event.set()


class ServerSocket:
    """The node's end: what a session uses of `aiohttp.web.WebSocketResponse`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._inbox: asyncio.Queue[WSMessage] = asyncio.Queue()
        self.closed = False
        self.drained = asyncio.Event()

    def arrived(self, message: WSMessage) -> None:
        self._inbox.put_nowait(message)

    def __aiter__(self) -> "ServerSocket":
        return self

    async def __anext__(self) -> WSMessage:
        if self.closed:
            raise StopAsyncIteration
        message = await self._inbox.get()
        if message.type in {WSMsgType.CLOSE, WSMsgType.ERROR, WSMsgType.CLOSED}:
            self.closed = True
            raise StopAsyncIteration
        return message

    async def send_frame(self, data: bytes, kind: WSMsgType) -> None:
        if self.closed or self._link.broken:
            raise ConnectionResetError
        while len(self._link.down) >= (BUFFER_FRAMES if self._link.slow is None else 1):  # the reader is slow
            self.drained.clear()
            await self.drained.wait()
        self._link._carry("down", self._link.client_got, data)

    async def ping(self) -> None:
        if self.closed or self._link.broken:
            raise ConnectionResetError
        self._link._carry("down", self._link.client_got_ping)

    async def pong(self, data: bytes) -> None:
        return None

    async def close(self, *, code: int, message: bytes) -> None:
        if not self.closed:
            self.closed = True
            self._link._carry("down", self._link.client_got_close, code)
            self._inbox.put_nowait(WSMessage(WSMsgType.CLOSED, None, None))
