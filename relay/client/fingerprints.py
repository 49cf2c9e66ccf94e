"""Fingerprints of what a cache holds, to compare it with the relay's view without sending either (protocol 8.7). Pure."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

BITS = 128
PARTS = 16


def fingerprint(seq: int, id_: str, h: str) -> int:
    """Of one entry: the first 16 bytes of the SHA-256 of `seq|id|h`."""
    return int.from_bytes(hashlib.sha256(f"{seq}|{id_}|{h}".encode()).digest()[:16], "big")


@dataclass(frozen=True, slots=True)
class Span:
    """The numbers (low, high]."""

    low: int
    high: int

    def parts(self, n: int = PARTS) -> list["Span"]:
        """The span in at most `n` parts of nearly the same length."""
        size = self.high - self.low
        cuts = sorted({self.low + size * i // n for i in range(n + 1)})
        return [Span(low, high) for low, high in pairwise(cuts)]


def joined(spans: Iterable[Span], *, near: int = 0) -> list[Span]:
    """The same numbers in fewer spans, in order: neighbours together, and those that are at most `near` numbers apart."""
    out: list[Span] = []
    for span in sorted(spans, key=lambda one: one.low):
        if out and span.low <= out[-1].high + near:
            out[-1] = Span(out[-1].low, max(out[-1].high, span.high))
        else:
            out.append(span)
    return out


@dataclass(frozen=True, slots=True)
class Extent:
    """The numbers of this lineage that the cache can be compared over: (from, to]."""

    from_seq: int
    to_seq: int
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """What counts of an entry."""

    seq: int
    id: str
    h: str


@dataclass(frozen=True, slots=True)
class Sum:
    """How many entries a span holds, and the sum of their fingerprints modulo 2^128, in hex."""

    n: int
    fp: str


def sum_of(rows: Iterable[Row]) -> Sum:
    n, total = 0, 0
    for row in rows:
        n += 1
        total += fingerprint(row.seq, row.id, row.h)
    return Sum(n, f"{total % (1 << BITS):032x}")


def within(rows: Sequence[Row], span: Span) -> list[Row]:
    return [row for row in rows if span.low < row.seq <= span.high]
