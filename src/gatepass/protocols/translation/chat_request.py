"""Build the messages of a chat from those of another protocol: parts, roles in turns, results behind their calls.

What is long stays the text that the client wrote, `msgspec.Raw`: texts, inputs, results and schemas.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from itertools import dropwhile, groupby
from operator import itemgetter
from typing import Any

import msgspec
from msgspec.structs import replace

from gatepass.errors import InvalidRequest
from gatepass.json_body import string
from gatepass.normalize.messages import CODED, chat_id
from gatepass.sse.chunk import Object, event_kind
from gatepass.types import Hidden

SHOWN_CHARS = 64

Place = str | tuple["Place", *tuple[str | int, ...]]
"""Where a member is: its name, or the place of an owner and the names or numbers from there. It becomes a text in an
error alone: a text for each block takes a tenth of the translation of a turn."""


NULL = msgspec.Raw(b"null")
_QUOTE = ord('"')

Members = Mapping[str, msgspec.Raw]
"""An object of a request by the names of its members, of which none is read."""
Text = str | msgspec.Raw
"""A text, or the JSON text of one. An empty one is "", so that each has a truth value."""
Odd = list[msgspec.Raw] | str | int | float | bool | None
"""What is no object, where one belongs: each place says itself what it refuses."""
_ODD = frozenset((list, str, int, float, bool, type(None)))
OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw] | Odd)
OBJECTS = msgspec.json.Decoder(
    list[dict[str, msgspec.Raw] | Odd] | dict[str, msgspec.Raw] | str | int | float | bool | None
)


class ContentBlock(Hidden, msgspec.Struct, gc=False):
    """A block or part of a content. Those of a protocol have the members of any of its kinds."""

    type: Any = None
    text: msgspec.Raw = NULL


class Tool(msgspec.Struct, frozen=True):
    """A tool as the client knows it. A chat calls each one as a function."""

    name: str
    namespace: str = ""
    is_custom: bool = False
    """It takes a text instead of arguments."""
    is_search: bool = False
    """It is the `tool_search` of the Responses API, which the client runs."""


class About(msgspec.Struct, frozen=True):
    """What the answer needs of the request: its tools by their names in the chat, the members that it repeats, the
    sequences at which it ends."""

    tools: Mapping[str, Tool] = {}
    repeated: Object = {}
    stop_sequences: Sequence[str] = ()


MOST_NAME_CHARS = 64
"""OpenAI rejects a longer name of a function. Anthropic accepts 128 characters."""
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


class Names:
    """The names of tools in the chat, which knows functions alone: also for those in a namespace, and custom ones."""

    def __init__(self) -> None:
        self.by_chat_name: dict[str, Tool] = {}
        self._chat_names: dict[Tool, str] = {}
        self._functions: dict[str, str] = {}
        """Those of functions without a namespace. A Tool for each call, and its hash, would take a tenth of a turn."""

    def add(self, tool: Tool, where: Place) -> str:
        """Return the name in the chat of the tool at `where`: its own, after that of its namespace.

        Raises InvalidRequest for a tool without a name, and for a second one of this name, namespace and kind.
        """
        if not tool.name or tool in self._chat_names:
            raise malformed(where, "a tool with its own name")
        wanted = f"{tool.namespace}__{tool.name}" if tool.namespace else tool.name
        if len(wanted) > MOST_NAME_CHARS or wanted in self.by_chat_name or _NOT_IN_NAMES.search(wanted):
            digest = hashlib.sha256(f"{tool.namespace}\0{tool.name}\0{tool.is_custom}".encode()).hexdigest()[:8]
            wanted = f"{_NOT_IN_NAMES.sub('_', wanted[: MOST_NAME_CHARS - len(digest) - 1])}_{digest}"
        self.by_chat_name[wanted] = tool
        self._chat_names[tool] = wanted
        if not (tool.namespace or tool.is_custom or tool.is_search):
            self._functions[tool.name] = wanted
        return wanted

    def of(self, tool: Tool) -> str | None:
        """Return the name in the chat of a tool that the request has, None if it has none of that name."""
        return self._chat_names.get(tool) or self._chat_names.get(replace(tool, is_custom=not tool.is_custom))

    def call(self, call_id: Any, tool: Tool | Any, arguments: Text, where: Place) -> Object:
        """Return an answer with a call of `tool`, which may be gone, or of the function of this name.

        Raises InvalidRequest without an id.
        """
        if not isinstance(call_id, str):
            raise malformed(where, "a call with an id")
        found, text = chat_id(call_id) if call_id.startswith(CODED) else (call_id, "")
        name = self._functions.get(tool) if isinstance(tool, str) else None
        if name is None:
            tool = tool if isinstance(tool, Tool) else named_tool(tool)
            name = self._chat_names.get(tool) or self.of(tool) or self.add(tool, where)
        call: Object = {"id": found, "type": "function", "function": {"name": name, "arguments": arguments}}
        answer: Object = {"role": "assistant", "content": None, "tool_calls": [call]}
        if text:
            carried = carried_of(text)
            call |= {"extra_content": carried.extra_content} if bytes(carried.extra_content) else {}
            answer |= joined_thoughts(*carried.reasoning_details)
        return answer


MOST_CARRIED_BYTES = 64 * 1024
"""More of what a chat's server needs again, as JSON, does not travel."""


