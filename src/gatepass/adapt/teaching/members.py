"""Lessons from rejections that name a member: one that is unknown there, or one whose value is.

The wordings, each of which a test holds: OpenAI and Azure (by `code` and `param`, or in words), pydantic
(Mistral, FastAPI, vLLM, NVIDIA), Go (Databricks), Gemini, Groq, Cerebras, NVIDIA, zod (Venice), Kimi, GLM.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gatepass.adapt.lesson import Lesson
from gatepass.adapt.teaching.allowance import NEVER, RENAMES
from gatepass.adapt.teaching.heard import Heard, place_told
from gatepass.call import Surface

MOST_NAMES = 8
"""Of one sentence."""

_UNKNOWN_CODES = frozenset(("unsupported_parameter", "unknown_parameter", "extra_forbidden"))

_LISTS = (
    re.compile(r"Unrecognized request arguments? supplied: ([\w, ]+)"),
    re.compile(r"Unsupported parameter\(s\): ([\w, `'\"]+)"),
    re.compile(r"Unrecognized keys?(?:\(s\))?(?: in object)?: ((?:['\"][^'\"]+['\"](?:, )?)+)"),
)
_PLACES = (
    re.compile(r"Unsupported parameter: '([^']+)'"),
    re.compile(r"Unknown parameter: '([^']+)'"),
    re.compile(r"(?<![\w.\[\]-])([\w.\[\]-]++): Extra inputs are not permitted"),
    re.compile(r"body -> ([\w]+(?: -> [\w]+)*)\s+Extra inputs are not permitted"),
    re.compile(r"Extra inputs are not permitted, field: '([^']+)'"),
    re.compile(r"json: unknown field \\?\"([^\"\\]+)\\?\""),
)
_GEMINI = re.compile(r"Unknown name \\?\"([^\"\\]+)\\?\"(?: at '([^']*)')?: Cannot find field")
_PROPERTY = re.compile(r"property '([^']{1,200})' is unsupported")
_IN_MESSAGES = re.compile(r"messages[\w.\[\]]*'?\s*:\s*\Z")
BEFORE_CHARS = 80
"""As much of what stands before a name as may tell where it is."""
_VALUES = (
    re.compile(r"Unsupported value: '([^']+)'"),
    re.compile(r"invalid (\w+): only "),
    re.compile(r"(?<![A-Za-z0-9_])([A-Za-z0-9_]++)\s*参数非法"),
)
SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "top_k", "min_p")
"""Reasoning models take none of these, and refuse them one by one: RAGFlow's dialogs send four, which are more
than a request is sent again for."""
_FAMILY = frozenset(SAMPLING)
_NOT_HERE = re.compile(r"with this model\b")
_WORD = re.compile(r"[\w.]+")
_HINT = re.compile(r"Use '([^']+)' instead")


def members(heard: Heard) -> Iterator[tuple[Lesson, ...]]:
    """For unknown members one step that deals with all of them: no request would do without one of the others.

    One for all of SAMPLING, too, where one of them is refused as a matter of the model and not of its value's form.
    """
    unknown = [place for place in dict.fromkeys(_unknown(heard)) if place.partition("[")[0] not in ("", "stream")]
    wrong = [place for place in dict.fromkeys(_wrong_values(heard)) if place not in NEVER and place not in RENAMES]
    if _NOT_HERE.search(heard.text) is not None and not _FAMILY.isdisjoint((*unknown, *wrong)):
        yield tuple(Lesson("drop", place) for place in SAMPLING)
    if unknown:
        hint = _HINT.search(heard.text)
        yield tuple(_of_unknown(place, hint[1] if hint is not None else None) for place in unknown[:MOST_NAMES])
    yield from ((Lesson("drop", place),) for place in wrong)


def _of_unknown(place: str, hint: str | None) -> Lesson:
    if place in RENAMES and hint in (None, RENAMES[place]):
        return Lesson("rename", place, RENAMES[place])
    return Lesson("drop", "stream_options" if place.startswith("stream_options.") else place)


def _unknown(heard: Heard) -> Iterator[str]:
    """The places that the upstream does not know, in its order."""
    yield from _zod(heard.raw)
    if heard.code in _UNKNOWN_CODES and heard.param:
        yield place_told(heard.param)
    for pattern in _PLACES:
        yield from (place_told(found.replace(" -> ", ".")) for found in pattern.findall(heard.text))
    for pattern in _LISTS:
        for found in pattern.findall(heard.text):
            yield from _WORD.findall(found)
    for name, where in _GEMINI.findall(heard.text):
        if where in ("", name):
            yield place_told(name)
    yield from _properties(heard.text)


def _properties(text: str) -> Iterator[str]:
    """Groq names the member and before it the message, Cerebras the whole way, twice."""
    for found in _PROPERTY.finditer(text):
        before, place = text[max(0, found.start() - BEFORE_CHARS) : found.start()], place_told(found[1])
        in_messages = _IN_MESSAGES.search(before) is not None and not place.startswith("messages[]")
        yield f"messages[].{place}" if in_messages else place


def _zod(raw: Any) -> Iterator[str]:
    """`unrecognized_keys` with the way to the object that has them."""
    issues = raw if isinstance(raw, list) else raw.get("error") if isinstance(raw, dict) else None
    for issue in issues if isinstance(issues, list) else ():
        if isinstance(issue, dict) and issue.get("code") == "unrecognized_keys":
            path, keys = issue.get("path"), issue.get("keys")
            steps = [str(step) for step in path] if isinstance(path, list) else []
            yield from (place_told(".".join([*steps, str(key)])) for key in (keys if isinstance(keys, list) else ()))


def _wrong_values(heard: Heard) -> Iterator[str]:
    """The members whose value the upstream does not take, where leaving them out is an answer to that."""
    if heard.code == "unsupported_value" and heard.param:
        yield place_told(heard.param)
    for pattern in _VALUES:
        yield from (place_told(found) for found in pattern.findall(heard.text))
    if heard.surface is Surface.EMBEDDINGS and _NO_DIMENSIONS.search(heard.text) is not None:
        yield "dimensions"


_NO_DIMENSIONS = re.compile(r"dimensions is currently not supported|does not support matryoshka")
