"""`gatepass schema`: print the JSON Schema of the configuration, for editors."""

from __future__ import annotations

import json
from typing import Any

import click

_REFERENCES = (
    "Any text may hold ${NAME} or ${file:/path}; $$ is a dollar. Numbers, true and false are never references."
)
_IN_TEXT = r"\$\{"


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration.

    Put `# yaml-language-server: $schema=FILE` in the first line of a YAML file to have an editor use it.
    """
    click.echo(json.dumps(editor_schema(), indent=2, ensure_ascii=False))


def editor_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a configuration file, which allows references in all texts."""
    from gatepass.config.model import Config

    found = _with_references(Config.model_json_schema(by_alias=True))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **found,
        "title": "gatepass configuration",
        "description": f"{found['description']} {_REFERENCES}",
    }


def _with_references(node: Any) -> Any:
    """Return `node` with patterns that also match a reference, and with a note in each text's description."""
    if isinstance(node, list):
        return [_with_references(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {name: value if name == "default" else _with_references(value) for name, value in node.items()}
    if node.get("type") == "string" and "const" not in node and "enum" not in node:
        if "pattern" in found:
            found["pattern"] = f"(?:{found['pattern']})|{_IN_TEXT}"
        found["description"] = f"{found.get('description', 'A text')} (references allowed)".strip()
    return found