class Carried(msgspec.Struct):
    """What a chat's server needs again and the client's protocol lacks, as a client gave it back.

    Of a call this is Gemini's `extra_content`, of an answer the `reasoning_details` of OpenRouter and MiniMax. It
    travels in the signature of a thought or in the id of a call. Its values are not opened.
    """

    extra_content: msgspec.Raw = msgspec.Raw()
    reasoning_details: list[msgspec.Raw] = []


def carried_of(text: str) -> Carried:
    """Return what travelled as `text`: nothing of what gatepass did not write."""
    with suppress(ValueError, RecursionError):
        if 0 < len(text) <= MOST_CARRIED_BYTES:
            return msgspec.json.decode(text, type=Carried)
    return Carried()


def schema_of(given: Any) -> Object:
    """Return the JSON schema `given` of a function's arguments. Tools of MCP lack it, and servers require one."""
    schema: Object = given if isinstance(given, dict) else {}
    if "type" in schema and "properties" in schema and NULL not in schema.values():
        return schema
    return {"type": "object", "properties": {}} | {name: value for name, value in schema.items() if value != NULL}


def named_tool(name: Any, namespace: Any = "", *, is_custom: bool = False) -> Tool:
    return Tool(text_of(name), text_of(namespace), is_custom)


_MODES: Mapping[str, str] = {"auto": "auto", "none": "none", "any": "required", "required": "required"}
_NAMED = ("tool", "function", "custom")


def chosen(choice: Any, tools: list[Object], names: Names) -> Object:
    """Return `tools` and `tool_choice` of the chat for a choice in the form of any of the three APIs.

    Raises InvalidRequest for a choice that names no tool of the chat.
    """
    if choice is None:
        return {"tools": tools} if tools else {}
    fields = choice if isinstance(choice, dict) else {"type": choice}
    kind = event_kind(fields)
    inner = members_of(fields, kind) or fields  # chat completions nest what the Responses API has flat
    tool = named_tool(inner.get("name"), inner.get("namespace"), is_custom=kind == "custom")
    name = names.of(tool) if kind in _NAMED else None
    picked = {"type": "function", "function": {"name": name}} if name else _MODES.get(kind)
    if picked is None or (picked == "required" and not tools):
        shown = _shown(text_of(inner.get("name")) or kind)
        raise InvalidRequest(f"`tool_choice` ({shown}) selects no tool of the chat.", param="tool_choice")
    return {"tools": tools, "tool_choice": picked} if tools else {}


def text_of(value: Any) -> str:
    """Return the text that `value` is, read or not; "" for another value."""
    if isinstance(value, msgspec.Raw):
        try:
            return string(value)
        except msgspec.ValidationError:
            return ""
    return value if isinstance(value, str) else ""


def unread(value: msgspec.Raw) -> Text | None:
    """Return the text `value` as it is, None for another value."""
    text = bytes(value)  # a view takes twice as long to make
    return None if text[0] != _QUOTE else value if len(text) > len('""') else ""


def read(value: Any) -> Any:
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value


