import asyncio
import json
import math
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from gatepass.errors import (
    GatepassError,
    NotAllowed,
    TokenUnavailable,
    UpstreamAuth,
    UpstreamErrorReply,
    UpstreamHtml,
    UpstreamTimeout,
)
from gatepass.observability.metrics import (
    MAX_CACHED,
    MAX_NAMES,
    MAX_SERIES,
    MAX_TOKENS,
    MOST_CODES,
    SERIES_OF_OTHER,
    Labels,
    Metrics,
    Sample,
)
from gatepass.observability.observer import AccessRecord, AttemptRecord, Refusal, RequestRecord
from gatepass.sse.usage import Usage
from tests.unit.http_client.loop import DrivenLoop, advance

CONFIGURED = ("gpt", "bge")


def with_models(*names: str) -> Metrics:
    metrics = Metrics()
    metrics.attach(Sample, lambda model: model if model in names else None)
    return metrics


def shown(metrics: Metrics) -> list[str]:
    lines = metrics.exposition().decode().splitlines()
    return [line for line in lines if not line.startswith(("#", "process_"))]


def value(metrics: Metrics, name: str, **labels: str) -> float:
    wanted = [f'{label}="{text}"' for label, text in labels.items()]
    lines = [line for line in shown(metrics) if line.split("{")[0].split(" ")[0] == name]
    found = [float(line.rpartition(" ")[2]) for line in lines if all(label in line for label in wanted)]
    assert found, (name, labels)
    return sum(found)


def ok(metrics: Metrics, *key: str) -> None:
    metrics.request_ended(*ended(*key))


@pytest.mark.parametrize("callers", [2, MAX_NAMES])
def test_callers_have_histograms_of_their_own_while_there_are_few_series(callers: int):
    metrics = with_models(*CONFIGURED)
    for number in range(callers):
        ok(metrics, f"caller-{number}", "gpt", "azure", "chat")
    lines = [line for line in shown(metrics) if line.startswith("gatepass_request_duration_seconds_count")]
    assert len(lines) == callers if callers == 2 else MAX_SERIES // 160 < len(lines) < MAX_SERIES // 120
    assert any('caller="other"' in line for line in lines) is (callers == MAX_NAMES)
    assert value(metrics, "gatepass_request_duration_seconds_count", model="gpt", upstream="azure") == callers
    assert value(metrics, "gatepass_added_latency_seconds_sum", upstream="azure") == 0  # of durations of 1 s
    assert value(metrics, "gatepass_request_duration_seconds_bucket", caller="caller-1", le="1.28") == 1
    assert value(metrics, "gatepass_requests_total", caller=f"caller-{callers - 1}") == 1
    first, second = (metrics.of(("caller-0", model, "azure", "chat")) for model in CONFIGURED)
    assert first.duration is not second.duration
    assert first.added is second.added


def test_the_group_of_a_caller_is_a_label_wherever_the_caller_is_one():
    metrics = with_models(*CONFIGURED)
    groups = {f"caller-{number}": f"group-{number // 2}" for number in range(4)}
    metrics.attach(Sample, lambda model: model, groups)
    error = UpstreamErrorReply("no", upstream="azure", status=429)
    for caller in (*groups, "alone"):
        ok(metrics, caller, "gpt", "azure", "chat")
    metrics.request_ended(*ended("caller-1", "gpt", "azure", "chat", error=error))
    assert value(metrics, "gatepass_requests_total", group="group-0") == 3
    assert value(metrics, "gatepass_errors_total", caller="caller-1", group="group-0") == 1
    assert value(metrics, "gatepass_request_duration_seconds_count", caller="caller-1", group="group-0") == 1
    # an empty label is none, so that nothing changes for callers without a group
    assert [line for line in shown(metrics) if 'caller="alone"' in line and "group" not in line]
    metrics.attach(Sample, lambda model: model, {"caller-1": "group-1"})
    ok(metrics, "caller-1", "gpt", "azure", "chat")
    assert value(metrics, "gatepass_requests_total", caller="caller-1", group="group-1") == 1


def test_hits_of_limits_make_a_bounded_number_of_series():
    metrics = Metrics()
    for number in range(MAX_SERIES):
        metrics.limit_hit(("model", f"model-{number}"), "max_concurrent", 1)
    assert value(metrics, "gatepass_limit_hits_total", kind="model") == MAX_SERIES
    lines = [line for line in shown(metrics) if line.startswith("gatepass_limit_hits_total")]
    assert len(lines) <= MAX_SERIES - SERIES_OF_OTHER
    assert float(next(line for line in lines if 'name="other"' in line).split()[-1]) > SERIES_OF_OTHER


