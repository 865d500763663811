"""What `gatepass doctor` tests: which hops in which order, and which real calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing
from functools import partial

from msgspec.structs import replace

from gatepass.cli import options, probe
from gatepass.cli.probe import Begin, ProbeCall, Steps, timed
from gatepass.clock import Clock
from gatepass.config.model import Config
from gatepass.documents import DoctorTask, Step, StepOutcome
from gatepass.errors import InvalidRequest, UpstreamAuth
from gatepass.protocols.operations import OPERATIONS
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.models import ModelCatalog
from gatepass.types import MCP_UPSTREAM

NO_CALL = f"--call: doctor has no call for {{operation}}, only for {', '.join(options.CALL_OPERATIONS)}"
NO_MODEL = "--call: no model is declared under `models`: name one, as in `gatepass doctor MODEL --call`"


class NoCall(Exception):
    """doctor has no real call for what was asked."""


def calls_of(config: Config, model: str | None, operation: str | None) -> list[ProbeCall]:
    """Return the real calls: of `model`, or of the first declared model of each operation. Raises NoCall."""
    if model is not None:
        chosen = {operation or options.operation_of(config, model): model}
        if (only := next(iter(chosen))) not in options.CALL_OPERATIONS:
            raise NoCall(NO_CALL.format(operation=only))
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
        calls.append(ProbeCall(found, name))
        if "stream" in next(row for row in OPERATIONS if row.name == found).members:
            calls.append(ProbeCall(found, name, stream=True))
    return calls


async def diagnose(
    config: Config,
    calls: Sequence[ProbeCall] = (),
    clock: Clock | None = None,
    *,
    model: str | None = None,
    operation: str | None = None,
    begin: Begin = lambda *_: None,
) -> Steps:
    """Test the store, the credentials, the upstreams and the MCP servers, and yield each step when it ends.

    The steps of an upstream are skipped if its credential has no token. With `model` or `calls` only the upstreams of
    their routes are tested, and the store is not. Without a chosen model `calls` leave the MCP servers in. If neither
    `operation` nor the configuration decides about `model`, the lists of the upstreams do. Raises ModelNotFound if a
    model has no route, and NoCall.
    """
    async with options.open_state(config, clock) as state:
        if model is not None and not (operation := operation or options.declared_operation(config, model)):
            for holder in state.holders.values():
                holder.start()
            if kind := await ModelCatalog(state).kind_by_lists(model):
                operation = options.OPERATION_OF_KIND[kind]
                calls = calls_of(config, model, operation) if calls else ()
        tested = _tested(state, calls, model, operation)
        failed, is_whole = set[str | None](), model is None and not calls
        if config.store is not None and is_whole:
            begin("store", "store")
            yield await probe.check_store(state, config.store)
        used = {state.upstreams[name].settings.credential for name in tested}
        used |= {entry.credential for entry in config.access.jwt}
        # credentials first: an upstream without a token cannot be tested
        for name in (name for name in state.holders if is_whole or name in used):
            begin(f"credential:{name}", "token")
            holder = state.holders[name]
            holder.start()
            yield (step := await probe.check_token(state, name, holder))
            if step.failed:
                failed.add(name)
        if is_whole:
            async for step in _issuers_and_certificates(state, begin):
                yield step
        for name, wanted in tested.items():
            upstream = state.upstreams[name]
            is_mcp = name.startswith(MCP_UPSTREAM)
            if upstream.settings.credential in failed:
                what = "initialize" if is_mcp else "models"
                yield probe.found(probe.hop_of(upstream), what, StepOutcome.SKIPPED, "credential_failed")
                continue
            tests = probe.check_mcp(state, upstream, begin) if is_mcp else _test(state, upstream, calls, wanted, begin)
            async for step in tests:
                yield step


async def _issuers_and_certificates(state: AppState, begin: Begin) -> AsyncIterator[Step]:
    for keys in state.key_sets:
        begin(keys.setting, "keys")
        if (found := await keys.fetched()) is None:
            yield probe.found(
                keys.setting, "keys", StepOutcome.FAILS, "keys_failed", issuer=keys.issuer, why=keys.fault
            )
        else:
            case = "keys_partly" if found.problem else "keys_fetched"
            yield probe.found(keys.setting, "keys", StepOutcome.WORKS, case, count=len(found), why=found.problem)
    begin("gatepass", "tls")
    async for step in probe.check_certificates(state):
        yield step


async def diagnose_for_page(config: Config, task: DoctorTask, begin: Begin) -> Steps:
    """Yield the steps of `diagnose`, for the page at /ui.

    Raises InvalidRequest if there is no call, and ModelNotFound.
    """
    if task.operation not in (None, *options.CALL_OPERATIONS):
        raise InvalidRequest(NO_CALL.format(operation=task.operation).replace("--call: ", ""))
    try:
        calls = calls_of(config, task.model, task.operation) if task.call else []
        diagnosed = partial(diagnose, config, calls, model=task.model, operation=task.operation)
        async with aclosing(timed(diagnosed, begin)) as steps:
            async for step in steps:
                yield step
    except NoCall as error:
        raise InvalidRequest(str(error).partition(": ")[2]) from None


def _tested(
    state: AppState, calls: Sequence[ProbeCall], model: str | None, operation: str | None
) -> dict[str, dict[str, None]]:
    """Return the upstreams on the routes of `calls` and `model`, or all, each with its names of these models."""
    asked = [(call.operation, call.model) for call in calls]
    if model is not None and not asked:
        asked.append((operation or options.operation_by_name(model), model))
    tested: dict[str, dict[str, None]] = {name: {} for name in state.upstreams}
    for operation, name in asked:
        for target in state.routes.route(operation, name).targets:
            tested[target.upstream][target.model or name] = None
    # calls that nobody chose are of the whole configuration
    return {
        name: wanted
        for name, wanted in tested.items()
        if wanted or not asked or (model is None and name.startswith(MCP_UPSTREAM))
    }


async def _test(
    state: AppState, upstream: Upstream, calls: Sequence[ProbeCall], wanted: Collection[str], begin: Begin
) -> AsyncIterator[Step]:
    """Yield the steps of an upstream: its model list, which should have the `wanted` names, and the real calls."""
    hop, probes = probe.hop_of(upstream), [sent for call in calls for sent in probe.probes_of(state, upstream, call)]
    begin(hop, "models")
    step = await probe.check_models(state, upstream, wanted)
    if probes and not step.failed:
        step = replace(step, advice="", advice_zh="")  # a real call follows
    if probes and step.failed and step.error != UpstreamAuth.code:
        # some upstreams have a broken model list: then the calls decide whether they work
        step = replace(step, outcome=StepOutcome.UNPROVEN)
    yield step
    for target_probe in probes:
        begin(hop, "call")
        called = await probe.check_call(state, upstream, target_probe)
        yield replace(called, model=target_probe.asked.model)
