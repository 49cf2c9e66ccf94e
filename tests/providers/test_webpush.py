"""Web Push: the contract, addresses, headers, the envelope, and every row of the sheet's answers."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import http_ece
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from providers.contract import AddressInvalid, Outcome, Push, Scope, Verdict
from providers.guard import TargetRefused
from providers.http import Request, Response
from providers.loading import SettingsInvalid, build, configured
from providers.testing import NOW_S, ProviderContract, Scripted
from providers.vapid import REBUILT_S, RENEWED_S, Signer, VapidConfig
from providers.webpush import WebPushConfig, WebPushProvider
from providers.webpush_crypto import base64url, from_base64, private_key, public_bytes
from providers.webpush_message import ttl

VAPID = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"
VAPID_PUBLIC = "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8"
OLD_VAPID = base64url(b"\x07" * 32)
OLD_PUBLIC = base64url(public_bytes(private_key(OLD_VAPID)))
SETTINGS = {"vapid_private_key": VAPID, "vapid_subject": "mailto:push@example.com"}

BROWSER = private_key("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94")
P256DH = base64url(public_bytes(BROWSER))
AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
PATH = "/wpush/v2/gAAAA-telltale%2bend"
FIREFOX = f"https://updates.push.services.mozilla.com{PATH}"
CHROME = "https://fcm.googleapis.com/fcm/send/abc:def"
EDGE = "https://wns2-par02p.notify.windows.com/w/?token=BQYAAAD%2bx"
SAFARI = "https://web.push.apple.com/QLl-abc"


def address(endpoint: str = FIREFOX, **members: Any) -> str:
    return json.dumps({"endpoint": endpoint, "keys": {"p256dh": P256DH, "auth": AUTH}, **members})


def made(answer: Response | None = None, *, now: Any = None, **settings: Any) -> tuple[WebPushProvider, Scripted]:
    scripted = Scripted(lambda _: answer or Response(status=201))
    now = now or (lambda: NOW_S)
    provider = build(WebPushProvider, {**SETTINGS, **settings}, transport=scripted, now=now)
    assert isinstance(provider, WebPushProvider)
    return provider, scripted


def push(endpoint: str = FIREFOX, **fields: Any) -> Push:
    return Push(**{"id": "m-1", "token": address(endpoint), "title": "Ann", "body": "hello", **fields})


def opened(request: Request) -> dict[str, Any]:
    """What the browser would find in it, by the referee's decryption."""
    data = http_ece.decrypt(request.body, private_key=BROWSER, auth_secret=from_base64(AUTH))
    found: dict[str, Any] = json.loads(data)
    return found


def mozilla(status: int, errno: int, **headers: str) -> Response:
    body = {"code": status, "errno": errno, "error": "x", "message": "y", "more_info": "z"}
    return Response(status=status, headers=headers, body=json.dumps(body).encode())


def apple(status: int, reason: str) -> Response:
    return Response(status=status, body=json.dumps({"reason": reason}).encode())


class TestWebPushContract(ProviderContract):
    provider = WebPushProvider
    settings = SETTINGS
    token = address()
    answers = {  # noqa: RUF012
        "ok": (Response(status=201, headers={"location": "https://push.example/m/1"}), Verdict.ACCEPTED),
        "gone": (mozilla(410, 106), Verdict.TOKEN_DEAD),
        "bad": (mozilla(400, 110), Verdict.REFUSED),
        "big": (mozilla(413, 104), Verdict.TOO_LARGE),
        "key": (mozilla(401, 109), Verdict.REAUTH),
        "busy": (mozilla(503, 201), Verdict.RETRY),
        "slow down": (Response(status=429, headers={"retry-after": "30"}), Verdict.RETRY),
    }
    dead_statuses = frozenset({404, 410})

    def carries_token(self, request: Request) -> int:
        """The token is a document; what of it goes out as it is, is the endpoint."""
        text = "\n".join([request.url, *request.headers.values(), request.body.decode("latin-1")])
        assert AUTH not in text
        assert P256DH not in text
        return text.count(PATH)

    def test_many_pushes_get_their_own_outcomes_whatever_is_among_them(self) -> None:
        """What is encrypted has to be opened before it can be counted."""
        scripted = Scripted(lambda _: Response(status=201))
        pushes = [
            push(endpoint, id=f"m-{n}", body=f"<{n}>") for n, endpoint in enumerate((FIREFOX, CHROME, EDGE, CHROME))
        ]
        outcomes = asyncio.run(self.made(scripted).send_many([replace(pushes[0], kind="pigeon"), *pushes]))
        assert [one.verdict for one in outcomes] == [Verdict.REFUSED, *[Verdict.ACCEPTED] * 4]
        told = [(request.url, opened(request)["body"]) for request in scripted.requests]
        assert told == [(FIREFOX, "<0>"), (CHROME, "<1>"), (EDGE, "<2>"), (CHROME, "<3>")]


