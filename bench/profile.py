"""CPU time by part of gatepass: `python -m bench.profile`.

The gateway runs as in the benchmark. A first window without the profiler measures the CPU time of a request or of a
relayed event. In a second window under the same load py-spy takes on-CPU samples, whose shares divide that time.

- A sample belongs to the innermost frame of its stack that a stage names. C code below a Python frame, such as a socket
  write or a JSON parser, belongs to its caller.
- Work of uvloop itself (epoll, socket reads, callbacks) is "event loop".
- py-spy loses the outer frames of some stacks, so the figures under "inclusive" are lower bounds.

A tracing profiler would multiply the cost of small functions. `python -m bench.in_process` measures the code without
sockets.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Timer
from typing import Any

import click

from bench import rig as rig_module
from bench.candidates import CANDIDATES
from bench.environments import SetupFailed, environment
from bench.instance import Instance, NotReady
from bench.paths import SCRATCH
from bench.processes import kernel_and_user_ticks
from bench.rig import Rig
from bench.workloads import WORKLOADS, Workload

WINDOW_S = 6.0
PACED_S = 3.0
RATE_HZ = 800
SPY_S = 30.0

PARTS = {
    "chat-64": "One small chat, 64 at a time",
    "paced-500": "One relayed event, one of 500 paced streams",
    "burst-32": "One relayed event of a burst",
    "tools-32": "One relayed delta of a tool call, or of text with escapes",
    "embeddings-8": "Embeddings, 64 KB in, 380 KB out",
    "images-4": "A chat with a 4 MB image that is moved",
}

STAGES = (
    ("asyncio/timeouts.py", "asyncio.timeout"),
    ("prometheus_client/", "metrics"),
    ("gatepass/observability/metrics.py", "metrics"),
    ("gatepass/observability/", "log line"),
    ("httpcore2/", "token"),
    ("/h11/", "token"),
    ("httpx2/", "token"),
    ("gatepass/http_client/", "upstream's connection"),
    ("gatepass/tokens/credential_injector.py", "authorize"),
    ("gatepass/tokens/", "token"),
    ("gatepass/auth/", "authenticate"),
    ("gatepass/proxy/body_threads.py", "parse"),
    ("gatepass/proxy/routing.py", "route"),
    ("gatepass/normalize/", "normalize"),
    ("gatepass/learning/", "learned rules"),
    ("gatepass/json_body.py", "JSON text: read"),
    ("gatepass/draft.py", "JSON text: change"),
    ("gatepass/dialects/", "encode, classify"),
    ("gatepass/sse/", "relay: events"),
    ("gatepass/proxy/relay.py", "relay: pump"),
    ("gatepass/proxy/client_response.py", "client response"),
    ("uvicorn/", "client's connection"),
    ("starlette/", "server: FastAPI, Starlette"),
    ("fastapi/", "server: FastAPI, Starlette"),
    ("gatepass/server/", "client's connection"),
    ("gatepass/", "request path"),
)
"""Part of a file's path, in order: the first that fits names the stage."""

LOOP, UNKNOWN = "event loop", "not known: a stack cut short"

AROUND = (
    "click/",
    "<frozen",
    "uvicorn/server",
    "uvicorn/_compat",
    "asyncio/runners",
    "gatepass/cli/",
    "gatepass/__main__",
)
"""Frames at the start of every stack."""


@dataclass(frozen=True, slots=True)
class Part:
    """The CPU time of one request or event in µs, by stage and by function (own and inclusive).

    `kernel` is the share of system calls and the network stack.
    """

    description: str
    us: float
    kernel: float
    samples: int
    stages: list[tuple[str, float]]
    own: list[tuple[str, float]]
    inclusive: list[tuple[str, float]]

    def document(self) -> dict[str, Any]:
        head = {
            "description": self.description,
            "us": round(self.us, 2),
            "kernel": round(self.kernel, 2),
            "samples": self.samples,
        }
        return head | {
            name: [(what, round(us, 2)) for what, us in getattr(self, name)] for name in ("stages", "own", "inclusive")
        }


def measured(rig: Rig, names: Sequence[str] = tuple(PARTS)) -> dict[str, Any]:
    """Return the profile as in the JSON file: `parts`, or `absent` with the reason."""
    try:
        spy = environment("py-spy").with_name("py-spy")
        parts = [_part(rig, spy, workload) for workload in WORKLOADS if workload.name in names]
    except (SetupFailed, NotReady, OSError) as error:
        return {"absent": str(error)}
    return {"parts": [part.document() for part in parts]}


