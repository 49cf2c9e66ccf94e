"""The client's sync core: whatever a network, a disk and a relay do to it, it keeps everything and acks nothing else."""

import json
import random
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.client import news, said, steps, wire
from relay.client.core import Core, Phase
from relay.client.steps import Position, Reading, Timer

STORE = "store-1"


def page_text(epoch: str, low: int, ids: list[str], high: int, *, limit: int) -> bytes:
    """A batch as a relay writes it. Ids that begin with `-` stand for numbers that are skipped."""
    to = min(high, low + limit)
    entries, gaps = [], []
    for seq in range(low + 1, to + 1):
        id_ = ids[seq - 1]
        if id_.startswith("-"):
            gaps.append({"from": seq - 1, "to": seq, "why": "expired"})
        else:
            entries.append({"seq": seq, "id": id_, "kind": "message", "h": "0" * 16, "body": id_, "form": "full"})
    return json.dumps(
        {
            "type": "batch",
            "epoch": epoch,
            "from": low,
            "to": to,
            "head": high,
            "entries": entries,
            "gaps": gaps,
            "cursor": f"{epoch}/{to}",
            "more": to < high,
            "caught_up": to == high,
        }
    ).encode()


def a_page(low: int = 0, ids: list[str] | None = None, *, epoch: str = "e1") -> wire.Page:
    ids = ["a", "b"] if ids is None else ids
    return wire.page(page_text(epoch, low, ["?"] * low + ids, low + len(ids), limit=100))


def welcome(*, at: int = 0, head: int = 0, epoch: str = "e1", **more: Any) -> dict[str, Any]:
    resync = more.pop("resync", None)
    return {
        "type": "welcome",
        "verdict": "resync" if resync else "resume" if at == head else "delta",
        "reason": resync,
        "session": 1,
        "epoch": epoch,
        "cursors": {"inbox": f"{epoch}/{at}"},
        "head": head,
        "floor": 0,
        "missing": head - at,
        "heartbeat": {"interval_s": 30, "lease_s": 75},
        **more,
    }


def a_core(**more: Any) -> Core:
    return Core(**({"store_id": STORE, "rng": random.Random(1)} | more))


def reading(position: Position | None = None, *, way: Reading = Reading.PUSHED, head: int = 0, **more: Any) -> Core:
    """A core that has shaken hands and stands at `position`."""
    at = position or Position("e1", 0, "e1/0")
    core = a_core(**more)
    core.handle(steps.Started(at))
    core.handle(steps.Opened(way))
    core.handle(steps.Came(welcome(at=at.seq, head=max(head, at.seq))))
    core.handle(steps.Kept(at))
    assert core.phase is Phase.READING
    return core


def only(commands: list[steps.Command], kind: type[Any]) -> Any:
    """The one command of a kind."""
    (found,) = [one for one in commands if isinstance(one, kind)]
    return found


def kinds(commands: list[steps.Command]) -> set[type[Any]]:
    return {type(one) for one in commands}


def said_ack(commands: list[steps.Command]) -> dict[str, Any]:
    return dict(only([one for one in commands if isinstance(one, steps.Say)], steps.Say).frame)


def test_it_says_hello_with_the_cursor_and_the_store_that_its_database_holds() -> None:
    core = a_core(facts={"app_version": "2.0", "schema": 3})
    assert core.handle(steps.Started(Position("e1", 7, "e1/7"))) == [steps.Connect()]
    frame = only(core.handle(steps.Opened(Reading.PUSHED)), steps.Say).frame
    assert frame == {
        "type": "hello",
        "ref": "1",
        "app_version": "2.0",
        "schema": 3,
        "state": "foreground",
        "store": {"id": STORE},
        "cursors": {"inbox": "e1/7"},
    }


def test_what_another_process_has_refused_meanwhile_is_said_before_the_handshake_acks_it() -> None:
    core = a_core()
    core.handle(steps.Started(Position("e1", 7, "e1/7")))
    word = dict([said.nack("m7", "unknown_type")])
    first = only(core.handle(steps.Opened(Reading.PUSHED, word)), steps.Say)
    assert (first.aside, first.frame["nack"]) == (True, [{"id": "m7", "code": "unknown_type"}])
    assert "cursor" not in first.frame


def test_a_push_has_a_connection_that_stands_ask_where_the_inbox_is_and_what_is_stuck_is_read_by_a_call() -> None:
    core = reading()
    beat = only(core.handle(steps.Poked()), steps.Say).frame
    assert beat["type"] == "hb"
    assert steps.SetTimer(Timer.BEHIND, 2.0) in core.handle(steps.Came({"type": "hb", "ref": beat["ref"], "head": 3}))
    assert steps.Fetch("e1/0", 0) in core.handle(steps.Rang(Timer.BEHIND))