def test_plausible_token_counts_are_added():
    metrics = with_models(*CONFIGURED)
    series = metrics.of(("alice", "gpt", "azure", "chat"))
    series.add_tokens(10, 20, 4, 15)
    series.add_tokens(1, None, None, None)
    series.add_tokens(MAX_TOKENS + 1, 10**400, 10**400, 10**400)
    for name, count in (("input", 11), ("output", 20), ("cached_input", 4), ("reasoning", 15)):
        assert value(metrics, f"gatepass_{name}_tokens_total", caller="alice", model="gpt") == count


def test_the_time_of_a_later_token_is_that_after_the_first_byte():
    metrics = with_models(*CONFIGURED)
    for usage in (Usage(completion_tokens=5), None):
        request, _ = ended("alice", "gpt", "azure", "chat")
        request.access.events, request.access.usage = 9, usage
        metrics.request_ended(replace(request, first_byte_s=0.25, duration_s=2.25), None)
    found = {kind: value(metrics, f"gatepass_time_per_output_token_seconds_{kind}") for kind in ("count", "sum")}
    assert found == {"count": 1, "sum": 0.5}


def ended(*key: str, error: GatepassError | None = None) -> Any:
    caller, model, upstream, operation = key
    outcome, status = ("ok", 200) if error is None else ("error", error.http_status)
    access = AccessRecord("id", "POST", "/", operation, caller, model=model, outcome=outcome, status=status)
    access.bytes_in = access.bytes_out = 0
    return RequestRecord(access, attempt(upstream), 0.0, 0.0, 1.0, 1.0, 0.0), error


def attempt(upstream: str, **more: Any) -> AttemptRecord:
    return AttemptRecord("id", "chat", "m", upstream, **more)


def test_statuses_and_codes_are_told_apart():
    metrics = with_models("gpt")
    for error in (
        UpstreamErrorReply("no", upstream="azure", status=404),
        UpstreamErrorReply("no", upstream="azure", status=429, upstream_code="made-up-by-the-upstream"),
        UpstreamErrorReply("no", upstream="azure", status=503),
        UpstreamTimeout("late", upstream="azure", phase="first_byte"),
        TokenUnavailable("no token", credential="corp"),
    ):
        metrics.request_ended(*ended("alice", "gpt", "azure", "chat", error=error))
    broken = ended("alice", "gpt", "azure", "chat", error=UpstreamTimeout("silence", upstream="azure", phase="idle"))
    broken[0].access.status = 200  # its stream had begun
    metrics.request_ended(*broken)
    gone, _ = ended("alice", "gpt", "azure", "chat")
    gone.access.status, gone.access.outcome = None, "client_gone"
    metrics.request_ended(gone, None)
    labels = 'caller="alice",code="{}",model="gpt",operation="chat",outcome="{}",status="{}",upstream="azure"'
    assert {line for line in shown(metrics) if line.startswith("gatepass_requests_total")} == {
        f"gatepass_requests_total{{{labels.format(*one)}}} 1.0"
        for one in (
            ("upstream_error", "error", 404),
            ("upstream_error", "error", 429),
            ("upstream_error", "error", 503),
            ("upstream_timeout_first_byte", "error", 504),
            ("token_unavailable", "error", 503),
            ("upstream_timeout_idle", "error", 200),
            ("none", "client_gone", "none"),
        )
    }


def test_invented_models_take_no_place():
    metrics = with_models(*CONFIGURED)
    for number in range(4_000):
        key = ("alice", f"invented-{number}", "azure", "chat")
        metrics.request_ended(*ended(*key, error=UpstreamErrorReply("no", upstream="azure", status=404)))
    assert value(metrics, "gatepass_requests_total", model="other", outcome="error") == 4_000
    assert value(metrics, "gatepass_errors_total", model="other", code="upstream_error") == 4_000
    assert len([line for line in shown(metrics) if line.startswith("gatepass_requests_total")]) == 1
    ok(metrics, "alice", "gpt", "azure", "chat")
    assert value(metrics, "gatepass_requests_total", model="gpt") == 1


