"""Holds many WebSockets open and does nothing with them: `python -m tests.bench.holder`.

Reads one line of JSON (url, tokens), connects all, prints `Ready`, and waits for the end of its input.
"""

import asyncio
import json
import sys

import aiohttp
import uvloop

AT_ONCE = 64


async def hold(url: str, tokens: list[str]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def connect(token: str) -> aiohttp.ClientWebSocketResponse:
            async with gate:
                ws = await http.ws_connect(
                    f"{url}/v1/device/ws",
                    headers={"Authorization": f"Bearer {token}"},
                    protocols=["relay.v1.json"],
                )
                await ws.send_json({"type": "hello", "ref": "1", "store": {"id": "s"}})
                answer = await ws.receive_json()
                assert answer["type"] == "welcome", answer
                return ws

        sockets = await asyncio.gather(*map(connect, tokens))
        print("Ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        assert not any(one.closed for one in sockets), "some were closed"


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    uvloop.run(hold(asked["url"], asked["tokens"]))


if __name__ == "__main__":
    main()
