"""Define a learned rule, its scope, its record, and the policy that decides which rules may be learned.

Safe changes may always be learned. A change that alters the meaning of a request is never learned: the error names the
setting under `rules` that makes it. A record has the setting that makes its rule permanent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec

from gatepass.config.routes import BETA
from gatepass.draft import Change
from gatepass.learning.reader import LIMITS, NEVER, SAFE, carries_meaning
from gatepass.normalize import messages
from gatepass.normalize.betas import BETA_FIELD, ENABLED, DropBetas
from gatepass.normalize.embeddings_request import SplitInputs
from gatepass.normalize.members import (
    Clamp,
    Drop,
    DropKeyword,
    JsonMemberPath,
    Rename,
    Set,
    request_stream,
    request_whole_reply,
    serve_by_chat,
)
from gatepass.normalize.rules import Where

RENAMES: Mapping[str, str] = MappingProxyType(
    {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
)
"""OpenAI's reasoning models accept the new name only, older API versions of Azure and Mistral the old one only."""


@dataclass(frozen=True, slots=True)
class LearningPolicy:
    """Which rules may be learned for one model.

    `may_stream` is False if the configuration sets `stream`. `fits_answers`: `ClientProtocol.fits_answers`.
    """

    may_stream: bool = True
    fits_answers: bool = True

    def allows(self, rule: LearnedRule, members: frozenset[str]) -> bool:
        """Whether `rule` may be learned for an operation with these `members`, which rules may change."""
        field = rule.field
        match rule.action:
            case "drop":
                if rule.to == "any" or field in NEVER or field.endswith((".role", ".content")):
                    return False
                if rule.to == "empty" or field in ONLY or {field, rule.beside}.issubset(LIMITS):
                    return True
                if BETA_FIELD in members and (field in ENABLED or field in ONLY_WITH):
                    return True
                # `dimensions` is safe where the length of the vectors in the reply is checked
                is_dimensions = field == "dimensions" and field in members
                return is_dimensions or not carries_meaning(field, rule.to or "")
            case "rename":
                return "max_tokens" in members and RENAMES.get(field) == rule.to
            case "set":
                return field.partition(".")[0] in SAFE
            case "clamp":
                return field in LIMITS and (self.fits_answers or rule.ttl_s > 0)
            case "role":
                return rule.to != "user"
            case "stream":
                return self.may_stream
            case action:
                return (action, field) != ("roles", "merged")


EVIDENCE_CHARS = 200
QUOTE_CHARS = 42
"""Names and values of members are shorter; a longer quote may be a user's text."""
_QUOTE = re.compile(
    r"""(?<!\w)'(?:[^']|'(?=\w))*'?|"(?:[^"\\]|\\.)*"?|`[^`]*`?|\u201c[^\u201d]*\u201d?|\u2018[^\u2019]*\u2019?""",
    re.DOTALL,
)
"""A quote. An apostrophe inside a word begins and ends none; an unclosed quote extends to the end."""


def evidence_of(message: str) -> str:
    """Return an upstream's `message` without long quotes, cut to EVIDENCE_CHARS.

    Upstreams quote text that a user wrote, and other callers see the evidence of a learned rule.
    """
    return _QUOTE.sub(lambda found: found[0] if len(found[0]) <= QUOTE_CHARS else "…", message)[:EVIDENCE_CHARS]


HOUR_S = 3600.0
"""Validity of most rules. Providers change what a model accepts without notice, and an expired rule costs one call."""
DAY_S = 86_400.0
"""Validity of batch limits: they are settings of a server and change seldom."""

ONLY: Mapping[str, frozenset[bytes]] = MappingProxyType(
    {
        "modalities": frozenset((b'["text"]',)),
        "tool_choice": frozenset((b'"auto"',)),
        "response_format": frozenset((b'{"type":"text"}',)),
        "n": frozenset((b"1",)),
        "messages[].audio": frozenset((b"null",)),
        "messages[].function_call": frozenset((b"null",)),
        "messages[].tool_calls": frozenset((b"null", b"[]")),
    }
)
"""Members to drop only if they have one of these values, which mean nothing. The client needs any other value."""

