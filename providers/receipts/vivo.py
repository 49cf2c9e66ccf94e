"""Receipts of vivo: a JSON map of task ids, for each the devices that have it.

Source: vendor sheet `vivo` §8. Only deliveries are reported: who cannot be reached is named when the push is sent. Nothing
is signed; the path's secret is all there is.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from providers.receipts.callback import CallbackSettings, code_of, parsed, reports
from providers.receipts.contract import (
    Callback,
    Fact,
    Garbled,
    Reading,
    Receipt,
    check_path_secret,
    instant_ms,
    short_id,
)
from providers.settings import plain

__all__ = ["PARAM_BYTES_MAX", "VivoReceiptSettings", "VivoReceipts"]

PARAM_BYTES_MAX = 64
DELIVERED = "0"  # `ackType` of newer receipts; older ones have none. Not confirmed.


class VivoReceiptSettings(CallbackSettings):
    # Of the console's page "APP receipt", where `url` with the secret stands; without it each push names the address.
    callback_id: Annotated[str, plain(128)] | None = None

    @property
    def extra(self) -> dict[str, str]:
        """What goes with each push."""
        return {"callback": self.address} if self.callback_id is None else {"callback.id": self.callback_id}


class VivoReceipts:
    """A `ReceiptReader`."""

    def __init__(self, settings: VivoReceiptSettings) -> None:
        self.settings = settings

    def read(self, call: Callback, *, now_s: float) -> Reading:
        """See `ReceiptReader`."""
        del now_s
        check_path_secret(call, self.settings)
        tasks = parsed(call.body)
        if not isinstance(tasks, dict):
            raise Garbled("The body is no JSON object.")
        return Reading(receipts=tuple(_receipts(tasks)))


def _receipts(tasks: Mapping[str, Any]) -> Iterator[Receipt]:
    for task_id, said, token in reports(tasks.items()):
        code = code_of(said.get("ackType"))
        yield Receipt(
            fact=Fact.DELIVERED if code in {None, DELIVERED} else Fact.UNKNOWN,
            token=token,
            vendor_id=short_id(task_id),
            push_id=short_id(said.get("param")),
            code=code,
            at_ms=instant_ms(said.get("ackTime")),
        )
