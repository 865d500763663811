"""Client assertions from a file, and the grants that present another token: jwt_bearer and token_exchange."""

import asyncio
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs

import pytest

from gatepass.errors import TokenUnavailable
from gatepass.observability.redaction import Redactor
from gatepass.tokens import TokenHolder, WaitBudget, build_source
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.conftest import Endpoint
from tests.unit.tokens.scripted import Hang, Mint, ScriptedIssuer, answer, date, failure_of, oauth2, refused, signed

WALL_S = 1_800_000_000
TOKEN_TYPE = "urn:ietf:params:oauth:token-type:"
EXCHANGE = {"grant_type": "token_exchange"}


def form(request: Any) -> dict[str, list[str]]:
    return parse_qs((getattr(request, "content", None) or request.body).decode())


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
        f"the file {file} contains a token that expired 300 s ago: exp 2027-01-15 07:55:00Z (300 s ago); check the "
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
        f"the file {file} cannot be read: No such file or directory; check the program that writes the file "
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
        extra={"subject_token_type": "urn:x:y", "audience": "own"},
        requested_token_type="access_token",
        audience="https://llm.example",
        resource=["urn:a", "urn:b"],
        scope="a b",
    )
    assert form(await endpoint.sent(settings)) == {
        "grant_type": ["urn:ietf:params:oauth:grant-type:token-exchange"],
        "subject_token": [file.read_text().strip()],
        "subject_token_type": ["urn:x:y"],
        "requested_token_type": [TOKEN_TYPE + "access_token"],
        "audience": ["own"],
        "resource": ["urn:a", "urn:b"],
        "scope": ["a b"],
        "client_id": ["me"],
        "client_secret": ["s3cr3t-of-the-client"],
    }


@pytest.mark.parametrize(
    ("issued", "requested", "is_refused"),
    [
        *(("access_token", None, False), ("jwt", "jwt", False), ("urn:x:y", "urn:x:y", False), (None, None, False)),
        *(("refresh_token", "access_token", True), ("id_token", None, True)),
    ],
)
async def test_an_exchange_sends_no_token_of_another_type(endpoint: Endpoint, file, issued, requested, is_refused):
    uri = issued if issued is None or ":" in issued else TOKEN_TYPE + issued
    endpoint.answers(answer({"access_token": "a-token", "token_type": "N_A", "issued_token_type": uri}))
    settings = oauth2(**EXCHANGE, subject_file=str(file), requested_token_type=requested)
    source = endpoint.source(settings)
    if not is_refused:
        assert (await source.fetch()).text == "a-token"
        return
    failure = await failure_of(source.fetch())
    assert failure.is_refused
    assert f"a token of the type {uri}" in failure.reason
    assert "credentials.corp.requested_token_type" in failure.reason


class Chain:
    """`corp`, and `llm` that exchanges the token of `corp`. Use as `async with`."""

    def __init__(self, corp: tuple[object, ...] = (), llm: tuple[object, ...] = (), **settings: object) -> None:
        self.clock = DrivenClock()
        self.corp_issuer = ScriptedIssuer(self.clock, *corp)  # type: ignore[arg-type]
        self.llm_issuer = ScriptedIssuer(self.clock, *llm, otherwise=Mint(text="llm-token"))  # type: ignore[arg-type]
        self.corp = holder("corp", oauth2(), self.corp_issuer, self.clock)
        exchange = oauth2(**EXCHANGE, subject_credential="corp", **settings)
        self.llm = holder("llm", exchange, self.llm_issuer, self.clock, self.corp)

    async def __aenter__(self) -> Self:
        self.llm.start()  # the order of the starts does not matter
        self.corp.start()
        await settle()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.llm.aclose()
        await self.corp.aclose()
        await settle()
        assert [(one.open, one.under_way) for one in (self.corp_issuer, self.llm_issuer)] == [(0, 0)] * 2

    @property
    def presented(self) -> list[str]:
        return [form(one)["subject_token"][0] for one in self.llm_issuer.requests]


def holder(name: str, settings: Any, issuer: ScriptedIssuer, clock: DrivenClock, subject: Any = None) -> TokenHolder:
    source = build_source(name, settings, issuer, clock, subject=subject)
    waits = WaitBudget(settings.timeout_s, random_fraction=lambda: 0.0)
    held = TokenHolder(name, source, clock, Redactor(), waits)
    if subject is not None:
        subject.precede(held)
    return held


