"""Endpoints, deliveries and the numbers of events, the same on SQLite and PostgreSQL."""

import asyncio
import json
import random
from collections.abc import Iterable
from typing import Any, cast

import pytest
from sqlalchemy import delete, select

from relay.errors import Missing
from relay.store import claims, deliveries, endpoints, event_log, sequencer
from relay.store.apps import create_app
from relay.store.claims import Claimed
from relay.store.endpoints import DeliveryKey, EndpointKey
from relay.store.engine import Engine
from relay.store.events import NewEvent, emit
from relay.store.postgres import PostgresEngine
from relay.store.row_security import see_all
from relay.store.schema.apps import app
from relay.store.schema.webhooks import delivery, endpoint, event
from relay.webhooks import event_types, rules
from relay.webhooks.rules import Signal
from relay.webhooks.settling import Done, judge, settle

DAY_MS = 86_400_000


@pytest.fixture
def house(engine: Engine, clock: Any) -> "House":
    return House(engine, clock)


def by_the_plan(now_ms: int) -> claims.AfterLoss:
    """What the worker does with a delivery whose process has ended."""

    def after_loss(attempts: int, again: bool) -> tuple[str, int, int | None]:
        found = rules.after_loss(attempts, again=again, rng=random.Random(3))
        return found.state, found.attempts, None if found.wait_ms is None else now_ms + found.wait_ms

    return after_loss


class House:
    """Short words for what these tests do."""

    def __init__(self, engine: Engine, clock: Any) -> None:
        self.engine = engine
        self.clock = clock
        self.made = 0

    async def app(self, *app_ids: str) -> None:
        for app_id in app_ids:
            await self.engine.write(
                lambda conn, now_ms, app_id=app_id: create_app(conn, now_ms, app_id=app_id, id_secret=b"s")  # type: ignore[misc]
            )

    async def endpoint(self, name: str, *types: str, app_id: str = "a") -> EndpointKey:
        key = EndpointKey(app_id, name)
        await self.engine.write(
            lambda conn, now_ms: endpoints.create_endpoint(
                conn,
                now_ms,
                key,
                url=f"https://{name}.example/",
                description=None,
                types=types or ("*",),
                secret_sealed=b"secret",
                headers_sealed=None,
            )
        )
        return key

    async def emit(self, count: int = 1, *, type_: str = "delivery.acked", app_id: str = "a") -> list[str]:
        ids = [f"evt_{self.made + n:06}" for n in range(count)]
        self.made += count
        new = [NewEvent(app_id=app_id, event_id=i, type=type_, data={"id": i}) for i in ids]
        await self.engine.write(lambda conn, now_ms: emit(conn, now_ms, new))
        return ids

    async def number(self, limit: int = 1000) -> int:
        return await self.engine.write(
            lambda conn, now_ms: sequencer.number_events(conn, now_ms, limit=limit, wants=event_types.wants)
        )

    async def claim(self, limit: int = 100, *, owner: str = "n1", reserve: int = 0) -> list[Claimed]:
        return await self.engine.write(
            lambda conn, now_ms: claims.claim_deliveries(
                conn, now_ms, owner=owner, hold_ms=30_000, limit=limit, after_loss=by_the_plan(now_ms), reserve=reserve
            )
        )

    async def settle(self, claimed: Iterable[Claimed], word: str = "200") -> int:
        attempt = (
            rules.answered(int(word), truncated=False, retry_after=None, now_ms=0)
            if word.isdigit()
            else rules.unanswered(word)
        )
        done = [Done(c, attempt, rules.after_attempt(c.attempts, attempt, random.Random(3))) for c in claimed]
        return await self.engine.write(lambda conn, now_ms: settle(conn, now_ms, done))

    async def rows(self, *columns: Any, where: Any = None) -> list[tuple[Any, ...]]:
        statement = select(*columns)
        statement = statement if where is None else statement.where(where)
        found = await self.engine.read(lambda conn, _: conn.execute(statement).all())
        return sorted(tuple(row) for row in found)

    async def sequences(self, app_id: str = "a") -> list[int]:
        rows = await self.rows(event.c.sequence, where=(event.c.app_id == app_id) & event.c.sequence.is_not(None))
        return [cast("int", row[0]) for row in rows]

    async def health(self, key: EndpointKey) -> tuple[str, int | None]:
        return (await self.engine.read(lambda conn, _: endpoints.health_of(conn, [key])))[key]

    async def pull(
        self, after: int | None = None, *, limit: int = 100, types: Iterable[str] = (), all_but: bool = True
    ) -> event_log.Events:
        return await self.engine.read(
            lambda conn, _: event_log.events_after(
                conn, "a", after_seq=after, limit=limit, types=list(types), all_but=all_but
            )
        )


