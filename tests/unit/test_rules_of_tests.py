"""The rules of CONTRIBUTING.md for tests that a parser can check."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
CLOCK = r"(?:time\.(?:monotonic|perf_counter|time)|loop\(\)\.time|state\.clock\.now)\(\)"
PASSED = re.compile(rf"{CLOCK} - | - {CLOCK}")
"""The time between two readings of a real clock."""
WAITS = {
    "timeout": 0,
    "wait_for": 1,
    "wait": 0,
    "join": 0,
    "settimeout": 0,
    "until": 1,
    "until_async": 1,
    "block_until": 1,
}
"""Calls that give up after a time, and the place of that time among their arguments."""
LEAST_S = 120.0
"""A start of a process took more than 30 s at a load of 15 on two cores. A test that hangs is ended later."""


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


def short_waits(source: str) -> list[int]:
    """Return the lines that wait for less than LEAST_S, but for those that expect the time to end."""
    if not re.search(rf"\b(?:{'|'.join(WAITS)})\(", source):
        return []
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    values = dict(assigned(ast.Module([node for node in tree.body if isinstance(node, ast.Assign)], [])))
    expected = {
        inner
        for node in nodes
        if isinstance(node, ast.With | ast.AsyncWith | ast.Try) and "TimeoutError" in heads_of(node)
        for inner in ast.walk(node)
    }
    calls = [node for node in nodes if isinstance(node, ast.Call) and node not in expected]
    return [node.lineno for node in calls if 0 < seconds_of(node, values) < LEAST_S]


def heads_of(node: ast.With | ast.AsyncWith | ast.Try) -> str:
    heads = node.handlers if isinstance(node, ast.Try) else node.items
    return " ".join(map(ast.unparse, heads))


def seconds_of(call: ast.Call, values: dict[str, str]) -> float:
    """Return the time of a call that gives up after one; 0 if it is none, or computed."""
    place = WAITS.get(getattr(call.func, "attr", getattr(call.func, "id", "")))
    given = [] if place is None else [*call.args[place : place + 1], *(one.value for one in call.keywords)]
    texts = [values.get(text := ast.unparse(argument), text) for argument in given]
    return max((float(text) for text in texts if re.fullmatch(r"[0-9._]+", text)), default=0.0)


def test_no_test_asserts_an_upper_bound_of_wall_clock_time() -> None:
    """A busy machine takes any time. Assert the order of events or a count, or let a wrong program hang."""
    assert found(bounds, "**/*.py") == []


def test_no_test_gives_up_on_an_event_after_less_than_two_minutes() -> None:
    """The hang guard of tests/conftest.py ends what never comes."""
    assert [
        line for part in ("attacks", "docs", "integration", "unit") for line in found(short_waits, f"{part}/**/*.py")
    ] == []


def found(rule: Callable[[str], list[int]], files: str) -> list[str]:
    return [
        f"{file.relative_to(TESTS)}:{line}" for file in sorted(TESTS.glob(files)) for line in rule(file.read_text())
    ]
