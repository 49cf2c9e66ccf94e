"""`kill -9` of a real `relay serve` under load loses no message that got a 202, and no ack that got a 200.

On both stores; on PostgreSQL its server is killed too. Fewer kills run in CI. Fifty by hand, one process, output shown:

    RELAY_KILLS=50 pytest tests/faults/test_kill.py -n 0 -s

RELAY_SEED draws other moments for the kills. What a failed run leaves behind is in its tmp_path: `ledger` has what the
senders meant and were told, `log` what the relay said, `relay.db` what it kept.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

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
from postgres_databases import fresh
from relay_process import RelayProcess

KILLS = int(os.environ.get("RELAY_KILLS", "6"))
SEED = int(os.environ.get("RELAY_SEED", "1"))
BACK_S = 5  # FLT-14: the first success comes within this time after the server accepts again
NOT_STORED = frozenset({"storage_unavailable", "overloaded"})


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[dict[str, str]]:
    """The settings that name an empty store of each kind."""
    if request.param == "sqlite":
        yield {}
    else:
        async with fresh(request.getfixturevalue("postgres_server"), "template1") as url:
            yield {"RELAY_STORE__URL": url}


def _of(relay: RelayProcess, store: dict[str, str]) -> dict[str, str]:
    """The settings by which its store is found from outside."""
    return {"RELAY_STORE__URL": f"sqlite:///{relay.home}/relay.db"} | store


@pytest.fixture
async def relay(store: dict[str, str], tmp_path: Path) -> AsyncIterator[RelayProcess]:
    relay = RelayProcess(tmp_path, ENVIRON | store)
    await relay.start()
    yield relay
    await relay.aclose()


@pytest.fixture
async def client(relay: RelayProcess, tmp_path: Path) -> AsyncIterator[Client]:
    async with client_of(relay, tmp_path) as client:
        yield client


async def test_no_message_that_got_a_202_is_lost_however_the_relay_is_killed(
    relay: RelayProcess, client: Client, store: dict[str, str]
) -> None:
    rng = random.Random(SEED)
    for round_ in range(KILLS):
        load = []
        for user in USERS:
            await client.hello(user)
            load.append(asyncio.create_task(client.keep_acking(user)))
        load += [asyncio.create_task(client.keep_sending(f"{round_}-{n}")) for n in range(SENDERS)]
        await client.ledger.all_acked.wait()
        await asyncio.sleep(rng.uniform(0.05, 1.5))  # noqa: TID251 - the moment of the kill is the test
        assert await relay.end(signal.SIGKILL) == -signal.SIGKILL
        await asyncio.gather(*load)
        await relay.start()
        acked = await client.every_ack_is_kept()
    assert acked.keys() == set(USERS)
    for user in USERS:
        await client.hello(user)
    kinds = await repeats_find_what_is_there(client, await every_accepted_key_is_stored(client))
    print(f"{KILLS} kills, seed {SEED}: {dict(kinds)}, acked {acked}")
    assert (await client.stored()).keys() == client.ledger.read("mean").keys()
    assert await relay.end(signal.SIGTERM) == 0
    assert not await wrong_in_the_store(_of(relay, store), USERS)


async def test_sigterm_under_load_ends_with_0_and_what_got_a_202_is_stored(
    relay: RelayProcess, client: Client, store: dict[str, str]
) -> None:
    senders = [asyncio.create_task(client.keep_sending(str(n))) for n in range(SENDERS)]
    await client.ledger.warm.wait()
    assert await relay.end(signal.SIGTERM) == 0  # within server.drain_s
    await asyncio.gather(*senders)
    await relay.start()
    await repeats_find_what_is_there(client, await every_accepted_key_is_stored(client))
    assert (await client.stored()).keys() == client.ledger.read("mean").keys()
    assert await relay.end(signal.SIGTERM) == 0
    assert not await wrong_in_the_store(_of(relay, store), USERS)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_a_second_relay_on_the_same_database_is_refused(relay: RelayProcess, client: Client) -> None:
    second = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "relay", "serve", "--port", "0"),
        cwd=relay.home,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await second.communicate()
    assert second.returncode == 78
    assert b"another relay is using the database" in said
    assert (await client.send("k", {"to": {"users": ["ann"]}, "body": 1}))[0] == 202  # the first is none the worse
    assert await relay.end(signal.SIGTERM) == 0


async def test_no_message_that_got_a_202_is_lost_when_the_database_server_is_killed(
    own_postgres: Any, tmp_path: Path
) -> None:
    """CR-5, CR-8: an immediate stop is a crash of the server; every other time the relay is killed with it."""
    rng, kills = random.Random(SEED), max(2, KILLS // 2)
    relay = RelayProcess(tmp_path, ENVIRON | {"RELAY_STORE__URL": own_postgres.url})
    await relay.start()
    async with client_of(relay, tmp_path) as client:
        client.weather = NOT_STORED | {"commit_unknown"}
        slowest_s = 0.0
        for round_ in range(kills):
            load = []
            for user in USERS:
                await client.hello(user)
                load.append(asyncio.create_task(client.keep_acking(user)))
            load += [asyncio.create_task(client.keep_sending(f"{round_}-{n}")) for n in range(SENDERS)]
            await client.ledger.all_acked.wait()
            await asyncio.sleep(rng.uniform(0.05, 1.5))  # noqa: TID251 - the moment of the kill is the test
            await asyncio.to_thread(own_postgres.stop, "immediate")
            both = round_ % 2 == 1
            if both:
                await relay.end(signal.SIGKILL)
            else:
                await asyncio.sleep(rng.uniform(0, 1))  # noqa: TID251 - as long as it is away
                client.ledger.success.clear()
            await asyncio.to_thread(own_postgres.start)
            if not both:
                began = time.monotonic()  # noqa: TID251
                async with asyncio.timeout(BACK_S):
                    await client.ledger.success.wait()
                slowest_s = max(slowest_s, time.monotonic() - began)  # noqa: TID251
                assert (await client.call("GET", "/readyz"))[0] == 200
                await relay.end(signal.SIGKILL)
            await asyncio.gather(*load)
            await relay.start()
            acked = await client.every_ack_is_kept()
        for user in USERS:
            await client.hello(user)
        stored = await every_accepted_key_is_stored(client)
        unknown = client.ledger.read("unknown")
        for key, code in unknown.items():
            assert code not in NOT_STORED or key not in stored, f"stored, but the sender was told {code}: {key}"
        kinds = await repeats_find_what_is_there(client, stored)
        told = {code: list(unknown.values()).count(code) for code in client.weather}
        print(f"{kills} kills, seed {SEED}: {dict(kinds)}, told {told}, acked {acked}, back after {slowest_s:.2f} s")
        assert (await client.stored()).keys() == client.ledger.read("mean").keys()
        assert await relay.end(signal.SIGTERM) == 0
        assert not await wrong_in_the_store({"RELAY_STORE__URL": own_postgres.url}, USERS)
    await relay.aclose()
