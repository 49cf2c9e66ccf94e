"""What waits for a writer, in two lanes: sends, and everything else (safety OVL-4).

A flood of sends fills its own lane and is refused there. Acks, handshakes, cancels, ends and reports have room of their own,
and go first, but for a share of each turn: else the sends would wait for ever.
"""

from collections import deque

from relay.errors import Unavailable
from relay.store.engine import GROUP_MAX, Job

SENDS_MAX = 4096  # waiting pieces of work; more are refused
OTHERS_MAX = 4096
OTHERS_SHARE = 3 / 4  # of what is taken at a time, if both lanes are full


class Lanes:
    """Appending and taking may be done by different threads, one each."""

    def __init__(self) -> None:
        self._sends: deque[Job] = deque()
        self._others: deque[Job] = deque()
        self._turn = 0

    def __len__(self) -> int:
        return len(self._sends) + len(self._others)

    def fill(self) -> float:
        """The share of the fuller lane that is taken."""
        return max(len(self._sends) / SENDS_MAX, len(self._others) / OTHERS_MAX)

    def put(self, job: Job) -> None:
        """Raises Unavailable if its lane is full."""
        lane, most = (self._sends, SENDS_MAX) if job.is_send else (self._others, OTHERS_MAX)
        if len(lane) >= most:
            raise Unavailable("The writer's queue is full.", code="overloaded", retry_after_s=1)
        lane.append(job)

    def take(self) -> list[Job]:
        """Up to a commit's worth of what waits, others first; empty if nothing does."""
        others, sends = len(self._others), len(self._sends)
        first = min(others, max(round(GROUP_MAX * OTHERS_SHARE), GROUP_MAX - sends))
        jobs = [self._others.popleft() for _ in range(first)]
        return jobs + [self._sends.popleft() for _ in range(min(sends, GROUP_MAX - first))]

    def turn(self) -> deque[Job]:
        """The lane that has its turn, with something in it unless both are empty."""
        self._turn += 1
        first, second = (self._sends, self._others) if self._turn % 4 == 0 else (self._others, self._sends)
        return first or second
