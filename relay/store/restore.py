"""Puts a backup in the store's place, under a new epoch (safety BAK-3, protocol §4).

Nothing is touched before the backup has been found whole and fit, copied, and given its new epoch; then the files
change places so that a kill leaves one or the other (`replace`).
"""

import contextlib
import hashlib
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from relay.errors import ConfigError, StoreDamaged
from relay.keys import KeyRing
from relay.store import apps, manifest, meta, replace, rollback, sqlite_file, vault
from relay.store.backup import CHUNK_BYTES, FILE, Progress, sync_file
from relay.store.manifest import DataFile, Manifest, Refused
from relay.store.meta import Witness, WitnessFile
from relay.store.migrate import migrate
from relay.store.room import space_of

BEAT_LASTS_MS: Final = 15_000  # a node whose last beat is no older may be running
T = TypeVar("T")


@contextmanager
def _disk(what: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Refused("disk", f"{what}: cannot be read or written ({error.strerror}).") from error


# --- SQLite -----------------------------------------------------------------------------------------------------------


def restore_file(
    source: Path, database: Path, ring: KeyRing, rng: random.Random, now_ms: int, *, force: bool, progress: Progress
) -> Manifest:
    """Makes the backup in the folder `source` the store. With `force`, a store that is there moves to NAME.replaced.

    Raises Refused, ConfigError, StoreDamaged; then nothing has changed.
    """
    found = manifest.load(source)
    if found.file is None or found.store != "sqlite":
        raise Refused("bad", f"{source}: is the manifest of a PostgreSQL store; store.url names a SQLite file.")
    manifest.check_schema(found)
    manifest.check_ring(found, ring)
    with _owned(database):
        with _disk(database):
            replace.finish(database)
        if database.exists():
            if not force:
                raise Refused("exists", f"{database}: is there already, and is kept; --force moves it aside.")
            _check_same_apps(database, found)
        fresh = replace.unready(database)
        try:
            with _disk(database):
                replace.discard(fresh)
                _copy_checked(source / FILE, found.file, fresh, progress)
                progress("checking", 0, 0)
                witness = _with_new_epoch(fresh, found, ring, rng, now_ms)
                sync_file(fresh)
                replace.put(database)
        except BaseException:
            replace.discard(fresh)
            raise
        with contextlib.suppress(OSError):  # the relay writes it as well, and one of an older epoch says nothing
            WitnessFile.beside(database).write(witness)
    return found


@contextmanager
def _owned(database: Path) -> Iterator[None]:
    with _disk(database):
        try:
            lock = sqlite_file.OwnerLock(database.with_name(database.name + ".lock"))
        except ConfigError:
            raise Refused("busy", f"{database}: a relay is running on it; stop it first.") from None
    try:
        yield
    finally:
        lock.release()


def _check_same_apps(database: Path, found: Manifest) -> None:
    """A backup of other apps is not put over this store, whatever was said. One that can't be read has nothing to say."""
    try:
        there = _in_file(database, apps.apps, read_only=True)
    except (StoreDamaged, ConfigError, DBAPIError, sqlite3.Error):
        return
    if {app_id: manifest.fingerprint(secret) for app_id, secret in there.items()} != found.apps:
        raise Refused(
            "exists",
            f"{database}: holds other apps than the backup ({', '.join(found.apps)}); if it is to go, move it away by hand.",
        )


def _copy_checked(source: Path, wanted: DataFile, to: Path, progress: Progress) -> None:
    """Copies the data file, and compares its length and hash with the manifest's. Raises Refused, OSError."""
    if source.name != wanted.name or not source.is_file():
        raise Refused("bad", f"{source}: the data file of the backup is missing.")
    size = source.stat().st_size
    if size != wanted.bytes:
        raise Refused("bad", f"{source}: has {size:,} bytes, and by its manifest {wanted.bytes:,}: it is not whole.")
    if space_of(to.parent).free < size:
        raise Refused("disk", f"{to.parent}: the disk has not the {size:,} bytes that this needs.")
    digest, done = hashlib.sha256(), 0
    fd = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as copy, source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            copy.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            progress("copying", done, size)
    if digest.hexdigest() != wanted.sha256:
        raise Refused("bad", f"{source}: its SHA-256 is not the manifest's: it was altered or damaged.")


def _with_new_epoch(file: Path, found: Manifest, ring: KeyRing, rng: random.Random, now_ms: int) -> Witness:
    def work(conn: Connection) -> Witness:
        manifest.check_content(conn, found, ring)
        migrate(conn, now_ms)
        rollback.restored(conn, now_ms, rng, at_ms=found.at_ms)
        return meta.witness(conn, now_ms)

    try:
        return _in_file(file, work, read_only=False)
    except (DBAPIError, sqlite3.DatabaseError) as error:
        cause = getattr(error, "orig", error)
        if getattr(cause, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
            raise Refused("disk", f"{file}: cannot be written ({cause}).") from error
        raise Refused("bad", f"{file}: the backup's data cannot be read ({cause}).") from error
    except StoreDamaged as error:
        raise Refused("bad", f"{file}: the backup's data is damaged ({error}).") from error


def _in_file(file: Path, work: Callable[[Connection], T], *, read_only: bool) -> T:
    """Runs `work` in one transaction on a database that nobody else uses; the log is folded back and gone after it."""
    raw = sqlite_file.connect(str(file), read_only=read_only)
    conn = sqlite_file.connection(raw)
    try:
        if not read_only:
            sqlite_file.integrity_check(raw)
        conn.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
        outcome = work(conn)
        conn.exec_driver_sql("COMMIT")
        if not read_only:
            conn.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return outcome
    finally:
        sqlite_file.close(conn)


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def restored_server(
    conn: Connection, now_ms: int, rng: random.Random, *, found: Manifest, ring: KeyRing
) -> tuple[int, Witness]:
    """After the server's own tools brought the database back: checks that it is that store, and begins a new epoch.

    Gives the instant that it came back to, as far as can be told, and its witness. Raises Refused, ConfigError.
    """
    manifest.check_schema(found)
    manifest.check_ring(found, ring)
    last_ms = meta.last_beat_ms(conn)
    if last_ms is not None and now_ms - last_ms < BEAT_LASTS_MS:
        raise Refused("busy", "store: a relay is running on it, or was a moment ago; stop it first, and wait for 15 s.")
    there = manifest.take(conn, now_ms, counts={})
    if there.epoch != found.epoch:
        raise Refused(
            "bad",
            "store: it is of another epoch than the backup: another store, or `relay restore` was here already.",
        )
    if there.apps != found.apps:
        raise Refused("bad", f"store: it holds other apps than the backup ({', '.join(found.apps)}).")
    if there.ticks < found.ticks:
        raise Refused("bad", "store: it is older than the manifest; take the manifest that belongs to this backup.")
    vault.check_ring(conn, ring)
    migrate(conn, now_ms)
    at_ms = max(found.at_ms, last_ms or 0)
    rollback.restored(conn, now_ms, rng, at_ms=at_ms)
    return at_ms, meta.witness(conn, now_ms)
