"""A client that acks whatever comes, and looks at nothing: what the conformance suite must notice."""

import asyncio
import json
import os

import aiohttp


async def main() -> None:
    cursor = None
    async with aiohttp.ClientSession() as http:
        while True:
            headers = {"Authorization": f"Bearer {os.environ['RELAY_TOKEN']}"}
            async with http.ws_connect(
                os.environ["RELAY_URL"] + "/v1/device/ws", protocols=["relay.v1.json"], headers=headers
            ) as ws:
                hello = {"type": "hello", "ref": "1", "store": {"id": "s"}}
                await ws.send_json(hello if cursor is None else hello | {"cursors": {"inbox": cursor}})
                async for message in ws:
                    frame = json.loads(message.data)
                    if frame["type"] == "batch":
                        cursor = frame["cursor"]
                        await ws.send_json({"type": "ack", "ref": "2", "cursor": cursor})


asyncio.run(main())
