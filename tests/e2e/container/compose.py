"""The files deploy/compose.*.yaml as compose would read them, as far as the tests need that: variables filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

DEPLOY = Path(__file__).parents[3] / "deploy"
FILE = DEPLOY / "compose.ragflow.yaml"
EXAMPLE = DEPLOY / "ragflow.env.example"

# ${NAME}, ${NAME:-default}, ${NAME:?what to say where it is unset}, $$
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::(?P<form>[-?])(?P<rest>[^}]*))?\})")


class Unset(KeyError):
    """A variable that the file cannot do without."""


def variables_of(text: str) -> set[str]:
    return {found["name"] for found in _VARIABLE.finditer(text) if found["name"]}


def example_variables(example: Path = EXAMPLE) -> dict[str, str]:
    lines = (line.strip() for line in example.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def document(variables: Mapping[str, str], file: Path = FILE) -> dict[str, Any]:
    """The whole file with `variables` in place; raises Unset where a wanted one is missing or empty."""
    read: dict[str, Any] = YAML(typ="safe").load(file)
    whole: dict[str, Any] = filled(read, variables)
    return whole


def filled(node: Any, variables: Mapping[str, str]) -> Any:
    """`node` with `variables` in all its texts."""
    if isinstance(node, dict):
        return {name: filled(value, variables) for name, value in node.items()}
    if isinstance(node, list):
        return [filled(value, variables) for value in node]
    if isinstance(node, str):
        return _VARIABLE.sub(lambda found: _value(found, variables), node)
    return node


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    if found["name"] is None:
        return "$"
    value = variables.get(found["name"], "")
    if not value and found["form"] == "?":
        raise Unset(found["name"], found["rest"])
    return value or (found["rest"] or "" if found["form"] == "-" else "")
