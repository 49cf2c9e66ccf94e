"""`python -m failpoints POINT:NTH:ACTION serve ...` (or another command): a relay to which something happens when it comes to a
named point for the NTH time (safety CR-4). The points are laid around functions of the relay from outside; it knows nothing of
them.

`kill` is SIGKILL of itself. `error` fails as what is below would: the disk, the way to the server, the network; `errors` does so
from then on. `hang:SECONDS` stops the whole process for so long, as SIGSTOP does. What happened is said on stderr."""

import errno
import functools
import importlib
import inspect
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import asyncpg
import sqlalchemy

from relay.cli import main
from relay.store.postgres_errors import CommitUnknown
from relay.store.sqlite_commit import CommitError

COMMIT_S: Final = 0.0005  # into a COMMIT


class When(StrEnum):
    BEFORE = "before"
    WHILE = "while"  # a moment after it began
    AFTER = "after"  # it did its work; nobody has heard of it


class Below(StrEnum):
    """What may fail at a point."""

    NOTHING = "nothing"
    STORE = "store"  # a statement
    COMMIT = "commit"  # be it done or not: nobody can tell
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class Point:
    """A moment in the relay's work: before, while or after one of these functions runs."""

    when: When
    functions: tuple[str, ...]  # the first of a list is one's own on SQLite, the second on PostgreSQL
    most: int = 20  # it comes so often within a few seconds of load
    by: signal.Signals | None = None  # it comes only when the relay is asked to stop
    saying: str = ""  # only those calls count whose second argument (the first of a method's own) has this in it
    below: Below = Below.NOTHING


def _before(*functions: str, most: int = 20, below: Below = Below.NOTHING) -> Point:
    return Point(When.BEFORE, functions, most, below=below)


def _after(*functions: str, most: int = 20, below: Below = Below.NOTHING) -> Point:
    return Point(When.AFTER, functions, most, below=below)


COMMITS = ("relay.store.sqlite_commit:_commit", "relay.store.postgres:PostgresEngine._commit")
WORK = ("relay.store.sqlite_commit:run_group", "relay.store.postgres:run_group")

POINTS: Final = {
    "accept.body_read": _after("relay.api.limits:read_body"),  # K1
    "accept.validated": _before("relay.inbox.service:InboxService.accept"),  # K2
    "accept.in_transaction": _after("relay.inbox.service:accept", below=Below.STORE),  # K3, K19
    "accept.before_response": _after("relay.inbox.service:InboxService.accept"),  # K5
    "batch.item": _after(*WORK, below=Below.STORE),  # K3
    "batch.before_commit": _before(*COMMITS, below=Below.COMMIT),
    "batch.in_commit": Point(When.WHILE, COMMITS),  # K4
    "batch.after_commit": _after(*COMMITS, below=Below.COMMIT),
    "hint.publish": _before("relay.bus.local:LocalBus.wake"),  # K6
    "fanout.in_transaction": _after("relay.inbox.fanout:_deliver", most=1, below=Below.STORE),
    "plan.in_transaction": _after("relay.push.worker:plan_due", most=3, below=Below.STORE),
    "claim.after_commit": _before("relay.push.worker:PushWorker._attempt", most=3),  # K8
    "vendor.before_send": _before("providers.http_call:HttpCallProvider.send", most=3, below=Below.NETWORK),
    "vendor.after_send": Point(When.WHILE, ("providers.http_call:HttpCallProvider.send",), most=3),  # K9
    "vendor.after_response": _after("providers.http_call:HttpCallProvider.send", most=3, below=Below.NETWORK),  # K10
    "vendor.before_record": _before("relay.push.worker:PushWorker._settle", most=3),
    "vendor.recording": _after("relay.push.worker:settle", most=3, below=Below.STORE),
    "sock.before_write": _before("relay.realtime.writer:FrameWriter.batch", below=Below.NETWORK),
    "sock.after_write": _after("relay.realtime.writer:FrameWriter.batch", below=Below.NETWORK),  # K11
    "ack.received": _before("relay.inbox.service:InboxService.ack"),  # K12
    "ack.in_transaction": _after("relay.inbox.service:ack", below=Below.STORE),  # K14
    "ack.after_commit": _after("relay.inbox.service:InboxService.ack"),  # K13
    "expire.mid_batch": _after("relay.inbox.service:expire", most=1, below=Below.STORE),  # K15
    "events.numbering": _after("relay.store.sequencer:number_events", below=Below.STORE),
    "webhook.claimed": _before("relay.webhooks.worker:WebhookWorker._send"),
    "webhook.after_send": _after("relay.webhooks.worker:WebhookWorker._attempt", below=Below.NETWORK),  # K16
    "webhook.recording": _after("relay.webhooks.worker:settle", below=Below.STORE),
    "register.after_commit": _after("relay.inbox.service:InboxService.register", most=3),  # K20
    "start.ticking": _after("relay.store.meta:tick", most=1, below=Below.STORE),  # before it listens
    "rescue.pushes": _after("relay.store.queue:free_orphans", most=1),  # K18
    "rescue.webhooks": _after("relay.store.claims:free_orphans", most=1),  # K18
    "drain.stop_listening": Point(When.BEFORE, ("relay.wiring.departure:stop_listening",), most=1, by=signal.SIGTERM),
    "drain.before_release": Point(
        When.BEFORE, ("relay.store.claims:release_claims",), most=1, by=signal.SIGTERM, below=Below.STORE
    ),
    "checkpoint.mid": Point(  # K17
        When.WHILE,
        ("relay.store.direct:DirectConnection.exec_driver_sql",),
        most=1,
        by=signal.SIGTERM,
        saying="wal_checkpoint",
    ),
}
IN_COMMANDS: Final = {  # K17, of commands that do one thing and end, of a relay's first start, and of what an operator asks it
    "backup.copying": _before("relay.store.backup:Pace.moved", most=1),
    "backup.copied": _after("relay.store.backup:_copied", most=1),
    "backup.before_rename": _before("relay.store.backup:sync_file", most=1),
    "rekey.in_transaction": _after("relay.store.vault:rewrap_some", most=1),
    "rekey.between": _before("relay.cli.credentials:_reseal", most=1),
    "rekey.resealing": _after("relay.cli.credentials:reseal_some", most=1),
    "restore.migrated": _after("relay.store.restore:migrate", most=1),
    "migrate.created": _after("relay.store.migrate:create", most=1),
    "migrate.migrated": _after("relay.app:migrate", most=1),
    "mend.portion": _after("relay.push.mending:release_some", most=2),
}


