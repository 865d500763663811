"""Changes of single request members by path: drop, rename, set, default, clamp, and `stream`.

A change of `stream` does not reach the client: gatepass converts the reply back (proxy/response.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

import msgspec

from gatepass.config.routes import MEMBER_PATH, NOT_A_MEMBER_PATH, TOOLS_OF_TYPE, renamed
from gatepass.draft import Draft, ObjectDraft, fixed_change
from gatepass.json_body import SMALL_BYTES, folded


@dataclass(frozen=True, slots=True)
class JsonMemberPath:
    """Path of a JSON member, such as `messages[].tool_calls[].index`. `[]` means each object of a list."""

    steps: tuple[tuple[str, bool], ...]
    name: str
    dotted: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a path; raise ValueError, which states the expected form, if `text` is not a path."""
        if MEMBER_PATH.match(text) is None:
            raise ValueError(NOT_A_MEMBER_PATH)
        *steps, name = text.split(".")
        return cls(tuple((step.removesuffix("[]"), step.endswith("[]")) for step in steps), name, text)

    def owners(self, draft: Draft, *, make: bool = False) -> Iterable[ObjectDraft]:
        """Return each object that the path leads to. `make` adds missing objects, but no elements of lists."""
        return _descend(draft.top, self.steps, make=make) if self.steps else (draft.top,)


def _descend(owner: ObjectDraft, steps: tuple[tuple[str, bool], ...], *, make: bool) -> Iterator[ObjectDraft]:
    if not steps:
        yield owner
        return
    (name, each), rest = steps[0], steps[1:]
    # a new object has no list, so the rest of the path would lead nowhere
    if make and name not in owner and not any(is_list for _, is_list in steps):
        owner.set(name, b"{}")
    inner = owner.object(name)
    array = owner.array(name) if each else None
    found = array.objects() if array is not None else [inner] if inner is not None and not each else []
    for one in found:
        yield from _descend(one, rest, make=make)


MOST_VALUE_CHARS = 64


def value_of(owner: ObjectDraft, name: str) -> str:
    """Return the JSON of a member that is there, without blanks; of one above MOST_VALUE_CHARS the SHA-256."""
    text = owner.small_text(name) or owner.text(name) or b""
    if text[:1] in b"{[" and len(text) <= SMALL_BYTES:  # to split 30 MiB of words takes 0.6 s and 1.3 GiB
        text = b"".join(text.split())
    return text.decode("utf-8", "replace") if len(text) <= MOST_VALUE_CHARS else f"sha256:{sha256(text).hexdigest()}"


_NUMBER = re.compile(rb"-?[0-9]")


@dataclass(frozen=True, slots=True)
class Drop:
    """Drop the member. Entry `drop=PATH`.

    With `only`, drop it only if its value is one of these (`value_of`). With `inner`, drop it only if it is an object
    without members of other names.
    """

    path: JsonMemberPath
    only: frozenset[str] = frozenset()
    inner: frozenset[str] = frozenset()

    @property
    def entry(self) -> str:
        return f"drop={self.path.dotted}"

    def apply_to(self, draft: Draft) -> bool:
        owners = [owner for owner in self.path.owners(draft) if self._concerns(owner)]
        # `sum` and not `any`, here and below: `any` would stop after the first owner that changes
        return sum(owner.drop(self.path.name) for owner in owners) > 0

    def _concerns(self, owner: ObjectDraft) -> bool:
        if self.inner:
            value = owner.object(self.path.name)
            return value is not None and self.inner.issuperset(value.names)
        return self.path.name in owner and (not self.only or value_of(owner, self.path.name) in self.only)


_OF_NAMES = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
"""Keywords whose members have names that a tool chose."""
_OF_VALUES = frozenset(("enum", "const", "default", "examples", "example"))


