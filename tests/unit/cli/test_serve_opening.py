import pytest

from gatepass.cli.serve import open_app_state
from gatepass.config.load import load


def test_a_secret_that_goes_between_the_reading_and_the_start_is_named(tmp_path, caplog):
    key, config = tmp_path / "key", tmp_path / "gatepass.yaml"
    key.write_text("the-key-of-the-gateway")
    config.write_text(
        f'upstreams: {{chat: {{base_url: "https://llm.example/v1", headers: {{X-Key: "${{file:{key}}}"}}}}}}'
    )
    loaded = load(str(config), {})
    key.unlink()
    with pytest.raises(SystemExit) as ended:
        open_app_state(loaded)
    assert ended.value.code == 2
    (record,) = caplog.records
    reason = f"upstreams.chat.headers.X-Key: the file {key} cannot be read: No such file or directory"
    assert (record.message, record.fields["file"], record.fields["problems"]) == (
        "configuration_unusable",
        str(config),
        [f"a secret of the configuration was removed after loading: {reason}"],
    )
