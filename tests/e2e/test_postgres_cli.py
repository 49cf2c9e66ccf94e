"""The commands on PostgreSQL: what they ask of a server, and what they say of one that can't be used."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from postgres_databases import admin
from structlog.testing import capture_logs

from relay.app import Relay
from relay.clock import SystemClock
from relay.config import load
from relay.ids import system_rng
from relay.push.from_settings import DEFAULT_APP
from relay.store import apps
from relay.telemetry.metrics import Metrics
from relay.wiring.store import opened


def relay_command(home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relay", *arguments],
        cwd=home,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def health(tmp_path: Path) -> Any:
    """Serves on the store of a URL, and gives what /readyz says."""

    async def ask(url: str, **more: str) -> tuple[int, dict[str, Any]]:
        settings = {
            "RELAY_SERVER__PORT": "0",
            "RELAY_SERVER__QUIET_S": "0",
            "RELAY_STORE__URL": url,
            "RELAY_KEYS__FILE": str(tmp_path / "relay.keys"),
        }
        relay = Relay(load(None, settings | more), SystemClock(), system_rng(), Metrics())
        await relay.open()
        try:
            async with (
                relay.running(),
                aiohttp.ClientSession() as http,
                http.get(f"http://127.0.0.1:{relay.port}/readyz") as answer,
            ):
                return answer.status, json.loads(await answer.text())
        finally:
            await relay.close()

    return ask


async def test_a_server_that_can_lose_what_it_confirmed_is_not_ready(
    own_postgres: Any, health: Any, tmp_path: Path
) -> None:
    """DUR-5. `synchronous_commit` is set by our own session, whatever the server's is."""
    status, said = await health(own_postgres.url)
    assert (status, said) == (200, {"status": "ready", "durability": "single-node", "unsafe_storage": []})
    for setting in ("fsync", "full_page_writes"):
        await asyncio.to_thread(own_postgres.stop, "fast")
        await asyncio.to_thread(own_postgres.start, **{setting: "off"})
        status, said = await health(own_postgres.url)
        assert (status, said["status"]) == (503, "not ready")
        assert [setting in danger for danger in said["unsafe_storage"]] == [True]
        status, said = await health(own_postgres.url, RELAY_STORE__UNSAFE_STORAGE="true")
        assert (status, len(said["unsafe_storage"])) == (200, 1)  # shown all the same
        checked = await asyncio.to_thread(
            relay_command, tmp_path, "check", "--store", RELAY_STORE__URL=own_postgres.url
        )
        assert (checked.returncode, setting in checked.stderr) == (78, True)
    await asyncio.to_thread(own_postgres.stop, "fast")
    await asyncio.to_thread(own_postgres.start, synchronous_commit="off")
    assert (await health(own_postgres.url))[0] == 200


async def test_health_says_whom_a_commit_waits_for(own_postgres: Any) -> None:
    await asyncio.to_thread(own_postgres.stop, "fast")
    await asyncio.to_thread(own_postgres.start, synchronous_standby_names="absent", synchronous_commit="local")
    connected = await _durability(own_postgres.url)
    assert connected == "sync-replica"


async def _durability(url: str) -> str:
    """As the engine sees it; nothing is committed, since nobody is there to wait for."""
    from relay.store.postgres import PostgresEngine

    engine = PostgresEngine(url, SystemClock(), system_rng(), workers=1)
    try:
        await engine.connections.begin()
        return engine.durability
    finally:
        await engine.close()


async def test_a_role_that_nothing_binds_is_told_that_the_server_keeps_no_apps_apart(
    own_postgres: Any, health: Any, tmp_path: Path
) -> None:
    """SEC-5. It is no mistake: nothing is lost by it."""
    for url, said in ((own_postgres.admin_url, 1), (own_postgres.url, 0)):
        done = await asyncio.to_thread(relay_command, tmp_path, "check", "--store", RELAY_STORE__URL=url)
        assert (done.returncode, done.stdout.count("is a superuser or has BYPASSRLS")) == (0, said)
        with capture_logs() as logs:
            assert (await health(url))[0] == 200
        assert [one["log_level"] for one in logs if one["event"] == "store.row_security_bypassed"] == ["info"] * said


def test_migrate_before_the_first_serve_leaves_a_store_that_serves(empty_postgres_url: str, tmp_path: Path) -> None:
    at = {"RELAY_STORE__URL": empty_postgres_url}
    assert "at nothing" in relay_command(tmp_path, "migrate", **at).stdout
    assert "it is at" in relay_command(tmp_path, "migrate", **at).stdout
    assert not (tmp_path / "relay.keys").exists()

    async def start() -> str | None:
        settings = at | {"RELAY_KEYS__FILE": str(tmp_path / "relay.keys")}
        relay = Relay(load(None, settings), SystemClock(), system_rng(), Metrics())
        try:
            return (await relay.open()).api_key
        finally:
            await relay.close()

    assert asyncio.run(start()) is not None
    made = relay_command(tmp_path, "keys", "create", **at)
    assert made.stdout.startswith("rk_"), made.stderr
    assert relay_command(tmp_path, "keys", "list", **at).returncode == 0


