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


ISSUER = "issuer: https://sso.corp.example, audience: a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("log: {bodies: true}", "log.bodies: is gone. Start a capture: docs/operations/capture.md."),
        ("profiles: {mine: {drop: [user]}}", "profiles: is gone. Choose a built-in profile in"),
        ("models: {a: {upstream: b, limits: {mode: observe}}}", "models.a.limits.mode: is gone. Remove it"),
        ("models: {a.b: {upstream: b, breaker: {probe: models}}}", "models.a.b.breaker.probe: is gone. Remove it"),
        ("credentials: {a: {type: entra}}", "credentials.a.type: has a value that is gone. Use the recipe"),
        ("credentials: {a: {type: static, token: t, max_ttl_s: 9}}", "credentials.a.max_ttl_s: is gone. Remove it"),
        ("credentials: {a: {type: oauth2, grant_type: password}}", "grant_type: has a value that is gone. Send a form"),
        ("upstreams: {a: {base_url: 'https://x.example/v1', rerank_shape: cohere}}", "is gone. Write `jina`"),
        ("access: {keys: [{name: a, operations: [message_batches]}]}", "operations[0]: has a value that is gone."),
        (
            "access: {keys: [{name: a, mcp: {s: {tools: [b]}}}]}",
            "mcp.s: has a form that is gone. Write a list",
        ),
        (f"access: {{jwt: [{{{ISSUER}, jwks_uri: 'https://x.example/a'}}]}}", "jwks_uri: is gone. Write `jwks: …`"),
        (f"access: {{jwt: [{{{ISSUER}, jwks_file: keys.json}}]}}", "jwks_file: is gone. Write `jwks: …`"),
        (
            f"access: {{jwt: [{{{ISSUER}, callers: [{{claim: a, equals: b, group: people}}]}}]}}",
            "callers[0].name: is missing: metrics name the callers of this row by it; write name: people",
        ),
    ],
)
def test_a_name_that_is_gone_says_what_to_write(tmp_path, text: str, said: str):
    file = tmp_path / "gatepass.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(file), {})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "credentials: {a: {type: other}}",
        "log: {format: xml}",
        "access: {keys: [{name: a, role: amdin}]}",
        "limits: {bodies: 3}",
    ],
)
def test_a_name_that_never_was_is_not_gone(tmp_path, text: str):
    file = tmp_path / "gatepass.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(file), {})
    assert "gone" not in str(caught.value)


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
        ("upstreams: {chat: {base_url: 'https://x.example/v1', modle: a}}", "upstreams.chat.modle: is not a setting"),
        ("credentials: {a: {type: static, token: t, client_idd: a}}", "credentials.a.client_idd: is not a setting"),
    ],
)
def test_a_guess_is_a_setting_of_that_block(tmp_path, text: str, said: str):
    file = tmp_path / "gatepass.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(file), {})
    assert said in str(caught.value)
