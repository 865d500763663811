"""`gatepass learned`: list the rules that a running gatepass has learned, or print them as YAML."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import click

from gatepass.cli.configuration import exit_unusable
from gatepass.cli.control import request, socket_at
from gatepass.cli.healthcheck import HOST, PORT, failure_text, listening, own_file, reachable, variable
from gatepass.cli.options import config_option, json_option, print_json, printable, progress

TIMEOUT_S = 10.0
PAGE_BYTES = 16 * 1024 * 1024
KEY = "GATEPASS_KEY"
NOTHING = "Nothing has been learned."
_HEAD = ("MODEL", "OPERATION", "ADAPTED", "STATE", "AGE", "LEFT", "USES")
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


@dataclass(frozen=True, slots=True)
class LearnedPage:
    """The URL of the running gatepass, and the API key to send."""

    url: str
    key: str | None = field(repr=False)


@click.command()
@config_option
@click.option("--url", metavar="URL", help="The URL of gatepass. Default: the gatepass of this machine.")
@click.option("--key-env", metavar="NAME", default=KEY, show_default=True, help="The variable with an API key for it.")
@click.option("--as-config", is_flag=True, help="Print YAML that makes the rules permanent, to put under `models`.")
@json_option
def learned(path: str | None, url: str | None, key_env: str, *, as_config: bool, as_json: bool) -> None:
    """List what a running gatepass has learned from the errors of its upstreams.

    Without --url it uses the control socket, which needs no key, or else the address in the configuration.

    The key comes from the variable of --key-env. If that is not set, the command uses the first key of a viewer or
    admin that `access.keys` references, or the first of GATEPASS_KEYS. It sends such a key only to this machine.

    Exit codes: 0 listed, 1 gatepass did not answer, 2 invalid command line or configuration.
    """
    if as_config and as_json:
        raise click.UsageError("--as-config prints YAML: leave --json out.")
    target, path = "/learned?as=config" if as_config else "/learned", own_file(path)
    if url is None and (local := socket_at(_own_address(path)[1])) is not None:
        page, text = LearnedPage(local, None), _local_text(target, local)
    else:
        page = learned_page(path, url, key_env)
        text = _fetched_text(page, target, key_env)
    if as_config:
        click.echo(printable(text, "\n"), nl=False)
        return
    rules = _parsed_rules(page, text)
    if as_json:
        print_json(rules)
    else:
        click.echo("\n".join(table(rules)))


def learned_page(path: str | None, url: str | None, key_env: str) -> LearnedPage:
    """Return the URL and the key of the running gatepass; exit with 2 if the configuration does not contain them."""
    from gatepass.config.block import is_loopback

    if url is None:
        url, is_own = _own_url(path), True
    else:
        url = _checked_url(url)
        is_own = is_loopback(urlsplit(url).hostname or "")
    key = os.environ.get(key_env) or None
    if key is None and key_env != KEY:
        exit_unusable(f"--key-env: the environment variable {key_env} is not set")
    if key is None and is_own:  # a key goes only to the gatepass whose configuration contains it
        from gatepass.config.access import keys_in

        key = next((one for text in _key_texts(path, os.environ) for one in keys_in(text)), None)
    # http.client would quote the key in its error
    if key is not None and not (key.isascii() and key.isprintable()):
        exit_unusable("the API key contains characters beyond ASCII or a line break")
    return LearnedPage(url, key)


def _local_text(target: str, path: str) -> str:
    """Return the reply to GET `target` over the control socket, which needs no key; exit with 1 if it fails."""
    return request("GET", target, path).decode("utf-8", "replace")


def _own_address(path: str | None) -> tuple[str, int]:
    """Return the host and port of `gatepass serve` with the same variables and file."""
    from gatepass.config.document import ConfigError

    host, port = variable("HOST"), variable("PORT")
    try:
        file_host, file_port = (HOST, PORT) if path is None else listening(path, os.environ)
        return reachable(host or file_host), int(port or file_port)
    except (ConfigError, ValueError) as error:
        exit_unusable(str(error))


def _own_url(path: str | None) -> str:
    name, number = _own_address(path)
    if number == 0:
        exit_unusable("server.port is 0, which picks a free port: set the URL with --url")
    return _checked_url(f"http://[{name}]:{number}" if ":" in name else f"http://{name}:{number}")


def _checked_url(url: str) -> str:
    """Return the root URL of gatepass; exit with 2 if `url` is not an http(s) URL."""
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or parts.username or parts.query or parts.fragment or not url.isascii() or not url.isprintable():
        exit_unusable(f"{url!r} is not the URL of a gatepass: expects http://HOST:PORT")
    return url.rstrip("/").removesuffix("/v1")


def _key_texts(path: str | None, environment: Mapping[str, str]) -> Iterator[str]:
    from gatepass.config.document import ConfigError, lookup
    from gatepass.config.file import read_document
    from gatepass.config.references import UnresolvedReference, own_variables, resolve, variable_value

    if path is None:
        found = variable_value(own_variables(environment), "KEYS")
        if found is not None and found.fault is None:
            yield found.value.replace(",", " ")
        return
    try:
        entries = lookup(read_document(path).tree, ("access", "keys"))
    except ConfigError as error:
        exit_unusable(str(error))
    for entry in entries if isinstance(entries, list) else ():
        is_reader = isinstance(entry, dict) and entry.get("role") in ("viewer", "admin")
        text = entry.get("key") if is_reader else None
        try:
            if isinstance(text, str):
                yield resolve(text, environment)
        except UnresolvedReference:
            continue  # the secret may exist only on the machine that serves


def _fetched_text(page: LearnedPage, target: str, key_env: str) -> str:
    """Return the reply to GET `target`; exit with 1 and the reason if it fails."""
    with progress(page.url):
        status, text = _answer(page, target)
    if status == 200:
        return text
    hints = {
        401: f" Set the environment variable {key_env} to one of its keys.",
        404: " Is it a gatepass, and is the URL its root?",
    }
    try:
        reason = printable(str(json.loads(text)["error"]["message"]))
    except (ValueError, LookupError, TypeError):
        reason = ""
    message = f"{page.url} answered {status} to GET /learned. {reason}".rstrip()
    raise click.ClickException(message + hints.get(status, ""))


def _answer(page: LearnedPage, target: str) -> tuple[int, str]:
    """Return the status and body of the reply to GET `target`; exit with 1 if there is none."""
    from gatepass.observability.redaction import Redactor

    parts = urlsplit(page.url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        try:
            headers = {} if page.key is None else {"authorization": f"Bearer {page.key}"}
            connection.request("GET", parts.path + target, headers=headers)
            response = connection.getresponse()
            status, body = response.status, response.read(PAGE_BYTES)
        finally:
            connection.close()
    except (OSError, HTTPException) as error:
        raise click.ClickException(f"no answer from {page.url}: {failure_text(error)}") from None
    except ValueError:  # such as a port beyond 65535, which only the connection reads
        exit_unusable(f"{page.url!r} is not the URL of a gatepass: expects http://HOST:PORT")
    redactor = Redactor()
    redactor.learn(page.key or "")  # a server that is not a gatepass may quote it
    return status, redactor.mask(body.decode("utf-8", "replace"))


def _parsed_rules(page: LearnedPage, text: str) -> list[dict[str, Any]]:
    try:
        rules = json.loads(text)["rules"]
        if all(isinstance(row, dict) for row in rules):
            return list(rules)
    except (ValueError, LookupError, TypeError):
        pass
    raise click.ClickException(f"{page.url} did not return a list of learned rules. Is it a gatepass?")


def table(rules: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each rule, followed by the error message that it was learned from."""
    if not rules:
        yield NOTHING
        return
    cells = [_HEAD, *(_cells(row) for row in rules)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    for number, line in enumerate(cells):
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        if number and (evidence := printable(" ".join(str(rules[number - 1].get("evidence", "")).split()))):
            yield f"    {evidence}"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    texts = [
        f"{row.get('upstream')}/{row.get('model')}",
        *(row.get(name) for name in ("operation", "adapted", "state")),
    ]
    spans = [span(float(row.get(name) or 0)) for name in ("age_s", "expires_in_s")]
    if row.get("state") == "failed":
        spans[1] = f"retried in {spans[1]}"
    return tuple(printable(text) for text in (*texts, *spans, row.get("uses", 0)))


def span(seconds: float) -> str:
    """Return the largest whole unit: `90` is `1 min`."""
    return next((f"{seconds // size:.0f} {unit}" for size, unit in _UNITS if seconds >= size), f"{seconds:.0f} s")
