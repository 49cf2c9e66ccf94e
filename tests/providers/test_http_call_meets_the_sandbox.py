"""The signed call against the emulated gateway, over real sockets. Neither knows the other's code."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from meeting import NOON_BEIJING, Answered, Meeting, meeting
from standardwebhooks import Webhook

from providers import loading
from providers.contract import Push, Scope, Verdict
from providers.http_call import HttpCallProvider
from providers.sandbox.faults import Place
from providers.sandbox.gateway import AGE_S_MAX, SECRET

OTHER = "whsec_YGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3"
ACCOUNT, TOKEN = Scope.ACCOUNT, Scope.TOKEN
PARKED = Answered(Verdict.MISCONFIGURED, ACCOUNT)
REFUSED = Answered(Verdict.REFUSED)
DEAD = Answered(Verdict.TOKEN_DEAD, TOKEN)
RETRY = Answered(Verdict.RETRY)
BUSY = Answered(Verdict.RETRY, ACCOUNT)
UNKNOWN = Answered(Verdict.RETRY, maybe_sent=True)

# Sheet others.md §3.3 and the guide's table, row by row, and what a network can do besides.
SHEET = {
    "unregistered": DEAD,
    "unregisteredgone": DEAD,
    "throttleddead": Answered(Verdict.RETRY, ACCOUNT, 60),
    "illdead": RETRY,
    "moved": Answered(Verdict.RETRY, ACCOUNT, 60),
    "redirected": Answered(Verdict.RETRY, ACCOUNT, 60),
    "badrequest": REFUSED,
    "unauthorized": PARKED,
    "revoked": PARKED,
    "forbidden": PARKED,
    "notfound": REFUSED,
    "method": REFUSED,
    "timeout": RETRY,
    "gone": PARKED,
    "toobig": Answered(Verdict.TOO_LARGE),
    "mediatype": REFUSED,
    "unprocessable": REFUSED,
    "early": RETRY,
    "throttled": Answered(Verdict.RETRY, ACCOUNT, 30),
    "throttledbare": Answered(Verdict.RETRY, ACCOUNT, 60),
    "internal": RETRY,
    "badgateway": BUSY,
    "unavailable": Answered(Verdict.RETRY, retry_after_s=7),
    "gatewaytimeout": BUSY,
    "slow": UNKNOWN,
    "reset": UNKNOWN,
    "cut": UNKNOWN,
    "garbage": Answered(Verdict.ACCEPTED),  # any 2xx
}


@pytest.fixture
async def m() -> AsyncIterator[Meeting]:
    async with meeting("http") as met:
        yield met


async def test_a_message_is_shown_and_a_newer_one_of_its_key_takes_its_place(m: Meeting) -> None:
    for body in ("hello", "again"):
        outcome = await m.send("phone", body=body, collapse_key="room-42", badge=3, sound="ding", data={"k": "v"})
        assert outcome.verdict is Verdict.ACCEPTED
    (shown,) = m.shown("phone")
    assert (shown["title"], shown["body"], shown["badge"], shown["sound"]) == ("Ann", "again", 3, "ding")
    assert (shown["data"], shown["priority"], shown["shown_by"]) == ({"k": "v"}, "high", "app")


async def test_every_sort_of_push_is_taken(m: Meeting) -> None:
    for fields in (
        {"title": None, "body": None, "relay": {"v": 1, "ids": ["m-1"], "n": 1}},
        {"title": None, "body": None, "badge": 0},
        {"ttl_s": 0, "urgent": False, "click": "https://app.example/r", "thread": "t", "channel": "chat"},
        {"title_loc_key": "t", "title_loc_args": ["Ann"], "body_loc_key": "b", "mutable": True, "sealed": "c2VhbGVk"},
        {"image": "https://app.example/i.png", "kind": "token", "ttl_s": 0.5, "collapse_key": None},
    ):
        assert (await m.send("phone", **fields)).verdict is Verdict.ACCEPTED, fields


async def test_every_way_to_fail_is_taken_as_the_sheet_wants_it(m: Meeting) -> None:
    known = m.sandbox.emulators["http"].known_faults[Place.SEND]
    assert set(SHEET) == set(known), "a row of the emulator that this table lacks"
    assert {word: await m.answered(f"{word}-1") for word in SHEET} == SHEET


async def test_what_is_sent_again_after_a_lost_answer_is_shown_once(m: Meeting) -> None:
    await m.control("faults", token="phone", fault="reset", times=1)
    assert (await m.send("phone")).maybe_sent
    m.clock[0] += 2000
    assert (await m.send("phone")).verdict is Verdict.ACCEPTED
    assert len(m.received("phone")) == 1
    assert m.sandbox.emulators["http"].outcomes["repeat"] == 1


async def test_what_an_app_is_told_to_take_back_leaves_the_screen(m: Meeting) -> None:
    await m.send("phone", relay={"ids": ["m-1"]})
    assert len(m.shown("phone")) == 1
    await m.send("phone", id="w", title=None, body=None, relay={"withdraw": ["m-1"]})
    assert m.shown("phone") == []


async def test_a_secret_that_the_gateway_no_longer_has_parks_the_account(m: Meeting) -> None:
    await m.control("revoke")
    assert await m.answered("phone") == PARKED
    await m.control("reset")
    assert (await m.send("phone")).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("secrets", "verdict"),
    [
        ({"secret": OTHER}, Verdict.MISCONFIGURED),
        ({"secret": OTHER, "old_secret": SECRET}, Verdict.ACCEPTED),
        ({"secret": SECRET, "old_secret": OTHER}, Verdict.ACCEPTED),
    ],
)
async def test_while_the_secret_changes_both_sign(secrets: dict[str, str], verdict: Verdict) -> None:
    async with meeting("http", **secrets) as met:
        assert (await met.send("phone")).verdict is verdict


@pytest.mark.parametrize("drift_s", [-AGE_S_MAX - 1, AGE_S_MAX + 1])
async def test_a_clock_that_is_wrong_by_more_than_five_minutes_is_the_operators_to_mend(drift_s: float) -> None:
    async with meeting("http") as met:
        settings = met.sandbox.account_settings("http")["settings"]
        kind, call = HttpCallProvider, met.provider.call
        drifting = loading.build(kind, settings, transport=call, now=lambda: NOON_BEIJING + drift_s)
        outcome = await drifting.send(met.push("phone"))
        assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, ACCOUNT)


async def test_the_largest_body_that_is_sent_is_taken() -> None:
    """Sheet §3.1: below 20 kB."""
    async with meeting("http") as met:
        fixed = len(met.provider.encode(met.push("phone", body=""), "").body)
        push: Push = met.push("phone", body="x" * (19_999 - fixed))
        assert len(met.provider.encode(push, "").body) == 19_999
        assert (await met.provider.send(push)).verdict is Verdict.ACCEPTED
        large = await met.provider.send(replace(push, body=f"{push.body}x"))
        assert (large.verdict, large.local) == (Verdict.TOO_LARGE, True)


DATA = {"id": "m-1", "token": "phone", "kind": "token", "silent": False, "urgent": True, "ttl_s": 60, "title": "Ann"}
EVENT: dict[str, Any] = {"type": "push", "timestamp": "2027-01-15T04:00:00Z", "data": DATA}


@pytest.mark.parametrize(
    ("changed", "headers", "status"),
    [
        ({}, {}, 204),
        ({}, {"webhook-id": "a.b"}, 400),
        ({}, {"webhook-id": ""}, 400),
        ({}, {"webhook-timestamp": "now"}, 400),
        ({}, {"webhook-timestamp": f"{NOON_BEIJING + 1:.0f}"}, 401),  # another than was signed
        ({}, {"webhook-signature": ""}, 401),
        ({}, {"webhook-signature": "v1a,AAAA v2,AAAA"}, 401),
        ({}, {"Content-Type": "text/plain"}, 415),
        ({"type": ""}, {}, 422),
        ({"timestamp": "noon"}, {}, 422),
        ({"more": 1}, {}, 422),
        ({"data": {**DATA, "titel": "Ann"}}, {}, 422),
        ({"data": {**DATA, "silent": True}}, {}, 422),
        ({"data": {**DATA, "ttl_s": "60"}}, {}, 422),
        ({"data": {**DATA, "ttl_s": -1}}, {}, 422),
        ({"data": {**DATA, "token": ""}}, {}, 422),
        ({"data": {**DATA, "body": "x" * 20_000}}, {}, 413),
    ],
)
async def test_the_gateway_looks_at_each_part_of_a_call(
    changed: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    """Signed here by the reference library."""
    async with meeting("http") as met, aiohttp.ClientSession(met.sandbox.url) as http:
        body = json.dumps({**EVENT, **changed})
        signature = Webhook(SECRET).sign("id-1", datetime.fromtimestamp(NOON_BEIJING, UTC), body)
        given = {"webhook-id": "id-1", "webhook-timestamp": f"{NOON_BEIJING:.0f}", "webhook-signature": signature}
        given |= {"Content-Type": "application/json", **headers}
        async with http.post("/http/push", data=body, headers=given) as answer:
            assert answer.status == status
        async with http.get("/http/push") as answer:
            assert answer.status == 405


async def test_what_is_signed_and_no_json_is_said_to_be_none() -> None:
    async with meeting("http") as met, aiohttp.ClientSession(met.sandbox.url) as http:
        for body, status in (("{", 400), ("[]", 422), ('{"type":"push"}', 422)):
            signature = Webhook(SECRET).sign("id-1", datetime.fromtimestamp(NOON_BEIJING, UTC), body)
            given = {"webhook-id": "id-1", "webhook-timestamp": f"{NOON_BEIJING:.0f}", "webhook-signature": signature}
            given["Content-Type"] = "application/json"
            async with http.post("/http/push", data=body, headers=given) as answer:
                assert answer.status == status, body
