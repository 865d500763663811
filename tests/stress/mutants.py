"""Plant faults in the core of gatepass, and list those that no test catches: `make mutants`.

A mutant is one small change of the source: `<` becomes `<=`, `and` becomes `or`, a call is removed. A seed selects some
mutants of each area of the core. Each mutant is written into a copy of the repository, and the tests of its area run
there until the first failure. A mutant survives if all tests pass. Then write a test that fails for it. If no test can
distinguish it from the original, add it to EQUIVALENT with the reason.

::

    python -m tests.stress.mutants --list            show the mutants of the seed, run nothing
    python -m tests.stress.mutants --seed 7 --area routing
    python -m tests.stress.mutants --only 3,17       by their numbers in the list
    python -m tests.stress.mutants --from tests/stress/planted_faults.txt    the faults of a list
"""

import argparse
import ast
import difflib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain, islice, zip_longest
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[2]
SEED = 1795182408
TIMEOUT_S = 600.0
"""A mutant whose tests take longer is caught."""
NO_TESTS = 5
"""The exit code of pytest if it collected no tests."""


@dataclass(frozen=True, slots=True)
class Area:
    """A part of the core: its sources as patterns below src/gatepass, and the tests that must catch faults in it.

    The quickest tests come first: the first failure ends a run.
    """

    name: str
    sources: tuple[str, ...]
    tests: tuple[str, ...]
    count: int


STREAM_TESTS = (
    "tests/unit/sse",
    "tests/integration/test_raw_operations.py",
    "tests/integration/test_broken_replies.py",
)
AREAS = (
    Area("token holder", ("tokens/holder.py", "tokens/lifetime.py"), ("tests/unit/tokens",), 8),
    Area(
        "retry state",
        ("proxy/attempt.py", "proxy/upstream_call.py", "proxy/batches.py", "proxy/context.py"),
        (
            "tests/unit/proxy",
            "tests/integration/test_rejections.py",
            "tests/integration/test_connections.py",
            "tests/integration/test_batches.py",
            "tests/integration/test_faults.py",
            "tests/integration/test_learned_rules.py",
            "tests/integration/test_ops.py",
            "tests/integration/test_secrets.py",
            "tests/golden/test_access_log.py",
        ),
        8,
    ),
    Area(
        "classification of replies",
        ("proxy/response.py",),
        (
            "tests/unit/proxy/test_response_ids.py",
            "tests/unit/http_client/test_response_body.py",
            "tests/integration/test_replies.py",
            "tests/integration/test_broken_replies.py",
            "tests/integration/test_aggregation.py",
            "tests/integration/test_keep_alive.py",
            "tests/integration/test_disconnect.py",
            "tests/integration/test_raw_operations.py",
            "tests/integration/test_secrets.py",
            "tests/integration/test_ops.py",
            "tests/attacks/test_replies.py",
            "tests/attacks/test_reply_limits.py",
        ),
        8,
    ),
    Area("relay stream", ("sse/event_stream.py", "sse/progress.py"), STREAM_TESTS, 5),
    Area("framing", ("sse/event.py",), STREAM_TESTS, 4),
    Area(
        "choice of targets",
        ("policy/*.py", "proxy/failover.py"),
        ("tests/unit/policy", "tests/unit/proxy/test_retry.py", "tests/unit/proxy/test_failover.py"),
        6,
    ),
    Area("routing", ("proxy/routing.py",), ("tests/unit/proxy/test_routing.py", "tests/integration/test_models.py"), 3),
    Area(
        "access checks",
        ("auth/authenticator.py", "auth/api_keys.py"),
        ("tests/unit/auth", "tests/integration/test_admission.py"),
        4,
    ),
    Area(
        "learning",
        ("learning/*.py",),
        (
            "tests/unit/learning",
            "tests/integration/test_learned_callers.py",
            "tests/integration/test_learned_rules.py",
            "tests/integration/test_learned.py",
            "tests/attacks/test_learned_rules.py",
        ),
        20,
    ),
)


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A mutant that no test can distinguish from the original: in the line with `line`, `old` became `new`."""

    line: str
    old: str
    new: str
    reason: str

    def is_this(self, before: str, after: str) -> bool:
        return self.line in before and before.replace(self.old, self.new, 1) == after


EQUIVALENT = (
    Equivalent(".body) <= INLINE_BYTES", "<=", "<", "changed on the event loop or in a thread, the same body"),
    Equivalent("if len(body) > LARGE_REPLY_BYTES", ">", ">=", "one more iteration of the event loop"),
    Equivalent("dialect_transform is None and self._lines_left > 1", ">", ">=", "the slow path gives the same events"),
)


COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}


class Kind(IntEnum):
    """What a mutant changes. Mutants of an area are selected from the kinds in rotation."""

    BOUNDARY = 0
    LEFT_OUT = 1
    AND_OR = 2
    SIGN = 3
    OPPOSITE = 4


@dataclass(frozen=True, slots=True)
class Mutation:
    """`text` in place of the characters of a source from `start` to `end`."""

    kind: Kind
    start: int
    end: int
    text: str


class Source:
    """A text and its syntax tree, with the position of each node in the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self._lines = text.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
        return self._at(node.lineno, node.col_offset), self._at(end_line, end_column)

    def of(self, node: ast.expr | ast.stmt) -> str:
        return self.text[slice(*self.span(node))]

    def between(self, kind: Kind, nodes: tuple[ast.expr, ast.expr], before: str, after: str) -> Iterator[Mutation]:
        """Yield the mutation that replaces the operator `before` between two nodes with `after`."""
        start, end = self.span(nodes[0])[1], self.span(nodes[1])[0]
        operator = self.text[start:end]
        if operator.count(before) == 1:
            yield Mutation(kind, start, end, operator.replace(before, after))

    def instead(self, kind: Kind, node: ast.expr | ast.stmt, text: str) -> Iterator[Mutation]:
        yield Mutation(kind, *self.span(node), text)

    def _at(self, line: int, column_bytes: int) -> int:
        before = self._lines[line - 1].encode()[:column_bytes].decode()
        return self._starts[line - 1] + len(before)


