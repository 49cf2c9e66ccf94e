"""An ultra group in the world: members join, leave, read, sleep and are woken, under every fault (protocol 12.5).

Its users are its own, so that nothing of it mixes with what the other phones and backends do. At the end the rows say who was a
member when, by SQL of our own: each reader must hold exactly what stands in its stays, and each sleeper must have been told.
"""

import json
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from relay import ids
from relay.api.schemas.messages import SendBody
from relay.errors import Problem
from relay.inbox.ack import AckRequest
from relay.inbox.reading import Reading
from relay.inbox.registry import Registration
from relay.inbox.send import Accepted
from relay.inbox.shared import Wanted
from relay.model import DeviceKey
from relay.realtime.protocol import HelloBody

from .backend import stopped
from .client import Broken
from .loop import now_s, sleep
from .net import Lost
from .node import Node

if TYPE_CHECKING:
    from .world import World

TOWN = "town"
READERS, SLEEPERS = 4, 2
LIMIT = 5
QUIET_S = 600
LATE_S = 60  # a handshake that got lost may still be carried out so much later


@dataclass(slots=True)
class Post:
    """One message to everybody."""

    key: str
    raw: dict[str, Any]
    id: str | None = None
    seq: int = 0


@dataclass(slots=True)
class Resident:
    """A user with one device. A sleeper shakes hands once, and never comes back.

    A device may have a twin: another version of the app with a copy of its store, which comes in its turn.
    """

    world: "World"
    key: DeviceKey
    sleeps: bool
    token: str
    version: str = "1"
    twin: "Resident | None" = None
    inbox: str | None = None  # it is read from where the last handshake left it, so that this cursor tells who asks
    cursor: str | None = None
    epoch: str = ""
    seq: int = 0
    held: dict[int, str] = field(default_factory=dict)
    holes: list[tuple[int, int]] = field(default_factory=list)

    # --- reading ---

    async def greet(self) -> None:
        said = {
            "store": {"id": f"store-{self.key.user_id}"},
            "app_version": self.version,
            "addresses": [{"account": "v0", "token": self.token}],
            "cursors": {name: cursor for name, cursor in (("inbox", self.inbox), (TOWN, self.cursor)) if cursor},
        }
        greeted = await self.world.call(lambda node: node.devices.hello(self.key, HelloBody.model_validate(said)))
        self.world.referee.told(self.key, greeted.answer)
        cursors = greeted.answer["cursors"]
        self.inbox, self.cursor = cursors["inbox"], cursors.get(TOWN, self.cursor)
        for one in greeted.answer.get("shared", ()):
            if one["verdict"] == "resync":
                self._begin_anew(one["epoch"], one["floor"], cursors[TOWN])

    def _begin_anew(self, epoch: str, seq: int, cursor: str) -> None:
        if epoch != self.epoch:
            self.held.clear()
            self.holes.clear()
        self.epoch, self.seq, self.cursor = epoch, seq, cursor

    async def sync(self) -> bool:
        """One page, kept and acked; whether there is more."""
        asked = Wanted(names=(TOWN,)) if self.cursor is None else Wanted(cursors=(self.cursor,))
        reading = await self.world.call(lambda node: self._read(node, asked))
        assert reading.shared is not None
        self.world.referee.told(self.key, {"resets": reading.shared.opened.resets})
        for reset in reading.shared.opened.resets:
            self._begin_anew(reset["epoch"], reset["floor"], reset["cursor"])
        for batch in reading.shared.batches:
            page = json.loads(batch.json)
            self.world.referee.told(self.key, page, batch.json)
            self._keep(page)
        if reading.shared.batches and self.cursor is not None:
            cursor = self.cursor
            await self.world.call(
                lambda node: node.inbox.ack(
                    AckRequest(device=self.key, shared=(node.inbox.reader.unseal(cursor, self.key),))
                )
            )
        return reading.shared.more or bool(reading.shared.opened.resets)

    async def _read(self, node: Node, asked: Wanted) -> Reading:
        inbox = None if self.inbox is None else node.inbox.reader.unseal(self.inbox, self.key)
        return await node.inbox.reader.read(self.key, inbox, limit=LIMIT, asked=asked)

    def _keep(self, page: dict[str, Any]) -> None:
        _covers(page)
        if self.cursor is not None and (page["epoch"], page["from"]) != (self.epoch, self.seq):
            raise Broken(f"{self.key.user_id} stands at {self.seq}, and was given a page from {page['from']}")
        self.epoch, self.seq, self.cursor = page["epoch"], page["to"], page["cursor"]
        self._take(page)
        self.holes += [(gap["from"], gap["to"]) for gap in page["gaps"] if gap["why"] == "skipped"]

    def _take(self, page: dict[str, Any]) -> None:
        for entry in page["entries"]:
            before = self.held.setdefault(entry["seq"], entry["id"])
            if before != entry["id"]:
                raise Broken(f"I4: number {entry['seq']} of {TOWN} stood for {before}, and stands for {entry['id']}")

    async def fill(self) -> None:
        """Fetches what was skipped."""
        while self.holes:
            low, high = self.holes[-1]
            _, batch = await self.world.call(
                lambda node, a=low, b=high: node.inbox.shared.fill(self.key, TOWN, a, b, limit=LIMIT)  # type: ignore[misc]
            )
            page = json.loads(batch.json)
            _covers(page)
            self._take(page)
            self.holes.pop()
            if low < page["to"] < high:
                self.holes.append((page["to"], high))

    async def live(self) -> None:
        """Comes and goes until the end of the run."""
        draws = self.world.draws.stream(f"town/{self.key.app_id}/{self.key.user_id}")
        greeted: Resident | None = None  # who shook hands last, where that is sure
        asked_s = {"1": -LATE_S, "2": -LATE_S}  # when each did
        while True:
            await sleep(draws.between(1, 120))
            one = self if self.twin is None or draws.chance(0.5) else self.twin
            try:
                if one.inbox is None or draws.chance(0.3):
                    greeted, asked_s[one.version] = None, now_s()
                    others_s = asked_s["2" if one.version == "1" else "1"]
                    await one.greet()
                    greeted = one if others_s < asked_s[one.version] - LATE_S else None
                    self._check_belief(greeted)
                while await one.sync():
                    pass
                if draws.chance(0.2):
                    await one.fill()
            except (Lost, Problem):
                continue
            self._check_belief(greeted)

    def _check_belief(self, greeted: "Resident | None") -> None:
        """What the other of two stores has read is not taken for that of the one that shook hands last."""
        if self.twin is None or greeted is None:
            return
        row = self.world.store.raw.execute(
            """SELECT acked_seq FROM device_shared
               WHERE app_id = ? AND user_id = ? AND device_id = ? AND conversation_id = ?""",
            (*self.key, TOWN),
        ).fetchone()
        if row is not None and row[0] > greeted.seq:
            who = f"{self.key.user_id}, version {greeted.version},"
            raise Broken(f"{who} is believed to have {row[0]} of {TOWN}: it has {greeted.seq}")


