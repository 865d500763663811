"""`gatepass check --route`: the targets of a request, what the configuration changes in it, and the URL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from gatepass.auth.caller import Caller
from gatepass.auth.model_access import check_model_access, check_operation_access
from gatepass.cli.options import operation_of
from gatepass.config.model import Config
from gatepass.config.upstream import UpstreamConfig
from gatepass.draft import Change, Rule
from gatepass.errors import CallerError
from gatepass.normalize.profiles import PROFILES, untyped
from gatepass.normalize.rules import ChangeRule, DeclaredModels, ModelName, normalize
from gatepass.protocols import PROTOCOLS
from gatepass.protocols.operations import CHAT_OPERATION, OPERATIONS, call_of, sample
from gatepass.proxy.app_state import dialect_of
from gatepass.proxy.routing import RouteTable
from gatepass.types import Operation, Target, Timeouts


def route_lines(
    config: Config, model: str, caller: Caller | None, operation: str | None = None
) -> tuple[list[str], bool]:
    """Return the lines about a request for `model` of `caller`, and whether each target supports it.

    Without `operation` it is the one that the model is declared for, else that of its name. Learned rules are left out.
    """
    profile = PROFILES[(caller.profile if caller is not None else None) or "plain"]
    model = untyped(model) if profile.settings.typed_ids else model  # as in a request
    operation = operation or operation_of(config, model)
    rows = [row for row in OPERATIONS if row.name == operation and row.names_model]
    try:
        if caller is not None:
            check_operation_access(caller, rows[0])
            check_model_access(caller, model)
        targets = RouteTable(config).route(operation, model).targets
    except CallerError as error:
        return [_refused(error)], False
    lines = [f"{operation} with the model {model}, as {'any caller' if caller is None else caller.name}"]
    is_accepted, declared = True, DeclaredModels(config).rules(operation, model)
    for number, target in enumerate(targets, 1):
        upstream = config.upstreams[target.upstream]
        lines.append(f"{number}. to the upstream {target.upstream}, as {target.model or model}:")
        if not all(row.takes_form for row in rows):  # no rule changes a form
            lines += _changes(f"profile {profile.name}", profile.rules[upstream.dialect])
            lines += _changes("rules", declared)
        try:
            lines += [f"   - {line}" for line in _requests(upstream, rows, model, target)]
        except CallerError as error:
            lines.append(f"   - {_refused(error)}")
            is_accepted = False
    return lines, is_accepted


def _refused(error: CallerError) -> str:
    return f"refused: {error.status} {error.code}: {error.message}"


def _changes(name: str, rules: Sequence[Rule]) -> Iterator[str]:
    changes: list[Change] = [change for rule in rules if isinstance(rule, ChangeRule) for change in rule.changes]
    if changes:
        yield f"   - {name}: {', '.join(change.entry for change in changes)}"


def _requests(upstream: UpstreamConfig, rows: Sequence[Operation], model: str, target: Target) -> Iterator[str]:
    """Yield each request of the operation; raise CallerError if the dialect does not support it."""
    dialect = dialect_of(upstream)
    credential = "no credential" if upstream.credential is None else f"the credential {upstream.credential}"
    parameters = f" and the query parameters {', '.join(upstream.query)}" if upstream.query else ""
    for row in rows:
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
        yield f"{request.method} {request.url}, with {credential}{parameters}"
