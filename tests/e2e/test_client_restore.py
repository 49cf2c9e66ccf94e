"""A relay is set back to its backup under a real client: it keeps everything, and knows again what is sent once more."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from client_process import AppProcess, kept
from relay_process import RelayProcess

from relay.client import Backend
from relay.client.backend import new_key


async def relay_does(home: Path, *words: str) -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", *words),
        cwd=home,
        env=os.environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        out, _ = await child.communicate()
    assert child.returncode == 0, out.decode()


async def test_after_a_restore_what_is_sent_again_with_its_keys_is_kept_once_and_told_once(tmp_path: Path) -> None:
    home = tmp_path / "relay"
    home.mkdir()
    relay = RelayProcess(home, {"RELAY_SERVER__QUIET_S": "0"})
    await relay.start()
    try:
        async with Backend(relay.url, relay.key) as backend:
            await backend.put_device("ann", "phone")
            token = await backend.mint_token("ann", "phone")
            phone = {"url": relay.url, "token": token, "cache": str(tmp_path / "phone.db"), "version": "1.0"}
            early = [(await backend.send("ann", n))["id"] for n in range(3)]
            await relay_does(home, "backup", str(home / "monday"))
            keys = [new_key(), "order-17"]  # a UUIDv7 gives the same id again, any other key the same tag
            late = [(await backend.send("ann", key, key=key))["id"] for key in keys]
            async with AppProcess(phone) as app:
                await app.until("CaughtUp")
                assert app.arrived == early + late
                await relay.end(signal.SIGTERM)
            await relay_does(home, "restore", str(home / "monday"), "--force")
            await relay.start()
            between = (await backend.send("ann", "only after the restore"))["id"]
            again = [(await backend.send("ann", key, key=key))["id"] for key in reversed(keys)]
            assert again[1] == late[0]
            assert again[0] != late[1]
            async with AppProcess(phone) as app:
                connected = await app.until("Connected")
                await app.until("CaughtUp")
    finally:
        await relay.aclose()
    assert (connected["verdict"], connected["reason"]) == ("resync", "epoch")
    assert app.arrived == [between]
    assert sorted(kept(Path(phone["cache"]))) == sorted([*early, *late, between])
