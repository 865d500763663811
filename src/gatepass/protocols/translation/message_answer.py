"""Turn the answer of a chat into a message, or into the events of its stream."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

from gatepass.errors import UpstreamInvalid
from gatepass.normalize.messages import OWN_THOUGHT
from gatepass.protocols.translation.answer_blocks import AnswerBlock, AnswerBlocks
from gatepass.sse.chunk import Object
from gatepass.sse.event import read_json
from gatepass.sse.usage import Usage

_REASONS = MappingProxyType(
    {"length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use", "content_filter": "refusal"}
)


class MessageAnswer(AnswerBlocks):
    """The events of a message. The true usage stands in `message_delta`, because a chat sends it at its end."""

    def begun(self, chunk: Object) -> Iterator[Object]:
        self.reply = {
            "id": self.defaults.new_id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": chunk.get("model") or self.defaults.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        yield {"type": "message_start", "message": {**self.reply}}

    def block_begun(self, block: AnswerBlock) -> Iterator[Object]:
        yield {"type": "content_block_start", "index": self.ended_blocks, "content_block": _content(block, "")}

    def block_continued(self, block: AnswerBlock, text: str) -> Iterator[Object]:
        kind, name = _DELTAS[block.kind]
        yield {"type": "content_block_delta", "index": self.ended_blocks, "delta": {"type": kind, name: text}}

    def block_ended(self, block: AnswerBlock) -> Iterator[Object]:
        if block.kind == "reasoning":
            delta = {"type": "signature_delta", "signature": OWN_THOUGHT}
            yield {"type": "content_block_delta", "index": self.ended_blocks, "delta": delta}
        yield {"type": "content_block_stop", "index": self.ended_blocks}
        if self.keeps_texts:
            self.reply["content"].append(self._whole(block))

    def _whole(self, block: AnswerBlock) -> Object:
        text = "".join(block.parts)
        content = _content(block, text)
        if block.kind == "reasoning":
            content["signature"] = OWN_THOUGHT
        elif block.kind == "call" and text:
            try:
                content["input"] = read_json(text.encode())
            except ValueError:
                raise UpstreamInvalid(
                    f"The upstream sent arguments of the tool {block.name!r} that are not JSON.", upstream=self.upstream
                ) from None
        return content

    def ended(self, reason: str) -> Iterator[Object]:
        found, matched = Usage.read(self.usage or {}) or Usage(), self.choice_end.get("stop_reason")
        # vLLM names the sequence that it met
        is_sequence = reason == "stop" and isinstance(matched, str) and bool(matched)
        ends = {
            "stop_reason": "stop_sequence" if is_sequence else _REASONS.get(reason, "end_turn"),
            "stop_sequence": matched if is_sequence else None,
        }
        cached = found.cached_tokens or 0
        usage = {
            "input_tokens": max(0, (found.prompt_tokens or 0) - cached),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": found.completion_tokens or 0,
        }
        self.reply |= {**ends, "usage": usage}
        yield {"type": "message_delta", "delta": ends, "usage": usage}
        yield {"type": "message_stop"}


_DELTAS = MappingProxyType(
    {
        "text": ("text_delta", "text"),
        "reasoning": ("thinking_delta", "thinking"),
        "call": ("input_json_delta", "partial_json"),
    }
)


def _content(block: AnswerBlock, text: str) -> Object:
    if block.kind == "call":
        return {"type": "tool_use", "id": block.id, "name": block.name, "input": {}}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": text, "signature": ""}
    return {"type": "text", "text": text}