_SHOWN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
OTHERS = "others"
"""What a name is called that is long or no plain word: the client chooses it, and it would stand in a header."""
MOST_ENTRIES = 16


class Dropped:
    """What a translation leaves out of a request or an answer.

    `entries` are those of `x-gatepass-adapted`, each once. After MOST_ENTRIES all others are OTHERS.
    """

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    @property
    def entries(self) -> tuple[str, ...]:
        return tuple(f"untranslated={name}" for name in self._names)

    def note(self, name: str) -> None:
        is_shown = len(self._names) < MOST_ENTRIES and _SHOWN.fullmatch(name)
        self._names[name if is_shown else OTHERS] = None

    def note_others(self, members: Mapping[str, Any], carried: Collection[str]) -> None:
        for name, value in members.items():
            if name not in carried and read(value) not in (None, "", [], {}):
                self.note(name)


def place_text(place: Place) -> str:
    if isinstance(place, str):
        return place
    outer, *names = place
    return ".".join([*filter(None, [place_text(outer)]), *map(str, names)])


def _refused(where: Place, why: str) -> InvalidRequest:
    place = place_text(where)
    return InvalidRequest(f"`{place}` {why}", param=place)


def malformed(where: Place, expected: str) -> InvalidRequest:
    return _refused(where, f"is not {expected}.")


def object_of(owner: Mapping[str, Any], name: str, where: Place = "") -> Object:
    """Return the object `name` of `owner`, which is at `where`. Raises InvalidRequest if the member is no object."""
    value = read(owner.get(name))
    if value is not None and not isinstance(value, dict):
        raise malformed((where, name), "an object")
    return value or {}


def objects_of(value: Any, where: Place, expected: str = "a list") -> list[Any]:
    """Return `value`, a list of objects. Raises InvalidRequest about any other value."""
    if not isinstance(value, list):
        raise malformed(where, expected)
    for one in value:
        if type(one) in _ODD:
            raise malformed((where, [type(each) in _ODD for each in value].index(True)), "an object")
    return value


def blocks_of(content: Any, where: Place) -> list[Any]:
    """Return the blocks of a content. A text is one block."""
    if isinstance(content, str):
        return [ContentBlock("text", msgspec.Raw(msgspec.json.encode(content)))]
    return objects_of(content, where, "a text or a list")


def members_of(owner: Mapping[str, Any], name: str) -> Object:
    value = read(owner.get(name))
    return value if isinstance(value, dict) else {}


def text_part(text: Text) -> Object:
    return {"type": "text", "text": text}


def image_part(url: Any) -> Object:
    return {"type": "image_url", "image_url": {"url": url}}


def content_of(parts: Sequence[Text | Object]) -> Text | list[Object]:
    """Return the content of a message: one text if there is nothing else, because some servers accept no parts."""
    if len(parts) == 1 and not isinstance(text := parts[0], dict):
        return text
    if any(isinstance(part, dict) for part in parts):
        return [part if isinstance(part, dict) else text_part(part) for part in parts]
    return "\n\n".join(map(text_of, parts))


def result_messages(call_id: Any, content: Text | list[Object], where: Place) -> list[Object]:
    """Return a tool's result: its texts, and a message of the user with its images, because no tool may send any.

    Raises InvalidRequest if the result at `where` has no id.
    """
    if not isinstance(call_id, str):
        raise malformed(where, "a result with the id of its call")
    found = chat_id(call_id)[0] if call_id.startswith(CODED) else call_id
    if not isinstance(content, list):
        return [{"role": "tool", "tool_call_id": found, "content": content}]
    texts = [part["text"] for part in content if part["type"] == "text"]
    images = [part for part in content if part["type"] != "text"]
    images = [{"role": "user", "content": [text_part(f"Images of {found}:"), *images]}]
    return [{"role": "tool", "tool_call_id": found, "content": content_of(texts)}, *images]


