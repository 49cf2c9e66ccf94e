"""OPPO: the contract, the whole error table, the login, the mapping, the settings."""

import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import pytest

from providers.contract import AddressInvalid, Outcome, Push, Scope, Verdict
from providers.http import Request, Response
from providers.loading import SettingsInvalid, build, configured
from providers.oppo import OppoProvider
from providers.testing import NOW_S, ProviderContract, Scripted

IM = {
    "channel_id": "im",
    "category": "IM",
    "template_id": "tpl-1",
    "title_parameter": "who",
    "body_parameter": "body",
}
SETTINGS: dict[str, Any] = {
    "app_key": "key-1",
    "master_secret": "s3cr3t-master-1",
    "classes": {"default": {"channel_id": "other"}, "chat": IM, "order": {"channel_id": "o", "category": "ORDER"}},
}
TOKEN = "OPPO_CN_a1b2c3d4e5f60000"


def answer(code: Any, data: Any = None, *, status: int = 200, message: str = "said") -> Response:
    return Response(status=status, body=json.dumps({"code": code, "message": message, "data": data}).encode())


OK = answer(0, {"messageId": "5b9a0000"})
LOGIN = answer(0, {"auth_token": "58ad47319e8d725350a5afd5", "create_time": int(NOW_S * 1000)})


class TestOppoContract(ProviderContract):
    provider = OppoProvider
    settings = SETTINGS
    token = TOKEN
    login = LOGIN
    content_per_token = True
    answers = {  # noqa: RUF012
        "ok": (OK, Verdict.ACCEPTED),
        "again": (answer(32), Verdict.ACCEPTED),
        "gone": (answer(10000), Verdict.TOKEN_DEAD),
        "stale": (answer(11), Verdict.REAUTH),
        "missing": (answer(40), Verdict.REFUSED),
        "template": (answer(54), Verdict.MISCONFIGURED),
        "flow": (answer(-2), Verdict.RETRY),
    }
    one_dead = (
        f"{TOKEN[:-1]}9",
        answer(0, [{"registrationId": f"{TOKEN[:-1]}9", "errorCode": 10000, "errorMessage": "invalid"}]),
    )

    def repeat_key(self, request: Request) -> object:
        return json.loads(form_of(request)["message"])["notification"]["app_message_id"]


def made(transport: Any = None, *, now_s: float = NOW_S, **settings: Any) -> OppoProvider:
    call = transport or Scripted(lambda request: LOGIN if request.url.endswith("/auth") else OK)
    provider = build(OppoProvider, {**SETTINGS, **settings}, transport=call, now=lambda: now_s)
    assert isinstance(provider, OppoProvider)
    return provider


RETRY, DEAD, REFUSED, ACCEPTED = Verdict.RETRY, Verdict.TOKEN_DEAD, Verdict.REFUSED, Verdict.ACCEPTED
MISCONFIGURED, REAUTH = Verdict.MISCONFIGURED, Verdict.REAUTH
MESSAGE, TOKEN_ALONE, WHOLE = Scope.MESSAGE, Scope.TOKEN, Scope.ACCOUNT
# Sheet §5, row by row.
TABLE: list[tuple[tuple[int, ...], Verdict, Scope, float | None]] = [
    ((0,), ACCEPTED, MESSAGE, None),
    ((-3,), RETRY, MESSAGE, None),
    ((-2,), RETRY, WHOLE, 60),
    ((-1,), RETRY, MESSAGE, None),
    ((11,), REAUTH, WHOLE, None),
    ((12,), MISCONFIGURED, WHOLE, None),
    ((13,), RETRY, WHOLE, 60),
    ((14, 15), MISCONFIGURED, WHOLE, None),
    ((16, 17), MISCONFIGURED, WHOLE, None),
    ((18, 19), MISCONFIGURED, WHOLE, None),
    ((20, 21, 22, 23, 24), MISCONFIGURED, WHOLE, None),
    ((25,), MISCONFIGURED, WHOLE, None),
    ((26,), MISCONFIGURED, WHOLE, None),
    ((27,), MISCONFIGURED, WHOLE, None),
    ((28,), MISCONFIGURED, WHOLE, None),
    ((29,), REAUTH, WHOLE, None),
    ((30,), MISCONFIGURED, WHOLE, None),
    ((31,), REFUSED, MESSAGE, None),
    ((32,), ACCEPTED, MESSAGE, None),
    ((33,), RETRY, MESSAGE, 3600),
    ((34,), REFUSED, MESSAGE, None),
    ((40,), REFUSED, MESSAGE, None),
    ((41,), REFUSED, MESSAGE, None),
    ((51,), REFUSED, MESSAGE, None),
    ((54,), MISCONFIGURED, MESSAGE, None),
    ((55,), RETRY, WHOLE, 60),
    ((59,), REFUSED, MESSAGE, None),
    ((67,), MISCONFIGURED, MESSAGE, None),
    ((10000,), DEAD, TOKEN_ALONE, None),
    ((10001, 15000, 20000), REFUSED, MESSAGE, None),
    ((20001, 424242, -99), RETRY, MESSAGE, None),
]


