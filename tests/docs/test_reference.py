"""The generated pages are what docs/generate.py writes, and its entries are complete, unique and real."""

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from docs.command_reference import COMMON, commands
from docs.entries import Entry
from docs.generate import EVENTS, FIELDS, FILES, PARTS, ROOT, pages, with_parts
from docs.setting_reference import SHARED, FieldText, blocks_in
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


def test_a_link_to_a_page_has_its_title():
    assert [found for text in PAGES.values() for found in re.findall(r"\[[\w/]+\.md\]\(", text)] == []


def test_a_page_without_the_comments_of_its_part_is_an_error():
    with pytest.raises(ValueError, match="the comments around the part symptoms are missing"):
        with_parts("# gatepass\n", PARTS["README.md"])


@pytest.mark.parametrize("name", PAGES)
def test_each_heading_has_an_anchor_that_no_other_has(name):
    headings = re.findall(r"^#+ (.+)$", PAGES[name], re.MULTILINE)
    anchors = [re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert len(anchors) == len(set(anchors))


@pytest.mark.parametrize("lacks", ["purpose", "Type", "Example"])
def test_an_entry_that_lacks_something_is_an_error(lacks):
    given = {"purpose": "The port.", "Type": "whole number", "Example": "`port: 80`", lacks: ""}
    with pytest.raises(ValueError, match=f"server.port has no {lacks}"):
        Entry("server.port", given.pop("purpose"), given)


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


def setting_name(setting):
    """The heading of a setting: `access.keys[].hash`, and one for all places of a block that many have."""
    pattern = [
        "[]" if part == "*" and setting[index - 1] in ("keys", "targets") else "NAME" if part == "*" else part
        for index, part in enumerate(setting)
    ]
    for block in SHARED:
        is_own = block == "timeouts" and pattern[0] == "mcp"  # which have other defaults
        if block in pattern[:-1] and not is_own:
            pattern = ["credentials", "NAME"] * (block == "reply") + pattern[pattern.index(block) :]
    return ".".join(pattern).replace(".[]", "[]")


def settings_in(block, path=(), kind=""):
    """Each setting with its path, in which `*` is a name or a number, and the type of its credential."""
    for name, field in block.model_fields.items():
        here = (*path, field.alias or name)
        yield here, kind
        for suffix, inner in blocks_in(field.annotation):
            stars = ("*",) * (suffix.count(".NAME") + suffix.count("[]"))
            of_type = inner.model_fields.get("type")
            yield from settings_in(inner, (*here, *stars), get_args(of_type.annotation)[0] if of_type else kind)


def test_every_setting_has_its_entries_with_its_credential_types():
    headings = re.findall(r"^### `([^`]+)`(?: \((\w+)\))?$", SETTINGS, re.MULTILINE)
    with_names = {"mcp"}  # its section is `mcp.NAME`
    sections = {block for block in Config.model_fields.keys() - with_names if not block.endswith("s")} | {"access"}
    known: dict[str, set[str]] = {}
    for path, kind in settings_in(Config):
        if len(path) > 1:
            known.setdefault(setting_name(path), set()).update({kind} - {""})
    # the members of `limits`, its `tokens` and `rejection` are described once
    first = {title: re.sub(r"^.+\.limits\.", "access.keys[].limits.", title) for title in known}
    first |= {title: place.replace("limits.tokens.", "limits.requests.") for title, place in first.items()}
    first |= {title: title.replace("mcp.", "upstreams.") for title in known if ".rejection." in title}
    repeated = {title for title, place in first.items() if title != place}
    assert {first[title] for title in repeated} <= known.keys() - repeated
    assert {title for title, _ in headings} == known.keys() - repeated
    assert sections <= set(re.findall(r"^## `(\w+)`$", SETTINGS, re.MULTILINE))
    types = {title: {kind for name, kind in headings if name == title} for title, _ in headings}
    for title, kinds in known.items():
        if title not in repeated and types[title] != {""}:
            assert types[title] == kinds, title


def examples(block):
    """Each setting of the block and of the blocks in it, with its example."""
    docstrings = field_docstrings(block)
    for name, field in block.model_fields.items():
        if text := FieldText.parse(docstrings.get(name, "")).example:
            yield block.__name__, field.alias or name, field, text
        for _, inner in blocks_in(field.annotation):
            yield from examples(inner)


def test_a_setting_with_a_shorter_form_has_both_types():
    types = dict(re.findall(r"^### `([^`]+)`.*?^- Type: (.*?)$", SETTINGS, re.M | re.S))
    assert types["access.keys[].mcp"] == "list: name, or map: name to list: text"


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
