"""What the relay tells of itself: events of known fields, and metrics. Never bodies, tokens or secrets (safety SEC-12).

A log line goes through a bounded queue to a thread of its own: a sink that blocks holds nobody up. What does not fit is
dropped and counted, and the log says so once the sink takes lines again.
"""

import errno
import hashlib
import logging
import os
import queue
import re
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TextIO

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from relay.clock import Clock, SystemClock, rfc3339
from relay.keys import MASK, Secret

LINES_MAX: Final = 8192  # waiting for the sink; more are dropped
EVENT_CHARS_MAX: Final = 120
VALUE_CHARS_MAX: Final = 300
FRAMES_MAX: Final = 12
INT_MAX: Final = 2**63
FLUSH_S: Final = 2.0

# All that a line may say. A new name here is a decision: it must not hold content, a credential or a whole URL.
FIELDS: Final = frozenset(
    (
        *(
            "account",
            "added",
            "app",
            "attempt",
            "attempts",
            "bad",
            "before",
            "changed",
            "chore",
            "code",
            "count",
            "device",
            "dropped",
            "elapsed_ms",
            "endpoint",
        ),
        *(
            "event_id",
            "expires",
            "form",
            "handlers",
            "host",
            "key_id",
            "kind",
            "lag_ms",
            "message_id",
            "method",
            "ms",
            "needs_restart",
            "news",
            "node",
            "now",
            "pending",
        ),
        *(
            "platform",
            "port",
            "provider",
            "python",
            "reason",
            "removed",
            "request_id",
            "result",
            "route",
            "scope",
            "seconds",
        ),
        *(
            "seq",
            "session",
            "sessions",
            "signal",
            "size",
            "sockets",
            "state",
            "status",
            "store",
            "then",
            "tries",
            "user",
        ),
        *("vendor_code", "verdict", "version", "wait_ms", "worker"),
    )
)
HASHED: Final = frozenset({"user", "device"})  # names of people and their things
_ORDER: Final = ("ts", "level", "logger", "event")

# What would end a line, move a terminal's cursor, or turn the reading direction; and what is no text at all.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# The last line of defence, for a credential inside another text.
_CREDENTIAL = re.compile(
    r"(?<![A-Za-z0-9])(?:rk_(?:live|test)_|rd_|whs[ek]c?_|eyJ|ya29\.)[A-Za-z0-9+/=_.-]{16,}"
    r"|(?i:\b(?:bearer|basic)\s+)\S+"
    r"|(?<=://)[^/\s@]+@"
    r"|(?<=\?)[^\s\"'#]*=[^\s\"']*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*"
)

Event = MutableMapping[str, Any]


def hashed(name: str) -> str:
    """Eight hex digits that stand for a device or a user, the same each time: sha256[:8]."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def safe(text: str, limit: int = VALUE_CHARS_MAX) -> str:
    """One line of harmless characters, without credentials, of at most `limit` characters."""
    text = _CREDENTIAL.sub(MASK, text[: 4 * limit])
    cut = text if len(text) <= limit else text[:limit] + "…"
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", cut)


# --- the sink ---------------------------------------------------------------------------------------------------------


class LogSink:
    """Writes lines in a thread. `write` never blocks and never raises."""

    def __init__(
        self, stream: TextIO, *, notice: Callable[[int], str] | None = None, on_drop: Callable[[], None] | None = None
    ) -> None:
        self.dropped = 0
        self._told = 0
        self._notice = notice
        self._on_drop = on_drop
        self._put = _writer(stream)
        self._stopped = False
        # Unlike Queue, its `put` may be called from a finaliser that interrupts a `put`.
        self._lines: queue.SimpleQueue[str | threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log-sink", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        if self._stopped or self._lines.qsize() >= LINES_MAX:
            self._drop()
        else:
            self._lines.put(line)

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Whether all that was written before has reached the stream, within that time."""
        reached = threading.Event()
        self._lines.put(reached)
        return self._thread.is_alive() and reached.wait(timeout_s)

    def stop(self, timeout_s: float = FLUSH_S) -> bool:
        """As `flush`, and ends the thread; a blocked one is left behind. Later lines are dropped."""
        self._stopped = True
        self._lines.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _drop(self) -> None:
        self.dropped += 1
        if self._on_drop is not None:
            self._on_drop()

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            if isinstance(line, threading.Event):
                line.set()
                continue
            try:
                if self._notice is not None and self.dropped > self._told:
                    dropped = self.dropped
                    self._put(self._notice(dropped - self._told) + "\n")
                    self._told = dropped
                self._put(line + "\n")
            except (OSError, ValueError):  # the reader is gone, or somebody closed the stream
                self._drop()


