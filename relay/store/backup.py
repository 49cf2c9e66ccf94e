"""A backup of the SQLite store while the relay goes on (safety BAK-1).

It is read by another process than the relay's, through a connection that can only read. One read transaction lasts for
the whole copy, so what is copied is the store of one instant, whatever is written meanwhile; and as it can neither write
nor fold the log back, it is no second writer (DUR-4). What it costs: until it ends, the log keeps all that was written
since it began. The copy goes in small steps, each synced, at a given rate, so that the relay's own syncs find the disk
free.
"""

import fcntl
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from relay.clock import Clock
from relay.errors import StoreDamaged
from relay.store import manifest, sqlite_file
from relay.store.manifest import DataFile, Manifest, Refused
from relay.store.replace import sync_folder
from relay.store.room import space_of

FILE: Final = "store.db"
STEP_BYTES: Final = 256 * 1024
CHUNK_BYTES: Final = 1024 * 1024

Progress = Callable[[str, int, int], None]  # what is being done, how far it is, of how many bytes
Pause = Callable[[float], None]


def back_up(
    database: Path,
    target: Path,
    clock: Clock,
    *,
    rate_bytes_s: float,
    keep_free_bytes: int,
    pause: Pause,
    progress: Progress,
) -> Manifest:
    """Makes the folder `target` with the data file and its manifest, whole and synced, or leaves nothing.

    `keep_free_bytes` stay free on the target's disk. Raises Refused, ConfigError, StoreDamaged.
    """
    size = database.stat().st_size if database.exists() else 0
    if not size:
        raise Refused("absent", f"{database}: there is no store to back up.")
    with new_folder(target) as folder:
        if space_of(folder).free < size + keep_free_bytes:
            raise Refused(
                "disk",
                f"{target.parent}: the disk has not the {size:,} bytes that this needs beside what must stay free.",
            )
        path = folder / FILE
        found = _copied(database, path, clock, rate_bytes_s=rate_bytes_s, pause=pause, progress=progress)
        sync_file(path)
        digest = hash_of(path, progress)
        file = DataFile(name=FILE, bytes=path.stat().st_size, sha256=digest)
        found = msgspec.structs.replace(found, file=file)
        found.save(folder)
    return found


def note(found: Manifest, target: Path) -> None:
    """Makes the folder `target` with a manifest alone: the server's own tools make the backup. Raises Refused."""
    with new_folder(target) as folder:
        found.save(folder)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which gets the name `target` once it is full and synced. Raises Refused."""
    if target.exists() or target.is_symlink():
        raise Refused("exists", f"{target}: is there already, and is kept; give another name.")
    part = target.with_name(target.name + ".part")
    try:
        part.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        above = "" if target.parent.is_dir() else "; make or mount the folder above it first"
        raise Refused("disk", f"{target}: cannot be made ({error.strerror}){above}.") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused("busy", f"{target}: another backup is just being made there.") from None
        try:
            _empty(part)  # of what a killed one left
            yield part
            os.fsync(fd)
            part.rename(target)
            sync_folder(target.parent)
        except BaseException as error:
            shutil.rmtree(part, ignore_errors=True)
            if isinstance(error, OSError):
                raise Refused("disk", f"{target}: cannot be written ({error.strerror}).") from error
            raise
    finally:
        os.close(fd)


def _empty(folder: Path) -> None:
    for one in folder.iterdir():
        one.unlink()


def _copied(
    database: Path, path: Path, clock: Clock, *, rate_bytes_s: float, pause: Pause, progress: Progress
) -> Manifest:
    """Copies one snapshot into the new file at `path`, and looks whether it is whole."""
    at_ms = clock.now_ms()  # no later than the snapshot
    with _target(path) as target:
        with _snapshot(database) as source:
            page_bytes = int(source.execute("PRAGMA page_size").fetchone()[0])
            pace = Pace(clock, rate_bytes_s, pause)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

            def step(status: int, left: int, total: int) -> None:
                del status
                os.fdatasync(fd)  # in small pieces: the relay's own sync never waits for a large one
                progress("copying", (total - left) * page_bytes, total * page_bytes)
                pace.moved((total - left) * page_bytes)

            try:
                source.backup(target, pages=max(1, STEP_BYTES // page_bytes), progress=step)
            finally:
                os.close(fd)
        target.execute("PRAGMA journal_mode = DELETE").fetchall()  # one file, whole without a log
        progress("checking", 0, 0)
        sqlite_file.integrity_check(target)
        conn = sqlite_file.connection(target)
        try:
            return manifest.take(conn, at_ms)
        finally:
            sqlite_file.close(conn)


@contextmanager
def _snapshot(database: Path) -> Iterator[sqlite3.Connection]:
    source = sqlite_file.connect(str(database), read_only=True)
    try:
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # a transaction begins with its first read
        yield source
    except sqlite3.DatabaseError as error:
        raise _as_ours(error, database) from error
    finally:
        source.close()


@contextmanager
def _target(path: Path) -> Iterator[sqlite3.Connection]:
    target = sqlite_file.connect_copy(str(path))
    try:
        path.chmod(0o600)
        yield target
    except sqlite3.DatabaseError as error:
        raise _as_ours(error, path) from error
    finally:
        target.close()


def _as_ours(error: sqlite3.DatabaseError, path: Path) -> Exception:
    if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return StoreDamaged(f"{path}: {error}")
    return Refused("disk", f"{path}: cannot be read or written ({error}).")


class Pace:
    """Waits until what was moved would have taken so long at the given rate."""

    def __init__(self, clock: Clock, rate_bytes_s: float, pause: Pause) -> None:
        self._clock = clock
        self._rate = rate_bytes_s
        self._pause = pause
        self._began_ms = clock.monotonic_ms()

    def moved(self, total_bytes: int) -> None:
        ahead_s = total_bytes / self._rate - (self._clock.monotonic_ms() - self._began_ms) / 1000
        if ahead_s > 0:
            self._pause(ahead_s)


# --- files ------------------------------------------------------------------------------------------------------------


def hash_of(path: Path, progress: Progress) -> str:
    """SHA-256 of a file, in hex. Raises OSError."""
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            progress("hashing", done, size)
    return digest.hexdigest()


def sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
