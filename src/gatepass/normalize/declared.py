"""Turn the rules that the operator declares for a model into changes, in a fixed order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import lru_cache

from gatepass.config.model import Config
from gatepass.config.routes import ANY, Model, Rules, block_of_operation, ordered_globs
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
NAMES = 1024
"""Limit on cached models, because clients choose the names. operations/request.py limits their length."""

Choice = tuple[Model | None, tuple[Rule, ...]]


class Declared:
    """Find the entry of `models` for a model, and the rules of that entry and of the operation.

    It chooses the entry as proxy/routing.py chooses the route.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._globs = ordered_globs(config.models)
        # Two caches: clients choose the names of models, and all names of one entry share its rules.
        choice_of_entry = lru_cache(maxsize=NAMES)(self._choice_of_entry)
        self._choice = lru_cache(maxsize=NAMES)(
            lambda operation, model: choice_of_entry(operation, self.entry(operation, model))
        )

    def entry(self, operation: str, model: str) -> str | None:
        """Return the name of the entry of `models` that applies to `model`, or None."""
        models, route = self._config.models, block_of_operation(self._config.operations, operation)
        if model in models and model not in self._globs and model != ANY:
            return model
        found = next((glob for glob in self._globs if fnmatchcase(model, glob)), None)
        has_upstream = route is not None and route.upstream is not None
        return found if found is not None or has_upstream or ANY not in models else ANY

    def model(self, operation: str, model: str) -> Model | None:
        """Return the entry for `model` and `operation`, or None if the operation's own upstream serves it."""
        return self._choice(operation, model)[0]

    def rules(self, operation: str, model: str) -> tuple[Rule, ...]:
        """Return the rules of the entry and of the operation.

        They include TextsOnly if the entry declares that the model does not accept token ids.
        """
        return self._choice(operation, model)[1]

    def _choice_of_entry(self, operation: str, name: str | None) -> Choice:
        route = block_of_operation(self._config.operations, operation)
        if name is None:
            return None, ChangeRule.of(NAME, _changes_of_rules(None if route is None else route.rules))
        entry = self._config.models[name].for_operation(operation, route)
        rejects_ids = operation == ClientProtocol.EMBEDDINGS and entry.capabilities.token_ids is False
        return entry, (*((TextsOnly(),) if rejects_ids else ()), *ChangeRule.of(NAME, changes_of(entry)))


def changes_of(model: Model) -> Iterator[Change]:
    """Yield changes of the stream, then of members (rename, drop, default, set, clamp), then of messages."""
    if model.stream == "emulate":
        yield Unstreamed()
    elif model.stream == "aggregate":
        yield Streamed()
    yield from _changes_of_rules(model.rules)


def _changes_of_rules(rules: Rules | None) -> Iterator[Change]:
    if rules is not None:
        yield from _changes_of_members(rules)
        yield from _changes_of_messages(rules)


# The order is documented, because a rule sees the result of those before it (docs/reference/configuration.md).
def _changes_of_members(rules: Rules) -> Iterator[Change]:
    yield from (Rename(JsonMemberPath.parse(old), new) for old, new in rules.rename.items())
    yield from (Drop(JsonMemberPath.parse(name)) for name in rules.drop)
    yield from (Default(JsonMemberPath.parse(name), _json(value)) for name, value in rules.default.items())
    yield from (Set(JsonMemberPath.parse(name), _json(value)) for name, value in rules.set.items())
    yield from (Clamp(JsonMemberPath.parse(name), bounds.min, bounds.max) for name, bounds in rules.clamp.items())
    if rules.schema_in_words:
        yield SchemaInWords()
    if rules.split is not None:
        yield SplitInputs(rules.split)


def _changes_of_messages(rules: Rules) -> Iterator[Change]:
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
