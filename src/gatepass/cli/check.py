"""`gatepass check`: the effective configuration, and the form of its file. It calls no hop."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from gatepass.cli.options import (
    CALL_OPERATIONS,
    CHECK_FAILED,
    UNUSABLE,
    config_option,
    exit_unusable,
    json_option,
    load_or_exit,
    print_json,
    printable,
    summary,
)
from gatepass.config.access import JwtIssuer, claim_path
from gatepass.config.advice import filled
from gatepass.config.block import SECRET_NAME, without_query
from gatepass.config.checks import OF_ROW, issuers_apart, second_caller, serves_only_named
from gatepass.config.document import ConfigError, dotted, leaves, lookup
from gatepass.config.load import DEFAULT, LoadedConfig, load, memory_limit_bytes
from gatepass.config.model import Config
from gatepass.config.references import read_file
from gatepass.errors import GatepassError, NotAllowed
from gatepass.json_body import decoded


@click.command()
@config_option
@click.option("--all", "every", is_flag=True, help="Also show settings that have their defaults.")
@click.option(
    "--route", "model", metavar="MODEL", help="Explain a request for MODEL instead: its targets, its changes, the URL."
)
@click.option(
    "--operation",
    type=click.Choice(CALL_OPERATIONS),
    help="With --route: the operation. Default: as declared, else by the name.",
)
@click.option("--key", "caller", metavar="NAME", help="With --route: the caller, as access.keys names it.")
@click.option(
    "--token",
    "token",
    metavar="FILE",
    help="Say which row of access.jwt the token in FILE (- for stdin) meets instead.",
)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the configuration instead, for editors.")
@json_option
def check(
    path: str | None,
    *,
    every: bool,
    model: str | None,
    operation: str | None,
    caller: str | None,
    token: str | None,
    schema: bool,
    as_json: bool,
) -> None:
    """Validate the configuration and print its effective values with their origins. Secrets are hidden.

    --token asks no issuer: it checks the signature only with a `jwks` that is a file. --route asks no running
    gatepass: learned rules are not included. For --schema, put `# yaml-language-server: $schema=FILE` in the first
    line of a YAML file to have an editor use it.

    Exit codes: 0 the configuration is valid, 1 the request of --route or the token is refused, 2 the configuration is
    not valid.
    """
    if token is not None and model is not None:
        raise click.UsageError("--token and --route exclude each other.")
    if model is None and (alone := "--key" * bool(caller) or "--operation" * bool(operation)):
        raise click.UsageError(f"{alone} requires --route.")
    if schema:
        click.echo(json.dumps(editor_schema(), indent=2, ensure_ascii=False))
        return
    loaded = _load_for_json(path) if as_json else load_or_exit(path)
    if token is not None:
        lines, is_accepted = _token_lines(loaded.config, token)
        _print_verdict(lines, is_accepted=is_accepted, as_json=as_json)
    if model is not None:
        from gatepass.auth.api_keys import KeyRing
        from gatepass.cli.route import route_lines

        # the keys of one caller agree in everything that matters here (checks.conflicts)
        keys = {one.name: one for one in KeyRing(loaded.config.access.keys).callers.values()}
        if caller is not None and caller not in keys:
            exit_unusable(f"--key: {caller!r} is not the name of a key; there is {', '.join(keys) or 'none'}")
        lines, is_accepted = route_lines(loaded.config, model, None if caller is None else keys[caller], operation)
        _print_verdict(lines, is_accepted=is_accepted, as_json=as_json)
    # `serve` does not warn about idle ones: a credential may be there for the next upstream
    used = {name for _, name in loaded.config.used_credentials()}
    idle = [f"credentials.{name}: no upstream uses it" for name in loaded.config.credentials if name not in used]
    idle += [*second_caller(loaded.config), *issuers_apart(loaded.config)]
    tree, origins = loaded.effective()
    idle += plain_secrets(loaded.document.tree, tree)
    shown = {setting: origin for setting, origin in origins.items() if every or origin != DEFAULT}
    left_out = len(origins) - len(shown)
    empty = [setting for setting, value in leaves(loaded.document.tree) if value == {}]  # {} may mean on
    shown |= {setting: str(loaded.document.origin(setting)) for setting in empty if setting not in origins}
    if as_json:
        settings = [
            {"setting": dotted(setting), "value": without_query(lookup(tree, setting)), "origin": origin}
            for setting, origin in shown.items()
        ]
        warnings = [*loaded.warnings, *idle]
        print_json({"valid": True, "source": loaded.source, "warnings": warnings, "settings": settings})
        return
    for warning in idle:
        click.echo(f"warning: {printable(warning)}", err=True)
    for setting, origin in shown.items():
        value = json.dumps(without_query(lookup(tree, setting)), ensure_ascii=False)
        click.echo(printable(f"{dotted(setting)}: {value}  # {origin}"))
    hidden = "" if every else f"; {left_out} defaults are left out, --all shows them"
    if serves_only_named(loaded.config):
        click.echo('# every model that `models` does not name is 404; `"*": {upstream: NAME}` there serves the others')
    click.echo(f"# valid: {summary(loaded.config)}{hidden}")


OF_SECRET = re.compile(rf"(?:{SECRET_NAME.pattern})[a-z]*[\W_\d]*\Z", re.IGNORECASE)
"""A secret's name in the last word: `x-portkey-provider` names none."""


