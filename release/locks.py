"""The hash locks of requirements/, as pip reads them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "requirements"

_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})\b")


@dataclass(frozen=True, slots=True)
class Pin:
    """One line of a lock: a name, exactly one version, where it is wanted, and every file that it may be."""

    name: str
    version: str
    marker: Marker | None
    hashes: tuple[str, ...]

    def applies(self, environment: Mapping[str, str]) -> bool:
        return self.marker is None or self.marker.evaluate(dict(environment))


def extras(source: Path = ROOT) -> tuple[str, ...]:
    """The extras of pyproject.toml in `source`, without `all`, which has all of them."""
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    return tuple(extra for extra in project["optional-dependencies"] if extra != "all")


def released(source: Path = ROOT) -> tuple[str, ...]:
    """The locks of all that a user may install: gatepass, and each extra."""
    return ("runtime", *(f"extra-{extra}" for extra in extras(source)))


def text(name: str, requirements: Path = REQUIREMENTS) -> str:
    return (requirements / f"{name}.txt").read_text()


def read(name: str, requirements: Path = REQUIREMENTS) -> tuple[Pin, ...]:
    """The pins of NAME.txt in `requirements`, in order."""
    lines = (line for line in text(name, requirements).replace("\\\n", " ").splitlines())
    return tuple(_pin(line) for line in lines if line and not line.lstrip().startswith("#"))


def _pin(line: str) -> Pin:
    requirement = Requirement(line.partition(" --hash")[0].strip())
    (specifier,) = requirement.specifier
    assert specifier.operator == "==", line
    hashes = tuple(_HASH.findall(line))
    return Pin(canonicalize_name(requirement.name), specifier.version, requirement.marker, hashes)


def environment(python: str, machine: str) -> dict[str, str]:
    """Return the environment markers of CPython `python` (such as "3.12") on Linux `machine`."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
        "extra": "",
    }
