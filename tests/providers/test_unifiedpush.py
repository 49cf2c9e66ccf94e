"""UnifiedPush: the contract, what differs from Web Push, and every row of the sheet's answers."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import http_ece
import pytest

from providers.contract import AddressInvalid, Outcome, Push, Scope, Verdict
from providers.http import Reason, Request, Response, TransportError
from providers.loading import SettingsInvalid, build, configured
from providers.testing import NOW_S, ProviderContract, Scripted
from providers.unifiedpush import UnifiedPushProvider
from providers.webpush_crypto import base64url, from_base64, private_key, public_bytes

VAPID = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"
VAPID_PUBLIC = "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8"
SETTINGS = {"vapid_private_key": VAPID, "vapid_subject": "mailto:push@example.com"}
PHONE = private_key("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94")
KEYS = {"p256dh": base64url(public_bytes(PHONE)), "auth": "BTBZMqHH6r4Tts7J_aSIgg"}
TOPIC = "upTelltale1234"
NTFY = f"https://ntfy.example.org/{TOPIC}?up=1"


def address(endpoint: str = NTFY, **members: Any) -> str:
    return json.dumps({"endpoint": endpoint, "keys": KEYS, **members})


def made(*answers: Response, **settings: Any) -> tuple[UnifiedPushProvider, Scripted]:
    left = list(answers)
    scripted = Scripted(lambda _: left.pop(0) if left else Response(status=201))
    provider = build(UnifiedPushProvider, {**SETTINGS, **settings}, transport=scripted, now=lambda: NOW_S)
    assert isinstance(provider, UnifiedPushProvider)
    return provider, scripted


def push(**fields: Any) -> Push:
    return Push(**{"id": "m-1", "token": address(), "title": "Ann", "body": "hello", **fields})


def ntfy(status: int, code: int, **headers: str) -> Response:
    body = {"code": code, "http": status, "error": "sentence", "link": "https://ntfy.sh/docs"}
    return Response(status=status, headers=headers, body=json.dumps(body).encode())


TAKEN = Response(
    status=200,
    body=json.dumps({"id": "sPs71M8A2T", "time": 1, "event": "message", "topic": TOPIC, "message": "x"}).encode(),
)


class TestUnifiedPushContract(ProviderContract):
    provider = UnifiedPushProvider
    settings = SETTINGS
    token = address()
    answers = {  # noqa: RUF012
        "ok": (Response(status=201, headers={"ttl": "0"}), Verdict.ACCEPTED),
        "ntfy": (TAKEN, Verdict.ACCEPTED),
        "gone": (Response(status=410), Verdict.TOKEN_DEAD),
        "bad": (Response(status=400), Verdict.REFUSED),
        "big": (Response(status=413), Verdict.TOO_LARGE),
        "login": (ntfy(401, 40101), Verdict.MISCONFIGURED),
        "busy": (Response(status=503), Verdict.RETRY),
        "slow down": (ntfy(429, 42901), Verdict.RETRY),
    }
    dead_statuses = frozenset({404, 410})

    def carries_token(self, request: Request) -> int:
        """The token is a document; what of it goes out as it is, is the endpoint."""
        text = "\n".join([request.url, *request.headers.values(), request.body.decode("latin-1")])
        assert not any(key in text for key in KEYS.values())
        return text.count(TOPIC)

    def test_many_pushes_get_their_own_outcomes_whatever_is_among_them(self) -> None:
        """What is encrypted has to be opened before it can be counted."""
        scripted = Scripted(lambda _: TAKEN)
        urls = [f"https://push.example/{n}" for n in range(3)]
        pushes = [push(id=f"m-{n}", token=address(url), body=f"<{n}>") for n, url in enumerate(urls)]
        outcomes = asyncio.run(self.made(scripted).send_many([*pushes, replace(pushes[0], kind="pigeon")]))
        assert [one.verdict for one in outcomes] == [*[Verdict.ACCEPTED] * 3, Verdict.REFUSED]
        told = [(request.url, opened(request)["body"]) for request in scripted.requests]
        assert told == [(url, f"<{n}>") for n, url in enumerate(urls)]


def opened(request: Request) -> dict[str, Any]:
    data = http_ece.decrypt(request.body, private_key=PHONE, auth_secret=from_base64(KEYS["auth"]))
    found: dict[str, Any] = json.loads(data)
    return found


# --- addresses (sheet §2) ---


def test_any_public_host_will_do() -> None:
    provider, _ = made()
    for endpoint in (
        NTFY,
        "https://fcm.googleapis.com/wp/x",
        "https://cloud.example.net/index.php/apps/uppush/push/abc",
    ):
        assert json.loads(provider.address("token", address(endpoint)))["endpoint"] == endpoint


@pytest.mark.parametrize(
    "written", ["NTFY.example.org", "ntfy.example.org:443", "ntfy.example.org.", "\uff4etfy.example.org"]
)
def test_a_host_is_called_by_one_name_however_the_endpoint_writes_it(written: str) -> None:
    """Else what holds it back (sheet §6, §9) would take it for as many hosts."""
    provider, scripted = made()
    endpoint = NTFY.replace("ntfy.example.org", written)
    asyncio.run(provider.send(push(token=provider.address("token", address(endpoint)))))
    assert [request.url for request in scripted.requests] == [NTFY]


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (address("http://ntfy.example.org/up"), "https"),
        (address("https://192.168.1.7/up"), "names an address"),
        (address("https://ntfy.lan/up"), "Hosts named lan"),
        (address("https://localhost/up"), "without a dot"),
        (address(f"https://ntfy.example.org/{'x' * 1000}"), "more than 1000 bytes"),
        (address(vapid=KEYS["p256dh"]), f"vapid must be a key of this account; subscribe with {VAPID_PUBLIC}"),
        (json.dumps({"endpoint": NTFY}), "lacks its keys, and this account sends nothing in plain text"),
        (json.dumps({"endpoint": NTFY, "keys": {}}), "keys.p256dh must be 65 bytes"),
    ],
)
def test_what_cannot_be_called_is_refused_with_a_sentence(token: str, said: str) -> None:
    provider, _ = made()
    with pytest.raises(AddressInvalid) as caught:
        provider.address("token", token)
    assert said in str(caught.value)


def test_a_server_at_home_is_for_the_operator_to_allow() -> None:
    provider, _ = made(exempt=["ntfy.lan:80", "192.168.1.0/24:8080"])
    for endpoint in ("http://ntfy.lan/up", "http://192.168.1.7:8080/up"):
        provider.address("token", address(endpoint))
    for endpoint in ("http://ntfy.lan:81/up", "http://192.168.2.7:8080/up", "http://169.254.169.254/up"):
        with pytest.raises(AddressInvalid):
            provider.address("token", address(endpoint))


def test_the_operator_may_allow_some_hosts_and_deny_others() -> None:
    for settings in ({"hosts": ["example.org"]}, {"hosts_denied": ["fcm.googleapis.com"]}):
        provider, _ = made(**settings)
        provider.address("token", address(NTFY))
        with pytest.raises(AddressInvalid):
            provider.address("token", address("https://fcm.googleapis.com/wp/x"))


# --- the request (sheet §4) ---


def test_only_who_registered_with_our_key_gets_a_signature() -> None:
    provider, _ = made()
    assert "authorization" not in provider.encode(push(), "").headers
    signed = provider.encode(push(token=address(vapid=VAPID_PUBLIC)), "")
    assert signed.headers["authorization"].endswith(f"k={VAPID_PUBLIC}")


def test_the_headers_and_the_envelope_say_both_what_replaces_what_and_when_it_ends() -> None:
    """ntfy reads neither Topic nor TTL."""
    provider, _ = made()
    request = provider.encode(push(collapse_key="room:42", ttl_s=60), "")
    assert request.headers == {
        "content-type": "application/octet-stream",
        "content-encoding": "aes128gcm",
        "ttl": "60",
        "urgency": "high",
        "topic": "OFEqdMCW5fX4lJLP9SoG1Z_mKf-6110d",
    }
    found = opened(request)
    assert (found["tag"], found["expires_at"]) == ("room:42", int(NOW_S) + 60)


def test_an_old_client_gets_plain_text_if_the_operator_allows_it() -> None:
    token = json.dumps({"endpoint": NTFY})
    provider, scripted = made(allow_plaintext=True)
    assert provider.address("token", token) == json.dumps({"endpoint": NTFY}, separators=(",", ":"))
    assert asyncio.run(provider.send(push(token=token))).verdict is Verdict.ACCEPTED
    (request,) = scripted.requests
    assert "content-encoding" not in request.headers
    assert json.loads(request.body)["title"] == "Ann"
    large = asyncio.run(provider.send(push(token=token, body="x" * 4096)))
    assert large.verdict is Verdict.TOO_LARGE, "ntfy would cut it without a word"
    denied, scripted = made()
    assert asyncio.run(denied.send(push(token=token))).verdict is Verdict.MISCONFIGURED
    assert not scripted.requests


def test_a_server_that_takes_the_signature_for_a_login_gets_it_without() -> None:
    provider, scripted = made(ntfy(401, 40101), TAKEN)
    outcome = asyncio.run(provider.send(push(token=address(vapid=VAPID_PUBLIC))))
    assert outcome == Outcome(verdict=Verdict.ACCEPTED, vendor_id="sPs71M8A2T")
    assert ["authorization" in request.headers for request in scripted.requests] == [True, False]
    assert scripted.requests[0].body == scripted.requests[1].body


@pytest.mark.parametrize("vapid", [{}, {"vapid": VAPID_PUBLIC}])
def test_a_topic_that_not_everybody_may_write_to_is_left_alone(vapid: dict[str, str]) -> None:
    provider, scripted = made(ntfy(401, 40101), ntfy(403, 40301))
    outcome = asyncio.run(provider.send(push(token=address(**vapid))))
    assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, Scope.TOKEN)
    assert len(scripted.requests) == 1 + len(vapid)


# --- answers (sheet §5) ---

DEAD, REFUSED, RETRY = Verdict.TOKEN_DEAD, Verdict.REFUSED, Verdict.RETRY
LARGE, CONFIG, ACCEPTED = Verdict.TOO_LARGE, Verdict.MISCONFIGURED, Verdict.ACCEPTED
MESSAGE, TOKEN = Scope.MESSAGE, Scope.TOKEN


@pytest.mark.parametrize(
    ("response", "verdict", "scope", "retry_after_s"),
    [
        (Response(status=201, headers={"TTL": "0"}), ACCEPTED, MESSAGE, None),
        (TAKEN, ACCEPTED, MESSAGE, None),
        (Response(status=202), ACCEPTED, MESSAGE, None),
        (Response(status=204), ACCEPTED, MESSAGE, None),
        (Response(status=302), REFUSED, MESSAGE, None),
        (Response(status=400), REFUSED, MESSAGE, None),
        (ntfy(400, 40009), REFUSED, MESSAGE, None),
        (Response(status=401), CONFIG, TOKEN, None),
        (ntfy(401, 40101), CONFIG, TOKEN, None),
        (Response(status=403), CONFIG, TOKEN, None),
        (ntfy(403, 40301), CONFIG, TOKEN, None),
        (Response(status=404), DEAD, TOKEN, None),
        (ntfy(404, 40401), DEAD, TOKEN, None),
        (Response(status=410), DEAD, TOKEN, None),
        (Response(status=413), LARGE, MESSAGE, None),
        (Response(status=429), RETRY, TOKEN, 60),
        (Response(status=429, headers={"retry-after": "5"}), RETRY, TOKEN, 5),
        (ntfy(429, 42901), RETRY, TOKEN, 60),
        (ntfy(429, 42908), RETRY, TOKEN, 3600),  # the day's messages are used up (§6; others §1.5)
        (ntfy(429, 42908, **{"retry-after": "900"}), RETRY, TOKEN, 900),
        (Response(status=507), RETRY, TOKEN, 600),
        (ntfy(507, 50701), RETRY, TOKEN, 600),
        (ntfy(507, 50701, **{"retry-after": "900"}), RETRY, TOKEN, 900),
        (Response(status=500), RETRY, TOKEN, None),
        (Response(status=503), RETRY, TOKEN, None),
        # Behind a distributor may stand a browser's push service (sheet §6).
        (Response(status=410, body=b'{"code":410,"errno":106,"error":"Gone"}'), DEAD, TOKEN, None),
        (Response(status=401, body=b'{"code":401,"errno":109,"error":"Unauthorized"}'), CONFIG, TOKEN, None),
        (Response(status=403, body=b"VAPID credentials do not correspond"), DEAD, TOKEN, None),
    ],
)
def test_the_sheets_answers(response: Response, verdict: Verdict, scope: Scope, retry_after_s: float | None) -> None:
    provider, _ = made()
    outcome = provider.decode(response)
    assert (outcome.verdict, outcome.scope, outcome.retry_after_s) == (verdict, scope, retry_after_s)


def test_of_a_redirect_the_operator_of_the_named_hosts_hears() -> None:
    """Sheet §5, 3xx: DROP_MESSAGE, alert."""
    assert made()[0].decode(Response(status=302)).alert


def test_ntfys_numbers_are_kept() -> None:
    provider, _ = made()
    assert provider.decode(ntfy(429, 42901)).vendor_code == "ntfy_42901"
    assert provider.decode(ntfy(507, 50701)).vendor_code == "ntfy_50701"
    assert provider.decode(Response(status=507)).vendor_code == "status_507"
    assert provider.decode(Response(status=429, body=b'{"code": 429}')).vendor_code == "status_429"


def test_a_server_that_is_down_holds_nobody_else_back() -> None:
    def broken(_: Request) -> Response:
        raise TransportError(Reason.CONNECT_FAILED, sent=False)

    provider = build(UnifiedPushProvider, SETTINGS, transport=Scripted(broken), now=lambda: NOW_S)
    outcome = asyncio.run(provider.send(push()))
    assert (outcome.verdict, outcome.scope, outcome.vendor_code) == (RETRY, TOKEN, "connect_failed")


# --- settings ---


def test_settings() -> None:
    assert UnifiedPushProvider.Config.operator_only == {"exempt", "vapid_private_key_file", "allow_plaintext"}
    for wrong in (
        {"hosts": ["https://x.example"]},
        {"allow_http": True},
        {"vapid_subject": "a@b.example"},
        {"exempt": ["x"]},
    ):
        with pytest.raises(SettingsInvalid):
            configured(UnifiedPushProvider, {**SETTINGS, **wrong})


# --- pass-through (sheet §4) ---


def sealed(data: bytes, *, device: str = KEYS["p256dh"]) -> str:
    """What an app's own server has encrypted for the phone."""
    body: bytes = http_ece.encrypt(
        data, private_key=private_key(VAPID), dh=from_base64(device), auth_secret=from_base64(KEYS["auth"])
    )
    return base64url(body)


