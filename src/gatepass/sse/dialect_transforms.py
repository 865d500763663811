"""Change a dialect's streams and whole replies before they are validated. Only RAGFlow's need it."""

from __future__ import annotations

import re
from typing import Any

from gatepass.sse.chunk import (
    CHAT_CHUNK,
    ERROR_BYTES,
    REASONING_MEMBERS,
    EnvelopeDefaults,
    Object,
    encode_event,
    has_content,
    json_text,
)
from gatepass.sse.event import EventTransform, parse_event, read_json, split_events
from gatepass.sse.usage import count_of
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

_ERROR = re.compile(r"\s*\*\*\s*(?i:error)\s*(?:\*\*\s*[:：]|[:：]\s*\*\*)\s*")
"""RAGFlow begins the text of an exception with `**ERROR**:`.

It sends the exception as a whole answer, in one or more deltas, or as the last delta of one, with finish reason "stop".
If an answer continues after it, the answer only quotes it.
"""
_HIDDEN_ERROR = re.compile(r"[\s*]*(?i:error)\b[\s*:：]*")
"""Begins a text that RAGFlow did not send as the answer."""
_STARTS = ("**error**:", "**error:**")
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


def as_error(text: str, start: re.Pattern[str] = _ERROR) -> Object | None:
    """Return the RAGFlow error object for the text of an exception; None for an answer.

    An answer may begin with `**Error**:` too, as a heading. Then it has more than one paragraph, or more in bold.
    """
    found = start.match(text)
    if found is None:
        return None
    payload = text[found.end() :].strip()
    if not found[0].isupper() and ("**" in payload or "\n\n" in payload):
        return None
    code = 102 if any(words in payload.lower() for words in RAGFLOW_ABSENT) else 100
    return {"code": code, "message": payload or "RAGFlow returned an error without a message."}


_NO_ANSWER = frozenset({"reference", "final_content", "waiting_for_user", "error", *REASONING_MEMBERS})
"""A thought is none either."""


def hidden_error(payload: Object, place: str, *, has_answered: bool = False) -> Object | None:
    """Return the error that RAGFlow hides in a completion, or in a chunk; None for an answer.

    `place` is that of the message. `has_answered`: an earlier chunk has a text or a call.
    """
    choice, code = _first(payload), str(payload.get("code")).lstrip("-")
    message = inner if isinstance(inner := choice.get(place), dict) else {}
    if code.isdecimal() and code.strip("0") not in ("", "2"):  # neither 0 nor 200
        return {"code": payload["code"], "message": payload.get("message") or f"RAGFlow returned the code {code}."}
    if message.get("error"):
        return as_error(_text(payload, place)) or {"error": message["error"]}
    has_answered = has_answered or has_content(choice, _NO_ANSWER)
    if text := _final_text(payload, place):
        return as_error(text, _ERROR if has_answered else _HIDDEN_ERROR)
    if has_answered:
        return None
    if choice.get("finish_reason") == "waiting_for_user":
        waiting = message.get("waiting_for_user")
        tips = waiting.get("tips") if isinstance(waiting, dict) else None
        words = f"The agent waits for the user's input. {tips or ''}".strip()
        return {"code": 409, "message": f"{words} (session_id {payload.get('id')})"}
    has_failed = choice.get("finish_reason") == "stop" and count_of(payload.get("usage"), "completion_tokens")
    return {"code": 100, "message": _UNTOLD} if has_failed else None


