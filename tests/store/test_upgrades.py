"""After an upgrade, on both stores: only a comparison of everything proves that all arrived; until then it is kept."""

from typing import Any

import pytest
from house import House

from relay.inbox import upgrades
from relay.inbox.comparing import Range, fingerprint
from relay.inbox.upgrades import DAY_MS
from relay.model import Policy
from relay.store import apps
from relay.store.engine import Engine

PHONE, TABLET = "ann/phone", "ann/tablet"


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock, policy=Policy(replay_window_ms=0)).begin()
    for name in (PHONE, TABLET):
        await house.register(name)
        await house.hello(name, app_version="1")
    return house


async def upgraded(house: House, name: str = PHONE) -> str:
    """The id of the device's upgrade to version 2."""
    welcome = await house.hello(name, app_version="2")
    await house.catch_up(name)
    assert welcome.upgrade is not None
    return str(welcome.upgrade["id"])


async def compare(house: House, upgrade: str, *, lost: int = 0, mended: bool = False, name: str = PHONE) -> str | None:
    """A round about everything, of a client that lacks its newest `lost` entries."""
    key = house.key(name)
    cursor = house.inbox.reader.unseal(house.store(name).cursor or "", key)
    whole = (0, max(1, cursor.seq))
    (all_,) = (await house.inbox.reader.compare(key, [Range(*whole, -1, 0)], cursor=cursor)).ranges
    assert all_.items is not None
    has = all_.items[: len(all_.items) - lost]
    mine = Range(*whole, len(has), sum(map(fingerprint, has)) % 2**128)
    compared = await house.inbox.reader.compare(key, [mine], cursor=cursor)
    return await house.inbox.upgrades.prove(key, upgrade, compared, mended=mended)


async def verdicts(house: House) -> list[tuple[str, int]]:
    return [
        (data["state"], data["messages"]) for kind, data in await house.events() if kind == "device.upgrade_verified"
    ]


async def floor(house: House) -> int:
    await house.inbox.prune([house.key(PHONE).user])
    return int((await house.rows("SELECT floor_seq FROM inbox"))[0]["floor_seq"])


async def test_a_store_that_has_everything_proves_the_upgrade_and_ends_the_pin(house: House) -> None:
    await house.sends(3)
    upgrade = await upgraded(house)
    await house.catch_up(TABLET)
    assert await floor(house) == 0, "nothing acked goes before it is proved"
    assert await compare(house, upgrade) == "ok"
    assert await verdicts(house) == [("ok", 0)]
    assert await floor(house) == 3


async def test_what_was_lacking_and_is_there_the_next_time_was_repaired(house: House) -> None:
    await house.sends(3)
    upgrade = await upgraded(house)
    assert await compare(house, upgrade, lost=2) == "repairing"
    assert await verdicts(house) == []
    assert await compare(house, upgrade, mended=True) == "repaired"
    assert await verdicts(house) == [("repaired", 2)]


async def test_a_first_question_whose_answer_was_lost_is_asked_again_for_one_verdict(house: House) -> None:
    await house.sends(3)
    upgrade = await upgraded(house)
    for _ in range(2):
        assert await compare(house, upgrade, lost=2) == "repairing"
    assert await compare(house, upgrade, mended=True) == "repaired"
    assert await verdicts(house) == [("repaired", 2)]


async def test_what_is_still_lacking_the_next_time_has_failed_and_stays_pinned(house: House) -> None:
    await house.sends(3)
    upgrade = await upgraded(house)
    await house.catch_up(TABLET)
    await compare(house, upgrade, lost=1)
    assert await compare(house, upgrade, lost=1, mended=True) == "failed"
    assert [state for state, _ in await verdicts(house)] == ["failed"]
    assert await floor(house) == 0
    assert await compare(house, upgrade) == "repaired"
    assert await floor(house) == 3


async def test_one_device_does_not_end_what_is_pinned_for_another(house: House) -> None:
    await house.sends(2)
    phone, tablet = await upgraded(house), await upgraded(house, TABLET)
    await compare(house, phone)
    assert await floor(house) == 0
    await compare(house, tablet, name=TABLET)
    assert await floor(house) == 2


