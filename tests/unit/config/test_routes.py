"""Settings of a model for all operations or one, and of an operation for all models: which of them is used."""

from typing import Any

import pytest
from pydantic import ValidationError

from gatepass.config.routes import Model, ModelTarget, OperationRoute, Rules


def model(**members: Any) -> Model:
    return Model.model_validate({"upstream": "a", **members})


def counts(entry: Model) -> dict[str, Any]:
    return entry.model_dump(exclude={"operations", "capabilities", "suggest"}, exclude_unset=True, exclude_none=True)


def test_an_entry_without_operations_applies_unchanged():
    entry = model(operations={"responses": {"upstream": "b"}})
    assert entry.for_operation("chat") is entry


def test_the_more_particular_counts_one_by_one():
    entry = model(
        name="x",
        timeouts={"idle_s": 2, "total_s": 3},
        stream="native",
        rules={"drop": ["seed"], "split": 4},
        operations={
            "responses": {"upstream": "b", "timeouts": {"total_s": 9}, "stream": False, "rules": {"split": 8}},
            "speech": {"name": "y"},
        },
    )
    route = OperationRoute.model_validate(
        {"timeouts": {"idle_s": 1, "connect_s": 1}, "rules": {"drop": ["user"], "merge_roles": True}}
    )
    below: dict[str, Any] = {"drop": ["user", "seed"], "merge_roles": True}
    empty: dict[str, Any] = {"rename": {}, "default": {}, "set": {}, "clamp": {}}
    assert counts(entry.for_operation("responses", route)) == {
        "upstream": "b",
        "timeouts": {"connect_s": 1, "idle_s": 2, "total_s": 9},
        "stream": "emulate",
        "rules": {**empty, **below, "split": 8},
    }
    assert counts(entry.for_operation("chat", route)) == {
        "upstream": "a",
        "name": "x",
        "timeouts": {"connect_s": 1, "idle_s": 2, "total_s": 3},
        "stream": "native",
        "rules": {**empty, **below, "split": 4},
    }
    assert counts(entry.for_operation("speech")) == {
        "upstream": "a",
        "name": "y",
        "timeouts": {"idle_s": 2, "total_s": 3},
        "stream": "native",
        "rules": {"drop": ["seed"], "split": 4},
    }


@pytest.mark.parametrize(
    ("above", "below", "found"),
    [
        ({"drop": ["t"]}, {"set": {"t": 1, "u": 2}, "default": {"t": 1}}, {"drop": ["t"], "set": {"u": 2}}),
        ({"set": {"t": 1}}, {"drop": ["t", "u"]}, {"drop": ["u"], "set": {"t": 1}}),
        ({"default": {"t": 1}}, {"set": {"t": 2}}, {"default": {"t": 1}}),
        ({"default": {"t": 1}}, {"default": {"t": 2, "u": 2}}, {"default": {"t": 1, "u": 2}}),
        ({"drop": ["a", "l"]},
         {"set": {"a.b": 1, "ab": 1}, "default": {"a.c.d": 1}, "drop": ["a.e", "l[].x"], "rename": {"a.f": "g"}},
         {"drop": ["a", "l"], "set": {"ab": 1}}),
        ({"set": {"a.b": 1}}, {"drop": ["a"]}, {"drop": ["a"], "set": {"a.b": 1}}),
        ({"roles": {"system": "user"}}, {"roles": {"developer": "system", "system": "developer"}},
         {"roles": {"developer": "system", "system": "user"}}),
        ({"replayed": "keep", "text_content": False}, {"replayed": "drop", "text_content": True, "empty_content": True},
         {"empty_content": True}),
        ({}, {"split": 3}, {"split": 3}),
    ],
)  # fmt: skip
def test_rules_for_the_same_path_replace_those_below(above, below, found):
    rules = Rules.model_validate(above).over(Rules.model_validate(below))
    assert rules.model_dump(exclude_defaults=True) == found


MANY, RENAMED = "max_completion_tokens", {"max_tokens": "max_completion_tokens"}


@pytest.mark.parametrize(
    ("above", "below", "found"),
    [
        ({"rename": RENAMED}, {"drop": [MANY, "seed"]}, {"rename": RENAMED, "drop": ["seed"]}),
        ({"rename": RENAMED}, {"set": {MANY: 9, "n": 1}}, {"rename": RENAMED, "set": {"n": 1}}),
        ({"rename": {"t": "u", "u": "v"}}, {"drop": ["v"]}, {"rename": {"t": "u", "u": "v"}}),
        ({"rename": {"a.t": "u"}}, {"drop": ["a.u", "u"]}, {"rename": {"a.t": "u"}, "drop": ["u"]}),
        ({"rename": {"a": "b"}}, {"drop": ["b.t", "bt"]}, {"rename": {"a": "b"}, "drop": ["b.t", "bt"]}),
    ],
)
def test_what_the_rules_above_rename_is_not_lost_to_rules_below_for_its_new_place(above, below, found):
    rules = Rules.model_validate(above).over(Rules.model_validate(below))
    assert rules.model_dump(exclude_defaults=True) == found


