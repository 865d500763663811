"""`gatepass route`: explain one request, with every change of it and the URL that is called. Nothing is sent."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import click
from msgspec.structs import replace

from gatepass.auth.model_access import check_model_access, check_operation_access
from gatepass.cli import options
from gatepass.clock import SystemClock
from gatepass.config.access import AccessKey
from gatepass.config.model import Config
from gatepass.config.routes import block_of_operation
from gatepass.config.upstream import DialectName, UpstreamConfig
from gatepass.errors import CallerError
from gatepass.normalize.members import Clamp, Drop
from gatepass.normalize.profiles import ProfileRules, build_profiles, untyped
from gatepass.normalize.rules import INCLUDE_USAGE, SEARCHED, Change, ChangeRule, DeclaredModels, ModelName, normalize
from gatepass.operations.table import CHAT_OPERATION, OPERATIONS, call_of, sample
from gatepass.policy.balancing import MOST_COOLDOWN_S
from gatepass.policy.windows import Windows
from gatepass.protocols import PROTOCOLS
from gatepass.proxy.admission import Admission, limit_text, owners_of
from gatepass.proxy.app_state import dialect_of
from gatepass.proxy.routing import Route, RouteTable
from gatepass.types import Operation, Target, Timeouts

DIALECT_CHANGES: Mapping[DialectName, str] = {
    "openai": "nothing",
    "azure": "the URL",
    "ragflow": "the URL, the body (model, stream, texts, images) and the reply",
}
FORM = "the form passes through unchanged: no profile, no rules, no learning"
NO_IDS = "token ids are rejected (capabilities.token_ids)"
STREAM_EFFECTS: Mapping[str, str] = {
    "auto": "as the client requests, until a learned rule changes it",
    "native": "as the client requests",
    "emulate": "gatepass requests a whole reply",
    "aggregate": "gatepass requests a stream",
}


@click.command()
@click.argument("model")
@options.config_option
@click.option("--key", "caller", metavar="NAME", help="The caller, a name of an entry of access.keys.")
@click.option(
    "--operation",
    type=click.Choice(options.ROUTED_OPERATIONS),
    help="The operation. Default: the one that the model is declared for, else chat.",
)
@options.json_option
def route(model: str, path: str | None, caller: str | None, operation: str | None, as_json: bool) -> None:
    """Explain a request for MODEL: its targets in order, every change of it, and the URL. Nothing is sent.

    It reads only the configuration file and asks no running gatepass: it has no --socket, and learned rules are not
    included.

    Exit codes: 0 a target supports the request, 1 it is refused, 2 the configuration is not valid.
    """
    config = options.load_or_exit(path).config
    key = options.find_key(config, caller)
    if _profile_of(config, key).settings.typed_ids:  # as in a request
        model = untyped(model)
    operation = operation or options.operation_of(config, model)
    document: dict[str, object] = {"operation": operation, "model": model, "caller": caller}
    try:
        if key is not None:
            check_operation_access(key, next(row for row in OPERATIONS if row.name == operation))
            check_model_access(key, model)
        targets = report_targets(config, operation, model, key)
    except CallerError as error:
        document["refused"] = {"status": error.status, "code": error.code, "message": error.message}
        lines = [f"refused: {error.status} {error.code}: {error.message}"]
        is_accepted = False
    else:
        document["targets"] = [asdict(target) for target in targets]
        found = RouteTable(config).route(operation, model)
        traffic = [*traffic_lines(found, operation), *limit_lines(config, found, operation, key)]
        document["traffic"] = traffic
        lines = [f"{operation} with the model {model}, as {caller or 'any caller'}", *traffic, *target_lines(targets)]
        is_accepted = all(target.refused is None for target in targets)
    if as_json:
        options.print_json(document)
    else:
        click.echo("\n".join(map(options.printable, lines)))
    sys.exit(0 if is_accepted else options.CHECK_FAILED)


@dataclass(frozen=True, slots=True)
class TargetReport:
    """One target with the steps of a request to it. `refused` is the error if its dialect does not support it."""

    upstream: str
    model: str
    steps: tuple[str, ...]
    refused: str | None = None


def target_lines(targets: Sequence[TargetReport]) -> Iterator[str]:
    for number, target in enumerate(targets, 1):
        refused = () if target.refused is None else (f"refused: {target.refused}",)
        yield f"{number}. to the upstream {target.upstream}, as {target.model}:"
        yield from (f"   - {step}" for step in (*target.steps, *refused))


def traffic_lines(found: Route, operation: str) -> Iterator[str]:
    """Yield what the settings of the model say about the choice of a target and about repeats."""
    if found.policy != "order":
        shares = [
            f"{target.upstream}/{name} {weight:g}{' (spare)' * (not weight)}"
            for target, name, weight in zip(found.targets, found.names, found.weights, strict=True)
        ]
        yield f"policy: {found.policy}, weights: {', '.join(shares)}"
        if PROTOCOLS[_rows(operation)[0].protocol].prefers_one_target:
            yield f"callers: each prefers one target for {operation}"
    groups = ["refused"] * found.repeats_refused
    if found.repeats_run:
        groups.append(f"may_have_run for {', '.join(sorted(found.repeats_run))}")
    if groups:
        yield f"retry: {' and '.join(groups)}, at most {found.attempts} attempts"
    if (limits := found.breaker) is not None:
        yield f"breaker: {limits.failures} failures in a row eject a target for {limits.ejection_s:g} s"
    if found.has_cooldown:
        yield f"wait: a target that answers 429 is passed over for its wait, at most {MOST_COOLDOWN_S:g} s"


def limit_lines(config: Config, found: Route, operation: str, key: AccessKey | None) -> Iterator[str]:
    admission = Admission(config, Windows(), SystemClock())
    owners = owners_of(key, found.entry, operation)
    for owner in (*owners, *(("upstream", name) for name in dict.fromkeys(one.upstream for one in found.targets))):
        limits = [f"{limit_text(one)}{' (observed)' * one.observes}" for one in admission.limits_of(owner)]
        if (use := admission.use_of(owner)) is not None and use.max_output_tokens is not None:
            limits.append(f"answers of at most {use.max_output_tokens} tokens")
        if limits:
            yield f"limits of the {owner[0]} {owner[1]}: {', '.join(limits)}"


def report_targets(config: Config, operation: str, model: str, key: AccessKey | None) -> list[TargetReport]:
    """Report each target of `model` in order, with the profile of the caller; raise ModelNotFound without a target."""
    profile, targets = _profile_of(config, key), []
    for target in RouteTable(config).resolve(operation, model):
        steps, refused = [*_steps(config, operation, model, target, profile)], None
        try:
            steps += [*_requests(config.upstreams[target.upstream], operation, model, target)]
        except CallerError as error:
            refused = f"{error.status} {error.code}: {error.message}"
        targets.append(TargetReport(target.upstream, target.model or model, tuple(steps), refused))
    return targets


def _profile_of(config: Config, key: AccessKey | None) -> ProfileRules:
    return build_profiles(config.profiles)[(key.profile if key is not None else None) or "plain"]


def _steps(config: Config, operation: str, model: str, target: Target, profile: ProfileRules) -> Iterator[str]:
    upstream = config.upstreams[target.upstream]
    if _is_form(operation):
        yield FORM
        yield from _renamed_model(model, target)
        yield from _unused_upstream(config, operation, model)
    else:
        entries = [_described(change) for rule in profile.rules[upstream.dialect] for change in rule.changes]
        # from here on in the order in which gatepass applies them
        yield f"profile {profile.name}: {', '.join(entries) or 'nothing'}"
        if setting := PROTOCOLS[_rows(operation)[0].protocol].upstream_setting:
            yield f"{setting}: {getattr(upstream, setting)}"
        for rule in SEARCHED:
            if any(rule.member in row.members for row in _rows(operation)):
                yield f"built-in {rule.name}: {rule.effect}"
        yield from _renamed_model(model, target)
        yield from _declared(config, operation, model)
        if upstream.include_usage and any("stream_options" in row.members for row in _rows(operation)):
            yield f"{INCLUDE_USAGE.name}: {INCLUDE_USAGE.changes[0].entry} in a stream"
        yield from _unused_upstream(config, operation, model)
        also = f", also {', '.join(upstream.learn_also)}" if upstream.learn_also else ""
        yield f"learning: {upstream.learn}{also if upstream.learn != 'off' else ''}"
    yield f"dialect {upstream.dialect}: {DIALECT_CHANGES[upstream.dialect]}"


def _is_form(operation: str) -> bool:
    # images has both: JSON to generate, forms to edit
    return all(row.takes_form for row in _rows(operation))


def _rows(operation: str) -> list[Operation]:
    return [row for row in OPERATIONS if row.name == operation and row.names_model]


def _renamed_model(model: str, target: Target) -> Iterator[str]:
    if target.model not in (None, model):
        yield f"built-in {ModelName.name}: {model} becomes {target.model}"


def _declared(config: Config, operation: str, model: str) -> Iterator[str]:
    """Yield the stream mode and the rules that the model's entry and the operation's block declare together."""
    declared = DeclaredModels(config)
    name, entry = declared.entry(operation, model), declared.model(operation, model)
    if any("stream" in row.members for row in _rows(operation)):
        stream = "auto" if entry is None else entry.stream
        yield f"stream: {stream}, {STREAM_EFFECTS[stream]}"
    changes: list[str] = []
    for rule in declared.rules(operation, model):
        if isinstance(rule, ChangeRule):
            changes += [_described(change) for change in rule.changes]
        elif any("input" in row.members for row in _rows(operation)):
            changes.append(NO_IDS)
    if changes := [change for change in changes if not change.startswith("stream=")]:  # has a line already
        route, blocks = block_of_operation(config.operations, operation), list[str]()
        if name is not None and ((own := config.models[name]).rules is not None or own.capabilities.token_ids is False):
            blocks.append(f"models.{name}")
        if route is not None and route.rules is not None:
            blocks.append(f"operations.{operation}")
        yield f"rules of {' and '.join(blocks)}: {', '.join(changes)}"


def _unused_upstream(config: Config, operation: str, model: str) -> Iterator[str]:
    name, route = DeclaredModels(config).entry(operation, model), block_of_operation(config.operations, operation)
    if name is not None and route is not None and route.upstream is not None:
        yield f"operations.{operation}.upstream: not used, because models.{name} has a route"


def _described(change: Change) -> str:
    if isinstance(change, Drop) and change.only:
        return f"{change.entry} (if {' or '.join(sorted(text.decode() for text in change.only))})"
    if not isinstance(change, Clamp):
        return change.entry
    # several blocks may declare a clamp of this member: the bounds show which of them is in effect
    bounds = (("at least", change.least), ("at most", change.most))
    return f"{change.entry} ({', '.join(f'{word} {bound:.15g}' for word, bound in bounds if bound is not None)})"


def _requests(upstream: UpstreamConfig, operation: str, model: str, target: Target) -> Iterator[str]:
    """Yield each request of the operation; raise CallerError if the dialect does not support it."""
    dialect = dialect_of(upstream)
    credential = "no credential" if upstream.credential is None else f"the credential {upstream.credential}"
    for row in _rows(operation):
        # an operation may have several paths, and `sample` knows one of them
        call = call_of(row, model) if row.takes_form else replace(sample(row.name, model), operation=row)
        protocol, spoken = PROTOCOLS[row.protocol], target.protocols
        if spoken is not None and protocol.family not in ("", *spoken):
            if protocol.translation is None or CHAT_OPERATION.name not in spoken:
                yield f"{row.method} {row.path}: 404, because `protocols` has {', '.join(sorted(spoken))} alone"
                continue
            yield f"{row.method} {row.path}: a chat serves it, because `protocols` has no {protocol.family}"
            call = protocol.translation.chat_call(call, CHAT_OPERATION).call
        rules = dialect.rules if row.takes_form else (ModelName(), *dialect.rules)
        request = dialect.encode(normalize(call, target, rules), target, upstream.base_url, Timeouts())
        form = f"; {FORM}" if row.takes_form and not _is_form(row.name) else ""
        yield f"{request.method} {request.url}, with {credential}{form}"
