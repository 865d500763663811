"""Which header fields cross: requests and responses by allow-lists.

An upstream's protocol: how a call is written for it, and how its replies are read. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol
from urllib.parse import quote, urlsplit

from msgspec.structs import replace

from gatepass.dialects import reply_check
from gatepass.dialects.error_body import read_error_body
from gatepass.errors import ModelNotFound
from gatepass.types import (
    KEEPS_ALIVE,
    NEVER_RELAYED,
    NEVER_RELAYED_PREFIXES,
    NEVER_UP,
    Call,
    Headers,
    OutboundRequest,
    Target,
    Timeouts,
    Upload,
    header,
    named_by_connection,
)

FORWARDED = frozenset({b"user-agent", b"openai-organization", b"openai-project", b"traceparent", b"tracestate"})
"""Request fields of the client that go up. content-type, accept… and x-request-id are gatepass's own."""


_ALLOWED = FORWARDED - NEVER_UP

_APART = b"\0"
"""Stands in no field (RFC 9110, section 5.5), and joins no two values as a soft line break would."""
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
"""Response fields of an upstream that go down: what they say of a body, limits, times, and ids to look up."""


_USUAL_KINDS = frozenset(
    (
        *(b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"),
        *(b"text/event-stream", b"text/event-stream; charset=utf-8", b"text/event-stream;charset=utf-8"),
    )
)
"""Content types that are not searched for a secret: it would take 1 µs of each reply."""


def forwarded(headers: Headers, more: Collection[str] = ()) -> Headers:
    """The fields of a client's request that may go up; `more` are names of the configuration.

    Fields that `connection` names belong to the first hop and stay there (CVE-2025-48865 was a proxy
    that let a client remove the proxy's own fields with it: those are added behind this).
    """
    allowed = _allowed(tuple(more)) if more else _ALLOWED
    kept: list[tuple[bytes, bytes]] = []
    names_fields = False
    for field in headers:
        name = field[0]
        if name in allowed:
            kept.append(field)
        elif name == b"connection" and field != KEEPS_ALIVE:
            names_fields = True
    return tuple(_not_named(kept, headers) if names_fields else kept)


@lru_cache(maxsize=1024)  # of the configuration's upstreams
def _allowed(more: tuple[str, ...]) -> frozenset[bytes]:
    named = (name.lower().encode("ascii", "replace") for name in more)
    return (FORWARDED | {name for name in named if not name.startswith(b"x-gatepass-")}) - NEVER_UP


class ResponseHeaders:
    """Chooses the fields of one upstream's replies that go down: those listed here, and `more` by the configuration,
    exact names or such that end in `*`.

    A field whose value `holds` a known secret is dropped.
    """

    __slots__ = ("_goes_down", "_holds", "_names", "_prefixes")

    def __init__(self, more: Collection[str] = (), holds: Callable[[str], bool] = lambda _: False) -> None:
        added = [name.lower().encode("ascii", "replace") for name in more]
        self._holds = holds
        self._names = RELAYED | {name for name in added if not name.endswith(b"*")}
        self._prefixes = (*RELAYED_PREFIXES, *(name[:-1] for name in added if name.endswith(b"*")))
        self._goes_down = lru_cache(maxsize=1024)(self._is_listed)  # upstreams send the same few again and again

    def select(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """The fields of a reply that go down, with one content type.

        Of several content types the one that says event stream counts, else the first.
        """
        kinds: list[bytes] = []
        kept: list[tuple[bytes, bytes]] = []
        goes_down = self._goes_down
        names_fields = False
        for field in headers:
            name = field[0]
            if name == b"content-type":
                kinds.append(field[1])
            elif name == b"connection":
                names_fields = names_fields or field != KEEPS_ALIVE
            elif goes_down(name):
                kept.append(field)
        if names_fields:
            kept = _not_named(kept, headers)
        if kept and self._holds(_APART.join([value for _, value in kept]).decode("latin-1")):
            kept = [field for field in kept if not self._holds(field[1].decode("latin-1"))]
        if kinds:
            kind = kinds[0] if len(kinds) == 1 else _content_type(kinds)
            if kind in _USUAL_KINDS or not self._holds(kind.decode("latin-1")):
                kept.insert(0, (b"content-type", kind))
        return kept

    def _is_listed(self, name: bytes) -> bool:
        if b"_" in name or name in NEVER_RELAYED or name.startswith(NEVER_RELAYED_PREFIXES):
            return False
        return name in self._names or name.startswith(self._prefixes)


def _content_type(kinds: Sequence[bytes]) -> bytes:
    streams = [kind for kind in kinds if kind.strip().lower().startswith(b"text/event-stream")]
    return (streams or kinds)[0]


def _not_named(fields: list[tuple[bytes, bytes]], headers: Headers) -> list[tuple[bytes, bytes]]:
    named = named_by_connection(headers)
    return [field for field in fields if field[0] not in named]


STEPS = (".", "..")
"""No names but steps through the path, however they are escaped (RFC 3986 5.2.4)."""


def path_segment(name: str) -> str:
    """`name`, which a client may have chosen, as one segment of a path: it leads nowhere else.

    Raises ModelNotFound for what can be none.
    """
    if not name or name in STEPS:
        raise ModelNotFound(f"The upstream can have no model of the name {name!r}.", param="model")
    return quote(name, safe="", errors="replace")


class DialectRule(Protocol):
    """A change that the protocol itself wants of a call: a Rule of adapt/, told by its shape."""

    @property
    def name(self) -> str: ...

    def apply(self, call: Call, target: Target) -> Call: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """The OpenAI API as its clients send it: the body goes on as it is. Other dialects override what differs.

    Nothing here does I/O; `judge.py` and `error_body.py` hold the promises.
    """

    lists_models: ClassVar[bool] = True
    """Whether the upstream's own list holds the names by which its models are asked."""
    rules: tuple[DialectRule, ...] = ()
    """Changes that run after all others, for whatever these leave must fit."""

    def encode(
        self,
        call: Call,
        target: Target,  # noqa: ARG002 - for other dialects; OpenAI's body names the model
        base_url: str,
        timeouts: Timeouts,
        forward_headers: Collection[str] = (),
    ) -> OutboundRequest:
        """`call` as a request to `base_url`, without its credential (`authorize.Carrier` adds that)."""
        return build_request(call, operation_url(base_url, call.operation.path), timeouts, forward_headers)

    read_error_body = staticmethod(read_error_body)
    classify_head = staticmethod(reply_check.classify_head)
    """Not asked of a 200, whose head says nothing yet."""
    classify_error = staticmethod(reply_check.classify_error)
    classify_document = staticmethod(reply_check.classify_document)


def build_request(call: Call, url: str, timeouts: Timeouts, forward_headers: Collection[str]) -> OutboundRequest:
    """`call` as a request to `url`.

    Only a call with a method that has a body sends one: RAGFlow's Go client puts `{}` into a GET.
    """
    method = call.operation.method
    has_body = method != "GET"
    headers = _headers(call, forward_headers, _JSON_BODY if has_body else ())
    return OutboundRequest(method, url, headers, call.body if has_body else b"", timeouts)


@lru_cache(maxsize=1024)  # a hop has as many as it has operations, and taking a URL apart costs 4 µs
def operation_url(base_url: str, path: str) -> str:
    """`base_url` with an operation's path behind its own; its query stays."""
    parts = urlsplit(base_url)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{path.lstrip('/')}").geturl()


def _headers(call: Call, forward_headers: Collection[str], of_body: Headers) -> Headers:
    """The client's fields that may cross, then ours, those of the body among them.

    `accept` is ours: openai-python asks for application/json even where it wants a stream (its
    `_base_client.py`), and some servers choose by this field. `identity` keeps compression, which
    holds events back, out of the stream. `x-request-id` is the call's id, which is the client's where
    that is a plain word: one name for one request in every log.
    """
    kept = forwarded(call.headers, forward_headers)
    accept = _ACCEPT_STREAM if call.stream else _ACCEPT_JSON
    agent = _AGENT if header(kept, b"user-agent") is None else ()
    return (*kept, *accept, *of_body, *agent, (b"x-request-id", call.id.encode("ascii", "replace")))


_IDENTITY = (b"accept-encoding", b"identity")
_ACCEPT_STREAM: Headers = ((b"accept", b"text/event-stream"), _IDENTITY)
_ACCEPT_JSON: Headers = ((b"accept", b"application/json"), _IDENTITY)
_JSON_BODY: Headers = ((b"content-type", b"application/json"),)
_AGENT: Headers = ((b"user-agent", b"gatepass"),)


PARAMETERS = frozenset(
    (
        *(b"after", b"before", b"limit", b"order", b"purpose", b"include", b"include[]", b"include%5B%5D"),
        *(b"include%5b%5d", b"include_obfuscation", b"starting_after", b"stream"),
    )
)
"""What lists of files and batches, and kept responses, are asked by (openai-python escapes the brackets); nothing else
of a client's query goes up, a key in it least of all."""

_PLAIN = re.compile(rb"[A-Za-z0-9%._~+\[\]-]{1,512}=[A-Za-z0-9%._~+,:-]{0,512}\Z")


def raw_request(request: OutboundRequest, headers: Headers, query: bytes, upload: Upload | None) -> OutboundRequest:
    """`request` with what the client's own `headers` and `query` say; `upload` in the place of its body."""
    accept = header(headers, b"accept") or b"*/*"
    kind = header(headers, b"content-type") if upload is not None else None
    own = [(b"accept", accept), *([(b"content-type", kind)] if kind is not None else [])]
    names = {name for name, _ in own}
    fields = (*(field for field in request.headers if field[0] not in names), *own)
    asked = [pair for pair in query.split(b"&") if _PLAIN.match(pair) and pair.partition(b"=")[0] in PARAMETERS]
    sign = ("&" if "?" in request.url else "?") if asked else ""
    url = f"{request.url}{sign}{b'&'.join(asked).decode('ascii')}"
    return replace(request, url=url, headers=fields, upload=upload)
