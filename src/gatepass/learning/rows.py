"""The changes that a refusal may teach: each row is a class of changes, where it applies and what points at it.

A step is tried as a whole. `steps` returns those of all rows in the order of what a request loses by them: nothing,
something of this request alone, a value, a safe part. Only what would change the body counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Literal

import msgspec
from msgspec.structs import replace

from gatepass.config.routes import BETA
from gatepass.draft import Draft
from gatepass.errors import CallerError
from gatepass.learning.learned_rule import (
    ONLY_WITH,
    RENAMES,
    SCALAR,
    STREAM_SETTING,
    TYPE,
    LearnedRule,
    LearningPolicy,
    flow_style,
)
from gatepass.learning.meaning import (
    COMMON,
    DROPPED_WHOLE,
    KEYWORDS,
    LIMITS,
    NEVER,
    ONLY,
    SAFE_IN_MESSAGES,
    SETTABLE,
    carries_meaning,
    has_other_kind,
    means_absent,
    squashed,
    value_kind,
)
from gatepass.learning.pointing import Point, Refusal, no_room
from gatepass.learning.quotes import MOST_VALUES
from gatepass.normalize.betas import BETA_FIELD, BETA_MEMBERS, betas_of
from gatepass.normalize.members import JsonMemberPath, bounds_output, plain_name, value_of
from gatepass.normalize.messages import tool_ids
from gatepass.normalize.rules import effective
from gatepass.types import TOO_LONG_TEXT, Call

Step = tuple[LearnedRule, ...]
"""Rules that are applied together."""


class _Sent(msgspec.Struct, frozen=True):
    """The call that was refused, opened where a row looks."""

    call: Call
    draft: Draft

    def values(self, path: str) -> frozenset[str]:
        """Return the values that the request has at `path`, at most one above MOST_VALUES."""
        parsed, found = JsonMemberPath.parse(path), dict[str, None]()
        for owner in parsed.owners(self.draft):
            if len(found) <= MOST_VALUES and parsed.name in owner:
                found[value_of(owner, parsed.name)] = None
        return frozenset(found)


Row = Callable[[Refusal, _Sent], Iterator[Step]]


# --- nothing is lost


def absent(refusal: Refusal, sent: _Sent) -> Iterator[Step]:
    """A member that was sent as null, `""`, `[]`, or as a limit of -1 or 0, which means absent."""
    is_limited = sent.call.operation.name != "chat"
    empty = {
        path: values
        for path, listed in refusal.sent.values.items()
        if (values := frozenset(one for one in listed if means_absent(path, one) and not (one == "0" and is_limited)))
    }
    found = [path for path in refusal.named(weak=True) if path in empty]
    if not found and "empty" in refusal.nouns:  # some parsers name no member
        found = [path for path in empty if "." not in path]
    yield from _all_then_each([[LearnedRule("drop", path, values=empty[path])] for path in found])


def shape(refusal: Refusal, sent: _Sent) -> Iterator[Step]:
    """Another form of the same messages: content, roles, order, ids."""
    del sent
    if refusal.param and re.split(r"[.\[/]", refusal.param.removeprefix("body."))[0] not in _SHAPED:
        return
    inner = {_last(path) for path in refusal.named() if "." in path}
    is_vague = inner.issubset(("content", "role", "text"))  # else it points deeper
    is_message = is_vague and any(name in ("messages", "input", "system") for name, _ in refusal.places)
    text = "\n".join(refusal.sentences)
    is_of_form = "empty" in refusal.nouns or re.search(_FORMS, text) is not None  # else perhaps a filter's
    is_of_content = ("content" in refusal.nouns and is_of_form) or refusal.is_at("content", "text")
    points_at_content = (is_vague and is_of_content) or refusal.nouns.issuperset(("role", "empty"))
    if points_at_content or (is_message and not refusal.is_at("role")):
        forms = ("filled", "empty", "text") if "empty" in refusal.nouns else ("text", "empty", "filled")
        yield from ((LearnedRule("content", form),) for form in forms)
    is_role = "role" in refusal.nouns or refusal.is_at("role")
    if is_role or is_message or refusal.has_word("developer") or "system" in refusal.nouns:
        role, order = LearnedRule("role", "developer", "system"), LearnedRule("roles", "system")
        yield from ((role,), (role, order), (order,))
    is_of_messages = is_role or re.search(_OF_MESSAGES, text) is not None
    names_user = "user" in refusal.nouns or refusal.has_word("user")
    if is_of_messages and names_user and '"user"' not in refusal.sent.values.get("messages[].role", ()):
        yield (LearnedRule("roles", "user"),)
    if is_role and refusal.has_word("system") and BETA_FIELD not in refusal.members:
        yield (LearnedRule("role", "system", "developer"),)
    ids = ("tool_call_id", "tool_calls.id", "call_id", "tool_use_id", "content.id")
    if refusal.is_at(*ids) or ("tool" in refusal.nouns and re.search(_IDS, text)):
        yield (LearnedRule("tool_ids", "short"),)


_SHAPED = ("messages", "input", "system", "role", "content", "tools")
_FORMS = r"(?i)\b(?:string|array|object|variant)s?\b|字符串|数组"
"""Forms of a content. A text about content without one may be that of a filter."""
_OF_MESSAGES = r"(?i)messages?\b|\b(?:query|turn|prompt|question|conversation)|消息|提问|问题|对话"
_IDS = r"(?i)(?<![A-Za-z0-9])ids?(?![A-Za-z0-9])"


def history(refusal: Refusal, sent: _Sent) -> Iterator[Step]:
    """Calls in the history, which the client sends in each turn: arguments that are objects or no JSON, ids of another
    form. Parsers that refuse an object seldom name its place.
    """
    is_of_arguments = "arguments" in refusal.faults or refusal.is_at("arguments")
    if is_of_arguments or re.search(_A_TEXT, refusal.text):
        yield (LearnedRule("arguments", "text"),)
    if is_of_arguments:
        yield (LearnedRule("arguments", "empty"),)
    form = _NINE_CHARS if re.search(_NINE, refusal.text) else _USUAL_ID
    if "tool_ids" in refusal.faults and not all(re.fullmatch(form, id_) for _, _, id_ in tool_ids(sent.draft)):
        yield (LearnedRule("tool_ids", "short"),)


_A_TEXT = r"(?i)\b(?:str(?:ing)?|text|dict)\b|字符串"
_NINE = r"(?i)(?<![\d-])9(?!\d)|\bnine\b|九"
_NINE_CHARS, _USUAL_ID = "[A-Za-z0-9]{9}", "[A-Za-z0-9_-]{1,40}"
"""The ids that Mistral's templates accept, and those that all others do."""


