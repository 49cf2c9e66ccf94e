"""The machine's clocks as a node sees them: one that never steps, and a wall clock that may."""

from relay.clock import GuardedWall

from .loop import now_s, sleep

START_MS = 1_764_003_120_000  # eight minutes before an hour is over: its log can be had during most runs


class Wall:
    """The true time, and how far the machine's wall clock is off."""

    def __init__(self) -> None:
        self.off_ms = 0
        self._drift = 0.0  # seconds per second
        self._drifts_since_s = 0.0

    def true_ms(self) -> int:
        return START_MS + round(now_s() * 1000)

    def read_ms(self) -> int:
        return self.true_ms() + self.off_ms + round(self._drift * (now_s() - self._drifts_since_s) * 1000)

    def drifts(self, rate: float) -> None:
        """From now on it gains (or loses) so much; 0: it is right again."""
        self._drift, self._drifts_since_s = rate, now_s()


class NodeClock:
    """`relay.clock.SystemClock` on virtual clocks."""

    def __init__(self, wall: Wall) -> None:
        self._wall = wall
        self._guarded = GuardedWall()

    def now_ms(self) -> int:
        return self._guarded.read(wall_ms=self._wall.read_ms(), monotonic_ms=self.monotonic_ms())

    def monotonic_ms(self) -> int:
        return round(now_s() * 1000)

    async def sleep(self, seconds: float) -> None:
        await sleep(seconds)
