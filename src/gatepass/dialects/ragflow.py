"""The dialect of RAGFlow as an upstream. Its assistants and agents support only chat."""

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
from gatepass.types import Call, OutboundRequest, RuleEdit, Target, Timeouts

Paths = Literal["current", "old"]
"""`current`: `/openai/{chat_id}/…` since v0.25. `old`: `/chats_openai/{chat_id}/…` in v0.20 to v0.27."""

API = "/api/v1"


@dataclass(frozen=True, slots=True)
class Assistant:
    """A chat assistant or an agent of RAGFlow, by its id. The model name of a target names it."""

    id: str
    is_agent: bool


def assistant(name: str) -> Assistant:
    """Parse a model name: `agent:ID` is an agent, `chat:ID` and a bare `ID` a chat assistant."""
    kind, colon, rest = name.partition(":")
    if colon and kind in ("chat", "agent"):
        return Assistant(rest, kind == "agent")
    return Assistant(name, is_agent=False)


@lru_cache(maxsize=1024)  # parsing a URL costs 4 µs
def chat_url(base_url: str, model: str, paths: Paths) -> str:
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


def list_url(base_url: str) -> str:
    """Return the URL of a list with one chat assistant of the key's owner. Every version supports it at low cost."""
    return f"{_below(base_url, '/chats')}?page=1&page_size=1"


def _below(base_url: str, path: str) -> str:
    parts = urlsplit(base_url)
    root = parts.path.rstrip("/").removesuffix(API)
    return parts._replace(path=f"{root}{API}{path}").geturl()


CHAT_PATH, LIST_PATH = "/chat/completions", "/models"

PLACEHOLDER = b'"model"'
"""Sent as `model`. Since v0.26 RAGFlow answers code 101 to a name that is not one of its models
(infiniflow/ragflow#15726)."""

EXTRA = "extra_body"
LIFTED = ("reference", "reference_metadata", "metadata_condition")
"""Members that move into `extra_body`.

Since v0.23 RAGFlow reads them from a literal member `extra_body`. SDKs merge their `extra_body` into the top level,
which RAGFlow does not read (infiniflow/ragflow#9636).
"""

_TRUE, _FALSE = b"true", b"false"

Images = Literal["refuse", "drop"]


