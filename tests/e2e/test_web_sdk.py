"""The JavaScript client in Node: its own tests, the recorded conversations, and a real relay by every way."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from relay_process import RelayProcess

from relay.client import Backend
from relay.client.conformance.vectors import CLIENT, load

ROOT = Path(__file__).parents[2]
WEB = ROOT / "tests/web"
NODE = ("node", "--no-warnings", "--experimental-websocket")  # Node 20 has WebSocket behind this flag
WITHIN_S = 60


def _version() -> tuple[int, ...]:
    if shutil.which("node") is None:
        return (0,)
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in re.findall(r"\d+", said))


pytestmark = pytest.mark.skipif(_version() < (20, 10), reason="needs Node 20.10 or later")


async def ran(*command: str, **environ: str) -> tuple[int, str]:
    child = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(WITHIN_S):
        out, _ = await child.communicate()
    assert child.returncode is not None
    return child.returncode, out.decode()


async def test_its_rules_and_its_cache() -> None:
    code, out = await ran("node", "--test", "tests/web/")
    assert code == 0, out
    assert re.search(r"pass [1-9]", out)


async def test_it_speaks_as_recorded() -> None:
    command = f"{' '.join(NODE)} {WEB / 'conformance_client.mjs'}"
    code, out = await ran(sys.executable, "-m", "relay", "conformance", "--client", command)
    n = len(load(CLIENT))
    assert (code, out.splitlines()[-1]) == (0, f"{n} of {n} conversations went as recorded."), out


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RelayProcess]:
    relay = RelayProcess(tmp_path, {"RELAY_SERVER__QUIET_S": "0"})
    await relay.start()
    yield relay
    await relay.aclose()


async def test_every_way_brings_what_was_missed_and_what_comes_and_acks_it(relay: RelayProcess) -> None:
    async with Backend(relay.url, relay.key) as backend:
        for way in ("websocket", "sse", "long-poll"):
            await backend.put_device(way, "browser")
            token = await backend.mint_token(way, "browser")
            await backend.send(way, "missed")
            child = await asyncio.create_subprocess_exec(
                *(*NODE, str(WEB / "live.mjs"), way, "2"),
                env=os.environ | {"RELAY_URL": relay.url, "RELAY_TOKEN": token},
                stdout=asyncio.subprocess.PIPE,
            )
            assert child.stdout is not None
            async with asyncio.timeout(WITHIN_S):
                assert await child.stdout.readline() == b"caught up\n"
                await backend.send(way, "live")
                said = json.loads(await child.stdout.readline())
                await child.wait()
            assert said == {"bodies": ["missed", "live"], "kept": ["missed", "live"]}
            assert (await backend.device(way, "browser"))["acked"] == 2
