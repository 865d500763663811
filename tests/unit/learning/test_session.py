"""Requests to upstreams that reject: which rules are learned, when, and which error the client receives."""

import json
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.errors import (
    UpstreamClosed,
    UpstreamConnect,
    UpstreamDns,
    UpstreamError,
    UpstreamErrorReply,
    UpstreamTimeout,
    UpstreamTls,
)
from gatepass.learning.learned_rule import DAY_S, HOUR_S, QUARTER_S, Key, LearnedRule, LearningPolicy, RuleScope
from gatepass.learning.memory import REFUTED_S, WAIT_S
from gatepass.learning.rejection import UpstreamRejection
from gatepass.learning.session import AppliedRule, AppliedRules, Learner
from gatepass.proxy.retry import MOST_TRIES, MOST_TRIES_S
from gatepass.types import Call, UpstreamErrorBody
from tests.rows import CHAT, EMBEDDINGS, MODELS
from tests.unit.learning.rejections import (
    FILTERED,
    NOTHING_ROWS,
    ROWS,
    STREAM,
    USE,
    VERIFY,
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

O3_MINI = [
    NO_STREAM,
    without("max_tokens", USE),
    without("temperature"),
    without("parallel_tool_calls"),
]


def chat(*, stream: bool = False, **members: Any) -> Call:
    body = {"model": "o3-mini", "messages": [{"role": "user", "content": "hi"}], **members}
    return a_call(json.dumps({**body, "stream": True} if stream else body).encode(), CHAT, stream=stream)


def embed(*inputs: str, **members: Any) -> Call:
    return a_call(json.dumps({"model": "e", "input": inputs, **members}).encode(), EMBEDDINGS)


def rules(learner: Learner, subject: RuleScope = O3) -> list[str]:
    return [rule.entry for _, rule in learner.memory.of(subject)]


# learning


def test_a_refused_stream_is_learned_and_applied():
    learner, upstream = Learner(), Upstream([NO_STREAM])
    first = ask(learner, upstream, chat(stream=True))
    assert (first.error, first.call.stream, first.call.adapted) == (None, False, ("stream=synth",))
    assert first.logged == [("learned", "stream=synth")]
    assert first.learning.events[0].evidence == STREAM
    assert learner.trial.candidates(O3, 0.0) == {}
    second = ask(learner, upstream, chat(stream=True), 5.0)
    assert (second.error, second.call.adapted, second.logged) == (None, ("stream=synth",), [])
    assert [body["stream"] for body in upstream.seen] == [True, False, False]


def test_call_without_an_applicable_rule_is_the_same_object():
    learner, upstream = Learner(), Upstream([NO_STREAM])
    ask(learner, upstream, chat(stream=True))
    call = chat()
    assert ask(learner, upstream, call).call is call
    (learned,) = learner.memory.records(0.0, 0.0)
    assert learned.uses == 1


def test_three_changes_of_one_request_are_learned_together():
    learner, upstream = Learner(), Upstream(O3_MINI)
    call = chat(temperature=0.2, max_tokens=5, parallel_tool_calls=False)
    outcome = ask(learner, upstream, call)
    assert outcome.error is None
    assert len(upstream.seen) == 4
    expected = ("rename=max_tokens>max_completion_tokens", "drop=temperature", "drop=parallel_tool_calls")
    assert outcome.call.adapted == expected
    assert rules(learner) == list(expected)


SEVEN: dict[str, Any] = {
    "store": True,
    "metadata": {"topic": "x"},
    "prompt_cache_key": "k",
    "parallel_tool_calls": True,
    "reasoning_effort": "high",
    "verbosity": "low",
    "service_tier": "auto",
}


def test_seven_unsupported_members_are_changed_in_one_request():
    learner, upstream = Learner(), Upstream([without(name) for name in SEVEN])
    outcome = ask(learner, upstream, chat(**SEVEN, temperature=1, top_p=1))
    assert (outcome.error, len(upstream.seen)) == (None, MOST_TRIES)
    assert rules(learner) == [f"drop={name}" for name in SEVEN]
    assert upstream.seen[-1].keys() == {"model", "messages", "temperature", "top_p"}


def test_an_eighth_change_is_one_too_many_and_the_next_request_makes_it():
    eight = {**SEVEN, "seed": 1}
    learner, upstream = Learner(), Upstream([without(name) for name in eight])
    outcome = ask(learner, upstream, chat(**eight))
    assert outcome.error is not None
    assert outcome.error.message == unsupported("store")
    assert len(upstream.seen) == MOST_TRIES
    tried = tuple(f"drop={name}" for name in SEVEN)
    assert (outcome.learning.tried, outcome.learning.changed, outcome.logged) == (tried, (), [])
    assert (outcome.learning.is_exhausted, rules(learner)) == (True, [])
    second = ask(learner, upstream, chat(**eight), 5.0)
    assert (second.error, second.learning.is_exhausted, len(upstream.seen)) == (None, False, MOST_TRIES + 2)
    assert rules(learner) == [*tried, "drop=seed"]


@pytest.mark.parametrize(("rejects_s", "tries"), [(1.0, 8), (2.5, 4), (3.0, 4), (MOST_TRIES_S, 2), (60.0, 2)])
def test_no_further_try_begins_after_ten_seconds(rejects_s, tries):
    """The first repeat is sent in any case."""
    call, upstream, now_s = chat(**SEVEN, seed=1), Upstream([without(name) for name in (*SEVEN, "seed")]), 100.0
    with closing(Learner().session(O3, CHAT.members)) as learning:
        while True:
            refusal = upstream.answer(plan(learning, call, now_s))
            assert refusal is not None
            now_s += rejects_s
            if not learn_from(learning, refused(refusal), now_s, len(upstream.seen) - 1, now_s - 100.0):
                break
        shown = learning.failed(refused(refusal), now_s)
    assert (len(upstream.seen), learning.is_exhausted, shown.message) == (tries, True, unsupported("store"))


def test_an_upstream_that_names_two_members_in_turn_is_called_three_times():
    upstream = Upstream()
    upstream.refusals = [
        Refusal(lambda _: len(upstream.seen) % 2 == 0, without("user").body),
        Refusal(lambda _: len(upstream.seen) % 2 == 1, without("seed").body),
    ]
    outcome = ask(Learner(), upstream, chat(seed=1, user="u"))
    assert outcome.error is not None
    assert (outcome.error.message, len(upstream.seen)) == (unsupported("seed"), 3)


def test_an_equal_text_that_names_another_member_is_another_rejection():
    learner = Learner()
    issue = {"code": "unrecognized_keys", "path": [], "message": "Unrecognized keys"}
    refusals = [Refusal(without(name).concerns, {"error": [{**issue, "keys": [name]}]}) for name in SEVEN]
    upstream = Upstream(refusals)
    assert ask(learner, upstream, chat(**SEVEN)).error is None
    assert rules(learner) == [f"drop={name}" for name in SEVEN]


def test_several_members_of_one_sentence_are_one_step():
    names = ["seed", "top_k", "top_p", "user", "store"]
    body = {"message": f"Validation: Unsupported parameter(s): {', '.join(names)}", "code": 400}
    upstream = Upstream([Refusal(lambda seen: any(name in seen for name in names), body)])
    outcome = ask(Learner(), upstream, chat(seed=1, top_k=1, top_p=1, user=1, store=1))
    assert (outcome.error, len(upstream.seen)) == (None, 2)


def test_rule_applies_to_its_own_scope_only():
    learner, upstream = Learner(), Upstream([NO_STREAM])
    ask(learner, upstream, chat(stream=True))
    for other in (
        RuleScope("chat", "gpt", "chat"),
        RuleScope("azure", "o3-mini", "chat"),
        RuleScope("chat", "o3-mini", "x"),
    ):
        assert rules(learner, other) == []


def test_an_unverified_account_is_a_matter_of_its_credential_and_of_minutes():
    learner = Learner()
    refusal = Refusal(NO_STREAM.concerns, openai(VERIFY, "stream", "unsupported_value"))
    ask(learner, Upstream([refusal]), chat(stream=True))
    assert rules(learner) == ["stream=synth"]
    assert rules(learner, RuleScope("chat", "o3-mini", "chat", "other")) == []
    verified = Upstream()
    assert ask(learner, verified, chat(stream=True), QUARTER_S - 1).call.adapted == ("stream=synth",)
    assert ask(learner, verified, chat(stream=True), QUARTER_S).call.adapted == ()


# --- rejections that are not learned


@pytest.mark.parametrize("case", NOTHING_ROWS, ids=lambda case: case.name)
def test_the_first_word_of_these_is_the_last(case):
    learner, upstream = Learner(), Upstream([Refusal(lambda _: True, case.body, case.status)])
    outcome = ask(learner, upstream, case.call)
    assert outcome.error is not None
    assert outcome.error.http_status == case.status
    assert (len(upstream.seen), rules(learner), outcome.learning.tried) == (1, [], ())


def test_no_rule_is_learned_if_learning_is_off():
    learner, upstream = Learner(), Upstream([NO_STREAM])
    call = chat(stream=True)
    outcome = ask(learner, upstream, call, mode="off")
    assert outcome.error is not None
    assert (outcome.call, len(upstream.seen)) == (call, 1)
    assert learner.memory.records(0.0, 0.0) == []


def test_learned_stream_rule_is_not_applied_if_the_operator_set_stream():
    learner, upstream = Learner(), Upstream([NO_STREAM])
    ask(learner, upstream, chat(stream=True))
    outcome = ask(learner, upstream, chat(stream=True), policy=LearningPolicy(may_stream=False))
    assert outcome.error is not None
    assert outcome.call.adapted == ()


def test_a_request_without_a_body_passes():
    call = a_call(b"", MODELS)
    outcome = ask(Learner(), Upstream(), chat(), mode="on")
    assert plan(outcome.learning, call, 0.0) is call
    assert outcome.learning.wait_s(call, 0.0) == 0.0


# when it fails


def test_the_first_error_comes_back_and_is_not_tried_again_for_a_minute():
    again = always(openai("Streaming is not what this model does."))
    learner, upstream = Learner(), Upstream([NO_STREAM, again])
    first = ask(learner, upstream, chat(stream=True))
    assert first.error is not None
    assert first.error.message == STREAM
    assert first.logged == [("failed", "stream=synth")]
    assert (first.learning.tried, first.learning.changed) == (("stream=synth",), ())
    (row,) = learner.memory.records(0.0, 0.0)
    assert (row.state, row.expires_at, row.evidence) == ("failed", REFUTED_S, "Streaming is not what this model does.")
    second = ask(learner, upstream, chat(stream=True), REFUTED_S - 1)
    assert second.error is not None
    assert second.error.message == STREAM
    assert len(upstream.seen) == 3
    upstream.refusals.pop()
    assert ask(learner, upstream, chat(stream=True), REFUTED_S).error is None


WRONG = "Your fault is elsewhere."


def is_wrong(body: dict[str, Any]) -> bool:
    return "stop" in body


def test_a_change_before_a_rejection_of_something_else_has_helped_and_that_rejection_is_shown():
    learner, upstream = Learner(), Upstream([NO_STREAM, Refusal(is_wrong, openai(WRONG))])
    wrong = ask(learner, upstream, chat(stream=True, stop=["x"]))
    assert wrong.error is not None
    assert wrong.error.message == WRONG
    assert (wrong.logged, wrong.learning.tried, wrong.learning.changed) == ([], (), ("stream=synth",))
    assert (rules(learner), learner.memory.records(0.0, 0.0)) == ([], [])
    right = ask(learner, upstream, chat(stream=True), 5.0)
    assert (right.error, right.call.adapted, right.logged) == (None, ("stream=synth",), [("learned", "stream=synth")])
    assert [body["stream"] for body in upstream.seen] == [True, False, False]


def test_request_with_a_proven_rule_is_not_tried_without_it():
    learner, upstream = Learner(), Upstream([NO_STREAM, Refusal(is_wrong, openai(WRONG))])
    ask(learner, upstream, chat(stream=True, stop=["x"]))
    second = ask(learner, upstream, chat(stream=True, stop=["x"]), 5.0)
    assert second.error is not None
    assert (second.error.message, second.call.adapted) == (WRONG, ("stream=synth",))
    assert len(upstream.seen) == 3


def test_rule_that_no_longer_helps_is_removed():
    learner, upstream = Learner(), Upstream([without("max_tokens", USE), Refusal(is_wrong, openai(WRONG))])
    ask(learner, upstream, chat(max_tokens=5, stop=["x"]))
    repaired = Upstream([without("max_completion_tokens")])
    outcome = ask(learner, repaired, chat(max_tokens=5), 5.0)
    assert (outcome.error, outcome.call.adapted, len(repaired.seen)) == (None, (), 2)


def test_one_input_that_is_wrong_leaves_the_limit_of_a_batch_for_the_others():
    size = openai("batch size is invalid, it should not be larger than 10.: input.contents")
    length = openai("Range of input length should be [1, 8192]")
    upstream = Upstream([Refusal(lambda body: body["input"].count("bad") > 0, length)])
    learner = Learner()
    with closing(learner.session(O3, EMBEDDINGS.members)) as learning:
        call = embed(*["good"] * 11, "bad")
        plan(learning, call, 0.0)
        first = refused(always(size))
        assert learn_from(learning, first, 0.0)
        wrong = converse(learning, upstream, call, 0.0)
    assert wrong.error is not None
    assert wrong.error.message == "Range of input length should be [1, 8192]"
    assert (wrong.learning.changed, wrong.learning.tried) == (("split=10",), ())
    right = ask(learner, upstream, embed(*["good"] * 12), 5.0)
    assert (right.error, right.call.max_inputs) == (None, 10)


def test_error_after_the_first_helpful_change_is_shown_if_the_second_fails():
    broken = Refusal(lambda body: "temperature" not in body, {"error": "boom"}, 500)
    upstream = Upstream([NO_STREAM, without("temperature"), broken])
    learner = Learner()
    outcome = ask(learner, upstream, chat(stream=True, temperature=1))
    assert outcome.error is not None
    assert outcome.error.message == unsupported("temperature")
    assert (outcome.learning.tried, outcome.learning.changed) == (("drop=temperature",), ("stream=synth",))
    assert outcome.logged == [("failed", "drop=temperature")]
    assert ask(learner, Upstream([NO_STREAM]), chat(stream=True), 5.0).call.adapted == ("stream=synth",)


def test_of_two_changes_that_failed_the_error_before_the_first_is_shown():
    answer = "Unsupported parameter: 'temperature' is not supported without 'stream'."
    warm = Refusal(lambda body: "temperature" in body, openai(answer, "temperature", "unsupported_parameter"))
    upstream = Upstream([NO_STREAM, warm, always({"error": "boom"}, 500)])
    outcome = ask(Learner(), upstream, chat(stream=True, temperature=1))
    assert outcome.error is not None
    assert outcome.error.message == STREAM
    assert (outcome.learning.tried, outcome.learning.changed) == (("stream=synth", "drop=temperature"), ())


SILENT = [
    UpstreamTimeout("No answer.", upstream="chat", phase="first_byte"),
    UpstreamConnect("No connection.", upstream="chat"),
    UpstreamDns("No address.", upstream="chat"),
    UpstreamTls("No handshake.", upstream="chat"),
]


@pytest.mark.parametrize("silent", SILENT, ids=lambda error: error.public_code)
def test_an_upstream_without_an_answer_after_a_change_is_shown_as_such_and_refutes_nothing(silent):
    learner = Learner()
    with closing(learner.session(O3, CHAT.members)) as learning:
        plan(learning, chat(stream=True), 0.0)
        assert learn_from(learning, refused(NO_STREAM), 0.0)
        plan(learning, chat(stream=True), 0.0)
        assert not learn_from(learning, silent, 0.0)
        assert learning.failed(silent, 0.0) is silent
    assert learning.events == []
    assert ask(learner, Upstream([NO_STREAM]), chat(stream=True), 5.0).call.adapted == ("stream=synth",)


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_failure_of_the_server_after_a_change_brings_the_first_error_back(status):
    learner, upstream = Learner(), Upstream([NO_STREAM, always({"error": "boom"}, status)])
    outcome = ask(learner, upstream, chat(stream=True))
    assert outcome.error is not None
    assert outcome.error.message == STREAM
    assert rules(learner) == []


def test_a_connection_that_breaks_after_a_change_brings_the_first_error_back():
    learner = Learner()
    broken = UpstreamClosed("closed", upstream="chat")
    with closing(learner.session(O3, CHAT.members)) as learning:
        plan(learning, chat(stream=True), 0.0)
        first = refused(NO_STREAM)
        assert learn_from(learning, first, 0.0)
        plan(learning, chat(stream=True), 0.0)
        assert not learn_from(learning, broken, 0.0)
        assert learning.failed(broken, 0.0) is first


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, openai("No.")),
        (429, openai("Slow down.")),
        (400, openai(FILTERED, "prompt", "content_filter")),
        (400, openai("Too long.", code="context_length_exceeded")),
    ],
)
def test_unrelated_error_is_returned_and_the_trial_continues(status, body):
    learner, upstream = Learner(), Upstream([NO_STREAM, always(body, status)])
    outcome = ask(learner, upstream, chat(stream=True))
    assert outcome.error is not None
    assert outcome.error.http_status == status
    assert outcome.error.message == body["error"]["message"]
    assert (outcome.logged, rules(learner)) == ([], [])
    next_one = ask(learner, Upstream([NO_STREAM]), chat(stream=True), 5.0)
    assert (next_one.call.adapted, next_one.logged) == (("stream=synth",), [("learned", "stream=synth")])


