"""Lessons from rejections that name a member: one that is unknown there, or one whose value is.

The wordings, each of which a test holds: OpenAI and Azure (by `code` and `param`, or in words), pydantic
(Mistral, FastAPI, vLLM, NVIDIA), Go (Databricks), Gemini, Groq, Cerebras, NVIDIA, zod (Venice), Kimi, GLM.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from gatepass.adapt.lesson import HOUR_S, Lesson
from gatepass.adapt.place import Place
from gatepass.adapt.teaching.allowance import NEVER, RENAMES
from gatepass.adapt.teaching.heard import WORDS, Heard, place_told
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
    re.compile(r"([\w.\[\]-]++): Extra inputs are not permitted"),
    re.compile(r"body -> ([\w]+(?: -> [\w]+)*)\s+Extra inputs are not permitted"),
    re.compile(r"Extra inputs are not permitted, field: '([^']+)'"),
    re.compile(r"json: unknown field \\?\"([^\"\\]+)\\?\""),
)
_GEMINI = re.compile(r"Unknown name \\?\"([^\"\\]+)\\?\"(?: at '([^']*)')?: Cannot find field")
_PROPERTY = re.compile(r"('?messages[\w.\[\]]*+'?\s*:\s*|[\w.\[\]]++: )?property '([^']{1,200})' is unsupported")
_IN_MESSAGES = re.compile(r"'?messages\b")
_VALUES = (
    re.compile(r"Unsupported value: '([^']+)' does not support "),
    re.compile(r"invalid (\w+): only "),
    re.compile(r"([A-Za-z0-9_]++)\s*参数非法"),
)
_OTHER_VALUES = re.compile(
    r"(?:(?:[Ss]upported|[Aa]llowed|[Vv]alid) values (?:are|include)|[Mm]ust be one of):? *(.*)", re.DOTALL
)
"""Then only this value is refused, unless there is but one other: that is the default."""
SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "top_k", "min_p")
"""Reasoning models take none of these, and refuse them one by one: RAGFlow's dialogs send four, which are more
than a request is sent again for."""
_FAMILY = frozenset(SAMPLING)
THINKING = ("chat_template_kwargs", "enable_thinking", "thinking")
"""One wish in the words of vLLM, DashScope and GLM. Dify sends two of them to every server (its plugin's default) and
RAGFlow others, and where OpenAI's own words refuse one, none is known."""
_OPENAI = re.compile(r"Unrecognized request arguments? supplied: |Unknown parameter: '")
_WHOLE = frozenset(("stream_options", "metadata", "logit_bias"))
"""They go as a whole: what is in the last two is the client's to name, and might be named without end."""
_NOT_HERE = re.compile(r"with this model\b")
_WORD = re.compile(r"[\w.]+")
_HINT = re.compile(r"Use '([^']+)' instead")


def members(heard: Heard) -> Iterator[tuple[Lesson, ...]]:
    """For unknown members one step that deals with all of them: no request would do without one of the others.

    Where one of SAMPLING is refused as a matter of the model and not of its value's form, the others go along in
    this one request: nobody has refused them yet. So do those of THINKING where OpenAI's API does not know one.
    """
    if heard.is_of_a_value:
        return
    unknown = [place for place in _agreed(heard, _unknown(heard)) if place.partition("[")[0] != "stream"]
    wrong = [place for place in _agreed(heard, _wrong_values(heard)) if place not in NEVER and place not in RENAMES]
    ttl_s = 0.0 if _is_one_of_several(heard.text) else HOUR_S
    refused = dict.fromkeys(unknown, HOUR_S) | dict.fromkeys(wrong, ttl_s)
    if _NOT_HERE.search(heard.text) is not None and not _FAMILY.isdisjoint(refused):
        yield tuple(Lesson("drop", place, ttl_s=refused.get(place, 0.0)) for place in SAMPLING)
    if unknown:
        hint = _HINT.search(heard.text)
        named = [_of_unknown(place, hint[1] if hint is not None else None) for place in unknown[:MOST_NAMES]]
        yield (*named, *_other_spellings(heard, unknown))
    yield from ((Lesson("drop", place, ttl_s=ttl_s),) for place in wrong)


def _other_spellings(heard: Heard, unknown: list[str]) -> Iterator[Lesson]:
    is_openai = any(_OPENAI.match(sentence) for sentence in heard.sentences)
    if is_openai and not set(THINKING).isdisjoint(unknown):
        yield from (Lesson("drop", place, ttl_s=0.0) for place in THINKING if place not in unknown)


def _is_one_of_several(text: str) -> bool:
    """Whether it names more than one value that would have been taken."""
    named = _OTHER_VALUES.search(text)
    return named is not None and len(re.split(r",| and | or |\|", named[1].partition(". ")[0])) > 1


def _agreed(heard: Heard, places: Iterable[str]) -> list[str]:
    """The Places among them that are in accord with `param`, which of pydantic's details names the first alone.

    What an upstream names besides is nothing that a change could be about: `tools[0]` is an element, `2fast` no name.
    """
    told = None if heard.code == "extra_forbidden" else heard.place
    named = [place for place in dict.fromkeys(places) if Place.is_one(place)]
    return [place for place in named if told is None or f".{told}".endswith(f".{place}")]


def _of_unknown(place: str, hint: str | None) -> Lesson:
    if place in RENAMES and hint in (None, RENAMES[place]):
        return Lesson("rename", place, RENAMES[place])
    top = place.partition(".")[0]
    return Lesson("drop", top if top in _WHOLE else place)


def _unknown(heard: Heard) -> Iterator[str]:
    """The places that the upstream does not know, in its order."""
    yield from _zod(heard.raw)
    if heard.code in _UNKNOWN_CODES and heard.param:
        yield place_told(heard.param)
    for sentence in heard.sentences:
        yield from _named(sentence)


def _named(sentence: str) -> Iterator[str]:
    """The names with which the sentence begins."""
    for pattern in _PLACES:
        if (found := pattern.match(sentence)) is not None:
            yield place_told(found[1].replace(" -> ", "."))
    for pattern in _LISTS:
        if (found := pattern.match(sentence)) is not None:
            yield from _WORD.findall(found[1])
    if (found := _GEMINI.match(sentence)) is not None and found[2] in (None, "", found[1]):
        yield place_told(found[1])
    if (found := _PROPERTY.match(sentence)) is not None:
        yield _property(found[1] or "", place_told(found[2]))


def _property(before: str, place: str) -> str:
    """Groq names the member and before it the message, Cerebras the whole way, twice."""
    in_messages = _IN_MESSAGES.match(before) is not None and not place.startswith("messages[]")
    return f"messages[].{place}" if in_messages else place


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
        if (found := heard.opens(pattern)) is not None:
            yield place_told(found[1])
    if heard.surface is Surface.EMBEDDINGS and heard.opens(_NO_DIMENSIONS) is not None:
        yield "dimensions"


_NO_DIMENSIONS = re.compile(rf"{WORDS}(?:dimensions is currently not supported|does not support matryoshka)")
