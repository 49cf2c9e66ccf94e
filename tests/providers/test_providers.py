"""The public face of `providers`: names, loading, the shell's helpers, the log provider."""

import importlib
import logging
import time
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest

import providers
from providers.contract import CONTRACT_VERSION, Capabilities, Outcome, ProviderConfig, Push, Scope, Verdict, slimmer
from providers.fcm import FcmProvider
from providers.http import Response, by_status, code_from, json_body, retry_after_s
from providers.http_call import HttpCallProvider
from providers.huawei import HuaweiProvider
from providers.loading import SettingsInvalid, build, configured, discover
from providers.log import LogProvider
from providers.oppo import OppoProvider
from providers.testing import NOW_S, Scripted
from providers.xiaomi import XiaomiProvider

PUBLIC = {
    "providers.apns": "ApnsConfig ApnsProvider",
    "providers.batch": "alike",
    "providers.contract": """AddressInvalid BatchProvider CONTRACT_VERSION Capabilities Outcome Provider ProviderConfig Push
        RecallProvider Scope
        Transport Verdict left_out slimmer""",
    "providers.endpoints": "EndpointConfig GuardedConfig host_names on_host",
    "providers.fcm": "FcmConfig FcmProvider",
    "providers.fcm_config": "FcmConfig ServiceAccount TOKEN_URL",
    "providers.fcm_message": "message_of payload_bytes ttl",
    "providers.fcm_overrides": "DURATION LABEL RESERVED_KEY TTL_S_MAX override_mistakes",
    "providers.gotify": "GotifyConfig GotifyProvider",
    "providers.guard": "Exemption Guard Target TargetRefused address_denied parse_target",
    "providers.answers": "THROTTLED_S bearer_from by_status code_from json_body no_login number_from retry_after_s",
    "providers.http": """Credential HttpProvider THROTTLED_S Reason Refusal Request RequestInvalid Response TransportError
        bearer_from by_status code_from json_body no_login number_from retry_after_s""",
    "providers.http_call": "HttpCallConfig HttpCallProvider secret_key sign",
    "providers.http2": "Habits Http2Transport Limits tls_context",
    "providers.loading": "GROUP Loaded OwnedTransport SettingsInvalid build configured discover names transport_for",
    "providers.settings": "ByChannel CLASS_NAME DIGITS PlainSecret WakeText not_blank plain",
    "providers.log": "LogConfig LogProvider",
    "providers.ntfy": "NtfyConfig NtfyProvider",
    "providers.testing": "NOW_S ProviderContract Scripted",
    "providers.unifiedpush": "UnifiedPushConfig UnifiedPushProvider",
    "providers.vapid": "Signer VapidConfig",
    "providers.webpush": "WebPushConfig WebPushProvider",
    "providers.webpush_answers": "KEY_MISMATCH SIGNATURE_REFUSED outcome_of",
    "providers.wire": "Credential Reason Refusal Request RequestInvalid Response TransportError",
    "providers.transport": "HttpTransport Resolve system_resolve",
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names(name: str) -> None:
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(PUBLIC[name].split())
    assert all(hasattr(module, public) for public in module.__all__)


def test_every_verdict_and_scope() -> None:
    assert {verdict.value for verdict in Verdict} == {
        *("accepted", "retry", "reauth", "token_dead", "refused", "too_large", "misconfigured")
    }
    assert {scope.value for scope in Scope} == {"message", "token", "account"}


def test_a_push_does_not_show_what_is_private() -> None:
    words = {
        "token": "tok-en",
        "title": "Ti-tle",
        "body": "Bo-dy",
        "image": "im-age",
        "click": "cl-ick",
        "sealed": "se-al",
    }
    push = Push(
        **{"id": "m", **words},
        title_loc_args=("Na-me",),
        body_loc_args=("ro-om",),
        data={"k": "v-al"},
        overrides={"k": "ow-n"},
        relay={"ids": ["i-d"]},
    )
    for private in (*words.values(), "Na-me", "ro-om", "v-al", "ow-n", "i-d"):
        assert private not in repr(push)


# Cutting ids.


def test_ids_are_halved_the_newest_stay_then_they_go() -> None:
    push: Push | None = Push(id="m", token="t", relay={"v": 1, "ids": list("abcde"), "n": 5})
    left = []
    while push is not None:
        left.append("".join(push.relay.get("ids", "-")))
        assert (push.relay["v"], push.relay["n"]) == (1, 5)
        push = slimmer(push)
    assert left == ["abcde", "de", "e", "-"]
    assert slimmer(Push(id="m", token="t")) is None


# The helpers.


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("30", 30),
        ("0", 1),
        ("99999", 3600),
        ("9" * 400, 3600),
        ("Mon, 24 Nov 2025 16:01:00 GMT", 60),
        ("Mon, 24 Nov 2025 15:00:00 GMT", 1),
        ("Monday, 24-Nov-25 16:01:00 GMT", 60),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣٠", None),
        ("Mon, 99 Nov 2025 16:01:00 GMT", None),
        ("Mon, 24 Nov 999999 16:01:00 GMT", None),
    ],
)
def test_retry_after(text: str, wait_s: float | None) -> None:
    assert retry_after_s(Response(status=503, headers={"Retry-After": text}), now_s=NOW_S) == wait_s


