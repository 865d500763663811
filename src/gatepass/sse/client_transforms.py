"""Changes of replies that a client's profile asks for: transforms of its streams, and of its whole replies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from gatepass.config.access import Profile
from gatepass.json_scan import json_value
from gatepass.sse.chunk import CHAT, ENVELOPE, LEGACY, Object, empty_choice, encode_event, json_text
from gatepass.sse.event import parse_event, read_json, single_line_data, split_comments, split_events, takes_long
from gatepass.sse.transform import EventTransform, TransformChain

LINE = "repair=line"
BYTES_PER_CHAR = 6
"""At most, in JSON: `\\u0000`."""
OVERHEAD_BYTES = 4096
"""For what stands around a text in its chunk."""

_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")


class ShortLines:
    """Cuts a chunk that is longer than `limit_bytes` into several: its texts and the arguments of its tool calls.

    RAGFlow's Go client gives up on a line of 1 MiB (bufio.Scanner in its internal/entity/models). The first chunk of
    several holds all else that the long one held, the last one the finish reasons and the usage. What has no text that
    could be cut, such as audio, passes as it is.
    """

    __slots__ = ("_has_cut", "_limit_bytes", "_piece_chars")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._piece_chars = max(1, (limit_bytes - OVERHEAD_BYTES) // BYTES_PER_CHAR)
        self._has_cut = False

    @property
    def adapted(self) -> tuple[str, ...]:
        return (LINE,) if self._has_cut else ()

    def feed(self, block: bytes) -> bytes:
        """A run that is short as a whole, as nearly every one is, is not looked at."""
        if len(block) <= self._limit_bytes:
            return block
        return each_event(block, lambda one: self._short(one) if len(one) > self._limit_bytes else one)

    def finish(self) -> bytes:
        return b""

    def _short(self, block: bytes) -> bytes:
        try:
            payload = read_json(parse_event(block).data or b"")
        except ValueError:
            return block
        choices = payload.get("choices") if isinstance(payload, dict) else None
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            return block
        return self._cut(payload, choices) or block

    def _cut(self, payload: Object, choices: list[Object]) -> bytes:
        """The chunks, b"" where there is nothing to cut."""
        later = [piece for choice in choices for piece in self._later(choice)]
        if not later:
            return b""
        self._has_cut = True
        envelope = {name: payload[name] for name in ENVELOPE if name in payload}
        ends = [_end(choice) for choice in choices if choice.get("finish_reason")]
        first = {**payload, "choices": [{**choice, "finish_reason": None} for choice in choices]}
        last: Object = {**envelope, "choices": ends}
        if "usage" in payload:
            first["usage"], last["usage"] = None, payload["usage"]
        parts = [first, *({**envelope, "choices": [piece]} for piece in later)]
        if ends or payload.get("usage"):
            parts.append(last)
        return b"".join(map(encode_event, parts))

    def _later(self, choice: Object) -> Iterable[Object]:
        """What is cut off the choice's delta, as choices of later chunks; the delta keeps the beginnings."""
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        for name in _TEXTS:
            for piece in self._off(delta, name):
                yield _piece(choice, {name: piece})
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            function = call.get("function") if isinstance(call, dict) else None
            for piece in self._off(function, "arguments") if isinstance(function, dict) else ():
                yield _piece(choice, {"tool_calls": [{"index": call.get("index"), "function": {"arguments": piece}}]})

    def _off(self, owner: Object, name: str) -> list[str]:
        """Leave the first piece of the text there; the others."""
        text, size = owner.get(name), self._piece_chars
        if not isinstance(text, str) or len(text) <= size:
            return []
        owner[name] = text[:size]
        return [text[at : at + size] for at in range(size, len(text), size)]


