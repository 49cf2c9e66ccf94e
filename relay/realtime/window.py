"""How much may be on its way to a client without being acked (protocol 9.2)."""

from collections import deque

STALLED_MS = 60_000


class Window:
    """Batches that were sent and not acked, of all timelines together. One batch always finds room."""

    def __init__(self, *, entries: int, bytes_: int) -> None:
        self.entries = entries
        self.bytes = bytes_
        self._sent: dict[str, deque[tuple[int, int, int]]] = {}  # (to_seq, entries, bytes)
        self._entries = 0
        self._bytes = 0
        self._acked: dict[str, int] = {}
        self._full_ms: int | None = None

    @property
    def room(self) -> tuple[int, int] | None:
        """Entries and bytes that may still go; None: nothing may. What is empty takes one entry of any size."""
        entries, size = self.entries - self._entries, self.bytes - self._bytes
        if self._entries and (entries <= 0 or size <= 0):
            return None
        return max(1, entries), max(1, size)

    def sent(self, timeline: str, to_seq: int, *, entries: int, size: int) -> None:
        """A batch without entries needs no room."""
        if entries:
            self._sent.setdefault(timeline, deque()).append((to_seq, entries, size))
            self._entries += entries
            self._bytes += size

    def acked(self, timeline: str, seq: int) -> None:
        """Everything up to `seq` of this timeline is stored."""
        if seq > self._acked.get(timeline, 0):  # be it a part of a batch alone
            self._acked[timeline] = seq
            self._full_ms = None
        waiting = self._sent.get(timeline, deque())
        while waiting and waiting[0][0] <= seq:
            _, entries, size = waiting.popleft()
            self._entries -= entries
            self._bytes -= size

    def stalled(self, now_ms: int) -> bool:
        """Asked once it is full, and each second: whether it has been so for a minute without an ack. Such a client is served
        later."""
        if self.room is not None:
            self._full_ms = None
        elif self._full_ms is None:
            self._full_ms = now_ms
        return self._full_ms is not None and now_ms - self._full_ms >= STALLED_MS

    def forget(self, timeline: str) -> None:
        """No ack is to come for what was sent of this timeline."""
        self._acked.pop(timeline, None)
        for _, entries, size in self._sent.pop(timeline, ()):
            self._entries -= entries
            self._bytes -= size