def test_a_date_without_a_zone_is_gmt_wherever_the_relay_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9110, 5.6.7: asctime's form."""
    response = Response(status=503, headers={"Retry-After": "Mon Nov 24 16:01:00 2025"})
    try:
        for zone in ("UTC", "Asia/Shanghai", "America/Los_Angeles"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert retry_after_s(response, now_s=NOW_S) == 60, zone
    finally:
        monkeypatch.undo()
        time.tzset()


def test_no_status_alone_kills_a_token() -> None:
    for status in range(100, 600):
        outcome = by_status(Response(status=status), now_s=NOW_S)
        assert outcome.verdict not in {Verdict.TOKEN_DEAD, Verdict.ACCEPTED}
        if status >= 500:
            assert outcome.verdict is Verdict.RETRY


def test_json_never_raises() -> None:
    for body in (b"", b"[1]", b"nul", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b'{"a":NaN}', b"9" * 10_000):
        assert Response(status=200, body=body).json() == {}
    assert Response(status=200, body=b'{"a":1}').json() == {"a": 1}
    assert json_body({"a": "\ud800é"}) == b'{"a":"?\xc3\xa9"}'


def test_a_code_is_a_word_or_a_number_not_a_text() -> None:
    assert code_from("UNREGISTERED") == "UNREGISTERED"
    assert code_from(1101) == "1101"
    for value in ("a text", "", "x" * 65, "a\nb", 7.5, True, 10**18, None, ["x"]):
        assert code_from(value, "other") == "other"


# Loading.


def test_ours_are_found_like_anyones() -> None:
    found = {loaded.name: loaded for loaded in discover()}
    for name, provider in (("fcm", FcmProvider), ("http", HttpCallProvider), ("log", LogProvider)):
        assert found[name].provider is provider
        assert found[name].origin.startswith("push-relay ")
        assert found[name].reason is None


class Fine(LogProvider):
    name: ClassVar[str] = "fine"


class Ancient(Fine):
    contract: ClassVar[int] = CONTRACT_VERSION + 1


class Unfinished(HttpCallProvider):
    name: ClassVar[str] = "fine"
    Config: ClassVar[type[Any]] = dict


class Wordless:
    name = "fine"
    capabilities = Capabilities(payload_bytes_max=1, ttl_s_max=1)
    Config = ProviderConfig


not_a_class = 7


def points(*names: tuple[str, str]) -> Iterator[EntryPoint]:
    for name, value in names:
        yield EntryPoint(name=name, value=value, group="relay.providers")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("fine", "no.such.module:X", "cannot be imported: ModuleNotFoundError"),
        ("fine", f"{__name__}:Missing", "cannot be imported: AttributeError"),
        ("fine", f"{__name__}:not_a_class", "not a class"),
        ("fine", f"{__name__}:Ancient", "contract version"),
        ("other", f"{__name__}:Fine", "names itself 'fine'"),
        ("fine", f"{__name__}:Unfinished", "Config"),
        ("fine", f"{__name__}:Wordless", "has no send, aclose, address, check_overrides"),
    ],
)
def test_a_broken_plug_in_breaks_only_itself(name: str, value: str, reason: str) -> None:
    broken, good = discover(
        [*points((name, value)), *points(("zzz", f"{__name__}:Fine"), ("fcm", "providers.fcm:FcmProvider"))]
    )[0:2]
    listed = {loaded.name: loaded for loaded in (broken, good)}
    assert listed["fcm"].provider is FcmProvider
    assert listed[name].provider is None
    assert reason in (listed[name].reason or "")


