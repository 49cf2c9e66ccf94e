"""A house to play the inbox room in: its users' devices with their own stores, and a dispatcher that moves by hand.

Every method is one transaction of protocol 6.4 (or one reading). Nothing here knows what is right; `law.py` does.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from providers.contract import Capabilities, Outcome, Verdict
from relay.bus.local import LocalBus
from relay.inbox.ack import AckAnswer, AckRequest
from relay.inbox.addresses import NewAddress
from relay.inbox.cursor import CursorKeys
from relay.inbox.handshake import Hello, Welcome
from relay.inbox.registry import Registration
from relay.inbox.send import Accepted, Send
from relay.inbox.service import InboxService
from relay.jobs import Chores
from relay.model import Device, DeviceKey, Policy
from relay.push.accounts import Accounts
from relay.push.attempts import Attempt, still_needed
from relay.push.planning import plan_due
from relay.push.rules import Result
from relay.push.settling import Settlement, settle
from relay.push.situation import AccountView
from relay.push.worker import PushWorker
from relay.store import meta
from relay.store import queue as job_rows
from relay.store.engine import Engine

FREE = AccountView(capabilities=Capabilities(payload_bytes_max=4096, ttl_s_max=86_400))
ANN = "ann"


def key(name: str, *, app: str = "shop") -> DeviceKey:
    """`ann/phone` as a key."""
    user, device = name.split("/")
    return DeviceKey(app, user, device)


def address(token: str, *, account: str = "v") -> NewAddress:
    return NewAddress(account=account, kind="token", token_sealed=token.encode(), token_hash=token.encode())


def sending(number: int, **more: Any) -> Send:
    """A message to ann of this number, without a push of its own."""
    values: dict[str, Any] = {
        "app_id": "shop",
        "message_id": f"01900000-0000-7000-8000-{number:012d}",
        "id_from_key": False,
        "key": None,
        "body_hash": b"",
        "nonce": f"nonce-{number}",
        "users": (ANN,),
        "type": "text",
        "body": "1",
        "h": "00",
        "ttl_s": 604_800,
    }
    return Send(**(values | more))


@dataclass(slots=True)
class Store:
    """A client's own store: what it has, the cursor it was given with it, and which database that is."""

    store_id: str = "store-1"
    cursor: str | None = None
    session: int = 0
    ids: list[str] = field(default_factory=list)
    past: list[str] = field(default_factory=list)  # cursors it had before


@dataclass(slots=True)
class Page:
    """A batch as the client reads it."""

    json: dict[str, Any]
    caught_up: bool

    @property
    def ids(self) -> list[str]:
        return [entry["id"] for entry in self.json["entries"]]

    @property
    def seqs(self) -> list[int]:
        return [entry["seq"] for entry in self.json["entries"]]

    @property
    def gaps(self) -> list[tuple[int, int, str]]:
        return [(gap["from"], gap["to"], gap["why"]) for gap in self.json["gaps"]]

    @property
    def covered(self) -> list[int]:
        """The numbers it names, by entries and gaps together."""
        return sorted([*self.seqs, *(n for low, high, _ in self.gaps for n in range(low + 1, high + 1))])


