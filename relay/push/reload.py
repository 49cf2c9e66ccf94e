"""New credentials without a restart: the configuration is read again, and accounts that changed are exchanged.

Nothing in the queue is touched: a call under way ends with the provider it began with, the next one has the new one.
What holds an account back (its bucket, circuit, pause) starts anew with new credentials, and a parked one is unparked.

A file may be looked at while it is being written: what makes it shorter, or takes accounts away, counts once the next look
finds it unchanged; and what was read while it changed does not count.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from relay.clock import Clock
from relay.config import Settings
from relay.errors import ConfigError, Problem
from relay.push.accounts import Account, Accounts
from relay.push.from_settings import DEFAULT_APP, build, configured
from relay.push.mending import mend
from relay.store.engine import Engine
from relay.waiting import pause

log = structlog.get_logger("relay.push")

LOOK_S = 5.0  # how often files are looked at
GRACE_S = 60.0  # then a replaced provider is closed: its last call has ended by itself

Stamp = tuple[int, int, int] | None  # inode, size, time of change: what a rewritten file differs in


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did. `waits`: sections that changed and need a restart."""

    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Reloader:
    """Watches the configuration's files, and reloads when it is asked to."""

    read: Callable[[Path | None], Settings]  # the configuration as it is now, by its file; raises ConfigError
    find: Callable[[], Path | None]  # its file, if there is one by now
    settings: Settings  # those in force
    accounts: Accounts
    engine: Engine
    clock: Clock
    look_at_credentials: Callable[[], Awaitable[object]]  # new ones may end soon, too
    _file: Path | None = None  # once there is one; another one does not take its place
    _stamps: dict[Path, Stamp] = field(default_factory=dict)
    _touched: set[Path] = field(default_factory=set)  # seen to have changed, and not taken up yet
    _size: int = 0  # of the configuration file when it was last taken up
    _put_off: bool = False  # to the next look
    _unmended: set[str] = field(default_factory=set)  # accounts that the store could not be told are mended
    _wanted: Settings | None = None  # those last read, which a mistake may have kept from being in force
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _old: dict[asyncio.Task[None], Account] = field(default_factory=dict)

    async def run(self, stop: asyncio.Event) -> None:
        """Looks at the files now and then; ends when asked to."""
        self._stamps = self._look()
        self._size = self._size_now()
        while not stop.is_set():
            if not await pause(LOOK_S, stop):
                await self.look()
        await self.aclose()

    async def look(self) -> Reloaded | None:
        """Reloads what changed in a file, if any did."""
        async with self._lock:
            if self._unmended:
                await self._release(())
        changed = self._notice()
        if not changed and not self._put_off:
            return None
        return await self._reload(touched=self._touched, just_written=self._file in changed)

    async def reload(self) -> Reloaded | None:
        """As an operator asks for it (SIGHUP): every account is built anew, and none stays parked."""
        self._notice()
        return await self._reload(touched=None)

    def _notice(self) -> set[Path]:
        """The files that changed since the last look. They count as changed until they are taken up."""
        now = self._look()
        changed = {path for path in now.keys() | self._stamps.keys() if now.get(path) != self._stamps.get(path)}
        self._stamps = now
        self._touched |= changed
        return changed

    async def _reload(self, *, touched: set[Path] | None, just_written: bool = False) -> Reloaded | None:
        async with self._lock:
            self._put_off = False
            if self._file is not None and _stamp(self._file) is None:  # an editor, or whoever copies it
                reason = f"{self._file.name}: is not there any more; the accounts stay as they are."
                log.error("config.not_reloaded", reason=reason)
                return None
            try:
                settings = await asyncio.to_thread(self.read, self._file)
                self._watch(settings)
                found = await asyncio.to_thread(configured, settings)
            except ConfigError as error:
                for mistake in error.mistakes:
                    log.error("config.not_reloaded", reason=mistake)  # noqa: TRY400 - for an operator, not a bug
                return None
            old, new = self.settings.accounts, settings.accounts
            changed = [
                name
                for name in new
                if name in old and (touched is None or _differs(old[name], new[name]) or _names(new[name], touched))
            ]
            added, removed = [n for n in new if n not in old], [n for n in old if n not in new]
            size = self._size_now()
            shorter = bool(removed) or size < self._size
            if touched is not None and (self._moved() or (just_written and shorter)):
                self._put_off = True
                log.info("config.put_off", removed=", ".join(removed), size=size)
                return None
            waits = _waits(self.settings, settings)
            in_force = settings if not waits else self.settings.model_copy(update={"accounts": new})
            try:
                built = {
                    one.name: build(one, in_force, self.clock)
                    for one in found
                    if one.name in changed or one.name in added
                }
            except Exception as error:  # noqa: BLE001 - a plug-in's mistake: what runs goes on
                reason = f"A provider could not be made of its settings ({type(error).__name__})."
                log.error("config.not_reloaded", reason=reason)  # noqa: TRY400 - no trace, which may show a secret
                return None
            replaced = self.accounts.exchange(DEFAULT_APP, built, removed)
            self.settings = self.settings.model_copy(update={"accounts": settings.accounts})
            self._watch(settings)
            self._touched, self._size = set(), size
            for account in replaced:
                self._close_later(account)
            if changed or added or removed:
                await self._release([*changed, *added, *removed])
            done = Reloaded(tuple(changed), tuple(added), tuple(removed), waits)
            log.info(
                "config.reloaded",
                changed=", ".join(changed),
                added=", ".join(added),
                removed=", ".join(removed),
                needs_restart=", ".join(waits),
            )
            return done

    async def _release(self, names: Sequence[str]) -> None:
        """What rested or waited for these accounts is due: with new credentials, or without the account, another answer may
        come. If the store is away, each look tries it again."""
        self._unmended |= set(names)
        all_names = sorted(self._unmended)
        self.accounts.begin_lines(DEFAULT_APP)
        try:
            await mend(self.engine, DEFAULT_APP, all_names)
            self._unmended = set()
            await self.look_at_credentials()
        except Problem as problem:
            log.warning("account.not_unparked", account=", ".join(all_names), code=problem.code)

    def _close_later(self, account: Account) -> None:
        async def close() -> None:
            await self.clock.sleep(GRACE_S)
            if self._old.pop(task, None) is not None:
                await account.aclose()

        task = asyncio.create_task(close(), name="close-account")
        self._old[task] = account

    async def aclose(self) -> None:
        """Closes what was replaced, now."""
        while self._old:
            task, account = self._old.popitem()
            task.cancel()
            await account.aclose()

    def _watch(self, settings: Settings) -> None:
        """From now on the files that these name, before they are read: also of what is refused for want of one of them."""
        self._wanted = settings
        self._stamps = {path: self._stamps[path] if path in self._stamps else _stamp(path) for path in self._paths()}

    def _moved(self) -> bool:
        """Whether the configuration file is not as the last look found it: what was read since may be half of it, however long
        it is by now."""
        return self._file is not None and _stamp(self._file) != self._stamps.get(self._file)

    def _size_now(self) -> int:
        stamp = None if self._file is None else _stamp(self._file)
        return 0 if stamp is None else stamp[1]

    def _look(self) -> dict[Path, Stamp]:
        if self._file is None and (file := self.find()) is not None and _stamp(file) is not None:
            self._file = file  # not one that may only be there, as in a folder that is closed to us for now
        return {path: _stamp(path) for path in self._paths()}

    def _paths(self) -> list[Path]:
        paths = [] if self._file is None else [self._file]
        # What is in force as well: a file that is being written may lack it for a moment.
        for settings in (self.settings, self._wanted or self.settings):
            for account in settings.accounts.values():
                paths += _files(account.settings)
        return paths


def _differs(old: Any, new: Any) -> bool:
    return bool(old != new or old.settings != new.settings)


def _names(account: Any, touched: set[Path]) -> bool:
    return any(path in touched for path in _files(account.settings))


def _files(settings: Mapping[str, Any]) -> list[Path]:
    return [Path(value) for key, value in settings.items() if key.endswith("_file") and isinstance(value, str)]


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _waits(old: Settings, new: Settings) -> tuple[str, ...]:
    return tuple(
        name for name in type(old).model_fields if name != "accounts" and getattr(old, name) != getattr(new, name)
    )
