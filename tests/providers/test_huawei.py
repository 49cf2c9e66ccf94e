"""Huawei's HMS line: the contract, the sheet's table of answers (§5), the mapping (§3, §8), the settings."""

import asyncio
import json
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import parse_qs

import pytest

from providers.contract import AddressInvalid, Outcome, Push, Scope, Verdict
from providers.http import Reason, Request, Response, TransportError
from providers.huawei import HuaweiProvider
from providers.huawei_message import Words, message_of
from providers.loading import SettingsInvalid, configured
from providers.testing import NOW_S, ProviderContract, Scripted

TOKEN = "IQAAAACy0A-device_token"
SETTINGS = {"app_id": "100000001", "app_secret": "s3cr3t-app-secret"}


def hms(code: str, msg: Any = "x", status: int = 200) -> Response:
    body = {"code": code, "msg": msg if isinstance(msg, str) else json.dumps(msg), "requestId": "r-1"}
    return Response(status=status, body=json.dumps(body).encode())


LOGIN = Response(status=200, body=b'{"access_token":"CF\\/t1","expires_in":3600,"token_type":"Bearer"}')
GOOD = hms("80000000", "Success")


class TestHuaweiContract(ProviderContract):
    provider = HuaweiProvider
    settings = SETTINGS
    token = TOKEN
    login = LOGIN
    one_dead = (TOKEN, hms("80100000", {"success": 3, "failure": 1, "illegal_tokens": [TOKEN]}))
    answers: ClassVar = {
        "ok": (GOOD, Verdict.ACCEPTED),
        "dead": (hms("80300007", "All the tokens are invalid"), Verdict.TOKEN_DEAD),
        "listed": (hms("80100000", {"success": 0, "failure": 1, "illegal_tokens": [TOKEN]}), Verdict.TOKEN_DEAD),
        "bad": (hms("80100003", "Illegal payload", 400), Verdict.REFUSED),
        "big": (hms("80300008"), Verdict.TOO_LARGE),
        "stale": (hms("80200003", status=401), Verdict.REAUTH),
        "busy": (Response(status=503), Verdict.RETRY),
        "no right": (hms("80300002"), Verdict.MISCONFIGURED),
    }


# Sheet §5, row by row: the code, the status it comes with, what it means.
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    ("code", "verdict", "scope"),
    [
        ("80000000", Verdict.ACCEPTED, Scope.MESSAGE),
        *((f"8010000{n}", Verdict.REFUSED, Scope.MESSAGE) for n in (1, 2, 3, 4)),
        *((f"801000{n}", Verdict.REFUSED, Scope.MESSAGE) for n in (13, 16, 18)),
        ("80100017", Verdict.RETRY, Scope.MESSAGE),
        ("80200001", Verdict.REAUTH, Scope.ACCOUNT),
        ("80200003", Verdict.REAUTH, Scope.ACCOUNT),
        ("80300002", Verdict.MISCONFIGURED, Scope.ACCOUNT),
        ("80300007", Verdict.TOKEN_DEAD, Scope.TOKEN),
        ("80300008", Verdict.TOO_LARGE, Scope.MESSAGE),
        ("80300010", Verdict.REFUSED, Scope.MESSAGE),
        ("80300011", Verdict.REFUSED, Scope.MESSAGE),
        ("80300013", Verdict.MISCONFIGURED, Scope.TOKEN),
        ("80600003", Verdict.REAUTH, Scope.ACCOUNT),
        ("80000001", Verdict.RETRY, Scope.MESSAGE),
        ("81000001", Verdict.RETRY, Scope.MESSAGE),
        ("6003", Verdict.MISCONFIGURED, Scope.ACCOUNT),
    ],
)
def test_each_code_means_what_the_sheet_says(code: str, status: int, verdict: Verdict, scope: Scope) -> None:
    outcome = made().decode(hms(code, status=status))
    assert (outcome.verdict, outcome.scope) == (verdict, scope)
    if verdict is Verdict.ACCEPTED:
        assert outcome.vendor_id == "r-1"
    else:
        assert outcome.vendor_code == code


