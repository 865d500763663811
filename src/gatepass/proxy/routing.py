"""Resolve a model name to its route: its targets in order, and how they are tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache

import msgspec

from gatepass.config.model import Config
from gatepass.config.routes import ANY, Model, ModelTarget, Policy, block_of_operation, is_glob, ordered_globs
from gatepass.errors import ModelNotFound
from gatepass.normalize.rules import CACHED_MODELS
from gatepass.policy.breaker import BreakerSettings
from gatepass.types import Target, Timeouts, settings_of

NAMED_IN_ERROR = 10
WITHOUT_MODEL = ("files", "batches")

Targets = tuple[Target, ...]


class Route(msgspec.Struct, frozen=True, eq=False):
    """The targets of a model in order, and how one of them is chosen and tried again."""

    targets: Targets
    total: Timeouts
    """The timeouts whose `total_s` limits all attempts."""
    is_plain: bool = True
    """One target, of which nothing is counted or limited: no `Failover` is needed."""
    names: tuple[str, ...] = ()
    """The name of each target, which `TargetHealth` is kept by: the upstream's model name, or that of the entry."""
    full_names: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    has_limits: bool = False
    """Whether one of the upstreams has `max_in_flight`."""
    policy: Policy = "order"
    names_targets: bool = False
    """Whether the operator set how targets are chosen or tried again: the response then names those that were tried."""
    entry: str = ""
    is_pattern: bool = False
    """Whether `entry` is a pattern, so that the client names the model."""
    repeats_refused: bool = False
    repeats_run: frozenset[str] = frozenset()
    """The operations that may run twice."""
    attempts: int = 1
    breaker: BreakerSettings | None = None
    has_cooldown: bool = False
    """Whether a target that answers 429 is passed over for the time that it asks for."""


class _OperationRoutes(msgspec.Struct, frozen=True):
    exact: Mapping[str, Route]
    globs: tuple[tuple[str, Route], ...]
    """The longest pattern first."""
    rest: Route | None
    """The route of other models, and of requests without a model."""

    @classmethod
    def of(cls, operation: str, config: Config) -> _OperationRoutes:
        route = block_of_operation(config.operations, operation)
        routes: dict[str, Route] = {}
        for name, entry in config.models.items():
            targets = tuple(_target(one, config, name, entry) for one in entry.ordered_targets())
            routes[name] = _route(targets, config, name, entry)
        # The block of the operation names the upstream. Without it, the only upstream serves the operation.
        upstream = None if route is None else route.upstream
        if upstream is None and len(config.upstreams) == 1 and not config.models:
            upstream = next(iter(config.upstreams))
        rest = routes.get(ANY)
        if upstream is not None:
            rest = _route((_target(ModelTarget(upstream=upstream), config),), config)
        return cls(
            {name: found for name, found in routes.items() if not is_glob(name)},
            tuple((name, routes[name]) for name in ordered_globs(routes)),
            rest,
        )


