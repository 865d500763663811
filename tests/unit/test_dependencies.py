"""The packages that gatepass installs: few, by hash, and from no URL in a lock file."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions
from itertools import product
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from release.locks import REQUIREMENTS, Pin, environment, extras, read, text

MOST_PACKAGES = 24
"""Without extras, gatepass itself included: people choose it because they can read what it brings."""

EXTRAS = extras()
"""Packages that the image adds, by the build argument of that name."""
LOCKS = ("runtime", "build", "dev", "demo", "docs", "release", *(f"extra-{name}" for name in EXTRAS))
PROJECT = tomllib.loads((REQUIREMENTS.parent / "pyproject.toml").read_text())


def by_name(pins: tuple[Pin, ...]) -> dict[str, Pin]:
    return {pin.name: pin for pin in pins}


def unmet(wanted: list[str], lock: str) -> list[str]:
    """The requirements that no pin of the lock fulfils."""
    pins = by_name(read(lock))
    parsed = [Requirement(each) for each in wanted]
    return [
        str(each)
        for each in parsed
        if (pin := pins.get(canonicalize_name(each.name))) is None or not each.specifier.contains(pin.version)
    ]


def test_few_packages_are_installed_to_run() -> None:
    for python, machine in product(("3.11", "3.12", "3.13", "3.14"), ("x86_64", "aarch64")):
        installed = [pin.name for pin in read("runtime") if pin.applies(environment(python, machine))]
        assert len([*installed, "gatepass"]) <= MOST_PACKAGES, installed


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_its_hashes_and_a_lock_names_no_index_and_no_place_of_a_machine(lock: str) -> None:
    pins, developed = read(lock), by_name(read("dev"))
    assert len(pins) > 4
    assert [pin.name for pin in pins if not pin.hashes] == []
    assert len(by_name(pins)) == len(pins), "a package is pinned twice: no version fits all Pythons"
    places = r"[a-z]+://.*|(?:^|[ =])[/~].*|.*--(?:index|extra|find|trusted).*"
    assert re.findall(places, text(lock), re.MULTILINE) == []
    if lock not in ("docs", "release"):  # development runs on the very same versions
        assert [(pin.name, pin.version) for pin in pins] == [(pin.name, developed[pin.name].version) for pin in pins]


def test_locks_fulfil_what_the_project_asks_for() -> None:
    assert unmet(PROJECT["project"]["dependencies"], "runtime") == []
    assert unmet(PROJECT["build-system"]["requires"], "build") == []
    optional = PROJECT["project"]["optional-dependencies"]
    for name in EXTRAS:
        assert unmet([*PROJECT["project"]["dependencies"], *optional[name]], f"extra-{name}") == []
    groups = PROJECT["dependency-groups"]
    assert unmet([*PROJECT["project"]["dependencies"], *groups["demo"]], "demo") == []
    for group in ("dev", "docs", "release"):
        assert unmet(groups[group], group) == []


def test_runtime_lock_holds_nothing_for_development() -> None:
    development = {canonicalize_name(Requirement(each).name) for each in PROJECT["dependency-groups"]["dev"]}
    api = "opentelemetry-api"  # a dependency of a dependency
    assert development & set(by_name(read("runtime"))) == {api}
    assert development & set(by_name(read("demo"))) == {"openai", api}


def test_the_image_takes_every_extra_by_its_lock() -> None:
    optional = PROJECT["project"]["optional-dependencies"]
    assert sorted(optional["all"]) == [f"gatepass[{','.join(sorted(EXTRAS))}]"]
    image = (REQUIREMENTS.parent / "Dockerfile").read_text()
    assert '-r "requirements/extra-$extra.txt"' in image


ROOT = REQUIREMENTS.parent
FOREIGN = (
    *(f"tests/e2e/{name}" for name in ("clients", "mcp", "quirks", "realllm", "django")),
    *("tests/chart", "tests/site", "tests/ui", "bench/peers"),
)
"""Scripts with separate environments."""
COMMANDS = {"coverage", "import-linter", "mypy", "pytest-cov", "pytest-xdist", "ruff"}
"""Development tools that no module imports."""
BY_NAME = {"uvloop"}
"""uvicorn loads it."""


@cache
def modules() -> dict[str, str]:
    return {
        ".".join(file.with_suffix("").parts).removesuffix(".__init__").partition(".cpython")[0]: name
        for each in distributions()
        for name in [each.name]  # read from its metadata, each time
        for file in each.files or ()
        if file.suffix in (".py", ".so") and ".." not in file.parts
    }


@cache
def imported(*folders: str) -> set[str]:
    """The distributions that the code in `folders` imports, by their canonical names."""
    # `compression` is in the standard library of Python 3.14
    own, known = (
        {*sys.stdlib_module_names, "compression", "gatepass", "tests", "bench", "docs", "examples", "release"},
        modules(),
    )
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    found: set[str] = set()
    for file in files:
        if str(file.relative_to(ROOT)).startswith(FOREIGN):
            continue
        for name in imports(file):
            if name.partition(".")[0] in own:
                continue
            parents = [name.rsplit(".", up)[0] for up in range(name.count(".") + 1)]
            found.add(canonicalize_name(next(known[each] for each in parents if each in known)))
    return found


def imports(file: Path) -> Iterator[str]:
    """Return the imports of `file`: modules, and names that may be modules."""
    nodes: list[ast.AST] = [ast.parse(file.read_text())]
    for node in nodes:
        nodes += [inner for inner in ast.iter_child_nodes(node) if not isinstance(inner, ast.expr)]
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from (f"{module}.{alias.name}" for alias in names)


def declared(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(each).name) for each in requirements}


def test_imported_packages_are_the_declared_ones() -> None:
    runtime, optional = PROJECT["project"]["dependencies"], PROJECT["project"]["optional-dependencies"]
    of_extras = {name for extra in EXTRAS for name in declared(optional[extra])}
    assert imported("src") == (declared(runtime) - BY_NAME) | of_extras


def test_the_development_group_holds_what_tests_import_and_the_extras() -> None:
    runtime, development = PROJECT["project"]["dependencies"], PROJECT["dependency-groups"]["dev"]
    used = imported("tests", "bench", "examples")
    assert declared(development) - COMMANDS == (used | imported("src")) - declared(runtime)
    assert used >= BY_NAME


def test_uvicorn_is_bounded_and_locked_in_the_newest_series_of_its_range() -> None:
    """`gatepass serve` extends uvicorn's server, so a new series is used only after these tests ran with it."""
    (wanted,) = [one for one in map(Requirement, PROJECT["project"]["dependencies"]) if one.name == "uvicorn"]
    (bound,) = [one.version for one in wanted.specifier if one.operator == "<"]
    major, minor = map(int, bound.split("."))
    for lock in ("runtime", "dev"):
        pin = by_name(read(lock))["uvicorn"]
        assert pin.version.startswith(f"{major}.{minor - 1}."), (lock, pin.version)


def test_no_file_of_the_image_has_a_digest_that_no_registry_reported() -> None:
    """The workflow of the image resolves the digest of the base."""
    root = REQUIREMENTS.parent
    places = [
        root / "Dockerfile",
        *(root / "deploy").rglob("*"),
        *(root / ".github").rglob("*"),
        *root.glob("docs/**/*.md"),
    ]
    texts = {path: path.read_text() for path in places if path.is_file() and path.suffix != ".png"}
    assert [path for path, text in texts.items() if re.search(r"@sha256:[0-9a-f]{8}", text)] == []
    workflow = texts[root / ".github/workflows/image.yml"]
    assert 'docker buildx imagetools inspect "$BASE"' in workflow
    assert '--build-arg BASE="$BASE@$DIGEST"' in workflow
