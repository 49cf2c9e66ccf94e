"""Numbers events, and sends each to the endpoints that want it, until it is delivered or the plan is over.

All it has to do is in rows; what it holds in memory are claims. Whoever dies between the POST and the settling leaves a
claim that lapses, and the event is sent again under the same id.
"""

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import structlog

from relay.backoff import around, backoff_ms
from relay.clock import Clock
from relay.errors import Unavailable
from relay.store import claims, sequencer
from relay.store.claims import Claimed
from relay.store.engine import Engine
from relay.waiting import pause
from relay.webhooks import event_body, event_types, rules, signing
from relay.webhooks.post import Post, PostFailed
from relay.webhooks.rules import Attempt
from relay.webhooks.sealed import Seals, opened
from relay.webhooks.settling import Done, settle

TOTAL_S = 15.0
ANSWER_BYTES_MAX = 4096
CLAIM_MS = 30_000
SETTLING_MS = 15_000  # a claim outlives its attempt by this at least
IN_FLIGHT_MAX = 256  # of one node; each has its connection
RESERVE = IN_FLIGHT_MAX // 4  # of these, for endpoints that have nothing in flight
NUMBER_MAX = 500  # events numbered in one transaction
POLL_S = 1.0
DRAIN_S = 5.0
STORE_AWAY_MS = (250, 5000)

log = structlog.get_logger("relay.webhooks")


class Watch(Protocol):
    """Told of each attempt that ended, and how many are under way."""

    def attempted(self, word: str, seconds: float) -> None: ...

    def in_flight(self, count: int) -> None: ...

    def late(self, count: int) -> None: ...