def ids(claimed: Iterable[Claimed]) -> list[str]:
    return [one.key.event_id for one in claimed]


# --- numbers ---


async def test_events_get_dense_numbers_per_app_in_the_order_of_their_making(house: House) -> None:
    await house.app("a", "b")
    first = await house.emit(3)
    await house.emit(2, app_id="b")
    house.clock.forward(ms=5)
    second = await house.emit(2)
    assert await house.number() == 7
    page = await house.pull()
    assert [(one.sequence, one.event_id) for one in page.rows] == list(enumerate(first + second, start=1))
    assert await house.sequences("b") == [1, 2]
    assert await house.rows(app.c.app_id, app.c.event_head) == [("a", 5), ("b", 2)]


async def test_of_one_moment_deliveries_have_their_numbers_before_what_they_complete(house: House) -> None:
    await house.app("a")
    await house.emit(2, type_="message.completed")
    await house.emit(2, type_="delivery.acked")
    await house.number()
    told = (await house.pull()).rows
    assert [one.type for one in told] == ["delivery.acked"] * 2 + ["message.completed"] * 2


async def test_numbering_goes_on_where_it_stopped(house: House) -> None:
    await house.app("a")
    await house.emit(5)
    assert [await house.number(limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert await house.sequences() == [1, 2, 3, 4, 5]


async def test_an_event_told_twice_has_one_number(house: House) -> None:
    await house.app("a")
    new = [NewEvent(app_id="a", event_id="evt_x", type="device.online", data={})]
    for _ in range(3):
        await house.engine.write(lambda conn, now_ms: emit(conn, now_ms, new))
        await house.number()
    assert await house.sequences() == [1]


async def test_many_sequencers_and_writers_leave_no_hole_that_a_reader_could_see(house: House) -> None:
    await house.app("a", "b")
    stop = asyncio.Event()
    seen: list[int] = []

    async def read() -> None:
        after = 0
        while not stop.is_set() or len(seen) < 60:
            page = await house.pull(after)
            numbers = [one.sequence for one in page.rows]
            assert numbers == list(range(after + 1, after + 1 + len(numbers)))
            seen.extend(numbers)
            after = page.upto_seq
            await asyncio.sleep(0)  # noqa: TID251 - only gives way

    async def write() -> None:
        for _ in range(10):
            await asyncio.gather(house.emit(3), house.emit(2, app_id="b"))

    async def number() -> None:
        while not stop.is_set():
            await house.number(limit=7)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(read())
        numbering = [group.create_task(number()) for _ in range(3)]
        await asyncio.gather(write(), write())
        while await house.rows(event.c.event_id, where=event.c.sequence.is_(None)):
            await house.number()
        stop.set()
        await asyncio.wait(numbering)
    assert seen == list(range(1, 61))
    assert await house.sequences("b") == list(range(1, 41))


async def test_a_sequencer_that_has_not_committed_holds_up_only_its_own_app(house: House) -> None:
    if not isinstance(house.engine, PostgresEngine):
        pytest.skip("SQLite has one writer")
    await house.app("a", "b")
    await house.emit(2)
    await house.emit(2, app_id="b")
    async with house.engine.connections.connect() as other:
        await other.exec_driver_sql("BEGIN")
        await other.run_sync(see_all)
        await other.execute(select(app).where(app.c.app_id == "a").with_for_update(key_share=True))
        assert await house.number() == 2
        assert await house.sequences("a") == []
        assert await house.sequences("b") == [1, 2]
        await other.exec_driver_sql("ROLLBACK")
    assert await house.number() == 2


async def test_numbering_makes_a_delivery_for_each_endpoint_that_wants_it(house: House) -> None:
    await house.app("a", "b")
    await house.endpoint("star")
    await house.endpoint("picky", "delivery.pushed", "device.online")
    await house.endpoint("foreign", app_id="b")
    off = await house.endpoint("off")
    await house.engine.write(lambda conn, now_ms: judge(conn, now_ms, {off: Signal.DISABLE}))
    gone = await house.endpoint("gone")
    await house.engine.write(lambda conn, _: endpoints.delete_endpoint(conn, gone))
    await house.number()  # what disabling told
    await house.settle(await house.claim())
    (acked,) = await house.emit(type_="delivery.acked")
    (pushed,) = await house.emit(type_="delivery.pushed")
    (online,) = await house.emit(type_="device.online")
    await house.number()
    due = await house.rows(delivery.c.endpoint_id, delivery.c.event_id, where=delivery.c.due_ms.is_not(None))
    assert due == [("picky", pushed), ("picky", online), ("star", acked), ("star", online)]


# --- claims ---


async def test_a_claim_has_all_that_is_needed_to_send(house: House) -> None:
    await house.app("a")
    key = await house.endpoint("one")
    (event_id,) = await house.emit()
    await house.number()
    (claimed,) = await house.claim()
    assert claimed.key == DeliveryKey(*key, event_id)
    assert (claimed.url, claimed.sequence, claimed.attempts, claimed.claim_token) == ("https://one.example/", 1, 0, 1)
    assert (claimed.type, json.loads(claimed.data)) == ("delivery.acked", {"id": event_id})
    assert (claimed.sealed.secret, claimed.sealed.old_secret) == (b"secret", None)
    assert await house.claim() == []


async def test_an_endpoint_never_has_more_than_five_in_flight(house: House) -> None:
    await house.app("a")
    await house.endpoint("one")
    await house.emit(20)
    await house.number()
    first = await house.claim()
    assert len(first) == 5
    assert await house.claim() == []
    await house.settle(first[:2])
    assert len(await house.claim(owner="n2")) == 2


async def test_workers_together_stay_within_five_and_take_nothing_twice(house: House) -> None:
    await house.app("a")
    for n in range(4):
        await house.endpoint(f"e{n}")
    await house.emit(30)
    await house.number()
    rounds = await asyncio.gather(*(house.claim(owner=f"n{n}") for n in range(6)))
    taken = [one.key for claimed in rounds for one in claimed]
    assert len(taken) == len(set(taken))
    for n in range(4):
        assert sum(key.endpoint_id == f"e{n}" for key in taken) <= 5
    everything = taken + [one.key for one in await house.claim()]
    assert len(everything) == len(set(everything)) == 20


async def test_a_claim_that_has_not_committed_counts_among_the_five(house: House) -> None:
    if not isinstance(house.engine, PostgresEngine):
        pytest.skip("SQLite has one writer")
    await house.app("a")
    await house.endpoint("one")
    await house.emit(20)
    await house.number()
    async with house.engine.connections.connect() as other:
        await other.exec_driver_sql("BEGIN")
        await other.run_sync(see_all)
        claimed = await other.run_sync(
            lambda conn: claims.claim_deliveries(
                conn, house.clock.ms, owner="n1", hold_ms=30_000, limit=9, after_loss=by_the_plan(house.clock.ms)
            )
        )
        assert len(claimed) == 5
        assert await house.claim(owner="n2") == []
        await other.exec_driver_sql("COMMIT")
    assert await house.claim(owner="n2") == []


async def test_a_large_backlog_is_no_endpoints_neighbours_trouble(house: House) -> None:
    await house.app("a")
    await house.endpoint("busy")
    await house.emit(300)
    await house.number()
    house.clock.forward(s=1)
    await house.endpoint("calm")
    await house.emit(1)
    await house.number()
    claimed = await house.claim(limit=2)
    assert {one.key.endpoint_id for one in claimed} == {"busy", "calm"}


async def test_of_the_limit_a_reserve_is_kept_for_who_has_nothing_in_flight(house: House) -> None:
    await house.app("a")
    for n in range(4):
        await house.endpoint(f"slow{n}")
    await house.emit(10)
    await house.number()
    assert len(await house.claim(limit=12, reserve=6)) == 6  # one each, two more, and then only the reserve is left
    await house.endpoint("late")
    await house.emit(1)
    await house.number()
    assert [one.key.endpoint_id for one in await house.claim(limit=6, reserve=6)] == ["late"]


async def test_the_longest_due_goes_first(house: House) -> None:
    await house.app("a")
    await house.endpoint("one")
    for _ in range(3):
        await house.emit(1)
        await house.number()
        house.clock.forward(ms=10)
    assert ids(await house.claim(limit=2)) == ["evt_000000", "evt_000001"]


async def test_a_claim_that_lapsed_is_taken_again_and_its_late_result_dropped(house: House) -> None:
    await house.app("a")
    key = await house.endpoint("one")
    await house.emit()
    await house.number()
    (first,) = await house.claim(owner="n1")
    house.clock.forward(s=29)
    assert await house.claim(owner="n2") == []
    house.clock.forward(s=1)
    (second,) = await house.claim(owner="n2")
    assert (second.key, second.claim_token) == (first.key, 2)
    assert await house.settle([first], "410") == 1  # dropped
    assert await house.health(key) == ("active", None)
    assert await house.settle([second]) == 0
    assert await house.rows(delivery.c.state, delivery.c.last_result) == [("delivered", "status_200")]
    assert await house.settle([second]) == 1  # a repeated settling is late, too


async def test_flt_23_an_attempt_that_its_process_did_not_outlive_counts_and_from_the_second_on_waits_by_the_plan(
    house: House,
) -> None:
    await house.app("a")
    key = await house.endpoint("one")
    await house.emit()
    await house.number()
    waits: list[float] = []
    for owner in map(str, range(100)):
        while not (claimed := await house.claim(owner=owner)):
            (state, due_ms) = (await house.rows(delivery.c.state, delivery.c.due_ms))[0]
            if state != "waiting":
                break
            waits.append(round((due_ms - house.clock.ms) / 1000))
            house.clock.ms = due_ms
        if not claimed:
            break
        house.clock.forward(s=30)  # the process is no more; its claim lapses
    (row,) = await house.rows(delivery.c.state, delivery.c.attempts, delivery.c.last_result, delivery.c.claim)
    assert row == ("abandoned", rules.ATTEMPTS_MAX, "relay_ended", None)
    assert len(waits) == rules.ATTEMPTS_MAX - 2, "all but the first and the last"
    assert waits == sorted(waits)
    assert waits[0] >= 240
    assert await house.health(key) == ("active", None), "it is not the endpoint's fault"


async def test_flt_23_who_was_in_flight_beside_it_goes_on_at_once_and_its_plan_with_it(house: House) -> None:
    await house.app("a")
    await house.endpoint("one")
    await house.emit()
    await house.number()
    await house.claim(owner="dead")
    house.clock.forward(s=30)
    (again,) = await house.claim(owner="me")
    assert again.attempts == 1
    assert await house.rows(delivery.c.attempts) == [(1,)], "counted before it is sent"
    assert await house.settle([again]) == 0
    assert await house.rows(delivery.c.state, delivery.c.attempts) == [("delivered", 2)]


async def test_claims_given_back_burn_no_attempt(house: House) -> None:
    await house.app("a")
    await house.endpoint("one")
    await house.emit(3)
    await house.number()
    await house.claim(limit=2, owner="n1")
    await house.claim(limit=1, owner="n2")
    assert await house.engine.write(lambda conn, _: claims.release_claims(conn, owner="n1")) == 2
    again = await house.claim(owner="n3")
    assert [(one.attempts, one.claim_token) for one in again] == [(0, 2), (0, 2)]


async def test_after_a_restart_on_sqlite_claims_of_the_dead_are_free_by_the_plan(house: House) -> None:
    await house.app("a")
    await house.endpoint("one")
    await house.emit(2)
    await house.number()
    (first,) = await house.claim(limit=1, owner="dead")
    (mine,) = await house.claim(limit=1, owner="me")
    freed = await house.engine.write(lambda conn, _: claims.free_orphans(conn, owner="me"))
    if isinstance(house.engine, PostgresEngine):
        assert freed == 0  # it may well live, on another machine
        return
    assert freed == 1
    assert [one.key for one in await house.claim(owner="me")] == [first.key]
    assert await house.settle([mine]) == 0


async def test_a_delivery_whose_event_was_pruned_meanwhile_is_abandoned(house: House) -> None:
    await house.app("a")
    await house.endpoint("one")
    gone, kept = await house.emit(2)
    await house.number()
    await house.engine.write(lambda conn, _: conn.execute(delete(event).where(event.c.event_id == gone)) and None)
    assert ids(await house.claim()) == [kept]
    assert await house.rows(
        delivery.c.state, delivery.c.last_result, delivery.c.claim, where=delivery.c.event_id == gone
    ) == [("abandoned", "event_gone", None)]


# --- what results do ---


async def test_a_failure_waits_for_its_next_attempt(house: House) -> None:
    await house.app("a")
    key = await house.endpoint("one")
    await house.emit()
    await house.number()
    await house.settle(await house.claim(), "500")
    ((state, attempts, due_ms, result),) = await house.rows(
        delivery.c.state, delivery.c.attempts, delivery.c.due_ms, delivery.c.last_result
    )
    assert (state, attempts, result) == ("waiting", 1, "status_500")
    assert 4000 <= due_ms - house.clock.ms <= 6000
    assert await house.health(key) == ("failing", house.clock.ms)
    assert await house.claim() == []
    house.clock.forward(s=6)
    (again,) = await house.claim()
    assert (again.attempts, again.claim_token) == (1, 2)
    await house.settle([again])
    assert await house.health(key) == ("active", None)


async def test_ten_failures_abandon_a_delivery_but_not_its_event(house: House) -> None:
    began_ms = house.clock.ms
    await house.app("a")
    await house.endpoint("one")
    await house.emit()
    await house.number()
    for _ in range(9):
        await house.settle(await house.claim(), "connect_failed")
        ((house.clock.ms,),) = await house.rows(delivery.c.due_ms)
    await house.settle(await house.claim(), "connect_failed")
    assert await house.rows(delivery.c.state, delivery.c.attempts, delivery.c.due_ms) == [("abandoned", 10, None)]
    assert 60 * 3600 < (house.clock.ms - began_ms) / 1000 < 92 * 3600
    assert [one.event_id for one in (await house.pull()).rows] == ["evt_000000"]


async def test_410_disables_the_endpoint_and_says_so(house: House) -> None:
    await house.app("a")
    key = await house.endpoint("one")
    other = await house.endpoint("other")
    await house.emit(7)
    await house.number()
    mine = [one for one in await house.claim() if one.key.endpoint == key]
    await house.settle(mine[:1], "410")
    assert (await house.health(key))[0] == "disabled"
    await house.settle(mine[1:2], "200")
    assert (await house.health(key))[0] == "disabled"
    assert all(one.key.endpoint == other for one in await house.claim())
    await house.number()
    told = [one for one in (await house.pull()).rows if one.type == "endpoint.disabled"]
    assert [json.loads(one.data) for one in told] == [{"endpoint_id": "one", "reason": "gone", "failing_since": None}]
    last = await house.rows(delivery.c.endpoint_id, delivery.c.state, where=delivery.c.event_id == told[0].event_id)
    assert last == [("other", "waiting")]
    assert await house.rows(delivery.c.state, where=delivery.c.last_result == "status_410") == [("abandoned",)]


async def test_120_hours_of_only_failures_disable_the_endpoint(house: House) -> None:
    await house.app("a")
    key = await house.endpoint("one")
    since_ms = house.clock.ms
    states = []
    for _ in range(7):
        await house.emit()
        await house.number()
        await house.settle(await house.claim(limit=1), "timeout")
        states.append((await house.health(key))[0])
        house.clock.forward(s=24 * 3600)
    assert states == ["failing"] * 5 + ["disabled"] * 2
    await house.number()
    told = [json.loads(one.data) for one in (await house.pull()).rows if one.type == "endpoint.disabled"]
    assert told == [{"endpoint_id": "one", "reason": "failing", "failing_since": "2025-11-24T16:00:00.000Z"}]
    assert (await house.health(key)) == ("disabled", since_ms)


async def test_a_missing_key_burns_nothing(house: House) -> None:
    await house.app("a")
    key = await house.endpoint("one")
    await house.emit()
    await house.number()
    await house.settle(await house.claim(), "key_missing")
    assert await house.rows(delivery.c.state, delivery.c.attempts) == [("waiting", 0)]
    assert await house.health(key) == ("active", None)


async def test_replays_and_settlings_at_once_do_not_get_in_each_others_way(house: House) -> None:
    await house.app("a")
    keys = [await house.endpoint(f"e{n}") for n in range(3)]
    await house.emit(40)
    await house.number()
    every = [row[0] for row in await house.rows(event.c.event_id)]
    words = random.Random(5)

    async def work(owner: str) -> None:
        for _ in range(8):
            claimed = await house.claim(owner=owner)
            await house.settle(claimed, words.choice(["200", "500", "timeout"]))

    def begin(key: EndpointKey) -> Any:
        def again(conn: Any, now_ms: int) -> int:
            endpoints.get_endpoint(conn, key, lock=True)
            return deliveries.replay(conn, now_ms, key, every)

        return house.engine.write(again)

    async def replays() -> None:
        for _ in range(4):
            await asyncio.gather(*(begin(key) for key in keys))

    await asyncio.gather(work("n1"), work("n2"), replays())
    assert await house.rows(delivery.c.event_id, where=delivery.c.claim_until_ms.is_not(None)) == []
    states = {row[0] for row in await house.rows(delivery.c.state)}
    assert states <= {"waiting", "delivered"}


# --- endpoints ---


async def test_endpoints_are_listed_changed_and_found_only_in_their_app(house: House) -> None:
    await house.app("a", "b")
    key = await house.endpoint("one", "device.online")
    house.clock.forward(ms=1)
    await house.endpoint("two")
    await house.endpoint("one", app_id="b")

    def change(conn: Any, _: int) -> None:
        endpoints.change_endpoint(conn, key, {"types": ["*"], "url": "https://new.example/", "headers_sealed": b"h"})

    await house.engine.write(change)
    listed = await house.engine.read(lambda conn, _: endpoints.endpoints_of(conn, "a"))
    assert [(one.key.endpoint_id, one.url, one.types) for one in listed] == [
        ("one", "https://new.example/", ("*",)),
        ("two", "https://two.example/", ("*",)),
    ]
    foreign = await house.engine.read(lambda conn, _: endpoints.get_endpoint(conn, EndpointKey("b", "one")))
    assert foreign.url == "https://one.example/"
    with pytest.raises(Missing):
        await house.engine.read(lambda conn, _: endpoints.get_endpoint(conn, EndpointKey("b", "two")))


async def test_an_old_secret_counts_until_its_time_is_over(house: House) -> None:
    await house.app("a")
    key = await house.endpoint("one")
    until_ms = house.clock.ms + 1000
    await house.engine.write(
        lambda conn, _: endpoints.rotate_secret(conn, key, secret_sealed=b"new", old_until_ms=until_ms)
    )
    await house.emit(2)
    await house.number()
    (claimed,) = await house.claim(limit=1)
    assert (claimed.sealed.secret, claimed.sealed.old_secret) == (b"new", b"secret")
    house.clock.forward(ms=1000)
    (claimed,) = await house.claim(limit=1)
    assert (claimed.sealed.secret, claimed.sealed.old_secret) == (b"new", None)
    assert await house.engine.write(endpoints.forget_old_secrets) == 1
    assert await house.rows(endpoint.c.old_secret_sealed) == [(None,)]


async def test_a_deleted_endpoint_is_gone_at_once_and_swept_bit_by_bit(house: House) -> None:
    await house.app("a")
    key = await house.endpoint("one")
    await house.emit(25)
    await house.number()
    await house.claim()
    await house.engine.write(lambda conn, _: endpoints.delete_endpoint(conn, key))
    assert await house.engine.read(lambda conn, _: endpoints.endpoints_of(conn, "a")) == []
    with pytest.raises(Missing):
        await house.engine.write(lambda conn, _: endpoints.delete_endpoint(conn, key))
    assert await house.claim() == []
    assert await house.rows(endpoint.c.url, endpoint.c.secret_sealed) == [("", b"")]
    removed = [await house.engine.write(lambda conn, _: deliveries.sweep_deleted(conn, limit=10)) for _ in range(5)]
    assert removed == [10, 10, 5, 1, 0]
    assert await house.rows(endpoint.c.endpoint_id) == await house.rows(delivery.c.event_id) == []


async def test_telling_one_endpoint_tells_no_other(house: House) -> None:
    await house.app("a")
    key = await house.endpoint("one")
    await house.endpoint("two")
    await house.emit(1)
    await house.number()
    test = DeliveryKey(*key, "evt_test")
    await house.engine.write(
        lambda conn, now_ms: sequencer.tell_one(conn, now_ms, test, type_="endpoint.test", data={"endpoint_id": "one"})
    )
    await house.emit(1)
    assert await house.number() == 1
    assert await house.sequences() == [1, 2, 3]
    assert await house.rows(delivery.c.endpoint_id, where=delivery.c.event_id == "evt_test") == [("one",)]


# --- lists, replays ---


async def test_deliveries_are_listed_newest_first_in_pages(house: House) -> None:
    await house.app("a")
    key = await house.endpoint("one")
    await house.endpoint("two")
    for _ in range(3):
        await house.emit(3)
        await house.number()
        house.clock.forward(ms=1)
    seen: list[str] = []
    before = None
    while True:
        page = await house.engine.read(
            lambda conn, _, before=before: deliveries.deliveries_of(conn, key, before=before, limit=2)  # type: ignore[misc]
        )
        if not page:
            break
        seen += [one.key.event_id for one in page]
        before = page[-1].created_ms, page[-1].key.event_id
        assert all(one.type == "delivery.acked" for one in page)
    assert seen == [f"evt_{n:06}" for n in reversed(range(9))]


async def test_a_replay_begins_anew_also_what_never_was(house: House) -> None:
    await house.app("a")
    earlier = await house.emit(2)
    await house.number()
    key = await house.endpoint("one")
    told = await house.emit(3)
    await house.number()
    claimed = sorted(await house.claim(), key=lambda one: told.index(one.key.event_id))
    await house.settle(claimed[:1], "200")
    await house.settle(claimed[1:2], "500")

    async def replay(*event_ids: str, undelivered_only: bool = False) -> int:
        return await house.engine.write(
            lambda conn, now_ms: deliveries.replay(conn, now_ms, key, event_ids, undelivered_only=undelivered_only)
        )

    assert await replay(*told, undelivered_only=True) == 2
    states = sorted(await house.rows(delivery.c.event_id, delivery.c.state, delivery.c.attempts))
    assert states == [(told[0], "delivered", 1), (told[1], "waiting", 0), (told[2], "waiting", 0)]
    assert await replay(*earlier, *told) == 5
    assert await house.settle(claimed[2:]) == 0  # it was under way, and stays with its worker
    again = await house.claim()
    assert sorted(ids(again)) == sorted([*earlier, *told[:2]])
    assert {one.attempts for one in again} == {0}


async def test_events_between_two_times_come_in_pages(house: House) -> None:
    await house.app("a", "b")
    from_ms = house.clock.ms + 1
    for _ in range(5):
        await house.emit(2)
        await house.emit(1, app_id="b")
        house.clock.forward(ms=1)
    await house.number()
    seen: list[str] = []
    after = None
    while True:
        page = await house.engine.read(
            lambda conn, _, after=after: deliveries.events_between(  # type: ignore[misc]
                conn, "a", from_ms=from_ms, to_ms=from_ms + 3, after=after, limit=3
            )
        )
        if not page:
            break
        seen += [event_id for _, event_id, _ in page]
        after = page[-1][:2]
    assert seen == [f"evt_{n:06}" for n in (3, 4, 6, 7, 9, 10)]


# --- pull ---


async def test_a_page_covers_what_it_skips(house: House) -> None:
    await house.app("a")
    for type_ in ("delivery.acked", "delivery.pushed", "device.online") * 3:
        await house.emit(type_=type_)
        house.clock.forward(ms=1)  # those of one moment are numbered by type
    await house.number()
    page = await house.pull(0, types=["device.online"], all_but=False)
    assert [one.sequence for one in page.rows] == [3, 6, 9]
    assert (page.upto_seq, page.head_seq, page.floor_seq) == (9, 9, 0)
    page = await house.pull(0, types=["device.online"], all_but=False, limit=2)
    assert ([one.sequence for one in page.rows], page.upto_seq) == ([3, 6], 6)
    page = await house.pull(6, types=["delivery.pushed"])
    assert ([one.sequence for one in page.rows], page.upto_seq) == ([7, 9], 9)
    assert (await house.pull(10)).rows == ()
    assert (await house.pull(9)).upto_seq == 9


async def test_a_page_of_a_rare_type_looks_only_so_far(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "SCAN_MAX", 4)
    await house.app("a")
    await house.emit(9)
    await house.emit(1, type_="device.online")
    await house.number()
    after, pages = 0, []
    while after < 10:
        page = await house.pull(after, types=["device.online"], all_but=False, limit=2)
        pages.append(len(page.rows))
        after = page.upto_seq
    assert pages == [0, 0, 1]


async def test_an_app_without_events_has_an_empty_page(house: House) -> None:
    await house.app("a")
    page = await house.pull()
    assert (page.rows, page.upto_seq, page.head_seq, page.floor_seq) == ((), 0, 0, 0)


# --- pruning ---


async def prune(house: House, limit: int = 100) -> int:
    return await house.engine.write(lambda conn, now_ms: event_log.prune_events(conn, now_ms, limit=limit))


async def test_events_are_kept_30_days_and_then_go_with_their_deliveries(house: House) -> None:
    await house.app("a", "b")
    await house.endpoint("one")
    old = await house.emit(3)
    await house.emit(2, app_id="b")
    await house.number()
    await house.settle(await house.claim())
    house.clock.forward(ms=DAY_MS)
    young = await house.emit(2)
    await house.number()
    house.clock.forward(ms=29 * DAY_MS)
    assert await prune(house) == 0
    house.clock.forward(ms=1)
    assert [await prune(house, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert [row[0] for row in await house.rows(event.c.event_id)] == young
    assert [row[0] for row in await house.rows(delivery.c.event_id)] == young
    page = await house.pull()
    assert (page.floor_seq, [one.sequence for one in page.rows]) == (3, [4, 5])
    assert (await house.pull(2)).rows == ()
    assert not set(old) & {one.event_id for one in page.rows}


async def test_pruning_stops_before_what_is_still_to_be_delivered(house: House) -> None:
    await house.app("a")
    key = await house.endpoint("one")
    await house.emit(4)
    await house.number()
    claimed = await house.claim()
    await house.settle([one for one in claimed if one.sequence != 3])
    house.clock.forward(ms=31 * DAY_MS)
    assert await prune(house) == 2
    assert await house.sequences() == [3, 4]
    await house.engine.write(lambda conn, now_ms: judge(conn, now_ms, {key: Signal.DISABLE}))
    assert await prune(house) == 2


async def test_an_event_without_a_number_is_never_pruned(house: House) -> None:
    await house.app("a")
    await house.emit(2)
    house.clock.forward(ms=99 * DAY_MS)
    assert await prune(house) == 0
    assert await house.number() == 2
    assert await prune(house) == 2
    assert (await house.pull()).floor_seq == 2


# --- plans of the database ---


async def test_no_statement_of_the_worker_or_a_page_reads_a_whole_table(house: House) -> None:
    if isinstance(house.engine, PostgresEngine):
        pytest.skip("PostgreSQL plans by statistics, which a test's few rows do not have")
    await house.app("a")
    key = await house.endpoint("one")
    ran: list[str] = []  # with their values written in

    def everything(conn: Any, now_ms: int) -> list[str]:
        emit(conn, now_ms, [NewEvent(app_id="a", event_id=f"e{n}", type="device.online", data={}) for n in range(9)])
        raw = conn.connection.driver_connection
        raw.set_trace_callback(ran.append)
        sequencer.number_events(conn, now_ms, limit=100, wants=event_types.wants)
        claimed = claims.claim_deliveries(conn, now_ms, owner="n", hold_ms=1, limit=9, after_loss=by_the_plan(now_ms))
        failed = rules.unanswered("timeout")
        settle(conn, now_ms, [Done(c, failed, rules.after_attempt(0, failed, random.Random(1))) for c in claimed])
        claims.release_claims(conn, owner="n")
        claims.free_orphans(conn, owner="m")
        deliveries.deliveries_of(conn, key, before=(now_ms, "e5"), limit=5)
        deliveries.events_between(conn, "a", from_ms=0, to_ms=now_ms + 1, after=(0, ""), limit=5)
        deliveries.replay(conn, now_ms, key, ["e1"], undelivered_only=True)
        event_log.events_after(conn, "a", after_seq=2, limit=5, types=[])
        event_log.prune_events(conn, now_ms + 99 * DAY_MS, limit=5)
        raw.set_trace_callback(None)
        return [
            f"{row[3]}: {statement}"
            for statement in ran
            if statement.startswith(("SELECT", "UPDATE", "DELETE"))
            for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")
        ]

    plans = await house.engine.write(everything)
    whole = [plan for plan in plans if plan.startswith(("SCAN delivery", "SCAN event")) and "INDEX" not in plan[:60]]
    assert not whole
    for index in ("delivery_due", "delivery_claimed", "delivery_by_age", "event_unnumbered", "event_sequence"):
        assert any(f"INDEX {index}" in plan for plan in plans), index
