"""Families of numbers as a scrape shows them."""

from prometheus_client import CollectorRegistry, generate_latest

from gatepass.observe.metrics import Counts, Level, Times


def shown(family) -> list[str]:
    registry = CollectorRegistry()
    registry.register(family)
    return generate_latest(registry).decode().splitlines()


def test_counts_add_up_by_their_labels():
    counts = Counts("gatepass_bytes_total", "Bytes", ("direction",))
    assert shown(counts) == ["# HELP gatepass_bytes_total Bytes", "# TYPE gatepass_bytes_total counter"]
    counts.add(("in",))
    counts.of(("in",)).value += 41
    counts.add(("out",))
    assert shown(counts)[2:] == [
        'gatepass_bytes_total{direction="in"} 42.0',
        'gatepass_bytes_total{direction="out"} 1.0',
    ]


def test_a_counter_that_was_asked_for_is_one_and_the_same_and_shown_from_then_on():
    counts = Counts("gatepass_bytes_total", "Bytes", ("direction",))
    assert counts.of(("in",)) is counts.of(("in",))
    assert shown(counts)[2:] == ['gatepass_bytes_total{direction="in"} 0.0']
    times = Times("gatepass_wait_seconds", "Wait", "operation", (0.1,))
    assert times.of("chat") is times.of("chat")
    assert times.of("chat") is not times.of("rerank")


def test_a_level_goes_up_and_down():
    level = Level("gatepass_now", "Now")
    level.value += 2
    level.value -= 1
    assert shown(level)[-1] == "gatepass_now 1.0"


def test_times_count_each_bound_and_what_is_below_it():
    times = Times("gatepass_wait_seconds", "Wait", "operation", (0.1, 1, 2.5))
    for seconds in (0.05, 0.1, 0.11, 2.5, 9):
        times.of("chat").observe(seconds)
    assert shown(times)[2:] == [
        'gatepass_wait_seconds_bucket{le="0.1",operation="chat"} 2.0',
        'gatepass_wait_seconds_bucket{le="1.0",operation="chat"} 3.0',
        'gatepass_wait_seconds_bucket{le="2.5",operation="chat"} 4.0',
        'gatepass_wait_seconds_bucket{le="+Inf",operation="chat"} 5.0',
        'gatepass_wait_seconds_count{operation="chat"} 5.0',
        'gatepass_wait_seconds_sum{operation="chat"} 11.76',
    ]
