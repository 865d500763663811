"""Parse YAML 1.2 with ruamel.yaml, and record the line of each value. JSON is a part of YAML 1.2.

ruamel's parser yields the nodes, because they have the lines. `12:30`, `no` and `2024-01-01` are texts.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.representer import SafeRepresenter

from gatepass.config.document import ConfigDocument, ConfigProblem, SettingPath, ValueOrigin

_CORE = "tag:yaml.org,2002:"
# `timestamp`, `value` (=) and `merge` (<<) are types of YAML 1.1 only.
_TEXTS = frozenset(f"{_CORE}{kind}" for kind in ("str", "timestamp", "value", "merge"))
_SCALARS = YAML(typ="safe", pure=True).constructor
_TYPED = frozenset(f"{_CORE}{kind}" for kind in ("null", "bool", "int", "float"))
_STAR = re.compile(r"(\*[^\s,\[\]{}]*?) *:(?=\s|\Z)|(\*)(?=[\s,\[\]{}]|\Z)")
"""An alias that is most likely an unquoted glob: one that is used as a name, or a lone star."""
_REFERENCE = re.compile(r"\$\{[A-Za-z0-9_:./-]+\}")


def parse_yaml(source: str, text: str) -> ConfigDocument:
    """Parse the only document of `text`; raise ConfigError with the line of the fault."""
    document = ConfigDocument(source)
    fault = f"is not {'JSON' if source.endswith('.json') else 'YAML'}"
    # The optional parser in C sometimes reads YAML 1.1 (ruamel.yaml, "Basic Usage").
    yaml = YAML(typ="safe", pure=True)
    yaml.composer.warn_double_anchors = False  # an anchor may be redefined (YAML 1.2.2, 3.2.2.2)
    try:
        node: Node | None = yaml.compose(text)  # nodes, because they have the line of each value
        if node is None:
            document.note_line((), 1)
        else:
            document.tree = _value(document, node, (), node.start_mark.line + 1)
    except MarkedYAMLError as error:
        line, reason = _explained(text, error)
        raise document.fault(line, f"{fault}: {reason}") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise document.fault(line, f"{fault}: holds a control character") from None
    except ValueError:  # ruamel passes an escape beyond U+10FFFF to chr()
        raise document.fault(1, f"{fault}: holds an escape of a character that does not exist") from None
    except RecursionError:
        raise document.fault(1, "is nested too deeply") from None
    return document


def with_last_item(text: str, path: SettingPath, item: str) -> str | None:
    """Return `text` with `item` as the last one of the list at `path`, which is created if what holds it is there.

    Return None if there is something else. `item` is YAML or JSON on one line. All else in the text stays as it is,
    comments included. A text of an unusual form may become another document, so that the caller must parse it. `text`
    is one that `parse_yaml` accepts.
    """
    key: Any = None
    parent: Any = None
    node: Any = YAML(typ="safe", pure=True).compose(text)
    for name in path:
        parent, members = node, node.value if isinstance(node, MappingNode) else []
        key, node = next((member for member in members if member[0].value == name), (key, None))
    is_new = node is None
    node = parent if is_new else node
    is_block = isinstance(node, MappingNode if is_new else SequenceNode)
    if node is None or not (is_block or _is_empty(node)):
        return None
    if is_block and node.flow_style:
        item = f'"{path[-1]}": [{item}]' if is_new else item
        last = node.value and (node.value[-1][1] if is_new else node.value[-1])
        index = last.end_mark.index if last else text.index("{" if is_new else "[", node.start_mark.index) + 1
        return f"{text[:index]}{', ' if last else ''}{item}{text[index:]}"
    column = node.start_mark.column if is_block else key.start_mark.column + 2
    end = _end(text, key, node, column)
    line, _, rest = text[end:].partition("\n")
    newline = "\r\n" if line.endswith("\r") else "\n"
    head = text[:end] + line.removesuffix("\r")
    item = f"{path[-1]}:{newline}{' ' * (column + 2)}- {item}" if is_new else f"- {item}"
    return f"{head}{newline}{' ' * column}{item}{newline}{rest}"


def _end(text: str, key: Any, node: Any, column: int) -> int:
    """Return where `node` ends in `text`, with the comments that are indented deeper than its `column`."""
    while isinstance(node, MappingNode | SequenceNode) and not node.flow_style:
        key, node = node.value[-1] if isinstance(node, MappingNode) else (key, node.value[-1])
    if _is_empty(node):
        node = key  # ruamel places an empty value at the next token
    comments = re.compile(rf"[^\n]*\n(?:[ \t\r]*\n)* {{{column + 1},}}(?=#)")
    end: int = node.end_mark.index
    while found := comments.match(text, end):
        end = found.end()
    return end


def _is_empty(node: Node) -> bool:
    return bool(node.start_mark.index == node.end_mark.index)


class _Representer(SafeRepresenter):
    """Quotes texts that ruamel.yaml writes without escapes and cannot read again, such as `?a` inside braces."""

    def represent_scalar(self, tag: Any, value: Any, style: Any = None, anchor: Any = None) -> ScalarNode:
        if value.startswith(("?", ":")) or not value.isprintable():
            style = '"'
        return super().represent_scalar(tag, value, style, anchor)


def yaml_lines(block: Mapping[str, Any]) -> list[str]:
    """Return the lines of `block`, and an empty one at the end."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.representer.sort_base_mapping_type_on_output = False
    yaml.indent(sequence=4, offset=2)
    yaml.width = 10_000  # no line is folded
    text = io.StringIO()
    yaml.dump(block, text)
    return text.getvalue().split("\n")


