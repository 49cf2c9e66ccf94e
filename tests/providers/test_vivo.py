"""vivo: the contract, the whole error table, the login, hours, lists, the mapping, the settings."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from providers.contract import AddressInvalid, Outcome, Push, Scope, Verdict
from providers.http import Reason, Request, Response, TransportError
from providers.loading import SettingsInvalid, build, configured
from providers.testing import NOW_S, ProviderContract, Scripted
from providers.vivo import VivoProvider

SETTINGS: dict[str, Any] = {
    "app_id": 10004,
    "app_key": "key-1",
    "app_secret": "s3cr3t-vivo-1",
    "classes": {"default": {"category": "IM"}, "news": {"category": "NEWS"}},
}
TOKEN = "15513410784181118114099"


def answer(result: Any, *, status: int = 200, **fields: Any) -> Response:
    return Response(status=status, body=json.dumps({"result": result, "desc": "said", **fields}).encode())


OK = answer(0, taskId="371470031500488704", requestId="25509283-3767-4b9e")
LOGIN = answer(0, authToken="24ae4ae8-3c1f-4f75-9d4e-000000000000")


def invalid(status: Any, token: str = TOKEN, *, result: int = 0) -> Response:
    return answer(result, taskId="1", invalidUser={"userid": token, "status": status})


class TestVivoContract(ProviderContract):
    provider = VivoProvider
    settings = SETTINGS
    token = TOKEN
    login = LOGIN
    answers = {  # noqa: RUF012
        "ok": (OK, Verdict.ACCEPTED),
        "uninstalled": (invalid(2), Verdict.TOKEN_DEAD),
        "illegal": (answer(10302), Verdict.TOKEN_DEAD),
        "stale": (answer(10000), Verdict.REAUTH),
        "digits": (answer(10085), Verdict.REFUSED),
        "category": (answer(10096), Verdict.MISCONFIGURED),
        "fast": (answer(10072), Verdict.RETRY),
    }
    one_dead = (
        f"{TOKEN[:-1]}9",
        answer(0, taskId="1", invalidUsers=[{"userid": f"{TOKEN[:-1]}9", "status": 2}]),
    )

    def scripted_many(self, tokens: list[str], answer: Callable[[Request], Response]) -> Scripted:
        def said(request: Request) -> Response:
            match request.url.rpartition("/")[2]:
                case "auth":
                    return LOGIN
                case "saveListPayload":
                    return OK
                case _:
                    return answer(request)

        return Scripted(said)

    def test_a_batch_carries_each_token_once_and_the_content_of_one(self) -> None:
        """In two calls: the content, then whom it is for."""
        scripted = self.scripted_many(self.tokens(3), lambda _: OK)
        pushes = self.batch(self.tokens(3))
        saved = self.unused().encode_many(pushes, "c1")
        assert saved.body.count(b"Telltale body") == 1
        assert not any(push.token.encode() in saved.body for push in pushes)
        asyncio.run(self.made(scripted).send_many(pushes))
        targets = json.loads(scripted.requests[-1].body)
        assert targets.pop("requestId")
        assert targets == {"appId": 10004, "regIds": self.tokens(3), "taskId": "371470031500488704"}

    def test_many_pushes_get_their_own_outcomes_whatever_is_among_them(self) -> None:
        """As for others; that content and tokens meet by the task id is shown below."""
        scripted = Scripted(Vendor())
        tokens = self.tokens(4)
        pushes = [replace(push, title=title) for title, push in zip("abab", self.batch(tokens), strict=True)]
        outcomes = asyncio.run(self.made(scripted).send_many([*pushes, self.push(kind="pigeon")]))
        assert [one.verdict for one in outcomes] == [Verdict.ACCEPTED] * 4 + [Verdict.REFUSED]
        vendor = scripted.answer
        assert isinstance(vendor, Vendor)
        assert vendor.told == {("a", tokens[0]), ("a", tokens[2]), ("b", tokens[1]), ("b", tokens[3])}


class Vendor:
    """Remembers who was told what, across the two calls of a list."""

    def __init__(self) -> None:
        self.saved: list[str] = []
        self.told: set[tuple[str, str]] = set()

    def __call__(self, request: Request) -> Response:
        body = json.loads(request.body)
        match request.url.rpartition("/")[2]:
            case "auth":
                return LOGIN
            case "saveListPayload":
                self.saved.append(body["title"])
                return answer(0, taskId=f"task-{len(self.saved) - 1}")
            case "pushToList":
                title = self.saved[int(body["taskId"].removeprefix("task-"))]
                self.told |= {(title, token) for token in body["regIds"]}
                return answer(0)
            case _:
                self.told.add((body["title"], body["regId"]))
                return OK


def made(transport: Any = None, *, now_s: float = NOW_S, **settings: Any) -> VivoProvider:
    call = transport or Scripted(lambda request: LOGIN if request.url.endswith("/auth") else OK)
    provider = build(VivoProvider, {**SETTINGS, **settings}, transport=call, now=lambda: now_s)
    assert isinstance(provider, VivoProvider)
    return provider


RETRY, DEAD, REFUSED, ACCEPTED = Verdict.RETRY, Verdict.TOKEN_DEAD, Verdict.REFUSED, Verdict.ACCEPTED
MISCONFIGURED, REAUTH = Verdict.MISCONFIGURED, Verdict.REAUTH
MESSAGE, TOKEN_ALONE, WHOLE = Scope.MESSAGE, Scope.TOKEN, Scope.ACCOUNT
# Sheet §5, row by row.
TABLE: list[tuple[tuple[int, ...], Verdict, Scope, float | None]] = [
    ((0,), ACCEPTED, MESSAGE, None),
    ((10000,), REAUTH, WHOLE, None),
    ((10070,), RETRY, WHOLE, 3600),
    ((10071,), RETRY, MESSAGE, 3600),
    ((10072,), RETRY, WHOLE, 60),
    ((10073,), RETRY, MESSAGE, 3600),
    ((10085, 10104), REFUSED, MESSAGE, None),
    ((10089,), MISCONFIGURED, WHOLE, None),
    ((10093,), RETRY, WHOLE, 60),
    ((10094,), MISCONFIGURED, WHOLE, None),
    ((10096,), MISCONFIGURED, MESSAGE, None),
    ((10097,), MISCONFIGURED, MESSAGE, None),
    ((10200, 10201, 10202, 10203, 10204, 10205), MISCONFIGURED, WHOLE, None),
    ((10252,), RETRY, MESSAGE, None),
    ((10254,), RETRY, WHOLE, 3600),
    ((10302,), DEAD, TOKEN_ALONE, None),
    ((10040,), RETRY, WHOLE, 60),
    ((10045, 10050, 10054, *range(10055, 10068)), REFUSED, MESSAGE, None),
    ((10101, 10103), REFUSED, MESSAGE, None),
    ((10102,), RETRY, MESSAGE, None),
    ((10303,), MISCONFIGURED, MESSAGE, None),
    ((10001, 10999, -1), RETRY, MESSAGE, None),
]


@pytest.mark.parametrize(("codes", "verdict", "scope", "wait_s"), TABLE)
def test_the_error_table(codes: tuple[int, ...], verdict: Verdict, scope: Scope, wait_s: float | None) -> None:
    for code in codes:
        outcome = made().decode(answer(code))
        assert (outcome.verdict, outcome.scope, outcome.retry_after_s) == (verdict, scope, wait_s)
        assert outcome.vendor_code == (str(code) if code else None)
        assert outcome.shut == (code == 10071)
        assert outcome.spent == (code in {10070, 10073, 10254})
        assert outcome.unknown == (code in {10001, 10999, -1})


@pytest.mark.parametrize(
    ("status", "verdict", "scope"),
    [
        (1, DEAD, TOKEN_ALONE),
        ("2", DEAD, TOKEN_ALONE),
        (3, RETRY, TOKEN_ALONE),
        (4, MISCONFIGURED, TOKEN_ALONE),
        (None, RETRY, TOKEN_ALONE),
        ("x", RETRY, TOKEN_ALONE),
    ],
)
def test_an_invalid_user_counts_with_an_ok_and_with_an_error(status: Any, verdict: Verdict, scope: Scope) -> None:
    for result in (0, 10302, 10050):
        outcome = made().decode(invalid(status, result=result))
        assert (outcome.verdict, outcome.scope) == (verdict, scope)
        assert outcome.unknown == (verdict is RETRY), "no more than two tries, and an alert (sheet §5, other)"


def test_whoever_is_named_beside_a_refused_login_is_asked_about_again() -> None:
    assert made().decode(invalid(2, result=10000)).verdict is REAUTH


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (Response(status=200), RETRY),
        (answer(True), RETRY),
        (answer(0, taskId="1", invalidUser={}), ACCEPTED),
        (answer(0, taskId="1", invalidUser={"userid": 7, "status": 2}), ACCEPTED),
        (Response(status=500, body=b"<html>"), RETRY),
        (replace(invalid(2), status=500), RETRY),
        (replace(invalid(2), status=404), MISCONFIGURED),
    ],
)
def test_what_does_not_look_like_vivo_kills_no_token(response: Response, verdict: Verdict) -> None:
    assert made().decode(response).verdict is verdict


# Hours, sheet §5 and §6.

BEIJING = timezone(timedelta(hours=8))
NEWS = Push(id="m-1", token=TOKEN, title="今日", body="新闻", channel="news")


@pytest.mark.parametrize(
    ("hour", "minute", "second", "wait_s"),
    [(6, 59, 30, 30), (7, 0, 0, None), (22, 59, 59, None), (23, 0, 0, 3600), (0, 0, 0, 3600), (6, 30, 0, 1800)],
)
async def test_operational_messages_wait_for_their_hours(
    hour: int, minute: int, second: int, wait_s: float | None
) -> None:
    now_s = datetime(2026, 3, 1, hour, minute, second, tzinfo=BEIJING).timestamp()
    scripted = Scripted(Vendor())
    outcome = await made(scripted, now_s=now_s).send(NEWS)
    if wait_s is None:
        assert outcome.verdict is ACCEPTED
    else:
        assert outcome == Outcome(verdict=RETRY, retry_after_s=wait_s, shut=True, vendor_code="closed_hours")
        assert not scripted.requests
    assert (await made(Scripted(Vendor()), now_s=now_s).send(replace(NEWS, channel=None))).verdict is ACCEPTED


@pytest.mark.parametrize("result", [None, "", "ok", True, [], 1e300])
def test_without_a_result_it_is_not_vivo_that_calls_a_token_dead(result: Any) -> None:
    body = {"result": result, "invalidUser": {"userid": TOKEN, "status": 1}}
    response = Response(status=200, body=json.dumps(body).encode())
    assert made().decode(response) == Outcome(verdict=RETRY, maybe_sent=True, vendor_code="status_200")
    assert {one.verdict for one in made().decode_many(response, pushes(TOKEN, "b"))} == {RETRY}


# Lists, sheet §3.

PUSH = Push(id="m-1", token=TOKEN, title="Ann", body="hi")


def pushes(*tokens: str) -> list[Push]:
    return [replace(PUSH, token=token) for token in tokens]


def test_those_who_are_named_as_invalid_fare_by_themselves() -> None:
    users = [{"userid": "a", "status": 1}, {"userid": "b", "status": 4}, "odd", {"status": 1}]
    said = answer(0, invalidUsers=users)
    assert [one.verdict for one in made().decode_many(said, pushes("a", "b", "c"))] == [DEAD, MISCONFIGURED, ACCEPTED]
    illegal = answer(10302, invalidUsers=[{"userid": "a", "status": 1}])
    assert [one.verdict for one in made().decode_many(illegal, pushes("a", "c"))] == [DEAD, RETRY]
    stale = answer(10000, invalidUsers=[{"userid": "a", "status": 1}])
    assert [one.verdict for one in made().decode_many(stale, pushes("a", "c"))] == [REAUTH, REAUTH]


async def test_after_the_last_group_body_of_the_day_pushes_go_one_by_one() -> None:
    """Sheet §5, 10252: the relay keeps it until the vendor's day ends."""
    scripted = Scripted(
        lambda request: (
            LOGIN
            if request.url.endswith("/auth")
            else answer(10252)
            if request.url.endswith("/saveListPayload")
            else OK
        )
    )
    provider = made(scripted)
    spent = Outcome(verdict=RETRY, batch_spent=True, vendor_code="10252")
    assert await provider.send_many(pushes("a", "b")) == [spent, spent]
    assert [(await provider.send(one)).verdict for one in pushes("a", "b")] == [ACCEPTED, ACCEPTED]


