"""What happened, line by line, with a hash over all of it: the same seed must give the same hash (safety SIM-11)."""

import hashlib
from collections import Counter

from .loop import now_s

LINES_MAX = 200


class Story:
    """The log of a run. Lines name what they are about, so the story of one message can be told."""

    def __init__(self, *, keep: bool = True) -> None:
        self._digest = hashlib.sha256()
        self._keep = keep
        self.lines: list[str] = []
        self.counts: Counter[str] = Counter()

    def tell(self, what: str, *about: object) -> None:
        line = f"{now_s():.3f} {what} {' '.join(map(str, about))}"
        self.counts[what] += 1
        self._digest.update(line.encode() + b"\n")
        if self._keep:
            self.lines.append(line)

    @property
    def hash(self) -> str:
        return self._digest.hexdigest()

    def of(self, *about: str) -> list[str]:
        """The last lines that name any of these, or what happened to the relay as a whole."""
        wanted = [line for line in self.lines if any(one in line for one in about) or " node." in line]
        return wanted[-LINES_MAX:]