async def test_without_a_comparison_the_pin_ends_after_a_week(house: House, clock: Any) -> None:
    await house.sends(2)
    await upgraded(house)
    await house.catch_up(TABLET)
    clock.forward(ms=house.policy.upgrade_pin_ms - 1)
    assert await floor(house) == 0
    clock.forward(ms=2)
    assert await floor(house) == 2


async def test_an_upgrade_that_nobody_proves_within_a_day_is_missing_and_may_be_proved_late(
    house: House, clock: Any
) -> None:
    await house.send()
    upgrade = await upgraded(house)
    clock.forward(ms=DAY_MS - 1)
    assert await house.inbox.upgrades.give_up("shop", limit=10) == 0
    clock.forward(ms=1)
    assert await house.inbox.upgrades.give_up("shop", limit=10) == 1
    assert await house.inbox.upgrades.give_up("shop", limit=10) == 0
    clock.forward(ms=1)
    assert await compare(house, upgrade) == "ok"
    assert await verdicts(house) == [("missing", 0), ("ok", 0)]


async def test_a_verdict_is_told_once(house: House) -> None:
    upgrade = await upgraded(house)
    for _ in range(2):
        assert await compare(house, upgrade) == "ok"
    assert len(await verdicts(house)) == 1


# --- repeated until proved --------------------------------------------------------------------------------------------


async def test_each_handshake_repeats_an_upgrade_until_it_is_proved(house: House) -> None:
    """F62, F63: the answer that told of it, or the comparison, was lost; the client has noted nothing of it."""
    await house.sends(2)
    first = (await house.hello(PHONE, app_version="2")).upgrade
    assert first is not None
    again = (await house.hello(PHONE, app_version="2")).upgrade
    assert again == first | {"released": 0}
    await house.catch_up(PHONE)
    await compare(house, first["id"], lost=1)
    assert (await house.hello(PHONE, app_version="2")).upgrade == again, "differences were listed, no more"
    await compare(house, first["id"])
    assert (await house.hello(PHONE, app_version="2")).upgrade is None


async def test_an_upgrade_is_not_repeated_to_another_device_nor_once_nothing_is_pinned_for_it(
    house: House, clock: Any
) -> None:
    await upgraded(house)
    assert (await house.hello(TABLET, app_version="1")).upgrade is None
    clock.forward(ms=house.policy.upgrade_pin_ms - 1)
    assert (await house.hello(PHONE, app_version="2")).upgrade is not None
    clock.forward(ms=1)
    assert (await house.hello(PHONE, app_version="2")).upgrade is None


# --- versions ---------------------------------------------------------------------------------------------------------