@pytest.mark.parametrize(("codes", "verdict", "scope", "wait_s"), TABLE)
def test_the_error_table(codes: tuple[int, ...], verdict: Verdict, scope: Scope, wait_s: float | None) -> None:
    for code in codes:
        outcome = made().decode(answer(code))
        assert (outcome.verdict, outcome.scope, outcome.retry_after_s) == (verdict, scope, wait_s)
        assert outcome.vendor_code == (str(code) if code else None)
        assert outcome.spent == (code == 33)
        assert outcome.unknown == (code in {20001, 424242, -99})


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("Invalid registration_id", DEAD),
        ("registrationId is malformed", DEAD),
        ("Invalid Arguments: title", REFUSED),
        ("", REFUSED),
    ],
)
def test_an_invalid_argument_is_the_token_only_if_the_text_says_so(said: str, verdict: Verdict) -> None:
    assert made().decode(answer(41, message=said)).verdict is verdict


@pytest.mark.parametrize("said", ["Invalid registration_id", "Invalid Arguments"])
@pytest.mark.parametrize("bad", [{"a0"}, {"a0", "a7"}, {"a3", "a4"}])
async def test_a_call_that_a_token_spoils_makes_no_other_token_dead(bad: set[str], said: str) -> None:
    """41 says of a call as a whole that a registration id is malformed, and of that one asked for alone as well."""

    def answers(request: Request) -> Response:
        if request.url.endswith("/auth"):
            return LOGIN
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        messages = json.loads(form.get("messages") or f"[{form['message']}]")
        wrong = bad & {one["target_value"] for one in messages}
        alone = "Invalid registration_id" if len(messages) == 1 else said
        return answer(41, message=alone) if wrong else OK

    pushes = [Push(id="m-1", token=f"a{n}", title="Ann") for n in range(8)]
    outcomes = await made(Scripted(answers)).send_many(pushes)
    assert [one.verdict for one in outcomes] == [DEAD if push.token in bad else ACCEPTED for push in pushes]


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (Response(status=200), RETRY),
        (answer("0"), RETRY),
        (answer(True), RETRY),
        (answer(10000, status=502), RETRY),
        (answer(10000, status=403), MISCONFIGURED),
        (Response(status=413), Verdict.TOO_LARGE),
    ],
)
def test_what_does_not_look_like_oppo_kills_no_token(response: Response, verdict: Verdict) -> None:
    assert made().decode(response).verdict is verdict


# Many at once, sheet §4.

PUSH = Push(id="m-1", token=TOKEN, title="Ann", body="hi", channel="chat")


def tokens_alike(*tokens: str) -> list[Push]:
    return [replace(PUSH, token=token) for token in tokens]