@dataclass(frozen=True, slots=True)
class DropKeyword:
    """Drop a keyword of JSON Schema from the schemas of all tools, at every depth. Entry `schema=NAME`."""

    name: str

    @property
    def entry(self) -> str:
        return f"schema={self.name}"

    def apply_to(self, draft: Draft) -> bool:
        places = ("tools[].function.parameters.x", "tools[].parameters.x", "tools[].input_schema.x")
        pending = [(schema, True) for place in places for schema in JsonMemberPath.parse(place).owners(draft)]
        changed = 0
        while pending:
            one, has_keywords = pending.pop()
            changed += has_keywords and one.drop(self.name)
            for name in one.names:
                value = one.get(name)
                if value is None or (has_keywords and name in _OF_VALUES):
                    continue
                if value.object is not None:
                    pending.append((value.object, not has_keywords or name not in _OF_NAMES))
                elif value.array is not None:
                    pending += ((each, True) for each in value.array.objects())
        return changed > 0


@dataclass(frozen=True, slots=True)
class DropTools:
    """Drop the entries of `tools` with this `type`, unless they are all, or `tool_choice` names one. Entry
    `drop=tools[TYPE]`.
    """

    type: str

    @property
    def entry(self) -> str:
        return f"drop=tools[{self.type}]"

    def apply_to(self, draft: Draft) -> bool:
        tools, choice = draft.top.array("tools"), draft.top.text("tool_choice") or b""
        numbered = [] if tools is None else tools.numbered()
        found = {at: tool for at, tool in numbered if tool.string("type") == self.type}
        names = (self.type, *(name for tool in found.values() if (name := tool.string("name"))))
        is_chosen = any(msgspec.json.encode(name) in choice for name in names)
        if tools is None or not found or is_chosen or len(found) == len(tools):
            return False
        tools.drop(found)
        return True


def dropped(path: str) -> Drop | DropTools:
    """Return the change that a path of `rules.drop` makes; raise ValueError."""
    found = TOOLS_OF_TYPE.match(path)
    return Drop(JsonMemberPath.parse(path)) if found is None else DropTools(found[1])


@dataclass(frozen=True, slots=True)
class Rename:
    """Rename the member to `to`. If `to` exists as well, only `to` remains. Entry `rename=PATH>NAME`."""

    path: JsonMemberPath
    to: str

    @property
    def entry(self) -> str:
        return f"rename={self.path.dotted}>{self.to}"

    def apply_to(self, draft: Draft) -> bool:
        return sum(owner.rename(self.path.name, self.to) for owner in self.path.owners(draft)) > 0


@dataclass(frozen=True, slots=True)
class Set:
    """Set the member to the JSON `text`.

    - `only_there`: only if the member exists. `only`: only if it has one of these values (`value_of`).
    - `unstreamed`: only if the request to the upstream has no `stream: true`.
    - `is_shown`: the entry is `set=PATH>VALUE` instead of `set=PATH`. An operator's value may be secret, so it is
      not shown.
    """

    path: JsonMemberPath
    text: bytes
    only_there: bool = False
    is_shown: bool = False
    unstreamed: bool = False
    only: frozenset[str] = frozenset()

    @property
    def entry(self) -> str:
        value = self.text.decode().strip('"')
        return f"set={self.path.dotted}>{value}" if self.is_shown else f"set={self.path.dotted}"

    def apply_to(self, draft: Draft) -> bool:
        if self.unstreamed and draft.stream:
            return False
        owners = list(self.path.owners(draft, make=not self.only_there))
        changed = [owner for owner in owners if self.path.name in owner or not self.only_there]
        if self.only:
            changed = [one for one in owners if self.path.name in one and value_of(one, self.path.name) in self.only]
        return sum(owner.set(self.path.name, self.text) for owner in changed) > 0


@dataclass(frozen=True, slots=True)
class Default:
    """Set the member to the JSON `text` if the client does not send it. Entry `default=PATH`."""

    path: JsonMemberPath
    text: bytes

    @property
    def entry(self) -> str:
        return f"default={self.path.dotted}"

    def apply_to(self, draft: Draft) -> bool:
        owners = [owner for owner in self.path.owners(draft, make=True) if self.path.name not in owner]
        return sum(owner.set(self.path.name, self.text) for owner in owners) > 0


