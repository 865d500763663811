"""The operation table: what gatepass serves, and under which paths.

A client's base URL: the profile in it, `/for/NAME/v1/…`, and what a 404 tells of it.

The smallest request of an operation, as a client would send it: what `gatepass check` shows and tries.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar

from gatepass.errors import MethodNotAllowed, UnknownPath
from gatepass.types import Call, ClientProtocol, Headers, Operation, header

_RAW = (
    Operation(
        "transcriptions", "POST", "/audio/transcriptions", ClientProtocol.RAW, "Write down speech", takes_form=True
    ),
    Operation("translations", "POST", "/audio/translations", ClientProtocol.RAW, "Translate speech", takes_form=True),
    Operation("speech", "POST", "/audio/speech", ClientProtocol.RAW, "Speak a text"),
    Operation("images", "POST", "/images/generations", ClientProtocol.RAW, "Draw a picture"),
    Operation("images", "POST", "/images/edits", ClientProtocol.RAW, "Change a picture", takes_form=True),
    Operation("images", "POST", "/images/variations", ClientProtocol.RAW, "Vary a picture", takes_form=True),
    Operation("moderations", "POST", "/moderations", ClientProtocol.RAW, "Judge a text"),
    Operation("files", "POST", "/files", ClientProtocol.RAW, "Store a file", takes_form=True, names_model=False),
    Operation("files", "GET", "/files", ClientProtocol.RAW, "List the files", names_model=False),
    Operation("files", "GET", "/files/{id}", ClientProtocol.RAW, "Describe one file", names_model=False),
    Operation("files", "DELETE", "/files/{id}", ClientProtocol.RAW, "Delete one file", names_model=False),
    Operation(
        "files", "GET", "/files/{id}/content", ClientProtocol.RAW, "Fetch one file", names_model=False, is_download=True
    ),
    Operation("batches", "POST", "/batches", ClientProtocol.RAW, "Begin a batch", names_model=False),
    Operation("batches", "GET", "/batches", ClientProtocol.RAW, "List the batches", names_model=False),
    Operation("batches", "GET", "/batches/{id}", ClientProtocol.RAW, "Describe one batch", names_model=False),
    Operation("batches", "POST", "/batches/{id}/cancel", ClientProtocol.RAW, "End one batch", names_model=False),
    Operation("responses", "GET", "/responses/{id}", ClientProtocol.RAW, "Fetch one response", names_model=False),
    Operation("responses", "DELETE", "/responses/{id}", ClientProtocol.RAW, "Delete one response", names_model=False),
    Operation("responses", "POST", "/responses/{id}/cancel", ClientProtocol.RAW, "End one response", names_model=False),
    Operation(
        "responses",
        "GET",
        "/responses/{id}/input_items",
        ClientProtocol.RAW,
        "List one response's input",
        names_model=False,
    ),
)
"""What passes through as it is."""

OPERATIONS = (
    Operation("chat", "POST", "/chat/completions", ClientProtocol.CHAT, "Answer a conversation"),
    Operation("completions", "POST", "/completions", ClientProtocol.CHAT, "Go on with a text"),
    Operation("embeddings", "POST", "/embeddings", ClientProtocol.EMBEDDINGS, "Turn texts into vectors"),
    Operation("rerank", "POST", "/rerank", ClientProtocol.RERANK, "Order documents by a question"),
    Operation("responses", "POST", "/responses", ClientProtocol.RESPONSES, "Answer by the Responses API"),
    *_RAW,
    Operation("models", "GET", "/models", ClientProtocol.MODELS, "List the models"),
    Operation("model", "GET", "/models/{model}", ClientProtocol.MODELS, "Describe one model"),
)

PREFIXES = ("/v1", "", "/v1/v1")
"""The API's root first. RAGFlow's versions join a base URL with and without `/v1`, and twice."""

PROFILE_SHOWN_CHARS = 200

_MODEL, _ID = "{model}", "{id}"


@dataclass(frozen=True, slots=True)
class Match:
    """What a path and a method ask for; `model` is the id in `/models/{id}`, slashes included.

    `at_root`: at the root of the API, where a body says whether it is meant for the reranker.
    """

    operation: Operation
    model: str | None = None
    at_root: bool = False


COHERE_V2 = "/v2/rerank"
"""Cohere's `ClientV2` asks nothing else; the answer has the members of both of its versions."""


def _fixed() -> Mapping[str, Mapping[str, Match]]:
    """By path, then by method."""
    found: dict[str, dict[str, Match]] = {}
    for operation in OPERATIONS:
        if "{" not in operation.path:
            for prefix in PREFIXES:
                found.setdefault(prefix + operation.path, {})[operation.method] = Match(operation)
        if operation.protocol is ClientProtocol.RERANK:
            found[COHERE_V2] = {operation.method: Match(operation)}
    return MappingProxyType(found)


