"""`relay keys vapid`: the key that a Web Push or UnifiedPush account signs with (RFC 8292)."""

import os
from pathlib import Path

import click
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from providers.webpush_crypto import base64url, private_key, public_bytes
from relay.cli.exits import EX_CANTCREAT, EX_DATAERR


@click.command("vapid")
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the private key goes: a new file for its owner's eyes alone.  [default: printed]",
)
@click.option(
    "--show",
    "known",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Make none; print the public key of the one in this file.",
)
@click.pass_context
def vapid(ctx: click.Context, path: Path | None, known: Path | None) -> None:
    """Make a key for Web Push.

    The account gets the private one; browsers and UnifiedPush apps subscribe with the public one, as
    applicationServerKey. A subscription lives only as long as the key that it was made with: keep the private one safe,
    and in vapid_old_private_keys when another takes its place.
    """
    if path is not None and known is not None:
        raise click.UsageError("Give --file or --show, not both.")
    try:
        if known is not None:
            click.echo(f"public key: {base64url(public_bytes(private_key(known.read_text('ascii'))))}")
            return
        key = generate_private_key(SECP256R1())
        private = base64url(key.private_numbers().private_value.to_bytes(32))
        if path is not None:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{private}\n")
    except FileExistsError:
        click.echo(f"{path} is there already. Subscriptions depend on it: choose another name.", err=True)
        ctx.exit(EX_CANTCREAT)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else "holds no P-256 key"
        click.echo(f"{path or known}: {said}", err=True)
        ctx.exit(EX_DATAERR if known is not None else EX_CANTCREAT)
    if path is None:
        click.echo(f'vapid_private_key = "{private}"')
    else:
        click.echo(f'vapid_private_key_file = "{path}"')
    click.echo(f"public key: {base64url(public_bytes(key))}")
