"""What a webhook decides: what an answer means, when a delivery is tried again, how an endpoint fares. Pure.

A delivery:  waiting → delivered ● | waiting (by the plan) | abandoned ●
An endpoint: active → failing (a failure) → active (a success) | disabled (410, or 120 h of only failures)
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

from relay.backoff import around
from relay.ids import Rng

# --- what an answer means ---------------------------------------------------------------------------------------------


class Effect(StrEnum):
    """What an attempt means for its delivery."""

    DELIVERED = "delivered"
    RETRY = "retry"
    RETRY_SLOWLY = "retry_slowly"  # the other side is overwhelmed: at least a minute
    GONE = "gone"  # never again, and nothing else to this endpoint either
    NOT_TRIED = "not_tried"  # we could not even try: no attempt was burnt


# Words for attempts without an answer. With `status_<n>` they are all that a tenant ever sees (safety SEC-8, rule 6).
ADDRESS_DENIED: Final = "endpoint_address_denied"
ANSWER_TOO_LARGE: Final = "answer_too_large"
KEY_MISSING: Final = "key_missing"
BROKE: Final = "relay_error"
LOST: Final = "relay_ended"  # the word that the store keeps, too
EFFECT_OF_WORD: Final[dict[str, Effect]] = {
    "timeout": Effect.RETRY_SLOWLY,
    "connect_failed": Effect.RETRY,
    "dns_failed": Effect.RETRY,
    "tls_failed": Effect.RETRY,
    ADDRESS_DENIED: Effect.RETRY,  # names change their addresses: it may be right again tomorrow
    ANSWER_TOO_LARGE: Effect.RETRY,  # a 2xx that does not end is none (safety B098)
    KEY_MISSING: Effect.NOT_TRIED,  # the operator's key is missing
    BROKE: Effect.RETRY,  # our own mistake about this one; the plan ends it if it never goes right
    LOST: Effect.RETRY,  # the process ended in the middle of it, and perhaps because of it
}
EFFECT_OF_STATUS: Final[dict[int, Effect]] = {410: Effect.GONE, 429: Effect.RETRY_SLOWLY}
EFFECT_OF_CLASS: Final[dict[int, Effect]] = {
    1: Effect.RETRY,
    2: Effect.DELIVERED,  # these alone count
    3: Effect.RETRY,  # a redirect is never followed
    4: Effect.RETRY,  # also 400 and 404: receivers are deployed wrongly, and mended
    5: Effect.RETRY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How one attempt went: its word for the log, what it means, what the receiver wished."""

    word: str
    effect: Effect
    retry_after_ms: int | None = None


def answered(status: int, *, truncated: bool, retry_after: str | None, now_ms: int) -> Attempt:
    """The attempt that got this answer. `truncated`: its body went on beyond what is read."""
    effect = EFFECT_OF_STATUS.get(status) or EFFECT_OF_CLASS.get(status // 100, Effect.RETRY)
    if effect is Effect.DELIVERED and truncated:
        return unanswered(ANSWER_TOO_LARGE)
    return Attempt(word=f"status_{status}", effect=effect, retry_after_ms=retry_after_ms(retry_after, now_ms=now_ms))


def unanswered(word: str) -> Attempt:
    """The attempt that got no answer, by a key of EFFECT_OF_WORD."""
    return Attempt(word=word, effect=EFFECT_OF_WORD[word])


def retry_after_ms(text: str | None, *, now_ms: int) -> int | None:
    """The wait that a Retry-After header asks for (RFC 9110 §10.2.3: seconds or a date); None if it says nothing."""
    if text is None or len(text) > 64:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(int(text), 10**9) * 1000
    try:
        at = parsedate_to_datetime(text)
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return max(0, round(at.timestamp() * 1000) - now_ms)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


# --- when it is tried again -------------------------------------------------------------------------------------------

PLAN_S: Final = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)  # before each attempt: 75 h 35 min
ATTEMPTS_MAX: Final = len(PLAN_S)
JITTER = 0.2
SLOW_MS = 60_000
NOT_TRIED_MS = 60_000


