"""The plain, frozen values that all layers share.

What every request makes is a msgspec struct: one is made in 50 ns, a frozen dataclass of ten fields in 730.
`msgspec.structs.replace` copies one with changes.

What an embeddings request asks for.

Words of the protocols that several parts must read alike: each of these facts stands here and nowhere else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import msgspec

Headers = tuple[tuple[bytes, bytes], ...]
"""Header fields in order; names in lower case."""


def header(headers: Headers, name: bytes) -> bytes | None:
    """The first value of `name` (lower case), or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


KEEPS_ALIVE = (b"connection", b"keep-alive")
"""The usual `connection` field. The field that it names is hop-by-hop, so it never passes."""


def named_by_connection(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """The fields that `connection` says belong to one hop (RFC 9110 7.6.1)."""
    lists = [value.split(b",") for name, value in headers if name == b"connection"]
    return {named.strip().lower() for listed in lists for named in listed}


class Secret:
    """A value that cannot print itself: repr, str, format, pickle and json give it away to nobody.

    It holds a reader instead of a value where the value lives in a file that may be rotated;
    `reveal()` is the only way in, and each call of it reads afresh. `changes` tells whether another value
    may come without a restart: so it is where a file is read, and not where a variable is.
    """

    __slots__ = ("_read", "changes")

    def __init__(self, value: str | Callable[[], str], *, changes: bool | None = None) -> None:
        self._read: Callable[[], str] = value if callable(value) else lambda: value
        self.changes = callable(value) if changes is None else changes

    def reveal(self) -> str:
        return self._read()

    def derived(self, form: Callable[[str], str]) -> Secret:
        """The same secret in another form."""
        return Secret(lambda: form(self.reveal()), changes=self.changes)

    def __repr__(self) -> str:
        return "Secret(hidden)"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a Secret does not leave the process")


class ClientProtocol(str):
    """The client's protocol: how its body is read and how it is told of an error. Compared by identity.

    It is no Enum: CPython 3.11 takes 40 to 100 ns to name a member of one, and a request names twelve.
    """

    __slots__ = ()

    CHAT: ClassVar[ClientProtocol]
    EMBEDDINGS: ClassVar[ClientProtocol]
    RERANK: ClassVar[ClientProtocol]
    RESPONSES: ClassVar[ClientProtocol]
    MODELS: ClassVar[ClientProtocol]
    RAW: ClassVar[ClientProtocol]


ClientProtocol.CHAT, ClientProtocol.EMBEDDINGS, ClientProtocol.RERANK = (
    ClientProtocol("chat"),
    ClientProtocol("embeddings"),
    ClientProtocol("rerank"),
)
ClientProtocol.RESPONSES, ClientProtocol.MODELS, ClientProtocol.RAW = (
    ClientProtocol("responses"),
    ClientProtocol("models"),
    ClientProtocol("raw"),
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the operation table. `path` is relative to the API's root, without `/v1`."""

    name: str
    method: str
    path: str
    protocol: ClientProtocol
    summary: str
    takes_form: bool = False
    """Its body may be a multipart form, which passes through as it comes."""
    names_model: bool = True
    """Its requests are about a model."""
    is_download: bool = False
    """Its reply is a file, whatever its content type says: nothing in it is judged."""


class ClientRequest(msgspec.Struct, frozen=True, gc=False):
    """What is known of a request before its body is read: enough to decide who may go on."""

    id: str
    method: str
    path: str
    headers: Headers
    peer: str
    arrived_s: float
    query: bytes = b""
    mounted_at: str = ""
    """Where the application is mounted in another one; `path` is below it."""


class Call(msgspec.Struct, frozen=True, gc=False):
    """One decoded client request. `body` is the client's bytes until a named rule changes them."""

    id: str
    operation: Operation
    caller: str
    model: str
    body: bytes
    headers: Headers
    stream: bool = False
    choices: int = 1
    adapted: tuple[str, ...] = ()
    max_inputs: int | None = None
    """At most so many inputs of an embeddings call in one request; None: as they came."""
    embeddings: EmbeddingsOptions | None = None
    """See `wishes`: known where the pass over the client's body could tell it too."""

    def embeddings_options(self) -> EmbeddingsOptions:
        """What an embeddings call asks for. It is the client's own: no rule has changed its body."""
        return self.embeddings or EmbeddingsOptions.from_body(self.body)

    def with_body(self, body: bytes, *entries: str) -> Call:
        """The same call with another body; `entries` join `adapted`."""
        return Call(
            self.id,
            self.operation,
            self.caller,
            self.model,
            body,
            self.headers,
            self.stream,
            self.choices,
            (*self.adapted, *entries),
            self.max_inputs,
            self.embeddings,
        )


@dataclass(frozen=True, slots=True)
class Target:
    """Where one attempt goes: an upstream of the configuration and the model's name there.

    `model` None sends the client's own name on, byte for byte.
    """

    upstream: str
    model: str | None = None
    timeouts: Timeouts | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `first_byte_s` runs from the request's last byte to the reply's head, and before that while the
    server takes nothing of a large body; `idle_s` between two pieces of the reply, `total_s` over all attempts;
    None is no bound of its own."""

    connect_s: float = 5.0
    first_byte_s: float = 600.0
    idle_s: float = 300.0
    total_s: float | None = None


class Upload(Protocol):
    """A request body on its way through: `length_bytes` where the client announced it, pieces as they come.

    Reading raises BodyTooLarge, ReceiveTimeout, ClientGone and InvalidRequest.
    """

    @property
    def length_bytes(self) -> int | None: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...
    def can_restart(self) -> bool:
        """Whether it can be read from its beginning once more; the next `aiter` does."""
        ...


class OutboundRequest(msgspec.Struct, frozen=True, gc=False):
    """What goes over the second hop (or to an issuer). `upload` stands in the place of `body`."""

    method: str
    url: str
    headers: Headers = ()
    body: bytes = b""
    timeouts: Timeouts = Timeouts()
    new_connection: bool = False
    """Wants a new connection: for the one repeat after a kept one turned out to be dead."""
    upload: Upload | None = None
    reauthorize: Callable[[], OutboundRequest | None] | None = None
    """Asked by whoever had to wait for a connection, before the first byte: the same request with the credential
    of this moment, None where it is still the same. What it raises keeps the request from being sent."""


@dataclass(frozen=True, slots=True)
class UpstreamErrorBody:
    """What an upstream said when it refused, read out of whatever shape it said it in.

    `status` is the HTTP status its words imply (an error inside a 200 has one too), `kind` and
    `code` are its own `type` and `code` as text, `raw` its own object where that is more than these.
    `inside` is the text in which the error stood as JSON: a relay's own, or one that quotes the client.
    """

    message: str
    status: int | None = None
    kind: str | None = None
    code: str | None = None
    param: str | None = None
    raw: Any = None
    inside: str = field(default="", compare=False, repr=False)


class Response(Protocol):
    """The head of a reply, and its body in pieces as they come.

    Whoever holds it closes it, in every case: `aclose` frees the connection, or kills it where the
    body was not read to its end. Reading raises TransportFault.

    `pour` hands each piece to `write` in the moment in which it is here, without waking the task that
    waits where the transport can. It returns False when `write` did, which then wants no more for now,
    and True at the body's end.

    `ended`: the body is known to have no more than what is here already.
    """

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def ended(self) -> bool: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...
    def stream_to(self, write: Callable[[bytes], bool]) -> Awaitable[bool]: ...
    def aclose(self) -> Awaitable[None]: ...


_NOTHING = msgspec.Raw(b"")


class _Body(msgspec.Struct, gc=False):
    input: msgspec.Raw = _NOTHING
    dimensions: msgspec.Raw = _NOTHING
    encoding_format: msgspec.Raw = _NOTHING


_BODY = msgspec.json.Decoder(_Body)
_LIST: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])


class EmbeddingsOptions(msgspec.Struct, frozen=True, gc=False):
    """What a client's own embeddings request asks for: how many vectors, in base64 or numbers, how long (None: any)."""

    count: int
    base64: bool = False
    dimensions: int | None = None

    @classmethod
    def from_body(cls, body: bytes) -> Self:
        """`body` is a JSON object."""
        found = _BODY.decode(body)
        return cls.from_members(_count(found.input), found.encoding_format, found.dimensions)

    @classmethod
    def from_members(cls, count: int, encoding_format: msgspec.Raw, dimensions: msgspec.Raw) -> Self:
        """By the members of a request's body, as they are written."""
        return cls(count, bytes(encoding_format) == b'"base64"', whole(bytes(dimensions)))


def count_inputs(inputs: Sequence[msgspec.Raw]) -> int:
    """The number of inputs that a list is: one of ids is a single one."""
    if not inputs:
        return 0
    return 1 if bytes(memoryview(inputs[0])[:1]) in _DIGITS else len(inputs)


def _count(inputs: msgspec.Raw) -> int:
    """The number of inputs: a string is one."""
    return count_inputs(_LIST.decode(inputs)) if bytes(memoryview(inputs)[:1]) == b"[" else 1


_DIGITS = frozenset({b"-", *(b"%d" % digit for digit in range(10))})


def whole(text: bytes) -> int | None:
    """The whole number that `text` is, below ten digits; else None."""
    return int(text) if text.isdigit() and len(text) < 10 else None


HOP_BY_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        *(b"proxy-authenticate", b"proxy-authorization", b"proxy-authentication-info"),
    )
)
"""Header fields that are true of one hop only (RFC 9110 7.6.1), and what older clients send beside them."""