def test_each_item_has_its_own_code() -> None:
    items = [
        {"registrationId": "c", "errorCode": 10000, "errorMessage": "x"},
        {"registrationId": "a", "messageId": "id-a"},
        {"registrationId": "b", "errorCode": "33"},
        {"registrationId": "d", "errorCode": {"odd": 1}},
        {"registrationId": "e", "errorCode": 11},
    ]
    outcomes = made().decode_many(answer(0, items), tokens_alike("a", "b", "c", "d", "e", "f"))
    assert [one.verdict for one in outcomes] == [ACCEPTED, RETRY, DEAD, RETRY, RETRY, ACCEPTED]
    assert outcomes[0].vendor_id == "id-a"


def test_items_without_names_are_in_order() -> None:
    items = [{"messageId": "id-a"}, {"errorCode": 10000}]
    outcomes = made().decode_many(answer(0, items), tokens_alike("a", "b"))
    assert [one.verdict for one in outcomes] == [ACCEPTED, DEAD]
    assert {one.verdict for one in made().decode_many(answer(0, items), tokens_alike("a", "b", "c"))} == {ACCEPTED}


# The login, sheet §2.


async def test_the_signature_is_the_sheets_own() -> None:
    scripted = Scripted(lambda _: LOGIN)
    await made(scripted, master_secret="master-1", now_s=1_700_000_000.0).credential()
    (request,) = scripted.requests
    assert request.url == "https://api-push-cn.heytapmobi.com/server/v1/auth"
    assert form_of(request) == {
        "app_key": "key-1",
        "timestamp": "1700000000000",
        "sign": "043de1c7954c0d173d1958c93c2d1274210ee574cdd168510587c63a9b500401",
    }


@pytest.mark.parametrize(
    ("created_s", "good_for_s"),
    [(0, 20 * 3600), (-10 * 3600, 10 * 3600), (3600, 20 * 3600), (-30 * 3600, 600), (None, 20 * 3600)],
)
async def test_a_token_is_good_for_twenty_hours_of_its_life(created_s: float | None, good_for_s: float) -> None:
    made_ms = None if created_s is None else int((NOW_S + created_s) * 1000)
    login = answer(0, {"auth_token": "t", "create_time": made_ms})
    assert (await made(Scripted(lambda _: login)).credential()).good_until_s == NOW_S + good_for_s


@pytest.mark.parametrize(
    ("response", "verdict", "code", "wait_s"),
    [
        (answer(16), MISCONFIGURED, "login_16", None),
        (answer(19), MISCONFIGURED, "login_19", None),
        (answer(11), MISCONFIGURED, "login_11", None),
        (answer(13), RETRY, "login_13", 60),
        (answer(-1), RETRY, "login_-1", None),
        (answer(0, {}), RETRY, "login_garbled", None),
        (answer(0, {"auth_token": "a b"}), RETRY, "login_garbled", None),
        (answer(0, "x"), RETRY, "login_garbled", None),
    ],
)
async def test_without_a_login_nothing_is_sent(
    response: Response, verdict: Verdict, code: str, wait_s: float | None
) -> None:
    scripted = Scripted(lambda _: response)
    outcome = await made(scripted).send(PUSH)
    assert outcome == Outcome(verdict=verdict, scope=WHOLE, vendor_code=code, retry_after_s=wait_s)
    assert len(scripted.requests) == 1


# The mapping, sheet §7.


def form_of(request: Request) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(request.body.decode(), strict_parsing=True).items()}


