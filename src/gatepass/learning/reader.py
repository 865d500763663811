"""Read what an upstream's error says about a request: the one reader of rejections.

It is pure: the members that were sent and the error's texts, `param` and `code` become findings. It knows how English
and Chinese refuse something, and no upstream's sentences. Whether a change may be made is not its question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Says(StrEnum):
    REFUSED = "refused"
    VALUE = "value"
    """The value is refused, others may be accepted."""
    NEEDS = "needs"
    """Only the value `to` (JSON) is accepted."""
    NAMED = "named"
    """It is named in words that are not read, perhaps of another language."""
    EXCLUSIVE = "exclusive"
    """The member excludes `beside`, which is the more common one."""
    EMPTY = "empty"
    """It was sent as null or as an empty list, which means absent."""
    TOO_LARGE = "too_large"
    """`to` is the largest number of tokens."""
    STREAM = "stream"
    """The upstream requires the opposite of the `stream` that was sent."""
    DEVELOPER = "developer"
    SYSTEM = "system"
    """The role is refused."""
    NO_SYSTEM = "no_system"
    """Instructions in messages are refused in either role."""
    ALTERNATE = "alternate"
    SYSTEM_FIRST = "system_first"
    TEXT = "text"
    """The content of a message must be a string."""
    NO_NULL = "no_null"
    FILLED = "filled"
    """An empty text is refused."""
    TOOL_ID = "tool_id"
    SCHEMA = "schema"
    """The keyword `path` is refused in the schemas of tools."""
    BATCH = "batch"
    """`to` is the largest number of inputs, or a share of those that were sent."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What an error says of the member at `path`.

    `beside`: the other member without which it would be accepted. `span`: the words from which it was read. `to` of a
    refusal is "!" if it depends on what else the request has.
    """

    says: Says
    path: str = ""
    to: str = ""
    beside: str = ""
    span: str = field(default="", compare=False)


EMPTY = ("null", "[]")
"""Values that mean absent."""
NEVER = frozenset(("model", "messages", "input", "stream", "role", "content", "prompt", "query", "documents"))
"""A request without one of these has lost its meaning: no error advises to drop it."""
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_MEANING = NEVER | frozenset(
    (
        *("system", "instructions", "tools", "tool_choice", "functions", "function_call", "response_format", "text"),
        *("images", "image", "file", "files", "audio", "previous_response_id", "conversation", "texts", "top_n"),
        *LIMITS,
        *("stop", "stop_sequences", "n", "best_of", "logprobs", "top_logprobs", "suffix", "echo", "dimensions"),
        *("output_config", "voice", "language", "size", "container", "background", "extra_body"),
    )
)
SAFE = frozenset(
    (
        *("model_type", "temperature", "top_p", "top_k", "min_p", "do_sample", "samplers"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "seed"),
        *("user", "store", "metadata", "service_tier", "parallel_tool_calls", "max_tool_calls", "stream_options"),
        *("reasoning_effort", "reasoning", "reasoning_format", "reasoning_summary", "include_reasoning"),
        *("think", "thinking", "enable_thinking", "thinking_budget", "thinking_level", "thinking_config"),
        *("chat_template_kwargs", "num_ctx", "keep_alive", "verbosity", "truncation", "context_management"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "cache", "caching"),
        *("safety_identifier", "session_id", "request_id", "trace_id", "tags", "usage", "timeout", "priority"),
        *(
            "modalities",
            "prediction",
            "encoding_format",
            "include",
            "client_metadata",
            "text.verbosity",
            "output_config.effort",
        ),
    )
)
"""Known top-level members that may be dropped: they say how to answer, bill, cache or report, never what or for whom.
Of them a value that an error names may be set."""
SAFE_IN_MESSAGES = frozenset(
    f"messages[].{name}"
    for name in (
        *("reasoning_content", "reasoning", "reasoning_details", "thinking_blocks", "name", "annotations", "refusal"),
        *("audio", "function_call", "tool_calls", "tool_calls[].index"),
        *("provider_specific_fields", "tool_calls[].provider_specific_fields"),
        *("metadata", "status", "id", "timestamp", "timestamps"),
    )
) | {f"input[].{name}" for name in ("id", "status", "phase", "content[].annotations", "content[].logprobs")}
"""Members of messages, and of the input of a response, that may be dropped. RAGFlow and Open WebUI add members to
messages (litellm#30882)."""
SAFE_IN_TOOLS = frozenset(("tools[].strict", "tools[].function.strict", "tools[].eager_input_streaming"))
"""Members of tools that may be dropped. Agents send one in each tool. An upstream that does not know it enforces no
schema with it."""
_MEANT = re.compile(
    r"tool|function|guard|moderat|safe|filter|priva|pii|redact|anonym|mask|secur|retention|train|data|search|plugin"
    r"|knowledge|retriev|file|image|audio|video|document|citation|schema|format|json|mcp|logprob|raw|price|cost"
    r"|final_message|generation_prompt|predict|max_\w*tokens|allow|block|den[iy]|ban|confiden|compliance"
)
"""Parts of unknown names that say what a request is about, or what protects it."""
FLAG = re.compile(r"-?\d[\d.]*\Z|true\Z|false\Z|null\Z")
"""Values of unknown members that may be dropped. A text or an object may say anything."""


def _squashed(name: str) -> str:
    """Return a name without the signs that its spellings differ in: `max_tokens`, `maxTokens`, `max tokens`."""
    return re.sub(r"[\s_-]", "", name).lower()


_SAFE_NAMES, _MEANING_NAMES = (frozenset(map(_squashed, names)) for names in (SAFE, _MEANING))


def carries_meaning(path: str, value: str = "") -> bool:
    """Whether the answer to a request without the member at `path` with `value` (JSON) may answer another question."""
    top = _squashed(re.split(r"[.\[]", path, maxsplit=1)[0])
    if path in SAFE | SAFE_IN_MESSAGES | SAFE_IN_TOOLS or "cache_control" in path.split("."):
        return False
    if top in _SAFE_NAMES | _MEANING_NAMES:
        return top in _MEANING_NAMES
    return FLAG.match(value) is None or _MEANT.search(path.lower()) is not None


COMMON = (*LIMITS[1:], "temperature", "reasoning", "thinking", "top_p")
"""Of members that exclude each other the first one here stays, after those that carry meaning."""
TAUGHT_CODES = frozenset(("unsupported_parameter", "unknown_parameter", "extra_forbidden", "unsupported_value"))
"""Error codes that refuse `param`."""
VALUE_CODES = re.compile(
    r"invalid_(?:value|type|enum|image|base64|json|role|url)\w*|missing(?:_\w+)?|\w+_(?:above|below)_(?:max|min)_\w+"
    r"|literal_error|enum|value_error|(?:greater|less)_than\w*|too_(?:long|short)|\w+_(?:type|parsing)|empty_array"
)
"""Codes of OpenAI and pydantic for a wrong value. With them, a text about an unknown member is a quoted value."""

# --- the words ------------------------------------------------------------------------------------------------------


def _words(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_CHOICE = re.compile(r"(?:effort|verbosity|tier|summary|level|truncation|type)\Z")
"""Members with a few values, which an error may name in place of the member."""
_REFUSES = _words(
    r"\bnot\b|n't\b|\bcannot\b|\bno (?:longer|such)\b|\bun(?:supported|known|recogni[sz]ed|expected|available)\b",
    r"\bextra (?:input|field|key|parameter|propert)|\b(?:deprecated|removed|dropped|disabled|disallowed|forbidden)\b",
    r"\b(?:omit(?:ted)?|remove|drop|leave out|leave off|strip|delete|unset)\b|\black(?:s|ing)?\b",
    r"\b(?:no|without) (?:effect|support)\b",
    r"\b(?:retired|sunset|superfluous|redundant|surplus|stray|unwanted|frozen|absent)\b|\bget rid of\b|\bno handler\b",
    r"非法(?:的)?(?:字段|属性|成员)|下线|停用|不认|没有(?:实现|支持)",
    r"\b(?:meaningless|pointless)\b|\bnone of (?:them|these|those)\b",
    r"\b(?:property|parameter|field|key|member|argument)\b[^.,;]{0,20}\boutside\b",
    r"(?:不要|不应|不得|请勿|切勿|勿|无需|不必)[^，,。]{0,8}(?:传|携带|发送|包含|使用|设置|提供|指定|填)|去掉|删除",
    r"不在[^，,。]{0,6}(?:参数|字段|属性)",
    r"\b(?:prohibited|incompatible|obsolete|rejects?|rejected|refuses?|refused)\b",
    r"\bonly (?:be )?(?:allowed|supported|valid|available|permitted|used)\b",
    r"不(?:支持|被|允许|能|可|兼容|存在|接受|再|识别)|未知|无法|禁止|弃用|废弃|未(?:开放|启用|开通|支持|实现|提供)|多余|暂不|移除",
)
_WRONG = _words(
    r"\b(?:invalid|illegal|bad)\W+(?:\w+ )?(?:parameter|argument|field|key|option)|(?:无效|非法|错误)的?参数",
    r"参数\W{0,2}(?:值)?\W{0,2}(?:非法|无效|错误|不合法|有误)",
)
"""These refuse a value, perhaps with all others."""
_OTHER_VALUE = _words(
    r"\b(?:must|should|can only|needs? to|has to|have to) be\b|\bat (?:most|least)\b|\bexceeds?\b",
    r"\b(?:range|between|within|outside|expected|invalid|illegal)\b|\btoo (?:long|short|large|small|high|low|big)\b",
    r"\b(?:less|greater|smaller|larger|lower|higher|more|longer) than\b",
    r"取值|范围|之间|超(?:出|过)|过[长短大小高低]|无效|非法|有误|不合法",
    r"\bvalidation\b.{0,60}\bfailed\b|\bdisable\b",
)
"""These refuse one value."""
_FORCED = _words(r"(?:can ?not|can't) be (?:disabled|turned off)|(?:不能|无法|不可|不支持)关闭")
_COMPARED = re.compile(r"\bthan ['\"`]?\Z")
_MISSES = _words(
    r"\b(?:missing|(?<!to )(?<!['\"`])required(?! to be)|requires?)\b",
    r"must be (?:passed|provided|present|included|specified)",
    r"(?<!may )(?<!can )(?<!do )(?<!must )(?<!should )\bnot (?:been )?"
    r"(?:provided|found|specified|passed|present|set|given)\b",
    r"缺少|缺失|必填|必传|必须(?:提供|传|包含)",
)
"""Something was not sent. To send less does not help."""
_COMPLAINS = _words(
    _REFUSES.pattern,
    r"empty|null|none|\bnil\b|at least|minimum|too short|(?:must|should) be|expected|invalid|空",
)
_NO_NULL = _words(r"\b(?:null|nonetype|nil)\b|空值")
_NO_EMPTY_LIST = _words(r"empty (?:array|list)|too short|minitems|at least (?:1|one) item|空(?:数组|列表)")
_EXCLUDES = _words(
    r"\bboth\b|at the same time|simultaneous|mutually exclusive|\btogether\b|only one of|conjunction|combin",
    r"alongside|同时|互斥|二选一|只能.{0,6}(?:一个|其一|之一)",
)
_CONDITION = _words(
    r"\b(?:when|while|if|unless|with|without|for|during|in|on|because|since|as|after|by|under|through|via|to)\b"
)
_FIRST_CONDITION = _words(r"\s*(?:when|while|if|with|for|in|since)\b[^,，]*[,，]|\s*[当在][^,，]*?(?:时|下|中)[,，]?")
_ONLY_WHEN = _words(r"\bonly\b.*\b(?:when|if|with)\b", r"[仅只].{0,12}(?:时|下)")
_RANGE = _words(
    r"\b(?:above|below|over|under|beyond|(?:great|larg|high|small|low)er|less|more|longer|fewer)\b[^.]{0,8}?\d",
    r"\b(?:negative|positive|zero)\b|\brange\b|\bat (?:most|least)\b|\bbetween\b|\bgot\b",
    r"大于|小于|高于|低于|超过|范围",
)
"""A refusal with such words is of one value."""
_INNER = _words(
    r"\b(?:keys?|samplers?|token.?ids?|elements?|items?|entry|entries|values?)\W{1,3}\w|(?:元素|键)\W{0,3}\w"
)
"""What follows is a part of an object or a list."""
_AFTER = re.compile(r"\[type=.*")
"""The copy of the input that pydantic writes behind its message."""
_DEFAULT = _words(r"\bonly\b[^.]{0,40}\bdefault\b|[仅只].{0,12}默认")
"""All values but one are refused."""
_ACCEPTED = _words(
    r"\b(?:supported|allowed|accepted|valid|available|permitted|possible)\b:? (?:value|parameter|argument)s?\b",
    r"\b(?:supported|allowed|accepted|valid|available|permitted|possible)\b:? (?:option|field|key|tag|name|type)s?\b",
    r"\bvalid roles?\b",
    r"\b(?:is|are) not one of\b|\bone of\b|\bexpected\b|\b(?:must|should) be\b|(?<!not )\bpermitted:|\breceived\b",
    r"(?:but|,) got\b|\binstead\b|\btry\b|\[type=|(?<!不)支持的(?:值|参数)(?:为|有|包括|[:：])|[仅只]支持|可选值|取值",
)
"""What follows is accepted, or was sent."""
_LISTED = _words(
    r"\b(?:supported|allowed|valid|expected|accepted) (?:value|tag|option)s?(?: are| is| include)?:? *(.*)",
    r"one of:? *(.*)",
)
_VALUE = (
    r"['\"`“(]?(?a:(?<=['\"`“])([A-Za-z0-9_-]{1,30})|(true|false|none|auto|default|-?\d+(?:\.\d+)?))(?![\w.]*\w)"
    r"(?!\W*(?:\([^)]*\)\W*)?(?:or|to|and|[-~])\W|['\"`”]?\s*[,，、]\s*['\"`]?[\w-])"
)
_NEEDS = re.compile(
    r"['\"`”’]?\)?[:：,]?(?: \w+){0,4}? ?"
    r"(?:(?:must|may only|can only|should|has to) be|(?:restricted|fixed|limited) (?:to|at)"
    r"|only(?: (?:accepts?|supports?|allows?|the value))?"
    r"|(?:只能|必须|仅能|仅支持|只支持|应该?|请)(?:设置|设|取|传|是|为)*)"
    rf"(?: set| equal)?(?: to)?[:：]? ?{_VALUE}",
    re.IGNORECASE,
)
"""Behind the name of a member: the only value that it may have."""
_SET_TO = re.compile(rf"['\"`”’]? ?(?:to|=|为|成) ?{_VALUE}", re.IGNORECASE)
_SET = _words(
    r"(?:\bset|\buse|\bwith|\bonly (?:supports?|accepts?|allows?)|[仅只]支持|设置|设|将|把)(?: the)? ?['\"`“‘]?\Z"
)

_PENALTIES = ("frequency_penalty", "presence_penalty", "repetition_penalty")
_THOUGHT = ("thinking", "enable_thinking", "think", "reasoning", "reasoning_effort")
_PROSE: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("penalty", "penalties", "惩罚"), _PENALTIES),
    **dict.fromkeys(
        ("paralleltoolcalling", "parallelfunctioncalling", "parallelfunctioncalls", "并行工具调用"),
        ("parallel_tool_calls",),
    ),
    **dict.fromkeys(("functiontools", "functioncalling", "toolcalling", "tooluse", "工具"), ("tools",)),
    **dict.fromkeys(("structuredoutput", "structuredoutputs", "jsonschema", "jsonmode"), ("response_format",)),
    **dict.fromkeys(("maximumtokens", "maxoutputtokens", "maxnewtokens", "maxtokens"), LIMITS),
    "logprobabilities": ("logprobs", "top_logprobs"),
    "温度": ("temperature",),
    "种子": ("seed",),
    "推理强度": ("reasoning_effort",),
    **dict.fromkeys(("思考", "thinking", "thinkingmode", "thinkingbudget", "thinkinglevel", "reasoning"), _THOUGHT),
    "stopsequences": ("stop", "stop_sequences"),
}
"""How prose calls members."""
_PROSE_BEGINS = frozenset(word[:size] for word in _PROSE for size in range(3, len(word) + 1))
_EVERYDAY = NEVER | frozenset(
    (
        *("user", "stop", "store", "name", "text", "type", "id", "status", "index", "cache", "include", "image"),
        *("images", "file", "files", "suffix", "echo", "audio", "metadata", "format", "function", "functions"),
        *("title", "system", "parameters", "properties", "arguments", "value", "schema", "description", "url"),
        *("detail", "data", "n", "strict", "instructions", "language", "size", "voice", "options"),
    )
)
"""Words of everyday sentences. They name a member only in quotes, or beside a word such as `parameter`."""
_MARKED = _words(
    r"(?:['\"`“‘,./]|\b(?:parameter|argument|field|key|propert(?:y|ies)|member|option|supplied)s?(?:\(s\))?:?"
    r"|参数[:：]?|字段[:：]?|\b(?:parameter|argument|field|key|property|option)s?\b[^:]{0,60}:)\Z"
)
_MARKS = _words(r"['\"`”’]|=(?:true|false|\d)|\s*(?:[:：]|参数|字段|(?:parameter|argument|field)s?\b)")
_IS_REFUSED = re.compile(r" (?:is|are) (?:not |un)(?:supported|allowed|permitted|available|accepted)")
_IS_NAME = re.compile(r"(?i)\b(?:tool|function|role) ['\"`“]?\Z")
"""Before the name that a client gave to something."""
_IS_VALUE = _words(r"\bvalue:? ?['\"`]\Z")

