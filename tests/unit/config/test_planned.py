import pytest

from gatepass.config.planned import PLANNED, not_built_yet
from gatepass.config.references import Reference
from gatepass.config.tree import replaced

SAMPLES = {"workers": 2, "dialect": "azure"}


def test_what_is_planned_is_refused_by_name_wherever_it_stands():
    for planned in PLANNED:
        path = tuple("NAME" if part == "*" else part for part in planned.pattern)
        value = SAMPLES.get(planned.pattern[-1], "x")
        told = f"not built yet: {planned.what.format(value)}; {planned.instead}"
        assert list(not_built_yet(replaced({}, path, value))) == [(path, told)]


@pytest.mark.parametrize(
    "tree",
    [
        {"server": {"workers": 1}},
        {"server": {"workers": "four"}},
        {"credentials": {"c": {"type": "oauth2"}}},
        {"credentials": {"c": {"type": ["exec"]}}},
        {"upstreams": {"u": {"dialect": "openai"}}},
        {"operations": {"chat": {}}},
        {},
    ],
)
def test_what_exists_and_what_is_wrong_in_another_way_is_not_called_planned(tree):
    assert list(not_built_yet(tree)) == []


def test_a_value_by_reference_is_not_quoted():
    tree = {"upstreams": {"u": {"dialect": Reference.to_variable("WHICH", "azure")}}}
    ((_, told),) = not_built_yet(tree)
    assert told == "not built yet: the dialect ${WHICH}; use openai"
