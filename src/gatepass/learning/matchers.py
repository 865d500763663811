"""From a rejection to the rules that may answer it, one matcher for each thing that upstreams reject.

What to tell a person whom a refusal reaches although gatepass knows a way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from gatepass.learning.learned_rule import DAY_S, HOUR_S, NEVER, OPT_IN, QUARTER_S, RENAMES, LearnedRule, LearningPolicy
from gatepass.learning.rejection import TAUGHT_CODES, WORDS, ZOD_CODE, UpstreamRejection, path_from_error
from gatepass.normalize.members import STREAMED, JsonMemberPath
from gatepass.normalize.rule import concerns
from gatepass.types import Call, ClientProtocol

_FIGURES = re.compile(r"[0-9]+")
_LONG_NAME = 8
"""Letters of a name that is no everyday word: `temperature`, and not `user` or `stop`."""


def suggested_rules(rejection: UpstreamRejection, also: Collection[str] = ()) -> Iterator[tuple[LearnedRule, ...]]:
    """Everything that `rejection` suggests, the likeliest first; the lessons of one step are taken together.

    Who knows the whole sentence comes first: `members` sees no more than a name.
    """
    if rejection.wants_reasoning:
        return
    yield from streaming(rejection)
    yield from conversation(rejection)
    yield from batches(rejection)
    yield from choices(rejection, also)
    yield from members(rejection)


Concerned = Collection[LearnedRule]


def relevant_rules(rejection: UpstreamRejection, sent: Call) -> Concerned:
    """All that `rejection` suggests and that would change the body `sent`."""
    suggested = {rule for step in suggested_rules(rejection, OPT_IN) for rule in step}
    return frozenset(rule for rule in suggested if concerns(rule.change(), sent))


def next_rules(
    rejection: UpstreamRejection,
    sent: Call,
    allowance: LearningPolicy,
    barred: Callable[[LearnedRule], bool],
    known: Concerned | None = None,
) -> tuple[LearnedRule, ...]:
    """The first step of which every lesson that concerns the body `sent` is allowed and not `barred`; only those.

    A step of which one part is not allowed is no step: the upstream would refuse the rest of it again. `known` is what
    `relevant_rules` found, if it was asked before.
    """
    for step in suggested_rules(rejection, allowance.also):
        found = [one for one in step if (concerns(one.change(), sent) if known is None else one in known)]
        fits = [allowance.allows(rule, rejection.protocol) and not barred(rule) for rule in found]
        if found and all(fits):
            return tuple(found)
    return ()


def contradicts(rejection: UpstreamRejection, rule: LearnedRule) -> bool:
    """Whether the rejection is about what `rule` made of the request."""
    if rejection.wants_reasoning:
        return rule.action == "drop" and "reasoning" in rule.field
    return any(one.reverses(rule) for step in suggested_rules(rejection) for one in step)


def is_same_rejection(rejection: UpstreamRejection, rule: LearnedRule, evidence: str) -> bool:
    """Whether the rejection is again about what `rule`, taken for the sentence `evidence`, was to mend.

    Any other complaint shows that the upstream got past it.
    """
    if _FIGURES.sub("0", rejection.text) == _FIGURES.sub("0", evidence) or contradicts(rejection, rule):
        return True
    if any(one.key == rule.key for step in suggested_rules(rejection, OPT_IN) for one in step):
        return True
    return any(_names(rejection, name) for name in _about(rule))


def _about(rule: LearnedRule) -> tuple[str, ...]:
    """The names by which an upstream would call the member that `rule` is about."""
    if rule.action in ("stream", "stream_options"):
        return (rule.action,)
    if rule.action == "rename":
        return (rule.field, rule.to or "")
    return (rule.field.rpartition(".")[2],) if rule.action in ("drop", "set", "clamp") else ()


def _names(rejection: UpstreamRejection, name: str) -> bool:
    if rejection.param is not None and name in re.split(r"[^A-Za-z0-9_]+", rejection.param):
        return True
    is_plain = len(name) >= _LONG_NAME or "_" in name or name == "stream"
    quoted = rf"['\"`]{re.escape(name)}['\"`]"
    plain = rf"(?<![\w.]){re.escape(name)}(?:ing)?(?![\w])"
    return re.search(f"{quoted}|{plain}" if is_plain else quoted, rejection.text, re.IGNORECASE) is not None


# streams

_UNVERIFIED = re.compile(rf"{WORDS}must be verified to stream")
_REFUSED = re.compile(
    r"(?:Unsupported value: )?'?stream'? does not support true|Unsupported value: 'stream'.{0,200}?values are: false"
    rf"|{WORDS}(?:does not|doesn't|do not|don't) support stream(?:ing)?(?![\w_])"
    rf"|{WORDS}[Ss]treaming is not (?:currently )?(?:supported|enabled|allowed|available)"
    r"|Unsupported parameter: 'stream'"
)
_COMBINED = re.compile(
    r"[ ,](?:with|when|while|if|for|together|alongside|combin\w+|and)\b"
    r"(?! (?:this|the|your) (?:[\w.'-]+ )?(?:model|deployment|endpoint|account|organi[sz]ation|region|api|provider)\b)",
    re.IGNORECASE,
)
"""Not streams are refused but streams beside something else."""
_NEEDED = re.compile(
    rf"{WORDS}only supports? stream(?:ing)?\b|(?:Unsupported value: )?'?stream'? does not support false"
    rf"|{WORDS}please enable the stream parameter"
    r"|(?:parameter\.)?enable_thinking must be set to false for non-stream"
)
_NO_THINKING = re.compile(r"(?:parameter\.)?enable_thinking must be set to false")
_THINKING_ONLY = re.compile(rf"{WORDS}enable_thinking parameter is restricted to True", re.IGNORECASE)
_ORPHANED = re.compile(
    r"(?:The )?'?stream_options'? (?:parameter )?(?:is only allowed|can only be (?:defined|used|set)) when"
    r"|Stream options can only be defined when"
)


def streaming(rejection: UpstreamRejection) -> Iterator[tuple[LearnedRule, ...]]:
    tops = ("stream", "stream_options", "enable_thinking", "parameters")
    if rejection.protocol not in STREAMED or rejection.is_of_a_value or not rejection.is_about(*tops):
        return
    if rejection.opens(_UNVERIFIED):
        yield (LearnedRule("stream", "synth", ttl_s=QUARTER_S, by_credential=True),)
    elif rejection.opens(_ORPHANED):
        yield (LearnedRule("stream_options", "orphaned"),)
    elif rejection.opens(_NEEDED):
        yield (LearnedRule("stream", "aggregate"),)
    elif (found := rejection.opens(_REFUSED)) or (rejection.code, rejection.param) == (_VALUE_CODE, "stream"):
        said = found.string[found.end() :] if found is not None else rejection.text
        yield (LearnedRule("stream", "synth", ttl_s=HOUR_S if _COMBINED.search(said) is None else 0.0),)
    yield from _thinking(rejection)


def _thinking(rejection: UpstreamRejection) -> Iterator[tuple[LearnedRule, ...]]:
    """DashScope: what it thinks of `enable_thinking` depends on the model and on the stream."""
    if rejection.opens(_NO_THINKING):
        yield (LearnedRule("set", "enable_thinking", "false"),)
    if rejection.opens(_THINKING_ONLY):
        yield (LearnedRule("drop", "enable_thinking"),)
        yield (LearnedRule("set", "enable_thinking", "true"),)


# messages

_AT = r"(?:'?(?:body\.)?messages[\w.\[\]-]*+'?\s*:\s*)?"
"""The place that a sentence may name first."""
_DEVELOPER = re.compile(
    rf"{_AT}(?:['`\"]?developer['`\"]? is not one of|unknown variant [`'\"]developer|Unexpected message role"
    r"|Incorrect role information|角色信息不正确)|(?:Unsupported value: )?"
    rf"(?:'messages[\w.\[\]]*+' |{WORDS})does not support ['`\"]developer"
)
_OTHER_ROLES = re.compile(r"(?:body\.)?messages\.\d+\.(?:[\w-]+\.)?role: Input should be (?!.*developer)")
_SYSTEM = re.compile(
    rf"(?:Unsupported value: )?(?:'messages[\w.\[\]]*+' |{WORDS})does not support ['`\"]system"
    rf"|{_AT}['`\"]?system['`\"]? is not one of"
)
_NO_SYSTEM = re.compile(rf"{WORDS}[Ss]ystem role (?:is )?not supported")
_ALTERNATE = re.compile(rf"{WORDS}roles must alternate")

_STRING_WANTED = (
    re.compile(rf"{_AT}invalid type: sequence, expected a string"),
    re.compile(r"'messages\.\d+\.content' : value must be a string"),
    re.compile(r"(?:json: )?cannot unmarshal array into Go struct field [\w.]*content of type string"),
    re.compile(r"Type mismatch of '/messages/[^/'\s]+/content', 'array' not in 'string'"),
    re.compile(r"(?:body\.)?messages\.\d+\.(?:[\w-]+\.)*content(?:\.str)?: Input should be a valid string"),
)
_NULL_REFUSED = (
    re.compile(r"(?:Invalid 'content': )?'content' field must be a string or an array of objects"),
    re.compile(r"invalid message content type: <nil>"),
    re.compile(r"Invalid value for 'content': expected a string, got null"),
    re.compile(r"(?:body\.)?messages\.\d+\.(?:[\w-]+\.)*content: (?:Field required|none is not an allowed value)"),
)
_TOOL_ID = re.compile(r"Tool call id was .{0,200}? but must be a-z, A-Z, 0-9, with a length of 9")


def conversation(rejection: UpstreamRejection) -> Iterator[tuple[LearnedRule, ...]]:
    if rejection.protocol is not ClientProtocol.CHAT or not rejection.is_about("messages", "role", "content"):
        return
    yield from _roles(rejection)
    if rejection.opens(*_NULL_REFUSED):
        yield (LearnedRule("content", "empty"),)
    if rejection.opens(*_STRING_WANTED):
        yield (LearnedRule("content", "text"),)
        yield (LearnedRule("content", "empty"),)
    if rejection.opens(_TOOL_ID):
        yield (LearnedRule("tool_ids", "short"),)


def _roles(rejection: UpstreamRejection) -> Iterator[tuple[LearnedRule, ...]]:
    """The second step for `system` is for those who refuse `developer` as well (o1-mini)."""
    refuses_developer = rejection.opens(_DEVELOPER) or rejection.opens(_OTHER_ROLES)
    if refuses_developer:
        yield (LearnedRule("role", "developer", "system"),)
    if rejection.opens(_SYSTEM):
        yield (LearnedRule("role", "system", "developer"),)
    if refuses_developer or rejection.opens(_SYSTEM) or rejection.opens(_NO_SYSTEM):
        yield (LearnedRule("role", "system", "user"),)
    if rejection.opens(_ALTERNATE):
        yield (LearnedRule("roles", "merged"),)


# embeddings

_LIMITS = (
    re.compile(rf"{WORDS}batch size is invalid, it should not be larger than (\d+)"),
    re.compile(rf"{WORDS}batch size \d+ > maximum allowed batch size (\d+)"),
    re.compile(r"[Tt]oo many inputs\. The max number of inputs is (\d+)"),
    re.compile(r"(?:[\w.]++: )?at most (\d+) requests can be in one batch"),
    re.compile(r"(?:Invalid )?'input': array too long\. Expected an array with maximum length (\d+)"),
)
_TOKENS = re.compile(r"Requested (\d[\d,]*) tokens, max (\d[\d,]*) tokens per request")
_STRING_ONLY = re.compile(r"(?:input|prompt)\s*参数非法")
_NO_BASE64 = re.compile(r"base64 encoding is not (?:currently )?supported")
LARGEST = 100_000
FILL = 0.9
"""Of the tokens that fit: inputs differ in length."""


def batches(rejection: UpstreamRejection) -> Iterator[tuple[LearnedRule, ...]]:
    if rejection.protocol is not ClientProtocol.EMBEDDINGS:
        return
    limits = [int(found[1][:9]) for pattern in _LIMITS if (found := rejection.opens(pattern)) is not None]
    if limits and 0 < limits[0] <= LARGEST:
        yield (LearnedRule("split", "input", str(limits[0]), ttl_s=DAY_S),)
    if (over := rejection.opens(_TOKENS)) is not None:
        requested, most = (int(figure.replace(",", "")[:15]) for figure in over.groups())
        if 0 < most < requested:  # another request of as many inputs may fit as a whole
            yield (LearnedRule("split", "input", f"{max(1, int(100 * FILL * most / requested))}%", ttl_s=0.0),)
    if rejection.code == "1214" and rejection.opens(_STRING_ONLY):
        yield (LearnedRule("split", "input", "1", ttl_s=DAY_S),)
    if rejection.opens(_NO_BASE64):
        yield (LearnedRule("set", "encoding_format", '"float"'),)


# what only some want changed

_TOOL_CHOICE = re.compile(
    rf"{WORDS}tool_choice parameter does not support being set to|[Tt]hinking mode does not support this tool_choice"
)
_OBJECT_REFUSED = re.compile(r"'response_format\.type' must be 'json_schema' or 'text'")
_FORMAT_REFUSED = re.compile(rf"{WORDS}response_format type is unavailable")
_NO_TOOLS = re.compile(rf"{WORDS}(?:tool choice requires --enable-auto-tool-choice|does not support tools\b)")
_ROOM = re.compile(
    rf"{WORDS}maximum context length is (\d+) tokens\. However, you requested \d+ tokens"
    r" \((\d+) in the messages, \d+ in the completion\)"
)
SPARE_TOKENS = 8
"""Left free below the context's length: counts differ by a few."""