# --- addresses (sheet §1) ---


def test_a_subscription_is_kept_in_one_form_however_it_is_written() -> None:
    provider, _ = made()
    padded = {"auth": AUTH + "==", "p256dh": P256DH.replace("-", "+").replace("_", "/") + "="}
    written = [
        address(),
        address(expirationTime=None),
        json.dumps({"keys": padded, "expirationTime": 1_900_000_000_000, "endpoint": FIREFOX}, indent=1),
    ]
    kept = {provider.address("token", text) for text in written}
    assert len(kept) == 1
    assert json.loads(kept.pop()) == {"endpoint": FIREFOX, "keys": {"p256dh": P256DH, "auth": AUTH}}


def test_the_endpoint_is_called_as_it_was_given() -> None:
    provider, _ = made()
    assert provider.encode(push(EDGE), "").url == EDGE


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("", "as JSON"),
        ("token-of-fcm", "as JSON"),
        ("[]", "as JSON"),
        ("[" * 4000, "as JSON"),
        ('{"a":' + '"x' * 3000, "as JSON"),
        ("{}", "lacks its endpoint"),
        (json.dumps({"endpoint": 7}), "lacks its endpoint"),
        (json.dumps({"endpoint": CHROME}), "lacks its keys"),
        (json.dumps({"endpoint": CHROME, "keys": [1]}), "keys must be"),
        (json.dumps({"endpoint": CHROME, "keys": {"p256dh": P256DH}}), "keys.auth must be 16 bytes"),
        (json.dumps({"endpoint": CHROME, "keys": {"p256dh": P256DH, "auth": P256DH}}), "keys.auth must be 16 bytes"),
        (json.dumps({"endpoint": CHROME, "keys": {"p256dh": AUTH, "auth": AUTH}}), "keys.p256dh must be 65 bytes"),
        (
            json.dumps({"endpoint": CHROME, "keys": {"p256dh": base64url(b"\x04" + b"\1" * 64), "auth": AUTH}}),
            "keys.p256dh is not a point",
        ),
        (address("http://fcm.googleapis.com/x"), "https"),
        (address("https://fcm.googleapis.com:8443/x"), "Port 8443"),
        (address("https://fcm.googleapis.com@evil.example/x"), "user name"),
        (address("https://127.0.0.1/x"), "names an address"),
        (address("https://push.example/x"), "not one of the push services"),
        (address("https://evilpush.apple.com.example/x"), "not one of the push services"),
        (address("https://xpush.apple.com/x"), "not one of the push services"),
        (address(f"https://fcm.googleapis.com/{'x' * 2048}"), "more than 2048 bytes"),
        (address(vapid="AAAA"), "vapid must be 65 bytes"),
        (address(vapid=P256DH), "vapid must be a key of this account"),
    ],
)
def test_what_is_no_subscription_is_refused_with_a_sentence(token: str, said: str) -> None:
    provider, _ = made()
    with pytest.raises(AddressInvalid) as caught:
        provider.address("token", token)
    assert said in str(caught.value)
    assert AUTH not in str(caught.value)


@pytest.mark.parametrize("endpoint", [FIREFOX, CHROME, EDGE, SAFARI, "https://a.b.push.apple.com/x"])
def test_the_browsers_services_may_be_called(endpoint: str) -> None:
    provider, _ = made()
    assert json.loads(provider.address("token", address(endpoint)))["endpoint"] == endpoint