@dataclass(frozen=True, slots=True)
class RagflowBody:
    """Rewrite a chat for RAGFlow. Unknown members keep their bytes.

    * `model` becomes the placeholder.
    * `stream` is always set. Its default was true up to v0.25.6 and is false since (infiniflow/ragflow#15356).
    * A message's list of parts becomes one text with line breaks, as v0.26 does itself. Older versions crash on a list
      (infiniflow/ragflow#15358). null becomes "". Entry `content=text`.
    * No version reads images. They are rejected with InvalidImage, or removed with the entry `drop=images` if the
      configuration allows it.
    * LIFTED members move into `extra_body`. Entry `extra_body=NAME,NAME`.
    * An agent's id is added to the body if the path does not contain it.

    Other operations raise ModelNotFound, because RAGFlow has no route for them.
    """

    images: Images = "refuse"
    paths: Paths = "current"
    name = "ragflow"

    def apply(self, call: Call, target: Target) -> Call:
        if call.operation.path != CHAT_PATH:
            operation = call.operation.name
            raise ModelNotFound(
                f'The upstream "{target.upstream}" is RAGFlow, which supports only chat. For {operation} set'
                f" operations.{operation}, or the entry of this model under models, to another upstream.",
                param="model",
            )
        wanted = assistant(target.model or call.model)
        values = {"model": PLACEHOLDER, "stream": _TRUE if call.stream else _FALSE}
        if wanted.is_agent and self.paths == "current":
            values |= {"agent_id": msgspec.json.encode(wanted.id), "openai-compatible": _TRUE}
        walk = JsonScanner(call.body)
        listed = list(walk.members())
        found = {member.name: member for member in listed}
        edits, entries, noted = self._flatten(walk, found.get("messages"))
        noted += [
            _edit(self.name, name, walk, member, text)
            for name, text in values.items()
            if (member := found.get(name)) is None or walk.text[member.value : member.end] != text
        ]
        lifted, extra = _lift(walk, found)
        gone = [member for member in listed if member.name in lifted]
        if lifted and EXTRA not in found:
            values[EXTRA] = b"{%b}" % extra
        elif lifted:
            at = found[EXTRA].value + 1
            edits.append(Edit(at, at, (extra,)))
        edits += [Edit(found[name].value, found[name].end, (text,)) for name, text in values.items() if name in found]
        added = b",".join(b'"%b":%b' % (name.encode(), text) for name, text in values.items() if name not in found)
        at = call.body.index(b"{") + 1
        # A comma belongs here only if a member of the client remains after it.
        edits.append(Edit(at, at, (added, b"," if added and len(gone) < len(listed) else b"")))
        entries += [f"{EXTRA}={','.join(lifted)}"] if lifted else []
        body = edited(call.body, [*edits, *removals(listed, gone)])
        moved = f"{EXTRA}={','.join(lifted)}"
        noted += [_edit(moved, one.name, walk, one, moved_to=f"{EXTRA}.{one.name}") for one in gone]
        return replace(call, body=body, adapted=(*call.adapted, *entries), edits=call.edits.with_more(noted))

    def _flatten(self, walk: JsonScanner, messages: Member | None) -> tuple[list[Edit], list[str], list[RuleEdit]]:
        """Return the edits that make each content a text, their entries for `adapted`, and how the log shows them."""
        if messages is None or not walk.text.startswith(b"[", messages.value):
            return [], [], []
        edits, dropped, noted = list[Edit](), False, list[RuleEdit]()
        for index, (start, _) in enumerate(walk.elements(messages.value)):
            members = walk.members(start) if walk.text.startswith(b"{", start) else ()
            contents = [member for member in members if member.name == "content"]
            if not contents or not walk.text.startswith((b"[", b"null"), contents[-1].value):
                continue
            # RAGFlow parses with Python's json, where the last of several equal members is used.
            content, text, has_others = contents[-1], b'""', False
            if walk.text.startswith(b"[", content.value):
                text, has_others = self._text_of(walk, content.value, f"messages[{index}].content")
            edits.append(Edit(content.value, content.end, (text,)))
            noted.append(_edit("content=text", f"messages[{index}].content", walk, content, text))
            dropped = dropped or has_others
        return edits, ["content=text", *(["drop=images"] if dropped else [])] if edits else [], noted

    def _text_of(self, walk: JsonScanner, parts: int, where: str) -> tuple[bytes, bool]:
        """Return the texts of the parts as one JSON text without decoding them, and whether an image was removed."""
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
                    f"{where}[{index}] is not text, and RAGFlow would ignore it without an error. Send only text, or"
                    " set ragflow.images: drop for this upstream.",
                    param=f"{where}[{index}]",
                )
            dropped = True
        return b'"%b"' % b"\\n".join(texts), dropped


def _edit(
    rule: str, path: str, walk: JsonScanner, member: Member | None, after: bytes | None = None, moved_to: str = ""
) -> RuleEdit:
    """Return what `rule` changed at `path`: the value of `member` became `after`, or moved."""
    before = b"" if member is None else walk.text[member.value : member.value + 1]
    before_bytes = 0 if member is None else member.end - member.value
    if after is None:
        after, after_bytes = before, before_bytes
    else:
        after_bytes = len(after)
    return RuleEdit(rule, path, before.decode(), before_bytes, after[:1].decode(), after_bytes, moved_to)


def _lift(walk: JsonScanner, found: Mapping[str, Member]) -> tuple[list[str], bytes]:
    """Return the names that move into `extra_body`, and the text to insert at its start."""
    names, extra = [name for name in LIFTED if name in found], found.get(EXTRA)
    # RAGFlow rejects an `extra_body` that is not an object with code 102
    if not names or (extra is not None and not walk.text.startswith(b"{", extra.value)):
        return [], b""
    inside = [member.name for member in walk.members(extra.value)] if extra is not None else []
    moved = [found[name] for name in names if name not in inside]
    text = b",".join(walk.text[member.start : member.end] for member in moved)
    return names, text + (b"," if text and inside else b"")


@dataclass(frozen=True, slots=True)
class RagflowDialect(Dialect):
    """RAGFlow's paths. The model's name is the id of an assistant, and RagflowBody changes the body."""

    lists_models: ClassVar[bool] = False
    paths: Paths = "current"

    def encode(
        self, call: Call, target: Target, base_url: str, timeouts: Timeouts, forward_headers: Collection[str] = ()
    ) -> OutboundRequest:
        if call.operation.path == CHAT_PATH:
            url = chat_url(base_url, target.model or call.model, self.paths)
        elif call.operation.path == LIST_PATH:
            url = list_url(base_url)  # not shown to clients, but its reply shows whether RAGFlow accepts the token
        else:
            url = operation_url(base_url, call.operation.path)
        return build_request(call, url, timeouts, forward_headers)
