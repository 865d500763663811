"""docs/guides/ragflow_upstream.md: its configuration reaches the documented URLs, and its tables match the code.

The configuration fits deploy/compose.ragflow_upstream.yaml.
"""

import json
import re
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import pytest
import trustme
from ruamel.yaml import YAML

from gatepass.config.load import LoadedConfig, load
from gatepass.config.upstream import RagflowPaths
from gatepass.dialects.ragflow import chat_url
from gatepass.normalize.ragflow_body import LIFTED
from gatepass.proxy.app_state import dialect_of
from gatepass.proxy.routing import RouteTable
from gatepass.replies.error_body import RAGFLOW_STATUS, ragflow_status
from gatepass.sse import dialect_transforms as replies
from gatepass.types import Call, Timeouts
from tests.docs.blocks import blocks
from tests.e2e.container import compose
from tests.rows import CHAT

TEXT = (Path(__file__).parents[2] / "docs/guides/ragflow_upstream.md").read_text()
BLOCK, BOTH = blocks(TEXT, "yaml")
KEYS = {name: f"gp-0123456789abcdef-{name}" for name in ("assistants", "ragflow")}
SECRETS = {"ragflow_key": "ragflow-0123456789", "client_secret": "the-secret-of-the-client"}


def written(block: str, folder: Path) -> dict[str, Any]:
    """Return the configuration of the page, with its secrets in `folder` and the hashes of KEYS."""
    for name, secret in SECRETS.items():
        (folder / name).write_text(secret)
        (folder / name).chmod(0o400)
    tree: dict[str, Any] = YAML(typ="safe").load(block.replace("/run/secrets", str(folder)))
    for key in tree["access"]["keys"]:
        assert key["hash"] == "sha256:…"
        key["hash"] = f"sha256:{sha256(KEYS[key['name']].encode()).hexdigest()}"
    return tree


def loaded(tree: dict[str, Any], folder: Path) -> LoadedConfig:
    (folder / "gatepass.yaml").write_text(json.dumps(tree))
    return load(str(folder / "gatepass.yaml"), {"GATEPASS_HOST": "0.0.0.0"})


@pytest.mark.parametrize(
    ("paths", "model", "path"),
    [
        ("current", "handbook", "/openai/2e3b8f0c5d6e11f0a1b20242ac120003/chat/completions"),
        ("current", "travel-desk", "/agents/chat/completions"),
        ("old", "handbook", "/chats_openai/2e3b8f0c5d6e11f0a1b20242ac120003/chat/completions"),
        ("old", "travel-desk", "/agents_openai/7f1d2c3b5d6e11f0a1b20242ac120003/chat/completions"),
    ],
)
def test_configuration_routes_to_the_assistant_and_the_agent(tmp_path, paths, model, path):
    config = loaded(written(BLOCK.replace("paths: current", f"paths: {paths}"), tmp_path), tmp_path).config
    (target,) = RouteTable(config).route("chat", model).targets
    settings = config.upstreams[target.upstream]
    call = Call("id", CHAT, "me", model, b"{}", ())
    request = dialect_of(settings).encode(call, target, settings.base_url, Timeouts())
    assert request.url == f"http://ragflow-cpu:9380/api/v1{path}"


@pytest.mark.parametrize("tree_of", [partial(written, BLOCK), partial(written, BOTH)], ids=["alone", "both"])
def test_the_configuration_starts_in_the_image_without_a_warning(tmp_path, tree_of):
    assert loaded(tree_of(tmp_path), tmp_path).warnings == ()


def test_the_compose_file_mounts_the_configuration_and_the_secrets_of_the_page():
    whole = compose.document({}, compose.DEPLOY / "compose.ragflow_upstream.yaml")
    own, model = whole["services"]["gatepass"], compose.document(compose.example_variables())["services"]["gatepass"]
    same = model.keys() - {"environment", "secrets", "networks", "volumes"}
    assert {name: own[name] for name in same} == {name: model[name] for name in same}
    configuration, secrets = (mount.split(":") for mount in own["volumes"])
    # the folder: a file that is mounted alone stays the old one when another replaces it
    assert configuration == [".", str(Path(own["environment"]["GATEPASS_CONFIG"]).parent), "ro"]
    folder, target, mode = secrets
    assert mode == "ro"
    assert set(re.findall(r"\$\{file:(.*)/\w+\}", TEXT)) == {target}
    assert set(re.findall(r"/dev/stdin deploy/(secrets)/(\w+)", TEXT)) == {(folder[2:], name) for name in SECRETS}
    assert "Save this as `deploy/gatepass.yaml`" in TEXT
    assert own["ports"] == ["127.0.0.1:8080:8080"]
    assert whole["networks"] == {"ragflow": {"name": "docker_ragflow", "external": True}}
    assert own["networks"] == ["ragflow"]


def test_the_file_of_both_directions_keeps_the_assistants(tmp_path):
    alone, both = written(BLOCK, tmp_path), written(BOTH, tmp_path)
    assert [name for name in alone["models"] if both["models"][name] != alone["models"][name]] == []
    for name in ("credentials", "upstreams"):
        assert both[name]["ragflow"] == alone[name]["ragflow"]


def test_the_settings_in_the_comments_are_a_configuration(tmp_path):
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    config = loaded(written(re.sub(r"(?m)^( *)# ", r"\1", BOTH), tmp_path), tmp_path)
    (target,) = RouteTable(config.config).route("embeddings", "text-embedding-3-small").targets
    assert target.upstream == "embed"
    assert config.config.upstreams["chat"].network.proxy is not None


def test_each_key_is_for_the_models_of_its_direction_alone(tmp_path):
    keys = {key.name: set(key.models or ()) for key in loaded(written(BOTH, tmp_path), tmp_path).config.access.keys}
    assert {name: keys[name] & {"handbook", "gpt-4o"} for name in KEYS} == {
        "assistants": {"handbook"},
        "ragflow": {"gpt-4o"},
    }


@pytest.mark.parametrize("page", ["guides", "zh"])
def test_each_path_of_the_table_is_the_one_that_gatepass_uses(page):
    text = (Path(__file__).parents[2] / f"docs/{page}/ragflow_upstream.md").read_text()
    rows = re.findall(r"^ *\| `(/\S+)`\W+`(/\S+)` \| `(\w+)`.*\|$", text, re.MULTILINE)
    assert text.index(rows[0][0]) < text.index("```yaml")  # before the file that needs the choice
    assert [row[-1] for row in rows] == list(get_args(RagflowPaths))
    for *shown, paths in rows:
        used = [chat_url("https://h/api/v1", name, paths).partition("/api/v1")[2] for name in ("ID", "agent:ID")]
        assert [path.replace("…", "chat/completions") for path in shown] == used


def test_every_code_has_its_status():
    table = TEXT.partition("| code | status |")[2].partition("\n\n")[0]
    reported = {
        int(code): int(status)
        for codes, status in re.findall(r"^\| (.+) \| (\d+) \|$", table, re.MULTILINE)
        for code in re.findall(r"\b1\d\d\b", codes)
        if not re.search("own|quota", codes)
    }
    assert reported == dict(RAGFLOW_STATUS)
    assert ragflow_status(102, "You don't own the chat x") == ragflow_status(102, "Agent not found.") == 404


def test_every_change_has_its_entry():
    assert [name for name in (*replies.NAMES, *LIFTED) if f"`{name}`" not in TEXT] == []
