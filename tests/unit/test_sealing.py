"""What is sealed opens in its own place and nowhere else, and survives new keys (safety SEC-11)."""

import contextlib
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from key_rings import ring
from sqlalchemy import Connection, insert, select, update

from relay.clock import SystemClock
from relay.errors import ConfigError
from relay.keys import KeyRing, SealBroken
from relay.model import DeviceKey
from relay.store import sqlite_file, vault
from relay.store.reseal import SEALED, Sealed, count, reseal_some
from relay.store.schema import metadata
from relay.store.schema.apps import app, data_key
from relay.store.schema.devices import address
from relay.store.schema.webhooks import endpoint
from relay.store.vault import RIPE_MS, Vault, add_keys, address_place, give_keys, headers_place, number_of, secret_place

NOW_MS = 1_764_000_000_000
PHONE = DeviceKey("shop", "ann", "phone")
PLACE = address_place(PHONE, "fcm")


def rng() -> random.Random:
    return random.Random(1)


@contextlib.contextmanager
def memory() -> Iterator[Connection]:
    conn = sqlite_file.connection(sqlite_file.connect(":memory:", read_only=False))
    yield conn
    sqlite_file.close(conn)


@pytest.fixture
def conn() -> Iterator[Connection]:
    """A store with two apps and their data keys, wrapped by ring key 1."""
    with memory() as conn:
        metadata.create_all(conn)
        for app_id in ("bank", "shop"):
            conn.execute(
                insert(app).values(app_id=app_id, id_secret=b"x", settings="{}", event_head=0, created_ms=NOW_MS)
            )
        give_keys(conn, NOW_MS, ring(1), rng())
        yield conn


def opened(conn: Connection, keys: KeyRing, now_ms: int = NOW_MS, *, ripe_ms: int = RIPE_MS) -> Vault:
    found = Vault(keys, rng(), ripe_ms=ripe_ms)
    found.learn(found.news(conn, now_ms), now_ms)
    return found


# --- places -----------------------------------------------------------------------------------------------------------


@given(plaintext=st.binary(max_size=300))
def test_what_is_sealed_opens_again(plaintext: bytes) -> None:
    with memory() as conn:
        metadata.create_all(conn)
        conn.execute(insert(app).values(app_id="shop", id_secret=b"x", settings="{}", event_head=0, created_ms=0))
        give_keys(conn, 0, ring(1), rng())
        box = opened(conn, ring(1))
    sealed = box.seal(plaintext, PLACE)
    assert box.open(sealed, PLACE) == plaintext
    assert len(plaintext) < 4 or plaintext not in sealed


@pytest.mark.parametrize(
    "elsewhere",
    [
        address_place(DeviceKey("bank", "ann", "phone"), "fcm"),
        address_place(DeviceKey("shop", "bob", "phone"), "fcm"),
        address_place(DeviceKey("shop", "ann", "pad"), "fcm"),
        address_place(PHONE, "apns"),
        address_place(DeviceKey("shop", "an", "nphone"), "fcm"),
        ("endpoint.token", *PLACE[1:]),
        secret_place("shop", "ann"),
    ],
)
def test_a_push_token_opens_only_for_its_app_user_device_and_account(
    conn: Connection, elsewhere: tuple[str, ...]
) -> None:
    box = opened(conn, ring(1))
    sealed = box.seal(b"token", PLACE)
    with pytest.raises(SealBroken):
        box.open(sealed, elsewhere)


def test_two_rows_whose_secrets_were_swapped_open_neither(conn: Connection) -> None:
    box = opened(conn, ring(1))
    a, b = secret_place("shop", "a"), secret_place("shop", "b")
    sealed_a, sealed_b = box.seal(b"s1", a), box.seal(b"s2", b)
    for sealed, place in ((sealed_b, a), (sealed_a, b), (sealed_a, headers_place("shop", "a"))):
        with pytest.raises(SealBroken):
            box.open(sealed, place)


def test_a_row_moved_to_another_app_does_not_open_although_that_app_has_a_key(conn: Connection) -> None:
    box = opened(conn, ring(1))
    with pytest.raises(SealBroken):
        box.open(box.seal(b"s", secret_place("shop", "a")), secret_place("bank", "a"))


