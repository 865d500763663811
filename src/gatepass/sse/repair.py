"""Repair the chunks of a stream where clients would misread them.

choice_repair.py repairs the choices; this module repairs the envelope, the usage and the order of chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence, Sized
from contextlib import suppress
from operator import attrgetter
from typing import Any, Generic, TypeVar

from gatepass.config.access import PLAIN, Profile
from gatepass.sse import choice_repair, tool_calls
from gatepass.sse.choice_repair import ChoiceRepair, CumulativeTexts, RepairOptions
from gatepass.sse.chunk import (
    CHAT,
    CHAT_CHUNK,
    ENVELOPE,
    LEGACY,
    MAX_ENTRIES,
    REASONING,
    REQUIRED,
    AnswerFault,
    EnvelopeDefaults,
    ErrorOf,
    Object,
    calls_of,
    empty_choice,
    encode_event,
    finish_reason,
    has_content,
    is_chunk,
    is_short,
    messages_of,
    move_texts,
    split_end,
    text_of_id,
    unwrap,
    without_call,
    without_message,
)
from gatepass.sse.event import DONE, LARGE_EVENT_BYTES
from gatepass.sse.synthesize import PIECE_CHARS, chunks, split_text
from gatepass.sse.usage import Usage, complete_usage, is_identical

_REQUIRED_SET = frozenset(REQUIRED)
_SHARED = -1
"""The index of the state that all choices beyond MAX_ENTRIES share, so that memory stays bounded."""


class EventRepair:
    """What EventStream asks of a repair. This class repairs nothing."""

    __slots__ = ("_adapted", "arguments", "envelope", "has_long_line", "holds_event", "skips_similar")

    def __init__(self) -> None:
        self._adapted: list[str] = []
        self.arguments = tool_calls.ArgumentBuffer()
        self.has_long_line = False
        """Whether an event is longer than the client's lines may be, and has no text at which it can be split."""
        self.holds_event = False
        """Whether the last event waits for the next one, so that none may pass without a look."""
        self.envelope: Object = {}
        """The members of `chunk.ENVELOPE` that the chunks had so far."""
        self.skips_similar = True
        """Whether an event that differs from the last one only in its text may pass without a look, or changed as the
        last one was if it has a part of a call's arguments."""

    @property
    def adapted(self) -> tuple[str, ...]:
        return tuple(self._adapted)

    @property
    def is_empty(self) -> bool:
        """Whether the stream so far has its end and no content."""
        return False

    def repair_event(self, block: bytes, payload: Object) -> bytes:
        """Return the bytes to send instead of `block`, the event with the data `payload`, which may be changed."""
        del payload
        return block

    def end_choices(self, usage: Usage | None) -> bool:
        """Make `finish` end each open choice at the end of a stream; return False if a choice was cut."""
        del usage
        return True

    @property
    def fault(self) -> ErrorOf | None:
        """The error of the calls of a stream at whose end a choice is cut; None if they are not the reason."""
        return self.arguments.fault(self.arguments.held)

    def finish(self) -> bytes:
        return b""


MAX_MOVED_BYTES = 65_536
"""The limit of deferred members. Chunks beyond it are sent without choices."""

_STANDARD = frozenset({*ENVELOPE, "choices", "usage", "obfuscation"})
_EMPTY: tuple[Any, ...] = (None, "", [], {})


_LACKS_MESSAGE = attrgetter("lacks_message")

Sent = TypeVar("Sent", bound=Sized)


