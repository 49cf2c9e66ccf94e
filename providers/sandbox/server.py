"""The sandbox as one small server: vendors' APIs, the control API, the phones, and a page that shows them."""

import asyncio
import json
import random
import re
from collections.abc import Callable, Iterable
from itertools import count, repeat
from pathlib import Path
from typing import Any

from aiohttp import web

from providers.sandbox import registry
from providers.sandbox.authority import HOSTS
from providers.sandbox.coded import CodedEmulator
from providers.sandbox.control import Control, json_response
from providers.sandbox.emulator import Emulator, Host, response
from providers.sandbox.fcm_faults import NO_SUCH_PATH
from providers.sandbox.http2_server import Http2Server
from providers.sandbox.http2_streams import answered_by
from providers.sandbox.page import CSS, HTML, JS, PAGE_HEADERS
from providers.sandbox.phones import PhoneLimits, Phones

REQUEST_BYTES_MAX = 1024 * 1024
STREAMS_MAX = 100  # of an HTTP/2 connection; vendors publish none (fcm.md §7: "dozens of parallel requests is normal")
PHONES_SHOWN_MAX = 1000  # in one answer
WAIT_S_MAX = 60.0
WAIT_S = 10.0
SLOW_S = 15.0  # longer than a sender's patience (fcm.md §6: time out after 10 s or more)
STOP_S = 2.0  # for requests under way, at a stop
EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - how to reach such a listener


