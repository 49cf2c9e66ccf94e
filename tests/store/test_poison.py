"""FLT-23, in the rows: what ends the process each time it is handled is found out, and others are not held up by it."""

from typing import Any

import pytest
from house import House

from providers.contract import Outcome, Verdict
from relay.inbox.escalation import Step, to_store
from relay.push.attempts import Attempt
from relay.push.escalating import escalate
from relay.push.rules import Result
from relay.push.settling import Settlement, settle
from relay.push.suspects import LOST_MAX
from relay.store import dead
from relay.store import queue as job_rows
from relay.store.engine import Engine


class Processes(House):
    """A house whose dispatcher runs in one process after the other."""

    process = 0

    async def start(self) -> None:
        """A new process begins; what the one before it had claimed, it left."""
        self.process += 1
        self.clock.forward(s=31)  # PostgreSQL waits until a claim has lapsed: its owner may live elsewhere
        await self.engine.write(lambda conn, now_ms: job_rows.free_orphans(conn, now_ms, owner=self.owner))

    @property
    def owner(self) -> str:
        return f"process-{self.process}"

    async def claimed(self, beside: tuple[int, ...] = ()) -> list[Attempt]:
        """What this process takes in its first two rounds: in the first it sees what was lost."""
        first = await self.plan(owner=self.owner, suspects=beside)
        levels = (*beside, *(one.lost for one in first if one.lost))
        return [*first, *await self.plan(owner=self.owner, suspects=levels)]

    async def dies_with(self, name: str) -> int:
        """Processes die of this device's push until nobody takes it any more; all others are told. Gives the deaths."""
        for deaths in range(100):
            await self.start()
            poison = False
            while attempts := await self.claimed():
                poison = any(one.device == self.key(name) for one in attempts)
                if poison:
                    break
                for one in attempts:
                    await self.settle(one, Verdict.ACCEPTED)
            if not poison:
                return deaths
        raise AssertionError

    async def dead(self) -> list[tuple[str, str]]:
        found = await self.engine.read(lambda conn, _: dead.listed(conn, "shop", limit=100))
        return [(one.user_id, one.why) for one in found]


@pytest.fixture
async def house(engine: Engine, clock: Any) -> Processes:
    house = Processes(engine, clock)
    await house.begin()
    return house


async def phones(house: House, count: int) -> list[str]:
    names = [f"user-{n}/phone" for n in range(count)]
    for name in names:
        await house.register(name, name)
    return names


async def test_a_push_that_no_process_outlives_is_quarantined_after_five_and_told_without_content_before(
    house: Processes,
) -> None:
    (name,) = await phones(house, 1)
    message = (await house.send("user-0")).message_id
    forms = []
    for _ in range(LOST_MAX):
        await house.start()
        (attempt,) = await house.claimed()
        forms.append(attempt.send.form)
    assert forms == ["each", "each", "each", "wake", "wake"]
    assert await house.dies_with(name) == 0
    assert await house.dead() == [("user-0", "quarantined")]
    assert ("device.unreachable", "quarantined") in [(kind, data.get("reason")) for kind, data in await house.events()]
    assert (await house.page(name)).ids == [message], "it waits for a sync"


async def test_what_comes_after_a_quarantined_push_is_told(house: Processes) -> None:
    (name,) = await phones(house, 1)
    await house.send("user-0")
    assert await house.dies_with(name) == LOST_MAX
    later = await house.send("user-0")
    house.clock.forward(s=1)
    (attempt,) = await house.claimed()
    assert attempt.send.notes[0].ids == (later.message_id,)
    assert (attempt.send.form, attempt.lost) == ("each", 0)


async def test_only_the_poison_is_quarantined_of_many_that_were_in_flight_beside_it(house: Processes) -> None:
    names = await phones(house, 40)
    for number in range(40):
        await house.send(f"user-{number}")
    assert await house.dies_with(names[7]) == LOST_MAX
    assert await house.dead() == [("user-7", "quarantined")]
    for name in names:
        assert (await house.device(name)).pushed_seq == 1


async def test_few_are_taken_at_once_of_those_that_a_process_left(house: Processes) -> None:
    await phones(house, 40)
    for number in range(40):
        await house.send(f"user-{number}")
    await house.start()
    assert len(await house.plan(owner=house.owner, limit=100)) == 40
    await house.start()
    assert await house.plan(owner=house.owner, limit=100) == [], "it sees that they were lost"
    taken = await house.plan(owner=house.owner, limit=100)
    assert len(taken) == 16
    assert await house.plan(owner=house.owner, limit=100, suspects=[one.lost for one in taken]) == []


