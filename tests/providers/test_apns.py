"""The APNs adapter: its settings, what it writes, and what it takes each of Apple's answers for (vendor sheet `apns`)."""

import asyncio
import base64
import datetime
import json
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.apns import ApnsProvider, _refusal, _spent
from providers.apns_message import KINDS
from providers.contract import AddressInvalid, Outcome, Push, Scope, Verdict
from providers.http import Request, Response
from providers.http2 import Http2Transport, Limits
from providers.loading import SettingsInvalid, configured
from providers.testing import NOW_S, ProviderContract, Scripted

TOKEN = "0a1b2c3d" * 8
KEY = ec.generate_private_key(ec.SECP256R1())
P8 = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
SETTINGS: dict[str, Any] = {"topic": "app.example.chat", "team_id": "DEF123GHIJ", "key_id": "ABC123DEFG", "key": P8}


def certificate(key: ec.EllipticCurvePrivateKey, *, of: ec.EllipticCurvePrivateKey | None = None, **topics: str) -> str:
    """A self-signed certificate and `key`, as one PEM text. `topics`: what an extension of Apple's lists."""
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.USER_ID, "app.example.chat")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key((of or key).public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start.replace(year=2090))
    )
    for number, listed in topics.items():
        oid = x509.ObjectIdentifier(f"1.2.840.113635.100.6.3.{number.removeprefix('of_')}")
        made = made.add_extension(
            x509.UnrecognizedExtension(oid, b"\x0c" + bytes([len(listed)]) + listed.encode()), False
        )
    leaf = made.sign(key, hashes.SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return (leaf.public_bytes(Encoding.PEM) + pem).decode()


WITH_CERTIFICATE = {"topic": "app.example.chat", "certificate": certificate(KEY)}


def no(status: int, reason: str, **more: object) -> Response:
    return Response(status=status, body=json.dumps({"reason": reason, **more}).encode())


def provider(transport: Any = None, *, now: list[float] | None = None, **changes: Any) -> ApnsProvider:
    given = {key: value for key, value in {**SETTINGS, **changes}.items() if value is not None}
    config = configured(ApnsProvider, given)
    clock = now or [NOW_S]
    return ApnsProvider(config, transport=transport, now=lambda: clock[0])  # type: ignore[arg-type]


def push(**fields: Any) -> Push:
    return Push(**{"id": "m-1", "token": TOKEN, "title": "Ann", "body": "hello", **fields})


def written(one: Push, **changes: Any) -> tuple[Request, dict[str, Any]]:
    request = provider(**changes).encode(one, "jwt")
    return request, json.loads(request.body)


class TestApns(ProviderContract):
    provider: ClassVar = ApnsProvider
    settings: ClassVar = SETTINGS
    token: ClassVar = TOKEN
    answers: ClassVar = {
        "ok": (Response(status=200, headers={"apns-id": "eabeae54-14a8-11e5-b60b-1697f925ec7b"}), Verdict.ACCEPTED),
        "dead": (no(410, "Unregistered", timestamp=1_763_000_000_000), Verdict.TOKEN_DEAD),
        "malformed": (no(400, "BadDeviceToken"), Verdict.TOKEN_DEAD),
        "late": (no(403, "ExpiredProviderToken"), Verdict.REAUTH),
        "big": (no(413, "PayloadTooLarge"), Verdict.TOO_LARGE),
        "ours": (no(400, "BadPriority"), Verdict.REFUSED),
        "theirs": (no(400, "BadTopic"), Verdict.MISCONFIGURED),
        "busy": (no(429, "TooManyRequests"), Verdict.RETRY),
        "ill": (no(503, "ServiceUnavailable"), Verdict.RETRY),
    }


class TestApnsByCertificate(TestApns):
    settings: ClassVar = WITH_CERTIFICATE


# Answers: sheet §7, row by row.

MESSAGE, TOKEN_, ACCOUNT = Scope.MESSAGE, Scope.TOKEN, Scope.ACCOUNT
TABLE: dict[tuple[int, str], tuple[Verdict, Scope]] = {
    (400, "BadCollapseId"): (Verdict.REFUSED, MESSAGE),
    (400, "BadDeviceToken"): (Verdict.TOKEN_DEAD, TOKEN_),
    (400, "BadExpirationDate"): (Verdict.REFUSED, MESSAGE),
    (400, "BadMessageId"): (Verdict.REFUSED, MESSAGE),
    (400, "BadPriority"): (Verdict.REFUSED, MESSAGE),
    (400, "BadTopic"): (Verdict.MISCONFIGURED, ACCOUNT),
    (400, "DeviceTokenNotForTopic"): (Verdict.TOKEN_DEAD, TOKEN_),
    (400, "DuplicateHeaders"): (Verdict.REFUSED, MESSAGE),
    (400, "IdleTimeout"): (Verdict.RETRY, MESSAGE),
    (400, "InvalidPushType"): (Verdict.REFUSED, MESSAGE),
    (400, "MissingDeviceToken"): (Verdict.REFUSED, MESSAGE),
    (400, "MissingTopic"): (Verdict.MISCONFIGURED, ACCOUNT),
    (400, "PayloadEmpty"): (Verdict.REFUSED, MESSAGE),
    (400, "TopicDisallowed"): (Verdict.MISCONFIGURED, ACCOUNT),
    (403, "BadCertificate"): (Verdict.MISCONFIGURED, ACCOUNT),
    (403, "BadCertificateEnvironment"): (Verdict.MISCONFIGURED, ACCOUNT),
    (403, "ExpiredProviderToken"): (Verdict.REAUTH, ACCOUNT),
    (403, "Forbidden"): (Verdict.MISCONFIGURED, ACCOUNT),
    (403, "InvalidProviderToken"): (Verdict.MISCONFIGURED, ACCOUNT),
    (403, "MissingProviderToken"): (Verdict.MISCONFIGURED, ACCOUNT),
    (403, "UnrelatedKeyIdInToken"): (Verdict.REAUTH, ACCOUNT),
    (403, "BadEnvironmentKeyIdInToken"): (Verdict.MISCONFIGURED, ACCOUNT),
    (403, "BadEnvironmentKeyInToken"): (Verdict.MISCONFIGURED, ACCOUNT),
    (404, "BadPath"): (Verdict.REFUSED, MESSAGE),
    (405, "MethodNotAllowed"): (Verdict.REFUSED, MESSAGE),
    (410, "ExpiredToken"): (Verdict.TOKEN_DEAD, TOKEN_),
    (410, "Unregistered"): (Verdict.TOKEN_DEAD, TOKEN_),
    (413, "PayloadTooLarge"): (Verdict.TOO_LARGE, MESSAGE),
    (429, "TooManyProviderTokenUpdates"): (Verdict.RETRY, ACCOUNT),
    (429, "TooManyRequests"): (Verdict.RETRY, TOKEN_),
    (500, "InternalServerError"): (Verdict.RETRY, MESSAGE),
    (503, "ServiceUnavailable"): (Verdict.RETRY, MESSAGE),
    (503, "Shutdown"): (Verdict.RETRY, MESSAGE),
}


@pytest.mark.parametrize(("status", "reason"), TABLE)
def test_every_reason_is_taken_as_the_sheet_wants_it(status: int, reason: str) -> None:
    outcome = provider().decode(no(status, reason))
    assert (outcome.verdict, outcome.scope) == TABLE[status, reason]
    assert outcome.vendor_code == reason


def test_of_a_mistake_of_ours_an_operator_hears() -> None:
    """Sheet §7: "bug alert", and of the collapse id "adapter bug"; what is wrong with one device is none."""
    alerted = {reason for status, reason in TABLE if provider().decode(no(status, reason)).alert}
    assert alerted == {reason for (_, reason), (verdict, _) in TABLE.items() if verdict is Verdict.REFUSED}
    assert {"BadPriority", "PayloadEmpty", "BadPath", "MethodNotAllowed"} < alerted


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (400, Verdict.REFUSED),
        (403, Verdict.MISCONFIGURED),
        (404, Verdict.MISCONFIGURED),
        (410, Verdict.MISCONFIGURED),
        (413, Verdict.TOO_LARGE),
        (429, Verdict.RETRY),
        (500, Verdict.RETRY),
    ],
)
def test_an_unknown_reason_goes_by_its_status(status: int, verdict: Verdict) -> None:
    assert provider().decode(no(status, "SomethingNew")).verdict is verdict


