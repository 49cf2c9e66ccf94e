"""Runs pytest in processes that are forked from one which has imported what the project needs, but nothing of the project."""

import os
import signal
import sys
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

LIBRARIES = [
    "aiohttp.web",
    "apscheduler.schedulers.asyncio",
    "cryptography.hazmat.primitives.ciphers.aead",
    "msgspec",
    "pydantic",
    "pydantic_settings",
    "pytest",
    "rich.progress",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.ext.asyncio",
    "structlog",
]
PLUGINS = ("pytest_asyncio.plugin", "_hypothesis_pytestplugin", "anyio.pytest_plugin", "xdist.plugin")
OPTIONS = ("-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-k", "not postgres")
TIMED_OUT = -1

_context = get_context("forkserver")
_context.set_forkserver_preload(LIBRARIES)


def run_pytest(project: Path, test: str, *, within_s: float) -> tuple[int, str]:
    """Runs a test of the project; gives pytest's exit code, and what it printed. -1: it took too long."""
    said = project.parent / "said"
    process: BaseProcess = _context.Process(target=_run, args=(project, test, said))
    process.start()
    process.join(within_s)
    if process.is_alive():
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGKILL)  # with whatever the test has started
        process.join()
        return TIMED_OUT, "it took too long"
    code = process.exitcode
    return (TIMED_OUT if code is None else code), said.read_text(errors="replace")


def _run(project: Path, test: str, said: Path) -> None:
    os.setsid()
    os.chdir(project)
    with said.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    for name in [name for name in sys.modules if name.split(".")[0] in {"relay", "providers", "tests"}]:
        del sys.modules[name]
    sys.path.insert(0, str(project))
    os.environ |= {
        "PYTHONPATH": str(project),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(said.with_name("hypothesis")),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    os._exit(_pytest([*OPTIONS, *(word for plugin in PLUGINS for word in ("-p", plugin)), test]))


def _pytest(args: list[str]) -> Any:
    import pytest

    code = pytest.main(args)
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code)
