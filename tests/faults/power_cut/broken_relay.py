"""`python -m power_cut.broken_relay sync:12 serve ...`: a relay whose disk fails at the twelfth sync, once (EIO)."""

import sys
from pathlib import Path

from relay.cli import main

from .disk import Disk
from .faults import Nth

if __name__ == "__main__":
    what, _, nth = sys.argv.pop(1).partition(":")
    disk = Disk(Path.cwd())
    disk.fails = Nth(what, int(nth))
    with disk.recording():
        main()