def test_trial_without_requests_ends_after_a_minute():
    learner, upstream = Learner(), Upstream([NO_STREAM, always(openai("Slow down."), 429)])
    ask(learner, upstream, chat(stream=True))
    assert ask(learner, Upstream(), chat(stream=True), 61.0).call.adapted == ()


def test_request_with_an_unproven_trial_rule_proves_it():
    learner = Learner()
    ask(learner, Upstream([NO_STREAM, always(openai("Slow down."), 429)]), chat(stream=True))
    upstream = Upstream([NO_STREAM, always(openai(WRONG))])
    outcome = ask(learner, upstream, chat(stream=True), 5.0)
    assert [body["stream"] for body in upstream.seen] == [False, True, False]
    assert outcome.error is not None
    assert outcome.error.message == WRONG
    assert (outcome.learning.tried, outcome.learning.changed, rules(learner)) == ((), ("stream=synth",), [])
    ask(learner, upstream, chat(stream=True), 6.0)
    assert [body["stream"] for body in upstream.seen] == [False, True, False, False]


def test_request_drops_a_trial_rule_that_causes_an_error():
    learner = Learner()
    ask(learner, Upstream([NO_STREAM, always(openai("Slow down."), 429)]), chat(stream=True))
    whole = Refusal(lambda body: not body["stream"], openai("Not as a whole."))
    upstream = Upstream([whole, always(openai(WRONG))])
    outcome = ask(learner, upstream, chat(stream=True), 5.0)
    assert [body["stream"] for body in upstream.seen] == [False, True]
    assert outcome.error is not None
    assert (outcome.error.message, outcome.learning.changed) == (WRONG, ())


