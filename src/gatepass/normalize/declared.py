"""The rules that an operator has declared for a model, as changes in their fixed order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache

from gatepass.config.model import Config
from gatepass.config.routes import Model, Rules, block_of_operation
from gatepass.normalize.embeddings_request import SplitInputs, TextsOnly
from gatepass.normalize.members import Clamp, Default, Drop, JsonMemberPath, Rename, Set, Streamed, Unstreamed
from gatepass.normalize.messages import (
    EmptyContent,
    MergedRoles,
    Replayed,
    Role,
    SchemaInWords,
    SystemIntoUser,
    TextContent,
    ToolIds,
)
from gatepass.normalize.rule import Change, ChangeRule, Rule
from gatepass.types import ClientProtocol

NAME = "rules"
ANY = "*"
_GLOB_SIGNS = "*?["
NAMES = 1024
"""Of models whose entry is remembered: clients choose them (and operations/request.py how long they may be)."""

Choice = tuple[Model | None, tuple[Rule, ...]]


class Declared:
    """The entry of `models` that serves each model, as it counts for the operation, and its rules, or the rules of the
    operation alone; chosen as the route is (proxy/routing.py)."""

    def __init__(self, config: Config) -> None:
        self._config = config
        globs = [name for name in config.models if name != ANY and any(sign in name for sign in _GLOB_SIGNS)]
        self._globs = sorted(globs, key=lambda name: (-len(name), name))
        self._made = lru_cache(maxsize=NAMES)(self._choice_of)
        self._chosen = lru_cache(maxsize=NAMES)(self._choice)

    def entry(self, operation: str, model: str) -> str | None:
        """The name of the entry of `models` that serves `model`; None where none does."""
        models, route = self._config.models, block_of_operation(self._config.operations, operation)
        if model in models and model not in self._globs and model != ANY:
            return model
        found = next((glob for glob in self._globs if fnmatchcase(model, glob)), None)
        leads = route is not None and route.upstream is not None
        return found if found is not None or leads or ANY not in models else ANY

    def model(self, operation: str, model: str) -> Model | None:
        """The entry that serves `model` as it counts for `operation`, None where an operation's own upstream does."""
        return self._chosen(operation, model)[0]

    def rules(self, operation: str, model: str) -> tuple[Rule, ...]:
        """The Rules of that entry and of the operation; none where they change nothing. Embeddings of token ids are
        refused where the entry says that the model takes none."""
        return self._chosen(operation, model)[1]

    def _choice(self, operation: str, model: str) -> Choice:
        return self._made(operation, self.entry(operation, model))

    def _choice_of(self, operation: str, name: str | None) -> Choice:
        route = block_of_operation(self._config.operations, operation)
        if name is None:
            return None, _revision(_of_rules(None if route is None else route.rules))
        entry = self._config.models[name].for_operation(operation, route)
        refuses_ids = operation == ClientProtocol.EMBEDDINGS and entry.capabilities.token_ids is False
        return entry, (*((TextsOnly(),) if refuses_ids else ()), *_revision(changes_of(entry)))


def _revision(changes: Iterable[Change]) -> tuple[Rule, ...]:
    found = tuple(changes)
    return (ChangeRule(NAME, found),) if found else ()


def changes_of(model: Model) -> Iterator[Change]:
    """The stream first, then members (rename, drop, default, set, clamp), then what messages hold."""
    if model.stream == "emulate":
        yield Unstreamed()
    elif model.stream == "aggregate":
        yield Streamed()
    yield from _of_rules(model.rules)


def _of_rules(rules: Rules | None) -> Iterator[Change]:
    if rules is not None:
        yield from _of_members(rules)
        yield from _of_messages(rules)


def _of_members(rules: Rules) -> Iterator[Change]:
    yield from (Rename(JsonMemberPath.parse(old), new) for old, new in rules.rename.items())
    yield from (Drop(JsonMemberPath.parse(name)) for name in rules.drop)
    yield from (Default(JsonMemberPath.parse(name), _json(value)) for name, value in rules.default.items())
    yield from (Set(JsonMemberPath.parse(name), _json(value)) for name, value in rules.set.items())
    yield from (Clamp(JsonMemberPath.parse(name), bounds.min, bounds.max) for name, bounds in rules.clamp.items())
    if rules.schema_in_words:
        yield SchemaInWords()
    if rules.split is not None:
        yield SplitInputs(rules.split)


def _of_messages(rules: Rules) -> Iterator[Change]:
    for old, new in rules.roles.items():
        yield SystemIntoUser() if new == "user" else Role(old, new)
    if rules.replayed != "keep":
        yield Replayed(keeps_reasoning=rules.replayed == "drop_but_reasoning")
    if rules.text_content:
        yield TextContent()
    if rules.empty_content:
        yield EmptyContent()
    if rules.merge_roles:
        yield MergedRoles()
    if rules.short_tool_ids:
        yield ToolIds()


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
