"""`relay demo --web`: an inbox in a browser, to play with. Serves the sample page, and is its app's backend."""

import re
from contextlib import AsyncExitStack
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from relay.api.browsers import add_sdk
from relay.cli.demo_stage import emulators, perform, started_relay, until_interrupted
from relay.cli.demo_steps import Backend, Timeline

if TYPE_CHECKING:
    from providers.sandbox import Sandbox

ACCOUNT = "webpush-sandbox"
CALL_S = 30.0
WAIT_S = 20.0  # how long a page waits for news of its lock screen
NAME = re.compile(r"[a-z0-9-]{1,32}")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
TYPES = {".js": "text/javascript", ".css": "text/css"}


class SamplePage:
    """The page's files, and what its backend does for it."""

    def __init__(self, sandbox: "Sandbox") -> None:
        self.sandbox = sandbox
        self.backend: Backend | None = None  # once the relay runs
        self._keys = 0

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/", self.page)
        app.router.add_get("/v2", self.page)
        for file in _files().iterdir():
            kind = TYPES.get(file.name[file.name.rfind(".") :])
            if kind is not None:
                app.router.add_get(f"/{file.name}", _sending(file.read_bytes(), kind))
        add_sdk(app)
        for handler in (self.login, self.send, self.poll, self.lock):
            app.router.add_post(f"/api/{handler.__name__}", handler)
        return app

    async def page(self, request: web.Request) -> web.Response:
        version = "v2" if request.path == "/v2" else "v1"
        text = _files().joinpath("index.html").read_text().replace("VERSION", version)
        return web.Response(
            text=text, content_type="text/html", headers=HEADERS | {"Content-Security-Policy": self._csp}
        )

    @property
    def _csp(self) -> str:
        relay = self._backend.url
        return (
            f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' {relay} ws{relay[4:]}; "
            "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
            "trusted-types relay-demo; require-trusted-types-for 'script'"
        )

    @property
    def _backend(self) -> Backend:
        assert self.backend is not None
        return self.backend

    # --- the app's backend ---

    async def login(self, request: web.Request) -> web.Response:
        """A real one would check a password first."""
        user, device = await _named(request, "user", "device")
        address = {"account": ACCOUNT, "token": self.sandbox.emulators["webpush"].address(_phone(user))}
        place = f"/v1/users/{user}/devices/{device}"
        await self._backend.call("PUT", place, {"platform": "web"})
        token = (await self._backend.call("POST", f"{place}/token"))["token"]
        return web.json_response({"url": self._backend.url, "token": token, "addresses": [address]}, headers=HEADERS)

    async def send(self, request: web.Request) -> web.Response:
        text = await _text(request)
        return await self._sent(
            request, {"type": "text", "body": {"text": text}, "push": {"title": "Bob", "body": text}}
        )

    async def poll(self, request: web.Request) -> web.Response:
        """What only version 2.0 can show; 1.0 gets the fallback, and the poll itself after its upgrade."""
        text = await _text(request)
        body = {"question": text, "options": ["yes", "no"]}
        fallback = {"text": "Bob asks something that a newer version of this app can show."}
        push = {"title": "Bob", "body": "A poll"}
        return await self._sent(
            request, {"type": "poll", "body": body, "min_schema": 2, "fallback": fallback, "push": push}
        )

    async def _sent(self, request: web.Request, message: dict[str, Any]) -> web.Response:
        (user,) = await _named(request, "user")
        self._keys += 1
        message |= {"to": {"users": [user]}, "conversation": {"type": "direct", "id": "c1"}}
        answer = await self._backend.call("POST", "/v1/messages", message, **{"Idempotency-Key": f"web-{self._keys}"})
        return web.json_response({"id": answer["id"]}, headers=HEADERS)

    async def lock(self, request: web.Request) -> web.Response:
        """What the emulated browser shows, as soon as it differs from what the page knows."""
        (user,) = await _named(request, "user")
        known = (await request.json()).get("known")
        if not isinstance(known, int):
            raise web.HTTPBadRequest(text="known: send a number")
        phones, phone = self.sandbox.phones, _phone(user)
        await phones.wait(phone, known + 1, timeout_s=WAIT_S)
        found: list[Any] = phones.view(token=phone, phones_max=1, received_max=0, with_message=False)
        shown = [{"title": one["title"], "body": one["body"]} for one in found[0]["shown"]] if found else []
        return web.json_response({"shown": shown, "count": phones.count(phone)}, headers=HEADERS)


def _phone(user: str) -> str:
    return f"browser-of-{user}"


def _files() -> Any:
    return files("relay").joinpath("web/demo")


def _sending(body: bytes, kind: str) -> Any:
    async def send(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=HEADERS)

    return send


async def _named(request: web.Request, *fields: str) -> list[str]:
    body = await _body(request)
    for field in fields:
        if not isinstance(body.get(field), str) or not NAME.fullmatch(body[field]):
            raise web.HTTPBadRequest(text=f"{field}: send 1 to 32 of a-z, 0-9 and -")
    return [body[field] for field in fields]


async def _text(request: web.Request) -> str:
    text = (await _body(request)).get("text")
    if not isinstance(text, str) or not 0 < len(text) <= 1000:
        raise web.HTTPBadRequest(text="text: send 1 to 1000 characters")
    return text


async def _body(request: web.Request) -> dict[str, Any]:
    """The page's own words: JSON, so that no form of another page can say them."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="send application/json")
    try:
        body = await request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="send an object of JSON")
    return body


async def demonstrate_web() -> int:
    """Serves the page until Ctrl-C; gives the exit status."""
    return await perform("relay-web", _play)


async def _play(timeline: Timeline, home: Path, stack: AsyncExitStack) -> None:
    sandbox = await emulators(["webpush"], home, stack)
    page = SamplePage(sandbox)
    runner = web.AppRunner(page.application(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    own = f'[server]\nallowed_origins = ["{url}"]\n[push]\nlinger_s = 1\n[heartbeat]\ninterval_s = 10\nlease_factor = 2.0\n'
    account = sandbox.account_toml(ACCOUNT, "webpush")
    page.backend = await started_relay(own + account, home, stack, call_s=CALL_S)
    timeline.say(f"relay {page.backend.url}/docs, emulated push service {sandbox.url}/")
    timeline.end(
        f"\nOpen [bold]{url}/[/] in a browser: sign in, send, go offline and send again, come back, upgrade.\n"
        "Ctrl-C ends it."
    )
    await until_interrupted()