def test_other_hosts_are_for_the_operator_to_allow() -> None:
    provider, _ = made(hosts=["push.example"])
    provider.address("token", address("https://a.push.example/x"))
    with pytest.raises(AddressInvalid):
        provider.address("token", address(CHROME))
    provider, _ = made(exempt=["push.lan:8080"])
    provider.address("token", address("http://push.lan:8080/x"))
    with pytest.raises(AddressInvalid):
        provider.address("token", address("http://push.lan:8081/x"))
    provider, _ = made(hosts_denied=["googleapis.com"])
    with pytest.raises(AddressInvalid):
        provider.address("token", address(CHROME))


def test_an_address_that_the_settings_allow_no_more_is_neither_called_nor_dead() -> None:
    provider, scripted = made(hosts=["push.example"])
    outcome = asyncio.run(provider.send(push(CHROME)))
    assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, Scope.TOKEN)
    assert not scripted.requests


def test_a_host_with_a_forbidden_address_is_that_devices_trouble_alone() -> None:
    def denied(_: Request) -> Response:
        raise TargetRefused("endpoint_address_denied", "no")

    provider = build(WebPushProvider, SETTINGS, transport=Scripted(denied), now=lambda: NOW_S)
    outcome = asyncio.run(provider.send(push()))
    assert outcome == Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.TOKEN, vendor_code="endpoint_address_denied")


# --- the signature (sheet §2) ---


def claims_of(request: Request, *, public: str = VAPID_PUBLIC) -> dict[str, Any]:
    scheme, t, k = request.headers["authorization"].split(" ")
    assert (scheme, k) == ("vapid", f"k={public}")
    key = private_key(VAPID if public == VAPID_PUBLIC else OLD_VAPID).public_key()
    found: dict[str, Any] = jwt.decode(
        t.removeprefix("t=").removesuffix(","),
        key,
        algorithms=["ES256"],
        options={"verify_exp": False, "verify_aud": False},
    )
    return found


def test_the_signature_names_the_origin_the_contact_and_half_a_day() -> None:
    provider, _ = made(exempt=["push.lan:8443"])
    assert claims_of(provider.encode(push(), "")) == {
        "aud": "https://updates.push.services.mozilla.com",
        "exp": int(NOW_S) + 12 * 3600,
        "sub": "mailto:push@example.com",
    }
    assert claims_of(provider.encode(push("https://push.lan:8443/x"), ""))["aud"] == "https://push.lan:8443"
    assert claims_of(provider.encode(push(EDGE), ""))["aud"] == "https://wns2-par02p.notify.windows.com"


def test_a_signature_serves_its_origin_for_six_hours() -> None:
    now = [NOW_S]
    provider, _ = made(now=lambda: now[0])
    first = provider.encode(push(), "").headers["authorization"]
    assert provider.encode(push(CHROME), "").headers["authorization"] != first
    now[0] += REBUILT_S - 1
    assert provider.encode(push(), "").headers["authorization"] == first
    now[0] += 1
    assert claims_of(provider.encode(push(), ""))["exp"] == int(now[0]) + 12 * 3600
    now[0] = NOW_S - 3600  # the clock was wrong
    assert claims_of(provider.encode(push(), ""))["exp"] == int(now[0]) + 12 * 3600


def test_a_refused_signature_is_renewed_but_not_more_than_once_an_hour() -> None:
    """Else one subscription made with another key would wear out Apple's patience for all."""
    now = [NOW_S]
    provider, scripted = made(mozilla(401, 109), now=lambda: now[0])
    signatures = []
    for waited_s in (0, 60, RENEWED_S):
        now[0] = NOW_S + waited_s
        outcome = asyncio.run(provider.send(push()))
        assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, Scope.TOKEN)
        signatures += [request.headers["authorization"] for request in scripted.requests[-2:]]
    assert len(scripted.requests) == 6
    assert len(set(signatures[:5])) == 1, "tried again with the same one: it is young"
    assert signatures[5] != signatures[0]


def test_a_subscription_made_with_an_old_key_is_signed_with_it() -> None:
    provider, _ = made(vapid_old_private_keys=[OLD_VAPID])
    token = provider.address("token", address(vapid=OLD_PUBLIC))
    claims_of(provider.encode(push(token=token), ""), public=OLD_PUBLIC)
    claims_of(provider.encode(push(token=address(vapid=VAPID_PUBLIC)), ""))


