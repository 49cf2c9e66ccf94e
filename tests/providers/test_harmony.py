"""HarmonyOS 5 and later: the contract, the sheet's tables of answers and reasons (§5), the mapping (§4, §8), the key."""

import json
from pathlib import Path
from typing import Any, ClassVar

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from providers.contract import AddressInvalid, Push, Scope, Verdict
from providers.harmony import HarmonyProvider
from providers.harmony_message import Words, body_of
from providers.http import Request, Response
from providers.loading import SettingsInvalid, configured
from providers.testing import NOW_S, ProviderContract, Scripted

TOKEN = "MAMzLgIkEUWaAADNPAAAAAAA-device_token"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
IM = Words(category="IM")


def pem(key: Any) -> str:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return str(key.private_bytes(*form).decode())


ACCOUNT = {
    "project_id": "737518067794",
    "key_id": "ee6b24cb",
    "private_key": pem(KEY),
    "sub_account": "103100000",
    "auth_uri": "https://oauth-login.cloud.huawei.com/oauth2/v3/authorize",
    "token_uri": "https://oauth-login.cloud.huawei.com/oauth2/v3/token",
}
SETTINGS: dict[str, Any] = {"service_account": ACCOUNT, "category": "IM"}

CONFIG = configured(HarmonyProvider, SETTINGS)  # looking at a private key takes a while


def v3(code: str, msg: Any = "x", status: int = 200) -> Response:
    body = {"code": code, "msg": msg if isinstance(msg, str) else json.dumps(msg), "requestId": "r-1"}
    return Response(status=status, body=json.dumps(body).encode())


def refused(reason: str, *tokens: str, code: str = "80100000") -> Response:
    return v3(code, {"success": 1, "failure": len(tokens), "illegalTokens": {reason: list(tokens)}})


GOOD = v3("80000000", "Success")


class TestHarmonyContract(ProviderContract):
    provider = HarmonyProvider
    settings = SETTINGS
    token = TOKEN
    one_dead = (TOKEN, refused(" tokenFormatError ", TOKEN))
    answers: ClassVar = {
        "ok": (GOOD, Verdict.ACCEPTED),
        "dead": (refused("tokenFormatError", TOKEN), Verdict.TOKEN_DEAD),
        "bad": (v3("80100003", status=400), Verdict.REFUSED),
        "big": (v3("80300008"), Verdict.TOO_LARGE),
        "stale": (v3("80200005", status=401), Verdict.REAUTH),
        "busy": (Response(status=503), Verdict.RETRY),
        "penalty": (v3("80300037"), Verdict.MISCONFIGURED),
    }

    def repeat_key(self, request: Request) -> object:
        return json.loads(request.body)["payload"]["notification"]["appMessageId"]


def made(answer: Any = GOOD, **settings: Any) -> HarmonyProvider:
    config = configured(HarmonyProvider, {**SETTINGS, **settings}) if settings else CONFIG
    transport = answer if isinstance(answer, Scripted) else Scripted(lambda _: answer)
    return HarmonyProvider(config, transport=transport, now=lambda: NOW_S)  # type: ignore[arg-type]


def push(**fields: Any) -> Push:
    return Push(**{"id": "m-1", "token": TOKEN, "title": "Ann", "body": "hi", **fields})


def body(words: Words = IM, *, now_s: float = NOW_S, **fields: Any) -> dict[str, Any]:
    return body_of(push(**fields), words, now_s=now_s)


def shown(words: Words = IM, **fields: Any) -> dict[str, Any]:
    notification: dict[str, Any] = body(words, **fields)["payload"]["notification"]
    return notification


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    ("code", "verdict", "scope"),
    [
        ("80000000", Verdict.ACCEPTED, Scope.MESSAGE),
        *((f"8010000{n}", Verdict.REFUSED, Scope.MESSAGE) for n in (1, 3, 4)),
        ("80100022", Verdict.REFUSED, Scope.MESSAGE),
        ("80200001", Verdict.REAUTH, Scope.ACCOUNT),
        ("80200005", Verdict.REAUTH, Scope.ACCOUNT),
        ("80300002", Verdict.MISCONFIGURED, Scope.ACCOUNT),
        ("80300007", Verdict.MISCONFIGURED, Scope.TOKEN),  # without a reason: kept
        ("80300008", Verdict.TOO_LARGE, Scope.MESSAGE),
        ("80300010", Verdict.REFUSED, Scope.MESSAGE),
        ("80300029", Verdict.RETRY, Scope.ACCOUNT),
        ("80300030", Verdict.REFUSED, Scope.MESSAGE),
        ("80300036", Verdict.MISCONFIGURED, Scope.ACCOUNT),
        ("80300037", Verdict.MISCONFIGURED, Scope.ACCOUNT),
        ("80000001", Verdict.RETRY, Scope.MESSAGE),
        ("81000001", Verdict.RETRY, Scope.MESSAGE),
        ("6003", Verdict.MISCONFIGURED, Scope.ACCOUNT),
    ],
)
def test_each_code_means_what_the_sheet_says(code: str, status: int, verdict: Verdict, scope: Scope) -> None:
    outcome = made().decode(v3(code, status=status))
    assert (outcome.verdict, outcome.scope) == (verdict, scope)
    assert (outcome.vendor_id, outcome.vendor_code) == (("r-1", None) if code == "80000000" else (None, code))
    assert outcome.retry_after_s == (60 if code == "80300029" else None)