def choices(rejection: UpstreamRejection, also: Collection[str]) -> Iterator[tuple[LearnedRule, ...]]:
    """Thinking and a forced tool are refused together, either of them alone is not: nothing of that is remembered."""
    if rejection.protocol is not ClientProtocol.CHAT:
        return
    if "tool_choice" in also and rejection.opens(_TOOL_CHOICE):
        yield (LearnedRule("set", "enable_thinking", "false", ttl_s=0.0),)
        yield (LearnedRule("set", "thinking.type", '"disabled"', ttl_s=0.0),)
        yield (LearnedRule("set", "tool_choice", '"auto"', ttl_s=0.0),)
    if "response_format" in also and rejection.opens(_OBJECT_REFUSED):
        yield (LearnedRule("drop", "response_format"),)
    if "response_format" in also and rejection.opens(_FORMAT_REFUSED):
        yield (LearnedRule("response_format", "json_object"),)
    if "tools" in also and rejection.opens(_NO_TOOLS):
        yield tuple(LearnedRule("drop", name) for name in ("tools", "tool_choice", "parallel_tool_calls"))
    if "max_tokens" in also and (found := rejection.opens(_ROOM)) is not None:
        left = int(found[1][:9]) - int(found[2][:9]) - SPARE_TOKENS  # beside this prompt, and no other
        if left > 0:
            for name in ("max_tokens", "max_completion_tokens"):
                yield (LearnedRule("clamp", name, str(left), ttl_s=0.0),)


