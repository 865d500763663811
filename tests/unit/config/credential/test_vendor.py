"""The settings of `entra`, `google` and `aws_bedrock`: which ones combine, and which packages they require."""

import json
import sys

import pytest

from gatepass.config.document import ConfigError
from gatepass.config.load import load

ENTRA = {"type": "entra", "tenant_id": "corp.example", "client_id": "app-1"}
GOOGLE = {"type": "google"}
BEDROCK = {"type": "aws_bedrock", "region": "us-east-1"}
KEYS = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "wJalrXUtnFEMI"}
ROLE = "arn:aws:iam::123456789012:role/x"


@pytest.fixture
def loaded(tmp_path):
    def read(credential, environment=None):
        path = tmp_path / "gatepass.json"
        upstream = {"base_url": "https://llm.example/v1", "credential": "c"}
        path.write_text(json.dumps({"credentials": {"c": credential}, "upstreams": {"u": upstream}}))
        return load(str(path), environment or {}).config

    return read


@pytest.fixture
def reported(loaded):
    def problems(credential):
        with pytest.raises(ConfigError) as caught:
            loaded(credential)
        return [str(problem).partition(": ")[2] for problem in caught.value.problems]

    return problems


@pytest.mark.parametrize(
    "credential",
    [
        {**ENTRA, "client_secret": "x"},
        {**ENTRA, "certificate_file": "/app.pem", "certificate_password": "x"},
        {**ENTRA, "federated_token_file": "/token"},
        {"type": "entra", "managed_identity": True},
        {"type": "entra", "managed_identity": True, "client_id": "id-2"},
        {**ENTRA, "client_secret": "x", "authority_host": "https://login.microsoftonline.us", "scope": "s"},
        GOOGLE,
        {**GOOGLE, "credentials_file": "/key.json", "scope": "a b"},
        {**BEDROCK, **KEYS},
        {**BEDROCK, **KEYS, "session_token": "x", "key_ttl_s": 43_200},
        {**BEDROCK, "web_identity_token_file": "/token", "role_arn": ROLE},
    ],
)
def test_whole_blocks_are_accepted(loaded, credential):
    assert loaded(credential).credentials["c"].type == credential["type"]


@pytest.mark.parametrize(
    ("credential", "module", "extra"),
    [
        ({**ENTRA, "client_secret": "x"}, "azure.identity", "entra"),
        ({**ENTRA, "client_secret": "x"}, "azure", "entra"),
        (GOOGLE, "google.auth", "google"),
        ({**BEDROCK, **KEYS}, "botocore", "aws"),
    ],
)
def test_a_missing_extra_is_named_at_load(monkeypatch, reported, credential, module, extra):
    for name in [name for name in sys.modules if name.partition(".")[0] == module.partition(".")[0]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    kind = credential["type"]
    ways = f"in a clone pip install '.[{extra}]', for the image docker build --build-arg EXTRAS={extra}"
    assert reported(credential) == [f"credentials.c.type: {kind} needs a library that is not installed: {ways}"]
