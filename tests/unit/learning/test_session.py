"""Requests to upstreams that refuse: what is tried, kept and stored, and which error the client receives."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.errors import UpstreamClosed, UpstreamErrorReply, UpstreamTimeout
from gatepass.learning.learned_rule import LearningPolicy, RuleScope
from gatepass.learning.memory import HOUR_S, MINUTE_S, Memory
from gatepass.learning.quotes import BODY_BYTES
from gatepass.learning.session import GUESSED_BYTES, MOST_USELESS, LearningSession
from gatepass.normalize.rules import INCLUDE_USAGE, apply_changes
from gatepass.proxy.retry import MOST_CALLS, MOST_TRIES_S
from gatepass.types import Call
from tests.rows import CHAT, EMBEDDINGS
from tests.unit.learning.rejections import (
    DEVELOPER,
    NOTHING_ROWS,
    ROWS,
    STREAM,
    USE,
    USER,
    no_role,
    openai,
    pydantic,
    unsupported,
)
from tests.unit.learning.upstreams import (
    NO_STREAM,
    Body,
    Refusal,
    Upstream,
    always,
    ask,
    converse,
    learn_from,
    plan,
    refused,
    without,
)
from tests.unit.normalize.calls import a_call

SCOPE = RuleScope("a", "chat", "m", "chat")


def chat(*, stream: bool = False, **members: Any) -> Call:
    body = {"model": "m", "messages": [USER], **members}
    return a_call(json.dumps({**body, "stream": True} if stream else body).encode(), CHAT, stream=stream)


def rules(memory: Memory, now_s: float = 0.0) -> list[str]:
    return [rule.entry for rule in memory.of(SCOPE, now_s)]


def a_session(memory: Memory) -> LearningSession:
    return LearningSession(memory, SCOPE, CHAT.members)


def roles(body: Body) -> list[str]:
    return [message["role"] for message in body["messages"]]


def says(text: str, *names: str) -> Refusal:
    """An error with this text for each request that has one of the members."""
    return Refusal(lambda body: not set(names).isdisjoint(body), openai(text))


# --- one step at a time


def test_another_error_keeps_a_step_and_brings_its_own():
    late = openai("System message must be at the beginning.")
    upstream = Upstream(
        [
            Refusal(lambda body: "developer" in roles(body), no_role("developer")),
            Refusal(lambda body: "system" in roles(body)[1:], late),
        ]
    )
    memory, call = Memory(), chat(messages=[USER, DEVELOPER])
    for calls in (3, 1):
        outcome = ask(memory, upstream, call)
        assert (outcome.error, outcome.calls) == (None, calls)
        assert outcome.call.adapted == ("role=developer>system", "roles=system")


def test_the_same_error_takes_a_step_back_and_only_what_was_needed_is_stored():
    memory, calls = Memory(), iter(range(9))
    refuses = Refusal(lambda body: "top_p" in body, "")
    upstream = Upstream([refuses])

    def said(body: Body) -> bool:
        refuses.body = openai(f"seed or top_p is off, request {next(calls)}a")
        return "top_p" in body

    refuses.concerns = said
    outcome = ask(memory, upstream, chat(seed=1, top_p=1))
    assert (outcome.error, outcome.call.adapted, outcome.calls) == (None, ("drop=top_p",), 3)
    assert outcome.learning.tried == ("drop=seed", "drop=top_p")
    assert (rules(memory), outcome.logged) == (["drop=top_p"], [("learned", "drop=top_p")])


def test_an_error_about_what_a_step_brought_in_takes_it_back():
    other = says("max_completion_tokens? Never.", "max_completion_tokens")
    much = openai("max_tokens: too much, or max_completion_tokens")
    upstream = Upstream([other, Refusal(lambda body: body.get("max_tokens", 0) > 99, much)])
    outcome = ask(Memory(), upstream, chat(max_tokens=500))
    assert outcome.learning.tried == ("rename=max_tokens>max_completion_tokens",)
    assert outcome.message == much["error"]["message"], "the error of its own request"


SEVEN: Body = {
    "store": True,
    "metadata": {"topic": "x"},
    "prompt_cache_key": "k",
    "parallel_tool_calls": True,
    "reasoning_effort": "high",
    "verbosity": "low",
    "service_tier": "auto",
}


@pytest.mark.parametrize(("more", "is_served"), [({"seed": 1}, True), ({"seed": 1, "top_k": 2}, False)])
def test_nine_calls_are_the_most(more, is_served):
    members = {**SEVEN, **more}
    memory, upstream = Memory(), Upstream([without(name) for name in members])
    first = ask(memory, upstream, chat(**members))
    assert (first.error is None, first.calls) == (is_served, MOST_CALLS)
    assert (len(rules(memory)), len(first.logged)) == ((8, 8) if is_served else (0, 0))
    assert first.message == (None if is_served else unsupported("top_k")), "the one that is left"
    assert first.learning.last_words == ""


def test_what_helped_a_request_that_failed_is_the_first_try_of_the_next_one_all_at_once():
    members = {**SEVEN, "seed": 1, "top_k": 2}
    memory, upstream = Memory(), Upstream([without(name) for name in members])
    ask(memory, upstream, chat(**members))
    assert ask(memory, Upstream([]), chat(**members)).calls == 1, "a request that nobody refuses is not changed"
    assert ask(memory, upstream, chat(**members), owner="b").error is not None, "it belongs to its caller"
    second = ask(memory, upstream, chat(**members), MINUTE_S - 1)
    assert (second.error, second.calls, len(rules(memory, MINUTE_S - 1))) == (None, 3, 9)


@pytest.mark.parametrize(("waited_s", "is_tried"), [(MOST_TRIES_S - 0.1, True), (MOST_TRIES_S, False)])
def test_no_try_begins_after_ten_seconds(waited_s, is_tried):
    learning = a_session(Memory())
    plan(learning, chat(stream=True), 0.0)
    assert learn_from(learning, refused(NO_STREAM), 0.0, tried_s=waited_s) is is_tried


# --- useless tries


FOUR: Body = {"seed": 1, "user": "u", "top_p": 1, "verbosity": "low"}


def test_three_useless_tries_are_the_most_and_the_same_error_makes_none_for_a_minute():
    memory, upstream = Memory(), Upstream([always(openai("No seed, user, top_p, verbosity (request 0a1b)."))])
    first = ask(memory, upstream, chat(**FOUR))
    assert (first.calls, len(first.learning.tried)) == (1 + MOST_USELESS, 4)
    assert first.logged == [("failed", f"drop={name}") for name in ("seed", "user", "top_p", "verbosity")]
    assert (rules(memory), memory.records(0.0, 0.0)) == ([], [])
    upstream.refusals = [always(openai("No seed, user, top_p, verbosity (request 9z8y)."))]
    for now_s, owner, calls in ((MINUTE_S - 1, "a", 1), (0.0, "b", 4), (MINUTE_S, "a", 4)):
        assert ask(memory, upstream, chat(**FOUR), now_s, owner=owner).calls == calls
    assert ask(memory, Upstream([without("seed")]), chat(**FOUR)).error is None, "another error"


@pytest.mark.parametrize("said", ["The image is not readable."])
def test_another_fault_of_one_request_keeps_no_other_request_from_the_change(said):
    memory, upstream = Memory(), Upstream([without("seed"), always(openai(said))])
    for calls in (2, 3):  # what helped is tried, and then nothing is left
        faulty = ask(memory, upstream, chat(seed=1))
        assert (faulty.message, faulty.learning.last_words) == (unsupported("seed"), said)
        assert (faulty.learning.tried, faulty.logged) == (("drop=seed",), [])
        assert faulty.calls <= calls
    upstream.refusals.pop()
    assert ask(memory, upstream, chat(seed=1)).error is None
    assert rules(memory) == ["drop=seed"]


def test_that_the_context_is_full_is_told_as_it_is():
    full = openai("This model's maximum context length is 8192 tokens.")
    faulty = ask(Memory(), Upstream([without("seed"), always(full)]), chat(seed=1))
    assert (faulty.message, faulty.learning.last_words) == (full["error"]["message"], "")


@pytest.mark.parametrize(
    "last",
    [
        UpstreamTimeout("No answer.", upstream="chat", phase="first_byte"),
        UpstreamClosed("Closed.", upstream="chat"),
        UpstreamErrorReply("No.", upstream="chat", status=401),
        UpstreamErrorReply("No.", upstream="chat", status=503),
    ],
)
def test_an_error_of_another_kind_after_a_change_is_the_clients_error(last):
    memory, learning = Memory(), a_session(Memory())
    plan(learning, chat(stream=True), 0.0)
    assert learn_from(learning, refused(NO_STREAM), 0.0)
    plan(learning, chat(stream=True), 0.0)
    assert not learn_from(learning, last, 0.0)
    assert learning.failed(last, 0.0) is last
    assert ask(memory, Upstream([NO_STREAM]), chat(stream=True)).call.adapted == ("stream=synth",)


# --- what is not tried


def test_nothing_is_tried_or_stored_if_learning_is_off():
    memory, upstream, call = Memory(), Upstream([NO_STREAM]), chat(stream=True)
    outcome = ask(memory, upstream, call, mode="off")
    assert outcome.error is not None
    assert (outcome.call, outcome.calls, memory.records(0.0, 0.0)) == (call, 1, [])


def test_a_stored_stream_rule_is_not_applied_if_the_operator_set_stream():
    memory, upstream = Memory(), Upstream([NO_STREAM])
    ask(memory, upstream, chat(stream=True))
    outcome = ask(memory, upstream, chat(stream=True), policy=LearningPolicy(may_stream=False))
    assert (outcome.error is None, outcome.call.adapted, outcome.calls) == (False, (), 1)


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (openai("No seed here."), 1),
        (openai("No.", "seed"), 2),
        (openai("No messages[0].name here."), 2),
        (openai("No.", code="unknown_parameter"), 1),
    ],
)
def test_a_large_body_is_sent_again_only_where_a_param_or_a_path_points(error, calls):
    call = chat(messages=[{**USER, "name": "x", "content": "y " * (GUESSED_BYTES // 2)}], seed=1)
    outcome = ask(Memory(), Upstream([Refusal(lambda body: True, error)]), call)
    assert outcome.calls == calls
    small = ask(Memory(), Upstream([Refusal(lambda body: True, openai("No seed here."))]), chat(seed=1))
    assert small.calls == 2


def test_of_a_body_that_is_too_large_to_compare_the_top_level_counts_by_param():
    call = chat(messages=[{**USER, "content": "y " * BODY_BYTES}], seed=1)
    outcome = ask(Memory(), Upstream([without("seed")]), call)
    assert (outcome.error, outcome.call.adapted) == (None, ("drop=seed",))
    outcome = ask(Memory(), Upstream([Refusal(lambda body: "seed" in body, openai("No seed here."))]), call)
    assert outcome.calls == 1


def test_what_gatepass_itself_added_costs_no_try():
    call, _ = apply_changes(chat(stream=True), list(INCLUDE_USAGE.changes))
    learning = a_session(Memory())
    plan(learning, call, 0.0)
    assert learn_from(learning, refused(without("stream_options")), 0.0)
    assert learning.is_free
    assert "stream_options" not in json.loads(plan(learning, call, 0.0).body)
    own = a_session(Memory())
    plan(own, chat(stream=True, stream_options={"include_usage": True}), 0.0)
    assert learn_from(own, refused(without("stream_options")), 0.0)
    assert not own.is_free


def test_leaving_out_a_stored_rule_is_a_try_although_gatepass_added_a_count():
    memory = Memory()
    ask(memory, Upstream([without("seed")]), chat(stream=True, seed=1))
    call, _ = apply_changes(chat(stream=True, seed=1), list(INCLUDE_USAGE.changes))
    learning = a_session(memory)
    plan(learning, call, 0.0)
    assert learn_from(learning, refused(always(openai("seed is required", "seed"))), 0.0)
    assert ("seed" in json.loads(plan(learning, call, 0.0).body), learning.is_free) == (True, False)


# --- stored rules


def test_a_rule_that_the_upstream_no_longer_takes_is_revoked_at_once():
    memory = Memory()
    ask(memory, Upstream([without("max_tokens", USE)]), chat(max_tokens=5))
    outcome = ask(memory, Upstream([without("max_completion_tokens")]), chat(max_tokens=5))
    assert (outcome.error, outcome.call.adapted) == (None, ())
    assert outcome.logged == [("revoked", "rename=max_tokens>max_completion_tokens")]
    assert rules(memory) == []


def test_an_error_about_something_else_revokes_no_rule():
    memory = Memory()
    ask(memory, Upstream([NO_STREAM]), chat(stream=True))
    outcome = ask(memory, Upstream([NO_STREAM, always(openai("Wrong."))]), chat(stream=True))
    assert (outcome.message, outcome.calls, outcome.logged, rules(memory)) == ("Wrong.", 2, [], ["stream=synth"])


def test_an_upstream_that_refuses_both_names_is_called_three_times_at_most():
    memory = Memory()
    ask(memory, Upstream([without("max_tokens", USE)]), chat(max_tokens=5))
    neither = Upstream([without("max_completion_tokens"), without("max_tokens", USE)])
    outcome = ask(memory, neither, chat(max_tokens=5))
    assert outcome.message == unsupported("max_completion_tokens")
    assert outcome.calls <= 3


def test_dropped_reasoning_is_restored_if_required():
    memory = Memory()
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "r"}]
    place = ["messages", 1, "assistant", "reasoning_content"]
    refuses = Refusal(lambda body: "reasoning_content" in body["messages"][1], pydantic(place), 422)
    ask(memory, Upstream([refuses]), chat(messages=messages))
    assert rules(memory) == ["drop=messages[].reasoning_content"]
    missed = openai("The `reasoning_content` in the thinking mode must be passed back to the API.")
    wants = Upstream([Refusal(lambda body: "reasoning_content" not in body["messages"][1], missed)])
    outcome = ask(memory, wants, chat(messages=messages))
    assert (outcome.error, rules(memory)) == (None, [])


def test_three_refused_values_are_one_rule_for_all_unless_one_was_accepted():
    for accepted, entries in (((), 1), ((0,), 3)):
        memory, upstream = Memory(), Upstream([Refusal(lambda body: body.get("seed", 0) > 0, openai("No seed."))])
        ask(memory, upstream, chat(seed=7))
        for value in (*accepted, 8, 9):
            ask(memory, upstream, chat(seed=value))
        assert rules(memory) == ["drop=seed"] * entries


def test_a_rule_that_has_expired_is_learned_again_for_an_hour():
    memory, upstream = Memory(), Upstream([without("seed")])
    for now_s, calls in (
        (0.0, 2),
        (MINUTE_S - 1, 1),
        (MINUTE_S, 2),
        (MINUTE_S + HOUR_S - 1, 1),
        (MINUTE_S + HOUR_S, 2),
    ):
        outcome = ask(memory, upstream, chat(seed=1), now_s)
        assert (outcome.error, outcome.calls) == (None, calls)
        assert outcome.logged == ([("learned", "drop=seed")] if calls == 2 else [])


# --- kinds of replies that the upstream served


def test_a_stream_that_was_served_within_the_hour_is_missing_for_this_request_alone():
    memory, upstream = Memory(), Upstream([])
    ask(memory, upstream, chat(stream=True))
    upstream.refusals = [NO_STREAM]
    for now_s, stored in ((1.0, []), (MINUTE_S, []), (MINUTE_S + 1.0, ["stream=synth"])):
        outcome = ask(memory, upstream, chat(stream=True), now_s)
        assert (outcome.error, outcome.calls, rules(memory, now_s)) == (None, 2, stored)


def test_a_stream_beside_a_member_is_stored_for_requests_with_it():
    memory, upstream = Memory(), Upstream([])
    ask(memory, upstream, chat(stream=True))
    upstream.refusals = [
        Refusal(lambda body: "n" in body and bool(body.get("stream")), openai("No stream with 'n' here"))
    ]
    for calls in (2, 1):
        outcome = ask(memory, upstream, chat(stream=True, n=2))
        assert (outcome.call.adapted, outcome.calls) == (("stream=synth",), calls)
    assert ask(memory, upstream, chat(stream=True)).call.adapted == ()


# --- bursts


def test_requests_of_a_burst_learn_for_themselves_and_the_rule_is_logged_once():
    memory = Memory()
    burst = [a_session(memory) for _ in range(3)]
    for learning in burst:
        plan(learning, chat(stream=True), 0.0)
    for learning in burst:
        assert learn_from(learning, refused(NO_STREAM), 0.0)
        assert plan(learning, chat(stream=True), 0.0).adapted == ("stream=synth",)
    for learning in burst:
        learning.succeeded(1.0)
    assert [len(learning.events) for learning in burst] == [1, 0, 0]
    assert [one.uses for one in memory.records(1.0, 1.0)] == [3]


def test_a_failure_in_a_burst_ends_no_rule_with_which_another_request_succeeds():
    memory = Memory()
    bad = a_session(memory)
    plan(bad, chat(stream=True), 0.0)
    ask(memory, Upstream([NO_STREAM]), chat(stream=True))
    late = converse(bad, Upstream([NO_STREAM, always(openai("Wrong."))]), chat(stream=True), 1.0)
    assert (late.message, late.learning.last_words, rules(memory)) == (STREAM, "Wrong.", ["stream=synth"])


def test_a_change_for_one_request_is_not_stored():
    memory = Memory()
    error = openai("Requested 600000 tokens, max 300000 tokens per request", code="max_tokens_per_request")

    class Small:
        def answer(self, call: Call) -> Refusal | None:
            return None if call.max_inputs == 1 else Refusal(lambda _: True, error)

    call = a_call(json.dumps({"model": "e", "input": ["a", "b", "c", "d"]}).encode(), EMBEDDINGS)
    outcome = ask(memory, Small(), call)
    assert (outcome.error, outcome.call.max_inputs, memory.records(0.0, 0.0)) == (None, 1, [])


# --- whatever comes


ANSWERS = st.lists(st.sampled_from([*ROWS, *NOTHING_ROWS, None]), min_size=1, max_size=8)


@given(st.lists(st.tuples(st.sampled_from(ROWS), ANSWERS, st.sampled_from([0.0, 30.0, 4_000.0])), max_size=6))
def test_no_sequence_of_answers_loops_or_touches_what_was_sent(exchanges):
    memory, now_s = Memory(), 0.0
    for case, answers, pause_s in exchanges:
        now_s += pause_s
        call, sent = case.call, 0
        learning = LearningSession(memory, SCOPE, call.operation.members)
        for answer in answers:
            planned = plan(learning, call, now_s)
            sent += 1
            assert_same_words(call, planned)
            if answer is None:
                learning.succeeded(now_s)
                break
            error = refused(Refusal(lambda _: True, answer.body, answer.status))
            if not learn_from(learning, error, now_s, sent):
                learning.failed(error, now_s)
                break
        assert sent <= MOST_CALLS
        assert not {"stream=synth", "stream=aggregate"} <= set(planned.adapted)


def assert_same_words(call: Call, planned: Call) -> None:
    """The model, the inputs, and the speaker of each text, in any form."""
    before, after = json.loads(call.body), json.loads(planned.body)
    assert before["model"] == after["model"]
    assert before.get("input") == after.get("input")
    assert list(map(words, before.get("messages", []))) == list(map(words, after.get("messages", [])))


def words(message: dict[str, Any]) -> tuple[bool, str]:
    content = message.get("content") or ""
    text = content if isinstance(content, str) else "\n\n".join(part.get("text", "?") for part in content)
    return message["role"] in ("system", "developer"), text
