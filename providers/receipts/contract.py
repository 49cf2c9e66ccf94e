"""What a vendor reports later of a push it took over: the words that the relay and a reader of receipts exchange.

A reader is pure. It belongs to an account: `provider.receipts`, made of the account's settings, None when they name no
way to authenticate a caller. `POST /v1/receipts/{account}`, or with a path secret `/v1/receipts/{account}/{secret}`,
hands it what came in.
"""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

__all__ = [
    "DAILY_CAP",
    "Callback",
    "Fact",
    "Garbled",
    "NotAuthentic",
    "PathSettings",
    "Reading",
    "Receipt",
    "ReceiptReader",
    "Reports",
    "by_path_secret",
    "check_path_secret",
    "instant_ms",
    "short_id",
]

RECEIPTS_MAX = 1000  # in one callback
DAILY_CAP = "daily_cap"  # the usual reason for `Receipt.spent`
TEXT_CHARS_MAX = 4096
INSTANT_MS_MAX = 253_402_300_799_000  # the end of the year 9999
_PATH_SECRET = re.compile(r"[A-Za-z0-9_-]{22,128}")


class Fact(StrEnum):
    """What happened. Later words of this list say more than earlier ones."""

    UNKNOWN = "unknown"  # a code that the sheet does not have
    FAILED = "failed"
    DELIVERED = "delivered"  # the device has it; most vendors cannot tell this from shown
    CLICKED = "clicked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One fact about one push on one device. Without a token nobody knows whom it is about."""

    fact: Fact
    token: str = field(repr=False)
    vendor_id: str | None = None  # as in the push's `Outcome`
    push_id: str | None = None  # as in `Push`, where the vendor echoes it
    code: str | None = None  # the vendor's
    reason: str | None = None  # what the code means, in a word: "uninstalled", "muted"
    token_dead: bool = False  # the vendor asks not to send there any more
    spent: bool = False  # the device is shown no more of this sort today: there is a number for each device and day
    at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """A request from a vendor, as it came: nothing in it is trusted. Names of headers in lower case."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    path_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the callback said, and what the vendor wants to hear once that is stored (always with status 200)."""

    receipts: tuple[Receipt, ...]
    answer: bytes = b""
    ignored: str | None = (
        None  # why nothing of it is believed, if it is answered all the same: a sentence without secrets
    )
    content_type: str = "application/json; charset=utf-8"


class NotAuthentic(Exception):  # noqa: N818
    """Not from the vendor, as far as we can tell. Its text is one sentence for the operator, without secrets."""


class Garbled(Exception):  # noqa: N818
    """From the vendor, but not in its form."""


def _unguessable(secret: SecretStr) -> SecretStr:
    if not _PATH_SECRET.fullmatch(secret.get_secret_value()):
        raise ValueError("must be 22 to 128 of A-Z a-z 0-9 _ - (128 random bits are 22 of them)")
    return secret


PathSecret = Annotated[SecretStr, AfterValidator(_unguessable)]


class PathSettings(BaseModel):
    """For vendors that sign nothing: the receipt URL ends in a secret, and calls come from known networks."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    path_secret: PathSecret | None = None
    networks: Annotated[tuple[IPv4Network | IPv6Network, ...], Field(max_length=100)] = ()  # none: from anywhere


class ReceiptReader(Protocol):
    @property
    def settings(self) -> PathSettings:
        """The account's; the relay looks at `networks` before it reads anything."""
        ...

    def read(self, call: Callback, *, now_s: float) -> Reading:
        """Authenticates, then parses. Total, but for NotAuthentic and Garbled; parts it cannot read are left out."""
        ...


class Reports(Protocol):
    """A provider whose vendor sends receipts."""

    receipts: ReceiptReader | None


def by_path_secret(call: Callback, settings: PathSettings) -> bool:
    """Whether the call came in by the secret path, which there must be."""
    given, right = call.path_secret, settings.path_secret
    if given is None or right is None:
        return False
    return hmac.compare_digest(given.encode("utf-8", "replace"), right.get_secret_value().encode())


def check_path_secret(call: Callback, settings: PathSettings) -> None:
    """Raises NotAuthentic for a call that did not come in by the secret path."""
    if not by_path_secret(call, settings):
        raise NotAuthentic("The call did not come by the secret path.")


def instant_ms(value: object) -> int | None:
    """A vendor's time in milliseconds since 1970, as a number or as digits; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:15])
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 < value <= INSTANT_MS_MAX else None


def short_id(value: object) -> str | None:
    """An id or a token in a receipt, if it is one: text of a bearable length."""
    return value if isinstance(value, str) and 0 < len(value) <= TEXT_CHARS_MAX else None
