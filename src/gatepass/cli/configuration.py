"""Load the configuration for a command, and find the key and operation that its options name.

Problems go to stderr, and the exit code is then 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn

import click

from gatepass.cli.options import coloured

if TYPE_CHECKING:
    from gatepass.config.access import AccessKey
    from gatepass.config.load import LoadedConfig
    from gatepass.config.model import Config

CHECK_FAILED = 1
UNUSABLE = 2
CALL_OPERATIONS = ("chat", "completions", "embeddings", "rerank")
"""Operations that `gatepass doctor --call` can call."""
ROUTED_OPERATIONS = (
    *CALL_OPERATIONS,
    *("responses", "transcriptions", "translations", "speech", "images", "moderations"),
)
"""The values of OfModel in config/routes.py, copied so that --help does not import that module."""
OPERATION_OF_KIND: Mapping[str | None, str] = MappingProxyType(
    {
        None: "chat",
        "chat": "chat",
        "vision": "chat",
        "embedding": "embeddings",
        "rerank": "rerank",
        "asr": "transcriptions",
        "tts": "speech",
    }
)
"""The operation of a model, by its declared kind."""


def load_or_exit(path: str | None, host: str | None = None, port: int | None = None) -> LoadedConfig:
    """Load the configuration and print its warnings to stderr; exit with 2 if it is invalid."""
    loaded = read_or_exit(path, host, port)
    for warning in loaded.warnings:
        click.echo(f"{coloured('warning', 'yellow')}: {warning}", err=True)
    return loaded


def read_or_exit(
    path: str | None, host: str | None, port: int | None, log: Mapping[str, str] = MappingProxyType({})
) -> LoadedConfig:
    """Load the configuration; exit with 2 if it is invalid. Flags override it, see `config.load.load`."""
    from gatepass.config.document import ConfigError
    from gatepass.config.load import load

    try:
        return load(path, os.environ, host=host, port=port, log=log)
    except ConfigError as error:
        exit_unusable(str(error))


def exit_unusable(text: str) -> NoReturn:
    """Print `text` to stderr and exit with 2."""
    click.echo(text, err=True)
    sys.exit(UNUSABLE)


def summary(config: Config) -> str:
    """Return the number of upstreams, credentials and keys as text."""
    named = (("upstream", config.upstreams), ("credential", config.credentials), ("key", config.access.keys))
    return ", ".join(f"{len(found)} {name}{'' if len(found) == 1 else 's'}" for name, found in named)


def find_key(config: Config, name: str | None) -> AccessKey | None:
    """Return the entry of access.keys that `--key` names, None without a name; exit with 2 if there is none."""
    keys = {entry.name: entry for entry in config.access.keys}
    if name is not None and name not in keys:
        exit_unusable(f"--key: {name!r} is not the name of a key; there is {', '.join(keys) or 'none'}")
    return None if name is None else keys[name]


def operation_of(config: Config, model: str) -> str:
    """Return the operation of `model`, by its entry (or a glob), or by an `operations.NAME.model` that names it."""
    from gatepass.normalize.rules import DeclaredModels
    from gatepass.proxy.models import Kinds, declared_kind

    entry = DeclaredModels(config).model("chat", model)
    return OPERATION_OF_KIND[(None if entry is None else declared_kind(entry)) or Kinds(config).of(model)]
