"""What `gatepass check` prints of the example, with and without `--route`."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from gatepass.cli import main
from tests.golden.golden import same

SECRETS = ("CORP_SECRET", "PORTAL_SECRET", "LIBRECHAT_KEY", "LIBRECHAT_KEY_2", "LLM_KEY", "STORE_PASSWORD")
ENVIRONMENT = {name: f"0123456789-{name}" for name in SECRETS} | {"STORE_KEY": "k" * 32}


@pytest.fixture
def check(tmp_path, monkeypatch) -> Callable[..., str]:
    """Run `gatepass check` beside a configuration `gatepass.yaml`; gives all that it prints, and its exit code."""
    for name in [name for name in os.environ if name not in ("PATH", "HOME", "LANG")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(text: str | None, *arguments: str, **environment: str) -> str:
        named: tuple[str, ...] = ()
        if text is not None:
            Path("gatepass.yaml").write_text(text)
            named = ("--config", "gatepass.yaml")
        result = CliRunner().invoke(main, ["check", *named, *arguments], env=environment)
        reported = f"--- stdout\n{result.stdout}--- stderr\n{result.stderr}--- exit {result.exit_code}\n"
        return reported.replace(f"{tmp_path}/", "")

    return run


def test_check_prints_the_recorded_effective_values(check):
    example = (Path(__file__).parents[2] / "config.example.yaml").read_text()
    whole = re.sub(r"(?m)^( *)#(?=[^ #\n])", r"\1", example)
    asked = {
        "config.example.yaml": (example,),
        "config.example.yaml --route gpt-4o": (example, "--route", "gpt-4o"),
        "config.example.yaml --route bge-m3 --key ragflow": (example, "--route", "bge-m3", "--key", "ragflow"),
        "config.example.yaml with all that is commented out": (whole,),
        "config.example.yaml with all that is commented out, --route o1": (whole, "--route", "o1"),
    }
    shown = {name: check(*arguments, **ENVIRONMENT) for name, arguments in asked.items()}
    shown["an upstream in the environment --all"] = check(
        None, "--all", GATEPASS_UPSTREAM_URL="https://llm.example/v1", GATEPASS_UPSTREAM_KEY="a-key-0123456789"
    )
    same("check.txt", shown)
