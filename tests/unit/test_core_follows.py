"""How the client's sync core follows shared timelines: whatever comes, it keeps everything in order and acks nothing else."""

import json
import random
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.client import news, steps, wire
from relay.client import said as words
from relay.client.core import Core, Phase
from relay.client.follows import FOLLOWED_MAX
from relay.client.steps import Position, Reading, Timer
from relay.client.transports import params_of

INBOX = Position("e1", 0, "e1/0")


def batch(low: int, high: int, head: int, *, name: str = "g", epoch: str = "t1") -> wire.Page:
    entries = [
        {"seq": n, "id": f"{name}-{n}", "kind": "message", "h": "0" * 16, "body": n} for n in range(low + 1, high + 1)
    ]
    page = {"timeline": name, "epoch": epoch, "from": low, "to": high, "head": head, "entries": entries, "gaps": []}
    page |= {"cursor": f"{epoch}/{high}", "more": high < head, "caught_up": high == head}
    return wire.page(json.dumps(page).encode())


def reading(way: Reading = Reading.PUSHED, **follows: Position) -> tuple[Core, list[steps.Command]]:
    """A core that has shaken hands; and what it asked for then."""
    core = Core(store_id="s", rng=random.Random(1))
    core.handle(steps.Started(INBOX, {}, follows))
    core.handle(steps.Opened(way))
    welcome = {"type": "welcome", "verdict": "resume", "session": 1, "epoch": "e1", "cursors": {"inbox": "e1/0"}}
    core.handle(steps.Came(welcome | {"head": 0, "floor": 0, "missing": 0, "reason": None}))
    commands = core.handle(steps.Kept(INBOX))
    assert core.phase is Phase.READING
    return core, commands


def said(commands: list[steps.Command], type_: str) -> list[dict[str, Any]]:
    return [dict(one.frame) for one in commands if isinstance(one, steps.Say) and one.frame["type"] == type_]


def test_what_is_followed_is_asked_for_by_cursor_or_by_name() -> None:
    _, commands = reading(g=Position("t1", 3, "t1/3"), h=steps.NOWHERE)
    (frame,) = said(commands, "follow")
    assert (frame["shared"], frame["open"]) == (["t1/3"], ["h"])
    _, pulled = reading(Reading.PULLED, g=Position("t1", 3, "t1/3"), h=steps.NOWHERE)
    (fetch,) = [one for one in pulled if isinstance(one, steps.Fetch)]
    assert (fetch.shared, fetch.open) == (("t1/3",), ("h",))


def fetches(commands: list[steps.Command]) -> list[steps.Fetch]:
    return [one for one in commands if isinstance(one, steps.Fetch)]


def test_a_stream_brings_what_is_followed_and_begins_anew_where_that_changes() -> None:
    core, commands = reading(Reading.STREAMED, g=Position("t1", 3, "t1/3"), h=steps.NOWHERE)
    assert fetches(commands) == [steps.Fetch("e1/0", 0, ("t1/3",), ("h",))]
    beside = fetches(core.handle(steps.Came(batch(5, 6, 6))))
    assert beside == [steps.Fetch("e1/0", 0, ("t1/3",), ("h",))], "what lies between is asked for beside it"
    assert fetches(core.handle(steps.Unfollowed("h"))) == [steps.Fetch("e1/0", 0, ("t1/3",), (), anew=True)]
    followed = fetches(core.handle(steps.Followed("i")))
    assert followed == [steps.Fetch("e1/0", 0, ("t1/3",), ("i",), anew=True)]


@pytest.mark.parametrize("way", [Reading.PULLED, Reading.STREAMED])
def test_a_query_names_as_many_timelines_as_a_request_line_has_room_for_and_the_others_when_these_have_cursors(
    way: Reading,
) -> None:
    names = [f"{n:02}" + "\N{GRINNING FACE}" * 126 for n in range(FOLLOWED_MAX)]
    core, commands = reading(way, **dict.fromkeys(names, steps.NOWHERE))
    (query,) = fetches(commands)
    opened: list[str] = []
    while name := next((one for one in query.open if one not in opened), None):
        assert len(urlencode(params_of(query.cursor, query.shared, query.open))) < 7600
        opened.append(name)
        asked = fetches(core.handle(steps.KeptShared(name, Position("t1", 1, f"{len(opened):087}"))))
        assert all(one.anew is (way is Reading.STREAMED) for one in asked)
        query = asked[0] if asked else query
    assert opened == names


