"""What an observer learns: records of requests and attempts, as values. `Observers` passes them on.

An AttemptRecord is complete when its attempt ended, a RequestRecord when its request ended. Nothing reads them back.
To add an observer, derive a class from `Observer` and list it in `create_app_state` (`proxy/app_state.py`).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NewType, TypeVarTuple, Unpack

import msgspec

from gatepass.errors import GatepassError
from gatepass.types import AttemptFacts, Headers, Response

LOG = logging.getLogger("gatepass.observers")

Values = TypeVarTuple("Values")
TraceId = NewType("TraceId", str)
"""32 hexadecimal digits. `Tracing` makes them, or takes a client's in which it found no secret."""


# gc=False: the record refers to no container that could refer back, so the garbage collector need not track it.
class AccessRecord(msgspec.Struct, gc=False, eq=False, omit_defaults=True):
    """The fields of one access log line, which are set while the request runs. Fields with their default are left out.

    An allow-list: no header but the user agent, no body, no query string. A struct, because msgspec encodes it in a
    fifth of the time of a dict.
    """

    id: str
    method: str
    path: str
    operation: str
    caller: str = ""
    key_id: str = ""
    auth: str = ""
    """`jwt` for a caller by a token."""
    user: str = ""
    """What its token calls it."""
    peer: str = ""
    """The client's address, until the caller is known."""
    user_agent: str = ""
    model: str = ""
    upstream: str | None = None
    """The upstream of the last attempt, all upstreams whose model lists were read, or the MCP server of the path."""
    upstream_model: str | None = None
    stream: bool = False
    status: int | None = None
    outcome: str = ""
    """One of ok, error, client_gone and unread: a closed set, because it is a label of metrics."""
    code: str | None = None
    hop: str | None = None
    reason: str | None = None
    attempts: int = 0
    """How many requests were sent to upstreams."""
    repeats: tuple[str, ...] = ()
    """Why it was sent again (`proxy.retry.Repeat`): each cause once, in order."""
    adapted: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    failover: tuple[str, ...] = ()
    """The targets of the attempts before the last one that failed, each as `upstream=code`."""
    duration_s: float | None = None
    ttft_s: float | None = None
    token_wait_s: float | None = None
    bytes_in: int = -1  # set to 0 at the beginning, so that 0 is logged
    bytes_out: int = -1
    events: int = 0
    usage: Any = None
    """The tokens that the upstream reported: a struct with the members of `sse.usage.Usage`."""
    tokens_estimated: int = 0
    """The tokens that count for limits, if the upstream reported none."""
    upstream_request_id: str | None = None
    empty_answer: bool = False
    """The reply to a chat has no content and no tool call."""
    mcp_method: str = ""
    """The method of a message to an MCP server, or DELETE for the end of a session."""
    mcp_tool: str = ""
    trace_id: TraceId = TraceId("")
    """The id of its trace. "" without `tracing`."""


class SentToken(msgspec.Struct, frozen=True, gc=False, eq=False):
    """The times of a token, by `Clock.now`, without its value."""

    credential: str
    sent_s: float | None = None
    """When it was attached to the request. None if the attempt ended before."""
    requested_s: float = 0.0
    """When it was requested from its issuer."""
    lifetime_s: float | None = None
    """None for one that does not expire."""


class Arrivals(msgspec.Struct, gc=False, eq=False):
    """The reads of one stream (`Attempt.note_read`). Moments are those of `Clock.now`."""

    first_s: float
    last_s: float
    """At the first read the same as `first_s`."""
    reads: int = 1
    gap_s: float = 0.0
    """The longest time between two reads."""
    gap_at_s: float = 0.0
    """When it began."""


