"""A TCP proxy that misbehaves on request: it delays, throttles, swallows, cuts and half-closes what passes through it."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

CHUNK = 16 * 1024
UP, DOWN = "up", "down"  # towards the target; back from it
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


@dataclass(eq=False)
class _Line:
    """One connection through the wire: the sides of who dialled and of who was dialled."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter

    def reset(self) -> None:
        for side in (self.near, self.far):
            sock = side.transport.get_extra_info("socket")
            if sock is not None and not side.transport.is_closing():
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            side.transport.abort()


class Wire:
    """Passes connections on to `target`. Every attribute may be changed at any time, and holds for what is open, too."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.delay_s = 0.0  # each piece, each way
        self.bytes_per_s: float | None = None  # each way of each connection
        self.holes: set[str] = set()  # what goes this way is swallowed; nobody is told
        self.refuses = False  # a new connection is reset at once
        self.cut_after: int | None = None  # so many bytes of the answer pass, then the connection is reset
        self.dialled = 0
        self.passed = {UP: 0, DOWN: 0}
        self._lines: set[_Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> int:
        return len(self._lines)

    def cut(self) -> None:
        """Resets everything that is open."""
        for line in list(self._lines):
            line.reset()

    def half_close(self) -> None:
        """Tells both ends of every connection that the other will say nothing more, while both can still be heard."""
        for line in list(self._lines):
            for side in (line.near, line.far):
                with suppress(OSError, RuntimeError):
                    side.write_eof()

    def heal(self) -> None:
        """What comes from now on passes. What was swallowed is lost, as it is in a network that comes back too late."""
        self.delay_s, self.bytes_per_s, self.refuses, self.cut_after = 0.0, None, False, None
        self.holes.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.dialled += 1
        try:
            if self.refuses:
                _Line(writer, writer).reset()
                return
            try:
                there, far = await asyncio.open_connection("127.0.0.1", self.target)
            except OSError:
                _Line(writer, writer).reset()
                return
            line = _Line(writer, far)
            self._lines.add(line)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(UP, reader, far, line))
                    group.create_task(self._pump(DOWN, there, writer, line))
            finally:
                self._lines.discard(line)
                writer.close()
                far.close()
        except asyncio.CancelledError:  # the wire itself ends
            return
        finally:
            self._tasks.discard(task)

    async def _pump(self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: _Line) -> None:
        passed = 0
        with suppress(OSError):
            while piece := await reader.read(CHUNK if self.bytes_per_s is None else max(1, int(self.bytes_per_s / 10))):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)  # noqa: TID251 - this is what the wire is for
                if self.bytes_per_s is not None:
                    await asyncio.sleep(len(piece) / self.bytes_per_s)  # noqa: TID251
                if way in self.holes:
                    continue
                if way == DOWN and self.cut_after is not None and passed + len(piece) > self.cut_after:
                    writer.write(piece[: self.cut_after - passed])
                    await writer.drain()
                    line.reset()
                    return
                passed += len(piece)
                self.passed[way] += len(piece)
                writer.write(piece)
                await writer.drain()
        if way in self.holes:  # the end of a connection is swallowed, too
            return
        with suppress(OSError, RuntimeError):
            writer.write_eof()


@asynccontextmanager
async def wire_to(target: int) -> AsyncIterator[Wire]:
    """A wire on a port of its own; ends with everything on it cut."""
    wire = Wire(target)
    server = await asyncio.start_server(wire._serve, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        wire.cut()
        for task in list(wire._tasks):
            task.cancel()
        if wire._tasks:
            await asyncio.wait(wire._tasks)
        await server.wait_closed()
