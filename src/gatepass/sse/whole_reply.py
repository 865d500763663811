"""Check and repair a whole completion by the same rules as a stream.

The checks are fast paths that build nearly no objects. A repair edits the JSON text, so that all other bytes stay
unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import msgspec

from gatepass.errors import InvalidRequest
from gatepass.json_scan import ONE_PASS_BYTES, Edit, JsonScanner, Member, edited
from gatepass.sse import choice_repair, chunk
from gatepass.sse.choice_repair import COMPLETE, NATIVE
from gatepass.sse.chunk import EnvelopeDefaults
from gatepass.sse.event import read_json
from gatepass.sse.tool_calls import is_at_limit, is_complete_json, is_cut
from gatepass.sse.usage import Count, Usage, UsageDetails, complete_usage

BUILT_BYTES = 1024 * 1024
"""The largest reply whose JSON is built as objects; a larger one is only checked with `is_strict`."""

# --- the types of a completion that needs no repair -----------------------------------------------

_NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Function(msgspec.Struct, frozen=True, gc=False):
    name: str
    arguments: str


class _Custom(msgspec.Struct, frozen=True, gc=False):
    name: str
    input: str


class _FunctionCall(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="function"):
    id: _NonEmpty
    function: _Function


class _CustomCall(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="custom"):
    id: _NonEmpty
    custom: _Custom


_Calls = Annotated[list[_FunctionCall | _CustomCall], msgspec.Meta(min_length=1)]


class _Message(msgspec.Struct, frozen=True, gc=False):
    role: Literal["assistant"]
    content: msgspec.Raw = msgspec.Raw(b"null")
    tool_calls: _Calls | None = None
    function_call: _Function | None = None


class _StrictChatChoice(msgspec.Struct, frozen=True, gc=False):
    index: int
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter", "function_call"]
    message: _Message
    error: None = None


class _StrictTextChoice(msgspec.Struct, frozen=True, gc=False):
    index: int
    finish_reason: Literal["stop", "length", "content_filter"]
    text: msgspec.Raw


class _Usage(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count
    prompt_tokens_details: UsageDetails | None = None
    completion_tokens_details: UsageDetails | None = None
    prompt_cache_hit_tokens: Count = None
    cached_tokens: Count = None


class _Completion(msgspec.Struct, frozen=True, gc=False):
    id: _NonEmpty
    created: Annotated[int, msgspec.Meta(ge=1)]
    model: _NonEmpty
    usage: _Usage | None = None
    error: None = None


class _ChatCompletion(_Completion, frozen=True, gc=False, tag_field="object", tag=chunk.CHAT, kw_only=True):
    choices: list[_StrictChatChoice]


class _TextCompletion(_Completion, frozen=True, gc=False, tag_field="object", tag=chunk.LEGACY, kw_only=True):
    choices: list[_StrictTextChoice]


_STRICT: msgspec.json.Decoder[_ChatCompletion | _TextCompletion] = msgspec.json.Decoder(
    _ChatCompletion | _TextCompletion
)

# --- check a completion ---------------------------------------------------------------------------


def is_strict(body: bytes) -> bool:
    """Return whether the completion `body` needs no repair; False for an error with choices.

    It takes 0.5 µs for a reply of 1 KB and 0.25 ms for one of 1.5 MB.
    """
    try:
        completion = _STRICT.decode(body)
    except (ValueError, RecursionError):
        return False
    return type(completion) is _TextCompletion or all(map(_is_consistent, completion.choices))


class GoodReply(msgspec.Struct, frozen=True, gc=False):
    """A chat reply without errors that needs no repair."""

    usage: Usage | None = None


_WITHOUT_USAGE = GoodReply()
_DOUBLE_QUOTE, _BRACKET = b'"['


def read_good(body: bytes) -> GoodReply | None:
    """Read a chat reply without any fault, as `classify_document` would; None if it needs a closer look."""
    if len(body) > ONE_PASS_BYTES:
        return None
    try:
        completion = _STRICT.decode(body)
    except (ValueError, RecursionError):
        return None
    if type(completion) is not _ChatCompletion or not completion.choices:
        return None
    for choice in completion.choices:
        if choice.message.tool_calls or choice.message.function_call:
            if not _is_consistent(choice):
                return None
        elif choice.finish_reason == "stop":
            content = memoryview(choice.message.content)
            if content[0] != _DOUBLE_QUOTE or len(content) <= len(b'""'):
                return None  # the answer may be empty
    usage = completion.usage
    if usage is None:
        return _WITHOUT_USAGE
    of_prompt, of_completion = usage.prompt_tokens_details, usage.completion_tokens_details
    stated = None if of_prompt is None else of_prompt.cached_tokens
    counts = (stated, usage.prompt_cache_hit_tokens, usage.cached_tokens)
    cached = next((count for count in counts if count is not None), None)
    reasoning = None if of_completion is None else of_completion.reasoning_tokens
    return GoodReply(Usage(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, cached, reasoning))


def is_empty_answer(body: bytes) -> bool:
    """Return whether each choice ends with `stop` and has no content or call: RAGFlow shows an error instead."""
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
        isinstance(choice, dict) and choice.get("finish_reason") == "stop" and not chunk.has_content(choice)
        for choice in choices
    )


def _is_consistent(choice: _StrictChatChoice | _StrictTextChoice) -> bool:
    """Return whether a choice has no parts, and its calls a matching finish reason, different ids and whole arguments.

    Longer arguments than BUILT_BYTES are not checked.
    """
    if type(choice) is not _StrictChatChoice:
        return True
    message = choice.message
    calls, functions = message.tool_calls or (), [message.function_call] if message.function_call else []
    functions += [call.function for call in calls if type(call) is _FunctionCall]
    if memoryview(message.content)[0] == _BRACKET or (calls and choice.finish_reason == "stop"):
        return False
    if len({call.id for call in calls}) < len(calls):
        return False
    return all(len(one.arguments) > BUILT_BYTES or is_complete_json(one.arguments) for one in functions)


# --- repair a completion --------------------------------------------------------------------------

MAX_STEPS = 100_000
"""About 25 ms on the event loop. A reply with more values, such as long logprobs, is not repaired."""

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def repair_reply(body: bytes, defaults: Callable[[], EnvelopeDefaults]) -> tuple[bytes, tuple[str, ...]]:
    """Return the repaired completion and the names of the repairs. `body` must be valid JSON.

    Returns the same object if no repair is necessary, or if the repair would take too long. `defaults` is called only
    if a repair may be necessary. Raises ArgumentsTooLarge and ArgumentsCut.
    """
    if is_strict(body):
        return body, ()
    repair = _ReplyRepair(defaults(), JsonScanner(body, MAX_STEPS))
    try:
        repair.repair()
    except (InvalidRequest, ValueError, IndexError):
        return body, ()  # too many small values, nested too deep, or JSON that the scanner does not accept
    return (edited(body, repair.edits), tuple(dict.fromkeys(repair.names))) if repair.edits else (body, ())


class _ReplyRepair:
    __slots__ = ("_checks", "_defaults", "_is_cut", "_object_bytes", "_usage", "edits", "names", "scanner")

    def __init__(self, defaults: EnvelopeDefaults, scanner: JsonScanner) -> None:
        self._defaults = defaults
        self._object_bytes = 0
        self._usage: Usage | None = None
        self._checks = self._is_cut = False
        self.scanner = scanner
        self.edits: list[Edit] = []
        self.names: list[str] = []

    def repair(self) -> None:
        text = self.scanner.text
        # DeepSeek sends empty lines before a slow reply
        top = Fields.at(self, len(text) - len(text.lstrip()))
        choices = [] if top is None else top.objects("choices")
        if top is None or not 0 < len(choices) <= chunk.MAX_ENTRIES:
            return
        usage = top.value("usage")
        self._usage = Usage.read(usage) if isinstance(usage, dict) else None
        is_text = "text" in choices[0] and "message" not in choices[0]
        for position, choice in enumerate(choices):
            if is_text:
                self._repair_reason(choice, is_text=True)
            else:
                self._repair_message(choice)
            if type(choice.value("index")) is not int:
                choice.put("index", position, choice_repair.INDEX)
        original = {name: top.value(name) for name in chunk.REQUIRED}
        object_name, id_prefix = (chunk.LEGACY, "cmpl-") if is_text else (chunk.CHAT, "chatcmpl-")
        for name, value in chunk.complete_envelope(original, self._defaults, object_name, id_prefix).items():
            if (type(original[name]), original[name]) != (type(value), value):
                top.put(name, value, choice_repair.ENVELOPE)
        has_counts = isinstance(usage, dict) and all(type(usage.get(name)) is int for name in _COUNTS)
        if usage is not None and not has_counts:  # an empty usage becomes null
            completed = complete_usage(usage, is_chat=True) if isinstance(usage, dict) and usage else None
            top.put("usage", completed, choice_repair.USAGE)

    def _repair_message(self, choice: Fields) -> None:
        name = "message" if "message" in choice else "delta"
        message = choice.object(name)
        if message is None:
            return
        if name == "delta":
            choice.rename(name, "message", choice_repair.MESSAGE)
        if message.value("role") != "assistant":
            message.put("role", "assistant", choice_repair.ROLE)
        content = message.value("content") if message.text("content").startswith(b"[") else None
        if isinstance(content, list) and (found := chunk.text_and_thought(content)) is not None:
            message.put("content", found[0], choice_repair.CONTENT)
            if found[1] and not message.value(chunk.REASONING[0]):
                message.put(chunk.REASONING[0], found[1], choice_repair.CONTENT)
        if message.text("tool_calls")[:1] == b"[" and not message.text("tool_calls")[1:-1].strip():
            message.put("tool_calls", None, choice_repair.TOOL_ARGUMENTS)
        # An empty entry is not a call, and neither is a legacy function without a name
        entries = message.objects("tool_calls")
        calls = [entry for entry in entries if "type" in entry or any(kind in entry for kind in chunk.ARGUMENTS)]
        function = message.object("function_call")
        function = function if function is not None and function.value("name") else None
        if len(calls) > chunk.MAX_ENTRIES:
            raise ValueError("too many tool calls")
        reason = choice.value("finish_reason")
        self._is_cut, self._checks = False, choice_repair.standard_reason(reason, is_text=False)[0] in COMPLETE
        self._repair_calls(calls)
        self._repair_function(function, "arguments")
        self._repair_reason(choice, is_text=False, has_tools=bool(calls), has_function=function is not None)

    def _repair_calls(self, calls: list[Fields]) -> None:
        """Repair the tool calls of one choice. Unlike in a stream, each entry is a separate call."""
        ids: set[str] = set()
        for call in calls:
            original_id = call.value("id")
            call_id = chunk.text_of_id(original_id)
            # clients send each result back with the id of its call
            if not call_id or call_id in ids:
                call_id = self._defaults.new_id("call_")
            if call_id != original_id:
                call.put("id", call_id, choice_repair.TOOL_ID)
            ids.add(call_id)
            # The content decides the type; an unknown type stays, because there may be new ones
            original_type = call.value("type")
            is_type = original_type and isinstance(original_type, str)
            kind = next((kind for kind in chunk.ARGUMENTS if call.object(kind) is not None), None)
            kind = kind or (original_type if is_type else "function")
            if original_type != kind:
                call.put("type", kind, choice_repair.TOOL_TYPE)
            if kind in chunk.ARGUMENTS:
                self._repair_function(call.object(kind), chunk.ARGUMENTS[kind])

    def _repair_function(self, function: Fields | None, arguments_name: str) -> None:
        if function is None:
            return
        if not isinstance(function.value("name"), str):
            function.put("name", "", choice_repair.TOOL_NAME)
        sent = function.text(arguments_name)
        checks, is_text = self._checks and arguments_name == "arguments", sent.startswith(b'"')
        if is_text and not (checks and len(sent) <= BUILT_BYTES):
            return
        self._object_bytes += 0 if is_text else len(sent)
        if self._object_bytes > chunk.MOST_OBJECT_BYTES:
            raise chunk.ArgumentsTooLarge
        arguments = function.value(arguments_name)
        text = chunk.argument_text(arguments)
        if not is_text and arguments is not None and read_json(text.encode()) != arguments:
            # Numbers such as NaN, which only Python reads: the tool must get them unchanged
            text = sent.decode("utf-8", "replace")
        if checks and is_cut(text, str(function.value("name")), self._defaults.request):
            self._is_cut = True
        elif checks and not text.strip():
            text = "{}"
        if text != arguments:
            function.put(arguments_name, text, choice_repair.TOOL_ARGUMENTS)

    def _repair_reason(
        self, choice: Fields, *, is_text: bool, has_tools: bool = False, has_function: bool = False
    ) -> None:
        original = choice.value("finish_reason")
        reason, native = choice_repair.standard_reason(
            original, is_text=is_text, has_tools=has_tools, has_function=has_function
        )
        if self._is_cut:
            if not is_at_limit(self._defaults.request, self._usage):
                raise chunk.ArgumentsCut
            reason, native = "length", ""
        if original != reason:
            choice.put("finish_reason", reason, choice_repair.FINISH)
            if native and NATIVE not in choice:
                choice.put(NATIVE, native, choice_repair.FINISH)


class Fields:
    """One JSON object in a text. The last of several members with one name is used. Changes are noted in `repair`."""

    __slots__ = ("_at", "_has_new", "_members", "_repair", "_scanner")

    def __init__(self, repair: _ReplyRepair, at: int) -> None:
        self._repair = repair
        self._scanner = repair.scanner
        self._at = at
        self._members: dict[str, Member] = {member.name: member for member in repair.scanner.members(at)}
        self._has_new = False

    @classmethod
    def at(cls, repair: _ReplyRepair, at: int) -> Self | None:
        return cls(repair, at) if repair.scanner.text.startswith(b"{", at) else None

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def text(self, name: str) -> bytes:
        member = self._members.get(name)
        return b"" if member is None else self._scanner.text[member.value : member.end]

    def value(self, name: str) -> Any:
        """Return the parsed value of a member, or None; raise ValueError above BUILT_BYTES."""
        text = self.text(name)
        if len(text) > BUILT_BYTES:
            raise ValueError("too large")
        return read_json(text) if text else None

    def object(self, name: str) -> Fields | None:
        member = self._members.get(name)
        return None if member is None else Fields.at(self._repair, member.value)

    def objects(self, name: str) -> list[Fields]:
        member = self._members.get(name)
        if member is None or not self._scanner.text.startswith(b"[", member.value):
            return []
        entries = [Fields.at(self._repair, at) for at, _ in self._scanner.elements(member.value)]
        return [entry for entry in entries if entry is not None]

    def put(self, name: str, value: Any, repair_name: str) -> None:
        """Replace the value of a member, or add the member. Raises ValueError if the value is nested too deep."""
        if (member := self._members.get(name)) is not None:
            self._note(repair_name, member.value, member.end, chunk.json_text(value))
            return
        new, is_last = chunk.json_text({name: value})[1:-1], not self._members
        # edits at one place are applied in their order
        pieces = (b"," if self._has_new else b"", new) if is_last else (new, b",")
        self._note(repair_name, self._at + 1, self._at + 1, *pieces)
        self._has_new = True

    def rename(self, name: str, new_name: str, repair_name: str) -> None:
        member = self._members[name]
        self._note(repair_name, member.start, member.value, b"%b:" % chunk.json_text(new_name))

    def _note(self, repair_name: str, start: int, end: int, *pieces: bytes) -> None:
        self._repair.edits.append(Edit(start, end, pieces))
        self._repair.names.append(repair_name)
