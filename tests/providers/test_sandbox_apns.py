"""The APNs emulator by itself, through a plain h2 client: what it checks, and what it answers (vendor sheet `apns`)."""

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset
from http2_plain import PlainClient

from providers.sandbox import Sandbox
from providers.sandbox.apns import BUNDLE, ERRORS_MAX, KEY_ID, TEAM_ID, ApnsEmulator
from providers.sandbox.apns_credentials import Key
from providers.sandbox.apns_faults import APNS_FAULTS, REASONS
from providers.sandbox.faults import Place

NOW = 1_800_000_000.0
ALERT = {"aps": {"alert": {"title": "Ann", "body": "hello"}}}


class Clock:
    now = NOW


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sandbox(clock: Clock) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(now=lambda: clock.now, rng=random.Random(1), vendors=["apns"], slow_s=0.05)
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


class Plain(PlainClient):
    """One connection; one request after the other, whatever the headers."""

    def __init__(self, apple: ApnsEmulator, *, certificate: Path | None = None) -> None:
        super().__init__(apple.url, ca=apple.host.authority.pem, certificate=certificate)
        self.apple = apple

    async def ask(
        self,
        phone: str = "phone",
        body: Any = ALERT,
        *,
        token: str | None = "",
        path: str | None = None,
        method: str = "POST",
        twice: tuple[str, str] | None = None,
        **headers: str | None,
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, body and headers. A header given as None is left out; `token`: a bearer, "" is a good one."""
        bearer = mint(self.apple) if token == "" else token
        fields: dict[str, str | None] = {
            "authorization": None if bearer is None else f"bearer {bearer}",
            "apns-topic": BUNDLE,
            "apns-push-type": "alert",
            "apns-expiration": str(int(self.apple.host.now()) + 60),
        }
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        given = [(name, value) for name, value in fields.items() if value is not None]
        raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        target = f"/3/device/{phone.encode().hex()}" if path is None else path
        stream_id = self.tell([*given, *([twice] if twice else [])], raw, path=target, method=method)
        found: dict[str, str] = {}
        answer = b""
        while True:
            for event in await self.hear(ResponseReceived, DataReceived, StreamEnded, StreamReset):
                match event:
                    case ResponseReceived():
                        found = {str(name): str(value) for name, value in event.headers or ()}
                    case DataReceived():
                        answer += event.data or b""
                    case StreamEnded(stream_id=ended) if ended == stream_id:
                        return int(found[":status"]), json.loads(answer) if answer else {}, found
                    case StreamReset():
                        raise ConnectionAbortedError


def mint(apple: ApnsEmulator, *, key: Any = None, alg: str = "ES256", kid: str = KEY_ID, **claims: Any) -> str:
    claims = {"iss": TEAM_ID, "iat": int(apple.host.now()), **claims}
    cache: dict[str, str] = apple.__dict__.setdefault("minted", {})
    name = f"{kid}{sorted(claims.items())}{alg}{id(key)}"
    if name not in cache:  # as a sender does: one token for many pushes
        cache[name] = jwt.encode(claims, key or apple._key, algorithm=alg, headers={"kid": kid})
    return cache[name]


async def reason(apple: ApnsEmulator, phone: str = "phone", body: Any = ALERT, **how: Any) -> str:
    async with Plain(apple) as client:
        status, answer, _ = await client.ask(phone, body, **how)
    assert status == (REASONS[answer["reason"]] if answer else 200)
    return str(answer.get("reason", "accepted"))


def shown(sandbox: Sandbox, phone: str = "phone") -> list[dict[str, Any]]:
    views = sandbox.phones.view(token=phone, phones_max=1)
    return list(views[0]["received"]) if views else []  # type: ignore[call-overload]


# A push that passes.


async def test_an_alert_reaches_its_phone(sandbox: Sandbox, apple: ApnsEmulator) -> None:
    message_id = "eabeae54-14a8-11e5-b60b-1697f925ec7b"
    async with Plain(apple) as client:
        body = {"aps": {**ALERT["aps"], "badge": 2, "sound": "s.caf", "category": "CHAT"}, "k": "v"}
        status, answer, headers = await client.ask(
            body=body, apns_id=message_id, apns_collapse_id="c", apns_priority="5"
        )
    assert (status, answer, headers["apns-id"]) == (200, {}, message_id)
    assert headers["apns-unique-id"]
    (found,) = shown(sandbox)
    assert {key: found[key] for key in ("title", "body", "badge", "sound", "channel", "collapse", "priority")} == {
        "title": "Ann",
        "body": "hello",
        "badge": 2,
        "sound": "s.caf",
        "channel": "CHAT",
        "collapse": "c",
        "priority": "5",
    }
    assert found["data"] == {"k": "v"}
    assert (found["platform"], found["shown_by"], found["vendor"]) == ("ios", "system", "apns")


async def test_without_an_id_apple_makes_one(apple: ApnsEmulator) -> None:
    async with Plain(apple) as client:
        _, _, headers = await client.ask()
    assert len(headers["apns-id"].split("-")) == 5


async def test_a_push_type_is_only_recommended(apple: ApnsEmulator) -> None:
    assert await reason(apple, apns_push_type=None) == "accepted"


# Every check.


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"method": "GET", "body": b""}, "MethodNotAllowed"),
        ({"path": "/3/devices/ab"}, "BadPath"),
        ({"path": "/3/device/ab/cd"}, "BadPath"),
        ({"path": "/"}, "BadPath"),
        ({"path": "/3/device/"}, "MissingDeviceToken"),
        ({"path": "/3/device/zz"}, "BadDeviceToken"),
        ({"path": "/3/device/abc"}, "BadDeviceToken"),
        ({"path": f"/3/device/{'ab' * 201}"}, "BadDeviceToken"),
        ({"apns_topic": None}, "MissingTopic"),
        ({"apns_topic": "no topic"}, "BadTopic"),
        ({"apns_topic": "other.app"}, "TopicDisallowed"),
        ({"apns_topic": f"{BUNDLE}.voip"}, "BadTopic"),
        ({"apns_push_type": "voip"}, "BadTopic"),
        ({"apns_push_type": "shout"}, "InvalidPushType"),
        ({"apns_id": "EABEAE54-14A8-11E5-B60B-1697F925EC7B"}, "BadMessageId"),
        ({"apns_id": "1"}, "BadMessageId"),
        ({"apns_collapse_id": "c" * 65}, "BadCollapseId"),
        ({"apns_collapse_id": "é" * 33}, "BadCollapseId"),
        ({"apns_priority": "7"}, "BadPriority"),
        ({"apns_push_type": "background", "apns_priority": "10"}, "BadPriority"),
        ({"apns_push_type": "background", "apns_priority": None}, "BadPriority"),
        ({"apns_expiration": "soon"}, "BadExpirationDate"),
        ({"apns_expiration": "-1"}, "BadExpirationDate"),
        ({"twice": ("apns-topic", BUNDLE)}, "DuplicateHeaders"),
        ({"body": b""}, "PayloadEmpty"),
        ({"body": b"{}"}, "PayloadEmpty"),
        ({"body": b"not json"}, "PayloadEmpty"),
        ({"body": {**ALERT, "x": "y" * 4096}}, "PayloadTooLarge"),
        ({"body": b"x" * 16_000}, "PayloadTooLarge"),
        ({"token": None}, "MissingProviderToken"),
        ({"authorization": "basic x"}, "InvalidProviderToken"),
        ({"token": "a.b.c"}, "InvalidProviderToken"),
    ],
)
async def test_a_mistake_has_its_reason(apple: ApnsEmulator, how: dict[str, Any], expected: str) -> None:
    assert await reason(apple, **how) == expected


async def test_sizes_by_the_byte(apple: ApnsEmulator) -> None:
    def sized(size: int) -> bytes:
        frame = json.dumps({**ALERT, "x": ""}, separators=(",", ":"))
        return json.dumps({**ALERT, "x": "y" * (size - len(frame))}, separators=(",", ":")).encode()

    voip = {"apns_push_type": "voip", "apns_topic": f"{BUNDLE}.voip"}
    assert await reason(apple, body=sized(4096)) == "accepted"
    assert await reason(apple, body=sized(4097)) == "PayloadTooLarge"
    assert await reason(apple, body=sized(5120), **voip) == "accepted"
    assert await reason(apple, body=sized(5121), **voip) == "PayloadTooLarge"


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("voip", ".voip"),
        ("complication", ".complication"),
        ("fileprovider", ".pushkit.fileprovider"),
        ("location", ".location-query"),
        ("liveactivity", ".push-type.liveactivity"),
        ("pushtotalk", ".voip-ptt"),
        ("widgets", ".push-type.widgets"),
        ("controls", ".push-type.controls"),
    ],
)
async def test_each_push_type_has_its_topic(apple: ApnsEmulator, kind: str, ending: str) -> None:
    assert await reason(apple, apns_push_type=kind, apns_topic=BUNDLE + ending) == "accepted"
    assert await reason(apple, apns_push_type=kind) == "BadTopic"


# Provider tokens.


async def test_a_token_must_be_signed_by_the_teams_key(apple: ApnsEmulator) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert await reason(apple, token=mint(apple, key=stranger)) == "InvalidProviderToken"
    assert await reason(apple, token=mint(apple, kid="OTHERKEY12")) == "InvalidProviderToken"
    assert await reason(apple, token=mint(apple, iss="OTHERTEAM1")) == "InvalidProviderToken"
    assert await reason(apple, token=mint(apple, iat="1800000000")) == "InvalidProviderToken"
    assert await reason(apple, token=mint(apple, key="x" * 64, alg="HS256")) == "InvalidProviderToken"
    head, claims, signature = mint(apple).split(".")
    assert await reason(apple, token=f"{head}.{claims}.{signature[:-4]}") == "InvalidProviderToken"


@pytest.mark.parametrize(
    ("age_s", "expected"), [(3600, "accepted"), (3601, "ExpiredProviderToken"), (-3601, "ExpiredProviderToken")]
)
async def test_a_token_lives_an_hour(apple: ApnsEmulator, age_s: int, expected: str) -> None:
    assert await reason(apple, token=mint(apple, iat=int(NOW) - age_s)) == expected


async def test_a_token_changes_on_a_connection_every_twenty_minutes_at_most(apple: ApnsEmulator, clock: Clock) -> None:
    first, second, third = (mint(apple, iat=int(NOW) - age) for age in (3, 2, 1))
    async with Plain(apple) as client:
        assert (await client.ask(token=first))[0] == 200
        assert (await client.ask(token=second))[1] == {"reason": "TooManyProviderTokenUpdates"}
        assert (await client.ask(token=first))[0] == 200, "the one that it knows is still good"
        clock.now += 1200
        assert (await client.ask(token=second))[0] == 200
        clock.now += 1199
        assert (await client.ask(token=third))[1] == {"reason": "TooManyProviderTokenUpdates"}
    async with Plain(apple) as client:
        assert (await client.ask(token=third))[0] == 200, "another connection knows nothing of it"


async def test_a_connection_belongs_to_the_key_and_team_that_opened_it(apple: ApnsEmulator) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    apple.gate.keys["SECONDKEY1"] = Key(team_id=TEAM_ID, public=other.public_key())
    apple.gate.keys["FOREIGNKEY"] = Key(team_id="OTHERTEAM1", public=other.public_key())
    async with Plain(apple) as client:
        assert (await client.ask())[0] == 200
        unrelated = mint(apple, key=other, kid="SECONDKEY1")
        assert (await client.ask(token=unrelated))[1] == {"reason": "UnrelatedKeyIdInToken"}
        foreign = mint(apple, key=other, kid="FOREIGNKEY", iss="OTHERTEAM1")
        assert (await client.ask(token=foreign))[1] == {"reason": "Forbidden"}


async def test_a_revoked_key_ends_every_connection(apple: ApnsEmulator) -> None:
    async with Plain(apple) as client:
        assert (await client.ask())[0] == 200
        apple.revoke(key=True)
        while client.goaway is None:
            await client.hear()
        assert b"InvalidProviderToken" in (client.goaway.additional_data or b"")
    assert await reason(apple) == "InvalidProviderToken"
    apple.reset()
    assert await reason(apple) == "accepted"


# Certificates.


VOIP = {"apns_push_type": "voip", "apns_topic": f"{BUNDLE}.voip"}


@pytest.fixture
def certificate(apple: ApnsEmulator, tmp_path: Path) -> Path:
    file = tmp_path / "client.pem"
    file.write_text(str(apple.certificate_settings()["certificate"]))
    return file


async def test_a_certificate_stands_for_token_and_topic(apple: ApnsEmulator, certificate: Path) -> None:
    async with Plain(apple, certificate=certificate) as client:
        assert client.streams_max > 1, "the one-stream start is for tokens"
        assert (await client.ask(token=None))[0] == 200
        assert (await client.ask(token=None, apns_topic=None))[0] == 200
        assert (await client.ask(token="nonsense"))[0] == 200, "ignored beside a certificate"
        assert (await client.ask(token=None, **VOIP))[1] == {"reason": "TopicDisallowed"}, "it does not list it"
        live = {"apns_push_type": "liveactivity", "apns_topic": f"{BUNDLE}.push-type.liveactivity"}
        assert (await client.ask(token=None, **live))[0] == 403
        apple.revoked = True
        assert (await client.ask(token=None))[1] == {"reason": "BadCertificate"}


async def test_a_certificate_for_several_topics_takes_each_by_its_name(apple: ApnsEmulator, tmp_path: Path) -> None:
    """Sheet §2.2: a topic may be left out only with a certificate for one."""
    file = tmp_path / "several.pem"
    file.write_text(str(apple.certificate_settings([BUNDLE, f"{BUNDLE}.voip"])["certificate"]))
    async with Plain(apple, certificate=file) as client:
        assert (await client.ask(token=None))[0] == 200
        assert (await client.ask(token=None, **VOIP))[0] == 200
        assert (await client.ask(token=None, apns_topic=None))[1] == {"reason": "MissingTopic"}
        other = {"apns_push_type": "complication", "apns_topic": f"{BUNDLE}.complication"}
        assert (await client.ask(token=None, **other))[1] == {"reason": "TopicDisallowed"}


# Connections.


async def test_one_stream_until_a_token_was_good(apple: ApnsEmulator) -> None:
    async with Plain(apple) as client:
        assert client.streams_max == 1
        assert (await client.ask(token="bad"))[0] == 403
        assert client.streams_max == 1
        assert (await client.ask())[0] == 200
        assert client.streams_max > 100, "the one before it cost nothing but itself"


async def test_errors_cost_streams_and_then_the_connection(apple: ApnsEmulator) -> None:
    async with Plain(apple) as client:
        await client.ask()
        before = client.streams_max
        for _ in range(ERRORS_MAX // 2 - 1):
            await client.ask("baddevicetoken-1")  # counts twice
        assert 1 <= client.streams_max < before
        await client.ask("baddevicetoken-1")
        while client.goaway is None:
            await client.hear()


async def test_dead_tokens_cost_nothing(apple: ApnsEmulator) -> None:
    async with Plain(apple) as client:
        await client.ask()
        before = client.streams_max
        for _ in range(ERRORS_MAX + 1):
            assert (await client.ask("unregistered-1"))[0] == 410
        assert client.streams_max == before
        assert client.goaway is None


async def test_a_dead_token_is_dead_since_the_same_moment(apple: ApnsEmulator, clock: Clock) -> None:
    async with Plain(apple) as client:
        token = mint(apple)
        _, first, _ = await client.ask("unregistered-1", token=token)
        clock.now += 60
        _, second, _ = await client.ask("unregistered-1", token=token)
        _, other, _ = await client.ask("expiredtoken-1", token=token)
    assert first == second == {"reason": "Unregistered", "timestamp": int(NOW * 1000)}
    assert other == {"reason": "ExpiredToken", "timestamp": int((NOW + 60) * 1000)}


async def test_goodbye_names_its_reason(sandbox: Sandbox, apple: ApnsEmulator) -> None:
    async with Plain(apple) as client, aiohttp.ClientSession(sandbox.url) as http:
        await client.ask()
        async with http.post("/apns/goodbye", json={"reason": "IdleTimeout"}) as answer:
            assert answer.status == 204
        while client.goaway is None:
            await client.hear()
        assert json.loads(client.goaway.additional_data or b"") == {"reason": "IdleTimeout"}
        assert client.goaway.last_stream_id == 1
        with pytest.raises(ConnectionResetError):
            await client.hear()
        async with http.post("/apns/goodbye", json=[1]) as answer:
            assert answer.status == 400


async def test_streams_are_moved_by_hand(sandbox: Sandbox, apple: ApnsEmulator) -> None:
    async with Plain(apple) as client, aiohttp.ClientSession(sandbox.url) as http:
        await client.ask()
        async with http.post("/apns/streams", json={"max": 2}) as answer:
            assert answer.status == 204
        while client.streams_max != 2:
            await client.hear()
        async with http.post("/apns/streams", json={"max": 1}) as answer:
            assert answer.status == 204
        await client.ask()
        await client.ask()
        assert client.streams_max == 1, "it stays where it was put"
        for wrong in ({}, {"max": -1}, {"max": "2"}, []):
            async with http.post("/apns/streams", json=wrong) as answer:
                assert answer.status == 400


# Faults.


@pytest.mark.parametrize("expected", REASONS)
async def test_every_reason_can_be_had(apple: ApnsEmulator, expected: str) -> None:
    assert await reason(apple, f"{expected.lower()}-1") == expected


async def test_once_shrunk_a_connection_has_one_stream_at_a_time(apple: ApnsEmulator) -> None:
    async with Plain(apple) as client:
        await client.ask()
        await client.ask("shrink1-x")
        await client.ask()
        await client.ask()
        assert client.streams_max == 1


async def test_after_shutdown_comes_goodbye(apple: ApnsEmulator) -> None:
    async with Plain(apple) as client:
        assert (await client.ask("shutdown-1"))[0] == 503
        while client.goaway is None:
            await client.hear()
        assert json.loads(client.goaway.additional_data or b"") == {"reason": "Shutdown"}


async def test_a_goaway_fault_was_not_worked_on(sandbox: Sandbox, apple: ApnsEmulator) -> None:
    async with Plain(apple) as client:
        await client.ask("phone")
        client.tell([*good_headers(apple)], json.dumps(ALERT).encode(), path=path_of("goaway1-x"), method="POST")
        while client.goaway is None:
            await client.hear()
        assert client.goaway.last_stream_id == 2, "the second request's number is 3"
    assert not shown(sandbox, "goaway1-x")
    assert await reason(apple, "goaway1-x") == "accepted"
    assert len(shown(sandbox, "goaway1-x")) == 1


async def test_a_refused_stream_was_not_worked_on(sandbox: Sandbox, apple: ApnsEmulator) -> None:
    async with Plain(apple) as client:
        with pytest.raises(ConnectionAbortedError):
            await client.ask("refused1-x")
        assert not shown(sandbox, "refused1-x")
        assert (await client.ask("refused1-x"))[0] == 200


@pytest.mark.parametrize("word", ["slow", "reset", "cut", "garbage", "shrink"])
async def test_what_arrives_and_what_does_not(sandbox: Sandbox, apple: ApnsEmulator, word: str) -> None:
    async with Plain(apple) as client:
        try:
            status, _, _ = await client.ask(f"{word}-1")
            assert status == 200
        except ValueError:
            assert word == "garbage"
        except ConnectionResetError:
            assert word in {"reset", "cut"}
    assert bool(shown(sandbox, f"{word}-1")) is APNS_FAULTS[Place.SEND][word].arrives


def good_headers(apple: ApnsEmulator) -> list[tuple[str, str]]:
    return [("authorization", f"bearer {mint(apple)}"), ("apns-topic", BUNDLE), ("apns-push-type", "alert")]


def path_of(phone: str) -> str:
    return f"/3/device/{phone.encode().hex()}"


# Phones that are off.


async def test_for_a_phone_that_is_off_only_the_newest_is_kept(
    sandbox: Sandbox, apple: ApnsEmulator, clock: Clock
) -> None:
    async with Plain(apple) as client, aiohttp.ClientSession(sandbox.url) as http:
        async with http.post("/apns/phones/phone/off"):
            pass
        for n in range(3):
            await client.ask(body={"aps": {"alert": {"body": str(n)}}}, apns_collapse_id=f"c{n}")
        live = {"apns_push_type": "liveactivity", "apns_topic": f"{BUNDLE}.push-type.liveactivity"}
        update = {"alert": {"body": "live"}, "timestamp": int(NOW), "event": "update", "content-state": {}}
        await client.ask(body={"aps": update}, **live)
        assert not shown(sandbox)
        async with http.post("/apns/phones/phone/on"):
            pass
        assert [one["body"] for one in shown(sandbox)] == ["2", "live"], "one for each topic"


async def test_what_has_expired_meanwhile_is_gone(sandbox: Sandbox, apple: ApnsEmulator, clock: Clock) -> None:
    apple.switch_off("phone")
    async with Plain(apple) as client:
        await client.ask()
    clock.now += 61
    apple.switch_on("phone")
    assert not shown(sandbox)


async def test_expiration_zero_is_one_attempt(sandbox: Sandbox, apple: ApnsEmulator) -> None:
    apple.switch_off("phone")
    async with Plain(apple) as client:
        assert (await client.ask(apns_expiration="0"))[0] == 200
    apple.switch_on("phone")
    assert not shown(sandbox)


async def test_a_wake_up_that_shows_something_is_dropped_without_a_word(sandbox: Sandbox, apple: ApnsEmulator) -> None:
    async with Plain(apple) as client:
        wake = {"apns_push_type": "background", "apns_priority": "5"}
        assert (await client.ask(body={"aps": {"content-available": 1, "sound": "x"}}, **wake))[0] == 200
        assert not shown(sandbox)
        assert (await client.ask(body={"aps": {"content-available": 1}}, **wake))[0] == 200
        assert len(shown(sandbox)) == 1


@pytest.mark.parametrize("missing", ["timestamp", "event", "content-state", "alert", "attributes-type", "attributes"])
async def test_a_live_activity_without_its_parts_is_dropped_without_a_word(
    sandbox: Sandbox, apple: ApnsEmulator, missing: str
) -> None:
    live = {"apns_push_type": "liveactivity", "apns_topic": f"{BUNDLE}.push-type.liveactivity"}
    start = {
        "timestamp": int(NOW),
        "event": "start",
        "content-state": {},
        "alert": {"body": "x"},
        "attributes-type": "Game",
        "attributes": {},
    }
    async with Plain(apple) as client:
        assert (await client.ask(body={"aps": start}, **live))[0] == 200
        assert len(shown(sandbox)) == 1
        for spoilt in ({name: part for name, part in start.items() if name != missing}, {**start, "event": []}):
            assert (await client.ask(body={"aps": spoilt}, **live))[0] == 200
        assert len(shown(sandbox)) == 1


async def test_mdm_is_for_certificates(apple: ApnsEmulator, certificate: Path) -> None:
    assert await reason(apple, apns_push_type="mdm") == "InvalidPushType"
    async with Plain(apple, certificate=certificate) as client:
        assert (await client.ask(token=None, apns_push_type="mdm"))[0] == 200


# The account.


async def test_key_and_authority_outlive_the_process(tmp_path: Path, clock: Clock) -> None:
    seen = []
    for _ in range(2):
        sandbox = Sandbox(now=lambda: clock.now, rng=random.Random(1), vendors=["apns"], state_dir=tmp_path)
        await sandbox.start()
        try:
            settings = sandbox.account_settings("apns")["settings"]
            seen.append((settings["key"], settings["ca"]))
            text = sandbox.account_toml("apple", "apns")
            assert 'provider = "apns"' in text
            assert "PRIVATE" not in text
        finally:
            await sandbox.stop()
    assert seen[0] == seen[1]
    (tmp_path / "apns-AuthKey.p8").write_text("spoilt")
    with pytest.raises(ValueError, match="delete it"):
        await Sandbox(now=lambda: NOW, rng=random.Random(1), vendors=["apns"], state_dir=tmp_path).start()
