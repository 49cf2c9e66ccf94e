"""The network of the simulation does what a real one may do, and no more."""

from contextvars import Context
from typing import Any

from .draws import Draws
from .faults import KINDS, Faults
from .loop import run, sleep
from .net import Link, Net


def test_what_a_connection_has_not_carried_is_not_followed_by_anything() -> None:
    """It may go deaf in one direction, and later in the other one: then it is in both."""
    draws = Draws(0)
    faults = Faults(draws, without=KINDS)

    async def main() -> list[bytes]:
        link: Any = Link(Net(faults, draws.stream("net")), faults, Context())
        for frame in (b"1", b"2", b"3"):
            link._carry("down", link.client_got, frame)
            await sleep(1)
            link.go_deaf({b"1": "down", b"2": "up"}.get(frame, "up"))
        return list(link.down)

    assert run(main) == [b"1"]