@dataclass(frozen=True, slots=True)
class Clamp:
    """Limit a number to `least` to `most`. Values that are not numbers remain. Entry `clamp=PATH`.

    If it bounds the answer, `most` bounds the budget for thoughts too.
    """

    path: JsonMemberPath
    least: float | None = None
    most: float | None = None
    above: float = -math.inf
    """Smaller numbers remain: a limit of -1 or 0 means none."""

    @property
    def entry(self) -> str:
        return f"clamp={self.path.dotted}"

    @property
    def bounds_answer(self) -> bool:
        return not self.path.steps and bounds_output(plain_name(self.path.name))

    def apply_to(self, draft: Draft) -> bool:
        # servers in Go read a name in any case
        name, owners = folded(self.path.name), self.path.owners(draft)
        found = [(one, alike) for one in owners for alike in one.names if len(alike) == len(name)]
        changed = sum(self._clamped(one, alike) for one, alike in found if folded(alike) == name)
        if changed and self.most is not None and self.bounds_answer:
            for one in [one for one in draft.top.names if plain_name(one) == "thinking"]:
                _less_thinking(draft.top, one, self.most)
        return changed > 0

    def _clamped(self, owner: ObjectDraft, name: str) -> bool:
        text = owner.text(name)
        if text is None or _NUMBER.match(text) is None:
            return False
        number = float(text)
        bound = self.least if self.least is not None and self.above <= number < self.least else number
        bound = self.most if self.most is not None and bound > self.most else bound
        if bound == number:
            return False
        # A bound of 100.0 is written as 100, because integers are required for most members. `int` fails for infinity.
        is_integer = math.isfinite(bound) and bound == int(bound)
        return owner.set(name, msgspec.json.encode(int(bound) if is_integer else bound))


NESTED_LEVELS, NAME_CHARS = 3, 32
_SPELLED = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "max_tokens_to_sample")
_OUTPUT = frozenset(name.replace("_", "") for name in (*_SPELLED, "n_predict", "num_predict"))  # llama.cpp and Ollama
"""The members that bound the tokens of an answer wherever they are read, as `plain_name` returns them."""
_OF_INPUT = re.compile("input|prompt|context|seq|model|chunk")
_PASSED_ON = frozenset(("extrabody", "provideroptions", "generationconfig", "options", "reasoning"))
"""The objects of a request whose objects may all be taken for settings: Ollama's and OpenRouter's, for example."""
_KINDS = ("", "inference", "sampling", "generation", "textgeneration", "decoding", "model")
_OF_SETTINGS = frozenset(
    kind + one for kind in _KINDS for one in ("config", "params", "parameters", "options", "kwargs")
)
OBJECTS = _PASSED_ON | _OF_SETTINGS | {"additionalmodelrequestfields"}  # the last one is Bedrock's
"""The objects of a request in which servers read bounds of an answer too."""
_CLOSED = frozenset(
    (
        *("text", "input", "inputs", "messages", "documents", "metadata", "variables", "chattemplatekwargs"),
        *("tools", "toolchoice", "toolconfig", "functions", "functioncall"),
        *("format", "responseformat", "structuredoutputs", "structuraltag", "grammar", "guidedgrammar"),
        *("json", "guidedjson", "schema", "jsonschema", "responseschema", "responsejsonschema"),
        *("properties", "patternproperties", "items", "definitions", "$defs"),
    )
)
"""Objects that are no setting of the answer, but what the request is about."""
_OF_SCHEMA = frozenset(
    (
        *("type", "$ref", "$schema", "$defs", "definitions", "properties", "patternProperties", "items", "prefixItems"),
        *("additionalProperties", "enum", "const", "anyOf", "oneOf", "allOf", "not", "pattern"),
    )
)
"""Members of a JSON schema, in which `maxLength` is about a text."""
BOUND_NAMES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("completions", "messages"), ("max_tokens",)),
    "chat": ("max_tokens", "max_completion_tokens"),
    "responses": ("max_output_tokens",),
    "compact": (),
}
"""The members of each protocol that bound an answer, the one to add first."""
BUDGET, LEAST_THOUGHTS = "budgettokens", 1024
"""The least `thinking.budget_tokens` of Anthropic's API, which requires more `max_tokens` than that."""


