"""The Gotify adapter against the Gotify emulator, over real sockets. Neither knows the other's code."""

import json
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from hasty import Hasty
from meeting import Answered

from providers import loading
from providers.contract import Push, Scope, Verdict
from providers.gotify import GotifyConfig, GotifyProvider
from providers.sandbox import Sandbox
from providers.sandbox.faults import Place
from providers.sandbox.gotify import GotifyEmulator
from providers.transport import HttpTransport

NOW = 1_800_000_000.0
TOKEN = Scope.TOKEN


CONFIG = Answered(Verdict.MISCONFIGURED, TOKEN)
RETRY = Answered(Verdict.RETRY, TOKEN)
UNKNOWN = Answered(Verdict.RETRY, TOKEN, maybe_sent=True)

# Sheet others.md §2, row by row, and what a proxy and a network can do besides.
SHEET = {
    "invalid": Answered(Verdict.REFUSED),
    "appid": CONFIG,
    "deleted": CONFIG,
    "forbidden": CONFIG,
    "notfound": CONFIG,
    "moved": CONFIG,
    "toobig": Answered(Verdict.TOO_LARGE),
    "throttled": Answered(Verdict.RETRY, TOKEN, 30),
    "throttledbare": Answered(Verdict.RETRY, TOKEN, 60),
    "internal": RETRY,
    "unavailable": RETRY,
    "slow": UNKNOWN,
    "reset": UNKNOWN,
    "cut": UNKNOWN,
    "garbage": UNKNOWN,
}


class Town:
    def __init__(self, sandbox: Sandbox, transport: HttpTransport) -> None:
        self.sandbox = sandbox
        self.call = Hasty(transport)
        emulator = sandbox.emulators["gotify"]
        assert isinstance(emulator, GotifyEmulator)
        self.emulator = emulator

    def provider(self, **settings: Any) -> GotifyProvider:
        own = settings or self.emulator.settings()
        made = loading.build(GotifyProvider, own, transport=self.call, now=lambda: NOW)
        assert isinstance(made, GotifyProvider)
        return made

    def push(self, phone: str, **fields: Any) -> Push:
        token = self.emulator.address(phone)
        return Push(**{"id": "p1", "token": token, "title": "Ann", "body": "hello", "ttl_s": 60, **fields})

    def screen(self, phone: str) -> list[dict[str, Any]]:
        (found,) = self.sandbox.phones.view(token=phone, phones_max=1) or [{}]
        return list(found.get("shown", []))


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    sandbox = Sandbox(now=lambda: NOW, rng=random.Random(1), slow_s=20, vendors=["gotify"])
    await sandbox.start()
    config = loading.configured(GotifyProvider, sandbox.emulators["gotify"].settings())
    assert isinstance(config, GotifyConfig)
    async with HttpTransport(guard=config.guard) as transport:
        yield Town(sandbox, transport)
    await sandbox.stop()


async def test_a_message_is_shown(town: Town) -> None:
    outcome = await town.provider().send(town.push("anns-phone", image="https://app.example/i.png", data={"k": "v"}))
    assert (outcome.verdict, outcome.vendor_id) == (Verdict.ACCEPTED, "1")
    (shown,) = town.screen("anns-phone")
    assert (shown["title"], shown["body"], shown["priority"]) == ("Ann", "hello", "8")


async def test_every_sort_of_push_is_taken(town: Town) -> None:
    provider = town.provider()
    for fields in (
        {"title": None, "body": None},
        {"title": None},
        {"ttl_s": 0, "urgent": False, "click": "https://app.example/r", "thread": "t"},
        {"overrides": {"priority": 0, "extras": {"client::display": {"contentType": "text/markdown"}}}},
    ):
        assert (await provider.send(town.push("phone", **fields))).verdict is Verdict.ACCEPTED, fields


async def test_every_way_to_fail_is_taken_as_the_sheet_wants_it(town: Town) -> None:
    assert set(SHEET) == set(town.emulator.known_faults[Place.SEND]), "a row of the emulator that this table lacks"
    provider, found = town.provider(), {}
    for word in SHEET:
        town.call.hurried = word == "slow"  # its token does not say so
        outcome = await provider.send(town.push(f"{word}-1"))
        found[word] = Answered(outcome.verdict, outcome.scope, outcome.retry_after_s, outcome.maybe_sent)
    assert found == SHEET


async def test_an_application_that_was_deleted(town: Town) -> None:
    town.emulator.revoked = True
    outcome = await town.provider().send(town.push("phone"))
    assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, TOKEN)


async def test_a_server_inside_that_nobody_exempted_is_not_called(town: Town) -> None:
    outcome = await town.provider(hosts=["127.0.0.1"]).send(town.push("phone"))
    assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, TOKEN)
    assert town.emulator.outcomes.total() == 0


@pytest.mark.parametrize(
    ("headers", "body", "status", "said"),
    [
        ({}, {"message": "x"}, 401, "access token"),
        ({"X-Gotify-Key": "Cclient"}, {"message": "x"}, 400, "appid"),
        ({"X-Gotify-Key": "Cclient"}, {"message": "x", "appid": 1}, 200, ""),
        ({"Authorization": "Bearer Ax"}, {"message": "x"}, 200, ""),
        ({"X-Gotify-Key": "Ax"}, {"title": "x"}, 400, "'message' is required"),
        ({"X-Gotify-Key": "Ax"}, {"message": ""}, 400, "'message' is required"),
        ({"X-Gotify-Key": "Ax"}, {"message": "x", "priority": "8"}, 400, "priority"),
        ({"X-Gotify-Key": "Ax"}, {"message": "x", "title": 1}, 400, "title"),
        ({"X-Gotify-Key": "Ax"}, {"message": "x", "extras": [1]}, 400, "extras"),
        ({"X-Gotify-Key": "Ax"}, [], 400, "unmarshal"),
    ],
)
async def test_the_emulator_refuses_as_the_server_does(
    town: Town, headers: dict[str, str], body: Any, status: int, said: str
) -> None:
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{town.emulator.url}/message", json=body, headers=headers) as answer,
    ):
        assert (answer.status, said in await answer.text()) == (status, True)


async def test_a_form_will_do_for_the_server_too(town: Town) -> None:
    async with aiohttp.ClientSession() as http:
        form = {"message": "x", "priority": "3"}
        async with http.post(f"{town.emulator.url}/message?token=Ax", data=form) as answer:
            assert json.loads(await answer.text())["priority"] == 3
        async with http.get(f"{town.emulator.url}/health") as answer:
            assert (await answer.json())["health"] == "green"
