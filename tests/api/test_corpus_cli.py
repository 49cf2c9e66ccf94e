"""Safety 9.7, B118 to B120: what an operator may get wrong, at the command line; and clocks that are far off."""

import asyncio
import base64
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner
from running_relay import Face, running

from relay.cli import main
from relay.clock import SystemClock
from relay.errors import ConfigError

BAD_CONFIGURATIONS = {
    "B118-unknown-key": ("[server]\nprot = 8080\n", "[server] prot", "port"),
    "B118-unknown-section": ("[servr]\nport = 8080\n", "[servr]", "[server]"),
    "B118-negative-limit": ("[limits]\nbody_bytes = -1\n", "[limits] body_bytes", "from 1024 to 262144"),
    "B118-above-the-hard-cap": ("[limits]\nbatch_bytes = 4194305\n", "[limits] batch_bytes", "from 1024 to 4194304"),
    "B118-duplicate-key": ("[server]\nport = 1\nport = 2\n", "[server] port", "a second time, in line 3"),
    "B118-wrong-type": ('[server]\nport = "8080"\n', "[server] port", "must be a whole number"),
    "B118-not-toml": ("[server\n", "is not TOML", ""),
    "B118-not-utf-8": ("[server]\nhost = '\udcff'\n", "is not UTF-8", ""),
    "B118-account-of-no-provider": ('[accounts.x]\nprovider = "nope"\n', "[accounts.x] provider", "is not installed"),
    "B118-account-with-bad-settings": (
        '[accounts.x]\nprovider = "fcm"\nservice_account = "/nonexistent"\n',
        *("[accounts.x]", "service_account"),
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no settings of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith("RELAY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "case"),
    [
        pytest.param(command, case, id=f"{case}-{command}")
        for case in BAD_CONFIGURATIONS
        for command in ("serve", "check", "migrate")
        if command != "migrate" or "account" not in case  # to which accounts are nothing
    ],
)
def test_a_configuration_that_is_not_right(folder: Path, command: str, case: str) -> None:
    """Exit 78 (EX_CONFIG); the message names the key and what would be right; nothing was made."""
    text, name, hint = BAD_CONFIGURATIONS[case]
    (folder / "relay.toml").write_bytes(text.encode(errors="surrogateescape"))
    done = CliRunner().invoke(main, [command])
    assert done.exit_code == 78, done.output
    assert name in done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.output
    assert [one.name for one in folder.iterdir()] == ["relay.toml"]


@pytest.mark.parametrize("command", [["serve"], ["check"], ["keys", "list"], ["keys", "create"]])
def test_b118_a_file_that_is_not_there(folder: Path, command: list[str]) -> None:
    done = CliRunner().invoke(main, [*command, "--config", "nowhere.toml"])
    assert done.exit_code == 78
    assert "nowhere.toml" in done.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("RELAY_SERVER__HOST", "127.0.0.1\nX-Injected: 1", id="B118-line-break"),
        pytest.param("RELAY_SERVER__PORT", "80\n", id="B118-line-end"),
        pytest.param("RELAY_SERVER__PORT", "-1", id="B118-negative"),
        pytest.param("RELAY_SERVER__PORT", "\u0661", id="B118-digit-of-another-script"),
        pytest.param("RELAY_APP__TTL_S", "1e3", id="B118-float"),
        pytest.param("RELAY_SERVER__PROT", "1", id="B118-unknown"),
        pytest.param("RELAY_STORE__URL", "mysql://user:canary-55e1@host/db", id="B118-secret-is-not-shown"),
    ],
)
def test_an_environment_that_is_not_right(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    done = CliRunner().invoke(main, ["serve"])
    assert done.exit_code == 78
    assert name in done.stderr
    assert "canary-55e1" not in done.output
    assert "\nX-Injected" not in done.stderr
    assert list(folder.iterdir()) == []


EVERYTHING_WRONG = """
[server]
prot = 1
[push]
ack_wait_s = 1
[store]
url = "sqlite:////nowhere/relay.db"
[device_jwt]
issuer = "https://login.example"
keys = "none.json"
[accounts.none]
provider = "fmc"
[accounts.bare]
provider = "fcm"
batch = true
[accounts.unread]
provider = "fcm"
service_account_file = "nowhere.json"
analytics_label = "not at all"
challenge = true
bogus = 1
[accounts.odd]
provider = "http"
secrt = "hunter2"
[accounts.worse]
provider = "log"
concurrency = "many"
hours = "07:00-07:00"
"""


def test_b118_every_mistake_at_once_from_a_real_process(folder: Path) -> None:
    (folder / "relay.toml").write_text(EVERYTHING_WRONG)
    done = subprocess.run(
        [sys.executable, "-m", "relay", "serve"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 78
    assert done.stdout == ""
    for told in (
        "[server] prot: is not known; did you mean port?",
        "[push] ack_wait_s: found 1; must be a number from 2 to 60.",
        "[store] url: the folder /nowhere does not exist; make it, or name another.",
        f"[device_jwt] keys: {folder / 'none.json'} cannot be read",
        "[accounts.none] provider: found 'fmc', which is not installed; there are: apns, fcm,",
        "[accounts.bare] service_account: found nothing; must be given, or service_account_file.",
        "[accounts.bare] batch: fcm takes one device a call; leave it out.",
        "[accounts.unread] service_account_file: cannot be read (No such file or directory).",
        "[accounts.unread] challenge: goes only where devices bring their own hosts and their apps can be told",
        "[accounts.unread] analytics_label: must be 1 to 50 of",
        "[accounts.unread] bogus: is not known; there are:",
        "[accounts.odd] secrt: is not known; did you mean secret?",
        "[accounts.odd] url: found nothing; must be given.",
        "[accounts.worse] concurrency: found a value that is not shown; must be a whole number from 1 to 10000.",
        "[accounts.worse] hours: found a value that is not shown; must be when the vendor takes pushes, like",
    ):
        assert f"relay.toml: {told}" in done.stderr


def test_a_port_that_is_taken_is_said_so_and_the_first_key_is_not_lost(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(main, ["serve", "--port", str(port)])
    assert done.exit_code == 78, done.output
    assert f"can't listen on 127.0.0.1 at {port} (Address already in use)" in done.stderr
    assert "Traceback" not in done.output
    assert done.stdout.count("rk_live_") == 1


def test_b118_a_key_file_that_is_gone_is_never_made_anew(folder: Path) -> None:
    """A new one would void every token and cursor, and open no secret (SEC-11)."""
    with running(folder):
        pass
    (folder / "relay.keys").unlink()
    done = CliRunner().invoke(main, ["serve", "--port", "0"])
    assert done.exit_code == 78, done.output
    assert "relay.keys" in done.stderr
    assert not (folder / "relay.keys").exists()


def test_a_check_looks_at_the_keys_that_a_start_would_take(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "relay.keys (made at the first start" in CliRunner().invoke(main, ["check"]).stdout
    monkeypatch.setenv("RELAY_KEYS", "canary-71b0")
    done = CliRunner().invoke(main, ["check"])
    assert done.exit_code == 78, done.output
    assert "RELAY_KEYS: is not a key ring" in done.stderr
    assert "canary-71b0" not in done.output
    monkeypatch.setenv(
        "RELAY_KEYS", json.dumps({"keys": [{"id": 1, "key": base64.b64encode(bytes(range(32))).decode()}]})
    )
    done = CliRunner().invoke(main, ["check"])
    assert done.exit_code == 0, done.output
    assert "keys      RELAY_KEYS" in done.stdout


def test_what_a_command_makes_is_for_its_user_alone(folder: Path) -> None:
    """Messages are not sealed in the store; whoever else is on the machine has no business there."""
    before = os.umask(0o022)
    try:
        for command in ("migrate", "logs pull --to pulled --key x --url http://127.0.0.1:1"):
            CliRunner().invoke(main, command.split())
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    made = {one.name: one.stat().st_mode & 0o077 for one in folder.iterdir()}
    assert {"relay.db", "pulled"} <= made.keys()
    assert set(made.values()) == {0}, made


def test_what_a_backup_and_its_restoring_make_is_for_its_user_alone(folder: Path) -> None:
    with running(folder):
        pass
    before = os.umask(0o022)
    try:
        assert CliRunner().invoke(main, ["backup", "saved"]).exit_code == 0
        for one in folder.glob("relay.db*"):
            one.unlink()
        assert CliRunner().invoke(main, ["restore", "saved"]).exit_code == 0
    finally:
        os.umask(before)
    made = {one.name: one.stat().st_mode & 0o077 for one in folder.rglob("*")}
    assert {"manifest.json", "relay.db.witness"} <= made.keys()
    assert set(made.values()) == {0}, made


@pytest.mark.parametrize("command", [["keys", "create"], ["keys", "list"], ["serve", "--port", "0"], ["migrate"]])
def test_b119_a_store_that_a_running_relay_owns(folder: Path, command: list[str]) -> None:
    """Refused, and nothing changed: one process owns the file. Backup and restore: tests/store/test_backup.py."""
    with running(folder):
        environ = {"RELAY_STORE__URL": "sqlite:///relay.db", "RELAY_KEYS__FILE": "relay.keys"}
        done = CliRunner(env=environ).invoke(main, command)
        assert done.exit_code == 78, done.output
        assert "relay.db" in done.stderr
        assert "rk_" not in done.output


# --- clocks -----------------------------------------------------------------------------------------------------------


class Elsewhen(SystemClock):
    """Goes as it should, but from another time."""

    def __init__(self, now_ms: int) -> None:
        self._ahead_ms = now_ms - SystemClock().now_ms()

    def now_ms(self) -> int:
        return SystemClock().now_ms() + self._ahead_ms


@pytest.mark.parametrize(
    ("now_ms", "year"),
    [
        pytest.param(0, "1970", id="B120-1970"),
        pytest.param(2_147_483_647_000, "2038", id="B120-2038-01-19T03:14:07Z"),
        pytest.param(4_294_967_295_000, "2106", id="B120-2106"),
        pytest.param(253_300_000_000_000, "9996", id="B120-9996"),
    ],
)
async def test_a_clock_that_is_far_off(folder: Path, now_ms: int, year: str) -> None:
    """It starts, takes messages, hands them out and is acked; no arithmetic fails."""
    with running(folder, clock=Elsewhen(now_ms)) as relay:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay, "ann")
            face.token = await face.device()
            answer = await face.send(ttl_s=28 * 86_400, push={"title": "x"})
            assert answer.status == 202, answer.text
            assert re.match(rf"{year}-", answer.json["accepted_at"])
            (entry,) = await face.inbox()
            hello = {"store": {"id": "s"}}
            assert (await face.call("PUT", "/v1/device", hello, token=face.token)).status == 200
            acked = await face.call("POST", "/v1/device/ack", {"ids": [entry["id"]]}, token=face.token)
            assert acked.json["results"] == {entry["id"]: "acked"}
            async with asyncio.timeout(20):
                while entry["id"] not in (await face.call("GET", "/v1/events?types=delivery.acked")).text:
                    await face.sync(wait=1)
            assert await face.still_serves()


@pytest.mark.parametrize(
    "now_ms",
    [
        pytest.param(253_370_764_800_000, id="B120-9999"),
        pytest.param(253_402_300_799_999, id="B120-the-last-moment-of-9999"),
        pytest.param(2**63 - 1, id="B120-64-bits"),
    ],
)
def test_a_clock_of_which_nothing_can_end_is_refused(folder: Path, now_ms: int) -> None:
    """What is made in 9999 ends in a year that no time in the API can say."""
    with pytest.raises(ConfigError, match="clock"), running(folder, clock=Elsewhen(now_ms)):
        pass
    assert list(folder.iterdir()) == []
