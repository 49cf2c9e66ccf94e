"""What a device could not read: it waits for another version of the app, is tried again there, and fails after three."""

import json
from collections import Counter
from typing import Any

import pytest
from house import House, sending
from msgspec.structs import replace

from relay.inbox.ack import AckRequest, Nack
from relay.inbox.handshake import Hello
from relay.inbox.registry import Registration
from relay.inbox.send import Send
from relay.inbox.service import InboxService
from relay.model import DeviceKey
from relay.store.engine import Engine

ENDS = {"delivery.acked", "delivery.failed", "delivery.cancelled"}
PHONE = DeviceKey("shop", "ann", "phone")
ID = "01900000-0000-7000-8000-000000000001"


def message(id_: str, **more: Any) -> Send:
    return sending(0, message_id=id_, nonce=id_, ttl_s=86_400, **more)


class App:
    """The app on ann's phone, which can't decode the message."""

    def __init__(self, inbox: InboxService) -> None:
        self.inbox = inbox
        self.cursor: str | None = None

    async def start(self, version: str, *, schema: int | None = None) -> None:
        said = Hello(device=PHONE, node_id="n1", store_id="s", app_version=version, schema=schema, cursor=self.cursor)
        self.cursor = (await self.inbox.hello(said)).cursor

    async def catch_up(self, *, refuses: str | None = None, said_by: str | None = None, times: int = 1) -> list[str]:
        """Reads to the end and acks; `refuses` is the code for what it can't read. Gives the ids that came."""
        assert self.cursor is not None
        reading = await self.inbox.reader.read(PHONE, self.inbox.reader.unseal(self.cursor, PHONE), limit=100)
        assert reading.batch is not None
        ids = [entry["id"] for entry in json.loads(reading.batch.json)["entries"]]
        self.cursor = reading.batch.cursor
        nacks = tuple(Nack(id_, refuses, said_by) for id_ in ids) if refuses is not None else ()
        for _ in range(times):
            await self.inbox.ack(
                AckRequest(device=PHONE, cursor=self.inbox.reader.unseal(self.cursor, PHONE), nacks=nacks)
            )
        return ids

    async def ends(self) -> Counter[str]:
        rows = await self.inbox.engine.read(lambda conn, _: conn.exec_driver_sql("SELECT type FROM event").all())
        return Counter(type_ for (type_,) in rows if type_ in ENDS)


@pytest.fixture
async def app(engine: Engine, clock: Any) -> App:
    inbox = (await House(engine, clock).begin()).inbox
    await inbox.register(Registration(device=PHONE))
    await inbox.accept(message(ID))
    return App(inbox)


@pytest.mark.parametrize("code", ["undecodable", "unknown_type"])
async def test_it_does_not_come_again_to_the_version_that_refused_it(app: App, code: str) -> None:
    await app.start("5.4.0")
    assert await app.catch_up(refuses=code) == [ID]

    for _ in range(5):
        await app.start("5.4.0")
        assert await app.catch_up() == []

    assert await app.ends() == {}


@pytest.mark.parametrize("code", ["undecodable", "unknown_type"])
async def test_the_next_version_gets_it_again_and_acks_it(app: App, code: str) -> None:
    """F55: refused as unknown or undecodable, passed, and released to the version that can read it."""
    await app.start("5.4.0")
    await app.catch_up(refuses=code)
    await app.start("5.4.1")

    assert await app.catch_up() == [ID]

    assert await app.ends() == {"delivery.acked": 1}


async def test_three_versions_that_can_not_decode_it_are_its_end_however_often_each_says_so(app: App) -> None:
    """F56: each version has one try, and the third failure is reported."""
    for version in ("5.4.0", "5.4.1"):
        await app.start(version)
        assert await app.catch_up(refuses="undecodable", times=4) == [ID]
        assert await app.ends() == {}
    await app.start("5.4.2")
    assert await app.catch_up(refuses="undecodable") == [ID]
    assert await app.ends() == {"delivery.failed": 1}

    await app.start("5.4.3")

    assert await app.catch_up() == []


async def test_what_was_refused_counts_as_acked_when_it_was_read_after_a_new_start(app: App) -> None:
    await app.start("5.4.0")
    await app.catch_up(refuses="undecodable")
    app.cursor = None  # the store is gone, and the version is a new one

    await app.start("5.4.1")

    assert await app.catch_up() == [ID]
    assert await app.ends() == {"delivery.acked": 1}


async def test_what_replaces_a_message_also_replaces_its_release(app: App) -> None:
    first = "01900000-0000-7000-8000-000000000002"
    await app.inbox.accept(message(first, collapse_key="weather"))
    await app.start("5.4.0")
    await app.catch_up(refuses="undecodable")
    await app.start("5.4.1")  # both are released
    newer = "01900000-0000-7000-8000-000000000003"

    await app.inbox.accept(message(newer, collapse_key="weather"))

    assert await app.catch_up() == [ID, newer]


