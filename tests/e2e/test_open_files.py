"""How many open files `relay serve` may have: each device that is connected takes one."""

import resource
from pathlib import Path

from relay_process import RelayProcess


async def test_it_takes_as_many_as_the_system_lets_it_and_not_the_thousand_that_most_begin_with(tmp_path: Path) -> None:
    relay = RelayProcess(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))  # a child has what its parent has
    try:
        await relay.start()
        assert relay.child is not None
        now, _ = resource.prlimit(relay.child.pid, resource.RLIMIT_NOFILE)
        assert now == min(hard, 2**20)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await relay.aclose()
