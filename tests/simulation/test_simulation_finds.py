"""A referee is worth what it finds: each of these mistakes, planted into the relay, is found within a few seeds (safety §10)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import text

from relay import message_logs
from relay.errors import Conflict
from relay.inbox import accept, delivering, ending, handshake, judging, online, push_due, reports, visibility
from relay.inbox import ack as acks
from relay.inbox.batch import Batch
from relay.inbox.delivering import Deliveries
from relay.inbox.locked import Locked, device_in, with_rows
from relay.inbox.page import Snapshot
from relay.inbox.reader import InboxReader
from relay.inbox.reading import Reading
from relay.inbox.releasing import Release
from relay.inbox.visibility import View
from relay.model import Device, Entry, EntryState, Kind, PushJob, UserKey
from relay.presence.leases import LeaseBook
from relay.presence.service import PresenceService
from relay.push import accounts, planning, settling, worker
from relay.push.attempts import Attempt
from relay.realtime.hub import Hub
from relay.realtime.service import DeviceService
from relay.realtime.window import Window
from relay.store import addresses, entries, entry_ends, groups, history, inbox, meta, parked, queue, readers
from relay.webhooks import rules

from . import faults
from .report import story_of
from .run import simulate
from .scenario import Scenario, read
from .shrink import shrink

SEEDS_MAX = 8
NO_RESTARTS = dict.fromkeys(("node_crash", "node_restart", "commit_unknown", "store_restored", "store_away"), 0.0)
Plant = Callable[[pytest.MonkeyPatch], None]


def the_relay_believes_itself_more_than_the_cursor(patch: pytest.MonkeyPatch) -> None:
    judge = judging.judge

    def believing(evidence: Any, device: Any, *more: Any) -> Any:
        seq, session = max(evidence.seq, device.acked_seq), max(evidence.session, device.conf_session)
        return judge(replace(evidence, seq=seq, session=session), device, *more)

    patch.setattr(judging, "judge", believing)


def jobs_of_devices_that_are_away_rest(patch: pytest.MonkeyPatch) -> None:
    rearm = push_due.rearm

    def resting(*args: Any, **more: Any) -> Any:
        after = rearm(*args, **more)
        return structs.replace(after, due_ms=None) if after.reason == push_due.Later.DEBOUNCE else after

    patch.setattr(push_due, "rearm", resting)


def nobody_is_reminded(patch: pytest.MonkeyPatch) -> None:
    rearm = push_due.rearm

    def never(*args: Any, **more: Any) -> Any:
        after = rearm(*args, **more)
        told = after.reason == push_due.Later.KNOCK
        return structs.replace(after, due_ms=None, reason=push_due.Rest.TOLD) if told else after

    patch.setattr(push_due, "rearm", never)


def what_rests_for_a_mended_account_rests_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(parked, "_release", text("SELECT :app, :now, :after, :upto"))


def who_lost_its_address_is_told_nothing_more(patch: pytest.MonkeyPatch) -> None:
    rearm = push_due.rearm

    def resting(device: Device, job: PushJob, *args: Any, **more: Any) -> Any:
        after = rearm(device, job, *args, **more)
        lost = job.due_ms is None and job.reason == push_due.Rest.NO_ADDRESS
        return structs.replace(after, due_ms=None, reason=job.reason) if lost else after

    patch.setattr(push_due, "rearm", resting)


def what_is_acked_is_told_again(patch: pytest.MonkeyPatch) -> None:
    items = planning.items_of

    def older_too(locked: Locked, device: Device, *, after: int, upto: int) -> Any:
        return items(locked, device, after=max(0, after - 5), upto=upto)

    patch.setattr(planning, "items_of", older_too)
    patch.setattr(worker, "still_needed", lambda conn, now_ms, attempts: [True] * len(attempts))


def what_a_vendor_took_counts_as_acked(patch: pytest.MonkeyPatch) -> None:
    told = settling._told

    def acked(locked: Locked, device: Device, *args: Any) -> None:
        told(locked, device, *args)
        after = locked.devices[device.device_id]
        seq = after.pushed_seq
        locked.put(structs.replace(after, acked_seq=seq, acked_high=seq))

    patch.setattr(settling, "_told", acked)


def what_a_vendor_took_is_told_as_delivered(patch: pytest.MonkeyPatch) -> None:
    tell = settling.tell
    patch.setattr(settling, "tell", lambda locked, device, _, items: tell(locked, device, "delivery.acked", items))


def a_push_that_is_under_way_is_taken_by_a_second_sender(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(planning, "_claimable", lambda *_: True)


def what_a_vendor_says_counts_whoever_holds_the_claim_by_now(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attempt, "holds", lambda *_: True)


def a_dead_token_is_dead_though_it_was_registered_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(settling, "is_believed", lambda current, **_: current is not None)


def the_address_that_is_there_dies_whatever_token_it_was(patch: pytest.MonkeyPatch) -> None:
    bury = settling.bury

    def whichever(locked: Locked, device: Device, *, code: str | None, **_: Any) -> None:
        for one in addresses.addresses_of(locked.conn, [locked.key]).get(device.key, []):
            bury(locked, device, account=one.account, token_hash=one.token_hash, code=code)

    patch.setattr(settling, "is_believed", lambda *_, **__: True)
    patch.setattr(settling, "bury", whichever)


def acks_of_older_sessions_are_taken(patch: pytest.MonkeyPatch) -> None:
    known = acks._known
    patch.setattr(acks, "_known", lambda users, key, _: known(users, key, None))


def acks_of_stores_that_are_no_more_are_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(acks, "_past", lambda *_: False)


def older_sessions_say_goodbye_for_newer_ones(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(online, "_in_session", lambda users, key, _: device_in(users, key))


def what_the_older_version_passed_is_judged_by_the_newer(patch: pytest.MonkeyPatch) -> None:
    step = handshake.Step
    patch.setattr(handshake, "Step", lambda locked, old, upto: step(locked, structs.replace(old, schema=9), upto))


def what_can_be_shown_now_stays_held(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(handshake, "release", lambda *_: Release(0, more=False))


def a_handshake_goes_on_with_the_session_before(patch: pytest.MonkeyPatch) -> None:
    write = handshake._write_facts
    patch.setattr(handshake, "_write_facts", lambda locked, one, session: write(locked, one, session - 1))


def what_comes_again_comes_twice(patch: pytest.MonkeyPatch) -> None:
    release = handshake.release

    def twice(locked: Locked, old: Device, device: Device) -> Release:
        held = [(seq, why) for seq, why, _ in locked.held(device.device_id)]
        first = release(locked, old, device)
        if first.released:
            locked.unhold(device.device_id, [seq for seq, _ in held])
            locked.hold(device.device_id, held)
            release(locked, old, device)
        return first

    patch.setattr(handshake, "release", twice)


def a_store_that_is_behind_its_witness_goes_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(meta, "behind", lambda *_: False)


def pruning_goes_on_though_numbers_were_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(meta, "FREEZE_MS", 0)


def handshakes_go_by_the_epoch_that_was_read_first(patch: pytest.MonkeyPatch) -> None:
    read = inbox.store_epoch
    first: list[str] = []
    patch.setattr(inbox, "store_epoch", lambda conn: first[0] if first else first.append(read(conn)) or first[0])


def nobody_looks_for_what_a_lost_hint_was_about(patch: pytest.MonkeyPatch) -> None:
    async def nothing(_: Hub) -> None: ...

    patch.setattr(Hub, "poll", nothing)


def nobody_waits_when_a_vendor_asks_for_it(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(accounts, "pause_ms", lambda _: 0)


def messages_expire_without_a_word(patch: pytest.MonkeyPatch) -> None:
    def in_silence(locked: Any, entries: Any, state: Any, *, by: int | None = None, **_: Any) -> None:
        seqs = [entry.seq for entry in entries]
        entry_ends.end_entries(locked.conn, locked.key, locked.now_ms, seqs=seqs, state=state, by=by)

    patch.setattr(ending, "end", in_silence)


def nobody_notes_that_a_message_was_completed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(entry_ends, "mark_completed", lambda *_: None)


def whatever_a_receiver_answers_it_has_heard(patch: pytest.MonkeyPatch) -> None:
    after_attempt = rules.after_attempt
    heard = rules.Attempt(word="status_204", effect=rules.Effect.DELIVERED)
    patch.setattr(rules, "after_attempt", lambda attempts, _, rng: after_attempt(attempts, heard, rng))


def a_webhook_that_failed_is_given_up(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(rules.AFTER_ATTEMPT, rules.Effect.RETRY, (rules.DeliveryState.ABANDONED,) * 2)


def what_an_upgrade_pins_is_pruned(patch: pytest.MonkeyPatch) -> None:
    lock = ending.lock

    def unpinned(*args: Any) -> Any:
        users = lock(*args)
        for locked in users.values():
            locked.inbox = structs.replace(locked.inbox, pinned_until_ms=0)
        return users

    patch.setattr(ending, "lock", unpinned)


def a_device_is_never_given_what_it_sent(patch: pytest.MonkeyPatch) -> None:
    view = visibility.view

    def by_device_alone(entry: Entry, device: Device) -> View:
        sent_here = entry.kind is Kind.OWN and entry.origin_device == device.device_id
        return View.OWN if sent_here else view(entry, device)

    patch.setattr(visibility, "view", by_device_alone)


def a_sender_has_no_copies(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Deliveries, "own_copy", lambda *_, **__: False)


def nobody_leaves_a_group(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(groups, "end", lambda *_, **__: None)


def whoever_brings_a_tag_is_told_that_nothing_is_new(patch: pytest.MonkeyPatch) -> None:
    read_page = InboxReader.read

    async def unmodified(*args: Any, etag: str | None = None, **more: Any) -> Reading:
        reading = await read_page(*args, **more)
        return reading if etag is None else replace(reading, batch=None)

    patch.setattr(InboxReader, "read", unmodified)


def every_page_says_that_it_is_the_last(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Batch, "caught_up", property(lambda _: True))


def the_window_is_always_open(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Window, "room", property(lambda _: (200, 1 << 20)))


def a_cursor_stands_at_the_newest_number(patch: pytest.MonkeyPatch) -> None:
    cursor = Snapshot.cursor
    patch.setattr(Snapshot, "cursor", lambda snap, _, *more, **named: cursor(snap, snap.inbox.head_seq, *more, **named))


def a_heartbeat_is_answered_with_a_cursor(patch: pytest.MonkeyPatch) -> None:
    heartbeat = DeviceService.heartbeat

    async def with_a_cursor(service: DeviceService, device: Any, body: Any) -> dict[str, Any]:
        reset = await service.inbox.reader.reset(device, reason="heartbeat")
        return await heartbeat(service, device, body) | {"cursor": reset["cursor"]}

    patch.setattr(DeviceService, "heartbeat", with_a_cursor)


def room_is_made_by_ending_the_oldest(patch: pytest.MonkeyPatch) -> None:
    append = Deliveries._append

    def making_room(deliveries: Any, locked: Locked, *args: Any, **more: Any) -> int:
        found = entries.entries_between(
            locked.conn, locked.key, after=locked.inbox.floor_seq, upto=locked.head_seq, limit=500
        )
        live = [entry for entry in found if entry.state is EntryState.LIVE]
        if len(live) > 5:
            reports.end(locked, live[:1], EntryState.EXPIRED)
        return append(deliveries, locked, *args, **more)

    patch.setattr(Deliveries, "_append", making_room)


def room_is_made_by_raising_the_floor(patch: pytest.MonkeyPatch) -> None:
    flush = delivering.flush

    def making_room(conn: Any, now_ms: int, users: Any) -> None:
        locked_users = list(users)
        flush(conn, now_ms, locked_users)
        for locked in locked_users:
            if locked.head_seq - locked.inbox.floor_seq > 8:
                entry_ends.prune_entries(conn, locked.key, floor=locked.inbox.floor_seq + 1)

    patch.setattr(delivering, "flush", making_room)


def a_message_sets_the_time_of_the_push_whatever_it_was(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(queue, "_LOWER", {"due_ms": "v.due_ms", "reason": "NULL"})


def receivers_are_locked_one_after_the_other(patch: pytest.MonkeyPatch) -> None:
    lock = inbox.lock_inboxes

    def one_by_one(conn: Any, keys: Any) -> Any:
        return {user: one for key in keys for user, one in lock(conn, [key]).items()}

    patch.setattr(inbox, "lock_inboxes", one_by_one)


def who_goes_offline_is_not_locked(patch: pytest.MonkeyPatch) -> None:
    def unlocked(conn: Any, now_ms: int, keys: Any, policy_of: Any) -> Any:
        return with_rows(conn, now_ms, inbox.inboxes_of(conn, keys), policy_of)

    patch.setattr(online, "lock", unlocked)


def a_sender_is_locked_before_its_key_is_claimed(patch: pytest.MonkeyPatch) -> None:
    claim = accept.claim_keys

    def looked_at_first(conn: Any, now_ms: int, sends: Any) -> Any:
        inbox.lock_inboxes(conn, [UserKey(one.app_id, one.sender_user) for one in sends if one.sender_user])
        return claim(conn, now_ms, sends)

    patch.setattr(accept, "claim_keys", looked_at_first)


def what_the_relay_slept_through_counts_against_devices(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LeaseBook, "extend_all", lambda *_: None)


def an_outage_of_the_store_counts_against_devices(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PresenceService, "store_back", lambda presence, _: setattr(presence, "_away", False))


def a_restart_gives_nobody_a_new_lease(patch: pytest.MonkeyPatch) -> None:
    resume = PresenceService.resume
    patch.setattr(PresenceService, "resume", lambda presence, devices: resume(presence, devices, lease_s=5))


def each_heartbeat_is_written(patch: pytest.MonkeyPatch) -> None:
    async def written(presence: Any, device: Any, session: int, facts: Any, beat: Any = None) -> None:
        if not await presence._transitions.said(device, session, facts):
            raise Conflict("A newer session of this device has taken over.")
        presence.connected(device, session, beat or presence.beat(), facts)

    patch.setattr(PresenceService, "heartbeat", written)


def a_walk_through_an_hour_goes_on_by_the_time_alone(patch: pytest.MonkeyPatch) -> None:
    messages_of = history.messages_of

    def by_time(conn: Any, app_id: str, *, after: history.Place, **more: Any) -> Any:
        return messages_of(conn, app_id, after=after._replace(id="~"), **more)

    patch.setattr(history, "messages_of", by_time)


def a_log_has_the_messages_of_all_apps(patch: pytest.MonkeyPatch) -> None:
    of_all = text(
        "SELECT * FROM message WHERE accepted_ms < :end AND (accepted_ms, message_id) > (:ms, :id)"
        " ORDER BY accepted_ms, message_id LIMIT :limit"
    )

    def whosever(conn: Any, _: str, *, after: history.Place, end_ms: int, limit: int) -> Any:
        return conn.execute(of_all, {"ms": after.ms, "id": after.id, "end": end_ms, "limit": limit}).all()

    patch.setattr(history, "messages_of", whosever)


def an_hour_is_closed_before_it_is_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(message_logs, "CLOSED_AFTER_MS", -360_000)


@pytest.mark.parametrize(
    ("plant", "found", "often"),
    [
        (what_an_upgrade_pins_is_pruned, "I16", {"upgrade": 30.0}),
        (the_relay_believes_itself_more_than_the_cursor, "LOST|I7", {"restored_backup": 240.0}),
        (jobs_of_devices_that_are_away_rest, "I18", {}),
        (nobody_is_reminded, "I25", {}),
        (what_rests_for_a_mended_account_rests_on, "I25", {"vendor_misconfigured": 30.0}),
        (who_lost_its_address_is_told_nothing_more, "I25", {"false_dead": 0.3}),
        (what_is_acked_is_told_again, "SIM-I10", {}),
        (what_a_vendor_took_counts_as_acked, "I24", {}),
        (what_a_vendor_took_is_told_as_delivered, "I24", {}),
        (a_push_that_is_under_way_is_taken_by_a_second_sender, "I20", {"vendor_slow": 0.5}),
        (
            what_a_vendor_says_counts_whoever_holds_the_claim_by_now,
            "I20",
            {"node_pause": 60.0, "vendor_slow": 0.5} | NO_RESTARTS,
        ),
        (a_dead_token_is_dead_though_it_was_registered_again, "I23", {"false_dead": 0.3}),
        (the_address_that_is_there_dies_whatever_token_it_was, "I23", {"token_rotated": 240.0, "vendor_slow": 0.5}),
        (acks_of_older_sessions_are_taken, "I11", {"said_again": 600.0}),
        (acks_of_stores_that_are_no_more_are_taken, "I11", {"said_again": 600.0, "wipe": 120.0}),
        (older_sessions_say_goodbye_for_newer_ones, "I11", {"said_again": 600.0}),
        (what_the_older_version_passed_is_judged_by_the_newer, "I33", {"upgrade": 60.0, "answer_lost": 0.2}),
        (what_can_be_shown_now_stays_held, "I34", {"upgrade": 60.0}),
        (what_comes_again_comes_twice, "I34", {"upgrade": 60.0}),
        (a_handshake_goes_on_with_the_session_before, "I26", {}),
        (a_store_that_is_behind_its_witness_goes_on, "I43", {"store_restored": 30.0}),
        (pruning_goes_on_though_numbers_were_lost, "I43", {"store_restored": 30.0}),
        (handshakes_go_by_the_epoch_that_was_read_first, "I43", {"store_restored": 30.0}),
        (nobody_looks_for_what_a_lost_hint_was_about, "I41", {"hint_lost": 1.0, "read_fails": 0.0} | NO_RESTARTS),
        (nobody_waits_when_a_vendor_asks_for_it, "SIM-I11", {"vendor_429": 0.3}),
        (messages_expire_without_a_word, "I13", {}),
        (whatever_a_receiver_answers_it_has_heard, "SIM-7", {"receiver_5xx": 0.3}),
        (a_webhook_that_failed_is_given_up, "SIM-7", {"receiver_5xx": 0.3}),
        (nobody_notes_that_a_message_was_completed, "SIM-I15", {}),
        (a_device_is_never_given_what_it_sent, "I38|10.4", {"wipe": 300.0}),
        (a_sender_has_no_copies, "I38", {}),
        (nobody_leaves_a_group, "I39", {"members": 120.0}),
        (whoever_brings_a_tag_is_told_that_nothing_is_new, "I32", {}),
        (every_page_says_that_it_is_the_last, "I31", {}),
        (the_window_is_always_open, "I29", {}),
        (a_cursor_stands_at_the_newest_number, "I6", {}),
        (a_heartbeat_is_answered_with_a_cursor, "I6", {}),
        (room_is_made_by_ending_the_oldest, "I17", {}),
        (room_is_made_by_raising_the_floor, "I17", {}),
        (a_message_sets_the_time_of_the_push_whatever_it_was, "I21", {}),
        (receivers_are_locked_one_after_the_other, "I42", {}),
        (who_goes_offline_is_not_locked, "I42", {}),
        (a_sender_is_locked_before_its_key_is_claimed, "I42", {}),
        (what_the_relay_slept_through_counts_against_devices, "I27", {"node_pause": 60.0} | NO_RESTARTS),
        (an_outage_of_the_store_counts_against_devices, "I27", {"store_away": 30.0}),
        (a_restart_gives_nobody_a_new_lease, "I27", {"node_crash": 30.0}),
        (each_heartbeat_is_written, "I28", {}),
        (a_walk_through_an_hour_goes_on_by_the_time_alone, "I44", {}),
        (an_hour_is_closed_before_it_is_over, "I44", {}),
        (a_log_has_the_messages_of_all_apps, "I45", {}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_it_is_found(monkeypatch: pytest.MonkeyPatch, plant: Plant, found: str, often: dict[str, float]) -> None:
    """`often`: faults without which it does not show, and which few of these short runs would have; 0: that may hide it."""
    plant(monkeypatch)
    if often:
        monkeypatch.setattr(faults, "SHARE_ON", 1.0)
    for kind, rate in often.items():
        monkeypatch.setitem(faults.EVENTS if kind in faults.EVENTS else faults.SITES, kind, (rate, rate))
    hiding = tuple(kind for kind, rate in often.items() if not rate)
    apps = 2 if plant is a_log_has_the_messages_of_all_apps else 1
    error = first_error(Scenario(seed=0, minutes=6, send_s=10, away_s=60, stay_s=30, apps=apps, without=hiding))
    assert error.startswith(tuple(found.split("|"))), error


def first_error(scenario: Scenario) -> str:
    """Of this one under some seeds."""
    for seed in range(SEEDS_MAX):
        error = simulate(structs.replace(scenario, seed=seed), keep=False).error
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error is not None:
            return str(error)
    pytest.fail(f"{SEEDS_MAX} seeds did not find it")


def nobody_is_woken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(readers, "to_wake", lambda *_, **__: [])


def a_member_sees_what_stood_before_it_came(patch: pytest.MonkeyPatch) -> None:
    spans = readers.spans_of
    patch.setattr(readers, "spans_of", lambda *args: [one._replace(joined_seq=0) for one in spans(*args)])


@pytest.mark.parametrize(
    ("plant", "found"), [(nobody_is_woken, "I40"), (a_member_sees_what_stood_before_it_came, "I45")]
)
def test_in_a_town_it_is_found(monkeypatch: pytest.MonkeyPatch, plant: Plant, found: str) -> None:
    """An ultra group's timeline and its members (`town.py`)."""
    plant(monkeypatch)
    error = first_error(Scenario(seed=0, minutes=6, send_s=5, away_s=60, stay_s=30, town=True))
    assert error.startswith(found), error


def test_a_failure_comes_with_its_seed_a_smaller_scenario_its_story_and_a_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    messages_expire_without_a_word(monkeypatch)
    drawn = Scenario(seed=0, minutes=12, send_s=10, away_s=60, stay_s=30)
    told: list[str] = []

    result = shrink(drawn, limit_s=60, runs_max=3, say=told.append)

    said = story_of(result, tmp_path)
    path = tmp_path / "simulation-0.json"
    lost = str(result.error).split("ended ")[1].split()[0]
    assert told
    assert result.scenario != drawn
    assert f"accepted app0 {lost}" in said
    assert f"seed 0, after {result.virtual_s / 60:.1f} virtual minutes: I13" in said
    assert said.endswith(f"again: python -m tests.simulation --replay {path}")
    again = simulate(read(path), keep=False)
    assert str(again.error) == str(result.error)
    assert again.hash == result.hash
