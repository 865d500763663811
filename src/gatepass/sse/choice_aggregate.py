"""Collect the choices of an aggregated reply from the chunks of a completion's stream."""

from __future__ import annotations

from base64 import b64encode
from binascii import a2b_base64
from typing import Any

from gatepass.sse.chunk import (
    REASONING,
    EnvelopeDefaults,
    Object,
    argument_text,
    completed_reason,
    finish_reason,
    has_content,
    has_output,
)
from gatepass.sse.tool_calls import ToolCall, ToolCallTracker, is_complete_json

MAX_REPLY_ENTRIES = 8 * 1024
"""Limit of the choices, tool calls and different members of an aggregated reply together."""


class TooManyEntries(Exception):
    """An aggregated reply has more than MAX_REPLY_ENTRIES."""


class EntryCount:
    """The number of choices, tool calls and members that one reply collects, with a limit."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_REPLY_ENTRIES

    def add(self) -> None:
        """Count one more; raise TooManyEntries above the limit."""
        self._left -= 1
        if self._left < 0:
            raise TooManyEntries

    def keep_last(self, members: Object, name: str, value: Any) -> None:
        """Set the member to `value`, unless `value` is empty and the member has a value."""
        if value is None:
            return
        if name not in members:
            self.add()
        elif value in ({}, []):
            return
        members[name] = value


_CHOICE = frozenset({"index", "delta", "message", "text", "logprobs", "finish_reason"})
_CHAT_CHOICE = frozenset({"index", "delta", "logprobs", "finish_reason"})
_IN_FIXED_ORDER = frozenset({"role", "content", "refusal", *REASONING})


class _Choice:
    """The part that chat and text choices share: finish reason, logprobs and unknown members."""

    __slots__ = ("_entries", "_extra", "_has_content", "_logprobs", "_reason", "has_output")

    def __init__(self, entries: EntryCount) -> None:
        self._entries = entries
        self.has_output = False
        """Whether the choice has any output or a finish reason. A role alone does not count."""
        self._has_content = False
        self._reason = ""
        self._logprobs: MemberAggregator | None = None
        self._extra: Object = {}

    @property
    def has_finished(self) -> bool:
        return bool(self._reason)

    @property
    def is_cut(self) -> bool:
        """Whether the choice has no finish reason, and no content or incomplete arguments of a call."""
        return not (self._reason or self._has_content)

    def _add_common(self, payload: Object, known: frozenset[str]) -> None:
        self.has_output = self.has_output or has_output(payload)
        self._has_content = self._has_content or has_content(payload)
        self._reason = finish_reason(payload) or self._reason
        logprobs = payload.get("logprobs")
        if logprobs and isinstance(logprobs, dict):
            self._logprobs = self._logprobs or MemberAggregator(self._entries)
            for name, value in logprobs.items():
                self._logprobs.add(name, value)
        if not payload.keys() <= known:
            for name, value in payload.items():
                if name not in _CHOICE:
                    self._entries.keep_last(self._extra, name, value)

    def _built_logprobs(self, names: tuple[str, ...]) -> Object | None:
        """Return the logprobs, with null for each of `names` that the upstream did not send."""
        if self._logprobs is None:
            return None
        return {**dict.fromkeys(names), **self._logprobs.build()}


class ChatChoice(_Choice):
    """A choice of a chat, from its deltas."""

    __slots__ = ("_audio", "_audio_data", "_calls", "_function_call", "_has_deltas", "_message", "_role", "_tracker")

    def __init__(self, entries: EntryCount) -> None:
        super().__init__(entries)
        self._message = MemberAggregator(entries)
        self._role = ""
        self._tracker = ToolCallTracker()
        self._calls: list[_Call] = []
        self._function_call: MemberAggregator | None = None
        self._audio: MemberAggregator | None = None
        self._audio_data: Base64Text | None = None
        self._has_deltas = False

    @property
    def is_cut(self) -> bool:
        if self._reason:
            return False
        function = None if self._function_call is None else self._function_call.text("arguments") or ""
        calls_complete = all(call.is_complete for call in self._calls)
        return not (self._has_content and calls_complete and (function is None or is_complete_json(function)))

    def add(self, payload: Object) -> None:
        delta = payload.get("delta")
        if type(delta) is dict:
            self._has_deltas = True
            self._add_delta(delta)
        elif not (self._has_deltas or self._reason) and isinstance(message := payload.get("message"), dict):
            self._add_delta(message)
        self._add_common(payload, _CHAT_CHOICE)

    def _add_delta(self, delta: Object) -> None:
        for name, value in delta.items():
            if value is None:
                continue
            if name == "role":
                # once, because RAGFlow sends the role in every delta
                self._role = self._role or (value if isinstance(value, str) else "")
            elif name == "tool_calls" and isinstance(value, list):
                for part in self._tracker.assign(value):
                    if part.is_first:
                        self._entries.add()
                        self._calls.append(_Call(part.call, self._entries))
                    self._calls[part.call.number].add(part.entry)
            elif name == "function_call" and isinstance(value, dict):
                call = self._function_call = self._function_call or MemberAggregator(self._entries)
                for key, part in value.items():
                    if key != "name" or not call.text("name"):  # upstreams repeat the name
                        call.add(key, part)
            elif name == "audio" and isinstance(value, dict):
                audio = self._audio = self._audio or MemberAggregator(self._entries)
                for key, part in value.items():
                    if key == "data" and isinstance(part, str):
                        self._audio_data = self._audio_data or Base64Text()
                        self._audio_data.add(part)
                    elif key != "id" or not audio.text("id"):  # every delta repeats the id
                        audio.add(key, part)
            else:
                self._message.add(name, value)

    def build(self, index: int, defaults: EnvelopeDefaults) -> Object:
        """Return the choice of a plain reply."""
        has_function = self._function_call is not None
        return {
            "index": index,
            "message": self._build_message(defaults),
            "logprobs": self._built_logprobs(("content", "refusal")),
            "finish_reason": completed_reason(self._reason, has_tools=bool(self._calls), has_function=has_function),
            **self._extra,
        }

    def _build_message(self, defaults: EnvelopeDefaults) -> Object:
        members = self._message.build()
        message: Object = {
            "role": self._role or "assistant",
            "content": None,
            "refusal": members.get("refusal") or None,
        }
        message.update({name: members[name] for name in REASONING if name in members})
        if self._calls:
            message["tool_calls"] = [call.build(defaults) for call in self._calls]
        if self._function_call is not None:
            message["function_call"] = {"name": "", "arguments": "", **self._function_call.build()}
        if self._audio is not None:
            data = "" if self._audio_data is None else self._audio_data.text()
            message["audio"] = {"transcript": "", **self._audio.build(), "data": data}
        # As OpenAI does: content is null only if the message has something else
        has_other = message["refusal"] is not None or message.keys() & {"tool_calls", "function_call", "audio"}
        message["content"] = members.get("content", None if has_other else "")
        message.update({name: value for name, value in members.items() if name not in _IN_FIXED_ORDER})
        return message


class TextChoice(_Choice):
    __slots__ = ("_texts",)

    def __init__(self, entries: EntryCount) -> None:
        super().__init__(entries)
        self._texts: list[str] = []

    def add(self, payload: Object) -> None:
        text = payload.get("text")
        if isinstance(text, str):
            self._texts.append(text)
        self._add_common(payload, _CHOICE)

    def build(self, index: int, _defaults: EnvelopeDefaults) -> Object:
        return {
            "text": "".join(self._texts),
            "index": index,
            "logprobs": self._built_logprobs(()),
            "finish_reason": self._reason or "stop",
            **self._extra,
        }


_KNOWN_OF_CALL = frozenset({"index", "id", "type", "function", "custom"})
_KNOWN_OF_FUNCTION = frozenset({"name", "arguments", "input"})


class _Call:
    """One tool call, without `index`. Its first id, type and name count, because upstreams repeat them."""

    __slots__ = ("_arguments", "_call", "_entries", "_extra", "_inner_extra", "_kind", "_name", "_type")

    def __init__(self, call: ToolCall, entries: EntryCount) -> None:
        self._call = call
        self._entries = entries
        self._kind = "function"
        self._type = self._name = ""
        self._arguments: list[str] = []
        self._extra: Object = {}
        self._inner_extra: Object = {}

    @property
    def is_complete(self) -> bool:
        arguments = "".join(self._arguments)
        # The input of a custom call is free text: only an empty one is known to be incomplete
        return arguments != "" if self._kind == "custom" else is_complete_json(arguments)

    def add(self, payload: Object) -> None:
        kind = payload.get("type")
        if isinstance(kind, str) and not self._type:
            self._type = kind
        for name, value in payload.items():
            if name in ("function", "custom") and isinstance(value, dict):
                self._kind = name
                self._add_inner(value)
            elif name not in _KNOWN_OF_CALL:
                self._entries.keep_last(self._extra, name, value)

    def _add_inner(self, payload: Object) -> None:
        name = payload.get("name")
        if isinstance(name, str) and not self._name:
            self._name = name
        arguments = payload.get("arguments", payload.get("input"))
        if arguments is not None:
            # some upstreams send an object where the API has its text
            self._arguments.append(argument_text(arguments))
        if payload.keys() - _KNOWN_OF_FUNCTION:
            for key, value in payload.items():
                if key not in _KNOWN_OF_FUNCTION:
                    self._entries.keep_last(self._inner_extra, key, value)

    def build(self, defaults: EnvelopeDefaults) -> Object:
        arguments_name = "input" if self._kind == "custom" else "arguments"
        return {
            "id": self._call.id or defaults.new_id("call_"),
            "type": self._type or self._kind,
            self._kind: {"name": self._name, arguments_name: "".join(self._arguments), **self._inner_extra},
            **self._extra,
        }


class MemberAggregator:
    """Joins the pieces of one object's members.

    Texts are joined and lists are extended. Of other values it keeps the last one, and ignores empty ones.
    """

    __slots__ = ("_entries", "_lists", "_texts", "_values")

    def __init__(self, entries: EntryCount) -> None:
        self._entries = entries
        self._texts: dict[str, list[str]] = {}
        self._lists: dict[str, list[Any]] = {}
        self._values: Object = {}

    def add(self, name: str, value: Any) -> None:
        if type(value) is str:
            texts = self._texts.get(name)
            if texts is None:
                self._entries.add()
                self._texts[name] = [value]
            else:
                texts.append(value)
        elif type(value) is list:
            if name not in self._lists:
                self._entries.add()
            self._lists.setdefault(name, []).extend(value)
        elif value is not None:
            self._entries.keep_last(self._values, name, value)

    def text(self, name: str) -> str | None:
        pieces = self._texts.get(name)
        return None if pieces is None else "".join(pieces)

    def build(self) -> Object:
        """Return all members. If a member came as text and as a list, its text becomes the first part of the list."""
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        lists = {
            name: [{"type": "text", "text": texts.pop(name)}, *parts] if texts.get(name) else parts
            for name, parts in self._lists.items()
        }
        return {**self._values, **texts, **lists}


_BASE64_GROUP = 4


class Base64Text:
    """One base64 text from several. They may be cut anywhere, or each be encoded with its own padding."""

    __slots__ = ("_data", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._data: bytearray | None = bytearray()
        """What the pieces encode, None if one of them is not base64 by itself."""

    def add(self, piece: str) -> None:
        self._pieces.append(piece)
        if self._data is None:
            return
        bare = piece.rstrip("=")
        try:
            self._data += a2b_base64(bare + "=" * (-len(bare) % _BASE64_GROUP), strict_mode=True)
        except ValueError:
            self._data = None

    def text(self) -> str:
        joined = "".join(self._pieces)
        # base64 has padding only at its end (RFC 4648, section 4)
        is_whole = "=" not in joined.rstrip("=") and len(joined) % _BASE64_GROUP == 0
        return joined if is_whole or self._data is None else b64encode(self._data).decode()