def streams(refusal: Refusal, sent: _Sent) -> Iterator[Step]:
    """The opposite of the `stream` that was sent, beside another member if the error names one with it."""
    named = refusal.named()
    is_elsewhere = refusal.param is not None and not refusal.is_at("stream", *_others(refusal))
    if ("stream" in refusal.nouns or refusal.is_at("stream")) and "stream_options" not in named and not is_elsewhere:
        beside = next((path for path in _others(refusal) if path != "stream_options"), "")
        yield (LearnedRule("stream", "synth" if sent.call.stream else "aggregate", beside=beside),)


def _others(refusal: Refusal, *, weak: bool = False) -> list[str]:
    """Return the top-level members that were sent and that the error names, without those of each request."""
    named = refusal.named(weak=weak)
    return [path for path in named if "." not in path and path in refusal.sent.values and path not in NEVER]


def inputs(refusal: Refusal, sent: _Sent) -> Iterator[Step]:
    """Fewer inputs in one request: the largest number that the error names below those that were sent."""
    listed = sent.draft.top.array("input") if "input" in sent.call.operation.members else None
    is_of_list = refusal.is_at("input") and not refusal.places  # else it is about one of them
    points = not refusal.nouns.isdisjoint(("batch", "token")) or is_of_list or refusal.code == _ONE_TEXT
    count = sent.call.max_inputs or (0 if listed is None else len(listed))
    if not points or count < 2 or "embeddings" not in sent.call.operation.name:
        return
    numbers = refusal.numbers()
    bounds = sorted({number for number in numbers if 0 < number < count}, reverse=True)
    yield from ((LearnedRule("split", "input", str(bound)),) for bound in bounds[:2])
    over = [(one, most) for one, most in pairwise(numbers) if one > most > count]
    if over:  # tokens
        requested, most = over[0]
        yield (LearnedRule("split", "input", f"{max(1, int(100 * FILL * most / requested))}%", is_once=True),)
    elif not bounds:
        parts = [LearnedRule("split", "input", f"{PART}%", is_once=True), LearnedRule("split", "input", "1")]
        yield from ((rule,) for rule in sorted(parts, key=lambda rule: rule.is_once == (refusal.code == _ONE_TEXT)))