def test_a_request_that_follows_a_trial_that_solves_nothing_does_not_try_it_again():
    learner = Learner()
    ask(learner, Upstream([NO_STREAM, always(openai("Slow down."), 429)]), chat(stream=True))
    upstream = Upstream([always(openai(STREAM, "stream", "unsupported_value"))])
    assert ask(learner, upstream, chat(stream=True), 5.0).error is not None
    assert [body["stream"] for body in upstream.seen] == [False, True]


# loops


def test_request_does_not_reverse_its_own_rule():
    learner = Learner()
    upstream = Upstream([without("max_tokens", USE), without("max_completion_tokens")])
    outcome = ask(learner, upstream, chat(max_tokens=5))
    assert len(upstream.seen) == 2
    assert outcome.error is not None
    assert outcome.error.message == unsupported("max_tokens", USE)


def test_a_rule_that_the_upstream_no_longer_takes_is_forgotten_at_once():
    learner = Learner()
    ask(learner, Upstream([without("max_tokens", USE)]), chat(max_tokens=5))
    changed = Upstream([without("max_completion_tokens")])
    outcome = ask(learner, changed, chat(max_tokens=5))
    assert (outcome.error, outcome.call.adapted) == (None, ())
    assert outcome.logged == [("revoked", "rename=max_tokens>max_completion_tokens")]
    assert rules(learner) == []


