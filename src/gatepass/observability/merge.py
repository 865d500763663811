"""One exposition out of several processes' own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

MERGED_BY: Mapping[str, Callable[[float, float], float]] = MappingProxyType(
    {"gatepass_token_life_left_seconds": min, "gatepass_token_usable": min}
)
"""What is not added up: of these the worst process counts."""

_Labels = tuple[tuple[str, str], ...]


def merged(expositions: Iterable[bytes]) -> bytes:
    """The sum of `expositions` (Prometheus text of the same program), `_created` times left out."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, _Labels], float]] = {}
    for exposition in expositions:
        for family in text_string_to_metric_families(exposition.decode()):
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            _add(values.setdefault(family.name, {}), family)
    for name, metric in families.items():
        for (sample, labels), value in values[name].items():
            metric.add_sample(sample, dict(labels), value)
    return generate_latest(_Fixed(families.values()))


def _add(values: dict[tuple[str, _Labels], float], family: Metric) -> None:
    for sample in family.samples:
        if sample.name.endswith("_created"):
            continue
        key = (sample.name, tuple(sample.labels.items()))
        combine = MERGED_BY.get(sample.name)
        if key not in values:
            values[key] = sample.value
        else:
            values[key] = combine(values[key], sample.value) if combine else values[key] + sample.value


class _Fixed:
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