def test_nothing_is_acked_before_it_is_kept() -> None:
    core = reading()
    kept = core.handle(steps.Came(a_page()))
    assert steps.Say not in kinds(kept)
    assert only(kept, steps.Keep).at == Position("e1", 0, "e1/0")
    after = core.handle(steps.Kept(Position("e1", 2, "e1/2")))
    assert steps.SetTimer(Timer.ACK, 0.25) in after
    assert said_ack(core.handle(steps.Rang(Timer.ACK)))["cursor"] == "e1/2"


def test_an_urgent_message_is_acked_at_once() -> None:
    text = page_text("e1", 0, ["a"], 1, limit=9).replace(b'"form"', b'"priority": "urgent", "form"')
    core = reading()
    core.handle(steps.Came(wire.frame(text)))
    assert said_ack(core.handle(steps.Kept(Position("e1", 1, "e1/1"))))["cursor"] == "e1/1"


def test_fifty_entries_are_acked_at_once_and_then_not_more_than_four_times_a_second() -> None:
    core = reading()
    core.handle(steps.Came(a_page(0, [f"m{n}" for n in range(50)])))
    assert said_ack(core.handle(steps.Kept(Position("e1", 50, "e1/50"))))["cursor"] == "e1/50"
    core.handle(steps.Came(a_page(50, ["x"])))
    assert steps.Say not in kinds(core.handle(steps.Kept(Position("e1", 51, "e1/51"))))
    assert said_ack(core.handle(steps.Rang(Timer.ACK)))["cursor"] == "e1/51"


@pytest.mark.parametrize(
    "text",
    [
        b'"from": 0, "to": 3, "head": 3, "entries": [], "gaps": [{"from": 0, "to": 2, "why": "scope"}]',
        b'"from": 0, "to": 1, "head": 1, "entries": [], "gaps": [{"from": 0, "to": 2, "why": "scope"}]',
        b'"from": 0, "to": 2, "head": 2, "entries": [{"seq": 2, "id": "b", "kind": "message"}], "gaps": []',
        b'"from": 0, "to": 1, "head": 1, "entries": [{"seq": 1, "id": "a", "kind": "message"}],'
        b' "gaps": [{"from": 0, "to": 1, "why": "scope"}]',
    ],
)
def test_a_page_that_does_not_name_every_number_once_is_not_kept(text: bytes) -> None:
    page = wire.page(b'{"epoch": "e1", "cursor": "e1/9", ' + text + b"}")
    commands = reading().handle(steps.Came(page))
    assert kinds(commands) == {steps.Close}


def test_a_page_from_elsewhere_is_dropped_and_the_right_one_asked_for() -> None:
    commands = reading().handle(steps.Came(a_page(5)))
    assert only(commands, steps.Fetch).cursor == "e1/0"
    assert steps.Keep not in kinds(commands)


def test_pages_that_come_while_the_database_is_written_wait_their_turn() -> None:
    core = reading()
    core.handle(steps.Came(a_page(0)))
    assert core.handle(steps.Came(a_page(2))) == []
    assert only(core.handle(steps.Kept(Position("e1", 2, "e1/2"))), steps.Keep).page.from_seq == 2


def test_a_disk_that_is_full_acks_nothing_and_comes_back_later() -> None:
    core = reading()
    core.handle(steps.Came(a_page()))
    assert kinds(core.handle(steps.NotKept(core.position, moved=False))) == {steps.Close}
    after = core.handle(steps.Closed())
    assert steps.Say not in kinds(after)
    core.handle(steps.Rang(Timer.CONNECT))
    assert only(core.handle(steps.Opened(Reading.PUSHED)), steps.Say).frame["cursors"] == {"inbox": "e1/0"}


def test_a_refused_cursor_is_never_said_again() -> None:
    core = reading(Position("e1", 4, "e1/4"))
    resync = {"reason": "epoch", "epoch": "e2", "cursor": "e2/0", "floor": 0, "head": 9}
    adopt = only(core.handle(steps.Came({"type": "resync_required", "resync": resync})), steps.Adopt)
    assert (adopt.position.epoch, adopt.position.cursor) == ("e2", "e2/0")
    core.handle(steps.Kept(adopt.position))
    core.handle(steps.Closed())
    core.handle(steps.Rang(Timer.CONNECT))
    assert only(core.handle(steps.Opened(Reading.PUSHED)), steps.Say).frame["cursors"] == {"inbox": "e2/0"}


def test_a_cursor_that_cannot_be_read_is_forgotten_and_everything_else_kept() -> None:
    """F60: a handshake without one, and no loop."""
    core = reading(Position("e1", 4, "e1/4"))
    adopt = only(core.handle(steps.Came({"type": "error", "code": "invalid_cursor"})), steps.Adopt)
    assert adopt.position.cursor is None
    core.handle(steps.Kept(adopt.position))
    core.handle(steps.Closed())
    core.handle(steps.Rang(Timer.CONNECT))
    assert "cursors" not in only(core.handle(steps.Opened(Reading.PUSHED)), steps.Say).frame


