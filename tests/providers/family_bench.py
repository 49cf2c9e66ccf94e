"""A workbench for the adapters of the Huawei family: each with its emulator, over a real socket."""

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from providers.contract import Outcome, Push, Scope, Verdict
from providers.huawei_family import HuaweiFamily
from providers.loading import build
from providers.sandbox import Sandbox
from providers.transport import HttpTransport

NOW = 1_800_000_000.0
CONFIG = (Verdict.MISCONFIGURED, Scope.ACCOUNT)
REFUSED = (Verdict.REFUSED, Scope.MESSAGE)
RETRY = (Verdict.RETRY, Scope.MESSAGE)
SLOWER = (Verdict.RETRY, Scope.ACCOUNT)
DEAD = (Verdict.TOKEN_DEAD, Scope.TOKEN)


@dataclass
class Bench:
    kind: type[HuaweiFamily]
    sandbox: Sandbox
    transport: HttpTransport
    now: list[float]

    @property
    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = self.sandbox.account_settings(self.kind.name)["settings"]
        return settings

    def provider(self, **more: Any) -> Any:
        return build(self.kind, {**self.settings, **more}, transport=self.transport, now=lambda: self.now[0])

    async def answers(self, words: Iterable[str]) -> tuple[dict[str, tuple[Verdict, Scope]], set[str]]:
        """What becomes of a push under each fault, and after which of them it may have been sent."""
        provider, found, unsure = self.provider(), {}, set()
        for word in words:
            outcome = await provider.send(push(f"{word}-1"))
            found[word] = (outcome.verdict, outcome.scope)
            unsure |= {word} if outcome.maybe_sent else set()
        return found, unsure

    async def measures_alike(self) -> None:
        """What adapter and emulator call too large is the same, by the byte."""
        provider = self.provider()
        request = provider.encode(push(body=""), "x")
        room = 4096 - (request.payload_bytes or 0) + len("Ann")  # without a body, the title stands in for it
        assert (await provider.send(push(body="x" * room))).verdict is Verdict.ACCEPTED
        assert (await provider.send(push(body="x" * (room + 1)))) == Outcome(
            verdict=Verdict.TOO_LARGE, vendor_code="measured_here"
        )

    async def phone(self, token: str) -> dict[str, Any]:
        async with aiohttp.ClientSession() as http, http.get(f"{self.sandbox.url}/_phones?token={token}") as answer:
            return dict(next(iter((await answer.json())["phones"]), {}))

    async def control(self, path: str, **order: Any) -> None:
        url = f"{self.sandbox.url}/_control/{path}"
        async with aiohttp.ClientSession() as http, http.post(url, json=order) as answer:
            assert answer.status < 300


@asynccontextmanager
async def bench_of(kind: type[HuaweiFamily], *, state_dir: Path | None = None) -> AsyncIterator[Bench]:
    now = [NOW]
    sandbox = Sandbox(now=lambda: now[0], rng=random.Random(1), vendors=(kind.name,), state_dir=state_dir, slow_s=0.05)
    await sandbox.start()
    transport = HttpTransport()
    yield Bench(kind, sandbox, transport, now)
    await transport.aclose()
    await sandbox.stop()


def push(token: str = "t1", **fields: Any) -> Push:
    return Push(**{"id": "m-1", "token": token, "title": "Ann", "body": "hi", **fields})
