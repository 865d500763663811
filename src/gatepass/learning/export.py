"""Export learned rules: as configuration that makes them permanent, and as members of the model list."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from types import MappingProxyType
from typing import Any

from gatepass.config.model import Config
from gatepass.config.routes import Model, block_of_operation
from gatepass.learning.learned_rule import ONLY_WITH, STREAM_SETTING, LearnedRuleRecord
from gatepass.normalize.members import Set
from gatepass.normalize.messages import Replayed
from gatepass.normalize.rules import ChangeRule, DeclaredModels, Rule, changes_of

ALWAYS = frozenset(("stream_options",))
"""Actions that are not exported, because no setting does the same."""
WHERE_EMPTY = frozenset(("messages[].audio", "messages[].function_call", "messages[].tool_calls"))
"""Members that a learned rule drops only if they are empty. A configured `drop` drops any value."""
NOTHING = "# Nothing has been learned that the configuration lacks.\n"
HIDDEN = ("set", "default")
"""Rules whose values only the operator may see. A caller that may see learned rules may not."""
_COMMENT_CHARS = 100


@dataclass(slots=True)
class _Pins:
    """The entry to write for one model. `model` is the entry that applies to it today."""

    upstream: str
    name: str
    model: Model | None = None
    exists: bool = False
    stream: str | None = None
    rules: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def has_one_target(self) -> bool:
        targets = self.model.ordered_targets() if self.model is not None else []
        return len({(target.upstream, target.name or self.name) for target in targets}) < 2


def as_config(
    learned: Iterable[LearnedRuleRecord], config: Config, may_see: Callable[[str], bool] = lambda _: True
) -> str:
    """Return YAML for `models`, each change with the sentence from which it was learned.

    The names are the public names of `config`, or the upstream's model name if only a glob matches it. Names that the
    caller may not see are left out.
    """
    pins: dict[str, _Pins] = {}
    declared = DeclaredModels(config)
    for one in (one for one in learned if one.rule.action not in ALWAYS):
        operation = one.scope.operation
        for public in filter(may_see, _public_names(one, config)):
            name = public if public in config.models else declared.entry(operation, public)
            if name is not None:
                model: Model | None = config.models[name]
            else:  # the operation's own upstream serves it, and its rules and timeouts apply
                route = block_of_operation(config.operations, operation)
                model = None if route is None or route.upstream is None else Model(upstream=route.upstream)
            entry = _Pins(one.scope.upstream, public, model, exists=public in config.models)
            _pin(pins.setdefault(public, entry), one)
    if not pins:
        return NOTHING
    lines = list(_lines(pins))
    is_pinned = any(not line.lstrip().startswith("#") for line in lines)
    if is_pinned and not config.models and len(config.upstreams) == 1:  # with `models`, other names would be 404
        lines += ['  "*":   # all other models', f"    upstream: {_text(next(iter(config.upstreams)))}"]
    head = "models:" if is_pinned else "# Nothing can be pinned."
    return "".join(line + "\n" for line in (head, *lines))


def is_configured(one: LearnedRuleRecord, config: Config, declared: DeclaredModels) -> bool:
    """Return whether `config` makes the learned change itself, under every name of the model."""
    rule, operation = one.rule, one.scope.operation
    wanted = Replayed().entry if rule.action == "drop" and rule.field in WHERE_EMPTY else rule.entry
    return all(wanted in _entries(declared.rules(operation, public)) for public in _public_names(one, config))


def _entries(rules: Iterable[Rule]) -> Iterator[str]:
    """Yield the entries of the declared changes as those of learned rules: with the value that `set` sets."""
    for change in chain.from_iterable(rule.changes for rule in rules if isinstance(rule, ChangeRule)):
        yield replace(change, is_shown=True).entry if isinstance(change, Set) else change.entry


def _public_names(one: LearnedRuleRecord, config: Config) -> list[str]:
    """Return the exact names in the configuration whose targets include this model of this upstream."""
    found = [
        public
        for public, model in config.models.items()
        for target in model.ordered_targets()
        if (target.upstream, target.name or public) == (one.scope.upstream, one.scope.model)
    ]
    return list(dict.fromkeys(found)) or [one.scope.model]


def _pin(pins: _Pins, one: LearnedRuleRecord) -> None:
    """Add the setting for a learned rule, or the reason why no setting does the same as the rule."""
    rule = one.rule
    why_not = ""
    if rule.action == "betas":
        why_not = "not pinned, because the upstream named none of these values; set rules.drop_betas: "
    elif rule.action == "drop" and rule.field in ONLY_WITH:
        why_not = f"not pinned, because rules.drop also leaves out other members of {rule.field}: "
    elif rule.action == "set":
        why_not = "not pinned, because `set` also adds a missing member: "
    elif not pins.has_one_target:
        why_not = f"not pinned, because rules apply to all targets, and this one to {one.scope.upstream} only: "
    # On one line: a line break in an upstream's text would end the comment and become configuration.
    pins.reasons.append(f"{why_not}{rule.entry}: {' '.join(one.evidence.split())}"[:_COMMENT_CHARS])
    if why_not:
        return
    if rule.action == "stream":
        pins.stream = STREAM_SETTING[rule.field]
        return
    rules = pins.rules
    match rule.action:
        case "drop" if rule.field in WHERE_EMPTY:
            rules["replayed"] = "drop_but_reasoning"
        case "drop":
            rules.setdefault("drop", []).append(rule.field)
        case "beta":
            rules.setdefault("drop_betas", []).append(rule.field)
        case "rename":
            rules.setdefault("rename", {})[rule.field] = rule.to
        case "role":
            rules.setdefault("roles", {})[rule.field] = rule.to
        case "split":
            rules["split"] = int(rule.to or "1")
        case action:
            rules[_SETTINGS[action, rule.field]] = True


_SETTINGS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("roles", "merged"): "merge_roles",
        ("content", "text"): "text_content",
        ("content", "empty"): "empty_content",
        ("tool_ids", "short"): "short_tool_ids",
        ("response_format", "json_object"): "schema_in_words",
    }
)
"""The setting to enable for the action and field of a rule."""


def _lines(pins: Mapping[str, _Pins]) -> Iterator[str]:
    for public, entry in pins.items():
        changes = entry.stream is not None or bool(entry.rules)
        if changes:
            yield f"  {_text(public)}:{'   # add to the existing entry' if entry.exists else ''}"
        yield from (f"    # {_text(public) + ': ' if not changes else ''}{reason}" for reason in entry.reasons)
        if changes:
            yield from _members(entry)


def _members(entry: _Pins) -> Iterator[str]:
    """Yield the lines to add to an existing entry, or all lines of a new one with those of the glob's entry."""
    rules = dict(entry.rules)
    if not entry.exists:
        old = entry.model.model_dump(mode="json", exclude_unset=True) if entry.model is not None else {}
        old_rules, old_stream = old.pop("rules", None) or {}, old.pop("stream", None)
        if hidden := [name for name in HIDDEN if old_rules.pop(name, None)]:
            yield f"    # add by hand these rules of the old entry, because values are not shown: {', '.join(hidden)}"
        rules, entry.stream = _joined(old_rules, rules), entry.stream or old_stream
        where = {} if "targets" in old else {"upstream": entry.upstream}
        yield from (f"    {name}: {_text(value)}" for name, value in (where | old).items())
    if entry.stream is not None:
        yield f"    stream: {entry.stream}"
    if rules:
        yield "    rules:"
        yield from (f"      {name}: {_text(value)}" for name, value in rules.items())