def test_upstream_that_rejects_both_names_is_called_twice_at_most():
    learner = Learner()
    ask(learner, Upstream([without("max_tokens", USE)]), chat(max_tokens=5))
    neither = Upstream([without("max_completion_tokens"), without("max_tokens", USE)])
    outcome = ask(learner, neither, chat(max_tokens=5))
    assert outcome.error is not None
    assert outcome.error.message == unsupported("max_tokens", USE)
    assert len(neither.seen) == 2


def test_dropped_reasoning_is_restored_if_required():
    learner = Learner()
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "r"}]
    place = ["messages", 1, "assistant", "reasoning_content"]
    refuses = Refusal(lambda body: "reasoning_content" in body["messages"][1], pydantic(place), 422)
    ask(learner, Upstream([refuses]), chat(messages=messages))
    assert rules(learner) == ["drop=messages[].reasoning_content"]
    missed = openai("The `reasoning_content` in the thinking mode must be passed back to the API.")
    wants = Upstream([Refusal(lambda body: "reasoning_content" not in body["messages"][1], missed)])
    outcome = ask(learner, wants, chat(messages=messages))
    assert (outcome.error, rules(learner)) == (None, [])


def has_message_of(role, body):
    return any(message["role"] == role for message in body["messages"])


def test_roles_change_one_step_further_if_allowed():
    refusals = [
        Refusal(
            partial(has_message_of, role),
            openai(f"Unsupported value: 'messages[0].role' does not support '{role}' with this model."),
        )
        for role in ("system", "developer")
    ]
    call = chat(messages=[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}])
    outcome = ask(Learner(), Upstream(refusals), call, policy=LearningPolicy(frozenset(["system_into_user"])))
    assert json.loads(outcome.call.body)["messages"] == [{"role": "user", "content": "s\n\nu"}]
    assert ask(Learner(), Upstream(refusals), call).error is not None