@pytest.mark.parametrize(
    ("status", "verdict", "scope"),
    [
        (401, Verdict.REAUTH, Scope.MESSAGE),
        (404, Verdict.MISCONFIGURED, Scope.ACCOUNT),
        (500, Verdict.RETRY, Scope.MESSAGE),
        (502, Verdict.RETRY, Scope.MESSAGE),
        (503, Verdict.RETRY, Scope.ACCOUNT),
    ],
)
def test_each_status_means_what_the_sheet_says(status: int, verdict: Verdict, scope: Scope) -> None:
    for body in (b"", GOOD.body):  # whatever it says
        outcome = made().decode(Response(status=status, body=body))
        assert (outcome.verdict, outcome.scope) == (verdict, scope)


def test_flow_control_slows_the_account_for_as_long_as_it_says() -> None:
    busy = made().decode(Response(status=503))
    assert (busy.retry_after_s, busy.vendor_code) == (60, "status_503")
    assert made().decode(Response(status=503, headers={"Retry-After": "7"})).retry_after_s == 7


def test_a_code_that_nobody_knows_kills_nothing_and_may_have_sent() -> None:
    outcome = made().decode(hms("80999999"))
    assert outcome == Outcome(verdict=Verdict.RETRY, unknown=True, maybe_sent=True, vendor_code="80999999")
    assert made().decode(hms("80999999", status=400)).verdict is Verdict.REFUSED


@pytest.mark.parametrize("msg", ["not json", "[]", {"success": 2, "failure": 1}, {"illegal_tokens": ["somebody-else"]}])
def test_when_nobody_knows_who_was_refused_all_are_sent_again(msg: Any) -> None:
    pushes = [push(token=f"t{n}") for n in range(3)]
    outcomes = made().decode_many(hms("80100000", msg), pushes)
    assert {(one.verdict, one.maybe_sent) for one in outcomes} == {(Verdict.RETRY, True)}


@pytest.mark.parametrize("listed", [[], [""], [None], "", {"": 1}])
def test_a_list_without_a_token_kills_nothing(listed: Any) -> None:
    assert made().decode(hms("80100000", {"illegal_tokens": listed})).verdict is Verdict.RETRY


def test_all_dead_means_all() -> None:
    pushes = [push(token=f"t{n}") for n in range(3)]
    assert {one.verdict for one in made().decode_many(hms("80300007"), pushes)} == {Verdict.TOKEN_DEAD}


async def test_when_all_are_called_dead_nobody_is_asked_about_again() -> None:
    """Sheet §5, 80300007: every token invalid, DROP each."""
    tokens = [f"t{n}" for n in range(8)]
    listed = hms("80100000", {"success": 0, "failure": 8, "illegal_tokens": tokens})
    for answer in (hms("80300007"), listed):
        scripted = Scripted(lambda request, answer=answer: LOGIN if "oauth-login" in request.url else answer)
        provider = HuaweiProvider(configured(HuaweiProvider, SETTINGS), transport=scripted, now=lambda: NOW_S)  # type: ignore[arg-type]
        outcomes = await provider.send_many([push(token=token) for token in tokens])
        assert {one.verdict for one in outcomes} == {Verdict.TOKEN_DEAD}
        assert len(scripted.requests) == 2, "a login, and one call"


async def test_a_call_with_too_many_tokens_goes_by_halves() -> None:
    """Sheet §5, 80300010: BADMSG / split."""
    calls: list[int] = []

    def answer(request: Request) -> Response:
        if "oauth-login" in request.url:
            return LOGIN
        calls.append(len(json.loads(request.body)["message"]["token"]))
        return hms("80300010", status=400) if calls[-1] > 3 else GOOD

    provider = HuaweiProvider(configured(HuaweiProvider, SETTINGS), transport=Scripted(answer), now=lambda: NOW_S)  # type: ignore[arg-type]
    outcomes = await provider.send_many([push(token=f"t{n}") for n in range(8)])
    assert {one.verdict for one in outcomes} == {Verdict.ACCEPTED}
    assert calls == [8, 4, 2, 2, 4, 2, 2]


