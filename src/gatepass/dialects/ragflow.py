"""RAGFlow as an upstream: its assistants and agents answer chats, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from gatepass.dialects.base import Dialect, build_request, operation_url, path_segment
from gatepass.errors import InvalidImage, ModelNotFound
from gatepass.json_scan import Edit, JsonScanner, Member, edited, removals
from gatepass.types import Call, ClientProtocol, OutboundRequest, Target, Timeouts

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
            "/agents/chat/completions"
            if paths == "current"
            else f"/agents_openai/{path_segment(asked.id)}/chat/completions"
        )
    else:
        path = f"/{'openai' if paths == 'current' else 'chats_openai'}/{path_segment(asked.id)}/chat/completions"
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
        values = {"model": PLACEHOLDER, "stream": _TRUE if call.stream else _FALSE}
        if asked.is_agent and self.paths == "current":
            values |= {"agent_id": msgspec.json.encode(asked.id), "openai-compatible": _TRUE}
        walk = JsonScanner(call.body)
        listed = list(walk.members())
        found = {member.name: member for member in listed}
        edits, entries = self._flatten(walk, found.get("messages"))
        lifted, extra = _lift(walk, found)
        gone = [member for member in listed if member.name in lifted]
        if lifted and "extra_body" not in found:
            values["extra_body"] = b"{%b}" % extra
        elif lifted:
            at = found["extra_body"].value + 1
            edits.append(Edit(at, at, (extra,)))
        edits += [Edit(found[name].value, found[name].end, (text,)) for name, text in values.items() if name in found]
        added = b",".join(b'"%b":%b' % (name.encode(), text) for name, text in values.items() if name not in found)
        at = call.body.index(b"{") + 1
        edits.append(Edit(at, at, (added, b"," if added and len(gone) < len(listed) else b"")))
        entries += [f"extra_body={','.join(lifted)}"] if lifted else []
        body = edited(call.body, [*edits, *removals(listed, gone)])
        return replace(call, body=body, adapted=(*call.adapted, *entries))

    def _flatten(self, walk: JsonScanner, messages: Member | None) -> tuple[list[Edit], list[str]]:
        """The edits that make texts of all contents, and the entries for them."""
        if messages is None or not walk.text.startswith(b"[", messages.value):
            return [], []
        edits, dropped = list[Edit](), False
        for index, (start, _) in enumerate(walk.elements(messages.value)):
            members = walk.members(start) if walk.text.startswith(b"{", start) else ()
            contents = [member for member in members if member.name == "content"]
            if not contents or not walk.text.startswith((b"[", b"null"), contents[-1].value):
                continue
            content, text, has_others = contents[-1], b'""', False
            if walk.text.startswith(b"[", content.value):
                text, has_others = self._text_of(walk, content.value, f"messages[{index}].content")
            edits.append(Edit(content.value, content.end, (text,)))
            dropped = dropped or has_others
        return edits, ["content=text", *(["drop=images"] if dropped else [])] if edits else []

    def _text_of(self, walk: JsonScanner, parts: int, where: str) -> tuple[bytes, bool]:
        """The texts of the parts as one JSON text, and whether an image was left out. No text is decoded."""
        texts, dropped = list[bytes](), False
        for index, (start, end) in enumerate(walk.elements(parts)):
            span: tuple[int, int] | None = (start, end)
            if walk.text.startswith(b"{", start):
                spans = [(member.value, member.end) for member in walk.members(start) if member.name == "text"]
                span = spans[-1] if spans else None
            if span is not None and walk.text.startswith(b'"', span[0]):
                texts.append(walk.text[span[0] + 1 : span[1] - 1])
                continue
            if self.images == "refuse":
                raise InvalidImage(
                    f"{where}[{index}] is no text, and RAGFlow reads nothing else: it would drop the part without"
                    " a word. Send text alone, or set ragflow.images: drop for this upstream.",
                    param=f"{where}[{index}]",
                )
            dropped = True
        return b'"%b"' % b"\\n".join(texts), dropped


def _lift(walk: JsonScanner, found: Mapping[str, Member]) -> tuple[list[str], bytes]:
    """The names that go into `extra_body`, and what is to stand at its beginning: what stands there already wins."""
    names, extra = [name for name in LIFTED if name in found], found.get("extra_body")
    if not names or (extra is not None and not walk.text.startswith(b"{", extra.value)):
        return [], b""
    inside = [member.name for member in walk.members(extra.value)] if extra is not None else []
    moved = [found[name] for name in names if name not in inside]
    text = b",".join(walk.text[member.start : member.end] for member in moved)
    return names, text + (b"," if text and inside else b"")


@dataclass(frozen=True, slots=True)
class RagflowDialect(Dialect):
    """A model's name is an assistant's id (see `assistant`); the body is RagflowBody's matter.

    Its errors come as a code in a 200, which `error_body.py` makes a status of.
    """

    lists_models: ClassVar[bool] = False
    paths: Paths = "current"

    def encode(
        self, call: Call, target: Target, base_url: str, timeouts: Timeouts, forward_headers: Collection[str] = ()
    ) -> OutboundRequest:
        """As Dialect's. The list of models is one of assistants: no client is shown it, but its reply
        tells whether RAGFlow takes the token."""
        if call.operation.name == "chat":
            url = _chat_url(base_url, target.model or call.model, self.paths)
        elif call.operation.protocol is ClientProtocol.MODELS:
            url = list_url(base_url)
        else:
            url = operation_url(base_url, call.operation.path)
        return build_request(call, url, timeouts, forward_headers)


@lru_cache(maxsize=1024)  # as in azure.py
def _chat_url(base_url: str, name: str, paths: Paths) -> str:
    return chat_url(base_url, assistant(name), paths)