def test_an_unknown_reason_about_one_device_parks_no_other() -> None:
    """Sheet §7: unknown reasons go by the status class, and each 410 there is about one device's token."""
    outcome = provider().decode(no(410, "SomethingNew"))
    assert (outcome.verdict, outcome.scope, outcome.vendor_code) == (Verdict.MISCONFIGURED, TOKEN_, "SomethingNew")
    assert provider().decode(Response(status=410, body=b"<html>")).scope is ACCOUNT, "which is not Apple's"


@pytest.mark.parametrize(("status", "reason"), [(500, "Unregistered"), (403, "BadDeviceToken"), (400, "ExpiredToken")])
def test_a_reason_with_a_foreign_status_kills_no_token(status: int, reason: str) -> None:
    assert provider().decode(no(status, reason)).verdict is not Verdict.TOKEN_DEAD


def test_a_dead_token_comes_with_the_time_since_when() -> None:
    assert provider().decode(no(410, "Unregistered", timestamp=1_763_000_000_123)).dead_since_ms == 1_763_000_000_123
    for strange in (None, "1763000000000", True, -1, 1e300, 2**70):
        assert provider().decode(no(410, "Unregistered", timestamp=strange)).dead_since_ms is None


def test_one_busy_device_slows_nobody_else() -> None:
    outcome = provider().decode(no(429, "TooManyRequests"))
    assert 10 <= (outcome.retry_after_s or 0) <= 30
    assert provider().decode(no(429, "TooManyProviderTokenUpdates")).retry_after_s == 60


