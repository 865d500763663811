"""`gatepass learned`: what a running gatepass has learned of its upstreams, and the YAML that pins it."""

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
from gatepass.cli.healthcheck import HOST, PORT, listening, reachable, variable

TIMEOUT_S = 10.0
PAGE_BYTES = 16 * 1024 * 1024
KEY = "GATEPASS_KEY"
NOTHING = "Nothing has been learned."
_HEAD = ("MODEL", "OPERATION", "ADAPTED", "STATE", "AGE", "LEFT", "USES")
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


@dataclass(frozen=True, slots=True)
class LearnedPage:
    """Where the gatepass is that is asked, and the key that it is shown."""

    url: str
    key: str | None = field(repr=False)


@click.command()
@click.option("--config", "path", metavar="FILE", help="The file of the gatepass to ask; GATEPASS_CONFIG names it too.")
@click.option("--url", metavar="URL", help="Where it listens, instead of what the configuration says.")
@click.option("--key-env", metavar="NAME", default=KEY, show_default=True, help="The variable that holds a key for it.")
@click.option("--as-config", is_flag=True, help="Print the YAML that pins it, to put under `models`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def learned(path: str | None, url: str | None, key_env: str, *, as_config: bool, as_json: bool) -> None:
    """List what a running gatepass has learned from the rejections of its upstreams.

    Where it wants a key and the variable of --key-env is not set, the first key is taken that
    `access.keys` names by reference, or GATEPASS_KEYS; for a --url only on this machine.

    Exit codes: 0 listed, 1 no gatepass told, 2 the command line or the configuration cannot be used.
    """
    if as_config and as_json:
        raise click.UsageError("--as-config prints YAML: leave --json out.")
    place = learned_page(path or variable("CONFIG"), url, key_env)
    page = _asked(place, "/learned?as=config" if as_config else "/learned", key_env)
    if as_config:
        click.echo(_printable(page), nl=False)
        return
    lessons = _lessons(place, page)
    click.echo(json.dumps(lessons, indent=2) if as_json else "\n".join(table(lessons)))


def learned_page(path: str | None, url: str | None, key_env: str) -> LearnedPage:
    """Where to ask, and with which key; exits with 2 where that cannot be told."""
    from gatepass.config.block import is_loopback

    if url is None:
        url, is_own = _own_url(path), True
    else:
        url = _checked(url)
        is_own = is_loopback(urlsplit(url).hostname or "")
    key = os.environ.get(key_env) or None
    if key is None and key_env != KEY:
        exit_unusable(f"--key-env: the environment variable {key_env} is not set")
    if key is None and is_own:  # the first one that the configuration names by a reference that this shell can follow
        from gatepass.config.access import keys_in

        key = next((one for text in _key_texts(path, os.environ) for one in keys_in(text)), None)
    if key is not None and not (key.isascii() and key.isprintable()):
        exit_unusable("the key for it holds what no key holds: letters beyond ASCII, or a line break")
    return LearnedPage(url, key)


def _own_url(path: str | None) -> str:
    """As `gatepass serve` would listen: by the environment, else by the file, else by its defaults."""
    from gatepass.config.document import ConfigError

    host, port = variable("HOST"), variable("PORT")
    try:
        said_host, said_port = (HOST, PORT) if path is None else listening(path, os.environ)
    except (ConfigError, ValueError) as error:
        exit_unusable(str(error))
    name, number = reachable(host or said_host), port or str(said_port)
    if number == "0":
        exit_unusable("server.port is 0, which picks a free one: name it by --url")
    return _checked(f"http://[{name}]:{number}" if ":" in name else f"http://{name}:{number}")


def _checked(url: str) -> str:
    """`url` up to where gatepass's own pages begin; exits with 2 where it is none."""
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or parts.username or parts.query or parts.fragment or not url.isascii() or not url.isprintable():
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
        text = entry.get("key") if isinstance(entry, dict) else None
        try:
            if isinstance(text, str):
                yield resolve(text, environment)
        except UnresolvedReference:
            continue  # the secret of the machine that serves, perhaps


def _asked(place: LearnedPage, page: str, key_env: str) -> str:
    """The page as text; says what is wrong and exits with 1 where there is none."""
    try:
        status, body = _fetched(place, page)
    except (OSError, HTTPException, ValueError) as error:
        raise click.ClickException(f"no answer from {place.url}: {type(error).__name__} {error}") from None
    text = body.decode("utf-8", "replace")
    if status == 200:
        return text
    hints = {
        401: f" Set the environment variable {key_env} to one of its keys.",
        404: " Is it a gatepass, and is the URL its root?",
    }
    try:
        reason = _printable(str(json.loads(text)["error"]["message"]))
    except (ValueError, LookupError, TypeError):
        reason = ""
    said = f"{place.url} answered {status} to GET /learned. {reason}".rstrip()
    raise click.ClickException(said + hints.get(status, ""))


def _fetched(place: LearnedPage, page: str) -> tuple[int, bytes]:
    parts = urlsplit(place.url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        headers = {} if place.key is None else {"authorization": f"Bearer {place.key}"}
        connection.request("GET", parts.path + page, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(PAGE_BYTES)
    finally:
        connection.close()


def _lessons(place: LearnedPage, page: str) -> list[dict[str, Any]]:
    try:
        lessons = json.loads(page)["rules"]
        if all(isinstance(row, dict) for row in lessons):
            return list(lessons)
    except (ValueError, LookupError, TypeError):
        pass
    raise click.ClickException(f"{place.url} answered something that is no list of lessons: is it a gatepass?")


def table(lessons: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """For people: one line for each lesson, and below it the sentence that it was learned from."""
    if not lessons:
        yield NOTHING
        return
    cells = [_HEAD, *(_cells(row) for row in lessons)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    for number, line in enumerate(cells):
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        if number and (evidence := _printable(" ".join(str(lessons[number - 1].get("evidence", "")).split()))):
            yield f"    {evidence}"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    texts = [
        f"{row.get('upstream')}/{row.get('model')}",
        *(row.get(name) for name in ("operation", "adapted", "state")),
    ]
    spans = [span(float(row.get(name) or 0)) for name in ("age_s", "expires_in_s")]
    if row.get("state") == "failed":
        spans[1] = f"retried in {spans[1]}"
    return tuple(_printable(str(text)) for text in (*texts, *spans, row.get("uses", 0)))


def span(seconds: float) -> str:
    """`90` is `1 min`: as much as a person wants to know."""
    return next((f"{seconds // size:.0f} {unit}" for size, unit in _UNITS if seconds >= size), f"{seconds:.0f} s")


def _printable(text: str) -> str:
    """What an upstream said moves no cursor."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "�" for sign in text)