def _by_stem() -> tuple[tuple[str, Operation], ...]:
    open_ended = (operation for operation in OPERATIONS if operation.path.endswith(_MODEL))
    return tuple(
        (prefix + operation.path.removesuffix(_MODEL), operation) for operation in open_ended for prefix in PREFIXES
    )


_RERANK = next(operation for operation in OPERATIONS if operation.protocol is ClientProtocol.RERANK)
_ROOTS = frozenset(("", *PREFIXES))
_AT_ROOT = MappingProxyType({"POST": Match(_RERANK, at_root=True)})
_BY_PATH = _fixed()
_BY_STEM = _by_stem()
_WITH_ID = tuple(operation for operation in OPERATIONS if _ID in operation.path)
_SLASHES = re.compile("//+")
_SEGMENTS = re.compile(
    r"(?P<prefix>/v1/v1|/v1|)/(?P<name>[a-z]+)/(?P<id>[A-Za-z0-9_-][A-Za-z0-9_.-]{0,255})(?P<rest>/[a-z_]+)?\Z"
)


def match(method: str, path: str, base_path: str = "") -> Match:
    """The operation behind `path` (percent-escapes already decoded), below `base_path`.

    Each is found at `/v1/X`, `/X` and `/v1/v1/X`, trailing slashes or not, and with several slashes in the place of
    one: base URLs that end in a slash make such paths. HEAD asks for what GET does: the server that writes the response
    leaves its body out (RFC 9110 section 9.3.2). Raises UnknownPath, MethodNotAllowed.
    """
    found = None if base_path else _BY_PATH.get(path)  # most write it as the table does
    if found is None:
        found = _found(path, base_path)
    if found is None or (found is _AT_ROOT and method not in found):
        raise nothing_at(path, base_path)
    matched = found.get("GET" if method == "HEAD" else method)
    if matched is None:
        raise _not_allowed(method, path, tuple(one.operation for one in found.values()))
    return matched


def operation_at(path: str, base_path: str = "") -> str | None:
    """The name of what is at `path`, by whatever method; None where nothing is."""
    found = _found(path, base_path)
    return None if found is None or found is _AT_ROOT else next(iter(found.values())).operation.name


def nothing_at(path: str, base_path: str = "", base_url: str = "") -> UnknownPath:
    """The error for a `path` at which nothing is; `base_url` is the one that its client should have."""
    served = ", ".join(
        f"{operation.method} {base_path}{PREFIXES[0]}{operation.path}"
        for operation in OPERATIONS
        if _ID not in operation.path
    )
    where = base_url or base_path + PREFIXES[0]
    wrong = _wrong_base(path)[:PROFILE_SHOWN_CHARS]
    told = f"The base URL is {where}{f'; the one of this client seems to end in {wrong}' if wrong else ''}."
    return UnknownPath(f"There is nothing at {path[:PROFILE_SHOWN_CHARS]}. {told} gatepass serves {served}.")


def _wrong_base(path: str) -> str:
    """What stands before the operation's path where `path` ends in one, as clients put it behind their base URL: one
    of another server's, or one that names an operation already."""
    ends = (operation.path for operation in OPERATIONS if "{" not in operation.path)
    return path.removesuffix(max((end for end in ends if path.endswith(end)), key=len, default=path))


def openapi_paths(base_path: str = "") -> dict[str, Any]:
    """The `paths` of an OpenAPI document: each operation at its first path."""
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        place = paths.setdefault(base_path + PREFIXES[0] + operation.path, {})
        place[operation.method.lower()] = _openapi_operation(operation)
    return paths


def _found(path: str, base_path: str) -> Mapping[str, Match] | None:
    """What is at `path`, by method."""
    if path.startswith(base_path):
        below = path[len(base_path) :]
        if found := _find(below) or _find(below.rstrip("/")):
            return found
        if below.rstrip("/") in _ROOTS:
            return _AT_ROOT
    single = _single_slashed(path)
    return None if single == path else _found(single, base_path)


def _find(path: str) -> Mapping[str, Match] | None:
    """What is at `path` as it is written."""
    if (found := _BY_PATH.get(path)) is not None:
        return found
    for stem, operation in _BY_STEM:
        if path.startswith(stem) and (model := path[len(stem) :].rstrip("/")):
            return {operation.method: Match(operation, model)}
    return _with_id(path)


def _single_slashed(path: str) -> str:
    """`path` with one slash for several: but for a model's id, which may begin with one."""
    head, stem, model = path.partition("/models/")
    return _SLASHES.sub("/", head + stem) + model


def _with_id(path: str) -> Mapping[str, Match] | None:
    """The operations of one file, batch or response; the id is a plain word and changes nothing of the path else."""
    parts = _SEGMENTS.match(path)
    if parts is None:
        return None
    shape = f"/{parts['name']}/{_ID}{parts['rest'] or ''}"
    own = f"/{parts['name']}/{parts['id']}{parts['rest'] or ''}"
    found = {row.method: Match(replace(row, path=own)) for row in _WITH_ID if row.path == shape}
    return found or None


