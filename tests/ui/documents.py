"""The documents that the page's routes return, as the tests begin with them. Tests change copies of these."""

import json
import math
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Document = dict[str, Any]
Event = tuple[str, Document]

BASE: Document = json.loads((Path(__file__).resolve().parents[1] / "golden" / "story.json").read_text())
"""An attempt, a request and its line in a list, with all members."""

NOW = 1_795_453_200.5
SLICES = 60


def rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def wave(middle: float, swing: float, phase: float = 0.0) -> list[float]:
    """A smooth series of 60 numbers, the same at each run."""
    return [max(0.0, middle + swing * math.sin(i / 7 + phase) + 0.3 * swing * math.sin(i * 1.7)) for i in range(SLICES)]


def whole(numbers: list[float]) -> list[int]:
    return [round(number) for number in numbers]


FIRST_TOKEN_S = (0.1, 0.25, 0.5, 0.75, 1, 2.5, 5)
DURATION_S = (0.64, 1.28, 2.56, 5.12, 10.24, 20.48)


def bounds(numbers: list[float], bounds_s: tuple[float, ...]) -> list[float]:
    """Return for each number the bound of its bucket."""
    return [next(bound for bound in bounds_s if bound >= number) for number in numbers]


SESSION: Document = {
    "version": "0.2.0",
    "replica": "gate-1",
    "login": True,
    "signed_in": None,
    "base_url": "https://llm.corp.example/v1",
}


def status() -> Document:
    once = {"upstreams": ["openai"], "renewals": [], "fetches": 1, "failures": 0}
    renewals = [{"at": NOW - 77 - 192 * i, "ok": True, "reason": "due"} for i in range(5)]
    renewals.append({"at": NOW - 470, "ok": False, "reason": "the issuer answered 503"})
    return {
        "at": NOW,
        "replica": "gate-1",
        "credentials": {
            "corp": credential("oauth2", 163.0, 77.0, 115.0, upstreams=["corp", "corp-eu"], renewals=renewals),
            "openai": credential("api_key", None, None, None, **once),
        },
        "upstreams": {
            "corp": upstream("llm.corp.example", "ragflow", "corp", in_flight=3, requests=412, errors=6),
            "corp-eu": upstream("llm-eu.corp.example", "openai", "corp", in_flight=1, requests=96, errors=0),
            "openai": upstream("api.openai.com", "openai", "openai", in_flight=0, requests=31, errors=0),
        },
        "in_flight": 4,
        "draining": False,
        "ready": True,
        "store": None,
        "reload_problems": [],
        "keys": [],
        "capture": {"running": False, "until": None, "held_bytes": 0, "captured": 0, "model": None, "caller": None},
        "mcp": {"streams": 0, "servers": {}},
    }


def traffic() -> Document:
    percentiles = {
        "p50": bounds(wave(0.42, 0.16), FIRST_TOKEN_S),
        "p95": bounds(wave(0.9, 0.25), FIRST_TOKEN_S),
        "p99": bounds(wave(2, 0.6), FIRST_TOKEN_S),
        "over_s": 60,
        "all": {"p50": 0.5, "p95": 1, "p99": 61},
    }
    durations = {
        "p50": bounds(wave(1.9, 0.9), DURATION_S),
        "p95": bounds(wave(4.6, 1.5), DURATION_S),
        "p99": bounds(wave(9, 3), DURATION_S),
        "over_s": 327.68,
        "all": {"p50": 2.56, "p95": 5.12, "p99": 10.24},
    }
    return {
        "series": {
            "width_s": 15,
            "ended_at": NOW,
            "requests": whole(wave(9, 4)),
            "errors": [1 if i in {12, 13, 30} else 2 if i == 31 else 0 for i in range(SLICES)],
            "tokens_in": whole(wave(5200, 1400)),
            "tokens_out": whole(wave(2100, 900, 2)),
            "ttft_s": percentiles,
            "duration_s": durations,
        },
        "errors": [counted("upstream_closed", 4), counted("token_unavailable", 2)],
        "callers": {"ragflow": 5, "open-webui": 1},
    }


