"""The route table: one row says who may call what, what it takes and what it answers. Handlers, the document and the
tests are made from it, so none of them can forget a route."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote

import msgspec
from aiohttp import web
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from relay.api import limits
from relay.api.principal import Principal
from relay.api.problems import ROUTE, from_pydantic
from relay.errors import FieldError, Forbidden, Invalid, Malformed, Missing
from relay.realtime.protocol import Id
from relay.strictjson import parse

PUBLIC = "public"
DEVICE = "device"

_encode = msgspec.json.Encoder().encode
_path_id: TypeAdapter[str] = TypeAdapter(Id)


class Query(BaseModel):
    """Base of query models: unknown parameters are mistakes; values come as text."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler gives back; `body` is encoded as JSON, None sends no body."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Call:
    """A request that was let in: who, and what, parsed."""

    request: web.Request
    principal: Principal
    path: Mapping[str, str]
    body: Any = None
    raw: Any = None  # the body as it was sent, parsed but not yet a model
    query: Any = None


Handler = Callable[[Call], Awaitable[Answer]]
Raw = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Authenticator(Protocol):
    """Finds out who is calling."""

    async def authenticate(self, request: web.Request) -> Principal:
        """Raises Unauthenticated, Throttled."""
        ...

    def check_rate(self, request: web.Request, principal: Principal | None) -> None:
        """Raises Throttled for a caller who comes too often."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One row. `access` is a scope, `device`, or `public`; `handler` names a handler given to `register`."""

    method: str
    path: str
    handler: str
    summary: str
    access: str
    request: type[BaseModel] | None = None
    query: type[Query] | None = None
    responses: Mapping[int, type[BaseModel] | None]
    errors: Sequence[str] = ()
    body_bytes_max: int = 64 * 1024
    too_large: str = "body_too_large"
    headers: Mapping[str, str] = field(default_factory=dict)  # request headers it reads: name -> what for
    raw: bool = False  # the handler answers by itself (sockets, pages)
    tag: str = "messages"


def register(app: web.Application, routes: Sequence[Route], handlers: Mapping[str, Any], auth: Authenticator) -> None:
    """Adds every route; a handler that is missing, or is in no row, is a mistake at start."""
    named = {route.handler for route in routes}
    if named != set(handlers):
        raise AssertionError(f"routes and handlers differ: {sorted(named ^ set(handlers))}")
    for route in routes:
        handler = handlers[route.handler]
        wrapped = _raw(route, handler, auth) if route.raw else _served(route, handler, auth)
        if route.method == "GET":
            app.router.add_get(route.path, wrapped, allow_head=False)
        else:
            app.router.add_route(route.method, route.path, wrapped)


def _raw(route: Route, handler: Raw, auth: Authenticator) -> Raw:
    async def serve(request: web.Request) -> web.StreamResponse:
        request[ROUTE] = route.path
        limits.check_form(request)
        if route.access == PUBLIC:
            auth.check_rate(request, None)
        return await handler(request)

    return serve


def _served(route: Route, handler: Handler, auth: Authenticator) -> Raw:
    names = re.findall(r"\{(\w+)\}", route.path)

    async def serve(request: web.Request) -> web.StreamResponse:
        request[ROUTE] = route.path
        limits.check_form(request)
        principal = await auth.authenticate(request)
        auth.check_rate(request, principal)
        _allow(route, principal)
        call = Call(request=request, principal=principal, path=_path(request, names))
        call.query = _query(route, request)
        if route.request is not None:
            limits.check_content(request)
            call.raw = parse(await _body(route, request))
            call.body = _model(route.request, call.raw)
        return printed(await handler(call))

    return serve


def _allow(route: Route, principal: Principal) -> None:
    if route.access == DEVICE:
        if principal.device_key is None:
            raise Forbidden("A device's token is needed here, not an API key.")
    elif principal.device_key is not None:
        raise Forbidden("An API key is needed here, not a device's token.")
    elif route.access not in principal.scopes:
        raise Forbidden(f"This key lacks the scope {route.access}.")


def _path(request: web.Request, names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in names:
        value = unquote(request.match_info[name]) if "%" in request.match_info[name] else request.match_info[name]
        try:
            found[name] = _path_id.validate_python(value)
        except ValidationError:
            raise Missing(f"There is no such {name}.") from None
    return found


def _query(route: Route, request: web.Request) -> Any:
    given = request.query
    if route.query is None:
        if given:
            name = next(iter(given))[:64]
            raise Malformed(
                "This call takes no parameters.",
                code="unknown_field",
                errors=(FieldError(f"?{name}", "unknown_field", "is not known here"),),
            )
        return None
    values: dict[str, Any] = {}
    for name in given:
        all_ = given.getall(name)
        if len(all_) > 1:
            raise Invalid(f"The parameter {name[:64]!r} is given twice.")
        values[name] = all_[0]
    try:
        return route.query.model_validate(values)
    except ValidationError as error:
        raise from_pydantic(error, route.query, prefix="?") from None


async def _body(route: Route, request: web.Request) -> bytes:
    try:
        return await limits.read_body(request, limit=route.body_bytes_max)
    except limits.TooLarge as problem:
        raise limits.TooLarge(problem.detail, code=route.too_large) from None


def _model(model: type[BaseModel], value: Any) -> BaseModel:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise from_pydantic(error, model) from None


def printed(answer: Answer) -> web.Response:
    headers = {"Cache-Control": "no-store", **answer.headers}
    if answer.body is None:
        return web.Response(status=answer.status, headers=headers)
    headers["Content-Type"] = "application/json; charset=utf-8"
    return web.Response(status=answer.status, body=_encode(answer.body), headers=headers)
