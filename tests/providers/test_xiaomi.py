"""Xiaomi: the contract, the whole error table, the mapping, the settings."""

import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import pytest

from providers.contract import AddressInvalid, Outcome, Push, Scope, Verdict
from providers.http import Request, Response
from providers.loading import SettingsInvalid, build, configured
from providers.testing import NOW_S, ProviderContract, Scripted
from providers.xiaomi import XiaomiProvider

SETTINGS: dict[str, Any] = {
    "package": "org.example.chat",
    "app_secret": "s3cr3t-xiaomi-value",
    "channels": {"default": "100001", "chat": "100002"},
}


def answer(code: Any, *, status: int = 200, **data: Any) -> Response:
    result = "ok" if code == 0 else "error"
    body = {"result": result, "code": code, "description": "d", "info": "", "reason": "", "trace_id": "X", "data": data}
    return Response(status=status, body=json.dumps(body).encode())


OK = answer(0, id="scm55001764000000000xy", day_quota="", channel_exceed_quota="")


class TestXiaomiContract(ProviderContract):
    provider = XiaomiProvider
    settings = SETTINGS
    token = "d//igwEhgBGCI2TG6lWqlKn0"
    answers = {  # noqa: RUF012
        "ok": (OK, Verdict.ACCEPTED),
        "gone": (answer(10029), Verdict.TOKEN_DEAD),
        "long": (answer(65009), Verdict.TOO_LARGE),
        "blank": (answer(10017), Verdict.REFUSED),
        "secret": (answer(21301), Verdict.MISCONFIGURED),
        "busy": (answer(10002), Verdict.RETRY),
    }
    one_dead = ("d//igwEhgBGCI2TG6lWqlKn9", answer(0, id="scm1", bad_regids="d//igwEhgBGCI2TG6lWqlKn9,other"))

    def repeat_key(self, request: Request) -> str:
        return form_of(request)["extra.jobkey"]


def made(transport: Any = None, **settings: Any) -> XiaomiProvider:
    call = transport or Scripted(lambda _: OK)
    provider = build(XiaomiProvider, {**SETTINGS, **settings}, transport=call, now=lambda: NOW_S)
    assert isinstance(provider, XiaomiProvider)
    return provider


RETRY, DEAD, REFUSED, TOO_LARGE = Verdict.RETRY, Verdict.TOKEN_DEAD, Verdict.REFUSED, Verdict.TOO_LARGE
MISCONFIGURED, MESSAGE, TOKEN, WHOLE = Verdict.MISCONFIGURED, Scope.MESSAGE, Scope.TOKEN, Scope.ACCOUNT
# Sheet §5, row by row: codes, then what they mean, for how much, when to try again.
TABLE: list[tuple[tuple[int, ...], Verdict, Scope, float | None]] = [
    ((-1, 1, 10001, 10003, 20607, 26003, 65029), RETRY, MESSAGE, None),
    ((10002,), RETRY, WHOLE, 60),
    ((10008, 10016, 10017, 21305, 65011), REFUSED, MESSAGE, None),
    ((10012,), MISCONFIGURED, WHOLE, None),
    ((10027,), RETRY, WHOLE, 60),
    ((10029,), DEAD, TOKEN, None),
    ((10030, 10032, 10033, 10035, 10038, 10039), RETRY, WHOLE, 60),
    ((10031,), MISCONFIGURED, WHOLE, None),
    ((10034,), RETRY, WHOLE, 3600),
    ((10036,), MISCONFIGURED, WHOLE, None),
    ((10037,), RETRY, MESSAGE, None),
    ((20209, 65010, 65013, 65035), REFUSED, MESSAGE, None),
    ((20215, 20216), RETRY, MESSAGE, None),
    ((20301, 22102), RETRY, MESSAGE, None),
    ((20315,), RETRY, MESSAGE, None),
    ((21301, 21302), MISCONFIGURED, WHOLE, None),
    ((21303,), MISCONFIGURED, WHOLE, None),
    ((22000, 22006, 22007, 22022), MISCONFIGURED, WHOLE, None),
    ((26004,), RETRY, WHOLE, 60),
    ((26005, 65006), RETRY, WHOLE, 60),
    ((26006,), MISCONFIGURED, WHOLE, None),
    ((27001,), MISCONFIGURED, MESSAGE, None),
    ((65003,), RETRY, TOKEN, None),
    ((65007, 65008, 65012), REFUSED, MESSAGE, None),
    ((65009,), TOO_LARGE, MESSAGE, None),
    ((65014, 65015), REFUSED, MESSAGE, None),
    ((65016, 65017), REFUSED, MESSAGE, None),
    ((65028,), RETRY, MESSAGE, None),
    ((65030,), REFUSED, MESSAGE, None),
    ((65036, 65037, 65038), MISCONFIGURED, WHOLE, None),
    ((65040, 65041), RETRY, MESSAGE, None),
    ((66105,), DEAD, TOKEN, None),
    ((66108,), RETRY, MESSAGE, 3600),
    ((200001,), RETRY, MESSAGE, 3600),
    ((424242,), RETRY, MESSAGE, None),
]


