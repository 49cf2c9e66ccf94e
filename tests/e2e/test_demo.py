"""The demo is the README's first command: it must end with 0, and it checks every step itself."""

import subprocess
import sys


def test_the_demo_runs_and_every_step_of_it_holds() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "relay", "demo"], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Nothing was lost, nothing came twice." in ran.stdout
