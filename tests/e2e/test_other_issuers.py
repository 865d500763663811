"""All client authentication methods at real issuers: Django OAuth Toolkit, and oidc-provider over TLS.

Each issuer is also the upstream and accepts only a token that is valid at that moment. If no request fails, each token
arrived in time. One gatepass has all credentials. It is restarted once, so that a refresh token must outlive it.
"""

import json
import os
import ssl
import sys
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.e2e.process import Process
from tests.e2e.servers import HERE, READY_S, REPLY_S, ask, installed, listening, node, serve
from tests.waiting import block_until

LIFE_S = 5
LOAD_S = 3 * LIFE_S
PAUSE_S = 0.15
"""Pause between two requests of a client."""
CLIENT_SECRET = "a secret: 100 % + more & more"
USER, PASSWORD = "bot", "pass word + 100 %"
RESOURCE, SCOPE = "urn:e2e:models", "chat"
EXAMPLE = HERE.parents[1] / "examples/refresh_token.py"
OF_DJANGO = ("basic", "post", "login")
OF_STRICT = ("RS256", "ES256", "mutual")


@dataclass(frozen=True, slots=True)
class Setup:
    """What the issuers counted by client, and the statuses that each client got."""

    ledgers: dict[str, Any]
    statuses: dict[str, list[int]] = field(default_factory=dict)
    refresh_token: Path = Path()

    def calls(self, client: str) -> Counter[str]:
        return Counter(call["grant"] for call in self._of(client)["calls"] if call["client"] == client)

    def tokens(self, client: str) -> int:
        used: int = self._of(client)["tokens"].get(client, 0)
        return used

    def refused(self, client: str) -> list[str]:
        found: list[str] = self._of(client)["refused"]
        return found

    def _of(self, client: str) -> Any:
        return self.ledgers["django" if client in OF_DJANGO else "strict"]


