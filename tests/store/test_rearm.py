"""(P) and (Q) of protocol 6.5: after every transaction, whatever came before, a device that lacks something is told in time.

Random stories of senders, devices, vendors and clocks; after each step `law.py` reads the rows and judges them by its own
plain account of the protocol. I1, I8 to I10, I15, I18 to I20, I25.
"""

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import law
import pytest
from clocks import START_MS, SetClock
from house import FREE, House, address
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec import structs

from providers.contract import Scope as VendorScope
from providers.contract import Verdict
from relay.errors import Problem
from relay.inbox import push_due
from relay.inbox.ack import Nack
from relay.inbox.online import ForeignWord
from relay.inbox.push_due import Later, Rest
from relay.model import Device, DeviceState, Facts, NotifyPolicy, Policy, Scope
from relay.push.attempts import Attempt
from relay.push.escalating import escalate
from relay.push.mending import mend
from relay.store.engine import Engine
from relay.store.inline import InlineEngine
from relay.store.schema import metadata

DEVICES = ("ann/phone", "ann/tablet", "bob/phone")
CONVERSATIONS = ("c1", "c2")
TOKENS = ("t1", "t2", "t3")
VERDICTS = (
    Verdict.ACCEPTED,
    Verdict.RETRY,
    Verdict.TOKEN_DEAD,
    Verdict.REFUSED,
    Verdict.TOO_LARGE,
    Verdict.MISCONFIGURED,
    None,
)
WAITS_S = (0, 0.3, 0.6, 2, 4, 9, 31, 61, 3_601, 22_000, 90_000)
POLICY = Policy(
    inbox_max=30,
    system_reserve=0,
    replay_window_ms=3_600_000,
    upgrade_pin_ms=3_600_000,
    dormant_ms=86_400_000,
    devices_max=4,
)


