"""The composition root: builds everything from the settings, owns every lifetime, starts and stops in order."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from providers.transport import HttpTransport
from relay.api import key_set, limits, table
from relay.api.auth import Authenticator, SignedTokens
from relay.api.backend import BackendApi, Sends
from relay.api.device import DeviceApi
from relay.api.device_sends import DeviceSends
from relay.api.door import Door
from relay.api.gate import Gate, stop_listening
from relay.api.groups import GroupApi
from relay.api.history import HistoryApi
from relay.api.issuing import Issuer
from relay.api.preferences import PreferencesApi
from relay.api.principal import SCOPES
from relay.api.push import PushApi
from relay.api.receipts import ReceiptApi
from relay.api.server import application
from relay.api.stream import StreamApi
from relay.api.system import Readiness, SystemApi, documents
from relay.api.watch import CredentialWatch
from relay.api.webhooks import WebhookApi
from relay.bus.local import LocalBus
from relay.clock import Clock, StoreClock
from relay.config import Settings
from relay.drain import timeline
from relay.errors import ConfigError, FieldError, Unavailable
from relay.fanout import FanoutWorker
from relay.ids import Rng, random_hex
from relay.inbox.cursor import CursorKeys
from relay.inbox.service import InboxService
from relay.jobs import Chores
from relay.keys import KeyRing
from relay.message_logs import MessageLogs
from relay.model import DeviceKey, Policy
from relay.presence.service import PresenceService, Rhythm
from relay.push.building import DEFAULT_APP as DEFAULT_APP  # noqa: PLC0414 - also this module's
from relay.push.building import build_accounts, webhook_guard
from relay.push.desk import PushDesk
from relay.push.expiry import ExpiryWatch
from relay.push.receipts import ReceiptService
from relay.push.reload import Reloader
from relay.push.withdraw import Withdrawer
from relay.push.worker import PushWorker
from relay.realtime import protocol
from relay.realtime.hub import Hub
from relay.realtime.protocol import WindowBody
from relay.realtime.service import DeviceService
from relay.store import apps as app_rows
from relay.store import devices as device_rows
from relay.store import meta, rollback
from relay.store import queue as job_rows
from relay.store.engine import Engine, SqliteEngine
from relay.store.migrate import migrate
from relay.store.outage import StoreWatch
from relay.store.postgres import PostgresEngine
from relay.store.postgres_session import Server
from relay.store.room import MIB, Boundless, ReadSpace, Room, space_of
from relay.store.sqlite_file import sqlite_version, wal_reset_affected
from relay.store.vault import Vault, address_place, give_keys
from relay.telemetry import Metrics
from relay.webhooks.service import WebhookService
from relay.webhooks.worker import Pace, WebhookWorker, posting

log = structlog.get_logger("relay.app")

STORE_TRIES = 60  # one a second
LAST_REQUESTS_S = 0.5  # for what was on its way when we stopped listening
LAG_S = 0.5
COMPARISONS_PER_H, ROUNDS_PER_H = 6, 56  # of a device's store with the inbox; beside them, those that prove an upgrade
CLOCK_MS_MAX = 253_339_228_800_000  # the year 9998: what begins now must end before times have five digits of years


def open_engine(
    settings: Settings, clock: Clock, rng: Rng, metrics: Metrics, *, release: Callable[[], bool] = lambda: False
) -> Engine:
    """The engine of the configured store. Needs a running loop for PostgreSQL. Raises ConfigError, StoreDamaged."""
    path = settings.sqlite_path()
    if path is not None:
        return SqliteEngine(
            path,
            clock,
            readers=settings.store.readers,
            watch=metrics,
            unsafe_storage=settings.store.unsafe_storage,
            release=release,
        )
    return PostgresEngine(
        settings.store.url.reveal(),
        clock,
        rng,
        workers=settings.store.workers,
        watch=metrics,
        unsafe_storage=settings.store.unsafe_storage,
    )


def open_ring(settings: Settings, rng: Rng, *, store_is_new: bool) -> KeyRing:
    """The key ring; made only together with a new store. Raises ConfigError."""
    path = settings.keys.file
    if store_is_new and not path.exists() and "RELAY_KEYS" not in os.environ:
        return KeyRing.create(path, rng)
    return KeyRing.find(path, os.environ, rng)


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
        read_settings: Callable[[], Settings] | None = None,
        config_file: Path | None = None,
    ) -> None:
        """`read_settings` gives the configuration anew, for a reload; `config_file` is watched for changes."""
        self.settings = settings
        # Relays that share a store share its clock.
        self.clock = clock if settings.sqlite_path() is not None else StoreClock(clock)
        self.rng = rng
        self.metrics = metrics
        self.node_id = f"n{random_hex(rng, bits=64)}"
        self.port = settings.server.port
        self._read_space = read_space
        self._read_settings = read_settings or (lambda: settings)
        self._config_file = config_file
        self._stages = timeline(drain_s=settings.server.drain_s, quiet_s=settings.server.quiet_s)

    # --- building ---

    async def open(self) -> FirstStart:
        """Opens the store, brings it to this version's schema, and builds the services. Raises ConfigError."""
        settings, clock, rng = self.settings, self.clock, self.rng
        if clock.now_ms() > CLOCK_MS_MAX:
            raise ConfigError(["clock: it stands past the year 9997; set the machine's clock right."])
        self.accounts = build_accounts(settings, clock)  # first of all: a mistake in it must leave nothing behind
        path = settings.sqlite_path()
        new_file = path is not None and not path.exists()
        if new_file and path is not None and not path.parent.is_dir():
            raise ConfigError([f"store.url: the folder {path.parent} does not exist."])
        self.room = self._room(path)
        self.engine = open_engine(settings, clock, rng, self.metrics, release=self.room.release)
        if path is not None and wal_reset_affected():
            log.warning(
                "store.wal_reset_affected",
                version=sqlite_version,
                reason="harmless here, as only one connection writes",
            )
        await self._reach_store()
        self._boot_ms = clock.now_ms()  # the store's
        await self.engine.write(migrate)
        self.ring = open_ring(settings, rng, store_is_new=await self.engine.read(meta.is_new))
        await self.engine.write(lambda conn, now_ms: meta.prepare(conn, now_ms, rng))
        await self._check_history(path or settings.keys.file)
        policy = settings.policy()
        newest, cursor_keys = self.ring.cursor_keys()
        self._secrets = await self._apps()
        self._vault = await self._open_vault()
        self.bus = LocalBus()
        await self._load_parked()
        self.inbox = InboxService(
            engine=self.engine,
            clock=clock,
            rng=rng,
            policy_of=lambda _: policy,
            keys=CursorKeys(newest, cursor_keys),
            hints=self.bus,
            node_id=self.node_id,
            room=self.room,
            page_entries=settings.page.entries,
            page_bytes=settings.page.bytes,
            reseal=self._reseal_token,
            fanout_due=lambda due_ms: self.fanout.nudge(due_ms),
            push_due=lambda due_ms: self.push.nudge(due_ms),
            facts_told=lambda: self.webhook_worker.nudge(),
            read_somewhere=lambda user: self.withdrawer.read(user),
            counted=self.metrics.accepted.inc,
        )
        rhythm = Rhythm(
            interval_s=settings.heartbeat.interval_s,
            factor=settings.heartbeat.lease_factor,
            linger_ms=policy.linger_ms,
            linger_restart_ms=policy.linger_restart_ms,
        )
        self.presence = PresenceService(self.inbox, clock, rhythm)
        self.devices = DeviceService(
            inbox=self.inbox,
            presence=self.presence,
            accounts=self.accounts,
            clock=clock,
            policy_of=lambda _: policy,
            seal_token=self._seal_token,
            node_id=self.node_id,
            poll_client_s=settings.poll.client_s,
            window=WindowBody(entries=settings.window.entries, bytes=settings.window.bytes),
            comparisons=limits.RateLimiter(rate_per_s=COMPARISONS_PER_H / 3600, burst=COMPARISONS_PER_H),
            rounds=limits.RateLimiter(rate_per_s=ROUNDS_PER_H / 3600, burst=ROUNDS_PER_H),
        )
        self.push = PushWorker(
            self.engine,
            clock,
            rng,
            self.accounts,
            lambda _: policy,
            node_id=self.node_id,
            open_token=self._open_token,
            told=self.metrics.pushed,
            boot_ms=self._boot_ms,
            drain_s=self._stages.finish_s,
        )
        self.reloader = Reloader(
            read=self._read_settings,
            config_file=self._config_file,
            settings=settings,
            accounts=self.accounts,
            engine=self.engine,
            clock=clock,
        )
        self.logs = MessageLogs(
            self.engine,
            clock,
            settings.log_folder(),
            keep_ms=settings.retention.log_d * 86_400_000,
        )
        self.fanout = FanoutWorker(self.inbox.fan_out, clock)
        self.withdrawer = Withdrawer(self.engine, clock, self.accounts, lambda _: policy, open_token=self._open_token)
        self.hub = Hub(clock, rng, self.inbox.heads, poll_s=settings.poll.session_s)
        self.bus.on_wake(self.hub.wake)
        self.bus.on_close(self.hub.close)
        self._webhook_transport = HttpTransport(guard=webhook_guard(settings))
        self.webhook_worker = WebhookWorker(
            self.engine,
            posting(self._webhook_transport),
            self._vault,
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
            self._vault,
            self._webhook_transport.check,
            rng=rng,
            nudge=self.webhook_worker.nudge,
            events_keep_ms=settings.retention.event_d * 86_400_000,
        )
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
        self.watch = CredentialWatch(self.engine, clock, rng, auth=self.auth, hub=self.hub, also=self._follow_vault)
        self.auth.revoked = self.watch.sweep
        self.chores = Chores(
            engine=self.engine,
            inbox=self.inbox,
            clock=clock,
            node_id=self.node_id,
            witness=self._witness,
            dormant_ms=policy.dormant_ms,
            gone_ms=policy.gone_ms,
            prune_events=self.webhooks.tidy,
            prune_logs=self.logs.prune,
            was_set_back=self._was_set_back,
            look_at_credentials=ExpiryWatch(engine=self.engine, clock=clock, accounts=self.accounts).look,
            imbalanced=self.metrics.imbalanced,
        )
        self.readiness = Readiness(self.engine, clock, full=lambda: self.room.full)
        self.store_watch = StoreWatch(self.engine, clock, away=self._store_away, back=self._store_back)
        self.gate = Gate()
        self.web = self._web(policy)
        return await self._first_start()

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
        return SignedTokens(app_id=DEFAULT_APP, issuer=given.issuer, audience=given.audience, keys=keys)

    async def _reach_store(self) -> None:
        """A PostgreSQL that starts beside us may take a while. Raises ConfigError, Unavailable."""
        left = STORE_TRIES
        while isinstance(self.engine, PostgresEngine):
            try:
                await self.engine.begin()
                break
            except Unavailable as problem:
                left -= 1
                if not left:
                    raise
                log.warning("store.awaited", code=problem.code)
                await self.clock.sleep(1)

    async def _check_history(self, path: Path) -> None:
        """A store that was set back must not be trusted with its numbers any more (protocol §4)."""
        self._witness = meta.WitnessFile.beside(path)
        seen = self._witness.read()
        if await self.engine.write(lambda conn, now_ms: self._was_set_back(conn, now_ms, seen)):
            log.warning("store.rolled_back")
        if isinstance(self.engine, PostgresEngine):
            await self.engine.watch_server(self._met_server)

    def _was_set_back(self, conn: Any, now_ms: int, seen: meta.Witness | None) -> bool:
        return rollback.check_witness(conn, now_ms, self.rng, seen)

    def _met_server(self, conn: Any, now_ms: int, server: Server) -> None:
        if rollback.check_server(conn, now_ms, self.rng, mark=server.mark, durability=server.durability):
            log.warning("store.rolled_back")

    async def _apps(self) -> dict[str, bytes]:
        secret = self.rng.randbytes(32)

        def work(conn: Any, now_ms: int) -> dict[str, bytes]:
            app_rows.create_app(conn, now_ms, app_id=DEFAULT_APP, id_secret=secret)
            return app_rows.apps(conn)

        return await self.engine.write(work)

    async def _load_parked(self) -> None:
        for (app_id, name), code in (await self.engine.read(lambda conn, _: job_rows.parked_accounts(conn))).items():
            account = self.accounts.get(app_id, name)
            if account is not None:  # a restart is an operator's word that it is mended: try it again
                log.info("account.unparked", app=app_id, account=name, code=code)
                await self.engine.write(
                    lambda conn, now_ms, a=app_id, n=name: job_rows.unpark_account(conn, now_ms, app_id=a, account=n)  # type: ignore[misc]
                )

    async def _first_start(self) -> FirstStart:
        if await self.engine.read(lambda conn, now_ms: app_rows.has_api_key(conn, now_ms, DEFAULT_APP)):
            return FirstStart(api_key=None)
        return FirstStart(api_key=await self.issuer.api_key(DEFAULT_APP, name="first", scopes=SCOPES))

    async def _open_vault(self) -> Vault:
        await self.engine.write(lambda conn, now_ms: give_keys(conn, now_ms, self.ring, self.rng))
        vault = Vault(self.ring, self.rng)
        vault.learn(await self.engine.read(vault.news), self.clock.now_ms())
        return vault

    async def _follow_vault(self) -> None:
        self._vault.learn(await self.engine.read(self._vault.news), self.clock.now_ms())

    def _seal_token(self, device: DeviceKey, account: str, token: str) -> tuple[bytes, bytes]:
        sealed = self._vault.seal(token.encode(), address_place(device, account))
        return sealed, self.ring.token_hash(device.app_id, account, token)

    def _reseal_token(self, old: DeviceKey, new: DeviceKey, account: str, sealed: bytes) -> bytes:
        token = self._vault.open(sealed, address_place(old, account))
        return self._vault.seal(token, address_place(new, account))

    def _open_token(self, place: tuple[str, ...], sealed: bytes) -> str:
        return self._vault.open(sealed, place).decode()

    def _web(self, policy: Policy) -> web.Application:
        sends = Sends(
            clock=self.clock,
            rng=self.rng,
            policy_of=lambda _: policy,
            id_secret=lambda app_id: self._secrets[app_id],
            check_push=self._check_push,
        )
        own = self.settings.limits
        routes = table.routes(send_bytes_max=own.body_bytes, batch_bytes_max=own.batch_bytes)
        document, page = documents(routes)
        door = Door(
            hub=self.hub,
            origins=tuple(self.settings.server.allowed_origins),
            connections_max=self.settings.limits.sockets_per_node,
        )
        return application(
            backend=BackendApi(
                inbox=self.inbox,
                presence=self.presence,
                devices=self.devices,
                sends=sends,
                issuer=self.issuer,
                revoked=self.watch.sweep,
                clock=self.clock,
            ),
            device=DeviceApi(
                inbox=self.inbox,
                devices=self.devices,
                hub=self.hub,
                auth=self.auth,
                issuer=self.issuer,
                clock=self.clock,
                door=door,
                sends=DeviceSends(
                    inbox=self.inbox,
                    sends=sends,
                    policy_of=lambda _: policy,
                    rate=limits.RateLimiter(rate_per_s=own.device_sends_per_s, burst=own.device_sends_burst),
                    clock=self.clock,
                ),
                wait_max_s=self.settings.poll.wait_max_s,
            ),
            preferences=PreferencesApi(inbox=self.inbox),
            groups=GroupApi(inbox=self.inbox),
            history=HistoryApi(inbox=self.inbox, files=self.logs),
            stream=StreamApi(inbox=self.inbox, devices=self.devices, hub=self.hub, auth=self.auth, door=door),
            webhooks=WebhookApi(webhooks=self.webhooks),
            push=PushApi(
                desk=PushDesk(engine=self.engine, clock=self.clock, accounts=self.accounts, policy_of=lambda _: policy)
            ),
            receipts=ReceiptApi(
                receipts=ReceiptService(
                    engine=self.engine,
                    clock=self.clock,
                    accounts=self.accounts,
                    policy_of=lambda _: policy,
                    hash_token=self.ring.token_hash,
                    facts_told=lambda: self.webhook_worker.nudge(),
                )
            ),
            system=SystemApi(
                engine=self.engine,
                readiness=self.readiness,
                metrics=self.metrics,
                auth=self.auth,
                gauges=self._gauges,
                document=document,
                page=page,
            ),
            auth=self.auth,
            gate=self.gate,
            rng=self.rng,
            metrics=self.metrics,
            routes=routes,
            handlers_max=self.settings.server.handlers_max,
            trusted_proxies=self.settings.server.trusted_proxies,
            https_only=self.settings.server.https_only,
            origins=frozenset(self.settings.server.allowed_origins),
        )

    def _check_push(self, app_id: str, field: str, overrides: Mapping[str, Mapping[str, Any]]) -> list[FieldError]:
        """Mistakes in a send's overrides, by the providers they are for."""
        providers = {one.provider.name: type(one.provider) for one in self.accounts.of(app_id).values()}
        errors = []
        for name, own in overrides.items():
            pointer = f"/{field}/overrides/{name}"
            if name not in providers:
                errors.append(FieldError(pointer, "unknown", "no account of this provider is configured"))
            else:
                errors += [FieldError(pointer, "invalid", text) for text in providers[name].check_overrides(own)]
        return errors

    def _gauges(self) -> None:
        self.metrics.gauges(
            sockets=len(self.hub),
            leased=len(self.presence.book),
            queue=self.engine.depth() if isinstance(self.engine, (SqliteEngine, PostgresEngine)) else 0,
            circuits={one.name: one.circuit.open for one in self.accounts.all()},
            parked={one.name: one.parked for one in self.accounts.all()},
            rates={one.name: one.bucket.rate for one in self.accounts.all()},
            expires_s={
                one.name: ends_ms / 1000
                for one in self.accounts.all()
                if (ends_ms := one.credential_expires_ms) is not None
            },
            wal_reset=isinstance(self.engine, SqliteEngine) and wal_reset_affected(),
        )

    # --- running ---

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serves for as long as the block lasts; then drains (safety OPS-1)."""
        online = await self.engine.read(lambda conn, _: device_rows.online_devices(conn))
        self.presence.resume(online)
        self.room.look()
        runner = limits.Runner(
            self.web,
            access_log=None,
            keepalive_timeout=75,
            shutdown_timeout=self._stages.last_s / 4,  # aiohttp waits twice as long, after our own waiting
            handler_cancellation=False,
        )
        await runner.setup()
        site = web.TCPSite(runner, self.settings.server.host, self.settings.server.port, backlog=1024)
        await site.start()
        self.port = runner.addresses[0][1]
        no_more, stop = asyncio.Event(), asyncio.Event()
        scheduler = self.chores.scheduler()
        async with asyncio.TaskGroup() as group:
            workers = [
                group.create_task(worker(no_more), name=worker.__qualname__)
                for worker in (self.push.run, self.webhook_worker.run, self.fanout.run)
            ]
            for service in (
                self.presence.run,
                self.hub.run,
                self.watch.run,
                self.store_watch.run,
                self.room.run,
                self.reloader.run,
                self.withdrawer.run,
            ):
                group.create_task(service(stop), name=service.__qualname__)
            group.create_task(self.hub.run_pings(stop, every_s=protocol.PING_S), name="pings")
            group.create_task(self._watch_loop(stop), name="loop-lag")
            scheduler.start()
            await self.chores.tick()
            try:
                yield
            finally:
                await self._drain(runner, site, no_more, workers)
                stop.set()
                scheduler.shutdown(wait=False)
                await runner.cleanup()
        await self.chores.tick()

    async def _drain(
        self,
        runner: web.AppRunner,
        site: web.TCPSite,
        no_more: asyncio.Event,
        workers: list["asyncio.Task[None]"],
    ) -> None:
        """Says that we go, takes nothing new, and lets end what is under way. Workers let go by themselves."""
        stages = self._stages
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

    def _room(self, path: Path | None) -> Room | Boundless:
        store = self.settings.store
        if path is None:
            return Boundless()
        return Room(
            path,
            read=self._read_space,
            free_min_bytes=store.free_min_mib * MIB,
            free_min_share=store.free_min_percent / 100,
        )

    def _store_away(self) -> None:
        self.presence.store_away()
        self.hub.store_away()

    def _store_back(self, outage_ms: int) -> None:
        self.presence.store_back(outage_ms)
        self.hub.store_back()

    async def _watch_loop(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            before_ms = self.clock.monotonic_ms()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAG_S):
                    await stop.wait()
            self.metrics.lag(max(0.0, (self.clock.monotonic_ms() - before_ms) / 1000 - LAG_S))

    async def close(self) -> None:
        """Closes what `open` opened."""
        await self.accounts.aclose()
        await self._webhook_transport.aclose()
        await self.engine.close()
        self.room.close()
