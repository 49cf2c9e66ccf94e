"""Every error as application/problem+json (RFC 9457): one middleware, one registry of codes."""

import math
import time
from collections.abc import Awaitable, Callable
from difflib import get_close_matches
from typing import Any

import msgspec
import structlog
from aiohttp import web
from pydantic import BaseModel, ValidationError

from relay.errors import FieldError, Invalid, Malformed, Problem
from relay.ids import Rng, random_hex
from relay.telemetry import Metrics

log = structlog.get_logger("relay.api")

ERRORS_MAX = 20
DETAIL_MAX = 300
RETRY_AFTER_S = 1.0

REQUEST_ID = web.RequestKey("request_id", str)
ROUTE = web.RequestKey("route", str)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def problem_body(problem: Problem, request_id: str | None = None, retry_after_s: float | None = None) -> dict[str, Any]:
    """The members of the answer (safety ERR-1)."""
    body: dict[str, Any] = {
        "type": f"urn:problem:relay:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail[:DETAIL_MAX],
        "code": problem.code,
        "retryable": problem.retryable,
    }
    if request_id is not None:
        body["instance"] = f"urn:request:{request_id}"
        body["request_id"] = request_id
    if retry_after_s is not None:
        body["retry_after_ms"] = int(retry_after_s * 1000)
    if problem.errors:
        body["errors"] = [
            {"pointer": one.pointer, "code": one.code, "detail": one.detail} for one in problem.errors[:ERRORS_MAX]
        ]
    return body | problem.extra


def response(problem: Problem, request_id: str, rng: Rng) -> web.Response:
    headers: dict[str, str] = {"Cache-Control": "no-store"}
    retry_after_s: float | None = None
    if problem.status in {429, 503}:
        retry_after_s = (problem.retry_after_s or RETRY_AFTER_S) * rng.uniform(0.75, 1.25)
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="relay"'
    if problem.status == 426:
        headers |= {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    return web.Response(
        status=problem.status,
        body=msgspec.json.encode(problem_body(problem, request_id, retry_after_s)),
        content_type="application/problem+json",
        headers=headers,
    )


# What aiohttp itself refuses, in our words.
FRAMEWORK: dict[int, tuple[str, str]] = {
    400: ("malformed_http", "The request could not be read."),
    404: ("not_found", "There is nothing at this path."),
    405: ("method_not_allowed", "This path does not take that method; `Allow` has those it takes."),
    413: ("body_too_large", "The body is too large."),
    417: ("malformed_http", "That expectation can't be met."),
}


def middleware(rng: Rng, metrics: Metrics) -> Any:
    """Gives every request an id, and every failure its answer. What is not foreseen is `internal`, and a bug."""

    @web.middleware
    async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = random_hex(rng, bits=64)
        request[REQUEST_ID] = request_id
        began = time.perf_counter()
        try:
            answer = await handler(request)
        except Problem as problem:
            answer = response(problem, request_id, rng)
            if problem.status >= 500:
                log.warning("http.unavailable", request_id=request_id, code=problem.code, route=request.get(ROUTE))
        except web.HTTPException as error:
            if error.status < 400:
                raise
            code, detail = FRAMEWORK.get(error.status, ("malformed_http", "The request could not be served."))
            answer = response(Problem(detail, code=code), request_id, rng)
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
        except Exception:
            log.exception("http.bug", request_id=request_id, route=request.get(ROUTE))
            answer = response(Problem("The relay met something it should not have; tell its operator the request id."), request_id, rng)
        if not answer.prepared:
            answer.headers["X-Request-Id"] = request_id
        metrics.request(request.get(ROUTE, "unknown"), request.method, answer.status, time.perf_counter() - began)
        return answer

    return problems


# --- mistakes that pydantic found -------------------------------------------------------------------------------------

_WRONG_TYPE = ("_type", "_parsing", "_from_float", "is_instance_of")
_RANGE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}
_SIZE = {"too_long": "too_long", "too_short": "too_short", "string_too_long": "too_long", "string_too_short": "too_short"}


def from_pydantic(error: ValidationError, model: type[BaseModel] | None = None, *, prefix: str = "") -> Problem:
    """All mistakes as one problem: 400 if a field is unknown, else 422. Values are not repeated, only named."""
    errors = []
    unknown = False
    for one in error.errors(include_url=False, include_input=False):
        pointer = prefix + "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in one["loc"])[:256]
        code, detail = _mistake(one)
        if one["type"] == "extra_forbidden":
            unknown = True
            code, detail = "unknown_field", _did_you_mean(str(one["loc"][-1]), model if len(one["loc"]) == 1 else None)
        errors.append(FieldError(pointer, code, detail[:DETAIL_MAX]))
    text = f"{len(errors)} field{'' if len(errors) == 1 else 's'} {'is' if len(errors) == 1 else 'are'} not valid"
    if unknown:
        return Malformed(f"{text}: {errors[0].pointer[:64]} is not known here.", code="unknown_field", errors=tuple(errors))
    return Invalid(f"{text}: {errors[0].pointer[:64] or '/'} {errors[0].detail}"[:DETAIL_MAX], errors=tuple(errors))


def _mistake(one: Any) -> tuple[str, str]:
    kind, detail = str(one["type"]), str(one["msg"])
    if kind == "missing":
        return "missing", "is required"
    if kind in _RANGE:
        return "out_of_range", detail
    if kind in _SIZE:
        return _SIZE[kind], detail
    if kind == "string_pattern_mismatch":
        return "wrong_form", "has characters that are not allowed here"
    if kind == "value_error":
        return "wrong_form", detail.removeprefix("Value error, ")
    if kind.endswith(_WRONG_TYPE):
        return "wrong_type", detail
    return "invalid", detail


def _did_you_mean(name: str, model: type[BaseModel] | None) -> str:
    known = [] if model is None else [field.alias or key for key, field in model.model_fields.items()]
    close = get_close_matches(name, known, n=1)
    return f"is not known; did you mean {close[0]!r}?" if close else "is not known"
