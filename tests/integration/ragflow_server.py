"""A RAGFlow of three versions as an upstream: its paths, its checks in their order, and the shapes of its replies.

Sources: api/apps/restful_apis/openai_api.py (v0.25.6, v0.27.0) and api/apps/sdk/session.py (v0.24.0) of
infiniflow/ragflow, whose routes were run; the threads named at each place.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.integration.scripted import LAST_CHUNK, Dialogue, Received, Send, chunk, reply

Version = Literal["v0.24.0", "v0.25.6", "v0.27.0"]
KEY = "ragflow-0123456789abcdef"
CHAT, AGENT = "2e3b8f0c5d6e11f0", "7f1d2c3b5d6e11f0"
WORDS = ("The handbook ", "says: be kind ", "to others [ID:0].")
ANSWER = "".join(WORDS)
THOUGHT = "Let me look."
CHUNK = {"id": "c1", "content": "be kind", "document_id": "d1", "document_name": "handbook.pdf", "similarity": 0.9}
USAGE = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}

_PATHS = re.compile(r"/api/v1/(?:(openai|chats_openai|agents_openai)/([^/]+)|(agents))/chat/completions\Z")
_TWO_KINDS = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\nx-accel-buffering: no\r\ntransfer-encoding: chunked\r\n\r\n"
)


class _Refusal(Exception):
    def __init__(self, code: int, message: str) -> None:
        self.document = {"code": code, "message": message}


@dataclass(slots=True)
class Ragflow:
    """`answer` is for a Scripted upstream. `number` counts the chunks of agents, because each chunk has another id."""

    version: Version = "v0.27.0"
    number: int = 0
    bodies: list[Any] = field(default_factory=list)

    def answer(self, request: Received) -> Dialogue:
        try:
            return [Send(self._answered(request))]
        except _Refusal as refusal:
            return [Send(reply(refusal.document))]

    @property
    def _is_new(self) -> bool:
        return self.version == "v0.27.0"

    def _answered(self, request: Received) -> bytes:
        path = request.target.partition("?")[0]
        if request.header("authorization") != f"Bearer {KEY}":
            return self._stranger()
        if (request.method, path) == ("GET", "/api/v1/chats"):
            return reply({"code": 0, "data": [{"id": CHAT, "name": "handbook"}]})
        found = _PATHS.match(path)
        kinds = ("chats_openai", "agents_openai") if self.version == "v0.24.0" else ("openai", "agents", "chats_openai")
        if found is None or (found[1] or found[3]) not in (*kinds, "agents_openai"):
            document = {"code": 404, "data": None, "error": "Not Found", "message": f"Not Found: {path}"}
            return reply(document, 404)
        document = request.json()
        self.bodies.append(document)
        if found[3] or found[1] == "agents_openai":
            return self._agent(document, found[2] or _agent_of(document))
        return self._chat(document, found[2])

    def _stranger(self) -> bytes:
        if self.version == "v0.24.0":
            return reply({"code": 109, "message": "Authentication error: API key is invalid!"})
        return reply({"code": 401, "data": None, "message": "<Unauthorized '401: Unauthorized'>"}, 401)

    # --- assistants ---------------------------------------------------------------------------------------

    def _chat(self, document: Any, chat: str) -> bytes:
        self._check(document, chat)
        reference = bool((document.get("extra_body") or {}).get("reference"))
        if document.get("stream", not self._is_new):
            return _events(*self._chunks(reference))
        message = {"role": "assistant", "content": ANSWER} | ({"reference": [CHUNK]} if reference else {})
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        details = {"reasoning_tokens": 3, "accepted_prediction_tokens": 9, "rejected_prediction_tokens": 0}
        whole = {"id": f"chatcmpl-{CHAT}", "object": "chat.completion", "created": 1_700_000_000, "model": "model"}
        return reply(whole | {"choices": [choice], "usage": USAGE | {"completion_tokens_details": details}})

    def _check(self, document: Any, chat: str) -> None:
        if "model" not in document or "messages" not in document:
            raise _Refusal(101, "required argument are missing: model,messages; ")
        if not isinstance(document.get("extra_body", {}), dict):
            raise _Refusal(102, "extra_body must be an object.")
        if not document["messages"]:
            raise _Refusal(102, "You have to provide messages.")
        if document["messages"][-1]["role"] != "user":
            raise _Refusal(102, "The last content of this conversation is not from user.")
        if any(not isinstance(message["content"], str) for message in document["messages"]):  # infiniflow/ragflow#15358
            raise _Refusal(100, "TypeError(\"expected string or bytes-like object, got 'list'\")")
        if chat != CHAT:
            raise _Refusal(102, f"You don't own the chat {chat}")
        if self._is_new and document["model"] != "model":  # infiniflow/ragflow#15726
            raise _Refusal(101, f"`llm_id` {document['model']} doesn't exist")

    def _chunks(self, reference: bool) -> list[str]:
        deltas = [{"reasoning_content": THOUGHT, "content": None}]
        deltas += [{"content": word, "reasoning_content": None} for word in WORDS]
        if self.version == "v0.25.6":  # infiniflow/ragflow#15286
            deltas.append({"content": ANSWER, "reasoning_content": None})
        last: dict[str, Any] = {"content": None, "reasoning_content": None}
        if reference:
            last |= {"reference": [CHUNK], "final_content": ANSWER}
        written = [self._chunk(one) for one in deltas] + [self._chunk(last, finish="stop", usage=USAGE)]
        return [f"data:{json.dumps(one, ensure_ascii=False)}\n\n" for one in written] + ["data:[DONE]\n\n"]

    def _chunk(self, delta: Any, finish: str | None = None, usage: Any = None) -> Any:
        every = {"role": "assistant", "function_call": None, "tool_calls": None}
        choice = {"delta": every | delta, "finish_reason": finish, "index": 0, "logprobs": None}
        whole = {
            "id": f"chatcmpl-{CHAT}",
            "created": 1_700_000_000,
            "model": "model",
            "object": "chat.completion.chunk",
        }
        return whole | {"choices": [choice], "system_fingerprint": "", "usage": usage}

    # --- agents -------------------------------------------------------------------------------------------

    def _agent(self, document: Any, agent: str) -> bytes:
        if any(not isinstance(message["content"], str) for message in document["messages"]):
            raise _Refusal(100, "TypeError(\"expected string or bytes-like object, got 'list'\")")
        failed = agent != AGENT
        reported = "**ERROR**: Agent not found." if failed else ANSWER
        if not document.get("stream", not self._is_new):
            choice = {"index": 0, "message": {"role": "assistant", "content": reported}, "finish_reason": "stop"}
            created = 1_700_000_000 if self._is_new else None  # infiniflow/ragflow#16401
            whole = {"id": self._own_id(), "object": "chat.completion", "created": created, "model": "", "param": None}
            return reply(whole | {"choices": [choice], "usage": USAGE})
        if failed:
            return _events(self._agent_event(reported, "stop"), "data: [DONE]\n\n")
        return _events(*(self._agent_event(word) for word in WORDS), "data: [DONE]\n\n")

    def _agent_event(self, word: str, finish: str | None = None) -> str:
        delta = {"role": "assistant", "content": word} if self._is_new else {"content": word}
        choice = {"delta": delta, "finish_reason": finish, "index": 0}
        whole = {"id": self._own_id(), "object": "chat.completion.chunk", "model": "", "choices": [choice]}
        return f"data: {json.dumps(whole | ({'created': 1_700_000_000} if self._is_new else {}))}\n\n"

    def _own_id(self) -> str:
        self.number += 1
        return f"chatcmpl-{self.number}"


def _agent_of(document: Any) -> str:
    if document.get("openai-compatible") is not True or "agent_id" not in document:
        raise _Refusal(101, "required argument are missing: agent_id; ")
    return str(document["agent_id"])


def _events(*events: str) -> bytes:
    return _TWO_KINDS + b"".join(chunk(event.encode()) for event in events) + LAST_CHUNK
