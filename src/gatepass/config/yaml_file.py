"""YAML 1.2 by ruamel.yaml, with the core schema's types and a line for each value.

ruamel's parser gives the nodes; what a plain word means is decided here by the core schema (YAML 1.2.2,
10.3.2) alone, so that `12:30`, `no`, `2024-01-01` and `1_000` stay the texts they look like.
"""

from __future__ import annotations

import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from gatepass.config.document import DEEPEST, Builder, Document
from gatepass.config.problem import Path

_CORE = "tag:yaml.org,2002:"
_TEXTS = frozenset(f"{_CORE}{kind}" for kind in ("str", "timestamp", "value", "merge"))
_TYPED = frozenset(f"{_CORE}{kind}" for kind in ("null", "bool", "int", "float"))
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+\Z")
_BASED = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z|[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")
_DIGITS = 300
"""Longer numbers are nobody's setting, and int() refuses them past 4,300."""


def parse_yaml(source: str, text: str) -> Document:
    """The one document of `text`; raises ConfigError with the line of the fault."""
    builder = Builder(source)
    node = _composed(builder, text)
    if node is None:
        builder.seen((), 1)
        return builder.document({})
    return builder.document(_value(builder, node, (), node.start_mark.line + 1))


def _composed(builder: Builder, text: str) -> Node | None:
    yaml = YAML(typ="safe", pure=True)
    yaml.composer.warn_double_anchors = False  # YAML 1.2.2, 3.2.2.2: the latest anchor of a name counts
    try:
        node: Node | None = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise builder.fault(mark.line + 1 if mark else 1, f"is not YAML: {error.problem}") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise builder.fault(line, "is not YAML: holds a control character") from None
    except ValueError:  # ruamel gives an escape beyond U+10FFFF to chr()
        raise builder.fault(1, "is not YAML: an escape in it stands for no character") from None
    except RecursionError:
        raise builder.fault(1, f"is nested deeper than {DEEPEST} levels") from None
    return node


def _value(builder: Builder, node: Node, path: Path, line: int) -> Any:
    builder.seen(path, line)
    if isinstance(node, MappingNode):
        return _mapping(builder, node, path)
    if isinstance(node, SequenceNode):
        return [
            _value(builder, item, (*path, index), item.start_mark.line + 1) for index, item in enumerate(node.value)
        ]
    return _scalar(builder, node)


def _mapping(builder: Builder, node: MappingNode, path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _key(builder, key_node)
        if key in found:
            builder.twice((*path, key), line)
            continue
        found[key] = _value(builder, value_node, (*path, key), line)
    return found


def _key(builder: Builder, node: Node) -> str:
    line = node.start_mark.line + 1
    if not isinstance(node, ScalarNode) or node.value == "":
        raise builder.fault(line, "a name is expected before the colon")
    if node.tag == f"{_CORE}merge":
        raise builder.fault(line, "`<<` is of YAML 1.1: use an alias for the whole block instead")
    return str(node.value)


def _scalar(builder: Builder, node: Node) -> Any:
    if node.tag in _TEXTS:
        return node.value
    if node.tag in _TYPED:
        return core_schema(node.value)
    raise builder.fault(node.start_mark.line + 1, f"the tag {node.tag} is not known: write plain values")


def core_schema(text: str) -> bool | int | float | str | None:
    """What a plain word means by the core schema of YAML 1.2; a text where it means nothing else."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _DIGITS:
        return text
    if _INT.match(text):
        return int(text)
    if _BASED.match(text):
        return int(text, 0)
    return float(_python_float(text)) if _FLOAT.match(text) else text


def _python_float(text: str) -> str:
    word = text.lower()
    return word.replace(".", "") if word.endswith(("inf", "nan")) else word
