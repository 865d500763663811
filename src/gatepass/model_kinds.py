"""What each model is for, as far as the configuration tells: for the names that RAGFlow reads types off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from gatepass.adapt.typed_ids import Kind, typed
from gatepass.config.model import Config

_OF_OPERATION: Mapping[str, Kind] = MappingProxyType({"embeddings": "embedding", "rerank": "rerank"})


class Kinds:
    """A model's kind is declared by its `capabilities`, or by its upstream where that is one operation's alone."""

    def __init__(self, config: Config) -> None:
        self._models = config.models
        served: dict[str, set[str]] = {}
        for name, route in config.operations.items():
            if name != "models":
                served.setdefault(route.upstream, set()).add(name)
        for pattern, entry in config.models.items():
            if any(sign in pattern for sign in "*?["):
                for target in entry.in_order():
                    served.setdefault(target.upstream, set()).add(pattern)
        alone = {upstream: names.pop() for upstream, names in served.items() if len(names) == 1}
        self._of_upstream = {upstream: _OF_OPERATION[name] for upstream, name in alone.items() if name in _OF_OPERATION}

    def typed(self, model: str, listed_by: Iterable[str] = ()) -> str:
        """The name by which `model` is to be listed; `listed_by` are the upstreams whose own lists have it."""
        entry = self._models.get(model)
        kind: Kind | None = None
        if entry is not None:
            listed_by = [target.upstream for target in entry.in_order()]
            kind = "vision" if entry.capabilities.vision else None
            kind = kind if entry.capabilities.dimensions is None else "embedding"
        kinds = {self._of_upstream.get(upstream) for upstream in listed_by}
        kind = kind or (kinds.pop() if len(kinds) == 1 else None)
        return model if kind is None else typed(model, kind)
