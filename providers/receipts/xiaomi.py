"""Receipts of Xiaomi: a form with a JSON map of message ids, for each what became of it on which devices.

Source: vendor sheet `xiaomi` §8. Nothing is signed; the path's secret is all there is.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import field_validator

from providers.receipts.callback import CallbackSettings, code_of, form_json, reports
from providers.receipts.contract import (
    DAILY_CAP,
    Callback,
    Fact,
    Reading,
    Receipt,
    check_path_secret,
    instant_ms,
    short_id,
)

__all__ = ["PARAM_BYTES_MAX", "XiaomiReceiptSettings", "XiaomiReceipts"]

PARAM_BYTES_MAX = 64  # an older text; newer ones allow 256

# Type -> fact, reason, whether the registration id is dead. As bits, they ask for these receipts.
TYPES: dict[int, tuple[Fact, str | None, bool]] = {
    1: (Fact.DELIVERED, None, False),
    2: (Fact.CLICKED, None, False),
    16: (Fact.FAILED, "invalid", True),
    32: (Fact.FAILED, "muted", False),
    64: (Fact.FAILED, "filtered", False),
    128: (Fact.FAILED, DAILY_CAP, False),
}
ALL_TYPES = sum(TYPES)


class XiaomiReceiptSettings(CallbackSettings):
    types: int = 19  # a sum: 1 delivered, 2 clicked, 16 invalid, 32 muted, 64 filtered, 128 day's quota exceeded

    @field_validator("types")
    @classmethod
    def _known(cls, types: int) -> int:
        if types <= 0 or types & ~ALL_TYPES:  # another sum breaks all receipts
            raise ValueError("must be a sum of 1, 2, 16, 32, 64 and 128")
        return types


class XiaomiReceipts:
    """A `ReceiptReader`."""

    def __init__(self, settings: XiaomiReceiptSettings) -> None:
        self.settings = settings

    def read(self, call: Callback, *, now_s: float) -> Reading:
        """See `ReceiptReader`."""
        del now_s
        check_path_secret(call, self.settings)
        messages, _ = form_json(call.body, "data")
        return Reading(receipts=tuple(_receipts(messages)))


def _receipts(messages: Mapping[str, Any]) -> Iterator[Receipt]:
    for message_id, said, token in reports(messages.items()):
        code = code_of(said.get("type"))
        number = int(code) if code is not None and code.isdigit() else 0
        fact, reason, dead = TYPES.get(number, (Fact.UNKNOWN, None, False))
        yield Receipt(
            fact=fact,
            token=token,
            vendor_id=short_id(message_id),
            push_id=short_id(said.get("param")),
            code=code,
            reason=reason,
            token_dead=dead,
            spent=reason == DAILY_CAP,
            at_ms=instant_ms(said.get("timestamp")),
        )