async def test_those_of_a_list_go_by_its_task_as_their_receipts_will() -> None:
    """Sheet §8: receipts are named by task ids; §4: the answer for a list need not say its own."""
    outcomes = await made(Scripted(Vendor())).send_many(pushes("a", "b"))
    assert {(one.verdict, one.vendor_id) for one in outcomes} == {(ACCEPTED, "task-0")}


async def test_while_the_content_is_only_being_saved_nobody_can_have_got_it() -> None:
    def broken(request: Request) -> Response:
        if request.url.endswith("/auth"):
            return LOGIN
        raise TransportError(Reason.RESET, sent=True)

    def garbled(request: Request) -> Response:
        return LOGIN if request.url.endswith("/auth") else Response(status=200, body=b"<html>")

    for vendor in (broken, garbled):
        outcomes = await made(Scripted(vendor)).send_many(pushes("a", "b"))
        assert [(one.verdict, one.maybe_sent) for one in outcomes] == [(RETRY, False)] * 2


async def test_an_answer_without_a_task_id_is_no_list() -> None:
    scripted = Scripted(lambda request: LOGIN if request.url.endswith("/auth") else answer(0))
    outcomes = await made(scripted).send_many(pushes("a", "b"))
    assert [(one.verdict, one.vendor_code) for one in outcomes] == [(RETRY, "task_garbled")] * 2


