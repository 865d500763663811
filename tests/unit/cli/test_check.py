import json
from functools import partial

import pytest

from gatepass import __version__
from tests.unit.cli.command_line import run_on


@pytest.fixture
def check(tmp_path):
    return partial(run_on, tmp_path / "f.yaml", "check")


def test_the_effective_configuration_is_shown(check, tmp_path):
    result = check(environment={"GATEPASS_PORT": "9"})
    assert result.exit_code == 0
    assert "  port: 9  # environment GATEPASS_PORT\n" in result.output
    assert f"    base_url: https://llm.example/v1  # {tmp_path}/f.yaml:2\n" in result.output


def test_an_empty_block_that_turns_something_on_is_shown(check):
    """`check` left `breaker: {}` out with its defaults, as if the model had no breaker."""
    text = "upstreams: {a: {base_url: https://a.example/v1}}\nmodels: {m: {upstream: a, breaker: {}}}\n"
    assert "    breaker: {}  # " in check(text=text).stdout
    assert "    breaker:\n      consecutive_failures: 5  # default\n" in check("--all", text=text).stdout
    assert '"models.m.breaker"' in check("--json", text=text).stdout


def test_defaults_are_shown_on_demand_and_counted_in_the_last_line(check):
    some, every = check(), check("--all")
    assert "# default" not in some.stdout
    left_out = every.stdout.count("  # default\n")
    counted = "# valid: 2 upstreams, 0 credentials, 2 keys"
    assert some.stdout.splitlines()[-1] == f"{counted}; {left_out} defaults are left out, --all shows them"
    assert every.stdout.splitlines()[-1] == counted


def test_a_credential_that_no_upstream_names_is_warned_of(check):
    result = check(
        text="upstreams: {a: {base_url: 'https://x/v1', credential: used}}\n"
        "mcp: {b: {url: 'https://y/mcp', credential: tools}}\n"
        "credentials: {used: {type: static, token: k-1}, idle: {type: static, token: k-2},"
        " tools: {type: static, token: k-3}}\n"
    )
    assert result.exit_code == 0
    assert "warning: credentials.idle: no upstream uses it" in result.stderr.splitlines()
    assert "credentials.tools" not in result.stderr
    assert "credentials.used" not in result.stderr
    assert result.stdout.splitlines()[-1].startswith("# valid: 1 upstream, 1 MCP server, 3 credentials, 0 keys; ")


def test_a_credential_whose_token_another_one_exchanges_is_not_idle(check):
    result = check(
        text="upstreams: {a: {base_url: 'https://x/v1', credential: corp}}\n"
        "credentials: {corp: {type: oauth2, token_url: 'https://sso/token', client_auth: none, client_id: i,"
        " grant_type: token_exchange, subject_credential: machine}, machine: {type: static, token: k-1}}\n"
    )
    assert result.exit_code == 0
    assert "no upstream uses it" not in result.stderr


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ("models: {gpt-4o: {upstream: a}}", True),
        (
            "models: {'text-*': {upstream: a}}\noperations: {embeddings: {timeouts: {idle_s: 5}}}",
            True,
        ),
        ("models: {gpt-4o: {upstream: a}, '*': {upstream: a}}", False),
        ("models: {gpt-4o: {upstream: a}}\noperations: {chat: {upstream: a}}", False),
        ("", False),
    ],
)
def test_models_that_exclude_all_others_are_pointed_out(check, blocks, expected):
    result = check(text=f"upstreams: {{a: {{base_url: 'https://x/v1'}}}}\n{blocks}\n")
    assert ("# every model that `models` does not name is 404" in result.stdout) == expected
    assert result.exit_code == 0


def test_warnings_go_to_stderr(check):
    result = check(environment={"HTTPS_PROXY": "http://p:1"})
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: HTTPS_PROXY is set")
    assert "HTTPS_PROXY" not in result.stdout


CONTROLS = r"\x1b]0;x\x07\x9b31m\u202e\U000e0001"


def test_a_name_cannot_control_the_terminal_in_a_problem(check):
    result = check(text=f'upstreams: {{"{CONTROLS}": {{}}}}\n"{CONTROLS}": 5\n')
    lines = result.stderr.split("\n")
    assert (result.exit_code, result.stdout, len(lines)) == (2, "", 4)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("command", [("check",), ("route", f"m{CONTROLS}".encode().decode("unicode_escape"))])
