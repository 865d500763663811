"""`gatepass keys`: create, list, rotate and revoke the API keys of clients."""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from gatepass.cli.control import aligned, processes_of, request, socket_option
from gatepass.cli.healthcheck import own_file
from gatepass.cli.options import config_option, exit_unusable, json_option, load_or_exit, print_json, printable

if TYPE_CHECKING:
    from gatepass.config.document import ConfigDocument

DEFAULT_NAME = "client"
KEYS = ("access", "keys")
_HEAD = ("NAME", "ROLE", "PROFILE", "EXPIRES", "MODELS", "OPERATIONS", "MCP", "STATE", "LAST USE", "KEY")
_KEY_NUMBER = re.compile(r"access\.keys\[\d+\]")

Row = dict[str, Any]


def _refuse(reason: str) -> NoReturn:
    exit_unusable(f"Error: {reason}")


@click.group()
def keys() -> None:
    """Create, list, rotate and revoke the API keys of clients."""


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


_expires_option = click.option(
    "--expires",
    metavar="TIME",
    callback=_end,
    help="The expiry: a duration (90d or 12h), a date (its beginning in UTC) or an RFC 3339 time. Default: none.",
)
_write_option = click.option("--write", is_flag=True, help="Change the configuration file. Its comments stay.")


@keys.command(short_help="Create a key and its entry for the configuration file.")
@click.option("--name", help=f"The caller's name in logs and metrics. Default: {DEFAULT_NAME}.")
@click.option("--role", type=click.Choice(("caller", "viewer", "admin")), help="What the key may do. Default: caller.")
@click.option("--profile", metavar="NAME", help="The profile of the client, such as ragflow. Default: plain.")
@_expires_option
@click.option("--model", "models", multiple=True, help="A model or glob that the key may use. May be repeated.")
@click.option(
    "--operation",
    "operations",
    multiple=True,
    metavar="NAME",
    help="An operation that the key may use, such as chat or 'GET files'. May be repeated: all others are closed.",
)
@click.option(
    "--mcp",
    "servers",
    multiple=True,
    metavar="NAME[:TOOL,...]",
    help="An MCP server that the key may use, or only these tools (names or globs) that it may call there. May be"
    " repeated. Without --operation and --model the key may use nothing else.",
)
@_write_option
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
    for --write, and for a --profile that is not built in.

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
    if options["profile"]:
        _check_profile(options["profile"], path)
    _hand_out(key, entry, given, path, write=write, as_json=as_json)


@keys.command(short_help="Create another key of a caller, beside the old one.")
@click.argument("name")
@_expires_option
@_write_option
@config_option
@json_option
def rotate(name: str, path: str | None, *, expires: str | None, as_json: bool, write: bool) -> None:
    """Create another key of the caller NAME, with the settings of its newest entry in the configuration file.

    Both keys are valid until the old one is revoked or expires. The output is that of `gatepass keys new`.

    Exit codes: 0 created, 2 invalid command line, the key comes from a variable or a secret file, or --write cannot
    change the file.
    """
    from gatepass.auth.api_keys import new_key

    document, entries = _read(path)
    found = [(place, entry) for place, entry in enumerate(entries) if entry.get("name") == name]
    if not found:
        names = ", ".join(dict.fromkeys(str(entry.get("name")) for entry in entries)) or "no caller"
        raise click.BadParameter(f"{document.source} has {names}", param_hint="NAME")
    place, old = found[-1]
    if "key" in old:
        add = "add a key of `gatepass keys new` there, behind the old one and a space; a variable requires a restart"
        _refuse(f"the key of access.keys[{place}] comes from {old['key']}: {add}")
    key, key_hash = new_key()
    settings = {**old, "expires": expires}
    settings = {setting: value for setting, value in settings.items() if setting != "hash" and value is not None}
    _hand_out(key, {**settings, "hash": key_hash}, settings, path, write=write, as_json=as_json)
    if not as_json:
        revoke_it = f"run `gatepass keys revoke {str(old.get('hash'))[7:15]}{' --write' * write}`"
        is_variable = str(old.get("hash")).startswith("${")
        click.echo(
            f"\nWhen the client uses the new key, {f'delete access.keys[{place}]' if is_variable else revoke_it}."
        )