# The login, sheet §2.


async def test_the_signature_is_the_sheets_own() -> None:
    scripted = Scripted(lambda _: LOGIN)
    provider = made(scripted, now_s=1_700_000_000.0, app_id=100001, app_key=" key-1", app_secret="secret-1\n")
    credential = await provider.credential()
    (request,) = scripted.requests
    assert request.url == "https://api-push.vivo.com.cn/message/auth"
    assert json.loads(request.body) == {
        "appId": 100001,
        "appKey": "key-1",
        "timestamp": 1700000000000,
        "sign": "922529963691d21fa9be5b1e43410703",
    }
    assert 3600 <= credential.good_until_s - 1_700_000_000 <= 7200


@pytest.mark.parametrize(
    ("response", "verdict", "code", "wait_s"),
    [
        (answer(10000), MISCONFIGURED, "login_10000", None),
        (answer(10201), MISCONFIGURED, "login_10201", None),
        (answer(10093), RETRY, "login_10093", 60),
        (answer(0), RETRY, "login_garbled", None),
        (answer(0, authToken=["x"]), RETRY, "login_garbled", None),
    ],
)
async def test_without_a_login_nothing_is_sent(
    response: Response, verdict: Verdict, code: str, wait_s: float | None
) -> None:
    outcome = await made(Scripted(lambda _: response)).send(PUSH)
    assert outcome == Outcome(verdict=verdict, scope=WHOLE, vendor_code=code, retry_after_s=wait_s)