# members

MOST_NAMES = 8
"""Of one sentence."""

_VALUE_CODE = "unsupported_value"

_LISTS = (
    re.compile(r"Unrecognized request arguments? supplied: ([\w, ]+)"),
    re.compile(r"Unsupported parameter\(s\): ([\w, `'\"]+)"),
    re.compile(r"Unrecognized keys?(?:\(s\))?(?: in object)?: ((?:['\"][^'\"]+['\"](?:, )?)+)"),
)
_PLACES = (
    re.compile(r"Unsupported parameter: '([^']+)'"),
    re.compile(r"Unknown parameter: '([^']+)'"),
    re.compile(r"([\w.\[\]-]++): Extra inputs are not permitted"),
    re.compile(r"body -> ([\w]+(?: -> [\w]+)*)\s+Extra inputs are not permitted"),
    re.compile(r"Extra inputs are not permitted, field: '([^']+)'"),
    re.compile(r"json: unknown field \\?\"([^\"\\]+)\\?\""),
)
_GEMINI = re.compile(r"Unknown name \\?\"([^\"\\]+)\\?\"(?: at '([^']*)')?: Cannot find field")
_PROPERTY = re.compile(r"('?messages[\w.\[\]]*+'?\s*:\s*|[\w.\[\]]++: )?property '([^']{1,200})' is unsupported")
_IN_MESSAGES = re.compile(r"'?messages\b")
_VALUES = (
    re.compile(r"Unsupported value: '([^']+)' does not support "),
    re.compile(r"invalid (\w+): only "),
    re.compile(r"([A-Za-z0-9_]++)\s*参数非法"),
)
_OTHER_VALUES = re.compile(
    r"(?:(?:[Ss]upported|[Aa]llowed|[Vv]alid) values (?:are|include)|[Mm]ust be one of):? *(.*)", re.DOTALL
)
"""Then only this value is refused, unless there is but one other: that is the default."""
SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "top_k", "min_p")
"""Reasoning models take none of these, and refuse them one by one: RAGFlow's dialogs send four, which are more
than a request is sent again for."""
_FAMILY = frozenset(SAMPLING)
THINKING = ("chat_template_kwargs", "enable_thinking", "thinking")
"""One wish in the words of vLLM, DashScope and GLM. Dify sends two of them to every server (its plugin's default) and
RAGFlow others, and where OpenAI's own words refuse one, none is known."""
_OPENAI = re.compile(r"Unrecognized request arguments? supplied: |Unknown parameter: '")
_WHOLE = frozenset(("stream_options", "metadata", "logit_bias"))
"""They go as a whole: what is in the last two is the client's to name, and might be named without end."""
_NOT_HERE = re.compile(r"with this model\b")
_WORD = re.compile(r"[\w.]+")
_HINT = re.compile(r"Use '([^']+)' instead")
_NO_DIMENSIONS = re.compile(rf"{WORDS}(?:dimensions is currently not supported|does not support matryoshka)")


