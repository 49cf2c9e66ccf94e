"""Groups: who is a member, in versions. A message goes to the members of the moment at which it was accepted.

An ultra group has any number of members, for its messages stand in one timeline that all of them read (protocol 12.5).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relay.errors import FieldError, Invalid, Missing
from relay.inbox.cursor import INBOX
from relay.model import UserKey
from relay.store import groups as rows
from relay.store import inbox as inbox_rows
from relay.store.engine import Conn, Engine
from relay.store.groups import GROUP, TELL_ALL
from relay.store.room import HasRoom
from relay.store.timelines import ULTRA

MEMBERS_MAX = 1000
MENTIONS = "mentions"
DISSOLVED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """How a group stands after a change. The version rises with each change that changed something."""

    version: int
    members: int
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupService:
    """The groups of all apps: each method is one transaction, or one reading."""

    engine: Engine
    room: HasRoom
    new_epoch: Callable[[], str]

    async def change(
        self,
        app_id: str,
        group: str,
        *,
        add: Sequence[str],
        remove: Sequence[str],
        ultra: bool = False,
        notify: str | None = None,
    ) -> Membership:
        """Raises Missing for an unknown group that nobody is added to, Invalid for one that would be too large."""
        self.room.for_others()
        return await self.engine.write(
            lambda conn, _: change(
                conn,
                app_id=app_id,
                group=group,
                add=add,
                remove=remove,
                new_epoch=self.new_epoch,
                ultra=ultra,
                notify=notify,
            )
        )

    async def set_notify(self, user: UserKey, group: str, level: str) -> None:
        """What a member of an ultra group is told of. Raises Missing, Invalid."""
        await self.engine.write(lambda conn, _: set_notify(conn, user.app_id, group, user.user_id, level))

    async def members(self, app_id: str, group: str, *, after: str, limit: int) -> tuple[list[str], bool]:
        """Members with names after that one, and whether there are more. Raises Missing."""
        return await self.engine.read(lambda conn, _: members(conn, app_id, group, after=after, limit=limit))

    async def has(self, group: str, user: UserKey) -> bool:
        """Whether the user is a member."""
        return await self.engine.read(lambda conn, _: is_member(conn, user, group))

    async def dissolve(self, app_id: str, group: str) -> None:
        """Raises Missing."""
        while await self.engine.write(lambda conn, _: dissolve(conn, app_id, group)):
            pass


def change(
    conn: Conn,
    app_id: str,
    group: str,
    *,
    add: Sequence[str],
    remove: Sequence[str],
    new_epoch: Callable[[], str],
    ultra: bool = False,
    notify: str | None = None,
) -> Membership:
    """Adds and removes members, in one version; whoever is one already, or none, stays so. Raises Missing, Invalid.

    `ultra`: from now on its messages stand in a shared timeline; there is no way back. `notify`: what those who join are
    told of; of a plain group everything, since it reaches their inboxes anyway.
    """
    if ultra and group == INBOX:
        raise Invalid(
            f"A shared timeline cannot be called {INBOX!r}; give the group another id.",
            errors=(FieldError("/type", "conflict", "does not go with this id"),),
        )
    if add:
        rows.make_group(conn, app_id, group, type_=ULTRA if ultra else GROUP, epoch=new_epoch())
    known = rows.lock_group(conn, app_id, group)
    if known is None:
        raise Missing("There is no such group.")
    readers: list[str] = []  # who may have read the conversation in inboxes
    if ultra and known.type != ULTRA:
        rows.set_type(conn, app_id, group, ULTRA)
        known = known._replace(type=ULTRA)
        readers = rows.members(conn, app_id, group, limit=MEMBERS_MAX)
    if notify is not None and known.type != ULTRA:
        raise Invalid(
            "Whoever is in a plain group receives all of it; the user's preferences say what it is told of.",
            errors=(FieldError("/notify", "conflict", "leave it out; it goes with an ultra group"),),
        )
    there = rows.members_among(conn, app_id, group, {*add, *remove})
    gone = [user for user in dict.fromkeys(remove) if user in there]
    new = [user for user in dict.fromkeys(add) if user not in there]
    count = rows.count(conn, app_id, group) + len(new) - len(gone)
    if count > MEMBERS_MAX and known.type != ULTRA:
        raise Invalid(
            f"A group may have {MEMBERS_MAX} members; one of type ultra any number.",
            code="too_many_recipients",
            errors=(FieldError("/add", "too_long", f"leaves the group with {count} members"),),
        )
    if known.type == ULTRA and not known.head_seq:
        known = known._replace(head_seq=rows.begin_numbers(conn, app_id, group, [*readers, *new]))
    version = known.members_version + 1 if new or gone else known.members_version
    if gone:
        rows.end(conn, app_id, group, gone, version=version, seq=known.head_seq)
    if new:
        level = notify or (MENTIONS if known.type == ULTRA else TELL_ALL)
        rows.add(conn, app_id, group, new, version=version, seq=known.head_seq, notify=level)
        if known.type == ULTRA:
            _forget_other_numbers(conn, app_id, group, new, seq=known.head_seq)
    if version != known.members_version:
        rows.set_version(conn, app_id, group, version)
    return Membership(version=version, members=count, type=known.type)


def _forget_other_numbers(conn: Conn, app_id: str, group: str, users: Sequence[str], *, seq: int) -> None:
    """Who joins a timeline that has entries may have read the conversation by the numbers of its inbox, further than these
    are by now: what is posted up to there would count as read, and nobody be told."""
    if ahead := rows.read_ahead(conn, app_id, group, users, seq=seq):
        inbox_rows.lock_inboxes(conn, [UserKey(app_id, user) for user in ahead])
        rows.bound_markers(conn, app_id, group, ahead, seq=seq)


def set_notify(conn: Conn, app_id: str, group: str, user: str, level: str) -> None:
    """What a member of an ultra group is told of: `all`, or `mentions`. Raises Missing, Invalid."""
    known = rows.lock_group(conn, app_id, group)
    if known is None or not rows.members_among(conn, app_id, group, [user]):
        raise Missing("There is no such group, or the user is no member of it.")
    if known.type != ULTRA:
        raise Invalid(
            "This is a plain group; the user's preferences say what it is told of.",
            errors=(FieldError("/notify", "conflict", "goes with an ultra group"),),
        )
    rows.set_notify(conn, app_id, group, user, level)


def members(conn: Conn, app_id: str, group: str, *, after: str, limit: int) -> tuple[list[str], bool]:
    """Members with names after that one, and whether there are more. Raises Missing."""
    if rows.group_of(conn, app_id, group) is None:
        raise Missing("There is no such group.")
    found = rows.members(conn, app_id, group, after=after, limit=limit + 1)
    return found[:limit], len(found) > limit


def is_member(conn: Conn, user: UserKey, group: str) -> bool:
    return bool(rows.members_among(conn, user.app_id, group, [user.user_id]))


def dissolve(conn: Conn, app_id: str, group: str) -> bool:
    """Ends the membership of some; gives whether there are more. Raises Missing."""
    known = rows.lock_group(conn, app_id, group)
    if known is None:
        raise Missing("There is no such group.")
    some = rows.members(conn, app_id, group, limit=DISSOLVED_AT_ONCE)
    if some:
        version = known.members_version + 1
        rows.end(conn, app_id, group, some, version=version, seq=known.head_seq)
        rows.set_version(conn, app_id, group, version)
    return len(some) == DISSOLVED_AT_ONCE
