"""All client authentication methods at real issuers: Django OAuth Toolkit, and oidc-provider over TLS.

Each issuer is also the upstream and accepts only a token that is valid at that moment. If no request fails, each token
arrived in time. The ledger contains the number of token calls.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.e2e.process import Process
from tests.e2e.servers import HERE, KEY, READY_S, REPLY_S, ROOT, installed, listening, node

LIFE_S = 5
LOAD_S = 4 * LIFE_S
PAUSE_S = 0.1
"""Pause between two requests."""
CLIENT_ID, CLIENT_SECRET = "gatepass", "a secret: 100 % + more & more"
USER, PASSWORD = "bot", "pass word + 100 %"
RESOURCE, SCOPE = "urn:e2e:models", "chat"


@dataclass(frozen=True, slots=True)
class Ledger:
    """The counts of an issuer that is also the upstream. `tokens`: the number of requests of each token."""

    calls: list[dict[str, Any]]
    refused: list[str]
    tokens: list[int]

    @property
    def grants(self) -> Counter[str]:
        assert {call["status"] for call in self.calls} == {200}
        return Counter(call["grant"] for call in self.calls)


def ledger_of(url: str, trust: ssl.SSLContext | None = None) -> Ledger:
    with urllib.request.urlopen(f"{url}/count", timeout=REPLY_S, context=trust) as reply:  # noqa: S310 - loopback
        return Ledger(**json.load(reply))


@contextmanager
def gatepass_with(folder: Path, url: str, credential: Mapping[str, Any], network: Mapping[str, Any]) -> Iterator[str]:
    """Start gatepass for `url` in the development environment, which has the extra `crypto` for signing.

    It has a token: a slow first answer of the issuer leaves nothing of a life of five seconds.
    """
    config = folder / "gatepass.json"
    upstream = {"base_url": f"{url}/v1", "credential": "corp", "network": network}
    config.write_text(
        json.dumps(
            {
                "credentials": {
                    "corp": {"type": "oauth2", **credential, "network": {**network, **credential["network"]}}
                },
                "upstreams": {"up": upstream},
                "models": {"*": {"upstream": "up"}},
                "access": {"keys": [{"name": "e2e", "key": "${E2E_CLIENT_KEY}"}]},
            }
        )
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEPASS_")}
    with Process(
        [sys.executable, "-m", "gatepass", "serve", "--config", config, "--port", "0"],
        environment=inherited | {"PYTHONPATH": str(ROOT / "src"), "E2E_CLIENT_KEY": KEY},
    ) as process:
        served = listening(process)
        until_s = time.monotonic() + READY_S
        while not is_ready(served):
            assert time.monotonic() < until_s, "gatepass got no token"
            time.sleep(PAUSE_S)
        yield served


def is_ready(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/readyz", timeout=REPLY_S).close()  # noqa: S310 - loopback
    except urllib.error.HTTPError:
        return False
    return True


def send_requests(url: str, for_s: float) -> list[int]:
    """Send requests one after the other for `for_s` seconds and return their statuses."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    fields = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    statuses, end_s = [], time.monotonic() + for_s
    while time.monotonic() < end_s:
        request = urllib.request.Request(f"{url}/v1/chat/completions", body, fields)  # noqa: S310 - loopback
        try:
            with urllib.request.urlopen(request, timeout=REPLY_S) as reply:  # noqa: S310 - loopback
                statuses.append(reply.status)
        except urllib.error.HTTPError as error:
            with error:
                statuses.append(error.code)
        time.sleep(PAUSE_S)
    return statuses


def assert_no_failed_request(title: str, statuses: list[int], ledger: Ledger, most_refused: int = 0) -> None:
    """`most_refused`: how many requests may be refused, because the issuer revokes the old token with each new one."""
    print(
        f"\n{title}: {len(statuses)} requests, {len(statuses) - statuses.count(200)} failed, "
        f"{len(ledger.refused)} refused; {dict(ledger.grants)} token calls, {len(ledger.tokens)} tokens used"
    )
    assert set(statuses) == {200}
    assert ledger.refused == ["unknown"] * len(ledger.refused), "a token was sent past its end"
    assert len(ledger.refused) <= most_refused
    lives = LOAD_S / LIFE_S
    assert lives <= len(ledger.calls) <= LOAD_S / (0.6 * LIFE_S) + 2
    assert len(ledger.tokens) >= lives - 1


@pytest.fixture
def django() -> Iterator[str]:
    environment = {
        "TOKEN_LIFE_S": str(LIFE_S),
        "CLIENT_ID": CLIENT_ID,
        "CLIENT_SECRET": CLIENT_SECRET,
        "USER_NAME": USER,
        "USER_PASSWORD": PASSWORD,
    }
    python = installed("python-django") / "bin" / "python"
    with Process([python, HERE / "django" / "server.py"], environment=os.environ | environment) as process:
        yield listening(process)


