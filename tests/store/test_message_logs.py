"""Message logs on both stores: a closed hour's file holds every accept and every event of its hour once (I44), in an order
that any node would give it, and its last line checks the rest."""

import gzip
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from beside import held
from house import House

from relay import message_logs
from relay.cli.logs import Wrong, check
from relay.errors import Conflict, Missing
from relay.inbox import fanout, send
from relay.message_logs import CLOSED_AFTER_MS, HOUR_MS, MessageLogs, hour_text, start_of
from relay.store.engine import Engine

KEEP_MS = 3 * 24 * HOUR_MS


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    clock.ms -= clock.ms % HOUR_MS
    house = await House(engine, clock).begin()
    await house.register("ann/phone")
    return house


@pytest.fixture
def logs(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MessageLogs:
    monkeypatch.setattr(message_logs, "CHUNK", 2)
    return MessageLogs(house.engine, house.clock, tmp_path / "logs", keep_ms=KEEP_MS)


async def listed(logs: MessageLogs) -> list[str]:
    return [one.name for one in await logs.hours("shop")]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


async def test_each_accept_stands_in_the_file_of_its_hour_and_in_no_other(house: House, logs: MessageLogs) -> None:
    hours: dict[str, list[str]] = {}
    for _ in range(3):
        for minutes in (0, 29, 30):
            house.clock.forward(s=minutes * 60 + 0.001 * (minutes == 29))
            hours.setdefault(hour_text(house.clock.now_ms()), []).append((await house.send()).message_id)
    house.clock.forward(ms=2 * HOUR_MS)
    for hour, sent in hours.items():
        *lines, last = read(await logs.log("shop", hour))
        assert [one["id"] for one in lines if one["kind"] == "message"] == sent
        trailer = last["trailer"]
        assert (trailer["messages"], trailer["hour"]) == (len(sent), hour)
        if sent:
            assert (trailer["first"], trailer["last"]) == (sent[0], sent[-1])


async def test_making_one_holds_up_nobody_who_is_served_meanwhile(
    house: House, logs: MessageLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes long, the disk and the text of many messages, is not the loop's thread's to do."""
    at_work: set[int] = set()
    fsync, line = os.fsync, message_logs._message_line
    monkeypatch.setattr(os, "fsync", lambda fd: (at_work.add(threading.get_ident()), fsync(fd))[1])
    monkeypatch.setattr(message_logs, "_message_line", lambda row: (at_work.add(threading.get_ident()), line(row))[1])
    hour = hour_text(house.clock.now_ms())
    await house.send()
    house.clock.forward(ms=2 * HOUR_MS)
    await logs.log("shop", hour)
    assert at_work
    assert threading.get_ident() not in at_work


async def test_what_happens_later_stands_in_the_hour_in_which_it_happened(house: House, logs: MessageLogs) -> None:
    sent_in = hour_text(house.clock.now_ms())
    sent = await house.send()
    house.clock.forward(ms=HOUR_MS)
    acked_in = hour_text(house.clock.now_ms())
    await house.hello("ann/phone")
    await house.catch_up("ann/phone")
    house.clock.forward(ms=2 * HOUR_MS)
    kinds = [one["kind"] for one in read(await logs.log("shop", sent_in))[:-1]]
    assert kinds == ["message"]
    (acked,) = [one for one in read(await logs.log("shop", acked_in))[:-1] if one["type"] == "delivery.acked"]
    assert acked["data"]["deliveries"][0]["message_id"] == sent.message_id


async def test_the_trailer_checks_the_rest_and_every_node_makes_the_same(
    house: House, logs: MessageLogs, tmp_path: Path
) -> None:
    """F99: the file of an hour is complete once it is given."""
    hour = hour_text(house.clock.now_ms())
    await house.sends(5)
    house.clock.forward(ms=2 * HOUR_MS)
    path = await logs.log("shop", hour)
    text = gzip.decompress(path.read_bytes())
    body = text[: text.rstrip().rindex(b"\n") + 1]
    assert check(path)["sha256"] == hashlib.sha256(body).hexdigest()
    elsewhere = MessageLogs(house.engine, house.clock, tmp_path / "other node", keep_ms=KEEP_MS)
    assert (await elsewhere.log("shop", hour)).read_bytes() == path.read_bytes()
    whole = path.read_bytes()
    for damaged in (whole[:-9], gzip.compress(text.replace(b"message", b"massage", 1)), b"", gzip.compress(body)):
        path.write_bytes(damaged)
        with pytest.raises(Wrong):
            check(path)


async def test_an_hour_is_closed_a_quarter_after_its_end(house: House, logs: MessageLogs) -> None:
    hour = hour_text(house.clock.now_ms())
    house.clock.forward(ms=HOUR_MS + CLOSED_AFTER_MS - 1)
    assert hour not in await listed(logs)
    with pytest.raises(Conflict):
        await logs.log("shop", hour)
    house.clock.forward(ms=1)
    assert (await listed(logs))[0] == hour
    assert len(read(await logs.log("shop", hour))) == 1


@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
async def test_f99_what_a_slow_transaction_has_accepted_is_in_the_file_of_its_hour(
    house: House, logs: MessageLogs
) -> None:
    """As long as one of the hour may be open, there is no file: for a quarter of an hour. It commits at the last moment."""
    hour = hour_text(house.clock.now_ms())
    async with held(house) as slow:
        (accepted,) = await slow.accept(house.message())
        house.clock.forward(ms=HOUR_MS + 15 * 60_000 - 1)
        with pytest.raises(Conflict):
            await logs.log("shop", hour)
        await slow.commit()
    house.clock.forward(ms=1)
    message, last = read(await logs.log("shop", hour))
    assert message["id"] == accepted.message_id
    assert (last["trailer"]["messages"], last["trailer"]["first"]) == (1, accepted.message_id)


async def test_logs_are_kept_for_their_time(house: House, logs: MessageLogs) -> None:
    hour = hour_text(house.clock.now_ms())
    house.clock.forward(ms=2 * HOUR_MS)
    path = await logs.log("shop", hour)
    house.clock.forward(ms=KEEP_MS - 2 * HOUR_MS)
    await logs.prune()
    assert path.exists()
    house.clock.forward(ms=HOUR_MS)
    await logs.prune()
    assert not path.exists()
    with pytest.raises(Missing):
        await logs.log("shop", hour)
    assert hour not in await listed(logs)


async def test_the_list_says_in_which_hours_there_was_nothing(house: House, logs: MessageLogs) -> None:
    start_ms = house.clock.now_ms()
    await house.send()
    house.clock.forward(ms=HOUR_MS - 1)
    await house.send()
    house.clock.forward(ms=2 * HOUR_MS + 1)
    await house.hello("ann/phone")
    await house.catch_up("ann/phone")  # an ack, which is an event
    house.clock.forward(ms=3 * HOUR_MS)
    full = [hour_text(start_ms + n * HOUR_MS) for n in (3, 0)]
    hours = await logs.hours("shop")
    assert len(hours) > 70
    assert [one.name for one in hours if not one.empty] == full
    assert all(one.empty for one in await logs.hours("another"))
    for one in hours[:8]:
        assert one.empty == (len(read(await logs.log("shop", one.name))) == 1)


async def test_what_was_made_while_the_clock_stood_ahead_is_made_anew_once_its_hour_is_over(
    house: House, logs: MessageLogs
) -> None:
    hour = hour_text(house.clock.now_ms())
    first = (await house.send()).message_id
    house.clock.forward(ms=3 * HOUR_MS)
    assert len(read(await logs.log("shop", hour))) == 2, "it seems to be over"
    house.clock.forward(ms=-3 * HOUR_MS)
    second = (await house.send()).message_id
    house.clock.forward(ms=HOUR_MS + CLOSED_AFTER_MS)
    assert [one["id"] for one in read(await logs.log("shop", hour))[:-1]] == [first, second]


async def test_it_is_gone_before_the_time_comes_at_which_it_seems_to_have_been_made(
    house: House, logs: MessageLogs
) -> None:
    hour = hour_text(house.clock.now_ms())
    first = (await house.send()).message_id
    house.clock.forward(ms=3 * HOUR_MS)
    await logs.log("shop", hour)
    house.clock.forward(ms=-3 * HOUR_MS)
    await logs.prune()
    second = (await house.send()).message_id
    house.clock.forward(ms=4 * HOUR_MS)
    assert [one["id"] for one in read(await logs.log("shop", hour))[:-1]] == [first, second]


async def test_a_file_is_made_once(house: House, logs: MessageLogs) -> None:
    hour = hour_text(house.clock.now_ms())
    house.clock.forward(ms=2 * HOUR_MS)
    made = (await logs.log("shop", hour)).stat()
    await logs.prune()
    assert (await logs.log("shop", hour)).stat().st_ino == made.st_ino


async def test_another_apps_log_is_another_file(house: House, logs: MessageLogs) -> None:
    hour = hour_text(house.clock.now_ms())
    await house.send()
    house.clock.forward(ms=2 * HOUR_MS)
    assert await logs.log("../shop", hour) != await logs.log("shop", hour)
    assert len(read(await logs.log("../shop", hour))) == 1


async def test_a_fan_out_that_still_goes_on_is_named(house: House, logs: MessageLogs) -> None:
    """F99: what the hour's file can't have yet."""
    hour = hour_text(house.clock.now_ms())
    sent = await house.send("ann", deliver_ms=house.clock.now_ms() + 1)
    house.clock.forward(ms=2 * HOUR_MS)
    assert read(await logs.log("shop", hour))[-1]["trailer"]["fanouts"] == [sent.job]


async def test_a_fan_out_that_has_begun_is_named_by_the_hour_in_which_it_was_accepted(
    house: House, logs: MessageLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (send, fanout):
        monkeypatch.setattr(module, "AT_ONCE_MAX", 2)
    hour = hour_text(house.clock.now_ms())
    sent = await house.send("ann", "bob", "cid", "dee", "eve")
    house.clock.forward(ms=2 * HOUR_MS)
    later = await house.send("ann", "bob", "cid")
    assert await house.inbox.fan_out()  # one part, now
    assert read(await logs.log("shop", hour))[-1]["trailer"]["fanouts"] == [sent.job]
    assert later.job is not None
    await house.fan_out()
    house.clock.forward(ms=2 * HOUR_MS)
    after = hour_text(house.clock.now_ms() - 2 * HOUR_MS)
    assert read(await logs.log("shop", after))[-1]["trailer"]["fanouts"] == []


@pytest.mark.parametrize("text", ["", "2026-05-03", "2026-05-03T24", "2026-5-3T9", "../x", "2026-05-03T09:00"])
def test_what_is_no_hour_is_none(text: str) -> None:
    assert start_of(text) is None
