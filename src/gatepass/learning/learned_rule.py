"""Define a learned rule, its scope, its record, and the policy that decides which rules may be learned.

Safe changes may always be learned. A change that alters the meaning of a request is never learned: the error names the
setting under `rules` that makes it. A record has the setting that makes its rule permanent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import msgspec

from gatepass.config.routes import BETA
from gatepass.draft import Change
from gatepass.learning.meaning import LIMITS, NEVER, ONLY, PERSONAL, SAFE, SETTABLE, carries_meaning, means_absent
from gatepass.normalize import messages
from gatepass.normalize.betas import BETA_FIELD, ENABLED, DropBetas
from gatepass.normalize.embeddings_request import SplitInputs
from gatepass.normalize.members import (
    Clamp,
    Drop,
    DropKeyword,
    DropTools,
    JsonMemberPath,
    Rename,
    Set,
    request_stream,
    request_whole_reply,
    serve_by_chat,
)
from gatepass.normalize.rules import Where
from gatepass.protocols.rerank import ConvertRerank

RENAMES: Mapping[str, str] = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
"""OpenAI's reasoning models accept the new name only, older API versions of Azure and Mistral the old one only."""


class LearningPolicy(msgspec.Struct, frozen=True):
    """Which rules may be learned for one model.

    `may_stream` is False if the configuration sets `stream`. `fits_answers`: `ClientProtocol.fits_answers`.
    `most_tokens`: the operator's bound of each answer.
    """

    may_stream: bool = True
    fits_answers: bool = True
    most_tokens: float | None = None

    def allows(self, rule: LearnedRule, members: frozenset[str]) -> bool:
        """Whether `rule` may be learned for an operation with these `members`, which rules may change."""
        field = rule.field
        match rule.action:
            case "drop":
                if field in NEVER or field.endswith((".role", ".content")):
                    return False
                if rule.values and all(means_absent(field, value) for value in rule.values):
                    return True
                if field in ONLY:
                    return rule.values <= ONLY[field]
                is_repeated = field in LIMITS and rule.beside in LIMITS
                is_of_beta = BETA_FIELD in members and (field in ENABLED or field in ONLY_WITH)
                # `dimensions` is safe where the length of the vectors in the reply is checked
                if is_repeated or is_of_beta or (field == "dimensions" and field in members):
                    return True
                return not any(carries_meaning(field, value) for value in rule.values or ("",))
            case "rename":
                return "max_tokens" in members and RENAMES.get(field) == rule.to
            case "set":
                return field.partition(".")[0] in SETTABLE and (field, rule.to) != ("store", "true")
            case "clamp":
                is_bounded = self.most_tokens is not None and rule.least > self.most_tokens
                return field in LIMITS and (self.fits_answers or not rule.is_once) and not is_bounded
            case "stream":
                return self.may_stream
            case action:
                return (action, field) != ("roles", "merged") and (action, rule.to) != ("role", "user")


EVIDENCE_CHARS = 200
QUOTE_CHARS = 42
"""Names and values of members are shorter; a longer quote may be a user's text."""
_QUOTE = (
    r"""(?s)(?<!\w)'(?:[^']|'(?=\w))*'?|"(?:[^"\\]|\\.)*"?|`[^`]*`?|\u201c[^\u201d]*\u201d?|\u2018[^\u2019]*\u2019?"""
)
"""A quote. An apostrophe inside a word begins and ends none; an unclosed quote extends to the end."""


def evidence_of(message: str, field: str = "") -> str:
    """Return an upstream's `message` about the member `field` without long quotes, cut to EVIDENCE_CHARS.

    Upstreams quote text that a user wrote, and operators see the evidence of a learned rule.
    """
    most = 0 if field in PERSONAL else QUOTE_CHARS
    return re.sub(_QUOTE, lambda found: found[0] if len(found[0]) <= most else "…", message)[:EVIDENCE_CHARS]


ONLY_WITH: Mapping[str, frozenset[str]] = {"output_config": frozenset(("effort", "task_budget"))}
"""Objects to drop only without other members: `output_config.format` decides the form of the answer."""

UNSTREAMED = frozenset((("enable_thinking", "false"),))
"""Values that a stored rule sets only in requests without a stream: DashScope supports thinking in streams."""