async def test_a_version_that_loses_its_users_store_is_told_once_a_day(
    house: House, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F67: the backend hears of it at the next look."""
    monkeypatch.setattr(upgrades, "SUSPECT_MIN", 2)
    house.store(PHONE).store_id, house.store(PHONE).cursor = "new", None
    for name in (PHONE, TABLET):
        await house.hello(name, app_version="2")
    for _ in range(2):
        (suspect,) = await house.inbox.upgrades.warn("shop")
    assert (suspect.version, suspect.upgrades, suspect.bad, suspect.reasons) == ("2", 2, 1, {"no_cursor": 1})
    told = [data for kind, data in await house.events() if kind == "app_version.suspect"]
    assert [(one["app_version"], one["bad"]) for one in told] == [("2", 1)]
    clock.forward(ms=2 * DAY_MS)
    assert await house.inbox.upgrades.warn("shop") == []


async def test_a_version_that_has_just_come_shows_however_many_came_to_the_one_before(
    house: House, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F67: within the hour, although a day's upgrades are more than are looked at."""
    monkeypatch.setattr(upgrades, "SUSPECT_MIN", 1)
    monkeypatch.setattr(upgrades, "OUTCOMES_MAX", 2)
    for name in (PHONE, TABLET):
        await house.hello(name, app_version="2")
    clock.forward(s=1)
    house.store(PHONE).store_id, house.store(PHONE).cursor = "new", None
    await house.hello(PHONE, app_version="3")
    assert [one.version for one in await house.inbox.upgrades.warn("shop")] == ["3"]


async def test_upgrades_of_long_ago_are_forgotten(house: House, clock: Any) -> None:
    await house.engine.write(lambda conn, now_ms: apps.create_app(conn, now_ms, app_id="shop", id_secret=bytes(32)))
    for name in (PHONE, TABLET):
        await upgraded(house, name)
    clock.forward(ms=90 * DAY_MS)
    await house.hello(PHONE, app_version="3")
    await house.chores().forget()
    assert len(await house.rows("SELECT upgrade_id FROM upgrade")) == 3
    clock.forward(ms=11 * DAY_MS)
    await house.chores().forget()
    assert [row["to_version"] for row in await house.rows("SELECT to_version FROM upgrade")] == ["3"]


async def test_a_version_that_never_acks_shows(house: House, clock: Any) -> None:
    """F68: it crashes at its start; what it is owed, and how it is told, is in tests/store/test_push_scenarios.py."""
    await house.hello(PHONE, app_version="2")
    await house.send()
    clock.forward(ms=upgrades.SILENT_MS)
    (version,) = await house.inbox.upgrades.versions("shop", since_ms=0)
    assert version.silent == 1
    await house.catch_up(PHONE)
    (version,) = await house.inbox.upgrades.versions("shop", since_ms=0)
    assert version.silent == 0


async def test_a_phone_that_had_everything_and_went_is_not_asked_for_what_came_later(house: House, clock: Any) -> None:
    await house.hello(PHONE, app_version="2")
    await house.bye(PHONE)
    await house.send()
    clock.forward(ms=upgrades.SILENT_MS)
    (version,) = await house.inbox.upgrades.versions("shop", since_ms=0)
    assert version.silent == 0


async def test_what_the_report_says_of_a_handshake_is_what_the_device_was_told(house: House) -> None:
    """F64: its cursor stood at the head, until what its version can show by now came after it."""
    await house.hello(PHONE, app_version="1", schema=1)
    await house.send(min_schema=2)
    await house.catch_up(PHONE)
    welcome = await house.hello(PHONE, app_version="2", schema=2)
    assert (welcome.verdict, welcome.missing, (welcome.upgrade or {})["released"]) == ("delta", 1, 1)
    (version,) = await house.inbox.upgrades.versions("shop", since_ms=0)
    assert version.verdicts == {"delta": 1}
    (told,) = [data for kind, data in await house.events() if kind == "device.upgraded"]
    assert (told["verdict"], told["released"]) == ("delta", 1)


async def test_a_version_that_goes_without_what_was_released_to_it_never_acked(house: House, clock: Any) -> None:
    """F68: a crash over what it can show for the first time is no phone that had everything."""
    await house.hello(PHONE, app_version="1", schema=1)
    await house.send(min_schema=2)
    await house.catch_up(PHONE)
    clock.forward(s=1)
    await house.hello(PHONE, app_version="2", schema=2)
    await house.bye(PHONE)
    clock.forward(ms=upgrades.SILENT_MS)
    (version,) = await house.inbox.upgrades.versions("shop", since_ms=0)
    assert version.silent == 1


async def test_what_has_only_just_come_is_not_overdue(house: House, clock: Any) -> None:
    await house.hello(PHONE, app_version="2")
    clock.forward(ms=upgrades.SILENT_MS)
    await house.send()
    (version,) = await house.inbox.upgrades.versions("shop", since_ms=0)
    assert version.silent == 0


async def test_how_long_it_took_to_catch_up_is_known_from_the_first_comparison(house: House, clock: Any) -> None:
    upgrade = await upgraded(house)
    clock.forward(s=7)
    await compare(house, upgrade)
    clock.forward(s=7)
    await compare(house, upgrade)
    (version,) = await house.inbox.upgrades.versions("shop", since_ms=0)
    assert (version.caught_up_s, version.verified) == (7.0, {"ok": 1})
