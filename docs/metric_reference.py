"""Write the entries of docs/reference/metrics.md, from the metrics of the code."""

from __future__ import annotations

import re
from collections.abc import Mapping

from docs.entries import Entry, joined
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from gatepass.errors import TokenUnavailable
from gatepass.observability.metrics import Labels, Metrics, Sample
from gatepass.observability.observer import AccessRecord, AttemptRecord, Refusal, RequestRecord, RuleChange
from gatepass.sse.usage import Usage

UNITS: Mapping[str, str] = {
    r"_seconds(_total)?$": "seconds",
    r"_bytes(_total)?$": "bytes",
    r"_tokens_total$": "tokens",
    r"_answers_total$": "replies",
    r"_failovers_total$": "requests",
    r"_observer_failures_total$": "events",
    r"_(errors|calls|operations|fetches|reloads|events|ejections|hits)_total$": r"\1",
    r"_fetch_failures_total$": "fetches",
    r"_emptied_total$": "losses",
    r"_lines_dropped_total$": "lines",
    r"_(usable|up|rejects_token|available)$": "1 for yes, 0 for no",
    r"_ratio$": "from 0 to 1",
    r"_connections(_limit)?$": "connections",
    r"_rules$": "rules",
    r"_streams(_limit)?$": "streams",
    r"_(requests|attempts|retries|repeats|in_flight)(_.*)?$": "requests",
}
"""The unit of a metric, by its name."""


def one_of_each() -> Metrics:
    """Return metrics with a value in each family."""
    metrics = Metrics()
    values: dict[str, dict[Labels, float]] = {
        "gatepass_token_expires_in_seconds": {("corp",): 240},
        "gatepass_key_expires_in_seconds": {("ragflow", "19864866"): 1_123_200},
        "gatepass_limit_left_ratio": {("caller", "ragflow", "tokens.month"): 0.18},
        "gatepass_token_age_seconds": {("corp",): 60},
        "gatepass_token_usable": {("corp",): 1},
        "gatepass_token_fetches_total": {("corp",): 2},
        "gatepass_token_fetch_failures_total": {("corp",): 1},
        "gatepass_upstream_connections": {("chat", "busy"): 1, ("chat", "idle"): 1},
        "gatepass_upstream_connections_limit": {("chat",): 100},
        "gatepass_queue_waiting_requests": {("chat",): 2},
        "gatepass_pool_waiting_requests": {("chat",): 0},
        "gatepass_requests_in_flight_limit": {(): 4000},
        "gatepass_learned_rules": {("chat",): 1},
        "gatepass_upstream_rejects_token": {("chat",): 0},
        "gatepass_target_available": {("chat", "gpt-4o-240806"): 1},
        "gatepass_target_in_flight": {("chat", "gpt-4o-240806"): 2},
        "gatepass_target_ejections_total": {("chat", "gpt-4o-240806"): 1},
        "gatepass_store_up": {(): 1},
        "gatepass_limits_store_up": {(): 1},
        "gatepass_store_operations_total": {("get", "ok"): 1},
        "gatepass_mcp_streams": {(): 3},
    }
    metrics.attach(lambda: Sample(values), lambda model: model, {"ragflow": "teams"})
    attempt = AttemptRecord("id", "chat", "gpt-4o", "chat", requests=1, outcome="token_rejected", code="upstream_auth")
    for cause in ("new_token", "new_connection", "next_target"):
        metrics.attempt_repeats(AttemptRecord("id", "chat", "gpt-4o", "chat", cause=cause, after=attempt))
    usage = Usage(20, 10, 30, 5, 3)
    access = AccessRecord(
        "id", "POST", "/v1/chat/completions", "chat", "ragflow", model="gpt-4o", outcome="ok", status=200
    )
    access.bytes_in, access.bytes_out, access.usage, access.events, access.empty_answer = 1, 1, usage, 3, True
    metrics.request_ended(RequestRecord(access, attempt, 0.0, 0.0, 0.5, 0.2, 0.1), None)
    call = AccessRecord("id", "POST", "/mcp/search", "mcp", "agent", status=200, outcome="ok", mcp_tool="find")
    call.bytes_in = call.bytes_out = 1
    of_tool = AttemptRecord("id", "mcp", "", "mcp/search", requests=1)
    metrics.request_ended(RequestRecord(call, of_tool, 0.0, 0.0, 0.5, 0.2, 0.1), None)
    metrics.refused(Refusal(TokenUnavailable("no token", credential="corp"), "127.0.0.1"))
    metrics.rule_changed(RuleChange("id", "learned", "chat", "gpt-4o", "chat", "drop=seed", ""))
    metrics.observer_failed("AccessLog")
    metrics.limit_hit(("caller", "ragflow"), "requests.minute", 1)
    metrics.waited_in_queue(("ragflow", "gpt-4o", "chat", "chat"), 0.8)
    metrics.waited_for_connection("chat", 0.1)
    metrics.family("gatepass_event_loop_lag_seconds").of(()).observe(0.001)
    return metrics


def name_of(family: Metric) -> str:
    return str(family.name + "_total" * (family.type == "counter"))


def metric_entry(family: Metric) -> Entry:
    name = name_of(family)
    labels = list(dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le"))
    unit = next(
        (re.sub(".*" + pattern, as_text, name) for pattern, as_text in UNITS.items() if re.search(pattern, name)), ""
    )
    facts = {
        "Type": family.type,
        "Unit": unit,
        "Labels": ", ".join(f"`{label}`" for label in labels) or "none",
    }
    return Entry(name, family.documentation, facts, depth=2)


def all_metrics() -> str:
    families = text_string_to_metric_families(one_of_each().exposition().decode())
    own = (family for family in families if family.name.startswith("gatepass_"))
    return joined(map(metric_entry, sorted(own, key=name_of)))
