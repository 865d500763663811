import pytest

from gatepass.cli.check import yaml_lines
from gatepass.config.load import DEFAULT, load

CONTROLS = r'"m\x1b\x9b\u202e\U000e0001\U0001f600"'
TEXT = f"""upstreams: {{chat: {{base_url: 'https://x/v1'}}}}
models:
  'a*': {{targets: [{{upstream: chat, name: 'no'}}]}}
  {CONTROLS}: {{upstream: chat, name: {CONTROLS}}}
"""


@pytest.mark.parametrize("every", [False, True])
def test_listing_of_check_is_valid_yaml(tmp_path, every):
    file, again = tmp_path / "f.yaml", tmp_path / "again.yaml"
    file.write_text(TEXT)
    loaded = load(str(file), {})
    tree, origins = loaded.effective()
    shown = {path: origin for path, origin in origins.items() if every or origin != DEFAULT}
    again.write_text("\n".join(yaml_lines(tree, shown)))
    assert load(str(again), {}).config == loaded.config
