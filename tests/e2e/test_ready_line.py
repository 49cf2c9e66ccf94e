"""What `relay serve` says when it is ready can be called as it stands."""

import asyncio
import re
import socket
import sys
from pathlib import Path

import aiohttp
import pytest


def has(host: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
            one.bind((host, 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["0.0.0.0", "::1"])
async def test_the_address_that_is_printed_is_a_url(tmp_path: Path, host: str) -> None:
    if not has(host):
        pytest.skip(f"this machine has no {host}")
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", "serve", "--host", host, "--port", "0"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert child.stdout is not None
    try:
        said = ""
        async with asyncio.timeout(60):
            while "Ready" not in said:
                said += (await child.stdout.readline()).decode()
            for url in re.findall(r"http://[^\s)]+", said):
                async with aiohttp.ClientSession() as http, http.get(f"{url.removesuffix('/docs')}/healthz") as answer:
                    assert answer.status == 200, url
    finally:
        child.kill()
        await child.wait()
