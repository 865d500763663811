"""The way of one request, step by step: what is changed on it, and which URL is called in the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gatepass.adapt.chain import BUILT_IN, adapt
from gatepass.adapt.changes.change import Revision
from gatepass.adapt.declared import Declared
from gatepass.adapt.model_name import ModelName
from gatepass.adapt.profile import Prepared, prepared
from gatepass.adapt.strays import STRAYS
from gatepass.call import Target
from gatepass.config.access import AccessKey
from gatepass.config.model import Config
from gatepass.config.models import of_operation
from gatepass.config.upstream import Upstream
from gatepass.errors import CallerError
from gatepass.routing.table import RouteTable
from gatepass.surface.sample import samples
from gatepass.upstream.choice import dialect_of

BUILT_IN_TELLS: Mapping[str, str] = MappingProxyType(
    {
        "images": "`images` beside the conversation go into it",
        "strays": f"{' and '.join(STRAYS)} are left out",
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
class Way:
    """In lines for people; not `fine` where a target would refuse such a request."""

    lines: tuple[str, ...]
    fine: bool


def way(config: Config, operation: str, model: str, key: AccessKey | None) -> Way:
    """Each target of `model` in the order in which they are tried, with all steps there. A path may name another
    profile than the caller's. Raises ModelNotFound where no target is."""
    profile = prepared(config.profiles)[(key.profile if key is not None else None) or "plain"]
    lines, fine = [f"{operation} with the model {model}, as {'any caller' if key is None else key.name}"], True
    for number, target in enumerate(RouteTable.from_config(config).resolve(operation, model), 1):
        lines.append(f"{number}. to the upstream {target.upstream}, as {target.model or model}:")
        steps = [*_steps(config, operation, model, target, profile)]
        try:
            steps.append(_called(config.upstreams[target.upstream], operation, model, target))
        except CallerError as error:
            steps.append(f"refused: {error.status} {error.code}: {error.message}")
            fine = False
        lines += [f"   - {step}" for step in steps]
    return Way(tuple(lines), fine)


def _steps(config: Config, operation: str, model: str, target: Target, profile: Prepared) -> Iterator[str]:
    upstream = config.upstreams[target.upstream]
    entries = [change.entry for rule in profile.rules[upstream.dialect] for change in rule.changes]
    yield f"profile {profile.name}: {', '.join(entries) or 'nothing'}"
    if operation == "rerank":
        yield f"rerank_shape: asked as {upstream.rerank_shape}"
    yield from _built_in(operation, model, target)
    yield from _declared(config, operation, model)
    also = f", also {', '.join(upstream.learn_also)}" if upstream.learn_also else ""
    yield f"lessons: {upstream.learn}{also if upstream.learn != 'off' else ''}"
    yield f"dialect {upstream.dialect}: {DIALECT_TELLS[upstream.dialect]}"


def _built_in(operation: str, model: str, target: Target) -> Iterator[str]:
    """Those that could have something to do."""
    for rule in BUILT_IN:
        if isinstance(rule, ModelName):
            if target.model not in (None, model):
                yield f"built-in {rule.name}: {model} becomes {target.model}"
        elif operation in CONCERNS.get(rule.name, (operation,)):
            yield f"built-in {rule.name}: {BUILT_IN_TELLS[rule.name]}"


def _declared(config: Config, operation: str, model: str) -> Iterator[str]:
    """What the model's entry declares and the operation's own block, as one."""
    declared = Declared(config)
    name, entry = declared.entry(operation, model), declared.model(operation, model)
    if operation in ("chat", "completions"):
        stream = "auto" if entry is None else entry.stream
        yield f"stream: {stream}, {STREAM_TELLS[stream]}"
    names: list[str] = []
    for rule in declared.rules(operation, model):
        names += [change.entry for change in rule.changes] if isinstance(rule, Revision) else [NO_IDS]
    if names := [name for name in names if not name.startswith("stream=")]:
        yield f"rules of {' and '.join(_places(config, operation, name))}: {', '.join(names)}"
    route = of_operation(config.operations, operation)
    if name is not None and route is not None and route.upstream is not None:
        yield f"operations.{operation}.upstream: not for this model, which models.{name} serves"


def _places(config: Config, operation: str, name: str | None) -> Iterator[str]:
    """Where rules for this way stand, the most particular first."""
    entry, route = None if name is None else config.models[name], of_operation(config.operations, operation)
    if entry is not None:
        own = of_operation(entry.operations, operation)
        if own is not None and own.rules is not None:
            yield f"models.{name}.operations.{operation}"
        if entry.rules is not None or entry.capabilities.token_ids is False:
            yield f"models.{name}"
    if route is not None and route.rules is not None:
        yield f"operations.{operation}"


def _called(upstream: Upstream, operation: str, model: str, target: Target) -> str:
    """Raises CallerError where the dialect has no such request."""
    dialect = dialect_of(upstream)
    sample = adapt(samples(operation, model)[0], target, (ModelName(), *dialect.rules))
    request = dialect.encode(sample, target, upstream.base_url, upstream.timeouts.value())
    return f"{request.method} {request.url}, with {_shown(upstream)}"


def _shown(upstream: Upstream) -> str:
    return "no credential" if upstream.credential is None else f"the credential {upstream.credential}"
