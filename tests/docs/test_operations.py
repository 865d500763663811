"""docs/operations.md names each field of the access line and each own header, docs/reference/metrics.md each metric."""

import re
from pathlib import Path

from docs.generate import one_of_each
from prometheus_client.parser import text_string_to_metric_families

from gatepass.proxy.context import AccessRecord

TEXT = (Path(__file__).parents[2] / "docs/operations.md").read_text()
METRICS_PAGE = Path(__file__).parents[2] / "docs/reference/metrics.md"
SOURCES = Path(__file__).parents[2] / "src/gatepass"


def test_every_metric_of_the_code_is_in_the_reference_and_none_besides():
    code = (SOURCES / "observability/metrics.py").read_text()
    families = {name.removesuffix("_total") for name in re.findall(r'"(gatepass_\w+)"', code)}
    page = METRICS_PAGE.read_text()
    assert {
        name.removesuffix("_total") for name in re.findall(r"^## `(gatepass_\w+)`$", page, re.MULTILINE)
    } == families


def test_every_metric_is_documented_with_its_labels():
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(one_of_each().exposition().decode()):
        if family.name.startswith("gatepass_"):
            name = family.name + "_total" * (family.type == "counter")
            labels[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    rows = re.findall(r"^## `(gatepass_\w+)`$.*?^- Labels: (.*?)$", METRICS_PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert {name: set(re.findall(r"`(\w+)`", named)) for name, named in rows} == labels


def test_every_field_of_the_access_line_is_documented():
    fields = AccessRecord.__struct_fields__
    table = TEXT.partition("## The access line")[2].partition("## Response headers")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= set(fields) - {"stream"}
    assert "stream" in fields


def test_every_header_of_our_own_is_documented():
    sources = "".join(file.read_text() for file in SOURCES.rglob("*.py"))
    ours = set(re.findall(r'b"(x-gatepass-\w+)"', sources))
    assert ours
    assert {name for name in ours if f"`{name}`" not in TEXT} == set()
