"""Whichever write or sync fails, nothing that was promised is missing, and nothing hangs (safety CR-7, DUR-8, FLT-11).

A sample of the operations fails in a normal run; each single one: RELAY_EVERY=1.
"""

import asyncio
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from relay_process import RelayProcess

from relay.app import Relay
from relay.errors import ConfigError, Problem, StoreDamaged

from .disk import OK, Disk, Event, Sync, Truncate, Write
from .faults import Nth
from .images import Mode, Platter
from .load import USERS, Acked, Ledger, Load, Sent, epoch
from .node import Face, face_of, opened, relay_in
from .referee import verdict

RUNS = 8  # of each kind
EVERY = int(os.environ.get("RELAY_EVERY", "0"))
SENDS = 50
TEXT = "x" * 30_000  # enough of them for a checkpoint
HANG_S = 5
FULL_FOR = 3  # writes


@dataclass(frozen=True, slots=True)
class Template:
    """A store with devices, closed, and what was promised about it."""

    files: dict[str, bytes]
    ledger: Ledger

    def put(self, home: Path) -> Ledger:
        home.mkdir()
        for name, data in self.files.items():
            (home / name).touch(mode=0o600)
            (home / name).write_bytes(data)
        old = self.ledger
        return Ledger(key=old.key, epoch=old.epoch, ready_at=old.ready_at, tokens=dict(old.tokens))


NOTHING = Template({}, Ledger(ready_at=sys.maxsize))  # before the first start: nothing was promised yet


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    home, ledger = tmp_path_factory.mktemp("template"), Ledger()

    async def make() -> None:
        relay = relay_in(home)
        ledger.key = str((await relay.open()).api_key)
        async with face_of(relay, ledger.key) as face:
            await Load(face, relay, Disk(home), ledger, random.Random(1)).register()
        ledger.epoch = await relay.engine.read(lambda conn, _: epoch(conn))
        await relay.close()

    asyncio.run(make())
    return Template({one.name: one.read_bytes() for one in home.iterdir()}, ledger)


class Scenario:
    """A fixed list of requests, one after another, whatever they are answered."""

    def __init__(self, face: Face, relay: Relay, disk: Disk, ledger: Ledger) -> None:
        self._face, self._relay, self._disk, self._ledger = face, relay, disk, ledger
        self.codes: list[str] = []  # of the refusals, in order

    async def play(self) -> None:
        for number in range(SENDS):
            async with asyncio.timeout(HANG_S):
                await self.send(f"k{number}", USERS[number % len(USERS)])
                if number % 5 == 4:
                    await self._ack(USERS[number % len(USERS)])

    async def send(self, key: str, user: str) -> bool:
        body = {"to": {"users": [user]}, "body": {"key": key, "text": TEXT}}
        self._ledger.meant[key] = body
        status, answer = await self._face.send(key, body)
        if status == 202:
            self._ledger.promises.append(Sent(len(self._disk.events), key, answer["id"]))
            return True
        assert status == 503, answer
        self.codes.append(answer["code"])
        if answer["code"] != "commit_unknown":
            self._ledger.refused.add(key)
        self._relay.room.look()  # a relay does so every second
        return False

    async def _ack(self, user: str) -> None:
        bearer, cursors = self._ledger.tokens[user, "acker"], self._ledger.cursors
        hello = {"store": {"id": "s"}} | ({"cursors": {"inbox": cursors[user]}} if user in cursors else {})
        status, answer = await self._face.call("PUT", "/v1/device", hello, bearer=bearer)
        if status == 200:
            cursors.setdefault(user, answer["cursors"]["inbox"])
            path = f"/v1/device/sync?limit=20&cursor={cursors[user]}"
            status, answer = await self._face.call("GET", path, bearer=bearer)
        if status == 200:
            cursors[user] = answer["batches"][0]["cursor"]
            status, answer = await self._face.call("POST", "/v1/device/ack", {"cursor": cursors[user]}, bearer=bearer)
        if status == 200:
            self._ledger.promises.append(Acked(len(self._disk.events), user, answer["acked"]))
        else:
            assert status == 503, answer
            self.codes.append(answer["code"])

    async def ready(self) -> bool:
        return bool((await self._face.call("GET", "/readyz"))[0] == 200)


async def operations(template: Template, home: Path, what: str) -> int:
    """How often the scenario does something, if nothing fails."""
    ledger, disk = template.put(home), Disk(home)
    counts = Nth(what, 1_000_000)
    with disk.recording():
        async with opened(home, ledger.key) as (relay, face):
            disk.fails = counts
            await Scenario(face, relay, disk, ledger).play()
            disk.fails = lambda what, name: OK
    assert len(ledger.promises) == SENDS + SENDS // 5
    shutil.rmtree(home)
    return counts.count