def plain_name(name: str) -> str:
    """Return `name` in lower case without `_` and `-`, because servers read it in other spellings; "" if it is long."""
    return folded(name).replace("_", "").replace("-", "") if len(name) <= NAME_CHARS else ""


def bounds_output(plain: str) -> bool:
    """Return whether a member of this `plain_name` bounds the tokens of an answer.

    It is one of _OUTPUT, or has "max" and "tok" or "len", such as `max_gen_len` and `maxTokenCount`, and nothing of
    `_OF_INPUT`.
    """
    if plain in _OUTPUT or "max" not in plain:
        return plain in _OUTPUT or plain in ("tokenstogenerate", "requestoutputlen")  # NeMo, Triton
    return ("tok" in plain or "len" in plain) and _OF_INPUT.search(plain) is None


@dataclass(frozen=True, slots=True)
class BoundsPlace:
    """Where an object of a request is, which decides what in it bounds the answer."""

    levels: int = NESTED_LEVELS
    """How deep the objects in it are read."""
    is_passed_on: bool = False
    """It is below one of _PASSED_ON, where _OUTPUT is read everywhere."""
    is_closed: bool = False
    """It is a schema, one of _CLOSED, or below one: of all names, _OUTPUT alone may bound the answer."""

    def bounds(self, plain: str) -> bool:
        """Return whether a member of this `plain_name` bounds the tokens of an answer."""
        return plain in _OUTPUT if self.is_closed else bounds_output(plain)

    def reads(self, plain: str) -> bool:
        """Return whether the member of this `plain_name` is read for bounds if it is an object."""
        if self.levels == NESTED_LEVELS:
            return plain in OBJECTS
        return self.levels > 0 and (self.is_passed_on or not (self.is_closed or plain in _CLOSED))

    def inner(self, plain: str, names: Iterable[str]) -> BoundsPlace | None:
        """Return the place of such an object, which has members of these `names`. None if nothing in it is a bound."""
        if self.levels == NESTED_LEVELS:
            return BoundsPlace(self.levels - 1, plain in _PASSED_ON)
        is_closed = self.is_closed or plain in _CLOSED or not _OF_SCHEMA.isdisjoint(names)
        if is_closed and not self.is_passed_on:
            return None
        return BoundsPlace(self.levels - 1, self.is_passed_on, is_closed)


REQUEST = BoundsPlace()


@dataclass(frozen=True, slots=True, eq=False)  # by identity, because a mapping has no hash
class OutputBound:
    """Let no request ask for more than `most` tokens by a name that `bounds_output`. Entry `max_output_tokens=N`.

    A request without a bound of its protocol gets one, in the first of BOUND_NAMES that the operator does not drop,
    under the name to which `renames` leads.
    """

    most: int
    renames: Mapping[str, str]
    drops: Collection[str]

    @property
    def entry(self) -> str:
        return f"max_output_tokens={self.most}"

    def apply_to(self, draft: Draft) -> bool:
        if (protocol := draft.call.operation.protocol) not in BOUND_NAMES:
            return False
        changed = self._bounded(draft.top, REQUEST)
        names = [renamed(name, self.renames) for name in BOUND_NAMES[protocol] if name not in self.drops]
        if names and not any(name in draft.top for name in names):
            changed += draft.top.set(names[0], b"%d" % self.most)
        return changed > 0

    def _bounded(self, owner: ObjectDraft, place: BoundsPlace) -> int:
        """Bound what `owner` has, and the objects in it. Return how many members changed."""
        changed = 0
        for name in owner.names:
            plain = plain_name(name)
            # in a schema, such an object is that of a property
            is_bound = place.bounds(plain) and not (place.is_closed and owner.kind(name) == "{")
            is_inner = place.reads(plain)
            if is_bound:
                is_good = 1 <= _number(owner, name) <= self.most
                changed += not is_good and owner.set(name, b"%d" % self.most)
            elif plain == "thinking":
                changed += _less_thinking(owner, name, self.most)
            elif is_inner and (inner := owner.object(name)) is not None:
                inner_place = place.inner(plain, inner.names)
                changed += 0 if inner_place is None else self._bounded(inner, inner_place)
            # some servers read the first of several, some the last: one is sent
            if name in owner.repeated and (is_inner or is_bound or plain == "thinking"):
                owner.has_changed = True
                changed += 1
        return changed


