import json
import logging
import re
from functools import partial

import pytest
from msgspec.structs import replace

import gatepass.cli.steps
from gatepass.cli import main, probe
from gatepass.cli.doctor import NOT_CALLED, Report, line_of
from gatepass.cli.probe import ProbeCall
from gatepass.documents import Step, StepOutcome
from tests.unit.cli.command_line import FILE, run_on

WORKING = Step("upstream:chat", "models", StepOutcome.WORKS, "answers")
CONFIGURED = Step("credential:c", "token", StepOutcome.WORKS, "a key is configured", proves=False)


class Doctor:
    """Findings for the doctor, and a record of the targets that it tested."""

    def __init__(self) -> None:
        self.findings: list[Step] = []
        self.models: list[str | None] = []
        self.calls: list[ProbeCall] = []

    async def diagnose(self, config, calls, *, model, operation, begin):
        assert "chat" in config.upstreams
        self.models.append(model)
        self.calls += calls
        for finding in self.findings:
            begin(finding.hop, finding.what)
            yield finding


@pytest.fixture
def found(monkeypatch):
    found = Doctor()
    monkeypatch.setattr(gatepass.cli.steps, "diagnose", found.diagnose)
    return found


@pytest.fixture
def doctor(tmp_path):
    return partial(run_on, tmp_path / "f.yaml", "doctor")


def steps_of(result):
    first, *others = result.stdout.splitlines()
    assert first.startswith("ok   gatepass configuration: ")
    assert first.endswith("f.yaml is valid: 2 upstreams, 0 credentials, 2 keys")
    return [re.sub(r" \(\d+\.\d\d s\)$", "", line) for line in others]  # a slow machine takes 5 ms for a step


@pytest.mark.parametrize(
    ("outcome", "code", "mark"),
    [
        (StepOutcome.WORKS, 0, "ok  "),
        (StepOutcome.UNPROVEN, 0, "????"),
        (StepOutcome.SKIPPED, 0, "skip"),
        (StepOutcome.FAILS, 1, "FAIL"),
    ],
)
def test_every_step_is_one_line_and_only_a_failing_one_is_exit_1(doctor, found, outcome, code, mark):
    found.findings += [Step("credential:c", "token", outcome, "what was found", "Do this."), WORKING]
    result = doctor()
    assert (result.exit_code, steps_of(result), result.stderr) == (
        code,
        [
            f"{mark} credential:c token: what was found. Do this.",
            "ok   upstream:chat models: answers",
        ],
        "" if code else f"{NOT_CALLED}\n",
    )
    assert (found.models, found.calls) == ([None], [])


def test_json_is_one_document_with_the_result_and_the_steps(doctor, found):
    found.findings += [WORKING, Step("upstream:spare", "tls", StepOutcome.FAILS, "expired", "Renew it.")]
    result = doctor("--json")
    document = json.loads(result.stdout)
    steps = document.pop("steps")
    assert (result.exit_code, document) == (1, {"exit_code": 1, "failed": ["upstream:spare tls"]})
    assert [step["what"] for step in steps] == ["configuration", "models", "tls"]
    assert steps[-1].pop("seconds") >= 0
    assert steps[-1] == {
        "hop": "upstream:spare",
        "what": "tls",
        "outcome": "fails",
        "why": "expired",
        "advice": "Renew it.",
        "why_zh": "",
        "advice_zh": "",
        "error": "",
        "model": "",
        "proves": True,
    }


def test_model_limits_the_test_to_its_route_and_is_called_only_on_request(doctor, found):
    found.findings.append(WORKING)
    assert doctor("gpt-4o").exit_code == 0
    assert (found.models, found.calls) == (["gpt-4o"], [])
    assert doctor("gpt-4o", "--call", "--operation", "embeddings").exit_code == 0
    assert found.calls == [ProbeCall("embeddings", "gpt-4o")]


def test_a_model_without_a_route_is_refused(doctor):
    result = doctor("gpt-9")
    assert result.exit_code == 1
    assert "refused: 404 model_not_found: " in result.stdout


@pytest.mark.parametrize(
    ("models", "blocks", "operation"),
    [
        ("m: {upstream: chat}", "", "chat"),
        ("m: {upstream: chat, capabilities: {dimensions: 384}}", "", "embeddings"),
        ("m: {upstream: chat, capabilities: {kind: rerank}}", "", "rerank"),
        ("'m*': {upstream: chat, capabilities: {kind: embedding}}", "", "embeddings"),
        ("m: {upstream: chat}", "operations: {embeddings: {upstream: spare, model: m}}\n", "embeddings"),
        ("'*': {upstream: chat}", "operations: {rerank: {upstream: spare, model: m}}\n", "rerank"),
    ],
)
def test_a_model_is_called_for_what_it_is_declared_for(doctor, found, models, blocks, operation):
    upstreams = "chat: {base_url: 'https://llm.example/v1'}, spare: {base_url: 'https://spare.example/v1'}"
    text = f"upstreams: {{{upstreams}}}\nmodels: {{{models}}}\n{blocks}"
    found.findings.append(WORKING)
    assert doctor("m", "--call", text=text).exit_code == 0
    streamed = [ProbeCall(operation, "m", stream=True)] if operation == "chat" else []
    assert found.calls == [ProbeCall(operation, "m"), *streamed]


