"""What the model list says of a model's limits."""

from dataclasses import replace
from typing import Any

import pytest

from gatepass.adapt.learned import Learned, Subject
from gatepass.adapt.lesson import HOUR_S, Lesson
from gatepass.adapt.marking import marks
from gatepass.config.models import Model

WALL_S = 1_800_000_000.0
LEARNED = Learned(
    Subject("chat", "o3", "chat"),
    Lesson("stream", "synth"),
    "learned",
    "no stream here",
    WALL_S - 12,
    WALL_S + HOUR_S - 12,
)


def entry(**settings: object) -> Model:
    return Model.model_validate({"upstream": "chat", **settings})


def known(found: dict[str, Any]) -> dict[str, Any]:
    """The capabilities that are told: those that are known."""
    capabilities: dict[str, Any] = found["gatepass"]["capabilities"]
    return capabilities


def test_a_model_of_which_nothing_is_known_is_not_marked():
    assert marks(None, [], WALL_S) == marks(entry(), [], WALL_S) == {}


def test_what_is_declared_is_said_to_be_so():
    found = marks(
        entry(stream=False, capabilities={"vision": True, "tools": False, "context_length": 128_000}), [], WALL_S
    )
    assert known(found) == {
        "stream": {"value": "emulate", "source": "declared"},
        "vision": {"value": True, "source": "declared"},
        "tools": {"value": False, "source": "declared"},
        "context_length": {"value": 128_000, "source": "declared"},
    }
    assert (found["context_length"], found["max_model_len"]) == (128_000, 128_000)
    assert found["gatepass"]["adapted"] == [{"change": "stream=synth", "source": "declared"}]


def test_what_is_learned_has_its_age_and_its_evidence():
    found = marks(None, [LEARNED], WALL_S)
    stream = {"value": "emulate", "source": "learned", "age_s": 12, "evidence": "no stream here"}
    assert known(found) == {"stream": stream}
    assert found["gatepass"]["adapted"] == [
        {
            "change": "stream=synth",
            "upstream": "chat",
            "operation": "chat",
            "source": "learned",
            "age_s": 12,
            "evidence": "no stream here",
            "expires_in_s": 3588,
        }
    ]
    assert set(found) == {"gatepass"}


@pytest.mark.parametrize(
    ("lesson", "name", "value"),
    [
        (Lesson("stream", "aggregate"), "stream", "aggregate"),
        (Lesson("content", "text"), "vision", False),
        (Lesson("drop", "tools"), "tools", False),
        (Lesson("drop", "response_format"), "json_schema", False),
        (Lesson("response_format", "json_object"), "json_schema", False),
    ],
)
def test_a_lesson_says_what_the_model_cannot_do(lesson, name, value):
    told = known(marks(entry(), [replace(LEARNED, lesson=lesson)], WALL_S))
    assert {name: one["value"] for name, one in told.items()} == {name: value}


def test_a_lesson_about_nothing_that_has_a_name_is_a_change_alone():
    found = marks(entry(), [replace(LEARNED, lesson=Lesson("drop", "temperature"))], WALL_S)
    assert known(found) == {}
    assert [change["change"] for change in found["gatepass"]["adapted"]] == ["drop=temperature"]


def test_what_is_declared_counts_before_what_is_learned_and_the_first_target_before_the_next():
    other = replace(LEARNED, subject=Subject("azure", "o3", "chat"), lesson=Lesson("stream", "aggregate"))
    assert known(marks(entry(stream=True), [LEARNED], WALL_S))["stream"]["source"] == "declared"
    assert known(marks(None, [LEARNED, other], WALL_S))["stream"]["value"] == "emulate"
    assert known(marks(None, [other, LEARNED], WALL_S))["stream"]["value"] == "aggregate"


def test_a_lesson_past_its_time_ends_now_and_rules_are_listed_once():
    found = marks(entry(rules={"drop": ["seed"]}), [replace(LEARNED, expires_at=WALL_S - 5)], WALL_S)
    shown = [
        (change["change"], change["source"], change.get("expires_in_s")) for change in found["gatepass"]["adapted"]
    ]
    assert shown == [("drop=seed", "declared", None), ("stream=synth", "learned", 0)]


def test_what_is_changed_for_one_operation_of_a_model_is_listed_with_that_operation():
    own = {
        "embeddings": {"rules": {"split": 8, "drop": ["seed"]}},
        "responses": {"stream": "emulate", "rules": {"set": {"seed": 1}}},
        "speech": {"upstream": "mouth"},
    }
    found = marks(entry(rules={"drop": ["seed", "user"]}, operations=own), [], WALL_S)
    assert found["gatepass"]["adapted"] == [
        {"change": "drop=seed", "source": "declared"},
        {"change": "drop=user", "source": "declared"},
        {"change": "split=8", "source": "declared", "operation": "embeddings"},
        {"change": "stream=synth", "source": "declared", "operation": "responses"},
        {"change": "set=seed", "source": "declared", "operation": "responses"},
    ]


def test_a_model_that_is_changed_for_one_operation_alone_is_marked():
    found = marks(entry(operations={"chat": {"rules": {"drop": ["seed"]}}}), [], WALL_S)
    assert found == {
        "gatepass": {
            "capabilities": {},
            "adapted": [{"change": "drop=seed", "source": "declared", "operation": "chat"}],
        }
    }
