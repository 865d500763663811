"""Change replies as a client's profile requires: transforms of event streams, and a function for whole replies."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gatepass import json_body
from gatepass.config.access import Profile
from gatepass.errors import GatepassError
from gatepass.json_body import OBJECT, SMALL_BYTES, json_value, takes_long
from gatepass.sse import choice_repair, chunk, event
from gatepass.sse.event import LARGE_EVENT_BYTES, EventTransform
from gatepass.sse.usage import MOST_USAGE_BYTES, complete_usage, is_identical


def make_client_transform(profile: Profile) -> EventTransform | None:
    """Return a new transform for one stream of chunks, to run after its repair, or None.

    It changes bytes. What a profile changes of a chunk, the repair does.
    """
    if profile.plain_events:
        return PlainEvents()  # without comments too
    return WithoutComments() if profile.drops_comments else None


_PLAIN = re.compile(rb"(?:data: [^\r\n]++\n\n)++")


class PlainEvents(EventTransform):
    """Send each event as one line `data: …` and one blank line, both ended by a line feed.

    It removes names, ids and comments. Events in this form keep their bytes. It runs after the validation of the
    stream, so data is JSON or `[DONE]`.
    """

    name = "sse=plain"

    def feed(self, block: bytes) -> bytes:
        if _PLAIN.fullmatch(block):
            return block
        self._adapted[self.name] = None
        run, _ = event.split_comments(block)
        lines = (event.parse_event(one).data for one in event.split_events(run))
        # A line break between lines of data is white space of the JSON, because a JSON string must not contain one
        # (RFC 8259, section 7).
        return b"".join([b"data: %b\n\n" % data.replace(b"\n", b" ") for data in lines if data is not None])


_COMMENT = re.compile(rb"(?<![^\r\n]):[^\r\n]*+(?>\r\n?|\n)")
_MARKS = (b"\n:", b"\r:")


class WithoutComments(EventTransform):
    """Remove comments and their blank lines: Continue may lose the event next to one (see config/access.py)."""

    name = "sse=comments"

    def feed(self, block: bytes) -> bytes:
        # a line that begins with a colon is a comment: no line of JSON begins with one
        if not block.startswith(b":") and block.find(_MARKS[0]) < 0 and block.find(_MARKS[1]) < 0:
            return block
        self._adapted[self.name] = None
        events = event.split_events(event.split_comments(block)[0])
        kept = [_COMMENT.sub(b"", one) for one in events]
        return b"".join([one for before, one in zip(events, kept, strict=True) if one == before or one.strip(b"\r\n")])


_NO_DATA = re.compile(rb"(?<![^\r\n])(?:data:|(?!data:)[^\r\n]++)")
"""The parts of an event's lines that are not its data."""


class LaterNumbers(EventTransform):
    """Add `shift` to the `sequence_number` of each event. Only its digits change.

    Events of the Responses API are numbered, so an event that gatepass inserts raises the numbers of those after it.
    """

    name = "sse=numbers"

    def __init__(self) -> None:
        super().__init__()
        self.shift = 0

    def feed(self, block: bytes) -> bytes:
        run, comments = event.split_comments(block)
        return b"".join([*map(self._renumbered, event.split_events(run)), comments])

    def _renumbered(self, block: bytes) -> bytes:
        # white space instead of the names of the fields: what is left is JSON, at the same place
        data = _NO_DATA.sub(lambda found: b" " * len(found[0]), block)
        try:
            places = json_body.places(data, json_body.members(data))
            number = next((one for one in places if one.name == "sequence_number"), None)
        except (GatepassError, ValueError, RecursionError):  # a comment, or JSON that no strict parser accepts
            return block
        if number is None or not (digits := block[number.value : number.end]).isdigit():
            return block
        self._adapted[self.name] = None
        return b"%b%d%b" % (block[: number.value], int(digits) + self.shift, block[number.end :])


_UNNAMED = (msgspec.Raw(b"null"), msgspec.Raw(b'""'))


def transform_reply(body: bytes, profile: Profile, model: str = "") -> tuple[bytes, tuple[str, ...]]:
    """Return a whole reply as the client requires it, and the names of the repairs; `body` itself if there were none.

    `body` is a valid reply. `model` is the client's name of the model, "" if it is not known. Members that need no
    repair keep their bytes, above all vectors.
    """
    if not (profile.whole_numbers or profile.envelope or profile.plain_texts) or body[:SMALL_BYTES].lstrip().startswith(
        b"["
    ):
        return body, ()
    try:
        top: dict[str, Any] = {**OBJECT.decode(body)}
        choices = memoryview(top.get("choices", b""))
        is_large = choices.nbytes > LARGE_EVENT_BYTES  # an answer, to which the repair has given an envelope
        if not is_large and takes_long(bytes(choices)):
            return body, ()
        adapted = [choice_repair.USAGE] if _repair_usage(top, profile) else []
        if profile.envelope and not is_large and _add_envelope(top, model):
            adapted.append(choice_repair.ENVELOPE)
        if profile.plain_texts and not is_large and "choices" in top:
            built = json_value(bytes(choices))
            error = {"error": json_value(bytes(top["error"]))} if "error" in top else {}
            if isinstance(built, list) and chunk.move_texts(error, built, "message"):
                adapted.append(choice_repair.TEXTS)
                top = {**{name: value for name, value in top.items() if name != "error"}, **error, "choices": built}
        return (msgspec.json.encode(top), tuple(adapted)) if adapted else (body, ())
    except (ValueError, RecursionError):
        return body, ()  # JSON that only Python's parser accepts: NaN, half a surrogate pair


def _add_envelope(top: dict[str, Any], model: str) -> bool:
    kind = "list" if "data" in top else ""
    if not kind:
        choices: Any = json_value(bytes(top.get("choices", b"null")))
        first = choices[0] if isinstance(choices, list) and choices else None
        if isinstance(first, dict):  # a choice of a chat has a message, others have a text
            kind = chunk.CHAT if "message" in first else chunk.LEGACY
    envelope = {"object": kind, "model": model} if kind else {}
    lacking = {name: value for name, value in envelope.items() if value and top.get(name) in (None, *_UNNAMED)}
    top.update(lacking)
    return bool(lacking)


def _repair_usage(top: dict[str, Any], profile: Profile) -> bool:
    if not profile.whole_numbers or not ("choices" in top or "data" in top):
        return False
    if memoryview(top.get("usage", b"")).nbytes > MOST_USAGE_BYTES:
        return False
    payload: Any = json_value(bytes(top["usage"])) if "usage" in top else None
    completed = complete_usage(payload if isinstance(payload, dict) else {}, is_chat="choices" in top)
    if is_identical(completed, payload):
        return False
    top["usage"] = completed
    return True
