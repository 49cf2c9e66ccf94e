"""Honor: the contract, the sheet's table of answers (§4), the mapping (§3, §6), the settings."""

import json
from typing import Any, ClassVar
from urllib.parse import parse_qs

import pytest

from providers.contract import AddressInvalid, Outcome, Push, Scope, Verdict
from providers.honor import HonorProvider
from providers.http import Request, Response
from providers.loading import SettingsInvalid, configured
from providers.testing import NOW_S, ProviderContract, Scripted

TOKEN = "BAEAAAAA.honor-device_token"
SETTINGS: dict[str, Any] = {"app_id": "900000001", "client_id": "b2f9", "client_secret": "s3cr3t-client-secret"}


def answered(code: Any = 200, status: int = 200, **data: Any) -> Response:
    said = {"sendResult": True, "requestId": "r-1", "failTokens": None, "expireTokens": None, **data}
    return Response(status=status, body=json.dumps({"code": code, "message": "x", "data": said, "more": 1}).encode())


LOGIN = Response(status=200, body=b'{"access_token":"t1","expires_in":3600,"token_type":"Bearer"}')
GOOD = answered()


class TestHonorContract(ProviderContract):
    provider = HonorProvider
    settings = SETTINGS
    token = TOKEN
    login = LOGIN
    one_dead = (TOKEN, answered(expireTokens=[TOKEN], failTokens=[]))
    answers: ClassVar = {
        "ok": (GOOD, Verdict.ACCEPTED),
        "dead": (answered(sendResult=False, expireTokens=[TOKEN]), Verdict.TOKEN_DEAD),
        "failed": (answered(sendResult=False, failTokens=[TOKEN]), Verdict.RETRY),
        "bad": (answered(80100003, 400), Verdict.REFUSED),
        "big": (answered(80300008), Verdict.TOO_LARGE),
        "stale": (Response(status=401), Verdict.REAUTH),
        "wrong path": (Response(status=404), Verdict.MISCONFIGURED),
    }


def made(answer: Any = GOOD, **settings: Any) -> HonorProvider:
    config = configured(HonorProvider, {**SETTINGS, **settings})
    transport = answer if isinstance(answer, Scripted) else Scripted(lambda _: answer)
    return HonorProvider(config, transport=transport, now=lambda: NOW_S)  # type: ignore[arg-type]


def push(**fields: Any) -> Push:
    return Push(**{"id": "m-1", "token": TOKEN, "title": "Ann", "body": "hi", **fields})


def body(provider: HonorProvider | None = None, **fields: Any) -> dict[str, Any]:
    sent: dict[str, Any] = json.loads((provider or made()).encode(push(**fields), "t1").body)
    assert sent.pop("token") == [TOKEN]
    return sent


def shown(provider: HonorProvider | None = None, **fields: Any) -> dict[str, Any]:
    notification: dict[str, Any] = body(provider, **fields)["android"]["notification"]
    return notification


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [int, str])
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    ("code", "verdict", "scope"),
    [
        (200, Verdict.ACCEPTED, Scope.MESSAGE),
        (80100001, Verdict.REFUSED, Scope.MESSAGE),
        (80100003, Verdict.REFUSED, Scope.MESSAGE),
        (80200001, Verdict.REAUTH, Scope.ACCOUNT),
        (80200003, Verdict.REAUTH, Scope.ACCOUNT),
        (80300002, Verdict.MISCONFIGURED, Scope.ACCOUNT),
        (80300007, Verdict.TOKEN_DEAD, Scope.TOKEN),
        (80300008, Verdict.TOO_LARGE, Scope.MESSAGE),
        (80300010, Verdict.REFUSED, Scope.MESSAGE),
        (80600003, Verdict.RETRY, Scope.ACCOUNT),
        (81000001, Verdict.RETRY, Scope.MESSAGE),
    ],
)
def test_each_code_means_what_the_sheet_says(code: int, form: Any, status: int, verdict: Verdict, scope: Scope) -> None:
    outcome = made().decode(answered(form(code), status))
    assert (outcome.verdict, outcome.scope) == (verdict, scope)