def passed_on(**overrides: Any) -> Request:
    provider, scripted = made()
    ready = push(title=None, body=None, collapse_key="room", ttl_s=60, overrides=overrides)
    assert asyncio.run(provider.send(ready)).verdict is Verdict.ACCEPTED
    (request,) = scripted.requests
    return request


def test_what_the_sender_has_encrypted_goes_as_it_is() -> None:
    ready = sealed(b"nobody else's business")
    request = passed_on(ciphertext=ready, ttl=7200, urgency="low", topic="room")
    assert request.body == from_base64(ready)
    named = ("content-encoding", "ttl", "urgency", "topic")
    assert {name: request.headers[name] for name in named} == {
        "content-encoding": "aes128gcm",
        "ttl": "7200",
        "urgency": "low",
        "topic": "room",
    }


def test_no_topic_is_added_to_it_and_its_lifetime_is_the_message_s() -> None:
    request = passed_on(ciphertext=sealed(b"x"))
    assert ("topic" in request.headers, request.headers["ttl"]) == (False, "60")


def test_it_is_signed_by_whose_key_the_subscription_was_made_with() -> None:
    provider, scripted = made()
    ready = {"ciphertext": sealed(b"x")}
    asyncio.run(provider.send(push(token=address(vapid=VAPID_PUBLIC), overrides=ready)))
    asyncio.run(provider.send(push(overrides=ready)))
    assert ["authorization" in request.headers for request in scripted.requests] == [True, False]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"ciphertext": sealed(b"x" * 3993)}, None),
        ({"ciphertext": sealed(b"x"), "ttl": 0, "urgency": "high", "topic": "room"}, None),
        ({"ciphertext": sealed(b"x" * 3994)}, "ciphertext must be base64url"),
        ({"ciphertext": "no base64!"}, "ciphertext must be base64url"),
        (
            {"ciphertext": base64url(b"plain text, and long enough to be a body, were it one: " * 3)},
            "ciphertext must be",
        ),
        ({"ciphertext": 7}, "ciphertext must be base64url"),
        ({"ciphertext": sealed(b"x"), "envelope": {"a": 1}}, "envelope: leave it out"),
        ({"ciphertext": sealed(b"x"), "ttl": -1}, "ttl must be 0 to"),
        ({"ciphertext": sealed(b"x"), "ttl": True}, "ttl must be 0 to"),
        ({"ttl": 5}, "ttl goes with ciphertext"),
        ({"ciphertext": sealed(b"x"), "title": "x"}, "'title' may not be overridden"),
    ],
)
def test_what_may_be_passed_through(overrides: dict[str, Any], said: str | None) -> None:
    found = UnifiedPushProvider.check_overrides(overrides)
    assert [one[: len(said)] for one in found] == [said] if said else found == []
