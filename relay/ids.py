"""Chance and identity as arguments: the only module that makes random numbers.

Everything takes an `Rng` (a `random.Random`): the machine's secure one in a real relay, a seeded one in the simulation.
"""

import hashlib
import hmac
import random
from typing import Final

Rng = random.Random

TAG_BITS: Final = 74
NEVER_KEYED = "\x1f"  # separates namespace and key; no key may hold it


def system_rng() -> Rng:
    """The operating system's generator: for secrets, ids and jitter alike."""
    return random.SystemRandom()


def message_id(ms: int, tag: int) -> str:
    """A UUIDv7 (RFC 9562 §5.7) from its 48 bits of time and 74 bits of tag."""
    value = ((ms & (1 << 48) - 1) << 80) | (7 << 76) | ((tag >> 62) << 64) | (0b10 << 62) | (tag & (1 << 62) - 1)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def tag_of(key: str, *, namespace: str, secret: bytes) -> int:
    """The tag of a message sent with an idempotency key: 74 bits of HMAC-SHA-256 (protocol 2.1)."""
    digest = hmac.digest(secret, f"{namespace}{NEVER_KEYED}{key}".encode(), hashlib.sha256)
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


def random_hex(rng: Rng, *, bits: int) -> str:
    return f"{rng.getrandbits(bits):0{bits // 4}x}"
