"""Groups of a backend: who is in them, as far as the backend can be sure (protocol 12.6)."""

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from .loop import now_s

if TYPE_CHECKING:
    from .node import Node
    from .world import World

STAY = 2  # so many never leave
LATE_S = 60.0  # a request that got lost may still be carried out so much later


@dataclass(slots=True)
class Group:
    """One group. `changed`: when the backend last began or ended to change a user's membership."""

    name: str
    members: set[str]
    changed: dict[str, float] = field(default_factory=dict)
    changing: set[str] = field(default_factory=set)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    def sure(self, since_s: float) -> set[str]:
        """Who was a member all the time since then."""
        return {user for user in self.members if self._unchanged(user, since_s)}

    def sure_strangers(self, users: set[str], since_s: float) -> set[str]:
        """Which of these were none all the time since then."""
        return {user for user in users - self.members if self._unchanged(user, since_s)}

    def _unchanged(self, user: str, since_s: float) -> bool:
        return user not in self.changing and self.changed.get(user, -LATE_S) + LATE_S <= since_s


@dataclass(slots=True)
class Groups:
    """A backend's groups. Changes of one group come one after the other."""

    world: "World"
    app_id: str
    users: tuple[str, ...]
    all: list[Group] = field(default_factory=list)

    async def make(self, node: "Node") -> None:
        """One of everybody, and one of a few; none where somebody might be left who sends to nobody."""
        for name, members in (("g0", self.users), ("g1", self.users[:STAY])):
            if len(self.users) <= STAY:
                return
            await node.inbox.groups.change(self.app_id, name, add=list(members), remove=[])
            self.all.append(Group(name, set(members)))

    async def change(self) -> None:
        """Somebody leaves, or somebody comes (back)."""
        draws = self.world.draws.stream(f"fate/members/{self.app_id}")
        if not self.all or len(self.users) <= STAY:  # of who comes and goes, all may have been erased
            return
        group, user = draws.pick(self.all), draws.pick(self.users[STAY:])
        if group.changing:
            return
        joins = user not in group.members
        async with group.turn:
            await self._put(group, add=[user] if joins else [], remove=[] if joins else [user])

    async def _put(self, group: Group, *, add: list[str], remove: list[str]) -> None:
        """Whoever calls it has the group's turn: of two requests on their way nobody can tell which the relay hears last."""
        touched = {*add, *remove}
        group.changing |= touched
        await self.world.persist(partial(self._ask, group.name, add, remove))
        group.members = (group.members | set(add)) - set(remove)
        group.changing -= touched
        group.changed |= dict.fromkeys(touched, now_s())

    async def _ask(self, name: str, add: list[str], remove: list[str], node: "Node") -> Any:
        return await node.inbox.groups.change(self.app_id, name, add=add, remove=remove)

    def renamed(self, old: str, new: str, users: tuple[str, ...]) -> None:
        """The relay calls a member by its new name."""
        self.users = users
        for group in self.all:
            if old in group.members:
                group.members = (group.members - {old}) | {new}
                if old in group.changed:
                    group.changed[new] = group.changed[old]
            group.changing.discard(old)

    def erased(self, who: str, users: tuple[str, ...]) -> None:
        """Is, or soon will be, a member of nothing."""
        self.users = users
        for group in self.all:
            group.members.discard(who)

    def set_back(self) -> None:
        """The relay lost its last words, and said so: all is said again."""
        for group in self.all:
            group.changed |= dict.fromkeys(self.users, now_s())
            self.world.later(self._say_again(group), f"members {group.name}")

    async def _say_again(self, group: Group) -> None:
        async with group.turn:
            gone = sorted(set(self.users) - group.members)
            await self._put(group, add=sorted(group.members), remove=gone)
