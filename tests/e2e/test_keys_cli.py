"""`relay keys`, as an operator runs it, and what a running relay makes of it."""

import base64
import json
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from relay.app import Relay
from relay.cli import main
from relay.clock import SystemClock
from relay.config import load
from relay.credentials import parse_api_key
from relay.ids import system_rng
from relay.keys import KeyRing
from relay.telemetry.metrics import Metrics


class Shell:
    """An operator in the relay's folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env: dict[str, str | None] = {"COLUMNS": "300", "RELAY_KEYS": None}

    def run(self, *words: str) -> Result:
        """Runs `relay ...` in a thread, since it has a loop of its own."""
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(CliRunner().invoke, main, words, env=self.env).result(timeout=60)

    def keys(self, *words: str, fails: int = 0) -> str:
        """Runs `relay keys`, which ends with `fails`; gives what it printed, to say what is wrong if it fails."""
        ran = self.run("keys", *words)
        assert ran.exit_code == fails, (ran.output, ran.exception)
        return ran.stderr if fails else ran.stdout

    def rewrap(self, *words: str) -> str:
        """Runs `relay keys rewrap`; gives its report."""
        ran = self.run("keys", "rewrap", *words)
        assert ran.exit_code == 0, (ran.output, ran.exception)
        return ran.stderr

    def row(self, key: str) -> str:
        """The key's line in the list."""
        (found,) = [line for line in self.keys("list").splitlines() if id_of(key) in line]
        return found


def random_key() -> str:
    return base64.b64encode(system_rng().randbytes(32)).decode()


def id_of(key: str) -> str:
    found = parse_api_key(key.strip())
    assert found is not None
    return found[0]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    KeyRing.create(tmp_path / "relay.keys", system_rng())
    return Shell(tmp_path)


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, str | None]]:
    """A relay on this folder's store: its URL, and the key that a first start made."""
    relay = Relay(
        load(None, {"RELAY_SERVER__PORT": "0", "RELAY_SERVER__DRAIN_S": "0"}), SystemClock(), system_rng(), Metrics()
    )
    first = await relay.open()
    try:
        async with relay.running():
            yield f"http://127.0.0.1:{relay.port}", first.api_key
    finally:
        await relay.close()


async def call(url: str, key: str, method: str = "GET", path: str = "/v1/events", body: Any = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key.strip()}"}
    async with aiohttp.ClientSession() as http, http.request(method, url + path, json=body, headers=headers) as answer:
        text = await answer.read()
        return answer.status, json.loads(text) if text else None


# --- API keys ---------------------------------------------------------------------------------------------------------


async def test_both_keys_work_while_they_overlap_and_only_the_new_one_after_that(shell: Shell) -> None:
    old = shell.keys("create", "--name", "backend", "--scope", "events:read")
    new = shell.keys("rotate", id_of(old))
    async with serving() as (url, first):
        assert first is None  # there is a key: none is made up
        assert [(await call(url, key))[0] for key in (old, new)] == [200, 200]
        assert (await call(url, new, "POST", "/v1/messages", {}))[0] == 403  # it may what the old one may, no more
    shell.keys("revoke", id_of(old))
    async with serving() as (url, _):
        assert [(await call(url, key))[0] for key in (old, new)] == [401, 200]


def test_the_old_key_ends_a_day_later_unless_another_overlap_is_named(shell: Shell) -> None:
    key = shell.keys("create")
    assert re.search(r"works +│ \S+ +│ +│", shell.row(key))
    shell.keys("rotate", id_of(key))
    made, ends = re.findall(r"\d{4}-\d\d-\d\dT\d\d:\d\d", shell.row(key))
    assert made[:10] < ends[:10]
    other = shell.keys("create", "--name", "other")
    new = shell.keys("rotate", id_of(other), "--overlap", "0s")
    assert "ended" in shell.row(other)
    assert "works" in shell.row(new)


def test_at_most_two_keys_of_one_purpose_work(shell: Shell) -> None:
    old = shell.keys("create", "--name", "backend")
    new = shell.keys("rotate", id_of(old))
    for again in (("rotate", id_of(old)), ("rotate", id_of(new)), ("create", "--name", "backend")):
        said = shell.keys(*again, fails=1)
        assert id_of(old) in said
        assert "revoke one first" in said
    shell.keys("revoke", id_of(old))
    shell.keys("rotate", id_of(new))


