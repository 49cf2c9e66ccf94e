"""`relay providers`."""

import click
from rich.console import Console
from rich.table import Table

from providers import loading


@click.command()
def providers() -> None:
    """List the installed providers, ours and plug-ins, with where they come from and what they can do."""
    table = Table("name", "from", "payload", "silent", "collapse", "longest ttl", "")
    for one in loading.discover():
        if one.provider is None:
            table.add_row(one.name, one.origin, "", "", "", "", f"can't be loaded: {one.reason}")
            continue
        can = one.provider.capabilities
        days = can.ttl_s_max / 86_400
        table.add_row(
            one.name,
            one.origin,
            f"{can.payload_bytes_max} B",
            "yes" if can.silent else "no",
            "yes" if can.collapse else "no",
            f"{days:g} d",
            "",
        )
    Console().print(table)
