import base64
import hashlib
import random
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from relay.webhooks.signing import (
    Scheme,
    SignatureRefused,
    headers,
    mint_secret,
    scheme_of,
    shown_secret,
    sign,
    signing_key,
    verify,
    verifying_key,
)

# The vector of safety SEC-9.
CURRENT = "whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
OLD = "whsec_YGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3"
PUBLIC = "whpk_ebVWLo/mVPlAeLES6KmLp5AfhTrmlb7X4OORC60ElmQ="
PRIVATE = "whsk_" + base64.b64encode(bytes(range(1, 33))).decode()
ID = "evt_01JD8Q6Z5T9X3K7M2N4P6R8S0V"
AT_S = 1_764_000_000
BODY = (
    '{"type":"message.expired","timestamp":"2025-11-24T16:00:00.000Z","data":{"message_id":"m_0001",'
    '"device_id":"d_42","reason":"ttl","attempts":3,"note":"café ✓"}}'
).encode()
BY_CURRENT = "v1,FrfbDKjExY6z8hJ78esn0JtZG0VgThQhqhWSoImIICw="
BY_OLD = "v1,q7CiXp26OJVEkvgezrx5MgpI8CgnDWVKhuVTzOMi9eY="
BY_PAIR = "v1a,0wSHETb5vUwAKHU5Hn9ryswCrrza6WD73d77u06Zj8CIJEzJt3FcpqAqS7HcZpUDZ7jORchdk7qHAKv9Il+CAQ=="
WRONG = "MZmWxPPWujC6YfgMPHEKElbSy2e4sLFBEn0Bw31H3us="


def signed(*secrets: str, body: bytes = BODY, at_s: int = AT_S) -> str:
    return sign([signing_key(secret) for secret in secrets], event_id=ID, timestamp_s=at_s, body=body)


def received(signature: str, *, at_s: int = AT_S) -> dict[str, str]:
    return {"webhook-id": ID, "webhook-timestamp": str(at_s), "webhook-signature": signature}


def test_the_vectors_are_those_of_the_page() -> None:
    assert len(BODY) == 162
    assert hashlib.sha256(BODY).hexdigest() == "d477f4e4eb9f990ad0869345800b4ff4f9a03351f06cfe06e881b36e19d60cb7"
    assert signing_key(CURRENT) == bytes(range(0x20, 0x40))
    assert signing_key(OLD) == bytes(range(0x60, 0x78))


@pytest.mark.parametrize(
    ("secrets", "signature"),
    [
        ((CURRENT,), BY_CURRENT),
        ((OLD,), BY_OLD),
        ((CURRENT, OLD), f"{BY_CURRENT} {BY_OLD}"),
        ((PRIVATE,), BY_PAIR),
        ((PRIVATE, CURRENT), f"{BY_PAIR} {BY_CURRENT}"),
    ],
)
def test_signatures_are_those_of_the_vector(secrets: tuple[str, ...], signature: str) -> None:
    assert signed(*secrets) == signature


@pytest.mark.parametrize(
    ("body", "at_s", "signature"),
    [
        (BODY + b" ", AT_S, "CWJtr2y9MQAdaOpOB9S4fwsn0NjKU8oC5xwXE+vD0dE="),
        (BODY, AT_S + 1, "AKOG+S1dXjiq6zNvgXXpwiCExbe75yN0PMUnVdHgWQs="),
        (b"", AT_S, "0RBb9K3WELOwccfEyZF/gmTzdWHvytzOMvbgnCrsNRU="),
    ],
)
def test_another_body_or_time_has_another_signature(body: bytes, at_s: int, signature: str) -> None:
    assert signed(CURRENT, body=body, at_s=at_s) == f"v1,{signature}"


def test_the_secrets_text_is_never_the_key() -> None:
    assert signed(CURRENT) != f"v1,{WRONG}"
    for text in (CURRENT.encode(), CURRENT.removeprefix("whsec_").encode()):
        with pytest.raises(SignatureRefused):
            verify([text], received(BY_CURRENT), BODY, now_s=AT_S)
    with pytest.raises(SignatureRefused):
        verify([verifying_key(CURRENT)], received(f"v1,{WRONG}"), BODY, now_s=AT_S)


def test_headers_are_lower_case_and_in_seconds() -> None:
    assert headers([signing_key(CURRENT)], event_id=ID, timestamp_s=AT_S, body=BODY) == received(BY_CURRENT)


@pytest.mark.parametrize("event_id", ["evt.1", "", "evt 1", "evt_é", "x" * 257])
def test_an_id_that_could_move_the_borders_is_never_signed(event_id: str) -> None:
    with pytest.raises(ValueError):
        sign([b"k" * 32], event_id=event_id, timestamp_s=AT_S, body=BODY)


