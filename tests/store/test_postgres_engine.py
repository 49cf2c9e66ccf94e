"""The engine on a real PostgreSQL: what it asks of the server, what it does when a connection or a transaction breaks."""

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from relay.errors import Unavailable
from relay.store.engine import Overtaken
from relay.store.postgres import PostgresEngine
from relay.store.postgres_connections import IDLE_MS

ADD = text("INSERT INTO node (node_id, started_ms, beat_ms) VALUES (:id, 0, 0)")
COUNT = text("SELECT count(*) FROM node")
PID = text("SELECT pg_backend_pid()")


@pytest.fixture
async def postgres(postgres_url: str, clock: Any) -> AsyncIterator[PostgresEngine]:
    engine = PostgresEngine(postgres_url, clock, random.Random(1), workers=2)
    yield engine
    await engine.close()


@pytest.fixture
async def other(postgres_url: str, clock: Any) -> AsyncIterator[PostgresEngine]:
    """Somebody else on the same database."""
    engine = PostgresEngine(postgres_url, clock, random.Random(2), workers=1)
    yield engine
    await engine.close()


def add(node_id: str) -> Any:
    return lambda conn, _: conn.execute(ADD, {"id": node_id})


def add_each(conn: Any, _: int, items: list[str]) -> list[str]:
    for item in items:
        conn.execute(ADD, {"id": item})
    return items


async def count(engine: PostgresEngine) -> int:
    return await engine.read(lambda conn, _: conn.execute(COUNT).scalar_one())


async def kill(engine: PostgresEngine, pid: int) -> None:
    await engine.write(lambda conn, _: conn.execute(text(f"SELECT pg_terminate_backend({pid}, 5000)")))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("synchronous_commit", "on"),
        ("statement_timeout", "5s"),
        ("lock_timeout", "2s"),
        ("idle_in_transaction_session_timeout", "15s"),
        ("transaction_isolation", "read committed"),
    ],
)
async def test_a_session_is_set_up_as_safety_dur_5_says(postgres: PostgresEngine, setting: str, value: str) -> None:
    assert await postgres.write(lambda conn, _: conn.execute(text(f"SHOW {setting}")).scalar_one()) == value


async def test_a_refused_row_is_an_answer_and_the_worker_lives_on(postgres: PostgresEngine) -> None:
    """A worker that died of it would leave every later request without an answer."""
    await postgres.write(add("a"))
    for _ in range(5):
        with pytest.raises(IntegrityError):
            await postgres.write(add("a"))
    assert await count(postgres) == 1


async def test_a_bad_item_does_not_disturb_the_others_of_its_batch(postgres: PostgresEngine) -> None:
    await postgres.write(add("5"))
    answers = await asyncio.gather(
        *(postgres.write_batched(add_each, str(n)) for n in range(20)), return_exceptions=True
    )
    assert [n for n, answer in enumerate(answers) if isinstance(answer, IntegrityError)] == [5]
    assert await count(postgres) == 20


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_a_serialization_failure_or_deadlock_repeats_the_whole_transaction(
    postgres: PostgresEngine, state: str
) -> None:
    """FLT-15: up to 5 times, unseen by the caller."""
    tries = 0

    def work(conn: Any, _: int) -> str:
        nonlocal tries
        tries += 1
        conn.execute(ADD, {"id": f"try {tries}"})
        if tries < 5:
            conn.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"))
        return "done"

    assert await postgres.write(work) == "done"
    assert (tries, await count(postgres)) == (5, 1)


async def test_after_five_tries_the_caller_is_told_to_repeat(postgres: PostgresEngine) -> None:
    tries = 0

    def work(conn: Any, _: int) -> None:
        nonlocal tries
        tries += 1
        conn.execute(text("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '40001'; END $$"))

    with pytest.raises(Unavailable) as refused:
        await postgres.write(work)
    assert (refused.value.code, tries) == ("overloaded", 5)


async def test_work_that_was_overtaken_is_run_again_from_its_beginning(postgres: PostgresEngine) -> None:
    tries = 0

    def work(conn: Any, _: int) -> str:
        nonlocal tries
        tries += 1
        conn.execute(ADD, {"id": f"try {tries}"})
        if tries < 5:
            raise Overtaken
        return "done"

    assert await postgres.write(work) == "done"
    assert (tries, await count(postgres)) == (5, 1)
    tries = -1
    with pytest.raises(Unavailable) as refused:
        await postgres.write(work)
    assert (refused.value.code, tries, await count(postgres)) == ("overloaded", 4, 1)


