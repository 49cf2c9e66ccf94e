"""Cursors in what devices are told, read by hand: each ends where its page does, or stands where a reset begins (protocol 2.3).

I6: a cursor says "this device has everything up to here". One that came without its page, or beyond it, would have a client
ack what it never got.
"""

import base64
import hashlib
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .client import Broken

_SEALED = re.compile(r'"([A-Za-z0-9_-]{88})"')
_BODY = struct.Struct(">BBB8s8sQQ8s8s")  # protocol 2.3; a MAC follows
_NO_TAIL = bytes(8)
INBOX = "inbox"


class Meant(NamedTuple):
    """What a cursor must say, by the answer that it stands in. `last`: the message it ends at, where the answer names it."""

    epoch: str
    timeline: str
    seq: int
    last: str | None = None


def check(device: object, answer: Mapping[str, Any], text: str) -> None:
    """Reads every cursor in `text`, which is the answer as it was sent. Raises Broken."""
    sealed = set(_SEALED.findall(text))
    if not sealed:
        return
    meant = dict(_meant(answer))
    for cursor in sorted(sealed):
        if cursor not in meant:
            raise Broken(f"I6: {device} was given a cursor without a page that it covers: {[*answer]}")
        _read(device, cursor, meant[cursor])


def _read(device: object, cursor: str, meant: Meant) -> None:
    _, _, _, epoch, timeline, _, seq, _, tail = _BODY.unpack(base64.urlsafe_b64decode(cursor)[: _BODY.size])
    if (seq, epoch.hex(), timeline) != (meant.seq, meant.epoch, _short(meant.timeline)):
        raise Broken(f"I6: the cursor of {device} says {epoch.hex()} {seq}, and its answer is {meant}")
    if meant.last is not None and tail not in {_NO_TAIL, _short(meant.last)}:
        raise Broken(f"I6: the cursor of {device} ends at another message than its answer, {meant}")


def _meant(answer: Mapping[str, Any]) -> Iterator[tuple[str, Meant]]:
    if "entries" in answer:
        yield from _of_page(answer)
    if isinstance(answer.get("cursors"), dict):
        yield from _of_welcome(answer)
    for reset in (answer.get("resync"), *answer.get("resets", ())):
        if isinstance(reset, dict):
            yield reset["cursor"], Meant(reset["epoch"], reset.get("timeline", INBOX), reset["floor"])


def _of_page(page: Mapping[str, Any]) -> Iterator[tuple[str, Meant]]:
    if "cursor" in page:
        last = page["entries"][-1] if page["entries"] else None
        ends_there = last is not None and last["seq"] == page["to"]
        id_ = last["id"] if ends_there else None
        yield page["cursor"], Meant(page["epoch"], page["timeline"], page["to"], id_)


def _of_welcome(welcome: Mapping[str, Any]) -> Iterator[tuple[str, Meant]]:
    cursors = welcome["cursors"]
    yield cursors[INBOX], Meant(welcome["epoch"], INBOX, welcome["head"] - welcome["missing"])
    for one in welcome.get("shared", ()):
        if one["verdict"] != "unknown":
            name = one["conversation"]
            yield cursors[name], Meant(one["epoch"], name, one["head"] - one["missing"])


def _short(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:8]
