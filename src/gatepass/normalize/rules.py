"""The rules that change a request: what a rule is, the built-in ones, those an operator declares, and `normalize`.

A rule is a named change of a call, and a `Change` edits its body. `normalize` applies rules to a call in order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import chain
from typing import Self

from msgspec.structs import replace

from gatepass.config.model import Config
from gatepass.config.routes import ANY, Model, Rules, block_of_operation, ordered_globs, renamed_clamps
from gatepass.draft import Change, Draft, Rule
from gatepass.errors import CallerError
from gatepass.normalize import members, messages
from gatepass.normalize.betas import betas_of
from gatepass.normalize.embeddings_request import SplitInputs, TextsOnly, request_numbers
from gatepass.normalize.images import Images, has_images
from gatepass.normalize.members import Clamp, Drop, JsonMemberPath, OutputBound
from gatepass.types import Call, Target


@dataclass(frozen=True, slots=True)
class ChangeRule:
    """A rule of several changes, in order."""

    name: str
    changes: tuple[Change, ...]

    @classmethod
    def of(cls, name: str, changes: Iterable[Change]) -> tuple[Self, ...]:
        """Return the rule, or an empty tuple without changes."""
        found = tuple(changes)
        return (cls(name, found),) if found else ()

    def concerns(self, call: Call, target: Target) -> bool:
        del target
        return bool(call.body)

    def apply(self, draft: Draft, target: Target) -> None:
        del target
        draft.make(self.changes)


@dataclass(frozen=True, slots=True)
class Where:
    """Make `change` only where the request has the top-level member `member`, or without the betas of `!BETA+BETA`."""

    change: Change
    member: str

    @property
    def entry(self) -> str:
        return self.change.entry

    def apply_to(self, draft: Draft) -> bool:
        if self.member.startswith("!"):
            is_meant = set(self.member[1:].split("+")).isdisjoint(betas_of(draft.headers))
        else:
            is_meant = draft.top.small_text(self.member) not in _ABSENT and self.member in draft.top
        return is_meant and self.change.apply_to(draft)


_ABSENT = (b"null", b"false", b"[]", b'""')


def effective(changes: Iterable[Change], call: Call) -> list[Change]:
    """Return those of `changes` that would change `call` one after the other, without writing the new body."""
    try:
        return Draft(call).make(changes) if call.body else []
    except CallerError:
        return []  # the body has more values than gatepass opens (`json_body`)


def apply_changes(call: Call, changes: Iterable[Change]) -> tuple[Call, list[Change]]:
    """Return `call` after `changes`, and the changes that applied.

    It is the same object if none applied.
    """
    if not call.body:
        return call, []
    draft = Draft(call)
    made = draft.make(changes)
    return (draft.finished() if made else call), made


def normalize(call: Call, target: Target, rules: Iterable[Rule]) -> Call:
    """Return `call` as `target` requires it, or the same object if no rule applies; raise CallerError."""
    top = call.top
    if rules is BUILT_IN_RULES and top is not None and _WORDS.isdisjoint(top.values) and not has_images(call):
        if target.model is None or target.model == call.model:  # nearly always: only the name of the model may change
            return call
        if call.model and call.operation.names_model:
            top = top.with_model(target.model)
            return replace(call, body=top.text, top=top)
    found = [rule for rule in rules if rule.concerns(call, target)]
    return apply_rules(call, target, found) if found else call


def apply_rules(call: Call, target: Target, rules: Sequence[Rule]) -> Call:
    """Return `call` after each of `rules`, which concern it; raise CallerError. The body is written once."""
    if not rules:
        return call
    draft = Draft(call)
    for rule in rules:
        rule.apply(draft, target)
    return draft.finished()


STRAY_PARAMS = ("drop_params", "model_type")
"""Members that RAGFlow sends by mistake (infiniflow/ragflow#18584, #15427). Azure rejects them."""


@dataclass(frozen=True, slots=True)
class TopLevelRule:
    """Make `changes` in a call whose body has one of `words` at its top level, if its operation has the `member`.

    `is_for_streams`: also if the call requests a stream.
    """

    name: str
    words: tuple[str, ...]
    member: str
    changes: tuple[Change, ...]
    is_for_streams: bool = True

    def concerns(self, call: Call, target: Target) -> bool:
        del target
        if self.member not in call.operation.members or (call.stream and not self.is_for_streams) or not call.body:
            return False
        names = call.opened().names
        return any(word in names for word in self.words)

    def apply(self, draft: Draft, target: Target) -> None:
        del target
        if self.member in draft.call.operation.members:
            draft.make(self.changes)


STRAYS = TopLevelRule(
    "strays",
    STRAY_PARAMS,
    STRAY_PARAMS[0],
    tuple(Drop(JsonMemberPath.parse(name)) for name in STRAY_PARAMS),
)
STREAM_OPTIONS = TopLevelRule(
    "stream_options",
    ("stream_options",),
    "stream_options",
    (members.drop_orphaned_options,),
    is_for_streams=False,
)
INCLUDE_USAGE = ChangeRule("include_usage", (members.include_usage,))
"""For an upstream with `include_usage`. It runs after the rules that change whether a stream is requested."""
FLOAT_VECTORS = TopLevelRule(
    "vectors",
    ("encoding_format",),
    "encoding_format",
    (request_numbers,),
)
"""Request embeddings as numbers. embeddings_reply.py converts them to base64 for the client."""

ADDED = "default=model"
"""Entry in `x-gatepass-adapted` for a model added to a body or a form, as for a member that `rules.default` adds."""


class ModelName:
    """Replace the model by `target.model` if the route names one.

    The Call keeps the public name in `model`, and `x-gatepass-adapted` shows no entry, because the name comes from the
    operator's route and repairs nothing. A body without a model gets one under ADDED, if the operation has models.
    """

    name = "model"

    def concerns(self, call: Call, target: Target) -> bool:
        return target.model is not None and target.model != call.model and bool(call.body)

    def apply(self, draft: Draft, target: Target) -> None:
        names_model, model = draft.call.operation.names_model, target.model or ""
        # Without a known model, the body may still name one that gatepass did not read.
        if (draft.call.model and names_model) or "model" in draft.top:
            draft.name_model(model)
        elif names_model:
            _add_model(draft, model)


def with_model(call: Call, model: str) -> Call:
    """Add `model` before all members of a body that names none; all other bytes remain. Entry ADDED."""
    draft = Draft(call)
    _add_model(draft, model)
    return draft.finished()


def _add_model(draft: Draft, model: str) -> None:
    draft.name_model(model)
    draft.adapted = (*draft.adapted, ADDED)


MODEL_NAME = ModelName()
BUILT_IN_RULES: tuple[Rule, ...] = (
    Images(),
    STRAYS,
    STREAM_OPTIONS,
    FLOAT_VECTORS,
    MODEL_NAME,
)
_WORDS = frozenset(
    ("images", *(word for rule in BUILT_IN_RULES if isinstance(rule, TopLevelRule) for word in rule.words))
)
"""Without one of them at the top level, a body concerns the first and the last of the built-in rules at most."""
FLAT_RULES: frozenset[Rule] = frozenset((STRAYS, STREAM_OPTIONS, FLOAT_VECTORS, MODEL_NAME, INCLUDE_USAGE))
"""The rules that open nothing below the top level, so that the event loop applies them to a body of any size."""
AFTER_DECLARED: tuple[Rule, ...] = (ChangeRule("stream_options", (members.drop_orphaned_options,)),)
"""Rules that run after the declared ones, which may set members that require a stream."""

DECLARED_NAME = "rules"
CACHED_MODELS = 1024
"""Limit on cached models, because clients choose the names. protocols/request.py limits their length."""

Choice = tuple[Model | None, tuple[Rule, ...]]


class DeclaredModels:
    """Find the entry of `models` for a model as proxy/routing.py does, and the rules of entry and operation."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._globs = ordered_globs(config.models)
        # Two caches: clients choose the names of models, and all names of one entry share its rules.
        choice_of_entry = lru_cache(maxsize=CACHED_MODELS)(self._choice_of_entry)
        self._choice = lru_cache(maxsize=CACHED_MODELS)(
            lambda operation, model: choice_of_entry(operation, self.entry(operation, model))
        )
        self.configured_rules = lru_cache(maxsize=CACHED_MODELS)(self._configured_rules)
        """Returns all rules of an operation and a model that do not depend on the client or the upstream."""
        self.last_rules = lru_cache(maxsize=CACHED_MODELS)(self._last_rules)
        """Returns those that run once more after the learned rules."""

    def entry(self, operation: str, model: str) -> str | None:
        """Return the name of the entry of `models` that applies to `model`, or None."""
        models, route = self._config.models, block_of_operation(self._config.operations, operation)
        # a client may send a pattern of the configuration as the name of a model: it is then matched like any other
        if model in models and model not in self._globs and model != ANY:
            return model
        found = next((glob for glob in self._globs if fnmatchcase(model, glob)), None)
        # an upstream of the operation serves what only `*` would match
        has_upstream = route is not None and route.upstream is not None
        return found if found is not None or has_upstream or ANY not in models else ANY

    def route_setting(self, operation: str, model: str) -> str:
        """Return the setting that chooses the upstream of `model`; "" if the operation or the entry `*` does."""
        name = self.entry(operation, model) or ANY
        return "" if name == ANY else f"models.{name}.{'targets' if self._config.models[name].targets else 'upstream'}"

    def model(self, operation: str, model: str) -> Model | None:
        """Return the entry for `model` and `operation`, or None if the operation's own upstream serves it."""
        return self._choice(operation, model)[0]

    def rules(self, operation: str, model: str) -> tuple[Rule, ...]:
        """Return the rules of the entry and of the operation, and TextsOnly if the model does not accept token ids."""
        return self._choice(operation, model)[1]

    def most_tokens(self, operation: str, model: str) -> float | None:
        """Return the operator's bound of an answer, by `max_output_tokens` or a `clamp`; None without one."""
        changes = [one for rule in self.rules(operation, model) if isinstance(rule, ChangeRule) for one in rule.changes]
        bounds: list[float | None] = [one.most for one in changes if isinstance(one, OutputBound)]
        bounds += [one.most for one in changes if isinstance(one, Clamp) and one.bounds_answer]
        return min((most for most in bounds if most is not None), default=None)

    def vector_length(self, model: str) -> tuple[int, str] | None:
        """Return the declared length of the vectors of `model`, and the setting; None if none is declared."""
        entry = self.model("embeddings", model)
        if entry is None or (length := entry.capabilities.dimensions) is None:
            return None
        return length, f"models.{self.entry('embeddings', model)}.capabilities.dimensions"

    def _configured_rules(self, operation: str, model: str) -> tuple[Rule, ...]:
        declared = self._choice(operation, model)[1]
        return (*BUILT_IN_RULES, *declared, *AFTER_DECLARED) if declared else BUILT_IN_RULES

    def _last_rules(self, operation: str, model: str) -> tuple[Rule, ...]:
        declared = [rule.changes for rule in self.rules(operation, model) if isinstance(rule, ChangeRule)]
        return ChangeRule.of(DECLARED_NAME, (one for one in chain(*declared) if isinstance(one, OutputBound)))

    def _choice_of_entry(self, operation: str, name: str | None) -> Choice:
        route = block_of_operation(self._config.operations, operation)
        if name is None:
            return None, ChangeRule.of(DECLARED_NAME, _changes_of_rules(None if route is None else route.rules))
        entry = self._config.models[name].over(route)
        first = (TextsOnly(),) if entry.capabilities.token_ids is False else ()
        return entry, (*first, *ChangeRule.of(DECLARED_NAME, changes_of(entry)))


def changes_of(model: Model) -> Iterator[Change]:
    """Yield changes of the stream, then of members (rename, drop, default, set, clamp), then of messages."""
    if model.stream == "emulate":
        yield members.request_whole_reply
    elif model.stream == "aggregate":
        yield members.request_stream
    yield from _changes_of_rules(model.rules)


def _changes_of_rules(rules: Rules | None) -> Iterator[Change]:
    if rules is None:
        return
    # The order is documented, because a rule sees the result of those before it (docs/reference/configuration.md).
    yield from (members.Rename(JsonMemberPath.parse(old), new) for old, new in rules.rename.items())
    yield from map(members.dropped, rules.drop)
    yield from (members.Default(JsonMemberPath.parse(name), _json(value)) for name, value in rules.default.items())
    yield from (members.Set(JsonMemberPath.parse(name), _json(value)) for name, value in rules.set.items())
    clamps = renamed_clamps(rules.clamp, rules.rename)
    yield from (Clamp(JsonMemberPath.parse(name), bounds.min, bounds.max) for name, bounds in clamps.items())
    if rules.split is not None:
        yield SplitInputs(rules.split)
    for old, new in rules.roles.items():
        yield messages.system_into_user if new == "user" else messages.Role(old, new)
    if rules.text_content:
        yield messages.join_text_parts
    if rules.merge_roles:
        yield messages.merge_roles
    if rules.max_output_tokens is not None:
        yield OutputBound(rules.max_output_tokens, rules.rename, rules.drop)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