FILL = 0.9
"""Part of the tokens per request to use, because inputs differ in length."""
PART = 25
"""Percent of the inputs that were sent, where an error says only that there are too many."""
_ONE_TEXT = "1214"
"""Zhipu's older API accepts one text. Its sentence names no list, only its code does (zhipuai-sdk-python-v4#7)."""


def rerank(refusal: Refusal, sent: _Sent) -> Iterator[Step]:
    """The documents in the other shape of rerank requests."""
    if sent.call.operation.name == "rerank" and _is_of_shape(refusal):
        yield (LearnedRule("rerank", "jina" if "texts" in sent.draft.top else "tei"),)


def _is_of_shape(refusal: Refusal) -> bool:
    """Whether it is about the name of the documents. A refusal about a length says nothing of it."""
    own, other = ("texts", "documents") if "texts" in refusal.sent.values else ("documents", "texts")
    is_of_length = bool(refusal.numbers()) or any(re.search(_LENGTH, one) for one in refusal.sentences)
    is_named = refusal.has_word(other) or (refusal.has_word(own) and not is_of_length)
    return is_named and "token" not in refusal.nouns


_LENGTH = r"(?i)\btoo\b|\b(?:length|size|most|longer|shorter|bigger|larger|exceed|limit|maximum|reduce)|长|超|限"


# --- limits of tokens


def limits(refusal: Refusal, sent: _Sent) -> Iterator[Step]:
    """The limit's other name, the bound that the error names, or the room that is left for this answer."""
    found = [path for path in LIMITS if path in refusal.sent.values]
    strong = refusal.named()
    named = [path for path in found if path in (strong or refusal.named(weak=True))]
    text = "\n".join(refusal.sentences)
    is_named = bool(named) or not strong.keys().isdisjoint(LIMITS)
    if not strong:  # it may have another server's name; but `maxLength` is a keyword of schemas
        words = (one for one in re.findall(r"\w+", text) if "len" not in one.lower() and bounds_output(plain_name(one)))
        is_named = is_named or any(map(refusal.has_word, words))
    if not is_named and "token" not in refusal.nouns:
        return
    room, numbers = no_room(text), refusal.numbers()
    lowest = min((int(one) for path in found for one in sent.values(path) if re.fullmatch(_COUNT, one)), default=0)
    least = min((one for one in numbers if 0 < lowest < one <= MOST_RAISED), default=0)
    is_of_answer = strong.keys() <= {*LIMITS} and (is_named or re.search(_ANSWER, text) is not None)
    if least and is_of_answer and re.search(_LEAST, text) and not re.search(f"{_ROOM}|{TOO_LONG_TEXT}", text):
        for one in (least, least + 1):  # an error may mean "more than"
            yield tuple(LearnedRule("clamp", name, f">={one}") for name in LIMITS)
    for path in named or found:
        values = sent.values(path)
        if has_other_kind(path, values):
            continue
        most = max((int(one) for one in values if one.isdecimal() and len(one) < 10), default=0)
        if room is not None:
            yield (LearnedRule("clamp", path, str(room[2] - room[0]), is_once=True),)
            continue
        bound = max((one for one in numbers if LEAST_TOKENS <= one < most), default=0)
        other = RENAMES.get(path, "")
        if other and path in named and (path in refusal.unknown or refusal.has_word(other)):
            yield (LearnedRule("rename", path, other),)
        if bound:  # an error may mean "less than"
            is_once = any(re.search(_ROOM, one) for one in refusal.sentences if str(bound) in one.replace(",", ""))
            yield from ((LearnedRule("clamp", path, str(one), is_once=is_once),) for one in (bound, bound - 1))


LEAST_TOKENS = 16
"""A smaller number is not a limit of tokens. It may be a part of a model's name."""
MOST_RAISED = 1024
"""The largest bound from below to which a limit of the answer is raised."""
_COUNT = "[1-9][0-9]{0,8}"
_LEAST = (
    r"(?i)at least|minim|\bmin\b|(?:less|lower|smaller|fewer|greater|larger|higher|more) (?:than|or)|below|[≥>]|range"
    r"|too (?:small|low|few)|[\[(（] ?\d+ ?[,，]|\d ?(?:or [mahgl]|[<≤]|及?以上|(?:[-–~～到至和]|to|and|through) ?\d)"
    r"|至少|最[小少低]|[小少低大高多]于|不足|过[小低少短]|太[小低少短]|下限|范围|区间|之间"
)
"""Words and signs of a bound from below, or a range."""
_ANSWER = r"(?i)output|answer|completion|response|generat|输出|回答|回复|生成"
_ROOM = r"(?i)prompt|input(?! (?:should|valid))|context|remaining|提示|输入|上下文|剩余"
"""A bound in such a text depends on the length of this prompt."""


