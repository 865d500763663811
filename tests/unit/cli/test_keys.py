import json
import os
import re
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from gatepass.cli.keys import keys
from gatepass.config.access import hash_key
from gatepass.config.document import lookup
from gatepass.config.environment import read_environment
from gatepass.config.load import load
from gatepass.config.yaml_file import parse_yaml

HEAD = "upstreams: {u: {base_url: 'https://x'}}\naccess:\n  keys:\n"
ONES, TWOS = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def run(*arguments, env=None):
    return CliRunner().invoke(keys, list(map(str, arguments)), env=env)


def file_of(tmp_path, text):
    file = tmp_path / "gatepass.yaml"
    file.write_text(text)
    return file


def test_both_forms_of_a_new_key_mean_the_same_entry(tmp_path):
    options = ("--name", "grafana", "--role", "viewer", "--profile", "dify", "--expires", "2099-01-31T18:00:00+01:00")
    result = run("new", *options, "--operation", "chat", "--operation", "files")
    (line,) = re.findall(r"^ +- .*$", result.output, re.MULTILINE)
    (variable,) = re.findall(r"GATEPASS_KEY_HASHES=(.*)", result.output)
    tree = parse_yaml("", f"{HEAD}{line}\n").tree
    by_variable = read_environment({"GATEPASS_UPSTREAM_URL": "https://x", "GATEPASS_KEY_HASHES": variable}).tree
    assert lookup(by_variable, ("access", "keys")) == lookup(tree, ("access", "keys"))
    (entry,) = load(str(file_of(tmp_path, f"{HEAD}{line}\n")), {}).config.access.keys
    assert (entry.role, entry.profile, entry.expires) == ("viewer", "dify", datetime(2099, 1, 31, 17, tzinfo=UTC))


@pytest.mark.parametrize("typed", ["open_webui", "OPEN-WEBUI", "OpenWebUI", "Open WebUI", "open web ui"])
def test_a_profile_is_named_in_any_case_with_or_without_hyphens(tmp_path, typed):
    (line,) = re.findall(r"^ +- .*$", run("new", "--profile", typed).stdout, re.MULTILINE)
    (entry,) = load(str(file_of(tmp_path, f"{HEAD}{line}\n")), {}).config.access.keys
    assert entry.profile == "open_webui"


def test_a_key_of_a_group_is_written_if_the_group_exists(tmp_path):
    file = file_of(
        tmp_path, f"{HEAD}    - {{name: a, hash: '{ONES}'}}\n  groups: {{team: {{limits: {{max_concurrent: 4}}}}}}\n"
    )
    assert "no groups of a key: use a file" in run("new", "--group", "team").stdout
    assert "would not be valid" in run("new", "--group", "none", "--write", "--config", file).stderr
    assert run("new", "--group", "team", "--write", "--config", file).exit_code == 0
    assert load(str(file), {}).config.access.keys[1].group == "team"


SEVERAL = f"""{HEAD}    # the old one
    - {{name: rag, profile: ragflow, hash: "{ONES}", expires: {{soon}}}}   # until all clients have the next
    # the next one
    - {{name: rag, profile: ragflow, hash: "{TWOS}"}}

    # by reference
    - name: chat
      role: admin
      key: "${{CHAT}}"
      models: [gpt-*, m]
      expires: 2020-01-31   # over
log: {{format: text}}   # kept
"""
CHAT = {"CHAT": "gp-0123456789abcdef-chat"}


def test_the_list_shows_each_key_with_its_state(tmp_path):
    soon = (datetime.now(UTC) + timedelta(days=3)).date()
    file = file_of(tmp_path, SEVERAL.replace("{soon}", str(soon)))
    result = run("list", "--config", file, env=CHAT)
    assert (result.exit_code, CHAT["CHAT"] in result.output) == (0, False)
    assert re.search(rf"^rag .* {soon}T00:00:00Z .* expires soon +11111111$", result.stdout, re.MULTILINE)
    rows = json.loads(run("list", "--config", file, "--json", env=CHAT).stdout)
    assert [(row["name"], row["state"], row["hash"], row["reference"]) for row in rows] == [
        ("rag", "expires soon", ONES, None),
        ("rag", "valid", TWOS, None),
        ("chat", "expired", None, "${CHAT}"),
    ]
    assert rows[2]["models"] == ["gpt-*", "m"]


def test_the_list_shows_no_models_for_a_key_of_mcp_servers_alone(tmp_path):
    servers = "mcp: {s: {url: 'https://x/mcp'}}\n"
    keys = f'access: {{keys: [{{name: a, hash: "{ONES}", operations: [], mcp: [s]}}]}}\n'
    result = run("list", "--config", file_of(tmp_path, servers + keys))
    assert " ".join(result.stdout.splitlines()[1].split()) == "a caller plain never none none s valid 11111111"