def test_a_key_that_does_not_work_is_not_rotated(shell: Shell) -> None:
    key = shell.keys("create")
    shell.keys("revoke", id_of(key))
    assert "does not work any more" in shell.keys("rotate", id_of(key), fails=1)
    assert "no such key" in shell.keys("rotate", "aaaaaaaaaaaa", fails=1)


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        (("rotate", "aaaaaaaaaaaa", "--overlap", "8d"), "at most 7d"),
        (("rotate", "aaaaaaaaaaaa", "--overlap", "1 week"), "write it as"),
        (("create", "--expires-in", "-1d"), "write it as"),
        (("create", "--from", "203.0.113.0/33"), "203.0.113.0/24"),
        (("create", "--from", "example.org"), "203.0.113.0/24"),
        (("revoke-tokens", "--device", "phone"), "needs --user"),
    ],
)
def test_a_mistake_is_told_with_how_to_mend_it(shell: Shell, words: tuple[str, ...], mend: str) -> None:
    assert mend in shell.keys(*words, fails=2)


async def test_a_key_s_network_and_end_are_kept_and_listed(shell: Shell) -> None:
    near = shell.keys("create", "--name", "near", "--from", "127.0.0.1", "--expires-in", "90d")
    far = shell.keys("create", "--name", "far", "--from", "203.0.113.0/24")
    assert "203.0.113.0/24" in shell.row(far)
    rotated = shell.keys("rotate", id_of(far))
    assert "203.0.113.0/24" in shell.row(rotated)
    assert len(re.findall(r"\d{4}-\d\d-\d\dT", shell.row(near))) == 2
    async with serving() as (url, _):
        assert [(await call(url, key))[0] for key in (near, far, rotated)] == [200, 401, 401]


def test_where_there_is_no_store_yet_none_is_made(tmp_path: Path) -> None:
    """And the key file is not missed, as there was none."""
    shell = Shell(tmp_path)
    shell.env["RELAY_STORE__URL"] = f"sqlite:///{tmp_path}/empty.db"
    assert "empty.db: there is no store here yet; `relay serve` makes it" in shell.keys("create", fails=78)
    assert list(tmp_path.iterdir()) == []


def test_the_list_shows_no_secret(shell: Shell) -> None:
    key = shell.keys("create").strip()
    assert key[21:60] not in shell.keys("list")


def test_the_list_says_what_a_key_may_do_and_from_where(shell: Shell) -> None:
    assert shell.row(shell.keys("create")).split()[-2:] == ["all", "│"]
    scopes = ("--scope", "messages:write", "--scope", "events:read")
    few = shell.keys("create", *scopes, "--from", "203.0.113.0/24", "--from", "198.51.100.7")
    assert "│ 203.0.113.0/24, 198.51.100.7/32 │ events:read, messages:write │" in shell.row(few)


def test_the_ring_may_come_from_the_environment(shell: Shell) -> None:
    ring = shell.home / "relay.keys"
    shell.env["RELAY_KEYS"] = ring.read_text()
    ring.unlink()
    assert shell.keys("create").startswith("rk_live_")


# --- tokens and the ring ----------------------------------------------------------------------------------------------


async def register(url: str, key: str) -> str:
    """A device and a webhook endpoint, whose secrets the store has to keep; gives the device's token."""
    assert (await call(url, key, "PUT", "/v1/users/ann/devices/phone", {}))[0] == 201
    endpoint = {"url": "https://example.org/hook", "types": ["*"]}
    assert (await call(url, key, "POST", "/v1/webhooks", endpoint))[0] in {201, 422}
    status, body = await call(url, key, "POST", "/v1/users/ann/devices/phone/token")
    assert status == 201
    return str(body["token"])


async def test_all_tokens_can_be_revoked(shell: Shell) -> None:
    key = shell.keys("create")
    async with serving() as (url, _):
        token = await register(url, key)
        assert (await call(url, token, path="/v1/device/sync"))[0] == 200
    assert "Revoked: 0" in shell.keys("revoke-tokens", "--user", "bob")
    assert "Revoked: 1" in shell.keys("revoke-tokens")
    async with serving() as (url, _):
        assert (await call(url, token, path="/v1/device/sync"))[0] == 401


FCM = '[accounts.phones]\nprovider = "log"\n'


async def test_after_rewrapping_the_old_ring_key_seals_nothing_any_more(shell: Shell) -> None:
    (shell.home / "relay.toml").write_text(FCM)
    key = shell.keys("create")
    path, body = "/v1/users/ann/devices/phone", {"addresses": [{"account": "phones", "token": "abc"}]}
    async with serving() as (url, _):
        assert (await call(url, key, "PUT", path, body))[0] == 201
    ring = shell.home / "relay.keys"
    old = json.loads(ring.read_text())["keys"]
    new = {"id": 2, "key": random_key()}
    ring.write_text(json.dumps({"keys": [new, *old]}))
    said = shell.rewrap()
    assert "Data keys wrapped under ring key 2: 1" in said
    assert "Secrets sealed again: 0" in said  # the data key is what it was
    said = shell.rewrap("--new-data-keys")
    assert "Data keys wrapped under ring key 2: 0" in said
    assert "Secrets sealed again: 1" in said
    assert "Secrets sealed again: 0" in shell.rewrap()
    ring.write_text(json.dumps({"keys": [new]}))
    async with serving() as (url, first):
        assert first is None  # the store opens without the old ring key


