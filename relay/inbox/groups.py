"""Groups: who is a member, in versions. A message goes to the members of the moment at which it was accepted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relay.errors import Invalid, Missing
from relay.model import UserKey
from relay.store import groups as rows
from relay.store.engine import Conn

MEMBERS_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """How a group stands after a change. The version rises with each change that changed something."""

    version: int
    members: int


def change(
    conn: Conn, app_id: str, group: str, *, add: Sequence[str], remove: Sequence[str], new_epoch: Callable[[], str]
) -> Membership:
    """Adds and removes members, in one version; whoever is one already, or none, stays so. Raises Invalid."""
    if add:
        rows.make_group(conn, app_id, group, epoch=new_epoch())
    known = rows.lock_group(conn, app_id, group)
    if known is None:
        raise Missing("There is no such group.")
    there = rows.members_among(conn, app_id, group, {*add, *remove})
    gone = [user for user in dict.fromkeys(remove) if user in there]
    new = [user for user in dict.fromkeys(add) if user not in there]
    count = rows.count(conn, app_id, group) + len(new) - len(gone)
    if count > MEMBERS_MAX:
        raise Invalid(f"A group may have {MEMBERS_MAX} members.", code="too_many_recipients")
    version = known.members_version + 1 if new or gone else known.members_version
    if gone:
        rows.end(conn, app_id, group, gone, version=version, seq=known.head_seq)
    if new:
        rows.add(conn, app_id, group, new, version=version, seq=known.head_seq)
    if version != known.members_version:
        rows.set_version(conn, app_id, group, version)
    return Membership(version=version, members=count)


def members(conn: Conn, app_id: str, group: str, *, after: str, limit: int) -> tuple[list[str], bool]:
    """Members with names after that one, and whether there are more. Raises Missing."""
    if rows.group_of(conn, app_id, group) is None:
        raise Missing("There is no such group.")
    found = rows.members(conn, app_id, group, after=after, limit=limit + 1)
    return found[:limit], len(found) > limit


def is_member(conn: Conn, user: UserKey, group: str) -> bool:
    return bool(rows.members_among(conn, user.app_id, group, [user.user_id]))


def dissolve(conn: Conn, app_id: str, group: str) -> None:
    """Nobody is a member any more. Raises Missing."""
    known = rows.lock_group(conn, app_id, group)
    if known is None:
        raise Missing("There is no such group.")
    everybody = rows.members(conn, app_id, group, limit=MEMBERS_MAX)
    if everybody:
        version = known.members_version + 1
        rows.end(conn, app_id, group, everybody, version=version, seq=known.head_seq)
        rows.set_version(conn, app_id, group, version)