def test_many_combinations_make_a_bounded_number_of_series():
    """Each of 60 callers uses each of 60 models, with three results: no request is lost, and the totals fit."""
    names = [f"name-{number}" for number in range(60)]
    metrics = with_models(*names)
    for number, caller in enumerate(names):
        for model in names:
            key = (caller, model, f"upstream-{number}", "chat")
            ok(metrics, *key)
            for status in (429, 500):
                metrics.request_ended(*ended(*key, error=UpstreamErrorReply("no", upstream=key[2], status=status)))
    lines = [line for line in shown(metrics) if not line.startswith("gatepass_reloads")]
    assert 5_000 < len(lines) <= MAX_SERIES
    assert value(metrics, "gatepass_requests_total", caller="name-0", model="name-1", outcome="ok") == 1
    assert value(metrics, "gatepass_requests_total", caller="other", model="other") > 0
    for outcome, count in (("ok", 3_600), ("error", 7_200)):
        assert value(metrics, "gatepass_requests_total", outcome=outcome) == count
    assert value(metrics, "gatepass_errors_total") == 7_200
    assert value(metrics, "gatepass_request_duration_seconds_count") == 3_600  # without the errors
    assert len(metrics.series) <= MAX_CACHED
    totals = metrics.totals()
    assert (totals.requests, totals.errors, totals.by_caller["name-0"]) == (10_800, 7_200, (180, 120, 0))


def test_a_model_that_an_upstream_lists_has_its_name():
    metrics = Metrics(lambda text: text.replace("secret", "***"))
    metrics.attach(Sample, lambda model: "gpt-*" if model.startswith("gpt-") else model if model == "own" else None)
    for name in ("qwen", "gpt-4o", "gpt-x", "own", "a-secret"):
        ok(metrics, "alice", name, "chat", "chat")
    metrics.models_listed("chat", ["qwen", "gpt-4o", "own", "a-secret"])
    metrics.models_listed("rerank", ["bge"])
    for name in ("qwen", "gpt-4o", "gpt-x", "own", "bge", "invented", "a-secret"):
        ok(metrics, "alice", name, "chat", "chat")
    counts = {"other": 3, "qwen": 1, "gpt-*": 3, "gpt-4o": 1, "own": 2, "bge": 1, "a-***": 1}
    assert {name: value(metrics, "gatepass_requests_total", model=name) for name in counts} == counts


def test_the_first_tools_of_an_mcp_server_have_their_names():
    metrics = Metrics()
    for tool in ("find", *(f"tool-{number}" for number in range(MAX_NAMES)), "find"):
        request, _ = ended("alice", "", "mcp/search", "mcp")
        request.access.mcp_tool, request.attempt.ran_tool = tool, True
        metrics.request_ended(request, None)
    lines = {line.partition("{")[2] for line in shown(metrics) if line.startswith("gatepass_mcp_tool_calls")}
    counts = {"find": 2.0, **{f"tool-{number}": 1.0 for number in range(MAX_NAMES - 1)}, "other": 1.0}
    assert lines == {
        f'caller="alice",outcome="ok",tool="{tool}",upstream="mcp/search"}} {count}' for tool, count in counts.items()
    }


def test_a_tool_that_the_server_never_ran_takes_no_place():
    metrics = Metrics()
    for number in range(MAX_NAMES):
        request, _ = ended("alice", "", "mcp/search", "mcp")
        request.access.mcp_tool = f"invented-{number}"
        metrics.request_ended(request, None)
    for ran in (False, True, False):
        request, _ = ended("alice", "", "mcp/search", "mcp")
        request.access.mcp_tool, request.attempt.ran_tool = "find", ran
        metrics.request_ended(request, None)
    assert value(metrics, "gatepass_mcp_tool_calls_total", tool="find") == 2
    assert value(metrics, "gatepass_mcp_tool_calls_total", tool="other") == MAX_NAMES + 1


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\nb", "a\x85b", "a\u202eb", "a\ud800"])
def test_a_name_in_a_label_has_no_control_characters(name):
    """Not of a tool that ran, nor of a model that an upstream lists."""
    metrics = Metrics()
    metrics.models_listed("chat", [name])
    ok(metrics, "alice", name, "chat", "chat")
    request, _ = ended("alice", "", "mcp/search", "mcp")
    request.access.mcp_tool, request.attempt.ran_tool = name, True
    metrics.request_ended(request, None)
    text, escaped = metrics.exposition().decode(), json.dumps(name)[1:-1].replace("\\", "\\\\")
    assert f'tool="{escaped}"' in text
    assert f'model="{escaped}"' in text
    assert text.replace("\n", "").isprintable()


