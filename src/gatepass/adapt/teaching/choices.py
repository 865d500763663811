"""Lessons that change what is asked for: of use to some, and for nobody who has not said so (`learn_also`)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from gatepass.adapt.lesson import Lesson
from gatepass.adapt.teaching.heard import WORDS, Heard
from gatepass.call import Surface

_TOOL_CHOICE = re.compile(
    rf"{WORDS}tool_choice parameter does not support being set to|[Tt]hinking mode does not support this tool_choice"
)
_OBJECT_REFUSED = re.compile(r"'response_format\.type' must be 'json_schema' or 'text'")
_FORMAT_REFUSED = re.compile(rf"{WORDS}response_format type is unavailable")
_NO_TOOLS = re.compile(rf"{WORDS}(?:tool choice requires --enable-auto-tool-choice|does not support tools\b)")
_ROOM = re.compile(
    rf"{WORDS}maximum context length is (\d+) tokens\. However, you requested \d+ tokens"
    r" \((\d+) in the messages, \d+ in the completion\)"
)
SPARE_TOKENS = 8
"""Left free below the context's length: counts differ by a few."""


def choices(heard: Heard, also: Collection[str]) -> Iterator[tuple[Lesson, ...]]:
    """Thinking and a forced tool are refused together, either of them alone is not: nothing of that is remembered."""
    if heard.surface is not Surface.CHAT:
        return
    if "tool_choice" in also and heard.opens(_TOOL_CHOICE):
        yield (Lesson("set", "enable_thinking", "false", ttl_s=0.0),)
        yield (Lesson("set", "thinking.type", '"disabled"', ttl_s=0.0),)
        yield (Lesson("set", "tool_choice", '"auto"', ttl_s=0.0),)
    if "response_format" in also and heard.opens(_OBJECT_REFUSED):
        yield (Lesson("drop", "response_format"),)
    if "response_format" in also and heard.opens(_FORMAT_REFUSED):
        yield (Lesson("response_format", "json_object"),)
    if "tools" in also and heard.opens(_NO_TOOLS):
        yield tuple(Lesson("drop", name) for name in ("tools", "tool_choice", "parallel_tool_calls"))
    if "max_tokens" in also:
        yield from _room(heard)


def _room(heard: Heard) -> Iterator[tuple[Lesson, ...]]:
    """As much of an answer as fits beside this prompt; the figure is of no use to another request."""
    found = heard.opens(_ROOM)
    if found is None:
        return
    left = int(found[1][:9]) - int(found[2][:9]) - SPARE_TOKENS
    if left > 0:
        for name in ("max_tokens", "max_completion_tokens"):
            yield (Lesson("clamp", name, str(left), ttl_s=0.0),)