# --- the text -------------------------------------------------------------------------------------------------------

_PYTHON_DETAIL = re.compile(r"'loc': \(([\w', -]{1,200})\), 'msg': (['\"])((?:(?!\2[\"',}\]]).){1,300})\2(?=[\"',}\]])")
"""A detail of pydantic as Python prints it (vLLM)."""
_LOC = re.compile(r"[\w-]+")
_KEY = _words(r"['\"](?:message|msg|detail|error)['\"]: ?['\"]")
_AT = re.compile(r"\"([\w$]{1,100})\" at '([^']{0,200})'")
_PLACE_ALONE = re.compile(r"^([a-z_][\w.\[\]]{0,200})\n", re.MULTILINE)
_QUOTED = re.compile(
    r"(?:(?<!\w)'|'(?=\s))[^']{1,400}(?:'(?!\w)|(?<=\s)')|\"[^\"]{1,400}\"|`[^`]{1,400}`|“[^”]{1,400}”"
    r"|‘[^’]{1,400}’|「[^」]{1,400}」"
)
_NAMED = re.compile(r"[\w./:@+$\[\]*-]{0,100}|[\w.\[\]-]{1,60} ?[:=] ?[\w.-]{1,40}", re.ASCII)
_SENTENCE = re.compile(r"[\n;；。]|(?<=[.!?])\s+")
_TOKEN = re.compile(r"[A-Za-z_][\w.\[\]*/-]*|[\u4e00-\u9fff]+", re.ASCII)
_STEP = re.compile(r"[^.\[\]/*]+")
DROPPED_WHOLE = frozenset(("metadata", "logit_bias", "stream_options"))
"""Objects dropped whole: clients choose the names in the first two, so their number has no limit."""


