"""A setting that this minor version removed is ignored, and a warning names what to do."""

import pytest

from gatepass.config.changes import REJECTED, REMOVED
from gatepass.config.document import ConfigError
from gatepass.config.environment import unknown_variables
from gatepass.config.load import load
from gatepass.config.wording import all_settings


def test_no_setting_that_was_removed_exists():
    assert not all_settings().keys() & {tuple(setting.split(".")) for setting in REMOVED}
    # gatepass drops members of blocks, and an item of a list would change the indexes of the others
    assert not any(setting.endswith("*") for setting in REMOVED)
    assert REMOVED.keys() >= REJECTED


@pytest.mark.parametrize("kind", ["", "type: oauth3"])
def test_a_preset_is_the_first_problem_of_its_file_with_and_without_a_type(tmp_path, kind):
    path = tmp_path / "gatepass.yaml"
    path.write_text(f"upstreams: {{a: {{base_url: x}}}}\ncredentials:\n  c:\n    preset: huawei\n    {kind}\n")
    with pytest.raises(ConfigError) as raised:
        load(str(path), {})
    first, *others = raised.value.problems
    assert str(first).startswith(f"{path}:4: credentials.c.preset: was removed in 0.2.0: Write the request itself")
    assert others == sorted(others, key=lambda problem: problem.origin)
    assert not any("preset" in problem.path for problem in others)


def test_a_value_that_was_removed_has_its_sentence(tmp_path):
    path = tmp_path / "gatepass.yaml"
    block = "type: oauth2, token_url: 'https://s.example/t', client_id: i, client_secret: s, client_auth: secret_jwt"
    path.write_text(f"upstreams: {{a: {{base_url: 'https://a.example/v1'}}}}\ncredentials: {{token: {{{block}}}}}\n")
    with pytest.raises(ConfigError) as raised:
        load(str(path), {})
    assert [problem.text for problem in raised.value.problems] == [
        "'secret_jwt' was removed in 0.2.0: Use `basic`, `form` or `private_key_jwt`, or a program (`type: exec`)"
    ]


def test_warnings_are_in_the_order_of_the_lines_and_name_no_setting_that_is_there(tmp_path):
    path = tmp_path / "gatepass.yaml"
    path.write_text(
        "profiles:\n  a: {extends: ragflow, typed_ids: false}\n  b: {extends: dify, typed_ids: true}\n"
        "  c: {extends: librechat, drop_null: []}\n"
        "log: {bodies: true}\nupstreams: {a: {base_url: 'https://a.example/v1'}}\n"
    )
    found = [one.removeprefix(f"{path}:").split(": ", 2)[::2] for one in load(str(path), {}).warnings]
    assert [line for line, _ in found] == ["2", "3", "4", "5"]
    starts = ["Remove it: `extends: ragflow` has it. A later", "Set `extends: ragflow`", "List the", "Run `gatepass"]
    for (_, text), start in zip(found, starts, strict=True):
        assert text.startswith(f"was removed in 0.2.0: {start}")


OLDER = """\
log: {bodies: true}
limits: {unauthenticated_connections: 5, mcp_streams: 9, upload_bytes_per_s: 9}
tracing: {service_name: x}
credentials:
  a: {type: exec, command: [x], inherit: [PATH], exec_credential: true}
  b: {type: static, token: ttttttttttttttttt, sign: {}, apikey: k, domain: d, project: p}
  c: {type: oauth2, token_url: "https://s.example/t", client_id: i, client_secret: s, assertion_type: x,
      subject_token_type: jwt, role_session_name: r, sts_url: x}
upstreams:
  u:
    base_url: https://u.example/v1
    rejection: {login_hosts: [], login_page: false}
    repair: {one_id: true, without_choices: true}
mcp: {m: {url: "https://m.example", rejection: {login_hosts: [], login_page: true}}}
profiles:
  p: {drop_null: [], drop_for: {}, plain_tools: true, whole_numbers: true, envelope: true, places_usage: true,
      splits_finish: true, fills_choices: true, only_chunks: true, plain_events: true, rewords_errors: true,
      unwraps_keys: true, typed_ids: true}
models:
  m: {targets: [{upstream: u}], suggest: other}
"""


def test_an_older_file_with_the_removed_settings_loads_with_a_sentence_for_each(tmp_path):
    path = tmp_path / "gatepass.yaml"
    path.write_text(OLDER)
    warnings = load(str(path), {}).warnings
    assert f"{path}:1: log.bodies: was removed in 0.2.0: Run `gatepass capture`: it keeps whole bodies" in "\n".join(
        warnings
    )
    path.write_text(f"{OLDER}x: 1\n")
    with pytest.raises(ConfigError) as raised:  # another problem hides none of them
        load(str(path), {})
    assert set(raised.value.warnings) == {one for one in warnings if "was removed" in one}
    for setting, text in REMOVED.items():
        name = setting.rpartition(".")[2]
        found = [one for one in warnings if f".{name}: was removed in 0.2.0: {text} A later" in one]
        assert bool(found) is (setting not in REJECTED), setting


@pytest.mark.parametrize("in_file", [True, False])
def test_a_variable_of_a_removed_setting_has_its_sentence(tmp_path, in_file):
    path = tmp_path / "gatepass.yaml"
    path.write_text("upstreams: {a: {base_url: https://a.example/v1}}\n")
    environment = {"GATEPASS_LIMITS_MCP_STREAMS": "9", "GATEPASS_UPSTREAM_URL": "https://a.example/v1"}
    if in_file:
        del environment["GATEPASS_UPSTREAM_URL"]
    (warning,) = load(str(path) if in_file else None, environment).warnings
    assert warning.startswith(
        "environment GATEPASS_LIMITS_MCP_STREAMS: limits.mcp_streams was removed in 0.2.0: Set `li"
    )


def test_a_removed_setting_outside_of_limits_had_no_variable():
    (warning,) = unknown_variables({"LOG_BODIES": "1"})
    assert str(warning).startswith("environment GATEPASS_LOG_BODIES: is not a variable of gatepass; ")
