"""A disk between SQLite and the file system: it keeps what is written and synced, in order, and fails when it is told to.

It is an SQLite VFS made of the default one: the same table of functions, with those for writing replaced
(https://sqlite.org/vfs.html). It is registered with the very library that Python's `sqlite3` uses, so the relay's own
connections, settings and transactions run over it. What the relay writes without SQLite, its keys and its witness, is
heard of through Python's audit events.
"""

import _sqlite3
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

# --- what happens to a disk -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Made:
    """An empty file got this name."""

    name: str


@dataclass(frozen=True, slots=True)
class Write:
    name: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """The file's contents are on the disk."""

    name: str


@dataclass(frozen=True, slots=True)
class SyncFailed:
    """The kernel gave up the file's unwritten contents: a later sync will succeed without them."""

    name: str


@dataclass(frozen=True, slots=True)
class Renamed:
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Linked:
    """A file got a second name. One that has it already is refused after this: the platter knows as well."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Removed:
    name: str


@dataclass(frozen=True, slots=True)
class SyncFolder:
    """The files' names are on the disk."""


Event = Made | Write | Truncate | Sync | SyncFailed | Renamed | Linked | Removed | SyncFolder

# --- SQLite's side ----------------------------------------------------------------------------------------------------

OK: Final = 0
FULL: Final = 13
ERRORS: Final = {  # what the default VFS makes of EIO (sqlite3.h)
    "write": 10 | 3 << 8,
    "sync": 10 | 4 << 8,
    "truncate": 10 | 6 << 8,
    "delete": 10 | 10 << 8,
    "open": 14,
}
OPEN_CREATE: Final = 0x4
JOURNALS: Final = ("-wal", "-journal")
UNRECORDED: Final = (".reserve", ".reserve.new", ".lock", ".toml")  # they hold nothing, or are not the relay's

_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
_DELETE = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_CLOSE = CFUNCTYPE(c_int, c_void_p)
_WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)


