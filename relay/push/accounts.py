"""Configured vendor accounts: the provider behind each, and what holds it back at this moment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from providers.contract import Outcome, Provider, Scope, Verdict
from relay.push.limits import Brake, Bucket, Circuit, RetryBudget, pause_ms
from relay.push.planner import AccountView


@dataclass(slots=True, kw_only=True)
class Account:
    """One set of credentials of an app, with its share of the relay: nothing here is shared with another account."""

    app_id: str
    name: str
    provider: Provider
    bucket: Bucket
    concurrency: int = 100
    private: bool = False
    parked_code: str | None = None
    parked: bool = False
    circuit: Circuit = field(default_factory=Circuit)
    brake: Brake = field(default_factory=Brake)
    budget: RetryBudget = field(default_factory=RetryBudget)
    in_flight: int = 0
    _paused_until_ms: int = 0

    def view(self, now_ms: int) -> AccountView:
        """What the planner may use now. `now_ms` is monotonic."""
        closed_ms = max(self.circuit.closed_for_ms(now_ms), self._paused_until_ms - now_ms, 0)
        free = min(self.concurrency - self.in_flight, self.bucket.available(now_ms))
        if self.circuit.open:
            free = min(free, 1)  # one probe
        return AccountView(
            capabilities=self.provider.capabilities,
            parked=self.parked,
            closed_for_ms=closed_ms,
            free=free,
            wait_ms=max(self.bucket.wait_ms(), 50),
            private=self.private,
        )

    def started(self, now_ms: int, *, calls: int, retry: bool) -> None:
        self.in_flight += calls
        self.bucket.take(now_ms, calls)
        self.circuit.probe(now_ms)
        if not retry:
            self.budget.first_attempt()

    def ended(self, now_ms: int, outcome: Outcome) -> None:
        """Learns from one call's outcome."""
        self.in_flight -= 1
        match outcome.verdict:
            case Verdict.RETRY if outcome.retry_after_s is not None or outcome.scope is not Scope.MESSAGE:
                if outcome.scope is Scope.ACCOUNT:
                    until_ms = now_ms + pause_ms(outcome.retry_after_s)
                    self._paused_until_ms = max(self._paused_until_ms, until_ms)  # calls under way may be told less
                if outcome.scope is not Scope.TOKEN:
                    self.circuit.failed(now_ms)
            case Verdict.RETRY:
                self.circuit.failed(now_ms)
            case Verdict.MISCONFIGURED if outcome.scope is Scope.ACCOUNT:
                self.parked, self.parked_code = True, outcome.vendor_code
            case _:
                self.circuit.succeeded(now_ms)
                self.brake.told(now_ms, dead=outcome.verdict is Verdict.TOKEN_DEAD)

    def mended(self) -> None:
        self.parked, self.parked_code = False, None
        self.circuit = Circuit()


class Accounts:
    """All accounts, by app and name."""

    def __init__(self, accounts: Iterable[Account]) -> None:
        self._accounts: dict[str, dict[str, Account]] = {}
        for account in accounts:
            self._accounts.setdefault(account.app_id, {})[account.name] = account

    def of(self, app_id: str) -> Mapping[str, Account]:
        return self._accounts.get(app_id, {})

    def get(self, app_id: str, name: str) -> Account | None:
        return self.of(app_id).get(name)

    def all(self) -> list[Account]:
        return [account for some in self._accounts.values() for account in some.values()]

    def views(self, app_id: str, now_ms: int) -> dict[str, AccountView]:
        return {name: account.view(now_ms) for name, account in self.of(app_id).items()}

    async def aclose(self) -> None:
        for account in self.all():
            await account.provider.aclose()