def keys_in(folder: Path) -> ssl.SSLContext:
    """Write the certificates and the keys of the clients, and return the trust in the issuer."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, host in (("server", "127.0.0.1"), ("client", "gatepass.example")):
        certificate = authority.issue_cert(host)
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    keys: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {
        "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ec": ec.generate_private_key(ec.SECP256R1()),
    }
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    for name, key in keys.items():
        (folder / f"{name}.pem").write_bytes(key.private_bytes(*form))
    return ssl.create_default_context(cafile=str(folder / "ca.pem"))


def configuration(django: str, strict: str, folder: Path) -> dict[str, Any]:
    of_django = {"type": "oauth2", "token_url": f"{django}/o/token/", "client_secret": CLIENT_SECRET, "scope": SCOPE}
    trust = {"ca_file": str(folder / "ca.pem")}
    of_strict = {
        "type": "oauth2",
        "token_url": f"{strict}/token",
        "issuer": strict,
        "scope": SCOPE,
        "extra": {"resource": RESOURCE},
        "network": trust,
    }
    program = [sys.executable, str(EXAMPLE), str(folder / "refresh-token"), f"{django}/o/token/"]
    login = {"command": program, "env": {"CLIENT_ID": "login", "CLIENT_SECRET": CLIENT_SECRET}}
    certificate = {"client_cert": str(folder / "client.pem"), "client_key": str(folder / "client.key")}
    credentials: dict[str, dict[str, Any]] = {
        "basic": {**of_django, "client_auth": "basic", "client_id": "basic"},
        "post": {**of_django, "client_auth": "form", "client_id": "post"},
        "login": {"type": "exec", **login},
        "mutual": {
            **of_strict,
            "client_auth": "mtls",
            "client_id": "mutual",
            "network": {**trust, **certificate},
        },
    }
    for algorithm, kind in (("RS256", "rsa"), ("ES256", "ec")):
        key = f"${{file:{folder}/{kind}.pem}}"
        signed = {"client_auth": "private_key_jwt", "private_key": key, "client_id": algorithm}
        credentials[algorithm] = {**of_strict, **signed}
    upstreams: dict[str, dict[str, Any]] = {
        name: {"base_url": f"{django}/v1"} if name in OF_DJANGO else {"base_url": f"{strict}/v1", "network": trust}
        for name in credentials
    }
    return {
        "credentials": credentials,
        "upstreams": {name: {**one, "credential": name} for name, one in upstreams.items()},
        "models": {name: {"upstream": name} for name in credentials},
    }


def sign_in(django: str, file: Path) -> None:
    """Write the refresh token of a login with a password into `file`, as a person would once."""
    client = {"client_id": "login", "client_secret": CLIENT_SECRET, "scope": SCOPE}
    form = {"grant_type": "password", "username": USER, "password": PASSWORD, **client}
    body = urllib.parse.urlencode(form).encode()
    with urllib.request.urlopen(f"{django}/o/token/", body, timeout=REPLY_S) as reply:  # noqa: S310 - loopback
        file.write_text(json.load(reply)["refresh_token"])


@contextmanager
def gatepass_with(config: Path) -> Iterator[str]:
    """Start gatepass in the development environment, which has the extra `crypto` for signing.

    It has its tokens: a slow first answer of an issuer leaves nothing of a life of five seconds.
    """
    with serve(config, python=sys.executable) as process:
        served = listening(process)
        block_until(lambda: ask(f"{served}/readyz")[0] == 200, READY_S)
        yield served


def send_requests(url: str, client: str) -> list[int]:
    """Send requests one after the other for half of LOAD_S and return their statuses."""
    body = {"model": client, "messages": [{"role": "user", "content": "Hi"}]}
    statuses, end_s = [], time.monotonic() + LOAD_S / 2
    while time.monotonic() < end_s:
        statuses.append(ask(f"{url}/v1/chat/completions", body)[0])
        time.sleep(PAUSE_S)
    return statuses


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    folder = tmp_path_factory.mktemp("issuers")
    trust = keys_in(folder)
    of_django = {"CLIENT_SECRET": CLIENT_SECRET, "USER_NAME": USER, "USER_PASSWORD": PASSWORD}
    of_strict = {"FOLDER": str(folder), "RESOURCE": RESOURCE, "SCOPE": SCOPE}
    life = {"TOKEN_LIFE_S": str(LIFE_S)}
    with ExitStack() as started:
        python = installed("python-django") / "bin" / "python"
        command = [python, HERE / "django" / "server.py"]
        django = started.enter_context(Process(command, environment=os.environ | of_django | life))
        strict = started.enter_context(node("issuer", HERE / "issuer" / "strict.mjs", of_strict | life))
        urls = {"django": listening(django), "strict": listening(strict)}
        config = folder / "gatepass.json"
        sign_in(urls["django"], folder / "refresh-token")
        config.write_text(json.dumps(configuration(urls["django"], urls["strict"], folder)))
        clients = (*OF_DJANGO, *OF_STRICT)
        found = Setup({}, {client: [] for client in clients}, folder / "refresh-token")
        for _ in range(2):
            with gatepass_with(config) as url, ThreadPoolExecutor(len(clients)) as pool:
                for client, statuses in zip(
                    clients, pool.map(lambda one: send_requests(url, one), clients), strict=True
                ):
                    found.statuses[client] += statuses
        for name, url in urls.items():
            with urllib.request.urlopen(f"{url}/count", timeout=REPLY_S, context=trust) as reply:  # noqa: S310 - loopback
                found.ledgers[name] = json.load(reply)
        yield found


@pytest.mark.parametrize("client", [*OF_DJANGO, *OF_STRICT])
def test_no_request_fails_over_token_lives_and_a_restart(setup: Setup, client: str):
    """Django deletes the old access token in the call that grants a new one by a refresh token (`RefreshToken.revoke`).

    A request with the old token at that moment is refused, because gatepass delays no request while a token is valid.
    gatepass replays it once. There is one request at a time, so at most one refusal for each rotation.
    """
    calls, refused = setup.calls(client), setup.refused(client)
    print(f"\n{client}: {len(setup.statuses[client])} requests, {dict(calls)} token calls, {setup.tokens(client)} used")
    assert set(setup.statuses[client]) == {200}
    assert refused == ["unknown"] * len(refused), "a token was sent past its end"
    assert len(refused) <= (setup.calls("login")["refresh_token"] if client in OF_DJANGO else 0)
    lives = LOAD_S / LIFE_S
    assert lives <= calls.total() <= LOAD_S / (0.6 * LIFE_S) + 3
    assert setup.tokens(client) >= lives - 1


def test_the_program_of_the_example_keeps_the_refresh_token_over_a_restart(setup: Setup):
    assert setup.calls("login")["password"] == 1
    assert setup.calls("login")["refresh_token"] > 1
    assert {client: {*setup.calls(client)} for client in ("basic", "post")} == {
        "basic": {"client_credentials"},
        "post": {"client_credentials"},
    }
    assert setup.refresh_token.stat().st_mode & 0o777 == 0o600
