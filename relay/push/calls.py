"""The calls of one attempt: each of its notifications is handed to the vendor, and what that answers is heard."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import structlog

from providers.contract import Outcome, Push, Scope, Verdict
from relay.clock import Clock
from relay.inbox.push_due import Later
from relay.keys import SealBroken
from relay.push.accounts import Account, Accounts
from relay.push.attempts import Attempt
from relay.push.calendar import is_early, next_day_ms
from relay.push.limits import PAUSE_MS_DEFAULT, pause_ms
from relay.push.notes import Note
from relay.push.payload import push_of, says_the_same_to_all, to_all
from relay.push.rules import BROKE, CALL_S, MISCONFIGURED_MS, NO_ANSWER, Result, known, of_a_sort, worst
from relay.push.sealing import SealKeys
from relay.push.situation import BATCHES, Sort, Wait, channel_of
from relay.store.vault import OpenToken, address_place
from relay.telemetry import traces

log = structlog.get_logger("relay.push")

MIDNIGHT_SPREAD_MS = 600_000  # not everybody at the stroke of the vendor's midnight

Told = Callable[[str, str, str], None]  # (account, provider, verdict)


class Calls:
    """Makes the calls of one process."""

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        accounts: Accounts,
        *,
        open_token: OpenToken,
        told: Told = lambda *_: None,
    ) -> None:
        """`told` hears of each call's verdict."""
        self._clock = clock
        self._rng = rng
        self._accounts = accounts
        self._open_token = open_token
        self._told = told

    @cached_property
    def _seed(self) -> bytes:
        """This process's secret, of which the keys are made that seal what a vendor is not to see."""
        return self._rng.randbytes(32)

    async def make(self, account: Account, attempt: Attempt, *, until_ms: int) -> Result:
        """All notifications of one attempt, one after the other: what a vendor shows first was said first.

        No call goes on after `until_ms`, by the monotonic clock: soon the job is anybody's. What may not have its whole time
        by then is told under the next claim: cut short, it would be said again with all before it.
        """
        outcomes: list[Outcome] = []
        losses: list[str] = []
        impaired: dict[str, None] = {}
        spent: dict[Sort, int] = {}
        address = attempt.send.address
        try:
            sealed_at = address_place(attempt.device, address.account)
            token = self._open_token(sealed_at, address.token_sealed)
            sealed = address.keys_sealed
            keys = None if sealed is None else SealKeys.kept(self._open_token(sealed_at, sealed))
        except SealBroken:
            log.error("seal.broken", app=attempt.device.app_id, account=address.account)  # noqa: TRY400 - no trace
            outcome = Outcome(verdict=Verdict.RETRY, vendor_code="seal_broken")
            return Result(outcome, uncalled=len(attempt.send.notes))
        host = _host(account, token)
        waiting: list[int] = []
        uncalled = len(attempt.send.notes)
        for place, note in enumerate(attempt.send.notes):
            left_ms = until_ms - self._clock.monotonic_ms()
            if left_ms <= 0 and not outcomes:
                return Result(None, cut_off=True, uncalled=uncalled)
            if left_ms < CALL_S * 1000 and outcomes:
                waiting += range(place, len(attempt.send.notes))
                break
            channel = channel_of(note.shows, account.channels)
            if (None, channel) in spent or (address.token_hash, channel) in spent:
                waiting.append(place)  # one before it has heard that today's are used up
                continue
            push = push_of(attempt, note, token, provider=account.provider.name, keys=keys, seed=self._seed)
            losses += _losses(account, push)
            asked_ms = self._clock.now_ms()
            account.started(self._clock.monotonic_ms(), calls=1, retry=attempt.retry)
            uncalled -= 1
            outcome = BROKE
            try:
                with traces.span("push") as tell:
                    outcome = await self._called(account, attempt, push, within_s=min(CALL_S, left_ms / 1000))
                    outcome = _of_the_day_before(account, outcome, asked_ms)
                    if tell is not None:
                        verdict = str(outcome.verdict)
                        tell(name=f"push {account.name}", app=account.app_id, push=note.push_id, verdict=verdict)
            finally:
                was_parked = account.parked
                late = account.mended_times not in {None, attempt.mended}
                account.ended(self._clock.monotonic_ms(), outcome, host=host, late=late)
            if account.parked and not was_parked and self._accounts.has(account):
                log.error("account.parked", app=account.app_id, account=account.name, code=outcome.vendor_code)
            outcome = known(outcome, tries=attempt.tries)
            self._told(account.name, account.provider.name, str(outcome.verdict))
            outcomes.append(outcome)
            now_ms = self._clock.now_ms()
            was_impaired = account.impaired(now_ms)
            if account.judged(address.token_hash, channel, outcome, now_ms=now_ms):
                impaired[outcome.vendor_code or ""] = None
                if was_impaired is None or was_impaired.code != outcome.vendor_code:
                    log.warning("account.impaired", app=account.app_id, account=account.name, code=outcome.vendor_code)
            if outcome.batch_spent:
                until_ms = self._refilled_ms(account, asked_ms)
                account.hold(BATCHES, Wait(at_ms=until_ms, reason=Later.QUOTA), now_ms=now_ms)
                spent[BATCHES] = until_ms
            if of_a_sort(outcome):  # the other notifications may be of one that the vendor takes now
                waiting.append(place)
                sorts, wait = self._hold(account, attempt, note, outcome, asked_ms, in_own_words=bool(push.overrides))
                if outcome.spent:
                    spent |= dict.fromkeys(sorts, wait.at_ms)
            elif outcome.verdict is not Verdict.ACCEPTED:
                if outcome.verdict is Verdict.RETRY:
                    waiting += range(place, len(attempt.send.notes))
                break
        taken = next((one for one in outcomes if one.verdict is Verdict.ACCEPTED), None)
        decides = (
            outcomes[0] if len(outcomes) == 1 else worst([one for one in outcomes if not of_a_sort(one)] or outcomes)
        )
        rest = None
        if taken is not None and decides.verdict is Verdict.RETRY:  # else what was taken would show twice
            decides, rest = taken, decides
        return Result(
            decides,
            partly=taken is not None,
            losses=tuple(dict.fromkeys(losses)),
            impaired=tuple(impaired),
            spent=tuple(spent.items()),
            waiting=tuple(waiting),
            rest=rest,
            uncalled=uncalled,
            host=host,
        )

    async def _called(self, account: Account, attempt: Attempt, push: Push, *, within_s: float) -> Outcome:
        try:
            async with asyncio.timeout(within_s):
                if account.together is None or not says_the_same_to_all(attempt, push):
                    return await account.provider.send(push)
                # Also where it goes alone: a vendor that drops repeats knows one by what it says.
                alike = to_all(push)
                together = None if attempt.lost else account.batches(self._clock.now_ms())
                return await (account.provider if together is None else together).send(alike)
        except TimeoutError:
            return NO_ANSWER

    def _hold(
        self, account: Account, attempt: Attempt, note: Note, outcome: Outcome, asked_ms: int, *, in_own_words: bool
    ) -> tuple[list[Sort], Wait]:
        """`in_own_words`: overrides may have made another sort of it than its channel is, so nobody else's waits for it."""
        now_ms = self._clock.now_ms()
        token_hash = attempt.send.address.token_hash if outcome.scope is Scope.TOKEN or in_own_words else None
        at_ms, why = now_ms + pause_ms(outcome.retry_after_s), Later.HOURS
        if outcome.verdict is Verdict.MISCONFIGURED:
            at_ms, why = now_ms + MISCONFIGURED_MS, Later.BACKOFF
        elif outcome.spent:
            at_ms = self._refilled_ms(account, asked_ms)
            why = Later.QUOTA
        channel = channel_of(note.shows, account.channels)
        wait = Wait(at_ms=at_ms, reason=why)
        sorts: list[Sort] = [(token_hash, channel), *((None, one) for one in outcome.channels)]
        for sort in sorts:
            account.hold(sort, wait, now_ms=now_ms)
        return sorts, wait

    def _refilled_ms(self, account: Account, asked_ms: int) -> int:
        """When there is quota again, of which the vendor has none for what it was asked then."""
        if is_early(asked_ms, account.terms.zone):
            return asked_ms + PAUSE_MS_DEFAULT
        return next_day_ms(asked_ms, account.terms.zone) + self._rng.randint(0, MIDNIGHT_SPREAD_MS)


def _of_the_day_before(account: Account, outcome: Outcome, asked_ms: int) -> Outcome:
    """What is said of the whole account's quota when its day has just begun is no word about this day: it is to wait a moment."""
    if outcome.spent and outcome.scope is Scope.ACCOUNT and is_early(asked_ms, account.terms.zone):
        return replace(outcome, spent=False, retry_after_s=PAUSE_MS_DEFAULT / 1000)
    return outcome


def _host(account: Account, token: str) -> str | None:
    """Where the device is reached, says the adapter, if it has brought that itself."""
    tell = getattr(account.provider, "host", None)
    try:
        return str(tell(token)) if account.hosts is not None and callable(tell) else None
    except Exception:  # a plug-in's mistake
        log.exception("push.host_broke", app=account.app_id, account=account.name)
        return None


def _losses(account: Account, push: Push) -> list[str]:
    """What the vendor will not have of a push, says its adapter: a word for the trace, which never stands in the way."""
    tell = getattr(account.provider, "losses", None)
    try:
        return [str(name) for name in tell(push)] if tell is not None else []
    except Exception:  # a plug-in's mistake
        log.exception("push.losses_broke", app=account.app_id, account=account.name)
        return []
