"""Parse an upstream's error into the rejection that the matchers read. It rejects a request, not a token.

Request values that the upstream quotes are cut out of the error text first. Otherwise a client that sends
`{"seed": "Unsupported parameter: 'seed'"}` could create a rule through an upstream that quotes it.
"""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote

from gatepass.errors import UpstreamError, UpstreamErrorReply
from gatepass.types import FINAL_CODES, UpstreamErrorBody

BODY_BYTES = 3 << 19
"""Limit on the body to compare, which takes up to 50 ms, in a thread. Above a limit, nothing is learned."""
MOST_ESCAPES = 10_000
"""Limit on the characters in the strings of one request that may begin an escape."""
MOST_PARTS = 20_000
MOST_SEPARATORS = 40_000
"""Limit on the commas and opening brackets of one body. The JSON parser takes up to 25 ms for so many values."""
MOST_STEPS = 100_000
"""Limit on comparisons. A text and a value that repeat one letter need many."""
MOST_SHORT = 5_000
EDGE_BYTES = 12
"""Folded bytes at the start or end of a value that count as a quote. The shortest sentence that a matcher reads has
as many."""
INNER_BYTES = 24
"""Folded bytes from the middle of a value that count as a quote. Shorter phrases of errors occur in prompts too."""
SHORT_CHARS = 64
"""Up to this length, strings are also compared together: upstreams join the texts of a conversation and print whole
lists."""
CUT = "…"
"""Replaces a value: no matcher reads it as part of a word."""

_QUOTED_STEP = INNER_BYTES - EDGE_BYTES + 1
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+\[\]-]{0,64}\Z")
"""Names of members, models, roles and tools. They are not sentences, and upstreams use them in their own sentences."""
_ESCAPE = re.compile(
    r"(?<!\\)(?:(?:\\++[uU](?:[0-9a-fA-F]{8}|[0-9a-fA-F]{4}))+|(?:\\++x[0-9a-fA-F]{2})+|\\++[abfnrtv0])"
    r"|&(?:amp;)*(?:\#\d{1,7}|\#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,30});|(?:%(?:25)*[0-9a-fA-F]{2})+"
)
"""Starts only at the first of several backslashes: a search from each of 8,000 would take 1.4 s."""
_BEGINS_ESCAPE = ("\\", "&", "%")
_CODE_POINT = re.compile(r"[uU]([0-9a-fA-F]{8}|[0-9a-fA-F]{4})")
_PARTS = (str, dict, list)
_LABELS = frozenset(("text", "function", "image_url", "system", "developer", "user", "assistant", "tool"))
"""Types and roles. An upstream that joins the texts of a conversation leaves them out."""
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_ESCAPED_PERCENT = re.compile("%(?:25)+(?=[0-9a-fA-F]{2})")
_COVERED = re.compile(rb"\x01+")
_PUNCTUATION = bytes(byte for byte in range(128) if not chr(byte).isalnum())


@dataclass(frozen=True, slots=True)
class Quoted:
    """The folded values of one request: only their letters and digits, without case and escapes, in UTF-8.

    All spellings of a text fold to the same bytes. An unusual member name is a value too, because the client may have
    invented it.
    """

    values: tuple[bytes, ...] = field(repr=False)
    joined: tuple[tuple[bytes, ...], ...] = field(default=(), repr=False)
    """Groups of short values that an upstream may join: those of one object, and those of one member name."""

    @classmethod
    def of(cls, body: bytes, labels: Collection[str] = ()) -> Self | None:
        """Return the values of `body`, and the `labels` in it; None if it exceeds a limit or is not JSON."""
        # Commas and brackets inside strings count as well: a count without parsing is fast, and only errs on this side.
        if len(body) > BODY_BYTES or sum(map(body.count, (b",", b"{", b"["))) > MOST_SEPARATORS:
            return None
        values: list[bytes] = []
        groups: list[list[str]] = []
        escapes = MOST_ESCAPES
        try:
            # integers as floats, because to parse an integer takes time that is quadratic in its digits
            document = json.loads(body, object_pairs_hook=_members, parse_int=float)
            for text in dict.fromkeys(_strings(document, labels, groups)):
                begun = sum(map(text.count, _BEGINS_ESCAPE))
                escapes -= begun
                if escapes < 0:
                    return None
                value = _letters(_ESCAPE.sub(_unescaped, text) if begun else text)
                if len(value) >= EDGE_BYTES:
                    values.append(value)
        except (ValueError, RecursionError, _TooMuch):
            return None
        folded = [(_letters(_ESCAPE.sub(_unescaped, text)) for text in group) for group in groups if len(group) > 1]
        return cls(tuple(values), tuple(tuple(filter(None, group)) for group in folded))

    def hold(self, label: str) -> bool:
        """Whether one of the values contains `label`, an error code."""
        folded = _letters(label)
        return any(folded in value for value in self.values)

    def cut(self, text: str) -> str:
        """Replace each value in `text`, and each start, end or long part of one, by CUT; linear in both lengths."""
        folded, owners = _located(text)
        if len(folded) < EDGE_BYTES:
            return text
        try:
            covered = _Cover(folded).by(self.values, self.joined)
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
    """A value exceeds one of the limits above."""


