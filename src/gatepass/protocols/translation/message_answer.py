"""Turn the answer of a chat into a message, or into the events of its stream."""

from __future__ import annotations

import json
from types import MappingProxyType

import msgspec

from gatepass.errors import UpstreamInvalid
from gatepass.normalize.messages import OWN_THOUGHT
from gatepass.protocols.client_protocol import event_of
from gatepass.protocols.translation.answer_blocks import CUT, AnswerBlock, AnswerBlocks
from gatepass.sse.chunk import Object
from gatepass.sse.event import read_json
from gatepass.sse.usage import Usage

_REASONS = MappingProxyType(
    {"length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use", "content_filter": "refusal"}
)


class MessageAnswer(AnswerBlocks):
    """The events of a message. The true usage stands in `message_delta`, because a chat sends it at its end."""

    def begun(self, chunk: Object) -> None:
        self.reply = {
            "id": self.defaults.new_id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": chunk.get("model") or self.defaults.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(Usage()),
        }
        self.events.append({"type": "message_start", "message": {**self.reply}})

    def block_begun(self, block: AnswerBlock) -> None:
        content, (kind, name) = self._content(block, ""), _DELTAS[block.kind]
        self.events.append({"type": "content_block_start", "index": self.ended_blocks, "content_block": content})
        delta = {"type": kind, name: "%b"}
        block.delta = event_of({"type": "content_block_delta", "index": self.ended_blocks, "delta": delta})

    def block_continued(self, block: AnswerBlock, text: bytes | bytearray) -> None:
        self.events.append(block.delta % text)

    def block_ended(self, block: AnswerBlock) -> None:
        if block.kind == "reasoning":
            delta = {"type": "signature_delta", "signature": OWN_THOUGHT}
            self.events.append({"type": "content_block_delta", "index": self.ended_blocks, "delta": delta})
        self.events.append({"type": "content_block_stop", "index": self.ended_blocks})
        if self.keeps_texts and (content := self._whole(block)) is not None:
            self.reply["content"].append(content)

    def _whole(self, block: AnswerBlock) -> Object | None:
        """Return `block` with its content; None for a call that the limit of tokens cut."""
        content = self._content(block, msgspec.Raw(block.text))
        if block.kind == "reasoning":
            content["signature"] = OWN_THOUGHT
        elif block.kind == "call" and block.sent:
            try:
                content["input"] = read_json(json.loads(block.text).encode())
            except ValueError:
                content["input"] = None
            if not isinstance(content["input"], dict):
                if self.reason in CUT:
                    return None
                tool = f"the tool {self.tool(block).name!r}" if block.name in self.about.tools else "a tool"
                reason = f"The upstream sent arguments of {tool} that are not a JSON object."
                raise UpstreamInvalid(reason, upstream=self.upstream)
        return content

    def _content(self, block: AnswerBlock, text: str | msgspec.Raw) -> Object:
        if block.kind == "call":
            return {"type": "tool_use", "id": block.id, "name": self.tool(block).name, "input": {}}
        if block.kind == "reasoning":
            return {"type": "thinking", "thinking": text, "signature": ""}
        return {"type": "text", "text": text}

    def ended(self, reason: str) -> None:
        matched = self.choice_end.get("stop_reason")
        # vLLM names the sequence that it met; the member may have another meaning elsewhere
        is_sequence = reason == "stop" and matched in self.about.stop_sequences
        end = "refusal" if reason == "stop" and "refusal" in self.kinds else _REASONS.get(reason, "end_turn")
        ends = {
            "stop_reason": "stop_sequence" if is_sequence else end,
            "stop_sequence": matched if is_sequence else None,
        }
        usage = _usage(self.counts, self.cache_write_tokens)
        self.reply |= {**ends, "usage": usage}
        self.events += ({"type": "message_delta", "delta": ends, "usage": usage}, {"type": "message_stop"})


_DELTAS = MappingProxyType(
    {
        "text": ("text_delta", "text"),
        "refusal": ("text_delta", "text"),
        "reasoning": ("thinking_delta", "thinking"),
        "call": ("input_json_delta", "partial_json"),
    }
)


def _usage(counts: Usage, written: int = 0) -> Object:
    cached = counts.cached_tokens or 0
    return {
        "input_tokens": max(0, (counts.prompt_tokens or 0) - cached - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": counts.completion_tokens or 0,
    }
