"""The sandbox as one small server: vendors' APIs, the control API, the phones, and a page that shows them."""

import asyncio
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from providers.sandbox.account import ServiceAccount, open_account
from providers.sandbox.control import Control, json_response
from providers.sandbox.fcm import FcmEmulator
from providers.sandbox.fcm_faults import NO_SUCH_PATH
from providers.sandbox.page import CSS, HTML, JS, PAGE_HEADERS
from providers.sandbox.phones import PhoneLimits, Phones

REQUEST_BYTES_MAX = 1024 * 1024
PHONES_SHOWN_MAX = 1000  # in one answer
WAIT_S_MAX = 60.0
WAIT_S = 10.0
SLOW_S = 15.0  # longer than a sender's patience (fcm.md §6: time out after 10 s or more)
STOP_S = 2.0  # for requests under way, at a stop
EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - how to reach such a listener


class Sandbox:
    """Emulated vendors on a local socket. Start it, give `account_settings()` to a relay, look at `url`.

    With a `state_dir` the service account outlives the process. Stopping and starting again keeps everything else,
    too: to a relay it looks like an outage.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        rng: random.Random,
        state_dir: Path | None = None,
        project_id: str = "relay-sandbox",
        slow_s: float = SLOW_S,
        limits: PhoneLimits | None = None,
    ) -> None:
        """`now` gives seconds since 1970."""
        self.phones = Phones(now=now, limits=limits)
        self._now = now
        self._rng = rng
        self._state_dir = state_dir
        self._project_id = project_id
        self._slow_s = slow_s
        self._stopping = asyncio.Event()
        self._boot = f"{rng.getrandbits(48):x}"
        self._account: ServiceAccount | None = None
        self._fcm: FcmEmulator | None = None
        self._runner: web.AppRunner | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """`http://127.0.0.1:8091`, without a slash at the end. Empty before the first start."""
        return self._url

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listens; port 0 takes a free one. Raises OSError when it cannot, ValueError when the account is spoilt."""
        if self._runner is not None:
            raise RuntimeError("The sandbox is running already.")
        self._stopping.clear()
        runner = web.AppRunner(await self._application(), access_log=None, shutdown_timeout=STOP_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        reachable = EVERYWHERE.get(host, f"[{host}]" if ":" in host else host)
        self._url = f"http://{reachable}:{runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Ends waits and slow answers, then closes. Does nothing if it is not running."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self._stopping.set()
            self.phones.release()
            await runner.cleanup()

    def account_settings(self) -> dict[str, Any]:
        """`{"provider": …, "settings": …}` for a relay's account, with the whole service account in it."""
        settings = {"service_account": dict(self._known_account().document), **self._addresses()}
        return {"provider": "fcm", "settings": settings}

    def account_toml(self, name: str) -> str:
        """The same as a table for the relay's configuration file. Raises ValueError without a `state_dir`."""
        file = self._known_account().file
        if file is None:
            raise ValueError("A TOML table names the service account's file: give the sandbox a state_dir.")
        key = name if re.fullmatch("[A-Za-z0-9_-]+", name) else _toml(name)
        values = {"provider": "fcm", "service_account_file": str(file), **self._addresses()}
        lines = [f"[accounts.{key}]", *(f"{field} = {_toml(value)}" for field, value in values.items())]
        return "\n".join(lines) + "\n"

    def _known_account(self) -> ServiceAccount:
        if self._account is None:
            raise RuntimeError("Start the sandbox first.")
        return self._account

    def _addresses(self) -> dict[str, str]:
        return {"base_url": self._url, "token_url": f"{self._url}/token"}

    async def _application(self) -> web.Application:
        if self._account is None:
            self._account = await asyncio.to_thread(
                open_account, self._state_dir, project_id=self._project_id, rng=self._rng
            )
        if self._fcm is None:
            self._fcm = FcmEmulator(
                self._account,
                self.phones,
                now=self._now,
                rng=self._rng,
                slow_s=self._slow_s,
                stopping=self._stopping,
            )
        app = web.Application(client_max_size=REQUEST_BYTES_MAX)
        app.add_routes(self._fcm.routes())
        app.add_subapp("/_control", Control(self._fcm, self.phones, now=self._now).application())
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


def _toml(text: str) -> str:
    """A basic string; JSON's escapes are TOML's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


async def _page(request: web.Request) -> web.Response:
    return web.Response(text=HTML, content_type="text/html", headers=PAGE_HEADERS)


async def _style(request: web.Request) -> web.Response:
    return web.Response(text=CSS, content_type="text/css", headers=PAGE_HEADERS)


async def _script(request: web.Request) -> web.Response:
    return web.Response(text=JS, content_type="text/javascript", headers=PAGE_HEADERS)


async def _nothing_here(request: web.Request) -> web.Response:
    """As Google's front end answers a wrong path or method."""
    return web.Response(
        status=NO_SUCH_PATH.status, body=NO_SUCH_PATH.body, headers={"Content-Type": NO_SUCH_PATH.content_type}
    )
