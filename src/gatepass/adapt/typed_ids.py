"""Model names that tell RAGFlow what a model is.

RAGFlow reads a model's type off its id (v0.27: rag/llm/model_meta.py), and cuts a `___suffix` off the name before it
sends it. So a name that tells nothing is listed with such a suffix, and understood with or without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from gatepass.adapt.draft import Draft
from gatepass.config.rules import Kind

MARK = "___"

_HINTS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("rerank", ("rerank",)),
    ("embedding", ("embed", "bge")),
    ("asr", ("asr", "stt", "transcribe", "whisper")),
    ("tts", ("tts", "text-to-speech")),
    ("vision", ("vl", "vision", "llava", "internvl", "minicpm-v", "gpt-4o", "glm-4v", "qvq", "pixtral")),
)
"""What RAGFlow looks for, in its order; chat is what has none of it. Its list for vision is longer."""
_SUFFIXES = MappingProxyType(
    {"vision": "vision", "embedding": "embedding", "rerank": "rerank", "asr": "whisper", "tts": "tts"}
)


def guessed(model: str) -> Kind:
    """What RAGFlow takes `model` for; `vision` is a chat model that also sees."""
    lower = model.lower()
    return next((kind for kind, hints in _HINTS if any(hint in lower for hint in hints)), "chat")


def typed(model: str, kind: Kind) -> str:
    """`model` as it is to be listed for RAGFlow; itself where it is taken for what it is, or no suffix helps."""
    if guessed(model) == kind or kind not in _SUFFIXES:
        return model
    candidate = f"{model}{MARK}{_SUFFIXES[kind]}"
    return candidate if guessed(candidate) == kind else model


def untyped(model: str) -> str:
    """`model` without a suffix that `typed` gives."""
    plain, mark, suffix = model.rpartition(MARK)
    return plain if mark and plain and suffix in _SUFFIXES.values() else model


@dataclass(frozen=True, slots=True)
class UntypedModel:
    """The name without its suffix, for a client that does not cut it off itself. Entry `model=untyped`."""

    entry: str = "model=untyped"

    def revise(self, draft: Draft) -> bool:
        model = draft.top.string("model")
        if model is None or untyped(model) == model:
            return False
        return draft.top.set("model", msgspec.json.encode(untyped(model)))
