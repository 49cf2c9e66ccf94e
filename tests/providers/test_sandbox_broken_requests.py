"""Whatever it is sent, an emulator answers in its vendor's words: nothing makes it fail itself."""

import json
import logging
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import aiohttp
import pytest
from meeting import NOON_BEIJING, Meeting, meeting

from providers.contract import Push
from providers.http import Request, Response
from providers.http_call import secret_key, sign
from providers.meizu import signature
from providers.sandbox import gateway, meizu
from providers.sandbox.unifiedpush import UnifiedPushEmulator

VENDORS = (
    *("fcm", "gotify", "harmony", "honor", "http", "huawei", "meizu", "ntfy", "oppo", "unifiedpush", "vivo"),
    *("webpush", "xiaomi"),
)
DEEP = "[" * 2000
VALUES: tuple[Any, ...] = (
    *("²", "²s", "٣", "", "é\x00", DEEP, "9" * 5000, "-1", "2026-99-99T99:99:99Z"),
    *(None, True, 10**30, 1.5, [], {}, [None], {"a": None}),
)
BODIES = (b"", b"{", b"null", b"[]", b"\xff\xfe", DEEP.encode(), b"a=%ff&priority=%C2%B2&message=x", b'{"tag":[]}')
HEADS = ("²", "", "é", "9" * 5000, "Bearer", "application/x-www-form-urlencoded; charset=none")


class Raw(NamedTuple):
    """A request that our own client may refuse to send."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if here:
        yield here
    if isinstance(value, dict | list):
        for name, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(one, (*here, name))


def spoilt(value: Any, place: tuple[Any, ...], other: Any) -> Any:
    value = deepcopy(value)
    holder = value
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = other
    return value


def kind_of(request: Raw) -> str:
    return request.headers.get("content-type", "")


def fields_of(request: Raw) -> Any:
    """Of JSON, or of a form with the JSON in it; None of what is encrypted."""
    if "urlencoded" in kind_of(request):
        form = dict(parse_qsl(request.body.decode()))
        return {name: json.loads(text) if text[0] in "{[" else text for name, text in form.items()}
    return json.loads(request.body) if "json" in kind_of(request) else None


def written(request: Raw, fields: Any) -> Raw:
    """With these fields, and signed anew where the vendor has that."""
    if "json" in kind_of(request):
        return signed(request._replace(body=json.dumps(fields).encode()))
    form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    if "sign" in form and "messageJson" in form:
        form["sign"] = signature({name: form[name] for name in form if name != "sign"}, meizu.APP_SECRET)
    return request._replace(body=urlencode(form).encode())


def signed(request: Raw) -> Raw:
    if "webhook-id" not in request.headers:
        return request
    known = {"message_id": request.headers["webhook-id"], "timestamp_s": int(NOON_BEIJING)}
    fresh = sign([secret_key(gateway.SECRET)], **known, body=request.body)
    return request._replace(headers={**request.headers, "webhook-signature": fresh})


def broken(request: Raw) -> Iterator[Raw]:
    kinds = (kind_of(request), "application/json", "application/x-www-form-urlencoded")
    for body in (*BODIES, request.body[:-1]):
        for kind in kinds:
            yield signed(request._replace(headers={**request.headers, "content-type": kind}, body=body))
    for name in request.headers:
        yield request._replace(headers={head: value for head, value in request.headers.items() if head != name})
        for text in HEADS:
            yield request._replace(headers={**request.headers, name: text})
    fields = fields_of(request)
    for place in places(fields):
        for value in VALUES:
            yield written(request, spoilt(fields, place, value))


async def sent_by(met: Meeting) -> list[Raw]:
    """What the adapter sends, its login included."""
    requests: list[Raw] = []
    call = met.provider.call

    async def noted(request: Request) -> Response:
        requests.append(Raw(request.method, request.url, request.headers, request.body))
        response: Response = await call(request)
        return response

    met.provider.call = noted
    emulator = met.sandbox.emulators[met.vendor]
    tokens = [emulator.address("phone")]
    if isinstance(emulator, UnifiedPushEmulator):
        tokens.append(emulator.registration("phone", "legacy"))  # whose body is read as it is
    full = {"data": {"k": "v"}, "badge": 3, "collapse_key": "c", "click": "https://a.example/x", "sound": "ding"}
    for token in tokens:
        push: Push = met.push(token, **full)
        await met.provider.send(push)
        if met.provider.capabilities.recall:
            await met.provider.recall(push, "1")
    return requests


@pytest.mark.parametrize("vendor", VENDORS)
async def test_no_request_makes_an_emulator_fail(vendor: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, logger="aiohttp.server")
    async with meeting(vendor) as met, aiohttp.ClientSession() as http:
        requests = await sent_by(met)
        assert requests
        for request in (one for sound in requests for one in broken(sound)):
            met.clock[0] += 0.1  # so slowly as logins are allowed
            try:
                async with http.request(
                    request.method, request.url, data=request.body, headers=request.headers
                ) as answer:
                    await answer.read()
            except (aiohttp.ClientError, ValueError):
                continue  # a head that no client sends
            said = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
            assert not said, (request.url, dict(request.headers), request.body[:300])
