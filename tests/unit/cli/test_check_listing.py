from gatepass.cli.check import yaml_lines
from gatepass.config.load import DEFAULT, load


def shown(tmp_path, text, environment=None, every=True):
    path = tmp_path / "f.yaml"
    path.write_text(text)
    loaded = load(str(path), environment or {})
    tree, origins = loaded.effective()
    origins = {path: origin for path, origin in origins.items() if every or origin != DEFAULT}
    return [line.replace(f"{tmp_path}/", "") for line in yaml_lines(tree, origins)]


TEXT = """\
upstreams:
  chat: {base_url: "https://${HOST}/v1", credential: login, forward_headers: [X-Team]}
credentials:
  login:
    type: http_json
    url: "https://portal.example/t?key=topsecret"
    headers: {X-App: topsecret}
    json: {secret: "${S}", n: 5}
models: {"*": {upstream: chat}, "true": {upstream: chat, name: "a: b #c"}}
log: {level: debug}
"""


def test_each_value_comes_with_its_origin(tmp_path):
    lines = shown(tmp_path, TEXT, {"HOST": "llm.example", "S": "topsecret", "GATEPASS_PORT": "9"})
    for line in (
        "server:",
        '  host: "127.0.0.1"  # default',
        "  port: 9  # environment GATEPASS_PORT",
        "    base_url: https://llm.example/v1  # f.yaml:2, environment HOST",
        "      total_s: null  # default",
        "      - X-Team  # f.yaml:2",
        '    url: "https://portal.example/t?(hidden)"  # f.yaml:6',
        "      X-App: (hidden)  # f.yaml:7",
        "      secret: (hidden)  # f.yaml:8, environment S",
        "      n: (hidden)  # f.yaml:8",
        "operations: {}  # default",
        '  "*":',
        '  "true":',
        '    name: "a: b #c"  # f.yaml:9',
        "  level: debug  # f.yaml:10",
    ):
        assert line in lines
    assert "topsecret" not in "\n".join(lines)


def test_settings_that_are_not_set_are_left_out(tmp_path):
    lines = shown(tmp_path, TEXT, {"HOST": "llm.example", "S": "topsecret"}, every=False)
    at = lines.index("upstreams:")
    assert lines[at : at + 6] == [
        "upstreams:",
        "  chat:",
        "    base_url: https://llm.example/v1  # f.yaml:2, environment HOST",
        "    credential: login  # f.yaml:2",
        "    forward_headers:",
        "      - X-Team  # f.yaml:2",
    ]
    assert [line for line in lines if "default" in line] == []
    assert "server:" not in lines
    assert len(lines) < 30


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
