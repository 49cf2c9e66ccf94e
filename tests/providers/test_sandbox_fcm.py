"""The FCM emulator over real sockets: every rule of fcm.md §2 and §3, every row of §6."""

import asyncio
import io
import json
import random
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from providers.sandbox import Sandbox

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
QUOTA_FAILURE = "type.googleapis.com/google.rpc.QuotaFailure"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
NOW = 1_800_000_000
MINIMAL = b'{"message":{"token":"t-1","android":{"ttl":"42s","data":{"k":"v"}}}}'


@cache
def private_key(pem: str) -> Any:
    """Loaded once, and without the check that takes 0.1 s."""
    return load_pem_private_key(pem.encode(), password=None, unsafe_skip_rsa_key_validation=True)


class Bench:
    """A sandbox with a clock that stands, and a plain HTTP client with a good access token."""

    def __init__(self, state_dir: Path) -> None:
        self.now = float(NOW)
        self.sandbox = Sandbox(now=lambda: self.now, rng=random.Random(7), state_dir=state_dir, slow_s=60)
        self.bearer = ""

    async def open(self) -> None:
        await self.sandbox.start()
        self.http = aiohttp.ClientSession(self.sandbox.url)
        self.account: dict[str, str] = self.sandbox.account_settings()["settings"]["service_account"]
        self.project = self.account["project_id"]
        self.bearer = (await self.mint())[1]["access_token"]

    async def close(self) -> None:
        await self.http.close()
        await self.sandbox.stop()

    def assertion(
        self, *, key: Any = None, alg: str = "RS256", header: dict[str, Any] | None = None, **changes: Any
    ) -> str:
        claims = {
            "iss": self.account["client_email"],
            "scope": "https://www.googleapis.com/auth/firebase.messaging",
            "aud": "https://oauth2.googleapis.com/token",
            "iat": int(self.now),
            "exp": int(self.now) + 3600,
        } | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        headers = {"kid": self.account["private_key_id"]} | (header or {})
        return jwt.encode(claims, key or private_key(self.account["private_key"]), algorithm=alg, headers=headers)

    async def mint(self, assertion: str | None = None, **form: str) -> tuple[int, dict[str, Any]]:
        fields = {"grant_type": GRANT, "assertion": assertion or self.assertion()} | form
        async with self.http.post("/token", data={k: v for k, v in fields.items() if v}) as answer:
            return answer.status, await answer.json()

    async def post(
        self, body: bytes, *, bearer: str | None = None, project: str | None = None, content_type: str | None = None
    ) -> aiohttp.ClientResponse:
        path = f"/v1/projects/{project or self.project}/messages:send"
        headers = {
            "Authorization": f"Bearer {self.bearer if bearer is None else bearer}",
            "Content-Type": content_type or "application/json; charset=UTF-8",
        }
        answer = await self.http.post(path, data=io.BytesIO(body), headers=headers)
        await answer.read()
        return answer

    async def send(self, message: Any, **more: Any) -> tuple[int, dict[str, Any]]:
        answer = await self.post(json.dumps({"message": message, **more}).encode())
        return answer.status, await answer.json()

    async def get(self, path: str) -> Any:
        async with self.http.get(path) as answer:
            return await answer.json()

    async def received(self, token: str) -> list[dict[str, Any]]:
        phones = (await self.get(f"/_phones?token={token}"))["phones"]
        return phones[0]["received"] if phones else []

    async def control(self, path: str, order: dict[str, Any] | None = None) -> int:
        async with self.http.post(f"/_control/{path}", json=order or {}) as answer:
            return answer.status


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sandbox")


@pytest.fixture
async def bench(state_dir: Path) -> AsyncIterator[Bench]:
    bench = Bench(state_dir)
    await bench.open()
    yield bench
    await bench.close()


# --- the token endpoint (§2)


async def test_an_assertion_buys_an_access_token(bench: Bench) -> None:
    status, answer = await bench.mint()
    assert status == 200
    assert answer["access_token"].startswith("ya29.")
    assert (answer["expires_in"], answer["token_type"]) == (3599, "Bearer")


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "https://example.com/token"},
        {"aud": None},
        {"iss": "someone@else.iam.gserviceaccount.com"},
        {"exp": NOW + 3601},
        {"exp": NOW},
        {"exp": None},
        {"iat": None},
        {"iat": NOW + 301, "exp": NOW + 900},
        {"iat": NOW - 3900, "exp": NOW - 300},
        {"iat": NOW + 0.5},
        {"header": {"kid": "0" * 40}},
        {"header": {"typ": "at+jwt"}},
    ],
    ids=str,
)
async def test_a_wrong_claim_is_an_invalid_grant(bench: Bench, changes: dict[str, Any]) -> None:
    status, answer = await bench.mint(bench.assertion(**changes))
    assert (status, answer["error"]) == (400, "invalid_grant")
    assert answer["error_description"]


