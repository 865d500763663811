"""Find what an upstream's refusal points at: members, entries and values of the request that it refuses, and ten nouns.

What a refusal says is not read, so its language does not matter: a change that it points at is tried (`rows`).
Whether a change may be made is not the question here either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Self

import msgspec

from gatepass.dialects.hints import NO_PARAMS
from gatepass.errors import UpstreamError, UpstreamErrorReply
from gatepass.learning.meaning import DROPPED_WHOLE, LIMITS, NEVER, SAFE, SAFE_IN_MESSAGES, SAFE_IN_TOOLS, squashed
from gatepass.learning.quotes import MOST_ERROR_CHARS, Quotes, Sent, is_echo, is_repeated, sent_in, top_of
from gatepass.replies.error_body import ISSUES, PLACES, QUOTED, ZOD_CODE, reasons, unknown_keys
from gatepass.types import FINAL_CODES, SERVER_ERROR, TOO_LONG, TOO_LONG_TEXT, UpstreamErrorBody

OF_FAILURES = (404, SERVER_ERROR)
"""Statuses that teach only where a template (500) or a fault of the request's own history is the cause."""
TEACHING = frozenset((400, 422, *OF_FAILURES))
OF_BATCHES = 413
"""TEI's status for too many inputs."""
_TEMPLATE = r"(?i)jinja|chat.?template"
"""In a text with status 500, which llama.cpp sends for messages that the model's template rejects."""
_FAULTS: Mapping[str, str] = {
    "arguments": (
        r"(?is)(?!.*(?:\b(?:re(?:sponse|ply)|answer|upstream|backend|output|body(?!\W{1,3}messages)|config|generated|produced)\b|响应|返回|输出"
        r"|请求体))(?:(?=.*(?:argument|(?:tool|function).?call|参数|工具调用))"
        r".*(?:json|pars(?:e|ing)|decod|malformed|unterminated|\beof\b|解析)"
        r"|.*(?:\bline:? \d+,? column:? \d|\(char \d|\bat position \d|end.of.(?:json|input|data)|item(?: pair|s['\"])"
        r"|json(?:decode|: |\.exception| object must)|must be (?:a )?str|invalid character .{1,9} (?:looking|after)))"
    ),
    "tool_ids": (
        r"(?s)(?=.*(?i:pattern|match|length|alphanumeric|letters|digits|character|too long|a-z|长度|字符|字母|格式))"
        r".*(?:(?i:\bids?\b[\w ]{1,20}\b(?:tool|call))|(?i:tool|call|function|工具|调用)[\w .\[\]'\"`]{0,40}"
        r"(?:(?<![A-Za-z])[iI]|(?<=[a-z])I)[dD]s?(?![A-Za-z0-9]))"
    ),
}
"""What servers say of calls in the history, by the action that repairs them: of arguments that are no JSON or no text,
but not of another JSON, and of the form of ids. It may quote the request: only what has the fault is changed."""
NEVER_CODES = FINAL_CODES | {
    *("rate_limit_exceeded", "invalid_api_key", "model_not_found", "deploymentnotfound", "token_expired"),
    *("responsibleaipolicyviolation", "invalid_token", "authentication_error", "permission_error"),
}
"""Values of `code` or `type` for which nothing is tried: the account, the model name or the content is the cause."""
# These are compiled by the first refusal, not by the start.
_NEVER_CODE = r"polic|safety|moderat|sensitive|censor|guardrail|inspect|risk|prohibited|filter|content.?violation|block"
_NEVER_LABEL = r"(?i)\"[\w.$-]{0,40}(?:policyviolat|guardrail|content_?filter|block_?reason|new_sensitive|nsfw)"
"""In a name or a label anywhere in the error's document."""
_NEVER_TEXT = (
    r"(?i)polic(?:y|ies)|safety(?!_identifier)|unsafe|moderation|content.?(?:filter|audit|exists risk|violat)"
    r"|inappropriate|flagged|harmful|censor|guardrail|jailbreak|(?:was|is) blocked|blocked by|black.?list|hate speech"
    r"|self.?harm|violence|malicious|prompt injection|\bpii\b|security check|terms of (?:use|service)|usage guideline"
    r"|may contain sensitive|(?:illegal|prohibited|sensitive) (?:content|information|words)|by law"
    r"|must be verified to use|违[规法禁]|敏感|审核|不当|涉嫌|不良信息|风[险控]|合规|色情|暴力|恶意|安全检查"
    r"|new_sensitive|high risk|\bbanned|toxic|profan|sexual|nsfw|offensive|objectionable|abus(?:e|ive)"
    r"|ポリシー|不適切|정책|richtlinie|modération|不安全|不合适|内容安全|拦截|涉黄|社区规范"
)
"""A prompt that a filter refused is never sent again in another form. No change of the form verifies an account."""
_WANTS_BACK = r"(?i)must be passed back|missing `?reasoning_content|reasoning_content\W{1,3}is missing"
"""DeepSeek's thinking models require the reasoning that other upstreams reject."""
OF_NAMES = frozenset(("unsupported_parameter", "unknown_parameter", "extra_forbidden", ZOD_CODE))
"""Codes that mean that the upstream does not know the name of a member, so that its value does not matter."""
_CODES = OF_NAMES | {"unsupported_value"}
_NOUN = "(?:parameter|argument|field|property|option|参数|字段)"
_UNKNOWN_NAME = (
    rf"(?i)un(?:known|recogni[sz]ed) (?:request )?(?:name|key|{_NOUN})|extra(?:neous)? (?:inputs|fields|key)"
    r"|additional propert|unexpected keyword argument|property '[^']*' is unsupported|object literal may only specify"
)
"""What parsers write of a name that they do not know: Go's encoding/json, serde and protobuf (unknown field, name),
OpenAI and Azure (parameter, argument), Jackson and zod (unrecognized), pydantic (extra), ajv and Bedrock (additional,
extraneous), Python (keyword argument), Groq and Cerebras (property), TypeScript."""
_LISTS = (
    r"(?i)\bexpected\b|\bone of\b|\binstead\b|\b(?:known|accepted|allowed|permitted|valid|supported) (?!this)\w{3,}s\b"
    r"|(?<!不)支持的[值参]|可选值"
)
"""What follows is accepted, and was perhaps sent too."""
_ACCEPTED = r"(?<=\bshould be )(?:['\"][\w-]{1,40}['\"](?:, | or )?)+"

