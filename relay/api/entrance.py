"""The one layer around all routes: every request's way in, and every answer's way out.

One and not six, as aiohttp's manner would be: each layer is a coroutine of its own for each request.
"""

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

import structlog
from aiohttp import web

from relay.api import browsers, limits
from relay.api.connections import is_spare
from relay.api.gate import Gate
from relay.api.problems import REQUEST_ID, ROUTE, of_framework, response
from relay.api.reply import Reply
from relay.errors import Problem
from relay.ids import Rng, running_ids
from relay.telemetry import traces
from relay.telemetry.metrics import Metrics
from relay.telemetry.repeats import Repeats

log = structlog.get_logger("relay.api")

CALLER_GONE: Final = 499  # for the count only
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def entrance(
    gate: Gate,
    rng: Rng,
    metrics: Metrics,
    *,
    trusted_proxies: Sequence[IPv4Network | IPv6Network] = (),
    https_only: bool = False,
    origins: Collection[str] = (),
    leaked: Callable[[str, web.Request], Awaitable[None]] | None = None,
) -> Any:
    """Middleware. Gives every request an id, and every failure its answer; what is not foreseen is `internal`, and a bug.

    `origins`: pages of these may call what is a device's. `leaked` is told of what may be a credential in a URL.
    """
    seen_through = limits.behind_proxies(trusted_proxies)
    next_id = running_ids(rng, bits=64)
    unavailable = Repeats(log.warning, "http.unavailable")

    def failed(request: web.Request, request_id: str, error: Exception) -> web.StreamResponse:
        route = request.get(ROUTE)
        if isinstance(error, web.HTTPException):
            if error.status < 400:
                raise error
            answer = response(of_framework(error), request_id, rng)
            if "Allow" in error.headers:
                answer.add("Allow", error.headers["Allow"])
            return answer
        if isinstance(error, Problem):
            problem = error
            if problem.status == 500:
                log.error("http.bug", request_id=request_id, code=problem.code, route=route, exc_info=error)
            elif problem.status > 500:
                unavailable.tell((problem.code, route), request_id=request_id, code=problem.code, route=route)
        elif isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
            return Reply(CALLER_GONE, {})  # nobody gets it; to raise would be told as our error
        else:
            log.error("http.bug", request_id=request_id, route=route, exc_info=error)
            problem = Problem("The relay met something it should not have; tell its operator the request id.")
        _not_begun(request, error)
        return response(problem, request_id, rng)

    @web.middleware
    async def through(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer: web.StreamResponse
        began = time.perf_counter()
        if trusted_proxies:
            request = seen_through(request)
        request_id = request[REQUEST_ID] = next_id()
        spare = is_spare(request)
        with traces.span(request.method, caller=request.headers) as tell:
            try:
                if https_only:
                    limits.check_https(request)
                if origins and browsers.asks_first(request, origins):
                    answer = Reply(204, browsers.PREFLIGHT)
                else:
                    lane = gate.enter(request, spare=spare)
                    try:
                        answer = await handler(request)
                    finally:
                        gate.left(lane)
            except Exception as error:  # noqa: BLE001 - all of them are told, and answered
                if leaked is not None and isinstance(error, limits.Leaked):
                    await leaked(error.text, request)
                answer = failed(request, request_id, error)
            route = request.get(ROUTE, "unknown")
            if tell is not None:
                tell(name=f"{request.method} {route}", route=route, status=answer.status, request_id=request_id)
        if not answer.prepared:
            add = answer.add if isinstance(answer, Reply) else answer.headers.add
            add("X-Request-Id", request_id)
            if origins:
                browsers.let_in(request, add, origins)
            if spare or gate.leaving:
                answer.force_close()
        metrics.request(route, request.method, answer.status, time.perf_counter() - began)
        return answer

    return through


def _not_begun(request: web.Request, error: Exception) -> None:
    """An answer that has begun can't become another one: the connection is cut, so that nobody takes it for whole."""
    if request.writer.output_size > 0:
        raise ConnectionError("The answer had begun when it failed.") from error
