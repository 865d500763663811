"""Match an upstream's rejection to the rules that may solve it.

One matcher per area: streams, messages, embeddings, beta features, members of the body. `advice` explains which
setting would allow a rule that gatepass knows but did not apply.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from gatepass.config.routes import BETA, MEMBER_PATH
from gatepass.learning.learned_rule import (
    DAY_S,
    HOUR_S,
    NEVER,
    ONLY_WITH,
    QUARTER_S,
    RENAMES,
    STREAM_SETTING,
    LearnedRule,
    LearningPolicy,
    flow_style,
)
from gatepass.learning.rejection import TAUGHT_CODES, WORDS, ZOD_CODE, UpstreamRejection, path_from_error
from gatepass.normalize.betas import BETA_FIELD, BETA_MEMBERS, ENABLED
from gatepass.normalize.rules import would_change
from gatepass.types import Call

Relevant = Collection[LearnedRule]
"""Rules that would change one body; the result of `relevant_rules`."""
Step = tuple[LearnedRule, ...]
"""Rules that are applied together."""

_FIGURES = r"[0-9]+"
_LONG_NAME = 8
"""Letters from which a name is not an everyday word: `temperature`, but not `user` or `stop`."""
_VALUE_CODE = "unsupported_value"


def suggested_rules(rejection: UpstreamRejection) -> Iterator[Step]:
    """Yield the steps that `rejection` suggests, the most likely first."""
    if rejection.wants_reasoning:
        return
    yield from streaming(rejection)
    yield from conversation(rejection)
    yield from batches(rejection)
    yield from betas(rejection)
    yield from members(rejection)  # last: it reads only a name, the others read a whole sentence


def relevant_rules(rejection: UpstreamRejection, sent: Call) -> Relevant:
    """Return the suggested rules that would change the body `sent`."""
    suggested = {rule for step in suggested_rules(rejection) for rule in step}
    return frozenset(rule for rule in suggested if would_change(rule.change(), sent))


def next_rules(
    rejection: UpstreamRejection, relevant: Relevant, policy: LearningPolicy, is_excluded: Callable[[LearnedRule], bool]
) -> Step:
    """Return the relevant rules of the first step that has any, if all of them are allowed and not excluded."""
    for step in suggested_rules(rejection):
        found = [one for one in step if one in relevant]
        # All or nothing: the upstream would reject a request to which only a part of the step is applied.
        fits = [policy.allows(rule, rejection.members) and not is_excluded(rule) for rule in found]
        if found and all(fits):
            return tuple(found)
    return ()


def contradicts(rejection: UpstreamRejection, rule: LearnedRule) -> bool:
    """Whether the upstream rejects the change that `rule` made."""
    if rejection.wants_reasoning:
        return rule.action == "drop" and "reasoning" in rule.field
    return any(one.reverses(rule) for step in suggested_rules(rejection) for one in step)


def is_same_rejection(rejection: UpstreamRejection, rule: LearnedRule, evidence: str) -> bool:
    """Whether the rejection is again about what `rule`, learned from the sentence `evidence`, was to solve."""
    suggested = {one.key for step in suggested_rules(rejection) for one in step}
    if rule.key in suggested or contradicts(rejection, rule):
        return True
    # an equal text may be about another member, which only `param` or a list names
    if not suggested and re.sub(_FIGURES, "0", rejection.text) == re.sub(_FIGURES, "0", evidence):
        return True
    names: tuple[str, ...] = ()  # by which an upstream names the member that the rule changes
    if rule.action == "stream":
        names = (rule.action,)
    elif rule.action == "rename":
        names = (rule.field, rule.to or "")
    elif rule.action == "beta":
        names = (rule.field,)
    elif rule.action in ("drop", "set", "clamp"):
        names = (rule.field.rpartition(".")[2],)
    for name in names:
        if rejection.param is not None and name in re.split(r"[^A-Za-z0-9_]+", rejection.param):
            return True
        pattern = rf"['\"`]{re.escape(name)}['\"`]"
        if len(name) >= _LONG_NAME or "_" in name or name == "stream":  # recognizable without quotes
            pattern += rf"|(?<![\w.]){re.escape(name)}(?:ing)?(?![\w])"
        if re.search(pattern, rejection.text, re.IGNORECASE) is not None:
            return True
    return False


# streams

# OpenAI, for an organization that is not verified (lobehub#9385). Relays keep the sentence, but often not its param.
_UNVERIFIED = rf"{WORDS}must be verified to stream"
_REFUSED = (  # the first alternatives are OpenAI's for o1 (NextChat#5410)
    r"(?:Unsupported value: )?'?stream'? does not support true|Unsupported value: 'stream'.{0,200}?values are: false"
    rf"|{WORDS}(?:does not|doesn't|do not|don't) support stream(?:ing)?(?![\w_])"
    rf"|{WORDS}[Ss]treaming is not (?:currently )?(?:supported|enabled|allowed|available)"
    r"|Unsupported parameter: 'stream'"
)
_COMBINED = (
    r"(?i)[ ,](?:with|when|while|if|for|together|alongside|combin\w+|and)\b"
    r"(?! (?:this|the|your) (?:[\w.'-]+ )?(?:model|deployment|endpoint|account|organi[sz]ation|region|api|provider)\b)"
)
"""The upstream rejects streams together with something else, not streams as such."""
_NEEDED = (  # DashScope, for models that only stream or that think (ragflow#5912, ragflow#8972)
    rf"{WORDS}only supports? stream(?:ing)?\b|(?:Unsupported value: )?'?stream'? does not support false"
    rf"|{WORDS}please enable the stream parameter"
    r"|(?:parameter\.)?enable_thinking must be set to false for non-stream"
)
# The alternative to a stream for the same models. Streaming is tried first, because it keeps the thinking.
_NO_THINKING = r"(?:parameter\.)?enable_thinking must be set to false"
# DashScope, for models that always think (qwen-code#7332).
_THINKING_ONLY = rf"(?i){WORDS}enable_thinking parameter is restricted to True"


def streaming(rejection: UpstreamRejection) -> Iterator[Step]:
    tops = ("stream", "enable_thinking", "parameters")
    if "stream" not in rejection.members or rejection.is_of_a_value or not rejection.is_about(*tops):
        return
    if rejection.opens(_UNVERIFIED):
        yield (LearnedRule("stream", "synth", ttl_s=QUARTER_S),)
    elif rejection.opens(_NEEDED):
        yield (LearnedRule("stream", "aggregate"),)
    elif (found := rejection.opens(_REFUSED)) or (rejection.code, rejection.param) == (_VALUE_CODE, "stream"):
        rest = found.string[found.end() :] if found is not None else rejection.text
        yield (LearnedRule("stream", "synth", ttl_s=HOUR_S if re.search(_COMBINED, rest) is None else 0.0),)
    # DashScope accepts or rejects `enable_thinking` depending on the model and on `stream`.
    if rejection.opens(_NO_THINKING):
        yield (LearnedRule("set", "enable_thinking", "false"),)
    if rejection.opens(_THINKING_ONLY):
        yield (LearnedRule("drop", "enable_thinking"),)
        yield (LearnedRule("set", "enable_thinking", "true"),)


# messages

_AT = r"(?:'?(?:body\.)?messages[\w.\[\]-]*+'?\s*:\s*)?"
# In this order: clones of OpenAI's API, DeepSeek, the chat templates of vLLM and llama.cpp, GLM in English and Chinese,
# OpenAI.
_DEVELOPER = (
    rf"{_AT}(?:['`\"]?developer['`\"]? is not one of|unknown variant [`'\"]developer|Unexpected message role"
    r"|Incorrect role information|角色信息不正确)|(?:Unsupported value: )?"
    rf"(?:'messages[\w.\[\]]*+' |{WORDS})does not support ['`\"]developer"
)
_ROLES = r"(?=.*\bsystem\b)(?=.*\b(?:user|assistant)\b)"
"""The accepted values are roles, and `system` is one. Without this, a client could send `developer` as the value of
another member."""
# In this order: OpenAI and Volcengine (agno#6697), zod (chatwise-releases#971), a gateway (new-api#5330), pydantic's
# unions (Mistral, Cerebras, SiliconFlow), Groq.
_DEVELOPER_VALUE = (
    rf"{_AT}(?:(?:The|[Ii]nvalid) parameter [`'\"]messages[\w.\[\]]*+[`'\"](?: specified[\w ]*+)?: )?"
    rf"(?:{_ROLES}(?:[Ii]nvalid value: [`'\"]developer[`'\"]|Invalid enum value\. .{{0,200}}received 'developer')"
    r"|(?:[Ii]nvalid|[Uu]nknown|[Uu]nsupported) role:? [`'\"]?developer\b|Input tag 'developer' found using 'role'"
    r"|discriminator property 'role' has invalid value)"
)
# pydantic, FastAPI and zod list the roles that they accept. A list with `developer` rejects another role.
_OTHER_ROLES = (
    rf"(?:(?:body\.)?messages\.\d+\.(?:[\w-]+\.)?role: |{_ROLES}Invalid option: )"
    r"(?:Input should be|expected one of|(?:[\w ]++; )?permitted:) (?!.*developer)"
)
_SYSTEM = (  # OpenAI's o1 models want `developer` instead (cherry-studio#4973)
    rf"(?:Unsupported value: )?(?:'messages[\w.\[\]]*+' |{WORDS})does not support ['`\"]system"
    rf"|{_AT}['`\"]?system['`\"]? is not one of"
)
_NO_SYSTEM = rf"{WORDS}[Ss]ystem role (?:is )?not supported"
# Chat templates of models such as Mistral's, in vLLM (vllm#6862).
_ALTERNATE = rf"{WORDS}roles must alternate"

_STRING_REQUIRED = (  # DeepSeek, Groq, Ollama, Cloudflare, FastAPI
    rf"{_AT}invalid type: sequence, expected a string",
    r"'messages\.\d+\.content' : value must be a string",
    r"(?:json: )?cannot unmarshal array into Go struct field [\w.]*content of type string",
    r"Type mismatch of '/messages/[^/'\s]+/content', 'array' not in 'string'",
    r"(?:body\.)?messages\.\d+\.(?:[\w-]+\.)*content(?:\.str)?: Input should be a valid string",
)
_NULL_REFUSED = (  # LM Studio, Ollama, OpenAI, FastAPI
    r"(?:Invalid 'content': )?'content' field must be a string or an array of objects",
    r"invalid message content type: <nil>",
    r"Invalid value for 'content': expected a string, got null",
    r"(?:body\.)?messages\.\d+\.(?:[\w-]+\.)*content: (?:Field required|none is not an allowed value)",
)
# Mistral accepts no id of another provider (opencode#1680).
_TOOL_ID = r"Tool call id was .{0,200}? but must be a-z, A-Z, 0-9, with a length of 9"


_NO_DEVELOPER = (_DEVELOPER, _DEVELOPER_VALUE, _OTHER_ROLES)
_CONVERSATION: tuple[tuple[tuple[str, ...], tuple[LearnedRule, ...]], ...] = (
    (_NO_DEVELOPER, (LearnedRule("role", "developer", "system"),)),
    ((_SYSTEM,), (LearnedRule("role", "system", "developer"),)),
    # o1-mini rejects `developer` as well
    ((*_NO_DEVELOPER, _SYSTEM, _NO_SYSTEM), (LearnedRule("role", "system", "user"),)),
    ((_ALTERNATE,), (LearnedRule("roles", "merged"),)),
    (_NULL_REFUSED, (LearnedRule("content", "empty"),)),
    (_STRING_REQUIRED, (LearnedRule("content", "text"), LearnedRule("content", "empty"))),
    ((_TOOL_ID,), (LearnedRule("tool_ids", "short"),)),
)
"""By the sentences of a rejection: the rules that may solve it, each a step of its own."""


def conversation(rejection: UpstreamRejection) -> Iterator[Step]:
    if "messages" in rejection.members and rejection.is_about("messages", "role", "content"):
        for patterns, rules in _CONVERSATION:
            if rejection.opens(*patterns):
                yield from ((rule,) for rule in rules)


# embeddings

_LIMITS = (  # DashScope, TEI and SiliconFlow, Azure, Gemini, OpenAI
    rf"{WORDS}batch size (?:is invalid, it should not be larger than|must not exceed) (\d+)",
    rf"{WORDS}batch size \d+ > maximum allowed batch size (\d+)",
    r"[Tt]oo many inputs\. The max number of inputs is (\d+)",
    r"(?:[\w.]++: )?at most (\d+) requests can be in one batch",
    r"(?:Invalid )?'input': array too long\. Expected an array with maximum length (\d+)",
)
_TOKENS = r"Requested (\d[\d,]*) tokens, max (\d[\d,]*) tokens per request"
# Zhipu's older API accepts one text (zhipuai-sdk-python-v4#7). Its sentence names no list, only its code 1214 does.
_STRING_ONLY = r"(?:input|prompt)\s*参数非法"
LARGEST = 100_000
"""Limit on a batch: a larger number in such a sentence is not a number of inputs. OpenAI accepts 2,048."""
FILL = 0.9
"""Part of the tokens per request to use, because inputs differ in length."""


def batches(rejection: UpstreamRejection) -> Iterator[Step]:
    if "input" not in rejection.members:
        return
    # Nine digits at most, here and below: an upstream's text may contain thousands.
    limits = [int(found[1][:9]) for pattern in _LIMITS if (found := rejection.opens(pattern)) is not None]
    if limits and 0 < limits[0] <= LARGEST:
        yield (LearnedRule("split", "input", str(limits[0]), ttl_s=DAY_S),)
    if (over := rejection.opens(_TOKENS)) is not None:
        requested, most = (int(figure.replace(",", "")[:15]) for figure in over.groups())
        if 0 < most < requested:  # not stored: another request with as many inputs may fit
            yield (LearnedRule("split", "input", f"{max(1, int(100 * FILL * most / requested))}%", ttl_s=0.0),)
    if rejection.code == "1214" and rejection.opens(_STRING_ONLY):
        yield (LearnedRule("split", "input", "1", ttl_s=DAY_S),)


# values of the header `anthropic-beta`

_BETA_NAMES = r"([`'\"]?[a-z][a-z0-9-]*+[`'\"]?(?:, ?[`'\"]?[a-z][a-z0-9-]*+[`'\"]?)*)"
_REFUSED_BETAS = (  # Anthropic, Vertex AI and Foundry (vercel/ai#10981), then Anthropic's documentation and Copilot
    rf"Unexpected value\(s\) {_BETA_NAMES} for the `anthropic-beta` header",
    rf"[Uu]nsupported beta header(?:\(s\)|s)?: {_BETA_NAMES}",
)
# Bedrock (claude-code#49648), also inside the texts of its SDKs and of LiteLLM. It does not name the value.
_REFUSED_BETA = r"(?:[\w /.,:-]{0,300}: )?(?:\{\"[Mm]essage\": ?\")?invalid beta flag\b"
# Anthropic, for an account without it.
_NO_LONG_CONTEXT = rf"{WORDS}long context beta is not yet available"
_LONG_CONTEXT = "context-1m-"
KEPT_FIRST = ("claude-code-", "interleaved-thinking-")
"""Beginnings of the values that remain in the first repeat after a rejection that names none."""


def betas(rejection: UpstreamRejection) -> Iterator[Step]:
    """Yield rules for the values that the error names.

    Bedrock names none, and an error that names all of several may only quote the header. A single value is the rejected
    one. Of several, the first repeat keeps only those of KEPT_FIRST, the second none. These rules are for requests that
    send all of the same values, because another request may have only values that the upstream accepts.
    """
    sent = rejection.betas
    if BETA_FIELD not in rejection.members or not rejection.is_about(BETA_FIELD):
        return
    found = rejection.opens(*_REFUSED_BETAS)
    names = [] if found is None else [name.strip(" `'\"") for name in found[1].split(",")]
    names_all = len(set(sent)) > 1 and set(sent).issubset(names)
    if found is not None and not names_all:
        yield tuple(LearnedRule("beta", name) for name in names[:MOST_NAMES] if BETA.match(name) is not None)
    elif rejection.opens(_NO_LONG_CONTEXT) is not None:
        yield tuple(LearnedRule("beta", name) for name in sent if name.startswith(_LONG_CONTEXT))
    elif (names_all or rejection.opens(_REFUSED_BETA) is not None) and sent and all(map(BETA.match, sent)):
        kept = [name for name in sent if name.startswith(KEPT_FIRST)]
        if len(sent) == 1:
            yield (LearnedRule("beta", sent[0]),)
        else:
            yield (LearnedRule("betas", "+".join(sent), "+".join(kept) if len(kept) < len(sent) else ""),)


# members

MOST_NAMES = 8

_LISTS = (  # OpenAI's older API and Azure, NVIDIA (9router#3325), Venice (llm-venice#3), LiteLLM
    r"Unrecognized request arguments? supplied: ([\w, ]+)",
    r"Unsupported parameter\(s\): ([\w, `'\"]+)",
    r"Unrecognized keys?(?:\(s\))?(?: in object)?: ((?:['\"][^'\"]+['\"](?:, )?)+)",
    rf"{WORDS}does not support parameters: \[((?:'[\w.]+'(?:, )?)+)\]",
)
_PLACES = (  # OpenAI twice, pydantic twice (Mistral, FastAPI), a gateway, Databricks (continue#12936)
    r"Unsupported parameter: '([^']+)'",
    r"Unknown parameter: '([^']+)'",
    r"([\w.\[\]-]++): Extra inputs are not permitted",
    r"body -> ([\w]+(?: -> [\w]+)*)\s+Extra inputs are not permitted",
    r"Extra inputs are not permitted, field: '([^']+)'",
    r"json: unknown field \\?\"([^\"\\]+)\\?\"",
)
_GEMINI = r"Unknown name \\?\"([^\"\\]+)\\?\"(?: at '([^']*)')?: Cannot find field"
# Groq and Cerebras, for members of replayed messages.
_PROPERTY = r"('?messages[\w.\[\]]*+'?\s*:\s*|[\w.\[\]]++: )?property '([^']{1,200})' is unsupported"
_IN_MESSAGES = r"'?messages\b"
_ILLEGAL = r"([A-Za-z0-9_]++)\s*参数非法"
"""GLM's sentence for a value that it rejects. It accepts others, so the value of one client teaches nothing."""
_VALUES = (  # OpenAI (litellm#13397), Kimi, GLM
    r"Unsupported value: '([^']+)' does not support ",
    r"invalid (\w+): only ",
    _ILLEGAL,
)
_OTHER_VALUES = r"(?s)(?:(?:[Ss]upported|[Aa]llowed|[Vv]alid) values (?:are|include)|[Mm]ust be one of):? *(.*)"
"""The accepted values that the upstream names. If there are two or more, only this value is rejected. A single one is
the default."""
_DROPPED_WHOLE = frozenset(("stream_options", "metadata", "logit_bias"))
"""Objects dropped as a whole: the client chooses the names in the last two, so their number has no limit."""
_FLAT_STRICT, _NESTED_STRICT = "tools[].strict", "tools[].function.strict"
_WORD = r"[\w.]+"
_BRANCHES = frozenset(("custom", "ephemeral", "text", "image", "document", "tool_use", "tool_result", "search_result"))
"""What Anthropic's errors write between a member and its own members, such as `tools.0.custom.defer_loading`."""
_HINT = r"Use '([^']+)' instead"
# vLLM (vllm#15465).
_NO_DIMENSIONS = rf"{WORDS}(?:dimensions is currently not supported|does not support matryoshka)"


