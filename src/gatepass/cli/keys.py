"""`gatepass keys`: keys for clients."""

from __future__ import annotations

import re

import click


@click.group()
def keys() -> None:
    """Make keys for clients."""


@keys.command()
@click.option("--name", default="client", show_default=True, help="How logs and metrics call who holds the key.")
def new(name: str) -> None:
    """Make a key: print it once, with the hash to keep in its place."""
    from gatepass.auth.api_keys import new_key
    from gatepass.config.block import NAME

    if not re.fullmatch(NAME, name):
        raise click.BadParameter("take letters, digits, dots, underscores and hyphens", param_hint="--name")
    key, key_hash = new_key()
    click.echo("The key, for the client; it is kept nowhere and shown only now:")
    click.echo(f"\n  {key}\n")
    click.echo("For the configuration file, under access.keys:")
    click.echo(f'\n  - {{name: "{name}", hash: "{key_hash}"}}\n')
    click.echo("Or, where the environment is the configuration:")
    click.echo(f"\n  GATEPASS_KEY_HASHES={key_hash}")
