"""Reading (protocol §8): every page names every number of its range once, and says truly why one carries nothing.

(C) I5, I31, I32; F5, F6, F11, F12; and each row of the table of 8.5.
"""

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import law
import msgspec
import pytest
from clocks import START_MS, SetClock
from house import House
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from relay.errors import CursorRefused, Malformed, Problem, Unauthenticated, Unavailable
from relay.inbox import reader, reading
from relay.inbox.cursor import CursorKeys, seal, tail8
from relay.inbox.reading import Reading
from relay.model import DeviceState, Facts, Policy, Scope
from relay.store import meta
from relay.store.apps import create_app
from relay.store.engine import Engine
from relay.store.inline import InlineEngine
from relay.store.schema import metadata

POLICY = Policy(replay_window_ms=60_000, dormant_ms=3_600_000)
DEVICES = ("ann/phone", "ann/tablet")


_clock = SetClock()


@pytest.fixture(scope="module")
def inline() -> Iterator[InlineEngine]:
    """One database in memory for all histories, emptied before each."""
    engine = InlineEngine(_clock)
    metadata.create_all(engine.conn)
    yield engine
    asyncio.run(engine.close())


async def begun(engine: Engine, clock: Any, policy: Policy = POLICY) -> House:
    """ann's phone shows schema 6 on Android, her tablet schema 7 on iOS."""
    house = await House(engine, clock, policy=policy).begin()
    for name, schema, platform in (("ann/phone", 6, "android"), ("ann/tablet", 7, "ios")):
        await house.register(name, platform=platform)
        await house.hello(name, schema=schema)
    await house.register("bob/phone")
    return house


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    return await begun(engine, clock)


# --- (C): every number once, with the right reason --------------------------------------------------------------------

_sends = st.fixed_dictionaries(
    {},
    optional={
        "collapse_key": st.just("score"),
        "ttl_s": st.sampled_from([1, 30, 5_000]),
        "scope": st.sampled_from([Scope(devices=("phone",)), Scope(platforms=("ios",)), Scope(first_ack_wins=True)]),
        "min_schema": st.just(7),
        "fallback": st.just('"old"'),
        "hold": st.booleans(),
    },
).map(lambda about: about | ({"fallback_h": "11"} if "fallback" in about else {}))
_history = st.lists(
    st.one_of(
        st.tuples(st.just("send"), _sends),
        st.tuples(st.just("send"), _sends),
        st.tuples(st.just("own"), st.sampled_from(DEVICES)),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("catch up"), st.sampled_from(DEVICES)),
        st.tuples(st.just("read"), st.integers(1, 20)),
        st.tuples(st.just("hello"), st.sampled_from(DEVICES)),
        st.tuples(st.just("again"), st.sampled_from(DEVICES)),
        st.tuples(st.just("wait"), st.sampled_from([1, 31, 100])),
        st.tuples(st.just("expire")),
        st.tuples(st.just("prune")),
    ),
    min_size=3,
    max_size=25,
)


async def happen(house: House, step: tuple[Any, ...], sent: list[str]) -> None:
    match step:
        case ("send", about):
            sent.append((await house.send(**about)).message_id)
        case ("own", device):
            await house.send("bob", sender_user="ann", sender_device=device.split("/")[1])
        case ("cancel", at) if sent:
            await house.inbox.cancel(house.app, sent[at % len(sent)])
        case ("catch up", name):
            await house.catch_up(name)
        case ("read", seq):
            await house.ack("ann/phone", reads=(("c1", seq),))
        case ("hello", name):
            await house.hello(name)
        case ("again", name):  # a new life of the same name: it begins where the floor is
            await house.inbox.sign_out(house.key(name))
            await house.register(name, platform="ios")
            house.stores.pop(name)
            await house.hello(name, schema=7)
        case ("wait", seconds):
            house.clock.forward(s=seconds)
        case ("expire",):
            await house.inbox.expire()
        case ("prune",):
            await house.inbox.prune([house.key("ann/phone").user])


def expected(rows: law.Rows, device: law.Row, seq: int, now_ms: int) -> str:
    """What a page must say of a number: why it carries nothing, or `entry`."""
    if seq <= rows.inboxes["ann"]["floor_seq"]:
        return "expired"
    if seq <= device["start_seq"]:
        return "pruned"
    entry = next(e for e in rows.entries["ann"] if e["seq"] == seq)
    if entry["state"] != "live":
        return "quarantined" if entry["state"] == "failed" else str(entry["state"])
    seen = {"own": "own", "held": "held", "none": "scope"}.get(law.form(entry, device))
    return seen or ("expired" if entry["expires_ms"] <= now_ms else "entry")


