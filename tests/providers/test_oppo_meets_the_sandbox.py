"""The OPPO adapter against the OPPO emulator, over real sockets."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from meeting import ANSWERS_OF_THE_WIRE, Answered, Meeting, meeting

from providers.contract import Scope, Verdict
from providers.sandbox.faults import Place
from providers.sandbox.oppo import NEWS_A_DAY, OppoEmulator

RETRY = Answered(Verdict.RETRY)
SLOW_DOWN = Answered(Verdict.RETRY, Scope.ACCOUNT, 60)
REFUSED = Answered(Verdict.REFUSED)
FIX = Answered(Verdict.MISCONFIGURED, Scope.ACCOUNT)
FIX_CLASS = Answered(Verdict.MISCONFIGURED)
DEAD = Answered(Verdict.TOKEN_DEAD, Scope.TOKEN)
SPENT = Answered(Verdict.RETRY, Scope.MESSAGE, 3600, spent=True)
BY_CODE: dict[Answered, tuple[int, ...]] = {
    SLOW_DOWN: (13, 55),
    # 11 and 29 ask for a new token, which fares no better.
    FIX: (11, 12, *range(14, 29), 29, 30),
    REFUSED: (31, 34, 40, 41, 51, 59, 10001, 20000),
    Answered(Verdict.ACCEPTED): (32,),
    SPENT: (33,),
    FIX_CLASS: (54, 67),
    DEAD: (10000,),
}
SHEET = {
    **ANSWERS_OF_THE_WIRE,
    "unregistered": DEAD,
    "uninstalled": Answered(Verdict.ACCEPTED),
    "malformed": DEAD,
    "throttled": SLOW_DOWN,
    "quota": SPENT,
    "revoked": FIX,
    "codeminus1": RETRY,
    "codeminus2": SLOW_DOWN,
    "codeminus3": RETRY,
    **{f"code{code}": answered for answered, codes in BY_CODE.items() for code in codes},
}
LOGIN_RETRIED = {"garbage", "reset", "unavailable", "gateway", "codeminus1", "codeminus2", "code13", "code55"}


@pytest.fixture
async def oppo() -> AsyncIterator[Meeting]:
    async with meeting("oppo") as met:
        yield met


async def test_every_way_to_fail_is_taken_as_the_sheet_wants_it(oppo: Meeting) -> None:
    assert set(SHEET) == set(OppoEmulator.known_faults[Place.SEND]), "a row of the emulator that this table lacks"
    assert {word: await oppo.answered(f"{word}-1") for word in SHEET} == SHEET
    for word, fault in OppoEmulator.known_faults[Place.SEND].items():
        assert len(oppo.received(f"{word}-1")) == fault.arrives, word


async def test_what_the_relay_can_say_is_accepted_and_seen(oppo: Meeting) -> None:
    outcome = await oppo.send(
        "phone",
        body="b" * 500,
        data={"conv": "c9"},
        click="chat://room/1",
        collapse_key="room",
        badge=3,
        relay={"v": 1},
    )
    assert outcome.verdict is Verdict.ACCEPTED
    (shown,) = oppo.shown("phone")
    assert (shown["title"], shown["body"], shown["badge"]) == ("Ann", "b" * 127 + "…", 3)
    assert shown["data"] == {"relay_id": "p1", "relay": '{"v":1}', "click": "chat://room/1", "conv": "c9"}
    for fields in (
        {"click": "https://app.example/x"},
        {"click": "intent:#x;end"},
        {"click": "org.example.OPEN"},
        {"ttl_s": 0, "urgent": False},
    ):
        assert (await oppo.send("phone", **fields)).verdict is Verdict.ACCEPTED
    assert (await oppo.send("phone", channel="news")).verdict is Verdict.ACCEPTED


async def test_an_overridden_text_is_seen_where_a_template_shows_it(oppo: Meeting) -> None:
    await oppo.send("phone", overrides={"title": "Room 9", "content": "all of you"})
    assert [(one["title"], one["body"]) for one in oppo.shown("phone")] == [("Room 9", "all of you")]


async def test_a_repeat_is_known_and_what_grew_replaces_what_is_shown(oppo: Meeting) -> None:
    assert (await oppo.answered("phone", collapse_key="room", body="1 new")).verdict is Verdict.ACCEPTED
    assert (await oppo.answered("phone", collapse_key="room", body="1 new")).verdict is Verdict.ACCEPTED
    assert len(oppo.received("phone")) == 1
    await oppo.send("phone", collapse_key="room", body="2 new")
    assert [one["body"] for one in oppo.shown("phone")] == ["2 new"]


async def test_many_share_a_call_and_each_has_its_code(oppo: Meeting) -> None:
    tokens = ["phoneA", "unregistered-1", "phoneB", "malformed-1", "phoneC"]
    outcomes = await oppo.send_many(tokens)
    dead = [one.verdict is Verdict.TOKEN_DEAD for one in outcomes]
    assert dead == [False, True, False, True, False]
    assert len({one.vendor_id for one in outcomes}) == 4
    assert all(len(oppo.received(token)) == 1 for token in ("phoneA", "phoneB", "phoneC"))


async def test_a_token_that_ran_out_is_renewed_and_the_push_arrives(oppo: Meeting) -> None:
    assert (await oppo.send("phone1")).verdict is Verdict.ACCEPTED
    await oppo.control("revoke", what="access_tokens")
    assert (await oppo.send("phone2")).verdict is Verdict.ACCEPTED
    oppo.clock[0] += 23 * 3600
    assert (await oppo.send("phone3")).verdict is Verdict.ACCEPTED
    assert [len(oppo.received(f"phone{n}")) for n in (1, 2, 3)] == [1, 1, 1]


async def test_another_master_secret_parks_the_account(oppo: Meeting) -> None:
    await oppo.control("revoke")
    assert await oppo.answered("phone") == FIX
    await oppo.control("reset")
    assert (await oppo.send("phone")).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("word", sorted(OppoEmulator.known_faults[Place.TOKEN]))
async def test_without_a_login_nothing_is_sent(oppo: Meeting, word: str) -> None:
    await oppo.control("faults", fault=word, on="token")
    outcome = await oppo.send("phone")
    assert outcome.verdict is (Verdict.RETRY if word in LOGIN_RETRIED else Verdict.MISCONFIGURED)
    assert not outcome.maybe_sent
    assert not oppo.received("phone")
    await oppo.control("reset")
    assert (await oppo.send("phone")).verdict is Verdict.ACCEPTED


async def test_a_clock_that_is_off_is_told() -> None:
    async with meeting("oppo") as oppo:
        login = {"app_key": "oppo-sandbox-key", "sign": "0" * 64}
        for timestamp, code in ((int((oppo.clock[0] - 601) * 1000), 19), (int(oppo.clock[0] * 1000), 16), (5, 19)):
            assert (await oppo.post("/server/v1/auth", data={**login, "timestamp": str(timestamp)}))["code"] == code
        assert (await oppo.post("/server/v1/auth", data={"app_key": "other"}))["code"] == 14
        assert (await oppo.post("/server/v1/auth", data={}))["code"] == 15
        assert (await oppo.post("/server/v1/auth", data={"app_key": "oppo-sandbox-key"}))["code"] == 18


async def test_news_have_a_number_a_day_and_chats_go_on(oppo: Meeting) -> None:
    emulator = oppo.sandbox.emulators["oppo"]
    assert isinstance(emulator, OppoEmulator)
    for _ in range(NEWS_A_DAY):
        emulator.today.add("news")
    assert await oppo.answered("phone", channel="news") == SPENT
    assert (await oppo.answered("phone")).verdict is Verdict.ACCEPTED
    oppo.clock[0] += 12 * 3600  # Beijing's midnight
    assert (await oppo.answered("phone", channel="news")).verdict is Verdict.ACCEPTED


async def test_four_thousand_characters_are_too_large_before_they_are_sent(oppo: Meeting) -> None:
    assert (await oppo.answered("phone", data={"k": "é" * 2000})).verdict is Verdict.TOO_LARGE
    assert (await oppo.answered("phone", data={"k": "e" * 3900})).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({}, 0),
        ({"title": None}, 40),
        ({"title": "t" * 51}, 41),
        ({"content": "t" * 51}, 41),
        ({"content": "t" * 128, "style": 2}, 0),
        ({"style": 3}, 41),
        ({"click_action_type": 2}, 40),
        ({"click_action_type": 1, "click_action_activity": "x" * 501}, 41),
        ({"action_parameters": {"a": 1}}, 41),
        ({"action_parameters": "no"}, 41),
        ({"off_line_ttl": 864_001}, 41),
        ({"show_ttl": 43_200}, 0),
        ({"show_ttl": 43_201}, 41),
        ({"show_ttl": 86_400, "channel_id": "im"}, 0),
        ({"show_time_type": 1, "show_start_time": 1}, 40),
        ({"show_time_type": 1, "show_start_time": 2, "show_end_time": 2}, 41),
        ({"show_time_type": 1, "show_start_time": 1, "show_end_time": 2}, 0),
        ({"notify_level": 2}, 67),
        ({"notify_level": 16, "category": "ORDER"}, 67),
        ({"notify_level": 2, "category": "ORDER"}, 0),
        ({"category": "im"}, 67),
        ({"category": "IM"}, 54),
        ({"category": "IM", "private_msg_template_id": "other"}, 31),
        ({"call_back_url": "https://x.example/" + "x" * 200}, 41),
        ({"call_back_parameter": "x" * 101}, 41),
        ({"badge_operation_type": 0}, 40),
        ({"auditResponse": {"reviewer": "r"}}, 0),
        ({"auditResponse": "r"}, 41),
        ({"sound": "ring"}, 41),
    ],
)
async def test_the_emulator_checks_what_oppo_checks(oppo: Meeting, changed: dict[str, Any], code: int) -> None:
    await oppo.send("phone")
    token = next(iter(oppo.sandbox.emulators["oppo"].tokens))  # type: ignore[attr-defined]
    said = {"title": "t", "content": "c", "channel_id": "news", **changed}
    message = {
        "target_type": 2,
        "target_value": "phone",
        "notification": {key: value for key, value in said.items() if value is not None},
    }
    data = {"auth_token": token, "message": json.dumps(message)}
    answer = await oppo.post("/server/v1/message/notification/unicast", data=data)
    assert answer["code"] == code
    answer = await oppo.post("/server/v1/message/notification/unicast", data={**data, "auth_token": ""})
    assert answer["code"] == 29
    answer = await oppo.post("/server/v1/message/notification/unicast", json=message, headers={"auth_token": token})
    assert answer["code"] == 40, "a JSON body is no form"


async def test_a_push_without_words_is_seen(oppo: Meeting) -> None:
    assert (await oppo.answered("phone", title=None, body=None)).verdict is Verdict.ACCEPTED
    assert [one["title"] for one in oppo.shown("phone")] == ["新消息"]


async def test_a_batch_that_names_a_phone_twice_has_an_item_for_each_and_brings_both(oppo: Meeting) -> None:
    await oppo.send("login")
    token = next(iter(oppo.sandbox.emulators["oppo"].tokens))  # type: ignore[attr-defined]
    messages = [
        {"target_type": 2, "target_value": phone, "notification": {"title": title, "content": "c", "channel_id": "im"}}
        for phone, title in (
            ("phone", "one"),
            ("unregistered-1", "two"),
            ("phone", "three"),
            ("unregistered-1", "four"),
        )
    ]
    data = {"auth_token": token, "messages": json.dumps(messages)}
    answer = await oppo.post("/server/v1/message/notification/unicast_batch", data=data)
    assert [item.get("errorCode", 0) for item in answer["data"]] == [0, 10000, 0, 10000]
    assert [one["title"] for one in oppo.received("phone")] == ["one", "three"]