# time


def test_a_rule_that_has_expired_is_forgotten_and_learned_again():
    learner, upstream = Learner(), Upstream([NO_STREAM])
    ask(learner, upstream, chat(stream=True))
    upstream.seen.clear()
    assert ask(learner, upstream, chat(), HOUR_S - 1).call.adapted == ()
    upstream.seen.clear()
    again = ask(learner, upstream, chat(stream=True), HOUR_S)
    assert (again.error, again.logged) == (None, [("learned", "stream=synth")])
    assert [body["stream"] for body in upstream.seen] == [True, False]
    upstream.seen.clear()
    ask(learner, upstream, chat(stream=True), 2 * HOUR_S - 1)
    assert [body["stream"] for body in upstream.seen] == [False]


def test_repaired_model_receives_the_clients_request():
    learner, repaired = Learner(), Upstream()
    ask(learner, Upstream([NO_STREAM]), chat(stream=True))
    again = ask(learner, repaired, chat(stream=True), HOUR_S)
    assert (again.call.adapted, again.logged, rules(learner)) == ((), [], [])


def test_after_a_rule_has_expired_one_request_goes_first():
    learner = Learner()
    for at_s in (0.0, HOUR_S / 2):  # the second one makes the model known for longer than its rule holds
        ask(learner, Upstream([NO_STREAM]), chat(stream=True), at_s)
    with closing(learner.session(O3, CHAT.members)) as first, closing(learner.session(O3, CHAT.members)) as second:
        waits = [one.wait_s(chat(stream=True), HOUR_S) for one in (first, second)]
        assert waits == [0.0, WAIT_S]
        assert converse(first, Upstream([NO_STREAM]), chat(stream=True), HOUR_S).call.adapted == ("stream=synth",)
        assert second.wait_s(chat(stream=True), HOUR_S) == 0.0


