"""Gives an answer up only where an emulator holds it back: a busy machine may be late with any other."""

from dataclasses import replace

from providers.contract import Transport
from providers.wire import Request, Response

HELD_S = 1.5
OTHERS_S = 30.0


class Hasty:
    """A transport that waits a moment for what names a phone "slow…", and long for all else, whatever the adapter says."""

    def __init__(self, call: Transport, *, hurried: bool = False) -> None:
        """`hurried`: it waits a moment only, for whatever comes."""
        self.call = call
        self.hurried = hurried

    async def __call__(self, request: Request, /) -> Response:
        held = self.hurried or "slow" in request.url or b"slow" in (request.body or b"")
        return await self.call(replace(request, total_s=HELD_S if held else OTHERS_S, connect_s=OTHERS_S))