def mutations(text: str) -> Iterator[Mutation]:
    """Yield all mutations of the functions in `text`."""
    source = Source(text)
    for node in _code(source.tree):
        if isinstance(node, ast.stmt):
            yield from _of_statement(source, node)
        elif isinstance(node, ast.expr):
            yield from _of_expression(source, node)


def _of_expression(source: Source, node: ast.expr) -> Iterator[Mutation]:
    match node:
        case ast.Compare(ops=[op], left=left, comparators=[right]) if type(op) in COMPARISONS:
            kind = Kind.BOUNDARY if isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) else Kind.OPPOSITE
            yield from source.between(kind, (left, right), *COMPARISONS[type(op)])
        case ast.BoolOp(op=op, values=[left, right]):
            words = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
            yield from source.between(Kind.AND_OR, (left, right), *words)
        case ast.BinOp(op=ast.Add() | ast.Sub() as op, left=left, right=right):
            signs = ("+", "-") if isinstance(op, ast.Add) else ("-", "+")
            yield from source.between(Kind.SIGN, (left, right), *signs)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield from source.instead(Kind.OPPOSITE, node, source.of(operand))


def _of_statement(source: Source, node: ast.stmt) -> Iterator[Mutation]:
    match node:
        case ast.Return(value=ast.Constant(value=bool() as value)):
            yield from source.instead(Kind.OPPOSITE, node, f"return {not value}")
        case ast.If(test=test) | ast.While(test=test) if isinstance(test, ast.Name | ast.Attribute | ast.Call):
            yield from source.instead(Kind.OPPOSITE, test, f"not {source.of(test)}")
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Continue() | ast.Break():
            yield from source.instead(Kind.LEFT_OUT, node, "pass")