@pytest.mark.parametrize(
    ("status", "body", "shown"),
    [
        (400, "no stream", "first"),
        (400, None, "first"),
        (500, "boom", "first"),
        (None, None, "first"),
        (401, None, "last"),
    ],
)
def test_the_status_and_the_form_of_the_last_answer_say_whether_a_change_failed(status, body, shown):
    learner, first = Learner(), refused(NO_STREAM)
    answer = None if body is None else UpstreamErrorBody(STREAM if body == "no stream" else body)
    last: UpstreamError = UpstreamClosed("last", upstream="chat")
    if status is not None:
        last = UpstreamErrorReply("last", upstream="chat", status=status, error_body=answer)
    with closing(learner.session(O3, CHAT.members)) as learning:
        plan(learning, chat(stream=True), 0.0)
        assert learn_from(learning, first, 0.0)
        plan(learning, chat(stream=True), 0.0)
        assert learning.failed(last, 0.0) is (first if shown == "first" else last)


def test_a_request_in_flight_takes_over_what_was_learned_meanwhile():
    learner, upstream = Learner(), Upstream([NO_STREAM])
    with closing(learner.session(O3, CHAT.members)) as slow:
        plan(slow, chat(stream=True), 0.0)
        ask(learner, upstream, chat(stream=True))
        assert learn_from(slow, refused(NO_STREAM), 1.0)
        assert learner.trial.candidates(O3, 1.0) == {}
        late = converse(slow, Upstream([always(openai("Wrong."))]), chat(stream=True), 1.0)
    assert late.error is not None
    assert late.error.message == "Wrong."
    assert rules(learner) == ["stream=synth"]


