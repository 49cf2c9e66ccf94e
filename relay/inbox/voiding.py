"""A cursor that we sealed and the rows contradict: numbers were lost, so the inbox begins a new epoch (protocol §4.1)."""

from collections.abc import Callable

from relay.errors import CursorRefused
from relay.inbox.cursor import Cursor, CursorKeys
from relay.inbox.judging import Reason
from relay.inbox.locked import PolicyOf, lock
from relay.inbox.page import check, refused, snapshot
from relay.model import DeviceKey
from relay.store import inbox as inbox_rows
from relay.store.engine import Conn
from relay.store.rollback import SetBackProofs


def proves_loss(problem: CursorRefused) -> bool:
    """Whether a cursor was refused for what it shows of the store, and not of itself."""
    reset = problem.extra.get("resync", {})
    return bool(reset.get("reason") == Reason.FORKED)


def void(
    conn: Conn,
    now_ms: int,
    device: DeviceKey,
    cursor: Cursor,
    policy_of: PolicyOf,
    keys: CursorKeys,
    new_epoch: Callable[[], str],
    proofs: SetBackProofs,
) -> CursorRefused | None:
    """Judges the cursor again under the lock, and begins the new epoch if it still proves a loss.

    Gives why it is refused, with where to begin again; None if it is good after all.
    """
    lock(conn, now_ms, [device.user], policy_of)
    try:
        check(conn, snapshot(conn, device), cursor, keys)
    except CursorRefused as problem:
        if not proves_loss(problem):
            return problem
    else:
        return None
    inbox_rows.set_inbox(conn, device.user, epoch=new_epoch())
    proofs.found(conn, now_ms, device.user)
    return refused(conn, snapshot(conn, device), keys, reason=Reason.FORKED)
