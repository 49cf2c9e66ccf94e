"""Messages with steps, on both stores: deadlines in rows, pushes through the next address, events for the backend."""

from dataclasses import replace
from typing import Any

import pytest
from house import FREE, House, address
from law import pushes
from msgspec.structs import replace as shift

from providers.app_message import once_key
from providers.contract import Verdict
from relay.inbox.escalation import Step, to_store
from relay.inbox.preferences import Preferences, Quiet
from relay.inbox.push_due import Later
from relay.inbox.registry import Registration
from relay.inbox.trace import trace
from relay.model import Policy
from relay.push.escalating import escalate, is_due
from relay.push.payload import push_of
from relay.push.situation import ITEMS_MAX, Wait
from relay.store.engine import Engine

STEPS = to_store((Step(60, "next_address"), Step(300, "webhook")))
EVENT = "delivery.escalated"


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    """Ann's phone with the chain v, w; nobody is online."""
    one = await House(engine, clock).begin()
    one.views = {"v": FREE, "w": FREE}
    await one.inbox.register(
        Registration(device=one.key("ann/phone"), addresses=(address("t"), address("u", account="w")))
    )
    clock.forward(s=1)
    return one


async def step(house: House) -> bool:
    """The chore, if something is due."""
    if not await house.engine.read(is_due):
        return False
    await house.engine.write(lambda conn, now_ms: escalate(conn, now_ms, lambda _: house.policy))
    return True


async def told(house: House) -> list[tuple[str, str]]:
    """Account and form of what a round of the dispatcher sends."""
    return [(one.send.address.account, one.send.form) for one in await house.told()]


async def states(house: House, message_id: str) -> list[str]:
    """Of the message's steps, by its trace."""
    found = await house.engine.read(
        lambda conn, now_ms: trace(conn, now_ms, lambda _: house.policy, app_id="shop", message_id=message_id)
    )
    return [one["state"] for one in found.recipients[0]["escalation"]]


async def test_it_steps_along_the_chain_and_then_to_the_backend(house: House, clock: Any) -> None:
    message = (await house.send(escalate=STEPS)).message_id
    clock.forward(s=1)
    assert await told(house) == [("v", "each")]
    clock.forward(s=58)
    assert not await step(house), "a second before the deadline"
    clock.forward(s=1)
    assert await step(house)
    assert await told(house) == [("w", "escalate")]
    assert await told(house) == []
    assert await states(house, message) == ["done", "waiting"]
    clock.forward(s=240)
    assert await step(house)
    assert await house.deliveries(EVENT) == [("phone", message)]
    assert await states(house, message) == ["done", "done"]
    clock.forward(s=100_000)
    assert not await step(house)
    assert await told(house) == [], "no knock"
    assert (await house.job("ann/phone")).reason == "told"
    await house.checked(lambda conn, now_ms: [] if not pushes(conn, now_ms, "shop", Policy(knocks_ms=())) else ["law"])


async def test_the_event_says_which_step_it_is(house: House, clock: Any) -> None:
    two = to_store((Step(60, "webhook"), Step(90, "webhook")))
    message = (await house.send(escalate=two)).message_id
    for wait_s in (60, 30):
        clock.forward(s=wait_s)
        await step(house)
    events = [data for kind, data in await house.events() if kind == EVENT]
    assert [(one["user"], one["device"]) for one in events] == [("ann", "phone")] * 2
    deliveries = sorted((one["deliveries"][0] for one in events), key=lambda one: int(one["step"]))
    assert [(one["step"], one["after_s"], one["message_id"]) for one in deliveries] == [
        (1, 60, message),
        (2, 90, message),
    ]
    assert len({one["id"] for one in deliveries}) == 2


@pytest.mark.parametrize("end", ["acked", "cancelled", "expired", "superseded", "gone"])
async def test_a_delivery_that_is_over_steps_no_more(house: House, clock: Any, end: str) -> None:
    message = (await house.send(escalate=STEPS, ttl_s=400, collapse_key="k")).message_id
    clock.forward(s=1)
    await house.told()
    match end:
        case "acked":
            await house.hello("ann/phone")
            await house.catch_up("ann/phone")
            await house.bye("ann/phone")
        case "cancelled":
            await house.inbox.cancel("shop", message)
        case "expired":
            clock.forward(s=400)
        case "superseded":
            await house.send(collapse_key="k", push=None)
        case "gone":
            await house.inbox.sign_out(house.key("ann/phone"))
    clock.forward(s=300)
    await step(house)
    assert await told(house) == []
    assert [one for one in await house.deliveries(EVENT) if one[0]] == []
    if end != "gone":
        assert await house.deliveries(EVENT) == []
        assert await states(house, message) == ["not_needed", "not_needed"]


