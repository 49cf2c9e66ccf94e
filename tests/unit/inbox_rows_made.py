"""Rows of an inbox as rules see them, with all that a test leaves unsaid filled in."""

from typing import Any

from relay.model import EVERYWHERE, Device, DeviceState, Entry, EntryState, Kind, PushJob

NOW = 1_764_000_000_000
DAY = 86_400_000
PHONE = {"app_id": "shop", "user_id": "ann", "device_id": "phone"}


def device(**more: Any) -> Device:
    """Offline, with an address, at number 0."""
    values: dict[str, Any] = dict.fromkeys(Device.__struct_fields__) | {
        **PHONE,
        "state": DeviceState.ACTIVE,
        "session": 5,
        "conf_session": 3,
        "lineage_session": 1,
        "offline_told": 0,
        "start_seq": 0,
        "acked_seq": 0,
        "acked_high": 0,
        "pushed_seq": 0,
        "seen_seq": 0,
        "progress_ms": 0,
        "background": 0,
        "has_address": 1,
        "created_ms": NOW - DAY,
        "contact_ms": NOW,
    }
    return Device(**(values | more))


def entry(seq: int, **more: Any) -> Entry:
    """A message for every device that lives for a day."""
    values: dict[str, Any] = dict.fromkeys(Entry.__struct_fields__) | {
        "seq": seq,
        "message_id": f"m{seq}",
        "kind": Kind.MESSAGE,
        "only_device": "",
        "notifiable": True,
        "state": EntryState.LIVE,
        "accepted_ms": NOW,
        "expires_ms": NOW + DAY,
        "has_fallback": False,
        "hold": True,
        "scope": EVERYWHERE,
    }
    return Entry(**(values | more))


def job(**more: Any) -> PushJob:
    """At rest, never tried."""
    values: dict[str, Any] = dict.fromkeys(PushJob.__struct_fields__) | {
        **PHONE,
        "knock": 0,
        "tries": 0,
        "bare_seq": 0,
        "claim_token": 0,
        "lost": 0,
        "shown_seq": 0,
        "escalate_seq": 0,
        "escalate_after": 0,
        "escalate_on": 0,
    }
    return PushJob(**(values | more))