class DeliveryState(StrEnum):
    """Where a delivery stands; the last two are final."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    ABANDONED = "abandoned"


# What an attempt leaves: with tries left, and with none.
AFTER_ATTEMPT: Final[dict[Effect, tuple[DeliveryState, DeliveryState]]] = {
    Effect.DELIVERED: (DeliveryState.DELIVERED, DeliveryState.DELIVERED),
    Effect.RETRY: (DeliveryState.WAITING, DeliveryState.ABANDONED),
    Effect.RETRY_SLOWLY: (DeliveryState.WAITING, DeliveryState.ABANDONED),
    Effect.GONE: (DeliveryState.ABANDONED, DeliveryState.ABANDONED),
    Effect.NOT_TRIED: (DeliveryState.WAITING, DeliveryState.WAITING),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """What becomes of a delivery. `wait_ms` is None when it is done."""

    state: DeliveryState
    attempts: int
    wait_ms: int | None


def after_attempt(attempts: int, attempt: Attempt, rng: Rng) -> Next:
    """What becomes of a delivery that had `attempts` before this one."""
    if attempt.effect is not Effect.NOT_TRIED:
        attempts += 1
    state = AFTER_ATTEMPT[attempt.effect][attempts >= ATTEMPTS_MAX]
    if state is not DeliveryState.WAITING:
        return Next(state=state, attempts=attempts, wait_ms=None)
    return Next(state=state, attempts=attempts, wait_ms=wait_ms(attempts, attempt, rng))


def after_loss(attempts: int, *, again: bool, rng: Rng) -> Next:
    """What becomes of a delivery whose process ended in the middle of an attempt, which counts: perhaps it did that (FLT-23).

    `again`: so did the one before. Only then it has to wait, by the plan: more and more alone, and in the end no more.
    """
    found = after_attempt(attempts, unanswered(LOST), rng)
    return found if again or found.wait_ms is None else replace(found, wait_ms=0)


def wait_ms(attempts: int, attempt: Attempt, rng: Rng) -> int:
    """How long the next attempt is away, after `attempts`: the plan ± 20 %, stretched up to twofold on request."""
    if attempt.effect is Effect.NOT_TRIED:
        return round(around(NOT_TRIED_MS, share=JITTER, rng=rng))
    planned = around(PLAN_S[attempts] * 1000, share=JITTER, rng=rng)
    if attempt.effect is Effect.RETRY_SLOWLY and planned < SLOW_MS:
        planned = SLOW_MS * rng.uniform(1, 1 + JITTER)
    if attempt.retry_after_ms is not None:
        planned = min(max(planned, attempt.retry_after_ms), 2 * planned)
    return round(planned)


# --- how an endpoint fares --------------------------------------------------------------------------------------------

FAILING_MS_MAX: Final = 120 * 3_600_000


class EndpointState(StrEnum):
    """How an endpoint fares."""

    ACTIVE = "active"
    FAILING = "failing"
    DISABLED = "disabled"


class Signal(StrEnum):
    """What moves an endpoint's state."""

    SUCCESS = "success"
    FAILURE = "failure"
    FAILURE_LAST = "failure_last"  # a failure, after 120 h of nothing else
    GONE = "gone"
    ENABLE = "enable"  # by hand, here and below
    DISABLE = "disable"


A, F, D = EndpointState.ACTIVE, EndpointState.FAILING, EndpointState.DISABLED
AFTER_SIGNAL: Final[dict[tuple[EndpointState, Signal], EndpointState]] = {
    (A, Signal.SUCCESS): A,
    (A, Signal.FAILURE): F,
    (A, Signal.FAILURE_LAST): F,  # cannot be: an active endpoint has not begun to fail
    (A, Signal.GONE): D,
    (F, Signal.SUCCESS): A,
    (F, Signal.FAILURE): F,
    (F, Signal.FAILURE_LAST): D,
    (F, Signal.GONE): D,
    (D, Signal.SUCCESS): D,  # an answer to what was under way
    (D, Signal.FAILURE): D,
    (D, Signal.FAILURE_LAST): D,
    (D, Signal.GONE): D,
    (A, Signal.ENABLE): A,
    (F, Signal.ENABLE): A,
    (D, Signal.ENABLE): A,
    (A, Signal.DISABLE): D,
    (F, Signal.DISABLE): D,
    (D, Signal.DISABLE): D,
}
SIGNAL_OF: Final[dict[Effect, Signal | None]] = {
    Effect.DELIVERED: Signal.SUCCESS,
    Effect.RETRY: Signal.FAILURE,
    Effect.RETRY_SLOWLY: Signal.FAILURE,
    Effect.GONE: Signal.GONE,
    Effect.NOT_TRIED: None,
}
# Of several results that are settled together, the weightiest first: the order in which they came is not known.
WEIGHT: Final = (Signal.GONE, Signal.SUCCESS, Signal.FAILURE)


@dataclass(frozen=True, slots=True)
class Health:
    """How an endpoint fares; `failing_since_ms` is set exactly while it fails (and kept when that disabled it)."""

    state: EndpointState
    failing_since_ms: int | None = None


def signal_of(effects: Iterable[Effect]) -> Signal | None:
    """The one signal of several results of one endpoint."""
    signals = {SIGNAL_OF[effect] for effect in effects}
    return next((signal for signal in WEIGHT if signal in signals), None)


def after_signal(health: Health, signal: Signal, *, now_ms: int) -> Health:
    """The endpoint's health after `signal`."""
    since_ms = health.failing_since_ms
    if signal is Signal.FAILURE and since_ms is not None and now_ms - since_ms >= FAILING_MS_MAX:
        signal = Signal.FAILURE_LAST
    state = AFTER_SIGNAL[health.state, signal]
    if state is EndpointState.ACTIVE:
        return Health(state)
    if state is EndpointState.FAILING and health.state is EndpointState.ACTIVE:
        since_ms = now_ms
    return Health(state, since_ms)