async def test_what_was_read_elsewhere_steps_no_more(house: House, clock: Any) -> None:
    sent = await house.send(escalate=STEPS, conversation_id="c")
    await house.register("ann/tablet")
    await house.hello("ann/tablet")
    await house.catch_up("ann/tablet")
    await house.ack("ann/tablet", reads=[("c", sent.recipients[0].seq or 0)])
    clock.forward(s=300)
    await step(house)
    assert (await told(house), await house.deliveries(EVENT)) == ([], [])


async def test_only_who_has_not_acked_is_told_of(house: House, clock: Any) -> None:
    await house.register("ann/tablet")
    message = (await house.send(escalate=STEPS, notify_policy="each_device")).message_id
    await house.hello("ann/tablet")
    await house.catch_up("ann/tablet")
    clock.forward(s=300)
    await step(house)
    assert await house.deliveries(EVENT) == [("phone", message)]


async def test_steps_that_fell_due_while_the_relay_was_away_are_taken_at_once(house: House, clock: Any) -> None:
    message = (await house.send(escalate=STEPS)).message_id
    clock.forward(s=1)
    await house.told()
    clock.forward(s=3600)
    assert await step(house)
    assert not await step(house)
    assert await told(house) == [("w", "escalate")]
    assert await house.deliveries(EVENT) == [("phone", message)]


async def test_a_device_without_another_address_is_told_again_and_the_trace_says_so(house: House, clock: Any) -> None:
    await house.register("ann/phone", "t")
    await house.send(escalate=STEPS)
    clock.forward(s=1)
    assert await told(house) == [("v", "each")]
    clock.forward(s=60)
    await step(house)
    assert await told(house) == [("v", "repeat")]


async def test_a_step_does_not_wait_for_an_address_that_is_out_for_long(house: House, clock: Any) -> None:
    """It takes nothing before the morning: the one that was told takes the alarm again, as it would a message."""
    await house.send(escalate=STEPS)
    clock.forward(s=1)
    assert await told(house) == [("v", "each")]
    house.views["w"] = shift(FREE, shut_until_ms=clock.now_ms() + 28_800_000)
    clock.forward(s=59)
    assert await step(house)
    assert await told(house) == [("v", "repeat")]


async def test_what_is_told_again_is_no_repeat_to_a_vendor_that_drops_those(house: House, clock: Any) -> None:
    await house.register("ann/phone", "t")
    await house.send(escalate=STEPS)
    said = []
    for wait_s in (1, 60):
        clock.forward(s=wait_s)
        await step(house)
        (one,) = await house.told()
        said.append(push_of(one, one.send.notes[0], "t", provider="v"))
    first, second = said
    assert first.again is None
    assert first == replace(second, again=None), "all of it is as before"
    assert once_key(first, now_s=900) != once_key(second, now_s=900)


async def test_each_step_says_which_one_it_is_in_each_of_its_tries(house: House, clock: Any) -> None:
    await house.register("ann/phone", "t")
    await house.send(escalate=to_store((Step(60, "next_address"), Step(90, "next_address"))))
    clock.forward(s=1)
    await house.told()
    said = []
    for wait_s, verdict in ((59, Verdict.RETRY), (5, Verdict.ACCEPTED), (25, Verdict.ACCEPTED)):
        clock.forward(s=wait_s)
        await step(house)
        (one,) = await house.told(verdict=verdict)
        said.append(push_of(one, one.send.notes[0], "t", provider="v").again)
    first, retried, second = said
    assert first == retried != second


async def test_a_step_that_tells_the_backend_makes_no_other_push_of_one_that_is_tried_again(
    house: House, clock: Any
) -> None:
    await house.register("ann/phone", "t")
    await house.send(escalate=to_store((Step(60, "next_address"), Step(62, "webhook"))))
    clock.forward(s=1)
    await house.told()
    said = []
    for wait_s, verdict in ((59, Verdict.RETRY), (5, Verdict.ACCEPTED)):
        clock.forward(s=wait_s)
        await step(house)
        (one,) = await house.told(verdict=verdict)
        said.append(push_of(one, one.send.notes[0], "t", provider="v").again)
    first, retried = said
    assert first == retried


