from typing import Any

import pytest

from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.types import Secret

SECRET = Secret("s3cr3t-of-the-client")
SIGNED = {"client_secret": None, "client_auth": "private_key_jwt", "private_key": SECRET}
CERTIFIED = {"client_secret": None, "client_auth": "mtls", "network": {"client_cert": "/c.pem"}}
FEDERATED = {"client_secret": None, "client_auth": "assertion_file", "assertion_file": "/a"}
BEARER = {"grant_type": "jwt_bearer"}
EXCHANGE = {"grant_type": "token_exchange"}


def built(**settings: Any) -> Oauth2Credential:
    given = {"type": "oauth2", "token_url": "https://sso.example/token", "client_id": "me", "client_secret": SECRET}
    return Oauth2Credential.model_validate({**given, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"client_auth": "form", "extra": {"tenant": SECRET}},
        {**SIGNED, "key_id": "k"},
        {**SIGNED, "issuer": "https://sso.example"},
        {"client_secret": None, "client_auth": "private_key_jwt", "certificate_file": "/app.pem"},
        {**BEARER, "subject": "svc", "certificate_file": "/app.pem"},
        CERTIFIED,
        FEDERATED,
        {**BEARER, "subject_file": "/s"},
        {**BEARER, "subject": "svc", "private_key": SECRET},
        {**BEARER, **SIGNED, "subject": "svc"},
        {**EXCHANGE, "subject_file": "/s"},
        {"client_secret": None, "client_auth": "none", "extra": {"grant_type": SECRET, "apikey": SECRET}},
        {"extra": {"client_id": SECRET, "client_secret": SECRET, "scope": SECRET}},
    ],
)
def test_valid_combinations_have_no_fault(settings):
    assert built(**settings).type == "oauth2"


def test_no_secret_is_printed():
    held = built(client_auth="form", private_key=SECRET, subject="svc", **BEARER, extra={"x": SECRET})
    assert SECRET.reveal() not in f"{held!r}{held}{held.model_dump_json()}"
