"""Export learned rules as configuration that makes them permanent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

from gatepass.config.model import Config
from gatepass.config.routes import block_of_operation
from gatepass.learning.learned_rule import WHERE_EMPTY, LearnedRuleRecord
from gatepass.normalize.members import Set
from gatepass.normalize.messages import Replayed
from gatepass.normalize.rules import ChangeRule, DeclaredModels

NOTHING = "# Nothing has been learned that the configuration lacks.\n"
HIDDEN = ("set", "default")
"""Rules whose values only the operator may see. A caller that may see learned rules may not."""
_COMMENT_CHARS = 118


def as_config(
    learned: Iterable[LearnedRuleRecord], config: Config, may_see: Callable[[str], bool] = lambda _: True
) -> str:
    """Return YAML for `models`, each change with the sentence from which it was learned.

    The names are the public names of `config`, or the upstream's model name if only a glob matches it. Names that the
    caller may not see are left out.
    """
    from gatepass.config.yaml_file import yaml_lines  # ruamel loads slowly, and requests do not need it

    comments: dict[str, list[str]] = {}
    entries: dict[str, dict[str, Any]] = {}
    declared = DeclaredModels(config)
    for one in learned:
        rule, operation, upstream = one.rule, one.scope.operation, one.scope.upstream
        for public in filter(may_see, _public_names(one, config)):
            name = public if public in config.models else declared.entry(operation, public)
            model = None if name is None else config.models[name]
            setting, targets = rule.setting(), [] if model is None else model.ordered_targets()
            why_not = "not pinned, because no setting does the same: " if not setting else ""
            if len({(target.upstream, target.name or public) for target in targets}) > 1:
                why_not = f"not pinned, because rules apply to all targets, and this one to {upstream} only: "
            comments.setdefault(public, []).append(f"{why_not}{rule.entry}: {one.evidence}")
            if why_not:
                continue
            if public not in entries:
                # without a model the operation's own upstream serves it, and its rules and timeouts apply
                route = block_of_operation(config.operations, operation) if model is None else None
                where = {"upstream": (route and route.upstream) or upstream}
                old = {} if model is None else model.model_dump(mode="json", exclude_unset=True)
                hidden = [name for name in HIDDEN if (old.get("rules") or {}).pop(name, None)]
                if public in config.models:
                    old, where = {}, {}
                    comments[public].insert(0, "add these members to the existing entry")
                elif hidden:
                    comments[public].insert(0, f"add by hand, because values are not shown: {', '.join(hidden)}")
                entries[public] = old if "targets" in old else {**where, **old}
            _join(entries[public], setting)
    if not comments:
        return NOTHING
    is_only = bool(entries) and not config.models and len(config.upstreams) == 1
    if is_only:  # with `models`, other names would be 404
        comments["*"], entries["*"] = ["all other models"], {"upstream": next(iter(config.upstreams))}
    lines = ["models:" if entries else "# Nothing can be pinned."]
    for public, reasons in comments.items():
        # On one line: a line break in an upstream's text would end the comment and become configuration.
        whole = ("".join(c if c.isprintable() else " " for c in f"  # {public}: {reason}") for reason in reasons)
        lines += [line[:_COMMENT_CHARS] for line in whole]
        lines += [f"  {line}" for line in yaml_lines({public: entries[public]}) if line] if public in entries else []
    return "".join(line + "\n" for line in lines)


def _join(entry: dict[str, Any], setting: Mapping[str, Any]) -> None:
    """Add `setting` to `entry`. Lists and mappings of the same name are joined."""
    for name, value in setting.items():
        before = entry.get(name)
        if isinstance(before, dict):
            _join(before, value)
        else:
            entry[name] = list(dict.fromkeys((*before, *value))) if isinstance(before, list) else value


def is_configured(one: LearnedRuleRecord, config: Config, declared: DeclaredModels) -> bool:
    """Return whether `config` makes the learned change itself, under every name of the model."""
    rule, operation = one.rule, one.scope.operation
    if rule.action == "protocols":
        return config.upstreams[one.scope.upstream].protocols is not None
    wanted = Replayed().entry if rule.action == "drop" and rule.field in WHERE_EMPTY else rule.entry
    for public in _public_names(one, config):
        rules = declared.rules(operation, public)
        changes = chain.from_iterable(rule.changes for rule in rules if isinstance(rule, ChangeRule))
        # a learned rule names the value that `set` sets
        shown = (replace(change, is_shown=True) if isinstance(change, Set) else change for change in changes)
        if wanted not in (change.entry for change in shown):
            return False
    return True


def _public_names(one: LearnedRuleRecord, config: Config) -> list[str]:
    """Return the exact names in the configuration whose targets include this model of this upstream."""
    found = [
        public
        for public, model in config.models.items()
        for target in model.ordered_targets()
        if (target.upstream, target.name or public) == (one.scope.upstream, one.scope.model)
    ]
    return list(dict.fromkeys(found)) or [one.scope.model]