class _Cover:
    """The bytes of one folded text that are part of a value."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._covered = bytearray(len(text))
        self._steps = 0
        self._positions: dict[bytes, list[int]] = {}
        for at in range(len(text) - EDGE_BYTES + 1):
            self._positions.setdefault(text[at : at + EDGE_BYTES], []).append(at)

    def by(self, values: tuple[bytes, ...], joined: tuple[tuple[bytes, ...], ...] = ()) -> bytearray:
        """Return one byte for each byte of the text: 1 if it is part of a value or of `joined` values, else 0."""
        positions = self._positions
        for group in joined:
            together, offset = b"".join(group), 0
            for value in group:  # an upstream may join only some of them, so each may be the first
                self._extend(together, offset, max(EDGE_BYTES, len(value) + 1))
                offset += len(value)
        for value in values:
            if self._text in value:
                return bytearray(b"\x01" * len(self._text))
            for offset, least in ((0, EDGE_BYTES), (len(value) - EDGE_BYTES, EDGE_BYTES)):
                self._extend(value, offset, least)
            for offset in range(_QUOTED_STEP, len(value) - EDGE_BYTES, _QUOTED_STEP):
                if value[offset : offset + EDGE_BYTES] in positions:
                    self._extend(value, offset, INNER_BYTES)
        return self._covered

    def _extend(self, value: bytes, offset: int, least: int) -> None:
        """Cover each run of at least `least` bytes around value[offset : offset + EDGE_BYTES]."""
        text, covered = self._text, self._covered
        for position in self._positions.get(value[offset : offset + EDGE_BYTES], ()):
            self._steps += 1
            if self._steps > MOST_STEPS:
                raise _TooMuch
            first, last = position, position + EDGE_BYTES
            if covered.find(0, first, last) < 0:
                continue  # covered already
            before, after = offset, offset + EDGE_BYTES
            while first and before and text[first - 1] == value[before - 1]:
                first, before = first - 1, before - 1
            while last < len(text) and after < len(value) and text[last] == value[after]:
                last, after = last + 1, after + 1
            if last - first >= least:
                covered[first:last] = b"\x01" * (last - first)
            self._steps += last - first


def _members(pairs: list[tuple[str, Any]]) -> Any:
    """Return an object with these members, or a list if a name occurs twice: parsers differ in which one they use."""
    members = dict(pairs)
    return members if len(members) == len(pairs) else [list(pair) for pair in pairs]


def _strings(document: Any, labels: Collection[str], groups: list[list[str]]) -> Iterator[str]:
    """Yield each string that may be a sentence or is one of `labels`, and add short strings to `groups`."""
    by_name: dict[str | None, list[str]] = {}
    pending: list[tuple[str | None, Any]] = [("", document)]
    for _ in range(MOST_PARTS):
        if not pending:
            groups += by_name.values()
            if sum(map(len, groups)) > MOST_SHORT:
                raise _TooMuch
            return
        name, one = pending.pop()
        if isinstance(one, str):
            if name is not None and _is_short(one):
                by_name.setdefault(name, []).append(one)
            if _PLAIN.match(one) is None or one.lower() in labels:
                yield one
            continue
        if isinstance(one, dict):
            pending += [(None, key) for key in one]  # a client may invent a name that reads like a sentence
            parts = [(key, part) for key, part in one.items() if isinstance(part, _PARTS)]
            if len(one) > 1:
                groups.append([part for _, part in parts if isinstance(part, str) and _is_short(part)])
                if any(_PLAIN.match(key) is None for key in one):  # no API has such a name: the client invented it
                    groups.append([key for key in one if _is_short(key)])
        else:
            parts = [(name, part) for part in one if isinstance(part, _PARTS)]
        pending += reversed(parts)
    raise _TooMuch


def _is_short(text: str) -> bool:
    return len(text) <= SHORT_CHARS and text not in _LABELS


def _letters(text: str) -> bytes:
    if not text.isascii():
        text = "".join(_INVISIBLE.sub("", text).split())  # Unicode has blanks that an error text shows as ASCII ones
    # `casefold` alone keeps letters that `upper` makes equal to plain ones, such as the dotless i
    return text.upper().casefold().encode("utf-8", "replace").translate(None, _PUNCTUATION)


def _located(text: str) -> tuple[bytes, list[tuple[int, int]]]:
    """Return `text` folded, with the start and end in `text` of what each folded byte comes from."""
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
    text = found[0]
    if text[0] == "&":
        return html.unescape(f"&{text[1:].replace('amp;', '')}")
    if text[0] == "%":
        return unquote(_ESCAPED_PERCENT.sub("%", text))
    kind = text.lstrip("\\")[0]
    if kind in "uU":
        units = [int(point, 16) for point in _CODE_POINT.findall(text)]
        points = "".join(chr(unit) for unit in units if unit <= sys.maxunicode)  # `chr` raises above it
        return points.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if kind == "x":
        octets = bytes.fromhex("".join(text.replace("\\", "").split("x")))
        try:
            return octets.decode()
        except UnicodeDecodeError:
            return octets.decode("latin-1")  # Python's `ascii` writes one octet for a Latin-1 character
    return " "


TAUGHT_CODES = frozenset(("unsupported_parameter", "unknown_parameter", "extra_forbidden", "unsupported_value"))
"""Error codes for which the matchers use `param`."""
ZOD_CODE = "unrecognized_keys"
MOST_INSIDE_CHARS = 8_192
"""Limit on JSON inside an error text, because comparing it with the request takes time."""
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
"""Values of `code` or `type` for which nothing is learned: the account, the model name or the content is the cause."""

# Azure's content filter, and OpenAI for a model that requires a verified organization: no change of the form helps.
_NEVER_TEXT = re.compile(r"content management policy|must be verified to use", re.IGNORECASE)
_WANTS_BACK = re.compile(r"must be passed back|missing `?reasoning_content", re.IGNORECASE)
"""DeepSeek's thinking models require the reasoning that other upstreams reject."""
_TOO_LONG_CODES = frozenset(("context_length_exceeded", "exceed_context_size_error"))
_TOO_LONG = re.compile(
    r"maximum context length|exceeds? the (?:available )?context (?:size|length|window)"
    r"|\b(?:prompt|input) is too long\b|exceeds the maximum number of tokens",
    re.IGNORECASE,
)
_OF_VALUES = re.compile(
    r"invalid_(?:value|type|enum|image|base64|json|role|url)\w*|missing(?:_\w+)?|\w+_(?:above|below)_(?:max|min)_\w+"
    r"|literal_error|enum|value_error|(?:greater|less)_than\w*|too_(?:long|short)|\w+_(?:type|parsing)"
)
"""Codes of OpenAI and pydantic for a wrong value. With them, text about an unknown member is a quoted value."""
_NO_PATHS = frozenset(("", "none", "null", "validation_error", "body", "request"))
"""Values of `param` that name no member (LiteLLM, Cerebras)."""
WORDS = r"(?:(?:['\"`][\w./:@+-]{1,100}['\"`]|[\w./@+-]++(?::[\w./-]++)*+(?:'s)?),? ){0,10}?"
"""Words with which an upstream's sentence may begin. Quotes contain one word at most, so a quoted sentence does not
match."""
_PREFIX = re.compile(
    r"<\d{3}>\s*|\[\d{1,6}\]\s*|\*\s+|HTTP(?:/[\d.]+)? \d{3}\b:?\s*|\d{3}\b:?\s+|error code: \d{3}\s*-?\s*"
    r"|invalid JSON payload received\.\s*|failed to deserialize[^:'\"\n]{0,80}:\s*"
    r"|'messages\.\d+' : for 'role:\w+' the following must be satisfied\[\("
    r"|provider returned error[.:]?\s+|error from provider \([\w .-]{1,40}\):\s*|[^'\":\n]{0,60}template:\s*[\"']?"
    r"|\{['\"](?:error|detail|message)['\"]: (?:\{['\"]message['\"]: )?['\"]"
    r"|\[\{(?:'type': '\w{1,40}', 'loc': \([^()]{0,80}\), )?'msg': ['\"]"
    r"|(?:[\w./-]{1,60}+ ){0,5}[\w.]{0,60}(?:error|exception|failed|request|validation|invalidparameter)(?:[:,]| -)\s*",
    re.IGNORECASE,
)
"""Prefixes that gateways and relays add to a sentence."""
_MOST_PREFIXES = 6
_PYTHON_LIST = re.compile(r"(?:\d{1,3} validation errors?:?\s+)?\[?(?=\{'type': '\w{1,40}', 'loc': \()")
_PYTHON_DETAIL = re.compile(r"'loc': \(([\w', -]{1,200})\), 'msg': (['\"])((?:(?!\2).){1,300})\2")
"""A detail of pydantic as Python prints it (vLLM). No value of a request contains a tuple outside its strings."""
_STEP = re.compile(r"[\w-]+")
_PYTHON_TEXT = re.compile(r"\d{1,3} validation errors? for \w{1,100}\n")
_TEXT_DETAIL = re.compile(r"([\w.-]{1,200})\n\s*([^\n]{1,300}?) \[type=")
_DETAIL = re.compile(r"body(?:\.| -> )")
_NEXT_DETAIL = re.compile(r"; (?=body\.)")
_LISTED = "Invalid JSON payload received. "
_ROLES = frozenset(("system", "developer", "user", "assistant", "tool", "function"))
_INDEX_STEP = re.compile(r"[^.\[\]/\s]+")
_INDEX = re.compile(r"[0-9]+\Z|\*\Z")
_NAME = re.compile(r"[a-z_][a-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class UpstreamRejection:
    """One rejection: `text` is the upstream's message, `code` and `kind` are in lower case, `param` is unchanged.

    `members`: those that rules may change in requests of the operation (`Operation.members`).
    """

    members: frozenset[str]
    text: str = field(repr=False)
    code: str = ""
    kind: str = ""
    param: str | None = None
    raw: Any = field(default=None, repr=False)
    betas: tuple[str, ...] = field(default=(), repr=False)
    """The values of `anthropic-beta` in the request, if rules may leave them out."""

    @classmethod
    def of(
        cls,
        members: frozenset[str],
        status: int | None,
        error_body: UpstreamErrorBody | None,
        sent: bytes,
        betas: tuple[str, ...] = (),
    ) -> Self | None:
        """Return the rejection without the values of the body `sent`; None if nothing may be learned from it.

        Nothing is learned from other statuses, from an error without a message, from NEVER_CODES, and from an error
        whose codes or JSON the body `sent` may have caused.
        """
        is_form = status in TEACHING or (status == OF_BATCHES and "input" in members)
        if error_body is None or not is_form:
            return None
        code, kind = (error_body.code or "").lower(), (error_body.kind or "").lower()
        text = _with_quoted(error_body, str)
        if code in NEVER_CODES or kind in NEVER_CODES or _NEVER_TEXT.search(text) is not None:
            return None
        quoted = Quoted.of(sent, TAUGHT_CODES | {ZOD_CODE})
        inside = error_body.inside
        if quoted is None or len(inside) > MOST_INSIDE_CHARS:
            # the message may quote the client, so only the code and `param` are used
            return None if inside else cls(members, f"{code}: {error_body.param}", code, kind, error_body.param)
        if any(map(quoted.hold, TAUGHT_CODES & {code, kind})) or quoted.cut(inside) != inside:
            return None
        raw = error_body.raw
        if (relayed := _relayed_text(raw)) is not None:
            raw = {"metadata": {"raw": quoted.cut(relayed)}}
        elif quoted.hold(ZOD_CODE):
            raw = None  # the client may have caused its list of names
        return cls(members, _with_quoted(error_body, quoted.cut), code, kind, error_body.param, raw, betas)

    @property
    def is_of_a_value(self) -> bool:
        """Whether its code means that a value is wrong, and not that a member is unknown."""
        return _OF_VALUES.fullmatch(self.code) is not None

    @property
    def path(self) -> str | None:
        return None if (self.param or "").strip().lower() in _NO_PATHS else path_from_error(self.param or "") or None

    def is_about(self, *tops: str) -> bool:
        """Whether it may be about one of these top-level members: `param` names one of them or no member."""
        return self.path is None or re.split(r"[.\[]", self.path, maxsplit=1)[0] in tops

    @property
    def sentences(self) -> tuple[str, ...]:
        """The message without the prefixes of relays, and each detail of a list."""
        return tuple(sentence for part in self.parts for sentence in _sentences(part))

    def opens(self, *patterns: re.Pattern[str]) -> re.Match[str] | None:
        """Return the match of the first of `patterns` with which a sentence begins."""
        found = (pattern.match(sentence) for pattern in patterns for sentence in self.sentences)
        return next((match for match in found if match is not None), None)

    @property
    def parts(self) -> tuple[str, ...]:
        """The message, and the text that a relay adds to it."""
        relayed = _relayed_text(self.raw)
        return (self.text,) if relayed is None else (self.text.removesuffix(f"\n{relayed}"), relayed)

    @property
    def wants_reasoning(self) -> bool:
        """Whether the upstream requires reasoning that was dropped, although its sentence looks like the opposite."""
        return _WANTS_BACK.search(self.text) is not None


def is_too_long(error: UpstreamError) -> bool:
    """Whether the upstream reports that the conversation exceeds the model's context."""
    error_body = error.error_body if isinstance(error, UpstreamErrorReply) else None
    if error_body is None:
        return False
    codes = {(error_body.code or "").lower(), (error_body.kind or "").lower()}
    return not _TOO_LONG_CODES.isdisjoint(codes) or _TOO_LONG.search(error_body.message) is not None


def _with_quoted(error_body: UpstreamErrorBody, cut: Callable[[str], str]) -> str:
    """Return the message, and on a new line the text that a relay adds to it."""
    relayed = _relayed_text(error_body.raw)
    message = cut(error_body.message)
    return message if relayed is None else f"{message}\n{cut(relayed)}"


def _relayed_text(raw: Any) -> str | None:
    """Return the upstream's error text that a relay adds as a string: OpenRouter's `metadata.raw`."""
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    text = metadata.get("raw") if isinstance(metadata, dict) else None
    return text if isinstance(text, str) else None


def _sentences(text: str) -> list[str]:
    # Only pydantic's details and Gemini's lines are lists: any other line break may come from the client.
    if _DETAIL.match(text) is not None:
        return _NEXT_DETAIL.split(text)
    lines = [line for line in text.split("\n") if line.startswith(_LISTED)] if text.startswith(_LISTED) else [text]
    sentences: list[str] = []
    for line in lines:
        details: list[str] = []
        for _ in range(_MOST_PREFIXES):
            details = details or _python_details(line)
            if (prefix := _PREFIX.match(line)) is None:
                break
            line = line[prefix.end() :]
        sentences += [*details, line]
    return sentences


def _python_details(text: str) -> list[str]:
    """Return each detail of pydantic's errors in `text`, which begins with them in Python's spelling."""
    if _PYTHON_LIST.match(text) is not None:
        found = [(".".join(_STEP.findall(loc)), said) for loc, _, said in _PYTHON_DETAIL.findall(text)]
    elif (start := _PYTHON_TEXT.match(text)) is not None:
        found = _TEXT_DETAIL.findall(text, start.end())
    else:
        return []
    return [f"{place}: {said}" for place, said in found]


def path_from_error(path: str) -> str:
    """Return the member path for a spelling such as `messages.[6].role`, `body.messages.2.role` or `/input/*/text`."""
    steps = _INDEX_STEP.findall(path)
    if steps[:1] == ["body"]:
        steps = steps[1:]
    names: list[str] = []
    for position, step in enumerate(steps):
        # After a message's index, pydantic writes the name of the union's branch. It is not a member of the body.
        is_branch = position == 2 and steps[0] == "messages" and step in _ROLES
        if _INDEX.match(step) is not None:
            names[-1:] = [f"{names[-1].removesuffix('[]')}[]"] if names else []
        elif _NAME.match(step) is not None and not is_branch:
            names.append(step)
    return ".".join(names)
