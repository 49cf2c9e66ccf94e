"""How a relay goes: it says so, takes nothing new, and lets end what is under way (safety OPS-1)."""

import asyncio
from dataclasses import dataclass

import structlog
from aiohttp import web

from relay.api.gate import Gate, stop_listening
from relay.api.system import Readiness
from relay.clock import Clock
from relay.drain import Timeline
from relay.realtime.hub import Hub

log = structlog.get_logger("relay.app")

LAST_REQUESTS_S = 0.5  # for what was on its way when we stopped listening


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """The stages of going, and whom they are told."""

    stages: Timeline
    hub: Hub
    gate: Gate
    readiness: Readiness
    clock: Clock

    async def leave(
        self,
        runner: web.AppRunner,
        site: web.TCPSite,
        no_more: asyncio.Event,
        workers: list["asyncio.Task[None]"],
    ) -> None:
        """Returns when the relay may be cut off. `no_more` ends the workers, which let go by themselves."""
        stages = self.stages
        log.info("relay.draining", sockets=len(self.hub))
        self.readiness.draining = True
        self.gate.leave()
        await self.clock.sleep(stages.quiet_s)
        assert runner.server is not None
        await stop_listening(site, runner.server)
        self.gate.shut()
        no_more.set()
        self.hub.drain(reconnect_s_max=stages.reconnect_s)
        try:
            async with asyncio.timeout(stages.finish_s):
                await self.hub.restart(within_s=stages.close_s)
                await self.clock.sleep(LAST_REQUESTS_S)
                await self.gate.idle()
        except TimeoutError:
            log.warning("relay.cut_off", count=self.gate.busy)
        await asyncio.wait(workers, timeout=stages.finish_s + stages.last_s / 4)  # until then, callers get an answer
