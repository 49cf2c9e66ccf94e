"""HMAC-SHA-256 for the hot path: the key is set up once, and a short message is hashed without leaving the interpreter.

`hmac.digest` gives the interpreter's lock away at each call; while the store's thread is busy, getting it back took half a
millisecond a request.
"""

import hmac
from functools import lru_cache


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA-256 (RFC 2104), 32 bytes."""
    keyed = _keyed(key).copy()
    keyed.update(message)
    return keyed.digest()


@lru_cache(maxsize=256)
def _keyed(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")