def _code(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes of function bodies in order, except those of `__repr__`."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and function.name != "__repr__":
            for statement in function.body:
                yield from ast.walk(statement)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mutation of `original`, the text of the file `path` below src."""

    area: Area
    path: str
    original: str
    mutation: Mutation

    @property
    def planted(self) -> str:
        return self.original[: self.mutation.start] + self.mutation.text + self.original[self.mutation.end :]

    @property
    def lines(self) -> tuple[str, str]:
        """The changed lines of the original and of the mutant, each joined to one line."""
        before, after = self.original.splitlines(), self.planted.splitlines()
        changes = [line for line in difflib.ndiff(before, after) if line[:2] in ("- ", "+ ")]
        old, new = ([line[2:].strip() for line in changes if line[0] == sign] for sign in "-+")
        return " ".join(old), " ".join(new)


def sources(area: Area) -> list[Path]:
    """Return the existing files of `area`."""
    below = ROOT / "src" / "gatepass"
    return sorted({path for pattern in area.sources for path in below.glob(pattern)})


def drawn(seed: int) -> list[Mutant]:
    """Return the mutants of `seed`: `count` of each area, on different lines, without the known equivalent ones."""
    return [mutant for area in AREAS for mutant in islice(_shuffled(area, seed), area.count)]


def _shuffled(area: Area, seed: int) -> Iterator[Mutant]:
    found: dict[Kind, list[Mutant]] = {kind: [] for kind in Kind}
    for path in sources(area):
        text, name = path.read_text(), str(path.relative_to(ROOT / "src"))
        for mutation in dict.fromkeys(mutations(text)):
            found[mutation.kind].append(Mutant(area, name, text, mutation))
    chance = random.Random(f"{seed} {area.name}")
    for several in found.values():
        chance.shuffle(several)
    used = set()
    for mutant in chain.from_iterable(zip_longest(*found.values())):
        if mutant is not None:
            before, after = mutant.lines
            if not any(each.is_this(before, after) for each in EQUIVALENT) and (mutant.path, before) not in used:
                used.add((mutant.path, before))
                yield mutant


def shown(number: int, mutant: Mutant) -> str:
    before, after = mutant.lines
    line = mutant.original.count("\n", 0, mutant.mutation.start) + 1
    return f"{number:2}  {mutant.area.name:<26} {mutant.path}:{line}\n      - {before}\n      + {after}"


LISTED = re.compile(r"^ *\d+  .* (\S+\.py):\d+\n +- (.*)\n +\+ (.*)$", re.MULTILINE)
"""A mutant as `shown` prints it: its file, and the changed lines before and after."""


def listed(file: Path) -> list[Mutant]:
    """Return the mutants that `file` lists, wherever their lines are now. Print those whose lines are gone."""
    found = []
    for path, before, after in LISTED.findall(file.read_text()):
        source, package = ROOT / "src" / path, Path(path).parts[1]
        unit = f"tests/unit/{package}" if (ROOT / "tests/unit" / package).is_dir() else "tests/unit"
        text = source.read_text() if source.exists() else ""
        mutants = (Mutant(Area(package, (), (unit,), 1), path, text, each) for each in mutations(text))
        mutant = next((each for each in mutants if each.lines == (before, after)), None)
        if mutant is None:
            print(f"gone: {path}\n      - {before}")
        else:
            found.append(mutant)
    return found


def tested(area: Area, copy: Path) -> tuple[str, float]:
    """Run the tests of `area` in `copy`. Return the first failure, or "" if they pass, and the seconds."""
    env = {**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
    began_s = time.monotonic()
    try:
        done = subprocess.run(
            [*command, *area.tests], cwd=copy, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no end after {TIMEOUT_S:.0f} s", TIMEOUT_S
    took_s = time.monotonic() - began_s
    if done.returncode == 0:
        return "", took_s
    if done.returncode == NO_TESTS:
        raise RuntimeError(f"no tests of {area.name}: {done.stdout[-500:]}")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return (failed or [done.stdout.strip()[-200:] or done.stderr.strip()[-200:]])[0], took_s


class Copies:
    """Copies of the repository, one for each job. One copy contains a mutant while its tests run."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self._free: SimpleQueue[Path] = SimpleQueue()
        for job in range(jobs):
            shutil.copytree(ROOT, folder / str(job), ignore=shutil.ignore_patterns("__pycache__", ".*"))
            self._free.put(folder / str(job))

    def clean(self, area: Area) -> tuple[str, float]:
        copy = self._free.get()
        try:
            return tested(area, copy)
        finally:
            self._free.put(copy)

    def planted(self, mutant: Mutant) -> tuple[str, float]:
        copy = self._free.get()
        file = copy / "src" / mutant.path
        if file.read_text() != mutant.original:
            raise RuntimeError(f"{mutant.path} changed while the mutants were drawn: run this again")
        try:
            file.write_text(mutant.planted)
            return tested(mutant.area, copy)
        finally:
            file.write_text(mutant.original)
            self._free.put(copy)


def run(chosen: Sequence[tuple[int, Mutant]], jobs: int) -> list[int]:
    """Test the mutants and return the numbers of the survivors. Skip an area whose tests fail without a mutant."""
    areas, broken = list(dict.fromkeys(mutant.area for _, mutant in chosen)), set()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        copies = Copies(Path(folder), jobs)
        for area, (failure, took_s) in zip(areas, pool.map(copies.clean, areas), strict=True):
            reported = f"fail without a mutant, so it is skipped: {failure}" if failure else f"pass in {took_s:.0f} s"
            print(f"{area.name}: its tests {reported}", flush=True)
            if failure:
                broken.add(area)
        survivors = [number for number, mutant in chosen if mutant.area in broken]
        chosen = [(number, mutant) for number, mutant in chosen if mutant.area not in broken]
        results = pool.map(copies.planted, [mutant for _, mutant in chosen])
        for (number, mutant), (failure, took_s) in zip(chosen, results, strict=True):
            print(f"{shown(number, mutant)}\n      {failure or 'SURVIVES'} ({took_s:.0f} s)", flush=True)
            if not failure:
                survivors.append(number)
    return survivors


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stress.mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=SEED, help="draws the mutants [%(default)s]")
    parser.add_argument("--area", help="only the areas whose name begins so")
    parser.add_argument("--only", help="numbers in the list, separated by commas")
    parser.add_argument("--from", dest="file", type=Path, help="a list of mutants as --list prints it")
    parser.add_argument("--jobs", type=int, default=2, help="[%(default)s]")
    parser.add_argument("--list", action="store_true", help="show them, run nothing")
    options = parser.parse_args()
    chosen = list(enumerate(listed(options.file) if options.file else drawn(options.seed), 1))
    if options.area:
        chosen = [(number, mutant) for number, mutant in chosen if mutant.area.name.startswith(options.area)]
    if options.only:
        wanted = {int(number) for number in options.only.split(",")}
        chosen = [(number, mutant) for number, mutant in chosen if number in wanted]
    if options.list:
        print("\n".join(shown(number, mutant) for number, mutant in chosen))
        return 0
    survivors = run(chosen, options.jobs)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants are caught")
    if survivors:
        print(f"survivors: {', '.join(map(str, survivors))}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
