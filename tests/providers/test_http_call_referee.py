"""The signed call before a gateway that keeps to Standard Webhooks to the letter: it verifies by the reference library, and
drops what has an id that it knows (sheet others §3.1)."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks import Webhook

from providers.contract import Push, Verdict
from providers.http_call import HttpCallProvider
from providers.loading import build
from providers.testing import NOW_S
from providers.transport import HttpTransport

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = Push(id="m-1", token="phone", title="Ann", body="hi", relay={"ids": ["m-1"], "n": 1})


@dataclass
class Scene:
    """A gateway, and the adapter before it."""

    clock_s: float = NOW_S
    known: set[str] = field(default_factory=set)
    shown: list[tuple[str, str]] = field(default_factory=list)  # on which device, what
    loses_the_next_answer: bool = False
    provider: Any = None

    async def take(self, request: web.Request) -> web.StreamResponse:
        told = Webhook(SECRET).verify(await request.text(), dict(request.headers))
        id_ = request.headers["webhook-id"]
        if id_ not in self.known:
            self.known.add(id_)
            self.shown.append((told["data"]["token"], told["data"]["body"]))
        if self.loses_the_next_answer and request.transport is not None:
            self.loses_the_next_answer = False
            request.transport.abort()
        return web.Response(status=204)

    async def send(self, push: Push) -> Verdict:
        verdict: Verdict = (await self.provider.send(push)).verdict
        return verdict


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    # Its clock is the machine's; ours is not.
    monkeypatch.setattr(Webhook, "_Webhook__verify_timestamp", lambda _, at: datetime.fromtimestamp(int(at), UTC))
    scene, app = Scene(), web.Application()
    app.add_routes([web.post("/push", scene.take)])
    async with TestServer(app) as server, HttpTransport() as transport:
        settings = {"url": str(server.make_url("/push")), "secret": SECRET, "allow_http": True}
        scene.provider = build(HttpCallProvider, settings, transport=transport, now=lambda: scene.clock_s)
        yield scene


async def test_a_message_is_shown_on_every_device_of_its_user(scene: Scene) -> None:
    for token in ("phone", "tablet"):
        assert await scene.send(replace(MESSAGE, token=token)) is Verdict.ACCEPTED
    assert scene.shown == [("phone", "hi"), ("tablet", "hi")]


async def test_what_is_sent_again_after_a_lost_answer_is_shown_once(scene: Scene) -> None:
    scene.loses_the_next_answer = True
    assert await scene.send(MESSAGE) is Verdict.RETRY
    scene.clock_s += 2000
    assert await scene.send(MESSAGE) is Verdict.ACCEPTED
    assert scene.shown == [("phone", "hi")]


async def test_a_summary_is_shown_anew_when_there_is_more_and_so_is_a_reminder(scene: Scene) -> None:
    two = replace(MESSAGE, id="summary", body="2 new messages", relay={"ids": ["m-1", "m-2"], "n": 2})
    await scene.send(two)
    await scene.send(replace(two, body="3 new messages", relay={"ids": ["m-1", "m-2", "m-3"], "n": 3}))
    assert [body for _, body in scene.shown] == ["2 new messages", "3 new messages"]
    scene.clock_s += 3600  # the earliest reminder
    reminder = replace(two, body="3 new messages", relay={"ids": ["m-1", "m-2", "m-3"], "n": 3}, again="knock 0")
    scene.loses_the_next_answer = True
    assert await scene.send(reminder) is Verdict.RETRY
    scene.clock_s += 60
    assert await scene.send(reminder) is Verdict.ACCEPTED
    assert len(scene.shown) == 3
