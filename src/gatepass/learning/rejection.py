"""A rejection as the matchers read it, and the rejections from which nothing is ever learned.

Values of a request that an upstream quotes in its error text: cut them out before anything is learned from the text.

Otherwise a client that sends `{"seed": "Unsupported parameter: 'seed'"}` teaches a rule where the upstream quotes it.
"""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote

from gatepass.errors import FINAL_CODES, UpstreamError, UpstreamErrorReply
from gatepass.types import ClientProtocol, UpstreamErrorBody

BODY_BYTES = 3 << 19
"""A longer body cannot be compared within the event loop's 50 ms: no error text teaches anything then."""
MOST_ESCAPES = 10_000
"""Characters in the strings of one request that may begin an escape."""
MOST_PARTS = 20_000
"""Strings, objects and lists of one request."""
MOST_SIGNS = 40_000
"""Commas and opening brackets of one body. The JSON parser needs up to 25 ms for so many values."""
MOST_STEPS = 100_000
"""Of comparisons, where text and values repeat one letter. Above these bounds nothing is learned from the text."""
EDGE_BYTES = 12
"""Folded bytes at the start or end of a value. The shortest sentence that a matcher reads has as many."""
INNER_BYTES = 24
"""Folded bytes from the middle of a value. Phrases of errors that are shorter stand in ordinary prompts too."""
SHORT_CHARS = 64
"""Longer strings of a list are not compared as one: an upstream that prints a list prints all of it."""
CUT = "…"
"""In place of a value: no matcher reads across it as a word."""

_QUOTED_STEP = INNER_BYTES - EDGE_BYTES + 1
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+\[\]-]{0,64}\Z")
"""Names of members, models, roles and tools: no sentence. Upstreams name them in sentences of their own."""
_ESCAPE = re.compile(
    r"(?:\\+[uU](?:[0-9a-fA-F]{8}|[0-9a-fA-F]{4}))+|(?:\\+x[0-9a-fA-F]{2})+|\\+[abfnrtv0]"
    r"|&(?:amp;)*(?:\#\d{1,7}|\#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,30});|(?:%(?:25)*[0-9a-fA-F]{2})+"
)
_BEGINS_ESCAPE = ("\\", "&", "%")
_CODE_POINT = re.compile(r"[uU]([0-9a-fA-F]{8}|[0-9a-fA-F]{4})")
_PARTS = (str, dict, list)
_COVERED = re.compile(rb"\x01+")
_PUNCTUATION = bytes(byte for byte in range(128) if not chr(byte).isalnum())


@dataclass(frozen=True, slots=True)
class Quoted:
    """The values of one request, folded (see `_folded`). A member's name that is not plain counts as a value too,
    because the client may have invented it."""

    values: tuple[bytes, ...]

    @classmethod
    def of(cls, body: bytes, labels: Collection[str] = ()) -> Self | None:
        """Return None for a body that cannot be compared: it is too long, or is not JSON.

        `labels` are plain strings that count as values all the same.
        """
        if len(body) > BODY_BYTES or sum(map(body.count, (b",", b"{", b"["))) > MOST_SIGNS:  # texts have some too
            return None
        values: list[bytes] = []
        escapes = MOST_ESCAPES
        try:
            for text in dict.fromkeys(_strings(json.loads(body, object_pairs_hook=_members), labels)):
                escapes -= sum(map(text.count, _BEGINS_ESCAPE))
                if escapes < 0:
                    return None
                value = _folded(text)
                if len(value) >= EDGE_BYTES:
                    values.append(value)
        except (ValueError, RecursionError, _TooMuch):
            return None
        return cls(tuple(values))

    def hold(self, label: str) -> bool:
        """Whether one of the values contains `label`, a code that an upstream states."""
        folded = _letters(label)
        return any(folded in value for value in self.values)

    def cut(self, text: str) -> str:
        """Return `text` with CUT for each value, and for each start, end or long part of one; linear in both."""
        folded, owners = _located(text)
        if len(folded) < EDGE_BYTES:
            return text
        try:
            covered = _Cover(folded).by(self.values)
        except _TooMuch:
            return CUT
        kept: list[str] = []
        end = 0
        for run in _COVERED.finditer(covered):
            first, last = owners[run.start()][0], owners[run.end() - 1][1]
            kept += [text[end:first], CUT]
            end = last
        return "".join([*kept, text[end:]])


class _TooMuch(Exception):
    """One of the bounds above is exceeded."""


