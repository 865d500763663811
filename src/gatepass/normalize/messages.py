"""Changes of messages: roles and their order, content, what an answer leaves behind, ids of tool calls, schemas."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec

from gatepass.json_scan import quoted
from gatepass.normalize.json_editor import JsonArrayEditor, JsonEditor, JsonObjectEditor


@dataclass(frozen=True, slots=True)
class TextContent:
    """A list of parts that are all text becomes one string, an empty line between two. Entry `content=text`.

    Lists that hold anything else stay: a picture has no place in a string.
    """

    entry: str = "content=text"

    def apply_to(self, editor: JsonEditor) -> bool:
        return sum(_flattened(message) for message in editor.messages if message.kind("content") == "[") > 0


@dataclass(frozen=True, slots=True)
class EmptyContent:
    """`content: null` becomes `""`, and an assistant's message without any gets one. Entry `content=empty`."""

    entry: str = "content=empty"

    def apply_to(self, editor: JsonEditor) -> bool:
        return sum(message.set("content", b'""') for message in editor.messages if _says_nothing(message)) > 0


def text_of(message: JsonObjectEditor) -> str | None:
    """What a message says, as one text; None where it holds more than text, or nothing."""
    said = message.string("content")
    if said is not None or message.kind("content") != "[":
        return said
    parts = message.array("content")
    texts = [] if parts is None else [part.string("text") for part in parts.objects() if part.string("type") == "text"]
    said_of = [text for text in texts if text is not None]
    return "\n\n".join(said_of) if parts is not None and said_of and len(said_of) == len(parts) else None


def _flattened(message: JsonObjectEditor) -> bool:
    text = text_of(message)
    return text is not None and message.set("content", quoted(text))


def _says_nothing(message: JsonObjectEditor) -> bool:
    kind = message.kind("content")
    return kind == "n" or (kind is None and message.string("role") == "assistant")


REASONING = ("reasoning_content", "reasoning", "reasoning_details")
ANNOTATIONS = ("annotations", "metadata", "status", "timestamp", "timestamps")
EMPTY = ("refusal", "audio", "function_call", "tool_calls")
"""These are the API's own where they hold anything."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """Assistant messages lose what only an answer has: reasoning, annotations, members that hold nothing.

    With `keeps_reasoning` the reasoning stays: DeepSeek's thinking models want it back beside tool
    calls ("must be passed back"), while Mistral, Groq and Cerebras refuse it. Entry `drop=replayed`.
    """

    keeps_reasoning: bool = False
    entry: str = "drop=replayed"

    def apply_to(self, editor: JsonEditor) -> bool:
        return sum(self._stripped(message) for message in editor.messages if message.string("role") == "assistant") > 0

    def _stripped(self, message: JsonObjectEditor) -> bool:
        names = ANNOTATIONS if self.keeps_reasoning else (*REASONING, *ANNOTATIONS)
        empty = [name for name in EMPTY if name in message and not message.value(name)]
        return sum(message.drop(name) for name in (*names, *empty)) > 0


SYSTEM_ROLES = ("system", "developer")
PLAIN = frozenset(("role", "content"))
"""Messages that have more than these say something that a merge would lose."""


@dataclass(frozen=True, slots=True)
class Role:
    """Every message of the role `old` gets the role `new`. Entry `role=OLD>NEW`."""

    old: str
    new: str

    @property
    def entry(self) -> str:
        return f"role={self.old}>{self.new}"

    def apply_to(self, editor: JsonEditor) -> bool:
        found = [message for message in editor.messages if message.string("role") == self.old]
        return sum(message.set("role", msgspec.json.encode(self.new)) for message in found) > 0


@dataclass(frozen=True, slots=True)
class SystemIntoUser:
    """What system and developer messages say stands before the first user message's own text.

    Without a user message, or where one of them holds more than text, nothing changes. Entry
    `role=system>user`.
    """

    entry: str = "role=system>user"

    def apply_to(self, editor: JsonEditor) -> bool:
        messages = editor.top.array("messages")
        if messages is None:
            return False
        turns = messages.numbered()
        systems = {index: message for index, message in turns if message.string("role") in SYSTEM_ROLES}
        user = next((message for _, message in turns if message.string("role") == "user"), None)
        texts = [text_of(message) for message in systems.values()]
        said = [text for text in texts if text is not None]
        if not systems or user is None or len(said) < len(texts) or not _preceded(user, "\n\n".join(said)):
            return False
        messages.drop(systems)
        return True


@dataclass(frozen=True, slots=True)
class MergedRoles:
    """Neighbours of one role (user or assistant) that are nothing but text become one message, and all system
    messages one in front. Entry `roles=merged`."""

    entry: str = "roles=merged"

    def apply_to(self, editor: JsonEditor) -> bool:
        messages = editor.top.array("messages")
        return messages is not None and any([_gathered(messages), _merged(messages)])


def _preceded(message: JsonObjectEditor, text: str) -> bool:
    """Put `text` before what `message` says; False where that has no place for it."""
    content = message.text("content") or b""
    if content.startswith(b'"'):
        message.set("content", quoted(text + "\n\n")[:-1] + content[1:])
    elif content.startswith(b"["):
        comma = b"" if content[1:].lstrip().startswith(b"]") else b","
        message.set("content", b"[" + b'{"type":"text","text":%b}' % quoted(text) + comma + content[1:])
    else:
        return False
    return True


def _gathered(messages: JsonArrayEditor) -> bool:
    """Every plain system message but the first, or all where another stands in front, into the first."""
    systems = [
        (index, _plain_text(message)) for index, message in messages.numbered() if message.string("role") == "system"
    ]
    found = {index: text for index, text in systems if text}
    if not found or list(found) == [0]:
        return False
    text = "\n\n".join(found.values())
    messages.drop(found)
    messages.insert(b'{"role":"system","content":%b}' % quoted(text))
    return True


def _merged(messages: JsonArrayEditor) -> bool:
    gone: list[int] = []
    first: JsonObjectEditor | None = None
    role, texts = None, list[str]()  # of `first` and of its neighbours: joined once, or a long chat takes hours
    for index, message in messages.numbered():
        said, text = message.string("role"), _plain_text(message)
        if text is not None and said == role and said in ("user", "assistant"):
            gone.append(index)
            texts.append(text)
            continue
        _join(first, texts)
        first, role, texts = message, said if text is not None else None, [text or ""]
    _join(first, texts)
    messages.drop(gone)
    return bool(gone)


def _join(message: JsonObjectEditor | None, texts: list[str]) -> None:
    if message is not None and len(texts) > 1:
        message.set("content", quoted("\n\n".join(texts)))


def _plain_text(message: JsonObjectEditor) -> str | None:
    return text_of(message) if PLAIN.issuperset(message.names) else None


DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CHARS = 9
_FITS = re.compile(r"[A-Za-z0-9]{9}\Z")


@dataclass(frozen=True, slots=True)
class ToolIds:
    """The same id becomes the same short one in every request and process: nothing has to be remembered.

    Both places change: `tool_calls[].id` of the assistant, and `tool_call_id` of the tool. Entry `tool_ids=short`.
    """

    entry: str = "tool_ids=short"

    def apply_to(self, editor: JsonEditor) -> bool:
        return sum(_shortened(message) for message in editor.messages) > 0


def short_id(id_: str) -> str:
    """The first nine digits, base 62, of the id's SHA-256; an id of that form is left as it is."""
    if _FITS.match(id_) is not None:
        return id_
    number = int.from_bytes(sha256(id_.encode()).digest())
    digits = []
    while number:
        number, digit = divmod(number, len(DIGITS))
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))[:CHARS]