@pytest.mark.parametrize(
    ("reason", "verdict", "scope"),
    [
        ("tokenFormatError", Verdict.TOKEN_DEAD, Scope.TOKEN),
        ("tokenPlatformNotSupport", Verdict.TOKEN_DEAD, Scope.TOKEN),
        ("noRight", Verdict.MISCONFIGURED, Scope.TOKEN),
        ("noPushTypeRight", Verdict.MISCONFIGURED, Scope.TOKEN),
        ("notSupportPlayVoice", Verdict.MISCONFIGURED, Scope.TOKEN),
        ("noRightToSendThisLiveNotificationEvent", Verdict.MISCONFIGURED, Scope.TOKEN),
        ("atomicUnableSendUnsubscribedMsg", Verdict.REFUSED, Scope.MESSAGE),
        ("countryNotSupport", Verdict.REFUSED, Scope.TOKEN),
        ("disableSendHuaweiMsgBecauseOfPenalty", Verdict.MISCONFIGURED, Scope.ACCOUNT),
        ("appinfoError", Verdict.MISCONFIGURED, Scope.ACCOUNT),
        ("differentImgVerifyPolicy", Verdict.REFUSED, Scope.MESSAGE),
        ("aReasonOfTomorrow", Verdict.RETRY, Scope.TOKEN),
    ],
)
@pytest.mark.parametrize("code", ["80100000", "80300007"])
def test_each_reason_means_what_the_sheet_says(reason: str, code: str, verdict: Verdict, scope: Scope) -> None:
    outcome = made().decode(refused(f" {reason} ", TOKEN, code=code))
    assert (outcome.verdict, outcome.scope, outcome.vendor_code) == (verdict, scope, reason)
    assert outcome.unknown == (reason == "aReasonOfTomorrow")


def test_of_a_batch_each_gets_its_own_reason() -> None:
    pushes = [push(token=f"t{n}") for n in range(4)]
    msg = {"success": 1, "failure": 3, "illegalTokens": {"tokenFormatError": ["t0"], "noRight": ["t2", "t3"]}}
    verdicts = [one.verdict for one in made().decode_many(v3("80100000", msg), pushes)]
    assert verdicts == [Verdict.TOKEN_DEAD, Verdict.ACCEPTED, Verdict.MISCONFIGURED, Verdict.MISCONFIGURED]
    nobody = [one.verdict for one in made().decode_many(v3("80300007", msg), pushes)]
    assert nobody == [Verdict.TOKEN_DEAD, *[Verdict.MISCONFIGURED] * 3]


@pytest.mark.parametrize(
    "msg",
    [
        "?",
        "[]",
        {"illegalTokens": []},
        {"illegalTokens": {"noRight": "t0"}},
        {"illegalTokens": {"tokenFormatError": [""]}},
        {"success": 1},
    ],
)
def test_refused_without_a_reason_kills_nothing(msg: Any) -> None:
    pushes = [push(token="t0"), push(token="t1")]
    some = made().decode_many(v3("80100000", msg), pushes)
    assert {(one.verdict, one.maybe_sent) for one in some} == {(Verdict.RETRY, True)}
    every = made().decode_many(v3("80300007", msg), pushes)
    assert {(one.verdict, one.scope) for one in every} == {(Verdict.MISCONFIGURED, Scope.TOKEN)}
    assert (made().decode(v3("80100000", msg)).verdict, made().decode(v3("80300007", msg))) == (Verdict.RETRY, every[0])


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("80000000", Verdict.ACCEPTED),
        ("80200001", Verdict.REAUTH),
        ("80200003", Verdict.REAUTH),
        *((code, Verdict.REFUSED) for code in ("80100001", "80100003", "80100020")),
        *((code, Verdict.REFUSED) for code in ("80300017", "80300028", "80300032")),
        *((code, Verdict.RETRY) for code in ("80000001", "81000001")),
    ],
)
def test_each_code_means_what_the_sheet_says_of_taking_back(code: str, status: int, verdict: Verdict) -> None:
    assert made().decode_recall(v3(code, status=status)).verdict is verdict


