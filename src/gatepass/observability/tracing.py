"""The observer that traces: spans of requests and attempts, made by the SDK of OpenTelemetry.

On the event loop a request costs the decision whether it is sampled, the `traceparent` of each attempt, and an entry in
the SDK's bounded queue. The spans are made from the record of the ended request in the thread that exports them. This
module is imported only if `tracing` is configured.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NoOpTracer, SpanContext, SpanKind, Status, StatusCode, TraceFlags, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gatepass import __version__
from gatepass.clock import Clock, wait_at_most
from gatepass.config.model import GRPC, TracingConfig
from gatepass.config.upstream import UpstreamConfig
from gatepass.errors import GatepassError
from gatepass.json_body import LIST, OBJECT, kind, string
from gatepass.observability.observer import AccessRecord, AttemptRecord, Observer, RequestRecord, TraceId
from gatepass.observability.story import attempts_of
from gatepass.types import CLIENT_ERROR, SERVER_ERROR, Headers, Hidden

# The names are those of OpenTelemetry's semantic conventions, and gatepass's own. `gen_ai.*`, all in development, and
# `mcp.*` are those of open-telemetry/semantic-conventions-genai, docs/gen-ai/client-inference.md at
# 024a4f944a1291fcb627c9c47da69e79868dd15e, the others those of open-telemetry/semantic-conventions at
# 384d66161cb18704c729645fa8136a148df9571c.
METHOD, STATUS, ROUTE, RESENDS = (
    *("http.request.method", "http.response.status_code", "http.route", "http.request.resend_count"),
)
PATH, SCHEME, URL, USER_AGENT = "url.path", "url.scheme", "url.full", "user_agent.original"
ADDRESS, PORT, ERROR = "server.address", "server.port", "error.type"
OPERATION, PROVIDER, MODEL = "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"
STREAM, FIRST_CHUNK = "gen_ai.request.stream", "gen_ai.response.time_to_first_chunk"
RESPONSE_ID, RESPONSE_MODEL, REASONS = (f"gen_ai.response.{name}" for name in ("id", "model", "finish_reasons"))
OF_REPLY: Mapping[str, str] = {"id": RESPONSE_ID, "model": RESPONSE_MODEL, "stop_reason": REASONS}
"""By the member at the top level of a reply or an event."""
BELOW: Mapping[str, Mapping[str, str]] = {
    "choices": {"finish_reason": REASONS},
    **{name: {"id": RESPONSE_ID, "model": RESPONSE_MODEL} for name in ("message", "response")},
    "delta": {"stop_reason": REASONS},
}
"""By such a member, and by the member of its object, or of its objects. Deeper ones belong to the answer, such as to
the input of a tool."""
TOOL, MCP_METHOD = "gen_ai.tool.name", "mcp.method.name"
USAGE: Mapping[str, str] = {
    "gen_ai.usage.input_tokens": "prompt_tokens",
    "gen_ai.usage.output_tokens": "completion_tokens",
    "gen_ai.usage.cache_read.input_tokens": "cached_tokens",
    "gen_ai.usage.reasoning.output_tokens": "reasoning_tokens",
}
"""The counts of `sse.usage.Usage`."""
OPERATIONS: Mapping[str, str] = {
    **dict.fromkeys(("chat", "responses", "messages"), "chat"),
    "completions": "text_completion",
    "embeddings": "embeddings",
    "rerank": "rerank",
}
"""`gen_ai.operation.name` of gatepass's operations. The convention has no name for rerank."""
PROVIDERS: Mapping[str, str] = {"azure": "azure.ai.openai"}
"""`gen_ai.provider.name` of dialects with another name there."""

ID, CALLER, OPERATION_OF = "gatepass.request.id", "gatepass.caller", "gatepass.operation"
OUTCOME, CODE, HOP = "gatepass.outcome", "gatepass.code", "gatepass.hop"
UPSTREAM, CREDENTIAL, ADAPTED = "gatepass.upstream", "gatepass.credential", "gatepass.adapted"
FAILOVER, FIRST_TOKEN, TOKEN_WAITED = "gatepass.failover", "gatepass.first_token", "gatepass.token_waited"
WAIT_S = "gatepass.wait_s"
REPEATS: Mapping[str, str] = {"new_token": "gatepass.token_renewed", "learned_rule": "gatepass.rule_learned"}
"""The events of attempts that repeat one at the same target, by their cause."""

