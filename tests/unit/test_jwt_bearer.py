"""Device tokens signed by the app's own login service: what is taken, and every known way to cheat (safety SEC-4)."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from stopped_clock import SetClock

from relay.api.jwt_bearer import LIFE_S_MAX, Claims, VerifyKey, kid_of, read_keys, verify
from relay.api.key_set import AGAIN_MS, FRESH_MS, KEPT_MS, KeySet
from relay.errors import Unauthenticated

NOW_S = 1_800_000_000
ISSUER, AUDIENCE = "https://login.app.example", "push-relay"
EC, RSA, ED = (
    ec.generate_private_key(ec.SECP256R1()),
    rsa.generate_private_key(65537, 2048),
    ed25519.Ed25519PrivateKey.generate(),
)
PRIVATE = {"ES256": EC, "RS256": RSA, "EdDSA": ED}
ALGORITHM = {
    "ES256": jwt.algorithms.ECAlgorithm,
    "RS256": jwt.algorithms.RSAAlgorithm,
    "EdDSA": jwt.algorithms.OKPAlgorithm,
}


def jwk(alg: str, kid: str, **more: Any) -> dict[str, Any]:
    public = json.loads(ALGORITHM[alg].to_jwk(PRIVATE[alg].public_key()))
    return public | {"alg": alg, "kid": kid} | more


KEYS = read_keys(json.dumps({"keys": [jwk(alg, alg.lower()) for alg in PRIVATE]}).encode())


def claims(**other: Any) -> dict[str, Any]:
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "device": "phone", "iat": NOW_S - 10, "exp": NOW_S + 3600}
    return {key: value for key, value in (good | other).items() if value is not ...}


def signed(alg: str = "ES256", *, key: Any = None, headers: dict[str, Any] | None = None, **other: Any) -> str:
    named = {"kid": alg.lower(), "typ": "JWT"} | (headers or {})
    return jwt.encode(claims(**other), key or PRIVATE[alg], algorithm=alg, headers=named)


def part(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def forged(header: Any, signature: bytes | None = None) -> str:
    """A token with this header to the letter; by default with a good signature, so that the header alone is wrong."""
    text = f"{part(header)}.{part(claims())}"
    if signature is None:
        algorithm = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256)
        signature = algorithm.sign(text.encode(), EC)
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def accepted(token: str, now_s: float = NOW_S) -> Claims:
    return verify(token, KEYS.get(kid_of(token)), issuer=ISSUER, audience=AUDIENCE, now_ms=int(now_s * 1000))


@pytest.mark.parametrize("alg", PRIVATE)
def test_a_good_token_names_its_user_and_device(alg: str) -> None:
    found = accepted(signed(alg))
    assert (found.user_id, found.device_id) == ("ann", "phone")


def test_a_token_made_by_hand_is_as_good() -> None:
    """So that what is refused below is refused for its header."""
    assert accepted(forged(HEADER)).user_id == "ann"


def test_an_audience_may_be_one_of_several() -> None:
    assert accepted(signed(aud=["other", AUDIENCE])).user_id == "ann"


HEADER = {"alg": "ES256", "kid": "es256", "typ": "JWT"}
PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def hs256_with_the_public_key() -> str:
    text = f"{part(HEADER | {'alg': 'HS256', 'kid': 'rs256'})}.{part(claims())}"
    return (
        text
        + "."
        + base64.urlsafe_b64encode(hmac.new(PEM, text.encode(), hashlib.sha256).digest()).decode().rstrip("=")
    )


CHEATS: dict[str, Callable[[], str]] = {
    "alg none": lambda: forged(HEADER | {"alg": "none"}, b""),
    "alg none, well signed": lambda: forged(HEADER | {"alg": "none"}),
    "HS256 signed with the public key": hs256_with_the_public_key,
    "another algorithm than the key's": lambda: signed("RS256", headers={"kid": "es256"}),
    "a stranger's key": lambda: signed(key=ec.generate_private_key(ec.SECP256R1())),
    "a wrong audience": lambda: signed(aud="other"),
    "no audience": lambda: signed(aud=...),
    "a wrong issuer": lambda: signed(iss="https://evil.example"),
    "no issuer": lambda: signed(iss=...),
    "no subject": lambda: signed(sub=...),
    "no device": lambda: signed(device=...),
    "a device that is no text": lambda: signed(device=["phone"]),
    "an empty device": lambda: signed(device=""),
    "no exp": lambda: signed(exp=...),
    "no iat": lambda: signed(iat=...),
    "a future iat": lambda: signed(iat=NOW_S + 61),
    "not yet": lambda: signed(nbf=NOW_S + 61),
    "exp as text": lambda: signed(exp=str(NOW_S + 60)),
    "a life of more than a day": lambda: signed(iat=NOW_S - 10, exp=NOW_S - 9 + LIFE_S_MAX),
    "an end before its beginning": lambda: signed(iat=NOW_S, exp=NOW_S - 1),
    "a kid that is a path": lambda: signed(headers={"kid": "../../etc/passwd"}),
    "a kid that is SQL": lambda: signed(headers={"kid": "x' OR 1=1 --"}),
    "no kid": lambda: forged({"alg": "ES256", "typ": "JWT"}),
    "jku": lambda: signed(headers={"jku": "https://evil.example/keys"}),
    "x5u": lambda: signed(headers={"x5u": "https://evil.example/cert"}),
    "its own jwk": lambda: signed(headers={"jwk": jwk("ES256", "x")}),
    "crit": lambda: signed(headers={"crit": ["x"]}),
    "b64": lambda: forged(HEADER | {"b64": False}),
    "zip": lambda: forged(HEADER | {"zip": "DEF"}),
    "another typ": lambda: signed(headers={"typ": "id+jwt"}),
    "two alg members": lambda: forged('{"alg":"ES256","alg":"none","kid":"es256","typ":"JWT"}'),
    "an all-zero signature": lambda: forged(HEADER, bytes(64)),
    "five kilobytes": lambda: signed(pad="x" * 5000),
    "an extra segment": lambda: signed() + "." + part({}),
    "a changed claim": lambda: ".".join([(t := signed().split("."))[0], part(claims(sub="bob")), t[2]]),
    "no JSON inside": lambda: f"{part('no')}.{part('no')}.xx",
    "no base64": lambda: "ey!.ey!.ey!",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_cheats_are_refused_alike(cheat: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        accepted(CHEATS[cheat]())
    assert caught.value.code == "unauthenticated"


def test_clocks_may_differ_by_a_minute() -> None:
    token = signed(exp=NOW_S)
    assert accepted(token, NOW_S + 59).user_id == "ann"
    with pytest.raises(Unauthenticated) as caught:
        accepted(token, NOW_S + 60)
    assert caught.value.code == "token_expired"


@pytest.mark.parametrize(
    "one",
    [
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "a"},
        {"kty": "oct", "k": "c2VjcmV0", "alg": "ES256", "kid": "a"},
        jwk("ES256", "a") | {"alg": "ES384"},
        {key: value for key, value in jwk("ES256", "a").items() if key != "alg"},
        {key: value for key, value in jwk("ES256", "a").items() if key != "kid"},
        jwk("ES256", "a", use="enc"),
        jwk("ES256", "a", d="AAAA"),
        jwk("ES256", "a", x="AAAA"),
        "no object",
    ],
)
def test_a_key_of_another_kind_is_left_out(one: Any) -> None:
    assert read_keys(json.dumps({"keys": [one]}).encode()) == {}


def test_a_weak_rsa_key_is_left_out() -> None:
    weak = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key()))
    assert read_keys(json.dumps({"keys": [weak | {"alg": "RS256", "kid": "a"}]}).encode()) == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys":{}}', "<html>", '{"keys":[],"keys":[]}'])
def test_what_is_no_key_set_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"Key Set|key set"):
        read_keys(text.encode())


# --- a key set that is fetched ----------------------------------------------------------------------------------------


class Service:
    """The login service's key set, or its absence."""

    def __init__(self) -> None:
        self.kids: list[str] | None = ["a"]
        self.asked = 0

    async def fetch(self) -> bytes:
        self.asked += 1
        await asyncio.sleep(0)  # noqa: TID251 - the network
        if self.kids is None:
            raise OSError("connect_failed")
        return json.dumps({"keys": [jwk("ES256", kid) for kid in self.kids]}).encode()


