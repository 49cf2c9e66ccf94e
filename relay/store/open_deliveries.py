"""How many deliveries of an app are open: have neither been acked by every device they are for, nor ended."""

from sqlalchemy import Connection, bindparam, case, func, literal_column, select

from relay.store.schema.devices import device
from relay.store.schema.inboxes import inbox, inbox_entry

i, e, d = inbox.c, inbox_entry.c, device.c

_low = (
    select(func.min(d.acked_seq))
    .where(d.app_id == i.app_id, d.user_id == i.user_id, d.state == literal_column("'active'"))
    .scalar_subquery()
)
_behind = i.head_seq - func.coalesce(_low, i.floor_seq)
_kept = i.head_seq - i.floor_seq
_bounds = select(i.app_id, func.sum(case((_behind < _kept, _behind), else_=_kept)).label("bound")).group_by(i.app_id)
_some = (
    select(literal_column("1"))
    .where(
        e.app_id == bindparam("app"),
        e.state == literal_column("'live'"),
        e.expires_ms > bindparam("now"),
        e.completed_ms.is_(None),
        e.kind.in_((literal_column("'message'"), literal_column("'pointer'"))),
    )
    .limit(bindparam("most"))
    .subquery()
)
_live = select(func.count()).select_from(_some)


def open_deliveries(conn: Connection, now_ms: int, *, most: int) -> dict[str, int]:
    """By app; of each, at most `most`. Only above that they are counted: below, a bound will do that costs a look at each
    inbox, how far the slowest active device of its user is behind (protocol 11.4)."""
    found = {row.app_id: int(row.bound) for row in conn.execute(_bounds).all()}
    for app_id, bound in found.items():
        if bound >= most:
            found[app_id] = conn.execute(_live, {"app": app_id, "now": now_ms, "most": most}).scalar_one()
    return found
