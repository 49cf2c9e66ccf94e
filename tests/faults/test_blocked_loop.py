"""FLT-30: the event loop of a running relay is blocked by a planted busy loop."""

import asyncio
import json
import os
import re
from pathlib import Path

from relay_process import RelayProcess
from scene import eventually, frame, scene

BLOCKED = "blocks-6"  # seconds


class BlockingRelay(RelayProcess):
    program = ("-m", "blocking_relay")


async def test_flt_30_a_blocked_loop_is_told_with_its_place_and_readiness_goes_red_for_a_while(tmp_path: Path) -> None:
    path = os.pathsep.join((str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])))
    environ = {"PYTHONPATH": path, "RELAY_LOG__FORMAT": "json"}
    async with scene(tmp_path, environ, process=BlockingRelay) as at:
        bob = await at.connect(await at.device("bob"), heartbeat={"min_s": 10, "max_s": 10, "prefer_s": 10})
        await at.device(BLOCKED, "gate")
        assert (await at.call("GET", "/readyz"))[0] == 200
        message = await at.send(BLOCKED, "a secret body")

        async def is_blocked() -> bool:
            return "loop.blocked" in at.relay.log()

        await eventually(is_blocked)
        (status, _), (live, _) = await asyncio.gather(at.call("GET", "/readyz"), at.call("GET", "/healthz"))
        assert (status, live) == (503, 200), "asked while it stood still, answered when it turned again"

        async def is_ready() -> bool:
            return bool((await at.call("GET", "/readyz"))[0] == 200)

        await eventually(is_ready)
        lines = [json.loads(line) for line in at.relay.log().splitlines() if "loop." in line]
        assert [line["event"] for line in lines] == ["loop.blocked", "loop.blocked", "loop.resumed"]
        assert all(re.match(r"blocking_relay\.py:\d+ stand_still < ", line["stack"]) for line in lines[:2])
        assert lines[2]["lag_ms"] >= 5_900
        assert "a secret body" not in at.relay.log()
        text = await (await at.http.get(f"{at.relay.url}/metrics")).text()
        assert "relay_loop_blocked_total 1.0" in text
        await at.send("bob", "hello")
        while not (batch := await frame(bob, "batch"))["entries"]:
            pass  # the socket from before still follows
        assert batch["entries"][0]["body"] == "hello"
        assert [one["verdict"] for one in await at.attempts(message)] == ["accepted"]