def members(rejection: UpstreamRejection) -> Iterator[Step]:
    if rejection.is_of_a_value:
        return
    unknown = [
        path for path in _confirmed(rejection, _unknown_members(rejection)) if path.partition("[")[0] != "stream"
    ]
    wrong = [
        path for path in _confirmed(rejection, _wrong_values(rejection)) if path not in NEVER and path not in RENAMES
    ]
    accepted = re.search(_OTHER_VALUES, rejection.text)
    is_one_of_several = accepted and len(re.split(r",| and | or |\|", accepted[1].partition(". ")[0])) > 1
    ttl_s = 0.0 if is_one_of_several or rejection.opens(_ILLEGAL) is not None else HOUR_S
    if _FLAT_STRICT in unknown:  # upstreams that name it like this in chats too, where it is in `function`
        unknown.append(_NESTED_STRICT)
    enabling: list[str] = []
    if BETA_FIELD in rejection.members:
        plain = [".".join(step for step in path.split(".") if step not in _BRANCHES) for path in unknown]
        unknown = [short if short in ENABLED else path for short, path in zip(plain, unknown, strict=True)]
        # A client that forgets the value teaches nothing about requests that have it.
        if any(_lacks_beta(path, rejection.betas) for path in (*unknown, *wrong)):
            return
        enabling = [beta for beta, paths in BETA_MEMBERS.items() if not set(paths).isdisjoint(unknown)]
    if unknown:  # one step for all of them, because the upstream accepts no request that has one
        hint = re.search(_HINT, rejection.text)
        rules = []
        for path in unknown[:MOST_NAMES]:
            top = path.partition(".")[0]
            if path in RENAMES and (hint is None or hint[1] == RENAMES[path]):
                rules.append(LearnedRule("rename", path, RENAMES[path]))
            else:
                rules.append(LearnedRule("drop", top if top in _DROPPED_WHOLE else path))
        yield (*rules, *(LearnedRule("beta", beta) for beta in enabling))
    yield from ((LearnedRule("drop", path, ttl_s=ttl_s),) for path in wrong)


