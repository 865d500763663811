"""The bar judges ratios of one run, on the right side of each limit."""

from dataclasses import replace

import pytest
from bench.promises import PROMISES, Figures, Promise, check
from bench.sample import Sample

SAMPLE_FIELDS = {
    "seconds": 2.0,
    "requests": 0,
    "events": 400,
    "bytes": 4_000_000,
    "errors": 1,
    "unfinished": 2,
    "client_cpu_s": 0.5,
    "latency_us": {"p50": 10.0, "p99": 20.0},
    "ttft_added_us": {"p50": 30.0},
    "delay_us": {"p50": 40.0, "p99": 50.0},
}
SAMPLE = Sample.read(SAMPLE_FIELDS, 0.004, 0.5, 3_000_000, "")


def promise(work: str, measure: str, unit: str = "") -> tuple[Promise, ...]:
    return tuple(one for one in PROMISES if one.work.startswith(work) and one.measure == measure and unit in one.unit)


def test_sample_reads_what_the_load_generator_states() -> None:
    read = Sample.read(SAMPLE_FIELDS, 0.004, 0.5, 3_000_000, "")
    assert read == Sample(
        requests_s=0.0,
        events_s=200.0,
        mb_s=2.0,
        latency_p50_us=10.0,
        latency_p99_us=20.0,
        ttft_added_p50_us=30.0,
        delay_p50_us=40.0,
        delay_p99_us=50.0,
        cpu_us=10.0,
        gateway_cpu=0.002,
        rig_cpu=0.5,
        memory_mb=3.0,
        errors=3,
    )


@pytest.mark.parametrize(("requests_s", "met", "miss"), [(24.0, True, 0.0), (12.0, True, 0.0), (6.0, False, 0.5)])
def test_at_least_is_missed_below_its_limit(requests_s: float, met: bool, miss: float) -> None:
    loads = {
        ("gatepass", "chat-64"): replace(SAMPLE, requests_s=requests_s),
        ("nginx", "chat-64"): replace(SAMPLE, requests_s=100.0),
    }
    (result,) = check(Figures(loads, {}), promise("small chat", "requests/s", "x nginx"))
    assert result.met is met
    assert result.miss == pytest.approx(miss)


@pytest.mark.parametrize(("cpu_us", "met", "miss"), [(18.0, True, 0.0), (36.0, False, 1.0)])
def test_at_most_is_missed_above_its_limit(cpu_us: float, met: bool, miss: float) -> None:
    loads = {("gatepass", "burst-32"): replace(SAMPLE, cpu_us=cpu_us), ("nginx", "burst-32"): SAMPLE}
    (result,) = check(Figures(loads, {}), promise("streamed burst", "CPU per event"))
    assert result.met is met
    assert result.miss == pytest.approx(miss)


@pytest.mark.parametrize(
    ("events_s", "errors", "value", "met"),
    [(30_000.0, 0, 1.0, True), (30_000.0, 1, 0.0, False), (15_000.0, 1, 0.5, False), (29_200.0, 0, 0.973, True)],
)
def test_streams_are_held_when_all_events_came_without_an_error(
    events_s: float, errors: int, value: float, met: bool
) -> None:
    loads = {("gatepass", "paced-1500"): replace(SAMPLE, events_s=events_s, errors=errors)}
    (result,) = check(Figures(loads, {}), promise("1,500", "events that arrived"))
    assert result.value == pytest.approx(value, abs=0.001)
    assert result.met is met


def test_a_rate_that_the_rig_limited_is_reported_by_cpu_too() -> None:
    mine = replace(SAMPLE, requests_s=24.0, cpu_us=120.0, gateway_cpu=0.99, rig_cpu=0.2)
    loads = {("gatepass-tls", "chat-64"): mine}
    for rig_cpu, gateway_cpu, by_cpu in ((0.99, 0.6, 0.15), (0.99, 0.98, None), (0.8, 0.6, None)):
        theirs = replace(SAMPLE, requests_s=100.0, cpu_us=18.0, gateway_cpu=gateway_cpu, rig_cpu=rig_cpu)
        figures = Figures(loads | {("nginx-tls", "chat-64"): theirs}, {})
        (result,) = check(figures, promise("TLS", "small chat, requests/s"))
        assert (result.value, result.by_cpu) == (0.24, by_cpu)
