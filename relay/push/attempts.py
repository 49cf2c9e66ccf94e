"""One try to push, and the look before it is made (protocol 7.3)."""

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from relay.model import Address, DeviceKey, PushJob
from relay.push.dead_tokens import active
from relay.push.planner import Send
from relay.store import ack_ranges, readers
from relay.store import addresses as address_rows
from relay.store import attempts as attempt_rows
from relay.store import devices as device_rows
from relay.store import entries as entry_rows
from relay.store import inbox as inbox_rows
from relay.store.engine import Conn


class Attempt(Struct, frozen=True, kw_only=True):
    """One try that a worker holds a claim for."""

    device: DeviceKey
    epoch: str
    head_seq: int
    token: int  # the claim's
    knock: bool
    tries: int  # failed ones before this
    retry: bool  # it repeats one that the vendor did not take
    lost: int  # ones in a row before this that a process did not outlive
    started_ms: int
    claim_until_ms: int
    send: Send
    mended: int  # how often its account was, by then

    def holds(self, job: PushJob) -> bool:
        """Whether the claim on the job is this attempt's. Its number rises with each claim, under the user's lock; but who was
        erased and has come back is counted for from the start, and a store that was set back may count again what it gave."""
        of_job = (job.claim_token, job.claim_until_ms)
        return job.claim is not None and of_job == (self.token, self.claim_until_ms)


def still_needed(conn: Conn, now_ms: int, attempts: Sequence[Attempt]) -> list[bool]:
    """For each attempt: the address is still this device's own, and something it tells of still lives and is not acked.

    Without a lock: what changes after this look costs at most one push that the client drops. What it names no more, but
    the device still lacks, is planned again.
    """
    keys = {one.device.user for one in attempts}
    acked_seqs = device_rows.acked_of(conn, keys)
    addresses = address_rows.active_of(conn, keys)
    acks = ack_ranges.ack_ranges(conn, keys)
    reads = readers.reads_of(conn, {one.device.user for one in attempts if one.send.shared})
    alive: dict[str, Mapping[tuple[str, str], Sequence[int]]] = {}
    for app_id in {key.app_id for key in keys}:
        here = [one for one in attempts if one.device.app_id == app_id]
        named = {(one.device.user_id, id_) for one in here for id_ in _named(one)}
        alive[app_id] = entry_rows.alive(conn, now_ms, app_id, named)

    def needed(one: Attempt) -> bool:
        acked_seq, address = acked_seqs.get(one.device), one.send.address
        if acked_seq is None or (one.device, address.account, address.token_hash) not in addresses:
            return False
        if any(
            place not in reads.get(one.device, {}) or reads[one.device][place].acked_seq < upto
            for place, upto in one.send.shared
        ):
            return True
        acked, *_ = acks.get(one.device, ((),))
        seqs = (seq for id_ in _named(one) for seq in alive[one.device.app_id].get((one.device.user_id, id_), ()))
        return any(seq > acked_seq and not any(low <= seq <= high for low, high in acked) for seq in seqs)

    return [needed(one) for one in attempts]


def by_new_name(conn: Conn, one: Attempt) -> Attempt | None:
    """The attempt as one for the same device, whose user was given another name meanwhile, or several; None: it was not.

    Two users of one phone may both have had the name, one after the other: the log goes with the right one.
    """
    address, device = one.send.address, one.device
    found = []
    for key in address_rows.owners_of(conn, device.app_id, account=address.account, token_hash=address.token_hash):
        inbox = inbox_rows.inbox_of(conn, key.user)
        if key.device_id == device.device_id and inbox is not None and device.user_id in inbox.former_names:
            row = attempt_rows.attempt(conn, key, one.token)
            if row is not None and row.started_ms == one.started_ms:
                found.append(key)
    return replace(one, device=found[0]) if len(found) == 1 else None


def left_out_of(one: Attempt, losses: Sequence[str] = ()) -> str:
    """What the vendor does not get of what the attempt shows, as its row has it: with commas between."""
    planned = [what for note in one.send.notes for what in note.left_out]
    return ",".join(dict.fromkeys([*planned, *losses])) if planned or losses else ""


def _named(one: Attempt) -> set[str]:
    return {id_ for note in one.send.notes for id_ in note.ids}


def address_used(addresses: Sequence[Address], used: Address) -> Address | None:
    """The device's own active address with the token that an attempt uses, if it still has it."""
    return active(addresses, account=used.account, token_hash=used.token_hash)