def plain_secrets(written: Any, effective: Any) -> Iterator[str]:
    """Yield each secret that the configuration itself holds, by its name, with the reference to write instead."""
    from gatepass.tokens.secrets import is_public

    for path, text in leaves(written):
        name = next((part for part in reversed(path) if isinstance(part, str)), "")
        is_hidden = type(text) is str and lookup(effective, path) == "(hidden)"  # a reference has another type
        is_place = isinstance(text, str) and re.fullmatch(r"(?:/[\w.-]+){2,}|https?://.+", text)  # a path or a URL
        if is_hidden and not is_place and OF_SECRET.search(name) and not is_public(name):
            variable = re.sub(r"\W", "_", "_".join(map(str, path[1:]))).upper()
            remedy = f'write {name}: "${{file:/run/secrets/{variable.lower()}}}" or "${{{variable}}}"'
            yield f"{dotted(path)}: is a secret in plain text, which everyone who reads the file sees: {remedy}"


def _print_verdict(lines: list[str], *, is_accepted: bool, as_json: bool) -> NoReturn:
    if as_json:
        print_json({"accepted": is_accepted, "lines": lines})
    else:
        click.echo("\n".join(map(printable, lines)))
    sys.exit(0 if is_accepted else CHECK_FAILED)


def _token_lines(config: Config, file: str) -> tuple[list[str], bool]:
    """Return what `access.jwt` makes of the token in `file`, and whether it is accepted."""
    from gatepass.auth import jwt_verdict
    from gatepass.auth.api_keys import KeyRing

    entries = config.access.jwt
    if file.removeprefix("Bearer ").startswith("eyJ"):  # `{"`, with which a JWT begins; the error must not show it
        exit_unusable("--token: that is a token, not a file: pipe it to `--token -`, so that no shell keeps it")
    try:
        # pipes of Windows write UTF-16, or a byte order mark
        text = decoded(sys.stdin.buffer.read() if file == "-" else read_file(file).encode()).strip()
        if not text:
            exit_unusable(f"--token: no token {'on stdin' if file == '-' else f'in {file}'}")
        if (known := KeyRing(config.access.keys).find(text)) is not None:
            exit_unusable(f"--token: that is an API key of {known.name!r}, which needs no row of access.jwt")
        if not entries:
            exit_unusable("--token: access.jwt is empty, so gatepass accepts no tokens")
        token = jwt_verdict.Token.read(text.removeprefix("Bearer "))
        at = None if token is None else jwt_verdict.entry_of(token, entries)
        if token is None or at is None:
            raise jwt_verdict.unknown([text], entries)
        jwt_verdict.check_claims(token, entries[at], time.time())
        checked = "signature not checked: only a running gatepass fetches the keys"
        if (keys := entries[at].file) is not None:
            for _ in (key_set := jwt_verdict.KeySet(read_file(keys).encode())).make():
                pass
            jwt_verdict.verify(token, key_set, f"read from {keys}")
            checked = f"signature checked with {keys}"
        if (met := jwt_verdict.row_of(token, entries[at])) is None:
            raise jwt_verdict.no_row(token, entries[at])
    except GatepassError as error:
        lines = [f"refused: {error.status} {error.public_code}: {error.message}"]
        if isinstance(error, NotAllowed) and token is not None and at is not None:
            lines += _row_lines(token.claims, entries[at])
        return lines, False
    except ValueError as error:
        exit_unusable(f"--token: {error}")
    row = entries[at].callers[met]
    own = row.model_dump(mode="json", include=set(OF_ROW), exclude_defaults=True)
    shown = {"name": row.name, "user": jwt_verdict.user_of(token, row) or None, "role": row.role, **own}
    return [
        f"accepted by access.jwt[{at}].callers[{met}]; {checked}",
        ", ".join(f"{name} {json.dumps(value)}".replace('"', "") for name, value in shown.items() if value is not None),
    ], True