def members(rejection: UpstreamRejection) -> Iterator[tuple[LearnedRule, ...]]:
    """For unknown members one step that deals with all of them: no request would do without one of the others.

    Where one of SAMPLING is refused as a matter of the model and not of its value's form, the others go along in
    this one request: nobody has refused them yet. So do those of THINKING where OpenAI's API does not know one.
    """
    if rejection.is_of_a_value:
        return
    unknown = [place for place in _agreed(rejection, _unknown(rejection)) if place.partition("[")[0] != "stream"]
    wrong = [
        place for place in _agreed(rejection, _wrong_values(rejection)) if place not in NEVER and place not in RENAMES
    ]
    ttl_s = 0.0 if _is_one_of_several(rejection.text) else HOUR_S
    refused = dict.fromkeys(unknown, HOUR_S) | dict.fromkeys(wrong, ttl_s)
    if _NOT_HERE.search(rejection.text) is not None and not _FAMILY.isdisjoint(refused):
        yield tuple(LearnedRule("drop", place, ttl_s=refused.get(place, 0.0)) for place in SAMPLING)
    if unknown:
        hint = _HINT.search(rejection.text)
        named = [_of_unknown(place, hint[1] if hint is not None else None) for place in unknown[:MOST_NAMES]]
        is_openai = any(_OPENAI.match(sentence) for sentence in rejection.sentences)
        others = THINKING if is_openai and not set(THINKING).isdisjoint(unknown) else ()
        yield (*named, *(LearnedRule("drop", place, ttl_s=0.0) for place in others if place not in unknown))
    yield from ((LearnedRule("drop", place, ttl_s=ttl_s),) for place in wrong)