def each_event(block: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A run with `change` made to each event; the same object where nothing changed. Comments at its end stay."""
    run, rest = split_comments(block)
    events = split_events(run)
    shaped = [change(one) for one in events]
    return block if shaped == events else b"".join([*shaped, rest])


def _piece(choice: Object, delta: Object) -> Object:
    return {"index": choice.get("index", 0), "delta": delta, "finish_reason": None}


def _end(choice: Object) -> dict[str, Any]:
    return {"index": choice.get("index", 0), "delta": {}, "finish_reason": choice["finish_reason"]}


NO_CHUNK = "sse=no-chunk"

_CHOICES = re.compile(rb'"choices"\s*+:')


class OnlyChunks:
    """Leaves out events that have no `choices`, but for errors: to fail at one is right.

    It stands behind the repair, which gives chunks their choices. An event with a member of that name, at whatever
    depth, passes unread: in a text its quotes would be escaped.
    """

    __slots__ = ("_has_cut",)

    def __init__(self) -> None:
        self._has_cut = False

    @property
    def adapted(self) -> tuple[str, ...]:
        return (NO_CHUNK,) if self._has_cut else ()

    def feed(self, block: bytes) -> bytes:
        if _CHOICES.search(block) and single_line_data(block) is not None:
            return block
        return each_event(block, self._kept)

    def finish(self) -> bytes:
        return b""

    def _kept(self, block: bytes) -> bytes:
        if _CHOICES.search(block) or not _is_foreign(parse_event(block).data):
            return block
        self._has_cut = True
        return b""


def _is_foreign(data: bytes | None) -> bool:
    """Whether this is JSON, and neither a chunk nor an error."""
    try:
        payload = read_json(data or b"")
    except ValueError:  # [DONE], a comment
        return False
    return not (
        isinstance(payload, dict) and ("choices" in payload or payload.get("error") or payload.get("object") == "error")
    )


EMPTY_CHOICE = "repair=empty-choice"

_NONE = re.compile(rb'"choices"\s*+:\s*+\[\s*+\]')


class EmptyChoice:
    """Gives a chunk without choices, such as the last one with the usage, a choice that says nothing.

    To move the usage into the chunk before would hold that one, and its finish reason, back until the next is here.
    """

    __slots__ = ("_has_given",)

    def __init__(self) -> None:
        self._has_given = False

    @property
    def adapted(self) -> tuple[str, ...]:
        return (EMPTY_CHOICE,) if self._has_given else ()

    def feed(self, block: bytes) -> bytes:
        return each_event(block, self._given) if _NONE.search(block) else block

    def finish(self) -> bytes:
        return b""

    def _given(self, block: bytes) -> bytes:
        if not _NONE.search(block):
            return block
        try:
            payload = read_json(parse_event(block).data or b"")
        except ValueError:
            return block
        if not isinstance(payload, dict) or payload.get("choices") != []:
            return block
        self._has_given = True
        return encode_event({**payload, "choices": [empty_choice(0, is_text=payload.get("object") == LEGACY)]})


PLAIN = "sse=plain"

_PLAIN = re.compile(rb"(?:data: [^\r\n]++\n\n)++")


class PlainEvents:
    """Sends each event as one line `data: …` and one blank line, both ended by a line feed, and nothing else: no names,
    no ids, no comments. What is that already keeps its bytes.

    It stands behind the judge of a stream, and so is told JSON or `[DONE]` alone.
    """

    __slots__ = ("_has_changed",)

    def __init__(self) -> None:
        self._has_changed = False

    @property
    def adapted(self) -> tuple[str, ...]:
        return (PLAIN,) if self._has_changed else ()

    def feed(self, block: bytes) -> bytes:
        if _PLAIN.fullmatch(block):
            return block
        self._has_changed = True
        run, _ = split_comments(block)
        return b"".join(map(_plain, split_events(run)))

    def finish(self) -> bytes:
        return b""


def _plain(block: bytes) -> bytes:
    """b"" for what has no data. A line break between lines of data is white space of the JSON: none may stand in one of
    its strings (RFC 8259, section 7)."""
    data = parse_event(block).data
    return b"" if data is None else b"data: %b\n\n" % data.replace(b"\n", b" ")


COMMENTS = "sse=comments"

_COMMENT = re.compile(rb"(?<![^\r\n]):[^\r\n]*+(?>\r\n?|\n)")
_MARKS = (b"\n:", b"\r:")


class WithoutComments:
    """Leaves out comment lines, and the blank line of a block that is nothing else.

    What Dify and Continue throw away with a comment is the event next to it (see config/access.py).
    """

    __slots__ = ("_has_cut",)

    def __init__(self) -> None:
        self._has_cut = False

    @property
    def adapted(self) -> tuple[str, ...]:
        return (COMMENTS,) if self._has_cut else ()

    def feed(self, block: bytes) -> bytes:
        """A run without a line that begins with a colon is the same object: no line of JSON does."""
        if not block.startswith(b":") and block.find(_MARKS[0]) < 0 and block.find(_MARKS[1]) < 0:
            return block
        self._has_cut = True
        run, _ = split_comments(block)
        return b"".join(map(_cut, split_events(run)))

    def finish(self) -> bytes:
        return b""


def _cut(encode_event: bytes) -> bytes:
    kept = _COMMENT.sub(b"", encode_event)
    return b"" if len(kept) < len(encode_event) and not kept.strip(b"\r\n") else kept


USAGE = "repair=usage"

_DIGITS = re.compile(r"[0-9]{1,15}(?:\.0{1,15})?")
_MOST = 2.0**53
"""Above it a float's last digits are made up."""
_TELLS = re.compile(rb'"usage"\s*+:\s*+\{')


class WholeUsage:
    """Makes the `usage` of a stream's chunks whole where there is one. What a chunk does not tell is not added."""

    __slots__ = ("_has_mended",)

    def __init__(self) -> None:
        self._has_mended = False

    @property
    def adapted(self) -> tuple[str, ...]:
        return (USAGE,) if self._has_mended else ()

    def feed(self, block: bytes) -> bytes:
        return each_event(block, self._mended) if _TELLS.search(block) else block

    def finish(self) -> bytes:
        return b""

    def _mended(self, block: bytes) -> bytes:
        if not _TELLS.search(block):
            return block
        try:
            payload = read_json(parse_event(block).data or b"")
        except ValueError:
            return block
        usage = payload.get("usage") if isinstance(payload, dict) and "choices" in payload else None
        if not isinstance(usage, dict) or is_same(whole := counted(usage, is_chat=True), usage):
            return block
        self._has_mended = True
        return encode_event({**payload, "usage": whole})


def counted(usage: Object, *, is_chat: bool) -> Object:
    """`usage` with whole numbers in the places that clients add up: zero where nothing is told, but a lost total is
    the sum of the rest."""
    names = ("prompt_tokens", "completion_tokens") if is_chat else ("prompt_tokens",)
    parts = {name: _whole(usage.get(name)) or 0 for name in names}
    total = _whole(usage.get("total_tokens"))
    return {**usage, **parts, "total_tokens": sum(parts.values()) if total is None else total}


def is_same(usage: Mapping[str, Any], other: Any) -> bool:
    """Equal, and of the same types: 12 is not 12.0 here."""
    if not isinstance(other, Mapping) or usage.keys() != other.keys():
        return False
    return all((type(usage[name]), usage[name]) == (type(other[name]), other[name]) for name in usage)


def _whole(count: Any) -> int | None:
    """A count however it is written (12, 12.0, "12"); None where it is none."""
    if isinstance(count, str) and _DIGITS.fullmatch(count):
        return int(count.partition(".")[0])
    if isinstance(count, float) and 0 <= count < _MOST and count.is_integer():
        return int(count)
    return count if type(count) is int else None


CONTENT = "repair=content"
NAMED = "repair=envelope"

_TOP: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SPOKEN = ("tool_calls", "function_call", "refusal", "audio")
_UNNAMED = (msgspec.Raw(b"null"), msgspec.Raw(b'""'))


def make_client_transform(profile: Profile, *, is_chat: bool = True) -> EventTransform | None:
    """A new shaper for one stream, to stand behind the repair of it: None for most clients.

    `is_chat`: the stream is one of chunks; of others only the framing is changed.
    """
    shapers = list(_of_chunks(profile)) if is_chat else []
    if profile.keep_alive != "comment":
        shapers.append(WithoutComments())
    return TransformChain(shapers) if shapers else None


def _of_chunks(profile: Profile) -> Iterator[EventTransform]:
    """In the order of adaptation: the last one comes first."""
    if profile.plain_events:
        yield PlainEvents()
    if profile.line_bytes is not None:
        yield ShortLines(profile.line_bytes)
    if profile.fills_choices:
        yield EmptyChoice()
    if profile.whole_numbers:
        yield WholeUsage()
    if profile.only_chunks:
        yield OnlyChunks()


def transform_reply(body: bytes, profile: Profile, model: str = "") -> tuple[bytes, tuple[str, ...]]:
    """A plain reply as the client needs it, and what was repaired; the same object where nothing was.

    `body` is JSON that was judged, `model` the client's name for who wrote it, "" where that is not known. What is
    not repaired keeps its bytes, vectors above all.
    """
    is_touched = profile.whole_numbers or profile.content_text or profile.envelope
    if not is_touched or body.lstrip().startswith(b"["):
        return body, ()
    try:
        return _mended(body, profile, model)
    except (ValueError, RecursionError):
        return body, ()  # JSON as Python reads it: NaN, half a surrogate pair


def _mended(body: bytes, profile: Profile, model: str) -> tuple[bytes, tuple[str, ...]]:
    top: dict[str, Any] = {**_TOP.decode(body)}
    if takes_long(bytes(top.get("choices", b""))):
        return body, ()
    adapted = [name for name, mend in ((USAGE, _mend_usage), (CONTENT, _mend_choices)) if mend(top, profile)]
    if profile.envelope and _name(top, model):
        adapted.append(NAMED)
    return (msgspec.json.encode(top), tuple(adapted)) if adapted else (body, ())


def _name(top: dict[str, Any], model: str) -> bool:
    """Put in what the reply is and who wrote it where it does not say so; whether it did not."""
    kind = "list" if "data" in top else _kind(top)
    told = {"object": kind, "model": model} if kind else {}
    lacking = {name: value for name, value in told.items() if value and top.get(name) in (None, *_UNNAMED)}
    top.update(lacking)
    return bool(lacking)


def _kind(top: dict[str, Any]) -> str:
    """Of a reply with choices: a chat's have messages, a text's have texts."""
    choices: Any = json_value(bytes(top.get("choices", b"null")))
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        return ""
    return CHAT if "message" in first else LEGACY


def _mend_usage(top: dict[str, Any], profile: Profile) -> bool:
    if not profile.whole_numbers or not ("choices" in top or "data" in top):
        return False
    payload: Any = json_value(bytes(top["usage"])) if "usage" in top else None
    whole = counted(payload if isinstance(payload, dict) else {}, is_chat="choices" in top)
    if is_same(whole, payload):
        return False
    top["usage"] = whole
    return True


def _mend_choices(top: dict[str, Any], profile: Profile) -> bool:
    choices: Any = json_value(bytes(top["choices"])) if profile.content_text and "choices" in top else None
    if not isinstance(choices, list):
        return False
    silent = [message for message in map(_message, choices) if message is not None]
    for message in silent:
        message["content"] = ""
    if silent:
        top["choices"] = msgspec.Raw(json_text(choices))
    return bool(silent)


def _message(choice: Any) -> Object | None:
    """The message of a choice that says nothing and calls nothing."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict) or message.get("content") is not None:
        return None
    return None if any(message.get(name) for name in _SPOKEN) else message