async def test_a_ring_with_another_key_at_its_end_is_told_of_at_every_start(shell: Shell) -> None:
    """As when a new key is put there, and not first: the token of a phone that changes hands would not be recognised."""
    (shell.home / "relay.toml").write_text(FCM)
    key = shell.keys("create")
    path, body = "/v1/users/ann/devices/phone", {"addresses": [{"account": "phones", "token": "abc"}]}
    async with serving() as (url, _):
        assert (await call(url, key, "PUT", path, body))[0] == 201
    ring = shell.home / "relay.keys"
    old, new = json.loads(ring.read_text())["keys"], {"id": 2, "key": random_key()}
    for keys, told in (([new, *old], 0), ([*old, new], 1), ([new, *old], 0)):
        ring.write_text(json.dumps({"keys": keys}))
        with capture_logs() as lines:
            async with serving():
                pass
        assert len([one for one in lines if one["event"] == "keys.last_is_another"]) == told


async def test_one_phone_that_came_under_another_ring_does_not_speak_for_all(shell: Shell) -> None:
    """It stays as it is until it comes again; the ring was mended, and the others are found."""
    (shell.home / "relay.toml").write_text(FCM)
    key = shell.keys("create")
    ring = shell.home / "relay.keys"
    old, new = json.loads(ring.read_text())["keys"], {"id": 2, "key": random_key()}

    async def come(keys: list[dict[str, Any]], *users: str) -> bool:
        """They register in a run with these keys; gives whether its start was content with them."""
        ring.write_text(json.dumps({"keys": keys}))
        with capture_logs() as lines:
            async with serving() as (url, _):
                for user in users:
                    body = {"addresses": [{"account": "phones", "token": f"{user}'s"}]}
                    assert (await call(url, key, "PUT", f"/v1/users/{user}/devices/phone", body))[0] in {200, 201}
        return all(one["event"] != "keys.last_is_another" for one in lines)

    assert await come(old, "ann", "bob", "cid")
    assert not await come([*old, new], "ann")
    assert await come([new, *old], "bob", "cid")
    assert await come([new, *old])
    assert not await come([*old, new])


async def test_what_was_used_since_the_ring_has_a_new_key_needs_the_old_one_no_more(shell: Shell) -> None:
    """SEC-1, SEC-4, SEC-11: keys and tokens are kept as hashes under a key of the ring; a use moves them to the newest."""
    used, unused = shell.keys("create"), shell.keys("create", "--name", "unused")
    async with serving() as (url, _):
        assert (await call(url, used, "PUT", "/v1/users/ann/devices/phone", {}))[0] == 201
        _, minted = await call(url, used, "POST", "/v1/users/ann/devices/phone/token")
    ring = shell.home / "relay.keys"
    old, new = json.loads(ring.read_text())["keys"], {"id": 2, "key": random_key()}
    ring.write_text(json.dumps({"keys": [new, *old]}))
    shell.rewrap()
    async with serving() as (url, _):
        assert (await call(url, used))[0] == 200
        assert (await call(url, minted["token"], path="/v1/device/sync"))[0] == 200
    ring.write_text(json.dumps({"keys": [new]}))
    async with serving() as (url, _):
        assert (await call(url, used))[0] == 200
        assert (await call(url, minted["token"], path="/v1/device/sync"))[0] == 200
        assert (await call(url, unused))[0] == 401


async def test_a_ring_that_lost_its_key_ends_with_78_and_makes_up_no_other(shell: Shell) -> None:
    async with serving():
        pass
    strange = json.dumps({"keys": [{"id": 1, "key": random_key()}]})
    ring = shell.home / "relay.keys"
    ring.write_text(strange)
    assert "restore the key file" in shell.keys("rewrap", fails=78)
    served = shell.run("serve", "--port", "0")
    assert served.exit_code == 78
    assert "restore the key file" in served.stderr
    assert ring.read_text() == strange


async def test_a_key_that_came_in_a_url_is_to_be_rotated_and_its_successor_is_not(shell: Shell) -> None:
    key = shell.keys("create").strip()
    async with serving() as (url, _):
        assert (await call(url, key))[0] == 200
        assert (await call(url, key, path=f"/v1/events?key={key}"))[0] == 400
    assert "leaked: rotate it" in shell.row(key)
    successor = shell.keys("rotate", id_of(key)).strip()
    assert "works" in shell.row(successor)
    assert shell.keys("revoke", id_of(key)).strip() == "Revoked."
    assert "revoked" in shell.row(key)
