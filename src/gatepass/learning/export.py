"""Learned rules for people: as configuration that makes them permanent, and as members of the model list."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from gatepass.config.model import Config
from gatepass.config.routes import Model, block_of_operation
from gatepass.learning.learned_rule import LearnedRule, LearnedRuleRecord
from gatepass.normalize.declared import Declared, changes_of
from gatepass.normalize.rule import Change

ALWAYS = frozenset(("stream_options",))
"""Rules that need no declaration: gatepass goes by them anyway."""
WHERE_EMPTY = frozenset(("messages[].audio", "messages[].function_call", "messages[].tool_calls"))
"""Members that a lesson drops only where they hold nothing, which `drop` does not ask."""
STREAM: Mapping[str, str] = MappingProxyType({"synth": "emulate", "aggregate": "aggregate"})
NOTHING = "# Nothing has been learned.\n"
HIDDEN = ("set", "default")
"""Rules whose values are the operator's own: whoever may see a lesson need not see them."""
_COMMENT_CHARS = 100


@dataclass(slots=True)
class _Pins:
    """The entry of one model as it grows."""

    upstream: str
    name: str
    model: Model | None = None
    """What serves it until now."""
    is_there: bool = False
    stream: str | None = None
    rules: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def is_one(self) -> bool:
        """Whether rules would hold for one model of one upstream."""
        targets = self.model.all_targets() if self.model is not None else []
        return len({(target.upstream, target.name or self.name) for target in targets}) < 2


def as_config(
    learned: Iterable[LearnedRuleRecord], config: Config, may_see: Callable[[str], bool] = lambda _: True
) -> str:
    """Return YAML to put under `models`, each change with the sentence it was learned from.

    The names are those by which `config` reaches the models; for models that only a glob leads to, the upstream's own
    name. Names that the caller may not see are left out.
    """
    pins: dict[str, _Pins] = {}
    declared = Declared(config)
    for one in (one for one in learned if one.rule.action not in ALWAYS):
        for public in filter(may_see, _public_names(one, config)):
            _pin(pins.setdefault(public, _entry(public, one, config, declared)), one)
    if not pins:
        return NOTHING
    lines = list(_lines(pins))
    head = "models:" if any(not line.lstrip().startswith("#") for line in lines) else "# Nothing can be pinned."
    return "".join(line + "\n" for line in (head, *lines))


def _entry(public: str, one: LearnedRuleRecord, config: Config, declared: Declared) -> _Pins:
    operation = one.scope.operation
    name = public if public in config.models else declared.entry(operation, public)
    model = _of_operation(operation, config) if name is None else config.models[name]
    return _Pins(one.scope.upstream, public, model, is_there=public in config.models)


def _public_names(one: LearnedRuleRecord, config: Config) -> list[str]:
    """The exact names of the configuration that lead to this model of this upstream."""
    found = [
        public
        for public, model in config.models.items()
        for target in model.for_operation(one.scope.operation).ordered_targets()
        if (target.upstream, target.name or public) == (one.scope.upstream, one.scope.model)
    ]
    return list(dict.fromkeys(found)) or [one.scope.model]


def _pin(pins: _Pins, one: LearnedRuleRecord) -> None:
    lesson = one.rule
    why_not = _why_not(pins, one)
    pins.reasons.append(f"{why_not}{lesson.entry}: {' '.join(one.evidence.split())}"[:_COMMENT_CHARS])
    if why_not:
        return
    if lesson.action == "stream":
        pins.stream = STREAM[lesson.field]
    else:
        _pin_rule(pins.rules, lesson)


def _of_operation(operation: str, config: Config) -> Model | None:
    """What an entry would be that leads to the operation's own upstream; its rules and timeouts count there too."""
    route = block_of_operation(config.operations, operation)
    return None if route is None or route.upstream is None else Model(upstream=route.upstream)


def _why_not(pins: _Pins, one: LearnedRuleRecord) -> str:
    """What a pin would do that the lesson does not; "" where they are the same."""
    if one.rule.action == "set":
        return "not pinned, for `set` adds it where it is missing: "
    if not pins.is_one:
        return f"not pinned, for rules hold for all targets, and this for {one.scope.upstream} alone: "
    return ""


def _pin_rule(rules: dict[str, Any], lesson: LearnedRule) -> None:
    match lesson.action:
        case "drop" if lesson.field in WHERE_EMPTY:
            rules["replayed"] = "drop_but_reasoning"
        case "drop":
            rules.setdefault("drop", []).append(lesson.field)
        case "rename":
            rules.setdefault("rename", {})[lesson.field] = lesson.to
        case "role":
            rules.setdefault("roles", {})[lesson.field] = lesson.to
        case "split":
            rules["split"] = int(lesson.to or "1")
        case rule:
            rules[_BY_RULE[rule, lesson.field][0]] = _BY_RULE[rule, lesson.field][1]


_BY_RULE: Mapping[tuple[str, str], tuple[str, Any]] = MappingProxyType(
    {
        ("roles", "merged"): ("merge_roles", True),
        ("content", "text"): ("text_content", True),
        ("content", "empty"): ("empty_content", True),
        ("tool_ids", "short"): ("short_tool_ids", True),
        ("response_format", "json_object"): ("schema_in_words", True),
    }
)


def _lines(pins: Mapping[str, _Pins]) -> Iterator[str]:
    for public, entry in pins.items():
        changes = entry.stream is not None or bool(entry.rules)
        if changes:
            yield f"  {_text(public)}:{'   # add to the entry that is there' if entry.is_there else ''}"
        yield from (f"    # {_text(public) + ': ' if not changes else ''}{reason}" for reason in entry.reasons)
        if changes:
            yield from _members(entry)