def _is_one_of_several(text: str) -> bool:
    """Whether it names more than one value that would have been taken."""
    named = _OTHER_VALUES.search(text)
    return named is not None and len(re.split(r",| and | or |\|", named[1].partition(". ")[0])) > 1


def _agreed(rejection: UpstreamRejection, places: Iterable[str]) -> list[str]:
    """The Places among them that are in accord with `param`, which of pydantic's details names the first alone.

    What an upstream names besides is nothing that a change could be about: `tools[0]` is an element, `2fast` no name.
    """
    told = None if rejection.code == "extra_forbidden" else rejection.path
    named = [place for place in dict.fromkeys(places) if JsonMemberPath.is_one(place)]
    return [place for place in named if told is None or f".{told}".endswith(f".{place}")]


def _of_unknown(place: str, hint: str | None) -> LearnedRule:
    if place in RENAMES and hint in (None, RENAMES[place]):
        return LearnedRule("rename", place, RENAMES[place])
    top = place.partition(".")[0]
    return LearnedRule("drop", top if top in _WHOLE else place)


def _unknown(rejection: UpstreamRejection) -> Iterator[str]:
    """The places that the upstream does not know, in its order."""
    yield from _zod(rejection.raw)
    if rejection.code in TAUGHT_CODES - {_VALUE_CODE} and rejection.param:
        yield path_from_error(rejection.param)
    for sentence in rejection.sentences:
        yield from _named(sentence)


