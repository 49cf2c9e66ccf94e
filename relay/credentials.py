"""Credentials that the relay mints: what API keys, device tokens and tickets look like.

Their secrets have 256 bits, so the store keeps a MAC of each (`KeyRing.mac`); a slow hash is for passwords.
"""

import base64
import re
import zlib
from typing import Final

from relay.ids import Rng

SECRET_BYTES: Final = 32  # 43 characters
ID_CHARS: Final = 12
CHECK_CHARS: Final = 6

_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_REST = r"([a-z2-7]{12})_([A-Za-z0-9_-]{43})_[0-9A-Za-z]{6}"
_API_KEY = re.compile(rf"rk_(?:live|test)_{_REST}")
_DEVICE_TOKEN = re.compile(rf"rd_{_REST}")
_API_KEY_CHARS = len("rk_live_") + ID_CHARS + 1 + 43 + 1 + CHECK_CHARS
_DEVICE_TOKEN_CHARS = len("rd_") + ID_CHARS + 1 + 43 + 1 + CHECK_CHARS


def mint_api_key(rng: Rng, live: bool = True) -> tuple[str, str, str]:
    """A new API key: its text, which is shown once, and of that the id and the secret (safety SEC-1)."""
    return _minted(rng, "rk_live" if live else "rk_test")


def parse_api_key(text: str) -> tuple[str, str] | None:
    """Id and secret; None if no relay can have minted this. Costs no look-up."""
    return _parts(text, _API_KEY, _API_KEY_CHARS)


def find_api_key(text: str) -> tuple[str, str] | None:
    """Id and secret of the first API key in a text, as `parse_api_key` gives them."""
    found = _API_KEY.search(text)
    return None if found is None else parse_api_key(found[0])


def mint_device_token(rng: Rng) -> tuple[str, str, str]:
    """A new device token: its text, which is given out once, and of that the id and the secret (safety SEC-4)."""
    return _minted(rng, "rd")


def parse_device_token(text: str) -> tuple[str, str] | None:
    """Id and secret; None if no relay can have minted this."""
    return _parts(text, _DEVICE_TOKEN, _DEVICE_TOKEN_CHARS)


def mint_ticket(rng: Rng) -> str:
    """43 random characters: 256 bits."""
    return base64.urlsafe_b64encode(rng.randbytes(SECRET_BYTES)).decode().rstrip("=")


def _minted(rng: Rng, prefix: str) -> tuple[str, str, str]:
    number = rng.getrandbits(5 * ID_CHARS)
    key_id = "".join(_BASE32[number >> 5 * place & 31] for place in range(ID_CHARS))
    secret = mint_ticket(rng)
    text = f"{prefix}_{key_id}_{secret}"
    return f"{text}_{checksum(text)}", key_id, secret


def _parts(text: str, form: re.Pattern[str], chars: int) -> tuple[str, str] | None:
    # The secret may hold "_", so the parts are told apart by their lengths.
    if len(text) != chars or (found := form.fullmatch(text)) is None:
        return None
    return (found[1], found[2]) if text.endswith(checksum(text[: -CHECK_CHARS - 1])) else None


def checksum(text: str) -> str:
    """What a credential ends in: CRC-32 in base 62, so that a secret scanner, or we, need no look-up to know a typing error."""
    rest, digits = zlib.crc32(text.encode()), ""
    for _ in range(CHECK_CHARS):
        rest, digit = divmod(rest, 62)
        digits = _BASE62[digit] + digits
    return digits
