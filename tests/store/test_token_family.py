"""Families of device tokens, on both stores: what a use does, whoever comes first (safety SEC-4)."""

import asyncio
import random
from dataclasses import dataclass
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.api import family
from relay.api.family import GRACE_MS, HALF_LIFE_MS, LIFE_MS, UNPROVEN_MAX, Standing, standing
from relay.model import DeviceKey
from relay.store import meta, tokens
from relay.store.engine import Engine
from relay.store.schema.webhooks import event
from relay.store.tokens import KEPT_MS

KEY = DeviceKey("shop", "ann", "phone")
DAY_MS = 86_400_000


class Going(Protocol):
    def now_ms(self) -> int: ...
    def forward(self, *, ms: int = 0, s: float = 0) -> None: ...


@dataclass
class Family:
    """One family on a store, and what may happen to it."""

    engine: Engine
    clock: Going
    name: str = "f"

    async def first(self, token_id: str = "t0", device: DeviceKey = KEY) -> None:
        await self.engine.write(
            lambda conn, now_ms: tokens.add(
                conn, family.row_of(device, now_ms, token_id=token_id, mac=b"m", family=self.name)
            )
        )

    async def use(self, token_id: str) -> Standing:
        return await self.engine.write(
            lambda conn, now_ms: family.settle(conn, now_ms, KEY, family=self.name, token_id=token_id)
        )

    async def succeed(self, token_id: str, new_id: str) -> bool:
        return await self.engine.write(
            lambda conn, now_ms: family.succeed(
                conn, now_ms, KEY, family=self.name, token_id=token_id, new_id=new_id, new_mac=b"n"
            )
        )

    async def rows(self) -> dict[str, Any]:
        found = await self.engine.write(lambda conn, _: tokens.locked_family(conn, KEY, self.name))
        return {row.token_id: row for row in found}


@pytest.fixture
async def of(engine: Engine, clock: Going) -> Family:
    await engine.write(lambda conn, now_ms: meta.prepare(conn, now_ms, random.Random(1)))
    clock.forward(ms=2 * DAY_MS)  # the store's first day is over
    return Family(engine, clock)


async def test_many_tokens_are_looked_up_as_each_would_be(of: Family, engine: Engine) -> None:
    for token_id in ("t0", "t1", "t2"):
        await of.first(token_id)
    found = await engine.read(lambda conn, _: tokens.token_rows(conn, {"t0", "t2", "unknown"}))
    each = {one: await engine.read(lambda conn, _, one=one: tokens.token_row(conn, one)) for one in ("t0", "t2")}
    assert {name: tuple(row) for name, row in found.items()} == {name: tuple(row) for name, row in each.items()}


async def test_a_successor_is_not_given_before_its_time(of: Family, clock: Going) -> None:
    await of.first()
    clock.forward(ms=HALF_LIFE_MS - 1)
    assert not await of.succeed("t0", "t1")
    clock.forward(ms=1)
    assert await of.succeed("t0", "t1")


async def test_the_first_use_takes_over_and_later_ones_change_nothing(of: Family, clock: Going) -> None:
    await of.first()
    clock.forward(ms=HALF_LIFE_MS)
    await of.succeed("t0", "t1")
    assert (await of.rows())["t0"].rotated_ms is None
    assert await of.use("t1") is Standing.FRESH
    rotated_ms = (await of.rows())["t0"].rotated_ms
    assert rotated_ms == clock.now_ms()
    clock.forward(ms=1000)
    assert await of.use("t1") is Standing.GOOD
    assert (await of.rows())["t0"].rotated_ms == rotated_ms


async def test_of_siblings_the_first_one_used_takes_over(of: Family, clock: Going) -> None:
    await of.first()
    clock.forward(ms=HALF_LIFE_MS)
    for new in ("t1", "t2"):
        await of.succeed("t0", new)
    assert await of.use("t2") is Standing.FRESH
    assert await of.use("t1") is Standing.GOOD  # tolerated for a while; it takes nothing over
    assert (await of.rows())["t2"].rotated_ms is None
    clock.forward(ms=GRACE_MS)
    assert await of.use("t1") is Standing.REUSED


async def test_siblings_used_at_once_leave_one_in_charge(of: Family, clock: Going) -> None:
    await of.first()
    clock.forward(ms=HALF_LIFE_MS)
    for new in ("t1", "t2", "t3"):
        await of.succeed("t0", new)
    found = await asyncio.gather(*(of.use(token_id) for token_id in ("t1", "t2", "t3")))
    assert sorted(found) == [Standing.FRESH, Standing.GOOD, Standing.GOOD]
    assert [row.rotated_ms for row in (await of.rows()).values()].count(None) == 1


async def test_successors_that_are_never_used_do_not_pile_up(of: Family, clock: Going) -> None:
    await of.first()
    clock.forward(ms=HALF_LIFE_MS)
    for n in range(1, 8):
        clock.forward(ms=1)
        assert await of.succeed("t0", f"t{n}")
    assert sorted(await of.rows()) == ["t0", "t5", "t6", "t7"]
    assert UNPROVEN_MAX == 3
    assert await of.use("t1") is Standing.REVOKED