# embeddings


def limit(most: int) -> Upstream:
    body = {"error": f"batch size 9 > maximum allowed batch size {most}", "error_type": "Validation"}
    return Upstream([Refusal(lambda _: True, body, 413)])


def test_a_batch_limit_is_learned_for_a_day():
    learner = Learner()
    with closing(learner.session(O3, EMBEDDINGS.members)) as learning:
        call = embed("a", "b", "c", "d", "e")
        plan(learning, call, 0.0)
        refusal = limit(2).refusals[0]
        assert learn_from(learning, refused(refusal), 0.0)
        assert plan(learning, call, 0.0).max_inputs == 2
        learning.succeeded(0.0)
    assert ask(learner, Upstream(), embed("a", "b", "c"), DAY_S - 1).call.max_inputs == 2
    assert ask(learner, Upstream(), embed("a", "b"), DAY_S - 1).call.max_inputs is None


def test_smaller_limit_replaces_a_known_one():
    learner = Learner()
    for most in (4, 2):
        with closing(learner.session(O3, EMBEDDINGS.members)) as learning:
            plan(learning, embed("a", "b", "c", "d", "e"), 0.0)
            refusal = limit(most).refusals[0]
            assert learn_from(learning, refused(refusal), 0.0)
            assert plan(learning, embed("a", "b", "c", "d", "e"), 0.0).max_inputs == most
            learning.succeeded(0.0)
    assert rules(learner) == ["split=2"]


def test_rule_for_one_request_is_not_stored():
    learner = Learner()
    body = openai("Requested 600000 tokens, max 300000 tokens per request", code="max_tokens_per_request")
    refusal = Refusal(lambda _: True, body)
    for succeeds in (True, False):
        with closing(learner.session(O3, EMBEDDINGS.members)) as learning:
            call = embed("a", "b", "c", "d")
            plan(learning, call, 0.0)
            error = refused(refusal)
            assert learn_from(learning, error, 0.0)
            assert plan(learning, call, 0.0).max_inputs == 1
            if succeeds:
                learning.succeeded(0.0)
            else:
                assert learning.failed(refused(refusal), 0.0) is error
    assert (rules(learner), learner.memory.records(0.0, 0.0)) == ([], [])