def test_old_keys_are_tried_only_for_who_does_not_say_which_and_only_when_it_is_about_the_key() -> None:
    for response, tokens, calls in (
        (apple(400, "VapidPkHashMismatch"), address(SAFARI), 2),
        (apple(400, "VapidPkHashMismatch"), address(SAFARI, vapid=OLD_PUBLIC), 1),
        (apple(410, "Unregistered"), address(SAFARI), 1),
        (Response(status=503), address(SAFARI), 1),
    ):
        provider, scripted = made(response, vapid_old_private_keys=[OLD_VAPID])
        asyncio.run(provider.send(push(token=tokens)))
        assert len(scripted.requests) == calls


@pytest.mark.parametrize("current", [apple(403, "BadJwtToken"), Response(status=403)])
def test_what_an_old_key_is_told_kills_nobody_whose_own_key_may_be_the_current_one(current: Response) -> None:
    """The signature may be what is wrong: a machine that slept for a day signs by yesterday's clock until it knows."""

    def safari(request: Request) -> Response:
        return apple(400, "VapidPkHashMismatch") if OLD_PUBLIC in request.headers["authorization"] else current

    settings = {**SETTINGS, "vapid_old_private_keys": [OLD_VAPID]}
    provider = build(WebPushProvider, settings, transport=Scripted(safari), now=lambda: NOW_S)
    outcome = asyncio.run(provider.send(push(token=address(SAFARI))))
    assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, Scope.TOKEN)


def test_the_signer_remembers_a_bounded_number_of_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("providers.vapid.ORIGINS_MAX", 2)
    signer = Signer([private_key(VAPID)], "mailto:a@b.example")
    first = signer.authorization("https://a.example", VAPID_PUBLIC, now_s=NOW_S)
    signer.authorization("https://b.example", VAPID_PUBLIC, now_s=NOW_S)
    assert signer.authorization("https://a.example", VAPID_PUBLIC, now_s=NOW_S) == first
    signer.authorization("https://c.example", VAPID_PUBLIC, now_s=NOW_S)
    assert signer.authorization("https://a.example", VAPID_PUBLIC, now_s=NOW_S) == first
    assert len(signer._signed) == 2


# --- headers and envelope (sheet §4 and §7) ---


def test_the_headers() -> None:
    provider, _ = made()
    request = provider.encode(push(collapse_key="room:42", ttl_s=3600.9), "")
    authorization = request.headers["authorization"]
    assert request.headers == {
        "content-type": "application/octet-stream",
        "content-encoding": "aes128gcm",
        "ttl": "3600",
        "urgency": "high",
        "topic": "OFEqdMCW5fX4lJLP9SoG1Z_mKf-6110d",
        "authorization": authorization,
    }
    assert request.method == "POST"


@pytest.mark.parametrize(
    ("given", "sent"), [(0, 0), (-5, 0), (0.2, 1), (1, 1), (90.9, 90), (2_419_200, 2_419_200), (1e9, 2_419_200)]
)
def test_ttl_is_clamped_and_zero_only_where_zero_is_meant(given: float, sent: int) -> None:
    assert ttl(given) == sent


@pytest.mark.parametrize(
    ("endpoint", "fields", "urgency"),
    [
        (CHROME, {}, "high"),
        (CHROME, {"urgent": False}, "normal"),
        (SAFARI, {"urgent": False}, "high"),
        (CHROME, {"title": None, "body": None}, "normal"),
        (CHROME, {"title": None, "body": None, "urgent": False}, "low"),
        (SAFARI, {"overrides": {"urgency": "very-low"}}, "very-low"),
    ],
)
def test_urgency(endpoint: str, fields: dict[str, Any], urgency: str) -> None:
    provider, _ = made()
    assert provider.encode(push(endpoint, **fields), "").headers["urgency"] == urgency


def test_microsoft_is_told_to_keep_the_message_or_not() -> None:
    provider, _ = made()
    assert provider.encode(push(EDGE), "").headers["x-wns-cache-policy"] == "cache"
    assert provider.encode(push(EDGE, ttl_s=0), "").headers["x-wns-cache-policy"] == "no-cache"
    assert "x-wns-cache-policy" not in provider.encode(push(CHROME), "").headers


