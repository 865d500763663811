import re
from pathlib import Path
from typing import Any

import pytest

from gatepass.config.credential.kinds import KINDS, StaticCredential
from gatepass.config.document import ConfigError
from gatepass.config.load import changed_blocks, load, memory_limit_bytes
from gatepass.config.model import Config

ROOT = Path(__file__).parents[3]
HASH = "sha256:" + "a" * 64
MINIMAL = "upstreams: {chat: {base_url: 'https://llm.example/v1'}}\n"
UPSTREAM = {"base_url": "https://llm.example/v1"}
MODEL = {"upstream": "chat"}
STATIC = {"type": "static", "token": "t" * 20}


@pytest.fixture
def write(tmp_path):
    def written(text, name="gatepass.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return written


def refused(path, environment=None, **flags):
    with pytest.raises(ConfigError) as caught:
        load(path, environment or {}, **flags)
    assert caught.value.__cause__ is None
    directory = f"{Path(path).parent}/" if path else ""
    return str(caught.value).replace(directory, "") if directory else str(caught.value)


def test_example_has_every_block_and_is_valid(write):
    """The commented settings (`#name:`, without a space) load too, together with the rest."""
    text = re.sub(r"(?m)^( *)#(?=[^ #\n])", r"\1", (ROOT / "config.example.yaml").read_text())
    secrets = ("CORP_SECRET", "PORTAL_SECRET", "LIBRECHAT_KEY", "LIBRECHAT_KEY_2", "LLM_KEY", "STORE_PASSWORD")
    environment = {name: f"0123456789-{name}" for name in secrets} | {"STORE_KEY": "k" * 32}
    config = load(write(text), environment).config
    assert config.model_fields_set == set(Config.model_fields)
    assert {credential.type for credential in config.credentials.values()} == set(KINDS)
    assert {upstream.dialect for upstream in config.upstreams.values()} == {"openai", "azure", "ragflow"}
    written = {name for upstream in config.upstreams.values() for name in upstream.model_fields_set}
    assert {
        "token_placement",
        "headers",
        "rejection",
        "network",
        "timeouts",
        "learn",
        "repair",
        "azure",
        "ragflow",
    } <= written
    assert {"rules", "capabilities", "targets", "stream"} <= {
        name for model in config.models.values() for name in model.model_fields_set
    }


def test_the_file_of_the_current_folder_is_read_if_nothing_else_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "gatepass.yaml"
    file.write_text("upstreams: {chat: {base_url: https://here.example/v1}}")
    assert load(None, {}).source == "gatepass.yaml"
    assert load(None, {"GATEPASS_UPSTREAM_URL": "https://llm.example/v1"}).source == "environment"
    (tmp_path / "other.yaml").write_text(file.read_text())
    assert load("other.yaml", {}).source == load(None, {"GATEPASS_CONFIG": "other.yaml"}).source == "other.yaml"


def test_flags_beat_the_environment_and_the_environment_beats_the_file(write):
    path = write(MINIMAL + "server: {host: 127.0.0.2, port: 1}\n")
    environment = {"GATEPASS_HOST": "127.0.0.3", "GATEPASS_PORT": "2"}

    def listening(**flags):
        loaded = load(path, environment, **flags)
        server = loaded.config.server
        return [(server.host, loaded.origin(("server", "host"))), (server.port, loaded.origin(("server", "port")))]

    assert listening() == [("127.0.0.3", "environment GATEPASS_HOST"), (2, "environment GATEPASS_PORT")]
    assert listening(host="127.0.0.4", port=0) == [("127.0.0.4", "--host"), (0, "--port")]


@pytest.mark.parametrize(("text", "is_on"), [("true", True), ("False", False), ("", None)])
def test_a_variable_switches_the_page_on_or_off(write, text, is_on):
    environment = {"GATEPASS_UPSTREAM_URL": "https://llm.corp.example/v1", "GATEPASS_UI": text}
    assert load(None, environment).config.server.ui is is_on
    assert load(write(MINIMAL), environment).config.server.ui is is_on


def test_host_beyond_loopback_needs_keys_for_every_origin_of_the_host(write):
    path = write(MINIMAL)
    for environment, flags, place in (
        ({"GATEPASS_HOST": "0.0.0.0"}, {}, "environment GATEPASS_HOST"),
        ({}, {"host": "0.0.0.0"}, "--host"),
        ({"GATEPASS_HOST": "127.0.0.1"}, {"host": "::"}, "--host"),
    ):
        assert refused(path, environment, **flags).startswith(
            f"{place}: server.host: is reachable from other machines, and there are no keys: run `gatepass keys new`"
        )
    keyed = write(MINIMAL + f"access: {{keys: [{{name: a, hash: '{HASH}'}}]}}\n")
    assert load(keyed, {}, host="0.0.0.0").config.server.host == "0.0.0.0"


def test_references_work_in_texts_only_after_parsing(write):
    path = write(
        'upstreams: {chat: {base_url: "https://${HOST}/v1", credential: "${WHICH}"}}\n'
        'credentials: {corp: {type: static, token: "${T}"}}\n'
        'models: {"${HOST}": {upstream: chat, name: "$$x"}}\n'
    )
    loaded = load(path, {"HOST": "llm.example", "T": "a: [b]\n", "WHICH": "corp"})
    token = loaded.config.credentials["corp"]
    assert isinstance(token, StaticCredential)
    assert token.token.reveal() == "a: [b]\n"
    assert loaded.config.upstreams["chat"].base_url == "https://llm.example/v1"
    assert loaded.config.models["${HOST}"].name == "$x"
    assert loaded.origin(("credentials", "corp", "token")).endswith("gatepass.yaml:2, environment T")


def test_a_rotated_file_arrives_without_a_restart(write, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("one\n")
    loaded = load(write(MINIMAL + f"credentials: {{c: {{type: static, token: '${{file:{secret}}}'}}}}\n"), {})
    token = loaded.config.credentials["c"]
    assert isinstance(token, StaticCredential)
    secret.write_text("two\n")
    assert token.token.reveal() == "two"
    assert loaded.origin(("credentials", "c", "token")).endswith(f"gatepass.yaml:2, file {secret}")


EVERYWHERE = """\
server: {host: "${S}", base_path: "${S}", port: "${S}", nothing: "${S}"}
limits: "${S}"
credentials:
  a: {type: oauth2, token_url: "${S}", client_id: "${S}", client_auth: "${S}", extra: {x: "${S}"}, timeout_s: "${S}"}
  b: {type: http_json, url: "${S}", method: "${S}", json: {x: "${S}"}, form: "${S}", reply: {unit: "${S}"}}
  c: {type: "${S}"}
  d: "${S}"
upstreams:
  u: {base_url: "${S}", dialect: "${S}", credential: "${S}", network: {proxy: "${S}", ca_file: "${S}"}}
  v: {base_url: "https://x", forward_headers: ["${S}"], repeat_stale: "${S}", timeouts: {idle_s: "${S}"}}
operations: {chat: {upstream: "${S}"}, embeddings: "${S}"}
models: {m: {upstream: "${S}", targets: [{upstream: "${S}"}]}, n: "${S}"}
access: {keys: [{name: "${S}", hash: "${S}"}, {name: "${S}", key: "${S}"}, "${S}"], metrics_open: "${S}"}
log: {format: "${S}", level: "${S}"}
"""


def test_no_error_quotes_the_value_of_a_reference(write):
    path = write(EVERYWHERE)
    for before in ("", "https://", "http://u:", "https://h:", "https://[", "sha256:", "${", "/"):
        with pytest.raises(ConfigError) as caught:
            load(path, {"S": f"{before}s3cr3t47"})
        assert len(caught.value.problems) > 25
        assert "s3cr3t" not in f"{caught.value}{caught.value!r}".lower(), before


def config(**blocks: Any) -> Config:
    return Config.model_validate({"upstreams": {"chat": UPSTREAM}, **blocks})


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ({}, {"server": {"port": 8080}, "log": {}}, ()),
        ({}, {"server": {"port": 1, "base_path": "/a"}}, ("server",)),
        ({"credentials": {"corp": STATIC}}, {"credentials": {"corp": dict(STATIC)}}, ()),
        ({"credentials": {"corp": STATIC}}, {"credentials": {"corp": {**STATIC, "token": "u" * 20}}}, ("credentials",)),
        ({"credentials": {"corp": STATIC}}, {"credentials": {"other": STATIC}}, ("credentials",)),
        ({}, {"upstreams": {"chat": {**UPSTREAM, "timeouts": {"idle_s": 300.0}}}}, ()),
        ({}, {"upstreams": {"chat": {**UPSTREAM, "timeouts": {"idle_s": 1.0}}}}, ("upstreams",)),
        ({"models": {"a": MODEL, "b": MODEL}}, {"models": {"b": MODEL, "a": MODEL}}, ("models",)),
        ({}, {"access": {"keys": [{"name": "a", "hash": f"sha256:{0:064}"}]}}, ("access",)),
        ({}, {"store": {"url": "valkey://127.0.0.1", "encryption_key": "k" * 32}}, ("store",)),
    ],
)
def test_blocks_that_differ_are_named_and_explicit_defaults_are_equal(before, after, changed):
    assert changed_blocks(config(**before), config(**after)) == changed


