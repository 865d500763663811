"""Record what the SDK for Python receives, and validate it against the SDK's own types, strictly.

The SDK builds its objects without validation and repairs values, so its objects do not show the received bytes. Its
own validation option is not strict: it accepts "0" as a number.
"""

import array
import base64
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from harness import Result
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
"""Types of JSON replies. Speech and file contents have no type."""
STREAMED: dict[str, Any] = {
    "/v1/chat/completions": ChatCompletionChunk,
    "/v1/completions": Completion,
    "/v1/responses": ResponseStreamEvent,
}
UNFINISHED = "finish_reason: Input should be 'stop', 'length' or 'content_filter', not None"
"""An accepted difference: the SDK uses the type of a whole text completion for its chunks too."""


@dataclass(slots=True)
class RecordedReply:
    """One reply: its path and the received bytes."""

    path: str
    status: int
    kind: str
    body: bytearray = field(default_factory=bytearray)

    def faults(self) -> Iterator[list[str]]:
        """Yield the differences from the types, one list for each JSON document."""
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
    """An HTTP client for the SDK that records each reply."""

    def __init__(self) -> None:
        self._received = threading.local()
        self.client = DefaultHttpxClient(event_hooks={"response": [self._record_reply]})

    def validate(self, result: Result) -> None:
        """Add the differences of each reply, chunk and error that this thread has received since the last call."""
        replies = vars(self._received).pop("replies", [])
        documents = [faults for reply in replies for faults in reply.faults()]
        result.checked += len(documents)
        result.invalid += [fault for faults in documents for fault in faults]

    def _record_reply(self, response: Any) -> None:
        if response.is_redirect:
            return
        reply = RecordedReply(response.request.url.path, response.status_code, response.headers.get("content-type", ""))
        vars(self._received).setdefault("replies", []).append(reply)
        original = response.iter_bytes

        def iter_bytes(*arguments: Any) -> Iterator[bytes]:
            for piece in original(*arguments):
                reply.body += piece
                yield piece

        response.iter_bytes = iter_bytes


def _events(body: bytes | bytearray) -> Iterator[bytes]:
    """Yield the data of each complete event except `[DONE]`."""
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
    """Decode base64 vectors: the SDK requests base64, but its type requires numbers."""
    try:
        document = json.loads(body)
        for entry in document["data"]:
            if isinstance(entry["embedding"], str):
                entry["embedding"] = array.array("f", base64.b64decode(entry["embedding"])).tolist()
    except (ValueError, LookupError, TypeError):
        return bytes(body)
    return json.dumps(document).encode()
