"""Requests of a vendor's library use the credential's own proxy and CA, and no other way."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gatepass.clock import SystemClock
from gatepass.config.credential.kinds import AnyCredential
from gatepass.config.load import load
from gatepass.config.network import Network
from gatepass.http_client.tls import TLSContexts
from gatepass.proxy.app_state import create_app_state
from gatepass.tokens import TokenSource
from gatepass.tokens.source import build_source, transport_of
from tests.integration.tokens.cloud import ENTRA, GOOGLE, STS, Cloud
from tests.unit.tokens.keys import certificate_pem, private_pem
from tests.unit.tokens.vendor.accounts import SECRET, bedrock, entra, google, service_account, user

IMDS = "http://169.254.169.254/metadata/identity/oauth2/token"
GCE = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"
ROLE = "arn:aws:iam::123456789012:role/bedrock"
FROM_THE_ENVIRONMENT = ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "MSI_ENDPOINT", "GCE_METADATA_HOST", "CLOUDSDK_CONFIG")


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch, tmp_path):
    for name in (*FROM_THE_ENVIRONMENT, "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_AUTHORITY_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
async def cloud(tmp_path) -> AsyncIterator[Cloud]:
    async with Cloud(tmp_path) as here:
        yield here


@pytest.fixture
def named(tmp_path) -> dict[str, AnyCredential]:
    """Credentials by name, whose files are in a folder of this test."""
    certificate, projected = tmp_path / "app.pem", tmp_path / "projected"
    account, person = tmp_path / "account.json", tmp_path / "user.json"
    certificate.write_text(private_pem("rsa") + certificate_pem("rsa"))
    projected.write_text("projected-token-of-the-pod")
    account.write_text(json.dumps(service_account()))
    person.write_text(json.dumps(user()))

    return {
        "secret": entra(client_secret=SECRET),
        "certificate": entra(certificate_file=str(certificate)),
        "workload": entra(federated_token_file=str(projected)),
        "managed": entra(managed_identity=True, allow_plain_http=True),
        "service-account": google(credentials_file=str(account)),
        "user": google(credentials_file=str(person)),
        "metadata": google(allow_plain_http=True),
        "web-identity": bedrock(role_arn=ROLE, web_identity_token_file=str(projected)),
    }


@asynccontextmanager
async def token_source(settings: AnyCredential, **network: str) -> AsyncIterator[TokenSource]:
    own = settings.model_copy(update={"network": Network.model_validate(network)})
    yield build_source("corp", own, transport_of(own, TLSContexts()), SystemClock())


OVER_TLS = {
    "secret": f"CONNECT {ENTRA}:443",
    "certificate": f"CONNECT {ENTRA}:443",
    "workload": f"CONNECT {ENTRA}:443",
    "service-account": f"CONNECT {GOOGLE}:443",
    "user": f"CONNECT {GOOGLE}:443",
    "web-identity": f"CONNECT {STS}:443",
}
IN_PLAIN = {"managed": f"GET {IMDS}", "metadata": f"GET {GCE}"}


@pytest.mark.parametrize("name", [*OVER_TLS, *IN_PLAIN])
async def test_every_request_goes_through_the_hops_proxy_and_no_other_way(cloud, named, name, monkeypatch):
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    async with token_source(named[name], **cloud.network) as source:
        tokens = [await source.fetch() for _ in range(2)]
    asked = OVER_TLS[name] if name in OVER_TLS else IN_PLAIN[name]
    assert cloud.asked == [asked] * 2, "each request has a connection of its own"
    assert len(cloud.received) == 2, "every fetch is one request, and none is answered from a cache"
    assert all(token.lifetime_s and token.lifetime_s <= 3_600 for token in tokens)


async def test_configured_network_is_used_by_vendor_libraries(cloud, tmp_path):
    credential = {"type": "entra", "tenant_id": "t", "client_id": "c", "client_secret": "${PROOF}"}
    document = {
        "credentials": {"azure": {**credential, "network": cloud.network}},
        "upstreams": {"chat": {"base_url": "https://llm.example/v1", "credential": "azure"}},
    }
    path = tmp_path / "gatepass.json"
    path.write_text(json.dumps(document))
    gp = create_app_state(load(str(path), {"PROOF": SECRET}).config)
    gp.start()
    try:
        assert (await gp.holders["azure"].token()).text == "token-1"
    finally:
        await gp.aclose()
    assert cloud.asked == [f"CONNECT {ENTRA}:443"]
    assert f"client_secret={SECRET}".encode() in cloud.received[0].body
