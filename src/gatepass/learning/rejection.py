"""Parse an upstream's error into the rejection that the matchers read. It rejects a request, not a token.

gatepass learns nothing from an error text that contains a text of the request. Otherwise a client that sends
`{"seed": "Unsupported parameter: 'seed'"}` could create a rule through an upstream that quotes it.
"""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote

from gatepass.errors import UpstreamError, UpstreamErrorReply
from gatepass.types import FINAL_CODES, TOO_LONG, TOO_LONG_TEXT, UpstreamErrorBody

BODY_BYTES = 3 << 19
"""Limit on the body to compare, in a thread for up to 50 ms. Above a limit, only `code` and `param` are used."""
MOST_ESCAPES = 10_000
"""Limit on the characters in the compared texts of one request that may begin an escape."""
MOST_SEPARATORS = 40_000
"""Limit on the commas and opening brackets of one body. The JSON parser takes up to 25 ms for so many values."""
MOST_ERROR_CHARS = 8_192
"""Limit on the error text to compare, with the JSON in it."""
BEGINNING_BYTES = 12
"""Folded bytes at the beginning of a text that count as the whole, because upstreams cut what they quote. The shortest
sentence that a matcher reads has as many."""
LONGEST_SHORT_CHARS = 64
"""Of a text that counts as a part of a sentence. Of a longer one the beginning counts."""
MOST_SHORT_CHARS = 40_000
"""Limit on the short texts of one request together, which are folded and compared in 25 ms."""
BEGINNING_CHARS = 2_048
"""Characters of a text in which its beginning is searched."""
BEGINNING_WORDS = 64
"""Words of a text in which its beginning is searched. Some upstreams remove blanks."""

_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+\[\]-]{0,64}\Z")
"""Names of members, models, roles and tools. They are not sentences, and upstreams use them in their own sentences."""
_ESCAPE = re.compile(
    r"(?<!\\)(?:(?:\\++[uU](?:[0-9a-fA-F]{8}|[0-9a-fA-F]{4}))+|(?:\\++x[0-9a-fA-F]{2})+|\\++[abfnrtv0])"
    r"|&(?:amp;)*(?:\#\d{1,7}|\#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,30});|(?:%(?:25)*[0-9a-fA-F]{2})+"
)
"""Starts only at the first of several backslashes: a search from each of 8,000 would take 1.4 s."""
_BEGINS_ESCAPE = re.compile(r"[\\&%]")
_CODE_POINT = re.compile(r"[uU]([0-9a-fA-F]{8}|[0-9a-fA-F]{4})")
_SEPARATOR = "\ufffc"
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_ESCAPED_PERCENT = re.compile("%(?:25)+(?=[0-9a-fA-F]{2})")
_PUNCTUATION = bytes(byte for byte in range(128) if not chr(byte).isalnum())


def texts_of(body: bytes) -> tuple[list[str], list[str]] | None:
    """Return the names and the strings of `body`, each in their order; None if it exceeds a limit or is not JSON."""
    # Commas and brackets inside strings count as well: a count without parsing is fast, and only errs on this side.
    if len(body) > BODY_BYTES or sum(map(body.count, (b",", b"{", b"["))) > MOST_SEPARATORS:
        return None
    try:
        # Objects as pairs, because parsers differ in which of two equal names they use. Integers as floats, because
        # to parse an integer takes time that is quadratic in its digits.
        pending = [json.loads(body, object_pairs_hook=list, parse_int=float)]
    except (ValueError, RecursionError):
        return None
    names, texts = list[str](), list[str]()
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            texts.append(one)
        elif isinstance(one, tuple):
            names.append(one[0])
            pending.append(one[1])
        elif isinstance(one, list):
            pending += reversed(one)
    return names, texts


def is_joined(texts: Iterable[str], error_text: str) -> bool:
    """Whether `error_text` contains 12 letters of the short ones of `texts`, joined in their order.

    Also true above a limit. A client spreads a sentence over several texts this way. Roles, and plain values of 12
    letters, do not count.
    """
    short = (text for text in texts if len(text) <= LONGEST_SHORT_CHARS and text not in _ROLES)
    parts = [text for text in short if len(text) < BEGINNING_BYTES or _PLAIN.match(text) is None]
    if sum(map(len, parts)) > MOST_SHORT_CHARS:
        return True
    return not _beginnings(folded(error_text)).isdisjoint(_beginnings(folded("".join(parts))))


