"""Selective acks: the numbers that a device has beyond the one up to which it has everything. All pure."""

from collections.abc import Collection, Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

RANGES_MAX = 64  # ranges of selective acks a device may have; of more, the lowest are offered again


class Acks(Struct, frozen=True):
    """What a device has acked: everything up to `acked_seq`, and ranges beyond. `again` are ranges it reported but is
    to get once more (after a rewind, or beyond 64 ranges): they count as reported, not as held. `missed` are ranges that
    its cursor passed although they had ended before it had them: the last 64."""

    ranges: tuple[tuple[int, int], ...] = ()
    again: tuple[tuple[int, int], ...] = ()
    missed: tuple[tuple[int, int], ...] = ()

    def has(self, seq: int) -> bool:
        return inside(self.ranges, seq)

    def reaching(self, seq: int) -> int:
        """Up to where it has everything, if it has all up to this number."""
        for low, high in self.ranges:  # in order
            if low <= seq + 1:
                seq = max(seq, high)
        return seq

    def reported(self, seq: int) -> bool:
        return inside(self.ranges, seq) or inside(self.again, seq)

    def missing(self, seq: int) -> bool:
        """Whether the number had ended before the device had it."""
        return inside(self.missed, seq)

    def adding(self, seqs: Iterable[int]) -> "Acks":
        kept = merged([*self.ranges, *((seq, seq) for seq in seqs)])
        forgotten = kept[: max(0, len(kept) - RANGES_MAX)]
        return replace(self, ranges=kept[len(forgotten) :], again=merged([*self.again, *forgotten]))

    def reporting(self, seq: int) -> "Acks":
        """Counts the number as reported, although it is not held."""
        return replace(self, again=merged([*self.again, (seq, seq)]))

    def passing(self, acked_seq: int) -> "Acks":
        """After a cumulative ack: what lies at or below it needs no range of its own."""
        if not self.ranges and not self.again:
            return self
        return replace(self, ranges=above(self.ranges, acked_seq), again=above(self.again, acked_seq))

    def passing_by(self, seqs: Collection[int], *, floor: int) -> "Acks":
        """These were passed, and had ended before the device had them; what is at or below the floor is kept no more."""
        if not seqs and not self.missed:
            return self
        missed = above(merged([*self.missed, *((seq, seq) for seq in seqs)]), floor)
        return replace(self, missed=missed[-RANGES_MAX:])

    def rewound(self, acked_seq: int) -> "Acks":
        """After a rebase: what was held above the new number is offered again, but was reported."""
        return replace(self, ranges=(), again=above(merged([*self.again, *self.ranges]), acked_seq))


NO_ACKS = Acks()


def inside(ranges: Sequence[tuple[int, int]], seq: int) -> bool:
    """Whether the number lies in one of these ranges."""
    return bool(ranges) and any(low <= seq <= high for low, high in ranges)  # mostly there are none


def merged(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same numbers as disjoint ranges in order."""
    out: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return tuple(out)


def above(ranges: Sequence[tuple[int, int]], seq: int) -> tuple[tuple[int, int], ...]:
    """What of these ranges lies above a number."""
    return tuple((max(low, seq + 1), high) for low, high in ranges if high > seq)
