"""Which header fields cross: requests and responses by allow-lists."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache

from gatepass.lexicon import NEVER_RELAYED, NEVER_RELAYED_PREFIXES, NEVER_UP
from gatepass.types import KEEPS_ALIVE, Headers, named_by_connection

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

    def relayed(self, headers: Headers) -> list[tuple[bytes, bytes]]:
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
