"""What a client makes of answers to its calls."""

import asyncio
import random
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from relay.client import said, steps
from relay.client.core import Core
from relay.client.steps import Position, Reading
from relay.client.transports import HttpWay
from relay.clock import SystemClock


@pytest.mark.parametrize(
    ("status", "body"),
    [(502, "<html>"), (404, '{"code": 1000}'), (408, '{"code": "request_timeout", "retryable": true}')],
)
async def test_a_refusal_that_the_relay_has_not_heard_is_still_owed(status: int, body: str) -> None:
    """Whoever answered in its place, as a gateway with a page of its own, decides nothing."""

    async def gateway(request: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    app = web.Application()
    app.router.add_post("/v1/device/ack", gateway)
    core = Core(store_id="s", rng=random.Random(1))
    core.handle(steps.Started(Position("e", 2, "c2"), dict([said.nack("m2", "undecodable")])))
    ack: Any = core.handle(steps.Opened(Reading.PULLED))[0]
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        way = HttpWay(session, str(server.make_url("/")).rstrip("/"), lambda: "t", SystemClock())
        await way.say(ack.frame, aside=True)
        async with asyncio.timeout(10):
            frame = await way.receive()
        await way.close()
    assert [type(one) for one in core.handle(steps.Came(frame))] == [steps.Tell, steps.Close]