@pytest.mark.parametrize("status", [200, 400])
async def test_a_bearer_that_ran_out_is_signed_anew_to_take_back(status: int) -> None:
    """Sheet §5, 80200003: revoke, REFRESH."""
    answers = [v3("80200003", status=status), GOOD]
    scripted = Scripted(lambda _: answers.pop(0))
    assert (await made(scripted, client_id="100200300").recall(push(), None)).verdict is Verdict.ACCEPTED
    assert [request.url.rpartition("/")[2] for request in scripted.requests] == ["messages:revoke"] * 2


async def test_whose_image_is_left_out_is_told_though_others_are_dead() -> None:
    answers = [v3("80100022"), refused("tokenFormatError", "t0")]
    overrides = {"payload": {"notification": {"image": "https://a.example/i.png"}}}
    pushes = [push(token=f"t{n}", overrides=overrides) for n in range(2)]
    outcomes = await made(Scripted(lambda _: answers.pop(0))).send_many(pushes)
    assert [(one.verdict, one.vendor_code) for one in outcomes] == [
        (Verdict.TOKEN_DEAD, "tokenFormatError"),
        (Verdict.ACCEPTED, "image_80100022"),
    ]


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
    outcome = made().decode(Response(status=status))
    assert (outcome.verdict, outcome.scope) == (verdict, scope)


# --- the credential ---------------------------------------------------------------------------------------------------


async def test_the_bearer_is_signed_here_and_used_for_its_whole_life() -> None:
    now = [NOW_S]
    scripted = Scripted(lambda _: GOOD)
    config = configured(HarmonyProvider, SETTINGS)
    provider = HarmonyProvider(config, transport=scripted, now=lambda: now[0])  # type: ignore[arg-type]
    for passed_s in (0, 3299, 3301):
        now[0] = NOW_S + passed_s
        assert (await provider.send(push())).verdict is Verdict.ACCEPTED
    first, second, third = (request.headers["authorization"].removeprefix("Bearer ") for request in scripted.requests)
    assert first == second != third
    assert jwt.get_unverified_header(first) == {"kid": "ee6b24cb", "typ": "JWT", "alg": "PS256"}
    claims = jwt.decode(
        first, KEY.public_key(), algorithms=["PS256"], options={"verify_exp": False, "verify_aud": False}
    )
    assert claims == {
        "iss": "103100000",
        "aud": "https://oauth-login.cloud.huawei.com/oauth2/v3/token",
        "iat": int(NOW_S),
        "exp": int(NOW_S) + 3600,
    }


@pytest.mark.parametrize("code", ["80200001", "80200005"])
async def test_a_refused_bearer_is_signed_anew_once(code: str) -> None:
    answers = [v3(code), GOOD]
    scripted = Scripted(lambda _: answers.pop(0))
    assert (await made(scripted).send(push())).verdict is Verdict.ACCEPTED
    always = Scripted(lambda _: v3(code))
    outcome = await made(always).send(push())
    assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, Scope.ACCOUNT)
    assert len(always.requests) == 2


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_push_as_the_sheet_has_it() -> None:
    sent = body(badge=1, ttl_s=3600, data={"conv": "c9"}, collapse_key="c")
    notification = sent["payload"]["notification"]
    assert 0 <= notification.pop("notifyId") < 2**31
    assert 1 <= len(notification.pop("appMessageId")) <= 64
    assert sent == {
        "pushOptions": {"ttl": 3600, "biTag": "m-1", "collapseKey": -1},
        "payload": {
            "notification": {
                "category": "IM",
                "title": "Ann",
                "body": "hi",
                "clickAction": {"actionType": 0, "data": {"relay_id": "m-1", "conv": "c9"}},
                "badge": {"setNum": 1},
            }
        },
    }


def test_the_request_s_head_and_target() -> None:
    request: Request = made().encode(push(), "j.w.t")
    assert request.url == "https://push-api.cloud.huawei.com/v3/737518067794/messages:send"
    assert request.headers == {
        "authorization": "Bearer j.w.t",
        "content-type": "application/json",
        "push-type": "0",
    }
    assert json.loads(request.body)["target"] == {"token": [TOKEN]}