@pytest.mark.parametrize(
    ("status", "verdict", "scope"),
    [
        (401, Verdict.REAUTH, Scope.MESSAGE),
        (404, Verdict.MISCONFIGURED, Scope.ACCOUNT),
        *((status, Verdict.RETRY, Scope.MESSAGE) for status in (500, 502, 503)),
        (429, Verdict.RETRY, Scope.ACCOUNT),
    ],
)
def test_each_status_means_what_the_sheet_says(status: int, verdict: Verdict, scope: Scope) -> None:
    for answer in (Response(status=status), answered(status=status)):
        outcome = made().decode(answer)
        assert (outcome.verdict, outcome.scope) == (verdict, scope)


def test_status_200_alone_is_no_success() -> None:
    for answer in (Response(status=200, body=b"{}"), answered(999), answered(True)):
        outcome = made().decode(answer)
        assert (outcome.verdict, outcome.maybe_sent) == (Verdict.RETRY, True)


@pytest.mark.parametrize("status", [200, 400])
def test_a_code_that_is_not_in_the_table_is_tried_twice_more_and_then_told(status: int) -> None:
    """Sheet §4, "anything else": keep token, no more than 2 retries, alert."""
    outcome = made().decode(answered(999, status))
    assert (outcome.verdict, outcome.unknown, outcome.maybe_sent) == (Verdict.RETRY, True, status == 200)
    assert not made().decode(answered(81000001, status)).unknown


def test_without_any_list_a_failure_is_a_retry() -> None:
    assert made().decode(answered(sendResult=False)).verdict is Verdict.RETRY
    assert made().decode(answered(80100000)).verdict is Verdict.RETRY
    bare = Response(status=200, body=b'{"code":200,"data":null}')  # lists and more may be absent
    assert made().decode(bare).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("code", [200, 80100000])
@pytest.mark.parametrize("result", [True, False])
def test_of_a_batch_each_gets_what_the_lists_say(code: int, result: bool) -> None:
    pushes = [push(token=f"t{n}") for n in range(4)]
    answer = answered(code, sendResult=result, expireTokens=["t0"], failTokens=["t2", "t3"])
    outcomes = made().decode_many(answer, pushes)
    assert [one.verdict for one in outcomes] == [
        Verdict.TOKEN_DEAD,
        Verdict.ACCEPTED,
        Verdict.RETRY,
        Verdict.RETRY,
    ]
    assert outcomes[2].scope is Scope.TOKEN
    assert outcomes[1].vendor_id == "r-1"


def test_when_nobody_knows_who_was_refused_all_are_sent_again() -> None:
    pushes = [push(token=f"t{n}") for n in range(2)]
    for answer in (answered(sendResult=False), answered(80100000, expireTokens=["else"])):
        assert {one.verdict for one in made().decode_many(answer, pushes)} == {Verdict.RETRY}


@pytest.mark.parametrize("listed", [[], [""], [None], "", {"": 1}])
def test_a_list_without_a_token_kills_nothing(listed: Any) -> None:
    outcome = made().decode(answered(expireTokens=listed, failTokens=listed))
    assert outcome == Outcome(verdict=Verdict.ACCEPTED, vendor_id="r-1")


@pytest.mark.parametrize("most", [1, 3])
async def test_a_call_with_too_many_tokens_goes_by_halves(most: int) -> None:
    """Sheet §3 and §4, 80300010: how many a call takes is not confirmed, so split."""

    def answer(request: Request) -> Response:
        if "iam.developer" in request.url:
            return LOGIN
        return answered(80300010) if len(json.loads(request.body)["token"]) > most else GOOD

    outcomes = await made(Scripted(answer)).send_many([push(token=f"t{n}") for n in range(7)])
    assert {one.verdict for one in outcomes} == {Verdict.ACCEPTED}


