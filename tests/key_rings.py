"""Key rings in these tests."""

import random

from relay.keys import KeyRing

OLD, NEW = bytes(range(32)), bytes(range(100, 132))


def ring(*ids: int) -> KeyRing:
    """With these of two keys; the first of them seals."""
    keys = {1: OLD, 2: NEW}
    return KeyRing([(key_id, keys[key_id]) for key_id in ids], random.Random(1))
