"""What an operator does about vendor accounts, on a relay that pushes to the sandbox: park and unpark, dead pushes, reload."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from relay_face import AT_ONCE, PUSHES_AT_ONCE, Face, running, served
from structlog.testing import capture_logs

from providers.sandbox import Sandbox
from relay.app import Relay
from relay.cli import main
from relay.clock import SystemClock
from relay.config import Settings, load
from relay.config.sources import found
from relay.errors import Unavailable
from relay.ids import system_rng
from relay.inbox.push_due import Later
from relay.push.situation import Wait
from relay.telemetry.metrics import Metrics

SOON_S = 15.0
CLOCK = SystemClock()


@dataclass
class Scene:
    """A relay with the account `fcm` in its configuration file, the sandbox behind it, and a client of both."""

    face: Face
    sandbox: Sandbox
    config: Path

    async def fault(self, fault: str, token: str) -> None:
        await self.control("faults", {"token": token, "fault": fault})

    async def control(self, path: str, order: Any = None) -> None:
        async with self.face.http.post(f"{self.sandbox.url}/_control/{path}", json=order) as answer:
            assert answer.status < 300

    async def phone(self, token: str, user: str = "ann", device: str = "phone", **more: Any) -> None:
        addresses = [{"account": "fcm", "token": token}]
        status, body, _ = await self.face.call(
            "PUT", f"/v1/users/{user}/devices/{device}", {"addresses": addresses, **more}
        )
        assert status in {200, 201}, body

    async def arrives(self, token: str, count: int = 1) -> bool:
        return await self.sandbox.phones.wait(token, count, timeout_s=SOON_S)

    async def get(self, path: str) -> Any:
        status, body, _ = await self.face.call("GET", path)
        assert status == 200, body
        return body

    async def account(self) -> Any:
        (one,) = (await self.get("/v1/push/accounts"))["accounts"]
        return one

    async def until(self, path: str, key: str, wanted: Any, *, rows: int = 1) -> Any:
        """Asks until there are so many rows, and the first one's `key` is so; gives that one."""
        async with asyncio.timeout(SOON_S):
            while True:
                found = next(iter((await self.get(path)).values()))
                if len(found) >= rows and found[0][key] == wanted:
                    return found[0]
                await CLOCK.sleep(0.05)


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.chdir(tmp_path)
    sandbox = Sandbox(
        now=lambda: CLOCK.now_ms() / 1000, rng=random.Random(1), state_dir=tmp_path / "sandbox", slow_s=0.05
    )
    await sandbox.start()
    config = tmp_path / "relay.toml"
    config.write_text(sandbox.account_toml("fcm"))
    relay = Relay(
        load(config, PUSHES_AT_ONCE),
        CLOCK,
        system_rng(),
        Metrics(),
        read_settings=lambda file: load(file, PUSHES_AT_ONCE),
        find_config=lambda: config,
    )
    async with running(relay) as face:
        yield Scene(face, sandbox, config)
    await sandbox.stop()


async def test_an_account_parks_with_the_vendor_s_word_and_goes_on_when_it_is_mended(scene: Scene) -> None:
    await scene.phone("t1")
    await scene.control("revoke")
    await scene.face.send(push={"title": "hi"})
    parked = await scene.until("/v1/push/accounts", "state", "parked")
    assert parked["code"]
    dead = await scene.until("/v1/push/dead?why=account_parked", "user", "ann")  # planned anew, and found to rest
    assert dead["device"] == "phone"
    told = await scene.until("/v1/events?types=account.parked", "type", "account.parked")
    assert (told["data"]["account"], told["data"]["code"]) == ("fcm", parked["code"])

    await scene.control("reset")
    status, body, _ = await scene.face.call("POST", "/v1/push/accounts/fcm/unpark")
    assert (status, body) == (200, {"released": 1})
    assert await scene.arrives("t1")
    assert (await scene.account())["state"] == "ready"
    assert (await scene.get("/v1/push/dead"))["pushes"] == []


