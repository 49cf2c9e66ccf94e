"""Who may open a connection that lasts: one check for sockets and event streams (safety SEC-17), and long-polls; and how many
devices may shake hands in a second, so that the others come back little by little (protocol 6.6)."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from relay.api.limits import network_of
from relay.clock import Clock
from relay.errors import Crowded, Forbidden, Throttled, Unavailable
from relay.model import DeviceKey
from relay.push.limits import Bucket
from relay.realtime.hub import Hub
from relay.shedding import Shed, Shedding

PER_DEVICE_MAX = 3
PER_ADDRESS_MAX = 200
CONNECTIONS_MAX = 20_000
HANDSHAKES_PER_S = 500
WAITS_MAX = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """`origins`: pages of these may connect; whoever states none is no page, and sends its token in a header."""

    hub: Hub
    clock: Clock
    origins: tuple[str, ...] = ()
    connections_max: int = CONNECTIONS_MAX
    per_address_max: int = PER_ADDRESS_MAX
    waits_max: int = WAITS_MAX
    shedding: Shedding = field(default_factory=Shedding)
    handshakes: Bucket = field(default_factory=lambda: Bucket(HANDSHAKES_PER_S, HANDSHAKES_PER_S))
    _here: Counter[str] = field(default_factory=Counter)  # connections, by address; also those that have not said hello

    def check_origin(self, origin: str | None, *, by_header: bool) -> None:
        """`by_header`: the token comes in a header, which no page of another's can have a browser add. Raises Forbidden."""
        if origin is None and not by_header:
            raise Forbidden(
                "A ticket is for a page, which states its origin; send the token as `Authorization: Bearer`."
            )
        if origin is not None and origin not in self.origins:
            raise Forbidden("This origin may not connect; add it to server.allowed_origins.")

    def check_room(self) -> None:
        """Before it is known who comes. Raises Crowded: the relay stops, or this node is full, or has too much to do."""
        if self.hub.draining:
            raise Crowded("The relay is shutting down.", code="draining")
        if len(self.hub) >= self.connections_max:
            raise Crowded("This node has all the connections it can take.")
        if self.shedding.level >= Shed.CONNECTIONS:
            raise Crowded("The relay has more to do than it can; try again later.")
        if not self.handshakes.available(self.clock.monotonic_ms()):
            raise _too_many()

    @contextmanager
    def opened_from(self, remote: str | None) -> Iterator[None]:
        """Counts a connection from this address (of IPv6, this /64) until the end of the block. Raises Throttled."""
        network = network_of(remote)
        if self._here[network] >= self.per_address_max:
            raise Throttled(
                "Your address has too many connections; close some. If it is a proxy's, name it in server.trusted_proxies.",
                retry_after_s=10,
            )
        self._here[network] += 1
        try:
            yield
        finally:
            self._here[network] -= 1
            if not self._here[network]:
                del self._here[network]

    def check_wait(self) -> None:
        """May another long-poll wait? Raises Unavailable."""
        if self.hub.waits >= self.waits_max:
            raise Unavailable("This node has all the long-polls it can take; ask without `wait`.", retry_after_s=5)
        self.shedding.admit(Shed.WAITS)

    def check_count(self, device: DeviceKey) -> None:
        """Raises Throttled."""
        if self.hub.of_device(device) >= PER_DEVICE_MAX:
            raise Throttled("This device has too many connections; close one first.", retry_after_s=2)

    def check_handshakes(self) -> None:
        """Counts one, of a device that is known: strangers must not use up what devices need. Raises Crowded."""
        if not self.handshakes.take(self.clock.monotonic_ms()):
            raise _too_many()


def _too_many() -> Crowded:
    return Crowded("Too many devices connect at once; come back a little later.")
