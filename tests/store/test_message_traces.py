"""A message's trace is read for all its receivers at once, and each has what is its own."""

from typing import Any

import pytest
from house import House

from providers.contract import Verdict
from relay.inbox.escalation import Step, to_store
from relay.inbox.preferences import Conversation, Preferences
from relay.inbox.push_due import Later, Rest
from relay.inbox.trace import Trace, trace
from relay.store import attempts as attempt_rows
from relay.store import entries as entry_rows

TWO_STEPS = to_store((Step(after_s=60, by="next_address"), Step(after_s=120, by="webhook")))


class Counting:
    """A connection that counts what it is asked."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def execute(self, *args: Any, **more: Any) -> Any:
        self.asked += 1
        return self._conn.execute(*args, **more)


async def traced(house: House, id_: str) -> tuple[Trace, int]:
    """With how many statements that took."""

    def work(conn: Any, now_ms: int) -> tuple[Trace, int]:
        counting = Counting(conn)
        found: Any = counting
        return trace(found, now_ms, lambda _: house.policy, app_id=house.app, message_id=id_), counting.asked

    return await house.engine.read(work)


async def told(house: House, *users: str) -> str:
    """A message that was pushed to a phone of each, with steps that follow; somebody's old phone is gone."""
    for user in users:
        await house.register(f"{user}/old")
        await house.register(f"{user}/phone", f"token-{user}")
    sent = await house.send(*users, escalate=TWO_STEPS)
    for user in users:
        await house.inbox.sign_out(house.key(f"{user}/old"))
    house.clock.forward(s=30)
    for attempt in await house.plan():
        await house.settle(attempt, Verdict.ACCEPTED, vendor_id=f"vendor-{attempt.device.user_id}")
    return sent.message_id


async def test_many_receivers_take_no_more_questions_than_one(house: House) -> None:
    _, one = await traced(house, await told(house, "ann"))
    many = [f"user-{n}" for n in range(8)]
    found, asked = await traced(house, await told(house, *many))
    assert [recipient["user"] for recipient in found.recipients] == many
    assert asked == one


async def test_each_has_its_own_attempts_and_devices(house: House) -> None:
    found, _ = await traced(house, await told(house, "ann", "bob"))
    for recipient in found.recipients:
        states = {one["device"]: one["state"] for one in recipient["devices"]}
        assert states == {"phone": "pushed", "old": "failed"}
        (phone,) = (one for one in recipient["devices"] if one["device"] == "phone")
        assert [one["vendor_id"] for one in phone["attempts"]] == [f"vendor-{recipient['user']}"]


async def test_of_a_mention_of_everybody_nothing_is_read_for_whom_the_trace_does_not_name(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shared timeline has any number of members, and each of them has a pointer to it."""
    everybody = [f"user-{n}" for n in range(5)]
    for user in everybody:
        await house.register(f"{user}/phone", f"token-{user}")
    await house.inbox.groups.change(house.app, "g", add=everybody, remove=(), ultra=True)
    message = house.message(users=(), group="g", conversation_id="g", everyone=True, sender_user="user-0")
    id_ = (await house.inbox.accept(message)).message_id
    await house.fan_out()
    assert len(await house.rows("SELECT user_id FROM inbox_entry WHERE kind = 'pointer'")) == 4
    house.clock.forward(s=30)
    for attempt in await house.plan():
        await house.settle(attempt, Verdict.ACCEPTED)
    read: dict[str, Any] = {}
    for module, name in (
        (entry_rows, "entries_of_message"),
        (attempt_rows, "attempts_of_message"),
    ):
        look = getattr(module, name)

        def kept(*args: Any, look: Any = look, name: str = name, **more: Any) -> Any:
            read[name] = look(*args, **more)
            return read[name]

        monkeypatch.setattr(module, name, kept)
    found, _ = await traced(house, id_)
    assert found.recipients == []
    assert len(read) == 2
    assert not any(read.values())


async def waits_for(house: House, id_: str) -> dict[str, Any] | None:
    (recipient,) = (await traced(house, id_))[0].recipients
    found: dict[str, Any] | None = recipient["devices"][0]["waiting"]
    return found


async def test_what_a_device_is_never_told_of_does_not_wait_for_its_next_reminder(house: House) -> None:
    """That is of another message, which the device was told of."""
    await house.register("ann/phone", "token-ann")
    muted = Conversation(muted_until_ms=house.clock.ms + 3_600_000)
    await house.inbox.set_preferences(house.key("ann/phone").user, Preferences(conversations={"m": muted}))
    told = (await house.send("ann", conversation_id="c")).message_id
    silent = (await house.send("ann", conversation_id="c", push=None)).message_id
    unwanted = (await house.send("ann", conversation_id="m")).message_id
    read = await house.send("ann", conversation_id="r")
    await house.ack("ann/phone", reads=[("r", read.recipients[0].seq)])
    house.clock.forward(s=30)
    for attempt in await house.plan():
        await house.settle(attempt, Verdict.ACCEPTED)
    reminded = await waits_for(house, told)
    assert reminded is not None
    assert reminded["reason"] == Later.KNOCK
    assert await waits_for(house, silent) == {"reason": Rest.NOTHING_OWED, "until": None}
    assert await waits_for(house, unwanted) == {"reason": Rest.MUTED, "until": None}
    assert await waits_for(house, read.message_id) == {"reason": Rest.NOTHING_OWED, "until": None}


async def test_what_has_ended_waits_for_nothing(house: House) -> None:
    await house.register("ann/phone", "token-ann")
    ended = (await house.send("ann")).message_id
    await house.send("ann")
    await house.inbox.cancel(house.app, ended)
    assert await waits_for(house, ended) is None
    by_id = (await house.send("ann")).message_id
    await house.ack("ann/phone", ids=(by_id,))
    assert await waits_for(house, by_id) is None


async def test_what_has_just_come_says_what_it_waits_for(house: House) -> None:
    """The wish to tell has only been lowered so far, and nobody has looked at the rest."""
    await house.register("ann/phone", "token-ann")
    came = (await house.send("ann")).message_id
    waits = await waits_for(house, came)
    assert waits is not None
    assert waits["reason"] == Later.DEBOUNCE
    await house.hello("ann/phone")
    await house.catch_up("ann/phone")
    late = (await house.send("ann")).message_id
    waits = await waits_for(house, late)
    assert waits is not None
    assert waits["reason"] == Later.ONLINE


@pytest.mark.parametrize(("push", "why"), [('{"title":"t"}', "no_address"), (None, "nothing_owed")])
async def test_a_device_that_never_had_an_address_is_not_told_for_want_of_one(
    house: House, push: str | None, why: str
) -> None:
    """Of what nobody is to be told of, it misses nothing."""
    await house.register("ann/phone")
    found, _ = await traced(house, (await house.send("ann", push=push)).message_id)
    (recipient,) = found.recipients
    (device,) = recipient["devices"]
    assert device["waiting"] == {"reason": why, "until": None}
