"""The commands for the running gatepass: `reload`, `status`, `limits` and `learned`.

They use its control socket, which needs no key.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import wraps
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any, TypeVar

import click
import msgspec
from msgspec import structs

from gatepass.cli.healthcheck import listening, variable
from gatepass.cli.options import CHECK_FAILED, CONFIG_HELP, UNUSABLE, json_option, print_json, printable, progress
from gatepass.config.references import own_variables
from gatepass.documents import (
    Failure,
    LearnedRule,
    LearnedRules,
    Limits,
    McpStatus,
    ModelUpstream,
    ReloadResult,
    Status,
    Stories,
    UpstreamStatus,
)
from gatepass.types import MCP_UPSTREAM, counted, span

BOUND_S = 60.0
# far above any page: it only bounds the memory if the socket belongs to another program
PAGE_BYTES = 64 * 1024 * 1024

Command = TypeVar("Command", bound=Callable[..., Any])
Document = TypeVar("Document")


class UnixConnection(HTTPConnection):
    """A connection to the control socket `path`. `timeout_s` applies to each read."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class NotRunning(click.ClickException):
    """No running gatepass was found. The message contains the remedy. The exit code is 1."""


def socket_option(command: Command) -> Command:
    text = (
        "Control socket of the running gatepass. Default: GATEPASS_CONTROL_SOCKET, else the only one of this user, else"
        " the one on the port of the configuration."
    )
    return click.option("--socket", "socket_path", type=click.Path(), help=text)(command)


