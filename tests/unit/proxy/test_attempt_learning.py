"""What attempts learn: the cost of a known model, the events that are logged, the error that the client gets."""

import json
import logging
from typing import Any

import pytest

from gatepass.config.model import Config
from gatepass.errors import UpstreamClosed, UpstreamEmpty, UpstreamError, UpstreamErrorReply
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
    own = refusal()
    assert await scenario.ask(call, own, left) is own
    assert own.message == (
        f"{NO_STREAM} Tried before: `stream=synth`. The upstream then answered: {NO_STOP}"
        """ To drop stop, set rules: {drop: ["stop"]} in the model's entry under models."""
    )
    assert scenario.attempt.tried == scenario.attempt.adapted == ("stream=synth",)


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


@pytest.mark.parametrize(("answer_s", "requests"), [(0.0, MOST_CALLS), (MOST_TRIES_S / 4, 4), (MOST_TRIES_S, 1)])
async def test_tries_are_bounded_and_the_error_of_the_own_request_names_them(scenario, answer_s, requests):
    scenario.answer_s, names = answer_s, list(MEMBERS)
    refusals = [refusal(f"Unsupported parameter: '{name}'", param=name) for name in names]
    shown = await scenario.ask(a_chat(**MEMBERS), *refusals)
    tried = tuple(f"drop={name}" for name in names[: requests - 1])
    assert (shown, len(scenario.sent), scenario.memory.by_scope) == (refusals[0], requests, {})
    listed, last = ", ".join(f"`{entry}`" for entry in tried), names[requests - 1]
    then = f". Tried before: {listed}. The upstream then answered: Unsupported parameter: '{last}'" if tried else ""
    assert shown.message == f"Unsupported parameter: 'store'{then}"
    assert (scenario.attempt.tried, scenario.attempt.adapted) == (tried, tried)


async def test_a_count_that_gatepass_itself_requested_costs_no_try(scenario):
    no_count = refusal("Unknown parameter: 'stream_options'", param="stream_options", code="unknown_parameter")
    refusals = [refusal(f"Unsupported parameter: '{name}'", param=name) for name in [*MEMBERS][: MOST_CALLS - 1]]
    call, _ = apply_changes(a_chat(**MEMBERS), list(INCLUDE_USAGE.changes))
    assert await scenario.ask(call, no_count, *refusals, None) is None
    assert len(scenario.sent) == MOST_CALLS + 1


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
