"""SIGHUP on a real process: it lives on, and has the accounts of the changed configuration."""

import asyncio
import re
import signal
import sys
from pathlib import Path

import aiohttp

from relay.clock import SystemClock

SOON_S = 20.0
WATCH = '[log]\nlevel = "warning"\n'


def config(*accounts: str) -> str:
    return WATCH + "".join(f'[accounts.{name}]\nprovider = "log"\n' for name in accounts)


async def test_a_hangup_takes_up_changed_accounts_and_ends_nothing(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(config("first"))
    command = [sys.executable, "-m", "relay", "serve", "--config", str(file), "--port", "0"]
    child = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert child.stdout is not None
    try:
        said = ""
        async with asyncio.timeout(60):
            while "Ready" not in said:
                said += (await child.stdout.readline()).decode()
        url, key = re.findall(r"Ready: (\S+)", said)[0], re.findall(r"rk_\S+", said)[0]
        async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {key}"}) as http:

            async def names() -> set[str]:
                async with http.get("/v1/push/accounts") as answer:
                    return {one["name"] for one in (await answer.json())["accounts"]}

            assert await names() == {"first"}
            file.write_text(config("first", "second"))
            child.send_signal(signal.SIGHUP)
            async with asyncio.timeout(SOON_S):
                while await names() != {"first", "second"}:
                    await SystemClock().sleep(0.05)
        assert child.returncode is None
    finally:
        child.kill()
        await child.wait()
