"""From one rejection to the one step that may answer it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from gatepass.adapt.changes.change import concerns
from gatepass.adapt.lesson import Lesson
from gatepass.adapt.teaching.allowance import Allowance
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
