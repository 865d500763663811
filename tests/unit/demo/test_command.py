from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from gatepass.demo.command import demo


def test_a_missing_client_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    result = CliRunner().invoke(demo, ["--once"])
    assert result.exit_code == 2
    assert "in a clone pip install '.[demo]'" in result.output


def test_the_life_of_its_tokens_is_not_in_its_help():
    result = CliRunner().invoke(demo, ["--help"])
    assert "--once" in result.output
    assert "--life" not in result.output