@pytest.mark.parametrize(
    ("role", "expected"), [("viewer", "all but files,batches"), ("caller", "all but stored objects")]
)
def test_the_list_says_that_the_only_caller_may_use_stored_responses(tmp_path, role, expected):
    keys = f"    - {{name: a, hash: '{ONES}'}}\n    - {{name: b, role: {role}, hash: '{TWOS}'}}\n"
    result = run("list", "--config", file_of(tmp_path, HEAD + keys))
    assert " ".join(result.stdout.splitlines()[1].split()) == f"a caller plain never all {expected} valid 11111111"


WRITABLE = {
    "a block": f"""{HEAD}    # the first
    - {{name: a, hash: "{ONES}"}}   # old
# the log
log: {{format: text}}
""",
    "a block of blocks": f"""upstreams: {{u: {{base_url: 'https://x'}}}}
access:
  keys:
  - name: a   # the name
    hash: {ONES}
    models:
      - m   # the last one

  # after the keys
  metrics_open: false
""",
    "the end of the file, without its newline": f'{HEAD}    - {{name: a, hash: "{ONES}"}}',
    "a comment of the last entry": f"""{HEAD}    - name: a
      hash: {ONES}

      # until all clients have the next

    # the next one
log: {{format: text}}
""",
    "an empty last value": (
        f"{HEAD}    - name: a\n      hash: {ONES}\n      mcp:\n        s:\nmcp: {{s: {{url: 'https://x/mcp'}}}}\n"
    ),
    "one line": f"upstreams: {{u: {{base_url: 'https://x'}}}}\naccess: {{keys: [{{name: a, hash: '{ONES}'}}]}} # all\n",
    "several lines in brackets": (
        f"upstreams: {{u: {{base_url: 'https://x'}}}}\naccess:\n  keys: [\n"
        f"    {{name: a, hash: '{ONES}'}},   # a\n  ]\n"
    ),
    "Windows": f'{HEAD}    - {{name: a, hash: "{ONES}"}}\n# end\n'.replace("\n", "\r\n"),
    "a byte order mark": f'\ufeff{HEAD}    - {{name: a, hash: "{ONES}"}}\n# end\n',
}


@pytest.mark.parametrize("text", WRITABLE.values(), ids=WRITABLE)
def test_write_adds_the_entry_and_keeps_every_byte_of_the_file(tmp_path, text):
    file = tmp_path / "gatepass.yaml"
    file.write_bytes(text.encode())
    file.chmod(0o640)
    mask = os.umask(0o077)
    try:
        result = run("new", "--name", "second", "--profile", "dify", "--write", "--config", file)
    finally:
        os.umask(mask)
    assert (result.exit_code, "cannot" in result.output) == (0, False), result.output
    (key,) = re.findall(r"gp-\S+", result.output)
    keys = load(str(file), {}).config.access.keys
    assert [(entry.name, entry.profile) for entry in keys] == [("a", None), ("second", "dify")]
    assert keys[1].hash == hash_key(key)
    assert key not in file.read_text()
    added = f'{{name: "second", profile: "dify", hash: "{hash_key(key)}"}}'
    newline = "\r\n" if "\r" in text else "\n"
    indent = text[: text.index("- ")].rpartition("\n")[2] if "- " in text else ""
    line = f"{indent}- {added}{newline}"
    after = file.read_bytes().decode()
    assert text in [after.replace(addition, "") for addition in (f", {added}", line, f"{newline}{line}")]
    assert file.stat().st_mode & 0o777 == 0o640
    assert f"added to access.keys in {file}" in result.output
    assert [entry.name for entry in tmp_path.iterdir()] == ["gatepass.yaml"]


def test_write_adds_to_a_json_file_and_says_so_as_json(tmp_path):
    file = tmp_path / "gatepass.json"
    first = {"name": "a", "hash": ONES}
    document = {"upstreams": {"u": {"base_url": "https://x"}}, "access": {"keys": [first]}}
    file.write_text(json.dumps(document, indent=2))
    made = json.loads(run("new", "--write", "--json", "--config", file).stdout)
    assert made["written"] == str(file)
    assert json.loads(file.read_text())["access"]["keys"] == [first, made["entry"]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"upstreams": {"u": {"base_url": "https://x"}}}\n', "has a form that gatepass cannot change"),
        ("upstreams: {u: {base_url: 'https://x'}}\n...\n", "has a form that gatepass cannot change"),
        (f"{HEAD.removesuffix(chr(10))} &k\n    - {{name: a, hash: '{ONES}'}}\n", "and change the file yourself"),
        (
            f"x: &k\n  - {{name: a, hash: '{ONES}'}}\n{HEAD.replace('keys:', 'keys: *k')}",
            "has a form that gatepass cannot change",
        ),
    ],
)
def test_write_refuses_what_it_cannot_change_and_makes_no_key(tmp_path, text, reason):
    file = file_of(tmp_path, text)
    result = run("new", "--write", "--config", file)
    assert (result.exit_code, "gp-" in result.output) == (2, False)
    assert result.stderr.startswith("--write: ")
    assert reason in result.stderr
    assert file.read_text() == text


