"""Steps that a message takes by its own deadlines while a receiver has not acked it (protocol 7.5). All pure.

Deadlines count from when the receiver's entry was made, not from the first push: what they bound is how long the sender waits for
an ack, and a push that no vendor takes is the more reason to go on.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from relay.clock import rfc3339


class Step(Struct, frozen=True):
    """`next_address`: pushed through the device's next address; `webhook`: the backend is told."""

    after_s: int
    by: Literal["next_address", "webhook"]


_decode = msgspec.json.Decoder(tuple[Step, ...]).decode
_encode = msgspec.json.Encoder().encode


def to_store(steps: Sequence[Step]) -> str:
    """The form in a message's row."""
    return _encode(steps).decode()


def from_store(text: str) -> tuple[Step, ...]:
    return _decode(text)


def next_ms(steps: Sequence[Step], done: int, accepted_ms: int) -> int | None:
    """When the step after the first `done` is to be taken; None: there is none."""
    return accepted_ms + steps[done].after_s * 1000 if done < len(steps) else None


def due(steps: Sequence[Step], done: int, accepted_ms: int, now_ms: int) -> tuple[Step, ...]:
    """The steps to take now: more than one if the relay was away when they fell due."""
    return tuple(step for step in steps[done:] if accepted_ms + step.after_s * 1000 <= now_ms)


def pushed(steps: Sequence[Step], done: int) -> int:
    """How many of the first `done` push again."""
    return sum(step.by == "next_address" for step in steps[:done])


def described(steps: Sequence[Step], done: int, accepted_ms: int, *, over: bool) -> list[dict[str, Any]]:
    """For the trace. `over`: what has not been taken never will be."""
    return [
        {
            "after_s": step.after_s,
            "by": step.by,
            "at": rfc3339(accepted_ms + step.after_s * 1000),
            "state": "done" if index < done else "not_needed" if over else "waiting",
        }
        for index, step in enumerate(steps)
    ]
