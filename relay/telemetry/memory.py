"""How much of the memory that there is for this process is in use."""

import os
from pathlib import Path

STATM = Path("/proc/self/statm")
# Of a container (cgroup v2, v1): what it may have, if anybody has said so.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_max(limits: tuple[Path, ...] = LIMITS) -> int:
    """Bytes: the machine's memory, or less where the process is in a container that may have less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in limits:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdecimal():  # else "max"
            return min(machine, int(text))
    return machine


def memory_used(statm: Path = STATM) -> int:
    """Bytes of this process that are in memory; 0 where the system does not say."""
    try:
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
