"""The push services of the browsers, and the browsers behind them: what they check, and what they answer.

Source: vendor sheet webpush.md (autumn 2026). One path for each service, as `/webpush/mozilla/wpush/v2/NAME`, where
NAME is the browser's. A message that passes is decrypted as the browser would, and shown.
"""

import re
from typing import Any
from uuid import UUID

import msgspec
from aiohttp import web

from providers.sandbox.checks import Json, read_json
from providers.sandbox.emulator import Emulator, Host
from providers.sandbox.faults import Answer
from providers.sandbox.webpush_crypto import (
    Browser,
    SignatureRefused,
    Unreadable,
    bytes_of,
    judged,
    key_named,
    point_of,
    text_of,
)
from providers.sandbox.webpush_services import (
    APPLE_GONE,
    FIREFOX_FOR_ANDROID,
    SERVICES,
    TTL_POLICY_CONFLICT,
    WEBPUSH_FAULTS,
    Service,
)

URGENCIES = frozenset({"very-low", "low", "normal", "high"})
DEFAULT_SERVICE = "google"

_DIGITS = re.compile(r"[0-9]{1,10}")
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")


class WebPushEmulator(Emulator):
    """All four services, bound to one application server's key."""

    name = "webpush"
    known_faults = WEBPUSH_FAULTS

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._key = key_named("application server of the sandbox")
        self.public_key = text_of(point_of(self._key))
        self.unreadable = 0  # messages that no browser could have shown
        self.waiting: dict[str, tuple[str, str | None]] = {}  # that no browser has fetched yet: name -> browser, topic
        self.forbidden: set[str] = set()  # Safaris that were sent something and shown nothing (§6.4)

    def routes(self) -> list[web.RouteDef]:
        sends = [f"/webpush/{{service}}/{one.prefix}/{{browser}}" for one in SERVICES.values()]
        return [*(web.post(path, self.send) for path in sends), web.delete("/webpush/{service}/m/{name}", self.cancel)]

    def settings(self) -> Json:
        return {
            "vapid_private_key": text_of(self._key.private_numbers().private_value.to_bytes(32)),
            "vapid_subject": "mailto:sandbox@relay.example",
            "exempt": [self.host.url.partition("://")[2]],  # this machine, and its port
        }

    def address(self, phone: str) -> str:
        return self.subscription(phone)

    def subscription(self, browser: str, service: str = DEFAULT_SERVICE, *, origin: str | None = None) -> str:
        """What the app in this browser would register, at the sandbox's address or at another that leads here."""
        endpoint = f"{origin or self.host.url}/webpush/{service}/{SERVICES[service].prefix}/{browser}"
        receiver = Browser.named(browser)
        keys = {"p256dh": text_of(point_of(receiver.key)), "auth": text_of(receiver.auth)}
        return msgspec.json.encode({"endpoint": endpoint, "expirationTime": None, "keys": keys}).decode()

    def state(self) -> Json:
        return {**super().state(), "public_key": self.public_key, "unreadable": self.unreadable}

    def reset(self) -> None:
        super().reset()
        self.unreadable = 0
        self.waiting.clear()
        self.forbidden.clear()

    async def send(self, request: web.Request) -> web.StreamResponse:
        """`POST <endpoint>`, RFC 8030 §5."""
        service = SERVICES.get(request.match_info["service"])
        browser = request.match_info["browser"]
        if service is None or not request.path.startswith(f"/webpush/{service.name}/{service.prefix}/"):
            return self.refuse(Answer(status=404, body=b""), browser)
        if service.name == "mozilla" and browser.startswith("android-"):
            service = FIREFOX_FOR_ANDROID
        body = await request.read()
        refused = self._refused(request, service, browser, body)
        if refused is not None:
            return self.refuse(refused, browser)
        ttl_s = min(int(request.headers["TTL"]), service.ttl_s_max)
        name = str(UUID(int=self.host.rng.getrandbits(128), version=4))
        self.waiting[name] = (browser, request.headers.get("Topic"))
        answer = await self.reply(
            request,
            browser,
            lambda: self._show(browser, request, body, service=service, name=name, ttl_s=ttl_s),
            _created(service, f"{self.url}/{service.name}/m/{name}", name=name, ttl_s=ttl_s),
        )
        if name in self.waiting:
            self._keep(name, taken=answer.status == 201 and ttl_s > 0)
        return answer

    def _keep(self, name: str, *, taken: bool) -> None:
        """What no browser fetched waits, in place of one of the same topic (§4); with a TTL of 0 it is dropped (§6.1)."""
        place = self.waiting.pop(name)
        if not taken:
            return
        if place[1] is not None:
            self.waiting = {other: at for other, at in self.waiting.items() if at != place}
        self.waiting[name] = place

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """`DELETE <message>`: 204 while it waits; what a browser has fetched is no longer there (RFC 8030 §5)."""
        found = request.match_info["service"] == "mozilla" and request.match_info["name"] in self.waiting
        self.waiting.pop(request.match_info["name"], None)
        return web.Response(status=204 if found else 404)

    def _refused(self, request: web.Request, service: Service, browser: str, body: bytes) -> Answer | None:
        """The service's answer to the first thing that is wrong."""
        headers = request.headers
        ttl = headers.get("TTL")
        if ttl is None:
            return service.ttl_missing
        if not _DIGITS.fullmatch(ttl) or (service.name == "google" and int(ttl) > service.ttl_s_max):
            return service.ttl_wrong  # the others shorten it, and say so in their answer
        if service.name == "microsoft" and headers.get("X-WNS-Cache-Policy") != ("cache" if int(ttl) else "no-cache"):
            # With a TTL above 0 the service is content without the header; a wrong one is a conflict all the same.
            if int(ttl) == 0 or "X-WNS-Cache-Policy" in headers:
                return TTL_POLICY_CONFLICT
        urgencies = headers.getall("Urgency", [])
        if service.urgency_wrong is not None and (len(urgencies) > 1 or not URGENCIES.issuperset(urgencies)):
            return service.urgency_wrong
        topic = headers.get("Topic")
        if topic is not None and service.name == "mozilla":
            topic = topic.rstrip("=")  # padding is tolerated there alone (§4)
        if topic is not None and not (_TOPIC.fullmatch(topic) and (service.name != "apple" or _decodable(topic))):
            return service.topic_wrong
        old_style = "Crypto-Key" in headers or "Encryption" in headers
        if old_style or (body and headers.get("Content-Encoding") != "aes128gcm"):
            return service.encoding_wrong
        if len(body) > service.body_bytes_max:
            return service.too_large
        refused = self._unsigned(request, service)
        return APPLE_GONE if refused is None and service.name == "apple" and browser in self.forbidden else refused

    def _unsigned(self, request: web.Request, service: Service) -> Answer | None:
        header = request.headers.get("Authorization")
        if header is None:
            return service.unsigned
        try:
            signature = judged(header, origin=f"{request.scheme}://{request.host}", now=self.host.now())
        except SignatureRefused:
            return service.signature_wrong
        if service.name == "apple" and not _contact_is_sane(signature.subject):
            return service.signature_wrong
        if self.revoked or signature.public_key != self.public_key:
            return service.other_key
        return None

    def _show(
        self, browser: str, request: web.Request, body: bytes, *, service: Service, name: str, ttl_s: int
    ) -> None:
        self.waiting.pop(name, None)
        try:
            shown = read_json(Browser.named(browser).read(body)) if body else {}
        except Unreadable:
            shown = None
        if not isinstance(shown, dict):
            self.unreadable += 1
            return
        if service.name == "apple" and not (shown.get("title") or shown.get("body")):
            self.forbidden.add(browser)
        deliver(
            self,
            browser,
            shown,
            name=name,
            platform="web",
            priority=request.headers.get("Urgency"),
            ttl=f"{ttl_s}s",
        )


