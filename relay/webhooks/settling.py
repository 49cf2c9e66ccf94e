"""What attempts mean, in one transaction: for their deliveries, and for the health of their endpoints."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from relay.clock import rfc3339
from relay.store import claims, endpoints
from relay.store.claims import Claimed, Settled
from relay.store.endpoints import EndpointKey
from relay.store.engine import Conn
from relay.store.events import NewEvent, derived_id, emit
from relay.webhooks import rules
from relay.webhooks.rules import Attempt, EndpointState, Health, Next, Signal


@dataclass(frozen=True, slots=True)
class Done:
    """An attempt that ended, and what becomes of its delivery."""

    claimed: Claimed
    attempt: Attempt
    next: Next


def settle(conn: Conn, now_ms: int, done: Sequence[Done]) -> int:
    """Writes results and what they mean for their endpoints. Gives how many came too late and were dropped."""
    results = [
        Settled(
            key=one.claimed.key,
            claim=one.claimed.claim,
            claim_token=one.claimed.claim_token,
            state=one.next.state,
            attempts=one.next.attempts,
            due_ms=None if one.next.wait_ms is None else now_ms + one.next.wait_ms,
            result=one.attempt.word,
        )
        for one in done
    ]
    # Endpoints are locked before their deliveries, as a replay does it. Hardly ever is there one to lock.
    signals = _signals(done)
    endpoints.health_of(conn, _moving(conn, now_ms, signals).keys(), lock=True)
    kept = {(one.key, one.claim_token) for one in claims.settle_deliveries(conn, now_ms, results)}
    in_time = [one for one in done if (one.claimed.key, one.claimed.claim_token) in kept]
    judge(conn, now_ms, signals if len(in_time) == len(done) else _signals(in_time))
    return len(done) - len(in_time)


def _signals(done: Iterable[Done]) -> dict[EndpointKey, Signal]:
    effects: dict[EndpointKey, list[rules.Effect]] = {}
    for one in done:
        effects.setdefault(one.claimed.key.endpoint, []).append(one.attempt.effect)
    return {key: signal for key, found in effects.items() if (signal := rules.signal_of(found)) is not None}


Moving = dict[EndpointKey, tuple[Health, Health]]  # before and after


def _moving(conn: Conn, now_ms: int, signals: Mapping[EndpointKey, Signal], *, lock: bool = False) -> Moving:
    """The endpoints whose health these signals change."""
    found = {}
    for key, (state, since_ms) in endpoints.health_of(conn, signals.keys(), lock=lock).items():
        before = Health(EndpointState(state), since_ms)
        after = rules.after_signal(before, signals[key], now_ms=now_ms)
        if after != before:
            found[key] = before, after
    return found


def judge(conn: Conn, now_ms: int, signals: Mapping[EndpointKey, Signal]) -> None:
    """Moves endpoints to the state that follows from these signals; tells of those that this disables."""

    moving = _moving(conn, now_ms, signals)
    if moving:  # looked at without a lock first; what is written is decided under it
        moving = _moving(conn, now_ms, {key: signals[key] for key in moving}, lock=True)
    for key, (_, after) in moving.items():
        endpoints.set_health(conn, key, state=after.state, failing_since_ms=after.failing_since_ms)
    emit(conn, now_ms, [_disabled(key, after, signals[key], now_ms) for key, after in _newly_disabled(moving)])


def _newly_disabled(moving: Moving) -> Iterable[tuple[EndpointKey, Health]]:
    for key, (before, after) in moving.items():
        if after.state is EndpointState.DISABLED and before.state is not EndpointState.DISABLED:
            yield key, after


REASON_OF_SIGNAL = {Signal.GONE: "gone", Signal.FAILURE: "failing", Signal.DISABLE: "by_hand"}


def _disabled(key: EndpointKey, health: Health, signal: Signal, now_ms: int) -> NewEvent:
    since_ms = health.failing_since_ms
    return NewEvent(
        app_id=key.app_id,
        event_id=derived_id("evt_", "endpoint.disabled", *key, now_ms),
        type="endpoint.disabled",
        data={
            "endpoint_id": key.endpoint_id,
            "reason": REASON_OF_SIGNAL[signal],
            "failing_since": None if since_ms is None else rfc3339(since_ms),
        },
    )
