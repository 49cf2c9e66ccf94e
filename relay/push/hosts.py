"""What holds one host back where each device brings its own: a circuit and a rate for each, and little room for strangers.

An account for UnifiedPush calls as many servers as its users have. One that is down, or that hangs on purpose, must not use
up the calls that the account may have under way; and nobody must aim the relay at a server of somebody else's (sheet
unifiedpush §6, §9).
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from providers.contract import Transport
from providers.endpoints import on_host
from providers.wire import Reason, Request, Response, TransportError
from relay.clock import Clock
from relay.push.limits import Bucket, Circuit

HOSTS_MAX = 4096  # remembered; then the one that was quiet longest is a stranger again
UNREAD = 507
THROTTLED = frozenset({406, 429})  # 406: Microsoft's way of saying it (sheet webpush §6.3)
AT_ONCE_MIN = (
    2.0  # a push that is refused because it is signed is called a second time without that (sheet unifiedpush §4)
)
STRANGER_CALLS_MAX = 4  # under way to one host that has not answered yet, or not of late


@dataclass(slots=True)
class _Host:
    bucket: Bucket | None  # None: only the account's holds it
    circuit: Circuit = field(default_factory=Circuit)
    proven: bool = False  # its last call was answered
    in_flight: int = 0


class PerHost:
    """A transport in front of another: `await` it as the other; a host that is held back is a call that was not made.

    `trusted` hosts, which an operator named, are never strangers, and have no rate of their own. `strangers_max` is for all
    strangers together; `rate_per_s`, if there is one, is for each host, with twice as many at once, and two in any case.
    """

    def __init__(
        self,
        call: Transport,
        clock: Clock,
        *,
        trusted: tuple[str, ...] = (),
        strangers_max: int,
        rate_per_s: float | None = None,
    ) -> None:
        self._call = call
        self._clock = clock
        self._trusted = trusted
        self._strangers_max = strangers_max
        self._rate_per_s = rate_per_s
        self._strangers = 0
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    @property
    def remembered(self) -> tuple[int, int]:
        """Hosts that are known, and how many may be."""
        return len(self._hosts), HOSTS_MAX

    async def __call__(self, request: Request, /) -> Response:
        place = urlsplit(request.url)
        host = self._of(place.netloc.lower())
        now_ms = self._clock.monotonic_ms()
        named = on_host(place.hostname or "", self._trusted)
        stranger = not host.proven and not named
        if (
            host.circuit.closed_for_ms(now_ms)
            or (stranger and (host.in_flight >= STRANGER_CALLS_MAX or self._strangers >= self._strangers_max))
            or not (named or host.bucket is None or host.bucket.take(now_ms))
        ):
            raise TransportError(Reason.HELD_BACK, sent=False)
        host.circuit.probe(now_ms)
        host.in_flight += 1
        self._strangers += stranger
        well = False
        try:
            response = await self._call(request)
            # Many of these are the whole host's. ntfy's 507 is about one topic, which nobody reads (sheet unifiedpush §5).
            well = response.status == UNREAD or (response.status < 500 and response.status not in THROTTLED)
            return response
        finally:  # a call that was given up waiting for failed as well
            host.in_flight -= 1
            self._strangers -= stranger
            host.proven = well
            if well:
                host.circuit.succeeded(self._clock.monotonic_ms())
            else:
                host.circuit.failed(self._clock.monotonic_ms())

    def _of(self, name: str) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            rate = self._rate_per_s
            host = _Host(None if rate is None else Bucket(rate_per_s=rate, burst=max(AT_ONCE_MIN, 2 * rate)))
            self._hosts[name] = host
        self._hosts.move_to_end(name)
        if len(self._hosts) > HOSTS_MAX:
            self._hosts.popitem(last=False)
        return host
