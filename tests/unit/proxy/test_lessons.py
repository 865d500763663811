"""What ties a Learning to the gate: what a known model costs, what is told, which error is shown."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from gatepass.auth.api_keys import hash_key
from gatepass.config.model import Config
from gatepass.errors import UpstreamClosed, UpstreamEmpty, UpstreamError, UpstreamErrorReply, UpstreamTimeout
from gatepass.learning.learned_rule import LearnedRule, RuleScope
from gatepass.learning.memory import KNOWN_S
from gatepass.proxy.app_state import AppState, create_app_state
from gatepass.proxy.attempt import AttemptLearning
from gatepass.proxy.context import Attempt
from gatepass.types import Call, ClientProtocol, Operation, Target, UpstreamErrorBody
from tests.unit.clock import DrivenClock
from tests.unit.normalize.calls import CHAT, EMBEDDINGS, a_call

NO_STREAM = "Unsupported value: 'stream' does not support true with this model. Supported values are: false."
TARGET = Target("chat", "o1")
RESPONSES = Operation("responses", "POST", "/responses", ClientProtocol.RESPONSES, "")


def a_gate(access: Any = None, **settings: Any) -> AppState:
    model = {"upstream": "chat", "name": "o1", "suggest": "gpt-4o"}
    blocks = {"upstreams": {"chat": {"base_url": "https://h/v1", **settings}}, "models": {"m": model}}
    return create_app_state(
        Config.model_validate(blocks | ({} if access is None else {"access": access})), DrivenClock()
    )


def a_chat(**members: Any) -> Call:
    body = {"model": "m", "messages": [], "stream": True, **members}
    return a_call(json.dumps(body).encode(), CHAT, stream=body["stream"])


def refusal(message: str = NO_STREAM, status: int = 400, **more: Any) -> UpstreamErrorReply:
    said = UpstreamErrorBody(message, **more)
    return UpstreamErrorReply(message, upstream="chat", status=status, upstream_code=said.code, error_body=said)


class Street:
    """Asks as the pipeline does, and remembers the attempt."""

    def __init__(self, gate: AppState) -> None:
        self.gate = gate
        self.attempt = self._attempt(a_chat())
        self.sent: list[Call] = []

    def _attempt(self, call: Call) -> Attempt:
        return Attempt(self.gate, self.gate.upstreams["chat"], TARGET, call)

    async def ask(self, call: Call, *answers: UpstreamError | None) -> UpstreamError | None:
        """`answers` to one try after the other; what the client sees in the end."""
        self.attempt, self.sent = self._attempt(call), []
        said = iter(answers)
        with AttemptLearning(self.attempt, call) as pupil:
            await pupil.wait_for_trial()
            while True:
                self.sent.append(await pupil.plan())
                self.attempt.adapted = self.sent[-1].adapted
                error = next(said)
                if error is None:
                    pupil.succeeded()
                    return None
                if not await pupil.learn_from(error):
                    return await pupil.final_error(self.sent[-1], error)


@pytest.fixture
def street() -> Street:
    return Street(a_gate())


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "gatepass.learning"]


async def test_a_known_model_without_a_lesson_costs_nothing_and_is_sent_as_it_is(street):
    call = a_chat()
    assert await street.ask(call, None) is None
    subject = RuleScope("chat", "o1", "chat")
    assert street.gate.learner.is_settled(subject, stream=True, now_s=street.gate.clock.now())
    assert not street.gate.learner.is_settled(subject, stream=False, now_s=street.gate.clock.now())
    assert await street.ask(call, None) is None
    assert street.sent == [call]
    assert street.sent[0] is call


async def test_who_goes_on_asking_is_known_for_good(street):
    call, clock = a_chat(), street.gate.clock
    for _ in range(10):
        await street.ask(call, None)
        await clock.advance(KNOWN_S * 0.4)
        assert (
            street.gate.learner.trial.wait_s("somebody", (RuleScope("chat", "o1", "chat"), True), 0.0, clock.now()) == 0
        )


async def test_a_known_model_that_begins_to_refuse_teaches_all_the_same(street, caplog):
    caplog.set_level(logging.INFO, "gatepass.learning")
    await street.ask(a_chat(), None)
    assert await street.ask(a_chat(), refusal(), None) is None
    assert [call.adapted for call in street.sent] == [(), ("stream=synth",)]
    assert events(caplog) == ["rule_learned"]
    assert street.attempt.tried == ()
    assert b'gatepass_learned_rules_total{event="learned",upstream="chat"} 1.0' in street.gate.metrics.exposition()
    await street.ask(a_chat(), None)
    assert street.sent[0].adapted == ("stream=synth",)


async def test_what_another_request_has_learned_meanwhile_is_taken_over(street, caplog):
    caplog.set_level(logging.INFO, "gatepass.learning")
    await street.ask(a_chat(), None)
    call = a_chat()
    with AttemptLearning(street.attempt, call) as pupil:
        assert await pupil.plan() is call
        await Street(street.gate).ask(a_chat(), refusal(), None)
        assert await pupil.learn_from(refusal())
        assert (await pupil.plan()).adapted == ("stream=synth",)
        pupil.succeeded()
    assert events(caplog) == ["rule_learned"]


async def test_the_first_error_is_shown_and_what_was_tried_in_vain(street, caplog):
    caplog.set_level(logging.INFO, "gatepass.learning")
    first = refusal()
    assert await street.ask(a_chat(), first, UpstreamClosed("gone", upstream="chat")) is first
    assert (street.attempt.tried, street.attempt.adapted) == (("stream=synth",), ())
    assert events(caplog) == ["rule_failed"]


async def test_an_error_about_something_else_is_the_one_that_is_shown(street):
    other = refusal("slow down", 429)
    assert await street.ask(a_chat(), refusal(), other) is other
    assert street.attempt.adapted == ("stream=synth",)


NO_STOP = "Unsupported parameter: 'stop' is not supported with this model."


async def test_what_is_left_after_a_change_that_helped_is_shown_with_it_and_with_the_way(street):
    left = refusal(NO_STOP, code="unsupported_parameter", param="stop")
    call = a_chat(stop=["x"])
    assert await street.ask(call, refusal(), left) is left
    assert left.message == (
        f"{NO_STOP} Already changed: stream=synth. To have stop left out: upstreams.chat.learn_also: [stop]."
        " The model 'gpt-4o' may do what was asked for."
    )
    assert (street.attempt.tried, street.attempt.adapted) == ((), ("stream=synth",))
    assert await street.ask(a_chat(), None) is None
    assert street.sent[0].adapted == ("stream=synth",)


async def test_while_a_change_is_not_tried_again_the_refusal_says_so(street):
    await street.ask(a_chat(), refusal(), UpstreamClosed("gone", upstream="chat"))
    await street.gate.clock.advance(20.0)
    shown = await street.ask(a_chat(), refusal())
    assert shown is not None
    assert shown.message.startswith(
        f"{NO_STREAM} stream=synth is not made again for 40 s, because it helped nothing when it was made last."
    )
    assert street.attempt.tried == ()


async def test_a_timeout_after_a_change_is_told_as_a_timeout(street, caplog):
    caplog.set_level(logging.INFO, "gatepass.learning")
    late = UpstreamTimeout("It said nothing for 60 s.", upstream="chat", phase="first_byte")
    assert await street.ask(a_chat(), refusal(), late) is late
    assert (late.message, events(caplog)) == ("It said nothing for 60 s.", [])
    assert street.attempt.adapted == ("stream=synth",)
    assert await street.ask(a_chat(), None) is None
    assert street.sent[0].adapted == ("stream=synth",)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("context_length_exceeded", "Too long."),
        (None, "This model's maximum context length is 4096 tokens."),
        (None, "the request exceeds the available context size (512)"),
    ],
)
async def test_a_conversation_that_is_too_long_is_sent_to_the_model_that_is_suggested(street, code, message):
    shown = await street.ask(a_chat(), refusal(message, code=code))
    assert shown is not None
    assert "The model 'gpt-4o' may" in shown.message


@pytest.mark.parametrize(("models", "is_named"), [(["m"], False), (["m", "gpt-*"], True)])
async def test_a_model_is_suggested_to_those_who_may_use_it(models, is_named):
    key = {"name": "caller", "hash": hash_key("a key"), "models": models}
    shown = await Street(a_gate({"keys": [key]})).ask(a_chat(), refusal("Too long.", code="context_length_exceeded"))
    assert shown is not None
    assert ("gpt-4o" in shown.message) is is_named


async def test_what_is_learned_off_is_said_to_be(street):
    off = Street(a_gate(learn="off"))
    shown = await off.ask(a_chat(), refusal())
    assert shown is not None
    assert shown.message == (
        f"{NO_STREAM} To have such requests adapted (stream=synth): upstreams.chat.learn: on, or stream: emulate in the"
        " model's entry under models. The model 'gpt-4o' may do what was asked for."
    )
    assert off.attempt.tried == ()


async def test_token_ids_that_are_refused_or_come_to_nothing_get_advice(street):
    call = a_call(b'{"model":"m","input":[1,2]}', EMBEDDINGS)
    error = refusal("`input` must be a string")
    assert await street.ask(call, error) is error
    assert "check_embedding_ctx_length=False" in error.message
    shown = await street.ask(call, UpstreamEmpty("It answered without a vector.", upstream="chat"))
    assert isinstance(shown, UpstreamErrorReply)
    assert (shown.http_status, shown.public_code, shown.param) == (400, "upstream_empty", "input")
    assert shown.message.startswith("It answered without a vector. The request holds token ids")
    closed = UpstreamClosed("gone", upstream="chat")
    assert await street.ask(call, closed) is closed
    assert closed.message == "gone"


async def test_a_lesson_that_does_not_concern_a_request_leaves_it_as_it_is(street):
    lesson = LearnedRule("drop", "temperature")
    street.gate.learner.memory.commit((RuleScope("chat", "o1", "chat"), lesson.key), lesson, "", 1_000.0)
    call = a_chat()
    await street.ask(call, None)
    assert street.sent[0] is call
    await street.ask(a_chat(temperature=0.5), None)
    assert street.sent[0].adapted == ("drop=temperature",)


async def test_a_refusal_of_streams_teaches_a_responses_call_as_it_does_a_chat(street):
    call = a_call(b'{"model":"m","input":"a","stream":true}', RESPONSES, stream=True)
    assert await street.ask(call, refusal(), None) is None
    assert [sent.stream for sent in street.sent] == [True, False]
    assert street.sent[1].adapted == ("stream=synth",)


@pytest.mark.parametrize(
    ("status", "said", "shown"),
    [
        (
            404,
            "Not Found",
            (
                "Not Found. If chat completions work at upstreams.chat, it has no Responses API: let the client ask by"
                " chat completions (n8n: responsesApiEnabled off in the node), or name an upstream that has one by"
                " operations.responses of the entry under `models`."
            ),
        ),
        (400, "No such thing.", "No such thing. The path may be wrong."),
    ],
)
async def test_a_responses_call_that_the_upstream_does_not_know_is_told_which_way_to_go(street, status, said, shown):
    call = a_call(b'{"model":"m","input":"a","stream":true}', RESPONSES, stream=True)
    hinted = UpstreamErrorReply(
        f"{said.removesuffix('.')}. The path may be wrong.",
        upstream="chat",
        status=status,
        error_body=UpstreamErrorBody(said),
    )
    error = await street.ask(call, hinted)
    assert error is not None
    assert error.message == shown