def _named(sentence: str) -> Iterator[str]:
    """The names with which the sentence begins."""
    for pattern in _PLACES:
        if (found := pattern.match(sentence)) is not None:
            yield path_from_error(found[1].replace(" -> ", "."))
    for pattern in _LISTS:
        if (found := pattern.match(sentence)) is not None:
            yield from _WORD.findall(found[1])
    if (found := _GEMINI.match(sentence)) is not None and found[2] in (None, "", found[1]):
        yield path_from_error(found[1])
    if (found := _PROPERTY.match(sentence)) is not None:
        place = path_from_error(found[2])  # Groq names the message before it, Cerebras the whole way, twice
        in_messages = _IN_MESSAGES.match(found[1] or "") is not None and not place.startswith("messages[]")
        yield f"messages[].{place}" if in_messages else place


def _zod(raw: Any) -> Iterator[str]:
    """`unrecognized_keys` with the way to the object that has them."""
    issues = raw if isinstance(raw, list) else raw.get("error") if isinstance(raw, dict) else None
    for issue in issues if isinstance(issues, list) else ():
        if isinstance(issue, dict) and issue.get("code") == ZOD_CODE:
            path, keys = issue.get("path"), issue.get("keys")
            suggested_rules = [str(step) for step in path] if isinstance(path, list) else []
            yield from (
                path_from_error(".".join([*suggested_rules, str(key)]))
                for key in (keys if isinstance(keys, list) else ())
            )


def _wrong_values(rejection: UpstreamRejection) -> Iterator[str]:
    """The members whose value the upstream does not take, where leaving them out is an answer to that."""
    if rejection.code == _VALUE_CODE and rejection.param:
        yield path_from_error(rejection.param)
    for pattern in _VALUES:
        if (found := rejection.opens(pattern)) is not None:
            yield path_from_error(found[1])
    if rejection.protocol is ClientProtocol.EMBEDDINGS and rejection.opens(_NO_DIMENSIONS) is not None:
        yield "dimensions"


_PICTURES = (b'"image_url"', b'"input_image"')
_WANTED = {"synth": "auto or emulate", "aggregate": "auto or aggregate"}
REASONING = (
    "The client has to send the reasoning of earlier answers back with them; rules.replayed of the model's entry"
    " has to be keep."
)
_FOR_STREAM = {"synth": "emulate", "aggregate": "aggregate"}

BlockedS = Callable[[LearnedRule], float]
"""For how many seconds a lesson that was tried in vain is not tried again; 0: it was not."""


