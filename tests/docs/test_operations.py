"""docs/operations.md names every metric, every field of the access line and every header of gatepass's own."""

import re
from pathlib import Path

from gatepass.observability.metrics import CredentialSample, Metrics, StoreSample
from gatepass.proxy.context import AccessRecord

TEXT = (Path(__file__).parents[2] / "docs/operations.md").read_text()
SOURCES = Path(__file__).parents[2] / "src/gatepass"


def test_every_metric_is_documented_with_its_labels_and_none_besides():
    store = StoreSample(is_up=True, emptied=0, operations={("get", "ok"): 1})
    metrics = Metrics(lambda: [CredentialSample("c", usable=True, life_left_s=1, fetches=1, failures=0)], lambda: store)
    exposed = re.findall(r"^# TYPE (gatepass_\w+)", metrics.exposition().decode(), re.MULTILINE)
    families = {name for name in exposed if not name.endswith("_created")}
    documented = set(re.findall(r"^\| `(gatepass_\w+)` \|", TEXT, re.MULTILINE))
    assert documented == families


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
