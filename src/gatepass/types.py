"""Immutable values and protocol constants that all layers share.

Values created per request are msgspec structs. The lists of header fields at the end are the only place that decides
which fields are forwarded and relayed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import msgspec

from gatepass.json_body import NUMBERS, TopLevel, kind

Headers = tuple[tuple[bytes, bytes], ...]
"""Header fields in order, with names in lower case."""


def header(headers: Headers, name: bytes) -> bytes | None:
    """Return the first value of the field `name` (lower case), or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


USUAL_CONNECTION = frozenset(((b"connection", b"keep-alive"), (b"connection", b"close")))
"""The usual `connection` fields. They name no further field to remove: `keep-alive` is never forwarded."""


def named_by_connection(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """Return the fields that `connection` lists as hop-by-hop (RFC 9110 section 7.6.1)."""
    return {named.strip().lower() for name, value in headers if name == b"connection" for named in value.split(b",")}


class Secret:
    """A value that repr, str, format, pickle and json do not reveal.

    `value` is a function if the secret is in a file that may be rotated: each `reveal()` then reads the file again.
    `changes`: whether the value can change without a restart. It can for a file, and not for a variable.
    `reference`: the reference in the configuration, such as `${NAME}`, empty for a value without one.
    """

    __slots__ = ("_read", "changes", "reference")

    def __init__(self, value: str | Callable[[], str], *, changes: bool | None = None, reference: str = "") -> None:
        self._read: Callable[[], str] = value if callable(value) else lambda: value
        self.changes = callable(value) if changes is None else changes
        self.reference = reference

    def reveal(self) -> str:
        return self._read()

    def derived(self, convert: Callable[[str], str]) -> Secret:
        """Return a secret whose value is `convert` applied to this one."""
        return Secret(lambda: convert(self.reveal()), changes=self.changes, reference=self.reference)

    def __repr__(self) -> str:
        return "Secret(hidden)"

    def __reduce__(self) -> str | tuple[Any, ...]:  # called by pickle and by copy
        raise TypeError("a Secret cannot be pickled")


class Hidden:
    """Base of values that hold header fields or bodies, which can hold secrets. `repr` shows only the class."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(hidden)"


class Operation(msgspec.Struct, frozen=True):
    """One row of the operation table. `path` is relative to the API root, without `/v1`."""

    name: str
    method: str
    path: str
    protocol: str
    """The name of its client protocol: a key of `gatepass.protocols.PROTOCOLS`."""
    summary: str
    members: frozenset[str] = frozenset()
    """Members of its requests that rules may change, and `anthropic-beta` if they may leave out values of this header.
    Rules of an operator may change others too."""
    takes_form: bool = False
    """Its body may be a multipart form; gatepass relays it unchanged."""
    names_model: bool = True
    """Its requests name a model in their body."""
    is_download: bool = False
    """Its reply is a file of any content type, so its body is not classified."""
    is_about_stored: bool = False
    """It creates, lists, reads, cancels or deletes stored objects, and nothing else."""
    configured_as: str = ""
    """The name of its settings: its route and its rules. "" becomes `name`."""
    opened_by: str = ""
    """What opens it in a key's `operations`. "" becomes `configured_as`."""
    has_deployment_path: bool = True
    """Azure's classic API names the deployment in its path."""
    request_headers: tuple[str, ...] = ()
    """Fields of its requests that are forwarded beyond those of every operation."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "configured_as", self.configured_as or self.name)
        msgspec.structs.force_setattr(self, "opened_by", self.opened_by or self.configured_as)


MCP_UPSTREAM = "mcp/"
"""The name of an MCP server among the upstreams begins with this: `mcp/NAME`, as its path does."""


def settings_of(upstream: str) -> str:
    """Return the block with the settings of an upstream: `upstreams.NAME`, or `mcp.NAME` for an MCP server."""
    is_mcp = upstream.startswith(MCP_UPSTREAM)
    return f"mcp.{upstream.removeprefix(MCP_UPSTREAM)}" if is_mcp else f"upstreams.{upstream}"


def url_setting_of(upstream: str) -> str:
    """Return the setting with the URL of an upstream: `upstreams.NAME.base_url` or `mcp.NAME.url`."""
    return f"{settings_of(upstream)}.{'url' if upstream.startswith(MCP_UPSTREAM) else 'base_url'}"


# gc=False: no field can refer back, so the garbage collector need not track it
class ClientRequest(Hidden, msgspec.Struct, frozen=True, gc=False):
    """The head of a request. Access is decided by it, before the body is read."""

    id: str
    method: str
    path: str
    headers: Headers
    peer: str
    arrived_s: float
    query: bytes = b""
    mounted_at: str = ""
    """The path at which the application is mounted in another one; `path` is relative to it."""
    user_agent: bytes = b""
    names_coding: bool = False
    """Whether it has a `content-encoding` field, so that its body may be compressed."""


class Call(Hidden, msgspec.Struct, frozen=True, gc=False):
    """One parsed API call. `body` is the client's bytes until a rule changes them; `adapted` lists the changes."""

    id: str
    operation: Operation
    caller: str
    """The identity of the caller."""
    model: str
    body: bytes
    headers: Headers
    stream: bool = False
    choices: int = 1
    names_stored: bool = False
    """The client's body names an object that one upstream stores: a response, a conversation or a prompt."""
    adapted: tuple[str, ...] = ()
    max_inputs: int | None = None
    """The most inputs of an embeddings call in one upstream request; None for no limit."""
    declared_length: tuple[int, str] | None = None
    """The length of the model's vectors, and the setting that declares it."""
    top: TopLevel | None = None
    """The members of `body`, if it is the client's own or a translation. Each other body drops them (`with_body`)."""

    def opened(self) -> TopLevel:
        return TopLevel(self.body) if self.top is None else self.top

    def embeddings_options(self) -> EmbeddingsOptions:
        """Return the options of an embeddings call. Valid only for the client's own call, before rules change it."""
        return EmbeddingsOptions.of(self.opened(), self.declared_length)

    def with_body(self, body: bytes, top: TopLevel | None = None, **fields: Any) -> Call:
        """Return the call with another `body`, whose members are `top` if they are known, and with other `fields`."""
        return msgspec.structs.replace(self, body=body, top=self.top if body is self.body else top, **fields)


class Target(msgspec.Struct, frozen=True):
    """The destination of an attempt: a configured upstream and its name for the model (None: the client's name)."""

    upstream: str
    model: str | None = None
    timeouts: Timeouts | None = None
    protocols: frozenset[str] | None = None
    """The client protocols that it speaks, of those that gatepass can translate; None for all."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits of an upstream, in seconds.

    `first_byte_s` runs from the last byte of the request to the head of the reply. It also limits how long the server
    may accept no bytes of a large request body. `idle_s` is the limit between two pieces of the reply. `total_s` is the
    limit for all attempts together; None for no limit. `settings` has the full name of the setting of each, such as
    `upstreams.chat.timeouts.idle_s`.
    """

    connect_s: float = 5.0
    first_byte_s: float = 600.0
    idle_s: float = 300.0
    total_s: float | None = None
    settings: Mapping[str, str] = field(default_factory=dict, compare=False)


class OutboundRequest(Hidden, msgspec.Struct, frozen=True):
    """A request to an upstream or to an issuer.

    The garbage collector tracks it: `reauthorize` refers to the attempt, from which it may be reached.
    """

    method: str
    url: str
    headers: Headers = ()
    body: bytes = b""
    timeouts: Timeouts = Timeouts()
    new_connection: bool = False
    """Requires a new connection. Set for the retry after a reused connection was closed by the server."""
    reauthorize: Callable[[], OutboundRequest | None] | None = None
    """Called before the first byte is written, if the request had to wait for a connection. Returns the request with
    the current credential, None if it is unchanged. An exception prevents the request from being sent."""


@dataclass(frozen=True, slots=True)
class UpstreamErrorBody:
    """The error in the reply of an upstream or an issuer, parsed from any of the known formats.

    - `status`: the HTTP status that the error implies, also for an error inside a 200.
    - `written_status`: the one that is a number of the error, or the beginning of one, as in 40101.
    - `kind`, `code`: its `type` and `code` as text.
    - `raw`: its error object, if it has other members.
    - `own`: `message` is gatepass's, because the reply has no text (`body`), is empty or a web page (`page`).
    - `inside`: the text that contained the error as JSON. A relay in between wrote it, or it quotes the client.
    - `trace`: the whole text of a stack trace, of which `message` has only the reason.
    """

    message: str = field(repr=False)
    status: int | None = None
    kind: str | None = None
    code: str | None = None
    param: str | None = None
    raw: Any = field(default=None, repr=False)
    inside: str = field(default="", compare=False, repr=False)
    own: Literal["", "page", "body"] = field(default="", compare=False, repr=False)
    written_status: int | None = field(default=None, compare=False)
    trace: str = field(default="", compare=False, repr=False)


OK, CLIENT_ERROR, SERVER_ERROR = 200, 400, 500
"""The status of a success, and the first status of each class of errors."""

OVER_QUOTA = frozenset(("insufficient_quota", "insufficient_user_quota"))
TOO_LONG = frozenset(("context_length_exceeded", "exceed_context_size_error", "contextwindowexceedederror"))
TOO_LONG_TEXT = (
    r"maximum (?:context|prompt|model|input) length|exceeds? the (?:available )?context (?:size|length|window)"
    r"|\b(?:prompt|input) is too long\b|exceeds the maximum number of tokens|context window exceeds limit"
    r"|exceed(?:ed)? (?:model token|context) limit|range of input length should be|longer than the model's context"
    r"|\b(?:prompt|input|messages)\b.{0,40}? exceeds? (?:the )?max(?:imum)? length"
    r"|(?:prompt|提示词) ?[超过]长|超[过出].{0,10}上下文长度|上下文长度.{0,10}超[过出]"
    r"|context (?:size|length|window) (?:was |has been |is )?exceeded"
    r"|\b(?:prompt|input)(?:s|_\w{1,20})?\b.{0,40}? (?:must|should) (?:be|have) (?:less|smaller|shorter|fewer) than"
    r" (?:\d+ tokens|.{0,20}?\bmax_)"
)
"""Messages of a request that exceeds the context. Zhipu, Moonshot, DashScope and MiniMax have codes of their own."""
REFUSED_CONTENT = frozenset(
    (
        *("content_filter", "content_policy_violation", "data_inspection_failed", "datainspectionfailed"),
        *("invalid_prompt", "moderation_blocked"),
    )
)
RAGFLOW_ABSENT = ("don't own", "not found", "no authorization")
"""Texts of RAGFlow's code 102 for an assistant that does not exist for this caller. The last one is that of 1.0."""
FINAL_CODES = OVER_QUOTA | TOO_LONG | REFUSED_CONTENT
"""Values of an upstream error's `code` or `type`, in lower case. The account or the request itself is the cause,
so neither a retry nor a changed request helps."""


class StreamedResponse(Hidden, msgspec.Struct, frozen=True, gc=False):
    """The response that a stream of the Responses API has named so far, with the number of its next event."""

    id: str = ""
    model: str = ""
    created_s: float = 0
    next_number: int = 0
    is_numbered: bool = False
    """Whether its events have a `sequence_number`. llama.cpp's have none."""
    request_id: str = ""
    """gatepass's id of the request."""


class ConnectionTimes(msgspec.Struct, kw_only=True, gc=False, eq=False):
    """What a transport notes of one request: the part of the record of an attempt that it knows."""

    was_written: bool = False
    """A byte of the request was written before its client left or its time ended."""
    pool_wait_s: float = 0.0
    """How long the attempt waited for a free connection, because all of the upstream's were in use."""
    connect_s: float | None = None
    """How long the connection took to open, or not to open. None for one that was open before."""


class AttemptFacts(ConnectionTimes, kw_only=True, gc=False, eq=False):
    """What the record of an attempt and its story have in common. A story has masked texts and rounded times."""

    number: int = 1
    """Its place among the attempts of its request, from 1."""
    cause: str | None = None
    """Why the request was sent again (`proxy.retry.Repeat`). None for the first attempt."""
    code: str | None = None
    """The code of the error that ended it, as in the response."""
    reason: str | None = None
    """The message of the error that ended it. It may quote the upstream."""
    status: int | None = None
    retry_after_s: float | None = None
    """How long the error that ended it asks to wait."""
    requests: int = 0
    """1 if the request was sent. For a split call the sum over its parts."""
    adapted: tuple[str, ...] = ()
    """The changes of the request, and of the part of the reply that was relayed."""
    tried: tuple[str, ...] = ()
    """The changes that were tried and did not make the upstream accept the request."""
    upstream_request_id: str | None = None
    queue_position: int = 0
    """How many requests waited for a place at the full upstream when this one began to wait, with it. 0: it had one."""
    queue_wait_s: float = 0.0
    """How long the attempt waited for that place."""
    head_s: float | None = None
    """When the head of the reply arrived, after the attempt began."""
    upstream_s: float = 0.0
    """How long the attempt waited for the upstream."""
    client_wait_s: float = 0.0
    """How long the attempt read nothing because the client did not read its stream."""


class Response(Protocol):
    """The head of an upstream's reply, and its body in pieces. The holder must call `aclose` in every case."""

    status: int
    headers: Headers

    @property
    def ended(self) -> bool:
        """Whether all of the body was received, although it may not have been read yet."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the pieces of the body as they arrive. Raises TransportFault."""

    def stream_to(self, write: Callable[[bytes], bool]) -> Awaitable[bool]:
        """Call `write` with each piece as soon as it arrives, if possible without waking the waiting task.

        Returns False when `write` returned False, which pauses the reading, and True at the end of the body. Raises
        TransportFault.
        """

    def take_whole(self, limit_bytes: int) -> bytes | None:
        """Return the whole body, of at most `limit_bytes`, if it has arrived in one piece and nothing was read of it.

        Otherwise None. Most small replies arrive together with their head: this saves the coroutines of a read.
        """

    def aclose(self) -> Awaitable[None]:
        """Return the connection to its pool, or close it if the body was not read to its end."""

    def finish(self) -> None:
        """Close the response without waiting. The connection is reused if the body ends within a second.

        Call it after the last event of a stream. Some upstreams take time to end a body after `[DONE]`.
        """


class EmbeddingsOptions(msgspec.Struct, frozen=True, gc=False):
    """The options of an embeddings request: the number of vectors, their encoding, and their length or None.

    `declared_by`: the setting that has the length, "" if the request names it. `is_packed`: the numbers have a format
    of the upstream's own, in which base64 stays as it is.
    """

    count: int
    base64: bool = False
    dimensions: int | None = None
    declared_by: str = ""
    is_packed: bool = False

    @classmethod
    def of(cls, top: TopLevel, declared: tuple[int, str] | None = None) -> Self:
        inputs, dimensions, count = top.get("input"), top.get("dimensions"), 1
        if isinstance(inputs, list):  # a string is one input, and so is a list of token ids
            count = 1 if inputs and kind(inputs[0]) in NUMBERS else len(inputs)
        is_count, declared_by = type(dimensions) is int and 0 <= dimensions < 10**9, ""
        if dimensions is None and declared is not None:
            (dimensions, declared_by), is_count = declared, True
        is_packed = has_number_format(top.get)
        length = dimensions if is_count and not is_packed else None
        return cls(count, top.get("encoding_format") == "base64", length, declared_by, is_packed)


def has_number_format(value_of: Callable[[str], Any]) -> bool:
    """Whether a request for vectors chooses another format of their numbers: vLLM's members, and that of Mistral."""
    names, plain = ("embed_dtype", "endianness", "output_dtype"), (None, "float", "float32", "little")
    return any(value_of(name) not in plain for name in names)


MAX_MODEL_CHARS = 512
MAX_MODEL_BYTES = 12 * MAX_MODEL_CHARS + 2
"""The longest JSON text of a model's name: each character as two escapes, and the quotes."""


def span(seconds: float) -> str:
    """Return the largest whole unit: `90` is `1 min`."""
    units = ((86_400, "d"), (3_600, "h"), (60, "min"))
    return next((f"{seconds // size:.0f} {unit}" for size, unit in units if seconds >= size), f"{seconds:.0f} s")


def wait_text(wait_s: float) -> str:
    """Return a wait in whole units with at most two digits, rounded up: RAGFlow reads 429 in a text as a status."""
    wait_s, units = min(wait_s, 99 * 86_400), ((1, "s"), (60, "min"), (3_600, "h"), (86_400, "d"))
    return next(f"{-(-wait_s // size):.0f} {unit}" for size, unit in units if wait_s <= 99 * size)


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def parse_count(text: bytes) -> int | None:
    """Parse a non-negative integer of at most nine digits; return None for any other text."""
    return int(text) if text.isdigit() and len(text) < 10 else None


HOP_BY_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        *(b"proxy-authenticate", b"proxy-authorization", b"proxy-authentication-info"),
    )
)
"""Hop-by-hop header fields (RFC 9110 section 7.6.1), including those that only older clients send."""

CREDENTIALS = frozenset((b"authorization", b"x-api-key", b"api-key", b"cookie"))
"""Header fields with the client's own credential for gatepass; they are never forwarded."""

SET_BY_GATEPASS = frozenset(
    (
        *(b"host", b"expect", b"content-type", b"content-length", b"content-encoding"),
        *(b"accept", b"accept-encoding", b"x-request-id"),
    )
)
"""Request fields that gatepass sets itself when it sends a request to an upstream."""

NEVER_UP = HOP_BY_HOP | CREDENTIALS | SET_BY_GATEPASS
"""Request fields that even `forward_headers` cannot forward: the client's credentials, framing, and the fields that
gatepass sets."""