async def test_a_lock_that_is_held_too_long_is_a_503(postgres: PostgresEngine, other: PostgresEngine) -> None:
    held, let_go = asyncio.Event(), asyncio.Event()
    await postgres.write(add("a"))

    async def hold() -> None:
        async with other.connections.connect() as conn:
            raw = await conn.get_raw_connection()
            await raw.driver_connection.execute("BEGIN; UPDATE node SET beat_ms = 1")
            held.set()
            await let_go.wait()
            await raw.driver_connection.execute("ROLLBACK")

    holder = asyncio.create_task(hold())
    await held.wait()
    with pytest.raises(Unavailable) as refused:
        await postgres.write(lambda conn, _: conn.execute(text("UPDATE node SET beat_ms = 2")))
    assert refused.value.code == "overloaded"
    let_go.set()
    await holder


async def test_connections_that_died_in_the_pool_are_replaced_unseen(
    postgres: PostgresEngine, other: PostgresEngine
) -> None:
    """FLT-14."""
    pids = {await postgres.write(lambda conn, _: conn.execute(PID).scalar_one()) for _ in range(4)}
    pids |= {await postgres.read(lambda conn, _: conn.execute(PID).scalar_one()) for _ in range(4)}
    for pid in pids:
        await kill(other, pid)
    assert await postgres.write(lambda conn, _: conn.execute(PID).scalar_one()) not in pids
    assert await postgres.read(lambda conn, _: conn.execute(PID).scalar_one()) not in pids


async def test_a_connection_that_breaks_before_its_commit_is_repeated(
    postgres: PostgresEngine, other: PostgresEngine
) -> None:
    tries = 0

    def work(conn: Any, _: int) -> None:
        nonlocal tries
        tries += 1
        conn.execute(ADD, {"id": str(tries)})
        if tries == 1:
            conn.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    await postgres.write(work)
    assert (tries, await count(postgres)) == (2, 1)


async def test_a_commit_whose_answer_is_lost_is_unknown_and_never_repeated(postgres: PostgresEngine) -> None:
    """The server dies in COMMIT, by a trigger that runs only then."""
    for statement in (
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON node DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION die()",
    ):
        await postgres.write(lambda conn, _, statement=statement: conn.execute(text(statement)))
    tries = 0

    def work(conn: Any, _: int) -> None:
        nonlocal tries
        tries += 1
        conn.execute(ADD, {"id": str(tries)})

    with pytest.raises(Unavailable) as refused:
        await postgres.write(work)
    assert (refused.value.code, tries) == ("commit_unknown", 1)


async def test_a_commit_that_did_not_wait_for_its_replica_is_unknown(postgres: PostgresEngine) -> None:
    """The server says so in a warning, beside a COMMIT that looks right."""
    for statement in (
        "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE WARNING 'canceling wait for synchronous replication due to user request'; RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER warns AFTER INSERT ON node DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION warn()",
    ):
        await postgres.write(lambda conn, _, statement=statement: conn.execute(text(statement)))
    with pytest.raises(Unavailable) as refused:
        await postgres.write(add("a"))
    assert refused.value.code == "commit_unknown"
    await postgres.write(lambda conn, _: conn.execute(text("DROP TRIGGER warns ON node")))
    await postgres.write(add("b"))  # the connection's next COMMIT is none the worse


async def test_a_standby_is_not_used_until_it_is_promoted(own_postgres: Any, clock: Any) -> None:
    """Its rows may be old, and it takes no writes: after a failover a URL's name may still lead to the old primary."""
    signal = own_postgres.data / "standby.signal"
    engine = PostgresEngine(own_postgres.url, clock, random.Random(1), workers=1)
    await engine.write(lambda conn, _: conn.execute(text("SELECT 1")))
    await asyncio.to_thread(own_postgres.stop, "fast")
    signal.touch()
    await asyncio.to_thread(own_postgres.start)
    for call in (engine.write(lambda conn, _: None), engine.read(lambda conn, _: None)):
        with pytest.raises(Unavailable) as refused:
            await call
        assert refused.value.code == "storage_unavailable"
    await asyncio.to_thread(own_postgres.run, "pg_ctl", "-w", "-D", str(own_postgres.data), "promote")
    await engine.write(lambda conn, _: conn.execute(text("SELECT 1")))
    await engine.close()


