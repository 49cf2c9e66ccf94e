"""What a vendor may carry and not read reaches the app's own code, and nothing of its words stands beside it."""

import json
from collections.abc import Mapping
from typing import Any, cast

import http_ece
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from providers import loading
from providers.apns import ApnsProvider
from providers.apns_message import headers_of, payload_of
from providers.contract import Provider, Push
from providers.fcm_message import message_of
from providers.http import HttpProvider, Response
from providers.http_call import HttpCallProvider
from providers.testing import NOW_S, Scripted
from providers.unifiedpush import UnifiedPushProvider
from providers.webpush_crypto import base64url

SEALED = "U2VhbGVkIGZvciB0aGUgcGhvbmU"
PUSH = Push(
    id="m-1", token="t", title="New message", sound="bell", channel="chat", mutable=True, sealed=SEALED, relay={"v": 1}
)
PHONE = generate_private_key(SECP256R1())
AUTH = bytes(16)


def encoded(provider: type[Provider], settings: Mapping[str, Any], push: Push) -> bytes:
    made = loading.build(provider, settings, transport=Scripted(lambda _: Response(status=500)), now=lambda: NOW_S)
    return cast("HttpProvider", made).encode(push, "").body


def test_of_apple_the_app_s_extension_gets_it_beside_a_placeholder() -> None:
    payload = payload_of(PUSH, now_s=NOW_S)
    assert payload == {
        "aps": {"alert": {"title": "New message"}, "sound": "bell", "category": "chat", "mutable-content": 1},
        "relay_id": "m-1",
        "relay": {"v": 1},
        "sealed": SEALED,
    }
    assert headers_of(PUSH, payload, topic="org.example", now_s=NOW_S)["apns-push-type"] == "alert"


def test_of_google_the_app_gets_data_and_nothing_is_drawn_before_it_has_opened_it() -> None:
    message = message_of(PUSH, shown_by_app=False, now_s=NOW_S)
    assert "notification" not in message
    assert "notification" not in message["android"]
    assert message["android"]["priority"] == "HIGH"
    assert (message["data"]["sealed"], message["data"]["title"]) == (SEALED, "New message")
    aps = message["apns"]["payload"]["aps"]
    assert (aps["alert"], aps["mutable-content"]) == ({"title": "New message"}, 1)


def test_a_gateway_of_the_app_s_gets_it() -> None:
    settings = {"url": "https://push.example/", "secret": "whsec_" + "QUFB" * 8}
    data = json.loads(encoded(HttpCallProvider, settings, PUSH))["data"]
    assert (data["sealed"], data["title"]) == (SEALED, "New message")


def test_a_unified_push_app_finds_it_in_its_envelope() -> None:
    point = PHONE.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    keys = {"p256dh": base64url(point), "auth": base64url(AUTH)}
    token = json.dumps({"endpoint": "https://push.example/x", "keys": keys})
    settings = {"vapid_subject": "mailto:ops@example.org", "vapid_private_key": base64url((7).to_bytes(32))}
    push = Push(**{name: getattr(PUSH, name) for name in ("id", "title", "sealed")}, token=token)
    body = encoded(UnifiedPushProvider, settings, push)
    envelope = json.loads(http_ece.decrypt(body, private_key=PHONE, auth_secret=AUTH))
    assert (envelope["sealed"], envelope["title"]) == (SEALED, "New message")


def test_the_app_s_own_data_of_that_name_is_not_taken_for_it() -> None:
    plain = Push(id="m-1", token="t", title="Ann", data={"sealed": "by hand"})
    assert payload_of(plain, now_s=NOW_S)["_sealed"] == "by hand"
    assert message_of(plain, shown_by_app=True, now_s=NOW_S)["data"]["_sealed"] == "by hand"


@pytest.mark.parametrize("one", loading.discover(), ids=lambda one: one.name)
def test_a_vendor_says_whether_it_carries_it(one: loading.Loaded) -> None:
    assert one.provider is not None
    carries = one.provider.capabilities.sealed
    assert carries == (one.name in {"apns", "fcm", "http", "unifiedpush"})
    assert one.provider.capabilities.encrypted == (one.name == "webpush")
    assert ApnsProvider.capabilities.sealed
