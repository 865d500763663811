"""Make a whole completion what OpenAI's SDKs expect, by the same rules as for a stream.

A whole completion as OpenAI's SDKs type it, as far as it is ever mended: what is like this is left alone.

A large completion that was read in slices, as a document of which most is not built.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Self

import msgspec

from gatepass.errors import InvalidRequest
from gatepass.json_scan import LONG_BYTES, Edit, JsonScanner, Member, ScannedBody, edited, string
from gatepass.sse.choice_repair import (
    ENVELOPE,
    FINISH,
    INDEX,
    MESSAGE,
    NATIVE,
    ROLE,
    TOOL_ARGUMENTS,
    TOOL_ID,
    TOOL_NAME,
    TOOL_TYPE,
    USAGE,
    OnRepair,
    chat_reason,
    native_of,
    text_reason,
)
from gatepass.sse.chunk import (
    CHAT,
    LEGACY,
    MAX_ENTRIES,
    EnvelopeDefaults,
    Object,
    complete_envelope,
    has_content,
    json_text,
    text_of_id,
)
from gatepass.sse.client_transforms import complete_usage
from gatepass.sse.event import read_json
from gatepass.sse.synthesize import argument_text
from gatepass.sse.usage import Usage, ends_with_usage

BUILT_BYTES = 1024 * 1024
"""Of a larger reply no objects are built beyond those of `is_strict`."""
ONE_PASS_BYTES = 4 * 1024 * 1024
"""A reply that is no larger is read in one piece, which takes 35 ms at most."""
_SPEAKS = re.compile(rb'"choices"\s*+:\s*+\[\s*+\{[^{}\[\]]*?"(?:message"\s*+:\s*+\{\s*+"|text"\s*+:\s*+")')

_Said = Annotated[str, msgspec.Meta(min_length=1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Function(msgspec.Struct, frozen=True, gc=False):
    name: str
    arguments: str


class _Custom(msgspec.Struct, frozen=True, gc=False):
    name: str
    input: str


class _FunctionCall(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="function"):
    id: _Said
    function: _Function


class _CustomCall(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="custom"):
    id: _Said
    custom: _Custom


class _Message(msgspec.Struct, frozen=True, gc=False):
    role: Literal["assistant"]
    content: msgspec.Raw = msgspec.Raw(b"null")
    tool_calls: list[_FunctionCall | _CustomCall] | None = None
    function_call: _Function | None = None


class _ChatChoice(msgspec.Struct, frozen=True, gc=False):
    index: int
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter", "function_call"]
    message: _Message


class _TextChoice(msgspec.Struct, frozen=True, gc=False):
    index: int
    finish_reason: Literal["stop", "length", "content_filter"]
    text: msgspec.Raw


class _Usage(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count


class _Whole(msgspec.Struct, frozen=True, gc=False):
    id: _Said
    created: Annotated[int, msgspec.Meta(ge=1)]
    model: _Said
    usage: _Usage | None = None
    error: None = None


class _Chat(_Whole, frozen=True, gc=False, tag_field="object", tag=CHAT, kw_only=True):
    choices: list[_ChatChoice]


class _Text(_Whole, frozen=True, gc=False, tag_field="object", tag=LEGACY, kw_only=True):
    choices: list[_TextChoice]


_WHOLE: msgspec.json.Decoder[_Chat | _Text] = msgspec.json.Decoder(_Chat | _Text)


def is_strict(body: bytes) -> bool:
    """Whether nothing in the completion `body` is to be mended; False too for JSON that only Python reads, and where an
    error stands beside the choices.

    One pass that builds next to nothing: 0.5 µs for a reply of 1 KB, 0.25 ms for one of 1.5 MB.
    """
    try:
        whole = _WHOLE.decode(body)
    except (ValueError, RecursionError):
        return False
    return type(whole) is _Text or all(map(_ends_well, whole.choices))


class GoodReply(msgspec.Struct, frozen=True, gc=False):
    """What one look told of a chat's reply in which nothing is to be mended."""

    usage: Usage | None = None
    """None: it stands where only `usage_of` finds it, or nowhere."""


