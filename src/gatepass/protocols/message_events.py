"""The events of Anthropic's Messages API: record them, repair them, and convert between a message and its stream.

The events and their order follow https://docs.claude.com/en/docs/build-with-claude/streaming.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from msgspec.structs import asdict

from gatepass.errors import GatepassError, UpstreamInvalid
from gatepass.sse import chunk
from gatepass.sse.aggregate import StreamAggregator
from gatepass.sse.asked import NOTHING, Asked
from gatepass.sse.choice_aggregate import MAX_REPLY_ENTRIES
from gatepass.sse.chunk import (
    MAX_ENTRIES,
    EnvelopeDefaults,
    Object,
    StreamSource,
    event_kind,
    event_of,
    json_text,
    text_of_id,
)
from gatepass.sse.event import parse_event, read_json
from gatepass.sse.progress import Progress
from gatepass.sse.repair import EventRepair
from gatepass.sse.tool_calls import ArgumentBuffer, arguments_fault, is_at_limit
from gatepass.sse.usage import Usage

USAGE, STOP_REASON, EVENT_NAME = "repair=message-usage", "repair=stop-reason", "sse=event-name"
INPUT = "repair=tool-input"
NAMES = (USAGE, STOP_REASON, EVENT_NAME, INPUT)
"""The repairs.