class Story:
    """Takes steps in a house; a step that has nothing to do does nothing."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.attempts: list[Attempt] = []
        self.messages: list[str] = []

    async def take(self, step: tuple[Any, ...]) -> None:
        name, *arguments = step
        with suppress(Problem):  # refused: then it must have changed nothing, which the law sees as well
            await getattr(self, name)(*arguments)

    async def begin(self) -> None:
        for name, token in zip(DEVICES, TOKENS, strict=True):
            await self.house.register(name, token)

    # --- steps ---

    async def passes(self, seconds: float) -> None:
        self.house.clock.forward(s=seconds)

    async def send(self, about: dict[str, Any]) -> None:
        more = {key: value for key, value in about.items() if key != "users"}
        self.messages.append((await self.house.send(*about.get("users", ()), **more)).message_id)

    async def cancel(self, at: int) -> None:
        if self.messages:
            await self.house.inbox.cancel(self.house.app, self.messages[at % len(self.messages)])

    async def expire(self) -> None:
        await self.house.inbox.expire()

    async def tells(self) -> None:
        """A round of the dispatcher whose pushes are taken, and later what has a step by then."""
        await self.house.told()
        await self.passes(31)
        await self.steps()

    async def steps(self) -> None:
        await self.house.engine.write(lambda conn, now_ms: escalate(conn, now_ms, lambda _: self.house.policy))

    async def prune(self) -> None:
        await self.house.inbox.prune([self.house.key(name).user for name in DEVICES])

    async def silence(self) -> None:
        before_ms = self.house.clock.now_ms() - self.house.policy.dormant_ms
        await self.house.inbox.silence(DeviceState.ACTIVE, before_ms=before_ms, limit=10)

    async def register(self, name: str, tokens: tuple[str, ...] | None, install_id: str | None) -> None:
        await self.house.register(name, *(tokens or ()), install_id=install_id)

    async def addresses(self, name: str, tokens: tuple[str, ...]) -> None:
        await self.house.inbox.replace_addresses(self.house.key(name), [address(token) for token in tokens])

    async def sign_out(self, name: str) -> None:
        await self.house.inbox.sign_out(self.house.key(name))

    async def hello(self, name: str, which: str, about: dict[str, Any]) -> None:
        store = self.house.store(name)
        if which == "older" and store.past:
            store.cursor = store.past[len(store.past) // 2]
        elif which == "none":
            store.cursor = None
        elif which == "garbage":
            store.cursor = "A" * 88
        elif which == "wiped":
            store.store_id = f"{store.store_id}x"
        tokens = about.get("tokens")
        addresses = None if tokens is None else tuple(address(token) for token in tokens)
        more = {key: value for key, value in about.items() if key != "tokens"}
        await self.house.hello(name, addresses=addresses, **more)

    async def reads_page(self, name: str, limit: int, acks: bool) -> None:
        await self.house.page(name, limit=limit)
        if acks:
            await self.house.ack(name)

    async def acks_ids(self, name: str, at: int, nack: str | None) -> None:
        if not self.messages:
            return
        id_ = self.messages[at % len(self.messages)]
        if nack is None:
            await self.house.ack(name, ids=(id_,))
        else:
            await self.house.ack(name, nacks=(Nack(id_, nack),))

    async def marks_read(self, name: str, conversation: str, seq: int) -> None:
        await self.house.ack(name, reads=((conversation, seq),))

    async def goes(self, name: str, linger_ms: int, tell: bool) -> None:
        await self.house.bye(name, linger_ms=linger_ms, tell=tell)

    async def says(self, name: str, facts: Facts) -> None:
        session = (await self.house.device(name)).session
        await self.house.inbox.said(self.house.key(name), session, facts)

    async def gateway_says(self, name: str, state: str) -> None:
        await self.house.inbox.foreign(ForeignWord(device=self.house.key(name), state=state))

    async def plans(self) -> None:
        self.attempts += await self.house.plan()

    async def settles(self, at: int, verdict: Verdict | None, spare: bool) -> None:
        if not self.attempts:
            return
        attempt = self.attempts.pop(at % len(self.attempts))
        if verdict is Verdict.MISCONFIGURED:
            self.house.views = {
                "v": structs.replace(FREE, parked=True)
            }  # what the worker's account does when it hears that
            await self.house.settle(attempt, verdict, scope=VendorScope.ACCOUNT)
        else:
            await self.house.settle(attempt, verdict, spare=spare)

    async def mends_account(self) -> None:
        self.house.views = {"v": FREE}
        await mend(self.house.engine, self.house.app, ["v"])


_name = st.sampled_from(DEVICES)
_index = st.integers(0, 30)
_tokens = st.lists(st.sampled_from(TOKENS), max_size=2, unique=True).map(tuple)
_about_send = st.fixed_dictionaries(
    {},
    optional={
        "users": st.sampled_from([("bob",), ("ann", "bob")]),
        "push": st.none(),
        "conversation_id": st.sampled_from(CONVERSATIONS),
        "collapse_key": st.just("score"),
        "ttl_s": st.sampled_from([0, 1, 3, 60, 5_000]),
        "scope": st.sampled_from(
            [
                Scope(devices=("phone",)),
                Scope(exclude_devices=("phone",)),
                Scope(platforms=("ios",)),
                Scope(first_ack_wins=True),
            ]
        ),
        "escalate": st.just('[{"after_s":20,"by":"next_address"},{"after_s":60,"by":"next_address"}]'),
        "min_schema": st.just(7),
        "fallback": st.just('"old"'),
        "hold": st.booleans(),
        "notify_policy": st.sampled_from(list(NotifyPolicy)),
        "sender_user": st.just("bob"),
        "sender_device": st.just("phone"),
    },
).map(lambda about: about | ({"fallback_h": "11"} if "fallback" in about else {}))
_about_hello = st.fixed_dictionaries(
    {},
    optional={
        "schema": st.sampled_from([6, 7]),
        "app_version": st.sampled_from(["5.3", "5.4"]),
        "platform": st.sampled_from(["ios", "android"]),
        "background": st.booleans(),
        "tokens": _tokens,
        "replaces": st.just("tablet"),
    },
)
_steps = st.one_of(
    st.tuples(st.just("passes"), st.sampled_from(WAITS_S)),
    st.tuples(st.just("passes"), st.sampled_from(WAITS_S)),
    st.tuples(st.just("send"), _about_send),
    st.tuples(st.just("send"), _about_send),
    st.tuples(st.just("cancel"), _index),
    st.tuples(st.just("expire")),
    st.tuples(st.just("steps")),
    st.tuples(st.just("tells")),
    st.tuples(st.just("prune")),
    st.tuples(st.just("silence")),
    st.tuples(st.just("register"), _name, st.none() | _tokens, st.none() | st.just("i1")),
    st.tuples(st.just("addresses"), _name, _tokens),
    st.tuples(st.just("sign_out"), _name),
    st.tuples(
        st.just("hello"), _name, st.sampled_from(["own", "own", "older", "none", "garbage", "wiped"]), _about_hello
    ),
    st.tuples(st.just("reads_page"), _name, st.sampled_from([1, 3, 200]), st.booleans()),
    st.tuples(st.just("acks_ids"), _name, _index, st.sampled_from([None, None, "unknown_type", "undecodable"])),
    st.tuples(st.just("marks_read"), _name, st.sampled_from(CONVERSATIONS), st.integers(1, 30)),
    st.tuples(st.just("goes"), _name, st.sampled_from([0, 5_000, 30_000]), st.booleans()),
    st.tuples(st.just("says"), _name, st.builds(Facts, st.booleans(), st.none() | st.sampled_from(CONVERSATIONS))),
    st.tuples(st.just("gateway_says"), _name, st.sampled_from(["foreground", "background", "offline"])),
    st.tuples(st.just("plans")),
    st.tuples(st.just("plans")),
    st.tuples(st.just("settles"), _index, st.sampled_from(VERDICTS), st.booleans()),
    st.tuples(st.just("settles"), _index, st.just(Verdict.ACCEPTED), st.booleans()),
    st.tuples(st.just("mends_account")),
)


# --- random stories ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inline() -> Iterator[InlineEngine]:
    """One database in memory for all stories, emptied before each."""
    engine = InlineEngine(_clock)
    metadata.create_all(engine.conn)
    yield engine
    asyncio.run(engine.close())


_clock = SetClock()  # set anew by each story


async def tell(engine: Engine, clock: Any, steps: list[tuple[Any, ...]], policy: Policy) -> None:
    """A story, judged after each step."""
    house = await House(engine, clock, policy=policy).begin()
    story = Story(house)
    await story.begin()
    laws = law.everything(house.app, policy)
    for number, step in enumerate(steps):
        await story.take(step)
        complaints = await engine.read(laws)
        assert not complaints, f"after step {number}, {step}: {complaints}"


@pytest.mark.parametrize("notify", list(NotifyPolicy))
@settings(
    max_examples=15,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # a story is read as it is: shrinking one takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(_steps, min_size=20, max_size=60), trusting=st.booleans())
def test_whatever_happens_a_device_that_lacks_something_is_told_in_time(
    inline: InlineEngine, notify: NotifyPolicy, steps: list[tuple[Any, ...]], *, trusting: bool
) -> None:
    """(P) I18 and (Q) I19 after every transaction of a random story, for each notify policy."""
    _clock.ms = START_MS
    for table in metadata.sorted_tables:
        inline.conn.execute(table.delete())
    asyncio.run(tell(inline, _clock, steps, replace(POLICY, notify=notify, trust_presence=trusting)))


def random_step(rng: random.Random) -> tuple[Any, ...]:
    """A step without hypothesis, whose strategies draw only inside its own tests."""
    name = rng.choice(DEVICES)
    return rng.choice(
        [
            ("passes", rng.choice(WAITS_S)),
            ("send", {"conversation_id": rng.choice(CONVERSATIONS)}),
            ("send", {"collapse_key": "score", "ttl_s": rng.choice([3, 60, 5_000])}),
            ("send", {"users": ("ann", "bob"), "scope": Scope(first_ack_wins=rng.random() < 0.5)}),
            ("cancel", rng.randrange(30)),
            ("expire",),
            ("prune",),
            ("addresses", name, tuple(rng.sample(TOKENS, rng.randrange(3)))),
            ("register", name, tuple(rng.sample(TOKENS, 1)), None),
            ("sign_out", name) if rng.random() < 0.2 else ("plans",),
            ("hello", name, rng.choice(["own", "own", "older", "none", "wiped"]), {"background": rng.random() < 0.5}),
            ("reads_page", name, rng.choice([1, 3, 200]), rng.random() < 0.7),
            ("acks_ids", name, rng.randrange(30), rng.choice([None, "unknown_type"])),
            ("marks_read", name, rng.choice(CONVERSATIONS), rng.randrange(1, 30)),
            ("goes", name, rng.choice([0, 5_000]), True),
            ("says", name, Facts(background=rng.random() < 0.5, open_conversation=rng.choice([None, "c1"]))),
            ("plans",),
            ("settles", rng.randrange(9), rng.choice(VERDICTS), False),
            ("settles", rng.randrange(9), Verdict.ACCEPTED, False),
            ("mends_account",),
        ]
    )


async def test_a_long_story_on_each_store(engine: Engine, clock: Any) -> None:
    """(P), (Q) on PostgreSQL as well: the same steps, the same law."""
    rng = random.Random(5)
    steps = [random_step(rng) for _ in range(100)]
    await tell(engine, clock, steps, POLICY)


# --- single transactions whose omission strands somebody --------------------------------------------------------------


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock, policy=POLICY).begin()
    await house.register("ann/phone", "t1")
    await house.register("ann/tablet")
    return house


async def test_who_waited_for_somebody_looking_elsewhere_is_told_when_that_device_signs_out(
    house: House, clock: Any
) -> None:
    """REGISTER (sign-out): the tablet in the foreground put the phone's push off; gone, it does not."""
    await house.hello("ann/tablet")
    await house.send()
    clock.forward(s=1)
    assert await house.plan() == []
    assert (await house.job("ann/phone")).reason == Later.ELSEWHERE
    await house.inbox.sign_out(house.key("ann/tablet"))
    await house.checked(law.everything(house.app, house.policy))
    assert len(await house.plan()) == 1