@keys.command(short_help="Remove the entry of a key from the configuration file.")
@click.argument("key_hash", metavar="HASH")
@click.option("--yes", is_flag=True, help="Remove also the last key, or the last one with the role admin.")
@_write_option
@config_option
@json_option
def revoke(key_hash: str, path: str | None, *, yes: bool, as_json: bool, write: bool) -> None:
    """Remove the key with this HASH, or print the entry to delete. HASH may be its first 8 digits or more.

    Exit codes: 0 removed or printed, 2 invalid command line, no such entry, the key comes from a variable or a secret
    file, the last key without --yes, or --write cannot change the file.
    """
    from gatepass.config.yaml_file import without_item

    digits = key_hash.removeprefix("sha256:").lower()
    if not re.fullmatch("[0-9a-f]{8,64}", digits):
        raise click.BadParameter("expects 8 hexadecimal digits or more: see `gatepass keys list`", param_hint="HASH")
    document, entries = _read(path)
    found = [place for place, one in enumerate(entries) if str(one.get("hash")).startswith(f"sha256:{digits}")]
    if not found:
        read = [(place, one.get("key") or one.get("hash")) for place, one in enumerate(entries)]
        rest = ", ".join(f"access.keys[{place}] ({text})" for place, text in read if str(text).startswith("${"))
        of_rest = f". For a key of {rest}, change what it reads, or delete the entry" if rest else ""
        _refuse(f"no hash under access.keys in {document.source} begins with {digits}{of_rest}")
    if len(found) > 1:
        _refuse(f"{digits} begins several hashes in {document.source}: give more digits")
    (place,) = found
    entry, others = entries[place], entries[:place] + entries[place + 1 :]
    name, loss = entry.get("name"), ""
    if not others:
        loss = "the last key: gatepass without keys serves every client on the same machine, and no other"
    elif entry.get("role") == "admin" and all(one.get("role") != "admin" for one in others):
        loss = "the last key with the role admin"
    if loss and not yes:
        successor = f"`gatepass keys rotate {name} --write`"
        _refuse(f"This is {loss}. Create its successor first ({successor}), or repeat the command with --yes")

    def without(now: ConfigDocument) -> tuple[str | None, list[Row]]:
        return without_item(now.content.decode(), KEYS, place), others

    written = _change(path, without)[0] if write else None
    if as_json:
        print_json({"entry": entry, "written": written})
    elif write:
        click.echo(f"The entry of {name} was removed from access.keys in {written}. Run `gatepass reload` to apply it.")
    else:
        where = f"{document.source} (line {document.origins[(*KEYS, place)].line})"
        click.echo(f"Delete this entry under access.keys in {where}; then run `gatepass reload`:")
        click.echo(f"\n    - {_shown(entry)}\n")


def _read(path: str | None) -> tuple[ConfigDocument, list[Row]]:
    """Return the configuration file and its keys, or exit with 2."""
    from gatepass.config.document import ConfigError, lookup
    from gatepass.config.file import read_document

    name = own_file(path)
    if name is None:
        _refuse("there is no configuration file: name one with --config, or change the variables by hand")
    try:
        document = read_document(name)
    except ConfigError as error:
        exit_unusable(str(error))
    entries = lookup(document.tree, KEYS)
    return document, [one if isinstance(one, dict) else {} for one in entries] if isinstance(entries, list) else []


def _shown(entry: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{setting}: {json.dumps(value)}" for setting, value in entry.items()) + "}"


_NOT_OF_VARIABLE = {"models": "models", "mcp": "MCP servers", "limits": "limits"}
"""The settings of a key that GATEPASS_KEY_HASHES cannot have. A model's name may contain its separators."""


