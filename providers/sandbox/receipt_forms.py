"""The receipts of each vendor that has them, by its sheet: huawei §9, honor §7, meizu §7, oppo §8, vivo §8, xiaomi §8."""

import base64
import binascii
import hashlib
import hmac
from urllib.parse import urlencode

import msgspec

from providers.sandbox.checks import Json
from providers.sandbox.receipts import Console, Event, Post, Told

PATH_SECRET = "sandbox-receipts-path-secret"  # noqa: S105
USER, SECRET = "relay", base64.b64encode(b"sandbox receipts").decode()
MEIZU_TOKEN = "meizu-sandbox-receipts"  # noqa: S105 - as the console shows it beside the registered address
JSON, FORM = "application/json", "application/x-www-form-urlencoded"


class _ByPath:
    """Vendors that sign nothing: each message names the address, which ends in a secret."""

    def settings(self, url: str) -> Json:
        return {"url": url, "path_secret": PATH_SECRET}

    def console(self, url: str) -> Console | None:
        del url
        return None


class XiaomiReceipts(_ByPath):
    """A bit for each sort of receipt that is asked for."""

    bits = {Event.DELIVERED: 1, Event.CLICKED: 2, Event.UNINSTALLED: 16, Event.CAPPED: 128}  # noqa: RUF012

    def post(self, told: Told, console: Console | None) -> Post | None:
        del console
        url, bit = told.message.get("extra.callback"), self.bits[told.event]
        if not isinstance(url, str) or not int(str(told.message.get("extra.callback.type", 3))) & bit:
            return None
        said: Json = {"param": told.message.get("extra.callback.param", ""), "type": bit, "targets": told.target}
        said |= {"jobkey": told.message.get("extra.jobkey", ""), "timestamp": told.at_ms, "extra": {}}
        if told.event is Event.CAPPED:
            said["extra"] = {"ack": "5", "quota": "5"}
        return Post(url=url, body=urlencode({"data": _text({told.name: said})}).encode(), content_type=FORM)


class OppoReceipts(_ByPath):
    events = {  # noqa: RUF012
        Event.DELIVERED: "push_arrive",
        Event.UNINSTALLED: "regid_invalid",
        Event.CAPPED: "user_daily_limit",
    }

    def post(self, told: Told, console: Console | None) -> Post | None:
        del console
        url, event = told.message.get("call_back_url"), self.events.get(told.event)
        if not isinstance(url, str) or event is None:
            return None
        said: Json = {"messageId": told.name, "appId": "1", "taskId": told.name, "registrationIds": told.target}
        said |= {"eventTime": told.at_ms, "param": told.message.get("call_back_parameter", ""), "eventType": event}
        return Post(url=url, body=msgspec.json.encode([said]), content_type=JSON)


class VivoReceipts(_ByPath):
    """Only what was delivered is told."""

    def post(self, told: Told, console: Console | None) -> Post | None:
        extra = told.message.get("extra")
        if not isinstance(extra, dict) or told.event is not Event.DELIVERED:
            return None
        url = extra.get("callback") or (console.url if console is not None and "callback.id" in extra else None)
        if not isinstance(url, str):
            return None
        said: Json = {"param": extra.get("callback.param", ""), "targets": told.target}
        said |= {"ackType": 0, "ackTime": told.at_ms}
        return Post(url=url, body=msgspec.json.encode({told.name: said}), content_type=JSON)


class MeizuReceipts:
    """The address is registered in the console, which shows a token for it, and named by each message."""

    types = {Event.DELIVERED: 1, Event.CLICKED: 2}  # noqa: RUF012

    def settings(self, url: str) -> Json:
        return {"url": url, "access_token": MEIZU_TOKEN}

    def console(self, url: str) -> Console | None:
        return Console(url=url, secret=MEIZU_TOKEN)

    def post(self, told: Told, console: Console | None) -> Post | None:
        extra, type_ = told.message.get("extra"), self.types.get(told.event)
        if not isinstance(extra, dict) or type_ is None or console is None or extra.get("callback") != console.url:
            return None
        if extra.get("callback.type", 3) not in {type_, 3}:
            return None
        said = {"param": extra.get("callback.param", ""), "type": type_, "targets": [told.target]}
        form = {"cb": _text({f"{told.name}-{type_}": said}), "access_token": console.secret or ""}
        return Post(url=console.url, body=urlencode(form).encode(), content_type=FORM)


class HuaweiReceipts:
    """Where it goes stands in the console; it is signed if a user name and a secret stand there, too."""

    statuses = {Event.DELIVERED: 0, Event.UNINSTALLED: 2, Event.BLOCKED: 102, Event.CAPPED: 256}  # noqa: RUF012

    def settings(self, url: str) -> Json:
        del url
        return {"user": USER, "secret": SECRET}

    def console(self, url: str) -> Console | None:
        return Console(url=url, user=USER, secret=SECRET)

    def post(self, told: Told, console: Console | None) -> Post | None:
        status = self.statuses.get(told.event)
        if status is None or console is None:
            return None
        body = msgspec.json.encode({"statuses": [self.item(told, status)]})
        return Post(url=console.url, body=body, content_type=JSON, headers=_signature(told, console))

    def item(self, told: Told, status: int) -> Json:
        """V1."""
        said: Json = {"appid": "100000001", "token": told.target, "status": status, "timestamp": told.at_ms}
        return said | {"biTag": _part(told.message, "android").get("bi_tag", ""), "requestId": told.name}


class HarmonyReceipts(HuaweiReceipts):
    def item(self, told: Told, status: int) -> Json:
        """V2."""
        said: Json = {"token": told.target, "appPackageName": "org.example.chat", "pushType": 0}
        said |= {"biTag": _part(told.message, "pushOptions").get("biTag", ""), "requestId": told.name}
        return said | {"deliveryStatus": {"result": status, "timestamp": told.at_ms}}


class HonorReceipts(HuaweiReceipts):
    """Said to look like Huawei's V1; no signature is known."""

    def settings(self, url: str) -> Json:
        del url
        return {"path_secret": PATH_SECRET}

    def console(self, url: str) -> Console | None:
        return Console(url=f"{url}/{PATH_SECRET}")

    def item(self, told: Told, status: int) -> Json:
        return super().item(told, status) | {"biTag": _part(told.message, "android").get("biTag", "")}


def _signature(told: Told, console: Console) -> dict[str, str]:
    if console.user is None or console.secret is None:
        return {}
    try:
        key = base64.b64decode(console.secret, validate=True)
    except binascii.Error:  # an old one
        key = console.secret.encode()
    signed = f"{told.at_ms}{told.nonce}{console.user}".encode()
    value = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {"X-HUAWEI-CALLBACK-ID": f"timestamp={told.at_ms}; nonce={told.nonce}; value={value}"}


def _part(message: Json, name: str) -> Json:
    part = message.get(name)
    return part if isinstance(part, dict) else {}


def _text(value: Json) -> str:
    return msgspec.json.encode(value).decode()
