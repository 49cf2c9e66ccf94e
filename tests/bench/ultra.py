"""Posting to a group that everybody reads: what it costs must not grow with the group (protocol 12.5)."""

import random
import time
from pathlib import Path

from msgspec.structs import replace

from relay.inbox.send import Send
from relay.inbox.service import InboxService
from tests.bench.core import APP, inboxes, sends
from tests.bench.report import Figure

SMALL = 100
AT_ONCE = 1000  # members that one call adds
ROUNDS = 20  # the groups take turns, so that both see the same machine


def to_group(work: list[Send], group: str) -> list[Send]:
    return [replace(one, users=(), group=group, conversation_type="group", conversation_id=group) for one in work]


async def fill(service: InboxService, group: str, members: int) -> float:
    """Makes the group; seconds."""
    began = time.perf_counter()
    for at in range(0, members, AT_ONCE):
        names = [f"u{n:06}" for n in range(at, min(members, at + AT_ONCE))]
        await service.groups.change(APP, group, add=names, remove=(), ultra=True)
    return time.perf_counter() - began


async def posts(home: Path, *, members: int, count: int) -> list[Figure]:
    """One message a transaction, as many to a group of 100 members as to a large one."""
    async with inboxes(home / "ultra.db") as service:
        for group, size in (("small", SMALL), ("large", members)):
            await fill(service, group, size)
        took = dict.fromkeys(("small", "large"), 0.0)
        rng = random.Random(1)
        each = max(1, count // ROUNDS)
        for _ in range(ROUNDS):
            for group in took:
                work = to_group(sends(each, 1, rng, now_ms=service.clock.now_ms()), group)
                began = time.perf_counter()
                for one in work:
                    await service.accept(one)
                took[group] += time.perf_counter() - began
                while await service.fan_out():
                    pass
    small, large = (1000 * took[group] / (each * ROUNDS) for group in ("small", "large"))
    return [
        Figure(
            name=f"a post to an ultra group of {members:,}",
            value=large,
            unit="ms",
            raw=small,
            raw_name=f"ms to one of {SMALL}",
            aim=2,
            ratio=True,
            less_is_better=True,
        )
    ]