# --- this request alone


def thoughts(refusal: Refusal, sent: _Sent) -> Iterator[Step]:
    """Thoughts that another server signed or encrypted, or whose budget is above the limit of the answer."""
    del sent
    if "thinking.budget_tokens" in refusal.compared:
        yield (LearnedRule("drop", "thinking", is_once=True),)
    if refusal.is_at("signature", "encrypted_content", "content.thinking") or "encrypted_content" in refusal.code:
        yield (LearnedRule("thoughts", "", is_once=True),)


# --- members


def members(refusal: Refusal, sent: _Sent) -> Iterator[Step]:
    """A value that the error names behind a member, then the members that it names, left out."""
    strong, weak = refusal.named(), refusal.named(weak=True)
    if "thinking" in refusal.nouns:
        weak = {path: Point(path) for path in _THOUGHT if path in refusal.sent.values} | weak
    found = list(_of_points(refusal, strong, sent))
    yield from found or _of_points(refusal, {path: one for path, one in weak.items() if path not in strong}, sent)


_THOUGHT = ("thinking", "enable_thinking", "think", "reasoning", "reasoning_effort")
MOST_NAMES, MOST_POINTED, MOST_PARTS = 20, 60, 8
"""Limits on the members that one error teaches (of more it only advises), on those it may name, and on the parts that
are tried one by one."""


def _of_points(refusal: Refusal, points: Mapping[str, Point], sent: _Sent) -> Iterator[Step]:
    were_sent, others = refusal.sent.values, _others(refusal)
    if len(points) > MOST_POINTED:
        return
    if any(has_other_kind(path, were_sent.get(path, set())) for path in points):  # the client's mistake
        return
    named = [point for point in refusal.points if point.path in points and point.is_weak == points[point.path].is_weak]
    sets = [rule for point in named if not (point.is_weak and point.start) for rule in _sets(refusal, point, sent)]
    if sets:
        yield tuple(dict.fromkeys(sets))
    are_limits = all(path in were_sent for path in LIMITS[:2])  # either is enough
    meant = [path for path in points if path in were_sent and (are_limits or path not in LIMITS)]
    drops = dict[str, list[LearnedRule]]()
    for path in meant:  # one name at several places is one part
        if rules := list(_drops(refusal, path, sent)):
            drops.setdefault(next((one for one in drops if _last(one) == _last(path)), path), []).extend(rules)
    if len(drops) > MOST_NAMES:
        return
    is_apart = refusal.unknown or refusal.param or len({points[path].sentence for path in drops}) > 1
    if len(drops) == 2 and not is_apart:  # the rarer one, the other, both
        rarer, other = sorted(drops, key=lambda path: -COMMON.index(path) if path in COMMON else -len(COMMON))
        yield _beside(drops[rarer], other)
        yield _beside(drops[other], rarer)
        yield (*drops[rarer], *drops[other])
        return
    beside = next((path for path in others if path not in drops), "")
    if len(drops) == 1 and not refusal.unknown:
        drops = {path: list(_beside(rules, beside)) for path, rules in drops.items()}
    yield from _all_then_each(list(drops.values()))
    if any(path.startswith("thinking.") for path in drops):  # it may be incomplete without one of its members
        yield (LearnedRule("drop", "thinking", values=sent.values("thinking")),)


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _beside(rules: Sequence[LearnedRule], path: str) -> Step:
    """Return `rules` for requests that also have the top-level member `path`."""
    return tuple(rule if "." in path else replace(rule, beside=rule.beside or path) for rule in rules)


_FLAT_STRICT, _NESTED_STRICT = "tools[].strict", "tools[].function.strict"


