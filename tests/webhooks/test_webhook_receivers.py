"""The worker with its real transport and real sockets: receivers that are well, and receivers that are not."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks import Webhook
from webhook_bench import SECRET, Bench

from providers.guard import Exemption, Guard
from providers.transport import HttpTransport
from relay.clock import SystemClock
from relay.webhooks.post import posting
from relay.webhooks.worker import Pace, WebhookWorker

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def home(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


@asynccontextmanager
async def working(
    bench: Bench, guard: Guard, *, timeout_s: float = 5, resolve: Any = home
) -> AsyncIterator[WebhookWorker]:
    async with HttpTransport(guard=guard, resolve=resolve) as transport:
        worker = WebhookWorker(
            bench.engine,
            posting(transport),
            bench.seals,
            clock=SystemClock(),
            rng=random.Random(4),
            owner="n1",
            pace=Pace(timeout_s=timeout_s, poll_s=0.02),
        )
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run(stop))
            yield worker
            stop.set()


def guard_for(*ports: int) -> Guard:
    return Guard(exemptions=tuple(Exemption.parse(f"hooks.test:{port}") for port in ports))


async def settled(bench: Bench, count: int = 1) -> list[Any]:
    """The deliveries, once `count` of them have had a result."""
    async with asyncio.timeout(10):
        while True:
            rows = await bench.deliveries()
            if sum(row.last_result is not None for row in rows) >= count:
                return rows
            await asyncio.sleep(0.01)  # noqa: TID251 - the receiver's side is real


@asynccontextmanager
async def receiver(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[tuple[int, list[int]]]:
    """A server that says what the script says; and how many bytes each connection took."""
    connections: list[int] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        number = len(connections)
        connections.append(0)
        plain_write = writer.write

        def write(data: bytes) -> None:
            connections[number] += len(data)
            plain_write(data)

        writer.write = write  # type: ignore[method-assign,assignment]
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await script(reader, writer)
        with suppress(ConnectionError):
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], connections
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await server.wait_closed()


async def request_of(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    await reader.readexactly(length)


# --- well ---


async def test_what_arrives_passes_the_reference_verifier(bench: Bench) -> None:
    got: list[tuple[dict[str, str], bytes, Any]] = []

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        got.append((dict(request.headers), body, Webhook(SECRET).verify(body, dict(request.headers))))
        assert request.path_qs == "/hook?x=1"
        return web.Response(status=204)

    async with receiver(handle) as port:
        await bench.endpoint("one", f"http://hooks.test:{port}/hook?x=1")
        (event_id,) = await bench.tell()
        async with working(bench, guard_for(port)):
            (row,) = await settled(bench)
    assert (row.state, row.attempts, row.last_result) == ("delivered", 1, "status_204")
    ((headers, body, content),) = got
    assert content == {
        "type": "delivery.acked",
        "timestamp": content["timestamp"],
        "sequence": 1,
        "data": {"note": "café ✓", "id": event_id},
        "id": event_id,
    }
    lower = {name.lower(): value for name, value in headers.items()}
    assert lower["webhook-id"] == event_id
    assert lower["content-type"] == "application/json"
    assert lower["user-agent"].startswith("push-relay/")
    assert int(lower["content-length"]) == len(body)


async def test_a_burst_arrives_once_each(bench: Bench) -> None:
    got: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        got.append(request.headers["webhook-id"])
        return web.Response()

    async with receiver(handle) as port:
        await bench.endpoint("one", f"http://hooks.test:{port}/")
        ids = await bench.tell(100)
        async with working(bench, guard_for(port)):
            await settled(bench, 100)
    assert sorted(got) == ids


# --- not well ---


def says(*parts: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        for part in parts:
            writer.write(part)
            await writer.drain()

    return script


async def endless_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_of(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        await writer.drain()


async def ten_gigabytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_of(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10737418240\r\n\r\n")
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def byte_by_byte(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_of(reader)
    for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b"x" * 100:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.05)  # noqa: TID251


async def slow_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_of(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
    while True:
        writer.write(b"x")
        await asyncio.sleep(0.2)  # noqa: TID251


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def hundreds(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_of(reader)
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 100)
        await writer.drain()
        await asyncio.sleep(0.001)  # noqa: TID251


LONG_LINE = b"x-long: " + b"y" * 65_536 + b"\r\n"


@pytest.mark.parametrize(
    ("script", "results"),
    [
        (endless_body, {"answer_too_large"}),
        (ten_gigabytes, {"answer_too_large"}),
        (byte_by_byte, {"timeout"}),
        (slow_body, {"timeout"}),
        (silence, {"timeout"}),
        (hundreds, {"timeout", "connect_failed"}),
        (says(b"HTTP/1.1 200 OK\r\n", LONG_LINE * 100, b"\r\n"), {"connect_failed"}),
        (says(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"), {"status_101"}),
        (says(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nxx"), {"connect_failed"}),
        (says(b"\x16\x03\x01garbage\x00\r\n\r\n\r\n"), {"connect_failed"}),
        (says(b"SSH-2.0-OpenSSH_9.9\r\n"), {"connect_failed"}),
        (says(b""), {"connect_failed"}),
        (says(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"), {"status_500"}),
        (says(b"HTTP/1.1 400 No\r\ncontent-length: 0\r\n\r\n"), {"status_400"}),
        (says(b"HTTP/1.1 304 No\r\n\r\n"), {"status_304"}),
    ],
    ids=lambda value: getattr(value, "__name__", None) if callable(value) else "-".join(sorted(value)),
)
async def test_a_receiver_that_is_not_well_gets_a_planned_retry(
    bench: Bench, script: Script, results: set[str]
) -> None:
    async with scripted(script) as (port, connections):
        key = await bench.endpoint("one", f"http://hooks.test:{port}/")
        await bench.tell()
        async with working(bench, guard_for(port), timeout_s=0.5):
            (row,) = await settled(bench)
        assert len(connections) == 1
        assert connections[0] < 20_000_000  # what the sockets' own buffers take
    assert row.last_result in results
    assert (row.state, row.attempts) == ("waiting", 1)
    low_ms, high_ms = (60_000, 72_000) if row.last_result == "timeout" else (4000, 6000)
    assert low_ms <= row.due_ms - row.updated_ms <= high_ms
    assert await bench.health(key) == "failing"


async def test_a_redirect_is_not_followed(bench: Bench) -> None:
    async with scripted(silence) as (secret_port, connections):
        answer = f"HTTP/1.1 301 Moved\r\nlocation: http://127.0.0.1:{secret_port}/\r\ncontent-length: 0\r\n\r\n"
        async with scripted(says(answer.encode())) as (port, _):
            await bench.endpoint("one", f"http://hooks.test:{port}/")
            await bench.tell()
            async with working(bench, guard_for(port)):
                (row,) = await settled(bench)
        assert connections == []
    assert (row.state, row.last_result) == ("waiting", "status_301")


async def test_retry_after_stretches_the_wait_at_most_twofold(bench: Bench) -> None:
    answer = b"HTTP/1.1 429 Slow\r\nretry-after: 86400\r\ncontent-length: 0\r\n\r\n"
    async with scripted(says(answer)) as (port, _):
        await bench.endpoint("one", f"http://hooks.test:{port}/")
        await bench.tell()
        async with working(bench, guard_for(port)):
            (row,) = await settled(bench)
    assert 120_000 <= row.due_ms - row.updated_ms <= 144_000


async def test_410_disables_and_nothing_more_is_sent(bench: Bench) -> None:
    async with scripted(says(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n")) as (port, connections):
        key = await bench.endpoint("one", f"http://hooks.test:{port}/")
        await bench.tell()
        async with working(bench, guard_for(port)) as worker:
            (row,) = await settled(bench)
            await bench.tell(5)
            worker.nudge()
            await asyncio.sleep(0.2)  # noqa: TID251
        assert len(connections) == 1
    assert row.state == "abandoned"
    assert await bench.health(key) == "disabled"
    assert len(await bench.deliveries()) == 1


async def test_a_port_where_nobody_listens_and_one_that_speaks_no_tls(bench: Bench) -> None:
    async def plain_words(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad\r\n\r\n")
        await writer.drain()

    async with scripted(plain_words) as (plain_port, _):
        async with scripted(silence) as (closed_port, _):
            pass
        await bench.endpoint("closed", f"http://hooks.test:{closed_port}/")
        await bench.endpoint("plain", f"https://hooks.test:{plain_port}/")
        await bench.tell()
        async with working(bench, guard_for(closed_port, plain_port), timeout_s=2):
            closed, plain = await settled(bench, 2)
    assert closed.last_result == "connect_failed"
    assert plain.last_result == "tls_failed"


@pytest.mark.parametrize(
    ("addresses", "result"),
    [
        (["127.0.0.1"], "endpoint_address_denied"),
        (["1.1.1.1", "127.0.0.1"], "endpoint_address_denied"),
        (["::1"], "endpoint_address_denied"),
        (["169.254.169.254"], "endpoint_address_denied"),
        ([], "dns_failed"),
    ],
)
async def test_a_name_that_turned_inward_after_creation_gets_no_packet(
    bench: Bench, addresses: list[str], result: str
) -> None:
    async def turned(host: str, port: int) -> list[str]:
        return addresses

    async with scripted(silence) as (port, connections):
        await bench.endpoint("one", f"http://hooks.example.com:{port}/")
        await bench.tell()
        guard = Guard(allow_http=True, ports=frozenset({port}))
        async with working(bench, guard, resolve=turned):
            (row,) = await settled(bench)
        assert connections == []
    assert (row.state, row.last_result) == ("waiting", result)


async def test_one_endpoint_that_hangs_does_not_hold_up_another(bench: Bench) -> None:
    quick: list[str] = []
    enough = asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        quick.append(request.headers["webhook-id"])
        return web.Response()

    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await enough.wait()

    async with scripted(hangs) as (slow_port, connections), receiver(handle) as port:
        await bench.endpoint("slow", f"http://hooks.test:{slow_port}/")
        await bench.endpoint("quick", f"http://hooks.test:{port}/")
        async with working(bench, guard_for(slow_port, port), timeout_s=60), asyncio.timeout(30):
            ids = await bench.tell(30)
            while len(quick) < 30:
                await asyncio.sleep(0.01)  # noqa: TID251
            assert len(connections) == 5
            enough.set()
    assert sorted(quick) == ids


def test_an_unguarded_transport_is_not_taken() -> None:
    with pytest.raises(ValueError):
        posting(HttpTransport())
