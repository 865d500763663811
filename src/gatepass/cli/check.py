"""`gatepass check`: validate the configuration, list it with origins, show routes, and call every hop."""

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
LIVE_OPERATIONS = ("chat", "completions", "embeddings", "rerank")
"""Operations that --live can call."""
OPERATIONS = (
    *LIVE_OPERATIONS,
    *("responses", "transcriptions", "translations", "speech", "images", "moderations"),
)
"""The values of OfModel in config/routes.py, copied so that --help does not import that module."""
NO_CALL = (
    f"--live: check has no call for {{operation}}, only for {', '.join(LIVE_OPERATIONS)}:"
    " without --live it shows the route"
)
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
"""The operation to show for a model, by its declared kind."""


@click.command()
@click.option("--config", "path", metavar="FILE", help="Configuration file. Default: the value of GATEPASS_CONFIG.")
@click.option("--model", help="Show the route of this model's requests, and every change of them.")
@click.option("--key", "caller", metavar="NAME", help="With --model: the caller, a name of an entry of access.keys.")
@click.option(
    "--operation",
    type=click.Choice(OPERATIONS),
    help="With --model: the operation. Default: the one that the model is declared for, else chat."
    f" --live supports {', '.join(LIVE_OPERATIONS[:-1])} and {LIVE_OPERATIONS[-1]}.",
)
@click.option("--all", "every", is_flag=True, help="Also show settings that have their defaults.")
@click.option("--live", is_flag=True, help="Call the store, fetch each token, call each upstream.")
def check(
    path: str | None, model: str | None, caller: str | None, operation: str | None, every: bool, live: bool
) -> None:
    """Check the configuration and print its settings with their origins. Secrets are hidden.

    --live calls the store if there is one, and sends GET /models to each upstream, with the token and without it.
    If that proves nothing (????), add --model M: each upstream of its route then gets one small real call, which may
    be billed. --key makes that call as the named caller.

    Exit codes: 0 nothing failed, 1 a check failed, 2 the configuration is not valid, 4 --live proved nothing.
    """
    for option, given in (("--key", caller), ("--operation", operation)):
        if given is not None and model is None:
            raise click.UsageError(f"{option} requires --model.")
    loaded = load_or_exit(path)
    for warning in idle(loaded.config):
        click.echo(f"warning: {warning}", err=True)
    key = None
    if caller is not None:
        keys = {entry.name: entry for entry in loaded.config.access.keys}
        if caller not in keys:
            exit_unusable(f"--key: {caller!r} is not the name of a key; there is {', '.join(keys) or 'none'}")
        key = keys[caller]
    if model is not None:
        operation = operation or _operation_of(loaded.config, model)
        if live and operation not in LIVE_OPERATIONS:
            exit_unusable(NO_CALL.format(operation=operation))
        sys.exit(_check_model(loaded.config, operation, model, key, live=live))
    if live:
        sys.exit(_check_hops(loaded.config, None))

    shown = effective(loaded, every=every)
    click.echo(shown.text)
    hidden = "" if every else f"; {shown.left_out} defaults are left out, --all shows them"
    click.echo(f"# valid: {summary(loaded.config)}{hidden}")


def summary(config: Config) -> str:
    """Return the number of upstreams, credentials and keys as text."""
    named = (("upstream", config.upstreams), ("credential", config.credentials), ("key", config.access.keys))
    return ", ".join(f"{len(found)} {name}{'' if len(found) == 1 else 's'}" for name, found in named)


def idle(config: Config) -> Iterator[str]:
    """Yield a warning for each credential that no upstream uses."""
    used = {upstream.credential for upstream in config.upstreams.values()}
    yield from (f"credentials.{name}: no upstream uses it" for name in config.credentials if name not in used)


def _operation_of(config: Config, model: str) -> str:
    """Return the operation of `model`, by its entry (or a glob), or by an `operations.NAME.model` that names it."""
    from gatepass.normalize.declared import Declared
    from gatepass.proxy.models import Kinds, declared

    entry = Declared(config).model("chat", model)
    return OPERATION_OF_KIND[(None if entry is None else declared(entry)) or Kinds(config).of(model)]


