"""An upstream's protocol: how a call is written for it, and how its replies are read. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Protocol
from urllib.parse import urlsplit

from gatepass.call import Call, Complaint, Headers, Operation, Request, Surface, Target, Timeouts, header
from gatepass.error_body import Mask, read_complaint, unmasked
from gatepass.errors import GatepassError, UpstreamError
from gatepass.upstream import judge
from gatepass.upstream.headers import forwarded, relayed
from gatepass.upstream.reply import Reply


class Constraint(Protocol):
    """A change that the protocol itself wants of a call: a Rule of adapt/, told by its shape."""

    @property
    def name(self) -> str: ...

    def apply(self, call: Call, target: Target) -> Call: ...


class Dialect(Protocol):
    """What a dialect decides. Nothing here does I/O; `judge.py` and `complaint.py` hold the promises."""

    @property
    def rules(self) -> tuple[Constraint, ...]:
        """Changes that run after all others, for whatever these leave must fit."""
        ...

    @property
    def lists_models(self) -> bool:
        """Whether the upstream's own list holds the names by which its models are asked."""
        ...

    def encode(
        self, call: Call, target: Target, base_url: str, timeouts: Timeouts, forward_headers: Collection[str] = ()
    ) -> Request: ...

    def relay_headers(self, headers: Headers) -> list[tuple[bytes, bytes]]: ...

    def read_complaint(self, document: Any, *, refused: bool = False, mask: Mask = unmasked) -> Complaint | None: ...

    def judge_head(self, upstream: str, status: int, headers: Headers, *, host: str = "") -> GatepassError | None:
        """Not asked of a 200, whose head says nothing yet."""
        ...

    def judge_refusal(self, reply: Reply) -> UpstreamError: ...

    def judge_document(self, reply: Reply, surface: Surface) -> bytes | GatepassError: ...


@dataclass(frozen=True, slots=True)
class OpenaiDialect:
    """The OpenAI API as its clients send it: the body goes on as it is."""

    lists_models: ClassVar[bool] = True
    rules: tuple[Constraint, ...] = ()

    def encode(
        self,
        call: Call,
        target: Target,  # noqa: ARG002 - the Dialect's signature; OpenAI's body names the model
        base_url: str,
        timeouts: Timeouts,
        forward_headers: Collection[str] = (),
    ) -> Request:
        """`call` as a request to `base_url`, without its credential (`authorize.Carrier` adds that)."""
        return written(call, operation_url(base_url, call.operation), timeouts, forward_headers)

    relay_headers = staticmethod(relayed)
    read_complaint = staticmethod(read_complaint)
    judge_head = staticmethod(judge.judge_head)
    judge_refusal = staticmethod(judge.judge_refusal)
    judge_document = staticmethod(judge.judge_document)


def written(call: Call, url: str, timeouts: Timeouts, forward_headers: Collection[str]) -> Request:
    """`call` as a request to `url`.

    Only a call with a method that has a body sends one: RAGFlow's Go client puts `{}` into a GET.
    """
    method = call.operation.method
    has_body = method != "GET"
    headers = _headers(call, forward_headers, _JSON_BODY if has_body else ())
    return Request(method, url, headers, call.body if has_body else b"", timeouts)


def operation_url(base_url: str, operation: Operation) -> str:
    """`base_url` with the operation's path behind its own; its query stays."""
    return _below(base_url, operation.path)


@lru_cache(maxsize=1024)  # a hop has as many as it has operations, and taking a URL apart costs 4 µs
def _below(base_url: str, path: str) -> str:
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
