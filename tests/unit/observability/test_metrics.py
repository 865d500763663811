import asyncio
import gc
import itertools
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from gatepass.errors import (
    GatepassError,
    RoleNotAllowed,
    TokenUnavailable,
    UpstreamAuth,
    UpstreamErrorReply,
    UpstreamTimeout,
)
from gatepass.observability import metrics as module
from gatepass.observability.metrics import (
    MAX_HISTOGRAMS,
    MAX_SERIES,
    MAX_TOKENS,
    MOST_CODES,
    Family,
    Labels,
    Metrics,
    Sample,
    Series,
)
from gatepass.observability.observer import AccessRecord, AttemptRecord, Refusal, RequestRecord
from gatepass.observability.story import failed_at
from tests.unit.http_client.loop import DrivenLoop, advance

CONFIGURED = ("gpt", "bge")
LABELS = 'caller="{}",model="{}",upstream="{}",operation="{}"'


def with_models(*names: str) -> Metrics:
    metrics = Metrics()
    metrics.attach(Sample, lambda model: model if model in names else None)
    return metrics


def series_of(metrics: Metrics, *key: str) -> Series:
    return metrics.of(key)


def shown(metrics: Metrics) -> list[str]:
    lines = metrics.exposition().decode().splitlines()
    return [line for line in lines if not line.startswith(("#", "process_"))]


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """The sum of the samples of `name` with these labels."""
    wanted = [f'{label}="{text}"' for label, text in labels.items()]
    lines = [line for line in shown(metrics) if line.split("{")[0].split(" ")[0] == name]
    found = [float(line.rpartition(" ")[2]) for line in lines if all(label in line for label in wanted)]
    assert found, (name, labels)
    return sum(found)


def test_a_series_is_exposed_with_the_four_labels_and_zeros_for_the_other_outcomes():
    metrics = with_models(*CONFIGURED)
    series = series_of(metrics, "alice", "gpt", "azure", "chat")
    series.requests["ok"].value += 2
    series.attempts.value += 3
    labels = {"caller": "alice", "model": "gpt", "upstream": "azure", "operation": "chat"}
    assert value(metrics, "gatepass_requests_total", outcome="ok", **labels) == 2
    assert value(metrics, "gatepass_requests_total", outcome="error", **labels) == 0
    assert value(metrics, "gatepass_attempts_total", **labels) == 3
    assert not [line for line in shown(metrics) if "_tokens_total" in line]


def test_the_same_key_has_one_series_and_the_same_labels_too():
    metrics = with_models(*CONFIGURED)
    assert series_of(metrics, "a", "gpt", "u", "chat") is series_of(metrics, "a", "gpt", "u", "chat")
    assert series_of(metrics, "a", "made-up", "u", "chat") is series_of(metrics, "a", "another", "u", "chat")
    assert series_of(metrics, "a", "gpt", "u", "chat") is not series_of(metrics, "b", "gpt", "u", "chat")


def test_unknown_labels_are_none_and_unconfigured_names_are_other():
    metrics = with_models(*CONFIGURED)
    series_of(metrics, "", "", "", "none").requests["error"].value += 1
    series_of(metrics, "alice", "made-up", "", "chat").requests["error"].value += 1
    none = {"caller": "none", "model": "none", "upstream": "none", "operation": "none"}
    assert value(metrics, "gatepass_requests_total", outcome="error", **none) == 1
    assert value(metrics, "gatepass_requests_total", outcome="error", caller="alice", model="other") == 1


def test_callers_share_the_histograms_of_their_model():
    metrics = with_models(*CONFIGURED)
    first = series_of(metrics, "alice", "gpt", "azure", "chat")
    second = series_of(metrics, "bob", "gpt", "azure", "chat")
    assert first.duration is second.duration
    assert first.first_token is second.first_token
    assert first.duration is not series_of(metrics, "bob", "bge", "azure", "chat").duration
    assert first.added is series_of(metrics, "bob", "bge", "azure", "chat").added
    first.duration.observe(0.05)
    second.duration.observe(20)
    shared = {"model": "gpt", "upstream": "azure", "operation": "chat"}
    assert value(metrics, "gatepass_request_duration_seconds_count", **shared) == 2
    assert value(metrics, "gatepass_request_duration_seconds_bucket", le="0.08", **shared) == 1


