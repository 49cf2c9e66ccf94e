"""The shared timelines that a client follows: how far it holds each, and what to say of them. Pure (protocol §12.5).

They stand beside the inbox and never in its way: a cursor of theirs that is no good begins that timeline anew, and what
they bring is kept where its range begins, with its cursor in one transaction, as the inbox's pages are.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from relay.client.rules import Verdict, judge
from relay.client.steps import NOWHERE, Position
from relay.client.wire import Page

FOLLOWED_MAX = 50  # of more, the relay refuses the whole request: a poll, and with it the inbox's page
QUERY_CHARS = 7500  # the relay reads request lines of 8190


@dataclass(frozen=True, slots=True)
class Portion:
    """What one request asks for: cursors, and names of those that are read for the first time."""

    cursors: tuple[str, ...] = ()
    new: tuple[str, ...] = ()

    @classmethod
    def of(cls, asked: Sequence[tuple[str, Position]]) -> "Portion":
        cursors = tuple(at.cursor for _, at in asked if at.cursor is not None)
        return cls(cursors, tuple(name for name, at in asked if at.cursor is None))

    def frame(self, ref: str) -> dict[str, Any]:
        """What has the relay send these on a socket."""
        return {"type": "follow", "ref": ref, "shared": list(self.cursors), "open": list(self.new)}

    def query(self) -> "Portion":
        """The same with as many of the names as a query has room for."""
        room = QUERY_CHARS - len(urlencode([("shared", one) for one in self.cursors]))
        some = []
        for name in self.new:
            length = len("&" + urlencode({"open": name}))
            if length <= room:
                some.append(name)
                room -= length
        return Portion(self.cursors, tuple(some))


@dataclass(slots=True)
class Follows:
    """By conversation. One that was refused is not asked for again on this connection.

    A cache of an earlier version may follow more than the relay takes at once: they are asked for in portions. A poll has each
    in its turn; a socket is refused those that are too many by name, and a stream leaves them to the polls beside it.
    """

    positions: dict[str, Position] = field(default_factory=dict)
    left: bool = False  # the last query had no room for some
    _acked: dict[str, str | None] = field(default_factory=dict)  # the last cursor that was acked on this connection
    _refused: set[str] = field(default_factory=set)
    _polls: int = 0

    def __bool__(self) -> bool:
        return any(True for _ in self._asked())

    def _asked(self) -> Iterator[tuple[str, Position]]:
        return ((name, at) for name, at in sorted(self.positions.items()) if name not in self._refused)

    def begin(self) -> None:
        """A connection opens."""
        self._acked.clear()
        self._refused.clear()

    def portions(self, *names: str) -> list[Portion]:
        """These, or all of them, in as few requests as the relay takes."""
        asked = [(name, at) for name, at in self._asked() if not names or name in names]
        return [Portion.of(asked[start : start + FOLLOWED_MAX]) for start in range(0, len(asked), FOLLOWED_MAX)]

    def turn(self) -> Portion:
        """What the next query asks for: each portion in its turn. Some have cursors when those that are `left` are asked for."""
        portions = self.portions() or [Portion()]
        portion = portions[self._polls % len(portions)]
        self._polls += 1
        query = portion.query()
        self.left = query != portion
        return query

    def refused(self, refusal: Mapping[str, Any]) -> str | None:
        """The name of what was refused, which is not asked for again; None if it is none of ours."""
        name = refusal.get("conversation") or next(
            (name for name, at in self.positions.items() if at.cursor == refusal.get("cursor")), None
        )
        if name is not None:
            self._refused.add(name)
        return name

    def judged(self, page: Page) -> tuple[Verdict, Position]:
        """What becomes of a page, and where the database must stand for it to be kept."""
        at = self.positions.get(page.timeline)
        if at is None:
            return Verdict.KNOWN, NOWHERE
        if at.cursor is None:  # the first page of all begins wherever the relay lets us in
            return judge_first(page), at
        return judge(at, page), at

    # --- acks ---

    @property
    def unacked(self) -> bool:
        return any(self._to_ack())

    def _to_ack(self) -> Iterator[str]:
        return (name for name, at in self._asked() if at.cursor is not None and self._acked.get(name) != at.cursor)

    def ack(self) -> dict[str, Any]:
        """The part of an ack that says what is stored of them; empty if that has been said."""
        names = list(self._to_ack())[:FOLLOWED_MAX]
        self._acked.update({name: self.positions[name].cursor for name in names})
        return {"shared": [self.positions[name].cursor for name in names]} if names else {}

    def unsaid(self) -> None:
        """What was acked was not heard."""
        self._acked.clear()


def judge_first(page: Page) -> Verdict:
    return Verdict.KEEP if page.covers() and page.cursor is not None else Verdict.BROKEN
