"""Build a synthesized stream: a stream from one whole reply, for an upstream that does not stream.

Each rule was tried with openai-python 2.x and 3.x, openai-node and langchain-openai, with their raw streams and their
helpers:

- `role` is sent once for each choice.
- The id and the name of a tool call are sent once, and `index` in every tool delta.
- A chunk with a finish reason has no content.
- Usage is sent only on request, in a separate chunk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from gatepass.json_body import SMALL_BYTES, UNCOUNTED_BYTES, lacks, searched
from gatepass.sse import chunk
from gatepass.sse.chunk import EnvelopeDefaults, Object
from gatepass.sse.event import read_json

SYNTHESIZED = "stream=synth"
"""The entry of `x-gatepass-adapted` for a synthesized stream."""

PIECE_CHARS = 131_072
"""Longer texts are cut between characters. RAGFlow's Go client rejects lines of 1 MiB (`bufio.Scanner`), and JSON
may need six bytes for a character."""

_TEXTS = (*chunk.REASONING, "reasoning_details", "content", "refusal")
_MESSAGE = frozenset({*chunk.REASONING_MEMBERS, "content", "refusal", "tool_calls", "function_call", "audio"})
_CHOICE = frozenset({"index", "message", "delta", "text", "logprobs", "finish_reason"})
_DOCUMENT = frozenset({*chunk.ENVELOPE, "choices", "usage"})
_CONTENT, _REWRITTEN = re.compile(rb'"content"\s*+:\s*+(?=")'), searched(r"\\[u/]")
"""The name of a content, and an escape that is written again in another way."""


def read_document(body: bytes, text: msgspec.Raw) -> Any:
    """Return the completion `body`. Its first content, `text`, remains JSON if it would be written again as it is.

    A stream of 10 KB takes a tenth fewer instructions if its text is not built and written (msgspec 0.22). Raises
    ValueError as `read_json` does.
    """
    view, found = memoryview(text), _CONTENT.search(body)
    at = 0 if found is None else found.end()
    is_usual = SMALL_BYTES < view.nbytes <= PIECE_CHARS and len(body) <= UNCOUNTED_BYTES
    if is_usual and body.startswith(view, at) and lacks(body, _REWRITTEN):
        document = read_json(b'%b""%b' % (body[:at], body[at + view.nbytes :]))
        message = document["choices"][0]["message"]
        if message["content"] == "":  # it was not the content of something else
            message["content"] = text
            return document
    return read_json(body)


def chunks(
    document: Object, include_usage: bool, defaults: EnvelopeDefaults, piece_chars: int = PIECE_CHARS
) -> Iterator[Object]:
    """Yield the chunks of a stream with the content of `document`, a `chat.completion` or a `text_completion`.

    Unknown members survive: those of a message in a separate delta, those of a choice with its finish reason, those of
    the document in the first chunk. What clients require is the repair's. Raises ValueError for too many choices.
    """
    if chunk.has_too_many_entries(document.get("choices")):
        raise ValueError("too many choices or tool calls")
    choices = _choices(document)
    is_legacy = any("text" in choice for _, choice in choices)
    object_name, id_prefix = (chunk.LEGACY, "cmpl-") if is_legacy else (chunk.CHAT_CHUNK, "chatcmpl-")
    envelope = chunk.complete_envelope(document, defaults, object_name, id_prefix)
    extra = _unknown_members(document, _DOCUMENT)
    usage: Object = {"usage": None} if include_usage else {}
    pieces: Callable[[Object, int], Iterator[tuple[Any, Any]]] = _text_pieces if is_legacy else _deltas
    for index, choice in choices:
        for piece, logprobs in pieces(choice, piece_chars):
            text: Object = {"text": piece, "index": index} if is_legacy else {"index": index, "delta": piece}
            yield {**envelope, "choices": [{**text, "logprobs": logprobs, "finish_reason": None}], **usage, **extra}
            extra = {}  # only in the first chunk
    # The text of all choices comes before the first finish reason
    for index, choice in choices:
        yield {**envelope, "choices": [_end(index, choice, is_legacy=is_legacy)], **usage, **extra}
        extra = {}
    if include_usage and isinstance(counts := document.get("usage"), dict):
        yield {**envelope, "choices": [], "usage": counts}


def _choices(document: Object) -> list[tuple[int, Object]]:
    """Return the choices with their indices, in ascending order. Unusable indices are replaced by positions."""
    found = document.get("choices")
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    indices = [entry.get("index") for entry in entries]
    is_usual = indices == [*range(len(indices))]
    if is_usual or not all(type(one) is int and one >= 0 for one in indices) or len(set(indices)) < len(indices):
        return list(enumerate(entries))
    return sorted(((entry["index"], entry) for entry in entries), key=lambda pair: pair[0])


def _deltas(choice: Object, piece_chars: int) -> Iterator[tuple[Object, Object | None]]:
    message: Object = next((one for one in (choice.get("message"), choice.get("delta")) if isinstance(one, dict)), {})
    calls = [call for call in chunk.calls_of(message) if isinstance(call, dict)]
    # As OpenAI does: content is null if the message has something else instead
    is_text = message.get("content") is not None
    has_other = not is_text and (calls or any(map(message.get, ("function_call", "audio", "refusal"))))
    # with content, because Spring AI fails at a first delta without it
    yield {"role": message.get("role") or "assistant", "content": None if has_other else ""}, None
    by_text: dict[str, Object] = {}
    if isinstance(sent := choice.get("logprobs"), dict):
        logprobs: Object = {"content": None, "refusal": None, **sent}
        by_text["content"] = {**logprobs, "refusal": None}
        by_text["refusal"] = {"content": None, "refusal": logprobs["refusal"]}
    for name in _TEXTS:
        value = message.get(name)
        if by_text and any((logprobs := by_text.get(name, {})).values()):  # a text with logprobs is not cut
            yield {name: value} if value else {}, logprobs
        elif value:
            parts = split_text(value, piece_chars) if isinstance(value, str) else [value]
            yield from [({name: part}, None) for part in parts]
    for number, call in enumerate(calls):
        for delta in _call_deltas(number, call, piece_chars):
            yield {"tool_calls": [delta]}, None
    if isinstance(function := message.get("function_call"), dict):
        yield {"function_call": function}, None
    if isinstance(message.get("audio"), dict):
        yield {"audio": message["audio"]}, None
    if extra := _unknown_members(message, _MESSAGE):
        yield extra, None


def _text_pieces(choice: Object, piece_chars: int) -> Iterator[tuple[str, Any]]:
    text = choice.get("text")
    text = text if isinstance(text, str) else ""
    logprobs = choice.get("logprobs")
    # the offsets in the logprobs count from the beginning of the whole text
    for part in [text] if logprobs is not None else split_text(text, piece_chars):
        yield part, logprobs


def _end(index: int, choice: Object, *, is_legacy: bool) -> Object:
    head: Object = {"text": "", "index": index} if is_legacy else {"index": index, "delta": {}}
    reason = chunk.finish_reason(choice) or "stop"
    return {**head, "logprobs": None, "finish_reason": reason, **_unknown_members(choice, _CHOICE)}


def _call_deltas(number: int, call: Object, piece_chars: int) -> Iterator[Object]:
    kind = next((kind for kind in chunk.ARGUMENTS if isinstance(call.get(kind), dict)), "function")
    inner, arguments = call.get(kind), chunk.ARGUMENTS[kind]
    text = inner.get(arguments) if isinstance(inner, dict) else None
    opened = {kind: {**inner, arguments: ""}} if isinstance(inner, dict) and isinstance(text, str) else {}
    yield {"index": number, **_unknown_members(call, frozenset({"index"})), **opened}
    for part in split_text(text, piece_chars) if isinstance(text, str) else ():
        yield {"index": number, kind: {arguments: part}}


def _unknown_members(payload: Object, known: frozenset[str]) -> Object:
    if known.issuperset(payload):  # nearly always
        return {}
    return {name: value for name, value in payload.items() if name not in known and value is not None}


def split_text(text: str, most_chars: int) -> list[str]:
    return [text[at : at + most_chars] for at in range(0, len(text), most_chars)]