class RagflowStream(EventTransform):
    """For the streams of assistants and agents.

    It holds one chunk back while that may be the answer repeated, and up to MAX_HELD_CHUNKS while they may be an
    exception. The next chunk decides, or the end of the exception. An end without an answer waits for the usage.
    """

    def __init__(self, defaults: EnvelopeDefaults) -> None:
        super().__init__()
        self._defaults = defaults
        self._id = defaults.new_id("chatcmpl-")
        self._answer: list[str] = []
        self._answer_chars = 0
        self._repeated: Object | None = None  # a chunk that may repeat the answer
        self._error_chunks: list[Object] = []  # chunks that may be an exception, and their text
        self._error_text = ""
        self._usage: Any = None
        self._has_answered = self._is_finished = False

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
        if isinstance(payload, dict) and payload.get("usage"):
            payload.setdefault("choices", [])
        if not isinstance(payload, dict) or not isinstance(payload.get("choices"), list):
            return (self._end_with_error() if not self._answer_chars else b"") or self._release() + block
        return self._chunk(payload)

    def _chunk(self, payload: Object) -> bytes:
        text, choice, before = _text(payload, "delta"), _first(payload), b""
        has_answered = self._has_answered or self._error_text != ""
        held_end = [] if self._error_text else self._error_chunks[:1]
        self._usage = payload.get("usage") or self._usage
        last = held_end[0] if held_end and not payload["choices"] else payload
        error = hidden_error({**last, "usage": self._usage}, "delta", has_answered=has_answered)
        if error is not None and as_error(self._error_text) is None:
            return (b"" if held_end else self._release()) + self._error_event(error)
        if not (has_answered or has_content(choice, _NO_ANSWER)):
            text = _take_final_text(payload, "delta")
        if choice.get("finish_reason") == "stop" and not (has_answered or has_content(choice, _NO_ANSWER)):
            self._error_chunks.append(payload)
            return b""
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
        whole = self._error_text + text
        if as_error(whole) is not None:
            # text after the beginning of an exception belongs to it only if no answer came before
            return not self._answer_chars or as_error(self._error_text) is None
        start = "".join(whole.lstrip()[: 2 * len(_STARTS[0])].lower().replace("：", ":").split())
        return any(one.startswith(start) for one in _STARTS) and (start != "" or not self._answer_chars)

    def _hold_for_error(self, payload: Object, text: str) -> bytes:
        before = self._release() if self._repeated is not None else b""
        self._error_chunks.append(payload)
        self._error_text += text
        if _first(payload).get("finish_reason"):
            return before + (self._end_with_error() or self._release_error_chunks())
        is_full = len(self._error_chunks) >= MAX_HELD_CHUNKS or len(self._error_text) > ERROR_BYTES
        is_sure = not self._answer_chars and self._error_text.lstrip()[: len(_STARTS[0])].isupper()
        return before + (self._end_with_error() if is_full and is_sure else b"")

    def _end_with_error(self) -> bytes:
        """Return the error event for the held text; b"" if the text is not an exception."""
        error = as_error(self._error_text)
        return b"" if error is None else self._error_event(error)

    def _error_event(self, error: Object) -> bytes:
        self._adapted[HIDDEN_ERROR] = None
        self._error_chunks, self._error_text = [], ""
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
        self._has_answered = self._has_answered or has_content(_first(payload), _NO_ANSWER)
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
        error = as_error(_text(payload, "message")) or hidden_error(payload, "message")
        if error is not None:
            return json_text(error), (HIDDEN_ERROR,)
        if not has_content(_first(payload), _NO_ANSWER):
            _take_final_text(payload, "message")
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


def _final_text(payload: Object, place: str) -> str:
    choice = _first(payload)
    parts = (choice.get(place), choice, payload)
    texts = [part.get("final_content") for part in parts if isinstance(part, dict)]
    return next((text for text in texts if text and isinstance(text, str)), "")


def _take_final_text(payload: Object, place: str) -> str:
    """Make the final text of an answer without another one its content, and return it."""
    if text := _final_text(payload, place):
        inner = _first(payload).get(place)
        _first(payload)[place] = {**(inner if isinstance(inner, dict) else {}), "content": text}
    return text


def _text(payload: Object, place: str) -> str:
    inner: Any = _first(payload).get(place)
    content = inner.get("content") if isinstance(inner, dict) else None
    return content if isinstance(content, str) else ""