def test_after_which_answers_a_connection_is_given_up() -> None:
    spent = {(status, reason) for status, reason in TABLE if _spent(no(status, reason))}
    others = {(400, "IdleTimeout"), (503, "Shutdown"), (429, "TooManyProviderTokenUpdates")}
    assert spent == others | {row for row in TABLE if row[0] == 403}
    assert not _spent(Response(status=200))


def test_what_a_goodbye_says_against_us() -> None:
    assert _refusal(b'{"reason":"BadCertificate"}') == Outcome(
        verdict=Verdict.MISCONFIGURED, scope=ACCOUNT, vendor_code="BadCertificate"
    )
    for harmless in (b"", b'{"reason":"IdleTimeout"}', b'{"reason":"Shutdown"}', b"[1]", b"\xff", b'{"reason":7}'):
        assert _refusal(harmless) is None


def sent(answer: Response | list[Response], one: Push, **changes: Any) -> tuple[Outcome, Scripted]:
    left = iter(answer) if isinstance(answer, list) else None
    scripted = Scripted(lambda _: next(left) if left is not None else answer)  # type: ignore[return-value]
    return asyncio.run(provider(scripted, **changes).send(one)), scripted


def test_a_foreign_topic_is_the_operators_mistake_until_a_device_of_it_was_reached() -> None:
    foreign, good = no(400, "DeviceTokenNotForTopic"), Response(status=200)
    answers = iter([foreign, good, foreign, foreign])

    async def four() -> list[Outcome]:
        one = provider(Scripted(lambda _: next(answers)))
        return [await one.send(push(kind=kind)) for kind in ("token", "token", "token", "voip")]

    first, _, third, other = asyncio.run(four())
    assert (first.verdict, first.scope) == (Verdict.MISCONFIGURED, TOKEN_), "one stray token must not park everybody"
    assert third.verdict is Verdict.TOKEN_DEAD
    assert other.verdict is Verdict.MISCONFIGURED, "of VoIP nothing is known yet"


def test_a_topic_that_only_voip_lacks_does_not_stop_alerts() -> None:
    assert sent(no(400, "TopicDisallowed"), push(kind="voip"))[0].scope is TOKEN_
    assert sent(no(400, "TopicDisallowed"), push())[0].scope is ACCOUNT


# The provider token: sheet §2.1.


def bearer(request: Request) -> str:
    return request.headers["authorization"].removeprefix("bearer ")


def test_the_token_is_what_apple_wants() -> None:
    _, scripted = sent(Response(status=200), push())
    token = bearer(scripted.requests[0])
    head, claims, signature = token.split(".")
    assert json.loads(base64.urlsafe_b64decode(head + "==")) == {"alg": "ES256", "kid": "ABC123DEFG"}
    assert json.loads(base64.urlsafe_b64decode(claims + "==")) == {"iss": "DEF123GHIJ", "iat": int(NOW_S)}
    assert len(base64.urlsafe_b64decode(signature + "==")) == 64
    jwt.decode(token, KEY.public_key(), algorithms=["ES256"], options={"verify_iat": False})


def test_the_sheets_vector() -> None:
    """§2.3: the first two parts for its header and claims."""
    one = provider(now=[1437179036.9])
    token = asyncio.run(one.credential()).value
    assert token.startswith(
        "eyJhbGciOiJFUzI1NiIsImtpZCI6IkFCQzEyM0RFRkcifQ.eyJpc3MiOiJERUYxMjNHSElKIiwiaWF0IjoxNDM3MTc5MDM2fQ."
    )


def tokens_over(minutes: list[float], answers: list[Response] | None = None) -> tuple[list[str], list[Outcome]]:
    """The tokens of one push at each of these minutes."""
    left = iter(answers or [])
    scripted = Scripted(lambda _: next(left, Response(status=200)))
    now = [NOW_S]

    async def over() -> list[Outcome]:
        one = provider(scripted, now=now)
        outcomes = []
        for minute in minutes:
            now[0] = NOW_S + minute * 60
            outcomes.append(await one.send(push()))
        return outcomes

    outcomes = asyncio.run(over())
    return [bearer(request) for request in scripted.requests], outcomes