def _part(rig: Rig, spy: Path, workload: Workload) -> Part:
    candidate = next(one for one in CANDIDATES if one.name == "gatepass")
    with Instance(candidate, rig) as instance:
        before = kernel_and_user_ticks(instance.pids)
        us = instance.measure(workload, PACED_S).cpu_us
        kernel, user = (
            after - earlier for after, earlier in zip(kernel_and_user_ticks(instance.pids), before, strict=True)
        )
        stacks = _sample_stacks(instance, spy, workload)
    return divided(PARTS[workload.name], us, kernel / ((kernel + user) or 1), stacks)


def _sample_stacks(instance: Instance, spy: Path, workload: Workload) -> Counter[tuple[str, ...]]:
    """Return the stacks of a window under load, outermost frame first. py-spy starts with the window."""
    window_s = PACED_S if workload.once else WINDOW_S
    out, spy_output = SCRATCH / "stacks.txt", SCRATCH / "py-spy.txt"
    out.unlink(missing_ok=True)
    command = [str(spy), "record", "--pid", str(instance.pids[0]), "--rate", str(RATE_HZ), "--full-filenames"]
    command += [
        "--nonblocking",
        "--duration",
        str(max(1, round(window_s - 1))),
        "--format",
        "raw",
        "--output",
        str(out),
    ]
    with spy_output.open("wb") as errors:
        watch = Timer(workload.warmup_s + 0.3, _start_spy, (command, errors.fileno()))
        watch.start()
        instance.measure(replace(workload, window_s=window_s), window_s)
        watch.join()
    if not out.exists():
        raise NotReady(f"py-spy wrote nothing: {spy_output.read_text(errors='replace').strip()[-200:]}")
    return read_stacks(out.read_text(encoding="utf-8"))


def _start_spy(command: list[str], errors: int) -> None:
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(command, check=False, timeout=SPY_S, stdout=errors, stderr=errors)


def read_stacks(text: str) -> Counter[tuple[str, ...]]:
    """Parse lines of `frame;frame;frame count`, without the frames of AROUND.

    Ignore a line without a count: py-spy writes one now and then, and a run takes a quarter of an hour.
    """
    stacks: Counter[tuple[str, ...]] = Counter()
    for line in text.splitlines():
        frames, _, count = line.rpartition(" ")
        inner = tuple(frame for frame in frames.split(";") if not any(part in frame for part in AROUND))
        if count.isdigit():
            stacks[inner] += int(count)
    return stacks


def divided(description: str, us: float, kernel: float, stacks: Counter[tuple[str, ...]]) -> Part:
    """Divide `us` according to the shares of the samples."""
    total = stacks.total() or 1
    stages, own, inclusive = Counter[str](), Counter[str](), Counter[str]()
    for frames, count in stacks.items():
        stages[stage_of(frames)] += count
        own[_function(frames[-1]) if frames else LOOP] += count
        for function in {_function(frame) for frame in frames}:
            inclusive[function] += count
    scaled = [[(name, count * us / total) for name, count in each.most_common()] for each in (stages, own, inclusive)]
    return Part(description, us, kernel, total, scaled[0], scaled[1][:25], scaled[2][:50])


def stage_of(frames: Sequence[str]) -> str:
    for frame in reversed(frames):
        for fragment, stage in STAGES:
            if fragment in frame:
                return stage
    return UNKNOWN if frames else LOOP


def _function(frame: str) -> str:
    """`send (…/site-packages/httpx2/_client.py:1620)` as `httpx2/_client.py send`."""
    name, _, location = frame.rpartition(" (")
    path = location.rpartition(":")[0]
    for root in ("/site-packages/", "/src/", "/lib/"):
        path = path.rpartition(root)[2]
    return f"{path} {name}"


def _print(part: dict[str, Any]) -> None:
    print(
        f"\n{part['description']}: {part['us']:.1f} µs of CPU, {part['kernel']:.0%} in the kernel"
        f" ({part['samples']} samples)"
    )
    for title in ("stages", "own", "inclusive"):
        print(f"\n  {title}")
        for what, us in part[title][:30]:
            print(f"  {us:8.2f} µs {us / part['us']:5.0%}  {what}")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(PARTS)))
def main(names: tuple[str, ...]) -> None:
    """Print the CPU time of one request or event by part, for NAMES or for all workloads."""
    with rig_module.running() as rig:
        profile = measured(rig, names or tuple(PARTS))
    if "absent" in profile:
        raise click.ClickException(f"no profile: {profile['absent']}")
    for part in profile["parts"]:
        _print(part)


if __name__ == "__main__":
    main()
