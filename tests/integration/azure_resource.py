"""One Azure OpenAI resource, strict about paths, versions, deployments and keys, in the words that it uses.

Sources: Azure/azure-sdk documentation of both APIs; the 404 texts as quoted in BerriAI/litellm#8572 and
chatboxai/chatbox#646; the content filter's body as in openai/openai-dotnet#55.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.integration.answers import COMPLETION, DONE, delta
from tests.integration.scripted import Dialogue, Received, Send, event, reply, stream

KEY, TOKEN = "azure-key-0123456789", "entra-token-0123456789"
PATH = re.compile(r"/openai/(?:v1|deployments/(?P<deployment>[^/]+))(?P<operation>/[a-z/]+)\Z")
NOT_FOUND = {"error": {"code": "404", "message": "Resource not found"}}
NO_DEPLOYMENT = {
    "error": {
        "code": "DeploymentNotFound",
        "message": (
            "The API deployment for this resource does not exist. If you created the deployment within the last 5"
            " minutes, please wait a moment and try again."
        ),
    }
}
FILTERED: dict[str, Any] = {
    "error": {
        "message": (
            "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please"
            " modify your prompt and retry."
        ),
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"violence": {"filtered": True, "severity": "high"}},
        },
    }
}
PROMPT_FILTER = {
    "choices": [],
    "created": 0,
    "id": "",
    "model": "",
    "object": "",
    "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}],
}
OFFSETS = {
    "id": "",
    "object": "",
    "created": 0,
    "model": "",
    "choices": [
        {
            "index": 0,
            "finish_reason": None,
            "content_filter_results": {},
            "content_filter_offsets": {"check_offset": 44, "start_offset": 44, "end_offset": 198},
        }
    ],
}
ANSWERED = (
    event(PROMPT_FILTER),
    delta(role="assistant", content=""),
    delta(content="Hel"),
    delta(content="lo"),
    delta("stop"),
    event(OFFSETS),
    DONE,
)


@dataclass(frozen=True, slots=True)
class Resource:
    """`deployments` by name. It rejects a request with the user message "filter me"."""

    deployments: tuple[str, ...] = ("prod-gpt",)

    def answer(self, request: Received) -> Dialogue:
        return [Send(self._answered(request))]

    def _answered(self, request: Received) -> bytes:
        parts = urlsplit(request.target)
        found = PATH.match(parts.path)
        versions = parse_qs(parts.query).get("api-version", [])
        if found is None and parts.path != "/openai/models":
            return reply(NOT_FOUND, 404)
        is_classic = found is None or found["deployment"] is not None
        if is_classic and not versions:
            return reply(NOT_FOUND, 404)
        if not set(versions) <= {"2024-10-21" if is_classic else "preview"}:
            return reply(NOT_FOUND, 404)
        if request.header("api-key") != KEY and request.header("authorization") != f"Bearer {TOKEN}":
            return reply({"error": {"code": "401", "message": "Access denied."}}, 401)
        if request.method == "GET":
            return reply({"object": "list", "data": [{"id": "a-base-model", "object": "model"}]})
        assert found is not None
        body = request.json()
        if (unquote(found["deployment"]) if is_classic else body["model"]) not in self.deployments:
            return reply(NO_DEPLOYMENT, 404)
        return _chat(body)


def _chat(body: Any) -> bytes:
    words = body["messages"][-1]["content"]
    if words == "filter me":
        return reply(FILTERED, 400)
    return stream(*ANSWERED) if body.get("stream") else reply(COMPLETION)