async def test_the_subject_is_the_current_token_of_the_other_credential_and_renewed_first():
    async with Chain() as chain:
        assert (await chain.llm.token()).text == "llm-token"
        assert (chain.presented, chain.corp_issuer.calls) == (["token-1"], 1)
        chain.clock.suspend(3600)
        assert (await chain.llm.token()).text == "llm-token"
        assert (chain.presented, chain.corp_issuer.calls) == (["token-1", "token-2"], 2)


@pytest.mark.parametrize(
    "refusal",
    [
        refused("invalid_grant", 400),
        answer({"error": "invalid_request", "error_description": "subject_token is expired"}, 400),
    ],
)
async def test_a_refused_subject_is_renewed_once(refusal):
    async with Chain(llm=(refusal,)) as chain:
        assert (await chain.llm.token()).text == "llm-token"
        assert (chain.presented, chain.corp_issuer.calls) == (["token-1", "token-2"], 2)


async def test_a_subject_refused_twice_is_the_failure_of_the_exchange():
    refusal = refused("invalid_grant", 400)
    async with Chain(llm=(refusal,) * 3) as chain:
        with pytest.raises(TokenUnavailable, match="invalid_grant") as caught:
            await chain.llm.token()
        assert (caught.value.hop, chain.presented) == ("credential:llm", ["token-1", "token-2"])
        await chain.clock.advance(31.0)
        assert (chain.presented[2], chain.corp_issuer.calls) == ("token-2", 2), "its renewal was in vain"


async def test_another_mistake_in_a_request_does_not_renew_the_subject():
    wrong = answer({"error": "invalid_request", "error_description": "unknown audience"}, 400)
    async with Chain(llm=(wrong, wrong)) as chain:
        assert chain.corp_issuer.calls == 1


async def test_a_failure_of_the_subject_names_its_credential():
    async with Chain(corp=(refused(),) * 3) as chain:
        with pytest.raises(TokenUnavailable, match="no token for credential corp: ") as caught:
            await chain.llm.token()
        assert (caught.value.hop, chain.presented) == ("credential:corp", [])


async def test_a_repaired_subject_serves_its_dependants_at_once():
    outage = answer({}, 503)
    async with Chain(corp=(outage,) * 4) as chain:
        await chain.clock.advance(3.6)  # the own attempts of the dependant are at 2 s and 4 s
        assert (chain.corp_issuer.calls, chain.presented) == (4, [])
        await chain.clock.advance(0.2)
        assert (chain.corp_issuer.calls, chain.presented) == (5, ["token-1"])
        assert chain.llm.current() is not None


async def test_a_chain_of_three_names_the_credential_that_hangs():
    async with Chain(corp=(Hang(),) * 9, timeout_s=5.0) as chain:
        exchange = oauth2(**EXCHANGE, subject_credential="llm", timeout_s=2.0)
        third = holder("app", exchange, chain.llm_issuer, chain.clock, chain.llm)
        third.start()
        waiting = asyncio.ensure_future(third.token())
        await chain.clock.advance(2.5)
        expected = r"credential corp has no token in time \(credentials\.app\.timeout_s\)"
        with pytest.raises(TokenUnavailable, match=expected) as caught:
            await waiting
        assert caught.value.hop == "credential:corp"
        await third.aclose()


async def test_a_file_that_only_the_issuers_clock_refuses_is_told_and_tried_again(endpoint: Endpoint, file):
    failure = await endpoint.failure(federated(file), refused("invalid_client", 401, date(WALL_S - 300)))
    assert failure.reason.endswith("; its clock is 300 s behind this machine's. Check both clocks")
    assert failure.kind == "limited"


@pytest.mark.parametrize(("name", "code"), [("assertion_file", "invalid_client"), ("subject_file", "invalid_grant")])
async def test_a_refused_file_is_named_with_its_audience(endpoint: Endpoint, file, name, code):
    file.write_text(signed(aud="https://other.example", exp=WALL_S + 600))
    settings = federated(file) if name == "assertion_file" else oauth2(**EXCHANGE, subject_file=str(file))
    failure = await endpoint.failure(settings, refused(code, 400))
    assert failure.reason.endswith(f"; the token in {file} has the audience https://other.example")
    assert failure.is_refused
