"""The example of a plug-in: its own tests pass, and its packaging names what is there."""

import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from providers import loading
from providers.sandbox.emulator import Emulator

EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "acme-push"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path / "acme-push", ignore=shutil.ignore_patterns(".*", "__pycache__")))


def test_its_own_tests_pass(copy: Path) -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(words, cwd=copy, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_its_entry_points_name_what_is_there(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(copy)
    project = tomllib.loads((copy / "pyproject.toml").read_text())
    groups = project["project"]["entry-points"]
    ((name, value),) = groups["relay.providers"].items()
    (loaded,) = loading.discover([EntryPoint(name=name, value=value, group="relay.providers")])
    assert (loaded.name, loaded.reason) == ("acme", None)
    ((name, value),) = groups["relay.emulators"].items()
    emulator = EntryPoint(name=name, value=value, group="relay.emulators").load()
    assert issubclass(emulator, Emulator)
    assert emulator.name == name == "acme"
    files = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["include"])
    assert files == {path.name for path in copy.glob("*.py")}, "a module that the wheel leaves out"
