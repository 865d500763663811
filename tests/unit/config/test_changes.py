"""Settings that a version renamed or removed are accepted for one minor version, and a warning names what to do."""

import pytest

from gatepass import __version__
from gatepass.config import changes, load, wording
from gatepass.config.changes import (
    CHANGES,
    SettingChange,
    accept_former_names,
    gone_setting,
    is_accepted,
    parsed_version,
    since,
    with_new_variables,
)
from gatepass.config.document import ConfigError, dotted
from gatepass.config.wording import all_settings
from gatepass.config.yaml_file import parse_yaml

RENAMED = SettingChange("0.2.0", "renamed", ("upstreams", "*", "url"), "", ("upstreams", "*", "base_url"))
MOVED = SettingChange("0.2.0", "renamed", ("retries",), "", ("traffic", "retries"))
LIMIT = SettingChange("0.2.0", "renamed", ("limits", "held"), "", ("limits", "held_bytes"))
REMOVED = SettingChange("0.2.0", "removed", ("server", "banner"), "the first page always shows it.")
VARIABLE = SettingChange("0.2.0", "renamed", ("GATEPASS_URL",), "", ("GATEPASS_UPSTREAM_URL",))
TABLE = (RENAMED, MOVED, LIMIT, REMOVED, VARIABLE)
LATER_REJECTED = " A later minor version rejects the former name."
WITHIN, LATER = "0.2.7", "0.3.0"


def test_a_former_name_has_the_effect_of_the_new_one_and_is_warned_of():
    document = parse_yaml("f.yaml", "upstreams:\n  a:\n    url: https://a\n  b:\n    base_url: https://b\n")
    accept_former_names(document, TABLE, WITHIN)
    assert document.tree == {"upstreams": {"a": {"base_url": "https://a"}, "b": {"base_url": "https://b"}}}
    assert document.warnings == [
        f"f.yaml:3: upstreams.a.url: was renamed to upstreams.a.base_url in 0.2.0.{LATER_REJECTED}"
    ]
    assert str(document.origin(("upstreams", "a", "base_url"))) == "f.yaml:3"
    assert document.problems == []


def test_a_block_moves_with_the_lines_of_its_settings():
    document = parse_yaml("f.yaml", "retries:\n  most: 3\n  codes: [500, 502]\nserver: {}\n")
    accept_former_names(document, TABLE, WITHIN)
    assert document.tree == {"server": {}, "traffic": {"retries": {"most": 3, "codes": [500, 502]}}}
    assert str(document.origin(("traffic", "retries", "codes", 1))) == "f.yaml:3"
    assert ("retries", "most") not in document.origins


def test_a_setting_that_was_removed_is_ignored_and_warned_of():
    document = parse_yaml("f.yaml", "server: {banner: hello, port: 80}\n")
    accept_former_names(document, TABLE, WITHIN)
    assert document.tree == {"server": {"port": 80}}
    assert document.warnings[0].startswith(
        "f.yaml:1: server.banner: was removed in 0.2.0: the first page always shows it."
    )


def test_both_names_are_a_problem_at_the_former_one():
    document = parse_yaml("f.yaml", "limits:\n  held: 1\n  held_bytes: 2\n")
    accept_former_names(document, TABLE, WITHIN)
    assert [str(problem) for problem in document.problems] == [
        "f.yaml:2: limits.held: was renamed to limits.held_bytes in 0.2.0, and limits.held_bytes is set too: remove it"
    ]
    assert document.tree["limits"]["held_bytes"] == 2


def test_the_next_minor_version_rejects_the_former_name_and_names_the_new_one():
    document = parse_yaml("f.yaml", "upstreams: {a: {url: https://a}}\n")
    accept_former_names(document, TABLE, LATER)
    assert document.tree == {"upstreams": {"a": {"url": "https://a"}}}
    assert document.warnings == []
    assert gone_setting(("upstreams", "a", "url"), TABLE) == "was renamed to upstreams.a.base_url in 0.2.0"
    assert gone_setting(("upstreams", "a", "base_url"), TABLE) is None


@pytest.mark.parametrize(("version", "expected"), [("0.2.0", True), ("0.2.9", True), ("0.3.0", False), ("1.0", False)])
def test_a_former_name_is_accepted_for_one_minor_version(version, expected):
    assert is_accepted(RENAMED, version) is expected


def test_former_variables_have_the_effect_of_the_new_ones():
    given = {"GATEPASS_URL": "https://a", "GATEPASS_LIMITS_HELD": "9", "PATH": "/bin"}
    found, warnings, problems = with_new_variables(given, TABLE, WITHIN)
    assert found == {"GATEPASS_UPSTREAM_URL": "https://a", "GATEPASS_LIMITS_HELD_BYTES": "9", "PATH": "/bin"}
    assert warnings == [
        f"GATEPASS_LIMITS_HELD: was renamed to GATEPASS_LIMITS_HELD_BYTES in 0.2.0.{LATER_REJECTED}",
        f"GATEPASS_URL: was renamed to GATEPASS_UPSTREAM_URL in 0.2.0.{LATER_REJECTED}",
    ]
    assert problems == []
    assert with_new_variables(given, TABLE, LATER) == (given, [], [])


def test_both_variables_are_a_problem_in_the_words_of_the_file():
    given = {"GATEPASS_LIMITS_HELD": "1", "GATEPASS_LIMITS_HELD_BYTES": "2"}
    found, warnings, problems = with_new_variables(given, TABLE, WITHIN)
    assert (found, warnings) == ({"GATEPASS_LIMITS_HELD_BYTES": "2"}, [])
    (problem,) = problems
    assert str(problem) == (
        "environment GATEPASS_LIMITS_HELD: was renamed to GATEPASS_LIMITS_HELD_BYTES in 0.2.0,"
        " and GATEPASS_LIMITS_HELD_BYTES is set too: remove it"
    )


