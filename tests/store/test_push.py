"""PLAN and SETTLE on both stores: who is told, when, and what a vendor's verdict changes."""

import dataclasses
import json
import random
from typing import Any

import pytest
from house import House, sending
from msgspec.structs import replace
from sqlalchemy import select

from providers.app_message import once_key
from providers.contract import Capabilities, Outcome, Scope, Verdict
from providers.fcm import FcmProvider
from relay.inbox.ack import AckRequest
from relay.inbox.addresses import NewAddress
from relay.inbox.push_due import Later
from relay.inbox.registry import Registration
from relay.inbox.send import Send
from relay.model import DeviceKey, Policy
from relay.push.attempts import Attempt, still_needed
from relay.push.desk import requeue
from relay.push.mending import mend
from relay.push.payload import push_of
from relay.push.planner import TRIES_PER_ADDRESS
from relay.push.planning import plan_due
from relay.push.rules import Result, Then
from relay.push.settling import Settlement, settle
from relay.push.situation import AccountView, Privacy, Quota, Wait
from relay.store import dead, meta, quota
from relay.store import queue as job_rows
from relay.store.engine import Engine
from relay.store.parked import park_account
from relay.store.schema.webhooks import event

PHONE = DeviceKey("shop", "ann", "phone")
POLICY = Policy()
VIEWS = {"v": AccountView(capabilities=Capabilities(payload_bytes_max=4096, ttl_s_max=86_400))}


class Desk:
    """One device with one address, and a dispatcher that moves by hand."""

    def __init__(self, engine: Engine, clock: Any) -> None:
        self.engine, self.clock = engine, clock
        self.views = VIEWS
        self.sent = 0
        self.house = House(engine, clock, policy=POLICY)
        self.inbox = self.house.inbox

    async def begin(self) -> None:
        await self.house.begin()
        address = NewAddress(account="v", kind="token", token_sealed=b"s", token_hash=b"h")
        await self.inbox.register(Registration(device=PHONE, addresses=(address,)))
        self.clock.forward(s=1)

    def message(self, push: str = '{"title":"t"}') -> Send:
        self.sent += 1
        return sending(self.sent, push=push)

    async def send(self, **more: str) -> str:
        return (await self.inbox.accept(self.message(**more))).message_id

    async def send_many(self, count: int) -> None:
        await self.inbox.accept_many([self.message() for _ in range(count)])

    async def plan(self) -> tuple[Attempt, ...]:
        planned = await self.engine.write(
            lambda conn, now_ms: plan_due(
                conn, now_ms, lambda _: POLICY, lambda _: self.views, owner="n1", limit=10, boot_ms=0
            )
        )
        return planned.attempts

    async def settle(
        self,
        attempt: Attempt,
        verdict: Verdict,
        *,
        passes_on: bool = False,
        day: str | None = None,
        wait_ms: int = 5_000,
        impaired: tuple[str, ...] = (),
        held: bool = False,
        used_up: tuple[Any, ...] = (),
        **more: Any,
    ) -> Any:
        one = Settlement(
            attempt=attempt,
            result=Result(Outcome(verdict=verdict, **more), impaired=impaired, spent=used_up),
            retry_ms=self.clock.now_ms() + wait_ms,
            passes_on=passes_on,
            held=held,
            spent=day,
        )
        (then,) = await self.engine.write(lambda conn, now_ms: settle(conn, now_ms, [one], lambda _: POLICY))
        return then

    async def events(self, kind: str) -> list[Any]:
        wanted = select(event.c.data).where(event.c.type == kind)
        texts = await self.engine.read(lambda conn, _: list(conn.execute(wanted).scalars()))
        return [json.loads(text) for text in texts]

    async def job(self) -> Any:
        jobs = await self.engine.read(lambda conn, _: job_rows.jobs_of(conn, [PHONE.user]))
        return jobs[PHONE.user][PHONE.device_id]


@pytest.fixture
async def desk(engine: Engine, clock: Any) -> Desk:
    desk = Desk(engine, clock)
    await desk.begin()
    return desk


async def test_an_offline_device_is_told_after_the_debounce_and_not_before(desk: Desk, clock: Any) -> None:
    await desk.send()
    assert await desk.plan() == ()
    clock.forward(ms=500)
    (attempt,) = await desk.plan()
    assert (attempt.send.from_seq, attempt.send.upto_seq) == (1, 1)
    assert await desk.plan() == (), "one claim at a time"


