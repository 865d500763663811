"""`models` and `operations`: which upstream serves what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gatepass.config.block import Block, Name
from gatepass.config.network import TimeoutSettings
from gatepass.config.rules import Capabilities, Rules, Stream

OperationName = Literal[
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
    "files",
    "batches",
    "models",
]


class OperationRoute(Block):
    upstream: Name
    """A name under `upstreams`."""
    model: str | None = None
    """The model of requests that name none, as Text Embeddings Inference's clients do; None: they go without."""
    timeouts: TimeoutSettings | None = None
    """Replaces the upstream's for this operation."""
    rules: Rules | None = None
    """What is changed on the way to it."""


class ModelTarget(Block):
    upstream: Name
    """A name under `upstreams`."""
    name: str | None = None
    """The model's name there; None sends the client's."""


class Model(Block):
    """A public model name (or a glob of them): one upstream, or `targets` to try in order."""

    upstream: Name | None = None
    """A name under `upstreams`; exclusive with `targets`."""
    name: str | None = None
    """The model's name there; None sends the client's."""
    targets: Annotated[list[ModelTarget], Field(min_length=1)] | None = None
    """Several upstreams to try in order; exclusive with `upstream`."""
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

    @model_validator(mode="after")
    def _one_way(self) -> Model:
        if (self.upstream is None) == (self.targets is None):
            raise ValueError("expects either upstream or targets")
        if self.targets is not None and self.name is not None:
            raise ValueError("name belongs into each of the targets")
        return self

    def in_order(self) -> list[ModelTarget]:
        if self.targets is not None:
            return self.targets
        return [ModelTarget(upstream=self.upstream or "", name=self.name)]
