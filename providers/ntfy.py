"""ntfy: one POST of a JSON document to a server, which shows it on whatever subscribes to the topic.

Source: vendor sheet `others` §1 (ntfy 2.13 and what 2.16 added): address and login 1.1, fields 1.2, answers 1.3 and 1.5,
limits 1.6. A topic is a shared secret and never dies; only the app can say that it has left one.
"""

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import HttpUrl, SecretStr, field_validator, model_validator

from providers.app_message import named
from providers.contract import AddressInvalid, Capabilities, Outcome, ProviderConfig, Push, Scope, Verdict
from providers.fields import Rule, Rules, flag, matching, merged, mistakes, one_of, text
from providers.http import Credential, HttpProvider, Refusal, Request, Response, by_status, json_body, retry_after_s
from providers.settings import WakeText

__all__ = ["NtfyConfig", "NtfyProvider"]

SPENT = 42908  # more messages take another plan, or an exemption: an operator has to see to it (§1.5, §1.6)
NOBODY = 50701  # listens to this UnifiedPush topic
NOBODY_DEAD_S = 7 * 86_400.0  # "after long silence" (sheet unifiedpush §5)
MESSAGE_BYTES_MAX = 4096  # of `message`; the document may have twice that
DOCUMENT_SHARE = 2

_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOKEN = re.compile(r"tk_[A-Za-z0-9]{1,128}")
_LINK = re.compile(r"[a-z][a-z0-9+.-]*:[\x21-\x7e]+", re.IGNORECASE)
_WEB = r"https?://[\x21-\x7e]{1,2000}"

# ntfy's code -> verdict, scope, seconds to wait. A code that is not here goes by its HTTP status.
BY_CODE: dict[int, tuple[Verdict, Scope, float | None]] = {
    40009: (Verdict.TOKEN_DEAD, Scope.TOKEN, None),  # not a topic's name; we look at it when it is registered
    40010: (Verdict.TOKEN_DEAD, Scope.TOKEN, None),
    40014: (Verdict.TOO_LARGE, Scope.MESSAGE, None),
    40101: (Verdict.MISCONFIGURED, Scope.ACCOUNT, None),
    40301: (Verdict.MISCONFIGURED, Scope.TOKEN, None),  # this topic is not ours to write
    40401: (Verdict.MISCONFIGURED, Scope.ACCOUNT, None),
    41301: (Verdict.TOO_LARGE, Scope.MESSAGE, None),
    41303: (Verdict.TOO_LARGE, Scope.MESSAGE, None),
    42901: (Verdict.RETRY, Scope.ACCOUNT, 10.0),
    42902: (Verdict.REFUSED, Scope.MESSAGE, None),  # e-mails and calls, which we never ask for
    42903: (Verdict.RETRY, Scope.ACCOUNT, 60.0),
    42904: (Verdict.RETRY, Scope.ACCOUNT, 60.0),
    42905: (Verdict.RETRY, Scope.ACCOUNT, 60.0),
    SPENT: (Verdict.RETRY, Scope.ACCOUNT, 3600.0),  # the day's messages; the server's operator says when its day ends
    42909: (Verdict.MISCONFIGURED, Scope.ACCOUNT, None),  # too many failed logins
    42910: (Verdict.REFUSED, Scope.MESSAGE, None),
    NOBODY: (Verdict.RETRY, Scope.TOKEN, 600.0),
}


def _holds_actions(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 3
        and all(
            isinstance(one, dict)
            and one.get("action") in {"view", "http", "broadcast"}
            and isinstance(one.get("label"), str)
            for one in value
        )
    )


def _holds_tags(value: object) -> bool:
    return isinstance(value, list) and len(value) <= 20 and all(isinstance(one, str) and one for one in value)