def _lacks_beta(path: str, sent: Collection[str]) -> bool:
    """Whether values of BETA_MEMBERS enable the member at `path`, and the request has none of them."""
    enabling = {
        beta
        for beta, enabled in BETA_MEMBERS.items()
        for member in enabled
        if f"{path}.".startswith(f"{member}.") or (path in ONLY_WITH and member.startswith(f"{path}."))
    }
    return bool(enabling) and enabling.isdisjoint(sent)


def _confirmed(rejection: UpstreamRejection, paths: Iterable[str]) -> list[str]:
    """Return those of `paths` that a rule can change and that agree with the error's `param`."""
    # pydantic's `param` names only the first of several members.
    param = None if rejection.code == "extra_forbidden" else rejection.path
    # `tools[0]` is an element and `2fast` is not a name: no rule can change them.
    valid = [path for path in dict.fromkeys(paths) if MEMBER_PATH.match(path)]
    return [path for path in valid if param is None or f".{param}".endswith(f".{path}")]


def _unknown_members(rejection: UpstreamRejection) -> Iterator[str]:
    """Yield the paths that the upstream does not know, in its order."""
    raw = rejection.raw
    issues = raw if isinstance(raw, list) else raw.get("error") if isinstance(raw, dict) else None
    for issue in issues if isinstance(issues, list) else ():
        if isinstance(issue, dict) and issue.get("code") == ZOD_CODE:
            path, keys = issue.get("path"), issue.get("keys")
            steps = [str(step) for step in path] if isinstance(path, list) else []
            names = keys if isinstance(keys, list) else ()
            yield from (path_from_error(".".join([*steps, str(name)])) for name in names)
    if rejection.code in TAUGHT_CODES - {_VALUE_CODE} and rejection.param:
        yield path_from_error(rejection.param)
    for sentence in rejection.sentences:
        for pattern in _PLACES:
            if (found := re.match(pattern, sentence)) is not None:
                yield path_from_error(found[1].replace(" -> ", "."))
        for pattern in _LISTS:
            if (found := re.match(pattern, sentence)) is not None:
                yield from re.findall(_WORD, found[1])
        if (found := re.match(_GEMINI, sentence)) is not None and found[2] in (None, "", found[1]):
            yield path_from_error(found[1])
        if (found := re.match(_PROPERTY, sentence)) is not None:
            path = path_from_error(found[2])  # Groq names the message before it, Cerebras the whole path, twice
            in_messages = re.match(_IN_MESSAGES, found[1] or "") is not None and not path.startswith("messages[]")
            yield f"messages[].{path}" if in_messages else path


