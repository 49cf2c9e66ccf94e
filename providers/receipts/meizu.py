"""Receipts of Meizu: a form with a JSON map, and the token that the console shows with the registered address.

Source: vendor sheet `meizu` §7. The vendor forgets a batch once it has called: there is no second time.
"""

import hmac
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import SecretStr

from providers.receipts.callback import CallbackSettings, code_of, form_json, reports
from providers.receipts.contract import (
    Callback,
    Fact,
    NotAuthentic,
    Reading,
    Receipt,
    check_path_secret,
    short_id,
)

__all__ = ["PARAM_BYTES_MAX", "MeizuReceiptSettings", "MeizuReceipts"]

PARAM_BYTES_MAX = 64
TYPES = {"1": Fact.DELIVERED, "2": Fact.CLICKED}


class MeizuReceiptSettings(CallbackSettings):
    """The address, with its secret if it has one, must be registered in Meizu's console."""

    access_token: SecretStr | None = None

    def check_way(self) -> None:
        if self.access_token is not None and not self.access_token.get_secret_value():
            raise ValueError("access_token: must not be empty")
        if self.access_token is None and self.path_secret is None:
            raise ValueError("access_token: give the console's, or a path_secret: nobody else may report")


class MeizuReceipts:
    """A `ReceiptReader`."""

    def __init__(self, settings: MeizuReceiptSettings) -> None:
        self.settings = settings

    def read(self, call: Callback, *, now_s: float) -> Reading:
        """See `ReceiptReader`. Whatever of secret path and token is set has to be right."""
        del now_s
        settings = self.settings
        if settings.path_secret is not None:
            check_path_secret(call, settings)
        messages, form = form_json(call.body, "cb")
        if settings.access_token is not None:
            given, right = form.get("access_token", ""), settings.access_token.get_secret_value()
            if not hmac.compare_digest(given.encode("utf-8", "replace"), right.encode("utf-8", "replace")):
                raise NotAuthentic("The call has not the access token of the console.")
        return Reading(receipts=tuple(_receipts(messages)))


def _receipts(messages: Mapping[str, Any]) -> Iterator[Receipt]:
    for name, said, token in reports(messages.items()):
        message_id, _, kind = name.rpartition("-")  # the id may have hyphens itself
        code = code_of(said.get("type")) or kind
        yield Receipt(
            fact=TYPES.get(code, Fact.UNKNOWN),
            token=token,
            vendor_id=short_id(message_id),
            push_id=short_id(said.get("param")),
            code=code_of(code),
        )
