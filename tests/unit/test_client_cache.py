"""The client's cache: a page and its cursor together or not at all, each message once, nothing ever deleted in passing."""

import hashlib
import json
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.client import news, said, wire
from relay.client.cache import Cache
from relay.client.cache_file import Migration
from relay.client.compare import ROUNDS_MAX, Comparison
from relay.client.fingerprints import Extent, Row, Span, sum_of, within
from relay.client.outcome import Moved
from relay.client.steps import UNKNOWN_SEQ, Position
from relay.ids import message_id

Open = Callable[..., Cache]
START = Position("e1", 0, "e1/0")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inbox.db"


@pytest.fixture
def opened(path: Path) -> Any:
    caches: list[Cache] = []

    def opened(**more: Any) -> Cache:
        caches.append(Cache(path, rng=random.Random(len(caches)), now_ms=1, **more))
        return caches[-1]

    yield opened
    for cache in caches:
        cache.close()


def entry(seq: int, id_: str | None = None, *, body: Any = "hi", kind: str = "message", **more: Any) -> dict[str, Any]:
    h = hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16]
    return {
        "seq": seq,
        "id": id_ or f"m{seq}",
        "kind": kind,
        "h": h,
        "type": "text",
        "body": body,
        "form": "full",
    } | more


def a_page(low: int, *entries: dict[str, Any], to: int | None = None, epoch: str = "e1", **more: Any) -> wire.Page:
    """A page with these entries; all other numbers of its range are in gaps."""
    to = max([low, *(one["seq"] for one in entries)]) if to is None else to
    named = {one["seq"] for one in entries}
    gaps = [{"from": n - 1, "to": n, "why": more.get("why", "scope")} for n in range(low + 1, to + 1) if n not in named]
    fields = {"epoch": epoch, "from": low, "to": to, "head": to, "entries": entries, "gaps": gaps}
    return wire.page(json.dumps(fields | {"cursor": f"{epoch}/{to}"} | more).encode())


def begun(cache: Cache, at: Position = START) -> Cache:
    cache.adopt(at, session=1, reason="no_cursor", floor=0)
    return cache


def bodies(cache: Cache, **more: Any) -> list[Any]:
    return [one.body for one in cache.messages(**more)]


def test_more_timelines_than_the_relay_takes_are_not_followed(opened: Open) -> None:
    """It would refuse the inbox with them."""
    cache = opened()
    for number in range(50):
        cache.shared.follow(f"town-{number}")
    with pytest.raises(ValueError, match="At most 50"):
        cache.shared.follow("one too many")
    cache.shared.follow("town-7")
    cache.shared.unfollow("town-7")
    cache.shared.follow("one too many")


@pytest.mark.parametrize("name", ["", "n" * 129, "two\nlines", "\u202e"])
def test_what_the_relay_takes_for_no_name_is_not_followed(opened: Open, name: str) -> None:
    """It would refuse the inbox with it."""
    cache = opened()
    with pytest.raises(ValueError, match="name"):
        cache.shared.follow(name)
    assert cache.shared.follows() == {}
    cache.shared.follow("Füße & Köpfe" * 10)


def test_what_was_of_a_kind_that_an_earlier_version_did_not_know_is_there_once_it_is_released(opened: Open) -> None:
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1, kind="hologram"), entry(2)))
    outcome = cache.keep(Position("e1", 2, "e1/2"), a_page(2, entry(3, "m1", kind="release", body="at last")))
    assert [type(told) for told in outcome.told] == [news.MessageArrived]
    assert bodies(cache) == ["hi", "at last"]


def test_a_page_moves_the_cursor_with_its_messages(opened: Open) -> None:
    cache = begun(opened())
    outcome = cache.keep(START, a_page(0, entry(1, body="a"), entry(2, body={"n": 2})))
    assert outcome.position == cache.position == Position("e1", 2, "e1/2")
    assert [one.message.body for one in outcome.told if isinstance(one, news.MessageArrived)] == ["a", {"n": 2}]
    assert bodies(cache) == ["a", {"n": 2}]


def test_a_page_that_fails_in_the_middle_leaves_nothing(opened: Open, path: Path) -> None:
    cache = begun(opened())
    with sqlite3.connect(path) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON message WHEN new.seq = 2 BEGIN SELECT raise(abort, 'full'); END"
        )
    with pytest.raises(sqlite3.Error):
        cache.keep(START, a_page(0, entry(1), entry(2)))
    assert cache.position == START
    assert bodies(cache) == []