RULES: Rules = {
    "title": text(250),
    "message": text(MESSAGE_BYTES_MAX, chars_min=1),
    "priority": one_of(1, 2, 3, 4, 5),
    "tags": Rule(_holds_tags, "a list of at most 20 texts"),
    "click": matching(_LINK.pattern, "a URL"),
    "icon": matching(_WEB, "an http(s) URL"),
    "attach": matching(_WEB, "an http(s) URL"),
    "filename": text(200, chars_min=1),
    "actions": Rule(_holds_actions, "a list of at most 3 objects, each with action (view, http, broadcast) and label"),
    "markdown": flag,
}


class NtfyConfig(ProviderConfig):
    """Give `token`, or `username` and `password`, or nothing for a server that is open to all."""

    base_url: HttpUrl = HttpUrl("https://ntfy.sh")
    token: SecretStr | None = None
    username: str | None = None
    password: SecretStr | None = None
    firebase: bool = True  # false: not through Google, so later on Android
    wake_text: WakeText = "New message"  # what a push without words shows, quietly: ntfy has no silent ones

    operator_only: ClassVar[frozenset[str]] = frozenset({"base_url"})

    @field_validator("token")
    @classmethod
    def _is_token(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not _TOKEN.fullmatch(token.get_secret_value()):
            raise ValueError("must be an access token, like tk_…")
        return token

    @field_validator("base_url")
    @classmethod
    def _plain(cls, url: HttpUrl) -> HttpUrl:
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("leave out the user name, the password, the query and the fragment")
        return url

    @model_validator(mode="after")
    def _one_login(self) -> "NtfyConfig":
        if (self.username is None) != (self.password is None):
            raise ValueError("username: goes with password; give both or neither")
        if self.token is not None and self.username is not None:
            raise ValueError("token: give this or username and password, not both")
        if self.username is not None and (not self.username or ":" in self.username):
            raise ValueError("username: must not be empty or have a colon")
        return self


class NtfyProvider(HttpProvider):
    name: ClassVar[str] = "ntfy"
    contract: ClassVar[int] = 1
    Config: ClassVar[type[ProviderConfig]] = NtfyConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        payload_bytes_max=MESSAGE_BYTES_MAX,
        ttl_s_max=12 * 3600,  # the server's own, which no message can change; it may be set otherwise
        rate_per_s=0.2,  # a relay is one visitor (§1.6)
        burst=60,
        silent=False,
        collapse=True,  # since 2.16; an older server shows one beside the other
        recall=True,  # since 2.16, too
        image=True,
        sound=False,
        thread=False,
        tells_dead=False,
    )
    config: NtfyConfig

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """See `Provider`: the fields of ntfy's JSON document, but for the topic and what would send mail or call."""
        return list(mistakes(overrides, RULES, required=("message",)))

    def address(self, kind: str, token: str) -> str:
        """See `Provider`: the topic's name."""
        del kind
        if not _TOPIC.fullmatch(token):
            raise AddressInvalid("a topic has 1 to 64 of a-z A-Z 0-9 - _")
        return token

    def losses(self, push: Push) -> Sequence[str]:
        """See `Provider`: ntfy's own app shows it, and has no use for what is meant for yours."""
        return named(
            data=bool(push.data),
            relay=bool(push.relay),
            click=push.click is not None and not _LINK.fullmatch(push.click),
        )

    async def credential(self) -> Credential:
        """See `HttpProvider`: the header, as it stands in the settings."""
        if self.config.token is not None:
            return Credential(value=f"Bearer {self.config.token.get_secret_value()}")
        if self.config.username is None or self.config.password is None:
            return Credential(value="")
        pair = f"{self.config.username}:{self.config.password.get_secret_value()}"
        return Credential(value=f"Basic {base64.b64encode(pair.encode('utf-8', 'replace')).decode()}")

    def encode(self, push: Push, credential: str) -> Request:
        """See `HttpProvider`: the fields of sheet §1.2. There is none for data, badge, sound or thread."""
        if not _TOPIC.fullmatch(push.token):
            raise Refusal(Outcome(verdict=Verdict.REFUSED, vendor_code="token_malformed"))
        document = merged(_document(push, self.config.wake_text), push.overrides)
        body = json_body({"topic": push.token, **document})
        # These two have no field in the document; the server reads the headers of such a request too.
        headers = {"content-type": "application/json", "authorization": credential}
        headers["x-cache"] = "" if push.ttl_s > 0 else "no"
        headers["x-firebase"] = "" if self.config.firebase else "no"
        message = str(document.get("message", "")).encode("utf-8", "replace")
        return Request(
            url=f"{str(self.config.base_url).rstrip('/')}/",  # to the topic's URL, its text would be shown
            headers={name: value for name, value in headers.items() if value},
            body=body,
            payload_bytes=max(len(message), math.ceil(len(body) / DOCUMENT_SHARE)),
        )

    def decode(self, response: Response) -> Outcome:
        """See `HttpProvider`: the table of sheet §1.5. A proxy's own page has no code, and goes by its status."""
        answer, now_s = response.json(), self.now()
        if response.status == 200:
            vendor_id = answer.get("id")
            if isinstance(vendor_id, str) and answer.get("event") == "message":
                # A server before 2.16 does not say `sequence_id` again: it has shown one beside the other (§1.3).
                said = None if "sequence_id" in answer else "nothing_replaced"
                return Outcome(verdict=Verdict.ACCEPTED, vendor_id=vendor_id[:64], vendor_code=said)
            return by_status(response, now_s=now_s, code="answer_garbled")
        number = answer.get("code")
        if type(number) is not int or answer.get("http") != response.status or number // 100 != response.status:
            return _bare(response, now_s=now_s)
        code = f"ntfy_{number}"
        known = BY_CODE.get(number)
        if known is None:
            return by_status(response, now_s=now_s, code=code)
        verdict, scope, wait_s = known
        if verdict is Verdict.RETRY:
            wait_s = retry_after_s(response, now_s=now_s) or wait_s  # from a proxy: ntfy itself sends none
        dead_after_s = NOBODY_DEAD_S if number == NOBODY else None
        return Outcome(
            verdict=verdict,
            scope=scope,
            retry_after_s=wait_s,
            alert=number == SPENT,
            dead_after_s=dead_after_s,
            vendor_code=code,
        )

    def encode_recall(self, push: Push, vendor_id: str | None, credential: str) -> Request:
        """See `HttpProvider`: by the name under which it was published (sheet §1.4)."""
        del vendor_id
        if not _TOPIC.fullmatch(push.token):
            raise Refusal(Outcome(verdict=Verdict.REFUSED, vendor_code="token_malformed"))
        return Request(
            url=f"{str(self.config.base_url).rstrip('/')}/{push.token}/{_sequence(push.collapse_key or push.id)}",
            method="DELETE",
            headers={"authorization": credential} if credential else {},
        )


def _document(push: Push, wake_text: str) -> dict[str, Any]:
    """The JSON document without its topic."""
    fields: dict[str, Any] = {
        "message": push.body or push.title or wake_text,  # without one, the server writes "triggered"
        "title": push.title if push.body else None,
        "priority": 1 if push.silent else 4 if push.urgent else 3,  # 5 would break into "do not disturb"
        "tags": [push.channel] if push.channel else None,
        "click": push.click if push.click and _LINK.fullmatch(push.click) else None,
        "attach": push.image,
        # A second copy, after a lost answer, takes the place of the first.
        "sequence_id": _sequence(push.collapse_key or push.id),
    }
    return {key: value for key, value in fields.items() if value is not None}


def _sequence(key: str) -> str:
    """The sheet does not say which characters it may have; those of a topic are safe."""
    return key if _TOPIC.fullmatch(key) else hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:32]


def _bare(response: Response, *, now_s: float) -> Outcome:
    """An answer that is not ntfy's. There is nothing to renew, and what redirects is not the server."""
    code = f"status_{response.status}"
    if response.status == 401 or 300 <= response.status < 400:
        return Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.ACCOUNT, vendor_code=code)
    return by_status(response, now_s=now_s, code=code)
