"""Sealing again, on both stores, beside somebody who writes meanwhile (safety SEC-11)."""

import random
from typing import Protocol

import pytest
from key_rings import ring
from sqlalchemy import select, update

from relay.keys import KeyRing
from relay.model import Address, DeviceKey
from relay.store import addresses as address_rows
from relay.store import apps
from relay.store.engine import Engine
from relay.store.reseal import SEALED, Round, count, reseal_some
from relay.store.schema.apps import data_key
from relay.store.schema.devices import address
from relay.store.vault import Vault, add_keys, address_place, give_keys, number_of, rewrap_some

TOKENS = SEALED[0]


class Going(Protocol):
    def now_ms(self) -> int: ...


def phone(n: int) -> DeviceKey:
    return DeviceKey("shop", f"user {n:02}", "phone")


async def opened(engine: Engine, clock: Going, keys: KeyRing) -> Vault:
    vault = Vault(keys, random.Random(3), ripe_ms=0)
    vault.learn(await engine.read(vault.news), clock.now_ms())
    return vault


async def put(engine: Engine, vault: Vault, n: int, token: str) -> None:
    sealed = vault.seal(token.encode(), address_place(phone(n), "fcm"))
    one = Address(
        preference=0,
        account="fcm",
        kind="token",
        token_sealed=sealed,
        token_hash=token.encode(),
        registered_ms=0,
        state="active",
        shared=0,
    )
    await engine.write(lambda conn, _: address_rows.set_addresses(conn, phone(n), [one]))


async def step(engine: Engine, vault: Vault, at: tuple[str, ...] | None) -> Round:
    return await engine.write(lambda conn, _: reseal_some(conn, vault, TOKENS, at, limit=3))


@pytest.fixture
async def vault(engine: Engine, clock: Going) -> Vault:
    """Seven push tokens under the first data key, which ring key 1 wraps."""
    await engine.write(lambda conn, now_ms: apps.create_app(conn, now_ms, app_id="shop", id_secret=b"x"))
    await engine.write(lambda conn, now_ms: give_keys(conn, now_ms, ring(1), random.Random(2)))
    first = await opened(engine, clock, ring(1))
    for n in range(7):
        await put(engine, first, n, f"token {n}")
    return first


async def sealed(engine: Engine) -> dict[str, bytes]:
    rows = await engine.read(lambda conn, _: list(conn.execute(select(address))))
    return {row.user_id: row.token_sealed for row in rows}


async def test_every_row_is_sealed_again_in_steps_and_once(engine: Engine, clock: Going, vault: Vault) -> None:
    assert vault.newest("shop") == 1
    await engine.write(lambda conn, now_ms: add_keys(conn, now_ms, ring(1), random.Random(4)))
    newer = await opened(engine, clock, ring(1))
    assert await engine.read(lambda conn, _: count(conn, TOKENS)) == 7
    steps: list[Round] = []
    while not steps or steps[-1].at is not None:
        steps.append(await step(engine, newer, steps[-1].at if steps else None))
    assert [one.sealed for one in steps] == [3, 3, 1]
    assert (await step(engine, newer, None)).sealed == 0
    rows = await sealed(engine)
    assert {number_of(one) for one in rows.values()} == {2}
    for n in range(7):
        assert newer.open(rows[phone(n).user_id], address_place(phone(n), "fcm")) == f"token {n}".encode()


async def test_a_token_that_a_device_brings_meanwhile_is_kept(engine: Engine, clock: Going, vault: Vault) -> None:
    await engine.write(lambda conn, now_ms: add_keys(conn, now_ms, ring(1), random.Random(4)))
    newer = await opened(engine, clock, ring(1))
    first = await step(engine, newer, None)
    await put(engine, vault, 1, "brought by a node that seals with the old key")
    await step(engine, newer, first.at)
    assert (await step(engine, newer, None)).sealed == 1
    kept = (await sealed(engine))[phone(1).user_id]
    assert newer.open(kept, address_place(phone(1), "fcm")).startswith(b"brought")


async def test_data_keys_are_wrapped_under_the_new_ring_key(engine: Engine, clock: Going, vault: Vault) -> None:
    before = await sealed(engine)
    assert await engine.write(lambda conn, _: rewrap_some(conn, ring(2, 1), ("", 0), limit=10)) == (("shop", 1), 1, 1)
    assert await engine.write(lambda conn, _: rewrap_some(conn, ring(2, 1), ("shop", 1), limit=10)) == (None, 0, 0)
    assert await sealed(engine) == before
    after = await opened(engine, clock, ring(2))
    assert after.open(before[phone(0).user_id], address_place(phone(0), "fcm")) == b"token 0"
    assert vault.newest("shop") == after.newest("shop")


async def test_a_broken_row_is_passed_over(engine: Engine, clock: Going, vault: Vault) -> None:
    swapped = (await sealed(engine))[phone(2).user_id]
    await engine.write(
        lambda conn, _: conn.execute(
            update(address).where(address.c.user_id == phone(3).user_id).values(token_sealed=swapped)
        )
    )
    await engine.write(lambda conn, now_ms: add_keys(conn, now_ms, ring(1), random.Random(4)))
    newer = await opened(engine, clock, ring(1))
    first = await step(engine, newer, None)
    assert (await step(engine, newer, first.at)).broken == 1
    assert (await sealed(engine))[phone(3).user_id] == swapped
    assert vault.newest("shop") == 1


async def test_a_second_node_makes_no_second_first_key(engine: Engine, vault: Vault) -> None:
    await engine.write(lambda conn, now_ms: give_keys(conn, now_ms, ring(1), random.Random(9)))
    rows = await engine.read(lambda conn, _: list(conn.execute(select(data_key))))
    assert [(row.app_id, row.number) for row in rows] == [("shop", 1)]
    assert vault.newest("shop") == 1


async def test_the_keys_beside_a_token_are_sealed_again_with_it(engine: Engine, clock: Going, vault: Vault) -> None:
    place = address_place(phone(0), "fcm")
    keys = vault.seal(b"keys", place)
    await engine.write(
        lambda conn, _: conn.execute(
            update(address).where(address.c.user_id == phone(0).user_id).values(keys_sealed=keys)
        )
    )
    await engine.write(lambda conn, now_ms: add_keys(conn, now_ms, ring(1), random.Random(4)))
    newer = await opened(engine, clock, ring(1))
    for one in SEALED:
        await engine.write(lambda conn, _, one=one: reseal_some(conn, newer, one, None, limit=10))  # type: ignore[misc]
    kept = await engine.read(
        lambda conn, _: conn.execute(
            select(address.c.keys_sealed).where(address.c.keys_sealed.is_not(None))
        ).scalar_one()
    )
    assert number_of(kept) == 2
    assert newer.open(kept, place) == b"keys"
