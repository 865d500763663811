"""The transform that finds out whether clients misread a stream, and then repairs its chunks."""

from __future__ import annotations

from typing import Any, Literal

from gatepass.sse import choice_repair as names
from gatepass.sse.choice_repair import (
    USAGE,
    ArgumentBuffer,
    ChoiceRepair,
    CumulativeTextRepair,
    OnRepair,
    PendingChunk,
    RepairOptions,
)
from gatepass.sse.chunk import (
    CHAT_CHUNK,
    ENVELOPE,
    LEGACY,
    EnvelopeDefaults,
    Object,
    encode_event,
    finish_reason,
    is_chunk,
    unwrap,
)
from gatepass.sse.event import parse_event, read_json, single_line_data, split_comments, split_events
from gatepass.sse.fast_path import FastPath
from gatepass.sse.synthesize import chunks

MAX_CHOICES = 1024
"""Choices beyond share one state: an upstream that counts up for ever costs no memory."""
_SHARED = -1
"""The index of that state."""


class StreamRepair:
    """Repairs what `choices.NAMES` lists. A clean stream passes byte for byte, each run the very same object.

    It takes runs that a judge of the stream let through: errors and what is no JSON pass untouched.
    Events are parsed until one was seen that needs nothing; from then on only those that differ from
    it in more than their text (see Template). An event that is repaired is written anew as one
    `data:` line: its `id:` and comments are lost, members that nobody knows are not.
    """

    __slots__ = (
        "_adapted",
        "_arguments",
        "_choices",
        "_ends",
        "_envelope",
        "_extras",
        "_has_changed",
        "_origin",
        "_seen",
        "_suffixes",
        "_template",
        "_usage",
        "_wishes",
        "is_idle",
    )

    def __init__(self, options: RepairOptions, defaults: EnvelopeDefaults) -> None:
        self.is_idle = False
        """Whether an event that differs from the last one in its text alone may pass unseen."""
        self._wishes = options
        self._origin = defaults
        self._adapted: list[str] = []
        self._arguments = ArgumentBuffer()
        self._choices: dict[int, ChoiceRepair] = {}
        self._ends: list[Object] = []
        self._envelope = Envelope(one_id=options.one_id)
        self._extras = DeferredMembers(options.without_choices)
        self._usage = UsageRepair(options.include_usage)
        if options.drops_usage:
            self._usage.close()
        self._suffixes = CumulativeTextRepair(self._note) if options.cumulative else None
        self._has_changed = False
        self._template = FastPath()
        self._seen = 0

    @property
    def adapted(self) -> tuple[str, ...]:
        return tuple(self._adapted)

    @property
    def told(self) -> Object:
        """What the chunks say of themselves, as far as they have: some of `chunk.ENVELOPE`."""
        return self._envelope.told

    @property
    def is_empty(self) -> bool:
        """Whether each choice ended with `stop` and said nothing."""
        for choice in self._choices.values():
            if not choice.is_empty:
                return False
        return bool(self._choices)

    def feed(self, block: bytes) -> bytes:
        if count := self._template.count_matching(block):
            self._seen += count
            return block
        data = single_line_data(block)
        if data is not None:
            return self._shape_data(block, data)
        blocks, rest = _parted(block)
        shaped = [self._shape_one(one) for one in blocks]
        return block if shaped == blocks else b"".join([*shaped, rest])

    def finish(self) -> bytes:
        """What waits: chunks that might have been cumulative, ends, extras, the usage that was asked for."""
        items = self._suffixes.finish() if self._suffixes is not None else []
        if self._ends:
            ends, self._ends = self._ends, []
            items += [PendingChunk(b"", end, has_changed=True) for end in ends]
        last: Object = {"object": CHAT_CHUNK, **self._envelope.told, "choices": []}
        has_extras, usage = self._extras.join(last), self._usage.take()
        if usage is not None:
            last["usage"] = usage
        if has_extras or usage is not None:
            items.append(PendingChunk(b"", last, has_changed=True))
        return _written(items)

    def end_choices(self) -> bool:
        """Have `finish` give a finish reason to each choice that has none though `[DONE]` came.

        False, and nothing is given, where one of them must not look complete.
        """
        if self._is_complete:
            return True
        reasons = {index: choice.reason_at_end() for index, choice in self._choices.items() if not choice.has_finished}
        if None in reasons.values() or _SHARED in reasons:
            return False
        nothing: Object = {"text": ""} if self._envelope.told.get("object") == LEGACY else {"delta": {}}
        for index, reason in sorted(reasons.items()):
            end = {"index": index, **nothing, "logprobs": None, "finish_reason": reason}
            self._ends.append({"object": CHAT_CHUNK, **self._envelope.told, "choices": [end]})
            self._note(names.ADDED_FINISH)
        return True

    def shape(self, block: bytes, payload: Object) -> bytes:
        """What goes on in the place of `block`, the event whose data is `payload`; may change `payload`.

        `block` itself comes back where nothing is to be repaired.
        """
        self.is_idle = self._has_changed = False
        if payload.get("error") or payload.get("object") == "error":
            return self.finish() + block
        try:
            return self._shaped(block, payload)
        except ValueError:  # nested too deep to be written again
            return block

    # --- bytes ------------------------------------------------------------------------------------

    def _shape_one(self, block: bytes) -> bytes:
        """One event of several."""
        if count := self._template.count_matching(block):
            self._seen += count
            return block
        data = single_line_data(block)
        return self._shape_data(block, parse_event(block).data or b"" if data is None else data)

    def _shape_data(self, block: bytes, data: bytes) -> bytes:
        data = data.strip()
        if data == b"[DONE]":
            return self.finish() + block
        try:
            payload = read_json(data)
        except ValueError:
            return block
        if not isinstance(payload, dict):
            return block
        self._seen += 1
        shaped = self.shape(block, payload)
        if self.is_idle:
            self._template.set_pattern(block, self._seen)
        return shaped

    # --- values -----------------------------------------------------------------------------------

    def _note(self, name: str) -> None:
        self._has_changed = True
        if name not in self._adapted:
            self._adapted.append(name)

    def _shaped(self, block: bytes, payload: Object) -> bytes:
        chunk = unwrap(payload)
        if chunk is not payload:
            self._note(names.WRAPPED)
        if not isinstance(chunk.get("choices"), list):
            if not is_chunk(chunk):
                return self._without_chunk(block, chunk)
            chunk["choices"] = []
            self._note(names.EMPTY_CHOICES)
        if not chunk["choices"]:
            return self._without_choices(block, chunk)
        if not self._choices and is_whole(chunk):
            return self._streamed(chunk)
        is_plain = self._mend(chunk)
        shaped = self._on(block, chunk)
        self.is_idle = is_plain and shaped is block and (self._suffixes is None or self._suffixes.is_settled)
        return shaped

    def _without_chunk(self, block: bytes, payload: Object) -> bytes:
        """What is no chunk is for a client that knows it, a ping for none."""
        if not is_ping(payload):
            return block
        self._note(names.EMPTY_CHOICES)
        return b""

    def _without_choices(self, block: bytes, chunk: Object) -> bytes:
        usage = chunk.get("usage")
        has_usage = bool(usage) and isinstance(usage, dict)
        if has_usage and self._usage.passes_alone(chunk, self._is_complete, self._note):
            return self._filled(block, chunk)
        if self._extras.stay(chunk, len(block)):
            return self._filled(block, chunk)
        self._note(names.EMPTY_CHOICES)
        return b""

    def _filled(self, block: bytes, chunk: Object) -> bytes:
        self._envelope.fill(chunk, self._note)
        return self._on(block, chunk)

    def _on(self, block: bytes, chunk: Object) -> bytes:
        """Send `chunk` on, in two where a finish reason wants to be alone, and after what it waited for."""
        parts = split_finish(chunk) if self._wishes.splits_finish else (chunk,)
        if len(parts) > 1:
            self._note(names.SPLIT)
        if self._suffixes is None:
            return b"".join([encode_event(part) for part in parts]) if self._has_changed else block
        has_changed = self._has_changed
        items: list[PendingChunk] = []
        for part in parts:
            items += self._suffixes.feed(PendingChunk(block if part is parts[0] else b"", part, has_changed))
        return _written(items)

    def _streamed(self, document: Object) -> bytes:
        """A whole completion in one event, as the chunks of one."""
        self._note(names.MESSAGE)
        parts = list(chunks(document, self._wishes.include_usage is not False, self._origin))
        for part in parts:
            self._envelope.learn(part)
            for choice in part["choices"]:
                self._state(choice["index"]).note_whole(choice)
        self._usage.close()
        return b"".join([encode_event(part) for part in parts])

    def _mend(self, chunk: Object) -> bool:
        """Mend a chunk with choices in place. True if nothing but the text of one like it could matter."""
        is_plain = True
        for place, choice in enumerate(chunk["choices"]):
            if isinstance(choice, dict):
                if type(choice.get("index")) is not int:
                    choice["index"] = place
                    self._note(names.INDEX)
                is_plain = self._state(choice["index"]).mend(choice, self._note) and is_plain
        usage = chunk.get("usage")
        if usage and isinstance(usage, dict):
            is_plain = False
            self._usage.mend_beside_choices(chunk, self._is_complete, self._note)
        self._envelope.fill(chunk, self._note)
        if self._extras.join(chunk):
            self._note(names.EMPTY_CHOICES)
        return is_plain

    def _state(self, index: int) -> ChoiceRepair:
        state = self._choices.get(index)
        if state is None:
            index = index if len(self._choices) < MAX_CHOICES else _SHARED
            state = self._choices.setdefault(index, ChoiceRepair(self._origin, self._arguments, index))
        return state

    @property
    def _is_complete(self) -> bool:
        states = self._choices.values()
        for state in states:
            if not state.has_finished:
                return False
        return bool(states)