@pytest.mark.parametrize(("head", "complete"), [(0, True), (3, False)])
def test_an_inbox_with_nothing_more_for_it_is_complete_as_no_page_will_say_so(head: int, complete: bool) -> None:
    core = a_core()
    core.handle(steps.Started(Position("e1", 7, "e1/7")))
    core.handle(steps.Opened(Reading.PUSHED))
    adopt = only(core.handle(steps.Came(welcome(head=head, epoch="e2", resync="epoch"))), steps.Adopt)
    assert adopt.complete is complete


def test_a_welcome_that_would_skip_messages_is_not_believed() -> None:
    core = a_core()
    core.handle(steps.Started(Position("e1", 4, "e1/4")))
    core.handle(steps.Opened(Reading.PUSHED))
    adopt = only(core.handle(steps.Came(welcome(at=6, head=9))), steps.Adopt)
    assert adopt.position.cursor is None


def test_a_refusal_is_heard_before_the_handshake_acks_what_it_is_about() -> None:
    core = a_core()
    key, word = said.nack("m-1", "undecodable")
    core.handle(steps.Started(Position("e1", 4, "e1/4"), {key: word}))
    first = only(core.handle(steps.Opened(Reading.PUSHED)), steps.Say)
    assert first.aside
    refusals, store = [{"id": "m-1", "code": "undecodable"}], {"id": "store-1"}
    assert first.frame == {"type": "ack", "ref": "1", "nack": refusals, "store": store}
    after = core.handle(steps.Came({"type": "ack", "ref": "1", "acked": 0, "results": {}}))
    assert only(after, steps.Drop).words == {key: word}
    assert only(after, steps.Say).frame["type"] == "hello"


def test_more_refusals_than_one_ack_takes_are_said_in_several_before_the_handshake() -> None:
    core = a_core()
    owed = dict(said.nack(f"m-{number}", "undecodable") for number in range(2 * said.WORDS_MAX + 1))
    core.handle(steps.Started(Position("e1", 500, "e1/500"), owed))
    ask, told = core.handle(steps.Opened(Reading.PULLED)), []
    while (frame := only(ask, steps.Say).frame)["type"] == "ack":
        assert len(frame["nack"]) <= said.WORDS_MAX
        told += [one["id"] for one in frame["nack"]]
        ask = core.handle(steps.Came({"type": "ack", "ref": frame["ref"], "acked": 0}))
    assert frame["type"] == "hello"
    assert told == [word["id"] for word in owed.values()]


def test_more_words_than_a_frame_or_a_call_has_room_for_are_said_in_several_acks() -> None:
    """The relay ends a connection for a frame above 64 KiB, and refuses a call, with all its words."""
    core = reading()
    owed = dict(said.read("\N{ELEPHANT}" * 120 + str(number), number) for number in range(said.WORDS_MAX))
    core.handle(steps.Spoke(owed))
    told = []
    while acks := [one for one in core.handle(steps.Rang(Timer.ACK)) if isinstance(one, steps.Say)]:
        frame = acks[0].frame
        assert len(json.dumps(frame)) <= 60_000
        told += frame["read"]
        core.handle(steps.Came({"type": "ack", "ref": frame["ref"], "acked": 0}))
    assert told == list(owed.values())


def test_a_word_is_owed_until_it_is_heard() -> None:
    core = reading()
    key, word = said.read("c-1", 3)
    assert core.handle(steps.Spoke({key: word})) == [steps.SetTimer(Timer.ACK, 0.25)]
    first = said_ack(core.handle(steps.Rang(Timer.ACK)))
    assert first["read"] == [{"conversation": "c-1", "read_seq": 3}]
    core.handle(steps.Closed())
    core.handle(steps.Rang(Timer.CONNECT))
    core.handle(steps.Opened(Reading.PUSHED))
    core.handle(steps.Came(welcome()))
    core.handle(steps.Kept(Position("e1", 0, "e1/0")))
    again = said_ack(core.handle(steps.Rang(Timer.ACK)))
    assert again["read"] == first["read"]
    assert only(core.handle(steps.Came({"type": "ack", "ref": again["ref"], "acked": 0})), steps.Drop).words == {
        key: word
    }


def test_a_word_that_grew_while_it_was_said_is_said_again() -> None:
    core = reading()
    core.handle(steps.Spoke(dict([said.read("c-1", 3)])))
    first = said_ack(core.handle(steps.Rang(Timer.ACK)))
    core.handle(steps.Spoke(dict([said.read("c-1", 5)])))
    assert steps.Drop not in kinds(core.handle(steps.Came({"type": "ack", "ref": first["ref"], "acked": 0})))
    assert said_ack(core.handle(steps.Rang(Timer.ACK)))["read"][0]["read_seq"] == 5


def test_a_word_that_grew_while_the_one_before_was_on_a_slow_way_is_said_when_that_has_been_heard() -> None:
    core = reading()
    core.handle(steps.Spoke(dict([said.read("c-1", 3)])))
    first = said_ack(core.handle(steps.Rang(Timer.ACK)))
    core.handle(steps.Spoke(dict([said.read("c-1", 5)])))
    assert core.handle(steps.Rang(Timer.ACK)) == []
    heard = core.handle(steps.Came({"type": "ack", "ref": first["ref"], "acked": 0}))
    assert steps.SetTimer(Timer.ACK, 0.25) in heard
    assert said_ack(core.handle(steps.Rang(Timer.ACK)))["read"][0]["read_seq"] == 5


