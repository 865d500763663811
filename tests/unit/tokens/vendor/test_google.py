import asyncio
import json
import threading
import time
from typing import Any

import pytest
from google.oauth2.service_account import Credentials

from gatepass.tokens.secrets import secret_values
from gatepass.tokens.source import build_source
from gatepass.tokens.vendor.google import GoogleSource
from tests.unit.threads import BOUND_S, OneThread
from tests.unit.tokens.keys import private_pem
from tests.unit.tokens.scripted import Answer, Broken, Hang, Mint, ScriptedIssuer, answer, failure_of, form_of, refused
from tests.unit.tokens.vendor.accounts import SECRET, file_of, google, logs_nothing_of, present, service_account, user

TOKEN_URL = "https://oauth2.googleapis.com/token"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
PERSON = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/bot@x.iam.gserviceaccount.com"
IMPERSONATED = {
    "type": "impersonated_service_account",
    "service_account_impersonation_url": f"{PERSON}:generateAccessToken",
    "source_credentials": user(),
}
FEDERATED = {
    "type": "external_account",
    "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    "token_url": "https://sts.googleapis.com/v1/token",
}


def source(issuer, environment=None, **settings):
    return GoogleSource("corp", google(**settings), issuer, issuer.clock, environment or {})


async def test_every_fetch_mints_and_reads_the_file_anew(tmp_path):
    issuer = ScriptedIssuer(present())
    token_source = source(issuer, credentials_file=file_of(tmp_path, service_account()))
    assert [(await token_source.fetch()).text for _ in range(2)] == ["token-1", "token-2"]
    file_of(tmp_path, service_account(token_uri="https://elsewhere.example/token"))
    await token_source.fetch()
    assert issuer.requests[-1].url == "https://elsewhere.example/token"


def test_a_key_is_parsed_once_and_each_fetch_has_an_object_of_its_own():
    token_source, document = source(ScriptedIssuer(present())), service_account()
    first, second = (token_source.credentials_of(dict(document), "file") for _ in range(2))
    changed = token_source.credentials_of({**document, "private_key": private_pem("other-rsa")}, "file")
    assert first is not second
    signers = [one.signer for one in (first, second, changed) if isinstance(one, Credentials)]
    assert [one is signers[0] for one in signers] == [True, True, False]


async def test_a_users_refresh_token_is_exchanged(tmp_path):
    issuer = ScriptedIssuer(present())
    await source(issuer, credentials_file=file_of(tmp_path, user())).fetch()
    assert issuer.requests[0].url == TOKEN_URL
    assert form_of(issuer.requests[-1]) == {
        "grant_type": "refresh_token",
        "client_id": "client-1",
        "client_secret": SECRET,
        "refresh_token": "1//refresh-token-of-the-user",
    }


async def test_token_of_an_impersonated_account_is_requested_with_the_source_token(tmp_path):
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1_800))
    issuer = ScriptedIssuer(present(), Mint(text="own-token"), answer({"accessToken": "theirs", "expireTime": ends}))
    token = await source(issuer, credentials_file=file_of(tmp_path, IMPERSONATED)).fetch()
    assert token.text == "theirs"
    assert token.lifetime_s == pytest.approx(1_800, abs=2)
    asked = issuer.requests[1]
    assert (asked.url, dict(asked.headers)[b"authorization"]) == (f"{PERSON}:generateAccessToken", b"Bearer own-token")
    assert json.loads(asked.body)["scope"] == [SCOPE]


async def test_federated_credentials_exchange_a_projected_token(tmp_path):
    projected = tmp_path / "projected"
    projected.write_text("projected-token-of-the-pod")
    document = {**FEDERATED, "credential_source": {"file": str(projected)}}
    issuer = ScriptedIssuer(present(), Mint(life=3_600), refused("invalid_grant", 400))
    token_source = source(issuer, credentials_file=file_of(tmp_path, document))
    token = await token_source.fetch()
    assert (token.text, token.lifetime_s) == ("token-1", 3_600)
    assert form_of(issuer.requests[-1])["subject_token"] == "projected-token-of-the-pod"
    assert (await failure_of(token_source.fetch())).reason == (
        "the issuer refused the client: sts.googleapis.com answered 400: invalid_grant: No."
    )


