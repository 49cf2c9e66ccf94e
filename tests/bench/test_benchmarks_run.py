"""The benchmark command runs and prints its table; what it measures is nobody's test."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def test_it_measures_beside_the_raw_limit_and_prints_a_table() -> None:
    asked = (
        "ingest",
        "drain",
        "heartbeats",
        "ultra",
        "single",
        "live",
        "polls",
    )  # the others are made of the same parts
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--scale", "0.002", *(word for name in asked for word in ("-o", name))],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={"COLUMNS": "200", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for word in (
        "ingest",
        "drained",
        "heartbeats",
        "ultra group",
        "POST /v1/messages",
        "accepted to received",
        "polls with nothing new",
        "raw sqlite3",
        "aiohttp",
    ):
        assert word in done.stdout, done.stdout