async def test_suspects_do_not_hold_up_others(house: Processes) -> None:
    await phones(house, 30)
    for number in range(20):
        await house.send(f"user-{number}")
    await house.start()
    assert len(await house.plan(owner=house.owner, limit=100)) == 20
    await house.start()
    await house.plan(owner=house.owner, limit=100)  # sees that they were lost
    for number in range(20, 30):
        await house.send(f"user-{number}")
    house.clock.forward(s=1)
    taken = await house.plan(owner=house.owner, limit=10, suspects=[1] * 16)
    assert sorted(one.device.user_id for one in taken) == [f"user-{n}" for n in range(20, 30)]


async def test_an_attempt_that_ends_is_under_suspicion_no_longer(house: Processes) -> None:
    await phones(house, 1)
    await house.send("user-0")
    for _ in range(LOST_MAX - 1):
        await house.start()
        await house.claimed()
    await house.start()
    (attempt,) = await house.claimed()
    assert attempt.lost == LOST_MAX - 1
    await house.settle(attempt, Verdict.RETRY)
    assert (await house.job("user-0/phone")).lost == 0


async def test_a_process_that_lives_does_not_come_under_suspicion_for_what_it_could_not_settle(
    house: Processes,
) -> None:
    """The store was away when the vendor had answered."""
    await phones(house, 1)
    await house.send("user-0")
    await house.start()
    for _ in range(LOST_MAX + 1):
        (attempt,) = await house.claimed()
        assert attempt.lost == 0
        house.clock.forward(s=31)


async def test_an_adapter_that_raises_five_times_over_a_push_is_left_alone(house: Processes) -> None:
    await phones(house, 1)
    await house.send("user-0")
    await house.start()
    for _ in range(LOST_MAX):
        (attempt,) = await house.claimed()
        result = Result(Outcome(verdict=Verdict.RETRY), broke=True)
        one = Settlement(attempt=attempt, result=result, retry_ms=house.clock.now_ms() + 1)
        await house.engine.write(lambda conn, now_ms, one=one: settle(conn, now_ms, [one], lambda _: house.policy))
        house.clock.forward(s=1)
    assert await house.claimed() == []
    assert await house.dead() == [("user-0", "quarantined")]


async def test_what_cannot_be_planned_rests_for_an_operator_and_holds_up_nobody(house: Processes) -> None:
    """B116: somebody edited the row by hand."""
    await phones(house, 2)
    for number in range(2):
        await house.send(f"user-{number}")
    await house.engine.write(
        lambda conn, _: conn.exec_driver_sql(
            "UPDATE message SET push = '{\"title\":' WHERE message_id ="
            " (SELECT message_id FROM inbox_entry WHERE user_id = 'user-0')"
        )
    )
    await house.start()
    assert [one.device.user_id for one in await house.claimed()] == ["user-1"]
    assert await house.dead() == [("user-0", "quarantined")]


async def test_a_reminder_that_no_process_outlives_is_quarantined_and_not_tried_on_and_on(house: Processes) -> None:
    """Each of the reminders may be one; between them the relay has its peace."""
    (name,) = await phones(house, 1)
    await house.send("user-0")
    house.clock.forward(s=1)
    await house.told()
    house.clock.forward(s=3600)
    for wait_s in (5 * 3600, 18 * 3600, 0):
        assert await house.dies_with(name) == LOST_MAX
        assert await house.dies_with(name) == 0
        house.clock.forward(s=wait_s)
    assert (await house.job(name)).reason == "told"


async def test_a_reminder_goes_without_content_before_it_is_quarantined(house: Processes) -> None:
    await phones(house, 1)
    await house.send("user-0")
    house.clock.forward(s=1)
    await house.told()
    house.clock.forward(s=3600)
    shown = []
    for _ in range(LOST_MAX):
        await house.start()
        (attempt,) = await house.claimed()
        shown.append(attempt.send.notes[0].shows is not None)
    assert shown == [True, True, True, False, False]


async def test_a_step_that_no_process_outlives_is_quarantined_and_not_tried_on_and_on(house: Processes) -> None:
    (name,) = await phones(house, 1)
    await house.send("user-0", escalate=to_store((Step(60, "next_address"),)))
    house.clock.forward(s=1)
    await house.told()
    house.clock.forward(s=60)
    await house.engine.write(lambda conn, now_ms: escalate(conn, now_ms, lambda _: house.policy))
    assert await house.dies_with(name) == LOST_MAX
    assert await house.dies_with(name) == 0
    assert (await house.job(name)).reason == "told"
