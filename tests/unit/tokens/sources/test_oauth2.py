from __future__ import annotations

import base64
from urllib.parse import parse_qs

import pytest

from gatepass.types import OutboundRequest, Secret
from tests.unit.tokens.conftest import Endpoint
from tests.unit.tokens.scripted import SECRET, failure_of, oauth2


async def sent(endpoint: Endpoint, **settings: object) -> OutboundRequest:
    await endpoint.source(oauth2(**settings)).fetch()
    return endpoint.requests[0]


async def test_the_secret_goes_by_basic_form_encoded_before_it_is_joined(endpoint: Endpoint):
    request = await sent(endpoint, client_auth="basic", client_id="a:b", client_secret=Secret("p ä%&+"))
    pair = base64.b64encode(b"a%3Ab:p+%C3%A4%25%26%2B")
    assert request == OutboundRequest(
        "POST",
        "https://sso.example/token",
        (
            (b"accept", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"gatepass"),
            (b"content-type", b"application/x-www-form-urlencoded"),
            (b"authorization", b"Basic " + pair),
        ),
        b"grant_type=client_credentials",
    )


async def test_scope_audience_and_extra_fields_are_sent(endpoint: Endpoint):
    request = await sent(
        endpoint,
        client_auth="basic",
        scope="a b",
        audience="https://api.example",
        resource="urn:x",
        extra={
            "audience": Secret("own"),
            "tenant": Secret("t 1"),
            "grant_type": Secret("urn:ibm:params:oauth:grant-type:apikey"),
        },
    )
    assert parse_qs(request.body.decode()) == {
        "grant_type": ["urn:ibm:params:oauth:grant-type:apikey"],
        "scope": ["a b"],
        "audience": ["own"],
        "resource": ["urn:x"],
        "tenant": ["t 1"],
    }


async def test_missing_file_is_a_failure_without_a_request(endpoint: Endpoint):
    def gone() -> str:
        raise ValueError("the file x cannot be read")

    source = endpoint.source(oauth2(client_secret=Secret(gone)))
    assert (await failure_of(source.fetch())).reason == "client_secret: the file x cannot be read"
    assert endpoint.requests == []


@pytest.mark.parametrize("auth", ["basic", "form"])
def test_its_secrets_are_known_in_the_forms_in_which_they_travel(endpoint: Endpoint, auth):
    extra = {"assertion": Secret("an-assertion"), "grant_type": Secret("password")}
    source = endpoint.source(oauth2(client_auth=auth, extra=extra))
    pair = base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert [secret.reveal() for secret in source.secrets()] == [SECRET, pair, "an-assertion"]