def control_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--socket` and `--config`, each of which names the running gatepass; `command` receives `socket_path`."""

    @wraps(command)
    def run(*arguments: Any, config_path: str | None, socket_path: str | None, **options: Any) -> None:
        if config_path is not None and socket_path is not None:
            raise click.UsageError("--config and --socket each name one gatepass: leave one of them out.")
        path = socket_path if config_path is None else found_socket(config_path)
        command(*arguments, socket_path=path, **options)

    return click.option("--config", "config_path", metavar="FILE", help=CONFIG_HELP)(socket_option(run))


def ask(document: type[Document], method: str, target: str, socket_path: str | None = None) -> Document:
    """Return the document of an admin route; raise as `request`, or ClickException for one of another version."""
    return read(document, request(method, target, socket_path))


def read(document: type[Document], page: bytes) -> Document:
    try:
        return msgspec.json.decode(page, type=document)
    except msgspec.ValidationError as error:
        raise click.ClickException(f"the running gatepass has another version: {error}") from None


def request(method: str, target: str, socket_path: str | None = None, body: bytes = b"") -> bytes:
    """Send a request to the running gatepass and return the body of its reply; raise NotRunning or ClickException.

    `target` is a page, such as `/status`, or `/reload` with POST. `body` is JSON. A long wait is shown on a terminal.
    """
    path = socket_path or found_socket()
    connection = UnixConnection(path, BOUND_S)  # a reload sends nothing until it has ended
    try:
        with progress(f"the gatepass at {path}"):
            connection.request(method, target, body or None)
            response = connection.getresponse()
            page = response.read(PAGE_BYTES)
    # before OSError, which is its base class
    except TimeoutError:
        raise click.ClickException(f"the gatepass at {path} did not answer within {BOUND_S:g} s") from None
    except OSError as error:
        reason = error.strerror or "the connection closed"
        raise NotRunning(f"no gatepass answers at {path}: {reason}. Start one with `gatepass serve`") from None
    except HTTPException:
        raise NotRunning(f"the process at {path} is not a gatepass") from None
    finally:
        connection.close()
    # a refused reload is a 409 with its problems in the body
    if response.status not in (HTTPStatus.OK, HTTPStatus.CONFLICT):
        message = ""
        with suppress(ValueError, LookupError, TypeError):
            message = str(json.loads(page)["error"]["message"])
        raise click.ClickException(message or f"the gatepass at {path} answered {response.status}")
    return page


def found_socket(path: str | None = None) -> str:
    """Return the socket of the gatepass that runs with the configuration `path`; raise NotRunning or UsageError.

    Without `path` it is that of GATEPASS_CONTROL_SOCKET, or of the running gatepass of this user. If several run, it is
    the one on the port of GATEPASS_PORT, or of the file that `gatepass serve` would read here.
    """
    from gatepass.config.document import ConfigError
    from gatepass.config.file import configuration_file
    from gatepass.config.references import resolve
    from gatepass.server.listening import AUTO, OFF, control_sockets

    # `off` is for the gatepass that starts here; a command may be for another one of this user
    unnamed = (None, AUTO, OFF)
    named = own_variables(os.environ).get("CONTROL_SOCKET")
    if path is None and named not in unnamed:
        return str(named)
    found, port, problem = control_sockets(os.environ), variable("PORT"), ""
    try:
        if (file := path or configuration_file(None, own_variables(os.environ))) is not None:
            _, own_port, _, own = listening(file)
            own = resolve(own, os.environ) if isinstance(own, str) else None
            if own not in unnamed:
                return str(own)
            port = port or str(own_port)
    except (ConfigError, ValueError) as error:  # the file names neither a socket nor a port
        if path is not None:
            raise click.UsageError(f"--config: {error}") from None
        problem = f"{error}\n"
    if path is None and len(found) == 1:
        if problem:
            click.echo(f"{problem}The only running gatepass answers, which may use another file: {found[0]}", err=True)
        return str(found[0])
    if (own := next((one for one in found if one.stem == port), None)) is not None:
        return str(own)
    if path is not None:
        raise NotRunning(f"no gatepass of this user runs on the port {port} of {path}. Start one with `gatepass serve`")
    if not found:
        raise NotRunning(
            f"{problem}no running gatepass of this user was found. Start one with `gatepass serve`, or name its control"
            " socket with --socket"
        )
    raise NotRunning(
        f"{problem}several gatepass are running. Choose one with --socket, or with the --config of its port:"
        f" {', '.join(map(str, found))}"
    )


@click.command()
@control_option
@json_option
def reload(socket_path: str | None, *, as_json: bool) -> None:
    """Reload the configuration of the running gatepass.

    gatepass validates the whole configuration first. If it cannot be used, the old one continues.

    Exit codes: 0 reloaded or unchanged, 1 gatepass did not answer, 2 the configuration cannot be used.
    """
    result = ask(ReloadResult, "POST", "/reload", socket_path)
    if as_json:
        print_json(result)
    else:
        for line in reload_lines(result):
            click.echo(line, err=result.outcome == "refused")
    if result.outcome == "refused":
        sys.exit(UNUSABLE)


def reload_lines(result: ReloadResult) -> Iterator[str]:
    if result.outcome == "refused":
        yield from result.problems
        yield "The configuration was not reloaded: the old one continues."
    elif result.outcome == "reloaded":
        yield "Reloaded. Changed:"
        yield from (f"  {name}" for name in result.changed)
        if any(name.startswith("credentials.") for name in result.changed):
            yield "`gatepass status` shows whether the new tokens were fetched."
    else:
        yield "Nothing that a reload applies has changed."
    if result.retried:
        yield f"Fetching new tokens: {', '.join(result.retried)}. `gatepass status` shows the result."
    if result.needs_restart:
        yield f"These settings need a restart: {', '.join(result.needs_restart)}"
    yield from (f"warning: {printable(warning)}" for warning in result.warnings)


_RESTART = ". A new secret requires a restart, because it is in an environment variable"
_HEALTH = {"ok": "healthy", "failing": "failing", "unknown": "no answer yet", "answering": "answering"}
"""As the page has it."""


@click.command()
@control_option
@json_option
def status(socket_path: str | None, *, as_json: bool) -> None:
    """Show the running gatepass: whether it is ready, its requests in progress, its tokens, upstreams and MCP
    servers.

    Exit codes: 0 it is ready, 1 it is not, or gatepass did not answer.
    """
    page = ask(Status, "GET", "/status", socket_path)
    if as_json:
        print_json(page)
    else:
        path = socket_path or found_socket()
        url = ask(Stories, "GET", "/requests/-", path).url
        click.echo(printable(f"gatepass at {url} (control socket {path})") + "\n")
        for line in status_lines(page):
            click.echo(line)
    if not page.ready:
        sys.exit(CHECK_FAILED)


def status_lines(page: Status) -> Iterator[str]:
    ready = "draining" if page.draining else "yes" if page.ready else "no"
    yield from aligned([("READY", "IN FLIGHT"), (ready, str(page.in_flight))])
    # a line only if there is something to do
    if (store := page.store) is not None and store.state != "up":
        yield f"store {store.state}: {printable(store.reason)}"
    for problem in page.reload_problems:
        yield f"configuration not reloaded: {printable(problem)}"
    yield from _credential_lines(page)
    for keys in page.jwt or ():
        if (why := keys.fault or keys.unusable) or not keys.keys:
            held = "no keys" if keys.age_s is None else f"{counted(keys.keys, 'key')}, fetched {span(keys.age_s)} ago"
            why = why or "not fetched yet"
            yield printable(f"issuer {keys.issuer}: {held}: {why.rstrip('.')}. `gatepass doctor` tests it.")
    if page.upstreams:
        rows = [_upstream(page, *row) for row in page.upstreams.items()]
        yield from ("", *aligned([("UPSTREAM", "HEALTH", "ERRORS IN 15 MIN", "FIND THE CAUSE"), *rows]))
    for model, one in ((model, one) for model, ones in (page.targets or {}).items() for one in ones):
        if one.state != "available":
            state = one.state.replace("_", " ") + (f", {span(one.for_s)} left" if one.for_s else "")
            yield printable(f"target {one.upstream}/{one.model} of {model}: {state}, {one.in_flight} in flight")
    if page.mcp:
        yield from _mcp_lines(page, page.mcp)


def _credential_lines(page: Status) -> Iterator[str]:
    table, faults = [("CREDENTIAL", "TYPE", "TOKEN", "EXPIRES IN", "FETCHES", "FAILURES")], dict[str, list[str]]()
    for credential, held in page.credentials.items():
        # the token may still be valid, but without a successful fetch it will not be for long
        token = held.state + ", failing" * held.failing + ", rejected" * bool(held.rejected_by)
        left = "-" if held.expires_in_s is None else f"{held.expires_in_s:.0f} s"
        # another process has fetched it
        is_read = page.store is not None and not held.fetches and held.expires_in_s is not None
        fetches = "from the store" if is_read else str(held.fetches)
        table.append((credential, held.type, token, left, fetches, str(held.failures)))
        if held.failing:
            reason = printable(held.last_error) + _RESTART * held.needs_restart
            faults.setdefault(reason, []).append(credential)
        for upstream, age_s in held.rejected_by.items():
            failed = page.upstreams[upstream].last_failed if upstream in page.upstreams else None
            code = f" with {printable(failed.code)}" if failed else ""  # `upstream_html` is a login page
            reason = f"the upstream {upstream} rejected the token {age_s:.0f} s ago{code}"
            faults.setdefault(reason, []).append(credential)
    if page.credentials:
        yield from ("", *aligned(table))
    yield from (f"{', '.join(ones)}: {reason}" for reason, ones in faults.items())


def _mcp_lines(page: Status, mcp: McpStatus) -> Iterator[str]:
    table = [("MCP SERVER", "HOST", "CREDENTIAL", "TOKEN", "SESSIONS", "HEALTH")]
    for name, held in mcp.servers.items():
        usable = "-" if held.credential is None else "yes" if held.usable else "no"
        if held.credential is not None and f"{MCP_UPSTREAM}{name}" in page.credentials[held.credential].rejected_by:
            usable = "rejected"
        table.append((name, held.host, held.credential or "-", usable, str(held.sessions), _health(held)))
    yield from ("", *aligned(table))
    for name, server in mcp.servers.items():
        if command := "gatepass doctor" if server.health == "failing" else _show(server):
            yield f"MCP server {name}: `{command}` names the cause."
    if streams := mcp.streams:
        yield f"{streams} stream{'s'[: streams != 1]} of MCP clients that wait for events"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _upstream(page: Status, upstream: str, held: ModelUpstream) -> tuple[str, ...]:
    requests, silent, failed = held.requests, held.silent, held.last_failed
    health = _health(held, f" for {span(failed.for_s)}" if held.health == "failing" and failed else "")
    if silent:
        health += f", {len(silent)} stream{'s'[: len(silent) != 1]} silent for {span(max(silent.values()))}"
    if held.over_chat:
        health += f"; {' and '.join(held.over_chat)} are served by chats"
    recent = held.requests_15m
    errors = f"{(held.errors_15m + held.rejected_15m) / recent:.1%} of {recent}" if recent else "-"  # as on the page
    command = f"gatepass show {shlex.quote(max(silent, key=silent.__getitem__))}" if silent else _show(held) or "-"
    if held.health == "unknown" and requests:  # each was refused, as by a limit or a wrong request
        health = health.replace(_HEALTH["unknown"], "no good answer yet")
    if held.health == "failing" or (requests and held.health == "unknown"):
        command = (failed and failed.test) or "gatepass doctor"
    for credential, token in page.credentials.items():
        if token.failing and token.state not in ("fresh", "stale") and upstream in token.upstreams:
            health, command = f"no token, its credential fails: {credential}", "gatepass doctor"
    return upstream, health, errors, printable(command)


def _health(held: UpstreamStatus, lasting: str = "") -> str:
    """Return the health of an upstream with its last error. `lasting` is the time for which it fails."""
    many = _many_errors(held)
    health = "many errors" if many else _HEALTH[held.health] + lasting
    failed = many or held.last_failed
    return health if failed is None else f"{health}, {printable(failed.code)} {span(failed.age_s)} ago"


def _many_errors(held: UpstreamStatus) -> Failure | None:
    """Return the last error of an upstream that works, with many errors in 15 minutes, as the page has it."""
    return held.last_error if held.health == "ok" and held.many_errors else None


def _show(held: UpstreamStatus) -> str:
    """Return the command that shows the last request that failed at an upstream with many errors; "" for others."""
    failed = _many_errors(held)
    return "" if failed is None else f"gatepass show {printable(shlex.quote(failed.id))}"


@click.command()
@control_option
@json_option
def limits(socket_path: str | None, *, as_json: bool) -> None:
    """List the limits of use of the running gatepass, with the used and the free part of each.

    `end_user/NAME` is what the requests without an end user share, and `jwt/NAME` the most used one of the callers
    with a token.

    Exit codes: 0 listed, 1 gatepass did not answer.
    """
    rows = ask(Limits, "GET", "/limits", socket_path).limits
    if as_json:
        print_json(rows)
    elif not rows:
        click.echo("No limits are configured.")
    else:
        table = [[printable(value) for value in structs.astuple(row)] for row in rows]
        click.echo("\n".join(aligned([("OF", "LIMIT", "MOST", "USED", "LEFT"), *table])))


_NAMES = 5
"""Limit on the callers of one rule that the text lists."""


@click.command()
@control_option
@click.option("--forget", metavar="UPSTREAM/MODEL", help="Forget the rules of this model, as the list names it.")
@json_option
def learned(socket_path: str | None, *, forget: str | None, as_json: bool) -> None:
    """List what the running gatepass has learned from the errors of its upstreams.

    Each rule has the setting in the model's entry under `models` that makes it permanent, if there is one. A
    setting applies to all callers and to all values.

    Exit codes: 0 listed or forgotten, 1 gatepass did not answer, or the model has no rule.
    """
    rules = ask(LearnedRules, "GET", "/learned", socket_path).rules
    if forget is not None:
        rules = [row for row in rules if f"{row.upstream}/{row.model}" == forget]
        if not rules:
            raise click.ClickException(f"no rule of {printable(forget)} is known: see `gatepass learned`")
        for row in rules:
            request("POST", "/learned/forget", socket_path, msgspec.json.encode(row))
    if as_json:
        print_json(rules)
    else:
        click.echo("\n".join(rule_lines(rules)))
        if forget is not None:
            click.echo("These rules are forgotten.")


def rule_lines(rules: Sequence[LearnedRule]) -> Iterator[str]:
    if not rules:
        yield "Nothing has been learned."
        return
    table: list[tuple[str, ...]] = [("MODEL", "OPERATION", "ADAPTED", "CALLERS", "AGE", "LEFT", "USES")]
    for row in rules:
        callers = row.callers[0] if len(row.callers) == 1 else counted(len(row.callers), "caller")
        times = span(row.age_s), span(row.expires_in_s)
        cells = f"{row.upstream}/{row.model}", row.operation, row.adapted, callers, *times, row.uses
        table.append(tuple(map(printable, cells)))
    head, *lines = aligned(table)
    yield head
    for line, row in zip(lines, rules, strict=True):
        yield line
        yield from (f"    {printable(' '.join(fact.split()))}" for fact in _facts_of(row) if fact)


def _facts_of(row: LearnedRule) -> Iterator[str]:
    if len(row.callers) > 1:
        yield f"callers: {_listed(row.callers[:_NAMES], len(row.callers) - _NAMES)}"
    if beside := row.beside:
        yield "only in requests " + (f"without the betas {beside[1:]}" if beside[0] == "!" else f"with {beside}")
    if count := len(row.values) + row.hidden_values:
        named = f"value{'s' * (count > 1)} {_listed(row.values, row.hidden_values)}"
        sent = "value that was sent" if count == 1 else f"{count} values that were sent"
        yield f"only for the {named if row.values else sent}"
    yield row.evidence
    if row.setting:
        yield f"in the model's entry: {row.setting}"


def _listed(names: Sequence[str], more: int) -> str:
    return ", ".join(names) + f" and {more} more" * (more > 0)
