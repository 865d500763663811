"""The OpenAI dialect, the base of the others, and the header fields that pass in both directions. Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from typing import ClassVar
from urllib.parse import quote, urlsplit

from msgspec.structs import replace

from gatepass.dialects import reply_check
from gatepass.dialects.hints import HINTS, Hint
from gatepass.draft import Rule
from gatepass.errors import ModelNotFound
from gatepass.replies.error_body import read_error_body
from gatepass.types import (
    NEVER_UP,
    USUAL_CONNECTION,
    Call,
    Headers,
    OutboundRequest,
    Target,
    Timeouts,
    header,
    named_by_connection,
)

FORWARDED = frozenset({b"user-agent", b"openai-organization", b"openai-project", b"traceparent", b"tracestate"})
"""Request fields of the client that are forwarded. gatepass sets content-type, accept… and x-request-id itself."""

_ALLOWED = FORWARDED - NEVER_UP

_SEPARATOR = b"\0"
"""Separates values in a search for secrets. No field contains it (RFC 9110, section 5.5), and unlike a soft line break
it does not join two values to a secret."""
RELAYED = frozenset(
    (
        *(b"accept-ranges", b"retry-after", b"retry-after-ms", b"ratelimit", b"ratelimit-policy"),
        *(b"request-id", b"x-correlation-id", b"correlation-id", b"x-trace-id", b"traceparent", b"x-b3-traceid"),
        *(b"apim-request-id", b"x-ms-request-id", b"x-ms-client-request-id", b"x-ms-correlation-request-id"),
        *(b"x-ms-region", b"x-ms-deployment-name", b"x-ms-served-model", b"x-ms-rai-invoked", b"azureml-model-session"),
        *(b"x-amzn-requestid", b"x-amzn-trace-id", b"x-amz-request-id", b"x-amz-id-2", b"x-amzn-errortype"),
        *(b"cf-ray", b"cf-aig-cache-status", b"cf-aig-log-id", b"x-cloud-trace-context", b"x-goog-request-id"),
        *(b"x-kong-request-id", b"x-kong-upstream-latency", b"x-kong-proxy-latency", b"x-kong-response-latency"),
        *(b"x-envoy-upstream-service-time", b"x-envoy-ratelimited", b"x-vcap-request-id", b"x-groq-region"),
    )
)
RELAYED_PREFIXES = (
    *(b"content-", b"retry-after-", b"x-ratelimit-", b"x-rate-limit-", b"ratelimit-", b"anthropic-ratelimit-"),
    *(b"openai-", b"x-amzn-bedrock-"),
)
"""Response fields of an upstream that are relayed: descriptions of the body, limits, times, and ids for a search."""
NOT_RELAYED = frozenset(
    (
        *(b"content-length", b"content-encoding", b"content-location"),
        *(b"content-security-policy", b"content-security-policy-report-only"),
    )
)
"""Exceptions of RELAYED_PREFIXES: gatepass frames the body, and the others name an address or bind a browser."""
MCP_RELAYED, MCP_RELAYED_PREFIXES = frozenset((b"allow",)), (b"mcp-",)
"""Those that MCP servers send beside."""
RELAYED_WITH_ERROR = frozenset((b"retry-after-ms", b"request-id"))
RELAYED_WITH_ERROR_PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-")
"""Those that an error keeps. The SDKs of OpenAI and Anthropic read from them how long to wait."""

_USUAL_KINDS = frozenset(
    (
        *(b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"),
        *(b"text/event-stream", b"text/event-stream; charset=utf-8", b"text/event-stream;charset=utf-8"),
    )
)
"""Content types that are not searched for a secret, because the search takes 1 µs of each reply."""


def forwarded(headers: Headers, more: Collection[str] = ()) -> Headers:
    """Return the fields of a client's request that may be sent; `more` are names from the configuration.

    `headers` are those of a Call: `safe_headers` removed the fields that `connection` names. The proxy's fields are
    added after that, so a client cannot remove them with `connection` (as in CVE-2025-48865).
    """
    allowed = _allowed_with(tuple(more)) if more else _ALLOWED
    return tuple([field for field in headers if field[0] in allowed])


@lru_cache(maxsize=1024)  # one entry for each upstream of the configuration
def _allowed_with(more: tuple[str, ...]) -> frozenset[bytes]:
    named = (name.lower().encode("ascii", "replace") for name in more)
    return (FORWARDED | {name for name in named if not name.startswith(b"x-gatepass-")}) - NEVER_UP


class ResponseHeaders:
    """Select the fields of an upstream's replies that are relayed.

    They are RELAYED and RELAYED_PREFIXES, of an MCP server also its own. A field is removed if `holds` finds a known
    secret in its value.
    """

    __slots__ = ("_holds", "_names", "_places", "_prefixes")

    def __init__(self, holds: Callable[[str], bool] = lambda _: False, *, is_of_mcp: bool = False) -> None:
        self._holds = holds
        self._names = RELAYED | MCP_RELAYED if is_of_mcp else RELAYED
        self._prefixes = (*RELAYED_PREFIXES, *MCP_RELAYED_PREFIXES) if is_of_mcp else RELAYED_PREFIXES
        self._places = lru_cache(maxsize=64)(self._places_of)  # an upstream sends the same few names each time

    def select(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """Return the fields of a reply that are relayed, with one content type."""
        names, values = zip(*headers, strict=True) if headers else ((), ())
        are_kept, kinds_at, connections_at = self._places(names)
        kept, names_fields = [*compress(headers, are_kept)], False
        for at in connections_at:
            names_fields = names_fields or headers[at] not in USUAL_CONNECTION
        if names_fields:
            named = named_by_connection(headers)
            kept = [field for field in kept if field[0] not in named]
        if kept and self._holds(_SEPARATOR.join(compress(values, are_kept)).decode("latin-1")):
            kept = [field for field in kept if not self._holds(field[1].decode("latin-1"))]
        if kinds_at:
            kind = values[kinds_at[0]]
            if len(kinds_at) > 1:
                kinds = (values[at] for at in kinds_at)
                kind = next((one for one in kinds if one.strip().lower().startswith(b"text/event-stream")), kind)
            if kind in _USUAL_KINDS or not self._holds(kind.decode("latin-1")):
                kept.insert(0, (b"content-type", kind))
        return kept

    def _places_of(self, names: tuple[bytes, ...]) -> tuple[list[bool], list[int], list[int]]:
        """Return for each of `names` whether its field is relayed, and where `content-type` and `connection` are."""
        kinds_at = [at for at, name in enumerate(names) if name == b"content-type"]
        connections_at = [at for at, name in enumerate(names) if name == b"connection"]
        return [at not in kinds_at and self._is_listed(name) for at, name in enumerate(names)], kinds_at, connections_at

    def _is_listed(self, name: bytes) -> bool:
        # a proxy that maps `_` to `-` would take it for another field (CVE-2025-64484)
        if b"_" in name or name in NOT_RELAYED:
            return False
        return name in self._names or name.startswith(self._prefixes)


STEPS = (".", "..")
"""Path segments that never name a model, in every escaping (RFC 3986, section 5.2.4)."""


def path_segment(name: str) -> str:
    """Escape `name`, which a client may choose, as one path segment; raise ModelNotFound for "", `.` and `..`."""
    if not name or name in STEPS:
        raise ModelNotFound(f"{name!r} cannot be the name of a model.", param="model")
    return quote(name, safe="", errors="replace")


@dataclass(frozen=True, slots=True)
class Dialect:
    """The OpenAI API: the body is sent unchanged. Other dialects override what differs."""

    lists_models: ClassVar[bool] = True
    """Whether the upstream's model list has the names that a request needs."""
    converted: ClassVar[str] = "unwrap=data"
    """The entry of `x-gatepass-adapted` if `classify_document` returns another document."""
    rules: tuple[Rule, ...] = ()
    """Changes that run after all others, because their result must fit the protocol."""

    @property
    def hints(self) -> tuple[Hint, ...]:
        """The advice for its errors. The first hint that matches is shown."""
        return HINTS

    def encode(
        self,
        call: Call,
        target: Target,  # noqa: ARG002 - for other dialects; OpenAI's body names the model
        base_url: str,
        timeouts: Timeouts,
        forward_headers: Collection[str] = (),
    ) -> OutboundRequest:
        """Return `call` as a request to `base_url`, without a credential: `CredentialInjector` adds it."""
        return build_request(call, operation_url(base_url, call.operation.path), timeouts, forward_headers)

    # to support a new error format in all dialects, add it to `error_body.read_error_body`
    read_error_body = staticmethod(read_error_body)
    """Called for each event of a stream. The methods below do not call it."""
    classify_head = staticmethod(reply_check.classify_head)
    """Called before the body is read. Not called for a 200, because its head does not decide."""
    classify_error = staticmethod(reply_check.classify_error)
    """Called for a reply of status 400 or more."""
    classify_document = staticmethod(reply_check.classify_document)
    """Called for a whole reply of status 200 to 299, except for most good ones."""