def _writer(stream: TextIO) -> Callable[[str], None]:
    """Straight to the descriptor where there is one.

    A thread stuck in a write of Python's buffered file holds that file's lock; the interpreter wants it at its end, and
    aborts.
    """
    try:
        fd = stream.fileno()
        stream.flush()
    except (AttributeError, OSError, ValueError):

        def put(text: str) -> None:
            stream.write(text)
            stream.flush()

        return put

    def put_raw(text: str) -> None:
        rest = memoryview(text.encode())
        while rest:
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError:  # somebody made the pipe non-blocking
                _wait_writable(fd)

    return put_raw


def _wait_writable(fd: int) -> None:
    import select  # noqa: PLC0415 - hardly ever needed

    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if any(events & (select.POLLERR | select.POLLNVAL) for _, events in poll.poll()):
        raise OSError(errno.EPIPE, "the reader is gone")


# --- the shape of an event --------------------------------------------------------------------------------------------


class _Shape:
    """What structlog does with an event: known fields only, each harmless, in a fixed order."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __call__(self, logger: Any, method: str, event: Event) -> Event:
        level = "error" if method == "exception" else method
        known: dict[str, Any] = {"ts": self._ts(), "level": "warning" if level == "warn" else level}
        if name := getattr(logger, "name", None):
            known["logger"] = safe(name, EVENT_CHARS_MAX)
        known["event"] = safe(_text(event.get("event", "")), EVENT_CHARS_MAX)
        for key, value in event.items():
            if key in FIELDS and key not in known and value is not None:
                known[key] = _harmless(key, value)
        if (error := _exception(event.get("exc_info"))) is not None:
            known |= _told(error)
        return known

    def notice(self, count: int) -> dict[str, Any]:
        return {
            "ts": self._ts(),
            "level": "warning",
            "logger": "relay.telemetry",
            "event": "log.dropped",
            "count": count,
        }

    def _ts(self) -> str:
        now_ms = self._clock.now_ms()
        try:
            return rfc3339(now_ms)
        except (ValueError, OverflowError, OSError):  # beyond the year 9999
            return str(now_ms)


def _harmless(key: str, value: Any) -> str | int | float | bool:
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < INT_MAX else "<int>"
    return hashed(_text(value)) if key in HASHED else safe(_text(value))


def _text(value: Any) -> str:
    """Only text is printed: what else a caller passes may hold anything."""
    if isinstance(value, str):
        return str.__str__(value)
    return MASK if isinstance(value, Secret) else f"<{type(value).__name__}>"


def _exception(given: Any) -> BaseException | None:
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple):
        return given[1] if len(given) == 3 and isinstance(given[1], BaseException) else None
    return sys.exc_info()[1] if given else None


def _told(error: BaseException) -> dict[str, str]:
    """Its class and its way, but not its words: they may quote a body, a token or an SQL parameter."""
    told = {"error": _class(error), "trace": _trace(error.__traceback__)}
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is None and isinstance(error, BaseExceptionGroup) and error.exceptions:
        cause = error.exceptions[0]
    if cause is not None:
        told |= {"cause": _class(cause), "cause_trace": _trace(cause.__traceback__)}
    return told


def _class(error: BaseException) -> str:
    return safe(f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins."), EVENT_CHARS_MAX)


def _trace(traceback: TracebackType | None) -> str:
    """`file:line function`, the innermost first."""
    frames: list[str] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{'/'.join(Path(code.co_filename).parts[-3:])}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return safe(" < ".join(reversed(frames[-FRAMES_MAX:])), limit=2000)


def _json_line(event: Event) -> str:
    return msgspec.json.encode(event).decode()


def _console_line(event: Event) -> str:
    ts, level, logger, name = (event.get(key, "") for key in _ORDER)
    rest = " ".join(f"{key}={_quoted(value)}" for key, value in event.items() if key not in _ORDER)
    return f"{ts} {level:<8} {name} {rest}".rstrip() + (f" [{logger}]" if logger else "")


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if text and not set(text) & set(' "=[]') else msgspec.json.encode(text).decode()


_LINES: Final[dict[str, Callable[[Event], str]]] = {"json": _json_line, "console": _console_line}


# --- setting it up ----------------------------------------------------------------------------------------------------


class _Logger:
    """What structlog writes to; takes the finished line under every level's name."""

    __slots__ = ("_sink", "name")

    def __init__(self, sink: LogSink, name: str | None) -> None:
        self._sink = sink
        self.name = name

    def msg(self, line: str) -> None:
        self._sink.write(line)

    debug = info = warn = warning = error = exception = critical = fatal = log = failure = err = msg


