"""The cost of tracing for one small chat, beside the SDK of OpenTelemetry alone: `make bench-tracing`.

gatepass runs as in bench/in_process.py. `sdk` begins and ends the same spans with the same attributes. Both export to
an exporter that encodes the spans and sends nothing. Two tables, each from one run:

- CPU time in µs, of the fastest of several batches that alternate, apart for the event loop's thread and for the others
- user instructions, counted by valgrind apart for each thread. Other load on the machine does not change them.
  `--source DIR` adds gatepass's code in another `src`, without tracing, to show what is paid without it.

The bars hold for the instructions, or for the CPU time where valgrind is missing.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import uvloop

from bench.in_process import REPLY, Client, connect, request
from bench.workloads import write_bodies

BATCHES, BATCH = 15, 150
WARM, COUNTED = 60, 100
MOST_SAMPLED, MOST_UNSAMPLED = 1.3, 0.1
TRACEPARENT = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
RATIOS = {"off": None, "unsampled": 0.0, "sampled": 1.0}
"""`sample_ratio` of each variant. None: `tracing` is not configured."""
VARIANTS = (*RATIOS, "sdk")
NOWHERE = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
"""Where the log goes."""
atexit.register(NOWHERE.close)
Cost = tuple[float, float]
"""What one request costs the event loop's thread, and the other threads."""


class Gatepass:
    """One gatepass that answers small chats."""

    def __init__(self, state: Any, client: Client) -> None:
        self.state, self._client = state, client
        self._request = request("chat", fields=TRACEPARENT)

    @classmethod
    async def create(cls, ratio: float | None) -> Gatepass:
        more = {} if ratio is None else {"tracing": {"sample_ratio": ratio}}
        state, upstream, client = await connect(NOWHERE, **more)
        upstream.set_reply(REPLY)
        created = cls(state, client)
        await created.flush()
        return created

    async def run(self, count: int) -> None:
        for _ in range(count):
            await self._client.ask(self._request)

    async def flush(self, exporter: Any = None) -> None:
        """Export what is queued, and start again."""
        if getattr(self.state, "tracing", None) is not None:
            await self.state.tracing.aclose()
            self.state.tracing.start(exporter or encoding())

    async def spans(self) -> list[Any]:
        """Return the spans of one request."""
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        kept = InMemorySpanExporter()
        await self.flush(kept)
        await self.run(1)
        await self.flush()
        return list(kept.get_finished_spans())


class Sdk:
    """The SDK alone: makes copies of `spans`, which have their parents before them."""

    def __init__(self, spans: Sequence[Any]) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        self._spans = spans
        self._provider = TracerProvider(
            ParentBased(TraceIdRatioBased(1.0)), Resource(spans[0].resource.attributes), shutdown_on_exit=False
        )
        self._processor = BatchSpanProcessor(encoding())
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("bench")

    async def run(self, count: int) -> None:
        from opentelemetry.trace import NonRecordingSpan, set_span_in_context

        tracer = self._tracer
        for _ in range(count):
            began: list[tuple[Any, Any]] = []
            contexts = {None: None}
            for one in self._spans:
                parent = one.parent
                remote = (
                    set_span_in_context(NonRecordingSpan(parent)) if parent is not None and parent.is_remote else None
                )
                context = remote or contexts[parent.span_id if parent is not None else None]
                span = tracer.start_span(one.name, context, one.kind, dict(one.attributes), one.links, one.start_time)
                contexts[one.context.span_id] = set_span_in_context(span)
                began.append((span, one))
            for span, one in reversed(began):
                for event in one.events:
                    span.add_event(event.name, event.attributes, event.timestamp)
                if not one.status.is_unset:
                    span.set_status(one.status)
                span.end(one.end_time)

    async def flush(self) -> None:
        await asyncio.to_thread(self._processor.force_flush)


