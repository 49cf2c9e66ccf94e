"""The backends of apps: they send until they get a 2xx, take messages back, and hear what became of them."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from relay import ids
from relay.api.schemas.messages import SendBody
from relay.clock import rfc3339
from relay.errors import Conflict, CursorRefused, Missing, Problem
from relay.inbox.send import Accepted, Send
from relay.model import UserKey
from relay.webhooks.post import Answer, PostFailed
from relay.webhooks.service import Changes

from .client import Broken
from .groups import Group, Groups
from .loop import now_s, sleep
from .net import Lost
from .node import Node

if TYPE_CHECKING:
    from .world import World

BAD = (
    (),
    (),
    (),
    (),
    (),
    (),
    (),
    (),
    (),
    (1,),
    (1, 2),
    (1, 2, 3, 4, 5, 6, 7, 8, 9),
)  # versions that choke on a message


@dataclass(slots=True)
class Sent:
    """One message of a backend, from its making to its end."""

    key: str
    raw: dict[str, Any]
    users: tuple[str, ...]
    ttl_s: int
    id: str | None = None  # set by the first 2xx
    accepted_ms: int = 0
    made_s: float = 0.0
    taken_s: float = 0.0  # when the backend heard the 2xx
    deliver_ms: int | None = None  # not before
    group: Group | None = None
    owed: tuple[str, ...] = ()  # who must have it, from the 2xx on
    strangers: tuple[str, ...] = ()  # who must not: no members of its group, since long before it was made
    taken_back: bool = False  # the backend has tried to
    from_device: bool = False
    sender: str | None = None


@dataclass(slots=True)
class Heard:
    """An event that reached the backend."""

    type: str
    body: bytes


@dataclass(slots=True)
class Backend:
    """One app's backend."""

    world: "World"
    app_id: str
    users: tuple[str, ...]
    sent: dict[str, Sent] = field(default_factory=dict)  # by key
    by_id: dict[str, Sent] = field(default_factory=dict)
    heard: dict[str, Heard] = field(default_factory=dict)  # by webhook
    ever_heard: set[str] = field(default_factory=set)  # also of what the store was set back behind
    turned_away: set[str] = field(default_factory=set)  # answered with 410
    leaving: set[str] = field(default_factory=set)  # the relay has not confirmed yet that they are erased
    pulled: dict[str, str] = field(default_factory=dict)  # id -> type
    cursor: str | None = None
    down: bool = False  # its webhook receiver
    secret: bytes = b""
    endpoint: str = ""
    numbers: list[int] = field(default_factory=list)
    open: int = 0
    groups: Groups = field(init=False)

    def __post_init__(self) -> None:
        self.groups = Groups(self.world, self.app_id, self.users)

    # --- sending ---

    async def run(self, stop: asyncio.Event) -> None:
        draws = self.world.draws.stream(f"backend/{self.app_id}")
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                if await stopped(stop, within_s=draws.after_s(self.world.scenario.send_s)):
                    return
                if draws.chance(0.1):
                    some = [self._made() for _ in range(draws.count(2, 12))]
                    group.create_task(self.deliver_many(some), name=f"send {some[0].key} and more")
                    continue
                sent = self._made()
                group.create_task(self.deliver(sent), name=f"send {sent.key}")
                if draws.chance(0.05) and self.by_id:
                    await self._cancel(draws.pick(list(self.by_id.values())))

    def _made(self) -> Sent:
        draws = self.world.draws.stream(f"message/{self.app_id}")
        rng = self.world.draws.ids(f"key/{self.app_id}/{len(self.sent)}")
        uuid_key = draws.chance(0.5)
        key = (
            ids.message_id(self.world.wall.true_ms(), rng.getrandbits(ids.TAG_BITS))
            if uuid_key
            else f"k{len(self.sent)}"
        )
        users = tuple(dict.fromkeys(draws.pick(self.users) for _ in range(draws.pick((1, 1, 1, 1, 2, 4)))))
        schema = draws.pick((1, 1, 1, 1, 2, 3, 5))
        sender = draws.pick((None, None, draws.pick(self.users)))
        reach = sorted({*users, *([sender] if sender else [])})
        body = {"for": reach, "schema": schema, "bad": draws.pick(BAD), "hush": f"hush-{len(self.sent)}"}
        raw: dict[str, Any] = {"to": {"users": list(users)}, "body": body}
        if schema > 1:
            raw["min_schema"] = schema
            if draws.chance(0.5):
                raw["fallback"] = {**body, "schema": 1}
        if draws.chance(0.7):
            raw["push"] = {"title": "hush-title"}
        if draws.chance(0.15):
            raw["collapse_key"] = draws.pick(("a", "b"))
        if draws.chance(0.1):
            raw["scope"] = draws.pick(({"devices": ["d0"]}, {"first_ack_wins": True}, {"exclude_devices": ["d1"]}))
        if sender:
            raw["sender"] = {"user": sender, "device": "d0"}
        if draws.chance(0.3):
            raw["conversation"] = {"type": "direct", "id": draws.pick(("c1", "c2"))}
        ttl_s = draws.pick((604_800, 604_800, 604_800, 3600, 300, 20))
        raw["ttl_s"] = ttl_s
        sent = self.sent[key] = Sent(key, raw, users, ttl_s, made_s=now_s(), sender=sender)
        if draws.chance(0.1) and self.groups.all:
            sent.group = draws.pick(self.groups.all)
            raw["to"] = {"group": sent.group.name}
            raw.pop("conversation", None)
            for part in filter(None, (body, raw.get("fallback"))):
                part["for"] = sorted({*self.users, *self.leaving})
        if draws.chance(0.1):
            sent.deliver_ms = self.world.wall.true_ms() + draws.count(1, 600) * 1000
            raw["deliver_at"] = rfc3339(sent.deliver_ms)
        self._escalate(sent)
        return sent

    def _escalate(self, sent: Sent) -> None:
        """Some messages to users have steps in place of reminders."""
        draws = self.world.draws.stream(f"escalate/{self.app_id}")
        if not draws.chance(0.1) or sent.group is not None or sent.ttl_s < 600:
            return
        ways = ("webhook", "next_address") if "push" in sent.raw else ("webhook",)
        sent.raw["escalate"] = [
            {"after_s": 60 * (index + 1), "by": draws.pick(ways)} for index in range(draws.count(1, 3))
        ]

    async def deliver(self, sent: Sent) -> None:
        """Until there is a 2xx: the same key each time. One that the store was set back behind may be lost: once more."""
        failures = 0
        self.open += 1
        try:
            while True:
                times = self.world.set_backs
                try:
                    accepted = await self.world.call(lambda node: _accept(node, self, sent))
                except (Lost, Problem) as error:
                    if isinstance(error, Problem) and error.code == "recipient_unknown" and self._moved(sent):
                        if not sent.users:
                            return
                        continue
                    if isinstance(error, Problem) and error.code == "recipient_queue_full":
                        self.world.story.tell("full", self.app_id, sent.key)
                    if isinstance(error, Problem) and not error.retryable:
                        raise Broken(f"a send was refused for good: {error.code} {error.detail}") from error
                    failures = min(6, failures + 1)
                    await sleep(self.world.draws.stream("backoff").between(0.5, 2**failures))
                    continue
                if self.world.set_backs == times:
                    break
        finally:
            self.open -= 1
        self._accepted(sent, accepted)

    def _moved(self, sent: Sent) -> bool:
        """Whether it was for users who have another name by now, or none: then it is for those, or nobody.

        Of one who is just being renamed, the new name may not be known yet.
        """
        moves, key = self.world.moves, partial(UserKey, self.app_id)
        if not any(moves.moved(key(user)) for user in sent.users):
            return False
        now = [moves.confirmed(key(user)) for user in sent.users]
        sent.users = tuple(dict.fromkeys(user.user_id for user in now if not moves.leaves(user)))
        sent.raw = {**sent.raw, "to": {"users": list(sent.users)}}
        return True

    async def deliver_many(self, some: list[Sent]) -> None:
        """A batch: each item has its own result; what has none, or a wrong one, goes alone."""
        times = self.world.set_backs
        self.open += 1
        try:
            results = await self.world.call(lambda node: _accept_many(node, self, some))
        except (Lost, Problem):
            results = [None] * len(some)
        finally:
            self.open -= 1
        if self.world.set_backs != times:
            results = [None] * len(some)
        for sent, result in zip(some, results, strict=True):
            if isinstance(result, Accepted):
                self._accepted(sent, result)
            else:
                await self.deliver(sent)

    def _accepted(self, sent: Sent, accepted: Accepted) -> None:
        if sent.id is not None and accepted.message_id != sent.id and sent.accepted_ms:
            raise Broken(f"I37: key {sent.key} had id {sent.id}, now {accepted.message_id}")
        sent.id, sent.accepted_ms = accepted.message_id, accepted.accepted_ms
        if sent.deliver_ms is not None and sent.id is not None:
            self.world.referee.due_ms[self.app_id, sent.id] = sent.deliver_ms
        sent.taken_s = sent.taken_s or now_s()
        unknown = {one.user_id for one in accepted.recipients if one.refusal == "recipient_unknown"}
        full = {one.user_id for one in accepted.recipients if one.refusal == "recipient_queue_full"}
        if full:
            self.world.story.tell("full", self.app_id, sent.id, *sorted(full))
        for user in unknown:
            if not self.world.moves.moved(UserKey(self.app_id, user)) and "devices" not in sent.raw.get("scope", {}):
                raise Broken(f"{user} of {self.app_id} is unknown, and was never renamed or erased")
        sent.owed = (
            tuple(user for user in sent.users if user not in unknown | full)
            if sent.group is None
            else tuple(
                # The sender has a copy.
                sorted(sent.group.sure(sent.made_s) - full - {sent.sender})
            )
        )
        if sent.group is not None:
            strangers = sent.group.sure_strangers(set(self.users), sent.made_s)
            sent.strangers = tuple(sorted(strangers - {sent.sender}))
        self.by_id[sent.id] = sent
        self.world.story.tell("accepted", self.app_id, sent.id, *sent.users, "replay" if accepted.replay else "new")

    def sent_by_device(self, key: str, raw: dict[str, Any], to: str, id_: str, made_s: float, sender: str) -> None:
        """A device of the app has the relay's word for a message."""
        self.by_id[id_] = Sent(key, raw, (to,), 0, id=id_, made_s=made_s, owed=(to,), from_device=True, sender=sender)

    async def _cancel(self, sent: Sent) -> None:
        assert sent.id is not None
        sent.taken_back = True
        self.world.referee.removals.taken_back.add((self.app_id, sent.id))
        try:
            word = await self.world.call(lambda node: node.inbox.cancel(self.app_id, sent.id or ""))
            self.world.story.tell("cancel", sent.id, word)
        except (Lost, Conflict, Missing):
            return
        except Problem as problem:
            if not problem.retryable:
                raise

    def set_back(self) -> None:
        """The relay lost its last messages, and said so: they are sent again, with their keys."""
        kept = {row[0] for row in self.world.store.raw.execute("SELECT message_id FROM message")}
        for id_, sent in list(self.by_id.items()):
            if id_ not in kept:
                del self.by_id[id_]
                if sent.from_device:
                    continue
                if not ids.uuid7_ms(sent.key):
                    sent.id, sent.accepted_ms = None, 0  # only its tag is the same
                self.world.later(self.deliver(sent), f"send again {sent.key}")
        self.groups.set_back()
        self.heard.clear()  # a fact that was lost with its event is told anew, under the same id
        self.pulled.clear()
        self.numbers.clear()
        self.cursor = None

    # --- hearing, by webhook ---

    async def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        faults, draws = self.world.faults, self.world.draws.stream(f"receiver/{self.app_id}")
        slow = faults.strikes("receiver_slow")
        await sleep(draws.between(5, 30) if slow else draws.between(0.01, 0.3))
        if self.down:
            raise PostFailed("connect_failed")
        id_ = self._verified(headers, body)
        if faults.strikes("receiver_5xx"):
            return Answer(status=500)
        if faults.strikes("receiver_redirects"):
            return Answer(status=307)
        if faults.strikes("receiver_gone"):
            self.turned_away.add(id_)
            self.world.later(self._enable(draws.between(5, 300)), f"enable {self.app_id}")
            return Answer(status=410)
        self.ever_heard.add(id_)
        known = self.heard.setdefault(id_, Heard(json.loads(body)["type"], body))
        if json.loads(known.body)["data"] != json.loads(body)["data"]:
            raise Broken(f"SIM-I16: event {id_} changed between two attempts")
        if faults.strikes("receiver_lost"):
            raise PostFailed("timeout")
        return Answer(status=204)

    async def _enable(self, after_s: float) -> None:
        """Somebody sees that the relay has taken the receiver at its word, and takes it back."""
        await sleep(after_s)
        await self.world.persist(lambda node: node.webhooks.update(self.app_id, self.endpoint, Changes(enabled=True)))

    def _verified(self, headers: Mapping[str, str], body: bytes) -> str:
        """Standard Webhooks, by hand: the signature is over id, time and the bytes of the body."""
        id_, at = headers["webhook-id"], headers["webhook-timestamp"]
        mac = hmac.digest(self.secret, f"{id_}.{at}.".encode() + body, hashlib.sha256)
        if f"v1,{base64.b64encode(mac).decode()}" not in headers["webhook-signature"].split(" "):
            raise Broken(f"SIM-I16: the signature of {id_} does not fit")
        return id_

    # --- hearing, by pull ---

    async def pull(self) -> None:
        """Everything new since the last time."""
        more = True
        while more:
            try:
                page = await self.world.call(lambda node: node.webhooks.events(self.app_id, cursor=self.cursor))
            except CursorRefused as refused:
                self.cursor = refused.extra["resync"]["cursor"]
                continue
            for event in page.events:
                if event.id in self.pulled:
                    raise Broken(f"event {event.id} was pulled twice")
                self.pulled[event.id] = event.type
                self.numbers.append(event.sequence)
            self.cursor, more = page.cursor, page.more
        if self.numbers != sorted(self.numbers):
            raise Broken("events were pulled out of order")


async def _accept(node: Node, backend: Backend, sent: Sent) -> Accepted:
    return await node.inbox.accept(_send(node, backend, sent))


async def _accept_many(node: Node, backend: Backend, some: list[Sent]) -> list[Any]:
    return await node.inbox.accept_many([_send(node, backend, one) for one in some])


def _send(node: Node, backend: Backend, sent: Sent) -> Send:
    raw = sent.raw if sent.id is None else {**sent.raw, "id": sent.id}
    return node.sends.send(backend.app_id, SendBody.model_validate(raw), raw, sent.key)


async def stopped(stop: asyncio.Event, *, within_s: float) -> bool:
    """Whether there is nothing more to send, which is known within this time: in a quiet world the next send is far away."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await stop.wait()
    return stop.is_set()


async def until_quiet(backends: list[Backend], limit_s: float) -> None:
    """Waits until every send has its 2xx."""
    end_s = now_s() + limit_s
    while any(one.open for one in backends):
        if now_s() > end_s:
            raise Broken("a send got no 2xx though everything was healed")
        await sleep(1)