def test_nothing_silent_goes_to_apple() -> None:
    """Safari takes the permission from who shows nothing; a wake-up says something there."""
    provider, _ = made(wake_text="News")
    request = provider.encode(push(SAFARI, title=None, body=None), "")
    assert opened(request).items() >= {"body": "News"}.items()
    assert "silent" not in opened(request)
    assert request.headers["urgency"] == "high"
    assert opened(provider.encode(push(CHROME, title=None, body=None), ""))["silent"] is True
    assert provider.losses(push(SAFARI, title=None, body=None)) == ["silent"], "which the trace tells of"
    for other in (
        push(CHROME, title=None, body=None),
        push(SAFARI),
        replace(push(SAFARI), token="x", title=None, body=None),
    ):
        assert provider.losses(other) == []


@pytest.mark.parametrize("hosts", [["apple.com"], ["web.push.apple.com", "push.example"], ["push.apple.com"]])
def test_nor_where_the_settings_call_apples_hosts_otherwise(hosts: list[str]) -> None:
    provider, _ = made(hosts=hosts)
    assert provider.losses(push(SAFARI, title=None, body=None)) == ["silent"]


def test_the_envelope_has_everything_that_the_app_may_show() -> None:
    provider, _ = made()
    whole = push(
        title_loc_key="NEW",
        title_loc_args=["Ann"],
        body_loc_key="TEXT",
        body_loc_args=["x"],
        image="https://app.example/i.png",
        data={"room": "42"},
        badge=3,
        sound="ping",
        channel="chat",
        thread="room-42",
        click="https://app.example/r/42",
        mutable=True,
        collapse_key="room:42",
        ttl_s=60,
        relay={"v": 1, "ids": ["a"]},
    )
    assert opened(provider.encode(whole, "")) == {
        "v": 1,
        "id": "m-1",
        "title": "Ann",
        "body": "hello",
        "title_loc_key": "NEW",
        "title_loc_args": ["Ann"],
        "body_loc_key": "TEXT",
        "body_loc_args": ["x"],
        "image": "https://app.example/i.png",
        "data": {"room": "42"},
        "badge_count": 3,
        "sound": "ping",
        "channel": "chat",
        "thread": "room-42",
        "click": "https://app.example/r/42",
        "mutable": True,
        "tag": "room:42",
        "expires_at": int(NOW_S) + 60,
        "relay": {"v": 1, "ids": ["a"]},
    }
    silent = opened(provider.encode(push(title=None, body=None, ttl_s=60), ""))
    assert silent == {"v": 1, "id": "m-1", "silent": True, "expires_at": int(NOW_S) + 60}


def test_a_service_sees_few_different_lengths() -> None:
    provider, _ = made()
    lengths = {len(provider.encode(push(CHROME, body="x" * n), "").body) for n in range(0, 3800, 50)}
    padded = sorted(length for length in lengths if length <= 2662)
    assert padded == [256 + 102, 1024 + 102, 2560 + 102]
    assert max(lengths) <= 4096


def test_firefox_for_android_gets_no_ids_that_make_it_too_large() -> None:
    provider, _ = made()
    ids = [f"m-{n:060}" for n in range(40)]
    body = "x" * 1500
    request = provider.encode(push(FIREFOX, body=body, relay={"v": 1, "ids": ids}), "")
    assert len(request.body) <= 2700
    kept = opened(request)["relay"]["ids"]
    assert kept == ids[-len(kept) :]
    assert (
        len(opened(provider.encode(push(CHROME, body="x" * 900, relay={"v": 1, "ids": ids}), ""))["relay"]["ids"]) == 40
    )
    assert len(provider.encode(push(FIREFOX, body="x" * 3000), "").body) > 2700, "a desktop may take it"


def test_the_largest_body_fits_and_one_byte_more_does_not() -> None:
    provider, scripted = made()
    rest = len(json.dumps(opened(provider.encode(push(CHROME, body=""), "")), separators=(",", ":")))
    fits = asyncio.run(provider.send(push(CHROME, body="x" * (3993 - rest))))
    assert fits.verdict is Verdict.ACCEPTED
    assert len(scripted.requests[-1].body) == 4096
    over = asyncio.run(provider.send(push(CHROME, body="x" * (3994 - rest))))
    assert over.verdict is Verdict.TOO_LARGE
    assert len(scripted.requests) == 1