def notification(push: Push, **settings: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(form_of(made(**settings).encode(push, "T"))["message"])["notification"]
    return fields


def test_a_chat_message_in_oppos_words() -> None:
    push = replace(PUSH, data={"conv": "c9"}, badge=3, ttl_s=3600, collapse_key="room", relay={"v": 1})
    request = made().encode(push, "TOKEN")
    assert request.url == "https://api-push-cn.heytapmobi.com/server/v1/message/notification/unicast"
    form = form_of(request)
    assert form["auth_token"] == "TOKEN"
    message = json.loads(form["message"])
    said = message.pop("notification")
    assert message == {"target_type": 2, "target_value": TOKEN, "verify_registration_id": True}
    assert json.loads(said.pop("action_parameters")) == {"relay_id": "m-1", "relay": '{"v":1}', "conv": "c9"}
    assert 0 <= said.pop("notify_id") < 2**31
    assert 0 < len(said.pop("app_message_id")) <= 32
    assert said == {
        "style": 1,
        "title": "Ann",
        "content": "hi",
        "click_action_type": 0,
        "off_line": True,
        "off_line_ttl": 3600,
        "channel_id": "im",
        "category": "IM",
        "notify_level": 2,
        "private_msg_template_id": "tpl-1",
        "private_title_parameters": '{"who":"Ann"}',
        "private_content_parameters": '{"body":"hi"}',
        "badge_operation_type": 0,
        "badge_message_count": 3,
    }


def test_a_batch_is_one_message_for_each() -> None:
    form = form_of(made().encode_many(tokens_alike("a", "b"), "T"))
    assert [one["target_value"] for one in json.loads(form["messages"])] == ["a", "b"]


def test_the_level_needs_a_category_and_the_strong_one_a_right() -> None:
    assert notification(replace(PUSH, urgent=False))["notify_level"] == 1
    assert notification(PUSH, strong=True)["notify_level"] == 16
    assert "notify_level" not in notification(replace(PUSH, channel="unheard of"), strong=True)


def test_a_push_without_words_is_shown_quietly_as_oppo_has_no_silent_ones() -> None:
    said = notification(replace(PUSH, title=None, body=None), strong=True, wake_text="New message")
    assert (said["title"], said["content"], said["notify_level"]) == ("New message", "New message", 1)
    assert OppoProvider.capabilities.silent is False


@pytest.mark.parametrize(
    ("body", "style", "content"),
    [("b" * 50, 1, "b" * 50), ("b" * 51, 2, "b" * 51), ("b" * 128, 2, "b" * 128), ("b" * 129, 2, "b" * 127 + "…")],
)
def test_a_longer_text_takes_the_long_style(body: str, style: int, content: str) -> None:
    said = notification(replace(PUSH, body=body))
    assert (said["style"], said["content"]) == (style, content)


@pytest.mark.parametrize(
    ("click", "said"),
    [
        (None, {"click_action_type": 0}),
        ("com.example.OPEN", {"click_action_type": 1, "click_action_activity": "com.example.OPEN"}),
        ("https://app.example/x", {"click_action_type": 2, "click_action_url": "https://app.example/x"}),
        ("intent:#Intent;end", {"click_action_type": 5, "click_action_url": "intent:#Intent;end"}),
        ("chat://room/1", {"click_action_type": 5, "click_action_url": "chat://room/1"}),
        ("https://app.example/" + "x" * 2000, {"click_action_type": 0}),
        ("A" * 501, {"click_action_type": 0}),
    ],
)
def test_a_tap(click: str | None, said: dict[str, Any]) -> None:
    fields = notification(replace(PUSH, click=click))
    assert {key: value for key, value in fields.items() if key.startswith("click_")} == said


def test_a_web_page_learns_nothing_of_what_is_the_apps() -> None:
    assert "action_parameters" not in notification(replace(PUSH, click="https://app.example/x", data={"k": "v"}))
    assert (
        json.loads(notification(replace(PUSH, click="chat://room/1"))["action_parameters"])["click"] == "chat://room/1"
    )


def test_ttl_is_in_seconds_and_nought_means_now_or_never() -> None:
    assert notification(replace(PUSH, ttl_s=9_999_999))["off_line_ttl"] == 864_000
    assert notification(replace(PUSH, ttl_s=0.5))["off_line_ttl"] == 1
    now = notification(replace(PUSH, ttl_s=0))
    assert now["off_line"] is False
    assert "off_line_ttl" not in now


def test_only_a_true_repeat_has_the_same_id() -> None:
    first = notification(PUSH)
    later = notification(replace(PUSH, body="2 new messages"))
    assert first["notify_id"] == later["notify_id"]
    assert first["app_message_id"] != later["app_message_id"], "OPPO would hide the summary that grew"
    assert first["app_message_id"] == notification(PUSH)["app_message_id"]


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "é", "x" * 513])
async def test_a_malformed_token_is_refused_here(token: str) -> None:
    scripted = Scripted(lambda _: LOGIN)
    assert (await made(scripted).send(replace(PUSH, token=token))).vendor_code == "token_malformed"
    assert not scripted.requests
    with pytest.raises(AddressInvalid):
        made().address("token", token)
    assert made().address("token", TOKEN) == TOKEN