@pytest.mark.parametrize(("codes", "verdict", "scope", "wait_s"), TABLE)
def test_the_error_table(codes: tuple[int, ...], verdict: Verdict, scope: Scope, wait_s: float | None) -> None:
    for code in codes:
        for said in (code, str(code)):
            outcome = made().decode(answer(said))
            assert (outcome.verdict, outcome.scope, outcome.retry_after_s) == (verdict, scope, wait_s)
            assert outcome.vendor_code == str(code)
            assert outcome.spent == (code in {10034, 66108, 200001})
            assert outcome.alert == (code == 10037), "check the clock"
            assert outcome.unknown == (code in {20315, 65028, 65040, 65041, 424242})  # and those of no send


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (Response(status=200), RETRY),
        (Response(status=200, body=b'{"result":"error","code":0}'), RETRY),
        (Response(status=200, body=b'{"result":"ok"}'), RETRY),
        (Response(status=200, body=b'{"result":"ok","code":true}'), RETRY),
        (answer(10029, status=503), RETRY),
        (answer(10029, status=404), MISCONFIGURED),
        (Response(status=401, body=b"<html>"), Verdict.REAUTH),
        (Response(status=413), TOO_LARGE),
    ],
)
def test_what_does_not_look_like_xiaomi_kills_no_token(response: Response, verdict: Verdict) -> None:
    assert made().decode(response).verdict is verdict


@pytest.mark.parametrize(("said", "spent"), [("", False), ("0", False), ("false", False), ("1", True), ("true", True)])
def test_an_ok_that_says_the_quota_is_gone_is_none(said: str, spent: bool) -> None:
    outcome = made().decode(answer(0, id="x", channel_exceed_quota=said))
    assert outcome.verdict is (RETRY if spent else Verdict.ACCEPTED)
    assert outcome.spent is spent


def test_the_answers_id_is_the_vendors() -> None:
    assert made().decode(OK) == Outcome(verdict=Verdict.ACCEPTED, vendor_id="scm55001764000000000xy")


@pytest.mark.parametrize("listed", ["", ",", [], [""], None, "null", "r2", ["r2"]])
async def test_a_list_of_bad_ids_that_does_not_name_it_kills_no_token(listed: Any) -> None:
    scripted = Scripted(lambda _: answer(0, id="scm1", bad_regids=listed))
    assert await made(scripted).send(FULL) == Outcome(verdict=Verdict.ACCEPTED, vendor_id="scm1")


@pytest.mark.parametrize("listed", ["r1", "r2,r1", ["r1"]])
async def test_one_that_names_it_does(listed: Any) -> None:
    scripted = Scripted(lambda _: answer(0, id="scm1", bad_regids=listed))
    assert await made(scripted).send(FULL) == Outcome(verdict=DEAD, scope=TOKEN, vendor_code="bad_regids")