def counted(code: str, number: int, kind: str = "") -> Document:
    return {"code": code, "kind": kind or code, "count": number}


def callers() -> Document:
    return {
        "callers": [
            use_of("ragflow", 1204, 912_000, errors=9, in_flight=3, max_concurrent=16, last_used=rfc3339(NOW - 2)),
            use_of("open-webui", 311, 204_120, last_used=rfc3339(NOW - 14)),
            use_of("claude-code", 92, 1_400_210, last_used=rfc3339(NOW - 33)),
            use_of("anna", 0, 0),
        ],
        "all_callers": 4,
    }


def limits() -> Document:
    return {
        "limits": [
            {"of": "group/chats", "limit": "tokens.minute", "most": 200_000, "used": 150_000, "left": 50_000},
            {"of": "caller/ragflow", "limit": "requests.day", "most": 5_000, "used": 1_204, "left": 3_796},
        ],
    }


def use_of(name: str, requests: int, tokens: int, **more: Any) -> Document:
    """The use of a caller since the start."""
    found: Document = {"in_flight": 0, "max_concurrent": None, "errors": 0, "last_used": None}
    return {"name": name, "requests": requests, "tokens": tokens, **found, **more}


def credential(
    kind: str, expires_in_s: float | None, age_s: float | None, next_try_in_s: float | None, **more: Any
) -> Document:
    found: Document = {
        "type": kind,
        "state": "fresh",
        "failing": False,
        "expires_in_s": expires_in_s,
        "age_s": age_s,
        "next_try_in_s": next_try_in_s,
        "fetches": 12,
        "failures": 1,
        "rejected_by": {},
        "last_error": None,
        "failing_since": None,
    }
    return {**found, **more}


def upstream(host: str, dialect: str, credential: str, *, in_flight: int, requests: int, errors: int) -> Document:
    return {
        "host": host,
        "dialect": dialect,
        "credential": credential,
        "health": "ok",
        "last_failed": None,
        "in_flight": in_flight,
        "requests_15m": requests,
        "errors_15m": errors,
        "rejected_15m": 0,
        "many_errors": False,
        "open_connections": in_flight + 2,
    }


def summary(identity: str, ago_s: float, **members: object) -> Document:
    """The summary of a request that ended `ago_s` seconds before NOW."""
    own = {
        "id": identity,
        "arrived_at": rfc3339(NOW - ago_s - BASE["summary"]["duration_s"]),
        "ended": NOW - ago_s,
        "upstream": "corp",
        "attempts": 1,
        "adapted": [],
        "first_byte_s": 0.33,
        "bytes_out": 9000,
        "tokens_in": 812,
        "tokens_out": 118,
        "events": 118,
    }
    return {**BASE["summary"], **own, **members}


def summaries() -> Document:
    failed = {"status": 502, "outcome": "error"}
    no_token = {
        "code": "token_unavailable",
        "kind": "token_unavailable",
        "hop": "credential:corp",
        "upstream": "",
        "first_byte_s": None,
    }
    closed = {"code": "upstream_closed", "kind": "upstream_closed", "hop": "upstream:corp"}
    embeddings = {"operation": "embeddings", "model": "bge-m3", "upstream": "corp-eu", "stream": False}
    rows = [
        summary("req-1", 2, adapted=["images=content-parts"]),
        summary("req-2", 9, attempts=2, duration_s=2.4, **failed, **closed),
        summary("req-3", 14, caller="open-webui", model="o3-mini", adapted=["stream=synth", "drop=temperature"]),
        summary("req-4", 21, **embeddings, first_byte_s=0.041, duration_s=0.043, bytes_out=48_211),
        summary("req-5", 33, caller="claude-code", model="claude-sonnet", upstream="openai", duration_s=14.2),
        summary("req-6", 40, status=499, outcome="client_gone", duration_s=0.7),
        summary("req-7", 52, **{**failed, "status": 503}, **no_token, duration_s=5.0, bytes_out=310),
    ]
    rows += [
        summary(f"req-{8 + i}", 60 + 7 * i, duration_s=round(0.8 + i % 5 * 0.4, 2), bytes_out=4000 + 731 * i)
        for i in range(12)
    ]
    unfinished = dict.fromkeys(("ended", "status", "outcome"))
    running = summary("run-1", -1, **unfinished, state="running", duration_s=3.1, arrived_at=rfc3339(NOW - 3.1))
    return {"now": NOW, "requests": rows, "running": [running]}