@pytest.fixture
def served() -> tuple[KeySet, Service, SetClock]:
    service, clock = Service(), SetClock()
    return KeySet(service.fetch, clock), service, clock


async def test_keys_are_fetched_once_for_all_who_wait(served: tuple[KeySet, Service, SetClock]) -> None:
    keys, service, _ = served
    found = await asyncio.gather(*(keys.key("a") for _ in range(20)))
    assert all(isinstance(one, VerifyKey) for one in found)
    assert service.asked == 1


async def test_a_made_up_kid_does_not_make_the_relay_ask_again_and_again(
    served: tuple[KeySet, Service, SetClock],
) -> None:
    keys, service, clock = served
    for n in range(100):
        assert await keys.key(f"x{n}") is None
    assert service.asked == 1
    clock.ms += AGAIN_MS
    service.kids = ["a", "new"]
    assert await keys.key("new") is not None
    assert service.asked == 2


async def test_a_key_that_was_taken_out_of_the_set_is_soon_good_no_more(
    served: tuple[KeySet, Service, SetClock],
) -> None:
    keys, service, clock = served
    assert await keys.key("a") is not None
    service.kids = ["b"]
    clock.ms += FRESH_MS + 1
    assert await keys.key("a") is None


async def test_while_the_service_is_away_the_last_set_counts_for_a_day(
    served: tuple[KeySet, Service, SetClock],
) -> None:
    keys, service, clock = served
    assert await keys.key("a") is not None
    service.kids = None
    clock.ms = KEPT_MS
    assert await keys.key("a") is not None
    clock.ms += 1
    assert await keys.key("a") is None
