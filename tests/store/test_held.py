"""New kinds of messages on old clients, on both stores (protocol 10.3): nothing is skipped, all of it comes in full once it
can be shown, and the user is told at the right time."""

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from house import House

from relay.errors import Unavailable
from relay.inbox import releasing
from relay.inbox.ack import Nack
from relay.inbox.preferences import Level, Preferences
from relay.model import DeviceState
from relay.store.engine import Engine

PHONE = "ann/phone"
DAY_S = 86_400
MONTH_S = 28 * DAY_S
NEW = {"min_schema": 5, "h": "full"}
FALLBACK = {"fallback": '"less"', "fallback_h": "less"}


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock).begin()
    await house.register(PHONE, "token")
    await house.hello(PHONE, schema=1, app_version="1")
    return house


async def upgrade(house: House, schema: int = 5) -> list[dict[str, Any]]:
    """The phone's new version shakes hands; what comes then."""
    await house.hello(PHONE, schema=schema, app_version="2")
    return await read(house)


async def read(house: House) -> list[dict[str, Any]]:
    """Pages to the head, acked."""
    entries: list[dict[str, Any]] = []
    while True:
        page = await house.page(PHONE)
        entries += page.json["entries"]
        if page.caught_up:
            await house.ack(PHONE)
            return entries


async def told(house: House) -> list[str]:
    """Titles of what is pushed now."""
    await house.bye(PHONE)
    house.clock.forward(s=1)
    return [note.shows.title for attempt in await house.told() for note in attempt.send.notes if note.shows]


async def test_with_a_fallback_it_is_shown_at_once_and_replaced_after_the_upgrade(house: House) -> None:
    sent = await house.send(**NEW, **FALLBACK)
    (first,) = await read(house)
    assert (first["id"], first["form"], first["h"]) == (sent.message_id, "fallback", "less")
    (again,) = await upgrade(house)
    assert (again["id"], again["kind"], again["form"], again["h"]) == (sent.message_id, "release", "full", "full")
    assert await house.deliveries("delivery.acked") == [("phone", sent.message_id)]


@pytest.mark.parametrize("wait_ms", [0, 3_600_000])
async def test_a_release_is_of_the_time_at_which_its_message_came(house: House, wait_ms: int) -> None:
    """Who shows times, or sorts by them, sees the message stay where it was; one that was for later came then."""
    later = {"deliver_ms": house.clock.now_ms() + wait_ms} if wait_ms else {}
    await house.send(**NEW, **FALLBACK, **later)
    house.clock.forward(ms=wait_ms)
    await house.fan_out()
    (first,) = await read(house)
    house.clock.forward(s=DAY_S)
    (again,) = await upgrade(house)
    assert (again["kind"], again["accepted_at"]) == ("release", first["accepted_at"])


async def test_that_the_backend_names_the_new_version_first_changes_nothing(house: House) -> None:
    """§10.2 step 5: what the old version passed and had not acked is judged by what that version could show."""
    shown, held = await house.send(**NEW, **FALLBACK), await house.send(**NEW)
    await house.page(PHONE)
    await house.register(PHONE, app_version="2", schema=5)
    assert [(one["id"], one["form"]) for one in await upgrade(house)] == [
        (shown.message_id, "full"),
        (held.message_id, "full"),
    ]


async def test_alone_it_is_held_and_its_delivery_is_open_until_the_upgrade(house: House) -> None:
    sent = await house.send(**NEW)
    assert await read(house) == []
    assert await house.deliveries("delivery.acked") == []
    assert await house.deliveries("delivery.held") == [("phone", sent.message_id)]
    (released,) = await upgrade(house)
    assert (released["id"], released["kind"]) == (sent.message_id, "release")
    assert await house.deliveries("delivery.acked") == [("phone", sent.message_id)]


async def test_versions_are_compared_as_schemas_are(house: House) -> None:
    sent = await house.send(min_app_version="2")
    assert await read(house) == []
    assert [one["id"] for one in await upgrade(house)] == [sent.message_id]


async def test_without_hold_it_is_not_for_an_old_version_at_all(house: House) -> None:
    await house.send(**NEW, hold=False)
    page = await house.page(PHONE)
    assert page.gaps == [(0, 1, "scope")]
    await house.ack(PHONE)
    assert await upgrade(house) == []


