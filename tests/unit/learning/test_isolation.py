"""A client cannot change the requests of others: what one caller sends leaves no trace in those of another."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatepass.learning.learned_rule import LearnedRule, RuleScope
from gatepass.learning.memory import MOST_FACTS, Memory
from gatepass.types import Call, Operation
from tests.rows import CHAT, EMBEDDINGS, MESSAGES
from tests.unit.learning.upstreams import Refusal, ask

Body = dict[str, Any]
PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "title": "F"}}}
VALUES: dict[str, tuple[Any, ...]] = {
    "temperature": (0.3, 7, 8, 9, "hot", None, -1),
    "top_k": (4, 40, None),
    "seed": (1, "Unsupported parameter: 'seed'"),
    "store": (False, "x"),
    "user": ("ann", "", "temperature is not supported"),
    "n": (1, 2),
    "max_tokens": (9, 9_000, -1, "abc"),
    "stream": (True, False),
    "stream_options": ({"include_usage": True},),
    "thinking": ({"type": "enabled", "budget_tokens": 9}, {"type": "disabled"}),
    "reasoning_effort": ("low", "xhigh"),
    "response_format": ({"type": "text"}, {"type": "json_object"}),
    "tools": ([TOOL], [TOOL, {"type": "web_search"}], [TOOL, {"type": "code_20260101", "name": "code"}]),
    "tool_choice": ("auto", {"type": "web_search"}),
    "metadata": ({"topic": "a"}, {"seed": 1}),
    "chatty": (True, 3, "yes"),
}
MESSAGE_LISTS: tuple[list[Body], ...] = (
    [{"role": "user", "content": "hi"}],
    [{"role": "developer", "content": "x"}, {"role": "user", "content": PARTS}],
    [{"role": "system", "content": "x"}, {"role": "assistant", "content": None, "name": "n"}],
    [{"role": "user", "content": "a"}, {"role": "system", "content": ""}, {"role": "user", "content": [PARTS[0]]}],
)
INPUTS = (["a"], ["a", "b", "c"], [f"t{at}" for at in range(9)])
BETAS = (b"code-2026-01-01", b"claude-code-1,code-2026-01-01", b"context-1m-2026")
OPERATIONS = (CHAT, CHAT, CHAT, MESSAGES, EMBEDDINGS)

# --- the upstream --------------------------------------------------------------------------------------------------

MATCHES: dict[str, Callable[[Body, bytes, str, Any], bool]] = {
    "has": lambda body, _, name, value: name in body,
    "value": lambda body, _, name, value: name in body and body[name] == value,
    "kind": lambda body, _, name, value: name in body and type(body[name]) is not type(value),
    "beside": lambda body, _, name, value: name in body and "temperature" in body,
    "above": lambda body, _, name, value: isinstance(body.get(name), int) and body[name] > 1,
    "streamed": lambda body, _, name, value: name in body and body.get("stream") is True,
    "without": lambda body, _, name, value: name not in body,
    "parts": lambda body, _, name, value: any(isinstance(one.get("content"), list) for one in _messages(body)),
    "null": lambda body, _, name, value: any(one.get("content", 0) is None for one in _messages(body)),
    "developer": lambda body, _, name, value: any(one["role"] == "developer" for one in _messages(body)),
    "inner": lambda body, _, name, value: any("name" in one for one in _messages(body)),
    "hosted": lambda body, _, name, value: any(one["type"] != "function" for one in body.get("tools", ())),
    "title": lambda body, _, name, value: '"title"' in json.dumps(body.get("tools")),
    "long": lambda body, _, name, value: body.get("max_tokens", 0) not in range(101),
    "many": lambda body, _, name, value: len(body.get("input", ())) > 2,
    "beta": lambda body, betas, name, value: b"code-2026" in betas,
    "all": lambda body, _, name, value: True,
}
NAMES = {
    "parts": "messages.0.content",
    "null": "content",
    "developer": "role",
    "inner": "messages.0.name",
    "hosted": "tools.1.type",
    "title": "title",
    "long": "max_tokens",
    "many": "input",
    "beta": "anthropic-beta",
}
WORDINGS = (
    "Unsupported parameter: '{name}' is not supported with this model.",
    "{name} is not valid",
    "{name}: Extra inputs are not permitted",
    'json: unknown field "{name}"',
    "{name}参数非法",
    "Der Parameter `{name}` ist hier nicht erlaubt.",
    "Invalid value for '{name}': {value}. Expected one of: 'low', 'auto'.",
    "{name} must be 'low' instead of {value}",
    "streaming is off for {name}",
    "streaming is off",
    "role developer, content must be a string, tool web_search: {name}",
    "max_tokens is too large: the limit is 100 tokens",
    "inputs: at most 2 in one batch",
    "`title` of the schema of a tool: {name}",
    "Unexpected value(s) `code-2026-01-01` for the `anthropic-beta` header",
    "Received: {body}",
    "something is wrong",
)
CODES = (None, "unsupported_parameter", "unsupported_value", "invalid_request_error")


def _messages(body: Body) -> list[Body]:
    found: list[Body] = body.get("messages", [])
    return found


@dataclass(frozen=True)
class Refused:
    """What an upstream refuses from `from_s` to `until_s`, and its words: a function of the request and the time."""

    match: str
    name: str
    value: Any
    wording: str
    code: str | None
    has_param: bool
    status: int
    from_s: float
    until_s: float

    def refusal(self, body: Body, betas: bytes, now_s: float) -> Refusal | None:
        if not self.from_s <= now_s < self.until_s or not MATCHES[self.match](body, betas, self.name, self.value):
            return None
        name = NAMES.get(self.match, self.name)
        own = json.dumps(body.get(self.name))
        text = self.wording.replace("{name}", name).replace("{value}", own).replace("{body}", json.dumps(body))
        error = {"message": text, "type": "x", "code": self.code, "param": name if self.has_param else None}
        return Refusal(lambda _: True, {"error": error}, self.status)


@dataclass
class Shared:
    """An upstream that notes what one caller sends, and runs `between` before each call of that caller."""

    refused: Sequence[Refused]
    now_s: float = 0.0
    between: Callable[[], None] = field(default=lambda: None)
    seen: list[tuple[bytes, bool, object, object]] = field(default_factory=list)

    def answer(self, call: Call) -> Refusal | None:
        self.between()
        self.seen.append((call.body, call.stream, call.headers, call.max_inputs))
        return self.judge(call)

    def judge(self, call: Call) -> Refusal | None:
        body, betas = json.loads(call.body), dict(call.headers).get(b"anthropic-beta", b"")
        if call.max_inputs is not None and "input" in body:
            body["input"] = body["input"][: call.max_inputs]
        found = (one.refusal(body, betas, self.now_s) for one in self.refused)
        return next((one for one in found if one is not None), None)


class Unnoted:
    """The same upstream for the other caller."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    def answer(self, call: Call) -> Refusal | None:
        return self.shared.judge(call)


