"""Load the configuration for a command. Problems go to stderr, and the exit code is then 2."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from gatepass.config.load import LoadedConfig

CHECK_FAILED = 1
UNUSABLE = 2


def load_or_exit(path: str | None, host: str | None = None, port: int | None = None) -> LoadedConfig:
    """Load the configuration and print its warnings to stderr; exit with 2 if it is invalid."""
    from gatepass.config.document import ConfigError
    from gatepass.config.load import load

    try:
        loaded = load(path, os.environ, host=host, port=port)
    except ConfigError as error:
        exit_unusable(str(error))
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    return loaded


def exit_unusable(text: str) -> NoReturn:
    """Print `text` to stderr and exit with 2."""
    click.echo(text, err=True)
    sys.exit(UNUSABLE)