async def test_those_who_are_listed_as_expired_are_not_asked_about_again() -> None:
    tokens = [f"t{n}" for n in range(4)]
    gone = answered(sendResult=False, expireTokens=tokens)
    scripted = Scripted(lambda request: LOGIN if "iam.developer" in request.url else gone)
    outcomes = await made(scripted).send_many([push(token=token) for token in tokens])
    assert {one.verdict for one in outcomes} == {Verdict.TOKEN_DEAD}
    assert len(scripted.requests) == 2, "a login, and one call"


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_push_as_the_sheet_has_it() -> None:
    provider = made(badge_class="org.example.MainActivity")
    sent = body(provider, badge=1, ttl_s=3600, data={"k": "v"}, collapse_key="c")
    notification = sent["android"]["notification"]
    assert 0 <= notification.pop("notifyId") < 2**31
    assert len(notification.pop("tag")) == 32
    assert sent == {
        "data": '{"relay_id":"m-1","k":"v"}',
        "android": {
            "ttl": "3600s",
            "biTag": "m-1",
            "notification": {
                "title": "Ann",
                "body": "hi",
                "importance": "NORMAL",
                "clickAction": {"type": 3},
                "badge": {"setNum": 1, "badgeClass": "org.example.MainActivity"},
            },
        },
    }


def test_the_request_s_head() -> None:
    request = made().encode(push(), "t1")
    assert request.url == "https://push-api.cloud.honor.com/api/v1/900000001/sendMessage"
    assert request.headers == {
        "authorization": "Bearer t1",
        "content-type": "application/json; charset=UTF-8",
        "timestamp": str(int(NOW_S * 1000)),
    }


@pytest.mark.parametrize(("stated", "renewed_after_s"), [(b',"expires_in":7200', 5760), (b"", 2880)])
async def test_a_login_lasts_as_long_as_it_says_or_an_hour(stated: bytes, renewed_after_s: int) -> None:
    now = [NOW_S]
    login = Response(status=200, body=b'{"access_token":"t1"' + stated + b"}")
    scripted = Scripted(lambda request: login if "iam.developer" in request.url else GOOD)
    config = configured(HonorProvider, SETTINGS)
    provider = HonorProvider(config, transport=scripted, now=lambda: now[0])  # type: ignore[arg-type]
    logins = []
    for passed_s in (0, renewed_after_s - 1, renewed_after_s + 1):
        now[0] = NOW_S + passed_s
        assert (await provider.send(push())).verdict is Verdict.ACCEPTED
        logins.append(sum("iam.developer" in request.url for request in scripted.requests))
    assert logins == [1, 1, 2]
    assert scripted.requests[0].url == "https://iam.developer.honor.com/auth/token"
    assert parse_qs(scripted.requests[0].body.decode()) == {
        "grant_type": ["client_credentials"],
        "client_id": ["b2f9"],
        "client_secret": ["s3cr3t-client-secret"],
    }


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
    assert shown(click=click)["clickAction"] == action


@pytest.mark.parametrize(("ttl_s", "said"), [(0, "1s"), (59.9, "59s"), (9e9, "1296000s")])
def test_a_life_is_text_within_the_vendor_s_bounds(ttl_s: float, said: str) -> None:
    assert body(ttl_s=ttl_s)["android"]["ttl"] == said


def test_a_silent_push_is_data_alone() -> None:
    silent = body(title=None, body=None)
    assert "notification" not in silent["android"]
    assert "notification" not in silent
    assert json.loads(silent["data"]) == {"relay_id": "m-1"}
    shown = {"notification": {"image": "https://a.example/i"}, "android": {"notification": {"importance": "LOW"}}}
    assert body(title=None, body=None, overrides=shown) == silent, "what is for those that are shown"


def test_the_importance_goes_by_urgency_and_channel() -> None:
    provider = made(importances={"ads": "LOW"})
    assert shown(provider)["importance"] == "NORMAL"
    assert shown(provider, urgent=False)["importance"] == "LOW"
    assert shown(provider, channel="ads")["importance"] == "LOW"
    assert shown(made(importance="LOW"))["importance"] == "LOW"