# --- the callers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    operation: Operation
    body: Body
    betas: bytes = b""

    def call(self, owner: str) -> Call:
        headers = ((b"anthropic-beta", self.betas),) if self.betas else ()
        text = json.dumps(self.body).encode()
        return Call("id", self.operation, owner, "m", text, headers, stream=self.body.get("stream") is True)


@dataclass(frozen=True)
class Flood:
    """Hundreds of rules and facts of the other caller, as it may teach them with names and models that it makes up."""

    count: int
    operation: Operation

    def fill(self, memory: Memory, now_s: float) -> None:
        for at in range(self.count):
            rule = LearnedRule("drop", ("temperature", "top_k", f"member_{at}")[at % 3], values=frozenset((str(at),)))
            for model in ("m", f"m{at}"):
                scope = RuleScope("a", "chat", model, self.operation.name)
                memory.commit(scope, rule, "x", now_s)
                memory.keep_helped(scope, {rule: "error"}, now_s)
                memory.note_useless(scope, f"  something is wrong {at}", now_s)
                memory.accepted(scope, rule, now_s)
                memory.note_served(scope, now_s, is_stream=bool(at % 2))
                memory.may_store_missing(scope, now_s, is_stream=bool(at % 2))


@dataclass(frozen=True)
class Turn:
    """A request of the watched caller `after_s`, and what the other one does before each of its calls."""

    after_s: float
    sent: Sent
    others: tuple[tuple[Sent | Flood, ...], ...] = ()