def test_a_token_is_renewed_after_fifty_minutes_and_not_before() -> None:
    tokens, _ = tokens_over([0, 20, 49.9, 50.1, 99, 101])
    assert tokens[0] == tokens[1] == tokens[2] != tokens[3]
    assert tokens[3] == tokens[4] != tokens[5]


def test_an_expired_token_is_renewed_once() -> None:
    expired = no(403, "ExpiredProviderToken")
    tokens, (_, outcome) = tokens_over([0, 30], [Response(status=200), expired, Response(status=200)])
    assert outcome.verdict is Verdict.ACCEPTED
    assert tokens[1] == tokens[0] != tokens[2]
    tokens, (_, outcome) = tokens_over([0, 30], [Response(status=200), expired, expired])
    assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, ACCOUNT), "somebody's clock is wrong"


def test_a_young_token_is_kept_whatever_apple_says() -> None:
    """Or it would say TooManyProviderTokenUpdates next (§2.1.6, §10.2)."""
    expired = no(403, "ExpiredProviderToken")
    tokens, outcomes = tokens_over([0, 10], [expired, expired, Response(status=200)])
    assert len(set(tokens)) == 1
    assert [outcome.verdict for outcome in outcomes] == [Verdict.MISCONFIGURED, Verdict.ACCEPTED]
    tokens, _ = tokens_over([0, 1], [no(429, "TooManyProviderTokenUpdates")])
    assert len(set(tokens)) == 1


def test_tokens_that_change_too_often_for_longer_than_the_pause_are_an_operator_s_business() -> None:
    """Sheet §7: wait for a minute at least; an alert if it persists."""
    often, taken = no(429, "TooManyProviderTokenUpdates"), Response(status=200)
    _, outcomes = tokens_over([0, 0.5, 1, 2, 3, 4], [often, often, often, often, taken, often])
    assert [outcome.alert for outcome in outcomes] == [False, False, True, True, False, False]
    assert {outcome.verdict for outcome in outcomes[:4]} == {Verdict.RETRY}


def test_a_token_of_a_clock_that_was_set_back_since_is_not_sent_again() -> None:
    """Sheet §2.1.5, §10.8: its time is more than an hour ahead of Apple's, which may call that invalid, and not expired."""

    def apple(request: Request) -> Response:
        claims = jwt.decode(
            request.headers["authorization"].removeprefix("bearer "), options={"verify_signature": False}
        )
        return Response(status=200) if claims["iat"] <= NOW_S + 3600 else no(403, "InvalidProviderToken")

    now = [NOW_S + 8 * 3600]
    one = provider(Scripted(apple), now=now)
    assert asyncio.run(one.send(push())).verdict is Verdict.MISCONFIGURED
    now[0] = NOW_S
    assert asyncio.run(one.send(push())).verdict is Verdict.ACCEPTED


def test_an_unrelated_key_is_tried_again_with_the_same_token() -> None:
    """On a new connection: the transport gives up one that has said 403."""
    tokens, (outcome,) = tokens_over([0], [no(403, "UnrelatedKeyIdInToken"), Response(status=200)])
    assert outcome.verdict is Verdict.ACCEPTED
    assert len(tokens) == 2
    assert len(set(tokens)) == 1


@given(st.lists(st.tuples(st.floats(0, 70), st.sampled_from(["ok", "expired", "unrelated", "updates"])), max_size=12))
@settings(deadline=None, max_examples=60)
def test_no_connection_ever_sees_two_tokens_within_twenty_minutes(steps: list[tuple[float, str]]) -> None:
    answers = {
        "ok": Response(status=200),
        "expired": no(403, "ExpiredProviderToken"),
        "unrelated": no(403, "UnrelatedKeyIdInToken"),
        "updates": no(429, "TooManyProviderTokenUpdates"),
    }
    now, said = [NOW_S], [Response(status=200)]
    changes: list[float] = []
    seen: list[tuple[str, float]] = []

    def answer(request: Request) -> Response:
        token = bearer(request)
        claims = jwt.decode(token, options={"verify_signature": False})
        assert now[0] - claims["iat"] < 3600
        if seen and token != seen[-1][0]:
            changes.append(now[0])
        seen.append((token, now[0]))
        return said[0]

    async def play() -> None:
        one = provider(Scripted(answer), now=now)
        for minutes, word in steps:
            now[0] += minutes * 60
            said[0] = answers[word]
            await one.send(push())

    asyncio.run(play())
    assert all(later - earlier >= 1200 for earlier, later in pairwise(changes))


def test_a_connection_has_its_token_for_longer_than_twenty_minutes_of_apples() -> None:
    """Apple's time begins when the first push with it comes (§2.1.6); ours when it goes."""
    config = configured(ApnsProvider, SETTINGS)
    habits = ApnsProvider.own_transport(config).habits  # type: ignore[arg-type]
    assert habits.pinned == "authorization"
    assert habits.pin_s - 1200 > Limits().total_s