def _check_model(config: Config, operation: str, model: str, key: AccessKey | None, *, live: bool) -> int:
    """Print the route of a request, and with `live` the result of a call to each upstream. Return the exit code."""
    from gatepass.auth.model_access import check_model_access
    from gatepass.cli.doctor import ProbeCall
    from gatepass.cli.route import report_route
    from gatepass.errors import CallerError

    try:
        if key is not None:
            check_model_access(key, model)
        route = report_route(config, operation, model, key)
    except CallerError as error:
        click.echo(f"refused: {error.status} {error.code}: {error.message}")
        return CHECK_FAILED
    click.echo("\n".join(route.lines))
    profile = (key.profile if key is not None else None) or "plain"
    code = _check_hops(config, ProbeCall(operation, model, profile)) if live else 0
    return code if route.is_accepted else CHECK_FAILED


def _check_hops(config: Config, probe_call: ProbeCall | None) -> int:
    """Print the result of each hop as soon as it is known. Return the exit code."""
    logging.getLogger("gatepass").addHandler(logging.NullHandler())  # keeps log lines out of the findings
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
    """The configuration as text, and the number of defaults that were left out."""

    text: str
    left_out: int


def effective(loaded: LoadedConfig, *, every: bool = False) -> ConfigListing:
    """Return the configuration as YAML. A comment after each value states its origin: a line, a variable or a preset.

    With `every`, defaults are included and marked `default`. `type` is the first member of its block.
    """
    tree = loaded.config.model_dump(mode="json", by_alias=True)
    origins = {path: origin_of(loaded, tree, path) for path in _places(tree, ())}
    shown = {path for path, origin in origins.items() if every or origin != DEFAULT}
    blocks = {path[:end] for path in shown for end in range(len(path) + 1)}
    lines = _block(tree, (), {path: origins.get(path, "") for path in shown | blocks})
    return ConfigListing("\n".join(lines), len(origins) - len(shown))


def origin_of(loaded: LoadedConfig, tree: Any, path: SettingPath) -> str:
    """Return the origin of the value at `path`, or `preset NAME` if a preset filled it in."""
    origin = loaded.origin(path)
    if origin != DEFAULT or len(path) < 3 or path[0] != "credentials" or lookup(tree, path) is None:
        return origin
    name = lookup(tree, (*path[:2], "preset"))
    filled = lookup(PRESETS[name].settings, path[2:]) if name in PRESETS else None
    return DEFAULT if filled is None else f"preset {name}"


def _places(node: Any, path: SettingPath) -> Iterator[SettingPath]:
    """Yield the path of each value that has a line: leaves and empty blocks."""
    if not (isinstance(node, dict | list) and node):
        yield path
        return
    for key, value in children(node):
        yield from _places(value, (*path, key))


def _block(node: Any, path: SettingPath, origins: Mapping[SettingPath, str]) -> Iterator[str]:
    """Yield the lines of `node`'s members that are in `origins`; the origin of a block is the empty text."""
    for key, value in sorted(children(node), key=lambda member: member[0] != "type"):
        if (member := (*path, key)) in origins:
            mark = INDENT * len(path) + ("-" if isinstance(node, list) else f"{_scalar(key)}:")
            if isinstance(value, dict | list) and value:
                yield mark
                yield from _block(value, member, origins)
            else:
                yield f"{mark} {_scalar(value)}  # {origins[member]}"


def _scalar(value: Any) -> str:
    """Return one value as YAML on one line."""
    if not isinstance(value, str):
        return json.dumps(value)
    text = _QUERY.sub(r"\1?(hidden)", value)  # the query of a URL may hold a key
    is_plain = _PLAIN.match(text) and text.lower() not in _NOT_TEXT and ": " not in text
    return text if is_plain else json.dumps(text, ensure_ascii=False)