async def test_accepted_means_told_and_the_knocks_follow(desk: Desk, clock: Any) -> None:
    """F25: the vendor accepts all and delivers nothing: knocks after 1, 6 and 24 hours, and then the backend knows."""
    await desk.send()
    for wait_s, knock in ((1, False), (3600, True), (18_000, True), (64_800, True)):
        clock.forward(s=wait_s)
        (attempt,) = await desk.plan()
        assert attempt.knock == knock
        assert (push_of(attempt, attempt.send.notes[0], "t", provider="v").again is not None) == knock
        assert await desk.settle(attempt, Verdict.ACCEPTED) is Then.TOLD
    job = await desk.job()
    assert (job.due_ms, job.reason) == (None, "told")
    assert [one["reason"] for one in await desk.events("device.unreachable")] == ["told"]
    await desk.send()
    assert (await desk.job()).due_ms is not None, "a new message starts anew"


async def test_a_reminder_says_which_one_it_is_in_each_of_its_tries(desk: Desk, clock: Any) -> None:
    """A vendor, or a gateway, drops what it knows: a lost answer must not bring a reminder twice, nor the next one never."""
    await desk.send()

    async def tries() -> set[str | None]:
        found = []
        for verdict in (Verdict.RETRY, Verdict.ACCEPTED):
            (attempt,) = await desk.plan()
            found.append(push_of(attempt, attempt.send.notes[0], "t", provider="v").again)
            await desk.settle(attempt, verdict, wait_ms=300_000)
            clock.forward(s=300)
        return set(found)

    clock.forward(s=1)
    assert await tries() == {None}
    said: set[str | None] = set()
    for wait_s in (3600, 18_000):
        clock.forward(s=wait_s)
        said |= await tries()
    assert len(said) == 2
    await desk.house.hello("ann/phone")  # and lets the message go by: reminders count from the start
    await desk.house.bye("ann/phone")
    clock.forward(s=3600)
    said |= await tries()
    assert len(said) == 3


async def test_a_thousand_messages_are_one_summary(desk: Desk, clock: Any) -> None:
    """F29: one job, one notification."""
    for _ in range(5):
        await desk.send_many(200)
    clock.forward(s=1)
    (attempt,) = await desk.plan()
    assert attempt.send.form == "summary"
    assert len(attempt.send.notes) == 1
    assert attempt.send.notes[0].count == 1000
    await desk.settle(attempt, Verdict.ACCEPTED)
    clock.forward(s=60)
    assert await desk.plan() == ()


async def test_a_lost_worker_s_job_is_due_again_and_its_late_word_changes_nothing(desk: Desk, clock: Any) -> None:
    """F19, F33: it died between the vendor's 200 and SETTLE, or slept: at most one more push, and that with the same id."""
    await desk.send()
    clock.forward(s=1)
    (lost,) = await desk.plan()
    clock.forward(s=31)
    (second,) = await desk.plan()
    assert [note.push_id for note in second.send.notes] == [note.push_id for note in lost.send.notes]
    assert await desk.settle(lost, Verdict.TOKEN_DEAD) is None
    assert await desk.settle(second, Verdict.ACCEPTED) is Then.TOLD
    assert (await desk.inbox.reader.device(PHONE))[0].has_address == 1


async def test_what_ends_after_its_device_has_signed_out_gives_its_claim_back(desk: Desk, clock: Any) -> None:
    await desk.send()
    clock.forward(s=1)
    (attempt,) = await desk.plan()
    assert (await desk.job()).claim == "n1"
    await desk.inbox.sign_out(PHONE)
    assert await desk.settle(attempt, Verdict.ACCEPTED) is Then.MOOT
    assert (await desk.job()).claim is None


async def test_a_repeat_is_known_as_one_though_another_message_has_come(desk: Desk, clock: Any) -> None:
    """The vendor may have it: its answer was lost. Who drops repeats must not show the first message twice."""
    await desk.send()
    clock.forward(s=1)
    (lost,) = await desk.plan()
    await desk.settle(lost, Verdict.RETRY, maybe_sent=True)
    await desk.send()
    clock.forward(s=6)
    (second,) = await desk.plan()
    first, repeat = (push_of(one, one.send.notes[0], "t", provider="v") for one in (lost, second))
    assert [note.ids[0] for note in second.send.notes][:1] == [lost.send.notes[0].ids[0]]
    assert (first.relay["head"], repeat.relay["head"]) == (1, 2)
    assert once_key(first, now_s=900) == once_key(repeat, now_s=906)


