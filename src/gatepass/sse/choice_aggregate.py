"""Merge repaired chunks to a completion: those of a stream, or the one of a whole reply."""

from __future__ import annotations

from collections.abc import Container, Mapping
from operator import itemgetter
from typing import Any

from gatepass.sse import chunk
from gatepass.sse.chunk import EnvelopeDefaults, Object

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


_KNOWN_OF_CHUNK = frozenset({*chunk.ENVELOPE, "choices", "usage", "obfuscation"})
"""OpenAI pads each event with a random `obfuscation`; a plain reply has none."""


class CompletionMerge:
    """Merges the chunks of a completion, which are repaired. Raises TooManyEntries."""

    def __init__(self, defaults: EnvelopeDefaults) -> None:
        self._defaults = defaults
        self._choices: dict[int, ChoiceAggregator] = {}
        self._entries = EntryCount()
        self._envelope: Object = {}
        self._extra: Object = {}
        self.usage: Object | None = None
        """The last one: vLLM, SGLang and DashScope can send a usage in every chunk."""

    def add(self, fields: Object) -> None:
        choices = fields.get("choices")
        choices = [one for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
        for payload in choices:
            index = payload.get("index")
            if type(index) is not int:  # of an error that no client reads, which is not repaired
                continue
            choice = self._choices.get(index)
            if choice is None:
                if len(self._choices) >= chunk.MAX_ENTRIES:
                    raise TooManyEntries
                # The first piece of a choice decides its kind
                is_text = "text" in payload and "delta" not in payload
                self._entries.add()
                choice = self._choices[index] = ChoiceAggregator(self._entries, is_text=is_text)
            choice.add(payload)
        usage = fields.get("usage")
        if usage and isinstance(usage, dict):
            self.usage = usage
        for name in chunk.ENVELOPE:
            if name not in self._envelope and fields.get(name):
                self._envelope[name] = fields[name]
        if not fields.keys() <= _KNOWN_OF_CHUNK:
            for name, value in fields.items():
                if name not in _KNOWN_OF_CHUNK:
                    self._entries.keep_last(self._extra, name, value)

    def build(self) -> Object:
        is_text = any(choice.is_text for choice in self._choices.values())
        object_name, id_prefix = (chunk.LEGACY, "cmpl-") if is_text else (chunk.CHAT, "chatcmpl-")
        envelope = chunk.complete_envelope(self._envelope, self._defaults, object_name, id_prefix)
        choices = [choice.build(index) for index, choice in sorted(self._choices.items(), key=itemgetter(0))]
        usage: Object = {} if self.usage is None else {"usage": self.usage}
        return {**envelope, "choices": choices, **self._extra, **usage}


_ONCE = frozenset({"role", "id", "type", "name"})
"""The texts that upstreams repeat in each piece: the first one counts. A call's name may be in pieces."""
_ONCE_IN_CALL = _ONCE - {"name"}
_EMPTY: Mapping[str, Object] = {
    "audio": {"data": "", "transcript": ""},
    "function_call": {"name": "", "arguments": ""},
    **{kind: {"name": "", arguments: ""} for kind, arguments in chunk.ARGUMENTS.items()},
}
"""The objects of a delta, or of a call, whose members are merged, with what SDKs require of them."""
_CHOICE = frozenset({"index", "delta", "message", "text", "logprobs"})
_IN_FIXED_ORDER = frozenset({"role", "content", "refusal", *chunk.REASONING})


class ChoiceAggregator:
    """One choice, from its repaired pieces. `is_text`: it is one of `/v1/completions`."""

    def __init__(self, entries: EntryCount, *, is_text: bool) -> None:
        self.is_text = is_text
        self._entries = entries
        self._reason: str | None = None
        self._message = MemberAggregator(entries)
        self._logprobs: MemberAggregator | None = None
        self._extra: Object = {}

    def add(self, payload: Object) -> None:
        for name, value in payload.items():
            if name == "delta" and isinstance(value, dict):
                self._message.add_all(value)
            elif name == "text" and self.is_text:
                self._message.add(name, value)
            elif name == "finish_reason":
                self._reason = chunk.finish_reason(payload) or self._reason
            elif name == "logprobs" and isinstance(value, dict):
                self._logprobs = self._logprobs or MemberAggregator(self._entries)
                self._logprobs.add_all(value)
            elif name not in _CHOICE:
                self._entries.keep_last(self._extra, name, value)

    def build(self, index: int) -> Object:
        logprobs = None if self._logprobs is None else self._logprobs.build()
        reason = self._reason or "stop"
        if self.is_text:
            text = self._message.build().get("text", "")
            return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason, **self._extra}
        if logprobs is not None:
            logprobs = {"content": None, "refusal": None, **logprobs}
        return {
            "index": index,
            "message": self._build_message(),
            "logprobs": logprobs,
            "finish_reason": reason,
            **self._extra,
        }

    def _build_message(self) -> Object:
        members = self._message.build()
        message: Object = {
            "role": members.get("role", "assistant"),
            "content": None,
            "refusal": members.get("refusal") or None,
        }
        message.update({name: members[name] for name in chunk.REASONING if name in members})
        # As OpenAI does: content is null only if the message has something else
        has_other = message["refusal"] is not None or members.keys() & {"tool_calls", "function_call", "audio"}
        message["content"] = members.get("content", None if has_other else "")
        message.update({name: value for name, value in members.items() if name not in _IN_FIXED_ORDER})
        return message


