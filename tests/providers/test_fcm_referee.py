"""Google's own client, firebase-admin, against our FCM emulator: what it takes for good FCM, we must serve as such."""

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from providers.sandbox import Sandbox
from providers.sandbox.fcm import FcmEmulator
from relay.clock import SystemClock

if not os.environ.get("CI"):
    pytest.importorskip("firebase_admin", reason="pip install '.[referees]'")
import firebase_admin
from firebase_admin import credentials, exceptions, messaging

# It calls registration tokens deprecated, in favour of installation ids. Both are served (sheet fcm §4).
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated. Use .*fids? instead:DeprecationWarning")

CLOCK = SystemClock()
# A fault's word, and what the client raises for it.
RAISED: dict[str, type[Exception]] = {
    "unregistered": messaging.UnregisteredError,
    "mismatch": messaging.SenderIdMismatchError,
    "thirdparty": messaging.ThirdPartyAuthError,
    "apnsauth": messaging.ThirdPartyAuthError,
    "quotabare": messaging.QuotaExceededError,  # with a Retry-After the client waits by itself
    "devicequota": messaging.QuotaExceededError,
    "topicquota": messaging.QuotaExceededError,
    "overload": exceptions.ResourceExhaustedError,
    "badtoken": exceptions.InvalidArgumentError,
    "packagename": exceptions.InvalidArgumentError,
    "badfield": exceptions.InvalidArgumentError,
    "toobig": exceptions.InvalidArgumentError,
    "forbidden": exceptions.PermissionDeniedError,
    "apidisabled": exceptions.PermissionDeniedError,
    "notfound": exceptions.NotFoundError,
}


@pytest.fixture
def tls() -> bool:
    return False


@pytest.fixture
async def sandbox(tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(
        now=lambda: CLOCK.now_ms() / 1000,
        rng=random.Random(1),
        vendors=["fcm"],
        state_dir=tmp_path,
        slow_s=0.05,
        tls=tls,
    )
    await sandbox.start()
    if tls:
        for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):  # for its logins, and for its client by HTTP/2
            monkeypatch.setenv(name, str(sandbox.emulators["fcm"].host.authority.file))
    yield sandbox
    await sandbox.stop()


