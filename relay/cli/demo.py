"""`relay demo`: the main job with real processes and real sockets, every step checked."""

import asyncio
import signal
import socket
import struct
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import click
from aiohttp import web

from relay.cli.demo_stage import found, perform, until_interrupted
from relay.cli.demo_steps import BURST, SETTLES_S, STEP_S, UNHURRIED, Backend, Failed, Process, Receiver, Timeline
from relay.cli.runtime import run

OFFLINE = 3
TOKEN = "ann-phone-1"  # noqa: S105 - the sandbox's phone
STORE = {"id": "demo-database-1"}
SUBPROTOCOL = "relay.v1.json"
NEXT = (
    "\n[bold green]Nothing was lost, nothing came twice.[/]\n\nNext: [bold]relay serve[/] runs it for you in this folder; "
    "its /docs page has every call, and the README a tour with curl."
)


class Story:
    """What has been started, and what a step leaves to the next ones."""

    def __init__(self, timeline: Timeline, home: Path, stack: AsyncExitStack) -> None:
        self.timeline, self.home, self.stack = timeline, home, stack
        self.receiver = Receiver()
        self.phones = ""  # the sandbox's URL
        self.key = ""
        self.port = 0
        self.relay = Process(home, "serve")

    async def set_up(self) -> None:
        """Sandbox, webhook receiver, relay; the endpoint, the device, its token."""
        hook = await _listen(self.receiver, self.stack)
        vendors = Process(self.home, "sandbox", "--port", "0", "--vendor", "fcm", "--state", str(self.home / "sandbox"))
        self.stack.push_async_callback(vendors.end)
        said = await vendors.start(r"\[accounts\.[^\]]+\](.|\n)*# Ctrl-C")
        self.phones = found(r"The phones: (\S+?)/\n", said)
        (self.home / "relay.toml").write_text(
            f'[webhooks]\nallow_http = true\nexempt = ["127.0.0.1/32:{hook}"]\n'
            "[heartbeat]\ninterval_s = 10\nlease_factor = 2.0\n[push]\nlinger_s = 1\n"
            f"{UNHURRIED}{said[said.index('[accounts') :]}"
        )
        self.stack.push_async_callback(lambda: self.relay.end())
        said = await self.serve()
        self.key = found(r"(rk_\S+)", said)
        self.port = int(found(r"Ready: \S+?:(\d+)", said))
        timeout = aiohttp.ClientTimeout(total=STEP_S)
        self.http = await self.stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        self.backend = Backend(self.http, f"http://127.0.0.1:{self.port}", self.key)
        self.timeline.say(f"relay, vendor emulator and webhook receiver run; the relay is at {self.backend.url}")
        endpoint = {"url": f"http://127.0.0.1:{hook}/hook", "types": ["*"]}
        self.receiver.secret = (await self.backend.call("POST", "/v1/webhooks", endpoint))["secret"]
        device = {"platform": "android", "addresses": [{"account": "fcm-sandbox", "token": TOKEN}]}
        await self.backend.call("PUT", "/v1/users/ann/devices/phone", device)
        token = (await self.backend.call("POST", "/v1/users/ann/devices/phone/token"))["token"]
        self.device = {"Authorization": f"Bearer {token}"}

    async def serve(self) -> str:
        """Starts the relay: on a free port at first, on the same one after that."""
        self.relay = Process(self.home, "serve", "--config", str(self.home / "relay.toml"), "--port", str(self.port))
        return await self.relay.start(r"Ready: \S+.*\n")

    async def tell(self) -> None:
        """All of it, step by step."""
        await self.set_up()
        live, cursor = await self.connect()
        offline = await self.push()
        burst = await self.crash()
        missing = [*offline, *burst]
        await self.come_back(cursor, missing)
        await self.hear({live, *missing})

    async def connect(self) -> tuple[str, str]:
        """The device gets a message live, and is killed; gives the message and the cursor that its store holds."""
        check = self.timeline.check
        async with aiohttp.ClientSession() as phone:
            ws = await phone.ws_connect(
                f"{self.backend.url}/v1/device/ws", headers=self.device, protocols=[SUBPROTOCOL], autoping=True
            )
            await ws.send_json({"type": "hello", "ref": "1", "app_version": "1.0", "store": STORE})
            welcome = await ws.receive_json(timeout=STEP_S)
            check(welcome["type"] == "welcome", "a device (app 1.0) connected and shook hands")
            sent = await self.backend.send("hello, live")
            batch = await ws.receive_json(timeout=STEP_S)
            while not batch.get("entries"):
                batch = await ws.receive_json(timeout=STEP_S)
            check([entry["id"] for entry in batch["entries"]] == [sent], "it got a message live, over its socket")
            await ws.send_json({"type": "ack", "ref": "2", "upto": batch["to"]})
            answer = await ws.receive_json(timeout=STEP_S)
            check(answer.get("acked") == batch["to"], "... and acked it")
            # Closing now resets the connection: no close frame, as when a system kills an app.
            ws.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.timeline.say("the device's app is killed; its connection is reset")
        return sent, str(batch["cursor"])

    async def push(self) -> list[str]:
        """The device is offline; three messages reach it by its vendor."""
        check = self.timeline.check
        gone = await self.receiver.until(lambda: self.receiver.has("device.offline"))
        check(gone, "it did not come back in time: the relay counts it as offline, and told the backend")
        offline = [await self.backend.send(f"while you were away {n}") for n in range(1, OFFLINE + 1)]
        query = {"token": TOKEN, "count": str(OFFLINE), "timeout": "20"}
        async with self.http.get(f"{self.phones}/_phones/wait", params=query) as answer:
            seen = await answer.json()
        shown = len(seen["phones"][0]["shown"]) if seen["phones"] else 0
        text = f"{OFFLINE} messages were pushed by its vendor; the phone shows {shown} notifications"
        check(shown == seen["count"] == OFFLINE, text)
        return offline

    async def crash(self) -> list[str]:
        """A burst, and SIGKILL in the middle; the sender repeats what it has no answer to. Gives what was accepted."""
        check = self.timeline.check
        ids: dict[str, str] = {}
        sending = asyncio.create_task(self.backend.burst(ids))
        while len(ids) < BURST // 4 and not sending.done():  # noqa: ASYNC110 - a moment, not an event
            await asyncio.sleep(0.002)  # noqa: TID251
        was_running = self.relay.runs
        await self.relay.end(signal.SIGKILL)
        await sending
        answered = dict(ids)
        middle = was_running and 0 < len(answered) < BURST
        check(middle, f"the relay was killed (SIGKILL) in a burst: {len(answered)} of {BURST} sends were answered")
        await self.serve()
        await self.backend.burst(ids)
        again, known = BURST - len(answered), self.backend.replayed
        text = (
            f"restarted; the {again} others were repeated with their keys: {again - known} new, {known} known already"
        )
        check(len(ids) == len(set(ids.values())) == BURST, text)
        return list(ids.values())

    async def come_back(self, cursor: str, missing: list[str]) -> None:
        """The device comes back as a newer version with its old cursor, and gets exactly what it misses."""
        check, url = self.timeline.check, f"{self.backend.url}/v1/device"
        hello = {"app_version": "2.0.0", "store": STORE, "cursors": {"inbox": cursor}}
        async with self.http.put(url, json=hello, headers=self.device) as answer:
            welcome = await answer.json()
        upgraded = welcome.get("verdict") == "delta" and (welcome.get("upgrade") or {}).get("from") == "1.0"
        check(upgraded, f"it is back as app 2.0.0, with its old cursor: {welcome.get('missing')} missing")
        cursor = welcome["cursors"]["inbox"]
        entries: list[dict[str, Any]] = []
        page: dict[str, Any] = {"caught_up": False}
        while not page["caught_up"]:
            query = {"cursor": cursor, "limit": "50"}
            async with self.http.get(f"{url}/sync", params=query, headers=self.device) as answer:
                page, etag = await answer.json(), answer.headers.get("ETag", "")
            if answer.status != 200 or not (page["caught_up"] or page["batches"][0]["entries"]):
                raise Failed(f"a page of the sync brought nothing: {answer.status} {page}")
            for batch in page["batches"]:
                entries += batch["entries"]
                cursor = batch["cursor"]
        got = sorted(entry["id"] for entry in entries)
        check(got == sorted(missing), f"it synced exactly the {len(missing)} missing messages: none lost, none twice")
        seqs = [entry["seq"] for entry in entries]
        check(seqs == list(range(seqs[0], seqs[0] + len(seqs))), "... in order, without a hole")
        async with self.http.post(f"{url}/ack", json={"cursor": cursor}, headers=self.device) as answer:
            check(answer.status == 200, "... and acked them")
        headers = self.device | {"If-None-Match": etag}
        async with self.http.get(f"{url}/sync", params={"cursor": cursor}, headers=headers) as answer:
            check(answer.status == 304, "the next poll answers 304: nothing newer")

    async def hear(self, accepted: set[str]) -> None:
        """The backend hears of every ack, of each once, in webhooks that are all signed."""
        check, receiver = self.timeline.check, self.receiver
        await receiver.until(lambda: accepted <= receiver.acked_messages())
        await asyncio.sleep(SETTLES_S)  # noqa: TID251 - for what should not come
        told = receiver.acked_messages()
        check(told == accepted, f"webhooks told the backend of {len(told)} acks, for {len(accepted)} accepted messages")
        check(receiver.told_once(), "... of each exactly once")
        good = receiver.good > 0 and receiver.bad == 0
        check(good, f"webhooks whose signature is right: {receiver.good}; wrong: {receiver.bad}")

    async def keep(self) -> None:
        """Leaves everything running until Ctrl-C."""
        self.timeline.end(
            f"\nStill running: relay {self.backend.url}/docs, phones {self.phones}/\n"
            f"API key {self.key}\nFolder {self.home}\nCtrl-C ends it."
        )
        await until_interrupted()


