"""Write deploy/chart/values.schema.json: the texts of values.yaml, and for `config` the schema of gatepass.yaml."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from gatepass.cli.check import editor_schema

CHART = Path(__file__).parents[1] / "deploy/chart"
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|k|M|G)$"}
PORT = {"minimum": 1, "maximum": 65535}
NARROWER: Mapping[str, Mapping[str, Any]] = {
    "replicas": {"minimum": 0},
    "image.digest": {"pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "secrets": {"additionalProperties": {"type": "string"}},
    "proxy.url": {"pattern": "^(https?://[^@]+)?$"},
    "serviceAccountToken.expirationSeconds": {"minimum": 600},
    "drain.delaySeconds": {"minimum": 1},
    "drain.timeoutSeconds": {"minimum": 0},
    "resources.limits": {"properties": {"memory": QUANTITY}},
    "service.port": PORT,
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "autoscaling.minReplicas": {"minimum": 1},
    "autoscaling.averageValue": {"minimum": 1},
}
"""What a value must be beside the type of its default, by its path."""
TYPES = {bool: "boolean", int: "integer", str: "string", list: "array"}


def texts(lines: str) -> dict[str, str]:
    """Return the comment above each value of values.yaml, by the path of the value."""
    found: dict[str, str] = {}
    path: list[str] = []
    comment: list[str] = []
    for line in lines.splitlines():
        text = line.strip()
        if text.startswith("#"):
            comment.append(text[2:])
            continue
        if text:
            path = [*path[: (len(line) - len(text)) // 2], text.partition(":")[0]]
            found[".".join(path)] = " ".join(comment)
        comment = []
    return found


def schema_of(value: Any, path: str, described: Mapping[str, str]) -> dict[str, Any]:
    """Return the schema of a value of values.yaml. Raises KeyError if it has no comment, nor values with comments."""
    if path == "config":
        schema: dict[str, Any] = {"$ref": "#/$defs/config"}
    elif isinstance(value, dict) and any(name.startswith(f"{path}.") for name in described):
        members = {name: schema_of(below, f"{path}.{name}", described) for name, below in value.items()}
        return {"type": "object", "additionalProperties": False, "properties": members}
    else:
        # Kubernetes reads the members of these objects. null removes a default.
        schema = {"type": "object"} if isinstance(value, dict) else {"type": TYPES[type(value)], "default": value}
    return {"description": described[path], **schema, **NARROWER.get(path, {})}


def values_schema() -> str:
    """Return the schema of the values. It is draft 2020-12, as that of gatepass.yaml."""
    lines = (CHART / "values.yaml").read_text()
    described = {path: text for path, text in texts(lines).items() if text}
    values = YAML(typ="safe").load(lines)
    config = editor_schema()
    definitions = config.pop("$defs")
    definitions["config"] = {"anyOf": [{"maxProperties": 0}, *config.pop("anyOf")], **config}
    schema = {
        "$schema": definitions["config"].pop("$schema"),
        "title": "Values of the chart of gatepass",
        "type": "object",
        "additionalProperties": False,
        "properties": {name: schema_of(value, name, described) for name, value in values.items()}
        | {"global": {"description": "Values of a chart that contains this one.", "type": "object"}},
        "$defs": definitions,
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
