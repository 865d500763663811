"""What `gatepass check` and `gatepass route` print: of configurations that are refused, and of some that are not."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from gatepass.cli import main
from tests.golden.golden import same

ROOT = Path(__file__).parents[2]
GOOD = "upstreams: {chat: {base_url: 'https://llm.example/v1'}}\n"
BROKEN = {
    "not YAML": "upstreams:\n  chat: {base_url: 'https://llm.example/v1'\nserver: 1\n",
    "a tab": "upstreams:\n\tchat: {}\n",
    "an empty file": "",
    "a list": "- upstreams\n",
    "a name twice": GOOD + "server: {port: 1, port: 2}\n",
    "a setting that is unknown": GOOD + "server: {prot: 8080}\n",
    "a block that is unknown": GOOD + "upstream: {chat: {}}\n",
    "a setting that is missing": "upstreams:\n  chat: {dialect: openai}\n",
    "no upstream": "server: {port: 8080}\n",
    "a number that is too large": GOOD + "server:\n  port: 99999\n",
    "a text for a number": GOOD + "server: {port: eighty}\n",
    "a unit in a number": GOOD + "server:\n  drain_timeout_s: 5s\n",
    "a URL without a scheme": "upstreams: {chat: {base_url: llm.example/v1}}\n",
    "a secret in a URL": "upstreams: {chat: {base_url: 'https://me:topsecret@llm.example/v1'}}\n",
    "a credential that nobody declared": (
        "upstreams: {chat: {base_url: 'https://llm.example/v1', credential: crop}}\n"
        "credentials: {corp: {type: static, token: '${T}'}}\n"
    ),
    "a credential over plain HTTP": (
        "upstreams: {chat: {base_url: 'http://llm.example/v1', credential: corp}}\n"
        "credentials: {corp: {type: static, token: '${T}'}}\n"
    ),
    "a type that is unknown": GOOD + "credentials: {corp: {type: oauth, token_url: 'https://sso.example/token'}}\n",
    "a variable that is not set": GOOD + "credentials: {corp: {type: static, token: '${UNSET_TOKEN}'}}\n",
    "a misspelled setting with a variable that is not set": (
        GOOD + "credentials: {corp: {type: oauth2, token_url: 'https://sso.example/t', client_id: a,"
        " client_secre: '${UNSET_SECRET}'}}\n"
    ),
    "a file that is missing": GOOD + "credentials: {corp: {type: static, token: '${file:/nowhere/token}'}}\n",
    "a model of an unknown upstream": GOOD + "models: {gpt-4o: {upstream: chatt}}\n",
    "a dialect that is unknown": "upstreams: {chat: {base_url: 'https://llm.example/v1', dialect: claude}}\n",
    "a credential that lacks a setting": GOOD + "credentials: {corp: {type: oauth2, client_id: a}}\n",
    "open to others without keys": GOOD + "server: {host: 0.0.0.0}\n",
    "a key in plain text": GOOD + "access: {keys: [{name: bot, key: in-plain-sight-0123456789}]}\n",
    "a hash that is none": GOOD + "access:\n  keys:\n    - {name: bot, hash: abc}\n",
    "several at once": (
        "upstreams:\n  chat: {base_url: 'https://llm.example/v1', timeouts: {idle_s: -1}}\n"
        "log: {format: xml}\nlimit: 1\n"
    ),
}
KEPT = ("PATH", "HOME", "LANG")
SECRETS = ("CORP_SECRET", "PORTAL_SECRET", "LIBRECHAT_KEY", "LIBRECHAT_KEY_2", "LLM_KEY", "STORE_PASSWORD")
ENVIRONMENT = {name: f"0123456789-{name}" for name in SECRETS} | {"STORE_KEY": "k" * 32}


@pytest.fixture
def check(tmp_path, monkeypatch) -> Callable[..., str]:
    """Run `gatepass check` beside a configuration `gatepass.yaml`; gives all that it prints, and its exit code.

    Arguments that begin with `route` run that command instead.
    """
    for name in [name for name in os.environ if name not in KEPT]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(text: str | None, *arguments: str, **environment: str) -> str:
        named: tuple[str, ...] = ()
        if text is not None:
            Path("gatepass.yaml").write_text(text)
            named = ("--config", "gatepass.yaml")
        command, *others = arguments if arguments[:1] == ("route",) else ("check", *arguments)
        result = CliRunner().invoke(main, [command, *named, *others], env=environment)
        reported = f"--- stdout\n{result.stdout}--- stderr\n{result.stderr}--- exit {result.exit_code}\n"
        return reported.replace(f"{tmp_path}/", "")

    return run


def test_invalid_configurations_are_refused_with_the_recorded_messages(check):
    same("config_errors.txt", {name: f"{text}{check(text, T='a-token-0123')}" for name, text in BROKEN.items()})


def test_check_and_route_print_the_recorded_effective_values(check):
    example = (ROOT / "config.example.yaml").read_text()
    whole = re.sub(r"(?m)^( *)#(?=[^ #\n])", r"\1", example)
    asked = {
        "config.example.yaml": (example,),
        "config.example.yaml route gpt-4o": (example, "route", "gpt-4o"),
        "config.example.yaml route bge-m3 --operation embeddings --key ragflow": (
            *(example, "route", "bge-m3", "--operation", "embeddings", "--key", "ragflow"),
        ),
        "config.example.yaml with all that is commented out": (whole,),
        "config.example.yaml with all that is commented out, route o1": (whole, "route", "o1"),
    }
    shown = {name: check(*arguments, **ENVIRONMENT) for name, arguments in asked.items()}
    shown["an upstream in the environment --all"] = check(
        None, "--all", GATEPASS_UPSTREAM_URL="https://llm.example/v1", GATEPASS_UPSTREAM_KEY="a-key-0123456789"
    )
    same("check.txt", shown)
