"""Receipts of Huawei, HarmonyOS and Honor: who may bring them (sheet huawei §9, honor §7), and what each code means."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from providers.receipts.contract import Callback, Fact, Garbled, NotAuthentic, Receipt
from providers.receipts.honor import HonorReceipts, HonorReceiptSettings
from providers.receipts.huawei import STATUSES, HuaweiReceipts, HuaweiReceiptSettings, receipt_of

# The sheet's own test vector.
SECRET, USER, AT_S = "MDEyMzQ1Njc4OWFiY2RlZg==", "relay", 1_700_000_000.0
DECODED = "FfRb1g5rd/q/L6Npp+TLRaQfFA7ENguZTm0cTXCgkdM="
RAW = "kVHzcHHhIaI2XWLNdqvMm6k6jCG+LuJSK36Owzt5aSs="
PATH_SECRET = "0123456789abcdefABCDEF"

SIGNED = HuaweiReceipts(HuaweiReceiptSettings(user=USER, secret=SECRET))
BY_PATH = HuaweiReceipts(HuaweiReceiptSettings(path_secret=PATH_SECRET))
HONOR = HonorReceipts(HonorReceiptSettings(path_secret=PATH_SECRET))
EMPTY = b'{"statuses":[]}'


def header(value: str, *, at_ms: str = "1700000000000", nonce: str = "11111111-2222-3333-4444-555555555555") -> str:
    return f"timestamp={at_ms}; nonce={nonce}; value={value}"


def signed(value: str, body: bytes = EMPTY, **more: str) -> Callback:
    return Callback(headers={"x-huawei-callback-id": header(value, **more)}, body=body)


def by_path(body: Any) -> Callback:
    return Callback(path_secret=PATH_SECRET, body=json.dumps(body).encode())


@pytest.mark.parametrize("value", [DECODED, RAW])
def test_both_kinds_of_key_sign(value: str) -> None:
    reading = SIGNED.read(signed(value), now_s=AT_S)
    assert json.loads(reading.answer) == {"code": "0", "message": "success"}


@pytest.mark.parametrize(
    "call",
    [
        signed(DECODED[:-2] + "N="),
        signed(DECODED, at_ms="1700000000001"),
        signed(DECODED, nonce="x"),
        signed(""),
        Callback(headers={"x-huawei-callback-id": f"value={DECODED}"}, body=EMPTY),
        Callback(headers={"x-huawei-callback-id": "timestamp=;nonce=;value="}, body=EMPTY),
        Callback(path_secret=PATH_SECRET, body=EMPTY),  # this account has none
    ],
)
def test_nobody_else_reports(call: Callback) -> None:
    with pytest.raises(NotAuthentic):
        SIGNED.read(call, now_s=AT_S)


def test_the_console_s_test_is_answered_and_nothing_of_it_is_believed() -> None:
    body = json.dumps({"statuses": [{"token": "t1", "status": 0}]}).encode()
    reading = SIGNED.read(Callback(body=body), now_s=AT_S)
    assert (reading.receipts, reading.answer) == ((), b'{"code":"0","message":"success"}')
    assert reading.ignored
    with pytest.raises(NotAuthentic):  # an account that goes by its path alone has no such test
        BY_PATH.read(Callback(body=body), now_s=AT_S)


@pytest.mark.parametrize(("late_s", "good"), [(3600, True), (-3600, True), (3601, False), (-3601, False)])
def test_a_signature_does_not_last(late_s: float, good: bool) -> None:
    if good:
        assert SIGNED.read(signed(DECODED), now_s=AT_S + late_s).receipts == ()
    else:
        with pytest.raises(NotAuthentic):
            SIGNED.read(signed(DECODED), now_s=AT_S + late_s)


@pytest.mark.parametrize("form", ["timestamp={};nonce={};value={}", "value={2};  nonce={1} ;timestamp={0}"])
def test_blanks_and_order_in_the_header_do_not_matter(form: str) -> None:
    text = form.format("1700000000000", "11111111-2222-3333-4444-555555555555", DECODED)
    assert SIGNED.read(Callback(headers={"x-huawei-callback-id": text}, body=EMPTY), now_s=AT_S).receipts == ()


@pytest.mark.parametrize("reader", [BY_PATH, HONOR])
@pytest.mark.parametrize("secret", [None, "", PATH_SECRET[:-1], PATH_SECRET + "x", "é" * 22])
def test_a_wrong_path_is_nobody(reader: HuaweiReceipts | HonorReceipts, secret: str | None) -> None:
    with pytest.raises(NotAuthentic):
        reader.read(Callback(path_secret=secret, body=EMPTY), now_s=AT_S)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "nobody else may report"),
        ({"user": "u"}, "user and secret"),
        ({"secret": "s"}, "user and secret"),
        ({"user": "", "secret": "s"}, "empty"),
        ({"user": "u", "secret": ""}, "empty"),
        ({"path_secret": "short"}, "22 to 128"),
        ({"path_secret": "/" * 22}, "22 to 128"),
        ({"path_secret": PATH_SECRET, "networks": ["10.0.0.1/8"]}, "not a valid IPv4 network"),
        ({"path_secret": PATH_SECRET, "surprise": 1}, "Extra"),
    ],
)
def test_settings_that_let_nobody_or_anybody_in_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        HuaweiReceiptSettings.model_validate(settings)


def test_honor_needs_a_secret_path() -> None:
    with pytest.raises(ValidationError, match="path_secret"):
        HonorReceiptSettings.model_validate({})


# Sheet huawei §9, the table of statuses, row by row.
@pytest.mark.parametrize(
    ("statuses", "fact", "dead"),
    [
        ((0,), Fact.DELIVERED, False),
        ((2, 5, 201), Fact.FAILED, True),
        ((6, 10), Fact.FAILED, True),
        ((14, 188, 191), Fact.FAILED, False),
        ((15, 22, 27, 31, 51, 102, 144), Fact.FAILED, False),
        ((151, 261, 262), Fact.FAILED, False),
        ((155, 156, 158, 265, 268, 269), Fact.FAILED, False),
        ((256, 259, 264), Fact.FAILED, False),
        ((1, 999, -1), Fact.UNKNOWN, False),
    ],
)
def test_each_status_means_what_the_sheet_says(statuses: tuple[int, ...], fact: Fact, dead: bool) -> None:
    for status in statuses:
        v1 = {"token": "t1", "appid": "1", "biTag": "m1", "requestId": "r1", "status": status, "timestamp": 17}
        v2 = {
            "token": "t1",
            "appPackageName": "a.b",
            "pushType": 0,
            "biTag": "m1",
            "requestId": "r1",
            "deliveryStatus": {"result": status, "timestamp": 17},
        }
        one, two = BY_PATH.read(by_path({"statuses": [v1, v2]}), now_s=AT_S).receipts
        assert one == two
        assert (one.fact, one.token_dead, one.code) == (fact, dead, str(status))
        assert (one.token, one.push_id, one.vendor_id, one.at_ms) == ("t1", "m1", "r1", 17)
        assert (one.reason is None) == (fact is not Fact.FAILED)
        (honor,) = HONOR.read(by_path([v1]), now_s=AT_S).receipts
        assert (honor.fact, honor.token_dead) == (fact, False)


def test_a_cap_of_the_day_says_that_the_day_is_over_for_the_device() -> None:
    said = {code: receipt_of({"token": "t1", "status": code}) for code in STATUSES}
    assert [code for code, one in said.items() if one is not None and one.spent] == ["102", "256"]
    at_honor = HONOR.read(by_path([{"token": "t1", "status": code} for code in STATUSES]), now_s=AT_S).receipts
    assert [one.code for one in at_honor if one.spent] == ["256"], "the one number that its sheet has"


def test_a_form_s_status_is_read_too() -> None:
    item = {"token": "t1", "pushType": 1, "formStatus": {"formId": 1, "result": 262, "timestamp": 17}}
    (one,) = BY_PATH.read(by_path({"statuses": [item]}), now_s=AT_S).receipts
    assert (one.reason, one.at_ms) == ("form", 17)


def test_the_token_does_not_show() -> None:
    assert "t1-secret" not in repr(Receipt(fact=Fact.UNKNOWN, token="t1-secret"))


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b"[" * 5000, b'{"statuses":{}}', b"1", b"null"])
def test_what_is_not_a_list_is_garbled(body: bytes) -> None:
    with pytest.raises(Garbled):
        BY_PATH.read(Callback(path_secret=PATH_SECRET, body=body), now_s=AT_S)
    with pytest.raises(Garbled):
        BY_PATH.read(by_path({"statuses": [{}] * 1001}), now_s=AT_S)


@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
            lambda inner: st.dictionaries(
                st.sampled_from(["token", "status", "requestId", "biTag", "timestamp", "deliveryStatus", "result"]),
                inner,
            ),
            max_leaves=6,
        ),
        max_size=5,
    )
)
def test_no_item_is_too_strange(items: list[Any]) -> None:
    good = {"token": "t1", "status": 0}
    for reader in (BY_PATH, HONOR):
        receipts = reader.read(by_path({"statuses": [*items, good]}), now_s=AT_S).receipts
        assert receipts[-1] == Receipt(fact=Fact.DELIVERED, token="t1", code="0")
