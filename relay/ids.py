"""Chance and identity as arguments: the only module that makes random numbers.

Everything takes an `Rng` (a `random.Random`): the machine's secure one in a real relay, a seeded one in the simulation.
"""

import itertools
import os
import random
import threading
from collections.abc import Callable
from typing import Final

from relay.mac import hmac_sha256

Rng = random.Random

TAG_BITS: Final = 74
NEVER_KEYED = "\x1f"  # separates namespace and key; no key may hold it


class SystemRng(random.SystemRandom):
    """The operating system's generator, asked for 4 KiB at a time: asking gives the interpreter's lock away."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._ready = b""
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._ready = b""

    def randbytes(self, n: int) -> bytes:
        with self._lock:
            if len(self._ready) < n:
                self._ready = os.urandom(max(n, 4096))  # noqa: TID251 - the one place
            taken, self._ready = self._ready[:n], self._ready[n:]
            return taken

    def getrandbits(self, k: int, /) -> int:
        if k < 0:
            raise ValueError("number of bits must be non-negative")
        size = (k + 7) // 8
        return int.from_bytes(self.randbytes(size), "big") >> (size * 8 - k)

    def random(self) -> float:
        return self.getrandbits(53) * 2**-53


def system_rng() -> Rng:
    """The machine's secure generator: for secrets, ids and jitter alike."""
    return SystemRng()


def message_id(ms: int, tag: int) -> str:
    """A UUIDv7 (RFC 9562 §5.7) from its 48 bits of time and 74 bits of tag."""
    value = ((ms & (1 << 48) - 1) << 80) | (7 << 76) | ((tag >> 62) << 64) | (0b10 << 62) | (tag & (1 << 62) - 1)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def device_namespace(user_id: str, device_id: str) -> str:
    """Where the keys of a device's own sends live: apart from the backend's, and from every other device's."""
    return user_namespace(user_id) + device_id


def user_namespace(user_id: str) -> str:
    """What the keys of all devices of a user begin with."""
    return f"d{NEVER_KEYED}{user_id}{NEVER_KEYED}"


def tag_of(key: str, *, namespace: str, secret: bytes) -> int:
    """The tag of a message sent with an idempotency key: 74 bits of HMAC-SHA-256 (protocol 2.1)."""
    digest = hmac_sha256(secret, f"{namespace}{NEVER_KEYED}{key}".encode())
    return int.from_bytes(digest[:10], "big") >> 6


def tag_of_id(text: str) -> int:
    """The tag inside a message id."""
    value = int(text.replace("-", ""), 16)
    return ((value >> 64 & 0xFFF) << 62) | (value & (1 << 62) - 1)


def uuid7_ms(text: str) -> int | None:
    """The time part of a UUIDv7 in its usual form, lower or upper case; None for anything else."""
    if len(text) != 36 or text[8] != "-" or text[13] != "-" or text[14] != "7" or text[18] != "-" or text[23] != "-":
        return None
    digits = text.replace("-", "")
    if len(digits) != 32 or not all(c in "0123456789abcdefABCDEF" for c in digits) or text[19].lower() not in "89ab":
        return None
    return int(digits[:12], 16)


def is_message_id(text: str) -> bool:
    return uuid7_ms(text) is not None and text == text.lower()


def running_ids(rng: Rng, *, bits: int) -> Callable[[], str]:
    """Gives ids in hex, one after the other from a random place: no two alike, but no secret either."""
    numbers, mask, form = itertools.count(rng.getrandbits(bits)), (1 << bits) - 1, f"%0{bits // 4}x"
    return lambda: form % (next(numbers) & mask)


def random_hex(rng: Rng, *, bits: int) -> str:
    return f"{rng.getrandbits(bits):0{bits // 4}x}"
