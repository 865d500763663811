import pytest
from pydantic import TypeAdapter

from gatepass.config.credential.kinds import HERE, KINDS, AnyCredential, place_of
from gatepass.config.references import Reference

CREDENTIAL = TypeAdapter(AnyCredential)
CLIENT = {"client_id": "i", "client_secret": "a-long-secret"}
TENANT = {"tenant_id": "t", "client_id": "i", "client_secret": "a-long-secret"}
PLACES = [
    ({"type": "oauth2", "token_url": "https://sso.corp.example:8443/t?x=1", **CLIENT}, "sso.corp.example:8443"),
    ({"type": "oauth2", "issuer": "https://sso.corp.example/realms/x", **CLIENT}, "sso.corp.example"),
    ({"type": "http_json", "url": "https://portal.corp.example/login?key=k"}, "portal.corp.example"),
    ({"type": "http_json", "preset": "ibm_iam", "apikey": "k"}, "iam.cloud.ibm.com"),
    ({"type": "exec", "command": ["/bin/mint", "--secret"]}, "the program /bin/mint"),
    ({"type": "exec", "command": [Reference.to_variable("MINT", "/bin/mint")]}, "a program"),
    ({"type": "file", "path": "/var/run/t"}, "the file /var/run/t"),
    ({"type": "env", "variable": Reference.to_variable("LLM_TOKEN", "abc")}, "the environment variable LLM_TOKEN"),
    ({"type": "entra", **TENANT}, "login.microsoftonline.com"),
    ({"type": "entra", "managed_identity": True}, "the machine's identity"),
    ({"type": "google", "credentials_file": "/g.json"}, "Google, by /g.json"),
    ({"type": "google"}, "Google, by what the machine has"),
    (
        {"type": "aws_bedrock", "region": "eu-central-1", "profile": "llm", "profiles_file": "/p"},
        "this machine, signed for eu-central-1",
    ),
    ({"type": "static", "token": "k"}, HERE),
    ({"type": "api_key", "key": "k"}, HERE),
]


@pytest.mark.parametrize(("block", "place"), PLACES)
def test_a_place_is_what_people_know_it_by_and_holds_no_secret(block, place):
    assert place_of(CREDENTIAL.validate_python(block)) == place


def test_every_kind_has_a_place():
    kinds = {block["type"] for block, _ in PLACES if isinstance(block, dict)}
    assert kinds == set(KINDS)