def test_a_certificate_needs_no_token() -> None:
    config = configured(ApnsProvider, WITH_CERTIFICATE)
    scripted = Scripted(lambda _: Response(status=200))
    one = ApnsProvider(config, transport=scripted, now=lambda: NOW_S)  # type: ignore[arg-type]
    assert asyncio.run(one.send(push())).verdict is Verdict.ACCEPTED
    assert "authorization" not in scripted.requests[0].headers


@pytest.mark.parametrize(
    ("topics", "missing"),
    [
        ({}, False),  # it does not say
        ({"of_6": "app.example.chat"}, False),
        ({"of_6": "app.example.other", "of_4": "app.example.chat.voip"}, False),
        ({"of_6": "app.example.other"}, True),
        ({"of_9": "app.example.other"}, False),  # another extension
    ],
)
def test_a_certificate_for_another_app_is_told_before_the_first_push(topics: dict[str, str], missing: bool) -> None:
    """Sheet §2.2: the allowed topics are listed in two of its extensions."""
    config = configured(ApnsProvider, {**WITH_CERTIFICATE, "certificate": certificate(KEY, **topics)})
    assert [one.startswith("topic: the certificate does not list") for one in config.advice()] == [True] * missing


@pytest.mark.parametrize(
    ("good_at", "environment", "missing"),
    [
        ({}, "production", False),  # it does not say
        ({"of_1": "", "of_2": ""}, "sandbox", False),
        ({"of_2": ""}, "production", False),
        ({"of_2": ""}, "sandbox", True),
        ({"of_1": ""}, "production", True),
    ],
)
def test_a_certificate_for_the_other_environment_is_told_before_the_first_push(
    good_at: dict[str, str], environment: str, missing: bool
) -> None:
    """Sheet §2.2."""
    own = {**WITH_CERTIFICATE, "certificate": certificate(KEY, **good_at), "environment": environment}
    said = [one.partition(",")[0] for one in configured(ApnsProvider, own).advice()]
    assert said == [f"environment: the certificate is not for {environment}"] * missing


def test_a_certificate_says_when_it_ends() -> None:
    one = ApnsProvider(
        configured(ApnsProvider, WITH_CERTIFICATE), transport=Scripted(lambda _: no(500, "x")), now=lambda: NOW_S
    )  # type: ignore[arg-type]
    assert one.credential_expires_s() == datetime.datetime(2090, 1, 1, tzinfo=datetime.UTC).timestamp()
    assert provider().credential_expires_s() is None


# Requests: sheet §4, §5, §8.


def test_an_alert() -> None:
    request, body = written(
        push(
            badge=3,
            sound="ping.caf",
            channel="CHAT",
            thread="t-1",
            image="https://app.example/i.png",
            click="https://app.example/c",
            data={"k": "v"},
            collapse_key="chat-1",
            ttl_s=3600,
            relay={"v": 1, "ids": ["a"]},
        )
    )
    assert request.url == f"https://api.push.apple.com/3/device/{TOKEN}"
    assert request.method == "POST"
    assert dict(request.headers) == {
        "authorization": "bearer jwt",
        "apns-topic": "app.example.chat",
        "apns-push-type": "alert",
        "apns-id": request.headers["apns-id"],
        "apns-expiration": str(int(NOW_S) + 3600),
        "apns-priority": "10",
        "apns-collapse-id": "chat-1",
        "content-type": "application/json",
    }
    assert body == {
        "aps": {
            "alert": {"title": "Ann", "body": "hello"},
            "badge": 3,
            "sound": "ping.caf",
            "category": "CHAT",
            "thread-id": "t-1",
            "mutable-content": 1,
        },
        "relay_id": "m-1",
        "relay": {"v": 1, "ids": ["a"]},
        "click": "https://app.example/c",
        "image": "https://app.example/i.png",
        "k": "v",
    }


def test_texts_by_name() -> None:
    _, body = written(push(title_loc_key="T", title_loc_args=["Ann"], body_loc_key="B", body_loc_args=["1", "2"]))
    alert = body["aps"]["alert"]
    assert (alert["title-loc-key"], alert["title-loc-args"]) == ("T", ["Ann"])
    assert (alert["loc-key"], alert["loc-args"]) == ("B", ["1", "2"])


def test_a_wake_up_is_background_and_never_urgent() -> None:
    request, body = written(push(title=None, body=None, sound="x", urgent=True))
    assert body["aps"] == {"content-available": 1}
    assert (request.headers["apns-push-type"], request.headers["apns-priority"]) == ("background", "5")


def test_a_wake_up_that_sets_the_badge_is_an_alert() -> None:
    """Background pushes with visible parts are dropped (§4.1, §8)."""
    request, body = written(push(title=None, body=None, badge=0))
    assert body["aps"] == {"content-available": 1, "badge": 0}
    assert (request.headers["apns-push-type"], request.headers["apns-priority"]) == ("alert", "5")


