"""What a person is told whom a refusal reaches."""

import pytest

from gatepass.adapt.teaching.advice import advice
from gatepass.adapt.teaching.allowance import Allowance
from gatepass.adapt.teaching.heard import Heard
from tests.unit.adapt.rejections import (
    CHOICE,
    PICTURE,
    ROWS,
    STREAM,
    Case,
    never,
    openai,
    turns,
    unsupported,
)


def told(case: Case, *, is_on: bool = True, suggest: str | None = None, also: tuple[str, ...] = ()) -> str:
    heard = Heard.of(case.call.operation.surface, case.status, case.complaint)
    assert heard is not None
    allowance = Allowance(frozenset(also))
    return advice(heard, case.call, allowance, upstream="chat", is_on=is_on, suggest=suggest)


NO_STREAM = never("", openai(STREAM, "stream", "unsupported_value"))
NO_TOOLS = never("", openai(unsupported("tools"), "tools", "unsupported_parameter"))


def test_where_nothing_is_learned_it_says_that_it_could_be():
    assert told(NO_STREAM, is_on=False) == (
        "gatepass can adapt such requests (stream=synth): set upstreams.chat.learn to on."
    )
    assert told(NO_STREAM) == ""


SAID = {"role": "user", "content": "a"}
OPTIONAL = {
    "tools": NO_TOOLS,
    "merge_roles": never("", openai("Conversation roles must alternate"), request=turns(SAID, SAID)),
    "system_into_user": never("", openai("System role not supported")),
    "tool_choice": never("", openai(CHOICE), request={"tool_choice": "required"}),
    "own_field": never("", openai(unsupported("own_field")), request={"own_field": 1}),
}


@pytest.mark.parametrize(("name", "case"), OPTIONAL.items())
def test_what_the_operator_may_allow_is_named(name, case):
    assert told(case).endswith(f"where upstreams.chat.learn_also names {name}.")
    assert told(case, also=(name,)) == ""


def test_what_nobody_may_allow_is_not_offered():
    assert told(never("", openai(unsupported("messages"), "messages", "unknown_parameter"))) == ""


def test_pictures_that_a_model_cannot_read_are_told():
    case = never("", openai("messages[0]: invalid type: sequence, expected a string"), request=turns(PICTURE))
    assert told(case, suggest="gpt-4o") == (
        "This model reads text alone, and the request holds pictures. The model 'gpt-4o' may do what was asked for."
    )


def test_another_model_is_suggested_where_this_one_refuses_a_form():
    assert told(NO_TOOLS, suggest="gpt-4o").endswith(". The model 'gpt-4o' may do what was asked for.")
    assert told(never("", openai("Something else.")), suggest="gpt-4o") == ""


@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.name)
def test_what_is_adapted_by_itself_needs_no_advice(case):
    assert told(case, also=case.also) == ""