def test_a_page_does_not_fit_where_another_process_has_stored_meanwhile(opened: Open) -> None:
    """F7: two processes have an answer each; the one that is stored second starts where nobody stands any more."""
    mine, other = begun(opened()), opened()
    other.keep(START, a_page(0, entry(1)))
    with pytest.raises(Moved) as moved:
        mine.keep(START, a_page(0, entry(1)))
    assert moved.value.position == Position("e1", 1, "e1/1")
    assert len(bodies(mine)) == 1


def test_a_message_that_comes_again_is_kept_once(opened: Open) -> None:
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1), entry(2)))
    cache.adopt(START, session=2, reason="store_rolled_back", floor=0)
    again = cache.keep(START, a_page(0, entry(1), entry(2), entry(3)))
    assert [one.message.id for one in again.told if isinstance(one, news.MessageArrived)] == ["m3"]
    assert len(bodies(cache)) == 3


def test_after_an_epoch_change_a_message_is_known_by_the_tag_of_its_id(opened: Open) -> None:
    before, after, other = message_id(1_000, 77), message_id(2_000, 77), message_id(2_000, 78)
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1, before)))
    at = Position("e2", 0, "e2/0")
    cache.adopt(at, session=2, reason="epoch", floor=0)
    told = cache.keep(at, a_page(0, entry(1, after), epoch="e2")).told
    assert told == []
    told = cache.keep(Position("e2", 1), a_page(1, entry(2, other), epoch="e2", caught_up=True)).told
    assert len(told) == 1


HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("expires_at", "known_ms"), [(None, 72 * HOUR_MS), ("1970-01-08T00:00:00Z", (7 * 24 + 24) * HOUR_MS)]
)
def test_what_its_sender_repeats_once_everything_has_come_is_known_as_long_as_its_key(
    opened: Open, expires_at: str | None, known_ms: int
) -> None:
    """F80: the sender hears of the restore later than the device."""
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1, message_id(0, 77), expires_at=expires_at)))
    at = Position("e2", 0, "e2/0")
    cache.adopt(at, session=2, reason="epoch", floor=0, complete=True)
    repeated, used_again = message_id(known_ms - 1, 77), message_id(known_ms, 77)
    assert cache.keep(at, a_page(0, entry(1, repeated), epoch="e2")).told == []
    assert len(cache.keep(Position("e2", 1), a_page(1, entry(2, used_again), epoch="e2")).told) == 1


def test_without_an_epoch_change_a_tag_says_nothing(opened: Open) -> None:
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1, message_id(1_000, 77)), entry(2, message_id(2_000, 77)), caught_up=True))
    assert len(bodies(cache)) == 2


def sent_anew(cache: Cache) -> tuple[str, str, Position]:
    """A message that was kept before an epoch change, and came after it under an id that shares the tag alone."""
    before, after = message_id(1_000, 77), message_id(2_000, 77)
    cache.keep(START, a_page(0, entry(1, before, body="please upgrade", form="fallback")))
    at = Position("e2", 0, "e2/0")
    cache.adopt(at, session=2, reason="epoch", floor=0)
    again = a_page(0, entry(1, after, body="please upgrade", form="fallback"), epoch="e2", caught_up=True)
    return before, after, cache.keep(at, again).position


def test_what_was_known_by_its_tag_is_taken_back_by_the_id_that_the_relay_has_for_it(opened: Open) -> None:
    cache = begun(opened())
    before, after, at = sent_anew(cache)
    recall = {"seq": 2, "id": "r", "kind": "recall", "of": [after]}
    assert cache.keep(at, a_page(1, recall, epoch="e2")).told == [news.MessagesEnded((before,), "recalled")]
    assert bodies(cache) == []


def test_what_was_known_by_its_tag_gets_its_full_form_and_is_no_second_message(opened: Open) -> None:
    cache = begun(opened())
    before, after, at = sent_anew(cache)
    (changed,) = cache.keep(at, a_page(1, entry(2, after, body="full", kind="release"), epoch="e2")).told
    assert isinstance(changed, news.MessageChanged)
    assert (changed.message.body, bodies(cache)) == ("full", ["full"])
    assert cache.message(before) is not None


