"""Two lenient upstreams. Both accept every member; one returns as few members as possible.

Use them as StrictAzure: `Scripted(answer=Bare().answer)`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.integration.scripted import Dialogue, Received, Send, event, reply, stream
from tests.integration.strict_azure import (
    CHAT_MEMBERS,
    COMPLETION_MEMBERS,
    DEPLOYMENTS,
    RANK_MEMBERS,
    SPEECH_MEMBERS,
    SPOKEN,
    TEXT,
    TRANSCRIPT,
    VECTOR_MEMBERS,
    StrictAzure,
    score,
    vector,
)

KNOWN: Mapping[str, frozenset[str]] = {
    "/v1/chat/completions": CHAT_MEMBERS,
    "/v1/completions": COMPLETION_MEMBERS,
    "/v1/embeddings": VECTOR_MEMBERS,
    "/v1/rerank": RANK_MEMBERS,
    "/v1/audio/speech": SPEECH_MEMBERS,
}


@dataclass(slots=True)
class Lenient:
    """Passes over what it does not know and answers as the API does."""

    behind: StrictAzure = field(default_factory=StrictAzure)

    def answer(self, request: Received) -> Dialogue:
        known = KNOWN.get(request.target)
        if known is None:
            return self.behind.answer(request)
        document = {name: value for name, value in request.json().items() if name in known and value is not None}
        return self.behind.answer(replace(request, body=json.dumps(document).encode()))


@dataclass(slots=True)
class Bare:
    """The replies of small servers: ids, times, counts and names only where the API requires them.

    A vector without the model's name: see langgenius/dify-official-plugins#1404.
    """

    def answer(self, request: Received) -> Dialogue:
        return [Send(self._answered(request))]

    def _answered(self, request: Received) -> bytes:
        match request.target.removeprefix("/v1"):
            case "/models":
                return reply({"data": [{"id": deployment.name} for deployment in DEPLOYMENTS]})
            case "/audio/transcriptions":
                return reply({"text": TRANSCRIPT})
            case "/audio/speech":
                return reply(SPOKEN, content_type="audio/mpeg")
            case path:
                return self._operation_reply(path, request.json())

    def _operation_reply(self, path: str, document: Mapping[str, Any]) -> bytes:
        match path:
            case "/chat/completions":
                return stream(*_deltas()) if document.get("stream") else reply(_choice(message={"content": TEXT}))
            case "/completions":
                return reply(_choice(text=TEXT))
            case "/embeddings":
                inputs = document["input"] if isinstance(document["input"], list) else [document["input"]]
                return reply({"data": [{"embedding": vector(text, document.get("dimensions", 3))} for text in inputs]})
            case "/rerank":
                ranked = [
                    {"index": at, "relevance_score": score(text)} for at, text in enumerate(document["documents"])
                ]
                return reply({"results": ranked})
        return reply({"error": {"message": "nothing here"}}, 404)


def _choice(**members: Any) -> dict[str, Any]:
    return {"choices": [{**members, "finish_reason": "stop"}]}


def _deltas() -> Iterator[bytes]:
    for at in range(0, len(TEXT), 4):
        yield event({"choices": [{"delta": {"content": TEXT[at : at + 4]}}]})
    yield event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    yield event("[DONE]")
