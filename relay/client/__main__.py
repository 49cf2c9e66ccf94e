"""`python -m relay.client`: a device at the command line. RELAY_URL, RELAY_TOKEN and RELAY_CACHE say which.

It prints the messages that the cache holds and those that arrive, a line of JSON each, until it is interrupted. RELAY_FOLLOW
names a shared timeline to follow as well; RELAY_SEND is the JSON of a message to send, with `to` and `body`.
"""

import asyncio
import json
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
        if "RELAY_FOLLOW" in os.environ:
            await client.follow(os.environ["RELAY_FOLLOW"])
        if "RELAY_SEND" in os.environ:
            message = json.loads(os.environ["RELAY_SEND"])
            to = message.pop("to")
            await client.send(message.pop("body"), to=to.get("users"), group=to.get("group"), **message)
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