# --- a collapse over an epoch change ---

FIRST, SECOND, THIRD = (message_id(hour * HOUR_MS, hour) for hour in (1, 2, 3))
SECOND_AGAIN = message_id(4 * HOUR_MS, 2)


def score(seq: int, id_: str, body: str) -> dict[str, Any]:
    return entry(seq, id_, body=body, collapse_key="score")


def in_epoch(cache: Cache, epoch: str, *entries: dict[str, Any]) -> list[news.News]:
    """Numbers were lost, and these come now."""
    at = Position(epoch, 0, f"{epoch}/0")
    cache.adopt(Position(epoch, UNKNOWN_SEQ, None), session=None, reason="epoch", floor=0)
    cache.adopt(at, session=2, reason=None, floor=0)
    return cache.keep(at, a_page(0, *entries, epoch=epoch)).told


@pytest.mark.parametrize("between", [[], ["e2", "e3"]])
def test_what_came_under_an_earlier_epoch_is_ended_by_a_newer_message_of_its_collapse_key(
    opened: Open, between: list[str]
) -> None:
    cache = begun(opened())
    cache.keep(START, a_page(0, score(1, FIRST, "0:0"), score(2, SECOND, "1:0"), entry(3)))
    for epoch in between:
        in_epoch(cache, epoch)
    told = in_epoch(cache, "e4", score(1, THIRD, "2:0"))
    assert news.MessagesEnded((SECOND,), "superseded") in told
    assert bodies(cache) == ["hi", "2:0"]


def test_what_came_under_an_earlier_epoch_is_not_ended_by_an_older_message_that_has_outlived_the_newer_one(
    opened: Open,
) -> None:
    """The backup has the older one alone."""
    cache = begun(opened())
    cache.keep(START, a_page(0, score(1, FIRST, "0:0"), score(2, SECOND, "1:0")))
    assert in_epoch(cache, "e2", score(1, FIRST, "0:0")) == []
    assert bodies(cache) == ["1:0"]


def test_what_comes_again_under_a_new_epoch_has_its_place_there(opened: Open) -> None:
    cache = begun(opened())
    cache.keep(START, a_page(0, score(1, SECOND, "1:0")))
    told = in_epoch(cache, "e2", score(1, FIRST, "0:0"), score(2, SECOND, "1:0"))
    assert told[1:] == [news.MessagesEnded((FIRST,), "superseded")]
    assert bodies(cache) == ["1:0"]


def test_what_was_ended_by_an_older_message_that_was_sent_once_more_is_here_again_when_it_is_sent_once_more(
    opened: Open,
) -> None:
    """A sender repeats after a restore what was lost, in its order; the older one has never been here."""
    cache = begun(opened())
    cache.keep(START, a_page(0, score(1, SECOND, "1:0")))
    in_epoch(cache, "e2", score(1, THIRD, "0:0"))
    assert bodies(cache) == ["0:0"], "its id says that it is newer"
    told = cache.keep(Position("e2", 1), a_page(1, score(2, SECOND_AGAIN, "1:0"), epoch="e2")).told
    assert [type(one) for one in told] == [news.MessageArrived, news.MessagesEnded]
    assert bodies(cache) == ["1:0"]


def test_what_came_in_a_shared_timeline_under_an_earlier_epoch_is_ended_in_that_one_alone(opened: Open) -> None:
    cache = opened()
    for name in ("g", "h"):
        at = cache.shared.follow(name)
        cache.shared.keep(at, a_page(0, score(1, message_id(HOUR_MS, ord(name)), f"{name} 1:0"), timeline=name))
    at = Position("e2", 0, "e2/0")
    cache.shared.adopt("g", at)
    cache.shared.keep(at, a_page(0, score(1, SECOND, "g 2:0"), timeline="g", epoch="e2"))
    assert bodies(cache) == ["h 1:0", "g 2:0"]


def test_the_full_form_takes_the_place_of_the_fallback_and_is_no_new_message(opened: Open) -> None:
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1, "m1", body="please upgrade", form="fallback")))
    outcome = cache.keep(Position("e1", 1), a_page(1, entry(2, "m1", body={"poll": 1}, kind="release")))
    (changed,) = outcome.told
    assert isinstance(changed, news.MessageChanged)
    assert (changed.message.body, changed.message.form) == ({"poll": 1}, "full")
    assert bodies(cache) == [{"poll": 1}]


