"""Model name ─► targets in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

from gatepass.call import Target, Timeouts
from gatepass.config.model import Config
from gatepass.config.models import Model, OperationRoute
from gatepass.config.upstream import Upstream
from gatepass.errors import ModelNotFound

NAMED_IN_ERROR = 10
ANY = "*"


@dataclass(frozen=True, slots=True)
class Listing:
    """What `/v1/models` shows: exact names, and the upstreams whose own lists count, with a pattern each."""

    names: tuple[str, ...]
    open_upstreams: tuple[tuple[str, str], ...]


class RouteTable:
    """Where each model of each operation goes.

    An exact name beats the longest glob; a glob beats the operation's own upstream; that beats `*`,
    which names nothing in particular. With one upstream and neither `models` nor `operations`
    everything goes there.
    """

    def __init__(
        self,
        exact: Mapping[str, tuple[Target, ...]],
        globs: tuple[tuple[str, tuple[Target, ...]], ...],
        operations: Mapping[str, tuple[Target, ...]],
        catch_all: tuple[Target, ...],
        unnamed: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._exact = exact
        self._globs = globs
        self._operations = operations
        self._catch_all = catch_all
        self._unnamed = unnamed

    @classmethod
    def from_config(cls, config: Config) -> RouteTable:
        patterns = {name: model for name, model in config.models.items() if _is_glob(name)}
        globs = sorted(patterns.keys() - {ANY}, key=lambda name: (-len(name), name))
        operations: dict[str, tuple[Target, ...]] = {
            name: (Target(route.upstream, timeouts=_timeouts(route, config.upstreams[route.upstream])),)
            for name, route in config.operations.items()
        }
        catch_all: tuple[Target, ...] = ()
        if ANY in patterns:
            catch_all = _targets(patterns[ANY], config)
        elif not config.models and len(config.upstreams) == 1:
            catch_all = (Target(next(iter(config.upstreams))),)
        return cls(
            {name: _targets(model, config) for name, model in config.models.items() if name not in patterns},
            tuple((name, _targets(patterns[name], config)) for name in globs),
            operations,
            catch_all,
            {name: route.model for name, route in config.operations.items() if route.model is not None},
        )

    def model_without_name(self, operation: str) -> str:
        """The model of a request of `operation` that names none; "" where it goes on without one."""
        return self._unnamed.get(operation, "")

    def resolve(self, operation: str, model: str, may_see: Callable[[str], bool] | None = None) -> tuple[Target, ...]:
        """The targets of `model` in order, at least one; "" is none. Raises ModelNotFound, which names what there is
        and its reader `may_see`; None: all of it."""
        if (found := self._exact.get(model)) is not None:
            return found
        for pattern, targets in self._globs:
            if fnmatchcase(model, pattern):
                return targets
        if targets := self._operations.get(operation, self._catch_all):
            return targets
        raise ModelNotFound(self._unknown(model, may_see), param="model")

    def listing(self) -> Listing:
        everything = {target.upstream: ANY for targets in self._operations.values() for target in targets}
        everything |= {target.upstream: ANY for target in self._catch_all}
        listed = [*everything.items()]
        listed += [(target.upstream, glob) for glob, targets in self._globs for target in targets]
        return Listing(tuple(self._exact), tuple(dict.fromkeys(listed)))

    def _unknown(self, model: str, may_see: Callable[[str], bool] | None) -> str:
        if not model:
            return "The request names no model, and no entry of `operations` says where such ones go."
        known = [name for name in self._exact if may_see is None or may_see(name)]
        known += [pattern for pattern, _ in self._globs] if may_see is None else []
        shown = ", ".join(known[:NAMED_IN_ERROR]) + (", …" if len(known) > NAMED_IN_ERROR else "")
        return f"The model {model[:100]!r} is not configured here. Configured: {shown or 'none for this operation'}."


def _is_glob(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _targets(model: Model, config: Config) -> tuple[Target, ...]:
    return tuple(
        Target(target.upstream, target.name, _timeouts(model, config.upstreams[target.upstream]))
        for target in model.in_order()
    )


def _timeouts(model: Model | OperationRoute, upstream: Upstream) -> Timeouts | None:
    """The upstream's, with what the model or the operation sets of its own in their place."""
    if model.timeouts is None:
        return None
    own = {name: getattr(model.timeouts, name) for name in model.timeouts.model_fields_set}
    return upstream.timeouts.model_copy(update=own).value()
