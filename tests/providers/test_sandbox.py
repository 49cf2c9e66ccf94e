"""The sandbox as a product: its account, its control API, its phones and their page."""

import asyncio
import json
import random
import stat
import tomllib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from click.testing import CliRunner

from providers.sandbox import Sandbox
from providers.sandbox.phones import SHOWN_MAX, Content, PhoneLimits, Phones
from relay.cli import main

NOW = 1_800_000_000.0
Send = Callable[..., Any]


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sandbox")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sandbox(state_dir: Path, clock: Clock) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(now=clock, rng=random.Random(1), state_dir=state_dir)
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


@pytest.fixture
async def http(sandbox: Sandbox) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(sandbox.url) as http:
        yield http


@pytest.fixture
async def send(sandbox: Sandbox, http: aiohttp.ClientSession) -> Send:
    """Sends a message with a bearer of its own and gives the status."""
    bearer = (await mint(sandbox, http))[1]["access_token"]

    async def send(token: str, **message: Any) -> int:
        project = sandbox.account_settings()["settings"]["service_account"]["project_id"]
        headers = {"Authorization": f"Bearer {bearer}"}
        body = {"message": {"token": token, **message}}
        async with http.post(f"/v1/projects/{project}/messages:send", json=body, headers=headers) as answer:
            return answer.status

    return send


async def mint(sandbox: Sandbox, http: aiohttp.ClientSession) -> tuple[int, dict[str, Any]]:
    account = sandbox.account_settings()["settings"]["service_account"]
    claims = {
        "iss": account["client_email"],
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": "https://oauth2.googleapis.com/token",
        "iat": int(NOW),
        "exp": int(NOW) + 3600,
    }
    assertion = jwt.encode(claims, account["private_key"], "RS256", headers={"kid": account["private_key_id"]})
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
    async with http.post("/token", data=form) as answer:
        return answer.status, await answer.json()


async def get(http: aiohttp.ClientSession, path: str) -> Any:
    async with http.get(path) as answer:
        assert answer.status == 200
        return await answer.json()


async def phone(http: aiohttp.ClientSession, token: str) -> Any:
    (phone,) = (await get(http, f"/_phones?token={token}"))["phones"]
    return phone


async def control(http: aiohttp.ClientSession, path: str, order: Any = None, method: str = "POST") -> int:
    async with http.request(method, f"/_control/{path}", json=order) as answer:
        return answer.status


# --- the account


async def test_the_settings_are_ready_for_a_relay(sandbox: Sandbox) -> None:
    account = sandbox.account_settings()
    assert account["provider"] == "fcm"
    settings = account["settings"]
    assert settings["base_url"] == sandbox.url
    assert settings["token_url"] == f"{sandbox.url}/token"
    document = settings["service_account"]
    assert document["type"] == "service_account"
    assert document["token_uri"] == "https://oauth2.googleapis.com/token"
    assert document["private_key"].startswith("-----BEGIN PRIVATE KEY-----\n")
    assert document["client_email"].endswith(f"@{document['project_id']}.iam.gserviceaccount.com")


async def test_the_toml_table_names_a_private_file_with_the_same_account(sandbox: Sandbox) -> None:
    for name in ("sandbox", 'odd "name".\\'):
        table = tomllib.loads(sandbox.account_toml(name))["accounts"][name]
        settings = sandbox.account_settings()["settings"]
        file = Path(table.pop("service_account_file"))
        assert table == {"provider": "fcm", "base_url": settings["base_url"], "token_url": settings["token_url"]}
        assert json.loads(file.read_bytes()) == settings["service_account"]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_restarted_sandbox_knows_its_account_and_another_one_does_not(tmp_path: Path, clock: Clock) -> None:
    accounts = []
    for directory in (tmp_path / "new" / "a", tmp_path / "new" / "a", tmp_path / "b", None):
        sandbox = Sandbox(now=clock, rng=random.Random(), state_dir=directory)
        await sandbox.start()
        accounts.append(sandbox.account_settings()["settings"]["service_account"])
        await sandbox.stop()
    assert accounts[0] == accounts[1]
    assert len({account["private_key"] for account in accounts}) == 3
    assert [file.name for file in (tmp_path / "b").iterdir()] == ["fcm-service-account.json"]