async def test_whoever_has_it_is_told_before_the_relay_gives_up_on_a_slow_search() -> None:
    """Sheet §5, 80100001: maybe some tokens. The relay waits 20 s for a call; then all would be sent again."""
    clock, calls = [NOW_S], []
    bad = {f"t{n}" for n in range(3, 64, 8)}

    def answer(request: Request) -> Response:
        if "oauth-login" in request.url:
            return LOGIN
        clock[0] += 1
        calls.append(set(json.loads(request.body)["message"]["token"]))
        return hms("80100001", status=400) if calls[-1] & bad else GOOD

    config = configured(HuaweiProvider, SETTINGS)
    provider = HuaweiProvider(config, transport=Scripted(answer), now=lambda: clock[0])  # type: ignore[arg-type]
    pushes = [push(token=f"t{n}") for n in range(64)]
    outcomes = await provider.send_many(pushes)
    assert clock[0] - NOW_S <= 9
    has_it = set().union(*(call for call in calls if not call & bad))
    assert has_it
    for sent, one in zip(pushes, outcomes, strict=True):
        verdicts = {Verdict.ACCEPTED} if sent.token in has_it else {Verdict.REFUSED, Verdict.RETRY}
        assert one.verdict in verdicts
        assert (one.verdict is not Verdict.RETRY) or (one.local and not one.maybe_sent), "nobody is ill"


@pytest.mark.parametrize("lost", [2, 3])
async def test_a_lost_answer_does_not_make_a_bad_message_a_good_one(lost: int) -> None:
    calls = [0]

    def answer(request: Request) -> Response:
        if "oauth-login" in request.url:
            return LOGIN
        calls[0] += 1
        if calls[0] == lost:
            raise TransportError(Reason.RESET, sent=True)
        return hms("80100001", status=400)

    provider = HuaweiProvider(configured(HuaweiProvider, SETTINGS), transport=Scripted(answer), now=lambda: NOW_S)  # type: ignore[arg-type]
    outcomes = await provider.send_many([push(token=f"t{n}") for n in range(64)])
    assert sum(one.verdict is Verdict.REFUSED for one in outcomes) == 63
    assert calls[0] == 9, "each half is asked about, and its first and its last; not all 64"


# --- requests ---------------------------------------------------------------------------------------------------------


def made(**settings: Any) -> HuaweiProvider:
    config = configured(HuaweiProvider, {**SETTINGS, **settings})
    return HuaweiProvider(config, transport=Scripted(lambda _: GOOD), now=lambda: NOW_S)  # type: ignore[arg-type]


def push(**fields: Any) -> Push:
    return Push(**{"id": "m-1", "token": TOKEN, "title": "Ann", "body": "hi", **fields})


def message(words: Words | None = None, **fields: Any) -> dict[str, Any]:
    return message_of(push(**fields), words or Words())


def shown(words: Words | None = None, **fields: Any) -> dict[str, Any]:
    notification: dict[str, Any] = message(words, **fields)["android"]["notification"]
    return notification


def test_a_push_as_the_sheet_has_it() -> None:
    words = Words(category="IM", badge_class="org.example.MainActivity")
    sent = message(words, badge=1, ttl_s=3600, data={"k": "v"}, relay={"v": 1}, collapse_key="c")
    assert 0 <= sent["android"]["notification"].pop("notify_id") < 2**31
    assert sent == {
        "data": '{"relay_id":"m-1","relay":"{\\"v\\":1}","k":"v"}',
        "android": {
            "ttl": "3600s",
            "collapse_key": -1,
            "category": "IM",
            "bi_tag": "m-1",
            "notification": {
                "title": "Ann",
                "body": "hi",
                "importance": "NORMAL",
                "click_action": {"type": 3},
                "badge": {"set_num": 1, "class": "org.example.MainActivity"},
            },
        },
    }


def test_the_request_s_head_and_root() -> None:
    request = made().encode(push(), "CF/t1")
    assert request.url == "https://push-api.cloud.huawei.com/v1/100000001/messages:send"
    assert request.headers == {
        "authorization": "Bearer CF/t1",
        "content-type": "application/json; charset=UTF-8",
    }
    body = json.loads(request.body)
    assert (body["validate_only"], body["message"]["token"]) == (False, [TOKEN])
    assert made(project_id="737518067794").encode(push(), "c").url.endswith("/v2/737518067794/messages:send")
    assert json.loads(made(validate_only=True).encode(push(), "c").body)["validate_only"] is True