def test_write_makes_no_key_that_differs_from_its_caller_s_beside_an_unset_variable(tmp_path):
    keys = f"    - {{name: ragflow, hash: '{ONES}', profile: ragflow}}\n"
    file = file_of(tmp_path, f"credentials: {{c: {{type: static, token: '${{UNSET}}'}}}}\n{HEAD}{keys}")
    result = run("new", "--name", "ragflow", "--profile", "dify", "--write", "--config", file)
    assert (result.exit_code, "gp-" in result.output) == (2, False)
    assert "access.keys[1].profile: differs from access.keys[0]" in result.stderr
    same = run("new", "--name", "ragflow", "--profile", "ragflow", "--write", "--config", file)
    assert same.exit_code == 0, same.output


OF_TEAM = """{name: team-a, hash: "HASH", profile: ragflow, group: team, models: [m, "gpt-*"], operations: [chat],
      weight: 3, limits: {requests: {minute: 9}}, end_users: {header: x-user, limits: {max_concurrent: 2}}}
"""


@pytest.mark.parametrize(
    ("entry", "copied"),
    [
        (OF_TEAM, ["models", "operations", "profile", "group", "limits", "weight", "end_users"]),
        ("{name: team-a, hash: HASH, mcp: {s: [find]}, operations: []}\n", ["operations", "mcp"]),
        ("{name: team-a, hash: HASH, role: admin}\n", ["role"]),
    ],
)
@pytest.mark.parametrize("options", [(), ("--expires", "90d")])
def test_write_gives_another_key_of_a_caller_its_settings_and_says_which(tmp_path, entry, copied, options):
    """It refused each of these, because all keys of a caller need the same settings."""
    groups = "  groups: {team: {limits: {max_concurrent: 4}}}\nmcp: {s: {url: 'https://x/mcp'}}\n"
    file = file_of(tmp_path, f"{HEAD}    - {entry.replace('HASH', ONES)}{groups}")
    result = run("new", "--name", "team-a", *options, "--write", "--config", file)
    assert result.exit_code == 0, result.output
    assert f"It has the settings of the first key of 'team-a': {', '.join(copied)}.\n" in result.stdout
    first, second = load(str(file), {}).config.access.keys
    assert first.model_dump(exclude={"hash", "expires"}) == second.model_dump(exclude={"hash", "expires"})
    assert (second.hash != first.hash, second.expires is not None) == (True, bool(options))


def test_another_name_gets_no_settings(tmp_path):
    file = file_of(tmp_path, f"{HEAD}    - {{name: a, hash: '{ONES}', profile: ragflow}}\n")
    result = run("new", "--name", "b", "--write", "--config", file)
    assert "settings of" not in result.stdout
    assert load(str(file), {}).config.access.keys[1].profile is None


@pytest.mark.parametrize("fault", ["serverr: {}", "credentials: {c: {type: static}}", "server: {port: 70000}"])
def test_write_changes_no_file_that_a_reload_would_refuse(tmp_path, fault):
    file = file_of(tmp_path, f"{fault}\n{HEAD}")
    result = run("new", "--write", "--config", file)
    assert (result.exit_code, "gp-" in result.output) == (2, False)
    assert f"--write: {file} would not be valid: {fault.partition(':')[0]}" in result.stderr
    assert file.read_text() == f"{fault}\n{HEAD}"


@pytest.mark.parametrize("rest", ["", "  metrics_open: false   # later\n", "    # - {name: a}\n"])
def test_write_adds_the_first_entry_where_keys_are_empty(tmp_path, rest):
    file = file_of(tmp_path, HEAD + rest)
    result = run("new", "--write", "--config", file)
    assert result.exit_code == 0, result.output
    (entry,) = load(str(file), {}).config.access.keys
    assert file.read_text().startswith(f'{HEAD}    - {{name: "client", hash: "{entry.hash}"}}\n')
    assert rest in file.read_text()


