"""The way of one request, step by step: what is changed on it, and which URL is called in the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from msgspec.structs import replace

from gatepass.config.access import AccessKey
from gatepass.config.model import Config
from gatepass.config.routes import block_of_operation
from gatepass.config.upstream import UpstreamConfig
from gatepass.errors import CallerError
from gatepass.normalize.built_in import BUILT_IN, STRAY_PARAMS, ModelName, normalize
from gatepass.normalize.declared import Declared
from gatepass.normalize.members import STREAMED, Clamp
from gatepass.normalize.profiles import ProfileRules, build_profiles
from gatepass.normalize.rule import Change, ChangeRule
from gatepass.operations.table import OPERATIONS, call_of, samples
from gatepass.proxy.app_state import dialect_of
from gatepass.proxy.routing import RouteTable
from gatepass.types import Operation, Target

BUILT_IN_TELLS: Mapping[str, str] = MappingProxyType(
    {
        "images": "`images` beside the conversation go into it",
        "strays": f"{' and '.join(STRAY_PARAMS)} are left out",
        "stream_options": "left out where no stream is asked for",
        "vectors": "asked for as numbers; base64 is made of them here",
    }
)
"""What the built-in rules do where a request gives them cause; `model` tells its own names."""
CONCERNS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "images": frozenset(("chat",)),
        "stream_options": frozenset(("chat", "completions")),
        "vectors": frozenset(("embeddings",)),
    }
)
"""The operations that a built-in rule is for, where not for all."""
DIALECT_TELLS: Mapping[str, str] = MappingProxyType(
    {
        "openai": "nothing",
        "azure": "the URL",
        "ragflow": "the URL, the body (model, stream, texts, images) and the reply",
    }
)
FORM = "the form passes through: no profile, no rules and no lessons"
NO_IDS = "token ids are refused (capabilities.token_ids)"
STREAM_TELLS: Mapping[str, str] = MappingProxyType(
    {
        "auto": "as the client asks, until a refusal teaches otherwise",
        "native": "as the client asks",
        "emulate": "the upstream is asked for a whole reply",
        "aggregate": "the upstream is asked for a stream",
    }
)


@dataclass(frozen=True, slots=True)
class RouteReport:
    """In lines for people; not `fine` where a target would refuse such a request."""

    lines: tuple[str, ...]
    fine: bool


def way(config: Config, operation: str, model: str, key: AccessKey | None) -> RouteReport:
    """Each target of `model` in the order in which they are tried, with all steps there. A path may name another
    profile than the caller's. Raises ModelNotFound where no target is."""
    profile = build_profiles(config.profiles)[(key.profile if key is not None else None) or "plain"]
    lines, fine = [f"{operation} with the model {model}, as {'any caller' if key is None else key.name}"], True
    for number, target in enumerate(RouteTable.from_config(config).resolve(operation, model), 1):
        lines.append(f"{number}. to the upstream {target.upstream}, as {target.model or model}:")
        steps = [*_steps(config, operation, model, target, profile)]
        try:
            steps += [*_called(config.upstreams[target.upstream], operation, model, target)]
        except CallerError as error:
            steps.append(f"refused: {error.status} {error.code}: {error.message}")
            fine = False
        lines += [f"   - {step}" for step in steps]
    return RouteReport(tuple(lines), fine)


def _steps(config: Config, operation: str, model: str, target: Target, profile: ProfileRules) -> Iterator[str]:
    dialect = config.upstreams[target.upstream].dialect
    if _is_form(operation):
        yield FORM
        yield from _renamed(model, target)
        yield from _passed_over(config, operation, model)
    else:
        yield from _adapted(config, operation, model, target, profile)
    yield f"dialect {dialect}: {DIALECT_TELLS[dialect]}"


def _is_form(operation: str) -> bool:
    return all(row.takes_form for row in _rows(operation))


def _rows(operation: str) -> list[Operation]:
    """Of the requests that an operation has, those that are about a model."""
    return [row for row in OPERATIONS if row.name == operation and row.names_model]


