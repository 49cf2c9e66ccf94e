"""The ntfy adapter against the ntfy emulator, over real sockets. Neither knows the other's code."""

import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from hasty import Hasty
from meeting import Answered

from providers import loading
from providers.contract import Push, Scope, Verdict
from providers.ntfy import NtfyProvider
from providers.sandbox import Sandbox
from providers.sandbox.faults import Place
from providers.sandbox.ntfy import ACCESS_TOKEN, PASSWORD, USER, NtfyEmulator
from providers.transport import HttpTransport

NOW = 1_800_000_000.0
ACCOUNT, TOKEN, MESSAGE = Scope.ACCOUNT, Scope.TOKEN, Scope.MESSAGE


REFUSED = Answered(Verdict.REFUSED)
LARGE = Answered(Verdict.TOO_LARGE)
CONFIG = Answered(Verdict.MISCONFIGURED, ACCOUNT)
RETRY = Answered(Verdict.RETRY)
UNKNOWN = Answered(Verdict.RETRY, maybe_sent=True)

# Sheet others.md §1.5, row by row, and what a proxy and a network can do besides.
SHEET = {
    "topicinvalid": Answered(Verdict.TOKEN_DEAD, TOKEN),
    "topicdisallowed": Answered(Verdict.TOKEN_DEAD, TOKEN),
    "badpriority": REFUSED,
    "badattach": REFUSED,
    "badjson": REFUSED,
    "badactions": REFUSED,
    "badicon": REFUSED,
    "jsonbody": REFUSED,
    "toolong": LARGE,
    "unauthorized": CONFIG,
    "forbidden": Answered(Verdict.MISCONFIGURED, TOKEN),
    "notfound": CONFIG,
    "attachmentbig": LARGE,
    "toobig": LARGE,
    "throttled": Answered(Verdict.RETRY, ACCOUNT, 10),
    "emails": REFUSED,
    "subscriptions": Answered(Verdict.RETRY, ACCOUNT, 60),
    "topics": Answered(Verdict.RETRY, ACCOUNT, 60),
    "bandwidth": Answered(Verdict.RETRY, ACCOUNT, 60),
    "quota": Answered(Verdict.RETRY, ACCOUNT, 3600),
    "logins": CONFIG,
    "calls": REFUSED,
    "internal": RETRY,
    "internalpath": RETRY,
    "internalbase": RETRY,
    "internalweb": RETRY,
    "nobody": Answered(Verdict.RETRY, TOKEN, 600),
    "unavailable": RETRY,
    "proxy404": CONFIG,
    "proxy429": Answered(Verdict.RETRY, ACCOUNT, 30),
    "slow": UNKNOWN,
    "reset": UNKNOWN,
    "cut": UNKNOWN,
    "garbage": UNKNOWN,
}


class Town:
    def __init__(self, sandbox: Sandbox, transport: HttpTransport) -> None:
        self.sandbox = sandbox
        self.call = Hasty(transport)
        emulator = sandbox.emulators["ntfy"]
        assert isinstance(emulator, NtfyEmulator)
        self.emulator = emulator

    def provider(self, **settings: Any) -> NtfyProvider:
        own = settings or self.emulator.settings()
        made = loading.build(NtfyProvider, own, transport=self.call, now=lambda: NOW)
        assert isinstance(made, NtfyProvider)
        return made

    def screen(self, topic: str) -> list[dict[str, Any]]:
        (found,) = self.sandbox.phones.view(token=topic, phones_max=1) or [{}]
        return list(found.get("shown", []))


def push(topic: str, **fields: Any) -> Push:
    return Push(**{"id": "p1", "token": topic, "title": "Ann", "body": "hello", "ttl_s": 60, **fields})


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    sandbox = Sandbox(now=lambda: NOW, rng=random.Random(1), slow_s=20, vendors=["ntfy"])
    await sandbox.start()
    async with HttpTransport() as transport:
        yield Town(sandbox, transport)
    await sandbox.stop()


async def test_a_message_is_shown_and_replaced(town: Town) -> None:
    provider = town.provider()
    for body in ("hello", "again"):
        outcome = await provider.send(
            push("anns-topic", body=body, collapse_key="room-42", image="https://app.example/i.png")
        )
        assert outcome.verdict is Verdict.ACCEPTED
        assert outcome.vendor_id
    (shown,) = town.screen("anns-topic")
    assert (shown["title"], shown["body"], shown["priority"]) == ("Ann", "again", "4")


async def test_a_repeat_after_a_lost_answer_shows_once(town: Town) -> None:
    provider = town.provider()
    outcome = await provider.send(push("reset-topic"))
    assert outcome.maybe_sent
    async with aiohttp.ClientSession() as http, http.delete(f"{town.sandbox.url}/_control/faults"):
        pass
    await provider.send(push("reset-topic"))
    assert len(town.screen("reset-topic")) == 1


