"""`relay serve`, and looking at the configuration and the store without serving."""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import click
import structlog

from providers.contract import ProviderConfig
from providers.endpoints import EndpointConfig, GuardedConfig
from providers.guard import Guard, TargetRefused
from relay.app import Relay
from relay.cli.exits import EX_CUT_OFF, EX_IOERR
from relay.cli.runtime import config_option, run, settings_from, spare_the_collector
from relay.clock import SystemClock
from relay.config import Settings, load
from relay.config.sources import found
from relay.errors import ConfigError, Unavailable
from relay.ids import system_rng
from relay.keys import KEYS_ENV, KeyRing
from relay.push.accounts import Account
from relay.push.from_settings import build_accounts
from relay.push.situation import Privacy
from relay.store.migrate import HEAD, judged, revision
from relay.store.migrate import migrate as migrate_store
from relay.store.postgres import PostgresEngine
from relay.store.postgres_session import BYPASSED, driver
from relay.telemetry import traces
from relay.telemetry.logs import setup_logging
from relay.telemetry.metrics import Metrics
from relay.wiring.checking import mistakes
from relay.wiring.store import clock_of, opened

log = structlog.get_logger("relay.app")

FAILED_POLL_S = 0.5
OPEN_FILES_MAX = 1_048_576


@click.command()
@config_option
@click.option("--host", help="Address to listen on. Default: 127.0.0.1, or server.host.")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one. Default: 8080, or server.port.")
def serve(config: Path | None, host: str | None, port: int | None) -> None:
    """Run the relay. On an SQLite file in this folder, without any other service, unless the configuration says otherwise.

    The first start makes the database, the key file beside it, the app `default` and its API key, which is printed once.
    SIGHUP reads the configuration again and takes up changed accounts; so does a change of a file that they name.
    SIGTERM drains: readiness says no, devices are told to come back, what is in flight is finished.
    """
    environ = dict(os.environ)
    if host is not None:
        environ["RELAY_SERVER__HOST"] = host
    if port is not None:
        environ["RELAY_SERVER__PORT"] = str(port)
    settings = load(config, environ, also=mistakes)
    find = partial(found, environ) if config is None else lambda: config
    sys.exit(run(_serve(settings, lambda file: load(file or config, environ), find)))


async def _serve(
    settings: Settings, read_settings: Callable[[Path | None], Settings], find_config: Callable[[], Path | None]
) -> int:
    _take_open_files()
    clock, rng, metrics = SystemClock(), system_rng(), Metrics()
    logs = setup_logging(settings.log.level, settings.log.format, sys.stderr, metrics)
    end_traces = traces.begin(os.environ)
    relay = Relay(settings, clock, rng, metrics, read_settings=read_settings, find_config=find_config)
    try:
        first = await relay.open()
        try:
            if first.api_key is not None:  # now: whatever comes next, it will not be made again
                click.echo(f"The API key of the app 'default', shown this once:\n\n  {first.api_key}\n")
                sys.stdout.flush()
            async with relay.running():
                told = _on_signals(relay)  # first: who is told that it is ready may stop it
                spare_the_collector()
                _greet(relay)
                await _until(told, relay)
        finally:
            await relay.close()
        return EX_IOERR if relay.engine.failed else 0  # it may fail while we drain
    except Unavailable:
        if not relay.engine.failed:
            raise
        return EX_IOERR
    finally:
        log.info("relay.stopped")
        end_traces()
        logs.stop()


def _take_open_files() -> None:
    """As many as the system lets this process have: at first most give it 1,024, which is far fewer than a node's devices."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _greet(relay: Relay) -> None:
    host = relay.settings.server.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{relay.port}"
    click.echo(f"Ready: {url}  (what it can do: {url}/docs)")
    sys.stdout.flush()
    log.info("relay.ready", port=relay.port, node=relay.node_id)


def _on_signals(relay: Relay) -> asyncio.Event:
    """Set by SIGTERM or SIGINT. A second signal ends at once, and so does a drain that takes longer than it may: to be
    killed is no harm."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if told.is_set():
            os._exit(EX_CUT_OFF)
        told.set()
        loop.call_later(relay.settings.server.drain_s, os._exit, EX_CUT_OFF)

    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stop)
    reloads: set[asyncio.Task[object]] = set()

    def reload() -> None:
        task = asyncio.create_task(relay.reloader.reload(), name="reload")
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    return told