def _shortened(message: JsonObjectEditor) -> bool:
    calls = message.array("tool_calls")
    places: list[tuple[JsonObjectEditor, str]] = [(call, "id") for call in calls.objects()] if calls is not None else []
    return sum(_replaced(owner, name) for owner, name in (*places, (message, "tool_call_id"))) > 0


def _replaced(owner: JsonObjectEditor, name: str) -> bool:
    id_ = owner.string(name)
    return id_ is not None and owner.set(name, f'"{short_id(id_)}"'.encode())


TELL = "Answer with one JSON object that fits this JSON Schema, and with nothing else:\n"


@dataclass(frozen=True, slots=True)
class SchemaInWords:
    """`json_schema` becomes `json_object`, and the schema stands in the system message: the model is asked, no
    longer made, to keep it. Entry `response_format=json_object`."""

    entry: str = "response_format=json_object"

    def apply_to(self, editor: JsonEditor) -> bool:
        wanted = editor.top.value("response_format") if editor.top.kind("response_format") == "{" else {}
        schema = _schema(wanted)
        if schema is None or not _told(editor, TELL + schema):
            return False
        return editor.top.set("response_format", b'{"type":"json_object"}')


def _schema(wanted: dict[str, Any]) -> str | None:
    inner = wanted.get("json_schema")
    if wanted.get("type") != "json_schema" or not isinstance(inner, dict):
        return None
    return msgspec.json.encode(inner.get("schema", {})).decode()


def _told(editor: JsonEditor, text: str) -> bool:
    """Say `text` in the system message, behind what stands there; where there is none, in a new one."""
    messages = editor.top.array("messages")
    if messages is None:
        return False
    system = next(
        (message for message in messages.objects() if message.string("role") in ("system", "developer")), None
    )
    said = None if system is None else text_of(system)
    if system is None or said is None:
        messages.insert(b'{"role":"system","content":%b}' % quoted(text))
    else:
        system.set("content", quoted(f"{said}\n\n{text}"))
    return True
