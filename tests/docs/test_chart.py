"""The Helm chart agrees with gatepass, its image and its page. tests/chart renders it with `make chart-check`."""

import re
from typing import Any

from docs.chart_values import CHART, texts, values_schema
from docs.generate import ROOT
from ruamel.yaml import YAML

from gatepass import __version__
from gatepass.config.load import load
from gatepass.config.model import Config, ServerConfig
from gatepass.server.pages import PATHS
from tests.docs.blocks import BLOCK
from tests.docs.test_compose import IMAGE_FACTS, assert_fits, memory_bytes

yaml = YAML(typ="safe")
ABOUT = yaml.load((CHART / "Chart.yaml").read_text())
VALUES = yaml.load((CHART / "values.yaml").read_text())
MANIFESTS = (ROOT / "deploy/kubernetes.yaml").read_text()
OBJECTS: dict[str, Any] = {one["kind"]: one for one in yaml.load_all(MANIFESTS)}
PAGE = (ROOT / "docs/kubernetes.md").read_text()


def test_the_schema_has_the_texts_of_the_settings_and_of_the_values() -> None:
    schema = values_schema()
    assert "The most requests in progress, and the most connections of authenticated clients" in schema
    assert texts((CHART / "values.yaml").read_text())["replicas"] in schema


def test_chart_image_and_page_have_one_version_and_name() -> None:
    assert ABOUT["appVersion"] == __version__
    assert ABOUT["version"] == re.sub(r"\.dev(\d+)$", r"-dev.\1", __version__), "Helm requires SemVer"
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', IMAGE_FACTS))
    about = {"title": ABOUT["name"], "description": ABOUT["description"]}
    assert labels == {**about, "licenses": ABOUT["annotations"]["artifacthub.io/license"]}
    image = f"{VALUES['image']['repository']}:{__version__}"
    (running,) = OBJECTS["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert running["image"] == image
    assert set(re.findall(r"registry\.corp\.example/gatepass:[\w.]+", PAGE)) == {image}


def test_a_clone_with_unreleased_changes_is_no_release() -> None:
    """It had the version, the image and the chart of the release before, and `IfNotPresent` rolled out nothing."""
    sections = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    number, has_suffix, _ = __version__.partition(".dev")
    assert bool(has_suffix) == (sections[0] == "Unreleased")
    assert (number in sections) != bool(has_suffix)


def test_the_page_names_each_example_and_no_other_file() -> None:
    rows = set(re.findall(r"^\|[^|]+\| `(\w+\.yaml)`", PAGE, re.MULTILINE))
    assert rows | {"oauth2.yaml"} == {file.name for file in CHART.glob("examples/*.yaml")}
    commands = "".join(found["text"] for found in BLOCK.finditer(PAGE))
    files = re.findall(r"(?<!rollout status )(?<!exec )deploy/[\w/.]+", commands)
    assert [path for path in files if not (ROOT / path).exists()] == []


def test_the_deployment_starts_stops_and_reads_its_secret() -> None:
    pod = OBJECTS["Deployment"]["spec"]["template"]["spec"]
    (running,) = pod["containers"]
    variables = {variable["name"]: variable["value"] for variable in running["env"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in running["volumeMounts"]}
    delay_s = running["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert VALUES["drain"] == {"delaySeconds": delay_s, "timeoutSeconds": ServerConfig().drain_timeout_s}
    assert pod["terminationGracePeriodSeconds"] == 2 * delay_s + ServerConfig().drain_timeout_s + 5
    assert f"USER {pod['securityContext']['runAsUser']}" in IMAGE_FACTS
    paths = {running[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert paths < set(PATHS)
    assert variables["GATEPASS_CONFIG"] == f"{mounts['config']}/gatepass.yaml"
    assert f"${{file:{mounts['secrets']}/NAME}}" in PAGE
    assert "defaultMode: 0440" in MANIFESTS, "readable by others is a warning"
    held = memory_bytes(running["resources"]["limits"]["memory"])
    limits = {name: value for name, value in variables.items() if "LIMITS" in name}
    loaded = load(None, {"GATEPASS_UPSTREAM_URL": "https://x.example/v1", **limits}, memory_bytes=held)
    assert_fits(loaded.config.limits, held)


def test_the_times_of_the_page_are_those_of_the_values() -> None:
    delay_s, timeout_s = VALUES["drain"].values()
    rows = re.findall(r"^\| (\d+) s(?: \([^|]*)? \|", PAGE, re.MULTILINE)
    assert rows == ["0", str(delay_s), str(delay_s + timeout_s), str(delay_s + timeout_s + 5)]
    liveness = VALUES["probes"]["liveness"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] == 60, "the page says a minute"


def test_the_autoscaler_reads_a_gauge_of_the_metrics() -> None:
    """docs/reference/metrics.md is made from what gatepass serves."""
    page = (ROOT / "docs/reference/metrics.md").read_text()
    (entry,) = re.findall(rf"^## `{VALUES['autoscaling']['metric']}`\n(.*?)^## ", page, re.MULTILINE | re.DOTALL)
    assert "gauge" in entry
    (running,) = OBJECTS["Deployment"]["spec"]["template"]["spec"]["containers"]
    connections = {one["name"]: one.get("value") for one in running["env"]}["GATEPASS_LIMITS_CONNECTIONS"]
    assert VALUES["autoscaling"]["averageValue"] * 2 == int(connections)


def test_the_constants_of_the_memory_are_those_of_gatepass() -> None:
    helpers = (CHART / "templates/_helpers.tpl").read_text()
    limits = Config.model_validate({"upstreams": {"a": {"base_url": "https://x.example/v1"}}}).limits
    assert f"addf {80 << 20} (mulf $held 1.125) $body $reply" in helpers
    assert f"$limits.body_bytes | default {limits.body_bytes} " in helpers
    assert f"$limits.reply_bytes | default {limits.reply_bytes} " in helpers