class Sandbox:
    """Emulated vendors on a local socket. Start it, give `account_settings()` to a relay, look at `url`.

    With `tls` the vendors are on a listener of their own, whose certificate is by the sandbox's throw-away authority. It
    speaks HTTP/2 with whoever asks for it by ALPN, as Google's front ends do, and HTTP/1.1 with anyone else. The page and
    the control API stay at `url`, without TLS, for browsers and scripts that trust no such authority.

    With a `state_dir` keys and accounts outlive the process. Stopping and starting again keeps everything else, too: to
    a relay it looks like an outage.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        rng: random.Random,
        vendors: Iterable[str] = ("fcm",),
        state_dir: Path | None = None,
        slow_s: float = SLOW_S,
        limits: PhoneLimits | None = None,
        tls: bool = False,
    ) -> None:
        """`now` gives seconds since 1970. Raises ValueError for a vendor that has no emulator (`registry.names()`)."""
        self.phones = Phones(now=now, limits=limits)
        self._host = Host(phones=self.phones, now=now, rng=rng, slow_s=slow_s, state_dir=state_dir)
        self.emulators: dict[str, Emulator] = {kind.name: kind(self._host) for kind in registry.load(vendors)}
        if not self.emulators:
            raise ValueError("A sandbox needs one vendor at least.")
        self._boot = f"{rng.getrandbits(48):x}"
        self._prepared = False
        self._tls = tls
        self._url = ""
        self._runners: list[web.AppRunner] = []
        self._secure: Http2Server | None = None

    @property
    def url(self) -> str:
        """Of the page and the control API: `http://127.0.0.1:8091`, without a slash at the end. Empty before the first start."""
        return self._url

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listens; port 0 takes a free one. The vendors' TLS, and emulators with a listener of their own, take the ports
        after it, in order.

        Raises OSError when it cannot, ValueError when something kept in `state_dir` is spoilt.
        """
        if self._runners:
            raise RuntimeError("The sandbox is running already.")
        self._host.stopping.clear()
        if not self._prepared:
            for emulator in self.emulators.values():
                await emulator.prepare()
            self._prepared = True
        reachable = EVERYWHERE.get(host, f"[{host}]" if ":" in host else host)
        ports = count(port) if port else repeat(0)
        try:
            self._url = f"http://{reachable}:{await self._listen(host, next(ports))}"
            self._host.url = self._url
            if self._tls:
                self._host.url = f"https://{reachable}:{await self._listen_by_tls(host, next(ports))}"
            for emulator in self.emulators.values():
                await emulator.open(host, next(ports))
        except OSError:
            await self._close()
            raise

    async def stop(self) -> None:
        """Ends waits and slow answers, then closes. Does nothing if it is not running."""
        if self._runners:
            self._host.stopping.set()
            self.phones.release()
            await self._close()

    def account_settings(self, vendor: str = "fcm") -> dict[str, Any]:
        """`{"provider": …, "settings": …}` for a relay's account, with all its secrets in it."""
        trust = {"ca": self._host.authority.pem} if self._tls else {}
        return {"provider": vendor, "settings": self._started(vendor).settings() | trust}

    def account_toml(self, name: str, vendor: str = "fcm", *, relay: str | None = None) -> str:
        """The same as a table for the relay's configuration file; with `relay`, its URL, the vendor reports there what
        became of each push, if it does such a thing. Raises ValueError if a file is needed for that and there is no
        `state_dir`."""
        key = name if re.fullmatch("[A-Za-z0-9_-]+", name) else _toml(name)
        values = {"provider": vendor, **self._started(vendor).settings_in_files()}
        if self._tls:
            file = self._host.authority.file
            values |= {"ca": self._host.authority.pem} if file is None else {"ca_file": str(file)}
        emulator = self.emulators[vendor]
        if relay is not None and isinstance(emulator, CodedEmulator):
            values["receipts"] = emulator.receipts_to(f"{relay}/v1/receipts/{name}")
        lines = [f"[accounts.{key}]", *(f"{field} = {_toml(value)}" for field, value in values.items())]
        return "\n".join(lines) + "\n"

    def _started(self, vendor: str) -> Emulator:
        if not self.url:
            raise RuntimeError("Start the sandbox first.")
        return self.emulators[vendor]

    async def _listen(self, host: str, port: int) -> int:
        """The port, once it listens."""
        runner = self._run(self._application())
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        return int(runner.addresses[0][1])

    async def _listen_by_tls(self, host: str, port: int) -> int:
        """The same for the vendors."""
        hosts = {*HOSTS, *({host} - EVERYWHERE.keys())}
        context = await asyncio.to_thread(self._host.authority.server_context, hosts, alpn=("h2", "http/1.1"))
        runner = self._run(self._vendors())
        await runner.setup()
        assert runner.server is not None
        # A body that is too long is cut where the application can see that it was.
        self._secure = Http2Server(
            answered_by(runner.server), streams_first=lambda _: STREAMS_MAX, request_bytes_max=REQUEST_BYTES_MAX + 1
        )
        await self._secure.open(host, port, context, others=runner.server)
        return self._secure.port

    def _run(self, app: web.Application) -> web.AppRunner:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_S)
        self._runners.append(runner)
        return runner

    async def _close(self) -> None:
        for emulator in self.emulators.values():
            await emulator.close()
        if self._secure is not None:
            await self._secure.close()
            self._secure = None
        runners, self._runners = self._runners, []
        for runner in runners:
            await runner.cleanup()

    def _vendors(self) -> web.Application:
        app = web.Application(client_max_size=REQUEST_BYTES_MAX)
        for emulator in self.emulators.values():
            app.add_routes(emulator.routes())
        app.add_routes([web.route("*", "/{path:.*}", _nothing_here)])
        return app

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=REQUEST_BYTES_MAX)
        if not self._tls:
            for emulator in self.emulators.values():
                app.add_routes(emulator.routes())
        app.add_subapp("/_control", Control(self.emulators, self.phones, now=self._host.now).application())
        app.add_routes(
            [
                web.get("/_phones", self._list),
                web.get("/_phones/wait", self._wait),
                web.get("/", _page),
                web.get("/_page/phones.css", _style),
                web.get("/_page/phones.js", _script),
                web.route("*", "/{path:.*}", _nothing_here),
            ]
        )
        return app

    async def _list(self, request: web.Request) -> web.Response:
        """`GET /_phones?token=&limit=&received=&message=0`; 304 while nothing has changed."""
        etag = f'"{self._boot}-{self.phones.version}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag})
        received_max = _number(request, "received", 0, high=1_000_000)
        view = self.phones.view(
            token=request.query.get("token"),
            phones_max=int(_number(request, "limit", PHONES_SHOWN_MAX, high=PHONES_SHOWN_MAX)),
            received_max=int(received_max) if "received" in request.query else None,
            with_message=request.query.get("message") != "0",
        )
        answer = json_response({"total": len(self.phones), "delivered": self.phones.delivered, "phones": view})
        answer.headers["ETag"] = etag
        return answer

    async def _wait(self, request: web.Request) -> web.Response:
        """`GET /_phones/wait?token=&count=&timeout=`: answers once so many have arrived, or when time is up."""
        token = request.query.get("token")
        count = int(_number(request, "count", 1, high=10**12))
        timeout_s = _number(request, "timeout", WAIT_S, high=WAIT_S_MAX)
        reached = await self.phones.wait(token, count, timeout_s=timeout_s)
        view = [] if token is None else self.phones.view(token=token, phones_max=1)
        return json_response({"reached": reached, "count": self.phones.count(token), "phones": view})


def _number(request: web.Request, name: str, default: float, *, high: float) -> float:
    text = request.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,13}(\.[0-9]{1,6})?", text) or float(text) > high:
        raise web.HTTPBadRequest(text=f"{name} must be a number from 0 to {high:.0f}")
    return float(text)


def _toml(value: object) -> str:
    """A string, number, flag, list or inline table; JSON's escapes are TOML's, but for DEL."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(key)} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


async def _page(request: web.Request) -> web.Response:
    return web.Response(text=HTML, content_type="text/html", headers=PAGE_HEADERS)


async def _style(request: web.Request) -> web.Response:
    return web.Response(text=CSS, content_type="text/css", headers=PAGE_HEADERS)


async def _script(request: web.Request) -> web.Response:
    return web.Response(text=JS, content_type="text/javascript", headers=PAGE_HEADERS)


async def _nothing_here(request: web.Request) -> web.Response:
    """As Google's front end answers a wrong path or method."""
    return response(NO_SUCH_PATH)
