import logging
import os
from typing import get_args

import pytest
from click.testing import CliRunner

import gatepass.cli.doctor
from gatepass.cli import main
from gatepass.cli.check import LIVE_OPERATIONS, OPERATION_OF_KIND, OPERATIONS
from gatepass.cli.doctor import Check, Outcome, ProbeCall
from gatepass.config.routes import ModelKind, OfModel

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
def doctor(monkeypatch):
    """What the doctor finds, and what it was asked to try."""

    class Doctor:
        def __init__(self) -> None:
            self.findings: list[Check] = []
            self.tried: list[ProbeCall | None] = []

        async def diagnose(self, config, trial):
            assert set(config.upstreams) == {"chat", "spare"}
            self.tried.append(trial)
            for finding in self.findings:
                yield finding

    found = Doctor()
    monkeypatch.setattr(gatepass.cli.doctor, "diagnose", found.diagnose)
    return found


WORKING = Check("upstream:chat", Outcome.WORKS, "answers")


def test_the_effective_configuration_is_shown(check, tmp_path):
    result = check(environment={"GATEPASS_PORT": "9"})
    assert result.exit_code == 0
    assert "  port: 9  # environment GATEPASS_PORT\n" in result.output
    assert f"    base_url: https://llm.example/v1  # {tmp_path}/f.yaml:2\n" in result.output


def test_defaults_are_shown_on_demand_and_counted_in_the_last_line(check):
    some, every = check(), check("--all")
    assert "# default" not in some.stdout
    left_out = every.stdout.count("  # default\n")
    counted = "# valid: 2 upstreams, 0 credentials, 2 keys"
    assert some.stdout.splitlines()[-1] == f"{counted}; {left_out} defaults are left out, --all shows them"
    assert every.stdout.splitlines()[-1] == counted


def test_a_credential_that_no_upstream_names_is_warned_of(tmp_path):
    (tmp_path / "f.yaml").write_text(
        "upstreams: {a: {base_url: 'https://x/v1', credential: used}}\n"
        "credentials: {used: {type: static, token: k-1}, idle: {type: static, token: k-2}}\n"
    )
    result = CliRunner().invoke(main, ["check", "--config", str(tmp_path / "f.yaml")])
    assert result.exit_code == 0
    assert "warning: credentials.idle: no upstream uses it" in result.stderr.splitlines()
    assert "credentials.used" not in result.stderr
    assert result.stdout.splitlines()[-1].startswith("# valid: 1 upstream, 2 credentials, 0 keys; ")


def test_warnings_go_to_stderr(check):
    result = check(environment={"HTTPS_PROXY": "http://p:1"})
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: HTTPS_PROXY is set")
    assert "HTTPS_PROXY" not in result.stdout


def test_a_configuration_that_cannot_be_used_is_exit_2(tmp_path):
    (tmp_path / "f.yaml").write_text("upstreams: {a: {}}\nserver: {port: 99999}\n")
    result = CliRunner().invoke(main, ["check", "--config", str(tmp_path / "f.yaml")])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"{tmp_path}/f.yaml:1: upstreams.a.base_url: is missing\n"
        f"{tmp_path}/f.yaml:2: server.port: expects 65535 or less\n"
    )


def test_no_configuration_at_all_is_exit_2():
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 2
    assert "not found" in result.stderr


def test_the_way_and_what_is_changed_on_it_are_shown_in_order(check):
    result = check("--model", "gpt-4o")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "chat with the model gpt-4o, as any caller",
        "1. to the upstream chat, as gpt-4o-240806-deploy-gs:",
        "   - profile plain: nothing",
        "   - built-in images: `images` next to the conversation are moved into it",
        "   - built-in strays: drop_params and model_type are left out",
        "   - built-in stream_options: left out if no stream is requested",
        "   - built-in model: gpt-4o becomes gpt-4o-240806-deploy-gs",
        "   - stream: auto, as the client requests, until a rejection changes it",
        "   - learning: on",
        "   - dialect openai: nothing",
        "   - POST https://llm.example/v1/chat/completions, with no credential",
        "2. to the upstream spare, as gpt-4o:",
        "   - profile plain: nothing",
        "   - built-in images: `images` next to the conversation are moved into it",
        "   - built-in strays: drop_params and model_type are left out",
        "   - built-in stream_options: left out if no stream is requested",
        "   - stream: auto, as the client requests, until a rejection changes it",
        "   - learning: on",
        "   - dialect openai: nothing",
        "   - POST https://spare.example/v1/chat/completions, with no credential",
    ]


