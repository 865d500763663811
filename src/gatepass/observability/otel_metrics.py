"""The convention's metrics over OTLP, read from the cells of `Metrics`, as `/metrics` reads them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricsData,
    NumberDataPoint,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from gatepass.observability import conventions as names
from gatepass.observability.metrics import Cell, Metrics

CUMULATIVE = AggregationTemporality.CUMULATIVE


class CellReader:
    """Reads the cells of `metrics`. `about` returns the attributes of an upstream."""

    def __init__(
        self,
        metrics: Metrics,
        about: Callable[[str], dict[str, Any]],
        resource: Resource,
        scope: InstrumentationScope,
    ) -> None:
        self._metrics, self._about, self._resource, self._scope = metrics, about, resource, scope
        self._began_ns = time.time_ns()

    def exporting(self, exporter: MetricExporter) -> PeriodicExportingMetricReader:
        """Start the SDK's thread that exports them. It calls back here, in place of a MeterProvider."""
        reader = PeriodicExportingMetricReader(exporter)
        reader._set_collect_callback(self._collect)  # noqa: SLF001 - the SDK has no producer of metrics
        return reader

    def _collect(self, _reader: object, timeout_millis: float = 10_000) -> Any:  # noqa: ARG002 - of the SDK
        scope = ScopeMetrics(self._scope, [*self.read(time.time_ns())], "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])

    def read(self, now_ns: int) -> Iterator[Metric]:
        """Yield each metric that has a value."""
        for family, of_inference, of_embeddings, unit in names.METRICS:
            cells = [*self._metrics.family(family).cells.items()]  # the event loop may add some meanwhile
            for name, is_embedding in ((of_inference, False), (of_embeddings, True)):
                points: list[Any] = []
                for (caller, group, model, upstream, of), cell in cells:
                    operation = names.OPERATIONS.get(of)
                    if not name or operation is None or not cell.value or (of in names.EMBEDDING) != is_embedding:
                        continue
                    about = {names.OPERATION: operation, names.MODEL: model, names.CALLER: caller, names.GROUP: group}
                    about |= self._about(upstream)
                    points.append(self._point({one: value for one, value in about.items() if value}, cell, now_ns))
                if points and isinstance(points[0], HistogramDataPoint):
                    yield Metric(name, None, unit, Histogram(points, CUMULATIVE))
                elif points:
                    yield Metric(name, None, unit, Sum(points, CUMULATIVE, is_monotonic=True))

    def _point(self, about: dict[str, Any], cell: Cell, now_ns: int) -> HistogramDataPoint | NumberDataPoint:
        if not cell.bounds_s:  # upstreams report no tokens by modality
            return NumberDataPoint({**about, names.MODALITY: "unknown"}, self._began_ns, now_ns, cell.value)
        counts = [*cell.counts]
        times = self._began_ns, now_ns
        extremes: Any = (None, None)  # a cell keeps none
        return HistogramDataPoint(about, *times, sum(counts), cell.value, counts, cell.bounds_s, *extremes)
