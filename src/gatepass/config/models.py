"""`operations.NAME` and `models.NAME`: where requests go, and what is changed on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from gatepass.config.block import Block, Name
from gatepass.config.network import TimeoutSettings
from gatepass.config.routes import Capabilities, Rules, Stream

OfModel = Literal[
    "chat",
    "completions",
    "embeddings",
    "rerank",
    "responses",
    "transcriptions",
    "translations",
    "speech",
    "images",
    "moderations",
]
"""Operations whose requests are about a model."""
OperationName = Literal[OfModel, "files", "batches", "models"]

T = TypeVar("T")
Layer = TypeVar("Layer", TimeoutSettings, Rules)


def of_operation(blocks: Mapping[Any, T], operation: str) -> T | None:
    """The block of `operation`, where there is one."""
    return blocks.get(operation)


class OperationRoute(Block):
    upstream: Name | None = None
    """A name under `upstreams`; None: where they go without this block."""
    model: str | None = None
    """The model of requests that name none, as Text Embeddings Inference's clients do: they are routed by it, and those
    about a model go up with it. None: 400 for what is nothing without a model, and others go without."""
    timeouts: TimeoutSettings | None = None
    """Replaces the upstream's for this operation."""
    rules: Rules | None = None
    """What is changed in its requests."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("expects an upstream, or what else is different here: model, timeouts, rules")
        return self


class ModelTarget(Block):
    upstream: Name
    """A name under `upstreams`."""
    name: str | None = None
    """The model's name there; None sends the client's."""


class Lead(Block):
    """One upstream, or `targets` to try in order."""

    upstream: Name | None = None
    """A name under `upstreams`; exclusive with `targets`."""
    name: str | None = None
    """The model's name there; None sends the client's."""
    targets: Annotated[list[ModelTarget], Field(min_length=1)] | None = None
    """Several upstreams to try in order; exclusive with `upstream`."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.upstream is not None and self.targets is not None:
            raise ValueError("expects either upstream or targets")
        if self.targets is not None and self.name is not None:
            raise ValueError("name belongs into each of the targets")
        return self

    @property
    def leads(self) -> bool:
        """Whether it says where to go, and not only by which name."""
        return self.upstream is not None or self.targets is not None

    def in_order(self) -> list[ModelTarget]:
        if self.targets is not None:
            return self.targets
        return [] if self.upstream is None else [ModelTarget(upstream=self.upstream, name=self.name)]


class ModelOperation(Lead):
    """What is different for one operation of a model."""

    timeouts: TimeoutSettings | None = None
    """Replaces the model's for this operation."""
    stream: Stream | None = None
    """Whether the upstream streams it; None: as the model says."""
    rules: Rules | None = None
    """What is changed in its requests, before what the model says."""


class Model(Lead):
    """A public model name (or a glob of them): one upstream, or `targets` to try in order."""

    timeouts: TimeoutSettings | None = None
    """Replaces the upstream's for this model."""
    stream: Stream = "auto"
    """Whether the upstream streams: `auto` finds out, `native` (true) if asked, `emulate` (false) never, `aggregate`
    always."""
    suggest: str | None = None
    """The public name of a model to point at where this one cannot do what was asked for."""
    rules: Rules | None = None
    """What is changed on the way to it."""
    capabilities: Capabilities = Capabilities()
    """What it can do."""
    operations: dict[OfModel, ModelOperation] = {}
    """What is different for one operation, its upstream for instance."""

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        if not self.leads:
            raise ValueError("expects either upstream or targets")
        if self.targets is not None and any(own.name is not None and not own.leads for own in self.operations.values()):
            raise ValueError("name of an operation wants its upstream or targets beside it, for the model has targets")
        return self

    def at(self, operation: str, route: OperationRoute | None = None) -> Model:
        """This entry as it counts for `operation`: what it says of that operation comes first, then what it says of
        all, and then what `route`, the operation's own block, says of all models; of timeouts and rules one by one."""
        own = of_operation(self.operations, operation)
        if own is None and route is None:
            return self
        own, route = own or _NOTHING_OWN, route or _NO_ROUTE
        lead = own if own.leads else self
        counts = {
            "upstream": lead.upstream,
            "name": own.name or lead.name,
            "targets": lead.targets,
            "timeouts": _stacked(own.timeouts, self.timeouts, route.timeouts),
            "stream": own.stream or self.stream,
            "rules": _stacked(own.rules, self.rules, route.rules),
        }
        return self.model_copy(update=counts)

    def everywhere(self) -> list[ModelTarget]:
        """The targets of all operations."""
        return [target for lead in (self, *self.operations.values()) for target in lead.in_order()]


_NOTHING_OWN, _NO_ROUTE = ModelOperation(), OperationRoute.model_construct()


def _stacked(*layers: Layer | None) -> Layer | None:
    """One out of all that are there, the first on top."""
    found: Layer | None = None
    for layer in reversed(layers):
        found = found if layer is None else layer.upon(found)
    return found
