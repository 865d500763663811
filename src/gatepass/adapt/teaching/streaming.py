"""Lessons about streams: models that refuse them, models that know nothing else, options without a stream."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gatepass.adapt.lesson import QUARTER_S, Lesson
from gatepass.adapt.teaching.heard import Heard
from gatepass.call import Surface

_UNVERIFIED = re.compile(r"must be verified to stream")
_REFUSED = re.compile(
    r"'?stream'? does not support true|Supported values are: false"
    r"|(?:does not|doesn't|do not|don't) support stream(?:ing)?(?![\w_])"
    r"|[Ss]treaming is not (?:currently )?(?:supported|enabled|allowed|available)"
    r"|Unsupported parameter: 'stream'"
)
_NEEDED = re.compile(
    r"only supports? stream(?:ing)?\b|'?stream'? does not support false|please enable the stream parameter"
    r"|enable_thinking must be set to false for non-stream"
)
_NO_THINKING = re.compile(r"enable_thinking must be set to false")
_THINKING_ONLY = re.compile(r"enable_thinking parameter is restricted to True", re.IGNORECASE)
_ORPHANED = re.compile(
    r"'?stream_options'? (?:parameter )?(?:is only allowed|can only be (?:defined|used|set)) when"
    r"|Stream options can only be defined when"
)


def streaming(heard: Heard) -> Iterator[tuple[Lesson, ...]]:
    if heard.surface is not Surface.CHAT:
        return
    if _UNVERIFIED.search(heard.text):
        yield (Lesson("stream", "synth", ttl_s=QUARTER_S, by_credential=True),)
    elif _ORPHANED.search(heard.text):
        yield (Lesson("stream_options", "orphaned"),)
    elif _NEEDED.search(heard.text):
        yield (Lesson("stream", "aggregate"),)
    elif _REFUSED.search(heard.text) or (heard.code, heard.param) == ("unsupported_value", "stream"):
        yield (Lesson("stream", "synth"),)
    yield from _thinking(heard)


def _thinking(heard: Heard) -> Iterator[tuple[Lesson, ...]]:
    """DashScope: what it thinks of `enable_thinking` depends on the model and on the stream."""
    if _NO_THINKING.search(heard.text):
        yield (Lesson("set", "enable_thinking", "false"),)
    if _THINKING_ONLY.search(heard.text):
        yield (Lesson("drop", "enable_thinking"),)
        yield (Lesson("set", "enable_thinking", "true"),)
