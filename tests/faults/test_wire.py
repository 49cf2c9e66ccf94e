"""The wire itself does what it says: else a test through it would pass for the wrong reason."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from wire import DOWN, UP, Wire, wire_to


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """Says back what it hears, and `end` once nothing more comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65_536):
                writer.write(piece)
                await writer.drain()
            writer.write(b"end")
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with echo() as port, wire_to(port) as wire:
        yield wire


async def dial(wire: Wire) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", wire.port)


async def hear(reader: asyncio.StreamReader, size: int, within_s: float = 5) -> bytes:
    async with asyncio.timeout(within_s):
        return await reader.readexactly(size)


async def test_a_whole_wire_passes_everything_both_ways(wire: Wire) -> None:
    reader, writer = await dial(wire)
    writer.write(b"x" * 300_000)
    assert await hear(reader, 300_000) == b"x" * 300_000
    assert wire.passed == {UP: 300_000, DOWN: 300_000}
    writer.write_eof()
    assert await hear(reader, 3) == b"end"
    writer.close()


async def test_delay_and_throttle_take_their_time(wire: Wire) -> None:
    reader, writer = await dial(wire)
    wire.delay_s = 0.1
    began = time.monotonic()  # noqa: TID251
    writer.write(b"ping")
    await hear(reader, 4)
    assert time.monotonic() - began >= 0.2  # noqa: TID251
    wire.heal()
    wire.bytes_per_s = 1000
    began = time.monotonic()  # noqa: TID251
    writer.write(b"x" * 300)
    await hear(reader, 300)
    assert time.monotonic() - began >= 0.25  # noqa: TID251
    writer.close()


@pytest.mark.parametrize("way", [UP, DOWN])
async def test_a_black_hole_swallows_one_way_and_tells_nobody(wire: Wire, way: str) -> None:
    reader, writer = await dial(wire)
    wire.holes.add(way)
    writer.write(b"lost")
    with pytest.raises(TimeoutError):
        await hear(reader, 1, within_s=0.2)
    wire.heal()
    writer.write(b"here")
    assert await hear(reader, 4) == b"here"
    writer.close()


async def test_a_cut_is_a_reset(wire: Wire) -> None:
    reader, writer = await dial(wire)
    writer.write(b"x")
    await hear(reader, 1)
    wire.cut()
    with pytest.raises(ConnectionResetError):
        await hear(reader, 1)
    writer.close()


async def test_an_answer_may_be_cut_in_its_middle(wire: Wire) -> None:
    wire.cut_after = 5
    reader, writer = await dial(wire)
    writer.write(b"0123456789")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await hear(reader, 10)
    assert wire.passed[DOWN] < 10
    writer.close()


async def test_half_closed_each_hears_that_nothing_more_comes_and_may_say_its_last(wire: Wire) -> None:
    reader, writer = await dial(wire)
    writer.write(b"x")
    await hear(reader, 1)
    wire.half_close()
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_who_is_refused_gets_a_reset_and_a_target_that_is_away_looks_the_same(wire: Wire) -> None:
    wire.refuses = True
    for _ in range(2):
        try:
            reader, writer = await dial(wire)
            with pytest.raises(ConnectionResetError):
                await hear(reader, 1)
            writer.close()
        except ConnectionResetError:
            pass
        wire.heal()
        wire.target = 1