async def test_the_backend_hears_also_of_who_cannot_be_pushed_at_all(house: House, clock: Any) -> None:
    await house.register("bob/laptop")
    house.policy = Policy(create_users=True)
    message = (await house.send("bob", "cem", escalate=STEPS)).message_id
    clock.forward(s=300)
    await step(house)
    assert await house.deliveries(EVENT) == [("", message), ("laptop", message)], "cem has no device yet"


async def test_what_was_not_told_yet_is_not_told_twice(house: House, clock: Any) -> None:
    """A device that is online has its time to ack; when that is over it is told once, however many steps were due."""
    await house.hello("ann/phone")
    await house.send(escalate=to_store((Step(10, "next_address"), Step(20, "next_address"))))
    for _ in range(2):
        clock.forward(s=10)
        await step(house)
    assert len(await told(house)) == 1
    assert await told(house) == []


async def test_a_step_gives_the_next_address_its_turn_if_the_first_vendor_fails(house: House, clock: Any) -> None:
    await house.send(escalate=STEPS)
    clock.forward(s=1)
    (attempt,) = await house.plan()
    await house.settle(attempt, Verdict.RETRY)
    clock.forward(s=59)
    await step(house)
    assert await told(house) == [("w", "each")]


async def test_quiet_hours_hold_a_step_that_pushes_and_none_that_reports(house: House, clock: Any) -> None:
    message = (await house.send(escalate=STEPS)).message_id
    clock.forward(s=1)
    await house.told()
    await house.inbox.set_preferences(house.key("ann/phone").user, Preferences(quiet=(Quiet(0, 24 * 60 - 1),)))
    clock.forward(s=300)
    await step(house)
    assert await told(house) == []
    assert (await house.job("ann/phone")).reason == "quiet_hours"
    assert await house.deliveries(EVENT) == [("phone", message)]


async def test_a_vendor_that_refuses_a_step_is_passed_over_and_it_ends(house: House, clock: Any) -> None:
    await house.send(escalate=STEPS)
    clock.forward(s=1)
    await house.told()
    clock.forward(s=60)
    await step(house)
    for _ in range(6):
        await house.told(verdict=Verdict.REFUSED)
        clock.forward(s=6)
    assert await told(house) == []
    assert (await house.job("ann/phone")).escalate_seq == 0


async def test_a_message_to_many_steps_for_each_of_them(house: House, clock: Any) -> None:
    await house.register("bob/phone", "b")
    sent = await house.send("ann", "bob", escalate=STEPS, deliver_ms=clock.now_ms() + 1000)
    assert sent.job is not None
    clock.forward(s=1)
    assert await house.inbox.fan_out()
    clock.forward(s=300)
    await step(house)
    events = sorted(data["user"] for kind, data in await house.events() if kind == EVENT)
    assert events == ["ann", "bob"]


HELD = '{"title":"news","channel":"news"}'


async def test_a_step_whose_channel_is_used_up_is_taken_when_there_is_a_new_quota(house: House, clock: Any) -> None:
    """Beside it a step goes that the vendor takes now: the one that waits for its hour is not taken with it."""
    await house.register("ann/phone", "t")
    for push in ('{"title":"alarm"}', HELD):
        await house.send(escalate=STEPS, push=push)
    clock.forward(s=1)
    await house.told()
    clock.forward(s=60)
    assert await step(house)
    until_ms = clock.now_ms() + 100_000
    house.views["v"] = shift(FREE, held={(None, "news"): Wait(at_ms=until_ms, reason=Later.QUOTA)})
    (first,) = await house.told()
    assert [note.upto_seq for note in first.send.notes] == [1]
    assert await told(house) == []
    assert (await house.job("ann/phone")).due_ms == until_ms
    clock.forward(s=100)
    (later,) = await house.told()
    assert [note.upto_seq for note in later.send.notes] == [2]
    assert await told(house) == []
    assert (await house.job("ann/phone")).escalate_seq == 0