def _wrong_values(rejection: UpstreamRejection) -> Iterator[str]:
    """Yield the members whose value the upstream rejects and that may be dropped for it."""
    if rejection.code == _VALUE_CODE and rejection.param:
        yield path_from_error(rejection.param)
    for pattern in _VALUES:
        if (found := rejection.opens(pattern)) is not None:
            yield path_from_error(found[1])
    if "dimensions" in rejection.members and rejection.opens(_NO_DIMENSIONS) is not None:
        yield "dimensions"


# advice for the operator

_IMAGES = (b'"image_url"', b'"input_image"')
REASONING_ADVICE = (
    "The client must send the reasoning of earlier answers back with them, and rules.drop of the model's entry must not"
    " name it."
)


@dataclass(frozen=True, slots=True)
class LearningSettings:
    upstream: str
    policy: LearningPolicy
    learn: Literal["off", "on"] = "on"
    stream: str = "auto"


def advice(rejection: UpstreamRejection, sent: Call, setting: LearningSettings, relevant: Relevant) -> str:
    """Return sentences to append to the upstream's error message, "" if there are none.

    `rejection` is the rejection of `sent`, `relevant` the result of `relevant_rules` for both.
    """
    advised = REASONING_ADVICE if rejection.wants_reasoning else ""
    for step in suggested_rules(rejection):  # none if the upstream requires reasoning
        rules = [one for one in step if one in relevant]
        if rules:
            advised = _setting_advice(rejection, rules, setting)
            break
        if LearnedRule("content", "text") in step and any(name in sent.body for name in _IMAGES):
            advised = "This model accepts text only, and the request contains images."
            break
    return advised.strip()


