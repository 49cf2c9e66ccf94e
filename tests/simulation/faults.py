"""Which faults a run has, and how often: swarm style, each seed switches on a subset of its own (safety SIM-5)."""

from collections import Counter
from collections.abc import Collection, Mapping

from .draws import Draws

SHARE_ON = 0.4  # of the kinds, in one run

# Faults that strike a single event: the share of events they strike.
SITES: dict[str, tuple[float, float]] = {
    "request_lost": (0.01, 0.3),
    "answer_lost": (0.01, 0.3),
    "request_twice": (0.01, 0.3),
    "slow_network": (0.02, 0.3),
    "socket_reset": (0.005, 0.05),  # per frame
    "hint_lost": (0.1, 1.0),
    "store_refuses": (0.005, 0.05),
    "store_slow": (0.01, 0.2),
    "commit_unknown": (0.0005, 0.004),
    "read_fails": (0.002, 0.02),
    "vendor_5xx": (0.05, 0.5),
    "vendor_429": (0.02, 0.3),
    "vendor_slow": (0.02, 0.2),
    "vendor_ambiguous": (0.05, 0.5),
    "vendor_refuses": (0.01, 0.1),
    "vendor_too_large": (0.01, 0.1),
    "vendor_silent": (0.1, 1.0),  # accepts and delivers nothing
    "adapter_raises": (0.01, 0.1),  # before the vendor had it, or after
    "false_dead": (0.005, 0.05),
    "receiver_5xx": (0.05, 0.5),
    "receiver_slow": (0.02, 0.2),
    "receiver_lost": (0.05, 0.3),
    "receiver_redirects": (0.05, 0.3),
    "receiver_gone": (0.005, 0.05),  # 410, until its backend enables it again
    "client_crash": (0.01, 0.15),  # between its socket, its store and its ack
    "client_forgets": (0.02, 0.2),  # its last commits were not safe
    "ack_twice": (0.02, 0.3),
}

# Faults that come now and then: how many an hour.
EVENTS: dict[str, tuple[float, float]] = {
    "node_crash": (1, 12),
    "node_restart": (1, 6),
    "node_pause": (1, 12),
    "clock_step": (1, 6),
    "clock_drift": (1, 6),
    "vendor_outage": (1, 4),
    "vendor_misconfigured": (0.5, 2),
    "receiver_outage": (1, 4),
    "storm": (1, 4),
    "half_open": (2, 20),
    "one_way": (2, 20),
    "slow_reader": (2, 20),
    "said_again": (4, 60),  # what a device said before another session or store of it
    "upgrade": (4, 60),
    "downgrade": (1, 20),
    "wipe": (1, 20),
    "restored_backup": (1, 20),
    "cloned": (0.5, 4),
    "token_rotated": (2, 30),
    "user_switch": (0.5, 6),
    "reinstalled": (0.5, 6),
    "store_restored": (0.3, 1.5),
    "store_away": (1, 6),
    "rotten": (2, 30),
    "preferences": (4, 40),
    "members": (4, 40),
    "renamed": (1, 12),
    "erased": (1, 8),
}
KINDS = (*SITES, *EVENTS)


class Faults:
    """The faults of one run. `rates` stand in place of drawn ones; `without` takes kinds out, for shrinking; `heal` ends all."""

    def __init__(self, draws: Draws, without: Collection[str] = (), rates: Mapping[str, float] | None = None) -> None:
        self._draws = draws
        self.healed = False
        self.fired: Counter[str] = Counter()
        self.rates: dict[str, float] = {}
        for kind, (low, high) in (SITES | EVENTS).items():
            swarm = draws.ids(f"swarm/{kind}")  # its own: a further kind leaves the others of a seed as they are
            on, rate = swarm.random() < SHARE_ON, swarm.uniform(low, high)
            if on:
                self.rates[kind] = rate
        self.rates = {kind: rate for kind, rate in (self.rates | dict(rates or {})).items() if kind not in without}

    def strikes(self, kind: str) -> bool:
        """Whether this fault happens at this site now."""
        rate = self.rates.get(kind)
        if rate is None or self.healed or not self._draws.stream(f"fault/{kind}").chance(rate):
            return False
        self.fired[kind] += 1
        return True

    def wait_s(self, kind: str) -> float | None:
        """How long until this one comes next; None: never in this run."""
        rate = self.rates.get(kind)
        return None if not rate else self._draws.stream(f"event/{kind}").after_s(3600 / rate)

    def happened(self, kind: str) -> None:
        self.fired[kind] += 1

    def heal(self) -> None:
        self.healed = True
