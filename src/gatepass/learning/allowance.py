"""What may be learned: the safe changes always, those that alter what is meant only where the operator says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gatepass.config.routes import LEARN_ALSO
from gatepass.learning.learned_rule import Lesson
from gatepass.types import Surface

SAFE = frozenset(
    (
        *("drop_params", "model_type", "temperature", "top_p", "top_k", "min_p", "do_sample"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "seed"),
        *("user", "store", "metadata", "service_tier", "parallel_tool_calls", "stream_options"),
        *("reasoning_effort", "reasoning", "thinking", "enable_thinking", "thinking_budget"),
        *("chat_template_kwargs", "extra_body", "num_ctx", "keep_alive", "verbosity"),
        *("prompt_cache_key", "prompt_cache_retention", "safety_identifier", "modalities"),
        *("prediction", "cache", "encoding_format"),
    )
)
"""Members of the top level: without them an answer is still one to the same question."""

SAFE_IN_MESSAGES = frozenset(
    f"messages[].{name}"
    for name in (
        *("reasoning_content", "reasoning", "name", "annotations", "refusal", "audio", "function_call"),
        *("provider_specific_fields", "tool_calls[].provider_specific_fields", "tool_calls"),
        *("metadata", "status", "id", "timestamp", "timestamps", "tool_calls[].index"),
    )
)
"""RAGFlow and Open WebUI put members of their own into messages (litellm#30882); RAGFlow sends an answer's
`index` of a tool call back, LiteLLM its own `provider_specific_fields`."""

NEVER = frozenset(("model", "messages", "input", "stream", "role", "content"))
"""No configuration lets a rejection drop one of these."""

RENAMES: Mapping[str, str] = MappingProxyType(
    {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
)

OPT_IN = LEARN_ALSO
"""What `upstreams.NAME.learn_also` may name, beside members that gatepass does not know."""

_BY_WORD: Mapping[str, str] = MappingProxyType(
    {"roles": "merge_roles", "response_format": "response_format", "clamp": "max_tokens"}
)
_PART_OF: Mapping[str, str] = MappingProxyType({"tool_choice": "tools", "thinking": "tool_choice"})


@dataclass(frozen=True, slots=True)
class Allowance:
    """`also` are the names of `learn_also`; `may_stream` is False where the operator has decided about streams;
    `is_configured`: the configuration names the model, so rules of other models do not evict its rules."""

    also: frozenset[str] = frozenset()
    may_stream: bool = True
    is_configured: bool = False

    def allows(self, lesson: Lesson, surface: Surface) -> bool:
        match lesson.rule:
            case "drop":
                return self._may_drop(lesson.field, surface)
            case "rename":
                return RENAMES.get(lesson.field) == lesson.to
            case "set":
                return lesson.field in SAFE or self._names(lesson.field)
            case "role":
                return lesson.to != "user" or "system_into_user" in self.also
            case "stream":
                return self.may_stream
            case rule:
                return rule not in _BY_WORD or _BY_WORD[rule] in self.also

    def _may_drop(self, field: str, surface: Surface) -> bool:
        top, _, inner = field.partition(".")
        if top == "messages[]":
            return field in SAFE_IN_MESSAGES or (inner not in NEVER and field in self.also)
        if top in NEVER or top.endswith("[]"):
            return False
        return top in SAFE or self._names(field) or (field == "dimensions" and surface is Surface.EMBEDDINGS)

    def _names(self, field: str) -> bool:
        """Whether the operator allowed it; what belongs to it goes with it."""
        top = field.partition(".")[0]
        return bool({field, top, _PART_OF.get(top)} & self.also)
