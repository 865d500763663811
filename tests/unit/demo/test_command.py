from __future__ import annotations

from click.testing import CliRunner

from gatepass.demo.command import demo


def test_the_life_of_its_tokens_is_not_in_its_help():
    result = CliRunner().invoke(demo, ["--help"])
    assert "--once" in result.output
    assert "--life" not in result.output
