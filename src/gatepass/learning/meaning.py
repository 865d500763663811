"""Tell which members of a request carry its meaning, and which may be left out if an upstream refuses them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

NEVER = frozenset(("model", "messages", "input", "stream", "role", "content", "prompt", "query", "documents"))
"""A request without one of these has lost its meaning: no error advises to drop it."""
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_MEANING = NEVER | frozenset(
    (
        *("system", "instructions", "tools", "tool_choice", "functions", "function_call", "response_format", "text"),
        *("images", "image", "file", "files", "audio", "previous_response_id", "conversation", "texts", "top_n"),
        *LIMITS,
        *("stop", "stop_sequences", "n", "best_of", "logprobs", "top_logprobs", "suffix", "echo", "dimensions"),
        *("output_config", "voice", "language", "size", "container", "background", "extra_body"),
    )
)
_KINDS: Mapping[str, tuple[str, ...]] = {
    "0": (
        *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
        *("seed", "max_tool_calls", "thinking_budget", "num_ctx", *LIMITS, "n", "dimensions"),
    ),
    "t": ("do_sample", "store", "parallel_tool_calls", "include_reasoning", "enable_thinking", "stream"),
    '"': (
        *("model_type", "user", "service_tier", "reasoning_effort", "reasoning_format", "reasoning_summary"),
        *("thinking_level", "verbosity", "prompt_cache_key", "prompt_cache_retention", "encoding_format"),
        *("safety_identifier", "session_id", "request_id", "trace_id", "text.verbosity", "output_config.effort"),
    ),
    "{": ("logit_bias", "metadata", "stream_options", "thinking", "thinking_config", "chat_template_kwargs"),
    "[": ("modalities", "include", "samplers"),
    "": (
        *("reasoning", "think", "keep_alive", "truncation", "context_management", "cache", "caching", "tags"),
        *("prompt_cache_options", "usage", "timeout", "priority", "prediction", "client_metadata"),
    ),
}
"""The first character of the JSON that each member has: 0 stands for a number, t for a truth value, "" for any."""
_KIND = {name: kind for kind, names in _KINDS.items() for name in names}
SAFE = frozenset(_KIND) - _MEANING
"""Known top-level members that may be dropped: they say how to answer, bill, cache or report, never what or for whom.
Of them a value that an error names may be set."""
PERSONAL = frozenset(("user", "safety_identifier", "session_id", "metadata"))
"""Members whose value may name a person, so that it is never shown."""
SETTABLE = SAFE - {
    *(*PERSONAL, "request_id", "trace_id", "prompt_cache_key", "client_metadata", "tags", "service_tier", "cache"),
}
"""Members that may get a value that an error names. The others say who asks, what is kept, or what it costs."""
SAFE_IN_MESSAGES = frozenset(
    f"messages[].{name}"
    for name in (
        *("reasoning_content", "reasoning", "reasoning_details", "thinking_blocks", "name", "annotations", "refusal"),
        *("audio", "function_call", "tool_calls", "tool_calls[].index"),
        *("provider_specific_fields", "tool_calls[].provider_specific_fields"),
        *("metadata", "status", "id", "timestamp", "timestamps", "content[].image_url.detail"),
    )
) | {
    f"input[].{name}"
    for name in ("id", "status", "phase", "content[].annotations", "content[].logprobs", "content[].detail")
}
"""Members of messages, and of the input of a response, that may be dropped. RAGFlow and Open WebUI add members to
messages (litellm#30882). Of a picture the `detail` is a wish."""
SAFE_IN_TOOLS = frozenset(("tools[].strict", "tools[].function.strict", "tools[].eager_input_streaming"))
"""Members of tools that may be dropped. Agents send one in each tool. An upstream that does not know it enforces no
schema with it."""
_MEANT = (
    r"tool|function|guard|moderat|safe|filter|priva|pii|redact|anonym|mask|secur|retention|train|data|search|plugin"
    r"|knowledge|retriev|file|image|audio|video|document|citation|schema|format|json|mcp|logprob|raw|price|cost"
    r"|final_message|generation_prompt|predict|max\w*tokens|allow|block|den[iy]|ban|confiden|compliance"
    r"|dim|normali[sz]e|binary|dry_?run|provider|zdr|store|log(?!it)|persist|opt_?out|incognito|hipaa|_id\Z|_only\Z"
    r"|version|width|height|duration|threshold|score|max_?(?:len|res)|count|reference|sandbox"
    r"|budget|adapter|lora|checkpoint|continue"
)
"""Parts of unknown names that say what a request is about, or what protects it."""
FLAG = r"-?\d[\d.]*\Z|true\Z|false\Z|null\Z"
"""Values of unknown members that may be dropped. A text or an object may say anything."""
EMPTY = frozenset(("null", '""', "[]"))
"""Values that mean absent."""
_FORM = frozenset(("text", "type", "id", "arguments", "url", "data", "thinking", "input_schema", "required", "output"))
"""A part of a message without one of these is none."""
NO_LIMIT = frozenset(("-1", "0"))
"""Values of a limit that mean absent: -1 for Ollama and vLLM, and 0 of a chat, whose answer would be empty."""

ONLY: Mapping[str, frozenset[str]] = {
    "modalities": frozenset(('["text"]',)),
    "tool_choice": frozenset(('"auto"',)),
    "response_format": frozenset(('{"type":"text"}',)),
    "n": frozenset(("1",)),
    "messages[].audio": frozenset(("null",)),
    "messages[].function_call": frozenset(("null",)),
    "messages[].tool_calls": frozenset(("null", "[]")),
}
"""Members to drop only if they have one of these values, which mean nothing. The client needs any other value."""

KEYWORDS = frozenset(
    (
        *("$schema", "$id", "$comment", "$anchor", "title", "default", "examples", "example", "deprecated", "readOnly"),
        *("writeOnly", "nullable", "strict", "additionalProperties", "unevaluatedProperties", "propertyNames"),
        *("format", "patternProperties", "minProperties", "maxProperties", "pattern", "minLength", "maxLength"),
        *("minItems", "maxItems", "uniqueItems", "minContains", "maxContains", "minimum", "maximum", "multipleOf"),
        *("exclusiveMinimum", "exclusiveMaximum", "contentEncoding", "contentMediaType"),
    )
)
"""Keywords of JSON Schema without which a schema accepts no less. The server of a tool checks its arguments itself."""

COMMON = (*LIMITS[1:], "temperature", "reasoning", "thinking", "top_p")
"""Of two members that an error names together the later one here is tried first, and before them all others."""
DROPPED_WHOLE = frozenset(("metadata", "logit_bias", "stream_options"))
"""Objects dropped whole: clients choose the names in the first two, so their number has no limit."""


def squashed(name: str) -> str:
    """Return a name without the signs that its spellings differ in: `max_tokens`, `maxTokens`, `max tokens`."""
    return re.sub(r"[\s_-]", "", name).lower()


_SAFE_NAMES, _MEANING_NAMES = (frozenset(map(squashed, names)) for names in (SAFE, _MEANING))


def carries_meaning(path: str, value: str = "") -> bool:
    """Whether the answer to a request without the member at `path` with `value` (JSON) may answer another question."""
    if path in SAFE or path in SAFE_IN_MESSAGES or path in SAFE_IN_TOOLS or "cache_control" in path.split("."):
        return False
    top = squashed(re.split(r"[.\[]", path, maxsplit=1)[0])
    if top in _SAFE_NAMES or top in _MEANING_NAMES:
        return top in _MEANING_NAMES
    return re.match(FLAG, value) is None or re.search(_MEANT, path.lower()) is not None


def means_absent(path: str, value: str) -> bool:
    """Whether a request with `value` (JSON) at `path` means the same as one without the member."""
    is_unlimited = path in LIMITS and value in NO_LIMIT
    return path.rpartition(".")[2] not in NEVER | _FORM and (value in EMPTY or is_unlimited)


def has_other_kind(path: str, values: Collection[str]) -> bool:
    """Whether one of `values` has another JSON kind than the member at `path`: the client's mistake."""
    kind = _KIND.get(path, "")
    return kind != "" and not set(map(value_kind, values)).issubset((kind, "n"))


def value_kind(value: str) -> str:
    """Return the first character of a JSON `value`, 0 for a number and t for a truth value."""
    first = value[:1]
    return "0" if first in "-0123456789" else "t" if first == "f" else first