async def test_the_log_says_whose_phone_a_push_was_for(scene: Scene) -> None:
    """Device ids are the user's own, so by itself `phone` may be anybody's. (Logs show hashes: tests/unit/test_telemetry.py.)"""
    await scene.phone("t1")
    with capture_logs() as lines:
        await scene.face.send(push={"title": "hi"})
        assert await scene.arrives("t1")
        async with asyncio.timeout(SOON_S):
            while not (settled := [one for one in lines if one["event"] == "push.settled"]):
                await CLOCK.sleep(0.05)
    assert [(one["user"], one["device"]) for one in settled] == [("ann", "phone")]


@pytest.mark.parametrize("retry_after", ["1", ""])
async def test_google_is_not_asked_again_within_ten_seconds_whatever_it_says(scene: Scene, retry_after: str) -> None:
    """It publishes that least wait for any retry; a busy server of its may name a shorter one, or none."""
    await scene.phone("t1")
    await scene.control("faults", {"token": "t1", "fault": "unavailableafter", "retry_after": retry_after, "times": 1})
    since_ms = CLOCK.now_ms()
    message = await scene.face.send(push={"title": "hi"})
    async with asyncio.timeout(SOON_S):
        while True:
            (recipient,) = (await scene.get(f"/v1/messages/{message}"))["recipients"]
            (device,) = recipient["devices"]
            if device["waiting"] is not None and device["waiting"]["reason"] == "backoff":
                break
            await CLOCK.sleep(0.05)
    until = datetime.fromisoformat(device["waiting"]["until"])
    assert until.timestamp() * 1000 - since_ms >= 10_000


async def test_new_credentials_are_taken_up_and_release_what_was_parked(scene: Scene) -> None:
    """By a changed file as by SIGHUP; the queue is not touched."""
    await scene.phone("t1")
    await scene.control("revoke")
    await scene.face.send(push={"title": "hi"})
    await scene.until("/v1/push/accounts", "state", "parked")
    await scene.control("reset")

    reloader = scene.face.relay.reloader
    assert await reloader.look() is None, "nothing has changed"
    scene.config.write_text(scene.sandbox.account_toml("fcm") + "concurrency = 7\n")
    done = await reloader.look()
    assert done is not None
    assert (done.changed, done.added, done.removed, done.waits) == (("fcm",), (), (), ())
    assert await scene.arrives("t1")
    account = scene.face.relay.accounts.get("default", "fcm")
    assert account is not None
    assert account.terms.concurrency == 7


async def test_a_file_that_an_account_names_is_watched_too(scene: Scene) -> None:
    before = scene.face.relay.accounts.get("default", "fcm")
    await scene.face.relay.reloader.look()
    (secret,) = (scene.config.parent / "sandbox").glob("*service-account.json")
    secret.write_bytes(secret.read_bytes() + b"\n")
    done = await scene.face.relay.reloader.look()
    assert done is not None
    assert done.changed == ("fcm",)
    assert scene.face.relay.accounts.get("default", "fcm") is not before


async def test_of_an_account_beside_one_with_new_credentials_nobody_has_a_turn_any_more(scene: Scene) -> None:
    """Whoever had one is due now, and would stand behind those turns."""
    home = '[accounts.home]\nprovider = "ntfy"\nbase_url = "https://ntfy.home"\n'
    scene.config.write_text(scene.sandbox.account_toml("fcm") + home)
    reloader, accounts = scene.face.relay.reloader, scene.face.relay.accounts
    assert await reloader.reload() is not None
    wait = Wait(at_ms=CLOCK.now_ms(), reason=Later.RATE)
    for _ in range(9):
        accounts.turn("default", "home", wait)
    scene.config.write_text(scene.sandbox.account_toml("fcm") + "concurrency = 7\n" + home)
    done = await reloader.look()
    assert done is not None
    assert done.changed == ("fcm",)
    assert accounts.turn("default", "home", wait) == wait.at_ms


class Away:
    """A store that cannot be written for a while."""

    async def write(self, work: Any) -> Any:
        raise Unavailable("The store is away.")


