"""The sealed cursor (protocol 2.3): good for one device, unreadable once touched, refused in one way only."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Malformed
from relay.inbox.cursor import LENGTH, TEXT_LENGTH, Cursor, CursorKeys, epoch8, seal, tail8, unseal
from relay.model import SEQ_MAX, DeviceKey

KEYS = CursorKeys(2, {1: b"a" * 32, 2: b"b" * 32})
PHONE = DeviceKey("shop", "ann", "phone")
eight = st.binary(min_size=8, max_size=8)
cursors = st.builds(
    Cursor,
    epoch8=eight,
    timeline8=eight,
    session=st.integers(0, 2**40),
    seq=st.integers(0, SEQ_MAX),
    store8=eight,
    tail8=eight,
    kind=st.integers(0, 1),
)
names = st.text(st.characters(codec="utf-8", exclude_characters="\x1f"), max_size=20)
devices = st.builds(DeviceKey, names, names, names)


def refused(text: str, device: DeviceKey = PHONE, keys: CursorKeys = KEYS) -> bool:
    with pytest.raises(Malformed) as problem:
        unseal(text, device, keys)
    return problem.value.code == "invalid_cursor"


@given(cursors, devices)
def test_a_cursor_comes_back_as_it_was_sealed_and_is_short(cursor: Cursor, device: DeviceKey) -> None:
    text = seal(cursor, device, KEYS)
    assert len(text) == TEXT_LENGTH <= 256
    assert unseal(text, device, KEYS) == cursor


@given(cursors, st.integers(0, LENGTH * 8 - 1))
def test_a_cursor_with_any_bit_changed_is_refused(cursor: Cursor, bit: int) -> None:
    raw = bytearray(base64.urlsafe_b64decode(seal(cursor, PHONE, KEYS)))
    raw[bit // 8] ^= 1 << bit % 8
    assert refused(base64.urlsafe_b64encode(bytes(raw)).decode())


@given(cursors, devices, devices)
def test_a_cursor_is_good_for_its_device_alone(cursor: Cursor, mine: DeviceKey, other: DeviceKey) -> None:
    text = seal(cursor, mine, KEYS)
    assert mine == other or refused(text, other)


@given(cursors)
def test_names_that_run_together_are_still_different_devices(cursor: Cursor) -> None:
    assert refused(seal(cursor, DeviceKey("a", "bc", "d"), KEYS), DeviceKey("ab", "c", "d"))


@given(cursors)
def test_an_older_key_still_reads_what_it_sealed_until_it_is_removed(cursor: Cursor) -> None:
    """F97: a rotation costs no device its place."""
    text = seal(cursor, PHONE, CursorKeys(1, {1: b"a" * 32}))
    assert unseal(text, PHONE, KEYS) == cursor
    assert refused(text, keys=CursorKeys(2, {2: b"b" * 32}))


@given(st.text(max_size=120) | st.binary(max_size=70).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_text_that_was_never_sealed_is_refused(text: str) -> None:
    assert refused(text)


@pytest.mark.parametrize(
    "text", ["", "A" * TEXT_LENGTH, "A" * 86 + "==", "A" * 87 + "=", "=" * TEXT_LENGTH, "é" * TEXT_LENGTH, "\0" * 88]
)
def test_text_of_the_right_length_is_refused_all_the_same(text: str) -> None:
    assert refused(text)


@given(names, names, names)
def test_either_epochs_change_makes_another_epoch(store: str, inbox: str, new: str) -> None:
    changed = new not in (store, inbox)
    assert (epoch8(store, inbox) != epoch8(new, inbox)) or not changed
    assert (epoch8(store, inbox) != epoch8(store, new)) or not changed


def test_no_message_has_the_tail_of_none() -> None:
    assert tail8(None) == bytes(8) != tail8("")
