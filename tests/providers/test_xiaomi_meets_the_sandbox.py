"""The Xiaomi adapter against the Xiaomi emulator, over real sockets."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from meeting import ANSWERS_OF_THE_WIRE, Answered, Meeting, meeting

from providers.contract import Scope, Verdict
from providers.sandbox.faults import Place
from providers.sandbox.xiaomi import PUBLIC, SECRET, XiaomiEmulator

RETRY = Answered(Verdict.RETRY)
SLOW_DOWN = Answered(Verdict.RETRY, Scope.ACCOUNT, 60)
REFUSED = Answered(Verdict.REFUSED)
FIX = Answered(Verdict.MISCONFIGURED, Scope.ACCOUNT)
DEAD = Answered(Verdict.TOKEN_DEAD, Scope.TOKEN)
SPENT = Answered(Verdict.RETRY, Scope.MESSAGE, 3600, spent=True)
BY_CODE: dict[Answered, tuple[int, ...]] = {
    RETRY: (1, 10001, 10003, 20607, 26003, 65029, 10037, 20215, 20216, 20301, 22102, 20315, 65028, 65040, 65041),
    SLOW_DOWN: (10002, 10027, 10030, 10032, 10033, 10035, 10038, 10039, 26004, 26005, 65006),
    REFUSED: (
        *(10008, 10016, 10017, 21305, 65011, 20209, 65010, 65013, 65035),
        *(65007, 65008, 65012, 65014, 65015, 65016, 65017, 65030),
    ),
    FIX: (10012, 10031, 10036, 21301, 21302, 21303, 22000, 22006, 22007, 22022, 26006, 65036, 65037, 65038),
    DEAD: (10029, 66105),
    SPENT: (66108, 200001),
    Answered(Verdict.MISCONFIGURED): (27001,),
    Answered(Verdict.RETRY, Scope.TOKEN): (65003,),
    Answered(Verdict.TOO_LARGE): (65009,),
    Answered(Verdict.RETRY, Scope.ACCOUNT, 3600, spent=True): (10034,),
}
SHEET = {
    **ANSWERS_OF_THE_WIRE,
    "unregistered": DEAD,
    "uninstalled": Answered(Verdict.ACCEPTED),
    "throttled": SLOW_DOWN,
    "quota": SPENT,
    "exceeded": SPENT._replace(maybe_sent=True),
    "revoked": FIX,
    "codeminus1": RETRY,
    **{f"code{code}": answered for answered, codes in BY_CODE.items() for code in codes},
}


@pytest.fixture
async def xiaomi() -> AsyncIterator[Meeting]:
    async with meeting("xiaomi") as met:
        yield met


async def test_every_way_to_fail_is_taken_as_the_sheet_wants_it(xiaomi: Meeting) -> None:
    assert set(SHEET) == set(XiaomiEmulator.known_faults[Place.SEND]), "a row of the emulator that this table lacks"
    assert {word: await xiaomi.answered(f"{word}-1") for word in SHEET} == SHEET
    for word, fault in XiaomiEmulator.known_faults[Place.SEND].items():
        assert len(xiaomi.received(f"{word}-1")) == fault.arrives, word


async def test_what_the_relay_can_say_is_accepted_and_seen(xiaomi: Meeting) -> None:
    outcome = await xiaomi.send(
        "phone",
        body="b" * 500,
        data={"conv": "c9"},
        sound="ring.mp3",
        click="https://app.example/x",
        collapse_key="room",
        badge=3,
        relay={"v": 1, "ids": ["a"]},
    )
    assert outcome.verdict is Verdict.ACCEPTED
    (shown,) = xiaomi.shown("phone")
    assert shown["title"] == "Ann"
    assert outcome.vendor_id == shown["name"]
    assert (await xiaomi.send("phone", title=None, body=None)).verdict is Verdict.ACCEPTED
    assert (await xiaomi.send("phone", ttl_s=0, urgent=False, click="intent:#Intent;end")).verdict is Verdict.ACCEPTED
    assert len(xiaomi.received("phone")) == 3


async def test_a_repeat_is_hidden_and_what_grew_replaces_what_is_shown(xiaomi: Meeting) -> None:
    for _ in range(2):
        await xiaomi.send("phone", id="summary", collapse_key="room", body="1 new")
    assert len(xiaomi.received("phone")) == 1
    await xiaomi.send("phone", id="summary", collapse_key="room", body="2 new")
    assert [one["body"] for one in xiaomi.shown("phone")] == ["2 new"]
    xiaomi.clock[0] += 3600
    await xiaomi.send("phone", id="summary", collapse_key="room", body="2 new")
    assert len(xiaomi.received("phone")) == 3, "a reminder is seen again"
    await xiaomi.send("phone", id="other", collapse_key="yard", body="hi")
    assert len(xiaomi.shown("phone")) == 2


async def test_many_share_a_call_and_a_dead_one_is_named(xiaomi: Meeting) -> None:
    tokens = [f"phone{n}" for n in range(7)]
    outcomes = await xiaomi.send_many([*tokens, "unregistered-1"])
    assert [one.verdict for one in outcomes] == [Verdict.ACCEPTED] * 7 + [Verdict.TOKEN_DEAD]
    assert len({one.vendor_id for one in outcomes[:7]}) == 1, "one call"
    assert all(len(xiaomi.received(token)) == 1 for token in tokens)


async def test_one_that_the_vendor_calls_dead_takes_no_other_with_it(xiaomi: Meeting) -> None:
    outcomes = await xiaomi.send_many(["phone1", "code10029-1", "phone2"])
    assert [one.verdict for one in outcomes] == [Verdict.ACCEPTED, Verdict.TOKEN_DEAD, Verdict.ACCEPTED]


async def test_a_text_of_four_thousand_bytes_is_too_large_before_it_is_sent(xiaomi: Meeting) -> None:
    assert (await xiaomi.answered("phone", data={"k": "é" * 2100})).verdict is Verdict.TOO_LARGE
    assert (await xiaomi.answered("phone", data={"k": "e" * 4000})).verdict is Verdict.ACCEPTED


async def test_a_revoked_secret_parks_the_account_until_it_is_mended(xiaomi: Meeting) -> None:
    await xiaomi.control("revoke")
    assert await xiaomi.answered("phone") == FIX
    await xiaomi.control("reset")
    assert (await xiaomi.answered("phone")).verdict is Verdict.ACCEPTED


async def test_the_public_channel_has_a_number_a_day_and_chats_go_on(xiaomi: Meeting) -> None:
    emulator = xiaomi.sandbox.emulators["xiaomi"]
    assert isinstance(emulator, XiaomiEmulator)
    for _ in range(10_000):
        emulator.today.add("public")
    assert await xiaomi.answered("phone", channel="news") == SPENT
    assert (await xiaomi.answered("phone")).verdict is Verdict.ACCEPTED
    xiaomi.clock[0] += 12 * 3600  # Beijing's midnight
    assert (await xiaomi.answered("phone", channel="news")).verdict is Verdict.ACCEPTED


async def test_a_phone_shows_five_public_messages_a_day(xiaomi: Meeting) -> None:
    for n in range(7):
        assert (await xiaomi.send("phone", id=f"m{n}", channel="news")).verdict is Verdict.ACCEPTED
    assert len(xiaomi.received("phone")) == 5


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"restricted_package_name": None}, 10016),
        ({"restricted_package_name": "org.other"}, 22022),
        ({"registration_id": None}, 10016),
        ({"registration_id": ",".join(f"r{n}" for n in range(1001))}, 10017),
        ({"title": None}, 10016),
        ({"title": " "}, 10017),
        ({"title": "t" * 50}, 10017),
        ({"description": "t" * 128}, 10017),
        ({"payload": "x" * 4096}, 65009),
        ({"pass_through": "2"}, 10017),
        ({"pass_through": "1", "payload": None}, 10016),
        ({"notify_id": "-1"}, 10017),
        ({"time_to_live": "1209600001"}, 10017),
        ({"time_to_send": "1"}, 10017),
        ({"extra.channel_id": None}, 27001),
        ({"extra.channel_id": "7"}, 27001),
        ({"extra.jobkey": "_x"}, 10017),
        ({"extra.notify_effect": "3"}, 10016),
        ({"extra.callback": "https://x.example/" + "x" * 128}, 65037),
        ({"extra.callback": "ftp://x"}, 65038),
        ({"extra.callback.param": "x" * 257}, 65036),
        ({"extra.callback.type": "246"}, 10017),
        ({"extra.callback.type": "²"}, 10017),
        ({f"extra.k{n}": "v" for n in range(11)}, 65014),
        ({"extra.k": "v" * 1024}, 65015),
        ({"surprise": "1"}, 10017),
        ({}, 0),
        ({"restricted_package_name": "org.other,org.example.chat"}, 0),
        ({"extra.callback": "http://x.example/r", "extra.callback.type": "19", "extra.k": "v"}, 0),
    ],
)
async def test_the_emulator_checks_what_xiaomi_checks(
    xiaomi: Meeting, changed: dict[str, str | None], code: int
) -> None:
    form: dict[str, Any] = {
        "registration_id": "phone",
        "restricted_package_name": "org.example.chat",
        "pass_through": "0",
        "title": "t",
        "description": "d",
        "payload": "{}",
        "extra.channel_id": PUBLIC,
        **changed,
    }
    data = {key: value for key, value in form.items() if value is not None}
    said = await xiaomi.post("/v3/message/regid", data=data, headers={"Authorization": f"key={SECRET}"})
    assert (said["code"], said["result"]) == (code, "ok" if code == 0 else "error")