def _sets(refusal: Refusal, point: Point, sent: _Sent) -> Iterator[LearnedRule]:
    """Yield the rule for the only other value that the error names behind a member, which need not have been sent."""
    path, listed = point.path, refusal.sent.values.get(point.path, set())
    last = _last(point.spelled)
    values = [value for value in refusal.values_behind(point) if value not in listed]
    if listed and "." in point.spelled and squashed(last) != squashed(_last(path)):  # thinking.type.adaptive
        values = [json.dumps(last)]
    if (
        path in refusal.unknown
        or path.partition(".")[0] not in SETTABLE
        or len(values) != 1
        or not SCALAR.match(values[0])
    ):
        return
    is_alike = {value_kind(values[0])} == set(map(value_kind, listed)) if listed else value_kind(values[0]) in 't"'
    if is_alike and not has_other_kind(path, set(values)):
        tools = ["tools"] if "tool" in refusal.nouns and "tools" in refusal.sent.values else []
        beside = next((other for other in (*_others(refusal, weak=True), *tools) if other != path), "")
        yield LearnedRule("set", path, values[0], beside, sent.values(path))


def _drops(refusal: Refusal, path: str, sent: _Sent) -> Iterator[LearnedRule]:
    """Yield the rules that leave out the member at `path`."""
    top = path.partition(".")[0]
    field = top if top in DROPPED_WHOLE else path
    values, beside, enabling = sent.values(field), "", set[str]()
    if BETA_FIELD in refusal.members:
        enabling = {
            beta
            for beta, enabled in BETA_MEMBERS.items()
            for member in enabled
            if f"{path}.".startswith(f"{member}.") or (path in ONLY_WITH and member.startswith(f"{path}."))
        }
        # a client that forgets the value teaches nothing about requests that have it
        if enabling and enabling.isdisjoint(betas_of(sent.call.headers)):
            beside = "!" + "+".join(sorted(enabling))
    if not values or all(means_absent(field, value) for value in values):
        return
    is_for_all = path in refusal.unknown and (
        enabling or not carries_meaning(field) or field in ONLY or field in LIMITS
    )
    is_for_all = is_for_all or (len(values) > MOST_VALUES and field in SAFE_IN_MESSAGES)  # a long chat has as many
    rule = LearnedRule("drop", field, beside=beside, values=frozenset() if is_for_all else values)
    if not LearningPolicy().allows(replace(rule, beside=LIMITS[0] if field in LIMITS else beside), refusal.members):
        return
    yield rule
    if path == _FLAT_STRICT:  # upstreams that name it like this in chats too, where it is in `function`
        yield replace(rule, field=_NESTED_STRICT)
    yield from (LearnedRule("beta", beta) for beta in sorted(enabling) if path in BETA_MEMBERS[beta])


def schemas(refusal: Refusal, sent: _Sent) -> Iterator[Step]:
    """A keyword of the schemas of tools. `strict` asks for `additionalProperties`, so it goes where that is refused."""
    is_in_tools = any(name == "tools" for name, _ in refusal.places) or any(
        one.path.startswith("tools") for one in refusal.points
    )
    is_of_schema = is_in_tools or "tool" in refusal.nouns or re.search(_OF_SCHEMA, refusal.text) is not None
    if "tools" in sent.draft.top and is_of_schema:
        words = {word for one in (*refusal.sentences, f".{refusal.param}") for word in re.findall(_KEYWORD, one)}
        keywords = list(_all_then_each([[LearnedRule("schema", word)] for word in sorted(words & KEYWORDS)]))
        if "additionalProperties" in words and refusal.named(weak=True).keys().isdisjoint(("response_format", "text")):
            strict = tuple(rule for path in (_FLAT_STRICT, _NESTED_STRICT) for rule in _drops(refusal, path, sent))
            keywords.insert(0 if re.search(_WANTED, refusal.text) else len(keywords), strict)
        yield from keywords


_WANTED = r"(?i)requir|must|should|supplied|explicit|missing|必须|需要|缺少"
_OF_SCHEMA = r"(?i)schema|additionalProperties"
_KEYWORD = r"(?<=['\"`./])\$?[A-Za-z]+(?![A-Za-z])|(?<![A-Za-z])[a-z]+[A-Z][A-Za-z]+"