def attempt(number: int, **members: object) -> Document:
    own = {
        "number": number,
        "upstream": "corp",
        "upstream_model": "gpt-4o-2024",
        "began_s": 0.001,
        "duration_s": 1.2,
        "head_s": 0.31,
        "upstream_s": 1.1,
        "upstream_request_id": f"up-{number}",
    }
    return {**deepcopy(BASE["attempt"]), **own, **members}


ARRIVALS: Document = {
    "reads": 118,
    "first_s": 0.329,
    "last_s": 1.189,
    "longest_gap": {"at_s": 0.479, "length_s": 0.11},
}


PARTS = "images=content-parts"
CURL = """curl -N https://llm.corp.example/v1/chat/completions \\
  -H "Authorization: Bearer $GATEPASS_KEY" --data-raw '{"model":"gpt-4o"}'"""


def body(name: str, text: str) -> Document:
    return {"name": name, "text": text, "size_bytes": len(text.encode()), "cut": False}


def story() -> Document:
    """A streamed chat that succeeded, with one rule."""
    return {
        **BASE["story"],
        "id": "req-1",
        "replica": "gate-1",
        "arrived_at": rfc3339(NOW - 3.2),
        "peer": "10.0.0.7",
        "user_agent": "OpenAI/Python 1.99",
        "attempts": [attempt(1, adapted=[PARTS], arrivals=ARRIVALS, connect_s=0.021, upstream_request_id="up-77")],
        "timings": {
            **BASE["story"]["timings"],
            "body_s": 0.0004,
            "upstream_s": 1.1,
            "first_byte_s": 0.33,
            "duration_s": 1.2,
        },
        "bytes_in": 120_210,
        "tokens_in": 812,
        "tokens_out": 118,
        "usage": {"prompt_tokens": 812, "completion_tokens": 240},
        "upstream_request_id": "up-77",
        "captured": True,
        "bodies": [
            body(
                "request",
                '{"model":"gpt-4o","messages":[{"role":"user","content":"What\'s this?","images":["data:…"]}]}',
            ),
            body(
                "sent",
                '{"model":"gpt-4o-2024","messages":[{"role":"user","content":[{"type":"text","text":"What…"}]}]}',
            ),
            body("reply", 'data: {"choices":[{"delta":{"content":"A lighthouse"}}]}\n\ndata: [DONE]\n\n'),
        ],
    }


def failed_story() -> Document:
    """The same request after a failover, with the error of the last upstream."""
    found = story()
    lost = {"outcome": "connection_failed", "code": "upstream_unreachable", "status": None, "head_s": None}
    cut = {"outcome": "cut", "code": "upstream_closed"}
    token = {"credential": "corp", "age_s": 84.0, "left_s": 156.0, "wait_s": 0.12, "renewal_s": 0.0}
    found.update(
        id="req-2",
        status=502,
        outcome="error",
        captured=False,
        error={
            "code": "upstream_closed",
            "kind": "upstream_closed",
            "hop": "upstream:corp",
            "message": "The upstream corp closed the connection in the middle of the answer. Try again.",
            "cause": "The upstream corp closed the connection in the middle of the answer.",
            "action": "Check the upstream's log, and `network.proxy`.",
            "sentence_zh": "回复尚未完成，连接就关闭了。",
            "action_zh": "检查上游的日志，以及 `network.proxy`。",
            "page": "docs/reference/errors.md#upstream_closed",
        },
        attempts=[
            attempt(1, upstream="corp-eu", **lost, duration_s=0.9, connect_s=0.9),
            attempt(2, cause="next_target", **cut, began_s=0.91, duration_s=1.49, arrivals=ARRIVALS, token=token),
        ],
    )
    found["timings"] = {**found["timings"], "duration_s": 2.4, "first_byte_s": 1.25, "token_wait_s": 0.12}
    del found["bodies"]
    return found