async def test_the_login_is_a_form_and_its_answer_is_read_as_json() -> None:
    scripted = Scripted(lambda request: LOGIN if "oauth-login" in request.url else GOOD)
    config = configured(HuaweiProvider, SETTINGS)
    provider = HuaweiProvider(config, transport=scripted, now=lambda: NOW_S)  # type: ignore[arg-type]
    assert (await provider.send(push())).verdict is Verdict.ACCEPTED
    login, sent = scripted.requests
    assert login.url == "https://oauth-login.cloud.huawei.com/oauth2/v3/token"
    assert login.headers == {"content-type": "application/x-www-form-urlencoded"}
    assert parse_qs(login.body.decode()) == {
        "grant_type": ["client_credentials"],
        "client_id": ["100000001"],
        "client_secret": ["s3cr3t-app-secret"],
    }
    assert sent.headers["authorization"] == "Bearer CF/t1"  # the JSON had CF\/t1


async def test_a_refused_login_names_the_vendor_s_number() -> None:
    refused = Response(status=400, body=b'{"error":1101,"sub_error":20003,"error_description":"x"}')
    config = configured(HuaweiProvider, SETTINGS)
    provider = HuaweiProvider(config, transport=Scripted(lambda _: refused), now=lambda: NOW_S)  # type: ignore[arg-type]
    assert await provider.send(push()) == Outcome(
        verdict=Verdict.MISCONFIGURED, scope=Scope.ACCOUNT, vendor_code="1101.20003"
    )


@pytest.mark.parametrize(
    ("click", "action"),
    [
        (None, {"type": 3}),
        ("https://a.example/x", {"type": 2, "url": "https://a.example/x"}),
        ("http://a.example/x", {"type": 3}),
        ("shop://orders/1", {"type": 1, "intent": "shop://orders/1"}),
        ("com.example.OPEN", {"type": 1, "action": "com.example.OPEN"}),
    ],
)
def test_there_is_always_a_click_action(click: str | None, action: dict[str, Any]) -> None:
    assert shown(click=click)["click_action"] == action


@pytest.mark.parametrize(
    ("ttl_s", "said"), [(0, "1s"), (0.4, "1s"), (59.9, "59s"), (1_296_000, "1296000s"), (9e9, "1296000s")]
)
def test_a_life_is_text_within_the_vendor_s_bounds(ttl_s: float, said: str) -> None:
    assert message(ttl_s=ttl_s)["android"]["ttl"] == said


def test_what_replaces_what() -> None:
    assert shown(collapse_key="c", id="m-1")["notify_id"] == shown(collapse_key="c", id="m-2")["notify_id"]
    assert shown(id="m-1")["notify_id"] == shown(id="m-1", title="other")["notify_id"]
    assert shown(id="m-1")["notify_id"] != shown(id="m-2")["notify_id"]


def test_the_cache_keeps_all_unless_the_account_wants_the_newest() -> None:
    newest = Words(cache_newest=True)
    assert message(collapse_key="c")["android"]["collapse_key"] == -1
    assert 1 <= message(newest, collapse_key="c")["android"]["collapse_key"] <= 100
    for key in (None, "m-1"):  # of its own: nothing to replace
        assert message(newest, collapse_key=key)["android"]["collapse_key"] == -1


def test_a_silent_push_is_data_alone_and_wakes_the_app_if_that_is_granted() -> None:
    silent = message(title=None, body=None)
    assert "notification" not in silent["android"]
    assert silent["android"]["urgency"] == "NORMAL"
    shown = {"notification": {"image": "https://a.example/i"}, "android": {"notification": {"importance": "LOW"}}}
    assert message(title=None, body=None, overrides=shown) == silent, "what is for those that are shown"
    assert message(title=None, body=None, overrides={"android": None}).keys() == {"data"}
    granted = Words(urgency_high=True)
    assert message(granted, title=None, body=None)["android"]["urgency"] == "HIGH"
    assert message(granted, title=None, body=None, urgent=False)["android"]["urgency"] == "NORMAL"
    assert "urgency" not in message(granted)["android"]


