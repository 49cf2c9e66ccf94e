"""A power cut loses nothing that was promised, wherever it comes and whatever the disk made of unsynced writes (CR-6).

Forty seconds' worth in a normal run; more: `python -m tests.faults.power_cut --images 2000`, or RELAY_IMAGES.
"""

import os
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.keys import KeyRing
from relay.store import replace, sqlite_file

from .disk import Disk, Event, Made, Removed, Renamed, Sync, SyncFailed, SyncFolder, Truncate, Write
from .images import SECTOR, Cut, Mode, Platter, images, sectors
from .load import Acked, Sent, record
from .run import opened_images

IMAGES = int(os.environ.get("RELAY_IMAGES", "60"))
SENDS = 300
SEED = 1
STORE = ("relay.db", "relay.db-wal")


async def test_no_power_cut_loses_what_was_promised(tmp_path: Path) -> None:
    recording = await record(tmp_path / "recorded", sends=SENDS, seed=SEED)
    kinds = {type(one) for one in recording.ledger.promises}
    assert kinds == {Sent, Acked}
    assert any(
        isinstance(one, Write) and one.name == "relay.db" for one in recording.events[recording.ledger.ready_at :]
    )
    bad = [
        str(found) async for found in opened_images(recording, tmp_path, count=IMAGES, seed=SEED) if found.complaints
    ]
    assert not bad, "\n".join(bad)


async def test_with_synchronous_normal_the_same_run_loses_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canary (M02): a run that could not see this loss would prove nothing."""
    monkeypatch.setitem(sqlite_file.PRAGMAS, "synchronous", 1)
    recording = await record(tmp_path / "recorded", sends=SENDS // 3, seed=SEED)
    monkeypatch.undo()
    async for found in opened_images(recording, tmp_path, count=IMAGES, seed=SEED):
        if any("lost: Sent" in complaint for complaint in found.complaints):
            return
    pytest.fail("no image had lost a message")


@pytest.mark.parametrize("mode", Mode)
def test_a_power_cut_leaves_a_whole_key_ring_or_none(tmp_path: Path, mode: Mode) -> None:
    home = tmp_path / "home"
    home.mkdir()
    disk = Disk(home)
    with disk.recording():
        KeyRing.create(home / "relay.keys", random.Random(1))
    whole = (home / "relay.keys").read_bytes()
    left = [
        files.get("relay.keys")
        for seed in range(10)
        for at in range(len(disk.events) + 1)
        for _, files in images(disk.events, [Cut(at, mode)], random.Random(seed))
    ]
    assert set(left) == {None, whole}
    assert left[-1] == whole  # what was made is sure


@pytest.mark.parametrize("mode", Mode)
def test_a_power_cut_in_a_restore_leaves_the_old_store_or_the_new_one(tmp_path: Path, mode: Mode) -> None:
    home = tmp_path / "home"
    home.mkdir()
    database = home / "relay.db"
    before = {"relay.db": b"old", "relay.db-wal": b"old log", replace.unready(database).name: b"new"}
    for name, data in before.items():
        (home / name).write_bytes(data)
    disk = Disk(home)
    with disk.recording():
        replace.put(database)
    events = disk.events
    found = []
    for seed in range(10):
        for at in range(len(events) + 1):
            ((_, files),) = images(events, [Cut(at, mode)], random.Random(seed), before)
            folder = tmp_path / f"{seed}-{at}"
            folder.mkdir()
            for name, data in files.items():
                (folder / name).write_bytes(data)
            replace.finish(folder / "relay.db")
            found.append(tuple((folder / name).exists() and (folder / name).read_bytes() for name in STORE))
    assert set(found) == {(b"old", b"old log"), (b"new", False)}
    assert found[-1] == (b"new", False)  # what was restored is sure


# --- the disk itself --------------------------------------------------------------------------------------------------

FILE = "f"


def platter_of(*events: Event) -> Platter:
    platter = Platter({FILE: b"old!"})
    for event in events:
        platter.tell(event)
    return platter


def image(platter: Platter, mode: Mode, seed: int = 1) -> dict[str, bytes]:
    return platter.image(mode, random.Random(seed))


changes = st.one_of(
    st.builds(Write, st.just(FILE), st.integers(0, 3000), st.binary(min_size=1, max_size=2000)),
    st.builds(Truncate, st.just(FILE), st.integers(0, 3000)),
)


@given(st.lists(changes | st.just(Sync(FILE))), st.sampled_from(Mode), st.integers(0, 100))
def test_what_was_synced_is_the_same_in_every_mode(events: list[Event], mode: Mode, seed: int) -> None:
    synced = [*events, Sync(FILE)]
    assert image(platter_of(*synced), mode, seed) == image(platter_of(*events), Mode.KEPT)


@given(st.lists(changes))
def test_without_a_sync_everything_may_be_lost(events: list[Event]) -> None:
    assert image(platter_of(*events), Mode.LOST) == {FILE: b"old!"}


@given(st.builds(Write, st.just(FILE), st.integers(0, 2000), st.binary(min_size=1, max_size=3000)))
def test_a_torn_write_is_cut_where_the_disks_sectors_meet(write: Write) -> None:
    parts = list(sectors(write))
    assert b"".join(part.data for part in parts) == write.data
    assert all(second.offset == first.offset + len(first.data) for first, second in pairwise(parts))
    assert all(part.offset % SECTOR == 0 for part in parts[1:])
    assert all(part.offset // SECTOR == (part.offset + len(part.data) - 1) // SECTOR for part in parts)


def test_what_a_failed_sync_gave_up_is_not_saved_by_a_later_one() -> None:
    platter = platter_of(Write(FILE, 0, b"new!"), SyncFailed(FILE), Write(FILE, 4, b"more"), Sync(FILE))
    assert image(platter, Mode.LOST) == {FILE: b"old!more"}
    assert image(platter, Mode.KEPT) == {FILE: b"new!more"}


def test_a_name_is_sure_when_its_folder_was_synced() -> None:
    made = [Made("n"), Write("n", 0, b"x"), Sync("n")]
    assert image(platter_of(*made), Mode.LOST) == {FILE: b"old!"}
    assert image(platter_of(*made, SyncFolder()), Mode.LOST) == {FILE: b"old!", "n": b"x"}
    assert image(platter_of(*made, SyncFolder(), Renamed("n", FILE)), Mode.LOST) == {FILE: b"old!", "n": b"x"}
    assert image(platter_of(*made, SyncFolder(), Renamed("n", FILE)), Mode.KEPT) == {FILE: b"x"}
    assert image(platter_of(Removed(FILE)), Mode.LOST) == {FILE: b"old!"}
    assert image(platter_of(Removed(FILE), SyncFolder()), Mode.LOST) == {}