async def test_a_server_before_2_16_shows_one_beside_the_other_and_takes_nothing_back(town: Town) -> None:
    """Sheet §1.3: it does not say `sequence_id` again."""
    provider = town.provider()
    sent = [await provider.send(push("old-topic", body=body, collapse_key="room-42")) for body in ("hello", "again")]
    assert [one.vendor_code for one in sent] == ["nothing_replaced"] * 2
    assert [one["body"] for one in town.screen("old-topic")] == ["hello", "again"]
    recalled = await provider.recall(push("old-topic", collapse_key="room-42"), None)
    assert (recalled.verdict, recalled.vendor_code) == (Verdict.REFUSED, "status_404")
    assert (await provider.send(push("topic"))).vendor_code is None


async def test_every_sort_of_push_is_taken(town: Town) -> None:
    provider = town.provider()
    for fields in (
        {"title": None, "body": None},
        {"ttl_s": 0},
        {"channel": "chat", "click": "https://app.example/r", "urgent": False},
        {"overrides": {"priority": 5, "actions": [{"action": "view", "label": "Open", "url": "https://app.example"}]}},
        {"body": "é" * 2048},
    ):
        assert (await provider.send(push("topic", **fields))).verdict is Verdict.ACCEPTED, fields


async def test_every_way_to_fail_is_taken_as_the_sheet_wants_it(town: Town) -> None:
    assert set(SHEET) == set(town.emulator.known_faults[Place.SEND]), "a row of the emulator that this table lacks"
    provider, found = town.provider(), {}
    for word in SHEET:
        outcome = await provider.send(push(f"{word}-1"))
        found[word] = Answered(outcome.verdict, outcome.scope, outcome.retry_after_s, outcome.maybe_sent)
    assert found == SHEET


async def test_logins(town: Town) -> None:
    base = {"base_url": town.emulator.url}
    assert (
        await town.provider(**base, username=USER, password=PASSWORD).send(push("topic-1"))
    ).verdict is Verdict.ACCEPTED
    for settings in (base, {**base, "token": "tk_wrong"}, {**base, "username": USER, "password": "wrong"}):
        outcome = await town.provider(**settings).send(push("topic-1"))
        assert (outcome.verdict, outcome.scope, outcome.vendor_code) == (Verdict.MISCONFIGURED, ACCOUNT, "ntfy_40101")


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (b"[]", 40017),
        (b"{", 40017),
        (b'{"message":"x"}', 40009),
        (b'{"topic":"a b"}', 40009),
        (b'{"topic":"docs"}', 40010),
        (b'{"topic":"t","priority":6}', 40007),
        (b'{"topic":"t","markdown":"yes"}', 40017),
        (b'{"topic":"t","attach":"x"}', 40013),
        (b'{"topic":"t","icon":"x"}', 40021),
        (b'{"topic":"t","actions":[{"action":"x"}]}', 40018),
        (b'{"topic":"t","actions":[{"action":[]}]}', 40018),
        (b'{"topic":"t","message":"%s"}' % (b"x" * 4097), 40014),
        (b'{"topic":"t","message":"%s"}' % (b"x" * 8192), 41303),
        (b'{"topic":"t"}', None),
    ],
)
async def test_the_emulator_refuses_as_the_server_does(town: Town, document: bytes, code: int | None) -> None:
    headers = {"Authorization": f"Bearer {ACCESS_TOKEN}"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{town.emulator.url}/", data=document, headers=headers) as answer,
    ):
        found = await answer.json()
        assert found.get("code") == code
        assert code is not None or found["message"] == "triggered"


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_document_for_the_topics_url_would_show_as_text(town: Town, method: str) -> None:
    headers = {"Authorization": f"Bearer {ACCESS_TOKEN}"}
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, f"{town.emulator.url}/topic", data=b'{"topic":"topic"}', headers=headers) as answer,
    ):
        assert (await answer.json())["message"] == '{"topic":"topic"}'


@pytest.mark.parametrize(
    ("method", "path", "event"), [("DELETE", "", "message_delete"), ("PUT", "/clear", "message_clear")]
)
async def test_what_is_named_by_its_sequence_goes_from_the_screen(
    town: Town, method: str, path: str, event: str
) -> None:
    """Sheet §1.4."""
    await town.provider().send(push("topic", collapse_key="room-42"))
    headers = {"Authorization": f"Bearer {ACCESS_TOKEN}"}
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, f"{town.emulator.url}/topic/room-42{path}", headers=headers) as answer,
    ):
        assert (await answer.json())["event"] == event
    assert town.screen("topic") == []


def test_each_fault_says_the_code_that_it_answers_with() -> None:
    meanings = {word: fault.meaning for word, fault in NtfyEmulator.known_faults[Place.SEND].items()}
    assert meanings["quota"] == "42908: limit reached: daily message quota reached"
    assert meanings["proxy429"] == "429, from a proxy"