def in_turns(system: Sequence[Text | Object], messages: list[Object], where: str, dropped: Dropped) -> list[Object]:
    """Return the messages as strict servers require them, behind one with the parts of `system`.

    Those without content are left out, a later one of the system becomes one of the user, several of one role in a row
    become one, and the results of tools follow their calls at once, in their order.
    Raises InvalidRequest about the member `where` without content, for a call without a result, and the reverse.
    """
    content = content_of(system)
    first: list[Object] = [{"role": "system", "content": content}] if content else []
    if messages and _is_strict(messages):
        return first + messages
    filled = first + [one for one in messages if one["content"] or len(one) > len(("role", "content"))]
    if len(filled) == len(first):
        raise InvalidRequest(f"`{where}` has no message with content.", param=where)
    later = [*dropwhile(lambda one: one["role"] == "system", filled)]
    if any(one["role"] == "system" for one in later):
        dropped.note("system_role")  # templates of models accept the role at the beginning alone
        later = [{**one, "role": "user"} if one["role"] == "system" else one for one in later]
        filled[-len(later) :] = later
    merged, results = _merged(filled), defaultdict[str, list[Object]](list)
    tools = [message for message in merged if message["role"] == "tool"]
    for message in reversed(tools):
        results[message["tool_call_id"]].append(message)
    ordered: list[Object] = []
    for message in merged:
        if message["role"] != "tool":
            ordered.append(message)
        for call in message.get("tool_calls", ()):
            if not (found := results.get(call["id"])):
                raise InvalidRequest(f"The tool call {_shown(call['id'])} has no result.", param=where)
            ordered.append(found.pop())  # some servers use an id again in a later turn
    if len(ordered) < len(merged):
        shown = _shown(next(one["tool_call_id"] for one in tools if results[one["tool_call_id"]]))
        raise InvalidRequest(f"The result {shown} has no tool call, or is its second one.", param=where)
    return _merged(ordered)


def _is_strict(messages: list[Object]) -> bool:
    """Whether `messages` need no change, as nearly always."""
    before, waiting = "", list[Object]()
    for message in messages:
        role = message["role"]
        if role == "tool":
            if not waiting or waiting.pop()["id"] != message["tool_call_id"]:
                return False
        elif waiting or role == before or role == "system":
            return False
        elif "tool_calls" in message:
            waiting = message["tool_calls"][::-1]
        elif not message["content"]:
            return False
        before = role
    return not waiting


def _merged(messages: list[Object]) -> list[Object]:
    found: list[Object] = []
    for role, turn in groupby(messages, itemgetter("role")):
        alike = [*turn]
        found += alike if role == "tool" or len(alike) == 1 else [joined(alike)]
    return found


def joined(turn: list[Object]) -> Object:
    """Return several messages of one role as one."""
    parts: list[Text | Object] = []
    calls = [call for message in turn for call in message.get("tool_calls", ())]
    one: Object = {}
    for message in turn:
        one |= message
        content = message.get("content")
        parts += content if isinstance(content, list) else [content] if content else []
    one["content"] = content_of(parts) if parts else None if calls else ""
    details = [detail for message in turn for detail in message.get("reasoning_details", ())]
    thought = joined_thoughts(*[message.get("reasoning_content") for message in turn], *details)
    return one | thought | ({"tool_calls": calls} if calls else {})


def joined_thoughts(*thoughts: Any) -> Object:
    """Return the texts of an answer's reasoning, and its details, as its members of a chat; nothing without any."""
    text = "\n\n".join(thought for thought in thoughts if isinstance(thought, str) and thought)
    details = [thought for thought in thoughts if isinstance(thought, msgspec.Raw)]
    return ({"reasoning_content": text} if text else {}) | ({"reasoning_details": details} if details else {})


def _shown(name: str) -> str:
    return repr(name[:SHOWN_CHARS])[:SHOWN_CHARS]  # the repr of a long text would hold the interpreter's lock


def client_tool(kind: str, where: Place) -> InvalidRequest:
    """Return the error for the tool at `where`, of the type `kind`, that the client runs and a chat cannot call."""
    why = "which the client runs. The upstream has chat completions alone, which call functions: declare the tool as a"
    return _refused(where, f"is {_shown(kind)}, {why} function.")


def refused_part(kind: str, where: Place) -> InvalidRequest:
    """Return the error for a part or item at `where`, of the type `kind`, that a chat cannot carry."""
    what = f"is {_shown(kind)}, or of a stored file" if kind else "has no type"
    return _refused(where, f"{what}. The upstream has chat completions alone, which take texts and images.")
