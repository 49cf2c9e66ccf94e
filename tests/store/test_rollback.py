"""A store that was set back is noticed: by its witness, and by the history of its server (protocol §4.1)."""

import random

import pytest
from sqlalchemy import text

from relay.store import apps, meta
from relay.store.engine import Engine
from relay.store.rollback import check_server, check_witness

RNG = random.Random(1)


@pytest.fixture
async def store(engine: Engine) -> Engine:
    await engine.write(lambda conn, now_ms: meta.prepare(conn, now_ms, RNG))
    await engine.write(lambda conn, now_ms: apps.create_app(conn, now_ms, app_id="a", id_secret=b"1" * 32))
    return engine


async def epoch(store: Engine) -> str:
    return str(await store.read(lambda conn, _: conn.execute(text("SELECT epoch FROM store_meta")).scalar_one()))


async def events(store: Engine) -> list[str]:
    return list(await store.read(lambda conn, _: conn.execute(text("SELECT type FROM event")).scalars()))


async def met(store: Engine, mark: str, durability: str = "single-node") -> bool:
    return await store.write(lambda conn, now_ms: check_server(conn, now_ms, RNG, mark=mark, durability=durability))


async def test_a_store_behind_its_witness_begins_a_new_epoch_and_tells_the_backend(store: Engine) -> None:
    before = await epoch(store)
    seen = await store.write(lambda conn, now_ms: meta.tick(conn, now_ms, "n1"))
    seen = meta.Witness(epoch=seen.epoch, ticks=seen.ticks + 1, at_ms=seen.at_ms)
    assert await store.write(lambda conn, now_ms: check_witness(conn, now_ms, RNG, seen))
    assert await epoch(store) != before
    assert await events(store) == ["store.rolled_back"]
    assert not await store.write(lambda conn, now_ms: check_witness(conn, now_ms, RNG, seen))  # it is known now


async def test_a_store_that_went_on_is_left_alone(store: Engine) -> None:
    before = await epoch(store)
    seen = await store.write(lambda conn, now_ms: meta.tick(conn, now_ms, "n1"))
    await store.write(lambda conn, now_ms: meta.tick(conn, now_ms, "n2"))
    assert not await store.write(lambda conn, now_ms: check_witness(conn, now_ms, RNG, seen))
    assert not await store.write(lambda conn, now_ms: check_witness(conn, now_ms, RNG, None))
    assert await epoch(store) == before


@pytest.mark.parametrize(
    ("before", "durability", "after", "lost"),
    [
        ("7/00000001", "single-node", "7/00000001", False),
        ("7/00000001", "single-node", "7/00000002", True),  # promoted, or restored to a point in time
        ("7/00000001", "async-replica", "7/00000002", True),
        ("7/00000001", "sync-replica", "7/00000002", False),  # every COMMIT had waited for the one that was promoted
        ("7/00000001", "sync-replica", "8/00000001", True),  # another cluster altogether
        ("/", "single-node", "7/00000002", False),  # the role could not read it then
        ("7/00000001", "single-node", "/", False),  # nor now
        ("7/", "single-node", "8/", True),
    ],
)
async def test_another_history_is_a_new_epoch_unless_nothing_can_be_missing(
    store: Engine, before: str, durability: str, after: str, lost: bool
) -> None:
    """F76, F77: an asynchronous replica may lack what was promised; a synchronous one does not."""
    assert not await met(store, before, durability)
    was = await epoch(store)
    assert await met(store, after) == lost
    assert (await epoch(store) != was) == lost
    assert await events(store) == ["store.rolled_back"] * lost
    assert not await met(store, after)


async def test_a_store_that_was_never_on_a_server_we_know_takes_its_mark(store: Engine) -> None:
    before = await epoch(store)
    assert not await met(store, "7/00000009")
    assert await epoch(store) == before
    assert await met(store, "7/0000000A")