# gc=False: a record refers to earlier ones only, so there are no cycles. The inspector keeps thousands of them.
class AttemptRecord(AttemptFacts, gc=False, eq=False):
    """One attempt: one request to one target, or the part of a split call. `outcome` is "" until it has ended."""

    request_id: str
    operation: str
    model: str
    """As the client names it."""
    upstream: str
    upstream_model: str | None = None
    began_s: float = 0.0
    access: AccessRecord | None = None
    """The request that it belongs to: clients may use one id for several. None if gatepass itself made the request."""
    after: AttemptRecord | None = None
    """The attempt that it repeats."""
    answered: tuple[str, ...] | None = None
    """The changes of the request that the client's error answers, if `adapted` has not only these."""
    outcome: str = ""
    """One of `proxy.retry.Outcome`."""
    hop: str | None = None
    kind: str = ""
    """Its `stable_code`, "" without an error."""
    parts: tuple[AttemptRecord, ...] = ()
    """The last attempt of each part of a split call. Each part ends before its call."""
    duration_s: float = 0.0
    """The time from `began_s` until the attempt ended, with the waits for its token, the upstream and the client."""
    token: SentToken | None = None
    """The token that was sent, or waited for. None if the upstream has no credential."""
    token_wait_s: float = 0.0
    renewal_s: float = 0.0
    """How long the request waited for another token, after this attempt had ended with the rejection of its own."""
    arrivals: Arrivals | None = None
    """When the pieces of a stream were read. None for a whole reply."""
    trace: Headers = ()
    """The fields of its trace context, which its request has in place of those of the client. () without `tracing`."""
    ran_tool: bool = False
    """The MCP server ran the tool that was called, without an error."""
    url: str = ""
    """The URL of its request without the query. "" without `tracing`."""

    @property
    def changes(self) -> tuple[str, ...]:
        """The changes of what the client receives: the entries of `x-gatepass-adapted`."""
        return self.adapted if self.answered is None else self.answered


# gc=False, as the records that it refers to: the garbage collector follows nothing that the inspector keeps.
class RequestRecord(msgspec.Struct, frozen=True, gc=False, eq=False):
    """One request, without its error, which may hold the upstream's reply. `access` has what its log line shows.

    The times are not rounded. It is complete after the end of the request.
    """

    access: AccessRecord
    attempt: AttemptRecord | None
    """The last attempt. None if the request was refused, or needed none."""
    arrived_s: float
    """When the request arrived, by `Clock.now`."""
    body_s: float
    """How long its body took to arrive, 0 if gatepass does not read it whole."""
    duration_s: float | None
    """None while the request runs."""
    first_byte_s: float | None
    """When the body of the response began, after the arrival of the request. A keep-alive does not count."""
    added_s: float | None
    """`first_byte_s` without the waits for the client's body and for the upstream. None while the request runs."""
    is_synthesized: bool = False
    """The response is a stream made from a whole reply, whose tokens arrive at once."""
    retry_after_s: float | None = None
    """How long the error asks the client to wait."""
    case: str = ""
    setting: str = ""
    """Those of the error (`GatepassError`)."""
    kind: str = ""
    """Its `stable_code`."""
    names: Mapping[str, str] = {}
    """Its other names for placeholders."""
    advice_chars: int = 0
    """The length of the advice at the end of `access.reason`."""
    detail: str = ""
    """What only the operator reads of it (`GatepassError.detail`)."""


class Refusal(msgspec.Struct, frozen=True, eq=False):
    """A connection or head that was refused before there was a request. `peer` is the client's address.

    `at_page`: it was a request of the page for operators.
    """

    error: GatepassError
    peer: str
    at_page: bool = False


class RuleChange(msgspec.Struct, frozen=True):
    """A rule was learned or revoked, or a change that was tried did not help (`event` is `failed`)."""

    request_id: str
    event: str
    upstream: str
    model: str
    operation: str
    adapted: str
    evidence: str
    caller: str = ""


