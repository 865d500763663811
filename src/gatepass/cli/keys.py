"""`gatepass keys`: create and list the API keys of clients."""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from msgspec import UNSET, structs

from gatepass.cli.control import aligned, ask, socket_option
from gatepass.cli.options import (
    CommandGroup,
    config_option,
    exit_unusable,
    json_option,
    load_or_exit,
    print_json,
    printable,
)
from gatepass.documents import Key, Status
from gatepass.types import counted

DEFAULT_NAME = "client"
KEYS = ("access", "keys")
_VALID = "The key is valid from the next start or `gatepass reload` on, or a moment later with `server.watch`."
_HEAD = ("NAME", "ROLE", "PROFILE", "EXPIRES", "MODELS", "OPERATIONS", "MCP", "STATE", "LAST USE", "KEY")

Row = dict[str, Any]


@click.group(cls=CommandGroup)
def keys() -> None:
    """Create and list the API keys of clients."""


def _end(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Return the value of --expires, a duration as the time of its end. Raises BadParameter."""
    from gatepass.config.access import moment, moment_text

    if value is None:
        return value
    if found := re.fullmatch(r"([0-9]{1,5})([dh])", value):
        value = moment_text(datetime.now(UTC) + int(found[1]) * timedelta(hours=24 if found[2] == "d" else 1))
    try:
        is_past = moment(value).timestamp() <= time.time()
    except ValueError as error:
        raise click.BadParameter(f"{error}, or a duration, such as 90d or 12h", param_hint="--expires") from None
    if is_past:
        raise click.BadParameter("is in the past", param_hint="--expires")
    return value


@keys.command(short_help="Create a key and its entry for the configuration file.")
@click.option("--name", help=f"The caller's name in logs and metrics. Default: {DEFAULT_NAME}.")
@click.option("--role", type=click.Choice(("caller", "viewer", "admin")), help="What the key may do. Default: caller.")
@click.option("--profile", metavar="NAME", help="The profile of the client, such as ragflow. Default: plain.")
@click.option("--group", metavar="NAME", help="The group of the key under access.groups, which has limits.")
@click.option(
    "--expires",
    metavar="TIME",
    callback=_end,
    help="The expiry: a duration (90d or 12h), a date (its beginning in UTC) or an RFC 3339 time. Default: none.",
)
@click.option("--model", "models", multiple=True, help="A model or glob that the key may use. May be repeated.")
@click.option(
    "--operation",
    "operations",
    multiple=True,
    metavar="NAME",
    help="An operation that the key may use, such as chat or files. May be repeated: all others are closed.",
)
@click.option(
    "--mcp",
    "servers",
    multiple=True,
    metavar="NAME[:TOOL,...]",
    help="An MCP server that the key may use, or only these tools (names or globs) that it may call there. May be"
    " repeated. Without --operation and --model the key may use nothing else.",
)
@click.option("--write", is_flag=True, help="Add the entry to the configuration file. Its comments stay.")
@config_option
@json_option
def new(
    path: str | None,
    *,
    as_json: bool,
    write: bool,
    name: str | None,
    models: tuple[str, ...],
    operations: tuple[str, ...],
    servers: tuple[str, ...],
    **options: str | None,
) -> None:
    """Create a key and print it once, with its entry for the configuration file and its variable.

    Only the hash belongs into the configuration. gatepass does not store the key. The configuration file is read only
    for --write. If it has a key with this name, the new one gets its settings, such as profile, group, limits and
    models.

    Exit codes: 0 created, 2 invalid command line, or --write cannot change the file.
    """
    from pydantic import ValidationError

    from gatepass.auth.api_keys import new_key
    from gatepass.config.access import AccessKey
    from gatepass.config.checks import BATCH_OF_ANY_MODEL
    from gatepass.config.wording import explained_errors

    key, key_hash = new_key()
    mcp = dict[str, list[str] | None]()
    for server in servers:
        server_name, colon, tools = server.partition(":")
        mcp[server_name] = [*(mcp.get(server_name) or ()), *tools.split(",")] if colon else mcp.get(server_name)
    if any(not tool for allowed in mcp.values() for tool in allowed or ()):
        raise click.BadParameter("expects NAME or NAME:TOOL,TOOL, without spaces", param_hint="--mcp")
    lists = {"models": list(models), "operations": list(operations), "mcp": mcp if any(mcp.values()) else list(mcp)}
    given = {"name": name, **lists, **options}
    kept = {"operations"} if mcp and not (operations or models) else set[str]()  # an empty list means MCP alone
    given_settings = {option: value for option, value in given.items() if value or option in kept}
    entry: Row = {"name": DEFAULT_NAME, **given_settings, "hash": key_hash}
    try:
        made = AccessKey.model_validate(entry)
        if made.models is not None and made.uses_any_model:
            raise click.BadParameter(BATCH_OF_ANY_MODEL, param_hint="--operation")
    except ValidationError as error:
        setting, reason = next(iter(explained_errors(error, entry)))
        option = {"models": "model", "operations": "operation"}.get(str(setting[0]), setting[0])
        raise click.BadParameter(reason, param_hint=f"--{option}") from None
    behind = {**given, "operations": "+".join(operations)}
    variable = "".join(f"/{setting}={value}" for setting, value in behind.items() if value)
    missing = [word for setting, word in _NOT_OF_VARIABLE.items() if given[setting]]
    line = None if missing else f"GATEPASS_KEY_HASHES={key_hash}{variable}"
    written, is_first, copied = _write(path, entry) if write else (None, False, [])
    if as_json:
        print_json({"key": key, "entry": entry, "environment": line, "written": written})
        return
    click.echo("The key, for the client. gatepass does not store it and shows it only now:")
    click.echo(f"\n  {key}\n")
    if written is not None:
        click.echo(f"The entry was added to access.keys in {written}. Run `gatepass check`. {_VALID}")
        if copied:
            click.echo(f"It has the settings of the first key of {entry['name']!r}: {', '.join(copied)}.")
        if is_first:
            click.echo("It is the first key: from the next start or reload on, gatepass rejects clients without a key.")
        return
    click.echo(f"For the configuration file, under access.keys. {_VALID}")
    # with the indentation that `gatepass init` writes
    click.echo(f"\n    - {_shown(entry)}\n")
    if line is None:
        click.echo(f"A configuration by environment variables has no {missing[-1]} of a key: use a file.")
    else:
        click.echo("Or, for a configuration by environment variables:")
        click.echo(f"\n  {line}")


_NOT_OF_VARIABLE = {"models": "models", "mcp": "MCP servers", "group": "groups"}
"""The settings of a key that GATEPASS_KEY_HASHES cannot have. A model's name may contain its separators."""


def _shown(entry: Row) -> str:
    return "{" + ", ".join(f"{setting}: {json.dumps(value)}" for setting, value in entry.items()) + "}"


def _write(path: str | None, entry: Row) -> tuple[str, bool, list[str]]:
    """Add `entry` to the configuration file. Return its name, whether it had no caller, and the settings that `entry`
    got from the first key with its name: all keys of a caller have the same.

    Exit with 2 if the file cannot be changed. It is then as before.
    """
    from gatepass.config.checks import OF_CALLER
    from gatepass.config.document import ConfigError, lookup, with_value
    from gatepass.config.file import configuration_file, read_document
    from gatepass.config.references import own_variables, replace_file
    from gatepass.config.yaml_file import parse_yaml, with_last_item

    by_hand = "run the command without --write, and change the file yourself"
    try:
        if (name := configuration_file(path, own_variables(os.environ))) is None:
            exit_unusable("--write: there is no configuration file: name one with --config")
        document = read_document(name)
        known = [one for one in lookup(document.tree, KEYS) or [] if isinstance(one, dict)]
        same = next((one for one in known if one.get("name") == entry["name"]), {})
        copied = [setting for setting in OF_CALLER if same.get(setting) is not None and setting not in entry]
        entry |= {setting: same[setting] for setting in copied} | {"hash": entry.pop("hash")}
        text, shown = document.content.decode(), _shown(entry)
        item = json.dumps(entry) if document.source.lower().endswith(".json") else shown
        changed = with_last_item(text, KEYS, item)
        if KEYS[:1] not in document.origins:
            changed = f"{text.rstrip()}\n\naccess:\n  keys:\n    - {shown}\n"
        expected = with_value(document.tree, KEYS, [*(lookup(document.tree, KEYS) or []), entry])
        try:
            # an alias, for example, changes other settings too
            is_right = changed is not None and parse_yaml(name, changed).tree == expected
        except ConfigError:
            is_right = False
        if changed is None or not is_right:
            exit_unusable(f"--write: access.keys in {name} has a form that gatepass cannot change: {by_hand}")
        if found := _problems(name, changed, expected):
            exit_unusable("\n".join(f"--write: {name} would not be valid: {problem}" for problem in found))
        status = os.stat(name)
        if status.st_uid != os.geteuid():
            exit_unusable(f"--write: {name} belongs to another user: run the command as that user")
        mode = stat.S_IMODE(status.st_mode)
        if not mode & stat.S_IWUSR:  # os.access() is true for root
            exit_unusable(f"--write: {name} is read-only (mode {mode:04o}): run `chmod u+w` on it first")
        if Path(name).read_bytes() != text.encode():
            exit_unusable(f"--write: {name} has just been changed by another program: run the command again")
        replace_file(name, changed, mode=mode)
        # the umask and the group of this shell would lock out a service that reads the file by its group
        with suppress(PermissionError):
            os.chown(name, -1, status.st_gid)
        os.chmod(name, mode)
    except ConfigError as error:
        exit_unusable(f"--write: {error}")
    except OSError as error:
        exit_unusable(f"--write: {name} cannot be written: {error.strerror}")
    return name, not any(lookup(document.tree, (KEYS[0], one)) for one in (KEYS[1], "jwt")), copied


def _problems(name: str, text: str, tree: Any) -> list[str]:
    """Return the problems of a configuration with this text, without those of its references in `tree`.

    A variable may be set only for the running gatepass.
    """
    from gatepass.config.document import ConfigError, dotted, lookup
    from gatepass.config.load import load

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(name).name
        file.write_bytes(text.encode())
        try:
            load(str(file), os.environ)
        except ConfigError as error:
            own = [problem for problem in error.problems if "${" not in str(lookup(tree, problem.path))]
            return [f"{dotted(problem.path)}: {problem.text}" for problem in own]
    return []


@keys.command(name="list", short_help="List the configured keys.")
@config_option
@click.option("--running", is_flag=True, help="List the keys of the running gatepass instead, with their last use.")
@socket_option
@json_option
def list_keys(path: str | None, socket_path: str | None, *, running: bool, as_json: bool) -> None:
    """List the configured keys: name, role, profile, expiry, models, operations, state and the short id, which is the
    beginning of the hash.

    With MCP servers, also those that a key may use. With --running, also its last use since the start.

    Exit codes: 0 listed, 1 the running gatepass did not answer, 2 invalid command line or configuration.
    """
    from gatepass.auth.api_keys import KeyRing

    if running and path is not None:
        raise click.UsageError("--running asks the running gatepass: leave --config out.")
    if running or socket_path is not None:
        page = ask(Status, "GET", "/status", socket_path)
        found, has_mcp, issuers = page.keys, bool(page.mcp), len(page.jwt or ())
    else:
        config = load_or_exit(path).config
        has_mcp, issuers = bool(config.mcp), len(config.access.jwt)
        found = [
            structs.replace(
                key.as_row(time.time()),
                hash=key.hash if key.key is None else None,
                reference=key.key and key.key.reference,
            )
            for key in KeyRing(config.access.keys).known
        ]
    if as_json:
        print_json(found)
    elif found:
        others = len({row.name for row in found if row.role != "viewer"}) > 1
        lines = [_HEAD, *(_cells(row, "stored objects" if others else "files,batches") for row in found)]
        left_out = ["MCP"] * (not has_mcp) + ["LAST USE"] * (found[0].last_used is UNSET)
        shown = [[cell for head, cell in zip(_HEAD, line, strict=True) if head not in left_out] for line in lines]
        click.echo("\n".join(map(printable, aligned(shown))))
    else:
        served = f"clients with a token of {counted(issuers, 'issuer')}" if issuers else "clients on the same machine"
        click.echo(f"There are no keys: gatepass serves only {served}.")


def _cells(row: Key, closed: str) -> tuple[str, ...]:
    models = "all" if row.models is None else ",".join(row.models)
    operations = f"all but {closed}"
    mcp = "all" if row.models is None and row.operations is None else "none"
    if row.mcp is not None:
        mcp = ",".join(name + " (limited)" * (tools is not None) for name, tools in row.mcp.items()) or "none"
    if row.role == "viewer":
        models = operations = mcp = "none"
    elif row.operations is not None:
        operations = ",".join(row.operations) or "none"
        models = models if row.operations else "none"
    key = " ".join(filter(None, (row.id, row.reference or "")))
    expires, last_use = row.expires or "never", row.last_used or "-"
    return row.name, row.role, row.profile, expires, models, operations, mcp, row.state, last_use, key