async def test_what_new_credentials_mend_while_the_store_is_away_goes_on_when_it_is_back(scene: Scene) -> None:
    await scene.phone("t1")
    await scene.control("revoke")
    await scene.face.send(push={"title": "hi"})
    await scene.until("/v1/push/dead?why=account_parked", "user", "ann")
    await scene.control("reset")
    reloader = scene.face.relay.reloader
    engine, reloader.engine = reloader.engine, Away()  # type: ignore[assignment]
    assert await reloader.reload() is not None
    assert await reloader.look() is None
    assert (await scene.account())["state"] == "parked"
    reloader.engine = engine
    assert await reloader.look() is None, "no file has changed"
    assert await scene.arrives("t1")


HOME = '[accounts.home]\nprovider = "ntfy"\nbase_url = "https://ntfy.home"\nca_file = "home.pem"\n'


def ends_in_five_days() -> bytes:
    """An authority, in PEM form."""
    key, now = generate_private_key(SECP256R1()), datetime.fromtimestamp(CLOCK.now_ms() / 1000, UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "home")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=5))
    return made.sign(key, SHA256()).public_bytes(Encoding.PEM)


async def test_a_new_credential_that_ends_soon_is_told_of_when_it_is_taken_up(scene: Scene) -> None:
    (scene.config.parent / "home.pem").write_bytes(ends_in_five_days())
    scene.config.write_text(scene.sandbox.account_toml("fcm") + HOME)
    assert await scene.face.relay.reloader.reload() is not None
    told = await scene.until("/v1/events?types=account.credential_expiring", "type", "account.credential_expiring")
    assert (told["data"]["account"], told["data"]["provider"], told["data"]["days"]) == ("home", "ntfy", 7)


async def test_one_that_ends_soon_is_told_of_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home.pem").write_bytes(ends_in_five_days())
    config = tmp_path / "relay.toml"
    config.write_text(HOME)
    async with served(config, CLOCK) as face:
        events: list[Any] = []
        async with asyncio.timeout(SOON_S):
            while not events:
                await CLOCK.sleep(0.05)
                _, body, _ = await face.call("GET", "/v1/events?types=account.credential_expiring")
                events = body["events"]
        assert [one["data"]["account"] for one in events] == ["home"]


async def test_a_mistake_in_the_file_changes_nothing(scene: Scene) -> None:
    before = scene.face.relay.accounts.get("default", "fcm")
    scene.config.write_text(scene.sandbox.account_toml("fcm") + 'colour = "blue"\n')
    assert await scene.face.relay.reloader.reload() is None
    assert scene.face.relay.accounts.get("default", "fcm") is before


async def test_a_configuration_that_is_gone_for_a_moment_takes_no_account_away(scene: Scene) -> None:
    """As an editor leaves it, or whoever copies a new one there. It was found in the folder: a relay needs none to start."""
    reloader = scene.face.relay.reloader
    reloader.read = lambda _: load(None, {})
    assert await reloader.reload() is not None
    aside = scene.config.rename(scene.config.with_suffix(".new"))
    assert await reloader.look() is None
    assert (await scene.account())["name"] == "fcm"
    aside.rename(scene.config)
    done = await reloader.look()
    assert done is not None
    assert (done.changed, done.added, done.removed) == ((), (), ()), "it is the one that is in force"
    scene.config.unlink()
    assert await reloader.reload() is None
    assert (await scene.account())["name"] == "fcm"


def _at_home(home: Path) -> Relay:
    """One that looks for its configuration where nothing names it."""
    environ = AT_ONCE | {"HOME": str(home)}
    return Relay(
        load(None, environ),
        CLOCK,
        system_rng(),
        Metrics(),
        read_settings=lambda file: load(file, environ),
        find_config=lambda: found(environ),
    )