def test_no_bit_may_change(conn: Connection) -> None:
    box = opened(conn, ring(1))
    sealed = box.seal(b"token", PLACE)
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBroken):
            box.open(bytes(changed), PLACE)
    for cut in range(len(sealed)):
        with pytest.raises(SealBroken):
            box.open(sealed[:cut], PLACE)


def test_the_same_twice_looks_different(conn: Connection) -> None:
    box = opened(conn, ring(1))
    assert box.seal(b"token", PLACE) != box.seal(b"token", PLACE)


# --- the ring's keys --------------------------------------------------------------------------------------------------


def rewrapped(conn: Connection, keys: KeyRing, *, limit: int = 1) -> int:
    at: tuple[str, int] | None = ("", 0)
    changed = 0
    while at is not None:
        at, _, now = vault.rewrap_some(conn, keys, at, limit=limit)
        changed += now
    return changed


def test_a_new_ring_key_needs_no_secret_sealed_again(conn: Connection) -> None:
    sealed = opened(conn, ring(1)).seal(b"token", PLACE)
    assert rewrapped(conn, ring(2, 1)) == 2
    assert opened(conn, ring(2)).open(sealed, PLACE) == b"token"  # the old ring key is not needed any more


def test_rewrapping_again_finds_nothing_to_do(conn: Connection) -> None:
    assert rewrapped(conn, ring(2, 1)) == 2
    assert rewrapped(conn, ring(2, 1)) == 0


def test_rewrapping_that_was_broken_off_goes_on(conn: Connection) -> None:
    at, seen, changed = vault.rewrap_some(conn, ring(2, 1), ("", 0), limit=1)
    assert (at, seen, changed) == (("bank", 1), 1, 1)
    assert rewrapped(conn, ring(2, 1)) == 1


def test_a_relay_that_runs_meanwhile_is_not_disturbed(conn: Connection) -> None:
    box = opened(conn, ring(1))
    before = box.seal(b"token", PLACE)
    rewrapped(conn, ring(2, 1))
    box.learn(box.news(conn, NOW_MS), NOW_MS)
    assert box.open(before, PLACE) == b"token"
    assert opened(conn, ring(2, 1)).open(box.seal(b"t", PLACE), PLACE) == b"t"


def test_ten_thousand_apps_are_rewrapped_well_within_a_minute(conn: Connection) -> None:
    apps = [
        {"app_id": f"a{n}", "id_secret": b"x", "settings": "{}", "event_head": 0, "created_ms": 0} for n in range(9_998)
    ]
    conn.execute(insert(app), apps)
    give_keys(conn, NOW_MS, ring(1), rng())
    before_ms = SystemClock().monotonic_ms()
    assert rewrapped(conn, ring(2, 1), limit=500) == 10_000
    assert SystemClock().monotonic_ms() - before_ms < 60_000


def test_a_ring_without_the_key_that_sealed_is_refused_at_start(conn: Connection) -> None:
    with pytest.raises(ConfigError, match="the ring has not the key"):
        opened(conn, ring(2))


def test_a_data_key_moved_to_another_app_is_refused(conn: Connection) -> None:
    wrapped = conn.execute(select(data_key.c.wrapped).where(data_key.c.app_id == "bank")).scalar_one()
    conn.execute(update(data_key).where(data_key.c.app_id == "shop").values(wrapped=wrapped))
    with pytest.raises(ConfigError):
        opened(conn, ring(1))


def test_an_app_keeps_the_data_key_it_has(conn: Connection) -> None:
    give_keys(conn, NOW_MS, ring(1), random.Random(2))
    assert vault.keys_count(conn) == 2


# --- data keys --------------------------------------------------------------------------------------------------------


