"""Pages of a timeline, as every way of reading has them, and what a refused cursor is answered."""

from typing import Any, Literal

from pydantic import Field

from relay.api.schemas.base import Out


class EntryConversation(Out):
    type: str
    id: str | None


class EntrySender(Out):
    user: str
    device: str | None


class EntryOut(Out):
    """One number of a timeline. A message has all members from `h` to `client_ref`; `recall` has `of`, `read` the last two."""

    seq: int
    id: str | None
    kind: str
    h: str | None = None
    accepted_at: str | None = None
    expires_at: str | None = None
    conversation: EntryConversation | str | None = None
    sender: EntrySender | None = None
    type: str | None = None
    body: Any = None
    form: Literal["full", "fallback"] | None = None
    priority: Literal["low", "normal", "high", "urgent"] | None = None
    collapse_key: str | None = None
    client_ref: str | None = None
    of: list[str] | None = None
    read_seq: int | None = None


class GapOut(Out):
    """The numbers after `from`, up to `to`, of which this device gets nothing, and why."""

    from_: int = Field(alias="from")
    to: int
    why: str


class PageOut(Out):
    """Every number after `from`, up to `to`, once: among the entries, or in a gap. A range or a message asked for by its id
    has no cursor. `caught_up` is said on streams and sockets."""

    timeline: str
    epoch: str
    from_: int = Field(alias="from")
    to: int
    head: int
    entries: list[EntryOut]
    gaps: list[GapOut]
    cursor: str | None = None
    more: bool
    caught_up: bool | None = None


class LossOut(Out):
    """Numbers that ended before the device had them."""

    from_: int = Field(alias="from")
    to: int
    count: int
    known: bool


class ResyncOut(Out):
    """Where a timeline begins again: the cursor to store, with its epoch; it stands at `floor`."""

    timeline: str | None = None
    reason: str
    epoch: str
    cursor: str
    floor: int
    head: int
    loss: LossOut | None = None
