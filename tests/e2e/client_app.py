"""An app around the client, as a process that tests start, kill and start again in another version.

    python client_app.py '{"url": …, "token": …, "cache": …, "version": "1.0"}'

It prints a line of JSON for each piece of news, and at the end of its input what its cache holds.
"""

import asyncio
import dataclasses
import json
import sqlite3
import sys
from typing import Any

from relay.client import Client, Message, Way
from relay.client.cache_file import Migration


def _stars(db: sqlite3.Connection) -> None:
    """What version 2 of the app adds to the cache: a table and a column of its own."""
    db.execute("CREATE TABLE star (message TEXT PRIMARY KEY)")
    db.execute("ALTER TABLE message ADD COLUMN starred INTEGER NOT NULL DEFAULT 0")


def _labels(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE label (message TEXT, name TEXT)")


MIGRATIONS: dict[str, tuple[Migration, ...]] = {"1.0": (), "2.0": (_stars,), "3.0": (_stars, _labels)}


async def main(said: dict[str, Any]) -> None:
    client = Client(
        said["url"],
        said["token"],
        cache=said["cache"],
        app_version=said["version"],
        schema=said.get("schema", 1),
        types=said.get("types"),
        check=_check(said.get("bad")),
        migrations=MIGRATIONS[said["version"]],
        ways=[Way(one) for one in said.get("ways", list(Way))],
        repair=said.get("repair", False),
        foreground=said.get("foreground", True),
        facts={"platform": "linux"},
    )
    events = client.events()
    async with client:
        printing = asyncio.create_task(_print(events))
        for one in said.get("sends", ()):
            await client.send(**one)
        if said.get("until_end_of_input", True):
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        else:
            await printing
    await printing


def _check(bad: str | None) -> Any:
    def check(message: Message) -> None:
        if bad is not None and message.body == bad:
            raise ValueError

    return check


async def _print(events: Any) -> None:
    async for one in events:
        fields = {"news": type(one).__name__} | dataclasses.asdict(one)
        sys.stdout.write(json.dumps(fields, default=str) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
