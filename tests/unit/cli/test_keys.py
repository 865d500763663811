import fcntl
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from gatepass.auth.api_keys import hash_key
from gatepass.cli.init import ClientKey, render
from gatepass.cli.keys import keys
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


def test_a_new_key_is_printed_once_with_its_hash_and_lines_to_paste(tmp_path):
    result = run("new", "--name", "rag-flow.1")
    assert result.exit_code == 0
    (key,) = re.findall(r"gp-\S+", result.output)
    (line,) = re.findall(r"^ +- .*$", result.output, re.MULTILINE)
    assert f"GATEPASS_KEY_HASHES={hash_key(key)}/name=rag-flow.1\n" in result.output
    (entry,) = load(str(file_of(tmp_path, f"{HEAD}{line}\n")), {}).config.access.keys
    assert (entry.name, entry.hash) == ("rag-flow.1", hash_key(key))


@pytest.mark.parametrize("place", ["first", "last"])
def test_printed_line_fits_into_the_file_of_init(tmp_path, place):
    (line,) = re.findall(r"^ +- .*\n", run("new", "--name", "second").output, re.MULTILINE)
    answers = {"base_url": "https://llm.corp.example/v1", "auth": "none"}
    text = render(answers, "", [ClientKey("ragflow", "ragflow", ONES)])
    head, tail = text.split("  keys:\n")
    text = f"{head}  keys:\n{line}{tail}" if place == "first" else text + line
    names = [key.name for key in load(str(file_of(tmp_path, text)), {}).config.access.keys]
    assert sorted(names) == ["ragflow", "second"]


def test_a_profile_that_the_configuration_file_declares_is_accepted(tmp_path):
    file = file_of(tmp_path, f'{HEAD}    - {{name: a, hash: "{ONES}"}}\nprofiles: {{own: {{extends: ragflow}}}}\n')
    assert run("new", "--profile", "own", "--config", file).exit_code == 0
    assert run("new", "--profile", "own", env={"GATEPASS_CONFIG": str(file)}).exit_code == 0


def test_variable_holds_only_the_hash_without_options():
    result = run("new")
    (key,) = re.findall(r"gp-\S+", result.output)
    assert result.output.endswith(f"GATEPASS_KEY_HASHES={hash_key(key)}\n")


def test_both_forms_of_a_new_key_mean_the_same_entry(tmp_path):
    options = ("--name", "grafana", "--role", "viewer", "--profile", "dify", "--expires", "2099-01-31T18:00:00+01:00")
    result = run("new", *options, "--operation", "chat", "--operation", "GET files")
    (line,) = re.findall(r"^ +- .*$", result.output, re.MULTILINE)
    (variable,) = re.findall(r"GATEPASS_KEY_HASHES=(.*)", result.output)
    tree = parse_yaml("", f"{HEAD}{line}\n").tree
    by_variable = read_environment({"GATEPASS_UPSTREAM_URL": "https://x", "GATEPASS_KEY_HASHES": variable}).tree
    assert lookup(by_variable, ("access", "keys")) == lookup(tree, ("access", "keys"))
    (entry,) = load(str(file_of(tmp_path, f"{HEAD}{line}\n")), {}).config.access.keys
    assert (entry.role, entry.profile, entry.expires) == ("viewer", "dify", datetime(2099, 1, 31, 17, tzinfo=UTC))


def test_a_new_key_as_json():
    made = json.loads(
        run("new", "--json", "--role", "admin", "--model", "gpt-*", "--model", "a/b", "--operation", "chat").output
    )
    assert made["entry"] == {
        "name": "client",
        "role": "admin",
        "models": ["gpt-*", "a/b"],
        "operations": ["chat"],
        "hash": hash_key(made["key"]),
    }
    assert made["environment"] is None, "a variable has no models"


@pytest.mark.parametrize("operation", ["batches", "POST batches"])
def test_an_entry_that_the_file_would_refuse_is_not_created(operation):
    result = run("new", "--model", "m", "--operation", operation)
    assert (result.exit_code, "gp-" in result.output) == (2, False)
    assert "--operation: opens batches, which may run any model" in result.stderr


@pytest.mark.parametrize("name", ["a b", "a\nb", 'a"', "-a"])
def test_a_name_that_the_file_would_refuse_is_refused(name):
    result = run("new", f"--name={name}")
    assert result.exit_code == 2
    assert "gp-" not in result.output


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--expires=tomorrow", "--expires: expects a date, such as 2027-01-31, or an RFC 3339 time"),
        ("--expires=2020-01-31", "--expires: is in the past"),
        ("--role=root", "'root' is not one of 'caller', 'viewer', 'admin'"),
        ("--profile=a/b", "--profile: a name is 1 to 63 letters"),
        ("--mcp=a b", "--mcp: a name is 1 to 63 letters"),
        ("--mcp=search:", "--mcp: expects NAME or NAME:TOOL,TOOL"),
        ("--operation=file", "--operation: 'file' is not known here; did you mean files?"),
    ],
)
def test_keys_new_refuses_invalid_options(option, expected):
    result = run("new", option)
    assert (result.exit_code, "gp-" in result.output) == (2, False)
    assert expected in result.stderr