def read_good(body: bytes) -> GoodReply | None:
    """Read a chat's reply in which nothing is wrong, empty or to be repaired; None if it has to be looked at closely.

    Fast path of `classify_document`: the reply is strict, its first choice has a message or a text, and no error can be
    in it. That saves the judge a pass and `usage_of` another (3 µs of a chat).
    """
    if len(body) > ONE_PASS_BYTES or _SPEAKS.search(body, 0, BUILT_BYTES) is None or body.find(b'"error"') >= 0:
        return None
    try:
        whole = _WHOLE.decode(body)
    except (ValueError, RecursionError):
        return None
    if type(whole) is not _Chat or not whole.choices:
        return None
    for choice in whole.choices:
        if choice.message.tool_calls:
            if not _ends_well(choice):
                return None
        elif choice.finish_reason == "stop":
            content = memoryview(choice.message.content)
            if content[0] != _QUOTE or len(content) <= len(b'""'):
                return None  # perhaps an empty answer
    payload = whole.usage
    if payload is None or not ends_with_usage(body):
        return _GOOD
    return GoodReply(Usage(payload.prompt_tokens, payload.completion_tokens, payload.total_tokens))


_GOOD = GoodReply()
_QUOTE = ord('"')


def is_empty_answer(body: bytes) -> bool:
    """Whether each choice of a chat's reply ends with `stop`, and none has content, a refusal, audio or a call.

    Clients take it for an answer; RAGFlow's vision class and its tool loop show an error for it.
    """
    if len(body) > BUILT_BYTES:
        return False
    try:
        document = read_json(body)
    except ValueError:
        return False
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list) or not choices:
        return False
    return all(
        isinstance(choice, dict) and choice.get("finish_reason") == "stop" and not has_content(choice)
        for choice in choices
    )


def _ends_well(choice: _ChatChoice | _TextChoice) -> bool:
    """Whether a choice that calls tools says so, and gives each call an id of its own."""
    calls = choice.message.tool_calls if type(choice) is _ChatChoice else None
    if not calls:
        return True
    return choice.finish_reason != "stop" and (len(calls) == 1 or len({call.id for call in calls}) == len(calls))


UNREAD_BYTES = 1024
_QUOTE, _OBJECT, _ARRAY = b'"{['
_PARTS = ("logprobs", "message")


def read_around_large(body: ScannedBody) -> Object:
    """The value of `body`, with what is large in the `logprobs` of its choices as msgspec.Raw.

    An answer of 3,500 tokens with 20 alternatives for each has 400,000 values there, which nothing looks into.
    Long texts of messages are read in pieces. Raises ValueError as `read_json`.
    """
    try:
        spans = _large(JsonScanner(body))
    except InvalidRequest:
        raise ValueError("too many values") from None
    hidden = [Edit(span.value, span.end, (b"null",)) for _, _, span in spans]
    document: Object = read_json(edited(body, hidden))
    for place, part, span in spans:
        document["choices"][place][part][span.name] = _value(bytes(memoryview(body)[span.value : span.end]))
    return document


def _value(written: bytes) -> str | msgspec.Raw:
    if written[0] == _QUOTE:
        return string(written)
    if b"\n" in written or b"\r" in written:  # an event is one line
        written = written.translate(None, b"\r\n")
    return msgspec.Raw(written)


def _large(walk: JsonScanner) -> list[tuple[int, str, Member]]:
    """What is not read: the place of its choice, the name of its part, and where it stands."""
    found = list[tuple[int, str, Member]]()
    text = walk.text
    choices = _last(walk, 0).get("choices")
    if choices is None or text[choices.value] != _ARRAY:
        return found
    for place, (start, _) in enumerate(walk.elements(choices.value)):
        parts = _last(walk, start) if text[start] == _OBJECT else {}
        for name in _PARTS:
            if (part := parts.get(name)) is not None and text[part.value] == _OBJECT:
                found += [
                    (place, name, span) for span in _last(walk, part.value).values() if _is_large(text, name, span)
                ]
    return found


def _last(walk: JsonScanner, at: int) -> dict[str, Member]:
    """The members of an object by name, of which the last one of a name counts."""
    return {member.name: member for member in walk.members(at)}


def _is_large(text: bytes, part: str, span: Member) -> bool:
    size_bytes = span.end - span.value
    if part == "message":
        return size_bytes > LONG_BYTES and text[span.value] == _QUOTE
    return size_bytes > UNREAD_BYTES and text[span.value] in (_OBJECT, _ARRAY)


