import pytest

from gatepass.config.checks import PLANNED, not_built_yet
from gatepass.config.document import with_value


def test_what_is_planned_is_refused_by_name_wherever_it_stands():
    for pattern, what in PLANNED.items():
        path = tuple("NAME" if part == "*" else part for part in pattern)
        expected = f"not built yet: {what}; remove it"
        assert list(not_built_yet(with_value({}, path, "x"))) == [(path, expected)]


@pytest.mark.parametrize(
    "tree",
    [
        {"server": {"workers": 1}},
        {"server": {"workers": "four"}},
        {"credentials": {"c": {"type": "oauth2"}}},
        {"credentials": {"c": {"type": ["exec"]}}},
        {"upstreams": {"u": {"dialect": "azure"}}},
        {"operations": {"chat": {}}},
        {},
    ],
)
def test_what_exists_and_what_is_wrong_in_another_way_is_not_called_planned(tree):
    assert list(not_built_yet(tree)) == []
