"""Rerank: documents in the order of a query. Requests become the upstream's shape, and replies the client's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from sys import float_info
from typing import Any, Self

import msgspec

from gatepass.config.upstream import RerankShape, UpstreamConfig
from gatepass.draft import Draft, ObjectDraft, Rule
from gatepass.errors import InvalidRequest
from gatepass.json_body import OBJECT, elements, kind, opened
from gatepass.normalize.embeddings_reply import Entry, InvalidReply, encoded, unreadable
from gatepass.normalize.rules import ChangeRule
from gatepass.protocols.client_protocol import ClientProtocol, Ranking

_FLAGS = {b"true": True, b'"true"': True, b"false": False, b'"false"': False, b"null": False}
"""Spellings of a flag. RAGFlow's Xinference class sends strings (its rag/llm/rerank_model.py)."""


class RerankOptions(msgspec.Struct, frozen=True):
    """The reply that the client requests: at most `top_n` results (None: all) of `count` documents.

    `is_tei`: the reply is a bare list of `{index, score}`. `echoed`: the documents as JSON if the client requests them
    in the results, else None.
    """

    count: int
    top_n: int | None = None
    is_tei: bool = False
    echoed: tuple[bytes, ...] | None = None

    @classmethod
    def of(cls, body: bytes) -> Self:
        """Read the options from the client's `body` before any rule changes it.

        Raises InvalidRequest with the member's name if a member is missing, occurs in both shapes or has a wrong type.
        """
        members = opened(body)
        if "query" not in members:
            raise InvalidRequest("The body has no `query`.", param="query")
        if kind(members["query"]) not in '"{':
            raise InvalidRequest("`query` must be a string.", param="query")
        names = [name for name in ("documents", "texts") if name in members]
        if not names:
            raise InvalidRequest("The body has no `documents` (and no `texts`, TEI's name).", param="documents")
        if len(names) > 1:
            raise InvalidRequest("The body has both `documents` and `texts`. Send one of them.", param="texts")
        name = names[0]
        documents = _documents(members[name], name)
        echoes = []
        for flag in ("return_documents", "return_text"):
            value = _FLAGS.get(bytes(members[flag]).lower()) if flag in members else False
            if value is None:
                raise InvalidRequest(f"`{flag}` must be true or false.", param=flag)
            echoes.append(value)
        return cls(
            count=len(documents),
            top_n=_top_n(members.get("top_n")),
            is_tei=name == "texts",
            echoed=tuple(map(bytes, documents)) if any(echoes) else None,
        )


def _documents(listed: msgspec.Raw, name: str) -> list[msgspec.Raw]:
    if kind(listed) != "[":
        raise InvalidRequest(f"`{name}` must be a list of strings.", param=name)
    documents = elements(listed)
    if not documents:
        raise InvalidRequest(f"`{name}` is empty. Send at least one document.", param=name)
    for index, document in enumerate(documents):
        if kind(document) not in '"{':
            where = f"{name}[{index}]"
            raise InvalidRequest(f"`{where}` must be a string, or an object with a `text`.", param=where)
    return documents


MOST_NUMBER_BYTES = 18
"""A longer value is rejected and not decoded. To decode a text of 27 MiB takes 150 ms."""


def _top_n(written: msgspec.Raw | None) -> int | None:
    if written is None:
        return None
    value: Any = -1
    if memoryview(written).nbytes <= MOST_NUMBER_BYTES:
        with suppress(msgspec.ValidationError):  # beyond any number
            value = msgspec.json.decode(written)
    if value is None or (type(value) is int and value >= 0):
        return value or None  # 0 means all, as in vLLM
    raise InvalidRequest("`top_n` must be an integer of at least 1.", param="top_n")


OF_TEI = ("raw_scores", "return_text", "truncate", "truncation_direction")
OF_OTHERS = ("top_n", "return_documents", "rank_fields", "max_chunks_per_doc", "max_tokens_per_doc")


@dataclass(frozen=True, slots=True)
class ConvertRerank:
    """Convert the request to the upstream's `shape`; entry `rerank=SHAPE`.

    `client_ranking` does what the upstream may not support: it cuts at `top_n` and adds the documents to the results.
    `model` is added if the client names none, as TEI's clients do. Raises InvalidRequest for raw scores of another
    upstream than TEI.
    """

    shape: RerankShape = "jina"
    model: str | None = None

    @property
    def entry(self) -> str:
        return f"rerank={self.shape}"

    def apply_to(self, draft: Draft) -> bool:
        top = draft.top
        changed = _into_tei(top) if self.shape == "tei" else _out_of_tei(top)
        if top.text("return_documents") != b"false":  # `client_ranking` adds them
            changed |= top.drop("return_documents")
        changed |= top.drop("return_len")
        if self.model is not None and "model" not in top:
            changed |= top.set("model", msgspec.json.encode(self.model))
        return changed


def _into_tei(top: ObjectDraft) -> bool:
    if "texts" in top:
        return False
    top.rename("documents", "texts")
    for name in OF_OTHERS:
        top.drop(name)
    if "truncate" not in top:
        top.set("truncate", b"true")  # without it TEI rejects a text that is too long (413); all others cut it
    return True


def _out_of_tei(top: ObjectDraft) -> bool:
    if "texts" not in top:
        return False
    if top.text("raw_scores") == b"true":
        reason = "This upstream does not support `raw_scores: true`: it does not specify which scores it returns."
        raise InvalidRequest(reason, param="raw_scores")
    top.rename("texts", "documents")
    for name in OF_TEI:
        top.drop(name)
    return True


