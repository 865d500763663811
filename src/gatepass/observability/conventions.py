"""Names of OpenTelemetry's semantic conventions, and gatepass's own.

`gen_ai.*` and `mcp.*` are those of open-telemetry/semantic-conventions-genai, docs/gen-ai/client-inference.md at
024a4f944a1291fcb627c9c47da69e79868dd15e, the others those of open-telemetry/semantic-conventions at
384d66161cb18704c729645fa8136a148df9571c. All of `gen_ai.*` is in development there: a new name changes this file alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

METHOD, STATUS, ROUTE, RESENDS = (
    *("http.request.method", "http.response.status_code", "http.route", "http.request.resend_count"),
)
PATH, SCHEME, URL, USER_AGENT = "url.path", "url.scheme", "url.full", "user_agent.original"
ADDRESS, PORT, ERROR = "server.address", "server.port", "error.type"
OPERATION, PROVIDER, MODEL = "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"
STREAM, FIRST_CHUNK = "gen_ai.request.stream", "gen_ai.response.time_to_first_chunk"
RESPONSE: Mapping[str, str] = MappingProxyType(
    {
        **{name: f"gen_ai.response.{name}" for name in ("id", "model")},
        **dict.fromkeys(("finish_reason", "stop_reason"), "gen_ai.response.finish_reasons"),
    }
)
"""By the member of a reply. A chat, and a message of the Messages API, have other names for the last one."""
FINISH_REASONS = RESPONSE["finish_reason"]
TOOL, MCP_METHOD = "gen_ai.tool.name", "mcp.method.name"
USAGE: Mapping[str, str] = MappingProxyType(
    {
        "gen_ai.usage.input_tokens": "prompt_tokens",
        "gen_ai.usage.output_tokens": "completion_tokens",
        "gen_ai.usage.cache_read.input_tokens": "cached_tokens",
        "gen_ai.usage.reasoning.output_tokens": "reasoning_tokens",
    }
)
"""The counts of `sse.usage.Usage`."""
OPERATIONS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("chat", "responses", "messages"), "chat"),
        "completions": "text_completion",
        "embeddings": "embeddings",
        "rerank": "rerank",
    }
)
"""`gen_ai.operation.name` of gatepass's operations. The convention has no name for rerank."""
PROVIDERS: Mapping[str, str] = MappingProxyType({"azure": "azure.ai.openai"})
"""`gen_ai.provider.name` of dialects with another name there."""

ID, CALLER, OPERATION_OF = "gatepass.request.id", "gatepass.caller", "gatepass.operation"
OUTCOME, CODE, HOP = "gatepass.outcome", "gatepass.code", "gatepass.hop"
UPSTREAM, CREDENTIAL, ADAPTED = "gatepass.upstream", "gatepass.credential", "gatepass.adapted"
FAILOVER, FIRST_TOKEN = "gatepass.failover", "gatepass.first_token"
FETCH_FAILED = "token_unavailable"
OTHER_TARGET = "next_target"
REPEATS: Mapping[str, str] = MappingProxyType(
    {"new_token": "gatepass.token_renewed", "learned_rule": "gatepass.rule_learned"}
)
"""The events of attempts that repeat one at the same target, by their cause."""