def test_a_poll_that_waits_for_what_is_followed_no_more_is_asked_anew() -> None:
    """What it brought would be dropped, and it would be the last one."""
    core, _ = reading(Reading.PULLED, g=Position("t1", 3, "t1/3"))
    assert fetches(core.handle(steps.Unfollowed("g"))) == [steps.Fetch("e1/0", 0)]
    assert fetches(core.handle(steps.Came(batch(3, 4, 4)))) == [steps.Fetch("e1/0", 50)], (
        "that had come before: it goes on"
    )


def test_a_page_is_kept_where_its_range_begins_and_acked_when_it_is_kept() -> None:
    core, _ = reading(g=Position("t1", 3, "t1/3"))
    assert core.handle(steps.Came(batch(5, 6, 6)))[0] == steps.Say(
        {"type": "follow", "ref": "3", "shared": ["t1/3"], "open": []}
    ), "what lies between is missing: it is asked for anew"
    (keep, *_) = core.handle(steps.Came(batch(3, 5, 5)))
    assert keep == steps.KeepShared(Position("t1", 3, "t1/3"), batch(3, 5, 5))
    after = core.handle(steps.KeptShared("g", Position("t1", 5, "t1/5")))
    after += core.handle(steps.Rang(Timer.ACK))
    assert said(after, "ack")[-1]["shared"] == ["t1/5"]
    assert not [one for one in core.handle(steps.Came(batch(3, 5, 5))) if isinstance(one, steps.KeepShared)]


def test_the_inbox_and_the_timelines_wait_for_the_same_database() -> None:
    core, _ = reading(g=steps.NOWHERE, h=steps.NOWHERE)
    assert isinstance(core.handle(steps.Came(batch(0, 1, 1)))[0], steps.KeepShared)
    assert core.handle(steps.Came(batch(0, 2, 2, name="h"))) == []
    after = core.handle(steps.KeptShared("g", Position("t1", 1, "t1/1")))
    assert [one.page.timeline for one in after if isinstance(one, steps.KeepShared)] == ["h"]


def test_a_timeline_that_begins_anew_is_adopted_and_leaves_the_inbox_alone() -> None:
    core, _ = reading(g=Position("t1", 3, "t1/3"), h=Position("t1", 1, "t1/1"))
    resets = [
        {"timeline": name, "reason": "epoch", "epoch": "t2", "cursor": "t2/0", "floor": 0, "head": 9} for name in "gh"
    ]
    first = core.handle(steps.Came({"type": "follow", "following": ["g", "h"], "resync": resets, "refused": []}))
    assert steps.AdoptShared("g", Position("t2", 0, "t2/0")) in first
    second = core.handle(steps.KeptShared("g", Position("t2", 0, "t2/0")))
    assert steps.AdoptShared("h", Position("t2", 0, "t2/0")) in second
    core.handle(steps.KeptShared("h", Position("t2", 0, "t2/0")))
    assert (core.phase, core.position) == (Phase.READING, INBOX)
    keep = core.handle(steps.Came(batch(0, 9, 9, epoch="t2")))[0]
    assert isinstance(keep, steps.KeepShared)


def test_a_read_marker_of_a_timeline_that_begins_anew_is_said_no_more() -> None:
    core, _ = reading(g=Position("t1", 3, "t1/3"), h=Position("t1", 1, "t1/1"))
    core.handle(steps.Spoke(dict([words.read("g", 3), words.read("h", 1)])))
    reset = {"timeline": "g", "reason": "epoch", "epoch": "t2", "cursor": "t2/0", "floor": 0, "head": 9}
    core.handle(steps.Came({"type": "follow", "following": ["g", "h"], "resync": [reset], "refused": []}))
    core.handle(steps.KeptShared("g", Position("t2", 0, "t2/0")))
    (ack,) = said(core.handle(steps.Rang(Timer.ACK)), "ack")
    assert ack["read"] == [{"conversation": "h", "read_seq": 1}]