async def test_a_dead_token_is_believed_only_for_what_was_registered_before(desk: Desk, clock: Any) -> None:
    await desk.send()
    clock.forward(s=1)
    (attempt,) = await desk.plan()
    fresh = NewAddress(account="v", kind="token", token_sealed=b"s", token_hash=b"h")
    clock.forward(s=1)
    await desk.inbox.register(Registration(device=PHONE, addresses=(fresh,)))
    await desk.settle(attempt, Verdict.TOKEN_DEAD)
    assert (await desk.inbox.reader.device(PHONE))[0].has_address == 1
    clock.forward(s=10)
    (attempt,) = await desk.plan()
    await desk.settle(attempt, Verdict.TOKEN_DEAD)
    assert (await desk.inbox.reader.device(PHONE))[0].has_address == 0
    job = await desk.job()
    assert (job.due_ms, job.reason) == (None, "no_address")


async def test_a_failed_attempt_waits_even_if_more_arrives(desk: Desk, clock: Any) -> None:
    await desk.send()
    clock.forward(s=1)
    (attempt,) = await desk.plan()
    assert await desk.settle(attempt, Verdict.RETRY) is Then.AGAIN
    await desk.send()
    clock.forward(s=1)
    assert await desk.plan() == ()
    clock.forward(s=5)
    (attempt,) = await desk.plan()
    assert attempt.send.upto_seq == 2


async def test_what_was_acked_meanwhile_is_not_sent(desk: Desk, clock: Any) -> None:
    await desk.send()
    clock.forward(s=1)
    attempts = await desk.plan()
    await desk.inbox.ack(AckRequest(device=PHONE, upto=1))
    needed = await desk.engine.read(lambda conn, now_ms: still_needed(conn, now_ms, attempts))
    assert needed == [False]


PARK = {"verdict": Verdict.MISCONFIGURED, "scope": Scope.ACCOUNT, "vendor_code": "key_deleted"}


async def test_a_round_of_pushes_may_name_thousands_of_messages(desk: Desk, clock: Any) -> None:
    """128 users with ten notifications each, of ten messages: PostgreSQL has no stack for so many in one statement."""
    await desk.send()
    clock.forward(s=3)
    (attempt,) = await desk.plan()
    (note,) = attempt.send.notes
    names = [f"01900000-0000-7000-9000-{n:012d}" for n in range(12_800)]
    for ids, needed in ((names, False), ([*names, *note.ids], True)):
        large = replace(attempt, send=replace(attempt.send, notes=(replace(note, ids=tuple(ids)),)))
        assert await desk.engine.read(lambda conn, now_ms, one=large: still_needed(conn, now_ms, [one])) == [needed]


async def test_who_is_parked_is_the_store_s_word_and_no_node_s_memory(desk: Desk, clock: Any) -> None:
    """A node that saw the account parked must not let jobs rest for it after an operator unparked it elsewhere."""
    await desk.send()
    clock.forward(s=1)
    (attempt,) = await desk.plan()
    assert await desk.settle(attempt, **PARK) is Then.PARK
    assert await desk.plan() == ()
    assert (await desk.job()).reason == "account_parked"

    assert await mend(desk.engine, "shop", ["v"]) == 1
    desk.views = {"v": replace(VIEWS["v"], parked=True)}
    (attempt,) = await desk.plan()
    assert await desk.settle(attempt, Verdict.ACCEPTED) is Then.TOLD


async def test_a_node_that_has_not_heard_of_it_does_not_call_a_parked_account(desk: Desk, clock: Any) -> None:
    await desk.send()
    clock.forward(s=1)
    (attempt,) = await desk.plan()
    await desk.settle(attempt, **PARK)
    desk.views = {"v": replace(VIEWS["v"], parked=False)}
    await desk.send()
    clock.forward(s=1)
    assert await desk.plan() == ()