def test_a_scrape_fetches_the_lists_only_if_an_unlisted_model_was_used():
    metrics, fetched = with_models("gpt"), []
    metrics.fetch_lists = lambda: fetched.append(1)
    ok(metrics, "alice", "gpt", "chat", "chat")
    metrics.scrape()
    assert not fetched
    ok(metrics, "alice", "qwen", "chat", "chat")
    metrics.scrape()
    metrics.scrape()
    assert len(fetched) == 2  # the first one did not succeed
    metrics.models_listed("chat", ["qwen"])
    ok(metrics, "alice", "qwen", "chat", "chat")
    metrics.scrape()
    assert len(fetched) == 2


def test_a_reload_keeps_the_counts_and_names_the_new_models():
    metrics = with_models("old")
    ok(metrics, "alice", "old", "azure", "chat")
    ok(metrics, "alice", "new", "azure", "chat")
    metrics.attach(Sample, lambda model: model if model in ("old", "new") else None)
    ok(metrics, "alice", "old", "azure", "chat")
    ok(metrics, "alice", "new", "azure", "chat")
    for model, count in (("old", 2), ("new", 1), ("other", 1)):
        assert value(metrics, "gatepass_requests_total", model=model, outcome="ok") == count


def test_a_refused_sign_in_of_the_page_is_no_error_of_a_request():
    metrics = Metrics()
    metrics.refused(Refusal(NotAllowed("role_not_allowed", "no"), "127.0.0.1", at_page=True))
    metrics.refused(Refusal(NotAllowed("role_not_allowed", "no"), "127.0.0.1"))
    assert value(metrics, "gatepass_errors_total", code="role_not_allowed") == 2
    assert metrics.totals().by_code == {("role_not_allowed", "role_not_allowed"): (1,)}


def test_the_page_tells_a_limited_number_of_codes_of_upstreams_apart():
    metrics = Metrics()
    for i in range(MOST_CODES + 5):
        error = UpstreamErrorReply("no", upstream="chat", status=400, upstream_code=f"code-{i}")
        metrics.request_ended(*ended("alice", "", "chat", "files", error=error))
    by_code = metrics.totals().by_code
    assert (len(by_code), by_code["upstream_error", "upstream_error"]) == (MOST_CODES + 1, (5,))


@pytest.mark.parametrize(
    ("kind", "status", "case", "is_failure"),
    [
        *((UpstreamErrorReply, status, "", False) for status in (400, 403, 404, 422, 429)),
        (UpstreamErrorReply, 404, "no_path", False),
        *((UpstreamErrorReply, 404, case, True) for case in ("no_version", "no_api_version")),
        (UpstreamErrorReply, 500, "", True),
        (UpstreamAuth, 401, "", True),
        (UpstreamHtml, 403, "", True),
    ],
)
def test_a_4xx_is_a_failure_of_its_upstream_only_if_the_token_or_the_base_url_is_wrong(
    kind: Any, status: int, case: str, is_failure: bool
):
    metrics, error = Metrics(), kind("no", upstream="chat", status=status)
    request, _ = ended("alice", "m", "chat", "chat", error=error)
    request, error.case = replace(request, case=case), case
    request.attempt.requests = 1
    metrics.request_ended(request, error)
    assert metrics.totals().by_upstream == {"chat": (1, int(is_failure), int(not is_failure))}
    assert metrics.totals().errors == 1
    assert metrics.health("chat") == ("failing" if is_failure else "unknown")
    shown = metrics.last_failed("chat", 2.0), metrics.last_error("chat", 2.0)
    assert [one is not None for one in shown] == [is_failure] * 2
    assert getattr(shown[0], "test", "gatepass doctor m --call") == "gatepass doctor m --call"


