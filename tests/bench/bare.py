"""A bare aiohttp server: what a handler costs that reads its JSON and answers, or has nothing to say, and does nothing else."""

import asyncio

import msgspec
import uvloop
from aiohttp import web


async def answer(request: web.Request) -> web.Response:
    body = msgspec.json.decode(await request.read())
    return web.Response(
        status=202, body=msgspec.json.encode({"id": body["to"]["users"][0]}), content_type="application/json"
    )


async def nothing(_: web.Request) -> web.Response:
    return web.Response(status=304)


async def main() -> None:
    app = web.Application()
    app.router.add_post("/v1/messages", answer)
    app.router.add_get("/v1/device/sync", nothing)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"Ready: http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
