"""`gatepass check`: what counts, where a request would go, and whether every hop answers.

The configuration as it counts, for people: every value with where it came from, secrets hidden.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from gatepass.cli.configuration import CHECK_FAILED, exit_unusable, load_or_exit
from gatepass.config.credential.http_json import PRESETS
from gatepass.config.document import SettingPath, children, lookup
from gatepass.config.load import LoadedConfig

if TYPE_CHECKING:
    from gatepass.cli.doctor import ProbeCall
    from gatepass.config.access import AccessKey
    from gatepass.config.model import Config


NOTHING_PROVEN = 4
NOTHING = f"nothing failed, and nothing was proven: exit code {NOTHING_PROVEN}"
TRIED = ("chat", "completions", "embeddings", "rerank")
"""Operations that --live has a call for."""
OPERATIONS = (
    *TRIED,
    *("responses", "transcriptions", "translations", "speech", "images", "moderations"),
)
"""config/routes.py's OfModel, which is not imported for a mere --help."""
NO_CALL = f"--live: check has no call for {{operation}}, only for {', '.join(TRIED)}: without --live it shows the way"
OF_KIND: Mapping[str | None, str] = MappingProxyType(
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
"""What a model is asked for, by what it is declared for."""


@click.command()
@click.option("--config", "path", metavar="FILE", help="The configuration; GATEPASS_CONFIG names it too.")
@click.option("--model", help="Show where this model's requests go, and what is changed on the way.")
@click.option("--key", "caller", metavar="NAME", help="As this caller: the name of an entry of access.keys.")
@click.option(
    "--operation",
    type=click.Choice(OPERATIONS),
    help="With --model; without it what the model is declared for, and chat where that is not said."
    f" --live has calls for {', '.join(TRIED[:-1])} and {TRIED[-1]}.",
)
@click.option("--all", "every", is_flag=True, help="Show the defaults too.")
@click.option("--live", is_flag=True, help="Ask the store, mint each token, call each upstream; with --model for real.")
def check(
    path: str | None, model: str | None, caller: str | None, operation: str | None, every: bool, live: bool
) -> None:
    """Check the configuration and show what was set as it counts, secrets hidden, each value with its origin.

    --live asks a configured store, and sends GET /models to each upstream, with the token and without.
    Where that proves nothing (????) add --model M: the upstreams of its route, and no others, then get
    one tiny real call, which may be billed; with --key as that caller's.

    Exit codes: 0 nothing failed, 1 a check failed, 2 the configuration cannot be used, 4 --live could
    prove nothing.
    """
    for option, given in (("--key", caller), ("--operation", operation)):
        if given is not None and model is None:
            raise click.UsageError(f"{option} wants --model beside it.")
    loaded = load_or_exit(path)
    for warning in idle(loaded.config):
        click.echo(f"warning: {warning}", err=True)
    key = None if caller is None else _caller(loaded.config, caller)
    if model is not None:
        operation = operation or _operation_of(loaded.config, model)
        if live and operation not in TRIED:
            exit_unusable(NO_CALL.format(operation=operation))
        sys.exit(_check_model(loaded.config, operation, model, key, live=live))
    if live:
        sys.exit(_try_hops(loaded.config, None))

    shown = effective(loaded, every=every)
    click.echo(shown.text)
    hidden = "" if every else f"; {shown.left_out} defaults are left out, --all shows them"
    click.echo(f"# can be used: {summary(loaded.config)}{hidden}")


def summary(config: Config) -> str:
    """What it consists of, counted."""
    named = (("upstream", config.upstreams), ("credential", config.credentials), ("key", config.access.keys))
    return ", ".join(f"{len(found)} {name}{'' if len(found) == 1 else 's'}" for name, found in named)


def idle(config: Config) -> Iterator[str]:
    """What is kept fresh for nobody."""
    used = {upstream.credential for upstream in config.upstreams.values()}
    yield from (f"credentials.{name}: no upstream names it" for name in config.credentials if name not in used)


def _operation_of(config: Config, model: str) -> str:
    """What `model` is for, by its entry (a glob's too), or by the operation whose requests without a model go to it."""
    from gatepass.normalize.declared import Declared
    from gatepass.proxy.models import Kinds, declared

    entry = Declared(config).model("chat", model)
    return OF_KIND[(None if entry is None else declared(entry)) or Kinds(config).of(model)]


def _check_model(config: Config, operation: str, model: str, key: AccessKey | None, *, live: bool) -> int:
    """Print the way of a request, and with `live` what its upstreams answer; the exit code."""
    from gatepass.auth.model_access import check_model_access
    from gatepass.cli.doctor import ProbeCall
    from gatepass.cli.route import way
    from gatepass.errors import CallerError

    try:
        if key is not None:
            check_model_access(key, model)
        found = way(config, operation, model, key)
    except CallerError as error:
        click.echo(f"refused: {error.status} {error.code}: {error.message}")
        return CHECK_FAILED
    click.echo("\n".join(found.lines))
    profile = (key.profile if key is not None else None) or "plain"
    code = _try_hops(config, ProbeCall(operation, model, profile)) if live else 0
    return code if found.fine else CHECK_FAILED


def _caller(config: Config, name: str) -> AccessKey:
    names = [key.name for key in config.access.keys]
    if name not in names:
        exit_unusable(f"--key: {name!r} is not the name of a key; there is {', '.join(names) or 'none'}")
    return config.access.keys[names.index(name)]


def _try_hops(config: Config, probe_call: ProbeCall | None) -> int:
    """Print what each hop answers as soon as it does; the exit code."""
    logging.getLogger("gatepass").addHandler(logging.NullHandler())  # or its warnings would stand between the findings
    return asyncio.run(_print_findings(config, probe_call))


async def _print_findings(config: Config, probe_call: ProbeCall | None) -> int:
    from gatepass.cli.doctor import Outcome, diagnose

    findings = []
    async with aclosing(diagnose(config, probe_call)) as found:
        async for entry in found:
            click.echo(f"{entry.outcome:<4} {entry.hop}: {entry.finding}")
            findings.append(entry)
    if any(entry.outcome is Outcome.FAILS for entry in findings):
        return CHECK_FAILED
    if any(entry.outcome is Outcome.WORKS and entry.proves for entry in findings):
        return 0
    click.echo(NOTHING, err=True)
    return NOTHING_PROVEN


_PLAIN = re.compile(r"[A-Za-z/(][A-Za-z0-9 _./:@()+,=-]*(?<! )\Z")
_NOT_TEXT = frozenset(("null", "true", "false", "yes", "no", "on", "off"))
_QUERY = re.compile(r"(?<=://)([^?]*)\?.*")
INDENT = "  "


DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class ConfigListing:
    """The configuration as text, and how many values were left out because nobody set them."""

    text: str
    left_out: int


def effective(loaded: LoadedConfig, *, every: bool = False) -> ConfigListing:
    """YAML with a comment behind each value that was set: its line, its variable, its preset. A `type` comes first.

    With `every` those that nobody set are there too, marked `default`.
    """
    tree = loaded.config.model_dump(mode="json", by_alias=True)
    origins = {path: origin_of(loaded, tree, path) for path in _places(tree, ())}
    shown = {path for path, origin in origins.items() if every or origin != DEFAULT}
    blocks = {path[:end] for path in shown for end in range(len(path) + 1)}
    lines = _block(tree, (), {path: origins.get(path, "") for path in shown | blocks})
    return ConfigListing("\n".join(lines), len(origins) - len(shown))


def origin_of(loaded: LoadedConfig, tree: Any, path: SettingPath) -> str:
    """Where the value at `path` comes from, what a preset filled in included."""
    origin = loaded.origin(path)
    if origin != DEFAULT or len(path) < 3 or path[0] != "credentials" or lookup(tree, path) is None:
        return origin
    name = lookup(tree, (*path[:2], "preset"))
    filled = lookup(PRESETS[name].settings, path[2:]) if name in PRESETS else None
    return DEFAULT if filled is None else f"preset {name}"


def _places(node: Any, path: SettingPath) -> Iterator[SettingPath]:
    """Every value that is shown on a line: leaves, and blocks that hold nothing."""
    if not (isinstance(node, dict | list) and node):
        yield path
        return
    for key, value in children(node):
        yield from _places(value, (*path, key))


def _block(node: Any, path: SettingPath, origins: Mapping[SettingPath, str]) -> Iterator[str]:
    """The members of `node` that have an origin; a block's is the empty text."""
    for key, value in sorted(children(node), key=lambda member: member[0] != "type"):
        if (place := (*path, key)) in origins:
            mark = INDENT * len(path) + ("-" if isinstance(node, list) else f"{_scalar(key)}:")
            if isinstance(value, dict | list) and value:
                yield mark
                yield from _block(value, place, origins)
            else:
                yield f"{mark} {_scalar(value)}  # {origins[place]}"


def _scalar(value: Any) -> str:
    """One value in YAML, on one line; the query of a URL is nobody's to read."""
    if not isinstance(value, str):
        return json.dumps(value)
    text = _QUERY.sub(r"\1?(hidden)", value)
    is_plain = _PLAIN.match(text) and text.lower() not in _NOT_TEXT and ": " not in text
    return text if is_plain else json.dumps(text, ensure_ascii=False)
