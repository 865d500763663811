"""What the model list says of a model beside its name: what it can do, and what is changed on the way to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gatepass.adapt.changes.change import Change
from gatepass.adapt.declared import changes_of
from gatepass.adapt.learned import Learned
from gatepass.config.models import Model

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


def marks(entry: Model | None, learned: Sequence[Learned], wall_s: float) -> dict[str, Any]:
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
            different = [change for change in changes_of(entry.at(operation)) if change not in everywhere]
            listed += [
                {"change": change, "source": "declared", "operation": operation} for change in _entries(different)
            ]
    return listed


def _entries(changes: Iterable[Change]) -> Iterable[str]:
    """Each once."""
    return dict.fromkeys(change.entry for change in changes)


def _lesson(one: Learned, wall_s: float) -> dict[str, Any]:
    return {
        "change": one.lesson.entry,
        "upstream": one.subject.upstream,
        "operation": one.subject.operation,
        **_source(one, wall_s),
        "expires_in_s": max(0, round(one.expires_at - wall_s)),
    }


def _taught(learned: Sequence[Learned], wall_s: float) -> Iterable[tuple[str, Any]]:
    """The first in `learned` counts, so the later ones come first here."""
    for one in reversed(learned):
        if (told := _TAUGHT.get((one.lesson.rule, one.lesson.field))) is not None:
            yield told[0], {"value": told[1], **_source(one, wall_s)}


def _source(one: Learned, wall_s: float) -> dict[str, Any]:
    return {"source": "learned", "age_s": max(0, round(wall_s - one.learned_at)), "evidence": one.evidence}
