"""The rules that an operator has declared for a model, as changes in their fixed order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from types import MappingProxyType

from gatepass.adapt.changes.change import Change, Revision
from gatepass.adapt.changes.content import EmptyContent, TextContent
from gatepass.adapt.changes.members import Clamp, Default, Drop, Rename, Set
from gatepass.adapt.changes.replayed import Replayed
from gatepass.adapt.changes.response_format import SchemaInWords
from gatepass.adapt.changes.roles import MergedRoles, Role, SystemIntoUser
from gatepass.adapt.changes.streams import Streamed, Unstreamed
from gatepass.adapt.changes.tool_ids import ToolIds
from gatepass.adapt.changes.vectors import SplitInputs, TextsOnly
from gatepass.adapt.place import Place
from gatepass.adapt.rule import Rule
from gatepass.call import Surface
from gatepass.config.model import Config
from gatepass.config.models import Model, OperationRoute
from gatepass.config.rules import Rules

NAME = "rules"
ANY = "*"
_GLOB_SIGNS = "*?["
NAMES = 1024
"""Of models whose entry is remembered: clients choose them (and surface/decode.py how long they may be)."""

Choice = tuple[Model | None, tuple[Rule, ...]]


class Declared:
    """The entry of `models` that serves each model, and its rules, or the rules of the operation's own upstream;
    chosen as the route is (routing/table.py)."""

    def __init__(self, models: Mapping[str, Model], operations: Mapping[str, OperationRoute]) -> None:
        self._models = models
        self._operations = operations
        globs = [name for name in models if name != ANY and any(sign in name for sign in _GLOB_SIGNS)]
        self._globs = sorted(globs, key=lambda name: (-len(name), name))
        made = {name: Revision(NAME, tuple(changes_of(model))) for name, model in models.items()}
        self._revisions = MappingProxyType({name: revision for name, revision in made.items() if revision.changes})
        own = {name: Revision(NAME, tuple(_of_rules(route.rules))) for name, route in operations.items()}
        self._own = MappingProxyType({name: (revision,) for name, revision in own.items() if revision.changes})
        self._chosen = lru_cache(maxsize=NAMES)(self._choice)

    @classmethod
    def from_config(cls, config: Config) -> Declared:
        return cls(config.models, {str(name): route for name, route in config.operations.items()})

    def model(self, operation: str, model: str) -> Model | None:
        """The entry that serves `model`, None where an operation's own upstream does."""
        return self._chosen(operation, model)[0]

    def rules(self, operation: str, model: str) -> tuple[Rule, ...]:
        """The Rules of that entry; none where it changes nothing. Embeddings of token ids are refused where it says
        that the model takes none."""
        return self._chosen(operation, model)[1]

    def _choice(self, operation: str, model: str) -> Choice:
        name = self._entry(operation, model)
        if name is None:
            return None, self._own.get(operation, ())
        entry, revision = self._models[name], self._revisions.get(name)
        refuses_ids = entry.capabilities.token_ids is False
        texts: tuple[Rule, ...] = (TextsOnly(),) if operation == Surface.EMBEDDINGS and refuses_ids else ()
        return entry, texts if revision is None else (*texts, revision)

    def _entry(self, operation: str, model: str) -> str | None:
        if model in self._models and model not in self._globs and model != ANY:
            return model
        found = next((glob for glob in self._globs if fnmatchcase(model, glob)), None)
        if found is not None or operation in self._operations or ANY not in self._models:
            return found
        return ANY


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
    yield from (Rename(Place.parse(old), new) for old, new in rules.rename.items())
    yield from (Drop(Place.parse(name)) for name in rules.drop)
    yield from (Default(Place.parse(name), _json(value)) for name, value in rules.default.items())
    yield from (Set(Place.parse(name), _json(value)) for name, value in rules.set.items())
    yield from (Clamp(Place.parse(name), bounds.min, bounds.max) for name, bounds in rules.clamp.items())
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
