"""Pushes that may be what ends the process each time they are handled, and how carefully they are taken (safety FLT-23).

A claim is committed before its vendor is called. One whose process is no more was lost with it: perhaps because of it,
perhaps beside it. So few suspects are handled at once, and the longer one is under suspicion, the fewer, until it is alone:
then a further end of the process is its own doing. An attempt that ends, however it does, is under suspicion no longer.
"""

from collections.abc import Sequence

from relay.model import PushJob

LOST_MAX = 5  # then it is quarantined
BARE_FROM = 3  # from then on without content: if that is what does it, the device is told all the same
TOGETHER = (16, 4)  # suspects at once, by how often the most suspicious of them was lost; from the third time on: one
TOGETHER_MAX = TOGETHER[0]


def was_lost(job: PushJob, owner: str) -> bool:
    """Whether the job's claim, which has lapsed, was another process's: a live one would have ended its attempt."""
    return job.claim is not None and job.claim != owner


def may_join(lost: int, beside: Sequence[int]) -> bool:
    """Whether a job that was lost so often may be handled now, beside suspects that were lost so often."""
    return len(beside) < together(max(lost, *beside, 1))


def together(lost: int) -> int:
    """How many suspects may be handled at once, if the worst of them was lost so often."""
    return TOGETHER[lost - 1] if lost <= len(TOGETHER) else 1