class _Cover:
    """Which bytes of one folded text stand in a value."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._covered = bytearray(len(text))
        self._steps = 0
        self._places: dict[bytes, list[int]] = {}
        for at in range(len(text) - EDGE_BYTES + 1):
            self._places.setdefault(text[at : at + EDGE_BYTES], []).append(at)

    def by(self, values: tuple[bytes, ...]) -> bytearray:
        places = self._places
        for value in values:
            if self._text in value:
                return bytearray(b"\x01" * len(self._text))
            for offset, least in ((0, EDGE_BYTES), (len(value) - EDGE_BYTES, EDGE_BYTES)):
                self._extend(value, offset, least)
            for offset in range(_QUOTED_STEP, len(value) - EDGE_BYTES, _QUOTED_STEP):
                if value[offset : offset + EDGE_BYTES] in places:
                    self._extend(value, offset, INNER_BYTES)
        return self._covered

    def _extend(self, value: bytes, offset: int, least: int) -> None:
        """Cover each run of `least` bytes and more around value[offset : offset + EDGE_BYTES]."""
        text, covered = self._text, self._covered
        for place in self._places.get(value[offset : offset + EDGE_BYTES], ()):
            self._steps += 1
            if self._steps > MOST_STEPS:
                raise _TooMuch
            first, last = place, place + EDGE_BYTES
            if covered.find(0, first, last) < 0:
                continue
            before, after = offset, offset + EDGE_BYTES
            while first and before and text[first - 1] == value[before - 1]:
                first, before = first - 1, before - 1
            while last < len(text) and after < len(value) and text[last] == value[after]:
                last, after = last + 1, after + 1
            if last - first >= least:
                covered[first:last] = b"\x01" * (last - first)
            self._steps += last - first


def _members(pairs: list[tuple[str, Any]]) -> Any:
    """The object with these members; a list where a name stands twice, because readers differ in which they take."""
    members = dict(pairs)
    return members if len(members) == len(pairs) else [list(pair) for pair in pairs]


def _strings(document: Any, labels: Collection[str]) -> Iterator[str]:
    """Yield each string that could be a sentence or is one of `labels`, and short strings of one list as one."""
    pending = [document]
    for _ in range(MOST_PARTS):
        if not pending:
            return
        one = pending.pop()
        if isinstance(one, str):
            if _PLAIN.match(one) is None or one.lower() in labels:
                yield one
            continue
        if isinstance(one, dict):
            pending += one
        parts = [part for part in (one.values() if isinstance(one, dict) else one) if isinstance(part, _PARTS)]
        pending += parts
        if isinstance(one, list):
            short = [part for part in parts if isinstance(part, str) and len(part) <= SHORT_CHARS]
            if len(short) > 1:
                yield " ".join(short)
    raise _TooMuch


def _folded(text: str) -> bytes:
    """Return the letters and digits alone, in UTF-8, without case and escapes: all spellings of a text become one."""
    is_plain = not any(sign in text for sign in _BEGINS_ESCAPE)
    return _letters(text if is_plain else _ESCAPE.sub(_unescaped, text))


def _letters(text: str) -> bytes:
    return text.upper().casefold().encode("utf-8", "replace").translate(None, _PUNCTUATION)


def _located(text: str) -> tuple[bytes, list[tuple[int, int]]]:
    """Return `text` folded, with the place in `text` of each byte."""
    folded = bytearray()
    owners: list[tuple[int, int]] = []
    end = 0
    escapes = [(*found.span(), _unescaped(found)) for found in _ESCAPE.finditer(text)]
    for first, last, inside in [*escapes, (len(text), len(text), "")]:
        plain = [(at, at + 1, text[at]) for at in range(end, first)]
        for begin, stop, piece in [*plain, (first, last, inside)]:
            letters = _letters(piece)
            folded += letters
            owners += [(begin, stop)] * len(letters)
        end = last
    return bytes(folded), owners


def _unescaped(found: re.Match[str]) -> str:
    """What one match of `_ESCAPE` stands for."""
    text = found[0]
    if text[0] == "&":
        return html.unescape(f"&{text[1:].replace('amp;', '')}")
    if text[0] == "%":
        return unquote(text.replace("%25", "%"))
    kind = text.lstrip("\\")[0]
    if kind in "uU":
        units = [int(point, 16) for point in _CODE_POINT.findall(text)]
        points = "".join(chr(unit) for unit in units if unit <= sys.maxunicode)
        return points.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if kind == "x":
        octets = bytes.fromhex("".join(text.replace("\\", "").split("x")))
        try:
            return octets.decode()
        except UnicodeDecodeError:
            return octets.decode("latin-1")
    return " "


TAUGHT_CODES = frozenset(("unsupported_parameter", "unknown_parameter", "extra_forbidden", "unsupported_value"))
"""Codes of errors whose `param` is learned from."""
ZOD_CODE = "unrecognized_keys"
MOST_INSIDE_CHARS = 8_192
"""Of the JSON in a text: comparing it with the request takes time."""
TEACHING = frozenset((400, 422))
OF_BATCHES = 413
"""TEI's status for too many inputs."""

