"""What a vendor reports of a push, through the relay's public faces: the callback, the trace, the events; on both stores."""

import asyncio
import base64
import hmac
import io
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from relay_face import PUSHES_AT_ONCE, Face, served
from sqlalchemy import text
from structlog.testing import capture_logs

from relay.clock import SystemClock
from relay.push.from_settings import DEFAULT_APP
from relay.push.receipts import take
from relay.store.engine import Conn
from relay.store.events import DELIVERIES_MAX

SOON_S = 15.0
ON_ONE_STORE = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)  # it makes no difference there
CLOCK = SystemClock()
USER, SECRET, PATH_SECRET = "relay", "0ld-style secret", "0123456789abcdefABCDEF"


@dataclass
class Vendor:
    """Takes everything over, and names each push `r-1`, `r-2`, …"""

    sent: list[dict[str, Any]] = field(default_factory=list)

    async def login(self, _: web.Request) -> web.Response:
        return web.json_response({"access_token": "t1", "expires_in": 3600})

    async def send(self, request: web.Request) -> web.Response:
        self.sent.append((await request.json())["message"])
        return web.json_response({"code": "80000000", "msg": "Success", "requestId": f"r-{len(self.sent)}"})


@dataclass
class Scene:
    face: Face
    vendor: Vendor

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        data = io.BytesIO(body if isinstance(body, bytes) else json.dumps({"statuses": body}).encode())
        async with self.face.http.post(f"{self.face.url}/v1/receipts/{path}", data=data, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def report(self, *items: dict[str, Any], account: str = "hw") -> tuple[int, Any]:
        at_ms, nonce = str(CLOCK.now_ms()), "11111111-2222"
        value = base64.b64encode(hmac.digest(SECRET.encode(), f"{at_ms}{nonce}{USER}".encode(), "sha256")).decode()
        signed = f"timestamp={at_ms}; nonce={nonce}; value={value}"
        return await self.post(account, list(items), **{"X-HUAWEI-CALLBACK-ID": signed})

    async def pushed(self, said: Mapping[str, Any] | None = None, **push: Any) -> str:
        """A message that `ann`'s phone was told of; its id. `said`: beside its push."""
        message = await self.face.send(push={"title": "hi", **push}, **(said or {}))
        await self.face.attempted(message, lambda made: made and made[-1].get("vendor_id"))
        return message

    async def attempt(self, message: str) -> dict[str, Any]:
        return (await self.face.attempts(message))[-1]

    async def takes(self, count: int) -> None:
        """Waits until the vendor has had so many pushes."""
        async with asyncio.timeout(SOON_S):
            while len(self.vendor.sent) < count:
                await CLOCK.sleep(0.05)

    async def waiting(self, message: str) -> dict[str, Any]:
        _, trace, _ = await self.face.call("GET", f"/v1/messages/{message}")
        return dict(trace["recipients"][0]["devices"][0]["waiting"])

    async def addresses(self, **given: str) -> dict[str, str]:
        """The phone's accounts and the states of their addresses; `given`: it is registered with these tokens."""
        if given:
            chain = [{"account": account, "token": token} for account, token in given.items()]
            await self.face.call("PUT", "/v1/users/ann/devices/phone", {"addresses": chain})
        _, device, _ = await self.face.call("GET", "/v1/users/ann/devices/phone")
        return {one["account"]: one["state"] for one in device["addresses"]}

    async def events(self, count: int, kind: str = "delivery.vendor_receipt") -> list[dict[str, Any]]:
        """As soon as there are so many."""
        async with asyncio.timeout(SOON_S):
            while True:
                _, body, _ = await self.face.call("GET", f"/v1/events?types={kind}")
                if len(body["events"]) >= count:
                    return [event["data"] for event in body["events"]]
                await CLOCK.sleep(0.05)


@pytest.fixture
async def scene(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.chdir(tmp_path)
    vendor = Vendor()
    app = web.Application()
    app.add_routes([web.post("/token", vendor.login), web.post("/v1/1/messages:send", vendor.send)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    shared = f'provider = "huawei"\napp_id = "1"\napp_secret = "s"\nbase_url = "{url}"\ntoken_url = "{url}/token"\n'
    config = tmp_path / "relay.toml"
    config.write_text(
        f"[accounts.hw]\n{shared}receipts = {{ user = '{USER}', secret = '{SECRET}', path_secret = '{PATH_SECRET}' }}\n"
        f"[accounts.far]\n{shared}receipts = {{ path_secret = '{PATH_SECRET}', networks = ['192.0.2.0/24'] }}\n"
        f"[accounts.deaf]\n{shared}"
    )
    async with served(config, CLOCK, PUSHES_AT_ONCE | {"RELAY_STORE__URL": store_url}) as face:
        device = {"addresses": [{"account": "hw", "token": "tok-1"}]}
        assert (await face.call("PUT", "/v1/users/ann/devices/phone", device))[0] == 201
        yield Scene(face, vendor)
    await runner.cleanup()


def item(status: int, *, token: str = "tok-1", **more: Any) -> dict[str, Any]:
    return {"token": token, "appid": "1", "status": status, "timestamp": 1_764_000_000_000, "requestId": "r-1", **more}


async def test_a_receipt_refines_the_trace_once_and_tells_who_asked_for_it(scene: Scene) -> None:
    message = await scene.pushed(badge=3)
    assert await scene.report(item(0)) == (200, {"code": "0", "message": "success"})
    assert (await scene.report(item(0), item(0, biTag=message)))[0] == 200  # again, and again
    attempt = await scene.attempt(message)
    (receipt,) = attempt["receipts"]
    assert (receipt["fact"], receipt["code"], receipt["reason"]) == ("delivered", "0", None)
    assert receipt["at"].startswith("2025-11-24T")
    (event,) = await scene.events(1)
    assert (event["user"], event["device"], event["account"], event["fact"]) == ("ann", "phone", "hw", "delivered")
    assert [one["message_id"] for one in event["deliveries"]] == [message]

    # Even the worst of news ends no message: it is still owed.
    assert (await scene.report(item(2)))[0] == 200
    second = (await scene.events(2))[1]
    assert (second["reason"], second["token_dead"]) == ("uninstalled", True)
    _, trace, _ = await scene.face.call("GET", f"/v1/messages/{message}")
    assert trace["recipients"][0]["devices"][0]["state"] not in {"failed", "expired", "cancelled"}


async def test_a_receipt_finds_its_push_by_either_name_and_nothing_by_none(scene: Scene) -> None:
    message = await scene.pushed()
    assert scene.vendor.sent[0]["android"]["bi_tag"] == message
    assert (await scene.report(item(0, requestId="r-9")))[0] == 200
    assert (await scene.report(item(0, token="tok-2")))[0] == 200  # the console's sample names no token of ours
    assert (await scene.attempt(message))["receipts"] == []
    assert (await scene.report(item(15, requestId="r-9", biTag=message)))[0] == 200
    (receipt,) = (await scene.attempt(message))["receipts"]
    assert receipt["reason"] == "superseded"


async def test_of_several_pushes_in_one_attempt_each_has_its_receipts(scene: Scene) -> None:
    """Three messages are told one by one; the row has the names of the first alone."""
    bodies = [{"to": {"users": ["ann"]}, "body": n, "push": {"title": f"{n}"}} for n in range(3)]
    _, batch, _ = await scene.face.call("POST", "/v1/messages/batch", {"messages": bodies})
    ids = [one["id"] for one in batch["results"]]
    await scene.face.attempted(ids[2], lambda made: made and made[-1].get("vendor_id"))
    assert sorted(sent["android"]["bi_tag"] for sent in scene.vendor.sent) == sorted(ids)
    for place, message in enumerate(ids):
        assert (await scene.report(item(0, requestId=f"r-{place + 7}", biTag=message)))[0] == 200
    events = await scene.events(3)
    assert [[one["message_id"] for one in event["deliveries"]] for event in events] == [[id_] for id_ in ids]
    assert sorted(one["push_id"] for one in (await scene.attempt(ids[2]))["receipts"]) == sorted(ids)


@pytest.mark.parametrize("store_url", ["postgres"], indirect=True)
async def test_sec_5_a_receipt_is_taken_within_its_accounts_app_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key says whose it is: the account does."""
    message = await scene.pushed()
    named: list[str] = []

    def spying(conn: Conn, *args: Any, **more: Any) -> int:
        named.append(conn.execute(text("SELECT current_setting('relay.apps')")).scalar_one())
        return take(conn, *args, **more)

    monkeypatch.setattr("relay.push.receipts.take", spying)
    assert (await scene.report(item(0)))[0] == 200
    assert named == [f'{{"{DEFAULT_APP}"}}']
    assert len((await scene.attempt(message))["receipts"]) == 1, "its rows are found there"


@ON_ONE_STORE
async def test_of_very_many_messages_in_one_push_the_event_lists_the_newest(scene: Scene) -> None:
    """As many as any other event, so that the body of a webhook keeps its bound."""
    await scene.face.call("PUT", "/v1/users/ann/devices/phone", {"addresses": []})  # so that all go at once, later
    bodies = [{"to": {"users": ["ann"]}, "body": n, "push": {"title": f"{n}"}} for n in range(DELIVERIES_MAX + 10)]
    _, batch, _ = await scene.face.call("POST", "/v1/messages/batch", {"messages": bodies})
    ids = [one["id"] for one in batch["results"]]
    await scene.addresses(hw="tok-1")
    await scene.face.attempted(ids[-1], lambda made: made and made[-1].get("vendor_id") == "r-1")
    assert (await scene.report(item(0, biTag=scene.vendor.sent[0]["android"]["bi_tag"])))[0] == 200
    (event,) = await scene.events(1)
    assert [one["message_id"] for one in event["deliveries"]] == ids[10:]


@ON_ONE_STORE
async def test_what_comes_in_is_bounded(scene: Scene) -> None:
    message = await scene.pushed()
    assert (await scene.report(*(item(code) for code in range(1000, 1100))))[0] == 200
    assert len((await scene.attempt(message))["receipts"]) == 30
    status, problem = await scene.report(*[item(0)] * 1001)
    assert (status, problem["code"]) == (400, "json_invalid")
    status, problem = await scene.post(f"hw/{PATH_SECRET}", b"x" * (1024 * 1024 + 1))
    assert (status, problem["code"]) == (413, "body_too_large")


@ON_ONE_STORE
async def test_nobody_but_the_vendor_reports(scene: Scene) -> None:
    message = await scene.pushed()
    for path, status in (
        ("hw", 200),  # unsigned: as the console tests it; answered, and not believed
        (f"hw/{PATH_SECRET[:-1]}x", 401),
        ("none", 404),
        ("deaf", 404),
        (f"deaf/{PATH_SECRET}", 404),
        (f"far/{PATH_SECRET}", 404),  # the right secret, from the wrong place
    ):
        got, said = await scene.post(path, [item(0)])
        assert (got, said.get("status", 200)) == (status, status)
    wrong = {"X-HUAWEI-CALLBACK-ID": f"timestamp={CLOCK.now_ms()}; nonce=n; value=d3Jvbmc="}
    assert (await scene.post("hw", [item(0)], **wrong))[0] == 401
    assert (await scene.attempt(message))["receipts"] == []
    assert (await scene.post(f"hw/{PATH_SECRET}", [item(0)]))[0] == 200
    assert len((await scene.attempt(message))["receipts"]) == 1
    status, problem = await scene.post(f"hw/{PATH_SECRET}", b"<xml>")
    assert (status, problem["code"]) == (400, "json_invalid")


@ON_ONE_STORE
async def test_whoever_posts_what_no_vendor_would_fills_no_log(scene: Scene) -> None:
    ways = ((f"hw/{PATH_SECRET[:-1]}x", 401), (f"hw/{PATH_SECRET}", 400), ("hw", 200))
    with capture_logs() as lines:
        for path, status in ways * 10:
            assert (await scene.post(path, b"<xml>" if status == 400 else [item(0)]))[0] == status
    told = [one["event"] for one in lines if one["event"].startswith("receipts.")]
    assert sorted(told) == ["receipts.garbled", "receipts.ignored", "receipts.refused"]


@ON_ONE_STORE
async def test_the_trace_says_what_the_vendor_could_not_express(scene: Scene) -> None:
    message = await scene.pushed(title_loc_key="FROM", mutable=True, badge=3, image="http://app.example/i.png")
    # Huawei knows badges and images: of this account and this push it shows neither.
    assert (await scene.attempt(message))["left_out"] == ["mutable", "badge", "image"]
    shown = scene.vendor.sent[0]["android"]["notification"]
    assert (shown["title"], shown["title_loc_key"]) == ("hi", "FROM")


@pytest.mark.parametrize(("status", "reason"), [(2, "uninstalled"), (6, "muted")])
async def test_where_a_receipt_says_that_nobody_is_the_next_address_is_told(
    scene: Scene, status: int, reason: str
) -> None:
    await scene.addresses(hw="tok-1", deaf="tok-2")
    message = await scene.pushed()
    assert [sent["token"] for sent in scene.vendor.sent] == [["tok-1"]]
    assert (await scene.report(item(status, biTag=message)))[0] == 200
    (event,) = await scene.events(1, "device.token_invalid")
    assert (event["user"], event["device"], event["account"], event["code"]) == ("ann", "phone", "hw", str(status))
    assert await scene.addresses() == {"hw": "dead", "deaf": "active"}
    async with asyncio.timeout(SOON_S):
        while len(scene.vendor.sent) < 2:
            await CLOCK.sleep(0.05)
    again = scene.vendor.sent[1]
    assert (again["token"], again["android"]["bi_tag"]) == (["tok-2"], message)
    (receipt,) = await scene.events(1)
    assert (receipt["reason"], receipt["token_dead"]) == (reason, True)
    assert (await scene.report(item(status, biTag=message)))[0] == 200  # again: nothing is left to be done
    assert len(await scene.events(1, "device.token_invalid")) == 1


@ON_ONE_STORE
async def test_all_that_a_dead_token_was_told_is_told_to_the_next_address(scene: Scene) -> None:
    await scene.addresses(hw="tok-1", deaf="tok-2")
    ids = [await scene.pushed(), await scene.pushed()]
    assert (await scene.report(*(item(5, requestId=f"r-{n}", biTag=ids[n - 1]) for n in (2, 1))))[0] == 200
    async with asyncio.timeout(SOON_S):
        while len(scene.vendor.sent) < 4:
            await CLOCK.sleep(0.05)
    assert sorted(sent["android"]["bi_tag"] for sent in scene.vendor.sent[2:]) == sorted(ids)


@ON_ONE_STORE
async def test_what_has_been_registered_since_the_push_is_not_called_dead(scene: Scene) -> None:
    message = await scene.pushed()
    await scene.addresses(hw="tok-1")
    assert (await scene.report(item(2, biTag=message)))[0] == 200
    assert (await scene.events(1))[0]["token_dead"], "it is passed on"
    assert await scene.addresses() == {"hw": "active"}


@ON_ONE_STORE
async def test_receipts_that_call_very_many_tokens_dead_are_not_believed(scene: Scene) -> None:
    message = await scene.pushed()
    others = (item(2, token=f"other-{n}") for n in range(60))
    assert (await scene.report(*others, item(2, biTag=message)))[0] == 200
    assert (await scene.events(1))[0]["token_dead"], "it is passed on"
    assert await scene.addresses() == {"hw": "active"}


@pytest.mark.parametrize("named", ["chat", None])
async def test_what_is_over_a_device_s_number_for_the_day_goes_to_the_next_address_and_so_does_more_of_its_sort(
    scene: Scene, named: str | None
) -> None:
    """Vendor sheet huawei, §9, status 256. The address is good: what is of another channel goes there all the same."""
    await scene.addresses(hw="tok-1", deaf="tok-2")
    message = await scene.pushed(channel=named)
    assert (await scene.report(item(256, biTag=message, timestamp=CLOCK.now_ms())))[0] == 200
    await scene.takes(2)
    assert await scene.addresses() == {"hw": "active", "deaf": "active"}
    await scene.pushed(channel=named)
    await scene.pushed(channel="orders")
    sent = [(one["token"][0], one["android"]["bi_tag"] == message) for one in scene.vendor.sent]
    assert sent == [("tok-1", True), ("tok-2", True), ("tok-2", False), ("tok-1", False)]


async def test_all_that_was_over_it_is_told_to_the_next_address_also_if_the_last_one_s_receipt_comes_first(
    scene: Scene,
) -> None:
    await scene.addresses(hw="tok-1", deaf="tok-2")
    first, second = await scene.pushed(), await scene.pushed()
    now_ms = CLOCK.now_ms()
    over = [item(256, biTag=id_, requestId=f"r-{n}", timestamp=now_ms) for n, id_ in ((2, second), (1, first))]
    assert (await scene.report(*over))[0] == 200
    await scene.takes(4)
    told = [(one["token"][0], one["android"]["bi_tag"]) for one in scene.vendor.sent]
    assert told == [("tok-1", first), ("tok-1", second), ("tok-2", first), ("tok-2", second)]


@ON_ONE_STORE
@pytest.mark.parametrize("at_ms", [None, 1_764_000_000])  # the latter: a vendor that counts seconds
async def test_without_another_address_it_waits_for_the_vendor_s_midnight(scene: Scene, at_ms: int | None) -> None:
    message = await scene.pushed()
    assert (await scene.report(item(256, biTag=message, timestamp=at_ms or CLOCK.now_ms())))[0] == 200
    async with asyncio.timeout(SOON_S):
        while (await scene.waiting(message))["reason"] != "quota":
            await CLOCK.sleep(0.05)
    until = datetime.fromisoformat((await scene.waiting(message))["until"])
    assert (until.hour, until.minute) == (16, 0), "in Beijing it is midnight"
    assert len(scene.vendor.sent) == 1


@ON_ONE_STORE
async def test_what_the_app_is_too_old_for_was_of_the_sort_that_it_was_shown_as(scene: Scene) -> None:
    message = await scene.pushed(
        {"min_schema": 5, "push_held": {"title": "update the app", "channel": "orders"}}, channel="chat"
    )
    assert (await scene.report(item(256, biTag=message, timestamp=CLOCK.now_ms())))[0] == 200
    async with asyncio.timeout(SOON_S):
        while (await scene.waiting(message))["reason"] != "quota":
            await CLOCK.sleep(0.05)
    assert len(scene.vendor.sent) == 1


@ON_ONE_STORE
async def test_what_was_over_the_number_of_another_day_is_told_again_at_once(scene: Scene) -> None:
    message = await scene.pushed()
    day_ms = 86_400_000
    await scene.face.relay.engine.write(
        lambda conn, _: conn.execute(text(f"UPDATE push_attempt SET started_ms = started_ms - {day_ms}"))
    )
    assert (await scene.report(item(256, biTag=message, timestamp=CLOCK.now_ms() - day_ms)))[0] == 200
    await scene.takes(2)
    assert [one["token"] for one in scene.vendor.sent] == [["tok-1"], ["tok-1"]]


@ON_ONE_STORE
async def test_what_another_node_sent_there_meanwhile_is_not_told_again_and_again(scene: Scene) -> None:
    await scene.addresses(hw="tok-1", deaf="tok-2")
    first = await scene.pushed()
    over = [item(256, biTag=first, timestamp=CLOCK.now_ms())]
    assert (await scene.report(*over))[0] == 200
    await scene.takes(2)
    account = scene.face.relay.accounts.get(DEFAULT_APP, "hw")
    assert account is not None
    account.mended()  # as a node that has not heard of it
    second = await scene.pushed()
    assert (await scene.report(item(256, biTag=second, requestId="r-3", timestamp=CLOCK.now_ms())))[0] == 200
    assert len(await scene.events(2)) == 2
    third = await scene.pushed()  # goes with all that the phone has not been told of
    told = [(one["token"][0], one["android"]["bi_tag"]) for one in scene.vendor.sent]
    assert told == [("tok-1", first), ("tok-2", first), ("tok-1", second), ("tok-2", third)]