@pytest.mark.parametrize("text", ["", "\naccess: {keys: []}   # none yet\n", "# access: none\n"])
def test_write_adds_the_first_key_and_says_what_changes_for_clients(tmp_path, text):
    file = file_of(tmp_path, f"upstreams: {{u: {{base_url: 'https://x'}}}}\n{text}")
    result = run("new", "--write", "--config", file)
    assert result.exit_code == 0, result.output
    assert [key.name for key in load(str(file), {}).config.access.keys] == ["client"]
    assert (
        "It is the first key: from the next start or reload on, gatepass rejects clients without a key.\n"
        in result.stdout
    )
    assert "first key" not in run("new", "--name", "b", "--write", "--config", file).stdout


@pytest.mark.parametrize(("issuers", "counted"), [(1, "1 issuer"), (2, "2 issuers")])
def test_the_list_without_keys_says_who_is_served(tmp_path, issuers, counted):
    row = "audience: gatepass, callers: [{claim: roles, contains: llm, name: people}]"
    jwt = ", ".join(f"{{issuer: 'https://{one}.example', {row}}}" for one in range(issuers))
    text = f"upstreams: {{u: {{base_url: 'https://x'}}}}\naccess: {{jwt: [{jwt}]}}\n"
    result = run("list", "--config", file_of(tmp_path, text))
    assert result.stdout == f"There are no keys: gatepass serves only clients with a token of {counted}.\n"


GROUPS = "groups: {team: {limits: {max_concurrent: 4}}}"


@pytest.mark.parametrize(
    "text",
    [
        "access: {}   # later\n",
        f"access: {{{GROUPS}}}\n",
        f"access: {{{GROUPS}, metrics_open: true}}\nlog: {{format: text}}\n",
        f"access:\n  # all\n  {GROUPS}  # one\n  # end\nlog: {{format: text}}\n",
        "access:\n    groups:\n        team:\n            limits:\n                max_concurrent: 4\n",
        f"access:\r\n  {GROUPS}\r\nlog: {{format: text}}\r\n",
        "access:\n  # keys: none\nlog: {format: text}\n",
        (
            "access:\n  jwt:\n  - issuer: https://login.example\n    audience: gatepass\n    callers:\n"
            "    - {claim: roles, contains: llm, name: people}\n"
        ),
    ],
)
def test_write_adds_the_keys_to_an_access_without_any(tmp_path, text):
    file = file_of(tmp_path, text := f"upstreams: {{u: {{base_url: 'https://x'}}}}\n{text}")
    for name in ("first", "second"):
        result = run("new", "--name", name, "--write", "--config", file)
        assert result.exit_code == 0, result.output
        # with issuers of tokens, clients need a credential already
        assert ("rejects clients" in result.stdout) == (name == "first" and "jwt" not in text)
    access = load(str(file), {}).config.access
    assert [key.name for key in access.keys] == ["first", "second"]
    assert (bool(access.groups), bool(access.jwt)) == ("groups" in text, "jwt" in text)
    assert [line for line in text.splitlines() if line not in file.read_text().splitlines() and "{" not in line] == []
    assert all(comment in file.read_text() for comment in re.findall("#.*", text))


@pytest.mark.parametrize("access", [{}, {"groups": {"team": {"limits": {"max_concurrent": 4}}}}])
def test_write_adds_the_keys_to_a_json_file_without_any(tmp_path, access):
    file = tmp_path / "gatepass.json"
    file.write_text(json.dumps({"upstreams": {"u": {"base_url": "https://x"}}, "access": access}, indent=2))
    made = json.loads(run("new", "--write", "--json", "--config", file).stdout)
    assert json.loads(file.read_text())["access"] == {**access, "keys": [made["entry"]]}


def test_write_changes_no_file_that_is_read_only(tmp_path):
    """Also as root, which may write to every file."""
    file = file_of(tmp_path, WRITABLE["a block"])
    file.chmod(0o444)
    result = run("new", "--write", "--config", file)
    assert f"{file} is read-only (mode 0444): run `chmod u+w` on it first" in result.stderr
    assert (result.exit_code, "gp-" in result.output) == (2, False)
    assert file.read_text() == WRITABLE["a block"]


@pytest.mark.parametrize(("value", "hours"), [("90d", 2160), ("12h", 12)])
def test_a_duration_is_an_expiry(value, hours):
    before = datetime.now(UTC).replace(microsecond=0)
    expires = json.loads(run("new", "--json", "--expires", value).stdout)["entry"]["expires"]
    assert before <= datetime.fromisoformat(expires) - timedelta(hours=hours) <= datetime.now(UTC)