def is_quoted(texts: Iterable[str], error_text: str) -> bool:
    """Whether `error_text` contains the beginning of one of `texts`, in any spelling.

    Also true above a limit. Names of members, models, roles and other plain values do not count.
    """
    if len(error_text) > MOST_ERROR_CHARS:
        return True
    beginnings = {
        " ".join(text.split(None, BEGINNING_WORDS)[:BEGINNING_WORDS])[:BEGINNING_CHARS]
        for text in texts
        if _PLAIN.match(text) is None
    }
    if sum(len(_BEGINS_ESCAPE.findall(text)) for text in beginnings) > MOST_ESCAPES:
        return True
    parts = _beginnings(folded(error_text))
    for text in beginnings:
        begins = folded(text)[:BEGINNING_BYTES]
        if begins in parts or (len(text) == BEGINNING_CHARS and len(begins) < BEGINNING_BYTES):
            return True
    return False


def _beginnings(text: bytes) -> set[bytes]:
    return {text[at : at + BEGINNING_BYTES] for at in range(len(text) - BEGINNING_BYTES + 1)}


def folded(text: str) -> bytes:
    """Return the letters and digits of `text`, without case and escapes, in UTF-8: the same for all its spellings."""
    text = _ESCAPE.sub(_unescaped, text)
    if not text.isascii():
        text = "".join(_INVISIBLE.sub("", text).split())  # Unicode has blanks that an error text shows as ASCII ones
    # `casefold` alone keeps letters that `upper` makes equal to plain ones, such as the dotless i
    return text.upper().casefold().encode("utf-8", "replace").translate(None, _PUNCTUATION)


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
_CODES = TAUGHT_CODES | {ZOD_CODE}
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

# Most patterns are texts, here and in the matchers: `re` compiles them at the first rejection, and keeps them. At the
# start they would take a twentieth of its time.
# Azure's content filter, and OpenAI for a model that requires a verified organization: no change of the form helps.
_NEVER_TEXT = r"(?i)content management policy|must be verified to use"
_WANTS_BACK = r"(?i)must be passed back|missing `?reasoning_content"
"""DeepSeek's thinking models require the reasoning that other upstreams reject."""
_OF_VALUES = (
    r"invalid_(?:value|type|enum|image|base64|json|role|url)\w*|missing(?:_\w+)?|\w+_(?:above|below)_(?:max|min)_\w+"
    r"|literal_error|enum|value_error|(?:greater|less)_than\w*|too_(?:long|short)|\w+_(?:type|parsing)"
)
"""Codes of OpenAI and pydantic for a wrong value. With them, text about an unknown member is a quoted value."""
_NO_PATHS = frozenset(("", "none", "null", "validation_error", "body", "request"))
"""Values of `param` that name no member (LiteLLM, Cerebras)."""
WORDS = r"(?:(?:['\"`][\w./:@+-]{1,100}['\"`]|[\w./@+-]++(?::[\w./-]++)*+(?:'s)?),? ){0,10}?"
"""Words with which an upstream's sentence may begin. Quotes contain one word at most, so a quoted sentence does not
match."""
_PREFIX = (
    r"(?i)<\d{3}>\s*|\[\d{1,6}\]\s*|\*\s+|HTTP(?:/[\d.]+)? \d{3}\b:?\s*|\d{3}\b:?\s+|error code: \d{3}\s*-?\s*"
    r"|invalid JSON payload received\.\s*|failed to deserialize[^:'\"\n]{0,80}:\s*"
    r"|'messages\.\d+' : for 'role:\w+' the following must be satisfied\[\("
    r"|provider returned error[.:]?\s+|error from provider \([\w .-]{1,40}\):\s*|[^'\":\n]{0,60}template:\s*[\"']?"
    r"|\{['\"](?:error|detail|message)['\"]: (?:\{['\"]message['\"]: )?['\"]"
    r"|\[\{(?:'type': '\w{1,40}', 'loc': \([^()]{0,80}\), )?'msg': ['\"]"
    r"|(?:[\w./-]{1,60}+ ){0,5}[\w.]{0,60}(?:error|exception|failed|request|validation|invalidparameter)(?:[:,]| -)\s*"
)
"""Prefixes that gateways and relays add to a sentence."""
_MOST_PREFIXES = 6
_PYTHON_LIST = r"(?:\d{1,3} validation errors?:?\s+)?\[?(?=\{'type': '\w{1,40}', 'loc': \()"
_PYTHON_DETAIL = r"'loc': \(([\w', -]{1,200})\), 'msg': (['\"])((?:(?!\2).){1,300})\2"
"""A detail of pydantic as Python prints it (vLLM). No value of a request contains a tuple outside its strings."""
_STEP = r"[\w-]+"
_PYTHON_TEXT = r"\d{1,3} validation errors? for \w{1,100}\n"
_TEXT_DETAIL = r"([\w.-]{1,200})\n\s*([^\n]{1,300}?) \[type="
_DETAIL = r"body(?:\.| -> )"
_NEXT_DETAIL = r"; (?=body\.)"
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
        values: Collection[str] = (),
    ) -> Self | None:
        """Return the rejection of the body `sent` with the header `values`; None if nothing may be learned from it.

        Nothing is learned from other statuses, from an error without a message, from NEVER_CODES, and from an error
        whose codes or JSON the body `sent` may have caused. Only `code` and `param` are used if the text quotes `sent`.
        """
        is_form = status in TEACHING or (status == OF_BATCHES and "input" in members)
        if error_body is None or not is_form:
            return None
        code, kind = (error_body.code or "").lower(), (error_body.kind or "").lower()
        relayed, inside = _relayed_text(error_body.raw), error_body.inside
        text = error_body.message if relayed is None else f"{error_body.message}\n{relayed}"
        shown = f"{text}\n{inside}"
        if code in NEVER_CODES or kind in NEVER_CODES or re.search(_NEVER_TEXT, text) is not None:
            return None
        found = texts_of(sent)
        names, texts = found or ([], [])
        if not _CODES.isdisjoint(map(str.lower, (*names, *texts))):
            return None  # the upstream may have returned an object of the request
        spread = (*(name for name in names if _NAME.match(name) is None), *texts)
        if found is None or is_quoted((*names, *texts, *values), shown) or is_joined(spread, shown):
            return None if inside else cls(members, f"{code}: {error_body.param}", code, kind, error_body.param)
        return cls(members, text, code, kind, error_body.param, error_body.raw, betas)

    @property
    def is_of_a_value(self) -> bool:
        """Whether its code means that a value is wrong, and not that a member is unknown."""
        return re.fullmatch(_OF_VALUES, self.code) is not None

    @property
    def path(self) -> str | None:
        return None if (self.param or "").strip().lower() in _NO_PATHS else path_from_error(self.param or "") or None

    def is_about(self, *tops: str) -> bool:
        """Whether it may be about one of these top-level members: `param` names one of them or no member."""
        return self.path is None or re.split(r"[.\[]", self.path, maxsplit=1)[0] in tops

    @property
    def sentences(self) -> tuple[str, ...]:
        """The message, and the text that a relay adds to it, without their prefixes, and each detail of a list."""
        relayed = _relayed_text(self.raw)
        parts = (self.text,) if relayed is None else (self.text.removesuffix(f"\n{relayed}"), relayed)
        return tuple(sentence for part in parts for sentence in _sentences(part))

    def opens(self, *patterns: str) -> re.Match[str] | None:
        """Return the match of the first of `patterns` with which a sentence begins."""
        found = (re.match(pattern, sentence) for pattern in patterns for sentence in self.sentences)
        return next((match for match in found if match is not None), None)

    @property
    def wants_reasoning(self) -> bool:
        """Whether the upstream requires reasoning that was dropped, although its sentence looks like the opposite."""
        return re.search(_WANTS_BACK, self.text) is not None


