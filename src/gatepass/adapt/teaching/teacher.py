"""From one rejection to the one step that may answer it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

from gatepass.adapt.changes.change import concerns
from gatepass.adapt.lesson import Lesson
from gatepass.adapt.teaching.allowance import OPT_IN, Allowance
from gatepass.adapt.teaching.batches import batches
from gatepass.adapt.teaching.choices import choices
from gatepass.adapt.teaching.conversation import conversation
from gatepass.adapt.teaching.heard import Heard
from gatepass.adapt.teaching.members import members
from gatepass.adapt.teaching.streaming import streaming
from gatepass.call import Call


def steps(heard: Heard, also: Collection[str] = ()) -> Iterator[tuple[Lesson, ...]]:
    """Everything that `heard` suggests, the likeliest first; the lessons of one step are taken together.

    Who knows the whole sentence comes first: `members` sees no more than a name.
    """
    if heard.wants_reasoning:
        return
    yield from streaming(heard)
    yield from conversation(heard)
    yield from batches(heard)
    yield from choices(heard, also)
    yield from members(heard)


def taught(heard: Heard, sent: Call, allowance: Allowance, barred: Callable[[Lesson], bool]) -> tuple[Lesson, ...]:
    """The first step of which every lesson that concerns the body `sent` is allowed and not `barred`; only those.

    A step of which one part is not allowed is no step: the upstream would refuse the rest of it again.
    """
    for step in steps(heard, allowance.also):
        concerned = [lesson for lesson in step if concerns(lesson.change(), sent)]
        fits = [allowance.allows(lesson, heard.surface) and not barred(lesson) for lesson in concerned]
        if concerned and all(fits):
            return tuple(concerned)
    return ()


def contradicts(heard: Heard, lesson: Lesson) -> bool:
    """Whether the rejection is about what `lesson` made of the request."""
    if heard.wants_reasoning:
        return lesson.rule == "drop" and "reasoning" in lesson.field
    return any(one.reverses(lesson) for step in steps(heard) for one in step)


_FIGURES = re.compile(r"[0-9]+")
_LONG_NAME = 8
"""Letters of a name that is no everyday word: `temperature`, and not `user` or `stop`."""


def repeats(heard: Heard, lesson: Lesson, evidence: str) -> bool:
    """Whether the rejection is again about what `lesson`, taken for the sentence `evidence`, was to mend.

    Any other complaint shows that the upstream got past it.
    """
    if _FIGURES.sub("0", heard.text) == _FIGURES.sub("0", evidence) or contradicts(heard, lesson):
        return True
    if any(one.key == lesson.key for step in steps(heard, OPT_IN) for one in step):
        return True
    return any(_names(heard, name) for name in _about(lesson))


def _about(lesson: Lesson) -> tuple[str, ...]:
    """The names by which an upstream would call the member that `lesson` is about."""
    if lesson.rule in ("stream", "stream_options"):
        return (lesson.rule,)
    if lesson.rule == "rename":
        return (lesson.field, lesson.to or "")
    return (lesson.field.rpartition(".")[2],) if lesson.rule in ("drop", "set", "clamp") else ()


def _names(heard: Heard, name: str) -> bool:
    if heard.param is not None and name in re.split(r"[^A-Za-z0-9_]+", heard.param):
        return True
    is_plain = len(name) >= _LONG_NAME or "_" in name or name == "stream"
    quoted = rf"['\"`]{re.escape(name)}['\"`]"
    plain = rf"(?<![\w.]){re.escape(name)}(?:ing)?(?![\w])"
    return re.search(f"{quoted}|{plain}" if is_plain else quoted, heard.text, re.IGNORECASE) is not None
