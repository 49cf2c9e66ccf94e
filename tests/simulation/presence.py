"""The node's presence, with the referee listening to what devices have it hear."""

from collections.abc import Callable
from typing import Any

from relay.model import DeviceKey, Facts
from relay.presence.rules import Beat
from relay.presence.service import PresenceService

from .heartbeats import Heartbeats
from .silence import Silence


class HeardPresence(PresenceService):
    """Tells the referee first, and does then what it does."""

    def __init__(self, *args: Any, silence: Silence, heartbeats: Heartbeats, dead: Callable[[], bool]) -> None:
        """`dead`: whether this process is no more, and with it its connections."""
        super().__init__(*args)
        self._dead = dead
        self._silence = silence
        self._heartbeats = heartbeats

    def renew(self, device: DeviceKey, session: int) -> bool:
        self._silence.heard(device, session)
        return super().renew(device, session)

    async def heartbeat(self, device: DeviceKey, session: int, facts: Facts, beat: Beat | None = None) -> None:
        self._silence.heard(device, session)
        with self._heartbeats.heard(device, session, facts):
            await super().heartbeat(device, session, facts, beat)

    async def closed(self, device: DeviceKey, session: int, *, goodbye: bool, restart: bool = False) -> None:
        if not self._dead():
            self._silence.ended(device, session, goodbye=goodbye)
        await super().closed(device, session, goodbye=goodbye, restart=restart)
