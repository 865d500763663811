"""The mutation runner: what it changes, what it draws, and that its areas are there."""

import ast

import pytest

from tests.stress.mutants import AREAS, EQUIVALENT, ROOT, SEED, drawn, mutations, sources


def changed(body: str) -> list[str]:
    text = f"def f(a, b):\n    {body}\n"
    planted = [text[: one.start] + one.text + text[one.end :] for one in mutations(text)]
    return [whole.removeprefix("def f(a, b):\n    ").rstrip() for whole in planted]


@pytest.mark.parametrize(
    ("body", "mutants"),
    [
        ("return a < b", ["return a <= b"]),
        ("return a is not b", ["return a is b"]),
        ("return 'ü' + a < b", ["return 'ü' + a <= b", "return 'ü' - a < b"]),
        ("return a or b", ["return a and b"]),
        ("return not a", ["return a"]),
        ("return True", ["return False"]),
        ("a.close()", ["pass"]),
        ("return a", []),
    ],
)
def test_a_mutant_is_one_small_change(body, mutants):
    assert changed(body) == mutants


def test_as_many_as_documented_are_drawn_and_the_same_ones_again():
    assert len(drawn(SEED)) == sum(area.count for area in AREAS) == 46
    assert drawn(SEED) == drawn(SEED)
    assert drawn(SEED) != drawn(SEED + 1)


def test_each_equivalent_mutant_is_one_of_the_sources():
    lines = {line for area in AREAS for path in sources(area) for line in path.read_text().splitlines()}
    assert [one for one in EQUIVALENT if not any(one.line in line and one.old in line for line in lines)] == []


def test_every_mutant_is_python_and_changes_one_place():
    for mutant in drawn(SEED):
        ast.parse(mutant.planted)
        before, after = mutant.lines
        assert before != after


@pytest.mark.parametrize("area", AREAS, ids=lambda area: area.name)
def test_an_area_has_its_sources_and_its_tests(area):
    assert sources(area)
    assert [path for path in area.tests if not (ROOT / path).exists()] == []
