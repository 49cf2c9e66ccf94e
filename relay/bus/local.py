"""The bus of a single node: calls who listens here, at once."""

from collections.abc import Callable, Iterable, Sequence

from relay.model import DeviceKey, TimelineKey, UserKey

Listener = Callable[[UserKey], None]
Reader = Callable[[TimelineKey], None]
Withdrawer = Callable[[UserKey, Sequence[str], DeviceKey | None], None]
Closer = Callable[[DeviceKey, int], None]


class LocalBus:
    """Carries hints, no content and no order. Nobody may rely on one to arrive."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._readers: list[Reader] = []
        self._withdrawers: list[Withdrawer] = []
        self._closers: list[Closer] = []

    def on_wake(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def on_post(self, reader: Reader) -> None:
        self._readers.append(reader)

    def on_withdrawn(self, withdrawer: Withdrawer) -> None:
        self._withdrawers.append(withdrawer)

    def on_close(self, closer: Closer) -> None:
        self._closers.append(closer)

    def wake(self, users: Iterable[UserKey]) -> None:
        """Something has changed in these inboxes."""
        for user in users:
            for listener in self._listeners:
                listener(user)

    def posted(self, timelines: Iterable[TimelineKey]) -> None:
        """Something has changed in these shared timelines."""
        for timeline in timelines:
            for reader in self._readers:
                reader(timeline)

    def withdrawn(self, users: Iterable[UserKey], message_ids: Sequence[str], *, but: DeviceKey | None) -> None:
        """Devices of these users, but for one, need not show these messages any more."""
        for user in users:
            for withdrawer in self._withdrawers:
                withdrawer(user, message_ids, but)

    def close(self, device: DeviceKey, newer_than: int) -> None:
        """Sessions of this device older than `newer_than` are over."""
        for closer in self._closers:
            closer(device, newer_than)
