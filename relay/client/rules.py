"""What a client decides where it stands: whether to keep a page, to believe a welcome, to come back. Pure (protocol §15)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from relay.client.steps import UNKNOWN_SEQ, Position
from relay.client.wire import Page

REPLACED, UNAUTHENTICATED, FORBIDDEN = 4001, frozenset({401, 4401}), frozenset({403, 4403})
ANOTHER_USER = "another_user"  # the problem that a handshake with another user's database is


class Verdict(StrEnum):
    """What becomes of a page of the inbox."""

    KEEP = "keep"
    EMPTY = "empty"  # nothing to keep: it ends where we stand
    KNOWN = "known"  # it came another way, or was kept by another process
    AHEAD = "ahead"  # what lies between is missing
    FOREIGN = "foreign"  # of another epoch
    BROKEN = "broken"  # it leaves out a number: no cursor may follow it


def judge(here: Position, page: Page) -> Verdict:
    """A page is kept only where its range begins, and only when it names every number of it."""
    if page.epoch != here.epoch:
        return Verdict.FOREIGN
    if page.to_seq <= here.seq and page.from_seq != here.seq:
        return Verdict.KNOWN
    if page.from_seq != here.seq:
        return Verdict.AHEAD
    if not page.covers() or page.cursor is None:
        return Verdict.BROKEN
    return Verdict.EMPTY if page.to_seq == here.seq else Verdict.KEEP


def welcomed_at(welcome: Mapping[str, Any]) -> Position:
    """Where a welcome would have us go on."""
    return Position(welcome["epoch"], welcome["head"] - welcome["missing"], welcome["cursors"]["inbox"])


def astray(here: Position, at: Position) -> bool:
    """Whether a welcome that is no resync would have us go on elsewhere than we stand: it could skip messages."""
    return here.cursor is None or here.seq not in {at.seq, UNKNOWN_SEQ} or here.epoch != at.epoch