def test_plausible_token_counts_are_added():
    metrics = with_models(*CONFIGURED)
    series = series_of(metrics, "alice", "gpt", "azure", "chat")
    series.add_tokens(10, 20, 4, 15)
    series.add_tokens(1, None, None, None)
    series.add_tokens(MAX_TOKENS + 1, 10**400, 10**400, 10**400)
    for name, count in (("input", 11), ("output", 20), ("cached_input", 4), ("reasoning", 15)):
        assert value(metrics, f"gatepass_{name}_tokens_total", caller="alice", model="gpt") == count


def ended(*key: str, error: GatepassError | None = None) -> tuple[RequestRecord, GatepassError | None]:
    """A request of this caller, model, upstream and operation that ended with `error`."""
    caller, model, upstream, operation = key
    outcome = "ok" if error is None else "error"
    access = AccessRecord("id", "POST", "/", operation, caller, model=model, outcome=outcome, bytes_in=0, bytes_out=0)
    return RequestRecord(access, attempt(upstream), 0.0, 0.0, 1.0, 1.0, 0.0), error


def attempt(upstream: str, **more: Any) -> AttemptRecord:
    return AttemptRecord("id", "chat", "m", upstream, **more)


def test_invented_models_and_many_callers_make_a_bounded_number_of_series():
    """4,000 model names that a client invents, then 4,000 callers with a configured model: the caps hold."""
    models = [f"configured-{number}" for number in range(500)]
    metrics = with_models(*models)
    for number in range(4_000):
        key = ("alice", f"invented-{number}", "azure", "chat")
        metrics.request_ended(*ended(*key, error=UpstreamErrorReply("no", upstream="azure", status=404)))
    assert value(metrics, "gatepass_requests_total", model="other", outcome="error") == 4_000
    assert value(metrics, "gatepass_errors_total", model="other", code="upstream_error") == 4_000
    assert len([line for line in shown(metrics) if line.startswith("gatepass_requests_total")]) == 3

    for number in range(4_000):
        key = (f"caller-{number}", models[number % len(models)], "azure", "chat")
        series_of(metrics, *key).requests["ok"].value += 1
        series_of(metrics, *key).duration.observe(1.0)
        metrics.request_ended(*ended(*key, error=TokenUnavailable("no token", credential="corp")))
    lines = shown(metrics)
    named = list({line.split('"')[1] for line in lines if line.startswith("gatepass_requests_total")})
    assert len(named) == MAX_SERIES + 1
    assert value(metrics, "gatepass_requests_total", outcome="ok") == 4_000
    assert value(metrics, "gatepass_requests_total", outcome="ok", caller="other", model="other") > 2_900
    assert value(metrics, "gatepass_errors_total", code="token_unavailable") == 4_000
    assert len([line for line in lines if line.startswith("gatepass_errors_total")]) <= MAX_SERIES + 2
    durations = [line for line in lines if line.startswith("gatepass_request_duration_seconds_count")]
    assert len(durations) <= MAX_HISTOGRAMS + 1
    assert value(metrics, "gatepass_request_duration_seconds_count") == 4_000  # without the errors
    assert len(metrics.series) <= MAX_SERIES


def test_long_invented_names_are_not_kept():
    metrics = with_models(*CONFIGURED)
    series_of(metrics, "alice", "x" * 1_000_000, "azure", "chat").requests["error"].value += 1
    assert not metrics.series
    assert value(metrics, "gatepass_requests_total", model="other", outcome="error") == 1


def test_a_reload_keeps_the_counts_and_names_the_new_models():
    metrics = with_models("old")
    series_of(metrics, "alice", "old", "azure", "chat").requests["ok"].value += 1
    series_of(metrics, "alice", "new", "azure", "chat").requests["ok"].value += 1
    metrics.attach(Sample, lambda model: model if model in ("old", "new") else None)
    series_of(metrics, "alice", "old", "azure", "chat").requests["ok"].value += 1
    series_of(metrics, "alice", "new", "azure", "chat").requests["ok"].value += 1
    for model, count in (("old", 2), ("new", 1), ("other", 1)):
        assert value(metrics, "gatepass_requests_total", model=model, outcome="ok") == count