def is_too_long(error: UpstreamError) -> bool:
    """Whether the upstream reports that the conversation exceeds the model's context."""
    error_body = error.error_body if isinstance(error, UpstreamErrorReply) else None
    if error_body is None:
        return False
    codes = {(error_body.code or "").lower(), (error_body.kind or "").lower()}
    return not TOO_LONG.isdisjoint(codes) or TOO_LONG_TEXT.search(error_body.message) is not None


def _relayed_text(raw: Any) -> str | None:
    """Return the upstream's error text that a relay adds as a string: OpenRouter's `metadata.raw`."""
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    text = metadata.get("raw") if isinstance(metadata, dict) else None
    return text if isinstance(text, str) else None


def _sentences(text: str) -> list[str]:
    # Only pydantic's details and Gemini's lines are lists: any other line break may come from the client.
    if re.match(_DETAIL, text) is not None:
        return re.split(_NEXT_DETAIL, text)
    lines = [line for line in text.split("\n") if line.startswith(_LISTED)] if text.startswith(_LISTED) else [text]
    sentences: list[str] = []
    for line in lines:
        details: list[str] = []
        for _ in range(_MOST_PREFIXES):
            details = details or _python_details(line)
            if (prefix := re.match(_PREFIX, line)) is None:
                break
            line = line[prefix.end() :]
        sentences += [*details, line]
    return sentences


def _python_details(text: str) -> list[str]:
    """Return each detail of pydantic's errors in `text`, which begins with them in Python's spelling."""
    if re.match(_PYTHON_LIST, text) is not None:
        found = [(".".join(re.findall(_STEP, loc)), said) for loc, _, said in re.findall(_PYTHON_DETAIL, text)]
    elif (start := re.match(_PYTHON_TEXT, text)) is not None:
        found = re.findall(_TEXT_DETAIL, text[start.end() :])
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