def _adapted(config: Config, operation: str, model: str, target: Target, profile: ProfileRules) -> Iterator[str]:
    """What a request in JSON goes through before its dialect."""
    upstream = config.upstreams[target.upstream]
    entries = [change.entry for rule in profile.rules[upstream.dialect] for change in rule.changes]
    yield f"profile {profile.name}: {', '.join(entries) or 'nothing'}"
    if operation == "rerank":
        yield f"rerank_shape: asked as {upstream.rerank_shape}"
    for rule in BUILT_IN:  # those that could have something to do
        if isinstance(rule, ModelName):
            yield from _renamed(model, target)
        elif operation in CONCERNS.get(rule.name, (operation,)):
            yield f"built-in {rule.name}: {BUILT_IN_TELLS[rule.name]}"
    yield from _declared(config, operation, model)
    yield from _passed_over(config, operation, model)
    also = f", also {', '.join(upstream.learn_also)}" if upstream.learn_also else ""
    yield f"lessons: {upstream.learn}{also if upstream.learn != 'off' else ''}"


def _renamed(model: str, target: Target) -> Iterator[str]:
    if target.model not in (None, model):
        yield f"built-in {ModelName.name}: {model} becomes {target.model}"


def _declared(config: Config, operation: str, model: str) -> Iterator[str]:
    """What the model's entry declares and the operation's own block, as one."""
    declared = Declared(config)
    name, entry = declared.entry(operation, model), declared.model(operation, model)
    if any(row.protocol in STREAMED for row in _rows(operation)):
        stream = "auto" if entry is None else entry.stream
        yield f"stream: {stream}, {STREAM_TELLS[stream]}"
    names: list[str] = []
    for rule in declared.rules(operation, model):
        names += [_told(change) for change in rule.changes] if isinstance(rule, ChangeRule) else [NO_IDS]
    if names := [name for name in names if not name.startswith("stream=")]:
        yield f"rules of {' and '.join(_places(config, operation, name))}: {', '.join(names)}"


def _passed_over(config: Config, operation: str, model: str) -> Iterator[str]:
    name, route = Declared(config).entry(operation, model), block_of_operation(config.operations, operation)
    if name is not None and route is not None and route.upstream is not None:
        yield f"operations.{operation}.upstream: not for this model, which models.{name} serves"


def _told(change: Change) -> str:
    """With the bounds of a limit: that of another place may be meant."""
    if not isinstance(change, Clamp):
        return change.entry
    bounds = (("at least", change.least), ("at most", change.most))
    return f"{change.entry} ({', '.join(f'{word} {bound:.15g}' for word, bound in bounds if bound is not None)})"


def _places(config: Config, operation: str, name: str | None) -> Iterator[str]:
    """Where rules for this way stand, the most particular first."""
    entry, route = None if name is None else config.models[name], block_of_operation(config.operations, operation)
    if entry is not None:
        own = block_of_operation(entry.operations, operation)
        if own is not None and own.rules is not None:
            yield f"models.{name}.operations.{operation}"
        if entry.rules is not None or entry.capabilities.token_ids is False:
            yield f"models.{name}"
    if route is not None and route.rules is not None:
        yield f"operations.{operation}"


def _called(upstream: UpstreamConfig, operation: str, model: str, target: Target) -> Iterator[str]:
    """Each URL of the operation. Raises CallerError where the dialect has no such request."""
    dialect = dialect_of(upstream)
    credential = "no credential" if upstream.credential is None else f"the credential {upstream.credential}"
    for row in _rows(operation):
        sample = call_of(row, model) if row.takes_form else replace(samples(row.name, model)[0], operation=row)
        rules = dialect.rules if row.takes_form else (ModelName(), *dialect.rules)
        request = dialect.encode(normalize(sample, target, rules), target, upstream.base_url, upstream.timeouts.value())
        form = f"; {FORM}" if row.takes_form and not _is_form(row.name) else ""
        yield f"{request.method} {request.url}, with {credential}{form}"