async def test_the_quota_of_a_day_is_counted_in_the_store_and_waited_for(desk: Desk, clock: Any) -> None:
    ends_ms = clock.now_ms() + 3_600_000
    for day, goes in (("2026-11-26", True), ("2026-11-26", False), ("2026-11-27", True)):
        limit = Quota(limit=1, day=day, ends_ms=ends_ms)
        desk.views = {"v": replace(VIEWS["v"], quota=limit)}  # as after a restart: nothing is remembered
        await desk.send()
        clock.forward(s=1)
        if not goes:
            assert await desk.plan() == ()
            assert ((await desk.job()).due_ms, (await desk.job()).reason) == (ends_ms, "quota")
            clock.forward(s=3600)
            continue
        (attempt,) = await desk.plan()
        assert await desk.settle(attempt, Verdict.ACCEPTED) is Then.TOLD


async def test_a_day_that_the_vendor_calls_used_up_is_over_for_every_node_until_it_ends(desk: Desk, clock: Any) -> None:
    ends_ms = clock.now_ms() + 3_600_000
    desk.views = {"v": replace(VIEWS["v"], quota=Quota(limit=None, day="2026-11-26", ends_ms=ends_ms))}
    await desk.send()
    clock.forward(s=1)
    (attempt,) = await desk.plan()
    await desk.settle(attempt, Verdict.RETRY, scope=Scope.ACCOUNT, spent=True, day="2026-11-26", wait_ms=0)
    assert await desk.plan() == ()
    assert ((await desk.job()).due_ms, (await desk.job()).reason) == (ends_ms, "quota")
    assert await mend(desk.engine, "shop", ["v"]) == 0, "it waited, and nothing rested"
    (attempt,) = await desk.plan()
    assert await desk.settle(attempt, Verdict.ACCEPTED) is Then.TOLD


async def test_wake_ups_of_one_device_keep_the_distance_that_the_vendor_wants(desk: Desk, clock: Any) -> None:
    gap = dataclasses.replace(VIEWS["v"].capabilities, silent_gap_s=1200)
    desk.views = {"v": replace(VIEWS["v"], privacy=Privacy.NONE, capabilities=gap)}
    await desk.send()
    clock.forward(s=1)
    (attempt,) = await desk.plan()
    await desk.settle(attempt, Verdict.ACCEPTED)
    await desk.send()
    clock.forward(s=1)
    assert await desk.plan() == ()
    assert (await desk.job()).due_ms == attempt.started_ms + 1_200_000
    clock.forward(s=1200)
    (attempt,) = await desk.plan()
    assert (attempt.send.from_seq, attempt.send.upto_seq) == (2, 2)


async def test_pushes_of_data_alone_keep_that_distance_too_and_what_gathers_meanwhile_is_one(
    desk: Desk, clock: Any
) -> None:
    """Vendor sheet apns, §8: two or three silent pushes an hour for a device; of a burst most are dropped."""
    gap = dataclasses.replace(VIEWS["v"].capabilities, silent_gap_s=1200)
    desk.views = {"v": replace(VIEWS["v"], capabilities=gap)}
    await desk.send(push='{"data":{"n":"1"}}')
    clock.forward(s=1)
    (attempt,) = await desk.plan()
    assert (attempt.send.form, attempt.send.notes[0].shows is not None) == ("unseen", True), "with its data"
    await desk.settle(attempt, Verdict.ACCEPTED)
    for n in "23":
        await desk.send(push=f'{{"data":{{"n":"{n}"}}}}')
    clock.forward(s=1)
    assert await desk.plan() == ()
    assert (await desk.job()).due_ms == attempt.started_ms + 1_200_000
    clock.forward(s=1200)
    (attempt,) = await desk.plan()
    assert (attempt.send.form, len(attempt.send.notes)) == ("wake", 1)
    await desk.settle(attempt, Verdict.ACCEPTED)
    await desk.send(push='{"title":"Ann"}')
    clock.forward(s=1)
    (attempt,) = await desk.plan()
    assert attempt.send.form == "each", "what is shown waits for nothing"


async def keys_of_seven(desk: Desk, clock: Any) -> set[str]:
    """The collapse keys of seven messages that the vendor takes one after the other."""
    keys: set[str] = set()
    for _ in range(7):
        await desk.send()
        clock.forward(s=1)
        (attempt,) = await desk.plan()
        keys |= {note.collapse_key for note in attempt.send.notes}
        await desk.settle(attempt, Verdict.ACCEPTED)
    return keys


