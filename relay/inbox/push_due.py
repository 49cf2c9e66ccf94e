"""When a device's push is due, and why it waits or rests (protocol 6.1, 6.4). All pure.

The order of a user's transactions comes from the lock on the inbox row; these functions only say what each of them
decides from the rows it read under that lock.
"""

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct

from relay.model import Address, Device, DeviceState, Policy, PushJob


class Rest(StrEnum):
    """Why a job rests. Each ends by an event that calls `rearm`, or lowers `due_ms`."""

    NOTHING_OWED = "nothing_owed"
    TOLD = "told"
    MUTED = "muted"
    NO_ADDRESS = "no_address"
    ACCOUNT_PARKED = "account_parked"
    QUARANTINED = "quarantined"  # it cannot be planned; an operator must look
    GONE = "gone"


class Later(StrEnum):
    """Why a job that is due waits on."""

    ONLINE = "online"
    LINGER = "linger"
    DEBOUNCE = "debounce"
    ELSEWHERE = "elsewhere"
    GRACE = "grace"  # the relay has just started; devices may be on their way back
    KNOCK = "knock"
    RATE = "rate"
    CIRCUIT = "circuit"
    QUOTA = "quota"  # the account's quota of the day is used up
    HOURS = "hours"  # the vendor takes nothing at this time of day
    BACKOFF = "backoff"
    QUIET_HOURS = "quiet_hours"
    STALE = "stale"  # nobody has heard of the device for long, and its address has had its push of the week


STALE_PUSH_MS = 7 * 86_400_000  # a stale address gets one push in this time: vendors dislike those who push to the dead


def is_stale(device: Device, address: Address, *, policy: Policy, now_ms: int) -> bool:
    """Whether nobody has heard of the device, nor of this token of its, for so long that it may be dead (protocol §5)."""
    heard_ms = max(device.contact_ms, address.registered_ms)
    return not device.online and heard_ms + policy.dormant_ms <= now_ms


TRUSTED_MS = 86_400_000  # an app that trusts its gateway's presence is told by its BYE; this is only a bound


def waits_until(
    device: Device, *, accepted_ms: int, policy: Policy, now_ms: int, elsewhere: bool = False, gateway: bool = False
) -> tuple[int, Later]:
    """Until when a push for an entry accepted then waits, by the table of protocol 6.1, and why.

    `elsewhere`: another device of the user is online in the foreground. `gateway`: somebody else owns the socket.
    """
    extra_ms = policy.elsewhere_ms if elsewhere else 0
    if device.online:
        assert device.online_since_ms is not None
        begin_ms = max(accepted_ms, device.online_since_ms)
        if gateway and policy.trust_presence:
            return begin_ms + TRUSTED_MS, Later.ONLINE
        wait_ms = policy.ack_wait_background_ms if device.background else policy.ack_wait_ms
        until_ms = max(begin_ms, device.progress_ms) + wait_ms + extra_ms
        return min(until_ms, begin_ms + policy.ack_wait_max_ms), Later.ONLINE
    until_ms = accepted_ms + policy.debounce_ms + extra_ms
    reason = Later.ELSEWHERE if elsewhere else Later.DEBOUNCE
    if device.linger_until_ms is not None and device.linger_until_ms > max(now_ms, until_ms):
        return device.linger_until_ms, Later.LINGER
    return until_ms, reason


class Outstanding(Struct, frozen=True, kw_only=True):
    """What a device has not acked and is worth a notification, as far as `rearm` must know it."""

    untold_ms: int | None  # accept time of the oldest entry above `pushed_seq`, or with a step due: W(d) is not empty
    told: bool  # something at or below `pushed_seq`
    seen: bool = False  # of that nothing is to be reminded of: the device has shown it, or it has steps of its own
    muted: bool = False  # something is not worth telling only because the user does not want it


NOTHING = Outstanding(untold_ms=None, told=False)


class Rearmed(Struct, frozen=True, kw_only=True):
    """When a push job is due, and why then; None: it rests, and why."""

    due_ms: int | None
    reason: str | None
    told_ms: int | None


def someone_looks(device: Device, devices: Iterable[Device]) -> bool:
    """Whether another device of the user is online in the foreground."""
    for other in devices:  # noqa: SIM110 - half the time of `any`, and it is asked of each push twice
        if other is not device and other.foreground and other.device_id != device.device_id:
            return True
    return False


def rearm(
    device: Device,
    job: PushJob,
    outstanding: Outstanding,
    *,
    policy: Policy,
    now_ms: int,
    elsewhere: bool,
    gateway: bool,
) -> Rearmed:
    """When the device's push job is due, recomputed from the rows: the only thing that may raise or clear `due_ms`."""
    if device.state is DeviceState.GONE:
        return Rearmed(due_ms=None, reason=Rest.GONE, told_ms=None)
    if outstanding.untold_ms is not None:
        if not device.has_address:
            return Rearmed(due_ms=None, reason=Rest.NO_ADDRESS, told_ms=job.told_ms)
        due_ms, why = waits_until(
            device,
            accepted_ms=outstanding.untold_ms,
            policy=policy,
            now_ms=now_ms,
            elsewhere=elsewhere,
            gateway=gateway,
        )
        return _put_off(job, Rearmed(due_ms=due_ms, reason=why, told_ms=job.told_ms))
    if not outstanding.told:
        reason = Rest.MUTED if outstanding.muted else Rest.NOTHING_OWED
        return Rearmed(due_ms=None, reason=reason, told_ms=None)
    if not device.has_address:
        return Rearmed(due_ms=None, reason=Rest.NO_ADDRESS, told_ms=job.told_ms)
    if device.state is DeviceState.DORMANT or outstanding.seen or job.knock >= len(policy.knocks_ms):
        return Rearmed(due_ms=None, reason=Rest.TOLD, told_ms=job.told_ms)
    told_ms = now_ms if job.told_ms is None else job.told_ms
    due_ms = told_ms + policy.knocks_ms[job.knock]
    return _put_off(job, Rearmed(due_ms=due_ms, reason=Later.KNOCK, told_ms=told_ms))


def _put_off(job: PushJob, found: Rearmed) -> Rearmed:
    """The same, but not before a failed try may be repeated."""
    if found.due_ms is None or job.retry_ms is None or job.retry_ms <= found.due_ms:
        return found
    return Rearmed(due_ms=job.retry_ms, reason=Later.BACKOFF, told_ms=found.told_ms)
