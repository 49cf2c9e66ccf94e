import ast
import io
import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from relay.credentials import mint_api_key, mint_device_token
from relay.secret import Secret
from relay.telemetry.fields import FIELDS, VALUE_CHARS_MAX, hashed, safe
from relay.telemetry.logs import setup_logging
from relay.telemetry.metrics import Metrics
from relay.telemetry.sink import LINES_MAX, LogSink

PROJECT = Path(__file__).parents[2]
LEVELS = {"debug", "info", "warning", "error", "exception"}


class At:
    """A clock that stands still."""

    def __init__(self, ms: int) -> None:
        self.ms = ms

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(seconds)


class Log:
    """What was logged, as text and as events."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.sink: LogSink | None = None

    def begin(self, level: str = "info", form: str = "json", *, at_ms: int = 1_764_000_000_000, **more: Any) -> None:
        if self.sink is not None:
            self.sink.stop()
        self.sink = setup_logging(level, form, self.stream, clock=At(at_ms), **more)

    def text(self) -> str:
        assert self.sink is not None
        assert self.sink.flush()
        return self.stream.getvalue()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]

    def event(self) -> dict[str, Any]:
        [event] = self.events()
        return event


@pytest.fixture
def log() -> Iterator[Log]:
    root, ours = logging.getLogger(), logging.getLogger("relay")
    before = (root.handlers[:], root.level, ours.level)
    logged = Log()
    logged.begin()
    yield logged
    assert logged.sink is not None
    logged.sink.stop()
    root.handlers[:], root.level, ours.level = before
    structlog.reset_defaults()


relay = structlog.get_logger("relay.test")


# --- events ---


def test_an_event_is_one_line_of_json(log: Log) -> None:
    relay.info("push.settled", app="shop", account="main", verdict="token_dead", ms=12, count=None)
    assert log.event() == {
        "ts": "2025-11-24T16:00:00.000Z",
        "level": "info",
        "logger": "relay.test",
        "event": "push.settled",
        "app": "shop",
        "account": "main",
        "verdict": "token_dead",
        "ms": 12,
    }


def test_the_console_reads_as_a_sentence(log: Log) -> None:
    log.begin(form="console")
    relay.warning("chore.put_off", chore="prune", reason="a b", ms=1.5)
    assert (
        log.text() == '2025-11-24T16:00:00.000Z warning  chore.put_off chore=prune reason="a b" ms=1.5 [relay.test]\n'
    )


def test_below_the_level_nothing_is_said(log: Log) -> None:
    log.begin("warning")
    relay.info("quiet")
    relay.error("loud")
    assert log.event()["event"] == "loud"


def test_fields_that_are_not_on_the_list_are_dropped(log: Log) -> None:
    relay.info("x", body="hunter2", token="hunter2", title="hunter2", authorization="hunter2", url="hunter2", code="ok")
    assert log.event().keys() == {"ts", "level", "logger", "event", "code"}
    assert not FIELDS & {"body", "data", "title", "token", "secret", "key", "url", "query", "headers", "signature"}


def _said() -> Iterator[tuple[str, set[str]]]:
    """Each call of a logger in the product: where it stands, and the fields that it names."""
    for file in [file for room in ("relay", "providers") for file in (PROJECT / room).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=level)) if level in LEVELS:
                    fields = {one.arg or "**" for one in node.keywords}
                    yield f"{file.relative_to(PROJECT)}:{node.lineno}", fields - {"exc_info"}


def test_no_line_of_the_product_names_a_field_that_is_dropped() -> None:
    said = dict(_said())
    assert len(said) > 50
    assert {place: fields - FIELDS for place, fields in said.items() if fields - FIELDS} == {}


def test_a_caller_cannot_set_what_we_say_ourselves(log: Log) -> None:
    relay.info("x", ts="never", level="never", logger="never")
    assert "never" not in log.text()


def test_users_and_devices_appear_as_hashes(log: Log) -> None:
    relay.info("x", user="ada@example.com", device="phone")
    assert log.event()["user"] == hashed("ada@example.com") == "b5fc85e5"
    assert log.event()["device"] == hashed("phone")
    assert "ada" not in log.text()


def test_only_text_and_numbers_have_values(log: Log) -> None:
    relay.info(
        "x", code={"a": "hunter2"}, reason=["hunter2"], kind=Secret("hunter2"), then=ValueError("hunter2"), ms=2**70
    )
    assert "hunter2" not in log.text()
    event = log.event()
    assert (event["code"], event["reason"], event["kind"], event["ms"]) == ("<dict>", "<list>", "**********", "<int>")


def test_an_exception_is_told_by_its_class_and_its_way(log: Log) -> None:
    def deep() -> None:
        raise KeyError("hunter2")

    try:
        try:
            deep()
        except KeyError as error:
            raise ValueError("hunter2") from error
    except ValueError:
        relay.exception("http.bug", request_id="1")
    event = log.event()
    assert (event["level"], event["error"], event["cause"]) == ("error", "ValueError", "KeyError")
    assert event["trace"].startswith("tests/unit/test_telemetry.py:")
    assert " deep < tests/unit/test_telemetry.py:" in event["cause_trace"]
    assert "hunter2" not in log.text()


def test_an_exception_group_tells_its_first(log: Log) -> None:
    relay.error("x", exc_info=ExceptionGroup("hunter2", [OSError("hunter2")]))
    assert (log.event()["error"], log.event()["cause"]) == ("ExceptionGroup", "OSError")
    assert "hunter2" not in log.text()


def test_a_context_joins_every_event(log: Log) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r1", body="hunter2"):
        relay.info("x")
    assert log.event()["request_id"] == "r1"
    assert "hunter2" not in log.text()


@pytest.mark.parametrize("ms", [0, 2_147_483_648_000, 4_291_747_200_000, 253_402_300_799_999, 10**18, -1])
def test_any_time_can_be_told(log: Log, ms: int) -> None:
    log.begin(at_ms=ms)
    relay.info("x")
    assert log.event()["ts"]


# --- harmless text ---


@pytest.mark.parametrize("form", ["json", "console"])
def test_nothing_forges_a_line_or_moves_the_terminal(log: Log, form: str) -> None:
    log.begin(form=form)
    evil = 'a\r\nb\x1b[2J\x9b31m\x00\x7f\u2028\u202eц\ud800"\\'
    relay.info(evil, reason=evil, user=evil)
    text = log.text()
    assert text.count("\n") == 1
    assert not [c for c in text[:-1] if not c.isprintable()]
    text.encode()


@given(st.text(max_size=1000))
def test_safe_text_is_printable_and_short(text: str) -> None:
    shown = safe(text)
    assert len(shown) <= 6 * (VALUE_CHARS_MAX + 1)
    assert not [c for c in shown if ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000]


RNG = random.Random(1)


@pytest.mark.parametrize(
    "credential",
    [
        mint_api_key(RNG)[0],
        mint_device_token(RNG)[0],
        "whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=",
        "whsk_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=",
        "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
        "ya29.a0AfH6SMBx1234567890",
    ],
)
def test_a_credential_inside_a_text_is_masked(credential: str) -> None:
    for text in (credential, f"no: {credential}, sorry", f"Bearer {credential}", f"https://a/b?c={credential}"):
        assert credential[8:] not in safe(text)


def test_logins_and_queries_of_urls_are_masked() -> None:
    assert safe("postgresql://u:hunter2@h/d") == "postgresql://**********h/d"
    assert safe("GET /v1/sync?ticket=hunter2&x=1 HTTP/1.1") == "GET /v1/sync?********** HTTP/1.1"
    assert safe("Authorization: Basic aHVudGVyMg==") == "Authorization: **********"
    assert safe("-----BEGIN PRIVATE KEY-----\nhunter2").count("hunter2") == 0
    assert safe("forward_addresses_of_every_device") == "forward_addresses_of_every_device"


def test_a_credential_is_masked_before_the_text_is_cut() -> None:
    key = mint_api_key(RNG)[0]
    assert key[:20] not in safe("x" * (VALUE_CHARS_MAX - 30) + " " + key)


# --- the standard library ---


def test_warnings_of_libraries_come_through_the_same_sink(log: Log) -> None:
    logging.getLogger("aiohttp.access").info("GET /")
    logging.getLogger("apscheduler").warning("Job %s missed", "hunter2")
    event = log.event()
    assert (event["level"], event["logger"], event["event"]) == ("warning", "apscheduler", "Job %s missed")


def test_a_librarys_words_are_told_without_its_values(log: Log) -> None:
    try:
        raise RuntimeError("hunter2")
    except RuntimeError:
        logging.getLogger("asyncio").exception("Task exception was never retrieved\nfuture: hunter2")
    assert log.event()["event"] == "Task exception was never retrieved"
    assert log.event()["error"] == "RuntimeError"
    assert "hunter2" not in log.text()


def test_our_own_providers_log_at_our_level(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest's own handlers take offence at a record that we survive.
    root = logging.getLogger()
    monkeypatch.setattr(
        root, "handlers", [one for one in root.handlers if type(one).__module__ == "relay.telemetry.logs"]
    )
    logging.getLogger("relay.provider.log").info("push.logged id=%r", "1")
    logging.getLogger("relay.provider.log").debug("no")
    assert log.event()["event"] == "push.logged id='1'"
    logging.getLogger("relay.provider.log").info("%d", "not a number")
    assert log.events()[1]["event"] == "%d"


def test_setting_up_again_replaces_the_old(log: Log) -> None:
    log.begin()
    log.begin()
    logging.getLogger("x").warning("once")
    relay.info("once")
    assert len(log.events()) == 2


# --- the sink ---


class Blocked(io.StringIO):
    """A stream that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.free = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        assert self.free.wait(10)
        return super().write(text)


