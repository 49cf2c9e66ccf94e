"""`python -m tests.gates.timing`: whether the time of a refusal tells why it was refused (safety SEC-3, SEC-5).

Bad credentials of every sort, and ids of another app beside ids that nobody has, are sent to a relay in turn, each from an
address of its own, so that no limit interferes. The medians of a group must lie within a millisecond. It is a measurement,
not a test: on a machine that is busy elsewhere, take more samples.
"""

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from relay import credentials as creds
from relay import keys
from relay.api.issuing import Issuer
from relay.api.principal import SCOPES
from relay.clock import SystemClock
from relay.ids import system_rng
from relay.store import apps
from relay.store.sqlite import SqliteEngine
from tests.bench.processes import serving

WITHIN_MS = 1.0
OTHER = "other"
BEHIND_PROXY = {"RELAY_SERVER__TRUSTED_PROXIES": '["127.0.0.1"]'}
NOBODYS_ID = "01900000-0000-7000-8000-000000000000"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is refused, one of a group that must look alike."""

    group: str
    name: str
    path: str
    bearer: str
    status: int


async def credentials(home: Path) -> dict[str, str]:
    """Keys that are no good any more, made beside the relay; and a good one of another app."""
    clock, rng = SystemClock(), system_rng()
    engine = SqliteEngine(home / "relay.db", clock)
    issuer = Issuer(engine, keys.KeyRing.load(home / "relay.keys", rng), rng)
    await engine.write(lambda conn, now_ms: apps.create_app(conn, now_ms, app_id=OTHER, id_secret=bytes(32)))
    made = {
        "revoked": await issuer.api_key("default", name="revoked", scopes=SCOPES),
        "expired": await issuer.api_key("default", name="expired", scopes=SCOPES, lives_ms=1),
        "other": await issuer.api_key(OTHER, name="other", scopes=SCOPES),
    }
    parsed = creds.parse_api_key(made["revoked"])
    assert parsed is not None
    await engine.write(lambda conn, now_ms: apps.revoke_api_key(conn, now_ms, app_id="default", key_id=parsed[0]))
    await engine.close()
    return made


def wrong_secret(good: str) -> str:
    """A key with this one's id and another secret, well formed."""
    parsed = creds.parse_api_key(good)
    assert parsed is not None
    text, key_id, _ = creds.mint_api_key(system_rng())
    body = text.replace(key_id, parsed[0]).rpartition("_")[0]
    return f"{body}_{creds.checksum(body)}"


async def measured(samples: int) -> dict[Asked, list[float]]:
    with tempfile.TemporaryDirectory(prefix="relay-timing-") as folder:
        home = Path(folder)
        async with serving(home, "relay", "serve") as first:
            good = first.key
        made = await credentials(home)
        async with serving(home, "relay", "serve", environ=BEHIND_PROXY) as relay, aiohttp.ClientSession() as http:
            theirs = await _message(http, relay.url, made["other"])
            stranger, _, _ = creds.mint_api_key(system_rng())
            asked = [
                Asked("credential", "unknown id", "/v1/messages", stranger, 401),
                Asked("credential", "wrong secret", "/v1/messages", wrong_secret(good), 401),
                Asked("credential", "revoked", "/v1/messages", made["revoked"], 401),
                Asked("credential", "expired", "/v1/messages", made["expired"], 401),
                Asked("message", "nobody's id", f"/v1/messages/{NOBODYS_ID}", good, 404),
                Asked("message", "another app's id", f"/v1/messages/{theirs}", good, 404),
            ]
            times: dict[Asked, list[float]] = {one: [] for one in asked}
            address = iter(range(1 << 24))
            for _ in track(range(samples), console=Console(stderr=True), description="samples"):
                for one in random.sample(asked, len(asked)):
                    times[one].append(await _refused(http, relay.url, one, next(address)))
            return times


async def _message(http: aiohttp.ClientSession, url: str, key: str) -> str:
    headers = {"Authorization": f"Bearer {key}"}
    async with http.post(f"{url}/v1/messages", json={"to": {"users": ["ann"]}, "body": 1}, headers=headers) as answer:
        said = await answer.json()
        assert answer.status == 202, said
        return str(said["id"])


async def _refused(http: aiohttp.ClientSession, url: str, asked: Asked, address: int) -> float:
    octets = ".".join(str(address >> shift & 255) for shift in (16, 8, 0))
    headers = {"Authorization": f"Bearer {asked.bearer}", "X-Forwarded-For": f"10.{octets}"}
    began = time.perf_counter()
    async with http.get(url + asked.path, headers=headers) as answer:
        await answer.read()
        assert answer.status == asked.status, (asked, answer.status)
    return time.perf_counter() - began


def spread_ms(times: Mapping[Asked, list[float]], group: str) -> float:
    medians = [statistics.median(found) for one, found in times.items() if one.group == group]
    return (max(medians) - min(medians)) * 1000


@click.command()
@click.option("--samples", default=2000, show_default=True, help="Of each sort.")
def main(samples: int) -> None:
    """Measures, prints, and ends with 1 if the medians of a group are further apart than a millisecond."""
    times = asyncio.run(measured(samples))
    table = Table("refused", "median ms", "90 of 100 ms")
    for one, found in times.items():
        quantiles = statistics.quantiles(found, n=10)
        table.add_row(one.name, f"{statistics.median(found) * 1000:.3f}", f"{quantiles[8] * 1000:.3f}")
    console = Console()
    console.print(table)
    groups = list(dict.fromkeys(one.group for one in times))
    for group in groups:
        console.print(f"{group}: medians within {spread_ms(times, group):.3f} ms")
    sys.exit(any(spread_ms(times, group) > WITHIN_MS for group in groups))


if __name__ == "__main__":
    main()