def plain(text: str) -> str:
    """Return `text` with each detail of a list as a sentence, and without quoted sentences, which may be a client's."""
    text = text.replace('\\"', '"').replace(" -> ", ".")
    text = _PYTHON_DETAIL.sub(lambda found: f"\n{'.'.join(_LOC.findall(found[1]))}: {found[3]}\n", text)
    text = _PLACE_ALONE.sub(r"\1: ", _AT.sub(r'"\2.\1"', _KEY.sub("\n", text)))
    return _QUOTED.sub(lambda found: found[0] if _NAMED.fullmatch(found[0][1:-1]) else "…", text)


def _steps(path: str) -> list[str]:
    return [_squashed(step) for step in _STEP.findall(path) if not step.isdecimal()]


def _is_part(words: Iterable[str], names: Iterable[str]) -> bool:
    return any(word != name and word.rstrip("s") in name for word in words for name in names)


@dataclass(frozen=True, slots=True)
class _Mention:
    start: int
    end: int
    paths: tuple[str, ...]


MOST_MENTIONS = 48
"""Limit on the members that are read from one sentence. Six tries change as many."""


class _Names:
    """The members that may be mentioned: those that were sent, and others that gatepass may set."""

    def __init__(self, sent: Iterable[str], settable: Iterable[str] = ()) -> None:
        self._sent = frozenset(sent)
        self._by_name: dict[str, list[tuple[str, list[str]]]] = {}
        for path in {*self._sent, *settable}:
            steps = _steps(path)
            self._by_name.setdefault(steps[-1], []).append((path, steps))
        self._tops = {steps[0] for found in self._by_name.values() for _, steps in found}
        parts = [re.split(r"[\s_-]+", step) for path in {*self._sent, *settable} for step in _STEP.findall(path)]
        self._begins = _PROSE_BEGINS.union(
            _squashed("".join(one[: size + 1])) for one in parts for size in range(len(one))
        )
        """What the first word of a mention is: a name, or its beginning up to a sign."""

    def find(self, spelled: str) -> tuple[str, ...]:
        """Return the paths that `spelled` may mean: a name, or a path with indices and names of unions."""
        steps = _steps(spelled)
        steps = steps[1:] if steps[:1] == ["body"] and len(steps) > 1 else steps
        if not steps:
            return ()
        if steps[0] in map(_squashed, DROPPED_WHOLE):
            steps = steps[:1]
        if len(steps) > 1 and steps[-1] not in self._by_name:  # its value is the last step: thinking.type.enabled
            steps.pop()
        found = self._by_name.get(steps[-1], [])
        if len(steps) == 1:
            whole = [path for path, named in found if len(named) == 1]
            return tuple(whole or (path for path, _ in found))
        exact = [path for path, named in found if named == steps]
        return tuple(exact or (path for path, named in found if self._is_meant(steps, named)))

    def _is_meant(self, spelled: list[str], path: list[str]) -> bool:
        left = iter(spelled)
        is_within = all(step in left for step in path) and (path[0] == spelled[0] or spelled[0] not in self._tops)
        return is_within or path[-len(spelled) :] == spelled or [step for step in path if step != "function"] == spelled

    def mentions(self, sentence: str) -> list[_Mention]:
        """Return the mentions in `sentence`, in their order."""
        found, words, at = list[_Mention](), list(_TOKEN.finditer(sentence)), 0
        while at < len(words) and len(found) < MOST_MENTIONS:
            if words[at][0].isascii() and self._begins.isdisjoint(map(_squashed, _STEP.findall(words[at][0]))):
                at += 1
                continue
            for size in range(min(3, len(words) - at), 0, -1):  # prose parts names: `parallel tool calls`
                start = words[at].start()
                end = start + len(sentence[start : words[at + size - 1].end()].rstrip("./-[*"))
                if paths := self._meant(sentence, start, end):
                    found.append(_Mention(start, end, paths))
                    break
            at += size
        # a member that is named literally wins over a word that translates to a part of its name
        named = {path for one in found if self.find(sentence[one.start : one.end]) for path in one.paths}
        found = [one for one in found if named.issuperset(one.paths) or not _is_part(one.paths, named)]
        # a list that is named with one of its members is a place, not a second member; so is a named object
        named = {path for one in found for path in one.paths}
        places = {path for path in named for other in named if other.startswith(f"{path}[].")}
        spelled = {path for one in found if "." in sentence[one.start : one.end] for path in one.paths}
        places |= {path for path in named - spelled if path.rpartition(".")[0] in named}
        return [one for one in found if not places.issuperset(one.paths)]

    def _meant(self, sentence: str, start: int, end: int) -> tuple[str, ...]:
        spelled, after = sentence[start:end], sentence[end : end + BESIDE_CHARS]
        before = sentence[max(0, start - BESIDE_CHARS) : start]
        if not spelled.isascii():
            if _TOKEN.fullmatch(spelled) is None:  # it would hide a name beside it
                return ()
            prose = next((names for word, names in _PROSE.items() if not word.isascii() and word in spelled), ())
            return tuple(path for name in prose for path in self.find(name))
        if not re.fullmatch(r"[\w ]+|\S+", spelled) or (
            _IS_VALUE.search(before) and " does not support" not in after[:18]
        ):
            return ()
        if _IS_NAME.search(before[-10:]) or before.endswith("…") or after.startswith("…"):  # a part of a quote
            return ()
        if spelled.lower() in _EVERYDAY:
            is_marked = _MARKED.search(before.rstrip()) or (_MARKS.match(after) and not before.rstrip()[-1:].isalpha())
            # no change follows from what carries meaning, only advice
            said = (spelled in _MEANING and _IS_REFUSED.match(after)) or _NEEDS.match(after)
            return self.find(spelled) if is_marked or (said and not before.strip()) else ()
        literal, last = self.find(spelled), _squashed(re.split(r"[./]", spelled)[-1])
        if not self._sent.isdisjoint(literal):
            return literal
        prose = tuple(path for name in _PROSE.get(last, ()) for path in self.find(name))
        return tuple(path for path in prose if path in self._sent) or literal or prose


