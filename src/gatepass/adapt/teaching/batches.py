"""Lessons about embeddings: how many inputs at once, and in which form the vectors come."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gatepass.adapt.lesson import DAY_S, Lesson
from gatepass.adapt.teaching.heard import WORDS, Heard
from gatepass.call import Surface

_LIMITS = (
    re.compile(rf"{WORDS}batch size is invalid, it should not be larger than (\d+)"),
    re.compile(rf"{WORDS}batch size \d+ > maximum allowed batch size (\d+)"),
    re.compile(r"[Tt]oo many inputs\. The max number of inputs is (\d+)"),
    re.compile(r"(?:[\w.]++: )?at most (\d+) requests can be in one batch"),
    re.compile(r"(?:Invalid )?'input': array too long\. Expected an array with maximum length (\d+)"),
)
_TOKENS = re.compile(r"Requested (\d[\d,]*) tokens, max (\d[\d,]*) tokens per request")
_STRING_ONLY = re.compile(r"(?:input|prompt)\s*参数非法")
_NO_BASE64 = re.compile(r"base64 encoding is not (?:currently )?supported")
LARGEST = 100_000
FILL = 0.9
"""Of the tokens that fit: inputs differ in length."""


def batches(heard: Heard) -> Iterator[tuple[Lesson, ...]]:
    if heard.surface is not Surface.EMBEDDINGS:
        return
    limits = [int(found[1][:9]) for pattern in _LIMITS if (found := heard.opens(pattern)) is not None]
    if limits and 0 < limits[0] <= LARGEST:
        yield (Lesson("split", "input", str(limits[0]), ttl_s=DAY_S),)
    if (over := heard.opens(_TOKENS)) is not None:
        yield from _share(*(int(figure.replace(",", "")[:15]) for figure in over.groups()))
    if heard.code == "1214" and heard.opens(_STRING_ONLY):
        yield (Lesson("split", "input", "1", ttl_s=DAY_S),)
    if heard.opens(_NO_BASE64):
        yield (Lesson("set", "encoding_format", '"float"'),)


def _share(requested: int, most: int) -> Iterator[tuple[Lesson, ...]]:
    """How much of it fits; another request of as many inputs may fit as a whole."""
    if 0 < most < requested:
        yield (Lesson("split", "input", f"{max(1, int(100 * FILL * most / requested))}%", ttl_s=0.0),)
