"""A signed call to a gateway of your own, by Standard Webhooks 1.0.0: one POST per push.

Source: vendor sheet `others` §3 (Standard Webhooks, 2023): request 3.1, vector 3.2, outcomes 3.3. One thing is ours: a
gateway that knows a device to be gone says so with any 4xx and the JSON body `{"error":"token_dead"}`; without that
word no token is ever given up.

`webhook-id` names one push to one device; what it is about is `data.id`, which a message has on all devices.
"""

import base64
import binascii
import hmac
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, HttpUrl, SecretStr, model_validator

from providers.app_message import once_key
from providers.contract import Capabilities, Outcome, ProviderConfig, Push, Scope, Transport, Verdict
from providers.endpoints import GuardedConfig
from providers.http import (
    THROTTLED_S,
    Credential,
    HttpProvider,
    Request,
    Response,
    by_status,
    code_from,
    json_body,
    retry_after_s,
)
from providers.streak import Streak

__all__ = ["HttpCallConfig", "HttpCallProvider", "secret_key", "sign"]

SECRET_BYTES = (24, 64)
SECRET_PREFIX = "whsec_"  # noqa: S105
BODY_BYTES_MAX = 19_999  # "< 20 kB"
TOTAL_S = 15.0
MOVED_S = 600.0  # so long nothing but redirects: an operator must look
DEAD = "token_dead"
ID_CHARS = 32