async def test_reuse_revokes_every_token_of_the_family_and_is_told_once(of: Family, clock: Going) -> None:
    other = Family(of.engine, of.clock, "g")
    await of.first()
    await other.first("u0")
    clock.forward(ms=HALF_LIFE_MS)
    await of.succeed("t0", "t1")
    await of.use("t1")
    clock.forward(ms=GRACE_MS)
    assert await of.use("t0") is Standing.REUSED
    assert await of.use("t0") is Standing.REVOKED
    assert await of.use("t1") is Standing.REVOKED
    assert await other.use("u0") is Standing.GOOD
    (told,) = await of.engine.read(lambda conn, _: list(conn.execute(event.select())))
    assert told.type == "device.token_reuse"
    revoked = await of.engine.read(lambda conn, now_ms: tokens.revoked_since(conn, now_ms))
    assert revoked == {"t0", "t1"}


async def test_after_an_epoch_change_an_older_token_revokes_nobody_for_a_day(of: Family, clock: Going) -> None:
    await of.first()
    clock.forward(ms=HALF_LIFE_MS)
    await of.succeed("t0", "t1")
    await of.use("t1")
    await of.engine.write(lambda conn, now_ms: meta.begin_epoch(conn, now_ms, random.Random(2)))
    clock.forward(ms=DAY_MS - 1)
    assert await of.use("t0") is Standing.EXPIRED
    assert await of.use("t1") is Standing.GOOD
    clock.forward(ms=1)
    assert await of.use("t0") is Standing.REUSED
    assert await of.use("t1") is Standing.REVOKED


async def test_a_rotated_or_revoked_token_has_no_successor(of: Family, clock: Going) -> None:
    await of.first()
    clock.forward(ms=HALF_LIFE_MS)
    await of.succeed("t0", "t1")
    await of.use("t1")
    assert not await of.succeed("t0", "t2")
    clock.forward(ms=HALF_LIFE_MS)
    await of.engine.write(lambda conn, now_ms: tokens.revoke(conn, now_ms, app_id=KEY.app_id))
    assert not await of.succeed("t1", "t2")


@pytest.mark.parametrize(
    ("named", "left"),
    [
        ({}, set()),
        ({"user_id": "ann"}, {"bob"}),
        ({"user_id": "ann", "device_id": "phone"}, {"ann's pad", "bob"}),
    ],
)
async def test_revocation_reaches_what_is_named_and_nothing_else(
    of: Family, named: dict[str, str], left: set[str]
) -> None:
    await of.first("ann's phone")
    await of.first("ann's pad", DeviceKey("shop", "ann", "pad"))
    await of.first("bob", DeviceKey("shop", "bob", "phone"))
    await of.first("another app", DeviceKey("bank", "ann", "phone"))
    everything = {"ann's phone", "ann's pad", "bob", "another app"}
    gone = await of.engine.write(lambda conn, now_ms: tokens.revoke(conn, now_ms, app_id="shop", **named))
    revoked = await of.engine.read(lambda conn, _: tokens.revoked_since(conn, 0))
    assert everything - revoked == left | {"another app"}
    assert gone == len(revoked)


async def test_an_expired_token_is_kept_for_a_day_to_know_it_by(of: Family, clock: Going) -> None:
    await of.first()
    clock.forward(ms=LIFE_MS + KEPT_MS - 1)
    await of.engine.write(tokens.forget)
    assert await of.use("t0") is Standing.EXPIRED
    clock.forward(ms=1)
    await of.engine.write(tokens.forget)
    assert await of.rows() == {}


# --- the rule, by its properties --------------------------------------------------------------------------------------


@dataclass
class Token:
    generation: int = 1
    created_ms: int = 0
    expires_ms: int = LIFE_MS
    used_ms: int | None = None
    rotated_ms: int | None = None
    revoked_ms: int | None = None


instants = st.one_of(st.none(), st.integers(0, 2 * LIFE_MS))


@given(used=instants, rotated=instants, revoked=instants, now_ms=st.integers(0, 3 * LIFE_MS))
def test_a_token_once_bad_stays_bad(used: int | None, rotated: int | None, revoked: int | None, now_ms: int) -> None:
    token = Token(used_ms=used, rotated_ms=rotated, revoked_ms=revoked)
    good = {Standing.GOOD, Standing.FRESH}
    if standing(token, now_ms) not in good:
        assert standing(token, now_ms + 1) not in good
    if revoked is not None:
        assert standing(token, now_ms) is Standing.REVOKED


@given(rotated=st.integers(0, LIFE_MS), after_ms=st.integers(0, 2 * GRACE_MS))
def test_a_rotated_token_is_tolerated_for_its_grace_and_not_longer(rotated: int, after_ms: int) -> None:
    token = Token(expires_ms=3 * LIFE_MS, used_ms=0, rotated_ms=rotated)
    assert (standing(token, rotated + after_ms) is Standing.GOOD) == (after_ms < GRACE_MS)
