"""The answer of a chat stream as whole blocks: a text, reasoning or a call of a tool, one open at a time.

A chat may mix them: parallel calls arrive in turns, and a text may follow half a call. Clients of the other protocols
read one block after the other. So what arrives behind a call waits until the answer ends.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import deque
from typing import Literal

import msgspec

from gatepass.errors import UpstreamEmpty, UpstreamError, UpstreamInvalid
from gatepass.json_body import json_value
from gatepass.normalize.messages import client_id
from gatepass.protocols.translation.chat_request import MOST_CARRIED_BYTES, About, Dropped, Tool, text_of
from gatepass.sse.choice_repair import CHAT_REASONS, FAILED, NATIVE, chat_reason
from gatepass.sse.chunk import (
    REASONING,
    EnvelopeDefaults,
    Object,
    argument_text,
    event_kind,
    event_of,
    finish_reason,
    json_text,
)
from gatepass.sse.event import LARGE_EVENT_BYTES as LARGE_BYTES
from gatepass.sse.event import EventTransform, parse_event, read_json, single_line_data, split_events
from gatepass.sse.synthesize import chunks
from gatepass.sse.usage import Usage, count_of
from gatepass.types import Hidden, StreamedResponse

WITHOUT_USAGE = "translate=no-usage"
"""The entry of `x-gatepass-adapted` for counts of 0 in a reply, because none of the upstream could be read."""
CUT = frozenset(("length", "content_filter"))
"""The finish reasons of an answer that was cut, which may have no content."""
MOST_BLOCKS = 1_000
MOST_KEPT_BYTES = 16 * 1024 * 1024
"""What waits behind a call, all texts if the last event repeats them, as JSON, and the ids and names of calls."""
_NO_PATTERN = (b"\0", b"\0", slice(1, -1))
_QUOTE, _BACKSLASH = b'"\\'  # numbers, because a search for bytes takes seven times as long (CPython 3.11)
_ONE_TEXT = re.compile(rb'(?s)(?:[^"\\]|\\["\\bfnrt])++|[^"]++(?<!\\)(?<!\\[uU][dD]...)')
"""A text as `json_text` writes it, or one without quotes that ends with no half of an escape or surrogate pair."""
SHOWN_CHARS = 24
"""An error repeats a finish reason of at most this many letters, which cannot be a token."""
_CARRIED = ("role", "content", "refusal", "tool_calls", "reasoning_details", *REASONING)
"""The members of a delta that reach the client."""

Kind = Literal["text", "refusal", "reasoning", "call"]


class AnswerBlock(Hidden, msgspec.Struct, eq=False):
    """One block of an answer. `sent` is its text as far as it is sent, `held` what waits.

    Both are JSON without the quotes: no event writes the text anew, and it takes fewer bytes than a list of tokens.
    """

    kind: Kind
    id: str = ""
    """Of a call: the chat's until it begins, then the client's."""
    name: str = ""
    item_id: str = ""
    """The id of a part of the client's reply, which is not that of the call."""
    delta: bytes = b""
    """The event for a part of the text, with a place for its JSON and one for its number, if events have one. b"" for
    a block whose text is in no event before its end."""
    sent: bytearray = msgspec.field(default_factory=bytearray)
    held: bytearray = msgspec.field(default_factory=bytearray)
    extra: Object = {}
    """What a chat's call has and no other protocol, until it begins."""
    carried: str = ""
    """What the signature of a thought contains, as JSON."""
    half: str = ""
    """The first half of a surrogate pair, until the next piece: the SDKs of Anthropic cannot encode a single one."""

    @property
    def text(self) -> bytes:
        return b"".join((b'"', self.sent, b'"'))


class Early(msgspec.Struct, eq=False):
    """What a client has read of its answer before the upstream began it, over all attempts."""

    streamed: StreamedResponse = StreamedResponse()
    offered: StreamedResponse = StreamedResponse()
    """The same after the events that were made last, which the client's connection may not have accepted."""
    is_over: bool = False
    """The upstream has begun an answer."""

    def note_own_event(self, event: bytes) -> None:
        """Record that the client's connection accepted `event`, or a comment."""
        if not event.startswith(b":"):
            self.streamed = self.offered


