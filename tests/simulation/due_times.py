"""Who raises or clears the time of a push (I21): `rearm` alone, or planning, when that time has come.

What both have said in a transaction is noted as they say it; what the rows then show was said by one of them, or by nobody.
That no other code could ever write it is a property of the code, which a lint sees (`tests/unit/test_only_here.py`); this sees
what ran, by whatever statement.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from relay.inbox import push_due
from relay.model import DeviceKey
from relay.push import planning
from relay.push.planner import Stop
from relay.push.situation import Wait

from .client import Broken

if TYPE_CHECKING:
    from .store import Store

PUT_OFF = """
CREATE TEMP TRIGGER put_off AFTER UPDATE OF due_ms ON main.push_job
WHEN old.due_ms IS NOT NULL AND (new.due_ms IS NULL OR new.due_ms > old.due_ms)
BEGIN SELECT put_off(new.app_id, new.user_id, new.device_id, old.due_ms, new.due_ms, new.reason); END"""


class DueTimes:
    """The times of pushes in one transaction after the other."""

    def __init__(self, store: "Store") -> None:
        self._rearmed: dict[DeviceKey, set[int | None]] = defaultdict(set)
        self._planned: dict[DeviceKey, Any] = {}
        self._put_off: list[tuple[DeviceKey, int, int | None, str | None]] = []
        store.raw.create_function("put_off", 6, self._note)
        store.raw.execute(PUT_OFF)

    def _note(self, app: str, user: str, device: str, before_ms: int, due_ms: int | None, reason: str | None) -> None:
        self._put_off.append((DeviceKey(app, user, device), before_ms, due_ms, reason))

    def rearmed(self, key: DeviceKey, due_ms: int | None) -> None:
        self._rearmed[key].add(due_ms)

    def planned(self, key: DeviceKey, found: Any) -> None:
        self._planned[key] = found

    def committed(self) -> None:
        """Raises Broken."""
        for key, before_ms, due_ms, reason in self._put_off:
            if due_ms not in self._rearmed.get(key, ()) and not self._by_plan(key, due_ms, reason):
                raise Broken(
                    f"I21: the push of {key} was due at {before_ms}, and is at {due_ms} ({reason}): who said so?"
                )
        if self._put_off or self._rearmed or self._planned:
            self._put_off.clear()
            self._rearmed.clear()
            self._planned.clear()

    def _by_plan(self, key: DeviceKey, due_ms: int | None, reason: str | None) -> bool:
        """What waits for an account may be given a later turn than the plan says; what can't be planned rests."""
        match self._planned.get(key):
            case Wait(at_ms=at_ms):
                return due_ms is not None and due_ms >= at_ms
            case Stop():
                return due_ms is None
        return reason == push_due.Rest.QUARANTINED


@contextmanager
def heard(times: Callable[[], DueTimes]) -> Iterator[None]:
    """Has these times told of whatever `rearm` and planning say."""
    rearm, plan = push_due.rearm, planning.plan

    def rearming(device: Any, job: Any, *args: Any, **more: Any) -> Any:
        after = rearm(device, job, *args, **more)
        times().rearmed(job.key, after.due_ms)
        return after

    def planned(situation: Any) -> Any:
        found = plan(situation)
        times().planned(situation.job.key, found)
        return found

    push_due.rearm, planning.plan = rearming, planned  # type: ignore[assignment]
    try:
        yield
    finally:
        push_due.rearm, planning.plan = rearm, plan