class ChunkRepair(EventRepair, Generic[Sent]):
    """Makes the repairs that `choice_repair.NAMES` lists. `write` makes what is sent from a repaired chunk."""

    __slots__ = (
        "_call_ids",
        "_choices",
        "_cumulative",
        "_defaults",
        "_deferred",
        "_deferred_bytes",
        "_ends",
        "_has_changed",
        "_has_envelope",
        "_has_sent_usage",
        "_held",
        "_held_usage",
        "_is_early",
        "_is_text",
        "_object",
        "_options",
        "_released",
        "_write",
    )

    def __init__(self, options: RepairOptions, defaults: EnvelopeDefaults, write: Callable[[Object], Sent]) -> None:
        super().__init__()
        self._write = write
        self._options = options
        self._defaults = defaults
        self._choices: dict[int, ChoiceRepair] = {}
        self._call_ids: dict[tuple[int, int], str] = {}  # with `repeats_ids`
        self._ends: list[Object] = []
        self._held: tuple[Sent, Object] | None = None  # an event whose finish reason may not be the last one
        self._released: list[Sent] = []
        self._deferred: Object = {}
        self._deferred_bytes = 0
        self._held_usage: Object | None = None
        self._has_sent_usage = options.drops_usage
        self._cumulative = CumulativeTexts() if options.cumulative else None
        self._has_changed = self._has_envelope = self._is_early = False
        self._is_text = defaults.is_chat is False
        self._object = LEGACY if self._is_text else CHAT_CHUNK

    @property
    def is_empty(self) -> bool:
        return bool(self._choices) and all(choice.is_empty for choice in self._choices.values())

    @property
    def fault(self) -> ErrorOf | None:
        lacks_call = any(choice.lacks_call for choice in self._choices.values())
        return without_call if lacks_call else super().fault

    def end(self) -> list[Sent]:
        """Return what is sent at the end of the stream."""
        self._released += self.take_held()
        sent = [*self._released, *map(self._write, self._ends)]
        self._released, self._ends = [], []
        last: Object = {"object": self._object, **self.envelope, "choices": []}
        has_members = bool(self._deferred) and self._take_deferred(last)
        usage, self._held_usage = self._held_usage, None
        if usage is not None:
            last["usage"] = usage
        if has_members or usage is not None:
            self._adapt(last)
            with suppress(ValueError):  # nested too deep to write
                sent.append(self._write(last))
        return sent

    def take_held(self) -> list[Sent]:
        """Return what is sent before an event that neither continues nor ends a choice, or at the end."""
        return [] if self._held is None else self._release(self._held)

    def end_choices(self, usage: Usage | None) -> bool:
        self._released += self.take_held()
        finished = (index for index, choice in self._choices.items() if choice.has_finished)
        if self.arguments.fault(finished) is not None:  # of arguments that came after the finish reason
            return False
        if self._is_complete:
            return True
        is_at_limit, choices = tool_calls.is_at_limit(self._defaults.asked, usage), self._choices
        reasons = {
            index: choice.reason_at_end(is_at_limit=is_at_limit)
            for index, choice in choices.items()
            if not choice.has_finished
        }
        if None in reasons.values() or _SHARED in reasons:
            return False
        envelope = self.envelope
        is_text = self._is_text or envelope.get("object") == LEGACY
        for index, reason in sorted(reasons.items()):
            empty: Object = {"text": ""} if is_text else {"delta": choices[index].take_rest(self._note)}
            end = {"index": index, **empty, "logprobs": None, "finish_reason": reason}
            self._ends.append({"object": self._object, **envelope, "choices": [end]})
            self._note(choice_repair.ADDED_FINISH)
        return True

    def repair(self, unchanged: Sent, payload: Object) -> list[Sent]:
        """Return what is sent instead of `unchanged`, the event with the data `payload`, which may be changed."""
        before = [] if self._held is None else self._release(self._held, _choices_of(payload))
        chunk = unwrap(payload)
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            # nearly no chunk has a finish reason, or begins a call
            if isinstance(choice, dict) and (
                (choice.get("finish_reason") and self._may_go_on(choice)) or self._may_be_longer(choice)
            ):
                self._held, self.holds_event, self.skips_similar = (unchanged, payload), True, False
                return before
        self.holds_event = False
        sent = self._repair(unchanged, payload, chunk)
        if not before:
            return sent
        self.skips_similar = False  # the next event is not sent with another one
        return before + sent

    def _may_go_on(self, choice: Object) -> bool:
        """Whether more output may follow the finish reason of `choice`: some upstreams send one in every chunk.

        A text that began without one ends with the first.
        """
        if not isinstance(choice["finish_reason"], str) or "message" in choice:
            return False
        index, delta = choice.get("index"), choice.get("delta")
        if isinstance(delta, dict) and delta.get("tool_calls"):
            return True
        state = self._choices.get(index if type(index) is int else 0)
        return (state is None or not state.has_answer or self._is_early) and has_content(choice)

    def _may_be_longer(self, choice: Object) -> bool:
        """Whether `choice` has only the name of a tool, with which that of another one begins."""
        inners, asked = _inners(choice), self._defaults.asked
        name = inners[0].get("name") if len(inners) == 1 and not tool_calls.has_text(inners[0]) else None
        return isinstance(name, str) and name in asked.tools and asked.is_beginning(name)

    def _release(self, held: tuple[Sent, Object], following: Sequence[Object] = ()) -> list[Sent]:
        """Return `held`, which waited, without the finish reasons of choices that `following` continues or ends."""
        (block, payload), self._held = held, None
        later = [choice.get("index", 0) for choice in following if finish_reason(choice) or has_content(choice)]
        ends = [choice for choice in _choices_of(payload) if choice.get("finish_reason")]
        early = [choice for choice in ends if choice.get("index", 0) in later]
        for choice in early:
            choice["finish_reason"], self._is_early = None, True
            self._note(choice_repair.FINISH)
        named = [choice.get("index", 0) for choice in following if _ends_name(choice)]
        return self._repair(block, payload, unwrap(payload), has_changed=bool(early), named=named)

    def _repair(
        self, block: Sent, payload: Object, chunk: Object, *, has_changed: bool = False, named: Container[Any] = ()
    ) -> list[Sent]:
        """Repair an event. `named`: the choices in which no name can grow."""
        self.skips_similar, self._has_changed = False, has_changed
        # held events come first, because SDKs raise at the error and read no further
        if payload.get("error") or payload.get("object") == "error":
            return [*self.end(), block]
        if chunk is not payload:
            self._note(choice_repair.WRAPPED)
        if not isinstance(chunk.get("choices"), list):
            if not is_chunk(chunk):
                if not (is_ping(chunk) or self._options.profile.only_chunks):  # some clients know the event
                    return [block]
                self._note(choice_repair.EMPTY_CHOICES if is_ping(chunk) else choice_repair.NO_CHUNK)
                return []
            chunk["choices"] = []
            self._note(choice_repair.EMPTY_CHOICES)
        try:
            is_plain = self._repair_choices(chunk, named)
            if not chunk["choices"]:
                return self._repair_without_choices(block, chunk)
            is_plain = self._repair_chunk(chunk) and is_plain
            if self._options.profile is not PLAIN:
                is_plain = self._adapt(chunk) and is_plain
            sent = self._send(block, chunk) if self._has_changed or self._options.profile.splits_finish else [block]
        except ValueError:  # nested too deep to write again
            return [block]
        is_repaired_alike = self.arguments.continued is not None and len(sent) == 1
        self.skips_similar = is_plain and (sent[0] is block or is_repaired_alike)
        return sent

    def _note(self, name: str) -> None:
        self._has_changed = True
        if name not in self._adapted:
            self._adapted.append(name)

    def _repair_without_choices(self, block: Sent, chunk: Object) -> list[Sent]:
        usage = chunk.get("usage")
        passes = bool(usage) and isinstance(usage, dict) and self._repair_usage(chunk)
        if passes or not self._defers(chunk, len(block)):
            self._fill_envelope(chunk)
            self._adapt(chunk)
            return self._send(block, chunk)
        self._note(choice_repair.EMPTY_CHOICES)
        self.holds_event = bool(self._deferred)
        return []

    def _defers(self, chunk: Object, size_bytes: int) -> bool:
        """Hold the members of a chunk without choices, such as Azure's `prompt_filter_results`, for the next chunk.

        Clients that read `choices[0]` fail at a chunk without choices. Return False if it is too large to hold.
        """
        members = {name: value for name, value in chunk.items() if name not in _STANDARD and value not in _EMPTY}
        if members and self._deferred_bytes + size_bytes > MAX_MOVED_BYTES:
            return False
        self._deferred |= members
        self._deferred_bytes += size_bytes if members else 0
        return True

    def _take_deferred(self, chunk: Object) -> bool:
        """Add the held members to `chunk`; return whether any were held."""
        held, self._deferred, self._deferred_bytes = self._deferred, {}, 0
        for name, value in held.items():
            chunk.setdefault(name, value)  # a value of the chunk itself is newer
        return bool(held)

    def _repair_usage(self, chunk: Object) -> bool:
        """Let one usage pass, the last one. Return whether that of `chunk` passes.

        vLLM, SGLang and DashScope can send the usage with every chunk. LangChain, Open WebUI and RAGFlow add all of
        them up. If the client requested it, it is sent in a separate chunk after the last choice. Otherwise only one in
        the chunk with the last finish reason passes. With None every usage passes.
        """
        wanted, has_choices = self._options.include_usage, bool(chunk["choices"])
        if not chunk["usage"]:  # strict clients require its counts
            del chunk["usage"]
            self._note(choice_repair.USAGE)
            return False
        if wanted is None:
            return True
        if self._is_complete and not self._has_sent_usage and has_choices is not wanted:
            self._has_sent_usage, self._held_usage = True, None
            self._complete_usage(chunk)
            return True
        if wanted and not self._has_sent_usage:
            self._complete_usage(chunk)
            self._held_usage = chunk["usage"]
        chunk["usage"] = None
        if not (wanted and has_choices):
            del chunk["usage"]
        self._note(choice_repair.USAGE)
        return False

    def _complete_usage(self, chunk: Object) -> None:
        usage, chunk["usage"] = chunk["usage"], complete_usage(chunk["usage"], is_chat=True)
        if not is_identical(chunk["usage"], usage):
            self._note(choice_repair.USAGE)

    def _adapt(self, chunk: Object) -> bool:
        """Change a repaired chunk as the client's profile requires it. Return whether another text changes nothing."""
        profile, choices, usage = self._options.profile, chunk["choices"], chunk.get("usage")
        if profile.plain_texts and move_texts(chunk, choices, "delta"):
            self._note(choice_repair.TEXTS)
        if profile.whole_numbers and isinstance(usage, dict):
            self._complete_usage(chunk)
        if profile.repeats_ids:
            self._repeat_ids(choices)
        if profile.fills_choices and not choices:
            chunk["choices"] = [empty_choice(0, is_text=chunk.get("object") == LEGACY)]
            self._note(choice_repair.EMPTY_CHOICE)
        return not (
            profile.plain_texts and any("reasoning" in one for choice in choices for one in messages_of(choice))
        )

    def _repeat_ids(self, choices: list[Any]) -> None:
        """Add the id of its call to each piece of a call, unless the id is longer than those that are kept."""
        found = ((choice, call) for choice in choices for one in messages_of(choice) for call in calls_of(one))
        for choice, call in found:
            call_id, place = text_of_id(call.get("id")), (choice["index"], call["index"])
            if call_id and len(call_id) <= tool_calls.KEY_CHARS:
                self._call_ids[place] = call_id
            elif not call_id and place in self._call_ids:
                call["id"] = self._call_ids[place]
                self._note(tool_calls.TOOL_ID)

    def _send(self, block: Sent, chunk: Object) -> list[Sent]:
        profile = self._options.profile
        parts: Sequence[Object] = split_finish(chunk) if profile.splits_finish else (chunk,)
        if len(parts) > 1:
            self._note(choice_repair.SPLIT)
        if profile.line_bytes is not None and len(block) > profile.line_bytes:
            parts = [short for part in parts for short in split_texts(part)]
            self._note(choice_repair.LINE)
            sent = [*map(self._write, parts)]
            self.has_long_line = max(map(len, sent)) > LARGE_EVENT_BYTES
            return sent
        return [*map(self._write, parts)] if self._has_changed else [block]

    def _repair_choices(self, chunk: Object, named: Container[Any]) -> bool:
        """Repair the choices of a chunk in place. Return True if a chunk with another text needs no repair either.

        A choice of which nothing is left but a call that waits is removed. Raises AnswerFault if no choice has a
        message.
        """
        is_plain = True
        for position, choice in enumerate(chunk["choices"]):
            if isinstance(choice, dict):
                if type(choice.get("index")) is not int:
                    choice["index"] = position
                    self._note(choice_repair.INDEX)
                if (state := self._choices.get(index := choice["index"])) is None:
                    index = index if len(self._choices) < MAX_ENTRIES else _SHARED
                    state = self._choices.setdefault(index, ChoiceRepair(self._defaults, self.arguments, index))
                is_plain = state.repair(choice, self._note, is_named=index in named) and is_plain
                if state.lacks_message and 0 in self._choices and all(map(_LACKS_MESSAGE, self._choices.values())):
                    raise AnswerFault(without_message)
        if self.arguments.waiting_chars:  # nearly never
            chunk["choices"] = [choice for choice in chunk["choices"] if not _is_nothing(choice)]
        return is_plain

    def _repair_chunk(self, chunk: Object) -> bool:
        """Repair a chunk whose choices are repaired, and return as `_repair_choices` does."""
        is_plain = True
        if self._is_text and any([*map(choice_repair.make_text, chunk["choices"])]):
            is_plain = False
            self._note(choice_repair.MESSAGE)
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            is_plain = False
            self._repair_usage(chunk)
        self._fill_envelope(chunk)
        if self._deferred and self._take_deferred(chunk):
            is_plain = False
            self._note(choice_repair.EMPTY_CHOICES)
        if self._cumulative is not None:
            if self._cumulative.cut(chunk):
                self._note(choice_repair.CUMULATIVE)
            is_plain = is_plain and self._cumulative.are_plain and self.arguments.continued is None
        return is_plain

    def _fill_envelope(self, chunk: Object) -> None:
        members = self.envelope
        if self._is_text:
            if chunk.get("object") in (CHAT, CHAT_CHUNK):
                chunk["object"] = LEGACY
                self._note(choice_repair.ENVELOPE)
        elif self._defaults.is_chat and chunk.get("object") == LEGACY:
            chunk["object"] = CHAT_CHUNK
            self._note(choice_repair.ENVELOPE)
        elif self._has_changed and chunk.get("object") == CHAT:
            chunk["object"] = CHAT_CHUNK
        for name in REQUIRED:
            # Azure's first chunk has them, but empty: `"id": ""`, `"created": 0`
            if not chunk.get(name) and name in members:
                chunk[name] = members[name]
                self._note(choice_repair.ENVELOPE)
        if self._has_envelope:
            return
        for name in ENVELOPE:  # the first value of each member that is not empty
            if name not in members and (value := chunk.get(name)) and is_short(value):
                members[name] = value
        self._has_envelope = members.keys() >= _REQUIRED_SET

    @property
    def _is_complete(self) -> bool:
        return bool(self._choices) and all(choice.has_finished for choice in self._choices.values())