async def test_federated_credentials_may_fetch_their_proof(tmp_path):
    place = {"url": "http://169.254.169.254/proof", "headers": {"Metadata": "true"}}
    document = {**FEDERATED, "credential_source": place}
    issuer = ScriptedIssuer(present(), Answer(200, b"proof-of-the-machine"))
    await source(issuer, credentials_file=file_of(tmp_path, document)).fetch()
    assert issuer.requests[0].url == "http://169.254.169.254/proof"
    assert dict(issuer.requests[0].headers)[b"metadata"] == b"true"
    assert form_of(issuer.requests[-1])["subject_token"] == "proof-of-the-machine"


@pytest.mark.parametrize(
    ("member", "value", "expected"),
    [
        ("executable", {"command": "/bin/true"}, "takes its proof from a program: run it with a source of type exec"),
        ("certificate", {"use_default_certificate_config": True}, "takes its proof from a client certificate"),
        ("environment_id", "aws1", "takes its proof from AWS keys of the machine"),
    ],
)
async def test_proofs_that_go_past_the_network_are_refused_by_name(tmp_path, member, value, expected):
    issuer = ScriptedIssuer(present())
    path = file_of(tmp_path, {**FEDERATED, "credential_source": {member: value}})
    failure = await failure_of(source(issuer, credentials_file=path).fetch())
    assert failure.reason.startswith(f"{path} {expected}")
    assert issuer.calls == 0


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("{", "the file {} is not JSON"),
        ("[" * 100_000, "the file {} is larger than 65536 bytes: that is not a secret"),
        ("[]", "the file {} contains no JSON object"),
        ({"type": "gdch_service_account"}, "{} contains no credentials of a supported type: service_account"),
        ({"type": "service_account"}, "google-auth: "),
        (service_account(private_key="no key"), "google-auth: "),
        ({"type": "external_account"}, "google-auth: "),
        ({**FEDERATED, "credential_source": "x"}, "google-auth: "),
        ({**FEDERATED, "credential_source": {"file": "/nowhere"}}, "google-auth: "),
    ],
)
async def test_a_file_with_faults_is_reported_without_a_request(tmp_path, document, expected):
    issuer, path = ScriptedIssuer(present()), file_of(tmp_path, document)
    failure = await failure_of(source(issuer, credentials_file=path).fetch())
    assert expected.format(path) in failure.reason
    assert (failure.is_refused, issuer.calls) == (False, 0)


@pytest.mark.parametrize(
    ("reply", "expected", "definite"),
    [
        (refused("invalid_grant", 400), "the issuer refused the client: {} answered 400: invalid_grant: No.", True),
        (answer({"hi": 1}), "{} answered without a token; the reply has hi", False),
        (answer({"access_token": "t", "expires_in": "soon"}), "google-auth cannot use the answer of {}", False),
        (answer({"access_token": None, "expires_in": 9}), "{} answered without a token", False),
        (Broken(), "no connection to {} (refused)", False),
    ],
)
async def test_each_failure_quotes_its_source_after_one_request(tmp_path, reply, expected, definite):
    issuer = ScriptedIssuer(present(), otherwise=reply)
    failure = await failure_of(source(issuer, credentials_file=file_of(tmp_path, service_account())).fetch())
    assert failure.reason.startswith(expected.format("oauth2.googleapis.com"))
    assert (failure.is_refused, issuer.calls) == (definite, 1)


async def test_application_default_credentials_are_looked_for_in_googles_order(tmp_path):
    issuer = ScriptedIssuer(present())
    named, usual = tmp_path / "named.json", tmp_path / "home" / ".config" / "gcloud"
    usual.mkdir(parents=True)
    home = {"HOME": str(tmp_path / "home")}
    document = service_account(token_uri="https://{}.example/token")

    async def asked(environment: dict[str, str]) -> str:
        await source(issuer, environment).fetch()
        return issuer.requests[-1].url.partition("?")[0]

    metadata = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"
    assert await asked(home) == metadata
    assert await asked({}) == metadata
    (usual / "application_default_credentials.json").write_text(json.dumps(document).replace("{}", "usual"))
    assert await asked(home) == "https://usual.example/token"
    named.write_text(json.dumps(document).replace("{}", "named"))
    assert await asked({**home, "GOOGLE_APPLICATION_CREDENTIALS": str(named)}) == "https://named.example/token"
    moved = {"CLOUDSDK_CONFIG": str(usual)}
    assert await asked(moved) == "https://usual.example/token"