def test_a_refused_sign_in_of_the_page_is_no_error_of_a_request():
    metrics = Metrics()
    metrics.refused(Refusal(RoleNotAllowed("no"), "127.0.0.1", at_page=True))
    metrics.refused(Refusal(RoleNotAllowed("no"), "127.0.0.1"))
    assert value(metrics, "gatepass_errors_total", code="role_not_allowed") == 2
    assert metrics.totals().by_code == {"role_not_allowed": (1,)}


def test_an_upstreams_own_code_is_no_label_value():
    metrics = Metrics()
    error = UpstreamErrorReply("no", upstream="chat", status=400, upstream_code="made-up-by-the-upstream")
    metrics.request_ended(*ended("alice", "", "chat", "files", error=error))
    labels = {"caller": "alice", "model": "none", "upstream": "chat", "operation": "files", "code": "upstream_error"}
    assert value(metrics, "gatepass_errors_total", hop="upstream:chat", **labels) == 1
    assert metrics.totals().by_code == {"made-up-by-the-upstream": (1,)}


def test_the_page_tells_a_limited_number_of_codes_of_upstreams_apart():
    metrics = Metrics()
    for i in range(MOST_CODES + 5):
        error = UpstreamErrorReply("no", upstream="chat", status=400, upstream_code=f"code-{i}")
        metrics.request_ended(*ended("alice", "", "chat", "files", error=error))
    by_code = metrics.totals().by_code
    assert (len(by_code), by_code["upstream_error"]) == (MOST_CODES + 1, (5,))


def test_an_error_is_counted_by_the_code_that_the_documentation_has():
    metrics = Metrics()
    metrics.refused(Refusal(UpstreamTimeout("silence", upstream="chat", phase="idle"), "127.0.0.1"))
    labels = {"caller": "none", "model": "none", "upstream": "none", "operation": "none"}
    assert value(metrics, "gatepass_errors_total", code="upstream_timeout_idle", hop="upstream:chat", **labels) == 1


@pytest.mark.parametrize(
    ("status", "message", "sent_as", "named", "errors"),
    [
        (404, "The model `x` does not exist", None, False, 0),
        (404, "The model `x` does not exist", "m", False, 0),
        (404, "The model `x` does not exist", "x", False, 1),  # the name is of the configuration
        (404, "The model `m` does not exist", None, True, 1),
        (404, "Not Found. The upstream has no such path: it does not support this operation.", None, False, 1),
        *((status, "no", None, False, 1) for status in (400, 401, 403, 422, 429, 500)),
    ],
)
def test_a_name_that_a_client_chose_is_no_error_of_its_upstream(
    status: int, message: str, sent_as: str | None, named: bool, errors: int
):
    kind = UpstreamAuth if status == 401 else UpstreamErrorReply
    metrics = Metrics()
    request, error = ended("alice", "m", "chat", "chat", error=kind(message, upstream="chat", status=status))
    assert request.attempt is not None
    assert error is not None
    request.attempt.requests, request.attempt.upstream_model = 1, sent_as
    request.attempt.names_model = named
    metrics.request_ended(request, error)
    assert metrics.totals().by_upstream == {"chat": (1, errors)}
    assert (metrics.last_error("chat", 2.0) is None) == (not errors)
    access = request.access
    access.outcome, access.hop, access.status, access.reason = "error", error.hop, status, message
    access.code = error.public_code
    assert failed_at(request, "chat") == bool(errors)
    assert not failed_at(request, "other")


@pytest.mark.parametrize(
    ("place", "health"), [("upstreams.chat.base_url does not end with the version, or it", "failing"), ("it", "ok")]
)
def test_an_upstream_whose_base_url_lacks_its_version_is_failing(place: str, health: str):
    message = f"Not Found. The upstream has no such path: {place} does not support this operation."
    metrics = Metrics()
    request, error = ended("a", "m", "chat", "chat", error=UpstreamErrorReply(message, upstream="chat", status=404))
    assert request.attempt is not None
    request.attempt.requests = 1
    metrics.request_ended(request, error)
    assert metrics.health("chat") == health
    if health == "failing":
        assert (metrics.last_failed("chat", 2.0) or {})["test"] == "gatepass doctor m --call"


