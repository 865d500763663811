"""Read deploy/compose.*.yaml and replace the variables as compose does."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

DEPLOY = Path(__file__).parents[3] / "deploy"
FILE = DEPLOY / "compose.ragflow.yaml"
EXAMPLE = DEPLOY / "ragflow.env.example"

# ${NAME}, ${NAME:-default}, ${NAME:?message if unset}, ${NAME:+text if set}, $$
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::(?P<form>[-?+])(?P<rest>[^}]*))?\})")


class Unset(KeyError):
    """A required variable is missing."""


def variables_of(text: str) -> set[str]:
    return {found["name"] for found in _VARIABLE.finditer(text) if found["name"]}


def example_variables(example: Path = EXAMPLE) -> dict[str, str]:
    lines = (line.strip() for line in example.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def document(variables: Mapping[str, str], file: Path = FILE) -> dict[str, Any]:
    """Return the file with `variables` replaced; raise Unset if a required one is missing or empty."""
    parsed: dict[str, Any] = YAML(typ="safe").load(file)
    result: dict[str, Any] = filled(parsed, variables)
    return result


def filled(node: Any, variables: Mapping[str, str]) -> Any:
    """Return `node` with `variables` replaced in all its texts."""
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
    if found["form"] == "+":
        return found["rest"] if value else ""
    return value or (found["rest"] or "" if found["form"] == "-" else "")