async def test_messages_that_wait_at_a_vendor_with_four_collapse_keys_take_no_fifth(desk: Desk, clock: Any) -> None:
    few = dataclasses.replace(VIEWS["v"].capabilities, collapse_keys_max=4)
    desk.views = {"v": replace(VIEWS["v"], capabilities=few)}
    assert len(await keys_of_seven(desk, clock)) == 4


async def test_an_iphone_behind_fcm_has_apples_limits_and_not_androids(desk: Desk, clock: Any) -> None:
    """Vendor sheets fcm §3.2 (four keys are Android's) and apns §8 (silent pushes are Apple's to drop)."""
    desk.views = {"v": replace(VIEWS["v"], capabilities=FcmProvider.capabilities)}
    await desk.inbox.register(Registration(device=PHONE, platform="ios"))
    assert len(await keys_of_seven(desk, clock)) == 7
    await desk.send(push='{"data":{"n":"1"}}')
    clock.forward(s=1)
    (attempt,) = await desk.plan()
    await desk.settle(attempt, Verdict.ACCEPTED)
    await desk.send(push='{"data":{"n":"2"}}')
    clock.forward(s=1)
    assert await desk.plan() == ()
    assert (await desk.job()).due_ms == attempt.started_ms + 1_200_000


async def test_what_no_vendor_carries_is_listed_until_the_device_has_it(desk: Desk, clock: Any) -> None:
    await desk.send()
    for form in ("each", "wake"):
        clock.forward(s=1)
        (attempt,) = await desk.plan()
        assert attempt.send.form == form
        await desk.settle(attempt, Verdict.REFUSED, vendor_code="payload_invalid")
    (listed,) = await desk.engine.read(lambda conn, _: dead.listed(conn, "shop", limit=10))
    assert (listed.user_id, listed.device_id, listed.why) == ("ann", "phone", "refused")
    assert (listed.account, listed.verdict, listed.vendor_code) == ("v", "refused", "payload_invalid")
    assert (listed.from_seq, listed.upto_seq) == (1, 1)
    assert await desk.engine.read(lambda conn, _: dead.listed(conn, "other", limit=10)) == []

    await desk.inbox.ack(AckRequest(device=PHONE, upto=1))
    assert await desk.engine.read(lambda conn, _: dead.listed(conn, "shop", limit=10)) == []


async def test_what_the_device_has_acked_of_a_dead_push_stays_told_though_the_rest_is_requeued(
    desk: Desk, clock: Any
) -> None:
    """I9: what a device with an older store lacks again comes in silence."""
    await desk.send_many(3)
    for _ in range(2):
        clock.forward(s=1)
        (attempt,) = await desk.plan()
        await desk.settle(attempt, Verdict.REFUSED)
    await desk.inbox.ack(AckRequest(device=PHONE, upto=2))
    assert await desk.engine.write(lambda conn, now_ms: requeue(conn, now_ms, [PHONE], lambda _: POLICY)) == 1
    device = await desk.house.device("ann/phone")
    assert (device.acked_high, device.pushed_seq) == (2, 2)
    clock.forward(s=1)
    (again,) = await desk.plan()
    assert (again.send.from_seq, again.send.upto_seq) == (3, 3)


async def test_a_job_that_rests_for_want_of_an_address_is_listed_too(desk: Desk, clock: Any) -> None:
    await desk.send()
    clock.forward(s=1)
    (attempt,) = await desk.plan()
    await desk.settle(attempt, Verdict.TOKEN_DEAD)
    clock.forward(s=1)
    assert await desk.plan() == ()
    (listed,) = await desk.engine.read(lambda conn, _: dead.listed(conn, "shop", limit=10))
    assert (listed.device_id, listed.why) == ("phone", "no_address")
    assert (
        await desk.engine.read(
            lambda conn, _: dead.listed(conn, "shop", limit=10, after=("ann", "phone", "no_address"))
        )
        == []
    )
    assert await desk.engine.read(lambda conn, _: dead.listed(conn, "shop", limit=10, why="refused")) == []