async def test_a_message_that_was_acked_has_no_second_end_when_its_store_is_lost_and_the_version_set_back(
    app: App,
) -> None:
    demanding = "01900000-0000-7000-8000-000000000002"
    await app.inbox.accept(message(demanding, min_schema=7))
    await app.start("5.4.0", schema=7)
    assert await app.catch_up() == [ID, demanding]
    app.cursor = None
    await app.start("5.3.0", schema=6)
    assert await app.catch_up() == [ID]

    await app.inbox.cancel("shop", demanding)

    assert await app.ends() == {"delivery.acked": 1}  # one event, for both


@pytest.mark.parametrize("code", ["undecodable", "unknown_type"])
async def test_what_an_extension_refused_beside_the_cursor_is_acked_by_the_next_version_that_reads_it(
    app: App, code: str
) -> None:
    """F57: its refusal moves nothing, and ends nothing."""
    await app.start("5.4.0")
    await app.inbox.ack(AckRequest(device=PHONE, nacks=(Nack(ID, code),)))
    await app.start("5.4.1")

    assert await app.catch_up() == [ID]

    assert await app.ends() == {"delivery.acked": 1}


async def test_what_three_versions_refused_beside_the_cursor_has_failed(app: App) -> None:
    for version in ("5.4.0", "5.4.1", "5.4.2"):
        assert await app.ends() == {}
        await app.start(version)
        for _ in range(3):
            await app.inbox.ack(AckRequest(device=PHONE, nacks=(Nack(ID, "undecodable"),)))

    assert await app.ends() == {"delivery.failed": 1}


OTHER = "01900000-0000-7000-8000-000000000002"
LESSER = {"min_schema": 7, "fallback": '"less"', "fallback_h": "11"}


async def test_what_was_acked_with_its_fallback_does_not_fail_when_no_version_can_decode_its_full_form(
    app: App,
) -> None:
    """I13: acked is its end. The full form is tried three times, and then no more."""
    await app.inbox.accept(message(OTHER, **LESSER))
    await app.start("5.4.0", schema=6)
    assert await app.catch_up() == [ID, OTHER]

    for version in ("5.5.0", "5.5.1", "5.5.2"):
        await app.start(version, schema=7)
        assert await app.catch_up(refuses="undecodable", times=2) == [OTHER]
    await app.start("5.5.3", schema=7)

    assert await app.catch_up() == []
    assert await app.ends() == {"delivery.acked": 1}  # one event, for both


async def test_a_refusal_does_not_take_back_the_ack_of_a_fallback(app: App) -> None:
    await app.inbox.accept(message(OTHER, **LESSER))
    await app.start("5.4.0", schema=6)
    await app.catch_up()
    await app.inbox.ack(AckRequest(device=PHONE, nacks=(Nack(OTHER, "undecodable"),)))  # it could not show even that

    await app.start("5.5.0", schema=7)

    assert await app.catch_up() == [OTHER]
    assert await app.ends() == {"delivery.acked": 1}


async def test_a_refused_full_form_does_not_open_again_what_a_lost_store_had_acked_with_its_fallback(app: App) -> None:
    await app.inbox.accept(message(OTHER, **LESSER))
    await app.start("5.4.0", schema=6)
    await app.catch_up()
    app.cursor = None  # the store is gone, and the version is a new one
    for version in ("5.5.0", "5.5.1", "5.5.2"):
        await app.start(version, schema=7)
        await app.catch_up(refuses="undecodable")
    await app.start("5.5.3", schema=7)
    await app.catch_up()

    assert await app.ends() == {"delivery.acked": 1}


async def send_to_bob(app: App) -> None:
    """Ann has written it on another device of hers; her phone gets a copy."""
    await app.inbox.register(Registration(device=DeviceKey("shop", "bob", "phone")))
    await app.inbox.accept(replace(message(OTHER), users=("bob",), sender_user="ann"))


async def test_a_copy_of_ones_own_message_that_no_version_can_decode_is_nobodys_failed_delivery(app: App) -> None:
    await app.start("5.4.0")
    await app.catch_up()
    await send_to_bob(app)
    for version in ("5.4.1", "5.4.2", "5.4.3"):
        await app.start(version)
        assert await app.catch_up(refuses="undecodable") == [OTHER]
    await app.start("5.4.4")

    assert await app.catch_up() == []
    assert await app.ends() == {"delivery.acked": 1}  # of what came to ann


