"""A small application on the edge's own machinery: every kind of route, no store behind it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from relay.api import connections, limits
from relay.api.entrance import entrance
from relay.api.gate import Gate
from relay.api.principal import Principal
from relay.api.routes import DEVICE, PUBLIC, Answer, Call, Query, Route, register
from relay.errors import CursorRefused, Throttled, Unauthenticated, Unavailable
from relay.ids import system_rng
from relay.model import DeviceKey
from relay.shedding import Shedding
from relay.telemetry.metrics import Metrics

BODY_MAX = 4096


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    label: str = Field("", max_length=5, pattern="^[a-z]*$")
    weight: float = Field(0.0, gt=0)


class Thing(BaseModel):
    """A thing."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    size: int = Field(1, ge=0, le=10)
    open: bool = False
    color: Literal["red", "green"] = "red"
    inner: Inner | None = None
    parts: list[Inner] = Field(default_factory=list, max_length=3)
    data: Any = None
    schema_: int | None = Field(None, alias="schema")


class ThingOut(BaseModel):
    id: str
    given: Any = None


class ThingQuery(Query):
    limit: int = Field(50, ge=1, le=200)
    order: Literal["up", "down"] = "up"


@dataclass
class Auth:
    """Knows three callers by the word after Bearer."""

    refuse_anonymous: bool = False
    asked: list[str] = field(default_factory=list)

    def recognised(self, request: web.Request) -> Principal | None:
        return None

    async def authenticate(self, request: web.Request) -> Principal:
        self.asked.append(str(request.remote))
        match request.headers.get("Authorization"):
            case "Bearer writer":
                return Principal(app_id="a", credential_id="w", scopes=frozenset({"messages:write", "messages:read"}))
            case "Bearer reader":
                return Principal(app_id="a", credential_id="r", scopes=frozenset({"messages:read"}))
            case "Bearer device":
                return Principal(app_id="a", credential_id="d", device_key=DeviceKey("a", "ann", "phone"))
        raise Unauthenticated("Say who you are.")

    def check_rate(self, request: web.Request, principal: Principal | None) -> None:
        if principal is None and self.refuse_anonymous:
            raise limits.slow_down("requests from this address")


async def put(call: Call) -> Answer:
    return Answer(200, {"id": call.body.name, "given": call.raw})


async def get(call: Call) -> Answer:
    given = {"limit": call.query.limit, "order": call.query.order}
    return Answer(200, {"id": call.path["thing"], "given": given}, headers={"Cache-Control": "private"})


async def nothing(call: Call) -> Answer:
    return Answer(204)


async def me(call: Call) -> Answer:
    assert call.principal.device_key is not None
    return Answer(200, {"id": call.principal.device_key.device_id})


async def header(call: Call) -> Answer:
    return Answer(200, {"id": "x"}, headers={"ETag": "a\r\nX-Evil: 1"})


async def fail(call: Call) -> Answer:
    match call.path["kind"]:
        case "throttled":
            raise Throttled("Slow down.", retry_after_s=40)
        case "away":
            raise Unavailable("The store is away.", code="storage_unavailable", retry_after_s=0)
        case "cursor":
            raise CursorRefused("Begin anew.", extra={"resync": {"epoch": "e2"}, "status": 1})
        case "long":
            raise Throttled("x\x1b[31m\r\n" + "y" * 1000)
        case "database":
            raise ConnectionRefusedError("postgresql://relay:hunter2@db")
    raise RuntimeError("SELECT secret FROM app WHERE token = 'hunter2'")


