"""Pairs of a configuration and its problems: config_problems.txt, whose first lines state its form.

A new case is a configuration without problems, which `make golden` adds.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from gatepass.config.document import ConfigError
from gatepass.config.load import load
from tests.golden.golden import HERE, WRITES

PAIRS = HERE / "config_problems.txt"
UPSTREAMS = "upstreams: {u: {base_url: 'https://u.example/v1'}}"
KEPT = ("PATH", "HOME", "LANG")


def problems(lines: list[str]) -> list[str]:
    """Return the problems and warnings of a configuration and its variables."""
    lines = [re.sub(r"HASH-([0-9a-f])", lambda found: f"sha256:{found[1] * 64}", line) for line in lines]
    environment = dict(line[2:].split("=", 1) for line in lines if line.startswith("$ "))
    written = [line for line in lines if not line.startswith("$ ")]
    file = Path("gatepass.yaml")
    if written:
        has_own = any(line.startswith(("upstreams:", "mcp:", "# whole")) for line in written)
        file.write_text("\n".join([*written, *([] if has_own else [UPSTREAMS]), ""]))
        file.chmod(0o600)
    try:
        found = load(str(file) if file.exists() else None, environment).warnings
        return [f"warning: {warning.removeprefix(f'{file}:')}" for warning in found] or ["valid"]
    except ConfigError as error:
        return [line.removeprefix(f"{file}:").strip() for line in str(error).splitlines()]
    finally:
        file.unlink(missing_ok=True)


def test_each_configuration_has_the_recorded_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name not in KEPT]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    recorded = PAIRS.read_text()
    head, *blocks = recorded.rstrip("\n").split("\n\n")
    shown = [head]
    for block in blocks:
        lines = [line for line in block.split("\n") if not line.startswith("→ ")]
        found = [f"→ {line}" for line in problems(lines)]
        shown.append("\n".join([*lines, *found]))
        if not WRITES:
            assert shown[-1] == block, "if the change is wanted, run `make golden`, and list it"
        assert "topsecret" not in " ".join(found)
    if WRITES:
        PAIRS.write_text("\n\n".join(shown) + "\n")
