"""The Meizu adapter against the Meizu emulator, over real sockets."""

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from meeting import ANSWERS_OF_THE_WIRE, Answered, Meeting, meeting

from providers.contract import Scope, Verdict
from providers.sandbox.faults import Place
from providers.sandbox.meizu import PATH, MeizuEmulator

EIGHT, NINE = "2026-12-01 08:00:00", "2026-12-01 09:00:00"
RETRY = Answered(Verdict.RETRY)
SLOW_DOWN = Answered(Verdict.RETRY, Scope.ACCOUNT, 60)
REFUSED = Answered(Verdict.REFUSED)
FIX = Answered(Verdict.MISCONFIGURED, Scope.ACCOUNT)
DEAD = Answered(Verdict.TOKEN_DEAD, Scope.TOKEN)
DAY_OVER = Answered(Verdict.RETRY, Scope.ACCOUNT, 3600, spent=True)
SHEET = {
    **ANSWERS_OF_THE_WIRE,
    "unregistered": DEAD,
    "illegal": DEAD,
    "alias": Answered(Verdict.REFUSED, Scope.TOKEN),
    "muted": Answered(Verdict.REFUSED, Scope.TOKEN),
    "dayover": Answered(Verdict.RETRY, Scope.TOKEN, 3600, spent=True),
    "norights": Answered(Verdict.MISCONFIGURED, Scope.TOKEN),
    "failed": RETRY,
    "broken": RETRY,
    "overloaded": SLOW_DOWN,
    "folded": Answered(Verdict.RETRY, Scope.TOKEN, 60),
    "throttled": SLOW_DOWN,
    "quota": DAY_OVER,
    "revoked": FIX,
    "lured": RETRY,
    **dict.fromkeys(("code500", "code1001"), RETRY),
    **dict.fromkeys(("code1003", "code110010"), SLOW_DOWN),
    **dict.fromkeys(("code1005", "code110004", "code110032"), REFUSED),
    **{f"code{code}": FIX for code in (1006, 110000, 110001, 110033, 110031, 110009)},
    **dict.fromkeys(("code110002", "code110003"), DEAD),
    **dict.fromkeys(("code110019", "code110051"), DAY_OVER),
    "code110053": Answered(Verdict.MISCONFIGURED),
}


@pytest.fixture
async def meizu() -> AsyncIterator[Meeting]:
    async with meeting("meizu") as met:
        yield met


def emulator(meizu: Meeting) -> MeizuEmulator:
    found = meizu.sandbox.emulators["meizu"]
    assert isinstance(found, MeizuEmulator)
    return found


async def test_every_way_to_fail_is_taken_as_the_sheet_wants_it(meizu: Meeting) -> None:
    assert set(SHEET) == set(MeizuEmulator.known_faults[Place.SEND]), "a row of the emulator that this table lacks"
    assert {word: await meizu.answered(f"{word}-1") for word in SHEET} == SHEET
    for word, fault in MeizuEmulator.known_faults[Place.SEND].items():
        assert len(meizu.received(f"{word}-1")) == fault.arrives, word


async def test_what_the_relay_can_say_is_accepted_and_seen(meizu: Meeting) -> None:
    outcome = await meizu.send(
        "phone",
        title="Änn & 安 " * 20,
        body="a+b=c%20 " * 50,
        data={"é": "\ud800 😀"},
        click="chat://room/1",
        collapse_key="room",
        relay={"v": 1},
    )
    assert outcome.verdict is Verdict.ACCEPTED, "signed as it is sent, whatever is in it"
    (shown,) = meizu.shown("phone")
    assert (shown["title"][-1], shown["body"][-1]) == ("…", "…")
    assert shown["data"]["é"] == "? 😀"
    for fields in ({"click": "https://app.example/x"}, {"ttl_s": 0, "urgent": False}, {"title": None, "body": " "}):
        assert (await meizu.send("phone", **fields)).verdict is Verdict.ACCEPTED, fields


async def test_a_newer_notification_replaces(meizu: Meeting) -> None:
    for body in ("one new", "two new"):
        await meizu.send("phone", collapse_key="room", body=body)
    assert [one["body"] for one in meizu.shown("phone")] == ["two new"]


async def test_many_share_a_call_and_those_that_fail_are_named(meizu: Meeting) -> None:
    outcomes = await meizu.send_many(["phoneA", "unregistered-1", "phoneB", "muted-1", "folded-1"])
    verdicts = [one.verdict for one in outcomes]
    assert verdicts == [Verdict.ACCEPTED, Verdict.TOKEN_DEAD, Verdict.ACCEPTED, Verdict.REFUSED, Verdict.RETRY]
    assert len({outcomes[0].vendor_id, outcomes[2].vendor_id}) == 1, "one call"
    assert [len(meizu.received(token)) for token in ("phoneA", "phoneB")] == [1, 1]


async def test_a_call_of_the_dead_alone_fails_whole_though_its_code_is_200(meizu: Meeting) -> None:
    outcomes = await meizu.send_many(["unregistered-1", "illegal-1"])
    assert {one.verdict for one in outcomes} == {Verdict.TOKEN_DEAD}


async def test_one_that_the_whole_call_is_refused_for_takes_no_other_with_it(meizu: Meeting) -> None:
    outcomes = await meizu.send_many(["phoneA", "code110002-1", "phoneB"])
    assert [one.verdict for one in outcomes] == [Verdict.ACCEPTED, Verdict.TOKEN_DEAD, Verdict.ACCEPTED]


