"""How often a caller may come: what keeps count of that is given by whoever builds the relay."""

from collections.abc import Hashable
from typing import Protocol


class Rate(Protocol):
    """What keeps a caller from coming too often."""

    def take(self, key: Hashable, now_ms: int) -> bool: ...


class Unlimited:
    def take(self, key: Hashable, now_ms: int) -> bool:
        return True