class StreamRepair(ChunkRepair[bytes]):
    """Repairs the events of a stream, which EventStream validates and parses. A correct one passes as the same object.

    A repaired event is written again as one `data:` line: it loses its `id:` and its comments, but no unknown members.
    """

    __slots__ = ()

    def __init__(self, options: RepairOptions, defaults: EnvelopeDefaults) -> None:
        super().__init__(options, defaults, encode_event)

    def repair_event(self, block: bytes, payload: Object) -> bytes:
        return b"".join(self.repair(block, payload))

    def finish(self) -> bytes:
        return b"".join(self.end())


def synthesize_stream(
    document: Object,
    include_usage: bool,
    defaults: EnvelopeDefaults,
    profile: Profile = PLAIN,
    piece_chars: int = PIECE_CHARS,
) -> Iterator[bytes]:
    """Yield the events of a stream with the content of `document`, a completion that is repaired, and `[DONE]`.

    Raises ValueError if `document` is nested too deep, or has too many choices or tool calls.
    """
    repair = None if profile is PLAIN else StreamRepair(RepairOptions(None, profile), defaults)
    for one in chunks(document, include_usage, defaults, piece_chars):
        yield encode_event(one) if repair is None else repair.repair_event(encode_event(one), one)
    yield DONE if repair is None else repair.finish() + DONE