class MemberAggregator:
    """Merges the pieces of one object's members.

    Texts are joined, lists are extended, and calls and the objects of `_EMPTY` are merged. Of other values it keeps
    the last one, and ignores empty ones.
    """

    __slots__ = ("_calls", "_entries", "_lists", "_merged", "_once", "_texts", "_values")

    def __init__(self, entries: EntryCount, once: Container[str] = _ONCE) -> None:
        self._entries, self._once = entries, once
        self._texts: dict[str, list[str]] = {}
        self._lists: dict[str, list[Any]] = {}
        self._merged: dict[str, MemberAggregator] = {}
        self._calls: dict[int, MemberAggregator] = {}
        self._values: Object = {}

    def add(self, name: str, value: Any) -> None:
        if type(value) is str:
            texts = self._texts.get(name)
            if texts is None:
                self._entries.add()
                self._texts[name] = [value]
            elif name not in self._once:
                texts.append(value)
            elif texts == [""]:
                texts[0] = value
        elif name == "tool_calls" and type(value) is list:
            for entry in value:
                if isinstance(entry, dict) and type(number := entry.get("index")) is int:
                    self._member(self._calls, number).add_all({**entry, "index": None})
        elif type(value) is list:
            if name not in self._lists:
                self._entries.add()
            self._lists.setdefault(name, []).extend(value)
        elif name in _EMPTY and type(value) is dict:
            self._member(self._merged, name, _ONCE_IN_CALL).add_all(value)
        elif value is not None:
            self._entries.keep_last(self._values, name, value)

    def _member(
        self, members: dict[Any, MemberAggregator], name: str | int, once: Container[str] = _ONCE
    ) -> MemberAggregator:
        if name not in members:
            self._entries.add()
            members[name] = MemberAggregator(self._entries, once)
        return members[name]

    def add_all(self, payload: Object) -> None:
        for name, value in payload.items():
            self.add(name, value)

    def build(self) -> Object:
        """Return all members. If a member came as text and as a list, its text becomes the first part of the list."""
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        lists = {
            name: [{"type": "text", "text": texts.pop(name)}, *parts] if texts.get(name) else parts
            for name, parts in self._lists.items()
        }
        made: Object = {name: {**_EMPTY.get(name, {}), **one.build()} for name, one in self._merged.items()}
        if self._calls:
            made["tool_calls"] = [call.build() for call in self._calls.values()]
        return {**self._values, **texts, **lists, **made}