def shaken_anew(core: Core, *, how: str) -> None:
    """The core stands in epoch `e2` from now on."""
    at = Position("e2", 5, "e2/5")
    frame = welcome(at=5, head=5, epoch="e2", resync="epoch")
    if how == "refused":
        resync = {"epoch": "e2", "cursor": "e2/5", "reason": "cursor_epoch_changed"}
        core.handle(steps.Came({"type": "resync_required", "resync": resync}))
        core.handle(steps.Kept(Position("e2", steps.UNKNOWN_SEQ, "e2/5")))
    elif how == "moved":  # by another process of the app
        core.handle(steps.Came(a_page(0, ["a"])))
        core.handle(steps.NotKept(at, moved=True))
        frame = welcome(at=5, head=5, epoch="e2")
    core.handle(steps.Closed())
    core.handle(steps.Rang(Timer.CONNECT))
    core.handle(steps.Opened(Reading.PUSHED, {}, at if how == "opened" else None))
    core.handle(steps.Came(frame))
    core.handle(steps.Kept(at))
    assert core.phase is Phase.READING


@pytest.mark.parametrize("how", ["welcome", "refused", "moved", "opened"])
def test_a_read_marker_that_was_not_heard_before_an_epoch_change_is_said_no_more(how: str) -> None:
    """Under the new numbering it would say that messages were read which nobody has seen."""
    core = reading()
    core.handle(steps.Spoke(dict([said.read("c-1", 3), said.receipt("m1", "shown")])))
    assert said_ack(core.handle(steps.Rang(Timer.ACK)))["read"]
    shaken_anew(core, how=how)
    ack = said_ack(core.handle(steps.Rang(Timer.ACK)))
    assert ("read" in ack, [one["id"] for one in ack["receipts"]]) == (False, ["m1"])
    core.handle(steps.Spoke(dict([said.read("c-1", 2)])))
    assert said_ack(core.handle(steps.Rang(Timer.ACK)))["read"] == [{"conversation": "c-1", "read_seq": 2}]


def test_a_read_marker_that_waited_while_a_new_epoch_was_stored_is_not_said() -> None:
    core = reading()
    before = core.position
    shaken_anew(core, how="welcome")
    core.handle(steps.Spoke(dict([said.read("c-1", 9)]), before))
    assert core.handle(steps.Rang(Timer.ACK)) == []
    core.handle(steps.Spoke(dict([said.read("c-1", 6)]), core.position))
    assert said_ack(core.handle(steps.Rang(Timer.ACK)))["read"] == [{"conversation": "c-1", "read_seq": 6}]


def test_what_another_process_has_read_under_the_new_numbering_is_said() -> None:
    core = reading()
    core.handle(steps.Closed())
    core.handle(steps.Rang(Timer.CONNECT))
    core.handle(steps.Opened(Reading.PUSHED, dict([said.read("c-1", 2)]), Position("e2", 5, "e2/5")))
    core.handle(steps.Came(welcome(at=5, head=5, epoch="e2")))
    core.handle(steps.Kept(Position("e2", 5, "e2/5")))
    assert said_ack(core.handle(steps.Rang(Timer.ACK)))["read"] == [{"conversation": "c-1", "read_seq": 2}]


def test_a_word_that_the_relay_will_never_take_does_not_stand_in_the_way() -> None:
    core = reading()
    key, word = said.read("c-1", 3)
    core.handle(steps.Spoke({key: word}))
    ref = said_ack(core.handle(steps.Rang(Timer.ACK)))["ref"]
    commands = core.handle(steps.Came({"type": "error", "code": "validation_failed", "ref": ref, "detail": ""}))
    assert only(commands, steps.Drop).words == {key: word}
    assert isinstance(only(commands, steps.Tell).what, news.Refused)


def test_a_word_that_the_relay_never_takes_has_no_refusal_with_it() -> None:
    core = reading()
    core.handle(steps.Came(a_page(0, ["a"])))
    core.handle(steps.Kept(Position("e1", 1, "e1/1"), dict([said.nack("a", "undecodable")])))
    core.handle(steps.Spoke(dict([said.read("", 1)])))
    acks = [said_ack(core.handle(steps.Rang(Timer.ACK))), said_ack(core.handle(steps.Rang(Timer.ACK)))]
    assert [("nack" in ack, "read" in ack) for ack in acks] == [(True, False), (False, True)]


