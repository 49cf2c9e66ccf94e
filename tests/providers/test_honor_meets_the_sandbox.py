"""Honor's adapter against its emulator, over a real socket. Both were written from the sheet; neither knows the other."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from family_bench import CONFIG, DEAD, NOW, REFUSED, RETRY, SLOWER, Bench, bench_of, push

from providers.contract import Scope, Verdict
from providers.honor import HonorProvider
from providers.sandbox.faults import Place
from providers.sandbox.honor import HonorEmulator, answer_to

# Sheet §4, row by row, by the emulator's word for it; and what a network can do besides.
SHEET: dict[str, tuple[Verdict, Scope]] = {
    **dict.fromkeys(("badparam", "badstructure", "toomany"), REFUSED),
    **dict.fromkeys(("partly", "unlisted", "unknowncode", "internal"), RETRY),
    **dict.fromkeys(("ill", "unavailable", "gateway", "reset", "cut", "garbage"), RETRY),
    **dict.fromkeys(("oauth", "throttled"), SLOWER),
    # A fresh bearer is refused, too.
    **dict.fromkeys(("autherror", "expired", "revoked"), CONFIG),
    **dict.fromkeys(("noapp", "notfound"), CONFIG),
    **dict.fromkeys(("unregistered", "alldead"), DEAD),
    "failed": (Verdict.RETRY, Scope.TOKEN),
    "toobig": (Verdict.TOO_LARGE, Scope.MESSAGE),
    "slow": (Verdict.ACCEPTED, Scope.MESSAGE),
    "uninstalled": (Verdict.ACCEPTED, Scope.MESSAGE),
}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with bench_of(HonorProvider) as one:
        yield one


async def test_a_message_arrives_as_it_was_meant(bench: Bench) -> None:
    full = push(
        badge=3,
        thread="c1",
        image="https://a.example/i.png",
        click="shop://orders/1",
        data={"k": "v"},
        relay={"v": 1},
        collapse_key="c",
    )
    outcome = await bench.provider(badge_class="a.b.C").send(full)
    assert outcome.verdict is Verdict.ACCEPTED
    (delivery,) = (await bench.phone("t1"))["shown"]
    assert (delivery["title"], delivery["body"], delivery["badge"]) == ("Ann", "hi", 3)
    assert (delivery["channel"], delivery["ttl"], delivery["name"]) == ("NORMAL", "86400s", outcome.vendor_id)
    assert delivery["data"] == {
        "relay_id": "m-1",
        "relay": '{"v":1}',
        "click": "shop://orders/1",
        "thread": "c1",
        "k": "v",
    }


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


async def test_each_answer_of_the_vendor_means_what_the_sheet_says(bench: Bench) -> None:
    found, unsure = await bench.answers(SHEET)
    assert found == SHEET
    assert unsure == {"reset", "cut", "garbage", "partly", "unlisted", "unknowncode"}


def test_no_fault_of_the_emulator_is_left_out() -> None:
    assert set(SHEET) == set(HonorEmulator.known_faults[Place.SEND])


async def test_expired_and_failed_tokens_of_many_are_named_and_the_others_have_it(bench: Bench) -> None:
    tokens = ["t1", "unregistered-1", "t2", "failed-1"]
    outcomes = await bench.provider().send_many([push(token) for token in tokens])
    assert [one.verdict for one in outcomes] == [
        Verdict.ACCEPTED,
        Verdict.TOKEN_DEAD,
        Verdict.ACCEPTED,
        Verdict.RETRY,
    ]
    assert [(await bench.phone(token)).get("count", 0) for token in tokens] == [1, 0, 1, 0]


async def test_data_alone_arrives_whatever_its_overrides_say_of_what_is_shown(bench: Bench) -> None:
    """A notification without title and click action is refused."""
    quiet = {"android": {"notification": {"importance": "LOW"}}}
    outcome = await bench.provider().send(push(title=None, body=None, data={"k": "v"}, overrides=quiet))
    assert outcome.verdict is Verdict.ACCEPTED
    assert [one["data"]["k"] for one in (await bench.phone("t1"))["received"]] == ["v"]


async def test_data_alone_is_shown_where_its_overrides_say_all_that_takes(bench: Bench) -> None:
    whole = {"title": "Ann", "body": "hi", "clickAction": {"type": 3}}
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
    assert (refused.verdict, refused.scope, refused.vendor_code) == (*CONFIG, "invalid_client")


async def test_a_login_without_a_word_on_its_life_is_good_for_an_hour(bench: Bench) -> None:
    await bench.control("faults", on="token", fault="lifeless")
    assert (await bench.provider().send(push())).verdict is Verdict.ACCEPTED


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


async def test_marketing_is_swallowed_after_two(bench: Bench) -> None:
    provider = bench.provider(importances={"ads": "LOW"})
    outcomes = [(await provider.send(push(id=f"m-{n}", channel="ads"))).verdict for n in range(4)]
    assert outcomes == [Verdict.ACCEPTED] * 4
    assert (await bench.phone("t1"))["count"] == 2


async def test_the_older_address_of_the_login_works_too(bench: Bench) -> None:
    older = f"{bench.sandbox.url}/honor/auth/realms/developer/protocol/openid-connect/token"
    assert (await bench.provider(token_url=older).send(push())).verdict is Verdict.ACCEPTED


SHOWN = {"title": "a", "body": "b", "clickAction": {"type": 3}}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"token": ["t"], "android": {"notification": SHOWN}}, 200),
        ({"message": {"token": ["t"], "data": "x"}}, 80100003),
        ({"data": "x"}, 80100001),
        ({"data": "x", "token": []}, 80100001),
        ({"data": "x", "token": ["t"] * 1001}, 80300010),
        ({"data": "x" * 5000, "token": ["t"]}, 80300008),
        ({"token": ["t"]}, 80100003),
        ({"data": "x", "token": ["t"], "android": {"ttl": 60}}, 80100003),
        ({"data": "x", "token": ["t"], "android": {"ttl": "1296001s"}}, 80100001),
        ({"data": "x", "token": ["t"], "android": {"bi_tag": "x"}}, 80100003),
        *(
            ({"token": ["t"], "android": {"notification": SHOWN | more}}, code)
            for more, code in (
                ({"clickAction": None}, 80100003),
                ({"clickAction": {"type": 2, "url": "http://a.example"}}, 80100003),
                ({"clickAction": {"type": 1}}, 80100003),
                ({"bigBody": "other"}, 80100001),
                ({"importance": "HIGH"}, 80100001),
                ({"when": "2026-05-03T09:12:44+08:00"}, 200),
                ({"when": "2026-02-31T09:12:44Z"}, 80100001),
                ({"badge": {"setNum": 100}}, 80100001),
                ({"channel_id": "x"}, 80100003),
            )
        ),
    ],
)
async def test_the_emulator_checks_what_the_vendor_checks(bench: Bench, body: Any, code: int) -> None:
    assert await _answer(bench, body, {"timestamp": str(int(NOW * 1000))}) == code


@pytest.mark.parametrize(("tokens", "sent"), [(["a", "a"], False), (["a", "b", "a"], True), (["b"], True)])
def test_a_call_was_sent_if_any_device_has_it_however_often_one_is_named(tokens: list[str], sent: bool) -> None:
    failed = {"a": "unregistered"} if "a" in tokens else {}
    assert json.loads(answer_to(tokens, failed, "1").body)["data"]["sendResult"] is sent


@pytest.mark.parametrize("stamp", [{}, {"timestamp": "1"}, {"timestamp": "soon"}, {"timestamp": "²"}])
async def test_without_the_time_it_looks_like_a_bad_credential(bench: Bench, stamp: dict[str, str]) -> None:
    assert await _answer(bench, {"data": "x", "token": ["t"]}, stamp) == 80200001


async def _answer(bench: Bench, body: Any, stamp: dict[str, str]) -> Any:
    bearer = (await bench.provider().credential()).value
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json", **stamp}
    url = f"{bench.sandbox.url}/honor/api/v1/900000001/sendMessage"
    async with aiohttp.ClientSession() as http, http.post(url, data=json.dumps(body), headers=headers) as answer:
        return (await answer.json())["code"]
