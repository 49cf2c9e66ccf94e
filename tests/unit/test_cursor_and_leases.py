"""Two small machines against what they promise: the sealed cursor, and the wheel of leases."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Malformed
from relay.inbox.cursor import Cursor, CursorKeys, seal, unseal
from relay.inbox.rules import Acks, above, merged
from relay.model import DeviceKey
from relay.presence.leases import LeaseBook
from relay.presence.rules import negotiate

KEYS = CursorKeys(2, {1: b"a" * 32, 2: b"b" * 32})
PHONE = DeviceKey("shop", "ann", "phone")
eight = st.binary(min_size=8, max_size=8)
cursors = st.builds(
    Cursor,
    epoch8=eight,
    timeline8=eight,
    session=st.integers(0, 2**40),
    seq=st.integers(0, 2**53 - 1),
    store8=eight,
    tail8=eight,
)


@given(cursors)
def test_a_cursor_comes_back_as_it_was_sealed_and_is_short(cursor: Cursor) -> None:
    text = seal(cursor, PHONE, KEYS)
    assert len(text) <= 256
    assert unseal(text, PHONE, KEYS) == cursor


@given(cursors, st.integers(0, 66 * 8 - 1))
def test_a_cursor_with_any_bit_changed_is_refused(cursor: Cursor, bit: int) -> None:
    raw = bytearray(base64.urlsafe_b64decode(seal(cursor, PHONE, KEYS)))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Malformed):
        unseal(base64.urlsafe_b64encode(bytes(raw)).decode(), PHONE, KEYS)


@given(cursors)
def test_a_cursor_is_good_for_its_device_alone(cursor: Cursor) -> None:
    text = seal(cursor, PHONE, KEYS)
    for other in (
        DeviceKey("shop", "ann", "tablet"),
        DeviceKey("shop", "bob", "phone"),
        DeviceKey("x", "ann", "phone"),
    ):
        with pytest.raises(Malformed):
            unseal(text, other, KEYS)


@given(cursors)
def test_an_older_key_still_reads_what_it_sealed(cursor: Cursor) -> None:
    text = seal(cursor, PHONE, CursorKeys(1, {1: b"a" * 32}))
    assert unseal(text, PHONE, KEYS) == cursor


@given(st.text(max_size=120))
def test_text_that_was_never_sealed_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        unseal(text, PHONE, KEYS)


steps = st.lists(
    st.tuples(
        st.sampled_from(["grant", "renew", "drop", "sweep"]), st.integers(0, 3), st.integers(1, 3), st.integers(0, 5000)
    ),
    max_size=40,
)


@given(steps)
def test_the_wheel_ends_exactly_the_leases_that_are_over(what: list[tuple[str, int, int, int]]) -> None:
    book, model, now_ms = LeaseBook(), {}, 1_000_000
    for word, device, session, pause_ms in what:
        now_ms += pause_ms
        key = DeviceKey("a", "u", str(device))
        held = model.get(key)
        match word:
            case "grant":
                if book.grant(key, session=session, now_ms=now_ms, length_ms=3000):
                    model[key] = (session, now_ms + 3000)
                else:
                    assert held is not None
                    assert session < held[0]
            case "renew":
                renewed = book.renew(key, session, now_ms)
                assert renewed == (held is not None and held[0] == session)
                if renewed and held is not None:
                    model[key] = (session, max(held[1], now_ms + 3000))
            case "drop":
                book.drop(key, session)
                if held is not None and held[0] <= session:
                    del model[key]
            case "sweep":
                over = {one for one, (_, until_ms) in model.items() if until_ms <= now_ms}
                assert {one for one, _ in book.overdue(now_ms)} == over
                model = {one: lease for one, lease in model.items() if one not in over}
    assert len(book) == len(model)


@given(st.floats(0, 4000), st.floats(0, 4000), st.floats(0, 4000))
def test_the_negotiated_interval_keeps_the_relays_bounds(low: float, high: float, prefer: float) -> None:
    beat = negotiate(min_s=low, max_s=high, prefer_s=prefer, factor=2.5)
    assert beat.interval_s >= 10
    assert beat.lease_s == beat.interval_s * 2.5


@given(st.lists(st.integers(1, 300), max_size=200), st.integers(0, 300))
def test_selective_acks_are_disjoint_ranges_and_at_most_64(seqs: list[int], passed: int) -> None:
    acks = Acks()
    for seq in seqs:
        acks = acks.adding([seq])
    assert len(acks.ranges) <= 64
    assert acks.ranges == merged(acks.ranges)
    assert all(acks.reported(seq) for seq in seqs)
    after = acks.passing(passed)
    assert all(low > passed for low, _ in after.ranges)
    assert above(acks.ranges, passed) == after.ranges
    assert not acks.rewound(0).ranges
    assert all(acks.rewound(0).reported(seq) for seq in seqs)
