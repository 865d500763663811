from gatepass.observability.metrics import Labels, Metrics, Sample, merge_expositions

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
    series = metrics.of(KEY)
    for _ in range(requests):
        series.requests["ok"].value += 1
        series.duration.observe(0.2)
    return metrics.exposition()


def shown(exposition: bytes) -> list[str]:
    return [line for line in exposition.decode().splitlines() if not line.startswith("#")]


def process(exposition: bytes, name: str) -> float:
    (line,) = [line for line in shown(exposition) if line.startswith(f"{name} ")]
    return float(line.partition(" ")[2])


LABELS = 'caller="alice",model="gpt",operation="chat"'


def test_counters_histograms_and_gauges_are_added_up():
    lines = shown(merge_expositions([one_worker(2, 10.0), one_worker(3, 20.0)]))
    assert f'gatepass_requests_total{{{LABELS},outcome="ok",upstream="azure"}} 5.0' in lines
    shared = 'model="gpt",operation="chat",upstream="azure"'
    assert f'gatepass_request_duration_seconds_bucket{{le="0.32",{shared}}} 5.0' in lines
    assert f'gatepass_request_duration_seconds_bucket{{le="0.16",{shared}}} 0.0' in lines
    assert f"gatepass_request_duration_seconds_count{{{shared}}} 5.0" in lines
    assert f'gatepass_requests_in_flight{{{LABELS},upstream="azure"}} 2.0' in lines
    assert "gatepass_requests_in_flight_limit 200.0" in lines
    assert 'gatepass_token_fetches_total{credential="c"} 4.0' in lines


def test_merged_metrics_show_the_worst_worker_for_tokens_and_rules():
    lines = shown(
        merge_expositions([one_worker(0, 10.0, age_s=5, rules=3), one_worker(0, 0.0, usable=False, age_s=90, rules=2)])
    )
    assert 'gatepass_token_expires_in_seconds{credential="c"} 0.0' in lines
    assert 'gatepass_token_age_seconds{credential="c"} 90.0' in lines
    assert 'gatepass_token_usable{credential="c"} 0.0' in lines
    assert 'gatepass_learned_rules{upstream="azure"} 3.0' in lines


def test_merged_metrics_show_the_largest_descriptor_count_and_the_sum_of_memory():
    one = one_worker(0, 10.0)
    both = merge_expositions([one, one])
    for name in ("process_open_fds", "process_max_fds", "process_start_time_seconds"):
        assert process(both, name) == process(one, name)
    assert process(both, "process_resident_memory_bytes") == 2 * process(one, "process_resident_memory_bytes")


def test_single_worker_is_unchanged_without_creation_times():
    alone = one_worker(1, 5.0)
    expected = [line for line in shown(alone) if "_created" not in line]
    assert sorted(shown(merge_expositions([alone]))) == sorted(expected)


def test_label_values_with_separators_are_kept():
    metrics = Metrics()
    metrics.of(('a "b"\u2028{c} 7\n', "", "", "chat")).requests["ok"].value += 1
    lines = merge_expositions([metrics.exposition()] * 2).decode().split("\n")
    (line,) = [line for line in lines if 'outcome="ok"' in line]
    assert line.startswith('gatepass_requests_total{caller="a \\"b\\"\u2028{c} 7\\n",')
    assert line.endswith(" 2.0")