@pytest.mark.parametrize("code", [65036, 65037, 65038])
async def test_a_push_is_worth_more_than_its_receipts(code: int) -> None:
    receipts = {"url": "https://relay.example/v1/receipts/mi", "path_secret": "s3cr3t-path-of-receipts"}

    def refusing(request: Request) -> Response:
        return answer(code) if b"extra.callback=" in request.body else OK

    scripted = Scripted(refusing)
    provider = made(scripted, receipts=receipts)
    for calls in (2, 3):
        outcome = await provider.send(FULL)
        assert outcome == Outcome(
            verdict=Verdict.ACCEPTED,
            scope=Scope.ACCOUNT,
            alert=True,  # sheet §5: FIX
            vendor_id="scm55001764000000000xy",
            vendor_code=f"receipts_{code}",
        )
        assert len(scripted.requests) == calls, "asked for again, although Xiaomi will not have it"
    assert form_of(scripted.requests[1])["title"] == "Ann"


# The mapping, sheet §7.

FULL = Push(
    id="m-1",
    token="r1",
    title="Ann",
    body="hi",
    data={"conv": "c9", "relay": "mine"},
    sound="ring.mp3",
    channel="chat",
    thread="t1",
    ttl_s=3600,
    collapse_key="room-1",
    relay={"v": 1, "ids": ["m-1"]},
)


def form_of(request: Request) -> dict[str, str]:
    fields = parse_qs(request.body.decode(), keep_blank_values=True, strict_parsing=True)
    assert all(len(values) == 1 for values in fields.values())
    return {name: values[0] for name, values in fields.items()}


def form(push: Push, **settings: Any) -> dict[str, str]:
    return form_of(made(**settings).encode(push, "S"))


def test_a_notification_in_xiaomis_words() -> None:
    request = made().encode(FULL, "SECRET")
    assert request.url == "https://api.xmpush.xiaomi.com/v3/message/regid"
    assert request.headers["authorization"] == "key=SECRET"
    fields = form_of(request)
    payload = json.loads(fields.pop("payload"))
    assert payload == {
        "relay_id": "m-1",
        "relay": '{"v":1,"ids":["m-1"]}',
        "thread": "t1",
        "conv": "c9",
        "_relay": "mine",
    }
    assert 0 <= int(fields.pop("notify_id")) < 2**31
    assert fields.pop("extra.jobkey").isascii()
    assert fields == {
        "registration_id": "r1",
        "restricted_package_name": "org.example.chat",
        "pass_through": "0",
        "title": "Ann",
        "description": "hi",
        "notify_type": "-1",
        "time_to_live": "3600000",
        "extra.channel_id": "100002",
        "extra.notify_foreground": "1",
        "extra.notify_effect": "1",
        "extra.sound_uri": "android.resource://org.example.chat/raw/ring",
    }


def test_a_silent_push_passes_through_without_words() -> None:
    fields = form(Push(id="m", token="r", relay={"v": 1}))
    assert fields["pass_through"] == "1"
    assert json.loads(fields["payload"])["relay_id"] == "m"
    assert not {"title", "description", "notify_type", "notify_id"} & set(fields)


def test_or_it_is_shown_where_the_operator_wants_that() -> None:
    fields = form(Push(id="m", token="r", relay={"v": 1}), wake_shown=True)
    assert (fields["pass_through"], fields["notify_type"]) == ("0", "4")
    assert (fields["title"], fields["description"]) == ("新消息", "新消息")


def test_or_where_its_overrides_do() -> None:
    """Sheet §3: a notification has a title and a description."""
    fields = form(Push(id="m", token="r", data={"k": "v"}, overrides={"pass_through": 0}))
    assert (fields["pass_through"], fields["title"], fields["description"]) == ("0", "新消息", "新消息")


