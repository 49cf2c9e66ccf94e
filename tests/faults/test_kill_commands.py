"""A backup, a restore, a key rotation and a migration that are killed in the middle (CR-4, K17): nobody has to mend it.

The command is given again, or the relay is started, and everything is there.
"""

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from books import wrong_in_the_store
from failpoints import IN_COMMANDS
from load import ENVIRON, Client, client_of
from relay_process import RelayProcess

HERE = os.pathsep.join((str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])))
ACCOUNTS = {"RELAY_ACCOUNTS__PHONES__PROVIDER": "log"}
USERS = ("ann", "bob")
SENDS = 20


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RelayProcess]:
    relay = RelayProcess(tmp_path, ENVIRON | ACCOUNTS | {"PYTHONPATH": HERE})
    yield relay
    await relay.aclose()


async def command(relay: RelayProcess, *words: str) -> tuple[int | None, str]:
    """Runs `relay ...`; gives its exit code, and all that it said."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", *words),
        cwd=relay.home,
        env=os.environ | relay.environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        said, _ = await child.communicate()
    return child.returncode, said.decode()


async def dies(relay: RelayProcess, point: str, *words: str) -> None:
    assert point in IN_COMMANDS
    code, said = await command(relay, "failpoints", f"{point}:1:kill", *words)
    assert code == -signal.SIGKILL, said


def _points(prefix: str) -> list[str]:
    """Every other one in a normal run, all with RELAY_ROUNDS."""
    names = [name for name in IN_COMMANDS if name.startswith(prefix)]
    return names if os.environ.get("RELAY_ROUNDS") else names[::2]


async def does(relay: RelayProcess, *words: str) -> str:
    code, said = await command(relay, "relay", *words)
    assert code == 0, said
    return said


async def filled(relay: RelayProcess, client: Client) -> dict[str, str]:
    """Sends messages to devices with addresses; their ids by their keys."""
    for user in USERS:
        body = {"addresses": [{"account": "phones", "token": f"token-of-{user}"}]}
        status, _ = await client.call("PUT", f"/v1/users/{user}/devices/phone", body)
        assert status in {200, 201}
    found = {}
    for n in range(SENDS):
        status, answer = await client.send(f"k{n}", {"to": {"users": [USERS[n % len(USERS)]]}, "body": n})
        assert status == 202, answer
        found[f"k{n}"] = answer["id"]
    return found


async def all_there(relay: RelayProcess, client: Client, sent: dict[str, str], *, again: int = 200) -> None:
    """Each send is answered as the first time, and the books add up."""
    for key, id_ in sent.items():
        n = int(key[1:])
        status, answer = await client.send(key, {"to": {"users": [USERS[n % len(USERS)]]}, "body": n})
        assert (status, answer["id"]) == (again, id_)
    assert await relay.end(signal.SIGTERM) == 0
    settings = ACCOUNTS | {"RELAY_STORE__URL": f"sqlite:///{relay.home}/relay.db"}
    assert not await wrong_in_the_store(settings, USERS)


async def test_a_backup_that_was_killed_is_made_by_the_next_and_is_whole(relay: RelayProcess) -> None:
    await relay.start()
    async with client_of(relay, relay.home) as client:
        sent = await filled(relay, client)
        for point in _points("backup."):
            await dies(relay, point, "backup", "saved")
            assert not (relay.home / "saved").exists(), "what has the name of a backup is one"
        await does(relay, "backup", "saved")
        assert await relay.end(signal.SIGKILL) == -signal.SIGKILL
        await does(relay, "restore", "--force", "saved")
        await relay.start()
        await all_there(relay, client, sent)


async def test_a_restore_that_was_killed_has_changed_nothing_and_is_done_by_the_next(relay: RelayProcess) -> None:
    await relay.start()
    async with client_of(relay, relay.home) as client:
        sent = await filled(relay, client)
        await does(relay, "backup", "saved")
        assert await relay.end(signal.SIGTERM) == 0
        await dies(relay, "restore.migrated", "restore", "--force", "saved")
        await relay.start()
        assert await relay.end(signal.SIGTERM) == 0
        await does(relay, "restore", "--force", "saved")
        await relay.start()
        await all_there(relay, client, sent)


async def test_a_rotation_that_was_killed_leaves_everything_readable_and_goes_on(relay: RelayProcess) -> None:
    await relay.start()
    async with client_of(relay, relay.home) as client:
        sent = await filled(relay, client)
        assert await relay.end(signal.SIGTERM) == 0
        ring = relay.home / "relay.keys"
        old = json.loads(ring.read_text())["keys"]
        new = {"id": 2, "key": base64.b64encode(bytes(range(32))).decode()}
        ring.write_text(json.dumps({"keys": [new, *old]}))
        for point in _points("rekey."):
            await dies(relay, point, "keys", "rewrap", "--new-data-keys")
        await relay.start()
        assert await relay.end(signal.SIGTERM) == 0
        said = await does(relay, "keys", "rewrap", "--new-data-keys")
        assert "cannot be opened" not in said
        assert f"Secrets sealed again: {len(USERS)}" in said
        await relay.start()
        await all_there(relay, client, sent)


async def test_a_first_start_that_was_killed_is_made_up_for_by_the_next(relay: RelayProcess) -> None:
    for point in _points("migrate."):
        await dies(relay, point, "serve", "--port", str(relay.port))
    await relay.start()
    async with client_of(relay, relay.home) as client:
        sent = await filled(relay, client)
        await all_there(relay, client, sent)
