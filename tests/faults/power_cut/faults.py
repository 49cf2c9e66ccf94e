"""What fails on a disk, and when."""

from dataclasses import dataclass

from .disk import ERRORS, FULL, OK


@dataclass(slots=True)
class Nth:
    """The n-th time that something is done (from 1), it fails; and so do the next `times - 1`."""

    what: str  # write, sync, truncate, delete, open
    nth: int
    full: bool = False  # ENOSPC; else EIO
    times: int = 1
    count: int = 0

    def __call__(self, what: str, name: str) -> int:
        if what != self.what:
            return OK
        self.count += 1
        if not self.nth <= self.count < self.nth + self.times:
            return OK
        return FULL if self.full else ERRORS[what]

    @property
    def hit(self) -> bool:
        return self.count >= self.nth
