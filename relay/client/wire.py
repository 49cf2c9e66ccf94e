"""What comes over the wire, as a client reads it: pages, entries, and everything else as plain dictionaries. Pure.

Entries keep the text that they came in, so that a body's hash can be computed again from what is stored.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

HASHED_CHARS = 16  # of `h`: the first 8 bytes of a SHA-256, in hex
CARRIES_BODY = frozenset({"message", "own", "release", "pointer"})
KNOWN_KINDS = CARRIES_BODY | {"recall", "read", "notice"}


class Conversation(msgspec.Struct, frozen=True):
    """The conversation of a message, as the app's backend named it."""

    type: str = "direct"
    id: str | None = None


class Sender(msgspec.Struct, frozen=True):
    """Who wrote a message."""

    user: str
    device: str | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of an inbox. Fields that its kind does not have are None or empty; unknown ones are ignored."""

    seq: int
    id: str
    kind: str
    h: str | None = None
    accepted_at: str | None = None
    expires_at: str | None = None
    conversation: Conversation | str | None = None  # of a `read` entry: the id alone
    sender: Sender | None = None
    type: str | None = None
    body: msgspec.Raw = msgspec.Raw()
    form: str = "full"
    priority: str = "normal"
    collapse_key: str | None = None
    client_ref: str | None = None
    of: tuple[str, ...] = ()  # of a `recall`: the messages taken back
    read_seq: int | None = None

    @property
    def carries_body(self) -> bool:
        return bool(bytes(self.body))

    @property
    def conversation_id(self) -> str | None:
        return self.conversation if isinstance(self.conversation, str | None) else self.conversation.id


@dataclass(frozen=True, slots=True)
class Received:
    """An entry beside the text that it came in."""

    entry: Entry
    raw: str


class Gap(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """Numbers (from, to] that were skipped, and why."""

    from_: int
    to: int
    why: str


class _Bare(msgspec.Struct):
    seq: int
    id: str
    kind: str


class _Page(msgspec.Struct, rename={"from_": "from"}):
    epoch: str
    from_: int
    to: int
    head: int
    entries: list[msgspec.Raw]
    gaps: list[Gap]
    timeline: str = "inbox"
    cursor: str | None = None
    more: bool = False
    caught_up: bool = False
    fill: bool = False
    ref: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A batch: it covers the numbers (from, to] of a timeline, each once, by its entries and its gaps."""

    timeline: str
    epoch: str
    from_seq: int
    to_seq: int
    head_seq: int
    received: Sequence[Received]
    gaps: Sequence[Gap]
    cursor: str | None
    more: bool
    caught_up: bool
    fill: bool = False
    ref: str | None = None

    @property
    def urgent(self) -> bool:
        return any(one.entry.priority == "urgent" for one in self.received)

    def covers(self) -> bool:
        """Whether it names every number of its range exactly once, entries in order: only then may a cursor follow it."""
        position = self.from_seq
        entries = iter(one.entry.seq for one in self.received)
        gaps = iter(self.gaps)
        entry, gap = next(entries, None), next(gaps, None)
        while entry is not None or gap is not None:
            if entry == position + 1:
                position, entry = entry, next(entries, None)
            elif gap is not None and gap.from_ == position and gap.to > position:
                position, gap = gap.to, next(gaps, None)
            else:
                return False
        return position == self.to_seq


class ComparedRange(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """What the relay says of the numbers (from, to]: `same`, `split`, or `items`, each (seq, id, h), that it counts there."""

    from_: int
    to: int
    result: str
    items: list[tuple[int, str, str]] = []


class Verification(msgspec.Struct, frozen=True):
    """The relay's answer in a comparison of caches (protocol 8.7). `state` is the upgrade's."""

    as_of: str
    floor: int
    ranges: list[ComparedRange]
    state: str | None = None


Frame = dict[str, Any] | Page
_page = msgspec.json.Decoder(_Page)
_entry = msgspec.json.Decoder(Entry)
_bare = msgspec.json.Decoder(_Bare)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_verification = msgspec.json.Decoder(Verification)


def page(raw: bytes | msgspec.Raw, *, caught_up: bool | None = None) -> Page:
    """Reads a batch object. Raises ValueError (msgspec's errors are some) for what is none."""
    one = _page.decode(raw)
    return Page(
        timeline=one.timeline,
        epoch=one.epoch,
        from_seq=one.from_,
        to_seq=one.to,
        head_seq=one.head,
        received=[Received(_read_entry(bytes(text)), bytes(text).decode()) for text in one.entries],
        gaps=one.gaps,
        cursor=one.cursor,
        more=one.more,
        caught_up=one.caught_up if caught_up is None else caught_up,
        fill=one.fill,
        ref=one.ref,
    )


def _read_entry(raw: bytes) -> Entry:
    try:
        return _entry.decode(raw)
    except msgspec.ValidationError:  # a newer relay's, with fields of other types: kept raw, by its number and id
        one = _bare.decode(raw)
        return Entry(seq=one.seq, id=one.id, kind=one.kind if one.kind not in KNOWN_KINDS else "unreadable")


def frame(raw: bytes) -> Frame:
    """Reads a socket's frame: a Page if it is a batch. Raises ValueError."""
    fields = _object.decode(raw)
    if "type" in fields and msgspec.json.decode(fields["type"]) == "batch":
        return page(raw)
    plain: dict[str, Any] = msgspec.json.decode(raw)
    return plain


def pages(answer: bytes) -> tuple[list[Page], dict[str, Any]]:
    """The pages of an answer to sync, and its other fields. Raises ValueError."""
    fields = _object.decode(answer)
    if "batches" not in fields:
        raise ValueError("not an answer to sync")
    batches = msgspec.json.decode(fields.pop("batches"), type=list[msgspec.Raw])
    rest = {name: msgspec.json.decode(raw) for name, raw in fields.items()}
    read = [page(raw) for raw in batches]
    return [replace(one, caught_up=one.to_seq >= one.head_seq) for one in read], rest


def ranged(answer: bytes) -> Page:
    """The one page of an answer to sync about a range. Raises ValueError."""
    (one,) = pages(answer)[0]
    return one


def verification(answer: bytes) -> Verification:
    """The answer to a comparison. Raises ValueError."""
    read = _verification.decode(answer)
    instant_ms(read.as_of)
    return read


def stored_entry(raw: str) -> Entry:
    """An entry from the text that was kept of it. Raises ValueError if the text has rotted."""
    return _read_entry(raw.encode())


def hash_of(body: bytes | msgspec.Raw) -> str:
    """`h` of a body as it came: the first 8 bytes of its SHA-256, in hex (protocol 2.1)."""
    return hashlib.sha256(bytes(body)).hexdigest()[:HASHED_CHARS]


def instant_ms(text: str | None) -> int | None:
    """`2026-05-03T09:12:44.018Z` as milliseconds UTC. Raises ValueError."""
    if text is None:
        return None
    return round(datetime.fromisoformat(text).timestamp() * 1000)