_FIXED: Mapping[str, Change] = {
    **{
        change.entry: change
        for change in (
            *(request_whole_reply, request_stream, serve_by_chat, ConvertRerank("tei"), ConvertRerank()),
            *(messages.merge_roles, messages.merge_system, messages.last_system_as_user, messages.shorten_tool_ids),
            *(messages.join_text_parts, messages.fill_empty_content, messages.drop_empty_text),
            *(messages.empty_broken_arguments, messages.arguments_into_text),
        )
    },
    "thoughts=": messages.drop_thoughts,
}
"""The changes without a value, by the action and the field of their rules, as in `stream=synth`."""
_SWITCHES = {"roles=merged": "merge_roles", "roles=system": "merge_roles", "content=text": "text_content"}
"""The switch in `rules` that does the same as one of these rules."""
_LEFT_TO_VALUES = frozenset((*ONLY_WITH, *LIMITS, *(path for path in ONLY if "[]" in path)))
"""Members that a configured `drop` would drop with any value, or with all their members."""
STREAM_SETTING: Mapping[str, str] = {"synth": "emulate", "aggregate": "aggregate"}
"""The value of the setting `stream` that does the same as a `stream` rule with the field."""
_ORDER = (
    *("protocols", "stream", "rename", "drop", "schema", "set", "clamp", "tools"),
    *("role", "roles", "thoughts", "content", "arguments", "tool_ids", "split", "rerank", "betas", "beta"),
)
"""The order in which actions are applied: each one sees the result of those before it."""
_LOSSES = {"set": 2, "clamp": 2, "drop": 3, "schema": 3, "tools": 3, "betas": 3, "beta": 3, "thoughts": 1}
"""By the action: 1 for one that is for its request only, 2 if a value changes, 3 if a safe part is left out."""
_SHARE = r"([1-9][0-9]{0,8})(%?)\Z"
# No objects, lists or free text: an upstream's error chooses the value that goes into a client's request.
SCALAR = re.compile(r'true\Z|false\Z|-?[0-9]+(?:\.[0-9]+)?\Z|"[A-Za-z0-9_-]*"\Z')
TYPE = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
"""Types of tools that are shown. Clients write them."""


