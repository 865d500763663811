"""Rerank: the question, its shape for the upstream, and the answer in the client's form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from sys import float_info
from types import MappingProxyType
from typing import Any, Self

import msgspec

from gatepass.config.upstream import RerankShape
from gatepass.errors import InvalidRequest
from gatepass.json_scan import JsonScanner, Member
from gatepass.normalize.embeddings_reply import encoded
from gatepass.normalize.json_editor import JsonEditor, JsonObjectEditor

_FLAGS = MappingProxyType({b"true": True, b'"true"': True, b"false": False, b'"false"': False, b"null": False})
"""RAGFlow's Xinference class writes them as texts (its rag/llm/rerank_model.py)."""


@dataclass(frozen=True, slots=True)
class RerankOptions:
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
        scanner = JsonScanner(body)
        members = {member.name: member for member in scanner.members()}
        _check_query(body, members.get("query"))
        name = _list_name(members)
        spans = _documents(scanner, members[name], name)
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
    names = {member.name for member in JsonScanner(body).members()}
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


def _documents(scanner: JsonScanner, member: Member, name: str) -> list[tuple[int, int]]:
    """Where each document stands."""
    start = _list_start(scanner, member)
    if start is None:
        raise InvalidRequest(f"`{name}` must be a list of texts.", param=name)
    spans = list(scanner.elements(start))
    if not spans:
        raise InvalidRequest(f"`{name}` is empty: there is nothing to rank.", param=name)
    for index, (at, _) in enumerate(spans):
        if not scanner.text.startswith((b'"', b"{"), at):
            where = f"{name}[{index}]"
            raise InvalidRequest(f"`{where}` must be a text, or an object that holds one.", param=where)
    return spans


def _list_start(scanner: JsonScanner, member: Member) -> int | None:
    """The list's bracket; vLLM takes pictures as `{"content": [part, …]}` in its place."""
    if scanner.text.startswith(b"[", member.value):
        return member.value
    if not scanner.text.startswith(b"{", member.value):
        return None
    inner = [part.value for part in scanner.members(member.value) if part.name == "content"]
    return inner[-1] if inner and scanner.text.startswith(b"[", inner[-1]) else None


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


OF_TEI = ("raw_scores", "return_text", "truncate", "truncation_direction")
OF_OTHERS = ("top_n", "return_documents", "return_len", "rank_fields", "max_chunks_per_doc", "max_tokens_per_doc")


@dataclass(frozen=True, slots=True)
class Shaped:
    """The question as `shape` has it; entry `rerank=SHAPE`. Where the client's own is one already, nothing changes.

    gatepass does what the upstream may not support: `client_ranking` cuts at `top_n` and adds the documents to the
    results. `model` is added where the client names none, as TEI's clients do not.
    Raises InvalidRequest for what the upstream has no way to do.
    """

    shape: RerankShape = "jina"
    model: str | None = None

    @property
    def entry(self) -> str:
        return f"rerank={self.shape}"

    def apply_to(self, editor: JsonEditor) -> bool:
        top = editor.top
        steps: tuple[Callable[[JsonObjectEditor], bool], ...] = (
            _into_tei if self.shape == "tei" else _out_of_tei,
            self._plain_flags,
            self._plain_texts,
            self._named,
        )
        return sum(step(top) for step in steps) > 0

    def _plain_flags(self, top: JsonObjectEditor) -> bool:
        """`"true"` as true: only Xinference reads both, and only it knows `return_len`."""
        if self.shape == "xinference":
            return False
        said = top.string("return_documents")
        changed = said is not None and top.set("return_documents", said.lower().encode())
        return top.drop("return_len") or changed

    def _plain_texts(self, top: JsonObjectEditor) -> bool:
        name = "texts" if self.shape == "tei" else "documents"
        if self._keeps_objects(top):
            return False
        query = top.object("query")
        changed = query is not None and top.set("query", _text_member(query, "query"))
        return _set_texts(top, name) or changed

    def _keeps_objects(self, top: JsonObjectEditor) -> bool:
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

    def _named(self, top: JsonObjectEditor) -> bool:
        return self.model is not None and "model" not in top and top.set("model", _encoded(self.model))


def _into_tei(top: JsonObjectEditor) -> bool:
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


def _out_of_tei(top: JsonObjectEditor) -> bool:
    if "texts" not in top:
        return False
    if top.text("raw_scores") == b"true":
        told = "`raw_scores: true` cannot be had from this upstream: it does not say which scores it gives."
        raise InvalidRequest(told, param="raw_scores")
    top.rename("texts", "documents")
    for name in OF_TEI:
        top.drop(name)
    return True


def _set_texts(top: JsonObjectEditor, name: str) -> bool:
    """Make texts of the documents that are objects; a list of texts keeps its bytes."""
    documents = top.array(name)
    if documents is None or "{" not in documents.kinds():
        return False
    texts = documents.texts()
    for index, document in documents.numbered():
        texts[index] = _text_member(document, f"{name}[{index}]")
    for index, kind in enumerate(documents.kinds()):
        if kind not in '{"':
            raise _no_text(f"{name}[{index}]")
    return top.set(name, b"[%b]" % b",".join(texts))


