"""Lessons about messages: roles, the form of their content, the ids of tool calls."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gatepass.adapt.lesson import Lesson
from gatepass.adapt.teaching.heard import Heard
from gatepass.call import Surface

_DEVELOPER = re.compile(
    r"developer['`\"]? is not one of|unknown variant [`'\"]developer|does not support ['`\"]developer"
    r"|Unexpected message role|Incorrect role information|角色信息不正确"
)
_OTHER_ROLES = re.compile(r"messages\.\d+\.(?:[\w-]+\.)?role: Input should be (?!.*developer)")
_SYSTEM = re.compile(r"does not support ['`\"]system|system['`\"]? is not one of")
_NO_SYSTEM = re.compile(r"[Ss]ystem role (?:is )?not supported")
_ALTERNATE = re.compile(r"roles must alternate")

_STRING_WANTED = (
    re.compile(r"invalid type: sequence, expected a string"),
    re.compile(r"'messages\.\d+\.content' : value must be a string"),
    re.compile(r"cannot unmarshal array into Go struct field [\w.]*content of type string"),
    re.compile(r"Type mismatch of '/messages/[^/]+/content', 'array' not in 'string'"),
    re.compile(r"messages\.\d+\.(?:[\w-]+\.)*content(?:\.str)?: Input should be a valid string"),
)
_NULL_REFUSED = (
    re.compile(r"'content' field must be a string or an array of objects"),
    re.compile(r"invalid message content type: <nil>"),
    re.compile(r"Invalid value for 'content': expected a string, got null"),
    re.compile(r"messages\.\d+\.(?:[\w-]+\.)*content: (?:Field required|none is not an allowed value)"),
)
_TOOL_ID = re.compile(r"Tool call id was .{0,200}? but must be a-z, A-Z, 0-9, with a length of 9")


def conversation(heard: Heard) -> Iterator[tuple[Lesson, ...]]:
    if heard.surface is not Surface.CHAT:
        return
    yield from _roles(heard)
    if any(pattern.search(heard.text) for pattern in _NULL_REFUSED):
        yield (Lesson("content", "empty"),)
    if any(pattern.search(heard.text) for pattern in _STRING_WANTED):
        yield (Lesson("content", "text"),)
        yield (Lesson("content", "empty"),)
    if _TOOL_ID.search(heard.text):
        yield (Lesson("tool_ids", "short"),)


def _roles(heard: Heard) -> Iterator[tuple[Lesson, ...]]:
    """The second step for `system` is for those who refuse `developer` as well (o1-mini)."""
    refuses_developer = _DEVELOPER.search(heard.text) or _OTHER_ROLES.search(heard.text)
    if refuses_developer:
        yield (Lesson("role", "developer", "system"),)
    if _SYSTEM.search(heard.text):
        yield (Lesson("role", "system", "developer"),)
    if refuses_developer or _SYSTEM.search(heard.text) or _NO_SYSTEM.search(heard.text):
        yield (Lesson("role", "system", "user"),)
    if _ALTERNATE.search(heard.text):
        yield (Lesson("roles", "merged"),)
