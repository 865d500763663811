"""What was learned, as the configuration that makes it permanent."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from gatepass.adapt.lesson import Lesson
from gatepass.adapt.memory import Learned
from gatepass.config.model import Config

ALWAYS = frozenset(("stream_options",))
"""Rules that need no declaration: gatepass goes by them anyway."""
WHERE_EMPTY = frozenset(("messages[].audio", "messages[].function_call", "messages[].tool_calls"))
"""Members that a lesson drops only where they hold nothing, which `drop` does not ask."""
STREAM: Mapping[str, str] = MappingProxyType({"synth": "emulate", "aggregate": "aggregate"})
NOTHING = "# Nothing has been learned.\n"
_COMMENT_CHARS = 100


@dataclass(slots=True)
class _Pins:
    """The entry of one model as it grows."""

    upstream: str
    name: str
    stream: str | None = None
    rules: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)


def as_config(learned: Iterable[Learned], config: Config | None = None) -> str:
    """YAML to put under `models`, each change with the sentence it was learned from.

    `config` tells by which public names the models are reached; without it, and for models that only
    a glob leads to, the upstream's own name stands there.
    """
    pins: dict[str, _Pins] = {}
    for one in (one for one in learned if one.lesson.rule not in ALWAYS):
        for public in _public_names(one, config):
            _pin(pins.setdefault(public, _Pins(one.subject.upstream, one.subject.model)), one)
    if not pins:
        return NOTHING
    known = config.models if config is not None else {}
    return "".join(line + "\n" for line in ("models:", *_lines(pins, known)))


def _public_names(one: Learned, config: Config | None) -> list[str]:
    """The exact names of the configuration that lead to this model of this upstream."""
    models = config.models if config is not None else {}
    found = [
        public
        for public, model in models.items()
        for target in model.in_order()
        if (target.upstream, target.name or public) == (one.subject.upstream, one.subject.model)
    ]
    return list(dict.fromkeys(found)) or [one.subject.model]


def _pin(pins: _Pins, one: Learned) -> None:
    lesson = one.lesson
    pins.reasons.append(f"{lesson.entry}: {' '.join(one.evidence.split())}"[:_COMMENT_CHARS])
    if lesson.rule == "stream":
        pins.stream = STREAM[lesson.field]
    else:
        _pin_rule(pins.rules, lesson)


def _pin_rule(rules: dict[str, Any], lesson: Lesson) -> None:
    match lesson.rule:
        case "drop" if lesson.field in WHERE_EMPTY:
            rules["replayed"] = "drop_but_reasoning"
        case "drop":
            rules.setdefault("drop", []).append(lesson.field)
        case "rename":
            rules.setdefault("rename", {})[lesson.field] = lesson.to
        case "set":
            rules.setdefault("set", {})[lesson.field] = json.loads(lesson.to or "null")
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


def _lines(pins: Mapping[str, _Pins], known: Collection[str]) -> Iterator[str]:
    for public, entry in pins.items():
        yield f"  {_text(public)}:{'   # add to the entry that is there' if public in known else ''}"
        yield from (f"    # {reason}" for reason in entry.reasons)
        if public not in known:
            yield f"    upstream: {_text(entry.upstream)}"
        if entry.stream is not None:
            yield f"    stream: {entry.stream}"
        if entry.rules:
            yield "    rules:"
            yield from (f"      {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in entry.rules.items())


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