# Overrides.


def test_overrides_lie_over_ours_and_null_takes_away() -> None:
    overrides = {"sub_title": "room", "style": 2, "notify_level": None, "action_parameters": '{"a":1}'}
    assert OppoProvider.check_overrides(overrides) == []
    said = notification(replace(PUSH, overrides=overrides))
    assert (said["sub_title"], said["style"], said["action_parameters"]) == ("room", 2, '{"a":1}')
    assert "notify_level" not in said


@pytest.mark.parametrize(
    ("overrides", "style", "chars"),
    [
        ({"content": "c" * 100}, 2, 100),
        ({"content": "c" * 50}, 1, 50),
        ({"style": 1}, 1, 50),
        ({"style": None}, None, 50),
        ({"style": 2}, 2, 90),
        ({"style": 2, "content": "c"}, 2, 1),
    ],
)
def test_style_and_content_agree_whichever_is_overridden(
    overrides: dict[str, Any], style: int | None, chars: int
) -> None:
    said = notification(replace(PUSH, body="b" * 90, overrides=overrides))
    assert (said.get("style"), len(said["content"])) == (style, chars)


@pytest.mark.parametrize(
    ("overrides", "title", "content"),
    [
        ({"title": "Room 9"}, '{"who":"Room 9"}', '{"body":"hi"}'),
        ({"content": "c" * 60}, '{"who":"Ann"}', json.dumps({"body": "c" * 60}, separators=(",", ":"))),
        ({"title": "Room 9", "private_title_parameters": '{"who":"Bo"}'}, '{"who":"Bo"}', '{"body":"hi"}'),
        ({"private_content_parameters": None}, '{"who":"Ann"}', None),
        ({"private_msg_template_id": None, "category": "ORDER"}, None, None),
    ],
)
def test_a_template_shows_what_the_texts_are_overridden_by(
    overrides: dict[str, Any], title: str | None, content: str | None
) -> None:
    """Sheet §6: OPPO shows the template with its parameters in place of title and content."""
    assert OppoProvider.check_overrides(overrides) == []
    said = notification(replace(PUSH, overrides=overrides))
    assert (said.get("private_title_parameters"), said.get("private_content_parameters")) == (title, content)


def test_a_level_goes_with_its_category_when_that_is_taken_away() -> None:
    assert "notify_level" not in notification(replace(PUSH, overrides={"category": None}))
    assert "notify_level" not in notification(replace(PUSH, channel="unheard of", overrides={"notify_level": 2}))
    assert (
        notification(replace(PUSH, channel="unheard of", overrides={"notify_level": 2, "category": "ORDER"}))[
            "notify_level"
        ]
        == 2
    )


@pytest.mark.parametrize(
    ("channel", "own", "category", "template", "lost"),
    [
        ("chat", {}, "IM", "tpl-1", []),  # it is one already
        ("chat", {"private_msg_template_id": "tpl-2"}, "IM", "tpl-2", []),
        ("order", {"private_msg_template_id": "tpl-2"}, "IM", "tpl-2", []),
        ("order", {}, "ORDER", None, ["category"]),
        (None, {}, None, None, ["category"]),
    ],
)
def test_an_override_makes_an_im_of_what_has_a_template_and_of_nothing_else(
    channel: str | None, own: dict[str, str], category: str | None, template: str | None, lost: list[str]
) -> None:
    """Sheet §6: by code 54 OPPO would ask an operator to mend what no account has."""
    overrides = {"category": "IM", **own}
    assert OppoProvider.check_overrides(overrides) == []
    push = replace(PUSH, channel=channel, overrides=overrides)
    said = notification(push)
    assert (said.get("category"), said.get("private_msg_template_id")) == (category, template)
    assert made().losses(push) == lost