def sample(count: int) -> range:
    return range(1, count + 1, EVERY or max(1, count // RUNS))


async def judged(template: Template, events: list[Event], ledger: Ledger, home: Path) -> list[str]:
    """What a restart finds: of the process alone, and of the machine after a power cut."""
    platter = Platter(template.files)
    for event in events:
        platter.tell(event)
    found = []
    for mode in (Mode.KEPT, Mode.LOST, Mode.TORN):
        folder = home.with_name(f"{home.name}-{mode}")
        complaints = await verdict(folder, platter.image(mode, random.Random(1)), ledger, len(events))
        found += [f"{mode}: {complaint}" for complaint in complaints]
        shutil.rmtree(folder)
    return found


def is_store(event: Event) -> bool:
    return (
        isinstance(event, Write | Sync | Truncate) and event.name.startswith("relay.db") and "witness" not in event.name
    )


@pytest.mark.parametrize("what", ["write", "sync"])
async def test_after_an_error_of_the_disk_nothing_is_taken_and_a_restart_finds_what_was(
    tmp_path: Path, template: Template, what: str
) -> None:
    failed = 0
    for nth in sample(await operations(template, tmp_path / "count", what)):
        home = tmp_path / str(nth)
        ledger, disk = template.put(home), Disk(home)
        fault = Nth(what, nth)
        with disk.recording():
            async with opened(home, ledger.key) as (relay, face):
                disk.fails = fault
                scenario = Scenario(face, relay, disk, ledger)
                await scenario.play()
                assert fault.hit
                assert set(scenario.codes) <= {"commit_unknown", "storage_failed"}, nth
                assert relay.engine.failed == bool(scenario.codes), nth  # a checkpoint may be repeated from the log
                assert await scenario.ready() != relay.engine.failed
                at = len(disk.events)
                if relay.engine.failed:
                    failed += 1
                    assert scenario.codes[1:] == ["storage_failed"] * (len(scenario.codes) - 1)
            if relay.engine.failed:
                assert not [event for event in disk.events[at:] if is_store(event)], "the failed handle was used again"
        assert not await judged(template, disk.events, ledger, home), nth
    assert failed >= RUNS // 2


async def test_a_disk_that_was_full_for_a_while_costs_refusals_and_nothing_else(
    tmp_path: Path, template: Template
) -> None:
    refused = 0
    for nth in sample(await operations(template, tmp_path / "count", "write")):
        home = tmp_path / str(nth)
        ledger, disk = template.put(home), Disk(home)
        with disk.recording():
            async with opened(home, ledger.key) as (relay, face):
                disk.fails = Nth("write", nth, full=True, times=FULL_FOR)
                scenario = Scenario(face, relay, disk, ledger)
                await scenario.play()
                assert set(scenario.codes) <= {"storage_full"}, nth
                refused += bool(scenario.codes)
                taken = [await scenario.send(f"late-{n}", "ann") for n in range(FULL_FOR)]
                assert taken[-1], nth  # it goes on by itself: at most two were refused, each for a write or more
                assert not relay.engine.failed
                assert await scenario.ready()
        assert not await judged(template, disk.events, ledger, home), nth
    assert refused >= RUNS // 2


async def started(before: Template, home: Path, fault: Nth) -> tuple[list[str], bool]:
    """A start, and a stop, on a disk that fails so: what is missing or wrong afterwards, and whether it ended in words."""
    ledger, disk = before.put(home), Disk(home)
    disk.fails, ended = fault, False
    with disk.recording():
        try:
            async with asyncio.timeout(HANG_S), opened(home, ledger.key):
                pass
        except (ConfigError, StoreDamaged, Problem):
            ended = True
    return await judged(before, disk.events, ledger, home), ended


@pytest.mark.parametrize(("first", "what"), [(True, "write"), (True, "sync"), (True, "open"), (False, "open")])
async def test_a_start_whose_disk_fails_says_so_and_the_next_one_works(
    tmp_path: Path, template: Template, first: bool, what: str
) -> None:
    """A start of a store that is there already writes nothing into it."""
    before, healthy, said = NOTHING if first else template, Nth(what, sys.maxsize), 0
    assert await started(before, tmp_path / "healthy", healthy) == ([], False)
    for nth in sample(healthy.count):
        fault = Nth(what, nth)
        complaints, ended = await started(before, tmp_path / str(nth), fault)
        assert not complaints, nth
        assert fault.hit, nth
        said += ended
    assert said >= RUNS // 2


class BrokenRelay(RelayProcess):
    program = ("-m", "power_cut.broken_relay", "sync:40")


async def test_a_relay_whose_disk_fails_ends_with_74_within_two_seconds(tmp_path: Path) -> None:
    path = os.pathsep.join((str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])))
    relay = BrokenRelay(tmp_path, {"PYTHONPATH": path})
    await relay.start()
    try:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay.url, relay.key)
            assert (await face.call("PUT", "/v1/users/ann/devices/phone", {}))[0] == 201
            sent = {}
            status, answer = 202, {}
            while status == 202:
                key = f"k{len(sent)}"
                status, answer = await face.send(key, {"to": {"users": ["ann"]}, "body": key})
                if status == 202:
                    sent[key] = answer["id"]
            began = time.perf_counter()
            assert (status, answer["code"]) == (503, "commit_unknown")
            assert await relay.ended() == 74
            assert time.perf_counter() - began < 2
            assert sent
            relay.program = RelayProcess.program
            await relay.start()
            for key, id_ in sent.items():
                status, answer = await face.send(key, {"to": {"users": ["ann"]}, "body": key})
                assert (status, answer["id"]) == (200, id_)
            assert await relay.end(signal.SIGTERM) == 0
    finally:
        await relay.aclose()
