"""A client's profile, as far as its requests are concerned; and model names that tell RAGFlow what a model is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

import msgspec

from gatepass.config.access import Dialect, Profile, resolved
from gatepass.config.routes import ModelKind
from gatepass.normalize.json_editor import JsonEditor, JsonObjectEditor
from gatepass.normalize.members import Drop, JsonMemberPath
from gatepass.normalize.rule import Change, ChangeRule

MARK = "___"

_HINTS: tuple[tuple[ModelKind, tuple[str, ...]], ...] = (
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


def guessed(model: str) -> ModelKind:
    """What RAGFlow takes `model` for; `vision` is a chat model that also sees."""
    lower = model.lower()
    return next((kind for kind, hints in _HINTS if any(hint in lower for hint in hints)), "chat")


def typed(model: str, kind: ModelKind) -> str:
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

    def apply_to(self, editor: JsonEditor) -> bool:
        model = editor.top.string("model")
        if model is None or untyped(model) == model:
            return False
        return editor.top.set("model", msgspec.json.encode(untyped(model)))


NAME = "profile"
KNOWN = frozenset(("type", "function"))
NULL = frozenset((b"null",))


@dataclass(frozen=True, slots=True)
class PlainTools:
    """Entries of `tools` that hold a `function` keep that and their `type`. Entry `tools=plain`.

    Entries of another form stay: those of the Responses API have their name and parameters beside the type.
    """

    entry: str = "tools=plain"

    def apply_to(self, editor: JsonEditor) -> bool:
        tools = editor.top.array("tools")
        found = [] if tools is None else [tool for tool in tools.objects() if tool.kind("function") == "{"]
        return sum(_stripped(tool) for tool in found) > 0


@dataclass(frozen=True, slots=True)
class ProfileRules:
    """A profile ready for requests: the Rules that it makes for each dialect, made once."""

    name: str
    settings: Profile
    rules: Mapping[Dialect, tuple[ChangeRule, ...]]


def build_profiles(own: Mapping[str, Profile]) -> Mapping[str, ProfileRules]:
    """All profiles by name, the built-in ones and an operator's `own`."""
    return MappingProxyType(
        {
            name: ProfileRules(name, profile, {dialect: rules_of(profile, dialect) for dialect in get_args(Dialect)})
            for name, profile in resolved(own).items()
        }
    )


def rules_of(profile: Profile, dialect: Dialect) -> tuple[ChangeRule, ...]:
    """The Rules for a client of `profile` on the way to an upstream of `dialect`; none where nothing is to be done."""
    changes = tuple(changes_of(profile, dialect))
    return (ChangeRule(NAME, changes),) if changes else ()


def changes_of(profile: Profile, dialect: Dialect) -> Iterator[Change]:
    """Names first, then members, then what tools hold."""
    if profile.typed_ids:
        yield UntypedModel()
    yield from (Drop(JsonMemberPath.parse(path)) for path in (*profile.drop, *profile.drop_for.get(dialect, ())))
    yield from (Drop(JsonMemberPath.parse(path), NULL) for path in profile.drop_null)
    if profile.plain_tools:
        yield PlainTools()


def _stripped(tool: JsonObjectEditor) -> bool:
    return tool.keep(KNOWN)