def test_the_category_goes_by_the_channel() -> None:
    words = Words(category="IM", categories={"orders": "EXPRESS"})
    assert message(words)["android"]["category"] == "IM"
    assert message(words, channel="orders")["android"]["category"] == "EXPRESS"
    assert message(words, channel="other")["android"]["category"] == "IM"
    assert "category" not in message()["android"]


def test_the_small_things() -> None:
    assert shown(urgent=False)["importance"] == "LOW"
    assert shown(channel="chat")["channel_id"] == "chat"
    assert shown(thread="t")["group"] == "t"
    assert (shown(sound="bell.mp3")["sound"], shown(sound="bell.mp3")["default_sound"]) == ("/raw/bell", False)
    assert shown(sound="/raw/bell")["sound"] == "/raw/bell"
    assert "sound" not in shown(sound="default")
    assert "sound" not in shown(sound="Not A Resource")
    assert shown(image="https://a.example/i.png")["image"] == "https://a.example/i.png"
    assert "image" not in shown(image="http://a.example/i.png")
    assert "badge" not in shown(badge=3)  # without the launcher's class it would be ignored
    assert shown(Words(badge_class="a.B"), badge=500)["badge"] == {"set_num": 99, "class": "a.B"}
    assert (shown(body=None)["title"], shown(body=None)["body"]) == ("Ann", "Ann")
    named = shown(title_loc_key="FROM", title_loc_args=("Ann",), body_loc_key="SAID")
    assert (named["title_loc_key"], named["title_loc_args"], named["body_loc_key"]) == ("FROM", ["Ann"], "SAID")
    assert message(Words(test=True))["android"]["target_user_type"] == 1
    assert message(Words(receipt_id="R1"))["android"]["receipt_id"] == "R1"
    assert len(message(id="é" * 40)["android"]["bi_tag"]) == 32


def test_tokens_do_not_count_against_the_limit() -> None:
    many = [push(token=f"{n:0100d}") for n in range(1000)]
    request = made().encode_many(many, "c")
    assert len(request.body) > 100_000
    assert request.payload_bytes == made().encode(push(), "c").payload_bytes
    assert request.payload_bytes is not None
    assert request.payload_bytes < 1000


# --- overrides, addresses, settings -----------------------------------------------------------------------------------


def test_overrides_are_laid_over_the_message() -> None:
    sent = message(overrides={"android": {"bi_tag": None, "notification": {"style": 1, "big_title": "A"}}})
    assert "bi_tag" not in sent["android"]
    assert sent["android"]["notification"]["style"] == 1
    assert sent["android"]["notification"]["title"] == "Ann"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"token": ["t"]}, "token"),
        ({"topic": "x"}, "topic"),
        ({"android": 1}, "android"),
        ({"android": {"ttl": 60}}, "android.ttl"),
        ({"android": {"ttl": "1296001s"}}, "android.ttl"),
        ({"android": {"ttl": "0s"}}, "android.ttl"),
        ({"android": {"collapse_key": 101}}, "android.collapse_key"),
        ({"android": {"category": "im"}}, "android.category"),
        ({"android": {"urgency": "LOW"}}, "android.urgency"),
        (
            {"android": {"receipt_id": "R1"}},
            "android.receipt_id",
        ),  # a wrong one parks the account: it is not a message's
        ({"android": {"target_user_type": 2}}, "android.target_user_type"),
        ({"android": {"notification": {"importance": "HIGH"}}}, "android.notification.importance"),
        ({"android": {"notification": {"color": "red"}}}, "android.notification.color"),
        ({"android": {"notification": {"style": 2}}}, "android.notification.style"),
        ({"android": {"notification": {"inbox_content": ["x"] * 6}}}, "android.notification.inbox_content"),
        ({"android": {"notification": {"inbox_content": ["x" * 1025]}}}, "android.notification.inbox_content"),
        ({"android": {"notification": {"inbox_content": "x"}}}, "android.notification.inbox_content"),
        ({"android": {"notification": {"buttons": [{"name": "x" * 41}]}}}, "android.notification.buttons"),
        ({"android": {"notification": {"buttons": [{}] * 4}}}, "android.notification.buttons"),
        ({"android": {"notification": {"badge": {"set_num": 100}}}}, "android.notification.badge.set_num"),
        ({"android": {"notification": {"badge": {"add_num": 0}}}}, "android.notification.badge.add_num"),
        ({"android": {"notification": {"click_action": None}}}, "android.notification.click_action"),
        ({"android": {"notification": {"click_action": {"intent": ""}}}}, "android.notification.click_action.intent"),
        (
            {"android": {"notification": {"click_action": {"type": 2, "url": "http://a.example"}}}},
            "android.notification.click_action.url",
        ),
        ({"android": {"notification": {"vibrate_config": ["61s"]}}}, "android.notification.vibrate_config"),
        ({"android": {"notification": {"visibility": "ALL"}}}, "android.notification.visibility"),
        ({"android": {"notification": {"when": "2026-05-03T09:12:44+02:00"}}}, "android.notification.when"),
        ({"android": {"notification": {"when": "2026-02-31T09:12:44Z"}}}, "android.notification.when"),
        ({"android": {"notification": {"notify_id": 2**31}}}, "android.notification.notify_id"),
        ({"android": {"notification": {"profile_id": "x" * 65}}}, "android.notification.profile_id"),
        ({"android": {"notification": {"image": "http://a.example"}}}, "android.notification.image"),
    ],
)
def test_a_mistake_in_an_override_is_named(overrides: dict[str, Any], named: str) -> None:
    found = HuaweiProvider.check_overrides(overrides)
    assert len(found) == 1
    assert found[0].lstrip("'").startswith(named)


