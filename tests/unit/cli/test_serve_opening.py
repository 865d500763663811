import pytest

from gatepass.cli.options import exit_unusable
from gatepass.cli.serve import open_app_state
from gatepass.config.load import load


def test_a_secret_that_goes_between_the_reading_and_the_start_is_named(tmp_path, capsys):
    key, config = tmp_path / "key", tmp_path / "gatepass.yaml"
    key.write_text("the-key-of-the-gateway")
    config.write_text(
        f'upstreams: {{chat: {{base_url: "https://llm.example/v1", headers: {{X-Key: "${{file:{key}}}"}}}}}}'
    )
    loaded = load(str(config), {})
    key.unlink()
    with pytest.raises(SystemExit) as ended:
        open_app_state(loaded, exit_unusable)
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "a secret of the configuration was removed after loading: upstreams.chat.headers.X-Key: "
        f"the file {key} cannot be read: No such file or directory\n"
    )
