"""What `gatepass keys new` prints, and what `--write` makes of a file."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from gatepass.cli import main
from tests.golden.golden import same

HASH = f"sha256:{'1' * 64}"
URL = "# The LLM gateway\nupstreams: {llm: {base_url: 'https://llm.example/v1'}}\n"
KEYS = f"""{URL}access:
  keys:
    # the first client
    - {{name: ragflow, profile: ragflow, hash: "{HASH}"}}   # until 2027

# JSON is for machines
log: {{format: json}}
"""
CASES = {
    "a key": (None, ""),
    "a viewer": (None, "--name prometheus --role viewer --expires 2099-01-31"),
    "models": (None, "--name bot --model gpt-*"),
    "MCP servers": (None, "--name agent --mcp search --mcp wiki"),
    "tools": (None, "--name agent --mcp search:find,read_* --mcp wiki"),
    "an MCP server that is not configured": (KEYS, "--name agent --mcp serch:find --write"),
    "written": (KEYS, "--name open_webui --profile open_webui --write"),
    "written, as JSON": (KEYS, "--name bot --write --json"),
    "no file": (None, "--write"),
    "no keys": (URL, "--write"),
    "another profile of the same name": (KEYS, "--name ragflow --profile dify --write"),
    "not YAML": ("upstreams: [", "--write"),
}


def test_keys_new_prints_and_writes_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = {}
    for name, (text, options) in CASES.items():
        file = Path("gatepass.yaml")
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        result = CliRunner().invoke(main, ["keys", "new", *options.split()])
        report = f"--- stdout\n{result.stdout}--- stderr\n{result.stderr}--- exit {result.exit_code}\n"
        if file.exists() and file.read_text() != text:
            report += f"--- gatepass.yaml\n{file.read_text()}"
        hidden = re.sub(r"sha256:(?!1{64})\w{64}", "sha256:…", re.sub(r"gp-[\w-]+", "gp-…", report))
        shown[f"{name}: gatepass keys new {options}".rstrip()] = hidden
    same("keys.txt", shown)
