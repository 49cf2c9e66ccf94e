"""The relay dies while it releases the very many pushes that rested for a mended account (K18): none of them rests on."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from load import ENVIRON, GONE, client_of
from postgres_databases import fresh
from relay_process import RelayProcess
from scene import eventually

from relay.clock import SystemClock
from relay.config import load
from relay.ids import system_rng
from relay.store.engine import Engine
from relay.store.parked import RELEASED_MAX
from relay.store.schema import metadata
from relay.telemetry.metrics import Metrics
from relay.wiring.store import open_engine

HERE = os.pathsep.join((str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])))
ACCOUNTS = {"RELAY_ACCOUNTS__PHONES__PROVIDER": "log"}
JOBS = 2 * RELEASED_MAX + 500
LIKE_HER = f"WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {JOBS - 1}) "
RESTING = "SELECT count(*) FROM push_job WHERE due_ms IS NULL AND reason = 'account_parked'"


@pytest.fixture(params=["sqlite", "postgres"])
async def relay(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    environ = ENVIRON | ACCOUNTS | {"PYTHONPATH": HERE}
    if request.param == "sqlite":
        relay = RelayProcess(tmp_path, environ | {"RELAY_STORE__URL": f"sqlite:///{tmp_path}/relay.db"})
        yield relay
        await relay.aclose()
        return
    async with fresh(request.getfixturevalue("postgres_server"), "template1") as url:
        relay = RelayProcess(tmp_path, environ | {"RELAY_STORE__URL": url})
        yield relay
        await relay.aclose()


@asynccontextmanager
async def store_of(relay: RelayProcess) -> AsyncIterator[Engine]:
    """While it does not run."""
    settings = {name: value for name, value in relay.environ.items() if name.startswith("RELAY_")}
    engine = open_engine(load(None, settings), SystemClock(), system_rng(), Metrics())
    try:
        yield engine
    finally:
        await engine.close()


def everybody_rests(conn: Any, _: int) -> None:
    """As gwen does."""
    conn.exec_driver_sql("UPDATE push_job SET due_ms = NULL, reason = 'account_parked' WHERE user_id = 'gwen'")
    conn.exec_driver_sql("INSERT INTO account_state (app_id, account, parked_ms) VALUES ('default', 'phones', 1)")
    for name in ("inbox", "device", "push_job"):
        columns = [column.name for column in metadata.tables[name].columns]
        values = ["'user-' || n" if column == "user_id" else column for column in columns]
        row = f"SELECT {', '.join(values)} FROM {name}, n WHERE user_id = 'gwen'"
        conn.exec_driver_sql(f"INSERT INTO {name} ({', '.join(columns)}) {LIKE_HER}{row}")


async def test_k18_who_rested_for_a_mended_account_is_due_although_the_relay_died_in_the_middle(
    relay: RelayProcess,
) -> None:
    await relay.start()
    async with client_of(relay, relay.home) as client:
        address = {"addresses": [{"account": "phones", "token": "token-of-gwen"}]}
        assert (await client.call("PUT", "/v1/users/gwen/devices/phone", address))[0] == 201
        assert await relay.end(signal.SIGTERM) == 0
        async with store_of(relay) as engine:
            await engine.write(everybody_rests)

        relay.program = ("-m", "failpoints", "mend.portion:2:kill")
        await relay.start()
        with suppress(*GONE):
            await client.call("POST", "/v1/push/accounts/phones/unpark")
        assert await relay.ended() == -signal.SIGKILL
        async with store_of(relay) as engine:
            left = await engine.read(lambda conn, _: conn.exec_driver_sql(RESTING).scalar_one())
        assert JOBS - RELEASED_MAX <= left < JOBS, "it had released one portion, of which others' jobs are a few"

        relay.program = RelayProcess.program
        await relay.start()

        async def nobody_rests() -> bool:
            status, page = await client.call("GET", "/v1/push/dead?why=account_parked")
            assert status == 200
            return page["pushes"] == []

        await eventually(nobody_rests, within_s=20)
