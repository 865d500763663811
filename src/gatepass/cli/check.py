"""`gatepass check`: what counts, where a request would go, and whether every hop answers."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from gatepass.cli.configuration import CHECK_FAILED, load_or_exit, refuse

if TYPE_CHECKING:
    from gatepass.cli.doctor import Trial
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
"""config/models.py's OfModel, which is not imported for a mere --help."""
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
            refuse(NO_CALL.format(operation=operation))
        sys.exit(_check_model(loaded.config, operation, model, key, live=live))
    if live:
        sys.exit(_try_hops(loaded.config, None))

    from gatepass.cli.effective import effective

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
    from gatepass.proxy.model_kinds import Kinds, declared

    entry = Declared(config).model("chat", model)
    return OF_KIND[(None if entry is None else declared(entry)) or Kinds(config).of(model)]


def _check_model(config: Config, operation: str, model: str, key: AccessKey | None, *, live: bool) -> int:
    """Print the way of a request, and with `live` what its upstreams answer; the exit code."""
    from gatepass.auth.model_access import permit
    from gatepass.cli.doctor import Trial
    from gatepass.cli.route import way
    from gatepass.errors import CallerError

    try:
        if key is not None:
            permit(key, model)
        found = way(config, operation, model, key)
    except CallerError as error:
        click.echo(f"refused: {error.status} {error.code}: {error.message}")
        return CHECK_FAILED
    click.echo("\n".join(found.lines))
    profile = (key.profile if key is not None else None) or "plain"
    code = _try_hops(config, Trial(operation, model, profile)) if live else 0
    return code if found.fine else CHECK_FAILED


def _caller(config: Config, name: str) -> AccessKey:
    names = [key.name for key in config.access.keys]
    if name not in names:
        refuse(f"--key: {name!r} is not the name of a key; there is {', '.join(names) or 'none'}")
    return config.access.keys[names.index(name)]


def _try_hops(config: Config, trial: Trial | None) -> int:
    """Print what each hop answers as soon as it does; the exit code."""
    logging.getLogger("gatepass").addHandler(logging.NullHandler())  # or its warnings would stand between the findings
    return asyncio.run(_print_findings(config, trial))


async def _print_findings(config: Config, trial: Trial | None) -> int:
    from gatepass.cli.doctor import Outcome, diagnose

    findings = []
    async with aclosing(diagnose(config, trial)) as found:
        async for entry in found:
            click.echo(f"{entry.outcome:<4} {entry.hop}: {entry.finding}")
            findings.append(entry)
    if any(entry.outcome is Outcome.FAILS for entry in findings):
        return CHECK_FAILED
    if any(entry.outcome is Outcome.WORKS and entry.proves for entry in findings):
        return 0
    click.echo(NOTHING, err=True)
    return NOTHING_PROVEN
