"""A real relay is backed up under load, killed and restored: nothing accepted before the backup is lost, nothing that
came after it stays away once its sender repeats it, and no device misses a number that is given twice
(safety BAK-6; protocol §4, F73, F74, F78 to F80)."""

import asyncio
import hashlib
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from load import ENVIRON, SENDERS, USERS, Client, client_of
from postgres_databases import admin, fresh, on
from relay_process import RelayProcess

from relay.ids import tag_of_id

SEED = int(os.environ.get("RELAY_SEED", "1"))


class Operator:
    """At the relay's command line."""

    def __init__(self, relay: RelayProcess) -> None:
        self.relay = relay

    async def spawn(self, *words: str, url: str | None = None) -> asyncio.subprocess.Process:
        store = {} if url is None else {"RELAY_STORE__URL": url}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "relay", *words),
            cwd=self.relay.home,
            env=os.environ | self.relay.environ | store,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def ends(self, *words: str, url: str | None = None) -> tuple[int, str]:
        """Runs `relay ...`; gives its exit code, and all that it said."""
        child = await self.spawn(*words, url=url)
        async with asyncio.timeout(60):
            out, err = await child.communicate()
        assert child.returncode is not None
        return child.returncode, (out + err).decode()

    async def does(self, *words: str, url: str | None = None) -> str:
        code, said = await self.ends(*words, url=url)
        assert code == 0, said
        return said

    def manifest(self, name: str) -> Any:
        return json.loads((self.relay.home / name / "manifest.json").read_text())


class Phone:
    """A device with its own store, which keeps a message once, whatever number it comes under (protocol §15)."""

    def __init__(self, client: Client, user: str, name: str = "phone") -> None:
        self.client, self.user, self.name = client, user, name
        self.cursor: str | None = None
        self.kept: dict[int, Any] = {}  # body by the tag of the message's id
        self.doubles = 0

    async def registered(self) -> "Phone":
        await self.client.device(self.user, self.name)
        await self.hello()
        return self

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, answer = await self.client.call(method, path, body, bearer=self.client._tokens[self.user, self.name])
        return status, answer

    async def hello(self) -> Any:
        """Gives what it was told, and goes on from the cursor it got."""
        cursors = {} if self.cursor is None else {"cursors": {"inbox": self.cursor}}
        status, welcome = await self.call("PUT", "/v1/device", {"store": {"id": f"{self.user}-{self.name}"}} | cursors)
        assert status == 200, welcome
        self.cursor = welcome["cursors"]["inbox"]
        return welcome

    async def page(self) -> tuple[int, Any]:
        return await self.call("GET", f"/v1/device/sync?limit=50&cursor={self.cursor}")

    async def catches_up(self) -> list[Any]:
        """Pages to the head, keeps what is new, acks; gives the bodies in the order they came."""
        bodies, caught_up = [], False
        while not caught_up:
            status, page = await self.page()
            assert status == 200, page
            (batch,) = page["batches"]
            for entry in batch["entries"]:
                bodies.append(entry["body"])
                tag = tag_of_id(entry["id"])
                self.doubles += tag in self.kept
                assert self.kept.setdefault(tag, entry["body"]) == entry["body"]
            self.cursor, caught_up = batch["cursor"], page["caught_up"]
            status, answer = await self.call("POST", "/v1/device/ack", {"cursor": self.cursor})
            assert status == 200, answer
        return bodies


async def sends(client: Client, user: str, numbers: range) -> list[str]:
    """A numbered message each, under a key of its own; their ids."""
    ids = []
    for number in numbers:
        status, answer = await client.send(f"{user}-{number}", {"to": {"users": [user]}, "body": number})
        assert status in {200, 202}, answer
        ids.append(answer["id"])
    return ids


async def told_by_store(client: Client) -> list[Any]:
    """The events about the store that the backend pulls."""
    async with asyncio.timeout(10):
        while True:
            status, answer = await client.call("GET", "/v1/events?limit=200")
            assert status == 200, answer
            found = [one for one in answer["events"] if one["type"].startswith("store.")]
            if found:
                return found
            await asyncio.sleep(0.05)  # noqa: TID251 - an event gets its number a moment after its commit


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RelayProcess]:
    relay = RelayProcess(tmp_path, ENVIRON)
    await relay.start()
    yield relay
    await relay.aclose()


@pytest.fixture
async def client(relay: RelayProcess, tmp_path: Path) -> AsyncIterator[Client]:
    async with client_of(relay, tmp_path) as client:
        yield client