def test_repeats_are_counted_by_upstream():
    metrics = Metrics()
    first = attempt("chat", outcome="token_rejected")
    metrics.attempt_repeats(attempt("chat", cause="new_token", after=first))
    metrics.attempt_repeats(attempt("chat", cause="new_connection", after=attempt("chat", outcome="connection_failed")))
    metrics.attempt_repeats(attempt("long", cause="context_fallback", after=attempt("chat", outcome="error_reply")))
    lines = shown(metrics)
    for cause in ("new_token", "new_connection", "context_fallback"):
        assert f'gatepass_repeats_total{{cause="{cause}",upstream="chat"}} 1.0' in lines
    for name in ("token_retries", "stale_connection_retries"):
        assert f'gatepass_{name}_total{{upstream="chat"}} 1.0' in lines


def test_a_target_that_was_not_reached_is_counted_by_upstream_and_code():
    metrics = Metrics()
    for code in ("upstream_timeout_connect", "token_unavailable"):
        metrics.attempt_repeats(attempt("second", cause="next_target", after=attempt("first", code=code)))
    lines = shown(metrics)
    for code in ("upstream_timeout_connect", "token_unavailable"):
        assert f'gatepass_failovers_total{{code="{code}",upstream="first"}} 1.0' in lines


def test_credentials_connections_rules_and_requests_in_flight_are_read_at_the_scrape():
    values: dict[str, dict[Labels, float]] = {
        "gatepass_token_expires_in_seconds": {("corp",): 12.5},
        "gatepass_upstream_connections": {("chat", "busy"): 3, ("chat", "idle"): 2},
        "gatepass_token_fetches_total": {("corp",): 3},
        "gatepass_requests_in_flight_limit": {(): 4_000},
    }
    in_flight = [
        ("alice", "gpt", "chat", "chat"),
        ("alice", "gpt", "chat", "chat"),
        ("alice", "made-up", "chat", "chat"),
    ]
    sample = Sample(values, in_flight)
    samples = [sample]
    metrics = Metrics()
    metrics.attach(lambda: samples[-1], lambda model: model if model in CONFIGURED else None)
    series_of(metrics, "bob", "bge", "chat", "embeddings")
    lines = shown(metrics)
    assert 'gatepass_token_expires_in_seconds{credential="corp"} 12.5' in lines
    assert 'gatepass_token_fetches_total{credential="corp"} 3.0' in lines
    assert 'gatepass_upstream_connections{state="busy",upstream="chat"} 3.0' in lines
    assert 'gatepass_upstream_connections{state="idle",upstream="chat"} 2.0' in lines
    assert "gatepass_requests_in_flight_limit 4000.0" in lines
    assert value(metrics, "gatepass_requests_in_flight", caller="alice", model="gpt") == 2
    assert value(metrics, "gatepass_requests_in_flight", caller="alice", model="other") == 1
    assert value(metrics, "gatepass_requests_in_flight", caller="bob") == 0
    samples.append(Sample())
    assert not [line for line in shown(metrics) if "corp" in line or "alice" in line]
    assert value(metrics, "gatepass_requests_in_flight", caller="bob") == 0


def test_a_wait_for_a_connection_is_observed_by_upstream():
    metrics = Metrics()
    metrics.waited_for_connection("chat", 0.3)
    assert value(metrics, "gatepass_pool_wait_seconds_bucket", upstream="chat", le="0.5") == 1
    assert value(metrics, "gatepass_pool_wait_seconds_bucket", upstream="chat", le="0.25") == 0


def test_the_lag_of_the_event_loop_is_sampled_until_the_block_ends():
    metrics = Metrics()

    def lags() -> list[float]:
        return [value(metrics, f"gatepass_event_loop_lag_seconds_{kind}") for kind in ("count", "sum")]

    async def sampled():
        sampling = asyncio.create_task(metrics.sample_loop_lag(every_s=1.0))
        await asyncio.sleep(0)
        await advance(1.25)  # as where something holds the loop: the timer is late by 0.25 s
        assert lags() == [1, 0.25]
        await advance(1.0)
        assert lags() == [2, 0.25]
        sampling.cancel()
        await advance(2.0)
        assert lags() == [2, 0.25]

    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        runner.run(sampled())


def test_the_process_is_measured_with_the_standard_names():
    text = Metrics().exposition().decode()
    for name in ("process_open_fds", "process_max_fds", "process_resident_memory_bytes", "process_cpu_seconds_total"):
        assert f"\n{name} " in text


def test_bounds_ascend_and_have_no_duplicates():
    for bounds in (module.DURATION_S, module.FIRST_TOKEN_S, module.PER_TOKEN_S, module.DELAY_S):
        assert list(bounds) == sorted(set(bounds))


