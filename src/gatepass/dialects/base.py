"""An upstream's protocol: how a call is written for it, and how its replies are read. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol
from urllib.parse import quote, urlsplit

from msgspec.structs import replace

from gatepass.dialects import reply_check
from gatepass.dialects.error_body import read_complaint
from gatepass.dialects.headers import forwarded
from gatepass.errors import ModelNotFound
from gatepass.types import Call, Headers, Request, Target, Timeouts, Upload, header

STEPS = (".", "..")
"""No names but steps through the path, however they are escaped (RFC 3986 5.2.4)."""


def segment(name: str) -> str:
    """`name`, which a client may have chosen, as one segment of a path: it leads nowhere else.

    Raises ModelNotFound for what can be none.
    """
    if not name or name in STEPS:
        raise ModelNotFound(f"The upstream can have no model of the name {name!r}.", param="model")
    return quote(name, safe="", errors="replace")


class Constraint(Protocol):
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
    rules: tuple[Constraint, ...] = ()
    """Changes that run after all others, for whatever these leave must fit."""

    def encode(
        self,
        call: Call,
        target: Target,  # noqa: ARG002 - for other dialects; OpenAI's body names the model
        base_url: str,
        timeouts: Timeouts,
        forward_headers: Collection[str] = (),
    ) -> Request:
        """`call` as a request to `base_url`, without its credential (`authorize.Carrier` adds that)."""
        return written(call, operation_url(base_url, call.operation.path), timeouts, forward_headers)

    read_complaint = staticmethod(read_complaint)
    judge_head = staticmethod(reply_check.judge_head)
    """Not asked of a 200, whose head says nothing yet."""
    judge_refusal = staticmethod(reply_check.judge_refusal)
    judge_document = staticmethod(reply_check.judge_document)


def written(call: Call, url: str, timeouts: Timeouts, forward_headers: Collection[str]) -> Request:
    """`call` as a request to `url`.

    Only a call with a method that has a body sends one: RAGFlow's Go client puts `{}` into a GET.
    """
    method = call.operation.method
    has_body = method != "GET"
    headers = _headers(call, forward_headers, _JSON_BODY if has_body else ())
    return Request(method, url, headers, call.body if has_body else b"", timeouts)


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


def passed_on(request: Request, headers: Headers, query: bytes, upload: Upload | None) -> Request:
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
