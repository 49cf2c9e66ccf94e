"""Starts `client_app.py`, listens to it, and kills it."""

import asyncio
import json
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any, Self

WITHIN_S = 20
APP = Path(__file__).with_name("client_app.py")


class AppProcess:
    """One run of the app."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.said = said
        self.news: list[dict[str, Any]] = []
        self._came = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self.child = await asyncio.create_subprocess_exec(
            sys.executable,
            str(APP),
            json.dumps(self.said),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 22,
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.child.returncode is None:
            assert self.child.stdin is not None
            self.child.stdin.close()
            try:
                async with asyncio.timeout(WITHIN_S):
                    await self.child.wait()
            except TimeoutError:
                self.child.kill()
                raise
        await self._reader

    async def _read(self) -> None:
        assert self.child.stdout is not None
        async for line in self.child.stdout:
            async with self._came:
                self.news.append(json.loads(line))
                self._came.notify_all()

    async def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The first piece of news of this kind with these fields."""

        def found() -> list[dict[str, Any]]:
            return [one for one in self.news if one["news"] == kind and fields.items() <= one.items()]

        try:
            async with asyncio.timeout(WITHIN_S), self._came:
                await self._came.wait_for(found)
        except TimeoutError:
            raise AssertionError(f"no {kind} {fields} among {[(one['news'], one) for one in self.news]}") from None
        return found()[0]

    async def kill(self) -> None:
        """As the system kills an app: at once."""
        self.child.send_signal(signal.SIGKILL)
        await self.child.wait()
        await self._reader

    @property
    def arrived(self) -> list[str]:
        """Ids of the messages that were new, in order."""
        return [one["message"]["id"] for one in self.news if one["news"] == "MessageArrived"]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.news if one["news"] == kind]


def kept(cache: Path) -> list[str]:
    """Ids of the messages in a cache file, in the order of their numbers."""
    with sqlite3.connect(cache) as db:
        return [id_ for (id_,) in db.execute("SELECT id FROM message WHERE form <> 'control' ORDER BY seq")]