NOUNS: Mapping[str, str] = {
    name: rf"(?ia)(?:(?<![A-Za-z0-9_])|(?-i:(?<=[a-z])(?=[A-Z])))(?:{words})(?![A-Za-z0-9_])"
    for name, words in {
        "role": r"roles?|角色",
        "content": r"contents?|内容",
        "stream": r"(?:non-?)?stream[a-z]*|流式",
        "batch": r"batch(?:es)?|inputs|批",
        "tool": r"tools?|工具",
        "system": r"system|系统",
        "user": r"user|用户",
        "token": r"tokens?",
        "thinking": r"thinking|reasoning|思考",
        "empty": r"null|nil|none(?:type)?|empty|空",
    }.items()
}
"""Ten nouns for what has no name in the request, or an everyday one."""
_EVERYDAY = NEVER | frozenset(
    (
        *("user", "stop", "store", "name", "text", "type", "id", "status", "index", "cache", "include", "image"),
        *("images", "file", "files", "suffix", "echo", "audio", "metadata", "format", "function", "functions"),
        *("title", "system", "parameters", "properties", "arguments", "value", "schema", "description", "url"),
        *("detail", "data", "n", "strict", "instructions", "language", "size", "voice", "options", "timeout", "usage"),
        *("think", "tags", "priority", "reasoning", "thinking", "tools", "prediction"),
    )
)
"""Words of everyday sentences. They name a member in quotes, or beside a word such as `parameter`."""
_MARKED = rf"(?i)(?:['\"`“‘,./=\[(]|{_NOUN}s?[:：]?)\Z"
_MARKS = rf"(?i)['\"`”’\]=]|\s*(?:[:：]|{_NOUN}s?(?![a-z]))"
_IS_NAME = r"(?i)\b(?:tool|function|role) ['\"`“]?\Z"
"""Before the name that a client gave to something."""

