"""The operator's desk: how the accounts are, who waits for a mended one, and which pushes nobody carries."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
from msgspec.structs import astuple, replace

from relay.clock import Clock
from relay.errors import FieldError, Invalid, Missing
from relay.inbox.locked import PolicyOf, device_in, flush, lock
from relay.list_cursor import Name, parsed, printed
from relay.model import DeviceKey
from relay.push.accounts import Account, Accounts
from relay.push.calendar import day_of
from relay.push.mending import mend
from relay.store import dead, quota
from relay.store import queue as job_rows
from relay.store.dead import REFUSED, RESTS, DeadPush
from relay.store.engine import Conn, Engine
from relay.store.parked import parked_accounts

REQUEUE_MAX = 1000  # devices in one transaction; the rest follows in the next


class DeadPlace(msgspec.Struct, frozen=True, tag="p", array_like=True):
    """After this row of the list of dead pushes, which runs by the names of users, devices and reasons."""

    user_id: Name
    device_id: Name
    why: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatus:
    """An account as this node sees it, with what the store says."""

    name: str
    provider: str
    state: str  # ready, impaired, parked, circuit_open, paused, out_of_hours, quota_used
    code: str | None  # the vendor's word for what an operator must mend
    until_ms: int | None  # when it can go on by itself
    in_flight: int
    rate_per_s: float
    daily_quota: int | None
    sent_today: int | None
    credential_expires_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadPage:
    """A page of the list of dead pushes; `next` is the cursor of the one that follows."""

    pushes: tuple[DeadPush, ...]
    next: str | None


@dataclass(slots=True, kw_only=True)
class PushDesk:
    """What an operator can see of an app's pushes, and set going again."""

    engine: Engine
    clock: Clock
    accounts: Accounts
    policy_of: PolicyOf

    async def statuses(self, app_id: str) -> list[AccountStatus]:
        """Every account of the app, by name."""
        accounts = [account for _, account in sorted(self.accounts.of(app_id).items())]
        now_ms, monotonic_ms = self.clock.now_ms(), self.clock.monotonic_ms()
        days = {account.name: (app_id, account.name, day_of(now_ms, account.terms.zone)) for account in accounts}
        parked, sent = await self.engine.read(
            lambda conn, _: (parked_accounts(conn), quota.sent_on(conn, days.values()))
        )
        return [
            _status(
                account,
                now_ms=now_ms,
                monotonic_ms=monotonic_ms,
                parked=(app_id, account.name) in parked,
                code=parked.get((app_id, account.name)),
                sent=sent[days[account.name]],
            )
            for account in accounts
        ]

    async def unpark(self, app_id: str, name: str) -> int:
        """The account is mended, or has new quota: what rested for it is due again; gives the number. Raises Missing."""
        account = self.accounts.get(app_id, name)
        if account is None:
            known = ", ".join(sorted(self.accounts.of(app_id))) or "none"
            raise Missing(f"There is no such account; there are: {known}.")

        account.mended()  # before what waited is planned anew
        self.accounts.begin_lines(app_id)
        return await mend(self.engine, app_id, [name])

    async def dead(self, app_id: str, *, why: str | None, cursor: str | None, limit: int) -> DeadPage:
        """Devices that are not told of what they lack, in the order of their names. Raises Malformed, Invalid."""
        _check_why(why, "?why")
        after = dead.BEGIN if cursor is None else astuple(parsed(cursor, DeadPlace, app_id=app_id))
        found = await self.engine.read(partial(_listed, app_id, after, why, limit + 1))
        page = found[:limit]
        following = printed(DeadPlace(*page[-1].place), app_id=app_id) if len(found) > limit else None
        return DeadPage(pushes=tuple(page), next=following)

    async def requeue(self, app_id: str, *, device: tuple[str, str] | None = None, why: str | None = None) -> int:
        """Has one device (user, device), or all, told again, of these those that are listed for this reason; gives how many
        are due now.

        What still has no address, or a parked account, comes to rest again. Raises Missing, Invalid.
        """
        _check_why(why, "/why")
        if device is not None:
            key = DeviceKey(app_id, *device)
            if not await self.engine.read(lambda conn, _: dead.is_listed(conn, key, why=why)):
                raise Missing(
                    "This device is not in the list of dead pushes" + ("." if why is None else " for this reason.")
                )
            return await self.engine.write(lambda conn, now_ms: requeue(conn, now_ms, [key], self.policy_of))
        count, after = 0, dead.BEGIN
        while True:
            some = await self.engine.read(partial(_listed, app_id, after, why, REQUEUE_MAX))
            if not some:
                return count
            keys = list(dict.fromkeys(DeviceKey(app_id, one.user_id, one.device_id) for one in some))
            count += await self.engine.write(partial(_requeue, keys, self.policy_of))
            after = some[-1].place


