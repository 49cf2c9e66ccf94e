"""Receipts of Huawei Push Kit, of both lines: V1 items of the HMS line, V2 items of HarmonyOS.

Source: vendor sheet `huawei` §9.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr, model_validator

from providers.http import code_from
from providers.receipts.contract import (
    DAILY_CAP,
    RECEIPTS_MAX,
    Callback,
    Fact,
    Garbled,
    NotAuthentic,
    PathSettings,
    Reading,
    Receipt,
    by_path_secret,
    instant_ms,
    short_id,
)

__all__ = ["HuaweiReceiptSettings", "HuaweiReceipts", "items_of", "receipt_of"]

HEADER = "x-huawei-callback-id"
ANSWER = b'{"code":"0","message":"success"}'
AGE_S_MAX = 3600.0  # of a signature; the sheet is silent, but as it does not cover the body it must not last for ever

THROTTLED = "throttled"  # 3000 a device and day; then nothing for 24 hours (§7)

# Status -> fact, reason, whether the vendor asks not to send there any more.
STATUSES: dict[str, tuple[Fact, str | None, bool]] = {
    "0": (Fact.DELIVERED, None, False),
    "2": (Fact.FAILED, "uninstalled", True),
    "5": (Fact.FAILED, "token_mismatch", True),
    "6": (Fact.FAILED, "muted", True),  # nothing is shown there before the app registers again
    "10": (Fact.FAILED, "inactive", True),  # not seen for thirty days
    "14": (Fact.FAILED, "device_error", False),
    "188": (Fact.FAILED, "device_error", False),
    "191": (Fact.FAILED, "device_error", False),
    "15": (Fact.FAILED, "superseded", False),
    "22": (Fact.FAILED, "other_user", False),
    "27": (Fact.FAILED, "app_not_running", False),  # cached until the app's process is there
    "31": (Fact.FAILED, "click_target", False),
    "51": (Fact.FAILED, "locked_since_boot", False),
    "102": (Fact.FAILED, THROTTLED, False),
    "144": (Fact.FAILED, "profile_unknown", False),
    "151": (Fact.FAILED, "form", False),
    "261": (Fact.FAILED, "form", False),
    "262": (Fact.FAILED, "form", False),
    "155": (Fact.FAILED, "live_view", False),
    "156": (Fact.FAILED, "live_view", False),
    "158": (Fact.FAILED, "live_view", False),
    "265": (Fact.FAILED, "live_view", False),
    "268": (Fact.FAILED, "live_view", False),
    "269": (Fact.FAILED, "live_view", False),
    "201": (Fact.FAILED, "dead_before", True),
    "256": (Fact.FAILED, DAILY_CAP, False),
    "259": (Fact.FAILED, "content", False),
    "264": (Fact.FAILED, "unsubscribed", False),
}

_PART = re.compile(r"\s*(timestamp|nonce|value)=([\x21-\x3a\x3c-\x7e]{1,200})\s*")


class HuaweiReceiptSettings(PathSettings):
    """What stands in AppGallery Connect: user name and secret; or a path with a secret in it; or both."""

    user: str | None = None
    secret: SecretStr | None = None

    @model_validator(mode="after")
    def _some_way(self) -> "HuaweiReceiptSettings":
        if (self.user is None) != (self.secret is None):
            raise ValueError("give user and secret, or neither (a signature needs both)")
        if self.user is not None and not self.user:
            raise ValueError("user must not be empty")
        if self.secret is not None and not self.secret.get_secret_value():
            raise ValueError("secret must not be empty")
        if self.user is None and self.path_secret is None:
            raise ValueError("give user and secret, or path_secret: nobody else may report")
        return self


class HuaweiReceipts:
    """A `ReceiptReader`."""

    def __init__(self, settings: HuaweiReceiptSettings) -> None:
        self.settings = settings

    def read(self, call: Callback, *, now_s: float) -> Reading:
        """See `ReceiptReader`. A call without a signature may be the console's test, which must be answered before the
        setup can be saved (§9): it is, and nothing of it is believed."""
        if not by_path_secret(call, self.settings):
            if self.settings.secret is not None and call.path_secret is None and HEADER not in call.headers:
                why = "It is unsigned: set user name and secret in the console, unless this was the console's test."
                return Reading(receipts=(), answer=ANSWER, ignored=why)
            if not self._signed(call, now_s):
                raise NotAuthentic(f"The call has neither a good {HEADER} header nor the secret path.")
        found = (receipt_of(item) for item in items_of(call.body))
        return Reading(receipts=tuple(one for one in found if one is not None), answer=ANSWER)

    def _signed(self, call: Callback, now_s: float) -> bool:
        user, secret = self.settings.user, self.settings.secret
        matches = [_PART.fullmatch(part) for part in call.headers.get(HEADER, "").split(";")]
        parts = {match[1]: match[2] for match in matches if match is not None}
        if user is None or secret is None or len(parts) != 3:
            return False
        sent_ms = instant_ms(parts["timestamp"])
        if sent_ms is None or abs(now_s - sent_ms / 1000) > AGE_S_MAX:
            return False
        signed = f"{parts['timestamp']}{parts['nonce']}{user}".encode()
        good = False
        for key in keys(secret.get_secret_value()):
            value = base64.b64encode(hmac.digest(key, signed, hashlib.sha256))
            good |= hmac.compare_digest(value, parts["value"].encode())
        return good


def keys(secret: str) -> list[bytes]:
    """What a secret may stand for: newer ones are base64, old ones are their own bytes. Never an empty key."""
    found = [secret.encode()]
    with contextlib.suppress(ValueError, binascii.Error):
        found.append(base64.b64decode(secret, validate=True))
    return [key for key in found if key]


def items_of(body: bytes) -> list[Any]:
    """The list `statuses`, or a bare list. Raises Garbled."""
    try:
        value = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Garbled("The body is not JSON.") from None
    items = value.get("statuses") if isinstance(value, dict) else value
    if not isinstance(items, list):
        raise Garbled("The body has no list `statuses`.")
    if len(items) > RECEIPTS_MAX:
        raise Garbled(f"More than {RECEIPTS_MAX} receipts in one call.")
    return items


def receipt_of(item: Any) -> Receipt | None:
    """A V1 or V2 item; None if it names no token or no status."""
    if not isinstance(item, Mapping):
        return None
    inner = next((item[key] for key in ("deliveryStatus", "formStatus") if isinstance(item.get(key), Mapping)), None)
    status = code_from(item.get("status") if inner is None else inner.get("result"))
    at_ms = instant_ms(item.get("timestamp") if inner is None else inner.get("timestamp"))
    token = short_id(item.get("token"))
    if token is None or status is None:
        return None
    fact, reason, dead = STATUSES.get(status, (Fact.UNKNOWN, None, False))
    return Receipt(
        fact=fact,
        token=token,
        vendor_id=short_id(item.get("requestId")),
        push_id=short_id(item.get("biTag")),
        code=status,
        reason=reason,
        token_dead=dead,
        spent=reason in {DAILY_CAP, THROTTLED},
        at_ms=at_ms,
    )