def test_a_new_data_key_opens_at_once_and_seals_when_every_node_can_know_it(conn: Connection) -> None:
    box = opened(conn, ring(1))
    add_keys(conn, NOW_MS + 1000, ring(1), rng())
    box.learn(box.news(conn, NOW_MS + 2000), NOW_MS + 2000)
    assert box.newest("shop") == 1
    ahead = opened(conn, ring(1), NOW_MS + 2000, ripe_ms=0)
    assert ahead.newest("shop") == 2
    assert box.open(ahead.seal(b"token", PLACE), PLACE) == b"token"
    box.learn([], NOW_MS + 1000 + RIPE_MS)
    assert box.newest("shop") == 2


def fill(conn: Connection, box: Vault, n: int) -> None:
    """`n` addresses and webhook endpoints; every other one has no keys, or no headers."""
    for i in range(n):
        device = DeviceKey("shop", f"u{i}", "phone")
        keys = box.seal(b"keys", address_place(device, "fcm")) if i % 2 else None
        conn.execute(
            insert(address).values(
                app_id="shop",
                user_id=f"u{i}",
                device_id="phone",
                preference=0,
                account="fcm",
                kind="token",
                token_sealed=box.seal(f"token {i}".encode(), address_place(device, "fcm")),
                token_hash=f"{i}".encode(),
                keys_sealed=keys,
                registered_ms=0,
                state="active",
                shared=0,
            )
        )
        headers = box.seal(b"{}", headers_place("shop", f"e{i}")) if i % 2 else None
        conn.execute(
            insert(endpoint).values(
                app_id="shop",
                endpoint_id=f"e{i}",
                url="https://example.org",
                types="[]",
                secret_sealed=box.seal(f"secret {i}".encode(), secret_place("shop", f"e{i}")),
                headers_sealed=headers,
                state="active",
                created_ms=0,
            )
        )


def resealed(conn: Connection, box: Vault, one: Sealed, *, rounds: int = 1000) -> tuple[int, int]:
    """How many were sealed again, and how many could not be opened."""
    at, done, broken = None, 0, 0
    for _ in range(rounds):
        step = reseal_some(conn, box, one, at, limit=2)
        done, broken, at = done + step.sealed, broken + step.broken, step.at
        if at is None:
            break
    return done, broken


def test_everything_is_sealed_again_under_the_newest_data_key(conn: Connection) -> None:
    fill(conn, opened(conn, ring(1)), 5)
    add_keys(conn, NOW_MS, ring(1), rng())
    box = opened(conn, ring(1), ripe_ms=0)
    assert [count(conn, one) for one in SEALED] == [5, 5, 0, 2, 2]
    assert [resealed(conn, box, one) for one in SEALED] == [(5, 0), (5, 0), (0, 0), (2, 0), (2, 0)]
    for one in SEALED:
        for row in conn.execute(select(one.table).where(one.column.is_not(None))):
            sealed = getattr(row, one.column.name)
            assert number_of(sealed) == 2
            box.open(sealed, one.place(row))
    assert [resealed(conn, box, one) for one in SEALED] == [(0, 0)] * len(SEALED)


def test_sealing_again_that_was_broken_off_goes_on_with_the_rest(conn: Connection) -> None:
    fill(conn, opened(conn, ring(1)), 5)
    add_keys(conn, NOW_MS, ring(1), rng())
    box = opened(conn, ring(1), ripe_ms=0)
    assert resealed(conn, box, SEALED[0], rounds=1) == (2, 0)
    assert resealed(conn, box, SEALED[0]) == (3, 0)


def test_a_secret_that_cannot_be_opened_is_left_and_counted(conn: Connection) -> None:
    fill(conn, opened(conn, ring(1)), 3)
    spoilt = b"\x02\x00\x01" + bytes(40)
    conn.execute(update(address).where(address.c.user_id == "u1").values(token_sealed=spoilt))
    add_keys(conn, NOW_MS, ring(1), rng())
    assert resealed(conn, opened(conn, ring(1), ripe_ms=0), SEALED[0]) == (2, 1)
    kept = conn.execute(select(address.c.token_sealed).where(address.c.user_id == "u1")).scalar_one()
    assert kept == spoilt


def test_every_sealed_column_of_the_schema_is_sealed_again() -> None:
    columns = {c for table in metadata.tables.values() for c in table.columns if c.name.endswith("_sealed")}
    assert columns == {one.column for one in SEALED}
