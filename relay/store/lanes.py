"""What waits for a writer, in two lanes: sends, and everything else (safety DUR-7, OVL-4).

A flood of sends fills its own lane and is refused there. Acks, handshakes, cancels, ends and reports have room of their own,
and go first, but for a share of each turn: else the sends would wait for ever.
"""

from collections import deque
from itertools import chain

from relay.errors import Unavailable
from relay.store.engine import GROUP_BYTES, GROUP_MAX, Job, Queues

SENDS_MAX = 4096  # waiting pieces of work; more are refused
OTHERS_MAX = 4096
LANE_BYTES = 64 * 1024 * 1024  # what those of one lane will store; more are refused
OTHERS_SHARE = 3 / 4  # of what is taken at a time, if both lanes are full


class _Lane:
    """Jobs in their order. One thread may put while another takes: each counts bytes of its own."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self.jobs: deque[Job] = deque()
        self._put_bytes = 0
        self._taken_bytes = 0

    def __len__(self) -> int:
        return len(self.jobs)

    def queues(self) -> Queues:
        waiting_bytes = self._put_bytes - self._taken_bytes
        return {self._name: (len(self.jobs), self._most), f"{self._name}_bytes": (waiting_bytes, LANE_BYTES)}

    def fill(self) -> float:
        return max(size / bound for size, bound in self.queues().values())

    def put(self, job: Job) -> None:
        waiting_bytes = self._put_bytes - self._taken_bytes
        if len(self.jobs) >= self._most or (waiting_bytes and waiting_bytes + job.size > LANE_BYTES):
            raise Unavailable("The writer's queue is full.", code="overloaded", retry_after_s=1)
        self._put_bytes += job.size
        self.jobs.append(job)

    def pop(self) -> Job:
        job = self.jobs.popleft()
        self._taken_bytes += job.size
        return job


class Lanes:
    """Putting and taking may be done by different threads, one each."""

    def __init__(self) -> None:
        self._sends = _Lane("store_sends", SENDS_MAX)
        self._others = _Lane("store_others", OTHERS_MAX)
        self._turn = 0

    def __len__(self) -> int:
        return len(self._sends) + len(self._others)

    def queues(self) -> Queues:
        """What each lane holds and may hold, by count and by bytes."""
        return self._sends.queues() | self._others.queues()

    def fill(self) -> float:
        """The share of the fuller lane that is taken, by count or by bytes."""
        return max(self._sends.fill(), self._others.fill())

    def put(self, job: Job) -> None:
        """Raises Unavailable if its lane is full."""
        (self._sends if job.is_send else self._others).put(job)

    def take(self) -> list[Job]:
        """Up to a commit's worth of what waits, others first; empty if nothing does.

        Ends at 256 pieces of work or before 4 MiB would be exceeded; one that is larger by itself goes alone.
        """
        others, sends = len(self._others), len(self._sends)
        first = min(others, max(round(GROUP_MAX * OTHERS_SHARE), GROUP_MAX - sends))
        taken: list[Job] = []
        taken_bytes = 0
        for lane in chain([self._others] * first, [self._sends] * min(sends, GROUP_MAX - first)):
            if taken and taken_bytes + lane.jobs[0].size > GROUP_BYTES:
                break
            job = lane.pop()
            taken_bytes += job.size
            taken.append(job)
        return taken

    def take_alike(self) -> list[Job]:
        """As `take`, for one of several workers: of the lane that has its turn, and all for the same batched work.

        Raises IndexError if nothing waits.
        """
        self._turn += 1
        turn, other = (self._sends, self._others) if self._turn % 4 == 0 else (self._others, self._sends)
        lane = turn if turn.jobs else other
        first = lane.pop()
        group, group_bytes, passed = [first], first.size, list[Job]()
        while first.batched and lane.jobs and len(group) < GROUP_MAX:
            job = lane.jobs[0]
            if not job.batched or job.work != first.work:
                passed.append(lane.jobs.popleft())
                continue
            if group_bytes + job.size > GROUP_BYTES:
                break
            group.append(lane.pop())
            group_bytes += job.size
        lane.jobs.extendleft(reversed(passed))
        return group