@pytest.mark.parametrize("closed", [False, True])
async def test_what_the_first_device_had_taken_is_told_to_the_others_when_it_signs_out(
    house: House, clock: Any, closed: bool
) -> None:
    """`first_device`: the foreground device acked, so nobody else was told; it goes, and the others are."""
    await house.hello("ann/tablet")
    await house.send(notify_policy=NotifyPolicy.FIRST_DEVICE)
    await house.catch_up("ann/tablet")
    assert (await house.job("ann/phone")).reason == Rest.NOTHING_OWED
    if closed:
        await house.bye("ann/tablet")
    await house.inbox.sign_out(house.key("ann/tablet"))
    await house.checked(law.everything(house.app, house.policy))
    clock.forward(s=1)
    assert len(await house.plan()) == 1


@pytest.mark.parametrize("leaves", ["closes", "background", "new session"])
async def test_what_the_first_device_had_taken_stays_taken_when_its_user_leaves_it(
    house: House, clock: Any, leaves: str
) -> None:
    """It was acked with the app in the foreground: the phone need not ring for it once the desktop is closed."""
    await house.hello("ann/tablet")
    await house.send(notify_policy=NotifyPolicy.FIRST_DEVICE)
    await house.catch_up("ann/tablet")
    match leaves:
        case "closes":
            await house.bye("ann/tablet")
        case "background":
            tablet = await house.device("ann/tablet")
            assert await house.inbox.said(tablet.key, tablet.session, Facts(background=True))
        case _:
            await house.hello("ann/tablet", background=True)
    await house.checked(law.everything(house.app, house.policy))
    clock.forward(s=60)
    assert await house.plan() == []
    late = await house.send(notify_policy=NotifyPolicy.FIRST_DEVICE)
    await house.catch_up("ann/tablet")  # in the background, or not at all in sight
    clock.forward(s=60)
    (attempt,) = [one for one in await house.plan() if one.device.device_id == "phone"]
    assert [note.ids for note in attempt.send.notes] == [(late.message_id,)]