def test_the_same_push_is_the_same_bytes_and_another_process_has_others() -> None:
    one, _ = made()
    two, _ = made()
    assert one.encode(push(), "").body == one.encode(push(), "").body
    assert one.encode(push(), "").body[:16] != one.encode(push(id="m-2"), "").body[:16]
    assert one.encode(push(), "").body[:16] != one.encode(push(CHROME), "").body[:16]
    assert one.encode(push(), "").body[:16] != two.encode(push(), "").body[:16]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"ttl": 3}, "'ttl' may not be overridden"),
        ({"urgency": "urgent"}, "urgency must be one of"),
        ({"urgency": None}, "urgency must be one of"),
        ({"topic": "new event"}, "topic must be"),
        ({"topic": "x" * 33}, "topic must be"),
        ({"topic": "new_event"}, "topic must be base64url"),
        ({"envelope": 1}, "envelope must be an object"),
        ({"envelope": {"id": "x"}}, "the relay's own"),
        ({"envelope": {"x": object()}}, "must be JSON"),
        ({"envelope": {"x": float("nan")}}, "must be JSON"),
    ],
)
def test_overrides_are_checked(overrides: dict[str, Any], said: str) -> None:
    (mistake,) = WebPushProvider.check_overrides(overrides)
    assert said in mistake


def test_overrides_are_sent() -> None:
    provider, _ = made()
    overrides = {"urgency": "low", "topic": "abcd", "envelope": {"actions": [{"action": "reply"}], "body": None}}
    assert WebPushProvider.check_overrides(overrides) == []
    request = provider.encode(push(overrides=overrides, collapse_key="k"), "")
    assert (request.headers["urgency"], request.headers["topic"]) == ("low", "abcd")
    found = opened(request)
    assert found["actions"] == [{"action": "reply"}]
    assert "body" not in found


# --- answers (sheet §5 and §6) ---

DEAD, REFUSED, RETRY = Verdict.TOKEN_DEAD, Verdict.REFUSED, Verdict.RETRY
REAUTH, LARGE, CONFIG = Verdict.REAUTH, Verdict.TOO_LARGE, Verdict.MISCONFIGURED
MESSAGE, TOKEN = Scope.MESSAGE, Scope.TOKEN


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_success_is_one(status: int) -> None:
    provider, _ = made()
    outcome = provider.decode(Response(status=status, headers={"location": "/m/1"}))
    assert outcome == Outcome(verdict=Verdict.ACCEPTED, vendor_id="/m/1")


def test_the_vendors_id_is_what_can_be_had() -> None:
    provider, _ = made()
    for name in ("apns-id", "x-wns-msg-id"):
        assert provider.decode(Response(status=201, headers={name: "id-1"})).vendor_id == "id-1"
    assert provider.decode(Response(status=201, headers={"location": "x" * 513})).vendor_id is None
    assert provider.decode(Response(status=201)).vendor_id is None


def test_an_endpoint_that_comes_back_as_an_id_is_kept_out_of_the_outcome() -> None:
    provider, _ = made(Response(status=201, headers={"location": FIREFOX}))
    outcome = asyncio.run(provider.send(push()))
    assert outcome == Outcome(verdict=Verdict.ACCEPTED)


