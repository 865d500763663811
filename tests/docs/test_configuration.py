"""The examples of docs/configuration.md load and route as documented; the reference lists every setting."""

import json
import re
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner
from docs.entries import DOCS

from gatepass.cli import main
from gatepass.cli.check import plain_secrets
from gatepass.config.document import ConfigError
from gatepass.config.load import load
from gatepass.config.yaml_file import parse_yaml
from gatepass.proxy.routing import RouteTable
from tests.docs.blocks import blocks

TEXT = (DOCS / "configuration.md").read_text()
REFERENCE = "".join((DOCS / "reference" / name).read_text() for name in ("configuration.md", "credentials.md"))
EXAMPLES = blocks(TEXT, "yaml")


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_loads(example, tmp_path):
    secret = {"type": "static", "token": "x"}
    upstream = {"base_url": "http://localhost"}
    tree = {
        "credentials": {"corp": secret},
        "upstreams": dict.fromkeys(("azure", "chat", "first", "second", "think", "vectors"), upstream),
        "models": {"*": {"upstream": "chat"}},
        **parse_yaml("example", example.replace("sha256:…", f"sha256:{'0' * 64}")).tree,
    }
    tree["credentials"] = {"corp": secret} | tree["credentials"]
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    path = tmp_path / "gatepass.json"
    path.write_text(json.dumps(tree).replace("/etc/ssl/corp.pem", str(tmp_path / "ca.pem")))
    names = set(re.findall(r"\$\{([A-Z_]+)\}", example))
    loaded = load(str(path), {name: f"{name:x<20}" for name in names})
    assert not any("did you mean" in warning for warning in loaded.warnings)
    plain = [one.partition(":")[0] for one in plain_secrets(loaded.document.tree, loaded.effective()[0])]
    assert {*plain} <= {"credentials.corp.token"}, "of this test"


def test_each_request_of_the_example_uses_the_upstream_of_its_row(tmp_path):
    example = next(example for example in EXAMPLES if "operations" in example)
    rows = re.findall(r"^\| `([^`]+)`, (\w+) \| `(\w+)`(?:, as `([^`]+)`)? \| \d \|$", TEXT, re.MULTILINE)
    assert len(rows) == 4
    upstreams = {name: {"base_url": "http://localhost"} for name in ("azure", "chat", "vectors")}
    path = tmp_path / "gatepass.json"
    path.write_text(json.dumps({"upstreams": upstreams, **parse_yaml("example", example).tree}))
    routes = RouteTable(load(str(path), {}).config)
    for model, operation, upstream, name in rows:
        (target,) = routes.route(operation, model).targets
        assert (target.upstream, target.model or "") == (upstream, name), model


def test_check_prints_the_lines_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = {"CORP_SECRET": "c" * 24}
    smallest = EXAMPLES[0]
    shown, wrong = blocks(TEXT, "(?:console|text)")
    Path("gatepass.yaml").write_text(smallest)
    command = ["check", "--config", "gatepass.yaml"]
    printed = CliRunner().invoke(main, command, env=environment)
    lines = [line for line in shown.splitlines()[1:] if line != "…"]
    assert printed.exit_code == 0
    assert [line for line in lines if line not in printed.output.splitlines()] == []
    Path("gatepass.yaml").write_text(smallest.replace("base_url", "base_ur").replace("client_id: gatepass, ", ""))
    rejected = CliRunner().invoke(main, command, env=environment)
    assert rejected.exit_code == 2
    assert [line for line in wrong.splitlines() if line not in rejected.output] == []


def test_the_complete_file_of_the_reference_loads(tmp_path):
    path = tmp_path / "gatepass.yaml"
    path.write_text(blocks(REFERENCE, "yaml")[0])
    names = ("CORP_SECRET", "RAGFLOW_KEY", "PROMETHEUS_KEY")
    assert load(str(path), {name: f"{name:x<32}" for name in names}).warnings == ()


def test_the_page_about_upgrades_shows_the_message_for_an_unknown_name(tmp_path):
    (shown,) = re.findall(r"```text\n( +gatepass\.yaml.*\n.*)\n", (DOCS / "upgrade.md").read_text())
    file = tmp_path / "gatepass.yaml"
    file.write_text('upstreams:\n  llm: {base_url: "http://127.0.0.1:9/v1", base_ur: x}\nlog: {bodies: true}\n')
    with pytest.raises(ConfigError) as raised:
        load(str(file), {})
    assert str(raised.value) == shown.replace("   gatepass.yaml", str(file))
