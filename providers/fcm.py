"""Firebase Cloud Messaging, HTTP v1: one POST per device, an OAuth bearer from a service account.

Source: vendor sheet `fcm` (Firebase documentation of autumn 2026): authentication §2, limits §4, errors §6. Settings are in
`providers.fcm_config`, the message in `providers.fcm_message`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

import jwt

from providers.contract import Capabilities, Outcome, ProviderConfig, Push, Scope, Transport, Verdict
from providers.fcm_config import TOKEN_URL, FcmConfig
from providers.fcm_message import message_of, payload_bytes
from providers.fcm_overrides import DURATION, TTL_S_MAX, override_mistakes
from providers.http import (
    THROTTLED_S,
    Credential,
    HttpProvider,
    Refusal,
    Request,
    Response,
    bearer_from,
    by_status,
    code_from,
    json_body,
    retry_after_s,
)
from providers.http2 import Http2Transport, Limits
from providers.http2_tls import tls_context
from providers.key_files import rsa_key
from providers.transport import HttpTransport
from providers.trust import verifying

__all__ = ["FcmConfig", "FcmProvider"]

PAYLOAD_BYTES_MAX = 4096
ASSERTION_S = 3600  # the longest that Google takes
TOTAL_S = 15.0  # Google wants at least ten for its answer (§6); ours is with the wait for a connection
TOKEN_CHARS_MAX = 4096

SCOPE_URL = "https://www.googleapis.com/auth/firebase.messaging"

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
QUOTA_FAILURE = "type.googleapis.com/google.rpc.QuotaFailure"
RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"

# FcmError.errorCode -> verdict, scope, and the HTTP statuses with which it is believed. Asked first.
BY_ERROR_CODE: dict[str, tuple[Verdict, Scope, frozenset[int]]] = {
    "UNREGISTERED": (Verdict.TOKEN_DEAD, Scope.TOKEN, frozenset({400, 404, 410})),
    "SENDER_ID_MISMATCH": (Verdict.TOKEN_DEAD, Scope.TOKEN, frozenset({400, 403})),
    # The project lacks Apple's or the browser's key: its Android devices are fine, so not the whole account.
    "THIRD_PARTY_AUTH_ERROR": (Verdict.MISCONFIGURED, Scope.TOKEN, frozenset({400, 401, 403})),
    "APNS_AUTH_ERROR": (Verdict.MISCONFIGURED, Scope.TOKEN, frozenset({400, 401, 403})),
    "INTERNAL": (Verdict.RETRY, Scope.MESSAGE, frozenset({400, 409})),
    "UNAVAILABLE": (Verdict.RETRY, Scope.MESSAGE, frozenset({400, 409})),
}
# google.rpc status -> verdict, scope. Asked second, for answers of 4xx.
BY_RPC_STATUS: dict[str, tuple[Verdict, Scope]] = {
    "INVALID_ARGUMENT": (Verdict.REFUSED, Scope.MESSAGE),
    "UNAUTHENTICATED": (Verdict.REAUTH, Scope.ACCOUNT),
    "PERMISSION_DENIED": (Verdict.MISCONFIGURED, Scope.ACCOUNT),
    "NOT_FOUND": (Verdict.MISCONFIGURED, Scope.ACCOUNT),  # a wrong project id looks like this: nobody's token is dead
    "INTERNAL": (Verdict.RETRY, Scope.MESSAGE),
    "UNAVAILABLE": (Verdict.RETRY, Scope.MESSAGE),
    "DEADLINE_EXCEEDED": (Verdict.RETRY, Scope.MESSAGE),
    "ABORTED": (Verdict.RETRY, Scope.MESSAGE),
}

TARGETS = frozenset({"message.token", "message.fid"})  # as Google calls the fields
_TOKEN_INVALID = re.compile(r"\bnot a valid FCM registration token\b", re.IGNORECASE)
_TOO_LARGE = re.compile(r"\btoo (big|large|long)\b|\bexceed(s|ed|ing)\b.*\b(size|bytes|4096)\b", re.IGNORECASE)
_PER_DEVICE = re.compile(r"\bdevice\b", re.IGNORECASE)
_TEXT = re.compile(r"[^\x00-\x1f\x7f]+")


_ANY = Capabilities(
    payload_bytes_max=PAYLOAD_BYTES_MAX,
    ttl_s_max=TTL_S_MAX,
    kinds=frozenset({"token", "fid"}),
    collapse=True,
    badge=True,
    image=True,
    mutable=True,
    localised=True,
    sealed=True,
    retry_s_min=10.0,
    start_per_s=500.0,  # §6, §7
    withdraw=True,
)
_ANDROID = replace(_ANY, collapse_keys_max=4)  # of `android.collapse_key` alone (§3.2)
_IOS = replace(_ANY, collapse_keys_max=1, silent_gap_s=1200.0)  # Apple's own (sheet apns §8)


class FcmProvider(HttpProvider):
    name: ClassVar[str] = "fcm"
    contract: ClassVar[int] = 1
    Config: ClassVar[type[ProviderConfig]] = FcmConfig
    # A device that does not say what it is is an Android one: most are.
    capabilities: ClassVar[Capabilities] = replace(_ANDROID, platforms={"ios": _IOS, "web": _ANY})
    config: FcmConfig

    def __init__(self, config: FcmConfig, *, transport: Transport, now: Callable[[], float]) -> None:
        super().__init__(config, transport=transport, now=now)
        self._key = rsa_key(config.service_account.private_key.get_secret_value(), checked=True)
        project = quote(config.service_account.project_id, safe="")
        self._send_url = f"{str(config.base_url).rstrip('/')}/v1/projects/{project}/messages:send"

    @classmethod
    def own_transport(cls, config: FcmConfig) -> Http2Transport | HttpTransport:
        """HTTP/2, which Google speaks and at half the cost (sheet §7), if all of the account's URLs are https."""
        secure = all(url is None or url.scheme == "https" for url in (config.base_url, config.token_url))
        if config.http2 and secure:
            tls = None if config.ca is None else tls_context(ca_data=config.ca)
            return Http2Transport(tls=tls, limits=Limits(total_s=TOTAL_S))
        return HttpTransport(tls=None if config.ca is None else verifying(config.ca), total_s=TOTAL_S)

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """See `Provider`: the parts of FCM's `message` except its target; null takes a field of ours away."""
        return list(override_mistakes(overrides))

    async def credential(self) -> Credential:
        """See `HttpProvider`: a signed assertion for a bearer (sheet §2)."""
        account, now_s = self.config.service_account, int(self.now())
        claims = {
            "iss": account.client_email,
            "scope": SCOPE_URL,
            "aud": TOKEN_URL,  # fixed, wherever we post it
            "iat": now_s,
            "exp": now_s + ASSERTION_S,
        }
        assertion = jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": account.private_key_id})
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
        request = Request(
            url=str(self.config.token_url or TOKEN_URL),
            headers={"content-type": "application/x-www-form-urlencoded"},
            body=urlencode(form).encode(),
        )
        return bearer_from(await self.call(request), now_s=self.now())

    def encode(self, push: Push, credential: str) -> Request:
        """See `HttpProvider`: the mapping of sheet §8."""
        if not push.token or len(push.token) > TOKEN_CHARS_MAX or not _TEXT.fullmatch(push.token):
            raise Refusal(Outcome(verdict=Verdict.REFUSED, vendor_code="token_malformed"))
        message = message_of(
            push, shown_by_app=self.config.mode == "data", now_s=self.now(), label=self.config.analytics_label
        )
        body: dict[str, Any] = {"message": {push.kind: push.token, **message}}
        if self.config.validate_only:
            body["validate_only"] = True
        written = json_body(body)
        return Request(
            url=self._send_url,
            headers={
                "authorization": f"Bearer {credential}",
                "content-type": "application/json; charset=UTF-8",
                "x-goog-api-format-version": "2",
            },
            body=written,
            # What one platform gets is never more than all that is written.
            payload_bytes=payload_bytes(message) if len(written) > PAYLOAD_BYTES_MAX else None,
        )

    def decode(self, response: Response) -> Outcome:
        """See `HttpProvider`: the table of sheet §6."""
        answer = response.json()
        if response.status == 200:
            name = answer.get("name")
            if isinstance(name, str) and name.startswith("projects/") and "error" not in answer:
                return Outcome(verdict=Verdict.ACCEPTED, vendor_id=name[:256])
            return by_status(response, now_s=self.now(), code="answer_garbled")
        return _fault(response, answer, now_s=self.now())


