"""The published vectors of RFC 8291, 8188 and 8292 byte for byte, and `pywebpush`'s own libraries as the other end."""

import base64
import json
from hashlib import sha256

import http_ece
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.webpush_crypto import (
    OVERHEAD_BYTES,
    base64url,
    encrypt,
    from_base64,
    own_key,
    private_key,
    public_bytes,
    public_key,
    signed_token,
)

# RFC 8291, section 5 and appendix A.
PLAINTEXT = b"When I grow up, I want to be a watermelon"
AS_PRIVATE = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"
AS_PUBLIC = "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8"
UA_PRIVATE = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"
UA_PUBLIC = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
SALT = "DGv6ra1nlYgDCS1FRnbzlw"
AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
BODY = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl"
    "7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
)
# RFC 8292, section 2.4.
T = (
    "eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9.eyJhdWQiOiJodHRwczovL3B1c2guZXhhbXBsZS5uZXQiLCJleHAiOjE0NTM1MjM3NjgsInN1Yi"
    "I6Im1haWx0bzpwdXNoQGV4YW1wbGUuY29tIn0.i3CYb7t4xfxCDquptFOepC9GAu_HLGkMlMuCGSK2rpiUfnK9ojFwDXb1JrErtmysazNjjvW2L9"
    "OkSSHzvoD1oA"
)
K = "BA1Hxzyi1RUM1b5wjxsn7nGxAszw2u61m164i3MrAIxHF6YK5h4SDYic-dRuU_RCPCfA5aq9ojSwk5Y2EmClBPs"


def encrypted(data: bytes, record_bytes: int = 0) -> bytes:
    return encrypt(
        data,
        to=from_base64(UA_PUBLIC),
        auth=from_base64(AUTH),
        salt=from_base64(SALT),
        key=private_key(AS_PRIVATE),
        record_bytes=record_bytes,
    )


def decrypted(body: bytes) -> bytes:
    """By http_ece, which pywebpush uses."""
    data: bytes = http_ece.decrypt(body, private_key=private_key(UA_PRIVATE), auth_secret=from_base64(AUTH))
    return data


def test_the_body_of_rfc_8291_byte_for_byte() -> None:
    body = encrypted(PLAINTEXT)
    assert base64url(body) == BODY
    assert len(body) == 144 == OVERHEAD_BYTES + len(PLAINTEXT)  # the RFC prints 145


@pytest.mark.parametrize(
    ("data", "record_bytes", "digest"),
    [
        (b"a" * 3993, 0, "a9e84efbfe3cbbd3deb4e24870b13d42f4657b35bbdc6c279af04a8055d14354"),
        (PLAINTEXT, 3994, "8aab02dd76b0ffb56e1ff878566e1cfcd89f078c01651f5a792941688d83ff68"),
    ],
)
def test_the_longest_body_and_the_longest_padding(data: bytes, record_bytes: int, digest: str) -> None:
    body = encrypted(data, record_bytes)
    assert (len(body), sha256(body).hexdigest()) == (4096, digest)


@pytest.mark.parametrize("length", [0, 3993, 4078, 4079, 4080, 20_000])
def test_the_record_s_size_exceeds_what_is_in_it_however_much_that_is(length: int) -> None:
    """RFC 8291 §4: text, delimiter, padding and tag together."""
    body = encrypted(b"a" * length)
    assert int.from_bytes(body[16:20]) > len(body) - 86
    assert decrypted(body) == b"a" * length


def test_the_key_pairs_of_rfc_8291() -> None:
    for private, public in ((AS_PRIVATE, AS_PUBLIC), (UA_PRIVATE, UA_PUBLIC)):
        assert base64url(public_bytes(private_key(private))) == public


def test_the_example_of_rfc_8188_is_what_the_referee_reads() -> None:
    body = from_base64("I1BsxtFttlv3u_Oo94xnmwAAEAAA-NAVub2qFgBEuQKRapoZu-IxkIva3MEB1PD-ly8Thjg")
    assert http_ece.decrypt(body, key=from_base64("yqdlZ-tYemfogSmv7Ws5PQ")) == b"I am the walrus"


