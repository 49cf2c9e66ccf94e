"""Meizu: the contract, both error tables, the signature, redirects, the mapping, the settings."""

import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import pytest

from providers.contract import AddressInvalid, Push, Scope, Verdict
from providers.http import Request, Response
from providers.loading import SettingsInvalid, build, configured
from providers.meizu import MeizuProvider, signature
from providers.testing import NOW_S, ProviderContract, Scripted

SETTINGS: dict[str, Any] = {
    "app_id": 100000,
    "app_secret": "s3cr3t-meizu-1",
    "classes": {"default": {"private": False}, "chat": {"private": True}},
}
TOKEN = "RA50c6348036344485d01776773577c64740465480a6b"


def answer(code: Any, value: Any = "", *, status: int = 200, **fields: Any) -> Response:
    body = {"code": code, "message": "", "value": value, "redirect": "", "msgId": "NS2026-1", **fields}
    return Response(status=status, body=json.dumps(body).encode())


OK = answer("200", {})


class TestMeizuContract(ProviderContract):
    provider = MeizuProvider
    settings = SETTINGS
    token = TOKEN
    answers = {  # noqa: RUF012
        "ok": (OK, Verdict.ACCEPTED),
        "unregistered": (answer("110002"), Verdict.TOKEN_DEAD),
        "unsubscribed": (answer("200", {"110002": [TOKEN]}), Verdict.TOKEN_DEAD),
        "muted": (answer("200", {"110010": [TOKEN]}), Verdict.REFUSED),
        "parameter": (answer("1005"), Verdict.REFUSED),
        "signature": (answer("1006"), Verdict.MISCONFIGURED),
        "busy": (answer("1003"), Verdict.RETRY),
    }
    one_dead = (f"{TOKEN[:-1]}9", answer("200", {"110003": [f"{TOKEN[:-1]}9"]}))


def made(transport: Any = None, **settings: Any) -> MeizuProvider:
    call = transport or Scripted(lambda _: OK)
    provider = build(MeizuProvider, {**SETTINGS, **settings}, transport=call, now=lambda: NOW_S)
    assert isinstance(provider, MeizuProvider)
    return provider


RETRY, DEAD, REFUSED, ACCEPTED = Verdict.RETRY, Verdict.TOKEN_DEAD, Verdict.REFUSED, Verdict.ACCEPTED
MISCONFIGURED, MESSAGE, TOKEN_ALONE, WHOLE = Verdict.MISCONFIGURED, Scope.MESSAGE, Scope.TOKEN, Scope.ACCOUNT
# Sheet §4, the first table, row by row.
TABLE: list[tuple[tuple[str, ...], Verdict, Scope, float | None]] = [
    (("200",), ACCEPTED, MESSAGE, None),
    (("300",), RETRY, MESSAGE, None),
    (("500", "1001"), RETRY, MESSAGE, None),
    (("1003",), RETRY, WHOLE, 60),
    (("1005",), REFUSED, MESSAGE, None),
    (("1006",), MISCONFIGURED, WHOLE, None),
    (("110000", "110001", "110033", "110031"), MISCONFIGURED, WHOLE, None),
    (("110002",), DEAD, TOKEN_ALONE, None),
    (("110003",), DEAD, TOKEN_ALONE, None),
    (("110004",), REFUSED, MESSAGE, None),
    (("110009",), MISCONFIGURED, WHOLE, None),
    (("110010",), RETRY, WHOLE, 60),
    (("110019",), RETRY, WHOLE, 3600),
    (("110032",), REFUSED, MESSAGE, None),
    (("110051",), RETRY, WHOLE, 3600),
    (("110053",), MISCONFIGURED, MESSAGE, None),
    (("110099", "999"), RETRY, MESSAGE, None),
]
# The second table: codes of devices.
DEVICES: list[tuple[tuple[str, ...], Verdict, Scope, float | None]] = [
    (("201",), MISCONFIGURED, TOKEN_ALONE, None),
    (("501", "513"), RETRY, MESSAGE, None),
    (("519",), RETRY, WHOLE, 60),
    (("520",), RETRY, TOKEN_ALONE, 60),
    (("110002",), DEAD, TOKEN_ALONE, None),
    (("110003",), DEAD, TOKEN_ALONE, None),
    (("110005",), REFUSED, TOKEN_ALONE, None),
    (("110010",), REFUSED, TOKEN_ALONE, None),
    (("110011",), RETRY, TOKEN_ALONE, 3600),
    (("110099",), RETRY, TOKEN_ALONE, None),
]


