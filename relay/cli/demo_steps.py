"""What `relay demo` plays with: a timeline, child processes, a webhook receiver, the app's backend."""

import asyncio
import itertools
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from rich.console import Console
from rich.markup import escape

from relay.webhooks.signing import SignatureRefused, verify, verifying_key

STARTS_S = 60.0  # of a second or two, on a machine that does much else
STEP_S = 25.0
STOPS_S = 10.0
SETTLES_S = 1.0  # how long it is watched for what should not come
LOG_LINES = 20
BURST = 200
UNHURRIED = "[limits]\nlag_ms = 60000\n"  # a demo's machine does much else: that its relay is late is no overload


class Failed(Exception):  # noqa: N818
    """A check that did not hold."""


class Timeline:
    """Prints what happened, when, and whether it was right."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._began = time.monotonic()  # noqa: TID251 - a person's clock

    def say(self, text: str) -> None:
        """A line with the elapsed seconds; `text` may have rich's markup."""
        elapsed = time.monotonic() - self._began  # noqa: TID251
        self._console.print(f"[dim]{elapsed:5.1f} s[/]   {text}", soft_wrap=True)

    def check(self, held: object, text: str) -> None:
        """Raises Failed if it does not hold."""
        self.say(f"[{'green' if held else 'red'}]{'✓' if held else '✗'}[/] {escape(text)}")
        if not held:
            raise Failed(text)

    def end(self, text: str) -> None:
        """Text with rich's markup."""
        self._console.print(text, soft_wrap=True)

    def failed(self, why: str, log: Path) -> None:
        """Says what did not hold, and how the relay's log ends. Neither is markup."""
        self._console.print(f"\n[red]The demo failed:[/] {escape(why)}\n\nThe relay's log ends with:", soft_wrap=True)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else ["(there is none)"]
        self._console.print("\n".join(lines[-LOG_LINES:]), markup=False, soft_wrap=True)


class Process:
    """A child process that says on its output when it is ready, and as what."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self._arguments = arguments
        self._home = home
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        self._child: asyncio.subprocess.Process | None = None

    async def start(self, ready: str) -> str:
        """Starts it; gives its output up to the line that matches `ready`."""
        log = await asyncio.to_thread(open, self._home / f"{self._arguments[0]}.log", "ab")
        with log:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "relay",
                *self._arguments,
                cwd=self._home,
                env=self._environ,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self._child.stdout is not None
        said = ""
        try:
            async with asyncio.timeout(STARTS_S):
                while not re.search(ready, said):
                    line = (await self._child.stdout.readline()).decode()
                    if not line:
                        raise Failed(f"`relay {self._arguments[0]}` ended at once")
                    said += line
        except TimeoutError:
            raise Failed(f"`relay {self._arguments[0]}` was not ready within {STARTS_S:.0f} s") from None
        return said

    async def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Sends the signal, and SIGKILL if that does not end it soon. Never raises for a child that has ended."""
        if self._child is None or self._child.returncode is not None:
            return
        self._child.send_signal(how)
        try:
            async with asyncio.timeout(STOPS_S):
                await self._child.wait()
        except TimeoutError:
            self._child.kill()
            await self._child.wait()

    @property
    def runs(self) -> bool:
        return self._child is not None and self._child.returncode is None


class Receiver:
    """The backend's webhook endpoint: verifies every signature, and remembers what it was told."""

    def __init__(self) -> None:
        self.secret: str | None = None
        self.bad = 0
        self.good = 0
        self.events: list[dict[str, Any]] = []
        self.changed = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        """`POST /hook`."""
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

    def has(self, type_: str) -> bool:
        return any(event["type"] == type_ for event in self.events)

    def acked(self) -> list[dict[str, Any]]:
        """Every delivery of every `delivery.acked`: `id`, `message_id`, `seq`."""
        told = (event["data"]["deliveries"] for event in self.events if event["type"] == "delivery.acked")
        return list(itertools.chain.from_iterable(told))

    def acked_messages(self) -> set[str]:
        return {one["message_id"] for one in self.acked()}

    def told_once(self) -> bool:
        """Whether no delivery, and no message for this one device, was reported acked more than once."""
        by_delivery = Counter(one["id"] for one in self.acked())
        by_message = Counter(one["message_id"] for one in self.acked())
        return {*by_delivery.values(), *by_message.values()} == {1}

    async def until(self, holds: Callable[[], bool]) -> bool:
        """Waits for events until it holds; False when time is up."""
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
        self.replayed = 0  # sends whose answer was: I have this already

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        async with self._http.request(method, self.url + path, json=body, headers=self._headers | headers) as answer:
            text = await answer.text()
            self.replayed += path == "/v1/messages" and answer.status == 200
            if answer.status >= 300:
                raise Failed(f"{method} {path}: {answer.status} {text}")
            return json.loads(text) if text else None

    async def send(self, text: str, *, key: str | None = None, user: str = "ann") -> str:
        body = {
            "to": {"users": [user]},
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