async def health(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def broken_stream(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(b"begun")
    raise RuntimeError("in the middle")


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for frame in socket:
        await socket.send_str(frame.data)
    return socket


SAID: dict[str, tuple[str, ...]] = {"errors": ("unauthenticated", "forbidden")}
ROUTES = (
    Route(
        method="POST",
        path="/v1/things",
        handler="put",
        summary="Put <b>a</b> `thing`.",
        access="messages:write",
        request=Thing,
        responses={200: ThingOut},
        errors=("unauthenticated", "forbidden", "validation_failed", "rate_limited", "overloaded"),
        body_bytes_max=BODY_MAX,
        too_large="payload_too_large",
        headers={"Idempotency-Key": "Makes a repeat known."},
    ),
    Route(
        method="GET",
        path="/v1/things/{thing}",
        handler="get",
        summary="Get a thing.",
        access="messages:read",
        query=ThingQuery,
        responses={200: ThingOut},
        **SAID,
    ),
    Route(
        method="DELETE",
        path="/v1/things/{thing}",
        handler="nothing",
        summary="Forget a thing.",
        access="messages:write",
        responses={204: None},
        **SAID,
    ),
    Route(
        method="GET",
        path="/v1/device/me",
        handler="me",
        summary="Who am I?",
        access=DEVICE,
        responses={200: ThingOut},
        tag="device",
        **SAID,
    ),
    Route(
        method="GET",
        path="/v1/header",
        handler="header",
        summary="Answer with a header that breaks.",
        access="messages:read",
        responses={200: ThingOut},
        **SAID,
    ),
    Route(
        method="GET",
        path="/v1/fail/{kind}",
        handler="fail",
        summary="Fail.",
        access="messages:read",
        responses={200: ThingOut},
        **SAID,
    ),
    Route(
        method="GET",
        path="/healthz",
        handler="health",
        summary="Alive?",
        access=PUBLIC,
        responses={200: None},
        raw=True,
        head=True,
        tag="operation",
    ),
    Route(
        method="GET",
        path="/about",
        handler="about",
        summary="Alive?",
        access=PUBLIC,
        responses={200: None},
        raw=True,
        head=True,
        tag="operation",
    ),
    Route(
        method="GET",
        path="/v1/device/ws",
        handler="echo",
        summary="A socket.",
        access=DEVICE,
        responses={101: None},
        raw=True,
        tag="device",
    ),
    Route(
        method="GET",
        path="/stream",
        handler="broken_stream",
        summary="A stream that breaks.",
        access=PUBLIC,
        responses={200: None},
        raw=True,
        tag="operation",
    ),
)
HANDLERS: dict[str, Any] = {
    "put": put,
    "get": get,
    "nothing": nothing,
    "me": me,
    "fail": fail,
    "header": header,
    "health": health,
    "about": health,
    "broken_stream": broken_stream,
    "echo": echo,
}


@dataclass
class Edge:
    """The application as it runs, and a raw line to it."""

    port: int
    auth: Auth
    metrics: Metrics

    async def say(self, *pieces: bytes, within_s: float = 20.0) -> bytes:
        """Everything that comes back until the relay hangs up."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(within_s):
                try:
                    for piece in pieces:
                        writer.write(piece)
                        await writer.drain()
                    return await reader.read()
                except ConnectionResetError:
                    return b""
        finally:
            writer.close()

    async def status(self, request: bytes) -> int:
        """The status of the first answer; 0 if there was none."""
        answer = await self.say(request)
        return int(answer[9:12]) if answer else 0


def application(auth: Auth, metrics: Metrics, **how: Any) -> web.Application:
    enter = entrance(Gate(), system_rng(), metrics, **how)
    app = web.Application(middlewares=[enter])
    exact = register(app, ROUTES, HANDLERS, auth, Shedding())
    app[connections.WAYS] = {path: partial(enter, handler=handler) for path, handler in exact.items()}
    return app


@asynccontextmanager
async def running(**how: Any) -> AsyncIterator[Edge]:
    """The application on a port of its own; `how` is for its entrance."""
    auth, metrics = Auth(), Metrics()
    runner = connections.Runner(application(auth, metrics, **how), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield Edge(runner.addresses[0][1], auth, metrics)
    finally:
        await runner.cleanup()