# The mapping, sheet §7.


def message(push: Push, **settings: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(made(**settings).encode(push, "T").body)
    return fields


def test_a_chat_message_in_vivos_words() -> None:
    push = replace(PUSH, data={"conv": "c9"}, ttl_s=3600, collapse_key="room", relay={"v": 1})
    request = made().encode(push, "TOKEN")
    assert request.url == "https://api-push.vivo.com.cn/message/send"
    assert request.headers == {"content-type": "application/json", "authToken": "TOKEN"}
    said = json.loads(request.body)
    assert 0 < len(said.pop("requestId")) <= 64
    assert 1 <= said.pop("notifyId") < 2**31
    assert said == {
        "appId": 10004,
        "regId": TOKEN,
        "notifyType": 4,
        "title": "Ann",
        "content": "hi",
        "timeToLive": 3600,
        "skipType": 1,
        "clientCustomMap": {"relay_id": "m-1", "relay": '{"v":1}', "conv": "c9"},
        "foregroundShow": True,
        "pushMode": 0,
        "classification": 1,
        "category": "IM",
    }


@pytest.mark.parametrize(
    ("category", "class_"),
    [
        *((category, 1) for category in ("IM", "ACCOUNT", "TODO", "DEVICE_REMINDER", "ORDER", "SUBSCRIPTION")),
        *((category, 0) for category in ("NEWS", "CONTENT", "MARKETING", "SOCIAL")),
    ],
)
def test_category_and_class_agree(category: str, class_: int) -> None:
    said = message(PUSH, classes={"default": {"category": category}})
    assert (said["category"], said["classification"]) == (category, class_)
    said = message(replace(PUSH, overrides={"category": category}))
    assert (said["category"], said["classification"]) == (category, class_)


def test_a_class_that_the_category_does_not_have_goes_without_one() -> None:
    said = message(replace(PUSH, overrides={"classification": 0}))
    assert said["classification"] == 0
    assert "category" not in said


@pytest.mark.parametrize(
    ("ttl_s", "said"),
    [(0, (None, True)), (0.5, (60, None)), (59, (60, None)), (3600, (3600, None)), (999_999, (86_400, None))],
)
def test_time_to_live(ttl_s: float, said: tuple[int | None, bool | None]) -> None:
    fields = message(replace(PUSH, ttl_s=ttl_s))
    assert (fields.get("timeToLive"), fields.get("sendOnline")) == said


@pytest.mark.parametrize(
    ("click", "said"),
    [
        (None, (1, None)),
        ("OPEN", (1, None)),
        ("chat://room/1", (1, None)),
        ("https://app.example/" + "x" * 1100, (1, None)),
        ("https://app.example/x", (2, "https://app.example/x")),
        ("intent:#Intent;end", (4, "intent:#Intent;end")),
    ],
)
def test_a_tap(click: str | None, said: tuple[int, str | None]) -> None:
    fields = message(replace(PUSH, click=click))
    assert (fields["skipType"], fields.get("skipContent")) == said


def test_texts_are_cut() -> None:
    said = message(replace(PUSH, title="t" * 41, body="b" * 101))
    assert (said["title"], said["content"]) == ("t" * 39 + "…", "b" * 99 + "…")
    said = message(replace(PUSH, title="t" * 38 + "😀", body="b" + "😀" * 60))
    assert (said["title"], said["content"]) == ("t" * 38 + "😀", "b" + "😀" * 49 + "…")


@pytest.mark.parametrize(
    ("body", "shown"),
    [("8341", "新消息 8341"), ("12:30 !", "新消息 12:30 !"), ("code 8341", "code 8341"), ("验证码8341", "验证码8341")],
)
def test_a_text_without_a_word_gets_one(body: str, shown: str) -> None:
    assert message(replace(PUSH, body=body))["content"] == shown


WORDED = "新消息 hi"


@pytest.mark.parametrize(
    ("refused", "bodies"),
    [
        (lambda said: said["content"] == "hi", ["hi", WORDED, WORDED]),
        (lambda _: True, ["hi", WORDED, "hi", WORDED]),
    ],
)
async def test_latin_letters_alone_go_with_words_once_it_is_for_want_of_them_that_vivo_refuses(
    refused: Callable[[dict[str, Any]], bool], bodies: list[str]
) -> None:
    """Sheet §5, codes 10085 and 10104, which are also of texts that look like a test; §9, 2."""

    def vendor(request: Request) -> Response:
        if request.url.endswith("/auth"):
            return LOGIN
        return answer(10104) if refused(json.loads(request.body)) else OK

    scripted = Scripted(vendor)
    provider = made(scripted)
    verdicts = [(await provider.send(PUSH)).verdict for _ in range(2)]
    assert verdicts == [REFUSED if len(bodies) > 3 else ACCEPTED] * 2
    assert [json.loads(one.body)["content"] for one in scripted.requests[1:]] == bodies


async def test_latin_letters_that_were_under_way_when_another_push_found_it_out_go_with_words_too() -> None:
    """Its own refusal comes when that is known already."""
    asked, known = asyncio.Event(), asyncio.Event()

    async def vendor(request: Request) -> Response:
        if request.url.endswith("/auth"):
            return LOGIN
        said = json.loads(request.body)
        if said["content"] != "hi":
            return OK
        if said["regId"] != PUSH.token:
            asked.set()
            await known.wait()
        return answer(10085)

    provider = made(vendor)
    later = asyncio.create_task(provider.send(replace(PUSH, token="5")))
    await asked.wait()
    assert (await provider.send(PUSH)).verdict is ACCEPTED
    known.set()
    assert (await later).verdict is ACCEPTED


@pytest.mark.parametrize("text", ["José", "\uff28\uff49", "Đà Nẵng"])
async def test_letters_with_accents_are_latin_ones_as_well(text: str) -> None:
    def vendor(request: Request) -> Response:
        if request.url.endswith("/auth"):
            return LOGIN
        return answer(10085) if json.loads(request.body)["content"] == text else OK

    assert (await made(Scripted(vendor)).send(replace(PUSH, body=text))).verdict is ACCEPTED


async def test_a_text_with_words_that_vivo_refuses_is_sent_once() -> None:
    scripted = Scripted(lambda request: LOGIN if request.url.endswith("/auth") else answer(10104))
    assert (await made(scripted).send(replace(PUSH, title="测试群", body="大家好"))).verdict is REFUSED
    assert len(scripted.requests) == 2, "the login, and the push"


@pytest.mark.parametrize(("title", "shown"), [("[Team] {a}", "(Team) (a)"), ("【新】Ann", "(新)Ann"), ("a(b)", "a(b)")])
def test_brackets_that_vivo_refuses_in_a_title_become_round(title: str, shown: str) -> None:
    """Sheet §9, 3; of the content it says nothing."""
    said = message(replace(PUSH, title=title, body="[photo]"))
    assert (said["title"], said["content"]) == (shown, "[photo]")


def test_more_names_than_vivo_takes_go_under_one() -> None:
    few = message(replace(PUSH, data={f"k{n}": "v" for n in range(9)}))["clientCustomMap"]
    assert len(few) == 10
    many = message(replace(PUSH, data={f"k{n}": "v" for n in range(10)}))["clientCustomMap"]
    assert list(many) == ["data"]
    assert json.loads(many["data"])["k9"] == "v"
    own = {"clientCustomMap": {"k0": "ours", "more": "v"}}
    theirs = message(replace(PUSH, data={f"k{n}": "v" for n in range(9)}, overrides=own))["clientCustomMap"]
    assert list(theirs) == ["data"], "an override's names count as well"
    assert json.loads(theirs["data"]) == few | {"k0": "ours", "more": "v"}


def test_settings_that_show() -> None:
    assert message(PUSH, test=True)["pushMode"] == 1
    assert message(PUSH, add_badge=True)["addBadge"] is True
    assert message(PUSH, foreground=False)["foregroundShow"] is False
    assert message(replace(PUSH, urgent=False))["notifyType"] == 1


def test_a_push_without_words_is_shown_quietly_as_vivo_has_no_silent_ones() -> None:
    said = message(replace(PUSH, title=None, body=None))
    assert (said["title"], said["content"], said["notifyType"]) == ("新消息", "新消息", 1)
    assert VivoProvider.capabilities.silent is False


def test_a_repeat_has_the_same_request_id_and_another_device_another() -> None:
    assert message(PUSH)["requestId"] == message(PUSH)["requestId"]
    assert message(PUSH)["requestId"] != message(replace(PUSH, token="other"))["requestId"]


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "é", "x" * 129])
async def test_a_malformed_token_is_refused_here(token: str) -> None:
    scripted = Scripted(lambda _: LOGIN)
    assert (await made(scripted).send(replace(PUSH, token=token))).vendor_code == "token_malformed"
    assert not scripted.requests
    with pytest.raises(AddressInvalid):
        made().address("token", token)
    assert made().address("token", TOKEN) == TOKEN