async def test_an_address_that_must_wait_long_passes_on_until_each_had_its_turn(desk: Desk, clock: Any) -> None:
    both = tuple(
        NewAddress(account=name, kind="token", token_sealed=b"s", token_hash=name.encode()) for name in ("v", "w")
    )
    await desk.inbox.register(Registration(device=PHONE, addresses=both))
    desk.views = {"v": VIEWS["v"], "w": VIEWS["v"]}
    await desk.send()
    clock.forward(s=1)
    asked = []
    for _ in range(2):
        (attempt,) = await desk.plan()
        asked.append(attempt.send.address.account)
        await desk.settle(attempt, Verdict.RETRY, scope=Scope.TOKEN, passes_on=True)
    assert asked == ["v", "w"]
    assert await desk.plan() == (), "now it waits, as the vendors want it"
    clock.forward(s=5)
    (attempt,) = await desk.plan()
    assert attempt.send.address.account == "v"


async def _waits_for_the_vendor(desk: Desk, clock: Any) -> None:
    """A push for which "v" asks for time goes to nobody until then, and to "v" again."""
    await desk.send()
    clock.forward(s=1)
    (attempt,) = await desk.plan()
    await desk.settle(attempt, Verdict.RETRY, scope=Scope.TOKEN, passes_on=True)
    assert await desk.plan() == ()
    clock.forward(s=5)
    (attempt,) = await desk.plan()
    assert attempt.send.address.account == "v"


async def test_an_address_of_a_parked_account_gives_no_turn_before_the_vendor_s_time(desk: Desk, clock: Any) -> None:
    """FLT-3: nothing goes to a device for as long as its vendor says."""
    await _two_addresses(desk)
    await _parked(desk, "w")
    await _waits_for_the_vendor(desk, clock)


@pytest.mark.parametrize("out", ["for all", "for this sort"])
async def test_an_address_that_is_out_for_long_gives_no_turn_before_the_vendor_s_time(
    desk: Desk, clock: Any, out: str
) -> None:
    """FLT-3 again: the push would come back to the one that asked for time."""
    await _two_addresses(desk)
    until_ms = clock.now_ms() + 36_000_000
    away: dict[str, Any] = {"for all": {"shut_until_ms": until_ms}}.get(
        out, {"held": {(None, None): Wait(at_ms=until_ms, reason=Later.QUOTA)}}
    )
    desk.views = {**desk.views, "w": replace(desk.views["w"], **away)}
    await _waits_for_the_vendor(desk, clock)


async def test_what_the_only_vendor_that_can_take_it_refuses_is_bare_at_once(desk: Desk, clock: Any) -> None:
    await _two_addresses(desk)
    await _parked(desk, "w")
    await desk.send()
    clock.forward(s=1)
    assert (await _refused(desk, 2))[0] == [("v", "each"), ("v", "wake")]


async def _refused(desk: Desk, times: int) -> tuple[list[tuple[str, str]], Any]:
    """So many tries that are all refused: through which account each went and in which form, and what follows the last."""
    forms, then = [], None
    for _ in range(times):
        (attempt,) = await desk.plan()
        forms.append((attempt.send.address.account, attempt.send.form))
        then = await desk.settle(attempt, Verdict.REFUSED)
    return forms, then


async def _parked(desk: Desk, account: str) -> None:
    await desk.engine.write(lambda conn, now_ms: park_account(conn, now_ms, app_id="shop", account=account, code="403"))


async def test_the_log_of_attempts_goes_with_the_entries_that_they_told_of(desk: Desk, clock: Any) -> None:
    async def rows() -> list[tuple[int, int]]:
        return await desk.engine.read(
            lambda conn, _: [
                (row.from_seq, row.upto_seq)
                for row in conn.exec_driver_sql("SELECT from_seq, upto_seq FROM push_attempt ORDER BY upto_seq").all()
            ]
        )

    for n in (1, 2):
        await desk.send()
        clock.forward(s=1)
        (attempt,) = await desk.plan()
        await desk.settle(attempt, Verdict.ACCEPTED)
        await desk.inbox.ack(AckRequest(device=PHONE, upto=n))
        clock.forward(s=POLICY.replay_window_ms / 1000 if n == 1 else 1)
    assert await rows() == [(1, 1), (2, 2)]

    assert await desk.inbox.prune([PHONE.user]) == 1
    assert await rows() == [(2, 2)]


async def test_what_one_vendor_refuses_the_next_may_take(desk: Desk, clock: Any) -> None:
    await _two_addresses(desk)
    await desk.send()
    clock.forward(s=1)
    (first,) = await desk.plan()
    assert await desk.settle(first, Verdict.REFUSED) is Then.ELSEWHERE
    (second,) = await desk.plan()
    assert [one.send.address.account for one in (first, second)] == ["v", "w"]
    assert second.send.form == first.send.form, "with all that it says"
    assert await desk.settle(second, Verdict.ACCEPTED) is Then.TOLD
    await desk.send()
    clock.forward(s=1)
    (again,) = await desk.plan()
    assert again.send.address.account == "v", "the next message may suit the first"