def _seen(refused: Sequence[Refused], turns: Sequence[Turn], memory: Memory, *, is_alone: bool) -> list[object]:
    """Return what the upstream and the watched caller see of its requests."""
    found: list[object] = []
    for now_s, turn in zip(accumulate(turn.after_s for turn in turns), turns, strict=True):
        upstream, others = Shared(refused, now_s), [] if is_alone else list(turn.others)

        def act(others: list[tuple[Sent | Flood, ...]] = others, upstream: Shared = upstream) -> None:
            for one in others.pop(0) if others else ():
                if isinstance(one, Flood):
                    one.fill(memory, upstream.now_s)
                else:
                    ask(memory, Unnoted(upstream), one.call("a"), upstream.now_s, owner="a")

        act()
        upstream.between = act
        outcome = ask(memory, upstream, turn.sent.call("b"), now_s, owner="b")
        error = None if outcome.error is None else (type(outcome.error), outcome.error.http_status, outcome.message)
        own = [one for one in memory.records(now_s, 0.0) if one.scope.owner == "b"]
        found.append((upstream.seen, outcome.calls, error, outcome.learning.events, outcome.learning.tried, own))
    return found


MEMORIES: tuple[Callable[[], Memory], ...] = (Memory, lambda: Memory(most_of_caller=4, most_of_all=12))


def is_isolated(refused: Sequence[Refused], turns: Sequence[Turn]) -> bool:
    return all(
        _seen(refused, turns, memory(), is_alone=True) == _seen(refused, turns, memory(), is_alone=False)
        for memory in MEMORIES
    )


# --- what is drawn -------------------------------------------------------------------------------------------------


@st.composite
def sent(draw: st.DrawFn) -> Sent:
    operation = draw(st.sampled_from(OPERATIONS))
    if operation is EMBEDDINGS:
        names, body = ["user", "chatty"], {"model": "m", "input": draw(st.sampled_from(INPUTS))}
    else:
        names, body = [*VALUES], {"model": "m", "messages": draw(st.sampled_from(MESSAGE_LISTS))}
    chosen = draw(st.lists(st.sampled_from(names), max_size=6, unique=True))
    body |= {name: draw(st.sampled_from(VALUES[name])) for name in chosen}
    return Sent(operation, body, draw(st.sampled_from(BETAS)) if operation is MESSAGES else b"")


TIMES = st.sampled_from((0.0, 0.0, 1.0, 30.0, 59.0, 61.0, 600.0, 3_599.0, 3_601.0, 7_200.0))


@st.composite
def refusals(draw: st.DrawFn) -> Refused:
    name = draw(st.sampled_from(tuple(VALUES)))
    from_s = draw(st.sampled_from((0.0, 0.0, 0.0, 60.0)))
    return Refused(
        match=draw(st.sampled_from(tuple(MATCHES))),
        name=name,
        value=draw(st.sampled_from(VALUES[name])),
        wording=draw(st.sampled_from(WORDINGS)),
        code=draw(st.sampled_from(CODES)),
        has_param=draw(st.booleans()),
        status=draw(st.sampled_from((400, 400, 400, 422, 413, 403))),
        from_s=from_s,
        until_s=draw(st.sampled_from((float("inf"), float("inf"), 61.0, 4_000.0))),
    )


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[Refused], list[Turn]]:
    """Both callers send the same few bodies, so that what one teaches concerns the other."""
    refused = draw(st.lists(refusals(), min_size=1, max_size=4))
    pool = draw(st.lists(sent(), min_size=1, max_size=4))
    floods = st.builds(Flood, st.sampled_from((3, 13, 40)), st.just(pool[0].operation))
    acts = st.lists(st.one_of(st.sampled_from(pool), st.sampled_from(pool), floods), max_size=3).map(tuple)
    turn = st.builds(Turn, TIMES, st.sampled_from(pool), st.lists(acts, max_size=4).map(tuple))
    return refused, draw(st.lists(turn, min_size=1, max_size=6))


