"""The rule of disk space, and the reserve (safety FLT-11)."""

from pathlib import Path
from shutil import disk_usage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Unavailable
from relay.store.room import MIB, Room, Space, is_low, space_of

GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("free", "total", "low"),
    [
        (511 * MIB, 2 * GIB, True),
        (512 * MIB, 2 * GIB, False),
        (4 * GIB, 100 * GIB, True),
        (5 * GIB, 100 * GIB, False),
        (0, 0, True),
    ],
)
def test_by_default_512_mib_and_5_percent_are_to_be_free(free: int, total: int, low: bool) -> None:
    assert is_low(Space(free, total), free_min_bytes=512 * MIB, free_min_share=0.05) is low


@given(st.integers(0, 2**50), st.integers(0, 2**50), st.integers(0, 2**40))
def test_more_free_space_never_makes_it_low(free: int, total: int, more: int) -> None:
    limits = {"free_min_bytes": 512 * MIB, "free_min_share": 0.05}
    assert is_low(Space(free, total), **limits) >= is_low(Space(free + more, total), **limits)


class Disk:
    """A disk whose free space is what the test says."""

    def __init__(self) -> None:
        self.free = 90

    def read(self, folder: Path) -> Space:
        assert folder.is_dir()
        return Space(self.free, 100)


def room(tmp_path: Path, disk: Disk) -> Room:
    return Room(tmp_path / "relay.db", read=disk.read, free_min_bytes=10, free_min_share=0.2, reserve_bytes=MIB)


def test_the_reserve_really_takes_its_space_and_is_gone_after_the_end(tmp_path: Path) -> None:
    one = room(tmp_path, Disk())
    one.look()
    assert (tmp_path / "relay.db.reserve").stat().st_blocks * 512 >= MIB
    one.close()
    assert list(tmp_path.iterdir()) == []


def test_sends_are_refused_first_and_the_rest_when_the_disk_is_full(tmp_path: Path) -> None:
    disk = Disk()
    one = room(tmp_path, disk)
    one.look()
    one.for_sends()
    disk.free = 19
    one.look()
    with pytest.raises(Unavailable) as refused:
        one.for_sends()
    assert (refused.value.code, refused.value.retry_after_s) == ("storage_full", 60)
    one.for_others()
    assert one.release()
    with pytest.raises(Unavailable):
        one.for_others()
    assert not one.release()  # there is nothing left to give up
    one.look()
    with pytest.raises(Unavailable):
        one.for_others()


def test_it_goes_on_by_itself_when_there_is_space_for_the_reserve_as_well(tmp_path: Path) -> None:
    disk = Disk()
    one = room(tmp_path, disk)
    one.look()
    one.release()
    disk.free = 19
    one.look()
    assert one.full
    disk.free = 90
    one.look()
    one.for_sends()
    one.for_others()
    assert (tmp_path / "relay.db.reserve").exists()


def test_the_real_reader_says_what_the_file_system_says(tmp_path: Path) -> None:
    space = space_of(tmp_path)
    assert 0 < space.free <= space.total == disk_usage(tmp_path).total