async def test_inaccessible_home_is_treated_as_missing(monkeypatch):
    """Distroless images set HOME=/root and run as another user."""

    def stat(path: Any, **_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    issuer = ScriptedIssuer(present(), Mint(life=1_799, text="ya29.machine"))
    token_source = source(issuer, {"HOME": "/root"})
    monkeypatch.setattr("os.stat", stat)
    assert token_source.secrets() == ()
    assert (await token_source.fetch()).text == "ya29.machine"


async def test_the_environment_is_gatepasss_own(monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", file_of(tmp_path, user()))
    issuer = ScriptedIssuer(present())
    assert (await build_source("corp", google(), issuer, issuer.clock).fetch()).text == "token-1"
    assert form_of(issuer.requests[-1])["refresh_token"] == "1//refresh-token-of-the-user"


async def test_metadata_server_returns_the_machines_token():
    issuer = ScriptedIssuer(present(), Mint(life=1_799, text="ya29.machine"))
    token = await source(issuer, {"GCE_METADATA_HOST": "127.0.0.1:8080"}, scope="https://a https://b").fetch()
    assert (token.text, token.lifetime_s) == ("ya29.machine", 1_799)
    asked = issuer.requests[0]
    assert asked.url == (
        "http://127.0.0.1:8080/computeMetadata/v1/instance/service-accounts/default/token"
        "?scopes=https%3A%2F%2Fa%2Chttps%3A%2F%2Fb"
    )
    assert (asked.method, dict(asked.headers)[b"metadata-flavor"]) == ("GET", b"Google")


class HeldSource(GoogleSource):
    """The thread waits before its first request until `go`. `waiting` reports it to the loop."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.waiting, self.go = asyncio.Event(), threading.Event()
        self._loop = asyncio.get_running_loop()

    def credentials_of(self, *given: Any) -> Any:
        self._loop.call_soon_threadsafe(self.waiting.set)
        assert self.go.wait(BOUND_S)
        return super().credentials_of(*given)


async def test_a_fetch_that_is_cancelled_before_its_first_request_sends_none(tmp_path):
    thread, issuer = OneThread.of_this_loop(), ScriptedIssuer(present())
    settings = google(credentials_file=file_of(tmp_path, service_account()))
    held = HeldSource("corp", settings, issuer, issuer.clock, {})
    task = asyncio.create_task(held.fetch())
    await asyncio.wait_for(held.waiting.wait(), BOUND_S)
    task.cancel()
    await asyncio.wait({task})
    held.go.set()
    await thread.rest()
    assert (task.cancelled(), issuer.calls) == (True, 0)


async def test_nothing_that_is_secret_is_logged_at_any_level(tmp_path, caplog):
    words = answer({"error": f"not {SECRET}"}, 400)
    issuer = ScriptedIssuer(present(), Mint(text="a-token-nobody-reads"), words, Broken())
    token_source = source(issuer, credentials_file=file_of(tmp_path, user()))
    with logs_nothing_of(caplog, ("google",), SECRET, "a-token-nobody-reads", "1//refresh"):
        await token_source.fetch()
        assert SECRET not in (await failure_of(token_source.fetch())).reason
        await failure_of(token_source.fetch())


def test_secrets_are_the_files_as_it_stands_now(tmp_path):
    issuer = ScriptedIssuer(present())
    token_source = source(issuer, credentials_file=file_of(tmp_path, service_account()))
    assert secret_values(token_source.secrets()) == (private_pem("rsa"),)
    file_of(tmp_path, {"type": "impersonated_service_account", "source_credentials": user()})
    assert secret_values(token_source.secrets()) == (SECRET, "1//refresh-token-of-the-user")
    file_of(tmp_path, "{")
    assert token_source.secrets() == ()
    assert source(issuer).secrets() == ()


async def test_cancelled_in_a_request_it_leaves_nothing_open_and_asks_no_more(tmp_path):
    thread, issuer = OneThread.of_this_loop(), ScriptedIssuer(present(), Hang())
    task = asyncio.create_task(source(issuer, credentials_file=file_of(tmp_path, IMPERSONATED)).fetch())
    await asyncio.wait_for(issuer.asked.wait(), BOUND_S)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    await thread.rest()
    assert (issuer.under_way, issuer.calls) == (0, 1)
