"""The control API under `/_control`: faults, revocation, reset, state. For tests, demos and curious users.

Orders are for one vendor, `"vendor": "apns"` in the body or `?vendor=apns`; without a word for the first one served.

GET    /_control/state    numbers, faults in force, the newest requests, by vendor
GET    /_control/faults   every fault that can be had of a vendor, with its meaning, and those in force
POST   /_control/faults   {"token": "t-1", "fault": "unregistered", "times": 3}
                          {"all": true, "fault": "unavailable", "seconds": 20, "retry_after": "5"}
                          {"on": "token", "fault": "invalid_grant"}      the OAuth token endpoint
DELETE /_control/faults   all of them go, of all vendors
POST   /_control/click    {"token": "t-1"}  somebody taps the newest notification there; 404 if there is none, or nobody is told
POST   /_control/revoke   the account's key and all access tokens; {"what": "access_tokens"} only these
POST   /_control/reset    all vendors: no faults, no deliveries, key restored, numbers at 0; good access tokens stay good
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Self

import msgspec
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from providers.sandbox.coded import CodedEmulator
from providers.sandbox.emulator import Emulator
from providers.sandbox.faults import DELAY_S_MAX, RULES_MAX, Place, Rule, TooManyRules
from providers.sandbox.phones import Phones

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FaultOrder(BaseModel):
    """The body of `POST /_control/faults`. Without `times` and `seconds` it lasts until it is deleted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    vendor: str | None = None
    fault: str
    on: Literal["send", "token"] = "send"
    token: str | None = None  # or a FID or topic
    all: bool = False
    times: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    retry_after: str | None = Field(default=None, pattern=r"^[\x20-\x7e]{0,100}$")  # "" takes the header away
    delay_s: float | None = Field(default=None, ge=0, le=DELAY_S_MAX)

    @model_validator(mode="after")
    def _one_aim(self) -> Self:
        if self.on == "token":
            if self.token is not None:
                raise ValueError('a fault on "token" strikes every call of the token endpoint: leave "token" out')
        elif (self.token is not None) == self.all:
            raise ValueError('say either "token": "…" or "all": true')
        return self


class RevokeOrder(BaseModel):
    """The body of `POST /_control/revoke`; may be absent."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    vendor: str | None = None
    what: Literal["key", "access_tokens"] = "key"


class ClickOrder(BaseModel):
    """The body of `POST /_control/click`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    vendor: str | None = None
    token: str


class UnknownVendor(Exception):  # noqa: N818 - it says what is the matter
    """Its text says which there are."""


class Control:
    def __init__(self, emulators: Mapping[str, Emulator], phones: Phones, *, now: Callable[[], float]) -> None:
        self._emulators = emulators
        self._phones = phones
        self._now = now

    def application(self) -> web.Application:
        app = web.Application(middlewares=[_refuse_other_sites, _refuse_unknown_vendors])
        app.add_routes(
            [
                web.get("/state", self.state),
                web.get("/faults", self.faults),
                web.post("/faults", self.add_fault),
                web.delete("/faults", self.delete_faults),
                web.post("/revoke", self.revoke),
                web.post("/click", self.click),
                web.post("/reset", self.reset),
            ]
        )
        return app

    async def state(self, request: web.Request) -> web.Response:
        phones = {
            "count": len(self._phones),
            "delivered": self._phones.delivered,
            "forgotten": self._phones.forgotten,
            "kept_bytes": self._phones.kept_bytes,
            "waiting": self._phones.waiting,
        }
        vendors = {name: emulator.state() for name, emulator in self._emulators.items()}
        return json_response({"now": self._now(), "phones": phones, **vendors})

    async def faults(self, request: web.Request) -> web.Response:
        emulator = self._vendor(request.query.get("vendor"))
        known = {
            place.value: {name: fault.meaning for name, fault in faults.items()}
            for place, faults in emulator.known_faults.items()
        }
        return json_response({"known": known, "active": emulator.faults.rules(), "vendors": list(self._emulators)})

    async def add_fault(self, request: web.Request) -> web.Response:
        try:
            order = FaultOrder.model_validate_json(await request.read())
        except ValidationError as error:
            return _refusal(400, _sentence(error))
        emulator = self._vendor(order.vendor)
        rule = Rule(
            fault=order.fault,
            place=Place(order.on),
            token=order.token,
            times_left=order.times,
            until=None if order.seconds is None else self._now() + order.seconds,
            retry_after=order.retry_after,
            delay_s=order.delay_s,
        )
        try:
            emulator.faults.add(rule)
        except KeyError:
            known = ", ".join(sorted(emulator.known_faults.get(rule.place, {}))) or "none"
            return _refusal(400, f"No such fault; there are: {known}.")
        except TooManyRules:
            return _refusal(429, f"There are {RULES_MAX} rules already; DELETE /_control/faults makes room.")
        return json_response(rule, status=201)

    async def delete_faults(self, request: web.Request) -> web.Response:
        for emulator in self._emulators.values():
            emulator.faults.clear()
        return web.Response(status=204)

    async def revoke(self, request: web.Request) -> web.Response:
        try:
            order = RevokeOrder.model_validate_json(await request.read() or b"{}")
        except ValidationError as error:
            return _refusal(400, _sentence(error))
        self._vendor(order.vendor).revoke(key=order.what == "key")
        return web.Response(status=204)

    async def click(self, request: web.Request) -> web.Response:
        try:
            order = ClickOrder.model_validate_json(await request.read())
        except ValidationError as error:
            return _refusal(400, _sentence(error))
        emulator = self._vendor(order.vendor)
        if isinstance(emulator, CodedEmulator) and emulator.click(order.token):
            return web.Response(status=204)
        return _refusal(404, "Nothing of this vendor's was shown there, or it does not tell of taps.")

    async def reset(self, request: web.Request) -> web.Response:
        for emulator in self._emulators.values():
            emulator.reset()
        self._phones.clear()
        return web.Response(status=204)

    def _vendor(self, name: str | None) -> Emulator:
        emulator = next(iter(self._emulators.values())) if name is None else self._emulators.get(name)
        if emulator is None:
            raise UnknownVendor(f"No such vendor here; there are: {', '.join(self._emulators)}.")
        return emulator


def json_response(value: object, *, status: int = 200) -> web.Response:
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    return web.Response(
        status=status, body=msgspec.json.encode(value), content_type="application/json", headers=headers
    )


@web.middleware
async def _refuse_other_sites(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A page of another site, open in the developer's browser, must not give orders here."""
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.host:
        return _refusal(403, "The control API takes no orders from other sites' pages.")
    return await handler(request)


@web.middleware
async def _refuse_unknown_vendors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except UnknownVendor as unknown:
        return _refusal(400, str(unknown))


def _refusal(status: int, sentence: str) -> web.Response:
    return json_response({"error": sentence}, status=status)


def _sentence(error: ValidationError) -> str:
    mistakes = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in mistakes)
