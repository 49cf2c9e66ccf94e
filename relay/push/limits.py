"""What holds one account's pushes back: bucket, circuit, pause, retry budget, and the brake on dead tokens; and in which order
what waits has its turn. Pure; time is an argument (monotonic milliseconds; of a line, the wall clock's)."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from math import ceil

WINDOW_MS = 10_000
CALLS_MIN = 20  # calls in the window before a circuit may open
FAILURES_SHARE = 0.5
PROBE_MS = 5_000
CLOSE_AFTER = 3  # successes in a row
PAUSE_MS_MIN, PAUSE_MS_DEFAULT, PAUSE_MS_MAX = 1_000, 60_000, 3_600_000
BRAKE_WINDOW_MS, BRAKE_STEP_MS = 600_000, 10_000
BRAKE_DEAD_MIN = 50
BRAKE_SHARE = 0.05
BRAKED_HOSTS_MAX = 4096  # remembered; then the one that was quiet longest goes
BUDGET_SHARE = 0.1
BUDGET_PER_S = 5.0
BUDGET_WAIT_MS = WINDOW_MS  # until a retry that found none left is planned again
RATE_RISE = 0.05  # of the full rate, a second
RATE_SHARE_MIN = 1 / 64  # the least that is left, of what it begins with
RATE_CUT_MS = 1_000
RAMP_S = 60.0  # from nothing to the full rate, where a vendor wants load to grow slowly (sheet fcm §6)
LINE_MS_MAX = 300_000  # nobody is sent further back than this
LINE_SLOT_MS = 1_000  # at least: in what steps turns are counted
LINE_SLOTS_MAX = 4_000


@dataclass(slots=True)
class Bucket:
    """A token bucket: `rate_per_s` a second at most, `burst` at once; slower for a while after the vendor's "too many".

    Additive increase, multiplicative decrease: each "too many" halves the rate, at most once a second, since calls under
    way together are refused together; each second without one gives a twentieth of the full rate back.

    With `start_per_s` the rate follows the load: so many a second after a pause; more by and by, while all of it is used.
    """

    rate_per_s: float
    burst: float
    start_per_s: float | None = None
    _at_rest: float = field(init=False)
    _rate: float = field(init=False)
    _tokens: float = field(init=False)
    _at_ms: int = 0
    _cut_ms: int | None = None

    def __post_init__(self) -> None:
        self._at_rest = min(self.start_per_s or self.rate_per_s, self.rate_per_s)
        self._rate = self._at_rest
        self._tokens = self.burst

    def rate(self, now_ms: int) -> float:
        """What is allowed a second at present."""
        self._refill(now_ms)
        return self._rate

    def _refill(self, now_ms: int) -> None:
        passed_s = max(0, now_ms - self._at_ms) / 1000
        tokens = self._tokens + passed_s * self._rate
        self._tokens = min(self.burst, tokens)
        if self._rate < self._at_rest:
            self._rate = min(self._at_rest, self._rate + passed_s * self.rate_per_s * RATE_RISE)
        elif self._at_rest < self.rate_per_s:
            step = passed_s * self.rate_per_s / RAMP_S
            spare = tokens >= self.burst
            self._rate = max(self._at_rest, self._rate - step) if spare else min(self.rate_per_s, self._rate + step)
        self._at_ms = max(now_ms, self._at_ms)

    def available(self, now_ms: int) -> int:
        self._refill(now_ms)
        return int(self._tokens)

    def take(self, now_ms: int, count: float = 1) -> bool:
        self._refill(now_ms)
        if self._tokens < count:
            return False
        self._tokens -= count
        return True

    def owe(self, now_ms: int, count: float) -> None:
        """For what is done in any case: what is not there is paid for before there is one again."""
        self._refill(now_ms)
        self._tokens -= count

    def too_many(self, now_ms: int) -> None:
        """The vendor said so: half the rate, and no burst left."""
        self._refill(now_ms)
        if self._cut_ms is None or now_ms - self._cut_ms >= RATE_CUT_MS:
            self._cut_ms = now_ms
            self._rate = max(self._rate / 2, self._at_rest * RATE_SHARE_MIN)
            self._tokens = min(self._tokens, 1.0)

    def wait_ms(self) -> int:
        """How long until there is one again."""
        return 0 if self._tokens >= 1 else int((1 - self._tokens) / self._rate * 1000) + 1


@dataclass(slots=True)
class _Window:
    """Two counts over the last while. What happens within one step is kept together, and forgotten together."""

    length_ms: int
    step_ms: int = 1
    _steps: deque[list[int]] = field(default_factory=deque)  # [since when, all, hits]
    _all: int = 0
    _hits: int = 0

    def add(self, now_ms: int, *, hit: bool) -> None:
        since_ms = now_ms - now_ms % self.step_ms
        if not self._steps or self._steps[-1][0] != since_ms:
            self._steps.append([since_ms, 0, 0])
        self._steps[-1][1] += 1
        self._steps[-1][2] += hit
        self._all += 1
        self._hits += hit
        self._drop(now_ms)

    def _drop(self, now_ms: int) -> None:
        while self._steps and self._steps[0][0] <= now_ms - self.length_ms:
            _, all_, hits = self._steps.popleft()
            self._all -= all_
            self._hits -= hits

    def counts(self, now_ms: int) -> tuple[int, int]:
        """(all, hits)"""
        self._drop(now_ms)
        return self._all, self._hits

    def clear(self) -> None:
        self._steps.clear()
        self._all = self._hits = 0


@dataclass(slots=True)
class Circuit:
    """Opens when half of at least 20 calls in 10 s failed; probes every 5 s; closes after 3 successes."""

    _calls: _Window = field(default_factory=lambda: _Window(WINDOW_MS))
    _open: bool = False
    _opened_ms: int = 0
    _probe_at_ms: int = 0
    _good: int = 0

    @property
    def open(self) -> bool:
        return self._open

    def open_for_ms(self, now_ms: int) -> int:
        """How long the vendor has been away; 0 if it is not."""
        return max(0, now_ms - self._opened_ms) if self._open else 0

    def closed_for_ms(self, now_ms: int) -> int:
        """How long no call may be made; 0: one may. Asking is free; `probe` says that it is being made."""
        return max(0, self._probe_at_ms - now_ms) if self._open else 0

    def probe(self, now_ms: int) -> None:
        if self._open:
            self._probe_at_ms = now_ms + PROBE_MS

    def succeeded(self, now_ms: int) -> None:
        if self._open:
            self._good += 1
            self._probe_at_ms = now_ms  # the next one at once
            if self._good >= CLOSE_AFTER:
                self._open = False
                self._calls.clear()
        else:
            self._calls.add(now_ms, hit=False)

    def unasked(self, now_ms: int) -> None:
        """The probe came to nothing: it was refused before the vendor saw it. The next call may be one."""
        if self._open:
            self._probe_at_ms = now_ms

    def failed(self, now_ms: int) -> None:
        self._good = 0
        if self._open:
            self._probe_at_ms = now_ms + PROBE_MS
            return
        self._calls.add(now_ms, hit=True)
        count, failures = self._calls.counts(now_ms)
        if count >= CALLS_MIN and failures >= FAILURES_SHARE * count:
            self._open = True
            self._opened_ms = now_ms
            self._probe_at_ms = now_ms + PROBE_MS


@dataclass(slots=True)
class Brake:
    """Against mass removal: if many sends end in "dead token", it is more likely the account than the phones."""

    _sends: _Window = field(default_factory=lambda: _Window(BRAKE_WINDOW_MS, BRAKE_STEP_MS))

    def told(self, now_ms: int, *, dead: bool) -> None:
        self._sends.add(now_ms, hit=dead)

    def holds(self, now_ms: int) -> bool:
        """Whether tokens must not be removed at present."""
        count, dead = self._sends.counts(now_ms)
        return dead >= BRAKE_DEAD_MIN and dead > BRAKE_SHARE * count


@dataclass(slots=True)
class Brakes:
    """An account's brake, and one for each host that devices bring: all whom one server calls dead may be few of the account's
    (sheets webpush §6.3, others §7)."""

    _account: Brake = field(default_factory=Brake)
    _hosts: OrderedDict[str, Brake] = field(default_factory=OrderedDict)

    def told(self, now_ms: int, *, dead: bool, host: str | None = None) -> None:
        self._account.told(now_ms, dead=dead)
        if host is not None:
            self._hosts.setdefault(host, Brake()).told(now_ms, dead=dead)
            self._hosts.move_to_end(host)
            if len(self._hosts) > BRAKED_HOSTS_MAX:
                self._hosts.popitem(last=False)

    def holds(self, now_ms: int, host: str | None = None) -> bool:
        """Whether tokens (at that host) must not be removed at present."""
        its_own = None if host is None else self._hosts.get(host)
        return self._account.holds(now_ms) or (its_own is not None and its_own.holds(now_ms))

    @property
    def remembered(self) -> tuple[int, int]:
        """Hosts that are known, and how many may be."""
        return len(self._hosts), BRAKED_HOSTS_MAX


@dataclass(slots=True)
class RetryBudget:
    """Retries an account may make in any ten seconds: a tenth of its first attempts in them, plus five a second (safety §4)."""

    _calls: _Window = field(default_factory=lambda: _Window(WINDOW_MS))  # a hit is a retry

    def called(self, now_ms: int, *, retry: bool) -> None:
        self._calls.add(now_ms, hit=retry)

    def left(self, now_ms: int) -> int:
        """How many retries may be made now."""
        calls, retries = self._calls.counts(now_ms)
        allowed = BUDGET_SHARE * (calls - retries) + BUDGET_PER_S * WINDOW_MS / 1000
        return max(0, int(allowed) - retries)


@dataclass(slots=True)
class Line:
    """The turns of pushes that an account cannot take now, as far apart as it could take them.

    All that wait for a vendor that is away would else be planned again together, at every probe, and whoever waits for
    another vendor would have to wait until that is done. Each has the first turn that is free; where none is for
    LINE_MS_MAX, one between those of others.
    """

    gap_ms: float
    _given: dict[int, int] = field(default_factory=dict)  # slots, and how many turns of each: some wait for hours

    def turn(self, at_ms: int) -> int:
        """When the next one that may go at `at_ms` at the earliest is looked at."""
        room = max(1, ceil(LINE_SLOT_MS / self.gap_ms))
        slot_ms = room * self.gap_ms
        first, last = (int(one // slot_ms) for one in (at_ms, at_ms + LINE_MS_MAX))
        over = int((at_ms - first * slot_ms) / self.gap_ms)  # turns of the first slot that are past by then
        self._given[first] = max(self._given.get(first, 0), over)
        slots = range(first, last + 1)
        slot = next((one for one in slots if self._given.get(one, 0) < room), None)
        if slot is None:
            slot = min(slots, key=lambda one: self._given[one] // room)
        given = self._given.get(slot, 0)
        self._given[slot] = given + 1
        if len(self._given) > LINE_SLOTS_MAX:  # most of the earliest are long past
            self._given = dict(sorted(self._given.items())[LINE_SLOTS_MAX // 4 :])
        return max(at_ms, int(slot * slot_ms + given % room * self.gap_ms))

    def begin_anew(self) -> None:
        """All turns are free: who had one is looked at now."""
        self._given = {}


def pause_ms(retry_after_s: float | None) -> int:
    """How long a vendor's "too many" stops an account or a device."""
    if retry_after_s is None:
        return PAUSE_MS_DEFAULT
    return int(min(max(retry_after_s * 1000, PAUSE_MS_MIN), PAUSE_MS_MAX))