def test_what_a_command_dates_goes_by_the_servers_clock(empty_postgres_url: str, tmp_path: Path) -> None:
    """DUR-15: a revocation that is dated by a machine whose clock is behind, nodes that look for new ones would pass over."""
    behind = "import time\nright = time.time_ns\ntime.time_ns = lambda: right() - 600 * 10**9\n"
    (tmp_path / "sitecustomize.py").write_text(behind)
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    at = {"RELAY_STORE__URL": empty_postgres_url}
    settings = at | {"RELAY_KEYS__FILE": str(tmp_path / "relay.keys")}
    began_ms = SystemClock().now_ms()

    async def made() -> str:
        relay = Relay(load(None, settings), SystemClock(), system_rng(), Metrics())
        try:
            await relay.open()
            (key,) = await relay.engine.read(lambda conn, _: apps.api_keys(conn, DEFAULT_APP))
            return str(key.key_id)
        finally:
            await relay.close()

    async def revoked_ms() -> int:
        async with opened(load(None, settings), SystemClock(), system_rng()) as engine:
            (key,) = await engine.read(lambda conn, _: apps.api_keys(conn, DEFAULT_APP))
            return int(key.revoked_ms)

    done = relay_command(tmp_path, "keys", "revoke", asyncio.run(made()), PYTHONPATH=paths, **at)
    assert done.returncode == 0, done.stderr
    assert asyncio.run(revoked_ms()) >= began_ms - 5_000


@pytest.mark.parametrize("command", [("migrate",), ("check", "--store")])
@pytest.mark.parametrize(("wrong", "says"), [("/nowhere?", "does not exist"), ("//nobody:hidden@", "does not exist")])
def test_a_server_that_refuses_us_is_told_in_words_without_the_password(
    postgres_server: str, tmp_path: Path, command: tuple[str, ...], wrong: str, says: str
) -> None:
    right = "/relay?" if wrong.startswith("/n") else "//relay:@"
    if right not in postgres_server:
        pytest.skip("the given server's URL has another form")
    done = relay_command(tmp_path, *command, RELAY_STORE__URL=postgres_server.replace(right, wrong))
    assert done.returncode == 78
    assert says in done.stderr
    assert "hidden" not in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_role_that_may_make_no_tables_is_told_how_to_let_it(own_postgres: Any, tmp_path: Path) -> None:
    """As whoever made the database as another role finds it: since version 15, only its owner may."""
    await admin(own_postgres.admin_url, "CREATE ROLE guest LOGIN")
    url = own_postgres.url.replace("//relay:@", "//guest:@")
    for command in (("check", "--store"), ("migrate",), ("serve", "--port", "0")):
        done = await asyncio.to_thread(relay_command, tmp_path, *command, RELAY_STORE__URL=url)
        assert done.returncode == 78, done.stderr
        assert "the role may make no tables in this database; let it own the database" in done.stderr
        assert "Traceback" not in done.stderr


async def test_what_another_program_keeps_there_is_left_alone(own_postgres: Any, tmp_path: Path) -> None:
    await admin(own_postgres.url, "CREATE TABLE message (theirs text)")
    for command in (("check", "--store"), ("migrate",)):
        done = await asyncio.to_thread(relay_command, tmp_path, *command, RELAY_STORE__URL=own_postgres.url)
        assert (done.returncode, "tables of something else, such as 'message'" in done.stderr) == (78, True)


@pytest.mark.parametrize(("parameter", "says"), [("nonsense=1", '"nonsense"'), ("sslmode=nonsense", "sslmode")])
def test_a_parameter_that_is_none_is_told_at_once(
    postgres_server: str, tmp_path: Path, parameter: str, says: str
) -> None:
    url = f"{postgres_server}{'&' if '?' in postgres_server else '?'}{parameter}"
    done = relay_command(tmp_path, "serve", "--port", "0", RELAY_STORE__URL=url)
    assert done.returncode == 78, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("migrate",), ("check", "--store")])
def test_a_server_that_is_away_ends_a_command_with_69(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = relay_command(tmp_path, *command, RELAY_STORE__URL=f"postgresql://postgres:@/postgres?host={tmp_path}")
    assert done.returncode == 69
    assert "cannot be reached" in done.stderr


@pytest.mark.parametrize("command", ["check", "migrate", "serve"])
def test_without_asyncpg_the_error_says_what_to_install(tmp_path: Path, command: str) -> None:
    (tmp_path / "asyncpg.py").write_text("raise ImportError\n")
    done = relay_command(
        tmp_path,
        command,
        RELAY_STORE__URL="postgresql://relay@localhost/relay",
        PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    )
    assert done.returncode == 78
    assert "pip install 'push-relay[postgres]'" in done.stderr
    assert "Traceback" not in done.stderr