_TEXT = r"'(?:[^'\\\n]|\\.|'(?!\s{0,40}[,)\]}]))*+'?|\"(?:[^\"\\\n]|\\.|\"(?!\s{0,40}[,)\]}]))*+\"?"
_HEAD = r"\{\s{0,40}(?:['\"]type['\"]:\s?['\"][\w.-]{1,60}['\"],\s{0,40})?['\"]loc['\"]:"
_DETAIL = (
    rf"{_HEAD}\s?((?s:.){{0,400}}?),\s{{0,40}}['\"]msg['\"]:\s?({_TEXT})"
    rf"(?:(?!{_HEAD})(?:.|\n(?=\s{{0,40}}[\"\]}}\d\[{{])))*"
)
"""A detail of pydantic, as Python or JSON writes it, with what may be the client's behind its message."""
_LOC = r"[\w$.-]+"
_KEY = r"['\"](?:message|msg|detail|error)['\"]: ?['\"]"
_ASIDE = (
    r"(?m)\b\d+ validation errors?(?: for [^\s\[]+(?:\[[^\n]{0,200}\]$)?)?|\bmodel='\w+', errors=|https?://\S+"
    r"|^ ?(?:File \"[^\"\n]*\", line \d+, in \S+|Endpoint:)(?:\s[A-Z]+ /\S*)?"
)
"""What validators write beside their messages: the name of a class, a link, a place of their own code."""
_AT = r"\"([\w$]{1,100})\" at '([^']{0,200})'"
_RAISED = r"(?i)(\btemplate: )(['\"])([^\"\n]{1,400}?)\2(?!\w)"
"""The sentence of a template that LM Studio quotes: a template raises its own words."""
_PLACE_ALONE = r"(?m)^([a-z_][\w.-]{0,200}(?:\[[^\n]{0,200}\][\w.-]{0,100})?)\n"
_BRANCH = r"\.[\w-]+\[(?!\d+\]).*?\](?=\.|$)"
"""A step of pydantic's own between those of a place."""
_COPY = r"\[type=.*|\(type=(?:value|type|assertion)_error.*"
"""The kind and the copy of the input that pydantic writes behind its message."""
_COMPARES = (
    r"(?i)(?:(?:less|smaller|lower|fewer|greater|larger|higher|more) than(?: or equal to)?|below|above|exceeds?"
    r"|[<>≤≥]=?|[小大低高少多]于(?:等于)?|超过)(?: the)?(?: value of)?\W{0,3}\Z"
)
_NAMED = r"(?a)[\w./:@+$\[\]*-]{0,100}|[\w.\[\]-]{1,60} ?[:=] ?[\w.-]{1,40}"
_SENTENCE = r"[\n;；。]|(?<=[.!?])\s+"
_NAME = r"(?a)[A-Za-z_][\w.\[\]*/-]*"
_STEP = re.compile(r"[^.\[\]/*]+")
_PLACE = r"(messages|tools|input|system)[\[./]{1,3}(\d{1,6})(?!\w)"
_NUMBER = (
    r"(?<![A-Za-z0-9_.-])(?<!code: )(?!(?<=<)\d+>)(\d{1,9})(?![A-Za-z0-9_-]|\.\d"
    r"| (?:requests (?:a|per)|images|characters|calls|seconds|minutes)\b)"
)
_COMMA = r"(?<!\[\d)(?<!\[\d\d)(?<!\[\d{3})(?<=\d),(?=\d{3}(?!\d))"
"""In a number, and not in a range such as [16,512]."""
_RANGE = r"(?<![\w.-])(\d{1,9})-(\d{1,9})(?![\w.-])"
_VALUE = (
    r"(?ia)['\"`“]([A-Za-z][\w-]{0,29})['\"`”]"
    r"|(?<![\w.-])(true|false|none(?! of\b)|-?\d{1,3}(?:\.\d+)?)(?![\w%]|\.\d|-\w)"
)
"""A value in quotes, or one that no word looks like."""
_BARE = r"(?i)true\Z|[-\d]|false\Z"
_WORD = r'"[A-Za-z][A-Za-z0-9_-]*"'
_EVERYDAY_VALUES = frozenset(("low", "medium", "high", "auto", "default", "none", "on", "off", "user", "all"))
"""Values that are words of everyday sentences, such as `Your credit balance is too low`. In quotes, or
beside the last part of their member's name, they are values."""
_IN_QUOTES = ("' '", '" "', "` `", "“ ”", "‘ ’", "「 」")
_ID = (
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<!\w)(?:\w*\d\w*|req_\w+)"
    r"|(?:(?<![A-Za-z])[iI][dD]|(?<=[a-z])I[dD])\W{1,4}\S{1,80}"
    r"|[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2}(?= \d)"
)
"""What differs between two errors that are the same: ids, times and counts. Starts only at the beginning of a word: a
search from each character of a long one would take 0.5 s."""
MOST_CHARS, MOST_SENTENCES, MOST_MENTIONS = 3_072, 200, 48
"""Limits on the text that is read, on its sentences, and on the members of one sentence."""
MOST_PATHS, MOST_POINTS = 20, 200
"""Limits on the members that one name may mean, and on the mentions in one error."""
BESIDE_CHARS = 100
"""How far before and behind a name the text is read that marks it or gives its value."""


def _told(detail: re.Match[str]) -> str:
    place = ".".join(re.findall(_LOC, detail[1])).removeprefix("body").strip(".")
    return f"\n{place and f'{place}: '}{detail[2][1:].rstrip(detail[2][0])}\n"