def test_good_overrides_pass() -> None:
    fields = {
        "when": "2026-05-03T09:12:44.5Z",
        "vibrate_config": ["1", "0.5s", "60"],
        "buttons": [{"name": "Reply", "action_type": 1}],
        "multi_lang_key": {"k": {"en": "a", "zh": "b"}},
    }
    assert HuaweiProvider.check_overrides({"android": {"ttl": "60s", "notification": fields}, "data": "x"}) == []


@pytest.mark.parametrize("token", ["", "a b", "a\n", "é", "x" * 4097])
async def test_what_cannot_be_a_token_is_not_asked_about(token: str) -> None:
    with pytest.raises(AddressInvalid):
        made().address("token", token)
    assert (await made().send(push(token=token))).vendor_code == "token_malformed"
    outcomes = await made().send_many([push(token=token), push()])
    assert outcomes[0].vendor_code == "token_malformed"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"app_id": "abc"}, "app_id"),
        ({"app_id": ""}, "app_id"),
        ({"app_id": "\uff11\uff12"}, "app_id"),
        ({"app_secret": ""}, "app_secret"),
        ({"project_id": "x-1"}, "project_id"),
        ({"category": "im"}, "category"),
        ({"categories": {"orders": "PARCEL"}}, "categories.orders"),
        ({"badge_class": "MainActivity"}, "badge_class"),
        ({"receipt_id": "R1"}, "receipt_id"),
        ({"receipts": {}}, "receipts"),
        ({"receipts": {"user": "u"}}, "receipts"),
        ({"base_url": "ftp://a.example"}, "base_url"),
    ],
)
def test_a_mistake_in_the_settings_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        configured(HuaweiProvider, {**SETTINGS, **settings})
    assert any(mistake.startswith(named) for mistake in caught.value.mistakes)


def test_only_the_operator_says_where_huawei_is() -> None:
    for key in ("base_url", "token_url"):
        with pytest.raises(SettingsInvalid, match=key):
            configured(HuaweiProvider, {**SETTINGS, key: "https://a.example"}, trusted=False)


def test_receipts_are_read_by_who_set_them_up() -> None:
    assert made().receipts is None
    assert made(receipts={"user": "u", "secret": "s"}, receipt_id="R1").receipts is not None


def test_a_repeat_in_a_batch_has_the_same_content() -> None:
    one, two = push(token="t1"), push(token="t2")
    body = json.loads(made().encode_many([one, two], "c").body)
    assert body["message"]["token"] == ["t1", "t2"]
    alone = json.loads(made().encode(replace(one, token="t2"), "c").body)
    assert alone["message"] | {"token": 0} == body["message"] | {"token": 0}


