"""Change a dialect's streams and whole replies before they are validated. Only RAGFlow's need it."""

from __future__ import annotations

import re
from typing import Any

from gatepass.sse.chunk import CHAT_CHUNK, ERROR_BYTES, EnvelopeDefaults, Object, encode_event, json_text
from gatepass.sse.event import parse_event, read_json, split_events
from gatepass.types import RAGFLOW_ABSENT

ONE_ID, HIDDEN_ERROR, REPEATED, FINISH = "ragflow=id", "ragflow=error", "ragflow=repeated", "ragflow=finish"
NAMES = (ONE_ID, HIDDEN_ERROR, REPEATED, FINISH)
"""The changes for RAGFlow, in the order of the names:

* A new id for each answer. RAGFlow sends the id of the assistant, which all its answers share, or a different id in
  each chunk of an agent. A time replaces `created: null`.
* An answer that is the text of an exception becomes an error. So does the end of an answer that hides one in 1.0.
* Versions up to v0.25.6 repeat the whole answer as the last delta (infiniflow/ragflow#15286). It is removed.
* An agent's stream lacks the finish chunk. It is added after a text.
"""

ERROR = "**ERROR**:"
"""RAGFlow begins the text of an exception with this.

It sends the exception as a whole answer, in one or more deltas, or as the last delta of one, with finish reason "stop".
If an answer continues after it, the answer only quotes it.
"""
MAX_HELD_CHUNKS = 64
"""Limit of chunks that are held back until it is clear whether they are an exception or a quotation, and until the
exception ends. Its text has a limit of ERROR_BYTES too."""

SHORTEST_REPEATED_CHARS = 20
LONGEST_REPEATED_CHARS = 4 * 1024 * 1024
"""A longer answer is not searched for a repetition, so that the kept text is bounded."""

_UNTOLD = (
    "The model behind the assistant failed: RAGFlow counted the tokens of its answer and sent no text. RAGFlow's log"
    " has the reason, and so has the error of a request with `reference: true`."
)
_CITATION = re.compile(r"(?<!\s)\s*+(?:##\d+\$\$|\[ID:\s*\d+\])")
"""A match begins only at the beginning of white space, because otherwise 30,000 line ends took 4 s."""


def as_error(text: str) -> Object | None:
    """Return the RAGFlow error object for the text of an exception; None for an answer."""
    if not text.lstrip().startswith(ERROR):
        return None
    payload = text.lstrip().removeprefix(ERROR).strip()
    code = 102 if any(words in payload.lower() for words in RAGFLOW_ABSENT) else 100
    return {"code": code, "message": payload or "RAGFlow returned an error without a message."}


