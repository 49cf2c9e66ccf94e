"""CR-8, FLT-14: the primary is lost under load, and its standby takes over.

A synchronous standby has every message that got a 202. An asynchronous one may lack the last: then the relay knows it,
begins a new epoch and tells the backend, which sends again what it has answers for.
"""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from books import wrong_in_the_store
from load import (
    ENVIRON,
    SENDERS,
    USERS,
    Client,
    client_of,
    every_accepted_key_is_stored,
    repeats_find_what_is_there,
)
from postgres_databases import admin
from relay_process import RelayProcess
from standby import Standby

from relay.ids import tag_of_id

LATE = 10  # messages that the standby never got


@pytest.fixture
async def standby(own_postgres: Any) -> AsyncIterator[Standby]:
    standby = await asyncio.to_thread(Standby, own_postgres)
    yield standby
    await asyncio.to_thread(standby.close)


@pytest.fixture
async def relay(standby: Standby, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    """Not started yet."""
    relay = RelayProcess(tmp_path, ENVIRON | {"RELAY_STORE__URL": standby.url_of_both})
    yield relay
    await relay.aclose()


async def is_(durability: str, client: Client) -> None:
    async with asyncio.timeout(20):  # it looks at its server every 10 s
        while (said := await client.call("GET", "/readyz"))[1]["durability"] != durability:
            await asyncio.sleep(0.1)  # noqa: TID251 - the relay is another process
    assert said[0] == 200


async def takes_messages_again(client: Client) -> None:
    """FLT-14: within 5 s after there is a server that takes them."""
    client.ledger.success.clear()
    async with asyncio.timeout(5):
        await client.ledger.success.wait()


async def test_with_a_synchronous_standby_a_failover_under_load_loses_nothing(
    own_postgres: Any, standby: Standby, relay: RelayProcess, tmp_path: Path
) -> None:
    await admin(own_postgres.admin_url, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
    await relay.start()
    async with client_of(relay, tmp_path) as client:
        client.weather = frozenset({"storage_unavailable", "overloaded", "commit_unknown"})
        await is_("sync-replica", client)
        for user in USERS:
            await client.hello(user)
        load = [asyncio.create_task(client.keep_acking(user)) for user in USERS]
        load += [asyncio.create_task(client.keep_sending(str(n))) for n in range(SENDERS)]
        await client.ledger.all_acked.wait()
        await asyncio.sleep(random.Random(1).uniform(0.05, 1))  # noqa: TID251 - the moment of the loss is the test
        await asyncio.to_thread(own_postgres.stop, "immediate")
        await asyncio.to_thread(standby.promote)
        await takes_messages_again(client)
        await is_("single-node", client)
        await relay.end(signal.SIGKILL)
        await asyncio.gather(*load)
        await relay.start()
        await client.every_ack_is_kept()
        for user in USERS:
            await client.hello(user)  # with the cursor it had: the epoch is the same
        await repeats_find_what_is_there(client, await every_accepted_key_is_stored(client))
        assert await relay.end(signal.SIGTERM) == 0
    assert not await wrong_in_the_store({"RELAY_STORE__URL": standby.url}, USERS)


async def test_with_an_asynchronous_standby_the_relay_says_so_and_knows_what_a_failover_cost(
    own_postgres: Any, standby: Standby, relay: RelayProcess, tmp_path: Path
) -> None:
    await relay.start()
    async with client_of(relay, tmp_path) as client:
        await is_("async-replica", client)
        kept = [await sent(client, number) for number in range(LATE)]
        cursor = (await welcomed(client))["cursors"]["inbox"]
        await everything_is_at(standby, own_postgres)
        await asyncio.to_thread(standby.stop)  # it hangs behind
        lost = [await sent(client, number) for number in range(LATE, 2 * LATE)]
        await asyncio.to_thread(own_postgres.stop, "immediate")
        await asyncio.to_thread(standby.start)
        await asyncio.to_thread(standby.promote)
        assert await told_of_the_store(client) == "store.rolled_back"
        welcome = await welcomed(client, cursor)
        assert (welcome["verdict"], welcome["reason"]) == ("resync", "epoch")
        assert [entry["id"] for entry in await client.inbox("ann")] == kept
        with pytest.raises(AssertionError, match=f"lost: {LATE}"):  # the first that the standby never got
            await every_accepted_key_is_stored(client)
        again = [await sent(client, number) for number in range(2 * LATE)]
        assert [tag_of_id(one) for one in again] == [tag_of_id(one) for one in kept + lost], "devices know them again"
        assert list(await every_accepted_key_is_stored(client)) == [str(number) for number in range(2 * LATE)]
        assert await relay.end(signal.SIGTERM) == 0
    assert not await wrong_in_the_store({"RELAY_STORE__URL": standby.url}, USERS)


async def sent(client: Client, number: int) -> str:
    """Its id; sent until the relay can take it."""
    key, body = str(number), {"to": {"users": ["ann"]}, "body": {"key": str(number)}}
    client.ledger.mean(key, body)
    status, answer = await client.send(key, body)
    assert status in {200, 202}, answer
    client.ledger.accepted(key, answer)
    return str(answer["id"])


async def welcomed(client: Client, cursor: str | None = None) -> Any:
    body = {"store": {"id": "s"}} | ({} if cursor is None else {"cursors": {"inbox": cursor}})
    status, welcome = await client.call("PUT", "/v1/device", body, bearer=client._tokens["ann", "acker"])
    assert status == 200, welcome
    return welcome


async def everything_is_at(standby: Standby, primary: Any) -> None:
    """The standby has the log of its primary up to now."""
    [here] = await asked(primary.url, "SELECT pg_current_wal_lsn()::text")
    async with asyncio.timeout(20):
        while not (await asked(standby.url, f"SELECT pg_last_wal_replay_lsn() >= '{here}'"))[0]:
            await asyncio.sleep(0.05)  # noqa: TID251 - the server is another process


async def asked(url: str, query: str) -> list[Any]:
    """The first row."""
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetchrow(query))
    finally:
        await connection.close()


async def told_of_the_store(client: Client) -> str:
    """The type of the event that the backend pulls, once the relay has seen the other server."""
    async with asyncio.timeout(20):
        while True:
            status, answer = await client.call("GET", "/v1/events?limit=200")
            found = [one["type"] for one in answer.get("events", ()) if one["type"].startswith("store.")]
            if status == 200 and found:
                return str(found[0])
            await asyncio.sleep(0.05)  # noqa: TID251 - the relay is another process