_REQUIRED = ("id", "object", "created", "model")
MOST_STEPS = 100_000
"""Some 25 ms of a blocked loop: a reply of more values, such as the logprobs of a long answer, stays as it came."""
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def mended_whole(body: bytes, defaults: Callable[[], EnvelopeDefaults]) -> tuple[bytes, tuple[str, ...]]:
    """The completion `body`, which is JSON that was judged, as clients read it; and what was repaired.

    The same object where nothing was. Elsewhere all keeps its bytes but what is mended. What would take too long to
    walk through, or to write, stays as it came. `defaults` is asked for only where something may be mended.
    """
    if type(body) is not ScannedBody and is_strict(body):
        return body, ()
    found: list[str] = []
    try:
        edits = list(_Mending(defaults(), found.append).edits(JsonScanner(body, MOST_STEPS)))
    except (InvalidRequest, ValueError, IndexError):
        return body, ()  # made of too many small values, nested too deep, or JSON that only its judge reads
    return (edited(body, edits), tuple(dict.fromkeys(found))) if edits else (body, ())


class _Mending:
    """The edits of one reply; `on_repair` is told the name of each repair."""

    __slots__ = ("_note", "_origin")

    def __init__(self, defaults: EnvelopeDefaults, on_repair: OnRepair) -> None:
        self._origin = defaults
        self._note = on_repair

    def edits(self, walk: JsonScanner) -> Iterator[Edit]:
        text = walk.text
        # DeepSeek sends empty lines before a reply that takes time
        start = text.start if type(text) is ScannedBody else len(text) - len(text.lstrip())
        top = Fields.at(walk, start)
        choices = [] if top is None else top.objects("choices")
        if top is None or not 0 < len(choices) <= MAX_ENTRIES:
            return
        is_text = "text" in choices[0] and "message" not in choices[0]
        for place, choice in enumerate(choices):
            if is_text:
                payload = choice.value("finish_reason")
                self._end(choice, payload, text_reason(payload), is_text=True)
            else:
                yield from self._chat(choice)
            if type(choice.value("index")) is not int:
                choice.put("index", place)
                self._note(INDEX)
            yield from choice.edits()
        self._mend_envelope(top, LEGACY if is_text else CHAT, "cmpl-" if is_text else "chatcmpl-")
        self._mend_usage(top)
        yield from top.edits()

    def _chat(self, choice: Fields) -> Iterator[Edit]:
        name = "message" if "message" in choice else "delta"
        message = choice.object(name)
        if message is None:
            return
        if name == "delta":
            choice.rename(name, "message")
            self._note(MESSAGE)
        if message.value("role") != "assistant":
            message.put("role", "assistant")
            self._note(ROLE)
        calls, function = calls_of(message), function_of(message)
        if len(calls) > MAX_ENTRIES:
            raise ValueError("too many tool calls")
        yield from message.edits()
        yield from call_edits(calls, self._origin, self._note)
        yield from function_edits(function, self._note)
        payload = choice.value("finish_reason")
        reason = chat_reason(payload, has_tools=bool(calls), has_function=function is not None)
        self._end(choice, payload, reason, is_text=False)

    def _end(self, choice: Fields, payload: object, reason: str, *, is_text: bool) -> None:
        if payload == reason:
            return
        choice.put("finish_reason", reason)
        self._note(FINISH)
        if (native := native_of(payload, is_text=is_text)) is not None and NATIVE not in choice:
            choice.put(NATIVE, native)

    def _mend_envelope(self, top: Fields, kind: str, id_prefix: str) -> None:
        told = {name: top.value(name) for name in _REQUIRED}
        for name, value in complete_envelope(told, self._origin, kind, id_prefix).items():
            if (type(told[name]), told[name]) != (type(value), value):
                top.put(name, value)
                self._note(ENVELOPE)

    def _mend_usage(self, top: Fields) -> None:
        """Counts that are none are zero, or the sum of the rest; a usage that tells nothing is null."""
        payload = top.value("usage")
        if payload is None or (isinstance(payload, dict) and all(type(payload.get(name)) is int for name in _COUNTS)):
            return
        top.put("usage", complete_usage(payload, is_chat=True) if isinstance(payload, dict) and payload else None)
        self._note(USAGE)


