import pytest
from pydantic import TypeAdapter

from gatepass.config.credential.kinds import KINDS, AnyCredential, ApiKeyCredential, ExecCredential, token_location
from gatepass.config.network import TokenPlacement
from gatepass.config.references import Reference
from gatepass.types import Secret

CREDENTIAL = TypeAdapter(AnyCredential)
CLIENT = {"client_id": "i", "client_secret": "a-long-secret"}
PLACES = [
    ({"type": "oauth2", "token_url": "https://sso.corp.example:8443/t?x=1", **CLIENT}, "sso.corp.example:8443"),
    ({"type": "http_json", "url": "https://portal.corp.example/login?key=k"}, "portal.corp.example"),
    ({"type": "http_json", "url": "https://iam.cloud.ibm.com/identity/token"}, "iam.cloud.ibm.com"),
    ({"type": "exec", "command": ["/bin/mint", "--secret"]}, "the program /bin/mint"),
    ({"type": "exec", "command": [Reference.to_variable("MINT", "/bin/mint")]}, "a program"),
    ({"type": "file", "path": "/var/run/t"}, "the file /var/run/t"),
    ({"type": "static", "token": "k"}, "the configuration"),
    ({"type": "api_key", "key": "k"}, "the configuration"),
]


@pytest.mark.parametrize(("block", "place"), PLACES)
def test_token_location_is_recognizable_and_contains_no_secret(block, place):
    assert token_location(CREDENTIAL.validate_python(block)) == place


def test_every_credential_type_has_a_location():
    kinds = {block["type"] for block, _ in PLACES if isinstance(block, dict)}
    assert kinds == set(KINDS)


KEY = Reference.to_variable("KEY", "top-secret-value")


def api_key(**more: object) -> ApiKeyCredential:
    return ApiKeyCredential.model_validate({"type": "api_key", "key": KEY, **more})


@pytest.mark.parametrize(
    ("settings", "token_placement"),
    [
        ({}, TokenPlacement(headers={"api-key": "{token}"})),
        ({"header": "X-Key"}, TokenPlacement(headers={"X-Key": "{token}"})),
        ({"query": "key"}, TokenPlacement(query="key")),
        ({"header": "X-Key", "query": "key"}, TokenPlacement(headers={"X-Key": "{token}"}, query="key")),
        ({"token_placement": {"headers": {"X-K": "k={token}"}}}, TokenPlacement(headers={"X-K": "k={token}"})),
    ],
)
def test_an_api_key_is_at_its_configured_place(settings, token_placement):
    assert api_key(**settings).placement == token_placement


def test_arguments_are_shown_and_those_by_reference_hidden():
    settings = ExecCredential.model_validate({"type": "exec", "command": ["login", KEY], "env": {"A": "b-secret"}})
    assert settings.model_dump(mode="json")["command"] == ["login", "(hidden)"]
    assert "secret" not in f"{settings!r}{settings.model_dump()}"
    assert isinstance(settings.command[1], Secret)
