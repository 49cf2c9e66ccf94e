"""A page of any timeline: what it covers, as entries and gaps, and how it is written (protocol 8.1)."""

from dataclasses import dataclass

import msgspec

from relay.model import Why

PAGE_ENTRIES_MAX, PAGE_BYTES_MAX = 200, 1024 * 1024
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A page, ready to be sent: `json` is the batch object of protocol 8.1."""

    timeline: str
    from_seq: int
    to_seq: int
    head_seq: int
    more: bool
    cursor: str
    entries: int
    json: bytes

    @property
    def caught_up(self) -> bool:
        return self.to_seq == self.head_seq


class Cover:
    """The numbers of a page as it is filled: each is named once, by an entry or by a gap."""

    def __init__(self, after: int, *, bytes_max: int = PAGE_BYTES_MAX) -> None:
        self.after = after
        self.position = after
        self.last_id: str | None = None
        self.entries: list[bytes] = []
        self.gaps: list[tuple[int, int, Why]] = []
        self._bytes_max = bytes_max
        self._size = 0

    def skip(self, upto: int, why: Why) -> None:
        """The numbers up to there carry no entry. A gap that goes on is one gap."""
        if upto <= self.position:
            return
        if self.gaps and self.gaps[-1][1] == self.position and self.gaps[-1][2] is why:
            self.gaps[-1] = (self.gaps[-1][0], upto, why)
        else:
            self.gaps.append((self.position, upto, why))
        self.position = upto

    def take(self, seq: int, id_: str, content: bytes | Why) -> bool:
        """The next number; False if the page is full. Its first entry always finds room."""
        if isinstance(content, Why):
            self.skip(seq, content)
        else:
            if self.entries and self._size + len(content) > self._bytes_max:
                return False
            self.entries.append(content)
            self._size += len(content)
            self.position = seq
        self.last_id = id_
        return True

    def batch(self, *, timeline: str, epoch8: bytes, head_seq: int, more: bool, cursor: str) -> Batch:
        """The page as it stands; no `cursor`: it moves none."""
        listed = _encode([{"from": low, "to": high, "why": why} for low, high, why in self.gaps])
        sealed = f',"cursor":"{cursor}"' if cursor else ""
        name = _encode(timeline).decode()
        head = (
            f'{{"timeline":{name},"epoch":"{epoch8.hex()}","from":{self.after},"to":{self.position},'
            f'"head":{head_seq},"entries":['
        )
        tail = f'{sealed},"more":{"true" if more else "false"}}}'
        return Batch(
            timeline=timeline,
            from_seq=self.after,
            to_seq=self.position,
            head_seq=head_seq,
            more=more,
            cursor=cursor,
            entries=len(self.entries),
            json=head.encode() + b",".join(self.entries) + b'],"gaps":' + listed + tail.encode(),
        )
