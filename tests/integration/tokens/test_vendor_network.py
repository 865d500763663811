"""Requests of a vendor's library use the credential's own proxy and CA, and no other way."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from gatepass.clock import SystemClock
from gatepass.config.credential.kinds import AnyCredential
from gatepass.config.load import load
from gatepass.config.network import Network
from gatepass.http_client.tls import TLSContexts
from gatepass.proxy.app_state import create_app_state
from gatepass.tokens import TokenSource
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.source import build_source, transport_of
from tests.integration.scripted import Scripted, Send, reply
from tests.integration.tokens.cloud import ENTRA, GOOGLE, STS, Cloud, Wire
from tests.unit.tokens.keys import certificate_pem, private_pem
from tests.unit.tokens.vendor.accounts import SECRET, bedrock, entra, google, service_account, user

IMDS = "http://169.254.169.254/metadata/identity/oauth2/token"
GCE = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"
ROLE = "arn:aws:iam::123456789012:role/bedrock"
FROM_THE_ENVIRONMENT = ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "MSI_ENDPOINT", "GCE_METADATA_HOST", "CLOUDSDK_CONFIG")


@pytest.fixture(scope="module")
def hook() -> Wire:
    return Wire()


@pytest.fixture
def wire(hook: Wire) -> Iterator[Wire]:
    stop = hook.listen()
    yield hook
    stop()


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


def only_over(cloud: Cloud, wire: Wire) -> bool:
    """Return whether all connections led to the proxy, and from it to its servers, and no name was looked up."""
    ports = {port for host, port, *_ in wire.connected if host == "127.0.0.1"}
    return (
        0 < len(ports) == len({address[:2] for address in wire.connected})
        and ports <= cloud.ports
        and (set(wire.resolved) <= {"127.0.0.1", b"127.0.0.1"})
    )


OVER_TLS = {
    "secret": f"CONNECT {ENTRA}:443",
    "certificate": f"CONNECT {ENTRA}:443",
    "workload": f"CONNECT {ENTRA}:443",
    "service-account": f"CONNECT {GOOGLE}:443",
    "user": f"CONNECT {GOOGLE}:443",
    "web-identity": f"CONNECT {STS}:443",
}
IN_PLAIN = {"managed": f"GET {IMDS}", "metadata": f"GET {GCE}"}


async def test_a_request_past_the_proxy_would_be_noticed(cloud, wire):
    def past_everything(port: int) -> None:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()

    async with Scripted([Send(reply(b""))]) as elsewhere:
        await asyncio.to_thread(past_everything, int(elsewhere.url.rpartition(":")[2]))
        await elsewhere.left()
    assert not only_over(cloud, wire)


@pytest.mark.parametrize("name", [*OVER_TLS, *IN_PLAIN])
async def test_every_request_goes_through_the_hops_proxy_and_no_other_way(cloud, wire, named, name, monkeypatch):
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    async with token_source(named[name], **cloud.network) as source:
        tokens = [await source.fetch() for _ in range(2)]
    asked = OVER_TLS[name] if name in OVER_TLS else IN_PLAIN[name]
    assert cloud.asked == [asked] * 2, "each request has a connection of its own"
    assert len(cloud.received) == 2, "every fetch is one request, and none is answered from a cache"
    assert all(token.lifetime_s and token.lifetime_s <= 3_600 for token in tokens)
    assert only_over(cloud, wire)


@pytest.mark.parametrize("name", OVER_TLS)
async def test_without_the_hops_ca_no_secret_is_sent(cloud, wire, named, name):
    async with token_source(named[name], proxy=cloud.proxy) as source:
        with pytest.raises(FetchFailure, match=r"no secure connection to .*signed by a CA .*network.ca_file"):
            await source.fetch()
    assert cloud.asked == [OVER_TLS[name]]
    assert cloud.received == []
    assert only_over(cloud, wire)


@pytest.mark.parametrize("name", [*OVER_TLS, *IN_PLAIN])
async def test_a_proxy_that_is_down_is_not_gone_around(cloud, wire, named, name):
    async with Scripted([Send(reply(b""))]) as gone:
        port = int(gone.url.rpartition(":")[2])
    async with token_source(named[name], proxy=f"http://127.0.0.1:{port}", ca_file=cloud.ca_file) as source:
        with pytest.raises(FetchFailure, match="no connection to"):
            await source.fetch()
    assert {address[:2] for address in wire.connected} == {("127.0.0.1", port)}
    assert cloud.received == []


async def test_configured_network_is_used_by_vendor_libraries(cloud, wire, tmp_path):
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
    assert only_over(cloud, wire)