def plain(text: str) -> str:
    """Return `text` with each detail of a list as a sentence, and without quoted sentences, which may be a client's."""
    text = text.replace('\\"', '"').replace("\\'", "'").replace(" -> ", ".")
    text = re.sub(_RAISED, r"\1\n\3\n", re.sub(_DETAIL, _told, text))
    text = re.sub(_AT, r'"\2.\1"', re.sub(_KEY, "\n", re.sub(_ASIDE, "", re.sub(_COPY, "", text))))
    text = re.sub(_PLACE_ALONE, lambda found: f"{re.sub(_BRANCH, '', found[1])}: ", text)
    return re.sub(QUOTED, lambda found: found[0] if re.fullmatch(_NAMED, found[0][1:-1]) else "…", text)


def is_of_filter(error_body: UpstreamErrorBody, text: str) -> bool:
    """Whether an error with `text` may be of a filter or a policy: its request is never sent again in another form."""
    labels = ((error_body.code or "").lower(), (error_body.kind or "").lower())
    return (
        any(re.search(_NEVER_CODE, one) for one in labels if " " not in one)
        or re.search(_NEVER_LABEL, json.dumps(error_body.raw)) is not None
        or re.search(_NEVER_TEXT, text) is not None
    )


class Point(msgspec.Struct, frozen=True):
    """A member at which an error points: its `path`, and how a sentence spells it, from its start to its end.

    The sentence is -1 for `param`. `is_weak`: the word may be an everyday one, or stand in a list of what is accepted.
    """

    path: str
    sentence: int = -1
    start: int = 0
    end: int = 0
    is_weak: bool = False
    spelled: str = ""


def _steps(path: str) -> list[str]:
    return [squashed(step) for step in _STEP.findall(path) if not step.isdecimal()]


