"""FLT-28: a relay that may have 512 MiB and no more, under twice the load that it can take, with sockets that nobody reads and a
backlog that nobody fetches. What it cannot take it refuses; it is not killed, and does not grow.

CI sees the shape of it. Safety asks for an hour, on a machine of its own:

    RELAY_MEMORY_S=3600 pytest tests/faults/test_memory.py -n 0 -s
"""

import asyncio
import os
import resource
import signal
from collections import Counter
from pathlib import Path

from scene import Scene, scene
from wire import DOWN

SECONDS = float(os.environ.get("RELAY_MEMORY_S", "4"))
LIMIT_MIB = 512
HANDLERS, SENDERS = 32, 64
SOCKETS, READERS = 40, 4
BODY_CHARS = 8_000
GROWTH = 1.1  # of the second half over the first: a queue without a bound shows as more
MIB = 1024 * 1024


def limit_memory(at: Scene) -> None:
    """What it has now may grow until 512 MiB are in use; an allocation beyond fails. Address space that is only reserved
    (stacks of threads, say) does not count."""
    assert at.relay.child is not None
    most = int((at.memory_mib("VmSize") + LIMIT_MIB - at.memory_mib("VmRSS")) * MIB)
    resource.prlimit(at.relay.child.pid, resource.RLIMIT_AS, (most, most))


async def keep_sending(at: Scene, number: int, end: float, statuses: Counter[int], sent: dict[str, list[str]]) -> None:
    clock = asyncio.get_running_loop().time
    user = f"u{number % SOCKETS}"
    while clock() < end:
        body = {"to": {"users": [user]}, "body": "x" * BODY_CHARS, "push": {"title": "t"}}
        status, answer = await at.call("POST", "/v1/messages", body)
        statuses[status] += 1
        if status == 202:
            sent.setdefault(user, []).append(answer["id"])
        else:
            assert answer["code"] in {"overloaded", "recipient_queue_full"}, answer


async def everything(at: Scene, token: str) -> list[str]:
    """Ids of all that the device lacks."""
    found: list[str] = []
    path = "/v1/device/sync"
    while True:
        status, page = await at.call("GET", path, token=token)
        assert status == 200, page
        batch = page["batches"][0]
        found += [entry["id"] for entry in batch["entries"]]
        if page["caught_up"]:
            return found
        path = f"/v1/device/sync?cursor={batch['cursor']}"


async def test_flt_28_with_512_mib_it_refuses_what_it_cannot_take_and_does_not_grow(tmp_path: Path) -> None:
    async with scene(tmp_path, {"RELAY_SERVER__HANDLERS_MAX": str(HANDLERS)}) as at:
        tokens = [await at.device(f"u{n}", "gate") for n in range(SOCKETS)]
        limit_memory(at)
        at.vendor_wires["gate"].holes.add(DOWN)  # the gateway hears all and answers nothing
        sockets = [await at.connect(token) for token in tokens[READERS:]]  # the others are offline; nobody reads these
        clock = asyncio.get_running_loop().time
        end = clock() + SECONDS
        statuses: Counter[int] = Counter()
        sent: dict[str, list[str]] = {}
        load = [asyncio.create_task(keep_sending(at, n, end, statuses, sent)) for n in range(SENDERS)]
        used: list[float] = []
        while clock() < end:
            used.append(at.memory_mib("VmRSS"))
            await asyncio.sleep(SECONDS / 40)  # noqa: TID251 - looks now and then
        await asyncio.gather(*load)
        half = len(used) // 2
        print(f"{statuses}; {max(used[:half]):.0f} MiB at most in the first half, {max(used[half:]):.0f} in the second")
        assert set(statuses) <= {202, 503, 429}
        assert statuses[503] > 0, "that was no overload"
        assert max(used) < LIMIT_MIB * 0.8
        assert max(used[half:]) < GROWTH * max(used[:half]) + 16
        assert "MemoryError" not in at.relay.log()
        for user, ids in sent.items():
            assert set(ids) <= set(await everything(at, tokens[int(user[1:])])), user
        for ws in sockets:
            await ws.close()
        assert (await at.call("GET", "/readyz"))[0] == 200
        assert await at.relay.end(signal.SIGTERM) == 0
