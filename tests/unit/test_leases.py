"""The wheel of leases against a naive model (protocol 6.3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import DeviceKey
from relay.presence.leases import LeaseBook

steps = st.lists(
    st.tuples(
        st.sampled_from(["grant", "renew", "drop", "sweep", "away"]),
        st.integers(0, 3),
        st.integers(1, 3),
        st.integers(0, 5000),
        st.sampled_from([1, 999, 1000, 3000, 75_000]),
    ),
    max_size=40,
)


@given(steps)
def test_the_wheel_ends_exactly_the_leases_that_are_over(what: list[tuple[str, int, int, int, int]]) -> None:
    book, now_ms = LeaseBook(), 1_000_000
    model: dict[DeviceKey, tuple[int, int, int]] = {}  # session, until, length
    for word, device, session, pause_ms, length_ms in what:
        now_ms += pause_ms
        key = DeviceKey("a", "u", str(device))
        held = model.get(key)
        match word:
            case "grant":
                granted = book.grant(key, session=session, now_ms=now_ms, length_ms=length_ms)
                assert granted == (held is None or session >= held[0])
                if granted:
                    model[key] = (session, now_ms + length_ms, length_ms)
            case "renew":
                renewed = book.renew(key, session, now_ms) is not None
                assert renewed == (held is not None and held[0] == session)
                if renewed and held is not None:
                    model[key] = (session, max(held[1], now_ms + held[2]), held[2])
            case "drop":
                book.drop(key, session)
                if held is not None and held[0] <= session:
                    del model[key]
            case "away":
                book.extend_all(pause_ms)
                model = {one: (s, until_ms + pause_ms, length) for one, (s, until_ms, length) in model.items()}
            case "sweep":
                over = [(one, lease[0]) for one, lease in model.items() if lease[1] <= now_ms]
                assert sorted(book.overdue(now_ms)) == sorted(over)
                model = {one: lease for one, lease in model.items() if lease[1] > now_ms}
        assert {one: (lease.session, lease.until_ms) for one, lease in book._leases.items()} == {
            one: lease[:2] for one, lease in model.items()
        }


def test_renewing_a_lease_moves_nothing_in_the_wheel() -> None:
    book, key = LeaseBook(), DeviceKey("a", "u", "d")
    book.grant(key, session=1, now_ms=0, length_ms=75_000)
    for now_ms in range(1000, 60_000, 10):
        book.renew(key, 1, now_ms)
    assert sum(map(len, book._slots.values())) == 1


@pytest.mark.parametrize(("session", "granted"), [(4, False), (5, True), (6, True)])
def test_an_older_session_gets_no_lease_beside_a_newer_one(session: int, granted: bool) -> None:
    book, key = LeaseBook(), DeviceKey("a", "u", "d")
    book.grant(key, session=5, now_ms=0, length_ms=1000)
    assert book.grant(key, session=session, now_ms=0, length_ms=1000) == granted
    lease = book.get(key)
    assert lease is not None
    assert lease.session == max(5, session)


def test_a_lease_is_given_out_once_when_it_is_over() -> None:
    book, key = LeaseBook(), DeviceKey("a", "u", "d")
    book.grant(key, session=1, now_ms=500, length_ms=1000)
    assert book.overdue(1499) == []
    assert book.overdue(1500) == [(key, 1)]
    assert book.overdue(9000) == []
    assert len(book) == 0