FLUSH_S = 3.0
"""How long a stop waits for the last spans to be exported: less than Kubernetes leaves after the longest drain."""
MOST_PARENT_CHARS = 512
"""A longer `traceparent` is malformed, and the SDK would log each."""
MOST_COUNT = 2**63
"""The first count that OTLP cannot write."""
REPLY_BYTES, WHOLE_BYTES = 2 * 1024, 256 * 1024
"""How much of the beginning and of the end of a stream is read for OF_REPLY, and of a whole reply."""
REASON = re.compile(rb'_reason"\s*:\s*"')
LONGEST_BYTES = 200
"""Of the JSON text of such a member."""
LOGGED_S = 60.0
COLLECTOR_BYTES = 64 * 1024
"""How much of a collector's reply is read. It is not decompressed."""
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
NO_CONTEXT = Context()

Attributes = dict[str, Any]


class _Trace(Hidden, msgspec.Struct, frozen=True):
    """The trace of one request: `parent` is the client's span, whose trace it continues."""

    trace_id: int
    is_sampled: bool
    parent: SpanContext | None
    state: Headers
    """The client's `tracestate`."""


class _Unmade(ReadableSpan):
    """An entry of the SDK's queue: `make` returns the spans of one request."""

    def __init__(self, context: SpanContext, resource: Resource, make: Callable[[], list[ReadableSpan]]) -> None:
        super().__init__("", context, resource=resource)
        self.make = make