def mcp_story() -> Document:
    """A call of a tool whose token came from another credential, which had none."""
    found = failed_story()
    error = {
        "code": "token_unavailable",
        "kind": "token_unavailable",
        "hop": "credential:corp",
        "message": "corp has no token.",
        "cause": "corp has no token.",
        "page": "",
    }
    nothing = {"outcome": "nothing_written", "code": "token_unavailable", "status": None, "head_s": None}
    token = {"credential": "tools", "age_s": None, "left_s": None, "wait_s": 0.0, "renewal_s": 0.0}
    found.update(
        id="req-4",
        path="/mcp/search",
        operation="mcp",
        model="",
        mcp_method="tools/call",
        mcp_tool="find",
        stream=False,
        status=200,
        error={**error, "action": "Run `gatepass token corp`.", "action_zh": "运行 `gatepass token corp`。"},
        attempts=[attempt(1, upstream="mcp/search", upstream_model=None, **nothing, token=token)],
    )
    return found


def running_story() -> Document:
    """The same request 3.1 s after its arrival, while its stream is silent."""
    found = story()
    found.update(id="run-1", state="running", status=None, outcome=None, closed_by=None, duration_s=3.1, usage=None)
    found["timings"] = {**found["timings"], "duration_s": None}
    gap = {"at_s": ARRIVALS["last_s"], "length_s": 1.91}
    found["attempts"][0].update(
        outcome=None, duration_s=None, began_s=0.001, arrivals={**ARRIVALS, "ended_s": 3.099, "longest_gap": gap}
    )
    del found["bodies"]
    return found


def learned_story() -> Document:
    """The same request after the upstream rejected a parameter, with another name of the model at the upstream."""
    found = story()
    found.update(id="req-3", captured=False)
    rejected = {"outcome": "error_reply", "code": "upstream_error", "status": 400}
    repeated = {"cause": "learned_rule", "began_s": 0.201, "connect_s": 0.0}
    found["attempts"] = [
        attempt(1, **rejected, duration_s=0.2, head_s=0.19, upstream_model="deploy-7"),
        attempt(2, **repeated, duration_s=0.99, upstream_model="deploy-7"),
    ]
    del found["bodies"]
    return found


def models() -> Document:
    def route(model: str, operations: list[str], *targets: tuple[str, str], **capabilities: object) -> Document:
        found = [{"upstream": upstream, "model": name} for upstream, name in targets]
        return {"model": model, "operations": operations, "targets": found, "capabilities": capabilities}

    chat, images = ["chat", "completions", "responses"], {"images": True, "tools": True}
    targets = ("corp", "gpt-4o-2024"), ("corp-eu", "gpt-4o")
    return {
        "routes": [
            route("gpt-4o", chat, *targets, **images, stream=True, context=128000),
            route("o3-mini", ["chat"], ("corp", "o3-mini"), images=False, stream=False),
            route("bge-m3", ["embeddings"], ("corp-eu", "bge-m3")),
            route("claude-sonnet", ["chat", "messages"], ("openai", "claude-sonnet"), **images),
        ],
        "listed": ["gpt-4o", "o3-mini", "bge-m3", "claude-sonnet", "gpt-4o-mini"],
        "list_error": None,
        "routed": {"gpt-4o": ["corp", "corp-eu"], "o3-mini": ["corp"], "claude-sonnet": ["openai"]},
    }