class _FromStandardLibrary(logging.Handler):
    """Other people's log records, as events. Of theirs only the template is told, as the values are unknown to us."""

    def __init__(self, sink: LogSink, shape: _Shape, line: Callable[[Event], str]) -> None:
        super().__init__()
        self._sink = sink
        self._shape = shape
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        ours = record.name == "relay" or record.name.startswith("relay.")
        try:
            text = record.getMessage() if ours else str(record.msg)
        except Exception:  # noqa: BLE001 - a record whose arguments don't fit its template
            text = str(record.msg)
        first = text.partition("\n")[0]
        event: Event = {"event": first, "exc_info": record.exc_info}
        shaped = self._shape(record, record.levelname.lower(), event)
        if ours:
            shaped["event"] = safe(first)
        self._sink.write(self._line(shaped))


def setup_logging(
    level: str = "info",
    format: str = "json",  # noqa: A002 - it is the setting's name
    stream: TextIO | None = None,
    metrics: "Metrics | None" = None,
    *,
    clock: Clock | None = None,
) -> LogSink:
    """Sends structlog's events and the standard library's warnings to `stream` (else stderr). Stop the sink at the end.

    `metrics` counts the lines that are lost.
    """
    shape, line = _Shape(clock or SystemClock()), _LINES[format]
    on_drop = None if metrics is None else metrics.log_dropped.inc
    sink = LogSink(stream or sys.stderr, notice=lambda count: line(shape.notice(count)), on_drop=on_drop)
    threshold = logging.getLevelNamesMapping()[level.upper()]

    def printed(logger: Any, method: str, event: Event) -> str:
        return line(shape(logger, method, event))

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, printed],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *args: _Logger(sink, args[0] if args else None),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _FromStandardLibrary)]:
        root.removeHandler(handler)
    root.addHandler(_FromStandardLibrary(sink, shape, line))
    root.setLevel(max(threshold, logging.WARNING))
    logging.getLogger("relay").setLevel(threshold)  # providers that write their own log, below this name
    return sink