async def test_a_clock_a_few_minutes_off_is_forgiven(bench: Bench) -> None:
    for iat in (NOW + 299, NOW - 3800):
        status, _ = await bench.mint(bench.assertion(iat=iat, exp=iat + 3600))
        assert status == 200


async def test_only_the_accounts_own_rs256_signature_counts(bench: Bench) -> None:
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    good = bench.assertion()
    forged = [
        bench.assertion(key=stranger),
        bench.assertion(alg="RS512"),
        bench.assertion(key="x" * 64, alg="HS256"),
        good[:-8] + ("A" * 8),
        good.rpartition(".")[0] + ".",
        good.rpartition(".")[0],
        "a.b.c",
        "....",
        "é",
    ]
    for assertion in forged:
        status, answer = await bench.mint(assertion)
        assert (status, answer["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize("scope", [None, "", "https://www.googleapis.com/auth/", "email"])
async def test_a_wrong_scope_is_an_invalid_scope(bench: Bench, scope: str | None) -> None:
    status, answer = await bench.mint(bench.assertion(scope=scope))
    assert (status, answer["error"]) == (400, "invalid_scope")


async def test_the_wider_scope_works_too_and_others_may_stand_beside_it(bench: Bench) -> None:
    wide = "https://www.googleapis.com/auth/datastore https://www.googleapis.com/auth/cloud-platform"
    _, answer = await bench.mint(bench.assertion(scope=wide))
    assert (await bench.post(MINIMAL, bearer=answer["access_token"])).status == 200


async def test_a_token_for_something_else_sends_nothing(bench: Bench) -> None:
    _, answer = await bench.mint(bench.assertion(scope="https://www.googleapis.com/auth/drive"))
    refused = await bench.post(MINIMAL, bearer=answer["access_token"])
    assert refused.status == 403
    (detail,) = (await refused.json())["error"]["details"]
    assert detail["reason"] == "ACCESS_TOKEN_SCOPE_INSUFFICIENT"


async def test_the_form_itself_is_checked(bench: Bench) -> None:
    assert (await bench.mint(grant_type="password"))[1]["error"] == "unsupported_grant_type"
    assert (await bench.mint(grant_type=""))[1]["error"] == "invalid_request"
    async with bench.http.post("/token", data={"grant_type": GRANT}) as answer:
        assert (answer.status, (await answer.json())["error"]) == (400, "invalid_request")
    async with bench.http.post("/token", json={"grant_type": GRANT, "assertion": bench.assertion()}) as answer:
        assert (answer.status, (await answer.json())["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        ("invalid_grant", 400, "invalid_grant"),
        ("invalid_scope", 400, "invalid_scope"),
        ("unauthorized_client", 401, "unauthorized_client"),
        ("timeout", 408, "request_timeout"),
        ("quota", 429, "rate_limit_exceeded"),
        ("internal", 500, "internal_failure"),
        ("unavailable", 503, "temporarily_unavailable"),
    ],
)
async def test_the_token_endpoint_fails_on_demand(bench: Bench, fault: str, status: int, error: str) -> None:
    await bench.control("faults", {"on": "token", "fault": fault, "times": 1})
    got, answer = await bench.mint()
    assert (got, answer["error"]) == (status, error)
    assert (await bench.mint())[0] == 200


# --- who may send


async def test_a_missing_foreign_or_outdated_bearer_is_401(bench: Bench) -> None:
    for bearer in ("", "ya29.unknown"):
        answer = await bench.post(MINIMAL, bearer=bearer)
        error = (await answer.json())["error"]
        assert (answer.status, error["code"], error["status"]) == (401, 401, "UNAUTHENTICATED")
        assert "details" not in error
    bench.now += 3599
    assert (await bench.post(MINIMAL)).status == 401


async def test_a_wrong_project_is_404_without_a_code(bench: Bench) -> None:
    answer = await bench.post(MINIMAL, project="another")
    error = (await answer.json())["error"]
    assert (answer.status, error["status"]) == (404, "NOT_FOUND")
    assert "details" not in error


async def test_the_project_number_does_as_well_as_its_id(bench: Bench) -> None:
    assert (await bench.post(MINIMAL, project=bench.account["client_id"][:12])).status == 200


async def test_a_wrong_path_or_method_is_an_html_404(bench: Bench) -> None:
    for method, path in [("POST", "/v1/projects/x/messages"), ("GET", "/v1/projects/x/messages:send"), ("PUT", "/fcm")]:
        async with bench.http.request(method, path) as answer:
            assert answer.status == 404
            assert answer.content_type == "text/html"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
async def test_the_content_type_is_json_in_utf8(bench: Bench, content_type: str) -> None:
    assert (await bench.post(MINIMAL, content_type=content_type)).status == 400
    assert (await bench.post(MINIMAL, content_type="application/json")).status == 200


# --- the message (§3)


async def test_the_minimal_body_is_accepted_byte_for_byte(bench: Bench) -> None:
    answer = await bench.post(MINIMAL)
    assert answer.status == 200
    assert answer.content_type == "application/json"
    name = (await answer.json())["name"]
    assert name.startswith(f"projects/{bench.project}/messages/0:")
    (received,) = await bench.received("t-1")
    assert (received["name"], received["data"], received["ttl"]) == (name, {"k": "v"}, "42s")


async def test_everything_at_once_is_accepted_in_both_spellings(bench: Bench) -> None:
    android_notification = {
        "title": "t", "body": "b", "icon": "i", "color": "#a0B1c2", "sound": "default", "tag": "g", "click_action": "c",
        "title_loc_key": "k", "title_loc_args": ["1"], "bodyLocKey": "k", "bodyLocArgs": [], "channel_id": "chat",
        "ticker": "t", "sticky": True, "event_time": "2026-10-02T15:01:23.045123456Z", "localOnly": False,
        "notification_priority": "PRIORITY_MAX", "default_sound": True, "default_vibrate_timings": True,
        "default_light_settings": False, "vibrateTimings": ["0s", "0.5s"], "visibility": "SECRET",
        "notification_count": 3, "image": "https://example.com/i.png", "proxy": "IF_PRIORITY_LOWERED",
        "light_settings": {
            "color": {"red": 1, "green": 0.5, "blue": 0, "alpha": 1}, "light_on_duration": "1s",
            "lightOffDuration": "3.5s",
        },
        "bypass_proxy_notification": False,
    }  # fmt: skip
    message = {
        "name": "ignored",
        "token": "t-all",
        "data": {"a": ""},
        "notification": {"title": "T", "body": "B", "image": "https://example.com/i.png"},
        "android": {
            "collapseKey": "c", "priority": "high", "ttl": "1.500000000s", "restricted_package_name": "com.example",
            "data": {"k": "v"}, "notification": android_notification, "fcmOptions": {"analyticsLabel": "a-_.~%"},
            "direct_boot_ok": True, "bandwidthConstrainedOk": True, "restricted_satellite_ok": False,
        },
        "apns": {
            "headers": {"apns-priority": "10", "apns-expiration": "0"},
            "payload": {"aps": {"alert": {"title": "x"}, "badge": 1}, "custom": [1, {"deep": None}]},
            "fcm_options": {"analytics_label": "l", "image": "https://example.com/i.png"},
            "live_activity_token": "abc",
        },
        "webpush": {
            "headers": {"TTL": "60", "Urgency": "very-low", "Topic": "abc_-"},
            "data": {"x": "y"},
            "notification": {"title": "w", "actions": [{"action": "a"}], "requireInteraction": True},
            "fcm_options": {"link": "https://example.com/x", "analytics_label": "l"},
        },
        "fcm_options": {"analytics_label": "l"},
    }  # fmt: skip
    assert (await bench.send(message, validateOnly=False))[0] == 200
    (received,) = await bench.received("t-all")
    assert received["message"]["android"]["priority"] == "HIGH"
    assert received["message"]["android"]["notification"]["body_loc_key"] == "k"


def android(**fields: Any) -> dict[str, Any]:
    return {"token": "t", "android": fields}


def shown(**fields: Any) -> dict[str, Any]:
    return android(notification=fields)


WRONG: list[tuple[Any, str]] = [
    # targets
    ({}, "message"),
    ({"data": {"k": "v"}}, "message"),
    ({"token": "t", "topic": "news"}, "message"),
    ({"token": "t", "fid": "f"}, "message"),
    ({"token": ""}, "message.token"),
    ({"token": "has space"}, "message.token"),
    ({"token": "x" * 4097}, "message.token"),
    ({"token": 5}, "message.token"),
    ({"fid": "has\nline"}, "message.fid"),
    ({"topic": "/topics/news"}, "message.topic"),
    ({"topic": "größe"}, "message.topic"),
    ({"topic": ""}, "message.topic"),
    ({"condition": "'a' in topics &&"}, "message.condition"),
    ({"condition": "('a' in topics"}, "message.condition"),
    ({"condition": "'a' in topics 'b' in topics"}, "message.condition"),
    ({"condition": "'a b' in topics"}, "message.condition"),
    ({"condition": ""}, "message.condition"),
    ({"condition": " || ".join(f"'{x}' in topics" for x in "abcdef")}, "message.condition"),
    ({"condition": "(" * 400 + "'a' in topics" + ")" * 400}, "message.condition"),
    ({"condition": "!" * 400 + "'a' in topics"}, "message.condition"),
    ([], "message"),
    ("text", "message"),
    # unknown fields, at each depth
    ({"token": "t", "to": "x"}, "message"),
    ({"token": "t", "notification": {"sound": "x"}}, "message.notification"),
    (android(badge=1), "message.android"),
    (shown(subtitle="x"), "message.android.notification"),
    ({"token": "t", "apns": {"aps": {}}}, "message.apns"),
    ({"token": "t", "webpush": {"ttl": "5s"}}, "message.webpush"),
    ({"token": "t", "fcm_options": {"image": "x"}}, "message.fcm_options"),
    (android(collapse_key="a", collapseKey="b"), "message.android"),
    # data
    ({"token": "t", "data": {"a": 1}}, "message.data[0].value"),
    ({"token": "t", "data": {"a": "x", "b": True}}, "message.data[1].value"),
    ({"token": "t", "data": {"a": None}}, "message.data[0].value"),
    ({"token": "t", "data": {"a": {"b": "c"}}}, "message.data[0].value"),
    ({"token": "t", "data": [["a", "b"]]}, "message.data"),
    ({"token": "t", "data": {"from": "x"}}, "message.data"),
    ({"token": "t", "data": {"message_type": "x"}}, "message.data"),
    ({"token": "t", "data": {"google.x": "x"}}, "message.data"),
    ({"token": "t", "data": {"googleMaps": "x"}}, "message.data"),
    ({"token": "t", "data": {"gcm.notification.x": "x"}}, "message.data"),
    ({"token": "t", "data": {"gcm": "x"}}, "message.data"),
    (android(data={"a": 1}), "message.android.data[0].value"),
    (android(data={"from": "x"}), "message.android.data"),
    # android
    (android(ttl=60), "message.android.ttl"),
    (android(ttl="60"), "message.android.ttl"),
    (android(ttl="-1s"), "message.android.ttl"),
    (android(ttl="1e3s"), "message.android.ttl"),
    (android(ttl=".5s"), "message.android.ttl"),
    (android(ttl="1.0000000001s"), "message.android.ttl"),
    (android(ttl="\u0661s"), "message.android.ttl"),
    (android(ttl="60s\n"), "message.android.ttl"),
    (android(ttl="2419201s"), "message.android.ttl"),
    (android(ttl="2419200.5s"), "message.android.ttl"),
    (android(priority="URGENT"), "message.android.priority"),
    (android(priority=10), "message.android.priority"),
    (android(collapse_key=1), "message.android.collapse_key"),
    (android(restricted_package_name=1), "message.android.restricted_package_name"),
    (android(direct_boot_ok="true"), "message.android.direct_boot_ok"),
    (android(bandwidth_constrained_ok=1), "message.android.bandwidth_constrained_ok"),
    (android(restricted_satellite_ok=0), "message.android.restricted_satellite_ok"),
    (android(fcm_options={"analytics_label": "a b"}), "message.android.fcm_options.analytics_label"),
    (android(fcm_options={"analytics_label": "a" * 51}), "message.android.fcm_options.analytics_label"),
    (android(fcm_options={"analytics_label": ""}), "message.android.fcm_options.analytics_label"),
    ({"token": "t", "android": "x"}, "message.android"),
    # android.notification
    (shown(title=1), "message.android.notification.title"),
    (shown(color="#abc"), "message.android.notification.color"),
    (shown(color="red"), "message.android.notification.color"),
    (shown(sound=True), "message.android.notification.sound"),
    (shown(body_loc_args="x"), "message.android.notification.body_loc_args"),
    (shown(body_loc_args=["x", 1]), "message.android.notification.body_loc_args[1]"),
    (shown(event_time="yesterday"), "message.android.notification.event_time"),
    (shown(event_time="2026-13-01T00:00:00Z"), "message.android.notification.event_time"),
    (shown(event_time="2026-01-01T00:00:00"), "message.android.notification.event_time"),
    (shown(notification_priority="HIGH"), "message.android.notification.notification_priority"),
    (shown(visibility="HIDDEN"), "message.android.notification.visibility"),
    (shown(proxy="MAYBE"), "message.android.notification.proxy"),
    (shown(notification_count="3"), "message.android.notification.notification_count"),
    (shown(notification_count=-1), "message.android.notification.notification_count"),
    (shown(notification_count=True), "message.android.notification.notification_count"),
    (shown(notification_count=2**31), "message.android.notification.notification_count"),
    (shown(sticky="yes"), "message.android.notification.sticky"),
    (shown(vibrate_timings=[1]), "message.android.notification.vibrate_timings[0]"),
    (shown(light_settings={"color": {"red": 255}}), "message.android.notification.light_settings.color.red"),
    (shown(light_settings={"color": {"red": True}}), "message.android.notification.light_settings.color.red"),
    (shown(light_settings={"light_on_duration": 1}), "message.android.notification.light_settings.light_on_duration"),
    # apns
    ({"token": "t", "apns": {"headers": {"apns-expiration": 0}}}, "message.apns.headers[0].value"),
    ({"token": "t", "notification": {}, "apns": {"headers": {"apns-priority": "7"}}}, "message.apns.headers"),
    ({"token": "t", "notification": {}, "apns": {"headers": {"APNS-Priority": "high"}}}, "message.apns.headers"),
    ({"token": "t", "apns": {"headers": {"apns-collapse-id": "x" * 65}}}, "message.apns.headers"),
    ({"token": "t", "apns": {"headers": {"apns-collapse-id": "é" * 33}}}, "message.apns.headers"),
    ({"token": "t", "apns": {"headers": {"apns-priority": "10"}}}, "message.apns.headers"),
    (
        {"token": "t", "apns": {"headers": {"apns-priority": "10"}, "payload": {"aps": {"content-available": 1}}}},
        "message.apns.headers",
    ),
    ({"token": "t", "apns": {"payload": "x"}}, "message.apns.payload"),
    ({"token": "t", "apns": {"payload": {"aps": "x"}}}, "message.apns.payload.aps"),
    ({"token": "t", "apns": {"live_activity_token": 1}}, "message.apns.live_activity_token"),
    # webpush
    ({"token": "t", "webpush": {"headers": {"TTL": 60}}}, "message.webpush.headers[0].value"),
    ({"token": "t", "webpush": {"headers": {"ttl": "60s"}}}, "message.webpush.headers"),
    ({"token": "t", "webpush": {"headers": {"Urgency": "urgent"}}}, "message.webpush.headers"),
    ({"token": "t", "webpush": {"headers": {"Topic": "x" * 33}}}, "message.webpush.headers"),
    ({"token": "t", "webpush": {"data": {"a": 1}}}, "message.webpush.data[0].value"),
    ({"token": "t", "webpush": {"notification": []}}, "message.webpush.notification"),
    ({"token": "t", "webpush": {"fcm_options": {"link": "http://example.com"}}}, "message.webpush.fcm_options.link"),
    # sizes
    ({"token": "t", "data": {"k": "x" * 4096}}, "message"),
    ({"token": "t", "android": {"data": {"k": "x" * 4096}}}, "message.android"),
    ({"token": "t", "notification": {"body": "é" * 2046, "title": ""}}, "message"),
    ({"topic": "news", "data": {"k": "x" * 2048}}, "message"),
    ({"condition": "'a' in topics", "data": {"k": "x" * 2048}}, "message"),
    ({"token": "t", "apns": {"payload": {"aps": {"alert": "x" * 4096}}}}, "message.apns"),
    ({"token": "t", "webpush": {"notification": {"body": "x" * 4096}}}, "message.webpush"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "field"), WRONG, ids=lambda value: str(value)[:60])
async def test_a_wrong_message_is_400_and_names_the_field(bench: Bench, message: Any, field: str) -> None:
    status, answer = await bench.send(message)
    error = answer["error"]
    assert (status, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    detail = error["details"][-1]
    assert detail["@type"] == BAD_REQUEST
    assert [violation["field"] for violation in detail["fieldViolations"]] == [field]
    assert error["message"] == detail["fieldViolations"][0]["description"]
    assert await bench.get("/_phones") == {"total": 0, "delivered": 0, "phones": []}


RIGHT: list[Any] = [
    {"token": "t", "data": {"k": "x" * 4095}},
    {"token": "t", "notification": {"body": "é" * 2046}},
    {"topic": "a-_.~%Z9", "data": {"k": "x" * 2047}},
    {"token": "t", "data": {"big": "x" * 4096}, "android": {"data": {"small": "x"}}},  # android.data overrides
    {"token": "t", "data": {"k": "\x01" * 4095}},  # six bytes each on the wire, one in the payload
    {"fid": "dQw4w9WgXcQ_-abcdefghi"},
    {"condition": "'a' in topics && ('b' in topics || !('c' in topics)) && \"d\" in topics || 'e' in topics"},
    {"token": "t", "notification": None, "data": None},
    {"token": "t", "android": {"ttl": "0s"}},
    {"token": "t", "android": {"ttl": "2419200s"}},
    {"token": "t", "apns": {"headers": {"apns-priority": "5"}}},
    {"token": "t", "apns": {"payload": {"aps": {"content-available": 1}}}},
    {"token": "t", "apns": {"headers": {"apns-priority": "10"}, "payload": {"aps": {"badge": 1}}}},
    {"token": "t", "apns": {"headers": {"apns-priority": "10"}, "live_activity_token": "x"}},
]


@pytest.mark.parametrize("message", RIGHT, ids=lambda value: str(value)[:60])
async def test_a_message_at_the_edge_of_a_rule_is_accepted(bench: Bench, message: Any) -> None:
    assert (await bench.send(message))[0] == 200


async def test_all_mistakes_are_named_at_once(bench: Bench) -> None:
    _, answer = await bench.send({"token": "t", "data": {"a": 1, "from": "x"}, "android": {"ttl": 5}, "x": 1})
    fields = [violation["field"] for violation in answer["error"]["details"][-1]["fieldViolations"]]
    assert fields == ["message.data[0].value", "message.data", "message.android.ttl", "message"]


async def test_only_what_fitted_the_types_carries_an_fcm_error_code(bench: Bench) -> None:
    _, unfitting = await bench.send({"token": "t", "data": {"a": 1}})
    assert [detail["@type"] for detail in unfitting["error"]["details"]] == [BAD_REQUEST]
    _, reserved = await bench.send({"token": "t", "data": {"from": "x"}})
    assert reserved["error"]["details"][0] == {"@type": FCM_ERROR, "errorCode": "INVALID_ARGUMENT"}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"null", b"{}", b'{"message":null}', b"\xff", b'{"a":NaN}', b"[" * 100_000,
             b'{"message":{"token":"t"},"extra":1}', b'{"message":{"token":"t"},"validate_only":"yes"}',
             b'{"message":{"token":"t","data":{"k":"' + b"x" * 2_000_000 + b'"}}}'],
    ids=lambda body: repr(body[:40]),
)  # fmt: skip
async def test_an_unreadable_body_is_400(bench: Bench, body: bytes) -> None:
    answer = await bench.post(body)
    assert answer.status == 400
    assert (await answer.json())["error"]["status"] == "INVALID_ARGUMENT"


async def test_validate_only_checks_and_delivers_nothing(bench: Bench) -> None:
    status, answer = await bench.send({"token": "t"}, validate_only=True)
    assert (status, answer["name"]) == (200, f"projects/{bench.project}/messages/fake_message_id")
    assert await bench.received("t") == []
    assert (await bench.send({"token": "unregistered-t"}, validate_only=True))[0] == 404


# --- topics


async def subscribe(bench: Bench, token: str, topic: str, *, method: str = "POST", query: str = "") -> int:
    path = f"/v1/projects/{bench.project}/registrations/{token}/topicSubscriptions"
    path += f"?topic_name={topic}" if method == "POST" else f"/{topic}{query}"
    headers = {"Authorization": f"Bearer {bench.bearer}"}
    async with bench.http.request(method, path, json={}, headers=headers) as answer:
        return answer.status


async def test_topics_and_conditions_reach_the_subscribed_phones(bench: Bench) -> None:
    assert await subscribe(bench, "a:1", "news") == 200
    assert await subscribe(bench, "b:2", "news") == 200
    assert await subscribe(bench, "b:2", "sport") == 200
    await bench.send({"topic": "news", "data": {"n": "1"}})
    await bench.send({"condition": "'news' in topics && !('sport' in topics)", "data": {"n": "2"}})
    assert [each["data"]["n"] for each in await bench.received("a:1")] == ["1", "2"]
    assert [each["data"]["n"] for each in await bench.received("b:2")] == ["1"]
    assert await subscribe(bench, "a:1", "news", method="DELETE") == 200
    await bench.send({"topic": "news"})
    assert len(await bench.received("a:1")) == 2


async def test_subscribing_twice_is_409_and_unsubscribing_twice_404(bench: Bench) -> None:
    assert [await subscribe(bench, "a", "news") for _ in range(2)] == [200, 409]
    assert await subscribe(bench, "a", "no/pe") == 400
    assert [await subscribe(bench, "a", "news", method="DELETE") for _ in range(2)] == [200, 404]
    assert await subscribe(bench, "a", "news", method="DELETE", query="?allow_missing=true") == 200


# --- the error table (§6)

ROWS = [
    ("badfield", 400, "INVALID_ARGUMENT", None),
    ("toobig", 400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    ("toobigfield", 400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    ("badtoken", 400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    ("badtokenfield", 400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    ("packagename", 400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    ("badauth", 401, "UNAUTHENTICATED", None),
    ("thirdparty", 401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"),
    ("apnsauth", 401, "UNAUTHENTICATED", "APNS_AUTH_ERROR"),
    ("mismatch", 403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
    ("forbidden", 403, "PERMISSION_DENIED", None),
    ("apidisabled", 403, "PERMISSION_DENIED", None),
    ("unregistered", 404, "NOT_FOUND", "UNREGISTERED"),
    ("notfound", 404, "NOT_FOUND", None),
    ("quota", 429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
    ("quotabare", 429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
    ("devicequota", 429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
    ("topicquota", 429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
    ("overload", 429, "RESOURCE_EXHAUSTED", None),
    ("internal", 500, "INTERNAL", "INTERNAL"),
    ("unspecified", 500, "UNKNOWN", "UNSPECIFIED_ERROR"),
    ("unavailable", 503, "UNAVAILABLE", "UNAVAILABLE"),
    ("unavailableafter", 503, "UNAVAILABLE", "UNAVAILABLE"),
    ("retryinfo", 503, "UNAVAILABLE", "UNAVAILABLE"),
]


@pytest.mark.parametrize(("fault", "http_status", "status", "code"), ROWS)
async def test_every_row_of_the_error_table(
    bench: Bench, fault: str, http_status: int, status: str, code: str | None
) -> None:
    got, answer = await bench.send({"token": f"{fault}-1"})
    error = answer["error"]
    assert (got, error["code"], error["status"]) == (http_status, http_status, status)
    assert error["message"]
    codes = [detail["errorCode"] for detail in error.get("details", []) if detail["@type"] == FCM_ERROR]
    assert codes == ([code] if code else [])
    assert await bench.received(f"{fault}-1") == []


async def test_the_words_on_which_a_sender_has_to_decide(bench: Bench) -> None:
    async def message(token: str) -> str:
        return str((await bench.send({"token": token}))[1]["error"]["message"])

    assert "not a valid FCM registration token" in await message("badtoken-1")
    assert "token" not in await message("packagename-1")
    assert "too big" in await message("toobig-1")
    assert await message("unregistered-1") == await message("notfound-1") == "Requested entity was not found."


async def test_quota_answers_say_whose_quota_and_how_long(bench: Bench) -> None:
    for fault, subject, retry_after in [
        ("quota", "project", "30"),
        ("quotabare", "project", None),
        ("devicequota", "device", None),
        ("topicquota", "topic", None),
    ]:
        answer = await bench.post(json.dumps({"message": {"token": f"{fault}-1"}}).encode())
        detail = (await answer.json())["error"]["details"][1]
        assert detail["@type"] == QUOTA_FAILURE
        assert detail["violations"][0]["subject"].partition(":")[0] == subject
        assert answer.headers.get("Retry-After") == retry_after
    answer = await bench.post(b'{"message":{"token":"unavailableafter-1"}}')
    assert answer.headers["Retry-After"] == "30"


@pytest.mark.parametrize(
    ("fault", "status"), [("html404", 404), ("gateway", 502), ("gatewaytimeout", 504), ("hugebody", 503)]
)
async def test_gateway_errors_are_pages(bench: Bench, fault: str, status: int) -> None:
    answer = await bench.post(json.dumps({"message": {"token": f"{fault}-1"}}).encode())
    assert (answer.status, answer.content_type) == (status, "text/html")
    assert (len(await answer.read()) > 4 * 1024 * 1024) == (fault == "hugebody")
    assert await bench.received(f"{fault}-1") == []


@pytest.mark.parametrize("fault", ["garbage", "empty"])
async def test_an_unreadable_200_means_that_the_message_was_taken(bench: Bench, fault: str) -> None:
    answer = await bench.post(json.dumps({"message": {"token": f"{fault}-1"}}).encode())
    assert answer.status == 200
    with pytest.raises(ValueError):
        json.loads(await answer.read())
    assert len(await bench.received(f"{fault}-1")) == 1


@pytest.mark.parametrize(("fault", "arrived"), [("reset", 1), ("cut", 0)])
async def test_a_reset_connection_tells_nothing_of_the_message(bench: Bench, fault: str, arrived: int) -> None:
    with pytest.raises(aiohttp.ClientConnectionError):
        await bench.post(json.dumps({"message": {"token": f"{fault}-1"}}).encode())
    assert len(await bench.received(f"{fault}-1")) == arrived
    assert (await bench.get("/_control/state"))["fcm"]["outcomes"][fault] == 1


async def test_a_slow_answer_comes_late_but_the_message_at_once(bench: Bench) -> None:
    late = asyncio.create_task(bench.post(b'{"message":{"token":"slow-1"}}'))
    assert (await bench.get("/_phones/wait?token=slow-1&timeout=10"))["reached"]
    assert not late.done()
    await bench.sandbox.stop()  # cuts it short
    assert (await late).status == 200


async def test_the_delay_of_a_slow_answer_can_be_ordered(bench: Bench) -> None:
    await bench.control("faults", {"token": "t", "fault": "slow", "delay_s": 0.05, "times": 1})
    began = asyncio.get_running_loop().time()
    assert (await bench.send({"token": "t"}))[0] == 200
    assert asyncio.get_running_loop().time() - began >= 0.05


async def test_a_lost_message_is_accepted_and_never_arrives(bench: Bench) -> None:
    assert (await bench.send({"token": "lost-1"}))[0] == 200
    assert await bench.received("lost-1") == []


@pytest.mark.parametrize("shows", [{"notification": {"title": "Ann"}}, {"alert": "hi"}, {"badge": 1}, {"sound": "x"}])
async def test_an_iphone_s_wake_up_that_shows_something_is_dropped_without_a_word(
    bench: Bench, shows: dict[str, Any]
) -> None:
    """apns §4.1."""
    seen = {"notification": shows["notification"]} if "notification" in shows else {}
    aps = {"content-available": 1, **({} if seen else shows)}
    headers = {"apns-push-type": "background", "apns-priority": "5"}
    loud = {"apns": {"headers": headers, "payload": {"aps": aps}}, **seen}
    assert (await bench.send({"token": "ios-1", **loud}))[0] == 200
    assert await bench.received("ios-1") == []
    quiet = {"apns": {"headers": headers, "payload": {"aps": {"content-available": 1}}}}
    assert (await bench.send({"token": "ios-1", **quiet}))[0] == 200
    assert len(await bench.received("ios-1")) == 1
    assert (await bench.send({"token": "android-1", **loud}))[0] == 200
    assert len(await bench.received("android-1")) == 1


async def test_a_numbered_beginning_fails_only_so_often(bench: Bench) -> None:
    assert [(await bench.send({"token": "unavailable2-a"}))[0] for _ in range(4)] == [503, 503, 200, 200]
    assert (await bench.send({"token": "unavailable2-b"}))[0] == 503
    assert (await bench.send({"token": "t2-a"}))[0] == 200


async def test_a_fault_may_follow_the_platform(bench: Bench) -> None:
    assert (await bench.send({"token": "ios-thirdparty-1"}))[0] == 401
    assert (await bench.send({"token": "ios-1"}))[0] == 200