async def test_a_silent_step_that_its_vendor_would_drop_holds_up_nothing_that_shows(house: House, clock: Any) -> None:
    """A vendor lets through only so many silent pushes an hour; what is told for the first time is none."""
    house.views["v"] = shift(FREE, capabilities=replace(FREE.capabilities, silent_gap_s=1200))
    await house.register("ann/phone", "t")
    await house.send(escalate=STEPS, push='{"data":{"a":"b"}}')
    clock.forward(s=1)
    assert await told(house) == [("v", "unseen")]
    clock.forward(s=60)
    await step(house)
    assert await told(house) == []
    await house.send()
    clock.forward(s=1)
    assert await told(house) == [("v", "each")]
    assert await told(house) == []
    assert (await house.job("ann/phone")).reason == "rate"
    clock.forward(s=1200)
    assert await told(house) == [("v", "repeat")]


async def test_a_step_is_taken_however_much_was_told_since(house: House, clock: Any) -> None:
    await house.send(push='{"title":"first"}')
    message = (await house.send(escalate=STEPS)).message_id
    await house.sends(ITEMS_MAX + 1)
    clock.forward(s=1)
    assert await told(house) == [("v", "summary")]
    clock.forward(s=60)
    await step(house)
    (attempt,) = await house.told()
    assert [note.ids for note in attempt.send.notes] == [(message,)]
    assert (await house.job("ann/phone")).reason == "knock"


async def test_a_push_of_something_else_that_is_under_way_is_not_the_first_one_of_a_message(
    house: House, clock: Any
) -> None:
    """So the step that falls due meanwhile adds none to it."""
    await house.send()
    clock.forward(s=1)
    (slow,) = await house.plan()
    await house.send(escalate=to_store((Step(10, "next_address"),)))
    clock.forward(s=10)
    assert await step(house)
    await house.settle(slow, Verdict.ACCEPTED)
    assert await told(house) == [("v", "each")]
    assert await told(house) == []


async def test_a_first_push_that_is_under_way_as_a_step_falls_due_is_followed_by_it(house: House, clock: Any) -> None:
    await house.send(escalate=to_store((Step(10, "next_address"),)))
    clock.forward(s=1)
    (slow,) = await house.plan()
    clock.forward(s=9)
    assert await step(house)
    await house.settle(slow, Verdict.ACCEPTED)
    assert await told(house) == [("w", "escalate")]
    assert await told(house) == []


async def test_the_step_of_one_message_pushes_no_other_again(house: House, clock: Any) -> None:
    """The first has had its only one when that of the second falls due."""
    await house.register("ann/phone", "t")
    pushed = []
    for _ in range(2):
        message = (await house.send(escalate=to_store((Step(60, "next_address"),)))).message_id
        for wait_s in (1, 59):
            clock.forward(s=wait_s)
            await step(house)
            pushed += [(message, note.ids) for one in await house.told() for note in one.send.notes]
    assert [ids for _, ids in pushed] == [(message,) for message, _ in pushed]
    assert len(pushed) == 4


async def test_steps_that_wait_together_are_taken_together(house: House, clock: Any) -> None:
    sent = [(await house.send(escalate=STEPS)).message_id for _ in range(2)]
    clock.forward(s=1)
    await house.told()
    house.views = {name: shift(FREE, shut_until_ms=clock.now_ms() + 100_000) for name in "vw"}
    later = (await house.send(escalate=STEPS)).message_id
    clock.forward(s=59)
    assert await step(house)
    clock.forward(s=41)
    assert await step(house)
    house.views = {"v": FREE, "w": FREE}
    (steps,) = await house.told()
    assert [note.ids for note in steps.send.notes] == [(one,) for one in sent]
    (first,) = await house.told()
    assert [note.ids for note in first.send.notes] == [(later,)]


async def test_a_step_that_falls_due_while_another_is_pushed_is_taken_too(house: House, clock: Any) -> None:
    await house.register("ann/phone", "t")
    first = (await house.send(escalate=to_store((Step(60, "next_address"),)))).message_id
    clock.forward(s=1)
    await house.send(escalate=to_store((Step(40, "next_address"),)))
    clock.forward(s=1)
    await house.told()
    clock.forward(s=39)
    assert await step(house)
    (slow,) = await house.plan()
    clock.forward(s=19)
    assert await step(house)
    await house.settle(slow, Verdict.ACCEPTED)
    (late,) = await house.told()
    assert first in {id_ for note in late.send.notes for id_ in note.ids}
    assert await told(house) == []