def _choices_of(payload: Object) -> list[Object]:
    choices = unwrap(payload).get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _is_nothing(choice: Any) -> bool:
    return isinstance(choice, dict) and not any(value for name, value in choice.items() if name != "index")


def _inners(choice: Object) -> list[Object]:
    """Return the objects with the names and arguments of the calls in a chunk's choice."""
    delta = choice.get("delta")
    calls = calls_of(delta) if isinstance(delta, dict) else ()  # nearly always none
    return [tool_calls.inner_of(call) or {} for call in calls if isinstance(call, dict)]


def _ends_name(choice: Object) -> bool:
    """Whether `choice` shows that the name of a call before it is whole: with its end, or arguments without a name."""
    inners = _inners(choice)
    is_bare = any(map(tool_calls.has_text, inners)) and not any(inner.get("name") for inner in inners)
    return is_bare or finish_reason(choice) != ""


def is_ping(payload: Object) -> bool:
    """Return whether an event that is not a chunk is empty for every client, such as a gateway's empty wrapper."""
    if "data" in payload and payload.get("code") in (0, "0", 200, "200"):
        return payload["data"] is True or payload["data"] in _EMPTY
    return not payload or "ping" in (payload.get("type"), payload.get("event"))


def split_finish(chunk: Object) -> tuple[Object, ...]:
    """Return `chunk`, or two chunks instead: one with the text, one with the finish reason and the usage.

    vLLM sends the last text and the finish reason together. RAGFlow's vision models then fail on the missing usage.
    `chunk` itself is not changed.
    """
    choices = chunk["choices"]
    ending = [choice for choice in choices if isinstance(choice, dict) and finish_reason(choice)]
    deltas = [choice["delta"] for choice in ending if isinstance(choice.get("delta"), dict)]
    has_delta = any(delta[name] for delta in deltas for name in delta if name != "role")
    if not (has_delta or any(choice.get("text") for choice in ending)):
        return (chunk,)
    empty: Object = {"delta": {}, "text": "", "logprobs": None}
    ends = [{name: empty.get(name, value) for name, value in choice.items()} for choice in ending]
    return split_end(chunk, ends)


