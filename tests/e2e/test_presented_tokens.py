"""Credentials without a secret at oidc-provider: an assertion in a file, jwt-bearer, and token exchange.

oidc-provider validates each assertion of the client, and jose each presented token. The issuer is also the upstream.
One gatepass has four credentials, and each model name selects one of them.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.e2e.servers import HERE, KEY, RESOURCE, SCOPE, ask, get_json, listening, node, serve

LIFE_S = 3
RECOVERY_S = 4.0
CREDENTIALS = ("file", "signed", "bearer", "exchange")


@dataclass
class Stage:
    """The issuer, the gatepass in front of it, and the program that rotates the assertion of the client."""

    issuer: str
    folder: Path
    url: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    """Claims that replace those of a valid assertion."""
    turn: threading.Lock = field(default_factory=threading.Lock)
    """The test and its thread rotate in turn, so that an older assertion never replaces a newer one."""

    @property
    def file(self) -> Path:
        return self.folder / "assertion"

    def rotate(self) -> None:
        """Replace the assertion as the kubelet does: no reader sees a part of it."""
        with self.turn:
            self._write()

    def _write(self) -> None:
        now_s = int(time.time())
        valid = {"iss": "workload", "sub": "workload", "aud": self.issuer, "nbf": now_s, "exp": now_s + 60}
        following = self.folder / "following"
        key = (self.folder / "key.pem").read_text()
        following.write_text(jwt.encode(valid | {"jti": str(time.time_ns())} | self.claims, key, algorithm="ES256"))
        following.replace(self.file)

    def chat(self, model: str) -> tuple[int, dict[str, Any]]:
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
        status, answer = ask(f"{self.url}/v1/chat/completions", body, authorization=f"Bearer {KEY}")
        return status, json.loads(answer)

    def until(self, model: str, status: int, within_s: float) -> dict[str, Any]:
        """Send requests until one has `status`; return its body. Fail after `within_s`."""
        by_s = time.monotonic() + within_s
        while (found := self.chat(model))[0] != status:
            assert time.monotonic() < by_s, found
            time.sleep(0.05)
        return found[1]


def credentials(issuer: str, folder: Path) -> dict[str, Any]:
    file = {
        "type": "oauth2",
        "token_url": f"{issuer}/token",
        "client_id": "workload",
        "client_auth": "assertion_file",
        "assertion_file": str(folder / "assertion"),
        "scope": SCOPE,
    }
    signed = {"subject": "svc-llm", "private_key": f"${{file:{folder}/key.pem}}"}
    exchanged = {
        "subject_file": str(folder / "subject"),
        "audience": "models",
        "extra": {"requested_token_type": "urn:ietf:params:oauth:token-type:jwt", "resource": RESOURCE},
    }
    return {
        "file": {**file, "extra": {"resource": RESOURCE}},
        "signed": {**file, "grant_type": "jwt_bearer", **signed},
        "bearer": {**file, "grant_type": "jwt_bearer", "subject_file": str(folder / "subject")},
        "exchange": {**file, "grant_type": "token_exchange", **exchanged},
    }


@contextmanager
def gatepass_in_front(stage: Stage) -> Iterator[str]:
    upstreams = {name: {"base_url": f"{stage.issuer}/v1", "credential": name} for name in CREDENTIALS}
    config = stage.folder / "gatepass.json"
    config.write_text(
        json.dumps(
            {
                "credentials": credentials(stage.issuer, stage.folder),
                "upstreams": upstreams,
                "models": {name: {"upstream": name} for name in CREDENTIALS},
                "access": {"keys": [{"name": "e2e", "key": "${E2E_CLIENT_KEY}"}]},
            }
        )
    )
    with serve(config, python=sys.executable, E2E_CLIENT_KEY=KEY) as process:
        yield listening(process)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("presented")
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(pem)
    environment = {
        "KEY_FILE": str(folder / "key.pem"),
        "RESOURCE": RESOURCE,
        "SCOPE": SCOPE,
        "TOKEN_LIFE_S": str(LIFE_S),
    }
    with node("issuer", HERE / "issuer" / "federated.mjs", environment) as process:
        made = Stage(listening(process), folder)
        subject = {"iss": "workload", "sub": "svc-llm", "aud": f"{made.issuer}/token", "exp": time.time() + 600}
        (folder / "subject").write_text(jwt.encode(subject, pem, algorithm="ES256"))
        made.rotate()
        ended = threading.Event()

        def rotate() -> None:
            while not ended.wait(0.5):
                made.rotate()

        rotating = threading.Thread(target=rotate)
        rotating.start()
        try:
            with gatepass_in_front(made) as made.url:
                yield made
        finally:
            ended.set()
            rotating.join()


def test_each_grant_is_valid_for_the_libraries_of_the_issuer(stage: Stage):
    for name in CREDENTIALS:
        stage.until(name, 200, RECOVERY_S)
    count = get_json(f"{stage.issuer}/count")
    assertion = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    assert {one["type"] for one in count["granted"]} == {assertion}
    assert {one["grant"] for one in count["granted"]} == {"client_credentials", "jwt-bearer", "token-exchange"}
    exchanged = next(one for one in count["granted"] if one["grant"] == "token-exchange")
    assert exchanged["resource"] == RESOURCE
    assert count["served"] == {"workload": 1, "svc-llm": 3}


def test_a_wrong_audience_names_its_hop_and_its_repair_takes_effect_within_4_s(stage: Stage):
    for name in CREDENTIALS:
        stage.until(name, 200, RECOVERY_S)
    stage.claims = {"aud": "https://other.example"}
    stage.rotate()
    error = stage.until("file", 503, 3 * LIFE_S)["error"]
    exchange = stage.until("exchange", 503, 3 * LIFE_S)["error"]
    assert (error["hop"], error["code"]) == ("credential:file", "token_unavailable")
    for words in ("invalid_client", f"the token in {stage.file} has the audience https://other.example"):
        assert words in error["message"]
    stage.claims = {}
    stage.rotate()
    began_s = time.monotonic()
    for name in CREDENTIALS:
        stage.until(name, 200, RECOVERY_S - (time.monotonic() - began_s))
    print(f"\nrecovered after {time.monotonic() - began_s:.2f} s; {error['message']}")
    assert exchange["hop"] == "credential:exchange"