_ENTRIES = msgspec.json.Decoder(list[Entry])
_LISTS = ("results", "data")
_SCORES = ("relevance_score", "score")


class _Result(msgspec.Struct, frozen=True):
    """One result: the index of its document, its score as a number and as JSON, and the entry of the reply."""

    index: int
    score: float
    written: msgspec.Raw
    entry: Entry


def client_ranking(reply: bytes, options: RerankOptions, upstream: str) -> bytes:
    """Return `reply` in the form that the client requests, or the same object if it has that form.

    The upstream's list may be `results`, `data` or the whole reply, its scores `relevance_score` or `score`. The best
    `options.top_n` results remain, with their documents if requested. Unknown members remain. A reply with fewer
    results than documents is valid. Raises UpstreamInvalid, for example for a reply without results.
    """
    try:
        return _ranked(reply, options)
    except InvalidReply as fault:
        raise fault.upstream_error("The upstream's reply is not a ranking", upstream) from None


MOST_BYTES = 16 * 1024 * 1024
"""Limit of a reply, because it is read in one piece. The texts of 1,000 documents have 8 MiB."""
MOST_MEMBERS = 100_000
"""Limit of the members and of the objects of a reply, with those in texts. To parse so many takes 36 ms."""


def _ranked(reply: bytes, options: RerankOptions) -> bytes:
    if len(reply) > MOST_BYTES:
        raise InvalidReply(f"it has more than {MOST_BYTES} bytes. Request no documents in it")
    if reply.count(b"{") > MOST_MEMBERS or reply.count(b'":') > MOST_MEMBERS:
        raise InvalidReply(f"it has more than {MOST_MEMBERS} members. Request no documents in it")
    document, name, found = _read(reply)
    listed = [_result(entry, options.count) for entry in found]
    if not listed:
        raise InvalidReply(f"it ranks none of {options.count} documents")
    if len({result.index for result in listed}) < len(listed):
        raise InvalidReply("it ranks a document twice")
    best = listed
    if options.top_n is not None and len(listed) > options.top_n:
        best = sorted(listed, key=lambda result: -result.score)[: options.top_n]
    entries = [_written(result, options) for result in best]
    right_name = None if options.is_tei else "results"
    if name == right_name and entries == [result.entry for result in listed]:
        return reply
    document.pop(name or "", None)
    try:
        return encoded(entries if options.is_tei else {**document, "results": entries})
    except ValueError:
        raise InvalidReply("the reply is not UTF-8") from None


def _read(reply: bytes) -> tuple[Entry, str | None, list[Entry]]:
    """Return the members of a reply, the name of its list and the entries; for a bare list the name is None."""
    name, listed, document = None, msgspec.Raw(reply), Entry()
    with suppress(ValueError, RecursionError):  # a bare list
        document = OBJECT.decode(reply)
        name = next((name for name in _LISTS if name in document), None)
        if name is None:
            raise InvalidReply('the reply has no "results"')
        listed = document[name]
    try:
        return document, name, _ENTRIES.decode(listed)
    except (ValueError, RecursionError):
        where = "the reply is" if name is None else f'"{name}" is'
        raise unreadable(reply, "it", f"{where} not a list of objects") from None


def _result(entry: Entry, count: int) -> _Result:
    index = _number(entry.get("index"))
    if type(index) is not int or not 0 <= index < count:  # `true` is an int for isinstance
        raise InvalidReply(f'a result has no "index" from 0 to {count - 1}')
    written = next((entry[name] for name in _SCORES if name in entry), None)
    score = _number(written)
    if written is None or score is None:
        raise InvalidReply(f"the result of document {index} has no score")
    return _Result(index, score, written, entry)


def _number(raw: msgspec.Raw | None) -> int | float | None:
    try:
        value: Any = None if raw is None else msgspec.json.decode(raw)
    except ValueError:  # beyond any float
        return None
    return value if type(value) in (int, float) and abs(value) <= float_info.max else None


def _written(result: _Result, options: RerankOptions) -> Entry:
    score, other = ("score", "relevance_score") if options.is_tei else ("relevance_score", "score")
    echo, foreign = ("text", "document") if options.is_tei else ("document", "text")
    entry = {name: value for name, value in result.entry.items() if name not in (other, foreign)}
    entry[score] = result.written
    if options.echoed is None:
        entry.pop(echo, None)
    elif echo not in entry or not bytes(entry[echo]).startswith(b'"' if options.is_tei else b"{"):
        # TEI's clients read a string, all others `{"text": …}`.
        echoed = options.echoed[result.index]
        entry[echo] = msgspec.Raw(echoed if options.is_tei or echoed.startswith(b"{") else b'{"text":%b}' % echoed)
    return entry


class Rerank(ClientProtocol):
    """A score for each document. Cohere's form and TEI's are converted into each other."""

    __slots__ = ()

    name = "rerank"
    sample: Mapping[str, Any] = {"query": "ping", "documents": ["ping"]}

    def own_rules(self, settings: UpstreamConfig, model: str | None) -> tuple[Rule, ...]:
        return (ChangeRule("rerank", (ConvertRerank(settings.rerank_shape, model),)),)

    def ranking(self, body: bytes) -> Ranking:
        options = RerankOptions.of(body)
        return lambda reply, upstream: client_ranking(reply, options, upstream)


RERANK = Rerank()
