"""Receipts of Honor Push. Nothing about them is confirmed; they are said to look like Huawei's older ones.

Source: vendor sheet `honor` §7. No signature is known, so the URL's secret is all there is.
"""

from dataclasses import replace

from pydantic import model_validator

from providers.receipts.contract import DAILY_CAP, Callback, PathSettings, Reading, check_path_secret
from providers.receipts.huawei import items_of, receipt_of

__all__ = ["HonorReceiptSettings", "HonorReceipts"]

ANSWER = b'{"code":"0","message":"success"}'  # Huawei's; the sheet has none for Honor


class HonorReceiptSettings(PathSettings):
    @model_validator(mode="after")
    def _some_way(self) -> "HonorReceiptSettings":
        if self.path_secret is None:
            raise ValueError("give path_secret: nobody else may report")
        return self


class HonorReceipts:
    """A `ReceiptReader`."""

    def __init__(self, settings: HonorReceiptSettings) -> None:
        self.settings = settings

    def read(self, call: Callback, *, now_s: float) -> Reading:
        """See `ReceiptReader`. Huawei's codes are a guess here: by them no token is called dead, and no day is over but by
        the number that Honor has, too (§5)."""
        del now_s
        check_path_secret(call, self.settings)
        found = [receipt_of(item) for item in items_of(call.body)]
        return Reading(
            receipts=tuple(
                replace(one, token_dead=False, spent=one.reason == DAILY_CAP) for one in found if one is not None
            ),
            answer=ANSWER,
        )