class _Names:
    """The members that may be named: those that were sent, and others that gatepass may set."""

    def __init__(self, sent: Collection[str], settable: Iterable[str]) -> None:
        self._by_name: dict[str, list[tuple[str, list[str]]]] = {}
        paths = dict.fromkeys((*sent, *settable))
        for path in paths:
            if steps := _steps(path):
                self._by_name.setdefault(steps[-1], []).append((path, steps))
        self._tops = {steps[0] for found in self._by_name.values() for _, steps in found}
        parts = [re.split(r"[\s_-]+", step) for path in paths for step in _STEP.findall(path)]
        self._begins = {squashed("".join(one[: size + 1])) for one in parts for size in range(len(one))}
        """What the first word of a mention is: a name, or its beginning up to a sign."""

    def find(self, spelled: str) -> tuple[str, ...]:
        """Return the paths that `spelled` may mean: a name, or a path with indices and names of unions."""
        steps = _steps(spelled)
        steps = steps[1:] if steps[:1] in (["body"], ["$"]) and len(steps) > 1 else steps
        if not steps:
            return ()
        if steps[0] in map(squashed, DROPPED_WHOLE):
            steps = steps[:1]
        while len(steps) > 1 and steps[-1] not in self._by_name:  # a value or an unknown part: thinking.type.enabled
            steps.pop()
        found = self._by_name.get(steps[-1], [])
        if steps == ["type"]:  # a word of sentences: of an object other than an entry of a list it needs the place
            found = [one for one in found if one[0].endswith("[].type")]
        exact = [path for path, named in found if named == steps]
        meant = exact or [path for path, named in found if len(steps) == 1 or self._is_meant(steps, named)]
        return tuple(meant[:MOST_PATHS])

    def _is_meant(self, spelled: list[str], path: list[str]) -> bool:
        left = iter(spelled)
        is_within = all(step in left for step in path) and (path[0] == spelled[0] or spelled[0] not in self._tops)
        return is_within or path[-len(spelled) :] == spelled or [step for step in path if step != "function"] == spelled

    def points(self, sentence: str, number: int) -> Iterator[Point]:
        """Yield what `sentence` names, in its order."""
        words, at, count = list(re.finditer(_NAME, sentence)), 0, 0
        listed = re.search(_LISTS, sentence)
        while at < len(words) and count < MOST_MENTIONS:
            if self._begins.isdisjoint(map(squashed, _STEP.findall(words[at][0]))):
                at += 1
                continue
            for size in range(min(3, len(words) - at), 0, -1):  # prose parts names: `parallel tool calls`
                start = words[at].start()
                end = start + len(sentence[start : words[at + size - 1].end()].rstrip("./-[*"))
                spelled = sentence[start:end]
                before, after = sentence[max(0, start - BESIDE_CHARS) : start], sentence[end : end + BESIDE_CHARS]
                is_cut = before.endswith("…") or after[:1] == "…"  # a part of a quote
                is_name = is_cut or re.search(_IS_NAME, before[-10:])
                if is_name or not re.fullmatch(r"[\w -]+|\S+", spelled) or not (paths := self.find(spelled)):
                    continue
                before = before.rstrip()
                is_marked = re.search(_MARKED, before) or (not before[-1:].isalpha() and re.match(_MARKS, after))
                is_listed = listed is not None and start > listed.start()
                is_weak = is_listed or (spelled.lower() in _EVERYDAY and not is_marked)
                yield from (Point(path, number, start, end, is_weak, spelled) for path in paths)
                count += 1
                break
            at += size


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal of a request, as the rows read it.

    - `members`: those that rules may change in requests of the operation (`Operation.members`).
    - `text`: the upstream's message, whole for the log; `sentences` are its parts that quote nothing.
    - `points`, `nouns`: what it points at. `places`: indices in lists of the request.
    - `not_values`: words that are no values for a member: names of others, and what the client wrote.
    - `is_exact`: a code, `param` or a path points.
    - `unknown`: the members whose names the upstream does not know, so that the value does not matter.
    - `faults`: the actions of _FAULTS that it names. `is_failure`: its status teaches nothing else.
    """

    members: frozenset[str]
    text: str = field(repr=False)
    code: str = ""
    param: str | None = None
    sent: Sent = field(default_factory=Sent, repr=False)
    sentences: tuple[str, ...] = field(default=(), repr=False)
    points: tuple[Point, ...] = ()
    not_values: frozenset[str] = frozenset()
    nouns: frozenset[str] = frozenset()
    places: frozenset[tuple[str, int]] = frozenset()
    is_exact: bool = False
    unknown: frozenset[str] = frozenset()
    faults: frozenset[str] = frozenset()
    is_failure: bool = False
    quotes: Quotes | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        members: frozenset[str],
        status: int | None,
        error_body: UpstreamErrorBody | None,
        body: bytes,
        values: Collection[str] = (),
        changed: Iterable[str] = (),
    ) -> Self | None:
        """Return what the refusal of `body` with the header `values` points at; None if nothing may be tried.

        Nothing is tried after other statuses, an error without a message, NEVER_CODES, and an error whose codes or JSON
        the body may have caused. Only `code` and `param` count if the text quotes the body. `changed` are paths that
        gatepass changed in it.
        """
        is_form = status in TEACHING or (status == OF_BATCHES and "input" in members)
        if error_body is None or not is_form:
            return None
        said = error_body.message[:MOST_CHARS]
        faults = frozenset(action for action, pattern in _FAULTS.items() if re.match(pattern, said))
        is_failure = status in OF_FAILURES and not (status == SERVER_ERROR and re.search(_TEMPLATE, said))
        if is_failure and (not faults or error_body.own):
            return None
        code, kind = (error_body.code or "").lower(), (error_body.kind or "").lower()
        more = (*islice(reasons(error_body.raw, places=PLACES), ISSUES), *unknown_keys(error_body.raw))
        said = plain(error_body.message)
        more = tuple(one for one in more if one not in said)
        text, inside = "\n".join(dict.fromkeys((error_body.message, *more))), error_body.inside
        text = text[: MOST_ERROR_CHARS + 1]  # of a longer one only `code` and `param` count
        if no_room(text) is None and not NEVER_CODES.isdisjoint((code, kind)):
            return None
        if is_of_filter(error_body, text):
            return None
        found = sent_in(body)
        sent = found or top_of(body)
        if not _CODES.isdisjoint(map(str.lower, (*sent.names, *sent.texts))):
            return None  # the upstream may have returned an object of the request
        # A tool's description may begin as a member is named. `Quotes` leaves out what stands whole in a text.
        unnamed = re.sub(r"[A-Za-z]\w{11,63}", lambda word: "…" if word[0] in sent.values else word[0], text + inside)
        texts = (*sent.names, *sent.texts, *values)
        is_quoting = found is None or is_echo(sent, text) or is_repeated(texts, unnamed)
        if is_quoting and inside:
            return None
        param = None if is_failure or (error_body.param or "").strip().lower() in NO_PARAMS else error_body.param
        shown = f"{code}: {param}" if is_quoting else text
        is_unread = is_quoting or is_failure
        quotes, read = (None, "") if is_unread else (Quotes(text, sent, values), plain(text)[:MOST_CHARS])
        sentences = tuple(one for one in re.split(_SENTENCE, read) if one.strip())[:MOST_SENTENCES]
        one = cls(members, shown, code, param, sent, sentences, faults=faults, is_failure=is_failure, quotes=quotes)
        return one.with_points(changed)

    def with_points(self, changed: Iterable[str]) -> Self:
        """Return the refusal with what its `param` and its sentences point at, `changed` as in `of`."""
        names = _Names(self.sent.values, (*SAFE, *LIMITS, "stream", *changed))
        quotes = self.quotes
        sentences = [re.sub(_ACCEPTED, lambda values: " " * len(values[0]), one) for one in self.sentences]
        told = [Point(path) for path in names.find(self.param or "")]
        mentions = (point for at, one in enumerate(sentences) for point in names.points(one, at))
        found = list(islice(mentions, MOST_POINTS))
        if quotes is not None:
            found = [one for one in found if not quotes.cover(one.spelled)]
        found = _without_places(found)
        if not told and (self.sent.values.keys() - NEVER).isdisjoint(one.path for one in found):
            found += [Point(path, is_weak=True) for path in self._hinted(names)]
        if told:  # the text may name others too, if it also names this one
            last = _steps(self.param or "")[-1]
            if all(_steps(one.path)[-1] != last for one in found):
                found = []
        spans = {(one.sentence, at) for one in found if not one.is_weak for at in range(one.start, one.end)}
        nouns = {
            noun
            for noun, pattern in NOUNS.items()
            for at, one in enumerate(sentences)
            for word in re.finditer(pattern, one)
            if (at, word.start()) not in spans and quotes is not None and not quotes.cover(word[0])
        }
        place_text = "\n".join((*sentences, self.param or ""))
        places = frozenset((name, int(index)) for name, index in re.findall(_PLACE, place_text))
        is_path = any("." in one.spelled for one in found)
        return replace(
            self,
            points=(*told, *found),
            not_values=frozenset(squashed(one.path.rpartition(".")[2]) for one in (*told, *found)) | self.sent.short,
            nouns=frozenset(nouns),
            places=places,
            is_exact=bool(told or is_path or places or self.code in _CODES),
            unknown=frozenset(
                one.path
                for one in (*told, *found)
                if (self.code in OF_NAMES and (one.sentence < 0 or not told))
                or (one.sentence >= 0 and re.search(_UNKNOWN_NAME, sentences[one.sentence]) is not None)
            ),
        )

    def _hinted(self, names: _Names) -> Iterator[str]:
        """Yield safe members of which the error has the last part of the name, or the value: penalty, "xhigh"."""
        for path in SAFE.intersection(self.sent.values):
            last = path.rpartition("_")[2]
            words = [last] if last != path and len(last) > len("type") else []
            for value in (one[1:-1] for one in self.sent.values[path] if re.fullmatch(_WORD, one)):
                marked = [f"{last} {value}", f"{value} {last}", *(marks.replace(" ", value) for marks in _IN_QUOTES)]
                words += marked if value.lower() in _EVERYDAY_VALUES else () if names.find(value) else (value,)
            if any(map(self.has_word, words)):
                yield path

    def has_word(self, word: str) -> bool:
        """Whether the error contains `word`, such as a value of the request, outside a quote of the request."""
        spelled = "[ _-]?".join(map(re.escape, re.split(r"[ _-]", word)))
        pattern = rf"(?<![A-Za-z0-9_-]){spelled}(?![A-Za-z0-9_-])"
        found = any(re.search(pattern, one, re.IGNORECASE) for one in self.sentences)
        return found and self.quotes is not None and not self.quotes.cover(word, is_value=True)

    def named(self, *, weak: bool = False) -> dict[str, Point]:
        """Return the members at which it points by their paths, in their order."""
        found = dict[str, Point]()
        for one in self.points:
            if weak or not one.is_weak:
                found.setdefault(one.path, one)
        return found

    def is_at(self, *ends: str) -> bool:
        """Whether it points at a member whose path ends with one of `ends`."""
        return any(f".{one.path}".replace("[]", "").endswith(tuple(f".{end}" for end in ends)) for one in self.points)

    def numbers(self) -> list[int]:
        """Return the whole numbers in its text."""
        text = re.sub(_RANGE, r"\1 \2", re.sub(_COMMA, "", "\n".join(self.sentences)))
        return [int(number) for number in re.findall(_NUMBER, text)]

    def values_behind(self, point: Point) -> list[str]:
        """Return the JSON of the values that its text names behind a member, without names of members."""
        behind = "" if point.sentence < 0 else self.sentences[point.sentence][point.end :][:BESIDE_CHARS]
        words = [quoted or bare for quoted, bare in re.findall(_VALUE, behind)]
        found = [word for word in words if squashed(word) not in self.not_values and word not in self.not_values]
        return list(dict.fromkeys(word.lower() if re.match(_BARE, word) else json.dumps(word) for word in found))

    def is_same(self, other: Refusal) -> bool:
        """Whether both errors say the same, apart from ids, times and counts, and point at the same."""
        is_alike = (self.param, self.places, self.code) == (other.param, other.places, other.code)
        is_alike = is_alike and self.named(weak=True).keys() == other.named(weak=True).keys()
        return is_alike and re.sub(_ID, "", self.text) == re.sub(_ID, "", other.text)

    @property
    def compared(self) -> frozenset[str]:
        """The numbers of the request that it compares with each other: which is wrong only the client knows."""
        numbers = {path for path, listed in self.sent.values.items() if all(re.match(r"-?\d", one) for one in listed)}
        return frozenset(
            path
            for one, other in pairwise(self.points)
            if {one.path, other.path} <= numbers and one.sentence == other.sentence >= 0
            if re.search(_COMPARES, self.sentences[one.sentence][one.end : other.start][-BESIDE_CHARS:])
            for path in (one.path, other.path)
        )

    @property
    def evidence(self) -> str:
        """Its text without the values of the request that may name a person, and without arguments of calls."""
        text = re.sub(QUOTED, "…", self.text) if self.faults else self.text
        shown = text.lower()
        texts = sorted((one for one in self.sent.personal if one and one.lower() in shown), key=len, reverse=True)
        pattern = rf"(?<!\w)(?:{'|'.join(map(re.escape, texts))})(?!\w)"
        return re.sub(pattern, "…", text, flags=re.IGNORECASE) if texts else text

    @property
    def signature(self) -> str:
        """Its text without digits, ids, times and quoted values, but with the members at which it points."""
        names = ",".join(sorted(self.named(weak=True)))
        return f"{self.code} {names} {re.sub(_ID, '', re.sub(QUOTED, '…', self.text))}"[:MOST_CHARS]

    @property
    def points_at_nothing(self) -> bool:
        meant = (one for one in self.points if not one.is_weak or one.path in self.sent.values)
        return not (self.param or self.nouns or self.places or any(meant))

    @property
    def wants_reasoning(self) -> bool:
        """Whether the upstream requires reasoning that was left out, although it points at it as if it were refused."""
        return re.search(_WANTS_BACK, self.text) is not None


def _without_places(points: list[Point]) -> list[Point]:
    """Leave out a list or an object that is named only as the place of one of its members."""
    named = {one.path for one in points}
    spelled = {one.path for one in points if "." in one.spelled}
    places = {path for path in named for other in named if other.startswith(f"{path}[].")}
    places |= {path for path in named - spelled if path.rpartition(".")[0] in named}
    return [one for one in points if one.path not in places]


def is_named(text: str, paths: Collection[str], words: str = "") -> bool:
    """Whether a sentence of `text` with `words` names a member at one of `paths`, and not as an everyday word."""
    names, sentences = _Names((), paths), re.split(_SENTENCE, plain(text)[:MOST_CHARS])[:MOST_SENTENCES]
    said = (one for one in sentences if re.search(words, one))
    return any(not point.is_weak for one in said for point in names.points(one, 0))


_REFUSES = (
    r"(?i)\b(?:un(?:supported|known|recogni[sz]ed|expected)|invalid|illegal|deprecated|disabled|only|remove|omit|extraneous"
    r"|extra (?:input|field|key|param|argument)s?|(?:must|should)(?: \w+)? (?:be|have|match|equal|contain)|out of range"
    r"|expected (?:an?|one|type|value|string|number)|exceeds [^.]*(?:max|limit|allow|range|\d{3})|(?:less|greater) than"
    r"|(?:can(?:no|')t|may not) be (?:used|set|sent|empty|null|combined|specified))\b"
    r"|(?:\bno|\bnot|n't)(?: \w+){0,2} (?:support|allow|permit|accept|recogni|valid|enabled)"
    r"|不(?:被?支持|合法|允许|能|可(?!用)|在允许)|未(?:知(?!错误|异常|原因)|支持)|非法|无(?:效(?!的?[响返令密])|法识别)|必须"
    r"|[只仅][能支]|取值|超[出过]|弃用"
)
_OF_SERVER = (
    r"(?i)\b(?:quota|capacity|traffic|demand|rate|limited|per (?:second|minute|hour|day)|[tr]pm\b|reached|remaining"
    r"|exhausted|used up|too many|concurren|queue|slot|credit|balance|billing|account|plan|(?<!model )group|channel"
    r"|licen[sc]e|certificate|auth|denied|api key|forbidden|load|over.?load|start|restart|wait|(?<!and try )again|retry"
    r"|soon|shortly|later|now|temporar|maintenance|busy|unavailable|unreachable|connect|host|proxy|could not"
    r"|time[sd]? ?out|crash|die|dead|kill|exit|abort|broken|interrupt|close|reset|lost"
    r"|(?<!validation )fail(?!ed to (?:deseriali|pars|decod))|traceback|exception|assert|internal(?!error\.algo)"
    r"|(?:server|system|runtime|invalid|un\w+)[ _](?:error|end|eof|state|status|reasons?|response|reply|result|answer"
    r"|token|cause|problem|fault|condition|instruction)\b|index out|operand|none ?type|nan\b|tensor|shape|disk"
    r"|read.only|computed|generated|produced|memory|cuda|nccl|[gnt]pu|kernel|sensor|device|worker|node|replica|thread)"
    r"|额度|[配余限]额|欠费|限流|频率|速率|每[分秒]|并发|繁忙|稍后|重试|等待|超时|连接|加载|启动|过载|[显内]存|崩溃|内部|系统"
    r"|(?<!校验)失败|(?<!参数)异常|服务(?:器|不可用|未)|权限|鉴权|认证|账[户号]"
)
"""Of faults of a server, of capacity and of accounts: an error with one may only happen to name a member."""


def refuses_member(error_body: UpstreamErrorBody, body: bytes) -> bool:
    """Whether an error, whose code and status say nothing, refuses a member of the request `body` by name.

    In doubt it does not: clients never repeat a 400.
    """
    said = " ".join(filter(None, (error_body.message, error_body.code, error_body.kind)))
    if re.search(_OF_SERVER, said) or re.search(_NEVER_TEXT, said) or not re.search(_REFUSES, said):
        return False
    sent = {*islice(top_of(body).values, MOST_POINTS)} - NEVER | {"stream", "messages[].role", "messages[].content"}
    paths = [*sent, *SAFE_IN_MESSAGES, *SAFE_IN_TOOLS]
    return bool(_Names((), paths).find(error_body.param or "")) or is_named(error_body.message, paths, _REFUSES)


def is_too_long(error: UpstreamError) -> bool:
    """Whether the upstream reports that the conversation exceeds the model's context."""
    error_body = error.error_body if isinstance(error, UpstreamErrorReply) else None
    if error_body is None:
        return False
    codes = {(error_body.code or "").lower(), (error_body.kind or "").lower()}
    return not TOO_LONG.isdisjoint(codes) or re.search(TOO_LONG_TEXT, error_body.message, re.IGNORECASE) is not None