def _hand_out(
    key: str, entry: Row, settings: Mapping[str, Any], path: str | None, *, write: bool, as_json: bool
) -> None:
    """Print the new `key` with its entry, or write the entry. `settings` are those of its variable."""
    operations = "+".join(settings.get("operations") or ()).replace(" ", ":")
    behind = "".join(f"/{name}={value}" for name, value in {**settings, "operations": operations}.items() if value)
    missing = [word for setting, word in _NOT_OF_VARIABLE.items() if settings.get(setting)]
    line = None if missing else f"GATEPASS_KEY_HASHES={entry['hash']}{behind}"
    written, is_first = _write(path, entry) if write else (None, False)
    if as_json:
        print_json({"key": key, "entry": entry, "environment": line, "written": written})
        return
    click.echo("The key, for the client. gatepass does not store it and shows it only now:")
    click.echo(f"\n  {key}\n")
    if written is not None:
        click.echo(f"The entry was added to access.keys in {written}. Run `gatepass reload` to apply it.")
        if is_first:
            click.echo("It is the first key: gatepass then rejects clients without a key.")
        return
    click.echo("For the configuration file, under access.keys; then run `gatepass reload`:")
    # with the indentation that `gatepass init` writes
    click.echo(f"\n    - {_shown(entry)}\n")
    if line is None:
        click.echo(f"A configuration by environment variables has no {missing[-1]} of a key: use a file.")
    else:
        click.echo("Or, for a configuration by environment variables:")
        click.echo(f"\n  {line}")


WAIT_S = 5.0
"""Another command holds the lock for milliseconds."""


