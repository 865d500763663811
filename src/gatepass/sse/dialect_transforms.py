"""RAGFlow's streams and completions, made what its clients take them for.

What a dialect's replies need before anybody judges them: a shaper for its streams, a change of its documents.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from gatepass.sse.chunk import CHAT_CHUNK, Object, Origin, event, json_text
from gatepass.sse.event import parse_event, read_json, split_events
from gatepass.sse.transform import Shaper

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
    said = text.lstrip().removeprefix(ERROR).strip()
    code = 102 if any(words in said.lower() for words in _ABSENT) else 100
    return {"code": code, "message": said or "RAGFlow failed without a word."}


def completion(body: bytes, origin: Origin) -> tuple[bytes, tuple[str, ...]]:
    """A completion with an id of its own, or the error that it really is; and the names of what changed.

    What is no completion comes back as it is, for the judge."""
    try:
        said = read_json(body)
    except ValueError:
        return body, ()
    if not isinstance(said, dict) or not isinstance(said.get("choices"), list):
        return body, ()
    error = as_error(_text(said, "message"))
    if error is not None:
        return json_text(error), (ERROR_TOLD,)
    said["id"] = origin.new_id("chatcmpl-")
    said["created"] = said.get("created") or origin.created_s
    return json_text(said), (ONE_ID,)


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

    def __init__(self, origin: Origin, *, wants_usage: bool = False) -> None:
        self._origin = origin
        self._wants_usage = wants_usage
        self._id = origin.new_id("chatcmpl-")
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
            said = read_json(data)
        except ValueError:
            return self._release() + block
        if not isinstance(said, dict) or not isinstance(said.get("choices"), list):
            return self._release() + block
        return self._chunk(said)

    def _chunk(self, said: Object) -> bytes:
        text, before = _text(said, "delta"), b""
        if len(self._suspects) >= MAX_SUSPECTS or not self._is_suspect(text):
            before = self._acquitted()
        if self._is_suspect(text):
            return before + self._suspect(said, text)
        before += self._drop_repeated(said)
        self._own(said)
        if self._is_repeated(text):
            self._held = said
            return before
        self._remember(text)
        return before + event(said)

    def _is_suspect(self, text: str) -> bool:
        """Whether `text`, after what is suspected already, may be the beginning of an exception or all of it.

        After an exception's own beginning a text is more of it only where nothing else was said."""
        if not text:
            return bool(self._suspects)
        whole = (self._suspicion + text).lstrip()
        if whole.startswith(ERROR):
            return not self._length or not self._suspicion.lstrip().startswith(ERROR)
        return ERROR.startswith(whole) and (whole != "" or not self._length)

    def _suspect(self, said: Object, text: str) -> bytes:
        before = self._release() if self._held is not None else b""
        self._suspects.append(said)
        self._suspicion += text
        if _first(said).get("finish_reason"):
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
        return event(error)

    def _acquitted(self) -> bytes:
        suspects, self._suspects, self._suspicion = self._suspects, [], ""
        for said in suspects:
            self._own(said)
            self._remember(_text(said, "delta"))
        return b"".join([event(said) for said in suspects])

    def _own(self, said: Object) -> None:
        self._note(ONE_ID)
        said["id"] = self._id
        said["object"] = CHAT_CHUNK
        said["created"] = self._origin.created_s
        said.setdefault("model", self._origin.model)
        self._is_finished = self._is_finished or bool(_first(said).get("finish_reason"))

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
        return event(held)

    def _release(self) -> bytes:
        held, self._held = self._held, None
        if held is None:
            return self._acquitted()
        self._remember(_text(held, "delta"))
        return event(held) + self._acquitted()

    def _is_repeated(self, text: str) -> bool:
        """Citation marks make at most half of an answer, so shorter texts are not even compared: looking at each
        delta of a long answer would take time quadratic in it."""
        if not max(SHORTEST_REPEATED_CHARS, self._length // 2) <= len(text) <= LONGEST_REPEATED_CHARS:
            return False
        if not self._answer or self._length > LONGEST_REPEATED_CHARS:
            return False
        said = "".join(self._answer)
        self._answer = [said]
        return text == said or _CITATION.sub("", text).startswith(_CITATION.sub("", said))

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
        end = event(whole | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if not self._wants_usage:
            return end
        self._note(ESTIMATED)
        told = -(-self._length // CHARS_PER_TOKEN)
        usage = {"prompt_tokens": 0, "completion_tokens": told, "total_tokens": told}
        return end + event(whole | {"choices": [], "usage": usage})

    def _note(self, name: str) -> None:
        if name not in self._adapted:
            self._adapted.append(name)


def _tail(text: str, said: str) -> str:
    """What `text`, which repeats all of `said`, says beyond it; citation marks alone say nothing."""
    left, at = len(_CITATION.sub("", said)), 0
    for mark in _CITATION.finditer(text):
        if mark.start() - at >= left:
            break
        left -= mark.start() - at
        at = mark.end()
    tail = text[at + left :]
    return tail if _CITATION.sub("", tail).strip() else ""


def _first(said: Object) -> Object:
    choices = said["choices"]
    return choices[0] if choices and isinstance(choices[0], dict) else {}


def _text(said: Object, place: str) -> str:
    inner: Any = _first(said).get(place)
    content = inner.get("content") if isinstance(inner, dict) else None
    return content if isinstance(content, str) else ""


class Shaping(Protocol):
    @property
    def is_plain(self) -> bool:
        """Whether nothing needs anything: then neither of the two is worth asking."""
        ...

    def stream(self, origin: Origin, *, wants_usage: bool) -> Shaper | None:
        """A new shaper for one stream, None where its events are judged as they come."""
        ...

    def document(self, body: bytes, origin: Origin) -> tuple[bytes, tuple[str, ...]]:
        """A whole reply, the same object where nothing changes, and the names of what did."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """OpenAI's own protocol, and Azure's: nothing."""

    is_plain: ClassVar[bool] = True

    def stream(self, origin: Origin, *, wants_usage: bool) -> Shaper | None:
        del origin, wants_usage
        return None

    def document(self, body: bytes, origin: Origin) -> tuple[bytes, tuple[str, ...]]:
        del origin
        return body, ()


@dataclass(frozen=True, slots=True)
class Ragflow:
    """See sse/dialect_transforms.py."""

    is_plain: ClassVar[bool] = False

    def stream(self, origin: Origin, *, wants_usage: bool) -> Shaper | None:
        return RagflowStream(origin, wants_usage=wants_usage)

    def document(self, body: bytes, origin: Origin) -> tuple[bytes, tuple[str, ...]]:
        return completion(body, origin)


def shaping_of(dialect: str) -> Shaping:
    return Ragflow() if dialect == "ragflow" else Plain()
