"""Device tokens that an app's own login service signs, as JSON Web Tokens (safety SEC-4; RFC 7519, RFC 8725).

They are off until the operator names an issuer and its key set. `sub` is the user, the claim `device` the device, which
must be registered: a token of somebody else's making makes no device, but for one that was lost with a store set back.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from relay import strictjson
from relay.errors import Malformed, Unauthenticated

TOKEN_BYTES_MAX: Final = 4096
LEEWAY_S: Final = 60
LIFE_S_MAX: Final = 24 * 3600
ALGORITHMS: Final = ("ES256", "EdDSA", "RS256")
RSA_BITS_MIN: Final = 2048
KEYS_MAX: Final = 50
KID_CHARS_MAX: Final = 200
HEADER: Final = frozenset({"alg", "kid", "typ"})  # any other member could change what the rest means
ID_CHARS_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A public key and the one algorithm that it is used with."""

    algorithm: str
    key: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a good token says."""

    user_id: str
    device_id: str
    issued_ms: int
    expires_ms: int
    credential_id: str  # of this very token; no secret


class TokenRefused(Unauthenticated):
    """`why`, in a few words of ours, is for the operator's log: whoever called is told no more than others."""

    def __init__(self, why: str) -> None:
        super().__init__("Send `Authorization: Bearer` with a valid API key or device token.")
        self.why = why


def looks_like_one(text: str) -> bool:
    """Whether a bearer has this form, so that it is worth a closer look."""
    return text.count(".") == 2 and text.startswith("ey")


def read_keys(document: bytes) -> dict[str, VerifyKey]:
    """The usable keys of a JSON Web Key Set (RFC 7517), by `kid`. Others are left out. Raises ValueError if it is none."""
    try:
        value = strictjson.parse(document)
        listed = value["keys"]
        if not isinstance(listed, list) or len(listed) > KEYS_MAX:
            raise ValueError("a key set has a list of at most 50 keys")
    except (Malformed, TypeError, KeyError) as error:
        raise ValueError("this is no JSON Web Key Set") from error
    found: dict[str, VerifyKey] = {}
    for one in listed:
        key = _key(one)
        if key is None:
            continue
        kid = one["kid"]
        if kid in found:
            raise ValueError("two keys of the set have the same kid")
        found[kid] = key
    return found


def _key(one: Any) -> VerifyKey | None:
    """A key that may verify; None for one of another kind, purpose or strength."""
    if not isinstance(one, dict) or one.get("alg") not in ALGORITHMS or one.get("use", "sig") != "sig":
        return None
    kid = one.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= KID_CHARS_MAX or "d" in one or one.get("kty") == "oct":
        return None  # a private or shared key has no business here
    import jwt  # noqa: PLC0415 - 0.1 s that a start without an issuer does not need

    try:
        parsed = jwt.PyJWK(one, algorithm=one["alg"])
    except jwt.PyJWTError:
        return None
    if one["alg"] == "RS256" and parsed.key.key_size < RSA_BITS_MIN:
        return None
    return VerifyKey(one["alg"], parsed.key)


def kid_of(token: str) -> str:
    """Which key the token says it was signed with: to be matched, and nothing else. Raises TokenRefused."""
    return str(_header(token)["kid"])


def _header(token: str) -> Mapping[str, Any]:
    """The header, if it is one that we take. Raises TokenRefused."""
    if len(token) > TOKEN_BYTES_MAX or token.count(".") != 2 or not token.isascii():
        raise TokenRefused("form")
    header = _part(token.split(".", maxsplit=1)[0])
    if set(header) != HEADER:
        raise TokenRefused("header: must have alg, kid and typ, and nothing else")
    if header["alg"] not in ALGORITHMS:
        raise TokenRefused("alg")
    if header["typ"] not in {"JWT", "at+jwt"} or not isinstance(header["kid"], str):
        raise TokenRefused("typ or kid")
    return header


def _part(text: str) -> dict[str, Any]:
    try:
        value = strictjson.parse(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (Malformed, binascii.Error):
        raise TokenRefused("form") from None
    if not isinstance(value, dict):
        raise TokenRefused("form")
    return value


def verify(token: str, key: VerifyKey | None, *, issuer: str, audience: str, now_ms: int) -> Claims:
    """What the token says, if it is good now.

    Raises Unauthenticated: `token_expired` for one that was good once, else TokenRefused, which says the same for every fault.
    """
    if key is None:
        raise TokenRefused("kid: the key set has no such key")
    if _header(token)["alg"] != key.algorithm:
        raise TokenRefused("alg: not that of the key")
    import jwt  # noqa: PLC0415 - as above

    try:
        # The library checks the signature; times are checked here, by the relay's own clock.
        jwt.api_jws.decode_complete(token, key.key, algorithms=[key.algorithm])
    except jwt.PyJWTError:
        raise TokenRefused("signature") from None
    claims = _part(token.split(".")[1])
    audiences = claims.get("aud")
    if claims.get("iss") != issuer:
        raise TokenRefused("iss")
    if audience not in (audiences if isinstance(audiences, list) else [audiences]):
        raise TokenRefused("aud")
    user_id, device_id = _id(claims, "sub"), _id(claims, "device")
    issued_s, expires_s = _time(claims, "iat"), _time(claims, "exp")
    not_before_s = _time({"nbf": 0} | claims, "nbf")
    now_s = now_ms / 1000
    if issued_s > now_s + LEEWAY_S or not_before_s > now_s + LEEWAY_S:
        raise TokenRefused("iat, nbf: in the future")
    if not 0 < expires_s - issued_s <= LIFE_S_MAX:
        raise TokenRefused("iat, exp: more than 24 hours apart, or the wrong way round")
    if expires_s + LEEWAY_S <= now_s:
        raise Unauthenticated(
            "This token has expired; ask the app's login service for a new one.", code="token_expired"
        )
    return Claims(
        user_id=user_id,
        device_id=device_id,
        issued_ms=int(issued_s * 1000),
        expires_ms=int((expires_s + LEEWAY_S) * 1000),
        credential_id="jwt_" + hashlib.sha256(token.encode()).hexdigest()[:24],
    )


def _id(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= ID_CHARS_MAX:
        raise TokenRefused(name)
    return value


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TokenRefused(name)
    return value
