"""Turn the answer of a chat into a response, or into the events of its stream."""

from __future__ import annotations

import json
from types import MappingProxyType

import msgspec
from msgspec.structs import replace

from gatepass.normalize.messages import OWN_THOUGHT
from gatepass.protocols.client_protocol import event_of
from gatepass.protocols.translation.answer_blocks import CUT, AnswerBlock, AnswerBlocks
from gatepass.sse.chunk import Object, json_text
from gatepass.sse.event import read_json
from gatepass.types import StreamedResponse

_INCOMPLETE = MappingProxyType({"length": "max_output_tokens", "content_filter": "content_filter"})
_DEFAULTS: Object = {
    "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "truncation": "disabled", "metadata": {},
    "text": {"format": {"type": "text"}}, "temperature": 1.0, "top_p": 1.0, "top_logprobs": 0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0, "service_tier": "default",
    **dict.fromkeys(("max_tool_calls", "safety_identifier", "prompt_cache_key")),
}  # fmt: skip
"""What OpenAI's API takes if a request lacks the member. Open Responses requires each of them in a response."""
_PREFIXES = MappingProxyType({"text": "msg_", "refusal": "msg_", "reasoning": "rs_", "call": "fc_"})
_PARTS = MappingProxyType({"text": "output_text", "refusal": "refusal", "reasoning": "summary_text"})
_NAMES = MappingProxyType(
    {
        "text": ("content_part", "output_text", "content_index"),
        "refusal": ("content_part", "refusal", "content_index"),
        "reasoning": ("reasoning_summary_part", "reasoning_summary_text", "summary_index"),
    }
)
"""By the kind of a block: how the events of its part begin, those of its text, and the member with its place."""