- USAGE: It adds `input_tokens` and `output_tokens`, as zero, to the usage of a message that lacks them. Claude Code
  fails without them (BerriAI/litellm#24176).
- STOP_REASON: It adds the `stop_reason` that a message lacks, to a stream in a `message_delta` before `message_stop`.
  The AI SDK runs the tools of a message without one, and then ends the task without an answer. After the cut input of a
  tool it is `max_tokens`, if that many were used; otherwise the message is an error.
- INPUT: The input of a tool that is a text becomes an object.
- EVENT_NAME: It adds the line `event:` that an event lacks. Anthropic's SDKs ignore an event without it.
"""

_COUNTS = ("input_tokens", "output_tokens")


def complete_usage(message: Object) -> bool:
    """Complete the usage of `message`. Return whether a count was missing."""
    usage = message.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    if all(type(counts.get(name)) is int for name in _COUNTS):
        return False
    message["usage"] = counts | {name: 0 for name in _COUNTS if type(counts.get(name)) is not int}
    return True


def stop_reason(*, calls_tool: bool) -> str:
    return "tool_use" if calls_tool else "end_turn"


COMPLETE = (None, "end_turn", "tool_use", "stop_sequence")
"""The stop reasons of a message that was not cut."""


def calls_tool(block: Any) -> bool:
    """Whether `block` is a call of a tool that the client runs."""
    return isinstance(block, dict) and block.get("type") == "tool_use"


def complete_inputs(message: Object, asked: Asked) -> bool:
    """Read the inputs of tools that are texts. Return whether one was found.

    Calls that a limit cut are left out. Raises AnswerFault for others that were cut, and for a message that ends with a
    call and has none.
    """
    has_text, is_kept = False, message.get("stop_reason") in COMPLETE
    blocks = [block for block in message["content"] if calls_tool(block)]
    if message.get("stop_reason") == "tool_use" and not blocks and asked.expects_call:
        raise chunk.AnswerFault(chunk.without_call)
    for block in blocks:
        if isinstance(text := block.get("input"), dict):
            continue
        has_text = True
        with suppress(ValueError):
            text = read_json(text.encode()) if text and isinstance(text, str) else text or {}
        if isinstance(text, dict):
            block["input"] = text
            continue
        if is_kept and not is_at_limit(asked, Usage.read(message.get("usage") or {})):
            fault = arguments_fault(text) if isinstance(text, str) else None
            raise chunk.AnswerFault(fault or chunk.arguments_cut)
        message["content"].remove(block)
        message["stop_reason"] = "max_tokens" if is_kept else message["stop_reason"]
    return has_text


# --- a relayed stream -----------------------------------------------------------------------------

_OUTPUT = frozenset(("text_delta", "thinking_delta", "input_json_delta"))
"""Types of deltas that have only output, so that another text changes nothing here."""


def _index(fields: dict[str, Any]) -> int:
    return at if type(at := fields.get("index")) is int else 0


class MessageProgress(Progress):
    """The end and the usage of a message. Only `message_stop` after `message_start` ends its stream."""

    __slots__ = ("_calls_tool", "_has_begun", "inputs", "is_limited")

    requires_last_event = True

    def __init__(self, asked: Asked = NOTHING) -> None:
        super().__init__(asked)
        self._has_begun = self._calls_tool = False
        self.inputs = ArgumentBuffer()  # of the open calls, by the index of their block
        self.is_limited = False
        """The limit of tokens cut the input of a tool, although the stop reason states the opposite."""

    def is_complete(self, choices: int) -> bool:
        return self._has_begun and self.fault is None

    def note(self, fields: dict[str, Any], choices: list[Any]) -> bool:
        kind = fields.get("type")
        if kind == "content_block_delta":
            self.has_answer = True
            delta = fields.get("delta")
            is_input = bool(self.inputs.held) and _index(fields) in self.inputs.held
            if is_input and isinstance(delta, dict) and isinstance(text := delta.get("partial_json"), str):
                self.inputs.continued = self.inputs.add(_index(fields), 0, text)
            return isinstance(delta, dict) and delta.get("type") in _OUTPUT and not is_input
        if kind in ("content_block_start", "content_block_stop", "message_delta"):  # some upstreams close no block
            at = _index(fields)
            for ended in [one for one in self.inputs.held if kind == "message_delta" or one == at]:
                text = self.inputs.texts(ended)[0]
                self.fault = self.fault or (arguments_fault(text) if text else None)
                self.inputs.drop(ended)
            if kind == "content_block_start" and calls_tool(fields.get("content_block")):
                self._calls_tool = True
                self.inputs.add(at, 0, "")
        if kind == "message_start":
            message = fields.get("message")
            self._has_begun = True
            self._add_usage(message.get("usage") if isinstance(message, dict) else None)
        elif kind == "message_delta":
            self._add_usage(fields.get("usage"))
            reason = ends.get("stop_reason") if isinstance(ends := fields.get("delta"), dict) else None
            if self.fault is not None and reason is not None:
                self.is_limited = reason in COMPLETE and is_at_limit(self.asked, self.usage)
                self.has_last_event = reason in COMPLETE and not self.is_limited
                self.fault = self.fault if self.has_last_event else None
            elif reason == "tool_use" and not self._calls_tool and self.asked.expects_call:
                self.fault, self.has_last_event = chunk.without_call, True
        elif kind == "message_stop":
            self.has_last_event = True
        return False

    def _add_usage(self, usage: Any) -> None:
        """Take over the counts of `usage`. `message_delta` contains totals, but not each count."""
        read = Usage.read(usage) if isinstance(usage, dict) else None
        if read is not None and self.usage is not None:
            known = {name: value for name, value in asdict(read).items() if value is not None}
            read = Usage(**{**asdict(self.usage), **known})
        self.usage = read or self.usage


class MessageRepair(EventRepair):
    """Makes the repairs of NAMES. A repaired event is written again and loses its `id:` and its comments."""

    __slots__ = ("_calls_tool", "_has_reason", "_output_tokens", "_progress")

    def __init__(self, progress: MessageProgress) -> None:
        super().__init__()
        self._progress, self.arguments = progress, progress.inputs
        self._calls_tool = self._has_reason = False
        self._output_tokens = 0

    def repair_event(self, block: bytes, payload: Object) -> bytes:
        self.skips_similar = True
        kind = payload.get("type")
        if kind == "message_start" and isinstance(payload.get("message"), dict):
            message = payload["message"]
            is_completed = complete_usage(message)
            self._has_reason = message.get("stop_reason") is not None
            self._output_tokens = message["usage"]["output_tokens"]
            if is_completed:
                self._adapted.append(USAGE)
                return event_of(payload)
        elif kind == "content_block_start":
            self._calls_tool = self._calls_tool or calls_tool(payload.get("content_block"))
        elif kind == "message_delta":
            delta, usage = payload.get("delta"), payload.get("usage")
            if isinstance(delta, dict) and delta.get("stop_reason") is not None:
                self._has_reason = True
            if isinstance(usage, dict) and type(usage.get("output_tokens")) is int:
                self._output_tokens = usage["output_tokens"]
            if self._progress.is_limited and isinstance(delta, dict):
                self._adapted.append(STOP_REASON)
                return event_of(payload | {"delta": delta | {"stop_reason": "max_tokens"}})
        elif kind == "message_stop" and not self._has_reason:
            self._adapted.append(STOP_REASON)
            delta = {"stop_reason": stop_reason(calls_tool=self._calls_tool), "stop_sequence": None}
            usage = {"output_tokens": self._output_tokens}
            added = event_of({"type": "message_delta", "delta": delta, "usage": usage})
            return added + event_of(payload)
        if block.startswith(b"event:") or not isinstance(kind, str) or not kind.isidentifier() or not kind.isascii():
            return block
        if parse_event(block).name:
            return block
        self.skips_similar = False
        if EVENT_NAME not in self._adapted:
            self._adapted.append(EVENT_NAME)
        return b"event: %b\n%b" % (kind.encode(), block)


# --- a stream from a message ----------------------------------------------------------------------


def message_events(document: Object, defaults: EnvelopeDefaults) -> Iterator[Object]:
    """Yield the events of a stream with the content of `document`, a parsed and validated message.

    Raises ValueError for a message with more than MAX_ENTRIES blocks and citations, or a block that is not an object.
    """
    blocks = document["content"]
    if not all(isinstance(block, dict) for block in blocks):
        raise ValueError("a block that is not an object")
    if len(blocks) + sum(len(_citations(block)) for block in blocks) > MAX_ENTRIES:
        raise ValueError("too many blocks and citations")
    message = {**document, "type": "message", "role": document.get("role") or "assistant"}
    complete_usage(message)
    message["id"] = text_of_id(document.get("id")) or defaults.new_id("msg_")
    message["model"] = document.get("model") or defaults.model
    ends = {name: message.get(name) for name in ("stop_reason", "stop_sequence")}
    ends |= {name: message[name] for name in ("stop_details", "container") if name in message}
    usage = message["usage"]
    begun = {**message, "content": [], **dict.fromkeys(ends), "usage": {**usage, "output_tokens": 0}}
    yield {"type": "message_start", "message": begun}
    for index, block in enumerate(blocks):
        empty, deltas = _split(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "message_delta", "delta": ends, "usage": usage}
    yield {"type": "message_stop"}


def _citations(block: Object) -> list[Any]:
    citations = block.get("citations")
    return citations if isinstance(citations, list) else []


def _split(block: Object) -> tuple[Object, list[Object]]:
    """Return the block as it begins, and its deltas. A block of another type begins complete."""
    kind = block.get("type")
    if kind == "text" and isinstance(block.get("text"), str):
        empty = {**block, "text": ""}
        deltas = [{"type": "text_delta", "text": block["text"]}] if block["text"] else []
        if citations := _citations(block):
            empty["citations"] = []
            deltas += [{"type": "citations_delta", "citation": citation} for citation in citations]
        return empty, deltas
    if kind == "thinking" and isinstance(block.get("thinking"), str):
        empty, deltas = {**block, "thinking": ""}, []
        if block["thinking"]:
            deltas.append({"type": "thinking_delta", "thinking": block["thinking"]})
        if block.get("signature") and isinstance(block["signature"], str):
            empty["signature"] = ""
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return empty, deltas
    if isinstance(block.get("input"), dict):  # tool_use, server_tool_use, mcp_tool_use
        text = json_text(block["input"]).decode()
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": text}]
    return block, []


# --- a message from a stream ----------------------------------------------------------------------


class MessageAggregator(StreamAggregator):
    """Returns the message of a stream, as the helpers of Anthropic's SDKs build it.

    `finish` raises `upstream_closed` for a stream without `message_stop`, and `upstream_invalid` for a delta of a block
    that did not begin. The input of a tool that is not JSON is a text.
    """

    def __init__(self, source: StreamSource, event_bytes: int, asked: Asked = NOTHING) -> None:
        super().__init__(source, event_bytes, done_is_required=False, progress=MessageProgress(asked))
        self._message: Object | None = None
        self._usage: Object = {}
        self._blocks: dict[int, Object] = {}
        self._texts: dict[tuple[int, str], list[str]] = {}
        self._entries = 0

    def fail(self, error: GatepassError) -> None:
        super().fail(error)
        self._blocks, self._texts = {}, {}

    def _collected(self) -> Any:
        return [*self._blocks.values(), *self._texts.values()]

    def _reply(self) -> Object:
        return {**(self._message or {}), "content": [*self._blocks.values()], "usage": self._usage}

    def _add(self, fields: Object) -> None:
        kind, index = fields.get("type"), fields.get("index")
        if kind == "message_start" and isinstance(fields.get("message"), dict):
            self._message = fields["message"]
            self._add_usage(self._message.get("usage"))
        elif kind == "content_block_start" and isinstance(fields.get("content_block"), dict) and type(index) is int:
            self._blocks[index] = fields["content_block"]
            self._count_entry()
        elif kind == "content_block_delta" and isinstance(fields.get("delta"), dict):
            self._add_delta(index, fields["delta"])
        elif kind == "message_delta" and self._message is not None:
            if isinstance(fields.get("delta"), dict):
                self._message.update(fields["delta"])
            others = fields.keys() - {"type", "delta", "usage"}  # such as `context_management`
            self._message.update({name: fields[name] for name in others})
            self._add_usage(fields.get("usage"))
        elif kind == "message_stop" and self._message is not None:
            self._finish_blocks()

    def _add_usage(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self._usage.update(
                {name: value for name, value in usage.items() if value is not None or name not in self._usage}
            )

    def _add_delta(self, index: Any, delta: Object) -> None:
        block = self._blocks.get(index) if type(index) is int else None
        if block is None:
            reason = "The upstream sent a part of a block that did not begin."
            self.fail(UpstreamInvalid(reason, upstream=self._source.upstream))
            return
        kind = event_kind(delta)
        if kind == "citations_delta":
            if not isinstance(block.get("citations"), list):
                block["citations"] = []
            block["citations"].append(delta.get("citation"))
            self._count_entry()
        elif kind == "signature_delta":
            block["signature"] = delta.get("signature")
        else:
            for name in delta.keys() - {"type"}:
                if name != "partial_json" and not isinstance(block.get(name), str):
                    block[name] = delta[name]
                elif isinstance(delta[name], str):
                    self._texts.setdefault((index, name), []).append(delta[name])

    def _finish_blocks(self) -> None:
        for (index, name), parts in self._texts.items():
            block, text = self._blocks[index], "".join(parts)
            if name != "partial_json":
                before = block.get(name)
                block[name] = (before if isinstance(before, str) else "") + text
            elif text:
                try:
                    block["input"] = read_json(text.encode())
                except ValueError:
                    block["input"] = text  # the check of the whole message decides
        self._texts = {}

    def _count_entry(self) -> None:
        self._entries += 1
        if self._entries > MAX_REPLY_ENTRIES:
            self.fail(chunk.too_many_choices(self._source.upstream))
