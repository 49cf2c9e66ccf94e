"""F31: what a vendor showed is taken back by name, where it can do that: the adapter against the emulator."""

from urllib.parse import urlsplit

import pytest
from meeting import meeting

from providers.contract import Outcome, RecallProvider, Verdict
from providers.loading import discover
from providers.sandbox.webpush import WebPushEmulator

TAKEN = Outcome(verdict=Verdict.ACCEPTED)


async def test_harmony_by_number_and_the_badge_stays() -> None:
    async with meeting("harmony") as one:
        for id_, more in (("p1", {"badge": 2}), ("p2", {"collapse_key": "c"})):
            assert (await one.send("t1", id=id_, **more)).verdict is Verdict.ACCEPTED
        assert len(one.shown("t1")) == 2
        own = {"payload": {"notification": {"notifyId": 7}}}
        assert (await one.send("t1", id="p3", overrides=own)).verdict is Verdict.ACCEPTED
        assert (await one.provider.recall(one.push("t1", id="p2", collapse_key="c"), None)).verdict is Verdict.ACCEPTED
        assert (await one.provider.recall(one.push("t1", id="p3", overrides=own), None)).verdict is Verdict.ACCEPTED
        (left,) = one.shown("t1")
        assert left["data"]["relay_id"] == "p1"
        (phone,) = one.sandbox.phones.view(token="t1", phones_max=1)
        assert phone["badge"] == 2


@pytest.mark.parametrize(("client_id", "code"), [(None, "client_id_missing"), ("1", "80300002")])
async def test_harmony_needs_the_app_s_own_id_for_that(client_id: str | None, code: str) -> None:
    async with meeting("harmony", client_id=client_id) as one:
        assert (await one.send("t1")).verdict is Verdict.ACCEPTED
        outcome = await one.provider.recall(one.push("t1"), None)
        assert outcome == Outcome(verdict=Verdict.REFUSED, vendor_code=code), "and never the account's or phone's fault"
        assert len(one.shown("t1")) == 1


@pytest.mark.parametrize(
    ("late_s", "asked", "code"),
    [
        (0, {"notifyId": 7, "token": ["t1", 2]}, "80100020"),
        (0, {"notifyId": 7}, "80300032"),
        (0, {"notifyId": 7, "token": ["t1"] * 1001}, "80300010"),
        (3601, {"notifyId": 7, "token": ["t1"]}, "80200003"),
    ],
)
async def test_huawei_s_own_words_for_what_is_wrong_with_taking_back(late_s: int, asked: object, code: str) -> None:
    """Sheet huawei §5, the rows of revoke."""
    async with meeting("harmony") as one:
        request = one.provider.encode_recall(one.push("t1"), None, (await one.provider.credential()).value)
        one.clock[0] += late_s
        path = urlsplit(request.url).path.removeprefix("/harmony")
        assert (await one.post(path, json=asked, headers=request.headers))["code"] == code


async def test_xiaomi_by_number() -> None:
    async with meeting("xiaomi") as one:
        for id_, more in (("p1", {}), ("p2", {"collapse_key": "c"}), ("p3", {"overrides": {"notify_id": 0}})):
            assert (await one.send("t1", id=id_, **more)).verdict is Verdict.ACCEPTED
        assert await one.provider.recall(one.push("t1", id="p2", collapse_key="c"), "scm1") == TAKEN
        assert await one.provider.recall(one.push("t1", id="p3", overrides={"notify_id": 0}), None) == TAKEN
        assert [shown["data"]["payload"][:16] for shown in one.shown("t1")] == ['{"relay_id":"p1"']
        unnamed = await one.provider.recall(one.push("t1", id="p1", overrides={"notify_id": None}), None)
        assert unnamed == Outcome(verdict=Verdict.REFUSED, vendor_code="notify_id_missing")
        await one.control("revoke", what="key")
        outcome = await one.provider.recall(one.push("t1", id="p1"), None)
        assert outcome == Outcome(verdict=Verdict.REFUSED, vendor_code="21301")


