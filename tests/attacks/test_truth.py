"""No stream looks complete that is not, no usage is sent twice, and the fast path agrees with the slow path."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass.errors import UpstreamErrorReply
from gatepass.protocols.error_objects import error_headers
from gatepass.sse import event_stream as stream_module
from gatepass.sse.choice_repair import MAX_ARGUMENT_BYTES, RepairOptions
from gatepass.sse.chunk import StreamSource
from gatepass.sse.event_stream import EventStream
from gatepass.sse.fast_path import FastPath
from gatepass.sse.repair import StreamRepair
from gatepass.sse.tool_calls import is_complete_json
from tests.attacks import generated
from tests.attacks.conftest import Attack
from tests.unit.sse.documents import origin
from tests.unit.sse.streams import DONE, LIMIT_BYTES, chunk, client_reads, data, read_error

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
WHOLE_ARGUMENTS = ("{}", '{"city": "Bern"}', "[1, 2]", '"\\u00fc"', "null")
CUT_ARGUMENTS = ("", "{", '{"a": NaN}', '{"city": "Ber', '{"a": 1}}', "[1,", '"', "{}{}", "nul")
TEXTS = ("a", " plain", "größer 東京", '"finish_reason":"stop"', "data: [DONE]\n\n", "\\", "", '{"usage": {}}')

Measured = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Choice:
    """The stream of one choice: its deltas in order, the arguments of its calls, its finish reason."""

    role: bool = True
    texts: tuple[tuple[str, str], ...] = ()
    calls: tuple[tuple[str, ...], ...] = ()
    """The fragments of each call's arguments."""
    finish: str | None = None

    @property
    def deltas(self) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = [{"role": "assistant", "content": ""}] if self.role else []
        made += [{name: text} for name, text in self.texts]
        for number, fragments in enumerate(self.calls):
            opened = {"index": number, "id": f"c{number}", "type": "function"}
            made.append({"tool_calls": [{**opened, "function": {"name": "f", "arguments": ""}}]})
            made += [{"tool_calls": [{"index": number, "function": {"arguments": one}}]} for one in fragments]
        return made

    @property
    def has_content(self) -> bool:
        return bool(self.calls) or any(text for name, text in self.texts if name == "content")

    @property
    def reason(self) -> str | None:
        """The right reason where `[DONE]` comes behind it; None where it was cut."""
        if self.finish:
            return "tool_calls" if self.calls and self.finish == "stop" else self.finish
        if not self.has_content or not all("".join(one) in WHOLE_ARGUMENTS for one in self.calls):
            return None
        return "tool_calls" if self.calls else "stop"


@dataclass(frozen=True)
class Case:
    choices: tuple[Choice, ...]
    order: tuple[int, ...] = ()
    """The choice of each event; the rest follow in order."""
    usage: str = "none"
    has_done: bool = True
    asks_usage: bool = True
    piece_bytes: int = 1 << 20

    @property
    def events(self) -> list[bytes]:
        waiting = [
            [*((delta, None) for delta in choice.deltas), *([({}, choice.finish)] if choice.finish is not None else [])]
            for choice in self.choices
        ]
        made = []
        for index in (*self.order, *(index for index, left in enumerate(waiting) for _ in left)):
            if index < len(waiting) and waiting[index]:
                delta, finish = waiting[index].pop(0)
                more = {"usage": USAGE} if self.usage == "every" else {}
                made.append(data(chunk(delta, finish, index, **more)))
        if self.usage != "none":
            made.append(data(chunk(None, usage=USAGE)))
        return [*made, DONE] if self.has_done else made

    @property
    def seen(self) -> list[Choice]:
        return [choice for choice in self.choices if choice.deltas or choice.finish is not None]

    @property
    def is_complete(self) -> bool:
        if not self.has_done:
            return len(self.seen) == len(self.choices) and all(choice.finish for choice in self.choices)
        return bool(self.seen) and all(choice.reason for choice in self.seen)


class Never(FastPath):
    """The slow path: no event is like another."""

    def count_matching(self, run: bytes) -> int:
        del run
        return 0


def stream_of(case: Case, *, is_slow: bool = False) -> EventStream:
    repair = StreamRepair(RepairOptions(include_usage=case.asks_usage), origin())
    with pytest.MonkeyPatch.context() as patch:
        if is_slow:
            patch.setattr(stream_module.Progress, "fast_path", Never)
        return EventStream(StreamSource("chat", LIMIT_BYTES, read_error), choices=len(case.choices), repair=repair)


