"""Receipts of Xiaomi, OPPO, vivo and Meizu: who may bring them, what each code means, and how a push asks for them."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meeting import meeting

from providers.contract import Push, Verdict
from providers.http import HttpProvider, Response
from providers.loading import SettingsInvalid, build, configured
from providers.meizu import MeizuProvider
from providers.oppo import OppoProvider
from providers.receipts.contract import Callback, Fact, Garbled, NotAuthentic, Receipt, ReceiptReader
from providers.receipts.meizu import MeizuReceipts, MeizuReceiptSettings
from providers.receipts.oppo import OppoReceipts, OppoReceiptSettings
from providers.receipts.vivo import VivoReceipts, VivoReceiptSettings
from providers.receipts.xiaomi import XiaomiReceipts, XiaomiReceiptSettings
from providers.testing import NOW_S, Scripted
from providers.vivo import VivoProvider
from providers.xiaomi import XiaomiProvider

SECRET = "0123456789abcdefABCDEF"
URL = "https://relay.example/v1/receipts/acct"
WAY: dict[str, Any] = {"url": URL, "path_secret": SECRET}
XIAOMI = XiaomiReceipts(XiaomiReceiptSettings(**WAY))
OPPO = OppoReceipts(OppoReceiptSettings(**WAY))
VIVO = VivoReceipts(VivoReceiptSettings(**WAY))
MEIZU = MeizuReceipts(MeizuReceiptSettings(**WAY))
MEIZU_BY_TOKEN = MeizuReceipts(MeizuReceiptSettings(url=URL, access_token="from-the-console"))  # type: ignore[arg-type]


def data(value: Any) -> bytes:
    return urlencode({"data": json.dumps(value)}).encode()


def cb(value: Any, **more: str) -> bytes:
    return urlencode({"cb": json.dumps(value), **more}).encode()


def plain(value: Any) -> bytes:
    return json.dumps(value).encode()


FORMS: list[tuple[ReceiptReader, Callable[[Any], bytes], Any]] = [
    (XIAOMI, data, {}),
    (OPPO, plain, []),
    (VIVO, plain, {}),
    (MEIZU, cb, {}),
]


def read(reader: ReceiptReader, body: bytes, secret: str | None = SECRET) -> tuple[Receipt, ...]:
    return reader.read(Callback(path_secret=secret, body=body), now_s=NOW_S).receipts


@pytest.mark.parametrize(("reader", "form", "empty"), FORMS)
def test_only_who_knows_the_secret_path_reports(
    reader: ReceiptReader, form: Callable[[Any], bytes], empty: Any
) -> None:
    assert read(reader, form(empty)) == ()
    for secret in (None, "", SECRET[:-1], SECRET + "x", "é" * 22):
        with pytest.raises(NotAuthentic):
            read(reader, form(empty), secret)


@pytest.mark.parametrize(("reader", "form", "empty"), FORMS)
@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 60_000, b"null", b"7", b'"x"', b"data=7", b"cb=7", b"cb=["])
def test_what_is_not_in_the_vendors_form_is_garbled(
    reader: ReceiptReader, form: Callable[[Any], bytes], empty: Any, body: bytes
) -> None:
    del form, empty
    with pytest.raises(Garbled):
        read(reader, body)


odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["targets", "type", "param", "registrationIds", "eventType", "ackType"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)


@given(inner=odd)
@pytest.mark.parametrize(("reader", "form", "empty"), FORMS)
def test_a_reader_is_total(reader: ReceiptReader, form: Callable[[Any], bytes], empty: Any, inner: Any) -> None:
    for receipt in read(reader, form([inner] if isinstance(empty, list) else {"id-1": inner})):
        assert receipt.token


@pytest.mark.parametrize(("reader", "form", "empty"), FORMS)
def test_a_flood_in_one_call_is_refused(reader: ReceiptReader, form: Callable[[Any], bytes], empty: Any) -> None:
    def said(*counts: int) -> bytes:
        items = [
            {"targets": ",".join("t" * n), "registrationIds": ",".join("t" * n), "type": 1, "eventType": "push_arrive"}
            for n in counts
        ]
        return form(items if isinstance(empty, list) else {f"m{n}": item for n, item in enumerate(items)})

    assert len(read(reader, said(500, 500))) == 1000
    with pytest.raises(Garbled):
        read(reader, said(500, 501))


# Sheet xiaomi §8.


@pytest.mark.parametrize(
    ("kind", "fact", "reason", "dead"),
    [
        (1, Fact.DELIVERED, None, False),
        (2, Fact.CLICKED, None, False),
        (16, Fact.FAILED, "invalid", True),
        (32, Fact.FAILED, "muted", False),
        (64, Fact.FAILED, "filtered", False),
        (128, Fact.FAILED, "daily_cap", False),
        (4, Fact.UNKNOWN, None, False),
    ],
)
def test_what_xiaomi_reports(kind: int, fact: Fact, reason: str | None, dead: bool) -> None:
    said = {"param": "m-1", "type": kind, "targets": "r1,r2", "jobkey": "", "timestamp": 1700000000000, "extra": {}}
    first, second = read(XIAOMI, data({"scm1": said}))
    assert first == Receipt(
        fact=fact,
        token="r1",
        vendor_id="scm1",
        push_id="m-1",
        code=str(kind),
        reason=reason,
        token_dead=dead,
        spent=kind == 128,
        at_ms=1700000000000,
    )
    assert second.token == "r2"


# Sheet oppo §8.


@pytest.mark.parametrize(
    ("event", "fact", "reason", "dead"),
    [
        ("push_arrive", Fact.DELIVERED, None, False),
        ("regid_invalid", Fact.FAILED, "invalid", True),
        ("user_daily_limit", Fact.FAILED, "daily_cap", False),
        ("else", Fact.UNKNOWN, None, False),
    ],
)
def test_what_oppo_reports(event: str, fact: Fact, reason: str | None, dead: bool) -> None:
    said = {
        "messageId": "5b9a",
        "appId": "1",
        "taskId": "5b9a",
        "registrationIds": "OPPO_CN_a, OPPO_CN_b",
        "eventTime": "1700000000000",
        "param": "m-1",
        "eventType": event,
    }
    first, second = read(OPPO, plain([said]))
    assert first == Receipt(
        fact=fact,
        token="OPPO_CN_a",
        vendor_id="5b9a",
        push_id="m-1",
        code=event,
        reason=reason,
        token_dead=dead,
        spent=event == "user_daily_limit",
        at_ms=1700000000000,
    )
    assert second.token == "OPPO_CN_b", "without the blank"


# Sheet vivo §8.


@pytest.mark.parametrize("targets", ["a,b", ["a", "b"], "a, b"])
def test_what_vivo_reports(targets: Any) -> None:
    said = {"param": "m-1", "targets": targets}
    found = read(VIVO, plain({"4711": said}))
    assert found == tuple(
        Receipt(fact=Fact.DELIVERED, token=token, vendor_id="4711", push_id="m-1") for token in ("a", "b")
    )
    (newer, _) = read(VIVO, plain({"4711": {**said, "ackType": 0, "ackTime": 1700000000000}}))
    assert (newer.fact, newer.code, newer.at_ms) == (Fact.DELIVERED, "0", 1700000000000)
    (other, _) = read(VIVO, plain({"4711": {**said, "ackType": "7"}}))
    assert (other.fact, other.code) == (Fact.UNKNOWN, "7")


# Sheet meizu §7.


@pytest.mark.parametrize(("kind", "fact"), [(1, Fact.DELIVERED), (2, Fact.CLICKED), (9, Fact.UNKNOWN)])
def test_what_meizu_reports(kind: int, fact: Fact) -> None:
    (found,) = read(MEIZU, cb({f"NS-1-{kind}": {"param": "m-1", "type": kind, "targets": ["S1"]}}))
    assert found == Receipt(fact=fact, token="S1", vendor_id="NS-1", push_id="m-1", code=str(kind))


def test_meizus_token_of_the_console_is_compared() -> None:
    said = {"NS-1-1": {"type": 1, "targets": ["S1"]}}
    assert len(read(MEIZU_BY_TOKEN, cb(said, access_token="from-the-console"), None)) == 1
    for body in (cb(said), cb(said, access_token="other"), cb(said, access_token="é")):
        with pytest.raises(NotAuthentic):
            read(MEIZU_BY_TOKEN, body, None)


# The settings, and how a push asks.

PROVIDERS: dict[str, tuple[type[HttpProvider], dict[str, Any]]] = {
    "xiaomi": (XiaomiProvider, {"package": "org.example.chat", "app_secret": "s", "channels": {"default": "1"}}),
    "oppo": (OppoProvider, {"app_key": "k", "master_secret": "s", "classes": {"default": {"channel_id": "c"}}}),
    "vivo": (
        VivoProvider,
        {"app_id": 1, "app_key": "k", "app_secret": "s", "classes": {"default": {"category": "IM"}}},
    ),
    "meizu": (MeizuProvider, {"app_id": 1, "app_secret": "s", "classes": {"default": {"private": True}}}),
}


def asked(vendor: str, receipts: dict[str, Any], push_id: str = "m-1") -> Any:
    kind, settings = PROVIDERS[vendor]
    unused = Scripted(lambda _: Response(status=500))
    provider = build(kind, {**settings, "receipts": receipts}, transport=unused, now=lambda: NOW_S)
    assert isinstance(provider, HttpProvider)
    body = provider.encode(Push(id=push_id, token="t", title="Ann", body="hi"), "c").body.decode()
    form = {name: values[0] for name, values in parse_qs(body).items()}
    match vendor:
        case "xiaomi":
            return {name: value for name, value in form.items() if name.startswith("extra.callback")}
        case "oppo":
            said = json.loads(form["message"])["notification"]
            return {name: value for name, value in said.items() if name.startswith("call_back")}
        case "vivo":
            return json.loads(body)["extra"]
        case _:
            return json.loads(form["messageJson"])["extra"]


ADDRESS = f"{URL}/{SECRET}"


@pytest.mark.parametrize(
    ("vendor", "more", "wanted"),
    [
        ("xiaomi", {}, {"callback": ADDRESS, "callback.param": "m-1", "callback.type": "19"}),
        ("xiaomi", {"types": 243}, {"callback": ADDRESS, "callback.param": "m-1", "callback.type": "243"}),
        ("oppo", {}, {"call_back_url": ADDRESS, "call_back_parameter": "m-1"}),
        ("vivo", {}, {"callback": ADDRESS, "callback.param": "m-1"}),
        ("vivo", {"callback_id": "77"}, {"callback.id": "77", "callback.param": "m-1"}),
        ("meizu", {}, {"callback": ADDRESS, "callback.param": "m-1", "callback.type": 3}),
    ],
)
def test_a_push_says_where_to_report(vendor: str, more: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = asked(vendor, {**WAY, **more})
    assert {name.removeprefix("extra."): value for name, value in found.items()} == wanted
    longer = asked(vendor, {**WAY, **more}, push_id="m" * 65)
    assert len(longer) == len(wanted) - 1, "an id for which there is no room is left out"


@pytest.mark.parametrize("vendor", PROVIDERS)
async def test_the_vendor_takes_what_asks_for_receipts(vendor: str) -> None:
    async with meeting(vendor, receipts=WAY) as met:
        assert (await met.send("phone")).verdict is Verdict.ACCEPTED
        assert {one.verdict for one in await met.send_many(["phoneA", "phoneB"])} == {Verdict.ACCEPTED}


@pytest.mark.parametrize("vendor", PROVIDERS)
@pytest.mark.parametrize(
    ("receipts", "named"),
    [
        ({"url": URL}, "receipts"),
        ({"path_secret": SECRET}, "url"),
        ({"url": URL, "path_secret": "short"}, "path_secret"),
        ({"url": f"{URL}/{'x' * 200}", "path_secret": SECRET}, "bytes"),
        ({**WAY, "surprise": 1}, "surprise"),
    ],
)
def test_settings_by_which_no_receipt_would_come_are_refused(vendor: str, receipts: dict[str, Any], named: str) -> None:
    kind, settings = PROVIDERS[vendor]
    with pytest.raises(SettingsInvalid) as caught:
        configured(kind, {**settings, "receipts": receipts})
    assert named in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("types", [0, -1, 4, 246, 244, 256])
def test_a_sum_that_breaks_xiaomis_receipts_is_refused(types: int) -> None:
    kind, settings = PROVIDERS["xiaomi"]
    with pytest.raises(SettingsInvalid) as caught:
        configured(kind, {**settings, "receipts": {**WAY, "types": types}})
    assert "types" in str(caught.value)