_TEXTS = ("content", *REASONING, "refusal")


def split_texts(chunk: Object) -> list[Object]:
    """Return `chunk` without its long texts and arguments, a chunk for each piece of them, and one with its end.

    RAGFlow's Go client fails at a line of 1 MiB (bufio.Scanner in its internal/entity/models).
    """
    later = list[Object]()
    for choice in chunk["choices"]:
        for delta in messages_of(choice):
            pieces: list[Object] = [{name: piece} for name in _TEXTS for piece in _take_text(delta, name)]
            for call in calls_of(delta):
                inner = call.get("function") if isinstance(call, dict) else None
                texts = _take_text(inner, "arguments") if isinstance(inner, dict) else ()
                pieces += [{"tool_calls": [{"index": call["index"], "function": {"arguments": one}}]} for one in texts]
            later += [{"index": choice.get("index"), "delta": piece, "finish_reason": None} for piece in pieces]
    if not later:
        return [chunk]
    ends = [
        {**choice, "delta": {}} for choice in chunk["choices"] if isinstance(choice, dict) and finish_reason(choice)
    ]
    first, last = split_end(chunk, ends)
    envelope = {name: chunk[name] for name in ENVELOPE if name in chunk and is_short(chunk[name])}
    parts = [first, *({**envelope, "choices": [choice]} for choice in later)]
    return [*parts, last] if ends or chunk.get("usage") else parts


def _take_text(owner: Object, name: str) -> list[str]:
    """Empty a long text of `owner`, and return its pieces."""
    text = owner.get(name)
    if not isinstance(text, str) or len(text) <= PIECE_CHARS:
        return []
    owner[name] = ""
    return split_text(text, PIECE_CHARS)