class Observer:
    """Base of observers. Override what the observer needs to know: an event that no observer overrides costs nothing.

    The methods run on the event loop, apart from `request_body`, and are never awaited. An observer that raises is
    counted, logged and skipped. It must not change a record; only `Tracing` sets the ids of the trace.
    """

    def request_began(self, access: AccessRecord, headers: Headers) -> None:
        """A request with these header fields was received. Of the record only the head's fields are set."""

    def request_body(self, access: AccessRecord, data: bytes) -> None:
        """The body of a request was received. A form is not reported.

        For a heavy body it runs in the thread of `BodyThreads` (proxy/body_threads.py), not on the event loop.
        """

    def attempt_repeats(self, attempt: AttemptRecord) -> None:
        """An attempt begins that repeats another one: `cause` is the reason, and `after` has ended."""

    def request_sent(self, attempt: AttemptRecord, body: bytes) -> None:
        """The request of an attempt, with this body, is about to be sent. Of a form the body is empty."""

    def reply_body(self, attempt: AttemptRecord, data: bytes) -> None:
        """The next piece of the upstream's reply was read, before gatepass changes it."""

    def request_ended(self, request: RequestRecord, error: GatepassError | None) -> None:
        """A request ended, exactly once, after all of its attempts. `error` is what the client received."""

    def refused(self, refusal: Refusal) -> None:
        """A connection or head was refused before there was a request."""

    def rule_changed(self, change: RuleChange) -> None:
        """The set of learned rules changed."""


class Observers:
    """Passes each event to the observers that override its method. Each attribute has the methods of one event."""

    def __init__(self, listed: Sequence[Observer], failed: Callable[[str], None]) -> None:
        """`failed` is called with the name of the class of an observer that raised."""
        self._failed = failed
        self._list(listed)

    def switch(self, observer: Observer, *, on: bool) -> None:
        """Let `observer` learn of events from now on, as the last one, or of no more events."""
        others = [one for one in self._listed if one is not observer]
        self._list([*others, observer] if on else others)

    def _list(self, listed: Sequence[Observer]) -> None:
        self._listed = listed

        def of(name: str) -> list[Observer]:
            return [one for one in listed if getattr(type(one), name) is not getattr(Observer, name)]

        self.request_began = tuple(one.request_began for one in of("request_began"))
        self.request_body = tuple(one.request_body for one in of("request_body"))
        self.attempt_repeats = tuple(one.attempt_repeats for one in of("attempt_repeats"))
        self.request_sent = tuple(one.request_sent for one in of("request_sent"))
        self.reply_body = tuple(one.reply_body for one in of("reply_body"))
        self.request_ended = tuple(one.request_ended for one in of("request_ended"))
        self.refused = tuple(one.refused for one in of("refused"))
        self.rule_changed = tuple(one.rule_changed for one in of("rule_changed"))

    def tell(self, methods: Sequence[Callable[[Unpack[Values]], None]], *values: *Values) -> None:
        """Call each of `methods`. One that raises is counted, logged and skipped, because it must fail no request."""
        for method in methods:
            try:
                method(*values)
            except Exception:  # any fault: an observer must not end the request that it observes
                name = type(getattr(method, "__self__", method)).__name__
                self._failed(name)
                LOG.exception("observer_failed", extra={"fields": {"observer": name}})

    def reply(self, response: Response, attempt: AttemptRecord) -> Response:
        """Return `response` so that the observers of replies receive its pieces."""

        def seen(piece: bytes) -> None:
            self.tell(self.reply_body, attempt, piece)

        return ObservedResponse(response, seen)


class ObservedResponse:
    """A Response that passes each piece to `seen` before its reader receives it."""

    def __init__(self, response: Response, seen: Callable[[bytes], None]) -> None:
        self.status = response.status
        self.headers: Headers = response.headers
        self._response = response
        self._seen = seen

    @property
    def ended(self) -> bool:
        return self._response.ended

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._response:
            self._seen(piece)
            yield piece

    def stream_to(self, write: Callable[[bytes], bool]) -> Awaitable[bool]:
        def observed(piece: bytes) -> bool:
            self._seen(piece)
            return write(piece)

        return self._response.stream_to(observed)

    def take_whole(self, limit_bytes: int) -> bytes | None:
        body = self._response.take_whole(limit_bytes)
        if body is not None:
            self._seen(body)
        return body

    def aclose(self) -> Awaitable[None]:
        return self._response.aclose()

    def finish(self) -> None:
        self._response.finish()