async def test_a_configuration_that_is_made_while_the_relay_runs_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needed none to start; the first account is what one is made for."""
    monkeypatch.chdir(tmp_path)
    relay = _at_home(tmp_path)
    await relay.open()
    async with relay.running():
        assert await relay.reloader.look() is None
        Path("relay.toml").symlink_to("relay.toml")
        assert await relay.reloader.reload() is None, "it cannot be read, and is not waited for once it is gone"
        Path("relay.toml").unlink()
        assert await relay.reloader.reload() is not None
        Path("relay.toml").write_text('[accounts.first]\nprovider = "log"\n')
        done = await relay.reloader.look()
        assert done is not None
        assert done.added == ("first",)
        assert await relay.reloader.look() is None
        Path("relay.toml").unlink()
        assert await relay.reloader.look() is None, "from now on it is watched like one that was there at the start"
        assert relay.accounts.get("default", "first") is not None
    await relay.close()


async def test_a_reload_reads_the_file_that_is_watched_and_not_one_that_would_be_found_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every account would be gone in silence, at the next change of a credential."""
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / ".config" / "relay" / "relay.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text('[accounts.first]\nprovider = "log"\n')
    relay = _at_home(tmp_path)
    await relay.open()
    async with relay.running():
        assert await relay.reloader.reload() is not None
        Path("relay.toml").write_text("")
        done = await relay.reloader.reload()
        assert done is not None
        assert (done.changed, done.added, done.removed) == (("first",), (), ())
    await relay.close()


async def test_a_configuration_that_is_just_being_written_takes_no_account_away(scene: Scene) -> None:
    reloader = scene.face.relay.reloader
    await reloader.reload()
    before, whole = scene.face.relay.accounts.get("default", "fcm"), scene.config.read_text()
    scene.config.write_text("")
    assert await reloader.look() is None
    assert scene.face.relay.accounts.get("default", "fcm") is before
    scene.config.write_text(whole)
    done = await reloader.look()
    assert done is not None
    assert (done.changed, done.added, done.removed) == ((), (), ())
    assert scene.face.relay.accounts.get("default", "fcm") is before
    assert await reloader.look() is None, "nothing is left to be looked at"


async def test_a_key_that_changes_while_the_configuration_is_being_written_is_taken_up(scene: Scene) -> None:
    reloader = scene.face.relay.reloader
    await reloader.reload()
    whole = scene.config.read_text()
    scene.config.write_text("")
    assert await reloader.look() is None
    (key,) = (scene.config.parent / "sandbox").glob("*service-account.json")
    key.write_bytes(key.read_bytes() + b"\n")
    scene.config.write_text(whole)
    done = await reloader.look()
    assert done is not None
    assert done.changed == ("fcm",)


async def test_an_account_is_taken_away_once_two_looks_have_found_the_same(scene: Scene) -> None:
    reloader = scene.face.relay.reloader
    await reloader.reload()
    for text in ("", "# nothing yet\n"):
        scene.config.write_text(text)
        assert await reloader.look() is None
    done = await reloader.look()
    assert done is not None
    assert (done.changed, done.added, done.removed) == ((), (), ("fcm",))


async def test_an_account_that_lost_a_line_has_it_until_two_looks_have_found_the_same(scene: Scene) -> None:
    """As `privacy`, which says what its vendor may see."""
    whole = scene.config.read_text()
    scene.config.write_text(whole + "concurrency = 7\n")
    reloader = scene.face.relay.reloader
    await reloader.reload()
    before = scene.face.relay.accounts.get("default", "fcm")
    scene.config.write_text(whole)
    assert await reloader.look() is None
    assert scene.face.relay.accounts.get("default", "fcm") is before
    done = await reloader.look()
    assert done is not None
    assert done.changed == ("fcm",)


async def test_what_was_read_while_it_was_being_written_counts_at_the_next_look(scene: Scene) -> None:
    """Its last line was not there yet, and was by the time that anybody asked how long the file is."""
    whole = scene.config.read_text() + "concurrency = 7\n"
    scene.config.write_text(whole)
    reloader = scene.face.relay.reloader
    await reloader.reload()
    before, read = scene.face.relay.accounts.get("default", "fcm"), reloader.read

    def half(file: Path | None) -> Settings:
        scene.config.write_text(whole.removesuffix("concurrency = 7\n"))
        settings = read(file)
        scene.config.write_text(whole + "# the end\n")
        return settings

    scene.config.write_text("")
    reloader.read = half
    assert await reloader.look() is None
    assert scene.face.relay.accounts.get("default", "fcm") is before
    reloader.read = read
    done = await reloader.look()
    assert done is not None
    assert done.changed == ()
    assert await reloader.look() is None