@pytest.mark.parametrize(
    "overrides",
    [
        {"target_value": "x"},
        {"channel_id": None},
        {"style": 1, "content": "c" * 51},
        {"call_back_url": "https://evil.example"},
        {"title": "t" * 51},
        {"sub_title": "t" * 11},
        {"content": "t" * 129},
        {"style": 3},
        {"click_action_type": 3},
        {"show_time_type": 1},
        {"show_time_type": 1, "show_start_time": 2, "show_end_time": 1},
        {"off_line": 1},
        {"off_line_ttl": 864_001},
        {"notify_level": 3},
        {"category": "im"},
        {"category": "IM", "private_msg_template_id": None},
        {"private_msg_template_id": None},
        {"action_parameters": {"a": 1}},
        {"action_parameters": "[1]"},
        {"action_parameters": "["},
        {"badge_operation_type": 2},
    ],
)
def test_overrides_that_oppo_would_refuse(overrides: dict[str, Any]) -> None:
    assert OppoProvider.check_overrides(overrides)


# The settings.


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"app_key": "a b"}, "app_key"),
        ({"master_secret": ""}, "master_secret"),
        ({"region": "moon"}, "region"),
        ({"classes": {}}, "classes"),
        ({"classes": {"chat": IM}}, "default"),
        ({"classes": {"default": {"category": "IM"}}}, "channel_id"),
        ({"classes": {"default": {"channel_id": "a", "category": "im"}}}, "category"),
        ({"classes": {"default": {"channel_id": "a", "category": "IM"}}}, "template"),
        ({"classes": {"default": {"channel_id": "a", "template_id": "t"}}}, "category"),
        ({"classes": {"default": {"channel_id": "a", "body_parameter": "t"}}}, "template_id"),
        ({"classes": {"default": {"channel_id": "a", "colour": "t"}}}, "colour"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        configured(OppoProvider, {**SETTINGS, **settings})
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("cn", "api-push-cn.heytapmobi.com"),
        ("cn-old", "api.push.oppomobile.com"),
        ("intl", "api-intl.push.oppomobile.com"),
    ],
)
def test_each_region_has_its_host(region: str, host: str) -> None:
    assert made(region=region).encode(PUSH, "T").url.startswith(f"https://{host}/server/v1/")
    with pytest.raises(SettingsInvalid):
        configured(OppoProvider, {**SETTINGS, "base_url": "https://other.example"}, trusted=False)


async def test_a_limit_that_waiting_does_not_lift_is_the_day_s() -> None:
    """Sheet §5, code 13: RATE; if it persists QUOTA."""
    clock, said = [NOW_S], [answer(13)]
    scripted = Scripted(lambda request: LOGIN if request.url.endswith("/auth") else said[0])
    provider = build(OppoProvider, SETTINGS, transport=scripted, now=lambda: clock[0])
    push = Push(id="m", token=TOKEN, title="Ann", body="hello")

    async def spent(*, after_s: float) -> bool:
        clock[0] += after_s
        outcome = await provider.send(push)
        assert (outcome.verdict, outcome.scope) == (RETRY, WHOLE)
        return outcome.spent

    assert [await spent(after_s=60) for _ in range(10)] == [False] * 10
    assert await spent(after_s=60), "ten minutes, and nothing else"
    assert not await spent(after_s=8 * 3600), "after midnight it counts anew"
    said[0] = OK
    assert (await provider.send(push)).verdict is Verdict.ACCEPTED
    said[0] = answer(13)
    assert not await spent(after_s=600)