async def test_what_all_refuse_is_a_bare_wake_up_of_the_first_and_then_dead(desk: Desk, clock: Any) -> None:
    await _two_addresses(desk)
    await desk.send()
    clock.forward(s=1)
    forms, then = await _refused(desk, 3)
    assert forms == [("v", "each"), ("w", "each"), ("v", "wake")]
    assert then is Then.GIVE_UP
    (listed,) = await desk.engine.read(lambda conn, _: dead.listed(conn, "shop", limit=10))
    assert (listed.account, listed.verdict) == ("v", "refused")


@pytest.mark.parametrize("rounds", [1, 2])
async def test_what_one_vendor_refuses_the_next_may_take_however_often_both_were_away(
    desk: Desk, clock: Any, rounds: int
) -> None:
    await _two_addresses(desk)
    await desk.send()
    for _ in range(rounds * 2 * TRIES_PER_ADDRESS):
        clock.forward(s=6)
        (attempt,) = await desk.plan()
        await desk.settle(attempt, Verdict.RETRY)
    clock.forward(s=6)
    assert (await _refused(desk, 3))[0] == [("v", "each"), ("w", "each"), ("v", "wake")]


@pytest.mark.parametrize("verdict", [Verdict.RETRY, Verdict.MISCONFIGURED, Verdict.TOO_LARGE, Verdict.REFUSED])
async def test_what_a_vendor_has_against_a_token_that_was_replaced_meanwhile_is_nothing_to_the_new_one(
    desk: Desk, clock: Any, verdict: Verdict
) -> None:
    await desk.send()
    clock.forward(s=1)
    (attempt,) = await desk.plan()
    new = NewAddress(account="v", kind="token", token_sealed=b"n", token_hash=b"new")
    await desk.inbox.replace_addresses(PHONE, [new])
    assert await desk.settle(attempt, verdict, wait_ms=3_600_000) is Then.MOOT
    (again,) = await desk.plan()
    assert (again.send.address.token_hash, again.send.form, again.tries) == (b"new", "each", 0)


async def _two_addresses(desk: Desk) -> None:
    desk.views = dict.fromkeys(("v", "w"), VIEWS["v"])
    addresses = tuple(
        NewAddress(account=name, kind="token", token_sealed=b"s", token_hash=name.encode()) for name in ("v", "w")
    )
    await desk.inbox.register(Registration(device=PHONE, addresses=addresses))


async def test_a_phone_that_is_off_has_one_notification_of_all_where_the_vendor_keeps_one(
    desk: Desk, clock: Any
) -> None:
    one = dataclasses.replace(VIEWS["v"].capabilities, collapse_keys_max=1)
    desk.views = {"v": replace(VIEWS["v"], capabilities=one)}

    async def told() -> Any:
        clock.forward(s=1)
        (attempt,) = await desk.plan()
        await desk.settle(attempt, Verdict.ACCEPTED)
        (note,) = attempt.send.notes
        return note

    first = await desk.send()
    assert (await told()).collapse_key == first
    clock.forward(s=3600)
    assert (await told()).count == 1  # the reminder
    notes = []
    for _ in range(3):
        await desk.send()
        notes.append(await told())
    assert [note.count for note in notes] == [2, 3, 4]
    assert len({note.collapse_key for note in notes}) == 1
    assert notes[-1].shows.body == "4 new messages"

    await desk.inbox.ack(AckRequest(device=PHONE, upto=4))
    last = await desk.send()
    assert (await told()).collapse_key == last, "it is on again"


async def test_a_misconfiguration_below_the_account_is_told_once_a_day_for_each_code(desk: Desk, clock: Any) -> None:
    await desk.send()
    clock.forward(s=1)
    for codes in (("27001",), ("27001", "113"), ("27001",)):
        (attempt,) = await desk.plan()
        assert await desk.settle(attempt, Verdict.MISCONFIGURED, wait_ms=3_600_000, impaired=codes) is Then.AGAIN
        clock.forward(s=3_601)
    assert sorted(one["code"] for one in await desk.events("account.impaired")) == ["113", "27001"]
    clock.forward(s=86_400)
    (attempt,) = await desk.plan()
    await desk.settle(attempt, Verdict.MISCONFIGURED, impaired=("27001",))
    assert len(await desk.events("account.impaired")) == 3


