"""The route table: one row says who may call what, what it takes and what it answers. Handlers, the document and the
tests are made from it, so none of them can forget a route."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import msgspec
from aiohttp import web
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from relay.api import limits
from relay.api.gate import HEALTH
from relay.api.limits import NDJSON
from relay.api.principal import SCOPES, Principal
from relay.api.problems import ERRORS_MAX, ROUTE, from_pydantic, shown
from relay.api.reply import Reply
from relay.errors import CODES, FieldError, Forbidden, Invalid, Malformed, Missing, TooLarge
from relay.realtime.protocol import Id
from relay.shedding import Shed, Shedding
from relay.store.scope import task_is_for
from relay.strictjson import parse, parse_lines

PUBLIC = "public"
DEVICE = "device"

_NO_STORE = {"Cache-Control": "no-store"}
_JSON_NO_STORE = {"Content-Type": "application/json; charset=utf-8", **_NO_STORE}
_encode = msgspec.json.Encoder().encode
_path_id: TypeAdapter[str] = TypeAdapter(Id)


class Query(BaseModel):
    """Base of query models: unknown parameters are mistakes; values come as text. Those of LISTS may stand many times."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    LISTS: ClassVar[frozenset[str]] = frozenset()


@dataclass(slots=True)  # not frozen, which takes a microsecond more to make
class Answer:
    """What a handler gives back; `body` is encoded as JSON, None sends no body."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None  # sent instead of a body, in parts if asked for


@dataclass(slots=True, kw_only=True)
class Call:
    """A request that was let in: who, and what, parsed."""

    request: web.Request
    principal: Principal
    path: Mapping[str, str]
    body: Any = None
    raw: Any = None  # the body as it was sent, parsed but not yet a model
    parameters: type[Query] | None = None
    _query: Any = field(default=None, init=False)

    @property
    def query(self) -> Any:
        """The parameters, parsed when they are first asked for. Raises Malformed, Invalid."""
        if self._query is None:
            self._query = _query(self.parameters, self.request)
        return self._query


QUERY: web.RequestKey[Any] = web.RequestKey("query", object)  # of a raw route that has one, parsed
Handler = Callable[[Call], Awaitable[Answer]]
Raw = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Authenticator(Protocol):
    """Finds out who is calling."""

    def recognised(self, request: web.Request) -> Principal | None:
        """Who it is, if that is known already. Raises Unauthenticated."""
        ...

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
    lines: bool = False  # the body may also be NDJSON: a list, one item a line
    body_bytes_max: int = 64 * 1024
    too_large: str = "body_too_large"
    headers: Mapping[str, str] = field(default_factory=dict)  # request headers it reads: name -> what for
    raw: bool = False  # the handler answers by itself (sockets, pages)
    media: str = "application/json"  # of an answer with a body but without a model
    head: bool = False  # HEAD is answered as well
    tag: str = "messages"
    shed: Shed | None = None  # with what it is refused for load; a handler may refuse more; None: never by its row


def register(
    app: web.Application,
    routes: Sequence[Route],
    handlers: Mapping[str, Any],
    auth: Authenticator,
    shedding: Shedding,
) -> dict[str, Raw]:
    """Adds every route, to an application that does not name its software. Gives who answers those that are one path
    and no pattern, by method and path.

    A handler that is missing or in no row, and a row that says too little, are mistakes at start.
    """
    named = {route.handler for route in routes}
    if named != set(handlers):
        raise AssertionError(f"routes and handlers differ: {sorted(named ^ set(handlers))}")
    app.on_response_prepare.append(_nameless)
    exact: dict[str, Raw] = {}
    for route in routes:
        _check(route)
        handler = handlers[route.handler]
        wrapped = _raw(route, handler, auth) if route.raw else _served(route, handler, auth, shedding)
        app.router.add_route(route.method, route.path, wrapped, expect_handler=limits.expect_later)
        if route.head:
            app.router.add_route("HEAD", route.path, wrapped, expect_handler=limits.expect_later)
        if not route.raw and "{" not in route.path:
            exact[f"{route.method} {route.path}"] = wrapped
    for path in dict.fromkeys(route.path for route in routes):
        app.router.add_route("*", path, _other_methods(path, routes), expect_handler=limits.expect_later)
    return exact


def _other_methods(path: str, routes: Sequence[Route]) -> Raw:
    """Refuses what the table does not have for this very path, so that `/batch` is never taken for a `/{message}`."""
    allowed = {method for one in routes if one.path == path for method in (one.method, *(["HEAD"] if one.head else []))}

    async def refuse(request: web.Request) -> web.StreamResponse:
        request[ROUTE] = path
        limits.check_form(request)
        raise web.HTTPMethodNotAllowed(request.method, sorted(allowed))

    return refuse


async def _nameless(_: web.Request, answer: web.StreamResponse) -> None:
    """Nobody is told which software, in which version, this is (safety SEC-19)."""
    answer.headers.pop("Server", None)


def _check(route: Route) -> None:
    """A row that would let somebody in whom nobody looked at, or promise what is not kept, is a mistake at start."""
    assert route.access in {PUBLIC, DEVICE, *SCOPES}, f"{route.handler}: {route.access!r} is not an access"
    assert route.raw or route.access != PUBLIC, f"{route.handler}: a public route answers by itself"
    assert not route.raw or route.access in {PUBLIC, DEVICE}, f"{route.handler}: nobody would check the scope"
    assert not (route.raw and route.request), f"{route.handler}: a raw route's body is not read"
    assert route.responses, f"{route.handler}: no answer is declared"
    unknown = [code for code in (*route.errors, route.too_large) if code not in CODES]
    assert not unknown, f"{route.handler}: {unknown} are not codes"
    assert not route.head or route.method == "GET", f"{route.handler}: HEAD goes with GET"


def _raw(route: Route, handler: Raw, auth: Authenticator) -> Raw:
    async def serve(request: web.Request) -> web.StreamResponse:
        request[ROUTE] = route.path
        limits.check_form(request)
        if route.access == PUBLIC and route.path not in HEALTH:
            auth.check_rate(request, None)
        if route.query is not None:
            request[QUERY] = _query(route.query, request)
        return await handler(request)

    return serve


def _served(route: Route, handler: Handler, auth: Authenticator, shedding: Shedding) -> Raw:
    names = re.findall(r"\{(\w+)\}", route.path)
    path, query, model, shed = route.path, route.query, route.request, route.shed
    made = route.method == "PUT"

    async def serve(request: web.Request) -> web.StreamResponse:
        request[ROUTE] = path
        limits.check_form(request)
        if shed is not None:
            shedding.admit(shed)
        principal = auth.recognised(request) or await auth.authenticate(request)
        auth.check_rate(request, principal)
        _allow(route.access, principal)
        ids = _path(request, names, made=made) if names else {}
        call = Call(request=request, principal=principal, path=ids, parameters=query)
        if query is None and request.query_string:
            _query(None, request)
        if model is not None:
            kind = limits.check_content(request, also=NDJSON if route.lines else None)
            body = await _body(route, request)
            call.raw = parse_lines(body) if kind == NDJSON else parse(body)
            call.body = _model(model, call.raw)
        task_is_for(principal.app_id)
        return printed(await handler(call))

    return serve


def _allow(access: str, principal: Principal) -> None:
    if access == DEVICE:
        if principal.device_key is None:
            raise Forbidden("A device's token is needed here, not an API key.")
    elif principal.device_key is not None:
        raise Forbidden("An API key is needed here, not a device's token.")
    elif access not in principal.scopes:
        raise Forbidden(f"This key lacks the scope {access}.")


def _path(request: web.Request, names: Sequence[str], *, made: bool) -> dict[str, str]:
    """The ids in the path. What no id can be is not there; where it would be `made`, the caller is told why not."""
    found = {}
    for name in names:
        try:
            # aiohttp has decoded it, once; a second time would make "100%2541" another's id.
            found[name] = _path_id.validate_python(request.match_info[name])
        except ValidationError as error:
            if made:
                raise from_pydantic(error, prefix=f"{{{name}}}") from None
            raise Missing(f"There is no such {name}.") from None
    return found


def _query(model: type[Query] | None, request: web.Request) -> Any:
    values: dict[str, Any] = {}
    lists = frozenset() if model is None else model.LISTS
    for name, value in request.query.items():
        if name in lists:
            values.setdefault(name, []).append(value)
            continue
        if name in values:
            raise Invalid(
                "A parameter is given twice.", errors=(FieldError(f"?{shown(name)}", "repeated", "must stand once"),)
            )
        values[name] = value
    if model is None:
        if not values:
            return None
        raise Malformed(
            "This call takes no parameters.",
            code="unknown_field",
            errors=tuple(FieldError(f"?{shown(name)}", "unknown_field", "is not known here") for name in values)[
                :ERRORS_MAX
            ],
        )
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise from_pydantic(error, model, prefix="?") from None


async def _body(route: Route, request: web.Request) -> bytes:
    try:
        return await limits.read_body(request, limit=route.body_bytes_max)
    except TooLarge as problem:
        raise TooLarge(problem.detail, code=route.too_large) from None


def _model(model: type[BaseModel], value: Any) -> BaseModel:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problem = from_pydantic(error, model, value=value)
        if problem.code == "unknown_field" and isinstance(value, dict):
            _check_names(set(value) - set(model.model_fields))
        raise problem from None


def _check_names(unknown: set[str]) -> None:
    if not limits.CREDENTIAL_NAMES.isdisjoint(map(str.lower, unknown)):
        raise Malformed("Credentials go into the Authorization header, never into the body.", code="credential_in_url")


def printed(answer: Answer) -> web.StreamResponse:
    """The answer on its way: JSON, and kept by nobody unless the handler says so."""
    if answer.file is not None:
        return web.FileResponse(answer.file, headers={**_NO_STORE, **answer.headers})
    if answer.body is None:
        headers = answer.headers if "Cache-Control" in answer.headers else {**_NO_STORE, **answer.headers}
        return Reply(answer.status, headers)
    headers = {**_JSON_NO_STORE, **answer.headers} if answer.headers else _JSON_NO_STORE
    return Reply(answer.status, headers, _encode(answer.body))
