"""FLT-23: a push that kills the process whenever it is handled. The relay is started again, as a supervisor does it, until it
stays up; by then everybody else is told, and whom the poison was for has his messages in the inbox."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from relay_process import RelayProcess
from scene import Scene, eventually, scene

from relay.push.suspects import LOST_MAX

OTHERS = 12
CONVERGED_S = 90


class PoisonedRelay(RelayProcess):
    program = ("-m", "poisoned_relay")


@dataclass
class Supervised:
    """A relay that is started again whenever it is killed."""

    scene: Scene
    deaths: int = 0

    async def keep_up(self) -> None:
        while True:
            assert self.scene.relay.child is not None
            assert await self.scene.relay.child.wait() == -signal.SIGKILL
            self.deaths += 1
            await self.scene.relay.start()

    async def get(self, path: str) -> Any:
        """None while it is down."""
        try:
            status, answer = await self.scene.call("GET", path)
        except (aiohttp.ClientError, OSError):
            return None
        assert status == 200, answer
        return answer

    async def dead(self) -> list[tuple[str, str]]:
        found = await self.get("/v1/push/dead")
        return [] if found is None else [(one["user"], one["why"]) for one in found["pushes"]]

    def told(self) -> set[str]:
        """Users whose phone the gateway heard of."""
        return {call["data"]["token"].partition(".")[0] for call in self.scene.vendors["gate"].calls}


@asynccontextmanager
async def supervised(home: Path) -> AsyncIterator[Supervised]:
    path = os.pathsep.join((str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])))
    # All are planned in one round, so that the poison takes the others with it.
    environ = {"PYTHONPATH": path, "RELAY_PUSH__DEBOUNCE_S": "1"}
    async with scene(home, environ, process=PoisonedRelay) as at:
        found = Supervised(at)
        supervisor = asyncio.create_task(found.keep_up())
        yield found
        supervisor.cancel()
        await asyncio.wait({supervisor})


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Supervised]:
    async with supervised(tmp_path) as relay:
        yield relay


async def test_flt_23_a_push_that_kills_the_process_is_quarantined_and_all_others_are_told(relay: Supervised) -> None:
    others = {f"user-{n}" for n in range(OTHERS)}
    token = await relay.scene.device("poison", "gate")
    for user in others:
        await relay.scene.device(user, "gate")
    message = await relay.scene.send("poison")
    for user in others:
        await relay.scene.send(user)

    async def is_over() -> bool:
        return await relay.dead() == [("poison", "quarantined")] and relay.told() == others

    await eventually(is_over, within_s=CONVERGED_S)
    assert relay.deaths == LOST_MAX
    assert [one["verdict"] for one in await relay.scene.attempts(message)] == [None] * LOST_MAX

    async def is_reported() -> bool:
        events = await relay.scene.events("poison", "device.unreachable")
        return [event["data"]["reason"] for event in events] == ["quarantined"]

    await eventually(is_reported)
    assert await relay.scene.inbox(token) == ["hi"]
    body = {"user": "poison", "device": "phone"}
    assert await relay.scene.call("POST", "/v1/push/dead/requeue", body) == (200, {"requeued": 1})