class _MakingExporter(SpanExporter):
    """Makes the spans in the thread of the export, and passes them to `exporter`."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([made for one in spans if isinstance(one, _Unmade) for made in one.make()])

    def shutdown(self) -> None:
        self._exporter.shutdown()


class Tracing(Observer):
    """Sends the spans of one process, from `start` to `aclose`.

    `mask` hides secrets in texts that came from outside. It is called in the thread of the export.
    """

    def __init__(self, config: TracingConfig, clock: Clock, mask: Callable[[str], str]) -> None:
        self._config, self._clock, self._mask = config, clock, mask
        resource = Resource.create()
        own = {SERVICE_VERSION: __version__, SERVICE_NAME: "gatepass"}
        if not str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            del own[SERVICE_NAME]  # OTEL_SERVICE_NAME
        own |= {} if SERVICE_INSTANCE_ID in resource.attributes else {SERVICE_INSTANCE_ID: str(uuid4())}
        self.resource = resource.merge(Resource(own))
        ratio = config.sample_ratio
        sampler = None if ratio is None else TraceIdRatioBased(ratio)
        provider = TracerProvider(sampler, self.resource, shutdown_on_exit=False)
        is_disabled = isinstance(provider.get_tracer(__name__), NoOpTracer)  # OTEL_SDK_DISABLED
        self._is_disabled = is_disabled or os.environ.get("OTEL_TRACES_EXPORTER", "").strip() == "none"
        self._sampler, self._ids, self._limits = provider.sampler, provider.id_generator, SpanLimits()
        self._scope = InstrumentationScope("gatepass", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._traces: dict[int, _Trace] = {}
        """The traces of the requests in progress, by the id of their AccessRecord."""
        self._replies: dict[int, bytes] = {}
        """The beginning and the end of the replies to the attempts of these requests, by the id of their record."""
        self._peers: Mapping[str, Attributes] = {}
        """What the spans say of each upstream."""
        self._route_of: Callable[[str, str], str] = lambda _method, _path: ""
        self.scheme = "http"
        """Of the URLs of clients."""
        self._processor: BatchSpanProcessor | None = None

    def attach(self, upstreams: Mapping[str, UpstreamConfig], route_of: Callable[[str, str], str]) -> None:
        """Set the upstreams by name, and what returns the route of a method and path. A reload sets them again."""
        peers: dict[str, Attributes] = {}
        for name, upstream in upstreams.items():
            parts, dialect = urlsplit(upstream.base_url), upstream.dialect
            port = parts.port or (443 if parts.scheme == "https" else 80)
            about = {PROVIDER: PROVIDERS.get(dialect, dialect), ADDRESS: parts.hostname or ""}
            peers[name] = {**about, PORT: port}
        self._peers, self._route_of = peers, route_of  # the thread of the export reads them

    def start(self, exporter: SpanExporter | None = None) -> None:
        """Start the thread that exports, by default to the collector of the configuration."""
        if self._processor is None and not self._is_disabled:
            self._processor = BatchSpanProcessor(_MakingExporter(exporter or span_exporter(self._config)))

    async def aclose(self) -> None:
        """Export what is queued, for at most FLUSH_S."""
        processor, self._processor = self._processor, None
        if processor is None:
            return
        loop, flushed = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            processor.shutdown()  # type: ignore[no-untyped-call]  # of the SDK
            with suppress(RuntimeError):  # the loop was closed, because this took too long
                loop.call_soon_threadsafe(flushed.set)

        # a daemon: it must not keep the process alive while a collector hangs
        threading.Thread(target=flush, name="gatepass flush", daemon=True).start()
        await wait_at_most(flushed, FLUSH_S, self._clock)

    # Events, on the event loop

    def request_began(self, access: AccessRecord, headers: Headers) -> None:
        client, state = self._client_span(headers)
        trace_id = self._ids.generate_trace_id() if client is None else client.trace_id
        # without a parent: the flag of a client does not decide how many spans are sent
        decision = self._sampler.should_sample(NO_CONTEXT, trace_id, "request", SpanKind.SERVER).decision
        is_sampled = decision is Decision.RECORD_AND_SAMPLE and not self._is_disabled
        access.trace_id = TraceId(f"{trace_id:032x}")
        self._traces[id(access)] = _Trace(trace_id, is_sampled, client, state)

    def _client_span(self, headers: Headers) -> tuple[SpanContext | None, Headers]:
        """Return the client's span and its `tracestate`. None if its `traceparent` is absent, twice or malformed.

        A client can write a secret into an id, and a `tracestate` is not recorded.
        """
        given = [value.decode("latin-1") for name, value in headers if name == b"traceparent"]
        if len(given) != 1 or len(given[0]) > MOST_PARENT_CHARS or self._mask(given[0]) != given[0]:
            return None, ()
        found = get_current_span(self._propagator.extract({"traceparent": given}, NO_CONTEXT)).get_span_context()
        state = tuple(field for field in headers if field[0] == b"tracestate")
        return (found, state) if found.is_valid else (None, ())

    def request_sent(self, attempt: AttemptRecord, body: bytes) -> None:  # noqa: ARG002 - of the observers
        trace = self._traces.get(id(attempt.access))
        if trace is not None:
            fields = trace.trace_id, self._ids.generate_span_id(), trace.is_sampled
            attempt.trace = ((b"traceparent", b"00-%032x-%016x-%02x" % fields), *trace.state)

    def reply_body(self, attempt: AttemptRecord, data: bytes) -> None:
        trace = self._traces.get(id(attempt.access))
        if trace is not None and trace.is_sampled and attempt.operation in OPERATIONS:
            kept = self._replies.get(id(attempt), b"") + data
            if len(kept) > (WHOLE_BYTES if _is_whole(kept) else 3 * REPLY_BYTES):
                kept = b"%b\n!\n%b" % (kept[:REPLY_BYTES], kept[-REPLY_BYTES:])  # two halves never look like one event
            self._replies[id(attempt)] = kept

    def request_ended(self, request: RequestRecord, error: GatepassError | None) -> None:
        trace = self._traces.pop(id(request.access), None)
        replies = {id(one): _response(self._replies.pop(id(one), b"")) for one in _each(request.attempt)}
        if not self._traces:
            self._replies.clear()  # of an attempt that no record leads to
        if trace is None or not trace.is_sampled or self._processor is None:
            return
        context = self._context(trace.trace_id)
        status = 0 if error is None else error.http_status
        offset_s = self._clock.wall() - self._clock.now()  # from a moment of `Clock.now` to the time since the epoch
        make = partial(self._request_spans, request, status, context, trace, replies, offset_s)
        self._processor.on_end(_Unmade(context, self.resource, make))

    def _context(self, trace_id: int, span_id: int = 0) -> SpanContext:
        return SpanContext(trace_id, span_id or self._ids.generate_span_id(), is_remote=False, trace_flags=SAMPLED)

    def _about(self, upstream: str) -> Attributes:
        return {UPSTREAM: upstream, **self._peers.get(upstream, {})}  # a reload may have removed it

    # Spans, in the thread of the export

    def _request_spans(
        self,
        request: RequestRecord,
        status: int,
        context: SpanContext,
        trace: _Trace,
        replies: Mapping[int, Mapping[str, Sequence[str]]],
        offset_s: float,
    ) -> list[ReadableSpan]:
        """Return the spans of a request: SERVER, GenAI CLIENT for each target, HTTP CLIENT for each attempt."""
        access, mask = request.access, self._mask
        attempts = [*attempts_of(request.attempt)][::-1]
        path = self._route_of(access.method, access.path)
        has_failed = access.outcome == "error" and (status >= SERVER_ERROR or (access.status or 0) < CLIENT_ERROR)
        attributes: Attributes = {
            METHOD: access.method,
            ROUTE: path,
            PATH: mask(access.path),
            SCHEME: self.scheme,
            STATUS: access.status,
            USER_AGENT: mask(access.user_agent),
            ID: mask(access.id),
            CALLER: access.caller,
            OPERATION_OF: access.operation,
            OUTCOME: access.outcome,
            CODE: access.code and mask(access.code),
            HOP: access.hop,
            MCP_METHOD: mask(access.mcp_method),
            TOOL: mask(access.mcp_tool),
        }
        events = [
            Event(
                FAILOVER,
                {UPSTREAM: one.after.upstream, CODE: mask(one.after.code or "")},
                _ns(one.began_s + offset_s),
            )
            for one in attempts
            if one.after is not None and one.cause == "next_target"
        ]
        for one in _each(request.attempt):
            for from_s, wait_s in (one.queue_wait_s, one.token_wait_s), (one.duration_s, one.renewal_s):
                if wait_s and one.token is not None:  # else its parts waited
                    about: Attributes = {CREDENTIAL: one.token.credential, WAIT_S: wait_s}
                    events.append(Event(TOKEN_WAITED, about, _ns(one.began_s + from_s + wait_s + offset_s)))
        span = partial(self._span, offset_s=offset_s)
        server = span(
            f"{access.method} {path}".rstrip(),
            context,
            trace.parent,
            SpanKind.SERVER,
            (request.arrived_s, request.arrived_s + (request.duration_s or 0.0)),
            attributes,
            access if has_failed else None,
            events,
        )
        made = [server]
        operation = OPERATIONS.get(access.operation)
        for _, same in groupby(attempts, lambda one: (one.upstream, one.upstream_model)):
            group = [*same]
            above, first, last = context, group[0], group[-1]
            if operation is not None:
                above = self._context(context.trace_id)
                ended_s = min(last.began_s + last.duration_s, request.arrived_s + (request.duration_s or 0.0))
                about, happened = self._inference(request, group, operation, offset_s)
                for name, texts in replies[id(last)].items():
                    masked = [*map(self._mask, texts)]
                    about[name] = [*dict.fromkeys(masked)] if name == REASONS else masked[0]
                name = f"{operation} {about[MODEL]}"
                failed = last if _is_failure(last) else None
                times = first.began_s, ended_s
                made.append(span(name, above, context, SpanKind.CLIENT, times, about, failed, happened))
            made += self._http_spans(access, group, above, span)
        return made

    def _inference(
        self, request: RequestRecord, group: Sequence[AttemptRecord], operation: str, offset_s: float
    ) -> tuple[Attributes, list[Event]]:
        """Return the attributes and events of the GenAI span of the attempts at one target."""
        access, first, last = request.access, group[0], group[-1]
        attributes: Attributes = {
            OPERATION: operation,
            MODEL: self._mask(last.upstream_model or last.model),
            STREAM: access.stream or None,
            **self._about(last.upstream),
        }
        events = []
        for one in group[1:]:
            event = REPEATS.get(one.cause or "")
            if event is not None:
                about: Attributes = {ADAPTED: [*map(self._mask, one.adapted)]}
                if one.cause == "new_token" and one.token is not None:
                    about = {CREDENTIAL: one.token.credential}
                events.append(Event(event, about, _ns(one.began_s + offset_s)))
        if last is request.attempt:  # usage stands on one span alone, or it would be counted twice
            if access.usage is not None:
                counts = ((name, getattr(access.usage, of)) for name, of in USAGE.items())
                attributes |= {name: count for name, count in counts if count is not None and count < MOST_COUNT}
            if access.events and request.first_byte_s is not None:
                first_s = request.arrived_s + request.first_byte_s
                attributes[FIRST_CHUNK] = max(0.0, first_s - first.began_s)
                events.append(Event(FIRST_TOKEN, {}, _ns(first_s + offset_s)))
        return attributes, events

    def _http_spans(
        self,
        access: AccessRecord,
        group: Sequence[AttemptRecord],
        above: SpanContext,
        span: Callable[..., ReadableSpan],
    ) -> Iterator[ReadableSpan]:
        """Yield the span of each request that was sent at one target."""
        resends = 0
        for attempt in (one for call in group for one in ([*_each(call, repeats=False)] if call.parts else (call,))):
            if not attempt.requests or not attempt.trace:
                continue
            attributes: Attributes = {
                METHOD: access.method,
                URL: self._mask(attempt.url),
                STATUS: attempt.status,
                RESENDS: resends or None,
                OUTCOME: attempt.outcome,
                **self._about(attempt.upstream),
                PROVIDER: None,  # a collector would take it for the call of a model
            }
            resends += 1
            waited_s = attempt.token_wait_s if attempt.token is None else 0.0
            began_s = attempt.began_s + attempt.queue_wait_s + waited_s
            if attempt.token is not None and attempt.token.sent_s is not None:
                began_s = attempt.token.sent_s
            context = self._context(above.trace_id, int(attempt.trace[0][1][36:52], 16))
            failed = attempt if _is_failure(attempt) else None
            times = began_s, attempt.began_s + attempt.duration_s
            yield span(access.method, context, above, SpanKind.CLIENT, times, attributes, failed)

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        times: tuple[float, float],
        attributes: Attributes,
        failed: AccessRecord | AttemptRecord | None,
        events: Sequence[Event] = (),
        *,
        offset_s: float,
    ) -> ReadableSpan:
        """Return a span that ended. `failed` has the code, hop and reason of its error. Empty values are left out."""
        status = Status(StatusCode.UNSET)
        if failed is not None:
            code = self._mask(failed.code or failed.outcome)
            attributes |= {ERROR: code, HOP: failed.hop}
            is_told = (failed.hop or "").startswith("credential:")  # an upstream may quote the prompt
            status = Status(StatusCode.ERROR, self._mask(failed.reason or code) if is_told else code)
        kept = {name: value for name, value in attributes.items() if value not in (None, "", [])}
        limits = self._limits
        bounded = BoundedAttributes(limits.max_span_attributes, kept, False, limits.max_span_attribute_length)
        began_s, ended_s = times
        return ReadableSpan(
            name,
            context,
            parent,
            self.resource,
            bounded,
            events,
            kind=kind,
            status=status,
            start_time=_ns(began_s + offset_s),
            end_time=_ns(max(began_s, ended_s) + offset_s),
            instrumentation_scope=self._scope,
        )


def _is_whole(reply: bytes) -> bool:
    return reply[:64].lstrip()[:1] == b"{"


def _response(reply: bytes) -> dict[str, list[str]]:
    """Return the texts of OF_REPLY and BELOW in a reply, whole or streamed, in order."""
    found = dict[str, list[str]]()
    for text in [reply] if _is_whole(reply) else [line[5:] for line in reply.splitlines() if line[:5] == b"data:"]:
        if RESPONSE_ID in found and RESPONSE_MODEL in found and not REASON.search(text):  # nearly every event
            continue
        with suppress(ValueError, RecursionError):  # a part of an event, or [DONE]
            top = OBJECT.decode(text)
            _note(found, OF_REPLY, top)
            for name in [name for name in BELOW if name in top]:
                for one in LIST.decode(top[name]) if name == "choices" else [top[name]]:
                    _note(found, BELOW[name], OBJECT.decode(one))
    return found


def _note(found: dict[str, list[str]], wanted: Mapping[str, str], members: Mapping[str, msgspec.Raw]) -> None:
    for name in wanted.keys() & members.keys():
        value, attribute = members[name], wanted[name]
        if kind(value) == '"' and memoryview(value).nbytes <= LONGEST_BYTES:
            text = string(value)  # ValueError if it is not UTF-8
            found.setdefault(attribute, []).append(text)


def _each(last: AttemptRecord | None, *, repeats: bool = True) -> Iterator[AttemptRecord]:
    """Yield each attempt, the last one first, and those of its parts."""
    for attempt in attempts_of(last) if repeats or last is None else (last,):
        for part in attempt.parts:
            yield from attempts_of(part)
        yield attempt


def _is_failure(attempt: AttemptRecord) -> bool:
    """Return whether an attempt failed. A client that left is no failure of it."""
    return attempt.outcome not in ("", "complete", "client_gone")


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def span_exporter(config: TracingConfig) -> SpanExporter:
    """Return the exporter of the configuration. It connects when it exports."""
    for name in ("http.trace_exporter", "grpc.exporter"):
        logging.getLogger(f"opentelemetry.exporter.otlp.proto.{name}").addFilter(_is_due)
    if config.extra == GRPC:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(config.url)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from requests import Session

    session = Session()
    session.stream = True  # else it would read and decompress all of a reply
    session.hooks["response"].append(_read_reply)
    return OTLPSpanExporter(config.url, session=session)


_next_line_s = 0.0


def _is_due(record: logging.LogRecord) -> bool:
    """Let one line of an exporter pass in LOGGED_S: each export that fails writes several."""
    global _next_line_s
    is_due = record.created >= _next_line_s
    _next_line_s = record.created + LOGGED_S if is_due else _next_line_s
    return is_due


def _read_reply(response: Any, **_: object) -> None:
    response.raw.read(COLLECTOR_BYTES, decode_content=False)  # to its end, the connection is used again
    response.close()