def _explained(text: str, error: MarkedYAMLError) -> tuple[int, str]:
    """Return the line to correct and what to do. ruamel's message names parser tokens, and often another line."""
    problem, mark = str(error.problem), error.problem_mark or error.context_mark
    if mark is None:
        return 1, problem
    line = mark.line + 1
    if problem.startswith("found undefined alias") or error.context == "while scanning an alias":
        found = _STAR.match(text, (error.context_mark or mark).index)
        shown = (found[1] or found[2]) if found else "*…"  # a value is not shown: it may be a secret
        return line, f'* begins an alias, but this anchor does not exist: quote it, "{shown}"'
    if problem.endswith("but got '{'") and text[mark.index - 1] == "$":
        around = "[…]" if str(error.context).endswith("sequence") else "{…}"
        found = _REFERENCE.match(text, mark.index - 1)
        return line, f'quote references inside {around}: "{found[0] if found else "${NAME}"}"'
    return line, problem


def _value(document: ConfigDocument, node: Node, path: SettingPath, line: int) -> Any:
    document.note_line(path, line)
    if isinstance(node, SequenceNode):
        return [
            _value(document, item, (*path, index), item.start_mark.line + 1) for index, item in enumerate(node.value)
        ]
    if isinstance(node, MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode) or key_node.value == "":
                raise document.fault(line, "a name is expected before the colon")
            if key_node.tag == f"{_CORE}merge":
                raise document.fault(line, "`<<` is a feature of YAML 1.1: use an alias for the whole block instead")
            key = _text(document, key_node)
            if key in found:
                text = f"is written twice (first in line {document.origins[*path, key].line}): write it once"
                document.problems.append(ConfigProblem((*path, key), text, ValueOrigin(document.source, line)))
                continue
            # The line of the name, because a block begins below it.
            found[key] = _value(document, value_node, (*path, key), line)
        return found
    if node.tag in _TEXTS:
        return _text(document, node)
    if node.tag in _TYPED:
        try:
            return _SCALARS.yaml_constructors[node.tag](_SCALARS, node)
        except (ValueError, KeyError):  # of `!!int x`, of `!!bool x`, or int() rejects more than 4,300 digits
            raise document.fault(node.start_mark.line + 1, f"expects a value of the tag {node.tag}") from None
    raise document.fault(node.start_mark.line + 1, f"the tag {node.tag} is not known: write plain values")


def _text(document: ConfigDocument, node: Node) -> str:
    """Return the text of a scalar, with its escaped surrogate pairs joined as in JSON, which YAML does not do."""
    text = str(node.value)
    try:
        return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        # such a text cannot be encoded, so that an error, log or header with it could not be written
        reason = "holds half of a surrogate pair: write the character itself, not an escape of it"
        raise document.fault(node.start_mark.line + 1, reason) from None