def _text_member(document: JsonObjectEditor, where: str) -> bytes:
    """The `text` of a document as it is written: by it Cohere's v1 ranks objects too."""
    text = document.text("text")
    if text is None or not text.startswith(b'"'):
        raise _no_text(where)
    return text


def _no_text(where: str) -> InvalidRequest:
    return InvalidRequest(f"`{where}` must be a text: this upstream ranks nothing else.", param=where)


def _encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


Entry = dict[str, msgspec.Raw]

_OBJECT: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)
_ENTRIES: msgspec.json.Decoder[list[Entry]] = msgspec.json.Decoder(list[Entry])
_LISTS = ("results", "data")
_SCORES = ("relevance_score", "score")


@dataclass(frozen=True, slots=True)
class InvalidRanking:
    """Why a reply is no answer: the end of a sentence that begins with who sent it."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Result:
    """One result: of which document, its score, and as it came."""

    index: int
    score: float
    written: msgspec.Raw
    entry: Entry


class _Misfit(Exception):
    """What is wrong."""


def client_ranking(reply: bytes, options: RerankOptions) -> bytes | InvalidRanking:
    """`reply` as the client that asked for `options` reads it; the same object where it is that already.

    It may come as `{"results": […]}`, `{"data": […]}` or a bare list, with `relevance_score` or `score`. At most
    `asked.top_n` results go on, the best ones; documents go with them where they were asked for and not otherwise.
    Members that nobody knows stay. Fewer results than documents are an answer, none at all is not.
    """
    try:
        document, name = _read(reply)
        listed = [_result(entry, options.count) for entry in _entries(document, name)]
        _check(listed, options)
    except _Misfit as fault:
        return InvalidRanking(str(fault))
    entries = [_written(result, options) for result in _best(listed, options.top_n)]
    right_name = None if options.is_tei else "results"
    if name == right_name and entries == [result.entry for result in listed]:
        return reply
    rest = {member: value for member, value in document.items() if member != (name or "")}
    try:
        return encoded(entries if options.is_tei else {**rest, "results": entries})
    except ValueError:
        return InvalidRanking("the reply is no text in UTF-8")


def _read(reply: bytes) -> tuple[dict[str, Any], str | None]:
    """The document and the name of its list; None for a bare list, which stands under ""."""
    try:
        document: dict[str, Any] = {**_OBJECT.decode(reply)}
    except (ValueError, RecursionError):
        return {"": msgspec.Raw(reply)}, None
    name = next((name for name in _LISTS if name in document), None)
    if name is None:
        raise _Misfit('the reply has no "results"')
    return document, name


def _entries(document: dict[str, Any], name: str | None) -> list[Entry]:
    try:
        return _ENTRIES.decode(document[name or ""])
    except (ValueError, RecursionError):
        where = "the reply is" if name is None else f'"{name}" is'
        raise _Misfit(f"{where} no list of objects") from None


def _result(entry: Entry, count: int) -> _Result:
    index = _number(entry.get("index"))
    if type(index) is not int or not 0 <= index < count:
        raise _Misfit(f'a result has no "index" from 0 to {count - 1}')
    written = next((entry[name] for name in _SCORES if name in entry), None)
    score = _number(written)
    if written is None or score is None:
        raise _Misfit(f"the result of document {index} has no score")
    return _Result(index, score, written, entry)


def _number(raw: msgspec.Raw | None) -> int | float | None:
    try:
        value: Any = None if raw is None else msgspec.json.decode(raw)
    except ValueError:  # beyond any float
        return None
    return value if type(value) in (int, float) and abs(value) <= float_info.max else None


def _check(listed: list[_Result], options: RerankOptions) -> None:
    if not listed:
        raise _Misfit(f"it ranks none of {options.count} documents")
    if len({result.index for result in listed}) < len(listed):
        raise _Misfit("it ranks a document twice")


def _best(listed: list[_Result], top_n: int | None) -> list[_Result]:
    if top_n is None or len(listed) <= top_n:
        return listed
    return sorted(listed, key=lambda result: -result.score)[:top_n]


def _written(result: _Result, options: RerankOptions) -> Entry:
    """The entry in the client's words; the very same members where it was that already."""
    score, other = ("score", "relevance_score") if options.is_tei else ("relevance_score", "score")
    echo, foreign = ("text", "document") if options.is_tei else ("document", "text")
    entry = {name: value for name, value in result.entry.items() if name not in (other, foreign)}
    entry[score] = result.written
    if options.echoed is None:
        entry.pop(echo, None)
    elif not _is_echo(entry.get(echo), is_text=options.is_tei):
        entry[echo] = _echo(options.echoed[result.index], is_text=options.is_tei)
    return entry


def _is_echo(said: msgspec.Raw | None, *, is_text: bool) -> bool:
    return said is not None and bytes(said).startswith(b'"' if is_text else b"{")


def _echo(document: bytes, *, is_text: bool) -> msgspec.Raw:
    """A document of the request: TEI's clients read it as a text, all others as `{"text": …}`."""
    if is_text or document.startswith(b"{"):
        return msgspec.Raw(document)
    return msgspec.Raw(b'{"text":%b}' % document)
