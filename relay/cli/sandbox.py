"""`relay sandbox`: vendors' push services on this machine, for people without vendor accounts."""

import asyncio
import random
import signal
import sys
import time
from pathlib import Path

import click

from relay.cli.runtime import RelayUrl, run


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=9090,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--state",
    default=Path(".relay/sandbox"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the sandbox keeps its service account, so that a restart accepts the same one.",
)
@click.option(
    "--vendor", "vendors", multiple=True, help="Serve only this one; may be repeated. Default: all there are."
)
@click.option("--relay", type=RelayUrl(), help="Your relay's: vendors that have receipts post them there.")
@click.option("--plain", is_flag=True, help="Vendors by HTTP at the page's own port, for a look at what is said.")
def sandbox(host: str, port: int, state: Path, vendors: tuple[str, ...], relay: str | None, plain: bool) -> None:
    """Run emulators of the vendors on this machine. They check what a vendor checks, and answer with its real codes.

    Prints ready-made account configuration for relay.toml. The vendors speak TLS, at the ports after the page's, by an
    authority that is kept with the state and that these accounts trust. The page shows what the phones received; tokens like
    `unregistered-1` or `unavailable-x` (Apple's: the same in hexadecimal digits) provoke a vendor's failures, which GET
    /_control/faults lists.
    """
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(_cannot(error))
    sys.exit(run(_run(host, port, state, vendors, relay, tls=not plain)))


def _cannot(error: Exception) -> int:
    click.echo(f"The sandbox can't start: {error}", err=True)
    return 1


async def _run(host: str, port: int, state: Path, wanted: tuple[str, ...], relay: str | None, *, tls: bool) -> int:
    from providers.sandbox import Sandbox, registry  # noqa: PLC0415 - loaded only by those who ask for emulators

    clock = time.time  # noqa: TID251 - the machine's clock
    served, broken = (wanted, []) if wanted else registry.usable()
    for sentence in broken:
        click.echo(sentence, err=True)
    try:
        vendors = Sandbox(now=clock, rng=random.SystemRandom(), vendors=served, state_dir=state, tls=tls)
        await vendors.start(host, port)
    except (OSError, ValueError) as error:
        return _cannot(error)
    accounts = "\n".join(vendors.account_toml(f"{name}-sandbox", name, relay=relay) for name in vendors.emulators)
    click.echo(f"The phones: {vendors.url}/\n\nFor relay.toml:\n\n{accounts}\n# Ctrl-C ends it.")
    sys.stdout.flush()
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, told.set)
    await told.wait()
    await vendors.stop()
    return 0
