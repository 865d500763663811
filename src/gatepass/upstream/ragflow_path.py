"""Where RAGFlow's assistants and agents are reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from gatepass.upstream.segment import segment

Paths = Literal["current", "old"]
"""`current`: `/openai/{chat_id}/…`, since v0.25, and agents by their id in the body. `old`: `/chats_openai/{chat_id}/…`
and `/agents_openai/{agent_id}/…`, which v0.20 to v0.27 have; the newest mark them as deprecated."""

API = "/api/v1"


@dataclass(frozen=True, slots=True)
class Assistant:
    """What a route's model name stands for in RAGFlow: a chat assistant or an agent, by its id."""

    id: str
    is_agent: bool


def assistant(name: str) -> Assistant:
    """`agent:ID` is an agent, `chat:ID` and a bare `ID` a chat assistant."""
    kind, colon, rest = name.partition(":")
    if colon and kind in ("chat", "agent"):
        return Assistant(rest, kind == "agent")
    return Assistant(name, is_agent=False)


def chat_url(base_url: str, asked: Assistant, paths: Paths) -> str:
    """`base_url` may end in `/api/v1` or not. Raises ModelNotFound for an id that no path can name."""
    if asked.is_agent:
        path = (
            "/agents/chat/completions" if paths == "current" else f"/agents_openai/{segment(asked.id)}/chat/completions"
        )
    else:
        path = f"/{'openai' if paths == 'current' else 'chats_openai'}/{segment(asked.id)}/chat/completions"
    return _below(base_url, path)


def list_url(base_url: str) -> str:
    """One chat assistant of the key's owner: in every version, and it costs RAGFlow nothing."""
    return f"{_below(base_url, '/chats')}?page=1&page_size=1"


def _below(base_url: str, path: str) -> str:
    parts = urlsplit(base_url)
    root = parts.path.rstrip("/").removesuffix(API)
    return parts._replace(path=f"{root}{API}{path}").geturl()