@pytest.mark.parametrize(
    ("response", "verdict", "scope", "retry_after_s"),
    [
        # §5, by status alone.
        (Response(status=301), REFUSED, MESSAGE, None),
        (Response(status=307), REFUSED, MESSAGE, None),
        (Response(status=400), REFUSED, MESSAGE, None),
        (Response(status=401), REAUTH, TOKEN, None),
        (Response(status=403), REAUTH, TOKEN, None),
        (Response(status=404), DEAD, TOKEN, None),
        (Response(status=405), REFUSED, MESSAGE, None),
        (Response(status=406, headers={"retry-after": "90"}), RETRY, TOKEN, 90),
        (Response(status=406), RETRY, TOKEN, 60),
        (Response(status=408), RETRY, TOKEN, None),
        (Response(status=410), DEAD, TOKEN, None),
        (Response(status=413), LARGE, MESSAGE, None),
        (Response(status=425), RETRY, TOKEN, None),
        (Response(status=429), RETRY, TOKEN, 60),
        (Response(status=429, headers={"retry-after": "7"}), RETRY, TOKEN, 7),
        (Response(status=429, headers={"retry-after": "Mon, 24 Nov 2025 16:00:30 GMT"}), RETRY, TOKEN, 30),
        (Response(status=500), RETRY, TOKEN, None),
        (Response(status=502), RETRY, TOKEN, None),
        (Response(status=503, headers={"retry-after": "120"}), RETRY, TOKEN, 120),
        (Response(status=507), RETRY, TOKEN, None),
        # §6.1, Mozilla.
        *((mozilla(400, errno), REFUSED, MESSAGE, None) for errno in (101, 108, 110, 111, 112, 113, 114)),
        (mozilla(401, 109), REAUTH, TOKEN, None),
        (mozilla(404, 102), DEAD, TOKEN, None),
        *((mozilla(410, errno), DEAD, TOKEN, None) for errno in (103, 105, 106)),
        (mozilla(413, 104), LARGE, MESSAGE, None),
        (mozilla(500, 999), RETRY, TOKEN, None),
        *((mozilla(502, errno), RETRY, TOKEN, None) for errno in (900, 901, 902, 903)),
        (mozilla(503, 201, **{"Retry-After": "120"}), RETRY, TOKEN, 120),
        (mozilla(503, 202, **{"Retry-After": "120"}), RETRY, TOKEN, 120),
        # §6.2, Google.
        (Response(status=400, body=b"<HTML><TITLE>InvalidTtlParameter</TITLE></HTML>"), REFUSED, MESSAGE, None),
        (Response(status=400, body=b"UnauthorizedRegistration"), REAUTH, TOKEN, None),
        (Response(status=401, body=b"authorization header must be specified"), REAUTH, TOKEN, None),
        (
            Response(
                status=403,
                body=b"the VAPID credentials in the authorization header do not correspond to the credentials used",
            ),
            DEAD,
            TOKEN,
            None,
        ),
        (Response(status=410, body=b"push subscription has unsubscribed or expired.\n"), DEAD, TOKEN, None),
        # §6.3, Microsoft.
        (
            Response(status=400, headers={"X-WNS-Error-Description": "Ttl value conflicts with X-WNS-Cache-Policy"}),
            REFUSED,
            MESSAGE,
            None,
        ),
        (Response(status=201, headers={"X-WNS-Status": "channelthrottled"}), RETRY, TOKEN, None),
        (Response(status=200, headers={"X-WNS-NotificationStatus": "dropped"}), REFUSED, MESSAGE, None),
        (
            Response(status=200, headers={"X-WNS-Status": "received", "X-WNS-NotificationStatus": "dropped"}),
            *(REFUSED, MESSAGE, None),
        ),
        (Response(status=410, headers={"X-WNS-Error-Description": "Channel expired"}), DEAD, TOKEN, None),
        (Response(status=410, headers={"X-WNS-Error-Description": "Domain Blocked"}), CONFIG, TOKEN, None),
        # §6.4, Apple.
        *(
            (apple(400, reason), REFUSED, MESSAGE, None)
            for reason in ("BadTtl", "BadUrgency", "BadWebPushTopic", "BadWebPushRequest")
        ),
        (apple(400, "VapidPkHashMismatch"), DEAD, TOKEN, None),
        (apple(403, "BadJwtToken"), REAUTH, TOKEN, None),
        (apple(403, "BadAuthorizationHeader"), REAUTH, TOKEN, None),
        (apple(400, "BadVapidPublicKey"), REAUTH, TOKEN, None),
        (apple(400, "IdleTimeout"), RETRY, TOKEN, None),
        (apple(500, "InternalServerError"), RETRY, TOKEN, None),
        (apple(503, "ServiceUnavailable"), RETRY, TOKEN, None),
        (apple(503, "Shutdown"), RETRY, TOKEN, None),
        (apple(413, "PayloadTooLarge"), LARGE, MESSAGE, None),
        (apple(429, "TooManyRequests"), RETRY, TOKEN, 60),
        (apple(404, "BadPath"), REFUSED, MESSAGE, None),
        (apple(405, "MethodNotAllowed"), REFUSED, MESSAGE, None),
        (apple(410, "SomethingNew"), DEAD, TOKEN, None),
    ],
)
def test_the_sheets_answers(response: Response, verdict: Verdict, scope: Scope, retry_after_s: float | None) -> None:
    provider, _ = made()
    outcome = provider.decode(response)
    assert (outcome.verdict, outcome.scope, outcome.retry_after_s) == (verdict, scope, retry_after_s)
    assert not outcome.maybe_sent


