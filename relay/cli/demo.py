"""`relay demo`: the main job with real processes and real sockets, every step checked."""

import asyncio
import itertools
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import click
from aiohttp import web
from rich.console import Console

from relay.cli.runtime import run
from relay.webhooks.signing import SignatureRefused, verify, verifying_key

STARTS_S = 20.0
STEP_S = 25.0
BURST = 200
TOKEN = "ann-phone-1"  # noqa: S105 - the sandbox's phone
STORE = {"id": "demo-database-1"}
SUBPROTOCOL = "relay.v1.json"


class Failed(Exception):  # noqa: N818
    """A check that did not hold."""


class Timeline:
    """Prints what happened, when, and whether it was right."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._began = time.monotonic()  # noqa: TID251 - a person's clock

    def say(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._began:5.1f} s[/]   {text}")  # noqa: TID251

    def check(self, held: object, text: str) -> None:
        """Raises Failed if it does not hold."""
        self.say(f"[{'green' if held else 'red'}]{'✓' if held else '✗'}[/] {text}")
        if not held:
            raise Failed(text)

    def end(self, text: str) -> None:
        self._console.print(text)


class Process:
    """A child process that says on its output when it is ready, and as what."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self._arguments = arguments
        self._home = home
        self._child: asyncio.subprocess.Process | None = None

    async def start(self, ready: str) -> str:
        """Starts it; gives its output up to the line that matches `ready`."""
        log = await asyncio.to_thread(open, self._home / "relay.log", "ab")
        with log:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "relay",
                *self._arguments,
                cwd=self._home,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self._child.stdout is not None
        said = ""
        async with asyncio.timeout(STARTS_S):
            while not re.search(ready, said):
                line = (await self._child.stdout.readline()).decode()
                if not line:
                    raise Failed(f"`relay {self._arguments[0]}` ended at once")
                said += line
        return said

    async def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._child is not None and self._child.returncode is None:
            self._child.send_signal(how)
            await self._child.wait()


class Receiver:
    """The backend's webhook endpoint: verifies every signature, and remembers what it was told."""

    def __init__(self) -> None:
        self.secret: str | None = None
        self.bad = 0
        self.good = 0
        self.events: list[dict[str, Any]] = []
        self.changed = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        while self.secret is None:  # noqa: ASYNC110 - the endpoint's first event may be quicker than the answer with its secret
            await asyncio.sleep(0.02)  # noqa: TID251
        try:
            self._verify(body, request)
        except (ValueError, SignatureRefused):
            self.bad += 1
            return web.Response(status=400)
        self.good += 1
        event = json.loads(body)
        if all(event["id"] != known["id"] for known in self.events):  # deliveries may come twice; the id tells
            self.events.append(event)
        self.changed.set()
        return web.Response(status=204)

    def _verify(self, body: bytes, request: web.Request) -> None:
        """By the reference library of Standard Webhooks if it is installed, else by ours."""
        assert self.secret is not None
        try:
            from standardwebhooks.webhooks import Webhook, WebhookVerificationError  # noqa: PLC0415
        except ImportError:
            verify([verifying_key(self.secret)], request.headers, body, now_s=int(time.time()))  # noqa: TID251
            return
        try:
            Webhook(self.secret).verify(body, dict(request.headers.items()))
        except WebhookVerificationError as error:
            raise ValueError(str(error)) from None

    def acked(self) -> Counter[str]:
        return Counter(
            one["message_id"]
            for event in self.events
            if event["type"] == "delivery.acked"
            for one in event["data"]["deliveries"]
        )

    async def until(self, holds: Any) -> bool:
        try:
            async with asyncio.timeout(STEP_S):
                while not holds():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            return False
        return True


class Backend:
    """The app's backend: sends, and repeats with the same key until it has an answer."""

    def __init__(self, http: aiohttp.ClientSession, url: str, key: str) -> None:
        self._http, self.url = http, url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._keys = itertools.count(1)

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        async with self._http.request(method, self.url + path, json=body, headers=self._headers | headers) as answer:
            text = await answer.text()
            if answer.status >= 300:
                raise Failed(f"{method} {path}: {answer.status} {text}")
            return json.loads(text) if text else None

    async def send(self, text: str, *, key: str | None = None) -> str:
        body = {
            "to": {"users": ["ann"]},
            "conversation": {"type": "direct", "id": "c1"},
            "body": {"text": text},
            "push": {"title": "Bob", "body": text},
        }
        answer = await self.call("POST", "/v1/messages", body, **{"Idempotency-Key": key or f"demo-{next(self._keys)}"})
        return str(answer["id"])

    async def burst(self, ids: dict[str, str]) -> None:
        """Sends all at once; `ids` gets what was answered. What is not answered is for the caller to repeat."""

        async def one(key: str) -> None:
            try:
                ids[key] = await self.send(f"message {key}", key=key)
            except (aiohttp.ClientError, OSError):
                return

        await asyncio.gather(*(one(f"burst-{n}") for n in range(BURST) if f"burst-{n}" not in ids))