def test_without_a_model_the_first_declared_one_of_each_operation_is_called(doctor, found):
    text = (
        "upstreams: {chat: {base_url: 'https://llm.example/v1'}}\n"
        "models:\n  a: {upstream: chat}\n  b: {upstream: chat}\n  '*': {upstream: chat}\n"
        "  voice: {upstream: chat, capabilities: {kind: tts}}\n"
        "  vectors: {upstream: chat, capabilities: {kind: embedding}}\n"
    )
    found.findings.append(WORKING)
    assert doctor("--call", text=text).exit_code == 0
    assert found.calls == [
        ProbeCall("chat", "a"),
        ProbeCall("chat", "a", stream=True),
        ProbeCall("embeddings", "vectors"),
    ]


@pytest.mark.parametrize(
    "findings",
    [
        [Step("credential:c", "token", StepOutcome.SKIPPED, "kept nowhere")],
        [CONFIGURED, Step("upstream:chat", "models", StepOutcome.UNPROVEN, "open to everybody")],
        [Step("upstream:chat", "connect", StepOutcome.WORKS, "accepts connections", proves=False)],
    ],
    ids=["all skipped", "a key that nobody asked for", "a port alone"],
)
def test_a_check_that_proved_nothing_is_exit_4_and_reports_it(doctor, found, findings):
    found.findings += findings
    result = doctor()
    assert (result.exit_code, result.stderr) == (4, "nothing failed, and nothing was proven: exit code 4\n")
    found.findings.append(WORKING)
    assert doctor().exit_code == 0
    found.findings.append(Step("upstream:spare", "tls", StepOutcome.FAILS, "down"))
    assert doctor().exit_code == 1


def test_each_step_is_printed_as_soon_as_it_is_known(tmp_path, monkeypatch, capsys):
    (tmp_path / "f.yaml").write_text(FILE)
    seen = []

    async def diagnose(config, calls, **_):
        yield WORKING
        seen.append(capsys.readouterr().out)
        yield Step("upstream:spare", "models", StepOutcome.WORKS, "answers")

    monkeypatch.setattr(gatepass.cli.steps, "diagnose", diagnose)
    with pytest.raises(SystemExit):
        main(["doctor", "--config", str(tmp_path / "f.yaml")])
    assert [text.splitlines()[-1] for text in seen] == ["ok   upstream:chat models: answers"]


def test_no_log_line_is_printed_between_the_steps(doctor, monkeypatch):
    async def diagnose(config, calls, **_):
        logging.getLogger("gatepass.tokens").warning("token_fetch_failed")
        yield WORKING

    monkeypatch.setattr(gatepass.cli.steps, "diagnose", diagnose)
    for name in (None, "gatepass"):  # as in a separate process: then the last resort is stderr
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
    result = doctor()
    assert (steps_of(result), result.stderr) == (["ok   upstream:chat models: answers"], f"{NOT_CALLED}\n")


def test_terminal_shows_the_step_that_runs(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    report = Report(as_json=False)
    report.begin("upstream:chat", "tls")
    assert capsys.readouterr().err == "waiting for upstream:chat tls"
    report.add(WORKING)
    assert capsys.readouterr() == ("ok   upstream:chat models: answers\n", "\r\x1b[K")


def test_a_terminal_shows_a_long_step_in_lines_of_its_width(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    report = Report(as_json=False)
    report.add(WORKING)
    why = "No connection to llm.corp.example (connection refused)."
    advice = "Check the host and port in upstreams.chat.base_url, and whether it is up."
    report.add(Step("upstream:chat", "connect", StepOutcome.FAILS, why, advice))
    assert capsys.readouterr().out.splitlines() == [
        "ok   upstream:chat models: answers",
        "FAIL upstream:chat connect: No connection to",
        "     llm.corp.example (connection refused). Check the host",
        "     and port in upstreams.chat.base_url, and whether it is",
        "     up.",
    ]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_server_controls_neither_the_terminal_nor_the_lines(capsys, as_json):
    report = Report(as_json=as_json)
    report.add(
        Step("upstream:chat", "call", StepOutcome.FAILS, "a\x1b[2J\x9b31m\r\nok   fake\u2028b\u202e", "c\x07\nd")
    )
    report.finish()
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    assert ["ok   fake b" in line for line in lines].count(True) == 1


def test_a_failed_step_is_explained_in_chinese_where_the_locale_is_chinese(monkeypatch):
    texts = "500: boom", "Retry later.", "上游自身出错。", "稍后重试。"
    step = Step("upstream:chat", "call", StepOutcome.FAILS, *texts, error="upstream_error")
    assert line_of(step) == "FAIL upstream:chat call: 500: boom. Retry later."
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert line_of(step) == "FAIL upstream:chat call: 上游自身出错。处理：稍后重试。原文：500: boom"
    listed = probe.found("upstream:mcp/a", "tools", StepOutcome.WORKS, "lists_tools", tools="x", count=2, names="a、b")
    assert line_of(listed) == "ok   upstream:mcp/a tools: 列出 2 个工具：a、b"
    unlisted = replace(step, why_zh="模型列表中没有 m", advice_zh="修正模型的名称。", error="")
    assert line_of(unlisted) == "FAIL upstream:chat call: 模型列表中没有 m。修正模型的名称。"