async def test_a_promotion_is_a_new_server_before_anything_else_is_done_on_it(own_postgres: Any, clock: Any) -> None:
    """Protocol §4.1: its log may lack commits that were confirmed."""
    engine = PostgresEngine(own_postgres.url, clock, random.Random(1), workers=1)
    told: list[str] = []
    await engine.connections.begin()
    await engine.connections.watch_server(lambda conn, now_ms, server: told.append(server.mark))
    await asyncio.to_thread(own_postgres.stop, "fast")
    (own_postgres.data / "standby.signal").touch()
    await asyncio.to_thread(own_postgres.start)
    await asyncio.to_thread(own_postgres.run, "pg_ctl", "-w", "-D", str(own_postgres.data), "promote")
    seen_first = await engine.write(lambda conn, _: list(told))
    before, after = seen_first
    assert before.split("/")[0] == after.split("/")[0]
    assert (before.split("/")[1], after.split("/")[1]) == ("00000001", "00000002")
    await engine.close()


WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


async def test_a_commit_whose_wait_for_a_replica_is_cancelled_is_unknown(own_postgres: Any, clock: Any) -> None:
    """DUR-5, on a server whose replica is away: COMMIT waits longer than any timeout, until somebody ends its wait."""
    await asyncio.to_thread(own_postgres.stop, "fast")
    await asyncio.to_thread(own_postgres.start, synchronous_standby_names="absent")
    operator = await asyncpg.connect(own_postgres.url, server_settings={"synchronous_commit": "local"})
    await operator.execute("CREATE TABLE node (node_id text, started_ms bigint, beat_ms bigint)")
    engine = PostgresEngine(own_postgres.url, clock, random.Random(1), workers=1)
    writing = asyncio.create_task(engine.write(add("a")))
    async with asyncio.timeout(10):
        while (pid := await operator.fetchval(WAITING)) is None:
            await asyncio.sleep(0.02)  # noqa: TID251 - until the server says that it waits
    await operator.execute(f"SELECT pg_cancel_backend({pid})")
    with pytest.raises(Unavailable) as refused:
        await writing
    assert refused.value.code == "commit_unknown"
    assert await operator.fetchval("SELECT count(*) FROM node") == 1  # as it may be
    await operator.close()
    await engine.close()


async def test_the_statement_timeout_does_not_hold_for_commit(postgres: PostgresEngine) -> None:
    for statement in (
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON node DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION slow()",
    ):
        await postgres.write(lambda conn, _, statement=statement: conn.execute(text(statement)))

    def work(conn: Any, _: int) -> None:
        conn.execute(text("SET LOCAL statement_timeout = 100"))
        conn.execute(ADD, {"id": "a"})

    await postgres.write(work)
    assert await count(postgres) == 1


def socket_of(url: str) -> str:
    """The folder of the server's socket."""
    host = parse_qs(urlsplit(url).query).get("host")
    if host is None:
        pytest.skip("the given server is not reached by a socket of this machine")
    return host[0]


class Wire:
    """A way to the server that can go dead: it stays open, and nothing comes through any more."""

    def __init__(self) -> None:
        self.dead: set[int] = set()
        self.count = 0
        self.near: list[asyncio.StreamWriter] = []
        self._pumps: list[asyncio.Task[None]] = []

    async def serve(self, near: str, far: str) -> asyncio.Server:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.count += 1
            self.near.append(writer)
            away_reader, away_writer = await asyncio.open_unix_connection(far)
            for source, sink in ((reader, away_writer), (away_reader, writer)):
                self._pumps.append(asyncio.create_task(self._pump(self.count, source, sink)))

        return await asyncio.start_unix_server(take, near)

    async def _pump(self, number: int, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while chunk := await source.read(65536):
            if number not in self.dead:
                sink.write(chunk)
        sink.close()

    async def aclose(self) -> None:
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)


