"""Write deploy/chart/values.schema.json: the texts of values.yaml, and for `config` the schema of gatepass.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from ruamel.yaml import YAML

from gatepass.cli.check import editor_schema
from gatepass.config.block import SECRET_NAME, Block, SecretText

CHART = Path(__file__).parents[1] / "deploy/chart"
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|k|M|G)$"}
PORT = {"minimum": 1, "maximum": 65535}
NAME = {"pattern": r"^([a-z0-9]([-.a-z0-9]*[a-z0-9])?)?$"}
KEY = {"pattern": "^[-._a-zA-Z0-9]+$"}
# A Service begins with a letter, and YAML reads these words as no text.
LABEL = {
    "pattern": "^([a-z]([-a-z0-9]*[a-z0-9])?)?$",
    "not": {"enum": ["true", "false", "null", "yes", "no", "on", "off"]},
}
# The chart sets what a probe does.
PROBE = {"propertyNames": {"not": {"enum": ["exec", "grpc", "httpGet", "tcpSocket"]}}}
NARROWER: Mapping[str, Mapping[str, Any]] = {
    "fullnameOverride": LABEL,
    "replicas": {"minimum": 0},
    "image.repository": {"pattern": "^[a-zA-Z0-9][a-zA-Z0-9._:/-]*$"},
    "image.tag": {"pattern": "^([a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127})?$"},
    "image.digest": {"pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "existingConfigMap": NAME,
    "secrets": {"propertyNames": KEY, "additionalProperties": {"type": "string"}},
    "existingSecret": NAME,
    "ca.existingConfigMap": NAME,
    "ca.key": KEY,
    "proxy.url": {"pattern": "^(https?://[^@]+)?$"},
    "serviceAccount.name": NAME,
    "serviceAccountToken.expirationSeconds": {"minimum": 600},
    "valkey.image": {"pattern": r"^[a-zA-Z0-9][a-zA-Z0-9._:/@-]*$"},
    "valkey.maxMemory": {"pattern": "^[1-9][0-9]*([kKmMgG][bB]?)?$"},
    "valkey.storage": {"pattern": r"^([0-9]+(\.[0-9]+)?([KMGT]i?)?)?$"},
    "valkey.storageClassName": NAME,
    "drain.delaySeconds": {"minimum": 1},
    "drain.timeoutSeconds": {"minimum": 0},
    **dict.fromkeys(("probes.startup", "probes.readiness", "probes.liveness"), PROBE),
    "resources.limits": {"properties": {"memory": QUANTITY}},
    "service.port": PORT,
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "tls.existingSecret": NAME,
    "ingress.className": NAME,
    "ingress.existingSecret": NAME,
    "serviceMonitor.interval": {"pattern": "^([0-9]+(ms|[smhd]))+$"},
    "serviceMonitor.existingSecret": NAME,
    "serviceMonitor.key": KEY,
    "autoscaling.minReplicas": {"minimum": 1},
    "autoscaling.metric": {"pattern": "^[a-zA-Z_:][a-zA-Z0-9_:]*$"},
    "autoscaling.averageValue": {"minimum": 1},
    "env": {
        "propertyNames": {"pattern": "^[-._a-zA-Z][-._a-zA-Z0-9]*$"},
        # A larger number of a file is not exact.
        "additionalProperties": {"type": ["string", "number", "boolean", "object"], "maximum": 2**53},
    },
}
"""What a value must be beside the type of its default, by its path."""
TYPES = {bool: "boolean", int: "integer", str: "string", list: "array"}

REFERENCE = {"pattern": r"\$\{"}
NO_LOGIN = {"pattern": r"^([^@]*|[a-z]+://[^/?#@]+[/?].*)$"}
"""A URL without a user name and password."""
SECRET_MEMBER = (
    "(" + re.sub("[a-z]", lambda found: f"[{found[0].upper()}{found[0]}]", SECRET_NAME.pattern) + ")[A-Za-z]*$"
)
"""The name of a header or member with a secret, such as X-Api-Key, but not token_type. Go and editors read it."""


def blocks(block: type[Block] = Block) -> Iterator[type[Block]]:
    """Yield the blocks of settings."""
    for below in block.__subclasses__():
        yield below
        yield from blocks(below)


def narrow(node: Any, pattern: Mapping[str, str]) -> None:
    """Require `pattern` of the texts of a setting. In an object, only of the members that hold secrets."""
    if node.get("type") == "string":
        node.update(pattern)
    elif node.get("type") == "object":
        node.setdefault("patternProperties", {})[SECRET_MEMBER] = {"type": "string", **pattern}
    for below in node.get("anyOf", ()):
        narrow(below, pattern)


def keep_secrets_out(definitions: Mapping[str, Any]) -> None:
    """Require references for secrets in the schema of gatepass.yaml, because a ConfigMap is no place for them."""
    for block in blocks():
        for name, field in block.model_fields.items():
            node = definitions.get(block.__name__, {}).get("properties", {}).get(name)
            kind = f"{field.annotation!r} {field.metadata}"
            if node and repr(get_args(SecretText)[1]) in kind:
                narrow(node, REFERENCE)
            elif node and re.search(r"checked_\w*url\b", kind):
                narrow(node, NO_LOGIN)


def compare_one_branch(node: Any, definitions: Mapping[str, Any]) -> None:
    """Compare a value with the branch of a union that it means, so that Helm prints one fault, and not one of each."""
    for below in list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else ():
        compare_one_branch(below, definitions)
    if not isinstance(node, dict):
        return
    if node.get("anyOf", [])[1:] == [{"type": "null"}]:
        node |= {"if": {"not": {"type": "null"}}, "then": node.pop("anyOf")[0]}
    if "oneOf" in node:
        refs = {
            definitions[one["$ref"].rpartition("/")[2]]["properties"]["type"]["const"]: one for one in node["oneOf"]
        }
        del node["oneOf"]
        rest: dict[str, Any] = {"required": ["type"], "properties": {"type": {"enum": [*refs]}}}
        for kind, ref in reversed(refs.items()):
            rest = {"if": {"required": ["type"], "properties": {"type": {"const": kind}}}, "then": ref, "else": rest}
        node |= {"type": "object", **rest}


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
    keep_secrets_out(definitions)
    definitions["config"] = {"anyOf": [{"maxProperties": 0}, *config.pop("anyOf")], **config}
    compare_one_branch(definitions, definitions)
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