async def _until(told: asyncio.Event, relay: Relay) -> None:
    """Until it is told to stop. If the store fails for good, the process ends with 74."""
    while not told.is_set():
        if relay.engine.failed:
            log.error("relay.store_failed")
            os._exit(EX_IOERR)  # nothing is flushed: recovery begins from the log
        try:
            async with asyncio.timeout(FAILED_POLL_S):
                await told.wait()
        except TimeoutError:
            continue


@click.command()
@config_option
@click.option("--store", "ask", is_flag=True, help="Ask the PostgreSQL server as well: can it keep what it confirms?")
def check(config: Path | None, ask: bool) -> None:
    """Read the configuration, and say all that is wrong with it. Nothing is started or changed."""
    settings = settings_from(config, also=mistakes)
    file = config if config is not None else found(os.environ)
    clock = SystemClock()

    async def look() -> int:
        accounts = build_accounts(settings, clock)
        click.echo(f"file      {'none is found: the defaults' if file is None else file}")
        path = settings.sqlite_path()
        if path is not None:
            click.echo(f"store     {path}")
        else:
            driver()
            click.echo(f"store     postgresql{await _asked(settings) if ask else ''}")
        if KEYS_ENV in os.environ or settings.keys.file.exists():
            KeyRing.find(settings.keys.file, os.environ)
            click.echo(f"keys      {KEYS_ENV if KEYS_ENV in os.environ else settings.keys.file}")
        else:
            click.echo(f"keys      {settings.keys.file} (made at the first start, with the store)")
        for account in accounts.all():
            click.echo(f"account   {account.name}: provider {account.provider.name}")
            own = _config(account)
            for sentence in own.advice() if isinstance(own, ProviderConfig) else ():
                click.echo(f"note      {account.name}: {sentence}")
            can = account.provider.capabilities
            if account.terms.privacy is Privacy.SEALED and not (can.sealed or can.encrypted):
                said = f"{account.provider.name} can carry nothing sealed; its devices get ids alone, as with none"
                click.echo(f"note      {account.name}: privacy: {said}.")
            if refused := _not_callable(account):
                click.echo(f"note      {account.name}: url: {refused} Or list its host and port in exempt.")
            does = (
                f"devices of {account.name} may name" if isinstance(own, EndpointConfig) else f"{account.name} may call"
            )
            for exempt in own.exempt if isinstance(own, GuardedConfig) else ():
                click.echo(f"exempt    {exempt}: {does} it although it is internal")
        for exempt in settings.webhooks.exempt:
            click.echo(f"exempt    {exempt}: webhooks may call it although it is internal")
        await accounts.aclose()
        click.echo("The configuration is right.")
        return 0

    sys.exit(run(look()))


def _not_callable(account: Account) -> str | None:
    """Why the URL that an account's settings name will not be called, if that can be told from its text."""
    guard, url = (getattr(of, name, None) for of, name in ((account.transport, "guard"), (_config(account), "url")))
    try:
        if isinstance(guard, Guard) and url is not None:
            guard.parse(str(url))
    except TargetRefused as refused:
        return refused.detail
    return None


def _config(account: Account) -> object:
    return getattr(account.provider, "config", None)


async def _asked(settings: Settings) -> str:
    """What the PostgreSQL server says of itself. Raises ConfigError if it can't be trusted."""
    engine = PostgresEngine(settings.store.url.reveal(), SystemClock(), system_rng(), workers=1)
    try:
        await engine.connections.begin()
        await engine.read(lambda conn, _: judged(conn))
        if engine.dangers and not settings.store.unsafe_storage:
            raise ConfigError([f"store: {one}; mend it, or set store.unsafe_storage." for one in engine.dangers])
        unsafe = "".join(f"; unsafe: {one}" for one in engine.dangers)
        note = f"\nnote      store: {BYPASSED}." if engine.connections.bypasses_row_security else ""
        return f", {engine.durability}{unsafe}{note}"
    finally:
        await engine.close()


@click.command()
@config_option
def migrate(config: Path | None) -> None:
    """Bring the store to this version's schema, as `serve` does."""
    settings = settings_from(config)

    async def work() -> int:
        async with opened(settings, clock_of(settings, SystemClock()), system_rng()) as engine:
            was = await engine.write(migrate_store)
            now = await engine.read(lambda conn, _: revision(conn))
        click.echo(f"The store was at {was or 'nothing'}; it is at {now} (newest: {HEAD}).")
        return 0

    sys.exit(run(work()))
