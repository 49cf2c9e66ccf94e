"""Whether there is room on the disk to take messages (safety FLT-11).

Who runs out of space can not even write that a message arrived. So sends are refused while there is some left, and a
file that holds nothing keeps the last of it: it is given up when the disk is full, for acks, reports and cancels.
"""

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import structlog

from relay.errors import Unavailable
from relay.waiting import pause

log = structlog.get_logger("relay.store")

MIB: Final = 1024 * 1024
RESERVE_BYTES: Final = 64 * MIB
RETRY_S: Final = 60.0
LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of a file system: those that we may still use, and all."""

    free: int
    total: int


ReadSpace = Callable[[Path], Space]


def space_of(folder: Path) -> Space:
    """What the file system says of the folder's space."""
    usage = shutil.disk_usage(folder)
    return Space(free=usage.free, total=usage.total)


def is_low(space: Space, *, free_min_bytes: int, free_min_share: float) -> bool:
    """Whether less is free than there should be, by either measure."""
    return space.free < free_min_bytes or space.free < free_min_share * space.total


class HasRoom(Protocol):
    """What the inbox room asks before it takes something."""

    def for_sends(self) -> None:
        """Raises Unavailable (storage_full)."""
        ...

    def for_others(self) -> None:
        """The same, for what is no send, and neither ack, report nor cancel."""
        ...


class Boundless:
    """Where somebody else looks after the disk: another machine's, or none."""

    low = full = False

    def for_sends(self) -> None: ...

    def for_others(self) -> None: ...

    def look(self) -> None: ...

    def release(self) -> bool:
        return False

    async def run(self, stop: asyncio.Event) -> None:
        await stop.wait()

    def close(self) -> None: ...


class Room:
    """The space around one database file. `look` now and then; `release` when a write found the disk full."""

    def __init__(
        self,
        database: Path,
        *,
        read: ReadSpace = space_of,
        free_min_bytes: int,
        free_min_share: float,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        self._folder = database.parent
        self._reserve = database.with_name(database.name + ".reserve")
        self._read = read
        self._free_min_bytes = free_min_bytes
        self._free_min_share = free_min_share
        self._reserve_bytes = reserve_bytes
        self._lock = threading.Lock()  # the writer's thread releases, the loop's looks
        self.low = False
        self.full = False

    def for_sends(self) -> None:
        if self.low or self.full:
            raise _full()

    def for_others(self) -> None:
        if self.full:
            raise _full()

    def look(self) -> None:
        """Reads what is free, and goes on taking messages if it is enough again."""
        with self._lock:
            space = self._read(self._folder)
            low = is_low(space, free_min_bytes=self._free_min_bytes, free_min_share=self._free_min_share)
            if low != self.low:
                self.low = low
                log.warning("store.space_low" if low else "store.space_back", size=space.free)
            if not low and not self._reserve.exists() and self._reserved():
                self.full = False

    def release(self) -> bool:
        """The disk is full: gives the reserve up; False if it was gone already."""
        with self._lock:
            if not self.full:
                log.error("store.disk_full")
            self.full = True
            try:
                self._reserve.unlink()
            except OSError:
                return False
            return True

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self.look()
            await pause(LOOK_S, stop)

    def close(self) -> None:
        """A relay that does not run needs no reserve."""
        with contextlib.suppress(OSError):
            self._reserve.unlink()

    def _reserved(self) -> bool:
        """Takes the reserve; whether there was room for it."""
        new = self._reserve.with_name(self._reserve.name + ".new")
        try:
            with new.open("wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, self._reserve_bytes)
                else:  # a hole would be no reserve
                    for _ in range(0, self._reserve_bytes, MIB):
                        file.write(bytes(MIB))
            new.replace(self._reserve)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            return False
        return True


def _full() -> Unavailable:
    return Unavailable("The relay's disk is nearly full.", code="storage_full", retry_after_s=RETRY_S)