async def test_a_file_that_others_could_read_is_closed(tmp_path: Path, clock: Clock) -> None:
    sandbox = Sandbox(now=clock, rng=random.Random(), state_dir=tmp_path)
    await sandbox.start()
    await sandbox.stop()
    (file,) = tmp_path.iterdir()
    file.chmod(0o644)
    sandbox = Sandbox(now=clock, rng=random.Random(), state_dir=tmp_path)
    await sandbox.start()
    await sandbox.stop()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("spoilt", ["", "{}", '{"private_key": 5}', '{"private_key": "x", "client_id": "1"}'])
async def test_a_spoilt_account_file_is_named(tmp_path: Path, clock: Clock, spoilt: str) -> None:
    file = tmp_path / "fcm-service-account.json"
    file.write_text(spoilt)
    with pytest.raises(ValueError, match=r"fcm-service-account\.json does not hold .* delete it"):
        await Sandbox(now=clock, rng=random.Random(), state_dir=tmp_path).start()


async def test_without_a_state_dir_there_is_no_table_and_before_the_start_no_account(clock: Clock) -> None:
    sandbox = Sandbox(now=clock, rng=random.Random())
    with pytest.raises(RuntimeError, match="Start the sandbox first"):
        sandbox.account_settings()
    await sandbox.start()
    with pytest.raises(ValueError, match="state_dir"):
        sandbox.account_toml("x")
    await sandbox.stop()


async def test_a_stop_and_a_start_look_like_an_outage(
    sandbox: Sandbox, http: aiohttp.ClientSession, send: Send
) -> None:
    with pytest.raises(RuntimeError, match="running already"):
        await sandbox.start()
    await send("t")
    port = int(sandbox.url.rpartition(":")[2])
    await sandbox.stop()
    await sandbox.stop()
    with pytest.raises(aiohttp.ClientConnectionError):
        await send("t")
    await sandbox.start(port=port)
    assert await send("t") == 200
    assert (await phone(http, "t"))["count"] == 2


async def test_a_taken_port_is_an_error_and_leaves_nothing_behind(
    sandbox: Sandbox, state_dir: Path, clock: Clock
) -> None:
    second = Sandbox(now=clock, rng=random.Random(2), state_dir=state_dir)
    with pytest.raises(OSError):
        await second.start(port=int(sandbox.url.rpartition(":")[2]))
    await second.start()
    await second.stop()


# --- the control API


async def test_a_fault_for_one_token_strikes_so_many_times(http: aiohttp.ClientSession, send: Send) -> None:
    assert await control(http, "faults", {"token": "a", "fault": "unregistered", "times": 2}) == 201
    assert [await send("a") for _ in range(3)] == [404, 404, 200]
    assert await send("b") == 200


async def test_a_fault_for_all_lasts_for_its_seconds(http: aiohttp.ClientSession, send: Send, clock: Clock) -> None:
    await control(http, "faults", {"all": True, "fault": "unavailable", "seconds": 20})
    clock.now += 19.9
    assert [await send("a"), await send("b")] == [503, 503]
    clock.now += 0.1
    assert await send("a") == 200


async def test_a_fault_without_an_end_lasts_until_it_is_deleted(http: aiohttp.ClientSession, send: Send) -> None:
    await control(http, "faults", {"all": True, "fault": "internal"})
    assert [await send("a") for _ in range(3)] == [500] * 3
    assert await control(http, "faults", method="DELETE") == 204
    assert await send("a") == 200


async def test_the_rule_for_a_token_goes_before_that_for_all_and_this_before_its_beginning(
    http: aiohttp.ClientSession, send: Send
) -> None:
    await control(http, "faults", {"all": True, "fault": "unavailable", "times": 1})
    await control(http, "faults", {"token": "quota-a", "fault": "internal", "times": 1})
    assert [await send("quota-a") for _ in range(3)] == [500, 503, 429]


@pytest.mark.parametrize(
    ("wish", "header"),
    [("5", "5"), ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT"), ("", None), (None, "30")],
)
async def test_retry_after_can_be_ordered(
    http: aiohttp.ClientSession, sandbox: Sandbox, wish: str | None, header: str | None
) -> None:
    await control(http, "faults", {"token": "a", "fault": "quota", "retry_after": wish})
    bearer = (await mint(sandbox, http))[1]["access_token"]
    path = "/v1/projects/relay-sandbox/messages:send"
    headers = {"Authorization": f"Bearer {bearer}"}
    async with http.post(path, json={"message": {"token": "a"}}, headers=headers) as answer:
        assert answer.headers.get("Retry-After") == header


@pytest.mark.parametrize(
    "order",
    [
        {},
        [],
        {"fault": "unregistered"},
        {"fault": "unregistered", "token": "a", "all": True},
        {"fault": "nonsense", "all": True},
        {"fault": "invalid_grant", "all": True},
        {"fault": "unregistered", "on": "token"},
        {"fault": "invalid_grant", "on": "token", "token": "a"},
        {"fault": "quota", "all": True, "times": 0},
        {"fault": "quota", "all": True, "seconds": -1},
        {"fault": "quota", "all": True, "retry_after": "5\r\nX: y"},
        {"fault": "slow", "all": True, "delay_s": 601},
        {"fault": "quota", "all": True, "time": 1},
    ],
    ids=str,
)
async def test_a_wrong_order_is_refused_with_a_sentence(http: aiohttp.ClientSession, order: Any) -> None:
    async with http.post("/_control/faults", json=order) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]


