"""What attempts learn: the cost of a known model, the events that are logged, the error that the client gets."""

import json
import logging
from typing import Any

import pytest

from gatepass.config.model import Config
from gatepass.dialects.reply_check import ReceivedReply, classify_error
from gatepass.errors import (
    UpstreamClosed,
    UpstreamEmpty,
    UpstreamError,
    UpstreamErrorReply,
    UpstreamHtml,
    UpstreamInvalid,
    UpstreamTimeout,
)
from gatepass.learning.learned_rule import LearnedRule, RuleScope
from gatepass.normalize.rules import INCLUDE_USAGE, apply_changes
from gatepass.observability.observer import AttemptRecord
from gatepass.proxy.app_state import AppState, create_app_state
from gatepass.proxy.attempt import begin_target, plan, send_own_call, succeeded
from gatepass.proxy.context import Attempt
from gatepass.proxy.retry import MOST_CALLS, MOST_TRIES_S, Outcome
from gatepass.types import Call, Target, UpstreamErrorBody
from tests.rows import CHAT, EMBEDDINGS
from tests.unit.clock import DrivenClock
from tests.unit.normalize.calls import a_call

NO_STREAM = "Unsupported value: 'stream' does not support true with this model. Supported values are: false."
TARGET = Target("chat", "o1")

O1 = RuleScope("caller", "chat", "o1", "chat")


def a_state(more: Any = None, **settings: Any) -> AppState:
    model = {"upstream": "chat", "name": "o1", **(more or {})}
    blocks = {"upstreams": {"chat": {"base_url": "https://h/v1", **settings}}, "models": {"m": model}}
    return create_app_state(Config.model_validate(blocks), DrivenClock())


def a_chat(**members: Any) -> Call:
    body = {"model": "m", "messages": [], "stream": True, **members}
    return a_call(json.dumps(body).encode(), CHAT, stream=body["stream"])


def refusal(message: str = NO_STREAM, status: int = 400, **more: Any) -> UpstreamErrorReply:
    error_body = UpstreamErrorBody(message, **more)
    return UpstreamErrorReply(
        message, upstream="chat", status=status, upstream_code=error_body.code, error_body=error_body
    )


class Scenario:
    """Plans, sends and repeats calls without an upstream, and keeps the record of the last attempt."""

    def __init__(self, state: AppState) -> None:
        self.state = state
        assert isinstance(state.clock, DrivenClock)
        self.clock = state.clock
        self.memory = state.upstreams["chat"].state.learned
        self.attempt = AttemptRecord("id", "chat", "m", "chat")
        self.sent: list[Call] = []
        self.answer_s = 0.0
        """How long the upstream takes for an answer."""

    async def ask(self, call: Call, *answers: UpstreamError | None) -> UpstreamError | None:
        """Return the error for the client after `answers` to one attempt after the other, None for success."""
        results, self.sent = iter(answers), []

        async def once(attempt: Attempt) -> None:
            self.attempt = attempt.record
            if attempt.base is None:
                attempt.base = call
                begin_target(attempt, call)
            attempt.normalized = call if attempt.session is None else await plan(attempt, attempt.session, attempt.base)
            attempt.record.adapted, attempt.sent = attempt.normalized.adapted, True
            self.sent.append(attempt.normalized)
            self.clock.suspend(self.answer_s)
            if (error := next(results)) is not None:
                raise error
            succeeded(attempt)
            attempt.end(Outcome.COMPLETE)

        try:
            await send_own_call(Attempt.begin(self.state, TARGET, call), once)
        except UpstreamError as error:
            return error
        return None


@pytest.fixture
def scenario() -> Scenario:
    return Scenario(a_state())


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "gatepass.learning"]


async def test_a_rule_is_learned_from_a_known_model_that_begins_to_refuse(scenario, caplog):
    caplog.set_level(logging.INFO, "gatepass.learning")
    await scenario.ask(a_chat(seed=1), None)
    assert await scenario.ask(a_chat(seed=1), refusal("No seed."), None) is None
    assert [call.adapted for call in scenario.sent] == [(), ("drop=seed",)]
    assert events(caplog) == ["rule_learned"]
    assert scenario.attempt.tried == ()
    assert (
        b'gatepass_learned_rule_events_total{event="learned",upstream="chat"} 1.0'
        in scenario.state.metrics.exposition()
    )
    await scenario.ask(a_chat(seed=1), None)
    assert scenario.sent[0].adapted == ("drop=seed",)


async def test_a_stream_that_was_served_a_moment_before_is_missing_for_one_request_alone(scenario):
    await scenario.ask(a_chat(), None)
    assert await scenario.ask(a_chat(), refusal(), None) is None
    assert scenario.sent[1].adapted == ("stream=synth",)
    await scenario.ask(a_chat(), None)
    assert scenario.sent[0].adapted == ()


NO_STOP = "Unsupported parameter: 'stop' is not supported with this model."