def _parted(run: bytes) -> tuple[list[bytes], bytes]:
    """The events of a run, and the comment lines behind the last one."""
    blocks = split_events(run)
    if sum(map(len, blocks)) == len(run):
        return blocks, b""
    run, rest = split_comments(run)
    return split_events(run), rest


def _written(items: list[PendingChunk]) -> bytes:
    return b"".join([_event(item) for item in items])


def _event(item: PendingChunk) -> bytes:
    """The event anew, or as it came where it is nested too deep to be written."""
    if not item.has_changed:
        return item.block
    try:
        return encode_event(item.said)
    except ValueError:
        return item.block


MAX_MOVED_BYTES = 65_536
"""What may wait for a chunk with choices; larger extras go on where they stand."""

_REQUIRED = ("id", "object", "created", "model")
_SOUGHT = frozenset(_REQUIRED)
_BARE = frozenset({*ENVELOPE, "choices", "usage", "obfuscation"})
_SAYS_NOTHING: tuple[Any, ...] = (None, "", [], {})


class Envelope:
    """The envelope of one stream, as its first chunks told it."""

    __slots__ = ("_has_one_id", "_is_known", "told")

    def __init__(self, *, one_id: bool) -> None:
        self.told: Object = {}
        self._has_one_id = one_id
        self._is_known = False

    def fill(self, chunk: Object, on_repair: OnRepair) -> None:
        """Give `chunk` the members that it lacks, and the stream's id where all chunks are to have one."""
        told = self.told
        for name in _REQUIRED:
            if not chunk.get(name) and name in told:
                chunk[name] = told[name]
                on_repair(names.ENVELOPE)
        if not self._is_known:
            self.learn(chunk)
        if self._has_one_id and "id" in told and chunk.get("id") != told["id"]:
            chunk["id"] = told["id"]
            on_repair(names.ONE_ID)

    def learn(self, chunk: Object) -> None:
        """Remember what `chunk` says of the envelope for the first time."""
        told = self.told
        for name in ENVELOPE:
            if name not in told and (value := chunk.get(name)):
                told[name] = value
        self._is_known = told.keys() >= _SOUGHT