@pytest.mark.parametrize(
    "response",
    [
        Response(status=301),
        Response(status=200, headers={"X-WNS-Status": "dropped"}),
        apple(400, "BadTtl"),
        apple(404, "BadPath"),
        apple(405, "MethodNotAllowed"),
    ],
)
def test_of_a_redirect_what_was_dropped_and_a_mistake_of_ours_an_operator_hears(response: Response) -> None:
    """Sheet §5, 3xx; §6.3, `dropped`; §6.4, "bug"."""
    outcome = made()[0].decode(response)
    assert (outcome.verdict, outcome.alert) == (REFUSED, True)


@pytest.mark.parametrize(
    "response", [Response(status=400), Response(status=413), mozilla(400, 110), Response(status=410)]
)
def test_of_what_one_message_or_browser_gets_nobody_hears(response: Response) -> None:
    assert not made()[0].decode(response).alert


def test_a_word_is_believed_only_with_its_status() -> None:
    provider, _ = made()
    assert provider.decode(mozilla(400, 106)).verdict is REFUSED
    assert provider.decode(apple(429, "VapidPkHashMismatch")).verdict is RETRY
    assert provider.decode(Response(status=400, body=b"VAPID credentials do not correspond")).verdict is REFUSED
    assert provider.decode(apple(503, "VapidPkHashMismatch")).verdict is RETRY


# --- settings ---


@pytest.mark.parametrize(
    "subject",
    ["mailto:push@example.com", "mailto:a.b+c@push.example.org", "https://example.com", "https://a.example/x"],
)
def test_contacts_that_apple_takes(subject: str) -> None:
    configured(WebPushProvider, {**SETTINGS, "vapid_subject": subject})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        *(
            ({"vapid_subject": subject}, "vapid_subject: must be mailto:")
            for subject in (
                *("", "push@example.com", "mailto: push@example.com", "mailto:push@localhost", "mailto:push"),
                *(
                    "https://localhost",
                    "https://localhost:8080/x",
                    "http://example.com",
                    "https://",
                    "https://[",
                    "ftp://a.b",
                ),
                "mailto:a@b.example\r\nx: y",
            )
        ),
        ({"vapid_private_key": "AAAA"}, "vapid_private_key: must be a P-256 private key"),
        ({"vapid_old_private_keys": ["AAAA"]}, "vapid_old_private_keys.0: must be a P-256"),
        ({"vapid_private_key_file": "/nowhere"}, "not both"),
        ({"hosts": ["https://x.example"]}, "hosts: must be names of hosts"),
        ({"hosts_denied": [""]}, "hosts_denied: must be names of hosts"),
        ({"exempt": ["push.lan"]}, "exempt: 'push.lan': write host:port"),
    ],
)
def test_settings_that_cannot_be_right(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        configured(WebPushProvider, {**SETTINGS, **settings})
    assert said in str(caught.value)


def test_the_key_may_stand_in_a_file(tmp_path: Any) -> None:
    file = tmp_path / "vapid.key"
    for text in (f"{VAPID}\n", _pem(PrivateFormat.PKCS8), _pem(PrivateFormat.TraditionalOpenSSL)):
        file.write_text(text)
        config = configured(
            WebPushProvider, {"vapid_private_key_file": str(file), "vapid_subject": "https://a.example"}
        )
        assert isinstance(config, WebPushConfig)
        assert base64url(public_bytes(config.keys[0])) == VAPID_PUBLIC
    for path, said in ((tmp_path / "none", "cannot be read"), (tmp_path, "cannot be read")):
        with pytest.raises(SettingsInvalid, match=said):
            configured(WebPushProvider, {"vapid_private_key_file": str(path), "vapid_subject": "https://a.example"})


def _pem(form: PrivateFormat) -> str:
    return private_key(VAPID).private_bytes(Encoding.PEM, form, NoEncryption()).decode()


def test_what_only_the_operator_may_set() -> None:
    assert VapidConfig.operator_only == {"exempt", "vapid_private_key_file"}
    for key in ("exempt", "vapid_private_key_file"):
        with pytest.raises(SettingsInvalid, match="only the operator"):
            configured(WebPushProvider, {**SETTINGS, key: "x"}, trusted=False)
