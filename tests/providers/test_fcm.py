"""FCM: the contract, the whole error table, the mapping, the settings."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from providers.contract import Outcome, Provider, Push, Scope, Verdict
from providers.fcm import FcmProvider
from providers.fcm_message import message_of, payload_bytes, ttl
from providers.http import Request, Response
from providers.loading import SettingsInvalid, build, configured
from providers.testing import NOW_S, ProviderContract, Scripted

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
ACCOUNT: dict[str, Any] = {
    "type": "service_account",
    "project_id": "demo-1",
    "private_key_id": "kid-1",
    "private_key": PEM,
    "client_email": "relay@demo-1.iam.gserviceaccount.com",
    "client_id": "1",
    "auth_uri": "https://accounts.google.com/o/oauth2/auth",
    "token_uri": "https://oauth2.googleapis.com/token",
}
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
QUOTA = "type.googleapis.com/google.rpc.QuotaFailure"
BAD_REQUEST = {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": "message.ttl"}]}
TOKEN_NAMED = {
    **BAD_REQUEST,
    "fieldViolations": [{"field": "message.token", "description": "Invalid registration token"}],
}
FID_NAMED = {**BAD_REQUEST, "fieldViolations": [{"field": "message.fid"}]}
GARBLED = {**BAD_REQUEST, "fieldViolations": [{"field": ["message.token"]}, {"field": {}}]}
TOO_BIG = {**BAD_REQUEST, "fieldViolations": [{"field": "message", "description": "Message is too large."}]}
RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "45s"}
TOKEN_SAID = "The registration token is not a valid FCM registration token"
OK = Response(status=200, body=b'{"name":"projects/demo-1/messages/0:1500415314455276%31bd1c9631bd1c96"}')
LOGIN = Response(status=200, body=b'{"access_token":"ya29.t1","expires_in":3600,"token_type":"Bearer"}')


def fault(
    http: int,
    status: str | None = None,
    code: str | None = None,
    *,
    said: str = "",
    details: tuple[dict[str, Any], ...] = (),
    **headers: str,
) -> Response:
    listed = [*details, *([{"@type": FCM_ERROR, "errorCode": code}] if code else [])]
    error = {"code": http, "message": said, "status": status, "details": listed}
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Response(status=http, headers=named, body=json.dumps({"error": error}).encode())


def per(subject: str) -> dict[str, Any]:
    return {"@type": QUOTA, "violations": [{"subject": subject, "description": "rate exceeded"}]}


class TestFcmContract(ProviderContract):
    provider = FcmProvider
    settings = {"service_account": ACCOUNT}  # noqa: RUF012
    token = "fJ3kd0:APA91bH-device_token"
    login = LOGIN
    answers = {  # noqa: RUF012
        "ok": (OK, Verdict.ACCEPTED),
        "gone": (fault(404, "NOT_FOUND", "UNREGISTERED"), Verdict.TOKEN_DEAD),
        "stale": (fault(401, "UNAUTHENTICATED"), Verdict.REAUTH),
        "big": (fault(400, "INVALID_ARGUMENT", said="Android message is too big"), Verdict.TOO_LARGE),
        "bad": (fault(400, "INVALID_ARGUMENT", details=(BAD_REQUEST,)), Verdict.REFUSED),
        "quota": (fault(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), Verdict.RETRY),
        "busy": (fault(503, "UNAVAILABLE", "UNAVAILABLE"), Verdict.RETRY),
        "project": (fault(404, "NOT_FOUND", said="Requested entity was not found."), Verdict.MISCONFIGURED),
    }


class TestFcmDataModeContract(TestFcmContract):
    settings = {"service_account": json.dumps(ACCOUNT), "mode": "data", "analytics_label": "l"}  # noqa: RUF012


def made(transport: Any = None, **settings: Any) -> FcmProvider:
    call = transport or Scripted(lambda _: Response(status=500))
    provider: Provider = build(FcmProvider, {"service_account": ACCOUNT, **settings}, transport=call, now=lambda: NOW_S)
    assert isinstance(provider, FcmProvider)
    return provider


RETRY, DEAD, REFUSED = Verdict.RETRY, Verdict.TOKEN_DEAD, Verdict.REFUSED
MISCONFIGURED, REAUTH, TOO_LARGE = Verdict.MISCONFIGURED, Verdict.REAUTH, Verdict.TOO_LARGE
MESSAGE, TOKEN, WHOLE = Scope.MESSAGE, Scope.TOKEN, Scope.ACCOUNT

TABLE: list[tuple[Response, Verdict, Scope, float | None]] = [
    (fault(400, "INVALID_ARGUMENT", details=(BAD_REQUEST,)), REFUSED, MESSAGE, None),
    (fault(400, "INVALID_ARGUMENT", details=(BAD_REQUEST,), said=TOKEN_SAID), REFUSED, MESSAGE, None),
    (fault(400, "INVALID_ARGUMENT", said=TOKEN_SAID), REFUSED, MESSAGE, None),
    (fault(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", said=TOKEN_SAID), DEAD, TOKEN, None),
    (fault(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", details=(TOKEN_NAMED,)), DEAD, TOKEN, None),
    (fault(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", details=(FID_NAMED,)), DEAD, TOKEN, None),
    (fault(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", details=(BAD_REQUEST,)), REFUSED, MESSAGE, None),
    (fault(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", details=(GARBLED,)), REFUSED, MESSAGE, None),
    (fault(400, "INVALID_ARGUMENT", details=(TOKEN_NAMED,)), REFUSED, MESSAGE, None),
    (fault(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", details=(TOO_BIG,)), TOO_LARGE, MESSAGE, None),
    (fault(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", said="Package name mismatch"), REFUSED, MESSAGE, None),
    (fault(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", said="Message too big"), TOO_LARGE, MESSAGE, None),
    (fault(400, "INVALID_ARGUMENT", said="Payload exceeds the maximum size of 4096 bytes"), TOO_LARGE, MESSAGE, None),
    (fault(400, "INVALID_ARGUMENT", "UNSPECIFIED_ERROR", said=TOKEN_SAID), REFUSED, MESSAGE, None),
    (fault(401, "UNAUTHENTICATED"), REAUTH, WHOLE, None),
    (fault(401, "UNAUTHENTICATED", "UNSPECIFIED_ERROR"), REAUTH, WHOLE, None),
    (fault(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"), MISCONFIGURED, TOKEN, None),
    (fault(401, "UNAUTHENTICATED", "APNS_AUTH_ERROR"), MISCONFIGURED, TOKEN, None),
    (Response(status=401, body=b"<html>"), REAUTH, MESSAGE, None),
    (fault(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"), DEAD, TOKEN, None),
    (fault(403, "PERMISSION_DENIED"), MISCONFIGURED, WHOLE, None),
    (Response(status=403, body=b"<html>"), MISCONFIGURED, WHOLE, None),
    (fault(404, "NOT_FOUND", "UNREGISTERED", said="Requested entity was not found."), DEAD, TOKEN, None),
    (fault(404, "NOT_FOUND", said="Requested entity was not found."), MISCONFIGURED, WHOLE, None),
    (fault(404, "NOT_FOUND", "UNSPECIFIED_ERROR"), MISCONFIGURED, WHOLE, None),
    (fault(404, "NOT_FOUND", said="UNREGISTERED"), MISCONFIGURED, WHOLE, None),
    (Response(status=404, body=b"<html>UNREGISTERED</html>"), MISCONFIGURED, WHOLE, None),
    (fault(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), RETRY, WHOLE, 60),
    (fault(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", retry_after="30"), RETRY, WHOLE, 30),
    (fault(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", retry_after="999999"), RETRY, WHOLE, 3600),
    (fault(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", retry_after="Mon, 24 Nov 2025 16:01:30 GMT"), RETRY, WHOLE, 90),
    (fault(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", details=(per("device:x"),)), RETRY, TOKEN, 60),
    (fault(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", details=(per("project:demo-1"),)), RETRY, WHOLE, 60),
    (fault(429, "RESOURCE_EXHAUSTED"), RETRY, WHOLE, 60),
    (Response(status=429, body=b"<html>"), RETRY, WHOLE, 60),
    (fault(500, "INTERNAL", "INTERNAL"), RETRY, MESSAGE, None),
    (fault(500, "INTERNAL", "UNSPECIFIED_ERROR"), RETRY, MESSAGE, None),
    (fault(500, "INTERNAL", "UNREGISTERED"), RETRY, MESSAGE, None),
    (Response(status=502, body=b"<html>"), RETRY, MESSAGE, None),
    (Response(status=504), RETRY, MESSAGE, None),
    (fault(503, "UNAVAILABLE", "UNAVAILABLE"), RETRY, MESSAGE, None),
    (fault(503, "UNAVAILABLE", "UNAVAILABLE", retry_after="7"), RETRY, MESSAGE, 7),
    (fault(503, "UNAVAILABLE", "UNAVAILABLE", details=(RETRY_INFO,)), RETRY, MESSAGE, 45),
    (fault(503, "UNAVAILABLE", "UNAVAILABLE", details=(RETRY_INFO,), retry_after="7"), RETRY, MESSAGE, 7),
    (Response(status=302, headers={"location": "http://127.0.0.1/"}), RETRY, MESSAGE, None),
    (Response(status=200), RETRY, MESSAGE, None),
    (Response(status=200, body=b'{"error":{"status":"NOT_FOUND"},"name":"projects/x"}'), RETRY, MESSAGE, None),
    (replace(fault(404, "NOT_FOUND", "UNREGISTERED"), status=200), RETRY, MESSAGE, None),
    (Response(status=410, body=b'{"timestamp":"yesterday"}'), MISCONFIGURED, WHOLE, None),
]


@pytest.mark.parametrize(("response", "verdict", "scope", "wait_s"), TABLE)
def test_the_error_table(response: Response, verdict: Verdict, scope: Scope, wait_s: float | None) -> None:
    outcome = made().decode(response)
    assert (outcome.verdict, outcome.scope, outcome.retry_after_s) == (verdict, scope, wait_s)


def test_an_accepted_push_has_its_name_and_a_garbled_one_may_have_been_sent() -> None:
    assert made().decode(OK).vendor_id == "projects/demo-1/messages/0:1500415314455276%31bd1c9631bd1c96"
    assert made().decode(Response(status=200, body=b"<html>")).maybe_sent


def test_the_vendor_code_is_the_error_code_then_the_status() -> None:
    assert made().decode(fault(404, "NOT_FOUND", "UNREGISTERED")).vendor_code == "UNREGISTERED"
    assert made().decode(fault(403, "PERMISSION_DENIED")).vendor_code == "PERMISSION_DENIED"
    assert made().decode(Response(status=502)).vendor_code == "status_502"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (3600, "3600s"), (1.5, "1.500000000s"), (42.0, "42s"), (2_419_200, "2419200s")]
)
def test_ttl(seconds: float, text: str) -> None:
    assert ttl(seconds) == text


# Logging in.


async def test_the_assertion_is_what_google_wants() -> None:
    scripted = Scripted(lambda request: LOGIN if "token" in request.url else OK)
    assert (await made(scripted).send(Push(id="m", token="t-1"))).verdict is Verdict.ACCEPTED
    login, send = scripted.requests
    assert login.url == "https://oauth2.googleapis.com/token"
    assert login.body.startswith(b"grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=")
    assertion = login.body.decode().partition("assertion=")[2]
    claims = jwt.decode(
        assertion,
        RSA.public_key(),
        algorithms=["RS256"],
        audience="https://oauth2.googleapis.com/token",
        options={"verify_exp": False, "verify_iat": False},
    )
    assert claims == {
        "iss": "relay@demo-1.iam.gserviceaccount.com",
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": "https://oauth2.googleapis.com/token",
        "iat": int(NOW_S),
        "exp": int(NOW_S) + 3600,
    }
    assert jwt.get_unverified_header(assertion) == {"alg": "RS256", "typ": "JWT", "kid": "kid-1"}
    assert send.url == "https://fcm.googleapis.com/v1/projects/demo-1/messages:send"
    assert send.headers["authorization"] == "Bearer ya29.t1"
    assert send.headers["content-type"] == "application/json; charset=UTF-8"


async def test_a_token_is_renewed_at_four_fifths_of_its_life() -> None:
    clock = [NOW_S]
    scripted = Scripted(lambda request: LOGIN if "token" in request.url else OK)
    config = configured(FcmProvider, {"service_account": ACCOUNT})
    provider = FcmProvider(config, transport=scripted, now=lambda: clock[0])  # type: ignore[arg-type]
    for later_s, logins in ((0, 1), (2879, 1), (2881, 2)):
        clock[0] = NOW_S + later_s
        await provider.send(Push(id="m", token="t-1"))
        assert sum("token" in request.url for request in scripted.requests) == logins


@pytest.mark.parametrize(
    ("answer", "verdict", "code"),
    [
        (
            Response(status=400, body=b'{"error":"invalid_grant","error_description":"x"}'),
            MISCONFIGURED,
            "invalid_grant",
        ),
        (Response(status=400, body=b'{"error":"invalid_scope"}'), MISCONFIGURED, "invalid_scope"),
        (Response(status=401, body=b'{"error":"unauthorized_client"}'), MISCONFIGURED, "unauthorized_client"),
        (Response(status=404, body=b"<html>"), MISCONFIGURED, "login_status_404"),
        (Response(status=408), RETRY, "login_status_408"),
        (Response(status=429), RETRY, "login_status_429"),
        (Response(status=500), RETRY, "login_status_500"),
        (Response(status=503, body=b'{"error":"backend_error"}'), RETRY, "backend_error"),
        (Response(status=302), RETRY, "login_status_302"),
        (Response(status=200, body=b"<html>"), RETRY, "login_garbled"),
        (Response(status=200, body=b'{"access_token":"a\\r\\nb","expires_in":3600}'), RETRY, "login_garbled"),
        (Response(status=200, body=b'{"access_token":"a","expires_in":null}'), RETRY, "login_garbled"),
        (Response(status=200, body=b'{"access_token":"a","expires_in":true}'), RETRY, "login_garbled"),
        (Response(status=200, body=b'{"access_token":"a","expires_in":-1}'), RETRY, "login_garbled"),
    ],
)
async def test_a_failing_login_parks_the_account(answer: Response, verdict: Verdict, code: str) -> None:
    outcome = await made(Scripted(lambda _: answer)).send(Push(id="m", token="t-1"))
    assert (outcome.verdict, outcome.scope, outcome.vendor_code) == (verdict, Scope.ACCOUNT, code)
    assert not outcome.maybe_sent


async def test_the_sandbox_is_a_matter_of_two_settings() -> None:
    scripted = Scripted(lambda request: LOGIN if request.url.endswith("/token") else OK)
    settings = {"base_url": "http://127.0.0.1:4000", "token_url": "http://127.0.0.1:4000/token"}
    account = {**ACCOUNT, "token_uri": "http://127.0.0.1:4000/token"}
    provider = made(scripted, **settings, service_account=account)
    assert (await provider.send(Push(id="m", token="t-1"))).verdict is Verdict.ACCEPTED
    assert [request.url for request in scripted.requests] == [
        "http://127.0.0.1:4000/token",
        "http://127.0.0.1:4000/v1/projects/demo-1/messages:send",
    ]


# The mapping.


def body_of(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request.body)
    return body


def message(push: Push, **settings: Any) -> dict[str, Any]:
    sent: dict[str, Any] = body_of(made(**settings).encode(push, "c"))["message"]
    return sent


TOPIC_OF_ROOM_42 = "OFEqdMCW5fX4lJLP9SoG1Z_mKf-6110d"

FULL = Push(
    id="m-1",
    token="t-1",
    title="Ann",
    body="Hi",
    image="https://app.example/i.png",
    data={"k": "v"},
    badge=3,
    sound="ping",
    channel="chat",
    thread="room-1",
    click="https://app.example/room-1",
    mutable=True,
    ttl_s=60,
    collapse_key="room-1",
    relay={"v": 1, "head": 7, "ids": ["m-1"]},
)


def test_a_shown_push() -> None:
    assert message(FULL) == {
        "token": "t-1",
        "data": {
            "relay_id": "m-1",
            "relay": '{"v":1,"head":7,"ids":["m-1"]}',
            "click": "https://app.example/room-1",
            "thread": "room-1",
            "k": "v",
        },
        "notification": {"title": "Ann", "body": "Hi", "image": "https://app.example/i.png"},
        "android": {
            "priority": "HIGH",
            "ttl": "60s",
            "collapse_key": "room-1",
            "notification": {"channel_id": "chat", "sound": "ping", "notification_count": 3, "tag": "room-1"},
        },
        "apns": {
            "headers": {
                "apns-push-type": "alert",
                "apns-priority": "10",
                "apns-expiration": str(int(NOW_S) + 60),
                "apns-collapse-id": "room-1",
            },
            "payload": {
                "aps": {"badge": 3, "sound": "ping", "category": "chat", "thread-id": "room-1", "mutable-content": 1}
            },
            "fcm_options": {"image": "https://app.example/i.png"},
        },
        "webpush": {
            "headers": {"TTL": "60", "Urgency": "high", "Topic": "LLXd9BAVD9_zPg0oQKBIH4KlMwOITG9h"},
            "notification": {"tag": "room-1"},
            "fcm_options": {"link": "https://app.example/room-1"},
        },
    }


def test_a_silent_push_is_data_only_and_polite() -> None:
    sent = message(Push(id="m-1", token="t-1", data={"k": "v"}, ttl_s=0))
    assert sent == {
        "token": "t-1",
        "data": {"relay_id": "m-1", "k": "v"},
        "android": {"priority": "NORMAL", "ttl": "0s"},
        "apns": {
            "headers": {
                "apns-push-type": "background",
                "apns-priority": "5",
                "apns-expiration": "0",
                "apns-collapse-id": "m-1",
            },
            "payload": {"aps": {"content-available": 1}},
        },
        "webpush": {"headers": {"TTL": "0", "Urgency": "normal"}},
    }


def test_a_silent_push_that_sets_the_badge_is_an_alert_to_apple() -> None:
    """As a wake-up Apple would drop it (sheet apns §4.1, §8)."""
    sent = message(Push(id="m-1", token="t-1", badge=0))["apns"]
    assert (sent["headers"]["apns-push-type"], sent["headers"]["apns-priority"]) == ("alert", "5")
    assert sent["payload"]["aps"] == {"content-available": 1, "badge": 0}


def test_in_data_mode_the_app_draws_and_apple_still_alerts() -> None:
    sent = message(FULL, mode="data")
    assert "notification" not in sent
    assert "notification" not in sent["android"]
    assert sent["android"]["priority"] == "HIGH"
    assert sent["data"]["title"] == "Ann"
    assert sent["data"]["badge"] == "3"
    assert sent["apns"]["payload"]["aps"]["alert"] == {"title": "Ann", "body": "Hi"}
    assert sent["apns"]["payload"]["aps"]["mutable-content"] == 1
    assert "notification" not in sent["webpush"]


def test_in_data_mode_the_app_gets_the_names_of_its_own_texts_too() -> None:
    """fcm §8: what a notification would have is in the data."""
    named = replace(FULL, title_loc_key="FROM", title_loc_args=("Ann", "ü"), body_loc_key="B")
    data = message(named, mode="data")["data"]
    assert (data["title_loc_key"], data["title_loc_args"], data["body_loc_key"]) == ("FROM", '["Ann","ü"]', "B")
    assert "body_loc_args" not in data
    assert not any("_loc_" in key for key in message(named)["data"])


def test_a_fid_is_its_own_target() -> None:
    sent = message(Push(id="m", token="f-1", kind="fid"))
    assert sent["fid"] == "f-1"
    assert "token" not in sent


def test_reserved_data_keys_get_a_prefix_and_values_become_strings() -> None:
    data: dict[str, Any] = {
        "from": "a",
        "_from": "b",
        "google.x": "c",
        "gcm.n": "d",
        "GCM": "e",
        "n": 1,
        "o": {"a": None},
    }
    sent = message(Push(id="m", token="t", data={**data, "relay": "mine", "relay_id": "x"}))["data"]
    assert sent == {
        "relay_id": "m",
        "__from": "a",
        "_from": "b",
        "_google.x": "c",
        "_gcm.n": "d",
        "_GCM": "e",
        "n": "1",
        "o": '{"a":null}',
        "_relay": "mine",
        "_relay_id": "x",
    }


def test_long_keys_are_shortened_where_a_vendor_has_a_limit() -> None:
    sent = message(replace(FULL, collapse_key="ключ" * 20))
    assert len(sent["apns"]["headers"]["apns-collapse-id"]) == 32
    assert len(sent["webpush"]["headers"]["Topic"]) == 32
    # The recipe of sheet webpush §4: Apple decodes the topic, and most names cannot be.
    assert message(replace(FULL, collapse_key="room:42"))["webpush"]["headers"]["Topic"] == TOPIC_OF_ROOM_42
    assert sent["android"]["collapse_key"] == "ключ" * 20


def test_ttl_is_capped() -> None:
    assert message(replace(FULL, ttl_s=9_999_999))["android"]["ttl"] == "2419200s"
    assert message(replace(FULL, ttl_s=-5))["android"]["ttl"] == "0s"


def test_an_action_is_androids_click_action() -> None:
    assert message(replace(FULL, click="OPEN_ROOM"))["android"]["notification"]["click_action"] == "OPEN_ROOM"


def test_a_dry_run_says_so() -> None:
    assert body_of(made(validate_only=True).encode(FULL, "c"))["validate_only"] is True
    assert "validate_only" not in body_of(made().encode(FULL, "c"))


@pytest.mark.parametrize("token", ["", "a\x00b", "x" * 4097, "a\nb"])
async def test_a_malformed_token_is_refused_here(token: str) -> None:
    scripted = Scripted(lambda _: LOGIN)
    outcome = await made(scripted).send(Push(id="m", token=token))
    assert (outcome.verdict, outcome.vendor_code) == (Verdict.REFUSED, "token_malformed")
    assert len(scripted.requests) == 1


def test_the_limit_is_about_what_one_device_gets() -> None:
    def size(**fields: Any) -> int:
        return payload_bytes(message_of(replace(FULL, **fields), shown_by_app=False, now_s=NOW_S))

    assert size() < 400
    assert size(body="x" * 3000) - size(body="") == 3000
    assert size(token="t" * 3000) == size()


async def test_ids_go_first_then_the_whole_is_too_large() -> None:
    scripted = Scripted(lambda request: LOGIN if "token" in request.url else OK)
    provider = made(scripted)
    push = replace(FULL, relay={"v": 1, "ids": [f"id-{n:04}" for n in range(1000)], "n": 1000})
    assert (await provider.send(push)).verdict is Verdict.ACCEPTED
    relay = json.loads(body_of(scripted.requests[-1])["message"]["data"]["relay"])
    assert relay["ids"][-1] == "id-0999"
    assert relay["n"] == 1000
    assert 100 < len(relay["ids"]) < 1000
    assert await provider.send(replace(push, body="é" * 2100)) == Outcome(
        verdict=Verdict.TOO_LARGE, vendor_code="measured_here"
    )


# Overrides.


def test_overrides_lie_over_ours_and_null_takes_away() -> None:
    overrides = {
        "android": {"notification": {"channel_id": "other", "sticky": True}, "collapse_key": None},
        "apns": {"payload": {"aps": {"interruption-level": "time-sensitive"}, "x": [1, {"y": None}]}},
        "webpush": {"notification": {"requireInteraction": True}},
        "data": {"k": None, "more": "1"},
    }
    assert FcmProvider.check_overrides(overrides) == []
    sent = message(replace(FULL, overrides=overrides))
    assert sent["android"]["notification"]["channel_id"] == "other"
    assert sent["android"]["notification"]["tag"] == "room-1"
    assert "collapse_key" not in sent["android"]
    assert sent["apns"]["payload"]["aps"]["badge"] == 3
    assert sent["apns"]["payload"]["x"] == [1, {"y": None}]
    assert sent["webpush"]["notification"] == {"tag": "room-1", "requireInteraction": True}
    assert "k" not in sent["data"]
    assert sent["data"]["more"] == "1"


@pytest.mark.parametrize(
    "overrides",
    [
        {"token": "other"},
        {"topic": "all"},
        {"condition": "'a' in topics"},
        {"name": "x"},
        {"android": "x"},
        {"data": {"n": 1}},
        {"data": {"from": "x"}},
        {"android": {"data": {"google.x": "y"}}},
        {"android": {"ttl": 60}},
        {"android": {"ttl": "60"}},
        {"android": {"ttl": "9999999s"}},
        {"android": {"priority": "URGENT"}},
        {"android": {"collapseKey": "x"}},
        {"apns": {"headers": {"apns-topic": "a\r\nb"}}},
        {"webpush": {"headers": {"TTL": 5}}},
        {"fcm_options": {"analytics_label": "no spaces"}},
        {"apns": {"payload": {"x": float("nan")}}},
        {"apns": {"payload": {"x": {1, 2}}}},
        {"apns": {"payload": {1: 2}}},
    ],
)
async def test_overrides_that_fcm_would_refuse_are_refused_here(overrides: dict[str, Any]) -> None:
    assert FcmProvider.check_overrides(overrides)
    scripted = Scripted(lambda _: LOGIN)
    outcome = await made(scripted).send(replace(FULL, overrides=overrides))
    assert (outcome.verdict, outcome.vendor_code) == (Verdict.REFUSED, "overrides_invalid")
    assert not scripted.requests


# The service account (safety B103).


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in ACCOUNT.items() if name != key}


def small_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def curve_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def locked_key() -> str:
    return RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw")).decode()


@pytest.mark.parametrize(
    "account",
    [
        *(without(key) for key in ("type", "project_id", "private_key_id", "private_key", "client_email", "token_uri")),
        {**ACCOUNT, "type": "authorized_user"},
        {**ACCOUNT, "private_key": "garbage"},
        {**ACCOUNT, "private_key": PEM[:200]},
        {**ACCOUNT, "private_key": small_key()},
        {**ACCOUNT, "private_key": curve_key()},
        {**ACCOUNT, "private_key": locked_key()},
        {**ACCOUNT, "token_uri": "https://evil.example/token"},
        {**ACCOUNT, "token_uri": "https://oauth2.googleapis.com@evil.example/token"},
        {**ACCOUNT, "token_uri": "https://oauth2.googleapis.com.evil.example/token"},
        {**ACCOUNT, "token_uri": "http://oauth2.googleapis.com/token"},
        {**ACCOUNT, "token_uri": "http://169.254.169.254/"},
        {**ACCOUNT, "auth_uri": "https://evil.example/auth"},
        {**ACCOUNT, "universe_domain": "evil.example"},
        {**ACCOUNT, "project_id": "../../x"},
        {**ACCOUNT, "client_email": "a\r\nb"},
        {**ACCOUNT, "padding": "x" * 1_048_576},
        json.dumps({**ACCOUNT, "padding": "x" * 70_000}),
        "not json",
        "[" * 60_000,
        "[]",
        7,
        None,
    ],
)
def test_a_bad_service_account_is_refused_without_showing_it(account: Any) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        configured(FcmProvider, {"service_account": account})
    assert caught.value.mistakes
    assert all("service_account" in mistake for mistake in caught.value.mistakes)
    assert "PRIVATE KEY" not in str(caught.value)


def test_every_mistake_is_reported() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        configured(
            FcmProvider, {"service_account": {**without("project_id"), "private_key": "x"}, "mode": "loud", "x": 1}
        )
    assert len(caught.value.mistakes) == 4


def test_a_foreign_login_has_to_be_the_operators_own_setting() -> None:
    account = {**ACCOUNT, "token_uri": "https://login.example/token"}
    assert configured(FcmProvider, {"service_account": account, "token_url": "https://login.example/token"})
    with pytest.raises(SettingsInvalid):
        configured(FcmProvider, {"service_account": account, "token_url": "https://login.example/other"})
    with pytest.raises(SettingsInvalid):
        configured(FcmProvider, {"service_account": account, "token_url": "https://login.example/token"}, trusted=False)


def test_a_file_will_do(tmp_path: Path) -> None:
    path = tmp_path / "account.json"
    path.write_text(json.dumps(ACCOUNT))
    assert configured(FcmProvider, {"service_account_file": str(path)}).service_account.project_id == "demo-1"  # type: ignore[attr-defined]

    def refused(settings: dict[str, Any], *, trusted: bool = True) -> str:
        with pytest.raises(SettingsInvalid) as caught:
            configured(FcmProvider, settings, trusted=trusted)
        return str(caught.value)

    assert "not both" in refused({"service_account_file": str(path), "service_account": ACCOUNT})
    assert "cannot be read" in refused({"service_account_file": str(tmp_path / "none.json")})
    assert "operator" in refused({"service_account_file": str(path)}, trusted=False)
    path.write_bytes(b" " * 1_048_576)
    assert "larger" in refused({"service_account_file": str(path)})
    path.write_bytes(b"\xff\xfe\xfd")
    assert "UTF-8" in refused({"service_account_file": str(path)})


def test_texts_by_name_go_to_both_platforms_with_the_texts_that_stand_in_for_them() -> None:
    push = Push(
        id="m", token="t", title="Ann", body="hi", title_loc_key="FROM", title_loc_args=("Ann",), body_loc_key="B"
    )
    message = message_of(push, shown_by_app=False, now_s=NOW_S)
    shown = message["android"]["notification"]
    assert (shown["title_loc_key"], shown["title_loc_args"], shown["body_loc_key"]) == ("FROM", ["Ann"], "B")
    assert "body_loc_args" not in shown
    assert message["notification"] == {"title": "Ann", "body": "hi"}
    assert message["apns"]["payload"]["aps"]["alert"] == {
        "title": "Ann",
        "body": "hi",
        "title-loc-key": "FROM",
        "title-loc-args": ["Ann"],
        "loc-key": "B",
    }