MOST_SENTENCES = 200
"""Of one error that are read."""


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in _SENTENCE.split(text) if sentence.strip()][:MOST_SENTENCES]


# --- numbers --------------------------------------------------------------------------------------------------------

_NUMBER = r"(?<![A-Za-z0-9_.-])(\d{1,9})(?![A-Za-z0-9_-]|\.\d)"
_UPPER = _words(
    rf"[\[(（] ?-?\d+ ?[,，] ?{_NUMBER}|(?:between|from) \d+\D{{0,20}}? (?:and|to) {_NUMBER}(?! ?\(exclusive)",
    r"(?:at most|up to|no (?:more|greater|larger) than|(?:not|n't) (?:be )?(?:exceed|(?:larger|greater|more) than)"
    r"|(?:less|smaller)(?: than)? or equal to|<=|≤|\bmax(?:imum)?(?![\w_])|\blimit(?:ed to)?\b|最大|最多|上限|小于等于"
    rf"|不(?:能|得|可|应)?(?:超过|大于|高于))[^\d\n]{{0,40}}?{_NUMBER}|\d > {_NUMBER}",
)
_BELOW = _words(
    rf"(?:(?:lower|less|smaller|fewer) than|小于|低于) ?{_NUMBER}",
    rf"(?:between|from) \d+\D{{0,20}}? to {_NUMBER} ?\(exclusive",
)
LEAST_TOKENS = 16
"""A smaller number is not a limit of tokens. It may be a part of a model's name."""
_SUM = re.compile(r"(?P<p>\d+) \+ (?P<a>\d+) > (?P<c>\d+)|(?P<A>\d+) > (?P<C>\d+) - (?P<P>\d+)|(\d+) < (\d+) \+ (\d+)")
_SIZE = _words(
    r"max_new_tokens`? must be <= (\d{2,9})|context (?:length|window|size|limit)[^\d\n]{0,30}(\d{2,9})",
    r"上下文(?:长度|窗口)?[^\d\n]{0,15}(\d{2,9})",
)
_PROMPT = _words(
    r"(\d{2,9}) (?:tokens )?(?:(?:in|of|from) (?:the |your )?(?:messages|prompt|(?:text )?input))",
    r"(\d{2,9}) `?(?:inputs?|prompt)`? tokens|(?:输入|提示)\D{0,12}(\d{2,9})",
)
_ANSWER = _words(
    r"(\d{1,9}) (?:tokens )?(?:(?:in|for|of) (?:the )?(?:completion|output|response)|(?:output|completion|new) tokens)",
    r"(\d{1,9}) `?max_new_tokens",
    r"max_(?:completion_|new_)?tokens\W{0,3}(?:is too large: |of |=)?(\d{1,9})",
)