class AnswerBlocks(EventTransform):
    """Turns chunks into the events of another protocol. A subclass words the events.

    It reads the first choice, because the other protocols have one. `feed` raises UpstreamInvalid for calls beyond the
    limits above, a call without a name, and a finish reason that is unknown or a failure, and UpstreamEmpty for an
    answer without content.
    """

    repeats_texts = False
    """The last event repeats all texts."""

    def __init__(
        self,
        defaults: EnvelopeDefaults,
        upstream: str,
        about: About,
        early: Early | None = None,
        *,
        keeps_texts: bool = False,
    ) -> None:
        super().__init__()
        self.named: StreamedResponse = StreamedResponse()
        self.defaults, self.upstream, self.about, self.early = defaults, upstream, about, early or Early()
        self.keeps_texts = keeps_texts or self.repeats_texts
        self.reply: Object = {}
        """The client's reply. It has the blocks that ended if `keeps_texts`."""
        self.counts, self.cache_write_tokens = Usage(), 0
        self.choice_end: Object = {}
        """The choice with the finish reason."""
        self.reason = ""
        """The finish reason; "" before the last chunk."""
        self.kinds = set[Kind]()
        """Those of the blocks so far."""
        self._dropped = Dropped()
        self._has_begun = False
        self._reasoning: tuple[str, ...] = REASONING
        self._open: AnswerBlock | None = None
        self._waiting: list[AnswerBlock] = []
        self._calls: dict[int, AnswerBlock] = {}
        self._details: dict[object, Object] = {}
        """Those of the reasoning that no thought or call contains yet."""
        self.ended_blocks = self._blocks = 0
        self.events = deque[Object | bytes]()
        """Those that were not returned yet."""
        self._last: bytes | bytearray = b""
        self._pattern = _NO_PATTERN
        """The bytes around the text of a chunk, and its place, if another text there only continues the open block."""

    # --- what a subclass words: it appends to `events` ---

    def early_events(self) -> None:
        """Add events for a client that waits for the beginning; none if the keep-alives of the protocol suffice."""

    @abstractmethod
    def begun(self, chunk: Object) -> None:
        """Add the events before the first block. `chunk` is the first one."""

    @abstractmethod
    def block_begun(self, block: AnswerBlock) -> None:
        """Add the events with which `block` begins, and set its `delta`."""

    @abstractmethod
    def block_ended(self, block: AnswerBlock) -> None:
        """Add the events with which `block` ends."""

    @abstractmethod
    def ended(self, reason: str) -> None:
        """Add the events after the last block. `reason` is the finish reason of the choice."""

    def tool(self, block: AnswerBlock) -> Tool:
        """Return the tool that a call is for, as the client knows it."""
        return self.about.tools.get(block.name) or Tool(block.name)

    # --- an EventTransform ---

    def feed(self, block: bytes) -> bytes:
        try:
            if (sent := self._continued(block)) is None:
                is_one = single_line_data(block) is not None  # to split an event of 1 MiB takes 8 ms
                for one in (block,) if is_one else split_events(block):
                    if is_one or (sent := self._continued(one)) is None:
                        self._read(one)
                    else:
                        self.events.append(sent)
            elif self.events or self.kept_bytes > MOST_KEPT_BYTES:
                self.events.append(sent)
            else:
                return sent  # nearly always
            if self.kept_bytes > MOST_KEPT_BYTES:
                reason = f"The upstream's answer has more than {MOST_KEPT_BYTES >> 20} MiB of text."
                raise UpstreamInvalid(reason, upstream=self.upstream)
        except UpstreamError:
            self.unsent = b"".join(iter(self.take, b""))
            raise
        return self.take()

    def _continued(self, event: bytes) -> bytes | None:
        """Return what is sent for `event` if it differs from the pattern in its text alone; None for another one."""
        head, tail, at = self._pattern
        text = event[at]
        if not text or event != head + text + tail or self._open is None:
            return None
        # the event is valid JSON: without a quote that ends it, the text is one string
        if (_QUOTE in text or _BACKSLASH in text) and _ONE_TEXT.fullmatch(text) is None:
            return None
        return self._sent(self._open, text)

    def _read(self, event: bytes) -> None:
        self._pattern, self._last, before = _NO_PATTERN, b"", len(self.events)
        line = single_line_data(event)  # nearly always: to parse the event takes a quarter of the time
        data = parse_event(event).data if line is None else line
        if data is None:  # a comment, which a client may not accept, and gatepass sends its own
            return
        if data.strip() == b"[DONE]":
            self.end()
        else:
            try:
                payload = json_value(data)  # the time that it takes was estimated before
            except (ValueError, RecursionError):
                payload = read_json(data)
            self.add(payload)
        is_open = self._open is not None and not (self._open.half or self._waiting)
        if self._last and len(self.events) == before + 1 and is_open:  # it only continued the open block
            head, text, tail = event.partition(b'"%b"' % self._last)
            if line and text and text not in tail:
                self._pattern = head + b'"', b'"' + tail, slice(len(head) + 1, -1 - len(tail))

    def take(self) -> bytes:
        sent, size_bytes = list[bytes](), 0
        while self.events and size_bytes <= LARGE_BYTES:
            event = self.events.popleft()
            sent.append(event if isinstance(event, bytes) else event_of(event))
            size_bytes += len(sent[-1])
        return sent[0] if len(sent) == 1 else b"".join(sent)

    @property
    def adapted(self) -> tuple[str, ...]:
        has_counts = self.counts.prompt_tokens or self.counts.completion_tokens  # the repair made 0 of a missing one
        return (*((WITHOUT_USAGE,) if self.reason and not has_counts else ()), *self._dropped.entries)

    def whole(self, completion: Object) -> bytes:
        """Return the client's reply with the content of a whole chat completion."""
        for one in chunks(completion, True, self.defaults):
            self.add(one)
            self.events.clear()
        self.end()
        return json_text(self.reply)

    # --- the blocks ---

    def add(self, chunk: Object) -> None:
        if not self._has_begun:
            self._has_begun = self.early.is_over = True
            self.begun(chunk)
        if isinstance(usage := chunk.get("usage"), dict) and (counts := Usage.read(usage)) is not None:
            self.counts = counts
            self.cache_write_tokens = count_of(usage.get("prompt_tokens_details"), "cache_write_tokens") or 0
        self._dropped.note_others({name: chunk.get(name) for name in ("citations", "search_results")}, ())  # Perplexity
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict) or choice.get("index", 0) != 0:
                self._dropped.note("choices")
                continue
            delta = choice.get("delta")
            if isinstance(delta, dict):
                self._add_delta(delta)
            if finish_reason(choice):
                self.choice_end = choice

    def _add_delta(self, delta: Object) -> None:
        self._dropped.note_others(delta, _CARRIED)
        details = delta.get("reasoning_details")
        for detail in details if isinstance(details, list) else ():
            if isinstance(detail, dict):
                self._add_detail(detail)
        for name in self._reasoning:
            if isinstance(text := delta.get(name), str) and text:
                self._reasoning = (name,)  # the other member repeats it
                self._add_text("reasoning", text)
                break
        content, refusal = delta.get("content"), delta.get("refusal")
        if isinstance(content, list):  # Mistral sends parts
            parts = [part for part in content if isinstance(part, dict)]
            for part in parts:
                if "text" not in part:
                    self._dropped.note(event_kind(part))
            content = "".join(text_of(part.get("text")) for part in parts)
        if content and isinstance(content, str):
            self._add_text("text", content)
        if refusal and isinstance(refusal, str):
            self._add_text("refusal", refusal)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._add_call(call)

    def end(self) -> None:
        if not self._has_begun:
            self.begun({})
        end, has_calls = finish_reason(self.choice_end), "call" in self.kinds
        self.reason = chat_reason(end, has_tools=has_calls)
        failed = next((one for one in (end, text_of(self.choice_end.get(NATIVE))) if one.lower() in FAILED), "")
        if failed or self.reason not in CHAT_REASONS:  # the answer may be cut
            shown = f" {end!r}" if len(end) <= SHOWN_CHARS and end.replace("_", "").isalpha() else ""
            reason = f"the failure {failed!r}" if failed else f"an unknown finish reason{shown}"
            raise UpstreamInvalid(f"The upstream ended its answer with {reason}.", upstream=self.upstream)
        if self.reason in ("tool_calls", "function_call") and not has_calls:
            self.reason = "stop"
        if not all(map(_has_name, self._waiting)):
            if self.reason not in CUT:
                raise UpstreamInvalid("The upstream sent a tool call without a name.", upstream=self.upstream)
            self._waiting = [*filter(_has_name, self._waiting)]
        while self._open is not None or self._waiting:
            self._next_block()
        self._dropped.note_others({"reasoning_details": self._details}, ())
        if self.kinds <= {"reasoning"} and self.reason not in CUT:
            raise UpstreamEmpty("The upstream's answer has no text and no tool call.", upstream=self.upstream)
        self.ended(self.reason)

    def _add_text(self, kind: Kind, text: str) -> None:
        last = self._waiting[-1] if self._waiting else self._open
        block = last if last is not None and last.kind == kind else self._new_block(AnswerBlock(kind))
        self._continue(block, text)

    def _add_call(self, delta: Object) -> None:
        index = delta.get("index")
        place = index if type(index) is int else 0
        function = delta.get("function")
        members = function if isinstance(function, dict) else {}
        if (block := self._calls.get(place)) is None:
            block = self._calls[place] = self._new_block(AnswerBlock("call"))
        if block is not self._open:
            before = len(block.id) + len(block.name)
            block.id = block.id or argument_text(delta.get("id"))
            block.name += argument_text(members.get("name"))
            self.kept_bytes += len(block.id) + len(block.name) - before
        if isinstance(extra := delta.get("extra_content"), dict) and extra:
            if block is self._open:  # the client has its id
                self._dropped.note("extra_content")
            else:
                block.extra = {"extra_content": extra}
                self.kept_bytes += len(json_text(extra))
        self._continue(block, argument_text(members.get("arguments")))

    def _add_detail(self, detail: Object) -> None:
        """Add a detail of the reasoning, or a part of one: MiniMax repeats the text so far, others continue it."""
        key = tuple(argument_text(detail.get(name)) for name in ("type", "index", "id"))
        one = self._details.setdefault(key if "data" not in detail else len(self._details), {})
        for name, value in detail.items():
            before = text_of(one.get(name)) if name in ("text", "summary") else ""
            text = text_of(value)
            one[name] = before + text if before and not text.startswith(before) else value
            self.kept_bytes += len(text)

    def _take_carried(self, members: Object) -> str:
        """Return `members` and the details so far as JSON; "" if there are none, or too many."""
        if self._details:
            members = {**members, "reasoning_details": [*self._details.values()]}
            self._details = {}
        text = json_text(members) if members else b""
        if len(text) <= MOST_CARRIED_BYTES:
            return text.decode()
        for name in members:
            self._dropped.note(name)
        return ""

    def _new_block(self, block: AnswerBlock) -> AnswerBlock:
        self._blocks += 1
        if self._blocks > MOST_BLOCKS:
            raise UpstreamInvalid(f"The upstream's answer has more than {MOST_BLOCKS} parts.", upstream=self.upstream)
        self._waiting.append(block)
        self.kinds.add(block.kind)
        return block

    def _continue(self, block: AnswerBlock, text: str) -> None:
        """Add `text` to `block`, and the events that can be sent now."""
        text, block.half = block.half + text, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, block.half = text[:-1], text[-1]
        if block is self._open:
            if text:
                self._send(block, json_text(text)[1:-1])
        else:
            if text:
                held = json_text(text)[1:-1]
                block.held += held
                self.kept_bytes += len(held)
            while self._waiting and self._may_begin(self._waiting[0]):
                self._next_block()

    def _may_begin(self, block: AnswerBlock) -> bool:
        """Whether `block` can be sent now: a call after the one before, and with a name that can grow no more."""
        is_named = block.kind != "call" or (block.name != "" and len(block.held) > 0)
        return is_named and (self._open is None or self._open.kind != "call")

    def _next_block(self) -> None:
        """End the open block, and begin the one that waits first."""
        if (block := self._open) is not None:
            if block.half:
                self._send(block, json_text(block.half)[1:-1])
            if block.kind == "reasoning":
                block.carried = self._take_carried({})
            self.block_ended(block)
            block.sent, self._open = bytearray(), None
            self.ended_blocks += 1
        if self._waiting:
            self._open = block = self._waiting.pop(0)
            if block.kind == "call":
                block.id = client_id(block.id, self._take_carried(block.extra))
            self.block_begun(block)
            self.kept_bytes -= len(block.held)
            if block.held:
                self._send(block, block.held)
            block.held = bytearray()

    def _sent(self, block: AnswerBlock, text: bytes | bytearray) -> bytes:
        """Return the event for `text`, which is JSON without the quotes and not empty; b"" for none."""
        self._last = text
        if self.keeps_texts:
            block.sent += text
            self.kept_bytes += len(text)
        if not (block.delta and self.named.is_numbered):
            return block.delta and block.delta % text
        number = self.next_number
        self.next_number = number + 1
        return block.delta % (text, number)

    def _send(self, block: AnswerBlock, text: bytes | bytearray) -> None:
        if event := self._sent(block, text):
            self.events.append(event)


def _has_name(block: AnswerBlock) -> bool:
    """Whether `block` is not a call without a name."""
    return block.kind != "call" or block.name != ""
