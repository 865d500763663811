"""Promises of learning that are easy to break, each run to the end."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from gatepass.learning.learned_rule import RuleScope
from gatepass.learning.memory import Memory
from gatepass.learning.session import LearningSession
from tests.rows import CHAT
from tests.unit.learning import no_repair
from tests.unit.learning.rejections import openai, unsupported
from tests.unit.learning.test_rows import advised, of
from tests.unit.learning.test_tries import Simulated, a_call, send
from tests.unit.learning.upstreams import Body, ask, learn_from, plan, refused

Row = tuple[Callable[[Body], Any], Any]
"""A test of a body, and the text or the body of the error if it holds."""
SEARCH, ONE, OTHER = {"type": "web_search"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}
NULL = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}


def chat(*messages: Body, **members: Any) -> Body:
    return {"model": "m", "messages": [*(messages or (user(),))], **members}


def user(content: Any = "hi", **more: Any) -> Body:
    return {"role": "user", "content": content, **more}


def function(**parameters: Any) -> Body:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def refuse(*rows: Row) -> Callable[[Body], tuple[int, Any] | None]:
    """Return an upstream that answers with the error of the first row that holds for the request."""

    answers = [(holds, (400, openai(error) if isinstance(error, str) else error)) for holds, error in rows]
    return lambda body: next((answer for holds, answer in answers if holds(body)), None)


def says(text: str) -> Callable[[Body], bool]:
    return lambda body: text in json.dumps(body)


def sent_after(memory: Memory, body: Body, owner: str = "a") -> Body:
    """Return what is sent for `body` to an upstream that accepts everything."""
    sent: Body = json.loads(send(memory, refuse(), body, owner=owner).call.body)
    return sent


CLOSED, LAST, LONG = "stream closed by guard", "last role must be user", "the content is longer than we take"


@pytest.mark.parametrize("text", [CLOSED, LAST, LONG, "messages with role 'tool' must follow a tool call"])
def test_an_error_of_a_bad_request_takes_no_rule_from_the_good_ones(text: str) -> None:
    memory = Memory()
    good, bad = (chat(user(one), tools=[function(), SEARCH], stream=True) for one in ("good", "bad"))
    upstream = refuse((says("web_search"), "tools[1].type: web_search is off-limits"), (says("bad"), text))
    outcomes = [send(memory, upstream, body, now_s=now_s) for now_s, body in enumerate((good, bad, good))]
    assert [(one.error is None, one.calls) for one in outcomes[::2]] == [(True, 2), (True, 1)]
    assert outcomes[1].message == text
    assert [one.rule.entry for one in memory.records(3.0, 0.0)] == ["drop=tools[web_search]"]


NO_NULL = (says('"content": null'), "messages.0.content: content must not be null")
NO_LIST = (says('"content": ['), "content must be a string, not a list")
NO_SEARCH = (says("web_search"), "tool web_search is not here")
NO_FORMAT = (says('"uri"'), "keyword `format` of a tool")
NO_DEVELOPER = (says("developer"), "messages[2].role: unknown role developer")
FIRST = (lambda body: body["messages"][-1]["role"] == "system", "role system must be first")
FORMS, SYSTEM = chat(NULL, user([ONE, OTHER])), {"role": "system", "content": "x"}
FORMED = chat({**NULL, "content": ""}, user("a\n\nb"))
LATE = chat(SYSTEM, user(), {"role": "developer", "content": "y"})
TYPED = chat(tools=[function(a={"format": "uri"}), SEARCH])
CHAINS = {
    "null then list": (FORMS, (NO_NULL, NO_LIST), FORMED),
    "list then null": (FORMS, (NO_LIST, NO_NULL), FORMED),
    "tool then keyword": (TYPED, (NO_SEARCH, NO_FORMAT), chat(tools=[function(a={})])),
    "developer then order": (LATE, (NO_DEVELOPER, FIRST), chat({**SYSTEM, "content": "x\n\ny"}, user())),
}


@pytest.mark.parametrize(("body", "rows", "accepted"), CHAINS.values(), ids=CHAINS)
def test_two_refusals_of_one_request_are_both_solved(body: Body, rows: tuple[Row, Row], accepted: Body) -> None:
    outcome = send(Memory(), refuse(*rows), body)
    assert (outcome.message, json.loads(outcome.call.body), outcome.calls) == (None, accepted, 3)


CODES = (
    *("InputTextSensitiveContentDetected", "censorship_blocked", "SAFETY", "policy_violation", "guardrail_intervened"),
    *("safety_error", "content_filter_error", "content_policy_violation", "data_inspection_failed", "RiskControl"),
)
TEXTS = (
    *("Content Exists Risk", "may contain sensitive information", "content audit fails", "safety_filter", "unsafe"),
    *("Content violates usage guidelines", "flagged as inappropriate", "a jailbreak", "content management policy"),
    *("风险", "违法", "色情", "违规", "敏感", "审核", "不当", "涉嫌"),
)


@pytest.mark.parametrize(("code", "text"), [*((one, "refused") for one in CODES), *((None, one) for one in TEXTS)])
def test_a_prompt_that_a_filter_refused_is_sent_once(code: str | None, text: str) -> None:
    agent: Body = {**no_repair.AGENT, "tools": [function(), SEARCH]}
    upstream = refuse((says(""), openai(f"role user, content string, tool web_search: {text}", None, code)))
    assert send(Memory(), upstream, agent).calls == 1


def test_a_value_refused_beside_an_unknown_name_is_refused_as_a_value() -> None:
    def answer(body: Body) -> tuple[int, Any] | None:
        unknown = ("extra_forbidden", "chat_template_kwargs", "Extra inputs are not permitted")
        above = ("less_than_equal", "temperature", "Input should be less than or equal to 2")
        wrong = [unknown] * ("chat_template_kwargs" in body) + [above] * (body.get("temperature", 0) > 2)
        detail = [{"type": kind, "loc": ["body", name], "msg": text} for kind, name, text in wrong]
        return (422, {"detail": detail}) if wrong else None

    memory = Memory()
    assert send(memory, answer, chat(temperature=7, chat_template_kwargs={"a": 1})).error is None
    assert sent_after(memory, chat(temperature=0.3, chat_template_kwargs={"a": 2})) == chat(temperature=0.3)


def test_three_names_in_one_request_are_three_values() -> None:
    memory, (ann, bob, cem, carol) = Memory(), [user(name=name) for name in ("ann", "bob", "cem", "carol")]
    outcome = send(memory, refuse((says('"name"'), "messages[0].name is not valid")), chat(ann, bob, cem))
    assert json.loads(outcome.call.body) == chat(user(), user(), user())
    assert sent_after(memory, chat(carol, bob)) == chat(carol, user())


RESULT = {"type": "function_call_output", "call_id": "c", "output": ""}
ITEMS = [{"type": "compaction", "encrypted_content": "abc"}, RESULT]
FOREIGN = {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "xyz"}
TOO_LARGE = ("chat", chat(max_tokens=9_000), "max_tokens is too large", "rename")
BLANK_OUTPUT = ("responses", {"input": ITEMS}, "input[1].output is empty", "output")


@pytest.mark.parametrize(("protocol", "body", "text", "part"), [TOO_LARGE, BLANK_OUTPUT])
def test_what_would_lose_something_is_not_tried(protocol: str, body: Body, text: str, part: str) -> None:
    tried = send(Memory(), refuse((says(""), text)), body, protocol).learning.tried
    assert not [entry for entry in tried if part in entry]


SAID: Body = {"role": "assistant", "content": ""}
ANSWERS: list[Body] = [{**SAID, "audio": {"id": "a"}}, {**SAID, "reasoning_content": "because"}]
CALLED: Body = {**SAID, "content": None, "function_call": {"name": "f", "arguments": "{}"}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:,"}, "text": ""}
CHOSEN = {"type": "allowed_tools", "mode": "required", "tools": [SEARCH]}
NOT_ITS_OWN = openai("The encrypted content could not be verified.", None, "invalid_encrypted_content")
NO_BLANK = (says('"type": "text"'), "messages.3.content: text must not be empty")
NO_OLD = (says('"old"'), "tools: web_search or old is not supported")
BLANK, FILLED = [PICTURE, {**ONE, "text": ""}], [PICTURE]
NOW, BEFORE = (chat(tools=[function(), SEARCH, *one], tool_choice=CHOSEN) for one in ((), ({"type": "old"},)))
KEPT = {
    "compaction": ("responses", {"input": [FOREIGN, *ITEMS]}, (says("xyz"), NOT_ITS_OWN), {"input": ITEMS}),
    "filled": ("chat", chat(*ANSWERS, CALLED, user(BLANK)), NO_BLANK, chat(*ANSWERS, CALLED, user(FILLED))),
    "allowed": ("chat", BEFORE, NO_OLD, NOW),
}


@pytest.mark.parametrize(("protocol", "body", "row", "accepted"), KEPT.values(), ids=KEPT)
def test_what_only_looks_empty_or_foreign_stays(protocol: str, body: Body, row: Row, accepted: Body) -> None:
    outcome = send(Memory(), refuse(row), body, protocol)
    assert (outcome.message, json.loads(outcome.call.body)) == (None, accepted)


def test_the_evidence_names_no_person() -> None:
    memory, text = Memory(), "temperature is not valid for ann-lee (bob-ray, cem); user 'ann-lee', name \"cem\""
    body = chat(user(name="cem"), temperature=7, user="ann-lee", safety_identifier="bob-ray")
    events = send(memory, refuse((lambda body: body.get("temperature") == 7, text)), body).learning.events
    shown = [*(one.evidence for one in memory.records(1.0, 0.0)), *(one.evidence for one in events)]
    assert len(shown) > 1
    assert not [name for name in ("ann-lee", "bob-ray", "cem") if name in str(shown)]


IDS = ("(request id: AbCdEfGh)", "(request id: ZyXwVuTs)")
UUIDS = ("(3f2a9c1e-7a1b-4bcd-8e11-0b1d2f3a4c5e)", "(e0b7d6c5-1b2c-4fed-9a22-9c8b7a6f5e4d)")
TIMES = ("at Mon, 30 Nov 2026 23:59:14 GMT", "at Tue, 01 Dec 2026 00:00:02 GMT")


@pytest.mark.parametrize("ends", [IDS, UUIDS, TIMES])
def test_an_error_that_differs_in_its_id_or_time_alone_is_the_same(ends: tuple[str, str]) -> None:
    memory, odd, body = Memory(), "temperature and top_p are odd", chat(temperature=0.3, top_p=1)
    first, again = (send(memory, refuse((says(""), f"{odd} {end}")), body).calls for end in ends)
    assert (first > 1, again) == (True, 1)


def test_what_helped_a_client_that_left_is_tried_first() -> None:
    memory, body = Memory(), chat(seed=1, top_k=4, min_p=0)
    refuses = refuse(*((says(f'"{name}"'), unsupported(name)) for name in ("seed", "top_k", "min_p")))
    upstream, again, call = Simulated(refuses), Simulated(refuses), a_call(body)
    learning = LearningSession(memory, RuleScope("a", "chat", "m", "chat"), CHAT.members)
    for _ in range(3):
        refusal = upstream.answer(plan(learning, call, 0.0))
        assert refusal is not None
        assert learn_from(learning, refused(refusal), 0.0)
    learning.left(0.0)
    assert ask(memory, again, call, 1.0).error is None
    assert again.seen == [body, chat(min_p=0), chat()]


def test_what_the_upstream_served_one_caller_does_not_depend_on_another() -> None:
    def known(others: int) -> list[bool]:
        memory, scopes = Memory(), [RuleScope("b", "chat", f"m{at}", "chat") for at in range(600)]
        for scope in (*scopes, *(RuleScope("a", "chat", f"m{at}", "chat") for at in range(others))):
            memory.note_served(scope, 0.0, is_stream=True)
        return [memory.may_store_missing(scope, 1.0, is_stream=True) for scope in scopes]

    assert known(0) == known(900)
    assert known(0)[-1] is False


ALONE = ("temperature is not valid", "on", "")
OFF = ("temperature is not valid", "off", "To drop temperature, set upstreams.chat.learn: on, or rules: {drop: ")
WITH = ("temperature and 'stop' are not valid", "on", 'To drop stop, set rules: {drop: ["stop"]}')


@pytest.mark.parametrize(("text", "learn", "begins"), [ALONE, OFF, WITH])
def test_advice_names_only_what_gatepass_may_not_do_itself(text: str, learn: Any, begins: str) -> None:
    shown = advised(of(text, temperature=7, stop=["a"]), learn=learn)
    assert (shown[: len(begins)], bool(shown)) == (begins, bool(begins))


PARTS, STRICT = chat(user([ONE])), chat(tools=[function(additionalProperties=False)])
NO_STRICT = (says("additionalProperties"), "tools[0].function.parameters: no `additionalProperties` here")
WANTS = {
    "form": (PARTS, NO_LIST, says('"content": ['), "messages.0: Input should be a valid list"),
    "language": (PARTS, NO_LIST, says('"content": ['), "Eingabe ist nicht erlaubt"),
    "schema": (STRICT, NO_STRICT, says("additionalProperties"), "'additionalProperties' has to be false"),
}


@pytest.mark.parametrize(("body", "learned", "holds", "text"), WANTS.values(), ids=WANTS)
def test_a_rule_that_the_upstream_refuses_in_whatever_words_is_taken_back(
    body: Body, learned: Row, holds: Callable[[Body], bool], text: str
) -> None:
    memory = Memory()
    assert send(memory, refuse(learned), body).error is None
    outcome = send(memory, refuse((lambda sent: not holds(sent), text)), body, now_s=1.0)
    assert (outcome.message, json.loads(outcome.call.body), memory.records(1.0, 0.0)) == (None, body, [])


@pytest.mark.parametrize("status", [404, 500])
def test_a_server_that_fails_at_the_other_form_gives_the_client_its_own_error(status: int) -> None:
    upstream = refuse(NO_LIST)
    outcome = send(Memory(), lambda body: upstream(body) or (status, openai("Sorry.")), PARTS)
    assert (outcome.message, outcome.calls) == (NO_LIST[1], 2)


FILTERS: list[Any] = [
    {"error": {"message": "content string", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
    {"error": {"message": "content string"}, "promptFeedback": {"blockReason": "OTHER"}},
    {"__type": "GuardrailException", "message": "messages[1].content"},
    openai("The content is objectionable"),
    openai("messages[0].content: profanity"),
    openai("messages[0].content 不合适"),
]


@pytest.mark.parametrize("error", FILTERS, ids=str)
def test_a_filter_is_known_by_its_labels_too(error: Any) -> None:
    assert send(Memory(), refuse((says(""), error)), PARTS).calls == 1


@pytest.mark.parametrize("text", ["input new_sensitive", "input[0]: restricted"])
def test_an_input_that_a_filter_refused_is_not_sent_in_parts(text: str) -> None:
    body = {"model": "m", "input": ["a", "b", "c", "d"]}
    assert send(Memory(), refuse((says(""), text)), body, "embeddings").calls == 1


@pytest.mark.parametrize(
    "text", ["max_tokens is high, with 500 requests a day", "max_tokens got 4000, at most 64 images"]
)
def test_a_number_of_something_else_bounds_no_tokens(text: str) -> None:
    tried = send(Memory(), refuse((says("max_tokens"), text)), chat(max_tokens=4000)).learning.tried
    assert "clamp=max_tokens" not in tried


@pytest.mark.parametrize(
    "name", ["dry_run", "zdr", "normalize", "truncate_dim", "tenant_id", "maxNewTokens", "version"]
)
def test_an_unknown_name_that_protects_or_selects_something_stays(name: str) -> None:
    text = openai(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    assert send(Memory(), refuse((says(name), text)), chat(**{name: True})).calls == 1


def test_a_value_accepted_after_the_rule_for_another_has_expired_counts() -> None:
    memory = Memory()
    upstream = refuse((lambda body: body.get("temperature", 0) > 2, openai("no", "temperature")))
    for now_s, value in ((0.0, 3), (100.0, 0.7), (200.0, 4), (201.0, 5)):
        assert send(memory, upstream, chat(temperature=value), now_s=now_s).error is None
    assert json.loads(send(memory, upstream, chat(temperature=0.7), now_s=202.0).call.body) == chat(temperature=0.7)


def test_a_tool_that_a_long_choice_names_stays() -> None:
    choice = {**CHOSEN, "tools": [SEARCH, *({"type": "function", "name": f"f{at}" * 20} for at in range(90))]}
    body = chat(tools=[function(), SEARCH], tool_choice=choice)
    assert send(Memory(), refuse((says("web_search"), "no web_search here")), body).learning.tried == ()


def test_a_member_at_the_root_is_read_from_the_parts_of_an_error() -> None:
    part = {"instancePath": "", "message": "no additional properties", "params": {"additionalProperty": "seed"}}
    upstream = refuse((says("seed"), {"message": "invalid", "errors": [part]}))
    assert json.loads(send(Memory(), upstream, chat(seed=1)).call.body) == chat()