def _not_allowed(method: str, path: str, operations: tuple[Operation, ...]) -> MethodNotAllowed:
    methods = [operation.method for operation in operations]
    allow = ", ".join("GET, HEAD" if name == "GET" else name for name in methods)
    told = " or ".join(methods)
    return MethodNotAllowed(f"{method[:20]} is not possible at {path[:PROFILE_SHOWN_CHARS]}; use {told}.", allow=allow)


def _openapi_operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": _operation_id(operation),
        "summary": operation.summary,
        "responses": {
            "200": {"description": "The upstream's answer", "content": _contents(operation)},
            "default": {"description": "An error: docs/errors.md has a heading for each `code`", "content": _JSON},
        },
    }
    if operation.method == "POST":
        described["requestBody"] = {"required": True, "content": _FORM if operation.takes_form else _REQUEST}
    for name in ("model", "id"):
        if f"{{{name}}}" in operation.path:
            described["parameters"] = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}}]
    return described


def _operation_id(operation: Operation) -> str:
    """Its name, where no other row of its surface has that."""
    rows = [row for row in OPERATIONS if (row.name, row.protocol) == (operation.name, operation.protocol)]
    if rows == [operation]:
        return operation.name
    return "_".join([operation.method.lower(), *re.findall(r"[a-z]+", operation.path)])


_FORM = {"multipart/form-data": {"schema": {"type": "object"}}}
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
    if operation.protocol in (ClientProtocol.CHAT, ClientProtocol.RESPONSES):
        return {**_JSON, "text/event-stream": {"schema": {"type": "string"}}}
    return _JSON


PREFIX = "/for/"
SHOWN_PROFILE_CHARS = 64
_FOR = re.compile(r"/+for/+(?P<name>[^/]*)/*(?P<rest>.*)", re.DOTALL)


def split_profile(path: str, base_path: str = "") -> tuple[str | None, str]:
    """The profile's name in `path` and the path without it: `/llm/for/dify/v1/models` is `dify` and `/llm/v1/models`.

    None and `path` itself where there is none. Several slashes are as good as one: base URLs that end in one make them.
    """
    if PREFIX not in path:
        return None, path
    single = "/" + path.lstrip("/")
    found = _FOR.match(single, len(base_path)) if single.startswith(base_path) else None
    if found is None:
        return None, path
    return found["name"], f"{base_path}/{found['rest']}"


T = TypeVar("T")


def select_profile(profiles: Mapping[str, T], in_path: str | None, of_key: str | None) -> T:
    """The profile of a request: the path's, else the key's, else `plain`. Raises UnknownPath for a path's name that
    is none; a key's is checked with the configuration."""
    name = in_path if in_path is not None else of_key or "plain"
    if name not in profiles:
        known = ", ".join(sorted(profiles))
        raise UnknownPath(
            f"There is no profile {name[:PROFILE_SHOWN_CHARS]!r}. A base URL may end in {PREFIX}NAME/v1: {known}."
        )
    return profiles[name]


_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")


def base_url(headers: Headers, base_path: str = "", profile: str | None = None) -> str:
    """`http://HOST/v1` with the host that the client itself wrote, or its path alone where that is none.

    For words to that client only: a proxy on the way, which may speak TLS, tells by `x-forwarded-proto`, and so may
    anybody.
    """
    path = base_path + (f"{PREFIX}{profile}" if profile else "") + PREFIXES[0]
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
        return path
    scheme = "https" if header(headers, b"x-forwarded-proto") == b"https" else "http"
    return f"{scheme}://{hosts[0].decode('ascii')}{path}"


WORD = "ping"


def samples(operation: str, model: str) -> tuple[Call, ...]:
    """Requests of one word for the shortest answer, in order of what upstreams take most often.

    Reasoning models refuse `max_tokens`, and an answer that has no room for their thoughts.
    """
    found = next(each for each in OPERATIONS if each.name == operation)
    return tuple(call_of(found, model, {"model": model, **body}) for body in _bodies(operation))


def call_of(operation: Operation, model: str = "", body: Mapping[str, Any] | None = None) -> Call:
    """A call of gatepass's own."""
    data = json.dumps(body).encode() if body is not None else b""
    return Call(id="gatepass-check", operation=operation, caller="gatepass", model=model, body=data, headers=())


def _bodies(operation: str) -> list[dict[str, Any]]:
    if operation == "embeddings":
        return [{"input": WORD}]
    if operation == "rerank":
        return [{"query": WORD, "documents": [WORD]}]
    if operation == "completions":
        return [{"prompt": WORD, "max_tokens": 1}]
    asked = {"messages": [{"role": "user", "content": WORD}]}
    return [{**asked, "max_tokens": 1}, {**asked, "max_completion_tokens": 16}]