async def restarted(relay: RelayProcess, source: str) -> None:
    """Killed, restored, and started again."""
    assert await relay.end(signal.SIGKILL) == -signal.SIGKILL
    await Operator(relay).does("restore", "--force", source)
    await relay.start()


async def test_the_drill_everything_accepted_before_the_backup_is_there_and_everybody_converges(
    relay: RelayProcess, client: Client
) -> None:
    operator, ledger = Operator(relay), client.ledger
    phones = [await Phone(client, user).registered() for user in USERS]
    for user in USERS:
        await client.hello(user)
    load = [asyncio.create_task(client.keep_acking(user)) for user in USERS]
    load += [asyncio.create_task(client.keep_sending(f"s{n}")) for n in range(SENDERS)]
    await ledger.warm.wait()

    before = ledger.read("accepted")
    await operator.does("backup", "saved")
    assert len(ledger.read("accepted")) > len(before), "nobody was answered while the backup was made"

    for phone in phones:  # they come to have more than the backup
        await phone.catches_up()
    assert await relay.end(signal.SIGKILL) == -signal.SIGKILL
    await asyncio.gather(*load)
    await operator.does("restore", "--force", "saved")
    await relay.start()

    stored = await client.stored()
    for key, answer in before.items():
        assert key in stored, f"lost: {key} {answer}"
        assert stored[key]["id"] == answer["id"]
    (told,) = await told_by_store(client)
    assert told["type"] == "store.restored"
    assert told["data"]["old_epoch"] == operator.manifest("saved")["epoch"]
    assert told["data"]["point_in_time"] == operator.manifest("saved")["at"]

    accepted, meant = ledger.read("accepted"), ledger.read("mean")
    for key, body in meant.items():  # the backend repeats, with the same keys
        status, answer = await client.send(key, body)
        assert status == (200 if key in stored else 202), answer
        if key in accepted:
            assert tag_of_id(answer["id"]) == tag_of_id(accepted[key]["id"])
    for phone in phones:
        assert (await phone.hello())["reason"] == "epoch"
        await phone.catches_up()
        wanted = {key for key, body in meant.items() if body["to"]["users"] == [phone.user]}
        assert sorted(body["key"] for body in phone.kept.values()) == sorted(wanted)
        assert phone.doubles > 0  # it was sent them again, and has them once


async def test_f73_f80_a_device_that_is_ahead_gets_what_its_numbers_were_given_to_again(
    relay: RelayProcess, client: Client
) -> None:
    phone = await Phone(client, "ann").registered()
    await sends(client, "ann", range(100))
    await phone.catches_up()
    await Operator(relay).does("backup", "saved")
    lost = await sends(client, "ann", range(100, 150))
    await phone.catches_up()
    await restarted(relay, "saved")
    await sends(client, "ann", range(1000, 1060))  # numbers 101 to 160: the phone has seen 101 to 150

    status, problem = await phone.page()
    assert (status, problem["code"]) == (409, "cursor_epoch_changed")
    assert problem["resync"]["reason"] == "epoch"

    welcome = await phone.hello()
    assert (welcome["verdict"], welcome["reason"]) == ("resync", "epoch")
    assert await phone.catches_up() == [*range(100), *range(1000, 1060)]
    assert phone.doubles == 100
    assert sorted(phone.kept.values()) == [*range(150), *range(1000, 1060)]

    # The senders of 100 to 149 repeat with their keys: the same messages, which the phone has.
    again = await sends(client, "ann", range(100, 150))
    assert list(map(tag_of_id, again)) == list(map(tag_of_id, lost))
    assert await phone.catches_up() == [*range(100, 150)]
    assert phone.doubles == 150
    assert (await phone.hello())["verdict"] == "resume"  # and from here on it is as ever


async def test_a_socket_with_a_cursor_of_the_old_epoch_is_told_to_begin_anew(
    relay: RelayProcess, client: Client
) -> None:
    phone = await Phone(client, "ann").registered()
    await Operator(relay).does("backup", "saved")
    await sends(client, "ann", range(5))
    await phone.catches_up()
    await restarted(relay, "saved")
    async with client._http.ws_connect(
        relay.url + "/v1/device/ws",
        headers={"Authorization": f"Bearer {client._tokens['ann', 'phone']}"},
        protocols=["relay.v1.json"],
    ) as ws:
        await ws.send_json(
            {"type": "hello", "ref": "1", "store": {"id": "ann-phone"}, "cursors": {"inbox": phone.cursor}}
        )
        async with asyncio.timeout(10):
            welcome = await ws.receive_json()
        assert (welcome["type"], welcome["verdict"], welcome["reason"]) == ("welcome", "resync", "epoch")


