"""Phones that are there twice, cloned from one backup: told to part once they have taken turns often enough (F51)."""

import random
from typing import Any

from relay.inbox.cursor import CursorKeys, unseal
from relay.keys import KeyRing
from relay.model import DeviceKey

from .client import Broken
from .node import SECRETS

TIMES = 3
WITHIN_MS = 12 * 3_600_000  # less than the relay's day: what it noted is a little older than what is heard of it


class Doubles:
    """What phones have heard of themselves: each older store that was taken for theirs, by the session of its cursor.

    Answers may be heard in another order than they were given in: the sessions that they began tell which came first.
    """

    def __init__(self) -> None:
        self._keys = CursorKeys(*KeyRing(SECRETS, random.Random(0)).cursor_keys())
        self._heard: dict[DeviceKey, dict[int, tuple[int, int]]] = {}  # (session that began, ms)

    def forget(self) -> None:
        """The store was set back, and with it what the relay had noted."""
        self._heard.clear()

    def welcomed(self, device: DeviceKey, cursor: str | None, answer: dict[str, Any], now_ms: int) -> bool:
        """Whether it was told to part. Raises Broken if it was to be told so, and was not."""
        told = bool(answer.get("reidentify"))
        if answer["reason"] in {"no_cursor", "bad_cursor"}:  # it may be a new life of the device
            self._heard.pop(device, None)
        if answer["reason"] == "store_rolled_back" and cursor is not None:
            heard = self._heard.setdefault(device, {})
            this, of = (answer["session"], now_ms), unseal(cursor, device, self._keys).session
            heard[of] = max(heard.get(of, this), this)
            until_now = sorted(one for one in heard.values() if one <= this)[-TIMES:]
            lately = [at_ms for _, at_ms in until_now if now_ms - at_ms < WITHIN_MS]
            if len(lately) >= TIMES and not told:
                raise Broken(f"F51: {device} came with {len(until_now)} older stores, and was not told to part")
        elif told:
            raise Broken(f"F51: {device} was told to part by a handshake that found nothing of the kind")
        return told
