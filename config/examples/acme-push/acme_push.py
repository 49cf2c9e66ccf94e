"""Acme Push (an invented vendor): one POST per device, with a bearer token that is good for an hour.

Source: Acme Push HTTP API, revision of May 2026: credential 2, request 4, answers 7.
"""

from typing import Any, ClassVar
from urllib.parse import urlencode

from pydantic import Field, HttpUrl, SecretStr

from providers.app_message import once_key
from providers.contract import Capabilities, Outcome, ProviderConfig, Push, Scope, Verdict
from providers.http import (
    Credential,
    HttpProvider,
    Request,
    Response,
    bearer_from,
    by_status,
    code_from,
    json_body,
    retry_after_s,
)

# Acme's error words, to ours. A word that is not here goes by its HTTP status.
VERDICTS = {
    "token.unregistered": Verdict.TOKEN_DEAD,
    "token.malformed": Verdict.TOKEN_DEAD,
    "payload.too_big": Verdict.TOO_LARGE,
    "payload.invalid": Verdict.REFUSED,
    "auth.expired": Verdict.REAUTH,
    "auth.wrong_project": Verdict.MISCONFIGURED,
    "rate.device": Verdict.RETRY,
    "rate.project": Verdict.RETRY,
}
SCOPES = {"auth.wrong_project": Scope.ACCOUNT, "rate.project": Scope.ACCOUNT, "rate.device": Scope.TOKEN}


class AcmeConfig(ProviderConfig):
    """`base_url` names a host: only the operator's own file may set it."""

    operator_only: ClassVar[frozenset[str]] = frozenset({"base_url"})

    project: str = Field(pattern=r"^[a-z0-9-]{1,64}$", description="1 to 64 of a-z 0-9 -")
    client_id: str
    client_secret: SecretStr
    base_url: HttpUrl = HttpUrl("https://push.acme.example")


class AcmeProvider(HttpProvider):
    name: ClassVar[str] = "acme"
    contract: ClassVar[int] = 1
    Config: ClassVar[type[ProviderConfig]] = AcmeConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        payload_bytes_max=4096, ttl_s_max=7 * 86_400, collapse=True, idempotent=True, sound=False, thread=False
    )
    config: AcmeConfig

    async def credential(self) -> Credential:
        """See `HttpProvider`: client credentials, renewed by the shell before they end (credential 2)."""
        form = {
            "grant_type": "client_credentials",
            "client_id": self.config.client_id,
            "client_secret": self.config.client_secret.get_secret_value(),
        }
        headers = {"content-type": "application/x-www-form-urlencoded"}
        request = Request(url=f"{self.config.base_url}oauth/token", headers=headers, body=urlencode(form).encode())
        return bearer_from(await self.call(request), now_s=self.now())

    def encode(self, push: Push, credential: str) -> Request:
        """See `HttpProvider`: the message of request 4. A push without words is one without `notification`."""
        message: dict[str, Any] = {
            "to": push.token,
            "data": {**push.data, "relay_id": push.id, "relay": dict(push.relay)},
            "ttl": int(min(push.ttl_s, self.capabilities.ttl_s_max)),
            "priority": "high" if push.urgent else "normal",
        }
        if not push.silent:
            message["notification"] = {"title": push.title, "body": push.body, "channel": push.channel}
        if push.collapse_key is not None:
            message["collapse"] = push.collapse_key
        return Request(
            url=f"{self.config.base_url}v2/{self.config.project}/messages",
            headers={
                "authorization": f"Bearer {credential}",
                "content-type": "application/json",
                # Acme drops what has a key that it knows. The push's id is not one: all devices have it.
                "idempotency-key": once_key(push, now_s=self.now(), to=push.token),
            },
            body=json_body(message),
        )

    def decode(self, response: Response) -> Outcome:
        """See `HttpProvider`: the table of answers 7."""
        answer = response.json()
        if response.status == 200 and isinstance(answer.get("id"), str):
            return Outcome(verdict=Verdict.ACCEPTED, vendor_id=code_from(answer["id"]))
        code = code_from(answer.get("error"))
        verdict = VERDICTS.get(code or "")
        if verdict is None or response.status >= 500:  # whatever an ill server says, it is no judgement
            return by_status(response, now_s=self.now())
        return Outcome(
            verdict=verdict,
            scope=SCOPES.get(code or "", Scope.MESSAGE),
            retry_after_s=retry_after_s(response, now_s=self.now()) if verdict is Verdict.RETRY else None,
            vendor_code=code,
        )
