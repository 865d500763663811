from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gatepass.config.credential.oauth2 import ClientAuth, Oauth2Credential
from gatepass.config.document import ConfigError
from gatepass.config.load import load
from gatepass.types import Secret

SECRET = Secret("s3cr3t-of-the-client")
PUBLIC = {"client_secret": None, "client_auth": "none", "grant_type": "refresh_token", "refresh_token": SECRET}
SIGNED = {"client_secret": None, "client_auth": "private_key_jwt", "private_key": SECRET}
CERTIFIED = {"client_secret": None, "client_auth": "mtls", "network": {"client_cert": "/c.pem"}}
FEDERATED = {"client_secret": None, "client_auth": "assertion_file", "assertion_file": "/a"}
BEARER = {"grant_type": "jwt_bearer"}
EXCHANGE = {"grant_type": "token_exchange"}
FOUND = {"token_url": None, "issuer": "https://sso.example"}
LOGIN = {"grant_type": "password", "username": "bot", "password": SECRET}


def built(**settings: Any) -> Oauth2Credential:
    given = {"type": "oauth2", "token_url": "https://sso.example/token", "client_id": "me", "client_secret": SECRET}
    return Oauth2Credential.model_validate({**given, **settings})


def faults(**settings: Any) -> dict[str, str]:
    try:
        built(**settings)
    except ValidationError as error:
        return {".".join(map(str, fault["loc"])): str(fault["ctx"]["error"]) for fault in error.errors()}
    return {}


@pytest.mark.parametrize(
    ("written", "method"),
    [
        *((name, name) for name in ("basic", "form", "private_key_jwt", "assertion_file", "mtls", "none")),
        ("client_secret_basic", "basic"),
        ("client_secret_post", "form"),
        ("tls_client_auth", "mtls"),
        ("self_signed_tls_client_auth", "mtls"),
    ],
)
def test_registered_names_of_oauth_are_synonyms(written, method):
    kinds: TypeAdapter[str] = TypeAdapter(ClientAuth)
    assert kinds.validate_python(written) == method
    assert written in kinds.json_schema()["enum"]


@pytest.mark.parametrize("written", ["Basic", "private_key", "client_secret_jwt", "", None, 5, ["basic"]])
def test_unknown_client_authentication_is_refused(written):
    with pytest.raises(ValidationError):
        TypeAdapter(ClientAuth).validate_python(written)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        FOUND,
        {"client_auth": "form", "extra": {"tenant": SECRET}},
        {**SIGNED, "key_id": "k", "algorithm": "PS256"},
        {**SIGNED, **FOUND, "assertion_audience": "issuer"},
        CERTIFIED,
        FEDERATED,
        {**BEARER, "subject_file": "/s"},
        {**BEARER, "subject_credential": "corp"},
        {**BEARER, "subject": "svc", "private_key": SECRET, "assertion_audience": "https://sso.example"},
        {**BEARER, **SIGNED, "subject": "svc"},
        {**EXCHANGE, "subject_file": "/s", "requested_token_type": "urn:x:y"},
        {**EXCHANGE, "subject_credential": "corp", "resource": ["urn:a", "urn:b"]},
        PUBLIC,
        {**PUBLIC, "refresh_token": None, "refresh_token_file": "/var/lib/refresh"},
        {"client_secret": None, "client_auth": "none", "extra": {"grant_type": SECRET, "apikey": SECRET}},
        LOGIN,
        {**LOGIN, "client_secret": None, "client_auth": "none", "refresh_token": SECRET},
        {"refresh_token": SECRET, "refresh_token_file": "/var/lib/refresh"},
        {"extra": {"client_id": SECRET, "client_secret": SECRET, "scope": SECRET, "refresh_token": SECRET}},
    ],
)
def test_valid_combinations_have_no_fault(settings):
    assert faults(**settings) == {}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"token_url": None}, {"token_url": "is missing (or issuer, whose discovery document names it)"}),
        ({"issuer": "https://sso.example"}, {"issuer": "conflicts with token_url: keep one of them"}),
        (
            {**FOUND, "issuer": "https://sso.example/.well-known/openid-configuration"},
            {"issuer": "is the URL of the discovery document: end it before /.well-known/"},
        ),
        (
            {**FOUND, "issuer": "https://sso.example?x=1"},
            {"issuer": "holds a query: an issuer's name has none (RFC 8414 2)"},
        ),
        (
            {**SIGNED, "assertion_audience": "issuer"},
            {"assertion_audience": "is issuer, but issuer is not set: write the audience itself"},
        ),
        (
            {"assertion_audience": "https://x"},
            {"assertion_audience": "has no effect with client_auth: basic, which signs nothing"},
        ),
    ],
)
def test_token_url_issuer_and_audience_are_consistent(settings, expected):
    assert faults(**settings) == expected


@pytest.mark.parametrize("method", ["basic", "form"])
def test_secret_is_required_if_it_authenticates(method):
    text = f"is missing: client_auth: {method} requires it"
    assert faults(client_auth=method, client_secret=None) == {"client_secret": text}


@pytest.mark.parametrize("settings", [SIGNED, CERTIFIED, PUBLIC])
def test_secret_is_refused_if_it_does_not_authenticate(settings):
    text = f"has no effect with client_auth: {settings['client_auth']}: remove it"
    assert faults(**{**settings, "client_secret": SECRET}) == {"client_secret": text}