def test_a_silent_push_is_of_the_background_type() -> None:
    request = made(background_im=True).encode(push(title=None, body=None, relay={"v": 1}), "j")
    assert request.headers["push-type"] == "6"
    sent = json.loads(request.body)
    assert json.loads(sent["payload"]["extraData"]) == {"relay_id": "m-1", "relay": '{"v":1}'}
    assert set(sent["payload"]) == {"extraData"}
    assert sent["pushOptions"] == {"ttl": 86400, "biTag": "m-1", "backgroundMode": 1}
    assert "backgroundMode" not in body(title=None, body=None)["pushOptions"]


def test_a_phone_shows_a_repeat_once_but_a_summary_that_says_more() -> None:
    one = {"id": "s1", "collapse_key": "s1", "body": "2 new messages", "relay": {"n": 2}}
    more = one | {"body": "3 new messages", "relay": {"n": 3}}
    first, again, grown = shown(**one), shown(**one), shown(**more)
    assert first["appMessageId"] == again["appMessageId"] != grown["appMessageId"]
    assert first["notifyId"] == grown["notifyId"]
    reminder = body_of(push(**one, urgent=False), IM, now_s=NOW_S + 3600)["payload"]["notification"]
    assert reminder["appMessageId"] != first["appMessageId"]


@pytest.mark.parametrize(
    ("click", "action"),
    [
        (None, {"actionType": 0}),
        ("https://a.example/x", {"actionType": 0}),
        ("http://a.example/x", {"actionType": 0}),
        ("shop://orders/1", {"actionType": 1, "uri": "shop://orders/1"}),
        ("com.example.OPEN", {"actionType": 1, "action": "com.example.OPEN"}),
    ],
)
def test_there_is_always_a_click_action(click: str | None, action: dict[str, Any]) -> None:
    said = shown(click=click)["clickAction"]
    assert said.pop("data").get("click") == click
    assert said == action


@pytest.mark.parametrize(("ttl_s", "said"), [(0, 1), (0.4, 1), (59.9, 59), (1_296_000, 1_296_000), (9e9, 1_296_000)])
def test_a_life_is_a_whole_number_within_the_vendor_s_bounds(ttl_s: float, said: int) -> None:
    assert body(ttl_s=ttl_s)["pushOptions"]["ttl"] == said


def test_the_small_things() -> None:
    assert shown(badge=500)["badge"] == {"setNum": 99}
    assert shown(sound="bell.mp3")["sound"] == "bell.mp3"
    assert "sound" not in shown(sound="default")
    assert "sound" not in shown(sound="a/../b")
    assert "image" not in shown(image="https://a.example/i.png")  # nobody has verified it
    assert (shown(title=None)["title"], shown(title=None)["body"]) == ("hi", "hi")
    assert shown(Words(category="IM", categories={"orders": "EXPRESS"}), channel="orders")["category"] == "EXPRESS"
    assert body(Words(category="IM", test=True))["pushOptions"]["testMessage"] is True
    assert body(Words(category="IM", receipt_id="R"))["pushOptions"]["receiptId"] == "R"
    newest = Words(category="IM", cache_newest=True)
    assert 0 <= body(newest, collapse_key="c")["pushOptions"]["collapseKey"] <= 100
    assert body(newest, collapse_key="m-1")["pushOptions"]["collapseKey"] == -1
    assert len(body(id="é" * 33)["pushOptions"]["biTag"]) == 32


async def test_tokens_do_not_count_and_test_messages_go_to_ten() -> None:
    scripted = Scripted(lambda _: GOOD)
    await made(scripted, test=True).send_many([push(token=f"{n:0500d}") for n in range(25)])
    assert [len(json.loads(request.body)["target"]["token"]) for request in scripted.requests] == [10, 10, 5]