def test_the_fallback_never_takes_the_place_of_the_full_form(opened: Open) -> None:
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1, "m1", body="full")))
    assert cache.keep(Position("e1", 1), a_page(1, entry(2, "m1", body="less", form="fallback"))).told == []
    assert bodies(cache) == ["full"]


def test_what_this_version_cannot_show_is_kept_raw_and_refused(opened: Open) -> None:
    """F55: an unknown type goes to the disk as it came."""

    def check(message: news.Message) -> None:
        if message.body == "bad":
            raise ValueError
        if isinstance(message.body, dict):
            message.body["text"]

    cache = begun(opened(types=["text"], check=check))
    hologram = {"seq": 5, "id": "x", "kind": "hologram"}
    page = a_page(0, entry(1, body="bad"), entry(2, type="poll"), entry(3), entry(4, body={"poll": 1}), hologram)
    outcome = cache.keep(START, page)
    expected = [("m1", "undecodable"), ("m2", "unknown_type"), ("m4", "undecodable"), ("x", "unknown_type")]
    assert outcome.words == cache.words() == dict(said.nack(*one) for one in expected)
    assert [one.form for one in cache.messages()] == ["raw", "raw", "full", "raw"]


def test_what_an_earlier_version_could_read_is_not_refused_by_one_that_cannot(opened: Open) -> None:
    """After a downgrade it comes again: the message is here, and nothing is owed."""
    begun(opened()).keep(START, a_page(0, entry(1, type="poll")))
    older = opened(types=["text"])
    again = a_page(1, entry(2, "m1", type="poll", kind="release"))
    assert older.keep(Position("e1", 1), again).words == {}
    assert [one.form for one in older.messages()] == ["full"]


def test_a_refusal_names_the_version_that_could_not_show_it_also_when_another_one_says_it(opened: Open) -> None:
    cache = begun(opened(types=["text"]))
    cache.note_version("1.0")
    cache.keep(START, a_page(0, entry(1, type="poll")))
    cache.note_version("2.0")
    assert [dict(word) for word in cache.words().values()] == [
        {"id": "m1", "code": "unknown_type", "app_version": "1.0"}
    ]


def test_a_fallback_is_shown_whatever_the_type_since_it_is_made_for_versions_that_do_not_know_it(opened: Open) -> None:
    cache = begun(opened(types=["text"]))
    outcome = cache.keep(START, a_page(0, entry(1, type="poll", body="please upgrade", form="fallback")))
    assert outcome.words == {}
    assert [(one.body, one.form) for one in cache.messages()] == [("please upgrade", "fallback")]


def test_words_survive_a_restart_until_they_are_heard(opened: Open) -> None:
    first = opened()
    first.put_words(dict([said.read("c-1", 4), said.receipt("m1", "shown")]))
    second = opened()
    assert set(second.words()) == {"read:c-1", "receipt:shown:m1"}
    second.drop_words(dict([said.read("c-1", 4)]))
    assert set(first.words()) == {"receipt:shown:m1"}


def test_a_word_that_has_grown_while_it_was_said_is_still_owed(opened: Open) -> None:
    """Also to a client that dies before it knows of it: the app has written it, and only then comes the answer to the older."""
    cache = opened()
    older = dict([said.read("c-1", 4)])
    cache.put_words(older)
    cache.put_words(dict([said.read("c-1", 9)]))
    cache.drop_words(older)
    assert opened().words() == dict([said.read("c-1", 9)])


def test_a_read_marker_that_has_not_been_heard_yet_never_goes_back(opened: Open) -> None:
    """Scrolling up after reading to the end makes nothing unread again, in whichever process of the app."""
    mine, other = opened(), opened()
    mine.put_words(dict([said.read("c-1", 9), said.read("c-2", 3)]))
    as_they_stand = other.put_words(dict([said.read("c-1", 5), said.read("c-2", 4)]))
    assert as_they_stand == mine.words() == dict([said.read("c-1", 9), said.read("c-2", 4)])


