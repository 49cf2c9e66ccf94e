"""What one connection has brought of the inbox, and what of it was acked there."""

from collections import deque
from typing import Any

from .client import Broken


class Offered:
    """I29, from the client's end: numbers go on where the last frame ended, and no more is on its way than the window."""

    def __init__(self) -> None:
        self._window = 0
        self._at: int | None = None
        self._acked = 0
        self._waiting: deque[tuple[int, int]] = deque()  # (to, entries) of what was not acked yet

    def welcomed(self, welcome: dict[str, Any]) -> None:
        self._window, self._at = welcome["window"]["entries"], welcome["head"] - welcome["missing"]
        self._acked = 0
        self._waiting.clear()

    def came(self, batch: dict[str, Any]) -> None:
        """A page of the inbox."""
        if self._at is None or batch["from"] != self._at:
            raise Broken(f"I29: {batch['from']}..{batch['to']} came where {self._at} had been sent")
        self._at = batch["to"]
        if batch["entries"] and batch["to"] > self._acked:
            self._waiting.append((batch["to"], len(batch["entries"])))
        on_their_way = sum(entries for _, entries in self._waiting)
        if on_their_way > self._window:
            raise Broken(f"I29: {on_their_way} entries are not acked, and the window is {self._window}")

    def acked(self, seq: int) -> None:
        """The client has said that it has everything up to here: what the relay has heard is no more than that.

        It may have got more by other ways than has come by this one.
        """
        self._acked = max(self._acked, seq)
        while self._waiting and self._waiting[0][0] <= seq:
            self._waiting.popleft()