async def test_a_connection_that_lay_idle_is_asked_before_it_is_trusted(
    postgres_url: str, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-open one looks healthy until it is used (FLT-14)."""
    monkeypatch.setattr("relay.store.postgres_connections.PING_S", 0.2)
    wire = Wire()
    with tempfile.TemporaryDirectory() as folder:  # a path that is short enough for a socket
        host = socket_of(postgres_url)
        server = await wire.serve(f"{folder}/.s.PGSQL.5432", f"{host}/.s.PGSQL.5432")
        engine = PostgresEngine(postgres_url.replace(host, folder), clock, random.Random(1), workers=1)
        await engine.write(add("a"))
        opened = wire.count
        wire.dead = set(range(1, opened + 1))
        clock.forward(ms=IDLE_MS + 1)
        await engine.write(add("b"))
        assert wire.count == opened + 1
        assert await count(engine) == 2
        await engine.close()
        server.close()
        await wire.aclose()


async def test_a_server_that_says_good_bye_to_an_idle_connection_is_left_for_another(
    postgres_url: str, clock: Any
) -> None:
    """Its last word may be there before the connection is closed; the driver can do nothing with it from then on (F36)."""
    fields = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
    good_bye = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
    wire = Wire()
    with tempfile.TemporaryDirectory() as folder:
        host = socket_of(postgres_url)
        server = await wire.serve(f"{folder}/.s.PGSQL.5432", f"{host}/.s.PGSQL.5432")
        engine = PostgresEngine(postgres_url.replace(host, folder), clock, random.Random(1), workers=1)
        await engine.write(add("a"))
        opened = wire.count
        for writer in wire.near:
            writer.write(good_bye)
        for _ in range(100):
            await asyncio.sleep(0)  # noqa: TID251 - turns of the loop, in which the engine's end of the wires reads it
        assert await count(engine) == 1
        await engine.write(add("b"))
        assert wire.count > opened
        assert await count(engine) == 2
        await engine.close()
        server.close()
        await wire.aclose()


async def test_a_server_that_is_away_is_a_503_and_needs_no_restart_of_ours(postgres_url: str, clock: Any) -> None:
    """FLT-10."""
    with tempfile.TemporaryDirectory() as folder:
        host = socket_of(postgres_url)
        engine = PostgresEngine(postgres_url.replace(host, folder), clock, random.Random(1), workers=1)
        for call in (engine.write(add("a")), engine.read(lambda conn, _: None)):
            with pytest.raises(Unavailable) as refused:
                await call
            assert refused.value.code == "storage_unavailable"
        wire = Wire()
        server = await wire.serve(f"{folder}/.s.PGSQL.5432", f"{host}/.s.PGSQL.5432")
        await engine.write(add("a"))
        await engine.close()
        server.close()
        await wire.aclose()


async def test_requests_that_go_away_in_the_middle_of_a_read_interrupt_no_connection(
    postgres: PostgresEngine, other: PostgresEngine
) -> None:
    """DUR-6: at random points; no answer reaches another request, and every connection is as it was."""
    rng = random.Random(6)
    slowly = text("SELECT CAST(:n AS int), pg_backend_pid() FROM pg_sleep(0.002)")

    async def read(n: int) -> tuple[int, int]:
        number, pid = await postgres.read(lambda conn, _: conn.execute(slowly, {"n": n}).one())
        return number, pid

    async def read_a_while(n: int) -> tuple[int, int] | None:
        try:
            async with asyncio.timeout(rng.uniform(0, 0.02)):
                return await read(n)
        except TimeoutError:
            return None

    async def pids() -> set[int]:
        return {pid for _, pid in await asyncio.gather(*map(read, range(20)))}

    before, told = await pids(), 0
    for first in range(0, 400, 4):
        answers = await asyncio.gather(*(read_a_while(n) for n in range(first, first + 4)))
        assert [answer[0] for answer in answers if answer] == [
            n for n, answer in enumerate(answers, first) if answer is not None
        ]
        told += sum(answer is not None for answer in answers)
    assert 0 < told < 400, "some were answered and some had gone"
    assert await pids() == before, "no connection had to be replaced"
    hanging = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in tr%'"
    assert await other.read(lambda conn, _: conn.execute(text(hanging)).scalar_one()) == 0


async def test_a_read_whose_request_has_gone_is_finished_before_the_engine_closes(
    postgres: PostgresEngine,
) -> None:
    running, finished = asyncio.Event(), []

    def work(conn: Any, _: int) -> None:
        running.set()
        finished.append(conn.execute(text("SELECT 1 FROM pg_sleep(0.2)")).scalar_one())

    request = asyncio.create_task(postgres.read(work))
    await running.wait()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await postgres.close()
    assert finished == [1]