async def test_what_the_first_device_had_acked_by_its_ids_stays_taken_too(house: House) -> None:
    await house.hello("ann/tablet")
    ids = [(await house.send(notify_policy=NotifyPolicy.FIRST_DEVICE)).message_id for _ in range(4)]
    await house.ack("ann/tablet", ids=(ids[1], ids[3]))
    await house.ack("ann/tablet", ids=(ids[0],))
    await house.bye("ann/tablet")
    await house.checked(law.everything(house.app, house.policy))
    assert (await house.device("ann/tablet")).seen_seq == 2, "what lies beyond a hole is news again"


async def test_a_push_that_went_to_the_token_before_has_told_nobody(house: House, clock: Any) -> None:
    """§5: the token is rotated while the vendor works; its `accepted` for the old one does not count for the new one."""
    await house.send()
    clock.forward(s=1)
    (attempt,) = await house.plan()
    await house.inbox.replace_addresses(house.key("ann/phone"), [address("t2")])
    await house.settle(attempt, Verdict.ACCEPTED)
    assert (await house.device("ann/phone")).pushed_seq == 0
    await house.checked(law.everything(house.app, house.policy))
    (again,) = await house.plan()
    assert again.send.address.token_hash == b"t2"


async def test_an_account_that_is_mended_wakes_everybody_who_rested_for_it(house: House, clock: Any) -> None:
    """F32, I25: parked for a day, nothing failed; mended, all jobs are due."""
    await house.register("bob/phone", "t3")
    ids = [*await house.sends(2), *await house.sends(1, "bob")]
    clock.forward(s=1)
    first, second = await house.plan()
    await house.settle(first, Verdict.MISCONFIGURED, scope=VendorScope.ACCOUNT, vendor_code="InvalidProviderToken")
    house.views = {"v": structs.replace(FREE, parked=True)}
    await house.settle(second, None)
    assert await house.plan() == []
    for name in ("ann/phone", "bob/phone"):
        assert ((job := await house.job(name)).due_ms, job.reason) == (None, Rest.ACCOUNT_PARKED)
    clock.forward(s=86_400)
    assert await house.plan() == []
    await house.checked(law.everything(house.app, house.policy))
    house.views = {"v": FREE}
    await Story(house).mends_account()
    assert {attempt.device for attempt in await house.told()} == {house.key("ann/phone"), house.key("bob/phone")}
    assert await house.deliveries("delivery.failed") == []
    assert sorted(id_ for _, id_ in await house.deliveries("delivery.pushed")) == sorted(ids)


