"""Client assertions from a file, and the grants that present another token: jwt_bearer and token_exchange."""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.unit.tokens.conftest import Endpoint
from tests.unit.tokens.scripted import answer, date, failure_of, oauth2, refused, signed

WALL_S = 1_800_000_000
TOKEN_TYPE = "urn:ietf:params:oauth:token-type:"
EXCHANGE = {"grant_type": "token_exchange"}


def form(request: Any) -> dict[str, list[str]]:
    return parse_qs(request.content.decode())


def federated(file: Path, **settings: object):
    given = {"client_auth": "assertion_file", "client_secret": None, "assertion_file": str(file)}
    return oauth2(**{**given, **settings})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "assertion"
    path.write_text(signed(iss="k8s", exp=WALL_S + 600) + "\n")
    return path


async def test_a_rotated_assertion_goes_with_the_next_fetch(endpoint: Endpoint, file):
    source = endpoint.source(federated(file))
    await source.fetch()
    before = [secret.reveal() for secret in source.secrets()]
    rotated = file.with_name("next")
    rotated.write_text(signed(iss="k8s", exp=WALL_S + 4000))
    rotated.replace(file)
    assert [secret.reveal() for secret in source.secrets()] != before  # a refusal is tried again at once
    await source.fetch()
    assert form(endpoint.requests[1])["client_assertion"] == [file.read_text()]


@pytest.mark.parametrize("name", ["assertion_file", "subject_file"])
async def test_an_expired_file_is_named_with_its_end_and_nothing_is_sent(endpoint: Endpoint, file, name):
    file.write_text(signed(iss="k8s", exp=WALL_S - 300))
    settings = federated(file) if name == "assertion_file" else oauth2(**EXCHANGE, subject_file=str(file))
    failure = await endpoint.failure(settings)
    assert failure.reason == (
        f"the file {file} contains a token that expired 300 s ago: exp 2027-01-15 07:55:00Z (300 s ago). Check the "
        f"program that writes the file and the clock of this machine (credentials.corp.{name})"
    )
    assert (failure.is_refused, endpoint.requests) == (False, [])


async def test_a_file_that_vanishes_is_named_and_works_again_when_it_returns(endpoint: Endpoint, file):
    source = endpoint.source(federated(file))
    await source.fetch()
    text = file.read_text()
    file.unlink()
    failure = await failure_of(source.fetch())
    assert failure.reason == (
        f"the file {file} cannot be read: No such file or directory. Check the program that writes the file "
        "(credentials.corp.assertion_file)"
    )
    assert (failure.is_refused, len(endpoint.requests)) == (False, 1)
    file.write_text(text)
    await source.fetch()
    assert form(endpoint.requests[1])["client_assertion"] == [text.strip()]


async def test_an_echoed_assertion_or_subject_is_masked(endpoint: Endpoint, file):
    subject = file.with_name("subject")
    subject.write_text(signed(iss="corp", exp=WALL_S + 600))
    shown = f"{file.read_text().strip()} {subject.read_text()}"
    settings = federated(file, **EXCHANGE, subject_file=str(subject))
    reply = answer({"error": "invalid_client", "error_description": shown}, 401)
    assert (await endpoint.failure(settings, reply)).reason.endswith("invalid_client: *** ***")


async def test_jwt_bearer_presents_the_assertion_in_a_file(endpoint: Endpoint, file):
    sent = form(await endpoint.sent(oauth2(grant_type="jwt_bearer", subject_file=str(file), scope="llm")))
    assert {name: sent[name] for name in ("grant_type", "assertion", "scope")} == {
        "grant_type": ["urn:ietf:params:oauth:grant-type:jwt-bearer"],
        "assertion": [file.read_text().strip()],
        "scope": ["llm"],
    }


async def test_token_exchange_sends_the_fields_of_rfc_8693(endpoint: Endpoint, file):
    settings = oauth2(
        **EXCHANGE,
        subject_file=str(file),
        extra={
            "subject_token_type": "urn:x:y",
            "audience": "own",
            "requested_token_type": TOKEN_TYPE + "access_token",
            "resource": "urn:a",
        },
        audience="https://llm.example",
        scope="a b",
    )
    assert form(await endpoint.sent(settings)) == {
        "grant_type": ["urn:ietf:params:oauth:grant-type:token-exchange"],
        "subject_token": [file.read_text().strip()],
        "subject_token_type": ["urn:x:y"],
        "requested_token_type": [TOKEN_TYPE + "access_token"],
        "audience": ["own"],
        "resource": ["urn:a"],
        "scope": ["a b"],
        "client_id": ["me"],
        "client_secret": ["s3cr3t-of-the-client"],
    }


async def test_a_file_that_only_the_issuers_clock_refuses_is_told_and_tried_again(endpoint: Endpoint, file):
    failure = await endpoint.failure(federated(file), refused("invalid_client", 401, date(WALL_S - 300)))
    assert failure.reason.endswith("; its clock is 300 s behind this machine's. Check both clocks")
    assert failure.kind == "limited"


@pytest.mark.parametrize(("name", "code"), [("assertion_file", "invalid_client"), ("subject_file", "invalid_grant")])
async def test_a_refused_file_is_named_with_its_audience(endpoint: Endpoint, file, name, code):
    file.write_text(signed(aud="https://other.example", exp=WALL_S + 600))
    settings = federated(file) if name == "assertion_file" else oauth2(**EXCHANGE, subject_file=str(file))
    failure = await endpoint.failure(settings, refused(code, 400))
    assert failure.why.endswith(f"; the token in {file} has the audience https://other.example")
    assert failure.is_refused
    file.write_text("opaque-text")
    assert "audience" not in (await endpoint.failure(settings, refused(code, 400))).why