async def test_a_key_that_comes_after_the_account_that_names_it_is_taken_up(scene: Scene) -> None:
    reloader = scene.face.relay.reloader
    await reloader.look()
    (key,) = (scene.config.parent / "sandbox").glob("*service-account.json")
    late = key.with_name("late.json")
    scene.config.write_text(scene.sandbox.account_toml("second").replace(key.name, late.name))
    assert await reloader.look() is None, "there is no such file"
    late.write_bytes(key.read_bytes())
    done = await reloader.look()
    assert done is not None
    assert (done.added, done.removed) == (("second",), ("fcm",))
    assert await reloader.look() is None, "a new account is made once, though its files were not known before"


async def test_a_key_that_changes_while_the_configuration_has_a_mistake_is_taken_up_with_its_mend(scene: Scene) -> None:
    reloader = scene.face.relay.reloader
    await reloader.reload()
    right = scene.config.read_text()
    scene.config.write_text(right + 'colour = "blue"\n')
    (key,) = (scene.config.parent / "sandbox").glob("*service-account.json")
    key.write_bytes(key.read_bytes() + b"\n")
    assert await reloader.look() is None
    scene.config.write_text(right)
    done = await reloader.look()
    assert done is not None
    assert done.changed == ("fcm",)


async def test_a_provider_that_cannot_be_made_changes_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in's own mistake at a reload ends neither the accounts that are there nor the relay."""
    before = scene.face.relay.accounts.all()

    def broken(*_: object, **__: object) -> None:
        raise ValueError

    with monkeypatch.context() as patch:
        patch.setattr(type(before[0].provider), "__init__", broken)
        assert await scene.face.relay.reloader.reload() is None
    assert scene.face.relay.accounts.all() == before
    assert await scene.face.relay.reloader.reload() is not None


async def test_a_reload_adds_and_removes_accounts_and_says_what_needs_a_restart(scene: Scene) -> None:
    scene.config.write_text('[log]\nlevel = "warning"\n' + scene.sandbox.account_toml("second"))
    done = await scene.face.relay.reloader.reload()
    assert done is not None
    assert (done.changed, done.added, done.removed, done.waits) == ((), ("second",), ("fcm",), ("log",))
    assert (await scene.account())["name"] == "second"


async def test_a_refused_push_is_listed_and_can_be_requeued(scene: Scene) -> None:
    await scene.phone("t1")
    await scene.fault("packagename", "t1")
    await scene.face.send(push={"title": "hi"})
    dead = await scene.until("/v1/push/dead", "why", "refused")
    assert (dead["account"], dead["verdict"], dead["from"], dead["to"]) == ("fcm", "refused", 1, 1)

    await scene.control("reset")
    status, body, _ = await scene.face.call("POST", "/v1/push/dead/requeue", {"user": "ann", "device": "phone"})
    assert (status, body) == (200, {"requeued": 1})
    assert await scene.arrives("t1")
    assert (await scene.get("/v1/push/dead"))["pushes"] == []
    status, body, _ = await scene.face.call("POST", "/v1/push/dead/requeue", {"user": "ann", "device": "phone"})
    assert (status, body["code"]) == (404, "not_found")


async def test_a_device_that_is_listed_for_another_reason_is_left_alone(scene: Scene) -> None:
    await scene.phone("t1")
    await scene.fault("packagename", "t1")
    await scene.face.send(push={"title": "hi"})
    await scene.until("/v1/push/dead", "why", "refused")
    ann = {"user": "ann", "device": "phone"}
    status, body, _ = await scene.face.call("POST", "/v1/push/dead/requeue", {**ann, "why": "no_address"})
    assert (status, body["code"]) == (404, "not_found")
    status, body, _ = await scene.face.call("POST", "/v1/push/dead/requeue", {**ann, "why": "refused"})
    assert (status, body) == (200, {"requeued": 1})


