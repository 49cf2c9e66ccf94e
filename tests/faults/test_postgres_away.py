"""FLT-10, F36: the database server is really stopped under a relay that serves, and really started again."""

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

from load import ENVIRON
from postgres_process import PostgresProcess
from scene import WITHIN_S, eventually, frame, scene

INTERVAL_S, FACTOR = 10, 2  # the shortest lease there is
BACK_S = 2  # FLT-10: it serves again within this time after the store is back


async def test_flt_10_while_the_server_is_away_nothing_is_lost_and_nobody_is_offline(
    own_postgres: PostgresProcess, tmp_path: Path
) -> None:
    """F36: the devices' connections and heartbeats go on meanwhile."""
    environ = ENVIRON | {
        "RELAY_STORE__URL": own_postgres.url,
        "RELAY_HEARTBEAT__INTERVAL_S": str(INTERVAL_S),
        "RELAY_HEARTBEAT__LEASE_FACTOR": str(FACTOR),
    }
    async with scene(tmp_path, environ) as at:
        token = await at.device("ann", "gate")
        await at.device("bob", "gate")
        before = await at.send("bob", "before")
        ann = await at.connect(token)
        silent = await at.connect(await at.device("sue"), heartbeat={"min_s": 10, "max_s": 10, "prefer_s": 10})
        silent._autoping = False
        await asyncio.to_thread(own_postgres.stop, "fast")
        away = time.monotonic()  # noqa: TID251
        await frame(ann, "degraded")

        async def is_away() -> bool:
            status, answer = await at.call("POST", "/v1/messages", {"to": {"users": ["ann"]}, "body": "while away"})
            assert status == 503
            assert answer["code"] in {"storage_unavailable", "commit_unknown"}, answer
            assert (await at.call("GET", "/healthz"))[0] == 200
            assert (await at.call("GET", "/readyz"))[0] == 503
            assert (await at.call("GET", "/readyz"))[0] == 503
            return time.monotonic() - away > INTERVAL_S * FACTOR + 2  # noqa: TID251 - longer than a lease

        await eventually(is_away, within_s=INTERVAL_S * FACTOR + WITHIN_S)
        await asyncio.to_thread(own_postgres.start)

        async def is_back() -> bool:
            return bool((await at.call("GET", "/readyz"))[0] == 200)

        await eventually(
            is_back, within_s=BACK_S + WITHIN_S / 4
        )  # and the slowness of a machine that is busy elsewhere
        await at.send("ann", "after")
        bodies: list[Any] = []
        while "after" not in bodies:  # on the socket that was open all the time
            bodies += [one["body"] for one in (await frame(ann, "batch"))["entries"]]
        assert bodies == ["after"], "what was refused is not there"
        for user in ("ann", "sue"):
            status, presence = await at.call("GET", f"/v1/users/{user}/presence")
            assert (status, presence["online"]) == (200, True), user
            assert await at.events(user, "device.offline") == []
        assert (await at.call("GET", f"/v1/messages/{before}"))[0] == 200
        await at.vendors["gate"].calls_are(1)
        assert {one["data"]["token"] for one in at.vendors["gate"].calls} == {"bob.gate"}
        await ann.close()
        assert await at.relay.end(signal.SIGTERM) == 0


async def test_a_relay_that_is_asked_to_go_while_the_server_is_away_goes_in_peace(
    own_postgres: PostgresProcess, tmp_path: Path
) -> None:
    async with scene(tmp_path, ENVIRON | {"RELAY_STORE__URL": own_postgres.url}) as at:
        await at.device("ann", "gate")
        await at.hook("*")
        await at.send("ann")
        await asyncio.to_thread(own_postgres.stop, "fast")
        assert await at.relay.end(signal.SIGTERM) == 0
        assert "Traceback" not in at.relay.log()
        await asyncio.to_thread(own_postgres.start)
