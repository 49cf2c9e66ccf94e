"""What users do not want to be told of, and when: the backends set it, and the referee remembers it (protocol 7.2)."""

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from providers.contract import Push
from relay.inbox.preferences import Level, Preferences, Quiet
from relay.model import UserKey

from .client import Broken
from .loop import now_s, sleep

if TYPE_CHECKING:
    from .node import Node
    from .world import World

DAY_MIN = 24 * 60
SURE_S = 90.0  # a push that was claimed before may still go out; and a node's clock may be half a minute off
ZONES = {"UTC": 0, "Asia/Kolkata": 330, "America/Phoenix": -420}  # minutes ahead of UTC, all year


@dataclass(slots=True)
class Wishes:
    """By user, what the relay has confirmed and since when."""

    world: "World"
    _known: dict[UserKey, tuple[float, Preferences | None]] = field(default_factory=dict)
    _asked: set[UserKey] = field(default_factory=set)

    async def change(self) -> None:
        """A user turns notifications off, or on, or wants a quiet hour about now."""
        draws = self.world.draws.stream("fate/preferences")
        backend = draws.pick(self.world.backends)
        user, wanted = UserKey(backend.app_id, draws.pick(backend.users)), self._drawn()
        if user in self._asked:
            return
        self._asked.add(user)
        self._known.pop(user, None)
        await self.world.persist(partial(_set, user, wanted))
        self._known[user] = now_s(), wanted
        await sleep(SURE_S)
        self._asked.discard(user)

    def _drawn(self) -> Preferences | None:
        draws = self.world.draws.stream("fate/preferences")
        kind = draws.pick(("none", "quiet", "quiet", "off"))
        if kind == "none":
            return None
        if kind == "off":
            return Preferences(level=draws.pick((Level.NONE, Level.MENTIONS)))
        zone = draws.pick(list(ZONES))
        start = (_minute(self.world.wall.true_ms(), zone) + draws.count(-20, 20)) % DAY_MIN
        quiet = Quiet(start, (start + draws.count(2, 30)) % DAY_MIN)
        return Preferences(zone=zone, quiet=(quiet,), urgent_breaks=False)

    def moved(self, user: UserKey) -> None:
        """Of this name nothing is known any more."""
        self._known.pop(user, None)

    def forget(self) -> None:
        """The store was set back."""
        self._known.clear()

    def check(self, push: Push, user: UserKey) -> None:
        """Nothing is shown to who has said so, and long enough ago."""
        self.world.moves.check(push, user)
        since_s, wanted = self._known.get(user, (0.0, None))
        if wanted is None or push.silent or now_s() < since_s + SURE_S:
            return
        if wanted.level is not Level.ALL:
            raise Broken(f"W1: {user} wants no notifications since {since_s:.0f} and was sent {push.relay['ids']}")
        now_ms, margin_ms = self.world.wall.true_ms(), SURE_S * 1000
        if all(quiet_at(wanted, ms) for ms in (now_ms - margin_ms, now_ms, now_ms + margin_ms)):
            raise Broken(f"W2: {user} was sent {push.relay['ids']} in quiet hours")


def quiet_at(wanted: Preferences, at_ms: float) -> bool:
    """By hand, not by the relay's own rules."""
    minute = _minute(at_ms, wanted.zone or "UTC")
    for one in wanted.quiet:
        length = (one.end_min - one.start_min) % DAY_MIN
        if (minute - one.start_min) % DAY_MIN < length:
            return True
    return False


def _minute(at_ms: float, zone: str) -> int:
    return (int(at_ms // 60_000) + ZONES[zone]) % DAY_MIN


async def _set(user: UserKey, wanted: Preferences | None, node: "Node") -> Any:
    return await node.inbox.set_preferences(user, wanted)
