"""Why a choice ended, in the words that OpenAI's types know."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

TEXT_REASONS = frozenset({"stop", "length", "content_filter"})
CHAT_REASONS = TEXT_REASONS | {"tool_calls", "function_call"}
NATIVE = "native_finish_reason"
"""Where the upstream's own word stays; OpenRouter calls it so."""

_WHOLE = ("eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "complete", "completed", "finished")
_CUT = (
    *("max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded", "pause_turn"),
    *("insufficient_system_resource", "abort", "error", "network_error", "cancelled", "malformed_function_call"),
)
_FILTERED = (
    *("safety", "recitation", "sensitive", "blocklist", "prohibited_content", "spii", "refusal"),
    *("content_filtered", "guardrail_intervened"),
)
_MEANT: Mapping[str, str] = MappingProxyType(
    {
        **{reason: reason for reason in CHAT_REASONS},
        **dict.fromkeys(_WHOLE, "stop"),
        **dict.fromkeys(_CUT, "length"),
        **dict.fromkeys(_FILTERED, "content_filter"),
        "tool_use": "tool_calls",
    }
)
"""The words of Anthropic, Bedrock, Cohere, Gemini, Mistral, DeepSeek, Zhipu, vLLM and SGLang. What broke off by itself
is cut short: `stop` would call it whole. So would it many a word that is not known here, which stays as it is."""


def chat_reason(said: Any, *, has_tools: bool, has_function: bool) -> str:
    """What a chat's choice ends with that says `said`, and calls tools or the one function of old."""
    if not (said and isinstance(said, str)):
        return "tool_calls" if has_tools else "function_call" if has_function else "stop"
    reason = _MEANT.get(said.lower(), said)
    return "tool_calls" if has_tools and reason == "stop" else reason


def text_reason(said: Any) -> str:
    """What a choice of `/v1/completions` ends with that says `said`. A text calls nothing."""
    reason = chat_reason(said, has_tools=False, has_function=False)
    return "stop" if reason in CHAT_REASONS and reason not in TEXT_REASONS else reason


def native_of(said: Any, *, is_text: bool) -> str | None:
    """The word `said` that no type of OpenAI's knows, where another one stands in its place."""
    known = TEXT_REASONS if is_text else CHAT_REASONS
    return said if said and isinstance(said, str) and said not in known else None