@pytest.fixture
def google(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[firebase_admin.App]:
    """A client of the sandbox's project. Of its addresses, all but the token endpoint's are constants."""
    emulator = sandbox.emulators["fcm"]
    assert isinstance(emulator, FcmEmulator)
    service = messaging._MessagingService
    monkeypatch.setattr(service, "FCM_URL", emulator.url + "/v1/projects/{0}/messages:send")
    document = {**emulator.account.document, "token_uri": f"{emulator.url}/token"}
    app = firebase_admin.initialize_app(credentials.Certificate(document), name="referee")
    topics = f"{emulator.url}/v1/projects/{emulator.account.project_id}/registrations"
    monkeypatch.setattr(messaging._get_messaging_service(app), "_fcm_topic_url", topics)
    yield app
    firebase_admin.delete_app(app)


def received(sandbox: Sandbox, token: str) -> list[dict[str, Any]]:
    phones: list[Any] = sandbox.phones.view(token=token, phones_max=1)
    return list(phones[0]["received"]) if phones else []


@pytest.mark.parametrize("target", ["token", "fid"])
async def test_a_message_with_all_that_it_can_say_arrives(
    sandbox: Sandbox, google: firebase_admin.App, target: str
) -> None:
    message = messaging.Message(
        **{target: "phone-1"},
        data={"order": "42"},
        notification=messaging.Notification(title="Ann", body="hello", image="https://example.com/a.png"),
        android=messaging.AndroidConfig(
            collapse_key="c",
            priority="high",
            ttl=3600,
            notification=messaging.AndroidNotification(
                channel_id="chat",
                tag="t",
                sound="default",
                color="#ff0000",
                notification_count=3,
                vibrate_timings_millis=[1],
            ),
            fcm_options=messaging.AndroidFCMOptions(analytics_label="label"),
        ),
        apns=messaging.APNSConfig(
            headers={"apns-priority": "10"},
            payload=messaging.APNSPayload(aps=messaging.Aps(badge=3, sound="default", mutable_content=True)),
        ),
        webpush=messaging.WebpushConfig(headers={"TTL": "60"}, data={"a": "b"}),
        fcm_options=messaging.FCMOptions(analytics_label="label"),
    )
    name = await asyncio.to_thread(messaging.send, message, app=google)
    assert name.startswith("projects/relay-sandbox/messages/")
    (got,) = received(sandbox, "phone-1")
    assert (got["title"], got["body"], got["data"]) == ("Ann", "hello", {"order": "42"})


async def test_a_dry_run_is_checked_and_reaches_nobody(sandbox: Sandbox, google: firebase_admin.App) -> None:
    note = messaging.Notification(title="Ann")
    await asyncio.to_thread(
        messaging.send, messaging.Message(token="phone-1", notification=note), dry_run=True, app=google
    )
    with pytest.raises(exceptions.InvalidArgumentError):
        await asyncio.to_thread(
            messaging.send, messaging.Message(token="badtoken-1", notification=note), dry_run=True, app=google
        )
    assert not received(sandbox, "phone-1")


async def test_each_refusal_raises_the_client_s_own_error(google: firebase_admin.App) -> None:
    found = {}
    for word in RAISED:
        message = messaging.Message(token=f"{word}-1", notification=messaging.Notification(title="Ann"))
        with pytest.raises(exceptions.FirebaseError) as raised:
            await asyncio.to_thread(messaging.send, message, app=google)
        found[word] = type(raised.value)
    assert found == RAISED


async def test_each_message_of_many_has_its_own_result(sandbox: Sandbox, google: firebase_admin.App) -> None:
    messages = [messaging.Message(token=token, data={"a": "b"}) for token in ("phone-1", "unregistered-1", "phone-2")]
    each = await asyncio.to_thread(messaging.send_each, messages, app=google)
    same = await asyncio.to_thread(
        messaging.send_each_for_multicast,
        messaging.MulticastMessage(tokens=["phone-1", "mismatch-1"], data={"a": "b"}),
        app=google,
    )
    assert (each.success_count, each.failure_count, same.success_count, same.failure_count) == (2, 1, 1, 1)
    assert isinstance(each.responses[1].exception, messaging.UnregisteredError)
    assert isinstance(same.responses[1].exception, messaging.SenderIdMismatchError)
    assert (len(received(sandbox, "phone-1")), len(received(sandbox, "phone-2"))) == (2, 1)


@pytest.mark.parametrize("tls", [True])
async def test_its_client_by_http2_finds_the_same(
    sandbox: Sandbox, google: firebase_admin.App, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = [f"phone-{n}" for n in range(40)] + [f"{word}-1" for word in RAISED]
    messages = [messaging.Message(token=token, data={"a": "b"}) for token in tokens]

    async def send() -> messaging.BatchResponse:
        each = await messaging.send_each_async(messages, app=google)
        await messaging._get_messaging_service(google)._async_client.aclose()
        return each

    with caplog.at_level(logging.INFO, logger="httpx"):
        each = await asyncio.to_thread(asyncio.run, send())  # it logs in without letting others run
    said = [type(one.exception) if one.exception else None for one in each.responses]
    assert said == [None] * 40 + list(RAISED.values())
    assert [len(received(sandbox, token)) for token in tokens[:40]] == [1] * 40
    assert {"HTTP/2 " in line for line in caplog.messages} == {True}


async def test_who_subscribes_to_a_topic_gets_what_is_sent_to_it(sandbox: Sandbox, google: firebase_admin.App) -> None:
    message = messaging.Message(topic="news", data={"a": "b"})
    first = await asyncio.to_thread(messaging.subscribe_to_topic, ["phone-1", "phone-2"], "news", app=google)
    gone = await asyncio.to_thread(messaging.unsubscribe_from_topic, "phone-2", "news", app=google)
    await asyncio.to_thread(messaging.send, message, app=google)
    assert (first.success_count, gone.success_count) == (2, 1)
    assert (len(received(sandbox, "phone-1")), received(sandbox, "phone-2")) == (1, [])


async def test_an_access_token_that_is_revoked_is_renewed_unseen(sandbox: Sandbox, google: firebase_admin.App) -> None:
    message = messaging.Message(token="phone-1", data={"a": "b"})
    for _ in range(2):
        await asyncio.to_thread(messaging.send, message, app=google)
        sandbox.emulators["fcm"].revoke(key=False)
    assert len(received(sandbox, "phone-1")) == 2
    sandbox.emulators["fcm"].revoke(key=True)
    with pytest.raises(Exception, match="Invalid JWT Signature"):
        await asyncio.to_thread(messaging.send, message, app=google)