def _covers(page: dict[str, Any]) -> None:
    """(C), for a page of the town."""
    named = [entry["seq"] for entry in page["entries"]]
    named += [n for gap in page["gaps"] for n in range(gap["from"] + 1, gap["to"] + 1)]
    if sorted(named) != list(range(page["from"] + 1, page["to"] + 1)):
        raise Broken(f"I5: a page of {TOWN} from {page['from']} to {page['to']} names {sorted(named)}")


class Town:
    """The group of one app, with what its backend does to it."""

    def __init__(self, world: "World", app_id: str) -> None:
        self.world, self.app_id = world, app_id
        self.posts: list[Post] = []
        self.open = 0
        self.residents = [
            Resident(world, DeviceKey(app_id, f"t{n}", "d0"), n >= READERS, f"tok-town-{app_id}-{n}")
            for n in range(READERS + SLEEPERS)
        ]
        for one in self.residents:
            world.vendors[0].register(one.token, one.key, lambda _: None)
        first = self.residents[0]
        first.twin = replace(first, version="2", held={}, holes=[])

    @property
    def readers(self) -> list[Resident]:
        return [one for one in self.residents if not one.sleeps]

    @property
    def stores(self) -> list[Resident]:
        """All that are kept up to date."""
        return [store for one in self.readers for store in (one, one.twin) if store is not None]

    async def begin(self) -> None:
        """Before there are faults: everybody is registered; the readers want mentions, the sleepers everything."""
        for one in self.residents:
            await self.world.call(partial(_register, one.key))
            await self._change(add=[one.key.user_id], notify="all" if one.sleeps else None)
            await one.greet()
        for one in self.residents:
            await self.world.call(partial(_goodbye, one.key))

    async def _change(self, *, add: list[str], remove: tuple[str, ...] = (), notify: str | None = None) -> None:
        await self.world.persist(
            lambda node: node.inbox.groups.change(self.app_id, TOWN, add=add, remove=remove, ultra=True, notify=notify)
        )

    async def run(self, stop: Any) -> None:
        draws = self.world.draws.stream(f"town/{self.app_id}")
        while not stop.is_set():
            if await stopped(stop, within_s=draws.after_s(self.world.scenario.send_s)):
                return
            if draws.chance(0.15):
                who = draws.pick(self.readers).key.user_id
                comes = draws.chance(0.5)
                self.world.later(
                    self._change(add=[who] if comes else [], remove=() if comes else (who,)), f"town change {who}"
                )
            else:
                self.world.later(self._deliver(self._made()), f"town post {len(self.posts)}")

    def _made(self) -> Post:
        draws = self.world.draws.stream(f"town/{self.app_id}")
        rng = self.world.draws.ids(f"town/{self.app_id}/{len(self.posts)}")
        key = ids.message_id(self.world.wall.true_ms(), rng.getrandbits(ids.TAG_BITS))
        raw: dict[str, Any] = {"to": {"group": TOWN}, "body": f"hush-town-{len(self.posts)}"}
        if draws.chance(0.7):
            raw["push"] = {"title": "hush-title"}
        if draws.chance(0.2):
            raw["mentions"] = [draws.pick(self.residents).key.user_id]
        if draws.chance(0.1):
            raw["mention_everyone"] = True
        if draws.chance(0.2):
            raw["sender"] = {"user": draws.pick(self.residents).key.user_id, "device": "d0"}
        post = Post(key, raw)
        self.posts.append(post)
        return post

    async def _deliver(self, post: Post) -> None:
        """Until there is a 2xx: the same key each time."""
        self.open += 1
        try:
            while post.id is None:
                try:
                    accepted = await self.world.call(lambda node: _accept(node, self.app_id, post))
                except (Lost, Problem) as error:
                    if isinstance(error, Problem) and not error.retryable:
                        raise Broken(f"a post was refused for good: {error.code} {error.detail}") from error
                    await sleep(self.world.draws.stream("backoff").between(0.5, 20))
                    continue
                assert accepted.posted is not None
                post.id, post.seq = accepted.message_id, accepted.posted[1]
        finally:
            self.open -= 1

    # --- the end ---

    async def converge(self) -> None:
        """All faults have ended: everybody catches up, and then it is counted."""
        end_s = now_s() + QUIET_S
        while True:
            await sleep(20)
            try:
                for one in self.stores:
                    while await one.sync():
                        pass
                    await one.fill()
                self.check()
                return
            except (Broken, Lost, Problem):
                if now_s() > end_s:
                    raise

    def check(self) -> None:
        raw = self.world.store.raw
        if self.open:
            raise Broken("a post got no 2xx though everything was healed")
        where = (self.app_id, TOWN)
        head, floor = raw.execute(
            "SELECT head_seq, floor_seq FROM conversation WHERE app_id = ? AND conversation_id = ?", where
        ).fetchone()
        rows = raw.execute(
            "SELECT seq, message_id FROM timeline_entry WHERE app_id = ? AND conversation_id = ? ORDER BY seq", where
        ).fetchall()
        if [seq for seq, _ in rows] != list(range(floor + 1, head + 1)):
            raise Broken(f"I1: {TOWN} has numbers {[seq for seq, _ in rows]} for {floor + 1}..{head}")
        stands = dict(rows)
        for post in self.posts:
            if stands.get(post.seq) != post.id:
                raise Broken(f"{post.id} was accepted as number {post.seq}, where {stands.get(post.seq)} stands")
        if len(stands) != len(self.posts):
            raise Broken(f"I37: {len(self.posts)} posts have {len(stands)} entries")
        for one in self.stores:
            self._held(one, stands)
        if raw.execute("SELECT count(*) FROM fanout_job").fetchone()[0]:
            raise Broken("I40: a job of the fan-out is still open")
        for one in self.residents:
            self._woken(one)

    def _held(self, one: Resident, stands: dict[int, str]) -> None:
        """Everything of its stays, and nothing else."""
        stays = self.world.store.raw.execute(
            "SELECT joined_seq, left_seq FROM membership WHERE app_id = ? AND conversation_id = ? AND user_id = ?",
            (self.app_id, TOWN, one.key.user_id),
        ).fetchall()
        own = {post.seq for post in self.posts if post.raw.get("sender", {}).get("user") == one.key.user_id}
        sees = {
            seq: id_
            for seq, id_ in stands.items()
            if any(low < seq and (high is None or seq <= high) for low, high in stays)
        }
        missing = {seq for seq, id_ in sees.items() if one.held.get(seq) != id_} - own
        if missing:
            raise Broken(f"{one.key.user_id} lacks the numbers {sorted(missing)} of {TOWN}")
        if stray := set(one.held) - set(sees):
            raise Broken(f"I45: {one.key.user_id} has the numbers {sorted(stray)} of {TOWN}, and was no member")

    def _woken(self, one: Resident) -> None:
        """(P) for a shared timeline: whoever wants to be told has acked, was told, or rests for a reason."""
        row = self.world.store.raw.execute(
            """SELECT b.wake_seq, max(coalesce(d.acked_seq, 0), coalesce(d.pushed_seq, 0)), j.due_ms, j.reason,
                 (SELECT max(t.seq) FROM timeline_entry t JOIN message m USING (app_id, message_id)
                  WHERE t.app_id = b.app_id AND t.conversation_id = b.conversation_id AND t.notifiable = 1)
               FROM membership b JOIN push_job j ON j.app_id = b.app_id AND j.user_id = b.user_id
               LEFT JOIN device_shared d ON d.app_id = b.app_id AND d.user_id = b.user_id
                    AND d.conversation_id = b.conversation_id
               WHERE b.app_id = ? AND b.conversation_id = ? AND b.user_id = ? AND b.notify = 'all'
                 AND b.left_version IS NULL""",
            (self.app_id, TOWN, one.key.user_id),
        ).fetchone()
        if row is None:
            return
        wake_seq, told_seq, due_ms, reason, notifiable = row
        if wake_seq < (notifiable or 0):
            raise Broken(f"I40: {one.key.user_id} was woken up to {wake_seq}, and {notifiable} stands")
        untold = self.world.store.raw.execute(
            """SELECT count(*) FROM timeline_entry t JOIN message m USING (app_id, message_id)
               WHERE t.app_id = ? AND t.conversation_id = ? AND t.seq > ? AND t.seq <= ? AND t.notifiable = 1
                 AND m.sender_user IS NOT ?
                 AND NOT EXISTS (SELECT 1 FROM inbox_entry e WHERE e.app_id = t.app_id AND e.user_id = ?
                                 AND e.message_id = t.message_id)""",  # of a mention the inbox tells
            (self.app_id, TOWN, told_seq, wake_seq, one.key.user_id, one.key.user_id),
        ).fetchone()[0]
        if untold and reason not in {"no_address", "account_parked"}:
            raise Broken(f"I18: {one.key.user_id} was told up to {told_seq} of {wake_seq}; due {due_ms}, {reason}")


async def _register(key: DeviceKey, node: Node) -> None:
    await node.inbox.register(Registration(device=key))


async def _goodbye(key: DeviceKey, node: Node) -> None:
    device, _ = await node.inbox.reader.device(key)
    await node.presence.closed(key, device.session, goodbye=True)


async def _accept(node: Node, app_id: str, post: Post) -> Accepted:
    return await node.inbox.accept(node.sends.send(app_id, SendBody.model_validate(post.raw), post.raw, post.key))
