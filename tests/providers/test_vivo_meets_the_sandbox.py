"""The vivo adapter against the vivo emulator, over real sockets."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from meeting import ANSWERS_OF_THE_WIRE, NOON_BEIJING, Answered, Meeting, meeting

from providers.contract import Scope, Verdict
from providers.sandbox.faults import Place
from providers.sandbox.vivo import (
    BODIES_A_DAY,
    OPERATIONAL_A_DAY,
    OPERATIONAL_TESTS_A_DAY,
    SYSTEM_A_DAY,
    SYSTEM_TESTS_A_DAY,
    VivoEmulator,
)

RETRY = Answered(Verdict.RETRY)
SLOW_DOWN = Answered(Verdict.RETRY, Scope.ACCOUNT, 60)
REFUSED = Answered(Verdict.REFUSED)
FIX = Answered(Verdict.MISCONFIGURED, Scope.ACCOUNT)
FIX_CLASS = Answered(Verdict.MISCONFIGURED)
DEAD = Answered(Verdict.TOKEN_DEAD, Scope.TOKEN)
DAY_OVER = Answered(Verdict.RETRY, Scope.ACCOUNT, 3600, spent=True)
CLASS_OVER = DAY_OVER._replace(scope=Scope.MESSAGE)
AT_SEVEN = Answered(Verdict.RETRY, Scope.MESSAGE, 60)  # the emulator says so at noon: in a minute, then
BY_CODE: dict[Answered, tuple[int, ...]] = {
    FIX: (10000, 10089, 10094, *range(10200, 10206)),
    DAY_OVER: (10070, 10254),
    CLASS_OVER: (10073,),
    AT_SEVEN: (10071,),
    SLOW_DOWN: (10040, 10072, 10093),
    REFUSED: (10045, 10050, 10054, *range(10055, 10068), 10085, 10101, 10103, 10104),
    FIX_CLASS: (10096, 10097, 10303),
    RETRY: (10102, 10252),
    DEAD: (10302,),
}
SHEET = {
    **ANSWERS_OF_THE_WIRE,
    "unregistered": DEAD,
    "unknown": DEAD,
    "unexplained": Answered(Verdict.RETRY, Scope.TOKEN),
    "nottest": Answered(Verdict.MISCONFIGURED, Scope.TOKEN),
    "throttled": SLOW_DOWN,
    "quota": DAY_OVER,
    "revoked": FIX,
    **{f"code{code}": answered for answered, codes in BY_CODE.items() for code in codes},
}
HOUR_MS = 3_600_000
SOON_MS, TEN_MS = int((NOON_BEIJING + 600) * 1000), int(NOON_BEIJING * 1000) + 10 * HOUR_MS  # in the evening
LOGIN_RETRIED = {"garbage", "reset", "unavailable", "gateway", "code10093", "code10102"}


@pytest.fixture
async def vivo() -> AsyncIterator[Meeting]:
    async with meeting("vivo") as met:
        yield met


def emulator(vivo: Meeting) -> VivoEmulator:
    found = vivo.sandbox.emulators["vivo"]
    assert isinstance(found, VivoEmulator)
    return found


async def test_every_way_to_fail_is_taken_as_the_sheet_wants_it(vivo: Meeting) -> None:
    assert set(SHEET) == set(VivoEmulator.known_faults[Place.SEND]), "a row of the emulator that this table lacks"
    found = {}
    for word in SHEET:
        vivo.clock[0] += 1  # so that logins are no more than vivo allows
        found[word] = await vivo.answered(f"{word}-1")
    assert found == SHEET
    for word, fault in VivoEmulator.known_faults[Place.SEND].items():
        assert len(vivo.received(f"{word}-1")) == fault.arrives, word


async def test_what_the_relay_can_say_is_accepted_and_seen(vivo: Meeting) -> None:
    outcome = await vivo.send(
        "phone", body="b" * 500, data={"conv": "c9"}, click="https://app.example/x", collapse_key="room", relay={"v": 1}
    )
    assert outcome.verdict is Verdict.ACCEPTED
    (shown,) = vivo.shown("phone")
    assert (shown["title"], shown["body"]) == ("Ann", "b" * 99 + "…")
    assert shown["data"]["conv"] == "c9"
    assert outcome.vendor_id == shown["name"]
    for fields in (
        {"click": "intent:#x;end"},
        {"ttl_s": 0, "urgent": False},
        {"ttl_s": 1},
        {"data": {f"k{n}": "v" for n in range(20)}},
        {"title": None, "body": " "},
    ):
        assert (await vivo.send("phone", **fields)).verdict is Verdict.ACCEPTED, fields


async def test_a_newer_notification_replaces(vivo: Meeting) -> None:
    for body in ("one new", "two new"):
        await vivo.send("phone", collapse_key="room", body=body)
    assert [one["body"] for one in vivo.shown("phone")] == ["two new"]


async def test_many_are_told_by_one_saved_body_and_the_invalid_are_named(vivo: Meeting) -> None:
    outcomes = await vivo.send_many(["phoneA", "unregistered-1", "phoneB", "nottest-1"])
    verdicts = [one.verdict for one in outcomes]
    assert verdicts == [Verdict.ACCEPTED, Verdict.TOKEN_DEAD, Verdict.ACCEPTED, Verdict.MISCONFIGURED]
    assert emulator(vivo).today.of("bodies") == 1
    assert [len(vivo.received(token)) for token in ("phoneA", "phoneB")] == [1, 1]


async def test_one_that_the_vendor_calls_illegal_takes_no_other_with_it(vivo: Meeting) -> None:
    outcomes = await vivo.send_many(["phoneA", "code10302-1", "phoneB"])
    assert [one.verdict for one in outcomes] == [Verdict.ACCEPTED, Verdict.TOKEN_DEAD, Verdict.ACCEPTED]


async def test_without_bodies_left_for_the_day_pushes_go_one_by_one(vivo: Meeting) -> None:
    for _ in range(BODIES_A_DAY):
        emulator(vivo).today.add("bodies")
    assert {(one.verdict, one.batch_spent) for one in await vivo.send_many(["a", "b"])} == {(Verdict.RETRY, True)}
    assert {(await vivo.send(token)).verdict for token in ("a", "b")} == {Verdict.ACCEPTED}


async def test_operational_messages_wait_for_seven_in_the_morning(vivo: Meeting) -> None:
    vivo.clock[0] = NOON_BEIJING + 11 * 3600 - 1
    assert (await vivo.answered("phone", channel="news")).verdict is Verdict.ACCEPTED
    for hours in (11, 12, 17):
        vivo.clock[0] = NOON_BEIJING + hours * 3600
        assert await vivo.answered("phone", channel="news") == Answered(Verdict.RETRY, Scope.MESSAGE, 3600)
    assert (await vivo.answered("phone")).verdict is Verdict.ACCEPTED
    vivo.clock[0] = NOON_BEIJING + 19 * 3600
    assert (await vivo.answered("phone", channel="news")).verdict is Verdict.ACCEPTED


async def test_when_our_clock_goes_wrong_vivo_has_the_last_word(vivo: Meeting) -> None:
    vivo.provider.now = lambda: NOON_BEIJING
    vivo.clock[0] = NOON_BEIJING - 300
    assert (await vivo.answered("phone", channel="news")).verdict is Verdict.ACCEPTED
    for hours in (11, 12, 19 - 1 / 3600):  # 23:00, midnight, and the second before 7:00
        vivo.clock[0] = NOON_BEIJING + hours * 3600
        assert await vivo.answered("phone", channel="news") == AT_SEVEN
    for hours in (11 - 1 / 3600, 19):
        vivo.clock[0] = NOON_BEIJING + hours * 3600
        assert (await vivo.answered("phone", channel="news")).verdict is Verdict.ACCEPTED


async def test_each_class_has_a_number_a_day(vivo: Meeting) -> None:
    for _ in range(OPERATIONAL_A_DAY):
        emulator(vivo).today.add("operational")
    assert await vivo.answered("phone", channel="news") == DAY_OVER
    for _ in range(SYSTEM_A_DAY):
        emulator(vivo).today.add("system")
    assert await vivo.answered("phone") == CLASS_OVER
    vivo.clock[0] += 12 * 3600 - 1
    assert await vivo.answered("phone") == CLASS_OVER
    vivo.clock[0] += 1
    assert (await vivo.answered("phone")).verdict is Verdict.ACCEPTED, "Beijing's next day"


async def test_where_latin_letters_alone_are_refused_words_go_before_them(vivo: Meeting) -> None:
    """Sheet §5, 10085, and §9, 2: add Chinese words."""
    emulator(vivo).latin = False
    assert (await vivo.send("phone1")).verdict is Verdict.ACCEPTED
    assert {one.verdict for one in await vivo.send_many(["phone2", "phone3"], body="字 hello")} == {Verdict.ACCEPTED}
    for phone, body in (("phone1", "新消息 hello"), ("phone2", "字 hello"), ("phone3", "字 hello")):
        assert [(one["title"], one["body"]) for one in vivo.shown(phone)] == [("新消息 Ann", body)]
    assert emulator(vivo).outcomes["refused:200"] == 1, "asked once; then it is known"
    assert (await vivo.send("phone4", body="José")).verdict is Verdict.ACCEPTED


async def test_of_news_a_device_gets_two_a_day_and_each_text_once(vivo: Meeting) -> None:
    """Sheet §6; what is not delivered counts for nothing."""
    for body in ("one", "one", "two", "three"):
        assert (await vivo.send("phone", channel="news", body=body)).verdict is Verdict.ACCEPTED
    assert [one["body"] for one in vivo.received("phone")] == ["one", "two"]
    assert emulator(vivo).today.of("operational") == 2
    vivo.clock[0] += 24 * 3600
    await vivo.send("phone", channel="news", body="one")
    assert len(vivo.received("phone")) == 3


async def test_test_messages_have_numbers_of_their_own() -> None:
    async with meeting("vivo", test=True) as vivo:
        for _ in range(OPERATIONAL_TESTS_A_DAY):
            emulator(vivo).today.add("operational tests")
        assert await vivo.answered("tester1", channel="news") == DAY_OVER
        assert (await vivo.answered("tester1")).verdict is Verdict.ACCEPTED
        for _ in range(SYSTEM_TESTS_A_DAY):
            emulator(vivo).today.add("system tests")
        assert await vivo.answered("tester1") == CLASS_OVER


async def test_a_token_that_ran_out_is_renewed_and_the_push_arrives(vivo: Meeting) -> None:
    assert (await vivo.send("phone1")).verdict is Verdict.ACCEPTED
    await vivo.control("revoke", what="access_tokens")
    assert (await vivo.send("phone2")).verdict is Verdict.ACCEPTED
    await vivo.control("revoke", what="access_tokens")
    assert {one.verdict for one in await vivo.send_many(["phone3", "phone4"])} == {Verdict.ACCEPTED}
    vivo.clock[0] += 25 * 3600
    assert (await vivo.send("phone5")).verdict is Verdict.ACCEPTED
    assert [len(vivo.received(f"phone{n}")) for n in range(1, 6)] == [1] * 5


async def test_another_secret_parks_the_account(vivo: Meeting) -> None:
    await vivo.control("revoke")
    assert await vivo.answered("phone") == FIX
    await vivo.control("reset")
    assert (await vivo.send("phone")).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("word", sorted(VivoEmulator.known_faults[Place.TOKEN]))
async def test_without_a_login_nothing_is_sent(vivo: Meeting, word: str) -> None:
    await vivo.control("faults", fault=word, on="token")
    outcome = await vivo.send("phone")
    assert outcome.verdict is (Verdict.RETRY if word in LOGIN_RETRIED else Verdict.MISCONFIGURED)
    assert not outcome.maybe_sent
    assert not vivo.received("phone")
    await vivo.control("reset")
    assert (await vivo.send("phone")).verdict is Verdict.ACCEPTED


async def test_in_test_mode_only_test_devices_get_anything() -> None:
    async with meeting("vivo", test=True) as vivo:
        assert (await vivo.answered("phone")).verdict is Verdict.MISCONFIGURED
        assert (await vivo.answered("tester1")).verdict is Verdict.ACCEPTED


async def test_a_thousand_characters_of_data_are_too_large_before_they_are_sent(vivo: Meeting) -> None:
    assert (await vivo.answered("phone", data={"k": "e" * 1024})).verdict is Verdict.TOO_LARGE
    assert (await vivo.answered("phone", data={"k": "é" * 1000})).verdict is Verdict.ACCEPTED
    assert (await vivo.answered("phone", data={"k": "😀" * 500})).verdict is Verdict.ACCEPTED
    assert (await vivo.answered("phone", data={"k": "😀" * 512})).verdict is Verdict.TOO_LARGE


@pytest.mark.parametrize(
    ("changed", "result"),
    [
        ({}, 0),
        ({"appId": "100001"}, 10094),
        ({"appId": 7}, 10094),
        ({"requestId": None}, 10303),
        ({"requestId": "x" * 65}, 10303),
        ({"regId": None}, 10045),
        ({"title": None}, 10054),
        ({"title": "字" * 41}, 10054),
        ({"content": "字" * 101}, 10055),
        ({"content": "字" * 50 + "😀" * 25}, 0),
        ({"content": "字" * 50 + "😀" * 26}, 10055),
        ({"content": "8341"}, 10085),
        ({"content": "8341", "pushMode": 1}, 0),
        ({"title": "测试消息"}, 10104),
        ({"title": "[t]"}, 10104),
        ({"title": "[t]", "pushMode": 1}, 0),
        ({"content": "[c]"}, 0),
        ({"timeToLive": 59}, 10056),
        ({"timeToLive": "60"}, 10056),
        ({"skipType": 2}, 10058),
        ({"category": "im"}, 10096),
        ({"category": "IM", "classification": 0}, 10097),
        ({"clientCustomMap": {"k": 1}}, 10060),
        ({"clientCustomMap": {"k": "😀" * 511 + "v"}}, 0),
        ({"clientCustomMap": {"k": "😀" * 512}}, 10060),
        ({"extra": {"callback": "x" * 129}}, 10061),
        ({"extra": {"callback": "https://x.example", "callback.param": "p"}}, 0),
        ({"extra": {"callback": "https://x.example", "callback.param": "p" * 65}}, 10061),
        ({"extra": {"callback.id": "7", "callback.param": "p" * 191}}, 0),
        ({"extra": {"callback.id": "7", "callback.param": "p" * 192}}, 10061),
        ({"notifyId": 0}, 10062),
        ({"timedDisplay": {"showStartTime": 1, "showEndTime": 2}}, 10067),
        ({"timedDisplay": {"showStartTime": SOON_MS, "showEndTime": SOON_MS + 7_200_000}}, 10067),
        ({"timedDisplay": {"showStartTime": SOON_MS, "showEndTime": SOON_MS + 7_100_000}}, 0),
        ({"timedDisplay": {"showStartTime": TEN_MS, "showEndTime": TEN_MS + HOUR_MS}, "category": "NEWS"}, 0),
        ({"timedDisplay": {"showStartTime": TEN_MS, "showEndTime": TEN_MS + HOUR_MS + 1}, "category": "NEWS"}, 10067),
        ({"timedDisplay": {"showStartTime": TEN_MS, "showEndTime": TEN_MS + HOUR_MS + 1}, "category": "IM"}, 0),
        ({"surprise": 1}, 10050),
    ],
)
async def test_the_emulator_checks_what_vivo_checks(vivo: Meeting, changed: dict[str, Any], result: int) -> None:
    await vivo.send("phone")
    token = str(next(iter(emulator(vivo).tokens)))
    said = {
        "appId": 100001,
        "regId": "phone",
        "requestId": "r",
        "notifyType": 1,
        "title": "t",
        "content": "c",
        "skipType": 1,
        **changed,
    }
    message = {key: value for key, value in said.items() if value is not None}
    assert (await vivo.post("/message/send", json=message, headers={"authToken": token}))["result"] == result
    assert (await vivo.post("/message/send", json=message))["result"] == 10000


@pytest.mark.parametrize(
    ("changed", "result"),
    [
        ({"regIds": ["a"]}, 10045),
        ({"regIds": ["a"] * 1001}, 10045),
        *(({"regIds": ["a", wrong]}, 10045) for wrong in (1, None, {}, "", "b c")),
        ({"taskId": "other"}, 10045),
        ({}, 0),
    ],
)
async def test_a_list_has_two_to_a_thousand_devices(vivo: Meeting, changed: dict[str, Any], result: int) -> None:
    await vivo.send_many(["phoneA", "phoneB"])
    token, task = (str(next(iter(known))) for known in (emulator(vivo).tokens, emulator(vivo).tasks))
    call = {"appId": 100001, "regIds": ["a", "b"], "taskId": task, "requestId": "r", **changed}
    assert (await vivo.post("/message/pushToList", json=call, headers={"authToken": token}))["result"] == result


async def test_a_push_without_words_is_seen(vivo: Meeting) -> None:
    assert (await vivo.answered("phone", title=None, body=None)).verdict is Verdict.ACCEPTED
    assert [one["title"] for one in vivo.shown("phone")] == ["新消息"]
