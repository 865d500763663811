"""A rule that a rejection teaches, and the same as learned: its subject, evidence and times.

What may be learned: the safe changes always, those that alter what is meant only where the operator says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from gatepass.config.routes import LEARN_ALSO
from gatepass.normalize.embeddings_request import SplitInputs, SplitShare
from gatepass.normalize.members import Clamp, Drop, JsonMemberPath, OrphanedOptions, Rename, Set, Streamed, Unstreamed
from gatepass.normalize.messages import (
    EmptyContent,
    MergedRoles,
    Role,
    SchemaInWords,
    SystemIntoUser,
    TextContent,
    ToolIds,
)
from gatepass.normalize.rule import Change
from gatepass.types import ClientProtocol

SAFE = frozenset(
    (
        *("drop_params", "model_type", "temperature", "top_p", "top_k", "min_p", "do_sample"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "seed"),
        *("user", "store", "metadata", "service_tier", "parallel_tool_calls", "stream_options"),
        *("reasoning_effort", "reasoning", "thinking", "enable_thinking", "thinking_budget"),
        *("chat_template_kwargs", "extra_body", "num_ctx", "keep_alive", "verbosity"),
        *("prompt_cache_key", "prompt_cache_retention", "safety_identifier", "modalities"),
        *("prediction", "cache", "encoding_format"),
    )
)
"""Members of the top level: without them an answer is still one to the same question."""

SAFE_IN_MESSAGES = frozenset(
    f"messages[].{name}"
    for name in (
        *("reasoning_content", "reasoning", "name", "annotations", "refusal", "audio", "function_call"),
        *("provider_specific_fields", "tool_calls[].provider_specific_fields", "tool_calls"),
        *("metadata", "status", "id", "timestamp", "timestamps", "tool_calls[].index"),
    )
)
"""RAGFlow and Open WebUI put members of their own into messages (litellm#30882); RAGFlow sends an answer's
`index` of a tool call back, LiteLLM its own `provider_specific_fields`."""

NEVER = frozenset(("model", "messages", "input", "stream", "role", "content"))
"""No configuration lets a rejection drop one of these."""

RENAMES: Mapping[str, str] = MappingProxyType(
    {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
)

OPT_IN = LEARN_ALSO
"""What `upstreams.NAME.learn_also` may name, beside members that gatepass does not know."""

_BY_WORD: Mapping[str, str] = MappingProxyType(
    {"roles": "merge_roles", "response_format": "response_format", "clamp": "max_tokens"}
)
_PART_OF: Mapping[str, str] = MappingProxyType({"tool_choice": "tools", "thinking": "tool_choice"})


@dataclass(frozen=True, slots=True)
class LearningPolicy:
    """`also` are the names of `learn_also`; `may_stream` is False where the operator has decided about streams;
    `is_configured`: the configuration names the model, so rules of other models do not evict its rules."""

    also: frozenset[str] = frozenset()
    may_stream: bool = True
    is_configured: bool = False

    def allows(self, lesson: LearnedRule, protocol: ClientProtocol) -> bool:
        match lesson.action:
            case "drop":
                return self._may_drop(lesson.field, protocol)
            case "rename":
                return RENAMES.get(lesson.field) == lesson.to
            case "set":
                return lesson.field in SAFE or self._names(lesson.field)
            case "role":
                return lesson.to != "user" or "system_into_user" in self.also
            case "stream":
                return self.may_stream
            case rule:
                return rule not in _BY_WORD or _BY_WORD[rule] in self.also

    def _may_drop(self, field: str, protocol: ClientProtocol) -> bool:
        top, _, inner = field.partition(".")
        if top == "messages[]":
            return field in SAFE_IN_MESSAGES or (inner not in NEVER and field in self.also)
        if top in NEVER or top.endswith("[]"):
            return False
        return top in SAFE or self._names(field) or (field == "dimensions" and protocol is ClientProtocol.EMBEDDINGS)

    def _names(self, field: str) -> bool:
        """Whether the operator allowed it; what belongs to it goes with it."""
        top = field.partition(".")[0]
        return bool({field, top, _PART_OF.get(top)} & self.also)


EVIDENCE_CHARS = 200
QUOTED_CHARS = 40
"""Names and values of members are shorter; what is longer may be what somebody has asked."""
LEFT_OUT = "…"

_QUOTED = re.compile(
    r"""
    (?<!\w)' (?P<single> (?: [^'] | '(?=\w) )* ) (?: ' | \Z )
    | "      (?P<double> (?: [^"\\] | \\. )*   ) (?: " | \\?\Z )
    | `      (?P<tick>   [^`]*                 ) (?: ` | \Z )
    | \u201c (?P<curly>  [^\u201d]*            ) (?: \u201d | \Z )
    | \u2018 (?P<curl>   [^\u2019]*            ) (?: \u2019 | \Z )
    """,
    re.VERBOSE | re.DOTALL,
)
"""An apostrophe inside a word begins nothing and ends nothing; what is never closed goes on to the end."""


def evidence_of(said: str) -> str:
    """`said` without what is quoted in it at length, at most EVIDENCE_CHARS long: upstreams quote what a user wrote,
    and a lesson is shown to others."""
    return _QUOTED.sub(_shortened, said)[:EVIDENCE_CHARS]


def _shortened(found: re.Match[str]) -> str:
    inside = found[str(found.lastgroup)]
    return found[0] if len(inside) <= QUOTED_CHARS else found[0].replace(inside, LEFT_OUT, 1)


HOUR_S = 3600.0
QUARTER_S = 900.0
DAY_S = 86_400.0

ONLY: Mapping[str, frozenset[bytes]] = MappingProxyType(
    {
        "modalities": frozenset((b'["text"]',)),
        "messages[].audio": frozenset((b"null",)),
        "messages[].function_call": frozenset((b"null",)),
        "messages[].tool_calls": frozenset((b"null", b"[]")),
    }
)
"""Members that go only where they say nothing: with any other value they are what the client wants."""

UNSTREAMED = frozenset((("enable_thinking", "false"),))
"""Where it is remembered, this is set only where no stream is asked for: DashScope thinks in streams."""

_FIXED: Mapping[tuple[str, str], Change] = MappingProxyType(
    {
        ("stream", "synth"): Unstreamed(),
        ("stream", "aggregate"): Streamed(),
        ("stream_options", "orphaned"): OrphanedOptions(),
        ("roles", "merged"): MergedRoles(),
        ("content", "text"): TextContent(),
        ("content", "empty"): EmptyContent(),
        ("tool_ids", "short"): ToolIds(),
        ("response_format", "json_object"): SchemaInWords(),
    }
)
_ORDER = (
    *("stream", "stream_options", "rename", "drop", "set", "clamp", "response_format"),
    *("role", "roles", "content", "tool_ids", "split"),
)
"""Of the rules: what one of them makes, the ones behind it see."""
_OPPOSITE: Mapping[str, str] = MappingProxyType(
    {"synth": "aggregate", "aggregate": "synth", "true": "false", "false": "true"}
)
_SHARE = re.compile(r"([1-9][0-9]{0,8})(%?)\Z")
_SCALAR = re.compile(r'true\Z|false\Z|-?[0-9]+\Z|"[A-Za-z0-9_-]*"\Z')


@dataclass(frozen=True, slots=True)
class LearnedRule:
    """One change by its `rule`, the `field` that it is about, and what that becomes (`to`).

    It holds for `ttl_s` seconds; 0: for the one request that it was learned from. `by_credential`: it
    may be different for another credential. Raises ValueError where these make no change.
    """

    action: str
    field: str
    to: str | None = None
    ttl_s: float = HOUR_S
    by_credential: bool = False

    def __post_init__(self) -> None:
        self.change()

    @property
    def key(self) -> tuple[str, str]:
        """Two lessons with one key are about the same thing: only one of them can hold."""
        about = {"stream": "", "role": f"{self.field}>{self.to}"}
        return (self.action, about.get(self.action, self.field))

    @property
    def rank(self) -> int:
        return _ORDER.index(self.action)

    @property
    def entry(self) -> str:
        """How `x-gatepass-adapted` names it."""
        return self.change().entry

    def change(self) -> Change:
        """The change itself."""
        if (fixed := _FIXED.get((self.action, self.field))) is not None:
            return fixed
        if self.action == "split" and (found := _SHARE.match(self.to or "")) is not None:
            return SplitShare(int(found[1])) if found[2] else SplitInputs(int(found[1]))
        if self.action == "role" and self.to is not None:
            return SystemIntoUser() if self.to == "user" else Role(self.field, self.to)
        return _of_member(self)

    def reverses(self, other: LearnedRule) -> bool:
        """Whether this one undoes `other`: together they would go round in a circle."""
        if self.action != other.action:
            return False
        if self.action in ("rename", "role"):
            return (self.field, self.to) == (other.to, other.field)
        if self.action == "stream":
            return _OPPOSITE.get(self.field) == other.field
        return self.action == "set" and self.field == other.field and _OPPOSITE.get(self.to or "") == other.to


def _of_member(lesson: LearnedRule) -> Change:
    path = JsonMemberPath.parse(lesson.field)
    match lesson.action, lesson.to:
        case "drop", None:
            return Drop(path, ONLY.get(lesson.field, frozenset()))
        case "rename", str(name):
            return Rename(path, JsonMemberPath.parse(name).name)
        case "set", str(text) if _SCALAR.match(text):
            unstreamed = lesson.ttl_s > 0 and (lesson.field, text) in UNSTREAMED
            return Set(path, text.encode(), only_there=True, is_shown=True, unstreamed=unstreamed)
        case "clamp", str(number):
            return Clamp(path, most=float(number))
    raise ValueError(f"there is no rule {lesson.action}")


class RuleScope(NamedTuple):
    """What a lesson is about. `credential` names the one in use, for the lessons that depend on it.

    A tuple, for every request is looked up by it: a dataclass takes four times as long to make and to hash.
    """

    upstream: str
    model: str
    operation: str
    credential: str = ""

    def of(self, lesson: LearnedRule) -> RuleScope:
        """The subject without what does not matter to `lesson`."""
        return self if lesson.by_credential else self.plain

    @property
    def plain(self) -> RuleScope:
        """The subject without its credential."""
        return self._replace(credential="") if self.credential else self


Key = tuple[RuleScope, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class LearnedRuleRecord:
    """One learned rule with its evidence, for people. Times are seconds since the epoch.

    `state` is `learned`, or `failed` if it was tried in vain and is not tried again before `expires_at`: then
    `evidence` is what came of it.
    """

    scope: RuleScope
    rule: LearnedRule
    state: str
    evidence: str
    learned_at: float
    expires_at: float
    uses: int = 0

    def as_row(self) -> dict[str, Any]:
        """Plain JSON; the evidence is the upstream's own sentence, secrets masked, cut."""
        return {
            "upstream": self.scope.upstream,
            "model": self.scope.model,
            "operation": self.scope.operation,
            "credential": self.scope.credential,
            "adapted": self.rule.entry,
            "state": self.state,
            "evidence": self.evidence,
            "learned_at": self.learned_at,
            "expires_at": self.expires_at,
            "uses": self.uses,
            "rule": asdict(self.rule),
        }

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """Return what `as_row` wrote in another worker of the same supervisor."""
        subject = RuleScope(*(row[name] for name in ("upstream", "model", "operation", "credential")))
        told = {name: row[name] for name in ("state", "evidence", "learned_at", "expires_at", "uses")}
        return cls(subject, LearnedRule(**row["rule"]), **told)
