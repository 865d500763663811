"""A collector that is not part of gatepass: Rotel receives OTLP, and passes on what it received to this process."""

import gzip
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import httpx2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.e2e.process import Process
from tests.e2e.servers import READY_S, installed
from tests.serving import free_port
from tests.waiting import block_until

ARRIVES_S = 30.0


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """As it arrived. Ids are hexadecimal, `parent` is "" for a root, `kind` is `SERVER` or `CLIENT`."""

    name: str
    trace: str
    id: str
    parent: str
    kind: str
    attributes: Mapping[str, Any]
    events: Sequence[Event]
    status: str
    began_ns: int
    ended_ns: int
    resource: Mapping[str, Any]


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return None if kind is None else getattr(value, kind)


def _attributes(given: Iterable[Any]) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in given}


def _spans(body: bytes) -> list[Span]:
    return [
        Span(
            name=one.name,
            trace=one.trace_id.hex(),
            id=one.span_id.hex(),
            parent=one.parent_span_id.hex(),
            kind=trace_pb2.Span.SpanKind.Name(one.kind).removeprefix("SPAN_KIND_"),
            attributes=_attributes(one.attributes),
            events=[Event(event.name, _attributes(event.attributes)) for event in one.events],
            status=trace_pb2.Status.StatusCode.Name(one.status.code).removeprefix("STATUS_CODE_"),
            began_ns=one.start_time_unix_nano,
            ended_ns=one.end_time_unix_nano,
            resource=_attributes(resource.resource.attributes),
        )
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for one in scope.spans
    ]


class Collector:
    """Use it in a `with` statement. `url` is for OTLP over HTTP, `grpc` for OTLP over gRPC.

    With `port`, the one over HTTP has this port. `spans` are what it passed on.
    """

    def __init__(self, port: int | None = None) -> None:
        self.spans: list[Span] = []
        self._arrived = threading.Condition()
        self._sink = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Sink, self))
        self._receiving = threading.Thread(target=self._sink.serve_forever, daemon=True)
        self._receiving.start()
        http, grpc = f"127.0.0.1:{port or free_port()}", f"127.0.0.1:{free_port()}"
        self.url, self.grpc = f"http://{http}", f"http://{grpc}"
        (agent,) = installed("python-collector").glob("lib/python3*/site-packages/rotel/rotel-agent")
        receivers = ["--otlp-http-endpoint", http, "--otlp-grpc-endpoint", grpc]
        exporter = ["--exporter", "otlp", "--otlp-exporter-protocol", "http", "--otlp-exporter-compression", "none"]
        sink = f"http://127.0.0.1:{self._sink.server_port}"
        self.process = Process([agent, "start", *receivers, *exporter, "--otlp-exporter-endpoint", sink])
        try:
            self.process.wait_for("Starting Rotel", READY_S)
            block_until(partial(_listens, self.url))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop()
        self._sink.shutdown()
        self._receiving.join()
        self._sink.server_close()

    def receive(self, body: bytes) -> None:
        with self._arrived:
            self.spans += _spans(body)
            self._arrived.notify_all()

    def until(self, holds: Callable[[], bool], within_s: float = ARRIVES_S) -> None:
        """Wait until `holds()`. Raise AssertionError with the names of the spans if `within_s` passes before."""
        with self._arrived:
            came = self._arrived.wait_for(holds, within_s)
        assert came, f"after {within_s:g} s: {[one.name for one in self.spans][-20:]}\n{self.process.output}"

    def trace(self, trace: str, count: int) -> list[Span]:
        """Wait for `count` spans of a trace and return them in the order of their begin."""
        self.until(lambda: len(self._of(trace)) >= count)
        return sorted(self._of(trace), key=lambda one: (one.began_ns, -one.ended_ns))

    def _of(self, trace: str) -> list[Span]:
        return [one for one in self.spans if one.trace == trace]

    def servers(self) -> list[Span]:
        """Return the SERVER spans."""
        return [one for one in self.spans if one.kind == "SERVER"]


def _listens(url: str) -> bool:
    try:
        httpx2.get(url)
    except httpx2.ConnectError:
        return False
    return True


class _Sink(BaseHTTPRequestHandler):
    def __init__(self, owner: Collector, *arguments: Any) -> None:
        self._owner = owner
        super().__init__(*arguments)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self._owner.receive(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""
