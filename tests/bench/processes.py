"""Processes under measurement: a relay, a bare aiohttp server, a load generator."""

import asyncio
import contextlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

UNLIMITED = {
    "RELAY_SERVER__PORT": "0",
    "RELAY_LOG__LEVEL": "warning",
    "RELAY_LIMITS__LAG_MS": "60000",
    "RELAY_LIMITS__SEND_RATE_PER_S": "100000",
    "RELAY_LIMITS__SEND_BURST": "100000",
    "RELAY_LIMITS__ANONYMOUS_PER_S": "10000",
    "RELAY_LIMITS__ANONYMOUS_BURST": "10000",
    "RELAY_LIMITS__HANDSHAKES_PER_S": "100000",
    "RELAY_LIMITS__SOCKETS_PER_ADDRESS": "100000",
    "RELAY_APP__CREATE_USERS": "true",
}


@dataclass(frozen=True, slots=True)
class Served:
    """A server that is ready."""

    url: str
    key: str
    pid: int
    ready_s: float  # from the start of the process to the first "Ready"
    said: str  # up to then, and a little after

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def memory(self) -> int:
        """Resident bytes now."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def cpu_s(self) -> float:
        """Seconds of CPU that it has used."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)


@contextlib.asynccontextmanager
async def serving(home: Path, *argv: str, environ: dict[str, str] | None = None) -> AsyncIterator[Served]:
    """Runs `python -m argv` in `home` until the block ends; it says `Ready: URL` when it is."""
    project = Path(__file__).resolve().parents[2]
    began = time.perf_counter()
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *argv,
        cwd=home,
        env=os.environ | UNLIMITED | (environ or {}) | {"PYTHONPATH": str(project)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(60):
            key, url, said = await _readiness(child.stdout)
        yield Served(url, key, child.pid, time.perf_counter() - began, said)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        await child.wait()


async def _readiness(said: asyncio.StreamReader) -> tuple[str, str, str]:
    """The API key, the URL, and what the server said with it. Raises RuntimeError if it ends before it is ready."""
    key = ""
    while line := (await said.readline()).decode():
        if found := re.search(r"rk_\S+", line):
            key = found[0]
        if found := re.search(r"(?:Ready|The phones): (http://[^/\s]+)", line):
            return key, found[1], line + (await said.read(8192)).decode() if "phones" in line else line
    raise RuntimeError("a server ended before it was ready")


async def load(port: int, work: Sequence[Sequence[bytes]]) -> tuple[float, dict[str, int]]:
    """Has another process send each connection's requests; gives seconds and statuses."""
    answer = await _loaded(port, work, keep=False)
    return answer["seconds"], answer["statuses"]


async def answers(port: int, requests: Sequence[bytes], *, connections: int = 16) -> list[Any]:
    """Sends requests over some connections, and gives the bodies, in no order. Raises for a status that is no success."""
    answer = await _loaded(port, [requests[n::connections] for n in range(connections)], keep=True)
    assert all(status.startswith("2") for status in answer["statuses"]), (answer["statuses"], answer["bodies"][:1])
    return [json.loads(body) for body in answer["bodies"]]


async def _loaded(port: int, work: Sequence[Sequence[bytes]], *, keep: bool) -> dict[str, Any]:
    asked = {"port": port, "keep": keep, "work": [[one.decode("latin-1") for one in some] for some in work]}
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder:
        found = Path(folder) / "found.json"
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.bench.load",
            str(found),
            cwd=Path(__file__).resolve().parents[2],
            stdin=asyncio.subprocess.PIPE,
        )
        await child.communicate(json.dumps(asked).encode())
        if child.returncode:
            raise RuntimeError("the load generator failed")
        answer: dict[str, Any] = json.loads(found.read_text())
        return answer


@contextlib.asynccontextmanager
async def holding(url: str, tokens: Sequence[str]) -> AsyncIterator[None]:
    """Has another process hold a WebSocket for each token until the block ends."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.holder",
        cwd=Path(__file__).resolve().parents[2],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps({"url": url, "tokens": list(tokens)}).encode() + b"\n")
    assert await child.stdout.readline() == b"Ready\n", "the sockets were not all opened"
    yield
    child.stdin.write(b"\n")
    child.stdin.close()
    assert await child.wait() == 0, "sockets were closed meanwhile"