async def demonstrate(keep: bool) -> int:
    """The whole story; gives the exit status."""
    timeline = Timeline()
    with tempfile.TemporaryDirectory(prefix="relay-demo-") as folder:
        home = Path(folder)
        try:
            async with AsyncExitStack() as stack:
                await _story(timeline, home, stack, keep=keep)
        except (Failed, TimeoutError, aiohttp.ClientError) as error:
            timeline.end(f"\n[red]The demo failed:[/] {error or type(error).__name__}\n\nThe relay's log ends with:")
            log = (home / "relay.log").read_text(errors="replace") if (home / "relay.log").exists() else ""
            timeline.end("\n".join(log.splitlines()[-15:]))
            return 1
    return 0


async def _story(timeline: Timeline, home: Path, stack: AsyncExitStack, *, keep: bool) -> None:
    receiver = Receiver()
    hook = await _receiver(receiver, stack)
    vendors = Process(home, "sandbox", "--port", "0", "--state", str(home / "sandbox"))
    stack.push_async_callback(vendors.end)
    said = await vendors.start(r"\[accounts\.[^\]]+\](.|\n)*token_url")
    phones = re.search(r"The phones: (\S+?)/\n", said)
    assert phones is not None
    port = _free_port()
    (home / "relay.toml").write_text(
        f'[server]\nport = {port}\n[webhooks]\nallow_http = true\nexempt = ["127.0.0.1/32:{hook}"]\n'
        "[heartbeat]\ninterval_s = 10\nlease_factor = 2.0\n[push]\nlinger_s = 1\n" + said[said.index("[accounts") :]
    )
    relay = Process(home, "serve")
    stack.push_async_callback(lambda: relay.end())
    said = await relay.start(r"Ready: \S+")
    key = re.search(r"rk_\S+", said)
    assert key is not None
    http = await stack.enter_async_context(aiohttp.ClientSession())
    backend = Backend(http, f"http://127.0.0.1:{port}", key[0])
    timeline.say(f"relay, vendor emulator and webhook receiver run; the relay is at {backend.url}")
    made = await backend.call("POST", "/v1/webhooks", {"url": f"http://127.0.0.1:{hook}/hook", "types": ["*"]})
    receiver.secret = made["secret"]
    await backend.call(
        "PUT",
        "/v1/users/ann/devices/phone",
        {"platform": "android", "addresses": [{"account": "fcm-sandbox", "token": TOKEN}]},
    )
    token = (await backend.call("POST", "/v1/users/ann/devices/phone/token"))["token"]
    cursor = await _live(timeline, backend, token)
    timeline.check(
        await receiver.until(lambda: any(e["type"] == "device.offline" for e in receiver.events)),
        "nothing is heard of it any more: the relay counts it as offline, and told the backend",
    )
    offline = [await backend.send(f"while you were away {n}") for n in (1, 2, 3)]
    async with http.get(f"{phones[1]}/_phones/wait", params={"token": TOKEN, "count": "3", "timeout": "20"}) as answer:
        timeline.check(
            (await answer.json())["count"] >= 3, "three messages to the offline phone: its vendor showed them"
        )
    burst: dict[str, str] = {}
    sending = asyncio.create_task(backend.burst(burst))
    while len(burst) < BURST // 4:  # noqa: ASYNC110 - a moment, not an event
        await asyncio.sleep(0.005)  # noqa: TID251
    await relay.end(signal.SIGKILL)
    await sending
    timeline.check(
        len(burst) < BURST, f"the relay was killed (SIGKILL) in the middle of a burst: {len(burst)} of {BURST} answered"
    )
    relay = Process(home, "serve")
    await relay.start(r"Ready: \S+")
    await backend.burst(burst)
    timeline.check(len(burst) == BURST, "restarted; the sender repeated what had no answer, with the same keys")
    await _return(timeline, http, backend, token, cursor, [*offline, *burst.values()])
    expected = {*offline, *burst.values()}
    told = await receiver.until(lambda: expected <= set(receiver.acked()))
    timeline.check(told, "the backend was told of every ack by webhook")
    timeline.check(set(receiver.acked().values()) == {1}, "... of each exactly once")
    timeline.check(receiver.good and not receiver.bad, f"all {receiver.good} webhooks were signed rightly")
    timeline.end(
        "\n[bold green]Nothing was lost, nothing came twice.[/]\n\nNext: [bold]relay serve[/] runs it for you in this folder; "
        "its /docs page has every call, and the README a tour with curl."
    )
    if keep:
        timeline.end(
            f"\nStill running: relay {backend.url}/docs, phones {phones[1]}/\nAPI key {key[0]}\nCtrl-C ends it."
        )
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        await stop.wait()