class DeferredMembers:
    """What came without choices and waits for a chunk that has some."""

    __slots__ = ("_held", "_held_bytes", "_wish")

    def __init__(self, wish: Literal["move", "keep", "drop"]) -> None:
        self._wish = wish
        self._held: Object = {}
        self._held_bytes = 0

    def stay(self, chunk: Object, size_bytes: int) -> bool:
        """Whether a chunk of `size_bytes` without choices goes on as it is; if not, what it says is held
        or dropped."""
        payload = {name: value for name, value in chunk.items() if name not in _BARE and value not in _SAYS_NOTHING}
        if not payload or self._wish == "drop":
            return False
        if self._wish == "keep" or self._held_bytes + size_bytes > MAX_MOVED_BYTES:
            return True
        self._held |= payload
        self._held_bytes += size_bytes
        return False

    def join(self, chunk: Object) -> bool:
        """Put what is held into `chunk`; False if nothing is."""
        if not self._held:
            return False
        held, self._held, self._held_bytes = self._held, {}, 0
        for name, value in held.items():
            chunk.setdefault(name, value)
        return True


def is_ping(payload: Object) -> bool:
    """Whether an event that is no chunk says nothing to anybody: a ping, or the empty envelope of a
    gateway that wraps its chunks, of success (a failure is an error, and no ping)."""
    if "data" in payload and payload.get("code") in (0, "0", 200, "200"):
        return payload["data"] is True or payload["data"] in _SAYS_NOTHING
    return not payload or "ping" in (payload.get("type"), payload.get("event"))


