"""Each code block of each page parses, and each command and configuration that it shows is one of gatepass."""

import ast
import json
import re
import shlex
import subprocess
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from textwrap import dedent
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from gatepass.cli import main
from gatepass.config.load import load
from tests.docs.blocks import ROOT, Block, blocks_of, commands_of, typed
from tests.waiting import BOUND_S

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md", "bench/*.md", "examples/*.md", "tests/e2e/README.md")
    for page in ROOT.glob(pattern)
)
INLINE = re.compile(r"`(gatepass [^`]+)`")

LOADED = (
    *("docs/clients/*.md", "docs/concepts/profiles.md", "docs/dialects.md", "docs/ragflow.md"),
    *("docs/concepts/translation.md", "docs/model_list.md", "docs/operations/keys.md", "docs/operations/ui.md"),
)
"""Pages whose configurations test_a_configuration_loads loads."""


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_each_block_parses(block: Block) -> None:
    match block.language:
        case "yaml":
            YAML(typ="safe").load(block.text)
        case "json":
            json.loads(block.text if block.text.startswith("{") else f"{{{block.text}}}")
        case "python":
            ast.parse(dedent(block.text))
        case "sh" | "console":
            shown = [line for line in commands_of(block.text) if line] if block.language == "sh" else typed(block.text)
            assert shown
            subprocess.run(["bash", "-n"], input="\n".join(shown), text=True, check=True, timeout=BOUND_S)
        case "toml":
            tomllib.loads(block.text)
        case "dockerfile":
            assert all(re.match("(FROM|COPY|RUN|USER) ", line) for line in block.text.splitlines())
        case "diff":
            assert re.match(r"--- (a/|/dev/null)", block.text)
        case _:
            assert block.language in ("", "text") or block.language.startswith("{")
            assert block.text.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_command_and_option_of_gatepass_exists(page: Path) -> None:
    shown = [line for block in blocks_of(page) if block.language == "sh" for line in commands_of(block.text)]
    shown += [line for block in blocks_of(page) if block.language == "console" for line in typed(block.text)]
    shown = [line for line in shown if line.startswith("gatepass ")] + INLINE.findall(
        re.sub(r"(?m)^- Message.*|<!-- retired: [\s\S]*<!-- end of retired -->", "", page.read_text())
    )
    shown = [line for line in shown if not line.startswith("gatepass listening on ")]  # a log line
    for line in shown:
        command: click.Command = main
        words = shlex.split(re.split(r" [|>] | #", line)[0])[1:]
        while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z]+", words[0]):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, line
            command = found
        options = {option for parameter in command.params for option in parameter.opts} | {"--help", "--version"}
        assert {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)} <= options, line


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language == "yaml" and any(fnmatchcase(block.page, page) for page in LOADED)],
    ids=str,
)
def test_a_configuration_loads(block: Block, tmp_path: Path) -> None:
    """A part of a file loads with stand-ins for the names that it uses and does not define."""
    parts = enumerate(block.text.split("sha256:…"))
    text = "".join(f"sha256:{at:064x}" * (at > 0) + part for at, part in parts)
    tree: dict[str, Any] = YAML(typ="safe").load(text)
    if not {"endpoints", "schema", "services"}.isdisjoint(tree):
        return  # a file of LibreChat or Continue, which test_clients.py checks
    models = tree.get("models", {}).values()
    upstreams = {"chat", *(model["upstream"] for model in models if "upstream" in model)}
    defaults = {"upstreams": {name: {"base_url": "http://127.0.0.1:9/v1"} for name in upstreams}}
    defaults["models"] = {"*": {"upstream": "chat"}}
    file = tmp_path / "gatepass.json"
    file.write_text(json.dumps({**defaults, **tree}))
    names = re.findall(r"\$\{(\w+)\}", block.text)
    assert load(str(file), dict.fromkeys(names, "a-secret-of-32-characters-and-more")).warnings == ()
