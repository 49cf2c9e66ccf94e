"""What a long series of runs must have seen, so that a quiet test is noticed (safety SIM-9)."""

from collections.abc import Mapping

from .faults import KINDS

TIMES_MIN = 100


def missed(fired: Mapping[str, int], *, least: int = TIMES_MIN) -> list[str]:
    """Fault kinds that struck less often than that."""
    return [f"{kind} ({fired.get(kind, 0)})" for kind in KINDS if fired.get(kind, 0) < least]