def build_request(call: Call, url: str, timeouts: Timeouts, forward_headers: Collection[str]) -> OutboundRequest:
    """Return `call` as a request to `url`. A GET is sent without a body: RAGFlow's Go client puts `{}` into a GET."""
    operation = call.operation
    has_body = operation.method != "GET"
    more = operation.request_headers  # nearly always empty
    kept = forwarded(call.headers, (*forward_headers, *more) if more else forward_headers)
    accept = _ACCEPT_STREAM if call.stream else _ACCEPT_JSON
    of_body = _JSON_BODY if has_body else ()
    agent = () if b"user-agent" in dict(kept) else _AGENT
    # The call's id is the client's id if that is a plain word, so that one request has one id in every log.
    headers = (*kept, *accept, *of_body, *agent, (b"x-request-id", call.id.encode("ascii", "replace")))
    return OutboundRequest(operation.method, url, headers, call.body if has_body else b"", timeouts)


@lru_cache(maxsize=1024)  # parsing a URL costs 4 µs; an upstream has one entry for each operation
def operation_url(base_url: str, path: str) -> str:
    """Append the path of an operation to that of `base_url`, and keep its query."""
    parts = urlsplit(base_url)
    # two slashes in a row are a 404 `Resource not found` of Azure
    return parts._replace(path=f"{parts.path.rstrip('/')}/{path.lstrip('/')}").geturl()


