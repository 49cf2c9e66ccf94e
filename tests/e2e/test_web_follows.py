"""The JavaScript client follows an ultra group of a real relay, by every way (protocol 12.5)."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from relay_process import RelayProcess

from relay.client import Backend

WEB = Path(__file__).parents[2] / "tests/web"
NODE = ("node", "--no-warnings", "--experimental-websocket")
TAIL, WITHIN_S = 3, 60
pytestmark = pytest.mark.skipif(shutil.which("node") is None and "CI" not in os.environ, reason="needs Node")


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RelayProcess]:
    settings = {"RELAY_SERVER__QUIET_S": "0", "RELAY_POLL__CLIENT_S": "1", "RELAY_RETENTION__SHARED_TAIL": str(TAIL)}
    relay = RelayProcess(tmp_path, settings)
    await relay.start()
    yield relay
    await relay.aclose()


async def test_every_way_brings_the_last_ones_and_what_comes_and_fills_the_hole(relay: RelayProcess) -> None:
    headers = {"Authorization": f"Bearer {relay.key}"}
    async with Backend(relay.url, relay.key) as backend, aiohttp.ClientSession(relay.url, headers=headers) as http:

        async def acked(message: str) -> int:
            async with http.get(f"/v1/messages/{message}") as answer:
                return int((await answer.json())["timeline"]["acked"])

        async def post(group: str, body: object) -> str:
            async with http.post("/v1/messages", json={"to": {"group": group}, "body": body}) as answer:
                return str((await answer.json())["id"])

        for way in ("websocket", "sse", "long-poll", "poll"):
            await backend.put_device(way, "browser")
            token = await backend.mint_token(way, "browser")
            group = f"everybody-{way}"
            async with http.put(f"/v1/groups/{group}/members", json={"add": [way], "type": "ultra"}) as made:
                assert made.status == 200
            for n in range(5):
                await post(group, n)
            child = await asyncio.create_subprocess_exec(
                *(*NODE, str(WEB / "follows_live.mjs"), way, group, "4"),
                env=os.environ | {"RELAY_URL": relay.url, "RELAY_TOKEN": token},
                stdout=asyncio.subprocess.PIPE,
            )
            assert child.stdout is not None
            async with asyncio.timeout(WITHIN_S):
                assert await child.stdout.readline() == b"reading\n"
                last = await post(group, "live")
                said = json.loads(await child.stdout.readline())
                await child.wait()
            assert said == {"bodies": [2, 3, 4, "live", 0, 1], "holes": [{"low": 0, "high": 2}], "filled": 2}
            async with asyncio.timeout(WITHIN_S):  # a socket's last words may still be on their way
                while await acked(last) != 1:
                    continue
