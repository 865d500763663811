"""One measured window, and the medians of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any, Self

US_PER_S = 1_000_000
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """The figures of one window. Times are in µs.

    - `cpu_us`: the gateway's CPU time per event of a stream, otherwise per request; the most reliable figure on a busy
      machine
    - `delay`: from the upstream's write of an event to the client's read
    - `ttft_added`: the time to the first event without the time that the upstream took
    - `gateway_cpu`, `rig_cpu`: shares of their cores; a rig near 1 was the limit
    """

    requests_s: float
    events_s: float
    mb_s: float
    latency_p50_us: float
    latency_p99_us: float
    ttft_added_p50_us: float
    delay_p50_us: float
    delay_p99_us: float
    cpu_us: float
    gateway_cpu: float
    rig_cpu: float
    memory_mb: float
    errors: float
    note: str = ""

    @classmethod
    def read(cls, output: dict[str, Any], gateway_cpu_s: float, rig_cpu_s: float, memory_bytes: int, note: str) -> Self:
        """Parse the line that the load generator prints."""
        window_s = output["seconds"]
        units = output["events"] or output["requests"]
        return cls(
            requests_s=output["requests"] / window_s,
            events_s=output["events"] / window_s,
            mb_s=output["bytes"] / window_s / MB,
            latency_p50_us=output["latency_us"]["p50"],
            latency_p99_us=output["latency_us"]["p99"],
            ttft_added_p50_us=output["ttft_added_us"]["p50"],
            delay_p50_us=output["delay_us"]["p50"],
            delay_p99_us=output["delay_us"]["p99"],
            cpu_us=gateway_cpu_s / units * US_PER_S if units else 0.0,
            gateway_cpu=gateway_cpu_s / window_s,
            rig_cpu=(rig_cpu_s + output["client_cpu_s"]) / window_s,
            memory_mb=memory_bytes / MB,
            errors=output["errors"] + output["unfinished"],
            note=note,
        )

    def document(self) -> dict[str, float | str]:
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()}


FIGURES = tuple(one.name for one in fields(Sample) if one.name != "note")


def medians(samples: Sequence[Sample]) -> Sample:
    """Return the median of each figure, and the sum of the errors."""
    figures = {name: median(getattr(one, name) for one in samples) for name in FIGURES}
    figures["errors"] = sum(one.errors for one in samples)
    return Sample(**figures, note="; ".join(dict.fromkeys(one.note for one in samples if one.note)))
