"""Where vendors post their delivery receipts: each authenticates in its own way and wants its own answer."""

from dataclasses import dataclass

from aiohttp import web

from providers.receipts.contract import Callback
from relay.api import limits
from relay.api.auth import within
from relay.errors import Missing
from relay.push.receipts import ReceiptService

BODY_BYTES_MAX = 1024 * 1024  # a thousand items with tokens and ids


@dataclass(slots=True, kw_only=True)
class ReceiptApi:
    """A handler that answers by itself."""

    receipts: ReceiptService

    async def take(self, request: web.Request) -> web.Response:
        """`POST /v1/receipts/{account}`, or with the account's secret behind it."""
        account = request.match_info["account"]
        networks = self.receipts.networks(account)
        if networks and not within(request.remote, networks):
            raise Missing("There is no such account, or it takes no receipts.")
        call = Callback(
            headers={name.lower(): value for name, value in request.headers.items()},
            query=dict(request.query),
            body=await limits.read_body(request, limit=BODY_BYTES_MAX),
            path_secret=request.match_info.get("secret"),
        )
        reading = await self.receipts.take(account, call)
        return web.Response(
            body=reading.answer, headers={"Content-Type": reading.content_type, "Cache-Control": "no-store"}
        )