def loaded(folder, text: str, **environment: str) -> Config:
    file = folder / "gatepass.yaml"
    file.write_text(f"upstreams: {{chat: {{base_url: https://llm.example/v1, credential: corp}}}}\n{text}")
    return load(str(file), environment).config


def test_a_secret_in_a_file_is_compared_by_its_reference_and_any_other_by_its_value(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).write_text("secret-1234")

    def with_token(token: str, **environment: str) -> Config:
        return loaded(tmp_path, f'credentials: {{corp: {{type: static, token: "{token}"}}}}', **environment)

    in_file, in_variable = with_token(f"${{file:{tmp_path}/one}}"), with_token("${TOKEN}", TOKEN="secret-1234")
    (tmp_path / "one").write_text("rotated-1234")
    assert changed_blocks(in_file, with_token(f"${{file:{tmp_path}/one}}")) == ()
    assert changed_blocks(in_file, with_token(f"${{file:{tmp_path}/other}}")) == ("credentials",)
    assert changed_blocks(in_variable, with_token("${TOKEN}", TOKEN="secret-1234")) == ()
    assert changed_blocks(in_variable, with_token("${TOKEN}", TOKEN="secret-5678")) == ("credentials",)
    assert changed_blocks(in_variable, with_token("secret-1234")) == ("credentials",)