@pytest.mark.parametrize(
    ("title", "body", "shown"),
    [
        ("Ann", None, ("Ann", "Ann")),
        (None, "hi", ("hi", "hi")),
        ("", " \n", ("新消息", "新消息")),
        ("t" * 60, "😀" * 200, ("t" * 48 + "…", "😀" * 126 + "…")),
        ("t" * 49, "b" * 127, ("t" * 49, "b" * 127)),
    ],
)
def test_texts_are_neither_blank_nor_long(title: str | None, body: str | None, shown: tuple[str, str]) -> None:
    fields = form(replace(FULL, title=title, body=body))
    assert (fields["title"], fields["description"]) == shown


@pytest.mark.parametrize(
    ("click", "effect"),
    [
        (None, {"extra.notify_effect": "1"}),
        ("OPEN_ROOM", {"extra.notify_effect": "1"}),
        ("chat://room/1", {"extra.notify_effect": "1"}),
        ("https://app.example/x?y=1", {"extra.notify_effect": "3", "extra.web_uri": "https://app.example/x?y=1"}),
        ("intent:#Intent;end", {"extra.notify_effect": "2", "extra.intent_uri": "intent:#Intent;end"}),
    ],
)
def test_a_tap(click: str | None, effect: dict[str, str]) -> None:
    fields = form(replace(FULL, click=click))
    names = ("extra.notify_effect", "extra.web_uri", "extra.intent_uri")
    assert {key: value for key, value in fields.items() if key in names} == effect
    assert json.loads(fields["payload"]).get("click") == click


def test_time_to_live_is_in_milliseconds_and_nought_means_now_or_never() -> None:
    assert form(replace(FULL, ttl_s=9_999_999))["time_to_live"] == "1209600000"
    assert form(replace(FULL, ttl_s=0.0001))["time_to_live"] == "1"
    now = form(replace(FULL, ttl_s=0))
    assert now["extra.only_send_once"] == "1"
    assert "time_to_live" not in now


def test_what_is_not_urgent_makes_no_noise() -> None:
    assert form(replace(FULL, urgent=False))["notify_type"] == "4"


def test_an_unknown_channel_takes_the_default_one() -> None:
    assert form(replace(FULL, channel="news"))["extra.channel_id"] == "100001"
    assert form(replace(FULL, channel=None))["extra.channel_id"] == "100001"


@pytest.mark.parametrize("sound", [None, "default", "Ä", "../x y"])
def test_a_sound_that_is_no_resource_is_left_to_the_channel(sound: str | None) -> None:
    assert "extra.sound_uri" not in form(replace(FULL, sound=sound))


def test_a_newer_notification_replaces_and_only_a_true_repeat_is_hidden() -> None:
    first = form(FULL)
    later = form(replace(FULL, body="2 new messages", relay={"v": 1, "ids": ["m-1", "m-2"]}))
    assert first["notify_id"] == later["notify_id"]
    assert first["extra.jobkey"] != later["extra.jobkey"], "a summary that grew would never be seen"
    assert first["extra.jobkey"] == form(FULL)["extra.jobkey"]
    assert len(first["extra.jobkey"]) <= 20
    assert form(replace(FULL, id="m-2", collapse_key=None))["notify_id"] != first["notify_id"]
    reminder = build(XiaomiProvider, SETTINGS, transport=Scripted(lambda _: OK), now=lambda: NOW_S + 3600)
    assert isinstance(reminder, XiaomiProvider)
    assert form_of(reminder.encode(FULL, "S"))["extra.jobkey"] != first["extra.jobkey"]


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("cn", "api.xmpush.xiaomi.com"),
        ("global", "api.xmpush.global.xiaomi.com"),
        ("ru", "ru-api.xmpush.global.xiaomi.com"),
        ("in", "idmb-api.xmpush.global.xiaomi.com"),
        ("eu", "fr-api.xmpush.global.xiaomi.com"),
        ("sg", "sgp-api.xmpush.global.xiaomi.com"),
    ],
)
def test_each_region_has_its_host(region: str, host: str) -> None:
    assert made(region=region).encode(FULL, "S").url == f"https://{host}/v3/message/regid"


