"""docs/reference/configuration.md names each variable of gatepass, and each example loads."""

import re
import shlex

import pytest
import trustme
from docs.entries import DOCS
from docs.environment_reference import VARIABLES

from gatepass.config.environment import CLIENT_KEY_VARIABLE, NAMES
from gatepass.config.load import load
from gatepass.config.references import SECRET_VARIABLES

PAGE = (DOCS / "reference/configuration.md").read_text().partition("## Environment variables")[2]
URL = {"GATEPASS_UPSTREAM_URL": "https://llm.corp.example/v1"}
OAUTH2 = {
    "GATEPASS_TOKEN_URL": "https://sso.corp.example/token",
    "GATEPASS_CLIENT_ID": "gatepass",
    "GATEPASS_CLIENT_SECRET": "s" * 20,
}
HTTP_JSON = {"GATEPASS_TOKEN_URL": "https://sso.corp.example/login", "GATEPASS_TOKEN_JSON": '{"id": "bot"}'}
KEYS = {"GATEPASS_KEYS": "k" * 32}


def test_exactly_the_existing_variables_have_an_entry():
    plain = {name for name in NAMES if name.removesuffix("_FILE") not in SECRET_VARIABLES or name in SECRET_VARIABLES}
    assert set(VARIABLES) == plain | {"CONFIG", CLIENT_KEY_VARIABLE}
    for secret in SECRET_VARIABLES:
        assert f"`GATEPASS_{secret}_FILE`" in PAGE


def test_the_chinese_page_of_the_container_names_the_variable_of_each_setting():
    page = (DOCS / "zh/container.md").read_text()
    rows = dict(re.findall(r"^\| (.+) \| `GATEPASS_(\w+)` \|$", page, re.MULTILINE))
    assert {"UPSTREAM_URL", "TOKEN_URL", "CLIENT_AUTH", "CA_FILE", "PROXY", "NO_PROXY"} <= set(rows.values())
    for settings, name in rows.items():
        assert re.findall("`[^`]+`", settings) == re.findall("`[^`]+`", VARIABLES[name]["sets"])


def beside(name: str) -> dict[str, str]:
    """The variables that an example needs."""
    if name in ("TOKEN_JSON", "TOKEN_PATH", "EXPIRES_PATH", "EXPIRES_UNIT"):
        expires = {"GATEPASS_EXPIRES_PATH": "expires_in"} if name == "EXPIRES_UNIT" else {}
        return {**HTTP_JSON, "GATEPASS_TOKEN_PATH": "data.token", **expires}
    if name in ("TOKEN_TYPE", "TOKEN_URL", "CLIENT_ID", "CLIENT_SECRET", "CLIENT_AUTH", "SCOPE"):
        return OAUTH2
    return KEYS if name in ("PROFILE", "HOST") else {}


@pytest.mark.parametrize("name", sorted(VARIABLES.keys() - {"CONFIG", "KEY"}))
def test_an_example_is_accepted(name, tmp_path):
    (example,) = re.findall(rf"`(GATEPASS_{name}=[^`]*)`", PAGE, re.MULTILINE)
    trustme.CA().cert_pem.write_to_path(tmp_path / "corp.pem")
    variable, _, value = shlex.split(example.replace("/etc/ssl", str(tmp_path)))[0].partition("=")
    assert load(None, {**URL, **beside(name), variable: value}).config.upstreams["chat"].base_url


def test_the_example_of_the_page_loads(tmp_path):
    environment = dict(re.findall(r"^export (\w+)=(.*)$", PAGE, re.MULTILINE))
    for name in environment:
        if name.endswith("_FILE"):
            (tmp_path / name).write_text("x" * 32)
            environment[name] = str(tmp_path / name)
    config = load(None, environment).config
    assert list(config.credentials) == ["token"]
    assert config.upstreams["chat"].credential == "token"