def broken(below: Below) -> Exception:
    """As the relay sees it."""
    if below is Below.NETWORK:
        return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    if not os.environ["RELAY_STORE__URL"].startswith("sqlite"):
        gone = sqlalchemy.exc.InterfaceError("", {}, asyncpg.InterfaceError("connection is closed"))
        return gone if below is Below.STORE else CommitUnknown()
    of_the_disk = sqlite3.OperationalError("disk I/O error")
    of_the_disk.sqlite_errorcode = sqlite3.SQLITE_IOERR
    failed = sqlalchemy.exc.OperationalError("", {}, of_the_disk)
    return failed if below is Below.STORE else CommitError(failed)


def hang(seconds: float) -> None:
    """Another process wakes this one: it cannot itself."""
    wake = f"sleep {seconds}; kill -CONT {os.getpid()}"
    subprocess.Popen(["sh", "-c", wake], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.kill(os.getpid(), signal.SIGSTOP)


@dataclass(frozen=True, slots=True)
class Action:
    """What happens at a point."""

    name: str
    what: str
    below: Below

    def __call__(self) -> None:
        """Raises what is below's, if it is an error."""
        print(f"failpoint {self.name} {self.what}", file=sys.stderr, flush=True)
        verb, _, seconds = self.what.partition(":")
        match verb:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                hang(float(seconds))
            case "error" | "errors":
                raise broken(self.below)
            case _:
                raise ValueError(self.what)


class Count:
    """Reached so often."""

    def __init__(self, nth: int, *, ever_since: bool = False) -> None:
        self._left = nth
        self._ever_since = ever_since
        self._lock = threading.Lock()

    def here(self) -> bool:
        """Whether this time is the one; or, if it is to be so ever since, one of those."""
        with self._lock:
            self._left -= 1
            return self._left == 0 or (self._left < 0 and self._ever_since)


def harmed(function: Callable[..., Any], point: Point, count: Count, act: Action) -> Callable[..., Any]:
    """The same function, at which it happens in the end."""
    when = point.when

    def counts(args: tuple[Any, ...]) -> bool:
        return not point.saying or point.saying in str(args[1])

    def begins(args: tuple[Any, ...]) -> None:
        if when is not When.AFTER and counts(args) and count.here():
            if when is When.WHILE:
                threading.Timer(COMMIT_S, act).start()
            else:
                act()

    def ended(args: tuple[Any, ...]) -> None:
        if when is When.AFTER and counts(args) and count.here():
            act()

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any, **more: Any) -> Any:
            begins(args)
            found = await function(*args, **more)
            ended(args)
            return found

        return awaited

    @functools.wraps(function)
    def called(*args: Any, **more: Any) -> Any:
        begins(args)
        found = function(*args, **more)
        ended(args)
        return found

    return called


def lay(point: Point, nth: int, act: Action) -> None:
    """Raises AttributeError, ModuleNotFoundError if the relay has no such function."""
    count = Count(nth, ever_since=act.what == "errors")
    for name in point.functions:
        module, _, path = name.partition(":")
        owner: Any = importlib.import_module(module)
        *outer, last = path.split(".")
        for one in outer:
            owner = getattr(owner, one)
        setattr(owner, last, harmed(getattr(owner, last), point, count, act))


if __name__ == "__main__":
    name, nth, what = sys.argv.pop(1).split(":", 2)
    if point := (POINTS | IN_COMMANDS).get(name):
        lay(point, int(nth), Action(name, what, point.below))
    main()
