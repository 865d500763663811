"""docs/operations.md names every metric, every field of the access line and every header of gatepass's own."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from gatepass.errors import TokenUnavailable
from gatepass.observability.metrics import CredentialSample, Metrics, PoolSample, Sample, StoreSample
from gatepass.proxy.context import AccessRecord

TEXT = (Path(__file__).parents[2] / "docs/operations.md").read_text()
SOURCES = Path(__file__).parents[2] / "src/gatepass"


def one_of_each() -> Metrics:
    """Metrics with a value in each family."""
    store = StoreSample(is_up=True, emptied=0, operations={("get", "ok"): 1})
    credential = CredentialSample("corp", usable=True, age_s=1, life_left_s=1, fetches=1, failures=0)
    pool = PoolSample("chat", busy=1, idle=1, waiting=1, limit=1)
    metrics = Metrics()
    metrics.attach(lambda: Sample([credential], [pool], (), 1, {"chat": 1}, store), lambda model: model)
    series = metrics.of(("alice", "gpt", "chat", "chat"))
    series.attempts = 1
    series.add_tokens(1, 1, 1, 1)
    for histogram in (series.duration, series.first_token, series.per_token, series.added):
        histogram.observe(1)
    error = TokenUnavailable("no token", credential="corp")
    metrics.error_sent(error, series)
    metrics.failed_over("chat", error)
    metrics.learning_event("chat", "learned")
    metrics.reloaded("unchanged")
    metrics.waited_for_connection("chat", 1)
    for count in (metrics.renewed, metrics.repeated_stale, metrics.empty_answer):
        count("chat")
    return metrics


def test_every_metric_is_documented_with_its_labels_and_none_besides():
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(one_of_each().exposition().decode()):
        if family.name.startswith("gatepass_"):
            name = family.name + "_total" * (family.type == "counter")
            labels[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    rows = re.findall(r"^\| `(gatepass_\w+)` \| ([\w, ]*)\| [\w ]+ \|", TEXT, re.MULTILINE)
    assert {name: set(re.findall(r"\w+", named)) for name, named in rows} == labels


def test_every_field_of_the_access_line_is_documented():
    fields = AccessRecord.__struct_fields__
    table = TEXT.partition("## The access line")[2].partition("## Response headers")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= set(fields) - {"stream"}
    assert "stream" in fields


def test_every_event_of_the_log_is_documented():
    sources = "".join(file.read_text() for file in SOURCES.rglob("*.py"))
    events = set(re.findall(r"\.(?:debug|info|warning|error|exception)\(\s*\"([a-z_]+)\"", sources))
    assert {"token_fetched", "request_failed", "worker_exited"} <= events
    assert {event for event in events if f"`{event}`" not in TEXT} == set()


def test_every_header_of_our_own_is_documented():
    sources = "".join(file.read_text() for file in SOURCES.rglob("*.py"))
    ours = set(re.findall(r'b"(x-gatepass-\w+)"', sources))
    assert ours
    assert {name for name in ours if f"`{name}`" not in TEXT} == set()