class ResponseAnswer(AnswerBlocks):
    """The events of a response. The last one repeats all its items, because SDKs read the answer there."""

    repeats_texts = True

    def begun(self, chunk: Object) -> None:
        early = self.early.streamed
        repeated = {name: value for name, value in self.about.repeated.items() if value is not None}
        self.reply = {
            **dict.fromkeys(self.about.repeated),
            **_DEFAULTS,
            **repeated,
            "id": early.id or self.defaults.new_id("resp_"),
            "object": "response",
            "created_at": early.created_s or self.defaults.created_s,
            "completed_at": None,
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": chunk.get("model") or self.defaults.model,
            "service_tier": chunk.get("service_tier") or repeated.get("service_tier") or _DEFAULTS["service_tier"],
            "output": [],
            "previous_response_id": None,
            "store": False,
            "usage": None,
        }
        own = (self.reply["id"], self.reply["model"], self.reply["created_at"])
        self.named, self.next_number = StreamedResponse(*own, is_numbered=True), early.next_number
        for kind in ("response.created", "response.in_progress") if not early.id else ():
            self._add({"type": kind, "response": {**self.reply, "output": []}})

    def early_events(self) -> None:
        """Add the beginning, or a keep-alive if the client has it: no comment resets the timer of Codex."""
        self.named, self.next_number = self.early.streamed, self.early.streamed.next_number
        if self.named.id:
            self._add({"type": "keepalive"})
        else:
            self.begun({})
        self.early.offered = replace(self.named, next_number=self.next_number)

    def _add(self, event: Object) -> None:
        event["sequence_number"] = self.next_number
        self.next_number += 1
        self.events.append(event)

    def _place(self, block: AnswerBlock) -> Object:
        return {"item_id": block.item_id, "output_index": self.ended_blocks}

    def block_begun(self, block: AnswerBlock) -> None:
        block.item_id = self.defaults.new_id("ctc_" if self.tool(block).is_custom else _PREFIXES[block.kind])
        item = self._item(block, "", "in_progress")
        self._add({"type": "response.output_item.added", "output_index": self.ended_blocks, "item": item})
        if block.kind != "call":
            self._add(self._event(block, "added", part=_part(block, "")))
            delta = self._event(block, "text.delta", delta="%b", **_logprobs(block))
        elif self.tool(block).is_custom:  # its text is inside its arguments
            return
        else:
            delta = {"type": "response.function_call_arguments.delta", **self._place(block), "delta": "%b"}
        block.delta = event_of({**delta, "sequence_number": msgspec.Raw(b"%d")})

    def block_continued(self, block: AnswerBlock, text: bytes | bytearray) -> None:
        if block.delta:
            self.events.append(block.delta % (text, self.next_number))
            self.next_number += 1

    def block_ended(self, block: AnswerBlock) -> None:
        text, place = msgspec.Raw(block.text), self._place(block)
        if block.kind != "call":
            member = "refusal" if block.kind == "refusal" else "text"
            self._add(self._event(block, "text.done", **{member: text}, **_logprobs(block)))
            self._add(self._event(block, "done", part=_part(block, text)))
        elif self.tool(block).is_custom:
            text = msgspec.Raw(json_text(_input_of(json.loads(block.text))))
            self._add({"type": "response.custom_tool_call_input.delta", **place, "delta": text})
            self._add({"type": "response.custom_tool_call_input.done", **place, "input": text})
        else:
            text = text if block.sent else msgspec.Raw(b'"{}"')
            name = self.tool(block).name
            kind = "response.function_call_arguments.done"
            self._add({"type": kind, **place, "name": name, "arguments": text})
        was_cut = self.reason in CUT and not self._waiting
        item = self._item(block, text, "incomplete" if was_cut else "completed")
        self.reply["output"].append(item)
        self._add({"type": "response.output_item.done", "output_index": self.ended_blocks, "item": item})

    def _event(self, block: AnswerBlock, what: str, **members: object) -> Object:
        """Return an event about the only part of a text or a thought. Codex shows and returns summaries alone."""
        part, text, index = _NAMES[block.kind]
        kind = what.replace("text", text) if "text" in what else f"{part}.{what}"
        return {"type": f"response.{kind}", **self._place(block), index: 0, **members}

    def _item(self, block: AnswerBlock, text: str | msgspec.Raw, status: str) -> Object:
        parts = [_part(block, text)] if text and block.kind != "call" else []
        if block.kind in ("text", "refusal"):
            message = {"type": "message", "role": "assistant", "content": parts}
            return {"id": block.item_id, "status": status, **message}
        if block.kind == "reasoning":
            return {"id": block.item_id, "type": "reasoning", "summary": parts, "encrypted_content": OWN_THOUGHT}
        tool = self.tool(block)
        kind, member = ("custom_tool_call", "input") if tool.is_custom else ("function_call", "arguments")
        place = {"namespace": tool.namespace} if tool.namespace else {}
        call = {"call_id": block.id, "name": tool.name, member: text}
        return {"id": block.item_id, "type": kind, "status": status, **call, **place}

    def ended(self, reason: str) -> None:
        counts = self.counts
        given, made = counts.prompt_tokens or 0, counts.completion_tokens or 0
        why = _INCOMPLETE.get(reason)
        status = "completed" if why is None else "incomplete"
        self.reply |= {
            "status": status,
            "completed_at": self.defaults.created_s if why is None else None,
            "incomplete_details": None if why is None else {"reason": why},
            "usage": {
                "input_tokens": given,
                "input_tokens_details": {
                    "cached_tokens": counts.cached_tokens or 0,
                    "cache_write_tokens": self.cache_write_tokens,
                },
                "output_tokens": made,
                "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens or 0},
                "total_tokens": given + made,
            },
        }
        self._add({"type": f"response.{status}", "response": self.reply})


def _part(block: AnswerBlock, text: str | msgspec.Raw) -> Object:
    more: Object = {"annotations": [], "logprobs": []} if block.kind == "text" else {}
    return {"type": _PARTS[block.kind], "refusal" if block.kind == "refusal" else "text": text, **more}


def _logprobs(block: AnswerBlock) -> Object:
    return {"logprobs": []} if block.kind == "text" else {}


def _input_of(arguments: str) -> str:
    """Return the text for a custom tool, whose function takes it as `input`."""
    try:
        value = read_json(arguments.encode())
    except ValueError:
        return arguments
    text = value.get("input") if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments
