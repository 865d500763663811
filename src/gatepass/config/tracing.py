"""The block `tracing`: where the spans of OpenTelemetry are sent, and which requests are traced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field

from gatepass.config.block import BaseUrl, Block
from gatepass.config.credential.base import checked_extra

GRPC = "otel-grpc"
EXTRAS: Mapping[str, str] = MappingProxyType({"http": "otel", "grpc": GRPC})
PATHS: Mapping[str, str] = MappingProxyType({"http": "/v1/traces", "grpc": ""})
"""What the exporter of each protocol expects behind the address of the collector."""


class TracingConfig(Block):
    """Spans of requests for a collector of OpenTelemetry. The variables `OTEL_*` of the SDK apply to what
    no setting here decides."""

    protocol: Literal["http", "grpc"] = "http"
    """OTLP over HTTP, which requires the extra `otel`, or over gRPC, which requires `otel-grpc`.

    Example: grpc
    """
    endpoint: BaseUrl | None = None
    """The collector, without `/v1/traces`. None: `OTEL_EXPORTER_OTLP_ENDPOINT`, or the collector of this machine.

    Example: http://collector.monitoring:4318
    """
    sample_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """The part of the requests whose spans are sent. None: `OTEL_TRACES_SAMPLER`, or all.

    Unit: a number from 0 to 1

    Example: 0.1
    """

    def faults(self) -> Iterator[tuple[str, str]]:
        try:
            checked_extra(f"opentelemetry.exporter.otlp.proto.{self.protocol}", self.extra, "tracing")
        except ValueError as error:
            yield "", str(error)

    @property
    def extra(self) -> str:
        return EXTRAS[self.protocol]

    @property
    def url(self) -> str | None:
        """Where to send the spans, None if the variables `OTEL_*` decide."""
        return None if self.endpoint is None else self.endpoint + PATHS[self.protocol]