def test_a_name_cannot_control_the_terminal(tmp_path, command):
    """The listing of `check` has the escapes of YAML, so that it can be read again."""
    blocks = f'models: {{"m{CONTROLS}": {{upstream: chat, name: "n{CONTROLS}"}}}}\n'
    result = run_on(tmp_path / "f.yaml", *command, text="upstreams: {chat: {base_url: 'https://x/v1'}}\n" + blocks)
    assert all(line.isprintable() for line in result.output.split("\n"))
    assert result.exit_code == 0


def test_a_file_that_is_no_certificate_is_refused_with_its_setting(tmp_path):
    (tmp_path / "ca.pem").write_text("garbage")
    text = f"upstreams: {{chat: {{base_url: 'https://llm.example/v1', network: {{ca_file: {tmp_path}/ca.pem}}}}}}\n"
    for command in ("check", "serve"):
        result = run_on(tmp_path / "f.yaml", command, text=text)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"{tmp_path}/f.yaml:1: upstreams.chat.network.ca_file: holds no PEM")


def test_json_lists_each_value_with_its_origin_and_the_warnings(check, tmp_path):
    result = check("--json", environment={"GATEPASS_PORT": "9", "HTTPS_PROXY": "http://p:1"})
    document = json.loads(result.stdout)
    assert (result.exit_code, result.stderr, document["valid"]) == (0, "", True)
    assert {"setting": "server.port", "value": 9, "origin": "environment GATEPASS_PORT"} in document["settings"]
    assert all(setting["origin"] != "default" for setting in document["settings"])
    assert document["warnings"][0].startswith("HTTPS_PROXY is set")
    assert len(json.loads(check("--json", "--all").stdout)["settings"]) > len(document["settings"])


def test_json_of_an_invalid_configuration_lists_its_problems(check, tmp_path):
    result = check("--json", text="upstreams: {a: {}}\nserver: {port: 99999}\n")
    source = str(tmp_path / "f.yaml")
    assert (result.exit_code, json.loads(result.stdout)) == (
        2,
        {
            "valid": False,
            "problems": [
                {"source": source, "line": 1, "setting": "upstreams.a.base_url", "problem": "is missing"},
                {"source": source, "line": 2, "setting": "server.port", "problem": "expects 65535 or less"},
            ],
        },
    )


def test_json_hides_secrets(check):
    text = (
        "upstreams: {a: {base_url: 'https://x/v1', credential: c}}\n"
        "credentials: {c: {type: http_json, url: 'https://portal.example/t?key=topsecret', json: {s: topsecret}}}\n"
    )
    result = check("--json", "--all", text=text)
    assert result.exit_code == 0
    assert "topsecret" not in result.output


def test_the_program_of_an_exec_credential_is_not_run(tmp_path):
    """An argument with a reference is resolved, the program is not started."""
    ran, file = tmp_path / "ran", tmp_path / "f.yaml"
    text = (
        "upstreams: {a: {base_url: 'https://x/v1', credential: own}}\n"
        f"credentials: {{own: {{type: exec, command: ['/bin/touch', '{ran}', '${{WORD}}']}}}}\n"
    )
    for arguments in ((), ("--all",), ("--json",)):
        assert run_on(file, "check", *arguments, text=text, environment={"WORD": f"{ran}-too"}).exit_code == 0
    assert sorted(tmp_path.iterdir()) == [file]


def test_from_prints_what_changed_since_a_version(check):
    result = check("--from", "0.0")
    assert result.exit_code == 0
    assert "changed in 0.1.0: limits.held_bytes (default): It limits all bytes" in result.stderr
    assert "changed in 0.1.0: access.keys[0].operations (new): " in result.stderr
    assert "server.watch" not in result.stderr, "the file does not set it"
    assert result.stdout == check().stdout


def test_from_this_version_reports_that_nothing_changed(check):
    text = f"no change of a setting since {__version__} concerns this configuration\n"
    assert check("--from", __version__).stderr.endswith(text)
    assert json.loads(check("--json", "--from", __version__).stdout)["changes"] == []


def test_from_has_its_place_in_the_json(check):
    document = json.loads(check("--json", "--from", "0.0").stdout)
    found = {change["setting"]: change for change in document["changes"]}
    assert found["limits.held_bytes"]["version"] == "0.1.0"
    assert found["limits.held_bytes"]["kind"] == "default"
    assert "changes" not in json.loads(check("--json").stdout)
