"""The composition root: builds everything from the settings, owns every lifetime, starts and stops in order."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from providers.transport import HttpTransport
from relay.api import connections, key_set, limits
from relay.api.auth import Authenticator, SignedTokens
from relay.api.gate import Gate
from relay.api.issuing import Issuer
from relay.api.principal import SCOPES
from relay.api.system import Readiness
from relay.api.watch import CredentialWatch
from relay.bus.local import LocalBus
from relay.clock import Clock
from relay.config import Settings
from relay.errors import ConfigError, Unavailable
from relay.ids import Rng, random_hex
from relay.inbox.address_tokens import AddressTokens
from relay.inbox.cursor import CursorKeys
from relay.inbox.fanout_worker import FanoutWorker
from relay.inbox.open_quota import OpenQuota
from relay.inbox.service import InboxService
from relay.jobs import Chores, keep_time
from relay.message_logs import MessageLogs
from relay.model import Policy
from relay.presence.service import PresenceService, Rhythm
from relay.push.challenge import Challenger
from relay.push.expiry import ExpiryWatch
from relay.push.from_settings import DEFAULT_APP, build_accounts, webhook_guard
from relay.push.held import load_held
from relay.push.mending import mend_all
from relay.push.reload import Reloader
from relay.push.withdraw import Withdrawer
from relay.push.worker import PushWorker
from relay.realtime import protocol
from relay.realtime.addresses import AddressBook
from relay.realtime.advice import Versions
from relay.realtime.comparing import Comparer
from relay.realtime.hub import Hub
from relay.realtime.protocol import WindowBody
from relay.realtime.service import DeviceService
from relay.shedding import Shedding
from relay.store import apps as app_rows
from relay.store import devices as device_rows
from relay.store import meta
from relay.store.migrate import migrate
from relay.store.outage import StoreWatch
from relay.store.room import ReadSpace, space_of
from relay.store.set_back import SetBack
from relay.store.sqlite_file import sqlite_version, wal_reset_affected
from relay.telemetry.loop_lag import measure_lag
from relay.telemetry.metrics import Metrics
from relay.telemetry.watchdog import Watchdog
from relay.webhooks.post import posting
from relay.webhooks.service import WebhookService
from relay.webhooks.worker import Pace, WebhookWorker
from relay.wiring.checking import cannot_listen
from relay.wiring.departure import Departure, timeline
from relay.wiring.load import LoadWatch, memory_share, queue_share
from relay.wiring.store import clock_of, open_engine, open_ring, reach, room_of
from relay.wiring.web import web_application

log = structlog.get_logger("relay.app")

COMPARISONS_PER_H, ROUNDS_PER_H = 6, 56  # of a device's store with the inbox; beside them, those that prove an upgrade
CLOCK_MS_MAX = 253_339_228_800_000  # the year 9998: what begins now must end before times have five digits of years


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStart:
    """What a first start made and shows once."""

    api_key: str | None


class Relay:
    """One node: everything that runs in this process."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        rng: Rng,
        metrics: Metrics,
        *,
        read_space: ReadSpace = space_of,
        read_settings: Callable[[Path | None], Settings] | None = None,
        find_config: Callable[[], Path | None] = lambda: None,
    ) -> None:
        """`read_settings` gives the configuration anew, for a reload, from the file that `find_config` found; that is watched."""
        self.settings = settings
        self.clock = clock_of(settings, clock)
        self.rng = rng
        self.metrics = metrics
        self.node_id = f"n{random_hex(rng, bits=64)}"
        self.port = settings.server.port
        self._read_space = read_space
        self._read_settings = read_settings or (lambda _: settings)
        self._find_config = find_config
        self._stages = timeline(drain_s=settings.server.drain_s, quiet_s=settings.server.quiet_s)

    # --- building ---

    async def open(self) -> FirstStart:
        """Opens the store, brings it to this version's schema, and builds the services. Raises ConfigError."""
        if self.clock.now_ms() > CLOCK_MS_MAX:
            raise ConfigError(["clock: it stands past the year 9997; set the machine's clock right."])
        policy = self.settings.policy()
        set_back = await self._open_store()
        await self._build_inboxes(policy)
        self._build_workers(policy)
        self._build_webhooks()
        self._build_access()
        self._build_operation(policy, set_back)
        self.web = web_application(self, lambda _: policy)
        return await self._first_start()

    async def _open_store(self) -> SetBack:
        settings, clock, rng = self.settings, self.clock, self.rng
        self.accounts = build_accounts(settings, clock)  # first of all: a mistake in it must leave nothing behind
        path = settings.sqlite_path()
        self.room = room_of(settings, self._read_space)
        self.engine = open_engine(settings, clock, rng, self.metrics, release=self.room.release)
        if path is not None and wal_reset_affected():
            log.info(
                "store.wal_reset_affected",
                version=sqlite_version,
                reason="harmless here, as only one connection writes",
            )
        await reach(self.engine, clock)
        self._boot_ms = clock.now_ms()  # the store's
        self.shedding = Shedding(lag_ms=settings.limits.lag_ms)
        await self.engine.write(migrate)
        self.ring = open_ring(settings, rng, store_is_new=await self.engine.read(meta.is_new))
        await self.engine.write(lambda conn, now_ms: meta.prepare(conn, now_ms, rng))
        set_back = SetBack(self.engine, rng, path or settings.keys.file)
        await set_back.look()
        return set_back

    async def _build_inboxes(self, policy: Policy) -> None:
        settings, clock, rng = self.settings, self.clock, self.rng
        newest, cursor_keys = self.ring.cursor_keys()
        self.id_secrets = await self._apps()
        self.tokens = AddressTokens(self.engine, self.ring, rng, clock)
        await self.tokens.begin()
        self.bus = LocalBus()
        await mend_all(self.engine, self.accounts)
        await load_held(self.engine, self.accounts)
        self.inbox = InboxService(
            engine=self.engine,
            clock=clock,
            rng=rng,
            policy_of=lambda _: policy,
            keys=CursorKeys(newest, cursor_keys),
            hints=self.bus,
            node_id=self.node_id,
            room=self.room,
            quota=OpenQuota(settings.limits.open_deliveries),
            shedding=self.shedding,
            page_entries=settings.page.entries,
            page_bytes=settings.page.bytes,
            reseal=self.tokens.reseal,
            fanout_due=lambda due_ms: self.fanout.nudge(due_ms),
            push_due=lambda due_ms: self.push.nudge(due_ms),
            facts_told=lambda: self.webhook_worker.nudge(),
            moot=lambda users: self.withdrawer.look(users),
            unproven=lambda device: self.challenger.ask(device),
            counted=self.metrics.accepted.inc,
        )
        rhythm = Rhythm(
            interval_s=settings.heartbeat.interval_s,
            factor=settings.heartbeat.lease_factor,
            linger_ms=policy.linger_ms,
            linger_restart_ms=policy.linger_restart_ms,
            handshakes_per_s=settings.limits.handshakes_per_s,
        )
        self.presence = PresenceService(self.inbox, clock, rhythm)
        self.devices = DeviceService(
            inbox=self.inbox,
            presence=self.presence,
            addresses=AddressBook(accounts=self.accounts, seal_token=self.tokens.seal),
            comparer=Comparer(
                inbox=self.inbox,
                clock=clock,
                begun=limits.RateLimiter(rate_per_s=COMPARISONS_PER_H / 3600, burst=COMPARISONS_PER_H),
                rounds=limits.RateLimiter(rate_per_s=ROUNDS_PER_H / 3600, burst=ROUNDS_PER_H),
            ),
            clock=clock,
            policy_of=lambda _: policy,
            node_id=self.node_id,
            poll_client_s=settings.poll.client_s,
            versions=Versions(settings.app.min_app_version, settings.app.recommended_app_version),
            window=WindowBody(entries=settings.window.entries, bytes=settings.window.bytes),
        )

    def _build_workers(self, policy: Policy) -> None:
        """Who brings messages on: to vendors, to many receivers, to the connections of this node."""
        settings, clock, rng = self.settings, self.clock, self.rng
        self.push = PushWorker(
            self.engine,
            clock,
            rng,
            self.accounts,
            lambda _: policy,
            node_id=self.node_id,
            open_token=self.tokens.unseal,
            told=self.metrics.pushed,
            boot_ms=self._boot_ms,
            drain_s=self._stages.finish_s,
        )
        self.expiry = ExpiryWatch(engine=self.engine, clock=clock, accounts=self.accounts)
        self.reloader = Reloader(
            read=self._read_settings,
            find=self._find_config,
            settings=settings,
            accounts=self.accounts,
            engine=self.engine,
            clock=clock,
            look_at_credentials=self.expiry.look,
        )
        self.logs = MessageLogs(
            self.engine,
            clock,
            settings.log_folder(),
            keep_ms=settings.retention.log_d * 86_400_000,
        )
        self.fanout = FanoutWorker(self.inbox.fan_out, clock, begin=self.inbox.begin_fan_out)
        self.challenger = Challenger(
            self.engine,
            clock,
            self.accounts,
            lambda _: policy,
            tokens=self.tokens,
            refused=self.metrics.turned_away,
        )
        self.withdrawer = Withdrawer(
            self.engine,
            clock,
            self.accounts,
            lambda _: policy,
            open_token=self.tokens.unseal,
            refused=self.metrics.turned_away,
        )
        self.hub = Hub(
            clock, rng, self.inbox.reader.heads, timeline_heads=self.inbox.shared.heads, poll_s=settings.poll.session_s
        )
        self.bus.on_wake(self.hub.wake)
        self.bus.on_post(self.hub.posted)
        self.bus.on_withdrawn(self.hub.withdrawn)
        self.bus.on_close(self.hub.close)

    def _build_webhooks(self) -> None:
        settings, clock, rng = self.settings, self.clock, self.rng
        self._webhook_transport = HttpTransport(guard=webhook_guard(settings))
        self.webhook_worker = WebhookWorker(
            self.engine,
            posting(self._webhook_transport),
            self.tokens.vault,
            clock=clock,
            rng=rng,
            owner=self.node_id,
            pace=Pace(
                timeout_s=settings.webhooks.timeout_s,
                per_endpoint=settings.webhooks.per_endpoint,
                drain_s=self._stages.finish_s,
            ),
            watch=self.metrics,
        )
        self.webhooks = WebhookService(
            self.engine,
            self.tokens.vault,
            self._webhook_transport.check,
            rng=rng,
            nudge=self.webhook_worker.nudge,
            events_keep_ms=settings.retention.event_d * 86_400_000,
        )

    def _build_access(self) -> None:
        settings, clock, rng = self.settings, self.clock, self.rng
        self.auth = Authenticator(
            self.engine,
            self.ring,
            clock,
            rate_per_s=settings.limits.send_rate_per_s,
            burst=settings.limits.send_burst,
            anonymous_per_s=settings.limits.anonymous_per_s,
            anonymous_burst=settings.limits.anonymous_burst,
            signed=self._signed_tokens(),
        )
        self.issuer = Issuer(self.engine, self.ring, rng)
        self.watch = CredentialWatch(self.engine, clock, rng, auth=self.auth, hub=self.hub, also=self.tokens.follow)
        self.auth.revoked = self.watch.sweep

    def _build_operation(self, policy: Policy, set_back: SetBack) -> None:
        """What keeps the node in order, and tells how it is."""
        settings, clock = self.settings, self.clock
        self.chores = Chores(
            engine=self.engine,
            inbox=self.inbox,
            clock=clock,
            node_id=self.node_id,
            witness=set_back.witness,
            dormant_ms=policy.dormant_ms,
            gone_ms=policy.gone_ms,
            history_ms=policy.history_ms,
            prune_events=self.webhooks.tidy,
            prune_logs=self.logs.prune,
            was_set_back=set_back.check,
            look_at_credentials=self.expiry.look,
            imbalanced=self.metrics.imbalanced,
            take_over=self.presence.take_over,
            step_ms=lambda: getattr(clock, "step_ms", None),
        )
        self.watchdog = Watchdog(clock, blocked=self.metrics.blocked)
        self.readiness = Readiness(self.engine, clock, full=lambda: self.room.full, turns=self.watchdog.well)
        self.store_watch = StoreWatch(self.engine, clock, away=self._store_away, back=self._store_back)
        self.gate = Gate(settings.server.handlers_max, refused=self.metrics.turned_away)
        departure = Departure(stages=self._stages, hub=self.hub, gate=self.gate, readiness=self.readiness, clock=clock)
        self._leave = departure.leave

    def _signed_tokens(self) -> SignedTokens | None:
        """Raises ConfigError for a key set that can't be used."""
        given = self.settings.device_jwt
        if not given.issuer:
            return None
        if given.keys_are_remote:
            fetch = key_set.from_url(given.keys, self._webhook_transport)
        else:
            key_set.check_file(Path(given.keys))
            fetch = key_set.from_file(Path(given.keys))
        keys = key_set.KeySet(fetch, self.clock)
        return SignedTokens(
            app_id=DEFAULT_APP, issuer=given.issuer, audience=given.audience, keys=keys, recreate=self.inbox.recreate
        )

    async def _apps(self) -> dict[str, bytes]:
        secret = self.rng.randbytes(32)

        def work(conn: Any, now_ms: int) -> dict[str, bytes]:
            app_rows.create_app(conn, now_ms, app_id=DEFAULT_APP, id_secret=secret)
            return app_rows.apps(conn)

        return await self.engine.write(work)

    async def _first_start(self) -> FirstStart:
        if await self.engine.read(lambda conn, now_ms: app_rows.has_api_key(conn, now_ms, DEFAULT_APP)):
            return FirstStart(api_key=None)
        return FirstStart(api_key=await self.issuer.api_key(DEFAULT_APP, name="first", scopes=SCOPES))

    # --- running ---

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serves for as long as the block lasts; then drains (safety OPS-1)."""
        online = await self.engine.read(lambda conn, _: device_rows.online_devices(conn))
        self.presence.resume(online)
        self.room.look()
        await self.chores.tick()
        await self.chores.count_open()
        await self.expiry.look()
        runner = connections.Runner(
            self.web,
            access_log=None,
            keepalive_timeout=75,
            shutdown_timeout=self._stages.last_s / 4,  # aiohttp waits twice as long, after our own waiting
            handler_cancellation=False,
        )
        await runner.setup()
        site = web.TCPSite(runner, self.settings.server.host, self.settings.server.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise cannot_listen(self.settings, error) from error
        self.port = runner.addresses[0][1]
        no_more, stop = asyncio.Event(), asyncio.Event()
        scheduler = self.chores.scheduler()
        load = LoadWatch(
            self.shedding,
            self.clock,
            self.metrics,
            queue=partial(queue_share, self.engine),
            memory=memory_share(self.settings.limits.memory_bytes),
        )
        async with asyncio.TaskGroup() as group:
            workers = [
                group.create_task(worker(no_more), name=worker.__qualname__)
                for worker in (self.push.run, self.webhook_worker.run, self.fanout.run)
            ]
            for service in (
                self.presence.run,
                self.hub.run,
                self.hub.run_windows,
                self.watch.run,
                self.store_watch.run,
                self.room.run,
                self.reloader.run,
                self.withdrawer.run,
                self.challenger.run,
                self.watchdog.run,
            ):
                group.create_task(service(stop), name=service.__qualname__)
            group.create_task(self.hub.run_pings(stop, every_s=protocol.PING_S), name="pings")
            group.create_task(measure_lag(self.clock, load.looked, stop), name="loop-lag")
            scheduler.start()
            group.create_task(keep_time(scheduler, stop), name="keep-time")
            try:
                yield
            finally:
                await self._leave(runner, site, no_more, workers)
                stop.set()
                scheduler.shutdown(wait=False)
                await runner.cleanup()
        try:
            await self.chores.tick()
        except Unavailable as problem:  # all that was promised is stored: who goes need not wait for its return
            log.warning("relay.stopped_without_store", code=problem.code)

    def _store_away(self) -> None:
        self.presence.store_away()
        self.hub.store_away()

    def _store_back(self, outage_ms: int) -> None:
        self.presence.store_back(outage_ms)
        self.hub.store_back()

    async def close(self) -> None:
        """Closes what `open` opened."""
        await self.accounts.aclose()
        await self._webhook_transport.aclose()
        await self.engine.close()
        self.room.close()
