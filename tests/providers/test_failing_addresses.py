"""Answers that mean a dead address if they go on: every row of the sheets that says so, and for how long."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from providers.contract import Outcome, Push, Scope, Verdict
from providers.gotify import GotifyProvider
from providers.harmony import HarmonyProvider
from providers.honor import HonorProvider
from providers.http import Response
from providers.loading import build
from providers.ntfy import NtfyProvider
from providers.testing import NOW_S, Scripted
from providers.unifiedpush import UnifiedPushProvider
from providers.webpush import WebPushProvider
from providers.webpush_crypto import base64url, private_key, public_bytes
from providers.xiaomi import XiaomiProvider

DAY_S = 86_400.0
KEYS = {
    "p256dh": base64url(public_bytes(private_key("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"))),
    "auth": "BTBZMqHH6r4Tts7J_aSIgg",
}
VAPID = {
    "vapid_private_key": "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw",
    "vapid_subject": "mailto:push@example.com",
}
_PEM = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
KEY_FILE = {"project_id": "1", "key_id": "k", "private_key": _PEM.decode(), "sub_account": "s"}
LOGIN = Response(status=200, body=b'{"access_token":"t1","expires_in":3600,"token_type":"Bearer"}')

FIREFOX = "https://updates.push.services.mozilla.com/wpush/v2/"
CHROME = "https://fcm.googleapis.com/fcm/send/"


def answer(status: int, **body: Any) -> Response:
    return Response(status=status, body=json.dumps(body).encode())


def at(endpoint: str) -> str:
    return json.dumps({"endpoint": endpoint, "keys": KEYS})


def told(provider: type, settings: dict[str, Any], token: str, answers: Sequence[Response]) -> Outcome:
    """The outcome of the last of these calls, each with its answer."""
    left = list(answers)
    made = build(provider, settings, transport=Scripted(lambda _: left.pop(0)), now=lambda: NOW_S)
    outcome = None
    while left:
        outcome = asyncio.run(made.send(Push(id="m-1", token=token, title="Ann", body="hi")))
    assert outcome is not None
    return outcome


XIAOMI = {"package": "org.example.chat", "app_secret": "s3cr3t-xiaomi-value", "channels": {"default": "100001"}}
HONOR = {"app_id": "900000001", "client_id": "b2f9", "client_secret": "s3cr3t-client-secret"}
GOTIFY = {"hosts": ["example.org"]}
GOTIFY_PLACE = '{"url":"https://push.example.org","token":"Atoken-1"}'
NTFY = at("https://ntfy.example.org/upAbc?up=1")


@pytest.mark.parametrize(
    ("provider", "settings", "token", "answers", "verdict", "dead_after_s"),
    [
        pytest.param(  # xiaomi §5: "keep token; count, DROP after many days"
            XiaomiProvider, XIAOMI, "reg-1", [answer(200, code=65003)], Verdict.RETRY, 30 * DAY_S, id="xiaomi 65003"
        ),
        pytest.param(  # honor §4: "retry once later; DROP only after repeated failure"
            HonorProvider,
            HONOR,
            "tok-1",
            [LOGIN, answer(200, code=200, data={"sendResult": False, "failTokens": ["tok-1"]})],
            Verdict.RETRY,
            DAY_S,
            id="honor failTokens",
        ),
        pytest.param(  # unifiedpush §5: "DROP_TOKEN only after N days"
            UnifiedPushProvider, VAPID, NTFY, [answer(403)], Verdict.MISCONFIGURED, 7 * DAY_S, id="unifiedpush 403"
        ),
        pytest.param(
            UnifiedPushProvider, VAPID, NTFY, [answer(401)], Verdict.MISCONFIGURED, 7 * DAY_S, id="unifiedpush 401"
        ),
        pytest.param(  # "DROP_TOKEN only after long silence"
            UnifiedPushProvider, VAPID, NTFY, [answer(507)], Verdict.RETRY, 7 * DAY_S, id="unifiedpush 507"
        ),
        pytest.param(UnifiedPushProvider, VAPID, NTFY, [answer(503)], Verdict.RETRY, None, id="unifiedpush 503"),
        pytest.param(  # others §1.5: "see unifiedpush"
            NtfyProvider,
            {},
            "upAbc",
            [answer(507, code=50701, http=507)],
            Verdict.RETRY,
            7 * DAY_S,
            id="ntfy 50701",
        ),
        pytest.param(  # others §2: "after several hits over days DROP_TOKEN by policy"
            GotifyProvider, GOTIFY, GOTIFY_PLACE, [answer(401)], Verdict.MISCONFIGURED, 7 * DAY_S, id="gotify 401"
        ),
        pytest.param(GotifyProvider, GOTIFY, GOTIFY_PLACE, [answer(404)], Verdict.MISCONFIGURED, None, id="gotify 404"),
    ],
)
def test_what_the_sheets_call_dead_if_it_goes_on(
    provider: type,
    settings: dict[str, Any],
    token: str,
    answers: list[Response],
    verdict: Verdict,
    dead_after_s: float | None,
) -> None:
    outcome = told(provider, settings, token, answers)
    assert (outcome.verdict, outcome.scope, outcome.dead_after_s) == (verdict, Scope.TOKEN, dead_after_s)


TAKEN = Response(status=201)


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(Response(status=403), id="as the RFC has it"),
        pytest.param(answer(401, code=401, errno=109, error="Unauthorized"), id="as Mozilla does"),  # webpush §2, §6.1
    ],
)
@pytest.mark.parametrize(
    ("taken_by", "dead_after_s"),
    [
        pytest.param(FIREFOX, DAY_S, id="others of its origin get through"),
        pytest.param(CHROME, None, id="those of another origin do"),
        pytest.param(None, None, id="nobody does"),
    ],
)
def test_a_subscription_is_made_with_another_key_if_ours_is_good_at_its_origin(
    refused: Response, taken_by: str | None, dead_after_s: float | None
) -> None:
    """webpush §5: "if *only this* subscription fails: DROP_TOKEN; if all of an origin fail: CONFIG_ALERT"."""
    left = [refused, refused] if taken_by is None else [TAKEN, refused, refused]
    provider = build(WebPushProvider, VAPID, transport=Scripted(lambda _: left.pop(0)), now=lambda: NOW_S)
    if taken_by is not None:
        asyncio.run(provider.send(Push(id="m-1", token=at(f"{taken_by}abc"), title="Ann")))
    outcome = asyncio.run(provider.send(Push(id="m-2", token=at(f"{FIREFOX}def"), title="Ann")))
    assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, Scope.TOKEN)
    assert outcome.dead_after_s == dead_after_s


def test_no_subscription_is_dead_by_what_all_of_its_origin_are_refused_for() -> None:
    """It is so for a day before it is dead: if it was so for all, then our key is no good to that origin any more."""
    clock, left = [NOW_S], [TAKEN, *[Response(status=403)] * 4]
    provider = build(WebPushProvider, VAPID, transport=Scripted(lambda _: left.pop(0)), now=lambda: clock[0])
    dead_after = []
    for later_s in (0, 60, DAY_S):
        clock[0] = NOW_S + later_s
        outcome = asyncio.run(provider.send(Push(id="m-1", token=at(f"{FIREFOX}{later_s > 0}"), title="Ann")))
        dead_after.append(outcome.dead_after_s)
    assert dead_after == [None, DAY_S, None]


NO_RIGHT = answer(
    200, code="80100000", msg=json.dumps({"success": 0, "failure": 1, "illegalTokens": {"noRight": ["tok-2"]}})
)
SENT = answer(200, code="80000000", msg="Success", requestId="r-1")


@pytest.mark.parametrize(
    ("before", "dead_after_s"),
    [pytest.param([SENT], DAY_S, id="the project is right"), pytest.param([], None, id="it may be wrong")],
)
def test_a_token_of_another_project_is_dead_where_those_of_ours_work(
    before: list[Response], dead_after_s: float | None
) -> None:
    """huawei §5, noRight: "DROP after it repeats; if many at once → FIX (wrong project id)"."""
    outcome = told(HarmonyProvider, {"service_account": KEY_FILE, "category": "IM"}, "tok-2", [*before, NO_RIGHT])
    assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, Scope.TOKEN)
    assert outcome.dead_after_s == dead_after_s


def test_in_a_call_for_many_it_concerns_that_token_alone() -> None:
    answered = answer(
        200, code="80100000", msg=json.dumps({"success": 1, "failure": 1, "illegalTokens": {"noRight": ["tok-2"]}})
    )
    settings = {"service_account": KEY_FILE, "category": "IM"}
    provider = build(HarmonyProvider, settings, transport=Scripted(lambda _: answered), now=lambda: NOW_S)
    pushes = [Push(id="m-1", token=token, title="Ann", body="hi") for token in ("tok-1", "tok-2")]
    first, second = asyncio.run(provider.send_many(pushes))  # type: ignore[attr-defined]
    assert (first.verdict, second.dead_after_s) == (Verdict.ACCEPTED, DAY_S)


@pytest.mark.parametrize(
    ("provider", "settings", "token", "host"),
    [
        (WebPushProvider, VAPID, at(FIREFOX + "x"), "push.services.mozilla.com"),
        (WebPushProvider, VAPID, at("https://wns2-am3p.notify.windows.com/w/?token=x"), "notify.windows.com"),
        (UnifiedPushProvider, VAPID, NTFY, "ntfy.example.org"),
        (UnifiedPushProvider, VAPID, at("https://wns2-am3p.notify.windows.com/w"), "wns2-am3p.notify.windows.com"),
        (GotifyProvider, GOTIFY, GOTIFY_PLACE, "push.example.org"),
        (UnifiedPushProvider, VAPID, "no address", ""),
        (GotifyProvider, GOTIFY, "no address", ""),
    ],
)
def test_where_a_device_is_reached(provider: type, settings: dict[str, Any], token: str, host: str) -> None:
    """Sheets webpush §6.3 and others §7: a host that calls many dead at once is not believed."""
    made = build(provider, settings, transport=Scripted(lambda _: LOGIN), now=lambda: NOW_S)
    assert made.host(token) == host  # type: ignore[attr-defined]
