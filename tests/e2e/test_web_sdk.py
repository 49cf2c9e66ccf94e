"""The JavaScript client in Node: its own tests, the recorded conversations, and a real relay by every way."""

import asyncio
import json
import os
import re
import shutil
import signal
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


pytestmark = pytest.mark.skipif(_version() < (20, 10) and "CI" not in os.environ, reason="needs Node 20.10 or later")


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
    modules = os.environ.get("RELAY_NODE_MODULES")
    needs = {"NODE_PATH": modules} if modules else {}
    if modules or "CI" in os.environ:  # there, none of its tests may be left out for want of an IndexedDB
        needs["RELAY_NEEDS_INDEXEDDB"] = "1"
    code, out = await ran("node", "--test", "tests/web/", **needs)
    assert code == 0, out
    assert re.search(r"pass [1-9]", out)


async def test_it_speaks_as_recorded() -> None:
    command = f"{' '.join(NODE)} {WEB / 'conformance_client.mjs'}"
    code, out = await ran(sys.executable, "-m", "relay", "conformance", "--client", command)
    n = len(load(CLIENT))
    assert (code, out.splitlines()[-1]) == (0, f"{n} of {n} conversations went as recorded."), out


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RelayProcess]:
    relay = RelayProcess(tmp_path, {"RELAY_SERVER__QUIET_S": "0", "RELAY_APP__DEVICE_SENDS": "true"})
    await relay.start()
    yield relay
    await relay.aclose()


async def test_every_way_brings_what_was_missed_and_what_comes_and_acks_it(relay: RelayProcess) -> None:
    async with Backend(relay.url, relay.key) as backend:
        for way in ("websocket", "sse", "long-poll", "poll"):
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


async def test_the_node_of_the_readme_runs_as_it_stands_and_again(relay: RelayProcess, tmp_path: Path) -> None:
    blocks = re.findall(r"```js\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (snippet,) = [one for one in blocks if "MemoryTables" in one]
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/push-relay").symlink_to(ROOT / "relay/web/sdk")
    script = tmp_path / "first_steps.mjs"
    script.write_text(snippet)
    async with Backend(relay.url, relay.key) as backend:
        await backend.put_device("ann", "server")
        token = await backend.mint_token("ann", "server")
        await backend.send("ann", {"text": "Hello from Node"})
        for node in (NODE, NODE[:1]):  # with sockets, and without
            assert await ran(*node, str(script), R=relay.url, TOKEN=token) == (0, "Hello from Node\n")
            assert (await backend.device("ann", "server"))["acked"] == 1


async def test_an_upgrade_brings_full_forms_and_what_the_old_version_lost(relay: RelayProcess) -> None:
    async with Backend(relay.url, relay.key) as backend:
        await backend.put_device("ann", "browser")
        token = await backend.mint_token("ann", "browser")
        await backend.send("ann", "plain", type="text")
        await backend.send("ann", "a poll", type="poll", min_schema=2, fallback="please upgrade")
        code, out = await ran(*NODE, str(WEB / "upgrade.mjs"), RELAY_URL=relay.url, RELAY_TOKEN=token)
        assert code == 0, out
        first, second = json.loads(out)
        assert first["bodies"] == [["plain", "full"], ["please upgrade", "fallback"]]
        upgrade = second["connected"]["upgrade"]
        assert (upgrade["from"], upgrade["to"], upgrade["released"]) == ("1.0", "2.0", 1)
        assert (second["verified"]["state"], second["verified"]["fetched"]) == ("repaired", 1)
        assert sorted(second["bodies"]) == [["a poll", "full"], ["plain", "full"]]


@pytest.mark.parametrize("way", ["websocket", "sse"])
async def test_what_a_device_sends_goes_once_although_answers_get_lost(relay: RelayProcess, way: str) -> None:
    """Over the socket where one stands; else, and while it is away, by calls."""
    async with Backend(relay.url, relay.key) as backend:
        for user in ("ann", "bob"):
            await backend.put_device(user, "browser")
        token = await backend.mint_token("ann", "browser")
        code, out = await ran(*NODE, str(WEB / "send.mjs"), way, RELAY_URL=relay.url, RELAY_TOKEN=token)
        assert code == 0, out
        said = json.loads(out)
        sender = {"user": "ann", "device": "browser"}
        assert said["kept"] == [{"kind": "own", "body": one, "sender": sender} for one in ({"n": 1.5}, "zwei", 1e21)]
        assert (said["verified"]["state"], said["unsent"]) == ("ok", [])
        assert (said["frames"] > 0) == (way == "websocket")
        assert said["left"] == 0, "two answers were lost: each message was said again, or its own copy came first"
        token = await backend.mint_token("bob", "browser")
        code, out = await ran(*NODE, str(WEB / "live.mjs"), "poll", "3", RELAY_URL=relay.url, RELAY_TOKEN=token)
        assert json.loads(out.splitlines()[-1])["kept"] == [{"n": 1.5}, "zwei", 1e21]


async def test_a_relay_that_is_killed_and_comes_back_goes_on_where_it_was(relay: RelayProcess) -> None:
    async with Backend(relay.url, relay.key) as backend:
        await backend.put_device("ann", "browser")
        token = await backend.mint_token("ann", "browser")
        await backend.send("ann", "before")
        child = await asyncio.create_subprocess_exec(
            *(*NODE, str(WEB / "live.mjs"), "websocket", "3"),
            env=os.environ | {"RELAY_URL": relay.url, "RELAY_TOKEN": token},
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            assert await child.stdout.readline() == b"caught up\n"
            await backend.send("ann", "just before")
            await relay.end(signal.SIGKILL)
            await relay.start()
            await backend.send("ann", "after")
            out = await child.stdout.read()
            await child.wait()
        said = json.loads(out.splitlines()[-1])
        assert said == {"bodies": ["before", "just before", "after"], "kept": ["before", "just before", "after"]}
        assert (await backend.device("ann", "browser"))["acked"] == 3
