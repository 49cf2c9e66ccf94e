"""What a cursor is worth: the verdict table of the handshake (protocol 10.2), and when one is too old. All pure."""

from dataclasses import dataclass
from enum import StrEnum

from relay.model import Device, DeviceState


class Verdict(StrEnum):
    """What follows for a device from its handshake."""

    RESUME = "resume"
    DELTA = "delta"
    RESYNC = "resync"


class Reason(StrEnum):
    """Why a cursor was no good."""

    NO_CURSOR = "no_cursor"
    BAD_CURSOR = "bad_cursor"
    EPOCH = "epoch"
    STORE_CHANGED = "store_changed"
    FORKED = "forked"
    STORE_ROLLED_BACK = "store_rolled_back"
    TOO_OLD = "too_old"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a handshake's cursor shows, compared with the rows. `None` cursor fields: there was none, or it was not ours."""

    given: bool
    readable: bool = False
    epoch_same: bool = False
    store_same: bool = False  # cursor's store = stated store = the store we knew
    seq: int = 0
    session: int = 0
    tail_same: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the table says of a handshake."""

    verdict: Verdict
    reason: Reason | None
    acked_seq: int  # what the relay believes from now on
    rebase: bool  # the belief is made anew: rows above are dropped, a new lineage begins
    new_epoch: bool = False


def judge(evidence: Evidence, device: Device, inbox_head: int, inbox_floor: int) -> Judgement:
    """The verdict table of protocol 10.2, first match."""
    start = max(inbox_floor, device.start_seq)

    def resync(reason: Reason, *, new_epoch: bool = False) -> Judgement:
        return Judgement(verdict=Verdict.RESYNC, reason=reason, acked_seq=start, rebase=True, new_epoch=new_epoch)

    if not evidence.given:
        return resync(Reason.NO_CURSOR)
    if not evidence.readable:
        return resync(Reason.BAD_CURSOR)
    if not evidence.epoch_same:
        return resync(Reason.EPOCH)
    if not evidence.store_same:
        return resync(Reason.STORE_CHANGED)
    if evidence.seq > inbox_head or evidence.session > device.session or not evidence.tail_same:
        return resync(Reason.FORKED, new_epoch=True)
    if evidence.session < device.conf_session:
        return resync(Reason.STORE_ROLLED_BACK)
    if evidence.session < device.lineage_session and evidence.seq > device.acked_seq:
        # Another store of this device has shaken hands since: what this one passed, it passed as its own version saw it, and
        # the version that is known now can't judge that.
        return resync(Reason.STORE_ROLLED_BACK)
    if below_floor(evidence.seq, device, inbox_floor):
        return resync(Reason.TOO_OLD)
    if evidence.seq < device.acked_seq:
        # A cursor of an earlier life of this device may lie before the start of this one.
        acked_seq, rebase = max(evidence.seq, device.start_seq), True
    else:
        acked_seq, rebase = evidence.seq, False
    verdict = Verdict.RESUME if acked_seq == inbox_head else Verdict.DELTA
    return Judgement(verdict=verdict, reason=None, acked_seq=acked_seq, rebase=rebase)


def below_floor(seq: int, device: Device, floor: int) -> bool:
    """Whether something that this device should have seen may be gone (protocol 8.5): too old, not merely below."""
    return seq < floor and (device.state is DeviceState.DORMANT or seq < device.acked_seq)
