"""`gatepass doctor`: test every hop of the configuration, and report the one that fails, why, and what to do.

A step reports only what it has seen: a public model list does not prove that the upstream accepts the token.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from gatepass.cli.options import (
    AGENT_HOSTS,
    CALL_OPERATIONS,
    CHECK_FAILED,
    coloured,
    config_option,
    exit_unusable,
    find_key,
    json_option,
    load_or_exit,
    open_state,
    operation_of,
    print_json,
    printable,
    progress,
    reachable_host,
    summary,
)
from gatepass.clock import Clock
from gatepass.errors import CallerError, InvalidRequest, McpServerNotAllowed
from gatepass.types import MCP_UPSTREAM

if TYPE_CHECKING:
    from gatepass.cli.probe import ProbeCall
    from gatepass.cli.reach import Begin, Step, Steps
    from gatepass.config.access import AccessKey
    from gatepass.config.model import Config
    from gatepass.proxy.app_state import AppState, Upstream

NOTHING_PROVEN = 4
NOTHING = f"nothing failed, and nothing was proven: exit code {NOTHING_PROVEN}"
NO_CALL = f"--call: doctor has no call for {{operation}}, only for {', '.join(CALL_OPERATIONS)}"
NO_MODEL_OF_HOST = "--as requires a model, as in `gatepass doctor MODEL --as codex`."
NOT_WITH_MCP = "--mcp tests one MCP server of this configuration: leave out MODEL, --call, --as and --url."
NO_MODEL = "--call: no model is declared under `models`: name one, as in `gatepass doctor MODEL --call`"
COLOURS: Mapping[str, str] = {"ok": "green", "FAIL": "red", "????": "yellow"}


@click.command()
@click.argument("model", required=False)
@config_option
@click.option("--call", is_flag=True, help="Also send one small real call per operation. It may be billed.")
@click.option(
    "--key", "caller", metavar="NAME", help="With --call, --as or --mcp: the caller, as access.keys names it."
)
@click.option(
    "--operation",
    type=click.Choice(CALL_OPERATIONS),
    help="With --call: the operation. Default: as the model is declared, else by its name.",
)
@click.option(
    "--as",
    "agent_host",
    type=click.Choice(AGENT_HOSTS),
    help="Send the request of this program to MODEL, which may be billed. If it works, print what to set in it."
    " Without --call and --url.",
)
@click.option("--mcp", metavar="NAME", help="Test this MCP server alone, and print what to set in its clients.")
@click.option("--url", metavar="BASE_URL", help="Test a running gatepass from here, by its base URL and a key.")
@click.option("--key-stdin", is_flag=True, help="With --url: read the API key from standard input.")
@json_option
def doctor(
    model: str | None,
    path: str | None,
    url: str | None,
    caller: str | None,
    operation: str | None,
    agent_host: str | None,
    mcp: str | None,
    *,
    call: bool,
    key_stdin: bool,
    as_json: bool,
) -> None:
    """Test every hop (DNS, TCP, proxy, TLS, token and model list), and print the remedy for each one that fails.

    --as sends the request of Codex or Claude Code to the upstream, without the running gatepass. With --key, it first
    checks the request as one of this caller.

    An MCP server is asked for its revision, its tools, and the prompts that keys list; no tool is called.

    With MODEL, only the upstreams on the route of that model are tested. Without --call, no model is called and
    nothing is billed.

    --url tests a running gatepass as a client sees it. The API key comes from GATEPASS_KEY, from --key-stdin, or from
    a prompt.

    Exit codes: 0 nothing failed, 1 a step failed, 2 the configuration is not valid, 4 nothing was proven.
    """
    others = model is not None or call or agent_host is not None or url is not None
    if mcp is not None and others:
        raise click.UsageError(NOT_WITH_MCP)
    _check_options(model, caller, operation, agent_host, mcp, call=call)
    logging.getLogger("gatepass").addHandler(logging.NullHandler())  # keeps log lines out of the findings
    if url is not None:
        report = Report(as_json=as_json)
        for option, given in (("--key", caller), ("--config", path)):
            if given is not None:
                raise click.UsageError(f"{option} names an entry or a file of this machine: leave it out with --url.")
        if agent_host is not None:
            raise click.UsageError("--as sends the request with this configuration: leave it out with --url.")
        from gatepass.cli.reach import timed
        from gatepass.cli.remote import Asked, checked_url, diagnose_url

        base_url = checked_url(url)
        if base_url is None:
            exit_unusable(f"{url!r} is not the base URL of a gatepass: expects http://HOST:PORT/v1")
        key, asked = _remote_key(from_stdin=key_stdin), Asked(model, operation, call)
        asyncio.run(report.show(timed(diagnose_url(base_url, key, asked, report.begin))))
        sys.exit(report.finish())
    from gatepass.cli.reach import Step, StepOutcome
    from gatepass.config.environment import SOURCE

    loaded = load_or_exit(path)
    from gatepass.config.environment import with_variables

    # the GATEPASS_ variable follows each setting that it sets
    report, settings = Report(as_json=as_json, wording=with_variables if loaded.source == SOURCE else str), ""
    try:
        allowed = find_key(loaded.config, caller)
        calls = _calls(loaded.config, model, operation, allowed) if call else []
        if agent_host is not None and model is not None:
            calls, settings = _calls_of_host(loaded.config, agent_host, model, allowed)
            model = None  # its other operations are not tested
        if mcp is not None:
            settings = _settings_of_mcp(loaded.config, mcp, allowed)
        valid = f"{loaded.source} is valid: {summary(loaded.config)}"
        report.add(Step("gatepass", "configuration", StepOutcome.WORKS, valid, proves=False))
        if problem := _unknown_host(loaded.config.server.host):
            report.add(Step("gatepass", "listen", StepOutcome.FAILS, problem, "Correct server.host."))
        asyncio.run(report.show(diagnose(loaded.config, calls, model=model, mcp=mcp, begin=report.begin)))
        if not report.has_failed:
            report.settings = settings
        sys.exit(report.finish())
    except NoCall as error:
        exit_unusable(str(error))
    except CallerError as error:
        refused = {"status": error.status, "code": error.code, "message": error.message}
        if as_json:
            report.print_json(CHECK_FAILED, refused=refused)
        else:
            click.echo(f"refused: {error.status} {error.code}: {error.message}")
        sys.exit(CHECK_FAILED)


def _check_options(
    model: str | None, caller: str | None, operation: str | None, agent_host: str | None, mcp: str | None, *, call: bool
) -> None:
    """Raise UsageError for options that do not fit together."""
    for option, given in (("--key", caller), ("--operation", operation)):
        if given is not None and not (call or ((agent_host or mcp) and option == "--key")):
            raise click.UsageError(f"{option} requires --call{', --as or --mcp' if option == '--key' else ''}.")
    if agent_host is not None and (model is None or call):
        raise click.UsageError(NO_MODEL_OF_HOST if model is None else "--as sends its own call: leave out --call.")


class NoCall(Exception):
    """doctor has no real call for what was asked."""


def _calls(config: Config, model: str | None, operation: str | None, key: AccessKey | None) -> list[ProbeCall]:
    """Return the real calls: of `model`, or of the first declared model of each operation. Raises NoCall."""
    from gatepass.auth.model_access import check_model_access, check_operation_access
    from gatepass.cli.probe import ProbeCall
    from gatepass.operations.table import OPERATIONS

    if model is not None:
        chosen = {operation or operation_of(config, model): model}
        if (only := next(iter(chosen))) not in CALL_OPERATIONS:
            raise NoCall(NO_CALL.format(operation=only))
    else:
        chosen = {}
        for name in config.models:
            # a pattern is not a name that a request can have
            if not any(char in name for char in "*?["):
                # one call proves the operation, and each further one may be billed
                chosen.setdefault(operation_of(config, name), name)
        # doctor has no sample request for the others
        chosen = {found: name for found, name in chosen.items() if found in CALL_OPERATIONS}
        if not chosen:
            raise NoCall(NO_MODEL)
    calls = []
    for found, name in chosen.items():
        row = next(row for row in OPERATIONS if row.name == found)
        if key is not None:
            check_operation_access(key, row)
            check_model_access(key, name)
        profile = (key.profile if key is not None else None) or "plain"
        calls.append(ProbeCall(found, name, profile))
        if "stream" in row.members:
            calls.append(ProbeCall(found, name, profile, stream=True))
    return calls


def _calls_of_host(config: Config, agent_host: str, model: str, key: AccessKey | None) -> tuple[list[ProbeCall], str]:
    """Return the request of an agent host for `model`, and what its user sets."""
    from gatepass.auth.model_access import (
        check_body_access,
        check_model_access,
        check_operation_access,
        closed_objects,
    )
    from gatepass.cli.agent_hosts import AGENT_HOSTS, settings_of
    from gatepass.cli.probe import ProbeCall
    from gatepass.operations.table import OPERATIONS
    from gatepass.protocols import PROTOCOLS

    host, profile = AGENT_HOSTS[agent_host], (key.profile if key is not None else None) or "plain"
    if key is not None:
        row = next(row for row in OPERATIONS if row.name == host.operation)
        check_operation_access(key, row)
        check_model_access(key, model)
        body, protocol = host.call(model).body, PROTOCOLS[row.protocol]
        closed = closed_objects(key, shares_objects=config.access.shares_objects)
        items, free = protocol.has_items, protocol.free_members
        check_body_access(key, body, names_model=True, closed=closed, has_items=items, free=free)
    server = config.server
    settings = settings_of(host, f"http://{reachable_host(server.host)}:{server.port}{server.base_path}", model)
    return [ProbeCall(host.operation, model, profile, agent_host=host)], settings


def _settings_of_mcp(config: Config, name: str, key: AccessKey | None) -> str:
    """Return what the clients of the MCP server `name` set, and what `key` may use of it.

    Raises NoCall if there is none, and McpServerNotAllowed.
    """
    from gatepass.cli.mcp_probe import settings_of
    from gatepass.mcp.access import allowed_of, refusal_of

    if name not in config.mcp:
        known = f". There is: {', '.join(config.mcp)}" if config.mcp else ": `mcp` is not configured."
        raise NoCall(f"--mcp: there is no MCP server {name!r}{known}")
    server = config.server
    settings = settings_of(name, f"http://{reachable_host(server.host)}:{server.port}{server.base_path}")
    if key is None:
        return settings
    if (allowed := allowed_of(key, name)) is None:
        raise McpServerNotAllowed(f"The key of {key.name!r} may not use the MCP server {name!r}, {refusal_of(key)}.")
    lists = [("tools", allowed.tools), ("prompts", allowed.prompts), ("resources", allowed.resources)]
    uses = [f"  {kind}: {'all' if one is None else ', '.join(one) or 'none'}" for kind, one in lists]
    return "\n".join([settings, f"The key of {key.name} may use:", *uses, ""])


KEY = "GATEPASS_KEY"


def _remote_key(*, from_stdin: bool) -> str | None:
    """Return the API key for --url from standard input, the environment or a prompt; None for no key."""
    # no option holds the key, because every user of the machine can see the arguments of a process
    key = os.environ.get(KEY, "")
    if from_stdin:
        key = sys.stdin.readline()
    elif not key and sys.stdin.isatty():
        key = click.prompt("API key (empty for none)", default="", show_default=False, hide_input=True, err=True)
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        exit_unusable("the API key contains characters beyond ASCII or a line break")
    return key or None


class Report:
    """Prints each step when it ends, or one JSON document at the end, and the progress of a step on a terminal.

    `wording` changes the texts of each step.
    """

    def __init__(self, *, as_json: bool, wording: Callable[[str], str] = str) -> None:
        self._as_json = as_json
        self._wording = wording
        self.steps: list[Step] = []
        self.settings = ""
        """Printed at the end."""
        self._progress = ExitStack()

    def begin(self, hop: str, what: str) -> None:
        self._progress.close()
        self._progress.enter_context(progress(f"{hop} {what}"))

    def add(self, step: Step) -> None:
        why, advice = self._wording(step.why), self._wording(step.advice)
        step = replace(step, why=printable(why), advice=printable(advice))
        self._progress.close()
        self.steps.append(step)
        if self._as_json:
            return
        line = line_of(step)
        if colour := COLOURS.get(step.outcome.value):
            line = coloured(step.outcome.value, colour) + line.removeprefix(step.outcome.value)
        click.echo(line)

    async def show(self, steps: Steps, is_shown: Callable[[Step], bool] = lambda _: True) -> None:
        # closed at once, also after an exception, because the generator owns connections
        with self._progress:
            async with aclosing(steps):
                async for step in steps:
                    if is_shown(step):
                        self.add(step)

    @property
    def has_failed(self) -> bool:
        return any(step.failed for step in self.steps)

    def finish(self) -> int:
        """Print the result and return the exit code."""
        from gatepass.cli.reach import StepOutcome

        is_proven = any(step.outcome is StepOutcome.WORKS and step.proves for step in self.steps)
        # a script must not take a run that proved nothing for a success
        code = CHECK_FAILED if self.has_failed else 0 if is_proven else NOTHING_PROVEN
        if self._as_json:
            self.print_json(code, **({"settings": self.settings} if self.settings else {}))
            return code
        if code == NOTHING_PROVEN:
            click.echo(NOTHING, err=True)
        if self.settings:
            click.echo(f"\n{self.settings}", nl=False)
        return code

    def print_json(self, code: int, **more: object) -> None:
        failed = [f"{step.hop} {step.what}" for step in self.steps if step.failed]
        document = {"exit_code": code, "failed": failed, **more, "steps": [described(step) for step in self.steps]}
        print_json(document)


def described(step: Step) -> dict[str, object]:
    fields = asdict(step) | {"outcome": step.outcome.name.lower(), "seconds": round(step.seconds, 3)}
    return {name: value for name, value in fields.items() if name not in ("proves", "base_url")}


def line_of(step: Step) -> str:
    from gatepass.dialects.hints import sentence

    text = f"{sentence(step.why)} {step.advice}" if step.advice else step.why
    # a shorter time would be shown as 0.00 s
    took = f" ({step.seconds:.2f} s)" if step.seconds >= 0.005 else ""
    return f"{step.outcome:<4} {step.hop} {step.what}: {text}{took}"


def _unknown_host(host: str) -> str | None:
    """Return why gatepass cannot listen on `host`; None if it has an address, which may be one of another machine."""
    try:
        socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return f"{host!r} has no address to listen on: {error.strerror}"
    return None


def diagnose(
    config: Config,
    calls: Sequence[ProbeCall] = (),
    clock: Clock | None = None,
    *,
    model: str | None = None,
    mcp: str | None = None,
    begin: Begin = lambda *_: None,
) -> Steps:
    """Test the store, the credentials, the upstreams and the MCP servers, and yield each step when it ends.

    The token step of a credential is skipped if its network steps failed, or if only a running gatepass may use its
    refresh token. The model list of an upstream is skipped if its credential has no token. With `model` or `calls`
    only the upstreams of their routes are tested, and the store is not; with `mcp` only that MCP server. Raises
    ModelNotFound if a model has no route.
    """
    from gatepass.cli.reach import timed

    return timed(_diagnose(config, calls, clock, model, mcp, begin), clock)


async def _diagnose(
    config: Config, calls: Sequence[ProbeCall], clock: Clock | None, model: str | None, mcp: str | None, begin: Begin
) -> Steps:
    from gatepass.cli.probe import check_store
    from gatepass.cli.reach import StepOutcome
    from gatepass.config.credential.kinds import chain_of

    async with open_state(config, clock) as state:
        tested = _tested(state, calls, model) if mcp is None else {MCP_UPSTREAM + mcp: {}}
        without, is_whole = dict[str | None, str](), model is None and mcp is None and not calls
        if config.store is not None and is_whole:
            begin("store", "store")
            yield await check_store(state, config.store)
        used = {state.upstreams[name].settings.credential for name in tested}
        # credentials first: an upstream without a token cannot be tested, nor a credential that presents it
        chains = [chain_of(name, config.credentials) for name in state.holders if is_whole or name in used]
        for name in dict.fromkeys(name for chain in chains for name in reversed(chain)):
            async for step in _test_credential(state, name, begin, without):
                if step.what == "token" or step.failed:
                    results = {StepOutcome.FAILS: "failed", StepOutcome.SKIPPED: "was not tried"}
                    without[name] = results.get(step.outcome, "")
                yield step
        for name, wanted in tested.items():
            reason = without.get(state.upstreams[name].settings.credential)
            async for step in _test_upstream(state, state.upstreams[name], (calls, wanted), begin, reason):
                yield step


async def diagnose_for_page(
    config: Config, model: str | None, call: bool, begin: Begin
) -> AsyncGenerator[dict[str, object], None]:
    """Yield the steps of `diagnose` as JSON, for the page at /ui. With `call` also send real calls.

    Raises InvalidRequest if there is no call, and ModelNotFound.
    """
    try:
        calls = _calls(config, model, None, None) if call else []
    except NoCall as error:
        raise InvalidRequest(str(error).replace("--call: ", "")) from None
    async with aclosing(diagnose(config, calls, model=model, begin=begin)) as steps:
        async for step in steps:
            yield described(replace(step, why=printable(step.why), advice=printable(step.advice)))


def _tested(state: AppState, calls: Sequence[ProbeCall], model: str | None) -> dict[str, dict[str, None]]:
    """Return the upstreams on the routes of `calls` and `model`, or all, each with its names of these models."""
    asked = [(call.operation, call.model) for call in calls]
    if model is not None and not asked:
        asked.append((operation_of(state.config, model), model))
    tested: dict[str, dict[str, None]] = {name: {} for name in state.upstreams}
    for operation, name in asked:
        for target in state.routes.resolve(operation, name):
            tested[target.upstream][target.model or name] = None
    return {name: wanted for name, wanted in tested.items() if wanted or not asked}


async def _test_credential(
    state: AppState, name: str, begin: Begin, without: Mapping[str | None, str]
) -> AsyncIterator[Step]:
    """Yield the steps of a credential. `without` has why the credentials before it have no token."""
    from gatepass.cli.probe import check_token
    from gatepass.cli.reach import Step, StepOutcome, issuer_server, reach
    from gatepass.config.checks import has_unshared_refresh_token
    from gatepass.config.credential.kinds import chain_of

    if not has_unshared_refresh_token(state.config, name):  # a fetch would end the login of the running gatepass
        if (server := issuer_server(name, state.config.credentials[name])) is not None:
            async for step in reach(server, state.clock, begin):
                yield step
                if step.failed:
                    return
        _, *presented = chain_of(name, state.config.credentials)
        if presented and (reason := without.get(presented[0])):
            why = f"its subject_credential {presented[0]} {reason}"
            yield Step(f"credential:{name}", "token", StepOutcome.SKIPPED, why)
            return
        state.start_holder(name)
    begin(f"credential:{name}", "token")
    yield await check_token(state, name, state.holders[name])


async def _test_upstream(
    state: AppState,
    upstream: Upstream,
    asked: tuple[Sequence[ProbeCall], Collection[str]],
    begin: Begin,
    without: str | None,
) -> AsyncIterator[Step]:
    """Yield the steps of an upstream: its network, its model list and the real calls.

    `asked` has the calls, and the wanted names of its model list. `without` is why its credential has no token.
    """
    from gatepass.cli.probe import check_call, check_models, hop_of, probes_of
    from gatepass.cli.reach import Step, StepOutcome, reach, upstream_server

    async for step in reach(upstream_server(upstream.name, upstream.settings), state.clock, begin):
        yield step
        if step.failed:
            return
    is_mcp = upstream.name.startswith(MCP_UPSTREAM)
    if without:
        yield Step(hop_of(upstream), "mcp" if is_mcp else "models", StepOutcome.SKIPPED, f"its credential {without}")
        return
    if is_mcp:
        from gatepass.cli.mcp_probe import check_mcp

        async for step in check_mcp(state, upstream, begin):
            yield step
        return
    calls, wanted = asked
    probes = [probe for call in calls for probe in probes_of(state, upstream, call)]
    begin(hop_of(upstream), "models")
    step = await check_models(state, upstream, wanted)
    if probes and step.outcome in (StepOutcome.FAILS, StepOutcome.UNPROVEN):
        # some upstreams have no model list, or a broken one: then the calls decide whether they work
        advice = step.advice if step.failed else "The calls decide."
        step = replace(step, outcome=StepOutcome.UNPROVEN, advice=advice)
    yield step
    for target_probe in probes:
        begin(hop_of(upstream), "call")
        yield await check_call(state, upstream, target_probe)
