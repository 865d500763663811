"""The built-in rules, and how rules follow each other."""

from __future__ import annotations

from collections.abc import Iterable

from gatepass.adapt.changes.always import StreamOptions, Vectors
from gatepass.adapt.images import Images
from gatepass.adapt.model_name import ModelName
from gatepass.adapt.rule import Rule
from gatepass.adapt.strays import Strays
from gatepass.call import Call, Target

BUILT_IN: tuple[Rule, ...] = (Images(), Strays(), StreamOptions(), Vectors(), ModelName())
LAST: tuple[Rule, ...] = (StreamOptions(),)
"""What follows the rules that the configuration declares: those may set what only a stream may have."""


def adapt(call: Call, target: Target, rules: Iterable[Rule]) -> Call:
    """`call` as `target` is to see it; the same object where no rule concerns it. Raises CallerError."""
    for rule in rules:
        call = rule.apply(call, target)
    return call