async def test_the_list_goes_on_page_by_page_and_all_of_one_reason_are_requeued_at_once(scene: Scene) -> None:
    for n in range(3):
        await scene.phone(f"unregistered-{n}", device=f"phone-{n}")
    await scene.face.send(push={"title": "hi"})
    await scene.until("/v1/push/dead?why=no_address", "why", "no_address", rows=3)
    seen, cursor = [], ""
    while cursor is not None:
        page = await scene.get(f"/v1/push/dead?limit=2{cursor and f'&cursor={cursor}'}")
        seen += [one["device"] for one in page["pushes"]]
        cursor = page["next"]
    assert seen == ["phone-0", "phone-1", "phone-2"]
    status, body, _ = await scene.face.call("POST", "/v1/push/dead/requeue", {"why": "no_address"})
    assert (status, body) == (200, {"requeued": 0}), "there is still no address"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "pointer"),
    [
        ("POST", "/v1/push/accounts/nobody/unpark", None, 404, "not_found", None),
        ("GET", "/v1/push/dead?cursor=nonsense", None, 400, "invalid_cursor", None),
        ("GET", "/v1/push/dead?why=weather", None, 422, "validation_failed", "?why"),
        ("POST", "/v1/push/dead/requeue", {"user": "ann"}, 422, "validation_failed", ""),
        ("POST", "/v1/push/dead/requeue", {"why": "weather"}, 422, "validation_failed", "/why"),
    ],
)
async def test_a_mistake_is_named(
    scene: Scene, method: str, path: str, body: Any, status: int, code: str, pointer: str | None
) -> None:
    found, problem, _ = await scene.face.call(method, path, body)
    assert (found, problem["code"]) == (status, code)
    assert next((one["pointer"] for one in problem.get("errors") or ()), None) == pointer


async def test_the_same_by_the_command_line(scene: Scene) -> None:
    await scene.phone("t1")
    await scene.fault("packagename", "t1")
    await scene.face.send(push={"title": "hi"})
    await scene.until("/v1/push/dead", "why", "refused")
    reached = ["--url", scene.face.url, "--key", scene.face.key]

    async def said(*words: str) -> tuple[int, str]:
        result = await asyncio.to_thread(CliRunner().invoke, main, ["push", *words, *reached])
        return result.exit_code, result.output

    status, text = await said("accounts")
    assert status == 0
    assert "fcm" in text
    assert "ready" in text
    status, text = await said("dead")
    assert status == 0
    assert "refused" in text
    assert "INVALID_ARGUMENT" in text, "what one may have to look up stands there whole"
    words = ["providers", "--config", str(scene.config), *reached]
    listed = await asyncio.to_thread(CliRunner().invoke, main, words)
    assert listed.exit_code == 0, listed.output
    assert re.search(r"fcm +│ push-relay .*4096 B .*28 d", listed.output)
    assert "liveactivity_production" in listed.output
    assert re.search(r"vivo .*collapse, channel +│", listed.output)
    assert re.search(r"fcm +│ fcm +│ ready", listed.output)
    await scene.control("reset")
    status, text = await said("requeue", "--user", "ann")
    assert status == 2
    assert "Give both --user and --device, or neither." in text
    status, text = await said("requeue", "--why", "refused")
    assert status == 0
    assert "1 pushes are due now." in text
    assert await scene.arrives("t1")
    status, text = await said("unpark", "fcm")
    assert status == 0
    assert "Unparked; 0 pushes are due again." in text
    status, text = await said("unpark", "nobody")
    assert status == 1
    assert "There is no such account; there are: " in text


async def test_a_mistake_that_concerns_some_devices_alone_is_told_and_shown(scene: Scene) -> None:
    """Firebase lacks the APNs key: no iPhone of the project is reached, and every Android phone is."""
    await scene.phone("iphone")
    await scene.phone("android", device="other")
    await scene.fault("thirdparty", "iphone")
    await scene.face.send(push={"title": "hi"})
    assert await scene.arrives("android")
    impaired = await scene.until("/v1/push/accounts", "state", "impaired")
    assert impaired["code"] == "THIRD_PARTY_AUTH_ERROR"
    told = await scene.until("/v1/events?types=account.impaired", "type", "account.impaired")
    assert (told["data"]["account"], told["data"]["code"]) == ("fcm", "THIRD_PARTY_AUTH_ERROR")
    async with scene.face.http.get(f"{scene.face.url}/metrics") as answer:
        assert 'relay_account_impaired{account="fcm"} 1.0' in await answer.text()

    await scene.face.send(push={"title": "again"})
    assert await scene.arrives("android", 2)
    assert (await scene.account())["state"] == "impaired", "that Android is reached mends nothing for the iPhone"
