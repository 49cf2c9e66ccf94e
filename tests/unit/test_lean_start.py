"""What a start does not load: it would cost every process the time and the memory, and nobody would notice why."""

import json
import subprocess
import sys

LOADED = (
    "import json, sys, relay.cli.serve; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
)


def test_a_start_loads_nothing_that_only_other_commands_and_settings_need() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, check=True, text=True, timeout=60)
    loaded = set(json.loads(done.stdout))
    assert {"structlog", "sqlalchemy", "aiohttp"} <= loaded, "else the test sees nothing"
    assert not {"alembic", "mako", "jwt", "rich", "pygments", "redis", "aio_pika", "h2", "opentelemetry"} & loaded