# Overrides.


@pytest.mark.parametrize(
    "overrides",
    [
        {"regId": "x"},
        {"requestId": "x"},
        {"extra": {"callback": "https://evil.example"}},
        {"title": "t" * 41},
        {"title": "t" + "😀" * 20},
        {"content": "t" * 101},
        {"content": "t" + "😀" * 50},
        {"timeToLive": 59},
        {"timeToLive": 86_401},
        {"skipType": 3},
        {"category": "im"},
        {"category": "NEWS", "classification": 1},
        {"classification": 2},
        {"clientCustomMap": {"a": 1}},
        {"clientCustomMap": {f"k{n}": "" for n in range(11)}},
        {"clientCustomMap": {"k": "v" * 1024}},
        {"clientCustomMap": {"k": "😀" * 512}},
        {"notifyId": 0},
        {"sendOnline": 1},
        {"timedDisplay": {"showStartTime": "soon"}},
        {"timedDisplay": {"elsewhen": 1}},
    ],
)
def test_overrides_that_vivo_would_refuse(overrides: dict[str, Any]) -> None:
    assert VivoProvider.check_overrides(overrides)


def test_overrides_lie_over_ours() -> None:
    overrides = {"networkType": 1, "clientCustomMap": {"k": "v"}, "foregroundShow": None}
    assert VivoProvider.check_overrides(overrides) == []
    said = message(replace(PUSH, overrides=overrides))
    assert (said["networkType"], said["clientCustomMap"]) == (1, {"relay_id": "m-1", "k": "v"})
    assert "foregroundShow" not in said


