"""What a client asks of a reranker, in whichever of the shapes it asks.

There is no standard: Cohere's body is the one that Jina, vLLM, Xinference, LocalAI and RAGFlow's own classes
imitate; Text Embeddings Inference (TEI) has one of its own, which RAGFlow's Huggingface class sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import msgspec

from gatepass.errors import InvalidRequest
from gatepass.jsontext import Member, Walk

_FLAGS = MappingProxyType({b"true": True, b'"true"': True, b"false": False, b'"false"': False, b"null": False})
"""RAGFlow's Xinference class writes them as texts (its rag/llm/rerank_model.py)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the answer is to be: at most `top_n` results (None: all) of `count` documents.

    `is_tei`: a bare list of `{index, score}`. `echoed` are the documents as JSON texts where the client wants them
    with the results, None where it does not.
    """

    count: int
    top_n: int | None = None
    is_tei: bool = False
    echoed: tuple[bytes, ...] | None = None

    @classmethod
    def of(cls, body: bytes) -> Self:
        """`body` is the client's own, a JSON object, before any rule. Raises InvalidRequest, which names the member,
        for one that is missing, is there in both shapes, or is of a wrong type."""
        walk = Walk(body)
        members = {member.name: member for member in walk.members()}
        _check_query(body, members.get("query"))
        name = _list_name(members)
        spans = _documents(walk, members[name], name)
        echoes = [_flag(body, members.get(flag), flag) for flag in ("return_documents", "return_text")]
        return cls(
            count=len(spans),
            top_n=_top_n(body, members.get("top_n")),
            is_tei=name == "texts",
            echoed=tuple(body[start:end] for start, end in spans) if any(echoes) else None,
        )


def is_question(body: bytes) -> bool:
    """Whether `body`, a JSON object, is one for a reranker: RAGFlow's Go client posts it to the API's root, since its
    list of paths for this provider has none for rerank (internal/entity/models/openai_api_compatible.go)."""
    names = {member.name for member in Walk(body).members()}
    return "query" in names and ("documents" in names or "texts" in names)


def _check_query(body: bytes, query: Member | None) -> None:
    if query is None:
        raise InvalidRequest("The body has no `query`.", param="query")
    if not body.startswith((b'"', b"{"), query.value):
        raise InvalidRequest("`query` must be a text.", param="query")


def _list_name(members: dict[str, Member]) -> str:
    found = [name for name in ("documents", "texts") if name in members]
    if not found:
        raise InvalidRequest("The body has no `documents` (and no `texts`, as TEI calls them).", param="documents")
    if len(found) > 1:
        raise InvalidRequest("The body holds both `documents` and `texts`; send one of them.", param="texts")
    return found[0]


def _documents(walk: Walk, member: Member, name: str) -> list[tuple[int, int]]:
    """Where each document stands."""
    start = _list_start(walk, member)
    if start is None:
        raise InvalidRequest(f"`{name}` must be a list of texts.", param=name)
    spans = list(walk.elements(start))
    if not spans:
        raise InvalidRequest(f"`{name}` is empty: there is nothing to rank.", param=name)
    for index, (at, _) in enumerate(spans):
        if not walk.text.startswith((b'"', b"{"), at):
            where = f"{name}[{index}]"
            raise InvalidRequest(f"`{where}` must be a text, or an object that holds one.", param=where)
    return spans


def _list_start(walk: Walk, member: Member) -> int | None:
    """The list's bracket; vLLM takes pictures as `{"content": [part, …]}` in its place."""
    if walk.text.startswith(b"[", member.value):
        return member.value
    if not walk.text.startswith(b"{", member.value):
        return None
    inner = [part.value for part in walk.members(member.value) if part.name == "content"]
    return inner[-1] if inner and walk.text.startswith(b"[", inner[-1]) else None


def _top_n(body: bytes, member: Member | None) -> int | None:
    """0 is all, as vLLM reads it."""
    try:
        value: Any = None if member is None else msgspec.json.decode(body[member.value : member.end])
    except msgspec.ValidationError:  # beyond any number
        value = -1
    if value is None or (type(value) is int and value >= 0):
        return value or None
    raise InvalidRequest("`top_n` must be a whole number from 1 on.", param="top_n")


def _flag(body: bytes, member: Member | None, name: str) -> bool:
    said = False if member is None else _FLAGS.get(body[member.value : member.end].lower())
    if said is None:
        raise InvalidRequest(f"`{name}` must be true or false.", param=name)
    return said