def test_a_blocked_sink_drops_with_a_counter_and_says_so_later() -> None:
    """Safety FLT-41."""
    stream, drops = Blocked(), []
    sink = LogSink(stream, notice=lambda count: f"dropped {count}", on_drop=lambda: drops.append(1))
    sink.write("first")
    assert stream.entered.wait(10)
    for number in range(LINES_MAX + 7):
        sink.write(str(number))
    assert sink.dropped == len(drops) == 7
    assert not sink.flush(timeout_s=0.01)
    stream.free.set()
    assert sink.stop(timeout_s=10)
    lines = stream.getvalue().splitlines()
    assert lines[:3] == ["first", "dropped 7", "0"]
    assert len(lines) == LINES_MAX + 2


def test_a_full_pipe_does_not_hold_the_caller_up() -> None:
    readable, writable = os.pipe()
    with os.fdopen(readable, "rb", buffering=0) as reader, os.fdopen(writable, "w") as stream:
        sink = LogSink(stream)
        began = time.perf_counter()
        for _ in range(LINES_MAX + 1000):
            sink.write("x" * 199)
        assert time.perf_counter() - began < 5
        assert sink.dropped > 0
        assert not sink.stop(timeout_s=0.01)
        missing = (LINES_MAX + 1000 - sink.dropped) * 200
        while missing:
            missing -= len(reader.read(missing) or b"")
        assert sink.stop()


