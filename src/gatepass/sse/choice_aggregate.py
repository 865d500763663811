"""Collect the choices of an aggregated reply from the chunks of a completion's stream."""

from __future__ import annotations

from base64 import b64encode
from binascii import a2b_base64
from types import MappingProxyType
from typing import Any

from gatepass.sse import chunk
from gatepass.sse.chunk import EnvelopeDefaults, Object
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


_ONCE = MappingProxyType({"function_call": "name", "audio": "id"})
"""The objects of a delta that are collected by themselves, and the text of each that upstreams repeat."""
_CHOICE = frozenset({"index", "delta", "message", "text", "logprobs", "finish_reason"})
_IN_FIXED_ORDER = frozenset({"role", "content", "refusal", *chunk.REASONING})


class ChoiceAggregator:
    """One choice, from its pieces. `is_text`: it is one of `/v1/completions`."""

    def __init__(self, entries: EntryCount, *, is_text: bool) -> None:
        self.is_text = is_text
        self.has_output = False
        """Whether the choice has any output or a finish reason. A role alone does not count."""
        self._entries = entries
        self._has_content = self._has_deltas = False
        self.reason = self._role = ""
        self._message = MemberAggregator(entries)
        self._tracker = ToolCallTracker()
        self._calls: list[_Call] = []
        self._parts: dict[str, MemberAggregator] = {}
        """The log probabilities, and what `_ONCE` names."""
        self._audio_data = Base64Text()
        self._extra: Object = {}

    @property
    def has_finished(self) -> bool:
        return bool(self.reason)

    @property
    def is_cut(self) -> bool:
        """Whether the choice has no finish reason, and no content or incomplete arguments of a call."""
        if self.reason:
            return False
        function = self._parts.get("function_call")
        if function is not None and not is_complete_json("".join(function.pieces("arguments"))):
            return True
        return not (self._has_content and all(call.is_complete for call in self._calls))

    def add(self, payload: Object) -> None:
        if self.is_text:
            text = payload.get("text")
            self._message.add("text", text if isinstance(text, str) else "")
        elif type(delta := payload.get("delta")) is dict:
            self._has_deltas = True
            self._add_delta(delta)
        elif not (self._has_deltas or self.reason) and isinstance(message := payload.get("message"), dict):
            self._add_delta(message)
        end = chunk.finish_reason(payload)
        self.has_output = self.has_output or chunk.has_output(payload, end)
        self._has_content = self._has_content or chunk.has_content(payload)
        self.reason = end or self.reason
        logprobs = payload.get("logprobs")
        if logprobs and isinstance(logprobs, dict):
            self._part("logprobs").add_all(logprobs)
        if not payload.keys() <= _CHOICE:
            for name, value in payload.items():
                if name not in _CHOICE:
                    self._entries.keep_last(self._extra, name, value)

    def _add_delta(self, delta: Object) -> None:
        for name, value in delta.items():
            if name == "role":
                # the first one that is not empty counts: RAGFlow sends the role in every delta
                self._role = self._role or (value if isinstance(value, str) else "")
            elif name == "tool_calls" and isinstance(value, list):
                for part in self._tracker.assign(value):
                    if part.is_first:
                        self._entries.add()
                        self._calls.append(_Call(part.call, self._entries))
                    self._calls[part.call.number].add(part.entry)
            elif name in _ONCE and isinstance(value, dict):
                if name == "audio" and isinstance(data := value.get("data"), str):
                    self._audio_data.add(data)
                    value = {**value, "data": None}
                self._part(name).add_all(value, once=_ONCE[name])
            else:
                self._message.add(name, value)

    def _part(self, name: str) -> MemberAggregator:
        if name not in self._parts:
            self._parts[name] = MemberAggregator(self._entries)
        return self._parts[name]

    def build(self, index: int, defaults: EnvelopeDefaults) -> Object:
        parts = {name: part.build() for name, part in self._parts.items()}
        logprobs = parts.get("logprobs")
        if self.is_text:
            text, reason = "".join(self._message.pieces("text")), self.reason or "stop"
            return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason, **self._extra}
        if logprobs is not None:
            logprobs = {"content": None, "refusal": None, **logprobs}
        has_tools, has_function = bool(self._calls), "function_call" in parts
        return {
            "index": index,
            "message": self._build_message(parts, defaults),
            "logprobs": logprobs,
            "finish_reason": chunk.completed_reason(self.reason, has_tools=has_tools, has_function=has_function),
            **self._extra,
        }

    def _build_message(self, parts: Object, defaults: EnvelopeDefaults) -> Object:
        members = self._message.build()
        message: Object = {
            "role": self._role or "assistant",
            "content": None,
            "refusal": members.get("refusal") or None,
        }
        message.update({name: members[name] for name in chunk.REASONING if name in members})
        if self._calls:
            message["tool_calls"] = [call.build(defaults) for call in self._calls]
        if "function_call" in parts:
            message["function_call"] = {"name": "", "arguments": "", **parts["function_call"]}
        if "audio" in parts:
            message["audio"] = {"transcript": "", **parts["audio"], "data": self._audio_data.text()}
        # As OpenAI does: content is null only if the message has something else
        has_other = message["refusal"] is not None or message.keys() & {"tool_calls", "function_call", "audio"}
        message["content"] = members.get("content", None if has_other else "")
        message.update({name: value for name, value in members.items() if name not in _IN_FIXED_ORDER})
        return message


class _Call:
    """One tool call, without `index`. Its first id, type and name count, because upstreams repeat them."""

    __slots__ = ("_arguments", "_call", "_entries", "_inner", "_kind", "_members")

    def __init__(self, call: ToolCall, entries: EntryCount) -> None:
        self._call = call
        self._entries = entries
        self._kind = "function"
        self._arguments: list[str] = []
        self._members: Object = {}
        self._inner: Object = {}

    @property
    def is_complete(self) -> bool:
        arguments = "".join(self._arguments)
        # The input of a custom call is free text: only an empty one is known to be incomplete
        return arguments != "" if self._kind == "custom" else is_complete_json(arguments)

    def add(self, payload: Object) -> None:
        for name, value in payload.items():
            if name in chunk.ARGUMENTS and isinstance(value, dict):
                self._kind = name
                # some upstreams send an object
                self._arguments.append(chunk.argument_text(value.get("arguments", value.get("input"))))
                for key, part in value.items():
                    if key not in chunk.ARGUMENTS.values():
                        self._keep(self._inner, "name", key, part)
            elif name not in ("index", "id", *chunk.ARGUMENTS):
                self._keep(self._members, "type", name, value)

    def _keep(self, members: Object, once: str, name: str, value: Any) -> None:
        if name != once:
            self._entries.keep_last(members, name, value)
        elif value and isinstance(value, str):
            members.setdefault(name, value)

    def build(self, defaults: EnvelopeDefaults) -> Object:
        return {
            "id": self._call.id or defaults.new_id("call_"),
            "type": self._kind,
            self._kind: {"name": "", chunk.ARGUMENTS[self._kind]: "".join(self._arguments), **self._inner},
            **self._members,
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

    def add_all(self, payload: Object, once: str = "") -> None:
        """Add each member; the text `once` only if there is none yet."""
        for name, value in payload.items():
            if name != once or not any(self.pieces(name)):
                self.add(name, value)

    def pieces(self, name: str) -> list[str]:
        return self._texts.get(name, [])

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
        """What the pieces encode, None if one of them is not base64 by itself. To decode 12 MiB at once takes 40 ms."""

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
