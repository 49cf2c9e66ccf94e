"""The demo is the README's first command: it must end with 0, and it checks every step itself."""

import subprocess
import sys

from providers.sandbox import registry


def demo(*options: str) -> str:
    """What it prints, if it ends well."""
    command = [sys.executable, "-m", "relay", "demo", *options]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_demo_runs_and_every_step_of_it_holds() -> None:
    assert "Nothing was lost, nothing came twice." in demo()


def test_one_message_reaches_its_phone_by_every_vendor_and_through_every_kind_of_failure() -> None:
    said = demo("--vendors")
    assert "Every message reached its phone." in said
    assert all(name in said for name in registry.names())