async def test_the_sixth_within_a_minute_is_folded_and_comes_later(meizu: Meeting) -> None:
    for n in range(5):
        assert (await meizu.send("phone", id=f"m{n}")).verdict is Verdict.ACCEPTED
    assert await meizu.answered("phone", id="m5") == SHEET["folded"]
    meizu.clock[0] += 60
    assert (await meizu.answered("phone", id="m5")).verdict is Verdict.ACCEPTED


async def test_a_phone_takes_three_public_messages_a_day_and_chats_go_on(meizu: Meeting) -> None:
    for n in range(3):
        assert (await meizu.send("phone", id=f"m{n}", channel="news")).verdict is Verdict.ACCEPTED
    assert await meizu.answered("phone", channel="news") == SHEET["dayover"]
    assert (await meizu.answered("phone")).verdict is Verdict.ACCEPTED
    meizu.clock[0] += 12 * 3600  # Beijing's midnight
    assert (await meizu.answered("phone", channel="news")).verdict is Verdict.ACCEPTED


async def test_a_redirect_is_followed_within_the_host(meizu: Meeting) -> None:
    emulator(meizu).moved = True
    assert (await meizu.answered("phone")).verdict is Verdict.ACCEPTED
    assert len(meizu.received("phone")) == 1


async def test_another_secret_parks_the_account(meizu: Meeting) -> None:
    await meizu.control("revoke")
    assert await meizu.answered("phone") == FIX
    await meizu.control("reset")
    assert (await meizu.send("phone")).verdict is Verdict.ACCEPTED


async def test_too_much_data_is_too_large_before_it_is_sent(meizu: Meeting) -> None:
    assert (await meizu.answered("phone", data={"k": "é" * 2048})).verdict is Verdict.TOO_LARGE


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({}, "200"),
        ({"pushIds": ""}, "110004"),
        ({"pushIds": ",".join(f"p{n}" for n in range(101))}, "1005"),
        ({"appId": "7"}, "110000"),
        ({"sign": "0" * 32}, "1006"),
        ({"more": "1"}, "200"),
        ({"messageJson": "[]"}, "1005"),
        ({"messageJson": "no"}, "1005"),
        ({"noticeBarInfo": {"title": "t"}}, "110004"),
        ({"noticeBarInfo": {"title": "t" * 33, "content": "c"}}, "1005"),
        ({"noticeBarInfo": {"title": "😀" * 16, "content": "c"}}, "200"),
        ({"noticeBarInfo": {"title": "😀" * 17, "content": "c"}}, "1005"),
        ({"noticeBarInfo": {"title": "t", "content": "c" * 101}}, "1005"),
        ({"noticeBarInfo": {"title": "t", "content": "c", "noticeMsgType": 2}}, "1005"),
        ({"clickTypeInfo": {"clickType": 2}}, "110004"),
        ({"noticeExpandInfo": {"noticeExpandType": 1}}, "110004"),
        ({"noticeExpandInfo": {"noticeExpandType": 1, "noticeExpandContent": "more"}}, "200"),
        ({"clickTypeInfo": {"clickType": 3, "customAttribute": "é" * 501}}, "1005"),
        ({"clickTypeInfo": {"parameters": "{}"}}, "1005"),
        ({"pushTimeInfo": {"validTime": 73}}, "1005"),
        ({"advanceInfo": {"notifyKey": "123456789"}}, "1005"),
        ({"advanceInfo": {"fixStartDisplayTime": "2026-13-01 00:00:00"}}, "1005"),
        ({"advanceInfo": {"fixStartDisplayTime": EIGHT}}, "200"),
        ({"advanceInfo": {"fixDisplay": 1, "fixStartDisplayTime": EIGHT}}, "110004"),
        ({"advanceInfo": {"fixDisplay": 1, "fixStartDisplayTime": EIGHT, "fixEndDisplayTime": EIGHT}}, "1005"),
        ({"advanceInfo": {"fixDisplay": 1, "fixStartDisplayTime": EIGHT, "fixEndDisplayTime": NINE}}, "200"),
        ({"vipInfo": {"subtitle": "😀" * 8}}, "200"),
        ({"vipInfo": {"subtitle": "😀" * 9}}, "1005"),
        ({"extra": {"callback": "x" * 129}}, "1005"),
        ({"extra": {"callback": "https://x.example", "callback.param": "p", "callback.type": 3}}, "200"),
        ({"surprise": {}}, "1005"),
    ],
)
async def test_the_emulator_checks_what_meizu_checks(meizu: Meeting, changed: dict[str, Any], code: str) -> None:
    message = {"noticeBarInfo": {"title": "t", "content": "c"}}
    message |= {part: said for part, said in changed.items() if isinstance(said, dict)}
    form = {"appId": "100000", "pushIds": "phone", "messageJson": json.dumps(message)}
    form |= {field: said for field, said in changed.items() if isinstance(said, str)}
    text = "".join(f"{name}={form[name]}" for name in sorted(form)) + "meizu-sandbox-secret"
    form.setdefault("sign", hashlib.md5(text.encode()).hexdigest())
    assert (await meizu.post(PATH, data=form))["code"] == code


async def test_a_push_without_words_is_seen(meizu: Meeting) -> None:
    assert (await meizu.answered("phone", title=None, body=None)).verdict is Verdict.ACCEPTED
    assert [one["title"] for one in meizu.shown("phone")] == ["新消息"]
