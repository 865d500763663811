"""Requests to upstreams that reject: which rules are learned, when, and which error the client receives."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.errors import UpstreamClosed, UpstreamError, UpstreamErrorReply, UpstreamTimeout
from gatepass.learning.learned_rule import HOUR_S, LearningPolicy
from gatepass.learning.memory import REFUTED_S, Memory
from gatepass.learning.session import LearningSession
from gatepass.proxy.retry import MOST_TRIES
from gatepass.types import Call, UpstreamErrorBody
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
    O3,
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


def chat(*, stream: bool = False, **members: Any) -> Call:
    body = {"model": "o3-mini", "messages": [{"role": "user", "content": "hi"}], **members}
    return a_call(json.dumps({**body, "stream": True} if stream else body).encode(), CHAT, stream=stream)


def embed(*inputs: str, **members: Any) -> Call:
    return a_call(json.dumps({"model": "e", "input": inputs, **members}).encode(), EMBEDDINGS)


def rules(memory: Memory) -> list[str]:
    return [rule.entry for _, rule in memory.of(O3)]


# learning


def roles(body: dict[str, Any]) -> list[str]:
    return [message["role"] for message in body["messages"]]


def test_each_rule_sees_what_the_one_before_made():
    late = openai("System message must be at the beginning.")
    upstream = Upstream(
        [
            Refusal(lambda body: "developer" in roles(body), no_role("developer")),
            Refusal(lambda body: "system" in roles(body)[1:], late),
        ]
    )
    memory, call = Memory(), chat(messages=[USER, DEVELOPER])
    for sent in (3, 4):
        outcome = ask(memory, upstream, call)
        assert (outcome.error, len(upstream.seen)) == (None, sent)
        assert outcome.call.adapted == ("role=developer>system", "roles=system")


FIVE: dict[str, Any] = {
    "store": True,
    "metadata": {"topic": "x"},
    "prompt_cache_key": "k",
    "parallel_tool_calls": True,
    "reasoning_effort": "high",
}


def test_a_sixth_change_is_one_too_many_and_nothing_is_stored():
    six = {**FIVE, "seed": 1}
    memory, upstream = Memory(), Upstream([without(name) for name in six])
    outcome = ask(memory, upstream, chat(**six))
    assert outcome.message == unsupported("seed")
    assert len(upstream.seen) == MOST_TRIES
    tried = [f"drop={name}" for name in FIVE]
    assert (outcome.learning.tried, outcome.logged, memory.records(0.0, 0.0)) == (tuple(tried), [], [])


def test_an_equal_text_that_names_another_member_is_another_rejection():
    memory = Memory()
    issue = {"code": "unrecognized_keys", "path": [], "message": "Unrecognized keys"}
    refusals = [Refusal(without(name).concerns, {"error": [{**issue, "keys": [name]}]}) for name in FIVE]
    upstream = Upstream(refusals)
    assert ask(memory, upstream, chat(**FIVE)).error is None
    assert rules(memory) == [f"drop={name}" for name in FIVE]


# --- rejections that are not learned


@pytest.mark.parametrize("case", NOTHING_ROWS, ids=lambda case: case.name)
def test_the_first_word_of_these_is_the_last(case):
    memory, upstream = Memory(), Upstream([Refusal(lambda _: True, case.body, case.status)])
    outcome = ask(memory, upstream, case.call)
    assert outcome.error is not None
    assert outcome.error.http_status == case.status
    assert (len(upstream.seen), rules(memory), outcome.learning.tried) == (1, [], ())


def test_no_rule_is_learned_if_learning_is_off():
    memory, upstream = Memory(), Upstream([NO_STREAM])
    call = chat(stream=True)
    outcome = ask(memory, upstream, call, mode="off")
    assert outcome.error is not None
    assert (outcome.call, len(upstream.seen)) == (call, 1)
    assert memory.records(0.0, 0.0) == []


def test_learned_stream_rule_is_not_applied_if_the_operator_set_stream():
    memory, upstream = Memory(), Upstream([NO_STREAM])
    ask(memory, upstream, chat(stream=True))
    outcome = ask(memory, upstream, chat(stream=True), policy=LearningPolicy(may_stream=False))
    assert outcome.error is not None
    assert outcome.call.adapted == ()


# when it fails


@pytest.mark.parametrize("said", [STREAM, f"{STREAM} (request 0a1b)"])
def test_a_change_after_which_the_rejection_came_back_is_not_tried_again_for_a_minute(said):
    no_stream = Refusal(NO_STREAM.concerns, openai(said.replace("0a1b", "9z8y"), "stream", "unsupported_value"))
    memory, upstream = Memory(), Upstream([no_stream, always(openai(said))])
    first = ask(memory, upstream, chat(stream=True))
    assert (first.message, first.logged) == (said, [("failed", "stream=synth")])
    assert first.learning.tried == ("stream=synth",)
    (row,) = memory.records(0.0, 0.0)
    assert (row.state, row.expires_at, row.evidence) == ("failed", REFUTED_S, said)
    second = ask(memory, upstream, chat(stream=True), REFUTED_S - 1)
    assert (second.learning.tried, len(upstream.seen)) == ((), 3)
    upstream.refusals.pop()
    assert ask(memory, upstream, chat(stream=True), REFUTED_S).error is None


@pytest.mark.parametrize("said", ["The image is not readable.", "messages[0] must not be empty", "提示词过长"])
def test_another_fault_of_one_request_keeps_no_other_request_from_the_change(said):
    memory, upstream = Memory(), Upstream([without("seed"), always(openai(said))])
    for _ in range(2):
        faulty = ask(memory, upstream, chat(seed=1))
        assert (faulty.message, faulty.learning.tried, faulty.logged) == (said, ("drop=seed",), [])
    upstream.refusals.pop()
    assert ask(memory, upstream, chat(seed=1)).error is None
    assert rules(memory) == ["drop=seed"]


def test_an_upstream_without_an_answer_after_a_change_is_shown_as_such_and_refutes_nothing():
    memory, silent = Memory(), UpstreamTimeout("No answer.", upstream="chat", phase="first_byte")
    learning = LearningSession(memory, O3, CHAT.members)
    plan(learning, chat(stream=True), 0.0)
    assert learn_from(learning, refused(NO_STREAM), 0.0)
    plan(learning, chat(stream=True), 0.0)
    assert not learn_from(learning, silent, 0.0)
    assert not learning.failed(silent, 0.0)
    assert learning.events == []
    assert ask(memory, Upstream([NO_STREAM]), chat(stream=True), 5.0).call.adapted == ("stream=synth",)


# loops


def test_a_rule_that_the_upstream_no_longer_takes_is_forgotten_at_once():
    memory = Memory()
    ask(memory, Upstream([without("max_tokens", USE)]), chat(max_tokens=5))
    changed = Upstream([without("max_completion_tokens")])
    outcome = ask(memory, changed, chat(max_tokens=5))
    assert (outcome.error, outcome.call.adapted) == (None, ())
    assert outcome.logged == [("revoked", "rename=max_tokens>max_completion_tokens")]
    assert rules(memory) == []


def test_upstream_that_rejects_both_names_is_called_twice_at_most():
    memory = Memory()
    ask(memory, Upstream([without("max_tokens", USE)]), chat(max_tokens=5))
    neither = Upstream([without("max_completion_tokens"), without("max_tokens", USE)])
    outcome = ask(memory, neither, chat(max_tokens=5))
    assert outcome.message == unsupported("max_tokens", USE)
    assert len(neither.seen) == 2


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


# time


def test_a_rule_that_has_expired_is_forgotten_and_learned_again():
    memory, upstream = Memory(), Upstream([NO_STREAM])
    ask(memory, upstream, chat(stream=True))
    upstream.seen.clear()
    assert ask(memory, upstream, chat(), HOUR_S - 1).call.adapted == ()
    upstream.seen.clear()
    again = ask(memory, upstream, chat(stream=True), HOUR_S)
    assert (again.error, again.logged) == (None, [("learned", "stream=synth")])
    assert [body["stream"] for body in upstream.seen] == [True, False]
    upstream.seen.clear()
    ask(memory, upstream, chat(stream=True), 2 * HOUR_S - 1)
    assert [body["stream"] for body in upstream.seen] == [False]


@pytest.mark.parametrize(
    ("status", "body", "has_failed"),
    [
        (400, STREAM, True),
        (400, None, True),
        *((status, "boom", False) for status in (500, 502, 503)),
        (None, None, False),
        (401, None, False),
    ],
)
def test_the_status_and_the_form_of_the_last_answer_say_whether_a_change_failed(status, body, has_failed):
    memory = Memory()
    answer = None if body is None else UpstreamErrorBody(body)
    last: UpstreamError = UpstreamClosed("last", upstream="chat")
    if status is not None:
        last = UpstreamErrorReply("last", upstream="chat", status=status, error_body=answer)
    learning = LearningSession(memory, O3, CHAT.members)
    plan(learning, chat(stream=True), 0.0)
    assert learn_from(learning, refused(NO_STREAM), 0.0)
    plan(learning, chat(stream=True), 0.0)
    assert (learning.failed(last, 0.0), bool(memory.records(0.0, 0.0))) == (has_failed, has_failed)


def test_requests_of_a_burst_learn_for_themselves_and_the_rule_is_logged_once():
    memory = Memory()
    burst = [LearningSession(memory, O3, CHAT.members) for _ in range(3)]
    for learning in burst:
        plan(learning, chat(stream=True), 0.0)
    for learning in burst:
        assert learn_from(learning, refused(NO_STREAM), 0.0)
        assert plan(learning, chat(stream=True), 0.0).adapted == ("stream=synth",)
    for learning in burst:
        learning.succeeded(1.0)
    assert [len(learning.events) for learning in burst] == [1, 0, 0]
    assert [(one.state, one.uses) for one in memory.records(1.0, 1.0)] == [("learned", 3)]


@pytest.mark.parametrize("fails_first", [False, True])
def test_a_failure_in_a_burst_refutes_no_rule_with_which_another_request_succeeds(fails_first):
    memory = Memory()
    good, bad = (LearningSession(memory, O3, CHAT.members) for _ in range(2))
    for learning in (good, bad):
        plan(learning, chat(stream=True), 0.0)
        assert learn_from(learning, refused(NO_STREAM), 0.0)
        plan(learning, chat(stream=True), 0.0)
    broken = refused(always(openai("Broken.")))
    for fails in (fails_first, not fails_first):
        if fails:
            bad.failed(broken, 0.0)
        else:
            good.succeeded(0.0)
    assert [one.state for one in memory.records(0.0, 0.0)] == ["learned"]


def test_a_request_in_flight_takes_over_what_was_learned_meanwhile():
    memory, upstream = Memory(), Upstream([NO_STREAM])
    slow = LearningSession(memory, O3, CHAT.members)
    plan(slow, chat(stream=True), 0.0)
    ask(memory, upstream, chat(stream=True))
    assert learn_from(slow, refused(NO_STREAM), 1.0)
    late = converse(slow, Upstream([always(openai("Wrong."))]), chat(stream=True), 1.0)
    assert late.message == "Wrong."
    assert rules(memory) == ["stream=synth"]


# embeddings


def test_rule_for_one_request_is_not_stored():
    memory = Memory()
    body = openai("Requested 600000 tokens, max 300000 tokens per request", code="max_tokens_per_request")
    refusal = Refusal(lambda _: True, body)
    for succeeds in (True, False):
        learning = LearningSession(memory, O3, EMBEDDINGS.members)
        call = embed("a", "b", "c", "d")
        plan(learning, call, 0.0)
        error = refused(refusal)
        assert learn_from(learning, error, 0.0)
        assert plan(learning, call, 0.0).max_inputs == 1
        if succeeds:
            learning.succeeded(0.0)
        else:
            assert learning.failed(refused(refusal), 0.0)
    assert (rules(memory), memory.records(0.0, 0.0)) == ([], [])


# whatever comes


ANSWERS = st.lists(st.sampled_from([*ROWS, *NOTHING_ROWS, None]), min_size=1, max_size=8)
SENT = st.sampled_from(ROWS)


@given(st.lists(st.tuples(SENT, ANSWERS, st.sampled_from([0.0, 30.0, 4_000.0])), max_size=6))
def test_no_sequence_of_answers_loops_or_touches_what_was_sent(exchanges):
    memory, now_s = Memory(), 0.0
    for case, answers, pause_s in exchanges:
        now_s += pause_s
        call, sent = case.call, 0
        learning = LearningSession(memory, O3, call.operation.members)
        for answer in answers:
            planned = plan(learning, call, now_s)
            sent += 1
            assert_same_words(call, planned)
            if answer is None:
                learning.succeeded(now_s)
                break
            refusal = Refusal(lambda _: True, answer.body, answer.status)
            if not learn_from(learning, refused(refusal), now_s, sent - 1):
                learning.failed(refused(refusal), now_s)
                break
        assert sent <= MOST_TRIES
        entries = planned.adapted
        assert len(set(entries)) == len(entries)
        assert not {"stream=synth", "stream=aggregate"} <= set(entries)


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