def deliver(emulator: Emulator, target: str, shown: Json, **said: Any) -> None:
    """Brings an opened envelope to the app, which shows it: members as the sheet's §7 names them."""
    words = {key: value for key in ("title", "body", "sound", "channel") if isinstance(value := shown.get(key), str)}
    badge, data = shown.get("badge_count"), shown.get("data")
    if isinstance(badge, int):
        said["badge"] = badge
    if isinstance(shown.get("tag"), str):
        said["collapse"] = shown["tag"]  # Topic is about what still waits
    if isinstance(data, dict):
        said["data"] = data
    if isinstance(shown.get("relay"), dict):
        said["data"] = {**said.get("data", {}), "relay": shown["relay"]}
    if words.get("title") or words.get("body"):
        said["shown_by"] = "app"
    emulator.deliver(target, message=shown, **words, **said)


def _created(service: Service, location: str, *, name: str, ttl_s: int) -> Answer:
    headers: tuple[tuple[str, str], ...] = (("Location", location), ("TTL", str(ttl_s)))
    if service.name == "microsoft":
        headers = (("X-WNS-Status", "received"), ("X-WNS-NotificationStatus", "received"), ("X-WNS-Msg-ID", name))
    elif service.name == "apple":
        headers = (("apns-id", name),)
    return Answer(status=201, body=b"", content_type="text/plain", headers=headers)


def _decodable(topic: str) -> bool:
    """Apple seems to insist on it (one report)."""
    try:
        bytes_of(topic)
    except ValueError:
        return False
    return True


def _contact_is_sane(subject: str | None) -> bool:
    if subject is None or "localhost" in subject or " " in subject:
        return False
    return subject.startswith("https://") or (subject.startswith("mailto:") and "@" in subject)
