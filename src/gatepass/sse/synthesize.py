"""A stream made of one whole reply: for an upstream that does not stream, or did not though it was asked to.

Each rule was tried on openai-python 2.x and 3.x, openai-node and langchain-openai, raw and through
their helpers: `role` once for each choice, ids and names of tool calls once, `index` on every tool
delta, no content beside a finish reason, usage only where it was asked for and then alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gatepass.sse.chunk import (
    CHAT_CHUNK,
    ENVELOPE,
    LEGACY,
    EnvelopeDefaults,
    Object,
    complete_envelope,
    encode_event,
    has_too_many_entries,
    json_text,
    text_of_id,
)
from gatepass.sse.event import DONE

PIECE_CHARS = 131_072
"""Longer texts are cut: RAGFlow's Go client gives up on a line of 1 MiB (`bufio.Scanner`), and JSON may
make six bytes of a character. A cut is never inside a character."""

_REASONING = ("reasoning_content", "reasoning")
_MESSAGE = frozenset({"role", "content", *_REASONING, "refusal", "tool_calls", "function_call", "audio"})
_CHOICE = frozenset({"index", "message", "delta", "text", "logprobs", "finish_reason"})
_TOP = frozenset({*ENVELOPE, "choices", "usage"})
_CONTENT = {"function": "arguments", "custom": "input"}


def synthesise(
    document: Object, include_usage: bool, defaults: EnvelopeDefaults, piece_chars: int = PIECE_CHARS
) -> Iterator[bytes]:
    """The events, `[DONE]` with them, of a stream that says what `document` says.

    `document` is a `chat.completion` or a `text_completion`, parsed and judged. Members that nobody
    knows survive: those of a message in one delta, those of a choice beside its finish reason, those
    of the document in the first chunk. Raises ValueError for what is nested too deep to be written, and for too many
    choices or tool calls.
    """
    for chunk in chunks(document, include_usage, defaults, piece_chars):
        yield encode_event(chunk)
    yield DONE


def chunks(
    document: Object, include_usage: bool, defaults: EnvelopeDefaults, piece_chars: int = PIECE_CHARS
) -> Iterator[Object]:
    """The chunks of that stream, before they are written."""
    if has_too_many_entries(document.get("choices")):
        raise ValueError("too many choices or tool calls")
    choices = _choices(document)
    is_legacy = any("text" in choice for _, choice in choices)
    head = complete_envelope(
        document, defaults, LEGACY if is_legacy else CHAT_CHUNK, "cmpl-" if is_legacy else "chatcmpl-"
    )
    extras = _rest(document, _TOP)
    usage: Object = {"usage": None} if include_usage else {}
    make = _LegacyChoice if is_legacy else _ChatChoice
    made = [make(index, choice, defaults, piece_chars) for index, choice in choices]
    for steps in ([one.pieces() for one in made], [one.end() for one in made]):
        for pieces in steps:
            for piece in pieces:
                yield {**head, "choices": [piece], **usage, **extras}
                extras = {}
    if include_usage and isinstance(document.get("usage"), dict):
        yield {**head, "choices": [], "usage": _counted(document["usage"])}


def _choices(document: Object) -> list[tuple[int, Object]]:
    """The choices in ascending order, each with an index of its own."""
    found = document.get("choices")
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    indices = [entry.get("index") for entry in entries]
    if not all(type(index) is int and index >= 0 for index in indices) or len(set(indices)) < len(indices):
        return list(enumerate(entries))
    return sorted(((entry["index"], entry) for entry in entries), key=lambda pair: pair[0])


def _rest(payload: Object, known: frozenset[str]) -> Object:
    return {name: value for name, value in payload.items() if name not in known and value is not None}


def _counted(usage: Object) -> Object:
    """`usage` with the sum that clients add up without a look: RAGFlow fails on a `total_tokens` of null."""
    parts = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if usage.get("total_tokens") is None and all(type(part) is int for part in parts):
        return {**usage, "total_tokens": sum(parts)}
    return usage


def _cut(text: str, piece_chars: int) -> Iterable[str]:
    return (text[at : at + piece_chars] for at in range(0, len(text), piece_chars))


class _ChatChoice:
    """The pieces of one choice of a chat."""

    def __init__(self, index: int, choice: Object, defaults: EnvelopeDefaults, piece_chars: int) -> None:
        self._index = index
        self._choice = choice
        self._origin = defaults
        self._piece_chars = piece_chars
        message = choice.get("message")
        message = message if isinstance(message, dict) else choice.get("delta")
        self._message: Object = message if isinstance(message, dict) else {}
        calls = self._message.get("tool_calls")
        self._calls = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
        logprobs = choice.get("logprobs")
        self._logprobs: Object = logprobs if isinstance(logprobs, dict) else {}

    def pieces(self) -> Iterator[Object]:
        message = self._message
        yield self._piece({"role": message.get("role") or "assistant", "content": self._first_content()})
        for name in _REASONING:
            yield from self._texts(name)
        yield from self._spoken("content", self._logprobs_without("refusal"))
        yield from self._spoken("refusal", {"refusal": self._logprobs.get("refusal")})
        for number, call in enumerate(self._calls):
            for delta in _call_deltas(number, call, self._origin, self._piece_chars):
                yield self._piece({"tool_calls": [delta]})
        for name in ("function_call", "audio"):
            if isinstance(message.get(name), dict):
                yield self._piece({name: _called(message[name]) if name == "function_call" else message[name]})
        if extras := _rest(message, _MESSAGE):
            yield self._piece(extras)

    def end(self) -> Iterator[Object]:
        reason = self._choice.get("finish_reason")
        if self._calls and reason in (None, "", "stop"):
            reason = "tool_calls"
        elif not reason:
            reason = "function_call" if isinstance(self._message.get("function_call"), dict) else "stop"
        yield self._piece({}, finish_reason=reason, **_rest(self._choice, _CHOICE))

    def _piece(self, delta: Object, **more: Any) -> Object:
        return {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": None, **more}

    def _first_content(self) -> str | None:
        """Null where the message has something else to say in its place."""
        message = self._message
        has_other = self._calls or any(message.get(name) for name in ("function_call", "audio", "refusal"))
        return None if message.get("content") is None and has_other else ""

    def _texts(self, name: str) -> Iterator[Object]:
        value = self._message.get(name)
        if isinstance(value, str):
            yield from (self._piece({name: part}) for part in _cut(value, self._piece_chars))
        elif value:
            yield self._piece({name: value})

    def _spoken(self, name: str, logprobs: Object) -> Iterator[Object]:
        """A text that may have logprobs: then it stays whole, and they go with it."""
        if not any(logprobs.values()):
            yield from self._texts(name)
            return
        value = self._message.get(name)
        yield self._piece({name: value} if value else {}, logprobs={"content": None, "refusal": None, **logprobs})

    def _logprobs_without(self, name: str) -> Object:
        return {key: value for key, value in self._logprobs.items() if key != name}


def _called(payload: Object) -> Object:
    return {**payload, "arguments": argument_text(payload.get("arguments"))}


def _call_deltas(number: int, call: Object, defaults: EnvelopeDefaults, piece_chars: int) -> Iterator[Object]:
    """The opener with the id, the name and whatever else is known of the call, then its arguments."""
    kind = "custom" if isinstance(call.get("custom"), dict) else "function"
    payload = call.get(kind)
    inner: Object = payload if isinstance(payload, dict) else {}
    arguments = _CONTENT[kind]
    yield {
        **_rest(call, frozenset({"index", "id", "type", kind})),
        "index": number,
        "id": text_of_id(call.get("id")) or defaults.new_id("call_"),
        "type": call.get("type") or kind,
        kind: {**inner, "name": inner.get("name") or "", arguments: ""},
    }
    for part in _cut(argument_text(inner.get(arguments)), piece_chars):
        yield {"index": number, kind: {arguments: part}}


def argument_text(arguments: Any) -> str:
    """Arguments as the text that clients parse; some upstreams send the object itself."""
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return json_text(arguments).decode()


class _LegacyChoice:
    """The pieces of one choice of `/v1/completions`."""

    def __init__(self, index: int, choice: Object, _origin: EnvelopeDefaults, piece_chars: int) -> None:
        self._index = index
        self._choice = choice
        self._piece_chars = piece_chars

    def pieces(self) -> Iterator[Object]:
        text = self._choice.get("text")
        text = text if isinstance(text, str) else ""
        logprobs = self._choice.get("logprobs")
        parts = [text] if logprobs is not None else _cut(text, self._piece_chars)
        for part in parts:
            yield {"text": part, "index": self._index, "logprobs": logprobs, "finish_reason": None}

    def end(self) -> Iterator[Object]:
        reason = self._choice.get("finish_reason") or "stop"
        more = _rest(self._choice, _CHOICE)
        yield {"text": "", "index": self._index, "logprobs": None, "finish_reason": reason, **more}