def test_load_refuses_both_variables(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "with_new_variables", lambda given: with_new_variables(given, TABLE, WITHIN))
    file = tmp_path / "gatepass.yaml"
    file.write_text("upstreams: {a: {base_url: https://a.example/v1}}\n")
    variables = {"GATEPASS_LIMITS_HELD": "90000000", "GATEPASS_LIMITS_HELD_BYTES": "80000000"}
    with pytest.raises(ConfigError, match=r"LIMITS_HELD: .* GATEPASS_LIMITS_HELD_BYTES is set too: remove it"):
        load.load(str(file), variables)


def test_an_empty_variable_is_unset():
    """Compose passes `${NAME:-}` as an empty variable."""
    new_is_empty = {"GATEPASS_URL": "https://a", "GATEPASS_UPSTREAM_URL": ""}
    assert with_new_variables(new_is_empty, TABLE, WITHIN)[0] == {"GATEPASS_UPSTREAM_URL": "https://a"}
    former_is_empty = {"GATEPASS_URL": "", "GATEPASS_UPSTREAM_URL": "https://a"}
    assert with_new_variables(former_is_empty, TABLE, WITHIN) == ({"GATEPASS_UPSTREAM_URL": "https://a"}, [], [])


def test_a_setting_of_a_list_item_is_named_by_its_index():
    digest = SettingChange("0.2.0", "renamed", ("access", "keys", "*", "digest"), "", ("access", "keys", "*", "hash"))
    text = "was renamed to access.keys[0].hash in 0.2.0"
    document = parse_yaml("f.yaml", "access: {keys: [{digest: a}]}\n")
    assert gone_setting(("access", "keys", 0, "digest"), (digest,)) == text
    accept_former_names(document, (digest,), WITHIN)
    assert document.tree == {"access": {"keys": [{"hash": "a"}]}}
    assert document.warnings == [f"f.yaml:1: access.keys[0].digest: {text}.{LATER_REJECTED}"]


@pytest.mark.parametrize(
    ("setting", "replacement"),
    [
        (("limits", "held"), ("traffic", "held_bytes")),
        (("traffic", "held"), ("limits", "held_bytes")),
        (("GATEPASS_URL",), ("server", "url")),
        (("access", "keys", "*", "digest"), ("clients", "*", "digest")),
        (("upstreams", "*", "url"), ("base_url",)),
        (("upstreams", "*"), ("upstreams", "*")),
    ],
)
def test_a_new_name_that_could_lose_a_value_is_refused(setting, replacement):
    with pytest.raises(ValueError, match="cannot apply"):
        SettingChange("0.2.0", "renamed", setting, "", replacement)


def test_the_items_of_a_list_cannot_be_removed():
    with pytest.raises(ValueError, match="cannot apply"):
        SettingChange("0.2.0", "removed", ("retries", "codes", "*"), "No code is retried.")


def test_load_reads_the_table(tmp_path, monkeypatch):
    """A start, a reload and every command load so."""
    present = SettingChange(__version__, "renamed", ("upstreams", "*", "url"), "", ("upstreams", "*", "base_url"))
    past = SettingChange("0.0.1", "renamed", ("upstreams", "*", "address"), "", ("upstreams", "*", "base_url"))
    file = tmp_path / "gatepass.yaml"
    for module, function in ((load, "accept_former_names"), (wording, "gone_setting")):
        original = getattr(changes, function)
        monkeypatch.setattr(module, function, lambda given, original=original: original(given, (past, present)))

    file.write_text("upstreams: {a: {url: https://a.example/v1}}\n")
    loaded = load.load(str(file), {})
    assert loaded.config.upstreams["a"].base_url == "https://a.example/v1"
    assert any("was renamed to upstreams.a.base_url" in warning for warning in loaded.warnings)

    file.write_text("upstreams: {a: {address: https://a.example/v1}}\n")
    with pytest.raises(ConfigError, match=r"upstreams\.a\.address: was renamed to upstreams\.a\.base_url in 0\.0\.1"):
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
        assert (change.setting in known) is not change.is_gone
        # a name that changes again is replaced in the earlier entry too
        assert (change.replacement in known) is (change.kind == "renamed")
        assert change.text.endswith(".") or change.kind == "renamed"


@pytest.mark.parametrize("text", ["", "1", "1.2.3.4", "latest", "0.1.0-rc1", "0.٢", "0.2.0rc"])
def test_a_text_that_is_no_version_is_an_error(text):
    with pytest.raises(ValueError, match=r"is not a version such as \d"):
        parsed_version(text)


@pytest.mark.parametrize("suffix", ["", "rc1", "a2", ".dev1", "b1.dev3", ".post1", "+local.1"])
def test_a_version_before_a_release_has_the_settings_of_the_release(suffix):
    assert parsed_version(f"v0.2.0{suffix}") == parsed_version("0.2") == (0, 2, 0)
    assert is_accepted(RENAMED, f"0.2.0{suffix}")


@pytest.mark.parametrize("value", ["true", "false", "yes"])
def test_the_bodies_of_the_log_are_accepted_and_the_warning_names_the_command(tmp_path, value):
    path = tmp_path / "gatepass.yaml"
    path.write_text(f"upstreams: {{chat: {{base_url: https://llm.example/v1}}}}\nlog: {{bodies: {value}}}\n")
    (warning,) = load.load(str(path), {}).warnings
    assert warning.startswith(f"{path}:2: log.bodies: was removed in 0.2.0: `gatepass capture` keeps whole bodies")
