"""Lessons about messages: roles, the form of their content, the ids of tool calls."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gatepass.adapt.lesson import Lesson
from gatepass.adapt.teaching.heard import WORDS, Heard
from gatepass.call import Surface

_AT = r"(?:'?(?:body\.)?messages[\w.\[\]-]*+'?\s*:\s*)?"
"""The place that a sentence may name first."""
_DEVELOPER = re.compile(
    rf"{_AT}(?:['`\"]?developer['`\"]? is not one of|unknown variant [`'\"]developer|Unexpected message role"
    r"|Incorrect role information|角色信息不正确)|(?:Unsupported value: )?"
    rf"(?:'messages[\w.\[\]]*+' |{WORDS})does not support ['`\"]developer"
)
_OTHER_ROLES = re.compile(r"(?:body\.)?messages\.\d+\.(?:[\w-]+\.)?role: Input should be (?!.*developer)")
_SYSTEM = re.compile(
    rf"(?:Unsupported value: )?(?:'messages[\w.\[\]]*+' |{WORDS})does not support ['`\"]system"
    rf"|{_AT}['`\"]?system['`\"]? is not one of"
)
_NO_SYSTEM = re.compile(rf"{WORDS}[Ss]ystem role (?:is )?not supported")
_ALTERNATE = re.compile(rf"{WORDS}roles must alternate")

_STRING_WANTED = (
    re.compile(rf"{_AT}invalid type: sequence, expected a string"),
    re.compile(r"'messages\.\d+\.content' : value must be a string"),
    re.compile(r"(?:json: )?cannot unmarshal array into Go struct field [\w.]*content of type string"),
    re.compile(r"Type mismatch of '/messages/[^/'\s]+/content', 'array' not in 'string'"),
    re.compile(r"(?:body\.)?messages\.\d+\.(?:[\w-]+\.)*content(?:\.str)?: Input should be a valid string"),
)
_NULL_REFUSED = (
    re.compile(r"(?:Invalid 'content': )?'content' field must be a string or an array of objects"),
    re.compile(r"invalid message content type: <nil>"),
    re.compile(r"Invalid value for 'content': expected a string, got null"),
    re.compile(r"(?:body\.)?messages\.\d+\.(?:[\w-]+\.)*content: (?:Field required|none is not an allowed value)"),
)
_TOOL_ID = re.compile(r"Tool call id was .{0,200}? but must be a-z, A-Z, 0-9, with a length of 9")


def conversation(heard: Heard) -> Iterator[tuple[Lesson, ...]]:
    if heard.surface is not Surface.CHAT or not heard.is_about("messages", "role", "content"):
        return
    yield from _roles(heard)
    if heard.opens(*_NULL_REFUSED):
        yield (Lesson("content", "empty"),)
    if heard.opens(*_STRING_WANTED):
        yield (Lesson("content", "text"),)
        yield (Lesson("content", "empty"),)
    if heard.opens(_TOOL_ID):
        yield (Lesson("tool_ids", "short"),)


def _roles(heard: Heard) -> Iterator[tuple[Lesson, ...]]:
    """The second step for `system` is for those who refuse `developer` as well (o1-mini)."""
    refuses_developer = heard.opens(_DEVELOPER) or heard.opens(_OTHER_ROLES)
    if refuses_developer:
        yield (Lesson("role", "developer", "system"),)
    if heard.opens(_SYSTEM):
        yield (Lesson("role", "system", "developer"),)
    if refuses_developer or heard.opens(_SYSTEM) or heard.opens(_NO_SYSTEM):
        yield (Lesson("role", "system", "user"),)
    if heard.opens(_ALTERNATE):
        yield (Lesson("roles", "merged"),)