def test_references_inside_a_request_to_an_issuer_are_compared_too(tmp_path):
    def with_body(text: str, **environment: str) -> Config:
        corp = f"{{type: http_json, url: https://i.example, json: {{user: a, password: '{text}'}}}}"
        return loaded(tmp_path, f"credentials: {{corp: {corp}}}", **environment)

    one = with_body("${WORD}", WORD="a-password")
    assert changed_blocks(one, with_body("${WORD}", WORD="a-password")) == ()
    assert changed_blocks(one, with_body("${WORD}", WORD="another-word")) == ("credentials",)
    assert changed_blocks(one, with_body("${OTHER}", OTHER="a-password")) == ("credentials",)


MIB = 1 << 20
ENVIRONMENT = {"GATEPASS_UPSTREAM_URL": "https://llm.corp.example/v1"}


@pytest.mark.parametrize(("text", "limit_bytes"), [("536870912\n", 512 * MIB), ("max\n", None), (None, None)])
def test_the_memory_limit_is_that_of_the_container(tmp_path, monkeypatch, text, limit_bytes):
    file = tmp_path / "memory.max"
    monkeypatch.setattr("gatepass.config.load.MEMORY_LIMIT", file)
    if text is not None:
        file.write_text(text)
    assert memory_limit_bytes() == limit_bytes


@pytest.mark.parametrize(
    ("memory_bytes", "stated", "held_bytes", "origin"),
    [
        (None, {}, 512 * MIB, "default"),
        (1024 * MIB, {}, 512 * MIB, "default"),
        (512 * MIB, {}, 256 * MIB, "half of the container's memory"),
        (512 * MIB, {"GATEPASS_LIMITS_HELD_BYTES": "7"}, 7, "environment GATEPASS_LIMITS_HELD_BYTES"),
    ],
)
def test_the_default_budget_is_half_of_the_container(memory_bytes, stated, held_bytes, origin):
    loaded = load(None, ENVIRONMENT | stated, memory_bytes=memory_bytes)
    assert loaded.config.limits.held_bytes == held_bytes
    assert loaded.origin(("limits", "held_bytes")) == origin


def test_every_limit_has_a_variable_that_overrides_the_file(tmp_path):
    file = tmp_path / "gatepass.yaml"
    file.write_text("upstreams: {chat: {base_url: https://llm.corp.example/v1}}\nlimits: {body_bytes: 7}\n")
    stated = {"GATEPASS_LIMITS_BODY_BYTES": "8", "GATEPASS_LIMITS_REPLY_BYTES": "5", "GATEPASS_LIMITS_CONNECTIONS": "9"}
    loaded = load(str(file), stated)
    limits = loaded.config.limits
    assert (limits.body_bytes, limits.reply_bytes, limits.connections, loaded.warnings) == (8, 5, 9, ())
    assert loaded.origin(("limits", "body_bytes")) == "environment GATEPASS_LIMITS_BODY_BYTES"
