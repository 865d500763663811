"""Model name ─► targets in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gatepass.config.model import Config
from gatepass.config.network import TimeoutSettings
from gatepass.config.routes import OperationRoute, block_of_operation
from gatepass.errors import ModelNotFound
from gatepass.types import Target

NAMED_IN_ERROR = 10
ANY = "*"
NAMES_NONE = ("files", "batches")
"""Operations whose requests are about no model."""

Targets = tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """What `/v1/models` shows: exact names, and the upstreams whose own lists count, with a pattern each."""

    names: tuple[str, ...]
    open_upstreams: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Ways:
    """Where each model goes, for one operation."""

    exact: Mapping[str, Targets]
    globs: tuple[tuple[str, Targets], ...]
    """The longest pattern first."""
    rest: Targets
    """Where models go that are neither, and requests that name none."""

    @classmethod
    def of(cls, operation: str, config: Config) -> _Ways:
        route = block_of_operation(config.operations, operation)
        ways: dict[str, Targets] = {}
        for name, entry in config.models.items():
            model = entry.for_operation(operation, route)
            ways[name] = tuple(
                _target(one.upstream, one.name, model.timeouts, config) for one in model.ordered_targets()
            )
        globs = sorted((name for name in ways if _is_glob(name) and name != ANY), key=lambda name: (-len(name), name))
        return cls(
            {name: targets for name, targets in ways.items() if not _is_glob(name)},
            tuple((name, ways[name]) for name in globs),
            _rest(route, config) or ways.get(ANY, ()),
        )


class RouteTable:
    """Where each model of each operation goes.

    An exact name beats the longest glob; a glob beats the operation's own upstream; that beats `*`,
    which names nothing in particular. An entry of `models` may lead elsewhere for one operation. With one upstream and
    no `models` everything goes there that an operation sends nowhere else.
    """

    def __init__(self, others: _Ways, ways: Mapping[str, _Ways], unnamed: Mapping[str, str]) -> None:
        """`ways` of the operations of which the configuration says something, and of all `others`."""
        self._others = others
        self._ways = ways
        self._unnamed = unnamed

    @classmethod
    def from_config(cls, config: Config) -> RouteTable:
        told = [*config.operations, *(name for model in config.models.values() for name in model.operations)]
        unnamed = {str(name): route.model for name, route in config.operations.items() if route.model is not None}
        return cls(_Ways.of("", config), {str(name): _Ways.of(name, config) for name in dict.fromkeys(told)}, unnamed)

    def default_model(self, operation: str) -> str:
        """The model of a request of `operation` that names none; "" where it goes on without one."""
        return self._unnamed.get(operation, "")

    def resolve(self, operation: str, model: str, may_see: Callable[[str], bool] | None = None) -> Targets:
        """The targets of `model` in order, at least one; "" is none. Raises ModelNotFound, which names what there is
        and its reader `may_see`; None: all of it."""
        ways = self._ways.get(operation, self._others)
        if (found := ways.exact.get(model)) is not None:
            return found
        for pattern, targets in ways.globs:
            if fnmatchcase(model, pattern):
                return targets
        if ways.rest:
            return ways.rest
        known = [name for name in ways.exact if may_see is None or may_see(name)]
        known += [pattern for pattern, _ in ways.globs] if may_see is None else []
        if not model:
            raise ModelNotFound(_unnamed(operation, known), param="model")
        there = f"Configured: {_some(known)}." if known else "No model is."
        raise ModelNotFound(
            f"The model {model[:100]!r} is not configured here. {there} Whoever runs gatepass adds it under `models`,"
            f" or says by operations.{operation}.upstream where all go that have no entry there.",
            param="model",
        )

    def listing(self) -> Listing:
        told, others = [*self._ways.values()], self._others
        listed = [(target.upstream, ANY) for ways in (*told, others) for target in ways.rest]
        listed += [
            (target.upstream, glob) for ways in (others, *told) for glob, targets in ways.globs for target in targets
        ]
        return Listing(tuple(others.exact), tuple(dict.fromkeys(listed)))


def _unnamed(operation: str, known: Sequence[str]) -> str:
    named = f", or let the request name one of these: {_some(known)}" if known and operation not in NAMES_NONE else ""
    return (
        f"The request names no model, and nothing says where requests of {operation} go that name none. Write"
        f" `operations: {{{operation}: {{upstream: NAME}}}}` into gatepass's configuration, with a NAME of `upstreams`"
        f"{named}."
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED_IN_ERROR]) + (", …" if len(names) > NAMED_IN_ERROR else "")


def _is_glob(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _rest(route: OperationRoute | None, config: Config) -> Targets:
    """Where an operation's own block leads, or everything goes because there is one place alone."""
    if route is not None and route.upstream is not None:
        upstream = route.upstream
    elif len(config.upstreams) == 1 and not config.models:
        upstream = next(iter(config.upstreams))
    else:
        return ()
    return (_target(upstream, None, None if route is None else route.timeouts, config),)


def _target(upstream: str, name: str | None, timeouts: TimeoutSettings | None, config: Config) -> Target:
    """`timeouts`, and what these leave open as the upstream says it."""
    own = None if timeouts is None else timeouts.over(config.upstreams[upstream].timeouts).value()
    return Target(upstream, name, own)
