"""Choose the rules that may solve an upstream's rejection, from what the reader found in it.

One function per area: streams, messages, embeddings, beta features, members of the body. `advice` explains which
setting would allow a rule that gatepass knows but did not apply.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from gatepass.config.routes import BETA
from gatepass.learning.learned_rule import (
    DAY_S,
    HOUR_S,
    ONLY,
    ONLY_WITH,
    RENAMES,
    STREAM_SETTING,
    LearnedRule,
    LearningPolicy,
    flow_style,
    merged,
)
from gatepass.learning.reader import DROPPED_WHOLE, EMPTY, NEVER, Finding, Says, carries_meaning, plain
from gatepass.learning.rejection import UpstreamRejection
from gatepass.normalize.betas import BETA_FIELD, BETA_MEMBERS
from gatepass.normalize.rules import effective
from gatepass.types import Call

Step = tuple[LearnedRule, ...]
"""Rules that are applied together."""
Relevant = Sequence[Step]
"""The result of `relevant_rules`."""


def suggested_rules(rejection: UpstreamRejection) -> Iterator[Step]:
    """Yield the steps that `rejection` suggests, the most likely first."""
    if rejection.wants_reasoning:
        return
    yield from fixed(rejection)
    yield from betas(rejection)
    yield from members(rejection)


def relevant_rules(rejection: UpstreamRejection, sent: Call) -> Relevant:
    """Return the steps of the suggested rules that would change the body `sent`."""
    steps = list[Step]()
    for step in suggested_rules(rejection):
        made = effective([rule.change() for rule in step], sent)
        if found := tuple(rule for rule in step if rule.change() in made):
            steps.append(found)
    return steps


def next_rules(
    rejection: UpstreamRejection, relevant: Relevant, policy: LearningPolicy, is_excluded: Callable[[LearnedRule], bool]
) -> Step:
    """Return the first step of which all rules are allowed and not excluded.

    All or nothing: the upstream would reject a request to which only a part of the step is applied.
    """
    for step in relevant:
        if all(policy.allows(rule, rejection.members) and not is_excluded(rule) for rule in step):
            return step
    return ()


def contradicts(rejection: UpstreamRejection, rule: LearnedRule) -> bool:
    """Whether the upstream rejects the change that `rule` made."""
    if rejection.wants_reasoning:
        return rule.action == "drop" and "reasoning" in rule.field
    return any(one.reverses(rule) for step in suggested_rules(rejection) for one in step)


# streams, messages, embeddings

_FIXED: Mapping[Says, tuple[LearnedRule, ...]] = MappingProxyType(
    {
        Says.STREAM: (LearnedRule("stream", "synth"), LearnedRule("stream", "aggregate")),
        # o1-mini rejects `developer` as well
        Says.DEVELOPER: (LearnedRule("role", "developer", "system"), LearnedRule("role", "system", "user")),
        Says.SYSTEM: (LearnedRule("role", "system", "developer"), LearnedRule("role", "system", "user")),
        Says.NO_SYSTEM: (LearnedRule("role", "system", "user"),),
        Says.ALTERNATE: (LearnedRule("roles", "merged"),),
        Says.SYSTEM_FIRST: (LearnedRule("roles", "system"),),
        Says.TEXT: (LearnedRule("content", "text"), LearnedRule("content", "empty")),
        Says.NO_NULL: (LearnedRule("content", "empty"),),
        Says.FILLED: (LearnedRule("content", "filled"), LearnedRule("content", "empty")),
        Says.TOOL_ID: (LearnedRule("tool_ids", "short"),),
    }
)
"""The rules that may solve what an error says. Each of them is one step."""
_TOPS = {
    "stream": ("stream", "enable_thinking", "parameters"),
    "messages": ("messages", "input", "role", "content", "tools"),
}


def fixed(rejection: UpstreamRejection) -> Iterator[Step]:
    """Yield the steps about streams, messages and batches."""
    for finding in rejection.findings:
        member = "input" if finding.says is Says.BATCH else finding.path or "messages"
        rules = _FIXED.get(finding.says, ())
        if BETA_FIELD in rejection.members and finding.says in (Says.DEVELOPER, Says.SYSTEM, Says.NO_SYSTEM):
            rules = _FIXED[Says.SYSTEM_FIRST]  # messages have a member for it
        is_changed = member in rejection.members or finding.says is Says.TOOL_ID  # in the input of a response too
        if not is_changed or (rules and not rejection.is_about(*_TOPS[member])):
            continue
        # of a combination with something else: streams as such are not refused
        yield from ((replace(rule, ttl_s=0.0) if finding.beside else rule,) for rule in rules)
        if finding.says is Says.BATCH:  # a share is not stored: another request with as many inputs may fit
            yield (LearnedRule("split", "input", finding.to, ttl_s=0.0 if finding.to.endswith("%") else DAY_S),)


# values of the header `anthropic-beta`

# Anthropic, Vertex AI and Foundry (vercel/ai#10981), Copilot; Bedrock names no value (claude-code#49648)
_REFUSED_BETA = (
    r"(?i)\b(?:unexpected|unsupported|invalid|unknown|unrecogni[sz]ed)\b.{0,2000}\bbeta\b|\bbeta\b.{0,60}\bnot\b"
)
_UNNAMED_BETA = "beta flag"
# Anthropic, for an account without it.
_NO_LONG_CONTEXT, _LONG_CONTEXT = "long context beta", "context-1m-"
KEPT_FIRST = ("claude-code-", "interleaved-thinking-")
"""Beginnings of the values that remain in the first repeat after a rejection that names none."""


def betas(rejection: UpstreamRejection) -> Iterator[Step]:
    """Yield rules for the values that the error names.

    Bedrock names none, and an error that names all of several may only quote the header. A single value is the rejected
    one. Of several, the first repeat keeps only those of KEPT_FIRST, the second none. These rules are for requests that
    send all of the same values, because another request may have only values that the upstream accepts.
    """
    sent, text = tuple(filter(BETA.match, dict.fromkeys(rejection.betas))), plain(rejection.text)
    if BETA_FIELD not in rejection.members or not rejection.is_about(BETA_FIELD):
        return
    if not sent or re.search(_REFUSED_BETA, text) is None:
        return
    words, is_long = set(re.findall(r"[a-z][a-z0-9-]+", text)), _NO_LONG_CONTEXT in text
    named = [name for name in sent if name in words or (is_long and name.startswith(_LONG_CONTEXT))]
    if not named and _UNNAMED_BETA not in text:
        return
    if len(sent) == 1 or 0 < len(named) < len(sent):
        yield tuple(LearnedRule("beta", name) for name in named or sent)
    else:
        kept = [name for name in sent if name.startswith(KEPT_FIRST)]
        yield (LearnedRule("betas", "+".join(sent), "+".join(kept) if len(kept) < len(sent) else ""),)


# members

MOST_NAMES = 20
"""Members that one error teaches. One that names more only advises."""
_FLAT_STRICT, _NESTED_STRICT = "tools[].strict", "tools[].function.strict"
_HINT = r"(?i)use ['\"`]?(\w+)['\"`]? instead"


def members(rejection: UpstreamRejection) -> Iterator[Step]:
    """Yield one step for all members, because the upstream accepts no request that has one, and the alternative to it.

    A member that has one right value is left out first, and then gets this value, unless it is a word.
    """
    found = [one for one in rejection.findings if one.says in _OF_MEMBERS and one.path != "stream"]
    if len(found) > MOST_NAMES:
        yield tuple(LearnedRule("drop", one.path, "any") for one in found[:MOST_NAMES])
        return
    first = [rule for one in found for rule in _rules(rejection, one)]
    if first:
        yield tuple(dict.fromkeys(first))
    seconds = [rule for one in found if one.says is Says.NEEDS and (rule := _set(one)) not in first]
    if seconds:
        yield tuple(seconds)
    # never learned: the advice for the operator
    kept = [one for one in found if one.path in ONLY and one.says in (Says.REFUSED, Says.VALUE)]
    if kept := [*kept, *(one for one in rejection.findings if one.says is Says.NAMED)]:
        yield tuple(LearnedRule("drop", one.path, "any") for one in kept)


_OF_MEMBERS = (Says.REFUSED, Says.VALUE, Says.NEEDS, Says.EXCLUSIVE, Says.EMPTY, Says.TOO_LARGE, Says.SCHEMA)


def _set(finding: Finding) -> LearnedRule:
    return LearnedRule("set", finding.path, finding.to, beside=finding.beside)


def _rules(rejection: UpstreamRejection, finding: Finding) -> Iterator[LearnedRule]:
    path, says = finding.path, finding.says
    if says is Says.SCHEMA:
        yield LearnedRule("schema", path)
    elif says is Says.EMPTY:
        yield LearnedRule("drop", path, "empty")
    elif says is Says.TOO_LARGE:  # a bound that depends on the prompt of this request is not stored
        yield LearnedRule("clamp", path, finding.to.rstrip("!"), ttl_s=0.0 if finding.to.endswith("!") else HOUR_S)
    elif says is Says.NEEDS and (finding.to[0] in '"f' or path not in (rejection.sent or ())):
        yield _set(finding)
    elif path in RENAMES and says is Says.REFUSED and re.findall(_HINT, rejection.text) in ([], [RENAMES[path]]):
        yield LearnedRule("rename", path, RENAMES[path])
    else:
        sent = (rejection.sent or {}).get(path, "")
        # of an unknown member another request may have a value that carries meaning
        is_flag = carries_meaning(path) and not carries_meaning(path, sent)
        value = None
        if says is Says.VALUE or is_flag:
            value = "empty" if sent in EMPTY else sent
        beside, enabling = finding.beside, set[str]()
        if BETA_FIELD in rejection.members:
            enabling = {
                beta
                for beta, enabled in BETA_MEMBERS.items()
                for member in enabled
                if f"{path}.".startswith(f"{member}.") or (path in ONLY_WITH and member.startswith(f"{path}."))
            }
            # a client that forgets the value teaches nothing about requests that have it
            if enabling and enabling.isdisjoint(rejection.betas):
                beside = "!" + "+".join(sorted(enabling))
        top = path.partition(".")[0]
        if says is Says.VALUE and path.startswith("thinking."):  # it is incomplete without one of its members
            path, value = top, ""
        field, ttl_s = top if top in DROPPED_WHOLE else path, HOUR_S if value != "" and finding.to != "!" else 0.0
        rule = LearnedRule("drop", field, value or None, ttl_s, beside)
        yield rule
        if path == _FLAT_STRICT:  # upstreams that name it like this in chats too, where it is in `function`
            yield replace(rule, field=_NESTED_STRICT)
        yield from (LearnedRule("beta", beta) for beta in sorted(enabling) if path in BETA_MEMBERS[beta])


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
    if rejection.wants_reasoning:
        return REASONING_ADVICE
    is_of_text = any(one.says is Says.TEXT for one in rejection.findings)
    if is_of_text and not relevant and any(name in sent.body for name in _IMAGES):
        return "This model accepts text only, and the request contains images."
    if not relevant:
        return ""
    rules = relevant[0]
    forbidden = [rule for rule in rules if not setting.policy.allows(rule, rejection.members)]
    stream = next((rule for rule in forbidden if rule.action == "stream"), None)
    if stream is not None:
        return f"The model's entry sets stream: {setting.stream}. Set it to auto or {STREAM_SETTING[stream.field]}."
    fields = [rule.field for rule in rules]
    purpose = f"drop {', '.join(fields[:-1])} and {fields[-1]}" if fields[1:] else f"drop {fields[0]}"
    if any(rule.action != "drop" for rule in rules):
        purpose = f"adapt such requests ({', '.join(rule.entry for rule in rules)})"
    if forbidden and not any(rule.ttl_s for rule in forbidden):  # about the length of this prompt
        return ""
    if forbidden:
        settings = _joined_settings(rules)
        return f"To {purpose}, set {settings} in the model's entry under models." if settings else ""
    if setting.learn == "on":
        return ""  # they failed within the last minute
    sentence = f"To {purpose}, set upstreams.{setting.upstream}.learn: on"
    if rules[0].action == "stream":
        return f"{sentence}, or stream: {STREAM_SETTING[rules[0].field]} in the model's entry under models."
    return f"{sentence}."


_FORM = frozenset(("type", "function", "parameters", "input_schema", "schema"))
"""A tool or a part without one of these is none."""


def _joined_settings(rules: Step) -> str:
    """Return the `rules` of a model's entry that make the same changes.

    "" if no setting makes one of them, or if a request would lose its meaning.
    """
    found: dict[str, Any] = {}
    for rule in rules:
        setting = replace(rule, beside="").setting().get("rules")
        if setting is None or rule.field.rpartition(".")[2] in NEVER | _FORM:
            return ""
        found = merged(found, setting)
    return f"rules: {flow_style(found)}"