def test_a_read_marker_that_was_not_heard_before_an_epoch_change_is_said_no_more(opened: Open) -> None:
    """Its number is another message's now, which nobody may have read; and a smaller one of this epoch counts."""
    cache = begun(opened())
    receipt = dict([said.receipt("m1", "shown")])
    cache.put_words(dict([said.read("c-1", 9), said.read("g", 4)]) | receipt)
    cache.adopt(Position("e1", 0, "e1/0"), session=2, reason="store_changed", floor=0)
    assert len(cache.words()) == 3, "its numbers are the same"
    cache.adopt(Position("e2", UNKNOWN_SEQ, "e2/0"), session=None, reason="epoch", floor=0)
    assert cache.words() == receipt
    assert cache.put_words(dict([said.read("c-1", 2)])) == dict([said.read("c-1", 2)])


def test_a_read_marker_of_a_shared_timeline_is_said_no_more_where_that_begins_anew(opened: Open) -> None:
    cache = begun(opened())
    for name in ("g", "g2"):
        cache.shared.follow(name)
        cache.shared.adopt(name, Position("t1", 9, "t1/9"))
    cache.put_words(dict([said.read("g", 9), said.read("g2", 9), said.read("c-1", 9)]))
    cache.shared.adopt("g", Position("t2", 0, "t2/0"))
    assert cache.words() == dict([said.read("g2", 9), said.read("c-1", 9)])


def test_what_was_read_before_the_first_handshake_is_said_after_it(opened: Open) -> None:
    """A push may have told the number: there was no other numbering."""
    cache = opened()
    cache.put_words(dict([said.read("c-1", 9)]))
    begun(cache)
    assert cache.words() == dict([said.read("c-1", 9)])


def test_recalled_and_superseded_messages_leave_the_screen_and_their_text_the_disk(opened: Open, path: Path) -> None:
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1, body="secret"), entry(2, body="1:0", collapse_key="score")))
    recall = {"seq": 3, "id": "r", "kind": "recall", "of": ["m1"]}
    told = cache.keep(Position("e1", 2), a_page(2, recall, entry(4, body="2:0", collapse_key="score"))).told
    assert news.MessagesEnded(("m1",), "recalled") in told
    assert news.MessagesEnded(("m2",), "superseded") in told
    assert bodies(cache) == ["2:0"]
    with sqlite3.connect(path) as other:
        assert not other.execute("SELECT 1 FROM message WHERE raw LIKE '%secret%'").fetchall()


def test_what_was_taken_back_does_not_return_with_a_resync(opened: Open) -> None:
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1)))
    cache.delete(["m1"])
    cache.adopt(START, session=2, reason="store_rolled_back", floor=0)
    assert cache.keep(START, a_page(0, entry(1))).told == []
    assert bodies(cache) == []


def test_expired_messages_are_not_shown(opened: Open) -> None:
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1, expires_at="2026-05-03T09:12:44.018Z"), entry(2)))
    assert len(cache.messages(now_ms=1777799564018)) == 1
    assert len(cache.messages(now_ms=1777799564017)) == 2


def test_messages_are_read_by_conversation_and_from_where_the_last_reading_ended(opened: Open) -> None:
    cache = begun(opened())
    in_conversation = {"conversation": {"type": "group", "id": "c-1"}}
    cache.keep(START, a_page(0, entry(1, **in_conversation), entry(2), entry(3, body="late", **in_conversation)))
    assert bodies(cache, conversation="c-1", after=1) == ["late"]


def test_a_resync_keeps_every_message(opened: Open) -> None:
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1), entry(2)))
    cache.adopt(Position("e2", UNKNOWN_SEQ, "e2/0"), session=None, reason="epoch", floor=0)
    cache.adopt(Position("e2", 0, "e2/0"), session=2, reason=None, floor=0)
    assert len(bodies(cache)) == 2
    assert cache.extent == Extent(0, 0, "e2/0")


def test_a_store_keeps_its_id_for_life_and_a_new_file_is_another_store(opened: Open, path: Path) -> None:
    first = opened()
    id_ = first.store_id
    assert opened().store_id == id_
    first.close()
    path.unlink()
    assert opened().store_id != id_


