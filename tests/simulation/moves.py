"""Users who get another name, and users who are erased, with phones in their hands and messages on the way (protocol 10.5).

A name is never used again: a request that got lost may still be carried out much later.
"""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from providers.contract import Push
from relay.errors import Conflict
from relay.inbox.registry import Registration
from relay.model import UserKey

from .client import Broken
from .groups import STAY
from .loop import now_s

if TYPE_CHECKING:
    from .backend import Backend, Sent
    from .node import Node
    from .phone import Phone
    from .world import World

Move = Callable[["Backend", UserKey, int], Coroutine[Any, Any, None]]
SURE_S = 90.0  # a push that was claimed before may still go out


@dataclass(slots=True)
class Moves:
    """What has become of users, from the moment the relay was first asked."""

    world: "World"
    busy: int = 0
    _names: dict[UserKey, str] = field(default_factory=dict)
    _renaming: set[UserKey] = field(default_factory=set)  # the relay has not confirmed yet that they have another name
    _asked: dict[UserKey, float] = field(default_factory=dict)  # to be erased
    _erased: dict[UserKey, float] = field(default_factory=dict)  # the relay has confirmed it
    _count: int = 0

    # --- what is known ---

    def current(self, user: UserKey) -> UserKey:
        """The name by which this user goes now."""
        while user in self._names:
            user = user._replace(user_id=self._names[user])
        return user

    def confirmed(self, user: UserKey) -> UserKey:
        """The last name of this user that the relay is known to know."""
        while user in self._names and user not in self._renaming:
            user = user._replace(user_id=self._names[user])
        return user

    def names(self, user: UserKey) -> set[UserKey]:
        """By which this user goes, or went."""
        now = self.current(user)
        return {user, now, *(one for one in self._names if self.current(one) == now)}

    def moved(self, user: UserKey) -> bool:
        """Whether the relay may not know this name any more."""
        return user in self._names or self.leaves(user)

    def leaves(self, user: UserKey) -> bool:
        """Whether this user is to be erased, or was."""
        return user in self._asked

    def must_have(self, user: UserKey, sent: "Sent") -> bool:
        """Whether an accepted message has to be, or to have ended, with this user.

        Of what waits for its time or goes by a job, somebody erased meanwhile gets nothing.
        """
        asked_s = self._asked.get(self.current(user))
        waits = sent.deliver_ms is not None or sent.group is not None or len(sent.users) > 3
        return asked_s is None or (not waits and 0 < sent.taken_s < asked_s)

    def check(self, push: Push, user: UserKey) -> None:
        """Nobody is told anything who was erased."""
        erased_s = self._erased.get(user)
        if erased_s is not None and now_s() > erased_s + SURE_S:
            raise Broken(f"E2: {user} was erased, and {push.relay['ids']} were pushed to it")

    # --- the fates ---

    def renamed(self) -> None:
        """Somebody gets another name."""
        backend = self.world.draws.stream("fate/renamed").pick(self.world.backends)
        self._begin(backend, self.world.draws.stream("fate/renamed").pick(backend.users), self._rename)

    def erased(self) -> None:
        """Somebody is to be forgotten, and somebody else takes over the phones."""
        backend = self.world.draws.stream("fate/erased").pick(self.world.backends)
        users = backend.users[STAY:]
        if users:
            self._begin(backend, self.world.draws.stream("fate/erased").pick(users), self._erase)

    def _begin(self, backend: "Backend", name: str, what: Move) -> None:
        user = UserKey(backend.app_id, name)
        if self.world.copying or self.moved(user) or any(name in group.changing for group in backend.groups.all):
            return
        self._count += 1
        self.busy += 1
        backend.open += 1
        self.world.later(self._done(backend, what(backend, user, self._count)), f"move {name}")

    async def _done(self, backend: "Backend", move: Awaitable[None]) -> None:
        try:
            await move
        finally:
            self.busy -= 1
            backend.open -= 1

    def _phones(self, user: UserKey) -> "list[Phone]":
        for clone in self.world.clones:
            if clone.key.user == user:
                clone.leave()
        return [phone for phone in self.world.phones if phone.key.user == user]

    async def _rename(self, backend: "Backend", user: UserKey, n: int) -> None:
        name = f"{user.user_id.partition('~')[0]}~{n}"
        self._names[user] = name
        self._renaming.add(user)
        for group in backend.groups.all:
            group.changing.add(user.user_id)
        await self.world.persist(partial(_rename, user, name))
        self._renaming.discard(user)
        for phone in self._phones(user):
            phone.rename(name)
            self.world.later(self.world.persist(partial(_register, phone)), f"register {phone.name}")
        backend.users = tuple(name if one == user.user_id else one for one in backend.users)
        backend.groups.renamed(user.user_id, name, backend.users)
        self.world.wishes.moved(user)

    async def _erase(self, backend: "Backend", user: UserKey, n: int) -> None:
        place = backend.users.index(user.user_id)
        self._asked[user] = now_s()
        backend.users = tuple(one for one in backend.users if one != user.user_id)
        backend.groups.erased(user.user_id, backend.users)
        backend.leaving.add(user.user_id)
        await self.world.persist(partial(_erase, user))
        backend.leaving.discard(user.user_id)
        self._erased[user] = now_s()
        self.world.wishes.moved(user)
        heir = f"h{n}"
        for phone in self._phones(user):
            phone.pass_on(heir)
            await self.world.persist(partial(_register, phone))
        backend.users = (*backend.users[:place], heir, *backend.users[place:])
        backend.groups.users = backend.users


async def _rename(user: UserKey, name: str, node: "Node") -> None:
    try:
        await node.inbox.rename(user, name)
    except Conflict:
        return  # it was done; and a registration that came late has made the old name once more


async def _erase(user: UserKey, node: "Node") -> None:
    await node.inbox.erase(user)


async def _register(phone: "Phone", node: "Node") -> None:
    await node.inbox.register(Registration(device=phone.key))
