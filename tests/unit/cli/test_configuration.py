import pytest

from gatepass.cli.configuration import UNUSABLE, load_or_exit


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "f.yaml"
    path.write_text("upstreams: {chat: {base_url: 'https://${LLM_HOST}/v1'}}\n")
    monkeypatch.setenv("LLM_HOST", "llm.example")
    return str(path)


def test_the_environment_of_the_process_and_the_flags_count(file):
    loaded = load_or_exit(file, "127.0.0.9", 7)
    assert loaded.config.upstreams["chat"].base_url == "https://llm.example/v1"
    assert (loaded.config.server.host, loaded.config.server.port) == ("127.0.0.9", 7)


def test_what_cannot_be_used_is_reported_on_stderr_with_exit_2(file, capsys):
    with pytest.raises(SystemExit) as caught:
        load_or_exit(file, host="0.0.0.0")
    assert caught.value.code == UNUSABLE == 2
    reported = capsys.readouterr()
    assert reported.out == ""
    assert reported.err.startswith("--host: server.host: is reachable from other machines")


def test_warnings_are_reported_on_stderr(file, capsys, monkeypatch):
    monkeypatch.setenv("GATEPASS_SCOPE", "x")
    load_or_exit(file)
    assert "warning: GATEPASS_SCOPE is set and has no effect" in capsys.readouterr().err
