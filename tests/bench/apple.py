"""Our APNs adapter beside aioapns, and h2load if it is installed, against one bare server that reads every body."""

import asyncio
import re
import shutil
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aioapns import APNs, NotificationRequest
from aioapns.connection import APNsProductionClientProtocol
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from providers.apns import ApnsProvider
from providers.contract import Push, Verdict
from providers.http import Request
from providers.http2 import Http2Transport
from providers.loading import configured
from providers.sandbox.authority import Authority
from relay.cli.runtime import spare_the_collector
from relay.clock import SystemClock
from tests.bench.processes import serving
from tests.bench.report import Figure

CLOCK = SystemClock()
AT_ONCE = 400
TOKEN = "ab" * 32
ACCOUNT = {"topic": "com.example.relay", "team_id": "RELAYTEAM1", "key_id": "SANDBOXKEY"}
TEXT = "x" * 180


async def pushes(home: Path, *, count: int) -> list[Figure]:
    """So many alerts, four hundred at a time, over TLS."""
    authority = Authority.open(None)
    (home / "both.pem").write_bytes(authority.server_pem())
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    spare_the_collector()  # as a relay runs; for either client
    async with serving(home, "tests.bench.bare_apns") as bare:
        rates = []
        for once in (count // 10, count):
            rates = [await client(authority, key.decode(), bare.port, once) for client in (_ours, _theirs)]
        bare_rate = await _bare(authority, bare.port, count)
        limit = await _h2load(home, bare.port, count)
    ours, theirs = rates
    figures = [
        Figure(
            name="APNs pushes, our adapter",
            value=ours,
            unit="pushes/s",
            raw=theirs,
            raw_name="aioapns",
            aim=2.0,
            ratio=True,
        )
    ]
    if limit is not None:
        figures.append(
            Figure(
                name="APNs requests, our HTTP/2 client alone",
                value=bare_rate,
                unit="requests/s",
                raw=limit,
                raw_name="h2load",
                aim=0.2,
                ratio=True,
            )
        )
    return figures


async def _rate(count: int, one: Callable[[int], Awaitable[None]]) -> float:
    room = asyncio.Semaphore(AT_ONCE)

    async def each(n: int) -> None:
        async with room:
            await one(n)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for n in range(count):
            group.create_task(each(n))
    return count / (time.perf_counter() - began)


async def _ours(authority: Authority, key: str, port: int, count: int) -> float:
    settings = {**ACCOUNT, "key": key, "ca": authority.pem, "base_url": f"https://localhost:{port}"}
    config = configured(ApnsProvider, settings)
    async with ApnsProvider.own_transport(config) as transport:  # type: ignore[arg-type]
        provider = ApnsProvider(config, transport=transport, now=lambda: CLOCK.now_ms() / 1000)  # type: ignore[arg-type]

        async def one(n: int) -> None:
            outcome = await provider.send(Push(id=f"p{n}", token=TOKEN, title="Ann", body=TEXT))
            assert outcome.verdict is Verdict.ACCEPTED, outcome

        return await _rate(count, one)


async def _bare(authority: Authority, port: int, count: int) -> float:
    """The same request all the time, as h2load has it."""
    trusting = ssl.create_default_context(cadata=authority.pem)
    trusting.set_alpn_protocols(["h2"])
    asked = Request(
        url=f"https://localhost:{port}/3/device/{TOKEN}",
        headers={"apns-id": str(uuid.UUID(int=0))},
        body=f'{{"aps":{{"alert":{{"title":"Ann","body":"{TEXT}"}}}}}}'.encode(),
    )
    async with Http2Transport(tls=trusting) as transport:

        async def one(_: int) -> None:
            assert (await transport(asked)).status == 200

        return await _rate(count, one)


async def _theirs(authority: Authority, key: str, port: int, count: int) -> float:
    server: Any = APNsProductionClientProtocol
    server.APNS_SERVER, server.APNS_PORT = "localhost", port
    trusting = ssl.create_default_context(cadata=authority.pem)
    trusting.set_alpn_protocols(["h2"])
    client = APNs(
        key=key,
        key_id=ACCOUNT["key_id"],
        team_id=ACCOUNT["team_id"],
        topic=ACCOUNT["topic"],
        ssl_context=trusting,
        max_connections=4,
    )
    message = {"aps": {"alert": {"title": "Ann", "body": TEXT}}}

    async def one(_: int) -> None:
        request = NotificationRequest(device_token=TOKEN, message=message, time_to_live=3600, priority=10)
        result = await client.send_notification(request)
        assert result.is_successful, result.description

    try:
        return await _rate(count, one)
    finally:
        client.pool.close()


async def _h2load(home: Path, port: int, count: int) -> float | None:
    program = shutil.which("h2load", path="/usr/bin:/usr/local/bin")
    if program is None:
        return None
    (home / "body").write_text(f'{{"aps":{{"alert":{{"title":"Ann","body":"{TEXT}"}}}}}}')
    options = ("-n", str(count), "-c", "4", "-m", "100", "-d", "body", "-H", f"apns-id: {uuid.UUID(int=0)}")
    url = f"https://localhost:{port}/3/device/{TOKEN}"
    process = await asyncio.create_subprocess_exec(
        program, *options, url, cwd=home, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    said, _ = await process.communicate()
    found = re.search(r"finished in [^,]+, ([0-9.]+) req/s", said.decode())
    return None if found is None else float(found[1])