def test_the_way_is_one_of_the_caller_and_the_operation(check):
    result = check("--model", "gpt-4o", "--operation", "embeddings", "--key", "bot")
    assert result.exit_code == 0
    assert result.output.splitlines()[0] == "embeddings with the model gpt-4o, as bot"


def test_every_operation_that_names_a_model_and_every_kind_has_a_way_to_be_shown():
    assert get_args(OfModel) == OPERATIONS
    assert set(OPERATION_OF_KIND) == {None, *get_args(ModelKind)}
    assert set(LIVE_OPERATIONS) < set(OPERATIONS) >= set(OPERATION_OF_KIND.values())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_way_of_every_operation_that_names_a_model_is_shown(check, operation):
    result = check("--model", "gpt-4o", "--operation", operation)
    assert result.exit_code == 0
    assert result.output.splitlines()[0] == f"{operation} with the model gpt-4o, as any caller"
    assert result.output.splitlines()[-1].startswith("   - POST https://spare.example/v1/")


def test_a_way_that_ends_in_a_refusal_is_exit_1(tmp_path):
    rag = "{base_url: 'http://rag.example:9380', dialect: ragflow}"
    (tmp_path / "r.yaml").write_text(f"upstreams: {{rag: {rag}}}\nmodels: {{bot: {{upstream: rag, name: 2e3b}}}}\n")
    result = CliRunner().invoke(
        main, ["check", "--config", str(tmp_path / "r.yaml"), "--model", "bot", "--operation", "embeddings"]
    )
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith("   - refused: 404 model_not_found: ")


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


@pytest.mark.parametrize("option", [("--key", "bot"), ("--operation", "embeddings")])
@pytest.mark.parametrize("live", [(), ("--live",)])
def test_what_is_said_of_a_model_without_a_model_is_a_usage_error(check, doctor, option, live):
    result = check(*option, *live)
    assert (result.exit_code, doctor.tried) == (2, [])
    assert f"{option[0]} requires --model" in result.stderr


@pytest.mark.parametrize(
    ("outcome", "code", "mark"),
    [
        (Outcome.WORKS, 0, "ok  "),
        (Outcome.UNPROVEN, 0, "????"),
        (Outcome.SKIPPED, 0, "skip"),
        (Outcome.FAILS, 1, "FAIL"),
    ],
)
def test_every_hop_is_tried_and_only_a_failing_one_is_exit_1(check, doctor, outcome, code, mark):
    doctor.findings += [Check("credential:c", outcome, "what was found"), WORKING]
    result = check("--live")
    assert (result.exit_code, result.output) == (
        code,
        f"{mark} credential:c: what was found\nok   upstream:chat: answers\n",
    )
    assert doctor.tried == [None]


def test_a_model_is_tried_for_real_where_its_route_is_fine(check, doctor):
    doctor.findings.append(WORKING)
    assert check("--live", "--model", "gpt-4o", "--operation", "embeddings").exit_code == 0
    result = check("--live", "--model", "gpt-9")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert result.output.startswith("refused: 404 model_not_found: ")
    assert doctor.tried == [ProbeCall("embeddings", "gpt-4o")]


