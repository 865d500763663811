"""`gatepass keys`: create and list the API keys of clients."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from gatepass.cli.control import aligned, control_option, processes_of, request
from gatepass.cli.healthcheck import own_file
from gatepass.cli.options import config_option, exit_unusable, json_option, load_or_exit, print_json

DEFAULT_NAME = "client"
SHOWN_DIGITS = 12
"""The digits of a hash that `list` shows."""
_HEAD = ("NAME", "ROLE", "PROFILE", "EXPIRES", "MODELS", "OPERATIONS", "STATE", "KEY")

Row = dict[str, Any]


@click.group()
def keys() -> None:
    """Create and list the API keys of clients."""


@keys.command(short_help="Create a key and its entry for the configuration file.")
@click.option("--name", help=f"The caller's name in logs and metrics. Default: {DEFAULT_NAME}.")
@click.option("--role", type=click.Choice(("caller", "viewer", "admin")), help="What the key may do. Default: caller.")
@click.option("--profile", metavar="NAME", help="The profile of the client, such as ragflow. Default: plain.")
@click.option(
    "--expires", metavar="TIME", help="The expiry: a date (its beginning in UTC) or an RFC 3339 time. Default: none."
)
@click.option("--model", "models", multiple=True, help="A model or glob that the key may use. May be repeated.")
@click.option(
    "--operation",
    "operations",
    multiple=True,
    metavar="NAME",
    help="An operation that the key may use, such as chat or 'GET files'. May be repeated: all others are closed.",
)
@config_option
@json_option
def new(
    path: str | None,
    *,
    as_json: bool,
    name: str | None,
    models: tuple[str, ...],
    operations: tuple[str, ...],
    **options: str | None,
) -> None:
    """Create a key and print it once, with its entry for the configuration file and its variable.

    Only the hash belongs into the configuration. gatepass does not store the key. The configuration file is read only
    for a --profile that is not built in.
    """
    from pydantic import ValidationError

    from gatepass.auth.api_keys import new_key
    from gatepass.config.access import AccessKey
    from gatepass.config.checks import BATCH_OF_ANY_MODEL
    from gatepass.config.wording import explained_errors

    key, key_hash = new_key()
    given = {"name": name, "models": list(models) or None, "operations": list(operations) or None, **options}
    entry: Row = {"name": DEFAULT_NAME, **{option: value for option, value in given.items() if value}, "hash": key_hash}
    try:
        # valid in a file, where time passes, but of no use for a new key
        made = AccessKey.model_validate(entry)
        if made.state(time.time()) == "expired":
            raise click.BadParameter("is in the past", param_hint="--expires")
        if made.models is not None and made.creates_batches:
            raise click.BadParameter(BATCH_OF_ANY_MODEL, param_hint="--operation")
    except ValidationError as error:
        setting, reason = next(iter(explained_errors(error, entry)))
        option = {"models": "model", "operations": "operation"}.get(str(setting[0]), setting[0])
        raise click.BadParameter(reason, param_hint=f"--{option}") from None
    if options["profile"]:
        _check_profile(options["profile"], path)
    shown = ", ".join(f"{option}: {json.dumps(value)}" for option, value in entry.items())
    given["operations"] = "+".join(operations).replace(" ", ":")
    behind = "".join(f"/{option}={value}" for option, value in given.items() if value)
    # a name of a model may contain the separators of the variable
    line = None if models else f"GATEPASS_KEY_HASHES={key_hash}{behind}"
    if as_json:
        print_json({"key": key, "entry": entry, "environment": line})
        return
    click.echo("The key, for the client. gatepass does not store it and shows it only now:")
    click.echo(f"\n  {key}\n")
    click.echo("For the configuration file, under access.keys; then run `gatepass reload`:")
    # with the indentation that `gatepass init` writes
    click.echo(f"\n    - {{{shown}}}\n")
    if line is None:
        click.echo("A configuration by environment variables has no models of a key: use a file.")
    else:
        click.echo("Or, for a configuration by environment variables:")
        click.echo(f"\n  {line}")


def _check_profile(name: str, path: str | None) -> None:
    from gatepass.config.access import BUILT_IN_PROFILES
    from gatepass.config.document import ConfigError, lookup
    from gatepass.config.file import read_document
    from gatepass.config.wording import did_you_mean

    if name in BUILT_IN_PROFILES:
        return
    path = own_file(path)
    try:
        own = None if path is None else lookup(read_document(path).tree, ("profiles",))
    except ConfigError as error:
        exit_unusable(str(error))
    known = [*BUILT_IN_PROFILES, *(str(profile) for profile in (own if isinstance(own, dict) else ()))]
    if name in known:
        return
    where = f"in {path}" if path is not None else "(--config names the file that declares one)"
    raise click.BadParameter(f"{name!r} is not a profile {where}{did_you_mean(name, known)}", param_hint="--profile")


@keys.command(name="list", short_help="List the configured keys.")
@config_option
@click.option("--running", is_flag=True, help="List the keys of the running gatepass instead, without their hashes.")
@control_option
@json_option
def list_keys(path: str | None, socket_path: str | None, *, running: bool, as_json: bool) -> None:
    """List the configured keys: name, role, profile, expiry, models, operations, state and the beginning of the hash.

    Exit codes: 0 listed, 1 the running gatepass did not answer, 2 invalid command line or configuration.
    """
    if running and path is not None:
        raise click.UsageError("--running asks the running gatepass: leave --config out.")
    if running or socket_path is not None:
        page = json.loads(request("GET", "/status", socket_path))
        found: list[Row] = next(iter(processes_of(page).values()))["keys"]  # all workers have the same keys
    else:
        found = _configured_keys(path)
    if as_json:
        print_json(found)
    elif found:
        shares_objects = len({row["name"] for row in found if row["role"] != "viewer"}) > 1
        lines = list(aligned([_HEAD, *(_cells(row, shares_objects=shares_objects) for row in found)]))
        click.echo("\n".join(lines))
    else:
        click.echo("There are no keys: gatepass serves only clients on the same machine.")


def _configured_keys(path: str | None) -> list[Row]:
    return [
        {
            **key.as_row(time.time()),
            "hash": key.hash,
            "reference": None if key.key is None else key.key.reference,
        }
        for key in load_or_exit(path).config.access.keys
    ]


def _cells(row: Row, *, shares_objects: bool) -> tuple[str, ...]:
    models = "all" if row["models"] is None else ",".join(row["models"])
    operations = "all but stored objects" if shares_objects or row["models"] is not None else "all"
    if row["role"] == "viewer":
        operations = "none"
    elif row["operations"] is not None:
        operations = ",".join(row["operations"])
    key = row.get("reference") or (row.get("hash") or "hidden")[: len("sha256:") + SHOWN_DIGITS]
    return (row["name"], row["role"], row["profile"], row["expires"] or "never", models, operations, row["state"], key)