_SUM = r"(?<!\d)(?:(?P<p>\d+) \+ (?P<a>\d+) > (?P<c>\d+)|(?P<A>\d+) > (?P<C>\d+) - (?P<P>\d+)|(\d+) < (\d+) \+ (\d+))"
_SIZE = (
    r"(?i)max_new_tokens`? must be <= (\d{2,9})"
    r"|(?:context (?:length|window|size|limit)|上下文)[^\d\n]{0,30}(\d{2,9})"
)
_PROMPT = (
    r"(?i)(\d{2,9}) (?:tokens )?(?:in|of|from) (?:\w{1,9} )?(?:messages|prompt|input)"
    r"|(\d{2,9}) `?(?:inputs?|prompt)`? tokens|(?:输入|提示)\D{0,12}(\d{2,9})"
)
_ANSWER = (
    r"(?i)(\d{1,9}) (?:tokens )?(?:(?:in|of|for) (?:the )?(?:completion|output|response)"
    r"|(?:output |completion |new |`?max_new_)tokens)|max_\w{0,20}tokens\W{0,3}(?:is too large: |of |=)?(\d{1,9})"
)


def no_room(text: str) -> tuple[int, int, int] | None:
    """Return the tokens of the prompt, the answer and the context if `text` says that only the prompt fits."""
    text = re.sub(_COMMA, "", text[:MOST_CHARS])
    if (found := re.search(_SUM, text)) is not None:
        sums = [int(number[:9]) for number in found.groups() if number]
        order = (0, 1, 2) if found["p"] else (2, 0, 1) if found["A"] else (1, 2, 0)
        prompt, answer, size = (sums[at] for at in order)
    else:
        counts = (re.search(pattern, text) for pattern in (_PROMPT, _ANSWER, _SIZE))
        prompt, answer, size = (0 if one is None else int(one[one.lastindex or 0]) for one in counts)
    return (prompt, answer, size) if 0 < prompt < size < prompt + answer else None