def _members(entry: _Pins) -> Iterator[str]:
    """What an entry that is there has already is not said again; a new one has all that the glob's has, which serves
    the model no more."""
    had = entry.model.model_dump(mode="json", exclude_unset=True) if entry.model is not None else {}
    rules = dict(entry.rules)
    if not entry.is_there:
        had_rules, had_stream = had.pop("rules", None) or {}, had.pop("stream", None)
        if hidden := [name for name in HIDDEN if had_rules.pop(name, None)]:
            yield f"    # add by hand what the rules had until now, for the values are not shown: {', '.join(hidden)}"
        if had.pop("operations", None):
            yield "    # add by hand the `operations` that the entry had until now"
        rules, entry.stream = _joined(had_rules, rules), entry.stream or had_stream
        where = {} if "targets" in had else {"upstream": entry.upstream}
        yield from (f"    {name}: {_text(value)}" for name, value in (where | had).items())
    if entry.stream is not None:
        yield f"    stream: {entry.stream}"
    if rules:
        yield "    rules:"
        yield from (f"      {name}: {_text(value)}" for name, value in rules.items())


def _joined(had: Mapping[str, Any], rules: Mapping[str, Any]) -> dict[str, Any]:
    """`rules` in addition to those that the model `had`."""
    return {**had, **{name: _both(had.get(name), value) for name, value in rules.items()}}


def _both(had: Any, value: Any) -> Any:
    if isinstance(had, list) and isinstance(value, list):
        return list(dict.fromkeys((*had, *value)))
    return {**had, **value} if isinstance(had, dict) and isinstance(value, dict) else value


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


ABILITIES = ("kind", "vision", "audio", "tools", "reasoning", "json_schema", "token_ids")
SIZES = ("context_length", "max_output_tokens", "dimensions")

_TAUGHT: Mapping[tuple[str, str], tuple[str, Any]] = MappingProxyType(
    {
        ("stream", "synth"): ("stream", "emulate"),
        ("stream", "aggregate"): ("stream", "aggregate"),
        ("content", "text"): ("vision", False),
        ("drop", "tools"): ("tools", False),
        ("drop", "functions"): ("tools", False),
        ("drop", "response_format"): ("json_schema", False),
        ("response_format", "json_object"): ("json_schema", False),
    }
)
"""Of a lesson, by its rule and field: what it says of the model. One that takes no list of parts sees no picture."""


def marks(entry: Model | None, learned: Sequence[LearnedRuleRecord], wall_s: float) -> dict[str, Any]:
    """Members to add to a model's entry of `/v1/models`; none where nothing is declared or learned.

    `gatepass.capabilities` has each name that is known, with `value` and `source`: `declared`, or `learned` (with its
    age in seconds and the sentence it was learned from). `gatepass.adapted` lists the changes in the words of
    `x-gatepass-adapted`, with the `operation` of those that count for one alone. `context_length` and `max_model_len`,
    where declared, are what clients look for (vLLM's own list has the latter, OpenRouter's the former).
    """
    declared = dict(_declared(entry)) if entry is not None else {}
    adapted = [*_rules(entry), *(_lesson(one, wall_s) for one in learned)]
    if not declared and not adapted:
        return {}
    taught = dict(_taught(learned, wall_s))
    names = ("stream", *ABILITIES, *SIZES)
    capabilities = {name: told for name in names if (told := declared.get(name) or taught.get(name)) is not None}
    found: dict[str, Any] = {"gatepass": {"capabilities": capabilities, "adapted": adapted}}
    if "context_length" in capabilities:
        length = capabilities["context_length"]["value"]
        found |= {"context_length": length, "max_model_len": length}
    return found


def _declared(entry: Model) -> Iterable[tuple[str, Any]]:
    if entry.stream != "auto":
        yield "stream", {"value": entry.stream, "source": "declared"}
    for name in (*ABILITIES, *SIZES):
        if (value := getattr(entry.capabilities, name)) is not None:
            yield name, {"value": value, "source": "declared"}


def _rules(entry: Model | None) -> list[dict[str, Any]]:
    """What the entry changes for all operations, then for each what is different there."""
    if entry is None:
        return []
    everywhere = [*changes_of(entry)]
    listed = [{"change": change, "source": "declared"} for change in _entries(everywhere)]
    for operation, own in entry.operations.items():
        if own.rules is not None or own.stream is not None:
            different = [change for change in changes_of(entry.for_operation(operation)) if change not in everywhere]
            listed += [
                {"change": change, "source": "declared", "operation": operation} for change in _entries(different)
            ]
    return listed


def _entries(changes: Iterable[Change]) -> Iterable[str]:
    """Each once."""
    return dict.fromkeys(change.entry for change in changes)


def _lesson(one: LearnedRuleRecord, wall_s: float) -> dict[str, Any]:
    return {
        "change": one.rule.entry,
        "upstream": one.scope.upstream,
        "operation": one.scope.operation,
        **_source(one, wall_s),
        "expires_in_s": max(0, round(one.expires_at - wall_s)),
    }


def _taught(learned: Sequence[LearnedRuleRecord], wall_s: float) -> Iterable[tuple[str, Any]]:
    """The first in `learned` counts, so the later ones come first here."""
    for one in reversed(learned):
        if (told := _TAUGHT.get((one.rule.action, one.rule.field))) is not None:
            yield told[0], {"value": told[1], **_source(one, wall_s)}


def _source(one: LearnedRuleRecord, wall_s: float) -> dict[str, Any]:
    return {"source": "learned", "age_s": max(0, round(wall_s - one.learned_at)), "evidence": one.evidence}
