"""A question to a reranker in the shape in which the upstream takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from gatepass.adapt.draft import Draft, ObjectDraft
from gatepass.config.upstream import RerankShape
from gatepass.errors import InvalidRequest

OF_TEI = ("raw_scores", "return_text", "truncate", "truncation_direction")
OF_OTHERS = ("top_n", "return_documents", "return_len", "rank_fields", "max_chunks_per_doc", "max_tokens_per_doc")


@dataclass(frozen=True, slots=True)
class Shaped:
    """The question as `shape` has it; entry `rerank=SHAPE`. Where the client's own is one already, nothing changes.

    What gatepass can do itself is not asked for where the upstream may not know it: `answer` cuts at `top_n` and
    puts the documents beside the results. `model` is added where the client names none, as TEI's clients do not.
    Raises InvalidRequest for what the upstream has no way to do.
    """

    shape: RerankShape = "jina"
    model: str | None = None

    @property
    def entry(self) -> str:
        return f"rerank={self.shape}"

    def revise(self, draft: Draft) -> bool:
        top = draft.top
        steps: tuple[Callable[[ObjectDraft], bool], ...] = (
            _into_tei if self.shape == "tei" else _out_of_tei,
            self._plain_flags,
            self._plain_texts,
            self._named,
        )
        return sum(step(top) for step in steps) > 0

    def _plain_flags(self, top: ObjectDraft) -> bool:
        """`"true"` as true: only Xinference reads both, and only it knows `return_len`."""
        if self.shape == "xinference":
            return False
        said = top.string("return_documents")
        changed = said is not None and top.set("return_documents", said.lower().encode())
        return top.drop("return_len") or changed

    def _plain_texts(self, top: ObjectDraft) -> bool:
        name = "texts" if self.shape == "tei" else "documents"
        if self._keeps_objects(top):
            return False
        changed = top.object("query") is not None and top.set("query", _encoded(_text(top.value("query"), "query")))
        return _set_texts(top, name) or changed

    def _keeps_objects(self, top: ObjectDraft) -> bool:
        """Jina takes objects; Cohere's v1 does with `rank_fields`, its v2 only texts, which both take. A list of
        vLLM's parts is its own."""
        has_fields = top.kind("rank_fields") == "["
        if has_fields and self.shape != "cohere":
            told = "`rank_fields` is known to Cohere's API alone: send the texts that are to be ranked."
            raise InvalidRequest(told, param="rank_fields")
        is_parts = top.object("documents") is not None
        if is_parts and self.shape != "vllm":
            raise InvalidRequest(
                "`documents` must be a list of texts: this upstream takes no other.", param="documents"
            )
        return self.shape == "jina" or has_fields or is_parts

    def _named(self, top: ObjectDraft) -> bool:
        return self.model is not None and "model" not in top and top.set("model", _encoded(self.model))


def _into_tei(top: ObjectDraft) -> bool:
    """`truncate`, since all others shorten a text that is too long and TEI refuses it (413) unless it is told to."""
    if "texts" in top:
        return False
    if top.kind("rank_fields") == "[":
        return False  # refused in the next step
    top.rename("documents", "texts")
    for name in OF_OTHERS:
        top.drop(name)
    if "truncate" not in top:
        top.set("truncate", b"true")
    return True


def _out_of_tei(top: ObjectDraft) -> bool:
    if "texts" not in top:
        return False
    if top.text("raw_scores") == b"true":
        told = "`raw_scores: true` cannot be had from this upstream: it does not say which scores it gives."
        raise InvalidRequest(told, param="raw_scores")
    top.rename("texts", "documents")
    for name in OF_TEI:
        top.drop(name)
    return True


def _set_texts(top: ObjectDraft, name: str) -> bool:
    """Make texts of the documents that are objects; a list of texts keeps its bytes."""
    documents = top.array(name)
    if documents is None or not any(documents.kind(index) == "{" for index in range(len(documents))):
        return False
    texts = [_text(document, f"{name}[{index}]") for index, document in enumerate(top.value(name))]
    return top.set(name, _encoded(texts))


def _text(said: Any, where: str) -> str:
    """The text of a document: itself, or its `text`, by which Cohere's v1 ranks objects too."""
    text = said.get("text") if isinstance(said, dict) else said
    if not isinstance(text, str):
        raise InvalidRequest(f"`{where}` must be a text: this upstream ranks nothing else.", param=where)
    return text


def _encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)
