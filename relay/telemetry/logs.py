"""Events become log lines: known fields only, in a fixed order, from structlog and from the standard library."""

import logging
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TextIO

import msgspec
import structlog

from relay.clock import Clock, SystemClock, rfc3339
from relay.secret import MASK, Secret
from relay.telemetry.fields import FIELDS, HASHED, hashed, safe
from relay.telemetry.metrics import Metrics
from relay.telemetry.sink import LINES_MAX, LogSink

EVENT_CHARS_MAX: Final = 120
FRAMES_MAX: Final = 12
INT_MAX: Final = 2**63

_ORDER: Final = ("ts", "level", "logger", "event")

Event = MutableMapping[str, Any]


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
    if metrics is not None:
        metrics.queue_size.labels("log_lines").set_function(lambda: sink.waiting)
        metrics.queue_bound.labels("log_lines").set(LINES_MAX)
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
