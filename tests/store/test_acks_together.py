"""Acks of many devices in one transaction: what becomes of each is what would have, had it come by itself."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from house import House

from relay.errors import Malformed
from relay.inbox.ack import AckAnswer, AckRequest, Nack, ack
from relay.model import Scope, UserKey
from relay.store import spans
from relay.store.engine import Engine
from relay.store.entry_ends import prune_entries

MANY = 8


async def filled(house: House) -> list[AckRequest]:
    """A house with messages of many kinds, and what its devices have to say."""
    await house.begin()
    names = [f"ann/{device}" for device in ("phone", "tablet")]
    names += [f"{user}/phone" for user in ("bob", "cid", "dan", "eve", "fay", "gus")]
    for name in names:
        await house.register(name)
        await house.hello(name, schema=1, app_version="1")
    await house.send("ann")
    await house.send("ann", scope=Scope(first_ack_wins=True))
    await house.send("ann", ttl_s=60)
    await house.sends(MANY, "bob")
    await house.sends(3, "cid")
    await house.send("dan")
    (pushed,) = await house.sends(1, "eve")
    await house.send("fay", min_schema=5)
    (unread,) = await house.sends(1, "gus")
    await house.engine.write(lambda conn, _: prune_entries(conn, UserKey(house.app, "cid"), floor=2))
    house.clock.forward(s=60)

    def says(name: str, **more: Any) -> AckRequest:
        return AckRequest(device=house.key(name), **more)

    return [
        says("ann/phone", upto=2),
        says("bob/phone", upto=MANY),
        says("ann/tablet", upto=3),  # the second was ended for it by the first request
        says("ann/phone", upto=3),
        says("cid/phone", upto=1),  # below the floor
        says("dan/phone", upto=2),
        says("eve/phone", ids=(pushed,)),
        says("eve/phone", upto=1),
        says("fay/phone", upto=1),
        says("gus/phone", upto=1, nacks=(Nack(unread, "unknown_type"),)),
        says("dan/phone", upto=1),
        says("cid/phone", upto=3),
    ]


async def acked(house: House, requests: Sequence[AckRequest]) -> Sequence[AckAnswer | Exception]:
    return await house.engine.write(lambda conn, now_ms: ack(conn, now_ms, requests, lambda _: house.policy))


async def left(house: House) -> dict[str, list[Any]]:
    """What is in the rows of this house."""
    wanted = {
        "device": "user_id, device_id, acked_seq, acked_high, pushed_seq, progress_ms, contact_ms, conf_session",
        "device_ack": "user_id, device_id, from_seq, to_seq, kind",
        "device_held": "user_id, device_id, seq, why, tries",
        "push_job": "user_id, device_id, due_ms, reason",
        "inbox_entry": "user_id, seq, kind, state, ended_ms, completed_ms",
    }
    found: dict[str, list[Any]] = {}
    for table, columns in wanted.items():
        rows = await house.rows(f"SELECT {columns} FROM {table} WHERE app_id = '{house.app}'")
        found[table] = sorted(json.dumps(row) for row in rows)
    events = await house.rows(f"SELECT type, data FROM event WHERE app_id = '{house.app}'")
    found["event"] = sorted(f"{row['type']} {_without_ids(row['data'])}" for row in events)
    return found


def _without_ids(data: str) -> str:
    """Ids are made of the app's name, too."""
    told = json.loads(data)
    for one in told.get("deliveries", ()):
        del one["id"]
    return json.dumps(told)


async def test_together_they_come_to_what_they_come_to_one_by_one(
    engine: Engine, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "TOGETHER", 3)  # numbers: so there is more than one reading, and bob's are in several
    houses = [House(engine, clock, app=app) for app in ("alone", "shop")]
    begun_ms, said = clock.now_ms(), []
    for house in houses:
        clock.forward(ms=begun_ms - clock.now_ms())
        said.append(await filled(house))
    alone = [(await acked(houses[0], [one]))[0] for one in said[0]]
    together = await acked(houses[1], said[1])

    def plain(answers: Sequence[AckAnswer | Exception]) -> list[Any]:
        return [type(one) if isinstance(one, Exception) else (one.acked_seq, one.results) for one in answers]

    assert plain(together) == plain(alone)
    assert [type(one) for one in together].count(Malformed) == 1
    rows = await left(houses[1])
    assert rows == await left(houses[0])
    assert all(rows.values()), "there is nothing to compare"