def _joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rules of `old` and `new`; lists and mappings with one name are joined."""
    joined = dict(old)
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, list) and isinstance(value, list):
            joined[name] = list(dict.fromkeys((*before, *value)))
        elif isinstance(before, dict) and isinstance(value, dict):
            joined[name] = {**before, **value}
        else:
            joined[name] = value
    return joined


def _text(value: Any) -> str:
    # JSON is YAML, and its quotes keep names such as `on` and `1.0` texts.
    return json.dumps(value, ensure_ascii=False)


ABILITIES = ("kind", "vision", "audio", "tools", "reasoning", "json_schema", "token_ids")
SIZES = ("context_length", "max_output_tokens", "dimensions")

_CAPABILITIES: Mapping[tuple[str, str], tuple[str, Any]] = MappingProxyType(
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
"""The capability that a rule's action and field show. A model that rejects a list of parts does not accept images."""


def marks(entry: Model | None, learned: Sequence[LearnedRuleRecord], wall_s: float) -> dict[str, Any]:
    """Return members to add to a model's entry of `/v1/models`, none if nothing is declared or learned.

    `gatepass.capabilities` has each known capability with `value` and `source`. `gatepass.adapted` lists the changes as
    `x-gatepass-adapted` names them. A `learned` entry of either also has its age in seconds and the sentence from which
    it was learned. A learned change also has its upstream, operation and expiry. `context_length` is what OpenRouter's
    list has, `max_model_len` what vLLM's has.
    """
    declared: dict[str, Any] = {}
    names = ("stream", *ABILITIES, *SIZES)
    if entry is not None:
        stream = None if entry.stream == "auto" else entry.stream
        values = (stream, *(getattr(entry.capabilities, name) for name in (*ABILITIES, *SIZES)))
        declared = {
            name: {"value": value, "source": "declared"}
            for name, value in zip(names, values, strict=True)
            if value is not None
        }
    changes = dict.fromkeys(change.entry for change in changes_of(entry)) if entry is not None else ()
    adapted: list[dict[str, Any]] = [{"change": change, "source": "declared"} for change in changes]
    for one in learned:
        expires_in_s, of = max(0, round(one.expires_at - wall_s)), one.scope
        applies_to = {"upstream": of.upstream, "operation": of.operation}
        adapted.append({"change": one.rule.entry, **applies_to, **_source(one, wall_s), "expires_in_s": expires_in_s})
    if not declared and not adapted:
        return {}
    shown: dict[str, Any] = {}
    for one in reversed(learned):  # so that the first in `learned` wins
        if (capability := _CAPABILITIES.get((one.rule.action, one.rule.field))) is not None:
            shown[capability[0]] = {"value": capability[1], **_source(one, wall_s)}
    found = shown | declared
    capabilities = {name: found[name] for name in names if name in found}
    members: dict[str, Any] = {"gatepass": {"capabilities": capabilities, "adapted": adapted}}
    if "context_length" in capabilities:
        length = capabilities["context_length"]["value"]
        members |= {"context_length": length, "max_model_len": length}
    return members


def _source(one: LearnedRuleRecord, wall_s: float) -> dict[str, Any]:
    return {"source": "learned", "age_s": max(0, round(wall_s - one.learned_at)), "evidence": one.evidence}
