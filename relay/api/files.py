"""File descriptors: the last 64 are not for connections (safety FLT-29).

A connection gets the lowest number that is free. If that is one of the last 64, all others are in use, and what is left is
for the store, for vendors and for webhooks: whoever comes then is told to come again, or, if many do, is not heard at all.
"""

import os
import resource
import sys
from typing import Final

RESERVE: Final = 64
UNHEARD: Final = 32  # of these, the ones that are not even for an answer
FILES: Final = "files"


def most() -> int:
    """How many descriptors connections and all else may have without the reserve."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else max(0, soft - RESERVE)


def used() -> int:
    """How many are in use; where that can't be told, 0."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 0
