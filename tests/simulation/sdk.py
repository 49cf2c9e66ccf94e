"""A visit of a phone whose every decision is the SDK's sync core: the same that drives the real client (relay/client/core.py).

The phone's own way of talking stays beside it: other clients than ours must not lose anything either.
"""

import json
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, Any

from relay.client import said, steps, wire
from relay.client.core import Core, Phase
from relay.client.steps import UNKNOWN_SEQ, Position, Reading, Timer
from relay.errors import CursorRefused, Problem
from relay.realtime.protocol import AckBody, HeartbeatBody, HelloBody
from relay.realtime.service import ack_answer

from .client import Broken
from .comparing import compared
from .draws import Stream
from .loop import now_s, sleep
from .net import Link, Lost
from .polling import poll

if TYPE_CHECKING:
    from .phone import Phone

PAGE = 7
MOMENT_S = 0.01


class SdkVisit:
    """From opening the app to closing it, or to the connection's end."""

    def __init__(self, phone: "Phone", draws: Stream) -> None:
        self.phone, self.draws = phone, draws
        hello = phone._hello()
        words = {"type", "ref", "state", "store", "cursors"}
        self.core = Core(
            store_id=hello["store"]["id"],
            rng=draws,
            facts={name: value for name, value in hello.items() if name not in words},
            foreground=hello["state"] == "foreground",
            wait_s=0,
        )
        self.link: Link | None = None
        self._timers: dict[Timer, float] = {}
        self._events: deque[steps.Event] = deque()
        self._batches: dict[int, dict[str, Any]] = {}  # id of a page -> the page as the referee reads it
        self._over = False

    async def by_socket(self, stay_s: float) -> None:
        """Raises Lost when the connection ends before the visit does."""
        phone = self.phone
        node = await phone.world.reach()
        link = self.link = phone.link = Link(phone.world.net, phone.world.faults, Context())
        until_s = now_s() + stay_s
        try:
            self._begin()
            serving = False
            while phone.stay or now_s() < until_s:
                await self._work()
                if not serving and self.core.phase is Phase.GREETING:
                    # The relay's end begins with the hello, which the network has already let through.
                    serving = True
                    node.serve(phone.key, link, self._hello)
                due_s = min([*self._timers.values(), until_s if not phone.stay else now_s() + 60])
                data = await link.client_receive(max(MOMENT_S, due_s - now_s()))
                if data is not None:
                    self._events.append(steps.Came(self._frame(data)))
                self._ring()
            if self.draws.chance(0.3):
                self._events.append(steps.Stopped())
                await self._work()
                await link.client_receive(5)
        finally:
            phone.link = None
            link.client_close()

    async def by_polling(self, stay_s: float) -> None:
        """The same by calls alone."""
        until_s = now_s() + stay_s
        self._begin()
        while now_s() < until_s and not self.phone.stay:
            await self._work()
            self._ring()
            if not self._events:
                await sleep(max(MOMENT_S, min([*self._timers.values(), until_s]) - now_s()))

    # --- the loop ---

    def _begin(self) -> None:
        database = self.phone.client.database
        at = Position(database.epoch, database.seq, database.cursor)
        words = {f"nack:{id_}": nack for id_, nack in database.owed.items()}
        self._events.append(steps.Started(at, words))

    def _ring(self) -> None:
        for timer, due_s in sorted(self._timers.items(), key=lambda one: one[1]):
            if due_s <= now_s():
                del self._timers[timer]
                self._events.append(steps.Rang(timer))

    async def _work(self) -> None:
        while self._events:
            waiting = deque(self.core.handle(self._events.popleft()))
            while waiting:
                event = await self._do(waiting.popleft())
                if event is not None:
                    waiting.extendleft(reversed(self.core.handle(event)))
            if self._over:
                raise Lost

    async def _do(self, command: steps.Command) -> steps.Event | None:
        match command:
            case steps.Connect():
                return steps.Opened(Reading.PUSHED if self.link is not None else Reading.PULLED)
            case steps.Say(frame, aside):
                await self._say(dict(frame), aside=aside)
            case steps.Fetch(cursor, _):
                await self._fetch(cursor)
            case steps.Keep(at, page):
                return self._keep(at, page)
            case steps.Adopt(position, _, _, _):
                return self._adopt(position)
            case steps.Drop(words):
                for key in words:
                    self.phone.client.database.owed.pop(key.removeprefix("nack:"), None)
            case steps.Compare(purpose, upgrade):
                return await self._compare(purpose, upgrade)
            case steps.SetTimer(timer, after_s):
                self._timers[timer] = now_s() + after_s
            case steps.StopTimer(timer):
                self._timers.pop(timer, None)
            case steps.Close():
                self._over = self.core.phase is not Phase.OVER
        return None

    # --- the database ---

    def _keep(self, at: Position, page: wire.Page) -> steps.Event:
        database = self.phone.client.database
        if (at.epoch, at.seq) != (database.epoch, database.seq):
            raise Broken(f"the core stands at {at}, its database at {database.seq}")
        self.phone._store(self._batches.pop(id(page)))
        nacks = dict(self.phone.client.nacks)
        if self.draws.chance(0.1):
            conversation = self.draws.pick(("c1", "c2"))
            self._events.append(steps.Spoke(dict([said.read(conversation, database.seq)])))
        words = {f"nack:{id_}": nack for id_, nack in nacks.items()}
        return steps.Kept(Position(database.epoch, database.seq, database.cursor), words)

    def _adopt(self, position: Position) -> steps.Event:
        database = self.phone.client.database
        if position.cursor is None:
            self.phone.client.forget_cursor()
        elif position.seq != UNKNOWN_SEQ and (database.epoch, database.seq) != (position.epoch, position.seq):
            raise Broken(f"the core adopts {position}, the welcome said {database.epoch} {database.seq}")
        return steps.Kept(position)

    async def _compare(self, purpose: str, upgrade: str | None) -> steps.Event:
        try:
            verified = await compared(self.phone, purpose, upgrade)
        except (Lost, Problem):
            return steps.Compared(upgrade, done=False)
        if upgrade is not None and not self.phone.client.twin:
            self.phone.world.referee.proved(self.phone.key, upgrade, verified.state)
        return steps.Compared(upgrade, done=True)

    # --- the conversation ---

    def _frame(self, data: bytes) -> wire.Frame:
        frame = wire.frame(data)
        plain = json.loads(data)
        assert self.link is not None
        self.phone.world.referee.told(self.phone.key, plain, data)
        if isinstance(frame, wire.Page):
            self.link.offered.came(plain)
            self._batches[id(frame)] = plain
        else:
            if plain.get("type") == "welcome":
                self.link.offered.welcomed(plain)
            self._seen(plain)
        return frame

    def _seen(self, plain: dict[str, Any]) -> None:
        if plain.get("type") == "welcome":
            self.phone._welcomed(plain)
        elif isinstance(plain.get("resync"), dict):
            self.phone.client.reset(plain["resync"])

    async def _say(self, frame: dict[str, Any], *, aside: bool) -> None:
        if self.link is None or aside:
            await self._call(frame)
        elif frame["type"] == "hello":
            self._hello = frame
        else:
            if "cursor" in frame and frame["type"] == "ack" and self.draws.chance(0.5):
                frame["upto"] = self.core.position.seq
                del frame["cursor"]
            if frame["type"] == "ack":
                self.link.offered.acked(self.core.position.seq)
            self.phone._say(self.link, frame)
            if frame["type"] == "ack" and self.phone.world.faults.strikes("ack_twice"):
                self.phone._say(self.link, frame)

    async def _call(self, frame: dict[str, Any]) -> None:
        key, call = self.phone.key, self.phone.world.call
        body = {name: value for name, value in frame.items() if name not in {"type", "ref"} and value is not None}
        try:
            match frame["type"]:
                case "hello":
                    greeted = await call(lambda node: node.devices.hello(key, HelloBody.model_validate(body)))
                    answer = {"type": "welcome"} | greeted.answer
                case "ack":
                    acked = await call(lambda node: node.devices.ack(key, AckBody.model_validate(body)))
                    answer = {"type": "ack"} | ack_answer(acked)
                case "hb":
                    beat = await call(lambda node: node.devices.heartbeat(key, HeartbeatBody.model_validate(body)))
                    answer = {"type": "hb"} | beat
                case _:
                    return
        except Problem as problem:
            answer = self._refused(problem)
        self.phone.world.referee.told(key, answer)
        self._seen(answer)
        self._events.append(steps.Came(answer | {"ref": frame["ref"]}))

    async def _fetch(self, cursor: str | None) -> None:
        phone = self.phone
        try:
            batch, phone.etag = await phone.world.call(lambda node: poll(phone, node, cursor, limit=PAGE))
        except Problem as problem:
            answer = self._refused(problem)
            phone.world.referee.told(phone.key, answer)
            self._seen(answer)
            self._events.append(steps.Came(answer))
            return
        page = wire.page(batch.json, caught_up=batch.caught_up)
        plain = self._batches[id(page)] = json.loads(batch.json)
        phone.world.referee.told(phone.key, plain, batch.json)
        self._events.append(steps.Came(page))
        if batch.to_seq == batch.from_seq:
            self._events.append(steps.Came({"type": "nothing", "next_poll_s": self.draws.count(1, 30)}))

    def _refused(self, problem: Problem) -> dict[str, Any]:
        """As the real client reads it from HTTP."""
        if isinstance(problem, CursorRefused) and "resync" in problem.extra:
            return {"type": "resync_required", "resync": problem.extra["resync"]}
        if problem.code == "state_conflict" or problem.status in {401, 403}:
            raise problem
        frame: dict[str, Any] = {"type": "error", "code": problem.code, "detail": problem.detail}
        if problem.retryable:
            frame["retry_after_ms"] = 1000
        return frame