@dataclass(frozen=True, slots=True)
class LearningSettings:
    """How the model is configured: `learn` and `learn_also` of `upstream` (as `allowance`), `stream` and `suggest` of
    its own entry."""

    upstream: str
    policy: LearningPolicy
    learn: Literal["off", "on"] = "on"
    stream: str = "auto"
    suggest: str | None = None


def advice(
    rejection: UpstreamRejection,
    sent: Call,
    setting: LearningSettings,
    blocked_s: BlockedS = lambda _: 0.0,
    known: Concerned | None = None,
) -> str:
    """Sentences to put behind the upstream's own, "" where there is nothing to say.

    `rejection` is the rejection of `sent`. `blocked_s` holds the rules that failed within the last minute. `known` is
    as in `next_rules`.
    """
    told = [_way(rejection, sent, setting, blocked_s, known)]
    if setting.suggest is not None and any(step for step in suggested_rules(rejection, OPT_IN)):
        told.append(f"The model {setting.suggest!r} may do what was asked for.")
    return " ".join(sentence for sentence in told if sentence)


def _way(
    rejection: UpstreamRejection, sent: Call, setting: LearningSettings, blocked_s: BlockedS, known: Concerned | None
) -> str:
    if rejection.wants_reasoning:
        return REASONING
    for step in suggested_rules(rejection, OPT_IN):
        wanted = [one for one in step if (concerns(one.change(), sent) if known is None else one in known)]
        if wanted:
            return _setting(rejection, wanted, setting, blocked_s)
        if LearnedRule("content", "text") in step and any(name in sent.body for name in _PICTURES):
            return "This model reads text alone, and the request holds pictures."
    return ""


def _setting(
    rejection: UpstreamRejection, wanted: list[LearnedRule], setting: LearningSettings, blocked_s: BlockedS
) -> str:
    refused = [rule for rule in wanted if not setting.policy.allows(rule, rejection.protocol)]
    stream = next((rule for rule in refused if rule.action == "stream"), None)
    if stream is not None:
        return f"The model's entry says stream: {setting.stream}: set it to {_WANTED[stream.field]}."
    names = _setting_names(refused, rejection)
    if names is None:
        return ""
    return _to_set(wanted, names, setting) if names or setting.learn != "on" else _why_not(wanted, blocked_s)


def _to_set(wanted: list[LearnedRule], names: list[str], setting: LearningSettings) -> str:
    wants = [] if setting.learn == "on" else ["learn: on"]
    wants += [f"learn_also: [{', '.join(names)}]"] if names else []
    told = f"{_purpose(wanted)}: upstreams.{setting.upstream}.{' and '.join(wants)}"
    if wanted[0].action == "stream":
        return f"{told}, or stream: {_FOR_STREAM[wanted[0].field]} in the model's entry under models."
    return f"{told}."


def _purpose(wanted: list[LearnedRule]) -> str:
    if all(rule.action == "drop" for rule in wanted):
        return f"To have {_listed([rule.field for rule in wanted])} left out"
    return f"To have such requests adapted ({', '.join(rule.entry for rule in wanted)})"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _why_not(wanted: list[LearnedRule], blocked_s: BlockedS) -> str:
    """Where a change is allowed, and was tried in vain."""
    left_s, entry = max((blocked_s(rule), rule.entry) for rule in wanted)
    if left_s <= 0:
        return ""
    return f"{entry} is not made again for {max(1, round(left_s))} s, because it helped nothing when it was made last."


def _setting_names(refused: list[LearnedRule], rejection: UpstreamRejection) -> list[str] | None:
    """The names for `learn_also` that would allow all of `refused`, one where one does; None where nothing does."""
    found: list[str] = []
    for rule in refused:
        if not any(LearningPolicy(frozenset((name,))).allows(rule, rejection.protocol) for name in found):
            offered = (rule.field, *sorted(OPT_IN))
            name = next(
                (one for one in offered if LearningPolicy(frozenset((one,))).allows(rule, rejection.protocol)), None
            )
            if name is None:
                return None
            found.append(name)
    return found