class RagflowStream:
    """An EventTransform for the streams of assistants and agents.

    It holds one chunk back while that may be the answer repeated, and up to MAX_HELD_CHUNKS while they may be an
    exception. The next chunk decides, or the end of the exception.
    """

    def __init__(self, defaults: EnvelopeDefaults) -> None:
        self._defaults = defaults
        self._id = defaults.new_id("chatcmpl-")
        self._adapted: dict[str, None] = {}
        self._answer: list[str] = []
        self._answer_chars = 0
        self._repeated: Object | None = None  # a chunk that may repeat the answer
        self._error_chunks: list[Object] = []  # chunks that may be an exception, and their text
        self._error_text = ""
        self._is_finished = False

    @property
    def adapted(self) -> tuple[str, ...]:
        return tuple(self._adapted)

    def feed(self, block: bytes) -> bytes:
        return b"".join(self._one(each) for each in split_events(block))

    def finish(self) -> bytes:
        return self._end_with_error() or self._release()

    def _one(self, block: bytes) -> bytes:
        data = parse_event(block).data
        if data is None:
            return block
        if data.strip() == b"[DONE]":
            return self._end_with_error() or self._release() + self._missing_end() + block
        try:
            payload = read_json(data)
        except ValueError:
            payload = None
        if not isinstance(payload, dict) or not isinstance(payload.get("choices"), list):
            return (self._end_with_error() if not self._answer_chars else b"") or self._release() + block
        return self._chunk(payload)

    def _chunk(self, payload: Object) -> bytes:
        text, before = _text(payload, "delta"), b""
        if as_error(self._error_text) is None and (error := self._hidden_error(payload, text)) is not None:
            return self._release() + self._error_event(error)
        if len(self._error_chunks) >= MAX_HELD_CHUNKS or not self._may_be_error(text):
            before = self._release_error_chunks()
        if self._may_be_error(text):
            return before + self._hold_for_error(payload, text)
        before += self._drop_repeated(payload)
        self._set_envelope(payload)
        if self._is_repeated(text):
            self._repeated = payload
            return before
        self._add_to_answer(text)
        return before + encode_event(payload)

    def _may_be_error(self, text: str) -> bool:
        """Whether `text` may be a part of an exception, together with the chunks held back for that."""
        if not text:
            return bool(self._error_chunks)
        whole = (self._error_text + text).lstrip()
        if whole.startswith(ERROR):
            # text after the beginning of an exception belongs to it only if no answer came before
            return not self._answer_chars or not self._error_text.lstrip().startswith(ERROR)
        return ERROR.startswith(whole) and (whole != "" or not self._answer_chars)

    def _hold_for_error(self, payload: Object, text: str) -> bytes:
        before = self._release() if self._repeated is not None else b""
        self._error_chunks.append(payload)
        self._error_text += text
        if _first(payload).get("finish_reason"):
            return before + (self._end_with_error() or self._release_error_chunks())
        is_full = len(self._error_chunks) >= MAX_HELD_CHUNKS or len(self._error_text) > ERROR_BYTES
        return before + (self._end_with_error() if is_full and not self._answer_chars else b"")

    def _hidden_error(self, payload: Object, text: str) -> Object | None:
        """Return the error that the last chunk of an answer of RAGFlow 1.0 hides; None for any other chunk."""
        choice = _first(payload)
        delta, reason = choice.get("delta"), choice.get("finish_reason")
        if not reason or not isinstance(delta, dict):
            return None
        whole, waiting, usage = delta.get("final_content"), delta.get("waiting_for_user"), payload.get("usage")
        if isinstance(whole, str) and whole:
            return as_error(whole)
        if text or self._error_text or self._answer_chars:
            return None
        if reason == "waiting_for_user":
            tips = waiting.get("tips") if isinstance(waiting, dict) else None
            message = f"The agent waits for the user's input. {tips or ''}".strip()
            return {"code": 409, "message": message, "session_id": payload.get("id"), "waiting_for_user": waiting}
        has_tokens = isinstance(usage, dict) and usage.get("completion_tokens")
        return {"code": 100, "message": _UNTOLD} if has_tokens and reason == "stop" else None

    def _end_with_error(self) -> bytes:
        """Return the error event for the held text; b"" if the text is not an exception."""
        error = as_error(self._error_text)
        if error is None:
            return b""
        self._error_chunks, self._error_text = [], ""
        return self._error_event(error)

    def _error_event(self, error: Object) -> bytes:
        self._adapted[HIDDEN_ERROR] = None
        self._is_finished = True  # no event follows an error
        return encode_event(error)

    def _release_error_chunks(self) -> bytes:
        held, self._error_chunks, self._error_text = self._error_chunks, [], ""
        for payload in held:
            self._set_envelope(payload)
            self._add_to_answer(_text(payload, "delta"))
        return b"".join([encode_event(payload) for payload in held])

    def _set_envelope(self, payload: Object) -> None:
        self._adapted[ONE_ID] = None
        payload["id"] = self._id
        payload["object"] = CHAT_CHUNK
        payload["created"] = self._defaults.created_s  # an agent sends none up to v0.26.1
        payload.setdefault("model", self._defaults.model)
        self._is_finished = self._is_finished or bool(_first(payload).get("finish_reason"))

    def _drop_repeated(self, after: Object) -> bytes:
        """Return the held chunk; only its new text if it repeats the answer, because `after` ends the answer."""
        if self._repeated is None or not _first(after).get("finish_reason"):
            return self._release()
        held, self._repeated = self._repeated, None
        self._adapted[REPEATED] = None
        tail = _tail(_text(held, "delta"), "".join(self._answer))
        if not tail:
            return b""
        _first(held)["delta"]["content"] = tail
        self._add_to_answer(tail)
        return encode_event(held)

    def _release(self) -> bytes:
        held, self._repeated = self._repeated, None
        if held is None:
            return self._release_error_chunks()
        self._add_to_answer(_text(held, "delta"))
        return encode_event(held) + self._release_error_chunks()

    def _is_repeated(self, text: str) -> bool:
        # Citation marks make up at most half of an answer, so shorter texts are not compared. Comparing each delta
        # of a long answer would take time quadratic in its length.
        if not max(SHORTEST_REPEATED_CHARS, self._answer_chars // 2) <= len(text) <= LONGEST_REPEATED_CHARS:
            return False
        if not self._answer or self._answer_chars > LONGEST_REPEATED_CHARS:
            return False
        payload = "".join(self._answer)
        self._answer = [payload]
        return text == payload or _CITATION.sub("", text).startswith(_CITATION.sub("", payload))

    def _add_to_answer(self, text: str) -> None:
        self._answer_chars += len(text)
        if self._answer_chars <= LONGEST_REPEATED_CHARS:
            self._answer.append(text)

    def _missing_end(self) -> bytes:
        """Return the chunk that an agent omits before `[DONE]`; b"" without a text, for which StreamRepair decides."""
        if self._is_finished or not self._answer_chars:
            return b""
        self._adapted[FINISH] = None
        self._is_finished = True
        defaults = self._defaults
        envelope = {"id": self._id, "object": CHAT_CHUNK, "created": defaults.created_s, "model": defaults.model}
        return encode_event(envelope | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})


class RagflowTransforms:
    """The changes of RAGFlow's streams and whole replies: see NAMES."""

    stream = RagflowStream

    def document(self, body: bytes, defaults: EnvelopeDefaults) -> tuple[bytes, tuple[str, ...]]:
        """Return a completion with a new id, or the error that it hides, and the names of the changes."""
        try:
            payload = read_json(body)
        except ValueError:
            return body, ()
        if not isinstance(payload, dict) or not isinstance(payload.get("choices"), list):
            return body, ()
        error = as_error(_text(payload, "message"))
        if error is not None:
            return json_text(error), (HIDDEN_ERROR,)
        payload["id"] = defaults.new_id("chatcmpl-")
        payload["created"] = payload.get("created") or defaults.created_s  # null for an agent up to v0.26.1
        return json_text(payload), (ONE_ID,)


def _tail(text: str, payload: str) -> str:
    """Return the text after the repetition of `payload` in `text`; "" if it consists of citation marks only."""
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
