"""RAGFlow's streams and completions, made what its clients take them for.

What a dialect's replies need before anybody judges them: a shaper for its streams, a change of its documents.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from gatepass.sse.chunk import CHAT_CHUNK, EnvelopeDefaults, Object, encode_event, json_text
from gatepass.sse.event import parse_event, read_json, split_events
from gatepass.sse.transform import EventTransform

ONE_ID, ERROR_TOLD, REPEATED, FINISH, ESTIMATED = (
    *("ragflow=id", "ragflow=error", "ragflow=repeated", "ragflow=finish", "ragflow=estimated-usage"),
)
NAMES = (ONE_ID, ERROR_TOLD, REPEATED, FINISH, ESTIMATED)
"""What may be changed: an id that names the assistant (the same in all its answers), or that is new in
every chunk of an agent's, is replaced by one of the answer's own, and `created: null` by a time; an
answer that is the text of an exception becomes an error; the whole answer that versions up to v0.25.6
repeat as the last delta (infiniflow/ragflow#15286) is left out; an agent's stream gets the finish chunk
that it lacks and, where the client asked for usage, one that is estimated."""

ERROR = "**ERROR**:"
"""How RAGFlow begins the text of an exception that it sends as an answer, or as the last delta of one, with
finish reason "stop". Where an answer goes on after it, the answer only quotes it."""
MAX_SUSPECTS = 64
"""So many chunks wait at most for what tells an exception from a quotation."""

SHORTEST_REPEATED_CHARS = 20
LONGEST_REPEATED_CHARS = 4 * 1024 * 1024
"""Of a longer answer no repetition is looked for: what is held for that is bounded."""

CHARS_PER_TOKEN = 4
"""What English text takes on average; of Chinese a token is a character or two, and the estimate is low."""

_ABSENT = ("not found", "don't own")
_CITATION = re.compile(r"\s*(?:##\d+\$\$|\[ID:\s*\d+\])")


def as_error(text: str) -> Object | None:
    """The error object of RAGFlow that `text` stands for, None for an answer."""
    if not text.lstrip().startswith(ERROR):
        return None
    payload = text.lstrip().removeprefix(ERROR).strip()
    code = 102 if any(words in payload.lower() for words in _ABSENT) else 100
    return {"code": code, "message": payload or "RAGFlow failed without a word."}


def completion(body: bytes, defaults: EnvelopeDefaults) -> tuple[bytes, tuple[str, ...]]:
    """A completion with an id of its own, or the error that it really is; and the names of what changed.

    What is no completion comes back as it is, for the judge."""
    try:
        payload = read_json(body)
    except ValueError:
        return body, ()
    if not isinstance(payload, dict) or not isinstance(payload.get("choices"), list):
        return body, ()
    error = as_error(_text(payload, "message"))
    if error is not None:
        return json_text(error), (ERROR_TOLD,)
    payload["id"] = defaults.new_id("chatcmpl-")
    payload["created"] = payload.get("created") or defaults.created_s
    return json_text(payload), (ONE_ID,)


class RagflowStream:
    """A Shaper for the streams of assistants and agents. One chunk is held for as long as it might be
    the answer repeated, and some for as long as they might be an exception: the next chunk tells."""

    __slots__ = (
        "_adapted",
        "_answer",
        "_held",
        "_id",
        "_is_finished",
        "_length",
        "_origin",
        "_suspects",
        "_suspicion",
        "_wants_usage",
    )

    def __init__(self, defaults: EnvelopeDefaults, *, wants_usage: bool = False) -> None:
        self._origin = defaults
        self._wants_usage = wants_usage
        self._id = defaults.new_id("chatcmpl-")
        self._adapted: list[str] = []
        self._answer: list[str] = []
        self._length = 0
        self._held: Object | None = None
        self._suspects: list[Object] = []
        self._suspicion = ""
        self._is_finished = False

    @property
    def adapted(self) -> tuple[str, ...]:
        return tuple(self._adapted)

    def feed(self, block: bytes) -> bytes:
        return b"".join(self._one(each) for each in split_events(block))

    def finish(self) -> bytes:
        return self._convicted() or self._release()

    def _one(self, block: bytes) -> bytes:
        data = parse_event(block).data
        if data is None:
            return block
        if data.strip() == b"[DONE]":
            return self._convicted() or self._release() + self._last_words() + block
        try:
            payload = read_json(data)
        except ValueError:
            return self._release() + block
        if not isinstance(payload, dict) or not isinstance(payload.get("choices"), list):
            return self._release() + block
        return self._chunk(payload)

    def _chunk(self, payload: Object) -> bytes:
        text, before = _text(payload, "delta"), b""
        if len(self._suspects) >= MAX_SUSPECTS or not self._is_suspect(text):
            before = self._acquitted()
        if self._is_suspect(text):
            return before + self._suspect(payload, text)
        before += self._drop_repeated(payload)
        self._own(payload)
        if self._is_repeated(text):
            self._held = payload
            return before
        self._remember(text)
        return before + encode_event(payload)

    def _is_suspect(self, text: str) -> bool:
        """Whether `text`, after what is suspected already, may be the beginning of an exception or all of it.

        After an exception's own beginning a text is more of it only where nothing else was said."""
        if not text:
            return bool(self._suspects)
        whole = (self._suspicion + text).lstrip()
        if whole.startswith(ERROR):
            return not self._length or not self._suspicion.lstrip().startswith(ERROR)
        return ERROR.startswith(whole) and (whole != "" or not self._length)

    def _suspect(self, payload: Object, text: str) -> bytes:
        before = self._release() if self._held is not None else b""
        self._suspects.append(payload)
        self._suspicion += text
        if _first(payload).get("finish_reason"):
            return before + (self._convicted() or self._acquitted())
        is_told = not self._length and self._suspicion.strip() != ERROR
        return before + (self._convicted() if is_told else b"")

    def _convicted(self) -> bytes:
        """The error that the suspects are at the end of an answer; nothing where they are none."""
        error = as_error(self._suspicion)
        if error is None:
            return b""
        self._suspects, self._suspicion = [], ""
        self._note(ERROR_TOLD)
        self._is_finished = True  # nothing follows an error
        return encode_event(error)

    def _acquitted(self) -> bytes:
        suspects, self._suspects, self._suspicion = self._suspects, [], ""
        for payload in suspects:
            self._own(payload)
            self._remember(_text(payload, "delta"))
        return b"".join([encode_event(payload) for payload in suspects])

    def _own(self, payload: Object) -> None:
        self._note(ONE_ID)
        payload["id"] = self._id
        payload["object"] = CHAT_CHUNK
        payload["created"] = self._origin.created_s
        payload.setdefault("model", self._origin.model)
        self._is_finished = self._is_finished or bool(_first(payload).get("finish_reason"))

    def _drop_repeated(self, after: Object) -> bytes:
        """What was held: no more of it than is new where the chunk `after` it ends the answer."""
        if self._held is None or not _first(after).get("finish_reason"):
            return self._release()
        held, self._held = self._held, None
        self._note(REPEATED)
        tail = _tail(_text(held, "delta"), "".join(self._answer))
        if not tail:
            return b""
        _first(held)["delta"]["content"] = tail
        self._remember(tail)
        return encode_event(held)

    def _release(self) -> bytes:
        held, self._held = self._held, None
        if held is None:
            return self._acquitted()
        self._remember(_text(held, "delta"))
        return encode_event(held) + self._acquitted()

    def _is_repeated(self, text: str) -> bool:
        """Citation marks make at most half of an answer, so shorter texts are not even compared: looking at each
        delta of a long answer would take time quadratic in it."""
        if not max(SHORTEST_REPEATED_CHARS, self._length // 2) <= len(text) <= LONGEST_REPEATED_CHARS:
            return False
        if not self._answer or self._length > LONGEST_REPEATED_CHARS:
            return False
        payload = "".join(self._answer)
        self._answer = [payload]
        return text == payload or _CITATION.sub("", text).startswith(_CITATION.sub("", payload))

    def _remember(self, text: str) -> None:
        self._length += len(text)
        if self._length <= LONGEST_REPEATED_CHARS:
            self._answer.append(text)

    def _last_words(self) -> bytes:
        """What an agent leaves out before `[DONE]`; nothing for a stream without any answer."""
        if self._is_finished or not self._adapted:
            return b""
        self._note(FINISH)
        self._is_finished = True
        whole = {"id": self._id, "object": CHAT_CHUNK, "created": self._origin.created_s, "model": self._origin.model}
        end = encode_event(whole | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if not self._wants_usage:
            return end
        self._note(ESTIMATED)
        told = -(-self._length // CHARS_PER_TOKEN)
        usage = {"prompt_tokens": 0, "completion_tokens": told, "total_tokens": told}
        return end + encode_event(whole | {"choices": [], "usage": usage})

    def _note(self, name: str) -> None:
        if name not in self._adapted:
            self._adapted.append(name)


def _tail(text: str, payload: str) -> str:
    """What `text`, which repeats all of `payload`, says beyond it; citation marks alone say nothing."""
    left, at = len(_CITATION.sub("", payload)), 0
    for mark in _CITATION.finditer(text):
        if mark.start() - at >= left:
            break
        left -= mark.start() - at
        at = mark.end()
    tail = text[at + left :]
    return tail if _CITATION.sub("", tail).strip() else ""


def _first(payload: Object) -> Object:
    choices = payload["choices"]
    return choices[0] if choices and isinstance(choices[0], dict) else {}


def _text(payload: Object, place: str) -> str:
    inner: Any = _first(payload).get(place)
    content = inner.get("content") if isinstance(inner, dict) else None
    return content if isinstance(content, str) else ""


class DialectTransforms(Protocol):
    @property
    def is_plain(self) -> bool:
        """Whether nothing needs anything: then neither of the two is worth asking."""
        ...

    def stream(self, defaults: EnvelopeDefaults, *, wants_usage: bool) -> EventTransform | None:
        """A new shaper for one stream, None where its events are judged as they come."""
        ...

    def document(self, body: bytes, defaults: EnvelopeDefaults) -> tuple[bytes, tuple[str, ...]]:
        """A whole reply, the same object where nothing changes, and the names of what did."""
        ...


@dataclass(frozen=True, slots=True)
class NoTransforms:
    """OpenAI's own protocol, and Azure's: nothing."""

    is_plain: ClassVar[bool] = True

    def stream(self, defaults: EnvelopeDefaults, *, wants_usage: bool) -> EventTransform | None:
        del defaults, wants_usage
        return None

    def document(self, body: bytes, defaults: EnvelopeDefaults) -> tuple[bytes, tuple[str, ...]]:
        del defaults
        return body, ()


@dataclass(frozen=True, slots=True)
class RagflowTransforms:
    """See sse/dialect_transforms.py."""

    is_plain: ClassVar[bool] = False

    def stream(self, defaults: EnvelopeDefaults, *, wants_usage: bool) -> EventTransform | None:
        return RagflowStream(defaults, wants_usage=wants_usage)

    def document(self, body: bytes, defaults: EnvelopeDefaults) -> tuple[bytes, tuple[str, ...]]:
        return completion(body, defaults)


def dialect_transforms(dialect: str) -> DialectTransforms:
    return RagflowTransforms() if dialect == "ragflow" else NoTransforms()