def said(batch: bytes) -> dict[int, str]:
    """What a page says of each number; fails if it names one twice."""
    page = json.loads(batch)
    words = [(entry["seq"], "entry") for entry in page["entries"]]
    words += [(n, gap["why"]) for gap in page["gaps"] for n in range(gap["from"] + 1, gap["to"] + 1)]
    assert len(dict(words)) == len(words)
    assert [entry["seq"] for entry in page["entries"]] == sorted(entry["seq"] for entry in page["entries"])
    return dict(words)


async def covers(house: House, name: str) -> None:
    """(C) from every number, with every limit."""
    now_ms = house.clock.now_ms()
    rows = await house.engine.read(lambda conn, _: law.Rows(conn, house.app))
    device = next(d for d in rows.here("ann") if "/".join(law.of(d)) == name)
    head = rows.inboxes["ann"]["head_seq"]
    right = {seq: expected(rows, device, seq, now_ms) for seq in range(1, head + 1)}
    for after in range(head + 1):
        for limit in {1, 2, 3, head + 1}:
            batch = (await house.inbox.reader.read_after(house.key(name), after, limit=limit, bytes_max=1 << 20)).batch
            assert batch is not None
            words = said(batch.json)
            assert (batch.from_seq, sorted(words)) == (after, list(range(after + 1, batch.to_seq + 1)))
            assert words == {seq: right[seq] for seq in words}
            assert batch.to_seq > after or after == head, "a page that is not empty at the head leads nowhere"
            assert batch.caught_up == (batch.to_seq == head) == (not batch.more)