def secret_key(secret: str) -> bytes:
    """The key of a `whsec_…` secret: what follows, decoded, 24 to 64 bytes. Raises ValueError."""
    prefix, coded = secret[: len(SECRET_PREFIX)], secret[len(SECRET_PREFIX) :]
    try:
        key = base64.b64decode(coded, validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if prefix != SECRET_PREFIX or not key:
        raise ValueError(f"must be {SECRET_PREFIX} and base64")
    if not SECRET_BYTES[0] <= len(key) <= SECRET_BYTES[1]:
        raise ValueError(f"must hold {SECRET_BYTES[0]} to {SECRET_BYTES[1]} bytes, not {len(key)}")
    return key


def sign(keys: Sequence[bytes], *, message_id: str, timestamp_s: int, body: bytes) -> str:
    """The `webhook-signature` header: one signature per key, in order, over exactly these bytes."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return " ".join(f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}" for key in keys)


def _checked(secret: SecretStr) -> SecretStr:
    secret_key(secret.get_secret_value())
    return secret


WebhookSecret = Annotated[SecretStr, AfterValidator(_checked)]


class HttpCallConfig(GuardedConfig):
    """Give `url` and `secret`; `exempt` lets in a gateway at home."""

    url: HttpUrl
    secret: WebhookSecret
    old_secret: WebhookSecret | None = None  # signs too, while receivers change over
    allow_http: bool = False

    operator_only: ClassVar[frozenset[str]] = GuardedConfig.operator_only | {"allow_http"}

    @model_validator(mode="after")
    def _https(self) -> "HttpCallConfig":
        if self.url.scheme != "https" and not self.allow_http:
            raise ValueError("url: must be https (or set allow_http, on a network that you trust)")
        if self.url.username or self.url.password or self.url.fragment:
            raise ValueError("url: leave out the user name, the password and the fragment")
        return self


class HttpCallProvider(HttpProvider):
    name: ClassVar[str] = "http"
    contract: ClassVar[int] = 1
    Config: ClassVar[type[ProviderConfig]] = HttpCallConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        payload_bytes_max=BODY_BYTES_MAX,
        ttl_s_max=28 * 86_400,
        collapse=True,
        withdraw=True,
        idempotent=True,
        badge=True,
        image=True,
        mutable=True,
        localised=True,
        sealed=True,
        guarded=True,
    )
    config: HttpCallConfig

    def __init__(self, config: HttpCallConfig, *, transport: Transport, now: Callable[[], float]) -> None:
        super().__init__(config, transport=transport, now=now)
        self._moved = Streak(gap_s=3600.0)

    async def exchange(self, request: Request, pushes: Sequence[Push], credential: str) -> Response:
        """See `HttpProvider`: notes whether the gateway redirects again."""
        del pushes, credential
        response = await self.call(request)
        self._moved.note(said=300 <= response.status < 400, now_s=self.now())
        return response

    async def credential(self) -> Credential:
        """The secret is in the settings; each request is signed with it."""
        return Credential(value="")

    def encode(self, push: Push, credential: str) -> Request:
        """See `HttpProvider`."""
        del credential
        now_s = int(self.now())
        # Without a dot, which parts the signed text; and not the push's id, which a message has for all its devices.
        to = f"{push.kind} {push.token}"
        message_id = once_key(push, now_s=None, chars=ID_CHARS, to=to)
        body = json_body(
            {
                "type": "push",
                "timestamp": datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "data": _data(push, ttl_s=min(max(push.ttl_s, 0), self.capabilities.ttl_s_max)),
            }
        )
        secrets = [secret for secret in (self.config.secret, self.config.old_secret) if secret is not None]
        keys = [secret_key(secret.get_secret_value()) for secret in secrets]
        return Request(
            url=str(self.config.url),
            headers={
                "content-type": "application/json",
                "webhook-id": message_id,
                "webhook-timestamp": str(now_s),
                "webhook-signature": sign(keys, message_id=message_id, timestamp_s=now_s, body=body),
            },
            body=body,
            total_s=TOTAL_S,
        )

    def decode(self, response: Response) -> Outcome:
        """See `HttpProvider`."""
        status, now_s = response.status, self.now()
        code = code_from(response.json().get("error"), f"status_{status}")
        if 200 <= status < 300:
            return Outcome(verdict=Verdict.ACCEPTED)
        if 400 <= status < 500 and status != 429 and code == DEAD:
            return Outcome(verdict=Verdict.TOKEN_DEAD, scope=Scope.TOKEN, vendor_code=code)
        if status == 401:  # there is nothing to renew
            return Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.ACCOUNT, vendor_code=code)
        if status in {404, 405, 415}:  # without a word of the gateway's own, it may be that it is not there any more
            return Outcome(verdict=Verdict.REFUSED, alert=code == f"status_{status}", vendor_code=code)
        if 300 <= status < 400:  # never followed (sheet §3.3): for a while it may be maintenance, then it has moved
            if self._moved.lasted_s >= MOVED_S:
                return Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.ACCOUNT, vendor_code=code)
            return Outcome(verdict=Verdict.RETRY, scope=Scope.ACCOUNT, retry_after_s=THROTTLED_S, vendor_code=code)
        if status in {502, 504}:  # overloaded: slow the whole account
            wait_s = retry_after_s(response, now_s=now_s)
            return Outcome(verdict=Verdict.RETRY, scope=Scope.ACCOUNT, retry_after_s=wait_s, vendor_code=code)
        return by_status(response, now_s=now_s, code=code)


def _data(push: Push, *, ttl_s: float) -> dict[str, Any]:
    """What the gateway gets: what is not there is left out."""
    fields: dict[str, Any] = {
        "id": push.id,
        "token": push.token,
        "kind": push.kind,
        "title": push.title,
        "body": push.body,
        "title_loc_key": push.title_loc_key,
        "title_loc_args": list(push.title_loc_args) or None,
        "body_loc_key": push.body_loc_key,
        "body_loc_args": list(push.body_loc_args) or None,
        "image": push.image,
        "data": dict(push.data),
        "badge": push.badge,
        "sound": push.sound,
        "channel": push.channel,
        "thread": push.thread,
        "click": push.click,
        "mutable": push.mutable or None,
        "sealed": push.sealed,
        "silent": push.silent,
        "urgent": push.urgent,
        "ttl_s": ttl_s,
        "collapse_key": push.collapse_key,
        "relay": dict(push.relay) or None,
    }
    return {key: value for key, value in fields.items() if value is not None}