async def test_f74_a_database_that_was_put_back_by_hand_is_noticed_by_its_witness(
    relay: RelayProcess, client: Client
) -> None:
    phone = await Phone(client, "ann").registered()
    await sends(client, "ann", range(10))
    await phone.catches_up()
    assert await relay.end(signal.SIGTERM) == 0
    shutil.copy(relay.home / "relay.db", relay.home / "by-hand.db")
    await relay.start()
    await sends(client, "ann", range(10, 20))
    await phone.catches_up()
    assert await relay.end(signal.SIGKILL) == -signal.SIGKILL
    for part in ("-wal", "-shm"):
        (relay.home / f"relay.db{part}").unlink(missing_ok=True)
    shutil.copy(relay.home / "by-hand.db", relay.home / "relay.db")

    await relay.start()
    (told,) = await told_by_store(client)
    assert told["type"] == "store.rolled_back"
    await sends(client, "ann", range(100, 115))  # numbers 11 to 25: the phone has seen 11 to 20
    assert (await phone.hello())["reason"] == "epoch"
    assert await phone.catches_up() == [*range(10), *range(100, 115)]


async def test_a_copy_of_a_running_relays_file_is_no_backup(relay: RelayProcess, client: Client) -> None:
    await sends(client, "ann", range(10))
    (relay.home / "copied").mkdir()
    shutil.copy(relay.home / "relay.db", relay.home / "copied" / "store.db")  # without what is only in its log
    assert await relay.end(signal.SIGTERM) == 0
    code, said = await Operator(relay).ends("restore", "--force", "copied")
    assert code == 65
    assert "has no manifest.json, so it is no backup" in said
    await relay.start()
    assert len(await client.inbox("ann")) == 10


async def test_a_running_relay_is_not_restored_over(relay: RelayProcess, client: Client) -> None:
    await Operator(relay).does("backup", "saved")
    code, said = await Operator(relay).ends("restore", "--force", "saved")
    assert code == 75
    assert "stop it first" in said
    await sends(client, "ann", range(1))  # it is none the worse


async def test_f79_a_restore_that_is_killed_is_done_or_not_done(relay: RelayProcess, client: Client) -> None:
    operator, rng = Operator(relay), random.Random(SEED)
    await sends(client, "ann", range(10))
    await operator.does("backup", "saved")
    await sends(client, "ann", range(10, 20))
    assert await relay.end(signal.SIGKILL) == -signal.SIGKILL
    began = asyncio.get_running_loop().time()
    await operator.does("restore", "--force", "saved")
    took_s = asyncio.get_running_loop().time() - began
    for part in ("", "-wal"):  # back to what was there
        (relay.home / f"relay.db.replaced{part}").replace(relay.home / f"relay.db{part}")
    (relay.home / "relay.db.witness").unlink()

    for _ in range(4):
        child = await operator.spawn("restore", "--force", "saved")
        await asyncio.sleep(rng.uniform(0.7, 1) * took_s)  # noqa: TID251 - the moment of the kill is the test
        if child.returncode is None:
            child.kill()
        await child.communicate()
        await relay.start()
        try:
            bodies = [entry["body"] for entry in await client.inbox("ann")]
            assert bodies in ([*range(10)], [*range(20)])
            if bodies == [*range(10)]:
                assert {one["type"] for one in await told_by_store(client)} == {"store.restored"}
        finally:
            assert await relay.end(signal.SIGKILL) == -signal.SIGKILL


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