def _listed(app_id: str, after: tuple[str, ...], why: str | None, limit: int, conn: Conn, _: int) -> list[DeadPush]:
    return dead.listed(conn, app_id, after=after, limit=limit, why=why)


def _requeue(keys: Sequence[DeviceKey], policy_of: PolicyOf, conn: Conn, now_ms: int) -> int:
    return requeue(conn, now_ms, keys, policy_of)


def requeue(conn: Conn, now_ms: int, keys: Sequence[DeviceKey], policy_of: PolicyOf) -> int:
    """Under L(u): what was given up counts as not told, and every counter starts anew. Gives how many are due."""
    users = lock(conn, now_ms, {key.user for key in keys}, policy_of)
    begins = dead.ranges(conn, keys)
    for key in keys:
        if (found := device_in(users, key)) is None:
            continue
        locked, device = found
        job = locked.jobs.get(key.device_id)
        if job is None:
            continue
        if key in begins:
            untold = max(device.acked_high, begins[key] - 1)
            locked.put(replace(device, pushed_seq=min(device.pushed_seq, untold)))
        locked.put_job(replace(job, tries=0, retry_ms=None, bare_seq=0))
    dead.drop(conn, list(begins))
    flush(conn, now_ms, users.values())
    jobs = job_rows.jobs_of(conn, list(users))
    requeued = [job for key in keys if (job := jobs.get(key.user, {}).get(key.device_id)) is not None]
    return sum(job.due_ms is not None for job in requeued)


def _status(
    account: Account, *, now_ms: int, monotonic_ms: int, parked: bool, code: str | None, sent: int
) -> AccountStatus:
    view = account.view(monotonic_ms, now_ms).counted(sent)
    state, until_ms = "ready", None
    impaired = account.impaired(now_ms)
    if parked:
        state = "parked"
    elif view.shut_until_ms > now_ms:
        state, until_ms = ("quota_used" if view.shut_why == "quota" else "out_of_hours"), view.shut_until_ms
    elif account.circuit.open:
        state = "circuit_open"
    elif view.closed_for_ms > 0:
        state, until_ms = "paused", now_ms + view.closed_for_ms
    elif impaired is not None:
        state = "impaired"
    return AccountStatus(
        name=account.name,
        provider=account.provider.name,
        state=state,
        code=code if parked else None if impaired is None else impaired.code,
        until_ms=until_ms,
        in_flight=account.in_flight,
        rate_per_s=round(account.bucket.rate(monotonic_ms), 3),
        daily_quota=account.terms.daily_quota,
        sent_today=None if account.terms.daily_quota is None else min(sent, account.terms.daily_quota),
        credential_expires_ms=account.credential_expires_ms,
    )


def _check_why(why: str | None, pointer: str) -> None:
    known = (REFUSED, *RESTS)
    if why is not None and why not in known:
        raise Invalid("There is no such reason.", errors=(FieldError(pointer, "value", f"one of {', '.join(known)}"),))