def test_a_reader_that_went_away_is_survived() -> None:
    readable, writable = os.pipe()
    os.close(readable)
    with os.fdopen(writable, "w") as stream:
        sink = LogSink(stream)
        sink.write("x")
        assert sink.flush()
        assert sink.dropped == 1
        assert sink.stop()


def test_a_pipe_that_does_not_block_loses_nothing() -> None:
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    with os.fdopen(readable, "rb") as reader, os.fdopen(writable, "w") as stream:
        sink = LogSink(stream)
        for _ in range(1000):
            sink.write("x" * 199)
        assert len(reader.read(200_000)) == 200_000
        assert sink.stop()
        assert sink.dropped == 0


def test_a_closed_stream_is_survived() -> None:
    stream = io.StringIO()
    sink = LogSink(stream)
    stream.close()
    sink.write("x")
    assert sink.stop()
    assert sink.dropped == 1


def test_after_the_stop_lines_are_dropped() -> None:
    stream = io.StringIO()
    sink = LogSink(stream)
    sink.write("before")
    assert sink.stop()
    sink.write("after")
    assert stream.getvalue() == "before\n"
    assert sink.dropped == 1
    assert not sink.flush(timeout_s=0.01)
    assert sink.stop()


def test_lines_of_many_threads_stay_whole() -> None:
    stream = io.StringIO()
    sink = LogSink(stream)

    def write(letter: str) -> None:
        for _ in range(200):
            sink.write(letter * 100)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sink.stop()
    assert sorted(stream.getvalue().splitlines()) == sorted(c * 100 for c in "abcd" for _ in range(200))


def test_lost_lines_are_a_metric(log: Log) -> None:
    metrics = Metrics()
    log.begin(metrics=metrics)
    assert log.sink is not None
    log.sink.stop()
    relay.info("lost")
    assert b"relay_log_dropped_total 1.0" in metrics.render()


def test_lines_that_wait_for_a_sink_that_blocks_are_a_metric(log: Log) -> None:
    metrics = Metrics()
    log.begin(metrics=metrics)
    assert log.sink is not None
    assert log.sink.stop()  # nothing takes lines from here on
    log.sink._lines.put("waits")
    page = metrics.render().decode().splitlines()
    assert 'relay_queue_size{queue="log_lines"} 1.0' in page
    assert 'relay_queue_bound{queue="log_lines"} 8192.0' in page


# --- metrics ---