def played(stream: EventStream, case: Case, measured: Measured = nullcontext) -> bytes:
    """What the client gets. Each piece that arrives is one callback of the event loop."""
    body, output = b"".join(case.events), bytearray()
    for at in range(0, len(body), case.piece_bytes):
        with measured():
            output += stream.feed(body[at : at + case.piece_bytes])
    with measured():
        output += stream.finish()
    return bytes(output)


def meant(texts: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """By choice: its texts, its calls' arguments, its reasons."""
    found: dict[int, dict[str, Any]] = {}
    for one in texts:
        for choice in one["choices"]:
            reported = found.setdefault(
                choice["index"], {"content": "", "reasoning_content": "", "calls": {}, "ends": []}
            )
            for name in ("content", "reasoning_content"):
                reported[name] += choice["delta"].get(name) or ""
            for call in choice["delta"].get("tool_calls") or ():
                calls = reported["calls"]
                calls[call["index"]] = calls.get(call["index"], "") + (call["function"].get("arguments") or "")
            reported["ends"] += [choice["finish_reason"]] if choice["finish_reason"] else []
    return found


def holds(case: Case, measured: Measured = nullcontext) -> bool:
    """The property, for what the client gets of one stream."""
    stream, slow = stream_of(case), stream_of(case, is_slow=True)
    out = played(stream, case, measured)
    if played(slow, case, measured) != out or (slow.done, slow.is_empty) != (stream.done, stream.is_empty):
        return False
    read = client_reads(out)
    texts = [json.loads(one) for one in read if one != "[DONE]"]
    is_done = read[-1:] == ["[DONE]"]
    if is_done is not case.is_complete or stream.done is not is_done or (stream.failure is None) is not is_done:
        return False
    sent = meant([json.loads(one) for one in client_reads(b"".join(case.events)) if one != "[DONE]"])
    got = meant(texts)
    for index, choice in enumerate(case.choices):
        reported, given = sent.get(index), got.get(index)
        if reported is None or given is None:
            if reported is not given:
                return False
            continue
        reasons = [choice.reason] if is_done or choice.finish else []
        if {**reported, "ends": reasons} != given:
            return False
    if is_done and stream.is_empty is not all(one.reason == "stop" and not one.has_content for one in case.seen):
        return False
    return usage_holds(case, texts, is_done=is_done) and bytes_hold(case, out, is_done=is_done)


def usage_holds(case: Case, texts: list[dict[str, Any]], *, is_done: bool) -> bool:
    beside = sum(1 for one in texts if one.get("usage") and one["choices"])
    alone = sum(1 for one in texts if one.get("usage") and not one["choices"])
    if not case.asks_usage:
        return alone == 0 and beside <= 1
    wanted = case.usage != "none"
    return beside == 0 and (alone == wanted if is_done else alone <= 1)


def bytes_hold(case: Case, out: bytes, *, is_done: bool) -> bool:
    """If gatepass added only a finish reason, the upstream's events keep their bytes and only `[DONE]` follows."""
    is_plain = case.usage == "none" and not any(
        choice.finish == "" or (choice.finish == "stop" and choice.calls) or not (choice.role or not choice.deltas)
        for choice in case.choices
    )
    if not (is_plain and is_done):
        return True
    sent = b"".join(case.events).removesuffix(DONE)
    return out.startswith(sent) and out.endswith(DONE)


def cut(text: str) -> st.SearchStrategy[tuple[str, ...]]:
    """`text` in fragments."""
    places = st.lists(st.integers(0, len(text)), max_size=4).map(lambda some: [0, *sorted(some), len(text)])
    return places.map(lambda at: tuple(text[begin:end] for begin, end in pairwise(at)))


TEXT = st.tuples(st.sampled_from(("content", "content", "reasoning_content")), st.sampled_from(TEXTS))
CHOICES = st.builds(
    Choice,
    role=st.booleans(),
    texts=st.lists(TEXT, max_size=6).map(tuple),
    calls=st.lists(st.sampled_from(WHOLE_ARGUMENTS + CUT_ARGUMENTS).flatmap(cut), max_size=2).map(tuple),
    finish=st.sampled_from((None, None, "", "stop", "length")),
)
CASES = st.builds(
    Case,
    choices=st.lists(CHOICES, min_size=1, max_size=3).map(tuple),
    order=st.lists(st.integers(0, 2), max_size=16).map(tuple),
    usage=st.sampled_from(("none", "end", "every")),
    has_done=st.booleans(),
    asks_usage=st.booleans(),
    piece_bytes=st.sampled_from((1, 7, 97, 1 << 20)),
)

THOUGHT, ANSWER, EMPTY = ("reasoning_content", "hm"), ("content", "a"), ("content", "")
KEPT = (
    Case((Choice(texts=(ANSWER,)),)),
    Case((Choice(texts=(ANSWER,)),), usage="every"),
    Case((Choice(texts=(ANSWER, ANSWER), finish="stop"),), usage="every"),
    Case((Choice(calls=(("{}",),)),)),
    Case((Choice(calls=(("{", "}"), ("{",))),)),
    Case((Choice(calls=(("",),)),)),
    Case((Choice(texts=(THOUGHT,)),)),
    Case((Choice(texts=(THOUGHT, EMPTY, ANSWER)),)),
    Case((Choice(texts=(ANSWER,)), Choice(role=False, texts=(EMPTY, ANSWER, ANSWER)))),
    Case((Choice(texts=(ANSWER,)), Choice())),
    Case((Choice(),)),
    Case((Choice(texts=(THOUGHT,), finish="stop"),)),
    Case((Choice(texts=(ANSWER,), finish=""),), has_done=False),
)


@pytest.mark.attack("streams without an end of their own")
@generated
@given(CASES)
def test_no_stream_looks_complete_that_is_not(attack: Attack, case: Case) -> None:
    attack.cases += 1
    attack.check(holds(case, attack.on_loop), case)


@pytest.mark.attack("streams without an end of their own")
def test_the_kept_streams_hold(attack: Attack) -> None:
    for case in KEPT:
        attack.cases += 1
        attack.check(holds(case), case)


@pytest.mark.attack("arguments without an end")
@pytest.mark.parametrize("calls", [1, 4_000])
def test_endless_arguments_use_no_memory(attack: Attack, calls: int) -> None:
    """Eight times as much as is held of arguments, in one call and in many."""
    stream = stream_of(Case(()))
    piece_chars = 8 * MAX_ARGUMENT_BYTES // 4_000
    with attack.memory(allowed_bytes=2 * MAX_ARGUMENT_BYTES + calls * CALL_STATE_BYTES + (1 << 18)):
        for number in range(4_000):
            index = number % calls
            piece = {"index": index, "id": f"c{index}", "function": {"name": "f", "arguments": "x" * piece_chars}}
            event = data(chunk({"tool_calls": [piece]}))
            attack.cases += 1
            with attack.on_loop():
                stream.feed(event)
    attack.check(stream.feed(DONE) == b"" and stream.failure is not None, calls)


@pytest.mark.attack("streams: arguments of calls")
@pytest.mark.parametrize("unit", ["[]", "[1]", "{}", "1e300", '"\\n"', '"\ud83d"'])
def test_large_arguments_are_checked_for_completeness_within_the_limit(attack: Attack, unit: str) -> None:
    arguments = "[" + ",".join([unit] * (MAX_ARGUMENT_BYTES // (len(unit) + 1))) + "]"
    for text, expected in ((arguments, True), (arguments[:-1], False)):
        attack.cases += 1
        with attack.on_loop():
            found = is_complete_json(text)
        attack.check(found is expected, (unit, expected))


CALL_STATE_BYTES = 1_024
"""Memory that `relay.calls` keeps for one call: its id, its name and its position."""


# --- x-should-retry -----------------------------------------------------------------------------------------------


def reported(status: int, should_retry: bool | None, after_s: float | None, code: str | None) -> bytes | None:
    error = UpstreamErrorReply("no", upstream="chat", status=status, upstream_code=code, retry_after_s=after_s)
    error.should_retry = should_retry
    return dict(error_headers(error)).get(b"x-should-retry")


@pytest.mark.attack("x-should-retry of an upstream")
@generated
@given(
    st.integers(400, 599),
    st.sampled_from((True, False, None)),
    st.none() | st.floats(0, 1e6),
    st.sampled_from((None, "insufficient_quota", "context_length_exceeded", "busy")),
)
@example(429, False, None, None)
@example(400, True, None, None)
@example(503, True, 121.0, None)
def test_no_retry_is_suggested_that_the_upstream_forbids(
    attack: Attack, status: int, should_retry: bool | None, after_s: float | None, code: str | None
) -> None:
    attack.cases += 1
    texts = reported(status, should_retry, after_s, code)
    is_repeated = status in (408, 409, 429) or status >= 500
    if should_retry is False:
        attack.check(texts == b"false", (status, after_s, code))
    attack.check(texts != b"true" or (should_retry is True and is_repeated), (status, after_s, code))
    if should_retry is True and is_repeated and (after_s is None or after_s <= 120):
        attack.check(texts == b"true", (status, after_s, code))
