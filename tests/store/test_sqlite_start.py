"""What must hold before the relay takes its first message on SQLite (safety DUR-4)."""

import ast
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner
from clocks import SetClock
from structlog.testing import capture_logs

import relay
from relay.app import Relay
from relay.cli import main
from relay.clock import SystemClock
from relay.config import load
from relay.errors import ConfigError, StoreDamaged
from relay.ids import system_rng
from relay.store import sqlite_file
from relay.store.schema import metadata
from relay.store.sqlite import SqliteEngine
from relay.store.sqlite_file import PRAGMAS, check_version, connect, file_system_of, wal_reset_affected
from relay.telemetry.metrics import Metrics


def setting(raw: sqlite3.Connection, name: str) -> str:
    return str(raw.execute(f"PRAGMA {name}").fetchone()[0]).lower()


# The page's table, by hand: what is wanted is not read from the code under test.
PAGE = {
    "journal_mode": "wal",
    "synchronous": "2",
    "busy_timeout": "5000",
    "foreign_keys": "1",
    "mmap_size": "0",
    "journal_size_limit": str(64 * 1024 * 1024),
    "cell_size_check": "1",
}


@pytest.mark.parametrize("read_only", [False, True])
def test_every_connection_has_the_page_s_settings(tmp_path: Path, read_only: bool) -> None:
    connect(str(tmp_path / "relay.db"), read_only=False).close()
    raw = connect(str(tmp_path / "relay.db"), read_only=read_only)
    found = {name: setting(raw, name) for name in PAGE}
    others = {name: setting(raw, name) for name in ("wal_autocheckpoint", "query_only")}
    raw.close()
    assert found == PAGE
    assert others == (
        {"wal_autocheckpoint": "0", "query_only": "1"}
        if read_only
        else {"wal_autocheckpoint": "1000", "query_only": "0"}
    )


@pytest.mark.parametrize("name", [*PAGE, "wal_autocheckpoint"])
def test_a_setting_that_does_not_stick_stops_the_start(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite takes any value without a word; that it was taken shows only by reading it back."""
    real = sqlite3.connect

    class Stubborn(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            if sql.startswith(f"PRAGMA {name} ="):
                sql = f"PRAGMA {name}"
            cursor = super().execute(sql, *args)
            return cursor if sql != f"PRAGMA {name}" else super().execute("SELECT 'something else'")

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: real(*args, factory=Stubborn, **kwargs))
    with pytest.raises(ConfigError, match=f"PRAGMA {name} must be"):
        connect(str(tmp_path / "relay.db"), read_only=False)


def test_a_start_that_a_setting_stops_ends_with_78(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRAGMAS, "synchronous", 7)
    result = CliRunner().invoke(main, ["serve", "--port", "0"])
    assert result.exit_code == 78
    assert "PRAGMA synchronous must be 7" in result.output


def test_all_tables_are_strict() -> None:
    assert all(table.dialect_options["sqlite"]["strict"] for table in metadata.sorted_tables)


def test_no_other_code_opens_a_database() -> None:
    """Connections are made by the one factory, and only readers beside the one writer. A device's cache is its own."""
    found = set()
    home = Path(relay.__file__).parent
    for file in home.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"sqlite3.connect", "sqlalchemy.create_engine"}:
                found.add(str(file.relative_to(home)))
    assert found == {"store/sqlite_file.py", "client/cache_file.py"}


# --- the place --------------------------------------------------------------------------------------------------------