class House:
    """One app on one store."""

    def __init__(
        self, engine: Engine, clock: Any, *, policy: Policy | None = None, app: str = "shop", seed: int = 1
    ) -> None:
        self.engine, self.clock, self.app = engine, clock, app
        self.policy = policy or Policy()
        self.rng = random.Random(seed)
        self.views: dict[str, AccountView] = {"v": FREE}
        self.sent = 0
        self.stores: dict[str, Store] = {}
        self.keys = CursorKeys(1, {1: b"k" * 32})
        self.inbox = InboxService(
            engine=engine,
            clock=clock,
            rng=self.rng,
            policy_of=lambda _: self.policy,
            keys=self.keys,
            hints=LocalBus(),
            node_id="n1",
        )

    async def begin(self) -> "House":
        await self.engine.write(lambda conn, now_ms: meta.prepare(conn, now_ms, self.rng))
        return self

    def key(self, name: str) -> DeviceKey:
        return key(name, app=self.app)

    def store(self, name: str) -> Store:
        return self.stores.setdefault(name, Store())

    # --- senders ---

    def message(self, *users: str, **more: Any) -> Send:
        self.sent += 1
        given: dict[str, Any] = {"app_id": self.app, "users": users or (ANN,), "push": '{"title":"t"}'}
        return sending(self.sent, **(given | more))

    async def send(self, *users: str, **more: Any) -> Accepted:
        return await self.inbox.accept(self.message(*users, **more))

    async def sends(self, count: int, *users: str, **more: Any) -> list[str]:
        """Many messages, one transaction each; their ids."""
        return [(await self.send(*users, **more)).message_id for _ in range(count)]

    async def fan_out(self) -> int:
        """Works off what is due of long fan-outs; how many steps that took."""
        steps = 0
        while await self.inbox.fan_out():
            steps += 1
        return steps

    # --- devices ---

    async def register(self, name: str, *tokens: str, **more: Any) -> Device:
        addresses = tuple(address(token) for token in tokens) if tokens else None
        device, _ = await self.inbox.register(Registration(device=self.key(name), addresses=addresses, **more))
        return device

    async def device(self, name: str) -> Device:
        return (await self.inbox.reader.device(self.key(name)))[0]

    async def hello(self, name: str, **more: Any) -> Welcome:
        """Shakes hands with what the client has in its store, and stores the answer."""
        store = self.store(name)
        welcome = await self.inbox.hello(self.said(name, **more))
        self._keep(store, welcome.cursor)
        store.session = welcome.session
        return welcome

    def said(self, name: str, **more: Any) -> Hello:
        """What the client says in its handshake."""
        store = self.store(name)
        values: dict[str, Any] = {"cursor": store.cursor, "store_id": store.store_id, "node_id": "n1"}
        return Hello(device=self.key(name), **(values | more))

    async def page(self, name: str, *, limit: int = 200, cursor: str | None = None, store: bool = True) -> Page:
        """The page after the client's cursor (or another one of its), which it stores unless told otherwise."""
        device, mine = self.key(name), self.store(name)
        text = mine.cursor if cursor is None else cursor
        reading = await self.inbox.reader.read(
            device, None if text is None else self.inbox.reader.unseal(text, device), limit=limit
        )
        assert reading.batch is not None
        page = Page(json.loads(reading.batch.json), reading.batch.caught_up)
        if store:
            self._keep(mine, page.json["cursor"])
            mine.ids += page.ids
        return page

    @staticmethod
    def _keep(store: Store, cursor: str) -> None:
        if store.cursor is not None:
            store.past.append(store.cursor)
        store.cursor = cursor

    async def ack(self, name: str, cursor: str | None = None, **more: Any) -> AckAnswer:
        """Acks what the client has stored (or another cursor of its)."""
        device = self.key(name)
        text = cursor or self.store(name).cursor
        if not {"ids", "nacks", "reads", "upto"} & more.keys() and text is not None:
            more["cursor"] = self.inbox.reader.unseal(text, device)
        return await self.inbox.ack(AckRequest(device=device, **more))

    async def catch_up(self, name: str) -> list[str]:
        """Reads to the head and acks it; what came."""
        ids: list[str] = []
        while True:
            page = await self.page(name)
            ids += page.ids
            if page.caught_up:
                await self.ack(name)
                return ids

    async def bye(self, name: str, *, linger_ms: int = 0, tell: bool = True) -> bool:
        return await self.inbox.went(self.key(name), (await self.device(name)).session, linger_ms=linger_ms, tell=tell)

    # --- the dispatcher ---

    async def plan(self, *, limit: int = 10, owner: str = "n1", suspects: Sequence[int] = ()) -> list[Attempt]:
        """`owner` is the process that plans; `suspects` are what it has in flight of jobs that others died with."""
        views: Mapping[str, AccountView] = dict(self.views)
        planned = await self.engine.write(
            lambda conn, now_ms: plan_due(
                conn,
                now_ms,
                lambda _: self.policy,
                lambda _: views,
                owner=owner,
                limit=limit,
                boot_ms=0,
                suspects=suspects,
            )
        )
        return list(planned.attempts)

    def worker(self, accounts: Accounts, **more: Any) -> PushWorker:
        """The real dispatcher, for these accounts. Nothing is sealed here."""
        given: dict[str, Any] = {"node_id": "n1", "open_token": lambda _, sealed: sealed.decode()}
        return PushWorker(self.engine, self.clock, self.rng, accounts, lambda _: self.policy, **(given | more))

    async def settle(self, attempt: Attempt, verdict: Verdict | None, *, spare: bool = False, **more: Any) -> Any:
        """The vendor's verdict comes in; None: nothing was sent."""
        outcome = None if verdict is None else Outcome(verdict=verdict, **more)
        one = Settlement(attempt=attempt, result=Result(outcome), retry_ms=self.clock.now_ms() + 5_000, spare=spare)
        (then,) = await self.engine.write(lambda conn, now_ms: settle(conn, now_ms, [one], lambda _: self.policy))
        return then

    async def needed(self, attempt: Attempt) -> bool:
        (answer,) = await self.engine.read(lambda conn, now_ms: still_needed(conn, now_ms, [attempt]))
        return answer

    async def told(self, *, verdict: Verdict = Verdict.ACCEPTED) -> list[Attempt]:
        """One round of the dispatcher: plans, looks once more, sends, settles."""
        attempts = await self.plan()
        for attempt in attempts:
            await self.settle(attempt, verdict if await self.needed(attempt) else None)
        return attempts

    async def job(self, name: str) -> Any:
        device = self.key(name)
        return (await self.engine.read(lambda conn, _: job_rows.jobs_of(conn, [device.user])))[device.user][
            device.device_id
        ]

    def chores(self, **more: Any) -> Chores:
        async def nothing() -> None: ...

        given: dict[str, Any] = {
            "engine": self.engine,
            "inbox": self.inbox,
            "clock": self.clock,
            "node_id": "n1",
            "witness": None,
            "dormant_ms": self.policy.dormant_ms,
            "gone_ms": self.policy.gone_ms,
            "history_ms": self.policy.history_ms,
            "prune_events": nothing,
        }
        return Chores(**(given | more))

    # --- looking at rows ---

    async def events(self) -> list[tuple[str, dict[str, Any]]]:
        rows = await self.rows("SELECT type, data FROM event ORDER BY created_ms, event_id")
        return [(row["type"], json.loads(row["data"])) for row in rows]

    async def deliveries(self, type_: str) -> list[tuple[str, str]]:
        """(device, message id) of each delivery that was told so."""
        return sorted(
            (data["device"] or "", one["message_id"])
            for kind, data in await self.events()
            if kind == type_
            for one in data["deliveries"]
        )

    async def rows(self, statement: str) -> list[dict[str, Any]]:
        return await self.engine.read(lambda conn, _: [dict(r._mapping) for r in conn.exec_driver_sql(statement)])

    async def checked(self, law: Callable[[Any, int], list[str]]) -> None:
        """Asserts that `law` finds nothing to complain about."""
        complaints = await self.engine.read(law)
        assert not complaints, "; ".join(complaints)
