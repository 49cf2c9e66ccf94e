"""What browsers need of the relay: the client's files, and that pages of the app's own origins are let in (CORS).

Only listed origins are, and never with cookies: a device's credential is a header (safety SEC-17).
"""

import hashlib
from collections.abc import Awaitable, Callable, Collection
from importlib.resources import files
from typing import Final

from aiohttp import hdrs, web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PREFIX: Final = "/sdk/"
OPEN_TO_PAGES: Final = ("/v1/device", PREFIX)
PREFLIGHT: Final[dict[str, str]] = {
    hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST, PUT",
    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID",
    hdrs.ACCESS_CONTROL_MAX_AGE: "600",
}
WORKERS: Final = {"sw.js", "sw-sync.js"}
TYPES: Final = {".js": "text/javascript", ".ts": "text/plain", ".json": "application/json"}


def _is_for_pages(path: str) -> bool:
    return any(path == one or path.startswith(one.rstrip("/") + "/") for one in OPEN_TO_PAGES)


def asks_first(request: web.Request, origins: Collection[str]) -> bool:
    """Whether a browser asks if a page of these origins may call; one that may not is answered as if this did not exist."""
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        and request.headers.get(hdrs.ORIGIN) in origins
        and _is_for_pages(request.path)
    )


def let_in(request: web.BaseRequest, add: Callable[[str, str], None], origins: Collection[str]) -> None:
    """Every answer to a page of these origins says that it may read it, refusals too. `add` adds a header to the answer."""
    if not _is_for_pages(request.path):
        return
    add(hdrs.VARY, hdrs.ORIGIN)
    origin = request.headers.get(hdrs.ORIGIN)
    if origin in origins and origin is not None:
        add(hdrs.ACCESS_CONTROL_ALLOW_ORIGIN, origin)
        add(hdrs.ACCESS_CONTROL_EXPOSE_HEADERS, "ETag, Retry-After")


def add_sdk(app: web.Application) -> None:
    """`GET /sdk/NAME`: the JavaScript client as it is in the package, for pages behind the same proxy."""
    for file in files("relay").joinpath("web/sdk").iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in TYPES:
            app.router.add_get(
                PREFIX + file.name, _sending(file.name, file.read_bytes(), TYPES[suffix]), allow_head=False
            )


def _sending(name: str, body: bytes, kind: str) -> Handler:
    etag = hashlib.sha256(body).hexdigest()[:32]
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", "ETag": f'"{etag}"'}
    if name in WORKERS:
        headers["Service-Worker-Allowed"] = "/"  # it works for the whole of the app's origin

    async def send(request: web.Request) -> web.Response:
        if any(one.value == etag for one in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    return send