def days_ahead(days):
    return (datetime.now(UTC) + timedelta(days=days)).date()


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


SHARED = "all but stored objects"


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        (("",), ["all"]),
        (("", ", role: viewer"), ["all", "none"]),
        (("", ""), [SHARED, SHARED]),
        ((", models: [m]",), [SHARED]),
        ((', operations: [chat, "GET files"]', ""), ["chat,GET files", SHARED]),
    ],
)
def test_the_list_shows_the_operations_of_each_key(tmp_path, settings, shown):
    rows = zip("ab", (ONES, TWOS), settings, strict=False)
    text = HEAD + "".join(f'  - {{name: {name}, hash: "{digest}"{more}}}\n' for name, digest, more in rows)
    result = run("list", "--config", file_of(tmp_path, text))
    assert [re.split(" {2,}", line)[5] for line in result.stdout.splitlines()[1:]] == shown


def test_the_list_shows_that_a_viewer_may_call_no_model(tmp_path):
    text = HEAD + f'  - {{name: a, hash: "{ONES}", role: viewer}}\n'
    assert re.split(" {2,}", run("list", "--config", file_of(tmp_path, text)).stdout.splitlines()[1])[4] == "none"


def test_the_list_shows_each_key_with_its_state(tmp_path):
    soon = days_ahead(3)
    file = file_of(tmp_path, SEVERAL.replace("{soon}", str(soon)))
    result = run("list", "--config", file, env=CHAT)
    assert (result.exit_code, CHAT["CHAT"] in result.output) == (0, False)
    assert [line.split("  ") for line in map(str.rstrip, re.sub(" {2,}", "  ", result.stdout).splitlines())] == [
        ["NAME", "ROLE", "PROFILE", "EXPIRES", "MODELS", "OPERATIONS", "STATE", "KEY"],
        ["rag", "caller", "ragflow", f"{soon}T00:00:00Z", "all", SHARED, "expires soon", ONES[:19]],
        ["rag", "caller", "ragflow", "never", "all", SHARED, "valid", TWOS[:19]],
        ["chat", "admin", "plain", "2020-01-31T00:00:00Z", "gpt-*,m", SHARED, "expired", "${CHAT}"],
    ]
    rows = json.loads(run("list", "--config", file, "--json", env=CHAT).stdout)
    assert [(row["name"], row["state"], row["hash"], row["reference"]) for row in rows] == [
        ("rag", "expires soon", ONES, None),
        ("rag", "valid", TWOS, None),
        ("chat", "expired", None, "${CHAT}"),
    ]
    assert rows[2]["models"] == ["gpt-*", "m"]


def test_the_list_shows_the_mcp_servers_of_each_key(tmp_path):
    limits = {
        "": "all",
        ", models: [m]": "none",
        ", role: viewer": "none",
        ", mcp: []": "none",
        ", mcp: [search, wiki]": "search,wiki",
        ", mcp: {search: {tools: [find]}, wiki: {}}": "search (limited),wiki",
    }
    servers = "mcp: {search: {url: 'https://x/mcp'}, wiki: {url: 'https://y/mcp'}}\n"
    entries = [
        f'  - {{name: key-{number}, hash: "sha256:{str(number) * 64}"{more}}}\n' for number, more in enumerate(limits)
    ]
    file = file_of(tmp_path, servers + HEAD + "".join(entries))
    head, *lines = [re.split(" {2,}", line) for line in run("list", "--config", file).stdout.splitlines()]
    assert [line[head.index("MCP")] for line in lines] == list(limits.values())


def test_the_list_asks_the_running_gatepass_or_the_file_and_not_both(tmp_path):
    missing = run("list", "--running", "--socket", tmp_path / "none.sock")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "no gatepass answers at" in missing.stderr
    assert run("list", "--running", "--config", "x.yaml").exit_code == 2


def test_the_list_of_a_configuration_by_variables():
    variables = {"GATEPASS_UPSTREAM_URL": "https://x", "GATEPASS_KEY_HASHES": f"{ONES}/name=grafana/role=viewer"}
    assert run("list", env=variables).stdout.splitlines()[1].split()[:2] == ["grafana", "viewer"]
    del variables["GATEPASS_KEY_HASHES"]
    assert "There are no keys" in run("list", env=variables).stdout


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
    "an empty last value": f"{HEAD}    - name: a\n      hash: {ONES}\n      key:\nlog: {{format: text}}\n",
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


def test_write_loses_no_entry_beside_other_commands(tmp_path):
    file = file_of(tmp_path, f"{HEAD}    - {{name: first, hash: '{ONES}'}}\n")
    new = [sys.executable, "-m", "gatepass", "keys", "new", "--write", "--config", str(file), "--name"]
    commands = [subprocess.Popen([*new, f"key{number}"], stdout=subprocess.DEVNULL) for number in range(4)]
    assert [command.wait(30) for command in commands] == [0, 0, 0, 0]
    names = {entry.name for entry in load(str(file), {}).config.access.keys}
    assert names == {"first", "key0", "key1", "key2", "key3"}