def _without_commas(text: str) -> str:
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)


def _first(found: re.Match[str] | None) -> int:
    return 0 if found is None else next(int(number) for number in found.groups() if number)


def _upper_bound(text: str, least: int = 1) -> tuple[int, str]:
    """Return the smallest number that `text` calls the largest one, with its words; 0 without one."""
    text = _without_commas(text)
    found = [(_first(one), one[0]) for one in _UPPER.finditer(text)]
    found += [(_first(one) - 1, one[0]) for one in _BELOW.finditer(text)]
    return min((one for one in found if one[0] >= least), default=(0, ""))


def no_room(text: str) -> tuple[int, int, int] | None:
    """Return the tokens of the prompt, the answer and the context if `text` says that only the prompt fits."""
    text = _without_commas(text[:MOST_CHARS])
    if (found := _SUM.search(text)) is not None:
        sums = [int(number[:9]) for number in found.groups() if number]
        prompt, answer, size = (
            sums[at] for at in ((0, 1, 2) if found["p"] else (2, 0, 1) if found["A"] else (1, 2, 0))
        )
    else:
        prompt, answer, size = (_first(pattern.search(text)) for pattern in (_PROMPT, _ANSWER, _SIZE))
    return (prompt, answer, size) if 0 < prompt < size < prompt + answer else None


def _token_limit(text: str) -> tuple[str, str] | None:
    """Return the largest number of tokens with its words. "!" behind it: it depends on the length of the prompt."""
    size = _SUM.search(text) or _SIZE.search(text)
    if size is not None:
        room = no_room(text)
        return None if room is None else (f"{room[2] - room[0]}!", size[0])
    most, words = _upper_bound(re.sub(r"(?i)\bmax_?(?:imum)?_?\w*tokens\b", "…", text), LEAST_TOKENS)
    return (str(most), words) if most else None


# --- messages and inputs --------------------------------------------------------------------------------------------

