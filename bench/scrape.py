"""The cost of a scrape with as many series of requests as gatepass keeps.

Prints milliseconds of CPU time, of the fastest of ROUNDS runs: what the event loop does, and what a thread does then.
It must be less than LIMIT_MS together.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from gatepass.errors import UpstreamErrorReply
from gatepass.observability.metrics import MAX_SERIES, Metrics, Sample, exposition_of
from gatepass.observability.observer import AccessRecord, AttemptRecord, RequestRecord
from gatepass.sse.usage import Usage

LIMIT_MS = 50
CALLERS, MODELS, ROUNDS = 200, 200, 7


def filled() -> Metrics:
    """Return metrics with streams and errors of each caller and model, beyond all bounds."""
    metrics = Metrics()
    groups = {f"caller-{number}": f"group-{number // 10}" for number in range(CALLERS)}
    metrics.attach(Sample, lambda model: model, groups)
    for number in range(CALLERS * MODELS // 8):
        caller, model = f"caller-{number % CALLERS}", f"gpt-4o-mini-{(number + number // CALLERS) % MODELS}"
        for status in (200, 429, 503):
            error = None if status == 200 else UpstreamErrorReply("no", upstream="chat", status=status)
            access = AccessRecord("id", "POST", "/", "chat", caller, model=model, status=status, events=9)
            access.outcome, access.usage = "ok" if error is None else "error", Usage(20, 10, 30, 5, 3)
            attempt = AttemptRecord("id", "chat", model, "chat", requests=1)
            metrics.request_ended(RequestRecord(access, attempt, 0.0, 0.0, 1.5, 0.3, 0.01), error)
    return metrics


def fastest_ms(run: Callable[[], object]) -> float:
    runs = []
    for _ in range(ROUNDS):
        began_ns = time.process_time_ns()
        run()
        runs.append(time.process_time_ns() - began_ns)
    return min(runs) / 1e6


def main() -> int:
    metrics = filled()
    samples = metrics.samples()
    text = exposition_of(samples)
    lines = sum(not line.startswith(b"#") for line in text.splitlines())
    loop_ms, thread_ms = fastest_ms(metrics.samples), fastest_ms(lambda: exposition_of(samples))
    all_ms = loop_ms + thread_ms
    print(f"{lines:,} of at most {MAX_SERIES:,} lines, {len(text) / 1e6:.1f} MB: {loop_ms:.0f} ms on the event loop,")
    print(f"{thread_ms:.0f} ms in a thread: {all_ms:.0f} ms, at most {LIMIT_MS}")
    return int(all_ms > LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())