def test_a_word_that_the_relay_never_takes_has_the_cursor_beside_it_said_again() -> None:
    core = reading()
    core.handle(steps.Spoke(dict([said.read("", 1)])))
    core.handle(steps.Came(a_page(0, ["a"])))
    core.handle(steps.Kept(Position("e1", 1, "e1/1"), {}))
    ack = said_ack(core.handle(steps.Rang(Timer.ACK)))
    assert (ack["cursor"], len(ack["read"])) == ("e1/1", 1)
    core.handle(steps.Came({"type": "error", "code": "validation_failed", "ref": ack["ref"], "detail": ""}))
    again = said_ack(core.handle(steps.Rang(Timer.ACK)))
    assert (again["cursor"], "read" in again) == ("e1/1", False)


@pytest.mark.parametrize("code", ["overloaded", "auth_throttled", "request_timeout"])
def test_a_word_that_the_relay_does_not_take_for_now_is_said_again(code: str) -> None:
    core = reading()
    key, word = said.read("c-1", 3)
    core.handle(steps.Spoke({key: word}))
    ref = said_ack(core.handle(steps.Rang(Timer.ACK)))["ref"]
    core.handle(steps.Came({"type": "error", "code": code, "ref": ref, "detail": ""}))
    assert said_ack(core.handle(steps.Rang(Timer.ACK)))["read"] == [word]


def test_a_page_that_is_refused_for_whatever_reason_is_asked_for_on_another_connection() -> None:
    """Nothing else would ask: each question follows from the answer of the one before."""
    core = reading(way=Reading.PULLED)
    commands = core.handle(steps.Came({"type": "error", "code": "internal", "ref": None, "detail": ""}))
    assert steps.Close in kinds(commands)
    pushed = reading().handle(steps.Came({"type": "error", "code": "internal", "ref": None, "detail": ""}))
    assert kinds(pushed) == {steps.Tell, steps.SetTimer}, "pages come by themselves"


def test_a_heartbeat_that_knows_of_more_has_it_fetched() -> None:
    core = reading()
    assert steps.SetTimer(Timer.BEHIND, 2.0) in core.handle(steps.Came({"type": "hb", "head": 3}))
    assert only(core.handle(steps.Rang(Timer.BEHIND)), steps.Fetch).cursor == "e1/0"


def test_heartbeats_come_early_never_late_at_the_interval_that_the_relay_asks_for() -> None:
    core = reading()
    core.handle(steps.Came({"type": "hb", "head": 0, "interval_s": 100}))
    for _ in range(50):
        assert 90 <= only(core.handle(steps.Rang(Timer.BEAT)), steps.SetTimer).after_s <= 100


def test_a_connection_that_says_nothing_for_two_and_a_half_intervals_is_given_up() -> None:
    core = reading()
    assert steps.SetTimer(Timer.SILENCE, 75.0) in core.handle(steps.Came({"type": "hb", "head": 0}))
    assert steps.Close in kinds(core.handle(steps.Rang(Timer.SILENCE)))


def test_pauses_between_connections_are_spread_grow_to_a_minute_and_never_undercut_what_was_asked() -> None:
    core = a_core()
    core.handle(steps.Started(Position()))
    pauses = []
    for _ in range(40):
        pauses.append(only(core.handle(steps.Closed()), steps.SetTimer).after_s)
        core.handle(steps.Rang(Timer.CONNECT))
    assert all(pause <= 60 for pause in pauses)
    assert max(pauses) > 30
    assert len(set(pauses)) == len(pauses)
    assert only(core.handle(steps.Closed(503, 90.0)), steps.SetTimer).after_s == 90


