"""What each model is for, as far as the configuration tells: for the names that RAGFlow reads types off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from gatepass.config.model import Config
from gatepass.config.models import Model
from gatepass.config.routes import Kind
from gatepass.normalize.profiles import typed

_OF_OPERATION: Mapping[str, Kind] = MappingProxyType(
    {"embeddings": "embedding", "rerank": "rerank", "transcriptions": "asr", "translations": "asr", "speech": "tts"}
)


class Kinds:
    """A model's kind, where that is certain: it is declared by its `capabilities`, the model is one that requests of
    such an operation take where they name none, or its upstream serves operations of that kind alone and nothing under
    `models` leads there.
    """

    def __init__(self, config: Config) -> None:
        self._models = config.models
        self._of_model = _of_model(config)
        self._of_upstream = _of_upstream(config)

    def typed(self, model: str, listed_by: Iterable[str] = ()) -> str:
        """The name by which `model` is to be listed; `listed_by` are the upstreams whose own lists have it."""
        kind = self.of(model)
        if kind is None and model not in self._models:
            kinds = {self._of_upstream.get(upstream) for upstream in listed_by}
            kind = kinds.pop() if len(kinds) == 1 else None
        return model if kind is None else typed(model, kind)

    def of(self, model: str) -> Kind | None:
        """What `model` is declared for, or named for under `operations`; None where neither tells."""
        entry = self._models.get(model)
        return (None if entry is None else declared(entry)) or self._of_model.get(model)


def declared(entry: Model) -> Kind | None:
    """What the models of one entry are for, by its `capabilities`."""
    if entry.capabilities.kind is not None:
        return entry.capabilities.kind
    if entry.capabilities.dimensions is not None:
        return "embedding"
    return "vision" if entry.capabilities.vision else None


def _of_model(config: Config) -> Mapping[str, Kind]:
    """By public name; one that operations of several kinds name has none by that."""
    named: dict[str, set[str]] = {}
    for operation, route in config.operations.items():
        if route.model is not None:
            named.setdefault(route.model, set()).add(operation)
    return _of_one(named)


def _of_upstream(config: Config) -> Mapping[str, Kind]:
    led = {target.upstream for entry in config.models.values() for target in entry.everywhere()}
    if not config.models and len(config.upstreams) == 1:
        return {}  # everything goes there
    served: dict[str, set[str]] = {}
    for operation, route in config.operations.items():
        if operation != "models" and route.upstream is not None and route.upstream not in led:
            served.setdefault(route.upstream, set()).add(operation)
    return _of_one(served)


def _of_one(operations: Mapping[str, set[str]]) -> dict[str, Kind]:
    """The kind of what operations of one kind alone have to do with."""
    kinds = {name: {_OF_OPERATION.get(operation) for operation in names} for name, names in operations.items()}
    return {name: kind for name, found in kinds.items() if len(found) == 1 and (kind := next(iter(found))) is not None}