# whatever comes


ANSWERS = st.lists(st.sampled_from([*ROWS, *NOTHING_ROWS, None]), min_size=1, max_size=8)
SENT = st.sampled_from([row for row in ROWS if not row.also])


@given(st.lists(st.tuples(SENT, ANSWERS, st.sampled_from([0.0, 30.0, 4_000.0])), max_size=6))
def test_no_sequence_of_answers_loops_or_touches_what_was_sent(exchanges):
    learner, now_s = Learner(), 0.0
    for case, answers, pause_s in exchanges:
        now_s += pause_s
        call, sent = case.call, 0
        with closing(learner.session(O3, call.operation.members)) as learning:
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


def test_rules_that_two_processes_learned_against_each_other_make_no_circle():
    learner = Learner()
    for there, back in (("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")):
        rule = LearnedRule("rename", there, back)
        learner.memory.commit((RuleScope("chat", "o3-mini", "chat"), rule.key), rule, "", 0.0)
    assert rules(learner) == ["rename=max_completion_tokens>max_tokens"]


PLAIN = RuleScope("chat", "o3-mini", "chat")
SYNTH, TEMPERATURE = LearnedRule("stream", "synth"), LearnedRule("drop", "temperature")
RENAME = LearnedRule("rename", "max_tokens", "max_completion_tokens")
CALL = a_call(b'{"model":"m","messages":[],"temperature":1,"stream":true}', CHAT, stream=True)


def key(rule: LearnedRule) -> Key:
    return (PLAIN, rule.key)


def rejection(text: str) -> UpstreamRejection:
    found = UpstreamRejection.of(CHAT.members, 400, UpstreamErrorBody(text), b"{}")
    assert found is not None
    return found


def applied_rules(*rules: LearnedRule, is_own: bool = False) -> AppliedRules:
    return AppliedRules({key(rule): AppliedRule(rule, proven=False, is_own=is_own) for rule in rules})


def test_request_without_rules_is_unchanged():
    assert AppliedRules().revise(CALL) is CALL


def test_rules_change_a_request_in_the_order_of_the_rules():
    applied = applied_rules(TEMPERATURE, RENAME, SYNTH)
    assert applied.revise(CALL).adapted == ("stream=synth", "drop=temperature")
    assert applied.used == [key(SYNTH), key(TEMPERATURE)]


def test_applied_tried_and_reversed_rules_are_excluded():
    applied = applied_rules(RENAME)
    back, other = (
        LearnedRule("rename", "max_completion_tokens", "max_tokens"),
        LearnedRule("rename", "max_tokens", "limit"),
    )
    assert [applied.excludes(key(rule), rule) for rule in (RENAME, back, other, SYNTH)] == [
        True,
        True,
        False,
        False,
    ]
    applied.remove([key(RENAME)])
    assert [applied.excludes(key(rule), rule) for rule in (RENAME, back, other, SYNTH)] == [
        True,
        False,
        True,
        False,
    ]


def test_newer_rule_with_the_same_key_comes_last():
    applied = applied_rules(SYNTH, TEMPERATURE)
    other = AppliedRule(LearnedRule("stream", "aggregate"), proven=False, is_own=True)
    applied.add(key(SYNTH), other)
    assert list(applied.by_key) == [key(TEMPERATURE), key(SYNTH)]
    assert (applied.own, list(applied.inherited)) == ({key(SYNTH): other}, [key(TEMPERATURE)])


def test_own_rule_has_helped_if_the_next_rejection_differs():
    applied = applied_rules(SYNTH, TEMPERATURE, RENAME, is_own=True)
    applied.by_key[key(SYNTH)].evidence = "no stream"
    applied.revise(CALL)
    assert applied.mark_helped(rejection("no stream")) == [key(TEMPERATURE)]
    assert applied.mark_helped(rejection("no stop")) == [key(SYNTH)]
    assert applied.mark_helped(rejection("no stop")) == []
    assert not applied.by_key[key(RENAME)].helped, "it changed nothing of this request"
