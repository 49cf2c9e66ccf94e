"""Families of device tokens: a token, its successors, and what using one of them means (safety SEC-4).

The backend asks for the first token of a family. Past half of its life, the token's bearer is handed a successor, of the
next generation. The successor takes over when it is used for the first time, not when it is handed out: an answer that
got lost costs nothing, its token is simply asked for again. From that first use, elders and siblings stay good for ten
minutes. Later use of one means that two hold the family: all of it is revoked.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol

from relay.clock import rfc3339
from relay.model import DeviceKey
from relay.store import meta, tokens
from relay.store.engine import Conn
from relay.store.events import NewEvent, derived_id, emit

LIFE_MS = 30 * 86_400_000
HALF_LIFE_MS = LIFE_MS // 2
GRACE_MS = 10 * 60_000  # how long a rotated token stays good
UNPROVEN_MAX = 3  # successors handed out and not used yet; of more, the oldest is dropped
EPOCH_GRACE_MS = 86_400_000  # after the store was set back, an old token may be the newest that it knows


class Facts(Protocol):
    """A token's row, as far as the rules go."""

    @property
    def generation(self) -> int: ...
    @property
    def created_ms(self) -> int: ...
    @property
    def expires_ms(self) -> int: ...
    @property
    def used_ms(self) -> int | None: ...
    @property
    def rotated_ms(self) -> int | None: ...
    @property
    def revoked_ms(self) -> int | None: ...


class Standing(StrEnum):
    """What a token is worth at the moment."""

    GOOD = "good"
    FRESH = "fresh"  # good, and used for the first time
    EXPIRED = "expired"
    REUSED = "reused"  # its successor took over long ago
    REVOKED = "revoked"


def standing(token: Facts, now_ms: int) -> Standing:
    """What this token is worth now."""
    if token.revoked_ms is not None:
        return Standing.REVOKED
    if token.rotated_ms is not None and token.rotated_ms + GRACE_MS <= now_ms:
        return Standing.REUSED
    if token.expires_ms <= now_ms:
        return Standing.EXPIRED
    fresh = token.used_ms is None and token.rotated_ms is None  # beside one that took over, it is only tolerated
    return Standing.FRESH if fresh else Standing.GOOD


def renew_ms(token: Facts) -> int | None:
    """From when on its bearer is handed a successor; None if another one has taken over."""
    return None if token.rotated_ms is not None else token.created_ms + HALF_LIFE_MS


# --- in a transaction -------------------------------------------------------------------------------------------------


def row_of(
    key: DeviceKey, now_ms: int, *, token_id: str, mac: bytes, family: str, generation: int = 0
) -> dict[str, Any]:
    """A token as it begins. The first of a family is in use from the start: it has no elder to take over from."""
    return {
        "app_id": key.app_id,
        "user_id": key.user_id,
        "device_id": key.device_id,
        "token_id": token_id,
        "secret_mac": mac,
        "family": family,
        "generation": generation,
        "created_ms": now_ms,
        "expires_ms": now_ms + LIFE_MS,
        "used_ms": None if generation else now_ms,
        "rotated_ms": None,
        "revoked_ms": None,
    }


def settle(conn: Conn, now_ms: int, key: DeviceKey, *, family: str, token_id: str) -> Standing:
    """Acts on a token's use: a fresh one takes over, a reused one ends its family. Gives what it was worth."""
    token = _find(tokens.locked_family(conn, key, family), token_id)
    if token is None:
        return Standing.REVOKED
    found = standing(token, now_ms)
    if found is Standing.FRESH:
        tokens.take_over(conn, now_ms, key, family=family, token_id=token_id, generation=token.generation)
    elif found is Standing.REUSED:
        if now_ms < meta.epoch_since_ms(conn) + EPOCH_GRACE_MS:
            return Standing.EXPIRED
        tokens.revoke(conn, now_ms, app_id=key.app_id, user_id=key.user_id, device_id=key.device_id, family=family)
        data = {"user": key.user_id, "device": key.device_id, "at": rfc3339(now_ms)}
        event_id = derived_id("evt_", "device.token_reuse", *key, family)
        emit(conn, now_ms, [NewEvent(app_id=key.app_id, event_id=event_id, type="device.token_reuse", data=data)])
    return found


def succeed(
    conn: Conn, now_ms: int, key: DeviceKey, *, family: str, token_id: str, new_id: str, new_mac: bytes
) -> bool:
    """Adds a successor to this token; False if it is not its turn."""
    found = tokens.locked_family(conn, key, family)
    token = _find(found, token_id)
    if token is None or standing(token, now_ms) is not Standing.GOOD:
        return False
    due_ms = renew_ms(token)
    if due_ms is None or now_ms < due_ms:
        return False
    unproven = sorted((one for one in found if one.used_ms is None), key=lambda one: one.created_ms)
    tokens.drop(conn, key, [one.token_id for one in unproven[: max(0, len(unproven) + 1 - UNPROVEN_MAX)]])
    row = row_of(key, now_ms, token_id=new_id, mac=new_mac, family=family, generation=token.generation + 1)
    tokens.add(conn, row)
    return True


def _find(family: Sequence[Any], token_id: str) -> Any:
    return next((one for one in family if one.token_id == token_id), None)
