"""Puts another database file in the place of the present one, so that a kill leaves either the old or the new.

A database is more than one file: renaming over it would join the new file to the old one's log. So the new file first
gets the name `NAME.restored`, which is the moment from which it counts, and then the rest is done: the old files move
aside to `NAME.replaced`, the new one takes the name. Every step may be repeated; whoever opens the store next finishes
what a kill broke off (`finish`).
"""

import contextlib
import os
from pathlib import Path
from typing import Final

PARTS: Final = ("-wal", "-shm", "-journal", "")  # of one database; the file itself last


def unready(database: Path) -> Path:
    """Where the new file is made; it counts for nothing."""
    return _beside(database, ".restoring")


def replaced(database: Path) -> Path:
    """Where the old file is kept, with its log beside it; only the last one is."""
    return _beside(database, ".replaced")


def discard(path: Path) -> None:
    """Removes a database with all its parts."""
    for part in PARTS:
        _beside(path, part).unlink(missing_ok=True)


def put(database: Path) -> None:
    """Puts the file at `unready(database)`, which is complete and synced, in the place. Raises OSError.

    The caller owns the database's lock.
    """
    discard(replaced(database))
    sync_folder(database.parent)
    unready(database).replace(_ready(database))
    sync_folder(database.parent)
    finish(database)


def finish(database: Path) -> bool:
    """Does what is left of a replacement that was broken off; whether there was one. The caller owns the lock."""
    ready = _ready(database)
    if not ready.exists():
        return False
    for part in PARTS:
        with contextlib.suppress(FileNotFoundError):
            _beside(database, part).replace(_beside(replaced(database), part))
    sync_folder(database.parent)
    ready.replace(database)
    sync_folder(database.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _ready(database: Path) -> Path:
    return _beside(database, ".restored")


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
