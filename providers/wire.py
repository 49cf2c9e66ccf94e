"""What goes over the wire between an adapter and its vendor, and what may go wrong there."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, Never
from urllib.parse import urlsplit

from providers.contract import Outcome

__all__ = ["Credential", "Reason", "Refusal", "Request", "RequestInvalid", "Response", "TransportError"]

HEADER_CHARS_MAX = 1024
AUTHORIZATION_CHARS_MAX = 4096  # Google's access tokens alone may have 2048
URL_CHARS_MAX = 8192

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_URL = re.compile(r"https?://[\x21-\x7e]+")
_METHOD = re.compile(r"[A-Z]{3,16}")


@lru_cache(maxsize=256)
def _is_name(name: str) -> bool:
    return _HEADER_NAME.fullmatch(name) is not None


def _is_long(name: str, value: str) -> bool:
    return len(value) > (AUTHORIZATION_CHARS_MAX if name.lower() == "authorization" else HEADER_CHARS_MAX)


class RequestInvalid(ValueError):  # noqa: N818
    """A request that must not be written: a line break or another foreign character in its head (safety SEC-16)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call. Its text form shows the method and the host alone: the rest may be secret."""

    url: str = field(repr=False)
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    payload_bytes: int | None = None  # what the vendor counts against its limit, if not the body's length
    payload_bytes_max: int | None = None  # that limit, if this kind of push has its own
    connect_s: float | None = None  # None: the transport's default, here and below
    total_s: float | None = None
    answer_bytes_max: int | None = None

    def __post_init__(self) -> None:
        if not _METHOD.fullmatch(self.method):
            raise RequestInvalid("The method is not an HTTP method.")
        if len(self.url) > URL_CHARS_MAX or not _URL.fullmatch(self.url):
            raise RequestInvalid("The URL is not an absolute http(s) URL in plain ASCII.")
        for name, value in self.headers.items():
            if not _is_name(name):
                raise RequestInvalid("A header's name has a character that it may not have.")
            if not (value.isascii() and value.isprintable()) or (
                len(value) > HEADER_CHARS_MAX and _is_long(name, value)
            ):
                raise RequestInvalid(f"The header {name} is too long or has a character that it may not have.")

    def __repr__(self) -> str:
        return f"<Request {self.method} {urlsplit(self.url).hostname}, {len(self.body)} bytes>"


def _no_constant(_: str) -> Never:
    raise ValueError("not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What came back, as it came: nothing in it is trusted."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    truncated: bool = False  # the answer was longer than we read

    def header(self, name: str) -> str | None:
        wanted = name.lower()
        if wanted in self.headers:  # as our transports have them
            return self.headers[wanted]
        return next((value for key, value in self.headers.items() if key.lower() == wanted), None)

    def json(self) -> dict[str, Any]:
        """The body's JSON object; an empty one if it is anything else. Never raises."""
        try:
            value = _DECODER.decode(self.body.decode("utf-8"))
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}


class Reason(StrEnum):
    """Why there is no answer. Coarse on purpose: a tenant may see it (safety SEC-8, rule 6)."""

    DNS_FAILED = "dns_failed"
    CONNECT_FAILED = "connect_failed"
    TLS_FAILED = "tls_failed"
    TIMEOUT = "timeout"
    RESET = "reset"
    GARBAGE = "garbage"
    HELD_BACK = "held_back"  # by ourselves: the host failed too often of late, or too much is under way


class TransportError(Exception):
    """No answer. `sent` is false only if certainly nothing was written."""

    def __init__(self, reason: Reason | str = Reason.RESET, *, sent: bool) -> None:
        super().__init__(str(reason))
        self.reason = Reason(reason)
        self.sent = sent


class Refusal(Exception):  # noqa: N818
    """There is nothing to send with, or nothing to send: the outcome is already known."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.verdict)
        self.outcome = outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a request is authorised with, and until when (seconds of the provider's clock)."""

    value: str = field(repr=False)
    good_until_s: float = math.inf
    good_from_s: float = -math.inf  # what names its own time is no good any more, if the clock was set back since

    def is_good(self, now_s: float) -> bool:
        return self.good_from_s <= now_s < self.good_until_s