MOUNTS = r"""/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/ann/local xfs rw 0 0
//share/a /mnt/with\040space cifs rw 0 0
store /mnt/bucket fuse.rclone rw 0 0
host /mnt/host 9p rw 0 0
host /mnt/covered 9p rw 0 0
/dev/sdc1 /mnt/covered ext4 rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/relay.db", "ext4"),
        ("/home/bob/relay.db", "nfs4"),
        ("/home/ann/local/relay.db", "xfs"),
        ("/homes/relay.db", "ext4"),
        ("/mnt/with space/relay.db", "cifs"),
        ("/mnt/covered/relay.db", "ext4"),
    ],
)
def test_the_innermost_mount_tells_the_file_system(path: str, kind: str) -> None:
    assert file_system_of(Path(path), MOUNTS) == kind


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.rclone", "fuse.sshfs", "fuse", "fuseblk"])
def test_a_network_file_system_is_refused_unless_the_operator_insists(
    kind: str, tmp_path: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"there {tmp_path} {kind} rw 0 0\n")
    monkeypatch.setattr(sqlite_file, "MOUNTS", mounts)
    with pytest.raises(ConfigError, match=r"network file system .* unsafe_storage"):
        SqliteEngine(tmp_path / "relay.db", clock)
    assert not (tmp_path / "relay.db").exists()
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["serve", "--port", "0"]).exit_code == 78


async def test_with_unsafe_storage_it_is_taken(
    tmp_path: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"there {tmp_path} nfs rw 0 0\n")
    monkeypatch.setattr(sqlite_file, "MOUNTS", mounts)
    engine = SqliteEngine(tmp_path / "relay.db", clock, unsafe_storage=True)
    assert await engine.read(lambda conn, _: conn.exec_driver_sql("SELECT 1").scalar()) == 1
    await engine.close()


def test_a_link_to_a_file_elsewhere_lies_where_the_file_lies(
    tmp_path: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    far, near = tmp_path / "far", tmp_path / "near"
    far.mkdir()
    near.mkdir()
    (far / "relay.db").touch()
    (near / "relay.db").symlink_to(far / "relay.db")
    mounts = tmp_path / "mounts"
    mounts.write_text(f"there {far} nfs rw 0 0\nhere {near} ext4 rw 0 0\n")
    monkeypatch.setattr(sqlite_file, "MOUNTS", mounts)
    with pytest.raises(ConfigError, match="network file system"):
        SqliteEngine(near / "relay.db", clock)


# --- the library ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 37, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 0), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
    ],
)
def test_which_versions_have_the_wal_reset_bug(version: tuple[int, int, int], affected: bool) -> None:
    assert wal_reset_affected(version) is affected


def test_a_version_without_strict_tables_is_refused() -> None:
    check_version((3, 37, 0))
    with pytest.raises(ConfigError, match=r"SQLite 3\.36\.0 is too old"):
        check_version((3, 36, 0))


# --- is it whole ------------------------------------------------------------------------------------------------------


def damage(path: Path) -> None:
    """Garbage over the second half of the pages; the head still says that it is a database."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xa5" * (size // 2))


def filled(path: Path) -> None:
    raw = connect(str(path), read_only=False)
    raw.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT) STRICT")
    raw.executemany("INSERT INTO t (b) VALUES (?)", [("x" * 500,)] * 2000)
    raw.close()


def test_a_damaged_file_is_not_served(tmp_path: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "relay.db"
    filled(path)
    damage(path)
    with pytest.raises(StoreDamaged):
        SqliteEngine(path, clock)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["serve", "--port", "0"])
    assert result.exit_code == 74
    assert "The store is damaged" in result.output


def test_what_is_no_database_at_all_is_not_served(tmp_path: Path, clock: SetClock) -> None:
    path = tmp_path / "relay.db"
    path.write_bytes(b"not a database, but longer than a page" * 1000)
    with pytest.raises(StoreDamaged):
        SqliteEngine(path, clock)


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["migrate"]])
@pytest.mark.parametrize("table", ["notes", "message", "alembic_version"])
def test_a_database_of_another_program_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, command: list[str]
) -> None:
    """As when store.url names the wrong file: that program's tables may even have our names, or be kept by Alembic, too."""
    with closing(sqlite3.connect(tmp_path / "theirs.db")) as theirs:
        theirs.execute(f"CREATE TABLE {table} (version_num TEXT)")
        theirs.execute(f"INSERT INTO {table} VALUES ('ae1027a6acf')")
        theirs.commit()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELAY_STORE__URL", "sqlite:///theirs.db")
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 78, result.output
    assert f"tables of something else, such as {table!r}" in result.output
    with closing(sqlite3.connect(tmp_path / "theirs.db")) as theirs:
        assert theirs.execute("SELECT name FROM sqlite_schema").fetchall() == [(table,)]


