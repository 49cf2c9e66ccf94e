"""A phone: it comes, stays a while, goes without a word; it is upgraded, wiped, set back and cloned in the middle of everything.

It talks as a real one does, over a socket or by polling; what it decides is in `client.py`.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from providers.contract import Push
from relay.errors import CursorRefused, Malformed, Problem
from relay.model import DeviceKey
from relay.realtime.protocol import AckBody, HelloBody
from relay.realtime.service import ack_answer

from .client import FULL, Broken, Client, Database
from .draws import Stream
from .loop import now_s, sleep
from .net import Link, Lost
from .outbox import Draft, send_one
from .polling import poll
from .repair import repair
from .sdk import SdkVisit

if TYPE_CHECKING:
    from .node import Node
    from .vendors import Vendor
    from .world import World

HEARTBEAT_S = 30.0
BACKUPS_MAX = 3
PAGE = 7


class Phone:
    """One device of one user."""

    def __init__(
        self, world: "World", app_id: str, user_id: str, device_id: str, vendor: "Vendor", *, clone: int = 0
    ) -> None:
        self.key = DeviceKey(app_id, user_id, device_id)
        self.name = f"{user_id}/{device_id}"
        self.world = world
        stream = f"phone/{app_id}/{self.name}/{clone}"
        self.draws: Stream = world.draws.stream(stream)
        self._sdk_draws: Stream = world.draws.stream(f"sdk/{stream}")
        self._ids = world.draws.ids(stream)
        self.client = Client(user_id, device_id, Database(self._new_id()))
        self.vendor = vendor
        self.token = ""
        self.gone = False  # for good
        self.installs = 0
        self.follows: str | None = None
        self.rotted = False
        self.stay = False  # the healed world: it comes and stays
        self._flying: deque[dict[str, Any]] = deque()  # acks on this connection that have no answer yet
        self._woken = asyncio.Event()
        self._visit: asyncio.Task[None] | None = None
        self._known_schema: int | None = (
            None  # what the relay was told; None: there may have been another version since
        )
        self._backups: list[Database] = []
        self._safe = self.client.database.copy()
        self.drafted: dict[str, Draft] = {}  # by id: what it sent
        self.etag: str | None = None  # of the last poll's answer; some keep it longer than their store
        self._asked = 0  # how often the store had been set back when the last handshake began
        self.link: Link | None = None
        self.rotate_token()

    def _new_id(self) -> str:
        return f"{self._ids.getrandbits(64):016x}"

    def rotate_token(self) -> None:
        self.vendor.forget(self.token)
        self._new_token()

    def _new_token(self) -> None:
        self.token = f"tok-{self._new_id()}"
        self.vendor.register(self.token, self.key, self.pushed)

    def hand_over_to(self, other: "Phone") -> None:
        """The other's user signs in on this device, and the app keeps its token; this one comes back elsewhere.

        A vendor's token belongs to one app on one phone: no other app's user can come by it.
        """
        same_app = other.vendor is self.vendor and other.key.app_id == self.key.app_id
        if same_app and other.key.user != self.key.user:
            other.cut_off()
            self.vendor.forget(other.token)
            other.token = self.token
            self.vendor.hand_over(self.token, other.key, other.pushed)
            self._new_token()

    # --- what comes over it ---

    def pushed(self, push: Push) -> None:
        """A notification: at times the app is woken by it, and looks; or an extension of it fetches what it is about."""
        if self.draws.chance(0.3):
            self._woken.set()
        elif self.draws.chance(0.3) and not self.busy:
            self._visit = asyncio.create_task(self._extension(push.relay["head"]), name=f"extension {self.name}")
            self._visit.add_done_callback(self._extension_ended)

    def _extension_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.world.fail(error)

    @property
    def busy(self) -> bool:
        return self._visit is not None and not self._visit.done()

    def wake(self) -> None:
        self._woken.set()

    def befall(self, what: Callable[["Phone"], None]) -> None:
        """Something happens to the phone: its app is not running while it does."""
        self.cut_off()
        self._known_schema = None
        what(self)

    def leave(self) -> None:
        """It is not seen again."""
        self.gone = True
        self.cut_off()
        self.wake()

    def cut_off(self) -> None:
        """Whatever it is doing ends here."""
        if self.link is not None:
            self.link.reset()
        if self._visit is not None:
            self._visit.cancel()

    def upgrade(self) -> None:
        self.client.version += 1
        self.client.schema = min(9, self.client.schema + self.draws.count(0, 2))

    def downgrade(self) -> None:
        self.client.version = max(1, self.client.version - 1)
        self.client.schema = max(1, self.client.schema - self.draws.count(0, 2))

    def rot(self) -> None:
        """Rows are gone, as a bad migration does it: the store and its cursor stay."""
        messages = self.client.database.messages
        full = [id_ for id_, form in messages.items() if form == FULL]
        for id_ in {self.draws.pick(full) for _ in range(3)} if full else ():
            del messages[id_]
        self.client.database.rotten = self.rotted = True
        self._safe = self.client.database.copy()

    def wipe(self) -> None:
        """The store is gone; some keep their cursor elsewhere, which they must not (F48)."""
        kept = self.client.database.cursor if self.draws.chance(0.3) else None
        self.client.database = Database(self._new_id(), cursor=kept)
        self._safe = self.client.database.copy()

    def set_back(self) -> None:
        """The store is one from a backup: the same store id, an older cursor."""
        if self._backups:
            self.client.database = self.draws.pick(self._backups).copy()
            self._safe = self.client.database.copy()

    def back_up(self) -> None:
        self._backups = [*self._backups, self.client.database.copy()][-BACKUPS_MAX:]

    def reinstall(self, *, replaces: bool) -> DeviceKey:
        """Removed and installed again: another device for the relay, which may name the one it follows. Gives the old key."""
        old = self.key
        self.installs += 1
        name = f"{old.device_id.partition('r')[0]}r{self.installs}"
        self.key = DeviceKey(old.app_id, old.user_id, name)
        self.name = f"{old.user_id}/{name}"
        self.follows = old.device_id if replaces else None
        before = self.client
        self.client = Client(old.user_id, name, Database(self._new_id()), version=before.version, schema=before.schema)
        self.client.formerly = before.formerly
        self._safe = self.client.database.copy()
        self._backups = []
        self.rotate_token()
        return old

    def rename(self, user_id: str) -> None:
        """The app calls its user by another name from now on."""
        self.cut_off()
        self._known_schema = None
        self.client.formerly.add(self.key.user_id)
        self.client.user_id = user_id
        self.key = self.key._replace(user_id=user_id)
        self.name = f"{user_id}/{self.key.device_id}"
        self.vendor.register(self.token, self.key, self.pushed)

    def pass_on(self, user_id: str) -> None:
        """Its user has been erased: whoever has the phone now begins with nothing. What was sent to the old token is seen."""
        self.cut_off()
        self._known_schema, self.follows = None, None
        self.vendor.register(self.token, self.key, lambda _: None)
        self.key = self.key._replace(user_id=user_id)
        self.name = f"{user_id}/{self.key.device_id}"
        before = self.client
        self.client = Client(
            user_id, self.key.device_id, Database(self._new_id()), version=before.version, schema=before.schema
        )
        self._safe = self.client.database.copy()
        self._backups = []
        self._new_token()

    def clone(self, n: int) -> "Phone":
        """A second installation from the same backup: same device, same store id, both alive (F51)."""
        other = Phone(self.world, *self.key, self.vendor, clone=n)
        self.client.twin = True
        other.client = replace(self.client, database=self.client.database.copy(), nacks={})
        return other

    def crash(self) -> None:
        """The process ends here; some databases lose what was not yet safe (F46)."""
        if self.world.faults.strikes("client_forgets"):
            self.client.database = self._safe.copy()
        raise Lost

    # --- its life ---

    async def live(self) -> None:
        """Until the end of the run."""
        failures = 0
        while True:
            if not self.stay:
                await self._away()
            elif failures:
                await sleep(self.draws.between(0, min(60, 2**failures)))
            if self._visit is not None:
                await asyncio.wait([self._visit])
            if self.gone:
                return
            self._safe = self.client.database.copy()
            try:
                by_socket = not self.client.database.rotten if self.stay else self.draws.chance(0.6)
                self._visit = asyncio.create_task(self._talk(by_socket=by_socket), name=self.name)
                await asyncio.wait([self._visit])
                if not self._visit.cancelled():
                    self._visit.result()
                failures = 0
            except (Lost, Problem) as error:
                failures = min(6, failures + 1)
                self.world.story.tell("phone.lost", self.name, type(error).__name__)
            if self.draws.chance(0.1):
                self.back_up()

    async def _away(self) -> None:
        self._woken.clear()
        try:
            async with asyncio.timeout(self.draws.between(1, self.world.scenario.away_s)):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _talk(self, *, by_socket: bool) -> None:
        """A visit: half of them are the SDK's, the others those of a client that is as simple as the protocol allows."""
        if self._sdk_draws.chance(0.5) and not (self.stay and self.client.database.rotten):
            visit = SdkVisit(self, self._sdk_draws)
            stay_s = self._sdk_draws.between(2, self.world.scenario.stay_s)
            await (visit.by_socket(stay_s) if by_socket else visit.by_polling(stay_s))
        else:
            await (self._by_socket() if by_socket else self._by_polling())

    # --- by polling ---

    async def _by_polling(self) -> None:
        call = self.world.call
        await self._say_owed()
        said = self._hello()
        greeted = await call(lambda node: node.devices.hello(self.key, HelloBody.model_validate(said)))
        self.world.referee.told(self.key, greeted.answer)
        self._welcomed(greeted.answer)
        for _ in range(self.draws.count(1, 6)):
            try:
                while await self._sync():
                    pass
                if self.client.database.rotten:
                    await repair(self)
            except CursorRefused as refused:
                self.world.referee.told(self.key, refused.extra)
                self.client.reset(refused.extra["resync"])
                return
            except Malformed as refused:
                if refused.code != "invalid_cursor":
                    raise
                self.client.forget_cursor()
                return
            await sleep(self.draws.between(1, 30))
            if self.stay:
                return
            if self.draws.chance(0.3):
                self.world.later(send_one(self), f"outbox {self.name}")
            if self.draws.chance(0.1):
                await self._look_back()

    async def _look_back(self) -> None:
        """Scrolls back in a conversation: what it shows is this user's, and of this conversation."""
        name = self.draws.pick(("c1", "c2"))
        looked = partial(_looked_back, self.key, name)
        for item in (await self.world.call(looked)).items:
            entry = json.loads(msgspec.json.encode(item))
            if "body" in entry and not self.client.concerns(entry["body"]):
                raise Broken(f"I45: {entry['id']} is for {entry['body']['for']}, {self.key} sees it in its history")

    async def _extension(self, head: int) -> None:
        """Fetches a range beside the cursor, keeps it, and acks it by id (F57)."""
        low = self.client.database.seq
        if head <= low or self._known_schema != self.client.schema:  # a new version shakes hands before it fetches
            return
        try:
            reading = await self.world.call(
                lambda node: node.inbox.reader.read(self.key, None, limit=PAGE, range_=(low, max(head, low + 1)))
            )
            assert reading.batch is not None
            batch = json.loads(reading.batch.json)
            self.world.referee.told(self.key, batch, reading.batch.json)
            self.world.referee.page(self.key, batch)
            ids = self.client.fetched(batch)
            self.world.story.tell("fetched", self.name, *ids)
            if ids:
                said = {"ids": ids, "receipts": [{"id": ids[0], "what": "shown"}], **self._nacks()}
                await self._acks(said)
                self._heard(said)
        except (Lost, Problem):
            return

    async def _sync(self) -> bool:
        """One page, stored and acked; gives whether there is more."""
        cursor = self.client.database.cursor
        assert cursor is not None
        batch, self.etag = await self.world.call(lambda node: poll(self, node, cursor, limit=PAGE))
        page = json.loads(batch.json)
        self.world.referee.told(self.key, page, batch.json)
        self._store(page)
        said = {"cursor": self.client.database.cursor, **self._nacks(), **self._read()}
        try:
            await self._acks(said)
        except CursorRefused:
            return False
        self._heard(said)
        return batch.more

    async def _acks(self, said: dict[str, Any]) -> None:
        answer = await self.world.call(lambda node: node.devices.ack(self.key, AckBody.model_validate(said)))
        self.world.referee.told(self.key, ack_answer(answer))

    # --- by a socket ---

    async def _by_socket(self) -> None:
        await self._say_owed()
        node = await self.world.reach()
        link = self.link = Link(self.world.net, self.world.faults, Context())
        self._flying.clear()
        node.serve(self.key, link, {"type": "hello", **self._hello()})
        until_s = now_s() + self.draws.between(2, self.world.scenario.stay_s)
        beat_s = now_s() + HEARTBEAT_S
        try:
            while self.stay or now_s() < until_s:
                data = await link.client_receive(max(0.01, min(beat_s, until_s if not self.stay else beat_s) - now_s()))
                if data is not None:
                    frame = json.loads(data)
                    self.world.referee.told(self.key, frame, data)
                    self._frame(link, frame)
                if now_s() >= beat_s:
                    beat_s = now_s() + HEARTBEAT_S
                    self._say(link, {"type": "hb", "state": "foreground"})
            if self.draws.chance(0.3):
                self._say(link, {"type": "bye"})
                await link.client_receive(5)
        finally:
            self.link = None
            link.client_close()

    def _say(self, link: Link, frame: dict[str, Any]) -> None:
        link.client_send(json.dumps(frame).encode())

    def _frame(self, link: Link, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "welcome":
                link.offered.welcomed(frame)
                self._welcomed(frame)
            case "batch":
                link.offered.came(frame)
                if self._store(frame):
                    said: dict[str, Any] = {"type": "ack", "cursor": self.client.database.cursor}
                    if self.draws.chance(0.5):
                        said = {"type": "ack", "upto": self.client.database.seq}
                    said |= {**self._nacks(), **self._read()}
                    link.offered.acked(self.client.database.seq)
                    self._say(link, said)
                    self._flying.append(said)
                    if self.world.faults.strikes("ack_twice"):
                        self._say(link, said)
                        self._flying.append(said)
            case "ack":
                self._heard(self._flying.popleft())
            case "resync_required":
                self.client.reset(frame["resync"])
                raise Lost
            case "error" if frame["code"] == "invalid_cursor":
                self.client.forget_cursor()
                raise Lost
            case "error" | "drain" | "degraded":
                raise Lost
            case _:
                return

    # --- both ways ---

    def _nacks(self) -> dict[str, Any]:
        nacks = list(self.client.database.owed.values())
        return {"nack": nacks} if nacks else {}

    def _heard(self, said: dict[str, Any]) -> None:
        for nack in said.get("nack", ()):
            self.client.database.owed.pop(nack["id"], None)

    async def _say_owed(self) -> None:
        """Refusals that a crash kept from the relay come before the handshake, whose cursor acks what they are about."""
        said = self._nacks()
        if said:
            try:
                await self._acks(said)
            except Problem as problem:
                if problem.retryable:
                    raise
            self._heard(said)

    def _read(self) -> dict[str, Any]:
        """At times the user has read a conversation up to here."""
        if not self.draws.chance(0.1):
            return {}
        return {"read": [{"conversation": self.draws.pick(("c1", "c2")), "read_seq": self.client.database.seq}]}

    def _hello(self) -> dict[str, Any]:
        self._asked = self.world.set_backs
        said = self.client.hello(background=self.draws.chance(0.3), token=(self.vendor.account, self.token))
        return said if self.follows is None else {**said, "replaces": self.follows}

    def _welcomed(self, answer: dict[str, Any]) -> None:
        self.world.story.tell("welcome", self.name, answer["verdict"], answer["reason"], answer["session"])
        since = self._asked == self.world.set_backs
        self.world.referee.epochs.told(self.key, answer["epoch"], since=since)
        if since:
            told = self.world.doubles.welcomed(self.key, self.client.database.cursor, answer, self.world.referee.now_ms)
            if told:
                self.world.story.tell("reidentify", self.name)
        self.client.welcomed(answer)
        self._known_schema = self.client.schema
        if {"account": self.vendor.account, "state": "active"} in answer["addresses"]:
            self.vendor.settled(self.token)

    def _store(self, batch: dict[str, Any]) -> bool:
        if self.world.faults.strikes("client_crash"):
            self.crash()
        self.world.referee.page(self.key, batch)
        if not self.client.batch(batch):
            self.world.story.tell("misfit", self.name, batch["from"], self.client.database.seq)
            raise Lost
        self.world.story.tell("stored", self.name, batch["to"], *(entry["id"] for entry in batch["entries"]))
        if self.world.faults.strikes("client_crash"):
            self.crash()
        return True


async def _looked_back(device: DeviceKey, conversation: str, node: "Node") -> Any:
    return await node.inbox.reader.history_of_device(device, conversation=conversation, before=None, limit=20)
