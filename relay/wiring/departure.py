"""How a relay goes: it says so, takes nothing new, and lets end what is under way (safety OPS-1)."""

import asyncio
from dataclasses import dataclass

import structlog
from aiohttp import web

from relay.api.connections import about_to_ask
from relay.api.gate import Gate, stop_listening
from relay.api.system import Readiness
from relay.clock import Clock
from relay.realtime.hub import Hub

log = structlog.get_logger("relay.app")

LAST_REQUESTS_S = (0.5, 1.0)  # for what was on its way when we stopped listening: the more, the more time there is
LOOK_S = 0.05
# The page's timeline, in seconds after "stop accepting"; the operator's time is shared out in its proportions.
_PAGE_CLOSE_S, _PAGE_RECONNECT_S, _PAGE_FINISH_S, _PAGE_WHOLE_S = 10, 15, 15, 23


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Seconds. `quiet_s` counts from the signal, all others from its end; quiet_s + finish_s + last_s is the whole."""

    quiet_s: float  # readiness says no, everything is served
    close_s: float  # device sockets are closed, one after the other
    reconnect_s: float  # the longest delay after which a device is asked to come back
    finish_s: float  # requests and vendors' calls that are under way may end
    last_s: float  # claims are released, the store is closed


def timeline(*, drain_s: float, quiet_s: float) -> Timeline:
    """The stages of a stop that may take `drain_s` as a whole."""
    quiet_s = min(quiet_s, drain_s)
    share = (drain_s - quiet_s) / _PAGE_WHOLE_S
    return Timeline(
        quiet_s=quiet_s,
        close_s=_PAGE_CLOSE_S * share,
        reconnect_s=_PAGE_RECONNECT_S * share,
        finish_s=_PAGE_FINISH_S * share,
        last_s=(_PAGE_WHOLE_S - _PAGE_FINISH_S) * share,
    )


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
                await self.clock.sleep(min(max(LAST_REQUESTS_S[0], stages.finish_s / 8), LAST_REQUESTS_S[1]))
                while about_to_ask(runner.server):  # cut off now, they would not know whether they were heard
                    await self.clock.sleep(LOOK_S)
                await self.gate.idle()
        except TimeoutError:
            log.warning("relay.cut_off", count=self.gate.busy)
        await asyncio.wait(workers, timeout=stages.finish_s + stages.last_s / 4)  # until then, callers get an answer
