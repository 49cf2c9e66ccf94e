"""Apple Push Notification service: one HTTP/2 request per device, with a signed token or a client certificate.

Source: vendor sheet `apns` (Apple documentation of autumn 2026): hosts §1, authentication §2, connections §3, request
§4, push types §5, errors §7, mapping §8, live activities §9.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import jwt

from providers.apns_config import ApnsConfig, signing_key
from providers.apns_message import (
    KINDS,
    PAYLOAD_BYTES_MAX,
    TTL_S_MAX,
    headers_of,
    kind_of,
    override_mistakes,
    payload_of,
)
from providers.contract import AddressInvalid, Capabilities, Outcome, ProviderConfig, Push, Scope, Transport, Verdict
from providers.http import Credential, HttpProvider, Refusal, Request, Response, by_status, code_from, json_body
from providers.http2 import Habits, Http2Transport
from providers.streak import Streak

__all__ = ["ApnsConfig", "ApnsProvider"]

TOKEN_BYTES_MAX = 200
JWT_RENEWED_S = 50 * 60  # Apple takes a token for an hour (§2.1.5), we renew before (safety SEC-13)
JWT_KEPT_S = 20 * 60  # and minds a change on one connection sooner than this (§2.1.6)
PIN_S = JWT_KEPT_S + 60.0  # Apple counts from when the first came, and that may have been late
BUSY_TOKEN_S = 20.0  # after TooManyRequests, for that device alone (§7: 10 to 30 s)
MINTED_TOO_OFTEN, MINTED_TOO_OFTEN_S = "TooManyProviderTokenUpdates", 60.0

# reason -> verdict, scope, wait, and the HTTP statuses with which it is believed (§7). Asked first.
Row = tuple[Verdict, Scope, float | None, frozenset[int]]


def _rows(status: int, verdict: Verdict, scope: Scope, *reasons: str, wait_s: float | None = None) -> dict[str, Row]:
    return {reason: (verdict, scope, wait_s, frozenset({status})) for reason in reasons}


BY_REASON: dict[str, Row] = {
    # What we wrote is wrong: never this device's fault. An operator hears of it ("bug alert").
    **_rows(400, Verdict.REFUSED, Scope.MESSAGE, "BadCollapseId", "BadExpirationDate", "BadMessageId", "BadPriority"),
    **_rows(400, Verdict.REFUSED, Scope.MESSAGE, "DuplicateHeaders", "InvalidPushType", "MissingDeviceToken"),
    **_rows(400, Verdict.REFUSED, Scope.MESSAGE, "PayloadEmpty"),
    **_rows(404, Verdict.REFUSED, Scope.MESSAGE, "BadPath"),
    **_rows(405, Verdict.REFUSED, Scope.MESSAGE, "MethodNotAllowed"),
    **_rows(413, Verdict.TOO_LARGE, Scope.MESSAGE, "PayloadTooLarge"),
    # The device. Many of them at once are a mistake of the operator's: the relay's brake sees to that (§10.1).
    **_rows(400, Verdict.TOKEN_DEAD, Scope.TOKEN, "BadDeviceToken", "DeviceTokenNotForTopic"),
    **_rows(410, Verdict.TOKEN_DEAD, Scope.TOKEN, "ExpiredToken", "Unregistered"),
    **_rows(429, Verdict.RETRY, Scope.TOKEN, "TooManyRequests", wait_s=BUSY_TOKEN_S),
    # The account.
    **_rows(400, Verdict.MISCONFIGURED, Scope.ACCOUNT, "BadTopic", "MissingTopic", "TopicDisallowed"),
    **_rows(403, Verdict.MISCONFIGURED, Scope.ACCOUNT, "BadCertificate", "BadCertificateEnvironment", "Forbidden"),
    **_rows(403, Verdict.MISCONFIGURED, Scope.ACCOUNT, "InvalidProviderToken", "MissingProviderToken"),
    # The first spelling is in Apple's pages, the second was seen on the wire.
    **_rows(403, Verdict.MISCONFIGURED, Scope.ACCOUNT, "BadEnvironmentKeyIdInToken", "BadEnvironmentKeyInToken"),
    **_rows(403, Verdict.REAUTH, Scope.ACCOUNT, "ExpiredProviderToken"),
    **_rows(403, Verdict.REAUTH, Scope.ACCOUNT, "UnrelatedKeyIdInToken"),  # once more, on a new connection
    # Nothing is minted for it: see `credential`. If it persists, an operator is told: see `send`.
    **_rows(429, Verdict.RETRY, Scope.ACCOUNT, MINTED_TOO_OFTEN, wait_s=MINTED_TOO_OFTEN_S),
    # The connection, or Apple. Apple's text asks for 15 minutes before a repeat, no gateway seen waits so long (§7): the
    # relay's own back-off applies, and its circuit.
    **_rows(400, Verdict.RETRY, Scope.MESSAGE, "IdleTimeout"),
    **_rows(500, Verdict.RETRY, Scope.MESSAGE, "InternalServerError"),
    **_rows(503, Verdict.RETRY, Scope.MESSAGE, "ServiceUnavailable", "Shutdown"),
}
# After these the connection takes nothing new. Whatever 403 says is about the credential that this connection is bound to
# (§2.1, key types), and a revoked one asks for all of them to be closed.
_SPENT = frozenset({"IdleTimeout", "Shutdown", MINTED_TOO_OFTEN})
# What a GOAWAY may say against us. Other reasons are about the connection: then requests just go elsewhere.
_AGAINST_US = frozenset(reason for reason, row in BY_REASON.items() if row[0] is Verdict.MISCONFIGURED)
_OF_TOPIC = frozenset({"BadTopic", "MissingTopic", "TopicDisallowed"})
_TOKEN = re.compile(rf"(?:[0-9a-f]{{2}}){{1,{TOKEN_BYTES_MAX}}}")


class ApnsProvider(HttpProvider):
    name: ClassVar[str] = "apns"
    contract: ClassVar[int] = 1
    Config: ClassVar[type[ProviderConfig]] = ApnsConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        payload_bytes_max=PAYLOAD_BYTES_MAX,
        ttl_s_max=TTL_S_MAX,
        kinds=frozenset(KINDS),
        collapse=True,
        badge=True,
        image=True,
        mutable=True,
        localised=True,
        sealed=True,
        withdraw=True,
        collapse_keys_max=1,  # offline storage is one notification for each bundle id and device (§8)
        silent_gap_s=1200.0,  # two or three an hour (§8)
    )
    config: ApnsConfig

    def __init__(self, config: ApnsConfig, *, transport: Transport, now: Callable[[], float]) -> None:
        super().__init__(config, transport=transport, now=now)
        self._key = None if config.key is None else signing_key(config.key.get_secret_value())
        self._minted: tuple[Credential, float] | None = None  # and when
        self._minted_too_often = Streak(gap_s=3600.0)
        self._proven: set[tuple[str, str]] = set()  # environments and sorts of topic that have taken a push

    @classmethod
    def own_transport(cls, config: ApnsConfig) -> Http2Transport:
        """One pool for each account, so for each team and key; nobody else's requests go over its connections (§2.1).

        A connection that was opened with an old token must not see the next one soon after (§10.2b).
        """
        habits = Habits(
            spent=_spent,
            refusal=_refusal,
            pinned="authorization",
            pin_s=PIN_S,
            certified=config.certificate is not None,
        )
        return Http2Transport(tls=config.tls(), habits=habits)

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """See `Provider`: some `headers`, and any part of `payload`; null takes a field of ours away."""
        return list(override_mistakes(overrides))

    def address(self, kind: str, token: str) -> str:
        """See `Provider`: the bytes that the app was given, as hexadecimal digits in lower case (§4)."""
        if not _TOKEN.fullmatch(token.lower()):
            raise AddressInvalid(f"must be a device token in hexadecimal digits, of 1 to {TOKEN_BYTES_MAX} bytes")
        if KINDS[kind].token_only and self.config.certificate is not None:
            raise AddressInvalid("is of a kind that needs a signing key; this account has a certificate")
        return token.lower()

    def credential_expires_s(self) -> float | None:
        """When the certificate ends, in seconds since 1970; a key does not."""
        return self.config.certificate_expires_s

    async def credential(self) -> Credential:
        """See `HttpProvider`: a provider token. A young one is not replaced, whatever Apple says of it (§2.1.6)."""
        if self._key is None:
            return Credential(value="")  # the connection's certificate says who we are
        now_s = self.now()
        if self._minted is not None and 0 <= now_s - self._minted[1] < JWT_KEPT_S:
            return self._minted[0]
        claims = {"iss": self.config.team_id, "iat": int(now_s)}
        # PyJWT adds `typ` by itself; None leaves it out, as in Apple's example.
        headers: dict[str, Any] = {"kid": self.config.key_id, "typ": None}
        token = jwt.encode(claims, self._key, algorithm="ES256", headers=headers)
        credential = Credential(value=token, good_from_s=now_s - JWT_KEPT_S, good_until_s=now_s + JWT_RENEWED_S)
        self._minted = (credential, now_s)
        return credential

    def encode(self, push: Push, credential: str) -> Request:
        """See `HttpProvider`: the mapping of sheet §8."""
        token, kind, now_s = push.token.lower(), kind_of(push), self.now()
        if not _TOKEN.fullmatch(token):
            raise Refusal(Outcome(verdict=Verdict.REFUSED, vendor_code="token_malformed"))
        payload = payload_of(push, now_s=now_s)
        headers = headers_of(push, payload, topic=self.config.topic, now_s=now_s)
        if credential:
            headers["authorization"] = f"bearer {credential}"
        return Request(
            url=f"{self.config.origin(kind.environment)}/3/device/{token}",
            headers=headers | {"content-type": "application/json"},
            body=json_body(payload),
            payload_bytes_max=kind.bytes_max,
        )

    def decode(self, response: Response) -> Outcome:
        """See `HttpProvider`: the table of sheet §7."""
        if response.status == 200:
            return Outcome(verdict=Verdict.ACCEPTED, vendor_id=code_from(response.header("apns-id")))
        answer = response.json()
        code = code_from(answer.get("reason"))
        row = BY_REASON.get(code or "")
        if row is None or response.status not in row[3]:
            outcome = by_status(response, now_s=self.now(), code=code)
            about_device = response.status == 410 and code is not None  # each of Apple's is; a proxy's has no reason
            return replace(outcome, scope=Scope.TOKEN) if about_device else outcome
        verdict, scope, wait_s, _ = row
        dead = verdict is Verdict.TOKEN_DEAD
        return Outcome(
            verdict=verdict,
            scope=scope,
            retry_after_s=wait_s,
            alert=verdict is Verdict.REFUSED,
            dead_since_ms=_milliseconds(answer.get("timestamp")) if dead else None,
            vendor_code=code,
        )

    async def send(self, push: Push) -> Outcome:
        """See `Provider`."""
        outcome = self._judged(push, await super().send(push))
        parks = outcome.verdict is Verdict.MISCONFIGURED and outcome.scope is Scope.ACCOUNT
        if parks and isinstance(self.call, Http2Transport):
            self.call.renew()  # bound to the key and the apps that Apple knew at their first push (§2.1)
        return outcome

    def _judged(self, push: Push, outcome: Outcome) -> Outcome:
        """What an answer means beside those before it."""
        self._minted_too_often.note(said=outcome.vendor_code == MINTED_TOO_OFTEN, now_s=self.now())
        if self._minted_too_often.lasted_s >= MINTED_TOO_OFTEN_S:  # and no new connection has cured it (§7, §10.2)
            return replace(outcome, alert=True)
        if push.kind not in KINDS:
            return outcome
        kind = kind_of(push)
        place = (kind.environment or self.config.environment, kind.suffix)
        if outcome.verdict is Verdict.ACCEPTED:
            self._proven.add(place)
        elif outcome.vendor_code == "DeviceTokenNotForTopic" and place not in self._proven:
            # As long as no device of this topic has taken anything, the topic may be what is wrong (§7).
            return replace(outcome, verdict=Verdict.MISCONFIGURED, dead_since_ms=None)
        elif outcome.vendor_code in _OF_TOPIC and kind.suffix:
            return replace(outcome, scope=Scope.TOKEN)  # say, a key without VoIP: alerts are not concerned
        return outcome


def _milliseconds(value: object) -> int | None:
    """When Apple found the token dead; None if it does not say so (then the time of the attempt counts)."""
    return value if type(value) is int and 0 < value < 2**53 else None


def _reason(body: bytes) -> str:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return (code_from(found.get("reason")) or "") if isinstance(found, dict) else ""


def _spent(response: Response) -> bool:
    return response.status == 403 or (response.status != 200 and _reason(response.body) in _SPENT)


def _refusal(debug: bytes) -> Outcome | None:
    reason = _reason(debug)
    if reason not in _AGAINST_US:
        return None
    return Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.ACCOUNT, vendor_code=reason)