async def test_ntfy_by_name() -> None:
    async with meeting("ntfy") as one:
        for id_ in ("p1", "p 2"):
            assert (await one.send("t1", id=id_)).verdict is Verdict.ACCEPTED
        assert await one.provider.recall(one.push("t1", id="p 2"), None) == TAKEN
        assert len(one.shown("t1")) == 1
        await one.control("revoke", what="key")
        outcome = await one.provider.recall(one.push("t1", id="p1"), None)
        assert outcome == Outcome(verdict=Verdict.REFUSED, vendor_code="status_401")


async def test_web_push_until_a_browser_has_fetched_it() -> None:
    async with meeting("webpush") as one:
        emulator = one.sandbox.emulators["webpush"]
        assert isinstance(emulator, WebPushEmulator)
        away, here = (emulator.subscription(name, "mozilla") for name in ("away-1", "here-1"))
        waits, arrived = await one.send(away), await one.send(here)
        assert waits.vendor_id is not None
        assert await one.provider.recall(one.push(away), waits.vendor_id) == TAKEN
        for token, vendor_id, code in (
            (away, waits.vendor_id, "status_404"),  # once
            (here, arrived.vendor_id, "status_404"),
            (here, "https://elsewhere.example/m/1", "no_message_url"),
            (here, "//elsewhere.example/m/1", "no_message_url"),
            (here, "8f2a", "no_message_url"),  # Apple's and Microsoft's ids
            (here, None, "no_message_url"),
            ("no subscription", waits.vendor_id, "address_refused"),
        ):
            outcome = await one.provider.recall(one.push(token), vendor_id)
            assert outcome == Outcome(verdict=Verdict.REFUSED, vendor_code=code), (vendor_id, outcome)


async def test_what_waits_makes_way_for_the_newer_one_of_its_topic() -> None:
    """webpush §4; with a TTL of 0 nothing waits (§6.1)."""
    async with meeting("webpush") as one:
        emulator = one.sandbox.emulators["webpush"]
        assert isinstance(emulator, WebPushEmulator)
        away = emulator.subscription("away-1", "mozilla")
        sorts = ({"collapse_key": "c"}, {"collapse_key": "c"}, {"collapse_key": "d"}, {}, {}, {"ttl_s": 0})
        ids = [(await one.send(away, **more)).vendor_id for more in sorts]
        recalled = [(await one.provider.recall(one.push(away), id_)).verdict is Verdict.ACCEPTED for id_ in ids]
        assert recalled == [False, True, True, True, True, False]


RECALLING = sorted(one.name for one in discover() if one.provider and one.provider.capabilities.recall)


@pytest.mark.parametrize("vendor", RECALLING)
async def test_a_vendor_that_is_away_is_said_to_be(vendor: str) -> None:
    async with meeting(vendor) as one:
        provider: RecallProvider = one.provider
        token = one.sandbox.emulators[vendor].address("t1")
        vendor_id = f"{one.sandbox.url}/webpush/mozilla/m/1"
        await one.sandbox.stop()
        outcome = await provider.recall(one.push(token), vendor_id)
        assert outcome.verdict is Verdict.RETRY
        assert not outcome.maybe_sent


async def test_who_cannot_says_so() -> None:
    async with meeting("gotify") as one:
        outcome = await one.provider.recall(one.push(one.sandbox.emulators["gotify"].address("t1")), None)
        assert outcome == Outcome(verdict=Verdict.REFUSED, vendor_code="no_recall")


@pytest.mark.parametrize("number", [-1, None])
async def test_harmony_cannot_take_back_what_was_sent_without_a_number(number: int | None) -> None:
    """Sheet huawei §4: `notifyId` is required if a notification is ever to be taken back."""
    own = {"payload": {"notification": {"notifyId": number}}}
    async with meeting("harmony") as one:
        assert (await one.send("t1", overrides=own)).verdict is Verdict.ACCEPTED
        outcome = await one.provider.recall(one.push("t1", overrides=own), None)
        assert outcome == Outcome(verdict=Verdict.REFUSED, vendor_code="notify_id_missing", local=True)
        assert len(one.shown("t1")) == 1
        request = one.provider.encode_recall(one.push("t1"), None, (await one.provider.credential()).value)
        asked = {"notifyId": -1, "token": ["t1"]}
        said = await one.post(urlsplit(request.url).path.removeprefix("/harmony"), json=asked, headers=request.headers)
        assert said["code"] == "80300032", "nor does Huawei"
