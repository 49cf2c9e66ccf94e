"""How long what is new waits for a connection that could take it (I41): for a lost hint no longer than one poll.

Hints only make haste. So while they get lost, and nothing else is wrong with the relay or its store, each connection has been
sent whatever its window has room for when the next poll is over. It looks when something is committed, and at times only.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from relay.realtime.session import Session

from .client import Broken
from .loop import now_s
from .net import Link

POLL_S = 6.0  # at most (protocol 6.5, F9)
READ_S = 1.5  # and what is found has to be read
LOOK_S = 2.0
RECOVERS_S = 60.0  # who was told that the store is away looks again with its next ping, or heartbeat
OTHER_WRONGS = (
    *("read_fails", "commit_unknown", "store_away", "store_restored"),
    *("node_crash", "node_restart", "node_pause", "renamed", "erased"),
)


class Delays:
    """Of the connections of a run."""

    def __init__(self) -> None:
        self._behind: dict[Session, tuple[int, float]] = {}  # what it had been sent when it was seen so, and since when
        self._wrongs = 0
        self._next_s = 0.0

    def look(
        self,
        connections: Iterable[tuple[Session, Link]],
        heads: Mapping[tuple[str, str], tuple[str, int, int, int]],
        fired: Counter[str],
    ) -> None:
        """`heads`: the inboxes, as they are; `fired`: the faults that have struck. Raises Broken."""
        now = now_s()
        if now < self._next_s:
            return
        self._next_s = now + LOOK_S
        wrongs = sum([fired.get(kind, 0) for kind in OTHER_WRONGS])
        if wrongs != self._wrongs:
            self._wrongs, self._next_s = wrongs, now + RECOVERS_S
            self._behind.clear()
            return
        behind = {}
        for session, link in connections:
            pump, inbox = getattr(session, "_pump", None), heads.get(session.device.user)
            if pump is None or inbox is None or link.slow is not None or pump.shut or pump.sent_seq >= inbox[1]:
                continue
            if pump._writer.closed:  # nothing more goes by it, though its end is still on the way
                continue
            sent, since_s = self._behind.get(session, (-1, now))
            if sent != pump.sent_seq:
                since_s = now
            elif now - since_s > POLL_S + READ_S:
                raise Broken(
                    f"I41: {session.device} was sent {sent} of {inbox[1]}, and no more for {now - since_s:.1f} s"
                )
            behind[session] = pump.sent_seq, since_s
        self._behind = behind
