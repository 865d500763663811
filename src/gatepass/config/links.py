"""Names of a configuration that must stand for something: another block of it, or a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

from gatepass.config.problem import Path
from gatepass.config.references import Reference
from gatepass.config.settings import did_you_mean
from gatepass.config.tree import Pattern, lookup, matches

LINKS: tuple[tuple[Pattern, str], ...] = (
    (("upstreams", "*", "credential"), "credentials"),
    (("operations", "*", "upstream"), "upstreams"),
    (("models", "*", "upstream"), "upstreams"),
    (("models", "*", "targets", "*", "upstream"), "upstreams"),
)
"""Where a name is used, and the block that must hold it."""

FILES = ("ca_file", "client_cert", "client_key")


def unreadable(tree: Any) -> Iterator[tuple[Path, str]]:
    """Each file of a `network` that cannot be opened, with the system's reason."""
    for block in ("upstreams", "credentials"):
        for name in FILES:
            for path, file in matches(tree, (block, "*", "network", name)):
                if isinstance(file, str) and (reason := _fault(file)):
                    yield path, f"cannot be read: {reason}"


def _fault(file: str) -> str | None:
    try:
        FilePath(file).open("rb").close()
    except OSError as error:
        return error.strerror
    except ValueError:
        return "a NUL in its name"
    return None


def dangling(tree: Any) -> Iterator[tuple[Path, str]]:
    """Each name that stands for nothing, with what to tell of it."""
    for pattern, block in LINKS:
        known = lookup(tree, (block,))
        names = [str(name) for name in known] if isinstance(known, dict) else []
        for path, value in matches(tree, pattern):
            if isinstance(value, str) and value not in names:
                yield path, _unknown(value, block, names)


def _unknown(value: str, block: str, names: list[str]) -> str:
    if isinstance(value, Reference):  # its value is nobody's to read
        return f"{value.template} is not a name under {block}"
    return f"{value!r} is not a name under {block}{did_you_mean(value, names)}"
