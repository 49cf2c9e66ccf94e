"""Reading shared timelines on both stores: what a member may see, how it catches up, what its cursors are worth
(protocol 12.5, 8.5, 10.2)."""

import json
from typing import Any

import pytest
from house import House

from relay.errors import Missing
from relay.inbox.ack import AckRequest
from relay.inbox.shared import Wanted
from relay.model import Policy, TimelineKey
from relay.store import timelines
from relay.store.engine import Engine

PHONE = "ann/phone"
TAIL = 5


class Reader:
    """A device's copy of one shared timeline."""

    def __init__(self, house: House, name: str = PHONE) -> None:
        self.house, self.name = house, name
        self.cursor: str | None = None
        self.seq: int | None = None
        self.got: list[int] = []
        self.gaps: list[tuple[int, int, str]] = []
        self.resets: list[dict[str, Any]] = []
        self.refused: list[dict[str, Any]] = []

    async def look(self, *, limit: int = 200, etag: str | None = None) -> Any:
        wanted = Wanted(names=("g",)) if self.cursor is None else Wanted(cursors=(self.cursor,))
        inbox = self.house.store(self.name).cursor
        device = self.house.key(self.name)
        return await self.house.inbox.reader.read(
            device,
            None if inbox is None else self.house.inbox.reader.unseal(inbox, device),
            limit=limit,
            etag=etag,
            asked=wanted,
        )

    async def sync(self, *, limit: int = 200) -> Any:
        reading = await self.look(limit=limit)
        self.refused = reading.shared.opened.refused
        self.resets = reading.shared.opened.resets
        for reset in self.resets:
            self.cursor, self.seq = reset["cursor"], reset["floor"]
        for batch in reading.shared.batches:
            page = json.loads(batch.json)
            covered = [e["seq"] for e in page["entries"]]
            covered += [n for gap in page["gaps"] for n in range(gap["from"] + 1, gap["to"] + 1)]
            assert sorted(covered) == list(range(page["from"] + 1, page["to"] + 1)), "each number once (C)"
            assert self.seq is None or page["from"] == self.seq
            self.cursor, self.seq = page["cursor"], page["to"]
            self.got += [e["seq"] for e in page["entries"]]
            self.gaps += [(gap["from"], gap["to"], gap["why"]) for gap in page["gaps"]]
        return reading

    async def ack(self) -> dict[str, int]:
        device = self.house.key(self.name)
        assert self.cursor is not None
        cursor = self.house.inbox.reader.unseal(self.cursor, device)
        return (await self.house.inbox.ack(AckRequest(device=device, shared=(cursor,)))).shared


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock, policy=Policy(shared_tail=TAIL)).begin()
    for user in ("ann", "bob"):
        await house.register(f"{user}/phone")
        await house.hello(f"{user}/phone")
    await house.inbox.groups.change("shop", "g", add=["ann", "bob"], remove=(), ultra=True)
    return house


async def post(house: House, count: int = 1, **more: Any) -> None:
    for _ in range(count):
        await house.inbox.accept(house.message(users=(), group="g", conversation_id="g", **more))


async def test_a_member_reads_what_was_posted_and_goes_on_from_its_cursor(house: House) -> None:
    reader = Reader(house)
    await post(house, 3)
    assert (await reader.sync(limit=2)).shared.more
    assert (await reader.sync()).shared.caught_up
    await post(house)
    await reader.sync()
    assert (reader.got, reader.gaps) == ([1, 2, 3, 4], [])
    assert await reader.ack() == {"g": 4}


async def test_after_a_long_absence_the_last_numbers_come_and_one_gap_that_a_range_fills(house: House) -> None:
    """F85."""
    reader = Reader(house)
    await post(house)
    await reader.sync()
    await post(house, 20)
    await reader.sync()
    assert reader.gaps == [(1, 16, "skipped")]
    assert reader.got == [1, 17, 18, 19, 20, 21]
    _, batch = await house.inbox.shared.fill(house.key(PHONE), "g", 1, 16, limit=200)
    assert [entry["seq"] for entry in json.loads(batch.json)["entries"]] == list(range(2, 17))
    assert "cursor" not in json.loads(batch.json)


async def test_who_joins_sees_what_comes_then(house: House) -> None:
    await house.register("cid/phone")
    await post(house, 2)
    await house.inbox.groups.change("shop", "g", add=["cid"], remove=())
    await post(house)
    reader = Reader(house, "cid/phone")
    await reader.sync()
    assert reader.got == [3]
    _, early = await house.inbox.shared.fill(house.key("cid/phone"), "g", 0, 3, limit=200)
    assert json.loads(early.json)["gaps"] == [{"from": 0, "to": 2, "why": "scope"}]