def _fault(response: Response, answer: dict[str, Any], *, now_s: float) -> Outcome:
    error = answer.get("error")
    error = error if isinstance(error, dict) else {}
    details = [item for item in _listed(error.get("details")) if isinstance(item, dict)]
    word = next((code_from(item.get("errorCode")) for item in details if item.get("@type") == FCM_ERROR), None)
    rpc = code_from(error.get("status"))
    said = error.get("message") if isinstance(error.get("message"), str) else ""
    code = word or rpc
    status = response.status

    if status >= 500 or status < 400:
        outcome = by_status(response, now_s=now_s, code=code)
        return outcome if outcome.retry_after_s else replace(outcome, retry_after_s=_retry_info_s(details))
    if status == 429 or word == "QUOTA_EXCEEDED" or rpc == "RESOURCE_EXHAUSTED":
        wait_s = retry_after_s(response, now_s=now_s) or _retry_info_s(details) or THROTTLED_S
        scope = Scope.TOKEN if _about_device(details, str(said)) else Scope.ACCOUNT
        return Outcome(verdict=Verdict.RETRY, scope=scope, retry_after_s=wait_s, vendor_code=code)
    if word in BY_ERROR_CODE and status in BY_ERROR_CODE[word][2]:
        verdict, scope, _ = BY_ERROR_CODE[word]
        return Outcome(verdict=verdict, scope=scope, vendor_code=code)
    if status == 400:
        wrong = _violations(details, BAD_REQUEST, "fieldViolations")
        texts = [str(said), *(str(one.get("description")) for one in wrong)]
        if any(map(_TOO_LARGE.search, texts)):
            return Outcome(verdict=Verdict.TOO_LARGE, vendor_code=code)
        # Only this speaks of the token, in a sentence or by its field; every other 400 is about a field of ours.
        named = any(map(_TOKEN_INVALID.search, texts)) or any(str(one.get("field")) in TARGETS for one in wrong)
        if word == "INVALID_ARGUMENT" and named:
            return Outcome(verdict=Verdict.TOKEN_DEAD, scope=Scope.TOKEN, vendor_code=code)
    if rpc in BY_RPC_STATUS:
        verdict, scope = BY_RPC_STATUS[rpc]
        return Outcome(verdict=verdict, scope=scope, vendor_code=code)
    return by_status(response, now_s=now_s, code=code)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _violations(details: list[dict[str, Any]], kind: str, under: str) -> list[dict[str, Any]]:
    return [
        violation
        for item in details
        if item.get("@type") == kind
        for violation in _listed(item.get(under))
        if isinstance(violation, dict)
    ]


def _about_device(details: list[dict[str, Any]], said: str) -> bool:
    texts = [said]
    for violation in _violations(details, QUOTA_FAILURE, "violations"):
        texts += [str(violation.get("subject")), str(violation.get("description"))]
    return any(map(_PER_DEVICE.search, texts))


def _retry_info_s(details: list[dict[str, Any]]) -> float | None:
    for item in details:
        delay = item.get("retryDelay")
        if item.get("@type") == RETRY_INFO and isinstance(delay, str) and (match := DURATION.fullmatch(delay)):
            return min(max(float(delay[:-1]), 1.0), 3600.0) if match else None
    return None
