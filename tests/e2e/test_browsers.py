"""Pages of the app's own origins may call the device API and load the client; pages of others may not."""

import re
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from relay.app import Relay
from relay.clock import SystemClock
from relay.config import load
from relay.ids import system_rng
from relay.telemetry.metrics import Metrics

APP, FOREIGN = "https://app.example", "https://evil.example"
ALLOW = "Access-Control-Allow-Origin"
SDK = Path(__file__).parents[2] / "relay/web/sdk"


@pytest.fixture
async def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.chdir(tmp_path)
    settings = {
        "RELAY_SERVER__PORT": "0",
        "RELAY_SERVER__QUIET_S": "0",
        "RELAY_SERVER__ALLOWED_ORIGINS": f'["{APP}"]',
        "RELAY_STORE__URL": f"sqlite:///{tmp_path}/relay.db",
    }
    relay = Relay(load(None, settings), SystemClock(), system_rng(), Metrics())
    await relay.open()
    async with relay.running():
        yield f"http://127.0.0.1:{relay.port}"
    await relay.close()


async def asked(method: str, url: str, **headers: str) -> aiohttp.ClientResponse:
    async with aiohttp.ClientSession() as http, http.request(method, url, headers=headers) as answer:
        await answer.read()
        return answer


async def preflight(url: str, origin: str) -> aiohttp.ClientResponse:
    asks = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization,content-type"}
    return await asked("OPTIONS", url, Origin=origin, **asks)


async def test_a_page_of_the_app_is_told_that_it_may_call_what_is_a_devices(url: str) -> None:
    answer = await preflight(f"{url}/v1/device", APP)
    assert (answer.status, answer.headers[ALLOW]) == (204, APP)
    assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
    allowed = answer.headers["Access-Control-Allow-Headers"].lower()
    assert {"authorization", "content-type", "if-none-match"} <= set(allowed.split(", "))
    assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_every_header_that_our_client_sets_is_allowed(url: str) -> None:
    """A browser sends nothing at all with one that is not: a message that goes by POST would stay in the outbox."""
    sets = {
        name
        for file in SDK.glob("*.js")
        for name in re.findall(r'(?:"((?:[A-Z][a-z]+-)+[A-Z][a-z]+)"|\b(Authorization)): ', file.read_text())
    }
    names = {(quoted or bare).lower() for quoted, bare in sets}
    assert {"authorization", "content-type", "idempotency-key", "if-none-match"} <= names
    allowed = (await preflight(f"{url}/v1/device/messages", APP)).headers["Access-Control-Allow-Headers"].lower()
    assert names <= set(allowed.split(", "))


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/users/ann/devices/web", "/v1/deviceful", "/metrics"])
async def test_no_page_may_call_what_is_the_backends(url: str, path: str) -> None:
    for answer in (await preflight(url + path, APP), await asked("GET", url + path, Origin=APP)):
        assert ALLOW not in answer.headers
    assert (await preflight(url + path, APP)).status >= 400


@pytest.mark.parametrize("origin", [FOREIGN, "null", "https://app.example.evil.example", "HTTPS://APP.EXAMPLE", ""])
async def test_a_foreign_page_is_not_let_in(url: str, origin: str) -> None:
    answer = await preflight(f"{url}/v1/device", origin)
    assert answer.status >= 400
    assert ALLOW not in answer.headers
    assert ALLOW not in (await asked("GET", f"{url}/v1/device/sync", Origin=origin)).headers


async def test_the_apps_page_may_read_refusals_too_and_caches_keep_pages_apart(url: str) -> None:
    answer = await asked("GET", f"{url}/v1/device/sync", Origin=APP)
    assert (answer.status, answer.headers[ALLOW]) == (401, APP)
    assert "Origin" in answer.headers.getall("Vary")
    assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
    assert "Origin" in (await asked("GET", f"{url}/v1/device/sync")).headers.getall("Vary")


async def test_it_hands_out_the_client_as_it_is_in_the_package(url: str) -> None:
    for file in SDK.iterdir():
        answer = await asked("GET", f"{url}/sdk/{file.name}", Origin=APP)
        assert (answer.status, answer.content_length, answer.headers[ALLOW]) == (200, file.stat().st_size, APP)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        again = await asked("GET", f"{url}/sdk/{file.name}", **{"If-None-Match": answer.headers["ETag"]})
        assert again.status == 304
    index, worker = [await asked("GET", f"{url}/sdk/{name}") for name in ("index.js", "sw.js")]
    assert index.content_type == worker.content_type == "text/javascript"
    assert worker.headers["Service-Worker-Allowed"] == "/"
    assert (await asked("GET", f"{url}/sdk/secrets.js")).status == 404


def test_a_wheel_has_the_client_and_the_sample_page(tmp_path: Path) -> None:
    build = f"from hatchling.build import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=SDK.parents[2], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {str(file.relative_to(SDK.parents[2])) for file in SDK.parent.rglob("*") if file.is_file()}
    assert ours <= names
