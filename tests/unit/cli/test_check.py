import os
from dataclasses import dataclass

import pytest
from click.testing import CliRunner

import gatepass.doctor
from gatepass.cli import main

HASH, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
FILE = f"""\
upstreams:
  chat: {{base_url: "https://llm.example/v1"}}
  spare: {{base_url: "https://spare.example/v1"}}
models:
  gpt-4o: {{targets: [{{upstream: chat, name: gpt-4o-240806-deploy-gs}}, {{upstream: spare}}]}}
access:
  keys: [{{name: ragflow, hash: "{HASH}", models: ["gpt-3*"]}}, {{name: bot, hash: "{OTHER}"}}]
"""


@dataclass
class Finding:
    hop: str
    ok: bool
    finding: str


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("GATEPASS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def check(tmp_path):
    (tmp_path / "f.yaml").write_text(FILE)

    def run(*arguments, environment=None):
        return CliRunner().invoke(main, ["check", "--config", str(tmp_path / "f.yaml"), *arguments], env=environment)

    return run


@pytest.fixture
def hops(monkeypatch):
    """What the doctor finds."""
    found: list[Finding] = []

    async def diagnose(config):
        assert set(config.upstreams) == {"chat", "spare"}
        return found

    monkeypatch.setattr(gatepass.doctor, "diagnose", diagnose)
    return found


def test_the_effective_configuration_is_shown(check, tmp_path):
    result = check(environment={"GATEPASS_PORT": "9"})
    assert result.exit_code == 0
    assert "  port: 9  # environment GATEPASS_PORT\n" in result.output
    assert f"    base_url: https://llm.example/v1  # {tmp_path}/f.yaml:2\n" in result.output


def test_warnings_go_to_stderr(check):
    result = check(environment={"HTTPS_PROXY": "http://p:1"})
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: HTTPS_PROXY is set")
    assert "HTTPS_PROXY" not in result.stdout


def test_a_configuration_that_cannot_be_used_is_exit_2(tmp_path):
    (tmp_path / "f.yaml").write_text("upstreams: {a: {}}\nlog: {bodies: 5}\n")
    result = CliRunner().invoke(main, ["check", "--config", str(tmp_path / "f.yaml")])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"{tmp_path}/f.yaml:1: upstreams.a.base_url: is missing\n"
        f"{tmp_path}/f.yaml:2: log.bodies: expects true or false\n"
    )


def test_no_configuration_at_all_is_exit_2():
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 2
    assert "there is none" in result.stderr


def test_the_route_and_what_is_changed_on_it_are_shown_in_order(check):
    result = check("--model", "gpt-4o")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "chat with the model gpt-4o, as any caller",
        "route, in order:",
        "  1. upstream chat, as gpt-4o-240806-deploy-gs",
        "  2. upstream spare, as gpt-4o",
        "adaptation, in order (what shapes the reply runs the other way):",
        "  1. surface: chat",
        "  2. caller profile: none",
        "  3. built-in rule: images",
        "  4. built-in rule: strays",
        "  5. built-in rule: model",
        "  6. rules of the model: none",
        "  7. lessons: none",
        "  8. dialect: openai",
    ]


def test_a_rule_that_is_for_chat_alone_is_not_listed_for_embeddings(check):
    result = check("--model", "gpt-4o", "--operation", "embeddings", "--key", "bot")
    assert result.exit_code == 0
    assert result.output.splitlines()[0] == "embeddings with the model gpt-4o, as bot"
    assert "images" not in result.output
    assert "strays" in result.output


def test_a_model_that_goes_nowhere_is_exit_1(check):
    result = check("--model", "gpt-9")
    assert result.exit_code == 1
    assert result.output.startswith("refused: 404 model_not_found: ")


def test_a_caller_who_may_not_use_the_model_is_exit_1(check):
    result = check("--model", "gpt-4o", "--key", "ragflow")
    assert result.exit_code == 1
    assert result.output.startswith("refused: 403 model_not_allowed: ")


def test_an_unknown_caller_is_exit_2(check):
    result = check("--model", "gpt-4o", "--key", "nobody")
    assert result.exit_code == 2
    assert result.stderr == "--key: 'nobody' is not the name of a key; there is ragflow, bot\n"


def test_a_key_without_a_model_is_a_usage_error(check):
    result = check("--key", "bot")
    assert result.exit_code == 2
    assert "--key wants --model beside it" in result.stderr


@pytest.mark.parametrize(
    ("ok", "code", "line"), [(True, 0, "ok   upstream:chat: answers\n"), (False, 1, "FAIL upstream:chat: answers\n")]
)
def test_every_hop_is_tried_and_a_failing_one_is_exit_1(check, hops, ok, code, line):
    hops += [Finding("credential:c", True, "a token was minted"), Finding("upstream:chat", ok, "answers")]
    result = check("--live")
    assert (result.exit_code, result.output) == (code, f"ok   credential:c: a token was minted\n{line}")


def test_a_route_and_the_hops_can_be_asked_for_together(check, hops):
    hops += [Finding("upstream:chat", True, "answers")]
    assert check("--live", "--model", "gpt-4o").exit_code == 0
    result = check("--live", "--model", "gpt-9")
    assert result.exit_code == 1
    assert result.output.endswith("ok   upstream:chat: answers\n")


def test_a_certificate_that_cannot_be_loaded_is_exit_2(check, monkeypatch):
    async def diagnose(config):
        raise OSError("no PEM")

    monkeypatch.setattr(gatepass.doctor, "diagnose", diagnose)
    result = check("--live")
    assert result.exit_code == 2
    assert result.stderr == "a certificate of the configuration cannot be loaded: no PEM\n"
