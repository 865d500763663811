"""Lessons about streams: models that refuse them, models that know nothing else, options without a stream."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gatepass.adapt.changes.streams import STREAMED
from gatepass.adapt.lesson import HOUR_S, QUARTER_S, Lesson
from gatepass.adapt.teaching.heard import WORDS, Heard

_UNVERIFIED = re.compile(rf"{WORDS}must be verified to stream")
_REFUSED = re.compile(
    r"(?:Unsupported value: )?'?stream'? does not support true|Unsupported value: 'stream'.{0,200}?values are: false"
    rf"|{WORDS}(?:does not|doesn't|do not|don't) support stream(?:ing)?(?![\w_])"
    rf"|{WORDS}[Ss]treaming is not (?:currently )?(?:supported|enabled|allowed|available)"
    r"|Unsupported parameter: 'stream'"
)
_COMBINED = re.compile(
    r"[ ,](?:with|when|while|if|for|together|alongside|combin\w+|and)\b"
    r"(?! (?:this|the|your) (?:[\w.'-]+ )?(?:model|deployment|endpoint|account|organi[sz]ation|region|api|provider)\b)",
    re.IGNORECASE,
)
"""Not streams are refused but streams beside something else."""
_NEEDED = re.compile(
    rf"{WORDS}only supports? stream(?:ing)?\b|(?:Unsupported value: )?'?stream'? does not support false"
    rf"|{WORDS}please enable the stream parameter"
    r"|(?:parameter\.)?enable_thinking must be set to false for non-stream"
)
_NO_THINKING = re.compile(r"(?:parameter\.)?enable_thinking must be set to false")
_THINKING_ONLY = re.compile(rf"{WORDS}enable_thinking parameter is restricted to True", re.IGNORECASE)
_ORPHANED = re.compile(
    r"(?:The )?'?stream_options'? (?:parameter )?(?:is only allowed|can only be (?:defined|used|set)) when"
    r"|Stream options can only be defined when"
)


def streaming(heard: Heard) -> Iterator[tuple[Lesson, ...]]:
    tops = ("stream", "stream_options", "enable_thinking", "parameters")
    if heard.surface not in STREAMED or heard.is_of_a_value or not heard.is_about(*tops):
        return
    if heard.opens(_UNVERIFIED):
        yield (Lesson("stream", "synth", ttl_s=QUARTER_S, by_credential=True),)
    elif heard.opens(_ORPHANED):
        yield (Lesson("stream_options", "orphaned"),)
    elif heard.opens(_NEEDED):
        yield (Lesson("stream", "aggregate"),)
    elif (found := heard.opens(_REFUSED)) or (heard.code, heard.param) == ("unsupported_value", "stream"):
        said = found.string[found.end() :] if found is not None else heard.text
        yield (Lesson("stream", "synth", ttl_s=HOUR_S if _COMBINED.search(said) is None else 0.0),)
    yield from _thinking(heard)


def _thinking(heard: Heard) -> Iterator[tuple[Lesson, ...]]:
    """DashScope: what it thinks of `enable_thinking` depends on the model and on the stream."""
    if heard.opens(_NO_THINKING):
        yield (Lesson("set", "enable_thinking", "false"),)
    if heard.opens(_THINKING_ONLY):
        yield (Lesson("drop", "enable_thinking"),)
        yield (Lesson("set", "enable_thinking", "true"),)