async def test_error_after_a_helpful_change_names_the_change_and_the_remedy(scenario):
    left = refusal(NO_STOP, code="unsupported_parameter", param="stop")
    call = a_chat(stop=["x"])
    assert await scenario.ask(call, refusal(), left) is left
    assert left.message == (
        f"With `stream=synth`: {NO_STOP}"
        """ To drop stop, set rules: {drop: ["stop"]} in the model's entry under models."""
    )
    assert scenario.attempt.tried == scenario.attempt.adapted == scenario.attempt.changes == ("stream=synth",)


NO_SEED = "Unsupported parameter: 'seed' is not supported with this model."
PARTS = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
AFTER = {
    "left out": (a_chat(seed=1, stream=False), NO_SEED, "seed", "drop=seed"),
    "renamed": (
        a_chat(max_tokens=9),
        "Use `max_completion_tokens`, not max_tokens",
        "max_completion_tokens",
        "rename=",
    ),
    "bounded": (a_chat(max_tokens=9000), "`max_tokens` must be at most 4096", "max_tokens", "clamp=max_tokens"),
    "stream": (a_chat(), NO_STREAM, "stream", "stream=synth"),
    "content": (a_chat(messages=PARTS), "messages[0].content must be a string", "messages.0.content", "content=text"),
    "role": (
        a_chat(messages=[{"role": "developer", "content": "x"}]),
        "Bad role developer",
        "messages.0.role",
        "role=",
    ),
}
"""A call, the error that it gets, what is then changed, and the change."""
FORMS = ("stream", "content", "role")


class Answers:
    """Replies with this status and error. `OWN` stands for the first error, `CHANGED` for what was changed after it."""

    def __init__(self, status: int, text: str, **members: Any) -> None:
        self.status, self.error = status, {"message": text, "param": None, "code": None, **members}

    def after(self, own: str, changed: str) -> UpstreamError:
        text = json.dumps({"error": self.error}).replace("OWN", own).replace("CHANGED", changed)
        return classify_error(ReceivedReply("chat", self.status, (), text.encode(), model="m", operation="chat"))


LAST: dict[str, tuple[Any, str, str]] = {
    # the same, or about what was changed
    "the same": (Answers(400, "OWN"), "first", "first"),
    "the same but its id": (Answers(400, "OWN", id="20261130a"), "first", "first"),
    "about it, 400": (Answers(400, "This is refused.", param="CHANGED"), "first", "first"),
    "about it, 500": (Answers(500, "KeyError: 'CHANGED'"), "first", "then"),
    # about the model, by name, words or code
    "model, 404": (Answers(404, "The model `nope` does not exist."), "last", "last"),
    "model, 400": (Answers(400, "Model not found."), "last", "last"),
    "model by its code": (Answers(404, "Nothing here.", code="model_not_found"), "last", "last"),
    "model by its name": (Answers(422, "Sorry: 'o1'"), "last", "last"),
    # of another kind
    "401": (Answers(401, "Bad token."), "last", "last"),
    "403": (Answers(403, "Not for you."), "last", "last"),
    "413": (Answers(413, "Too large."), "last", "last"),
    "429": (Answers(429, "Slow down."), "last", "last"),
    "filter": (Answers(400, "Refused.", code="content_filter"), "last", "last"),
    "context": (Answers(400, "This model's maximum context length is 8192 tokens."), "last", "last"),
    "501": (Answers(501, "Not implemented."), "last", "last"),
    "503": (Answers(503, "Busy."), "last", "last"),
    "504": (Answers(504, "Late."), "last", "last"),
    "no answer": (UpstreamTimeout("No answer.", upstream="chat", phase="first_byte"), "last", "last"),
    "closed": (UpstreamClosed("Closed.", upstream="chat"), "last", "last"),
    "login page": (UpstreamHtml("A page.", upstream="chat"), "last", "last"),
    # of the server
    "500": (Answers(500, "CUDA out of memory."), "last", "then"),
    "another 404": (Answers(404, "Not found."), "last", "then"),
    "no JSON": (UpstreamInvalid("No JSON.", upstream="chat"), "last", "then"),
    # 400 and 422
    "elsewhere, 400": (Answers(400, NO_STOP, param="stop"), "last", "last"),
    "elsewhere, 422": (Answers(422, "tools[3] is refused"), "last", "last"),
    "at nothing, 400": (Answers(400, "Bad request."), "then", "then"),
    "at nothing, 422": (Answers(422, "Wrong."), "then", "then"),
}


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("after", AFTER)
async def test_the_client_gets_the_last_true_error(after, last):
    """Each cell of the table in docs/concepts/learned_rules.md."""
    call, text, changed, entry = AFTER[after]
    answers, *cells = LAST[last]
    errors = [answers.after(text, changed) if isinstance(answers, Answers) else answers for _ in range(MOST_CALLS)]
    own, expected, scenario = refusal(text), cells[after in FORMS], Scenario(a_state())
    shown = await scenario.ask(call, own, *errors)
    assert shown is not None
    assert (shown is own) is (expected != "last")
    assert shown.message.startswith(f"With `{entry}" if expected == "last" else text)
    assert ("The upstream then answered: " in shown.message) is (expected == "then")
    assert bool(scenario.attempt.changes) is (expected == "last")
    assert any(one.startswith(entry) for one in scenario.attempt.tried)