def test_an_alert_without_hurry_is_of_priority_five() -> None:
    assert written(push(urgent=False))[0].headers["apns-priority"] == "5"


@pytest.mark.parametrize(
    ("ttl_s", "expiration"),
    [
        (0, "0"),
        (-5, "0"),
        (0.2, str(int(NOW_S) + 1)),
        (60, str(int(NOW_S) + 60)),
        (90 * 86_400, str(int(NOW_S) + 30 * 86_400)),
    ],
)
def test_the_expiration_is_never_left_out(ttl_s: float, expiration: str) -> None:
    assert written(push(ttl_s=ttl_s))[0].headers["apns-expiration"] == expiration


def test_the_apns_id_follows_the_push_and_the_device() -> None:
    first = written(push())[0].headers["apns-id"]
    assert first == written(push(title="other"))[0].headers["apns-id"]
    assert first != written(push(id="m-2"))[0].headers["apns-id"]
    assert first != written(push(token="ff" * 32))[0].headers["apns-id"]
    assert str(uuid.UUID(first)) == first


@given(st.text(max_size=200))
@settings(deadline=None)
def test_a_collapse_id_is_short_and_plain_and_stands_for_its_key(key: str) -> None:
    found = written(push(collapse_key=key or None))[0].headers["apns-collapse-id"]
    assert 1 <= len(found.encode()) <= 64
    assert found.isascii()
    assert found.isprintable()
    other = written(push(collapse_key=f"{key}x"))[0].headers["apns-collapse-id"]
    assert other != found or len(key) > 100


def test_without_a_key_a_repeat_replaces_its_first() -> None:
    assert written(push())[0].headers["apns-collapse-id"] == "m-1"


def test_voip() -> None:
    request, body = written(push(kind="voip", urgent=False, data={"call": "1"}))
    assert request.headers["apns-topic"] == "app.example.chat.voip"
    assert (request.headers["apns-push-type"], request.headers["apns-priority"]) == ("voip", "10")
    assert body["call"] == "1"


def test_voip_may_be_larger() -> None:
    much = {"much": "x" * 4500}
    assert sent(Response(status=200), push(kind="voip", data=much))[0].verdict is Verdict.ACCEPTED
    assert sent(Response(status=200), push(data=much))[0].verdict is Verdict.TOO_LARGE
    assert sent(Response(status=200), push(kind="voip", data={"much": "x" * 5200}))[0].verdict is Verdict.TOO_LARGE


def test_letters_of_the_world_are_not_escaped() -> None:
    request, _ = written(push(body="新しいメッセージ"))
    assert "新しいメッセージ".encode() in request.body


@pytest.mark.parametrize(("key", "sent_as"), [(None, None), ("m-1", None), ("score", "score")])
def test_updates_of_a_live_activity_replace_one_another_only_if_that_was_asked_for(
    key: str | None, sent_as: str | None
) -> None:
    """The relay gives a message without a key of its own its id for one."""
    override = {"payload": {"aps": {"content-state": {"score": 3}}}}
    request, _ = written(push(id="m-1", kind="liveactivity", overrides=override, collapse_key=key))
    assert request.headers.get("apns-collapse-id") == sent_as


def test_a_live_activity_is_updated() -> None:
    override = {"payload": {"aps": {"content-state": {"score": 3}, "stale-date": 1_764_000_100}}}
    request, body = written(push(kind="liveactivity", title=None, body=None, overrides=override))
    assert request.headers["apns-topic"] == "app.example.chat.push-type.liveactivity"
    assert request.headers["apns-push-type"] == "liveactivity"
    assert "apns-collapse-id" not in request.headers
    assert body == {
        "aps": {
            "timestamp": int(NOW_S),
            "event": "update",
            "content-state": {"score": 3},
            "stale-date": 1_764_000_100,
        }
    }


def test_a_live_activity_is_started_with_an_alert() -> None:
    aps = {"event": "start", "attributes-type": "Game", "attributes": {"a": 1}, "content-state": {"s": 0}}
    _, body = written(push(kind="liveactivity", overrides={"payload": {"aps": aps}}))
    assert body["aps"]["alert"] == {"title": "Ann", "body": "hello"}
    assert body["aps"]["event"] == "start"


@pytest.mark.parametrize(
    "aps",
    [
        {},
        {"event": "end"},
        {"event": "start", "attributes": {}, "content-state": {}},
        {"event": "start", "attributes": {}, "attributes-type": "Game"},
        {"content-state": None},
        {"content-state": {}, "timestamp": None},
    ],
)
def test_a_live_activity_without_its_state_is_refused_here(aps: dict[str, Any]) -> None:
    outcome, scripted = sent(Response(status=200), push(kind="liveactivity", overrides={"payload": {"aps": aps}}))
    assert (outcome.verdict, outcome.vendor_code) == (Verdict.REFUSED, "activity_without_state")
    assert not scripted.requests


