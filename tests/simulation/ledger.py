"""What a client's database has of each number, as far as a comparison counts it (protocol 8.7). Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from relay.client.wire import instant_ms


@dataclass(slots=True)
class Line:
    """An entry that came with a body."""

    id: str
    h: str
    expires_ms: int
    collapse_key: str | None
    ended_by: int | None = None


@dataclass(slots=True)
class Ledger:
    """The lines of one numbering."""

    base: int = 0  # where the last resync had the client begin
    floor: int = 0
    lines: dict[int, Line] = field(default_factory=dict)
    own: set[int] = field(default_factory=set)  # sent in this phone's name, and never here

    def begin(self, at: int, floor: int, *, anew: bool) -> None:
        """A resync, or a refused cursor. `anew`: under another epoch, in which old numbers mean nothing."""
        if anew:
            self.lines, self.own = {}, set()
        self.base, self.floor = at, floor

    def enter(self, entry: dict[str, Any]) -> None:
        seq, id_ = entry["seq"], entry["id"]
        if entry["kind"] == "recall":
            self._end(seq, lambda line: line.id in entry["of"])
        if "h" not in entry:
            return
        if entry["kind"] == "release":
            self._end(seq, lambda line: line.id == id_)
        self.own.discard(seq)
        known, expires_ms, key = self.lines.get(seq), instant_ms(entry["expires_at"]), entry["collapse_key"]
        assert expires_ms is not None
        self.lines[seq] = Line(id_, entry["h"], expires_ms, key, None if known is None else known.ended_by)
        if key is not None and entry["kind"] == "message":
            self._end(seq, lambda line: line.collapse_key == key)

    def _end(self, seq: int, concerned: Any) -> None:
        for at, line in self.lines.items():
            if at < seq and line.ended_by is None and concerned(line):
                line.ended_by = seq

    def counting(self, low: int, high: int, as_of_ms: int) -> Iterator[tuple[int, Line]]:
        """Those of (low, high] that are not over."""
        for seq, line in sorted(self.lines.items()):
            if low < seq <= high and line.ended_by is None and line.expires_ms > as_of_ms:
                yield seq, line
