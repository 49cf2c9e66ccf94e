"""Rows that a transaction may need of its users besides their inboxes and devices: read when one is first asked for."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from relay.inbox.selective_acks import Acks
from relay.model import DeviceKey, PushJob, UserKey
from relay.store import ack_ranges, held_entries, readers
from relay.store import inbox as inbox_rows
from relay.store import messages as message_rows
from relay.store import queue as job_rows
from relay.store.ahead import Place, Window, windows
from relay.store.engine import Conn
from relay.store.readers import Read, Woken


class Rows:
    """What is seldom needed, read for all users of a transaction at once when the first of them needs it.

    Their locks are held, so it makes no difference when in the transaction that is.
    """

    def __init__(self, conn: Conn, users: Sequence[UserKey]) -> None:
        self._conn = conn
        self._users = users
        self.windows: dict[UserKey, list[Window]] = {}  # see `look_ahead`
        self.pushes: dict[str, dict[str, message_rows.Push]] = {}  # likewise: by app and message

    def look(self, now_ms: int, places: Sequence[Place], fresh: Mapping[UserKey, int]) -> None:
        """See `look_ahead`. `fresh`: above which number the content is wanted, too."""
        self.windows = windows(self._conn, now_ms, places)
        ids: dict[str, set[str]] = {}
        for key, after in fresh.items():
            for window in self.windows.get(key, ()):
                some = [entry.message_id for entry in window.entries if entry.seq > after]
                ids.setdefault(key.app_id, set()).update(some)
        self.pushes = {app_id: message_rows.pushes_of(self._conn, app_id, some) for app_id, some in ids.items() if some}

    @cached_property
    def jobs(self) -> dict[UserKey, dict[str, PushJob]]:
        return job_rows.jobs_of(self._conn, self._users)

    @cached_property
    def acks(self) -> dict[UserKey, dict[str, Acks]]:
        found: dict[UserKey, dict[str, Acks]] = {}
        for key, kinds in ack_ranges.ack_ranges(self._conn, self._users).items():
            found.setdefault(key.user, {})[key.device_id] = Acks(*map(tuple, kinds))
        return found

    @cached_property
    def read_markers(self) -> dict[UserKey, dict[str, int]]:
        return inbox_rows.read_markers(self._conn, self._users)

    @cached_property
    def woken(self) -> dict[UserKey, list[Woken]]:
        return readers.woken(self._conn, self._users)

    @cached_property
    def reads(self) -> dict[DeviceKey, dict[str, Read]]:
        return readers.reads_of(self._conn, self._users)

    def forget_reads(self) -> None:
        """Has them read again: they have changed."""
        self.__dict__.pop("reads", None)

    @cached_property
    def holders(self) -> set[UserKey]:
        return held_entries.holders(self._conn, self._users)
