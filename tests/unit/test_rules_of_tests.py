"""The rules of CONTRIBUTING.md for tests that a parser can check."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CLOCK = r"(?:time\.(?:monotonic|perf_counter|time)|loop\(\)\.time|state\.clock\.now)\(\)"
PASSED = re.compile(rf"{CLOCK} - | - {CLOCK}")
"""The time between two readings of a real clock."""


def bounds(source: str) -> list[int]:
    """Return the lines that assert an upper bound of the time between two readings of a clock."""
    if not re.search(CLOCK, source):
        return []
    functions = [one for one in ast.walk(ast.parse(source)) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [node.lineno for function in functions for node, bounded in bounded_in(function) if PASSED.search(bounded)]


def bounded_in(function: ast.AST) -> Iterator[tuple[ast.Assert, str]]:
    """Yield each asserted side that has an upper bound, with its names replaced by their values."""
    values = dict(assigned(function))
    for node in ast.walk(function):
        if not isinstance(node, ast.Assert):
            continue
        for compared in ast.walk(node.test):
            if isinstance(compared, ast.Compare):
                sides = (compared.left, *compared.comparators)
                for left, operator, right in zip(sides, compared.ops, sides[1:], strict=False):
                    if isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE):
                        side = ast.unparse(right if isinstance(operator, ast.Gt | ast.GtE) else left)
                        yield node, re.sub(r"\b\w+\b(?!\()", lambda name: values.get(name[0], name[0]), side)


def assigned(function: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the names to which a function assigns, and their values."""
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=found)):
                yield from zip(map(ast.unparse, names), map(ast.unparse, found), strict=False)
            case ast.Assign(targets=[name], value=value):
                yield ast.unparse(name), ast.unparse(value)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("began_s = time.monotonic()\n    work()\n    assert time.monotonic() - began_s < 5", [4]),
        ("began = time.perf_counter()\n    took = time.perf_counter() - began\n    assert slow or took <= MOST", [4]),
        ("left, began_s = 1, gp.state.clock.now()\n    assert 5 > gp.state.clock.now() - began_s > 1", [3]),
        ("began_s = time.monotonic()\n    assert time.monotonic() - began_s > 3\n    assert began_s < later_s", []),
        ("before = time.time()\n    made = work()\n    assert before <= made.at_s <= time.time()", []),
    ],
)
def test_an_upper_bound_of_a_difference_is_found(text: str, lines: list[int]) -> None:
    assert bounds(f"def test():\n    {text}\n") == lines


def test_no_test_asserts_an_upper_bound_of_wall_clock_time() -> None:
    """A busy machine takes any time. Assert the order of events or a count, or let a wrong program hang."""
    files = sorted(file for file in TESTS.rglob("*.py"))
    assert [f"{file.relative_to(TESTS)}:{line}" for file in files for line in bounds(file.read_text())] == []
