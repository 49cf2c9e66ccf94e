"""FCM over HTTP/2, as Google speaks it: every push once, whatever its front ends do with their connections (sheet fcm §7)."""

import asyncio
import json
import random
from typing import Any

import pytest
from http2_scripted import Asked, Scripted, Wire, serving

from providers.contract import Push, Verdict
from providers.fcm import FcmConfig, FcmProvider
from providers.http2 import Http2Transport
from providers.loading import configured
from providers.sandbox.account import open_account
from providers.transport import HttpTransport

PUSHES = 60


@pytest.fixture(scope="module")
def account() -> dict[str, str]:
    return dict(open_account(None, project_id="p", rng=random.Random(1)).document)


def config(account: dict[str, str], **settings: Any) -> FcmConfig:
    found = configured(FcmProvider, {"service_account": account, **settings})
    assert isinstance(found, FcmConfig)
    return found


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, Http2Transport),
        ({"base_url": "https://mirror.example", "token_url": "https://mirror.example/token"}, Http2Transport),
        ({"http2": False}, HttpTransport),
        ({"base_url": "http://127.0.0.1:8091"}, HttpTransport),
        ({"token_url": "http://127.0.0.1:8091/token"}, HttpTransport),
    ],
)
def test_it_is_http2_where_every_url_can_be(account: dict[str, str], settings: dict[str, Any], kind: type) -> None:
    assert type(FcmProvider.own_transport(config(account, **settings))) is kind


@pytest.mark.parametrize("settings", [{}, {"http2": False}])
def test_google_has_its_ten_seconds_however_long_a_connection_took(
    account: dict[str, str], settings: dict[str, Any]
) -> None:
    """fcm §6: "send timeout ≥ 10 s"; ours counts from before the connection."""
    transport = FcmProvider.own_transport(config(account, **settings))
    limits = transport.limits if isinstance(transport, Http2Transport) else transport
    assert limits.total_s - limits.connect_s >= 10


async def test_front_ends_that_say_goodbye_all_the_time_lose_and_double_nothing(account: dict[str, str]) -> None:
    sent: list[str] = []

    def google(wire: Wire, asked: Asked) -> None:
        if asked.headers[":path"] == "/token":
            wire.answer(asked, body=b'{"access_token":"t","expires_in":3600}', content_type="application/json")
            return
        if len(wire.order) == 7:  # this one and all above it are not processed
            wire.goaway(asked.stream_id - 2)
            return
        if len(wire.order) < 7:
            sent.append(json.loads(asked.body)["message"]["token"])
            wire.answer(asked, body=b'{"name":"projects/p/messages/1"}')

    async with serving(Scripted(google)) as server, Http2Transport() as transport:
        urls = config(account, base_url=server.url, token_url=f"{server.url}/token")
        provider = FcmProvider(urls, transport=transport, now=lambda: 1_790_000_000.0)
        pushes = [Push(id=f"m{n}", token=f"phone-{n}", title="Ann") for n in range(PUSHES)]
        outcomes = await asyncio.gather(*(provider.send(push) for push in pushes))
    assert {outcome.verdict for outcome in outcomes} == {Verdict.ACCEPTED}
    assert sorted(sent) == sorted(push.token for push in pushes)
    assert len(server.wires) > PUSHES // 7