NAMES = [
    "relay_http_requests_total",
    "relay_http_seconds",
    "relay_accepted_total",
    "relay_commit_batch_size",
    "relay_commit_seconds",
    "relay_store_refused_total",
    "relay_sockets",
    "relay_devices_leased",
    "relay_push_attempts_total",
    "relay_webhook_attempts_total",
    "relay_circuit_open",
    "relay_account_parked",
    "relay_account_impaired",
    "relay_log_dropped_total",
    "relay_sqlite_wal_reset_affected",
    "relay_loop_lag_seconds",
    "relay_loop_blocked_total",
    "relay_store_queue",
    "relay_queue_size",
    "relay_queue_bound",
    "relay_queue_refused_total",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_is_there(name: str) -> None:
    assert f"# HELP {name} ".encode() in Metrics().render()


def test_each_relay_counts_for_itself() -> None:
    one, other = Metrics(), Metrics()
    one.accepted.inc(3)
    assert b"relay_accepted_total 3.0" in one.render()
    assert b"relay_accepted_total 0.0" in other.render()


@pytest.mark.parametrize(
    ("tell", "line"),
    [
        (
            lambda m: m.request("/v1/messages", "POST", 202, 0.01),
            'relay_http_requests_total{method="POST",route="/v1/messages",status="202"} 1.0',
        ),
        (
            lambda m: m.request("/v1/messages", "X\n", 405, 0.01),
            'relay_http_requests_total{method="other",route="/v1/messages",status="405"} 1.0',
        ),
        (
            lambda m: m.request("/v1/messages", "POST", 202, 0.02),
            'relay_http_seconds_bucket{le="0.025",route="/v1/messages"} 1.0',
        ),
        (
            lambda m: m.request("/v1/messages", "POST", 202, 0.025),  # a bound belongs to what is below it
            'relay_http_seconds_bucket{le="0.025",route="/v1/messages"} 1.0',
        ),
        (
            lambda m: [m.request("/v1/messages", "POST", 202, seconds) for seconds in (0.02, 0.25, 90.0)],
            'relay_http_seconds_bucket{le="0.25",route="/v1/messages"} 2.0',
        ),
        (
            lambda m: [m.request("/v1/messages", "POST", 202, seconds) for seconds in (0.5, 90.0)],
            'relay_http_seconds_bucket{le="+Inf",route="/v1/messages"} 2.0',
        ),
        (
            lambda m: [m.request("/v1/messages", "POST", 202, seconds) for seconds in (0.5, 90.0)],
            'relay_http_seconds_sum{route="/v1/messages"} 90.5',
        ),
        (lambda m: m.committed(7, 0.003), 'relay_commit_batch_size_bucket{le="8.0"} 1.0'),
        (lambda m: m.committed(7, 0.003), 'relay_commit_seconds_bucket{le="0.005"} 1.0'),
        (lambda m: m.refused(), "relay_store_refused_total 1.0"),
        (lambda m: m.turned_away("syncs"), 'relay_queue_refused_total{queue="syncs"} 1.0'),
        (
            lambda m: m.pushed("main", "fcm", "accepted"),
            'relay_push_attempts_total{account="main",provider="fcm",verdict="accepted"} 1.0',
        ),
        (lambda m: m.attempted("delivered", 0.2), 'relay_webhook_attempts_total{result="delivered"} 1.0'),
        (lambda m: m.in_flight(4), "relay_webhooks_in_flight 4.0"),
        (lambda m: m.late(2), "relay_webhook_late_total 2.0"),
        (lambda m: m.lag(0.25), "relay_loop_lag_seconds 0.25"),
        (lambda m: m.blocked(), "relay_loop_blocked_total 1.0"),
    ],
)
def test_what_is_told_is_counted(tell: Callable[[Metrics], None], line: str) -> None:
    metrics = Metrics()
    tell(metrics)
    assert line in metrics.render().decode().splitlines()


def test_gauges_show_how_things_stand() -> None:
    metrics = Metrics()
    metrics.gauges(sockets=3, leased=2, queue=1, circuits={"main": True}, parked={"main": True}, wal_reset=True)
    metrics.gauges(sockets=4, leased=2, queue=1, circuits={"main": True}, parked={"main": False}, wal_reset=True)
    assert {
        "relay_sockets 4.0",
        "relay_devices_leased 2.0",
        "relay_store_queue 1.0",
        'relay_circuit_open{account="main"} 1.0',
        'relay_account_parked{account="main"} 0.0',
        "relay_sqlite_wal_reset_affected 1.0",
    } <= set(metrics.render().decode().splitlines())


def test_an_account_that_is_gone_shows_no_more() -> None:
    """An alert on its last state, parked, say, would never end."""
    metrics = Metrics()
    there = {"circuits": {"old": True}, "parked": {"old": True}, "impaired": {"old": True}}
    metrics.gauges(
        sockets=0,
        leased=0,
        queue=0,
        calls={"old": (1, 2)},
        rates={"old": 5.0},
        expires_s={"old": 1.0},
        wal_reset=False,
        **there,
    )
    assert metrics.render().decode().count('account="old"') == 7
    metrics.gauges(sockets=0, leased=0, queue=0, circuits={}, parked={}, wal_reset=False)
    assert 'account="old"' not in metrics.render().decode()
