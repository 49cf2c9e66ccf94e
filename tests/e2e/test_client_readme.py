"""The README's Python, word for word, against a real `relay serve`."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from relay_process import RelayProcess

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RelayProcess]:
    relay = RelayProcess(tmp_path, {"RELAY_SERVER__QUIET_S": "0"})
    await relay.start()
    yield relay
    await relay.aclose()


async def test_the_python_of_the_readme_runs_as_it_stands_and_again(relay: RelayProcess, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (snippet,) = [one for one in blocks if "relay.client" in one]
    script = tmp_path / "first_steps.py"
    script.write_text(snippet)
    for _ in range(2):
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            str(script),
            cwd=tmp_path,
            env=os.environ | {"R": relay.url, "KEY": relay.key},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            out, err = await child.communicate()
        assert (out.decode(), err.decode(), child.returncode) == ("Hello from Python\n", "", 0)
