"""Who may open a connection that lasts: one check for sockets and event streams (safety SEC-17)."""

from dataclasses import dataclass, field

from relay.errors import Forbidden, Throttled, Unavailable
from relay.model import DeviceKey
from relay.realtime.hub import Hub
from relay.shedding import Shed, Shedding

PER_DEVICE_MAX = 3
CONNECTIONS_MAX = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """`origins`: pages of these may connect; whoever states none is no page."""

    hub: Hub
    origins: tuple[str, ...] = ()
    connections_max: int = CONNECTIONS_MAX
    shedding: Shedding = field(default_factory=Shedding)

    def check_origin(self, origin: str | None) -> None:
        """Raises Forbidden."""
        if origin is not None and origin not in self.origins:
            raise Forbidden("This origin may not connect; add it to server.allowed_origins.")

    def check_room(self) -> None:
        """Raises Unavailable: the relay stops, or this node is full, or has too much to do."""
        if self.hub.draining:
            raise Unavailable("The relay is shutting down.", code="draining", retry_after_s=5)
        if len(self.hub) >= self.connections_max:
            raise Unavailable("This node has all the connections it can take.", retry_after_s=10)
        self.shedding.admit(Shed.CONNECTIONS)

    def check_count(self, device: DeviceKey) -> None:
        """Raises Throttled."""
        if self.hub.of_device(device) >= PER_DEVICE_MAX:
            raise Throttled("This device has too many connections; close one first.", retry_after_s=2)
