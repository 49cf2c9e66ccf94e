"""What every demo stands on: a folder for the time of it, a relay and emulators in it, and an end that says what was wrong."""

import asyncio
import random
import re
import signal
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from relay.cli.demo_steps import UNHURRIED, Backend, Failed, Process, Timeline

if TYPE_CHECKING:
    from providers.sandbox import Sandbox

Play = Callable[[Timeline, Path, AsyncExitStack], Awaitable[None]]  # raises Failed for what did not hold


async def perform(name: str, play: Play) -> int:
    """Plays in a folder of its own, which goes at the end with all that was started; gives the exit status."""
    timeline = Timeline()
    with tempfile.TemporaryDirectory(prefix=f"{name}-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        try:
            async with AsyncExitStack() as stack:
                await play(timeline, home, stack)
        except (Failed, OSError, aiohttp.ClientError, LookupError, TypeError, ValueError) as error:
            timeline.failed(str(error) if isinstance(error, Failed) else repr(error), home / "serve.log")
            return 1
    return 0


async def emulators(vendors: Sequence[str], home: Path, stack: AsyncExitStack, *, slow_s: float = 15.0) -> "Sandbox":
    """These vendors' emulators, in this process; an answer that is to come late takes `slow_s`."""
    from providers.sandbox import Sandbox  # noqa: PLC0415 - loads the emulators

    sandbox = Sandbox(
        now=time.time,  # noqa: TID251 - the machine's clock
        rng=random.SystemRandom(),
        vendors=vendors,
        state_dir=home / "sandbox",
        slow_s=slow_s,
        tls=True,
    )
    await sandbox.start()
    stack.push_async_callback(sandbox.stop)
    return sandbox


async def started_relay(config: str, home: Path, stack: AsyncExitStack, *, call_s: float, port: int = 0) -> Backend:
    """A relay in a process of its own, with this configuration; and its app's backend, whose calls may take `call_s`."""
    (home / "relay.toml").write_text(UNHURRIED + config)
    relay = Process(home, "serve", "--config", str(home / "relay.toml"), "--port", str(port))
    stack.push_async_callback(relay.end)
    said = await relay.start(r"Ready: \S+.*\n")
    at, key = found(r"Ready: \S+?:(\d+)", said), found(r"(rk_\S+)", said)
    http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=call_s)))
    return Backend(http, f"http://127.0.0.1:{at}", key)


def free_port() -> int:
    """For what has to be known before it listens."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


def found(pattern: str, text: str) -> str:
    """What the pattern's group matched of what a process said. Raises Failed if nothing does."""
    match = re.search(pattern, text)
    if match is None:
        raise Failed(f"a process said something unexpected when it started: {text}")
    return match[1]


async def until_interrupted() -> None:
    """Until Ctrl-C, or the process is asked to end."""
    stop = asyncio.Event()
    for one in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(one, stop.set)
    await stop.wait()
