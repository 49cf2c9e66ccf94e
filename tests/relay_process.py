"""A real `relay serve` on one port and one database, started and ended again and again."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from relay.config import Server

# Tests share their machine: that a process is late says nothing of what it has to do.
UNHURRIED = {"RELAY_LIMITS__LAG_MS": "60000"}


class RelayProcess:
    """The process under test. What it says on stderr is in `home/log`."""

    program: tuple[str, ...] = ("-m", "relay")

    def __init__(self, home: Path, environ: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.environ = {**UNHURRIED, **(environ or {})}
        self.key = ""
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.child: asyncio.subprocess.Process | None = None
        self.stderr: int | None = None  # a file of the test's own, instead of the log

    async def start(self) -> None:
        with (self.home / "log").open("ab") as log:
            self.child = await asyncio.create_subprocess_exec(
                sys.executable,
                *(*self.program, "serve", "--port", str(self.port)),
                cwd=self.home,
                env=os.environ | self.environ,
                stdout=asyncio.subprocess.PIPE,
                stderr=log if self.stderr is None else self.stderr,
            )
        assert self.child.stdout is not None
        async with asyncio.timeout(60):
            while True:
                line = (await self.child.stdout.readline()).decode()
                assert line, self.log()[-2000:]
                if found := re.search(r"rk_\S+", line):
                    self.key = found[0]
                if line.startswith("Ready"):
                    return

    def log(self) -> str:
        return (self.home / "log").read_text()

    def tell(self, how: signal.Signals) -> None:
        assert self.child is not None
        self.child.send_signal(how)

    async def ended(self) -> int:
        """Waits for its end, as long as a drain may take; gives the exit code."""
        assert self.child is not None
        child, self.child = self.child, None
        try:
            async with asyncio.timeout(Server().drain_s):
                await child.communicate()
        except TimeoutError:
            child.kill()
            await child.communicate()
            raise
        assert child.returncode is not None
        return child.returncode

    async def end(self, how: signal.Signals) -> int:
        self.tell(how)
        return await self.ended()

    async def aclose(self) -> None:
        """Leaves no process behind, whatever the test came to."""
        if self.child is not None:
            await self.end(signal.SIGKILL)
