"""Define the operations that gatepass serves, and find the operation and the profile of a path.

A base URL may contain a profile: `/for/NAME/v1/…`. `samples` builds the smallest request of an operation, which
`gatepass check` and `gatepass doctor` use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from gatepass.errors import MethodNotAllowed, UnknownPath, UnsupportedHead, documentation
from gatepass.protocols import PROTOCOLS
from gatepass.types import Call, ClientRequest, Headers, Operation, header


def _row(protocol: str, method: str, path: str, summary: str, *, name: str = "", **more: Any) -> Operation:
    spoken = PROTOCOLS[protocol]
    more["request_headers"] = spoken.request_headers
    return Operation(name or protocol, method, path, protocol, summary, spoken.members, **more)


def _raw(name: str, method: str, path: str, summary: str, **more: bool) -> Operation:
    return _row("raw", method, path, summary, name=name, **more)


def _stored(name: str, method: str, path: str, summary: str, protocol: str = "raw", **more: Any) -> Operation:
    return _row(protocol, method, path, summary, name=name, names_model=False, is_about_stored=True, **more)


_ANSWERS = "stored_responses"
_RAW = (
    _raw("transcriptions", "POST", "/audio/transcriptions", "Transcribe speech", takes_form=True),
    _raw("translations", "POST", "/audio/translations", "Translate speech", takes_form=True),
    _raw("speech", "POST", "/audio/speech", "Synthesize speech"),
    _raw("images", "POST", "/images/generations", "Generate an image"),
    _raw("images", "POST", "/images/edits", "Edit an image", takes_form=True),
    _raw("images", "POST", "/images/variations", "Create variations of an image", takes_form=True),
    _raw("moderations", "POST", "/moderations", "Classify a text"),
    _stored("files", "POST", "/files", "Store a file", takes_form=True),
    _stored("files", "GET", "/files", "List the files"),
    _stored("files", "GET", "/files/{id}", "Describe one file"),
    _stored("files", "DELETE", "/files/{id}", "Delete one file"),
    _stored("files", "GET", "/files/{id}/content", "Fetch one file", is_download=True),
    _stored("batches", "POST", "/batches", "Create a batch"),
    _stored("batches", "GET", "/batches", "List the batches"),
    _stored("batches", "GET", "/batches/{id}", "Describe one batch"),
    _stored("batches", "POST", "/batches/{id}/cancel", "Cancel one batch"),
    *(
        _stored("responses", method, f"/responses/{{id}}{rest}", summary, _ANSWERS, opened_by=_ANSWERS)
        for method, rest, summary in (
            ("GET", "", "Fetch one response"),
            ("DELETE", "", "Delete one response"),
            ("POST", "/cancel", "Cancel one response"),
            ("GET", "/input_items", "List one response's input"),
        )
    ),
)
"""Operations whose requests and replies pass unchanged."""

CHAT_OPERATION = _row("chat", "POST", "/chat/completions", "Complete a chat")
_MESSAGES = _row("messages", "POST", "/messages", "Create a message", has_deployment_path=False)

OPERATIONS = (
    CHAT_OPERATION,
    _row("completions", "POST", "/completions", "Complete a text"),
    _row("embeddings", "POST", "/embeddings", "Embed texts"),
    _row("rerank", "POST", "/rerank", "Rank documents by a query"),
    _row("responses", "POST", "/responses", "Create a response", has_deployment_path=False),
    *(
        _row(protocol, "POST", f"/responses/{protocol}", summary, name="responses", has_deployment_path=False)
        for protocol, summary in (
            ("compact", "Shorten a conversation"),
            ("input_tokens", "Count the input tokens of a response"),
        )
    ),
    _MESSAGES,
    _row(
        *("count_tokens", "POST", "/messages/count_tokens", "Count the tokens of a message"),
        configured_as="messages",
        has_deployment_path=False,
    ),
    *_RAW,
    _row("models", "GET", "/models", "List the models", names_model=False),
    _row(
        "models",
        "GET",
        "/models/{model}",
        "Describe one model",
        name="model",
        names_model=False,
        configured_as="models",
    ),
)

PREFIXES = ("/v1", "", "/v1/v1")
"""Prefixes of a path, the preferred one first. RAGFlow appends `/v1` to the base URL never, once or twice."""

PATH_SHOWN_CHARS = 100

_MCP = tuple(f"{prefix}/mcp/" for prefix in PREFIXES)
"""Where clients of MCP expect a server, right or wrong."""

_MODEL, _ID = "{model}", "{id}"


class Match(msgspec.Struct, frozen=True):
    """The operation of a path and a method.

    `model` is the id in `/models/{id}`, slashes included. `at_root`: the path is the root of the API. RAGFlow's Go
    client posts rerank requests to it, and chats of models such as `qwen-…` (infiniflow/ragflow#19004). Other clients
    have no operation there.
    """

    operation: Operation
    model: str | None = None
    at_root: bool = False


COHERE_V2 = "/v2/rerank"
"""The only path that Cohere's `ClientV2` requests. The reply has the members of both of Cohere's versions."""
GPUSTACK = tuple(f"{prefix}/v1-openai/embeddings" for prefix in ("", "/v1"))
"""Where RAGFlow's Go client for GPUStack sends embeddings."""


def _matches_by_path() -> Mapping[str, Mapping[str, Match]]:
    found: dict[str, dict[str, Match]] = {}
    for operation in OPERATIONS:
        if "{" not in operation.path:
            for prefix in PREFIXES:
                found.setdefault(prefix + operation.path, {})[operation.method] = Match(operation)
        if operation.protocol == "rerank":
            found[COHERE_V2] = {operation.method: Match(operation)}
        if operation.name == "embeddings":
            found |= {path: {operation.method: Match(operation)} for path in GPUSTACK}
    return found


_RERANK = next(operation for operation in OPERATIONS if operation.protocol == "rerank")
_ROOTS = frozenset(("", *PREFIXES))
_AT_ROOT: Mapping[str, Match] = {"POST": Match(_RERANK, at_root=True)}
BY_PATH = _matches_by_path()
_BY_STEM = tuple(
    (prefix + operation.path.removesuffix(_MODEL), operation)
    for operation in OPERATIONS
    if operation.path.endswith(_MODEL)
    for prefix in PREFIXES
)
# A path below has no operation either, but its clients read only errors in their own format.
_UNKNOWN: Mapping[str, Match] = {"": Match(_MESSAGES)}
_BELOW = tuple(f"{prefix}{_MESSAGES.path}/" for prefix in PREFIXES)
_WITH_ID = tuple(operation for operation in OPERATIONS if _ID in operation.path)
_ENDS = tuple(operation.path for operation in OPERATIONS if "{" not in operation.path)
"""Paths that a client may append to a base URL that ends in `/v1/responses`. They are never the id of a response."""
_SLASHES = re.compile("//+")
_SEGMENTS = re.compile(
    r"(?P<prefix>/v1/v1|/v1|)/(?P<name>[a-z]+)/(?P<id>(?!input_tokens\Z)[A-Za-z0-9_-][A-Za-z0-9_.-]{0,255})(?P<rest>/[a-z_]+)?\Z"
)


def match_operation(method: str, path: str, base_path: str = "") -> Match:
    """Return the operation of `path` (percent-escapes already decoded), below `base_path`.

    Each operation has the paths `/v1/X`, `/X` and `/v1/v1/X`, with or without trailing slashes. Several slashes equal
    one, because base URLs that end in a slash produce them. HEAD matches the operation of GET; the server omits the
    body (RFC 9110 section 9.3.2). Raises UnknownPath, MethodNotAllowed.
    """
    found = _find(path, base_path)
    if found is None or found is _UNKNOWN or (found is _AT_ROOT and method not in found):
        raise unknown_path_error(path, base_path)
    matched = found.get("GET" if method == "HEAD" else method)
    if matched is None:
        if next(iter(found.values())).model is not None and path.endswith(_ENDS):
            raise unknown_path_error(path, base_path)
        methods = [one.operation.method for one in found.values()]
        allow = ", ".join("GET, HEAD" if name == "GET" else name for name in methods)
        shown = path[:PATH_SHOWN_CHARS]
        raise MethodNotAllowed(f"{method[:20]} is not possible at {shown}; use {' or '.join(methods)}.", allow=allow)
    return matched


def route_of(method: str, path: str, base_path: str = "") -> str:
    """Return the path of the operation at a client's `path`, with a place for each id; "" if there is none."""
    try:
        found = match_operation(method, split_profile(path, base_path)[1], base_path).operation
    except (UnknownPath, MethodNotAllowed):
        return ""
    return PREFIXES[0] + next(row.path for row in OPERATIONS if row.summary == found.summary)


def operation_at(path: str, base_path: str = "") -> Operation | None:
    """Return an operation of `path`, for any method, or the one whose format its errors have, or None."""
    found = _find(path, base_path)
    return None if found is None or found is _AT_ROOT else next(iter(found.values())).operation


def is_probe(client_request: ClientRequest, base_path: str) -> bool:
    """Whether the request is a HEAD of a base URL: Claude Code asks so at its start whether the host is reachable."""
    path = split_profile(client_request.path, base_path)[1]
    return client_request.method == "HEAD" and not path.removeprefix(base_path).strip("/")


PAGE_IS_OFF = "The page is off. Set `server.ui: true` or GATEPASS_UI=true to serve it."


def unknown_path_error(
    path: str, base_path: str = "", base_url: str = "", servers: str = "", *, at_root: bool = False
) -> UnknownPath:
    """Return the error for a `path` without an operation; `base_url` is the one that the client should use.

    `servers` is the sentence with the MCP servers of the caller, after a space. `at_root` is that of Match.
    """
    where = base_url or base_path + PREFIXES[0]
    if f"{path.removeprefix(base_path)}/".startswith(_MCP):
        return UnknownPath(
            f"There is no MCP server at {path[:PATH_SHOWN_CHARS]}: one that `mcp` of the configuration names is at"
            f" {base_path}/mcp/NAME{documentation('docs/mcp.md', ' ({})')}.{servers} For its models,"
            f" a host of MCP uses {where} as the base URL."
        )
    if f"{path.removeprefix(base_path)}/".startswith("/ui/"):
        return UnknownPath(PAGE_IS_OFF)
    # Clients append an operation's path to their base URL. The part before it is the URL of another server, or a URL
    # that already contains an operation.
    wrong = path.removesuffix(max((end for end in _ENDS if path.endswith(end)), key=len, default=path))
    hint = f" The base URL of this client seems to end in {wrong[:PATH_SHOWN_CHARS]}." if wrong else ""
    hint += " Only the profile ragflow accepts requests here." if at_root else ""
    return UnknownPath(f"No operation has the path {path[:PATH_SHOWN_CHARS]}. The base URL is {where}.{hint}")


def upgrade_error(client_request: ClientRequest) -> UnsupportedHead | None:
    """Return the error for a WebSocket handshake (RFC 6455 section 4.1), None for another request."""
    if client_request.method != "GET":
        return None
    offers = (header(client_request.headers, b"upgrade") or b"").lower().split(b",")
    if all(offer.strip() != b"websocket" for offer in offers):
        return None
    shown = client_request.path[:PATH_SHOWN_CHARS]
    return UnsupportedHead(
        "unsupported_upgrade", f"gatepass does not support WebSockets. Send the request with POST to {shown}."
    )


def _find(path: str, base_path: str) -> Mapping[str, Match] | None:
    if path.startswith(base_path):
        below = path[len(base_path) :]
        if found := _find_exact(below) or _find_exact(below.rstrip("/")):
            return found
        if below.rstrip("/") in _ROOTS:
            return _AT_ROOT
    head, stem, model = path.partition("/models/")
    single = _SLASHES.sub("/", head + stem) + model  # not in the model's id, which may begin with a slash
    if single != path:
        return _find(single, base_path)
    return _UNKNOWN if path.startswith(base_path) and path.startswith(_BELOW, len(base_path)) else None


def _find_exact(path: str) -> Mapping[str, Match] | None:
    if (found := BY_PATH.get(path)) is not None:
        return found
    for stem, operation in _BY_STEM:  # a model's id may contain slashes, such as `org/model`
        if path.startswith(stem) and (model := path[len(stem) :].rstrip("/")):
            return {operation.method: Match(operation, model)}
    # one file, batch or response: its id has no characters that change the path
    if (parts := _SEGMENTS.match(path)) is None or f"/{parts['id']}" in _ENDS:
        return None
    shape = f"/{parts['name']}/{_ID}{parts['rest'] or ''}"
    own = f"/{parts['name']}/{parts['id']}{parts['rest'] or ''}"
    found = {row.method: Match(replace(row, path=own)) for row in _WITH_ID if row.path == shape}
    return found or None


PREFIX = "/for/"
PROFILE_SHOWN_CHARS = 64
_FOR = re.compile(r"/+for/+(?P<name>[^/]*)/*(?P<rest>.*)", re.DOTALL)


def split_profile(path: str, base_path: str = "") -> tuple[str | None, str]:
    """Return the profile's name in `path` and the path without it, or None and `path` itself.

    `/llm/for/dify/v1/models` becomes `dify` and `/llm/v1/models`. Several slashes equal one.
    """
    if PREFIX not in path:
        return None, path
    single = "/" + path.lstrip("/")
    found = _FOR.match(single, len(base_path)) if single.startswith(base_path) else None
    if found is None:
        return None, path
    return found["name"], f"{base_path}/{found['rest']}"


T = TypeVar("T")


def select_profile(profiles: Mapping[str, T], path_profile: str | None, of_key: str | None) -> T:
    """Return the profile of the path, else of the API key, else `plain`; raise UnknownPath for an unknown one."""
    name = path_profile if path_profile is not None else of_key or "plain"
    if name not in profiles:
        known = ", ".join(sorted(profiles))
        raise UnknownPath(
            f"There is no profile {name[:PROFILE_SHOWN_CHARS]!r}. A base URL may end in {PREFIX}NAME/v1: {known}."
        )
    return profiles[name]


# at most 253 characters of a DNS name (RFC 1035, section 2.3.4)
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")


def base_url(headers: Headers, base_path: str = "", profile: str | None = None, *, scheme: str = "http") -> str:
    """Return `http://HOST/v1` with the client's Host. Use it only in messages, because the client can set Host.

    `scheme` is that of the listener.
    """
    path = base_path + (f"{PREFIX}{profile}" if profile else "") + PREFIXES[0]
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
        return path
    scheme = "https" if header(headers, b"x-forwarded-proto") == b"https" else scheme
    return f"{scheme}://{hosts[0].decode('ascii')}{path}"


def sample(operation: str, model: str) -> Call:
    """Return a request of one word for a short answer."""
    found = next(each for each in OPERATIONS if each.name == operation)
    return call_of(found, model, {"model": model, **PROTOCOLS[found.protocol].sample})


def call_of(operation: Operation, model: str = "", body: Mapping[str, Any] | None = None) -> Call:
    """Return a call that gatepass itself sends."""
    data = json.dumps(body).encode() if body is not None else b""
    headers = PROTOCOLS[operation.protocol].sample_headers
    return Call(id="gatepass", operation=operation, caller="gatepass", model=model, body=data, headers=headers)