class RouteTable:
    """The targets of each model for each operation.

    The first match wins: an exact name, the longest glob, the upstream of the operation's block, the model `*`.
    With one upstream and no `models`, that upstream serves each operation whose block names no other.
    """

    def __init__(self, config: Config) -> None:
        self._has_upstreams = bool(config.upstreams)
        self._others = _OperationRoutes.of("", config)
        """For all operations that the configuration does not name."""
        operations = config.operations.items()
        self._by_operation = {str(name): _OperationRoutes.of(name, config) for name, _ in operations}
        tables = (*self._by_operation.values(), self._others)
        routes = [route for one in tables for route in (*one.exact.values(), *dict(one.globs).values(), one.rest)]
        self.all = [*{(one.entry, one.targets[0].upstream): one for one in routes if one is not None}.values()]
        """Each route once, whatever the number of operations that it serves."""
        self.find = lru_cache(maxsize=CACHED_MODELS)(self._find)
        """Returns the route of an operation and a model, which is "" if the request names none; None without one."""
        self._default_models = {str(name): route.model for name, route in operations if route.model is not None}

    def default_model(self, operation: str) -> str:
        """Return the model for requests of `operation` without one, "" if none is configured."""
        return self._default_models.get(operation, "")

    def configured_name(self, model: str) -> str | None:
        """Return the name or pattern in the configuration that `model` matches, None if there is none but `*`."""
        if model in self._others.exact or model in self._default_models.values():
            return model
        return next((pattern for pattern, _ in self._others.globs if fnmatchcase(model, pattern)), None)

    def route(self, operation: str, model: str) -> Route:
        """Return what `find` does. Raises ModelNotFound, whose text lists all models."""
        if (found := self.find(operation, model)) is None:
            raise self.not_found(operation, model)
        return found

    def _find(self, operation: str, model: str) -> Route | None:
        routes = self._by_operation.get(operation, self._others)
        if (found := routes.exact.get(model)) is not None:
            return found
        return next((route for pattern, route in routes.globs if fnmatchcase(model, pattern)), routes.rest)

    def not_found(self, operation: str, model: str, may_see: Callable[[str], bool] | None = None) -> ModelNotFound:
        """Return the error of a model without a route. It lists the models that the caller `may_see`; None: all."""
        routes = self._by_operation.get(operation, self._others)
        if not self._has_upstreams:
            return ModelNotFound(
                "This gatepass serves MCP servers and no models. Add `upstreams` to its configuration.", param="model"
            )
        known = [name for name in routes.exact if may_see is None or may_see(name)]
        # A limited caller sees no patterns, because they could reveal names that it may not use.
        known += [pattern for pattern, _ in routes.globs] if may_see is None else []
        shown = ", ".join(known[:NAMED_IN_ERROR]) + (", …" if len(known) > NAMED_IN_ERROR else "")
        if not model:
            suggestion = f", or name one of these models: {shown}" if known and operation not in WITHOUT_MODEL else ""
            return ModelNotFound(
                f"The request names no model, and gatepass has no route for such requests of {operation}. Set"
                f" `operations: {{{operation}: {{upstream: NAME}}}}` in the gatepass configuration, with a NAME of"
                f" `upstreams`{suggestion}.",
                param="model",
            )
        configured = f"Configured: {shown}. Correct the name, or add" if known else "No model is configured. Add"
        return ModelNotFound(
            f"The model {model[:100]!r} is not configured. {configured} it under `models` in the gatepass"
            ' configuration, or add `"*": {upstream: NAME}` there for all other models.',
            param="model",
        )

    def listing(self) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
        """Return the exact names in `/v1/models`, and pairs of an upstream and a pattern for its own model list."""
        named, others = [*self._by_operation.values()], self._others
        listed = [
            (target.upstream, ANY) for routes in (*named, others) if routes.rest for target in routes.rest.targets
        ]
        listed += [
            (target.upstream, glob)
            for routes in (others, *named)
            for glob, route in routes.globs
            for target in route.targets
        ]
        return tuple(others.exact), tuple(dict.fromkeys(listed))


def _target(target: ModelTarget, config: Config, name: str = "", entry: Model | None = None) -> Target:
    """Return the target. `entry` is that of `models`, None for an upstream of `operations`."""
    settings, timeouts = config.upstreams[target.upstream], None
    if entry is not None and entry.timeouts is not None:
        timeouts = settings.timeouts.value(settings_of(target.upstream), name, entry.timeouts)
    spoken = settings.protocols if entry is None or entry.protocols is None else entry.protocols
    return Target(target.upstream, target.name, timeouts, None if spoken is None else frozenset(spoken))


def _route(targets: Targets, config: Config, name: str = "", entry: Model | None = None) -> Route:
    """Return the route over `targets`. `entry` is that of `models`, None for an upstream of `operations`."""
    totals = [
        one.timeouts or config.upstreams[one.upstream].timeouts.value(settings_of(one.upstream)) for one in targets
    ]
    has_limits = any(config.upstreams[one.upstream].max_in_flight for one in targets)
    has_quota = any(config.upstreams[one.upstream].limits is not None for one in targets)
    names = tuple(one.model or name for one in targets)
    full_names = tuple(f"{one.upstream}/{named}" for one, named in zip(targets, names, strict=True))
    if entry is None:
        is_plain = not (has_limits or has_quota)
        return Route(targets, totals[0], is_plain, names, full_names, (1.0,), has_limits)
    retry, breaker, has_choice = entry.retry, entry.breaker, len(targets) > 1
    is_traffic = retry is not None or breaker is not None
    # without a policy the first target's time applies, as it always did
    total = max(totals, key=lambda one: math.inf if one.total_s is None else one.total_s) if is_traffic else totals[0]
    return Route(
        targets,
        total,
        is_plain=not (has_choice or is_traffic or has_limits or has_quota),
        names=names,
        full_names=full_names,
        weights=tuple(one.weight for one in entry.ordered_targets()),
        has_limits=has_limits,
        policy=entry.policy,
        names_targets=is_traffic or entry.policy != "order",
        entry=name,
        is_pattern=is_glob(name),
        repeats_refused=retry is not None and "refused" in retry.on,
        repeats_run=frozenset(retry.operations if retry is not None else ()),
        attempts=1 if retry is None else retry.attempts,
        breaker=None if breaker is None else BreakerSettings(**breaker.model_dump()),
        has_cooldown=has_choice and is_traffic,
    )
