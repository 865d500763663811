"""A real vLLM behind gatepass, beside the same requests without it: `make vllm`. The argument is its environment.

Parsers of tools, streams, thoughts and refusals are vLLM's own; what the model says is scripted
(tests/e2e/realllm/vllm_scripted.py). Prints each case, and exits 1 if one differs. It takes some minutes: vLLM starts
once for each parser and once for vectors and rankings.
"""

import asyncio
import base64
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.e2e.process import Process
from tests.e2e.servers import ask
from tests.integration.gateway import gateway
from tests.serving import free_port

HERE = Path(__file__).parent.parent / "e2e" / "realllm"
READY_S = 900.0
OPTIONS = (
    *("--served-model-name", "tiny", "--enforce-eager", "--dtype", "float32", "--max-num-seqs", "8"),
    *("--host", "127.0.0.1", "--gpu-memory-utilization", "0.15"),
)
VECTORS = ("--runner", "pooling", "--convert", "embed")
SCRIPTED = ("--logits-processors", "vllm_scripted:Scripted")
VERSION = {"anthropic_version": "2023-06-01"}
ARGUMENTS = {"city": "Bern", "days": 2}
IN_JSON = json.dumps({"name": "get_weather", "arguments": ARGUMENTS})
IN_PARAMETERS = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in ARGUMENTS.items())
IN_FENCE = f"```json\n{json.dumps(ARGUMENTS)}\n```"
CALLS: Mapping[str, str] = {
    "hermes": f"Let me look.\n<tool_call>\n{IN_JSON}\n</tool_call>",
    "qwen3_coder": f"Let me look.\n<tool_call>\n<function=get_weather>\n{IN_PARAMETERS}</function>\n</tool_call>",
    "deepseek_v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
    f"{IN_FENCE}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "pythonic": '[get_weather(city="Bern", days=2)]',
}
"""A call of a tool by vLLM's name of the parser that reads it."""
TEXTS = {"plain": "Hello from the script.", "thought": "<think>\nThe user says hello.\n</think>\n\nHello."}

CACHED = {"type": "ephemeral"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
CHAT: dict[str, Any] = {"model": "tiny", "max_tokens": 200, "temperature": 0}


def said(script: str) -> dict[str, Any]:
    return {**CHAT, "messages": [{"role": "user", "content": f"Say it. SCRIPT:{script}"}]}


CLAUDE: dict[str, Any] = {
    "model": "tiny",
    "max_tokens": 400,
    "system": [{"type": "text", "text": "You are Claude Code.", "cache_control": CACHED}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "SCRIPT:thought", "cache_control": CACHED}]}],
    "tools": [{"name": "get_weather", "input_schema": SCHEMA, "cache_control": CACHED}],
}
THINKS = {"type": "enabled", "budget_tokens": 4096}
HISTORY = [
    {"role": "user", "content": "SCRIPT:plain"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": {"city": "Bern"}}}],
    },
    {"role": "tool", "tool_call_id": "a", "content": "SCRIPT:plain"},
]
REFUSED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "a type of system that is unknown": ("messages", {**CLAUDE, "system": [{**CLAUDE["system"][0], "type": "txt"}]}),
    "a tool that is not named": ("messages", {**CLAUDE, "tool_choice": {"type": "tool"}}),
    "an unknown model over messages": ("messages", {**CLAUDE, "model": "nope"}),
    "an unknown model": ("chat/completions", {**said("plain"), "model": "nope"}),
    "no schema": ("chat/completions", {**said("plain"), "response_format": {"type": "json_schema"}}),
    "a minimum above the limit": ("chat/completions", {**said("plain"), "min_tokens": 999}),
    "a temperature that is no number": ("chat/completions", {**said("plain"), "temperature": "hot"}),
}
"""Requests that are wrong: the client learns why, and nothing else changes."""


class Case:
    """Counts what differs."""

    differing = 0

    def check(self, name: str, found: object, expected: object) -> None:
        is_alike = found == expected
        self.differing += not is_alike
        print(f"{'ok' if is_alike else 'DIFFERS':8}{name}" + ("" if is_alike else f": {found}, expected {expected}"))


Asking = Callable[[str, dict[str, Any]], tuple[int, str]]