def learned() -> Document:
    def rule(adapted: str, evidence: str, age_s: int, uses: int, **members: Any) -> Document:
        scope = {"upstream": "corp", "model": "o3-mini", "operation": "chat"}
        times = {"age_s": age_s, "expires_in_s": 3600 - age_s}
        setting = 'stream: "emulate"' if adapted == "stream=synth" else ""
        reach = {"callers": ["ragflow"], "beside": "", "values": [], "hidden_values": 0, **members}
        return {**scope, **reach, **times, "adapted": adapted, "evidence": evidence, "uses": uses, "setting": setting}

    many = ["aider", "claude-code", "codex", "n8n", "open-webui", "ragflow", "zed"]
    return {
        "rules": [
            rule("stream=synth", "stream does not support true with this model", 720, 31, callers=many),
            rule("drop=temperature", "'temperature' does not support 0.3 with this model.", 310, 12, values=["0.3"]),
        ],
    }


def use() -> Document:
    def row(upstream: str, model: str, requests: int, errors: int, tokens: int, **codes: int) -> Document:
        return {
            "upstream": upstream,
            "model": model,
            "requests": requests,
            "errors": errors,
            "tokens": tokens,
            "codes": [counted(code, number) for code, number in codes.items()],
            "callers": {"ragflow": errors} if errors else {},
            "unknown": False,
            "ok_at": NOW - 30,
            "failed_at": [],
            "durations_s": [0.4, 0.9, 2.5],
            "first_at": NOW - 7200,
            "last_at": NOW - 30,
        }

    return {
        "use": [
            row("corp", "gpt-4o", 212, 3, 190_200, upstream_closed=2, overloaded=1),
            row("corp-eu", "bge-m3", 41, 0, 80_000),
        ]
    }


ERRORS: dict[str, Document] = {
    "token_unavailable": {"code": "token_unavailable", "text": "No `token`. None.", "text_zh": "没有 `token`。"},
    "upstream_closed": {
        "code": "upstream_closed",
        "status": 502,
        "text": "The connection closed before the answer was complete.\n\nIn a stream, the error is the last event.\n\n"
        "- gatepass never marks a cut stream as complete.\n- It also ends a stream\n"
        "  after `[DONE]` without an answer.",
        "text_zh": "回复尚未完成，连接就关闭了。在流中，错误是最后一个事件。",
        "action": "Check the upstream's log and the timeouts of proxies.",
        "action_zh": "检查上游的日志，以及途中各代理的超时时间。",
        "cases": [
            {
                "sentence": "The connection closed before any answer.",
                "sentence_zh": "连接在收到任何回复之前就关闭了。",
                "action": "Begin `base_url` with https://.",
                "action_zh": "让 `base_url` 以 https:// 开头。",
            }
        ],
    },
}


def step(hop: str, what: str, outcome: str, seconds: float, why: str = "", advice: str = "") -> Iterator[Event]:
    yield "begin", {"hop": hop, "what": what}
    texts = {"why": why, "advice": advice, "why_zh": why, "advice_zh": advice}
    yield "step", {"hop": hop, "what": what, "outcome": outcome, **texts, "seconds": seconds, "error": ""}


UNKNOWN_CA = "Its certificate is signed by a CA that this machine does not trust."
SET_CA = "Set upstreams.corp.network.ca_file to a PEM file with the certificate of that CA."
DOCTOR: list[Event] = [
    *step("gatepass", "configuration", "works", 0.004),
    *step("credential:corp", "fetch a token", "works", 0.21, "It lasts 240 s."),
    *step("upstream:corp", "connect with TLS", "fails", 0.12, UNKNOWN_CA, SET_CA),
    ("end", {"failed": 1}),
]