def is_whole(chunk: Object) -> bool:
    """Whether this is a completion, all of it, and no piece of one: a piece may have a `message` too, and
    call itself what the whole is called, but only a whole has a finish reason."""
    choices = chunk["choices"]
    if not all(
        isinstance(one, dict) and "delta" not in one and isinstance(one.get("message"), dict) for one in choices
    ):
        return False
    return any(finish_reason(one) for one in choices)


_TEXT = ("delta", "text", "logprobs")


def split_finish(chunk: Object) -> tuple[Object, ...]:
    """`chunk` alone, or two in its place: what it says, then how it ends, with the usage.

    vLLM sends the last text and the finish reason together; RAGFlow's vision models then fail on
    the missing usage. `chunk` itself is not changed.
    """
    choices = chunk["choices"]
    if not any(isinstance(choice, dict) and finish_reason(choice) and _says(choice) for choice in choices):
        return (chunk,)
    ends = [_end(choice) for choice in choices if isinstance(choice, dict) and finish_reason(choice)]
    first = {**chunk, "choices": [_open(choice) for choice in choices]}
    last = {**{name: chunk[name] for name in ENVELOPE if name in chunk}, "choices": ends}
    if "usage" in chunk:
        first["usage"], last["usage"] = None, chunk["usage"]
    return first, last


def _says(choice: Object) -> bool:
    delta = choice.get("delta")
    return bool(choice.get("text")) or (
        isinstance(delta, dict) and any(delta[name] for name in delta if name != "role")
    )


def _open(choice: Any) -> Any:
    return {**choice, "finish_reason": None} if isinstance(choice, dict) else choice


def _end(choice: Object) -> Object:
    nothing: Object = {"delta": {}, "text": "", "logprobs": None}
    return {name: nothing[name] if name in _TEXT else value for name, value in choice.items()}


class UsageRepair:
    """Lets the last usage through and no other; LangChain and Open WebUI sum up whatever comes, and
    RAGFlow too (vLLM, SGLang and DashScope can send it with every chunk).

    Where the client asked for it, it goes into a chunk of its own after the last choice; where it did
    not, only what stands beside the last finish reason stays. `wanted` None lets everything through.
    """

    __slots__ = ("_has_told", "_held", "_wanted")

    def __init__(self, wanted: bool | None) -> None:
        self._wanted = wanted
        self._held: Object | None = None
        self._has_told = False

    def mend_beside_choices(self, payload: Object, is_complete: bool, on_repair: OnRepair) -> None:
        """Take the usage out of a chunk with choices, unless it may stay there."""
        if self._wanted is None:
            return
        if self._wanted:
            self._hold(payload)
            payload["usage"] = None
        elif is_complete and not self._has_told:
            self._has_told = True
            return
        else:
            del payload["usage"]
        on_repair(USAGE)

    def passes_alone(self, payload: Object, is_complete: bool, on_repair: OnRepair) -> bool:
        """Whether the usage of a chunk without choices goes on with it; if not it is taken out, and held
        where it is wanted later."""
        if self._wanted is None:
            return True
        if self._wanted and is_complete and not self._has_told:
            self.close()
            return True
        self._hold(payload)
        del payload["usage"]
        on_repair(USAGE)
        return False

    def close(self) -> None:
        """The usage was told in another way: no more of it."""
        self._has_told, self._held = True, None

    def take(self) -> Object | None:
        """The usage that is still to be told at the end."""
        held, self._held = self._held, None
        return held

    def _hold(self, payload: Object) -> None:
        if self._wanted and not self._has_told:
            self._held = payload["usage"]