@pytest.mark.parametrize("refusal", [{"conversation": "g"}, {"cursor": "t1/3"}])
def test_what_is_refused_is_told_once_and_not_asked_for_again(refusal: dict[str, str]) -> None:
    core, _ = reading(Reading.PULLED, g=Position("t1", 3, "t1/3"))
    told = core.handle(steps.Came({"type": "follow", "resync": [], "refused": [refusal | {"code": "not_found"}]}))
    assert steps.Tell(news.FollowRefused("g", "not_found")) in told
    (fetch,) = [one for one in core.handle(steps.Poked()) if isinstance(one, steps.Fetch)]
    assert fetch.shared == ()


def test_an_ack_that_was_not_taken_is_said_again() -> None:
    core, _ = reading(g=Position("t1", 3, "t1/3"))
    (ack,) = said(core.handle(steps.Rang(Timer.ACK)), "ack")
    core.handle(steps.Came({"type": "error", "ref": ack["ref"], "code": "overloaded", "retry_after_ms": 10}))
    assert said(core.handle(steps.Rang(Timer.ACK)), "ack")[0]["shared"] == ["t1/3"]


# --- more than the relay takes in one request, as a cache of an earlier version may follow ---

MANY = {f"g{n:03}": Position("t1", n, f"t1/{n}") for n in range(100)} | {f"h{n}": steps.NOWHERE for n in range(20)}
CURSORS, NAMES = {at.cursor for at in MANY.values() if at.cursor}, {f"h{n}" for n in range(20)}


def test_many_timelines_are_followed_by_several_frames() -> None:
    _, commands = reading(**MANY)
    frames = said(commands, "follow")
    assert all(len(frame["shared"]) + len(frame["open"]) <= FOLLOWED_MAX for frame in frames)
    assert (
        {one for frame in frames for one in frame["shared"]},
        {one for frame in frames for one in frame["open"]},
    ) == (
        CURSORS,
        NAMES,
    )


def test_each_poll_asks_for_a_part_of_many_timelines_and_soon_for_all() -> None:
    core, commands = reading(Reading.PULLED, **MANY)
    polls = fetches(commands) + [fetch for _ in range(2) for fetch in fetches(core.handle(steps.Poked()))]
    assert all(len(poll.shared) + len(poll.open) <= FOLLOWED_MAX for poll in polls)
    assert ({one for poll in polls for one in poll.shared}, {one for poll in polls for one in poll.open}) == (
        CURSORS,
        NAMES,
    )


def test_what_is_stored_of_many_timelines_is_acked_in_several_acks() -> None:
    core, _ = reading(**MANY)
    acked: list[str] = []
    while acks := said(core.handle(steps.Rang(Timer.ACK)), "ack"):
        assert len(acks[0]["shared"]) <= FOLLOWED_MAX
        acked += acks[0]["shared"]
        core.handle(steps.Came({"type": "ack", "ref": acks[0]["ref"], "acked": 0}))
    assert sorted(acked) == sorted(CURSORS)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=20))
def test_whatever_pages_come_what_is_kept_has_no_hole(ranges: list[tuple[int, int]]) -> None:
    core, _ = reading(g=steps.NOWHERE)
    at, kept = steps.NOWHERE, []
    for low, length in ranges:
        for command in core.handle(steps.Came(batch(low, low + length, low + length))):
            if isinstance(command, steps.KeepShared):
                assert command.at == at
                assert at.cursor is None or command.page.from_seq == at.seq
                kept += [one.entry.seq for one in command.page.received]
                at = Position("t1", command.page.to_seq, f"t1/{command.page.to_seq}")
                core.handle(steps.KeptShared("g", at))
    assert kept == list(range(kept[0], kept[0] + len(kept))) if kept else True
    acked = [cursor for frame in said(core.handle(steps.Rang(Timer.ACK)), "ack") for cursor in frame.get("shared", ())]
    assert acked == ([] if at is steps.NOWHERE else [at.cursor])
