"""Who configures no credential of a kind loads neither its source nor the libraries that it wants."""

import json
import subprocess
import sys

import pytest

HTTP_CLIENT = ("httpx2", "httpcore2", "h11", "anyio._backends")
LIBRARIES = ("azure", "msal", "google", "botocore", "urllib3", "requests", "jwt", "cryptography")
SOURCES = ("vendor", "oauth2.source", "oauth2.signer", "http_json", "command", "file", "environment", "issuer")
CREDENTIALS = {
    "static": "token: abcdefgh",
    "http_json": "url: https://portal.example/login",
    "exec": "command: [/bin/true]",
    "oauth2": "token_url: https://sso.example/token, client_id: me, client_secret: abcdefgh",
    "oauth2 with a signed secret": "token_url: https://sso.example/token, client_id: me, client_auth: secret_jwt, "
    "client_secret: 0123456789abcdef0123456789abcdef",
}
PROBE = """
import json, sys
import gatepass.app, gatepass.cli
from gatepass.config.load import load
from gatepass.gate import build_gate
build_gate(load(sys.argv[1], {}).config)
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict[str, list[str]]:
    """The modules of a process that serves with one credential, by its kind."""
    found = {}
    for kind, settings in CREDENTIALS.items():
        path = tmp_path_factory.mktemp("lazy") / "gatepass.yaml"
        own = f"{{type: {kind.partition(' ')[0]}, {settings}}}"
        path.write_text(
            f"credentials: {{corp: {own}}}\nupstreams: {{chat: {{base_url: https://llm.example/v1, credential: corp}}}}"
        )
        ran = subprocess.run(
            [sys.executable, "-c", PROBE, path], capture_output=True, text=True, timeout=60, check=True
        )
        found[kind] = json.loads(ran.stdout)
    return found


def of(modules: list[str], *names: str) -> set[str]:
    return {name for name in names if any(f"{module}.".startswith(f"{name}.") for module in modules)}


def sources(modules: list[str]) -> set[str]:
    found = of(modules, *(f"gatepass.tokens.{name}" for name in SOURCES))
    return {name.removeprefix("gatepass.tokens.") for name in found}


@pytest.mark.parametrize("kind", [kind for kind in CREDENTIALS if "signed" not in kind])
def test_no_library_is_loaded_that_the_credentials_do_not_want(loaded, kind):
    assert of(loaded[kind], *LIBRARIES) == set()


@pytest.mark.parametrize("kind", ["static", "exec"])
def test_the_http_client_of_token_endpoints_is_not_loaded_for_a_credential_that_asks_nobody(loaded, kind):
    """It takes 9 MiB and a tenth of a second."""
    assert of(loaded[kind], *HTTP_CLIENT) == set()


def test_no_source_is_loaded_that_is_not_configured(loaded):
    assert {kind: sources(modules) for kind, modules in loaded.items()} == {
        "static": set(),
        "http_json": {"http_json", "issuer"},
        "exec": {"command"},
        "oauth2": {"oauth2.source", "issuer", "file"},  # it watches its refresh token's file
        "oauth2 with a signed secret": {"oauth2.source", "oauth2.signer", "issuer", "file"},
    }


def test_what_signs_loads_what_it_signs_with(loaded):
    assert "jwt" in loaded["oauth2 with a signed secret"]
