"""What to tell a person whom a refusal reaches although gatepass knows a way."""

from __future__ import annotations

from gatepass.adapt.changes.change import concerns
from gatepass.adapt.lesson import Lesson
from gatepass.adapt.teaching.allowance import OPT_IN, Allowance
from gatepass.adapt.teaching.heard import Heard
from gatepass.adapt.teaching.teacher import steps
from gatepass.call import Call

_PICTURES = (b'"image_url"', b'"input_image"')


def advice(
    heard: Heard, sent: Call, allowance: Allowance, *, upstream: str, is_on: bool, suggest: str | None = None
) -> str:
    """Sentences to put behind the upstream's own, "" where there is nothing to say.

    `heard` refused `sent` under `allowance`; `is_on` says whether lessons are gone by at all; `suggest` is the
    model's own (`models.NAME.suggest`).
    """
    told = [_way(heard, sent, allowance, upstream, is_on=is_on)]
    if suggest is not None and any(step for step in steps(heard, OPT_IN)):
        told.append(f"The model {suggest!r} may do what was asked for.")
    return " ".join(sentence for sentence in told if sentence)


def _way(heard: Heard, sent: Call, allowance: Allowance, upstream: str, *, is_on: bool) -> str:
    for step in steps(heard, OPT_IN):
        wanted = [lesson for lesson in step if concerns(lesson.change(), sent)]
        if wanted:
            return _setting(heard, wanted, allowance, upstream, is_on=is_on)
        if Lesson("content", "text") in step and any(name in sent.body for name in _PICTURES):
            return "This model reads text alone, and the request holds pictures."
    return ""


def _setting(heard: Heard, wanted: list[Lesson], allowance: Allowance, upstream: str, *, is_on: bool) -> str:
    entries = ", ".join(lesson.entry for lesson in wanted)
    refused = [lesson for lesson in wanted if not allowance.allows(lesson, heard.surface)]
    names = [_name(lesson, heard) for lesson in refused]
    if not refused:
        return "" if is_on else f"gatepass can adapt such requests ({entries}): set upstreams.{upstream}.learn to on."
    if None in names:
        return ""
    told = ", ".join(dict.fromkeys(name for name in names if name is not None))
    return f"gatepass adapts such requests ({entries}) where upstreams.{upstream}.learn_also names {told}."


def _name(lesson: Lesson, heard: Heard) -> str | None:
    """The name for `learn_also` that would allow it; None where nothing does."""
    for name in (lesson.field, *sorted(OPT_IN)):
        if Allowance(frozenset((name,))).allows(lesson, heard.surface):
            return name
    return None