def _row_lines(claims: Any, entry: JwtIssuer) -> Iterator[str]:
    """Yield why a token with `claims` meets none of the rows of `entry`."""
    from gatepass.auth.jwt_verdict import is_of_words

    for number, row in enumerate(entry.callers):
        value = lookup(claims, row.path)
        came = "absent" if value is None else json.dumps(value, ensure_ascii=False)[:200]
        rule = f"contain {row.contains}" if row.equals is None else f"be the text {' or '.join(row.equals)}"
        came += "; for a list, write contains" if row.equals and isinstance(value, list) else ""
        came += _with_dots(claims, row.claim) if value is None else ""
        if is_of_words(value, row):
            came += f". {filled('one_text', 'sentence', {'claim': row.claim})}"
        yield f"callers[{number}]: {row.claim} has to {rule}, is {came}"


def _with_dots(claims: Any, path: str) -> str:
    """Return a hint if the absent claim `path` begins with the name of one in which there are dots."""
    steps = list(claim_path(path))
    while isinstance(claims, dict) and steps and steps[0] in claims:
        claims = claims[steps.pop(0)]
    rest = ".".join(steps)
    found = [name for name in claims if "." in name and rest.startswith(name)] if isinstance(claims, dict) else []
    return f"; the token has a claim {found[0]}: write " + found[0].replace(".", "\\.") if found else ""


def _load_for_json(path: str | None) -> LoadedConfig:
    """Load the configuration. If it is invalid, print its problems as one JSON document and exit with 2."""
    try:
        return load(path, os.environ, memory_bytes=memory_limit_bytes())
    except ConfigError as error:
        problems = [
            {
                "source": problem.origin.source,
                "line": problem.origin.line or None,
                "setting": dotted(problem.path),
                "problem": problem.text,
            }
            for problem in error.problems
        ]
        print_json({"valid": False, "problems": problems, "warnings": error.warnings})
        sys.exit(UNUSABLE)


def editor_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a configuration file, which allows references in all texts."""
    found = _with_references(Config.model_json_schema(by_alias=True))
    note = "Any text may hold ${NAME} or ${file:/path}; $$ is a dollar. Numbers, true and false are never references."
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **found,
        # behind `found`, whose title is the name of the class
        "title": "gatepass configuration",
        "anyOf": [{"required": ["upstreams"]}, {"required": ["mcp"]}],
        "description": f"{found['description']} {note}",
    }


def _with_references(node: Any) -> Any:
    """Return `node` with patterns that also match a reference, and with a note in each text's description."""
    if isinstance(node, list):
        return [_with_references(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {name: value if name == "default" else _with_references(value) for name, value in node.items()}
    if node.get("type") == "string" and "const" not in node and "enum" not in node:
        if "pattern" in found:
            found["pattern"] = rf"(?:{found['pattern']})|\$\{{"
        found["description"] = f"{found.get('description', 'A text')} (references allowed)".strip()
    return found
