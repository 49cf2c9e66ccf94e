"""What becomes of the entries that a cumulative ack passes (protocol 8.6). Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from relay.inbox import visibility
from relay.inbox.reports import DELIVERIES, FAILED, RELEASED
from relay.inbox.selective_acks import Acks
from relay.inbox.visibility import View
from relay.model import CARRIES_MESSAGE, Device, Entry, EntryState


@dataclass(slots=True)
class Passage:
    """The entries that a device passes, sorted by what is to be done about each. Judged by the device's facts."""

    device: Device
    now_ms: int
    acks: Acks
    why_held: Mapping[int, str]  # by number: why the device passed it without its full form before
    acked: list[Entry] = field(default_factory=list)  # deliveries that end by this ack
    overdue: list[Entry] = field(default_factory=list)  # over, and not yet swept
    missed: list[int] = field(default_factory=list)  # over before the device had them
    hold: list[tuple[int, str]] = field(default_factory=list)  # passed without the full form: with what instead
    unhold: list[int] = field(default_factory=list)

    def take(self, entry: Entry) -> None:
        """The next entry."""
        reported = entry.seq <= self.device.acked_high or self.acks.reported(entry.seq)
        if not entry.live(self.now_ms):
            if entry.state is EntryState.LIVE:
                self.overdue.append(entry)
            if entry.kind in DELIVERIES and not reported:
                self.missed.append(entry.seq)
        elif entry.kind in CARRIES_MESSAGE:
            self._take_live(entry, visibility.view(entry, self.device), self.why_held.get(entry.seq), reported=reported)

    def _take_live(self, entry: Entry, seen: View, why: str | None, *, reported: bool) -> None:
        if why in {"unknown_type", "poison"}:
            return  # it passed what it could not read: the delivery stays open
        if why in {RELEASED, FAILED}:
            return  # that end is another entry's, or has been told
        if seen is View.HELD:
            # What it acked before it lost its store does not open again; only the full form is still to come.
            if why is None:
                self.hold.append((entry.seq, "fallback" if reported else "held"))
            return
        if seen not in {View.FULL, View.FALLBACK}:
            return
        was_open = why == "held"
        if was_open or (why is not None and seen is View.FULL):
            self.unhold.append(entry.seq)
        if seen is View.FALLBACK:
            self.hold.append((entry.seq, "fallback"))
        if was_open or (why is None and not reported):
            self.acked.append(entry)