def test_the_small_things() -> None:
    for key in ("notifyId", "tag"):
        assert shown(collapse_key="c", id="m-1")[key] == shown(collapse_key="c", id="m-2")[key]
        assert shown(id="m-1")[key] != shown(id="m-2")[key]
    assert "badge" not in shown(badge=3)
    assert shown(made(badge_class="a.B"), badge=500)["badge"] == {"setNum": 99, "badgeClass": "a.B"}
    assert shown(image="https://a.example/i.png")["image"] == "https://a.example/i.png"
    assert "image" not in shown(image="http://a.example/i.png")
    assert shown(thread="t")["group"] == "t"
    assert body(made(test=True))["android"]["targetUserType"] == 1
    request = made().encode_many([push(token=f"{n:0100d}") for n in range(1000)], "t")
    assert request.payload_bytes == made().encode(push(), "t").payload_bytes


# --- overrides, addresses, settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"token": []}, "token"),
        ({"message": {}}, "message"),
        ({"android": {"ttl": 60}}, "android.ttl"),
        ({"android": {"ttl": "1296001s"}}, "android.ttl"),
        ({"android": {"category": "IM"}}, "android.category"),
        *(
            ({"android": {"notification": wrong}}, f"android.notification.{next(iter(wrong))}")
            for wrong in (
                {"clickAction": None},
                {"clickAction": {"intent": ""}},
                {"clickAction": {"type": 2, "url": "http://a.example"}},
                {"importance": "HIGH"},
                {"style": 3},
                {"bigBody": "other", "body": "x"},
                {"bigTitle": "other"},
                {"buttons": [{}] * 4},
                {"buttons": [{"actionType": 3}]},
                {"badge": {"setNum": 100}},
                {"notifyId": -1},
                {"when": "soon"},
                {"when": "2026-02-31T09:12:44Z"},
                {"channel_id": "x"},
            )
        ),
    ],
)
def test_a_mistake_in_an_override_is_named(overrides: dict[str, Any], named: str) -> None:
    found = HonorProvider.check_overrides(overrides)
    assert len(found) == 1
    assert found[0].lstrip("'").startswith(named)


def test_good_overrides_pass_and_are_laid_over() -> None:
    overrides = {"android": {"biTag": None, "notification": {"style": 1, "body": "b", "bigBody": "b"}}}
    assert HonorProvider.check_overrides(overrides) == []
    sent = body(overrides=overrides)
    assert "biTag" not in sent["android"]
    assert sent["android"]["notification"]["bigBody"] == "b"


@pytest.mark.parametrize("token", ["", "a b", "é", "x" * 4097])
async def test_what_cannot_be_a_token_is_not_asked_about(token: str) -> None:
    with pytest.raises(AddressInvalid):
        made().address("token", token)
    assert (await made().send(push(token=token))).vendor_code == "token_malformed"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"app_id": "abc"}, "app_id"),
        ({"client_id": ""}, "client_id"),
        ({"client_secret": ""}, "client_secret"),
        ({"importance": "HIGH"}, "importance"),
        ({"importances": {"x": "HIGH"}}, "importances.x"),
        ({"badge_class": "Main"}, "badge_class"),
        ({"receipts": {}}, "receipts"),
        ({"receipts": {"user": "u", "secret": "s"}}, "receipts"),
    ],
)
def test_a_mistake_in_the_settings_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        configured(HonorProvider, {**SETTINGS, **settings})
    assert any(mistake.startswith(named) for mistake in caught.value.mistakes)


def test_only_the_operator_says_where_honor_is() -> None:
    for key in ("base_url", "token_url"):
        with pytest.raises(SettingsInvalid, match=key):
            configured(HonorProvider, {**SETTINGS, key: "https://a.example"}, trusted=False)


def test_receipts_are_read_by_who_set_them_up() -> None:
    assert made().receipts is None
    assert made(receipts={"path_secret": "x" * 22}).receipts is not None
