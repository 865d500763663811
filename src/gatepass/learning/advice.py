"""What to tell a person whom a refusal reaches although gatepass knows a way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gatepass.learning.allowance import OPT_IN, Allowance
from gatepass.learning.learned_rule import Lesson
from gatepass.learning.matchers import Concerned, steps
from gatepass.learning.rejection import Heard
from gatepass.normalize.rule import concerns
from gatepass.types import Call

_PICTURES = (b'"image_url"', b'"input_image"')
_WANTED = {"synth": "auto or emulate", "aggregate": "auto or aggregate"}
REASONING = (
    "The client has to send the reasoning of earlier answers back with them; rules.replayed of the model's entry"
    " has to be keep."
)
_FOR_STREAM = {"synth": "emulate", "aggregate": "aggregate"}

BlockedS = Callable[[Lesson], float]
"""For how many seconds a lesson that was tried in vain is not tried again; 0: it was not."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How the model is configured: `learn` and `learn_also` of `upstream` (as `allowance`), `stream` and `suggest` of
    its own entry."""

    upstream: str
    allowance: Allowance
    learn: Literal["off", "on"] = "on"
    stream: str = "auto"
    suggest: str | None = None


def advice(
    heard: Heard,
    sent: Call,
    setting: Setting,
    blocked_s: BlockedS = lambda _: 0.0,
    known: Concerned | None = None,
) -> str:
    """Sentences to put behind the upstream's own, "" where there is nothing to say.

    `heard` refused `sent`; `blocked_s` tells of what was tried in vain within the last minute, `known` as in `taught`.
    """
    told = [_way(heard, sent, setting, blocked_s, known)]
    if setting.suggest is not None and any(step for step in steps(heard, OPT_IN)):
        told.append(f"The model {setting.suggest!r} may do what was asked for.")
    return " ".join(sentence for sentence in told if sentence)


def _way(heard: Heard, sent: Call, setting: Setting, blocked_s: BlockedS, known: Concerned | None) -> str:
    if heard.wants_reasoning:
        return REASONING
    for step in steps(heard, OPT_IN):
        wanted = [one for one in step if (concerns(one.change(), sent) if known is None else one in known)]
        if wanted:
            return _setting(heard, wanted, setting, blocked_s)
        if Lesson("content", "text") in step and any(name in sent.body for name in _PICTURES):
            return "This model reads text alone, and the request holds pictures."
    return ""


def _setting(heard: Heard, wanted: list[Lesson], setting: Setting, blocked_s: BlockedS) -> str:
    refused = [lesson for lesson in wanted if not setting.allowance.allows(lesson, heard.surface)]
    stream = next((lesson for lesson in refused if lesson.rule == "stream"), None)
    if stream is not None:
        return f"The model's entry says stream: {setting.stream}: set it to {_WANTED[stream.field]}."
    names = _names(refused, heard)
    if names is None:
        return ""
    return _to_set(wanted, names, setting) if names or setting.learn != "on" else _why_not(wanted, blocked_s)


def _to_set(wanted: list[Lesson], names: list[str], setting: Setting) -> str:
    wants = [] if setting.learn == "on" else ["learn: on"]
    wants += [f"learn_also: [{', '.join(names)}]"] if names else []
    told = f"{_purpose(wanted)}: upstreams.{setting.upstream}.{' and '.join(wants)}"
    if wanted[0].rule == "stream":
        return f"{told}, or stream: {_FOR_STREAM[wanted[0].field]} in the model's entry under models."
    return f"{told}."


def _purpose(wanted: list[Lesson]) -> str:
    if all(lesson.rule == "drop" for lesson in wanted):
        return f"To have {_listed([lesson.field for lesson in wanted])} left out"
    return f"To have such requests adapted ({', '.join(lesson.entry for lesson in wanted)})"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _why_not(wanted: list[Lesson], blocked_s: BlockedS) -> str:
    """Where a change is allowed, and was tried in vain."""
    left_s, entry = max((blocked_s(lesson), lesson.entry) for lesson in wanted)
    if left_s <= 0:
        return ""
    return f"{entry} is not made again for {max(1, round(left_s))} s, because it helped nothing when it was made last."


def _names(refused: list[Lesson], heard: Heard) -> list[str] | None:
    """The names for `learn_also` that would allow all of `refused`, one where one does; None where nothing does."""
    found: list[str] = []
    for lesson in refused:
        if not any(Allowance(frozenset((name,))).allows(lesson, heard.surface) for name in found):
            offered = (lesson.field, *sorted(OPT_IN))
            name = next((one for one in offered if Allowance(frozenset((one,))).allows(lesson, heard.surface)), None)
            if name is None:
                return None
            found.append(name)
    return found