def events(text: str) -> list[Any]:
    datas = (line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {"))
    return [json.loads(data) for data in datas]


def call_in(text: str) -> Any:
    """Return the words, the call and the end of a streamed chat."""
    words, name, arguments, end = "", "", "", None
    for choice in (choice for event in events(text) for choice in event.get("choices", ())):
        delta, end = choice["delta"], choice.get("finish_reason") or end
        words += delta.get("content") or ""
        for one in delta.get("tool_calls") or ():
            name += one["function"].get("name") or ""
            arguments += one["function"].get("arguments") or ""
    return words.strip(), name, json.loads(arguments or "null"), end


def blocks_in(text: str) -> Any:
    """Return the kinds of blocks of a streamed message, their texts, and its end."""
    found = events(text)
    kinds = [event["content_block"]["type"] for event in found if event["type"] == "content_block_start"]
    deltas = [event["delta"] for event in found if event["type"] == "content_block_delta"]
    texts = "".join(delta.get("text") or delta.get("thinking") or "" for delta in deltas)
    return kinds, texts, [event["delta"].get("stop_reason") for event in found if event["type"] == "message_delta"]


def words_in(text: str) -> str:
    message: str = json.loads(text)["error"]["message"]
    return " ".join(message.split())


def compare_chats(case: Case, parser: str, own: Asking, relayed: Asking) -> None:
    body = {**said("call"), "tools": TOOLS, "stream": True}
    for name, one in (("a call", body), ("a call with usage", {**body, "stream_options": {"include_usage": True}})):
        (own_status, direct), (status, text) = own("chat/completions", one), relayed("chat/completions", one)
        case.check(f"{parser}: {name}, streamed", (status, call_in(text)), (own_status, call_in(direct)))
        case.check(f"{parser}: {name}, read", call_in(text)[1:3], ("get_weather", ARGUMENTS))


def compare_refusals(case: Case, own: Asking, relayed: Asking, learned: Callable[[], list[str]]) -> None:
    for name, (path, body) in REFUSED.items():
        (own_status, direct), (status, text) = own(path, body), relayed(path, body)
        says = words_in(text).startswith(words_in(direct))
        case.check(f"{name}: status, sentence, rules", (status, says, learned()), (own_status, True, []))
        inner = json.loads(text)["error"]
        case.check(f"{name}: hop and code", (inner.get("hop"), bool(inner.get("code"))), ("upstream:vllm", True))
    status, text = relayed("messages", {**CLAUDE, "thinking": THINKS})
    case.check("a budget above the limit goes for this request alone", (status, learned()), (200, []))
    faultless = {**CLAUDE, "stream": True}
    direct, text = own("messages", faultless)[1], relayed("messages", faultless)[1]
    case.check("thoughts of Claude Code, streamed", blocks_in(text), blocks_in(direct))
    status, text = relayed("chat/completions", {**CHAT, "messages": HISTORY})
    case.check("arguments that are an object", (status, learned()), (200, ["arguments=text"]))


def compare_vectors(case: Case, own: Asking, relayed: Asking, learned: Callable[[], list[str]]) -> None:
    ranked = {"model": "tiny", "query": "hello", "documents": ["the city", "weather"]}
    (_, direct), (status, text) = own("rerank", ranked), relayed("rerank", ranked)
    order = [[one["index"] for one in json.loads(each)["results"]] for each in (text, direct)]
    case.check("a ranking", (status, order[0]), (200, order[1]))
    objects = {**ranked, "documents": [{"text": "the city"}]}
    (own_status, direct), (status, text) = own("rerank", objects), relayed("rerank", objects)
    says = words_in(text).startswith(words_in(direct))
    case.check("documents that are objects", (status, says, learned()), (own_status, True, []))
    long = {**ranked, "documents": ["the city " * 3000, "weather"]}
    (own_status, direct), (status, text) = own("rerank", long), relayed("rerank", long)
    case.check("documents that are too long", (status, words_in(text)), (own_status, words_in(direct)))
    for more in ({}, {"embed_dtype": "float16"}, {"endianness": "big"}, {"encoding_format": "base64"}):
        asked = {"model": "tiny", "input": ["hello"], "encoding_format": "base64", **more}
        (own_status, direct), (status, text) = own("embeddings", asked), relayed("embeddings", asked)
        sizes = [len(base64.b64decode(json.loads(each)["data"][0]["embedding"])) for each in (text, direct)]
        case.check(f"vectors with {more}", (status, sizes[0]), (own_status, sizes[1]))


async def compare(case: Case, url: str, parser: str) -> None:
    async with gateway(upstreams={"vllm": {"base_url": f"{url}/v1"}}) as gp:

        def own(path: str, body: dict[str, Any]) -> tuple[int, str]:
            return ask(f"{url}/v1/{path}", body, **VERSION)

        def relayed(path: str, body: dict[str, Any]) -> tuple[int, str]:
            return ask(f"http://127.0.0.1:{gp.port}/v1/{path}", body, **VERSION)

        def learned() -> list[str]:
            return [one.rule.entry for one in gp.state.learned_rules()]

        if parser in CALLS:
            await asyncio.to_thread(compare_chats, case, parser, own, relayed)
        else:
            await asyncio.to_thread(compare_vectors, case, own, relayed, learned)
        if parser == "hermes":
            await asyncio.to_thread(compare_refusals, case, own, relayed, learned)


def serve(environment: Path, parser: str, scripts: str) -> tuple[Process, str]:
    """Start vLLM and return it with its URL."""
    options = [*SCRIPTED, "--enable-auto-tool-choice", "--tool-call-parser", parser]
    options += ["--reasoning-parser", "qwen3"] if parser == "hermes" else []
    for name, text in {**TEXTS, "call": CALLS.get(parser, "")}.items():
        Path(scripts, f"{name}.txt").write_text(text, encoding="utf-8")
    port = str(free_port())
    command: list[str | Path] = [environment / "bin" / "vllm", "serve", environment / "model", *OPTIONS, "--port", port]
    more = {"SCRIPTS": scripts, "PYTHONPATH": str(HERE), "VLLM_CPU_KVCACHE_SPACE": "1"}
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    command += options if parser in CALLS else VECTORS
    vllm = Process(command, environment=os.environ | more | offline)
    return vllm, f"http://127.0.0.1:{port}"


def main() -> int:
    environment, case = Path(sys.argv[1]).resolve(), Case()
    for parser in sys.argv[2:] or [*CALLS, "vectors"]:
        with tempfile.TemporaryDirectory() as scripts:
            vllm, url = serve(environment, parser, scripts)
            with vllm:
                vllm.wait_for("Application startup complete", READY_S)
                asyncio.run(compare(case, url, parser))
    print(f"{case.differing} cases differ")
    return int(case.differing > 0)


if __name__ == "__main__":
    sys.exit(main())