@pytest.mark.parametrize(("codes", "verdict", "scope", "wait_s"), TABLE)
def test_the_error_table(codes: tuple[str, ...], verdict: Verdict, scope: Scope, wait_s: float | None) -> None:
    for code in codes:
        for said in (code, int(code)):
            outcome = made().decode(answer(said))
            assert (outcome.verdict, outcome.scope, outcome.retry_after_s) == (verdict, scope, wait_s)
            assert outcome.vendor_code == (None if code == "200" else code)
            assert outcome.spent == (code in {"110019", "110051"})
            assert outcome.unknown == (code in {"110099", "999"})


@pytest.mark.parametrize(("codes", "verdict", "scope", "wait_s"), DEVICES)
def test_the_table_of_devices(codes: tuple[str, ...], verdict: Verdict, scope: Scope, wait_s: float | None) -> None:
    for code in codes:
        for value in ({code: [TOKEN]}, {code: TOKEN}, {TOKEN: code}, {TOKEN: int(code)}):
            outcome = made().decode(answer("200", value))
            assert (outcome.verdict, outcome.scope, outcome.retry_after_s) == (verdict, scope, wait_s)
            assert outcome.spent == (code == "110011")
            assert outcome.unknown == (code == "110099")
            other, own = made().decode_many(answer("200", value), [replace(PUSH, token="other"), PUSH])
            assert (other.verdict, own) == (ACCEPTED, outcome)


@pytest.mark.parametrize("value", ["", {}, None, [], 7, {"110002": []}, {"110002": [7, None, ""]}, {"x": "y"}])
def test_a_value_that_names_nobody_is_no_failure(value: Any) -> None:
    assert made().decode(answer("200", value)).verdict is ACCEPTED


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (Response(status=200), RETRY),
        (answer(True), RETRY),
        (answer("110002", status=502), RETRY),
        (answer("110002", status=404), MISCONFIGURED),
        (answer("110002x"), RETRY),
    ],
)
def test_what_does_not_look_like_meizu_kills_no_token(response: Response, verdict: Verdict) -> None:
    assert made().decode(response).verdict is verdict


PUSH = Push(id="m-1", token=TOKEN, title="Ann", body="hi", channel="chat")


def form_of(request: Request) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(request.body.decode(), strict_parsing=True).items()}