# The settings.


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"app_id": 0}, "app_id"),
        ({"app_id": "x"}, "app_id"),
        ({"app_key": "a b"}, "app_key"),
        ({"app_secret": " "}, "app_secret"),
        ({"classes": {}}, "classes"),
        ({"classes": {"chat": {"category": "IM"}}}, "default"),
        ({"classes": {"default": {"category": "im"}}}, "category"),
        ({"classes": {"default": {"category": "IM", "x": 1}}}, "classes"),
        ({"wake_text": "x" * 41}, "wake_text"),
        ({"wake_text": "123 !"}, "wake_text"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        configured(VivoProvider, {**SETTINGS, **settings})
    assert named in str(caught.value)
    with pytest.raises(SettingsInvalid):
        configured(VivoProvider, {**SETTINGS, "base_url": "https://other.example"}, trusted=False)


def test_the_days_are_beijings() -> None:
    assert VivoProvider.capabilities.zone == "Asia/Shanghai"
    assert datetime.fromtimestamp(NOW_S, UTC).hour == 16, "midnight there: the contract's tests are of the system class"


@pytest.mark.parametrize(("default", "channels"), [("IM", {"order", None}), ("NEWS", {"order"})])
def test_when_the_system_class_is_used_up_all_of_its_channels_are_named(
    default: str, channels: set[str | None]
) -> None:
    """Sheet §5, 10073: a quota of the class, which several channels share; the operational class goes on."""
    classes = {"default": {"category": default}, "order": {"category": "ORDER"}, "ads": {"category": "MARKETING"}}
    outcome = made(classes=classes).decode(answer(10073))
    assert (outcome.scope, outcome.spent, set(outcome.channels)) == (MESSAGE, True, channels)
    assert made(classes=classes).decode(answer(10070)).channels == ()


@pytest.mark.parametrize(
    ("own", "mistake"),
    [
        ({"title": None}, "title may not be taken away"),
        ({"title": "482 911"}, "title must be text of 1 to 40 characters with a letter in it"),
        ({"title": "[Team]"}, "title must be text of 1 to 40 characters with a letter in it, and no square"),
        ({"skipType": 2}, "skipType 2 takes skipContent beside it."),
        ({"timedDisplay": {"showStartTime": 1}}, "timedDisplay must have"),
        ({"timedDisplay": {"showStartTime": 1, "showEndTime": 7_200_001}}, "timedDisplay must have"),
    ],
)
def test_an_override_that_vivo_would_refuse_is_a_mistake(own: dict[str, Any], mistake: str) -> None:
    """Sheet §3, and §5, codes 10054, 10085, 10057, 10067."""
    (sentence,) = VivoProvider.check_overrides(own)
    assert sentence.startswith(mistake)


def test_a_timed_display_of_less_than_two_hours_is_no_mistake() -> None:
    assert VivoProvider.check_overrides({"timedDisplay": {"showStartTime": 1, "showEndTime": 7_200_000}}) == []


def test_a_channel_that_is_no_class_is_one_with_the_default() -> None:
    classes = {"default": {"category": "IM"}, "order": {"category": "ORDER"}}
    assert set(made(classes=classes).channels) == {"order"}