async def test_what_expires_while_it_is_held_is_reported_so(house: House, clock: Any) -> None:
    """F70: with the reason why it was never shown."""
    await house.send(**NEW, ttl_s=60)
    await read(house)
    clock.forward(s=61)
    await house.inbox.expire()
    (told_,) = [data["deliveries"] for kind, data in await house.events() if kind == "delivery.expired"]
    assert [one["detail"] for one in told_] == ["held: needs schema 5"]
    assert await upgrade(house) == []


async def test_what_is_held_tells_the_user_what_the_sender_says_and_its_release_is_news(house: House) -> None:
    await house.send(**NEW, push='{"title":"new"}', push_held='{"title":"update the app"}')
    assert await told(house) == ["update the app"]
    await read(house)
    await house.hello(PHONE, schema=5, app_version="2")
    assert await told(house) == ["new"]


async def test_what_is_held_tells_nothing_by_itself(house: House) -> None:
    await house.send(**NEW, push='{"title":"new"}')
    assert await told(house) == []


async def test_a_word_for_the_held_form_alone_is_not_shown_for_the_full_one(house: House) -> None:
    await house.send(**NEW, push=None, push_held='{"title":"update the app"}')
    await upgrade(house)
    await house.send(**NEW, push=None, push_held='{"title":"update the app"}')
    assert await told(house) == []


@pytest.mark.parametrize(("again", "titles"), [(False, []), (True, ["new"])])
async def test_the_full_form_of_what_was_shown_is_told_only_if_the_sender_wants(
    house: House, again: bool, titles: list[str]
) -> None:
    """F64: what was seen as fallback notifies nobody again."""
    await house.send(**NEW, **FALLBACK, push='{"title":"new"}', notify_release=again)
    await read(house)
    await house.hello(PHONE, schema=5, app_version="2")
    assert await told(house) == titles


async def test_an_ack_of_an_old_version_is_judged_by_what_that_version_could_show(house: House) -> None:
    """I33: what it passed counts as held, although the version that says so could show it."""
    await house.send(**NEW)
    await house.page(PHONE)  # its cursor passes the gap; the ack never comes
    (released,) = await upgrade(house)
    assert released["kind"] == "release"


async def test_a_downgrade_takes_nothing_back_and_holds_what_comes(house: House) -> None:
    await upgrade(house)
    await house.send(**NEW)
    assert len(await read(house)) == 1
    await house.hello(PHONE, schema=1, app_version="1")
    later = await house.send(**NEW)
    assert await read(house) == []
    assert [one["id"] for one in await upgrade(house)] == [later.message_id]


async def _nothing(*_: Any) -> None:
    return


async def _refused(*_: Any) -> None:
    raise Unavailable("The store is away.")


@pytest.mark.parametrize("rest_fails", [None, _nothing, _refused])
async def test_more_than_one_transaction_takes_is_released_all_the_same(
    house: House, monkeypatch: pytest.MonkeyPatch, rest_fails: Any
) -> None:
    """I34: each held live entry has exactly one release, however often the handshake was cut off; and who is online in its
    row gets its welcome, or nobody would hear it go."""
    monkeypatch.setattr(releasing, "RELEASES_MAX", 2)
    sent = await house.sends(4, **NEW)
    refused = (await house.send(type="poll")).message_id
    await house.page(PHONE)
    await house.ack(PHONE, nacks=(Nack(refused, "unknown_type"),))
    await house.ack(PHONE)
    rest = house.inbox.release_rest
    if rest_fails:
        monkeypatch.setattr(type(house.inbox), "release_rest", rest_fails)
    await house.hello(PHONE, schema=5, app_version="2")
    if rest_fails:
        monkeypatch.setattr(type(house.inbox), "release_rest", rest.__func__)
        await house.inbox.release_rest([house.key(PHONE)])
    assert [one["id"] for one in await read(house)] == [*sent, refused]
    assert await house.rows("SELECT * FROM device_held") == []


STEPS = list(itertools.product([True, False], repeat=3))


@pytest.mark.parametrize(("answered", "paged", "acked"), STEPS)
async def test_however_an_upgrade_is_cut_off_all_of_it_comes_once_it_goes_on(
    house: House, answered: bool, paged: bool, acked: bool
) -> None:
    """The answer of a handshake, a page, an ack: any of them may be lost on the way (I34)."""
    sent = await house.send(**NEW, **FALLBACK)
    held = await house.send(**NEW)
    await read(house)
    old = house.store(PHONE).cursor
    await house.hello(PHONE, schema=5, app_version="2")
    if not answered:
        house.store(PHONE).cursor = old
    got: list[str] = []
    page = await house.page(PHONE, store=paged)
    if paged:
        got += page.ids
        if acked:
            await house.ack(PHONE)
    await house.hello(PHONE, schema=5, app_version="2")
    got += [one["id"] for one in await read(house)]
    assert set(got) == {sent.message_id, held.message_id}
    assert len(await house.rows("SELECT seq FROM inbox_entry WHERE kind = 'release'")) == 2


