"""What the SDK for Python is sent, byte by byte as it comes, held against the SDK's own types, strictly.

The SDK builds its objects without looking, and makes right what it can: its objects cannot show what came. Its own
switch for looking is not strict: it takes "0" for a number.
"""

from __future__ import annotations

import array
import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from openai import DefaultHttpxClient
from openai.pagination import SyncPage
from openai.types import (
    Completion,
    CreateEmbeddingResponse,
    FileObject,
    ImagesResponse,
    Model,
    ModerationCreateResponse,
)
from openai.types.audio import Transcription
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.shared import ErrorObject
from pydantic import TypeAdapter, ValidationError

WHOLE: dict[str, Any] = {
    "/v1/chat/completions": ChatCompletion,
    "/v1/completions": Completion,
    "/v1/embeddings": CreateEmbeddingResponse,
    "/v1/models": SyncPage[Model],
    "/v1/responses": Response,
    "/v1/audio/transcriptions": Transcription,
    "/v1/images/generations": ImagesResponse,
    "/v1/moderations": ModerationCreateResponse,
    "/v1/files": FileObject,
}
"""What is no JSON is not among them: sound, the content of a file."""
STREAMED: dict[str, Any] = {
    "/v1/chat/completions": ChatCompletionChunk,
    "/v1/completions": Completion,
    "/v1/responses": ResponseStreamEvent,
}
UNFINISHED = "finish_reason: Input should be 'stop', 'length' or 'content_filter', not None"
"""What is no fault of a text completion's chunk before the last: the SDK has one type for chunks and whole ones."""


@dataclass(slots=True)
class RecordedReply:
    """One answer: where it came from, and as much of it as came."""

    path: str
    status: int
    kind: str
    body: bytearray = field(default_factory=bytearray)

    def faults(self) -> Iterator[list[str]]:
        """For each thing that was sent, what of it is not as its type says."""
        if self.status >= 400:
            yield _faults_of_error(_member(self.body, "error"))
        elif self.kind.startswith("text/event-stream"):
            yield from (self._faults_of_event(data) for data in _events(self.body))
        elif self.path in WHOLE:
            body = _with_numbers(self.body) if self.path == "/v1/embeddings" else self.body
            yield _faults_of(WHOLE[self.path], body)

    def _faults_of_event(self, data: bytes) -> list[str]:
        if error := _member(data, "error"):
            return _faults_of_error(error)
        if self.path not in STREAMED:
            return [f"a stream from {self.path}"]
        found = _faults_of(STREAMED[self.path], data)
        if self.path == "/v1/completions":
            return [fault for fault in found if not fault.endswith(UNFINISHED)]
        return found


class ReplyRecorder:
    """Makes `client`, which talks as the SDK's own does, and keeps what it hears."""

    def __init__(self) -> None:
        self._replies: list[RecordedReply] = []
        self.client = DefaultHttpxClient(event_hooks={"response": [self._record_reply]})

    def faults(self) -> list[list[str]]:
        """Of each answer, chunk and error since it was last asked."""
        replies, self._replies = self._replies, []
        return [faults for reply in replies for faults in reply.faults()]

    def _record_reply(self, response: Any) -> None:
        if response.is_redirect:
            return
        reply = RecordedReply(response.request.url.path, response.status_code, response.headers.get("content-type", ""))
        self._replies.append(reply)
        original = response.iter_bytes

        def iter_bytes(*arguments: Any) -> Iterator[bytes]:
            for piece in original(*arguments):
                reply.body += piece
                yield piece

        response.iter_bytes = iter_bytes


def _events(body: bytes | bytearray) -> Iterator[bytes]:
    """The data of each whole event but the last, which says that it is done."""
    for event in re.split(rb"\r?\n\r?\n", body)[:-1]:
        data = b"\n".join(re.findall(rb"^data: ?(.*?)\r?$", event, re.MULTILINE))
        if data and data != b"[DONE]":
            yield data


def _faults_of(kind: Any, body: bytes | bytearray) -> list[str]:
    try:
        _adapter(kind).validate_json(bytes(body), strict=True)
    except ValidationError as invalid:
        return [
            f"{getattr(kind, '__name__', 'event')} {'.'.join(map(str, error['loc']))}: {error['msg']}, not "
            f"{str(error['input'])[:80]}"
            for error in invalid.errors()
        ]
    return []


def _faults_of_error(error: Any) -> list[str]:
    return _faults_of(ErrorObject, json.dumps(error).encode())


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _member(body: bytes | bytearray, name: str) -> Any:
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document.get(name) if isinstance(document, dict) else None


def _with_numbers(body: bytes | bytearray) -> bytes:
    """Vectors as the SDK reads them: it asks for base64, which its own type does not know."""
    try:
        document = json.loads(body)
        for entry in document["data"]:
            if isinstance(entry["embedding"], str):
                entry["embedding"] = array.array("f", base64.b64decode(entry["embedding"])).tolist()
    except (ValueError, LookupError, TypeError):
        return bytes(body)
    return json.dumps(document).encode()