async def test_on_postgresql_the_server_makes_the_backup_and_the_relay_begins_a_new_epoch(
    tmp_path: Path, postgres_server: str
) -> None:
    async with fresh(postgres_server, "template1") as url:
        relay = RelayProcess(tmp_path, ENVIRON | {"RELAY_STORE__URL": url})
        await relay.start()
        original = urlsplit(url).path.strip("/")
        copy = f"{original}_copy"
        try:
            async with client_of(relay, tmp_path) as client:
                operator = Operator(relay)
                phone = await Phone(client, "ann").registered()
                await sends(client, "ann", range(10))
                await phone.catches_up()
                assert "--manifest-only" in (await operator.ends("backup", "saved"))[1]
                await operator.does("backup", "--manifest-only", "saved")
                assert operator.manifest("saved")["tables"]["message"] == 10
                assert await relay.end(signal.SIGTERM) == 0
                await admin(postgres_server, f'CREATE DATABASE "{copy}" TEMPLATE "{original}"')
                await relay.start()
                await sends(client, "ann", range(10, 20))
                await phone.catches_up()

                code, said = await operator.ends("restore", "saved")
                assert code == 75, said  # it is running
                assert await relay.end(signal.SIGKILL) == -signal.SIGKILL

                relay.environ["RELAY_STORE__URL"] = on(url, copy)  # what the server's tools brought back
                await admin(on(url, copy), "UPDATE node SET beat_ms = beat_ms - 60000")
                assert "new epoch" in await operator.does("restore", "saved")
                code, said = await operator.ends("restore", "saved")
                assert code == 65, said  # it is done
                await relay.start()
                (told,) = await told_by_store(client)
                assert told["type"] == "store.restored"
                await sends(client, "ann", range(100, 115))
                assert (await phone.hello())["reason"] == "epoch"
                assert await phone.catches_up() == [*range(10), *range(100, 115)]
        finally:
            await relay.aclose()
            await admin(postgres_server, f'DROP DATABASE IF EXISTS "{copy}" WITH (FORCE)')


@pytest.mark.parametrize("way", ["base backup", "dump"])
async def test_the_drill_of_the_handbook_with_postgresqls_own_tools(
    way: str, tmp_path: Path, own_postgres: Any
) -> None:
    """As config/docs/backup.md says it, word for word but for the archive of the log."""
    relay = RelayProcess(tmp_path, ENVIRON | {"RELAY_STORE__URL": own_postgres.url})
    await relay.start()
    try:
        async with client_of(relay, tmp_path) as client:
            operator = Operator(relay)
            phone = await Phone(client, "ann").registered()
            await sends(client, "ann", range(10))
            await phone.catches_up()
            await operator.does("backup", "--manifest-only", "saved")
            kept = own_postgres.data.with_name(f"{own_postgres.data.name}-kept")
            if way == "dump":
                words = ("--enable-row-security", "-Fc", "-f", str(kept), own_postgres.url)
                await asyncio.to_thread(own_postgres.run, "pg_dump", *words, PGOPTIONS="-c relay.apps=*")
            else:
                words = ("-D", str(kept), "-X", "stream", "-c", "fast", "--manifest-checksums=SHA256")
                await asyncio.to_thread(own_postgres.run, "pg_basebackup", "-d", own_postgres.admin_url, *words)
                assert is_whole(kept)
            lost = range(10, 20)
            await sends(client, "ann", lost)
            await phone.catches_up()
            assert await relay.end(signal.SIGKILL) == -signal.SIGKILL
            relay.environ["RELAY_STORE__URL"] = url = await brought_back(own_postgres, kept, way)
            await admin(url, "UPDATE node SET beat_ms = beat_ms - 60000")  # 15 s have passed
            assert "new epoch" in await operator.does("restore", "saved")
            await relay.start()
            (told,) = await told_by_store(client)
            assert told["type"] == "store.restored"
            await sends(client, "ann", lost)  # the backend repeats what it sent since then
            assert (await phone.hello())["reason"] == "epoch"
            assert await phone.catches_up() == [*range(10), *lost]
            assert await relay.end(signal.SIGTERM) == 0
    finally:
        await relay.aclose()


def is_whole(kept: Path) -> bool:
    """What `pg_verifybackup` looks at; that of the wheel, which the tests have PostgreSQL from, crashes."""
    files = json.loads((kept / "backup_manifest").read_text())["Files"]
    sums = {one["Path"]: one["Checksum"] for one in files if one["Checksum-Algorithm"] == "SHA256"}
    return len(sums) > 900 and all(
        hashlib.sha256((kept / path).read_bytes()).hexdigest() == wanted for path, wanted in sums.items()
    )


async def brought_back(server: Any, kept: Path, way: str) -> str:
    """The database as it was kept; where it is."""
    if way == "dump":
        await admin(server.url, "CREATE DATABASE again")
        url = on(server.url, "again")
        await asyncio.to_thread(server.run, "pg_restore", "-d", url, "--exit-on-error", str(kept))
        kept.unlink()
        return url
    await asyncio.to_thread(server.stop, "immediate")
    for one in server.data.iterdir():
        shutil.rmtree(one) if one.is_dir() and not one.is_symlink() else one.unlink()
    for one in kept.iterdir():
        if not one.name.startswith(".s.PGSQL"):  # this server has its socket, and the socket's lock, in its data
            one.rename(server.data / one.name)
    shutil.rmtree(kept)
    await asyncio.to_thread(server.start)
    return str(server.url)
