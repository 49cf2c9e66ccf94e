"""The sync core: what a client does next, as a state machine without I/O, clock or chance of its own (protocol §15).

`handle` takes one event and gives the commands that follow, in order. Whoever drives it carries them out and tells
what came of them: the real client does so with sockets and SQLite, the simulation with lists. Three rules carry the
promise: a page is kept only where its range begins, with its cursor in one transaction; nothing is acked before it is
kept; and whatever goes wrong ends in a handshake with the cursor that the database holds.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from relay.client import news, said, steps
from relay.client.acks import Acks
from relay.client.follows import Follows, Portion
from relay.client.redial import Redial
from relay.client.rules import (
    ANOTHER_USER,
    FORBIDDEN,
    REPLACED,
    UNAUTHENTICATED,
    Verdict,
    astray,
    judge,
    welcomed_at,
)
from relay.client.steps import UNKNOWN_SEQ, Command, Event, Position, Reading, Timer
from relay.client.wire import Frame, Page
from relay.ids import Rng

ACK_PAUSE_S = 0.25  # acks are at least this far apart, and at most this late
ANSWER_S = 20.0
BEHIND_S = 2.0
DRAIN_S = 1.0  # for the last acks, after the relay has said that it will go
CALM_S = 60.0
SILENT_INTERVALS = 2.5
GUARD_S = 120.0
NOT_WAITED_S = 1.0  # a long poll that ended sooner without news is not repeated at once
CURSOR_CODES = frozenset({"invalid_cursor", "cursor_epoch_changed", "cursor_too_old"})
TRANSIENT = frozenset(
    [
        "request_timeout",
        "rate_limited",
        "auth_throttled",
        "overloaded",
        "draining",
        "storage_unavailable",
        "storage_full",
        "storage_failed",
        "commit_unknown",
    ]
)


class Phase(StrEnum):
    """Where the conversation stands."""

    IDLE = "idle"  # no connection; a timer or a word of the app begins one
    CONNECTING = "connecting"
    SAYING = "saying"  # refusals that the relay must hear before the handshake acks what they are about
    GREETING = "greeting"
    READING = "reading"
    CLOSING = "closing"
    OVER = "over"


@dataclass(slots=True, kw_only=True)
class Core:
    """One device's side of the conversation. `facts` are the handshake's: app_version, schema, types, addresses, …"""

    store_id: str
    rng: Rng
    facts: Mapping[str, Any] = field(default_factory=dict)
    foreground: bool = True
    wait_s: float = 50  # how long a pull waits for news; 0: ask every `next_poll_s`
    repair: bool = False  # compare the cache after the first catch-up, upgrade or not

    phase: Phase = Phase.IDLE
    position: Position = field(default_factory=Position)
    session: int = 0
    user: str | None = None  # whose messages the database holds; None before its first handshake
    _acks: Acks = field(default_factory=Acks)
    _follows: Follows = field(default_factory=Follows)
    _redial: Redial = field(default_factory=Redial)
    _waiting: deque[Frame] = field(default_factory=deque)  # what came while the database was written
    _storing: bool = False
    _held_open: bool = False  # a transport is ready, but the database is still being written
    _reading: Reading = Reading.PUSHED
    _refs: int = 0
    _renew: bool = False
    _final: news.Refused | None = None  # why no connection follows
    _interval_s: float = 30
    _next_poll_s: float = 5
    _head: int = 0
    _told_caught_up: bool = False
    _welcome: Mapping[str, Any] = field(default_factory=dict)
    _page_behind: Page | None = None  # the page that is being kept
    _comparing: bool = False
    _compared: set[str] = field(default_factory=set)

    def handle(self, event: Event) -> list[Command]:
        """What follows from an event. Unexpected ones change nothing."""
        if self.phase is Phase.OVER and not isinstance(event, steps.Kept | steps.Closed):
            return []
        match event:
            case steps.Started(position, words, follows, user):
                self.position, self.user = position, user
                self._follows.positions = dict(follows)
                self._acks.owe(words)
                return self._connect()
            case steps.Opened(reading, words, position):
                if position is not None and not self._storing:
                    self._stand(position)
                self._acks.owe(words)
                return self._opened(reading)
            case steps.Came(frame):
                return self._came(frame)
            case steps.Kept(position, words):
                return self._kept(position, words)
            case steps.NotKept(position, moved):
                return self._not_kept(position, moved=moved)
            case steps.KeptShared(name, position):
                return self._kept_shared(name, position)
            case steps.Followed(name, position):
                self._follows.positions[name] = position
                return self._ask_shared(name)
            case steps.Unfollowed(name):
                return self._unfollowed(name)
            case steps.Rang(timer):
                return self._rang(timer)
            case steps.Closed(code, retry_after_s):
                return self._closed(code, retry_after_s)
            case steps.Compared(upgrade, done):
                self._comparing = False
                if done:
                    self._compared.add(upgrade or "")
                return []
            case steps.Spoke(words, position):
                self._acks.owe(words)
                if position.renumbered(self.position):  # this has waited while a new epoch was stored
                    self._acks.forget_markers()
                return self._ack_soon()
            case steps.Turned(foreground):
                return self._turned(foreground)
            case steps.Poked():
                return self._poked()
            case steps.Stopped():
                return self._stop()

    # --- connecting ---

    def _connect(self) -> list[Command]:
        self.phase = Phase.CONNECTING
        renew, self._renew = self._renew, False
        return [steps.Connect(renew)]

    def _opened(self, reading: Reading) -> list[Command]:
        if self.phase is not Phase.CONNECTING:
            return [steps.Close("not wanted")]
        self._reading = reading
        self._acks.begin()
        self._follows.begin()
        self._told_caught_up, self._head = False, 0
        self._held_open = self._storing
        return [] if self._storing else self._begin()

    def _begin(self) -> list[Command]:
        if refusals := self._acks.refusals:
            # The cursor in the handshake acks what it has passed; a refusal said after that would come too late.
            self.phase = Phase.SAYING
            ack = self._acks.frame(self._ref(), refusals) | {"store": self._store}
            return [steps.Say(ack, aside=True), steps.SetTimer(Timer.ANSWER, ANSWER_S)]
        self.phase = Phase.GREETING
        return [steps.Say(self.hello()), steps.SetTimer(Timer.ANSWER, ANSWER_S)]

    def hello(self) -> dict[str, Any]:
        """The handshake (protocol 10.1)."""
        frame: dict[str, Any] = {"type": "hello", "ref": self._ref(), **self.facts}
        frame["state"] = self._state
        frame["store"] = self._store | ({"repair": True} if self.repair else {})
        if self.position.cursor is not None:
            frame["cursors"] = {"inbox": self.position.cursor}
        return frame

    @property
    def _store(self) -> dict[str, Any]:
        return {"id": self.store_id, **({"user": self.user} if self.user is not None else {})}

    @property
    def _state(self) -> str:
        return "foreground" if self.foreground else "background"

    def _ref(self) -> str:
        self._refs += 1
        return str(self._refs)

    # --- what comes ---

    def _came(self, frame: Frame) -> list[Command]:
        if self.phase not in {Phase.SAYING, Phase.GREETING, Phase.READING}:
            return []
        if self._storing:
            self._waiting.append(frame)
            return []
        commands = self._frame(frame)
        if self.phase is Phase.READING and self._reading is Reading.PUSHED:
            commands.append(steps.SetTimer(Timer.SILENCE, SILENT_INTERVALS * self._interval_s))
        return commands

    def _frame(self, frame: Frame) -> list[Command]:
        if isinstance(frame, Page):
            return self._page(frame)
        match frame.get("type"):
            case "welcome":
                return self._welcomed(frame)
            case "ack":
                return self._ack_heard(frame)
            case "hb":
                return self._beat_heard(frame)
            case "nothing":
                return self._nothing(frame)
            case "resync_required" if "timeline" in frame:
                return self._begins_anew([frame["resync"]])
            case "resync_required":
                return self._reset(frame["resync"])
            case "follow":
                return self._follow_heard(frame)
            case "heads":
                return [steps.Tell(news.TimelinesAhead({one["conversation"]: one["head"] for one in frame["shared"]}))]
            case "drain":
                self._redial.asked_s = frame.get("reconnect_ms", 0) / 1000
                self._redial.restarts = True
                return [*self._ack_now(), steps.SetTimer(Timer.DRAIN, DRAIN_S)]
            case "degraded":
                return [steps.Tell(news.Degraded())]
            case "withdraw":
                return [steps.Tell(news.Withdrawn(tuple(frame.get("ids", ()))))]
            case "error":
                return self._error(frame)
            case _:
                return []

    def _welcomed(self, frame: Mapping[str, Any]) -> list[Command]:
        if self.phase is not Phase.GREETING:
            return []
        at = welcomed_at(frame)
        resync = frame["verdict"] == "resync"
        if not resync and astray(self.position, at):
            return self._forget()
        self.session, self._welcome, self._head = frame["session"], frame, frame["head"]
        self._take_beat(frame.get("heartbeat", {}))
        self._next_poll_s = frame.get("next_poll_s", self._next_poll_s)
        self._storing = True
        reason = frame.get("reason") if resync else None
        self.user = frame.get("user", self.user)
        return [
            steps.StopTimer(Timer.ANSWER),
            steps.Adopt(at, self.session, reason, frame.get("floor", 0), frame.get("user"), frame["missing"] == 0),
        ]

    def _take_beat(self, beat: Mapping[str, Any]) -> None:
        self._interval_s = max(1.0, float(beat.get("interval_s", self._interval_s)))

    def _reading_begins(self) -> list[Command]:
        self.phase = Phase.READING
        self._acks.shaken(self.position)
        frame = self._welcome
        told = news.Connected(
            frame["verdict"],
            frame.get("reason"),
            self.session,
            frame["missing"],
            self._reading,
            frame.get("advice") or {},
            frame.get("loss"),
        )
        commands: list[Command] = [
            steps.Tell(told),
            steps.SetTimer(Timer.BEAT, self.rng.uniform(0, self._interval_s)),
            steps.SetTimer(Timer.CALM, CALM_S),
            *self._guard(),
        ]
        if self._reading is not Reading.PUSHED:
            commands.append(self._fetch())
        if self._reading is Reading.PUSHED:
            commands += self._ask_shared()
        return commands + self._ack_soon()

    def _fetch(self, *, wait: bool = False, anew: bool = False) -> Command:
        shared = Portion() if self._reading is Reading.PUSHED else self._follows.turn()
        return steps.Fetch(self.position.cursor, self.wait_s if wait else 0, shared.cursors, shared.new, anew)

    def _guard(self) -> list[Command]:
        """Where pages come by themselves, they are asked for now and then all the same (protocol 9.4)."""
        return [] if self._reading is Reading.PULLED else [steps.SetTimer(Timer.POLL, GUARD_S)]

    def _stand(self, position: Position) -> None:
        """The database stands there."""
        if self.position.renumbered(position):
            self._acks.forget_markers()
        self.position = position

    # --- pages ---

    def _page(self, page: Page) -> list[Command]:
        if self.phase is not Phase.READING or page.fill:
            return []
        if page.timeline != "inbox":
            return self._shared_page(page)
        match judge(self.position, page):
            case Verdict.FOREIGN:
                return self._close("another epoch", soon=True)
            case Verdict.KNOWN:
                return self._pull_on(more=True)
            case Verdict.AHEAD:
                return [self._fetch()]
            case Verdict.BROKEN:
                return self._close("a page that leaves out a number")
            case Verdict.EMPTY:
                self._head = max(self._head, page.head_seq)
                return self._caught_up(page)  # what it answers has said `nothing`, too
            case Verdict.KEEP:
                self._head = max(self._head, page.head_seq)
                self._storing, self._page_behind = True, page
                return [steps.Keep(self.position, page)]

    def _kept(self, position: Position, words: said.Words) -> list[Command]:
        self._storing = False
        self._stand(position)
        self._acks.owe(words)
        page, self._page_behind = self._page_behind, None
        commands: list[Command] = []
        if page is not None and self.phase is Phase.READING:
            self._acks.kept(len(page.received))
            commands += self._caught_up(page)
            commands += self._ack_now() if page.urgent or self._acks.many else self._ack_soon()
            commands += self._guard() + self._pull_on(more=page.more)
        elif page is None and self.phase is Phase.GREETING and self._welcome:
            commands += self._reading_begins()
        return commands + self._go_on()

    # --- shared timelines ---

    def _ask_shared(self, *names: str) -> list[Command]:
        """Has the relay send what is followed, the way this transport can."""
        if self.phase is not Phase.READING or not self._follows:
            return []
        match self._reading:
            case Reading.PUSHED:
                return [steps.Say(some.frame(self._ref())) for some in self._follows.portions(*names)]
            case Reading.PULLED:
                return [] if self._storing else [self._fetch()]
            case Reading.STREAMED:  # nothing can be said on it: another takes its place
                return [self._fetch(anew=True)]

    def _unfollowed(self, name: str) -> list[Command]:
        self._follows.positions.pop(name, None)
        if self.phase is not Phase.READING:
            return []
        if self._reading is Reading.PULLED:  # what waits may bring nothing else, and nobody would ask again
            return [] if self._storing else [self._fetch()]
        if self._reading is Reading.STREAMED:
            return [self._fetch(anew=True)]
        return [steps.Say({"type": "follow", "ref": self._ref(), "unfollow": [name]})]

    def _shared_page(self, page: Page) -> list[Command]:
        verdict, at = self._follows.judged(page)
        match verdict:
            case Verdict.KEEP:
                self._storing = True
                return [steps.KeepShared(at, page)]
            case Verdict.BROKEN:
                return self._close("a page that leaves out a number")
            case Verdict.AHEAD | Verdict.FOREIGN if self._reading is Reading.PUSHED:
                return self._ask_shared(page.timeline)
            case Verdict.AHEAD if self._reading is Reading.STREAMED:
                return [self._fetch()]
            case Verdict.EMPTY:  # what it answers has said `nothing`, too
                return []
            case _:
                return self._pull_on(more=False)

    def _kept_shared(self, name: str, position: Position) -> list[Command]:
        self._storing = False
        if name in self._follows.positions:
            if self._follows.positions[name].renumbered(position):
                self._acks.forget_markers(name)
            self._follows.positions[name] = position
        commands = self._ack_soon()
        if self.phase is Phase.READING:
            anew = self._reading is Reading.STREAMED and self._follows.left  # it has room for another by now
            commands += [self._fetch(anew=True)] if anew else self._pull_on(more=True)
        return commands + self._go_on()

    def _follow_heard(self, frame: Mapping[str, Any]) -> list[Command]:
        commands: list[Command] = []
        resets = list(frame.get("resync", ()))
        for refusal in frame.get("refused", ()):
            name = self._follows.refused(refusal)
            if name is not None:
                commands.append(steps.Tell(news.FollowRefused(name, refusal.get("code", ""))))
                if refusal.get("code") == "invalid_cursor":  # not said again: the next connection opens it by its name
                    resets.append({"timeline": name, "epoch": "", "floor": 0, "cursor": None})
        return commands + self._begins_anew(resets)

    def _begins_anew(self, resets: Sequence[Mapping[str, Any]]) -> list[Command]:
        """The relay says where a shared timeline goes on; every message of it stays."""
        known = [one for one in resets if one["timeline"] in self._follows.positions]
        if not known:
            return []
        self._storing = True
        self._waiting.extendleft(
            reversed([{"type": "resync_required"} | {"timeline": one["timeline"], "resync": one} for one in known[1:]])
        )
        one = known[0]
        return [steps.AdoptShared(one["timeline"], Position(one["epoch"], one["floor"], one["cursor"]))]

    def _go_on(self) -> list[Command]:
        """The database is free again: what has waited for it."""
        commands: list[Command] = []
        if self._held_open:
            self._held_open = False
            commands += self._begin()
        while self._waiting and not self._storing:
            commands += self._came(self._waiting.popleft())
        return commands

    def _not_kept(self, position: Position, *, moved: bool) -> list[Command]:
        self._storing, self._page_behind = False, None
        if moved:
            self._stand(position)
        if self.phase not in {Phase.GREETING, Phase.READING}:
            return self._go_on()
        return self._close("another process moved the store" if moved else "the cache can't be written", soon=moved)

    def _caught_up(self, page: Page) -> list[Command]:
        if not page.caught_up:
            return []
        commands: list[Command] = []
        if not self._told_caught_up:
            self._told_caught_up = True
            commands.append(steps.Tell(news.CaughtUp(page.to_seq)))
            if self._welcome.get("reidentify"):
                commands.append(steps.Tell(news.Reidentify()))
        return commands + self._prove()

    def _prove(self) -> list[Command]:
        """What the relay wants to have compared, until it has been: it says so in each welcome."""
        upgrade = self._welcome.get("upgrade")
        known = upgrade["id"] if upgrade else None
        if self._comparing or (known or "") in self._compared or not (upgrade or self.repair):
            return []
        self._comparing = True
        return [steps.Compare("upgrade" if upgrade else "cache", known)]

    def _pull_on(self, *, more: bool) -> list[Command]:
        if self._reading is not Reading.PULLED:
            return []
        if more or self.wait_s > 0:
            return [self._fetch(wait=not more)]
        return [steps.SetTimer(Timer.POLL, self._next_poll_s)]

    def _nothing(self, frame: Mapping[str, Any]) -> list[Command]:
        if self._reading is not Reading.PULLED or self.phase is not Phase.READING:
            return []
        self._next_poll_s = frame.get("next_poll_s", self._next_poll_s)
        if self.wait_s > 0 and (frame.get("asked_s", 0) == 0 or frame.get("waited_s", 0) >= NOT_WAITED_S):
            return [self._fetch(wait=True)]
        return [steps.SetTimer(Timer.POLL, self._next_poll_s)]

    def _reset(self, resync: Mapping[str, Any]) -> list[Command]:
        """The cursor is refused for good: the given one takes its place, and a handshake says what it stands for."""
        self._storing = True
        at = Position(resync["epoch"], UNKNOWN_SEQ, resync["cursor"])
        adopt = steps.Adopt(at, None, resync.get("reason"), resync.get("floor", 0))
        return [adopt, *self._close("resync", soon=True)]

    def _forget(self) -> list[Command]:
        self._storing = True
        at = Position(self.position.epoch, UNKNOWN_SEQ, None)
        return [steps.Adopt(at, None, "bad_cursor"), *self._close("without a cursor", soon=True)]

    # --- words ---

    def _ack_soon(self) -> list[Command]:
        if self.phase is not Phase.READING or self._acks.pausing or not self._ack_due:
            return []
        return [self._pause()]

    @property
    def _ack_due(self) -> bool:
        return self._acks.due(self.position) or self._follows.unacked

    def _ack_now(self) -> list[Command]:
        if self.phase is not Phase.READING or not self._ack_due:
            return []
        return [steps.Say(self._acks.next(self._ref(), self.position) | self._follows.ack()), self._pause()]

    def _pause(self, least_s: float = ACK_PAUSE_S) -> Command:
        self._acks.pausing = True
        return steps.SetTimer(Timer.ACK, max(ACK_PAUSE_S, least_s))

    def _ack_heard(self, frame: Mapping[str, Any]) -> list[Command]:
        commands = self._heard(frame.get("ref"))
        if self.phase is Phase.SAYING:
            return commands + self._begin()
        # A word may have grown while it was on its way.
        return [*commands, steps.Tell(news.Acked(frame.get("acked", 0))), *self._ack_soon()]

    def _heard(self, ref: str | None) -> list[Command]:
        heard = self._acks.heard(ref)
        return [steps.Drop(heard)] if heard else []

    def _error(self, frame: Mapping[str, Any]) -> list[Command]:
        code, ref = frame.get("code", ""), frame.get("ref")
        refused = news.Refused(code, frame.get("detail", ""))
        if code == ANOTHER_USER and self.phase in {Phase.SAYING, Phase.GREETING}:
            self._final = refused
            return self._close("the database is another user's")
        told = steps.Tell(refused)
        if self._acks.flies(ref) and code in TRANSIENT:
            pause_s = frame.get("retry_after_ms", 1000) / 1000
            self._acks.returned(ref)
            self._follows.unsaid()
            if self.phase is Phase.SAYING:
                self._redial.asked_s = pause_s
                return [told, *self._close("refused for now")]
            return [self._pause(pause_s)]
        if self._acks.flies(ref) and code not in CURSOR_CODES:
            # It will never take these words: they must not stand in the way of others.
            never = self._acks.refused(ref)
            if never:
                self._follows.unsaid()
            commands: list[Command] = [told, *([steps.Drop(never)] if never else [])]
            return commands + (self._begin() if self.phase is Phase.SAYING else self._ack_soon())
        if isinstance(frame.get("resync"), Mapping):
            return self._reset(frame["resync"])
        if code == "invalid_cursor":
            return self._forget()
        if frame.get("retry_after_ms"):
            self._redial.asked_s = frame["retry_after_ms"] / 1000
        if self.phase is Phase.GREETING:
            return [told, *self._close("no welcome")]
        if ref is None and self._reading is Reading.PULLED:  # the answer of a Fetch: nothing else begins the next
            return [told, *self._close("no page")]
        return [told]

    # --- heartbeats ---

    def _beat(self) -> list[Command]:
        frame: dict[str, Any] = {"type": "hb", "ref": self._ref(), "state": self._state}
        if self._reading is not Reading.PUSHED:
            frame |= {"session": self.session, "cursor": self.position.cursor}
        next_s = self._interval_s * self.rng.uniform(0.9, 1.0)
        return [steps.Say(frame), steps.SetTimer(Timer.BEAT, next_s)]

    def _beat_heard(self, frame: Mapping[str, Any]) -> list[Command]:
        self._take_beat(frame)
        if frame.get("do") == "handshake":
            return self._close("asked to shake hands", soon=True)
        self._head = max(self._head, frame.get("head", 0))
        if self.phase is Phase.READING and self._head > self.position.seq:
            return [steps.SetTimer(Timer.BEHIND, BEHIND_S)]
        return []

    # --- time ---

    def _rang(self, timer: Timer) -> list[Command]:
        match timer:
            case Timer.CONNECT:
                return self._connect() if self.phase is Phase.IDLE else []
            case Timer.CALM:
                self._redial.calm()
                return []
            case Timer.ANSWER:
                return self._close("no answer") if self.phase in {Phase.SAYING, Phase.GREETING} else []
            case Timer.DRAIN:
                return self._close("drained") if self.phase is Phase.READING else []
            case _ if self.phase is not Phase.READING:
                return []
            case Timer.BEAT:
                return self._beat()
            case Timer.SILENCE:
                return self._close("silence")
            case Timer.BEHIND:
                return [self._fetch()] if self._head > self.position.seq and not self._storing else []
            case Timer.POLL:
                return [self._fetch(), *self._guard()]
            case Timer.ACK:
                self._acks.pausing = False
                return self._ack_now()

    # --- ends ---

    def _close(self, why: str, *, soon: bool = False) -> list[Command]:
        self.phase = Phase.CLOSING
        self._redial.soon = soon
        return [steps.Close(why)]

    def _closed(self, code: int | None, retry_after_s: float | None) -> list[Command]:
        if self.phase is Phase.IDLE:
            return []
        self._acks.end()
        self._waiting.clear()
        self._welcome = {}
        self._held_open = False
        commands: list[Command] = [steps.StopTimer(timer) for timer in Timer]
        if self.phase is Phase.OVER:
            return commands
        self.phase = Phase.IDLE
        last_word = self._last_word(code)
        if last_word is not None:
            self._redial.forget()
            return [*commands, steps.Tell(news.Disconnected(code, None)), steps.Tell(last_word)]
        self._renew = code in UNAUTHENTICATED
        delay_s = self._redial.delay_s(self.rng, retry_after_s)
        return [*commands, steps.Tell(news.Disconnected(code, delay_s)), steps.SetTimer(Timer.CONNECT, delay_s)]

    def _last_word(self, code: int | None) -> news.News | None:
        """What the app is told where no connection follows by itself."""
        if self._final is not None:
            final, self._final = self._final, None
            return final
        if code == REPLACED and not self.foreground:
            return news.Replaced()
        if code in FORBIDDEN:
            return news.Refused("forbidden", "The relay will not have this device.")
        return None

    def _turned(self, foreground: bool) -> list[Command]:
        self.foreground = foreground
        if self.phase is Phase.READING:
            return self._beat()
        return self._poked() if foreground else []

    def _poked(self) -> list[Command]:
        if self.phase is Phase.IDLE:
            return [steps.StopTimer(Timer.CONNECT), *self._connect()]
        if self.phase is not Phase.READING:
            return []
        # The answer to a beat says where the inbox stands: what was pushed may be stuck on its way here.
        return self._beat() + ([self._fetch()] if self._reading is Reading.PULLED and not self._storing else [])

    def _stop(self) -> list[Command]:
        commands: list[Command] = []
        if self.phase is Phase.READING:
            commands += self._ack_now()
            commands.append(steps.Say({"type": "bye", "reason": "quit"}))
        connected = self.phase not in {Phase.IDLE, Phase.OVER}
        self.phase = Phase.OVER
        return [*commands, *([steps.Close("done")] if connected else [])]