def message(push: Push, **settings: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(form_of(made(**settings).encode(push, "s"))["messageJson"])
    return fields


# The signature, sheet §2.


@pytest.mark.parametrize(
    ("form", "secret", "sign"),
    [
        (
            {
                "appId": "10000",
                "messageJson": '{"title":"title","content":"content","pushTimeInfo":{"offLine":1,"validTime":24}}',
                "pushIds": TOKEN,
            },
            "<APP_SECRET>",
            "ac076ff25d9900015a681cb5172aa53b",
        ),
        (
            {"pushIds": "S1,S2", "messageJson": '{"a":1}', "appId": "100000"},
            "secret",
            "6e1531ee7759086daa119b5d9ea608dc",
        ),
    ],
)
def test_the_signature_is_the_sheets_own(form: dict[str, str], secret: str, sign: str) -> None:
    assert signature(form, secret) == sign


def test_what_is_sent_is_what_is_signed() -> None:
    push = replace(PUSH, title="Änn & 安", body="a+b=c%20", data={"é": "\ud800 😀"})
    form = form_of(made().encode(push, "secret"))
    sign = form.pop("sign")
    assert sign == signature(form, "secret")


# Redirects, sheet §4 and §8.


@pytest.mark.parametrize(
    ("url", "followed"),
    [
        ("https://server-api-push.meizu.com/other/push", True),
        ("http://server-api-push.meizu.com/other/push", False),
        ("https://evil.example/push", False),
        ("https://server-api-push.meizu.com@evil.example/push", False),
        ("https://[", False),
        ("", False),
        (7, False),
    ],
)
async def test_a_redirect_is_followed_once_and_to_meizu_alone(url: Any, followed: bool) -> None:
    left = iter([answer("300", redirect=url), OK, OK])
    scripted = Scripted(lambda _: next(left))
    outcome = await made(scripted).send(PUSH)
    assert outcome.verdict is (ACCEPTED if followed else RETRY)
    assert [request.url for request in scripted.requests][1:] == ([url] if followed else [])
    assert len({request.body for request in scripted.requests}) == 1


async def test_a_second_redirect_is_tried_again_later() -> None:
    scripted = Scripted(lambda _: answer("300", redirect="https://server-api-push.meizu.com/x"))
    assert (await made(scripted).send(PUSH)).verdict is RETRY
    assert len(scripted.requests) == 2


# The mapping, sheet §6.


def test_a_chat_message_in_meizus_words() -> None:
    push = replace(PUSH, data={"conv": "c9"}, ttl_s=3600, collapse_key="room", relay={"v": 1})
    request = made().encode(push, "secret")
    assert request.url == "https://server-api-push.meizu.com/garcia/api/server/push/varnished/pushByPushId"
    form = form_of(request)
    assert set(form) == {"appId", "messageJson", "pushIds", "sign"}
    assert (form["appId"], form["pushIds"]) == ("100000", TOKEN)
    said = json.loads(form["messageJson"])
    assert len(said["advanceInfo"].pop("notifyKey")) == 8
    assert said == {
        "noticeBarInfo": {"noticeMsgType": 1, "title": "Ann", "content": "hi"},
        "clickTypeInfo": {
            "clickType": 0,
            "parameters": {"relay_id": "m-1", "relay": '{"v":1}', "conv": "c9"},
        },
        "pushTimeInfo": {"offLine": 1, "validTime": 1},
        "advanceInfo": {"suspend": 1, "notificationType": {"vibrate": 1, "lights": 1, "sound": 1}},
    }


def test_the_class_goes_by_the_channel() -> None:
    assert message(replace(PUSH, channel=None))["noticeBarInfo"]["noticeMsgType"] == 0
    assert message(replace(PUSH, channel="unheard of"))["noticeBarInfo"]["noticeMsgType"] == 0


@pytest.mark.parametrize(
    ("ttl_s", "said"),
    [
        (0, {"offLine": 0}),
        (1, {"offLine": 1, "validTime": 1}),
        (3600, {"offLine": 1, "validTime": 1}),
        (3601, {"offLine": 1, "validTime": 2}),
        (999_999, {"offLine": 1, "validTime": 72}),
    ],
)
def test_time_to_live_is_in_hours(ttl_s: float, said: dict[str, int]) -> None:
    assert message(replace(PUSH, ttl_s=ttl_s))["pushTimeInfo"] == said


def test_what_is_not_urgent_makes_no_noise() -> None:
    said = message(replace(PUSH, urgent=False))["advanceInfo"]
    assert said["suspend"] == 0
    assert said["notificationType"] == {"vibrate": 0, "lights": 1, "sound": 0}


@pytest.mark.parametrize(
    ("click", "said"),
    [
        (None, {"clickType": 0}),
        ("OPEN", {"clickType": 0}),
        ("https://app.example/x", {"clickType": 2, "url": "https://app.example/x"}),
        ("chat://room/1", {"clickType": 2, "url": "chat://room/1"}),
    ],
)
def test_a_tap(click: str | None, said: dict[str, Any]) -> None:
    fields = message(replace(PUSH, click=click))["clickTypeInfo"]
    assert fields.pop("parameters").get("click") == click
    assert fields == said


def test_texts_are_cut_and_never_blank() -> None:
    said = message(replace(PUSH, title="t" * 33, body="b" * 101))["noticeBarInfo"]
    assert (said["title"], said["content"]) == ("t" * 31 + "…", "b" * 99 + "…")
    said = message(replace(PUSH, title="😀" * 17, body="b" * 98 + "😀b"))["noticeBarInfo"]
    assert (said["title"], said["content"]) == ("😀" * 15 + "…", "b" * 98 + "…")
    said = message(replace(PUSH, title=" ", body=None), wake_text="New")["noticeBarInfo"]
    assert (said["title"], said["content"]) == ("New", "New")


def test_a_push_without_words_is_shown_quietly_as_meizu_has_no_silent_ones() -> None:
    said = message(replace(PUSH, title=None, body=None))
    assert (said["noticeBarInfo"]["title"], said["advanceInfo"]["suspend"]) == ("新消息", 0)
    assert MeizuProvider.capabilities.silent is False


def test_the_same_collapse_key_replaces() -> None:
    def key(push: Push) -> str:
        return str(message(push)["advanceInfo"]["notifyKey"])

    assert key(replace(PUSH, id="m-2", collapse_key="c")) == key(replace(PUSH, id="m-3", collapse_key="c"))
    assert key(replace(PUSH, id="m-2")) != key(replace(PUSH, id="m-3"))


async def test_a_push_id_with_a_comma_is_two_and_goes_to_nobody() -> None:
    scripted = Scripted(lambda _: OK)
    outcomes = await made(scripted).send_many([replace(PUSH, token=token) for token in ("a", "b,c", "d")])
    assert [one.verdict for one in outcomes] == [ACCEPTED, REFUSED, ACCEPTED]
    assert [form_of(one)["pushIds"] for one in scripted.requests] == ["a,d"]
    with pytest.raises(AddressInvalid):
        made().address("token", "b,c")
    assert made().address("token", "b") == "b"


# Overrides.

EIGHT, NINE = "2026-12-01 08:00:00", "2026-12-01 09:00:00"


@pytest.mark.parametrize(
    "overrides",
    [
        {"pushIds": "x"},
        {"extra": {"callback": "https://evil.example"}},
        {"noticeBarInfo": {"title": "t" * 33}},
        {"noticeBarInfo": {"title": "😀" * 17}},
        {"noticeBarInfo": {"content": "😀" * 51}},
        {"noticeBarInfo": {"content": ""}},
        {"noticeBarInfo": "x"},
        {"noticeBarInfo": {"noticeMsgType": 2}},
        {"clickTypeInfo": {"clickType": 3}},
        {"noticeExpandInfo": {"noticeExpandType": 1}},
        {"noticeExpandInfo": {"noticeExpandType": 2, "noticeExpandContent": "x"}},
        {"pushTimeInfo": {"validTime": 73}},
        {"advanceInfo": {"notifyKey": "123456789"}},
        {"advanceInfo": {"notificationType": {"sound": True}}},
        {"advanceInfo": {"fixEndDisplayTime ": "2026-01-31 18:00:00"}},
        {"advanceInfo": {"fixStartDisplayTime": "tomorrow"}},
        {"advanceInfo": {"fixStartDisplayTime": "2026-13-01 00:00:00"}},
        {"advanceInfo": {"fixDisplay": 1}},
        {"advanceInfo": {"fixDisplay": 1, "fixStartDisplayTime": EIGHT}},
        {"advanceInfo": {"fixDisplay": 1, "fixStartDisplayTime": NINE, "fixEndDisplayTime": EIGHT}},
        {"vipInfo": {"subtitle": "😀" * 9}},
        {"vipInfo": {"timeTop": 100}},
        {"vipInfo": {"titleColor": "#FFFFFF"}},
    ],
)
def test_overrides_that_meizu_would_refuse(overrides: dict[str, Any]) -> None:
    assert MeizuProvider.check_overrides(overrides)


def test_a_fixed_time_of_display_that_begins_and_ends_is_no_mistake() -> None:
    """Sheet §3."""
    timed = {"fixDisplay": 1, "fixStartDisplayTime": EIGHT, "fixEndDisplayTime": NINE}
    assert MeizuProvider.check_overrides({"advanceInfo": timed}) == []


def test_overrides_lie_over_ours_and_null_takes_away() -> None:
    overrides = {"vipInfo": {"subtitle": "room"}, "advanceInfo": {"notificationType": None, "clearNoticeBar": 0}}
    assert MeizuProvider.check_overrides(overrides) == []
    said = message(replace(PUSH, overrides=overrides))
    assert said["vipInfo"] == {"subtitle": "room"}
    assert said["advanceInfo"]["clearNoticeBar"] == 0
    assert "notificationType" not in said["advanceInfo"]


# The settings.


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"app_id": 0}, "app_id"),
        ({"app_secret": "a b"}, "app_secret"),
        ({"classes": {}}, "classes"),
        ({"classes": {"chat": {"private": True}}}, "default"),
        ({"classes": {"default": {}}}, "private"),
        ({"wake_text": " "}, "wake_text"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        configured(MeizuProvider, {**SETTINGS, **settings})
    assert named in str(caught.value)
    with pytest.raises(SettingsInvalid):
        configured(MeizuProvider, {**SETTINGS, "base_url": "https://other.example"}, trusted=False)
