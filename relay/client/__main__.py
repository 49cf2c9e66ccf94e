"""`python -m relay.client`: a device at the command line. RELAY_URL, RELAY_TOKEN and RELAY_CACHE say which.

It prints the messages that the cache holds and those that arrive, a line of JSON each, until it is interrupted.
"""

import asyncio
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import msgspec

from relay.client.device import Client

NEEDED = ("RELAY_URL", "RELAY_TOKEN", "RELAY_CACHE")


async def main() -> None:
    url, token, cache = (os.environ[name] for name in NEEDED)
    async with Client(url, token, cache=cache, app_version="1.0") as client:
        async for message in client.messages():
            sys.stdout.write(msgspec.json.encode(asdict(message), enc_hook=_plain).decode() + "\n")
            sys.stdout.flush()


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


if __name__ == "__main__":
    missing = [name for name in NEEDED if name not in os.environ]
    if missing:
        sys.exit(f"Set {', '.join(missing)}: the relay, the device's token, and a file for its cache.")
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
