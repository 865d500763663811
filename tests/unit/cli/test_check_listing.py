from gatepass.cli.check import yaml_lines
from gatepass.config.load import DEFAULT, load


def shown(tmp_path, text, environment=None, every=True):
    path = tmp_path / "f.yaml"
    path.write_text(text)
    loaded = load(str(path), environment or {})
    tree, origins = loaded.effective()
    origins = {path: origin for path, origin in origins.items() if every or origin != DEFAULT}
    return [line.replace(f"{tmp_path}/", "") for line in yaml_lines(tree, origins)]


def test_listing_of_check_is_valid_yaml(tmp_path):
    text = "upstreams: {chat: {base_url: 'https://x/v1'}}\nmodels:\n  'a*': {targets: [{upstream: chat, name: 'no'}]}\n"
    controls = r'"m\x1b\x9b\u202e\U000e0001\U0001f600"'
    text += f"  {controls}: {{upstream: chat, name: {controls}}}\n"
    for every in (False, True):
        _shown_again(tmp_path, text, every)


def _shown_again(tmp_path, text, every):
    lines = shown(tmp_path, text, every=every)
    again = tmp_path / "again.yaml"
    again.write_text("\n".join(lines))
    first = load(str(tmp_path / "f.yaml"), {}).config
    assert load(str(again), {}).config == first
