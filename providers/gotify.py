"""Gotify: one POST to the user's own server, for an application of theirs; all their clients show it.

Source: vendor sheet `others` §2 (Gotify 3.x). There is no device address: the server's URL and the application's token
are one, and as secret as a password.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from urllib.parse import urlsplit

from providers.app_message import named
from providers.contract import (
    AddressInvalid,
    Capabilities,
    Outcome,
    ProviderConfig,
    Push,
    Scope,
    Transport,
    Verdict,
)
from providers.endpoints import EndpointConfig
from providers.fields import Rule, Rules, mistakes, text, whole
from providers.guard import Guard, TargetRefused
from providers.http import (
    THROTTLED_S,
    Credential,
    HttpProvider,
    Refusal,
    Request,
    Response,
    by_status,
    code_from,
    json_body,
    retry_after_s,
)
from providers.settings import WakeText

__all__ = ["GotifyConfig", "GotifyProvider"]

BODY_BYTES_MAX = 32 * 1024  # ours: the server states no limit, a proxy before it may have one
URL_CHARS_MAX = 1000
TOTAL_S = 15.0
UNKNOWN_DEAD_S = 7 * 86_400.0  # 401: "after several hits over days" (§2)
OWN = "relay::message::data"

_TOKEN = re.compile(r"A[A-Za-z0-9._-]{1,127}")  # an application's; a client's begins with C
_EXTRA = re.compile(r"[^:]+(::[^:]+){1,2}")
_LINK = re.compile(r"[a-z][a-z0-9+.-]*:[\x21-\x7e]+", re.IGNORECASE)
_ABOUT_APPID = re.compile(r"\bappid\b", re.IGNORECASE)


def _holds_extras(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(key, str) and _EXTRA.fullmatch(key) and key != OWN and isinstance(item, dict)
        for key, item in value.items()
    )


RULES: Rules = {
    "title": text(250),
    "message": text(BODY_BYTES_MAX, chars_min=1),
    "priority": whole(0, 10),
    "extras": Rule(_holds_extras, "an object of objects, each under a name like client::display"),
}


class GotifyConfig(EndpointConfig):
    """Any public host may be called; `exempt` lets in those at home."""

    wake_text: WakeText = "New message"  # what a push without words shows, quietly: Gotify has no silent ones


@dataclass(frozen=True, slots=True)
class _Place:
    url: str = field(repr=False)
    token: str = field(repr=False)

    @property
    def text(self) -> str:
        return json.dumps({"url": self.url, "token": self.token}, separators=(",", ":"))


class GotifyProvider(HttpProvider):
    name: ClassVar[str] = "gotify"
    contract: ClassVar[int] = 1
    Config: ClassVar[type[ProviderConfig]] = GotifyConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        payload_bytes_max=BODY_BYTES_MAX,
        ttl_s_max=28 * 86_400,  # messages stay until somebody deletes them
        silent=False,
        image=True,
        sound=False,
        channel=False,
        thread=False,
        tells_dead=False,
        guarded=True,
        own_hosts=True,
    )
    config: GotifyConfig

    def __init__(self, config: GotifyConfig, *, transport: Transport, now: Callable[[], float]) -> None:
        super().__init__(config, transport=transport, now=now)
        self._guard: Guard = config.guard

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """See `Provider`: the fields of Gotify's message."""
        return list(mistakes(overrides, RULES, required=("message",)))

    def address(self, kind: str, token: str) -> str:
        """See `Provider`: `{"url": "https://…", "token": "A…"}`, the server's URL with its path, if it has one."""
        del kind
        return self._place(token).text

    def host(self, token: str) -> str:
        """See `Provider`: the server's."""
        try:
            return urlsplit(self._place(token).url).netloc
        except AddressInvalid:  # it was fine when it was registered
            return ""

    def private(self, push: Push) -> list[str]:
        """See `HttpProvider`."""
        try:
            return [*super().private(push), self._place(push.token).token]
        except AddressInvalid:
            return super().private(push)

    def losses(self, push: Push) -> Sequence[str]:
        """See `Provider`: a tap opens a URL; of an action's name Gotify's clients make nothing."""
        return named(click=push.click is not None and not _LINK.fullmatch(push.click))

    async def credential(self) -> Credential:
        """See `HttpProvider`: each address has its own."""
        return Credential(value="")

    def encode(self, push: Push, credential: str) -> Request:
        """See `HttpProvider`: the fields of sheet §2."""
        del credential
        try:
            place = self._place(push.token)
        except AddressInvalid:  # it was fine when it was registered
            outcome = Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.TOKEN, vendor_code="address_refused")
            raise Refusal(outcome) from None
        return Request(
            url=f"{place.url}/message",
            headers={"content-type": "application/json", "x-gotify-key": place.token},
            body=json_body(_message(push, self.config.wake_text, now_s=self.now())),
            total_s=TOTAL_S,
        )

    def decode(self, response: Response) -> Outcome:
        """See `HttpProvider`: the table of sheet §2. The server is a user's: nothing it says concerns another."""
        answer, status = response.json(), response.status
        code = f"status_{status}"
        match status:
            case 200 if type(answer.get("id")) is int:
                return Outcome(verdict=Verdict.ACCEPTED, vendor_id=str(answer["id"])[:64])
            case 400 if _ABOUT_APPID.search(str(answer.get("errorDescription"))):
                # The token is a client's, so the server wants to know for which application.
                return Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.TOKEN, vendor_code="client_token")
            case 401:  # the application is deleted, or the server was set up anew
                return Outcome(
                    verdict=Verdict.MISCONFIGURED, scope=Scope.TOKEN, dead_after_s=UNKNOWN_DEAD_S, vendor_code=code
                )
            case 403 | 404 | 407 | 410:
                return Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.TOKEN, vendor_code=code)
            case 429:
                wait_s = retry_after_s(response, now_s=self.now()) or THROTTLED_S
                return Outcome(verdict=Verdict.RETRY, scope=Scope.TOKEN, retry_after_s=wait_s, vendor_code=code)
            case _ if 300 <= status < 400:  # not followed; most likely from http to https
                return Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.TOKEN, vendor_code=code)
        outcome = by_status(response, now_s=self.now(), code=code_from(code))
        return replace(outcome, scope=Scope.TOKEN) if outcome.verdict is Verdict.RETRY else outcome

    def _place(self, token: str) -> _Place:
        """Raises AddressInvalid."""
        try:
            given = json.loads(token)
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise AddressInvalid('write the address as JSON, like {"url": "https://…", "token": "A…"}')
        url, key = given.get("url"), given.get("token")
        if not isinstance(url, str) or not url or len(url) > URL_CHARS_MAX or "?" in url:
            raise AddressInvalid(f"url must be the server's, without a query, at most {URL_CHARS_MAX} characters")
        if not isinstance(key, str) or not _TOKEN.fullmatch(key):
            raise AddressInvalid("token must be an application's, which begins with A")
        try:
            target = self._guard.parse(url)
        except TargetRefused as refused:
            raise AddressInvalid(f"url cannot be called. {refused.detail}") from None
        if not self.config.allows(target):
            raise AddressInvalid("the url's host is not one that this account allows")
        return _Place(target.url.rstrip("/"), key)


def _message(push: Push, wake_text: str, *, now_s: float) -> dict[str, Any]:
    own = {
        "id": push.id,  # Gotify does not recognise repeats; a client of one's own may, by this
        "collapse_key": push.collapse_key,
        "thread": push.thread,
        "expires_at": int(now_s + max(push.ttl_s, 0)),
        "data": dict(push.data) or None,
        "relay": dict(push.relay) or None,
    }
    shown = {
        "click": {"url": push.click} if push.click and _LINK.fullmatch(push.click) else None,
        "bigImageUrl": push.image,
    }
    extras = {OWN: _present(own), "client::notification": _present(shown)}
    overrides = dict(push.overrides)
    extras |= overrides.pop("extras", None) or {}
    message = {
        "message": push.body or push.title or wake_text,
        "title": push.title if push.body else None,  # without one, the application's name
        "priority": 0 if push.silent else 8 if push.urgent else 5,
        **overrides,
        "extras": {name: value for name, value in extras.items() if value},
    }
    return _present(message)


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
