"""What the push networks of Huawei and of Honor have in common.

Opaque tokens, a thousand of them a call; an OAuth bearer from client credentials (but for HarmonyOS 5); and one table of
codes for an answer to one token or to many. Source: vendor sheets `huawei` and `honor`.
"""

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import urlencode

from providers.contract import AddressInvalid, Outcome, Push, Scope, Verdict
from providers.fields import object_in
from providers.http import THROTTLED_S, HttpProvider, Request, Response, by_status

__all__ = [
    "TOKENS_MAX",
    "HuaweiFamily",
    "by_status_of_huawei",
    "click_action",
    "login",
    "partial",
    "request_id",
    "unseen",
]

TOKENS_MAX = 1000
TOKEN_CHARS_MAX = 4096  # no vendor promises a length


class HuaweiFamily(HttpProvider):
    """An adapter says `vendor`, `encode_many` and `decoded`."""

    vendor: ClassVar[str]
    too_many: ClassVar[frozenset[str]] = frozenset({"80300010"})
    message_or_token: ClassVar[frozenset[str]] = frozenset({"80100001"})

    def address(self, kind: str, token: str) -> str:
        """See `Provider`."""
        if not _is_token(token):
            raise AddressInvalid(f"A token of {self.vendor}'s is 1 to {TOKEN_CHARS_MAX} visible ASCII characters.")
        return super().address(kind, token)

    def known(self, push: Push) -> Outcome | None:
        """See `HttpProvider`."""
        return super().known(push) or (
            None if _is_token(push.token) else Outcome(verdict=Verdict.REFUSED, vendor_code="token_malformed")
        )

    def encode(self, push: Push, credential: str) -> Request:
        """See `HttpProvider`."""
        return self.encode_many([push], credential)

    def decode(self, response: Response) -> Outcome:
        """See `HttpProvider`. Of one token, whatever is listed is about it."""
        return self.decoded(response, None)[0]

    def decode_many(self, response: Response, pushes: Sequence[Push]) -> list[Outcome]:
        """See `HttpProvider`."""
        return self.decoded(response, None if len(pushes) == 1 else [push.token for push in pushes])

    @abstractmethod
    def decoded(self, response: Response, tokens: list[str] | None) -> list[Outcome]:
        """The outcome of each token; None: of the only one, which the answer need not name. As total as `decode`."""


def by_status_of_huawei(response: Response, *, now_s: float, code: str | None) -> Outcome:
    """As `by_status`; but 503 is flow control, for which the whole account slows down (sheet huawei §5)."""
    outcome = by_status(response, now_s=now_s, code=code)
    if response.status != 503:
        return outcome
    return replace(outcome, scope=Scope.ACCOUNT, retry_after_s=outcome.retry_after_s or THROTTLED_S)


def login(url: str, *, client_id: str, secret: str) -> Request:
    """Asks for a bearer by client credentials (RFC 6749 §4.4)."""
    form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
    return Request(
        url=url, headers={"content-type": "application/x-www-form-urlencoded"}, body=urlencode(form).encode()
    )


def click_action(click: str | None) -> dict[str, Any]:
    """What a tap does. A web page must be https; any other way of opening gets the app, which has `click` in its data."""
    if click is None or click.startswith("http://"):
        return {"type": 3}
    if click.startswith("https://"):
        return {"type": 2, "url": click}
    return {"type": 1, "intent": click} if ":" in click else {"type": 1, "action": click}


def unseen(message: Mapping[str, Any], *, click: str) -> dict[str, Any]:
    """A silent push's message without the parts of a notification that an override has for those that are shown: with no
    title and no click action, which is called `click`, it would be refused. A whole one is meant to be shown."""
    if _is_whole(message, click):
        return dict(message)
    android = object_in(message, "android")
    parts = {"android": {name: part for name, part in android.items() if name != "notification"}} if android else {}
    return {name: part for name, part in message.items() if name != "notification"} | parts


def _is_whole(message: Mapping[str, Any], click: str) -> bool:
    for_android = object_in(object_in(message, "android"), "notification")
    shown = {**object_in(message, "notification"), **for_android}
    return bool(for_android.get(click)) and all(shown.get(name) for name in ("title", "body"))


def partial(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The object in `msg`, which is JSON within JSON; an empty one if it is anything else."""
    text = answer.get("msg")
    try:
        value = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def request_id(answer: Mapping[str, Any]) -> str | None:
    """What joins a push with its receipts."""
    value = answer.get("requestId")
    return value if isinstance(value, str) and 0 < len(value) <= 256 else None


def _is_token(token: str) -> bool:
    return 0 < len(token) <= TOKEN_CHARS_MAX and token.isascii() and token.isprintable() and " " not in token
