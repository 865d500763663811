"""An upstream's protocol: how a call is written for it, and how its replies are read. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import urlsplit

from gatepass.call import Call, Complaint, Headers, Operation, Request, Surface, Timeouts, header
from gatepass.errors import GatepassError, UpstreamError
from gatepass.upstream import judge
from gatepass.upstream.complaint import read_complaint
from gatepass.upstream.headers import forwarded, relayed
from gatepass.upstream.wording import Mask, unmasked


class Dialect(Protocol):
    """What a dialect decides. Nothing here does I/O; `judge.py` and `complaint.py` hold the promises."""

    def encode(
        self, call: Call, base_url: str, timeouts: Timeouts, forward_headers: Collection[str] = ()
    ) -> Request: ...

    def relay_headers(self, headers: Headers) -> list[tuple[bytes, bytes]]: ...

    def read_complaint(self, document: Any, *, refused: bool = False, mask: Mask = unmasked) -> Complaint | None: ...

    def judge_head(self, upstream: str, status: int, headers: Headers, *, host: str = "") -> GatepassError | None: ...

    def judge_refusal(
        self,
        upstream: str,
        status: int,
        headers: Headers,
        body: bytes,
        *,
        host: str = "",
        wall_s: float = 0.0,
        mask: Mask = unmasked,
    ) -> UpstreamError: ...

    def judge_document(
        self,
        upstream: str,
        surface: Surface,
        stream: bool,
        status: int,
        headers: Headers,
        body: bytes,
        *,
        host: str = "",
        wall_s: float = 0.0,
        mask: Mask = unmasked,
    ) -> GatepassError | None: ...


@dataclass(frozen=True, slots=True)
class OpenaiDialect:
    """The OpenAI API as its clients send it: the body goes on as it is."""

    def encode(self, call: Call, base_url: str, timeouts: Timeouts, forward_headers: Collection[str] = ()) -> Request:
        """`call` as a request to `base_url`, without its credential (`authorize.bearer` makes that).

        Only a call with a method that has a body sends one: RAGFlow's Go client puts `{}` into a GET.
        """
        has_body = call.operation.method != "GET"
        return Request(
            method=call.operation.method,
            url=operation_url(base_url, call.operation),
            headers=_headers(call, forward_headers, has_body=has_body),
            body=call.body if has_body else b"",
            timeouts=timeouts,
        )

    def relay_headers(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        return relayed(headers)

    read_complaint = staticmethod(read_complaint)
    judge_head = staticmethod(judge.judge_head)
    judge_refusal = staticmethod(judge.judge_refusal)
    judge_document = staticmethod(judge.judge_document)


def operation_url(base_url: str, operation: Operation) -> str:
    """`base_url` with the operation's path behind its own; its query stays (Azure's `api-version`)."""
    return _below(base_url, operation.path)


@lru_cache(maxsize=1024)  # a hop has as many as it has operations, and taking a URL apart costs 4 µs
def _below(base_url: str, path: str) -> str:
    parts = urlsplit(base_url)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{path.lstrip('/')}").geturl()


def _headers(call: Call, forward_headers: Collection[str], *, has_body: bool) -> Headers:
    """The client's fields that may cross, then ours.

    `accept` is ours: openai-python asks for application/json even where it wants a stream (its
    `_base_client.py`), and some servers choose by this field. `identity` keeps compression, which
    holds events back, out of the stream. `x-request-id` is the call's id, which is the client's where
    that is a plain word: one name for one request in every log.
    """
    kept = forwarded(call.headers, forward_headers)
    own = [_ACCEPT_STREAM if call.stream else _ACCEPT_JSON, (b"accept-encoding", b"identity")]
    if has_body:
        own.append((b"content-type", b"application/json"))
    if header(kept, b"user-agent") is None:
        own.append((b"user-agent", b"gatepass"))
    own.append((b"x-request-id", call.id.encode("ascii", "replace")))
    return (*kept, *own)


_ACCEPT_STREAM, _ACCEPT_JSON = (b"accept", b"text/event-stream"), (b"accept", b"application/json")
