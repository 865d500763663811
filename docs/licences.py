"""The licences of what users install, from the metadata of the locked packages: a part of docs/supply_chain.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

from docs.entries import table
from release.build import MACHINES, PYTHONS

from release import locks

PAGE = Path(__file__).parent / "supply_chain.md"
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
"""The names of licences in older metadata. Some name no version of the BSD licence."""


def licence_of(package: PackageMetadata) -> str:
    """Return the SPDX expression of a package, or what its older fields name. Raises ValueError without any."""
    if "License-Expression" in package:
        return package["License-Expression"]
    classified = [
        line.rpartition(" :: ")[2] for line in package.get_all("Classifier") or () if line.startswith("License")
    ]
    (text,) = package.get_all("License") or [""]
    named = sorted({SPDX[name] for name in classified}) or [SPDX.get(text, text)]
    if not named[0] or "\n" in named[0]:
        raise ValueError(f"{package['Name']} names no licence that is known here: {named[0]!r}")
    return " OR ".join(named)


def needed() -> dict[str, list[str]]:
    """Return each package that gatepass installs on a supported Python on Linux, with the extras that need it."""
    environments = [locks.environment(python, machine) for python in PYTHONS for machine in MACHINES]
    found: dict[str, list[str]] = {}
    for lock in locks.released():
        for pin in locks.read(lock):
            if any(map(pin.applies, environments)):
                found.setdefault(pin.name, []).append(lock.removeprefix("extra-"))
    return {name: ["gatepass"] if uses[0] == "runtime" else uses for name, uses in sorted(found.items())}


def shown() -> Mapping[str, str]:
    """Return the licence of each package on the page."""
    return dict(re.findall(r"^\| `([\w-]+)` \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE))


def licence_table() -> str:
    """Return the table. A package that this Python does not need keeps its row.

    Raises ValueError for a package without a licence, and PackageNotFoundError for a new one that is not installed.
    """
    rows, before = [], shown()
    for name, uses in needed().items():
        try:
            licence = licence_of(metadata(name))
        except PackageNotFoundError:
            if name not in before:
                raise
            licence = before[name]
        rows.append((f"`{name}`", licence, ", ".join(uses)))
    return table(("package", "licence", "for"), rows)
