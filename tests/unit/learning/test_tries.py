"""Requests to upstreams that refuse: which body is accepted in the end, after how many calls, in whatever words."""

import copy
import json
from typing import Any

import pytest

from gatepass.learning.memory import Memory
from gatepass.normalize.embeddings_request import split
from gatepass.types import Call, Operation
from tests.rows import CHAT, EMBEDDINGS, MESSAGES, RESPONSES
from tests.unit.learning import about_values, no_repair, one_by_one, tools_and_blocks
from tests.unit.learning.refusals import SAFE_MEMBERS, SAFE_WORDINGS, upstream
from tests.unit.learning.upstreams import Outcome, Refusal, ask

OPERATIONS: dict[str, Operation] = {
    "chat": CHAT,
    "messages": MESSAGES,
    "responses": RESPONSES,
    "embeddings": EMBEDDINGS,
}


def parts_of(call: Call) -> list[dict[str, Any]]:
    """Return the bodies that are sent for `call`."""
    parts = split(call)
    return [json.loads(parts[at].body) for at in range(len(parts))]


class Simulated:
    """An upstream that a function from bodies to errors describes."""

    def __init__(self, refuse: Any) -> None:
        self.refuse, self.seen = refuse, list[dict[str, Any]]()

    def answer(self, call: Call) -> Refusal | None:
        bodies = parts_of(call)
        self.seen += bodies
        found = next(filter(None, map(self.refuse, bodies)), None)
        return None if found is None else Refusal(lambda _: True, found[1], found[0])


def a_call(body: dict[str, Any], protocol: str = "chat") -> Call:
    text = json.dumps(body).encode()
    return Call("id", OPERATIONS[protocol], "a", "m", text, (), stream=bool(body.get("stream")))


def send(memory: Memory, refuse: Any, body: dict[str, Any], protocol: str = "chat", **more: Any) -> Outcome:
    return ask(memory, Simulated(refuse), a_call(body, protocol), **more)


@pytest.mark.parametrize("member", SAFE_MEMBERS, ids=lambda one: one.name)
@pytest.mark.parametrize("wording", SAFE_WORDINGS, ids=lambda one: one.name)
def test_a_safe_member_is_left_out_in_whatever_words_it_is_refused(wording: Any, member: Any) -> None:
    outcome = send(Memory(), upstream(wording, member), member.request)
    assert outcome.error is None, outcome.error
    assert (json.loads(outcome.call.body), outcome.calls) == (member.accepted, 2)


@pytest.mark.parametrize("row", [*tools_and_blocks.TOOLS, *tools_and_blocks.SHAPES], ids=lambda one: one.name)
def test_a_tool_a_block_or_a_form_of_messages(row: Any) -> None:
    outcome = send(Memory(), row.refuse, row.request, row.protocol)
    assert outcome.error is None, outcome.error
    assert all(map(row.is_accepted, parts_of(outcome.call))), outcome.call.body


@pytest.mark.parametrize("row", about_values.ROWS, ids=lambda one: one.name)
def test_the_value_of_one_caller_changes_no_request_of_another(row: Any) -> None:
    memory, refuse = Memory(), copy.deepcopy(row.refuse)
    send(memory, refuse, row.request_a)
    outcome = send(memory, refuse, row.request_b, owner="b")
    assert (outcome.error, json.loads(outcome.call.body)) == (None, row.request_b)


@pytest.mark.parametrize("chain", one_by_one.CHAINS, ids=lambda one: one.name)
def test_eight_members_that_are_refused_one_by_one_are_left_out_of_the_first_request(chain: Any) -> None:
    outcome = send(Memory(), chain.refuse, chain.request)
    assert (outcome.error, json.loads(outcome.call.body), outcome.calls) == (None, chain.accepted, 9)


def extra_calls(refuse: str, body: dict[str, Any]) -> dict[str, int]:
    found = {}
    for one in no_repair.REFUSALS:
        memory = Memory()
        first, again = (send(memory, getattr(one, refuse), body, now_s=now_s) for now_s in (0.0, 59.0))
        assert first.error is not None
        assert again.calls == 1, one.name
        found[one.name] = first.calls - 1
    return {name: calls for name, calls in found.items() if calls}


@pytest.mark.parametrize(
    ("request_body", "most"), [(no_repair.PLAIN, 8), (no_repair.AGENT, 25)], ids=["plain", "agent"]
)
def test_what_no_change_repairs_costs_few_calls_and_none_again_within_a_minute(
    request_body: dict[str, Any], most: int
) -> None:
    found = extra_calls("refuse", request_body)
    assert max(found.values(), default=0) <= 3, found
    assert sum(found.values()) <= most, found


@pytest.mark.parametrize("request_body", [no_repair.PLAIN, no_repair.AGENT], ids=["plain", "agent"])
def test_a_safe_name_that_stands_in_such_an_error_by_chance_costs_three_calls_at_most(request_body: Any) -> None:
    assert max(extra_calls("refuse_by_chance", request_body).values()) <= 3
