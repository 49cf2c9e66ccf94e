"""What a client says in its acks: how far it has come, and the words that it owes. Pure.

A word is owed until an ack that said it has been answered; what flew when a connection ended is said once more. A
cursor never passes a refusal that has not been said (protocol §15): it would ack the message that nobody could read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relay.client import said
from relay.client.steps import Position

ENTRIES = 50  # so many entries are acked at once

_Words = dict[str, Mapping[str, Any]]


@dataclass(slots=True)
class Acks:
    """What is owed, what flies, and what the last ack of this connection said."""

    pausing: bool = False  # an ack has just been said, or is due soon: the timer says the next
    _owed: _Words = field(default_factory=dict)
    _in_flight: dict[str, _Words] = field(default_factory=dict)
    _unacked: int = 0  # entries kept since the last ack
    _acked: Position | None = None  # None: no position on this connection yet

    def owe(self, words: said.Words) -> None:
        """Takes words that the cache holds now."""
        self._owed |= words

    def forget_markers(self, conversation: str | None = None) -> None:
        """The numbering has begun anew, of the inbox or of this shared timeline: what a read marker says means other messages."""
        gone = [
            key for key in self._owed if key.startswith(said.READ) and conversation in {None, key[len(said.READ) :]}
        ]
        for key in gone:
            del self._owed[key]

    def kept(self, entries: int) -> None:
        """So many entries more are in the cache."""
        self._unacked += entries

    # --- the connection ---

    def begin(self) -> None:
        """A connection opens: nothing has been acked on it."""
        self._acked, self._unacked, self.pausing = None, 0, False

    def shaken(self, position: Position) -> None:
        """The handshake has acked the position, where it was for the relay to believe."""
        self._acked = position

    def end(self) -> None:
        """The connection is gone: what was not answered is owed again."""
        self._in_flight.clear()
        self.pausing = False

    # --- what to say ---

    @property
    def refusals(self) -> said.Words:
        """The refusals that are owed, as many as one ack takes."""
        return said.portion({key: word for key, word in self._owed.items() if said.is_nack(key)})

    def due(self, position: Position) -> bool:
        """Whether there is something to say."""
        return self._acked != position or bool(self._unsaid)

    @property
    def many(self) -> bool:
        """Whether so much is unacked that the ack should not wait."""
        return self._unacked >= ENTRIES

    def next(self, ref: str, position: Position) -> dict[str, Any]:
        """The next ack: words, and the cursor where it has moved and leaves no refusal behind.

        Refusals go first and alone: a word that the relay will not take takes all others of its ack with it.
        """
        unsaid = self._unsaid
        nacks = {key: word for key, word in unsaid.items() if said.is_nack(key)}
        words = said.portion(nacks or unsaid)
        if len(nacks) > len(words):
            return self.frame(ref, words)
        cursor = None if self._acked == position else position.cursor
        self._acked, self._unacked = position, 0
        return self.frame(ref, words, cursor=cursor)

    def frame(self, ref: str, words: said.Words, *, cursor: str | None = None) -> dict[str, Any]:
        """The ack that says these words, which fly from now on."""
        self._in_flight[ref] = dict(words)
        frame: dict[str, Any] = {"type": "ack", "ref": ref, **said.ack_body(words)}
        if cursor is not None:
            frame["cursor"] = cursor
        return frame

    @property
    def _unsaid(self) -> _Words:
        flying = {key for words in self._in_flight.values() for key in words}
        return {key: word for key, word in self._owed.items() if key not in flying}

    # --- what comes of it ---

    def flies(self, ref: str | None) -> bool:
        """Whether an ack of this name waits for its answer."""
        return ref in self._in_flight

    def heard(self, ref: str | None) -> said.Words:
        """The ack has been answered; gives its words that no newer word has replaced."""
        words = self._in_flight.pop(ref or "", {})
        heard = {key: word for key, word in words.items() if self._owed.get(key) == word}
        for key in heard:
            del self._owed[key]
        return heard

    def refused(self, ref: str | None) -> said.Words:
        """The relay will never take an ack with these words, which it gives; what was said beside them is said again."""
        if self._in_flight.get(ref or ""):
            self._acked = None
        return self.heard(ref)

    def returned(self, ref: str | None) -> None:
        """Not taken for now: its words and the position are said again."""
        self._in_flight.pop(ref or "", None)
        self._acked = None