async def test_a_token_with_a_comma_is_two_peoples_and_goes_to_nobody() -> None:
    scripted = Scripted(lambda _: OK)
    pushes = [replace(FULL, token=token) for token in ("r1", "r2,r3", "r4")]
    outcomes = await made(scripted).send_many(pushes)
    assert [one.verdict for one in outcomes] == [Verdict.ACCEPTED, REFUSED, Verdict.ACCEPTED]
    (request,) = scripted.requests
    assert form_of(request)["registration_id"] == "r1,r4"
    with pytest.raises(AddressInvalid):
        made().address("token", "r2,r3")
    assert made().address("token", "r2") == "r2"


async def test_the_operator_may_say_how_many_share_a_call() -> None:
    scripted = Scripted(lambda _: OK)
    await made(scripted, targets_max=3).send_many([replace(FULL, token=f"r{n}") for n in range(7)])
    assert [len(form_of(one)["registration_id"].split(",")) for one in scripted.requests] == [3, 3, 1]


# Overrides.


def test_overrides_lie_over_ours_and_null_takes_away() -> None:
    overrides = {"extra.ticker": "Ann wrote", "notify_id": 7, "extra.jobkey": None}
    assert XiaomiProvider.check_overrides(overrides) == []
    fields = form(replace(FULL, overrides=overrides))
    assert (fields["extra.ticker"], fields["notify_id"]) == ("Ann wrote", "7")
    assert "extra.jobkey" not in fields


@pytest.mark.parametrize(
    "overrides",
    [
        {"registration_id": "other"},
        {"restricted_package_name": "x.y"},
        {"alias": "a"},
        {"title": ""},
        {"title": " \n"},
        {"description": "\u3000"},
        {"title": "t" * 50},
        {"description": "t" * 128},
        {"pass_through": 2},
        {"pass_through": True},
        {"notify_type": -2},
        {"notify_id": 2**31},
        {"time_to_live": 1_209_600_001},
        {"extra.notify_effect": 1},
        {"extra.web_uri": "javascript:x"},
        {"extra.jobkey": "_x"},
        {"extra.jobkey": "x" * 21},
        {"extra.connpt": "4g"},
        {"extra.callback": "https://evil.example"},
        {1: "x"},
    ],
)
async def test_overrides_that_xiaomi_would_refuse_are_refused_here(overrides: dict[Any, Any]) -> None:
    assert XiaomiProvider.check_overrides(overrides)
    scripted = Scripted(lambda _: OK)
    assert (await made(scripted).send(replace(FULL, overrides=overrides))).vendor_code == "overrides_invalid"
    assert not scripted.requests


# The settings.


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"package": "chat"}, "package"),
        ({"package": "org.example.chat,org.other"}, "package"),
        ({"app_secret": "with blank"}, "app_secret"),
        ({"app_secret": ""}, "app_secret"),
        ({"region": "moon"}, "region"),
        ({"channels": {}}, "channels"),
        ({"channels": {"chat": "1"}}, "default"),
        ({"channels": {"default": "a b"}}, "channels.default"),
        ({"targets_max": 1001}, "targets_max"),
        ({"wake_text": " "}, "wake_text"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        configured(XiaomiProvider, {**SETTINGS, **settings})
    assert named in str(caught.value)


def test_another_host_is_for_the_operator_alone() -> None:
    settings = {**SETTINGS, "base_url": "http://127.0.0.1:9/xiaomi"}
    with pytest.raises(SettingsInvalid):
        configured(XiaomiProvider, settings, trusted=False)
    assert (
        made(base_url="http://127.0.0.1:9/xiaomi").encode(FULL, "S").url == "http://127.0.0.1:9/xiaomi/v3/message/regid"
    )
