"""`gatepass learned`: where it asks, with which key, and what people see."""

import pytest
from click.testing import CliRunner

from gatepass.cli import main
from gatepass.cli.learned import LearnedPage, learned_page, span, table

KEY = "gp-a-key-that-opens-the-door"
ROW = {
    "upstream": "chat",
    "model": "o3-mini",
    "operation": "chat",
    "credential": "",
    "adapted": "stream=synth",
    "state": "learned",
    "evidence": "no stream\nhere",
    "age_s": 90,
    "expires_in_s": 3510,
    "uses": 12,
}


def file(folder, text: str) -> str:
    path = folder / "gatepass.yaml"
    path.write_text(text)
    return str(path)


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["learned", *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr


def test_what_failed_says_when_it_is_tried_again():
    head, line, evidence = table([{**ROW, "state": "failed", "expires_in_s": 41, "uses": 0, "evidence": "still no"}])
    assert head.split() == ["MODEL", "OPERATION", "ADAPTED", "STATE", "AGE", "LEFT", "USES"]
    assert line.split() == [
        *["chat/o3-mini", "chat", "stream=synth", "failed", "1", "min", "retried", "in", "41", "s", "0"]
    ]
    assert evidence == "    still no"


def test_without_anything_it_asks_where_gatepass_listens_by_default():
    assert learned_page(None, None, "GATEPASS_KEY") == LearnedPage("http://127.0.0.1:8080", None)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("server: {host: 0.0.0.0, port: 9000}", "http://127.0.0.1:9000"),
        ('server: {host: "::", port: 9000}', "http://[::1]:9000"),
        ("server: {host: gw.example}", "http://gw.example:8080"),
        ("log: {level: info}", "http://127.0.0.1:8080"),
    ],
)
def test_the_file_shows_where(tmp_path, text, url):
    assert learned_page(file(tmp_path, text), None, "GATEPASS_KEY").url == url


def test_the_environment_counts_before_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEPASS_PORT", "7000")
    assert learned_page(file(tmp_path, "server: {port: 9000}"), None, "GATEPASS_KEY").url == "http://127.0.0.1:7000"


@pytest.mark.parametrize("url", ["https://gw.example/llm", "https://gw.example/llm/", "https://gw.example/llm/v1/"])
def test_a_clients_url_will_do(url):
    assert learned_page(None, url, "GATEPASS_KEY") == LearnedPage("https://gw.example/llm", None)


@pytest.mark.parametrize(
    "url",
    [
        "gw.example:80",
        "ftp://gw",
        "http://",
        "http://h:x",
        "http://h:0",
        "http://u@h",
        "http://h?x",
        "http://h/\n",
        "http://ü",
    ],
)
def test_what_is_no_url_is_refused(url):
    assert "is not the URL of a gatepass" in refused("--url", url)


def test_a_key_of_the_configuration_goes_to_its_own_gatepass_and_no_further(tmp_path, monkeypatch):
    monkeypatch.setenv("DOOR", KEY)
    path = file(
        tmp_path,
        "access: {keys: [{name: a, hash: x}, {name: b, key: '${NOWHERE}'}, {name: c, key: '${DOOR}', role: viewer}]}",
    )
    assert learned_page(path, None, "GATEPASS_KEY").key == KEY
    assert learned_page(path, "http://localhost:8080", "GATEPASS_KEY").key == KEY
    assert learned_page(path, "https://gw.example", "GATEPASS_KEY").key is None
    monkeypatch.setenv("GATEPASS_KEY", "gp-the-key-of-the-shell")
    assert learned_page(path, "https://gw.example", "GATEPASS_KEY").key == "gp-the-key-of-the-shell"


def test_keys_of_the_environment_count_where_there_is_no_file(tmp_path, monkeypatch):
    (tmp_path / "keys").write_text(f"{KEY}\nanother\n")
    monkeypatch.setenv("GATEPASS_KEYS_FILE", str(tmp_path / "keys"))
    assert learned_page(None, None, "GATEPASS_KEY").key == KEY
    monkeypatch.setenv("GATEPASS_KEYS_FILE", str(tmp_path / "absent"))
    assert learned_page(None, None, "GATEPASS_KEY").key is None


@pytest.mark.parametrize(
    "text", ["access: {keys: soon}", "access: {keys: [3, {name: a, key: 5}]}", "log: {level: info}"]
)
def test_a_file_without_a_key_has_none(tmp_path, text):
    assert learned_page(file(tmp_path, text), None, "GATEPASS_KEY").key is None


def test_a_key_is_no_part_of_a_place_that_is_printed():
    assert KEY not in repr(LearnedPage("http://h", KEY))


def test_what_cannot_be_used_is_reported_and_exits_with_two(tmp_path, monkeypatch):
    assert "does not exist" in refused("--config", str(tmp_path / "absent.yaml"))
    assert "does not exist" in refused("--config", str(tmp_path / "absent.yaml"), "--url", "http://127.0.0.1:1")
    assert "picks a free port" in refused("--config", file(tmp_path, "server: {port: 0}"))
    assert "NOT_THERE is not set" in refused("--key-env", "NOT_THERE")
    assert "leave --json out" in refused("--json", "--as-config")
    monkeypatch.setenv("GATEPASS_KEY", f"{KEY}\n{KEY}")
    message = refused()
    assert "contains characters beyond ASCII" in message
    assert KEY not in message


def test_the_table_is_for_people():
    other = {**ROW, "upstream": "azure", "model": "gpt-5-chat", "adapted": "drop=seed", "evidence": "", "age_s": 7_300}
    assert list(table([ROW, other])) == [
        "MODEL             OPERATION  ADAPTED       STATE    AGE    LEFT    USES",
        "chat/o3-mini      chat       stream=synth  learned  1 min  58 min  12",
        "    no stream here",
        "azure/gpt-5-chat  chat       drop=seed     learned  2 h    58 min  12",
    ]
    assert list(table([])) == ["Nothing has been learned."]


def test_an_upstreams_text_moves_no_cursor():
    lines = "\n".join(table([{**ROW, "evidence": "a\x1b[2Jb\x00", "model": "m\x1b[0m"}]))
    assert lines.isprintable() or not any(sign in lines for sign in "\x1b\x00")
    assert "a�[2Jb�" in lines


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3_599, "59 min"), (7_200, "2 h"), (200_000, "2 d")]
)
def test_a_span_is_as_long_as_a_person_wants_to_know(seconds, text):
    assert span(seconds) == text


def test_nobody_there_exits_with_one():
    result = CliRunner().invoke(main, ["learned", "--url", "http://127.0.0.1:9"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no answer from http://127.0.0.1:9" in result.stderr
