"""Backing the SQLite store up and restoring it: what a backup is, and every reason not to make or take one
(safety BAK-1 to BAK-3, B119)."""

import asyncio
import base64
import hashlib
import json
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from clocks import SetClock
from house import House

from relay.cli import main
from relay.clock import SystemClock
from relay.ids import system_rng
from relay.keys import KeyRing
from relay.store import apps, backup, manifest, meta, replace, rollback, vault
from relay.store import migrate as store_migrate
from relay.store.engine import Engine
from relay.store.events import NewEvent, emit
from relay.store.migrate import HEAD, migrate
from relay.store.sqlite import SqliteEngine
from relay.store.sqlite_file import OwnerLock, connect

NOWHERE = Path("/proc/relay-test")  # root or not, nobody can write there
MIB = 1024 * 1024
DAY_S = 86_400


class Shell:
    """An operator in the relay's folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env: dict[str, str | None] = {"COLUMNS": "300", "RELAY_KEYS": None}

    def run(self, *words: str | Path) -> Result:
        """Runs `relay ...`, in a thread since it may have a loop of its own."""
        with ThreadPoolExecutor(1) as pool:
            ran = pool.submit(CliRunner().invoke, main, [str(word) for word in words], env=self.env).result(timeout=60)
        assert "Traceback" not in ran.output
        return ran

    def does(self, *words: str | Path) -> str:
        ran = self.run(*words)
        assert ran.exit_code == 0, (ran.output, ran.exception)
        return ran.stdout

    def refuses(self, exit_code: int, *words: str | Path) -> str:
        """... and changes nothing; gives what it says."""
        before = self.files()
        ran = self.run(*words)
        assert ran.exit_code == exit_code, (ran.output, ran.exception)
        assert self.files() == before
        return ran.stderr

    def with_file_limit(self, size: int, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs `relay ...` on a disk where no file may become larger than this."""
        return subprocess.run(
            [sys.executable, "-B", "-m", "relay", *words],  # -B: or it leaves half a .pyc to others
            cwd=self.home,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def files(self) -> dict[str, str]:
        """Every file here by its contents, but those that only say who is there, and logs that hold nothing."""
        return {
            str(one.relative_to(self.home)): hashlib.sha256(one.read_bytes()).hexdigest()
            for one in self.home.rglob("*")
            if one.is_file() and not one.name.endswith((".lock", "-shm"))
            if one.stat().st_size or not one.name.endswith("-wal")
        }


class Place:
    """A relay's folder with a store in it, open or not."""

    def __init__(self, home: Path, ring: KeyRing, *, app: str = "shop") -> None:
        self.database = home / "relay.db"
        self._ring = ring
        self._app = app

    async def opened(self) -> SqliteEngine:
        engine = SqliteEngine(self.database, SystemClock())
        rng = system_rng()
        await engine.write(migrate)
        await engine.write(lambda conn, now_ms: meta.prepare(conn, now_ms, rng))
        await engine.write(
            lambda conn, now_ms: apps.create_app(conn, now_ms, app_id=self._app, id_secret=rng.randbytes(32))
        )
        await engine.write(lambda conn, now_ms: vault.give_keys(conn, now_ms, self._ring, rng))
        return engine

    async def filled(self, *, facts: int) -> None:
        engine = await self.opened()
        await engine.write(lambda conn, now_ms: tell(conn, now_ms, self._app, range(facts)))
        await engine.close()

    def rows(self, statement: str) -> list[Any]:
        conn = sqlite3.connect(self.database)
        try:
            return conn.execute(statement).fetchall()
        finally:
            conn.close()

    def facts(self) -> int:
        ((count,),) = self.rows("SELECT count(*) FROM event WHERE type = 'fact'")
        return int(count)

    def epoch(self) -> str:
        ((epoch,),) = self.rows("SELECT epoch FROM store_meta")
        return str(epoch)


def tell(conn: Any, now_ms: int, app_id: str, numbers: range) -> None:
    """Writes some rows; 2 kB each."""
    emit(
        conn,
        now_ms,
        [NewEvent(app_id=app_id, event_id=f"evt_{n}", type="fact", data={"n": n, "text": "x" * 2000}) for n in numbers],
    )


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    for name in list(os.environ):
        if name.startswith("RELAY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return Shell(tmp_path)


@pytest.fixture
def ring(shell: Shell) -> KeyRing:
    return KeyRing.create(shell.home / "relay.keys", system_rng())


@pytest.fixture
async def place(shell: Shell, ring: KeyRing) -> Place:
    """A store that nobody uses at the moment."""
    place = Place(shell.home, ring)
    await place.filled(facts=300)
    return place


@pytest.fixture
async def running(place: Place) -> AsyncIterator[SqliteEngine]:
    engine = await place.opened()
    yield engine
    await engine.close()


@pytest.fixture
def saved(shell: Shell, place: Place) -> Path:
    """A backup of the store."""
    shell.does("backup", "saved")
    return shell.home / "saved"


def mend(saved: Path, **members: Any) -> None:
    """Rewrites the manifest."""
    path = saved / manifest.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | members))


