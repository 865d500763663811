"""The dialect of RAGFlow as an upstream: its URLs. `normalize.ragflow_body` changes the bodies."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar
from urllib.parse import urlsplit

from gatepass.config.upstream import RagflowPaths, assistant
from gatepass.dialects.base import Dialect, build_request, operation_url, path_segment
from gatepass.dialects.hints import RAGFLOW_HINTS, Hint
from gatepass.types import Call, OutboundRequest, Target, Timeouts

API = "/api/v1"


@lru_cache(maxsize=1024)  # parsing a URL costs 4 µs
def chat_url(base_url: str, model: str, paths: RagflowPaths) -> str:
    """Return the chat URL for a model name; raise ModelNotFound for an id that cannot be a path segment.

    `base_url` may end in `/api/v1`.
    """
    wanted = assistant(model)
    if wanted.is_agent and paths == "current":
        path = "/agents/chat/completions"
    else:
        prefix = "agents_openai" if wanted.is_agent else "openai" if paths == "current" else "chats_openai"
        path = f"/{prefix}/{path_segment(wanted.id)}/chat/completions"
    return _below(base_url, path)


def _below(base_url: str, path: str) -> str:
    parts = urlsplit(base_url)
    root = parts.path.rstrip("/").removesuffix(API)
    return parts._replace(path=f"{root}{API}{path}").geturl()


CHAT_PATH, LIST_PATH = "/chat/completions", "/models"


@dataclass(frozen=True, slots=True)
class RagflowDialect(Dialect):
    """RAGFlow's paths. The model's name is the id of an assistant. Assistants and agents support only chat."""

    lists_models: ClassVar[bool] = False
    paths: RagflowPaths = "current"

    @property
    def hints(self) -> tuple[Hint, ...]:
        return RAGFLOW_HINTS[self.paths]

    def encode(
        self, call: Call, target: Target, base_url: str, timeouts: Timeouts, forward_headers: Collection[str] = ()
    ) -> OutboundRequest:
        if call.operation.path == CHAT_PATH:
            url = chat_url(base_url, target.model or call.model, self.paths)
        elif call.operation.path == LIST_PATH:
            # not shown to clients, but its reply shows at low cost, in every version, whether RAGFlow accepts the token
            url = f"{_below(base_url, '/chats')}?page=1&page_size=1"
        else:
            url = operation_url(base_url, call.operation.path)
        return build_request(call, url, timeouts, forward_headers)