class NoWatch:
    """Nobody looks on."""

    def attempted(self, word: str, seconds: float) -> None: ...

    def in_flight(self, count: int) -> None: ...

    def late(self, count: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much at a time, and how often."""

    in_flight_max: int = IN_FLIGHT_MAX
    per_endpoint: int = claims.ENDPOINT_IN_FLIGHT_MAX  # over all nodes
    reserve: int = RESERVE
    number_max: int = NUMBER_MAX
    timeout_s: float = TOTAL_S
    poll_s: float = POLL_S
    drain_s: float = DRAIN_S

    @property
    def claim_ms(self) -> int:
        return max(CLAIM_MS, round(self.timeout_s * 1000) + SETTLING_MS)


@dataclass(slots=True)
class _Hands:
    """What the worker has in hand: tasks that send, results to be settled. Both together stay within in_flight_max."""

    sending: set["asyncio.Task[None]"] = field(default_factory=set)
    done: list[Done] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.sending) + len(self.done)


class WebhookWorker:
    """`run` it until it is asked to stop. `owner` is unique to this start of this process."""

    def __init__(
        self,
        engine: Engine,
        post: Post,
        seals: Seals,
        *,
        clock: Clock,
        rng: random.Random,
        owner: str,
        pace: Pace | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._engine = engine
        self._post = post
        self._seals = seals
        self._clock = clock
        self._rng = rng
        self._owner = owner
        self._pace = pace or Pace()
        self._watch = watch or NoWatch()
        self._hands = _Hands()
        self._woken = asyncio.Event()
        self._away = 0  # turns in a row that the store was away
        self._began = False

    @property
    def in_flight(self) -> int:
        return self._hands.count

    @property
    def load(self) -> tuple[int, int]:
        """Attempts under way or not settled yet, and how many may be."""
        return self._hands.count, self._pace.in_flight_max

    def nudge(self) -> None:
        """There may be something to do: look now, not within the second. From the loop's thread."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            heeding = group.create_task(self._heed(stop), name="webhooks-stop")
            while not stop.is_set():
                self._woken.clear()
                try:
                    more = await self._turn(group)
                except Unavailable as problem:
                    await self._sit_out(problem, stop)
                    continue
                self._back()
                if not more:
                    await pause(around(self._pace.poll_s, share=0.2, rng=self._rng), self._woken)
            heeding.cancel()
            await self._drain()

    async def _heed(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._woken.set()

    async def _turn(self, group: asyncio.TaskGroup) -> bool:
        """Settles, numbers, claims and begins to send. True: there is more to do at once."""
        if not self._began:
            await self._engine.write(lambda conn, _: claims.free_orphans(conn, owner=self._owner))
            self._began = True
        await self._settle()
        pace = self._pace
        numbered = await self._engine.write(
            lambda conn, now_ms: sequencer.number_events(conn, now_ms, limit=pace.number_max, wants=event_types.wants)
        )
        free = pace.in_flight_max - self._hands.count
        if free > 0:
            claimed = await self._engine.write(
                lambda conn, now_ms: claims.claim_deliveries(
                    conn,
                    now_ms,
                    owner=self._owner,
                    hold_ms=pace.claim_ms,
                    limit=free,
                    after_loss=partial(self._after_loss, now_ms),
                    reserve=pace.reserve,
                    per_endpoint=pace.per_endpoint,
                )
            )
            for one in claimed:
                task = group.create_task(self._send(one), name="webhook")
                self._hands.sending.add(task)
                task.add_done_callback(self._hands.sending.discard)
            self._watch.in_flight(self._hands.count)
        return numbered >= pace.number_max or bool(self._hands.done)

    def _after_loss(self, now_ms: int, attempts: int, again: bool) -> tuple[str, int, int | None]:
        found = rules.after_loss(attempts, again=again, rng=self._rng)
        return found.state, found.attempts, None if found.wait_ms is None else now_ms + found.wait_ms

    async def _settle(self) -> None:
        batch = list(self._hands.done)
        if not batch:
            return
        late = await self._engine.write(lambda conn, now_ms: settle(conn, now_ms, batch))
        del self._hands.done[: len(batch)]  # only now: a store that is away leaves them for the next turn
        if late:
            self._watch.late(late)

    async def _send(self, claimed: Claimed) -> None:
        began_ms = self._clock.monotonic_ms()
        try:
            attempt = await self._attempt(claimed)
        except Exception:  # one event that cannot be sent must not end the worker for all others
            log.exception("webhook.broke", endpoint=claimed.key.endpoint_id, event_id=claimed.key.event_id)
            attempt = rules.unanswered(rules.BROKE)
        done = Done(claimed, attempt, rules.after_attempt(claimed.attempts, attempt, self._rng))
        self._hands.done.append(done)
        self._watch.attempted(attempt.word, (self._clock.monotonic_ms() - began_ms) / 1000)
        log.debug(
            "webhook.attempted",
            endpoint=claimed.key.endpoint_id,
            event_id=claimed.key.event_id,
            attempt=done.next.attempts,
            result=attempt.word,
        )
        self._woken.set()

    async def _attempt(self, claimed: Claimed) -> Attempt:
        try:
            keys, headers = opened(self._seals, claimed.key.endpoint, claimed.sealed)
        except ValueError:
            log.warning("webhook.key_missing", endpoint=claimed.key.endpoint_id)
            return rules.unanswered(rules.KEY_MISSING)
        body = event_body.body_of(
            event_type=claimed.type,
            created_ms=claimed.created_ms,
            sequence=claimed.sequence,
            data=claimed.data,
            event_id=claimed.key.event_id,
        )
        now_ms = self._clock.now_ms()
        signed = signing.headers(keys, event_id=claimed.key.event_id, timestamp_s=now_ms // 1000, body=body)
        try:
            answer = await self._post(
                url=claimed.url,
                headers={**headers, "content-type": "application/json", **signed},
                body=body,
                timeout_s=self._pace.timeout_s,
                answer_bytes_max=ANSWER_BYTES_MAX,
            )
        except PostFailed as failed:
            return rules.unanswered(failed.word)
        return rules.answered(
            answer.status, truncated=answer.truncated, retry_after=answer.retry_after, now_ms=self._clock.now_ms()
        )

    async def _sit_out(self, problem: Unavailable, stop: asyncio.Event) -> None:
        """The store is away: says so once, and waits longer each time."""
        self._away += 1
        if self._away == 1:
            log.warning("webhooks.store_away", code=problem.code)
        first_ms, limit_ms = STORE_AWAY_MS
        wait_ms = backoff_ms(self._away, first_ms=first_ms, limit_ms=limit_ms, rng=self._rng)
        await pause(wait_ms / 1000, stop)

    def _back(self) -> None:
        if self._away:
            log.info("webhooks.store_back")
            self._away = 0

    async def _drain(self) -> None:
        """Waits a little for what is under way, then lets go: what is cut off is sent again, by whoever comes next."""
        tasks = list(self._hands.sending)
        if tasks:
            _, slow = await asyncio.wait(tasks, timeout=self._pace.drain_s)
            for task in slow:
                task.cancel()
            if slow:
                await asyncio.wait(slow)
        with suppress(Unavailable):  # then the claims lapse by themselves
            await self._settle()
            await self._engine.write(lambda conn, _: claims.release_claims(conn, owner=self._owner))
