"""The HarmonyOS adapter against its emulator, over a real socket. Both were written from the sheet; neither knows the other."""

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from family_bench import CONFIG, DEAD, NOW, REFUSED, RETRY, SLOWER, Bench, bench_of, push

from providers.contract import Scope, Verdict
from providers.harmony import HarmonyProvider
from providers.sandbox import Sandbox
from providers.sandbox.faults import Place
from providers.sandbox.harmony import HarmonyEmulator

AUDIENCE = "https://oauth-login.cloud.huawei.com/oauth2/v3/token"
KEPT = (Verdict.MISCONFIGURED, Scope.TOKEN)

# Sheet §5, both tables row by row, by the emulator's word for it; and what a network can do besides.
SHEET: dict[str, tuple[Verdict, Scope]] = {
    **dict.fromkeys(("badparam", "badstructure", "badttl", "unverified", "toomany", "testtokens"), REFUSED),
    **dict.fromkeys(("unsubscribed", "otherimage"), REFUSED),
    **dict.fromkeys(
        ("internal", "internalold", "unavailable", "gateway", "unlisted", "reset", "cut", "garbage"), RETRY
    ),
    **dict.fromkeys(("testrate", "throttled"), SLOWER),
    # A bearer that was signed anew is refused, too.
    **dict.fromkeys(("autherror", "expired", "revoked"), CONFIG),
    **dict.fromkeys(("noapp", "longjwt", "penalty", "fingerprint", "notfound", "banned", "appinfo"), CONFIG),
    **dict.fromkeys(("unregistered", "otherplatform"), DEAD),
    **dict.fromkeys(("noright", "nopushtype", "novoice", "nolive", "allunlisted"), KEPT),
    "country": (Verdict.REFUSED, Scope.TOKEN),
    "toobig": (Verdict.TOO_LARGE, Scope.MESSAGE),
    "slow": (Verdict.ACCEPTED, Scope.MESSAGE),
    "uninstalled": (Verdict.ACCEPTED, Scope.MESSAGE),
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One key for all: making one takes a while."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
async def bench(keys: Path) -> AsyncIterator[Bench]:
    async with bench_of(HarmonyProvider, state_dir=keys) as one:
        yield one


async def test_a_message_arrives_as_it_was_meant(bench: Bench) -> None:
    full = push(badge=3, sound="bell.mp3", click="shop://orders/1", data={"k": "v"}, relay={"v": 1}, collapse_key="c")
    outcome = await bench.provider().send(full)
    assert outcome.verdict is Verdict.ACCEPTED
    (delivery,) = (await bench.phone("t1"))["shown"]
    assert (delivery["title"], delivery["body"], delivery["badge"]) == ("Ann", "hi", 3)
    assert (delivery["sound"], delivery["channel"], delivery["ttl"]) == ("bell.mp3", "IM", "86400")
    assert delivery["data"] == {"relay_id": "m-1", "relay": '{"v":1}', "click": "shop://orders/1", "k": "v"}
    assert delivery["name"] == outcome.vendor_id


async def test_a_wake_up_shows_nothing(bench: Bench) -> None:
    assert (await bench.provider().send(push(title=None, body=None, relay={"v": 1}))).verdict is Verdict.ACCEPTED
    phone = await bench.phone("t1")
    assert (phone["shown"], phone["count"]) == ([], 1)
    assert phone["received"][0]["data"]["relay"] == '{"v":1}'


async def test_wake_ups_of_an_instant_messenger_come_twice_an_hour(bench: Bench) -> None:
    provider = bench.provider(background_im=True)
    for number in range(3):
        await provider.send(push(id=f"m-{number}", title=None, body=None))
    assert (await bench.phone("t1"))["count"] == 2


async def test_a_repeat_is_shown_once_and_a_summary_that_grew_takes_its_place(bench: Bench) -> None:
    provider = bench.provider()
    summary = push(id="s1", collapse_key="s1", body="2 new messages", relay={"n": 2})
    for _ in range(2):
        await provider.send(summary)
    assert (await bench.phone("t1"))["count"] == 1
    await provider.send(push(id="s1", collapse_key="s1", body="3 new messages", relay={"n": 3}))
    phone = await bench.phone("t1")
    assert [one["body"] for one in phone["shown"]] == ["3 new messages"]
    assert phone["count"] == 2
    bench.now[0] += 3600
    await provider.send(push(id="s1", collapse_key="s1", body="3 new messages", relay={"n": 3}))  # a reminder
    assert (await bench.phone("t1"))["count"] == 3


async def test_each_answer_of_the_vendor_means_what_the_sheet_says(bench: Bench) -> None:
    found, unsure = await bench.answers(SHEET)
    assert found == SHEET
    assert unsure == {"reset", "cut", "garbage", "unlisted"}


def test_no_fault_of_the_emulator_is_left_out() -> None:
    assert set(SHEET) == set(HarmonyEmulator.known_faults[Place.SEND])


async def test_each_refused_token_of_many_has_its_reason_and_the_others_have_it(bench: Bench) -> None:
    tokens = ["t1", "unregistered-1", "t2", "noright-1", "country-1"]
    outcomes = await bench.provider().send_many([push(token) for token in tokens])
    assert [one.verdict for one in outcomes] == [
        Verdict.ACCEPTED,
        Verdict.TOKEN_DEAD,
        Verdict.ACCEPTED,
        Verdict.MISCONFIGURED,
        Verdict.REFUSED,
    ]
    assert [(await bench.phone(token)).get("count", 0) for token in tokens] == [1, 0, 1, 0, 0]


async def test_a_thousand_go_in_one_call_and_tests_by_ten(bench: Bench) -> None:
    outcomes = await bench.provider().send_many([push(f"{n:060d}") for n in range(1001)])
    assert {one.verdict for one in outcomes} == {Verdict.ACCEPTED}
    assert len({one.vendor_id for one in outcomes}) == 2
    tests = await bench.provider(test=True).send_many([push(f"{n:060d}", id="m-2") for n in range(25)])
    assert {one.verdict for one in tests} == {Verdict.ACCEPTED}
    assert len({one.vendor_id for one in tests}) == 3


async def test_a_push_that_an_override_makes_a_test_reaches_more_than_ten(bench: Bench) -> None:
    """Sheet §4, testMessage, and §5, 80300030."""
    overrides = {"pushOptions": {"testMessage": True}}
    outcomes = await bench.provider().send_many([push(f"t{n}", overrides=overrides) for n in range(25)])
    assert {one.verdict for one in outcomes} == {Verdict.ACCEPTED}


async def test_a_bearer_is_renewed_in_time_and_refused_once_the_key_is_gone(bench: Bench) -> None:
    provider = bench.provider()
    for hours in range(3):
        bench.now[0] = NOW + hours * 3599
        assert (await provider.send(push())).verdict is Verdict.ACCEPTED
    await bench.control("revoke")
    refused = await provider.send(push())
    assert (refused.verdict, refused.scope, refused.vendor_code) == (*CONFIG, "80200001")


async def test_what_is_too_large_is_measured_alike(bench: Bench) -> None:
    await bench.measures_alike()


async def test_beyond_its_rights_all_is_marketing_and_swallowed_after_two(bench: Bench) -> None:
    provider = bench.provider(category="EXPRESS")
    outcomes = [(await provider.send(push(id=f"m-{n}"))).verdict for n in range(4)]
    assert outcomes == [Verdict.ACCEPTED] * 4
    assert (await bench.phone("t1"))["count"] == 2


async def test_an_image_that_nobody_verified_is_left_out_and_the_text_arrives(bench: Bench) -> None:
    """Sheet §5, 80100022: verify, or resend without image."""
    overrides = {"payload": {"notification": {"image": "https://a.example/i.png", "category": "WORK"}}}
    outcome = await bench.provider().send(push(body="the text", overrides=overrides))
    assert (outcome.verdict, outcome.vendor_code) == (Verdict.ACCEPTED, "image_80100022")
    (shown,) = (await bench.phone("t1"))["shown"]
    assert (shown["body"], shown["channel"]) == ("the text", "WORK")
    two = [push(token, overrides=overrides) for token in ("t2", "t3")]
    assert {one.vendor_code for one in await bench.provider().send_many(two)} == {"image_80100022"}


@pytest.mark.parametrize(
    ("head", "claims", "code"),
    [
        ({}, {}, "80000000"),
        ({"kid": "other"}, {}, "80200001"),
        ({"alg": "RS256"}, {}, "80200001"),
        ({}, {"iss": "other"}, "80200001"),
        ({}, {"aud": "other"}, "80200001"),
        ({}, {"iat": int(NOW) + 301}, "80200001"),
        ({}, {"exp": int(NOW)}, "80200005"),
        ({}, {"iat": int(NOW) - 10, "exp": int(NOW) + 86_391}, "80300036"),
    ],
)
async def test_the_emulator_looks_at_the_bearer_as_the_vendor_does(
    bench: Bench, head: dict[str, Any], claims: dict[str, Any], code: str
) -> None:
    account = bench.settings["service_account"]
    said = {"iss": account["sub_account"], "aud": AUDIENCE, "iat": int(NOW), "exp": int(NOW) + 3600} | claims
    headers = {"kid": account["key_id"]} | head
    bearer = jwt.encode(said, account["private_key"], algorithm=head.get("alg", "PS256"), headers=headers)
    assert await _answer(bench, bearer, GOOD) == code


async def _answer(bench: Bench, bearer: str, body: Any, push_type: str = "0") -> Any:
    url = f"{bench.sandbox.url}/harmony/v3/{bench.settings['service_account']['project_id']}/messages:send"
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json", "push-type": push_type}
    async with aiohttp.ClientSession() as http, http.post(url, data=json.dumps(body), headers=headers) as answer:
        return (await answer.json())["code"]


SHOWN = {"category": "IM", "title": "a", "body": "b", "clickAction": {"actionType": 0}}
TARGET = {"token": ["t"]}
GOOD = {"payload": {"notification": SHOWN}, "target": TARGET}


@pytest.mark.parametrize(
    ("body", "push_type", "code"),
    [
        ({}, "0", "80300010"),
        ({"payload": {"notification": SHOWN}, "target": {"token": []}}, "0", "80300010"),
        ({"payload": {"notification": SHOWN}, "target": {"token": ["t"] * 1001}}, "0", "80300010"),
        (GOOD | {"message": {}}, "0", "80100003"),
        (GOOD, "99", "80100003"),
        (GOOD, "6", "80100003"),
        (GOOD, "10", "80300007"),
        (GOOD | {"target": {"token": ["unregistered-1"] * 2}}, "0", "80300007"),
        (GOOD | {"target": {"token": ["unregistered-1", "t"]}}, "0", "80100000"),
        (GOOD | {"pushOptions": {"ttl": "60s"}}, "0", "80100001"),
        (GOOD | {"pushOptions": {"biTag": "x" * 65}}, "0", "80100001"),
        (GOOD | {"pushOptions": {"backgroundMode": 1}}, "0", "80100001"),
        (GOOD | {"pushOptions": {"testMessage": True}, "target": {"token": ["t"] * 11}}, "0", "80300030"),
        ({"payload": {"extraData": "x"}, "target": TARGET, "pushOptions": {"collapseKey": 1}}, "6", "80100001"),
        *(
            ({"payload": {"notification": SHOWN | more}, "target": TARGET}, "0", code)
            for more, code in (
                ({"clickAction": {"actionType": 1}}, "80100003"),
                ({"appMessageId": "a.b"}, "80100001"),
                ({"notifyId": -2}, "80100001"),
                ({"badge": {"setNum": 100}}, "80100001"),
                ({"soundDuration": 5}, "80100001"),
                ({"channel_id": "x"}, "80100003"),
                ({"body": "x" * 5000}, "80300008"),
            )
        ),
        *(
            (
                {
                    "payload": {"notification": {name: SHOWN[name] for name in SHOWN if name != missing}},
                    "target": TARGET,
                },
                "0",
                "80100003",
            )
            for missing in SHOWN
        ),
    ],
)
async def test_the_emulator_checks_what_the_vendor_checks(bench: Bench, body: Any, push_type: str, code: str) -> None:
    bearer = (await bench.provider().credential()).value
    assert await _answer(bench, bearer, body, push_type) == code


async def test_the_account_outlives_the_sandbox_and_a_spoilt_one_is_named(tmp_path: Path) -> None:
    made = [Sandbox(now=lambda: NOW, rng=random.Random(n), vendors=("harmony",), state_dir=tmp_path) for n in range(3)]
    settings = []
    for sandbox in made[:2]:
        await sandbox.start()
        settings.append(sandbox.account_settings("harmony")["settings"]["service_account"])
        assert "service_account_file" in sandbox.account_toml("phones", "harmony")
        await sandbox.stop()
    assert settings[0] == settings[1]
    (tmp_path / "harmony-service-account.json").write_text("{}")
    with pytest.raises(ValueError, match="delete it"):
        await made[2].start()