def test_certificates_want_one_and_tls():
    assert faults(**{**CERTIFIED, "network": {}}) == {
        "client_auth": "is mtls, which requires a certificate: set network.client_cert"
    }
    plain = "is mtls, and plain HTTP has no certificates: use https"
    assert faults(**CERTIFIED, token_url="http://127.0.0.1/t") == {"client_auth": plain}
    assert faults(**CERTIFIED, token_url=None, issuer="http://127.0.0.1") == {"client_auth": plain}


def test_a_public_client_has_no_client_credentials():
    assert faults(client_auth="none", client_secret=None) == {
        "client_auth": "is none, but the client_credentials grant requires client authentication"
    }


def test_private_key_is_set_only_for_signatures():
    assert faults(**{**SIGNED, "private_key": None}) == {
        "private_key": "is missing: client_auth: private_key_jwt signs with a private key"
    }
    stray = "belongs to client_auth: private_key_jwt"
    given = {"private_key": SECRET, "key_id": "k"}
    assert faults(**given, algorithm="RS256") == dict.fromkeys((*given, "algorithm"), stray)


def test_assertion_file_and_its_method_belong_together():
    assert faults(**{**FEDERATED, "assertion_file": None}) == {
        "assertion_file": "is missing: client_auth: assertion_file reads the assertion there"
    }
    stray = "belongs to client_auth: assertion_file"
    assert faults(assertion_file="/a") == {"assertion_file": stray}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            BEARER,
            {"subject_file": "is missing (or subject_credential or subject): grant_type: jwt_bearer presents a token"},
        ),
        (
            EXCHANGE,
            {"subject_file": "is missing (or subject_credential): grant_type: token_exchange presents a token"},
        ),
        (
            {**EXCHANGE, "subject_file": "/s", "subject_credential": "corp"},
            {"subject_credential": "conflicts with subject_file: keep one of them"},
        ),
        (
            {**EXCHANGE, "subject_file": "/s", "subject": "svc"},
            {"subject": "belongs to grant_type: jwt_bearer"},
        ),
        (
            {"subject_file": "/s"},
            {"subject_file": "belongs to grant_type: jwt_bearer or token_exchange"},
        ),
        (
            {**BEARER, "subject": "svc"},
            {"private_key": "is missing: gatepass signs the assertion about subject with it"},
        ),
        (
            {**BEARER, "subject_file": "/s", "requested_token_type": "jwt"},
            {"requested_token_type": "belongs to grant_type: token_exchange"},
        ),
        (
            {**EXCHANGE, "subject_file": "/s", "refresh_token": SECRET},
            {
                "refresh_token": "has no effect with grant_type: token_exchange, which presents a token each time: "
                "remove it"
            },
        ),
    ],
)
def test_a_grant_that_presents_a_token_has_one_place_for_it(settings, expected):
    assert faults(**settings) == expected


def test_a_token_type_is_a_uri_or_a_short_name():
    assert faults(**EXCHANGE, subject_file="/s", requested_token_type="acces_token") == {
        "requested_token_type": "is neither a URI nor one of access_token, refresh_token, id_token, saml1, saml2, jwt"
    }


def test_each_grant_has_what_it_signs_in_with():
    assert faults(grant_type="password") == {
        "username": "is missing: grant_type: password requires it",
        "password": "is missing: grant_type: password requires it",
    }
    assert faults(username="bot", password=SECRET) == {
        "username": "belongs to grant_type: password",
        "password": "belongs to grant_type: password",
    }
    assert faults(grant_type="refresh_token") == {
        "refresh_token": "is missing (or refresh_token_file, which holds one)"
    }


def test_empty_client_id_is_refused():
    with pytest.raises(ValidationError, match="at least 1 character"):
        built(client_id="")


@pytest.mark.parametrize(
    ("settings", "refreshes"),
    [
        ({}, False),
        (LOGIN, True),
        (PUBLIC, True),
        ({"refresh_token": SECRET}, True),
        ({"refresh_token_file": "/x"}, True),
    ],
)
def test_refresh_tokens_are_used_if_the_configuration_can_store_them(settings, refreshes):
    assert built(**settings).refreshes is refreshes


def test_no_secret_is_printed():
    held = built(**LOGIN, refresh_token=SECRET, client_auth="form", extra={"x": SECRET})
    assert SECRET.reveal() not in f"{held!r}{held}{held.model_dump_json()}"


def test_each_fault_is_reported_at_its_line(tmp_path):
    file = tmp_path / "gatepass.yaml"
    file.write_text(
        "upstreams: {chat: {base_url: https://llm.example/v1, credential: corp}}\n"
        "credentials:\n"
        "  corp:\n"
        "    type: oauth2\n"
        "    client_id: me\n"
        "    client_auth: private_key_jwt\n"
        "    client_secret: ${SECRET}\n"
        "    username: bot\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(str(file), {"SECRET": "s3cr3t-of-the-client"})
    reported = [str(problem).removeprefix(f"{file}:") for problem in caught.value.problems]
    assert reported == [
        "3: credentials.corp.token_url: is missing (or issuer, whose discovery document names it)",
        "3: credentials.corp.private_key: is missing: client_auth: private_key_jwt signs with a private key",
        "7: credentials.corp.client_secret: has no effect with client_auth: private_key_jwt: remove it",
        "8: credentials.corp.username: belongs to grant_type: password",
    ]