# --- overrides, addresses, settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"target": {}}, "target"),
        ({"pushOptions": {"ttl": "60s"}}, "pushOptions.ttl"),
        ({"pushOptions": {"ttl": 0}}, "pushOptions.ttl"),
        ({"pushOptions": {"receiptId": "R1"}}, "pushOptions.receiptId"),  # the account's
        ({"pushOptions": {"biTag": "é" * 33}}, "pushOptions.biTag"),
        ({"pushOptions": {"collapseKey": 101}}, "pushOptions.collapseKey"),
        ({"pushOptions": {"backgroundMode": 2}}, "pushOptions.backgroundMode"),
        ({"payload": {"proxyData": "ON"}}, "payload.proxyData"),
        *(
            ({"payload": {"notification": wrong}}, f"payload.notification.{next(iter(wrong))}")
            for wrong in (
                {"category": "PLAY_VOICE"},
                {"title": None},
                {"clickAction": None},
                {"clickAction": {"actionType": 2}},
                {"image": "http://a.example"},
                {"style": 2},
                {"inboxContent": ["x"] * 4},
                {"notifyId": 2**31},
                {"appMessageId": "a.b"},
                {"appMessageId": "x" * 65},
                {"profileId": "x" * 65},
                {"badge": {"addNum": 0}},
                {"soundDuration": 5},
                {"foregroundShow": 1},
            )
        ),
    ],
)
def test_a_mistake_in_an_override_is_named(overrides: dict[str, Any], named: str) -> None:
    found = HarmonyProvider.check_overrides(overrides)
    assert len(found) == 1
    assert found[0].lstrip("'").startswith(named)


def test_an_image_that_was_verified_goes_by_an_override() -> None:
    overrides = {"payload": {"notification": {"image": "https://a.example/i.png", "soundDuration": 5, "sound": "x"}}}
    assert HarmonyProvider.check_overrides(overrides) == []
    assert shown(overrides=overrides)["image"] == "https://a.example/i.png"


@pytest.mark.parametrize("token", ["", "a b", "é", "x" * 4097])
async def test_what_cannot_be_a_token_is_not_asked_about(token: str) -> None:
    with pytest.raises(AddressInvalid):
        made().address("token", token)
    assert (await made().send(push(token=token))).vendor_code == "token_malformed"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"category": None}, "category"),
        ({"category": "PLAY_VOICE"}, "category"),
        ({"categories": {"x": "y"}}, "categories.x"),
        ({"receipt_id": "R1"}, "receipt_id"),
        ({"receipts": {}}, "receipts"),
        ({"service_account": "{"}, "service_account"),
        ({"service_account": "[" * 100_000}, "service_account"),
        ({"service_account": ACCOUNT | {"project_id": "a-1"}}, "service_account.project_id"),
        ({"service_account": ACCOUNT | {"key_id": ""}}, "service_account.key_id"),
        ({"service_account": ACCOUNT | {"private_key": "nonsense"}}, "service_account.private_key"),
        (
            {"service_account": ACCOUNT | {"private_key": pem(ec.generate_private_key(ec.SECP256R1()))}},
            "service_account.private_key",
        ),
        ({"service_account": {key: ACCOUNT[key] for key in ACCOUNT if key != "sub_account"}}, "service_account"),
        ({"service_account_file": "/x"}, "service_account_file"),  # both
    ],
)
def test_a_mistake_in_the_settings_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        configured(HarmonyProvider, {**SETTINGS, **settings})
    assert any(mistake.startswith(named) for mistake in caught.value.mistakes)
    assert ACCOUNT["private_key"] not in str(caught.value)


def test_the_key_may_stand_in_a_file_of_the_operator_s(tmp_path: Path) -> None:
    file = tmp_path / "account.json"
    file.write_text(json.dumps(ACCOUNT))
    config = configured(HarmonyProvider, {"service_account_file": str(file), "category": "IM"})
    assert config == configured(HarmonyProvider, {"service_account": json.dumps(ACCOUNT), "category": "IM"})
    for wrong in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(SettingsInvalid, match="cannot be read"):
            configured(HarmonyProvider, {"service_account_file": str(wrong), "category": "IM"})
    for key in ("service_account_file", "base_url"):
        with pytest.raises(SettingsInvalid, match="only the operator"):
            configured(HarmonyProvider, {**SETTINGS, key: str(file)}, trusted=False)


def test_receipts_are_read_by_who_set_them_up() -> None:
    assert made().receipts is None
    assert made(receipts={"user": "u", "secret": "s"}, receipt_id="R1").receipts is not None


@pytest.mark.parametrize(
    ("push", "lost"),
    [
        ({"sound": "a b", "badge": 1}, ["sound"]),
        ({"sound": "bell.mp3"}, []),
        ({"title": None, "body": None, "badge": 1}, ["badge"]),
    ],
)
def test_what_huawei_will_not_have_is_named(push: dict[str, Any], lost: list[str]) -> None:
    assert made().losses(Push(**{"id": "m", "token": "t", "title": "Ann", "body": "hi", **push})) == lost
