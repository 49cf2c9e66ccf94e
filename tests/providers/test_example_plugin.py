"""The example of a plug-in: its own tests pass, and fail for what an author may get wrong."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "acme-push"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path / "acme-push", ignore=shutil.ignore_patterns(".*", "__pycache__")))


def own_tests(copy: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *words]
    return subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=120, check=False)


def test_its_own_tests_pass(copy: Path) -> None:
    done = own_tests(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize(
    ("was", "is_"),
    [
        ('name: ClassVar[str] = "acme"', 'name: ClassVar[str] = "acne"'),
        ("contract: ClassVar[int] = 1", "contract: ClassVar[int] = 2"),
    ],
)
def test_what_the_relay_would_not_load_fails_them(copy: Path, was: str, is_: str) -> None:
    """Else its author hears of it from an operator."""
    adapter = copy / "acme_push.py"
    text = adapter.read_text()
    assert was in text
    adapter.write_text(text.replace(was, is_))
    done = own_tests(copy, "-k", "installed")
    assert done.returncode == 1, done.stdout + done.stderr
