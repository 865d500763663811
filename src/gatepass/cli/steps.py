"""What `gatepass doctor` tests: which hops in which order, and which real calls."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from gatepass.auth.model_access import check_body_access, check_model_access, check_operation_access
from gatepass.cli import agent_hosts, control, mcp_probe, options, probe, reach
from gatepass.cli.probe import ProbeCall
from gatepass.cli.reach import Begin, Step, StepOutcome, Steps
from gatepass.clock import Clock
from gatepass.config.access import AccessKey
from gatepass.config.document import lookup
from gatepass.config.load import LoadedConfig
from gatepass.config.model import Config
from gatepass.errors import InvalidRequest, McpServerNotAllowed
from gatepass.mcp.access import callable_tools, may_use, refusal_of
from gatepass.operations.table import OPERATIONS
from gatepass.protocols import PROTOCOLS
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.types import MCP_UPSTREAM

if TYPE_CHECKING:
    from gatepass.server.ui.routes import DoctorTask

NO_CALL = f"--call: doctor has no call for {{operation}}, only for {', '.join(options.CALL_OPERATIONS)}"
GUESSED = "Add --operation rerank if it is a reranker."
"""The advice for an embedding model that only its name suggests."""
RELOAD = "If its configuration has changed, run `gatepass reload`."
NO_MODEL = "--call: no model is declared under `models`: name one, as in `gatepass doctor MODEL --call`"


class NoCall(Exception):
    """doctor has no real call for what was asked."""


def calls_of(config: Config, model: str | None, operation: str | None, key: AccessKey | None) -> list[ProbeCall]:
    """Return the real calls: of `model`, or of the first declared model of each operation. Raises NoCall."""
    advice = ""
    if model is not None:
        chosen = {operation or options.operation_of(config, model): model}
        if (only := next(iter(chosen))) not in options.CALL_OPERATIONS:
            raise NoCall(NO_CALL.format(operation=only))
        if only == "embeddings" and operation is None and options.declared_operation(config, model) is None:
            advice = GUESSED
    else:
        chosen = {}
        for name in config.models:
            # a pattern is not a name that a request can have
            if not any(char in name for char in "*?["):
                # one call proves the operation, and each further one may be billed
                chosen.setdefault(options.operation_of(config, name), name)
        # doctor has no sample request for the others
        chosen = {found: name for found, name in chosen.items() if found in options.CALL_OPERATIONS}
        if not chosen:
            raise NoCall(NO_MODEL)
    calls = []
    for found, name in chosen.items():
        row = next(row for row in OPERATIONS if row.name == found)
        if key is not None:
            check_operation_access(key, row)
            check_model_access(key, name)
        calls.append(ProbeCall(found, name, _profile(key), advice=advice))
        if "stream" in row.members:
            calls.append(ProbeCall(found, name, _profile(key), stream=True))
    return calls


def calls_of_host(config: Config, agent_host: str, model: str, key: AccessKey | None) -> tuple[list[ProbeCall], str]:
    """Return the request of an agent host for `model`, and what its user sets."""
    host = agent_hosts.AGENT_HOSTS[agent_host]
    if key is not None:
        row = next(row for row in OPERATIONS if row.name == host.operation)
        check_operation_access(key, row)
        check_model_access(key, model)
        check_body_access(key, host.call(model).body, names_model=True)
    settings = agent_hosts.settings_of(host, _own_url(config), model)
    return [ProbeCall(host.operation, model, _profile(key), agent_host=host)], settings


def settings_of_mcp(config: Config, name: str, key: AccessKey | None) -> str:
    """Return what the clients of the MCP server `name` set, and what `key` may use of it.

    Raises NoCall if there is none, and McpServerNotAllowed.
    """
    if name not in config.mcp:
        known = f". There is: {', '.join(config.mcp)}" if config.mcp else ": `mcp` is not configured."
        raise NoCall(f"--mcp: there is no MCP server {name!r}{known}")
    settings = mcp_probe.settings_of(name, _own_url(config))
    if key is None:
        return settings
    if not may_use(key, name):
        raise McpServerNotAllowed(f"The key of {key.name!r} may not use the MCP server {name!r}, {refusal_of(key)}.")
    tools = callable_tools(key, name)
    shown = "all tools" if tools is None else ", ".join(tools) or "no tool"
    return f"{settings}\nThe key of {key.name} may call: {shown}\n"


def _profile(key: AccessKey | None) -> str:
    return (None if key is None else key.profile) or "plain"


def _own_url(config: Config) -> str:
    return f"http://{options.reachable_host(config.server.host)}:{config.server.port}{config.server.base_path}"


async def diagnose(
    config: Config,
    calls: Sequence[ProbeCall] = (),
    clock: Clock | None = None,
    *,
    model: str | None = None,
    mcp: str | None = None,
    begin: Begin = lambda *_: None,
) -> Steps:
    """Test the store, the credentials, the upstreams and the MCP servers, and yield each step when it ends.

    The token step of a credential is skipped if its network steps failed. The model list of an upstream is skipped if
    its credential has no token. With `model` or `calls` only the upstreams of their routes are tested, and the store is
    not. Without a chosen model `calls` leave the MCP servers in, and `mcp` tests one of them alone. Raises
    ModelNotFound if a model has no route.
    """
    async with options.open_state(config, clock) as state:
        tested = _tested(state, calls, model) if mcp is None else {MCP_UPSTREAM + mcp: {}}
        failed, is_whole = set[str | None](), model is None and mcp is None and not calls
        if config.store is not None and is_whole:
            begin("store", "store")
            yield await probe.check_store(state, config.store)
        used = {state.upstreams[name].settings.credential for name in tested}
        # credentials first: an upstream without a token cannot be tested
        for name in (name for name in state.holders if is_whole or name in used):
            async for step in _test_credential(state, name, begin):
                yield step
                if step.failed:
                    failed.add(name)
        for name, wanted in tested.items():
            upstream = state.upstreams[name]
            has_token = upstream.settings.credential not in failed
            async for step in _test_upstream(state, upstream, (calls, wanted), begin, has_token=has_token):
                yield step


def steps_of_running(loaded: LoadedConfig, steps: Sequence[Step]) -> Iterator[Step]:
    """Yield a failed step for each credential of `steps` without a token in the gatepass that runs with `loaded`."""
    tested, held = {step.hop for step in steps if step.what == "token" and not step.failed}, dict[str, Any]()
    with suppress(click.ClickException, ValueError):
        path = None if loaded.source == "environment" else control.socket_of(loaded.source)
        held = json.loads(control.request("GET", "/status", path))["credentials"]
    for name, one in held.items():
        is_lost = one["state"] in ("none", "expired") and (one["failing"] or one["rejected_by"])
        if is_lost and (hop := f"credential:{name}") in tested:
            reason = one["last_error"] if one["failing"] else f"{' and '.join(one['rejected_by'])} rejected it"
            names = re.findall(r"\$\{(\w+)\}", repr(lookup(loaded.document.tree, ("credentials", name))))
            advice = f"It was started with another value of {' or '.join(names)}? Restart it." if names else RELOAD
            yield Step(hop, "running", StepOutcome.FAILS, f"the running gatepass has no token: {reason}", advice)


async def diagnose_for_page(config: Config, task: DoctorTask, begin: Begin) -> AsyncGenerator[dict[str, object], None]:
    """Yield the steps of `diagnose` as JSON, for the page at /ui.

    Raises InvalidRequest if there is no call, and ModelNotFound.
    """
    if task.operation not in (None, *options.CALL_OPERATIONS):
        raise InvalidRequest(NO_CALL.format(operation=task.operation).replace("--call: ", ""))
    try:
        calls = calls_of(config, task.model, task.operation, None) if task.call else []
        if task.mcp is not None:
            settings_of_mcp(config, task.mcp, None)
    except NoCall as error:
        raise InvalidRequest(str(error).partition(": ")[2]) from None
    async with aclosing(reach.timed(diagnose(config, calls, model=task.model, mcp=task.mcp, begin=begin))) as steps:
        async for step in steps:
            shown = replace(step, why=options.printable(step.why), advice=options.printable(step.advice)).described()
            yield {**shown, "action": step.action, "model": step.model}


def _tested(state: AppState, calls: Sequence[ProbeCall], model: str | None) -> dict[str, dict[str, None]]:
    """Return the upstreams on the routes of `calls` and `model`, or all, each with its names of these models."""
    asked = [(call.operation, call.model) for call in calls]
    if model is not None and not asked:
        asked.append((options.operation_of(state.config, model), model))
    tested: dict[str, dict[str, None]] = {name: {} for name in state.upstreams}
    for operation, name in asked:
        for target in state.routes.resolve(operation, name):
            tested[target.upstream][target.model or name] = None
    # calls that nobody chose are of the whole configuration
    has_mcp = model is None and all(call.agent_host is None for call in calls)
    return {
        name: wanted
        for name, wanted in tested.items()
        if wanted or not asked or (has_mcp and name.startswith(MCP_UPSTREAM))
    }


async def _test_credential(state: AppState, name: str, begin: Begin) -> AsyncIterator[Step]:
    server = reach.issuer_server(name, state.config.credentials[name])
    if server is not None:
        yield (step := await reach.reach(server, state.clock, begin))
        if step.failed:
            return
    holder = state.holders[name]
    holder.start()
    begin(f"credential:{name}", "token")
    step = await probe.check_token(state, name, holder)
    found = None if server is None else await reach.at_tls_port(server, step)
    yield found or step


async def _test_upstream(
    state: AppState,
    upstream: Upstream,
    asked: tuple[Sequence[ProbeCall], Collection[str]],
    begin: Begin,
    *,
    has_token: bool,
) -> AsyncIterator[Step]:
    """Yield the steps of an upstream: its network, its model list and the real calls.

    `asked` has the calls, and the wanted names of its model list.
    """
    server, hop = reach.upstream_server(upstream.name, upstream.settings), probe.hop_of(upstream)
    yield (step := await reach.reach(server, state.clock, begin))
    if step.failed:
        return
    is_mcp = upstream.name.startswith(MCP_UPSTREAM)
    if not has_token:
        yield Step(hop, "mcp" if is_mcp else "models", StepOutcome.SKIPPED, "its credential failed")
        return
    if is_mcp:
        async for step in mcp_probe.check_mcp(state, upstream, begin):
            if (found := await reach.at_tls_port(server, step)) is not None:
                yield found
                return
            yield step
        return
    calls, wanted = asked
    probes = [sent for call in calls for sent in probe.probes_of(state, upstream, call)]
    begin(hop, "models")
    step = listed = await probe.check_models(state, upstream, wanted, is_called=bool(probes))
    if (found := await reach.at_tls_port(server, step)) is not None:
        yield found
        return
    said = {step.error: "the model list"}
    if probes and step.outcome in (StepOutcome.FAILS, StepOutcome.UNPROVEN) and not step.error.startswith("401 "):
        # some upstreams have no model list, or a broken one: then the calls decide whether they work
        advice = step.advice if step.failed else "The calls decide."
        step = replace(step, outcome=StepOutcome.UNPROVEN, advice=advice)
    waits = bool(probes and listed.base_url)
    if not waits:
        yield step
    has_failed = step.failed
    for target_probe in probes:
        begin(hop, "call")
        called = probe.said_once(await probe.check_call(state, upstream, target_probe), said, target_probe.what)
        called = replace(called, model=target_probe.asked.model)
        if waits:  # if the call fails too, the missing version is the cause
            yield listed if called.failed else step
        waits = False
        yield called
        has_failed = has_failed or called.failed
    # RAGFlow's and Azure's paths depend on the model
    is_asked = upstream.settings.dialect == "openai" and not has_failed
    if is_asked and any(PROTOCOLS[sent.call.operation.protocol].family for sent in probes):
        begin(hop, "protocols")
        if (lacking := await probe.check_protocols(state, upstream, probes[-1].target)) is not None:
            yield lacking
