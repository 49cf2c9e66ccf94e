"""Did everything arrive in the new version? What a comparison proves, what was never proved, and which versions of an
app look as if they lose their users' messages (protocol 10.4)."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from relay.clock import rfc3339
from relay.errors import FieldError, Invalid
from relay.inbox.comparing import Comparison
from relay.inbox.judging import Reason
from relay.inbox.locked import Locked, PolicyOf, flush, lock
from relay.inbox.reports import tell_device
from relay.model import DeviceKey
from relay.store import inbox as inbox_rows
from relay.store import upgrades as rows
from relay.store.engine import Conn, Engine
from relay.store.events import NewEvent, derived_id, emit
from relay.store.upgrades import REPAIRING, VERIFIED, Outcome, Upgrade

SUSPECT_MIN = 50  # upgrades of a day, before anything is said of a version
SUSPECT_SHARE = 0.02
DAY_MS = 86_400_000
SILENT_MS = 600_000  # without a first ack for so long, although something waits
OUTCOMES_MAX = 20_000  # looked at for one report
_LOST_STORE = frozenset({str(Reason.STORE_CHANGED), str(Reason.NO_CURSOR)})


def known_upgrade(conn: Conn, device: DeviceKey, upgrade_id: str | None) -> Upgrade | None:
    """The upgrade that a comparison is about; without an id the newest, if there was one. Raises Invalid."""
    found = rows.upgrade_of(conn, device, upgrade_id)
    if found is None and upgrade_id is not None:
        raise Invalid(
            "There is no such upgrade of this device.",
            errors=(FieldError("/upgrade", "unknown", "send the id that the handshake answered, or leave it out"),),
        )
    return found


def judge(before: Upgrade, compared: Comparison, now_ms: int, *, mended: bool) -> Upgrade:
    """What is known of an upgrade after one more round.

    Only a comparison of everything proves anything. Differences that were listed are the client's to fetch; a comparison
    of everything that says so (`mended`) shows whether it has. One that does not say so begins anew: the answer to the
    last one may not have arrived.
    """
    after = before._replace(caught_up_ms=before.caught_up_ms or now_ms)
    if before.verify_state in VERIFIED:
        return after
    if compared.whole and compared.same:
        lacked = before.missing_found or before.verify_state in {REPAIRING, "failed"}
        return after._replace(verify_state="repaired" if lacked else "ok")
    if compared.whole and mended and before.verify_state == REPAIRING:
        return after._replace(verify_state="failed")
    lacking = sum(one.lacking for one in compared.ranges)
    found = lacking + (0 if compared.whole else before.missing_found or 0)
    if not lacking:
        return after if before.missing_found is None else after._replace(missing_found=found)
    return after._replace(verify_state=REPAIRING, missing_found=found)


def record(
    conn: Conn,
    now_ms: int,
    policy_of: PolicyOf,
    *,
    device: DeviceKey,
    upgrade_id: str,
    compared: Comparison,
    mended: bool,
) -> str | None:
    """Notes what a round of comparing showed; tells the backend of a verdict, and lets go what was pinned for it."""
    locked = lock(conn, now_ms, [device.user], policy_of).get(device.user)
    before = rows.upgrade_of(conn, device, upgrade_id)
    if locked is None or before is None or device.device_id not in locked.devices:
        return None
    after = judge(before, compared, now_ms, mended=mended)
    if after != before:
        _settle(locked, before, after)
        flush(conn, now_ms, [locked])
    return after.verify_state


def _settle(locked: Locked, before: Upgrade, after: Upgrade) -> None:
    rows.set_upgrade(locked.conn, after)
    if after.verify_state in {before.verify_state, REPAIRING}:
        return
    device = locked.devices[after.device.device_id]
    tell_device(
        locked,
        device,
        "device.upgrade_verified",
        upgrade=after.upgrade_id,
        state=after.verify_state,
        messages=after.missing_found or 0,
        **{"from": after.from_version, "to": after.to_version},
    )
    if after.verify_state in VERIFIED:
        _unpin(locked, after)


def _unpin(locked: Locked, done: Upgrade) -> None:
    """What was pinned for this upgrade may be pruned again, unless another one still waits or somebody pinned longer."""
    pin_ms = locked.policy.upgrade_pin_ms
    waiting_ms = rows.newest_unverified_ms(locked.conn, locked.key)
    if locked.inbox.pinned_until_ms <= done.at_ms + pin_ms:
        until_ms = 0 if waiting_ms is None else waiting_ms + pin_ms
        inbox_rows.set_inbox(locked.conn, locked.key, pinned_until_ms=min(until_ms, locked.inbox.pinned_until_ms))


def tell_extra(conn: Conn, now_ms: int, policy_of: PolicyOf, device: DeviceKey, count: int) -> None:
    """A comparison found messages that only the device has: from before an epoch changed, or by a bug (protocol 8.7)."""
    locked = lock(conn, now_ms, [device.user], policy_of).get(device.user)
    if locked is not None and device.device_id in locked.devices:
        tell_device(locked, locked.devices[device.device_id], "device.extra", messages=count)
        flush(conn, now_ms, [locked])


def give_up(conn: Conn, now_ms: int, policy_of: PolicyOf, *, app_id: str, limit: int) -> int:
    """Upgrades that nobody proved within a day are `missing`; gives how many."""
    before_ms = now_ms - policy_of(app_id).upgrade_verify_ms
    late = rows.overdue(conn, app_id, after_ms=before_ms - 30 * DAY_MS, before_ms=before_ms, limit=limit)
    users = lock(conn, now_ms, {one.device.user for one in late}, policy_of)
    for one in late:
        locked = users.get(one.device.user)
        current = rows.upgrade_of(conn, one.device, one.upgrade_id)
        if current is None or current.verify_state not in {None, REPAIRING}:
            continue
        missing = current._replace(verify_state="missing")
        if locked is not None and one.device.device_id in locked.devices:
            _settle(locked, current, missing)
        else:
            rows.set_upgrade(conn, missing)
    flush(conn, now_ms, users.values())
    return len(late)


# --- per app version --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionReport:
    """How the upgrades to one version went."""

    version: str
    upgrades: int
    verdicts: dict[str, int]
    reasons: dict[str, int]
    verified: dict[str, int]
    messages_repaired: int
    caught_up_s: float | None  # median, from the upgrade to the first comparison
    silent: int  # owed something, and not one ack since
    bad: int
    suspect: bool


def report(outcomes: Iterable[Outcome], now_ms: int) -> list[VersionReport]:
    """One report for each version, the most upgraded to first."""
    by_version: dict[str, list[Outcome]] = {}
    for one in outcomes:
        by_version.setdefault(one.version, []).append(one)
    reports = [_version(version, some, now_ms) for version, some in by_version.items()]
    return sorted(reports, key=lambda one: (-one.upgrades, one.version))


def _version(version: str, some: Sequence[Outcome], now_ms: int) -> VersionReport:
    silent = [one for one in some if one.silent and one.at_ms + SILENT_MS <= now_ms]
    bad = sum(
        one.reason in _LOST_STORE or one.missing_found > 0 or (one.silent and one.at_ms + SILENT_MS <= now_ms)
        for one in some
    )
    waits_s = [(one.caught_up_ms - one.at_ms) / 1000 for one in some if one.caught_up_ms is not None]
    return VersionReport(
        version=version,
        upgrades=len(some),
        verdicts=dict(Counter(one.verdict for one in some)),
        reasons=dict(Counter(one.reason for one in some if one.reason is not None)),
        verified=dict(Counter(one.verify_state or "waiting" for one in some)),
        messages_repaired=sum(one.missing_found for one in some),
        caught_up_s=median(waits_s) if waits_s else None,
        silent=len(silent),
        bad=bad,
        suspect=len(some) >= SUSPECT_MIN and bad > SUSPECT_SHARE * len(some),
    )


def reports(conn: Conn, now_ms: int, app_id: str, *, since_ms: int) -> list[VersionReport]:
    long_ms = now_ms - SILENT_MS
    return report(rows.outcomes(conn, app_id, since_ms=since_ms, owed_since_ms=long_ms, limit=OUTCOMES_MAX), now_ms)


def warn(conn: Conn, now_ms: int, app_id: str) -> list[VersionReport]:
    """Tells the backend of versions that look as if they lose messages: once a day for each. Gives them."""
    suspects = [one for one in reports(conn, now_ms, app_id, since_ms=now_ms - DAY_MS) if one.suspect]
    emit(
        conn,
        now_ms,
        [
            NewEvent(
                app_id=app_id,
                event_id=derived_id("evt_", "app_version.suspect", app_id, one.version, now_ms // DAY_MS),
                type="app_version.suspect",
                data={
                    "app_version": one.version,
                    "at": rfc3339(now_ms),
                    "upgrades": one.upgrades,
                    "bad": one.bad,
                    "reasons": one.reasons,
                    "verified": one.verified,
                    "silent": one.silent,
                },
            )
            for one in suspects
        ],
    )
    return suspects


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeService:
    """What is known of upgrades: each method is one transaction, or one reading. `facts_told`: events were written."""

    engine: Engine
    policy_of: PolicyOf
    facts_told: Callable[[], None] = lambda: None

    async def to_prove(self, device: DeviceKey, upgrade_id: str | None) -> Upgrade | None:
        """The upgrade that a comparison is to prove; None: there was none. Raises Invalid for an unknown id."""
        return await self.engine.read(lambda conn, _: known_upgrade(conn, device, upgrade_id))

    async def prove(self, device: DeviceKey, upgrade_id: str, compared: Comparison, *, mended: bool) -> str | None:
        """Notes a round's outcome; gives what is known of the upgrade by now."""
        state = await self.engine.write(
            lambda conn, now_ms: record(
                conn, now_ms, self.policy_of, device=device, upgrade_id=upgrade_id, compared=compared, mended=mended
            )
        )
        self.facts_told()
        return state

    async def note_extra(self, device: DeviceKey, count: int) -> None:
        """Tells the backend of a device that has messages which it should not have."""
        await self.engine.write(lambda conn, now_ms: tell_extra(conn, now_ms, self.policy_of, device, count))
        self.facts_told()

    async def give_up(self, app_id: str, *, limit: int) -> int:
        """As `give_up` above: at most `limit`."""
        given_up = await self.engine.write(
            lambda conn, now_ms: give_up(conn, now_ms, self.policy_of, app_id=app_id, limit=limit)
        )
        self.facts_told()
        return given_up

    async def versions(self, app_id: str, *, since_ms: int) -> list[VersionReport]:
        """How upgrades since then went, by app version."""
        return await self.engine.read(lambda conn, now_ms: reports(conn, now_ms, app_id, since_ms=since_ms))

    async def warn(self, app_id: str) -> list[VersionReport]:
        """Tells the backend of versions that look as if they lose messages, and gives them."""
        suspects = await self.engine.write(lambda conn, now_ms: warn(conn, now_ms, app_id))
        self.facts_told()
        return suspects