@contextmanager
def _only_writer(name: str) -> Iterator[None]:
    """Let one command at a time change the file `name`. The lock is on the folder, because the file is replaced."""
    folder = os.open(Path(name).resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        until_s = time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until_s:
                    exit_unusable(f"--write: another command is changing {name}: run the command again")
                time.sleep(0.02)
        yield
    finally:
        os.close(folder)


def _write(path: str | None, entry: Row) -> tuple[str, bool]:
    """Add `entry` to the configuration file, as `_change`."""
    from gatepass.config.document import lookup
    from gatepass.config.yaml_file import with_last_item

    def with_entry(document: ConfigDocument) -> tuple[str | None, list[Row]]:
        text, shown = document.content.decode(), _shown(entry)
        is_json = document.source.lower().endswith(".json")
        changed = with_last_item(text, KEYS, json.dumps(entry) if is_json else shown)
        if KEYS[:1] not in document.origins:
            changed = f"{text.rstrip()}\n\naccess:\n  keys:\n    - {shown}\n"
        return changed, [*(lookup(document.tree, KEYS) or []), entry]

    return _change(path, with_entry)


def _change(path: str | None, edit: Callable[[ConfigDocument], tuple[str | None, list[Row]]]) -> tuple[str, bool]:
    """Change the configuration file to the text of `edit`. Return its name, and whether it had no key.

    `edit` also returns the keys that this text has, by which it is checked. Exit with 2 if the file cannot be changed.
    It is then as before.
    """
    from gatepass.config.document import ConfigError, lookup, with_value
    from gatepass.config.file import read_document
    from gatepass.config.references import replace_file
    from gatepass.config.yaml_file import parse_yaml

    name = own_file(path)
    if name is None:
        exit_unusable("--write: there is no configuration file: name one with --config")
    by_hand = "run the command without --write, and change the file yourself"
    try:
        with _only_writer(name):
            document = read_document(name)
            text = document.content.decode()
            changed, expected = edit(document)
            try:
                # an alias, for example, changes other settings too
                is_right = changed is not None and parse_yaml(name, changed).tree == with_value(
                    document.tree, KEYS, expected
                )
            except ConfigError:
                is_right = False
            if changed is None or not is_right:
                exit_unusable(f"--write: access.keys in {name} has a form that gatepass cannot change: {by_hand}")
            before, after = _problems(name, text), _problems(name, changed)
            if new := sorted(after[problem] for problem in after.keys() - before.keys()):
                exit_unusable("\n".join(f"--write: {name} would not be valid: {problem}" for problem in new))
            status = os.stat(name)
            if status.st_uid != os.geteuid():
                exit_unusable(f"--write: {name} belongs to another user: run the command as that user")
            mode = stat.S_IMODE(status.st_mode)
            if not mode & stat.S_IWUSR:  # os.access() is true for root
                exit_unusable(f"--write: {name} is read-only (mode {mode:04o}): run `chmod u+w` on it first")
            if status.st_nlink > 1:
                exit_unusable(f"--write: {name} has hard links, which would keep the old text: {by_hand}")
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
    return name, not lookup(document.tree, KEYS)


def _problems(name: str, text: str) -> dict[str, str]:
    """Return the problems of a configuration with this text, by their texts without the numbers of keys, which change.

    A variable may be set only for the running gatepass.
    """
    from gatepass.config.document import ConfigError, dotted
    from gatepass.config.load import load

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(name).name
        file.write_bytes(text.encode())
        try:
            load(str(file), os.environ)
        except ConfigError as error:
            found = [f"{dotted(problem.path)}: {problem.text}" for problem in error.problems]
            return {_KEY_NUMBER.sub("access.keys[]", problem): problem for problem in found}
    return {}


def _check_profile(name: str, path: str | None) -> None:
    from gatepass.config.access import BUILT_IN_PROFILES
    from gatepass.config.checks import unknown_names
    from gatepass.config.document import ConfigError, lookup
    from gatepass.config.file import read_document

    if name in BUILT_IN_PROFILES:
        return
    path = own_file(path)
    try:
        own = None if path is None else lookup(read_document(path).tree, ("profiles",))
    except ConfigError as error:
        exit_unusable(str(error))
    for _, fault in unknown_names({"profiles": own, "access": {"keys": [{"profile": name}]}}):
        needs_none = ". Claude Code needs no profile: leave it out" if name in ("claude_code", "claude-code") else ""
        raise click.BadParameter(f"{fault}{needs_none}", param_hint="--profile")


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
    from gatepass.auth.api_keys import KeyRing, merged_rows

    if running and path is not None:
        raise click.UsageError("--running asks the running gatepass: leave --config out.")
    if running or socket_path is not None:
        page = json.loads(request("GET", "/status", socket_path))
        processes = [*processes_of(page).values()]  # all workers have the same keys
        found, has_mcp = merged_rows([one["keys"] for one in processes]), "mcp" in processes[0]
    else:
        config = load_or_exit(path).config
        has_mcp = bool(config.mcp)
        found = [
            key.as_row(time.time())
            | {"hash": key.hash if key.key is None else None, "reference": key.key and key.key.reference}
            for key in KeyRing(config.access.keys).known
        ]
    if as_json:
        print_json(found)
    elif found:
        shares_objects = len({row["name"] for row in found if row["role"] != "viewer"}) > 1
        lines = [_HEAD, *(_cells(row, shares_objects=shares_objects) for row in found)]
        left_out = ["MCP"] * (not has_mcp) + ["LAST USE"] * ("last_used" not in found[0])
        shown = [[cell for head, cell in zip(_HEAD, line, strict=True) if head not in left_out] for line in lines]
        click.echo("\n".join(map(printable, aligned(shown))))
    else:
        click.echo("There are no keys: gatepass serves only clients on the same machine.")


def _cells(row: Row, *, shares_objects: bool) -> tuple[str, ...]:
    models = "all" if row["models"] is None else ",".join(row["models"])
    operations = "all but stored objects" if shares_objects or row["models"] is not None else "all"
    mcp = "all" if row["models"] is None and row["operations"] is None else "none"
    if row["mcp"] is not None:
        mcp = ",".join(name + " (limited)" * (tools is not None) for name, tools in row["mcp"].items()) or "none"
    if row["role"] == "viewer":
        models = operations = mcp = "none"
    elif row["operations"] is not None:
        operations = ",".join(row["operations"]) or "none"
    key = " ".join(filter(None, (row["id"], row.get("reference"))))
    expires, last_use = row["expires"] or "never", row.get("last_used") or "-"
    return row["name"], row["role"], row["profile"], expires, models, operations, mcp, row["state"], last_use, key
