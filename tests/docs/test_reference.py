"""The generated pages are what docs/generate.py writes, and its entries are complete, unique and real."""

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import pytest
from docs.command_reference import COMMON, commands
from docs.generate import EVENTS, FIELDS, FILES, PARTS, ROOT, pages
from docs.setting_reference import FieldText, blocks_in
from pydantic import create_model

from gatepass.cli import main
from gatepass.config.block import Block, field_docstrings
from gatepass.config.document import with_leaves
from gatepass.config.load import load
from gatepass.config.model import Config
from gatepass.config.yaml_file import parse_yaml
from gatepass.observability.observer import AccessRecord

PAGES = {page.name: page.read_text() for page in (ROOT / "docs/reference").iterdir()}
SETTINGS = PAGES["configuration.md"] + PAGES["credentials.md"]
SOURCES = ROOT / "src/gatepass"


@pytest.fixture(scope="module")
def written():
    """What docs/generate.py writes: that takes a second."""
    return pages()


@pytest.mark.parametrize("path", [*FILES, *PARTS])
def test_a_page_is_not_stale(path, written):
    assert (ROOT / path).read_text() == written[path], "run `make reference`"


def test_folder_contains_the_written_pages_alone(written):
    assert set(PAGES) == {Path(path).name for path in written if path.startswith("docs/reference/")}


def test_each_example_of_a_command_is_a_valid_command_line():
    known = dict(commands(main, "gatepass"))
    examples = re.findall(r"^(?:- Example: |\| `--.*\| )`(gatepass.*?)`(?: \|)?$", PAGES["cli.md"], re.MULTILINE)
    shown = set()
    for example in examples:
        words = shlex.split(example)
        name = next(name for n in (3, 2, 1) if (name := " ".join(words[:n])) in known)
        shown.add(name)
        if "--version" not in words:
            known[name].make_context(name, words[len(name.split()) :])
    own = {name: any(one.opts[0] not in COMMON for one in command.params) for name, command in known.items()}
    flags = {"gatepass", "gatepass tail", "gatepass token", "gatepass keys list"}
    assert {name for name in own if own[name]} - shown <= flags


def examples(block):
    """Each setting of the block and of the blocks in it, with its example."""
    docstrings = field_docstrings(block)
    for name, field in block.model_fields.items():
        if text := FieldText.parse(docstrings.get(name, "")).example:
            yield block.__name__, field.alias or name, field, text
        for _, inner in blocks_in(field.annotation):
            yield from examples(inner)


def test_each_example_of_a_setting_is_a_value_of_its_type():
    resolved_only = {("Access", "keys"), ("AccessKey", "key")}  # `access` loads one
    fields: dict[str, Any] = {}
    values = {}
    for block, name, field, text in examples(Config):
        if block != "Config" and (block, name) not in resolved_only:
            tree = parse_yaml("example", f"value: {text}").tree["value"]
            fields[f"{block}_{name}"] = (Annotated[field.annotation, *field.metadata, None], ...)
            values[f"{block}_{name}"] = with_leaves(tree, resolved)
    assert len(fields) > 150
    create_model("Examples", __base__=Block, **fields).model_validate(values)


def resolved(leaf):
    return re.sub(r"\$\{[^}]+\}", "x" * 32, leaf) if isinstance(leaf, str) else leaf


BASE = {
    "credentials": {"corp": {"type": "static", "token": "${SECRET}"}},
    "upstreams": {"chat": {"base_url": "http://localhost"}, "vectors": {"base_url": "http://localhost"}},
    "models": {"*": {"upstream": "chat"}},
    "access": {"keys": [{"name": "ragflow", "key": "${SECRET}"}]},
}


@pytest.mark.parametrize("block", Config.model_fields)
def test_the_example_of_a_block_loads(block, tmp_path):
    example = re.search(rf"^## `{block}\b[^`]*`(?:(?!^## ).)*?```yaml\n(.*?)```", SETTINGS, re.M | re.S)
    assert example is not None
    tree = BASE | parse_yaml("example", re.sub(r"\$\{[^}]+\}", "${SECRET}", example[1])).tree
    path = tmp_path / "gatepass.json"
    path.write_text(json.dumps(tree))
    assert getattr(load(str(path), {"SECRET": "x" * 32}).config, block)


def logged():
    """Each event that the code logs with its name as a literal: the level and the names in its literal fields."""
    calls = [
        node
        for file in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
    ]
    for call in calls:
        words = [word.value for word in call.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
        method = ast.unparse(call.func).rpartition(".")[2]
        if method in ("debug", "info", "warning", "error", "exception") and words:
            keys = [key for keyword in call.keywords for key in ast.walk(keyword.value) if isinstance(key, ast.Dict)]
            names = {key.value for one in keys for key in one.keys if isinstance(key, ast.Constant)}
            yield words[0], "error" if method == "exception" else method, names - {"fields"}
        elif method == "_log" and words:
            level = ast.unparse(call.args[0]).rpartition(".")[2]
            yield words[0], level, {keyword.arg for keyword in call.keywords} - {None}
        elif method in ("emit", "_report") and words:
            yield words[0], None, set()


def test_the_list_of_events_is_complete_and_has_no_other():
    found = list(logged())
    assert len(found) > 30
    for name, level, names in found:
        assert name in EVENTS, name
        assert level in (EVENTS[name]["level"], None), name
        assert names <= set(EVENTS[name].get("fields", "").split()), name
    # names that a variable holds
    elsewhere = "".join(file.read_text() for file in SOURCES.rglob("*.py"))
    for name in EVENTS.keys() - {name for name, _, _ in found}:
        assert f'"{name.removeprefix("rule_")}"' in elsewhere, name


def test_each_field_of_an_event_is_explained():
    used = {field for event in EVENTS.values() for field in event.get("fields", "").split()} | set(
        AccessRecord.__struct_fields__
    )
    assert used | {"ts", "level", "event"} == set(FIELDS)
