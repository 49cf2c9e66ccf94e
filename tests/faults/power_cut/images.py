"""What a disk may hold after the power went: nothing here touches a file."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from .disk import Event, Linked, Made, Removed, Renamed, Sync, SyncFailed, SyncFolder, Truncate, Write

SECTOR = 512  # bytes that a disk writes all or not at all


class Mode(StrEnum):
    """What becomes of that which was not synced (safety CR-6)."""

    LOST = "lost"  # all of it is gone
    HALF = "half"  # each write is there, or is not
    TORN = "torn"  # each sector of each write is there, or is not
    KEPT = "kept"  # all of it is there, as if the process alone had been killed


@dataclass(slots=True)
class Change:
    what: Write | Truncate
    doomed: bool = False  # its sync failed: no later one makes it sure
    sure: bool = False


@dataclass(slots=True)
class File:
    """Contents that are sure to be on the disk, and the changes after them, in order."""

    sure: bytearray = field(default_factory=bytearray)
    changes: list[Change] = field(default_factory=list)

    def sync(self) -> None:
        for change in self.changes:
            change.sure = not change.doomed
        while self.changes and self.changes[0].sure:
            apply(self.sure, self.changes.pop(0).what)
        if all(change.sure for change in self.changes):
            self.changes.clear()

    def sync_failed(self) -> None:
        for change in self.changes:
            change.doomed = not change.sure

    def image(self, mode: Mode, rng: random.Random) -> bytes:
        data = bytearray(self.sure)
        for change in self.changes:
            for part in [change.what] if change.sure else survivors(change.what, mode, rng):
                apply(data, part)
        return bytes(data)


def apply(data: bytearray, change: Write | Truncate) -> None:
    """A hole reads as zeros."""
    end = change.size if isinstance(change, Truncate) else change.offset + len(change.data)
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    if isinstance(change, Truncate):
        del data[change.size :]
    else:
        data[change.offset : end] = change.data


def survivors(change: Write | Truncate, mode: Mode, rng: random.Random) -> Iterator[Write | Truncate]:
    """What is left of a change that was not synced."""
    if mode is Mode.KEPT:
        yield change
    elif mode is Mode.TORN and isinstance(change, Write):
        for sector in sectors(change):
            if rng.random() < 0.5:
                yield sector
    elif mode is not Mode.LOST and rng.random() < 0.5:
        yield change


def sectors(change: Write) -> Iterator[Write]:
    at = change.offset
    while at < change.offset + len(change.data):
        end = min((at // SECTOR + 1) * SECTOR, change.offset + len(change.data))
        yield Write(change.name, at, change.data[at - change.offset : end - change.offset])
        at = end


Naming = Callable[[dict[str, File]], object]


class Platter:
    """A disk that is told of events, and can be asked at any time what a power cut would leave."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self._now = {name: File(bytearray(data)) for name, data in (files or {}).items()}
        self._sure = dict(self._now)  # names on the disk
        self._namings: list[Naming] = []  # not yet

    def tell(self, event: Event) -> None:
        match event:
            case Write() | Truncate():
                self._now[event.name].changes.append(Change(event))
            case Sync():
                self._now[event.name].sync()
            case SyncFailed():
                self._now[event.name].sync_failed()
            case Made():
                made = File()
                self._name(lambda names: names.update({event.name: made}))
            case Renamed():
                self._name(lambda names: names.update({event.new: names.pop(event.old)}))
            case Linked():
                self._name(lambda names: names.setdefault(event.new, names[event.old]))
            case Removed():
                self._name(lambda names: names.pop(event.name, None))
            case SyncFolder():
                self._sure = dict(self._now)
                self._namings.clear()

    def _name(self, naming: Naming) -> None:
        naming(self._now)
        self._namings.append(naming)

    def image(self, mode: Mode, rng: random.Random) -> dict[str, bytes]:
        """Files by name. Names are changed in the order they were: a file system journals them."""
        names = dict(self._sure)
        count = {Mode.LOST: 0, Mode.KEPT: len(self._namings)}.get(mode, rng.randint(0, len(self._namings)))
        for naming in self._namings[:count]:
            naming(names)
        return {name: file.image(mode, rng) for name, file in names.items()}


@dataclass(frozen=True, slots=True)
class Cut:
    """The power goes when this many events have happened."""

    at: int
    mode: Mode


def cuts(rng: random.Random, count: int, events: Sequence[Event], promises: Sequence[int]) -> list[Cut]:
    """Moments of power cuts, in order: anywhere, just as something was promised, and at what happens rarely, in turns."""
    rare = [at for at, event in enumerate(events) if not isinstance(event, Write | Sync)]
    keys = [at for at, event in enumerate(events) if isinstance(event, Write | Sync | Made) and ".keys" in event.name]
    choices = (range(len(events) + 1), promises, range(len(events) + 1), promises, rare, keys)
    modes = list(Mode)
    found = []
    for n in range(count):
        at = rng.choice(choices[n % len(choices)])
        if choices[n % len(choices)] in (rare, keys):
            at += rng.randint(0, 1)  # just before it, or just after
        found.append(Cut(at, modes[n // len(choices) % len(modes)]))
    return sorted(found, key=lambda cut: cut.at)


def images(
    events: Sequence[Event], where: Sequence[Cut], rng: random.Random, files: dict[str, bytes] | None = None
) -> Iterator[tuple[Cut, dict[str, bytes]]]:
    """The disk after each cut; `files` is what was there before the first event."""
    platter, at = Platter(files), 0
    for cut in where:
        for event in events[at : cut.at]:
            platter.tell(event)
        at = cut.at
        yield cut, platter.image(cut.mode, rng)
