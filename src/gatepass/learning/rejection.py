"""Parse an upstream's error into the rejection that the matchers read. It rejects a request, not a token.

gatepass learns nothing from an error text that contains a text of the request. Otherwise a client that sends
`{"seed": "Unsupported parameter: 'seed'"}` could create a rule through an upstream that quotes it.
"""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Any, Self
from urllib.parse import unquote

from gatepass.config.routes import MEMBER_PATH
from gatepass.dialects.error_body import ISSUES, PLACES, reasons
from gatepass.errors import UpstreamError, UpstreamErrorReply
from gatepass.learning.learned_rule import SCALAR
from gatepass.learning.reader import EMPTY, SAFE, TAUGHT_CODES, Finding, no_room, read
from gatepass.types import FINAL_CODES, SERVER_ERROR, TOO_LONG, TOO_LONG_TEXT, UpstreamErrorBody

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
BEGINNING_CHARS = 2_048
"""Characters of a text in which its beginning is searched."""
BEGINNING_WORDS = 64
"""Words of a text in which its beginning is searched. Some upstreams remove blanks."""
NEAR_BYTES, MOST_PLACES = 8, 20
"""Folded bytes before or behind a member's name that show that it is quoted, and the places that are compared."""
MOST_PATHS = 500
"""Limit on the members of one request that an error may name."""
SHORT_CHARS = 32
"""Of the values that a rule may be limited to."""
_OPAQUE = frozenset(("parameters", "input_schema", "schema", "arguments", "properties", "metadata", "logit_bias"))
"""Clients choose the names in these."""

_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+|\[\]-]{0,128}\Z")
"""Names of members, models, roles and tools. They are not sentences, and upstreams use them in their own sentences."""
_HEX = "[0-9a-fA-F]"
_UNIT = rf"[uU](?:{_HEX}{{8}}|{_HEX}{{4}})"
_ESCAPE = re.compile(
    rf"\\(?<!\\\\)\\*+(?:{_UNIT}(?:\\++{_UNIT})*|x{_HEX}{{2}}(?:\\++x{_HEX}{{2}})*|[abfnrtv0])"
    rf"|&(?:amp;)*(?:\#\d{{1,7}}|\#[xX]{_HEX}{{1,6}}|[A-Za-z]\w{{1,30}});"
    rf"|%(?:25)*{_HEX}{{2}}(?:%(?:25)*{_HEX}{{2}})*"
)
"""Starts only at the first of several backslashes: a search from each of 8,000 would take 1.4 s.

Each alternative begins with a character: `re` then passes over 1.5 MB without one in 6 ms instead of 140 ms.
"""
_BEGINS_ESCAPE = re.compile(r"[\\&%]")
_CODE_POINT = re.compile(r"[uU]([0-9a-fA-F]{8}|[0-9a-fA-F]{4})")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_ESCAPED_PERCENT = re.compile("%(?:25)+(?=[0-9a-fA-F]{2})")
_PUNCTUATION = bytes(byte for byte in range(128) if not chr(byte).isalnum())


class _Number(str):
    """A number as the client wrote it. To parse an integer takes time that is quadratic in its digits."""

    __slots__ = ()


Texts = tuple[list[str], list[str], dict[str, str]]