async def _receiver(receiver: Receiver, stack: AsyncExitStack) -> int:
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return int(runner.addresses[0][1])


def _free_port() -> int:
    import socket  # noqa: PLC0415

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def _live(timeline: Timeline, backend: Backend, token: str) -> str:
    """The device connects, gets a message live, and is killed; gives the cursor that its store holds."""
    headers = {"Authorization": f"Bearer {token}"}
    phone = aiohttp.ClientSession()
    ws = await phone.ws_connect(f"{backend.url}/v1/device/ws", headers=headers, protocols=[SUBPROTOCOL], heartbeat=None)
    await ws.send_json({"type": "hello", "ref": "1", "app_version": "1.0.0", "store": STORE})
    welcome = await ws.receive_json(timeout=STEP_S)
    timeline.check(welcome["type"] == "welcome", "a device (app 1.0.0) connected and shook hands")
    sent = await backend.send("hello, live")
    batch = await ws.receive_json(timeout=STEP_S)
    while not batch.get("entries"):
        batch = await ws.receive_json(timeout=STEP_S)
    timeline.check([entry["id"] for entry in batch["entries"]] == [sent], "it got a message live, over its socket")
    await ws.send_json({"type": "ack", "ref": "2", "upto": batch["to"]})
    answer = await ws.receive_json(timeout=STEP_S)
    timeline.check(answer.get("acked") == batch["to"], "... and said that it is stored")
    await phone.close()  # its sockets, without a word: the app was killed
    timeline.say("the device is killed")
    return str(batch["cursor"])


async def _return(
    timeline: Timeline, http: aiohttp.ClientSession, backend: Backend, token: str, cursor: str, accepted: list[str]
) -> None:
    """The device comes back as a newer version with its old cursor, and gets exactly what is missing."""
    headers = {"Authorization": f"Bearer {token}"}
    hello = {"app_version": "2.0.0", "store": STORE, "cursors": {"inbox": cursor}}
    async with http.put(f"{backend.url}/v1/device", json=hello, headers=headers) as answer:
        welcome = await answer.json()
    timeline.check(
        welcome["verdict"] == "delta" and welcome["upgrade"]["from"] == "1.0.0",
        f"it is back as app 2.0.0, with its old cursor: {welcome['missing']} missing",
    )
    cursor, got, seqs, etag, more = welcome["cursors"]["inbox"], [], [], "", True
    while more:
        async with http.get(
            f"{backend.url}/v1/device/sync", params={"cursor": cursor, "limit": "50"}, headers=headers
        ) as answer:
            page = await answer.json()
            etag = answer.headers.get("ETag", "")
        batch = page["batches"][0]
        got += [entry["id"] for entry in batch["entries"]]
        seqs += [entry["seq"] for entry in batch["entries"]]
        cursor, more = batch["cursor"], page["more"]
    timeline.check(
        sorted(got) == sorted(accepted),
        f"it synced exactly the {len(accepted)} missing messages: none lost, none twice",
    )
    timeline.check(seqs == list(range(seqs[0], seqs[0] + len(seqs))), "... in order, without a hole")
    async with http.post(f"{backend.url}/v1/device/ack", json={"cursor": cursor}, headers=headers) as answer:
        timeline.check(answer.status == 200, "... and acked them")
    async with http.get(
        f"{backend.url}/v1/device/sync", params={"cursor": cursor}, headers=headers | {"If-None-Match": etag}
    ) as answer:
        timeline.check(answer.status == 304, "the next poll answers 304: nothing newer")


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running at the end, until Ctrl-C.")
def demo(keep: bool) -> None:
    """Show the main job in under a minute: killed client, killed relay, upgraded client, and nothing lost.

    Starts a relay, a vendor emulator and a webhook receiver on free ports, in a temporary folder. The exit status is 0
    only if every step was checked.
    """
    os.environ.pop("RELAY_CONFIG", None)
    sys.exit(run(demonstrate(keep)))
