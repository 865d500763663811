"""The shaper that finds out whether a stream is one that clients misread, and repairs it then."""

from __future__ import annotations

from gatepass.relay.chunk import CHAT_CHUNK, Object, Origin, event, is_chunk, unwrapped
from gatepass.relay.event import parse_event, read_json, single_line_data
from gatepass.relay.framing import split_comments, split_events
from gatepass.relay.repair import wishes as names
from gatepass.relay.repair.choice import ChoiceRepair
from gatepass.relay.repair.cumulative import Item, Suffixes
from gatepass.relay.repair.envelope import Envelope, Extras, is_ping, is_whole
from gatepass.relay.repair.split import split_finish
from gatepass.relay.repair.usage import UsageRepair
from gatepass.relay.repair.wishes import Wishes
from gatepass.relay.synthesis import chunks
from gatepass.relay.template import Template

MAX_CHOICES = 1024
"""Choices beyond share one state: an upstream that counts up for ever costs no memory."""


class Repair:
    """Repairs what `wishes.NAMES` lists. A clean stream passes byte for byte, each run the very same object.

    It takes runs that a judge of the stream let through: errors and what is no JSON pass untouched.
    Events are parsed until one was seen that needs nothing; from then on only those that differ from
    it in more than their text (see Template). An event that is repaired is written anew as one
    `data:` line: its `id:` and comments are lost, members that nobody knows are not.
    """

    __slots__ = (
        "_adapted",
        "_choices",
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

    def __init__(self, wishes: Wishes, origin: Origin) -> None:
        self.is_idle = False
        """Whether an event that differs from the last one in its text alone may pass unseen."""
        self._wishes = wishes
        self._origin = origin
        self._adapted: list[str] = []
        self._choices: dict[int, ChoiceRepair] = {}
        self._envelope = Envelope(one_id=wishes.one_id)
        self._extras = Extras(wishes.without_choices)
        self._usage = UsageRepair(wishes.include_usage)
        self._suffixes = Suffixes(self._note) if wishes.cumulative else None
        self._has_changed = False
        self._template = Template()
        self._seen = 0

    @property
    def adapted(self) -> tuple[str, ...]:
        return tuple(self._adapted)

    @property
    def told(self) -> Object:
        """What the chunks say of themselves, as far as they have: some of `chunk.ENVELOPE`."""
        return self._envelope.told

    def feed(self, block: bytes) -> bytes:
        if count := self._template.count(block):
            self._seen += count
            return block
        data = single_line_data(block)
        if data is not None:
            return self._shape_data(block, data)
        blocks, rest = _parted(block)
        shaped = [self._shape_one(one) for one in blocks]
        return block if shaped == blocks else b"".join([*shaped, rest])

    def finish(self) -> bytes:
        """What waits: chunks that might have been cumulative, extras, the usage that was asked for."""
        items = self._suffixes.finish() if self._suffixes is not None else []
        last: Object = {"object": CHAT_CHUNK, **self._envelope.told, "choices": []}
        has_extras, usage = self._extras.join(last), self._usage.take()
        if usage is not None:
            last["usage"] = usage
        if has_extras or usage is not None:
            items.append(Item(b"", last, has_changed=True))
        return _written(items)

    def shape(self, block: bytes, said: Object) -> bytes:
        """What goes on in the place of `block`, the event whose data is `said`; may change `said`.

        `block` itself comes back where nothing is to be repaired.
        """
        self.is_idle = self._has_changed = False
        if said.get("error") or said.get("object") == "error":
            return self.finish() + block
        try:
            return self._shaped(block, said)
        except ValueError:  # nested too deep to be written again
            return block

    # --- bytes ------------------------------------------------------------------------------------

    def _shape_one(self, block: bytes) -> bytes:
        """One event of several."""
        if count := self._template.count(block):
            self._seen += count
            return block
        data = single_line_data(block)
        return self._shape_data(block, parse_event(block).data or b"" if data is None else data)

    def _shape_data(self, block: bytes, data: bytes) -> bytes:
        data = data.strip()
        if data == b"[DONE]":
            return self.finish() + block
        try:
            said = read_json(data)
        except ValueError:
            return block
        if not isinstance(said, dict):
            return block
        self._seen += 1
        shaped = self.shape(block, said)
        if self.is_idle:
            self._template.learn(block, self._seen)
        return shaped

    # --- values -----------------------------------------------------------------------------------

    def _note(self, name: str) -> None:
        self._has_changed = True
        if name not in self._adapted:
            self._adapted.append(name)

    def _shaped(self, block: bytes, said: Object) -> bytes:
        chunk = unwrapped(said)
        if chunk is not said:
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

    def _without_chunk(self, block: bytes, said: Object) -> bytes:
        """What is no chunk is for a client that knows it, a ping for none."""
        if not is_ping(said):
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
            return b"".join([event(part) for part in parts]) if self._has_changed else block
        has_changed, items = self._has_changed, list[Item]()
        for part in parts:
            items += self._suffixes.feed(Item(block if part is parts[0] else b"", part, has_changed))
        return _written(items)

    def _streamed(self, document: Object) -> bytes:
        """A whole completion in one event, as the chunks of one."""
        self._note(names.MESSAGE)
        parts = list(chunks(document, self._wishes.include_usage is not False, self._origin))
        for part in parts:
            self._envelope.learn(part)
            for choice in part["choices"]:
                self._state(choice["index"]).has_finished = True
        self._usage.close()
        return b"".join([event(part) for part in parts])

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
            index = index if len(self._choices) < MAX_CHOICES else -1
            state = self._choices.setdefault(index, ChoiceRepair(self._origin))
        return state

    @property
    def _is_complete(self) -> bool:
        states = self._choices.values()
        return bool(states) and all(state.has_finished for state in states)


def _parted(run: bytes) -> tuple[list[bytes], bytes]:
    """The events of a run, and the comment lines behind the last one."""
    blocks = split_events(run)
    if sum(map(len, blocks)) == len(run):
        return blocks, b""
    run, rest = split_comments(run)
    return split_events(run), rest


def _written(items: list[Item]) -> bytes:
    return b"".join([_event(item) for item in items])


def _event(item: Item) -> bytes:
    """The event anew, or as it came where it is nested too deep to be written."""
    if not item.has_changed:
        return item.block
    try:
        return event(item.said)
    except ValueError:
        return item.block