async def test_what_was_held_for_a_device_that_is_gone_keeps_nothing(house: House, clock: Any) -> None:
    """Protocol 11.3: the floor waits for whom it is owed to, and to a device that is gone nothing is."""
    await house.register("ann/tablet")
    await house.hello("ann/tablet", schema=5, app_version="2")
    lesser = await house.send(**NEW, **FALLBACK, ttl_s=MONTH_S)
    held = await house.send(**NEW, ttl_s=MONTH_S)
    for name in (PHONE, "ann/tablet"):
        await house.catch_up(name)
    clock.forward(s=8 * DAY_S)
    user = house.key(PHONE).user
    assert await house.inbox.prune([user]) == 0
    await house.inbox.sign_out(house.key(PHONE))

    async def state(message: str) -> str:
        (recipient,) = (await house.inbox.reader.trace(house.app, message)).recipients
        return str(next(one["state"] for one in recipient["devices"] if one["device"] == "phone"))

    assert [await state(one.message_id) for one in (lesser, held)] == ["acked", "failed"]
    assert await house.deliveries("delivery.failed") == [("phone", held.message_id)]
    assert await house.inbox.prune([user]) == 2


async def _follows_at_registration(house: House) -> None:
    await house.register("ann/next", replaces="phone")


async def _follows_at_its_handshake(house: House) -> None:
    await house.register("ann/next")
    await house.hello("ann/next", replaces="phone")


async def _is_silent_for_long(house: House) -> None:
    await house.bye(PHONE)
    house.clock.forward(ms=house.policy.gone_ms + 1)
    await house.inbox.silence(DeviceState.ACTIVE, before_ms=house.clock.now_ms(), limit=10)


GOES: dict[str, Callable[[House], Awaitable[Any]]] = {
    "it is signed out": lambda house: house.inbox.sign_out(house.key(PHONE)),
    "another follows it at its registration": _follows_at_registration,
    "another follows it at its handshake": _follows_at_its_handshake,
    "it is silent for long": _is_silent_for_long,
    "its user is erased": lambda house: house.inbox.erase(house.key(PHONE).user),
}


@pytest.mark.parametrize("how", GOES)
async def test_however_a_device_goes_nothing_that_it_passed_keeps_the_floor(house: House, how: str) -> None:
    """What stays tells of its end, and goes with the entry; of a user who is erased nothing stays."""
    names = {"held": NEW, "fallback": NEW | FALLBACK, "unknown_type": {}, "poison": {}}
    ids = {why: (await house.send(**more)).message_id for why, more in names.items()}
    codes = {"unknown_type": "unknown_type", "poison": "undecodable"}
    await house.ack(PHONE, nacks=tuple(Nack(ids[why], code) for why, code in codes.items()))
    await read(house)
    assert {row["why"] for row in await house.rows("SELECT why FROM device_held")} == set(names)
    await GOES[how](house)
    left = {row["why"] for row in await house.rows("SELECT why FROM device_held WHERE device_id = 'phone'")}
    assert left == (set() if "erased" in how else {"failed"})
    house.clock.forward(s=DAY_S * 40)
    while await house.inbox.expire():
        pass
    await house.inbox.prune([house.key(PHONE).user])
    assert await house.rows("SELECT seq FROM device_held") == []


@pytest.mark.parametrize("ultra", [False, True])
async def test_a_mention_that_was_held_is_a_mention_when_it_is_released(house: House, ultra: bool) -> None:
    """To a user who wants to be told of mentions alone."""
    await house.inbox.groups.change("shop", "g", add=["ann"], remove=[], ultra=ultra)
    await house.inbox.set_preferences(house.key(PHONE).user, Preferences(level=Level.MENTIONS))
    for more in ({}, {"mentions": ("ann",)}):
        await house.inbox.accept(house.message(users=(), group="g", conversation_id="g", **NEW, **more))
        await house.fan_out()
    await read(house)
    await house.hello(PHONE, schema=5, app_version="2")
    ahead = (await house.inbox.reader.read(house.key(PHONE), None, limit=200)).shared.ahead
    assert [listed["mentions"] for listed in ahead] == ([1] if ultra else [])
    assert len(await told(house)) == 1