def tools(refusal: Refusal, sent: _Sent) -> Iterator[Step]:
    """Entries of `tools` of a type that a server runs itself, and with a beta its tool."""
    listed = sent.draft.top.array("tools")
    numbered = [] if listed is None else listed.numbered()
    kinds = {at: tool.string("type") or "" for at, tool in numbered}
    found = [kind for kind in dict.fromkeys(kinds.values()) if kind not in _OWN_TOOLS and TYPE.match(kind)]
    if len(found) > MOST_NAMES:
        return
    at = {kinds.get(index, "") for name, index in refusal.places if name == "tools"}
    words = {kind: {kind, re.sub(_DATE, "", kind)} for kind in found}
    for _, tool in islice(numbered, MOST_POINTED):
        words.get(tool.string("type") or "", set()).add(tool.string("name") or tool.string("type") or "")
    named = [kind for kind in found if kind in at or any(map(refusal.has_word, words[kind]))]
    points = "tool" in refusal.nouns or refusal.is_at("tools", "tools.type")
    yield from _all_then_each([[LearnedRule("tools", kind)] for kind in named])
    if (points or named) and len(found) > len(named):  # an index may mean another entry once one has left
        parts = list(_all_then_each([[LearnedRule("tools", kind)] for kind in found]))
        yield from (*parts[1:], parts[0])


_OWN_TOOLS = ("", "function", "custom", "namespace")
_DATE = r"_\d{8}\Z"


def betas(refusal: Refusal, sent: _Sent) -> Iterator[Step]:
    """Values of the header `anthropic-beta`.

    Bedrock names none, and an error that names all of several may only quote the header. A single value is the rejected
    one. Of several, the first repeat keeps only those of KEPT_FIRST, the second none. These rules are for requests that
    send all of the same values, because another request may have only values that the upstream accepts.
    """
    names = tuple(filter(BETA.match, dict.fromkeys(betas_of(sent.call.headers))))
    if BETA_FIELD not in refusal.members or not names:
        return
    is_long = _NO_LONG_CONTEXT in refusal.text
    named = [name for name in names if name in refusal.text or (is_long and name.startswith(_LONG_CONTEXT))]
    if not named and not refusal.has_word("beta"):
        return
    if len(names) == 1 or 0 < len(named) < len(names):
        left_out = [LearnedRule("beta", name) for name in named or names]
        listed = sent.draft.top.array("tools")
        kinds = {tool.string("type") or "" for tool in ([] if listed is None else listed.objects())}
        with_tools = [
            LearnedRule("tools", kind)
            for kind in sorted(kinds)
            for name in named or names
            if kind not in _OWN_TOOLS and TYPE.match(kind) and re.sub(r"\D", "", kind) == re.sub(r"\D", "", name) != ""
        ]
        yield (*left_out, *with_tools)
    else:
        kept = [name for name in names if name.startswith(KEPT_FIRST)]
        yield (LearnedRule("betas", "+".join(names), "+".join(kept) if len(kept) < len(names) else ""),)
        yield (LearnedRule("betas", "+".join(names), ""),)


# Anthropic, for an account without it.
_NO_LONG_CONTEXT, _LONG_CONTEXT = "long context beta", "context-1m-"
KEPT_FIRST = ("claude-code-", "interleaved-thinking-")
"""Beginnings of the values that remain in the first repeat after a rejection that names none."""


ROWS: tuple[Row, ...] = (
    absent,
    history,
    shape,
    streams,
    inputs,
    rerank,
    limits,
    thoughts,
    betas,
    tools,
    members,
    schemas,
)


def _all_then_each(parts: Sequence[Sequence[LearnedRule]]) -> Iterator[Step]:
    if parts:
        yield tuple(dict.fromkeys(rule for rules in parts for rule in rules))
    if 1 < len(parts) <= MOST_PARTS:
        yield from map(tuple, parts)


def that_change(rules: Iterable[LearnedRule], call: Call) -> Step:
    """Return those of `rules` that would change `call`, applied one after the other. It opens the body once."""
    changes = [(rule, rule.change) for rule in rules]
    made = set(map(id, effective([change for _, change in changes], call)))
    return tuple(rule for rule, change in changes if id(change) in made)


def steps(refusal: Refusal, call: Call) -> list[Step]:
    """Return the steps that `refusal` of `call` points at, in the order in which they are tried."""
    if refusal.wants_reasoning or not call.body:
        return []
    found, compared = list[Step](), refusal.compared
    try:
        sent = _Sent(call, Draft(call))
        for row in (history,) if refusal.is_failure else (thoughts,) if compared else ROWS:
            found += filter(None, (that_change(step, call) for step in row(refusal, sent)))
    except CallerError:
        return []  # the body has more values than gatepass opens (`json_body`)
    return sorted(dict.fromkeys(found), key=lambda step: max(rule.loss for rule in step))


