"""Huawei's HMS adapter against its emulator, over a real socket. Both were written from the sheet; neither knows the other."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from family_bench import CONFIG, DEAD, NOW, REFUSED, RETRY, Bench, bench_of, push

from providers.contract import Scope, Verdict
from providers.huawei import HuaweiProvider
from providers.loading import build
from providers.sandbox.faults import Place
from providers.sandbox.huawei import HuaweiEmulator

# Sheet §5, row by row, by the emulator's word for it; and what a network can do besides.
SHEET: dict[str, tuple[Verdict, Scope]] = {
    **dict.fromkeys(
        ("badparam", "onetoken", "badstructure", "badttl", "badcollapse", "sensitive", "badreview", "nohigh"), REFUSED
    ),
    **dict.fromkeys(("topics", "internal", "internalold", "unavailable", "gateway", "unlisted"), RETRY),
    **dict.fromkeys(("reset", "cut", "garbage"), RETRY),
    # A fresh bearer is refused, too.
    **dict.fromkeys(("autherror", "expired", "oauth", "revoked"), CONFIG),
    **dict.fromkeys(("noapp", "fingerprint", "notfound"), CONFIG),
    "badreceipt": (Verdict.MISCONFIGURED, Scope.TOKEN),
    **dict.fromkeys(("unregistered", "alldead"), DEAD),
    "toobig": (Verdict.TOO_LARGE, Scope.MESSAGE),
    "toomany": REFUSED,
    "throttled": (Verdict.RETRY, Scope.ACCOUNT),
    "slow": (Verdict.ACCEPTED, Scope.MESSAGE),
    "uninstalled": (Verdict.ACCEPTED, Scope.MESSAGE),
}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with bench_of(HuaweiProvider) as one:
        yield one


async def test_a_message_arrives_as_it_was_meant(bench: Bench) -> None:
    full = push(
        badge=3,
        sound="bell.mp3",
        channel="chat",
        thread="c1",
        image="https://a.example/i.png",
        click="shop://orders/1",
        data={"k": "v"},
        relay={"v": 1},
        collapse_key="c",
        title_loc_key="T",
        title_loc_args=("a",),
        body_loc_key="B",
    )
    outcome = await bench.provider(badge_class="a.b.C").send(full)
    assert outcome.verdict is Verdict.ACCEPTED
    assert outcome.vendor_id is not None
    (delivery,) = (await bench.phone("t1"))["shown"]
    assert (delivery["title"], delivery["body"], delivery["badge"]) == ("Ann", "hi", 3)
    assert (delivery["sound"], delivery["channel"], delivery["ttl"]) == ("/raw/bell", "chat", "86400s")
    assert delivery["data"] == {
        "relay_id": "m-1",
        "relay": '{"v":1}',
        "click": "shop://orders/1",
        "thread": "c1",
        "k": "v",
    }
    assert delivery["name"] == outcome.vendor_id


async def test_a_newer_one_takes_the_older_one_s_place(bench: Bench) -> None:
    provider = bench.provider()
    for number in range(3):
        await provider.send(push(id=f"m-{number}", body=f"{number}", collapse_key="c"))
    await provider.send(push(id="m-9", body="other"))
    await provider.send(push(id="m-9", body="other"))  # a repeat
    phone = await bench.phone("t1")
    assert [one["body"] for one in phone["shown"]] == ["2", "other"]
    assert phone["count"] == 5


async def test_a_wake_up_shows_nothing(bench: Bench) -> None:
    assert (await bench.provider().send(push(title=None, body=None, relay={"v": 1}))).verdict is Verdict.ACCEPTED
    phone = await bench.phone("t1")
    assert (phone["shown"], phone["count"]) == ([], 1)
    assert phone["received"][0]["data"]["relay"] == '{"v":1}'


async def test_each_answer_of_the_vendor_means_what_the_sheet_says(bench: Bench) -> None:
    found, unsure = await bench.answers(SHEET)
    assert found == SHEET
    assert unsure == {"reset", "cut", "garbage", "unlisted"}


def test_no_fault_of_the_emulator_is_left_out() -> None:
    assert set(SHEET) == set(HuaweiEmulator.known_faults[Place.SEND])


async def test_one_dead_token_of_many_is_named_and_the_others_have_it(bench: Bench) -> None:
    tokens = [f"t{n}" for n in range(5)]
    tokens[1] = "unregistered-1"
    outcomes = await bench.provider().send_many([push(token) for token in tokens])
    assert [one.verdict for one in outcomes] == [
        Verdict.TOKEN_DEAD if token == "unregistered-1" else Verdict.ACCEPTED for token in tokens
    ]
    assert [(await bench.phone(token)).get("count", 0) for token in tokens] == [1, 0, 1, 1, 1]


async def test_data_alone_arrives_whatever_its_overrides_say_of_what_is_shown(bench: Bench) -> None:
    """A notification without title and click action is refused."""
    quiet = {"android": {"notification": {"importance": "LOW"}}}
    outcome = await bench.provider().send(push(title=None, body=None, data={"k": "v"}, overrides=quiet))
    assert outcome.verdict is Verdict.ACCEPTED
    assert [one["data"]["k"] for one in (await bench.phone("t1"))["received"]] == ["v"]


async def test_data_alone_is_shown_where_its_overrides_say_all_that_takes(bench: Bench) -> None:
    whole = {"title": "Ann", "body": "hi", "click_action": {"type": 3}}
    overrides = {"android": {"notification": whole}}
    outcome = await bench.provider().send(push(title=None, body=None, data={"k": "v"}, overrides=overrides))
    assert outcome.verdict is Verdict.ACCEPTED
    (shown,) = (await bench.phone("t1"))["received"]
    assert (shown["title"], shown["body"], shown["shown_by"]) == ("Ann", "hi", "system")


async def test_a_thousand_go_in_one_call(bench: Bench) -> None:
    outcomes = await bench.provider().send_many([push(f"{n:060d}") for n in range(1001)])
    assert {one.verdict for one in outcomes} == {Verdict.ACCEPTED}
    assert len({one.vendor_id for one in outcomes}) == 2


async def test_a_bearer_that_ran_out_or_was_revoked_is_renewed(bench: Bench) -> None:
    provider = bench.provider()
    assert (await provider.send(push())).verdict is Verdict.ACCEPTED
    await bench.control("revoke", what="access_tokens")
    assert (await provider.send(push())).verdict is Verdict.ACCEPTED
    bench.now[0] += 3601
    assert (await provider.send(push())).verdict is Verdict.ACCEPTED
    await bench.control("revoke")
    refused = await provider.send(push())
    assert (refused.verdict, refused.scope, refused.vendor_code) == (*CONFIG, "1101.20003")


@pytest.mark.parametrize(
    ("word", "verdict"),
    [("throttled", Verdict.RETRY), ("unavailable", Verdict.RETRY), ("revoked", Verdict.MISCONFIGURED)],
)
async def test_a_login_that_fails_sends_nothing(bench: Bench, word: str, verdict: Verdict) -> None:
    await bench.control("faults", on="token", fault=word)
    outcome = await bench.provider().send(push())
    assert (outcome.verdict, outcome.scope, outcome.maybe_sent) == (verdict, Scope.ACCOUNT, False)
    assert await bench.phone("t1") == {}


async def test_what_is_too_large_is_measured_alike(bench: Bench) -> None:
    await bench.measures_alike()


async def test_the_project_s_own_address_works_and_another_app_s_does_not(bench: Bench) -> None:
    assert (await bench.provider(project_id="737518067794").send(push())).verdict is Verdict.ACCEPTED
    assert (await bench.provider(project_id="1").send(push())).vendor_code == "80300002"


async def test_without_a_category_all_is_marketing_and_swallowed_after_two(bench: Bench) -> None:
    bare = {name: value for name, value in bench.settings.items() if name != "category"}
    provider = build(HuaweiProvider, bare, transport=bench.transport, now=lambda: NOW)
    outcomes = [(await provider.send(push(id=f"m-{n}"))).verdict for n in range(4)]
    assert outcomes == [Verdict.ACCEPTED] * 4
    assert (await bench.phone("t1"))["count"] == 2


async def test_the_older_address_of_the_login_works_too(bench: Bench) -> None:
    older = f"{bench.sandbox.url}/huawei/oauth2/v2/token"
    assert (await bench.provider(token_url=older).send(push())).verdict is Verdict.ACCEPTED


async def test_checking_only_delivers_nothing(bench: Bench) -> None:
    assert (await bench.provider(validate_only=True).send(push())).verdict is Verdict.ACCEPTED
    assert await bench.phone("t1") == {}


async def test_a_wake_up_without_the_right_to_it_comes_as_a_normal_one(bench: Bench) -> None:
    provider = bench.provider(urgency_high=True)
    assert (await provider.send(push(title=None, body=None))).verdict is Verdict.ACCEPTED
    outcomes = await provider.send_many([push(token, title=None, body=None, id="m-2") for token in ("t1", "t2")])
    assert {one.verdict for one in outcomes} == {Verdict.ACCEPTED}
    assert [one["priority"] for one in (await bench.phone("t1"))["received"]] == ["NORMAL", "NORMAL"]
    claimed = push(title=None, body=None, overrides={"android": {"urgency": "HIGH"}})
    refused = await bench.provider().send(claimed)
    assert (refused.verdict, refused.scope, refused.vendor_code) == (*REFUSED, "80300011")


SHOWN = {"title": "a", "body": "b", "click_action": {"type": 3}}


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({}, "80300010"),
        ({"mesage": {"token": ["t"]}}, "80300010"),
        ({"message": {"token": []}}, "80300010"),
        ({"message": {"token": ["t"] * 1001}}, "80300010"),
        ({"message": {"token": ["t"], "topic": "x"}}, "80100003"),
        ({"message": {"token": ["t"]}}, "80100003"),
        ({"message": {"token": ["t"], "data": {"k": "v"}}}, "80100003"),
        ({"message": {"token": ["t"], "data": "x", "android": {"ttl": 60}}}, "80100003"),
        ({"message": {"token": ["t"], "data": "x", "android": {"ttl": "0s"}}}, "80100004"),
        ({"message": {"token": ["t"], "data": "x", "android": {"collapse_key": 101}}}, "80100013"),
        ({"message": {"token": ["t"], "android": {"notification": {"title": "a", "body": "b"}}}}, "80100003"),
        ({"message": {"token": ["t"], "data": "x" * 5000}}, "80300008"),
        ({"message": {"token": ["unregistered-1"] * 2, "data": "x"}}, "80300007"),
        ({"message": {"token": ["unregistered-1", "t"], "data": "x"}}, "80100000"),
        *(
            ({"message": {"token": ["t"], "android": {"notification": SHOWN | {"when": when}}}}, code)
            for when, code in (
                ("2026-05-03T09:12:44.5Z", "80000000"),
                ("2026-05-03T09:12:44+02:00", "80100001"),
                ("2026-02-31T09:12:44Z", "80100001"),
            )
        ),
        *(
            ({"message": {"token": ["t"], "android": {"notification": SHOWN | {"multi_lang_key": said}}}}, code)
            for said, code in (
                ({"k": {"en": "a", "zh": "b", "fr": "c"}}, "80000000"),
                ({"k": {"en": "a", "zh": "b", "fr": "c", "de": "d"}}, "80100003"),
                ({"k": "a"}, "80100003"),
            )
        ),
    ],
)
async def test_the_emulator_checks_what_the_vendor_checks(bench: Bench, message: Any, code: str) -> None:
    provider = bench.provider()
    bearer = (await provider.credential()).value
    async with aiohttp.ClientSession() as http:
        url = f"{bench.sandbox.url}/huawei/v1/100000001/messages:send"
        headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
        async with http.post(url, data=json.dumps(message), headers=headers) as answer:
            assert (await answer.json())["code"] == code