_ROLE = _words(r"(?<![\w-])(?:developer|system|user|assistant|tool|function)(?![\w-])")
_ROLE_WRONG = _words(
    _REFUSES.pattern, r"\bvalid role|invalid|incorrect|(?:must|should) be|expected|permitted|不正确|不合法|错误"
)
_TEXTS: tuple[tuple[Says, re.Pattern[str]], ...] = (
    (Says.ALTERNATE, _words(r"\b(?:roles?|messages?)\W[^.\n]{0,60}\b(?:must|should) alternate\b|角色.{0,6}交替")),
    (
        Says.SYSTEM_FIRST,
        _words(
            r"(?:\bsystem\b|系统)[^.。\n]{0,60}?(?:\b(?:beginning|first|start)\b|开头|最前|首位|第一|首条)",
            r"(?:multiple|more than one|only one|at most one|多个|多条|两条|一条)[^.。\n]{0,30}(?:\bsystem\b|系统)",
        ),
    ),
    (
        Says.FILLED,
        _words(
            r"\b(?:text|content|message)\b[^\n]{0,60}?\b(?:non-?empty|non-?whitespace"
            r"|(?:is|(?:can ?not|must not|can't|should not) be) (?:empty|blank)|have at least 1 character)\b"
            r"|\bcontent\b[^.\n]{0,60}?不能为空|\b(?:must|should) have (?:either )?content or tool"
        ),
    ),
    (
        Says.NO_NULL,
        _words(r"\bcontent\b[^.\n]{0,60}?(?:\bnull\b|\bnone\b|<nil>|field required|an array of objects)"),
    ),
    (
        Says.TEXT,
        _words(
            r"invalid type: sequence, expected a string|untagged enum \w*content|string\W{0,2} from array[^\n]*content",
            r"\bcontent\b[^\n]{0,80}?(?:(?:must|should) be|expected|of type|not in|应为|必须[是为])"
            r" ?(?:a )?(?:valid )?['\"]?(?:string|字符串)",
        ),
    ),
    (
        Says.TOOL_ID,
        _words(
            r"(?:tool.?(?:call|use).{0,12}?id|\bcall_id)\b.{0,240}?"
            r"(?:length of 9|9 characters|pattern|regular expression|too long|maximum length|at most \d+ char)"
        ),
    ),
)
_INPUTS = _words(
    r"\bbatch(?:es| ?size)?\b|too many inputs|array too long|批|条数|\d ?条|数组",
    r"\b(?:number|count) of (?:inputs|texts|documents|items)\b|\bitem count\b",
)
_TOO_MANY = _words(r"\b(?:split|divide)\b[^.\n]{0,40}\bbatches\b")
_TOKENS = _words(r"requested (\d[\d,]{0,15}) tokens, max (\d[\d,]{0,15}) tokens per request")
MOST_INPUTS = 100_000
"""Limit on a batch: a larger number in such a sentence is not a number of inputs. OpenAI accepts 2,048."""
FILL = 0.9
"""Part of the tokens per request to use, because inputs differ in length."""
PART = 25
"""Percent of the inputs that were sent, where an error says only that there are too many."""
MOST_CHARS = 3_072
"""Limit on the text that is read."""
BESIDE_CHARS = 100
"""How far before and behind a name the words are read that mark it or give its value: no text is read once a name."""


def read(
    sent: Mapping[str, str] | None,
    texts: Sequence[str],
    param: str | None = None,
    code: str = "",
    settable: Iterable[str] = (),
) -> list[Finding]:
    """Return what the error says, in the order of its sentences.

    `sent` has the JSON of short values by the paths of members, None if the request was too large to read. `param` is a
    path, and `settable` are names that need not have been sent.
    """
    text = "\n".join(map(plain, texts))[:MOST_CHARS]
    members = sent if sent is not None else dict.fromkeys(re.findall(r"\A[a-z_]{1,64}\Z", param or ""), "")
    findings = [*_about_messages(text), *_about_inputs(text, code), *_about_schemas(text)]
    found = _about_members(members, text, param, code, settable)
    solved = [one for one in found if one.says in (Says.NEEDS, Says.TOO_LARGE, Says.EMPTY)]
    known = {path for one in solved for path in (one.path, one.beside)}
    findings += [one for one in found if one.path not in known or one.says not in (Says.REFUSED, Says.VALUE)]
    if not findings and _MISSES.search(text) is None:
        names = _Names(members)
        named = [(line, path) for line in _sentences(text) for one in names.mentions(line) for path in one.paths]
        findings = [
            Finding(Says.NAMED, path, span=line) for line, path in named if not carries_meaning(path, members[path])
        ]
    return list(dict.fromkeys(findings))


def _about_messages(text: str) -> Iterator[Finding]:
    for says, pattern in _TEXTS:
        if (found := pattern.search(text)) is not None:
            while (shorter := pattern.search(text, found.start() + 1, found.end())) is not None:
                found = shorter
            yield Finding(says, span=found[0])
            return
    for line in filter(None, text.split("\n")[:MOST_SENTENCES]):
        said = _ACCEPTED.search(line)
        head, tail = (line, "") if said is None else (line[: said.start()], line[said.start() :])
        listed, *got = re.split(r"received|\bgot\b|\[type=", tail, maxsplit=1)
        named, accepted = ({role.lower() for role in _ROLE.findall(part)} for part in (" ".join((head, *got)), listed))
        is_list = "system" in accepted and not accepted.isdisjoint(("user", "assistant"))
        has_word = re.search(r"(?i)\broles?\b|角色", line) is not None
        wrong = _ROLE_WRONG.search(line)
        if wrong is None or not (has_word or is_list or (named and "messages" in line)):
            continue
        span = _covering(line, _ROLE.search(line) or wrong, wrong[0])
        if "developer" in named or not (named or "developer" in accepted or (accepted and "system" not in accepted)):
            yield Finding(Says.DEVELOPER, span=span)
        elif "system" in named and "system" not in accepted:
            yield Finding(Says.SYSTEM if re.search(r"['\"`]system", head) else Says.NO_SYSTEM, span=span)
        elif accepted and "system" not in accepted and not named:
            yield Finding(Says.NO_SYSTEM, span=span)


KEYWORDS = frozenset(
    (
        *("$schema", "$id", "$comment", "$anchor", "title", "default", "examples", "example", "deprecated", "readOnly"),
        *("writeOnly", "nullable", "strict", "additionalProperties", "unevaluatedProperties", "propertyNames"),
        *("format", "patternProperties", "minProperties", "maxProperties", "pattern", "minLength", "maxLength"),
        *("minItems", "maxItems", "uniqueItems", "minContains", "maxContains", "minimum", "maximum", "multipleOf"),
        *("exclusiveMinimum", "exclusiveMaximum", "contentEncoding", "contentMediaType"),
    )
)
"""Keywords of JSON Schema without which a schema accepts no less. The server of a tool checks its arguments itself."""
_IN_SCHEMA = _words(r"\btools?\b.*\bparameters\b|function_?declarations?|input_schema|json.?schema|\bschemas?\b")
_KEYWORD = re.compile(r"(?<=['\"`./])(\$?[A-Za-z]+)(?=['\"`])")


def _about_schemas(text: str) -> Iterator[Finding]:
    for sentence in _sentences(text):
        refusal = _REFUSES.search(sentence)
        if refusal is not None and _IN_SCHEMA.search(sentence) and _MISSES.search(sentence) is None:
            for word in _KEYWORD.finditer(sentence):
                if word[0] in KEYWORDS:
                    yield Finding(Says.SCHEMA, word[0], span=_covering(sentence, word, refusal[0]))


