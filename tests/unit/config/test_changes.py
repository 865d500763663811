"""A setting that a version removed is ignored for one minor version, and a warning names what to do."""

import pytest

from gatepass import __version__
from gatepass.config import load, wording
from gatepass.config.changes import CHANGES, PRESET, REMOVED, SettingChange, drop_removed, parsed_version, since
from gatepass.config.document import ConfigError, dotted
from gatepass.config.wording import all_settings
from gatepass.config.yaml_file import parse_yaml

BANNER = SettingChange("0.2.0", "removed", ("upstreams", "*", "banner"), "The first page always shows it.")


@pytest.mark.parametrize("version", ["0.2.0", "0.2.9", "0.1.0"])
def test_a_setting_that_was_removed_is_ignored_and_warned_of(version):
    document = parse_yaml("f.yaml", "upstreams:\n  a:\n    banner: hello\n    port: 80\n")
    drop_removed(document, (BANNER,), version)
    assert document.tree == {"upstreams": {"a": {"port": 80}}}
    reason = "was removed in 0.2.0: The first page always shows it. A later minor version rejects it."
    assert document.warnings == [f"f.yaml:3: upstreams.a.banner: {reason}"]


@pytest.mark.parametrize("version", ["0.3.0", "1.0"])
def test_the_next_minor_version_keeps_the_setting_for_the_validation(version):
    document = parse_yaml("f.yaml", "upstreams: {a: {banner: hello}}\n")
    drop_removed(document, (BANNER,), version)
    assert document.tree == {"upstreams": {"a": {"banner": "hello"}}}
    assert document.warnings == []


def test_the_validation_says_what_became_of_the_setting(tmp_path, monkeypatch):
    file = tmp_path / "gatepass.yaml"
    file.write_text("access: {keys: [{name: a, digest: x}]}\nupstreams: {a: {base_url: https://a.example/v1}}\n")
    past = SettingChange("0.0.1", "removed", ("access", "keys", "*", "digest"), "`hash` replaces it.")
    monkeypatch.setattr(wording, "CHANGES", (past,))
    with pytest.raises(ConfigError, match=r"access\.keys\[0\]\.digest: was removed in 0\.0\.1: `hash` replaces it\."):
        load.load(str(file), {})


def test_a_change_concerns_those_who_set_it_or_not_by_its_kind():
    table = (
        SettingChange("0.2.0", "default", ("limits", "a"), "A."),
        SettingChange("0.2.0", "meaning", ("limits", "b"), "B."),
        SettingChange("0.2.0", "new", ("access", "keys", "*", "c"), "C."),
        SettingChange("0.1.0", "default", ("limits", "z"), "Old."),
    )
    keys = [{"name": "x"}, {"name": "y", "c": 1}]
    without = since("0.1.5", {"access": {"keys": keys}}, table)
    assert [(dotted(path), change.text) for path, change in without] == [("limits.a", "A."), ("access.keys[0].c", "C.")]
    with_both = since("0.1.5", {"limits": {"a": 1, "b": 2}}, table)
    assert [dotted(path) for path, _ in with_both] == ["limits.b"]
    assert list(since("0.2.0", {}, table)) == []


def test_each_entry_of_the_table_is_real():
    known = all_settings()
    versions = [parsed_version(change.version) for change in CHANGES]
    assert versions == sorted(versions)
    assert versions[-1] <= parsed_version(__version__)
    for change in CHANGES:
        assert (change.setting in known) is (change.kind != "removed")
        # gatepass drops members of blocks, and an item of a list would change the indexes of the others
        assert change.setting[-1] != "*"
        assert change.text.endswith(".")


@pytest.mark.parametrize("text", ["", "1", "1.2.3.4", "latest", "0.1.0-rc1", "0.٢", "0.2.0rc"])
def test_a_text_that_is_no_version_is_an_error(text):
    with pytest.raises(ValueError, match=r"is not a version such as \d"):
        parsed_version(text)


@pytest.mark.parametrize("suffix", ["", "rc1", "a2", ".dev1", "b1.dev3", ".post1", "+local.1"])
def test_a_version_before_a_release_has_the_settings_of_the_release(suffix):
    assert parsed_version(f"v0.2.0{suffix}") == parsed_version("0.2") == (0, 2, 0)


@pytest.mark.parametrize("value", ["true", "false", "yes"])
def test_the_bodies_of_the_log_are_ignored_and_the_warning_names_the_command(tmp_path, value):
    path = tmp_path / "gatepass.yaml"
    path.write_text(f"upstreams: {{chat: {{base_url: https://llm.example/v1}}}}\nlog: {{bodies: {value}}}\n")
    (warning,) = load.load(str(path), {}).warnings
    assert warning.startswith(f"{path}:2: log.bodies: was removed in 0.2.0: `gatepass capture` keeps whole bodies")


def test_a_preset_is_rejected_at_once_because_its_login_has_no_request(tmp_path):
    path = tmp_path / "gatepass.yaml"
    path.write_text("upstreams: {a: {base_url: https://a.example/v1, credential: c}}\ncredentials:\n")
    with path.open("a") as file:
        file.write("  c: {type: http_json, preset: huawei, domain: corp, username: u, password: topsecret}\n")
    with pytest.raises(ConfigError) as raised:
        load.load(str(path), {})
    found = dict(
        str(problem).removeprefix(f"{path}:3: credentials.c.").split(": ", 1) for problem in raised.value.problems
    )
    assert sorted(found) == ["password", "preset", "url", "username"]
    assert found["preset"].startswith("was removed in 0.2.0: Write the request itself: the page Tokens has the recipe")
    assert "topsecret" not in str(raised.value)


OLDER = """\
log: {bodies: true}
limits: {unauthenticated_connections: 5}
tracing: {service_name: x}
credentials:
  a: {type: exec, command: [x], inherit: [PATH], exec_credential: true}
  b: {type: static, token: ttttttttttttttttt, sign: {}, apikey: k, domain: d, project: p}
  c: {type: oauth2, token_url: "https://s.example/t", client_id: i, client_secret: s, assertion_type: x,
      subject_token_type: jwt, role_session_name: r}
upstreams:
  u:
    base_url: https://u.example/v1
    rejection: {login_hosts: [], login_page: false}
    repair: {one_id: true, without_choices: true}
mcp: {m: {url: "https://m.example", rejection: {login_hosts: [], login_page: true}}}
models:
  m: {targets: [{upstream: u}], suggest: other}
"""


def test_an_older_file_with_the_removed_settings_loads_with_a_sentence_for_each(tmp_path):
    path = tmp_path / "gatepass.yaml"
    path.write_text(OLDER)
    warnings = load.load(str(path), {}).warnings
    for setting, text in REMOVED.items():
        name = setting.rpartition(".")[2]
        found = [one for one in warnings if f".{name}: was removed in 0.2.0: {text} A later" in one]
        assert bool(found) is (setting != PRESET), setting