def _less_thinking(owner: ObjectDraft, name: str, most: float) -> bool:
    """Let the thinking in the member `name` leave room for an answer of `most` tokens; without room it is off."""
    thinking = owner.object(name)
    budget = "" if thinking is None else next((one for one in thinking.names if plain_name(one) == BUDGET), "")
    if thinking is None or thinking.kind(budget) in (None, "n"):
        return False
    if most <= LEAST_THOUGHTS:
        return thinking.string("type") != "disabled" and owner.set(name, b'{"type":"disabled"}')
    half = max(LEAST_THOUGHTS, int(most) // 2)
    is_good = _number(thinking, budget) < most and not thinking.repeated
    return not is_good and thinking.set(budget, b"%d" % half)


def _number(owner: ObjectDraft, name: str) -> float:
    """Return the number of a member that is there, infinity for another value."""
    text = owner.small_text(name) or b""
    return float(text) if _NUMBER.match(text) else math.inf


@fixed_change("stream=synth")
def request_whole_reply(draft: Draft) -> bool:
    """Request a whole reply where the client requests a stream. The stream is synthesized. Entry `stream=synth`."""
    if not draft.stream or "stream" not in draft.members:
        return False
    draft.top.set("stream", b"false")
    # OpenAI and vLLM reject `stream_options` without `stream: true`.
    draft.top.drop("stream_options")
    draft.stream = False
    return True


@fixed_change("stream=aggregate")
def request_stream(draft: Draft) -> bool:
    """Request a stream where the client requests a whole reply. The reply is aggregated. Entry `stream=aggregate`."""
    if draft.stream or "stream" not in draft.members:
        return False
    draft.top.set("stream", b"true")
    if "stream_options" in draft.members:
        # An aggregated reply has usage only if the stream has it. The Responses API always sends it.
        draft.top.set("stream_options", b'{"include_usage":true}')
    draft.stream = True
    return True


@fixed_change("protocols=chat")
def serve_by_chat(draft: Draft) -> bool:
    """Serve messages and responses by chat completions, because the upstream lacks their path. It edits no body: an
    attempt begins with it. Entry `protocols=chat`."""
    del draft
    return False


INCLUDE_USAGE = JsonMemberPath.parse("stream_options.include_usage")


@fixed_change(f"set={INCLUDE_USAGE.dotted}")
def include_usage(draft: Draft) -> bool:
    """Request the usage of a stream. The client did not, so `ChunkRepair` removes its chunk (sse/repair.py)."""
    if draft.stream and draft.top.kind("stream_options") not in (None, "{"):  # as if absent
        return draft.top.set("stream_options", b'{"include_usage":true}')
    return draft.stream and Set(INCLUDE_USAGE, b"true").apply_to(draft)


@fixed_change("drop=stream_options")
def drop_orphaned_options(draft: Draft) -> bool:
    """Drop `stream_options` if `stream` is not true: OpenAI and vLLM reject it. Entry `drop=stream_options`."""
    return not draft.stream and draft.top.drop("stream_options")