def test_repeats_are_counted_by_upstream():
    metrics = Metrics()
    for cause, outcome, kind in (
        ("new_token", "token_rejected", ""),
        ("new_connection", "connection_failed", ""),
        ("next_target", "nothing_written", "token_unavailable"),
        *(("next_target", "error_reply", "upstream_error") for _ in range(200)),
        ("next_target", "connection_failed", "upstream_connect"),
    ):
        before = attempt("chat", outcome=outcome, code="overloaded", kind=kind)
        metrics.attempt_repeats(attempt("second", cause=cause, after=before))
    counted = ("repeats", "failovers")
    assert {line for line in shown(metrics) if line.startswith(tuple(f"gatepass_{one}" for one in counted))} == {
        *(
            f'gatepass_repeats_total{{cause="{cause}",upstream="chat"}} 1.0'
            for cause in ("new_token", "new_connection")
        ),
        'gatepass_repeats_total{cause="next_target",upstream="chat"} 202.0',
        'gatepass_failovers_total{code="token_unavailable",upstream="chat"} 1.0',
        'gatepass_failovers_total{code="upstream_connect",upstream="chat"} 1.0',
        'gatepass_failovers_total{code="upstream_error",upstream="chat"} 200.0',
    }


def test_credentials_connections_rules_and_requests_in_flight_are_read_at_the_scrape():
    values: dict[str, dict[Labels, float]] = {
        "gatepass_token_expires_in_seconds": {("corp",): 12.5, ("key",): math.inf},
        "gatepass_upstream_connections": {("chat", "busy"): 3, ("chat", "idle"): 2},
        "gatepass_token_usable": {("corp",): False},
        "gatepass_token_fetches_total": {("corp",): 3},
        "gatepass_requests_in_flight_limit": {(): 4_000},
    }
    samples = [Sample(values, [("alice", model, "chat", "chat") for model in ("gpt", "gpt", "made-up")])]
    metrics = Metrics()
    metrics.attach(lambda: samples[-1], lambda model: model if model in CONFIGURED else None)
    metrics.of(("bob", "bge", "chat", "embeddings"))
    lines = shown(metrics)
    assert {
        *('gatepass_token_expires_in_seconds{credential="corp"} 12.5', "gatepass_requests_in_flight_limit 4000.0"),
        'gatepass_token_expires_in_seconds{credential="key"} +Inf',
        'gatepass_token_fetches_total{credential="corp"} 3.0',
        'gatepass_token_usable{credential="corp"} 0.0',
        'gatepass_upstream_connections{state="busy",upstream="chat"} 3.0',
    } <= {*lines}
    assert value(metrics, "gatepass_requests_in_flight", caller="alice", model="gpt") == 2
    assert value(metrics, "gatepass_requests_in_flight", caller="alice", model="other") == 1
    assert value(metrics, "gatepass_requests_in_flight", caller="bob") == 0
    samples.append(Sample())
    assert not [line for line in shown(metrics) if "corp" in line]
    assert value(metrics, "gatepass_requests_in_flight", caller="alice") == 0
    assert value(metrics, "gatepass_requests_in_flight", caller="bob") == 0


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


def test_a_parser_of_prometheus_reads_labels_with_separators_and_all_values():
    metrics, caller = Metrics(), 'a "b"\u2028{c}\\n, 7\n'
    values: dict[str, dict[Labels, float]] = {
        "gatepass_token_expires_in_seconds": {("key",): math.inf, ("corp",): 1.5e-7, ("old",): 123456789012.0}
    }
    metrics.attach(lambda: Sample(values), lambda model: model)
    ok(metrics, caller, "", "azure", "chat")
    text = metrics.exposition().decode()
    read = {one.name: one for one in text_string_to_metric_families(text)}
    labels = {"caller": caller, "model": "none", "upstream": "azure", "operation": "chat"}
    (sample,) = read["gatepass_requests"].samples
    assert (sample.value, sample.labels) == (1.0, {**labels, "status": "200", "outcome": "ok", "code": "none"})
    lives = {sample.labels["credential"]: sample.value for sample in read["gatepass_token_expires_in_seconds"].samples}
    assert lives == {"key": math.inf, "corp": 1.5e-7, "old": 123456789012.0}
    buckets = read["gatepass_request_duration_seconds"].samples
    assert {sample.name.rpartition("_")[2] for sample in buckets} == {"bucket", "count", "sum"}
    assert [sample.value for sample in buckets if sample.labels.get("le") in ("0.64", "1.28", "+Inf")] == [0, 1, 1]
    assert (read["gatepass_requests"].type, read["process_cpu_seconds"].type) == ("counter", "counter")
    assert {"process_open_fds", "process_resident_memory_bytes"} <= {*read}
