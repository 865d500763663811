"""`gatepass keys`: create API keys for clients."""

from __future__ import annotations

import re

import click


@click.group()
def keys() -> None:
    """Create API keys for clients."""


@keys.command()
@click.option("--name", default="client", show_default=True, help="The caller's name in logs and metrics.")
def new(name: str) -> None:
    """Create a key and print it once, with the hash for the configuration."""
    from gatepass.auth.api_keys import new_key
    from gatepass.config.block import NAME

    if not re.fullmatch(NAME, name):
        raise click.BadParameter("use letters, digits, dots, underscores and hyphens", param_hint="--name")
    key, key_hash = new_key()
    click.echo("The key, for the client. gatepass does not store it and shows it only now:")
    click.echo(f"\n  {key}\n")
    click.echo("For the configuration file, under access.keys:")
    click.echo(f'\n  - {{name: "{name}", hash: "{key_hash}"}}\n')
    click.echo("Or, for a configuration by environment variables:")
    click.echo(f"\n  GATEPASS_KEY_HASHES={key_hash}")