def _with_stars(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE star (id TEXT PRIMARY KEY)")


def _that_fails(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE half (id TEXT)")
    db.execute("INSERT INTO star VALUES ('x'), ('x')")


def test_an_apps_migration_runs_once_and_touches_neither_messages_nor_the_store_id(opened: Open) -> None:
    first = begun(opened())
    first.keep(START, a_page(0, entry(1)))
    migrations: list[Migration] = [_with_stars]
    for _ in range(2):
        upgraded = opened(migrations=migrations)
        assert upgraded.set_aside is None
        assert (upgraded.store_id, upgraded.position) == (first.store_id, Position("e1", 1, "e1/1"))
        assert len(bodies(upgraded)) == 1


def test_a_migration_that_fails_leaves_the_store_as_it_was(opened: Open, path: Path) -> None:
    first = begun(opened())
    first.keep(START, a_page(0, entry(1)))
    with pytest.raises(sqlite3.IntegrityError):
        opened(migrations=[_with_stars, _that_fails])
    assert bodies(opened()) == ["hi"]
    with sqlite3.connect(path) as other:
        assert not other.execute("SELECT 1 FROM sqlite_master WHERE name IN ('star', 'half')").fetchall()


def test_the_store_of_a_newer_version_is_moved_aside_whole(opened: Open) -> None:
    newer = begun(opened(migrations=[_with_stars]))
    newer.keep(START, a_page(0, entry(1)))
    newer.close()
    older = opened()
    assert older.set_aside is not None
    aside, why = older.set_aside
    assert why == "newer"
    assert older.position == Position()
    assert older.store_id != Cache(aside, rng=random.Random(9), now_ms=1, migrations=[_with_stars]).store_id


def test_a_file_that_is_no_database_is_moved_aside(opened: Open, path: Path) -> None:
    path.write_bytes(b"what remained of it" * 1000)
    cache = opened()
    assert cache.set_aside is not None
    assert cache.set_aside[0].read_bytes().startswith(b"what remained")
    assert bodies(cache) == []


def test_a_token_is_followed_by_the_one_that_the_relay_handed_out_until_the_app_brings_another(opened: Open) -> None:
    opened().put_token("given", "following", after="given")
    assert opened().token_after("given") == "following"
    assert opened().token_after("brought anew") == "brought anew"


def test_a_body_that_rotted_counts_as_missing_and_is_mended_by_what_comes(opened: Open, path: Path) -> None:
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1, body="good"), entry(2)))
    with sqlite3.connect(path) as other:
        other.execute("UPDATE message SET raw = replace(raw, 'good', 'goof') WHERE id = 'm1'")
        other.commit()
    assert [row.id for row in cache.rows(cache.extent, as_of_ms=0)] == ["m2"]
    outcome, mended = cache.fill(a_page(0, entry(1, body="good")))
    assert mended == 1
    assert isinstance(outcome.told[0], news.MessageChanged)
    assert [row.id for row in cache.rows(cache.extent, as_of_ms=0)] == ["m1", "m2"]


def test_a_text_that_cannot_be_read_any_more_hides_no_other_and_is_brought_again(opened: Open, path: Path) -> None:
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1), entry(2, body="other")))
    with sqlite3.connect(path) as other:
        other.execute("UPDATE message SET raw = substr(raw, 1, 20) WHERE id = 'm1'")
        other.commit()
    assert bodies(cache) == bodies(cache, limit=1) == ["other"]
    assert cache.message("m1") is None
    assert [row.id for row in cache.rows(cache.extent, as_of_ms=0)] == ["m2"]
    cache.fill(a_page(0, entry(1)))
    assert bodies(cache) == ["hi", "other"]


def test_a_read_marker_that_comes_by_a_range_is_not_told_for_a_newer_one_may_have_been(opened: Open) -> None:
    cache = begun(opened())
    marker = entry(1, kind="read", conversation="c", read_seq=5)
    assert cache.keep(START, a_page(0, marker)).told == [news.ReadElsewhere("c", 5)]
    assert cache.fill(a_page(0, marker))[0].told == []


def test_filling_moves_no_cursor(opened: Open) -> None:
    cache = begun(opened())
    outcome, mended = cache.fill(a_page(4, entry(5)))
    assert (outcome.position, mended) == (START, 1)
    assert cache.position == START


def test_what_has_expired_or_was_ended_by_a_later_entry_does_not_count_in_a_comparison(opened: Open) -> None:
    cache = begun(opened())
    recall = {"seq": 5, "id": "r", "kind": "recall", "of": ["m1"]}
    cache.keep(
        START,
        a_page(
            0,
            entry(1),
            entry(2, expires_at="1970-01-01T00:00:02Z"),
            entry(3, "m3", form="fallback"),
            entry(4, "m3", kind="release"),
            recall,
        ),
    )
    assert [(row.seq, row.id) for row in cache.rows(cache.extent, as_of_ms=2000)] == [(4, "m3")]