def texts_of(body: bytes) -> Texts | None:
    """Return the names and the strings of `body` in order, and the JSON of short values by path, "" for other values.

    None if `body` exceeds a limit or is not JSON.
    """
    # Commas and brackets inside strings count as well: a count without parsing is fast, and only errs on this side.
    if len(body) > BODY_BYTES or sum(map(body.count, (b",", b"{", b"["))) > MOST_SEPARATORS:
        return None
    try:
        # Objects as pairs, because parsers differ in which of two equal names they use.
        document = json.loads(body, object_pairs_hook=tuple, parse_int=_Number, parse_float=_Number)
    except (ValueError, RecursionError):
        return None
    names, texts, sent = list[str](), list[str](), dict[str, str]()
    pending: list[tuple[str | None, str | None, Any]] = [("", None, document)]
    while pending:
        path, name, one = pending.pop()
        if name is not None:
            names.append(name)
            inner = f"{path}.{name}" if path else name
            most = MOST_PATHS if path else 2 * MOST_PATHS  # schemas of tools leave room for the top level
            is_shown = path is not None and len(sent) < most and MEMBER_PATH.match(inner) is not None
            if is_shown and sent.get(inner) not in EMPTY:  # one that is empty is enough
                value = _short(one)
                sent[inner] = value if value in EMPTY or sent.get(inner, value) == value else ""
            is_opaque = name in _OPAQUE or (name == "input" and path)
            path = inner if is_shown and not is_opaque else None
        if isinstance(one, tuple):
            pending += ((path, name, value) for name, value in reversed(one))
        elif isinstance(one, list):
            each = None if path is None else f"{path}[]"
            pending += ((each, None, value) for value in reversed(one))
        elif type(one) is str:
            texts.append(one)
    return names, texts, sent


def _short(value: Any) -> str:
    if value is None or value == []:
        return json.dumps(value)
    is_small = isinstance(value, bool) or (isinstance(value, str) and len(value) <= SHORT_CHARS)
    text = "" if not is_small else str(value) if isinstance(value, _Number) else json.dumps(value)
    return text if SCALAR.match(text) else ""


def is_repeated(texts: Iterable[str], error_text: str) -> bool:
    """Whether `error_text` contains the beginning of one of `texts`, in any spelling. Also true above a limit.

    Names of members, models, roles and other plain values do not count.
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
    parts = _beginnings(letters_of(error_text))
    for text in beginnings:
        begins = letters_of(text)[:BEGINNING_BYTES]
        if begins in parts or (len(text) == BEGINNING_CHARS and len(begins) < BEGINNING_BYTES):
            return True
    return False


def _beginnings(text: bytes) -> set[bytes]:
    return {text[at : at + BEGINNING_BYTES] for at in range(len(text) - BEGINNING_BYTES + 1)}


def letters_of(text: str) -> bytes:
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


ZOD_CODE = "unrecognized_keys"
_CODES = TAUGHT_CODES | {ZOD_CODE}
TEACHING = frozenset((400, 422, 500))
_TEMPLATE = r"(?i)jinja|chat.?template"
"""In a text with status 500, which llama.cpp sends for messages that the model's template rejects."""
OF_BATCHES = 413
"""TEI's status for too many inputs."""

NEVER_CODES = FINAL_CODES | {
    *("rate_limit_exceeded", "invalid_api_key", "model_not_found", "deploymentnotfound", "token_expired"),
    *("responsibleaipolicyviolation", "invalid_token", "authentication_error", "permission_error"),
}
"""Values of `code` or `type` for which nothing is learned: the account, the model name or the content is the cause."""

# OpenAI's sentences, the first from Azure's content filter: no change of the form helps.
_NEVER_TEXT = r"(?i)content management policy|must be verified to use"
_WANTS_BACK = r"(?i)must be passed back|missing `?reasoning_content|reasoning_content\W{1,3}is missing"
"""DeepSeek's thinking models require the reasoning that other upstreams reject."""
_NO_PATHS = frozenset(("", "none", "null", "validation_error", "body", "request"))
"""Values of `param` that name no member (LiteLLM, Cerebras)."""


