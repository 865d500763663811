"""Build the request rules of client profiles, and the model names from which RAGFlow guesses a model's kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

import msgspec

from gatepass.config.access import BUILT_IN_PROFILES, Profile
from gatepass.config.routes import ModelKind, guessed
from gatepass.config.upstream import DialectName
from gatepass.draft import Change, Draft, fixed_change
from gatepass.normalize.images import images_of_texts
from gatepass.normalize.members import Drop, JsonMemberPath
from gatepass.normalize.rules import ChangeRule

MARK, OWNER = "___", "gatepass"
"""Before a suffix; the owner of all models in a list for RAGFlow."""

_SUFFIXES = {"vision": "vision", "embedding": "embedding", "rerank": "rerank", "asr": "whisper", "tts": "tts"}


def typed(model: str, kind: ModelKind) -> str:
    """Return the name to list for RAGFlow: with a suffix if RAGFlow guesses another kind and the suffix corrects it."""
    if guessed(model) == kind or kind not in _SUFFIXES:
        return model
    candidate = f"{model}{MARK}{_SUFFIXES[kind]}"  # another part of the name may still decide
    return candidate if guessed(candidate) == kind else model


def untyped(model: str) -> str:
    """Return `model` without the suffix that `typed` adds, and without `@OWNER`, which RAGFlow 0.26 in Go adds."""
    model = model.removesuffix(f"@{OWNER}")
    plain, mark, suffix = model.rpartition(MARK)
    return plain if mark and plain and suffix in _SUFFIXES.values() else model


@fixed_change("model=untyped")
def untype_model(draft: Draft) -> bool:
    """Remove the suffix from the model's name, for a client that does not remove it. Entry `model=untyped`."""
    model = draft.top.string("model")
    if model is None or untyped(model) == model:
        return False
    return draft.top.set("model", msgspec.json.encode(untyped(model)))


NAME = "profile"
KNOWN = frozenset(("type", "function"))
NULL = frozenset(("null",))


@fixed_change("tools=plain")
def keep_plain_tools(draft: Draft) -> bool:
    """Keep only `type` and `function` in entries of `tools` that have a `function`. Entry `tools=plain`."""
    tools = draft.top.array("tools")
    found = [] if tools is None else [tool for tool in tools.objects() if tool.kind("function") == "{"]
    others = [(tool, name) for tool in found for name in tool.names if name not in KNOWN]
    return sum(tool.drop(name) for tool, name in others) > 0  # `any` would stop after the first one


@dataclass(frozen=True, slots=True)
class ProfileRules:
    """A profile with its rules for each dialect."""

    name: str
    settings: Profile
    rules: Mapping[DialectName, tuple[ChangeRule, ...]]

    @property
    def is_of_ragflow(self) -> bool:
        return self.name == "ragflow"


def changes_of(profile: Profile, dialect: DialectName) -> Iterator[Change]:
    """Yield changes of the model's name, then of members, then of tools."""
    if profile.typed_ids:
        yield untype_model
    yield from (Drop(JsonMemberPath.parse(path)) for path in (*profile.drop, *profile.drop_for.get(dialect, ())))
    yield from (Drop(JsonMemberPath.parse(path), NULL) for path in profile.drop_null)
    if profile.plain_tools:
        yield keep_plain_tools
    if profile.images_in_texts:
        yield images_of_texts


PROFILES: Mapping[str, ProfileRules] = {
    name: ProfileRules(
        name,
        profile,
        {dialect: ChangeRule.of(NAME, changes_of(profile, dialect)) for dialect in get_args(DialectName)},
    )
    for name, profile in BUILT_IN_PROFILES.items()
}