def _about_inputs(text: str, code: str) -> Iterator[Finding]:
    if (over := _TOKENS.search(text)) is not None:
        requested, most = (int(figure.replace(",", "")) for figure in over.groups())
        if 0 < most < requested:
            yield Finding(Says.BATCH, to=f"{max(1, int(100 * FILL * most / requested))}%", span=over[0])
    elif (found := _INPUTS.search(text)) is not None and 0 < (bound := _upper_bound(text))[0] <= MOST_INPUTS:
        yield Finding(Says.BATCH, to=str(bound[0]), span=_covering(text, found, bound[1]))
    elif (found := _TOO_MANY.search(text)) is not None:  # Mistral names no number
        yield Finding(Says.BATCH, to=f"{PART}%", span=found[0])
    # Zhipu's older API accepts one text. Its sentence names no list, only its code does (zhipuai-sdk-python-v4#7).
    elif code == "1214" and re.search(r"(?:input|prompt)\s*参数非法", text):
        yield Finding(Says.BATCH, to="1")


# --- members --------------------------------------------------------------------------------------------------------


def _about_members(
    sent: Mapping[str, str], text: str, param: str | None, code: str, settable: Iterable[str]
) -> list[Finding]:
    names = _Names(sent, (*settable, "stream"))
    said = [(sentence, names.mentions(sentence)) for sentence in _sentences(text)]
    mentioned = [path for _, mentions in said for one in mentions for path in one.paths]
    is_of_a_value = VALUE_CODES.fullmatch(code) is not None
    limits = [path for path in LIMITS if path in sent]
    most = _token_limit(text) if limits and (no_room(text) or not set(mentioned).isdisjoint(LIMITS)) else None
    refused, found = _refused(text), list[Finding]()
    if most is not None and set(mentioned).isdisjoint(LIMITS):  # "in the completion"
        found += [Finding(Says.TOO_LARGE, path, most[0], span=most[1]) for path in limits]
    for sentence, mentions in said:
        found += _of_values(sent, sentence, mentions, most, mentioned)
        if not is_of_a_value:
            found += _refusals(sent, sentence, mentions, refused, of_all=_DEFAULT.search(text) is not None)
    told = names.find(param) if param else ()
    # the text may name others too, if it also names this one
    if param and _steps(param)[-1:] not in (_steps(token)[-1:] for token in _TOKEN.findall(text)):
        found = [one for one in found if one.path in told or _steps(one.path)[-1:] == _steps(param)[-1:]]
    if param and told and not any(one.path in told or one.beside in told for one in found):
        is_unclear = bool(found) or _MISSES.search(text) is not None
        is_refusal = code in TAUGHT_CODES or not (is_of_a_value or is_unclear or not _REFUSES.search(text))
        # else it may refuse a value, in whatever language
        may_be_of_value = is_of_a_value or not (is_unclear or not text.strip())
        for path in told:
            if sent.get(path) in EMPTY:
                found.append(Finding(Says.EMPTY, path))
            elif path == "stream" and is_refusal:
                found.append(Finding(Says.STREAM, path))
            elif path in sent and is_refusal:
                is_inner = path in DROPPED_WHOLE and "." in param and not param.endswith("include_usage")
                found.append(Finding(Says.VALUE if is_inner else refused, path))
            elif path in sent and may_be_of_value and not carries_meaning(path, sent[path]):
                found.append(Finding(Says.VALUE, path))
    elif not found:
        found = _unnamed(sent, text)
    return found


def _unnamed(sent: Mapping[str, str], text: str) -> list[Finding]:
    """Return what an error says of members that it does not name: some parsers do not, and a relay may lose `param`."""
    kinds = [value for value, pattern in zip(EMPTY, (_NO_NULL, _NO_EMPTY_LIST), strict=True) if pattern.search(text)]
    found = [Finding(Says.EMPTY, path, span=text) for path, value in sent.items() if value in kinds and "." not in path]
    if found or (refusal := _REFUSES.search(text)) is None:
        return found
    return [
        Finding(Says.VALUE, path, span=_covering(text, at, refusal[0]))
        for path, value in sent.items()
        if _CHOICE.search(path) and not carries_meaning(path, value)
        if value[:1] == '"' and (at := re.search(rf"['\"`“]{value[1:-1]}['\"`”]", text)) is not None
    ]


def _refused(text: str) -> Says:
    """Whether other values are accepted: it lists two or more, or refuses "off". A single one is the default."""
    if _FORCED.search(text) is not None:
        return Says.VALUE
    found = _LISTED.search(text)
    listed = "" if found is None else re.split(r"\. |\n", found[1] or found[2] or "", maxsplit=1)[0]
    return Says.VALUE if len(re.split(r",| and | or |\|", listed)) > 1 else Says.REFUSED


def _of_values(
    sent: Mapping[str, str],
    sentence: str,
    mentions: list[_Mention],
    most: tuple[str, str] | None,
    mentioned: list[str],
) -> Iterator[Finding]:
    """Yield limits of tokens, members that were sent empty, and members that need a value."""
    complaint = _COMPLAINS.search(sentence)
    for one in mentions:
        for path in one.paths:
            if path in LIMITS and path in sent and most is not None:
                yield Finding(Says.TOO_LARGE, path, most[0], span=_covering(sentence, one, most[1]))
            if sent.get(path) in EMPTY and complaint is not None:
                yield Finding(Says.EMPTY, path, span=_covering(sentence, one, complaint[0]))
        behind = sentence[one.end : one.end + BESIDE_CHARS]
        before = sentence[max(0, one.start - BESIDE_CHARS) : one.start]
        is_set = _SET.search(before) is not None
        value = _NEEDS.match(behind) or (_SET_TO.match(behind) if is_set else None)
        word = re.split(r"[./]", sentence[one.start : one.end])[-1]
        if is_set and value is None and "." in sentence[one.start : one.end]:  # use "thinking.type.adaptive"
            span = sentence[one.start - 1 : one.end]
            yield from (
                Finding(Says.NEEDS, path, json.dumps(word), span=span)
                for path in one.paths
                if path in sent and _steps(path)[-1] != _squashed(word) and _LOC.fullmatch(word)
            )
        if value is not None and "stream" not in one.paths:
            others = (
                path for path in mentioned if path in sent and path not in (*one.paths, *NEVER) and "." not in path
            )
            beside, span = next(others, ""), sentence[one.start : one.end + value.end()]
            to = value[1] or value[2].lower()
            is_plain = re.fullmatch(r"(?i)true|false|-?\d+(?:\.\d+)?", to) is not None
            to = to.lower() if is_plain else json.dumps(to)
            yield from (Finding(Says.NEEDS, path, to, beside, span) for path in one.paths)