class Longest(random.Random):
    """Every pause is as long as it may be."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_ovl_7_failures_are_forgotten_when_a_connection_has_lasted_a_minute_and_not_when_it_is_made() -> None:
    """Else clients of a relay that accepts everybody and then breaks would come back as fast as they can."""
    core = Core(store_id=STORE, rng=Longest())
    core.handle(steps.Started(Position("e1", 0, "e1/0")))

    def connect() -> list[steps.Command]:
        core.handle(steps.Rang(Timer.CONNECT))
        commands = core.handle(steps.Opened(Reading.PUSHED)) + core.handle(steps.Came(welcome()))
        return commands + core.handle(steps.Kept(Position("e1", 0, "e1/0")))

    def pause_s() -> float:
        return float(only(core.handle(steps.Closed()), steps.SetTimer).after_s)

    pauses = [pause_s()]
    for _ in range(4):
        assert steps.SetTimer(Timer.CALM, 60.0) in connect()
        pauses.append(pause_s())
    assert pauses == [1, 2, 4, 8, 16]
    connect()
    core.handle(steps.Rang(Timer.CALM))
    assert pause_s() == 1


def test_a_drain_is_left_after_the_last_ack_and_come_back_from_when_it_said() -> None:
    core = reading()
    core.handle(steps.Came(a_page()))
    core.handle(steps.Kept(Position("e1", 2, "e1/2")))
    commands = core.handle(steps.Came({"type": "drain", "reconnect_ms": 4000}))
    assert said_ack(commands)["cursor"] == "e1/2"
    core.handle(steps.Rang(Timer.DRAIN))
    assert only(core.handle(steps.Closed(1012)), steps.SetTimer).after_s >= 4


def test_a_relay_that_said_it_restarts_is_asked_every_sixteen_seconds_for_a_while_and_then_as_seldom_as_any() -> None:
    core = reading(rng=Longest())
    core.handle(steps.Came({"type": "drain", "reconnect_ms": 0}))
    pauses = []
    for _ in range(14):
        pauses.append(float(only(core.handle(steps.Closed()), steps.SetTimer).after_s))
        core.handle(steps.Rang(Timer.CONNECT))
    assert pauses == [1, 2, 4, 8, *(16,) * 8, 60, 60]


def test_one_that_was_replaced_rests_in_the_background_and_comes_back_in_the_foreground() -> None:
    core = reading(foreground=False)
    assert steps.SetTimer not in kinds(core.handle(steps.Closed(4001)))
    assert steps.Connect() in core.handle(steps.Turned(foreground=True))


def test_one_that_is_forbidden_does_not_come_back_by_itself() -> None:
    assert steps.SetTimer not in kinds(reading().handle(steps.Closed(4403)))


def test_one_whose_token_counts_no_more_asks_for_another() -> None:
    core = reading()
    core.handle(steps.Closed(4401))
    assert core.handle(steps.Rang(Timer.CONNECT)) == [steps.Connect(renew=True)]


def test_after_an_upgrade_the_cache_is_compared_once_when_everything_has_come() -> None:
    core = a_core()
    core.handle(steps.Started(Position("e1", 0, "e1/0")))
    core.handle(steps.Opened(Reading.PUSHED))
    core.handle(steps.Came(welcome(head=2, upgrade={"id": "up-1"})))
    core.handle(steps.Kept(Position("e1", 0, "e1/0")))
    core.handle(steps.Came(a_page()))
    assert steps.Compare("upgrade", "up-1") in core.handle(steps.Kept(Position("e1", 2, "e1/2")))


def upgraded(core: Core) -> list[steps.Command]:
    """The relay says that it is to be compared, and everything comes."""
    core.handle(steps.Opened(Reading.PUSHED))
    core.handle(steps.Came(welcome(upgrade={"id": "up-1"})))
    core.handle(steps.Kept(Position("e1", 0, "e1/0")))
    return core.handle(steps.Came(a_page(0, [])))


def test_an_upgrade_whose_connection_ended_before_the_catch_up_is_compared_after_the_next_one() -> None:
    core = a_core()
    core.handle(steps.Started(Position("e1", 0, "e1/0")))
    core.handle(steps.Opened(Reading.PUSHED))
    core.handle(steps.Came(welcome(upgrade={"id": "up-1"})))
    core.handle(steps.Kept(Position("e1", 0, "e1/0")))
    core.handle(steps.Closed())
    core.handle(steps.Rang(Timer.CONNECT))
    assert steps.Compare("upgrade", "up-1") in upgraded(core)


def test_a_comparison_that_could_not_be_made_is_due_again_after_the_next_catch_up() -> None:
    core = a_core()
    core.handle(steps.Started(Position("e1", 0, "e1/0")))
    assert steps.Compare("upgrade", "up-1") in upgraded(core)
    caught_up = steps.Came(a_page(0, []))
    assert steps.Compare not in kinds(core.handle(caught_up)), "one at a time"
    core.handle(steps.Compared("up-1", done=False))
    assert steps.Compare("upgrade", "up-1") in core.handle(caught_up)
    core.handle(steps.Compared("up-1", done=True))
    assert steps.Compare not in kinds(core.handle(caught_up))


def test_a_poll_asks_again_after_the_pause_that_the_relay_gave() -> None:
    core = reading(way=Reading.PULLED, wait_s=0)
    assert core.handle(steps.Came({"type": "nothing", "next_poll_s": 7})) == [steps.SetTimer(Timer.POLL, 7)]


def test_a_long_poll_that_ends_at_once_is_not_repeated_at_once() -> None:
    core = reading(way=Reading.PULLED)
    assert core.handle(steps.Came({"type": "nothing", "asked_s": 0, "waited_s": 0})) == [steps.Fetch("e1/0", 50)]
    assert core.handle(steps.Came({"type": "nothing", "asked_s": 50, "waited_s": 50})) == [steps.Fetch("e1/0", 50)]
    assert steps.Fetch not in kinds(core.handle(steps.Came({"type": "nothing", "asked_s": 50, "waited_s": 0.1})))


def test_a_push_that_hints_at_news_ends_the_pause_and_has_a_poll_look_at_once() -> None:
    assert only(reading(way=Reading.PULLED).handle(steps.Poked()), steps.Fetch) == steps.Fetch("e1/0", 0)
    paused = a_core()
    paused.handle(steps.Started(Position()))
    paused.handle(steps.Closed())
    assert steps.Connect() in paused.handle(steps.Poked())


def test_a_store_that_another_process_moved_is_gone_on_from_where_it_stands() -> None:
    core = reading()
    core.handle(steps.Came(a_page()))
    core.handle(steps.NotKept(Position("e1", 5, "e1/5"), moved=True))
    core.handle(steps.Closed())
    core.handle(steps.Rang(Timer.CONNECT))
    assert only(core.handle(steps.Opened(Reading.PUSHED)), steps.Say).frame["cursors"] == {"inbox": "e1/5"}


def test_the_end_acks_what_is_kept_and_says_goodbye() -> None:
    core = reading()
    core.handle(steps.Came(a_page()))
    core.handle(steps.Kept(Position("e1", 2, "e1/2")))
    commands = core.handle(steps.Stopped())
    assert [one.frame["type"] for one in commands if isinstance(one, steps.Say)] == ["ack", "bye"]
    assert commands[-1] == steps.Close("done")


# --- against a relay in miniature, a bad network and a bad disk -------------------------------------------------------


class Miniature:
    """A relay, a network and a disk around a core; each step of theirs is drawn."""

    def __init__(self, rng: random.Random, way: Reading) -> None:
        self.rng, self.way = rng, way
        self.epoch, self.ids, self.session = "e1", [], 0
        self.ever: list[str] = []
        self.stored: dict[str, int] = {}  # the client's messages, and how often each was handed to its database
        self.disk = Position()
        self.core = Core(store_id=STORE, rng=rng, wait_s=0)
        self.inbound: deque[Any] = deque()  # on their way to the client
        self.outbound: deque[Any] = deque()
        self.open = False
        self.sent = 0
        self.timers: dict[Timer, float] = {}
        self.now_s = 0.0
        self.storing: steps.Keep | steps.Adopt | None = None
        self.connecting = False
        self.run(self.core.handle(steps.Started(self.disk)))

    def send(self) -> None:
        id_ = f"m{len(self.ever)}" if self.rng.random() < 0.8 else f"-{len(self.ever)}"
        self.ever.append(id_)
        self.ids.append(id_)

    def restore(self) -> None:
        """The relay is set back; what was lost is sent again, under other numbers."""
        kept = self.rng.randint(0, len(self.ids))
        lost, self.ids = self.ids[kept:], self.ids[:kept]
        self.epoch = f"e{int(self.epoch[1:]) + 1}"
        self.rng.shuffle(lost)
        self.ids += lost
        self.cut()

    def cut(self) -> None:
        self.inbound.clear()
        self.outbound.clear()
        self.open = False
        self.run(self.core.handle(steps.Closed()))

    def run(self, commands: list[steps.Command]) -> None:
        for command in commands:
            match command:
                case steps.Connect():
                    self.connecting = True
                case steps.Say(frame, _):
                    self.outbound.append(dict(frame))
                case steps.Fetch(cursor, _):
                    self.outbound = deque(one for one in self.outbound if one["type"] != "fetch")
                    self.outbound.append({"type": "fetch", "cursor": cursor})
                case steps.Keep() | steps.Adopt():
                    assert self.storing is None, "two transactions at once"
                    self.storing = command
                case steps.SetTimer(timer, after_s):
                    self.timers[timer] = self.now_s + after_s
                case steps.StopTimer(timer):
                    self.timers.pop(timer, None)
                case steps.Close():
                    self.inbound.clear()
                    self.outbound.clear()
                    self.open = False
                    self.run(self.core.handle(steps.Closed()))

    def finish_storing(self, *, fails: bool = False) -> None:
        command, self.storing = self.storing, None
        assert command is not None
        if fails:
            self.run(self.core.handle(steps.NotKept(self.disk, moved=False)))
            return
        if isinstance(command, steps.Keep):
            assert (command.at.epoch, command.at.seq) == (self.disk.epoch, self.disk.seq)
            assert command.page.from_seq == self.disk.seq
            for one in command.page.received:
                self.stored[one.entry.id] = self.stored.get(one.entry.id, 0) + 1
            self.disk = Position(command.page.epoch, command.page.to_seq, command.page.cursor)
        else:
            self.disk = command.position
        self.run(self.core.handle(steps.Kept(self.disk)))

    def serve(self) -> None:
        """The relay hears one word."""
        said_ = self.outbound.popleft()
        match said_["type"]:
            case "hello":
                self.session += 1
                cursor = said_.get("cursors", {}).get("inbox")
                epoch, _, seq = (cursor or "/").partition("/")
                good = epoch == self.epoch and int(seq) <= len(self.ids)
                at = int(seq) if good else 0
                self.sent = at
                frame = welcome(at=at, head=len(self.ids), epoch=self.epoch, resync=None if good else "epoch")
                self.inbound.append(frame)
            case "ack":
                epoch, _, seq = said_["cursor"].partition("/")
                if epoch == self.epoch:
                    owed = [id_ for id_ in self.ids[: int(seq)] if not id_.startswith("-")]
                    assert all(id_ in self.stored for id_ in owed), "acked, but not stored"
                self.inbound.append({"type": "ack", "ref": said_["ref"], "acked": int(seq)})
            case "fetch":
                epoch, _, seq = said_["cursor"].partition("/")
                if epoch != self.epoch:
                    resync = {"epoch": self.epoch, "cursor": f"{self.epoch}/0", "reason": "epoch", "floor": 0}
                    self.inbound.append({"type": "resync_required", "resync": resync})
                else:
                    if self.way is Reading.STREAMED:
                        self.sent = max(self.sent, int(seq))
                    text = page_text(self.epoch, int(seq), self.ids, len(self.ids), limit=self.rng.randint(1, 4))
                    self.inbound.append(wire.frame(text))
                    if int(seq) == len(self.ids):
                        self.inbound.append({"type": "nothing"})
            case "hb":
                self.inbound.append({"type": "hb", "head": len(self.ids)})

    def pump(self) -> None:
        if self.way is not Reading.PULLED and self.session and self.sent < len(self.ids):
            text = page_text(self.epoch, self.sent, self.ids, len(self.ids), limit=self.rng.randint(1, 4))
            self.sent = min(len(self.ids), json.loads(text)["to"])
            self.inbound.append(wire.frame(text))

    def step(self, *, trouble: bool) -> bool:
        """Something happens. Gives False when nothing can."""
        may: list[Any] = []
        if self.connecting:
            may.append(self.connect)
        if self.open and self.core.phase is Phase.READING:
            may.append(self.pump)
        may += [self.serve] if self.outbound and self.open else []
        may += [self.deliver] * 2 if self.inbound else []
        may += [self.finish_storing] * 2 if self.storing else []
        may += [self.ring] if self.timers and (not may or self.rng.random() < 0.2) else []
        if trouble:
            may += [self.send, self.send, self.cut]
            may += [self.restore] if self.rng.random() < 0.2 else []
            may += [lambda: self.finish_storing(fails=True)] if self.storing else []
            may += [self.double] if self.inbound else []
        if not may:
            return False
        self.rng.choice(may)()
        return True

    def connect(self) -> None:
        self.connecting, self.open = False, True
        self.run(self.core.handle(steps.Opened(self.way)))

    def deliver(self) -> None:
        self.run(self.core.handle(steps.Came(self.inbound.popleft())))

    def double(self) -> None:
        self.inbound.append(self.inbound[-1])

    def ring(self) -> None:
        """Time passes until the next alarm."""
        timer = min(self.timers, key=lambda one: self.timers[one])
        self.now_s = self.timers.pop(timer)
        self.run(self.core.handle(steps.Rang(timer)))

    @property
    def complete(self) -> bool:
        wanted = [id_ for id_ in self.ids if not id_.startswith("-")]
        return (
            self.disk.seq == len(self.ids)
            and self.disk.epoch == self.epoch
            and all(id_ in self.stored for id_ in wanted)
        )


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), way=st.sampled_from(list(Reading)), troubles=st.integers(0, 120))
def test_whatever_happens_everything_is_kept_in_the_end_and_only_what_is_kept_is_acked(
    seed: int, way: Reading, troubles: int
) -> None:
    world = Miniature(random.Random(seed), way)
    world.send()
    for _ in range(troubles):
        world.step(trouble=True)
    for _ in range(2000):
        if world.complete:
            return
        assert world.step(trouble=False), "it came to rest before it had everything"
    raise AssertionError(f"{world.disk} of {len(world.ids)}, {world.core.phase}")


def test_a_device_that_another_phone_goes_by_is_told_when_it_has_caught_up() -> None:
    core = a_core()
    core.handle(steps.Started(Position("e1", 0, "e1/0")))
    core.handle(steps.Opened(Reading.PUSHED))
    core.handle(steps.Came(welcome(resync="store_rolled_back", reidentify=True)))
    assert steps.Tell(news.Reidentify()) not in core.handle(steps.Kept(Position("e1", 0, "e1/0")))
    caught_up = core.handle(steps.Came(a_page(0, [])))
    assert [one.what for one in caught_up if isinstance(one, steps.Tell)] == [news.CaughtUp(0), news.Reidentify()]
    assert steps.Tell(news.Reidentify()) not in core.handle(steps.Came(a_page(0, []))), "once a connection"


def test_a_heartbeats_answer_may_ask_for_a_handshake_and_what_else_it_asks_is_ignored() -> None:
    core = reading()
    plain = core.handle(steps.Came({"type": "hb", "head": 0}))
    for unknown in ("sync", "dance", 7, None):
        assert core.handle(steps.Came({"type": "hb", "head": 0, "do": unknown})) == plain
    assert core.phase is Phase.READING
    assert steps.Close in kinds(core.handle(steps.Came({"type": "hb", "head": 0, "do": "handshake"})))
    assert only(core.handle(steps.Closed(1000)), steps.SetTimer).timer is Timer.CONNECT


def test_a_frame_of_an_unknown_type_is_ignored() -> None:
    core = reading()
    assert {steps.Keep, steps.Close, steps.Say} & kinds(
        core.handle(steps.Came({"type": "notice", "what": "?"}))
    ) == set()
    assert core.phase is Phase.READING
