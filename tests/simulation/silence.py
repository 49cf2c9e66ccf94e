"""For how long devices were silent while somebody could have heard them (I27, protocol 6.6).

A device goes offline by its own word, some seconds after its connection has ended, or when its lease is over. Of the last
two only such time counts in which the relay ran and its store took what it had to write.
"""

from collections.abc import Iterable
from typing import NamedTuple

from relay.model import DeviceKey

from .client import Broken
from .loop import now_s

LEASE_S = 75.0  # of devices that ask for no other rhythm (protocol 6.2)
LINGER_S = 5.0  # from the end of a connection without a goodbye (protocol 6.1)
SHORT_S = 6.0  # an absence of the relay's that it need not notice
CLOSE_S = 0.1


class End(NamedTuple):
    """Of a session's connection."""

    session: int
    at_s: float
    goodbye: bool


class Silence:
    """Times are of a clock that stands still while the relay or its store is away."""

    def __init__(self) -> None:
        self._away: dict[str, float] = {}  # what is away now, and since when
        self._since_s = 0.0  # since when something has been
        self._lost_s = 0.0
        self._began_s = 0.0
        self._heard: dict[DeviceKey, tuple[int, float]] = {}  # session and time
        self._ended: dict[DeviceKey, End] = {}

    def _here_s(self) -> float:
        return (self._since_s if self._away else now_s()) - self._lost_s

    # --- what the world says ---

    def away(self, what: str) -> None:
        """The relay, or its store."""
        if not self._away:
            self._since_s = now_s()
        self._away[what] = now_s()

    def back(self, what: str) -> None:
        if self._away.pop(what, None) is not None and not self._away and now_s() - self._since_s > SHORT_S:
            self._lost_s += now_s() - self._since_s

    def began(self) -> None:
        """The relay has started: whoever was online then has a whole lease."""
        self.back("relay")
        self._began_s = self._here_s()

    def forget(self, lingered: Iterable[tuple[DeviceKey, int]]) -> None:
        """The store was set back, and its sessions with it. `lingered`: whose connections had ended there, with their session;
        long ago by now, so that they need not be waited for."""
        self._heard.clear()
        self._ended = {device: End(session, self._here_s(), goodbye=True) for device, session in lingered}

    # --- what reaches the relay ---

    def heard(self, device: DeviceKey, session: int) -> None:
        if session >= self._heard.get(device, (0, 0.0))[0]:
            self._heard[device] = session, self._here_s()

    def ended(self, device: DeviceKey, session: int, *, goodbye: bool) -> None:
        if device not in self._ended or session >= self._ended[device].session:
            self._ended[device] = End(session, self._here_s(), goodbye)

    # --- what the rows say ---

    def went(self, device: DeviceKey, session: int, *, lingers: bool) -> None:
        """A device that was online, or lingered, is offline now; `lingers`: it may be back. Raises Broken."""
        heard_session, heard_s = self._heard.get(device, (session, 0.0))
        silent_s = self._since(heard_s if heard_session == session else 0.0)
        if silent_s >= LEASE_S - CLOSE_S:
            return
        end = self._ended.get(device)
        if end is None or end.session != session:
            raise Broken(f"I27: {device} is offline after {silent_s:.1f} s of silence that could be heard")
        gone_s = self._since(end.at_s)
        if not end.goodbye and not lingers and gone_s < LINGER_S - CLOSE_S:
            raise Broken(
                f"I27: {device} is offline {gone_s:.1f} s after its connection has ended, in which it could be back"
            )

    def _since(self, at_s: float) -> float:
        return self._here_s() - max(at_s, self._began_s)
