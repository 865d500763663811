from prometheus_client import CollectorRegistry, generate_latest

from gatepass.errors import TokenUnavailable, UpstreamErrorReply, UpstreamTimeout
from gatepass.observability.metrics import Counts, CredentialSample, Gauge, Metrics, Times


def shown(metrics: Metrics) -> list[str]:
    return [line for line in metrics.exposition().decode().splitlines() if not line.startswith("#")]


def test_a_request_is_counted_once_with_its_times_and_bytes():
    metrics = Metrics(list)
    metrics.in_flight.value += 1
    metrics.request_finished("chat", "ok", 0.2, bytes_in=10, bytes_out=20)
    metrics.began_stream("chat", 0.03)
    lines = shown(metrics)
    assert 'gatepass_requests_total{operation="chat",outcome="ok"} 1.0' in lines
    assert 'gatepass_request_duration_seconds_count{operation="chat"} 1.0' in lines
    assert 'gatepass_time_to_first_token_seconds_sum{operation="chat"} 0.03' in lines
    assert 'gatepass_client_bytes_total{direction="in"} 10.0' in lines
    assert 'gatepass_client_bytes_total{direction="out"} 20.0' in lines
    assert "gatepass_requests_in_flight 0.0" in lines


def test_outcomes_share_their_operations_times_and_everybodys_bytes():
    metrics = Metrics(list)
    assert not [line for line in shown(metrics) if line.startswith("gatepass_client_bytes")]
    for operation, outcome in [
        ("chat", "ok"),
        ("chat", "error"),
        ("chat", "client_gone"),
        ("chat", "ok"),
        ("rerank", "ok"),
    ]:
        metrics.in_flight.value += 1
        metrics.request_finished(operation, outcome, 0.2, bytes_in=10, bytes_out=1)
    lines = shown(metrics)
    for outcome, count in (("ok", 2), ("error", 1), ("client_gone", 1)):
        assert f'gatepass_requests_total{{operation="chat",outcome="{outcome}"}} {count}.0' in lines
    assert 'gatepass_requests_total{operation="rerank",outcome="ok"} 1.0' in lines
    assert 'gatepass_request_duration_seconds_count{operation="chat"} 4.0' in lines
    assert 'gatepass_request_duration_seconds_count{operation="rerank"} 1.0' in lines
    assert 'gatepass_client_bytes_total{direction="in"} 50.0' in lines
    assert 'gatepass_client_bytes_total{direction="out"} 5.0' in lines
    assert "gatepass_requests_in_flight 0.0" in lines


def test_an_upstreams_own_code_is_no_label_value():
    metrics = Metrics(list)
    metrics.error_sent(UpstreamErrorReply("no", upstream="chat", status=400, upstream_code="made-up-by-the-upstream"))
    assert 'gatepass_errors_total{code="upstream_error",hop="upstream:chat"} 1.0' in shown(metrics)


def test_an_error_is_counted_by_the_code_that_the_documentation_has():
    metrics = Metrics(list)
    metrics.error_sent(UpstreamTimeout("silence", upstream="chat", phase="idle"))
    assert 'gatepass_errors_total{code="upstream_timeout_idle",hop="upstream:chat"} 1.0' in shown(metrics)


def test_attempts_and_repeats_are_counted_by_upstream():
    metrics = Metrics(list)
    metrics.attempted("chat")
    metrics.renewed("chat")
    metrics.repeated_stale("chat")
    lines = shown(metrics)
    for name in ("attempts", "token_retries", "stale_connection_retries"):
        assert f'gatepass_{name}_total{{upstream="chat"}} 1.0' in lines


def test_a_target_that_was_not_reached_is_counted_by_upstream_and_code():
    metrics = Metrics(list)
    metrics.failed_over("first", UpstreamTimeout("deaf", upstream="first", phase="connect", sent=False))
    metrics.failed_over("first", TokenUnavailable("no token", credential="corp"))
    lines = shown(metrics)
    for code in ("upstream_timeout_connect", "token_unavailable"):
        assert f'gatepass_failovers_total{{code="{code}",upstream="first"}} 1.0' in lines


def test_credentials_are_read_at_the_scrape():
    samples = [CredentialSample("corp", usable=True, life_left_s=12.5, fetches=3, failures=1)]
    metrics = Metrics(lambda: samples)
    lines = shown(metrics)
    assert 'gatepass_token_expires_in_seconds{credential="corp"} 12.5' in lines
    assert 'gatepass_token_usable{credential="corp"} 1.0' in lines
    assert 'gatepass_token_fetches_total{credential="corp"} 3.0' in lines
    samples.clear()
    assert not [line for line in shown(metrics) if "corp" in line]


def exposed(family) -> list[str]:
    registry = CollectorRegistry()
    registry.register(family)
    return generate_latest(registry).decode().splitlines()


def test_counts_add_up_by_their_labels():
    counts = Counts("gatepass_bytes_total", "Bytes", ("direction",))
    assert exposed(counts) == ["# HELP gatepass_bytes_total Bytes", "# TYPE gatepass_bytes_total counter"]
    counts.add(("in",))
    counts.of(("in",)).value += 41
    counts.add(("out",))
    assert exposed(counts)[2:] == [
        'gatepass_bytes_total{direction="in"} 42.0',
        'gatepass_bytes_total{direction="out"} 1.0',
    ]


def test_a_counter_that_was_asked_for_is_one_and_the_same_and_shown_from_then_on():
    counts = Counts("gatepass_bytes_total", "Bytes", ("direction",))
    assert counts.of(("in",)) is counts.of(("in",))
    assert exposed(counts)[2:] == ['gatepass_bytes_total{direction="in"} 0.0']
    times = Times("gatepass_wait_seconds", "Wait", "operation", (0.1,))
    assert times.of("chat") is times.of("chat")
    assert times.of("chat") is not times.of("rerank")


def test_a_level_goes_up_and_down():
    level = Gauge("gatepass_now", "Now")
    level.value += 2
    level.value -= 1
    assert exposed(level)[-1] == "gatepass_now 1.0"


def test_times_count_each_bound_and_what_is_below_it():
    times = Times("gatepass_wait_seconds", "Wait", "operation", (0.1, 1, 2.5))
    for seconds in (0.05, 0.1, 0.11, 2.5, 9):
        times.of("chat").observe(seconds)
    assert exposed(times)[2:] == [
        'gatepass_wait_seconds_bucket{le="0.1",operation="chat"} 2.0',
        'gatepass_wait_seconds_bucket{le="1.0",operation="chat"} 3.0',
        'gatepass_wait_seconds_bucket{le="2.5",operation="chat"} 4.0',
        'gatepass_wait_seconds_bucket{le="+Inf",operation="chat"} 5.0',
        'gatepass_wait_seconds_count{operation="chat"} 5.0',
        'gatepass_wait_seconds_sum{operation="chat"} 11.76',
    ]
