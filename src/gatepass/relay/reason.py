"""Why a choice ended, in the words that OpenAI's types know."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

TEXT_REASONS = frozenset({"stop", "length", "content_filter"})
CHAT_REASONS = TEXT_REASONS | {"tool_calls", "function_call"}
NATIVE = "native_finish_reason"
"""Where the upstream's own word stays; OpenRouter calls it so."""

_CUT = ("max_tokens", "model_length", "insufficient_system_resource", "abort", "error", "network_error", "cancelled")
_FILTERED = ("safety", "recitation", "sensitive", "blocklist", "prohibited_content", "refusal")
_MEANT: Mapping[str, str] = MappingProxyType(
    {**dict.fromkeys(_CUT, "length"), **dict.fromkeys(_FILTERED, "content_filter"), "tool_use": "tool_calls"}
)
"""The words of Anthropic, Gemini, Mistral, DeepSeek, Zhipu, vLLM and SGLang. What broke off by itself is cut short, for
`stop` would call it whole; every other word (`eos`, `eos_token`, `end_turn`, `stop_sequence`) is a stop."""


def chat_reason(said: Any, *, has_tools: bool, has_function: bool) -> str:
    """What a chat's choice ends with that says `said`, and calls tools or the one function of old."""
    reason = _meant(said, CHAT_REASONS)
    if has_tools and reason == "stop":
        return "tool_calls"
    return "function_call" if has_function and not said else reason


def text_reason(said: Any) -> str:
    """What a choice of `/v1/completions` ends with that says `said`."""
    return _meant(said, TEXT_REASONS)


def _meant(said: Any, known: frozenset[str]) -> str:
    if not isinstance(said, str) or said in known:
        return said if isinstance(said, str) else "stop"
    meant = _MEANT.get(said.lower(), said.lower())
    return meant if meant in known else "stop"