def test_a_folder_that_the_relay_may_not_write_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relay.db.lock").mkdir()  # fails for root as well, whom a folder's mode does not stop
    result = CliRunner().invoke(main, ["serve", "--port", "0"])
    assert result.exit_code == 78
    assert f"{tmp_path / 'relay.db.lock'} can't be written" in result.output


def test_a_database_of_another_user_is_named_and_why(
    tmp_path: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when somebody else, root say, has started the relay once: SQLite would open it, and fail at the first write."""
    path = tmp_path / "relay.db"
    filled(path)
    monkeypatch.setattr("os.access", lambda _, mode: not mode & os.W_OK)
    with pytest.raises(ConfigError, match=r"relay\.db can't be read and written; the relay's own user must own it"):
        SqliteEngine(path, clock)


def test_after_a_refused_start_the_file_is_free_again(tmp_path: Path, clock: SetClock) -> None:
    path = tmp_path / "relay.db"
    path.write_bytes(b"not a database, but longer than a page" * 1000)
    for _ in range(2):  # the second is not told that another relay is using it
        with pytest.raises(StoreDamaged):
            SqliteEngine(path, clock)


async def test_a_large_file_is_looked_through_while_it_is_served(
    tmp_path: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "relay.db"
    filled(path)
    damage(path)
    monkeypatch.setattr(sqlite_file, "CHECKED_AT_START_BYTES", 4096)
    engine = SqliteEngine(path, clock)
    engine._check._thread.join(10)
    assert engine.failed
    await engine.close()


async def test_a_row_that_refers_to_nothing_is_found_in_the_background(tmp_path: Path, clock: SetClock) -> None:
    path = tmp_path / "relay.db"
    raw = connect(str(path), read_only=False)
    raw.execute("CREATE TABLE a (id INTEGER PRIMARY KEY) STRICT")
    raw.execute("CREATE TABLE b (a_id INTEGER REFERENCES a(id)) STRICT")
    raw.execute("PRAGMA foreign_keys = 0")
    raw.execute("INSERT INTO b VALUES (7)")
    raw.close()
    engine = SqliteEngine(path, clock)
    engine._check._thread.join(10)
    assert engine.failed
    await engine.close()


async def test_a_whole_file_passes_and_a_check_that_is_not_done_is_given_up_at_a_stop(
    tmp_path: Path, clock: SetClock
) -> None:
    path = tmp_path / "relay.db"
    filled(path)
    engine = SqliteEngine(path, clock)
    await engine.close()
    assert not engine._check._thread.is_alive()
    assert not engine.failed


@pytest.mark.parametrize("affected", [True, False])
async def test_a_version_with_the_bug_is_told_in_the_log_and_in_a_metric(
    affected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("relay.app", "relay.wiring.gauges"):
        monkeypatch.setattr(f"{place}.wal_reset_affected", lambda: affected)
    environ = {
        "RELAY_SERVER__PORT": "0",
        "RELAY_SERVER__QUIET_S": "0",
        "RELAY_STORE__URL": f"sqlite:///{tmp_path}/relay.db",
        "RELAY_KEYS__FILE": f"{tmp_path}/relay.keys",
    }
    one = Relay(load(None, environ), SystemClock(), system_rng(), Metrics())
    with capture_logs() as told:
        await one.open()
    async with (
        one.running(),
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{one.port}/metrics") as answer,
    ):
        text = await answer.text()
    await one.close()
    assert f"relay_sqlite_wal_reset_affected {float(affected)}" in text
    assert ("store.wal_reset_affected" in {line["event"] for line in told}) is affected