def _refusals(
    sent: Mapping[str, str], sentence: str, mentions: list[_Mention], refused: Says, *, of_all: bool
) -> Iterator[Finding]:
    """Yield the members that the sentence refuses, alone or beside others; `of_all`: all values but the default."""
    refusal, accepted = _REFUSES.search(sentence), _ACCEPTED.search(sentence)
    excludes = _EXCLUDES.search(sentence)
    if excludes is None and accepted is not None:
        end = max(accepted.start(), 0 if refusal is None else refusal.start())
        mentions = [one for one in mentions if one.start < end or _COMPARED.search(sentence[: one.start])]
    yield from _streams(sent, sentence, mentions, refusal)
    value = _WRONG.search(sentence) or _OTHER_VALUE.search(sentence)
    verdict, missed = refusal or value or excludes, _MISSES.search(sentence)
    if verdict is None or (missed and not (refusal and _CONDITION.search(sentence, refusal.end(), missed.start()))):
        return
    subjects, conditions = _parts(mentions, sentence)
    members = [(path, one) for one in subjects for path in one.paths if path in sent and path != "stream"]
    others = [
        path for one in conditions for path in one.paths if path in sent and "[" not in path and path not in NEVER
    ]
    tops = list(dict.fromkeys([*(path for path, _ in members if "." not in path), *others]))
    if len(tops) > 1 and excludes is not None:
        ranks = [*COMMON, *tops]
        kept = min(tops, key=lambda path: (path in LIMITS or not carries_meaning(path, sent[path]), ranks.index(path)))
        places = {path: one for one in (*subjects, *conditions) for path in one.paths}
        yield from (
            Finding(Says.EXCLUSIVE, path, beside=kept, span=_covering(sentence, places[path], excludes[0]))
            for path in tops
            if path != kept
        )
        return
    is_only_when = _ONLY_WHEN.search(sentence) is not None
    beside = "" if is_only_when else next(iter(others), "")
    if (
        beside
        and members
        and all(carries_meaning(path, sent[path]) for path, _ in members)
        and not carries_meaning(beside, sent[beside])
    ):
        # what carries meaning is refused beside what does not
        top = members[0][0] if "." not in members[0][0] else ""
        members, beside = [(path, one) for one in conditions for path in one.paths if path == beside], top
    if refusal is None:
        if value is None:
            return
        refused, beside = Says.VALUE, ""
        if _WRONG.search(sentence) is None:
            members = [(path, one) for path, one in members if not carries_meaning(path, sent[path])]
    rest = _AFTER.sub("", sentence)
    for one in mentions:
        rest = rest.replace(sentence[one.start : one.end], "…")
    stated = {word.strip(".").lower() for word in re.findall(r"[\w.-]+", rest)}
    is_of_range, is_of_part = _RANGE.search(rest) is not None, _INNER.search(rest) is not None
    for path, one in members:
        if path.rpartition(".")[2] not in NEVER:  # else a place: 'role:assistant'
            own, spelled = sent[path].strip('"').lower(), sentence[one.start : one.end]
            is_of_value = is_of_range or (own in stated if own else is_of_part)
            if path in DROPPED_WHOLE and "." in spelled:
                is_of_value = not spelled.endswith("include_usage")
            is_of_value = is_of_value and not (of_all or carries_meaning(path, sent[path]))
            to = "!" if is_only_when else ""
            yield Finding(
                Says.VALUE if is_of_value else refused, path, to, beside, _covering(sentence, one, verdict[0])
            )


_STREAM = re.compile(r"(?:non)?stream(?:ing|ed|s)?|stream(?:ing)?mode|.*流式.*")
_NEEDS_STREAM = _words(r"\b(?:only|must|please|requires?|required|needs?|enable)\b|仅|只|必须|需要|请")


def _streams(
    sent: Mapping[str, str], sentence: str, mentions: list[_Mention], refusal: re.Match[str] | None
) -> Iterator[Finding]:
    """Yield what the sentence says of streams, also of their absence. `beside` is what they are refused with."""
    words = (word for word in _TOKEN.finditer(sentence) if _STREAM.fullmatch(_squashed(word[0].rstrip("./-"))))
    word, verdict = next(words, None), refusal or _NEEDS_STREAM.search(sentence)
    if word is None or verdict is None:
        return
    condition, is_absence = _CONDITION.search(sentence), word[0].lower().startswith("non")
    others = [path for one in mentions for path in one.paths if path != "stream" and path in sent]
    is_condition = condition is not None and condition.start() < word.start() and not is_absence
    if not word[0].isascii() and _is_part(("stream",), others):
        return
    if not (is_condition and others and not all(carries_meaning(path, sent[path]) for path in others)):
        is_combined = not is_absence and (others or _EXCLUDES.search(sentence) is not None)
        span = sentence[min(word.start(), verdict.start()) : max(word.end(), verdict.end())]
        yield Finding(Says.STREAM, "stream", beside=(others or ["…"])[0] if is_combined else "", span=span)


def _parts(mentions: list[_Mention], sentence: str) -> tuple[list[_Mention], list[_Mention]]:
    """Part the mentions into those that the sentence is about and those of its condition."""
    if (first := _FIRST_CONDITION.match(sentence)) is not None:
        after = [one for one in mentions if one.start >= first.end()]
        if after:
            return after, [one for one in mentions if one.start < first.end()]
    for found in _CONDITION.finditer(sentence):
        before = [one for one in mentions if one.start < found.start()]
        if before:
            return before, [one for one in mentions if one.start > found.start()]
    return mentions, []


def _covering(text: str, one: _Mention | re.Match[str], words: str) -> str:
    """Return the shortest part of `text` with `one` and `words`; `words` alone if they are elsewhere."""
    start, end = (one.start, one.end) if isinstance(one, _Mention) else one.span()
    at = text.find(words)
    return words if at < 0 else text[min(start, at) : max(end, at + len(words))]