class LearnedRule(msgspec.Struct, frozen=True, dict=True):
    """One change: its `action`, the `field` that it changes, and the new value or name (`to`). Raises ValueError.

    - `to`: of a clamp the most, or behind ">=" the least.
    - `beside`: the rule is for requests with this member, or without the betas behind "!".
    - `values`: for requests with one of these at `field` (`value_of`); none for all.
    - `is_once`: only for the request from which it was learned.
    """

    action: str
    field: str
    to: str | None = None
    beside: str = ""
    values: frozenset[str] = frozenset()
    is_once: bool = False

    def __post_init__(self) -> None:
        _ = self.change  # now, so that an impossible rule never reaches a request

    @cached_property
    def key(self) -> Key:
        """Identifies what the rule changes: only one rule with a key can apply, and not one that undoes it."""
        # one rule about streams: emulated and aggregated streams exclude each other; but several roles may change
        pair = ">".join(sorted((self.field, self.to or "")))
        about = {"stream": "", "role": pair, "rename": pair, "rerank": ""}.get(self.action, self.field)
        about += ">" * (self.least > 0)  # beside the bound from above
        return (self.action, f"{about}{self.beside and ' '}{self.beside}", self.values)

    @property
    def least(self) -> int:
        """The bound from below of a clamp, 0 for others."""
        return int((self.to or "")[2:]) if self.action == "clamp" and (self.to or "").startswith(">=") else 0

    @property
    def rank(self) -> int:
        return _ORDER.index(self.action)

    @property
    def paths(self) -> tuple[str, ...]:
        """The members that it changes, none for other actions."""
        if self.action == "rename":
            return (self.field, self.to or "")
        return (self.field,) if self.action in ("drop", "set", "clamp") else ()

    @property
    def loss(self) -> int:
        """How much a request loses: 0 for nothing, others as in _LOSSES."""
        if self.action == "drop" and self.values and all(means_absent(self.field, value) for value in self.values):
            return 0
        if self.action == "set" and (self.to or "")[:1] in "-0123456789":
            return 4  # a number that an error names may be a bound: it is tried after the member was left out
        if self.action == "stream":  # what else the error names may be left out instead of the stream
            return 4 if self.field == "synth" and self.beside in SAFE else 0
        return 1 if self.is_once and self.action not in ("drop", "split") else _LOSSES.get(self.action, 0)

    @property
    def entry(self) -> str:
        return self.change.entry

    @cached_property
    def change(self) -> Change:
        return Where(self._change(), self.beside) if self.beside else self._change()

    def _change(self) -> Change:
        if (fixed := _FIXED.get(f"{self.action}={self.field}")) is not None:
            return fixed
        if self.action == "split" and (found := re.match(_SHARE, self.to or "")) is not None:
            return SplitInputs(int(found[1]), is_share=bool(found[2]))
        if self.action == "role" and self.to is not None:
            return messages.system_into_user if self.to == "user" else messages.Role(self.field, self.to)
        # a `betas` rule names all that were sent (`field`), and those that remain (`to`)
        sent, kept = self.field.split("+"), (self.to or "").split("+")
        if self.action in ("beta", "betas") and all(map(BETA.match, sent)):
            return DropBetas(tuple(name for name in sent if name not in kept), frozenset(sent))
        if self.action == "schema":
            return DropKeyword(self.field)
        if self.action == "tools" and TYPE.match(self.field):
            return DropTools(self.field)
        path = JsonMemberPath.parse(self.field)
        match self.action, self.to:
            case "drop", None:
                only = self.values or ONLY.get(self.field, frozenset())
                return Drop(path, only, ONLY_WITH.get(self.field, frozenset()))
            case "clamp", str(most) if most.isdecimal():
                return Clamp(path, most=float(most))
            case "clamp", str(bound) if re.fullmatch(r">=[1-9][0-9]{0,8}", bound):
                return Clamp(path, least=float(self.least), above=1)
            case "rename", str(name):
                return Rename(path, JsonMemberPath.parse(name).name)
            case "set", str(text) if SCALAR.match(text):
                unstreamed = not self.is_once and (self.field, text) in UNSTREAMED
                # a request without the member, or without the object that has it, has this value already
                only_there = text[0] in "-0123456789t" or bool(path.steps)
                return Set(path, text.encode(), only_there, is_shown=True, unstreamed=unstreamed, only=self.values)
        raise ValueError(f"there is no rule {self.action}")

    def setting(self) -> dict[str, Any]:
        """Return the members of a model's entry that make the same change, none if no setting does.

        `set` also adds a missing member.
        """
        if self.beside:
            return {}
        rules: dict[str, Any] = {}
        match self.action:
            case "stream":
                return {"stream": STREAM_SETTING[self.field]}
            case "protocols":
                return {"protocols": [self.field]}
            case "drop" | "tools" if self.loss and self.field not in _LEFT_TO_VALUES:
                rules = {"drop": [self.entry.removeprefix("drop=")]}
            case "rename":
                rules = {"rename": {self.field: self.to}}
            case "set":
                rules = {"set": {self.field: json.loads(self.to or "null")}}
            case "clamp":
                bounds = {"min": self.least} if self.least else {"max": int(self.to or "0")}
                rules = {"clamp": {self.field: bounds}}
            case "role":
                rules = {"roles": {self.field: self.to}}
            case "split" if not self.is_once:
                rules = {"split": int(self.to or "1")}
            case action if switch := _SWITCHES.get(f"{action}={self.field}"):
                rules = {switch: True}
        return {"rules": rules} if rules else {}


# A struct, because every request is looked up by its scope: a dataclass takes four times as long to make and hash.
class RuleScope(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """Whose requests a rule concerns: `owner` is the identity of a caller."""

    owner: str
    upstream: str
    model: str
    operation: str


Key = tuple[str, str, frozenset[str]]
"""`LearnedRule.key`."""


class LearnedRuleRecord(msgspec.Struct, frozen=True):
    """One learned rule with its evidence, for the operator. Times are seconds since the epoch.

    `evidence` is the upstream's sentence, cut, with secrets masked.
    """

    scope: RuleScope
    rule: LearnedRule
    evidence: str
    learned_at: float
    expires_at: float
    uses: int = 0


def flow_style(block: Mapping[str, Any]) -> str:
    """Return `block` in the flow style of YAML."""
    return re.sub(r'"(\w+)": ', r"\1: ", json.dumps(block))
