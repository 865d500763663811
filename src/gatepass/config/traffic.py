"""`models.NAME.retry` and `models.NAME.breaker`: what is repeated, and which targets are passed over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from gatepass.config.block import Block, SettingFault


class RetryConfig(Block):
    """Which failed requests are repeated before anything of the reply was relayed, in addition to the repeats that
    need no setting.

    A repeat goes to the next available target, and to the same one after a pause if there is no other. It must have
    as much time left as the last try took. The time ends with `total_s`, or when the SDK of OpenAI or Anthropic stops
    to wait, as its headers state. A request that such an SDK itself repeats is not repeated.
    """

    on: Annotated[list[Literal["refused", "may_have_run"]], Field(min_length=1)] = ["refused"]
    """`refused`: no connection, 429, and 503 with `retry-after`. The upstream has not executed such a request.
    A 429 after the beginning of an answer, or inside a 200, also requires `may_have_run`. So does a request whose
    reused connection closed, because the upstream may have ended at it.
    `may_have_run`: any other 5xx, a timeout, or a reply that was cut or invalid, for the `operations` below.

    Example: [refused, may_have_run]

    Danger: With `may_have_run` the upstream may execute, and charge, a request twice.
    """
    operations: list[
        Literal["chat", "completions", "embeddings", "rerank", "responses", "messages", "moderations"]
    ] = []
    """The operations that `may_have_run` repeats. At most 20 % of the requests of the last 10 s are such repeats, or
    three a second if that is more.

    Example: [embeddings, rerank]
    """
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """The most attempts of a request, the first one included. Repeats that need no setting do not count.

    Unit: attempts

    Example: 2
    """

    def faults(self) -> Iterator[SettingFault]:
        if ("may_have_run" in self.on) != bool(self.operations):
            yield "operations", "expects the operations that `on: [may_have_run]` repeats, and belongs to it alone"


class BreakerConfig(Block):
    """When a target is passed over."""

    failures: Annotated[int, Field(ge=1)] = 5
    """Failures in a row that eject a target.

    Unit: failures

    Example: 3
    """
    ejection_s: Annotated[float, Field(ge=1)] = 30.0
    """The time for which a target is passed over. After it, one request is sent as a probe, and another one if the
    probe takes longer than `ejection_s`. A probe that fails begins the next ejection.

    Example: 10
    """
