import math

from prometheus_client.parser import text_string_to_metric_families

from gatepass.observability.metrics import Labels, Metrics, Sample, exposition_of
from tests.unit.observability.test_metrics import ok

KEY = ("alice", "gpt", "azure", "chat")


def one_worker(requests: int, life_left_s: float, *, usable: bool = True, age_s: float = 1.0, rules: int = 0) -> bytes:
    values: dict[str, dict[Labels, float]] = {
        "gatepass_token_expires_in_seconds": {("c",): life_left_s},
        "gatepass_token_age_seconds": {("c",): age_s},
        "gatepass_token_usable": {("c",): usable},
        "gatepass_token_fetches_total": {("c",): 2},
        "gatepass_requests_in_flight_limit": {(): 100},
        "gatepass_learned_rules": {("azure",): rules},
    }
    metrics = Metrics()
    metrics.attach(lambda: Sample(values, [KEY]), lambda model: model)
    for _ in range(requests):
        ok(metrics, *KEY)
    return metrics.part()


def shown(exposition: bytes) -> list[str]:
    return [line for line in exposition.decode().splitlines() if not line.startswith("#")]


def process(exposition: bytes, name: str) -> float:
    (line,) = [line for line in shown(exposition) if line.startswith(f"{name} ")]
    return float(line.partition(" ")[2])


LABELS = 'caller="alice",model="gpt",operation="chat"'
RESULT = 'caller="alice",code="none",model="gpt",operation="chat",outcome="ok",status="200"'


def test_counters_histograms_and_gauges_are_added_up():
    lines = shown(exposition_of([one_worker(2, 10.0), one_worker(3, 20.0)]))
    assert f'gatepass_requests_total{{{RESULT},upstream="azure"}} 5.0' in lines
    shared = f'{LABELS},upstream="azure"'
    assert f'gatepass_request_duration_seconds_bucket{{le="1.28",{shared}}} 5.0' in lines
    assert f'gatepass_request_duration_seconds_bucket{{le="0.64",{shared}}} 0.0' in lines
    assert f"gatepass_request_duration_seconds_count{{{shared}}} 5.0" in lines
    assert f'gatepass_requests_in_flight{{{LABELS},upstream="azure"}} 2.0' in lines
    assert "gatepass_requests_in_flight_limit 200.0" in lines
    assert 'gatepass_token_fetches_total{credential="c"} 4.0' in lines


def test_merged_metrics_show_the_worst_worker_for_tokens_and_rules():
    lines = shown(
        exposition_of([one_worker(0, 10.0, age_s=5, rules=3), one_worker(0, 0.0, usable=False, age_s=90, rules=2)])
    )
    assert 'gatepass_token_expires_in_seconds{credential="c"} 0.0' in lines
    assert 'gatepass_token_age_seconds{credential="c"} 90.0' in lines
    assert 'gatepass_token_usable{credential="c"} 0.0' in lines
    assert 'gatepass_learned_rules{upstream="azure"} 3.0' in lines


def test_merged_metrics_show_the_largest_descriptor_count_and_the_sum_of_memory():
    part = one_worker(0, 10.0)
    one, both = exposition_of([part]), exposition_of([part, part])
    for name in ("process_open_fds", "process_max_fds", "process_start_time_seconds"):
        assert process(both, name) == process(one, name)
    assert process(both, "process_resident_memory_bytes") == 2 * process(one, "process_resident_memory_bytes")


def test_a_series_of_one_worker_is_kept():
    both = [Metrics(), Metrics()]
    ok(both[0], "alice", "", "azure", "chat")
    ok(both[1], "bob", "", "azure", "chat")
    text = exposition_of([one.part() for one in both])
    for caller in ("alice", "bob"):
        assert f'gatepass_attempts_total{{caller="{caller}"' not in text.decode()  # no request was sent
        (line,) = [line for line in shown(text) if line.startswith(f'gatepass_requests_total{{caller="{caller}"')]
        assert line.endswith(" 1.0")


def test_a_parser_of_prometheus_reads_labels_with_separators_and_all_values():
    metrics, caller = Metrics(), 'a "b"\u2028{c}\\n, 7\n'
    values: dict[str, dict[Labels, float]] = {
        "gatepass_token_expires_in_seconds": {("key",): math.inf, ("corp",): 1.5e-7, ("old",): 123456789012.0}
    }
    metrics.attach(lambda: Sample(values), lambda model: model)
    ok(metrics, caller, "", "azure", "chat")
    text = exposition_of([metrics.part()] * 2).decode()
    read = {one.name: one for one in text_string_to_metric_families(text)}
    labels = {"caller": caller, "model": "none", "upstream": "azure", "operation": "chat"}
    (sample,) = read["gatepass_requests"].samples
    assert (sample.value, sample.labels) == (2.0, {**labels, "status": "200", "outcome": "ok", "code": "none"})
    lives = {sample.labels["credential"]: sample.value for sample in read["gatepass_token_expires_in_seconds"].samples}
    assert lives == {"key": math.inf, "corp": 1.5e-7, "old": 123456789012.0}
    buckets = read["gatepass_request_duration_seconds"].samples
    assert {sample.name.rpartition("_")[2] for sample in buckets} == {"bucket", "count", "sum"}
    assert [sample.value for sample in buckets if sample.labels.get("le") in ("0.64", "1.28", "+Inf")] == [0, 2, 2]
    assert (read["gatepass_requests"].type, read["process_cpu_seconds"].type) == ("counter", "counter")
