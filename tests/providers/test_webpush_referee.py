"""`web-push-testing` (Node, written by others) as the push service: it makes the subscription and decrypts what comes."""

import asyncio
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from providers.contract import Outcome, Push, Scope, Verdict
from providers.loading import build, configured
from providers.testing import NOW_S
from providers.transport import HttpTransport
from providers.webpush import WebPushConfig, WebPushProvider
from providers.webpush_crypto import base64url, private_key, public_bytes
from relay.clock import SystemClock

VAPID = base64url(b"\x05" * 32)
PUBLIC = base64url(public_bytes(private_key(VAPID)))
PACKAGE = "web-push-testing"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture
async def service() -> AsyncIterator[int]:
    """The port that it listens on."""
    node, folder = shutil.which("node"), Path(os.environ.get("RELAY_NODE_MODULES", "")) / PACKAGE
    if node is None or not folder.is_dir():
        missing = f"RELAY_NODE_MODULES names no folder with {PACKAGE} (npm install --prefix …), or there is no node"
        if os.environ.get("CI") and shutil.which("npm"):
            pytest.fail(missing)
        pytest.skip(missing)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        node, str(folder / "src" / "bin" / "server.js"), str(port), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert b"running" in await process.stdout.readline()
        yield port
    finally:
        process.terminate()
        await process.wait()


async def told(port: int, path: str, body: dict[str, str]) -> Any:
    async with aiohttp.ClientSession() as http, http.post(f"http://127.0.0.1:{port}/{path}", json=body) as answer:
        return await answer.json() if answer.content_type == "application/json" else await answer.text()


async def test_it_decrypts_what_we_send_and_takes_our_signature(service: int) -> None:
    settings = {
        "vapid_private_key": VAPID,
        "vapid_subject": "mailto:push@example.com",
        "exempt": [f"localhost:{service}"],
    }
    config = configured(WebPushProvider, settings)
    assert isinstance(config, WebPushConfig)
    clock = SystemClock()
    subscription = (await told(service, "subscribe", {"applicationServerKey": PUBLIC}))["data"]
    client = subscription.pop("clientHash")

    async with HttpTransport(guard=config.guard) as transport:
        provider = WebPushProvider(config, transport=transport, now=lambda: clock.now_ms() / 1000)
        token = provider.address("token", re.sub(r"\s", "", str(subscription).replace("'", '"')))
        for n, body in enumerate(("hello", "é" * 1000, "x" * 3500)):
            push = Push(id=f"m-{n}", token=token, title="Ann", body=body, ttl_s=60, collapse_key="room:42")
            assert await provider.send(push) == Outcome(verdict=Verdict.ACCEPTED)
        found = (await told(service, "get-notifications", {"clientHash": client}))["data"]["messages"]
        assert len(found) == 3
        assert '"title":"Ann","body":"hello"' in found[0]
        assert "é" * 1000 in found[1]

        stranger = build(
            WebPushProvider,
            {**settings, "vapid_private_key": base64url(b"\x06" * 32)},
            transport=transport,
            now=lambda: NOW_S,
        )
        assert (await stranger.send(push)).verdict is Verdict.REFUSED  # it answers 400 to every mistake

        await told(service, f"expire-subscription/{client}", {})
        gone = await provider.send(push)
        assert (gone.verdict, gone.scope, gone.vendor_code) == (Verdict.TOKEN_DEAD, Scope.TOKEN, "status_410")