async def test_who_is_removed_sees_nothing_after_that_and_keeps_what_was_before(house: House) -> None:
    """F86."""
    reader = Reader(house)
    await post(house, 2)
    await house.inbox.groups.change("shop", "g", add=(), remove=["ann"])
    await post(house, 2)
    await reader.sync()
    assert reader.got == [1, 2]
    _, after = await house.inbox.shared.fill(house.key(PHONE), "g", 2, 4, limit=200)
    assert (json.loads(after.json)["entries"], after.to_seq) == ([], 2)
    await house.inbox.groups.change("shop", "g", add=["ann"], remove=())
    await post(house)
    await reader.sync()
    assert (reader.got, reader.gaps) == ([1, 2, 5], [(2, 4, "scope")])


async def test_a_stranger_has_no_way_in(house: House) -> None:
    await house.register("cid/phone")
    reader = Reader(house, "cid/phone")
    await post(house)
    reading = await reader.sync()
    assert reader.refused == [{"conversation": "g", "code": "not_found"}]
    assert reading.shared.batches == ()
    with pytest.raises(Missing):
        await house.inbox.shared.fill(house.key("cid/phone"), "g", 0, 1, limit=1)


async def test_the_senders_session_gets_a_gap_and_its_other_devices_an_own_copy(house: House) -> None:
    """F87 in a shared timeline."""
    await house.register("ann/tablet")
    await house.hello("ann/tablet")
    await post(house, sender_user="ann", sender_device="phone")
    phone, tablet = Reader(house), Reader(house, "ann/tablet")
    await phone.sync()
    assert (phone.got, phone.gaps) == ([], [(0, 1, "own")])
    page = json.loads((await tablet.look()).shared.batches[0].json)
    assert [entry["kind"] for entry in page["entries"]] == ["own"]
    await house.hello(PHONE)
    again = Reader(house)
    await again.sync()
    assert again.got == [1], "in a later session it is sent in full (F88)"


async def test_another_epoch_begins_the_timeline_anew_and_leaves_the_inbox_alone(house: House) -> None:
    reader = Reader(house)
    await post(house, 2)
    await house.page(PHONE)
    await reader.sync()
    await house.engine.write(lambda conn, _: timelines.set_epoch(conn, TimelineKey("shop", "g"), "other"))
    reading = await reader.sync()
    assert [reset["reason"] for reset in reader.resets] == ["epoch"]
    assert (reading.batch.caught_up, reading.caught_up) == (True, False)
    await reader.sync()
    assert reader.got == [1, 2, 1, 2]


async def test_a_fork_that_a_handshake_proves_gives_the_timeline_a_new_epoch(house: House) -> None:
    reader = Reader(house)
    await post(house, 2)
    await reader.sync()
    before = (await house.inbox.shared.follow(house.key(PHONE), Wanted(names=("g",))))[0][0].epoch

    def set_back(conn: Any, _: int) -> None:
        timelines.set_heads(conn, {TimelineKey("shop", "g"): 1})
        conn.exec_driver_sql("DELETE FROM timeline_entry WHERE seq = 2")

    await house.engine.write(set_back)
    assert reader.cursor is not None
    greeting = await house.inbox.shared.greet(house.key(PHONE), {"g": reader.cursor}, void=False)
    assert [(one["verdict"], one["reason"]) for one in greeting.verdicts] == [("resync", "forked")]
    assert greeting.verdicts[0]["epoch"] != before
    reader.cursor, reader.seq = greeting.cursors["g"], greeting.verdicts[0]["floor"]
    await reader.sync()
    assert reader.seq == 1


async def set_back_and_refilled(house: House) -> None:
    """The timeline's last number is lost, and another message gets it."""

    def lose(conn: Any, _: int) -> None:
        timelines.set_heads(conn, {TimelineKey("shop", "g"): 1})
        conn.exec_driver_sql("DELETE FROM timeline_entry WHERE seq = 2")

    await house.engine.write(lose)
    await post(house, 2)


async def test_an_ack_whose_cursor_ends_at_another_message_acks_nothing(house: House) -> None:
    """I12: it would count as told of what its device has never seen."""
    reader = Reader(house)
    await post(house, 2)
    await reader.sync(limit=1)
    assert await reader.ack() == {"g": 1}
    await reader.sync()
    await set_back_and_refilled(house)
    assert await reader.ack() == {}
    (listed,) = (await house.inbox.reader.read(house.key(PHONE), None, limit=200)).shared.ahead
    assert (listed["conversation"], listed["head"]) == ("g", 3)
    assert [row["acked_seq"] for row in await house.rows("SELECT acked_seq FROM device_shared")] == [1]


@pytest.mark.parametrize("how", ["sync", "follow"])
async def test_a_fork_that_a_reader_proves_voids_every_cursor_of_the_timeline(house: House, how: str) -> None:
    """F75, protocol 4.1: of others the numbers are as doubtful, be it that nothing shows on their cursors."""
    reader, other = Reader(house), Reader(house, "bob/phone")
    await post(house)
    await other.sync()
    await post(house)
    await reader.sync()
    await set_back_and_refilled(house)
    if how == "follow":
        _, opened = await house.inbox.shared.follow(house.key(PHONE), Wanted(cursors=(reader.cursor or "",)))
        reader.resets = opened.resets
        reader.cursor, reader.seq = opened.resets[0]["cursor"], opened.resets[0]["floor"]
    else:
        await reader.sync()
    assert len(reader.resets) == 1
    await reader.sync()
    assert (reader.resets, reader.got) == ([], [1, 2, 1, 2, 3])
    await other.sync()
    assert [reset["reason"] for reset in other.resets] == ["epoch"]
    assert (await house.inbox.shared.follow(house.key(PHONE), Wanted(cursors=(reader.cursor or "",))))[1].resets == []


