from gatepass.observability.metrics import CredentialSample, Metrics, merged


def one_worker(requests: int, life_left_s: float, *, usable: bool = True) -> bytes:
    metrics = Metrics(lambda: [CredentialSample("c", usable=usable, life_left_s=life_left_s, fetches=2, failures=0)])
    for _ in range(requests):
        metrics.in_flight.value += 1
        metrics.request_finished("chat", "ok", 0.2, bytes_in=0, bytes_out=0)
    metrics.in_flight.value += 1
    return metrics.exposition()


def shown(exposition: bytes) -> list[str]:
    return [line for line in exposition.decode().splitlines() if not line.startswith("#")]


def test_counters_histograms_and_gauges_are_added_up():
    lines = shown(merged([one_worker(2, 10.0), one_worker(3, 20.0)]))
    assert 'gatepass_requests_total{operation="chat",outcome="ok"} 5.0' in lines
    assert 'gatepass_request_duration_seconds_bucket{le="0.25",operation="chat"} 5.0' in lines
    assert 'gatepass_request_duration_seconds_count{operation="chat"} 5.0' in lines
    assert "gatepass_requests_in_flight 2.0" in lines
    assert 'gatepass_token_fetches_total{credential="c"} 4.0' in lines


def test_of_a_tokens_life_the_worst_worker_counts():
    lines = shown(merged([one_worker(0, 10.0), one_worker(0, 0.0, usable=False)]))
    assert 'gatepass_token_expires_in_seconds{credential="c"} 0.0' in lines
    assert 'gatepass_token_usable{credential="c"} 0.0' in lines


def test_one_worker_alone_is_itself_without_creation_times():
    alone = one_worker(1, 5.0)
    expected = [line for line in shown(alone) if "_created" not in line]
    assert sorted(shown(merged([alone]))) == sorted(expected)
