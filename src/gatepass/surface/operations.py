"""The operation table: what gatepass serves, and under which paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gatepass.call import Operation, Surface
from gatepass.errors import MethodNotAllowed, UnknownPath

OPERATIONS = (
    Operation("chat", "POST", "/chat/completions", Surface.CHAT, "Answer a conversation"),
    Operation("embeddings", "POST", "/embeddings", Surface.EMBEDDINGS, "Turn texts into vectors", repeatable=True),
    Operation("models", "GET", "/models", Surface.MODELS, "List the models", repeatable=True),
    Operation("model", "GET", "/models/{model}", Surface.MODELS, "Describe one model", repeatable=True),
)

PREFIXES = ("/v1", "", "/v1/v1")
"""The API's root first. RAGFlow's versions join a base URL with and without `/v1`, and twice."""

SHOWN_CHARS = 200

_MODEL = "{model}"


@dataclass(frozen=True, slots=True)
class Match:
    """What a path and a method ask for; `model` is the id in `/models/{id}`, slashes included."""

    operation: Operation
    model: str | None = None


def _by_path() -> Mapping[str, Match]:
    fixed = (operation for operation in OPERATIONS if not operation.path.endswith(_MODEL))
    return MappingProxyType({prefix + operation.path: Match(operation) for operation in fixed for prefix in PREFIXES})


def _by_stem() -> tuple[tuple[str, Operation], ...]:
    open_ended = (operation for operation in OPERATIONS if operation.path.endswith(_MODEL))
    return tuple(
        (prefix + operation.path.removesuffix(_MODEL), operation) for operation in open_ended for prefix in PREFIXES
    )


_BY_PATH = _by_path()
_BY_STEM = _by_stem()


def match(method: str, path: str, base_path: str = "") -> Match:
    """The operation behind `path` (percent-escapes already decoded), below `base_path`.

    Each is found at `/v1/X`, `/X` and `/v1/v1/X`, trailing slashes or not. HEAD asks for what GET
    does: the server that writes the response leaves its body out (RFC 9110 section 9.3.2). Raises
    UnknownPath, MethodNotAllowed.
    """
    if base_path:
        if not path.startswith(base_path):
            raise _unknown(path, base_path)
        path = path[len(base_path) :]
    found = _find(path) or _find(path.rstrip("/"))
    if found is None:
        raise _unknown(base_path + path, base_path)
    if method != found.operation.method and not (method == "HEAD" and found.operation.method == "GET"):
        raise _not_allowed(method, found.operation)
    return found


def openapi_paths(base_path: str = "") -> dict[str, Any]:
    """The `paths` of an OpenAPI document: each operation at its first path."""
    return {
        base_path + PREFIXES[0] + operation.path: {operation.method.lower(): _openapi_operation(operation)}
        for operation in OPERATIONS
    }


def _find(path: str) -> Match | None:
    if (found := _BY_PATH.get(path)) is not None:
        return found
    for stem, operation in _BY_STEM:
        if path.startswith(stem) and (model := path[len(stem) :].rstrip("/")):
            return Match(operation, model)
    return None


def _unknown(path: str, base_path: str) -> UnknownPath:
    served = ", ".join(f"{operation.method} {base_path}{PREFIXES[0]}{operation.path}" for operation in OPERATIONS)
    return UnknownPath(f"There is nothing at {path[:SHOWN_CHARS]}. gatepass serves {served}.")


def _not_allowed(method: str, operation: Operation) -> MethodNotAllowed:
    allow = "GET, HEAD" if operation.method == "GET" else operation.method
    return MethodNotAllowed(f"{method[:20]} is not possible at {operation.path}; use {operation.method}.", allow=allow)


def _openapi_operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {
            "200": {"description": "The upstream's answer", "content": _contents(operation)},
            "default": {"description": "An error: docs/errors.md has a heading for each `code`", "content": _JSON},
        },
    }
    if operation.method == "POST":
        described["requestBody"] = {"required": True, "content": _REQUEST}
    if operation.path.endswith(_MODEL):
        described["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
    return described


_JSON = {"application/json": {"schema": {"type": "object"}}}
_REQUEST = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["model"],
            "properties": {"model": {"type": "string"}},
            "additionalProperties": True,
        }
    }
}


def _contents(operation: Operation) -> dict[str, Any]:
    if operation.surface is Surface.CHAT:
        return {**_JSON, "text/event-stream": {"schema": {"type": "string"}}}
    return _JSON
