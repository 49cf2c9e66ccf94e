"""Which types of events there are, and which of them an endpoint wants (protocol 11.5). Pure."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from relay.errors import FieldError

EVENT_TYPES: Final = frozenset(
    {
        "app_version.suspect",
        "account.credential_expiring",
        "account.impaired",
        "account.parked",
        "api_key.leaked",
        "clock_step",
        "delivery.acked",
        "delivery.cancelled",
        "delivery.escalated",
        "delivery.expired",
        "delivery.failed",
        "delivery.fallback",
        "delivery.held",
        "delivery.late_ack",
        "delivery.pushed",
        "delivery.receipt",
        "delivery.superseded",
        "delivery.vendor_receipt",
        "device.extra",
        "device.offline",
        "device.online",
        "device.resync",
        "device.token_invalid",
        "device.token_moved",
        "device.token_reuse",
        "device.unreachable",
        "device.upgrade_verified",
        "device.upgraded",
        "endpoint.disabled",
        "endpoint.test",
        "message.completed",
        "store.restored",
        "store.rolled_back",
        "user.erased",
        "user.renamed",
    }
)
OFF_BY_DEFAULT: Final = frozenset({"delivery.pushed", "delivery.vendor_receipt"})  # only for who names them
EVERY: Final = "*"  # all types that are on by default, also those that later releases add


def _unknown(name: str) -> str:
    close = get_close_matches(name, EVENT_TYPES, n=1)
    kinds = sorted({one.partition(".")[0] for one in EVENT_TYPES})
    hint = f"did you mean {close[0]!r}?" if close else f"they begin with {', '.join(kinds)}."
    return f"There is no event type of this name; {hint}"


def wants(types: Sequence[str], event_type: str) -> bool:
    """Whether an endpoint with this list is told of events of this type."""
    if EVERY in types:
        return event_type not in OFF_BY_DEFAULT
    return event_type in types


def type_errors(types: Sequence[str], *, pointer: str = "/types") -> list[FieldError]:
    """Every mistake in a list of event types: `["*"]` or names, each once (safety B099)."""
    if not types:
        return [FieldError(pointer, "too_short", 'Name at least one event type, or ["*"] for all.')]
    if len(types) > len(EVENT_TYPES):
        return [FieldError(pointer, "too_long", f"There are {len(EVENT_TYPES)} event types; name each once.")]
    if EVERY in types and len(types) > 1:
        return [FieldError(pointer, "value", '"*" stands alone; leave out the other types, or name them all.')]
    errors = []
    seen: set[str] = set()
    for place, name in enumerate(types):
        if name != EVERY and name not in EVENT_TYPES:
            errors.append(FieldError(f"{pointer}/{place}", "unknown", _unknown(name)))
        elif name in seen:
            errors.append(FieldError(f"{pointer}/{place}", "duplicate", "This event type is named twice."))
        seen.add(name)
    return errors