def test_a_default_below_for_the_new_place_of_a_rename_stays_for_it_takes_nothing_away():
    below = Rules.model_validate({"default": {MANY: 9}, "rename": {MANY: "n"}})
    rules = Rules.model_validate({"rename": RENAMED}).over(below)
    assert rules.model_dump(exclude_defaults=True) == {"default": {MANY: 9}, "rename": {MANY: "n", **RENAMED}}


MOST, LESS = {"max": 100.0}, {"max": 10.0}


@pytest.mark.parametrize(
    ("above", "below", "found"),
    [
        ({"rename": {"t": "u"}}, {"clamp": {"t": MOST}}, {"rename": {"t": "u"}, "clamp": {"u": MOST}}),
        ({"rename": {"t": "u", "u": "v"}}, {"clamp": {"t": MOST}}, {"rename": {"t": "u", "u": "v"},
                                                                    "clamp": {"v": MOST}}),
        ({"rename": {"a.t": "u"}}, {"clamp": {"a.t": MOST, "t": LESS}}, {"rename": {"a.t": "u"},
                                                                         "clamp": {"a.u": MOST, "t": LESS}}),
        ({"rename": {"a": "b"}}, {"clamp": {"a.t": MOST, "ab": LESS}}, {"rename": {"a": "b"},
                                                                       "clamp": {"b.t": MOST, "ab": LESS}}),
        ({"rename": {"t": "u"}}, {"clamp": {"t": MOST, "u": LESS}}, {"rename": {"t": "u"}, "clamp": {"u": LESS}}),
        ({"rename": {"t": "u"}, "clamp": {"u": LESS}}, {"clamp": {"t": MOST}},
         {"rename": {"t": "u"}, "clamp": {"u": LESS}}),
        ({"clamp": {"t": LESS}}, {"rename": {"t": "u"}, "clamp": {"u": MOST}},
         {"rename": {"t": "u"}, "clamp": {"u": LESS}}),
        ({"default": {"t": 500}}, {"clamp": {"t": MOST}}, {"default": {"t": 500}, "clamp": {"t": MOST}}),
        ({"set": {"t": 500}}, {"clamp": {"t": MOST}}, {"set": {"t": 500}, "clamp": {"t": MOST}}),
        ({"clamp": {"t": MOST}}, {"default": {"t": 500}}, {"default": {"t": 500}, "clamp": {"t": MOST}}),
        ({"clamp": {"t": LESS}}, {"clamp": {"t": MOST, "u": MOST}}, {"clamp": {"t": LESS, "u": MOST}}),
        ({"default": {"t": 500}}, {"rename": {"t": "u"}, "clamp": {"u": MOST}},
         {"default": {"t": 500}, "clamp": {"t": MOST, "u": MOST}}),
        ({"rename": {"a.t": "v"}}, {"rename": {"a.t": "u"}, "clamp": {"a.u": MOST}},
         {"rename": {"a.t": "v"}, "clamp": {"a.v": MOST, "a.u": MOST}}),
        ({"set": {"t": 500}}, {"rename": {"t": "u"}, "clamp": {"t": LESS, "u": MOST}},
         {"set": {"t": 500}, "clamp": {"t": LESS, "u": MOST}}),
        ({"drop": ["t"]}, {"clamp": {"t": MOST}}, {"drop": ["t"], "clamp": {"t": MOST}}),
    ],
)  # fmt: skip
def test_a_limit_goes_only_where_the_rules_above_limit_the_same_place(above, below, found):
    rules = Rules.model_validate(above).over(Rules.model_validate(below))
    assert rules.model_dump(exclude_defaults=True) == found


def test_an_entry_leads_to_the_targets_of_all_its_operations():
    own = {
        "responses": {"upstream": "b"},
        "chat": {"targets": [{"upstream": "c", "name": "z"}]},
        "speech": {"name": "y"},
    }
    assert model(operations=own).all_targets() == [
        ModelTarget(upstream="a"),
        ModelTarget(upstream="b"),
        ModelTarget(upstream="c", name="z"),
    ]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({}, "expects either upstream or targets"),
        ({"upstream": "a", "targets": [{"upstream": "b"}]}, "expects either upstream or targets"),
        (
            {"upstream": "a", "operations": {"chat": {"upstream": "a", "targets": [{"upstream": "b"}]}}},
            "expects either",
        ),
        ({"targets": [{"upstream": "a"}], "operations": {"chat": {"name": "x"}}}, "because the model has targets"),
        (
            {"upstream": "a", "operations": {"chat": {"targets": [{"upstream": "b"}], "name": "x"}}},
            "each of the targets",
        ),
        ({"upstream": "a", "operations": {"files": {"upstream": "b"}}}, "Input should be"),
    ],
)
def test_what_leads_nowhere_or_two_ways_is_refused(entry, text):
    with pytest.raises(ValidationError, match=text):
        Model.model_validate(entry)


def test_an_operation_without_settings_is_rejected():
    with pytest.raises(ValidationError, match="expects at least one of upstream, model"):
        OperationRoute.model_validate({})
    assert OperationRoute.model_validate({"model": "m"}).upstream is None