async def test_only_what_failed_and_is_tried_again_counts_as_a_retry(desk: Desk, clock: Any) -> None:
    await desk.send()
    clock.forward(s=1)
    seen = []
    for held in (False, True, False, False):
        (attempt,) = await desk.plan()
        seen.append(attempt.retry)
        await desk.settle(attempt, Verdict.RETRY, held=held)
        clock.forward(s=6)
    (attempt,) = await desk.plan()
    await desk.settle(attempt, Verdict.ACCEPTED)
    await desk.send()
    clock.forward(s=1)
    (attempt,) = await desk.plan()
    assert [*seen, attempt.retry] == [False, True, True, True, False]


async def test_over_its_budget_a_retry_is_put_off_however_the_vendor_asked_for_it(desk: Desk, clock: Any) -> None:
    await desk.send()
    clock.forward(s=1)
    (attempt,) = await desk.plan()
    await desk.settle(attempt, Verdict.RETRY, retry_after_s=5.0)
    desk.views = {"v": replace(VIEWS["v"], retries=0)}
    clock.forward(s=6)
    assert await desk.plan() == ()
    job = await desk.job()
    assert (job.due_ms, job.reason) == (clock.now_ms() + 10_000, "rate")
    desk.views = VIEWS
    clock.forward(s=10)
    (attempt,) = await desk.plan()
    assert attempt.retry


async def test_which_pushes_the_vendor_takes_no_more_today_is_kept_until_it_takes_them_again(
    desk: Desk, clock: Any
) -> None:
    await desk.send()
    clock.forward(s=1)
    until_ms = clock.now_ms() + 3_600_000
    (attempt,) = await desk.plan()
    await desk.settle(attempt, Verdict.RETRY, used_up=(((None, "news"), until_ms), ((b"h", None), until_ms - 1)))
    clock.forward(s=6)
    (attempt,) = await desk.plan()
    await desk.settle(attempt, Verdict.RETRY, used_up=(((None, "news"), until_ms + 5),))  # the later word counts
    news = quota.Held("shop", "v", b"", "news", until_ms + 5)
    mine = quota.Held("shop", "v", b"h", "", until_ms - 1)
    assert sorted(await desk.engine.read(quota.held)) == [news, mine]
    clock.forward(s=3_594)
    assert await desk.engine.read(quota.held) == [news]
    await desk.engine.write(lambda conn, now_ms: quota.forget(conn, now_ms, "2026-01-01"))
    assert await desk.engine.read(quota.held) == [news]
    await desk.engine.write(lambda conn, _: quota.refill(conn, "shop", ["v"]))
    assert await desk.engine.read(quota.held) == []


async def test_flt_38_the_backlog_of_one_app_holds_no_other_up(engine: Engine, clock: Any) -> None:
    """A thousand devices of one app have waited longer than the one of another, and than the two of a third."""
    await engine.write(lambda conn, now_ms: meta.prepare(conn, now_ms, random.Random(2)))
    now_ms = clock.now_ms()
    waiting = {DeviceKey("flood", f"u{n}", "phone"): now_ms - 60_000 + n for n in range(1000)}
    waiting |= {DeviceKey("quiet", "ann", "phone"): now_ms - 5}
    waiting |= {DeviceKey("small", f"u{n}", device): now_ms - 9 + n for n in range(2) for device in ("phone", "desk")}
    waiting |= {DeviceKey("later", "ann", "phone"): now_ms + 60_000}

    def prepare(conn: Any, _: int) -> None:
        for device in waiting:
            job_rows.create_job(conn, device)
        job_rows.lower_due(conn, waiting)

    await engine.write(prepare)
    found = await engine.read(lambda conn, at_ms: job_rows.due_users(conn, at_ms, limit=6))
    flood = [("flood", f"u{n}") for n in range(3)]
    assert found[:3] == [flood[0], ("quiet", "ann"), ("small", "u0")], "in turn, of each the oldest"
    assert sorted(found) == sorted([*flood, ("quiet", "ann"), ("small", "u0"), ("small", "u1")])