MEMBERS = {
    "store": True,
    "metadata": {},
    "prompt_cache_key": "k",
    "verbosity": "low",
    "service_tier": "auto",
    "seed": 1,
    "top_k": 1,
    "min_p": 1,
    "user": "u",
}


async def test_a_500_after_a_member_was_left_out_is_shown_although_a_form_was_changed_before(scenario):
    messages = [{"role": "developer", "content": "x"}, {"role": "user", "content": "x"}]
    role, dead = refusal("Unexpected role 'developer'.", param="messages.0.role"), Answers(500, "dead").after("", "")
    shown = await scenario.ask(a_chat(messages=messages, seed=1), role, refusal(NO_SEED, param="seed"), dead)
    assert shown is dead
    assert (shown.http_status, len(scenario.sent)) == (500, 3)
    assert shown.message.startswith("With `role=developer>system`, `drop=seed`: dead")


async def test_the_first_error_is_shown_if_it_returns_after_two_changes(scenario):
    no_bias = "Unsupported parameter: 'logit_bias'"
    said = [refusal(text, param=text.split("'")[1]) for text in (no_bias, NO_SEED, no_bias)]
    shown = await scenario.ask(a_chat(logit_bias={"1": 1}, seed=1), *said)
    assert shown is said[0]
    assert shown.message == f"{no_bias}. Tried before: `drop=logit_bias`, `drop=seed`."
    assert scenario.attempt.changes == ()


@pytest.mark.parametrize(("answer_s", "requests"), [(0.0, MOST_CALLS), (MOST_TRIES_S / 4, 4), (MOST_TRIES_S, 1)])
async def test_tries_are_bounded_and_the_error_that_is_left_names_them(scenario, answer_s, requests):
    scenario.answer_s, names = answer_s, list(MEMBERS)
    refusals = [refusal(f"Unsupported parameter: '{name}'", param=name) for name in names]
    shown = await scenario.ask(a_chat(**MEMBERS), *refusals)
    tried = tuple(f"drop={name}" for name in names[: requests - 1])
    assert (shown, len(scenario.sent), scenario.memory.by_scope) == (refusals[requests - 1], requests, {})
    listed = ", ".join(f"`{entry}`" for entry in tried)
    assert shown.message == f"{listed and f'With {listed}: '}Unsupported parameter: '{names[requests - 1]}'"
    assert (scenario.attempt.tried, scenario.attempt.adapted) == (tried, tried)


async def test_a_count_that_gatepass_itself_requested_is_no_useless_try_but_a_call(scenario):
    no_count = refusal("Unknown parameter: 'stream_options'", param="stream_options", code="unknown_parameter")
    refusals = [refusal(f"Unsupported parameter: '{name}'", param=name) for name in [*MEMBERS][: MOST_CALLS - 2]]
    call, _ = apply_changes(a_chat(**MEMBERS), list(INCLUDE_USAGE.changes))
    assert await scenario.ask(call, no_count, *refusals, None) is None
    assert len(scenario.sent) == MOST_CALLS


@pytest.mark.parametrize(
    ("model", "upstream", "advice"),
    [
        (
            {},
            {"learn": "off"},
            (
                'To adapt such requests (stream=synth), set upstreams.chat.learn: on, or stream: "emulate" in the'
                " model's entry under models."
            ),
        ),
        ({"stream": True}, {}, "The model's entry sets stream: native. Set it to auto or emulate."),
    ],
    ids=["learn", "stream"],
)
async def test_a_rule_that_a_setting_forbids_is_reported_with_the_setting(model, upstream, advice):
    forbidden = Scenario(a_state(model, **upstream))
    shown = await forbidden.ask(a_chat(), refusal())
    assert shown is not None
    assert (shown.message, forbidden.attempt.tried) == (f"{NO_STREAM} {advice}", ())


async def test_rejected_or_unanswered_token_ids_get_advice(scenario):
    call = a_call(b'{"model":"m","input":[1,2]}', EMBEDDINGS)
    error = refusal("`input` must be a string")
    assert await scenario.ask(call, error) is error
    assert "check_embedding_ctx_length=False" in error.message
    shown = await scenario.ask(call, UpstreamEmpty("It answered without a vector.", upstream="chat"))
    assert isinstance(shown, UpstreamErrorReply)
    assert (shown.http_status, shown.public_code, shown.param) == (400, "upstream_empty", "input")
    assert shown.message.startswith("It answered without a vector. `input` contains token ids")
    closed = UpstreamClosed("gone", upstream="chat")
    assert await scenario.ask(call, closed) is closed
    assert closed.message == "gone"


async def test_a_learned_rule_that_does_not_concern_a_request_leaves_it_unchanged(scenario):
    rule = LearnedRule("drop", "temperature")
    scenario.memory.commit(O1, rule, "", scenario.clock.now())
    call = a_chat()
    await scenario.ask(call, None)
    assert scenario.sent[0] is call
    await scenario.ask(a_chat(temperature=0.5), None)
    assert scenario.sent[0].adapted == ("drop=temperature",)