def test_a_name_can_be_taken_once() -> None:
    first, second = discover(points(("fine", f"{__name__}:Fine"), ("fine", f"{__name__}:Fine")))
    assert first.provider is Fine
    assert second.provider is None
    assert "belongs to" in (second.reason or "")


BY_CHANNEL = {"default": {"channel": "x"}, "chat": {"chanel_id": "x", "category": "im"}}


@pytest.mark.parametrize(
    ("provider", "settings", "said"),
    [
        (OppoProvider, {"classes": BY_CHANNEL}, "classes.default.channel: is not known; did you mean channel_id?"),
        (OppoProvider, {"classes": BY_CHANNEL}, "classes.chat.category: must be a category in capitals, like IM"),
        (
            OppoProvider,
            {"classes": {"default": {"x": 1}}},
            "classes.default.x: is not known; there are: body_parameter, category, ",
        ),
        (OppoProvider, {"master_secre": "x"}, "master_secre: is not known; did you mean master_secret?"),
        (HuaweiProvider, {"app_id": "x"}, "app_id: must be 1 to 32 digits"),
        (HuaweiProvider, {"app_secret": ""}, "app_secret: must not be empty"),
        (HuaweiProvider, {"badge_class": "x"}, "badge_class: must be the full name of a class, like com.example"),
        (HuaweiProvider, {"receipts": {"usr": "x"}}, "receipts.usr: is not known; did you mean user?"),
        (HuaweiProvider, {"receipts": {"user": "x"}}, "receipts: give user and secret, or neither"),
        (HuaweiProvider, {"base_url": "ftp://x"}, "base_url: must begin with 'http' or 'https'"),
        (XiaomiProvider, {"channels": {}}, "channels: must not be empty"),
        (XiaomiProvider, {"package": "x"}, "package: must be a package name, like com.example.app"),
    ],
)
def test_a_mistake_says_what_would_be_right_at_its_place(provider: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        configured(provider, settings)
    assert any(mistake.startswith(said) for mistake in caught.value.mistakes), caught.value.mistakes


def test_all_mistakes_are_told_without_the_values() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        configured(HttpCallProvider, {"url": "nonsense-s3cr3t", "secret": "s3cr3t", "surprise": "s3cr3t"})
    assert len(caught.value.mistakes) == 3
    assert "s3cr3t" not in str(caught.value)


# The log provider.


@pytest.mark.parametrize("settings", [{}, {"show_titles": True}], ids=["by default", "titles asked for"])
async def test_the_log_provider_writes_one_line(caplog: pytest.LogCaptureFixture, settings: dict[str, bool]) -> None:
    caplog.set_level(logging.INFO, logger="relay.provider.log")
    provider = build(LogProvider, settings, transport=Scripted(lambda _: Response(status=500)), now=lambda: NOW_S)
    push = Push(id="m-1", token="tok-en", title="Hello\nworld", body="Bo-dy")
    outcome = await provider.send(push)
    assert isinstance(outcome, Outcome)
    assert outcome.verdict is Verdict.ACCEPTED
    (record,) = caplog.records
    line = record.getMessage()
    assert "m-1" in line
    assert ("Hello\\nworld" in line) is bool(settings)
    assert "tok-en" not in line
    assert "Bo-dy" not in line
    assert "\n" not in line
    await provider.aclose()


def test_the_package_says_what_it_is() -> None:
    assert providers.__doc__