def django_credential(url: str, client_id: str, **more: Any) -> dict[str, Any]:
    settings = {"token_url": f"{url}/o/token/", "client_id": client_id, "client_secret": CLIENT_SECRET, "scope": SCOPE}
    return {**settings, "network": {}, **more}


@pytest.mark.parametrize("client_auth", ["client_secret_basic", "client_secret_post"])
def test_django_client_credentials(django: str, tmp_path: Path, client_auth: str):
    credential = django_credential(django, CLIENT_ID, client_auth=client_auth)
    with gatepass_with(tmp_path, django, credential, {}) as url:
        statuses = send_requests(url, LOAD_S)
    ledger = ledger_of(django)
    assert_no_failed_request(f"Django, {client_auth}", statuses, ledger)
    assert set(ledger.grants) == {"client_credentials"}


def test_django_password_once_and_then_rotating_refresh_tokens(django: str, tmp_path: Path):
    """Django deletes the old access token in the same call that grants the new one (`RefreshToken.revoke`).

    A request with the old token at that moment is refused, because gatepass delays no request while a token is valid.
    gatepass replays it once. There is one request at a time, so at most one refusal for each rotation.
    """
    refresh_token_file = tmp_path / "refresh-token"
    credential = django_credential(
        django,
        f"{CLIENT_ID}-login",
        grant_type="password",
        username=USER,
        password=PASSWORD,
        refresh_token_file=str(refresh_token_file),
    )
    with gatepass_with(tmp_path, django, credential, {}) as url:
        first = send_requests(url, LOAD_S / 2)
    with gatepass_with(tmp_path, django, credential, {}) as url:
        second = send_requests(url, LOAD_S / 2)
    ledger = ledger_of(django)
    rotations = ledger.grants["refresh_token"]
    assert_no_failed_request("Django, password with rotation over a restart", first + second, ledger, rotations)
    assert ledger.grants["password"] == 1, "the refresh token was kept over the restart"
    assert refresh_token_file.stat().st_mode & 0o777 == 0o600


@dataclass(frozen=True, slots=True)
class Strict:
    url: str
    folder: Path

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "ca.pem"))


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strict]:
    folder = tmp_path_factory.mktemp("strict")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, certificate in (
        ("server", authority.issue_cert("127.0.0.1")),
        ("client", authority.issue_cert("gatepass.example")),
    ):
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    keys: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {
        "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ec": ec.generate_private_key(ec.SECP256R1()),
    }
    for name, key in keys.items():
        (folder / f"{name}.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    environment = {"FOLDER": str(folder), "RESOURCE": RESOURCE, "SCOPE": SCOPE, "TOKEN_LIFE_S": str(LIFE_S)}
    with node("issuer", HERE / "issuer" / "strict.mjs", environment) as process:
        yield Strict(listening(process), folder)


def ledger_since(strict: Strict, before: Ledger) -> Ledger:
    after = ledger_of(strict.url, strict.trust)
    tokens = after.tokens[len(before.tokens) :]
    return Ledger(after.calls[len(before.calls) :], after.refused[len(before.refused) :], tokens)


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256"])
def test_oidc_provider_private_key_jwt(strict: Strict, tmp_path: Path, algorithm: str):
    credential = {
        "issuer": strict.url,
        "client_id": f"signer-{algorithm}",
        "client_auth": "private_key_jwt",
        "private_key": f"${{file:{strict.folder}/{'ec.pem' if algorithm == 'ES256' else 'rsa.pem'}}}",
        "algorithm": algorithm,
        "scope": SCOPE,
        "resource": RESOURCE,
        "network": {},
    }
    before = ledger_of(strict.url, strict.trust)
    with gatepass_with(tmp_path, strict.url, credential, {"ca_file": str(strict.folder / "ca.pem")}) as url:
        statuses = send_requests(url, LOAD_S)
    assert_no_failed_request(f"oidc-provider, private_key_jwt {algorithm}", statuses, ledger_since(strict, before))


def test_oidc_provider_mutual_tls(strict: Strict, tmp_path: Path):
    certificate = {"client_cert": str(strict.folder / "client.pem"), "client_key": str(strict.folder / "client.key")}
    credential = {
        "issuer": strict.url,
        "client_id": "mutual",
        "client_auth": "tls_client_auth",
        "scope": SCOPE,
        "resource": RESOURCE,
        "network": certificate,
    }
    before = ledger_of(strict.url, strict.trust)
    with gatepass_with(tmp_path, strict.url, credential, {"ca_file": str(strict.folder / "ca.pem")}) as url:
        statuses = send_requests(url, LOAD_S)
    assert_no_failed_request("oidc-provider, mutual TLS", statuses, ledger_since(strict, before))