def test_write_waits_for_another_command_no_longer_than_its_bound(tmp_path, monkeypatch):
    file = file_of(tmp_path, "access: {keys: []}\n")
    monkeypatch.setattr(sys.modules["gatepass.cli.keys"], "WAIT_S", 0.0)
    other = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        result = run("new", "--write", "--config", file)
    finally:
        os.close(other)
    assert "another command is changing" in result.stderr
    assert file.read_text() == "access: {keys: []}\n"


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
        (f"{HEAD}    - {{name: client, hash: '{ONES}', profile: dify}}\n", "would not be valid: access.keys"),
        (f"{HEAD.removesuffix(chr(10))} &k\n    - {{name: a, hash: '{ONES}'}}\n", "and add the entry yourself"),
        (
            f"x: &k\n  - {{name: a, hash: '{ONES}'}}\n{HEAD.replace('keys:', 'keys: *k')}",
            "has a form that gatepass cannot change",
        ),
        ("upstreams: [\n", "is not YAML"),
    ],
)
def test_write_refuses_what_it_cannot_change_and_makes_no_key(tmp_path, text, reason):
    file = file_of(tmp_path, text)
    result = run("new", "--write", "--config", file)
    assert (result.exit_code, "gp-" in result.output) == (2, False)
    assert result.stderr.startswith("--write: ")
    assert reason in result.stderr
    assert file.read_text() == text


def test_write_needs_a_file_that_it_can_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    missing = run("new", "--write")
    assert (missing.exit_code, "there is no configuration file" in missing.stderr) == (2, True)
    absent = run("new", "--write", "--config", "absent.yaml")
    assert (absent.exit_code, "absent.yaml: does not exist" in absent.stderr) == (2, True)


def test_write_does_not_need_the_variables_of_the_running_gatepass(tmp_path):
    text = "credentials: {c: {type: static, token: '${UNSET_HERE}'}}\n" + WRITABLE["a block"]
    result = run("new", "--write", "--config", file_of(tmp_path, text))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("unset", ["credentials: {c: {type: static, token: '${UNSET}'}}", "server: {port: '${UNSET}'}"])
def test_write_makes_no_key_that_differs_from_its_caller_s_beside_an_unset_variable(tmp_path, unset):
    """`load` reports the variable, and then compares no keys."""
    keys = f"    - {{name: ragflow, hash: '{ONES}', profile: ragflow}}\n"
    file = file_of(tmp_path, f"{unset}\n{HEAD}{keys}")
    result = run("new", "--name", "ragflow", "--write", "--config", file)
    assert (result.exit_code, "gp-" in result.output) == (2, False)
    assert "access.keys[1].profile: differs from access.keys[0]" in result.stderr
    same = run("new", "--name", "ragflow", "--profile", "ragflow", "--write", "--config", file)
    assert same.exit_code == 0, same.output


@pytest.mark.parametrize(
    "entry", ["{name: '${UNSET}', profile: ragflow}", "{name: client, profile: '${UNSET}'}", "text"]
)
def test_write_does_not_compare_a_key_that_an_unset_variable_hides(tmp_path, entry):
    file = file_of(tmp_path, f"{HEAD}    - {entry}\n")
    assert "differs" not in run("new", "--write", "--config", file).output


@pytest.mark.parametrize("rest", ["", "  metrics_open: false   # later\n", "    # - {name: a}\n", "  # later"])
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
    assert "It is the first key: gatepass then rejects clients without a key.\n" in result.stdout
    assert "first key" not in run("new", "--name", "b", "--write", "--config", file).stdout


def test_write_places_the_entry_behind_the_comments_of_the_last_one(tmp_path):
    file = file_of(tmp_path, WRITABLE["a comment of the last entry"])
    assert run("new", "--name", "second", "--write", "--config", file).exit_code == 0
    lines = file.read_text().splitlines()
    (index,) = [index for index, line in enumerate(lines) if "second" in line]
    assert lines[index - 1].endswith("# until all clients have the next")


def test_write_changes_no_file_that_is_read_only(tmp_path):
    """Also as root, which may write to every file."""
    file = file_of(tmp_path, WRITABLE["a block"])
    file.chmod(0o444)
    result = run("new", "--write", "--config", file)
    assert (result.exit_code, "gp-" in result.output) == (2, False)
    assert f"{file} is read-only (mode 0444): run `chmod u+w` on it first" in result.stderr
    assert file.read_text() == WRITABLE["a block"]


def test_write_separates_no_hard_links(tmp_path):
    file = file_of(tmp_path, WRITABLE["a block"])
    (tmp_path / "other.yaml").hardlink_to(file)
    result = run("new", "--write", "--config", file)
    assert (result.exit_code, "gp-" in result.output) == (2, False)
    assert "has hard links, which would keep the old text" in result.stderr
    assert file.samefile(tmp_path / "other.yaml")
