from collections.abc import Iterator
from typing import Any

import pytest

from gatepass.config.document import ConfigError
from gatepass.config.load import load
from gatepass.config.model import Config
from gatepass.config.upstream import CODE
from gatepass.config.wording import PATTERNS, misspelt


def patterns(schema: Any) -> Iterator[str]:
    """Every pattern of the model, as its JSON schema has them: of values and of names."""
    for name, part in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if name == "pattern" and isinstance(part, str):
            yield part
        if name == "patternProperties":
            yield from part
        if isinstance(part, dict | list):
            yield from patterns(part)


def test_every_pattern_of_the_settings_has_a_message():
    in_schema = set(patterns(Config.model_json_schema()))
    assert in_schema - set(PATTERNS) == set()
    assert set(PATTERNS) - in_schema == {CODE}, "a code may be a number too, and has a schema of its own"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        *(("prot", "port"), ("base_ur", "base_url"), ("base_ulr", "base_url"), ("tocken_ur", "token_url")),
        *(("Port", "port"), ("noproxy", "no_proxy")),
        *((word, None) for word in ("bodies", "expires_in", "trusted", "uploads", "refresh_before", "x")),
    ],
)
def test_only_a_typing_error_is_a_guess(word: str, meant: str | None):
    """`bodies` and `expires_in`, which are retired or foreign, were `codes` and `expires`."""
    known = ["port", "base_url", "token_url", "no_proxy", "codes", "expires", "refresh_token", "proxy", "body_bytes"]
    assert (misspelt(word, known) or None) == meant


@pytest.mark.parametrize(
    ("text", "is_unknown"),
    [
        ("log: {bodies: true}", True),
        ("credentials: {a: {type: other}}", True),
        ("mcp: {a: {url: 'https://x.example/mcp', repeat: [find]}}", True),
        ("upstreams: {a: {base_url: 'https://x.example/v1', rerank_shape: cohere}}", True),
        ("credentials: {a: {type: oauth2, issuer: 'https://x.example', client_id: a}}", True),
        ("credentials: {a: {type: oauth2, client_id: a}}", False),
        ("server: {port: 70000}", False),
        ("credentials: {a: {type: oauth2, grant_type: password}}", True),
        ("access: {keys: [{name: a, operations: [assistants]}]}", True),
        ("access: {keys: [{name: a, role: amdin}]}", False),
        ("log: {format: xml}", False),
    ],
)
def test_the_last_line_about_an_unknown_setting_names_the_page_of_retired_ones(tmp_path, text: str, is_unknown: bool):
    file = tmp_path / "gatepass.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(file), {})
    assert ("docs/upgrade.md" in str(caught.value).splitlines()[-1]) == is_unknown
    assert "did you mean" not in str(caught.value)


HASH = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("upstream: {}", "upstream: is not a setting; did you mean upstreams?"),
        ("access: {key: []}", "access.key: is not a setting; did you mean keys?"),
        (
            f"access: {{keys: [{{name: a, hash: '{HASH}', model: [m]}}]}}",
            ".model: is not a setting; did you mean models?",
        ),
        ("models: {model: {upstrem: a}}", "models.model.upstrem: is not a setting; did you mean upstream?"),
        (
            "credentials: {a: {type: oauth2, audence: a}}",
            "credentials.a.audence: is not a setting; did you mean audience?",
        ),
        # other blocks have `model` and `client_id`
        ("upstreams: {chat: {base_url: 'https://x.example/v1', modle: a}}", "upstreams.chat.modle: is not a setting\n"),
        ("credentials: {a: {type: static, token: t, client_idd: a}}", "credentials.a.client_idd: is not a setting\n"),
    ],
)
def test_a_guess_is_a_setting_of_that_block(tmp_path, text: str, said: str):
    file = tmp_path / "gatepass.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(file), {})
    assert said in str(caught.value)