@pytest.mark.parametrize(
    ("mend", "complaint"),
    [
        ("UPDATE push_job SET due_ms = NULL, reason = 'nothing_owed'", "(P) I18"),
        ("UPDATE push_job SET due_ms = due_ms + 60001", "late"),
        ("UPDATE push_job SET due_ms = NULL, reason = NULL", "I25"),
        ("DELETE FROM push_job", "no job"),
        ("DELETE FROM inbox_entry WHERE seq = 1", "I1"),
        ("UPDATE device SET acked_seq = 9", "I8"),
        ("UPDATE device SET acked_high = 2", "I9"),
        ("UPDATE device SET has_address = 0", "has_address"),
    ],
)
async def test_the_law_sees_what_is_wrong(house: House, mend: str, complaint: str) -> None:
    """A judge that finds nothing wrong with damaged rows is no judge."""
    await house.sends(2)
    await house.engine.write(lambda conn, _: conn.exec_driver_sql(mend))
    assert any(complaint in one for one in await house.engine.read(law.everything(house.app, house.policy)))


# --- the table of 6.1 -------------------------------------------------------------------------------------------------

_ms = st.integers(0, 200_000)


@given(
    accepted_ms=_ms,
    now_ms=_ms,
    online_ms=st.none() | _ms,
    offline_ms=st.none() | _ms,
    linger_ms=st.none() | _ms,
    progress_ms=_ms,
    background=st.booleans(),
    elsewhere=st.booleans(),
    gateway=st.booleans(),
    trusting=st.booleans(),
)
@settings(max_examples=500)
def test_how_long_a_push_waits_is_the_table_of_6_1(
    *,
    accepted_ms: int,
    now_ms: int,
    online_ms: int | None,
    offline_ms: int | None,
    linger_ms: int | None,
    progress_ms: int,
    background: bool,
    elsewhere: bool,
    gateway: bool,
    trusting: bool,
) -> None:
    """`waits_until` against the same table written a second time."""
    policy = replace(POLICY, trust_presence=trusting)
    row: dict[str, Any] = dict.fromkeys(Device.__struct_fields__, 0) | {
        "user_id": "ann",
        "device_id": "phone",
        "state": DeviceState.ACTIVE,
        "online_since_ms": online_ms,
        "offline_since_ms": offline_ms,
        "linger_until_ms": linger_ms if offline_ms is not None else None,
        "progress_ms": progress_ms,
        "background": int(background),
        "node_id": "gateway" if gateway else "n1",
    }
    other = row | {"device_id": "tablet", "online_since_ms": 0, "offline_since_ms": None, "background": 0}

    class Two:
        """The user's devices: this one, and one that is looked at or not."""

        def here(self, _: str) -> list[dict[str, Any]]:
            return [row, other] if elsewhere else [row]

    at_ms, _ = push_due.waits_until(
        Device(**row), accepted_ms=accepted_ms, policy=policy, now_ms=now_ms, elsewhere=elsewhere, gateway=gateway
    )
    assert at_ms == law.latest(Two(), row, {"accepted_ms": accepted_ms}, policy, now_ms)  # type: ignore[arg-type]