class OfFamily:
    """What a registry collects of one family."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self):
        return [self._family.collected()]


def exposed(family: Family) -> list[str]:
    registry = CollectorRegistry()
    registry.register(OfFamily(family))
    return generate_latest(registry).decode().splitlines()


def test_counts_add_up_by_their_labels():
    counts = Family("gatepass_client_bytes_total{direction}", "Body bytes")
    assert exposed(counts) == [
        "# HELP gatepass_client_bytes_total Body bytes",
        "# TYPE gatepass_client_bytes_total counter",
    ]
    counts.of(("in",)).value += 42
    counts.of(("out",)).value += 1
    assert exposed(counts)[2:] == [
        'gatepass_client_bytes_total{direction="in"} 42.0',
        'gatepass_client_bytes_total{direction="out"} 1.0',
    ]


def test_counter_of_labels_is_one_object_and_exposed_from_then_on():
    counts = Family("gatepass_client_bytes_total{direction}", "Body bytes")
    assert counts.of(("in",)) is counts.of(("in",))
    assert exposed(counts)[2:] == ['gatepass_client_bytes_total{direction="in"} 0.0']


def test_every_metric_can_be_read_by_name_labels_and_value():
    """As another exporter reads it."""
    gauge = Family("gatepass_learned_rules{upstream}", "Rules")
    gauge.of(("chat",)).value = 7
    read = [(gauge.name, dict(zip(gauge.labels, of, strict=True)), cell.value) for of, cell in gauge.cells.items()]
    assert read == [("gatepass_learned_rules", {"upstream": "chat"}, 7)]


def test_a_histogram_is_shown_with_its_first_value():
    times = Family("gatepass_pool_wait_seconds{upstream}", "Waits")
    assert times.of(("chat",)) is times.of(("chat",))
    assert times.of(("chat",)) is not times.of(("rerank",))
    assert len(exposed(times)) == 2
    times.of(("chat",)).observe(0.2)
    assert len(exposed(times)) == 4 + len(module.DELAY_S) + 1


def test_histogram_counts_each_bound_and_smaller_values(monkeypatch):
    monkeypatch.setattr(module, "BOUNDS_S", {"gatepass_pool_wait_seconds": (0.1, 1, 2.5)})
    times = Family("gatepass_pool_wait_seconds{upstream}", "Waits")
    for seconds in (0.05, 0.1, 0.11, 2.5, 9):
        times.of(("chat",)).observe(seconds)
    assert exposed(times)[2:] == [
        'gatepass_pool_wait_seconds_bucket{le="0.1",upstream="chat"} 2.0',
        'gatepass_pool_wait_seconds_bucket{le="1.0",upstream="chat"} 3.0',
        'gatepass_pool_wait_seconds_bucket{le="2.5",upstream="chat"} 4.0',
        'gatepass_pool_wait_seconds_bucket{le="+Inf",upstream="chat"} 5.0',
        'gatepass_pool_wait_seconds_count{upstream="chat"} 5.0',
        'gatepass_pool_wait_seconds_sum{upstream="chat"} 11.76',
    ]


async def test_many_series_are_formatted_while_the_event_loop_runs():
    metrics = with_models("gpt")
    for number in range(MAX_SERIES):
        metrics.of((f"caller-{number}", "gpt", "azure", "chat")).requests["ok"].value += 1
    iterations, scrape = 0, asyncio.create_task(metrics.scrape())
    while not scrape.done():
        await asyncio.sleep(0)  # one iteration of the loop: the test measures their number
        iterations += 1
        metrics.of(("late", "gpt", "azure", f"operation-{iterations}"))
    assert iterations > 10
    assert scrape.result().count(b'outcome="ok"') >= MAX_SERIES


def test_cells_that_are_added_while_a_family_is_collected_do_not_disturb_it():
    family = Family("gatepass_requests_total{model}", "Requests")
    for number in range(2_000):
        family.of((str(number),)).value = 1
    late = (f"late-{number}" for number in itertools.count())
    before = gc.get_threshold()

    def add(_: str, __: dict[str, int]) -> None:
        family.of((next(late),))

    gc.callbacks.append(add)
    gc.set_threshold(1)
    try:
        samples = family.collected().samples
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(add)
    assert next(late) != "late-0"
    assert len(samples) >= 2_000