@pytest.mark.parametrize(
    ("environment", "kind", "host"),
    [
        ("production", "token", "api.push.apple.com"),
        ("sandbox", "token", "api.sandbox.push.apple.com"),
        ("production", "token_sandbox", "api.sandbox.push.apple.com"),
        ("sandbox", "voip_production", "api.push.apple.com"),
        ("production", "liveactivity_sandbox", "api.sandbox.push.apple.com"),
    ],
)
def test_an_address_may_name_its_environment(environment: str, kind: str, host: str) -> None:
    one = push(kind=kind, overrides={"payload": {"aps": {"content-state": {}}}})
    assert written(one, environment=environment)[0].url == f"https://{host}/3/device/{TOKEN}"


def test_the_other_port() -> None:
    assert written(push(), port=2197)[0].url.startswith("https://api.push.apple.com:2197/")


def test_names_that_we_need_get_underscores() -> None:
    _, body = written(push(data={"aps": "a", "relay": "b", "_aps": "c", "relay_id": "d", "click": "e"}))
    assert body["aps"]["alert"]["title"] == "Ann"
    assert {body["_aps"], body["__aps"]} == {"a", "c"}
    assert (body["_relay"], body["_relay_id"], body["_click"]) == ("b", "d", "e")


# Addresses.


@pytest.mark.parametrize("token", [TOKEN, TOKEN.upper(), "ab", "ab" * 200])
def test_an_address_is_kept_in_lower_case(token: str) -> None:
    assert provider().address("token", token) == token.lower()


@pytest.mark.parametrize(
    "token", ["", "a", "abc", "ab" * 201, f"{TOKEN} ", f"<{TOKEN}>", "zz" * 32, "aa\r\n", "\uff41\uff41"]
)
def test_what_is_not_a_token_is_refused(token: str) -> None:
    with pytest.raises(AddressInvalid):
        provider().address("token", token)


def test_a_certificate_reaches_no_live_activity() -> None:
    one = ApnsProvider(
        configured(ApnsProvider, WITH_CERTIFICATE), transport=Scripted(lambda _: no(500, "x")), now=lambda: NOW_S
    )  # type: ignore[arg-type]
    assert one.address("voip", TOKEN) == TOKEN
    with pytest.raises(AddressInvalid):
        one.address("liveactivity", TOKEN)


def test_kinds_come_with_and_without_an_environment() -> None:
    assert set(KINDS) == {
        f"{name}{suffix}" for name in ("token", "voip", "liveactivity") for suffix in ("", "_production", "_sandbox")
    }


# Overrides.


def test_headers_and_payload_may_be_overridden() -> None:
    override = {
        "headers": {"apns-priority": "1", "apns-collapse-id": "mine", "apns-expiration": "0"},
        "payload": {
            "aps": {"interruption-level": "time-sensitive", "alert": {"subtitle": "S", "title": None}},
            "x": [1],
        },
    }
    assert provider().check_overrides(override) == []
    request, body = written(push(overrides=override))
    assert request.headers["apns-priority"] == "1"
    assert request.headers["apns-collapse-id"] == "mine"
    assert request.headers["apns-expiration"] == "0"
    assert body["aps"]["interruption-level"] == "time-sensitive"
    assert body["aps"]["alert"] == {"body": "hello", "subtitle": "S"}
    assert body["x"] == [1]


def test_the_push_type_follows_what_an_override_shows() -> None:
    shown = {"payload": {"aps": {"sound": "default"}}}
    assert written(push(title=None, body=None, overrides=shown))[0].headers["apns-push-type"] == "alert"
    wake = {"payload": {"aps": {"alert": None, "content-available": 1}}}
    request, _ = written(push(overrides=wake))
    assert (request.headers["apns-push-type"], request.headers["apns-priority"]) == ("background", "5")


