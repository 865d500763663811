"""The rules that change a request: what a rule is, the built-in ones, those an operator declares, and `normalize`.

A rule is a named change of a call, and a `Change` edits its body. `normalize` applies rules to a call in order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Protocol, Self

import msgspec
from msgspec.structs import replace

from gatepass.config.model import Config
from gatepass.config.routes import ANY, Model, Rules, block_of_operation, ordered_globs
from gatepass.errors import InvalidRequest
from gatepass.json_body import SMALL_BYTES
from gatepass.json_scan import JsonScanner, any_of, may_name, value_span
from gatepass.normalize import members, messages
from gatepass.normalize.betas import betas_of
from gatepass.normalize.embeddings_request import SplitInputs, TextsOnly, request_numbers
from gatepass.normalize.images import Images
from gatepass.normalize.json_editor import JsonEditor
from gatepass.normalize.members import Clamp, Drop, JsonMemberPath
from gatepass.types import Call, Rule, RuleEdit, Target


class Change(Protocol):
    """One edit of a body, or of the header fields of a call."""

    @property
    def entry(self) -> str:
        """The text in `x-gatepass-adapted`: short, ASCII, without a value from the client."""
        ...

    def apply_to(self, editor: JsonEditor, /) -> bool:
        """Edit the body and return True, or return False and leave it unchanged."""
        ...


@dataclass(frozen=True, slots=True)
class ChangeRule:
    """A rule of several changes, in order. The body is copied once, whatever their number."""

    name: str
    changes: tuple[Change, ...]

    @classmethod
    def of(cls, name: str, changes: Iterable[Change]) -> tuple[Self, ...]:
        """Return the rule, or an empty tuple without changes."""
        found = tuple(changes)
        return (cls(name, found),) if found else ()

    def apply(self, call: Call, target: Target) -> Call:
        del target
        return apply_changes(call, self.changes)[0]


@dataclass(frozen=True, slots=True)
class Where:
    """Make `change` only where the request has the top-level member `member`, or without the betas of `!BETA+BETA`."""

    change: Change
    member: str

    @property
    def entry(self) -> str:
        return self.change.entry

    def apply_to(self, editor: JsonEditor) -> bool:
        if self.member.startswith("!"):
            is_meant = set(self.member[1:].split("+")).isdisjoint(betas_of(editor.headers))
        else:
            is_meant = editor.top.small_text(self.member) not in _ABSENT and self.member in editor.top
        return is_meant and self.change.apply_to(editor)


_ABSENT = (b"null", b"false", b"[]", b'""')


def would_change(change: Change, call: Call) -> bool:
    """Whether `change` would change `call`, without writing the new body."""
    try:
        return bool(call.body) and change.apply_to(JsonEditor(call))
    except InvalidRequest:
        return False  # the body has more values than gatepass reads (json_scan.JsonScanner)


def apply_changes(call: Call, changes: Iterable[Change]) -> tuple[Call, list[Change]]:
    """Return `call` after `changes`, and the changes that applied.

    It is the same object if none applied.
    """
    if not call.body:
        return call, []
    editor = JsonEditor(call)
    made = []
    for change in changes:
        if change.apply_to(editor):
            made.append(change)
            editor.note_edits(change.entry)
    if not made:
        return call, []
    # Several changes may have the same entry, such as two roles that move into the user message.
    adapted = (*call.adapted, *dict.fromkeys(change.entry for change in made))
    return replace(
        call,
        body=editor.written(),
        headers=editor.headers,
        stream=editor.stream,
        max_inputs=editor.max_inputs,
        adapted=adapted,
        edits=editor.edits,
    ), made


def normalize(call: Call, target: Target, rules: Sequence[Rule]) -> Call:
    """Return `call` as `target` requires it, or the same object if no rule applies; raise CallerError."""
    if rules is BUILT_IN_RULES and call.lacks_words and target.model is None:  # nearly always: saves three calls
        return call
    return apply_rules(call, target, applicable_rules(call, rules))


def apply_rules(call: Call, target: Target, rules: Sequence[Rule]) -> Call:
    """Return `call` after each of `rules`; raise CallerError."""
    for rule in rules:
        call = rule.apply(call, target)
    return call


def applicable_rules(call: Call, rules: Sequence[Rule]) -> Sequence[Rule]:
    """Return those of `rules` that may apply to `call`."""
    # They are the first ones, so the body is the client's own. One search decides for all of them.
    if rules is BUILT_IN_RULES:
        words = None if call.lacks_words else _words(call.operation.members, call.stream)
        if call.lacks_words or (words is not None and not may_name(call.body, words)):
            return MODEL_NAME_ONLY
    return rules


STRAY_PARAMS = ("drop_params", "model_type")
"""Members that RAGFlow sends by mistake (infiniflow/ragflow#18584, #15427). Azure rejects them."""


@dataclass(slots=True, eq=False)
class SearchedRule:
    """Apply `changes` to a call whose body contains one of the strings `words`, if its operation has the `member`.

    `is_for_streams`: also if the call requests a stream.
    """

    name: str
    words: tuple[str, ...]
    member: str
    changes: tuple[Change, ...]
    is_for_streams: bool = True
    _pattern: re.Pattern[bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._pattern = any_of(*self.words)

    def apply(self, call: Call, target: Target) -> Call:
        del target
        if not _concerns(self, call.operation.members, call.stream) or not may_name(call.body, self._pattern):
            return call
        return apply_changes(call, self.changes)[0]


def _concerns(rule: Images | SearchedRule, names: frozenset[str], stream: bool) -> bool:
    return rule.member in names and (rule.is_for_streams or not stream)


STRAYS = SearchedRule(
    "strays",
    STRAY_PARAMS,
    STRAY_PARAMS[0],
    tuple(Drop(JsonMemberPath.parse(name)) for name in STRAY_PARAMS),
)
STREAM_OPTIONS = SearchedRule(
    "stream_options",
    ("stream_options",),
    "stream_options",
    (members.drop_orphaned_options,),
    is_for_streams=False,
)
INCLUDE_USAGE = ChangeRule("include_usage", (members.include_usage,))
"""For an upstream with `include_usage`. It runs after the rules that change whether a stream is requested."""
FLOAT_VECTORS = SearchedRule(
    "vectors",
    ("base64",),
    "encoding_format",
    (request_numbers,),
)
"""Request embeddings as numbers. embeddings_reply.py converts them to base64 for the client."""

ADDED = "default=model"
"""Entry in `x-gatepass-adapted` for a model added to a body or a form, as for a member that `rules.default` adds."""

MODEL = b'"model"'
_FIRST_MODEL = re.compile(rb'[ \t\n\r]*+\{[ \t\n\r]*+"model"[ \t\n\r]*+:[ \t\n\r]*+("[^"\\]*+")')
_EMPTY_OBJECT = re.compile(rb"[ \t\n\r]*\}")


class ModelName:
    """Replace the model by `target.model` if the route names one.

    The Call keeps the public name in `model`, and `x-gatepass-adapted` shows no entry, because the name comes from the
    operator's route and repairs nothing. A body without a model gets one under ADDED, if the operation has models.
    """

    name = "model"

    def apply(self, call: Call, target: Target) -> Call:
        if target.model is None or target.model == call.model or not call.body:
            return call
        is_named = bool(call.model) and call.operation.names_model
        # Without a known model, the body may still name one that gatepass did not read.
        if is_named or any(member.name == "model" for member in JsonScanner(call.body).members()):
            first = _FIRST_MODEL.match(call.body)  # a parsed body has one `model`, and usually begins with it
            start, end = value_span(call.body, MODEL) if first is None else first.span(1)
            # a slice of a view is not a copy
            body = call.body if len(call.body) <= SMALL_BYTES else memoryview(call.body)
            return replace(call, body=b"".join((body[:start], msgspec.json.encode(target.model), body[end:])))
        return with_model(call, target.model) if call.operation.names_model else call


def with_model(call: Call, model: str) -> Call:
    """Add `model` before all members of a body that names none; all other bytes remain. Entry ADDED."""
    body = call.body
    start = body.index(b"{") + 1
    comma = b"" if _EMPTY_OBJECT.match(body, start) else b","
    member = b'"model":%b%b' % (msgspec.json.encode(model), comma)
    # views, so that a body of megabytes is copied once
    written = b"".join((memoryview(body)[:start], member, memoryview(body)[start:]))
    edit = RuleEdit(ADDED, "model", after='"', after_bytes=len(msgspec.json.encode(model)))
    return replace(call.with_body(written, ADDED), edits=call.edits.with_more((edit,)))


SEARCHED: tuple[Images | SearchedRule, ...] = (Images(), STRAYS, STREAM_OPTIONS, FLOAT_VECTORS)
"""The built-in rules that a search of the body for their words may rule out."""
MODEL_NAME_ONLY: tuple[Rule, ...] = (ModelName(),)
"""The rules for a body without a word of any other rule. They read only the value of `model` if it occurs once."""
BUILT_IN_RULES: tuple[Rule, ...] = (*SEARCHED, *MODEL_NAME_ONLY)


@lru_cache(maxsize=64)
def _words(names: frozenset[str], stream: bool) -> re.Pattern[bytes] | None:
    """Return the words of the rules for such calls, None without a rule. Without them only the last rule applies."""
    words = [word for rule in SEARCHED if _concerns(rule, names, stream) for word in rule.words]
    return any_of(*words) if words else None


AFTER_DECLARED: tuple[Rule, ...] = (STREAM_OPTIONS,)
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

    def configured_rules(self, operation: str, model: str) -> tuple[Rule, ...]:
        """Return all rules that do not depend on the client or the upstream: the built-in ones, then `rules`."""
        declared = self._choice(operation, model)[1]
        return (*BUILT_IN_RULES, *declared, *AFTER_DECLARED) if declared else BUILT_IN_RULES

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
    yield from (Drop(JsonMemberPath.parse(name)) for name in rules.drop)
    yield from (members.Default(JsonMemberPath.parse(name), _json(value)) for name, value in rules.default.items())
    yield from (members.Set(JsonMemberPath.parse(name), _json(value)) for name, value in rules.set.items())
    yield from (Clamp(JsonMemberPath.parse(name), bounds.min, bounds.max) for name, bounds in rules.clamp.items())
    if rules.split is not None:
        yield SplitInputs(rules.split)
    for old, new in rules.roles.items():
        yield messages.system_into_user if new == "user" else messages.Role(old, new)
    if rules.text_content:
        yield messages.join_text_parts
    if rules.merge_roles:
        yield messages.merge_roles


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