CREDENTIALS = frozenset((b"authorization", b"x-api-key", b"api-key", b"cookie"))
"""Header fields that show a client's own credential: it is for gatepass alone."""

MADE_ANEW = frozenset(
    (
        *(b"host", b"expect", b"content-type", b"content-length", b"content-encoding"),
        *(b"accept", b"accept-encoding", b"x-request-id"),
    )
)
"""Request fields that gatepass writes itself for the second hop."""

NEVER_RELAYED = (
    HOP_BY_HOP
    | CREDENTIALS
    | {
        *(b"content-length", b"content-encoding", b"content-type", b"cache-control", b"set-cookie", b"set-cookie2"),
        *(b"x-auth-token", b"x-amz-security-token", b"authentication-info", b"www-authenticate", b"x-csrf-token"),
        *(b"server", b"date", b"alt-svc", b"strict-transport-security", b"x-request-id", b"via", b"host"),
        *(b"location", b"content-location", b"refresh", b"x-sendfile", b"x-reproxy-url", b"x-lighttpd-send-file"),
        *(b"server-timing", b"clear-site-data", b"nel", b"report-to", b"content-security-policy"),
        *(b"content-security-policy-report-only",),
    }
)
"""Not even by `forward_response_headers`. gatepass writes content-type, cache-control and x-request-id itself.

A proxy in front of gatepass obeys x-sendfile and x-reproxy-url (as it does x-accel-*) and would read a file or a URL
for the upstream.
"""
NEVER_RELAYED_PREFIXES = (b"x-gatepass-", b"access-control-", b"x-accel-", b"public-key-pins", b"x-ms-token-")


def never_relayed(name: bytes) -> bool:
    """Whether a field called `name`, or all that begin so where it ends in `*`, may go down by no setting."""
    start = name.removesuffix(b"*")
    return not start or start.startswith(NEVER_RELAYED_PREFIXES) or name in NEVER_RELAYED


NEVER_UP = HOP_BY_HOP | CREDENTIALS | MADE_ANEW
"""Not even by `forward_headers`: the client's credentials are for gatepass alone, and the framing is ours."""
