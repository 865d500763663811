"""deploy/observability: a dashboard that Grafana can import, and queries of metrics and labels that gatepass has.

tests/e2e/test_prometheus.py evaluates them in a real Prometheus.
"""

import json
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.docs.blocks import blocks

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "observability"
REFERENCE = (ROOT / "docs/reference/metrics.md").read_text()
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
SCRAPED = {"job", "instance", "le"}
"""Labels that Prometheus or a histogram adds."""


def documented() -> dict[str, set[str]]:
    """The labels of each metric, by docs/reference/metrics.md."""
    rows = re.findall(r"^## `(gatepass_\w+)`$.*?^- Labels: (.*?)$", REFERENCE, re.MULTILINE | re.DOTALL)
    return {name: set(re.findall(r"\w+", labels)) for name, labels in rows}


def expressions() -> list[str]:
    (group,) = YAML(typ="safe").load(FOLDER / "alerts.yaml")["groups"]
    return [
        *(target["expr"] for panel in PANELS for target in panel.get("targets", ())),
        *(rule["expr"] for rule in group["rules"]),
        *"".join(blocks(REFERENCE, "text")).splitlines(),
    ]


def test_every_query_names_metrics_and_labels_that_gatepass_has():
    known = documented()
    for expression in expressions():
        named = re.findall(r"\b(gatepass_\w+?)(?:_bucket)?\b(?:\{([^}]*)\})?", expression)
        for metric, selector in named:
            assert set(re.findall(r"(\w+)(?:=|!)", selector)) <= known[metric] | SCRAPED, expression
        grouped = {label for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(", ")}
        assert grouped <= SCRAPED.union(*(known[metric] for metric, _ in named)), expression


def test_the_dashboard_has_a_variable_for_the_data_source_and_uses_it_everywhere():
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert set(variables) == {"datasource", "job", "caller", "model", "upstream"}
    uses = [one["datasource"] for one in (*PANELS, *variables.values()) if "datasource" in one]
    uses += [target["datasource"] for panel in PANELS for target in panel.get("targets", ())]
    assert {use["uid"] for use in uses} == {"${datasource}"}
    for name in re.findall(r"\$(\w+)", " ".join(expressions())):
        assert name in variables or name in ("__rate_interval", "__range")


def test_the_alerts_name_panels_and_pages_that_exist():
    (group,) = YAML(typ="safe").load(FOLDER / "alerts.yaml")["groups"]
    texts = " ".join(rule["annotations"]["description"] for rule in group["rules"])
    titles = {panel["title"] for panel in PANELS}
    assert set(re.findall(r"panel `([^`]+)`", texts)) <= titles
    for page in re.findall(r"docs/\w+\.md", texts):
        assert (ROOT / page).exists()
