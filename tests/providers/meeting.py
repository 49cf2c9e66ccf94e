"""An adapter and the emulator of its vendor, over a real socket. Neither knows the other's code; both know the sheet."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp
from hasty import Hasty

from providers import loading
from providers.contract import BatchProvider, Outcome, Provider, Push, Scope, Verdict
from providers.loading import discover
from providers.sandbox import Sandbox
from providers.transport import HttpTransport

NOON_BEIJING = 1_799_985_600.0  # 2027-01-15 12:00 +08:00: every class may be sent


class Answered(NamedTuple):
    verdict: Verdict
    scope: Scope = Scope.MESSAGE
    retry_after_s: float | None = None
    maybe_sent: bool = False
    spent: bool = False


ANSWERS_OF_THE_WIRE = {
    "slow": Answered(Verdict.RETRY, maybe_sent=True),
    "reset": Answered(Verdict.RETRY, maybe_sent=True),
    "cut": Answered(Verdict.RETRY, maybe_sent=True),
    "garbage": Answered(Verdict.RETRY, maybe_sent=True),
    "unavailable": Answered(Verdict.RETRY),
    "gateway": Answered(Verdict.RETRY),
}


@dataclass
class Meeting:
    sandbox: Sandbox
    vendor: str
    provider: Any  # the vendor's: HttpProvider
    clock: list[float] = field(default_factory=list)

    def push(self, token: str, **fields: Any) -> Push:
        return Push(**{"id": "p1", "token": token, "title": "Ann", "body": "hello", "ttl_s": 3600, **fields})

    async def send(self, token: str, **fields: Any) -> Outcome:
        provider: Provider = self.provider
        return await provider.send(self.push(token, **fields))

    async def send_many(self, tokens: Iterable[str], **fields: Any) -> list[Outcome]:
        provider: BatchProvider = self.provider
        return await provider.send_many([self.push(token, **fields) for token in tokens])

    async def answered(self, token: str, **fields: Any) -> Answered:
        outcome = await self.send(token, **fields)
        return Answered(outcome.verdict, outcome.scope, outcome.retry_after_s, outcome.maybe_sent, outcome.spent)

    async def control(self, path: str, **order: Any) -> None:
        async with (
            aiohttp.ClientSession(self.sandbox.url) as http,
            http.post(f"/_control/{path}", json={"vendor": self.vendor, **order}) as answer,
        ):
            assert answer.status < 300, await answer.text()

    async def post(self, path: str, **request: Any) -> Any:
        """A call of one's own making, past the adapter."""
        async with (
            aiohttp.ClientSession(self.sandbox.url) as http,
            http.post(f"/{self.vendor}{path}", **request) as answer,
        ):
            return await answer.json()

    def received(self, token: str) -> list[dict[str, Any]]:
        return self._on(token, "received")

    def shown(self, token: str) -> list[dict[str, Any]]:
        return self._on(token, "shown")

    def _on(self, token: str, what: str) -> list[dict[str, Any]]:
        phones: list[Any] = self.sandbox.phones.view(token=token, phones_max=1)
        return list(phones[0][what]) if phones else []


@asynccontextmanager
async def meeting(vendor: str, *, now_s: float = NOON_BEIJING, **settings: Any) -> AsyncIterator[Meeting]:
    """The adapter with the emulator's own settings, and these besides."""
    clock = [now_s]
    sandbox = Sandbox(now=lambda: clock[0], rng=random.Random(1), vendors=(vendor,), slow_s=20)
    await sandbox.start()
    try:
        async with HttpTransport() as transport:
            (kind,) = (one.provider for one in discover() if one.name == vendor)
            assert kind is not None
            given = {**sandbox.account_settings(vendor)["settings"], **settings}
            provider = loading.build(kind, given, transport=Hasty(transport), now=lambda: clock[0])
            yield Meeting(sandbox, vendor, provider, clock)
            await provider.aclose()
    finally:
        await sandbox.stop()