async def test_a_copy_of_ones_own_message_that_a_later_version_reads_is_nobodys_acked_delivery(app: App) -> None:
    await app.start("5.4.0")
    await app.catch_up()
    await send_to_bob(app)
    await app.catch_up(refuses="undecodable")
    await app.start("5.4.1")

    assert await app.catch_up() == [OTHER]
    assert await app.ends() == {"delivery.acked": 1}  # of what came to ann


def late(app: App, *, cursor: bool) -> AckRequest:
    """What version 5.4.0 said once, and says again when another one has come: with its cursor, or by its name."""
    if cursor:
        assert app.cursor is not None
        return AckRequest(
            device=PHONE, cursor=app.inbox.reader.unseal(app.cursor, PHONE), nacks=(Nack(ID, "undecodable"),)
        )
    return AckRequest(device=PHONE, nacks=(Nack(ID, "undecodable", "5.4.0"),))


@pytest.mark.parametrize("cursor", [True, False])
async def test_what_an_old_version_says_again_is_not_the_new_versions_refusal(app: App, cursor: bool) -> None:
    await app.start("5.4.0")
    await app.catch_up(refuses="undecodable")
    said = late(app, cursor=cursor)
    await app.start("5.4.1")  # it comes again, in full

    await app.inbox.ack(said)

    assert await app.catch_up() == [ID]
    assert await app.ends() == {"delivery.acked": 1}


@pytest.mark.parametrize("cursor", [True, False])
async def test_what_an_old_version_says_again_counts_as_no_try(app: App, cursor: bool) -> None:
    """F56: a version that is gone has no second word."""
    await app.start("5.4.0")
    await app.catch_up(refuses="undecodable")
    said = late(app, cursor=cursor)
    for version in ("5.4.1", "5.4.2"):
        await app.start(version)
        await app.inbox.ack(said)
        assert await app.ends() == {}
        await app.catch_up(refuses="undecodable", said_by=version)

    assert await app.ends() == {"delivery.failed": 1}


async def test_what_an_extension_of_the_old_version_says_again_counts_as_no_try(app: App) -> None:
    """It refused what lies ahead of the cursor, which comes again by itself."""
    await app.start("5.4.0")
    said = late(app, cursor=False)
    await app.inbox.ack(said)
    for version in ("5.4.1", "5.4.2"):
        await app.start(version)
        await app.inbox.ack(said)

    assert await app.catch_up() == [ID]
    assert await app.ends() == {"delivery.acked": 1}


@pytest.mark.parametrize("said", [["ids", "nack"], ["nack", "ids"], ["nack", "cursor", "ids"]])
async def test_a_message_that_is_both_refused_and_acked_by_its_id_has_one_end_in_whatever_order(
    app: App, clock: Any, said: list[str]
) -> None:
    await app.start("1.0")
    reading = await app.inbox.reader.read(PHONE, None, limit=10)
    assert reading.batch is not None
    words = {
        "ids": AckRequest(device=PHONE, ids=(ID,)),
        "nack": AckRequest(device=PHONE, nacks=(Nack(ID, "undecodable"),)),
        "cursor": AckRequest(device=PHONE, cursor=app.inbox.reader.unseal(reading.batch.cursor, PHONE)),
    }
    for one in said:
        answer = await app.inbox.ack(words[one])
        assert answer.results == ({ID: "acked"} if one == "ids" else {})
    assert await app.ends() == {"delivery.acked": 1}
    (device,) = (await app.inbox.reader.trace("shop", ID)).recipients[0]["devices"]
    assert device["state"] == "acked"
    clock.forward(s=2 * 86_400)
    assert await app.inbox.expire()
    rows = await app.inbox.engine.read(lambda conn, _: conn.exec_driver_sql("SELECT type FROM event").scalars().all())
    assert "delivery.expired" not in rows


async def test_the_trace_calls_it_held_after_each_refusal_and_queued_while_it_comes_again(app: App) -> None:
    async def state() -> str:
        (device,) = (await app.inbox.reader.trace("shop", ID)).recipients[0]["devices"]
        return str(device["state"])

    seen = []
    for version in ("5.4.0", "5.4.1", "5.4.2"):
        await app.start(version)
        seen.append(await state())
        await app.catch_up(refuses="undecodable")
        seen.append(await state())
    assert seen == ["queued", "held", "queued", "held", "queued", "failed"]


@pytest.mark.parametrize("code", ["unknown_type", "undecodable", "too_big"])
async def test_the_sender_is_told_once_of_a_refusal_and_why(app: App, code: str) -> None:
    await app.start("5.4.0")
    await app.catch_up(refuses=code, times=2)
    rows = await app.inbox.engine.read(lambda conn, _: conn.exec_driver_sql("SELECT type, data FROM event").all())
    told = [one for type_, data in rows if type_ == "delivery.held" for one in json.loads(data)["deliveries"]]
    assert [(one["message_id"], one["detail"]) for one in told] == [(ID, code)]
