"""Our HTTP/2 client against nghttp2's servers, as referees that nobody here has written.

`nghttpx` says goodbye after some requests, again and again, in front of a backend that counts what reached it.
RELAY_HTTP2_REQUESTS sets how many requests that test makes: 20,000, in about twelve seconds, if nothing is said.
"""

import asyncio
import os
import shutil
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from providers.http import Reason, Request, TransportError
from providers.http2 import Http2Transport, Limits, tls_context
from providers.sandbox.authority import Authority

REQUESTS = int(os.environ.get("RELAY_HTTP2_REQUESTS", "20000"))
AT_ONCE = 200
LIMITS = Limits(total_s=60, connect_s=20)


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed: in CI the referee must be there")
        pytest.skip(f"{name} is not installed (Debian: nghttp2-server, nghttp2-proxy)")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def running(port: int, *command: str, home: Path) -> AsyncIterator[None]:
    """A server, from when it listens."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=home, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(20):
            while True:
                assert process.returncode is None, f"{command[0]} ended at once"
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)  # noqa: TID251 - it has no other way to say that it listens
                else:
                    writer.close()
                    break
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def counting() -> AsyncIterator[tuple[int, Counter[str]]]:
    """A backend's port, and how often each request reached it."""
    reached: Counter[str] = Counter()

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        reached[request.headers["x-id"]] += 1
        return web.Response(body=body)

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1], reached
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("requests_of_a_connection", [1, 60])
async def test_across_repeated_goaways_nothing_is_lost_and_nothing_doubled(
    tmp_path: Path, requests_of_a_connection: int
) -> None:
    proxy, port = program("nghttpx"), free_port()
    count = REQUESTS if requests_of_a_connection > 1 else REQUESTS // 15
    async with counting() as (backend, reached):
        command = (
            proxy,
            f"--frontend=127.0.0.1,{port};no-tls",
            f"--backend=127.0.0.1,{backend}",
            f"--frontend-max-requests={requests_of_a_connection}",
            "--conf=/dev/null",
            "--workers=1",
        )
        async with running(port, *command, home=tmp_path), Http2Transport(limits=LIMITS) as client:
            room = asyncio.Semaphore(AT_ONCE)

            async def one(n: int) -> None:
                async with room:
                    body = f"{n}".encode() * 50
                    request = Request(url=f"http://127.0.0.1:{port}/x", headers={"x-id": str(n)}, body=body)
                    answer = await client(request)
                    assert (answer.status, answer.body) == (200, body)

            async with asyncio.TaskGroup() as group:
                for n in range(count):
                    group.create_task(one(n))
    assert reached == Counter({str(n): 1 for n in range(count)})


async def test_limits_windows_and_tls_of_another_make(tmp_path: Path) -> None:
    server, port = program("nghttpd"), free_port()
    authority = Authority.open(None)
    both = tmp_path / "both.pem"
    both.write_bytes(authority.server_pem())
    command = (server, "--address=127.0.0.1", "-m", "3", "-w", "10", "-W", "12", "--echo-upload", str(port))
    tls = tls_context(ca_data=authority.pem)
    limits = Limits(total_s=60, connect_s=20, connections_max=1)
    async with (
        running(port, *command, str(both), str(both), home=tmp_path),
        Http2Transport(tls=tls, limits=limits) as client,
    ):
        url = f"https://localhost:{port}/echo"
        answers = await asyncio.gather(*(client(Request(url=url, body=str(n).encode() * 300)) for n in range(100)))
        assert [answer.body for answer in answers] == [str(n).encode() * 300 for n in range(100)]
        large = await client(Request(url=url, body=b"x" * 60_000))  # through windows of 1 and 4 KiB
        assert large.body == b"x" * 60_000
        capped = await client(Request(url=url, body=b"x" * 60_000, answer_bytes_max=100))
        assert (len(capped.body), capped.truncated) == (100, True)


async def test_a_server_that_is_stopped_under_load_owns_up(tmp_path: Path) -> None:
    server, port = program("nghttpd"), free_port()
    async with Http2Transport(limits=Limits(total_s=5, connect_s=2)) as client:
        request = Request(url=f"http://127.0.0.1:{port}/echo", body=b"x" * 2000)
        async with running(port, server, "--no-tls", "--echo-upload", "--address=127.0.0.1", str(port), home=tmp_path):
            assert (await client(request)).status == 200
            calls = [asyncio.ensure_future(client(request)) for _ in range(300)]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            if isinstance(result, TransportError):
                assert result.sent or result.reason in {Reason.CONNECT_FAILED, Reason.TIMEOUT}
            else:
                assert not isinstance(result, BaseException)
                assert result.status == 200