def _setting_advice(rejection: UpstreamRejection, rules: list[LearnedRule], setting: LearningSettings) -> str:
    forbidden = [rule for rule in rules if not setting.policy.allows(rule, rejection.members)]
    stream = next((rule for rule in forbidden if rule.action == "stream"), None)
    if stream is not None:
        return f"The model's entry sets stream: {setting.stream}. Set it to auto or {STREAM_SETTING[stream.field]}."
    fields = [rule.field for rule in rules]
    purpose = f"drop {', '.join(fields[:-1])} and {fields[-1]}" if fields[1:] else f"drop {fields[0]}"
    if any(rule.action != "drop" for rule in rules):
        purpose = f"adapt such requests ({', '.join(rule.entry for rule in rules)})"
    if forbidden:
        settings = _joined_settings(rules)
        return f"To {purpose}, set {settings} in the model's entry under models." if settings else ""
    if setting.learn == "on":
        return ""  # they failed within the last minute
    sentence = f"To {purpose}, set upstreams.{setting.upstream}.learn: on"
    if rules[0].action == "stream":
        return f"{sentence}, or stream: {STREAM_SETTING[rules[0].field]} in the model's entry under models."
    return f"{sentence}."


def _joined_settings(rules: list[LearnedRule]) -> str:
    """Return the `rules` of a model's entry that make the same changes.

    "" if no setting makes one of them, or if a request would lose its meaning.
    """
    found: dict[str, Any] = {}
    for rule in rules:
        setting = rule.setting().get("rules")
        if setting is None or rule.field.rpartition(".")[2] in NEVER:
            return ""
        for name, value in setting.items():
            match found.get(name):
                case list() as before:
                    found[name] = [*before, *value]
                case dict() as before:
                    found[name] = {**before, **value}
                case _:
                    found[name] = value
    return f"rules: {flow_style(found)}"