# --- what a backup is -------------------------------------------------------------------------------------------------


async def test_a_backup_is_one_whole_file_and_a_manifest_that_says_what_is_in_it(
    shell: Shell, place: Place, running: SqliteEngine
) -> None:
    said = shell.does("backup", "saved")
    saved = shell.home / "saved"
    assert sorted(one.name for one in saved.iterdir()) == ["manifest.json", "store.db"]
    told = json.loads((saved / "manifest.json").read_text())
    data = (saved / "store.db").read_bytes()
    assert told["file"] == {"name": "store.db", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert (told["product"], told["schema"], told["key_ids"]) == ("push-relay", HEAD, [1])
    assert told["epoch"] == place.epoch()
    assert told["tables"]["event"] == 300
    assert told["epoch"] in said
    conn = sqlite3.connect(f"file:{saved / 'store.db'}?mode=ro&immutable=1", uri=True)  # without a log beside it
    assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert conn.execute("SELECT count(*) FROM event").fetchall() == [(300,)]
    conn.close()


def test_nobody_else_can_read_a_backup(saved: Path) -> None:
    assert saved.stat().st_mode & 0o077 == 0
    assert (saved / "store.db").stat().st_mode & 0o077 == 0


def test_no_key_of_the_ring_is_in_a_backup(shell: Shell, saved: Path) -> None:
    (key,) = json.loads((shell.home / "relay.keys").read_text())["keys"]
    for one in saved.iterdir():
        assert key["key"].encode() not in one.read_bytes()
        assert base64.urlsafe_b64decode(key["key"]) not in one.read_bytes()


def test_a_store_that_nobody_uses_is_backed_up_and_left_as_it_was(shell: Shell, place: Place) -> None:
    before = place.database.read_bytes()
    shell.does("backup", "saved")
    assert place.database.read_bytes() == before
    shell.does("restore", "saved", "--force")
    assert place.facts() == 300


async def test_what_is_written_during_a_backup_is_not_in_it_and_the_writer_does_not_wait(
    place: Place, running: SqliteEngine, tmp_path: Path
) -> None:
    loop = asyncio.get_running_loop()
    written = 0

    def pause(seconds: float) -> None:
        """Between two steps of the copy, a write comes to its end."""
        nonlocal written
        del seconds
        work = running.write(lambda conn, now_ms: tell(conn, now_ms, "shop", range(1000 + written, 1001 + written)))
        asyncio.run_coroutine_threadsafe(work, loop).result(timeout=10)
        written += 1

    found = await asyncio.to_thread(
        backup.back_up,
        *(place.database, tmp_path / "saved", SystemClock()),
        rate_bytes_s=1,
        keep_free_bytes=0,
        pause=pause,
        progress=lambda *_: None,
    )
    assert written > 2
    assert found.tables["event"] == 300
    assert place.facts() == 300 + written


class Metronome:
    """A clock of which only waiting takes time."""

    def __init__(self) -> None:
        self.s = 0.0

    def now_ms(self) -> int:
        return 0

    def monotonic_ms(self) -> int:
        return round(self.s * 1000)

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("the pace is kept by the thread's own wait")

    def wait(self, seconds: float) -> None:
        self.s += seconds


def test_a_copy_goes_no_faster_than_its_rate() -> None:
    clock = Metronome()
    pace = backup.Pace(clock, MIB, clock.wait)
    for step in range(1, 41):
        pace.moved(step * MIB // 4)
        assert clock.s == pytest.approx(step / 4, abs=0.002)


def test_a_backup_that_a_kill_broke_off_is_no_backup_and_in_nobodys_way(shell: Shell, place: Place) -> None:
    child = subprocess.Popen([sys.executable, "-m", "relay", "backup", "--rate", "0.1", "saved"], cwd=shell.home)
    while not (shell.home / "saved.part" / "store.db").exists():
        assert child.poll() is None
    ran = shell.run("backup", "saved")
    assert ran.exit_code == 75
    assert "just being made" in ran.stderr
    child.kill()
    child.wait()
    assert not (shell.home / "saved").exists()
    shell.does("backup", "saved")
    assert not (shell.home / "saved.part").exists()


# --- why none is made -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_b119_a_target_that_is_there_is_kept(shell: Shell, place: Place, kind: str) -> None:
    target = shell.home / "saved"
    make: dict[str, Callable[[], object]] = {
        "folder": target.mkdir,
        "file": target.touch,
        "link": lambda: target.symlink_to("nowhere"),
    }
    make[kind]()
    assert "is there already" in shell.refuses(73, "backup", "saved")


def test_folders_above_the_target_are_not_made_for_they_may_be_a_disk_that_is_not_mounted(
    shell: Shell, place: Place
) -> None:
    said = shell.refuses(74, "backup", "backups/monday")
    assert "monday: cannot be made (No such file or directory); make or mount the folder above it first." in said
    assert not (shell.home / "backups").exists()


def test_there_is_nothing_to_back_up(shell: Shell) -> None:
    assert "no store to back up" in shell.refuses(66, "backup", "saved")
    (shell.home / "relay.db").touch()
    assert "no store to back up" in shell.refuses(66, "backup", "saved")
    connect(str(shell.home / "relay.db"), read_only=False).close()
    assert "no relay has used it yet" in shell.refuses(66, "backup", "saved")


def test_a_damaged_store_gives_no_backup(shell: Shell, place: Place) -> None:
    with place.database.open("r+b") as file:
        file.seek(file.seek(0, os.SEEK_END) // 2)
        file.write(random.Random(1).randbytes(64 * 1024))
    shell.refuses(74, "backup", "saved")


def test_a_target_that_cannot_be_written(shell: Shell, place: Place) -> None:
    assert "cannot be made" in shell.refuses(74, "backup", NOWHERE / "saved")
    assert "cannot be made" in shell.refuses(74, "backup", "no/such/folder")


def test_a_disk_that_becomes_full_leaves_no_backup(shell: Shell, place: Place) -> None:
    before = shell.files()
    done = shell.with_file_limit(256 * 1024, "backup", "saved")
    assert done.returncode == 74, done.stderr
    assert "cannot be read or written" in done.stderr
    assert "Traceback" not in done.stderr
    assert shell.files() == before


def test_a_backup_does_not_take_the_space_that_the_relay_needs(shell: Shell, place: Place) -> None:
    shell.env["RELAY_STORE__FREE_MIN_MIB"] = str(1024 * 1024)
    shell.env["RELAY_STORE__FREE_MIN_PERCENT"] = "0"
    assert "must stay free" in shell.refuses(74, "backup", "saved")


# --- what a restore makes ---------------------------------------------------------------------------------------------


async def test_a_restored_store_has_a_new_epoch_keeps_what_is_acked_and_tells_every_backend(
    shell: Shell, place: Place, saved: Path
) -> None:
    told = json.loads((saved / "manifest.json").read_text())
    engine = await place.opened()
    await engine.write(lambda conn, now_ms: tell(conn, now_ms, "shop", range(300, 400)))
    await engine.close()
    began_ms = SystemClock().now_ms()

    assert told["at"] in shell.does("restore", "saved", "--force")

    assert place.facts() == 300
    ((epoch, since_ms, frozen_ms, ticks),) = place.rows(
        "SELECT epoch, epoch_since_ms, pruning_frozen_until_ms, ticks FROM store_meta"
    )
    assert epoch != told["epoch"]
    assert since_ms >= began_ms
    assert frozen_ms == since_ms + 7 * 86_400_000
    ((app_id, data),) = place.rows("SELECT app_id, data FROM event WHERE type = 'store.restored'")
    assert app_id == "shop"
    assert json.loads(data) == {"old_epoch": told["epoch"], "new_epoch": epoch, "point_in_time": told["at"]}
    seen = meta.WitnessFile.beside(place.database).read()
    assert seen is not None
    assert (seen.epoch, seen.ticks) == (epoch, ticks)


async def test_the_store_that_was_there_is_kept_with_its_log(shell: Shell, place: Place, saved: Path) -> None:
    engine = await place.opened()
    await engine.write(lambda conn, now_ms: tell(conn, now_ms, "shop", range(300, 400)))
    killed = shell.home / "killed"  # what a kill leaves: the newest rows are in the log alone
    killed.mkdir()
    for part in ("", "-wal"):
        shutil.copy(f"{place.database}{part}", killed / f"relay.db{part}")
    await engine.close()
    for one in killed.iterdir():
        shutil.copy(one, shell.home / one.name)

    shell.does("restore", "saved", "--force")

    assert place.facts() == 300
    place.database = replace.replaced(place.database)
    assert place.facts() == 400


def test_each_restore_is_a_history_of_its_own(shell: Shell, place: Place, saved: Path) -> None:
    epochs = {place.epoch()}
    for _ in range(3):
        shell.does("restore", "saved", "--force")
        epochs.add(place.epoch())
    assert len(epochs) == 4


def test_a_restore_to_where_no_store_is_needs_no_force(shell: Shell, place: Place, saved: Path) -> None:
    place.database.unlink()
    shell.does("restore", "saved")
    assert place.facts() == 300


# --- why none is done: B119, and every way in which a backup can be wrong -----------------------------------------------


def test_b119_a_running_store_is_left_alone(shell: Shell, place: Place, saved: Path) -> None:
    lock = OwnerLock(shell.home / "relay.db.lock")
    try:
        assert "a relay is running on it" in shell.refuses(75, "restore", "saved", "--force")
    finally:
        lock.release()


def test_b119_a_store_that_is_there_is_kept(shell: Shell, saved: Path) -> None:
    assert "--force" in shell.refuses(73, "restore", "saved")


async def test_b119_a_backup_of_other_apps_is_not_put_over_this_store(
    shell: Shell, place: Place, saved: Path, ring: KeyRing
) -> None:
    place.database.unlink()
    await Place(shell.home, ring).filled(facts=1)  # an app of the same name, and another one all the same
    assert "holds other apps than the backup (shop)" in shell.refuses(73, "restore", "saved", "--force")


def truncated(saved: Path) -> None:
    data = (saved / "store.db").read_bytes()
    (saved / "store.db").write_bytes(data[:-4096])


def altered(saved: Path) -> None:
    with (saved / "store.db").open("r+b") as file:
        file.seek(100_000)
        file.write(b"\x00\xff\x00\xff")


def hand_copied(saved: Path) -> None:
    (saved / "manifest.json").unlink()
    shutil.copy(saved.parent / "relay.db", saved / "store.db")


def swapped(saved: Path) -> None:
    """Another file with a manifest made up for it: the counts are still the old ones."""
    conn = sqlite3.connect(saved / "store.db")
    conn.execute("DELETE FROM event WHERE event_id = 'evt_7'")
    conn.commit()
    conn.close()
    data = (saved / "store.db").read_bytes()
    mend(saved, file={"name": "store.db", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})


def no_database(saved: Path) -> None:
    (saved / "store.db").write_bytes(b"x" * 8192)
    mend(saved, file={"name": "store.db", "bytes": 8192, "sha256": hashlib.sha256(b"x" * 8192).hexdigest()})


BAD_BACKUPS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncated, "it is not whole"),
    "wrong-hash": (altered, "SHA-256"),
    "data-missing": (lambda saved: (saved / "store.db").unlink(), "data file of the backup is missing"),
    "copied-by-hand": (hand_copied, "has no manifest.json, so it is no backup"),
    "manifest-not-json": (lambda saved: (saved / "manifest.json").write_text("{"), "not the manifest"),
    "manifest-empty": (lambda saved: (saved / "manifest.json").write_text(""), "not the manifest"),
    "manifest-huge": (lambda saved: (saved / "manifest.json").write_text(" " * 2 * MIB), "not the manifest"),
    "other-product": (lambda saved: mend(saved, product="other-relay"), "not the manifest of a push-relay backup"),
    "later-format": (lambda saved: mend(saved, format=2), "not the manifest of a push-relay backup"),
    "unknown-member": (lambda saved: mend(saved, colour="red"), "colour"),
    "wrong-type": (lambda saved: mend(saved, tables=7), "$.tables"),
    "other-counts": (swapped, "they differ in tables"),
    "other-epoch": (lambda saved: mend(saved, epoch="0" * 32), "they differ in epoch"),
    "other-apps": (lambda saved: mend(saved, apps={}), "they differ in apps"),
    "no-database": (no_database, "damaged"),
    "leads-elsewhere": (
        lambda saved: mend(saved, file={"name": "../relay.db", "bytes": 1, "sha256": ""}),
        "data file of the backup is missing",
    ),
    "of-postgresql": (lambda saved: mend(saved, store="postgresql", file=None), "of a PostgreSQL store"),
}


@pytest.mark.parametrize(("spoil", "said"), BAD_BACKUPS.values(), ids=BAD_BACKUPS.keys())
def test_a_backup_that_is_not_whole_is_not_restored(
    shell: Shell, place: Place, saved: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(saved)
    place.database.unlink()
    assert said in shell.refuses(65, "restore", "saved")
    assert not place.database.exists()


def test_a_backup_that_is_no_folder(shell: Shell, place: Place) -> None:
    assert "it is no backup" in shell.refuses(65, "restore", "relay.db")
    assert "it is no backup" in shell.refuses(65, "restore", "nothing-here")


def test_a_backup_of_a_newer_relay_names_both_versions(shell: Shell, saved: Path) -> None:
    mend(saved, schema="0999")
    said = shell.refuses(78, "restore", "saved", "--force")
    assert "0999" in said
    assert HEAD in said


NEXT_STEP = """
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("event", sa.Column("colour", sa.Text(), nullable=False, server_default="blue"))
    op.create_index("event_by_colour", "event", ["app_id", "colour"])
    {more}
"""


def next_version(shell: Shell, monkeypatch: pytest.MonkeyPatch, *, more: str = "") -> None:
    """From here on the relay is one version further: its schema has a step after the newest that there is."""
    steps = shell.home.parent / f"{shell.home.name}-steps"
    shutil.copytree(store_migrate.HERE, steps)
    (steps / "versions" / "0002_the_next.py").write_text(NEXT_STEP.format(more=more))
    monkeypatch.setattr(store_migrate, "HERE", steps)
    monkeypatch.setattr(store_migrate, "HEAD", "0002")


async def test_bak_6_a_backup_of_the_version_before_is_brought_to_this_schema_by_its_restore(
    shell: Shell, place: Place, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert HEAD == "0001", "then the version before has a schema of its own: take that one"
    next_version(shell, monkeypatch)
    told = json.loads((saved / "manifest.json").read_text())
    engine = await place.opened()  # the store that is there is migrated already, and has more
    await engine.write(lambda conn, now_ms: tell(conn, now_ms, "shop", range(300, 400)))
    await engine.close()
    assert told["schema"] == "0001"

    shell.does("restore", "saved", "--force")

    assert place.rows("SELECT version_num FROM alembic_version") == [("0002",)]
    assert place.rows("SELECT DISTINCT colour FROM event") == [("blue",)]
    assert place.facts() == 300
    assert place.epoch() != told["epoch"]
    assert len(place.rows("SELECT 1 FROM event WHERE type = 'store.restored'")) == 1
    engine = await place.opened()
    await engine.write(lambda conn, now_ms: tell(conn, now_ms, "shop", range(400, 401)))
    await engine.close()
    assert place.facts() == 301
    shell.does("backup", "of-this-version")
    assert json.loads((shell.home / "of-this-version" / "manifest.json").read_text())["schema"] == "0002"


async def test_bak_6_a_backup_that_cannot_be_brought_to_this_schema_leaves_the_store_that_is_there(
    shell: Shell, place: Place, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_version(shell, monkeypatch, more='op.execute("INSERT INTO no_such_table VALUES (1)")')
    assert "no_such_table" in shell.refuses(65, "restore", "saved", "--force")
    assert place.rows("SELECT version_num FROM alembic_version") == [("0001",)]
    assert place.facts() == 300


def test_a_key_that_the_ring_lacks_is_named(shell: Shell, saved: Path, ring: KeyRing) -> None:
    other = json.loads((shell.home / "relay.keys").read_text())
    other["keys"][0]["id"] = 7
    (shell.home / "relay.keys").write_text(json.dumps(other))
    said = shell.refuses(78, "restore", "saved", "--force")
    assert "sealed with the ring's key 1, and this ring has only 7" in said


def test_another_key_of_the_same_number_does_not_pass(shell: Shell, saved: Path) -> None:
    (shell.home / "relay.keys").unlink()
    KeyRing.create(shell.home / "relay.keys", system_rng())
    assert "restore the key file" in shell.refuses(78, "restore", "saved", "--force")


def test_without_a_key_file_nothing_is_restored(shell: Shell, saved: Path) -> None:
    (shell.home / "relay.keys").unlink()
    assert "file with the relay's keys is missing" in shell.refuses(78, "restore", "saved", "--force")


def test_a_store_that_cannot_be_written(shell: Shell, saved: Path) -> None:
    shell.env["RELAY_STORE__URL"] = f"sqlite:///{NOWHERE / 'relay.db'}"
    assert "cannot be read or written" in shell.refuses(74, "restore", "saved")


@pytest.mark.parametrize("room", [4096, 512 * 1024, "all but the last page"])
def test_a_disk_that_becomes_full_leaves_the_old_store(
    shell: Shell, place: Place, saved: Path, room: int | str
) -> None:
    size = (saved / "store.db").stat().st_size
    before = shell.files()
    done = shell.with_file_limit(size - 4096 if isinstance(room, str) else room, "restore", "saved", "--force")
    assert done.returncode == 74, done.stderr
    assert "Traceback" not in done.stderr
    assert shell.files() == before
    assert place.facts() == 300


# --- a kill between any two steps -------------------------------------------------------------------------------------


class KilledHere(BaseException):
    pass


def databases(home: Path) -> Path:
    """An old store whose newest row is in its log alone, and a new one that is ready to be put in its place."""
    database = home / "relay.db"
    live = sqlite3.connect(home / "live.db", isolation_level=None)
    live.execute("PRAGMA journal_mode = WAL")
    live.execute("CREATE TABLE t (what TEXT)")
    live.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    live.execute("INSERT INTO t VALUES ('old')")
    for part in ("", "-wal"):
        shutil.copy(home / f"live.db{part}", home / f"relay.db{part}")
    live.close()
    fresh = sqlite3.connect(replace.unready(database), isolation_level=None)
    fresh.execute("CREATE TABLE t (what TEXT)")
    fresh.execute("INSERT INTO t VALUES ('new')")
    fresh.close()
    return database


def content(database: Path) -> str:
    conn = sqlite3.connect(database)
    try:
        ((what,),) = conn.execute("SELECT what FROM t").fetchall()
        return str(what)
    finally:
        conn.close()


def test_f79_a_kill_at_any_step_of_a_restore_leaves_one_store_whole_and_the_next_start_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    for step in range(1, 100):
        home = tmp_path / str(step)
        home.mkdir()
        database = databases(home)
        left = step

        def counted(act: Callable[..., Any]) -> Callable[..., Any]:
            def acting(*args: Any, **more: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    raise KilledHere
                return act(*args, **more)

            return acting

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", counted(Path.replace))
            patch.setattr(Path, "unlink", counted(Path.unlink))
            patch.setattr(replace, "sync_folder", counted(replace.sync_folder))
            try:
                replace.put(database)
            except KilledHere:
                pass
            else:
                break
        replace.finish(database)
        replace.finish(database)  # again: it is done
        outcomes.append(content(database))
        if outcomes[-1] == "new":
            assert content(replace.replaced(database)) == "old"
    assert set(outcomes) == {"old", "new"}
    assert outcomes == sorted(outcomes, reverse=True)  # "old" up to the moment from which the new one counts


async def test_f79_a_relay_that_starts_completes_a_restore(
    shell: Shell, place: Place, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(database: Path) -> bool:
        raise KilledHere

    before = place.epoch()
    with monkeypatch.context() as patch:
        real = replace.finish
        calls = iter([real, killed])  # before it begins, and when its own turn comes
        patch.setattr(replace, "finish", lambda database: next(calls)(database))
        patch.setattr(replace, "discard", lambda path: None)
        with pytest.raises(KilledHere):
            CliRunner().invoke(main, ["restore", "saved", "--force"], env=shell.env, catch_exceptions=False)
    assert (shell.home / "relay.db.restored").exists()
    assert place.epoch() == before
    engine = await place.opened()
    await engine.close()
    assert place.epoch() != before
    assert not (shell.home / "relay.db.restored").exists()
    assert place.facts() == 300


# --- what a new epoch keeps -------------------------------------------------------------------------------------------


async def test_f78_a_device_that_stays_away_for_three_days_after_a_restore_gets_all_that_was_retained(
    engine: Engine, clock: SetClock
) -> None:
    house = await House(engine, clock).begin()
    await house.register("ann/phone")
    await house.hello("ann/phone")
    ids = await house.sends(5, ttl_s=28 * DAY_S)
    await house.catch_up("ann/phone")
    clock.forward(s=8 * DAY_S)  # acked, and older than the replay window: without a restore, they would go
    at_ms = clock.now_ms() - 1000
    await engine.write(lambda conn, now_ms: rollback.restored(conn, now_ms, house.rng, at_ms=at_ms))

    clock.forward(s=3 * DAY_S)
    assert await prune(house) == 0
    assert (await house.hello("ann/phone")).reason == "epoch"
    assert await house.catch_up("ann/phone") == ids

    clock.forward(s=4 * DAY_S + 1)
    assert await prune(house) == 5


async def prune(house: House) -> int:
    return await house.inbox.prune([house.key("ann/phone").user])