_AREAS = {"content": "content", "role": "role", "roles": "role", "stream": "stream", "split": "batch"}
"""By the action of a rule: the noun for what it changed."""


def concerns(refusal: Refusal, rule: LearnedRule) -> bool:
    """Whether `refusal` is about what `rule` changed."""
    if refusal.wants_reasoning:
        return rule.action == "drop" and "reasoning" in rule.field
    if rule.paths:  # another member that it names may only be a condition
        return rule.paths[-1] == next(iter(refusal.named()), None)
    if rule.action == "tools":
        return refusal.has_word(rule.field) or "tool_choice" in refusal.named()
    if rule.action == "rerank":
        return _is_of_shape(refusal)
    area = _AREAS.get(rule.action)
    return area is not None and (area in refusal.nouns or refusal.is_at(area))


# --- advice for the operator

_IMAGES = (b'"image_url"', b'"input_image"')
_TEXT_ALONE = r"(?i)\bstring\b|字符串"
REASONING_ADVICE = (
    "The client must send the reasoning of earlier answers back with them, and rules.drop of the model's entry must not"
    " name it."
)
THOUGHTS_ADVICE = 'rules: {set: {thinking: {type: "disabled"}}}'
_NOT_ADVISED = frozenset(
    (
        *("tools", "functions", "type", "function", "parameters", "input_schema", "schema", "tool_choice", *_THOUGHT),
        *("system", "instructions", "previous_response_id", "conversation", "arguments", "tool_call_id"),
        *("id", "name", "call_id", "tool_use_id", "output"),
    )
)
"""Without one of these a request, a tool, a call or a part is none, or an agent has no tools or no thoughts at all."""


class LearningSettings(msgspec.Struct, frozen=True):
    upstream: str
    policy: LearningPolicy
    learn: Literal["off", "on"] = "on"
    stream: str = "auto"


def advice(refusal: Refusal, call: Call, setting: LearningSettings, found: Sequence[Step]) -> str:
    """Return sentences to append to the upstream's error message, "" if there are none.

    `refusal` is that of `call`, `found` the result of `steps` for both.
    """
    if refusal.wants_reasoning:
        return REASONING_ADVICE
    is_of_text = re.search(_TEXT_ALONE, refusal.text) and ("content" in refusal.nouns or refusal.is_at("content"))
    if is_of_text and not found and any(name in call.body for name in _IMAGES):
        return "This model accepts text only, and the request contains images."
    stream = next((rule for step in found for rule in step if rule.action == "stream"), None)
    if stream is not None and not setting.policy.may_stream:
        return f"The model's entry sets stream: {setting.stream}. Set it to auto or {STREAM_SETTING[stream.field]}."
    if found and setting.learn == "off":
        entries = ", ".join(rule.field if rule.action == "drop" else rule.entry for rule in found[0])
        are_drops = all(rule.action == "drop" for rule in found[0])
        purpose = f"drop {entries}" if are_drops else f"adapt such requests ({entries})"
        sentence = f"To {purpose}, set upstreams.{setting.upstream}.learn: on"
        own = found[0][0].setting() if len(found[0]) == 1 else {}
        return f"{sentence}, or {flow_style(own)[1:-1]} in the model's entry under models." if own else f"{sentence}."
    return _advised(refusal)


def _advised(refusal: Refusal) -> str:
    """Return what would leave out the first member that the error names and that carries meaning."""
    sent = refusal.sent.values
    named = [path for path in refusal.named() if path in sent and path not in LIMITS]
    if len(named) <= MOST_NAMES:  # else none of them is tried
        named = [path for path in named if any(carries_meaning(path, one) for one in sent[path])]
    if "tool_choice" in named and ("thinking" in refusal.nouns or not refusal.named().keys().isdisjoint(_THOUGHT)):
        return f"To force a tool, turn thoughts off: set {THOUGHTS_ADVICE} in the model's entry under models."
    if ("role" in refusal.nouns or refusal.is_at("role")) and refusal.has_word("system"):
        rules = flow_style({"roles": {"system": "user"}})
        return f"To move instructions into the user's message, set rules: {rules} in the model's entry under models."
    named = [path for path in named if not path.startswith("tools[].")]
    path = next((path for path in named if _last(path) not in NEVER | _NOT_ADVISED), None)
    if path is None:
        return ""
    return f"To drop {path}, set rules: {flow_style({'drop': [path]})} in the model's entry under models."
