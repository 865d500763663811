"""Which settings differ between two configurations."""

from __future__ import annotations

from typing import Any

import pytest

from gatepass.config.load import changed_settings, load, lost_blocks
from gatepass.config.model import Config
from gatepass.config.yaml_file import parse_yaml

UPSTREAM = {"base_url": "https://llm.example/v1"}
MODEL = {"upstream": "chat"}
STATIC = {"type": "static", "token": "t" * 20}


def config(**blocks: Any) -> Config:
    return Config.model_validate({"upstreams": {"chat": UPSTREAM}, **blocks})


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ({}, {"server": {"port": 8080}, "log": {}}, []),
        ({}, {"server": {"port": 1, "workers": 2}}, ["server.port", "server.workers"]),
        ({"credentials": {"corp": STATIC}}, {"credentials": {"corp": dict(STATIC)}}, []),
        (
            {"credentials": {"corp": STATIC}},
            {"credentials": {"corp": {**STATIC, "token": "u" * 20}}},
            ["credentials.corp"],
        ),
        (
            {"credentials": {"corp": STATIC}},
            {"credentials": {"other": STATIC}},
            ["credentials.corp", "credentials.other"],
        ),
        ({}, {"upstreams": {"chat": {**UPSTREAM, "timeouts": {"idle_s": 300.0}}}}, []),
        ({}, {"upstreams": {"chat": {**UPSTREAM, "timeouts": {"idle_s": 1.0}}}}, ["upstreams.chat"]),
        ({"models": {"a": MODEL, "b": MODEL}}, {"models": {"b": MODEL, "a": MODEL}}, ["models"]),
        ({}, {"access": {"keys": [{"name": "a", "hash": f"sha256:{0:064}"}]}}, ["access.keys"]),
    ],
)
def test_settings_that_differ_are_named_and_explicit_defaults_are_equal(before, after, changed):
    assert changed_settings(config(**before), config(**after)) == changed


def test_a_block_that_is_new_or_gone_is_named_by_its_settings():
    shared = config(store={"url": "valkey://127.0.0.1", "encryption_key": "k" * 32})
    assert {"store.url", "store.encryption_key"} <= set(changed_settings(config(), shared))
    assert changed_settings(config(), shared) == changed_settings(shared, config())


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
    assert changed_settings(in_file, with_token(f"${{file:{tmp_path}/one}}")) == []
    assert changed_settings(in_file, with_token(f"${{file:{tmp_path}/other}}")) == ["credentials.corp"]
    assert changed_settings(in_variable, with_token("${TOKEN}", TOKEN="secret-1234")) == []
    assert changed_settings(in_variable, with_token("${TOKEN}", TOKEN="secret-5678")) == ["credentials.corp"]
    assert changed_settings(in_variable, with_token("secret-1234")) == ["credentials.corp"]


def test_references_inside_a_request_to_an_issuer_are_compared_too(tmp_path):
    def with_body(text: str, **environment: str) -> Config:
        corp = f"{{type: http_json, url: https://i.example, json: {{user: a, password: '{text}'}}}}"
        return loaded(tmp_path, f"credentials: {{corp: {corp}}}", **environment)

    one = with_body("${WORD}", WORD="a-password")
    assert changed_settings(one, with_body("${WORD}", WORD="a-password")) == []
    assert changed_settings(one, with_body("${WORD}", WORD="another-word")) == ["credentials.corp"]
    assert changed_settings(one, with_body("${OTHER}", OTHER="a-password")) == ["credentials.corp"]


def test_blocks_that_a_file_lost_are_named():
    before = parse_yaml("a", '{"upstreams": {}, "server": {}, "log": {}}')
    after = parse_yaml("a", '{"log": {}}')
    after.put(("server", "port"), 80, "--port")
    assert lost_blocks(before, after) == ["upstreams", "server"]
    assert lost_blocks(after, before) == []
