"""RAGFlow as an upstream: its assistants and agents answer chats, and nothing else."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from gatepass.call import Call, Request, Surface, Target, Timeouts
from gatepass.errors import InvalidImage, ModelNotFound
from gatepass.upstream.dialect import Dialect, operation_url, segment, written

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


PLACEHOLDER = b'"model"'
"""Any other model must be one of RAGFlow's own since v0.26, else it answers code 101 (infiniflow/ragflow#15726)."""

LIFTED = ("reference", "reference_metadata", "metadata_condition")
"""Read from a literal member `extra_body` since v0.23, while SDKs merge their `extra_body` into the top
level, where RAGFlow does not look (infiniflow/ragflow#9636)."""

_TRUE, _FALSE = b"true", b"false"
_OBJECT: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])

Images = Literal["refuse", "drop"]


@dataclass(frozen=True, slots=True)
class RagflowBody:
    """Rewrites a chat for RAGFlow; members it does not know keep their bytes.

    * `model` becomes the placeholder, `stream` is always said: its default was true up to v0.25.6 and
      is false since (infiniflow/ragflow#15356).
    * A message's list of parts becomes one text, joined by a line break as v0.26 does itself, for
      older ones crash on a list (infiniflow/ragflow#15358); null becomes "". Entry `content=text`.
    * Images, which no version reads, are refused with InvalidImage or, by configuration, left out
      with the entry `drop=images`.
    * LIFTED members go into `extra_body`; entry `extra_body=NAME,NAME`.
    * An agent is named in the body where its path does not name it.

    Whatever is no chat gets ModelNotFound: RAGFlow has no route for it.
    """

    images: Images = "refuse"
    paths: Paths = "current"
    name = "ragflow"

    def apply(self, call: Call, target: Target) -> Call:
        if call.operation.name != "chat":
            operation = call.operation.name
            raise ModelNotFound(
                f'The upstream "{target.upstream}" is RAGFlow, which answers chats and nothing else: for {operation}'
                f" let operations.{operation}, or the entry of this model under models, name another upstream.",
                param="model",
            )
        asked = assistant(target.model or call.model)
        members = _OBJECT.decode(call.body)
        members["model"] = msgspec.Raw(PLACEHOLDER)
        members["stream"] = msgspec.Raw(_TRUE if call.stream else _FALSE)
        if asked.is_agent and self.paths == "current":
            members["agent_id"] = msgspec.Raw(msgspec.json.encode(asked.id))
            members["openai-compatible"] = msgspec.Raw(_TRUE)
        adapted = [*self._flatten(members), *_lift(members)]
        return replace(call, body=msgspec.json.encode(members), adapted=(*call.adapted, *adapted))

    def _flatten(self, members: dict[str, msgspec.Raw]) -> list[str]:
        messages = members.get("messages")
        if messages is None or not _begins(messages, b"["):
            return []
        listed = _LIST.decode(messages)
        flat = [self._flat(message, f"messages[{index}].content") for index, message in enumerate(listed)]
        if all(new is old for (new, _), old in zip(flat, listed, strict=True)):
            return []
        members["messages"] = msgspec.Raw(msgspec.json.encode([message for message, _ in flat]))
        return ["content=text", *(["drop=images"] if any(dropped for _, dropped in flat) else [])]

    def _flat(self, message: msgspec.Raw, where: str) -> tuple[msgspec.Raw, bool]:
        """The message with a text for its content, and whether an image was left out of it."""
        if not _begins(message, b"{"):
            return message, False
        members = _OBJECT.decode(message)
        content = members.get("content")
        if content is None or _begins(content, b'"'):
            return message, False
        if _begins(content, b"["):
            text, dropped = self._text_of(msgspec.json.decode(content), where)
        elif bytes(content) == b"null":
            text, dropped = "", False
        else:
            return message, False
        members["content"] = msgspec.Raw(msgspec.json.encode(text))
        return msgspec.Raw(msgspec.json.encode(members)), dropped

    def _text_of(self, parts: list[Any], where: str) -> tuple[str, bool]:
        texts, dropped = list[str](), False
        for index, part in enumerate(parts):
            text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
            if isinstance(text, str):
                texts.append(text)
                continue
            if self.images == "refuse":
                raise InvalidImage(
                    f"{where}[{index}] is no text, and RAGFlow reads nothing else: it would drop the part without"
                    " a word. Send text alone, or set ragflow.images: drop for this upstream.",
                    param=f"{where}[{index}]",
                )
            dropped = True
        return "\n".join(texts), dropped


def _lift(members: dict[str, msgspec.Raw]) -> list[str]:
    """Put LIFTED into `extra_body`; what stands there already wins."""
    found = [name for name in LIFTED if name in members]
    extra = members.get("extra_body")
    if not found or (extra is not None and not _begins(extra, b"{")):
        return []
    inside = _OBJECT.decode(extra) if extra is not None else {}
    for name in found:
        inside.setdefault(name, members.pop(name))
    members["extra_body"] = msgspec.Raw(msgspec.json.encode(inside))
    return [f"extra_body={','.join(found)}"]


def _begins(raw: msgspec.Raw, mark: bytes) -> bool:
    return bytes(memoryview(raw)[:1]) == mark


@dataclass(frozen=True, slots=True)
class RagflowDialect(Dialect):
    """A model's name is an assistant's id (see `assistant`); the body is RagflowBody's matter.

    Its errors come as a code in a 200, which `error_body.py` makes a status of.
    """

    lists_models: ClassVar[bool] = False
    paths: Paths = "current"

    def encode(
        self, call: Call, target: Target, base_url: str, timeouts: Timeouts, forward_headers: Collection[str] = ()
    ) -> Request:
        """As Dialect's. The list of models is one of assistants: no client is shown it, but its reply
        tells whether RAGFlow takes the token."""
        if call.operation.name == "chat":
            url = _chat_url(base_url, target.model or call.model, self.paths)
        elif call.operation.surface is Surface.MODELS:
            url = list_url(base_url)
        else:
            url = operation_url(base_url, call.operation.path)
        return written(call, url, timeouts, forward_headers)


@lru_cache(maxsize=1024)  # as in azure.py
def _chat_url(base_url: str, name: str, paths: Paths) -> str:
    return chat_url(base_url, assistant(name), paths)