class Fields:
    """An object, of whose members that have one name the last one counts."""

    __slots__ = ("_at", "_known", "_names", "_put", "_walk")

    def __init__(self, walk: JsonScanner, at: int) -> None:
        self._walk = walk
        self._at = at
        self._known: dict[str, Member] = {member.name: member for member in walk.members(at)}
        self._names: dict[str, str] = {}
        self._put: dict[str, Any] = {}

    @classmethod
    def at(cls, walk: JsonScanner, at: int) -> Self | None:
        """The object that begins at `at`; None where it is none."""
        return cls(walk, at) if walk.text.startswith(b"{", at) else None

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def value(self, name: str) -> Any:
        """The value of a member as it came, parsed; None where there is none."""
        member = self._known.get(name)
        return None if member is None else read_json(self._walk.text[member.value : member.end])

    def text(self, name: str) -> str:
        """The JSON of a member that is there, as it came."""
        member = self._known[name]
        return self._walk.text[member.value : member.end].decode("utf-8", "replace")

    def object(self, name: str) -> Fields | None:
        member = self._known.get(name)
        return None if member is None else Fields.at(self._walk, member.value)

    def objects(self, name: str) -> list[Fields]:
        """The objects in a list."""
        member = self._known.get(name)
        if member is None or not self._walk.text.startswith(b"[", member.value):
            return []
        entries = [Fields.at(self._walk, at) for at, _ in self._walk.elements(member.value)]
        return [entry for entry in entries if entry is not None]

    def put(self, name: str, value: Any) -> None:
        """Have the member `name` say `value`."""
        self._put[name] = value

    def rename(self, name: str, other: str) -> None:
        """Call the member `name`, which is there, `other`."""
        self._names[name] = other

    def edits(self) -> Iterator[Edit]:
        """What makes of the text what was asked for. Raises ValueError for what is nested too deep to be written."""
        for name, other in self._names.items():
            yield Edit(self._known[name].start, self._known[name].value, (b"%b:" % json_text(other),))
        for name in self._put.keys() & self._known.keys():
            yield Edit(self._known[name].value, self._known[name].end, (json_text(self._put[name]),))
        if new := {name: value for name, value in self._put.items() if name not in self._known}:
            start = self._at + 1
            yield Edit(start, start, (json_text(new)[1:-1], b"," if self._known else b""))


_ARGUMENTS = {"function": "arguments", "custom": "input"}


def calls_of(message: Fields) -> list[Fields]:
    """The entries of `tool_calls` that call something: an empty one does not."""
    return [
        call for call in message.objects("tool_calls") if "type" in call or any(kind in call for kind in _ARGUMENTS)
    ]


def function_of(message: Fields) -> Fields | None:
    """The one function of old that `message` calls; an object without a name calls none."""
    function = message.object("function_call")
    return function if function is not None and function.value("name") else None


def call_edits(calls: list[Fields], defaults: EnvelopeDefaults, on_repair: OnRepair) -> Iterator[Edit]:
    """The edits that mend the tool calls of one choice; `on_repair` is told what was wrong.

    Each entry is one call, unlike a stream's: two that look alike are two.
    """
    ids: set[str] = set()
    for call in calls:
        _identify(call, ids, defaults, on_repair)
        kind = _kind_of(call)
        if call.value("type") != kind:
            call.put("type", kind)
            on_repair(TOOL_TYPE)
        yield from call.edits()
        if kind in _ARGUMENTS:
            yield from function_edits(call.object(kind), on_repair, _ARGUMENTS[kind])


def function_edits(function: Fields | None, on_repair: OnRepair, arguments: str = "arguments") -> Iterator[Edit]:
    """The edits that mend the name of what is called, and what it is called with: the member `arguments`."""
    if function is None:
        return
    if not isinstance(function.value("name"), str):
        function.put("name", "")
        on_repair(TOOL_NAME)
    told = function.value(arguments)
    if not isinstance(told, str):
        function.put(arguments, _as_text(function, arguments, told))
        on_repair(TOOL_ARGUMENTS)
    yield from function.edits()


def _as_text(function: Fields, name: str, told: Any) -> str:
    """What the member `name` says, as text, in the form that a stream of it has; as it came where numbers stand there
    that only Python reads: the tool would be called with others."""
    text = argument_text(told)
    return text if told is None or read_json(text.encode()) == told else function.text(name)


def _kind_of(call: Fields) -> str:
    """The type of a call by what it holds, else its own word: there may be kinds that we do not know."""
    held = next((kind for kind in ("custom", "function") if call.object(kind) is not None), None)
    payload = call.value("type")
    return held or (payload if payload and isinstance(payload, str) else "function")


def _identify(call: Fields, ids: set[str], defaults: EnvelopeDefaults, on_repair: OnRepair) -> None:
    """Give `call` an id as text that none of `ids` is, and add it to them."""
    told = call.value("id")
    known = text_of_id(told)
    if not known or known in ids:
        known = defaults.new_id("call_")
    if known != told:
        call.put("id", known)
        on_repair(TOOL_ID)
    ids.add(known)
