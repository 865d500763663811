"""Clients that sign or show a certificate, and issuers that are found by their own document."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme

from gatepass.config.references import Reference
from tests.integration.answers import COMPLETION
from tests.integration.gateway import gateway
from tests.integration.scripted import Received, Scripted, Send, reply
from tests.integration.tokens.strict_issuer import StrictIssuer
from tests.unit.tokens.keys import private_pem, public_pem

GOOD = [Send(reply(COMPLETION))]
AUTHORITY = trustme.CA()
OTHERS = trustme.CA()


def corp(upstream: Scripted, **settings: Any) -> dict[str, Any]:
    login = {"type": "oauth2", "client_id": "me", **settings}
    return {"credentials": {"corp": login}, "upstreams": {"chat": {"base_url": upstream.url, "credential": "corp"}}}


async def served(upstream: Scripted, **settings: Any) -> tuple[int, str]:
    """Return the result of a chat: its status, and the error's message."""
    async with gateway(**corp(upstream, **settings)) as gp:
        answer = await gp.ask().answer()
    return answer.status, "" if answer.status == 200 else answer.error["message"]


@pytest.mark.parametrize(("kind", "algorithm"), [("rsa", "RS256"), ("rsa", "PS256"), ("p256", "ES256")])
async def test_a_signed_client_is_known_by_its_public_key(tmp_path: Path, kind: str, algorithm: str):
    url, seen = "", []

    def knows(_: Received, form: dict[str, str]) -> bool:
        claims = jwt.decode(
            form["client_assertion"], public_pem(kind), algorithms=[algorithm], audience=f"{url}/token", issuer="me"
        )
        seen.append(claims)
        return bool(form["client_id"] == claims["sub"] and 0 < claims["exp"] - time.time() <= 60)

    (tmp_path / "key.pem").write_text(private_pem(kind))
    async with Scripted(answer=StrictIssuer(knows)) as issuer, Scripted(GOOD) as upstream:
        url = issuer.url
        signing = {"client_auth": "private_key_jwt", "private_key": Reference.to_file(str(tmp_path / "key.pem"))}
        assert await served(upstream, token_url=f"{url}/token", algorithm=algorithm, **signing) == (200, "")
        assert upstream.received[0].header("authorization") == "Bearer access-token-1"
    assert len(seen) == 1


async def test_a_client_that_signs_with_another_key_is_refused(tmp_path: Path):
    def knows(_: Received, form: dict[str, str]) -> bool:
        try:
            jwt.decode(
                form["client_assertion"], public_pem("other-rsa"), algorithms=["RS256"], options={"verify_aud": False}
            )
        except jwt.InvalidSignatureError:
            return False
        return True

    (tmp_path / "key.pem").write_text(private_pem("rsa"))
    async with Scripted(answer=StrictIssuer(knows)) as issuer, Scripted(GOOD) as upstream:
        signing = {"client_auth": "private_key_jwt", "private_key": Reference.to_file(str(tmp_path / "key.pem"))}
        status, words = await served(upstream, token_url=issuer.url, **signing)
        assert upstream.received == []
    assert status == 503
    assert "invalid_client: refused" in words


@pytest.mark.parametrize(
    ("realm", "place"),
    [
        ("", "/.well-known/openid-configuration"),
        ("/realms/corp", "/realms/corp/.well-known/openid-configuration"),
        ("/realms/corp", "/.well-known/oauth-authorization-server/realms/corp"),
    ],
)
async def test_an_issuer_is_found_by_its_document(realm: str, place: str):
    strict = StrictIssuer(lambda request, _: request.target == "/deep/token")
    async with Scripted(answer=strict) as issuer, Scripted(GOOD) as upstream:
        name = f"{issuer.url}{realm}"
        strict.publish(place, {"issuer": name, "token_endpoint": f"{issuer.url}/deep/token"})
        assert await served(upstream, issuer=name, client_secret="s3cr3t-of-the-client") == (200, "")
        asked = [f"{request.method} {request.target}" for request in issuer.received]
    assert asked[-2:] == [f"GET {place}", "POST /deep/token"]


async def test_a_document_of_another_issuer_gets_no_secret():
    strict = StrictIssuer()
    async with Scripted(answer=strict) as issuer, Scripted(GOOD) as upstream:
        strict.publish(
            "/.well-known/openid-configuration", {"issuer": "https://x", "token_endpoint": f"{issuer.url}/t"}
        )
        status, words = await served(upstream, issuer=issuer.url, client_secret="s3cr3t-of-the-client")
        assert {request.method for request in issuer.received} == {"GET"}
        assert all("s3cr3t" not in str(request.headers) for request in issuer.received)
    assert status == 503
    assert "names another issuer, https://x" in words


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """The settings of `network` that trust the issuer and show a certificate to it."""
    leaf = AUTHORITY.issue_cert("client.example")
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    names = {"ca_file": "ca", "client_cert": "cert", "client_key": "key"}
    return {setting: str(tmp_path / f"{name}.pem") for setting, name in names.items()}


def wants_certificates(of: trustme.CA | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    if of is not None:
        of.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_a_client_is_known_by_its_certificate(files: dict[str, str]):
    strict = StrictIssuer(lambda request, form: form["client_id"] == "me" and request.header("authorization") is None)
    async with Scripted(answer=strict, tls=wants_certificates(AUTHORITY)) as issuer, Scripted(GOOD) as upstream:
        certified = {"client_auth": "tls_client_auth", "network": files}
        assert await served(upstream, token_url=f"{issuer.url}/token", **certified) == (200, "")
        assert [request.target for request in issuer.received] == ["/token"]


async def test_a_certificate_that_the_issuer_does_not_trust_is_a_fault_of_tls(
    files: dict[str, str], logged_errors: list[str]
):
    async with Scripted(answer=StrictIssuer(), tls=wants_certificates(OTHERS)) as issuer, Scripted(GOOD) as upstream:
        status, words = await served(upstream, token_url=issuer.url, client_auth="mtls", network=files)
        assert (issuer.received, upstream.received) == ([], [])
    assert status == 503
    assert "no token for credential corp" in words
    logged_errors.clear()  # the scripted server's own loop reports the handshake


async def test_certificates_go_to_the_endpoint_that_the_document_has_for_them(files: dict[str, str]):
    strict = StrictIssuer()
    async with (
        Scripted(answer=strict, tls=wants_certificates(None)) as front,
        Scripted(answer=StrictIssuer(), tls=wants_certificates(AUTHORITY)) as certified,
        Scripted(GOOD) as upstream,
    ):
        document = {
            "issuer": front.url,
            "token_endpoint": f"{front.url}/token",
            "mtls_endpoint_aliases": {"token_endpoint": f"{certified.url}/token"},
        }
        strict.publish("/.well-known/openid-configuration", document)
        assert await served(upstream, issuer=front.url, client_auth="mtls", network=files) == (200, "")
        assert [request.method for request in front.received] == ["GET"]
        assert [request.method for request in certified.received] == ["POST"]