def test_what_a_message_that_comes_during_a_comparison_has_ended_counts_to_its_end(opened: Open) -> None:
    """The relay compares up to the cursor that it was begun with: what ended beyond it would seem to be lacking here."""
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1), entry(2, collapse_key="k"), entry(3, "m3", form="fallback")))
    extent = cache.extent
    before = cache.rows(extent, as_of_ms=0)
    recall = {"seq": 4, "id": "r", "kind": "recall", "of": ["m1"]}
    ends = a_page(3, recall, entry(5, collapse_key="k"), entry(6, "m3", kind="release"))
    cache.keep(cache.position, ends)
    assert cache.rows(extent, as_of_ms=0) == before
    assert [row.seq for row in cache.rows(cache.extent, as_of_ms=0)] == [5, 6]


def test_a_message_is_sent_by_its_own_copy_and_not_by_that_of_another_device_under_the_same_key(opened: Open) -> None:
    """An app's own keys, drafts that it counts, say, need to be unique on one device only (protocol 12.3)."""
    cache = begun(opened())
    cache.outbox.put("draft-1", {"to": {"users": ["bob"]}, "body": "mine"}, now_ms=1)
    theirs = cache.keep(START, a_page(0, entry(1, body="the tablet's", kind="own", client_ref="draft-1")))
    assert [one.key for one in cache.outbox.all()] == ["draft-1"]
    ours = cache.keep(cache.position, a_page(1, entry(2, body="mine", kind="own", client_ref="draft-1")))
    assert cache.outbox.all() == []
    assert news.Sent("draft-1", "m1") not in theirs.told
    assert news.Sent("draft-1", "m2") in ours.told


def test_what_the_user_deleted_still_counts_as_received(opened: Open) -> None:
    """F53: taken off the screen, it counts as it did."""
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1)))
    theirs = cache.rows(cache.extent, as_of_ms=0)
    cache.delete(["m1"])
    assert compared(cache.rows(cache.extent, as_of_ms=0), theirs, high=1).to_fetch() == []
    assert bodies(cache) == []


# --- comparing --------------------------------------------------------------------------------------------------------


def relay_answers(theirs: list[Row], question: dict[str, Any]) -> wire.Verification:
    """What a relay with these entries says to a question (protocol 8.7)."""
    results = []
    for one in question["ranges"]:
        span = Span(one["from"], one["to"])
        rows = within(theirs, span)
        total = sum_of(rows)
        head = {"from": span.low, "to": span.high}
        if (total.n, total.fp) == (one["n"], one["fp"]):
            results.append(head | {"result": "same"})
        elif span.high - span.low > 64:
            results.append(head | {"result": "split"})
        else:
            results.append(head | {"result": "items", "items": [[row.seq, row.id, row.h] for row in rows]})
    answer = {"as_of": "2026-05-03T09:12:44.018Z", "floor": 0, "ranges": results, "state": None}
    return wire.verification(json.dumps(answer).encode())


def compared(ours: list[Row], theirs: list[Row], *, high: int) -> Comparison:
    comparison = Comparison(extent=Extent(0, high, "c"), rows_of=lambda _: ours)
    while (question := comparison.request()) is not None:
        assert len(question["ranges"]) <= 256
        comparison.answered(relay_answers(theirs, question))
    return comparison


@settings(max_examples=60, deadline=None)
@given(
    high=st.integers(0, 3000),
    lost=st.sets(st.integers(1, 3000), max_size=30),
    rotten=st.sets(st.integers(1, 3000), max_size=5),
    extra=st.sets(st.integers(1, 3000), max_size=5),
)
def test_a_comparison_finds_exactly_what_differs(high: int, lost: set[int], rotten: set[int], extra: set[int]) -> None:
    everything = [Row(seq, f"m{seq}", "h") for seq in range(1, high + 1)]
    theirs = [row for row in everything if row.seq not in extra - lost - rotten]
    ours = [row for row in everything if row.seq not in lost]
    ours = [Row(row.seq, row.id, "rot") if row.seq in rotten else row for row in ours]
    comparison = compared(ours, theirs, high=high)
    asked = {seq for span in comparison.to_fetch() for seq in range(span.low + 1, span.high + 1)}
    assert asked == {row.seq for row in theirs if row.seq in lost | rotten}
    assert {row.seq for row in comparison.extra} >= {row.seq for row in ours} - {row.seq for row in theirs}
    assert comparison.rounds <= ROUNDS_MAX