@pytest.mark.parametrize(
    "wrong",
    [
        {"topic": "x"},
        {"headers": []},
        {"headers": {"apns-topic": "other.app"}},
        {"headers": {"authorization": "bearer x"}},
        {"headers": {"apns-priority": 10}},
        {"headers": {"apns-priority": "7"}},
        {"headers": {"apns-expiration": "-1"}},
        {"headers": {"apns-collapse-id": "x" * 65}},
        {"headers": {"apns-collapse-id": "a\r\nb"}},
        {"payload": None},
        {"payload": {"aps": None}},
        {"payload": {"aps": []}},
        {"payload": {"aps": {"badge": "3"}}},
        {"payload": {"aps": {"badge": True}}},
        {"payload": {"aps": {"badge": -1}}},
        {"payload": {"aps": {"content-available": True}}},
        {"payload": {"aps": {"mutable-content": 2}}},
        {"payload": {"aps": {"interruption-level": "urgent"}}},
        {"payload": {"aps": {"event": "stop"}}},
        {"payload": {"aps": {"sound": {"critical": 1, "volume": 2}}}},
        {"payload": {"aps": {"relevance-score": float("nan")}}},
        {"payload": {"aps": {"timestamp": "1764000000"}}},
        {"payload": {"x": "y" * 6000}},
    ],
)
def test_a_wrong_override_is_told(wrong: dict[str, Any]) -> None:
    assert provider().check_overrides(wrong)


# Settings.


def mistakes(**changes: Any) -> list[str]:
    given = {key: value for key, value in {**SETTINGS, **changes}.items() if value is not None}
    with pytest.raises(SettingsInvalid) as caught:
        configured(ApnsProvider, given)
    return caught.value.mistakes


OTHER_CURVE = ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "not a key",
        P8[:80],
        KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")).decode(),
        OTHER_CURVE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    ],
    ids=["empty", "text", "cut", "public", "encrypted", "p384", "rsa"],
)
def test_a_key_that_cannot_sign_is_refused(key: str) -> None:
    (mistake,) = mistakes(key=key)
    assert mistake.startswith("key: ")
    assert "PRIVATE" not in mistake


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"key_id": "ABC123DEF"}, "key_id"),
        ({"key_id": "ABC123DEFGH"}, "key_id"),
        ({"key_id": "abc123defg"}, "key_id"),
        ({"key_id": None}, "key_id"),
        ({"team_id": None}, "team_id"),
        ({"team_id": "DEF 23GHIJ"}, "team_id"),
        ({"topic": None}, "topic"),
        ({"topic": ""}, "topic"),
        ({"topic": "app..x"}, "topic"),
        ({"topic": "app/x"}, "topic"),
        ({"topic": "app.example.chat.voip"}, "topic"),
        ({"topic": "app.example.chat.push-type.liveactivity"}, "topic"),
        ({"environment": "staging"}, "environment"),
        ({"port": 8443}, "port"),
        ({"base_url": "http://localhost:1"}, "base_url"),
        ({"ca_file": "/nonexistent/ca.pem"}, "ca_file"),
        ({"ca": "no certificate"}, "ca"),
        ({"ca": ""}, "ca"),
        ({"key": None, "key_file": "/nonexistent/key.p8"}, "key_file"),
        ({"key_file": "/nonexistent/key.p8"}, "key_file"),
    ],
)
def test_a_mistake_names_its_field(changes: dict[str, Any], field: str) -> None:
    assert any(field in mistake for mistake in mistakes(**changes))


def test_one_credential_and_not_two() -> None:
    assert mistakes(certificate=certificate(KEY))
    assert mistakes(key=None, key_id=None, team_id=None)
    assert mistakes(key=None, certificate=certificate(KEY)), "a key's names have no meaning beside a certificate"


@pytest.mark.parametrize(
    "text",
    [
        P8,
        certificate(KEY).partition("-----BEGIN PRIVATE")[0],
        certificate(KEY, of=ec.generate_private_key(ec.SECP256R1())),
        "x",
    ],
    ids=["key only", "certificate only", "not its key", "text"],
)
def test_a_certificate_comes_with_its_key(text: str) -> None:
    nothing = {"key": None, "key_id": None, "team_id": None}
    assert any("certificate" in mistake for mistake in mistakes(**nothing, certificate=text))


def test_key_and_certificate_may_stand_in_files(tmp_path: Path) -> None:
    (tmp_path / "AuthKey.p8").write_text(P8)
    (tmp_path / "app.pem").write_text(certificate(KEY))
    given = {key: value for key, value in SETTINGS.items() if key != "key"}
    config = configured(ApnsProvider, {**given, "key_file": str(tmp_path / "AuthKey.p8")})
    assert config.key.get_secret_value() == P8  # type: ignore[attr-defined]
    config = configured(ApnsProvider, {"topic": "a.b", "certificate_file": str(tmp_path / "app.pem")})
    assert isinstance(ApnsProvider.own_transport(config), Http2Transport)  # type: ignore[arg-type]
    (tmp_path / "large.p8").write_text("x" * 70_000)
    assert mistakes(key=None, key_file=str(tmp_path / "large.p8"))


@pytest.mark.parametrize("key", ["key_file", "certificate_file", "base_url", "ca", "ca_file"])
def test_a_tenant_names_no_file_and_no_host(key: str) -> None:
    with pytest.raises(SettingsInvalid):
        configured(ApnsProvider, {**SETTINGS, key: "x"}, trusted=False)