async def demonstrate(keep: bool) -> int:
    """The whole story; gives the exit status."""

    async def play(timeline: Timeline, home: Path, stack: AsyncExitStack) -> None:
        story = Story(timeline, home, stack)
        await story.tell()
        timeline.end(NEXT)
        if keep:
            await story.keep()

    return await perform("relay-demo", play)


async def _listen(receiver: Receiver, stack: AsyncExitStack) -> int:
    """Serves the webhook receiver on a free port, and gives that."""
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return int(runner.addresses[0][1])


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running at the end, until Ctrl-C.")
@click.option("--vendors", is_flag=True, help="Instead: one message through every vendor's emulator, with failures.")
@click.option("--web", "browser", is_flag=True, help="Instead: an inbox in your browser, to play with.")
def demo(keep: bool, vendors: bool, browser: bool) -> None:
    """Show the main job in under a minute. Killed client, killed relay, upgraded client, and nothing lost.

    Starts a relay, a vendor emulator and a webhook receiver on free ports, in a temporary folder. The exit status is 0
    only if every step was checked.
    """
    if keep + vendors + browser > 1:
        raise click.UsageError("Give one of --keep, --vendors and --web at most.")
    if vendors:
        from relay.cli.demo_vendors import demonstrate_vendors  # noqa: PLC0415 - loads every emulator

        sys.exit(run(demonstrate_vendors()))
    if browser:
        from relay.cli.demo_web import demonstrate_web  # noqa: PLC0415 - so does this

        sys.exit(run(demonstrate_web()))
    sys.exit(run(demonstrate(keep)))
