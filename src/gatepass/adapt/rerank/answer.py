"""What a reranker answered, in the shape that the client reads.

RAGFlow takes whatever it cannot read for a list of zeros, without a word: documents then come in no order at all.
So what does not fit is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from sys import float_info
from typing import Any

import msgspec

from gatepass.adapt.encoding import encoded
from gatepass.adapt.rerank.question import Asked

Entry = dict[str, msgspec.Raw]

_OBJECT: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)
_ENTRIES: msgspec.json.Decoder[list[Entry]] = msgspec.json.Decoder(list[Entry])
_LISTS = ("results", "data")
_SCORES = ("relevance_score", "score")


@dataclass(frozen=True, slots=True)
class Unfit:
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


def answer(reply: bytes, asked: Asked) -> bytes | Unfit:
    """`reply` as the client that asked for `asked` reads it; the same object where it is that already.

    It may come as `{"results": […]}`, `{"data": […]}` or a bare list, with `relevance_score` or `score`. At most
    `asked.top_n` results go on, the best ones; documents go with them where they were asked for and not otherwise.
    Members that nobody knows stay. Fewer results than documents are an answer, none at all is not.
    """
    try:
        document, name = _read(reply)
        listed = [_result(entry, asked.count) for entry in _entries(document, name)]
        _check(listed, asked)
    except _Misfit as fault:
        return Unfit(str(fault))
    entries = [_written(result, asked) for result in _best(listed, asked.top_n)]
    right_name = None if asked.is_tei else "results"
    if name == right_name and entries == [result.entry for result in listed]:
        return reply
    rest = {member: value for member, value in document.items() if member != (name or "")}
    try:
        return encoded(entries if asked.is_tei else {**rest, "results": entries})
    except ValueError:
        return Unfit("the reply is no text in UTF-8")


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


def _check(listed: list[_Result], asked: Asked) -> None:
    if not listed:
        raise _Misfit(f"it ranks none of {asked.count} documents")
    if len({result.index for result in listed}) < len(listed):
        raise _Misfit("it ranks a document twice")


def _best(listed: list[_Result], top_n: int | None) -> list[_Result]:
    if top_n is None or len(listed) <= top_n:
        return listed
    return sorted(listed, key=lambda result: -result.score)[:top_n]


def _written(result: _Result, asked: Asked) -> Entry:
    """The entry in the client's words; the very same members where it was that already."""
    score, other = ("score", "relevance_score") if asked.is_tei else ("relevance_score", "score")
    echo, foreign = ("text", "document") if asked.is_tei else ("document", "text")
    entry = {name: value for name, value in result.entry.items() if name not in (other, foreign)}
    entry[score] = result.written
    if asked.echoed is None:
        entry.pop(echo, None)
    elif not _is_echo(entry.get(echo), is_text=asked.is_tei):
        entry[echo] = _echo(asked.echoed[result.index], is_text=asked.is_tei)
    return entry


def _is_echo(said: msgspec.Raw | None, *, is_text: bool) -> bool:
    return said is not None and bytes(said).startswith(b'"' if is_text else b"{")


def _echo(document: bytes, *, is_text: bool) -> msgspec.Raw:
    """A document of the request: TEI's clients read it as a text, all others as `{"text": …}`."""
    if is_text or document.startswith(b"{"):
        return msgspec.Raw(document)
    return msgspec.Raw(b'{"text":%b}' % document)
