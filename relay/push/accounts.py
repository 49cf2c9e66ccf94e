"""Configured vendor accounts: the provider behind each, and what holds it back at this moment."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from threading import Lock
from typing import Any

from providers.contract import Outcome, Provider, Scope, Verdict
from providers.loading import OwnedTransport
from relay.errors import FieldError
from relay.inbox.push_due import Later
from relay.push.calendar import Hours, day_of, next_day_ms
from relay.push.hosts import PerHost
from relay.push.limits import Brakes, Bucket, Circuit, Line, RetryBudget, pause_ms
from relay.push.situation import ALL, BATCHES, AccountsKnown, AccountView, Privacy, Quota, Sort, Wait
from relay.push.together import Together

HELD_MAX = 10_000  # sorts of push that wait for their hour; of one forgotten, one more call is made
IMPAIRED_MAX = 1_000  # sorts of push that an operator must mend
IMPAIRED_MS = 86_400_000  # without a further refusal, though such a push is tried hourly: nobody sends any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the operator, or the vendor's contract, says of an account."""

    concurrency: int = 100
    privacy: Privacy = Privacy.FULL
    daily_quota: int | None = None
    hours: Hours | None = None  # of the day in which the vendor takes pushes; None: all
    zone: tzinfo = UTC  # by which its days and hours go
    falls_back_ms: int | None = 60_000
    challenge: bool = False  # an address counts only once its device has proven it


@dataclass(frozen=True, slots=True)
class Impaired:
    """What the vendor has against a sort of push: `code` is its word, `at_ms` the last time."""

    code: str | None
    at_ms: int


