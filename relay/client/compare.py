"""Comparing the cache with what the relay says it should hold, round by round (protocol 8.7). Pure.

The first question is about everything, in 16 parts; to prove an upgrade, one before it asks as of when. Parts that differ are
asked again in smaller ones, until the relay lists what it has of them. What the cache lacks is then fetched by range; what
only the cache has is told, not dropped, and left out when it compares once more to prove that it lacks nothing.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from relay.client.fingerprints import Extent, Row, Span, joined, sum_of, within
from relay.client.wire import Verification

ROUNDS_MAX = 8
RANGES_MAX = 256
RowsOf = Callable[[str | None], Sequence[Row]]  # what counts as of an instant (RFC 3339; None: now)


@dataclass(slots=True, kw_only=True)
class Comparison:
    """One comparison: `request` gives the next question, `answered` takes its answer, until `request` gives None."""

    extent: Extent
    rows_of: RowsOf
    purpose: str = "cache"
    upgrade: str | None = None
    beside: Collection[Row] = ()  # not counted: an earlier comparison has shown that the relay does not
    mended: bool = False  # what an earlier comparison found lacking has been fetched
    rounds: int = 0
    lacking: list[Span] = field(default_factory=list)  # to be fetched
    extra: list[Row] = field(default_factory=list)
    state: str | None = None  # the relay's verdict, once it has one
    _as_of: str | None = None
    _rows: Sequence[Row] = ()
    _asked: list[Span] = field(default_factory=list)
    _said: int = 0  # how many of them the last request was about

    def __post_init__(self) -> None:
        whole = Span(self.extent.from_seq, self.extent.to_seq)
        self._asked = whole.parts() if whole.high > whole.low else []
        self._rows = self._counting(None)

    def _counting(self, as_of: str | None) -> list[Row]:
        return [row for row in self.rows_of(as_of) if row not in self.beside]

    def request(self) -> dict[str, Any] | None:
        """The body of the next `POST /v1/device/verify`; None when all is known, or eight rounds were not enough."""
        # Where there is nothing to compare, an upgrade is proved by saying so.
        if not self._asked and (self.rounds or self.upgrade is None):
            return None
        if self.rounds >= ROUNDS_MAX:
            self.lacking += self._asked  # fetched whole instead
            self._asked = []
            return None
        self.rounds += 1
        # What has expired is for the relay's clock to say: by a clock that is wrong, an upgrade would seem to have lost messages.
        self._said = 0 if self.upgrade is not None and self._as_of is None else min(len(self._asked), RANGES_MAX)
        body: dict[str, Any] = {
            "cursor": self.extent.cursor,
            "ranges": [self._range(span) for span in self._asked[: self._said]],
            "purpose": self.purpose,
        }
        if self._as_of is not None:
            body["as_of"] = self._as_of
        if self.mended:
            body["mended"] = True
        if self.upgrade is not None:
            body["upgrade"] = self.upgrade
        return body

    def report(self, extra: int) -> dict[str, Any]:
        """The body that tells the relay how many messages only the cache has."""
        return {"cursor": self.extent.cursor, "ranges": [], "as_of": self._as_of, "extra": extra}

    def _range(self, span: Span) -> dict[str, Any]:
        total = sum_of(within(self._rows, span))
        return {"from": span.low, "to": span.high, "n": total.n, "fp": total.fp}

    def answered(self, answer: Verification) -> None:
        """Takes the answer to the last request."""
        if self._as_of is None:
            self._as_of = answer.as_of
            self._rows = [row for row in self._counting(self._as_of) if row.seq > answer.floor]
        self.state = answer.state or self.state
        later = self._asked[self._said :]
        again: list[Span] = []
        for one in answer.ranges:
            span = Span(one.from_, one.to)
            match one.result:
                case "split":
                    again += span.parts()
                case "items":
                    self._listed(span, [Row(*item) for item in one.items])
        self._asked = again + later

    def _listed(self, span: Span, theirs: Sequence[Row]) -> None:
        ours = within(self._rows, span)
        here = set(ours)
        there = set(theirs)
        self.lacking += [Span(row.seq - 1, row.seq) for row in theirs if row not in here]
        self.extra += [row for row in ours if row not in there]

    def to_fetch(self) -> list[Span]:
        """What the cache lacks, neighbours together."""
        return joined(self.lacking)