@pytest.mark.parametrize(
    ("models", "blocks", "operation"),
    [
        ("m: {upstream: chat}", "", "chat"),
        ("m: {upstream: chat, capabilities: {kind: chat}}", "", "chat"),
        ("m: {upstream: chat, capabilities: {kind: vision}}", "", "chat"),
        ("m: {upstream: chat, capabilities: {vision: true}}", "", "chat"),
        ("m: {upstream: chat, capabilities: {kind: embedding}}", "", "embeddings"),
        ("m: {upstream: chat, capabilities: {dimensions: 384}}", "", "embeddings"),
        ("m: {upstream: chat, capabilities: {kind: rerank}}", "", "rerank"),
        ("'m*': {upstream: chat, capabilities: {kind: embedding}}", "", "embeddings"),
        ("m: {upstream: chat}", "operations: {embeddings: {upstream: spare, model: m}}\n", "embeddings"),
        ("'*': {upstream: chat}", "operations: {rerank: {upstream: spare, model: m}}\n", "rerank"),
    ],
)
def test_a_model_is_tried_at_what_it_is_declared_for(tmp_path, doctor, models, blocks, operation):
    file = tmp_path / "m.yaml"
    upstreams = "chat: {base_url: 'https://llm.example/v1'}, spare: {base_url: 'https://spare.example/v1'}"
    file.write_text(f"upstreams: {{{upstreams}}}\nmodels: {{{models}}}\n{blocks}")
    doctor.findings.append(WORKING)
    result = CliRunner().invoke(main, ["check", "--config", str(file), "--live", "--model", "m"])
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, f"{operation} with the model m, as any caller")
    CliRunner().invoke(main, ["check", "--config", str(file), "--live", "--model", "m", "--operation", "completions"])
    assert doctor.tried == [ProbeCall(operation, "m"), ProbeCall("completions", "m")]


SPEAKING = """\
upstreams: {a: {base_url: 'https://llm.example/v1'}}
models: {m: {upstream: a, capabilities: {kind: tts}}, ears: {upstream: a, name: whisper, capabilities: {kind: asr}}}
"""


@pytest.mark.parametrize(
    ("model", "more", "operation"),
    [
        ("m", (), "speech"),
        ("ears", (), "transcriptions"),
        ("ears", ("--operation", "translations"), "translations"),
        ("m", ("--operation", "responses"), "responses"),
    ],
)
def test_what_check_cannot_ask_for_is_said_and_nothing_is_tried(tmp_path, doctor, model, more, operation):
    (tmp_path / "m.yaml").write_text(SPEAKING)
    arguments = ["check", "--config", str(tmp_path / "m.yaml"), "--live", "--model", model, *more]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stdout, doctor.tried) == (2, "", [])
    assert result.stderr == (
        f"--live: check has no call for {operation}, only for chat, completions, embeddings, rerank:"
        " without --live it shows the route\n"
    )


def test_the_way_of_a_model_for_speech_is_that_of_its_own_operation(tmp_path):
    (tmp_path / "m.yaml").write_text(SPEAKING)
    ears = CliRunner().invoke(main, ["check", "--config", str(tmp_path / "m.yaml"), "--model", "ears"])
    assert (ears.exit_code, ears.output.splitlines()) == (
        0,
        [
            "transcriptions with the model ears, as any caller",
            "1. to the upstream a, as whisper:",
            "   - the form passes through unchanged: no profile, no rules, no learning",
            "   - built-in model: ears becomes whisper",
            "   - dialect openai: nothing",
            "   - POST https://llm.example/v1/audio/transcriptions, with no credential",
        ],
    )
    mouth = CliRunner().invoke(main, ["check", "--config", str(tmp_path / "m.yaml"), "--model", "m"])
    assert mouth.output.splitlines()[0] == "speech with the model m, as any caller"


def test_a_model_is_tried_as_the_caller_whose_way_is_shown(tmp_path, doctor):
    file = tmp_path / "p.yaml"
    file.write_text(FILE.replace("name: bot,", "name: bot, profile: dify,"))
    doctor.findings.append(WORKING)
    for key in ("bot", "ragflow"):
        CliRunner().invoke(main, ["check", "--config", str(file), "--live", "--model", "gpt-4o", "--key", key])
    assert doctor.tried == [ProbeCall("chat", "gpt-4o", "dify")]


