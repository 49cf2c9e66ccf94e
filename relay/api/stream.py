"""`GET /v1/device/stream`: lets a device in, judges where it stands, then hands over to the stream (protocol 9.3)."""

from dataclasses import dataclass
from functools import partial

from aiohttp import hdrs, web

from relay.api.auth import Authenticator
from relay.api.door import Door
from relay.api.principal import Principal
from relay.api.problems import REQUEST_ID
from relay.api.routes import QUERY
from relay.errors import Conflict, CursorRefused, Forbidden, Malformed
from relay.inbox.cursor import Cursor
from relay.inbox.service import InboxService
from relay.inbox.shared import Wanted
from relay.model import DeviceKey
from relay.realtime.events import SEPARATOR, resync_event
from relay.realtime.hub import Credential, Hub
from relay.realtime.service import DeviceService
from relay.realtime.stream import Stream
from relay.store.scope import of_app

LAST_EVENT_ID = "Last-Event-ID"
_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@dataclass(slots=True, kw_only=True)
class StreamApi:
    """The handler of the event stream."""

    inbox: InboxService
    devices: DeviceService
    hub: Hub
    auth: Authenticator
    door: Door

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """What is no cursor of ours is a problem; one that is no good any more is told in the stream itself, where the
        script of a page can read it."""
        origin = request.headers.get(hdrs.ORIGIN)
        self.door.check_origin(origin, by_header=not self._brings_ticket(request))
        self.door.check_room()
        with self.door.opened_from(request.remote):
            return await self._serve(request, origin)

    async def _serve(self, request: web.Request, origin: str | None) -> web.StreamResponse:
        bearer = await self._who(request)
        with of_app(bearer.app_id):
            return await self._follow(request, origin, bearer)

    async def _follow(self, request: web.Request, origin: str | None, bearer: Principal) -> web.StreamResponse:
        device = bearer.device_key
        assert device is not None
        self.door.check_count(device)
        self.door.check_handshakes()
        cursor, wanted = self._place(request, device)
        out = web.StreamResponse(headers=_HEADERS | {"X-Request-Id": request[REQUEST_ID]})
        if origin is not None:
            out.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            out.headers[hdrs.VARY] = hdrs.ORIGIN
        try:
            first = await self.inbox.reader.read(device, cursor, limit=1)
        except CursorRefused as refused:
            await out.prepare(request)
            await out.write(resync_event(refused.extra["resync"]))
            return out
        if not first.snap.device.session:
            raise Conflict("Shake hands first: PUT /v1/device.")
        if cursor is not None and first.snap.session_after(cursor) != first.snap.device.session:
            raise Conflict("Another version of this device, or another store, has shaken hands since: PUT /v1/device.")
        assert first.batch is not None  # nothing was said of what the client has
        await out.prepare(request)
        stream = Stream(
            out,
            device,
            self.devices,
            self.hub,
            snap=first.snap,
            at=first.batch,
            wanted=wanted,
            credential=Credential(bearer.credential_id, bearer.expires_ms),
            gone=partial(_gone, request),
            cut=partial(_cut, request),
        )
        await stream.run()
        return out

    @staticmethod
    def _brings_ticket(request: web.Request) -> bool:
        return request[QUERY].ticket is not None and hdrs.AUTHORIZATION not in request.headers

    async def _who(self, request: web.Request) -> Principal:
        """The bearer of a token, or of a ticket that stands for one. A page must come with its origin's ticket."""
        if self._brings_ticket(request):
            bearer = await self.auth.take_ticket(request[QUERY].ticket, request)
        else:
            bearer = await self.auth.authenticate(request)
        self.auth.check_rate(request, bearer)
        if bearer.device_key is None:
            raise Forbidden("A device's token is needed here, not an API key.")
        return bearer

    def _place(self, request: web.Request, device: DeviceKey) -> tuple[Cursor | None, Wanted]:
        """Where the client stands: what it says itself, or the id of the last event, whichever is further in each timeline.

        Raises Malformed (invalid_cursor).
        """
        query = request[QUERY]
        last = request.headers.get(LAST_EVENT_ID, "")
        if not last.isascii():  # what is refused of it is said again, and bytes that are no text cannot be
            raise Malformed("Last-Event-ID is the `id` of an event; send it back unchanged.", code="invalid_cursor")
        inbox, *shared = last.split(SEPARATOR)
        cursors = [self.inbox.reader.unseal(text, device) for text in (query.cursor, inbox) if text]
        further = max(cursors, key=lambda one: (one.session, one.seq), default=None)
        return further, Wanted(cursors=(*query.shared, *shared), names=tuple(query.open))


def _gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