@dataclass(frozen=True, slots=True)
class UpstreamRejection:
    """One rejection: `text` is the upstream's message, `code` and `kind` are in lower case, `param` is unchanged.

    `members`: those that rules may change in requests of the operation (`Operation.members`). `sent` has the short
    values of the request by path, None if it is too large to read.
    """

    members: frozenset[str]
    text: str = field(repr=False)
    code: str = ""
    param: str | None = None
    betas: tuple[str, ...] = field(default=(), repr=False)
    """The values of `anthropic-beta` in the request, if rules may leave them out."""
    sent: Mapping[str, str] | None = field(default=None, repr=False)
    findings: tuple[Finding, ...] = field(default=(), repr=False)

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
        if status == SERVER_ERROR and re.search(_TEMPLATE, error_body.message) is None:
            return None
        code, kind = (error_body.code or "").lower(), (error_body.kind or "").lower()
        more = (*islice(reasons(error_body.raw, places=PLACES), ISSUES), *_unknown_keys(error_body.raw))
        text, inside = "\n".join(dict.fromkeys((error_body.message, *more))), error_body.inside
        is_answer_too_long = no_room(text) is not None
        if not is_answer_too_long and not NEVER_CODES.isdisjoint((code, kind)):
            return None
        if re.search(_NEVER_TEXT, text) is not None:
            return None
        found = texts_of(sent)
        names, texts, paths = found or ([], [], None)
        if not _CODES.isdisjoint(map(str.lower, (*names, *texts))):
            return None  # the upstream may have returned an object of the request
        param = None if (error_body.param or "").strip().lower() in _NO_PATHS else error_body.param
        # A tool's description may begin as a member is named. `read` leaves out what stands whole in a text.
        shown = f"{text}\n{inside}"
        unnamed = re.sub(r"[A-Za-z]\w{11,63}", lambda word: "…" if word[0] in (paths or ()) else word[0], shown)
        if found is None or is_repeated((*names, *texts, *values), unnamed):
            if inside:
                return None
            return replace(cls.read(members, "", code, param, betas, paths), text=f"{code}: {param}")
        return cls.read(members, text, code, param, betas, paths, names, (*texts, *values))

    @classmethod
    def read(
        cls,
        members: frozenset[str],
        text: str,
        code: str = "",
        param: str | None = None,
        betas: tuple[str, ...] = (),
        sent: Mapping[str, str] | None = None,
        names: Iterable[str] = (),
        texts: Iterable[str] = (),
    ) -> Self:
        """Return the rejection without findings whose words are among the `names` or `texts` of the request.

        It leaves out a member too that `text` names only beside letters of the `texts`, because it then quotes them.
        """
        findings = read(sent, (text,), param, code, SAFE)
        if any(one.span for one in findings):
            own = ["\n".join(names), "\n".join(texts)]
            is_long = sum(len(_BEGINS_ESCAPE.findall(said)) for said in own) > MOST_ESCAPES
            named, said = (b"", b"") if is_long else map(letters_of, own)
            whole, shown = named + said, letters_of(text)

            def is_own(one: Finding) -> bool:
                name = letters_of(one.path.rpartition(".")[2] or one.says)  # of a role
                if not name:  # of `_` nothing shows whether it is quoted
                    return True
                places = [
                    (left[-NEAR_BYTES:], right[:NEAR_BYTES]) for left, right in pairwise(shown.split(name, MOST_PLACES))
                ]
                is_quoted = bool(places) and all(
                    (len(left) == NEAR_BYTES and left + name in said)
                    or (len(right) == NEAR_BYTES and name + right in said)
                    for left, right in places
                )
                return is_long or is_quoted or letters_of(one.span) in whole

            findings = [one for one in findings if not one.span or not is_own(one)]
        return cls(members, text, code, param, betas, sent, tuple(findings))

    def is_about(self, *tops: str) -> bool:
        """Whether it may be about one of these top-level members: `param` names one of them or no member."""
        steps = [step for step in re.findall(r"[A-Za-z_]\w*", self.param or "") if step != "body"]
        return not steps or steps[0] in tops

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


def _unknown_keys(raw: Any) -> Iterator[str]:
    """Yield a sentence for each of zod's issues about unknown keys."""
    issues = raw if isinstance(raw, list) else raw.get("error") if isinstance(raw, dict) else None
    for issue in issues if isinstance(issues, list) else ():
        if isinstance(issue, dict) and issue.get("code") == ZOD_CODE and isinstance(keys := issue.get("keys"), list):
            path = issue.get("path")
            place = "".join(f"{step}." for step in path) if isinstance(path, list) else ""
            yield f"Unknown keys: {', '.join(f'`{place}{key}`' for key in keys)}"