@settings(max_examples=30, deadline=None)
@given(
    data=st.binary(max_size=3993), seed=st.binary(min_size=32, max_size=32), about=st.binary(max_size=40), pad=st.data()
)
def test_what_we_encrypt_the_referee_decrypts(data: bytes, seed: bytes, about: bytes, pad: st.DataObject) -> None:
    record_bytes = pad.draw(st.integers(0, 3994))
    salt, key = own_key(seed, about)
    body = encrypt(
        data, to=from_base64(UA_PUBLIC), auth=from_base64(AUTH), salt=salt, key=key, record_bytes=record_bytes
    )
    assert decrypted(body) == data
    assert len(body) == OVERHEAD_BYTES - 1 + max(record_bytes, len(data) + 1)


def test_every_message_and_recipient_has_its_own_salt_and_key() -> None:
    seen = [own_key(seed, about) for seed in (b"1" * 32, b"2" * 32) for about in (b"", b"a", b"b")]
    assert len({salt for salt, _ in seen}) == len({public_bytes(key) for _, key in seen}) == len(seen)
    again = own_key(b"1" * 32, b"a")
    assert (again[0], public_bytes(again[1])) == (seen[1][0], public_bytes(seen[1][1]))


def test_the_signature_of_rfc_8292() -> None:
    public = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), from_base64(K))
    claims = jwt.decode(
        T, public, algorithms=["ES256"], audience="https://push.example.net", options={"verify_exp": False}
    )
    assert claims == {"aud": "https://push.example.net", "exp": 1453523768, "sub": "mailto:push@example.com"}
    # Our own says the same in the same bytes, up to the signature, which is never twice the same.
    key = private_key(UA_PRIVATE)
    ours = signed_token(
        key, audience="https://push.example.net", expires_s=1453523768, subject="mailto:push@example.com"
    )
    assert ours.rpartition(".")[0] == T.rpartition(".")[0]
    assert len(from_base64(ours.rpartition(".")[2])) == 64
    checked = jwt.decode(
        ours, key.public_key(), algorithms=["ES256"], audience="https://push.example.net", options={"verify_exp": False}
    )
    assert checked == claims
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(
            ours, public, algorithms=["ES256"], audience="https://push.example.net", options={"verify_exp": False}
        )


def test_base64_in_any_dress() -> None:
    data = bytes(range(250, 256)) * 3 + b"x"
    for text in (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode(), base64url(data)):
        assert from_base64(text) == data
    for text in ("a", "é", "a b", "ab\n", "a=b"):
        with pytest.raises(ValueError, match="is not base64url"):
            from_base64(text)


def test_what_is_no_key_is_refused() -> None:
    for text in ("", "AAAA", base64url(b"\0" * 32), base64url(b"\xff" * 32), "-----BEGIN PRIVATE KEY-----\nxx"):
        with pytest.raises(ValueError, match="P-256"):
            private_key(text)
    on_curve = from_base64(UA_PUBLIC)
    for point in (b"", on_curve[:-1], b"\x02" + on_curve[1:], on_curve[:-1] + b"\0", b"\x04" + b"\0" * 64):
        with pytest.raises(ValueError, match=r"point"):
            public_key(point)


def test_a_token_is_one_line_of_plain_characters() -> None:
    token = signed_token(
        private_key(AS_PRIVATE), audience="https://p.example:8443", expires_s=1, subject="https://a.example"
    )
    head, claims, _ = token.split(".")
    assert json.loads(from_base64(head)) == {"typ": "JWT", "alg": "ES256"}
    assert json.loads(from_base64(claims)) == {"aud": "https://p.example:8443", "exp": 1, "sub": "https://a.example"}
    assert token.isascii()
    assert "=" not in token