ONLY_WITH: Mapping[str, frozenset[str]] = MappingProxyType({"output_config": frozenset(("effort", "task_budget"))})
"""Objects to drop only without other members: `output_config.format` decides the form of the answer."""

UNSTREAMED = frozenset((("enable_thinking", "false"),))
"""Values that a stored rule sets only in requests without a stream: DashScope supports thinking in streams."""

_FIXED: Mapping[tuple[str, str], tuple[Change, str]] = MappingProxyType(
    {
        ("stream", "synth"): (request_whole_reply, ""),
        ("stream", "aggregate"): (request_stream, ""),
        ("protocols", "chat"): (serve_by_chat, ""),
        ("roles", "merged"): (messages.merge_roles, "merge_roles"),
        ("roles", "system"): (messages.merge_system, "merge_roles"),
        ("content", "text"): (messages.join_text_parts, "text_content"),
        ("content", "empty"): (messages.fill_empty_content, ""),
        ("content", "filled"): (messages.drop_empty_text, ""),
        ("tool_ids", "short"): (messages.shorten_tool_ids, ""),
    }
)
"""By the action and the field of a rule: its change, and the switch in `rules` that does the same."""
STREAM_SETTING: Mapping[str, str] = MappingProxyType({"synth": "emulate", "aggregate": "aggregate"})
"""The value of the setting `stream` that does the same as a `stream` rule with the field."""
_ORDER = (
    *("protocols", "stream", "rename", "drop", "schema", "set", "clamp"),
    *("role", "roles", "content", "tool_ids", "split", "betas", "beta"),
)
"""The order in which actions are applied: each one sees the result of those before it."""
_OPPOSITE: Mapping[str, str] = MappingProxyType(
    {"synth": "aggregate", "aggregate": "synth", "true": "false", "false": "true", "empty": "filled", "filled": "empty"}
)
_SHARE = re.compile(r"([1-9][0-9]{0,8})(%?)\Z")
# No objects, lists or free text: an upstream's error chooses the value that goes into a client's request.
SCALAR = re.compile(r'true\Z|false\Z|-?[0-9]+(?:\.[0-9]+)?\Z|"[A-Za-z0-9_-]*"\Z')
_DROPPED: Mapping[str, frozenset[bytes]] = MappingProxyType({"any": frozenset(), "empty": frozenset((b"null", b"[]"))})
"""By the value of a `drop` rule: the values that it drops, all if there are none. `any` is advised only."""