@settings(
    max_examples=40,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(history=_history)
def test_entries_and_gaps_of_every_page_are_exactly_its_range(
    inline: InlineEngine, history: list[tuple[Any, ...]]
) -> None:
    """(C) I5, I31: after any history, for each device, from every number and with every limit."""

    async def check() -> None:
        house, sent = await begun(inline, _clock), []
        for step in history:
            with suppress(Problem):
                await happen(house, step, sent)
        for name in DEVICES:
            await covers(house, name)

    empty(inline)
    asyncio.run(check())


@settings(
    max_examples=40,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(history=_history, after=_history)
def test_not_modified_only_if_the_page_would_have_been_empty(
    inline: InlineEngine, history: list[tuple[Any, ...]], after: list[tuple[Any, ...]]
) -> None:
    """I32: whatever happens after a client noted the version, a 304 never hides an entry or a gap from it; the short way
    to one, once it is known, comes to the same."""

    async def check() -> None:
        house, sent = await begun(inline, _clock), []
        for step in history:
            with suppress(Problem):
                await happen(house, step, sent)
        phone = house.key("ann/phone")
        page = await house.page("ann/phone")
        cursor = house.inbox.reader.unseal(page.json["cursor"], phone)
        snap = (await house.inbox.reader.read(phone, cursor, limit=1)).snap
        question, known = (page.json["cursor"], snap.etag), False
        for step in after:
            with suppress(Problem):
                await happen(house, step, sent)
            with suppress(Problem):
                told = (await house.inbox.reader.read(phone, cursor, limit=5, etag=snap.etag)).batch is None
                assert (await house.inbox.unchanged.holds(phone, question) is not None) is (told and known)
                if told:
                    house.inbox.unchanged.answered(phone, question, snap.version)
                    known = True
                    plain = (await house.inbox.reader.read(phone, cursor, limit=5)).batch
                    assert plain is not None
                    assert (plain.from_seq, plain.to_seq) == (cursor.seq, cursor.seq)

    empty(inline)
    asyncio.run(check())


def empty(inline: InlineEngine) -> None:
    _clock.ms = START_MS
    for table in metadata.sorted_tables:
        inline.conn.execute(table.delete())


async def test_the_same_history_is_covered_on_each_store(house: House) -> None:
    """(C) on PostgreSQL as well: one of every kind of number."""
    sent: list[str] = []
    for step in (
        ("send", {"ttl_s": 1}),
        ("send", {}),
        ("catch up", "ann/phone"),
        ("catch up", "ann/tablet"),
        ("wait", 100),
        ("expire",),
        ("prune",),
        ("send", {}),
        ("send", {"collapse_key": "score"}),
        ("send", {"collapse_key": "score"}),
        ("send", {"min_schema": 7}),
        ("send", {"min_schema": 7, "fallback": '"old"', "fallback_h": "11"}),
        ("send", {"min_schema": 7, "hold": False}),
        ("send", {"scope": Scope(platforms=("ios",))}),
        ("send", {"ttl_s": 30}),
        ("own", "ann/phone"),
        ("cancel", 2),
        ("catch up", "ann/tablet"),
        ("cancel", 4),
        ("read", 3),
        ("wait", 31),
    ):
        await happen(house, step, sent)
    for name in DEVICES:
        await covers(house, name)
    page = await house.page("ann/phone", store=False)
    assert {why for _, _, why in page.gaps} == {
        "cancelled",
        "superseded",
        "recalled",
        "held",
        "scope",
        "expired",
        "own",
    }


# --- single faults ----------------------------------------------------------------------------------------------------


async def test_f5_an_entry_that_expires_before_it_is_read_is_a_gap(house: House, clock: Any) -> None:
    """F5: counted in the head, over before the sweep or the reader came: `expired`, and the range holds."""
    await house.sends(1)
    await house.send(ttl_s=5)
    await house.sends(1)
    clock.forward(s=5)
    page = await house.page("ann/phone", store=False)
    assert (page.seqs, page.gaps, page.caught_up) == ([1, 3], [(1, 2, "expired")], True)
    await house.inbox.expire()
    assert (await house.page("ann/phone", store=False)).json["gaps"] == page.json["gaps"]


async def test_f6_a_page_that_got_lost_comes_again_as_it_was(house: House) -> None:
    """F6: the client asks with the cursor it has; same numbers, same ids, though more has arrived since."""
    await house.sends(5)
    first = await house.page("ann/phone", limit=2)
    lost = await house.page("ann/phone", limit=2, store=False)
    await house.sends(1)
    again = await house.page("ann/phone", limit=2)
    assert (again.ids, again.json["from"], again.json["to"]) == (lost.ids, lost.json["from"], lost.json["to"])
    last = await house.page("ann/phone")
    ids = [*first.ids, *again.ids, *last.ids]
    assert ids == house.store("ann/phone").ids
    assert len(set(ids)) == 6


async def test_f11_a_version_that_is_right_does_not_help_a_cursor_that_is_older(house: House) -> None:
    """F11: 200 with entries, never 304."""
    await house.sends(2)
    phone = house.key("ann/phone")
    begin = house.store("ann/phone").cursor
    await house.page("ann/phone")
    at_head = house.inbox.reader.unseal(house.store("ann/phone").cursor or "", phone)
    etag = (await house.inbox.reader.read(phone, at_head, limit=5)).snap.etag
    assert (await house.inbox.reader.read(phone, at_head, limit=5, etag=etag)).batch is None
    older = (
        await house.inbox.reader.read(phone, house.inbox.reader.unseal(begin or "", phone), limit=5, etag=etag)
    ).batch
    assert older is not None
    assert older.entries == 2


async def test_f12_an_entry_that_is_larger_than_the_window_is_sent_alone(house: House) -> None:
    """F12: never before its turn, never together with others, never stuck."""
    small, big = '"x"', json.dumps("x" * 65_000)
    for body in (small, big, small, small):
        await house.send(body=body)
    after, pages = 0, []
    while after < 4:
        batch = (await house.inbox.reader.read_after(house.key("ann/phone"), after, limit=200, bytes_max=1024)).batch
        assert batch is not None
        pages.append(sorted(said(batch.json)))
        after = batch.to_seq
    assert pages == [[1], [2], [3, 4]]


async def test_connections_that_are_woken_together_are_read_in_one_reading(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gets its own page, or is told its own trouble."""
    for user in ("ann", "bob"):
        await house.send(user)
    await house.register("cid/phone")
    await house.inbox.sign_out(house.key("cid/phone"))
    await house.engine.write(lambda conn, _: conn.exec_driver_sql("DELETE FROM inbox_entry WHERE user_id = 'bob'"))
    read, readings = house.engine.read, list[Any]()

    async def counted(work: Any) -> Any:
        readings.append(work)
        return await read(work)

    monkeypatch.setattr(house.engine, "read", counted)
    names = ("ann/phone", "ann/tablet", "bob/phone", "cid/phone")
    phone, tablet, damaged, gone = await asyncio.gather(
        *(house.inbox.reader.read_after(house.key(name), 0, limit=200, bytes_max=1 << 20) for name in names),
        return_exceptions=True,
    )
    assert len(readings) == 1
    for found, name in ((phone, "phone"), (tablet, "tablet")):
        assert isinstance(found, Reading)
        assert (found.snap.device.device_id, found.batch and found.batch.entries) == (name, 1)
    assert isinstance(damaged, Unavailable)
    assert isinstance(gone, Unauthenticated)


async def test_an_entry_that_cannot_be_read_takes_nobody_else_s_page(house: House) -> None:
    for user in ("ann", "bob"):
        await house.send(user)
    await house.engine.write(
        lambda conn, _: conn.exec_driver_sql("UPDATE inbox_entry SET kind = 'recall', data = '{' WHERE user_id = 'bob'")
    )
    damaged, phone = await asyncio.gather(
        *(
            house.inbox.reader.read_after(house.key(name), 0, limit=200, bytes_max=1 << 20)
            for name in ("bob/phone", "ann/phone")
        ),
        return_exceptions=True,
    )
    assert isinstance(damaged, msgspec.DecodeError)
    assert isinstance(phone, Reading)


async def test_what_is_enough_for_one_reading_is_read_in_several(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd that comes back with much to read holds nobody up for long; in the order in which they asked."""
    monkeypatch.setattr(reading, "NEXT_NUMBERS", 3)
    names = [f"user-{n}/phone" for n in range(5)]
    for name in names:
        await house.register(name)
    await house.sends(2, *(name.partition("/")[0] for name in names))
    read_next, readings = reader.read_next, list[list[str]]()

    def noted(conn: Any, now_ms: int, asked: Any, keys: Any) -> Any:
        found = read_next(conn, now_ms, asked, keys)
        readings.append([one.device.user_id for one in found])
        return found

    monkeypatch.setattr(reader, "read_next", noted)
    found = await asyncio.gather(
        *(house.inbox.reader.read_after(house.key(name), 0, limit=200, bytes_max=1 << 20) for name in names)
    )
    assert [one.batch and one.batch.entries for one in found] == [2] * 5
    assert readings == [["user-0", "user-1"], ["user-2", "user-3"], ["user-4"]]


async def test_a_range_is_filled_without_a_cursor(house: House) -> None:
    """§8.2: `range` names its numbers like any page, says `pruned` below the floor, and moves nothing."""
    await house.sends(4)
    await house.engine.write(lambda conn, _: conn.exec_driver_sql("DELETE FROM inbox_entry WHERE seq <= 2"))
    await house.engine.write(lambda conn, _: conn.exec_driver_sql("UPDATE inbox SET floor_seq = 2"))
    for low, high, words in (
        (0, 3, {1: "pruned", 2: "pruned", 3: "entry"}),
        (2, 3, {3: "entry"}),
        (0, 1, {1: "pruned"}),
        (3, 99, {4: "entry"}),
    ):
        batch = (await house.inbox.reader.read(house.key("ann/phone"), None, limit=200, range_=(low, high))).batch
        assert batch is not None
        assert said(batch.json) == words
        assert "cursor" not in json.loads(batch.json)


async def test_a_number_without_a_row_is_damage_and_never_a_gap(house: House) -> None:
    """§8: 503 `storage_failed` rather than a cursor that passes what nobody can read."""
    await house.sends(3)
    await house.engine.write(lambda conn, _: conn.exec_driver_sql("DELETE FROM inbox_entry WHERE seq = 2"))
    with pytest.raises(Problem) as refused:
        await house.page("ann/phone")
    assert refused.value.code == "storage_failed"


# --- 8.5: when the cursor is no good ----------------------------------------------------------------------------------


async def a_cursor(house: House, **other: Any) -> str:
    """The phone's own cursor with something changed, sealed by the relay's key."""
    phone = house.key("ann/phone")
    mine = house.inbox.reader.unseal(house.store("ann/phone").cursor or "", phone)
    return seal(replace(mine, **other), phone, house.keys)


async def begins_again(
    house: House, refused: CursorRefused, *, code: str, reason: str, name: str = "ann/phone"
) -> dict[str, Any]:
    """The reset data is enough to go on: its cursor is taken, and what it leads to is complete."""
    assert (refused.status, refused.code) == (410 if code == "cursor_too_old" else 409, code)
    reset: dict[str, Any] = refused.extra["resync"]
    inbox = (await house.rows("SELECT head_seq, floor_seq FROM inbox WHERE user_id = 'ann'"))[0]
    start = max(inbox["floor_seq"], (await house.device(name)).start_seq)
    assert (reset["reason"], reset["head"], reset["floor"]) == (reason, inbox["head_seq"], start)
    page = await house.page(name, cursor=reset["cursor"])
    assert (page.json["from"], page.json["to"], page.json["epoch"]) == (reset["floor"], reset["head"], reset["epoch"])
    return reset


async def test_8_5_what_cannot_be_read_is_an_invalid_cursor(house: House) -> None:
    """Row 1, F60: unreadable or with another's seal."""
    for text in ("", "x", "A" * 88, "é" * 88, "A" * 87 + "="):
        with pytest.raises(Malformed) as refused:
            house.inbox.reader.unseal(text, house.key("ann/phone"))
        assert refused.value.code == "invalid_cursor"


async def test_8_5_a_cursor_is_good_for_one_device_and_one_key_ring(house: House) -> None:
    """Row 1, F60, I7: another device's, another user's, another app's, another relay's, and one that was changed."""
    mine = house.store("ann/phone").cursor or ""
    await house.register("bob/phone")
    strangers = [house.key("ann/tablet"), house.key("bob/phone"), house.key("ann/phone")._replace(app_id="other")]
    for device in strangers:
        with pytest.raises(Malformed):
            house.inbox.reader.unseal(mine, device)
    for place in range(0, 88, 7):
        changed = mine[:place] + ("A" if mine[place] != "A" else "B") + mine[place + 1 :]
        with pytest.raises(Malformed):
            house.inbox.reader.unseal(changed, house.key("ann/phone"))
    house.inbox.reader.keys = CursorKeys(1, {1: b"z" * 32})
    with pytest.raises(Malformed):
        house.inbox.reader.unseal(mine, house.key("ann/phone"))


async def test_8_5_another_epoch(house: House) -> None:
    """Row 2: the numbering has begun anew."""
    await house.sends(2)
    await house.catch_up("ann/phone")
    await house.engine.write(lambda conn, now_ms: meta.begin_epoch(conn, now_ms, random.Random(99)))
    with pytest.raises(CursorRefused) as refused:
        await house.page("ann/phone")
    await begins_again(house, refused.value, code="cursor_epoch_changed", reason="epoch")


async def test_8_5_a_device_that_began_late_goes_on_from_where_it_began(house: House) -> None:
    """The reset names the number of its cursor, which a client needs to place it: not a floor below."""
    await house.sends(3)
    await house.register("ann/tablet")
    await house.engine.write(
        lambda conn, _: conn.exec_driver_sql(
            "UPDATE device SET start_seq = 3, acked_seq = 3 WHERE device_id = 'tablet'"
        )
    )
    await house.hello("ann/tablet")
    await house.catch_up("ann/tablet")
    await house.sends(1)
    await house.engine.write(lambda conn, now_ms: meta.begin_epoch(conn, now_ms, random.Random(99)))
    with pytest.raises(CursorRefused) as refused:
        await house.page("ann/tablet")
    reset = await begins_again(house, refused.value, code="cursor_epoch_changed", reason="epoch", name="ann/tablet")
    assert reset["floor"] == 3


@pytest.mark.parametrize(
    "other",
    [{"seq": 9, "tail8": bytes(8)}, {"session": 99}, {"tail8": tail8("another")}],
    ids=["seq", "session", "tail"],
)
async def test_8_5_a_cursor_that_is_ahead_or_ends_otherwise(house: House, other: dict[str, Any]) -> None:
    """Row 3: the relay sealed it, so numbers were lost."""
    await house.sends(2)
    await house.catch_up("ann/phone")
    with pytest.raises(CursorRefused) as refused:
        await house.page("ann/phone", cursor=await a_cursor(house, **other))
    await begins_again(house, refused.value, code="cursor_epoch_changed", reason="forked")


async def test_4_1_a_cursor_that_proves_a_loss_voids_the_cursors_of_every_device_at_once(house: House) -> None:
    """Also the plain sync of a device that does not shake hands: another one's number may be taken anew by then."""
    await house.register("ann/tablet")
    for name in ("ann/phone", "ann/tablet"):
        await house.hello(name)
    await house.sends(2)
    for name in ("ann/phone", "ann/tablet"):
        await house.catch_up(name)
    with pytest.raises(CursorRefused):
        await house.page("ann/phone", cursor=await a_cursor(house, seq=9, tail8=bytes(8)))
    with pytest.raises(CursorRefused) as refused:
        await house.page("ann/tablet")
    await begins_again(house, refused.value, code="cursor_epoch_changed", reason="epoch", name="ann/tablet")
    assert "store.rolled_back" not in [type_ for type_, _ in await house.events()]


async def test_4_1_three_inboxes_that_prove_it_void_the_whole_store(house: House) -> None:
    await house.engine.write(lambda conn, now_ms: create_app(conn, now_ms, app_id=house.app, id_secret=b"s"))
    for user in ("ann", "bob", "cid"):
        await house.register(f"{user}/phone")
        await house.hello(f"{user}/phone")
        await house.send(user)
        await house.catch_up(f"{user}/phone")
        phone = house.key(f"{user}/phone")
        mine = house.inbox.reader.unseal(house.store(f"{user}/phone").cursor or "", phone)
        with pytest.raises(CursorRefused):
            await house.page(f"{user}/phone", cursor=seal(replace(mine, seq=9), phone, house.keys))
    assert [type_ for type_, _ in await house.events()].count("store.rolled_back") == 1


async def below_the_floor(house: House, clock: Any) -> str:
    """Three acked by both devices and pruned, two more; and the phone's cursor from before all that."""
    old = house.store("ann/phone").cursor or ""
    await house.sends(3)
    for name in DEVICES:
        await house.catch_up(name)
    clock.forward(s=61)
    assert await house.inbox.prune([house.key("ann/phone").user]) == 3
    await house.sends(2)
    return old


async def test_8_5_below_the_floor_and_below_what_it_acked(house: House, clock: Any) -> None:
    """F50: row 4: something that it had is gone: too old, with the exact loss."""
    old = await below_the_floor(house, clock)
    with pytest.raises(CursorRefused) as refused:
        await house.page("ann/phone", cursor=old)
    reset = await begins_again(house, refused.value, code="cursor_too_old", reason="too_old")
    assert reset["loss"] == {"from": 1, "to": 3, "count": 3, "known": True}


@pytest.mark.parametrize("beats", [False, True])
async def test_8_5_below_the_floor_and_dormant(house: House, clock: Any, beats: bool) -> None:
    """Row 4, F59: silent for so long that the floor did not wait for it; be it that its heartbeat comes first."""
    await house.bye("ann/phone")
    old = house.store("ann/phone").cursor or ""
    await house.sends(3, ttl_s=100_000)
    await house.catch_up("ann/tablet")
    clock.forward(s=3_601)
    await house.inbox.silence(DeviceState.ACTIVE, before_ms=clock.now_ms() - POLICY.dormant_ms, limit=10)
    await house.inbox.prune([house.key("ann/phone").user])
    await house.sends(1)
    if beats:
        session = (await house.device("ann/phone")).session
        assert await house.inbox.said(house.key("ann/phone"), session, Facts(False, None))
    with pytest.raises(CursorRefused) as refused:
        await house.page("ann/phone", cursor=old)
    reset = await begins_again(house, refused.value, code="cursor_too_old", reason="too_old")
    assert reset["loss"]["count"] == 3
    welcome = await house.hello("ann/phone", cursor=old)
    assert (welcome.verdict, welcome.reason, welcome.loss) == ("resync", "too_old", reset["loss"])


async def test_8_5_below_the_floor_otherwise_is_a_gap(house: House, clock: Any) -> None:
    """Row 5: all that it has not passed has ended, so it has lost nothing: 200, and `expired`."""
    await house.sends(3, ttl_s=5)
    clock.forward(s=5)
    await house.inbox.expire()
    await house.inbox.prune([house.key("ann/phone").user])
    await house.sends(1)
    page = await house.page("ann/phone")
    assert (page.seqs, page.gaps) == ([4], [(0, 3, "expired")])


async def test_8_5_no_cursor_reads_from_the_start(house: House, clock: Any) -> None:
    """Row 6: the floor, or where the device began."""
    await below_the_floor(house, clock)
    batch = (await house.inbox.reader.read(house.key("ann/phone"), None, limit=10)).batch
    assert batch is not None
    assert (batch.from_seq, batch.to_seq) == (3, 5)
    house.policy = replace(POLICY, start="now")
    await house.register("ann/watch")
    batch = (await house.inbox.reader.read(house.key("ann/watch"), None, limit=10)).batch
    assert batch is not None
    assert (batch.from_seq, batch.to_seq) == (5, 5)


async def test_8_5_of_another_timeline(house: House) -> None:
    """I7: a cursor of a shared timeline says nothing about an inbox."""
    with pytest.raises(Malformed):
        await house.page("ann/phone", cursor=await a_cursor(house, timeline8=b"another1"))