async def test_the_faults_explain_themselves(http: aiohttp.ClientSession) -> None:
    await control(http, "faults", {"token": "a", "fault": "quota", "times": 3})
    faults = await get(http, "/_control/faults")
    assert {"unregistered", "quota", "reset", "html404"} <= faults["known"]["send"].keys()
    assert "invalid_grant" in faults["known"]["token"]
    (active,) = faults["active"]
    assert (active["token"], active["fault"], active["times_left"], active["struck"]) == ("a", "quota", 3, 0)


async def test_rules_are_limited(
    http: aiohttp.ClientSession, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.sandbox.faults.RULES_MAX", 2)
    order = {"token": "a", "fault": "quota", "times": 1}
    assert [await control(http, "faults", order) for _ in range(3)] == [201, 201, 429]


async def test_revoked_access_tokens_can_be_renewed(http: aiohttp.ClientSession, sandbox: Sandbox, send: Send) -> None:
    await control(http, "revoke", {"what": "access_tokens"})
    assert await send("a") == 401
    assert (await mint(sandbox, http))[0] == 200


async def test_a_revoked_account_cannot_renew_until_the_reset(
    http: aiohttp.ClientSession, sandbox: Sandbox, send: Send
) -> None:
    assert await control(http, "revoke", {"what": "all"}) == 400
    async with http.post("/_control/revoke") as revoked:
        assert revoked.status == 204
    assert await send("a") == 401
    status, answer = await mint(sandbox, http)
    assert (status, answer["error"]) == (400, "invalid_grant")
    await control(http, "reset")
    assert (await mint(sandbox, http))[0] == 200


async def test_reset_forgets_everything_but_the_access_tokens(http: aiohttp.ClientSession, send: Send) -> None:
    await control(http, "faults", {"all": True, "fault": "internal", "times": 5})
    await send("a")
    await send("unavailable1-a")
    await control(http, "reset")
    state = await get(http, "/_control/state")
    assert state["phones"] == {"count": 0, "delivered": 0, "forgotten": 0, "kept_bytes": 0, "waiting": 0}
    fresh = {"outcomes": {}, "key_deleted": False, "faults": [], "requests": [], "off": [], "stored": 0}
    assert state["fcm"] == fresh
    assert await send("a") == 200


async def test_the_state_tells_what_came_and_what_became_of_it(http: aiohttp.ClientSession, send: Send) -> None:
    await send("a")
    await send("unregistered-b")
    await send("c", data={"from": "x"})
    fcm = (await get(http, "/_control/state"))["fcm"]
    assert fcm["outcomes"] == {"token:minted": 1, "accepted": 1, "unregistered": 1, "refused:400": 1}
    assert fcm["requests"][:2] == [
        {"at": NOW, "target": "a", "outcome": "accepted"},
        {"at": NOW, "target": "unregistered-b", "outcome": "unregistered"},
    ]


async def test_other_sites_pages_give_no_orders(http: aiohttp.ClientSession, sandbox: Sandbox) -> None:
    for origin, status in [("https://evil.example", 403), ("null", 403), (sandbox.url, 204)]:
        async with http.post("/_control/reset", headers={"Origin": origin}) as answer:
            assert answer.status == status


# --- the phones


def titles(deliveries: list[Any]) -> list[str]:
    return [delivery["title"] for delivery in deliveries]


async def test_a_phone_keeps_what_it_received_in_order(http: aiohttp.ClientSession, send: Send, clock: Clock) -> None:
    for title in ("one", "two", "three"):
        clock.now += 1
        await send("a", notification={"title": title, "body": "b"}, data={"n": title})
    received = (await phone(http, "a"))["received"]
    assert titles(received) == ["one", "two", "three"]
    assert [each["at"] for each in received] == [NOW + 1, NOW + 2, NOW + 3]
    assert [each["seq"] for each in received] == [1, 2, 3]
    assert received[0]["body"] == "b"
    assert received[0]["data"] == {"n": "one"}
    assert received[0]["shown_by"] == "system"


@pytest.mark.parametrize(
    ("token", "key"),
    [
        ("t", {"android": {"notification": {"tag": "k"}}}),
        ("t", {"android": {"collapse_key": "k"}}),
        ("ios-t", {"apns": {"headers": {"apns-collapse-id": "k"}}}),
        ("web-t", {"webpush": {"notification": {"tag": "k"}}}),
        ("web-t", {"webpush": {"headers": {"Topic": "k"}}}),
    ],
    ids=str,
)
async def test_a_notification_replaces_the_shown_one_of_the_same_key(
    http: aiohttp.ClientSession, send: Send, token: str, key: dict[str, Any]
) -> None:
    await send(token, notification={"title": "first"}, **key)
    await send(token, notification={"title": "other"})
    await send(token, notification={"title": "second"}, **key)
    seen = await phone(http, token)
    assert titles(seen["shown"]) == ["other", "second"]
    assert titles(seen["received"]) == ["first", "other", "second"]
    assert seen["received"][0]["collapse"] == "k"


async def test_each_platform_gets_its_own_words(http: aiohttp.ClientSession, send: Send) -> None:
    for token in ("a", "ios-a", "web-a"):
        await send(
            token,
            notification={"title": "all", "body": "body"},
            data={"k": "all"},
            android={"data": {"k": "android"}, "notification": {"title": "android", "notification_count": 4}},
            apns={"payload": {"aps": {"alert": {"title": "ios"}, "badge": 7, "sound": "s"}, "extra": 1}},
            webpush={"data": {"k": "web"}, "notification": {"title": "web"}, "headers": {"Urgency": "high"}},
        )
    android, ios, web = [(await phone(http, token))["received"][0] for token in ("a", "ios-a", "web-a")]
    assert [each["platform"] for each in (android, ios, web)] == ["android", "ios", "web"]
    assert titles([android, ios, web]) == ["android", "ios", "web"]
    assert [each["body"] for each in (android, ios, web)] == ["body"] * 3
    assert [each["data"] for each in (android, ios, web)] == [{"k": "android"}, {"k": "all", "extra": 1}, {"k": "web"}]
    assert [each["badge"] for each in (android, ios, web)] == [4, 7, None]
    assert web["priority"] == "high"
    await send("ios-b", apns={"payload": {"aps": {"alert": "plain"}}})
    assert (await phone(http, "ios-b"))["shown"][0]["body"] == "plain"


async def test_a_data_only_message_is_drawn_by_the_app_or_stays_silent(http: aiohttp.ClientSession, send: Send) -> None:
    await send("a", data={"title": "drawn", "body": "by the app"})
    await send("a", data={"k": "v"}, android={"priority": "NORMAL"})
    seen = await phone(http, "a")
    assert [each["shown_by"] for each in seen["received"]] == ["app", None]
    assert titles(seen["shown"]) == ["drawn"]


async def test_the_list_can_be_cut_and_is_not_sent_twice(http: aiohttp.ClientSession, send: Send) -> None:
    for token in ("a", "b", "c", "a"):
        await send(token)
    state = await get(http, "/_phones?limit=2&received=1&message=0")
    assert (state["total"], state["delivered"]) == (3, 4)
    assert [phone["token"] for phone in state["phones"]] == ["a", "c"]
    assert [each["seq"] for each in state["phones"][0]["received"]] == [4]
    assert "message" not in state["phones"][0]["received"][0]
    assert (await get(http, "/_phones?token=nobody"))["phones"] == []
    async with http.get("/_phones") as answer:
        etag = answer.headers["ETag"]
    async with http.get("/_phones", headers={"If-None-Match": etag}) as answer:
        assert answer.status == 304
    await send("a")
    async with http.get("/_phones", headers={"If-None-Match": etag}) as answer:
        assert answer.status == 200


async def test_wait_answers_as_soon_as_enough_has_arrived(http: aiohttp.ClientSession, send: Send) -> None:
    one = asyncio.create_task(get(http, "/_phones/wait?token=a&count=2&timeout=20"))
    any_three = asyncio.create_task(get(http, "/_phones/wait?count=3&timeout=20"))
    await send("a")
    await send("b")
    assert not one.done()
    await send("a")
    answer = await one
    assert answer["reached"]
    assert answer["count"] == 2
    assert len(answer["phones"][0]["received"]) == 2
    assert (await any_three) == {"reached": True, "count": 3, "phones": []}
    assert (await get(http, "/_phones/wait?token=a&count=2&timeout=20"))["reached"]


async def test_wait_gives_up_in_time_and_at_a_stop(http: aiohttp.ClientSession, sandbox: Sandbox, send: Send) -> None:
    await send("a")
    answer = await get(http, "/_phones/wait?token=a&count=2&timeout=0.05")
    assert (answer["reached"], answer["count"]) == (False, 1)
    assert (await get(http, "/_phones/wait?token=b&timeout=0"))["phones"] == []
    waiting = asyncio.create_task(get(http, "/_phones/wait?token=a&count=2&timeout=60"))
    while not (await get(http, "/_control/state"))["phones"]["waiting"]:
        pass
    await sandbox.stop()
    assert not (await waiting)["reached"]


@pytest.mark.parametrize("query", ["count=x", "count=-1", "timeout=61", "timeout=nan", "count="])
async def test_a_wait_is_a_number(http: aiohttp.ClientSession, query: str) -> None:
    async with http.get(f"/_phones/wait?{query}") as answer:
        assert answer.status == 400


def content(collapse: str | None = None) -> Content:
    return Content(
        vendor="fcm", name="n", kind="token", platform="android", shown_by="system", title="t", collapse=collapse
    )


def test_a_phone_forgets_its_oldest_deliveries_but_counts_them() -> None:
    phones = Phones(now=lambda: NOW, limits=PhoneLimits(deliveries_max=3))
    for _ in range(5):
        phones.deliver("a", content(), message=b"{}")
    (phone,) = phones.view(phones_max=1)
    assert phone["count"] == 5
    assert [each["seq"] for each in phone["received"]] == [3, 4, 5]  # type: ignore[attr-defined]


def test_a_screen_holds_so_many_notifications() -> None:
    phones = Phones(now=lambda: NOW)
    for _ in range(SHOWN_MAX + 5):
        phones.deliver("a", content(), message=b"{}")
    (phone,) = phones.view(phones_max=1)
    assert len(phone["shown"]) == SHOWN_MAX  # type: ignore[arg-type]


def test_the_phone_that_was_quiet_longest_goes_first() -> None:
    phones = Phones(now=lambda: NOW, limits=PhoneLimits(phones_max=2))
    for token in ("a", "b", "a", "c"):
        phones.deliver(token, content(), message=b"{}")
    assert [phone["token"] for phone in phones.view(phones_max=9)] == ["c", "a"]
    assert (len(phones), phones.forgotten, phones.delivered) == (2, 1, 4)


def test_memory_is_bounded_in_bytes() -> None:
    one = Phones(now=lambda: NOW)
    one.deliver("a", content(), message=b"{}")
    phones = Phones(now=lambda: NOW, limits=PhoneLimits(deliveries_max=2, bytes_max=4 * one.kept_bytes))
    for token in ("a", "a", "a", "b", "c"):  # the first `a` is forgotten by its phone: it no longer counts
        phones.deliver(token, content(), message=b"{}")
    assert len(phones) == 3
    phones.deliver("d", content(), message=b"{}")
    assert [phone["token"] for phone in phones.view(phones_max=9)] == ["d", "c", "b"]


# --- the page


async def test_the_page_is_static_and_under_a_strict_policy(http: aiohttp.ClientSession) -> None:
    for path, content_type in [
        ("/", "text/html"),
        ("/_page/phones.css", "text/css"),
        ("/_page/phones.js", "text/javascript"),
    ]:
        async with http.get(path) as answer:
            assert answer.status == 200
            assert answer.content_type == content_type
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            text = await answer.text()
            for forbidden in ("<style", "style=", "onclick", "innerHTML", "<script>", "eval(", "http://", "https://"):
                assert forbidden not in text


async def test_json_is_not_sniffed_for_markup(http: aiohttp.ClientSession, send: Send) -> None:
    await send("<b>", notification={"title": "<script>alert(1)</script>"})
    async with http.get("/_phones") as answer:
        assert answer.content_type == "application/json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--relay", "127.0.0.1:8080"], 2, "must be the URL of a relay"),
        (["--state", "file/below"], 1, "The sandbox can't start: [Errno 20] Not a directory"),
    ],
)
def test_what_the_command_cannot_do_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    done = CliRunner().invoke(main, ["sandbox", "--port", "0", *words])
    assert done.exit_code == code, done.output
    assert said in done.output