IDENTITY = (b"accept-encoding", b"identity")  # compression would delay the events of a stream
# The client's `accept` is replaced, because openai-python sends application/json for a stream too (its
# `_base_client.py`), and some servers choose the reply's form by this field.
_ACCEPT_STREAM: Headers = ((b"accept", b"text/event-stream"), IDENTITY)
_ACCEPT_JSON: Headers = ((b"accept", b"application/json"), IDENTITY)
_JSON_BODY: Headers = ((b"content-type", b"application/json"),)
_AGENT: Headers = ((b"user-agent", b"gatepass"),)

PARAMETERS = frozenset(
    (
        *(b"after", b"before", b"limit", b"order", b"purpose", b"include", b"include[]", b"include%5B%5D"),
        *(b"include%5b%5d", b"include_obfuscation", b"starting_after", b"stream"),
    )
)
"""Query parameters that are forwarded for files, batches and stored responses."""

_PLAIN = re.compile(rb"[A-Za-z0-9%._~+\[\]-]{1,512}=[A-Za-z0-9%._~+,:-]{0,512}\Z")


def raw_request(request: OutboundRequest, headers: Headers, *, is_form: bool = False) -> OutboundRequest:
    """Return `request` with `accept` of the client. A form has its type too."""
    accept = header(headers, b"accept") or b"*/*"
    kind = header(headers, b"content-type") if is_form else None
    own = [(b"accept", accept), *([(b"content-type", kind)] if kind is not None else [])]
    names = {name for name, _ in own}
    fields = (*(field for field in request.headers if field[0] not in names), *own)
    return replace(request, headers=fields)


def with_query(request: OutboundRequest, query: bytes, names: frozenset[bytes]) -> OutboundRequest:
    """Return `request` with the parameters `names` of the client's `query`, as far as they are plain text."""
    pairs = [pair for pair in query.split(b"&") if _PLAIN.match(pair) and pair.partition(b"=")[0] in names]
    if not pairs:
        return request
    separator = "&" if "?" in request.url else "?"
    return replace(request, url=f"{request.url}{separator}{b'&'.join(pairs).decode('ascii')}")