CONFIGURED = Check("credential:c", Outcome.WORKS, "a key is configured", proves=False)


@pytest.mark.parametrize(
    "findings",
    [
        [Check("credential:c", Outcome.SKIPPED, "kept nowhere"), Check("upstream:chat", Outcome.SKIPPED, "not tried")],
        [CONFIGURED, Check("upstream:chat", Outcome.UNPROVEN, "open to everybody")],
        [Check("upstream:chat", Outcome.UNPROVEN, "no list")],
    ],
    ids=["all skipped", "a key that nobody asked for", "no list"],
)
def test_a_check_that_proved_nothing_is_exit_4_and_says_so(check, doctor, findings):
    doctor.findings += findings
    result = check("--live")
    assert (result.exit_code, result.stderr) == (4, "nothing failed, and nothing was proven: exit code 4\n")
    doctor.findings.append(WORKING)
    assert check("--live").exit_code == 0
    doctor.findings.append(Check("upstream:spare", Outcome.FAILS, "down"))
    assert check("--live").exit_code == 1


def test_each_finding_is_printed_as_soon_as_it_is_known(tmp_path, monkeypatch, capsys):
    (tmp_path / "f.yaml").write_text(FILE)
    seen = []

    async def diagnose(config, trial):
        yield WORKING
        seen.append(capsys.readouterr().out)
        yield Check("upstream:spare", Outcome.WORKS, "answers")

    monkeypatch.setattr(gatepass.cli.doctor, "diagnose", diagnose)
    with pytest.raises(SystemExit):
        main(["check", "--config", str(tmp_path / "f.yaml"), "--live"])
    assert seen == ["ok   upstream:chat: answers\n"]


def test_no_log_line_stands_between_the_findings(check, monkeypatch):
    async def diagnose(config, trial):
        logging.getLogger("gatepass.tokens").warning("token_fetch_failed")
        yield WORKING

    monkeypatch.setattr(gatepass.cli.doctor, "diagnose", diagnose)
    for name in (None, "gatepass"):  # as in a process of its own: then the last resort is stderr
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
    result = check("--live")
    assert (result.stdout, result.stderr) == ("ok   upstream:chat: answers\n", "")


def test_an_url_that_names_an_operation_is_refused_before_anything_is_tried(tmp_path, doctor):
    (tmp_path / "f.yaml").write_text("upstreams: {chat: {base_url: 'https://llm.example/v1/chat/completions'}}\n")
    result = CliRunner().invoke(main, ["check", "--live", "--config", str(tmp_path / "f.yaml")])
    assert (result.exit_code, result.stdout, doctor.tried) == (2, "", [])
    assert "upstreams.chat.base_url: ends in /chat/completions" in result.stderr


def test_a_file_that_is_no_certificate_is_refused_with_its_setting(tmp_path):
    (tmp_path / "ca.pem").write_text("garbage")
    (tmp_path / "f.yaml").write_text(
        f"upstreams: {{chat: {{base_url: 'https://llm.example/v1', network: {{ca_file: {tmp_path}/ca.pem}}}}}}\n"
    )
    for command in ("check", "serve"):
        result = CliRunner().invoke(main, [command, "--config", str(tmp_path / "f.yaml")])
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"{tmp_path}/f.yaml:1: upstreams.chat.network.ca_file: holds no PEM")


def test_what_a_callers_profile_changes_is_shown_in_its_place(tmp_path):
    (tmp_path / "p.yaml").write_text(FILE.replace("name: bot,", "name: bot, profile: librechat,"))
    result = CliRunner().invoke(
        main, ["check", "--config", str(tmp_path / "p.yaml"), "--model", "gpt-4o", "--key", "bot"]
    )
    assert result.output.splitlines()[2] == "   - profile librechat: drop=tools[].strict, drop=tools[].function.strict"