NEVER_CODES = FINAL_CODES | {
    *(
        "rate_limit_exceeded",
        "invalid_api_key",
        "model_not_found",
        "deploymentnotfound",
        "responsibleaipolicyviolation",
    ),
    *("token_expired", "invalid_token", "authentication_error", "permission_error"),
}
"""As `code` or `type`: the account, the model's name or what was said is at fault, and no change of form heals that."""

_NEVER_TEXT = re.compile(r"content management policy|must be verified to use", re.IGNORECASE)
_WANTS_BACK = re.compile(r"must be passed back|missing `?reasoning_content", re.IGNORECASE)
"""DeepSeek's thinking models miss what the rest refuses."""
_TOO_LONG_CODES = frozenset(("context_length_exceeded", "exceed_context_size_error"))
_TOO_LONG = re.compile(
    r"maximum context length|exceeds? the (?:available )?context (?:size|length|window)", re.IGNORECASE
)
_OF_VALUES = re.compile(
    r"invalid_(?:value|type|enum|image|base64|json|role|url)\w*|missing(?:_\w+)?|\w+_(?:above|below)_(?:max|min)_\w+"
    r"|literal_error|enum|value_error|(?:greater|less)_than\w*|too_(?:long|short)|\w+_(?:type|parsing)"
)
"""Codes of OpenAI and pydantic that tell of a value: then no member is unknown and no stream refused, and what reads
like it is a value that the message quotes."""
_NO_PLACES = frozenset(("", "none", "null", "validation_error", "body", "request"))
"""As `param` (LiteLLM, Cerebras): of no member."""
WORDS = r"(?:(?:['\"`][\w./:@+-]{1,100}['\"`]|[\w./@+-]++(?::[\w./-]++)*+(?:'s)?),? ){0,10}?"
"""What an upstream's own sentence may begin with: words of which none is in quotes with others."""
_PREFIX = re.compile(
    r"<\d{3}>\s*|\[\d{1,6}\]\s*|\*\s+|HTTP(?:/[\d.]+)? \d{3}\b:?\s*|\d{3}\b:?\s+|error code: \d{3}\s*-?\s*"
    r"|invalid JSON payload received\.\s*|failed to deserialize[^:'\"\n]{0,80}:\s*"
    r"|'messages\.\d+' : for 'role:\w+' the following must be satisfied\[\("
    r"|provider returned error[.:]?\s+|[^'\":\n]{0,60}template:\s*[\"']?"
    r"|\{['\"](?:error|detail|message)['\"]: (?:\{['\"]message['\"]: )?['\"]"
    r"|\[\{(?:'type': '\w{1,40}', 'loc': \([^()]{0,80}\), )?'msg': ['\"]"
    r"|(?:[\w./-]{1,60}+ ){0,5}[\w.]{0,60}(?:error|exception|failed|request|validation|invalidparameter)(?:[:,]| -)\s*",
    re.IGNORECASE,
)
"""What gateways and relays put before a sentence."""
_MOST_PREFIXES = 6
_DETAIL = re.compile(r"body(?:\.| -> )")
_NEXT_DETAIL = re.compile(r"; (?=body\.)")
_LISTED = "Invalid JSON payload received. "
_ROLES = frozenset(("system", "developer", "user", "assistant", "tool", "function"))
_INDEX_STEP = re.compile(r"[^.\[\]/\s]+")
_INDEX = re.compile(r"[0-9]+\Z|\*\Z")
_NAME = re.compile(r"[a-z_][a-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class UpstreamRejection:
    """`text` is the upstream's message, `code` and `kind` its own in lower case, `param` the place as it wrote it."""

    protocol: ClientProtocol
    text: str
    code: str = ""
    kind: str = ""
    param: str | None = None
    raw: Any = None

    @classmethod
    def of(
        cls, surface: ClientProtocol, status: int | None, error_body: UpstreamErrorBody | None, sent: bytes
    ) -> Self | None:
        """Return None where nothing may be learned: any other status, no words, NEVER_CODES, or an error that the
        body `sent` may have written. Values of `sent` are cut out of the text."""
        teaches = status in TEACHING or (status == OF_BATCHES and surface is ClientProtocol.EMBEDDINGS)
        if error_body is None or not teaches:
            return None
        code, kind = (error_body.code or "").lower(), (error_body.kind or "").lower()
        text = _with_quoted(error_body, str)
        if code in NEVER_CODES or kind in NEVER_CODES or _NEVER_TEXT.search(text) is not None:
            return None
        quoted = Quoted.of(sent, TAUGHT_CODES | {ZOD_CODE})
        inside = error_body.inside
        if quoted is None or len(inside) > MOST_INSIDE_CHARS:
            return None if inside else cls(surface, f"{code}: {error_body.param}", code, kind, error_body.param)
        if any(map(quoted.hold, TAUGHT_CODES & {code, kind})) or quoted.cut(inside) != inside:
            return None
        raw = error_body.raw
        if (said := _quoted(raw)) is not None:
            raw = {"metadata": {"raw": quoted.cut(said)}}
        elif quoted.hold(ZOD_CODE):
            raw = None
        return cls(surface, _with_quoted(error_body, quoted.cut), code, kind, error_body.param, raw)

    @classmethod
    def from_error(cls, surface: ClientProtocol, error: UpstreamError, sent: bytes) -> Self | None:
        """As `of`; None for an error that is not an upstream's refusal."""
        return (
            cls.of(surface, error.http_status, error.error_body, sent)
            if isinstance(error, UpstreamErrorReply)
            else None
        )

    @property
    def is_of_a_value(self) -> bool:
        """Whether its code says that a value is wrong, and not that a member is unknown."""
        return _OF_VALUES.fullmatch(self.code) is not None

    @property
    def path(self) -> str | None:
        """The Place that `param` names; None where it names none."""
        return None if (self.param or "").strip().lower() in _NO_PLACES else path_from_error(self.param or "") or None

    def is_about(self, *tops: str) -> bool:
        """Whether it may be about one of these members of the top level: `param` does not say otherwise."""
        return self.path is None or re.split(r"[.\[]", self.path, maxsplit=1)[0] in tops

    @property
    def sentences(self) -> tuple[str, ...]:
        """Where an upstream's own words begin: the message without what relays put before it, and each detail of
        a list. Whatever stands further on may be quoted, and then it is the client who speaks."""
        return tuple(sentence for part in self.parts for sentence in _sentences(part))

    def opens(self, *patterns: re.Pattern[str]) -> re.Match[str] | None:
        """The first of the `patterns` with which one of the sentences begins."""
        found = (pattern.match(sentence) for pattern in patterns for sentence in self.sentences)
        return next((match for match in found if match is not None), None)

    @property
    def parts(self) -> tuple[str, ...]:
        """The message, and what a relay quotes beside it."""
        quoted = _quoted(self.raw)
        return (self.text,) if quoted is None else (self.text.removesuffix(f"\n{quoted}"), quoted)

    @property
    def wants_reasoning(self) -> bool:
        """Whether it asks for reasoning that was left out: the opposite of what its words look like."""
        return _WANTS_BACK.search(self.text) is not None


def is_too_long(error: UpstreamError) -> bool:
    """Whether the upstream says that the conversation does not fit into the model's context."""
    error_body = error.error_body if isinstance(error, UpstreamErrorReply) else None
    if error_body is None:
        return False
    codes = {(error_body.code or "").lower(), (error_body.kind or "").lower()}
    return not _TOO_LONG_CODES.isdisjoint(codes) or _TOO_LONG.search(error_body.message) is not None


def _with_quoted(error_body: UpstreamErrorBody, cut: Callable[[str], str]) -> str:
    """The message, and behind it what a relay quotes beside it without it being JSON (OpenRouter's `metadata.raw`)."""
    quoted = _quoted(error_body.raw)
    message = cut(error_body.message)
    return message if quoted is None else f"{message}\n{cut(quoted)}"


def _quoted(raw: Any) -> str | None:
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    quoted = metadata.get("raw") if isinstance(metadata, dict) else None
    return quoted if isinstance(quoted, str) else None


def _sentences(text: str) -> list[str]:
    """pydantic's details and Gemini's lines are lists; any other line break may be the client's own."""
    if _DETAIL.match(text) is not None:
        return _NEXT_DETAIL.split(text)
    lines = text.split("\n") if text.startswith(_LISTED) else [text]
    return [_bare(line) for line in lines if len(lines) == 1 or line.startswith(_LISTED)]


def _bare(text: str) -> str:
    for _ in range(_MOST_PREFIXES):
        if (prefix := _PREFIX.match(text)) is None:
            break
        text = text[prefix.end() :]
    return text


def path_from_error(path: str) -> str:
    """The Place that an upstream means by `messages.[6].role`, `body.messages.2.assistant.name`, `/messages/*/content`.

    What stands behind a message's index and is no member (pydantic's name of the union's branch) is left out.
    """
    steps = _INDEX_STEP.findall(path)
    if steps[:1] == ["body"]:
        steps = steps[1:]
    told: list[str] = []
    for position, step in enumerate(steps):
        if _INDEX.match(step) is not None:
            told[-1:] = [f"{told[-1].removesuffix('[]')}[]"] if told else []
        elif _NAME.match(step) is not None and not _is_branch(steps, position):
            told.append(step)
    return ".".join(told)


def _is_branch(steps: list[str], position: int) -> bool:
    return position == 2 and steps[0] == "messages" and steps[position] in _ROLES