async def test_where_the_receipts_address_is_refused_all_goes_without_asking_for_receipts() -> None:
    """Sheet §5, 80300013 and §9: an expired certificate of ours must not keep messages from phones."""
    settings = {**SETTINGS, "receipt_id": "rcp-1", "receipts": {"user": "u", "secret": "s"}}
    asked: list[bool] = []

    def answer(request: Request) -> Response:
        if "oauth-login" in request.url:
            return LOGIN
        asked.append(b"rcp-1" in request.body)
        return hms("80300013") if asked[-1] else GOOD

    provider = HuaweiProvider(configured(HuaweiProvider, settings), transport=Scripted(answer), now=lambda: NOW_S)  # type: ignore[arg-type]
    for _ in range(2):
        outcome = await provider.send(push())
        assert (outcome.verdict, outcome.vendor_code) == (Verdict.ACCEPTED, "receipts_80300013")
        assert outcome.alert, "it has to be mended: FIX"
    assert asked == [True, False, False]


async def test_what_was_forgone_is_told_by_a_call_that_some_tokens_were_dead_for_too() -> None:
    def answer(request: Request) -> Response:
        if "oauth-login" in request.url:
            return LOGIN
        return hms("80300013") if b"rcp-1" in request.body else hms("80100000", {"illegal_tokens": ["t0"]})

    settings = {**SETTINGS, "receipt_id": "rcp-1", "receipts": {"user": "u", "secret": "s"}}
    provider = HuaweiProvider(configured(HuaweiProvider, settings), transport=Scripted(answer), now=lambda: NOW_S)  # type: ignore[arg-type]
    dead, good = await provider.send_many([push(token="t0"), push(token="t1")])
    assert dead.verdict is Verdict.TOKEN_DEAD
    assert (good.verdict, good.vendor_code, good.alert) == (Verdict.ACCEPTED, "receipts_80300013", True)


async def test_a_right_to_wake_that_huawei_has_not_granted_costs_one_more_call_and_is_named() -> None:
    """Sheet §5, 80300011: FIX, resend as NORMAL."""
    urgencies: list[str] = []

    def answer(request: Request) -> Response:
        if "oauth-login" in request.url:
            return LOGIN
        urgencies.append(json.loads(request.body)["message"]["android"]["urgency"])
        return hms("80300011") if urgencies[-1] == "HIGH" else GOOD

    settings = {**SETTINGS, "urgency_high": True}
    provider = HuaweiProvider(configured(HuaweiProvider, settings), transport=Scripted(answer), now=lambda: NOW_S)  # type: ignore[arg-type]
    for _ in range(3):
        outcome = await provider.send(push(title=None, body=None))
        assert (outcome.verdict, outcome.vendor_code) == (Verdict.ACCEPTED, "urgency_80300011")
        assert outcome.alert, "it has to be mended: FIX"
    assert urgencies == ["HIGH", "NORMAL", "NORMAL", "NORMAL"]


@pytest.mark.parametrize(
    ("code", "settings"),
    [
        ("80300011", {"urgency_high": True}),
        ("80300013", {"receipt_id": "rcp-1", "receipts": {"user": "u", "secret": "s"}}),
    ],
)
async def test_what_was_under_way_when_the_first_was_refused_goes_once_more_too(
    code: str, settings: dict[str, Any]
) -> None:
    async def answer(request: Request) -> Response:
        if "oauth-login" in request.url:
            return LOGIN
        if b"HIGH" in request.body or b"rcp-1" in request.body:
            await all_asked.wait()
            return hms(code)
        return GOOD

    all_asked = asyncio.Barrier(3)
    provider = HuaweiProvider(configured(HuaweiProvider, SETTINGS | settings), transport=answer, now=lambda: NOW_S)  # type: ignore[arg-type]
    wakes = [provider.send(push(token=f"t{n}", title=None, body=None)) for n in range(3)]
    assert {outcome.verdict for outcome in await asyncio.gather(*wakes)} == {Verdict.ACCEPTED}
