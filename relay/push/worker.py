"""The dispatcher: plans due jobs, calls vendors, settles. The rows are the queue; this only holds claims.

Killed at any point it loses nothing: a claim ends by itself, and its job is due again.
"""

import asyncio
import random

import structlog
from msgspec.structs import replace

from providers.contract import Outcome, Scope, Verdict
from relay.backoff import backoff_ms
from relay.clock import Clock
from relay.errors import Problem
from relay.inbox.locked import PolicyOf
from relay.push.accounts import Account, Accounts
from relay.push.attempts import Attempt, by_new_name, still_needed
from relay.push.calendar import day_of
from relay.push.calls import Calls, Told
from relay.push.limits import pause_ms
from relay.push.planning import Planned, plan_due
from relay.push.rules import BROKE, CALLS_SHARE, MISCONFIGURED_MS, Result, Then, of_a_sort
from relay.push.settling import Settlement, settle
from relay.store import queue as job_rows
from relay.store.engine import Conn, Engine
from relay.store.vault import OpenToken
from relay.waiting import first_of

log = structlog.get_logger("relay.push")

BATCH_USERS = 128  # users looked at in one PLAN: what a commit and its statements cost is shared by so many
POLL_S = 1.0
IN_FLIGHT_MAX = 512  # attempts at once, over all accounts; or as many as their shares together
DRAIN_S = 15.0  # after a stop, for calls under way
FIRST_RETRY_MS, RETRY_MS_MAX = 2_000, 300_000
BRAKED_MS = 3_600_000  # while so many tokens are called dead that none is believed
HELD_MS = 1_000  # until PLAN looks at what else the device may be told: the held sort itself waits longer