# --- metrics ----------------------------------------------------------------------------------------------------------

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_COMMIT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_BATCH: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """All metrics, in a registry of their own. Labels take only words of ours: routes, accounts, verdicts.

    It is also the `Watch` of the engine and of the webhook worker.
    """

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.http_requests = Counter(
            "relay_http_requests_total", "Answers given.", ("route", "method", "status"), registry=r
        )
        self.http_seconds = Histogram(
            "relay_http_seconds", "From a request's head to its answer.", ("route",), registry=r, buckets=_SECONDS
        )
        self.accepted = Counter("relay_accepted_total", "Messages accepted.", registry=r)
        self.commit_batch_size = Histogram(
            "relay_commit_batch_size", "Pieces of work in one commit.", registry=r, buckets=_BATCH
        )
        self.commit_seconds = Histogram(
            "relay_commit_seconds", "Duration of a commit's transaction.", registry=r, buckets=_COMMIT_SECONDS
        )
        self.store_refused = Counter("relay_store_refused_total", "Work refused as the queue was full.", registry=r)
        self.store_queue = Gauge("relay_store_queue", "Pieces of work that wait for the store.", registry=r)
        self.sockets = Gauge("relay_sockets", "Open device sockets of this node.", registry=r)
        self.devices_leased = Gauge("relay_devices_leased", "Devices that this node holds to be online.", registry=r)
        self.push_attempts = Counter(
            "relay_push_attempts_total", "Pushes handed to a vendor.", ("account", "provider", "verdict"), registry=r
        )
        self.webhook_attempts = Counter("relay_webhook_attempts_total", "Calls of endpoints.", ("result",), registry=r)
        self.webhook_seconds = Histogram(
            "relay_webhook_seconds", "Duration of a call of an endpoint.", registry=r, buckets=_SECONDS
        )
        self.webhooks_in_flight = Gauge("relay_webhooks_in_flight", "Calls of endpoints under way.", registry=r)
        self.webhook_late = Counter("relay_webhook_late_total", "Outcomes of calls whose claim had ended.", registry=r)
        self.circuit_open = Gauge(
            "relay_circuit_open", "1 while the vendor is thought to be away.", ("account",), registry=r
        )
        self.account_parked = Gauge(
            "relay_account_parked", "1 while the account waits for its operator.", ("account",), registry=r
        )
        self.account_rate = Gauge(
            "relay_account_rate", "Calls a second that the account may make at present.", ("account",), registry=r
        )
        self.credential_expires = Gauge(
            "relay_account_credential_expires_seconds",
            "When the account's credential ends, in seconds since 1970, if it does by itself.",
            ("account",),
            registry=r,
        )
        self.log_dropped = Counter("relay_log_dropped_total", "Log lines that the sink did not take.", registry=r)
        self.sqlite_wal_reset_affected = Gauge(
            "relay_sqlite_wal_reset_affected", "1 if this SQLite has the WAL-reset bug.", registry=r
        )
        self.ledger_imbalance = Gauge(
            "relay_ledger_imbalance", "Users whose bookkeeping does not add up; must be 0.", ("what",), registry=r
        )
        self.loop_lag_seconds = Gauge("relay_loop_lag_seconds", "How late the event loop runs.", registry=r)
        self._answers = lru_cache(maxsize=1024)(self._labelled)  # finding a label's child is dearer than counting

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """One answer. `route` is the route's pattern, never the path."""
        counter, histogram = self._answers(route, method if method in _METHODS else "other", status)
        counter.inc()
        histogram.observe(seconds)

    def _labelled(self, route: str, method: str, status: int) -> tuple[Counter, Histogram]:
        return self.http_requests.labels(route, method, str(status)), self.http_seconds.labels(route)

    def pushed(self, account: str, provider: str, verdict: str) -> None:
        """One answer of a vendor."""
        self.push_attempts.labels(account, provider, verdict).inc()

    def committed(self, size: int, seconds: float) -> None:
        self.commit_batch_size.observe(size)
        self.commit_seconds.observe(seconds)

    def refused(self) -> None:
        self.store_refused.inc()

    def attempted(self, word: str, seconds: float) -> None:
        """One call of an endpoint that ended, in the webhook worker's word."""
        self.webhook_attempts.labels(word).inc()
        self.webhook_seconds.observe(seconds)

    def in_flight(self, count: int) -> None:
        self.webhooks_in_flight.set(count)

    def late(self, count: int) -> None:
        self.webhook_late.inc(count)

    def imbalanced(self, counts: Mapping[str, int]) -> None:
        for what, count in counts.items():
            self.ledger_imbalance.labels(what).set(count)

    def lag(self, seconds: float) -> None:
        self.loop_lag_seconds.set(seconds)

    def gauges(
        self,
        *,
        sockets: int,
        leased: int,
        queue: int,
        circuits: Mapping[str, bool],
        parked: Mapping[str, bool],
        rates: Mapping[str, float] | None = None,
        expires_s: Mapping[str, float] | None = None,
        wal_reset: bool,
    ) -> None:
        """What others count, as it is now; by account where it is a mapping."""
        self.sockets.set(sockets)
        self.devices_leased.set(leased)
        self.store_queue.set(queue)
        self.sqlite_wal_reset_affected.set(wal_reset)
        for gauge, by_account in ((self.circuit_open, circuits), (self.account_parked, parked)):
            for account, yes in by_account.items():
                gauge.labels(account).set(yes)
        for number, values in ((self.account_rate, rates or {}), (self.credential_expires, expires_s or {})):
            for account, value in values.items():
                number.labels(account).set(value)

    def render(self) -> bytes:
        """In Prometheus's text format (`text/plain; version=0.0.4`)."""
        return generate_latest(self.registry)
