"""What `relay serve` says when it is ready can be called as it stands; and it gets ready on a machine that has little."""

import asyncio
import os
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


async def serves(home: Path, *options: str, **environ: str) -> str:
    """Starts a relay, calls each URL that it prints, and ends it."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", "serve", "--port", "0", *options),
        cwd=home,
        env=os.environ | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert child.stdout is not None
    try:
        said = ""
        async with asyncio.timeout(60):
            while "Ready" not in said:
                line = await child.stdout.readline()
                assert line, "it has ended"
                said += line.decode()
            urls = re.findall(r"http://[^\s)]+", said)
            assert f"Ready: {urls[0]}" in said
            for url in urls:
                async with aiohttp.ClientSession() as http, http.get(f"{url.removesuffix('/docs')}/healthz") as answer:
                    assert answer.status == 200, url
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
    return said


@pytest.mark.parametrize("host", ["0.0.0.0", "::1"])
async def test_the_address_that_is_printed_is_a_url(tmp_path: Path, host: str) -> None:
    if not has(host):
        pytest.skip(f"this machine has no {host}")
    await serves(tmp_path, "--host", host)


async def test_a_machine_without_time_zones_will_do(tmp_path: Path) -> None:
    """As slim containers are: a package of ours brings them."""
    assert "Ready" in await serves(tmp_path, PYTHONTZPATH="")