class PushWorker:
    """One node's dispatcher."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        rng: random.Random,
        accounts: Accounts,
        policy_of: PolicyOf,
        *,
        node_id: str,
        open_token: OpenToken,
        told: Told = lambda *_: None,
        boot_ms: int = 0,
        drain_s: float = DRAIN_S,
        poll_s: float = POLL_S,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._rng = rng
        self._accounts = accounts
        self._policy_of = policy_of
        self._owner = node_id
        self._calls = Calls(clock, rng, accounts, open_token=open_token, told=told)
        self._boot_ms = boot_ms
        self._drain_s = drain_s
        self._poll_s = poll_s
        self._woken = asyncio.Event()
        self._wake_at_ms: int | None = None
        self._in_flight: set[asyncio.Task[None]] = set()
        self._calling: set[asyncio.Task[None]] = set()  # of these, who wait for a vendor
        self._suspects: dict[asyncio.Task[None], int] = {}  # of these, who may end the process; how often each was lost
        self._began = False
        self._cutting = False

    @property
    def load(self) -> tuple[int, int]:
        """Attempts under way, and how many may be."""
        return len(self._in_flight), self._in_flight_max

    @property
    def _in_flight_max(self) -> int:
        """So many that calls which hang, of however many accounts, leave the others their places."""
        return max(IN_FLIGHT_MAX, sum(one.terms.concurrency for one in self._accounts.all()))

    def nudge(self, due_ms: int | None) -> None:
        """A hint that something will be due then; the poll finds it all the same."""
        if due_ms is not None and (self._wake_at_ms is None or due_ms < self._wake_at_ms):
            self._wake_at_ms = due_ms
            self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Works until asked to stop; then takes no more, and gives what is in flight its time to end."""
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                try:
                    busy = await self._round(group)
                except Problem as problem:  # the store is away: say so once a round, and come again
                    log.warning("push.store_unavailable", code=problem.code)
                    busy = False
                if not busy:
                    await self._rest(stop)
            await self._drain()

    async def _drain(self) -> None:
        """Lets go of calls that take too long: their jobs are due again at once, as if they had not been tried."""
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=self._drain_s)
        self._cutting = True
        for task in list(self._calling):
            task.cancel()

    async def _round(self, group: asyncio.TaskGroup) -> bool:
        room = min(BATCH_USERS, self._in_flight_max - len(self._in_flight))
        if room <= 0:
            return False
        self._wake_at_ms = None
        if not self._began:
            await self._engine.write(lambda conn, now_ms: job_rows.free_orphans(conn, now_ms, owner=self._owner))
            self._began = True
        planned, planned_ms = await self._engine.write(lambda conn, now_ms: self._plan(conn, now_ms, room))
        self._accounts.learn(planned.known, self._clock.now_ms())
        for one in planned.quarantined:
            log.error(
                "push.quarantined",
                app=one.device.app_id,
                user=one.device.user_id,
                device=one.device.device_id,
                account=one.account,
                reason=None if one.error is None else type(one.error).__name__,
            )
        if planned.attempts:
            needed = await self._engine.read(lambda conn, now_ms: still_needed(conn, now_ms, planned.attempts))
            for attempt, is_needed in zip(planned.attempts, needed, strict=True):
                until_ms = planned_ms + int((attempt.claim_until_ms - attempt.started_ms) * CALLS_SHARE)
                work = self._attempt(attempt, needed=is_needed, until_ms=until_ms)
                task = group.create_task(work, name="push-attempt")
                self._in_flight.add(task)
                if attempt.lost:
                    self._suspects[task] = attempt.lost
                task.add_done_callback(self._ended)
        return planned.looked >= room or planned.suspected > 0

    def _plan(self, conn: Conn, now_ms: int, limit: int) -> tuple[Planned, int]:
        """What PLAN found, and when, by the monotonic clock."""
        monotonic_ms = self._clock.monotonic_ms()
        planned = plan_due(
            conn,
            now_ms,
            self._policy_of,
            lambda app_id: self._accounts.views(app_id, monotonic_ms, now_ms),
            owner=self._owner,
            limit=limit,
            boot_ms=self._boot_ms,
            suspects=tuple(self._suspects.values()),
            turn=self._accounts.turn,
        )
        return planned, monotonic_ms

    async def _rest(self, stop: asyncio.Event) -> None:
        """Until a hint falls due, a poll is due, or the end."""
        wait_s = self._poll_s
        if self._wake_at_ms is not None:
            wait_s = min(wait_s, max(0.0, (self._wake_at_ms - self._clock.now_ms()) / 1000))
        self._woken.clear()
        if wait_s <= 0:
            return
        await first_of(stop, self._woken, within_s=wait_s)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._in_flight.discard(task)
        self._suspects.pop(task, None)
        self._woken.set()

    async def _attempt(self, attempt: Attempt, *, needed: bool, until_ms: int) -> None:
        account = self._accounts.get(attempt.device.app_id, attempt.send.address.account)
        result = Result(None, uncalled=len(attempt.send.notes))
        if needed and account is not None:
            result = await self._result(account, attempt, until_ms)
        if account is not None and not self._accounts.has(account):
            result = _not_to_blame(result)
        outcome = result.outcome if result.rest is None else result.rest
        now_ms = self._clock.now_ms()
        spare = account is not None and account.brake.holds(self._clock.monotonic_ms(), result.host)
        wait_ms = self._retry_in_ms(account, attempt, outcome, spare=spare)
        then = await self._settle(
            Settlement(
                attempt=attempt,
                result=result,
                retry_ms=now_ms + wait_ms,
                spare=spare,
                passes_on=_is_long(account, outcome, wait_ms),
                held=outcome is not None and of_a_sort(outcome),
                spent=_spent_day(account, outcome, attempt.started_ms),
                counted=_counted_day(account, attempt.started_ms),
            )
        )
        judged_here = then is Then.NEXT_ADDRESS and outcome is not None and outcome.verdict is not Verdict.TOKEN_DEAD
        if account is not None and judged_here:  # of what the vendor itself calls dead, the account has heard
            account.brake.told(self._clock.monotonic_ms(), dead=True, host=result.host)

    async def _result(self, account: Account, attempt: Attempt, until_ms: int) -> Result:
        """What the vendor said; or that we did not wait for it, because we stop."""
        task = asyncio.current_task()
        assert task is not None
        if self._cutting:
            return Result(None, cut_off=True, uncalled=len(attempt.send.notes))
        self._calling.add(task)
        try:
            return await self._calls.make(account, attempt, until_ms=until_ms)
        except asyncio.CancelledError:
            if not self._cutting or task.uncancel() > 0:  # somebody else cancels as well
                raise
            return Result(None, cut_off=True)
        except Exception:  # an adapter's mistake about one push is no reason to leave the others
            log.exception("push.broke", app=account.app_id, account=account.name)
            return Result(BROKE, broke=True)
        finally:
            self._calling.discard(task)

    def _retry_in_ms(self, account: Account | None, attempt: Attempt, outcome: Outcome | None, *, spare: bool) -> int:
        if outcome is None or account is None or outcome.verdict is Verdict.ACCEPTED:
            return 0
        if spare and outcome.verdict is Verdict.TOKEN_DEAD:
            return BRAKED_MS
        if outcome.spent and outcome.scope is Scope.ACCOUNT:
            return 0  # PLAN knows it then, and waits for the day's end or takes another address
        if of_a_sort(outcome):
            return HELD_MS  # likewise; other sorts go
        if outcome.verdict is Verdict.MISCONFIGURED:
            return MISCONFIGURED_MS
        least_ms = int(account.provider.capabilities.retry_s_min * 1000)
        if outcome.retry_after_s is not None:
            wait_ms = max(pause_ms(outcome.retry_after_s), least_ms)
            return wait_ms + self._rng.randint(0, wait_ms // 4)
        wait_ms = backoff_ms(attempt.tries + 1, first_ms=FIRST_RETRY_MS, limit_ms=RETRY_MS_MAX, rng=self._rng)
        return max(wait_ms, least_ms)

    async def _settle(self, settlement: Settlement) -> Then | None:
        try:
            then = await self._engine.write_batched(self._settle_batch, settlement)
            while then is None and (renamed := await self._by_new_name(settlement)) is not None:
                settlement = renamed  # and maybe once more meanwhile
                then = await self._engine.write_batched(self._settle_batch, settlement)
        except Problem as problem:  # the claim ends by itself; the push is planned again
            log.warning("push.not_settled", code=problem.code)
            return None
        log.info(
            "push.settled",
            app=settlement.attempt.device.app_id,
            user=settlement.attempt.device.user_id,
            device=settlement.attempt.device.device_id,
            account=settlement.attempt.send.address.account,
            form=settlement.attempt.send.form,
            verdict=settlement.result.word,
            then=None if then is None else str(then),
        )
        return then if isinstance(then, Then) else None

    async def _by_new_name(self, settlement: Settlement) -> Settlement | None:
        """Else the job, which has gone with its device to the new name, would be planned anew once its claim is over."""
        attempt = await self._engine.read(lambda conn, _: by_new_name(conn, settlement.attempt))
        return None if attempt is None else replace(settlement, attempt=attempt)

    def _settle_batch(self, conn: Conn, now_ms: int, items: list[Settlement]) -> list[object]:
        return list(settle(conn, now_ms, items, self._policy_of))


def _not_to_blame(result: Result) -> Result:
    """The account got new credentials while the vendor refused the old ones: no reason to park it."""
    outcome = result.outcome
    if outcome is None or outcome.verdict is not Verdict.MISCONFIGURED:
        return result
    again = Outcome(verdict=Verdict.RETRY, retry_after_s=1.0, vendor_code=outcome.vendor_code)
    return replace(result, outcome=again, impaired=())


def _is_long(account: Account | None, outcome: Outcome | None, wait_ms: int) -> bool:
    """Whether this address has to wait for so long that the device's next one should have the push."""
    if account is None or outcome is None or outcome.verdict not in {Verdict.RETRY, Verdict.MISCONFIGURED}:
        return False
    limit_ms = account.terms.falls_back_ms
    return limit_ms is not None and wait_ms > limit_ms


def _counted_day(account: Account | None, planned_ms: int) -> str | None:
    """The vendor's day in which PLAN counted the attempt's calls, if it did."""
    if account is None or account.terms.daily_quota is None:
        return None
    return day_of(planned_ms, account.terms.zone)


def _spent_day(account: Account | None, outcome: Outcome | None, asked_ms: int) -> str | None:
    """The vendor's day in which it was asked, if it says that the whole account's quota of it is used up."""
    if account is None or outcome is None or not outcome.spent or outcome.scope is not Scope.ACCOUNT:
        return None
    return day_of(asked_ms, account.terms.zone)