async def test_a_handshake_takes_a_good_cursor_as_an_ack_and_one_of_another_store_as_none(house: House) -> None:
    reader = Reader(house)
    await post(house, 2)
    await reader.sync()
    assert reader.cursor is not None
    good = await house.inbox.shared.greet(house.key(PHONE), {"g": reader.cursor}, void=False)
    assert [(one["verdict"], one["missing"]) for one in good.verdicts] == [("resume", 0)]
    assert [cursor.seq for cursor in good.stands] == [2]
    void = await house.inbox.shared.greet(house.key(PHONE), {"g": reader.cursor}, void=True)
    assert [(one["reason"], one["missing"]) for one in void.verdicts] == [("store_changed", 2)]
    assert [cursor.seq for cursor in void.stands] == [0]
    strange = await house.inbox.shared.greet(house.key(PHONE), {"g": "x", "elsewhere": "y"}, void=False)
    assert {one["conversation"]: one.get("reason", one["verdict"]) for one in strange.verdicts} == {
        "g": "bad_cursor",
        "elsewhere": "unknown",
    }


async def test_a_cursor_is_good_for_its_own_device_and_timeline(house: House) -> None:
    """I7."""
    await house.inbox.groups.change("shop", "h", add=["ann", "bob"], remove=(), ultra=True)
    reader = Reader(house)
    await post(house)
    await reader.sync()
    other = Reader(house, "bob/phone")
    other.cursor = reader.cursor
    await other.sync()
    assert [one["code"] for one in other.refused] == ["invalid_cursor"]
    own = Reader(house)
    own.cursor = house.store(PHONE).cursor
    await own.sync()
    assert [one["code"] for one in own.refused] == ["invalid_cursor"], "an inbox's cursor"
    wrong = await house.inbox.shared.greet(house.key(PHONE), {"h": reader.cursor or ""}, void=False)
    assert [one["reason"] for one in wrong.verdicts] == ["bad_cursor"]


async def test_nothing_newer_is_told_by_the_data_version(house: House) -> None:
    """I32."""
    reader = Reader(house)
    await post(house)
    await house.page(PHONE)
    first = await reader.sync()
    assert (await reader.look(etag=first.etag)).batch is None
    await post(house)
    changed = await reader.look(etag=first.etag)
    assert changed.batch is not None
    assert changed.etag != first.etag
    assert not changed.says_nothing


async def test_timelines_that_are_not_open_are_listed_with_their_heads_and_mentions(house: House) -> None:
    await post(house, 2)
    await post(house, mentions=("ann",))
    reading = await house.inbox.reader.read(house.key(PHONE), None, limit=200)
    assert reading.shared.ahead == ({"conversation": "g", "head": 3, "floor": 0, "mentions": 1},)
    reader = Reader(house)
    await reader.sync()
    await reader.ack()
    assert (await house.inbox.reader.read(house.key(PHONE), None, limit=200)).shared.ahead == ()


async def test_a_device_that_comes_again_by_the_same_name_has_read_nothing(house: House) -> None:
    """It may be a poller that never shakes hands."""
    reader = Reader(house)
    await post(house, 2)
    await reader.sync()
    await reader.ack()
    await house.inbox.sign_out(house.key(PHONE))
    await house.register(PHONE)
    (listed,) = (await house.inbox.reader.read(house.key(PHONE), None, limit=200)).shared.ahead
    assert (listed["conversation"], listed["head"]) == ("g", 2)


async def test_a_store_that_begins_anew_is_told_of_no_timeline_that_has_nothing_for_its_user(house: House) -> None:
    await house.register("cid/phone")
    await house.hello("cid/phone")
    await post(house, 2)
    await house.inbox.groups.change("shop", "g", add=["cid"], remove=())
    reader = Reader(house, "cid/phone")
    await reader.sync()
    assert await reader.ack() == {"g": 2}
    await house.hello("cid/phone", cursor=None)
    assert (await house.inbox.reader.read(house.key("cid/phone"), None, limit=200)).shared.ahead == ()
    await post(house)
    (listed,) = (await house.inbox.reader.read(house.key("cid/phone"), None, limit=200)).shared.ahead
    assert (listed["floor"], listed["head"]) == (2, 3)


async def test_read_markers_are_numbers_of_the_timeline(house: House) -> None:
    await post(house, 3)
    await house.ack(PHONE, reads=(("g", 99),))
    assert [row["read_seq"] for row in await house.rows("SELECT read_seq FROM read_marker")] == [3]
