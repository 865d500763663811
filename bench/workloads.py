"""The workloads, and the request bodies that the clients send."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.paths import BODIES

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"

PEERS = ("naive", "openai-forward", "portkey", "litellm")
ALL_CANDIDATES = ("direct", "nginx", "gatepass", "gatepass-uvicorn", "tuned", *PEERS)
TLS_CANDIDATES = ("nginx-tls", "gatepass-tls")
FAST_CANDIDATES = ("direct", "nginx", "gatepass", "gatepass-uvicorn", "tuned")
"""The candidates that can hold 500 streams on one core. naive holds 100 (httpx's default pool), and openai-forward,
Portkey and LiteLLM need more than one core."""

TEXT = "The quick brown fox jumps over the lazy dog. "
BURST_EVENTS = 200
IMAGE_BYTES = 3 * 1024 * 1024
"""4 MiB in base64."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of load.

    `once`: each connection sends one request for a long stream, and the window begins when all streams run. Otherwise
    each connection sends its next request after a complete reply.
    """

    name: str
    description: str
    body: str
    connections: int
    candidates: tuple[str, ...]
    path: str = CHAT
    warmup_s: float = 0.4
    window_s: float | None = None
    ramp_ms: int = 0
    once: bool = False


def paced(connections: int, ramp_ms: int, warmup_s: float, candidates: tuple[str, ...], body: str) -> Workload:
    return Workload(
        f"paced-{connections}",
        f"{connections:,} streams, an event each 50 ms",
        body,
        connections,
        candidates,
        warmup_s=warmup_s,
        window_s=3.0,
        ramp_ms=ramp_ms,
        once=True,
    )


WORKLOADS = (
    Workload("chat-1", "small chat (1 KB in, 1 KB out), one at a time", "chat", 1, ALL_CANDIDATES + TLS_CANDIDATES),
    Workload("chat-64", "small chat, 64 at a time", "chat", 64, (*ALL_CANDIDATES, "gatepass-piped", *TLS_CANDIDATES)),
    Workload("burst-32", "streams of 200 events without a pause, 32 at a time", "burst", 32, ALL_CANDIDATES),
    Workload(
        "tools-32",
        "streams of 200 events with tool calls and escaped text, 32 at a time",
        "tools",
        32,
        ALL_CANDIDATES,
    ),
    Workload(
        "repaired-32",
        "streams of 200 events with ids and comments, which gatepass rewrites, 32 at a time",
        "mixed",
        32,
        ("nginx", "gatepass"),
    ),
    Workload(
        "emulated-8",
        "synthesized streams of replies with 100 tool calls, 8 at a time",
        "wide",
        8,
        ("gatepass",),
    ),
    Workload(
        "aggregated-8",
        f"aggregated replies of streams of {BURST_EVENTS} events, 8 at a time",
        "whole",
        8,
        ("gatepass",),
    ),
    Workload(
        "agent-8",
        "turns of a coding agent (178 KB, 300 messages, 40 tools), 8 at a time",
        "agent",
        8,
        ALL_CANDIDATES,
    ),
    paced(50, 500, 1.0, ALL_CANDIDATES, "paced-100"),
    paced(500, 1000, 1.5, FAST_CANDIDATES, "paced-100"),
    paced(1500, 2000, 2.5, FAST_CANDIDATES, "paced-120"),
    paced(200, 1000, 1.5, TLS_CANDIDATES, "paced-100"),
    Workload(
        "embeddings-8",
        "embeddings, 64 KB in, 380 KB out, 8 at a time",
        "embeddings",
        8,
        ALL_CANDIDATES + TLS_CANDIDATES,
        path=EMBEDDINGS,
    ),
    Workload(
        "images-4",
        "a 4 MB image next to the messages, which gatepass moves, 4 at a time",
        "images",
        4,
        ALL_CANDIDATES[1:],
    ),
)
QUICK = ("chat-1", "chat-64", "burst-32", "tools-32", "paced-500", "embeddings-8", "images-4")

SLOW_STREAMS = Workload(
    "slow-1000",
    "1,000 streams, an event each second",
    "slow",
    1000,
    ALL_CANDIDATES,
    warmup_s=3.0,
    window_s=1.5,
    ramp_ms=2000,
    once=True,
)
ONE_IMAGE = Workload("image-1", "a 4 MB image, one at a time", "images", 1, ALL_CANDIDATES, warmup_s=0.1, window_s=1.0)


CURVES = ("nginx", "gatepass")
CURVE_STREAMS = (1, 10, 100, 500, 1000, 2000)
CURVE_BODIES_KB = (1, 16, 256, 1024, 4096, 16384)


def stream_curve() -> tuple[Workload, ...]:
    return tuple(paced(count, min(2000, count * 2), 2.5, CURVES, "paced-120") for count in CURVE_STREAMS)


def body_curve() -> tuple[Workload, ...]:
    return tuple(
        Workload(f"body-{size}", f"chat with a body of {size:,} KB, 4 at a time", f"body-{size}", 4, CURVES)
        for size in CURVE_BODIES_KB
    )


def named(names: tuple[str, ...]) -> tuple[Workload, ...]:
    return tuple(workload for workload in WORKLOADS if workload.name in names)


def write_bodies() -> None:
    BODIES.mkdir(parents=True, exist_ok=True)
    sizes = {f"body-{size}": _chat("bench-chat", TEXT * (size * 1000 // len(TEXT) + 1)) for size in CURVE_BODIES_KB}
    for name, body in {**_bodies(), **sizes}.items():
        (BODIES / f"{name}.json").write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")


def _bodies() -> Mapping[str, Any]:
    text = TEXT * 120
    image = base64.b64encode(random.Random(1).randbytes(IMAGE_BYTES)).decode()  # noqa: S311 - no secret
    return {
        "chat": _chat("bench-chat", text[:800]),
        "burst": _chat("bench-burst-200", text[:800], stream=True),
        "tools": _chat("bench-tools-200", text[:800], stream=True),
        "mixed": _chat("bench-mixed-200", text[:800], stream=True),
        "wide": _chat("bench-wide", text[:800], stream=True),
        "whole": _chat(f"bench-whole-{BURST_EVENTS}", text[:800]),
        "paced-100": _chat("bench-pace-100-50", text[:800], stream=True),
        "paced-120": _chat("bench-pace-120-50", text[:800], stream=True),
        "slow": _chat("bench-pace-8-1000", text[:800], stream=True),
        "agent": _agent(turns=149, tools=40),
        "embeddings": {"model": "bench-embed", "input": [text[:4060]] * 16, "encoding_format": "float"},
        "images": _chat("bench-chat", text[:200]) | {"images": [f"data:image/png;base64,{image}"]},
    }


def _agent(turns: int, tools: int) -> dict[str, Any]:
    """Return a turn of a coding agent: a question, and calls of tools with their results."""
    schema = {name: {"type": "string", "description": TEXT * 2} for name in ("path", "pattern", "reason")}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": TEXT * 300},
        {"role": "user", "content": [{"type": "text", "text": TEXT * 4}]},
    ]
    for number in range(turns):
        function = {"name": f"tool_{number % tools}", "arguments": json.dumps({"path": f"src/file_{number}.py"})}
        call = {"id": f"call_{number:08}", "type": "function", "function": function}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": TEXT * 13})
    declared = [
        {
            "type": "function",
            "function": {
                "name": f"tool_{number}",
                "description": TEXT * 10,
                "parameters": {"type": "object", "properties": schema, "required": ["path"]},
            },
        }
        for number in range(tools)
    ]
    return {"model": "bench-chat", "messages": messages, "tools": declared, "max_tokens": 4096}


def _chat(model: str, text: str, *, stream: bool = False) -> dict[str, Any]:
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": text}]
    return {"model": model, "messages": messages, "temperature": 0.2, "max_tokens": 512, "stream": stream}