def test_what_only_the_cache_has_is_left_out_when_it_compares_once_more() -> None:
    ours = [Row(seq, f"m{seq}", "h") for seq in range(1, 100)]
    theirs = [row for row in ours if row.seq != 7]
    first = compared(ours, theirs, high=99)
    assert (first.to_fetch(), first.extra) == ([], [ours[6]])
    again = Comparison(extent=Extent(0, 99, "c"), rows_of=lambda _: ours, beside=first.extra)
    question = again.request()
    assert question is not None
    assert {one.result for one in relay_answers(theirs, question).ranges} == {"same"}


def test_where_there_is_nothing_to_compare_an_upgrade_is_proved_by_saying_so() -> None:
    empty = Extent(4, 4, "c")
    comparison = Comparison(extent=empty, rows_of=lambda _: [], purpose="upgrade", upgrade="up_1")
    question = comparison.request()
    assert question is not None
    assert (question["ranges"], question["upgrade"]) == ([], "up_1")
    comparison.answered(relay_answers([], question))
    assert comparison.request() is None
    assert Comparison(extent=empty, rows_of=lambda _: []).request() is None


def test_equal_caches_are_known_as_such_after_one_question() -> None:
    rows = [Row(seq, f"m{seq}", "h") for seq in range(1, 50_001)]
    comparison = compared(rows, rows, high=50_000)
    assert (comparison.rounds, comparison.to_fetch()) == (1, [])


def test_one_damaged_stretch_takes_three_questions() -> None:
    """F52: 30 of 50,000 are missing."""
    rows = [Row(seq, f"m{seq}", "h") for seq in range(1, 50_001)]
    comparison = compared(rows[:30_000] + rows[30_030:], rows, high=50_000)
    assert comparison.to_fetch() == [Span(30_000, 30_030)]
    assert comparison.rounds == 3


def test_the_cursor_is_where_the_messages_are_also_after_a_restart(opened: Open) -> None:
    begun(opened()).keep(START, a_page(0, entry(1), entry(2)))
    again = opened()
    assert again.position == Position("e1", 2, "e1/2")
    assert len(bodies(again)) == 2


def test_what_was_sent_in_this_devices_name_is_lacking_until_it_has_come_from_here_or_by_a_range(opened: Open) -> None:
    """8.7: gaps `own`, of which some are this client's own sends."""
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1), entry(5), why="own"))
    assert cache.own_gaps(cache.extent) == [Span(1, 4)]
    cache.outbox.put("k", {"to": {"users": ["bob"]}, "body": "hi"}, now_ms=1)
    own = {
        "seq": 4,
        "id": "m4",
        "h": entry(4)["h"],
        "epoch": "e1",
        "accepted_at": None,
        "expires_at": None,
        "sender": None,
    }
    cache.sent("k", own)
    cache.fill(a_page(1, entry(2, kind="own")))
    assert cache.own_gaps(cache.extent) == [Span(2, 3)]
    cache.fill(a_page(2, to=3, why="expired"))
    assert cache.own_gaps(cache.extent) == []


def test_what_was_sent_in_this_devices_name_and_its_version_is_not_given_is_asked_for_again_by_a_later_one(
    opened: Open,
) -> None:
    cache = begun(opened())
    cache.keep(START, a_page(0, entry(1), entry(3), why="own"))
    cache.fill(a_page(1, to=2, why="held"))
    assert cache.own_gaps(cache.extent) == [Span(1, 2)]
    cache.fill(a_page(1, entry(2, kind="own")))
    assert cache.own_gaps(cache.extent) == []


def test_a_notice_of_the_relay_is_kept_passed_and_neither_shown_nor_refused(opened: Open) -> None:
    cache = begun(opened())
    notice = {"seq": 1, "id": "n1", "kind": "notice", "what": "device added"}
    outcome = cache.keep(START, a_page(0, notice, entry(2)))
    assert outcome.position.seq == 2
    assert (outcome.words, len(bodies(cache))) == ({}, 1)
    assert [one.kind for one in outcome.told if isinstance(one, news.Noticed)] == ["notice"]
