"""All chance of a run, from one seed, in named streams: a draw more in one place doesn't shift any other (safety SIM-12).

A stream is drawn so that 0 is the quiet choice: no fault, the shortest delay, the first of a list. Shrinking a failure
replaces stretches of a stream by zeros.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")
Stretch = tuple[int, int]  # draws from .. before


class Stream(random.Random):
    """One named stream; the draws in `zeroed` stretches give 0."""

    def __init__(self, seed: str, zeroed: Sequence[Stretch] = ()) -> None:
        self.drawn = 0
        self._zeroed = tuple(zeroed)
        super().__init__(seed)

    def _silenced(self) -> bool:
        place = self.drawn
        self.drawn += 1
        return any(low <= place < high for low, high in self._zeroed)

    def random(self) -> float:
        value = super().random()
        return 0.0 if self._silenced() else value

    def getrandbits(self, k: int) -> int:
        value = super().getrandbits(k)
        return 0 if self._silenced() else value

    def chance(self, rate: float) -> bool:
        return self.random() >= 1 - rate

    def between(self, low: float, high: float) -> float:
        return low + self.random() * (high - low)

    def count(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + int(self.random() * (high - low + 1))

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self.random() * len(choices))]

    def after_s(self, mean_s: float) -> float:
        """Until the next of events that come every `mean_s` on average."""
        return -math.log(1 - self.random()) * mean_s


class Draws:
    """The streams of one run."""

    def __init__(self, seed: int, zeroed: Mapping[str, Sequence[Stretch]] | None = None) -> None:
        self.seed = seed
        self._zeroed = zeroed or {}
        self._streams: dict[str, Stream] = {}

    def stream(self, name: str) -> Stream:
        if name not in self._streams:
            self._streams[name] = Stream(f"{self.seed}/{name}", self._zeroed.get(name, ()))
        return self._streams[name]

    def ids(self, name: str) -> random.Random:
        """A stream for identities, which are never replaced by zeros."""
        return random.Random(f"{self.seed}/ids/{name}")

    def counts(self) -> dict[str, int]:
        """How many draws each stream has given."""
        return {name: stream.drawn for name, stream in self._streams.items()}