@pytest.mark.parametrize("off_s", [0, 300, -300])
def test_five_minutes_either_way_are_accepted(off_s: int) -> None:
    verify([verifying_key(CURRENT)], received(BY_CURRENT), BODY, now_s=AT_S + off_s)


@pytest.mark.parametrize("off_s", [301, -301, 86_400])
def test_more_than_five_minutes_are_refused(off_s: int) -> None:
    with pytest.raises(SignatureRefused):
        verify([verifying_key(CURRENT)], received(BY_CURRENT), BODY, now_s=AT_S + off_s)


def test_any_listed_signature_may_fit_any_key() -> None:
    both = f"v1,AAAA v9,xx {BY_OLD} {BY_CURRENT} {BY_PAIR}"
    for key in (CURRENT, OLD, PUBLIC):
        verify([verifying_key(key)], received(both), BODY, now_s=AT_S)
    verify([verifying_key(OLD), verifying_key(CURRENT)], received(BY_CURRENT), BODY, now_s=AT_S)


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook-signature": BY_OLD},
        {"webhook-signature": ""},
        {"webhook-signature": BY_CURRENT.replace("v1,", "v1a,")},
        {"webhook-signature": BY_CURRENT.replace("v1,", "v2,")},
        {"webhook-signature": "v1,\u00e9"},
        {"webhook-signature": BY_CURRENT[3:]},
        {"webhook-id": "evt_other"},
        {"webhook-id": ""},
        {"webhook-id": ID + ".1"},
        {"webhook-timestamp": str(AT_S + 1)},
        {"webhook-timestamp": f"+{AT_S}"},
        {"webhook-timestamp": "١٧٦٤٠٠٠٠٠٠"},
        {"webhook-timestamp": "soon"},
    ],
)
def test_what_is_not_signed_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(SignatureRefused):
        verify([verifying_key(CURRENT)], received(BY_CURRENT) | changes, BODY, now_s=AT_S)


def test_a_pair_signs_for_who_has_only_the_public_half() -> None:
    assert shown_secret(PRIVATE) == PUBLIC
    verify([verifying_key(PUBLIC)], received(BY_PAIR), BODY, now_s=AT_S)
    with pytest.raises(SignatureRefused):
        verify([verifying_key(PUBLIC)], received(BY_PAIR), BODY + b" ", now_s=AT_S)
    with pytest.raises(SignatureRefused):
        verify([verifying_key(PUBLIC)], received(BY_CURRENT), BODY, now_s=AT_S)


def test_a_minted_secret_has_32_bytes_of_chance() -> None:
    secret = mint_secret(random.Random(1))
    assert secret == mint_secret(random.Random(1)) != mint_secret(random.Random(2))
    assert secret.startswith("whsec_")
    assert len(signing_key(secret)) == 32  # type: ignore[arg-type]
    assert shown_secret(secret) == secret
    pair = mint_secret(random.Random(1), Scheme.ED25519)
    assert isinstance(signing_key(pair), Ed25519PrivateKey)
    assert shown_secret(pair).startswith("whpk_")
    assert (scheme_of(secret), scheme_of(pair)) == (Scheme.HMAC, Scheme.ED25519)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "whsec_!!!!",
        "whsec_é",
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        CURRENT[6:],
        CURRENT + "\n",
        PUBLIC,
        "whsk_AAAA",
    ],
)
def test_what_is_no_secret_is_refused_without_naming_it(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        signing_key(text)
    assert not text[6:] or text[6:] not in str(refused.value)


@given(
    st.binary(min_size=24, max_size=64), st.text(max_size=200), st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True)
)
def test_the_reference_library_accepts_what_we_sign(key: bytes, text: str, event_id: str) -> None:
    now = datetime.now(UTC)  # noqa: TID251 - the reference reads the real clock
    body = text.encode()
    made = headers([key], event_id=event_id, timestamp_s=int(now.timestamp()), body=body)
    Webhook(key).verify(body, made, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(key).verify(body + b"x", made, json_parse=False)


@given(st.binary(min_size=24, max_size=64), st.text(max_size=200), st.integers(0, 10**10))
def test_we_accept_what_the_reference_library_signs(key: bytes, text: str, at_s: int) -> None:
    signature = Webhook(key).sign(ID, datetime.fromtimestamp(at_s, UTC), text)
    assert signature == sign([key], event_id=ID, timestamp_s=at_s, body=text.encode())
    verify([key], received(signature, at_s=at_s), text.encode(), now_s=at_s)
