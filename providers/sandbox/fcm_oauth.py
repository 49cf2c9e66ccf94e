"""Google's token endpoint: a service account's signed assertion in, an access token out.

Source: vendor sheet fcm.md §2. The signature is checked with `cryptography` alone, not with the JWT library that an
adapter is likely to sign with.
"""

import base64
import random
import re
from collections.abc import Callable
from urllib.parse import parse_qs

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from providers.sandbox.account import TOKEN_URI, ServiceAccount
from providers.sandbox.faults import Answer
from providers.sandbox.fcm_faults import oauth_error

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCOPE = "https://www.googleapis.com/auth/"
SENDING_SCOPES = frozenset({f"{SCOPE}firebase.messaging", f"{SCOPE}cloud-platform"})  # any one of them is enough
ASSERTION_LASTS_S_MAX = 3600
SKEW_S_MAX = 300  # "more than a few minutes" is refused
ACCESS_TOKEN_LASTS_S = 3599
ACCESS_TOKENS_MAX = 1000  # then the oldest goes
FIELDS_MAX = 20

_JWT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


class Refused(Exception):  # noqa: N818 - the endpoint's word on an assertion
    """An OAuth error: its HTTP status, its code, its sentence."""

    def __init__(self, status: int, error: str, description: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.description = description


class TokenEndpoint:
    """Mints access tokens and knows which of them are good."""

    def __init__(self, account: ServiceAccount, *, now: Callable[[], float], rng: random.Random) -> None:
        self.key_deleted = False
        self._account = account
        self._now = now
        self._rng = rng
        self._good_until: dict[str, float] = {}  # by access token, oldest first
        self._scopes: dict[str, frozenset[str]] = {}

    def answer(self, form: bytes) -> Answer:
        """What a POST of this form gets."""
        try:
            scopes = self._check_form(form)
        except Refused as refused:
            return oauth_error(refused.status, refused.error, refused.description)
        return Answer(
            status=200,
            body=msgspec.json.encode(
                {"access_token": self._mint(scopes), "expires_in": ACCESS_TOKEN_LASTS_S, "token_type": "Bearer"}
            ),
        )

    def knows(self, access_token: str) -> bool:
        """Whether it was minted here, is not revoked and not over."""
        until = self._good_until.get(access_token)
        return until is not None and self._now() < until

    def may_send(self, access_token: str) -> bool:
        """Whether it was asked for with a scope that messages may be sent with."""
        return not SENDING_SCOPES.isdisjoint(self._scopes.get(access_token, frozenset()))

    def revoke_tokens(self) -> None:
        self._good_until.clear()
        self._scopes.clear()

    def _mint(self, scopes: frozenset[str]) -> str:
        # The time is in it so that a sandbox restarted with the same seed does not take its old tokens.
        token = f"ya29.c.sandbox-{int(self._now() * 1e6):x}-{self._rng.getrandbits(160):040x}"
        self._good_until[token] = self._now() + ACCESS_TOKEN_LASTS_S
        self._scopes[token] = scopes
        if len(self._good_until) > ACCESS_TOKENS_MAX:
            oldest = next(iter(self._good_until))
            del self._good_until[oldest], self._scopes[oldest]
        return token

    def _check_form(self, form: bytes) -> frozenset[str]:
        try:
            fields = parse_qs(form.decode(), strict_parsing=True, max_num_fields=FIELDS_MAX)
        except ValueError:
            raise Refused(400, "invalid_request", "The body is not a form.") from None
        grants = fields.get("grant_type", [])
        if len(grants) != 1:
            raise Refused(400, "invalid_request", "Required parameter is missing: grant_type")
        if grants[0] != GRANT_TYPE:
            raise Refused(400, "unsupported_grant_type", f"Invalid grant_type: {grants[0][:100]}")
        assertions = fields.get("assertion", [])
        if len(assertions) != 1:
            raise Refused(400, "invalid_request", "Required parameter is missing: assertion")
        return self._check_assertion(assertions[0])

    def _check_assertion(self, assertion: str) -> frozenset[str]:
        """The scopes that it asks for."""
        match = _JWT.fullmatch(assertion)
        if match is None:
            raise _grant("Invalid JWT: it must have three parts in base64url.")
        header, claims = _json_part(match[1]), _json_part(match[2])
        if header.get("alg") != "RS256":
            raise _grant("Invalid JWT: its header must name the algorithm RS256.")
        if header.get("typ") != "JWT":
            raise _grant("Invalid JWT: its header must name the type JWT.")
        document = self._account.document
        if claims.get("iss") != document["client_email"]:
            raise _grant("Invalid grant: account not found")
        if self.key_deleted or header.get("kid") != document["private_key_id"]:
            raise _grant("Invalid JWT Signature.")
        try:
            self._account.public_key.verify(
                _unpacked(match[3]), f"{match[1]}.{match[2]}".encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature:
            raise _grant("Invalid JWT Signature.") from None
        if claims.get("aud") != TOKEN_URI:
            raise _grant(f"Invalid JWT: Failed audience check. The right audience is {TOKEN_URI}")
        self._check_times(claims.get("iat"), claims.get("exp"))
        scope = claims.get("scope")
        if not isinstance(scope, str) or not scope.split():
            raise Refused(400, "invalid_scope", "Empty or missing scope not allowed.")
        if not all(one.startswith(SCOPE) and one != SCOPE for one in scope.split()):
            raise Refused(400, "invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        return frozenset(scope.split())

    def _check_times(self, issued: object, expires: object) -> None:
        now = self._now()
        if (
            type(issued) is not int
            or type(expires) is not int
            or not 0 < expires - issued <= ASSERTION_LASTS_S_MAX
            or issued > now + SKEW_S_MAX
            or expires <= now - SKEW_S_MAX
        ):
            raise _grant(
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
                "Check your iat and exp values in the JWT claim."
            )


def _grant(description: str) -> Refused:
    return Refused(400, "invalid_grant", description)


def _unpacked(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise _grant("Invalid JWT: it must have three parts in base64url.") from None


def _json_part(part: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(_unpacked(part), type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _grant("Invalid JWT: its header and claims must be JSON objects.") from None