class _Vfs(ctypes.Structure):
    _fields_ = (
        ("version", c_int),
        ("file_size", c_int),
        ("path_max", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("app_data", c_void_p),
        ("open", c_void_p),
        ("delete", c_void_p),
        ("rest", c_void_p * 14),
    )


class _Methods(ctypes.Structure):
    _fields_ = (
        ("version", c_int),
        ("close", c_void_p),
        ("read", c_void_p),
        ("write", c_void_p),
        ("truncate", c_void_p),
        ("sync", c_void_p),
        ("rest", c_void_p * 13),
    )


class _File(ctypes.Structure):
    _fields_ = (("methods", POINTER(_Methods)),)


def _library() -> ctypes.CDLL:
    """The SQLite that `sqlite3` is bound to, however it was linked. Raises AttributeError if it is hidden."""
    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = POINTER(_Vfs)
    library.sqlite3_vfs_find.argtypes = [c_char_p]
    library.sqlite3_vfs_register.argtypes = [POINTER(_Vfs), c_int]
    library.sqlite3_vfs_unregister.argtypes = [POINTER(_Vfs)]
    return library


def _as_pointer(function: Any) -> int | None:
    return ctypes.cast(function, c_void_p).value


Fails = Callable[[str, str], int]  # (what is done, to which file) -> the error's code, or OK


class Disk:
    """Everything that is done to the files of one folder, in order, from `recording` on."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.events: list[Event] = []
        self.fails: Fails = lambda what, name: OK
        self._unlisted: set[str] = set()  # journals whose folder SQLite has yet to sync
        self._synced: set[str] = set()  # of the files that are not SQLite's
        self._open: dict[int, tuple[str, _Methods]] = {}  # by the address of SQLite's file
        self._tables: dict[int, _Methods] = {}  # ours, by the address of the default VFS's
        self._library = _library()
        self._default = self._library.sqlite3_vfs_find(None)
        self._vfs = _Vfs()
        ctypes.memmove(ctypes.byref(self._vfs), self._default, ctypes.sizeof(_Vfs))
        self._vfs.name = b"recorded"
        self._open_default = _OPEN(self._vfs.open)
        self._delete_default = _DELETE(self._vfs.delete)
        self._calls = (  # kept, or they were freed under SQLite's hands
            _OPEN(self._on_open),
            _DELETE(self._on_delete),
            _CLOSE(self._on_close),
            _WRITE(self._on_write),
            _TRUNCATE(self._on_truncate),
            _SYNC(self._on_sync),
        )
        self._vfs.open, self._vfs.delete = map(_as_pointer, self._calls[:2])
        _kept.append(self)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Databases that are opened in this block lie on this disk."""
        _listen()
        _listeners.append(self)
        assert self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1) == OK
        try:
            yield
        finally:
            self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs))  # the default is what it was
            _listeners.remove(self)

    def name_of(self, path: str | bytes | None) -> str | None:
        """The name under which a file is recorded."""
        if path is None:
            return None
        folder, name = os.path.split(os.fsdecode(path))
        if name.endswith(UNRECORDED) or os.path.realpath(folder or ".") != str(self.home):
            return None
        return name

    def _on_open(self, vfs: int, path: int | None, file: int, flags: int, out: Any) -> int:
        name = self.name_of(None if path is None else ctypes.string_at(path))
        if name is None:
            return self._open_default(vfs, path, file, flags, out)
        if code := self.fails("open", name):
            _File.from_address(file).methods = None
            return code
        new = bool(flags & OPEN_CREATE) and not (self.home / name).exists()
        code = self._open_default(vfs, path, file, flags, out)
        if code == OK:
            if new:
                self.events.append(Made(name))
                if name.endswith(JOURNALS):
                    self._unlisted.add(name)
            opened = _File.from_address(file)
            self._open[file] = (name, opened.methods.contents)
            opened.methods = ctypes.pointer(self._table(opened.methods))
        return code

    def _table(self, default: Any) -> _Methods:
        address = ctypes.addressof(default.contents)
        if address not in self._tables:
            table = self._tables[address] = _Methods()
            ctypes.memmove(ctypes.byref(table), default, ctypes.sizeof(_Methods))
            table.close, table.write, table.truncate, table.sync = map(_as_pointer, self._calls[2:])
        return self._tables[address]

    def _on_close(self, file: int) -> int:
        _, default = self._open.pop(file)
        return int(_CLOSE(default.close)(file))

    def _on_write(self, file: int, data: int, size: int, offset: int) -> int:
        name, default = self._open[file]
        if code := self.fails("write", name):
            return code
        self.events.append(Write(name, offset, ctypes.string_at(data, size)))
        return int(_WRITE(default.write)(file, data, size, offset))

    def _on_truncate(self, file: int, size: int) -> int:
        name, default = self._open[file]
        if code := self.fails("truncate", name):
            return code
        self.events.append(Truncate(name, size))
        return int(_TRUNCATE(default.truncate)(file, size))

    def _on_sync(self, file: int, flags: int) -> int:
        name, default = self._open[file]
        if code := self.fails("sync", name):
            self.events.append(SyncFailed(name))
            return code
        code = int(_SYNC(default.sync)(file, flags))
        self.events.append(Sync(name))
        if name in self._unlisted:  # unixSync: the folder of a new journal is synced with it
            self._unlisted.remove(name)
            self.events.append(SyncFolder())
        return code

    def _on_delete(self, vfs: int, path: bytes, sync_folder: int) -> int:
        name = self.name_of(path)
        if name is not None and (code := self.fails("delete", name)):
            return code
        there = name is not None and (self.home / name).exists()
        code = int(self._delete_default(vfs, path, sync_folder))
        if name is not None and there and code == OK:
            self._unlisted.discard(name)
            self.events.append(Removed(name))
            if sync_folder:
                self.events.append(SyncFolder())
        return code

    # --- files that are not SQLite's ---

    def heard(self, event: str, args: tuple[Any, ...]) -> None:
        """An audit event of Python; it comes before the deed."""
        if event == "open":
            name = self._named(args[0])
            if name is not None and args[2] & (os.O_WRONLY | os.O_RDWR):
                self._synced.discard(name)
                if not (self.home / name).exists():
                    self.events.append(Made(name))
                elif args[2] & os.O_TRUNC:
                    self.events.append(Truncate(name, 0))
        elif event in {"os.rename", "os.link"}:
            old, new = self._named(args[0]), self._named(args[1])
            if old is not None and new is not None:
                if old not in self._synced:
                    self._contents(old)
                self.events.append(Renamed(old, new) if event == "os.rename" else Linked(old, new))
        elif event == "os.remove":
            name = self._named(args[0])
            if name is not None and (self.home / name).exists():
                self.events.append(Removed(name))

    def _named(self, path: Any) -> str | None:
        return self.name_of(os.fspath(path)) if isinstance(path, (str, bytes, os.PathLike)) else None

    def _contents(self, name: str) -> None:
        """Nobody tells us of the writes themselves: they are taken as done just before the sync or the renaming."""
        self._synced.discard(name)
        self.events.append(Write(name, 0, (self.home / name).read_bytes()))

    def synced(self, fd: int, sync: Callable[[int], None]) -> None:
        """`os.fsync`."""
        found = os.fstat(fd)
        if os.path.samestat(found, self.home.stat()):
            sync(fd)
            self.events.append(SyncFolder())
            return
        for path in self.home.iterdir():
            if (name := self.name_of(str(path))) is not None and os.path.samestat(found, path.stat()):
                self._contents(name)
                sync(fd)
                self.events.append(Sync(name))
                self._synced.add(name)
                return
        sync(fd)


_kept: list[Disk] = []  # a connection may outlive its test, and SQLite has only an address
_listeners: list[Disk] = []


@cache
def _listen() -> None:
    """Once: an audit hook can't be taken back."""
    fsync = os.fsync

    def heard(event: str, args: tuple[Any, ...]) -> None:
        for disk in _listeners:
            disk.heard(event, args)

    def synced(fd: Any) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        if _listeners:
            _listeners[-1].synced(number, fsync)
        else:
            fsync(number)

    sys.addaudithook(heard)
    os.fsync = synced
