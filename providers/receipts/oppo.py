"""Receipts of OPPO: a JSON list, for each event the devices that it is about.

Source: vendor sheet `oppo` §8; the names of events are not confirmed. Nothing is signed; the path's secret is all there is.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

from providers.http import code_from
from providers.receipts.callback import CallbackSettings, parsed, reports
from providers.receipts.contract import (
    DAILY_CAP,
    Callback,
    Fact,
    Garbled,
    Reading,
    Receipt,
    check_path_secret,
    instant_ms,
    short_id,
)

__all__ = ["PARAM_BYTES_MAX", "OppoReceiptSettings", "OppoReceipts"]

PARAM_BYTES_MAX = 50  # newer texts allow 100

EVENTS: dict[str, tuple[Fact, str | None, bool]] = {
    "push_arrive": (Fact.DELIVERED, None, False),
    "regid_invalid": (Fact.FAILED, "invalid", True),
    "user_daily_limit": (Fact.FAILED, DAILY_CAP, False),
}


class OppoReceiptSettings(CallbackSettings):
    bytes_max: ClassVar[int] = 200


class OppoReceipts:
    """A `ReceiptReader`."""

    def __init__(self, settings: OppoReceiptSettings) -> None:
        self.settings = settings

    def read(self, call: Callback, *, now_s: float) -> Reading:
        """See `ReceiptReader`."""
        del now_s
        check_path_secret(call, self.settings)
        events = parsed(call.body)
        if not isinstance(events, list):
            raise Garbled("The body is no JSON list.")
        return Reading(receipts=tuple(_receipts(events)))


def _receipts(events: list[Any]) -> Iterator[Receipt]:
    for _, event, token in reports((("", event) for event in events), targets="registrationIds"):
        code = code_from(event.get("eventType"))
        fact, reason, dead = EVENTS.get(code or "", (Fact.UNKNOWN, None, False))
        yield Receipt(
            fact=fact,
            token=token,
            vendor_id=short_id(event.get("messageId")),
            push_id=short_id(event.get("param")),
            code=code,
            reason=reason,
            token_dead=dead,
            spent=reason == DAILY_CAP,
            at_ms=instant_ms(event.get("eventTime")),
        )
