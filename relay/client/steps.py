"""The vocabulary of the sync core: what it is told (events), and what it asks for (commands)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from relay.client.said import Words
from relay.client.wire import Frame, Page

UNKNOWN_SEQ = -1  # after a reset: the next welcome says which number the new cursor stands for


@dataclass(frozen=True, slots=True)
class Position:
    """Where a message database stands: everything up to `seq` of `epoch` is in it."""

    epoch: str = ""
    seq: int = 0
    cursor: str | None = None

    def renumbered(self, now: "Position") -> bool:
        """Whether numbers that were known here mean nothing, or other things, at `now`."""
        return self.epoch not in {"", now.epoch}


NOWHERE = Position()


class Reading(StrEnum):
    """How pages come over a transport."""

    PUSHED = "pushed"  # the relay sends them by itself after the welcome
    STREAMED = "streamed"  # one Fetch opens a stream of them
    PULLED = "pulled"  # each answers a Fetch


class Timer(StrEnum):
    """The core's alarms; setting one again moves it."""

    CONNECT = "connect"  # the pause before the next connection is over
    ANSWER = "answer"  # the relay owes an answer to the first words
    BEAT = "beat"
    SILENCE = "silence"  # nothing has come for too long: the connection may be half open
    BEHIND = "behind"  # the relay has more than it sent
    POLL = "poll"
    ACK = "ack"
    CALM = "calm"  # the connection has lasted: earlier failures are forgotten
    DRAIN = "drain"


# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The client begins, with what its database holds."""

    position: Position
    words: Words = field(default_factory=dict)
    follows: Mapping[str, Position] = field(default_factory=dict)
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A transport is ready for words. `words` are those that the database holds, `position` is where it stands: another process
    may have put some there, or moved it."""

    reading: Reading
    words: Words = field(default_factory=dict)
    position: Position | None = None  # None: where it stood


@dataclass(frozen=True, slots=True)
class Came:
    """A frame, or what stands for one over plain HTTP: `nothing` is the answer of a Fetch that brought none."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Kept:
    """What Keep, Adopt or Forget asked for is committed; `words` are new ones that the page gave rise to."""

    position: Position
    words: Words = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotKept:
    """Nothing was stored. `moved`: another process has moved the database to `position`; else it can't be written."""

    position: Position
    moved: bool


@dataclass(frozen=True, slots=True)
class KeptShared:
    """What KeepShared or AdoptShared asked for is committed, or found done: that timeline stands there."""

    name: str
    position: Position


@dataclass(frozen=True, slots=True)
class Followed:
    """The app follows a shared timeline from now on; it is in the database."""

    name: str
    position: Position = NOWHERE


@dataclass(frozen=True, slots=True)
class Unfollowed:
    """The app follows it no more."""

    name: str


@dataclass(frozen=True, slots=True)
class Rang:
    timer: Timer


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection has ended or could not be opened. `code` is a WebSocket close code, or an HTTP status."""

    code: int | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """What Compare asked for has come to an end; not `done`: it could not be made, and is due again."""

    upgrade: str | None
    done: bool


@dataclass(frozen=True, slots=True)
class Spoke:
    """The app has said something that is now in the database's words, and was put there where it stood at `position`."""

    words: Words
    position: Position = NOWHERE  # of words that hold no numbers, it says nothing


@dataclass(frozen=True, slots=True)
class Turned:
    """The app has come to the foreground, or left it."""

    foreground: bool


@dataclass(frozen=True, slots=True)
class Poked:
    """Something outside, a push for example, says that there may be news."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The app is done with the client."""


Event = (
    Started
    | Opened
    | Came
    | Kept
    | NotKept
    | KeptShared
    | Followed
    | Unfollowed
    | Rang
    | Closed
    | Compared
    | Spoke
    | Turned
    | Poked
    | Stopped
)


# --- commands ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a transport; answered by Opened or Closed. `renew`: the last credential was refused."""

    renew: bool = False


@dataclass(frozen=True, slots=True)
class Say:
    """Send a frame. `aside`: over plain HTTP, whatever the transport, before the handshake."""

    frame: Mapping[str, Any]
    aside: bool = False


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask for the page after the cursor, waiting up to `wait_s` for one; a stream begins with it, or once more if `anew`."""

    cursor: str | None
    wait_s: float = 0
    shared: tuple[str, ...] = ()  # cursors of shared timelines
    open: tuple[str, ...] = ()  # conversations whose timelines are read for the first time
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Keep:
    """Store a page and its cursor in one transaction, if the database still stands at `at`."""

    at: Position
    page: Page


@dataclass(frozen=True, slots=True)
class Adopt:
    """Store where to go on, and nothing else; every message stays. `reason` is that of a resync, or None."""

    position: Position
    session: int | None = None
    reason: str | None = None
    floor: int = 0
    user: str | None = None  # whose messages they are, as a welcome says; None: it remains as it is
    complete: bool = False  # nothing lies beyond it: no page will say that everything has come


@dataclass(frozen=True, slots=True)
class KeepShared:
    """As Keep, of a shared timeline; answered by KeptShared, or NotKept if it can't be written."""

    at: Position
    page: Page


@dataclass(frozen=True, slots=True)
class AdoptShared:
    """Store where a shared timeline goes on; answered as KeepShared is."""

    name: str
    position: Position


@dataclass(frozen=True, slots=True)
class Drop:
    """These words have been heard: they need not be kept any more. A newer one under the same key is."""

    words: Words


@dataclass(frozen=True, slots=True)
class SetTimer:
    timer: Timer
    after_s: float


@dataclass(frozen=True, slots=True)
class StopTimer:
    timer: Timer


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection; answered by Closed."""

    why: str


@dataclass(frozen=True, slots=True)
class Compare:
    """Compare the cache with the relay's view, and fetch what differs; answered by Compared."""

    purpose: str
    upgrade: str | None = None


@dataclass(frozen=True, slots=True)
class Tell:
    """Something that the app may want to know: `what` is a word of `relay.client.news`."""

    what: Any


Command = (
    Connect
    | Say
    | Fetch
    | Keep
    | KeepShared
    | Adopt
    | AdoptShared
    | Drop
    | SetTimer
    | StopTimer
    | Close
    | Compare
    | Tell
)