@dataclass(frozen=True, slots=True)
class LearnedRule:
    """One change: its `action`, the `field` that it changes, and the new value or name (`to`). Raises ValueError.

    `to` of a `drop` limits it to this value (JSON), or to empty ones. `ttl_s`: validity in seconds; 0 limits the rule
    to the request from which it was learned. `beside`: the rule is for requests with this member, or without the betas
    behind "!".
    """

    action: str
    field: str
    to: str | None = None
    ttl_s: float = HOUR_S
    beside: str = ""

    def __post_init__(self) -> None:
        self.change()  # now, so that an impossible rule never reaches a request

    @property
    def key(self) -> tuple[str, str]:
        """Identifies what the rule changes: only one rule with a key can apply."""
        # one rule about streams: emulated and aggregated streams exclude each other; but several roles may change
        about = {"stream": "", "role": f"{self.field}>{self.to}", "drop": f"{self.field}>{self.to or ''}".rstrip(">")}
        return (self.action, f"{about.get(self.action, self.field)}{self.beside and ' '}{self.beside}")

    @property
    def rank(self) -> int:
        return _ORDER.index(self.action)

    @property
    def entry(self) -> str:
        return self.change().entry

    def change(self) -> Change:
        return Where(self._change(), self.beside) if self.beside else self._change()

    def _change(self) -> Change:
        if (fixed := _FIXED.get((self.action, self.field))) is not None:
            return fixed[0]
        if self.action == "split" and (found := _SHARE.match(self.to or "")) is not None:
            return SplitInputs(int(found[1]), is_share=bool(found[2]))
        if self.action == "role" and self.to is not None:
            return messages.system_into_user if self.to == "user" else messages.Role(self.field, self.to)
        if self.action in ("beta", "betas"):
            # a `betas` rule names all that were sent (`field`), and those that remain (`to`)
            sent, kept = self.field.split("+"), (self.to or "").split("+")
            if any(BETA.match(name) is None for name in sent):
                raise ValueError(f"{self.field} has a value that is not a beta")
            return DropBetas(tuple(name for name in sent if name not in kept), frozenset(sent))
        if self.action == "schema":
            return DropKeyword(self.field)
        path = JsonMemberPath.parse(self.field)
        match self.action, self.to:
            case "drop", None:
                return Drop(path, ONLY.get(self.field, frozenset()), ONLY_WITH.get(self.field, frozenset()))
            case "drop", str(value) if value in _DROPPED or SCALAR.match(value):
                return Drop(path, _DROPPED.get(value, frozenset((value.encode(),))))
            case "clamp", str(most) if most.isdecimal():
                return Clamp(path, most=float(most))
            case "rename", str(name):
                return Rename(path, JsonMemberPath.parse(name).name)
            case "set", str(text) if SCALAR.match(text):
                # a rule that is not stored applies to the rejected request alone, streamed or not
                unstreamed = self.ttl_s > 0 and (self.field, text) in UNSTREAMED
                # a request without the member, or without the object that has it, has this value already
                only_there = text[0] in "-0123456789t" or bool(path.steps)
                return Set(path, text.encode(), only_there=only_there, is_shown=True, unstreamed=unstreamed)
        raise ValueError(f"there is no rule {self.action}")

    def setting(self) -> dict[str, Any]:
        """Return the members of a model's entry that make the same change, none if no setting does.

        `set` also adds a missing member, and `drop` leaves out objects of ONLY_WITH with all their members.
        """
        rules: dict[str, Any] = {}
        if self.beside or self.to == "empty":
            return {}
        match self.action:
            case "stream":
                return {"stream": STREAM_SETTING[self.field]}
            case "protocols":
                return {"protocols": [self.field]}
            case "drop" if self.field in ONLY and "[]" in self.field and not self.to:
                pass  # a configured `drop` drops any value, not only an empty one
            case "drop" if self.field not in ONLY_WITH:
                rules = {"drop": [self.field]}
            case "rename":
                rules = {"rename": {self.field: self.to}}
            case "clamp":
                rules = {"clamp": {self.field: {"max": int(self.to or "0")}}}
            case "role":
                rules = {"roles": {self.field: self.to}}
            case "split":
                rules = {"split": int(self.to or "1")}
            case action if switch := _FIXED.get((action, self.field), (None, ""))[1]:
                rules = {switch: True}
        return {"rules": rules} if rules else {}

    def reverses(self, other: LearnedRule) -> bool:
        """Whether this rule undoes `other`. Learning both would never end."""
        if self.action != other.action:
            return False
        if self.action in ("rename", "role"):
            return (self.field, self.to) == (other.to, other.field)
        if self.action in ("stream", "content"):
            return _OPPOSITE.get(self.field) == other.field
        return self.action == "set" and self.field == other.field and _OPPOSITE.get(self.to or "") == other.to


# A struct, because every request is looked up by its scope: a dataclass takes four times as long to make and hash.
class RuleScope(msgspec.Struct, frozen=True, gc=False):
    upstream: str
    model: str
    operation: str


Key = tuple[RuleScope, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class LearnedRuleRecord:
    """One learned rule with its evidence, for the operator. Times are seconds since the epoch.

    `state` is `learned` or `failed`. A failed rule is not tried again before `expires_at`. `evidence` is the upstream's
    sentence, cut, with secrets masked: the one from which the rule was learned, or the error that a failed rule led to.
    """

    scope: RuleScope
    rule: LearnedRule
    state: str
    evidence: str
    learned_at: float
    expires_at: float
    uses: int = 0


def merged(block: Any, more: Any) -> Any:
    """Return `block` with the members of `more`, at any depth."""
    if isinstance(block, dict):
        return {**block, **{name: merged(block[name], one) if name in block else one for name, one in more.items()}}
    return list(dict.fromkeys((*block, *more))) if isinstance(block, list) else more


def flow_style(block: Mapping[str, Any]) -> str:
    """Return `block` in the flow style of YAML."""
    return re.sub(r'"(\w+)": ', r"\1: ", json.dumps(block))