def _refused(match: str, name: str, wording: str, value: Any = None, **more: Any) -> Refused:
    usual = {"code": None, "has_param": False, "status": 400, "from_s": 0.0, "until_s": float("inf")}
    return Refused(match, name, value, wording, **{**usual, **more})


def _chat(**members: Any) -> Sent:
    return Sent(CHAT, {"model": "m", "messages": MESSAGE_LISTS[0], **members})


MILD, HOT, HOTTER, HOTTEST = (_chat(temperature=value) for value in (0.3, 7, 8, 9))
PLAIN, STREAMED = _chat(), _chat(stream=True)
ACCEPTED = [_refused("above", "temperature", "{name} is not valid")]
HELPED = [*ACCEPTED, _refused("has", "chatty", WORDINGS[0]), _refused("has", "seed", "something is wrong")]
SERVED = [_refused("streamed", "chatty", "streaming is off")]


@example(([_refused("value", "temperature", "{name} is not valid", 7)], [Turn(0.0, MILD, ((HOT,),))]))
@example(([_refused("has", "temperature", WORDINGS[0])], [Turn(at, MILD, ((HOT, MILD),)) for at in (0.0, 1.0, 61.0)]))
@example(([_refused("all", "temperature", "{name} is not valid")], [Turn(0.0, MILD, ((MILD,), (MILD,), (MILD,)))] * 2))
@example((HELPED, [Turn(0.0, _chat(temperature=7, chatty=True), ((_chat(temperature=7, chatty=True, seed=1),),))]))
@example((ACCEPTED, [Turn(1.0, one, ((HOT, MILD),)) for one in (HOT, HOTTER, HOTTEST, MILD)]))
@example((SERVED, [Turn(1.0, _chat(stream=True, chatty=True), ((STREAMED, PLAIN),)) for _ in range(2)]))
@given(conversations())
@settings(max_examples=150, deadline=None)
def test_a_client_cannot_change_the_requests_of_others(drawn: tuple[list[Refused], list[Turn]]) -> None:
    refused, turns = drawn
    assert is_isolated(refused, turns)


@pytest.mark.parametrize("wording", WORDINGS)
@pytest.mark.parametrize("match", MATCHES)
def test_each_kind_of_refusal_that_one_client_causes_is_unknown_to_another(match: str, wording: str) -> None:
    value = VALUES["tools"][1]
    whole = _chat(tools=value, temperature=7, max_tokens=9_000, stream=True, chatty=True)
    own = whole if match != "parts" else Sent(CHAT, {**whole.body, "messages": MESSAGE_LISTS[1]})
    refused = [_refused(match, "chatty", wording, True)]
    assert is_isolated(refused, [Turn(after_s, own, ((own, whole, HOT),)) for after_s in (0.0, 30.0, 61.0, 3_601.0)])


@pytest.mark.parametrize("count", [300, MOST_FACTS])
def test_a_client_with_as_many_rules_as_are_kept_evicts_none_of_another(count: int) -> None:
    refused = [_refused("has", "temperature", WORDINGS[0], code="unsupported_parameter", has_param=True)]
    flood = (Flood(count, CHAT),)
    assert is_isolated(refused, [Turn(at, MILD, (flood, flood)) for at in (0.0, 1.0, 61.0, 600.0)])


def test_the_comparison_sees_a_rule_that_both_share() -> None:
    """Else it would prove nothing: the same caller twice is not isolated from itself."""
    refused, memory = [_refused("has", "temperature", WORDINGS[0])], Memory()
    turns = [Turn(0.0, MILD)]
    first, second = (_seen(refused, turns, memory, is_alone=True) for _ in range(2))
    assert first != second