def encoding() -> Any:
    """Return an exporter that encodes the spans and sends nothing."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import encode_spans
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Encoding(SpanExporter):
        def export(self, spans: Sequence[Any]) -> SpanExportResult:
            encode_spans(spans).SerializeToString()
            return SpanExportResult.SUCCESS

    return Encoding()


async def create(variant: str) -> Gatepass | Sdk:
    if variant != "sdk":
        return await Gatepass.create(RATIOS[variant])
    sampled = await Gatepass.create(1.0)
    spans = sorted(await sampled.spans(), key=lambda one: one.start_time)
    return Sdk(sorted(spans, key=lambda one: _depth(one, spans)))


def _depth(span: Any, spans: Sequence[Any]) -> int:
    above = next((one for one in spans if span.parent is not None and one.context.span_id == span.parent.span_id), None)
    return 0 if above is None else 1 + _depth(above, spans)


async def cpu_us() -> dict[str, Cost]:
    """Return the CPU time of one request of each variant, in µs."""
    made = {variant: await create(variant) for variant in VARIANTS}
    best: dict[str, Cost] = {}
    for _ in range(BATCHES):
        for variant, one in made.items():
            thread_s, process_s = time.thread_time(), time.process_time()
            await one.run(BATCH)
            await one.flush()
            loop_s = time.thread_time() - thread_s
            cost = loop_s / BATCH * 1e6, (time.process_time() - process_s - loop_s) / BATCH * 1e6
            best[variant] = min(best.get(variant, cost), cost, key=sum)
    return best


async def counted(variant: str) -> None:
    """Run under valgrind: warm up, and run what is counted between two lines of standard input."""
    one = await create(variant)
    await one.run(WARM)
    await one.flush()
    if variant == "off" and "gatepass.observability.tracing" in sys.modules:
        raise SystemExit("tracing was imported, and is not configured")
    click.echo("ready")
    sys.stdin.readline()
    await one.run(COUNTED)
    await one.flush()
    click.echo("done")
    sys.stdin.readline()
    os._exit(0)


def instructions(variant: str, source: Path | None = None) -> Cost:
    """Return the instructions of one request, in thousands."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        valgrind = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes"]
        command = [
            *valgrind,
            f"--callgrind-out-file={out}",
            sys.executable,
            "-m",
            "bench.tracing",
            "--counted",
            variant,
        ]
        environment = {**os.environ, "PYTHONHASHSEED": "0", **({"PYTHONPATH": str(source)} if source else {})}
        control = shutil.which("callgrind_control") or "callgrind_control"
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        with subprocess.Popen(command, env=environment, **pipes) as child:
            for line, what in (("ready", ["-i", "on"]), ("done", ["-d"])):
                _expect(child.stdout, line)
                subprocess.run([control, *what, str(child.pid)], check=True, capture_output=True)
                if line == "done":
                    counts = {file.name: _total(file) for file in Path(folder).iterdir()}
                child.stdin.write("\n")
        loop = sum(count for name, count in counts.items() if name.endswith("-01"))
        return loop / COUNTED / 1e3, (sum(counts.values()) - loop) / COUNTED / 1e3


def _expect(lines: Any, text: str) -> None:
    for line in lines:
        if line.strip() == text:
            return
    raise SystemExit("the counted process ended")


def _total(file: Path) -> int:
    found = re.findall(r"^(?:summary|totals): (\d+)", file.read_text(errors="replace"), re.MULTILINE)
    return int(found[-1]) if found else 0


def verdict(title: str, costs: dict[str, Cost]) -> bool:
    """Print the table and return whether the bars hold."""
    off, sdk = costs["off"], sum(costs["sdk"])
    click.echo(f"\n{title:38}{'event loop':>12}{'others':>12}{'added':>12}{'x SDK':>9}")
    added = {}
    for name, (loop, others) in costs.items():
        is_base = name in ("off", "before")
        added[name] = loop + others - (0 if name == "sdk" else sum(off))
        ratio = "" if is_base else f"{added[name] / sdk:9.3f}"
        click.echo(f"{name:38}{loop:12.1f}{others:12.1f}{added[name]:12.1f}{ratio}")
    share = (costs["sampled"][0] - off[0]) / costs["sdk"][0]
    click.echo(f"The event loop pays {share:.2f} times for a sampled request what it pays for the SDK's spans.")
    sampled, unsampled = added["sampled"] / sdk, added["unsampled"] / sdk
    click.echo(
        f"sampled {sampled:.2f}, at most {MOST_SAMPLED:g}; not sampled {unsampled:.3f}, at most {MOST_UNSAMPLED:g}"
    )
    return sampled <= MOST_SAMPLED and unsampled <= MOST_UNSAMPLED


@click.command()
@click.option("--source", type=click.Path(path_type=Path), help="Another `src`, without tracing, to count too.")
@click.option("--counted", "variant", hidden=True)
def main(source: Path | None, variant: str | None) -> None:
    write_bodies()
    if variant is not None:
        uvloop.run(counted(variant))
    holds = verdict("CPU time of a small chat, µs", uvloop.run(cpu_us()))
    if shutil.which("valgrind"):
        costs = {name: instructions(name) for name in VARIANTS}
        if source is not None:
            costs["before"] = instructions("off", source)
        holds = verdict("Instructions of a small chat, thousands", costs)
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