@dataclass(slots=True, kw_only=True)
class Account:
    """One set of credentials of an app, with its share of the relay: nothing here is shared with another account."""

    app_id: str
    name: str
    provider: Provider
    transport: OwnedTransport | None = None  # which the provider speaks through; closed with it
    hosts: PerHost | None = None  # what holds back each of the hosts that devices bring
    bucket: Bucket
    terms: Terms = Terms()
    together: Together | None = None  # the way of pushes that may share a call, if any may
    trust_ends_ms: int | None = None  # of the authorities that its settings name
    strangers: bool = False  # devices choose any host: what one of these refuses is its owner's to mend
    parked_code: str | None = None
    parked: bool = False  # as last seen; PLAN reads the truth from the store
    mended_times: int | None = None  # how often, as last heard
    circuit: Circuit = field(default_factory=Circuit)
    brake: Brakes = field(default_factory=Brakes)
    budget: RetryBudget = field(default_factory=RetryBudget)
    channels: Collection[str] | None = field(init=False)  # that its settings tell apart; None: each, see `channel_of`
    line: Line = field(init=False)
    urgent_line: Line = field(init=False)  # so that many urgent ones are not all looked at together, either
    in_flight: int = 0
    _paused_until_ms: int = 0
    _holding: Lock = field(default_factory=Lock)
    _held: dict[Sort, Wait] = field(default_factory=dict)  # whose wait ends first comes first, more or less
    _impaired: dict[Sort, Impaired] = field(default_factory=dict)  # the oldest first

    def __post_init__(self) -> None:
        self.line, self.urgent_line = (Line(gap_ms=1000 / self.bucket.rate_per_s) for _ in range(2))
        named = getattr(self.provider, "channels", None)
        self.channels = named if isinstance(named, Collection) else None  # a plug-in may mean something else by it

    def view(self, monotonic_ms: int, now_ms: int) -> AccountView:
        """What the planner may use now, but for what the store knows (parked, quota): see `Ledger`."""
        terms = self.terms
        closed_ms = max(self.circuit.closed_for_ms(monotonic_ms), self._paused_until_ms - monotonic_ms, 0)
        free = min(terms.concurrency - self.in_flight, self.bucket.available(monotonic_ms))
        if self.circuit.open:
            free = min(free, 1)  # one probe
        return AccountView(
            capabilities=self.provider.capabilities,
            parked=self.parked,
            mended=self.mended_times,
            closed_for_ms=closed_ms,
            ill_for_ms=self.circuit.open_for_ms(monotonic_ms),
            shut_until_ms=now_ms if terms.hours is None else terms.hours.opens_ms(now_ms, terms.zone),
            shut_why=Later.HOURS,
            falls_back_ms=terms.falls_back_ms,
            free=free,
            retries=self.budget.left(monotonic_ms),
            wait_ms=max(self.bucket.wait_ms(), 50),
            privacy=terms.privacy,
            quota=Quota(
                limit=terms.daily_quota,
                day=day_of(now_ms, terms.zone),
                ends_ms=next_day_ms(now_ms, terms.zone),
            ),
            held=self._held,
            channels=self.channels,
        )

    @property
    def remembered(self) -> dict[str, tuple[int, int]]:
        """What is kept of sorts of push and of hosts, and how much of it at most; by a name for the metrics."""
        return {
            "push_held": (len(self._held), HELD_MAX),
            "push_impaired": (len(self._impaired), IMPAIRED_MAX),
            "push_hosts": (0, 0) if self.hosts is None else self.hosts.remembered,
            "push_braked_hosts": (0, 0) if self.hosts is None else self.brake.remembered,
        }

    @property
    def credential_expires_ms(self) -> int | None:
        """When the provider's credential ends, if it knows (a certificate does, a key does not), or what the account trusts."""
        tell = getattr(self.provider, "credential_expires_s", None)
        expires_s = tell() if callable(tell) else None
        ends_ms = (None if expires_s is None else int(expires_s * 1000), self.trust_ends_ms)
        return min((one for one in ends_ms if one is not None), default=None)

    def started(self, now_ms: int, *, calls: int, retry: bool) -> None:
        self.in_flight += calls
        self.bucket.owe(now_ms, calls)
        self.circuit.probe(now_ms)
        self.budget.called(now_ms, retry=retry)

    def ended(self, now_ms: int, outcome: Outcome, *, host: str | None = None, late: bool = False) -> None:
        """Learns from one call's outcome. `host`: the one that the device has brought, if it has. `late`: the account was
        mended since the call was planned."""
        self.in_flight -= 1
        match outcome.verdict:
            case Verdict.REFUSED | Verdict.TOO_LARGE if outcome.local:
                self.circuit.unasked(now_ms)
            case Verdict.RETRY if outcome.local:
                pass  # the one whose call it shared is counted
            case Verdict.RETRY if (
                outcome.spent or outcome.batch_spent
            ):  # nobody is ill and nothing too fast; SETTLE notes the day's end
                self.circuit.succeeded(now_ms)
            case Verdict.RETRY if outcome.shut:
                pass  # of one sort of push; and the vendor need not have been asked
            case Verdict.RETRY if outcome.retry_after_s is not None or outcome.scope is not Scope.MESSAGE:
                if outcome.scope is Scope.ACCOUNT:
                    self.bucket.too_many(now_ms)
                    until_ms = now_ms + pause_ms(outcome.retry_after_s)
                    self._paused_until_ms = max(self._paused_until_ms, until_ms)  # calls under way may be told less
                if outcome.scope is not Scope.TOKEN:
                    self.circuit.failed(now_ms)
            case Verdict.RETRY:
                self.circuit.failed(now_ms)
            case Verdict.MISCONFIGURED if outcome.scope is Scope.ACCOUNT:
                if not late:
                    self.parked, self.parked_code = True, outcome.vendor_code
            case _:
                self.circuit.succeeded(now_ms)
                self.brake.told(now_ms, dead=outcome.verdict is Verdict.TOKEN_DEAD, host=host)

    def hold(self, sort: Sort, wait: Wait, *, now_ms: int) -> None:
        """The vendor takes this sort of push later; all others it takes now."""
        with self._holding:  # receipts say so in the store's thread
            if len(self._held) >= HELD_MAX:
                kept = [one for one in self._held.items() if one[1].at_ms > now_ms]
                room = max(1, HELD_MAX // 10)  # for many, so that not each of them looks at all
                self._held = dict(kept[max(0, len(kept) + room - HELD_MAX) :])
            self._held[sort] = wait

    def batches(self, now_ms: int) -> Together | None:
        """The way of pushes that may share a call, unless the vendor takes no more such calls today."""
        held = self._held.get(BATCHES)
        return None if held is not None and held.at_ms > now_ms else self.together

    def judged(self, token_hash: bytes, channel: str | None, outcome: Outcome, *, now_ms: int) -> bool:
        """Notes whether the vendor takes pushes of this channel, and of this device, and has nothing against them.

        Whether an operator is to hear of this one: it shows a mistake of our set-up that is less than the whole account's
        (which parks), or the adapter says so.
        """
        taken = outcome.verdict is Verdict.ACCEPTED
        if taken and not outcome.alert and not self._impaired:
            return False
        sorts: dict[Scope, Sort] = {Scope.MESSAGE: (None, channel), Scope.TOKEN: (token_hash, None), Scope.ACCOUNT: ALL}
        if taken:
            for one in sorts.values():
                self._impaired.pop(one, None)
        in_part = outcome.verdict is Verdict.MISCONFIGURED and outcome.scope is not Scope.ACCOUNT
        if self.strangers or not (in_part or outcome.alert):
            return False
        sort = sorts[outcome.scope]
        self._impaired.pop(sort, None)
        if len(self._impaired) >= IMPAIRED_MAX:
            del self._impaired[next(iter(self._impaired))]
        self._impaired[sort] = Impaired(outcome.vendor_code, now_ms)
        return True

    def impaired(self, now_ms: int) -> Impaired | None:
        """The newest of what an operator has to mend; None: nothing, as far as this node knows."""
        newest = next(reversed(self._impaired.values()), None)
        return None if newest is None or now_ms - newest.at_ms > IMPAIRED_MS else newest

    async def aclose(self) -> None:
        await self.provider.aclose()
        if self.transport is not None:
            await self.transport.aclose()

    def mended(self) -> None:
        self.parked, self.parked_code = False, None
        self.circuit = Circuit()
        self._paused_until_ms = 0
        self._held = {}
        self._impaired = {}


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

    def has(self, account: Account) -> bool:
        """Whether it is still the one of its name: with new credentials it is another."""
        return self.get(account.app_id, account.name) is account

    def all(self) -> list[Account]:
        return [account for some in self._accounts.values() for account in some.values()]

    def views(self, app_id: str, monotonic_ms: int, now_ms: int) -> dict[str, AccountView]:
        return {name: account.view(monotonic_ms, now_ms) for name, account in self.of(app_id).items()}

    def turn(self, app_id: str, name: str, wait: Wait) -> int:
        """When a push that waits for this account is looked at again."""
        account = self.get(app_id, name)
        if account is None:
            return wait.at_ms
        return (account.urgent_line if wait.urgent else account.line).turn(wait.at_ms)

    def begin_lines(self, app_id: str) -> None:
        """All that waits for the app's accounts is planned now: the turns that it had are nobody's any more."""
        for account in self.of(app_id).values():
            account.line.begin_anew()
            account.urgent_line.begin_anew()

    def check_overrides(self, app_id: str, field: str, overrides: Mapping[str, Mapping[str, Any]]) -> list[FieldError]:
        """Mistakes in a send's overrides, by the providers they are for. `field`: where in the body they are."""
        providers = {one.provider.name: type(one.provider) for one in self.of(app_id).values()}
        errors = []
        for name, own in overrides.items():
            pointer = f"/{field}/overrides/{name}"
            if name not in providers:
                errors.append(FieldError(pointer, "unknown", "no account of this provider is configured"))
            else:
                errors += [FieldError(pointer, "invalid", text) for text in providers[name].check_overrides(own)]
        return errors

    def exchange(self, app_id: str, new: Mapping[str, Account], gone: Iterable[str]) -> list[Account]:
        """Takes these in place of those of the same names, and lets others go; gives what was replaced or went."""
        mine = self._accounts.setdefault(app_id, {})
        before = [mine.pop(name) for name in (*new, *gone) if name in mine]
        mine.update(new)
        return before

    def learn(self, known: AccountsKnown, now_ms: int) -> None:
        """What the store says of them. One that was mended, be it by way of another node, starts with a clean circuit."""
        for account in self.all():
            key = (account.app_id, account.name)
            if key in known.held:
                account.mended()
                for sort, wait in known.held.get(key, {}).items():
                    account.hold(sort, wait, now_ms=now_ms)
            if key in known.held or account.mended_times is None:
                account.mended_times = known.mended.get(key, 0)
            account.parked, account.parked_code = key in known.parked, known.parked.get(key)

    async def aclose(self) -> None:
        for account in self.all():
            await account.aclose()
